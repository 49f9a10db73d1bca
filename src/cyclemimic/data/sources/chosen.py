"""Any source without some of its clips, or without its camera's motion: options that every source knows. Engineering.

    folder:VIDEOS?skip=LIST.json&stabilise=shift

Such a source is another source: its fingerprint differs, and so do its caches and labels.
"""

from __future__ import annotations

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
from cyclemimic.data.stabilise import METHOD, Still, named_mode, stabilised
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.store.atomic import sha256_json
from cyclemimic.types import ClipInfo, Episode, Source

OPTIONS = ("skip", "stabilise")


class ChosenSource:
    """Another source, without the clips of a list, and with its main camera held still where that can be done.

    Args:
        source: where the clips come from.
        name: how it is called.
        skip: names of clips that are passed over.
        stabilise: what is taken out of the main camera's motion, see `stabilised`; None: nothing.
    """

    def __init__(self, source: Source, name: str, *, skip: Sequence[str] = (), stabilise: Still | None = None) -> None:
        self.source, self.name, self.stabilise = source, name, stabilise
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
        episode = self.source.read(clip)
        if self.stabilise is None:
            return episode
        frames, remark = stabilised(episode.frames, self.stabilise, gap_in_frames(GAP_S, episode.info.fps))
        self._remarks[clip.name] = (remark,) if remark else ()
        return replace(episode, frames=frames)

    def fingerprint(self) -> str:
        """A hash of the source's content, of which clips are skipped, and of how pictures are held still."""
        still = None if self.stabilise is None else [self.stabilise, METHOD]
        skipped = sorted(self.skip & {clip.name for clip in self.source.clips()})
        return sha256_json({"source": source_hash(self.source), "skipped": skipped, "stabilise": still})

    def remarks_of(self, clip: ClipInfo) -> tuple[str, ...]:
        """What reading this clip changed, in words."""
        before = self.source.remarks_of(clip) if isinstance(self.source, Remarking) else ()
        return (*before, *self._remarks.get(clip.name, ()))

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
        return left


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
            raise InputError(text, expected=expected, got=query, remedy="Write ?skip=LIST.json or ?stabilise=shift.")
    rest = "&".join("".join(word) for word in words if word[0] not in OPTIONS)
    return head + (f"?{rest}" if rest else ""), dict(ours)


def chosen_of(source: Source, name: str, options: dict[str, str]) -> Source:
    """The source, or what the options make of it.

    Raises:
        InputError: the list cannot be read, or the way to stabilise is unknown.
    """
    skip = tuple(read_skips(options["skip"])) if "skip" in options else ()
    mode = named_mode(options["stabilise"]) if "stabilise" in options else None
    if not skip and mode is None:
        return source
    kind = FiledChosenSource if isinstance(source, Filed) and mode is None else ChosenSource
    return kind(source, name, skip=skip, stabilise=mode)
