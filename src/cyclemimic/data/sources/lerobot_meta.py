"""The `meta` folder of a LeRobot dataset, v2.0, v2.1 and v3.0: what is where. No table and no picture is opened.

v2   meta/episodes.jsonl            a table and a video per episode; templates name them by number
v3   meta/episodes/*/*.parquet      tables and videos hold many episodes; the row says which file, and from which second
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cyclemimic.errors import InputError
from cyclemimic.store.atomic import read_json

INFO, EPISODES, STATS, EPISODE_STATS = (
    "meta/info.json",
    "meta/episodes.jsonl",
    "meta/stats.json",
    "meta/episodes_stats.jsonl",
)
EPISODE_TABLES = "meta/episodes"
VERSIONS = ("v2.0", "v2.1", "v3.0")
UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError)
_N = TypeVar("_N", int, float)
_FIELD = re.compile(r"\{(\w+)(?::0?(\d{1,2})d)?\}")
_DAMAGED = "The dataset is damaged or half copied; download it again."


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A column, or a camera that lies in videos."""

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...]  # of its numbers; empty where the dataset gives none
    depth: bool = False

    @property
    def is_camera(self) -> bool:
        """Whether it holds colour pictures."""
        return self.dtype in ("video", "image") and not self.depth


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Where a camera's pictures of one episode lie: a file below the root, and its second at which they begin."""

    file: str
    start_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class EpisodeEntry:
    """What `meta` says of one episode."""

    index: int
    length: int
    tasks: tuple[str, ...]
    table: str  # below the root
    videos: Mapping[str, Stretch] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DatasetMeta:
    """What `meta` says of the whole."""

    version: str
    fps: float
    robot: str
    features: Mapping[str, Feature]
    episodes: tuple[EpisodeEntry, ...]


def read_meta(root: Path) -> DatasetMeta:
    """Read `meta/info.json` and the list of episodes.

    Raises:
        InputError: a file is missing or damaged, the version is unknown, a template leads out of the folder, or counts
        do not agree.
    """
    where = root / INFO
    info = read_json(where)
    version = info.get("codebase_version")
    if version not in VERSIONS:
        remedy = "Convert it with the official package, or name another kind of source."
        raise InputError(
            f"{where}, field codebase_version", expected=f"one of {VERSIONS}", got=repr(version), remedy=remedy
        )
    fps = _number(info, "fps", where, float)
    features = {str(k): _feature(str(k), v, where) for k, v in _mapping(info, "features", where).items()}
    cameras = [name for name, feature in features.items() if feature.dtype == "video"]
    read = _episodes_v3 if version == "v3.0" else _episodes_v2
    episodes = tuple(sorted(read(root, info, cameras), key=lambda entry: entry.index))
    if not episodes:
        raise InputError(root / EPISODE_TABLES, expected="at least one episode", got="none", remedy=_DAMAGED)
    indices = [entry.index for entry in episodes]
    if len(set(indices)) < len(indices):
        raise InputError(root / EPISODE_TABLES, expected="every episode once", got="one twice", remedy=_DAMAGED)
    counts = {"total_episodes": len(episodes), "total_frames": sum(entry.length for entry in episodes)}
    for name, count in counts.items():
        said = _number(info, name, where, int)
        if said != count:
            expected = f"{count}, as the list of episodes says"
            remedy = "The copy is not whole, or one of the two files is of another day; download the dataset again."
            raise InputError(f"{where}, field {name}", expected=expected, got=str(said), remedy=remedy)
    robot = str(info.get("robot_type") or "unknown")
    return DatasetMeta(version=version, fps=fps, robot=robot, features=features, episodes=episodes)


def filled(template: str, values: Mapping[str, int | str], where: object) -> str:
    """A path below the root from LeRobot's template, such as `data/chunk-{chunk_index:03d}/...`.

    Only whole numbers and names of cameras are put in, and the path must not lead out of the folder: a dataset from
    elsewhere decides what is opened here.
    """

    def put(found: re.Match[str]) -> str:
        value = values.get(found[1])
        if value is None:
            expected = f"fields of {sorted(values)}"
            raise InputError(where, expected=expected, got=repr(found[0]), remedy="Is the version of the format right?")
        return f"{value:0{found[2]}d}" if found[2] and isinstance(value, int) else str(value)

    path = _FIELD.sub(put, template)
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path or "{" in path or "\0" in path or not parts.parts:
        remedy = "Do not trust this dataset; it names files outside its own folder."
        raise InputError(where, expected="a path below the dataset", got=repr(path), remedy=remedy)
    return path


def largest_and_limits(root: Path, key: str, width: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
    """The least and the greatest number [A] of a feature by the dataset's own statistics; None where it has none."""
    if (root / STATS).exists():
        rows = [read_json(root / STATS)]
    elif (root / EPISODE_STATS).exists():
        rows = [row.get("stats", {}) for row in read_lines(root / EPISODE_STATS)]
    else:
        return None
    try:
        low = np.min([np.asarray(row[key]["min"], np.float64) for row in rows], axis=0)
        high = np.max([np.asarray(row[key]["max"], np.float64) for row in rows], axis=0)
    except (KeyError, TypeError, ValueError):
        return None
    if low.shape != (width,) or high.shape != (width,) or not np.isfinite([low, high]).all():
        return None
    return low, high


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines. InputError that names the line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(path, expected="a file of JSON lines", got="no file", remedy=_DAMAGED) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, expected="text in UTF-8", got=str(error), remedy=_DAMAGED) from None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}", expected="JSON", got=str(error), remedy=_DAMAGED) from None
        if not isinstance(row, dict):
            got = type(row).__name__
            raise InputError(f"{path}, line {number}", expected="a JSON object", got=got, remedy=_DAMAGED)
        yield row


def _episodes_v2(root: Path, info: Mapping[str, Any], cameras: Sequence[str]) -> Iterator[EpisodeEntry]:
    size = _number(info, "chunks_size", root / INFO, int)
    for number, row in enumerate(read_lines(root / EPISODES), start=1):
        where = f"{root / EPISODES}, line {number}"
        index = _number(row, "episode_index", where, int, least=0)
        values: dict[str, int | str] = {"episode_chunk": index // size, "episode_index": index}
        yield EpisodeEntry(
            index=index,
            length=_number(row, "length", where, int, least=0),
            tasks=_tasks(row.get("tasks"), where),
            table=_filled(info, "data_path", values, root),
            videos={
                key: Stretch(file=_filled(info, "video_path", {**values, "video_key": key}, root)) for key in cameras
            },
        )


def _episodes_v3(root: Path, info: Mapping[str, Any], cameras: Sequence[str]) -> Iterator[EpisodeEntry]:
    files = sorted((root / EPISODE_TABLES).glob("*/*.parquet"))
    if not files:
        raise InputError(root / EPISODE_TABLES, expected="tables of episodes", got="none", remedy=_DAMAGED)
    places = [f"videos/{key}/{name}" for key in cameras for name in ("chunk_index", "file_index", "from_timestamp")]
    columns = ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index", *places]
    for path in files:
        for row in _rows(path, columns):
            index = _number(row, "episode_index", path, int, least=0)
            where = f"{path}, episode {index}"
            videos = {}
            for key in cameras:
                values = _place(row, f"videos/{key}/", where)
                start = row[f"videos/{key}/from_timestamp"]
                file = _filled(info, "video_path", {**values, "video_key": key}, root)
                # A wrong second is the episode's own fault; `read` says so.
                videos[key] = Stretch(file=file, start_s=float("nan") if start is None else float(start))
            yield EpisodeEntry(
                index=index,
                length=_number(row, "length", where, int, least=0),
                tasks=_tasks(row["tasks"], where),
                table=_filled(info, "data_path", _place(row, "data/", where), root),
                videos=videos,
            )


def _rows(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    try:
        absent = sorted(set(columns) - set(pq.read_schema(path).names))
        if not absent:
            rows: list[dict[str, Any]] = pq.ParquetFile(path).read(columns=columns).to_pylist()
            return rows
    except UNREADABLE as error:
        got = str(error).splitlines()[0]
        raise InputError(path, expected="a whole Parquet file", got=got, remedy=_DAMAGED) from None
    raise InputError(path, expected=f"columns {absent}", got="none of that name", remedy=_DAMAGED)


def _place(row: Mapping[str, Any], prefix: str, where: object) -> dict[str, int | str]:
    """The numbers of the chunk and of the file in it."""
    names = ("chunk_index", "file_index")
    return {name: _number(row, f"{prefix}{name}", where, int, least=0) for name in names}


def _filled(info: Mapping[str, Any], name: str, values: Mapping[str, int | str], root: Path) -> str:
    template = info.get(name)
    where = f"{root / INFO}, field {name}"
    if not isinstance(template, str):
        raise InputError(where, expected="a template of a path", got=repr(template), remedy=_DAMAGED)
    return filled(template, values, where)


def _feature(name: str, value: Any, where: Path) -> Feature:
    place = f"{where}, field features[{name!r}]"
    if not isinstance(value, Mapping) or not isinstance(value.get("dtype"), str):
        raise InputError(place, expected="an object with a dtype", got=repr(value)[:60], remedy=_DAMAGED)
    try:
        shape = tuple(int(n) for n in value.get("shape") or ())
    except (TypeError, ValueError):
        raise InputError(place, expected="a shape", got=repr(value.get("shape")), remedy=_DAMAGED) from None
    facts = value.get("info") or value.get("video_info") or {}
    depth = isinstance(facts, Mapping) and bool(facts.get("is_depth_map") or facts.get("video.is_depth_map"))
    return Feature(dtype=value["dtype"], shape=shape, names=_names(value.get("names")), depth=depth)


def _names(value: Any) -> tuple[str, ...]:
    """Names as LeRobot's versions spell them: a list, an object of lists, an object of numbers, or nothing."""
    if isinstance(value, Mapping):
        lists = [v for v in value.values() if isinstance(v, list)]
        return tuple(str(n) for v in lists for n in v) if lists else tuple(map(str, value))
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _tasks(value: Any, where: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(task, str) for task in value):
        raise InputError(f"{where}, field tasks", expected="a list of sentences", got=repr(value)[:60], remedy=_DAMAGED)
    return tuple(value)


def _mapping(row: Mapping[str, Any], name: str, where: object) -> Mapping[str, Any]:
    value = row.get(name)
    if not isinstance(value, Mapping):
        raise InputError(f"{where}, field {name}", expected="an object", got=repr(value)[:60], remedy=_DAMAGED)
    return value


def _number(row: Mapping[str, Any], name: str, where: object, kind: type[_N], least: int = 1) -> _N:
    value: Any = row.get(name)
    fits = isinstance(value, int) or (kind is float and isinstance(value, float))
    if not fits or isinstance(value, bool) or not (value > 0 if kind is float else value >= least) or value > 1e15:
        expected = "a number above 0" if kind is float else f"a whole number, at least {least}"
        raise InputError(f"{where}, field {name}", expected=expected, got=repr(value), remedy=_DAMAGED)
    return kind(value)
