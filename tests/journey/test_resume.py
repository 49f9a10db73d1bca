"""Killed at any moment and started again with the same command, a run goes on and ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cyclemimic.data.video import read_video, write_video
from cyclemimic.store.atomic import sha256_file
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.store.label_store import LabelStore
from cyclemimic.train.loop import METRICS_FILE, read_metrics
from cyclemimic.train.record import ALARMS_FILE
from tests.journey.conftest import RECIPE
from tests.journey.killer import JOBS, STAGES
from tests.journey.small import BODIES, CHECKPOINT_EVERY, SKILLS, STEPS, hashes

REPOSITORY = Path(__file__).parents[2]
PACE = ("cpu_ms_per_sample", "samples_per_s", "data_wait_share")
HANDED_ON = {"tokenizer": "tokenizer.safetensors", "pretrain": "model.safetensors", "finetune": "model.safetensors"}


@pytest.fixture(scope="module")
def killed(labelled):
    """What became of every job; `unbroken/JOB` and `killed/JOB` lie beside each other."""
    plan = labelled / "plan.json"
    plan.write_text(json.dumps({"root": str(labelled.root), "seed": 7, "jobs": list(JOBS)}))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{REPOSITORY}/src:{REPOSITORY}"}
    subprocess.run(
        [sys.executable, "-m", "tests.journey.killer", str(plan)], cwd=REPOSITORY, env=environment, check=True
    )
    return json.loads(plan.with_suffix(".done").read_text())


def sides(labelled, job):
    return labelled / f"unbroken/{job}", labelled / f"killed/{job}"


@pytest.mark.parametrize("job", JOBS)
def test_it_was_killed_and_then_ended(killed, job):
    told = killed[job]
    assert len(told["moments"]) >= 5 and any("tear" in moment for moment in told["moments"])
    assert told["endings"] == [-signal.SIGKILL] * len(told["moments"]) + [0], told["log"]


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_weights(killed, labelled, stage):
    unbroken, broken = sides(labelled, stage)
    for name in ("state.safetensors", HANDED_ON[stage]):
        assert sha256_file(broken / name) == sha256_file(unbroken / name), (name, killed[stage]["moments"])
    a, b = hashes(unbroken), hashes(broken)
    for found in (a, b):
        found.pop(METRICS_FILE)  # holds times
        found.pop(ALARMS_FILE, None)  # waiting is measured
    assert a == b
    assert sum("checkpoints/" in name for name in a) == 2, "the last two"
    assert not list(broken.glob("checkpoints/.unfinished*"))


@pytest.mark.parametrize("stage", STAGES)
def test_metrics_are_neither_repeated_nor_lost(killed, labelled, stage):
    unbroken, broken = (
        [{k: v for k, v in row.items() if k not in PACE} for row in read_metrics(run)] for run in sides(labelled, stage)
    )
    assert [row["step"] for row in broken] == list(range(CHECKPOINT_EVERY, STEPS + 1, CHECKPOINT_EVERY))
    assert broken == unbroken, killed[stage]["moments"]


def test_the_critic_and_the_buffer_were_at_work(killed, labelled):
    rows = read_metrics(labelled / "killed/tokenizer")
    assert {"critic", "cycle", "discriminator"} <= set(rows[-1])
    facts = json.loads((labelled / "killed/tokenizer/tokenizer.json").read_text())
    assert facts["on_steps"] == {"cycle": 9, "discriminator": 10}


@pytest.mark.parametrize("store", [job for job in JOBS if job not in STAGES])
def test_stores_are_equal_byte_for_byte(killed, labelled, store):
    unbroken, broken = (hashes(folder) for folder in sides(labelled, store))
    assert len(unbroken) >= 2 and broken == unbroken, killed[store]["moments"]


def test_equal_pictures_make_equal_videos_whatever_memory_held(filmed, tmp_path):
    rng, kept = np.random.default_rng(3), []
    for path in sorted((filmed / "film/video/scara").glob("push_left-*.mp4")):
        frames, seen = read_video(path).frames, set()
        for _ in range(8):
            kept = [*kept[-20:], np.full(rng.integers(1, 300_000), rng.integers(255), np.uint8)]
            write_video(tmp_path / "again.mp4", frames, 5.0)
            seen.add(sha256_file(tmp_path / "again.mp4"))
        assert len(seen) == 1, path.name


def test_a_store_that_was_killed_can_be_read(killed, labelled):
    assert len(LabelStore.open(labelled / "killed/label")) == len(LabelStore.open(labelled / "labels"))
    (folder,) = (labelled / "killed/cache").iterdir()
    assert len(FrameCache.open(folder, verify=True)) == 3 * len(SKILLS)
    assert not (folder / "journal.jsonl").exists() and not (folder / "frames.u8.part").exists()


def refused(journey, capsys, verb, *words):
    with pytest.raises(SystemExit) as ended:
        journey.run(verb, *words)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_another_configuration_is_refused_by_name(journey, capsys):
    runs = ("ac3", "pretrained", "policy-full")
    before = {run: hashes(journey / run) for run in runs}
    words = ("--source", journey.video, *RECIPE, *journey.cache)
    ac3 = ("--run", journey / "ac3", "--objective", "ac3", "--trunk", journey / "trunk")
    said = refused(journey, capsys, "tokenizer", *words, *ac3, "--steps", STEPS + 1)
    assert f"steps {STEPS} there, {STEPS + 1} here" in said and "ac3/config.json" in said
    pixel = refused(journey, capsys, "tokenizer", *words, *ac3, "--decoder", "pixel")
    assert "--trunk: expected a tokenizer of the same configuration, got decoder motion there, pixel here" in pixel
    said = refused(
        journey,
        capsys,
        "pretrain",
        *words,
        "--labels",
        journey / "labels",
        "--run",
        journey / "pretrained",
        "--seed",
        3,
    )
    assert "seed 0 there, 3 here" in said and "optim" not in said
    demonstrations = (
        "--source",
        journey.demonstrations,
        *RECIPE,
        "--run",
        journey / "policy-full",
        "--body",
        BODIES[0],
    )
    begin = ("--labels", journey / "demonstration-labels", "--init", journey / "pretrained", "--adaptation", "full")
    said = refused(
        journey, capsys, "finetune", *demonstrations, *begin, "--per-skill", 3, "--learning-rate", 0.5, "--seed", 0
    )
    assert "optim.learning_rate 0.001 there, 0.5 here" in said
    said = refused(journey, capsys, "finetune", *demonstrations, *begin, "--per-skill", 2)
    assert "per_skill 3 there, 2 here" in said
    assert {run: hashes(journey / run) for run in runs} == before
