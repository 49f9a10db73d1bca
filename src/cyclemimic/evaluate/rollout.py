"""Closed loop: many episodes in lock-step, so that a policy sees a batch; success, failure, error apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from cyclemimic.errors import InputError
from cyclemimic.evaluate.statistics import McNemar, SuccessRow, mcnemar, success_row
from cyclemimic.types import ActionChunk, Float32, Observation, Task, UInt8, World

Instruct = Callable[[Task, Observation], Observation]
# What a sick policy or world does; any other exception is a fault of ours and must be seen.
EPISODE_ERRORS = (InputError, RuntimeError, FloatingPointError)


class BatchPolicy(Protocol):
    """A policy that acts for many episodes at once."""

    def act_batch(self, observations: Sequence[Observation]) -> Sequence[ActionChunk]:
        """The next chunk of each episode."""
        ...


@dataclass(frozen=True, kw_only=True)
class EpisodeOutcome:
    """How one episode ended. `film` is kept for a few only."""

    task: Task
    success: bool
    steps: int
    error: str | None = None
    film: UInt8 | None = None  # [T, H, W, 3], the world's camera whenever the policy was asked, and the end


@dataclass(frozen=True, kw_only=True)
class RolloutResult:
    """Every outcome, in the order of the tasks."""

    outcomes: tuple[EpisodeOutcome, ...]

    @property
    def successes(self) -> int:
        """Episodes solved."""
        return sum(o.success for o in self.outcomes)

    @property
    def errors(self) -> int:
        """Episodes that ended in an exception."""
        return sum(o.error is not None for o in self.outcomes)

    @property
    def failures(self) -> int:
        """Episodes that ran out of time without an exception."""
        return len(self.outcomes) - self.successes - self.errors

    @property
    def error_messages(self) -> tuple[str, ...]:
        """Each different message once, in order."""
        return tuple(dict.fromkeys(o.error for o in self.outcomes if o.error is not None))

    def row(self) -> SuccessRow:
        """The rate over all episodes, with its interval."""
        return success_row(self.successes, len(self.outcomes), self.errors)

    def per_skill(self) -> dict[str, SuccessRow]:
        """The rate of each skill, sorted by name."""
        parts: dict[str, list[EpisodeOutcome]] = {}
        for outcome in self.outcomes:
            parts.setdefault(outcome.task.skill, []).append(outcome)
        return {k: RolloutResult(outcomes=tuple(v)).row() for k, v in sorted(parts.items())}

    def films(self) -> tuple[EpisodeOutcome, ...]:
        """The episodes whose frames were kept."""
        return tuple(o for o in self.outcomes if o.film is not None)

    def against(self, other: RolloutResult) -> McNemar:
        """Exact paired test against another arm.

        Raises:
            InputError: the other arm ran other tasks.
        """
        if [o.task for o in self.outcomes] != [o.task for o in other.outcomes]:
            raise InputError(
                "RolloutResult.against", expected="the same tasks in the same order", got="other tasks",
                remedy="Give both arms one list of tasks.",
            )  # fmt: skip
        return mcnemar([o.success for o in self.outcomes], [o.success for o in other.outcomes])


@dataclass(kw_only=True)
class _Slot:
    """One world and the episode that runs in it."""

    world: World
    number: int = -1
    task: Task | None = None
    observation: Observation | None = None
    steps: int = 0
    film: list[UInt8] | None = field(default=None)


def evaluate_policy(
    make_world: Callable[[], World],
    policy: BatchPolicy,
    tasks: Sequence[Task],
    *,
    chunk_steps: int,
    batch: int = 16,
    instruct: Instruct | None = None,
    films_per_skill: int = 0,
) -> RolloutResult:
    """Run every task once. A world is one episode, so `batch` worlds run side by side.

    Args:
        make_world: makes a fresh world; each must give equal starts for equal tasks.
        policy: acts for all running episodes at once.
        tasks: what to do, in which order; the outcomes come in this order whatever `batch` is.
        chunk_steps: how many actions of a chunk are taken before the policy is asked again.
        batch: episodes side by side.
        instruct: changes what the policy is shown (a swapped sentence, a black picture); the world is not
            changed.
        films_per_skill: for how many episodes of each skill the frames are kept.

    An InputError, RuntimeError or FloatingPointError ends its own episode as an error; others propagate.
    Engineering.
    """
    if chunk_steps < 1 or batch < 1:
        raise InputError(
            "evaluate_policy",
            expected="chunk_steps and batch >= 1",
            got=f"{chunk_steps} and {batch}",
            remedy="Use 1 or more.",
        )
    filmed = _first_of_each_skill(tasks, films_per_skill)
    slots = [_Slot(world=make_world()) for _ in range(min(batch, len(tasks)))]
    waiting = list(enumerate(tasks))[::-1]
    outcomes: dict[int, EpisodeOutcome] = {}
    while len(outcomes) < len(tasks):
        for slot in slots:
            while slot.task is None and waiting:
                _start(slot, *waiting.pop(), filmed, outcomes)
        running = [s for s in slots if s.task is not None]
        for slot, plan in zip(running, _plans(policy, running, instruct), strict=True):
            if isinstance(plan, str):
                _finish(slot, outcomes, success=False, error=plan)
            else:
                _play(slot, plan[:chunk_steps], outcomes)
    return RolloutResult(outcomes=tuple(outcomes[i] for i in range(len(tasks))))


def _first_of_each_skill(tasks: Sequence[Task], count: int) -> frozenset[int]:
    kept: dict[str, list[int]] = {}
    for i, task in enumerate(tasks):
        kept.setdefault(task.skill, []).append(i)
    return frozenset(i for places in kept.values() for i in places[:count])


def _start(slot: _Slot, number: int, task: Task, filmed: frozenset[int], outcomes: dict[int, EpisodeOutcome]) -> None:
    slot.number, slot.task, slot.steps = number, task, 0
    slot.film = [] if number in filmed else None
    try:
        slot.observation = slot.world.reset(task)
    except EPISODE_ERRORS as error:
        _finish(slot, outcomes, success=False, error=_message(error))


def _plans(policy: BatchPolicy, running: Sequence[_Slot], instruct: Instruct | None) -> list[Float32 | str]:
    """The next actions [S, A] of each running episode, or what went wrong in it."""
    plans: list[Float32 | str] = [""] * len(running)
    shown: list[tuple[int, Observation]] = []
    for i, slot in enumerate(running):
        assert slot.task is not None and slot.observation is not None
        if slot.film is not None:
            slot.film.append(_picture(slot))
        try:
            seen = slot.observation if instruct is None else instruct(slot.task, slot.observation)
            shown.append((i, seen))
        except EPISODE_ERRORS as error:
            plans[i] = _message(error)
    if not shown:
        return plans
    try:
        chunks = policy.act_batch([seen for _, seen in shown])
        for (i, _), chunk in zip(shown, chunks, strict=True):
            plans[i] = chunk.actions
    except EPISODE_ERRORS:
        # One sick episode must not count against its neighbours: ask again, one by one.
        for i, seen in shown:
            try:
                plans[i] = policy.act_batch([seen])[0].actions
            except EPISODE_ERRORS as error:
                plans[i] = _message(error)
    return plans


def _play(slot: _Slot, actions: Float32, outcomes: dict[int, EpisodeOutcome]) -> None:
    """Take the actions until the task is solved or time is up."""
    for action in actions:
        try:
            step = slot.world.step(action)
        except EPISODE_ERRORS as error:
            _finish(slot, outcomes, success=False, error=_message(error))
            return
        slot.observation = step.observation
        slot.steps += 1
        if step.success or step.truncated or slot.steps >= slot.world.max_steps:
            _finish(slot, outcomes, success=step.success)
            return


def _finish(slot: _Slot, outcomes: dict[int, EpisodeOutcome], *, success: bool, error: str | None = None) -> None:
    assert slot.task is not None
    film = None
    if slot.film is not None and slot.observation is not None:
        film = np.stack([*slot.film, _picture(slot)])
    outcomes[slot.number] = EpisodeOutcome(task=slot.task, success=success, steps=slot.steps, error=error, film=film)
    slot.task, slot.observation, slot.film = None, None, None


def _picture(slot: _Slot) -> UInt8:
    """What the world's own camera shows, whatever the policy is shown."""
    assert slot.observation is not None
    images = slot.observation.images
    return images.get(slot.world.camera.name, next(iter(images.values()))).copy()


def _message(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def black_image(observation: Observation) -> Observation:
    """The same observation with every picture black: a policy that still succeeds does not look."""
    return replace(observation, images={k: np.zeros_like(v) for k, v in observation.images.items()})


def with_instruction(observation: Observation, text: str | None) -> Observation:
    """The same observation with another sentence: a policy that still succeeds does not listen."""
    return replace(observation, instruction=text)
