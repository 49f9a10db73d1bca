import json

import numpy as np
import pytest

from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.writers.film import film
from cyclemimic.errors import InputError
from cyclemimic.types import CameraSpec, Task, World
from tests.unit.data_small import ToyWorld

TASKS = [Task(body=b, skill=s, seed=i) for b in ("big", "small") for s in ("right", "up") for i in (0, 1)]


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_successes_are_kept_and_failures_counted(tmp_path):
    assert isinstance(ToyWorld(), World)
    report = film(ToyWorld(), TASKS, tmp_path)
    assert (report.filmed, report.clips) == (8, 4)
    names = set(files(tmp_path))
    assert {"video/big/right-000000.mp4", "actions/small/up-000000.npz", "video/clips.jsonl"} <= names
    assert not any("000001" in n for n in names)
    assert report.table().splitlines() == ["body   right  up", "big    1/2    1/2", "small  1/2    1/2"]
    counts = json.loads((tmp_path / "report.json").read_text())["counts"]
    assert counts[0] == {"body": "big", "skill": "right", "episodes": 2, "successes": 1}


def test_a_frame_before_and_after_every_action(tmp_path):
    film(ToyWorld(), TASKS, tmp_path, only_successes=False)
    with np.load(tmp_path / "actions/big/up-000000.npz", allow_pickle=False) as file:
        assert file["actions"].shape == (4, 2) and file["proprioception"].shape == (5, 2) and file["success"]
        np.testing.assert_allclose(file["proprioception"][-1], file["actions"].sum(0))
    with np.load(tmp_path / "actions/big/up-000001.npz", allow_pickle=False) as file:
        assert file["actions"].shape == (7, 2) and not file["success"]
    clips = {c.name: c for c in FolderSource(tmp_path / "video").clips()}
    clip = clips["big/up-000001.mp4"]
    assert (clip.num_frames, clip.fps, clip.instruction, clip.embodiment) == (8, 5.0, "go up", "big")


def test_actions_can_be_left_out(tmp_path):
    film(ToyWorld(), TASKS[:2], tmp_path, keep_actions=False)
    assert not any(n.startswith("actions") for n in files(tmp_path))


def test_nothing_is_filmed_twice(tmp_path):
    first = film(ToyWorld(), TASKS, tmp_path)
    before, world = files(tmp_path), ToyWorld()
    again = film(world, TASKS, tmp_path)
    assert world.resets == 0 and again.filmed == 0 and again.counts == first.counts
    assert files(tmp_path) == before


def test_a_killed_run_ends_like_an_unbroken_one(tmp_path):
    film(ToyWorld(), TASKS, tmp_path / "unbroken")

    def kill(line):
        if line.startswith("3/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        film(ToyWorld(), TASKS, tmp_path / "killed", progress=kill)
    assert len(FolderSource(tmp_path / "killed" / "video").clips()) == 2  # usable as it is
    with (tmp_path / "killed" / "episodes.jsonl").open("a") as file:
        file.write('{"body": "sm')  # what a kill in the middle of a line leaves
    report = film(ToyWorld(), TASKS, tmp_path / "killed")
    assert report.filmed == 5
    assert files(tmp_path / "killed") == files(tmp_path / "unbroken")


def test_another_world_is_refused(tmp_path):
    film(ToyWorld(), TASKS[:1], tmp_path)
    other = ToyWorld()
    other.max_steps = 9
    with pytest.raises(InputError, match="max_steps"):
        film(other, TASKS[:1], tmp_path)
    with pytest.raises(InputError, match="only_successes"):
        film(ToyWorld(), TASKS[:1], tmp_path, only_successes=False)


def test_a_missing_camera_is_named(tmp_path):
    world = ToyWorld()
    world.camera = CameraSpec(name="fronts", height_px=22, width_px=26)
    with pytest.raises(InputError, match="Did you mean 'front'"):
        film(world, TASKS[:1], tmp_path)


def test_actions_are_kept_as_the_world_applies_them(tmp_path):
    world = ToyWorld()
    world.expert_action = lambda: np.array([5.0, -0.25], np.float32)
    film(world, TASKS[:1], tmp_path)
    with np.load(tmp_path / "actions/big/right-000000.npz", allow_pickle=False) as file:
        assert file["actions"][0].tolist() == [1.0, -0.25]


def test_no_absolute_path_lies_in_the_film(tmp_path):
    film(ToyWorld(), TASKS, tmp_path)
    assert not any(str(tmp_path).encode() in content for content in files(tmp_path).values())
