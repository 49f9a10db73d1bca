"""Each format is read in under ten lines, and the example does what it says on the committed fixtures."""

import runpy
import sys
from pathlib import Path

import pytest

from cyclemimic.data.writers.film import film
from cyclemimic.recipes.footage import SOURCES
from cyclemimic.types import Task
from tests.unit.data_small import ToyWorld, calvin_split, tar_shards, video_folder

EXAMPLES = Path(__file__).parents[2] / "examples/formats"
FIXTURES = Path(__file__).parents[1] / "fixtures"


def filmed(root):
    film(ToyWorld(), [Task(body="big", skill="right", seed=0)], root)
    return root


# How data comes about, how many clips it has, and what must be told of one of them.
CASES = {
    "folder": (
        lambda root: video_folder(root, {"arm/1.mp4": 4, "hand/2.mp4": 5}),
        2,
        "hand/2.mp4 hand None 5 Hz (5, 22, 26, 3)",
    ),
    "film": (filmed, 1, "go right"),
    "lerobot": (lambda root: FIXTURES / "lerobot/v3.0", 4, "episode_000000"),
    "rlds": (lambda root: f"{FIXTURES}/rlds?split=train", None, "'x_m': 'm'"),
    "hdf5": (lambda root: FIXTURES / "hdf5", None, "turn on the stove"),
    "webdataset": (tar_shards, 3, "schön"),
    "calvin": (calvin_split, 3, "push the block"),
}


def test_every_source_has_an_example_of_under_ten_lines():
    found = {path.stem.removeprefix("read_"): path.read_text() for path in EXAMPLES.glob("*.py")}
    assert set(found) == set(SOURCES) == set(CASES)
    for name, text in found.items():
        lines = [line for line in text.splitlines() if line and not line.startswith('"""')]
        assert len(lines) < 10 and f"read_{name}.py" in text


@pytest.mark.parametrize("name", CASES)
def test_an_example(tmp_path, monkeypatch, capsys, name):
    make, count, told = CASES[name]
    monkeypatch.setattr(sys, "argv", ["example", str(make(tmp_path))])
    runpy.run_path(str(EXAMPLES / f"read_{name}.py"))
    said = capsys.readouterr().out
    assert told in said, said
    assert len(said.splitlines()) >= (count or 1)
