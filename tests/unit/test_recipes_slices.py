"""A study in slices: a budget that ends inside a long training ends with 75, and the next slice goes on there."""

import os
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cyclemimic.evaluate.cells import Cell
from cyclemimic.recipes import ablate, jobs
from cyclemimic.recipes.ablate import study_of
from cyclemimic.recipes.commands import StudySize
from cyclemimic.recipes.jobs import Job, Jobs
from cyclemimic.recipes.small import small
from cyclemimic.recipes.table_pages import RowPicture
from cyclemimic.recipes.tables import find_table
from cyclemimic.store.atomic import read_json
from tests.unit import slices_small

SLICE_S = 480.0


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch):
    """Pretended tokenizers draw nothing."""
    monkeypatch.setattr(ablate, "draw_row", lambda row, *_, **__: RowPicture(row=row.name, caption=row.says, png=b""))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)


@pytest.fixture
def study(tmp_path):
    def made():
        found = study_of(
            find_table("objective"), recipe_name="small", base=small(), rows=("ac3",), seeds=1, split="validation",
            quarter=False, ours=None, latent_only=True, size=StudySize(), run=tmp_path / "run",
            results=tmp_path / "results", log=tmp_path / "log.md", cache=tmp_path / "cache", lanes=1,
            budget_minutes=SLICE_S / 60, device=None,
        )  # fmt: skip
        found.command = (sys.executable, slices_small.__file__, str(tmp_path / "journal"))
        return found

    return made


class Clock:
    """The slice is over as soon as the training is in its middle, however slow this machine is."""

    def __init__(self, reached):
        self.reached, self.sleep, self.now_s = reached, time.sleep, time.monotonic

    def monotonic(self):
        return self.now_s() + (SLICE_S if self.reached.exists() else 0.0)


def test_a_slice_ends_inside_a_training_and_nothing_is_lost(study, tmp_path, monkeypatch, capsys):
    reached = tmp_path / "journal.reached"
    monkeypatch.setattr(jobs, "time", Clock(reached))
    first = study()
    assert first.measure() == 75
    assert "same command goes on" in capsys.readouterr().out
    (trunk,) = (tmp_path / "run").glob("seed0-trunk-*")
    kept = [path.name for path in (trunk / "checkpoints").iterdir()]
    assert kept == [f"step-{slices_small.MIDDLE + 1:08d}"], "the step in hand was finished, and a checkpoint written"
    assert not read_json(first.result)["complete"] and not (trunk / "tokenizer.json").exists()

    reached.unlink()
    (tmp_path / "journal.go").touch()
    second = study()
    assert second.measure() == 0
    assert read_json(second.result)["complete"]
    assert len([Cell.load(path) for path in (tmp_path / "results/cells").iterdir()]) == 2
    steps = [int(line) for line in (trunk / "steps.txt").read_text().split()]
    assert steps == list(range(slices_small.STEPS)), "no step is taken twice, none is left out"
    unbroken = slices_small.OneWeight(tmp_path, 0.0)
    for step in steps:
        unbroken.step(step)
    assert float(load_file(trunk / "state.safetensors")["weight"]) == unbroken.weight


def test_what_ended_as_the_slice_did_is_not_done_again(tmp_path):
    """The command ends with 0 between the last look at it and the end of the slice."""
    told = tmp_path / "told"
    ends = f"import pathlib; pathlib.Path({str(told)!r}).touch()"
    run = Jobs(
        jobs=[Job(name="measure", arguments=(ends,), seconds=1, says="measure")],
        folder=tmp_path / "jobs",
        command=(sys.executable, "-c"),
        budget_s=SLICE_S,
    )
    collect = run._collect
    looks = iter([lambda: None])

    def late():
        while not told.exists():
            time.sleep(0.02)
        run._running["measure"][0].wait()
        run._began_s -= 2 * SLICE_S
        next(looks, collect)()

    run._collect = late
    run.run()
    assert run.left == ()
