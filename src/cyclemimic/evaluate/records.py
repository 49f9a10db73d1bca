"""Results on disk, so that one process measures and another writes the report. JSON and npz, no pickle. Engineering."""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cyclemimic.evaluate.judge import JudgeReport
from cyclemimic.evaluate.quality import Quality, References, TransferScore
from cyclemimic.evaluate.rollout import EpisodeOutcome, RolloutResult
from cyclemimic.evaluate.summary import null_for_nan
from cyclemimic.store.atomic import read_json, write_atomically, write_json
from cyclemimic.types import Task


@dataclass(frozen=True, kw_only=True)
class QualityRecord:
    """What was measured of one tokenizer, by which judge, beside which references."""

    quality: Quality
    references: References
    judge: JudgeReport


def save_quality(path: Path, record: QualityRecord) -> None:
    """Write a tokenizer's measurement as JSON."""
    write_json(path, null_for_nan(asdict(record)))


def load_quality(path: Path) -> QualityRecord:
    """Undo `save_quality`."""
    found = nan_for_null(read_json(path))
    references = {name: TransferScore(**score) for name, score in found["references"].items()}
    judge = {**found["judge"], "r2_axes": tuple(found["judge"]["r2_axes"])}
    return QualityRecord(
        quality=Quality(**found["quality"]), references=References(**references), judge=JudgeReport(**judge)
    )


def nan_for_null(value: Any) -> Any:
    """Undo `null_for_nan`: JSON knows no NaN, which stands for what the data has no test of."""
    if isinstance(value, dict):
        return {k: nan_for_null(v) for k, v in value.items()}
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
