"""A tail: the expert goes on for some steps once the task is solved."""

import json

import pytest

from cyclemimic.data.sources.film import FilmSource
from cyclemimic.data.writers.film import film
from cyclemimic.errors import InputError
from cyclemimic.types import Task
from cyclemimic.worlds.drawn import DrawnWorld

TASKS = [Task(body=body, skill="reach", seed=seed) for body in DrawnWorld.bodies[:2] for seed in range(3)]


def lengths(folder):
    return [clip.num_frames for clip in FilmSource(folder).clips()]


def test_every_solved_episode_is_longer_by_the_tail(tmp_path):
    film(DrawnWorld(), TASKS, tmp_path / "a")
    film(DrawnWorld(), TASKS, tmp_path / "b", tail_steps=3)
    assert lengths(tmp_path / "b") == [n + 3 for n in lengths(tmp_path / "a")]
    for name in ("a", "b"):
        source = FilmSource(tmp_path / name)
        for clip in source.clips():
            episode = source.read(clip)
            assert len(episode.actions) == len(episode.frames) - 1


def test_success_is_counted_alike(tmp_path):
    reports = [film(DrawnWorld(), TASKS, tmp_path / str(t), tail_steps=t) for t in (0, 3)]
    assert reports[0].counts == reports[1].counts


def test_one_folder_has_one_tail(tmp_path):
    film(DrawnWorld(), TASKS[:1], tmp_path, tail_steps=2)
    assert json.loads((tmp_path / "world.json").read_text())["tail_steps"] == 2
    with pytest.raises(InputError, match="tail_steps"):
        film(DrawnWorld(), TASKS, tmp_path)
