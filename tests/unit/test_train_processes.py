"""Several processes compute what one computes; what goes wrong on one of them is told on all."""

import json

import numpy as np
import pytest

from cyclemimic.errors import InputError
from cyclemimic.nn.collectives import my_rows
from cyclemimic.store.weights import load_tensors
from cyclemimic.train.loop import read_metrics
from cyclemimic.train.processes import TIMEOUT, local_device, processes, together
from tests.unit import test_stage23 as small
from tests.unit.processes_small import start

cache, labels = small.cache, small.labels


def passed(job, folder, count=2):
    done = start(job, folder, count)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_the_loss_is_the_same_on_one_and_on_two_processes(cache, labels, tmp_path):
    for count in (1, 2):
        passed("losses", tmp_path, count)
    one, two = (json.loads((tmp_path / f"losses-{n}.json").read_text()) for n in (1, 2))
    assert one.keys() == two.keys() and len(one) > 20
    assert {key.split()[0] for key in one} == {"pretrain", "finetune"}
    for key, values in one.items():
        bound = 1e-9 if key.endswith("float64") else 1e-4
        np.testing.assert_allclose(two[key], values, rtol=0, atol=bound, err_msg=key)
        assert len(set(values)) > 1 or "accuracy" in key, key


def test_a_stage_with_two_optimizers_trains_alike_and_one_process_writes(tmp_path):
    for count in (1, 2):
        passed("two_optimizers", tmp_path, count)
    one, two = (load_tensors(tmp_path / f"two-{n}" / "state.safetensors")[0] for n in (1, 2))
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=1e-5)
    rows = [read_metrics(tmp_path / f"two-{n}") for n in (1, 2)]
    assert [r["step"] for r in rows[1]] == [2, 4, 6, 7]
    for a, b in zip(*rows, strict=True):
        assert a["first"] == pytest.approx(b["first"], abs=1e-5) and a["second"] == pytest.approx(b["second"], abs=1e-5)
    assert [p.name for p in (tmp_path / "two-2/checkpoints").iterdir()] == ["step-00000006"]


@pytest.mark.parametrize("job", ["sums", "disagree", "one_loss_not_finite"])
def test_on_two_processes(job, tmp_path):
    passed(job, tmp_path)


def test_a_block_that_fails_on_the_first_ends_the_others(tmp_path):
    done = start("failing_block", tmp_path, 2)
    assert done.returncode != 0 and "Another process of this run stopped" in done.stderr
    assert not (tmp_path / "went-on").exists()


def test_one_process_alone_needs_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes(), together() as first:
        assert first
    assert local_device("cpu") == "cpu" and local_device("cuda:1") == "cuda:1"


def test_a_timeout_that_is_no_time_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(TIMEOUT, "soon")
    with pytest.raises(InputError, match="seconds above 0"), processes():
        pass


def test_rows_of_one_process_are_the_batch():
    assert my_rows(7) == slice(0, 7)
