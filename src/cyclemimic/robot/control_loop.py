"""Drives a robot: observe, ask, act, at a steady rate, within limits; hold when there is no good answer. Engineering.

A tick is one period of the rate: it ends in an action or in a hold. A hold stands still, voids what was planned, and
asks anew; enough holds in a row end the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from cyclemimic.errors import InputError
from cyclemimic.robot.blending import Blending, Newest
from cyclemimic.robot.client import BadAnswerError, LateAnswerError, PolicyClient, ServerLostError
from cyclemimic.robot.limits import Limits
from cyclemimic.robot.robot import Robot
from cyclemimic.types import Float32, Task

NO_GOOD_ANSWER = (LateAnswerError, BadAnswerError, ServerLostError)
# What a sick robot does; it ends the episode, and any other exception is a fault of ours and must be seen.
EPISODE_ERRORS = (InputError, RuntimeError, FloatingPointError)
_SIMULATED_DEADLINE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a robot is driven.

    Args:
        realtime: hold the rate by the clock. Without it a simulated robot goes as fast as it can, waits for every
            answer, and does the same in every run.
        rate_hz: actions per second; the action space's unless given.
        deadline_s: how long after a question its answer may come; unless given, one period (in overlap as many as
            the overlap), and a minute without `realtime`.
        play_steps: how many actions of a chunk are taken before the next takes over; all unless given.
        overlap_steps: the next chunk is asked for so many steps before it is needed, while the present one plays; as
            many of its first actions are then in the past and are left out. 0 asks and waits.
        max_step: by axis, how far one step may go, where that is tighter than the action space.
        blend: weight of a chunk relative to the one before it in a mean of targets (`Blending`); None: no blending.
        max_holds: so many holds in a row end the run.
        max_steps: of an episode, for robots that do not know when time is up.
        instruction: said to the policy instead of what the robot says.
    """

    realtime: bool = False
    rate_hz: float | None = None
    deadline_s: float | None = None
    play_steps: int | None = None
    overlap_steps: int = 0
    max_step: Mapping[str, float] = field(default_factory=dict)
    blend: float | None = None
    max_holds: int = 10
    max_steps: int | None = None
    instruction: str | None = None

    def __post_init__(self) -> None:
        for flag, value, least in (
            ("--play-steps", self.play_steps, 1),
            ("--overlap-steps", self.overlap_steps, 0),
            ("--max-holds", self.max_holds, 1),
            ("--max-steps", self.max_steps, 1),
        ):
            if value is not None and value < least:
                raise InputError(flag, expected=f"{least} or more", got=str(value), remedy="Leave it out.")
        for flag, number in (("--rate-hz", self.rate_hz), ("--deadline-ms", self.deadline_s)):
            if number is not None and not 0 < number < np.inf:
                raise InputError(flag, expected="more than 0", got=f"{number:g}", remedy="Leave it out.")


@dataclass(frozen=True, kw_only=True)
class DrivenEpisode:
    """How one episode ended. `success` is None where nobody can tell: the robot cannot, or it was cut short."""

    task: Task
    success: bool | None
    steps: int
    holds: int
    error: str | None = None


class StoppedError(RuntimeError):
    """Too many holds in a row; the robot is held. `episode` is what there was of it."""

    def __init__(self, said: str, episode: DrivenEpisode) -> None:
        super().__init__(said)
        self.episode = episode


class _EnoughError(Exception):
    """`max_holds` is reached."""


@dataclass(frozen=True, kw_only=True)
class LoopReport:
    """What the loop did, over all episodes. Latency: from a question to its answer, of the answers that came in time.

    Args:
        lost: how often the connection ended.
        overruns: ticks that began a whole period late or more, and were left out.
        achieved_hz: ticks per second; None for fewer than two.
    """

    steps: int
    holds: int
    late: int
    bad: int
    lost: int
    overruns: int
    clips: Mapping[str, int]
    rate_hz: float
    achieved_hz: float | None
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    policy_p50_ms: float | None

    def text(self) -> str:
        """Three lines for a person."""
        clips = ", ".join(f"{name} {count}" for name, count in self.clips.items() if count) or "none"

        def number(value: float | None) -> str:
            return "-" if value is None else f"{value:.1f}"

        return (
            f"{self.steps} steps, {self.holds} holds (answers: {self.late} late, {self.bad} bad; connection lost "
            f"{self.lost} times)\n"
            f"clipped: {clips}\n"
            f"{number(self.achieved_hz)} Hz of {self.rate_hz:g}, {self.overruns} overruns; latency p50 "
            f"{number(self.latency_p50_ms)} ms, p95 {number(self.latency_p95_ms)} ms, policy "
            f"{number(self.policy_p50_ms)} ms"
        )


class Pace:
    """Ticks at begin + k / rate by a clock that never jumps: lateness of one tick does not move the next."""

    def __init__(self, rate_hz: float, realtime: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.period_s, self.realtime, self.clock = 1.0 / rate_hz, realtime, clock
        self.overruns, self.ticks, self.spent_s = 0, 0, 0.0
        self.start()

    def start(self) -> None:
        """A new episode: its first tick is now."""
        self._begin_s, self._next = self.clock(), 0
        self._last_s: float | None = None

    def wait(self, sleep: Callable[[float], object]) -> None:
        """Until the next tick; one that is a whole period late is left out, for no robot can catch up."""
        if self.realtime:
            late_s = self.clock() - self._begin_s - self._next * self.period_s
            if late_s < 0:
                sleep(-late_s)
            missed = max(0, int(late_s / self.period_s))
            self.overruns += missed
            self._next += missed + 1
        now_s = self.clock()
        if self._last_s is not None:
            self.ticks, self.spent_s = self.ticks + 1, self.spent_s + now_s - self._last_s
        self._last_s = now_s


class ControlLoop:
    """One robot, one client, any number of episodes.

    Args:
        robot: is held, and not closed, when an episode ends.
        client: of a policy for this body.
        config: how to drive.

    Raises:
        InputError: the policy is for another body, or the configuration does not fit its chunks.
    """

    def __init__(self, robot: Robot, client: PolicyClient, config: LoopConfig) -> None:
        client.check(robot.action_space, robot.cameras)
        self.robot, self.client, self.config = robot, client, config
        space, chunk = robot.action_space, client.hello.chunk_steps
        self._play = config.play_steps or max(1, chunk - config.overlap_steps)
        if self._play + config.overlap_steps > chunk:
            raise InputError(
                "--play-steps and --overlap-steps",
                expected=f"together at most the {chunk} actions of the policy's chunks",
                got=f"{self._play} and {config.overlap_steps}",
                remedy="Take fewer.",
            )
        deltas = np.array([axis.kind == "delta" for axis in space.axes])
        self._limits = Limits(space, deltas, config.max_step)
        self._plan: Newest | Blending = Newest() if config.blend is None else Blending(deltas, config.blend)
        self._pace = Pace(config.rate_hz or space.rate_hz, config.realtime)
        usual_s = max(1, config.overlap_steps) * self._pace.period_s if config.realtime else _SIMULATED_DEADLINE_S
        self._deadline_s = config.deadline_s or usual_s
        self._asked: int | None = None  # at which step the open question's observation was taken
        self._until = 0  # the step at which the next chunk takes over
        self._connected = True
        self._steps = self._holds = self._late = self._bad = self._lost = 0
        self._latency_ms: list[float] = []
        self._policy_ms: list[float] = []

    def run(self, task: Task) -> DrivenEpisode:
        """One episode, from reset to its end; the robot is held when this returns or raises.

        Raises:
            StoppedError: `max_holds` holds in a row.
        """
        steps, holds = self._steps, self._holds
        error = None
        try:
            self.robot.reset(task)
            self._until = 0
            self._void()
            self._pace.start()
            self._play_out()
        except _EnoughError as enough:
            said = str(enough)
            raise StoppedError(said, self._episode(task, steps, holds, said)) from None
        except EPISODE_ERRORS as sick:
            error = f"{type(sick).__name__}: {sick}"
        finally:
            self.robot.hold()
        return self._episode(task, steps, holds, error)

    def report(self) -> LoopReport:
        """What was counted so far."""
        pace = self._pace
        return LoopReport(
            steps=self._steps,
            holds=self._holds,
            late=self._late,
            bad=self._bad,
            lost=self._lost,
            overruns=pace.overruns,
            clips=self._limits.clips(),
            rate_hz=1 / pace.period_s,
            achieved_hz=pace.ticks / pace.spent_s if pace.spent_s else None,
            latency_p50_ms=_percentile(self._latency_ms, 50),
            latency_p95_ms=_percentile(self._latency_ms, 95),
            policy_p50_ms=_percentile(self._policy_ms, 50),
        )

    def _episode(self, task: Task, steps: int, holds: int, error: str | None) -> DrivenEpisode:
        success = self.robot.outcome() if error is None else False
        return DrivenEpisode(
            task=task, success=success, steps=self._steps - steps, holds=self._holds - holds, error=error
        )

    def _play_out(self) -> None:
        """Tick until the robot says that it is over, or `max_steps`."""
        step = in_a_row = 0
        while self.robot.outcome() is None and step != self.config.max_steps:
            self._pace.wait(self._sleep)
            try:
                action = self._action(step)
            except NO_GOOD_ANSWER as error:
                in_a_row += 1
                self._hold(error, in_a_row)
                self._until = step
                continue
            action = self._limits.clip(action)
            self.robot.apply(action)
            self._plan.took(action)
            in_a_row = 0
            step += 1
            self._steps += 1

    def _action(self, step: int) -> Float32:
        """The action [A] of this step; asks and takes answers as they are due."""
        if step >= self._until:
            if self._asked is None:
                self._ask(step)
            assert self._asked is not None
            reply = self.client.answer(self._deadline_s - self.client.waited_s())
            self._plan.add(reply.chunk.actions, self._asked)
            self._latency_ms.append(reply.latency_ms)
            self._policy_ms.append(reply.policy_ms)
            # A chunk may be shorter than the server said; its own end counts.
            self._until = min(step + self._play, self._asked + len(reply.chunk.actions))
            self._asked = None
        if self._asked is None and self.config.overlap_steps and step >= self._until - self.config.overlap_steps:
            self._ask(step)
        action = self._plan.action(step)
        if action is None:
            raise BadAnswerError(f"a chunk that does not reach this step; hello said {self.client.hello.chunk_steps}")
        return action

    def _ask(self, step: int) -> None:
        self.client.drain(self._deadline_s)
        seen = self.robot.observe()
        if self.config.instruction is not None:
            seen = replace(seen, instruction=self.config.instruction)
        self._plan.saw(step)
        try:
            self.client.ask(seen)
        except InputError as error:
            raise BadAnswerError(f"the observation cannot be sent: {error}") from error
        self._asked = step

    def _hold(self, error: Exception, in_a_row: int) -> None:
        """Stand still for a tick; after a lost connection, try to have it again."""
        self.robot.hold()
        self._void()
        self._holds += 1
        self._late += isinstance(error, LateAnswerError)
        self._bad += isinstance(error, BadAnswerError)
        said = str(error)
        if isinstance(error, ServerLostError):
            self._lost += self._connected
            said = self._reconnect(said)
        if in_a_row >= self.config.max_holds:
            raise _EnoughError(f"stopped after {in_a_row} holds in a row; the last: {said}")

    def _reconnect(self, said: str) -> str:
        """Try to have the connection again; what to say of it."""
        self._connected = False
        if not self.config.realtime:
            time.sleep(self._pace.period_s)  # ticks take no time here, a server's restart does
        try:
            self.client.reconnect()
        except InputError as error:
            return f"{said}; {error}"
        self._connected = True
        return said

    def _void(self) -> None:
        """What was planned or asked for is out of date."""
        self._plan.clear()
        self._limits.start()
        self._asked = None

    def _sleep(self, seconds: float) -> None:
        """Sleep; an answer that comes meanwhile is taken in, so that its latency is its own."""
        ends_s = time.monotonic() + seconds
        if self._asked is not None:
            self.client.listen(seconds)
        time.sleep(max(0.0, ends_s - time.monotonic()))


def _percentile(values: list[float], share: float) -> float | None:
    return float(np.percentile(values, share)) if values else None
