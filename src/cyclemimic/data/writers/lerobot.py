"""Write any source as a LeRobot dataset, v3.0 or v2.1, with its labels as one more column. Engineering.

Letters in shapes: T frames of an episode, H W picture, A action axes, P proprioception axes, L tokens (l_z).

OUT/meta, OUT/data, OUT/videos   as the official package writes them
OUT/meta/cyclemimic.json         what the format has no place for: units and limits of actions, each episode's body
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cyclemimic.data.cache import source_hash
from cyclemimic.data.writers.film import space_to_json
from cyclemimic.data.writers.lerobot_columns import (
    ACTION,
    COUNTERS,
    LATENT,
    MARGIN,
    STATE,
    camera_key,
    column_of,
    feature_of,
    label_columns,
    latent_features,
)
from cyclemimic.data.writers.lerobot_meta import (
    FORMAT,
    OWN,
    dataset_card,
    stats_to_json,
    tasks_table,
    write_lines,
    write_plainly,
)
from cyclemimic.data.writers.lerobot_stats import Stats, merged, stats_of_numbers, stats_of_pictures
from cyclemimic.data.writers.lerobot_video import VideoFile, pixel_format
from cyclemimic.errors import InputError
from cyclemimic.store.atomic import replace_folder, temporary_name
from cyclemimic.store.frame_cache import SkippedClip
from cyclemimic.store.label_store import LabelStore
from cyclemimic.store.lineage import licences_of
from cyclemimic.types import ActionSpace, ClipInfo, Episode, Float32, Source, UInt8

CHUNK, DATA_MB, VIDEO_MB = 1000, 100.0, 200.0
_PATHS = {
    "v3.0": (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    ),
    "v2.1": (
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    ),
}

Version = Literal["v3.0", "v2.1"]


@dataclass(frozen=True, kw_only=True)
class LeRobotReport:
    """What was written, and which clips were left out and why."""

    episodes: int
    frames: int
    skipped: tuple[SkippedClip, ...]


def write_lerobot(
    source: Source,
    out: Path | str,
    *,
    version: Version = "v3.0",
    labels: LabelStore | None = None,
    data_mb: float = DATA_MB,
    video_mb: float = VIDEO_MB,
    progress: Callable[[str], None] | None = None,
) -> LeRobotReport:
    """Write every readable clip of `source` as an episode. The folder appears whole, or not at all.

    LeRobot has an action for every frame, ours lead from one frame to the next: at the last frame targets are repeated
    and changes are 0. A dataset has one rate, one set of cameras and one action space; clips that differ from the first
    in these are left out, as are clips that cannot be read.

    Args:
        source: where clips come from.
        out: the folder; must be empty or absent.
        version: of the format.
        labels: latent actions of this source, which become the columns `latent_action` [L] and `latent_action_margin`;
            -1 where there is no label.
        data_mb: v3.0 begins a new table after so much [MB].
        video_mb: v3.0 begins a new video after so much [MB].
        progress: is given a line of text after every clip.

    Raises:
        InputError: the folder is not empty, the labels are of another source, or no clip can be used.
    """
    out, say = Path(out), progress or (lambda line: None)
    refuse_filled(out)
    content = source_hash(source)
    if labels is not None:
        labels.require(source_hash=content)
    folder = temporary_name(out)
    clips, skipped = source.clips(), list[SkippedClip]()
    try:
        with _DatasetWriter(folder, version, labels, data_mb, video_mb) as writer:
            for number, clip in enumerate(clips, start=1):
                try:
                    writer.add(source.read(clip))
                    say(f"{number}/{len(clips)} {clip.name}: {writer.frames} frames so far")
                except InputError as error:
                    skipped.append(SkippedClip(name=clip.name, reason=str(error)))
                    say(f"{number}/{len(clips)} {clip.name}: skipped, {error}")
            if not writer.rows:
                reasons = "; ".join(f"{s.name}: {s.reason}" for s in skipped[:3]) or "none"
                raise InputError(source.name, expected="a usable clip", got=reasons, remedy="See `data check`.")
            writer.finish(content)
        replace_folder(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return LeRobotReport(episodes=len(writer.rows), frames=writer.frames, skipped=tuple(skipped))


def refuse_filled(out: Path) -> None:
    """Raise InputError unless `out` is an empty folder or none."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        got = "a folder with files" if out.is_dir() else "a file"
        remedy = "Name another folder, or empty this one."
        raise InputError(out, expected="an empty folder, or none yet", got=got, remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """What all episodes of a dataset share."""

    fps: float
    cameras: tuple[tuple[str, int, int], ...]  # name, H, W; the main one first
    space: ActionSpace | None
    action_width: int | None
    state_width: int | None

    @classmethod
    def of(cls, episode: Episode) -> _Shape:
        cameras = {episode.camera: episode.frames, **episode.extra_frames}
        return cls(
            fps=episode.info.fps,
            cameras=tuple((name, *frames.shape[1:3]) for name, frames in cameras.items()),
            space=episode.action_space,
            action_width=None if episode.actions is None else episode.actions.shape[1],
            state_width=None if episode.proprioception is None else episode.proprioception.shape[1],
        )


class _DatasetWriter:
    """Writes episode after episode; one is in memory at a time."""

    def __init__(
        self, root: Path, version: Version, labels: LabelStore | None, data_mb: float, video_mb: float
    ) -> None:
        self.root, self.version, self.labels = root, version, labels
        self.data_mb, self.video_mb = data_mb, video_mb
        self.data_path, self.video_path = _PATHS[version]
        self.shape: _Shape | None = None
        self.rows: list[dict[str, Any]] = []
        self.stats: list[dict[str, Stats]] = []
        self.tasks: dict[str, int] = {}
        self.own: dict[str, dict[str, Any]] = {}
        self.infos: list[ClipInfo] = []
        self.frames = 0
        self._table: pq.ParquetWriter | None = None
        self._table_path = Path()
        self._files: dict[str, int] = {}  # how many files of each kind there are
        self._videos: dict[str, VideoFile] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def add(self, episode: Episode) -> None:
        """Append one episode. InputError where it does not fit the first, and then nothing is written."""
        shape = _Shape.of(episode)
        keys = [camera_key(name) for name, _, _ in shape.cameras]
        if len(set(keys)) < len(keys):
            expected, remedy = "cameras whose names differ in their letters", "Give the cameras plainer names."
            raise InputError(f"episode {episode.info.name!r}", expected=expected, got=str(keys), remedy=remedy)
        if self.shape is not None and shape != self.shape:
            other = [name for name, value in vars(shape).items() if value != getattr(self.shape, name)]
            expected = ", ".join(f"{name} {getattr(self.shape, name)}" for name in other)
            got = ", ".join(f"{name} {getattr(shape, name)}" for name in other)
            remedy = "A LeRobot dataset has one of each; export the others from a source of their own."
            raise InputError(f"episode {episode.info.name!r}", expected=expected, got=got, remedy=remedy)
        index, task = len(self.rows), episode.info.instruction or ""
        columns = self._columns(episode)
        self.shape = shape
        self.tasks.setdefault(task, len(self.tasks))
        columns |= self._counters(len(episode.frames), index, self.tasks[task])
        stats = {key: stats_of_numbers(rows) for key, (rows, _) in columns.items()}
        row: dict[str, Any] = {"episode_index": index, "tasks": [task], "length": len(episode.frames)}
        row |= self._write_table({key: column_of(rows, dtype) for key, (rows, dtype) in columns.items()}, index)
        for name, frames in {episode.camera: episode.frames, **episode.extra_frames}.items():
            row |= self._write_video(camera_key(name), frames, index)
            stats[camera_key(name)] = stats_of_pictures(frames)
        row |= {"dataset_from_index": self.frames, "dataset_to_index": self.frames + len(episode.frames)}
        self.rows.append(row)
        self.stats.append(stats)
        self.frames += len(episode.frames)
        info = episode.info
        self.infos.append(info)
        self.own[f"episode_{index:06d}"] = {
            "clip": info.name,
            "embodiment": info.embodiment,
            "licence": info.licence,
        }

    def finish(self, content: str) -> None:
        """Write `meta`."""
        self._close()
        meta = self.root / "meta"
        meta.mkdir(parents=True, exist_ok=True)
        write_plainly(meta / "info.json", self._info())
        if self.version == "v3.0":
            self._write_meta_v3(meta)
        else:
            self._write_meta_v2(meta)
        assert self.shape is not None
        space = self.shape.space
        own = {
            "format": FORMAT,
            "source_hash": content,
            "camera": camera_key(self.shape.cameras[0][0]),
            "episodes": self.own,
            **({} if space is None else {"action_space": space_to_json(space)}),
            **({} if self.labels is None else {"labels": asdict(self.labels.provenance)}),
        }
        write_plainly(self.root / OWN, own)
        (self.root / "README.md").write_text(dataset_card(licences_of(self.infos)), encoding="utf-8")

    def _columns(self, episode: Episode) -> dict[str, tuple[NDArray[Any], str]]:
        """Rows [T, D] of every feature but pictures and counters, and their type."""
        out: dict[str, tuple[NDArray[Any], str]] = {}
        if episode.actions is not None:
            out[ACTION] = (_with_last(episode.actions, episode.action_space), "float32")
        if episode.proprioception is not None:
            out[STATE] = (episode.proprioception, "float32")
        if self.labels is not None:
            codes, margins = label_columns(self.labels, episode.info, len(episode.frames))
            out |= {LATENT: (codes, "int64"), MARGIN: (margins[:, None], "float32")}
        return out

    def _counters(self, length: int, index: int, task: int) -> dict[str, tuple[NDArray[Any], str]]:
        assert self.shape is not None
        frame = np.arange(length)
        values = {
            "timestamp": frame / self.shape.fps,
            "frame_index": frame,
            "episode_index": np.full(length, index),
            "index": self.frames + frame,
        }
        columns = {key: (values[key][:, None], dtype) for key, dtype in COUNTERS.items()}
        return columns | {"task_index": (np.full((length, 1), task), "int64")}

    def _write_table(self, columns: dict[str, pa.Array], index: int) -> dict[str, int]:
        table = pa.table(columns)
        if self.version == "v2.1":
            path = self.root / self.data_path.format(episode_chunk=index // CHUNK, episode_index=index)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path)
            return {}
        full = self._table is not None and self._table_path.stat().st_size >= self.data_mb * 1e6
        if full and self._table is not None:
            self._table.close()
            self._table = None
        if self._table is None:
            place = self._next_place("data")
            self._table_path = self.root / self.data_path.format(**place)
            self._table_path.parent.mkdir(parents=True, exist_ok=True)
            self._table = pq.ParquetWriter(self._table_path, table.schema)
        self._table.write_table(table, row_group_size=len(table))  # a row group per episode
        return {f"data/{name}": value for name, value in self._place("data").items()}

    def _write_video(self, key: str, frames: UInt8, index: int) -> dict[str, Any]:
        assert self.shape is not None
        height, width, fps = *frames.shape[1:3], self.shape.fps
        if self.version == "v2.1":
            file = self.video_path.format(episode_chunk=index // CHUNK, episode_index=index, video_key=key)
            video = VideoFile(self.root / file, height, width, fps)
            video.append(frames)
            video.close()
            return {}
        if key in self._videos and self._videos[key].size_bytes >= self.video_mb * 1e6:
            self._videos.pop(key).close()
        if key not in self._videos:
            file = self.video_path.format(**self._next_place(key), video_key=key)
            self._videos[key] = VideoFile(self.root / file, height, width, fps)
        start_s = self._videos[key].append(frames)
        place: dict[str, Any] = dict(self._place(key))
        place |= {"from_timestamp": start_s, "to_timestamp": start_s + len(frames) / fps}
        return {f"videos/{key}/{name}": value for name, value in place.items()}

    def _next_place(self, key: str) -> dict[str, int]:
        self._files[key] = self._files.get(key, 0) + 1
        return self._place(key)

    def _place(self, key: str) -> dict[str, int]:
        chunk, file = divmod(self._files[key] - 1, CHUNK)
        return {"chunk_index": chunk, "file_index": file}

    def _close(self) -> None:
        if self._table is not None:
            self._table.close()
        for video in self._videos.values():
            video.close()
        self._table, self._videos = None, {}

    def _info(self) -> dict[str, Any]:
        assert self.shape is not None
        bodies = sorted({str(row["embodiment"]) for row in self.own.values()})
        fps, cameras = self.shape.fps, len(self.shape.cameras)
        counts: dict[str, Any] = {"data_files_size_in_mb": int(DATA_MB), "video_files_size_in_mb": int(VIDEO_MB)}
        if self.version == "v2.1":
            chunks = -(-len(self.rows) // CHUNK)
            counts = {"total_videos": len(self.rows) * cameras, "total_chunks": chunks}
        return {
            "codebase_version": self.version,
            "robot_type": bodies[0] if len(bodies) == 1 else "mixed",
            "total_episodes": len(self.rows),
            "total_frames": self.frames,
            "total_tasks": len(self.tasks),
            "chunks_size": CHUNK,
            **counts,
            "fps": int(fps) if fps == int(fps) else fps,
            "splits": {"train": f"0:{len(self.rows)}"},
            "data_path": self.data_path,
            "video_path": self.video_path,
            "features": self._features(),
        }

    def _features(self) -> dict[str, Any]:
        assert self.shape is not None
        out: dict[str, Any] = {}
        if self.shape.action_width is not None:
            axes = self.shape.space.axes if self.shape.space is not None else ()
            names = [a.name for a in axes] or [f"action_{i}" for i in range(self.shape.action_width)]
            out[ACTION] = feature_of("float32", self.shape.action_width, names)
        if self.shape.state_width is not None:
            names = [f"state_{i}" for i in range(self.shape.state_width)]
            out[STATE] = feature_of("float32", self.shape.state_width, names)
        for name, height, width in self.shape.cameras:
            facts = {
                "video.height": height,
                "video.width": width,
                "video.codec": "h264",
                "video.pix_fmt": pixel_format(height, width),
                "video.is_depth_map": False,
                "video.fps": self.shape.fps,
                "video.channels": 3,
                "has_audio": False,
            }
            shape = {"shape": [height, width, 3], "names": ["height", "width", "channels"]}
            out[camera_key(name)] = {"dtype": "video", **shape, "info": facts}
        if self.labels is not None:
            out |= latent_features(self.labels.provenance.num_tokens)
        return out | {key: feature_of(dtype, 1, None) for key, dtype in {**COUNTERS, "task_index": "int64"}.items()}

    def _write_meta_v3(self, meta: Path) -> None:
        rows = []
        for row, stats in zip(self.rows, self.stats, strict=True):
            flat = {f"stats/{k}/{n}": v.tolist() for k, found in stats.items() for n, v in found.items()}
            rows.append({**row, **flat, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        path = meta / "episodes" / "chunk-000" / "file-000.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
        pq.write_table(tasks_table(self.tasks), meta / "tasks.parquet")
        together = {key: merged([stats[key] for stats in self.stats]) for key in self.stats[0]}
        write_plainly(meta / "stats.json", stats_to_json(together, quantiles=True))

    def _write_meta_v2(self, meta: Path) -> None:
        names = ("episode_index", "tasks", "length")
        write_lines(meta / "episodes.jsonl", [{name: row[name] for name in names} for row in self.rows])
        write_lines(meta / "tasks.jsonl", [{"task_index": i, "task": task} for task, i in self.tasks.items()])
        stats = [
            {"episode_index": i, "stats": stats_to_json(found, quantiles=False)} for i, found in enumerate(self.stats)
        ]
        write_lines(meta / "episodes_stats.jsonl", stats)


def _with_last(actions: Float32, space: ActionSpace | None) -> Float32:
    """Actions [T - 1, A] to [T, A]: at the last frame the robot stays."""
    last = actions[-1:].copy()
    if space is not None:
        last[:, [axis.kind == "delta" for axis in space.axes]] = 0
    return np.concatenate([actions, last])
