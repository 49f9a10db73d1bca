"""The loop: what a robot is told, when it is held, that it keeps its rate, and that it counts what it did."""

import time

import numpy as np
import pytest

from cyclemimic.errors import InputError
from cyclemimic.robot.client import PolicyClient
from cyclemimic.robot.control_loop import ControlLoop, LoopConfig, Pace, StoppedError
from cyclemimic.robot.limits import Limits
from cyclemimic.serve.server import serving
from cyclemimic.types import ActionChunk, Task
from tests.robots import HELLO, SPACE, Rail, Walker

GO = Task(body="rail", skill="go", seed=0)
BOTH = np.array([True, False])


@pytest.fixture
def driven():
    """Drives `robot` once by `policy`; gives the episode and the report."""

    def run(policy, robot, task=GO, **config):
        with serving(policy, HELLO) as address:
            client = PolicyClient(address)
            loop = ControlLoop(robot, client, LoopConfig(**config))
            try:
                return loop.run(task), loop.report()
            finally:
                client.close()

    return run


def grips(robot):
    """At each step, the number of the answer that it came from."""
    return [round(float(action[1]) * 100) for action in robot.told]


def test_whole_chunks_one_after_another(driven):
    robot, policy = Rail(), Walker()
    episode, report = driven(policy, robot)
    assert (episode.task, episode.success, episode.steps, episode.holds, episode.error) == (GO, True, 6, 0, None)
    assert grips(robot) == [1, 1, 1, 1, 2, 2] and robot.holds == 1  # held when it is over
    assert [int(seen.images["eye"][0, 0, 0]) for seen in policy.seen] == [0, 4]
    assert (report.steps, report.holds, report.late, report.bad, report.lost) == (6, 0, 0, 0, 0)
    assert report.clips == {"x": 0, "grip": 0} and 0 < report.policy_p50_ms <= report.latency_p95_ms
    assert "6 steps, 0 holds" in report.text() and "clipped: none" in report.text()


def test_part_of_a_chunk(driven):
    robot = Rail()
    driven(Walker(), robot, play_steps=2)
    assert grips(robot) == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(("play", "overlap", "asked_at", "told"), [
    (None, 1, [0, 2, 5], [1, 1, 1, 2, 2, 2]),
    (2, 1, [0, 1, 3, 5], [1, 1, 2, 2, 3, 3]),
    (None, 2, [0, 0, 2, 4], [1, 1, 2, 2, 3, 3]),
])  # fmt: skip
def test_the_next_chunk_is_asked_for_while_this_one_plays(driven, play, overlap, asked_at, told):
    robot, policy = Rail(), Walker()
    # Says which action of its chunk this is, so that leaving out the past shows.
    policy.actions = lambda seen: np.stack([np.full(4, 1), policy.asked / 100 + np.arange(4) / 1e4], 1).astype("f4")
    driven(policy, robot, play_steps=play, overlap_steps=overlap)
    assert [int(seen.images["eye"][0, 0, 0]) for seen in policy.seen][: len(asked_at)] == asked_at
    assert grips(robot) == told
    for step, action in enumerate(robot.told):
        number = round(float(action[1]) * 100)
        place = round((float(action[1]) - number / 100) * 1e4)
        assert place == step - asked_at[number - 1], "an action belongs to its step"


def test_equal_runs_are_equal(driven):
    told = []
    for _ in range(2):
        robot, policy = Rail(until=20.0), Walker()
        policy.actions = lambda seen: np.random.default_rng(int(seen.images["eye"][0, 0, 0])).random((4, 2), "f4")
        driven(policy, robot, overlap_steps=1, play_steps=2, blend=2.0, max_step={"x": 0.7})
        told.append(np.stack(robot.told))
    assert np.array_equal(*told)


def test_limits_of_axes_and_of_steps_are_kept_and_counted(driven):
    robot, policy = Rail(until=3.0), Walker(go=2.5)
    policy.actions = lambda seen: np.array([[2.5, 0.5], [2.5, 2.0], [0.25, 0.0], [2.5, 0.0]], np.float32)
    _, report = driven(policy, robot, max_step={"grip": 0.25})
    # x is a change and kept within 1; the grip is a target that may move a quarter, from wherever it begins.
    assert [a.tolist() for a in robot.told] == [[1, 0.5], [1, 0.75], [0.25, 0.5], [1, 0.25]]
    assert report.clips == {"x": 3, "grip": 3} and "clipped: x 3, grip 3" in report.text()


def test_limits_by_numbers():
    limits = Limits(SPACE, BOTH, {"x": 0.5, "grip": 0.25})
    first = limits.clip(np.array([-0.75, 0.5], np.float32))
    assert first.tolist() == [-0.5, 0.5] and first.dtype == np.float32
    assert limits.clip(np.array([0.5, 1.0], np.float32)).tolist() == [0.5, 0.75]
    limits.start()  # where the hand is now is not known
    assert limits.clip(np.array([0.0, 0.0], np.float32)).tolist() == [0, 0]
    assert limits.clips() == {"x": 1, "grip": 1}
    exact = Limits(SPACE, BOTH).clip(np.array([0.123456789, 0.987654321], np.float32))
    assert exact.tobytes() == np.array([0.123456789, 0.987654321], np.float32).tobytes()


@pytest.mark.parametrize("kind", ["nan", "width", "crash"])
def test_a_bad_answer_is_a_hold_and_then_it_goes_on(driven, kind):
    robot, policy = Rail(), Walker()

    def actions(seen):
        if policy.asked in (2, 3):
            if kind == "crash":
                raise ZeroDivisionError("in the policy")
            return np.full((4, 2), np.nan, np.float32) if kind == "nan" else np.zeros((4, 3), np.float32)
        return Walker.actions(policy, seen)

    policy.actions = actions
    episode, report = driven(policy, robot, max_holds=3)
    assert episode.success and episode.holds == 2 and (report.bad, report.late) == (2, 0)
    assert grips(robot) == [1, 1, 1, 1, 4, 4] and robot.holds == 3


def test_an_observation_of_no_use_is_a_hold_too(driven):
    robot, policy = Rail(), Walker()
    observe, looks = robot.observe, []

    def sometimes():
        looks.append(len(robot.told))
        robot.blind = len(looks) == 2
        return observe()

    robot.observe = sometimes
    episode, report = driven(policy, robot)
    assert episode.success and (report.bad, episode.holds) == (1, 1) and policy.asked == 2


def test_late_answers_hold_and_are_not_played(driven):
    robot, policy = Rail(), Walker()
    policy.before = lambda asked: time.sleep(0.15 if asked == 2 else 0)
    episode, report = driven(policy, robot, realtime=True, rate_hz=20, deadline_s=0.05)
    assert episode.success and report.late == episode.holds >= 2
    assert grips(robot) == [1, 1, 1, 1, 3, 3], "the late answer is dropped"
    assert report.latency_p95_ms < 50


def test_enough_holds_in_a_row_stop_and_name_the_last_reason(driven):
    robot, policy = Rail(), Walker()
    policy.actions = lambda seen: np.full((4, 2), np.nan if policy.asked > 1 else 1, np.float32)
    with pytest.raises(StoppedError, match=r"3 holds in a row; the last: .*NaN") as told:
        driven(policy, robot, max_holds=3)
    episode = told.value.episode
    assert (episode.success, episode.steps, episode.holds) == (False, 4, 3) and "NaN" in episode.error
    assert len(robot.told) == 4 and robot.holds == 4


def test_holds_that_are_not_in_a_row_do_not_stop(driven):
    robot, policy = Rail(until=20.0), Walker()

    def actions(seen):
        return np.full((4, 2), np.nan if policy.asked % 3 else 1, np.float32)

    policy.actions = actions
    episode, _ = driven(policy, robot, max_holds=3)
    assert episode.success and episode.holds == 10


def test_a_server_that_dies_leaves_the_robot_held_and_what_was_done():
    robot, policy = Rail(), Walker()
    with serving(policy, HELLO) as address:
        client = PolicyClient(address, connect_timeout_s=1)
        loop = ControlLoop(robot, client, LoopConfig(max_holds=2))
        assert loop.run(GO).success
    with pytest.raises(StoppedError, match=r"connection to .* ended.*expected a policy server.*cyclemimic serve"):
        loop.run(GO)
    report = loop.report()
    assert (report.steps, report.lost, report.holds) == (6, 1, 2) and robot.holds >= 3 and robot.told == []


def test_a_server_that_comes_back_is_asked_again():
    robot, policy = Rail(), Walker()
    with serving(policy, HELLO) as address:
        client = PolicyClient(address)
        loop = ControlLoop(robot, client, LoopConfig())
        policy.before = lambda asked: client.close() if asked == 2 else None
        episode = loop.run(GO)
        client.close()
    assert episode.success and loop.report().lost == episode.holds == 1 and grips(robot) == [1, 1, 1, 1, 3, 3]


def test_a_sick_robot_ends_its_episode_alone(driven):
    robot = Rail()
    robot.sick_at = 3
    episode, _ = driven(Walker(), robot)
    assert (episode.success, episode.steps, episode.error) == (False, 3, "RuntimeError: a motor is hot")
    assert robot.holds == 1
    bad, _ = driven(Walker(), robot, task=Task(body="rail", skill="fly", seed=0))
    assert bad.steps == 0 and "InputError: Task.skill" in bad.error


def test_faults_of_ours_are_seen_and_the_robot_is_held(driven):
    robot = Rail()
    robot.apply = lambda action: {}["no such"]
    with pytest.raises(KeyError):
        driven(Walker(), robot)
    assert robot.holds == 1


def test_steps_end_what_the_robot_cannot(driven):
    episode, _ = driven(Walker(), Rail(until=1e9), max_steps=7)
    assert episode.steps == 7 and episode.success is None and episode.error is None


def test_the_sentence_may_be_given(driven):
    policy = Walker()
    driven(policy, Rail(), instruction="push")
    assert {seen.instruction for seen in policy.seen} == {"push"}


def test_blended_chunks_that_agree_are_the_plain_ones(driven):
    way = np.random.default_rng(0).uniform(-0.5, 1.0, (40, 2)).astype(np.float32)
    told = []
    for blend in (None, 1.0):
        robot, policy = Rail(until=1e9), Walker()
        policy.actions = lambda seen: way[(at := int(seen.images["eye"][0, 0, 0])) : at + 4]
        driven(policy, robot, play_steps=2, blend=blend, max_steps=24)
        told.append(np.stack(robot.told))
    np.testing.assert_allclose(told[0], told[1], atol=1e-6)


class Clock:
    """Time that passes when it is slept, or spent."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s

    def spend(self, seconds):
        self.now_s += seconds


def test_ticks_do_not_drift():
    clock = Clock()
    pace = Pace(4, True, clock)
    ticks = []
    for spent_s in (0.1, 0.2, 0.249, 0.3, 0.05, 0.0):
        pace.wait(clock.spend)
        ticks.append(clock.now_s - 100)
        clock.spend(spent_s)
    assert ticks == pytest.approx([0, 0.25, 0.5, 0.75, 1.05, 1.25]) and pace.overruns == 0
    assert pace.ticks / pace.spent_s == pytest.approx(5 / 1.25)


def test_a_tick_that_is_a_period_late_is_left_out():
    clock = Clock()
    pace = Pace(4, True, clock)
    ticks = []
    for spent_s in (0.6, 0.1, 0.1):
        pace.wait(clock.spend)
        ticks.append(clock.now_s - 100)
        clock.spend(spent_s)
    assert ticks == pytest.approx([0, 0.6, 0.75]) and pace.overruns == 1


def test_without_realtime_nothing_is_waited_for():
    clock = Clock()
    pace = Pace(4, False, clock)
    for _ in range(3):
        pace.wait(clock.spend)
    assert clock.now_s == 100


def test_the_rate_is_held_by_the_clock(driven):
    began_s = time.monotonic()
    _, report = driven(Walker(go=0.25), Rail(), realtime=True, rate_hz=40)
    assert report.steps == 24 and time.monotonic() - began_s > 23 / 40
    assert report.achieved_hz == pytest.approx(40, rel=0.1) and report.rate_hz == pytest.approx(40)


@pytest.mark.parametrize(
    ("config", "flag"),
    [
        ({"play_steps": 5}, "--play-steps"),
        ({"play_steps": 3, "overlap_steps": 2}, "--overlap-steps"),
        ({"overlap_steps": 4}, "--overlap-steps"),
        ({"play_steps": 0}, "--play-steps"),
        ({"max_holds": 0}, "--max-holds"),
        ({"rate_hz": 0.0}, "--rate-hz"),
        ({"deadline_s": float("nan")}, "--deadline-ms"),
        ({"max_step": {"xx": 1.0}}, "--max-step.*'xx'"),
        ({"max_step": {"x": 0.0}}, "--max-step"),
        ({"blend": -1.0}, "--blend"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_moves(driven, config, flag):
    robot = Rail()
    with pytest.raises(InputError, match=flag):
        driven(Walker(), robot, **config)
    assert robot.told == []


def test_a_chunk_that_is_shorter_than_was_said_is_played_to_its_end(driven):
    robot, policy = Rail(), Walker()
    policy.act = lambda seen: ActionChunk(actions=np.ones((2, 2), np.float32), space=SPACE)
    episode, report = driven(policy, robot)
    assert episode.success and report.bad == 0 and len(robot.told) == 6
