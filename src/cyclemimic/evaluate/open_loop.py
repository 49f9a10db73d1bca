"""Open loop: how far a policy's chunks lie from what the demonstrator did next, beside three controls.

For robots that have no simulator. It does not replace success: a policy may copy well and fail, or find another way.

Letters in shapes: E episodes, S steps of a chunk, A action axes, B moments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclemimic.embodiment.deltas import circular, wrapped
from cyclemimic.errors import InputError
from cyclemimic.evaluate.parts import Parts
from cyclemimic.evaluate.rollout import BatchPolicy
from cyclemimic.evaluate.summary import null_for_nan
from cyclemimic.randomness import rng_for
from cyclemimic.store.atomic import write_json
from cyclemimic.types import ActionSpace, Episode, Float32, Observation

POLICY, HOLD, MEAN = "policy", "hold", "mean"
Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over episodes and its 95 % bootstrap interval; without one where there is a single episode."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Such as '0.0123 (0.0110-0.0140)'."""
        return f"{self.mean:.4f} ({self.low:.4f}-{self.high:.4f})"


@dataclass(frozen=True, kw_only=True)
class OpenLoop:
    """Mean absolute errors of a policy and its controls on the same moments, in the units of the axes.

    An episode's error is the mean over its moments and the steps of their chunks; all episodes count alike.
    """

    space: ActionSpace
    clips: tuple[str, ...]  # [E]
    moments: int
    errors: Mapping[str, Numbers]  # by name [E, S, A]; NaN where an episode is shorter than a step lies ahead

    def axes(self, name: str) -> tuple[Interval, ...]:
        """The error of each axis."""
        return bootstrap(np.nanmean(self.errors[name], axis=1))

    def steps(self, name: str) -> tuple[tuple[float, ...], ...]:
        """The mean error of each step of the chunk, axis by axis [S][A]; the first acts at once."""
        with np.errstate(invalid="ignore"):
            found = self.errors[name]
            count = (~np.isnan(found)).sum(0)
            return tuple(map(tuple, (np.nansum(found, axis=0) / np.where(count, count, np.nan)).tolist()))

    def gain(self, name: str) -> tuple[Interval, ...]:
        """How much smaller the policy's error is than another's on the same episodes, axis by axis; > 0 is better."""
        return bootstrap(np.nanmean(self.errors[name] - self.errors[POLICY], axis=1))

    def text(self) -> str:
        """A table: axis, unit, the policy with its interval, every control; a star where the policy beats it surely."""
        others = [name for name in self.errors if name != POLICY]
        policy = self.axes(POLICY)
        rows = [["axis", "unit", POLICY, *others]]
        columns = {name: (self.axes(name), self.gain(name)) for name in others}
        for i, axis in enumerate(self.space.axes):
            cells = [f"{found[i].mean:.4f}{'*' if gain[i].low > 0 else ''}" for found, gain in columns.values()]
            rows.append([axis.name, axis.unit, str(policy[i]), *cells])
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        few = "" if len(self.clips) > 1 else "; a single episode has no interval"
        return "\n".join(
            [
                *lines,
                f"mean absolute error over {self.moments} moments of {len(self.clips)} episodes{few}",
                "* the policy's error is smaller: the 95 % interval of the difference, over episodes, lies above 0",
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold: means and intervals, errors by step, and every episode's error."""
        rows = {
            name: {
                "axes": [asdict(interval) for interval in self.axes(name)],
                "steps": [list(step) for step in self.steps(name)],
                "episodes": np.nanmean(found, axis=1).tolist(),
                "gain": None if name == POLICY else [asdict(interval) for interval in self.gain(name)],
            }
            for name, found in self.errors.items()
        }
        found: dict[str, Any] = null_for_nan(
            {"space": asdict(self.space), "clips": self.clips, "moments": self.moments, "rows": rows}
        )
        return found

    def save(self, path: Path) -> None:
        """Write the result as JSON."""
        write_json(path, self.to_json())


def open_loop(
    policy: BatchPolicy,
    episodes: Iterable[Episode],
    *,
    training_episodes: Iterable[Episode],
    others: Mapping[str, BatchPolicy] | None = None,
    batch: int = 64,
    parts: Parts | None = None,
) -> OpenLoop:
    """Ask at every moment of held-out episodes and compare with the actions that followed.

    Controls: `hold` stays (a change of 0; the last target once more, before the first action the mean first action of
    the training episodes), `mean` always takes the mean action of the training episodes, and `others`, such as the
    same policy without pre-training. Behind the end of an episode nothing is compared.

    Args:
        policy: says chunks.
        episodes: with actions, none of which any of the policies was trained on; may come one by one.
        training_episodes: those of the policy; their actions alone are looked at.
        others: further policies by name; their chunks must be as long.
        batch: moments at once.
        parts: where the errors of each episode are kept until all are measured; its facts decide policies and episodes.

    Raises:
        InputError: no episode, one without actions or of another action space, or a chunk that is too short.
    """
    asked = {POLICY: policy, **(others or {})}
    if {HOLD, MEAN} & set(asked) or len(asked) != 1 + len(others or {}):
        raise InputError(
            "others",
            expected=f"names other than {POLICY}, {HOLD} and {MEAN}",
            got=", ".join(others or {}),
            remedy="Call it otherwise.",
        )
    mean, first = _habits(training_episodes)
    space: ActionSpace | None = None
    errors: dict[str, list[Numbers]] = {name: [] for name in (POLICY, HOLD, MEAN, *(others or {}))}
    clips: list[str] = []
    moments = 0
    parts = (parts or Parts()).under(list(asked), batch)

    def errors_of(episode: Episode, actions: Float32, space: ActionSpace) -> dict[str, Numbers]:
        """The errors of each name in one episode [S, A]."""
        said = {name: _chunks(found, episode, space, batch) for name, found in asked.items()}
        steps = said[POLICY].shape[1]
        last = np.concatenate([first[None], actions[:-1]])
        still = np.where([axis.kind == "delta" for axis in space.axes], 0.0, last)
        said |= {
            HOLD: np.repeat(still[:, None], steps, 1),
            MEAN: np.broadcast_to(mean, (len(actions), steps, len(mean))),
        }
        for name, chunk in said.items():
            if chunk.shape[1] < steps:
                raise InputError(
                    name, expected=f"chunks of {steps} steps", got=str(chunk.shape[1]), remedy="Compare equal chunks."
                )
        # Names of runs may be any; those of arrays in a file may not.
        return {str(i): _error(said[name][:, :steps], actions, space) for i, name in enumerate(errors)}

    for episode in episodes:
        actions, space = _actions(episode, space)
        if actions.shape[1] != len(mean):
            raise InputError(
                f"episode {episode.info.name!r}",
                expected=f"{len(mean)} axes, as in the training episodes",
                got=str(actions.shape[1]),
                remedy="Name the episodes of the same body.",
            )
        found = parts.arrays(f"episode {episode.info.name}", partial(errors_of, episode, actions, space))
        for i, rows in enumerate(errors.values()):
            rows.append(found[str(i)])
        clips.append(episode.info.name)
        moments += len(actions)
    if space is None:
        raise InputError("episodes", expected="at least one held-out episode", got="none", remedy="Record more.")
    return OpenLoop(
        space=space,
        clips=tuple(clips),
        moments=moments,
        errors={name: np.stack(rows) for name, rows in errors.items()},
    )


def bootstrap(rows: Numbers, *, draws: int = 2000) -> tuple[Interval, ...]:
    """The mean of each column of `rows` [E, A] and its 95 % percentile interval over episodes drawn anew."""
    rng = rng_for(0, 0, "bootstrap")
    index = rng.integers(len(rows), size=(draws, len(rows)))
    low, high = np.quantile(rows[index].mean(1), (0.025, 0.975), axis=0)
    if len(rows) == 1:
        low = high = np.full(rows.shape[1], math.nan)
    return tuple(
        Interval(mean=float(m), low=float(a), high=float(b)) for m, a, b in zip(rows.mean(0), low, high, strict=True)
    )


def observations(episode: Episode) -> list[Observation]:
    """What is seen at each moment from which an action leads on."""
    cameras = {episode.camera: episode.frames, **episode.extra_frames}
    state = episode.proprioception
    return [
        Observation(
            images={name: frames[t] for name, frames in cameras.items()},
            instruction=episode.info.instruction,
            proprioception=None if state is None else state[t],
        )
        for t in range(len(episode.frames) - 1)
    ]


def _chunks(policy: BatchPolicy, episode: Episode, space: ActionSpace, batch: int) -> Float32:
    """What a policy says at each moment [B, S, A]."""
    seen, found = observations(episode), []
    for start in range(0, len(seen), batch):
        for chunk in policy.act_batch(seen[start : start + batch]):
            if chunk.space != space:
                raise InputError(
                    f"episode {episode.info.name!r}",
                    expected=f"the action space of the policy, {chunk.space.name!r} of {chunk.space.width} axes",
                    got=f"{space.name!r} of {space.width}, or other limits, kinds or rate",
                    remedy="Name demonstrations of the body that the policy was trained on.",
                )
            found.append(chunk.actions)
    return np.stack(found)


def _error(chunks: NDArray[Any], actions: Float32, space: ActionSpace) -> Numbers:
    """Mean absolute error [S, A] over an episode's moments; chunks [B, S, A] against what followed."""
    count, steps = chunks.shape[:2]
    place = np.arange(count)[:, None] + np.arange(steps)
    difference = chunks.astype(np.float64) - actions[np.minimum(place, count - 1)]
    # A target on a circle is as near as the short way round says.
    around = circular(space) & np.array([axis.kind == "absolute" for axis in space.axes])
    error = np.abs(np.where(around, wrapped(difference), difference))
    real = (place < count)[..., None]
    whole: Numbers = np.full((steps, space.width), np.nan)
    there = real.any(0)[:, 0]
    whole[there] = ((error * real).sum(0) / np.maximum(real.sum(0), 1))[there]
    return whole


def _habits(episodes: Iterable[Episode]) -> tuple[Numbers, Numbers]:
    """The mean action [A] of the training episodes, and the mean of their first actions."""
    space: ActionSpace | None = None
    every: list[Float32] = []
    for episode in episodes:
        actions, space = _actions(episode, space)
        every.append(actions)
    if not every:
        remedy = "Give the demonstrations that the policy was trained on."
        raise InputError("training_episodes", expected="at least one episode", got="none", remedy=remedy)
    return np.concatenate(every).mean(0, np.float64), np.mean([actions[0] for actions in every], 0, np.float64)


def _actions(episode: Episode, space: ActionSpace | None) -> tuple[Float32, ActionSpace]:
    """The episode's actions, whose space is `space` where one is known."""
    if episode.actions is None or episode.action_space is None or not len(episode.actions):
        got = "none" if episode.actions is None or not len(episode.actions) else "no action space"
        raise InputError(
            f"episode {episode.info.name!r}", expected="actions", got=got, remedy="Name demonstrations with actions."
        )
    if space is not None and episode.action_space != space:
        raise InputError(
            f"episode {episode.info.name!r}",
            expected=f"action space {space.name!r}, as the other episodes have",
            got=repr(episode.action_space.name),
            remedy="Judge one body at a time.",
        )
    return episode.actions, episode.action_space
