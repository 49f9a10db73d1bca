"""Decoded clips at one square size, as a memory map with an index. Numpy alone, but for JPEG. Engineering.

    FOLDER/frames.u8    uint8 [N, size, size, 3]: every frame of every clip, clip after clip; or frames.jpg, picture
                        after picture, where the index says `stored_as: jpeg` and how long each is
    FOLDER/index.json   which clips, where each starts, its sha256, and what the frames were made from

While a cache is being built it lies in `frames.u8.part` with `journal.jsonl` beside it: a line per finished
clip, written after the clip's frames are on disk. A build that was killed goes on behind the last whole line.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from cyclemimic.errors import InputError
from cyclemimic.store.atomic import read_json, sync_folder, write_json
from cyclemimic.store.clips import chosen, facts_of
from cyclemimic.store.jpeg_frames import MOST_SHARE, JpegFrames, encode_jpeg
from cyclemimic.types import ClipInfo, Int64, UInt8

FORMAT = "cyclemimic-frame-cache-1"
FRAMES, INDEX, PART, JOURNAL = "frames.u8", "index.json", "frames.u8.part", "journal.jsonl"
JPEG_FRAMES = "frames.jpg"
FramesAs = Literal["uint8", "jpeg"]
REMEDY = "Build the cache again (delete the folder, then `cyclemimic data cache SOURCE`)."


@dataclass(frozen=True, kw_only=True)
class CacheRecipe:
    """What decides a cache's pixels: the source's content, the size [px], and how pictures become square."""

    source_hash: str
    size_px: int
    resampler: str
    stored_as: FramesAs = "uint8"

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame in memory."""
        return self.size_px * self.size_px * 3

    @property
    def kept_bytes(self) -> float:
        """Bytes of one frame on disk, of JPEG a guess that is rather too high."""
        return self.frame_bytes * (MOST_SHARE if self.stored_as == "jpeg" else 1.0)

    @property
    def file(self) -> str:
        """The name of the file of frames."""
        return JPEG_FRAMES if self.stored_as == "jpeg" else FRAMES


@dataclass(frozen=True, kw_only=True)
class CachedClip:
    """One clip's row of the index: `offset` is the row of its first frame, `sha256` that of its bytes on disk.

    `sizes` are the bytes of each picture where they are stored as JPEG, else nothing.
    """

    info: ClipInfo
    offset: int
    sha256: str
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SkippedClip:
    """A clip that could not be used, and why."""

    name: str
    reason: str


def _clip_to_json(clip: CachedClip) -> dict[str, Any]:
    sizes = {"sizes": list(clip.sizes)} if clip.sizes else {}
    return {**asdict(clip.info), "offset": clip.offset, "sha256": clip.sha256, **sizes}


def _clip_from_json(row: Mapping[str, Any]) -> CachedClip:
    return CachedClip(
        info=ClipInfo(
            name=str(row["name"]),
            embodiment=str(row["embodiment"]),
            fps=float(row["fps"]),
            num_frames=int(row["num_frames"]),
            instruction=row["instruction"],
            licence=row["licence"],
        ),
        offset=int(row["offset"]),
        sha256=str(row["sha256"]),
        sizes=tuple(int(size) for size in row.get("sizes", ())),
    )


def _bytes_of(clips: Sequence[CachedClip], recipe: CacheRecipe) -> int:
    """Of all frames of these clips, on disk."""
    if recipe.stored_as == "jpeg":
        return sum(sum(clip.sizes) for clip in clips)
    return recipe.frame_bytes * sum(clip.info.num_frames for clip in clips)


@dataclass(frozen=True, kw_only=True)
class FrameCache:
    """A finished cache, opened for reading. `frames` is a read-only memory map [N, size, size, 3].

    Or what stands in its place and gives frames when asked for rows of it: `JpegFrames`, or video that is decoded.
    """

    clips: Sequence[ClipInfo]
    offsets: Int64  # [clips]: row of each clip's first frame
    frames: UInt8  # [N, size, size, 3]
    size_px: int
    source_hash: str
    resampler: str
    sha256: Sequence[str]  # of what is kept of each clip
    skipped: tuple[SkippedClip, ...]
    stored_as: FramesAs = "uint8"

    @classmethod
    def open(cls, folder: Path | str, verify: bool = False) -> FrameCache:
        """Open a cache; `verify` also reads every frame and compares checksums.

        Raises:
            InputError: there is no finished cache here, or it is damaged.
        """
        folder = Path(folder)
        if not (folder / INDEX).exists():
            half = (folder / JOURNAL).exists()
            raise InputError(
                folder,
                expected=f"a frame cache ({INDEX} and {FRAMES})",
                got="a cache whose building was cut off" if half else "none",
                remedy="Run `cyclemimic data cache SOURCE` " + ("again; it goes on." if half else "first."),
            )
        recipe, clips, skipped = _read_index(folder / INDEX)
        num_frames = sum(c.info.num_frames for c in clips)
        path, wanted = folder / recipe.file, _bytes_of(clips, recipe)
        size_bytes = path.stat().st_size if path.exists() else 0
        if size_bytes != wanted or any(len(c.sizes) not in (0, c.info.num_frames) for c in clips):
            expected = f"{num_frames} frames of {recipe.size_px} px ({wanted} bytes)"
            raise InputError(path, expected=expected, got=f"{size_bytes} bytes", remedy=REMEDY)
        frames: Any
        if recipe.stored_as == "jpeg":
            starts = np.cumsum([0, *(size for c in clips for size in c.sizes)], dtype=np.int64)
            frames = JpegFrames(np.memmap(path, np.uint8, "r"), starts, recipe.size_px, str(path))
        else:
            frames = np.memmap(path, np.uint8, "r", shape=(num_frames, recipe.size_px, recipe.size_px, 3))
        cache = cls(
            clips=tuple(c.info for c in clips),
            offsets=np.array([c.offset for c in clips], np.int64),
            frames=frames,
            size_px=recipe.size_px,
            source_hash=recipe.source_hash,
            resampler=recipe.resampler,
            sha256=tuple(c.sha256 for c in clips),
            skipped=skipped,
            stored_as=recipe.stored_as,
        )
        if verify:
            cache.verify(path)
        return cache

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.clips)

    @property
    def embodiments(self) -> tuple[str, ...]:
        """The bodies seen, sorted, each once."""
        return facts_of(self.clips).embodiments

    @property
    def recipe(self) -> CacheRecipe:
        """What decided the pixels."""
        return CacheRecipe(
            source_hash=self.source_hash, size_px=self.size_px, resampler=self.resampler, stored_as=self.stored_as
        )

    @property
    def kept(self) -> bool:
        """Whether the frames lie on disk, and are not decoded from video when asked for."""
        return isinstance(self.frames, np.ndarray | JpegFrames)

    def clip_frames(self, i: int) -> UInt8:
        """The frames [T, size, size, 3] of clip `i`: a view of the memory map, nothing is read yet."""
        start = int(self.offsets[i])
        return self.frames[start : start + self.clips[i].num_frames]

    def subset(self, clips: Int64) -> FrameCache:
        """The same cache with only the clips of these indices [n]; nothing is copied."""
        kept = np.asarray(clips, np.int64)
        return replace(
            self, clips=chosen(self.clips, kept), offsets=self.offsets[kept], sha256=chosen(self.sha256, kept)
        )

    def verify(self, where: Path | str = FRAMES) -> None:
        """Read every frame; raise InputError that names the clips whose pixels changed."""
        pairs = enumerate(self.sha256)
        bad = [self.clips[i].name for i, known in pairs if _sha256_of(self._bytes(i)) != known]
        if bad:
            expected = "frames with the checksums of the index"
            raise InputError(where, expected=expected, got=f"others in {', '.join(bad[:5])}", remedy=REMEDY)

    def _bytes(self, i: int) -> UInt8:
        """What is kept of clip `i`."""
        frames: Any = self.frames
        if isinstance(frames, JpegFrames):
            start = int(self.offsets[i])
            stop = start + self.clips[i].num_frames
            return frames.content[frames.starts[start] : frames.starts[stop]]
        return self.clip_frames(i)


def stored_in(folder: Path) -> FramesAs:
    """How the frames of a cache, whole or half-built, are stored there; uint8 where there is none."""
    for name in (INDEX, JOURNAL):
        try:
            with (folder / name).open(encoding="utf-8") as file:
                # Of a journal the first line is the recipe.
                found = json.load(file) if name == INDEX else json.loads(file.readline())
            return "jpeg" if found.get("stored_as") == "jpeg" else "uint8"
        except (OSError, ValueError, AttributeError):
            continue
    return "uint8"


class FrameCacheWriter:
    """Writes a cache clip by clip; on a half-built one of the same recipe it goes on where that stopped."""

    def __init__(self, folder: Path | str, recipe: CacheRecipe) -> None:
        self.folder, self.recipe = Path(folder), recipe
        self.folder.mkdir(parents=True, exist_ok=True)
        self._header = json.dumps({"format": FORMAT, **asdict(recipe)}, sort_keys=True)
        self._clips: list[CachedClip] = []
        self._skipped: list[SkippedClip] = []
        self._recover()
        self._frames = (self.folder / PART).open("ab")
        self._journal = (self.folder / JOURNAL).open("a", encoding="utf-8")

    def __enter__(self) -> FrameCacheWriter:
        """Close the files at the end of the block, whatever happens."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._frames.close()
        self._journal.close()

    @property
    def num_frames(self) -> int:
        """Frames written so far."""
        return sum(c.info.num_frames for c in self._clips)

    @property
    def done(self) -> frozenset[str]:
        """Names of the clips that are written or skipped."""
        return frozenset(c.info.name for c in self._clips) | frozenset(s.name for s in self._skipped)

    @property
    def num_clips(self) -> int:
        """Clips written so far."""
        return len(self._clips)

    @property
    def skipped(self) -> tuple[SkippedClip, ...]:
        """Clips skipped so far."""
        return tuple(self._skipped)

    def add(self, info: ClipInfo, frames: UInt8) -> None:
        """Append one clip, frames [T, size, size, 3]; `info.num_frames` must be T."""
        wanted = (info.num_frames, self.recipe.size_px, self.recipe.size_px, 3)
        if frames.shape != wanted or frames.dtype != np.uint8:
            expected, got = f"uint8 {wanted}", f"{frames.dtype} {frames.shape}"
            raise InputError(f"clip {info.name!r}", expected=expected, got=got, remedy="Resize it first.")
        pictures = encode_jpeg(frames) if self.recipe.stored_as == "jpeg" else []
        content = np.frombuffer(b"".join(pictures), np.uint8) if pictures else np.ascontiguousarray(frames)
        sizes = tuple(map(len, pictures))
        clip = CachedClip(info=info, offset=self.num_frames, sha256=_sha256_of(content), sizes=sizes)
        self._frames.write(content.data)
        self._frames.flush()
        # Frames first: a journal line is a promise that its frames are on disk.
        os.fsync(self._frames.fileno())
        self._clips.append(clip)
        self._note(_clip_to_json(clip))

    def skip(self, name: str, reason: str) -> None:
        """Note that a clip cannot be used."""
        self._skipped.append(SkippedClip(name=name, reason=reason))
        self._note({"skipped": name, "reason": reason})

    def finish(self) -> None:
        """Turn the part file into the cache. An older cache in this folder is replaced only now."""
        self._frames.close()
        self._journal.close()
        # The old index goes first: an index must never lie beside frames that it does not describe.
        (self.folder / INDEX).unlink(missing_ok=True)
        for other in {FRAMES, JPEG_FRAMES} - {self.recipe.file}:
            (self.folder / other).unlink(missing_ok=True)
        (self.folder / PART).replace(self.folder / self.recipe.file)
        sync_folder(self.folder)
        index = {
            "format": FORMAT,
            **asdict(self.recipe),
            "clips": [_clip_to_json(c) for c in self._clips],
            "skipped": [asdict(s) for s in self._skipped],
        }
        write_json(self.folder / INDEX, index)
        (self.folder / JOURNAL).unlink()

    def _note(self, row: Mapping[str, Any]) -> None:
        self._journal.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def _recover(self) -> None:
        """Take over what a killed build finished; anything behind the last whole journal line is cut off."""
        journal, part, frames = (self.folder / name for name in (JOURNAL, PART, self.recipe.file))
        lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
        if lines and lines[0].decode(errors="replace") == self._header:
            for line in lines[1:]:
                try:
                    row = json.loads(line)
                    if "skipped" in row:
                        self._skipped.append(SkippedClip(name=row["skipped"], reason=row["reason"]))
                    else:
                        self._clips.append(_clip_from_json(row))
                except (ValueError, KeyError, TypeError):
                    break
        kept_bytes = _bytes_of(self._clips, self.recipe)
        if not part.exists() and frames.exists() and not (self.folder / INDEX).exists():
            frames.replace(part)  # killed inside `finish`, between the rename and the index
        if not part.exists() or part.stat().st_size < kept_bytes:
            self._clips, self._skipped, kept_bytes = [], [], 0
        with part.open("ab") as handle:
            handle.truncate(kept_bytes)
        rows = [json.dumps(_clip_to_json(c), ensure_ascii=False) for c in self._clips]
        rows += [json.dumps({"skipped": s.name, "reason": s.reason}, ensure_ascii=False) for s in self._skipped]
        journal.write_text("\n".join([self._header, *rows]) + "\n", encoding="utf-8")


def _sha256_of(frames: UInt8) -> str:
    return hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest()


def _read_index(path: Path) -> tuple[CacheRecipe, tuple[CachedClip, ...], tuple[SkippedClip, ...]]:
    index = read_json(path)
    if index.get("format") != FORMAT:
        raise InputError(path, expected=f"format {FORMAT!r}", got=repr(index.get("format")), remedy=REMEDY)
    try:
        recipe = CacheRecipe(
            source_hash=str(index["source_hash"]),
            size_px=int(index["size_px"]),
            resampler=str(index["resampler"]),
            stored_as="jpeg" if index.get("stored_as") == "jpeg" else "uint8",
        )
        clips = tuple(_clip_from_json(row) for row in index["clips"])
        skipped = tuple(SkippedClip(name=s["name"], reason=s["reason"]) for s in index["skipped"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(path, expected="a whole index", got=f"a fault at {error}", remedy=REMEDY) from None
    return recipe, clips, skipped
