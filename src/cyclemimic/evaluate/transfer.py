"""Transfer: the latent action of one clip acted out on a frame of another body, and the controls beside it.

Letters in shapes: n pairs, m transfers, L tokens of a latent action.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from cyclemimic.evaluate.judge import mean_cosine, r_squared
from cyclemimic.evaluate.models import LatentActionModel, MotionReader, act_out, draws, label_pairs
from cyclemimic.evaluate.moments import Pairs, TruePairs
from cyclemimic.evaluate.parts import Parts
from cyclemimic.evaluate.reconstruction import other_codes
from cyclemimic.nn.batches import pixels
from cyclemimic.randomness import rng_for
from cyclemimic.types import Float32, Int64

MOVING_M = 0.02


@dataclass(frozen=True, kw_only=True)
class TransferScore:
    """How well the judge's readings of generated frames match the true displacement of the source.

    `counterfactual_psnr_db`: of generated frames against what truly comes of the source's actions, where that is known.
    """

    transfer_cosine: float
    transfer_r2: float
    counterfactual_psnr_db: float = math.nan


UNTESTED = TransferScore(transfer_cosine=math.nan, transfer_r2=math.nan)


@dataclass(frozen=True, kw_only=True)
class References:
    """What stands beside every transfer number: doing nothing, any code, the target body's own best code."""

    copy: TransferScore
    random_code: TransferScore
    oracle_code: TransferScore

    def row(self) -> dict[str, dict[str, float]]:
        """The numbers by name of the control."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class TransferPlan:
    """Which pair's motion is acted out on which pair's frame now: indices into the test pairs, [m] each."""

    source: Int64
    target: Int64

    def __len__(self) -> int:
        return len(self.source)


def plan_transfers(
    test: Pairs,
    *,
    sources: Collection[str],
    targets: Collection[str],
    same_body: bool,
    limit: int,
    seed: int,
    least_m: float = 0.0,
) -> TransferPlan:
    """Draw transfers between clips of one body, or of two; the same for every tokenizer.

    Where true motion is known: only sources that move by `least_m`, and only those whose result lies in the workspace
    seen on the target's body, for a motion that leads out of the picture cannot be shown.
    """
    rng = rng_for(seed, int(same_body), "evaluate/transfers")
    names = np.array(test.bodies)[test.body]
    from_here, onto_here = np.isin(names, list(sources)), np.isin(names, list(targets))
    if least_m and isinstance(test, TruePairs):
        from_here &= np.linalg.norm(test.displacement_m, axis=1) >= least_m
    order = rng.permutation(np.flatnonzero(from_here))
    chosen: list[tuple[int, int]] = []
    for source in order:
        partner = (test.body == test.body[source]) == same_body
        possible = np.flatnonzero(onto_here & partner & (test.clip != test.clip[source]))
        if isinstance(test, TruePairs):
            possible = possible[_stays_inside(test, int(source), possible)]
        if len(possible):
            chosen.append((int(source), int(rng.choice(possible))))
        if len(chosen) == limit:
            break
    table = np.array(sorted(chosen), np.int64).reshape(-1, 2)
    return TransferPlan(source=table[:, 0], target=table[:, 1])


def _stays_inside(test: TruePairs, source: int, possible: Int64) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which of the possible targets keep the tip within the range of its body's positions."""
    if test.position_m is None:
        return np.ones(len(possible), np.bool_)
    inside = np.zeros(len(possible), np.bool_)
    for body in np.unique(test.body[possible]):
        place = test.position_m[test.body == body]
        end = test.position_m[possible] + test.displacement_m[source]
        within = ((end >= place.min(0)) & (end <= place.max(0))).all(1)
        inside |= within & (test.body[possible] == body)
    return inside


def read_transfer(
    judge: MotionReader, now: Tensor, generated: Tensor, true_m: Float32, *, least_m: float = MOVING_M
) -> TransferScore:
    """What the judge reads from frames [m, 3, S, S] against the true displacement [m, 3] of their sources.

    Those shorter than `least_m` do not count in the cosine.
    """
    told = judge.read(now, generated).numpy()
    return TransferScore(
        transfer_cosine=mean_cosine(told, true_m, least_m=least_m), transfer_r2=r_squared(told, true_m)
    )


def measure_transfer(
    tokenizer: LatentActionModel, judge: MotionReader, test: TruePairs, codes: Int64, plan: TransferPlan
) -> TransferScore:
    """Act the codes [m, L] out on the plan's targets and let the judge say what moved."""
    if not len(plan) or not draws(tokenizer):
        return UNTESTED
    now = pixels(test.now[plan.target])
    generated = act_out(tokenizer, now, torch.from_numpy(codes))
    true_m = test.displacement_m[plan.source]
    return read_transfer(judge, now, generated, true_m, least_m=test.motion.moving)


@torch.no_grad()
def measure_references(
    tokenizer: LatentActionModel,
    test: TruePairs,
    judge: MotionReader,
    *,
    seed: int,
    seen_bodies: Collection[str] | None = None,
    transfers: int = 1200,
    parts: Parts | None = None,
) -> References:
    """The controls of `transfer_cosine`, on the same transfers.

    copy: the frame now, unchanged. random_code: the latent action of a random other pair. oracle_code: the
    latent action that E gives the *target* body's own pair, of another clip, whose true displacement is
    nearest to the source's. `parts` keeps finished ones, and its facts must decide model, pairs and judge.
    """
    parts = (parts or Parts()).under(seed, sorted(seen_bodies or ()), transfers)
    seen = sorted(test.bodies if seen_bodies is None else seen_bodies)
    plan = plan_transfers(test, sources=seen, targets=seen, same_body=False, limit=transfers, seed=seed)
    if not len(plan):
        return References(copy=UNTESTED, random_code=UNTESTED, oracle_code=UNTESTED)
    codes = label_pairs(tokenizer, test)
    nearest = []
    for source, target in zip(plan.source, plan.target, strict=True):
        own = np.flatnonzero((test.body == test.body[target]) & (test.clip != test.clip[target]))
        away = np.linalg.norm(test.displacement_m[own] - test.displacement_m[source], axis=1)
        nearest.append(int(own[away.argmin()]) if len(own) else int(target))
    scenes = pixels(test.now[plan.target])
    anyone = other_codes(codes, len(plan), seed=seed)
    own_best = codes[np.array(nearest)]
    true_m, moving = test.displacement_m[plan.source], test.motion.moving
    return References(
        copy=parts.figures("copy", TransferScore, lambda: read_transfer(judge, scenes, scenes, true_m, least_m=moving)),
        random_code=parts.figures(
            "random code", TransferScore, lambda: measure_transfer(tokenizer, judge, test, anyone, plan)
        ),
        oracle_code=parts.figures(
            "oracle code", TransferScore, lambda: measure_transfer(tokenizer, judge, test, own_best, plan)
        ),
    )
