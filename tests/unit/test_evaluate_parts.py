"""What was measured is kept until all is: found again bit for bit, not found where anything that decides it differs."""

import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cyclemimic.evaluate import parts as kept
from cyclemimic.evaluate.fitting import Fit
from cyclemimic.evaluate.parts import KeptLabels, Parts, parts_of
from cyclemimic.evaluate.rollout import evaluate_policy
from cyclemimic.evaluate.transfer import References, TransferScore
from cyclemimic.recipes import jobs
from cyclemimic.recipes.jobs import Job, Jobs
from cyclemimic.store.atomic import read_json
from cyclemimic.types import ActionChunk, Task
from cyclemimic.worlds.arms import ArmsWorld
from tests.unit import parts_small


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Of some kinds."""

    third: float
    unknown: float
    axes: tuple[float, float]
    refused: bool


def test_numbers_are_found_as_they_were_made(tmp_path):
    made = Scores(third=1 / 3, unknown=math.nan, axes=(0.1 + 0.2, -math.inf), refused=True)
    parts = Parts(tmp_path, "facts")
    first = parts.figures("some scores", Scores, lambda: made)
    again = Parts(tmp_path, "facts").figures("some scores", Scores, lambda: pytest.fail("made twice"))
    assert first is made and repr(again) == repr(made)
    score = TransferScore(transfer_cosine=0.7, transfer_r2=math.nan)
    nested = References(copy=score, random_code=score, oracle_code=score)
    parts.figures("nested", References, lambda: nested)
    assert repr(parts.figures("nested", References, lambda: pytest.fail("made twice"))) == repr(nested)


def test_parts_of_other_facts_or_another_name_are_not_found(tmp_path):
    def value(parts, number, name="score"):
        return parts.figures(name, parts_small.Figure, lambda: parts_small.Figure(value=number)).value

    parts = Parts(tmp_path, ["weights", 1])
    assert value(parts, 1.0) == 1.0
    assert value(Parts(tmp_path, ["weights", 2]), 2.0) == 2.0
    assert value(parts.under("judge"), 3.0) == 3.0
    assert value(parts, 4.0, "another") == 4.0
    assert value(parts, 5.0) == 1.0 and value(parts.under("judge"), 5.0) == 3.0


def test_a_damaged_part_is_made_anew(tmp_path):
    parts = Parts(tmp_path)
    for kind, make in (
        ("json", lambda: parts.figures("a", parts_small.Figure, lambda: parts_small.Figure(value=2.0)).value),
        ("npz", lambda: float(parts.arrays("a", lambda: {"x": np.array(2.0)})["x"])),
    ):
        make()
        path = parts.path("a", kind)
        path.write_bytes(path.read_bytes()[:5])
        assert make() == 2.0
    parts.keep_tensors("a", {"x": torch.zeros(3)})
    parts.path("a", "safetensors").write_bytes(b"cut")
    assert parts.tensors("a") is None


def test_nothing_is_kept_without_a_folder_and_all_goes_in_the_end(tmp_path):
    assert Parts().arrays("a", lambda: {"x": np.ones(1)})["x"] == 1 and Parts().found("a") is None
    parts, others = parts_of(tmp_path, "one", 1), parts_of(tmp_path, "other", 1)
    for each in (parts, others):
        each.keep("a", {"x": np.ones(1)})
    parts.remove()
    assert [path.name for path in (tmp_path / kept.PARTS).iterdir()] == ["other"]
    others.remove()
    assert not list(tmp_path.iterdir())


def test_equal_frames_are_labelled_once(tmp_path):
    class Model:
        num_codes, asked = 5, 0

        def label(self, now, later):
            self.asked += 1
            return (now - later).flatten(1).sum(1, keepdim=True).long(), now.flatten(1).mean(1)

        def act_out(self, now, codes):
            return now

    model = Model()
    now, later = torch.rand(2, 4, 3, 8, 8) * 9
    for _ in range(2):
        found = KeptLabels(model, Parts(tmp_path)).label(now, later)
        assert all(torch.equal(a, b) for a, b in zip(found, Model().label(now, later), strict=True))
    assert model.asked == 1
    KeptLabels(model, Parts(tmp_path)).label(later, now)
    KeptLabels(model, Parts(tmp_path, "other weights")).label(now, later)
    assert model.asked == 3


class KilledError(BaseException):
    """As a signal would end the work."""


def _fitted(parts, *, stop_after=None):
    """A net with dropout, and the average of its weights; its batches are drawn from two generators."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Dropout(0.3), nn.Linear(8, 1))
        average = {name: value.clone() for name, value in net.state_dict().items()}
        fit = Fit(
            net, name="net", steps=11, learning_rate=0.01, weight_decay=0.1, entropy=5, parts=parts, clip_norm=0.5,
            beside=average,
        )  # fmt: skip
        taken = []
        for number in fit.steps():
            if number == stop_after:
                raise KilledError
            index = fit.batch(7, 3)
            seen = torch.randn(7, 4, generator=fit.generator)[index]
            fit.update((net(seen) - index[:, None]).square().mean())
            for name, value in net.state_dict().items():
                average[name].lerp_(value, 0.2)
            taken.append(number)
    return taken, {**net.state_dict(), **{f"average.{name}": value for name, value in average.items()}}


def test_a_fit_that_is_broken_off_twice_equals_an_unbroken_one(tmp_path, monkeypatch):
    _, whole = _fitted(Parts())
    monkeypatch.setattr(kept, "SAVE_S", 0.0)
    for stop_after in (4, 9):
        with pytest.raises(KilledError):
            _fitted(Parts(tmp_path), stop_after=stop_after)
    taken, found = _fitted(Parts(tmp_path))
    assert taken == [9, 10], "no step is taken twice"
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    taken, found = _fitted(Parts(tmp_path))
    assert not taken and all(torch.equal(found[name], whole[name]) for name in whole)


class Together:
    """Moves each hand by what all episodes show together: another company, and other actions follow."""

    def __init__(self, space, stop_after=None):
        self.space, self.stop_after, self.asked = space, stop_after, []

    def act_batch(self, observations):
        if self.stop_after is not None and len(self.asked) == self.stop_after:
            raise KilledError
        self.asked.append(len(observations))
        places = np.stack([seen.proprioception for seen in observations])
        count, width = len(observations), self.space.width
        drift = np.sin(1e3 * places.sum() + np.arange(3 * width)).reshape(3, width)
        chunks = self.space.low + (self.space.high - self.space.low) * (0.5 + 0.5 * drift)
        return [ActionChunk(actions=chunks.astype(np.float32), space=self.space)] * count


TASKS = [Task(body=body, skill=skill, seed=i) for i in range(2) for body in ("arm5",) for skill in ("reach", "lift")]


@pytest.fixture(scope="module")
def short_arms():
    """Worlds of few steps, not all equally many."""

    def made():
        world = ArmsWorld(size_px=16)
        world.max_steps = 14
        return world

    return made


def _acted(made, policy, parts):
    return evaluate_policy(made, policy, TASKS, chunk_steps=3, batch=3, films_per_skill=1, parts=parts)


def _plain(result):
    return [
        (o.task, o.success, o.steps, o.error, None if o.film is None else o.film.tobytes()) for o in result.outcomes
    ]


def test_episodes_that_are_broken_off_end_as_in_one_go(tmp_path, monkeypatch, short_arms):
    space = short_arms().action_space
    unbroken = Together(space)
    whole = _plain(_acted(short_arms, unbroken, None))
    assert len(set(unbroken.asked)) > 1 and any(film for *_, film in whole)
    monkeypatch.setattr(kept, "SAVE_S", 0.0)
    asked = []
    for stop_after in (2, 4):
        policy = Together(space, stop_after)
        with pytest.raises(KilledError):
            _acted(short_arms, policy, Parts(tmp_path))
        asked += policy.asked
    policy = Together(space)
    assert _plain(_acted(short_arms, policy, Parts(tmp_path))) == whole
    assert asked + policy.asked == unbroken.asked, "no question is asked twice"
    assert _plain(_acted(short_arms, Together(space, 0), Parts(tmp_path))) == whole, "all was done"
    with pytest.raises(KilledError):
        _acted(short_arms, Together(space, 0), Parts(tmp_path, "other weights"))


def test_a_world_that_cannot_return_begins_anew(tmp_path, monkeypatch, short_arms, capsys):
    class Forgetful(ArmsWorld):
        max_steps = 14

        def __init__(self):
            super().__init__(size_px=16)

        def restore(self, state):
            return self.reset(TASKS[-1])

    whole = _plain(_acted(short_arms, Together(short_arms().action_space), None))
    monkeypatch.setattr(kept, "SAVE_S", 0.0)
    space = Forgetful().action_space
    with pytest.raises(KilledError):
        _acted(Forgetful, Together(space, 3), Parts(tmp_path))
    assert _plain(_acted(Forgetful, Together(space), Parts(tmp_path))) == whole
    assert "all from the beginning" in capsys.readouterr().out


class Clock:
    """The slice is over as soon as the measurement is in its middle, however slow this machine is."""

    def __init__(self, reached):
        self.reached, self.sleep, self.now_s = reached, time.sleep, time.monotonic

    def monotonic(self):
        return self.now_s() + (480.0 if self.reached.exists() else 0.0)


def test_a_slice_that_ends_inside_a_measurement_loses_none_of_its_parts(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
    out = tmp_path / "out"
    out.mkdir()

    def sliced():
        measure = Job(name="quality", arguments=(str(out),), seconds=1, says="measure")
        return Jobs(
            jobs=[measure], folder=tmp_path / "jobs", command=(sys.executable, parts_small.__file__), budget_s=480.0
        )

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "time", Clock(out / "reached"))
        first = sliced()
        first.run()
    assert first.left == ("quality",) and not (out / "result.json").exists()
    assert "SIGTERM: stopped. What was measured is kept." in (tmp_path / "jobs/logs/quality.log").read_text()
    (out / "go").touch()
    second = sliced()
    second.run()
    assert second.left == ()
    assert [int(line) for line in (out / "made.txt").read_text().split()] == list(range(parts_small.COUNT))
    assert read_json(out / "result.json") == {"figures": [i / 3 for i in range(parts_small.COUNT)]}
    assert not (out / kept.PARTS).exists()


def test_other_threads_are_other_parts(tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = parts_of(tmp_path, "a").path("x", "npz")
        torch.set_num_threads(2)
        assert parts_of(tmp_path, "a").path("x", "npz") != one
    finally:
        torch.set_num_threads(before)
