"""What stands in `meta` of a LeRobot dataset, and its card. Engineering."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cyclemimic.data.writers.lerobot_stats import QUANTILES, Stats
from cyclemimic.store.lineage import UNKNOWN, licence_text

FORMAT = "cyclemimic-lerobot-1"
OWN = "meta/cyclemimic.json"  # what the format has no place for: units and limits of actions, each episode's body


def stats_to_json(stats: Mapping[str, Stats], *, quantiles: bool) -> dict[str, dict[str, Any]]:
    """Statistics of features as LeRobot's JSON holds them; v2.1 knows no quantiles."""
    return {
        key: {name: value.tolist() for name, value in found.items() if quantiles or name not in QUANTILES}
        for key, found in stats.items()
    }


def tasks_table(tasks: Mapping[str, int]) -> pa.Table:
    """Sentences as pandas' index, which is how LeRobot looks them up; pandas itself is not needed to say so."""
    kinds = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_type, "metadata": None}
        for name, (kind, numpy_type) in kinds.items()
    ]
    index = {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object"}
    facts = {
        "index_columns": ["task"],
        "column_indexes": [{**index, "metadata": {"encoding": "UTF-8"}}],
        "columns": columns,
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.3.0",
    }
    table = pa.table({"task_index": pa.array(list(tasks.values()), pa.int64()), "task": pa.array(list(tasks))})
    return table.replace_schema_metadata({"pandas": json.dumps(facts)})


def dataset_card(licences: Mapping[str, int]) -> str:
    """The dataset's card. Its head is for machines: one licence, several, none stated, or something of both."""
    named = sorted(licences.keys() - {UNKNOWN})
    if UNKNOWN in licences or not all(re.fullmatch(r"[\w.+-]+", name) for name in named):
        licence = "license: other" if named else f"license: {UNKNOWN}"
    else:
        licence = f"license: {named[0]}" if len(named) == 1 else "\n".join(["license:", *(f"- {n}" for n in named)])
    return (
        f"---\n{licence}\ntask_categories:\n- robotics\ntags:\n- LeRobot\nconfigs:\n- config_name: default\n"
        "  data_files: data/*/*.parquet\n---\n\nWritten by `cyclemimic data export`. Units and limits of actions, and "
        f"the body and licence of each episode, stand in `{OWN}`.\n\nLicences: {licence_text(licences)}.\n"
    )


def write_plainly(path: Path, value: Mapping[str, Any]) -> None:
    """One value as JSON, in the order in which it is given: the order of features is that of the table.

    Plainly, not by rename: the whole folder appears by one.
    """
    path.write_text(json.dumps(value, indent=4, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One JSON value a line."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
