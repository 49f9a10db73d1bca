"""A tokenizer judged on a mixture: on each of its sources alone, as the mixture calls its clips and bodies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cyclemimic.errors import InputError
from cyclemimic.evaluate.records import QualityRecord
from cyclemimic.recipes.judging import quality_text, run_quality
from cyclemimic.recipes.parts import OpenMixture


def run_quality_of_parts(
    run: Path, mixture: OpenMixture, judge_folder: Path, out: Path, **settings: Any
) -> tuple[dict[str, QualityRecord], dict[str, str]]:
    """`run_quality` of each source of a mixture: `quality-PART.json` in `out`, by the names of the parts.

    What cannot be judged, as its clips do not say how they moved, or none of them is held out, stops no other.

    Args:
        run: the tokenizer.
        mixture: opened.
        judge_folder: of the judges; see `run_quality`.
        out: folder of the records.
        settings: as `run_quality` takes them.

    Returns:
        The records, and of the parts that cannot be judged the reason.

    Raises:
        InputError: none of them can be judged.
    """
    records: dict[str, QualityRecord] = {}
    refused: dict[str, str] = {}
    for part in mixture.parts:
        print(f"evaluate {part.name}", flush=True)
        try:
            records[part.name] = run_quality(run, part, judge_folder, out, **settings)
        except InputError as error:
            refused[part.name] = str(error)
    if not records:
        raise InputError(
            mixture.name,
            expected="a source that a tokenizer can be judged on: its clips say how they moved, and some are held out",
            got="none",
            remedy="`cyclemimic inspect` looks at a tokenizer without true motion.",
            each=[f"{name}: {why}" for name, why in refused.items()],
        )
    return records, refused


def text_of_parts(records: Mapping[str, QualityRecord], refused: Mapping[str, str]) -> str:
    """The numbers of each part, and which were not judged and why."""
    said = [f"{name}:\n{quality_text(record)}" for name, record in records.items()]
    return "\n\n".join([*said, *(f"{name} was not judged: {why}" for name, why in refused.items())])
