"""Precision and recall of scene cuts, on clips spliced from anybody's video; the places of the cuts are known.

    python benchmarks/cuts.py --source folder:DIR [--splices 600] [--seed 0] [--tolerance 0] [--group REGEX] [--out F]

A splice is two to four stretches of clips, laid end to end; neighbours come from different recordings. What is found
anywhere else counts as false, also where the video itself holds a cut. Judged are the limits of data/cuts.py as they
are, and limits that were chosen on other video: recordings are dealt into two halves, the best pair of limits on the
splices of one half is judged on the splices of the other, and both ways round are added up. Clips of one group
(`--group`: what of a name says so; unless told, a name without its part's number) lie in the same half.

`within` counts the splices' cuts by what meets there: two bodies, or two recordings of one. `unspliced` lists what is
found in the clips as they are: true cuts and false ones, a person must say which.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cyclemimic.data.cuts import LEAST, METHOD, OVER_NEIGHBOURS, Changes, Looks, looks_of
from cyclemimic.embodiment.resize import resize_square
from cyclemimic.errors import InputError
from cyclemimic.evaluate.pages import this_machine
from cyclemimic.evaluate.statistics import wilson
from cyclemimic.recipes.footage import open_source
from cyclemimic.store.atomic import write_json
from cyclemimic.train.progress import Progress
from cyclemimic.types import Source

SIZE_PX = 64
PIECES, PIECE_FRAMES = (2, 4), (6, 40)  # of a splice, both ends included
LEASTS = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.14)
OVERS = (1.0, 2.0, 3.0, 4.0, 6.0)
RECORDING = r"(.*?)(?:[-_ ]*part[-_ ]?\d+)?(?:\.\w+)?$"


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What is compared of a clip's frames, and where it comes from."""

    name: str
    body: str
    recording: str
    group: str
    looks: Looks

    @property
    def num_frames(self) -> int:
        """How long it is."""
        return len(self.looks.blocks)


@dataclass(frozen=True, kw_only=True)
class Splice:
    """Stretches of clips laid end to end, where they meet, and whether one body meets itself there."""

    changes: Changes
    cuts: tuple[int, ...]
    same_body: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Cuts that there are, that were found, and of the found those that are none."""

    true: int
    found: int
    false: int

    def __add__(self, other: Found) -> Found:
        """Of two lots of splices."""
        return Found(true=self.true + other.true, found=self.found + other.found, false=self.false + other.false)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.found / max(1, self.true + self.found + self.false)

    def facts(self) -> dict[str, Any]:
        """For a file: both shares with their 95 % Wilson intervals, which take cuts for independent."""
        reported = self.found + self.false
        return {
            "cuts": self.true,
            "reported": reported,
            "precision": round(self.found / max(1, reported), 4),
            "precision_95": [round(v, 4) for v in wilson(self.found, reported)],
            "recall": round(self.found / max(1, self.true), 4),
            "recall_95": [round(v, 4) for v in wilson(self.found, self.true)],
        }


def read_clips(source: Source, group: str | None) -> list[Clip]:
    """Every clip of a source that can be read and is long enough for a stretch."""
    clips, infos = [], source.clips()
    progress = Progress(name="read", total=len(infos))
    for number, info in enumerate(infos, start=1):
        try:
            frames = source.read(info).frames
        except InputError as error:
            print(f"left out: {error}")
            continue
        if len(frames) >= PIECE_FRAMES[0]:
            recording = _part(RECORDING, info.name)
            where = recording if group is None else _part(group, info.name)
            looks = looks_of(resize_square(frames, SIZE_PX))
            clips.append(Clip(name=info.name, body=info.embodiment, recording=recording, group=where, looks=looks))
        progress.update(number)
    return clips


def _part(pattern: str, name: str) -> str:
    found = re.match(pattern, name)
    if found is None:
        remedy = "Give a pattern of `re.match` that fits every name; its first group counts."
        raise InputError("--group", expected="a pattern that fits every clip", got=name, remedy=remedy)
    return found.group(1) if found.re.groups else found.group()


def halves(clips: Sequence[Clip], seed: int) -> tuple[list[Clip], list[Clip]]:
    """Groups dealt out, the largest first, each to the half that has less of its body; seeds break ties."""
    rng = np.random.default_rng(seed)
    sizes: dict[str, int] = {}
    for clip in clips:
        sizes[clip.group] = sizes.get(clip.group, 0) + 1
    names = sorted(sizes)
    rng.shuffle(names)
    names.sort(key=lambda name: -sizes[name])
    sides: tuple[list[Clip], list[Clip]] = ([], [])
    for name in names:
        mine = [clip for clip in clips if clip.group == name]
        has = [sum(c.body in {m.body for m in mine} for c in side) + len(side) / 1000 for side in sides]
        sides[int(has[1] < has[0])].extend(mine)
    return sides


def splices_of(clips: Sequence[Clip], count: int, seed: int) -> list[Splice]:
    """Splices of clips, drawn from a seed; each stretch from a random place, each recording as likely as another."""
    recordings: dict[str, list[Clip]] = {}
    for clip in clips:
        recordings.setdefault(clip.recording, []).append(clip)
    if len(recordings) < 2:
        remedy = "Give video of more recordings, or another --group."
        raise InputError("--source", expected="two recordings in each half", got=str(len(recordings)), remedy=remedy)
    rng, names, out = np.random.default_rng(seed), sorted(recordings), []
    for _ in range(count):
        pieces: list[tuple[Clip, slice]] = []
        for _ in range(int(rng.integers(PIECES[0], PIECES[1] + 1))):
            others = [name for name in names if not pieces or name != pieces[-1][0].recording]
            mine = recordings[others[int(rng.integers(len(others)))]]
            clip = mine[int(rng.integers(len(mine)))]
            length = min(clip.num_frames, int(rng.integers(PIECE_FRAMES[0], PIECE_FRAMES[1] + 1)))
            start = int(rng.integers(clip.num_frames - length + 1))
            pieces.append((clip, slice(start, start + length)))
        ends = np.cumsum([piece.stop - piece.start for _, piece in pieces])[:-1]
        bodies = [clip.body for clip, _ in pieces]
        out.append(
            Splice(
                changes=Changes(Looks.joined([clip.looks[piece] for clip, piece in pieces])),
                cuts=tuple(int(end) for end in ends),
                same_body=tuple(a == b for a, b in pairwise(bodies)),
            )
        )
    return out


def matched(cuts: Sequence[int], found: Iterable[int], tolerance: int) -> tuple[list[bool], int]:
    """Which cuts were found, within a tolerance [frames] and each by one alone, and how much else was reported."""
    left = sorted(found)
    hits = []
    for cut in sorted(cuts):
        near = [at for at in left if abs(at - cut) <= tolerance]
        hits.append(bool(near))
        if near:
            left.remove(min(near, key=lambda at: abs(at - cut)))
    return hits, len(left)


def judged(splices: Sequence[Splice], tolerance: int, least: float = LEAST, over: float = OVER_NEIGHBOURS) -> Found:
    """What a pair of limits finds in splices."""
    total = Found(true=0, found=0, false=0)
    for splice in splices:
        hits, false = matched(splice.cuts, splice.changes.cuts(least, over).tolist(), tolerance)
        total += Found(true=len(hits), found=sum(hits), false=false)
    return total


def chosen(splices: Sequence[Splice], tolerance: int) -> tuple[float, float]:
    """The limits of the grid that find most and report least else, by F1; the first of equals."""
    return max(((a, b) for a in LEASTS for b in OVERS), key=lambda pair: judged(splices, tolerance, *pair).f1)


def recall_within(splices: Sequence[Splice], tolerance: int) -> dict[str, Any]:
    """Recall by what meets at a cut."""
    out = {}
    for name, same in (("two_bodies", False), ("one_body", True)):
        hits = [
            hit
            for splice in splices
            for hit, kind in zip(
                matched(splice.cuts, splice.changes.cuts().tolist(), tolerance)[0], splice.same_body, strict=True
            )
            if kind == same
        ]
        out[name] = {"cuts": len(hits), "recall": round(sum(hits) / max(1, len(hits)), 4)}
    return out


def measure(source: Source, *, splices: int, seed: int, tolerance: int, group: str | None) -> dict[str, Any]:
    """Everything that the file holds but the machine."""
    clips = read_clips(source, group)
    sides = halves(clips, seed)
    drawn = [splices_of(side, splices // 2, seed * 2 + i) for i, side in enumerate(sides)]
    everything = [*drawn[0], *drawn[1]]
    limits, held_out = [], Found(true=0, found=0, false=0)
    for mine, others in ((0, 1), (1, 0)):
        pair = chosen(drawn[others], tolerance)
        limits.append({"least": pair[0], "over_neighbours": pair[1]})
        held_out += judged(drawn[mine], tolerance, *pair)
    unspliced = {clip.name: Changes(clip.looks).cuts().tolist() for clip in clips}
    return {
        "clips": len(clips),
        "recordings": len({clip.recording for clip in clips}),
        "groups": len({clip.group for clip in clips}),
        "frames": sum(clip.num_frames for clip in clips),
        "splices": len(everything),
        "seed": seed,
        "tolerance_frames": tolerance,
        "method": METHOD,
        "as_it_is": judged(everything, tolerance).facts(),
        "within": recall_within(everything, tolerance),
        "limits_chosen_on_other_video": {**held_out.facts(), "limits": limits},
        "unspliced": {name: cuts for name, cuts in unspliced.items() if cuts},
    }


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="what `--source` names everywhere, such as folder:DIR")
    parser.add_argument("--splices", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tolerance", type=int, default=0, help="frames that a cut may lie beside its place")
    parser.add_argument("--group", help="a pattern whose first group says which clips belong together")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    told = parser.parse_args()
    try:
        source = open_source(told.source)
        words = {"splices": told.splices, "seed": told.seed, "tolerance": told.tolerance, "group": told.group}
        found = measure(source, **words)
    except InputError as error:
        raise SystemExit(str(error)) from None
    for name in ("as_it_is", "limits_chosen_on_other_video"):
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in found[name].items()))
    print(f"within: {found['within']}")
    print(f"unspliced: {sum(map(len, found['unspliced'].values()))} cuts in {len(found['unspliced'])} clips")
    if told.out is not None:
        write_json(told.out, {**found, "machine": asdict(this_machine())})
        print(f"numbers: {told.out}")


if __name__ == "__main__":
    main()
