"""Decode a whole source once into a frame cache. Engineering."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from cyclemimic.data.parts import read_shrunk
from cyclemimic.embodiment.resize import Fit, resampler_name, resize_square
from cyclemimic.errors import InputError
from cyclemimic.store.atomic import alone_in, sha256_json
from cyclemimic.store.frame_cache import (
    INDEX,
    CacheRecipe,
    FrameCache,
    FrameCacheWriter,
    FramesAs,
    SkippedClip,
    stored_in,
)
from cyclemimic.types import ClipInfo, Source

Progress = Callable[[str], None]
# What data/screen.py does; caches record it.
COLOURS = "tagged matrix and range, HDR to SDR 1, wide to BT.709 1, on black"
_DISK_SHARE = 0.8  # of what is free; a full disk stops more than this program
OFFERED_HZ = 10.0  # frames a second that are enough for most pairs, which are half a second or more apart


@runtime_checkable
class Fingerprinted(Protocol):
    """A source that can hash the content of its files without decoding them."""

    def fingerprint(self) -> str:
        """Equal for equal content, wherever it lies."""
        ...


@dataclass(frozen=True, kw_only=True)
class CacheReport:
    """What `build_cache` did: clips decoded now, clips already there, and clips that are unusable."""

    built: int
    reused: int
    skipped: tuple[SkippedClip, ...]


def source_hash(source: Source) -> str:
    """A hash of a source's content; of its clips' facts alone where the source cannot look into its files."""
    if isinstance(source, Fingerprinted):
        return source.fingerprint()
    return sha256_json([asdict(clip) for clip in source.clips()])


def build_cache(
    source: Source,
    folder: Path | str,
    size_px: int,
    *,
    fit: Fit = "crop",
    min_frames: int = 2,
    stored_as: FramesAs | None = None,
    progress: Progress | None = None,
) -> CacheReport:
    """Decode every clip of `source` in order, make its frames square, and keep them in `folder`.

    A whole cache of the same source, size and fit is kept; any other is replaced once the new one is whole.
    A build that was cut off goes on behind its last whole clip. Clips that cannot be read or are shorter
    than `min_frames` are skipped, and listed in the report and the index.

    Args:
        source: where clips come from.
        folder: where the cache lies; belongs to the cache alone.
        size_px: height and width of the cached frames [px].
        fit: how pictures become square, see `resize_square`.
        min_frames: shorter clips are skipped.
        stored_as: plain pixels, or JPEG, which changes them a little; None: as what lies there, else plain.
        progress: is given lines of text: first bytes needed and free, then clip after clip.

    Raises:
        InputError: not enough disk, no usable clip, or two clips of one name.
    """
    say: Progress = progress or (lambda line: None)
    folder = Path(folder)
    clips = source.clips()
    _refuse_same_names(source, [c.name for c in clips])
    recipe = replace(_recipe(source, size_px, fit, min_frames), stored_as=stored_as or stored_in(folder))
    # Looked at before the lock is taken: many processes may read a whole cache at once.
    if (whole := _whole_cache(folder, recipe)) is None:
        with alone_in(folder, waiting=say):
            whole = _whole_cache(folder, recipe)  # whoever was waited for may have built it
            if whole is None:
                return _build(source, clips, folder, recipe, fit, min_frames, say)
    say(f"{folder} is up to date: {len(whole)} clips, {len(whole.frames)} frames.")
    if whole.skipped:
        some = ", ".join(s.name for s in whole.skipped[:5]) + " ..." * (len(whole.skipped) > 5)
        say(f"skipped {len(whole.skipped)} clips that are of no use, as when they were decoded: {some}")
    return CacheReport(built=0, reused=len(whole), skipped=whole.skipped)


def _recipe(source: Source, size_px: int, fit: Fit, min_frames: int) -> CacheRecipe:
    """What decides a cache's content."""
    resampler = f"{resampler_name(fit)}; at least {min_frames} frames; {COLOURS}"
    return CacheRecipe(source_hash=source_hash(source), size_px=size_px, resampler=resampler)


def _build(
    source: Source,
    clips: Sequence[ClipInfo],
    folder: Path,
    recipe: CacheRecipe,
    fit: Fit,
    min_frames: int,
    say: Progress,
) -> CacheReport:
    """Decode what is not there yet; the folder is locked."""
    with FrameCacheWriter(folder, recipe) as writer:
        reused = writer.num_clips
        todo = [c for c in clips if c.name not in writer.done]
        needed = round(sum(c.num_frames for c in todo) * recipe.kept_bytes)
        what = f"{len(todo)} clips to decode{_offer(todo, needed)}"
        refuse_full_disk(folder, needed, what, say, lambda room: _what_fits(todo, recipe, room))
        for number, clip in enumerate(todo, start=1):
            reason = _add(source, clip, writer, fit, min_frames)
            tail = f"skipped, {reason}" if reason else f"{writer.num_frames} frames so far"
            say(f"{number}/{len(todo)} {clip.name}: {tail}")
        if writer.num_clips == 0:
            reasons = "; ".join(f"{s.name}: {s.reason}" for s in writer.skipped[:3])
            remedy = f"All {len(clips)} clips were skipped. Check them one by one with a video player."
            raise InputError(source.name, expected="a usable clip", got=reasons or "none", remedy=remedy)
        writer.finish()
        for clip_skipped in writer.skipped:
            say(f"skipped {clip_skipped.name}: {clip_skipped.reason}")
        return CacheReport(built=writer.num_clips - reused, reused=reused, skipped=writer.skipped)


def _add(source: Source, clip: ClipInfo, writer: FrameCacheWriter, fit: Fit, min_frames: int) -> str | None:
    """Decode and write one clip; returns why it was skipped."""
    try:
        episode = read_shrunk(source, clip, lambda frames: resize_square(frames, writer.recipe.size_px, fit))
    except InputError as error:
        reason = str(error)
    else:
        if len(episode.frames) >= min_frames:
            frames = episode.frames
            writer.add(replace(episode.info, name=clip.name, num_frames=len(frames)), frames)
            return None
        reason = f"{len(episode.frames)} frames, fewer than {min_frames}"
    writer.skip(clip.name, reason)
    return reason


def _whole_cache(folder: Path, recipe: CacheRecipe) -> FrameCache | None:
    if not (folder / INDEX).exists():
        return None
    try:
        cache = FrameCache.open(folder)
    except InputError:
        return None  # damaged: building it again is the remedy
    return cache if cache.recipe == recipe else None


def _refuse_same_names(source: Source, names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        remedy = "Two clips of one source must differ in name."
        raise InputError(source.name, expected="unique names", got=f"{twice[0]!r} twice", remedy=remedy)


def _offer(clips: Sequence[ClipInfo], needed: int) -> str:
    """What fewer frames a second would need, where there are many."""
    frames, kept = sum(c.num_frames for c in clips), sum(c.num_frames * min(1.0, OFFERED_HZ / c.fps) for c in clips)
    if kept >= 0.75 * frames:
        return ""
    return f" (about {needed * kept / frames / 1e6:.1f} MB with ?cache_fps={OFFERED_HZ:g} behind the source)"


def _what_fits(clips: Sequence[ClipInfo], recipe: CacheRecipe, room_bytes: float) -> str:
    """What to do where all frames do not fit."""
    fits_hz = math.floor(10 * room_bytes / (recipe.kept_bytes * sum(c.num_frames / c.fps for c in clips))) / 10
    few = f"Write ?cache_fps={fits_hz:g} behind the source, choose" if fits_hz >= 1 else "Choose"
    if recipe.stored_as == "uint8":
        few = few.replace(", choose", ", store it as JPEG (`data cache --stored-as jpeg`), choose")
    return f"{few} a smaller size, fewer clips, or another disk."


def refuse_full_disk(
    folder: Path, needed: int, what: str, say: Progress, remedy: Callable[[float], str] | None = None
) -> None:
    """Say how many bytes `what` needs and how many are free. InputError where it needs more than most of them.

    `remedy` is given the bytes that may be used, and says what to do.
    """
    free = shutil.disk_usage(folder).free
    say(f"{what}: about {needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free.")
    if needed > _DISK_SHARE * free:
        raise InputError(
            folder,
            expected=f"at most {_DISK_SHARE:.0%} of the free disk ({free / 1e9:.2f} GB)",
            got=f"{needed / 1e9:.2f} GB",
            remedy=remedy(_DISK_SHARE * free) if remedy else "Choose fewer clips, or another disk.",
        )
