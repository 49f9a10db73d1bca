"""Exact counterfactuals of a simulator: what truly comes of one clip's actions in another clip's state.

The films are deterministic: a task, reset, and the actions that were recorded lead to every state that was filmed.
They depend on no tokenizer, so they are made once and shared.
Letters in shapes: n test pairs, m counterfactuals, T frames of a clip, A action axes, S side of the picture.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from cyclemimic.data.pairs import gap_in_frames, gap_of
from cyclemimic.embodiment.resize import resize_square
from cyclemimic.evaluate.models import QUIET_S, LatentActionModel, MotionReader, act_out, draws, label_frames
from cyclemimic.evaluate.moments import TruePairs
from cyclemimic.evaluate.parts import Arrays, Parts
from cyclemimic.evaluate.reconstruction import other_codes, psnr_db
from cyclemimic.evaluate.transfer import MOVING_M, References, plan_transfers
from cyclemimic.nn.batches import pixels
from cyclemimic.randomness import rng_for
from cyclemimic.store.atomic import write_atomically
from cyclemimic.train.progress import Progress
from cyclemimic.types import Float32, Gap, Int64, Observation, Task, UInt8, World
from cyclemimic.worlds.arms import ArmsWorld

_REPLAYED_M = 0.001  # a replay whose hand is farther from the film's is of another world
_HINDERED_M = 0.015  # a hand that went elsewhere was stopped by the workspace, by what it touched, or by its own haste
_MOVED_M = 0.005  # an object that moved this far was touched
_LEAST_SPREAD_DB = 0.1  # where any code and the best one are this near, there is no scale between them

_BLOCK = 50  # tries that are kept together

Reason = Literal["not_replayed", "hindered", "other_contact"]


@dataclass(frozen=True, kw_only=True)
class Filmed:
    """What led to a clip, and where the hand was: actions [T-1, A], the tip's places [T, 3]."""

    task: Task
    actions: Float32
    tip_m: Float32


@dataclass(frozen=True, kw_only=True)
class Counterfactuals:
    """Frames of pair `target`'s clip, and what the actions of pair `source` truly make of them.

    Args:
        source: indices into the test pairs [m].
        target: the same.
        now: o_c as the simulator draws it, without the film's compression [m, S, S, 3].
        later: what came of it [m, S, S, 3].
        not_replayed: tries that were left out because the film could not be replayed.
        hindered: because the hand did not move as it did in the source.
        other_contact: because an object moved in one of the two scenes and not in the other.
    """

    source: Int64
    target: Int64
    now: UInt8
    later: UInt8
    not_replayed: int
    hindered: int
    other_contact: int

    def __len__(self) -> int:
        return len(self.source)

    def save(self, path: Path) -> None:
        """Write as npz."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **vars(self))
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Counterfactuals:
        """Undo `save`."""
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        fields: dict[str, Any] = {name: int(a) if a.ndim == 0 else a for name, a in arrays.items()}
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class _Life:
    """One clip lived again: the world's state before each step and at the end, the tip [T, 3], the objects [T, ...]."""

    states: list[NDArray[np.float64]]
    tip_m: NDArray[np.float64]
    objects_m: NDArray[np.float64]


def build_counterfactuals(
    world: World,
    filmed: Mapping[str, Filmed],
    test: TruePairs,
    *,
    gap_s: Gap,
    size_px: int,
    bodies: tuple[str, ...],
    seed: int,
    limit: int = 300,
    tries: int = 500,
    parts: Parts | None = None,
) -> Counterfactuals:
    """Live the clips again and try other actions, across bodies, until `limit` counterfactuals are found.

    Args:
        world: the one that was filmed.
        filmed: clip name -> what led to it; pairs of other clips are not replayed.
        test: pairs that know their clip's name and their frame.
        gap_s: seconds between now and later.
        size_px: side of the pictures that tokenizers see.
        bodies: between which bodies.
        seed: which pairs.
        limit: m at most.
        tries: how many transfers are tried at most.
        parts: where tries are kept until all are made; its facts decide all else.
    """
    frame = test.frame
    assert frame is not None, "pairs of a cache know their frame"
    plan = plan_transfers(
        test, sources=bodies, targets=bodies, same_body=False, limit=tries, seed=seed, least_m=MOVING_M
    )
    lives: dict[str, _Life | None] = {}

    def life_of(pair: int) -> _Life | None:
        name = test.clip_names[test.clip[pair]]
        if name not in lives:
            lives[name] = _live(world, filmed[name]) if name in filmed else None
        return lives[name]

    def attempt(pairs: Int64, most: int) -> Arrays:
        """What comes of some tries [m, 2], up to `most` counterfactuals: arrays named as the fields."""
        left_out: Counter[Reason] = Counter()
        kept: list[tuple[int, int]] = []
        pictures: list[tuple[UInt8, UInt8]] = []
        for source, target in pairs.tolist():
            if len(kept) == most:
                break
            own, other = life_of(source), life_of(target)
            if own is None or other is None:
                left_out["not_replayed"] += 1
                continue
            gap = gap_in_frames(gap_of(gap_s, test.bodies[test.body[source]]), world.action_space.rate_hz)
            t, u = int(frame[source]), int(frame[target])
            actions = filmed[test.clip_names[test.clip[source]]].actions[t : t + gap]
            world.reset(filmed[test.clip_names[test.clip[target]]].task)
            now, later, moved_m, objects_m = _act(world, other.states[u], actions)
            reason = _left_out(own, t, gap, moved_m, objects_m - other.objects_m[u])
            if reason is not None:
                left_out[reason] += 1
                continue
            kept.append((source, target))
            pictures.append((now, later))
        side = world.camera.height_px
        frames = np.array(pictures, np.uint8).reshape(-1, 2, side, side, 3)
        table = np.array(kept, np.int64).reshape(-1, 2)
        empty = np.zeros((0, size_px, size_px, 3), np.uint8)
        return {
            "source": table[:, 0],
            "target": table[:, 1],
            "now": resize_square(frames[:, 0], size_px) if len(frames) else empty,
            "later": resize_square(frames[:, 1], size_px) if len(frames) else empty,
            **{reason: np.array(left_out[reason]) for reason in get_args(Reason)},
        }

    parts = (parts or Parts()).under("counterfactuals", size_px, list(bodies), seed, limit, tries)
    # Not in the plan's order, which is by source: what is left when the limit is reached must not favour a body.
    order = rng_for(seed, 0, "evaluate/counterfactuals").permutation(len(plan))
    table = np.stack([plan.source, plan.target], axis=1)[order]
    progress = Progress(name="counterfactuals", total=len(plan), quiet_s=QUIET_S)
    blocks = [attempt(table[:0], 0)]
    count = 0
    for first in range(0, len(table), _BLOCK):
        if count == limit:
            break
        some = table[first : first + _BLOCK]
        blocks.append(parts.arrays(f"counterfactuals {first}", partial(attempt, some, limit - count)))
        count += len(blocks[-1]["source"])
        progress.update(min(first + _BLOCK, len(table)))
    whole: dict[str, Any] = {
        name: np.concatenate([block[name] for block in blocks]) for name in ("source", "target", "now", "later")
    }
    whole |= {reason: sum(int(block[reason]) for block in blocks) for reason in get_args(Reason)}
    return Counterfactuals(**whole)


def _live(world: World, filmed: Filmed) -> _Life | None:
    """Replay a clip; None where the hand does not go where the film's went."""
    with _Blind(world):
        seen = world.reset(filmed.task)
        states, tips, objects = [world.state()], [_tip(seen)], [_objects(world)]
        for action in filmed.actions:
            seen = world.step(action).observation
            states.append(world.state())
            tips.append(_tip(seen))
            objects.append(_objects(world))
    tip_m = np.stack(tips)
    if len(tip_m) != len(filmed.tip_m) or np.abs(tip_m - filmed.tip_m).max() > _REPLAYED_M:
        return None
    return _Life(states=states, tip_m=tip_m, objects_m=np.stack(objects))


def _act(
    world: World, state: NDArray[np.float64], actions: Float32
) -> tuple[UInt8, UInt8, NDArray[np.float64], NDArray[np.float64]]:
    """Pictures before and after, how far the tip went [3], and where objects are in the end."""
    before = world.restore(state)
    with _Blind(world):
        for action in actions[:-1]:
            world.step(action)
    after = world.step(actions[-1]).observation
    camera = world.camera.name
    return before.images[camera].copy(), after.images[camera].copy(), _tip(after) - _tip(before), _objects(world)


def _left_out(
    own: _Life, t: int, gap: int, moved_m: NDArray[np.float64], pushed_m: NDArray[np.float64]
) -> Reason | None:
    """By which rule a try is no counterfactual of the source, if by any."""
    if np.linalg.norm(moved_m - (own.tip_m[t + gap] - own.tip_m[t])) > _HINDERED_M:
        return "hindered"
    touched = (np.abs(own.objects_m[t + gap] - own.objects_m[t]) > _MOVED_M).any()
    return "other_contact" if touched != (np.abs(pushed_m) > _MOVED_M).any() else None


class _Blind:
    """While it lasts, a world that can spare itself the drawing does so."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __enter__(self) -> None:
        if isinstance(self.world, ArmsWorld):
            self.world.draws = False

    def __exit__(self, *_: object) -> None:
        if isinstance(self.world, ArmsWorld):
            self.world.draws = True


def _tip(seen: Observation) -> NDArray[np.float64]:
    assert seen.proprioception is not None, "a filmed world with true motion tells it"
    return seen.proprioception[:3].astype(np.float64)


def _objects(world: World) -> NDArray[np.float64]:
    """Where everything is that a hand can move, in metres; nothing where the world does not tell."""
    if not isinstance(world, ArmsWorld):
        return np.zeros(0)
    view = world.view()
    return np.array([*view.cube_m, *view.other_m, view.fixture_joint_m])


@dataclass(frozen=True, kw_only=True)
class CounterfactualScore:
    """D(o_c, code of a) against what truly comes of a's actions; scores are 0 for any code and 1 for the best one.

    Args:
        psnr_db: of the code of a.
        copy_db: of o_c, unchanged.
        random_db: of the latent action of a random other pair.
        oracle_db: of the code that E gives the true counterfactual pair itself.
        score: where `psnr_db` lies between the random and the oracle code.
        feature_score: the same for the distance in the features of the judge.
        pairs: m.
    """

    psnr_db: float
    copy_db: float
    random_db: float
    oracle_db: float
    score: float
    feature_score: float
    pairs: int


@torch.no_grad()
def measure_counterfactual(
    model: LatentActionModel,
    reader: MotionReader,
    counterfactuals: Counterfactuals | None,
    codes: Int64,
    *,
    seed: int,
) -> CounterfactualScore:
    """Compare generated frames with the true futures, given the codes [n, L] of all test pairs."""
    nan = math.nan
    if counterfactuals is None or not len(counterfactuals) or not draws(model):
        return CounterfactualScore(
            psnr_db=nan, copy_db=nan, random_db=nan, oracle_db=nan, score=nan, feature_score=nan, pairs=0
        )
    now, later = pixels(counterfactuals.now), pixels(counterfactuals.later)
    made = {
        "code": act_out(model, now, torch.from_numpy(codes[counterfactuals.source])),
        "random": act_out(model, now, torch.from_numpy(other_codes(codes, len(now), seed=seed))),
        "oracle": act_out(model, now, label_frames(model, now, later)),
    }
    psnr = {name: float(psnr_db(frames, later).mean()) for name, frames in made.items()}
    away = {name: float(reader.distance(now, frames, later).mean()) for name, frames in made.items()}
    scale_db, scale = psnr["oracle"] - psnr["random"], away["random"] - away["oracle"]
    return CounterfactualScore(
        psnr_db=psnr["code"],
        copy_db=float(psnr_db(now, later).mean()),
        random_db=psnr["random"],
        oracle_db=psnr["oracle"],
        score=(psnr["code"] - psnr["random"]) / scale_db if scale_db > _LEAST_SPREAD_DB else nan,
        feature_score=(away["random"] - away["code"]) / scale if scale > 0.02 * away["random"] else nan,
        pairs=len(counterfactuals),
    )


def with_counterfactuals(references: References, score: CounterfactualScore) -> References:
    """The references of transfer, with what the same controls reach against true futures."""
    return References(
        copy=replace(references.copy, counterfactual_psnr_db=score.copy_db),
        random_code=replace(references.random_code, counterfactual_psnr_db=score.random_db),
        oracle_code=replace(references.oracle_code, counterfactual_psnr_db=score.oracle_db),
    )
