"""Datasets in LeRobot's format, v2.0, v2.1 and v3.0, read without the `lerobot` package. Engineering.

Letters in shapes: T frames of an episode, H W picture, A action axes, P proprioception axes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from cyclemimic.data.sources.lerobot_meta import (
    INFO,
    UNREADABLE,
    DatasetMeta,
    EpisodeEntry,
    largest_and_limits,
    read_meta,
)
from cyclemimic.data.sources.remote import at_hand
from cyclemimic.data.stamp import size_and_edges_of
from cyclemimic.data.video import read_moments
from cyclemimic.data.writers.film import space_from_json
from cyclemimic.data.writers.lerobot_columns import ACTION, STATE
from cyclemimic.data.writers.lerobot_meta import OWN
from cyclemimic.embodiment.lerobot import Scale, converted, scales_of, short_name, table_of
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.store.atomic import read_json, sha256_json
from cyclemimic.store.lineage import UNKNOWN
from cyclemimic.types import ActionSpace, Axis, AxisKind, ClipInfo, Episode, Float32, UInt8, check_picture

OPTIONS = ("camera", "units", "state_units", "kinds", "revision")
NOTHING = "none"  # as units: leave these numbers out
_CAMERA_PREFIXES = ("observation.images.", "observation.")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MARGIN = 0.05  # of the spread of an axis: how far its limits lie beyond the data
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DAMAGED = "The file is damaged or cut short; download it again, or do without this episode."


class LeRobotSource:
    """Episodes of a LeRobot dataset: pictures, sentence, actions with named axes, and the robot's state.

    `path` is a local folder, a URL of one, or OWNER/NAME of a dataset on the hub; the last two are then downloaded, and
    `origin` says from where: of the hub with the commit that was taken. Behind it may stand options, as in
    `PATH?camera=wrist&units=degrees`:

        camera       the main camera; the first of the dataset unless named. The others are `Episode.extra_frames`
        units        of the actions: one word or one per axis, see `embodiment.lerobot.SCALES`; none for video alone
        state_units  of the state; as the actions where names agree
        kinds        absolute or delta: one word or one per axis; absolute unless said
        revision     of a dataset on the hub

    LeRobot has an action for every frame, ours lead from one frame to the next: the last frame's is left out. An
    episode's name is `episode_000012`, its body is `robot_type`.
    """

    def __init__(self, path: Path | str) -> None:
        text, options = _split(str(path))
        self.name = f"lerobot:{path}"
        self.path, self.origin = at_hand(text)
        if not self.path.is_dir():
            self.path, self.origin = _from_hub(text, options.get("revision"))
        self._meta: DatasetMeta = read_meta(self.path)
        self._own: Mapping[str, Any] = read_json(self.path / OWN) if (self.path / OWN).exists() else {}
        self._main, self._cameras = self._choose_cameras(options.get("camera"))
        self.action_space, self._scales = self._choose_actions(options)
        self._state_scales = self._choose_state(options)
        self._remarks: dict[str, tuple[str, ...]] = {}

    def clips(self) -> Sequence[ClipInfo]:
        """Every episode, by number."""
        return self._clips

    def read(self, clip: ClipInfo) -> Episode:
        """Decode one episode.

        Raises:
            InputError: there is no such episode, or its table or one of its videos cannot be read or does not fit.
        """
        entry, known = self._entries.get(clip.name), self._by_name.get(clip.name)
        if entry is None or known is None:
            hint = did_you_mean(clip.name, list(self._by_name)[:20])
            raise InputError(self.name, expected="an episode of this dataset", got=repr(clip.name), remedy=hint)
        table = self._table(entry)
        times_s = self._times_s(table, entry)
        frames = {name: self._frames(table, entry, key, times_s) for name, key in self._cameras.items()}
        main = frames.pop(self._main)
        actions = self._numbers(table, entry, ACTION, self._scales)
        # What the other sentences of an episode say cannot be kept: a clip has one.
        more = len(entry.tasks) - 1
        self._remarks[clip.name] = (f"{more} further sentences left out",) if more > 0 else ()
        return Episode(
            info=known,
            frames=main,
            actions=None if actions is None else actions[:-1],
            proprioception=self._numbers(table, entry, STATE, self._state_scales),
            action_space=None if actions is None else self.action_space,
            proprioception_axes=self._state_axes,
            camera=self._main,
            extra_frames=frames,
        )

    @property
    def version(self) -> str:
        """Of the format."""
        return self._meta.version

    def tables(self) -> list[str]:
        """The files of all tables, below `path`."""
        return sorted({entry.table for entry in self._meta.episodes})

    def remarks_of(self, clip: ClipInfo) -> tuple[str, ...]:
        """What reading this episode left out, in words; empty before it was read."""
        return self._remarks.get(clip.name, ())

    def fingerprint(self) -> str:
        """A hash of the facts of all episodes, of the main camera, and of the size and ends of every file."""
        files = {e.table for e in self._meta.episodes} | {
            s.file for e in self._meta.episodes for s in e.videos.values()
        }
        content = {file: size_and_edges_of(self.path / file) for file in sorted(files)}
        clips = [asdict(clip) for clip in self._clips]
        return sha256_json({"clips": clips, "camera": self._main, "content": content})

    @cached_property
    def _state_axes(self) -> tuple[Axis, ...]:
        """Of the state; none where its units are not known."""
        if not self._state_scales or not all(scale.unit for scale in self._state_scales):
            return ()
        return tuple(
            Axis(name=short_name(name), unit=scale.unit, low=-math.inf, high=math.inf)
            for name, scale in zip(self._axes(STATE), self._state_scales, strict=True)
        )

    @cached_property
    def _entries(self) -> dict[str, EpisodeEntry]:
        return {clip_name(entry.index): entry for entry in self._meta.episodes}

    @cached_property
    def _by_name(self) -> dict[str, ClipInfo]:
        return {clip.name: clip for clip in self._clips}

    @cached_property
    def _clips(self) -> tuple[ClipInfo, ...]:
        licence = licence_of(self.path / "README.md")
        own = self._own.get("episodes")
        bodies = own if isinstance(own, Mapping) else {}
        return tuple(
            ClipInfo(
                name=name,
                embodiment=str(bodies.get(name, {}).get("embodiment", self._meta.robot)),
                fps=self._meta.fps,
                num_frames=entry.length,
                instruction=(entry.tasks[0] or None) if entry.tasks else None,
                licence=bodies.get(name, {}).get("licence", licence),
            )
            for name, entry in self._entries.items()
        )

    def _choose_cameras(self, wanted: str | None) -> tuple[str, dict[str, str]]:
        """The main camera's name, and the feature of each camera."""
        keys = [key for key, feature in self._meta.features.items() if feature.is_camera]
        names = [_camera_name(key) for key in keys]
        if len(set(names)) < len(names):
            names = keys
        cameras = dict(zip(names, keys, strict=True))
        if not cameras:
            remedy = "This dataset holds no colour pictures."
            raise InputError(self.path / INFO, expected="a camera", got=str(list(self._meta.features)), remedy=remedy)
        main = wanted or str(self._own.get("camera", names[0]))
        main = _camera_name(main) if main in keys and main not in cameras else main
        if main not in cameras:
            raise InputError(self.name, expected="a camera of it", got=repr(main), remedy=did_you_mean(main, names))
        return main, cameras

    def _choose_actions(self, options: Mapping[str, str]) -> tuple[ActionSpace | None, tuple[Scale, ...]]:
        asked = options.get("units")
        if ACTION not in self._meta.features or asked == NOTHING:
            return None, ()
        if "action_space" in self._own and asked is None:
            space = space_from_json(self._own["action_space"], self.path / OWN)
            if space.width != len(names := self._axes(ACTION)):
                expected = f"{len(names)} axes, as {INFO} says"
                remedy = f"Delete {OWN}, and say the units."
                raise InputError(self.path / OWN, expected=expected, got=str(space.width), remedy=remedy)
            return space, tuple(Scale(unit=axis.unit) for axis in space.axes)
        names = self._axes(ACTION)
        low, high = self._limits(ACTION, len(names))
        where = f"{self.path / INFO}, field features['{ACTION}']"
        robot = self._meta.robot
        largest = np.maximum(np.abs(low), np.abs(high))
        scales = scales_of(robot, names, asked=asked, largest=largest, where=where, option="units")
        table = table_of(robot, names)
        kinds = self._kinds(options.get("kinds"), names)
        if table is not None and set(kinds) == {"absolute"}:
            axes: tuple[Axis, ...] = table
        else:
            ends = np.sort(converted(np.stack([low, high]), scales), axis=0)
            room = np.maximum(_MARGIN * (ends[1] - ends[0]), 1e-3)
            axes = tuple(
                Axis(name=short_name(name), unit=scale.unit, low=float(least), high=float(most), kind=kind)
                for name, scale, least, most, kind in zip(
                    names, scales, ends[0] - room, ends[1] + room, kinds, strict=True
                )
            )
        pose = any(axis.unit == "m" for axis in axes)
        space = ActionSpace(name=robot, axes=axes, rate_hz=self._meta.fps, kind="pose" if pose else "joints")
        return space, scales

    def _choose_state(self, options: Mapping[str, str]) -> tuple[Scale, ...]:
        asked = options.get("state_units")
        if STATE not in self._meta.features or asked == NOTHING:
            return ()
        names = self._axes(STATE)
        if asked is None:
            if "action_space" in self._own and "units" not in options:
                return tuple(Scale(unit="") for _ in names)  # our export keeps the state as the source gave it
            if options.get("units") == NOTHING:
                return ()
            if ACTION in self._meta.features and names == self._axes(ACTION):
                return self._scales
        low, high = self._limits(STATE, len(names))
        where = f"{self.path / INFO}, field features['{STATE}']"
        largest = np.maximum(np.abs(low), np.abs(high))
        return scales_of(
            self._meta.robot, names, asked=asked, largest=largest, where=where, option="state_units"
        )  # fmt: skip

    def _axes(self, key: str) -> tuple[str, ...]:
        """The names of a feature's numbers; where the dataset gives none, they are counted."""
        feature = self._meta.features[key]
        width = int(np.prod(feature.shape)) if feature.shape else 1
        names = feature.names or tuple(f"{key}_{i}" for i in range(width))
        if len(names) != width or len(set(names)) != width:
            where = f"{self.path / INFO}, field features[{key!r}].names"
            remedy = "Correct the names, or remove them."
            raise InputError(where, expected=f"{width} different names", got=str(list(names)), remedy=remedy)
        return names

    def _kinds(self, asked: str | None, names: Sequence[str]) -> tuple[AxisKind, ...]:
        words = (asked or "absolute").split(",")
        words = words * len(names) if len(words) == 1 else words
        if len(words) != len(names) or not set(words) <= {"absolute", "delta"}:
            expected, remedy = f"absolute or delta, one word or {len(names)}", "Correct `?kinds=`."
            raise InputError(self.name, expected=expected, got=str(asked), remedy=remedy)
        return tuple("delta" if word == "delta" else "absolute" for word in words)

    def _limits(self, key: str, width: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """The least and greatest numbers [A]: of the statistics, or of the tables where there are none."""
        found = largest_and_limits(self.path, key, width)
        if found is not None:
            return found
        low, high = np.full(width, np.inf), np.full(width, -np.inf)
        for file in self.tables():
            try:
                rows = _rows_of(pq.read_table(self.path / file, columns=[key], partitioning=None)[key])
            except UNREADABLE:
                continue  # `read` says so
            if rows.shape[1:] == (width,) and np.isfinite(rows).all():
                low, high = np.minimum(low, rows.min(0)), np.maximum(high, rows.max(0))
        if not (low <= high).all():
            where = f"{self.path}, field {key}"
            raise InputError(where, expected="a readable table", got="none", remedy="Download the dataset again.")
        return low, high

    def _table(self, entry: EpisodeEntry) -> pa.Table:
        """The episode's rows, in order of frames."""
        path = self.path / entry.table
        # Columns that are not ours are passed over; only those of numbers and pictures that are wanted are read.
        numbers = [ACTION] * bool(self._scales) + [STATE] * bool(self._state_scales)
        images = [key for key in self._cameras.values() if self._meta.features[key].dtype == "image"]
        columns = ["episode_index", "frame_index", "timestamp", *numbers, *images]
        try:
            absent = sorted(set(columns) - set(pq.read_schema(path).names))
            if absent:
                raise InputError(path, expected=f"columns {absent}", got="none of that name", remedy=_DAMAGED)
            only = [("episode_index", "=", entry.index)]
            table = pq.read_table(path, columns=columns, filters=only, partitioning=None).sort_by("frame_index")
            numbered = table["frame_index"].to_numpy()
        except InputError:
            raise
        except UNREADABLE as error:
            got = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(path, expected="a whole Parquet file", got=got, remedy=_DAMAGED) from None
        where = f"{path}, episode {entry.index}"
        if len(table) != entry.length:
            expected, got = f"{entry.length} rows, as the list of episodes says", str(len(table))
            raise InputError(where, expected=expected, got=got, remedy=_DAMAGED)
        if len(table) < 2:
            remedy = "One frame shows no motion; do without this episode."
            raise InputError(where, expected="at least 2 frames", got=str(len(table)), remedy=remedy)
        if not np.array_equal(numbered, np.arange(len(table))):
            expected, got = "frames numbered from 0 without a gap", f"{numbered[:5].tolist()} ..."
            raise InputError(f"{where}, field frame_index", expected=expected, got=got, remedy=_DAMAGED)
        return table

    def _times_s(self, table: pa.Table, entry: EpisodeEntry) -> NDArray[np.float64]:
        """When each frame is [s], from the beginning of the episode."""
        where = f"{self.path / entry.table}, episode {entry.index}, field timestamp"
        times_s = _rows_of(table["timestamp"], where)[:, 0].astype(np.float64)
        off = np.abs(times_s - np.arange(len(times_s)) / self._meta.fps)
        if not (off < 0.5 / self._meta.fps).all():  # NaN too
            bad = int(np.argmin(off < 0.5 / self._meta.fps))
            expected, got = f"{bad / self._meta.fps:.4f} s at frame {bad}", f"{times_s[bad]:.4f}"
            remedy = "Frames must lie at a constant rate from 0 s; write the dataset again, or correct fps."
            raise InputError(where, expected=expected, got=got, remedy=remedy)
        return times_s

    def _frames(self, table: pa.Table, entry: EpisodeEntry, key: str, times_s: NDArray[np.float64]) -> UInt8:
        if key not in entry.videos:
            return _pictures(table[key], self.path, f"{self.path / entry.table}, episode {entry.index}, field {key}")
        stretch = entry.videos[key]
        if not stretch.start_s >= 0:
            where = f"{self.path / stretch.file}, episode {entry.index}, field from_timestamp"
            raise InputError(where, expected="at least 0 s", got=str(stretch.start_s), remedy=_DAMAGED)
        tolerance_s = 0.4 / self._meta.fps
        return read_moments(self.path / stretch.file, stretch.start_s + times_s, tolerance_s=tolerance_s)

    def _numbers(self, table: pa.Table, entry: EpisodeEntry, key: str, scales: Sequence[Scale]) -> Float32 | None:
        """Rows [T, A] in our units; the last action is not looked at, since it leads nowhere."""
        if not scales:
            return None
        where = f"{self.path / entry.table}, episode {entry.index}, field {key}"
        rows = _rows_of(table[key], where)
        if rows.shape[1] != len(scales):
            expected = f"{len(scales)} numbers a row, as {INFO} says"
            raise InputError(where, expected=expected, got=str(rows.shape[1]), remedy=_DAMAGED)
        bad = ~np.isfinite(rows if key == STATE else rows[:-1])
        if bad.any():
            frame, axis = np.argwhere(bad)[0].tolist()
            got = f"NaN or infinity at frame {frame}, axis {self._axes(key)[axis]!r}"
            raise InputError(where, expected="finite numbers", got=got, remedy="Do without this episode.")
        return converted(rows, scales)


def clip_name(index: int) -> str:
    """The name of an episode, as LeRobot calls its files."""
    return f"episode_{index:06d}"


def licence_of(card: Path) -> str | None:
    """The licence in the head of a dataset's card; None where it says none."""
    try:
        text = card.read_text(encoding="utf-8", errors="replace")[:10_000]
    except OSError:
        return None
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:[ \t]*(.*)((?:\n[ \t]*- .*)*)", head[1], re.MULTILINE) if head else None
    words = re.findall(r"[^\s\"'\[\],]+", f"{found[1]} {found[2]}") if found else []
    stated = [word for word in words if word != "-" and word.lower() != UNKNOWN]
    # Of several the card does not say which episode is under which: all of them, as they stand there.
    return ", ".join(stated) or None


def _split(text: str) -> tuple[str, dict[str, str]]:
    """The path, and the options behind its last question mark."""
    path, mark, query = text.rpartition("?")
    if not mark or Path(text).exists():
        return text, {}
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in options.items():
        if name not in OPTIONS or not value:
            got = f"{name}={value}"
            raise InputError(f"lerobot:{text}", expected="options", got=got, remedy=did_you_mean(name, OPTIONS))
    return path, options


def _from_hub(name: str, revision: str | None) -> tuple[Path, str]:
    """Download OWNER/NAME, or take it from the hub's cache; and its address, with the commit that was taken."""
    where = f"lerobot:{name}"
    if not _REPOSITORY.fullmatch(name):
        remedy = "Check the path; a dataset on the hub is named OWNER/NAME."
        raise InputError(where, expected="a folder", got="no such folder", remedy=remedy)
    try:
        import huggingface_hub  # here and not above: a local folder needs no hub
    except ModuleNotFoundError:
        remedy = "pip install huggingface_hub, or name a local folder."
        raise InputError(where, expected="the package huggingface_hub", got="none", remedy=remedy) from None
    try:
        path = Path(huggingface_hub.snapshot_download(name, repo_type="dataset", revision=revision))
    except (OSError, ValueError, RuntimeError, huggingface_hub.errors.HfHubHTTPError) as error:
        got = f"neither a folder nor a download ({type(error).__name__}: {str(error).splitlines()[0]})"
        remedy = "Check the name and the network, or download it elsewhere and name the folder."
        raise InputError(where, expected="a folder, or a dataset on the hub", got=got, remedy=remedy) from None
    # The hub's cache calls a snapshot's folder by its commit, whatever was asked for: a branch may move.
    commit = path.name if _COMMIT.fullmatch(path.name) else revision
    return path, f"hf://datasets/{name}" + (f"@{commit}" if commit else "")


def _camera_name(key: str) -> str:
    for prefix in _CAMERA_PREFIXES:
        if key.startswith(prefix):
            return key.removeprefix(prefix)
    return key


def _rows_of(column: pa.ChunkedArray, where: object = "column") -> NDArray[Any]:
    """A column of numbers or of lists of numbers as [T, A]."""
    try:
        array = column.combine_chunks()
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks)
        values = array.to_numpy(zero_copy_only=False)
        if not pa.types.is_floating(array.type) and not pa.types.is_integer(array.type):
            values = np.stack([np.asarray(row, np.float64).reshape(-1) for row in values])
        rows = np.asarray(values, np.float64).reshape(len(array), -1)
    except UNREADABLE as error:
        got = str(error).splitlines()[0]
        raise InputError(where, expected="rows of equally many numbers", got=got, remedy=_DAMAGED) from None
    return rows


def _pictures(column: pa.ChunkedArray, root: Path, where: str) -> UInt8:
    """Pictures that lie in the table [T, H, W, 3], or in files that it names."""
    out: list[UInt8] = []
    for t, cell in enumerate(column.to_pylist()):
        place = f"{where}, frame {t}"
        try:
            content = cell["bytes"]
            content = (root / _below(cell["path"], place)).read_bytes() if content is None else content
            with Image.open(io.BytesIO(content)) as image:
                picture = np.asarray(image.convert("RGB"))
        except InputError:
            raise
        except (*UNREADABLE, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError(place, expected="a picture", got=str(error)[:100], remedy=_DAMAGED) from None
        check_picture(picture, place)
        if out and picture.shape != out[0].shape:
            expected, got = f"pictures of {out[0].shape[:2]} px", str(picture.shape[:2])
            raise InputError(place, expected=expected, got=got, remedy=_DAMAGED)
        out.append(picture)
    return np.stack(out)


def _below(path: str | None, where: str) -> str:
    parts = PurePosixPath(path or "/")
    if parts.is_absolute() or ".." in parts.parts:
        remedy = "Do not trust this dataset; it names files outside its own folder."
        raise InputError(where, expected="a picture below the dataset", got=repr(path), remedy=remedy)
    return str(parts)
