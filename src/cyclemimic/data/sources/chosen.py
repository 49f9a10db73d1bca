"""Any source without some clips or frames, or its camera's motion: options that every source knows. Engineering.

    folder:VIDEOS?skip=LIST.json&stabilise=shift&cache_fps=10

Such a source is another source: its fingerprint differs, and so do its caches and labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from cyclemimic.data.cache import source_hash
from cyclemimic.data.check import GAP_S, Remarking
from cyclemimic.data.filed import Described, Filed
from cyclemimic.data.pairs import gap_in_frames
from cyclemimic.data.skip import read_skips
from cyclemimic.data.sources.places import positive
from cyclemimic.data.stabilise import METHOD, Still, named_mode, stabilised
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.store.atomic import sha256_json
from cyclemimic.types import ClipInfo, Episode, Source

OPTIONS = ("skip", "stabilise", "cache_fps")
_ROUNDING = 1e-6  # of a rate that a file gives as a fraction


class ChosenSource:
    """Another source, without the clips of a list, with its main camera held still where that can be done, and thinned.

    Args:
        source: where the clips come from.
        name: how it is called.
        skip: names of clips that are passed over.
        stabilise: what is taken out of the main camera's motion, see `stabilised`; None: nothing.
        cache_fps: of a clip with more frames a second, every second, third ... is kept, until they are no more. Actions
            are left out then: each leads from one frame to the next.
    """

    def __init__(
        self,
        source: Source,
        name: str,
        *,
        skip: Sequence[str] = (),
        stabilise: Still | None = None,
        cache_fps: float | None = None,
    ) -> None:
        self.source, self.name, self.stabilise, self.cache_fps = source, name, stabilise, cache_fps
        self.skip = frozenset(skip)
        self._remarks: dict[str, tuple[str, ...]] = {}

    def clips(self) -> Sequence[ClipInfo]:
        """Those that are left, in the source's order.

        Raises:
            InputError: none of the names to skip is known, or nothing is left.
        """
        return self._clips

    def read(self, clip: ClipInfo) -> Episode:
        """Decode one clip, see the source's own `read`."""
        if clip.name in self.skip:
            raise InputError(
                self.name, expected="a clip that is not skipped", got=repr(clip.name), remedy="See clips()."
            )
        episode, remarks = self.source.read(self._whole.get(clip.name, clip)), list[str]()
        if self.stabilise is not None:
            frames, remark = stabilised(episode.frames, self.stabilise, gap_in_frames(GAP_S, episode.info.fps))
            episode = replace(episode, frames=frames)
            remarks += [remark] if remark else []
        every = self._every(episode.info)
        if every > 1:
            remarks.append(f"every {every}. frame is kept" + ("" if episode.actions is None else "; no actions"))
            episode = thinned(episode, every)
        self._remarks[clip.name] = tuple(remarks)
        return episode

    def fingerprint(self) -> str:
        """A hash of the source's content, of which clips are skipped, and of how pictures are held still."""
        still = None if self.stabilise is None else [self.stabilise, METHOD]
        skipped = sorted(self.skip & {clip.name for clip in self.source.clips()})
        content = {"source": source_hash(self.source), "skipped": skipped, "stabilise": still}
        return sha256_json({**content, **({} if self.cache_fps is None else {"cache_fps": self.cache_fps})})

    def remarks_of(self, clip: ClipInfo) -> tuple[str, ...]:
        """What reading this clip changed, in words."""
        before = self.source.remarks_of(clip) if isinstance(self.source, Remarking) else ()
        return (*before, *self._remarks.get(clip.name, ()))

    def _every(self, clip: ClipInfo) -> int:
        """Which of its frames are kept: every so many."""
        return 1 if self.cache_fps is None else max(1, math.ceil(clip.fps / self.cache_fps - _ROUNDING))

    @cached_property
    def _whole(self) -> dict[str, ClipInfo]:
        """The source's own clips."""
        return {clip.name: clip for clip in self.source.clips()}

    @cached_property
    def _clips(self) -> tuple[ClipInfo, ...]:
        everything = self.source.clips()
        names = [clip.name for clip in everything]
        if self.skip and not self.skip & set(names):
            word = min(self.skip)
            expected, remedy = "clips of this source", f"Is it another source's list? {did_you_mean(word, names[:10])}"
            raise InputError(f"{self.name}, option skip", expected=expected, got=f"such as {word!r}", remedy=remedy)
        left = tuple(clip for clip in everything if clip.name not in self.skip)
        if not left:
            raise InputError(self.name, expected="a clip that is not skipped", got="none", remedy="Skip fewer.")
        return tuple(_info_of_every(clip, self._every(clip)) for clip in left)


def thinned(episode: Episode, every: int) -> Episode:
    """Every so many frames [T] of an episode from the first on, without its actions."""
    return replace(
        episode,
        info=_info_of_every(episode.info, every),
        frames=episode.frames[::every],
        actions=None,
        action_space=None,
        proprioception=None if episode.proprioception is None else episode.proprioception[::every],
        extra_frames={name: frames[::every] for name, frames in episode.extra_frames.items()},
    )


def _info_of_every(clip: ClipInfo, every: int) -> ClipInfo:
    return clip if every == 1 else replace(clip, fps=clip.fps / every, num_frames=-(-clip.num_frames // every))


class FiledChosenSource(ChosenSource):
    """One whose clips are files, with the files' own pictures: it may be read without a cache."""

    source: Filed  # type: ignore[assignment]

    def names(self) -> Sequence[str]:
        """The names of the clips that are left."""
        return [name for name in self.source.names() if name not in self.skip]

    def describe(self, name: str) -> ClipInfo:
        """See the source's own."""
        return self.source.describe(name)

    def file_of(self, name: str) -> Path:
        """Where a clip lies."""
        return self.source.file_of(name)

    def rate_of(self, name: str) -> float | None:
        """See the source's own."""
        return self.source.rate_of(name)

    def told_of(self, name: str) -> str:
        """See `Described`."""
        return self.source.told_of(name) if isinstance(self.source, Described) else ""

    def beside(self) -> str:
        """See `Described`: the list of clips is beside their files, too."""
        own = self.source.beside() if isinstance(self.source, Described) else ""
        return sha256_json([own, sorted(self.skip)])


def options_of(text: str) -> tuple[str, dict[str, str]]:
    """A source's name without the options that every source knows, and those.

    Raises:
        InputError: one of them has no value, or stands there twice.
    """
    head, mark, query = text.rpartition("?")
    words = [word.partition("=") for word in query.split("&")] if mark else []
    ours = [(name, unquote(value)) for name, _, value in words if name in OPTIONS]
    if not ours:
        return text, {}
    for name, value in ours:
        if not value or sum(other == name for other, _ in ours) > 1:
            expected = f"one value of {name}"
            remedy = "Write ?skip=LIST.json, ?stabilise=shift or ?cache_fps=10."
            raise InputError(text, expected=expected, got=query, remedy=remedy)
    rest = "&".join("".join(word) for word in words if word[0] not in OPTIONS)
    return head + (f"?{rest}" if rest else ""), dict(ours)


def chosen_of(source: Source, name: str, options: dict[str, str]) -> Source:
    """The source, or what the options make of it.

    Raises:
        InputError: the list cannot be read, the way to stabilise is unknown, or the rate is none.
    """
    skip = tuple(read_skips(options["skip"])) if "skip" in options else ()
    mode = named_mode(options["stabilise"]) if "stabilise" in options else None
    rate_hz = _rate(name, options["cache_fps"]) if "cache_fps" in options else None
    if not skip and mode is None and rate_hz is None:
        return source
    # Without a cache the files' own frames are read, all of them.
    kind = FiledChosenSource if isinstance(source, Filed) and mode is None and rate_hz is None else ChosenSource
    return kind(source, name, skip=skip, stabilise=mode, cache_fps=rate_hz)


def _rate(name: str, text: str) -> float:
    try:
        return positive(text)
    except ValueError:
        remedy = "Write frames a second, such as ?cache_fps=10."
        raise InputError(
            f"{name}, option cache_fps", expected="a number above 0", got=repr(text), remedy=remedy
        ) from None
