"""The sources of one training, opened: one, or those of a mixture, each with its frames, its bodies and its weight."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from cyclemimic.data.cache import source_hash
from cyclemimic.data.mixture import SourceWeights
from cyclemimic.data.pairs import gap_in_frames
from cyclemimic.data.segments import ReadMode
from cyclemimic.data.sources.folder import UNKNOWN_BODY
from cyclemimic.data.sources.remote import THERE, is_remote
from cyclemimic.errors import InputError
from cyclemimic.names import imported
from cyclemimic.recipes.footage import frames_of, open_source, settled_gap
from cyclemimic.recipes.mixtures import KIND, Mixture, MixtureEntry, called, find_mixture
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.store.lineage import licence_text, licences_of
from cyclemimic.types import ClipInfo, Episode, Gap, Int64, Source


@dataclass(frozen=True, kw_only=True)
class Part:
    """One source of a training. What it does not say of its clips, or says otherwise, a mixture's entry may say."""

    name: str
    source: Source
    gap_s: float | None = None
    body: str | None = None
    licence: str | None = None
    alone: bool = True

    def told(self, clip: ClipInfo) -> ClipInfo:
        """A clip as this training calls it.

        In a mixture a body of which its source says nothing bears the entry's name: two unknown ones are not one.
        """
        body = self.body or clip.embodiment
        if not self.alone and body == UNKNOWN_BODY:
            body = self.name
        return replace(clip, embodiment=body, licence=clip.licence or self.licence)

    def clips(self) -> tuple[ClipInfo, ...]:
        """Every clip of the source, as `told`."""
        return tuple(self.told(clip) for clip in self.source.clips())

    def renamed(self, cache: FrameCache) -> FrameCache:
        """The source's frames with its clips as `told`. On disk they stay as the source has them."""
        return replace(cache, clips=tuple(self.told(clip) for clip in cache.clips))

    def as_told(self) -> Source:
        """The source with its clips as `told`; where all are told as they are, the source itself."""
        return self.source if self.clips() == tuple(self.source.clips()) else ToldSource(self)


class ToldSource:
    """The source of a part, whose clips bear the body and the licence that the mixture tells; its content is the same.

    Args:
        part: of a mixture.
    """

    def __init__(self, part: Part) -> None:
        self.part, self.name = part, part.source.name
        self._own = {clip.name: clip for clip in part.source.clips()}

    def clips(self) -> tuple[ClipInfo, ...]:
        """Every clip, as told."""
        return self.part.clips()

    def read(self, clip: ClipInfo) -> Episode:
        """Decode one clip. Raises InputError as the source does."""
        episode = self.part.source.read(self._own[clip.name])
        return replace(episode, info=self.part.told(episode.info))

    def fingerprint(self) -> str:
        """That of the source: labels of its clips are labels of these."""
        return source_hash(self.part.source)


@dataclass(frozen=True, kw_only=True)
class OpenMixture:
    """A mixture of sources that are there, and the names of those that are not and were left out."""

    mixture: Mixture
    parts: tuple[Part, ...]
    absent: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As it was asked for."""
        return f"{KIND}:{self.mixture.name}"


Sources = Source | OpenMixture


def open_sources(text: str) -> Sources:
    """The source or the mixture that `--source` names.

    A mixture is `mixture:NAME`, `mixture:FILE.toml`, `mixture:FILE.json` or `mixture:package.module:name`; also
    `package.module:name` alone, where that is a `Mixture` or a function without arguments that returns one.

    Raises:
        InputError: there is none, or a source of a mixture cannot be opened; then it names every such entry.
    """
    kind, colon, rest = text.partition(":")
    if colon and kind == KIND:
        return open_mixture(find_mixture(rest))
    if "." in kind and colon and "=" not in text and not Path(text).exists():
        return open_mixture(called("--source", imported("--source", text)))
    return open_source(text)


def open_mixture(mixture: Mixture) -> OpenMixture:
    """Open all sources of a mixture.

    Raises:
        InputError: some are not there or hold nothing; one message names all of them and how to get each. Where the
        mixture is to go on without what is not there: others cannot be read, or nothing is there.
    """
    parts: list[Part] = []
    faults: list[str] = []
    absent: list[str] = []
    for entry in mixture.entries:
        try:
            source = open_source(entry.source)
            if not source.clips():
                raise InputError(source.name, expected="clips", got="none", remedy="An empty source teaches nothing.")
        except InputError as error:
            faults.append(_fault(entry, error))
            absent += [entry.name] * _is_absent(entry, error)
        else:
            parts.append(
                Part(
                    name=entry.name,
                    source=source,
                    gap_s=entry.gap_s,
                    body=entry.body,
                    licence=entry.licence,
                    alone=False,
                )
            )
    skipped = mixture.missing == "skip" and bool(parts) and len(absent) == len(faults)
    if faults and not skipped:
        fewer = len(absent) < len(faults)
        remedy = (
            "Get them, or write a mixture of your own without them."
            if mixture.missing == "skip" or fewer
            else "Get them, or go on without: write ?missing=skip behind the mixture (&missing=skip behind ?root=)."
        )
        raise InputError(
            f"{KIND}:{mixture.name}",
            expected=f"{len(mixture.entries)} sources that can be read",
            got=f"{len(faults)} that cannot" + (f", {len(absent)} of them not there" if fewer else ""),
            remedy=remedy,
            each=faults,
        )
    present = tuple(entry for entry in mixture.entries if entry.name not in absent)
    found = OpenMixture(mixture=replace(mixture, entries=present), parts=tuple(parts), absent=tuple(absent))
    for line in absent_lines(found):
        print(line, flush=True)
    return found


def absent_lines(mixture: OpenMixture) -> list[str]:
    """Which sources a mixture goes on without; empty where all are there."""
    if not mixture.absent:
        return []
    whole = len(mixture.absent) + len(mixture.parts)
    said = f"{mixture.name}: {len(mixture.absent)} of {whole} sources are not there and are left out: "
    return textwrap.wrap(said + ", ".join(mixture.absent), 118, subsequent_indent="  ")


def _is_absent(entry: MixtureEntry, error: InputError) -> bool:
    """Whether a source that cannot be opened is not there at all, and not damaged."""
    path = entry.source.partition("?")[0].partition(":")[2] or entry.source
    if is_remote(path):
        return error.expected == THERE
    return not Path(path.rpartition("=")[2]).exists()


def _fault(entry: MixtureEntry, error: InputError) -> str:
    get = f"; to get it: {entry.get}" if entry.get else ""
    return f"{entry.name} ({entry.source}): expected {error.expected}, got {error.got}{get}"


def parts_of(source: Sources) -> tuple[Part, ...]:
    """What there is to read: one part for a source alone."""
    if isinstance(source, OpenMixture):
        return source.parts
    return (Part(name=name_of(source), source=source),)


def weights_of(source: Sources) -> SourceWeights | None:
    """How often each part is drawn; None for a source alone."""
    return source.mixture.weights() if isinstance(source, OpenMixture) else None


def name_of(source: Source) -> str:
    """A source's name without folders of this machine, which are nobody's business."""
    found = origin_of(source)
    if found is not None:
        return found
    kind, colon, path = source.name.partition(":")
    plain = path.partition("?")[0] if colon else kind
    last = PurePosixPath(plain.rpartition("=")[2]).name or plain
    return f"{kind}:{last}" if colon else last


def origin_of(source: Source) -> str | None:
    """The public address of a source that has one, with the revision where it has one."""
    found = getattr(source, "origin", None)
    return str(found) if found else None


def frames_of_parts(
    source: Sources, size_px: int, root: Path, read: ReadMode | Literal["auto"]
) -> tuple[list[FrameCache], ReadMode]:
    """The frames of each part, and how they are read.

    Runs of frames are read of a mixture where every source is best read so; else each pair is sought.

    Raises:
        InputError: runs of frames are wanted of a source whose clips are no files, or two sources hold the same.
    """
    if not isinstance(source, OpenMixture):
        cache, mode = frames_of(source, size_px, root, read)
        return [cache], mode
    caches: list[FrameCache] = []
    modes: list[ReadMode] = []
    for part in source.parts:
        cache, mode = frames_of(part.source, size_px, root, read)
        caches.append(part.renamed(cache))
        modes.append(mode)
    refuse_same_content(source, [cache.source_hash for cache in caches])
    if len(set(modes)) == 1:
        return caches, modes[0]
    for part, mode in zip(source.parts, modes, strict=True):
        if mode == "segment":
            print(f"{part.name}: direct, as other sources of the mixture are not read in runs of frames", flush=True)
    return caches, "direct"


def refuse_same_content(mixture: OpenMixture, hashes: Sequence[str]) -> None:
    """InputError where two parts hold the same clips: their shares would not be what they seem."""
    seen: dict[str, str] = {}
    for part, found in zip(mixture.parts, hashes, strict=True):
        if found in seen:
            remedy = "Name one of them alone, with the weights' sum."
            got = f"{seen[found]!r} and {part.name!r} hold the same clips"
            raise InputError(mixture.name, expected="sources that differ", got=got, remedy=remedy)
        seen[found] = part.name


def settled_gaps(
    source: Sources, caches: Sequence[FrameCache], keep: Sequence[Int64], gap_s: Gap | Literal["auto"]
) -> Gap:
    """H of all bodies, or of each: what an entry says, else as it was given, or what motion asks for.

    A body has one H, whatever source it is seen in: a code must mean as much motion in all of them.

    Raises:
        InputError: two entries ask for different H of one body.
    """
    parts = parts_of(source)
    told: dict[str, tuple[float, str]] = {}
    for part, cache in zip(parts, caches, strict=True):
        for body in cache.embodiments if part.gap_s is not None else ():
            assert part.gap_s is not None
            before = told.setdefault(body, (part.gap_s, part.name))
            if before[0] != part.gap_s:
                raise InputError(
                    f"{getattr(source, 'name', '')}, body {body!r}",
                    expected="one gap_s for a body",
                    got=f"{before[0]:g} s in {before[1]!r}, {part.gap_s:g} s in {part.name!r}",
                    remedy="Give both the same, or give one of them a body name of its own.",
                )
    if not told:
        return settled_gap([cache.subset(kept) for cache, kept in zip(caches, keep, strict=True)], gap_s)
    rest = sorted({body for cache in caches for body in cache.embodiments} - told.keys())
    if gap_s == "auto":
        left = [_of_bodies(cache, kept, rest) for cache, kept in zip(caches, keep, strict=True)]
        given: Gap = settled_gap(left, gap_s)
    else:
        given = gap_s
    own = {body: own_s for body, (own_s, _) in told.items()}
    return {**(given if isinstance(given, Mapping) else dict.fromkeys(rest, given)), **own}


def _of_bodies(cache: FrameCache, kept: Int64, bodies: Sequence[str]) -> FrameCache:
    return cache.subset(np.array([i for i in kept if cache.clips[i].embodiment in bodies], np.int64))


def mixture_lines(mixture: OpenMixture, gap_s: float) -> list[str]:
    """A mixture in words, for a terminal: shares, episodes, bodies and licences; no picture is decoded.

    Args:
        mixture: with all its sources.
        gap_s: H [s] where an entry gives none; shares per pair depend on it.
    """
    refuse_same_content(mixture, [source_hash(part.source) for part in mixture.parts])
    listed = [part.clips() for part in mixture.parts]
    pairs = [_num_pairs(clips, part.gap_s or gap_s) for part, clips in zip(mixture.parts, listed, strict=True)]
    shares = mixture.mixture.weights().shares(pairs)
    count = f"{len(listed)} source{'s' * (len(listed) != 1)}"
    out = [f"{mixture.name}: {count}, {sum(map(len, listed))} episodes, {sum(pairs)} pairs"]
    for part, clips, each, share in zip(mixture.parts, listed, pairs, shares, strict=True):
        bodies = ", ".join(sorted({clip.embodiment for clip in clips}))
        gap = f", gap {part.gap_s:g} s" if part.gap_s is not None else ""
        usable = sum(clip.num_frames > 0 for clip in clips)
        useless = f", {len(clips) - usable} of no use" if usable < len(clips) else ""
        out += [
            f"  {share:6.1%}  {part.name}: {len(clips)} episodes{useless}, {each} pairs, {bodies}{gap}",
            f"          licence: {licence_text(licences_of(clips))}",
        ]
    shared = _shared_bodies(mixture, listed)
    out += [f"  body {body!r} is one body in {', '.join(names)}" for body, names in shared.items()]
    return [*out, "  Cuts, motion and damage: `cyclemimic data check` of each source alone."]


def _num_pairs(clips: Sequence[ClipInfo], gap_s: float) -> int:
    return sum(max(0, clip.num_frames - gap_in_frames(gap_s, clip.fps)) for clip in clips)


def _shared_bodies(mixture: OpenMixture, listed: Sequence[Sequence[ClipInfo]]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for part, clips in zip(mixture.parts, listed, strict=True):
        for body in sorted({clip.embodiment for clip in clips}):
            names.setdefault(body, []).append(part.name)
    return {body: where for body, where in names.items() if len(where) > 1}
