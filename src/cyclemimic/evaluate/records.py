"""Results on disk, so that one process measures and another writes the report. JSON and npz, no pickle. Engineering."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cyclemimic.evaluate.judge import JudgeReport
from cyclemimic.evaluate.motion import HAND, Motion
from cyclemimic.evaluate.quality import Quality
from cyclemimic.evaluate.rollout import EpisodeOutcome, RolloutResult
from cyclemimic.evaluate.summary import null_for_nan
from cyclemimic.evaluate.transfer import References, TransferScore
from cyclemimic.store.atomic import read_json, write_atomically, write_json
from cyclemimic.types import Task

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class QualityRecord:
    """What was measured of one tokenizer, by which judge, beside which references and controls.

    Args:
        source: what was filmed: the name of the world, such as arms or arms-distractor; else of the source.
        controls: by name, as `controls.fit_controls` names them.
        motion: what true motion is here.
        filmed: whether a simulator's film was measured; else true motion is what a source's own numbers say.
        foreign: bodies that the tokenizer never saw, and on which probes were fitted all the same, as it saw no other.
    """

    quality: Quality
    references: References
    judge: JudgeReport
    source: str = ""
    controls: Mapping[str, Quality] = field(default_factory=dict)
    motion: Motion = HAND
    filmed: bool = True
    foreign: tuple[str, ...] = ()


def save_quality(path: Path, record: QualityRecord) -> None:
    """Write a tokenizer's measurement as JSON."""
    write_json(path, null_for_nan(asdict(record)))


def load_quality(path: Path) -> QualityRecord:
    """Undo `save_quality`. Older and newer records read too: what they lack is NaN, what is unknown is left out."""
    return quality_record(read_json(path))


def quality_record(values: Mapping[str, Any]) -> QualityRecord:
    """A tokenizer's measurement from what JSON holds of it."""
    found = nan_for_null(values)
    judge = {**found["judge"], "r2_axes": tuple(found["judge"]["r2_axes"])}
    return QualityRecord(
        quality=_read(Quality, found["quality"]),
        references=References(**{name: _read(TransferScore, score) for name, score in found["references"].items()}),
        judge=_read(JudgeReport, judge),
        source=found.get("source", ""),
        controls={name: _read(Quality, row) for name, row in found.get("controls", {}).items()},
        motion=_motion(found.get("motion")),
        filmed=bool(found.get("filmed", True)),
        foreign=tuple(found.get("foreign", ())),
    )


def _motion(values: Mapping[str, Any] | None) -> Motion:
    return HAND if values is None else Motion(**{**values, "axes": tuple(values["axes"])})


def _read(kind: type[T], values: Mapping[str, Any]) -> T:
    """A flat dataclass from the values that it knows; a number that is missing is its default, else NaN."""
    known: dict[str, Any] = {}
    for each in fields(kind):  # type: ignore[arg-type]
        if each.name in values:
            known[each.name] = values[each.name]
        elif each.default is MISSING:
            known[each.name] = math.nan
    return kind(**known)


def nan_for_null(value: Any) -> Any:
    """Undo `null_for_nan`: JSON knows no NaN, which stands for what the data has no test of."""
    if isinstance(value, Mapping):
        return {k: nan_for_null(v) for k, v in value.items()}
    if isinstance(value, list):
        return [nan_for_null(v) for v in value]
    return math.nan if value is None else value


def save_rollouts(folder: Path, name: str, result: RolloutResult) -> None:
    """Write outcomes as `name.json` and the frames that were kept as `name.npz`."""
    films = {str(i): o.film for i, o in enumerate(result.outcomes) if o.film is not None}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **films)
    write_atomically(folder / f"{name}.npz", buffer.getvalue())
    rows = [{**asdict(o.task), "success": o.success, "steps": o.steps, "error": o.error} for o in result.outcomes]
    skills = {skill: asdict(row) for skill, row in result.per_skill().items()}
    write_json(folder / f"{name}.json", {"all": asdict(result.row()), "skills": skills, "episodes": rows})


def load_rollouts(folder: Path, name: str) -> RolloutResult:
    """Undo `save_rollouts`."""
    with np.load(folder / f"{name}.npz", allow_pickle=False) as stored:
        films = {int(i): stored[i] for i in stored.files}
    return RolloutResult(
        outcomes=tuple(
            EpisodeOutcome(
                task=Task(body=row["body"], skill=row["skill"], seed=row["seed"]),
                success=row["success"],
                steps=row["steps"],
                error=row["error"],
                film=films.get(i),
            )
            for i, row in enumerate(read_json(folder / f"{name}.json")["episodes"])
        )
    )
