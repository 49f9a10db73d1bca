"""Several processes compute what one computes; what goes wrong on one of them is told on all."""

import json

import numpy as np
import pytest
import torch

from cyclemimic.errors import InputError
from cyclemimic.nn.collectives import my_rows
from cyclemimic.store.weights import load_tensors
from cyclemimic.train.loop import read_metrics
from cyclemimic.train.processes import TIMEOUT, local_device, processes, together
from tests.unit import test_stage23 as small
from tests.unit.processes_small import Two, losses, run, start, two_optimizers

JOBS = ("sums", "disagree", "one_loss_not_finite", "losses", "two_optimizers", "a_signal_to_one", "a_block_that_fails")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Where two processes left what every job found, and one process what it found of those that compare."""
    folder = tmp_path_factory.mktemp("processes")
    small.make_cache(folder / "cache")
    small.label(folder / "labels")
    done = start(folder, *JOBS)
    (folder / "said").write_text(done.stderr)
    for job in (losses, two_optimizers):
        job(folder)
    return folder


@pytest.mark.parametrize("job", JOBS)
def test_on_two_processes(ran, job):
    assert all((ran / f"passed-{job}-{process}").exists() for process in (0, 1)), (ran / "said").read_text()[-3000:]


def test_the_loss_is_the_same_on_one_and_on_two_processes(ran):
    one, two = (json.loads((ran / f"losses-{n}.json").read_text()) for n in (1, 2))
    assert one.keys() == two.keys() and len(one) > 20
    assert {key.split()[0] for key in one} == {"pretrain", "finetune"}
    for key, values in one.items():
        if key.endswith("gradient_norm float32"):  # a sign of a small error decides of a weight: not told here
            continue
        bound = 1e-9 if key.endswith("float64") and "accuracy" not in key else 1e-4  # accuracies are float32
        np.testing.assert_allclose(two[key], values, rtol=0, atol=bound, err_msg=key)
        assert len(set(values)) > 1 or "accuracy" in key, key


def test_a_stage_with_two_optimizers_trains_alike_and_one_process_writes(ran):
    one, two = (load_tensors(ran / f"two-{n}" / "state.safetensors")[0] for n in (1, 2))
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=1e-5)
    rows = [read_metrics(ran / f"two-{n}") for n in (1, 2)]
    assert [r["step"] for r in rows[1]] == [2, 4, 6, 7]
    for a, b in zip(*rows, strict=True):
        assert a["first"] == pytest.approx(b["first"], abs=1e-5) and a["second"] == pytest.approx(b["second"], abs=1e-5)
    assert [p.name for p in (ran / "two-2/checkpoints").iterdir()] == ["step-00000006"]


def test_after_a_signal_to_one_of_two_the_weights_are_those_of_the_unbroken_run(ran):
    one, two = (load_tensors(ran / name / "state.safetensors")[0] for name in ("two-2", "signalled"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_death_of_one_ends_the_other_with_a_message_and_the_checkpoint_resumes(ran, tmp_path):
    done = start(tmp_path, "death_of_one")
    assert done.returncode != 0
    assert "two, step 4: another of the 2 processes died" in done.stderr
    assert "The last checkpoint is that of step 3. The same command goes on" in done.stderr
    assert "exitcode  : 69" in done.stderr or "exitcode  : -9" in done.stderr
    run(Two(), tmp_path / "death")
    one, two = (load_tensors(f / "state.safetensors")[0] for f in (ran / "two-1", tmp_path / "death"))
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=1e-5)


def test_one_process_alone_needs_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes(), together() as first:
        assert first
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert local_device("cpu") == "cpu" and local_device("cuda:1") == "cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="--device cpu --precision fp32"):
        local_device("cuda")


def test_a_timeout_that_is_no_time_is_refused(monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(TIMEOUT, "soon")
    with pytest.raises(InputError, match="seconds above 0"), processes():
        pass


def test_half_an_environment_of_torchrun_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="got no RANK, MASTER_ADDR, MASTER_PORT"), processes():
        pass


def test_rows_of_one_process_are_the_batch():
    assert my_rows(7) == slice(0, 7)
