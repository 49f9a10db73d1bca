"""Trackers: points once, also after a resume; adapters of wandb and trackio; what is missing is named."""

import sys
import types

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cyclemimic.errors import InputError
from cyclemimic.train import trackers
from cyclemimic.train.loop import LoopConfig
from cyclemimic.train.trackers import open_tracker
from tests.unit.test_train_robust import Line, fail, run


def points(folder, name):
    seen = EventAccumulator(str(folder / "tensorboard"), purge_orphaned_data=True)
    seen.Reload()
    return [(e.step, e.value) for e in seen.Scalars(name)]


def test_tensorboard_by_default_and_no_point_twice_after_a_resume(tmp_path):
    run(Line(), tmp_path / "a", loop=LoopConfig(), every=4)
    with pytest.raises(KeyboardInterrupt):
        run(Line({7: fail(KeyboardInterrupt)}), tmp_path / "b", loop=LoopConfig(), every=4)
    assert points(tmp_path / "b", "fit_loss")[-1][0] == 6, "behind the checkpoint"
    run(Line(), tmp_path / "b", loop=LoopConfig(), every=4)
    whole, resumed = points(tmp_path / "a", "fit_loss"), points(tmp_path / "b", "fit_loss")
    assert [step for step, _ in whole] == [2, 4, 6, 8, 10, 11]
    assert resumed == whole


class Library(types.ModuleType):
    """Plays wandb or trackio."""

    def __init__(self, name):
        super().__init__(name)
        self.began, self.rows, self.finished = [], [], 0

    def init(self, **words):
        self.began.append(words)
        return types.SimpleNamespace(log=lambda row, step: self.rows.append((step, row)), finish=self._finish)

    def _finish(self):
        self.finished += 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_library_gets_each_row_once_in_the_same_run(tmp_path, monkeypatch, name):
    library = Library(name)
    monkeypatch.setitem(sys.modules, name, library)
    loop = LoopConfig(tracker=name)
    with pytest.raises(KeyboardInterrupt):
        run(Line({5: fail(KeyboardInterrupt)}), tmp_path, loop=loop)
    run(Line(), tmp_path, loop=loop)
    assert [step for step, _ in library.rows] == [2, 4, 6, 8, 10, 11]
    assert "fit_loss" in library.rows[0][1]
    first, second = library.began
    assert first == second and first["resume"] == "allow" and first["project"] == "cyclemimic"
    assert first["config"] == {"seed": 5} and first["name"].startswith("line")
    assert ("id" in first) == (name == "wandb")
    assert library.finished == 2
    assert not (tmp_path / "tensorboard").exists()


def test_two_runs_of_one_name_are_two_runs(tmp_path, monkeypatch):
    library = Library("trackio")
    monkeypatch.setitem(sys.modules, "trackio", library)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        open_tracker("trackio", tmp_path / folder, name="x", start=0, config={}).close()
    assert library.began[0]["name"] != library.began[1]["name"]


@pytest.mark.parametrize(("name", "extra"), [("wandb", "wandb"), ("trackio", "trackio"), ("tensorboard", "train")])
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, name, extra):
    def missing(module):
        raise ImportError(module)

    monkeypatch.setattr(trackers.importlib, "import_module", missing)
    with pytest.raises(InputError, match=rf"package {name}, got none installed. pip install 'cyclemimic\[{extra}\]'"):
        open_tracker(name, tmp_path, name="x", start=0, config={})


def test_an_unknown_tracker_and_none(tmp_path):
    with pytest.raises(InputError, match="Did you mean 'wandb'"):
        open_tracker("wandbb", tmp_path, name="x", start=0, config={})
    nothing = open_tracker("none", tmp_path, name="x", start=0, config={})
    nothing.log(1, {"a": 1.0})
    nothing.close()
    assert list(tmp_path.iterdir()) == []
