"""A folder of videos and image folders: no actions, no sentences needed. Engineering."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from cyclemimic.data.long_video import LongVideo, is_long
from cyclemimic.data.parts import Part, Shrink
from cyclemimic.data.seek import parts_of_video
from cyclemimic.data.sources.remote import at_hand
from cyclemimic.data.stamp import size_and_edges_of
from cyclemimic.data.video import (
    IMAGE_EXTENSIONS,
    IMAGE_FOLDER_FPS_HZ,
    VIDEO_EXTENSIONS,
    image_files,
    natural_key,
    probe_video,
    read_video,
)
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.store.atomic import canonical, sha256_file, sha256_list
from cyclemimic.types import ClipInfo, Episode

SIDECAR = "clips.jsonl"
UNKNOWN_BODY = "unknown"
_SPELT_OUT = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


@dataclass(frozen=True, kw_only=True)
class SidecarRow:
    """What a line of `clips.jsonl` says of one clip; what it leaves out is found out or guessed."""

    file: str
    embodiment: str | None = None
    instruction: str | None = None
    fps: float | None = None
    licence: str | None = None

    @property
    def key(self) -> str:
        """The file's name as clips are named: forward slashes, nothing in front."""
        return PurePosixPath(self.file.replace("\\", "/")).as_posix()


class FolderSource:
    """Finds clips in a folder and below.

    A clip is a video file, or a folder with at least two pictures and no video. Its name is its path below
    the root. Its embodiment is the first folder below the root ('unknown' for clips that lie at the top),
    unless `clips.jsonl` at the root says otherwise: one JSON object a line, `{"file", "embodiment",
    "instruction", "fps", "licence"}`, all but `file` optional. Hidden files and folders are passed over.

    A video of more than two minutes is listed in parts, see data/parts.py. Links to folders are followed, each folder
    once.

    A clip that cannot be opened is listed with 0 frames, and `read` says why: one bad clip among many stops
    nothing. A folder in an object store (`s3://`, `gs://` ...) is copied to this disk once, see `remote.local_copy`.
    """

    def __init__(self, path: Path | str, *, cuts_long: bool = True) -> None:
        self.path, self.origin = at_hand(path, (*VIDEO_EXTENSIONS, *IMAGE_EXTENSIONS, SIDECAR))
        self.cuts_long = cuts_long
        self.name = f"folder:{path}"
        self._clips: tuple[ClipInfo, ...] | None = None
        self._on_disk: dict[str, str] = {}  # names that are no text, by the text they are listed under
        self._remarks: dict[str, tuple[str, ...]] = {}
        self._size_px: dict[str, tuple[int, int]] = {}
        self._long: dict[str, LongVideo] = {}
        self._parts: dict[str, Part] = {}
        if not self.path.is_dir():
            got = "a file" if self.path.exists() else "no such folder"
            raise InputError(path, expected="a folder of videos", got=got, remedy="Check the path.")

    def clips(self) -> Sequence[ClipInfo]:
        """Every clip, in natural order of its name.

        Raises:
            InputError: the folder holds no clip, or `clips.jsonl` is wrong.
        """
        if self._clips is None:
            names, rows = self.names(), self._rows
            described = (self._describe(name, rows.get(name)) for name in names)
            self._clips = tuple(clip for whole in described for clip in self._cut(whole))
        return self._clips

    def names(self) -> Sequence[str]:
        """The names of all clips, in order; no clip's file is opened.

        Raises:
            InputError: as `clips`.
        """
        names, rows = self._listed, self._rows
        if rows and not rows.keys() & set(names):
            word = next(iter(rows))
            raise InputError(
                self.path / SIDECAR,
                expected="files of this folder",
                got=f"none of them, for example {word!r}",
                remedy=f"Give paths relative to the folder. {did_you_mean(word, names[:10])}",
            )
        return names

    def describe(self, name: str) -> ClipInfo:
        """One clip's facts, from its file's header; 0 frames where it cannot be opened."""
        return self._describe(name, self._rows.get(name))

    def read(self, clip: ClipInfo) -> Episode:
        """Decode one clip, frames at a constant rate.

        Raises:
            InputError: there is no such clip, or its file cannot be read.
        """
        return self.read_shrunk(clip, lambda frames: frames)

    def read_shrunk(self, clip: ClipInfo, shrink: Shrink) -> Episode:
        """As `read`, but every picture of a part goes through `shrink` as soon as it is decoded.

        Parts that are read in order are decoded in one go; only what is shrunk is held.
        """
        self.refuse_unknown(clip)
        if (part := self._parts.get(clip.name)) is not None:
            frames, self._remarks[clip.name] = self._long[part.whole].read(part, shrink)
            return Episode(info=clip, frames=frames)
        video = read_video(self.file_of(clip.name), fps=self.rate_of(clip.name)).at_constant_rate()
        self._remarks[clip.name] = video.remarks
        info = replace(clip, num_frames=len(video.frames), fps=video.fps)
        return Episode(info=info, frames=shrink(video.frames))

    def refuse_unknown(self, clip: ClipInfo) -> None:
        """Raise InputError unless the clip is one of this folder's."""
        if clip.name not in self._names:
            hint = did_you_mean(clip.name, sorted(self._names)[:20])
            raise InputError(self.name, expected="a clip of this folder", got=repr(clip.name), remedy=hint)

    def remarks_of(self, clip: ClipInfo) -> tuple[str, ...]:
        """What reading this clip changed, in words, such as an uneven frame rate; empty before it was read."""
        return self._remarks.get(clip.name, ())

    def file_of(self, name: str) -> Path:
        """Where a clip lies."""
        name = self._parts[name].whole if name in self._parts else name
        if "\\x" in name:
            _ = self._listed  # which tells how odd names are spelt out
        name = self._on_disk.get(name, name)
        alone = name == self.path.name and not os.path.lexists(self.path / name)
        return self.path if alone else self.path / name

    def rate_of(self, name: str) -> float | None:
        """The rate [Hz] that the sidecar gives a clip instead of what its file says; None where it gives none."""
        row = self._rows.get(name)
        return row.fps if row else None

    def fingerprint(self) -> str:
        """A hash of what the clips are: names, facts, file sizes and the first and last 64 KB of every file.

        Times and the root's path stay out, so that a copied folder is the same source. Files are not read
        whole: a change in the middle of a large file that keeps its size goes unnoticed.
        """
        return self.fingerprint_from(self._content_line(clip) for clip in self.clips())

    def fingerprint_from(self, content: Iterable[str]) -> str:
        """See `Fingerprints`."""
        return sha256_list(content)

    def content_of(self, name: str) -> Sequence[str]:
        """See `Fingerprints`."""
        return [self._content_line(clip) for clip in self._cut(self.describe(name))]

    def told_of(self, name: str) -> str:
        """See `Described`: the clip's line of the sidecar."""
        row = self._rows.get(name)
        return sidecar_line(row) if row else ""

    def beside(self) -> str:
        """See `Described`: the sidecar's hash."""
        path = self.path / SIDECAR
        return sha256_file(path) if path.is_file() else ""

    def _content_line(self, clip: ClipInfo) -> str:
        return canonical({**asdict(clip), "content": _content_of(self.file_of(clip.name))})

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(clip.name for clip in self.clips())

    @cached_property
    def _listed(self) -> list[str]:
        return self._find()

    @cached_property
    def _rows(self) -> dict[str, SidecarRow]:
        return read_sidecar(self.path / SIDECAR)

    def _find(self) -> list[str]:
        names: list[str] = []
        for root, files in _walk(self.path):
            below = root.relative_to(self.path)
            seen = [f for f in files if not f.startswith(".")]
            videos = [f for f in seen if f.lower().endswith(VIDEO_EXTENSIONS)]
            names += [(below / f).as_posix() for f in videos]
            if not videos and sum(f.lower().endswith(IMAGE_EXTENSIONS) for f in seen) >= 2:
                names.append(below.as_posix() if below.parts else self.path.name)
        if not names:
            looked_for = ", ".join(e[1:] for e in VIDEO_EXTENSIONS)
            raise InputError(
                self.path,
                expected=f"videos ({looked_for}) or folders of at least 2 pictures (png, jpg)",
                got="none, here or below",
                remedy="Put videos here; a folder per embodiment tells bodies apart.",
            )
        # File systems hold names that are no Unicode, or no single line; they are listed with the odd bytes spelt out.
        for name in names:
            listed = name.encode("utf-8", "backslashreplace").decode().translate(_SPELT_OUT)
            if listed != name:
                self._on_disk[listed] = name
        shown = {name: listed for listed, name in self._on_disk.items()}
        return sorted((shown.get(n, n) for n in names), key=lambda name: (natural_key(name), name))

    def _cut(self, whole: ClipInfo) -> list[ClipInfo]:
        """A clip, or the parts of a long one; a file without clear times cannot be sought in and stays whole."""
        if not self.cuts_long or not is_long(whole, self._size_px.get(whole.name, (0, 0))):
            return [whole]
        path = self.file_of(whole.name)
        try:
            video = LongVideo(path, whole.num_frames, fps=self.rate_of(whole.name))
        except InputError:
            return [whole]  # `read` says why
        parts = parts_of_video(whole.name, video.index)
        self._long[whole.name] = video
        self._parts |= {part.name: part for part in parts}
        cut = [replace(whole, name=p.name, num_frames=p.stop - p.start, fps=video.index.fps) for p in parts]
        return cut or [whole]

    def _describe(self, name: str, row: SidecarRow | None) -> ClipInfo:
        row = row or SidecarRow(file=name)
        parts = PurePosixPath(name).parts
        try:
            facts = probe_video(self.file_of(name), fps=row.fps)
            num_frames, fps = facts.num_frames, facts.fps
            self._size_px[name] = facts.height_px, facts.width_px
        except InputError:
            num_frames, fps = 0, row.fps or IMAGE_FOLDER_FPS_HZ
        return ClipInfo(
            name=name,
            embodiment=row.embodiment or (parts[0] if len(parts) > 1 else UNKNOWN_BODY),
            fps=fps,
            num_frames=num_frames,
            instruction=row.instruction,
            licence=row.licence,
        )


def _walk(top: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder and its files, hidden ones left out; links are followed behind what is no link, no folder twice."""
    seen: set[tuple[int, int]] = set()
    waiting = deque([top])
    linked: deque[Path] = deque()
    while waiting or linked:
        folder = waiting.popleft() if waiting else linked.popleft()
        try:
            found = folder.stat()
            inside = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:  # it vanished, or may not be read
            continue
        if (found.st_dev, found.st_ino) in seen:
            continue
        seen.add((found.st_dev, found.st_ino))
        folders = [entry for entry in inside if _is_folder(entry)]
        for entry in folders:
            if not entry.name.startswith("."):
                (linked if entry.is_symlink() else waiting).append(folder / entry.name)
        yield folder, [entry.name for entry in inside if entry not in folders]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def read_sidecar(path: Path) -> dict[str, SidecarRow]:
    """The rows of a `clips.jsonl` by the clip they speak of; empty where there is no such file.

    Raises:
        InputError: the file is no UTF-8, or a line is no JSON object, lacks `file`, or has an unknown or wrong
        field.
    """
    if not path.exists():
        return {}
    rows: dict[str, SidecarRow] = {}
    for number, line in enumerate(_text_of(path).splitlines(), start=1):
        if line.strip():
            row = _parse_row(line, f"{path}, line {number}")
            rows[row.key] = row
    return rows


def _text_of(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        remedy = "It should be a text file that you may read."
        raise InputError(path, expected="a readable file", got=str(error.strerror), remedy=remedy) from None
    try:
        return content.decode("utf-8-sig")  # some editors put a mark in front
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}",
            expected="text in UTF-8",
            got=f"byte 0x{content[error.start]:02x}",
            remedy="Save it as UTF-8, for example with `iconv -f latin1 -t utf-8`.",
        ) from None


def sidecar_line(row: SidecarRow) -> str:
    """One line of `clips.jsonl`, without what is not known."""
    known = {k: v for k, v in asdict(row).items() if v is not None}
    return json.dumps(known, ensure_ascii=False)


def _parse_row(line: str, where: str) -> SidecarRow:
    remedy = 'Write for example {"file": "arm/001.mp4", "embodiment": "arm", "fps": 10}.'
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise InputError(where, expected="a JSON object", got=str(error), remedy=remedy) from None
    if not isinstance(value, Mapping):
        raise InputError(where, expected="a JSON object", got=type(value).__name__, remedy=remedy)
    known = [f.name for f in fields(SidecarRow)]
    for name, entry in value.items():
        if isinstance(entry, str) and not entry.isascii() and _is_no_text(entry):
            expected, got = "text in Unicode", ascii(entry)[:80]
            raise InputError(f"{where}, field {name!a}", expected=expected, got=got, remedy="Write it again.")
        if name not in known:
            hint = did_you_mean(str(name), known)
            raise InputError(where, expected="known fields", got=repr(name), remedy=hint)
        number = isinstance(entry, int | float) and not isinstance(entry, bool) and 0 < entry < 1e6
        if entry is not None and not (number if name == "fps" else isinstance(entry, str)):
            expected = "frames per second above 0" if name == "fps" else "text"
            raise InputError(f"{where}, field {name}", expected=expected, got=repr(entry), remedy=remedy)
    if not value.get("file"):
        raise InputError(where, expected="a field 'file'", got="none", remedy=remedy)
    return SidecarRow(**value)


def _is_no_text(entry: str) -> bool:
    """Half a pair of surrogates, which JSON can spell, is no character: no file could hold it."""
    try:
        entry.encode()
    except UnicodeEncodeError:
        return True
    return False


def _content_of(path: Path) -> list[list[str | int]]:
    try:
        files = image_files(path) if path.is_dir() else (path,)
    except OSError:  # it vanished just now, or may not be looked at
        files = (path,)
    return [[file.name.encode("utf-8", "backslashreplace").decode(), *size_and_edges_of(file)] for file in files]
