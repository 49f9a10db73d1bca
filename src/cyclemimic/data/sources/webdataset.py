"""WebDataset: tar shards of samples KEY.mp4 (or KEY.000.jpg ...), KEY.json, KEY.txt; nothing is unpacked. Engineering.

Letters in shapes: T frames, H W picture.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from cyclemimic.data.pictures import decode_pictures
from cyclemimic.data.sources.folder import UNKNOWN_BODY
from cyclemimic.data.sources.places import Options, Place, path_and_options, positive
from cyclemimic.data.video import (
    IMAGE_EXTENSIONS,
    IMAGE_FOLDER_FPS_HZ,
    VIDEO_EXTENSIONS,
    natural_key,
    probe_video,
    read_video,
)
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.store.atomic import sha256_json
from cyclemimic.types import ClipInfo, Episode

EXTENSION = ".tar"
MAX_TEXT_BYTES = 1 << 20
MAX_MEMBERS = 10_000_000  # of one shard
# What tarfile raises over damaged archives.
_UNREADABLE = (tarfile.TarError, OSError, ValueError, EOFError, OverflowError, RecursionError, KeyError)
_DAMAGED = "The shard is cut short or damaged; download it again."


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A file in a shard: where its bytes lie."""

    start: int
    length: int


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """Members of one key, by extension; `fps` is what its json gives, which a video's file may not know."""

    shard: str
    key: str
    members: dict[str, _Member] = field(default_factory=dict)
    fps: float | None = None
    fault: InputError | None = None


class WebDatasetSource:
    """The samples of all tar shards in a folder, or of one shard, in the order in which they lie there.

    A sample is one video, or at least two pictures, beside what `KEY.json` may say (`embodiment`, `instruction` or
    `caption`, `fps`, `licence`; other fields are passed over) and `KEY.txt`, a sentence that wins over the one in
    `KEY.json`. Its embodiment is otherwise the first folder of its key. A sample that cannot be used, and what follows
    damage in a shard, is listed with 0 frames.

    Args:
        path: the folder or shard, or its URL where fsspec is installed; a remote shard is read whole to list it.
            Behind `?` may follow `rate_hz=NUMBER`, the rate of pictures for which nothing else is said.
    """

    def __init__(self, path: Path | str) -> None:
        known: Options = {"rate_hz": positive}
        text, options = path_and_options(path, known)
        self.path = Path(text)
        self.name = f"webdataset:{path}"
        self._rate_hz = float(options.get("rate_hz", IMAGE_FOLDER_FPS_HZ))
        alone = text.endswith(EXTENSION) and not self.path.is_dir()
        self._place = Place(text.rpartition("/")[0] or "." if alone else text)
        above = self._place.origin
        self.origin = f"{above}/{self.path.name}" if above and alone else above
        names = self._place.names()
        self._shards = [n for n in names if n.endswith(EXTENSION) and (not alone or n == self.path.name)]
        if not self._shards:
            packed = [n for n in names if n.endswith((".tar.gz", ".tgz", ".tar.zst"))]
            remedy = "Unpack shards to plain tar." if packed else "Name a folder of shards."
            got = f"only packed ones, such as {packed[0]}" if packed else "none"
            raise InputError(text, expected="tar shards (*.tar)", got=got, remedy=remedy)
        self._remarks: dict[str, tuple[str, ...]] = {}

    def clips(self) -> Sequence[ClipInfo]:
        """Every sample, in the order of shards and within them."""
        return tuple(info for info, _ in self._listed.values())

    def read(self, clip: ClipInfo) -> Episode:
        """Decode one sample.

        Raises:
            InputError: there is no such sample, or its shard or a member of it cannot be read; names it.
        """
        if clip.name not in self._listed:
            hint = did_you_mean(clip.name, list(self._listed)[:20])
            raise InputError(self.name, expected="a sample of these shards", got=repr(clip.name), remedy=hint)
        info, sample = self._listed[clip.name]
        if sample.fault is not None:
            raise sample.fault
        video, pictures = _content_of(sample)
        if video is None:
            where = f"{self._where(sample)}, pictures"
            frames = decode_pictures([self._bytes(sample, extension) for extension in pictures], where)
            return Episode(info=info, frames=frames)
        file, where = io.BytesIO(self._bytes(sample, video)), self._where(sample, video)
        decoded = read_video(where, fps=sample.fps, file=file).at_constant_rate()
        self._remarks[clip.name] = decoded.remarks
        return Episode(
            info=replace(info, num_frames=len(decoded.frames), fps=decoded.fps),
            frames=decoded.frames,
        )

    def remarks_of(self, clip: ClipInfo) -> tuple[str, ...]:
        """What reading this sample changed, in words; empty before it was read."""
        return self._remarks.get(clip.name, ())

    def fingerprint(self) -> str:
        """A hash of the facts, and of the sizes and the first and last 64 KB of the shards."""
        content = [[name, *self._place.content_of(name)] for name in self._shards]
        return sha256_json([[asdict(clip) for clip in self.clips()], content])

    @cached_property
    def _listed(self) -> dict[str, tuple[ClipInfo, _Sample]]:
        found: dict[str, tuple[ClipInfo, _Sample]] = {}
        for shard in self._shards:
            try:
                file = self._place.whole(shard)
            except InputError as error:
                samples, file = [_Sample(shard=shard, key="", fault=error)], memoryview(b"")
            else:
                samples = _samples_of(file, shard, self._place.where(shard))
            for sample in samples:
                name = f"{shard}/{sample.key}" if sample.key else shard
                name = name.encode("utf-8", "backslashreplace").decode()  # tar holds names that are no Unicode
                found[name] = self._look(name, sample, file)
        return found

    def _look(self, name: str, sample: _Sample, file: memoryview) -> tuple[ClipInfo, _Sample]:
        """The facts of a sample; pictures stay undecoded."""
        parts = PurePosixPath(sample.key).parts
        guessed = parts[0] if len(parts) > 1 else UNKNOWN_BODY
        nothing = ClipInfo(name=name, embodiment=guessed, fps=self._rate_hz, num_frames=0)
        if sample.fault is not None:
            return nothing, sample
        try:
            facts = self._facts(sample, file)
            video, pictures = _content_of(sample)
            fps, num_frames = facts.get("fps"), len(pictures)
            if video is not None:
                member = sample.members[video]
                window = _windowed(file[member.start : member.start + member.length])
                found = probe_video(self._where(sample, video), fps=fps, file=window)
                fps, num_frames = found.fps, found.num_frames
            elif num_frames < 2:
                raise InputError(
                    self._where(sample),
                    expected="a video, or at least 2 pictures",
                    got=f"members {', '.join(sample.members)}"[:200],
                    remedy="Leave such samples out, or pack their frames.",
                )
        except InputError as error:
            return nothing, replace(sample, fault=error)
        info = ClipInfo(
            name=name,
            embodiment=facts.get("embodiment") or guessed,
            fps=fps or self._rate_hz,
            num_frames=num_frames,
            instruction=facts.get("instruction"),
            licence=facts.get("licence"),
        )
        return info, replace(sample, fps=facts.get("fps"))

    def _facts(self, sample: _Sample, file: memoryview) -> dict[str, Any]:
        """What `KEY.json` and `KEY.txt` say."""
        facts: dict[str, Any] = {}
        if "json" in sample.members:
            where = self._where(sample, "json")
            try:
                value = json.loads(_text_in(file, sample.members["json"], where))
            except (ValueError, RecursionError) as error:
                raise _wrong(where, "a JSON object", str(error)) from None
            if not isinstance(value, dict):
                raise _wrong(where, "a JSON object", type(value).__name__)
            for name in ("embodiment", "instruction", "caption", "licence"):
                if isinstance(value.get(name), str):
                    facts[name] = value[name]
                elif value.get(name) is not None:
                    raise _wrong(f"{where}, field {name}", "text", str(value[name])[:80])
            fps = value.get("fps")
            if fps is not None and not (type(fps) in (int, float) and 0 < fps < 1e6):
                raise _wrong(f"{where}, field fps", "frames per second above 0", str(fps)[:80])
            facts["fps"] = fps
            facts["instruction"] = facts.get("instruction") or facts.pop("caption", None)
        if "txt" in sample.members:
            where = self._where(sample, "txt")
            facts["instruction"] = _text_in(file, sample.members["txt"], where).strip() or facts.get("instruction")
        return facts

    def _bytes(self, sample: _Sample, extension: str) -> bytes:
        member = sample.members[extension]
        content = self._place.span(sample.shard, member.start, member.length)
        if len(content) < member.length:
            raise _wrong(self._where(sample, extension), f"{member.length} bytes", f"{len(content)} before the end")
        return content

    def _where(self, sample: _Sample, extension: str | None = None) -> str:
        place = f"{self._place.where(sample.shard)}, sample {sample.key!r}"
        return place if extension is None else f"{place}, member {extension}"


class _Window(io.RawIOBase):
    """A part of a mapped shard as a file: a decoder touches what it needs."""

    def __init__(self, content: memoryview) -> None:
        super().__init__()
        self._content, self._at = content, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._content)}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, target: Any) -> int:
        part = self._content[self._at : self._at + len(target)]
        target[: len(part)] = part
        self._at += len(part)
        return len(part)


def _windowed(content: memoryview) -> io.BufferedReader:
    return io.BufferedReader(_Window(content))


def _samples_of(file: memoryview, shard: str, where: str) -> list[_Sample]:
    """The samples of a shard by key, and a last one that says what is wrong with it, if anything is."""
    found: dict[str, _Sample] = {}
    faults: list[_Sample] = []
    try:
        if not len(file):
            raise tarfile.ReadError("an empty file")
        with tarfile.open(fileobj=_windowed(file), mode="r:") as tar:
            last, count = -1, 0
            while (member := tar.next()) is not None:
                # Damaged sizes may lead backwards, and round and round.
                if not last < member.offset < member.offset_data or count > MAX_MEMBERS:
                    raise tarfile.ReadError(f"a member that starts at byte {member.offset}, after {last}")
                last, count = member.offset, count + 1
                if member.isreg() and not member.issparse():
                    _place(member, found, faults, len(file), shard, where)
    except _UNREADABLE as error:
        faults.append(_Sample(shard=shard, key="", fault=_wrong(where, "a whole plain tar file", str(error)[:200])))
    if not found and not faults:
        faults.append(_Sample(shard=shard, key="", fault=_wrong(where, "samples", "none")))
    return [*found.values(), *faults]


def _place(
    member: tarfile.TarInfo, found: dict[str, _Sample], faults: list[_Sample], end: int, shard: str, where: str
) -> None:
    """Put a member to its sample, or a fault where its name or its place is impossible."""
    parts, number = member.name.split("/"), len(faults)
    odd = any(ord(c) < 32 or c == "\\" for c in member.name)
    if odd or ".." in parts or "" in parts or parts[0].endswith(":"):
        fault = InputError(
            f"{where}, member {member.name[:200]!r}",
            expected="a name below the shard",
            got="one that may lead elsewhere",
            remedy="Nothing was written; do not trust this shard, or pack it again.",
        )
        faults.append(_Sample(shard=shard, key=f"refused-{number}", fault=fault))
        return
    stem, _, extension = parts[-1].partition(".")
    if not stem or not extension:
        return  # hidden files, and files of no kind
    key = "/".join((*parts[:-1], stem)).removeprefix("./")
    sample = found.setdefault(key, _Sample(shard=shard, key=key))
    extension = extension.lower()
    place = f"{where}, sample {key!r}, member {extension[:40]}"
    if extension in sample.members:
        found[key] = replace(sample, fault=_wrong(place, "each member once", "twice"))
    elif not 0 <= member.size <= end - member.offset_data:
        got = f"{end - member.offset_data} before the file ends"
        found[key] = replace(sample, fault=_wrong(place, f"{member.size} bytes", got))
    else:
        sample.members[extension] = _Member(start=member.offset_data, length=member.size)


def _content_of(sample: _Sample) -> tuple[str | None, list[str]]:
    """The extension of the sample's video if it has one, else those of its pictures in natural order."""
    videos = [e for e in sample.members if f".{e}".endswith(VIDEO_EXTENSIONS)]
    if videos:
        return min(videos, key=lambda e: ("." in e, e)), []
    return None, sorted((e for e in sample.members if f".{e}".endswith(IMAGE_EXTENSIONS)), key=natural_key)


def _text_in(file: memoryview, member: _Member, where: str) -> str:
    if member.length > MAX_TEXT_BYTES:
        raise _wrong(where, f"text of at most {MAX_TEXT_BYTES} bytes", str(member.length))
    try:
        return str(file[member.start : member.start + member.length], "utf-8-sig")
    except UnicodeDecodeError as error:
        raise _wrong(where, "text in UTF-8", str(error)) from None


def _wrong(where: str, expected: str, got: str) -> InputError:
    return InputError(where, expected=expected, got=got, remedy=_DAMAGED)
