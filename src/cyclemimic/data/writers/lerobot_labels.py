"""Labels beside the data: a LeRobot dataset copied with one more column, or rows for any reader. Engineering.

Letters in shapes: T frames of an episode, L tokens (l_z), n labels of a clip.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cyclemimic.data.cache import source_hash
from cyclemimic.data.sources.lerobot import LeRobotSource, clip_name
from cyclemimic.data.sources.lerobot_meta import EPISODE_STATS, EPISODE_TABLES, INFO, STATS, UNREADABLE, read_lines
from cyclemimic.data.writers.lerobot import LeRobotReport, refuse_filled
from cyclemimic.data.writers.lerobot_columns import LATENT, MARGIN, label_columns, latent_arrays, latent_features
from cyclemimic.data.writers.lerobot_meta import stats_to_json
from cyclemimic.data.writers.lerobot_stats import Stats, merged, stats_of_numbers
from cyclemimic.errors import InputError
from cyclemimic.store.atomic import read_json, replace_folder, temporary_name, write_atomically
from cyclemimic.store.label_store import LabelStore
from cyclemimic.types import Source

_KEY, _HUGGING_FACE = b"cyclemimic", b"huggingface"


def label_lerobot(source: LeRobotSource, labels: LabelStore, out: Path | str) -> LeRobotReport:
    """Copy a LeRobot dataset as it is, with the columns `latent_action` [L] and `latent_action_margin`.

    Nothing is encoded or converted: video, units and further columns stay what they were, in the version of the format
    that they were in. Frames without a label hold -1. The folder appears whole, or not at all.

    Raises:
        InputError: the folder is not empty, the labels are of another source, or a table cannot be read.
    """
    out = Path(out)
    refuse_filled(out)
    labels.require(source_hash=source_hash(source))
    folder = temporary_name(out)
    stats: dict[int, dict[str, Stats]] = {}
    try:
        shutil.copytree(source.path, folder)
        for file in source.tables():
            stats |= _label_table(source, labels, folder / file)
        _say_so(folder, labels, stats)
        replace_folder(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return LeRobotReport(episodes=len(stats), frames=sum(clip.num_frames for clip in source.clips()), skipped=())


def write_label_rows(source: Source, labels: LabelStore, out: Path | str, kind: Literal["parquet", "jsonl"]) -> int:
    """Write every label as a row, with what is known of its clip: OUT/labels.parquet or OUT/labels.jsonl.

    A row says clip, embodiment, instruction, frame (the earlier one of the pair), time_s, gap_s, codes [L] and margin.
    Where the labels come from stands in OUT/provenance.json. Returns the number of rows.

    Raises:
        InputError: the labels are of another source.
    """
    out = Path(out)
    labels.require(source_hash=source_hash(source))
    rows = list(_rows(source, labels))
    provenance = json.dumps(asdict(labels.provenance), sort_keys=True)
    if kind == "jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomically(out / "labels.jsonl", text.encode())
    else:
        schema = pa.schema(
            [
                ("clip", pa.string()),
                ("embodiment", pa.string()),
                ("instruction", pa.string()),
                ("frame", pa.int32()),
                ("time_s", pa.float64()),
                ("gap_s", pa.float64()),
                ("codes", pa.list_(pa.int16(), labels.provenance.num_tokens)),
                ("margin", pa.float32()),
            ],
            metadata={_KEY: provenance},
        )
        table = pa.Table.from_pylist(rows, schema=schema)
        write_atomically(out / "labels.parquet", lambda path: pq.write_table(table, path, compression="zstd"))
    write_atomically(out / "provenance.json", (provenance + "\n").encode())
    return len(rows)


def _rows(source: Source, labels: LabelStore) -> Iterator[dict[str, Any]]:
    for clip in source.clips():
        if clip.name not in labels:
            continue
        frames, codes = labels.codes_for(clip.name)
        for frame, tokens, margin in zip(frames, codes, labels.margins_for(clip.name), strict=True):
            yield {
                "clip": clip.name,
                "embodiment": clip.embodiment,
                "instruction": clip.instruction,
                "frame": int(frame),
                "time_s": int(frame) / clip.fps,
                "gap_s": labels.provenance.gap_s,
                "codes": tokens.tolist(),
                "margin": float(margin),
            }


def _label_table(source: LeRobotSource, labels: LabelStore, path: Path) -> dict[int, dict[str, Stats]]:
    """Add the columns to one table; returns the statistics of each episode in it."""
    clips = {clip.name: clip for clip in source.clips()}
    try:
        table = pq.read_table(path, partitioning=None)
        number, frame = table["episode_index"].to_numpy(), table["frame_index"].to_numpy()
    except UNREADABLE as error:
        remedy = "It is damaged; download it again. A copy with some labels missing would mislead."
        raise InputError(path, expected="a whole table", got=str(error).splitlines()[0], remedy=remedy) from None
    codes = np.empty((len(table), labels.provenance.num_tokens), np.int64)
    margins = np.empty(len(table), np.float32)
    found: dict[int, dict[str, Stats]] = {}
    for index in np.unique(number):
        rows = np.flatnonzero(number == index)
        clip = clips.get(clip_name(int(index)))
        if clip is None or not (0 <= frame[rows].min() <= frame[rows].max() < clip.num_frames):
            expected, got = "episodes as the dataset lists them", f"other rows of episode {index}"
            raise InputError(path, expected=expected, got=got, remedy="Download the dataset again.")
        of_frames = label_columns(labels, clip, clip.num_frames)
        codes[rows], margins[rows] = (column[frame[rows]] for column in of_frames)
        found[int(index)] = {
            LATENT: stats_of_numbers(codes[rows]),
            MARGIN: stats_of_numbers(margins[rows, None]),
        }
    metadata = _metadata(table.schema.metadata or {}, labels.provenance.num_tokens)
    kept = table.drop_columns([name for name in (LATENT, MARGIN) if name in table.column_names])
    for name, column in latent_arrays(codes, margins).items():
        kept = kept.append_column(name, column)
    path.unlink()  # may be a link to a file that is shared
    kept = kept.replace_schema_metadata(metadata)
    with pq.ParquetWriter(path, kept.schema) as writer:
        for begin, end in _runs(number):
            writer.write_table(kept.slice(begin, end - begin))
    return found


def _metadata(found: dict[bytes, bytes], num_tokens: int) -> dict[bytes, bytes]:
    """What Hugging Face's readers go by, with the new columns: without it pictures in a table are no pictures."""
    try:
        facts = json.loads(found[_HUGGING_FACE])
        features = facts["info"]["features"]
        whole, number = {"dtype": "int64", "_type": "Value"}, {"dtype": "float32", "_type": "Value"}
        # All their versions read this word; newer ones write another.
        row = {"feature": whole, "length": num_tokens, "_type": "Sequence"}
        features |= {LATENT: whole if num_tokens == 1 else row, MARGIN: number}
    except (KeyError, TypeError, ValueError):
        return {key: value for key, value in found.items() if key != _HUGGING_FACE}
    return {**found, _HUGGING_FACE: json.dumps(facts).encode()}


def _runs(number: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    """Stretches of rows of one episode each."""
    ends = [*(np.flatnonzero(np.diff(number)) + 1).tolist(), len(number)]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _say_so(root: Path, labels: LabelStore, stats: dict[int, dict[str, Stats]]) -> None:
    """Bring `meta` up to date."""
    info = read_json(root / INFO)
    info["features"] |= latent_features(labels.provenance.num_tokens)
    _write(root / INFO, json.dumps(info, indent=4, ensure_ascii=False))
    if (root / STATS).exists():
        together = {key: merged([found[key] for found in stats.values()]) for key in (LATENT, MARGIN)}
        whole = read_json(root / STATS) | stats_to_json(together, quantiles=True)
        _write(root / STATS, json.dumps(whole, indent=4))
    if (root / EPISODE_STATS).exists():
        rows = list(read_lines(root / EPISODE_STATS))
        for row in rows:
            row["stats"] |= stats_to_json(stats[row["episode_index"]], quantiles=False)
        _write(root / EPISODE_STATS, "".join(json.dumps(row) + "\n" for row in rows).rstrip("\n"))
    for path in sorted((root / EPISODE_TABLES).glob("*/*.parquet")):
        table = pq.ParquetFile(path).read()
        indices = table["episode_index"].to_pylist()
        for key in (LATENT, MARGIN):
            for name in stats[indices[0]][key]:
                column = f"stats/{key}/{name}"
                values = pa.array([stats[i][key][name].tolist() for i in indices])
                if column in table.column_names:
                    table = table.drop_columns([column])
                table = table.append_column(column, values)
        path.unlink()
        pq.write_table(table, path)
    _write(root / "meta" / "cyclemimic-labels.json", json.dumps(asdict(labels.provenance), indent=4, sort_keys=True))


def _write(path: Path, text: str) -> None:
    # Not through what may be a link; the whole folder appears by one rename.
    path.unlink(missing_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
