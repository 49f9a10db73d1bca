"""The quality of latent actions: every measure of one tokenizer, on the same pairs as every other.

No number stands alone. Cycle accuracy in particular proves nothing without transfer and leak beside it: a decoder that
signs its frames reaches any cycle accuracy and transfers nothing.
Letters in shapes: n pairs, L tokens of a latent action, K codes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass

import numpy as np
import torch

from cyclemimic.evaluate.counterfactual import Counterfactuals, CounterfactualScore, measure_counterfactual
from cyclemimic.evaluate.cycle import ActedOut, CycleAccuracy, act_plan, cycle_accuracy
from cyclemimic.evaluate.leak import Leak, ReaderConfig, measure_leak
from cyclemimic.evaluate.models import LatentActionModel, MotionReader, draws, label_pairs
from cyclemimic.evaluate.moments import TruePairs
from cyclemimic.evaluate.parts import Parts
from cyclemimic.evaluate.probes import Agreement, Labelled, ProbeScores, agreement, fit_mlp, fit_ridge, probe
from cyclemimic.evaluate.reconstruction import delta_psnr_db, rebuild_error
from cyclemimic.evaluate.transfer import (
    UNTESTED,
    TransferPlan,
    TransferScore,
    measure_transfer,
    plan_transfers,
    read_transfer,
)
from cyclemimic.evaluate.unity import Divergence, Retrieval, divergence, retrieval
from cyclemimic.tokenizer.quantizer import joint_codes, slot_perplexity
from cyclemimic.types import Int64

_NAN = math.nan


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Everything measured of one tokenizer; NaN where the data has no such test, or the model draws no frames.

    What came later has defaults, so that older records still read.
    """

    transfer_cosine: float  # code of a clip on a frame of another body, judge against truth
    transfer_r2: float
    transfer_cosine_same: float  # the same within one body
    transfer_cosine_unseen: float  # code of a body that the tokenizer never saw
    counterfactual_psnr_db: float = _NAN  # D(o_c, code of a) against what a's actions truly make of o_c
    counterfactual_score: float = _NAN  # the same, 0 for a random code and 1 for E's code of the true future
    counterfactual_feature_score: float = _NAN  # the same by distance in the judge's features
    counterfactual_pairs: int = 0
    probe_same: float
    probe_cross: float
    probe_unseen: float
    probe_axis_1: float = _NAN  # of `probe_same`, x or the first axis of the motion alone
    probe_axis_2: float = _NAN
    probe_axis_3: float = _NAN
    probe_mlp_same: float
    probe_mlp_cross: float
    kappa_same: float
    kappa_cross: float
    retrieval_map: float = _NAN  # mean average precision: equal motions of other bodies, ranked by codes
    retrieval_map_chance: float = _NAN  # of a random order
    body_divergence: float = _NAN  # Jensen-Shannon, of the bodies' shares of codes; never alone
    body_divergence_matched: float = _NAN  # the same among pairs that moved alike
    joint_codes: float  # exp(joint entropy): latent actions in use, all slots together
    joint_codes_within: float = _NAN  # the same within one body, meaned over the bodies
    slot_perplexity: float
    dead_codes: int  # of K, used in no slot
    pairs: int = 0  # held-out pairs that were labelled
    num_codes: int = 0  # K
    num_tokens: int = 0  # l_z
    reconstruction_vs_copy: float  # squared error over that of copying the frame now
    delta_psnr_db: float = _NAN  # how much better than with a random latent action
    cycle_accuracy: float  # share of codes read back from generated frames
    cycle_accuracy_noise: float
    cycle_accuracy_blur: float
    cycle_accuracy_8bit: float = _NAN
    leak_index: float = _NAN  # what E reads beyond an independent reader; see `leak.Leak`
    leak_excess: float = _NAN
    leak_reader_real: float = _NAN
    leak_reader_generated: float = _NAN
    alone_accuracy: float = _NAN  # codes read from generated frames alone, without o_c
    alone_chance: float = _NAN
    judge_refused: bool  # then the transfer columns prove nothing

    def row(self) -> dict[str, float | int | bool]:
        """The numbers by name."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """Error of reconstruction over that of copying, and dB lost with another code."""

    vs_copy: float
    delta_db: float


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
    counterfactuals: Counterfactuals | None = None,
    readers: ReaderConfig | None = None,
    parts: Parts | None = None,
) -> Quality:
    """Measure a tokenizer on held-out pairs. The same seed measures every tokenizer on the same pairs.

    Args:
        tokenizer: what is measured.
        train: pairs of training clips, on which probes and readers are fitted.
        test: pairs of other clips, of the same or more bodies.
        judge: who reads generated frames.
        seed: which transfers are tried.
        seen_bodies: bodies the tokenizer was trained on; all of `train` unless told.
        transfers: how many across bodies; within one body and from unseen bodies half as many.
        probe_pairs: how many training pairs the probes are fitted on at most.
        counterfactuals: of `test`, where a simulator made the films.
        readers: how the readers of the leak are trained; without, there is no leak index.
        parts: where finished measures are kept until all are made; their facts must decide model, pairs and judge.
    """
    told = None if readers is None else asdict(readers)
    parts = (parts or Parts()).under(seed, sorted(seen_bodies or ()), transfers, probe_pairs, told)
    figures = parts.figures
    seen = sorted(train.bodies if seen_bodies is None else seen_bodies)
    unseen = sorted(set(test.bodies) - set(seen))
    codes = label_pairs(tokenizer, test)
    thin = train.thinned(probe_pairs, seed)
    thin_codes = label_pairs(tokenizer, thin)
    labelled_train = labelled(thin_codes, thin, tokenizer.num_codes)
    labelled_test = labelled(codes, test, tokenizer.num_codes)
    ridge = figures("probe", ProbeScores, lambda: probe(labelled_train, labelled_test, seen, fit_ridge))

    def probe_mlp() -> ProbeScores:
        with torch.enable_grad():
            return probe(labelled_train, labelled_test, seen, fit_mlp)

    mlp = figures("probe mlp", ProbeScores, probe_mlp)
    within, moving = test.motion.within, test.motion.moving
    unity = figures("unity", Agreement, lambda: agreement(labelled_test, seen, within_m=within))
    ranked = figures(
        "retrieval", Retrieval, lambda: retrieval(labelled_test, seen, seed=seed, within_m=within, moving_m=moving)
    )
    apart = figures("divergence", Divergence, lambda: divergence(labelled_test, seen, seed=seed, within_m=within))

    cross = plan_transfers(test, sources=seen, targets=seen, same_body=False, limit=transfers, seed=seed)
    inside = plan_transfers(test, sources=seen, targets=seen, same_body=True, limit=transfers // 2, seed=seed)
    beyond = plan_transfers(test, sources=unseen, targets=seen, same_body=False, limit=transfers // 2, seed=seed)

    # Frames generated across bodies serve thrice: the judge reads the motion, E and the readers are asked for codes.
    @functools.cache
    def acted() -> ActedOut | None:
        return act_plan(tokenizer, test, codes, cross if len(cross) else inside)

    def read_across() -> TransferScore:
        found = acted()
        if found is None or not len(cross):
            return UNTESTED
        true_m = test.displacement_m[cross.source]
        return read_transfer(judge, found.scenes, found.generated, true_m, least_m=moving)

    def transferred(plan: TransferPlan) -> TransferScore:
        return measure_transfer(tokenizer, judge, test, codes[plan.source], plan)

    read = figures("transfer", TransferScore, read_across)
    same = figures("transfer same", TransferScore, lambda: transferred(inside))
    outside = figures("transfer unseen", TransferScore, lambda: transferred(beyond))
    future = figures(
        "futures",
        CounterfactualScore,
        lambda: measure_counterfactual(tokenizer, judge, counterfactuals, codes, seed=seed),
    )
    cycle = figures("cycle", CycleAccuracy, lambda: cycle_accuracy(tokenizer, acted(), seed=seed))

    def leaking() -> Leak:
        return measure_leak(
            tokenizer,
            thin,
            thin_codes,
            test,
            codes,
            acted() if readers is not None else None,
            accuracy=cycle.clean,
            seed=seed,
            config=readers,
            parts=parts,
        )

    leak = figures("leak", Leak, leaking)
    rebuilt = figures(
        "reconstruction",
        Rebuilt,
        lambda: Rebuilt(
            vs_copy=rebuild_error(tokenizer, test, codes), delta_db=delta_psnr_db(tokenizer, test, codes, seed=seed)
        ),
    )
    named = torch.from_numpy(codes)
    return Quality(
        transfer_cosine=read.transfer_cosine,
        transfer_r2=read.transfer_r2,
        transfer_cosine_same=same.transfer_cosine,
        transfer_cosine_unseen=outside.transfer_cosine,
        counterfactual_psnr_db=future.psnr_db,
        counterfactual_score=future.score,
        counterfactual_feature_score=future.feature_score,
        counterfactual_pairs=future.pairs,
        probe_same=ridge.same,
        probe_cross=ridge.cross,
        probe_unseen=ridge.unseen,
        probe_axis_1=ridge.axes[0],
        probe_axis_2=ridge.axes[1],
        probe_axis_3=ridge.axes[2],
        probe_mlp_same=mlp.same,
        probe_mlp_cross=mlp.cross,
        kappa_same=unity.same,
        kappa_cross=unity.cross,
        retrieval_map=ranked.mean_precision,
        retrieval_map_chance=ranked.chance,
        body_divergence=apart.raw,
        body_divergence_matched=apart.matched,
        joint_codes=float(joint_codes(named, tokenizer.num_codes)),
        joint_codes_within=joint_codes_within(codes, test.body, tokenizer.num_codes),
        slot_perplexity=float(slot_perplexity(named, tokenizer.num_codes).mean()),
        dead_codes=tokenizer.num_codes - len(np.unique(codes)),
        pairs=len(test),
        num_codes=tokenizer.num_codes,
        num_tokens=codes.shape[1],
        reconstruction_vs_copy=rebuilt.vs_copy,
        delta_psnr_db=rebuilt.delta_db,
        cycle_accuracy=cycle.clean,
        cycle_accuracy_noise=cycle.noise,
        cycle_accuracy_blur=cycle.blur,
        cycle_accuracy_8bit=cycle.eight_bit,
        leak_index=leak.leak_index,
        leak_excess=leak.leak_excess,
        leak_reader_real=leak.reader_real,
        leak_reader_generated=leak.reader_generated,
        alone_accuracy=leak.alone,
        alone_chance=leak.alone_chance,
        judge_refused=judge.refused and draws(tokenizer),
    )


def joint_codes_within(codes: Int64, body: Int64, num_codes: int) -> float:
    """Exp of the joint entropy [nats] of latent actions [n, L] within a body, meaned over the bodies [n].

    Codes that mean another thing on every body are many, and say no more of the action for it; `joint_codes` counts
    them, this does not. Engineering.
    """
    parts = [joint_codes(torch.from_numpy(codes[body == one]), num_codes).log() for one in np.unique(body)]
    return float(torch.stack(parts).mean().exp())


def labelled(codes: Int64, pairs: TruePairs, num_codes: int) -> Labelled:
    """Codes [n, L] of pairs, as probes want them."""
    return Labelled(
        codes=codes,
        displacement_m=pairs.displacement_m,
        body=np.array(pairs.bodies)[pairs.body],
        clip=pairs.clip,
        num_codes=num_codes,
    )
