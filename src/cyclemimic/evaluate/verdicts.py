"""What a number means: good, suspicious or broken, a sentence why, and what to try. One table of reference ranges."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cyclemimic.evaluate.report import Table
from cyclemimic.evaluate.summary import number

Status = Literal["good", "suspicious", "broken"]


@dataclass(frozen=True, kw_only=True)
class Range:
    """How one figure is read. Between `good` and `broken` it is suspicious; the greater of them gives the direction.

    Args:
        name: in words.
        good: good from here on.
        broken: broken from here on.
        meaning: what the figure says, in a sentence.
        remedy: what to try where it is not good.
        needs: figures that must be good before this one can be.
        bows_to: the same, where they were measured.
        judged: whether it is read by the judge, and void where the judge is refused.
    """

    name: str
    good: float
    broken: float
    meaning: str
    remedy: str
    needs: tuple[str, ...] = ()
    bows_to: tuple[str, ...] = ()
    judged: bool = False

    def status(self, value: float) -> Status:
        """The verdict on a finite value, taken alone."""
        sign = 1 if self.good > self.broken else -1
        if sign * value >= sign * self.good:
            return "good"
        return "broken" if sign * value <= sign * self.broken else "suspicious"


# Where the numbers come from: runs on the arms world at 32 px with two slots of 16 codes. docs/log.md has their tables
# (reconstruction .28-.32, transfer cosine .75-.82 where a random code has .15 and a copy 0, cross-body probe .57-.66,
# kappa .29-.50, 50-88 joint codes of 256; real video: reconstruction .65); for leak, delta-PSNR, retrieval and
# counterfactuals, tokenizers of 300 and 1,200 steps (decoder: motion) and of 900 steps (pixel). Other videos move the
# borders: trust the controls beside a number before its verdict.
RANGES: dict[str, Range] = {
    "reconstruction_vs_copy": Range(
        name="error of reconstruction / of copying",
        good=0.45,
        broken=0.95,
        meaning="How much of the change between the frames the decoder gets right.",
        remedy="Train longer; check that the gap shows motion; give the motion decoder more reach.",
    ),
    "delta_psnr_db": Range(
        name="PSNR lost with a random code [dB]",
        good=2.0,
        broken=0.3,
        meaning="How much the decoder listens to the latent action.",
        remedy="The frame alone predicts what follows, or the codes collapsed: a longer gap, more varied video.",
    ),
    "joint_share": Range(
        name="latent actions in use, of those possible",
        good=0.12,
        broken=0.03,
        meaning="Slots taken together: a low share is a collapse, or slots that repeat one another.",
        remedy="Start AC3 later and with less weight; raise the entropy bonus; fewer codes.",
    ),
    "perplexity_share": Range(
        name="codes in use by slot, of K",
        good=0.4,
        broken=0.15,
        meaning="How evenly each slot uses its codes.",
        remedy="Raise the entropy bonus; check that dead codes are reset; fewer codes.",
    ),
    "dead_share": Range(
        name="dead codes, of K",
        good=0.07,
        broken=0.5,
        meaning="Codes that no pair gets in any slot.",
        remedy="Check that dead codes are reset; fewer codes.",
    ),
    "leak_excess": Range(
        name="leak: what E reads beyond an independent reader",
        good=0.1,
        broken=0.3,
        meaning="A decoder that paints can sign its frames; E then reads the signature and not the motion.",
        remedy="A motion decoder; less of the cycle's gradient into D; noise and blur before E reads.",
    ),
    "noise_loss": Range(
        name="cycle accuracy lost to noise",
        good=0.1,
        broken=0.3,
        meaning="What is gone under a little noise was no motion.",
        remedy="As for the leak.",
    ),
    "cycle_accuracy": Range(
        name="cycle accuracy",
        good=0.6,
        broken=0.2,
        meaning="Codes read back from generated frames; never evidence alone.",
        remedy="Look at leak, delta-PSNR and transfer first; then give AC3 more steps.",
        needs=("leak_excess", "noise_loss", "delta_psnr_db"),
        bows_to=("transfer_cosine", "probe_cross"),
    ),
    "transfer_cosine": Range(
        name="transfer cosine",
        good=0.7,
        broken=0.3,
        meaning="A motion of one body, acted out on another, read by the judge.",
        remedy="See the transfer sheet; a factorised motion decoder; more bodies that do the same things.",
        judged=True,
    ),
    "counterfactual_score": Range(
        name="counterfactual, random 0 to oracle 1",
        good=0.6,
        broken=0.2,
        meaning="Generated frames against what the simulator says truly happens.",
        remedy="As for transfer.",
    ),
    "probe_cross": Range(
        name="probe on other bodies, R2",
        good=0.5,
        broken=0.1,
        meaning="Whether a code says the same motion on every body.",
        remedy="AC3 with scenes of other bodies; a motion decoder; more training.",
    ),
    "kappa_cross": Range(
        name="agreement across bodies, kappa",
        good=0.3,
        broken=0.1,
        meaning="Whether equal motions of different bodies get equal codes.",
        remedy="As for the probe.",
    ),
    "retrieval_gain": Range(
        name="retrieval across bodies, chance 0 to 1",
        good=0.3,
        broken=0.1,
        meaning="Whether codes find equal motions on other bodies.",
        remedy="As for the probe.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One figure's status, and the sentence that goes with it."""

    name: str
    value: float
    status: Status
    sentence: str


def verdicts_on(row: Mapping[str, float]) -> list[Verdict]:
    """Verdicts on whatever of the table is in the row of a `Quality` or an `Inspection`; NaN has none."""
    facts = {name: value for name, value in _figures(row).items() if math.isfinite(value)}
    alone = {name: RANGES[name].status(value) for name, value in facts.items() if name in RANGES}
    found = []
    for name, span in RANGES.items():
        if name not in alone or (span.judged and row.get("judge_refused")):
            continue
        status = alone[name]
        wanting = [RANGES[other].name for other in span.needs if alone.get(other) != "good"]
        wanting += [RANGES[other].name for other in span.bows_to if alone.get(other, "good") != "good"]
        why = ""
        if status == "good" and wanting:
            status, why = "suspicious", f" Not good here: {'; '.join(wanting)}."
        sentence = span.meaning + why + ("" if status == "good" else f" Try: {span.remedy}")
        found.append(Verdict(name=span.name, value=facts[name], status=status, sentence=sentence))
    return found


def _figures(row: Mapping[str, float]) -> dict[str, float]:
    """The row, and what follows from it: shares of what is possible, losses, gains over chance."""
    nan = math.nan
    codes, tokens = row.get("num_codes", 0), row.get("num_tokens", 0)
    chance = row.get("retrieval_map_chance", nan)
    whole = codes if codes > 0 else nan
    return {
        **row,
        # Fewer pairs than K^l cannot use them all.
        "joint_share": row.get("joint_codes", nan) / min(whole**tokens, row.get("pairs") or math.inf),
        "perplexity_share": row.get("slot_perplexity", nan) / whole,
        "dead_share": row.get("dead_codes", nan) / whole,
        "noise_loss": row.get("cycle_accuracy", nan) - row.get("cycle_accuracy_noise", nan),
        "retrieval_gain": (row.get("retrieval_map", nan) - chance) / (1 - chance) if chance < 1 else nan,
    }


def verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """For a terminal: worst first, with the sentence where something is not good."""
    lines = []
    for verdict in _worst_first(verdicts):
        lines.append(f"{verdict.status:11}{number(verdict.value):>8}  {verdict.name}")
        if verdict.status != "good":
            lines += textwrap.wrap(verdict.sentence, 96, initial_indent=" " * 21, subsequent_indent=" " * 21)
    return lines


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """For a page: worst first."""
    ordered = _worst_first(verdicts)
    return Table(
        head=["", "value", "verdict", "what it says"],
        rows=[[v.name, number(v.value), v.status, v.sentence] for v in ordered],
        status={i: v.status for i, v in enumerate(ordered)},
        prose=True,
    )


def _worst_first(verdicts: Sequence[Verdict]) -> list[Verdict]:
    order: dict[Status, int] = {"broken": 0, "suspicious": 1, "good": 2}
    return sorted(verdicts, key=lambda v: order[v.status])
