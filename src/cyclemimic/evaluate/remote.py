"""What driving through a server gave, beside the same episodes in one process. Engineering."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from cyclemimic.errors import InputError
from cyclemimic.evaluate.rollout import EpisodeOutcome, RolloutResult
from cyclemimic.evaluate.statistics import SuccessRow
from cyclemimic.store.atomic import read_json, write_json
from cyclemimic.types import Task


@dataclass(frozen=True, kw_only=True)
class RemoteRecord:
    """A policy in one process, the robot in another.

    Args:
        success: of the episodes that went through the server.
        equal: how many of them ended as in one process: success, steps and error alike.
        holds: ticks without a good answer.
        latency_p50_ms: from a question to its answer; None where nothing was asked.
        robot_torch: whether the robot's process had torch: not installed, blocked, not imported.
    """

    success: SuccessRow
    equal: int
    holds: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    robot_torch: str

    def text(self) -> str:
        """One line for a person."""
        return (
            f"through a server: {self.success}; {self.equal} of {self.success.n} episodes end as in one process; "
            f"latency p50 {_ms(self.latency_p50_ms)}, p95 {_ms(self.latency_p95_ms)}; {self.holds} holds; "
            f"torch on the robot: {self.robot_torch}"
        )


def driven_outcomes(path: Path) -> RolloutResult:
    """The episodes in the JSON that `cyclemimic drive` wrote, as those of `cyclemimic evaluate`.

    Raises:
        InputError: it is no such file.
    """
    found = read_json(path)
    try:
        return RolloutResult(
            outcomes=tuple(
                EpisodeOutcome(
                    task=Task(body=row["body"], skill=row["skill"], seed=row["seed"]),
                    success=row["success"] is True,
                    steps=row["steps"],
                    error=row["error"],
                )
                for row in found["episodes"]
            )
        )
    except (KeyError, TypeError) as error:
        raise InputError(
            path, expected="what `cyclemimic drive --out` wrote", got=f"{type(error).__name__}: {error}",
            remedy="Drive again.",
        ) from error  # fmt: skip


def count_equal(one: RolloutResult, other: RolloutResult) -> int:
    """How many tasks that both ran ended alike."""
    known = {o.task: (o.success, o.steps, o.error) for o in one.outcomes}
    return sum(known.get(o.task) == (o.success, o.steps, o.error) for o in other.outcomes)


def save_remote(path: Path, record: RemoteRecord) -> None:
    """Write the record as JSON."""
    write_json(path, asdict(record))


def load_remote(path: Path) -> RemoteRecord:
    """Undo `save_remote`."""
    found = read_json(path)
    return RemoteRecord(**{**found, "success": SuccessRow(**found["success"])})


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"
