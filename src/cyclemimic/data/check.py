"""What a source holds and what is wrong with it, clip by clip decoded, one clip in memory at a time. Engineering."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from cyclemimic.data.axes import ActionRows, AxisFound, axes_found, rows_of
from cyclemimic.data.camera import ClipCamera, watch_camera
from cyclemimic.data.cuts import find_cuts
from cyclemimic.data.duplicates import ClipLook, Duplicate, find_duplicates, look_at
from cyclemimic.data.gap import GapProposal, frames_to_move, propose_gap, sampled
from cyclemimic.data.pairs import gap_in_frames
from cyclemimic.data.still import LEAST_MOVING, moving_share
from cyclemimic.embodiment.resize import resize_square
from cyclemimic.errors import InputError
from cyclemimic.store.lineage import licence_text, licences_of
from cyclemimic.types import ClipInfo, Float64, Int64, Source, UInt8

GAP_S = 0.6  # over which motion is looked for unless told otherwise
STILL_CLIP = 0.95  # share of a clip's pairs; from here on the clip teaches nothing
VARIABLE_RATE = "variable frame rate"  # how the remark of an uneven clip begins
LINES = 8  # of one kind on a terminal; the page has all
_SAME = 2  # of 255
_SIZE_PX = 64  # what cuts, motion and duplicates are looked for at


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
    repeated: float = 0.0  # share of frames that repeat the one before, although the scene moves around them
    to_move: Float64 | None = None  # `frames_to_move`, of the clips that are looked at for a gap
    cameras: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # height and width [px] by name, main first
    camera: ClipCamera | None = None  # how the main one moves
    look: ClipLook | None = None
    actions: ActionRows | None = None

    @property
    def is_still(self) -> bool:
        """Whether hardly any of its pairs shows motion."""
        return self.pairs > 0 and self.still_pairs >= STILL_CLIP * self.pairs

    @property
    def camera_moves(self) -> bool:
        """Whether the camera itself moves."""
        return self.camera is not None and self.camera.moves


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

    @property
    def faulty(self) -> tuple[ClipCheck, ...]:
        """Clips that could not."""
        return tuple(clip for clip in self.clips if clip.fault is not None)

    @property
    def bodies(self) -> tuple[str, ...]:
        """Embodiments of the clips that could be read, sorted."""
        return tuple(sorted({clip.info.embodiment for clip in self.usable}))

    def of_body(self, body: str) -> tuple[ClipCheck, ...]:
        """The usable clips of a body."""
        return tuple(clip for clip in self.usable if clip.info.embodiment == body)

    def gap_of(self, body: str) -> GapProposal:
        """The gap that suits a body."""
        looked = [c for c in self.of_body(body) if c.to_move is not None]
        return propose_gap(body, [c.to_move for c in looked if c.to_move is not None], [c.info.fps for c in looked])

    @cached_property
    def duplicates(self) -> tuple[tuple[ClipCheck, ClipCheck, Duplicate], ...]:
        """Clips that show what an earlier one shows: the later clip, the earlier one, and how far they lie apart."""
        looked = [(clip, clip.look) for clip in self.usable if clip.look is not None]
        found = find_duplicates([look for _, look in looked])
        return tuple((looked[d.clip][0], looked[d.of][0], d) for d in found)

    def axes_of(self, body: str) -> dict[str, tuple[AxisFound, ...]]:
        """The axes of a body's actions, by the name of their action space; several where its clips differ."""
        kinds: dict[tuple[str, int], list[ActionRows]] = {}
        for clip in self.of_body(body):
            if clip.actions is not None:
                space, width = clip.actions.space, clip.actions.rows.shape[1]
                kinds.setdefault((space.name if space else "unnamed", width), []).append(clip.actions)
        return {
            name if sum(n == name for n, _ in kinds) == 1 else f"{name}, {width} axes": axes_found(rows)
            for (name, width), rows in kinds.items()
        }

    def sentences(self) -> Counter[str]:
        """How often each sentence is said."""
        return Counter(clip.info.instruction for clip in self.usable if clip.info.instruction)

    def lines(self) -> list[str]:
        """What is there, in words, for a terminal."""
        usable, bad = self.usable, self.faulty
        said = sum(bool(clip.info.instruction) for clip in usable)
        out = [f"{self.name}: {len(self.clips)} clips, {said} with a sentence, {len(bad)} of no use"]
        out.append(f"  licence: {licence_text(licences_of([clip.info for clip in self.clips]))}")
        for body in self.bodies[:LINES]:
            out += self._lines_of(body)
        if len(self.bodies) > LINES:
            out.append(f"  ... and {len(self.bodies) - LINES} more bodies")
        changed = [f"  changed: {clip.info.name}: {remark}" for clip in usable for remark in clip.remarks]
        cuts = [f"  cuts: {c.info.name}: at {_cut_places(c)}" for c in usable if len(c.cuts)]
        moving = [f"  camera moves: {c.info.name}: {c.camera.text()}" for c in usable if c.camera and c.camera.moves]
        twins = [f"  shows the same: {d[0].info.name} as {d[1].info.name}{_exactly(d[2])}" for d in self.duplicates]
        faults = [f"  of no use: {clip.fault}" for clip in bad]
        for lines in (changed, cuts, moving, twins, faults):
            out += [*lines[:LINES], f"    ... and {len(lines) - LINES} more"] if len(lines) > LINES else lines
        return out

    def _lines_of(self, body: str) -> list[str]:
        mine = self.of_body(body)
        lengths, rates = [c.info.num_frames for c in mine], sorted({round(c.info.fps, 2) for c in mine})
        spread = f"{min(lengths)} to {max(lengths)} a clip"
        pairs, still = sum(c.pairs for c in mine), sum(c.still_pairs for c in mine)
        share = f", nothing moves in {still / pairs:.0%}" if pairs else ""
        out = [
            f"  {body}: {len(mine)} clips, {sum(lengths)} frames ({spread}), {rates} frames/s",
            f"    {pairs} pairs {self.gap_s} s apart{share}; {self.gap_of(body).text()}",
            f"    {camera_text(mine)}",
        ]
        for name, axes in self.axes_of(body).items():
            out.append(f"    actions {name}: " + ", ".join(f"{axis.name} [{axis.unit}]" for axis in axes))
        return out


def camera_text(clips: Sequence[ClipCheck]) -> str:
    """Cameras and their sizes, those of most clips first, and in how many the main one moves."""
    sizes = Counter(f"{name} {wide} x {high} px" for c in clips for name, (high, wide) in c.cameras.items())
    shown = [f"{text} ({count})" if len(sizes) > 1 else text for text, count in sizes.most_common(4)]
    more = f" and {len(sizes) - 4} more sizes" if len(sizes) > 4 else ""
    moving = sum(c.camera_moves for c in clips)
    return f"cameras: {', '.join(shown)}{more}; it moves in {moving} of {len(clips)} clips"


def check_clips(
    source: Source,
    *,
    gap_s: float = GAP_S,
    known: Mapping[str, ClipCheck] | None = None,
    found: Callable[[ClipCheck], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SourceReport:
    """Decode every clip and look for what a user should know before training on it.

    Args:
        source: where the clips come from; one that is `Remarking` is also asked what it changed.
        gap_s: H, over which motion is looked for [s].
        known: clips that were looked at before, by name; they are not decoded again.
        found: is given what was found in each clip that is decoded.
        progress: is given the number of clips done and of all.
    """
    if not 0 < gap_s < float("inf"):
        raise InputError("gap_s", expected="seconds above 0", got=str(gap_s), remedy="Try 0.6.")
    clips = source.clips()
    checks: list[ClipCheck] = []
    looked = {i for mine in sampled(clips).values() for i in mine}
    for number, clip in enumerate(clips, start=1):
        check = (known or {}).get(clip.name)
        if check is None:
            check = _check(source, clip, gap_s, for_gap=number - 1 in looked)
            if found is not None:
                found(check)
        checks.append(check)
        if progress is not None:
            progress(number, len(clips))
    return SourceReport(name=source.name, gap_s=gap_s, clips=tuple(checks))


def _check(source: Source, clip: ClipInfo, gap_s: float, *, for_gap: bool) -> ClipCheck:
    try:
        episode = source.read(clip)  # a long video comes in parts, so that whole pictures fit
    except InputError as error:
        return ClipCheck(info=clip, fault=str(error), cuts=np.empty(0, np.int64))
    frames = resize_square(episode.frames, _SIZE_PX)
    cuts, gap = find_cuts(frames), gap_in_frames(gap_s, episode.info.fps)
    shot = np.searchsorted(cuts, np.arange(len(frames)), side="right")
    now = np.flatnonzero(shot[:-gap] == shot[gap:])
    still = int((moving_share(frames[now], frames[now + gap]) < LEAST_MOVING).sum()) if len(now) else 0
    remarks = source.remarks_of(clip) if isinstance(source, Remarking) else ()
    pictures = {episode.camera: episode.frames, **episode.extra_frames}
    return ClipCheck(
        info=episode.info,
        remarks=remarks,
        cuts=cuts,
        pairs=len(now),
        still_pairs=still,
        repeated=_repeated(frames),
        to_move=frames_to_move(frames) if for_gap else None,
        cameras={name: (taken.shape[1], taken.shape[2]) for name, taken in pictures.items()},
        camera=watch_camera(episode.frames, gap, shot) if len(now) else None,
        look=look_at(frames, episode.info.fps),
        actions=rows_of(episode.actions, episode.action_space),
    )


def _repeated(frames: UInt8) -> float:
    """Share of the frames [T, S, S, 3] that repeat the one before while the scene moves within two frames around."""
    if len(frames) < 6:
        return 0.0
    # Exactly, but for what an encoder adds: slow motion changes a few pixels by more.
    same = (np.maximum(frames[1:], frames[:-1]) - np.minimum(frames[1:], frames[:-1])).max((1, 2, 3)) <= _SAME
    around = moving_share(frames[:-5], frames[5:]) >= LEAST_MOVING  # t to t + 5
    inside = same[2:-2][: len(around)]
    return float((inside & around).sum() / max(1, around.sum()))


def _cut_places(clip: ClipCheck) -> str:
    places = ", ".join(f"{t / clip.info.fps:.1f}" for t in clip.cuts[:8])
    return f"{places} s and {len(clip.cuts) - 8} more" if len(clip.cuts) > 8 else f"{places} s"


def _exactly(found: Duplicate) -> str:
    return ", exactly" if found.exact else f", but for {found.difference:.0%} of what moves"
