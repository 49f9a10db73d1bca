"""The numbers of one run, typed: for the terminal, for JSON, and to find terms that did nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cyclemimic.evaluate.judge import JudgeReport
from cyclemimic.evaluate.quality import Quality
from cyclemimic.evaluate.remote import RemoteRecord
from cyclemimic.evaluate.statistics import SuccessRow
from cyclemimic.evaluate.transfer import References

AC3_TERMS = ("cycle", "discriminator")
TERMS = ("reconstruction", *AC3_TERMS)


@dataclass(frozen=True, kw_only=True)
class TermNorms:
    """Mean norm of one weighted term's gradient on E and on D, over the updates at which it was measured."""

    encoder: float
    decoder: float


@dataclass(frozen=True, kw_only=True)
class OnSteps:
    """At how many updates each term of AC3 counted."""

    cycle: int
    discriminator: int


def gradient_norms_from(metrics: Sequence[Mapping[str, float]]) -> dict[str, TermNorms]:
    """Means of `gradient.TERM.PART` in a run's metrics (`train.loop.read_metrics`); zero where unmeasured."""

    def mean(key: str) -> float:
        values = [row[key] for row in metrics if key in row]
        return sum(values) / len(values) if values else 0.0

    return {
        term: TermNorms(encoder=mean(f"gradient.{term}.encoder"), decoder=mean(f"gradient.{term}.decoder"))
        for term in TERMS
    }


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Everything a run says about itself.

    Args:
        seconds: wall time of the whole run.
        cpu_ms_per_pair: process time of a training step with all terms, per frame pair.
        quality: by objective, `ac3` and `genie`.
        success: by arm, such as pretrained_lora, scratch, black_image.
        report: path of the HTML page.
        remote: the same policy behind a server, where it was tried.
    """

    seconds: float
    cpu_ms_per_pair: float
    quality: Mapping[str, Quality]
    references: References
    judge: JudgeReport
    on_steps: OnSteps
    gradient_norm: Mapping[str, TermNorms]
    success: Mapping[str, SuccessRow]
    report: str
    remote: RemoteRecord | None = None

    def inert_terms(self) -> tuple[str, ...]:
        """Terms that never counted or moved nothing: the run is then not what it says it is."""
        steps = asdict(self.on_steps)
        inert = []
        for term in TERMS:
            norms = self.gradient_norm.get(term, TermNorms(encoder=0.0, decoder=0.0))
            # `not >` also catches a NaN, which moves nothing sensible.
            still = not norms.encoder > 0 and not norms.decoder > 0
            if still or steps.get(term, 1) == 0:
                inert.append(term)
        return tuple(inert)

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for json.dumps; what cannot be measured is null."""
        judge = {**asdict(self.judge), "refused": self.judge.refused, "reason": self.judge.reason}
        whole = {
            "seconds": self.seconds,
            "cpu_ms_per_pair": self.cpu_ms_per_pair,
            "quality": {k: v.row() for k, v in self.quality.items()},
            "references": self.references.row(),
            "judge": judge,
            "on_steps": asdict(self.on_steps),
            "gradient_norm": {k: asdict(v) for k, v in self.gradient_norm.items()},
            "success": {k: asdict(v) for k, v in self.success.items()},
            "report": self.report,
            "remote": asdict(self.remote) if self.remote else None,
        }
        plain: dict[str, Any] = null_for_nan(whole)
        return plain

    def table(self) -> str:
        """The run on a terminal: quality beside its references, then success."""
        names = list(self.quality)
        lines = [f"{'latent actions':32}" + "".join(f"{n:>10}" for n in names)]
        for key in next(iter(self.quality.values())).row() if names else ():
            values = [self.quality[n].row()[key] for n in names]
            if key != "judge_refused":
                lines.append(f"  {key:30}" + "".join(f"{number(v):>10}" for v in values))
        if self.judge.refused:
            lines.append(f"  transfer is REFUSED: {self.judge.reason}")
        lines.append("references: transfer cosine")
        for name, score in self.references.row().items():
            lines.append(f"  {name:30}{number(score['transfer_cosine']):>10}")
        lines.append(f"judge: R2 {self.judge.r2:.3f}, under blur {self.judge.r2_blurred:.3f}")
        lines.append(f"{'success':32}")
        lines += [f"  {name:30}{row}" for name, row in self.success.items()]
        if self.remote:
            lines.append(self.remote.text())
        for term in self.inert_terms():
            lines.append(f"INERT: the term {term!r} did nothing")
        lines.append(f"{self.seconds:.0f} s, {self.cpu_ms_per_pair:.2f} CPU ms per pair. {self.report}")
        return "\n".join(lines)


def number(value: float | int | bool) -> str:
    """Three decimals for shares, few for larger numbers, a dash for what could not be measured."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def null_for_nan(value: Any) -> Any:
    """JSON knows no NaN; a tuple becomes a list."""
    if isinstance(value, Mapping):
        return {k: null_for_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [null_for_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
