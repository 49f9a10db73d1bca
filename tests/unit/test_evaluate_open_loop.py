"""Open-loop error by hand: axes, steps ahead, ends of episodes, controls, pairs of policies, circles, refusals."""

import json

import numpy as np
import pytest

from cyclemimic.errors import InputError
from cyclemimic.evaluate.open_loop import bootstrap, observations, open_loop
from cyclemimic.evaluate.parts import Parts
from cyclemimic.types import ActionChunk, ActionSpace, Axis, ClipInfo, Episode

AXES = (
    Axis(name="x", unit="m", low=-9, high=9, kind="delta"),
    Axis(name="yaw", unit="rad", low=-4, high=4),
    Axis(name="grip", unit="fraction", low=0, high=9),
)
SPACE = ActionSpace(name="toy", axes=AXES, rate_hz=5.0)
S = 3


def episode(name, length=8, seed=0, space=SPACE, actions=None):
    rng = np.random.default_rng(seed)
    if actions is None:
        actions = rng.uniform([-1, -3, 0], [1, 3, 1], (length - 1, 3)).astype(np.float32)
    frames = np.zeros((len(actions) + 1, 5, 7, 3), np.uint8)
    frames[:, 0, 0, 0] = np.arange(len(frames))
    return Episode(
        info=ClipInfo(name=name, embodiment="b", fps=5.0, num_frames=len(frames), instruction="do"),
        frames=frames,
        actions=actions,
        proprioception=np.arange(2 * len(frames), dtype=np.float32).reshape(-1, 2),
        action_space=space,
        camera="main",
        extra_frames={"wrist": np.zeros((len(frames), 3, 3, 3), np.uint8)},
    )


class Oracle:
    """Says what the demonstrator did, and a little more on each axis; looks the moment up in the picture."""

    def __init__(self, found, more=(0.0, 0.0, 0.0), steps=S, space=SPACE):
        self.actions, self.more, self.steps, self.space, self.calls = found.actions, np.float32(more), steps, space, []

    def act_batch(self, seen):
        self.calls.append(len(seen))
        out = []
        for one in seen:
            assert set(one.images) == {"main", "wrist"}
            t = int(one.images["main"][0, 0, 0])
            assert one.proprioception.tolist() == [2 * t, 2 * t + 1]
            assert one.instruction == "do"
            rows = np.minimum(t + np.arange(self.steps), len(self.actions) - 1)
            out.append(ActionChunk(actions=self.actions[rows] + self.more, space=self.space))
        return out


def test_by_hand():
    found, training = episode("a"), [episode("t1", seed=1), episode("t2", length=5, seed=2)]
    oracle = Oracle(found, more=(0.25, 0.5, 0.0))
    result = open_loop(oracle, [found], training_episodes=training, batch=3)
    assert oracle.calls == [3, 3, 1]
    assert (result.clips, result.moments) == (("a",), 7)
    np.testing.assert_allclose([i.mean for i in result.axes("policy")], [0.25, 0.5, 0.0], atol=1e-6)
    every = np.concatenate([e.actions for e in training])
    first = np.mean([e.actions[0] for e in training], 0)
    a = found.actions.astype(float)
    for step in range(S):
        count = 7 - step
        mean = np.abs(a[step:] - every.mean(0))
        turned = np.minimum(mean[:, 1], 2 * np.pi - mean[:, 1])  # the yaw target is on a circle
        np.testing.assert_allclose(
            result.errors["mean"][0, step], [mean[:, 0].mean(), turned.mean(), mean[:, 2].mean()], rtol=1e-5
        )
        last = np.concatenate([first[None], a[:-1]])[:count]
        held = np.abs(a[step:] - last)
        turned = np.minimum(held[:, 1], 2 * np.pi - held[:, 1])
        want = [np.abs(a[step:, 0]).mean(), turned.mean(), held[:, 2].mean()]
        np.testing.assert_allclose(result.errors["hold"][0, step], want, rtol=1e-5)
    assert np.isnan([i.low for i in result.axes("policy")]).all()


def test_an_episode_shorter_than_a_chunk_counts_for_the_steps_it_has():
    short, long = episode("s", length=3, seed=1), episode("l", seed=2)

    class Either:
        def act_batch(self, seen):
            return Oracle(short if len(seen) == 2 else long, more=(1.0 if len(seen) == 2 else 3.0, 0, 0)).act_batch(
                seen
            )

    result = open_loop(Either(), [short, long], training_episodes=[long])
    assert np.isnan(result.errors["policy"][0, 2]).all()
    np.testing.assert_allclose([i.mean for i in result.axes("policy")], [2.0, 0, 0], atol=1e-6)
    np.testing.assert_allclose([row[0] for row in result.steps("policy")], [2.0, 2.0, 3.0], atol=1e-6)


def test_pairs_intervals_table_and_json(tmp_path):
    found = [episode(f"e{i}", seed=i) for i in range(5)]

    class Judge:
        def __init__(self, more):
            self.more, self.turn = more, -1

        def act_batch(self, seen):
            self.turn += 1
            return Oracle(found[self.turn], more=(self.more + 0.1 * self.turn, 0, 0)).act_batch(seen)

    result = open_loop(Judge(0.1), found, training_episodes=found, others={"none": Judge(0.3)})
    assert all(result.errors[name].shape == (5, S, 3) for name in ("policy", "hold", "mean", "none"))
    axis = result.axes("policy")[0]
    assert axis.mean == pytest.approx(0.3)
    assert 0.1 < axis.low < axis.mean < axis.high < 0.5
    gain = result.gain("none")[0]  # the spread between episodes is shared, so that the difference has none
    assert (gain.mean, gain.low, gain.high) == pytest.approx((0.2, 0.2, 0.2))
    lines = result.text().splitlines()
    assert lines[0].split() == ["axis", "unit", "policy", "hold", "mean", "none"]
    assert lines[1].split()[:2] == ["x", "m"] and lines[1].split()[-1] == "0.5000*"
    assert not lines[2].endswith("*")
    assert "35 moments of 5 episodes" in result.text()
    result.save(tmp_path / "open-loop.json")
    read = json.loads((tmp_path / "open-loop.json").read_text())
    assert read["rows"]["none"]["axes"][0]["mean"] == pytest.approx(0.5)
    assert len(read["rows"]["policy"]["episodes"]) == 5
    assert read["rows"]["policy"]["gain"] is None
    assert np.shape(read["rows"]["hold"]["steps"]) == (S, 3)


def test_bootstrap_covers_and_is_reproducible():
    rows = np.random.default_rng(0).normal(3.0, 1.0, (97, 2))
    found = bootstrap(rows)
    assert found == bootstrap(rows)
    for interval, column in zip(found, rows.T, strict=True):
        half = 1.96 * column.std() / np.sqrt(97)
        assert interval.low == pytest.approx(column.mean() - half, abs=0.04)
        assert interval.high == pytest.approx(column.mean() + half, abs=0.04)


def test_observations_show_every_camera():
    seen = observations(episode("a"))
    assert len(seen) == 7
    assert {name: picture.shape for name, picture in seen[0].images.items()} == {"main": (5, 7, 3), "wrist": (3, 3, 3)}


def test_errors():
    found = episode("a")
    with pytest.raises(InputError, match="at least one held-out episode"):
        open_loop(Oracle(found), [], training_episodes=[found])
    with pytest.raises(InputError, match="training_episodes"):
        open_loop(Oracle(found), [found], training_episodes=[])
    other = ActionSpace(name="other", axes=AXES, rate_hz=7.0)
    with pytest.raises(InputError, match="body that the policy was trained on"):
        open_loop(Oracle(found, space=other), [found], training_episodes=[found])
    with pytest.raises(InputError, match="one body at a time"):
        open_loop(Oracle(found), [found, episode("b", space=other)], training_episodes=[found])
    with pytest.raises(InputError, match="chunks of 3 steps"):
        open_loop(Oracle(found), [found], training_episodes=[found], others={"none": Oracle(found, steps=2)})
    with pytest.raises(InputError, match="Call it otherwise"):
        open_loop(Oracle(found), [found], training_episodes=[found], others={"hold": Oracle(found)})
    bare = Episode(info=found.info, frames=found.frames)
    with pytest.raises(InputError, match="episode 'a': expected actions"):
        open_loop(Oracle(found), [bare], training_episodes=[found])


def test_episodes_that_were_measured_are_not_asked_about_again(tmp_path):
    class Sick:
        """Says another thing at every moment; ends at a question."""

        def __init__(self, end):
            self.end, self.calls = end, 0

        def act_batch(self, seen):
            if self.calls == self.end:
                raise KeyboardInterrupt
            self.calls += 1
            said = [np.full((S, 3), one.images["main"][0, 0, 0] / 3, np.float32) for one in seen]
            return [ActionChunk(actions=actions, space=SPACE) for actions in said]

    found, training = [episode(name, seed=i) for i, name in enumerate("abc")], [episode("t", seed=7)]

    def measured(policy, **words):
        return open_loop(policy, found, training_episodes=training, others={"file": Sick(-1)}, **words)

    whole = measured(Sick(-1))
    with pytest.raises(KeyboardInterrupt):
        measured(Sick(2), parts=Parts(tmp_path, "weights"))
    again = Sick(-1)
    result = measured(again, parts=Parts(tmp_path, "weights"))
    assert again.calls == 1 and result.to_json() == whole.to_json()
    other = Sick(-1)
    measured(other, parts=Parts(tmp_path, "other weights"))
    assert other.calls == 3
