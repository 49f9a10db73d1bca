"""Closed loop: many episodes in lock-step, so that a policy sees a batch; success, failure, error apart."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError
from cyclemimic.evaluate import parts as kept_parts
from cyclemimic.evaluate.models import QUIET_S
from cyclemimic.evaluate.parts import Parts
from cyclemimic.evaluate.statistics import McNemar, SuccessRow, mcnemar, success_row
from cyclemimic.train.progress import Progress
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
    parts: Parts | None = None,
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
        parts: where outcomes and the states of running worlds are kept until all are done, so that a killed call goes
            on with the same episodes side by side; its facts decide world, policy and what it is shown.

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
    kept = _Kept(tasks, slots, waiting, outcomes, (parts or Parts()).under(chunk_steps, batch, films_per_skill))
    kept.go_on(filmed)
    progress = Progress(name="episodes", total=len(tasks), done=len(outcomes), quiet_s=QUIET_S)
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
        progress.update(len(outcomes))
        kept.save()
    return RolloutResult(outcomes=tuple(outcomes[i] for i in range(len(tasks))))


class _Kept:
    """How far all episodes are, between two questions to the policy.

    The running ones are kept as states of their worlds: which episodes the policy sees side by side decides the last
    bits of what it says, so only the very same ones give the same outcomes as an unbroken call.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        slots: list[_Slot],
        waiting: list[tuple[int, Task]],
        outcomes: dict[int, EpisodeOutcome],
        parts: Parts,
    ) -> None:
        self.tasks, self.slots, self.waiting, self.outcomes = tasks, slots, waiting, outcomes
        self.parts = parts.under([asdict(task) for task in tasks])
        self._saved_s = time.monotonic()

    def save(self) -> None:
        """Write all down, where enough was done since, or nothing is left to do."""
        whole = len(self.outcomes) == len(self.tasks)
        if self.parts.folder is None or not (whole or time.monotonic() - self._saved_s >= kept_parts.SAVE_S):
            return
        arrays: dict[str, NDArray[Any]] = {}
        ended, running = [], []
        for number, outcome in self.outcomes.items():
            ended.append([number, outcome.success, outcome.steps, outcome.error])
            if outcome.film is not None:
                arrays[f"film-{number}"] = outcome.film
        for i, slot in enumerate(self.slots):
            if slot.task is None or slot.observation is None:
                continue
            running.append([i, slot.number, slot.steps, _seen(slot.observation)])
            arrays[f"state-{i}"] = slot.world.state()
            if slot.film:
                arrays[f"film-{slot.number}"] = np.stack(slot.film)
        facts = {"ended": ended, "running": running, "waiting": len(self.waiting)}
        arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        self.parts.keep("episodes", arrays)
        self._saved_s = time.monotonic()

    def go_on(self, filmed: frozenset[int]) -> None:
        """Stand where a killed call stood; at the beginning, where there was none or a world cannot return."""
        found = self.parts.found("episodes")
        if found is None:
            return
        facts = json.loads(found["facts"].tobytes())
        try:
            for i, number, steps, seen in facts["running"]:
                slot = self.slots[i]
                slot.number, slot.task, slot.steps = number, self.tasks[number], steps
                slot.world.reset(slot.task)
                slot.observation = slot.world.restore(found[f"state-{i}"])
                film = found.get(f"film-{number}")
                slot.film = None if number not in filmed else [] if film is None else list(film)
                if _seen(slot.observation) != seen:
                    raise RuntimeError(f"{slot.world.name} does not return to what was seen")
        except EPISODE_ERRORS as error:
            print(f"episodes: all from the beginning, for a killed run cannot be gone on with: {error}", flush=True)
            for slot in self.slots:
                slot.task, slot.observation, slot.film = None, None, None
            return
        for number, success, steps, error_text in facts["ended"]:
            self.outcomes[number] = EpisodeOutcome(
                task=self.tasks[number],
                success=success,
                steps=steps,
                error=error_text,
                film=found.get(f"film-{number}"),
            )
        del self.waiting[facts["waiting"] :]


def _seen(observation: Observation) -> str:
    """Hash of what a policy would be shown."""
    digest = hashlib.sha256(repr(observation.instruction).encode())
    for name, picture in sorted(observation.images.items()):
        digest.update(name.encode() + picture.tobytes())
    if observation.proprioception is not None:
        digest.update(observation.proprioception.tobytes())
    return digest.hexdigest()


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
