"""Alarms: rules over the logged figures that know how a training goes wrong, and say what to turn. Engineering.

They speak of what the figures show; none of them stops a run or changes a weight. A figure that a stage does not log
keeps its rules silent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass

Row = Mapping[str, float]

HIGHER_IS_BETTER = ("joint_codes", "slot_perplexity")
LOWER_IS_BETTER = ("reconstruction",)


@dataclass(frozen=True, kw_only=True)
class AlarmConfig:
    """When the rules speak. Rows are rows of the log.

    Args:
        patience: for how many rows in a row a figure must be out of bounds.
        settle: rows at the beginning that no rule but the loader's looks at: codes are still finding their places.
        quiet: how many calm rows re-arm an alarm that has spoken.
        usage_share: joint codes or slot perplexity below this share of their best are a collapse.
        fewest_joint_codes: fewer are a collapse whatever was before.
        fewest_codes_per_slot: the same of a slot's perplexity.
        high_cycle: cycle accuracy from here on must be borne out by something else.
        corrupted_share: what must be left of it once generated frames are corrupted.
        worse_reconstruction: reconstruction above its best by this factor, while the cycle succeeds.
        painted_share: pictures painted more than this hide codes in paint (a decoder that only paints has 1).
        shuffled_ratio: reconstruction by a wrong code over that by the right one; near 1 the code says nothing.
        waiting_share: share of the wall time spent waiting for data.
    """

    patience: int = 3
    settle: int = 10
    quiet: int = 20
    usage_share: float = 0.3
    fewest_joint_codes: float = 2.0
    fewest_codes_per_slot: float = 1.2
    high_cycle: float = 0.7
    corrupted_share: float = 0.5
    worse_reconstruction: float = 1.2
    painted_share: float = 0.3
    shuffled_ratio: float = 1.05
    waiting_share: float = 0.3


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """What was seen, what is likely the cause, and what to try."""

    name: str
    step: int
    seen: str
    likely: str
    remedy: str

    def __str__(self) -> str:
        return f"ALARM {self.name} at step {self.step}: {self.seen}. Likely: {self.likely}. Try: {self.remedy}."


@dataclass(frozen=True, kw_only=True)
class History:
    """What rules look at: the newest values of each figure, oldest first, and the best of some since rows settled."""

    step: int
    settled: bool
    last: Mapping[str, tuple[float, ...]]  # at most `patience` values each
    best: Mapping[str, float]

    def lately(self, name: str, patience: int) -> tuple[float, ...]:
        """The last `patience` values of a figure; empty as long as there are fewer."""
        values = self.last.get(name, ())
        return values if len(values) == patience else ()


def collapse(seen: History, config: AlarmConfig) -> Alarm | None:
    """The latent actions in use have become few, or far fewer than they were."""
    for name, fewest in (
        ("joint_codes", config.fewest_joint_codes),
        ("slot_perplexity", config.fewest_codes_per_slot),
    ):
        values, best = seen.lately(name, config.patience), seen.best.get(name, 0.0)
        bound = max(fewest, config.usage_share * best)
        if seen.settled and values and max(values) < bound:
            return Alarm(
                name="collapse",
                step=seen.step,
                seen=f"{name} is {values[-1]:.3g}, its best was {best:.3g}",
                likely="embeddings have drawn together and codes are dying",
                remedy="higher objective.entropy, lower learning_rate, smaller quantizer.reset_after, longer gap_s",
            )
    return None


def leak(seen: History, config: AlarmConfig) -> Alarm | None:
    """The cycle succeeds by a sign hidden in the picture, not by an action that a viewer could see."""
    n = config.patience
    clean, corrupted = seen.lately("cycle_accuracy_clean", n), seen.lately("cycle_accuracy", n)
    rebuilt, painted = seen.lately("reconstruction", n), seen.lately("painted", n)
    best = seen.best.get("reconstruction")
    found = None
    if not seen.settled:
        return None
    if painted and config.painted_share < min(painted) and max(painted) < 1:
        found = f"{painted[-1]:.0%} of the picture is painted instead of moved"
    if clean and min(clean) >= config.high_cycle:
        if rebuilt and best is not None and min(rebuilt) > config.worse_reconstruction * best:
            found = f"cycle accuracy is {clean[-1]:.2f} while reconstruction went from {best:.3g} to {rebuilt[-1]:.3g}"
        if corrupted and max(corrupted) < config.corrupted_share * min(clean):
            found = f"cycle accuracy is {clean[-1]:.2f} on clean frames, {corrupted[-1]:.2f} on corrupted ones"
    if found is None:
        return None
    return Alarm(
        name="leak",
        step=seen.step,
        seen=found,
        likely="the decoder writes the code into its frames and the encoder reads it there",
        remedy="more ac3.noise, ac3.blur, higher objective.painted, less ac3.gradient_into_decoder, decoder motion",
    )


def ignored_latent(seen: History, config: AlarmConfig) -> Alarm | None:
    """The decoder rebuilds as well with another pair's latent action as with the right one."""
    right = seen.lately("reconstruction", config.patience)
    wrong = seen.lately("reconstruction_shuffled", config.patience)
    if not (seen.settled and right and wrong):
        return None
    ratio = sum(wrong) / max(sum(right), 1e-12)
    if ratio >= config.shuffled_ratio:
        return None
    return Alarm(
        name="ignored latent",
        step=seen.step,
        seen=f"reconstruction is {right[-1]:.3g} with the right code and {wrong[-1]:.3g} with a wrong one",
        likely="little moves within a pair, or the decoder has learnt to copy the frame before it listens to the code",
        remedy="a longer gap_s, video with more motion, a later start of objective.cycle, more steps before judging",
    )


def starving_loader(seen: History, config: AlarmConfig) -> Alarm | None:
    """Steps wait for their data."""
    waited = seen.lately("data_wait_share", config.patience)
    if not waited or min(waited) < config.waiting_share:
        return None
    return Alarm(
        name="starving loader",
        step=seen.step,
        seen=f"{waited[-1]:.0%} of the time goes into waiting for data",
        likely="the cache lies on a slow disk, or does not fit into memory",
        remedy="a local disk for --cache, a smaller size_px, more processors, a larger batch_size",
    )


RULES: tuple[Callable[[History, AlarmConfig], Alarm | None], ...] = (collapse, leak, ignored_latent, starving_loader)


class Watch:
    """Shows each row of figures to every rule, and lets an alarm speak once until it has been calm for a while."""

    def __init__(self, config: AlarmConfig) -> None:
        self.config = config
        self._rows = 0
        self._last: dict[str, tuple[float, ...]] = {}
        self._best: dict[str, float] = {}
        self._calm: dict[str, int] = {}  # rule -> calm rows since it spoke; absent: armed

    def recall(self, rows: Iterable[Row]) -> None:
        """Take up the rows of an earlier sitting, whose alarms have been said."""
        for row in rows:
            self.look(int(row["step"]), row)

    def look(self, step: int, figures: Row) -> list[Alarm]:
        """The alarms that this row gives reason to say."""
        self._remember(figures)
        settled = self._rows > self.config.settle
        seen = History(step=step, settled=settled, last=self._last, best=self._best)
        said = []
        for rule in RULES:
            alarm, key = rule(seen, self.config), rule.__name__
            if alarm is None:
                calm = self._calm.get(key, self.config.quiet) + 1
                if calm >= self.config.quiet:
                    self._calm.pop(key, None)
                else:
                    self._calm[key] = calm
                continue
            if key not in self._calm:
                said.append(alarm)
            self._calm[key] = 0
        return said

    def _remember(self, figures: Row) -> None:
        self._rows += 1
        for name, value in figures.items():
            self._last[name] = (*self._last.get(name, ()), value)[-self.config.patience :]
        if self._rows > self.config.settle:
            for names, better in ((HIGHER_IS_BETTER, max), (LOWER_IS_BETTER, min)):
                for name in names:
                    if name in figures:
                        self._best[name] = better(self._best.get(name, figures[name]), figures[name])


def alarm_row(alarm: Alarm) -> dict[str, object]:
    """What JSON can hold."""
    return asdict(alarm)
