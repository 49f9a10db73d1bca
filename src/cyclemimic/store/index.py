"""One Parquet file that says of every episode of a source what reading its frames needs; no pixels. Engineering.

    FILE          a row per episode, see `SCHEMA`; row groups of `GROUP_ROWS`
    FILE.parts/   while it is being built: a file per `PART_ROWS` episodes, each whole

A part is named by its episodes and the sizes of their files, so a build that was killed goes on, and files that changed
are looked at again. Any Parquet reader can use the file without this package.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cyclemimic.errors import InputError
from cyclemimic.store.atomic import alone_in, sha256_json, write_atomically
from cyclemimic.types import Float64, Int64

FORMAT = "cyclemimic-index-1"
PART_ROWS, GROUP_ROWS = 512, 16384
_KEY = b"cyclemimic"
SCHEMA = pa.schema(
    [
        ("uri", pa.string()),  # where the episode lies, as its source names it
        ("stream", pa.int32()),  # which stream of the file
        ("frames", pa.int64()),  # at a constant rate; 0 where the episode is of no use
        ("fps", pa.float64()),
        ("height_px", pa.int32()),
        ("width_px", pa.int32()),
        ("key_times_s", pa.list_(pa.float64())),  # when key frames are shown
        ("key_frames", pa.list_(pa.int32())),  # their numbers in the file
        ("first_pts", pa.int64()),  # of the first frame, in the stream's units
        ("step_pts", pa.int64()),  # from frame to frame; 0 where uneven
        ("pts", pa.list_(pa.int64())),  # of every frame, where uneven
        ("shown", pa.list_(pa.int32())),  # which frame is on display at t / fps, where uneven
        ("embodiment", pa.dictionary(pa.int32(), pa.string())),
        ("instruction", pa.string()),
        ("licence", pa.string()),
        ("fault", pa.string()),  # why it is of no use
    ]
)
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class EpisodeRow:
    """One row; see `SCHEMA`."""

    uri: str
    embodiment: str
    fps: float
    frames: int = 0
    stream: int = 0
    height_px: int = 0
    width_px: int = 0
    key_times_s: Sequence[float] = ()
    key_frames: Sequence[int] = ()
    first_pts: int = 0
    step_pts: int = 0
    pts: Sequence[int] = ()
    shown: Sequence[int] = ()
    instruction: str | None = None
    licence: str | None = None
    fault: str | None = None


@dataclass(frozen=True, kw_only=True)
class EpisodeIndex:
    """An index opened for reading: the narrow columns lie in memory, everything else is read when asked for."""

    path: Path
    frames: Int64  # [n]
    fps: Float64  # [n]
    body: NDArray[np.int32]  # [n], into `bodies`
    bodies: tuple[str, ...]

    @classmethod
    def open(cls, path: Path | str) -> EpisodeIndex:
        """Open an index. InputError where there is none, or it is damaged."""
        path = Path(path)
        with _file(path) as file:
            frames, fps, body = [], [], []
            bodies: dict[str, int] = {}
            for group in range(file.num_row_groups):
                table = _read(file, group, ["frames", "fps", "embodiment"], path)
                frames.append(table["frames"].to_numpy())
                fps.append(table["fps"].to_numpy())
                for chunk in table["embodiment"].chunks:
                    known = [bodies.setdefault(name, len(bodies)) for name in chunk.dictionary.to_pylist()]
                    body.append(np.array(known, np.int32)[chunk.indices.to_numpy()])
        return cls(
            path=path,
            frames=np.concatenate(frames) if frames else np.empty(0, np.int64),
            fps=np.concatenate(fps) if fps else np.empty(0),
            body=np.concatenate(body) if body else np.empty(0, np.int32),
            bodies=tuple(bodies),
        )

    def __len__(self) -> int:
        """Number of episodes, those of no use included."""
        return len(self.frames)

    def row(self, i: int) -> EpisodeRow:
        """Everything about one episode; one row group is read."""
        with _file(self.path) as file:
            table = _read(file, i // GROUP_ROWS, None, self.path).slice(i % GROUP_ROWS, 1)
        return EpisodeRow(**table.to_pylist()[0])

    def rows(self) -> Iterator[EpisodeRow]:
        """Every episode in order, one row group in memory at a time."""
        with _file(self.path) as file:
            for group in range(file.num_row_groups):
                for batch in _read(file, group, None, self.path).to_batches(max_chunksize=PART_ROWS):
                    for row in batch.to_pylist():
                        yield EpisodeRow(**row)


def build_index(
    path: Path | str,
    names: Sequence[str],
    describe: Callable[[str], EpisodeRow],
    size_of: Callable[[str], int],
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> EpisodeIndex:
    """Make or go on with the index of `names`, in their order; one that is up to date is kept.

    Args:
        path: the Parquet file.
        names: of all episodes.
        describe: looks at one episode; called by several threads.
        size_of: bytes of an episode's file; another size, or another name, is another episode.
        threads: how many look at once.
        progress: is given the number of episodes done and of all.
    """
    path = Path(path)
    chunks = [names[i : i + PART_ROWS] for i in range(0, len(names), PART_ROWS)]
    keys = [sha256_json([FORMAT, [[name, size_of(name)] for name in chunk]]) for chunk in chunks]
    content = sha256_json([FORMAT, keys])
    if _content_of(path) == content:
        return EpisodeIndex.open(path)
    folder = path.with_name(f"{path.name}.parts")
    with alone_in(folder, waiting=print), ThreadPoolExecutor(max(1, threads)) as pool:
        if _content_of(path) == content:  # whoever was waited for has made it
            return EpisodeIndex.open(path)
        done = 0
        for chunk, key in zip(chunks, keys, strict=True):
            part = folder / f"{key[:32]}.parquet"
            if not part.exists():
                table = _table(list(pool.map(describe, chunk)))
                write_atomically(part, partial(pq.write_table, table))
            done += len(chunk)
            if progress is not None:
                progress(done, len(names))
        parts = [folder / f"{key[:32]}.parquet" for key in keys]
        write_atomically(path, lambda temporary: _join(parts, temporary, content))
        shutil.rmtree(folder)
    return EpisodeIndex.open(path)


def write_index(path: Path | str, tables: Iterator[Any], content: str) -> None:
    """Write tables of `SCHEMA` as one index, in row groups of `GROUP_ROWS`; one group in memory at a time.

    `content` is a hash of what the rows were made from.
    """
    schema = SCHEMA.with_metadata({_KEY: content.encode()})
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


def _join(parts: Sequence[Path], temporary: Path, content: str) -> None:
    write_index(temporary, (pq.read_table(part, schema=SCHEMA) for part in parts), content)


def _one_dictionary(table: Any, schema: Any) -> Any:
    return table.unify_dictionaries().combine_chunks().replace_schema_metadata(schema.metadata)


def _table(rows: Sequence[EpisodeRow]) -> Any:
    found = [asdict(row) for row in rows]
    columns = {name: [row[name] for row in found] for name in SCHEMA.names}
    return pa.table({name: pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names}, SCHEMA)


def _content_of(path: Path) -> str | None:
    """What an index was made from, hashed; None where there is none or it is damaged: building is the remedy."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError):
        return None
    return str(metadata.get(_KEY, b"").decode(errors="replace")) or None


def _file(path: Path) -> Any:
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None
    if file.schema_arrow.names != SCHEMA.names:
        raise _damaged(path, ValueError(f"columns {file.schema_arrow.names}"))
    return file


def _read(file: Any, group: int, columns: list[str] | None, path: Path) -> Any:
    try:
        return file.read_row_group(group, columns=columns)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> InputError:
    remedy = "Delete it and run `cyclemimic data index SOURCE` again."
    return InputError(path, expected="a whole index", got=str(error).splitlines()[0], remedy=remedy)
