"""A Parquet file with a row per episode that is built in parts, by several threads, and goes on where it was killed.

    FILE          a row per episode in row groups of `GROUP_ROWS`, and notes on the whole in its metadata
    FILE.parts/   while it is being built: a file per `PART_ROWS` episodes, each whole

What decides a row is its mark, kept in the column `mark`: rows of the same mark are taken over from an older file, so
that of a million episodes only those are looked at again that changed. Engineering.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cyclemimic.store.atomic import alone_in, sha256_json, write_atomically

PART_ROWS, GROUP_ROWS = 512, 2048
MARK_DIGITS = 32
Progress = Callable[[int, int], None]
_CONTENT, _NOTES = b"cyclemimic", b"cyclemimic_notes"


def mark_of(value: Any) -> str:
    """A mark from whatever decides a row."""
    return sha256_json(value)[:MARK_DIGITS]


def build_rows(
    path: Path,
    schema: Any,
    marks: Sequence[str],
    make: Callable[[int], Mapping[str, Any]],
    *,
    kind: Any,
    state: Any = None,
    threads: int = 1,
    progress: Progress | None = None,
    notes: Callable[[Iterator[Any]], Mapping[str, str]] | None = None,
) -> None:
    """Make or go on with a file of episodes; one that is up to date is kept.

    Args:
        path: the Parquet file.
        schema: its columns, a text column `mark` among them.
        marks: one per episode, in order.
        make: the other columns of one episode; called by several threads.
        kind: the file's format and what else decides it as a whole: of another kind no row is taken over.
        state: what decides the notes beside the rows.
        threads: how many make rows at once.
        progress: is given the number of episodes done and of all.
        notes: what is noted of the whole, from tables of all rows in order; see `notes_of`.
    """
    head = sha256_json(kind)
    chunks = [range(i, min(i + PART_ROWS, len(marks))) for i in range(0, len(marks), PART_ROWS)]
    keys = [sha256_json([head, *marks[chunk.start : chunk.stop]]) for chunk in chunks]
    content = f"{head}-{sha256_json([state, *keys])}"
    if content_of(path) == content:
        return
    folder = path.with_name(f"{path.name}.parts")
    with alone_in(folder, waiting=print), ThreadPoolExecutor(max(1, threads)) as pool:
        if content_of(path) == content:  # whoever was waited for has made it
            return
        before, done = _Before(path, schema, head), 0
        for chunk, key in zip(chunks, keys, strict=True):
            part = folder / f"{key[:32]}.parquet"
            if not part.exists():
                table = _made(chunk, marks, schema, make, before, pool)
                write_atomically(part, partial(pq.write_table, table))
            done += len(chunk)
            if progress is not None:
                progress(done, len(marks))
        parts = [folder / f"{key[:32]}.parquet" for key in keys]
        noted = {} if notes is None else dict(notes(pq.read_table(part, schema=schema) for part in parts))
        read = (pq.read_table(part, schema=schema) for part in parts)
        write_atomically(path, lambda temporary: write_rows(temporary, read, schema, content, noted))
        shutil.rmtree(folder)


def write_rows(
    path: Path | str, tables: Iterator[Any], schema: Any, content: str, notes: Mapping[str, str] | None = None
) -> None:
    """Write tables of a schema as one file, in row groups of `GROUP_ROWS`; one group in memory at a time.

    `content` is a hash of what the rows were made from.
    """
    schema = schema.with_metadata({_CONTENT: content.encode(), _NOTES: json.dumps(dict(notes or {})).encode()})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        waiting: list[Any] = []
        for table in tables:
            waiting.append(table)
            while sum(map(len, waiting)) >= GROUP_ROWS:
                joined = pa.concat_tables(waiting)
                writer.write_table(_one_dictionary(joined.slice(0, GROUP_ROWS), schema), row_group_size=GROUP_ROWS)
                waiting = [joined.slice(GROUP_ROWS)]
        if sum(map(len, waiting)):
            writer.write_table(_one_dictionary(pa.concat_tables(waiting), schema), row_group_size=GROUP_ROWS)


def content_of(path: Path) -> str | None:
    """What a file was made from, hashed; None where there is none or it is damaged: building is the remedy."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError):
        return None
    return str(metadata.get(_CONTENT, b"").decode(errors="replace")) or None


def notes_of(schema: Any) -> dict[str, str]:
    """What was noted of the whole, from an open file's schema."""
    try:
        found = json.loads((schema.metadata or {}).get(_NOTES, b"{}"))
    except ValueError:
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


class _Before:
    """The rows of an older file by their mark; none where it is missing, damaged or of another kind."""

    def __init__(self, path: Path, schema: Any, head: str) -> None:
        self._file, self._at = None, dict[str, tuple[int, int]]()
        if not (content_of(path) or "").startswith(f"{head}-"):
            return
        try:
            self._file = pq.ParquetFile(path, memory_map=True)
            if self._file.schema_arrow.names != schema.names:
                return
            for group in range(self._file.num_row_groups):
                marks = self._file.read_row_group(group, columns=["mark"])["mark"].to_pylist()
                self._at |= {mark: (group, row) for row, mark in enumerate(marks)}
        except (pa.ArrowException, OSError, ValueError, KeyError):
            self._at = {}
        self._read: tuple[int, Any] = (-1, None)

    def row(self, mark: str) -> dict[str, Any] | None:
        place = self._at.get(mark)
        if place is None or self._file is None:
            return None
        group, row = place
        if self._read[0] != group:  # marks come in about the order they had
            self._read = group, self._file.read_row_group(group)
        found: dict[str, Any] = self._read[1].slice(row, 1).to_pylist()[0]
        return found


def _made(
    chunk: range,
    marks: Sequence[str],
    schema: Any,
    make: Callable[[int], Mapping[str, Any]],
    before: _Before,
    pool: ThreadPoolExecutor,
) -> Any:
    rows: dict[int, Mapping[str, Any]] = {}
    for i in chunk:
        if (known := before.row(marks[i])) is not None:
            rows[i] = known
    new = [i for i in chunk if i not in rows]
    rows |= {i: {**row, "mark": marks[i]} for i, row in zip(new, pool.map(make, new), strict=True)}
    columns = {name: [rows[i][name] for i in chunk] for name in schema.names}
    return pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names}, schema)


def _one_dictionary(table: Any, schema: Any) -> Any:
    return table.unify_dictionaries().combine_chunks().replace_schema_metadata(schema.metadata)
