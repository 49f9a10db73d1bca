"""The quality of latent actions: transfer read by a judge, probes, agreement, usage, reconstruction, cycle.

No number stands alone. Cycle accuracy in particular proves nothing without transfer beside it: a decoder that
signs its frames reaches any cycle accuracy and transfers nothing.
Letters in shapes: n pairs, m transfers, L tokens of a latent action, K codes, S side of the picture.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cyclemimic.evaluate.judge import blur, mean_cosine, r_squared
from cyclemimic.evaluate.moments import Pairs, TruePairs
from cyclemimic.evaluate.probes import Labelled, agreement, fit_mlp, fit_ridge, probe
from cyclemimic.nn.batches import pixels
from cyclemimic.randomness import entropy_for, rng_for
from cyclemimic.tokenizer.quantizer import joint_codes, slot_perplexity
from cyclemimic.types import Float32, Int64

BATCH = 128
MOVING_M = 0.02


class LatentActionModel(Protocol):
    """Anything that names the change between two frames and acts a name out on another frame."""

    @property
    def num_codes(self) -> int:
        """K."""
        ...

    def label(self, now: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, L] and margin [B] of pairs of frames [B, 3, S, S] in [0, 1]."""
        ...

    def act_out(self, now: Tensor, codes: Tensor) -> Tensor:
        """Later frames [B, 3, S, S] from frames now and codes [B, L]."""
        ...


class MotionReader(Protocol):
    """Who reads the generated frames: the judge, or an exact one in tests."""

    @property
    def refused(self) -> bool:
        """Whether its readings prove nothing."""
        ...

    def read(self, now: Tensor, later: Tensor) -> Tensor:
        """Displacement in metres [B, 3] between frames [B, 3, S, S] in [0, 1]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Everything measured of one tokenizer; NaN where the data has no such test."""

    transfer_cosine: float  # code of a clip on a frame of another body, judge against truth
    transfer_r2: float
    transfer_cosine_same: float  # the same within one body
    transfer_cosine_unseen: float  # code of a body that the tokenizer never saw
    probe_same: float
    probe_cross: float
    probe_unseen: float
    probe_mlp_same: float
    probe_mlp_cross: float
    kappa_same: float
    kappa_cross: float
    joint_codes: float  # exp(joint entropy): latent actions in use, all slots together
    slot_perplexity: float
    dead_codes: int  # of K, used in no slot
    reconstruction_vs_copy: float  # squared error over that of copying the frame now
    cycle_accuracy: float  # share of codes read back from generated frames
    cycle_accuracy_noise: float
    cycle_accuracy_blur: float
    judge_refused: bool  # then the transfer columns prove nothing

    def row(self) -> dict[str, float | int | bool]:
        """The numbers by name."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class TransferScore:
    """How well the judge's readings of generated frames match the true displacement of the source."""

    transfer_cosine: float
    transfer_r2: float


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
    test: TruePairs,
    *,
    sources: Collection[str],
    targets: Collection[str],
    same_body: bool,
    limit: int,
    seed: int,
) -> TransferPlan:
    """Draw transfers between clips of one body, or of two; the same for every tokenizer.

    Where positions are known, only those whose result lies in the workspace seen on the target's body: a
    motion that leads out of the picture cannot be shown.
    """
    rng = rng_for(seed, int(same_body), "evaluate/transfers")
    names = np.array(test.bodies)[test.body]
    from_here, onto_here = np.isin(names, list(sources)), np.isin(names, list(targets))
    order = rng.permutation(np.flatnonzero(from_here))
    chosen: list[tuple[int, int]] = []
    for source in order:
        partner = (test.body == test.body[source]) == same_body
        possible = np.flatnonzero(onto_here & partner & (test.clip != test.clip[source]))
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


@torch.no_grad()
def label_pairs(tokenizer: LatentActionModel, pairs: Pairs) -> Int64:
    """The codes [n, L] that the tokenizer gives the pairs."""
    codes: Int64 = _label(tokenizer, pixels(pairs.now), pixels(pairs.later)).numpy()
    return codes


def _label(tokenizer: LatentActionModel, now: Tensor, later: Tensor) -> Tensor:
    parts = [slice(i, i + BATCH) for i in range(0, len(now), BATCH)]
    return torch.cat([tokenizer.label(now[p], later[p])[0] for p in parts])


@torch.no_grad()
def act_out(tokenizer: LatentActionModel, now: Tensor, codes: Tensor) -> Tensor:
    """Generated frames [n, 3, S, S] in [0, 1], in batches."""
    parts = [slice(i, i + BATCH) for i in range(0, len(now), BATCH)]
    return torch.cat([tokenizer.act_out(now[p], codes[p]) for p in parts]).clamp(0, 1)


def _score(judge: MotionReader, now: Tensor, generated: Tensor, true_m: Float32) -> TransferScore:
    told = judge.read(now, generated).numpy()
    return TransferScore(
        transfer_cosine=mean_cosine(told, true_m, least_m=MOVING_M), transfer_r2=r_squared(told, true_m)
    )


def measure_transfer(
    tokenizer: LatentActionModel, judge: MotionReader, test: TruePairs, codes: Int64, plan: TransferPlan
) -> TransferScore:
    """Act the codes [m, L] out on the plan's targets and let the judge say what moved."""
    if not len(plan):
        return TransferScore(transfer_cosine=float("nan"), transfer_r2=float("nan"))
    now = pixels(test.now[plan.target])
    generated = act_out(tokenizer, now, torch.from_numpy(codes))
    return _score(judge, now, generated, test.displacement_m[plan.source])


@torch.no_grad()
def measure_quality(
    tokenizer: LatentActionModel,
    train: TruePairs,
    test: TruePairs,
    judge: MotionReader,
    *,
    seed: int,
    seen_bodies: Collection[str] | None = None,
    transfers: int = 1200,
    probe_pairs: int = 3000,
) -> Quality:
    """Measure a tokenizer on held-out pairs. The same seed measures every tokenizer on the same pairs.

    Args:
        tokenizer: what is measured.
        train: pairs of training clips, on which probes are fitted.
        test: pairs of other clips, of the same or more bodies.
        judge: who reads generated frames.
        seed: which transfers are tried.
        seen_bodies: bodies the tokenizer was trained on; all of `train` unless told.
        transfers: how many across bodies; within one body and from unseen bodies half as many.
        probe_pairs: how many training pairs the probes are fitted on at most.
    """
    seen = sorted(train.bodies if seen_bodies is None else seen_bodies)
    unseen = sorted(set(test.bodies) - set(seen))
    codes = label_pairs(tokenizer, test)
    thin = train.thinned(probe_pairs, seed)
    labelled_train = labelled(label_pairs(tokenizer, thin), thin, tokenizer.num_codes)
    labelled_test = labelled(codes, test, tokenizer.num_codes)
    ridge = probe(labelled_train, labelled_test, seen, fit_ridge)
    with torch.enable_grad():
        mlp = probe(labelled_train, labelled_test, seen, fit_mlp)
    unity = agreement(labelled_test, seen)

    cross = plan_transfers(test, sources=seen, targets=seen, same_body=False, limit=transfers, seed=seed)
    within = plan_transfers(test, sources=seen, targets=seen, same_body=True, limit=transfers // 2, seed=seed)
    beyond = plan_transfers(test, sources=unseen, targets=seen, same_body=False, limit=transfers // 2, seed=seed)
    # Frames generated across bodies serve twice: the judge reads the motion, and E is asked for the codes.
    crossing = cross if len(cross) else within
    drawn = torch.from_numpy(codes[crossing.source])
    scenes = pixels(test.now[crossing.target])
    generated = act_out(tokenizer, scenes, drawn)
    read = _score(judge, scenes, generated, test.displacement_m[crossing.source])
    if not len(cross):
        read = TransferScore(transfer_cosine=float("nan"), transfer_r2=float("nan"))
    same = measure_transfer(tokenizer, judge, test, codes[within.source], within)
    outside = measure_transfer(tokenizer, judge, test, codes[beyond.source], beyond)

    generator = torch.Generator().manual_seed(entropy_for(seed, 0, "evaluate/noise"))
    noisy = generated + 0.05 * torch.randn(generated.shape, generator=generator)
    share = {
        name: float((_label(tokenizer, scenes, frames) == drawn).double().mean())
        for name, frames in (("clean", generated), ("noise", noisy), ("blur", blur(generated)))
    }
    rebuilt = rebuild_error(tokenizer, test, codes)
    named = torch.from_numpy(codes)
    return Quality(
        transfer_cosine=read.transfer_cosine,
        transfer_r2=read.transfer_r2,
        transfer_cosine_same=same.transfer_cosine,
        transfer_cosine_unseen=outside.transfer_cosine,
        probe_same=ridge.same,
        probe_cross=ridge.cross,
        probe_unseen=ridge.unseen,
        probe_mlp_same=mlp.same,
        probe_mlp_cross=mlp.cross,
        kappa_same=unity.same,
        kappa_cross=unity.cross,
        joint_codes=float(joint_codes(named, tokenizer.num_codes)),
        slot_perplexity=float(slot_perplexity(named, tokenizer.num_codes).mean()),
        dead_codes=tokenizer.num_codes - len(np.unique(codes)),
        reconstruction_vs_copy=rebuilt,
        cycle_accuracy=share["clean"],
        cycle_accuracy_noise=share["noise"],
        cycle_accuracy_blur=share["blur"],
        judge_refused=judge.refused,
    )


def labelled(codes: Int64, pairs: TruePairs, num_codes: int) -> Labelled:
    """Codes [n, L] of pairs, as probes want them."""
    return Labelled(
        codes=codes,
        displacement_m=pairs.displacement_m,
        body=np.array(pairs.bodies)[pairs.body],
        clip=pairs.clip,
        num_codes=num_codes,
    )


def rebuild_error(tokenizer: LatentActionModel, pairs: Pairs, codes: Int64) -> float:
    """Squared error of D(o_t, z_t) against o_t+H, as a ratio to that of copying o_t."""
    now, later = pixels(pairs.now), pixels(pairs.later)
    rebuilt = act_out(tokenizer, now, torch.from_numpy(codes))
    return float((rebuilt - later).square().sum() / (now - later).square().sum().clamp_min(1e-9))


@torch.no_grad()
def measure_references(
    tokenizer: LatentActionModel,
    test: TruePairs,
    judge: MotionReader,
    *,
    seed: int,
    seen_bodies: Collection[str] | None = None,
    transfers: int = 1200,
) -> References:
    """The controls of `transfer_cosine`, on the same transfers.

    copy: the frame now, unchanged. random_code: the latent action of a random other pair. oracle_code: the
    latent action that E gives the *target* body's own pair, of another clip, whose true displacement is
    nearest to the source's.
    """
    seen = sorted(test.bodies if seen_bodies is None else seen_bodies)
    plan = plan_transfers(test, sources=seen, targets=seen, same_body=False, limit=transfers, seed=seed)
    if not len(plan):
        nothing = TransferScore(transfer_cosine=float("nan"), transfer_r2=float("nan"))
        return References(copy=nothing, random_code=nothing, oracle_code=nothing)
    codes = label_pairs(tokenizer, test)
    anyone = rng_for(seed, 0, "evaluate/random_code").integers(0, len(test), len(plan))
    nearest = []
    for source, target in zip(plan.source, plan.target, strict=True):
        own = np.flatnonzero((test.body == test.body[target]) & (test.clip != test.clip[target]))
        away = np.linalg.norm(test.displacement_m[own] - test.displacement_m[source], axis=1)
        nearest.append(int(own[away.argmin()]) if len(own) else int(target))
    scenes = pixels(test.now[plan.target])
    return References(
        copy=_score(judge, scenes, scenes, test.displacement_m[plan.source]),
        random_code=measure_transfer(tokenizer, judge, test, codes[anyone], plan),
        oracle_code=measure_transfer(tokenizer, judge, test, codes[np.array(nearest)], plan),
    )
