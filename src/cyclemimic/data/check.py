"""What a source holds and what is wrong with it, clip by clip decoded, one clip in memory at a time. Engineering."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from cyclemimic.data.cuts import find_cuts
from cyclemimic.data.gap import GapProposal, frames_to_move, propose_gap, sampled
from cyclemimic.data.pairs import gap_in_frames
from cyclemimic.data.parts import read_shrunk
from cyclemimic.data.still import LEAST_MOVING, moving_share
from cyclemimic.embodiment.resize import resize_square
from cyclemimic.errors import InputError
from cyclemimic.types import ClipInfo, Float64, Int64, Source

_SIZE_PX = 64  # what cuts and motion are looked for at


@runtime_checkable
class Remarking(Protocol):
    """A source that can say what reading a clip changed."""

    def remarks_of(self, clip: ClipInfo) -> tuple[str, ...]:
        """In words; empty before the clip was read."""
        ...


@dataclass(frozen=True, kw_only=True)
class ClipCheck:
    """What was found in one clip; `fault` says why it is of no use, and then the rest is empty."""

    info: ClipInfo
    fault: str | None = None
    remarks: tuple[str, ...] = ()
    cuts: Int64  # frames with which a new shot begins
    pairs: int = 0  # that lie in one shot
    still_pairs: int = 0  # of these
    to_move: Float64 | None = None  # `frames_to_move`, of the clips that are looked at for a gap


@dataclass(frozen=True, kw_only=True)
class SourceReport:
    """What `check_clips` found in a source."""

    name: str
    gap_s: float
    clips: tuple[ClipCheck, ...]

    @property
    def usable(self) -> tuple[ClipCheck, ...]:
        """Clips that could be read."""
        return tuple(clip for clip in self.clips if clip.fault is None)

    def gap_of(self, body: str) -> GapProposal:
        """The gap that suits a body."""
        looked = [c for c in self.usable if c.info.embodiment == body and c.to_move is not None]
        return propose_gap(body, [c.to_move for c in looked if c.to_move is not None], [c.info.fps for c in looked])

    def lines(self) -> list[str]:
        """The report in words, for a terminal."""
        usable, bad = self.usable, [clip for clip in self.clips if clip.fault is not None]
        said = sum(bool(clip.info.instruction) for clip in usable)
        out = [f"{self.name}: {len(self.clips)} clips, {said} with a sentence, {len(bad)} of no use"]
        for body in sorted({clip.info.embodiment for clip in usable}):
            mine = [clip for clip in usable if clip.info.embodiment == body]
            lengths, rates = [c.info.num_frames for c in mine], sorted({round(c.info.fps, 2) for c in mine})
            spread = f"{min(lengths)} to {max(lengths)} a clip"
            out.append(f"  {body}: {len(mine)} clips, {sum(lengths)} frames ({spread}), {rates} frames/s")
            pairs, still = sum(c.pairs for c in mine), sum(c.still_pairs for c in mine)
            share = f", nothing moves in {still / pairs:.0%}" if pairs else ""
            out.append(f"    {pairs} pairs {self.gap_s} s apart{share}; {self.gap_of(body).text()}")
        for clip in usable:
            out += [f"  changed: {clip.info.name}: {remark}" for remark in clip.remarks]
            if len(clip.cuts):
                places = ", ".join(f"{t / clip.info.fps:.1f}" for t in clip.cuts[:8])
                more = f" and {len(clip.cuts) - 8} more" if len(clip.cuts) > 8 else ""
                out.append(f"  cuts: {clip.info.name}: at {places} s{more}")
        return out + [f"  of no use: {clip.fault}" for clip in bad]


def check_clips(
    source: Source, *, gap_s: float = 0.6, progress: Callable[[int, int], None] | None = None
) -> SourceReport:
    """Decode every clip and look for what a user should know before training on it.

    Args:
        source: where the clips come from; one that is `Remarking` is also asked what it changed.
        gap_s: H, over which motion is looked for [s].
        progress: is given the number of clips done and of all.
    """
    clips = source.clips()
    found: list[ClipCheck] = []
    looked = {i for mine in sampled(clips).values() for i in mine}
    for number, clip in enumerate(clips, start=1):
        found.append(_check(source, clip, gap_s, for_gap=number - 1 in looked))
        if progress is not None:
            progress(number, len(clips))
    return SourceReport(name=source.name, gap_s=gap_s, clips=tuple(found))


def _check(source: Source, clip: ClipInfo, gap_s: float, *, for_gap: bool) -> ClipCheck:
    try:
        episode = read_shrunk(source, clip, lambda frames: resize_square(frames, _SIZE_PX))
    except InputError as error:
        return ClipCheck(info=clip, fault=str(error), cuts=np.empty(0, np.int64))
    frames = episode.frames
    cuts, gap = find_cuts(frames), gap_in_frames(gap_s, episode.info.fps)
    shot = np.searchsorted(cuts, np.arange(len(frames)), side="right")
    now = np.flatnonzero(shot[:-gap] == shot[gap:])
    still = int((moving_share(frames[now], frames[now + gap]) < LEAST_MOVING).sum()) if len(now) else 0
    remarks = source.remarks_of(clip) if isinstance(source, Remarking) else ()
    return ClipCheck(
        info=episode.info,
        remarks=remarks,
        cuts=cuts,
        pairs=len(now),
        still_pairs=still,
        to_move=frames_to_move(frames) if for_gap else None,
    )
