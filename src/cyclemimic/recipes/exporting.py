"""What `cyclemimic data export` does: a source and its labels as files that others read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cyclemimic.data.sources.lerobot import LeRobotSource
from cyclemimic.data.writers.lerobot import LeRobotReport, Version, write_lerobot
from cyclemimic.data.writers.lerobot_labels import label_lerobot, write_label_rows
from cyclemimic.errors import InputError
from cyclemimic.recipes.lineages import store_of
from cyclemimic.recipes.parts import OpenMixture, Sources
from cyclemimic.store.label_store import LabelStore
from cyclemimic.train.progress import Progress
from cyclemimic.types import Source

Kind = Literal["lerobot-v3", "lerobot-v2.1", "parquet", "jsonl"]
VERSIONS: dict[str, Version] = {"lerobot-v3": "v3.0", "lerobot-v2.1": "v2.1"}


def export(source: Source, out: Path, *, to: Kind, labels: Path | None = None) -> str:
    """Write a source, its labels or both; returns what was written, in a line.

    A LeRobot dataset that gets labels and keeps its version is copied as it is, with a column more. Everything else is
    decoded and encoded again, actions in metres, radians and fractions.

    Raises:
        InputError: labels are wanted and not named, they are of another source, or `out` is not empty.
    """
    store = None if labels is None else LabelStore.open(labels)
    if to in ("parquet", "jsonl"):
        if store is None:
            remedy = "Name what `cyclemimic label` wrote, or export --to lerobot-v3."
            raise InputError("--labels", expected=f"labels, for --to {to}", got="none", remedy=remedy)
        rows = write_label_rows(source, store, out, "jsonl" if to == "jsonl" else "parquet")
        return f"{rows} labels in {out}"
    version = VERSIONS[to]
    if store is not None and isinstance(source, LeRobotSource) and source.version == version:
        return _line(label_lerobot(source, store, out), out)
    progress = Progress(name="export", total=len(source.clips()))
    count = iter(range(1, len(source.clips()) + 1))

    def say(line: str) -> None:
        if " skipped, " in line:
            print(line, flush=True)
        progress.update(next(count))

    return _line(write_lerobot(source, out, version=version, labels=store, progress=say), out)


def export_sources(source: Sources, out: Path, *, to: Kind, labels: Path | None = None) -> str:
    """`export` of a source, or of each source of a mixture into a folder of its name; a line for each.

    The clips of a mixture bear the bodies and licences that it tells. Its labels are those that `run_label_part` wrote.

    Raises:
        InputError: as `export`, before anything is written where a part lacks its labels.
    """
    if not isinstance(source, OpenMixture):
        return export(source, out, to=to, labels=labels)
    if labels is not None:
        for part in source.parts:
            LabelStore.open(store_of(labels, source, part))
    lines = []
    for part in source.parts:
        own = None if labels is None else store_of(labels, source, part)
        lines.append(f"{part.name}: {export(part.as_told(), out / part.name, to=to, labels=own)}")
    return "\n".join(lines)


def _line(report: LeRobotReport, out: Path) -> str:
    left_out = f", {len(report.skipped)} clips left out" if report.skipped else ""
    return f"{report.episodes} episodes, {report.frames} frames in {out}{left_out}"
