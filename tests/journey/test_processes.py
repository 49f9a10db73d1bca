"""The verbs on two processes, as torchrun starts them: same numbers, one writer. And a run that a signal stops."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cyclemimic.store.atomic import sha256_file
from cyclemimic.train.checkpoint import steps_of_checkpoints
from cyclemimic.train.endings import RunInterruptedError
from cyclemimic.train.loop import CHECKPOINTS, FINAL_STATE, read_metrics
from tests.journey.conftest import RECIPE
from tests.journey.small import BODIES, STEPS, hashes
from tests.journey.starter import SIGNAL_IN_STEP

REPOSITORY = Path(__file__).parents[2]
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--")
PACE = {"cpu_ms_per_sample", "samples_per_s", "data_wait_share"}


def started(*words, launcher=(), **more):
    """What became of `starter` in a program of its own."""
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{REPOSITORY}/src:{REPOSITORY}", "CYCLEMIMIC_TIMEOUT_S": "30"}
    return subprocess.run(
        [sys.executable, *(launcher or ("-m",)), "tests.journey.starter", *map(str, words)],
        cwd=REPOSITORY,
        env={**os.environ, **own, **more},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def pretraining(labelled, run):
    source = ("--source", labelled.video, "--labels", labelled / "labels")
    return ("pretrain", *source, "--run", run, *RECIPE, *labelled.cache)


@pytest.fixture(scope="module")
def two(journey):
    """Four verbs on two processes, in `two/`; each also lies in the journey, made by one."""
    at = journey / "two"
    label = ("--source", journey.video, "--tokenizer", journey / "ac3", "--out", at / "labels", *journey.cache)
    tokenizer = ("--source", journey.video, "--run", at / "trunk", "--objective", "trunk", *RECIPE, *journey.cache)
    finetune = ("--source", journey.demonstrations, "--run", at / "policy-full", "--body", BODIES[0], "--per-skill", 3)
    begin = ("--labels", journey / "demonstration-labels", "--init", journey / "pretrained", "--adaptation", "full")
    verbs = [
        ("label", *label),
        ("tokenizer", *tokenizer),
        pretraining(journey, at / "pretrained"),
        ("finetune", *finetune, *begin, *RECIPE),
    ]
    words = [word for verb in verbs for word in (*verb, "--then")]
    done = started(*words[:-1], launcher=TWO)
    assert done.returncode == 0, done.stderr[-3000:]
    return at, done


def test_labels_are_equal_byte_for_byte(two, journey):
    assert len(hashes(journey / "labels")) > 3
    assert hashes(two[0] / "labels") == hashes(journey / "labels")


@pytest.mark.parametrize(
    ("run", "figures"),
    [
        ("trunk", ("reconstruction", "commitment")),
        ("pretrained", ("latent_nll", "readout_nll", "hindsight_nll")),
        ("policy-full", ("latent_nll", "action_l1", "hindsight_l1")),
    ],
)
def test_training_gives_the_same_numbers(two, journey, run, figures):
    (one,), (other,) = read_metrics(journey / run), read_metrics(two[0] / run)
    assert one["step"] == other["step"] == STEPS
    assert one.keys() - PACE == other.keys() - PACE
    for name in figures:  # means over all steps, float32
        assert other[name] == pytest.approx(one[name], abs=1e-3), name


def test_one_process_writes_and_speaks(two, journey):
    at, done = two
    assert [line for line in done.stdout.splitlines() if line.startswith("pre-trained policy")] == [
        f"pre-trained policy in {at / 'pretrained'}"
    ]
    assert len(re.findall(rf"\[pretrained\] {STEPS}/{STEPS}", done.stderr)) == 1
    assert {p.name for p in at.glob("*/tensorboard/events*") if p.name} and all(
        len(list(at.glob(f"{run}/tensorboard/events*"))) == 1 for run in ("trunk", "pretrained", "policy-full")
    )
    for run in ("trunk", "pretrained", "policy-full"):
        assert hashes(at / run).keys() == hashes(journey / run).keys() - {"rollouts.json"}, run


def test_a_signal_stops_behind_a_step_and_the_same_command_goes_on(journey, tmp_path):
    words = pretraining(journey, tmp_path / "run")
    done = started(*words, **{SIGNAL_IN_STEP: f"{int(signal.SIGTERM)} 4"})
    assert done.returncode == RunInterruptedError.exit_code == 75, done.stderr[-2000:]
    assert "run: stopped by SIGTERM at step 5; the same command goes on" in done.stderr
    assert "Traceback" not in done.stderr
    assert steps_of_checkpoints(tmp_path / "run" / CHECKPOINTS) == [5]
    assert not (tmp_path / "run/model.safetensors").exists()
    journey.run(*words)
    for name in (FINAL_STATE, "model.safetensors"):
        assert sha256_file(tmp_path / "run" / name) == sha256_file(journey / "pretrained" / name)
