"""What `data check` found, as one page with pictures. Engineering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cyclemimic.data.advice import Advice
from cyclemimic.data.axes import AxisFound
from cyclemimic.data.check import ClipCheck, SourceReport
from cyclemimic.data.gap import LOOK, MOTION
from cyclemimic.embodiment.resize import resize_square
from cyclemimic.errors import InputError
from cyclemimic.evaluate.report import Picture, Section, Table, write_report
from cyclemimic.evaluate.sheets import drawn, picture_grid, signed_change
from cyclemimic.types import Source, UInt8

SIDE_PX = 96  # of a picture on the page
CLIPS, MOMENTS = 3, 7  # of a body
EXAMPLES = 6  # of what is wrong
ROWS = 40  # of a table
WIDE = 5  # histograms beside one another


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Some frames of a clip that stand in a row; `change`: a picture of last - first follows."""

    clip: str
    frames: tuple[int, ...]
    caption: str
    change: bool = False


def write_data_page(
    path: Path | str,
    source: Source,
    report: SourceReport,
    advice: Sequence[Advice],
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the page; the clips that it shows are decoded once more.

    Args:
        path: where.
        source: what was checked.
        report: what was found.
        advice: what follows from it.
        progress: is given the number of clips drawn and of all that are to be.
    """
    strips = {"bodies": _of_bodies(report), "camera": _of_camera(report), "cuts": _of_cuts(report)}
    strips |= {"twins": _of_twins(report), "still": _of_still(report)}
    pictures = _decoded(source, [s for each in strips.values() for s in each], progress)
    sheets = {name: _sheet(each, pictures) for name, each in strips.items() if name != "bodies"}
    by_body = {
        body: _sheet([s for s in strips["bodies"] if s.caption.startswith(f"{body}: ")], pictures)
        for body in report.bodies
    }
    sections = [
        _advice_section(advice),
        _facts_section(report),
        Section(
            title="Bodies, seen",
            text="The middle square of each picture, as training sees it.",
            pictures=[Picture(png=png, caption=body) for body, png in by_body.items() if png],
        ),
        _spread_section(report),
        *_action_sections(report),
        _sentence_section(report),
        _camera_section(report, sheets["camera"]),
        *_found_sections(report, sheets),
        *_rest_sections(report),
    ]
    return write_report(path, f"What {_short(report.name)} holds", sections)


def _short(source: str) -> str:
    """A source's name without the folders of this machine: the page may be shown to others."""
    kind, colon, path = source.rpartition(":") if "/" in source else ("", "", source)
    return f"{kind}{colon}{path.rstrip('/').rpartition('/')[2]}"


def _advice_section(advice: Sequence[Advice]) -> Section:
    rows = [[one.weight, one.about, f"{one.what}. {one.cause} {one.remedy}"] for one in advice]
    return Section(
        title="Before you train",
        text="" if rows else "Nothing was found that should hurt training.",
        tables=[
            Table(
                head=["", "about", "what was found, why it matters, what to turn"],
                rows=rows,
                status={i: one.weight for i, one in enumerate(advice)},
                prose=True,
            )
        ]
        if rows
        else [],
    )


def _facts_section(report: SourceReport) -> Section:
    head = [
        "body",
        "clips",
        "frames",
        "minutes",
        "frames/s",
        "sizes [px]",
        "pairs",
        "still",
        "proposed gap",
        "sentences",
    ]
    rows = []
    for body in report.bodies:
        mine = report.of_body(body)
        pairs, gap = sum(c.pairs for c in mine), report.gap_of(body)
        sizes = sorted({size for c in mine for size in c.cameras.values()})
        rows.append(
            [
                body,
                str(len(mine)),
                str(sum(c.info.num_frames for c in mine)),
                f"{sum(c.info.num_frames / c.info.fps for c in mine) / 60:.1f}",
                _range([c.info.fps for c in mine]),
                ", ".join(f"{w} x {h}" for h, w in sizes[:3]) + (f" +{len(sizes) - 3}" if len(sizes) > 3 else ""),
                str(pairs),
                f"{sum(c.still_pairs for c in mine) / pairs:.0%}" if pairs else "-",
                "-" if gap.gap_s is None else f"{gap.gap_s:.2f} s ({gap.gap_frames:.1f} frames)",
                str(sum(bool(c.info.instruction) for c in mine)),
            ]
        )
    cameras = sorted({name for c in report.usable for name in c.cameras})
    return Section(
        title="What is there",
        text=f"Pairs are {report.gap_s:g} s apart and lie in one shot; still is a pair in which nothing moves. "
        f"The proposed gap is the time in which what moves goes as far on every body. Cameras that were read: "
        f"{', '.join(cameras)}.",
        tables=[Table(head=head, rows=rows)],
    )


def _spread_section(report: SourceReport) -> Section:
    bodies = report.bodies
    if not bodies:
        return Section(title="How long, how still, how fast")
    figure = Figure(figsize=(9, 0.4 + 1.5 * len(bodies)), dpi=100, layout="constrained")
    panels = figure.subplots(len(bodies), 3, squeeze=False)
    lengths = [np.array([c.info.num_frames / c.info.fps for c in report.of_body(body)]) for body in bodies]
    looked = [[c for c in report.of_body(body) if c.to_move is not None] for body in bodies]
    ways = [
        np.concatenate([c.to_move / c.info.fps for c in clips if c.to_move is not None] or [np.empty(0)])
        for clips in looked
    ]
    fast = [way[np.isfinite(way)] for way in ways]
    # One scale for all bodies, so that they can be compared down a column; the slowest moments would flatten the rest.
    longest = max(float(length.max()) for length in lengths)
    slowest = float(np.quantile(np.concatenate(fast), 0.99)) if any(map(len, fast)) else 1.0
    for row, body, length, way in zip(panels, bodies, lengths, fast, strict=True):
        mine = report.of_body(body)
        row[0].hist(length, 24, (0, longest), color="C0")
        row[1].hist([c.still_pairs / c.pairs for c in mine if c.pairs], 24, (0, 1), color="C1")
        row[2].hist(np.minimum(way, slowest), 24, (0, slowest), color="C2")
        row[0].set_ylabel(body, fontsize=9)
    titles = ("length of clips [s]", "share of still pairs", f"time to move {LOOK:.0%} of the side [s]")
    for axis, title in zip(panels[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    for axis in panels.ravel():
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    return Section(
        title="How long, how still, how fast",
        pictures=[
            Picture(
                png=drawn(figure),
                caption="How many clips are how long and how still; how many moments are how fast (the slowest "
                "hundredth is in the last bar). In a pair of the proposed gap what moves goes "
                f"{MOTION:.0%} of the side.",
            )
        ],
    )


def _action_sections(report: SourceReport) -> list[Section]:
    out = []
    for body in report.bodies:
        for name, axes in report.axes_of(body).items():
            title = body if name == body else f"{body}: {name}"  # many bodies have one space of their own name
            head = ["axis", "unit", "kind", "least", "1 %", "middle", "99 %", "most", "remarks"]
            rows = [
                [
                    *(a.name, a.unit, a.kind),
                    *(f"{v:.4g}" for v in (a.least, a.inner[0], a.middle, a.inner[1], a.most)),
                    "; ".join(a.remarks),
                ]
                for a in axes
            ]
            odd = frozenset(i for i, a in enumerate(axes) if a.remarks)
            out.append(
                Section(
                    title=f"Actions of {title}",
                    text="Normalisation goes by the 1st and the 99th percentile, between which the histograms lie.",
                    tables=[Table(head=head, rows=rows, strong=odd, prose=True)],
                    pictures=[Picture(png=axis_histograms(axes), caption=title)],
                )
            )
    return out


def axis_histograms(axes: Sequence[AxisFound]) -> bytes:
    """One small panel for each axis of an action space, as PNG."""
    high = -(-len(axes) // WIDE)
    figure = Figure(figsize=(9, 0.3 + 1.3 * high), dpi=100, layout="constrained")
    panels = figure.subplots(high, WIDE, squeeze=False).ravel()
    for panel, axis in zip(panels, axes, strict=False):
        panel.bar(axis.edges[:-1], axis.counts, np.diff(axis.edges), align="edge", color="C3" if axis.remarks else "C0")
        panel.set_title(f"{axis.name} [{axis.unit}]", fontsize=8)
        panel.set_yticks([])
        panel.tick_params(labelsize=7)
        panel.locator_params("x", nbins=4)
        panel.spines[["top", "right", "left"]].set_visible(False)
    for panel in panels[len(axes) :]:
        panel.set_visible(False)
    return drawn(figure)


def _sentence_section(report: SourceReport) -> Section:
    said = report.sentences()
    without = len(report.usable) - sum(said.values())
    rows = [[str(count), sentence] for sentence, count in said.most_common(20)]
    more = f"; the {len(rows)} most frequent are shown" if len(said) > len(rows) else ""
    return Section(
        title="Sentences",
        text=f"{len(said)} different sentences{more}; {without} of {len(report.usable)} clips have none, no error.",
        tables=[Table(head=["clips", "sentence"], rows=rows, prose=True)] if rows else [],
    )


def _camera_section(report: SourceReport, sheet: bytes) -> Section:
    moving = sorted((c for c in report.usable if c.camera_moves), key=_camera_weight)
    rows = [[c.info.name, c.camera.text()] for c in moving[:ROWS] if c.camera is not None]
    return Section(
        title="The camera's own motion",
        text=f"It moves in {len(moving)} of {len(report.usable)} clips. Corners all over the picture are followed; "
        "where most rest, the camera rests, whatever an arm does. Where too few can be followed, as on plain ground, "
        "it moves if nearly nothing stays in place. The last picture is later - now, twice, around grey: "
        "edges of things at rest show there only if the camera moved.",
        tables=[Table(head=["clip", "over one gap"], rows=rows)] if rows else [],
        pictures=[Picture(png=sheet, caption="Where it moves most: now, later, change.")] if sheet else [],
    )


def _found_sections(report: SourceReport, sheets: dict[str, bytes]) -> list[Section]:
    twins = [
        [twin.info.name, of.info.name, "exactly" if found.exact else f"but for {found.difference:.0%} of what moves"]
        for twin, of, found in report.duplicates
    ]
    cut = [c for c in report.usable if len(c.cuts)]
    still = [c for c in report.usable if c.is_still]
    texts = {
        "twins": (
            "Duplicates",
            f"{len(twins)} clips show what an earlier one shows. Compared is what changes in a clip, so that another "
            "episode at the same table is none. Clips that were cut shorter are not found.",
            "Each pair of rows: the earlier clip, and the one that shows the same.",
            Table(head=["clip", "shows what this shows", ""], rows=twins[:ROWS]),
        ),
        "cuts": (
            "Scene cuts",
            f"{sum(len(c.cuts) for c in cut)} cuts in {len(cut)} clips. No pair lies across one.",
            "Two frames before and two behind a cut.",
            Table(
                head=["clip", "cuts", "first at [s]"],
                rows=[[c.info.name, str(len(c.cuts)), f"{c.cuts[0] / c.info.fps:.1f}"] for c in cut[:ROWS]],
            ),
        ),
        "still": (
            "Still clips",
            f"{len(still)} clips in which hardly any pair shows motion.",
            "First, middle and last frame, and last - first.",
            Table(
                head=["clip", "still pairs", "pairs"],
                rows=[[c.info.name, str(c.still_pairs), str(c.pairs)] for c in still[:ROWS]],
            ),
        ),
    }
    return [
        Section(
            title=title,
            text=text,
            tables=[table] if table.rows else [],
            pictures=[Picture(png=sheets[name], caption=caption)] if sheets[name] else [],
        )
        for name, (title, text, caption, table) in texts.items()
    ]


def _rest_sections(report: SourceReport) -> list[Section]:
    faulty = [[c.info.name, str(c.fault)] for c in report.faulty]
    changed = [[c.info.name, remark] for c in report.usable for remark in c.remarks]
    out = [
        Section(
            title="Of no use",
            text=f"{len(faulty)} of {len(report.clips)} clips could not be read; training passes over them.",
            tables=[Table(head=["clip", "why"], rows=faulty[:ROWS], prose=True)] if faulty else [],
        )
    ]
    if changed:
        table = Table(head=["clip", "what reading it changed"], rows=changed[:ROWS], prose=True)
        out.append(
            Section(
                title="Changed on the way in", text=f"{len(changed)} remark{'s' * (len(changed) != 1)}.", tables=[table]
            )
        )
    return out


def _of_bodies(report: SourceReport) -> list[Strip]:
    out = []
    for body in report.bodies:
        mine = report.of_body(body)
        for i in np.unique(np.linspace(0, len(mine) - 1, min(CLIPS, len(mine))).astype(int)):
            last = mine[i].info.num_frames - 1
            moments = tuple(int(t) for t in np.linspace(0, last, min(MOMENTS, last + 1)).round())
            out.append(Strip(clip=mine[i].info.name, frames=moments, caption=f"{body}: {mine[i].info.name}"))
    return out


def _of_camera(report: SourceReport) -> list[Strip]:
    moving = sorted((c for c in report.usable if c.camera_moves), key=_camera_weight)[:EXAMPLES]
    return [
        Strip(clip=c.info.name, frames=c.camera.worst, caption=f"{c.info.name}: {c.camera.text()}", change=True)
        for c in moving
        if c.camera is not None
    ]


def _camera_weight(clip: ClipCheck) -> tuple[float, float]:
    if clip.camera is None:
        return 0.0, 0.0
    return -clip.camera.way * clip.camera.moving, -clip.camera.adrift / max(1, clip.camera.moments)


def _of_cuts(report: SourceReport) -> list[Strip]:
    out = []
    for clip in [c for c in report.usable if len(c.cuts)][:EXAMPLES]:
        at, last = int(clip.cuts[0]), clip.info.num_frames - 1
        frames = tuple(int(t) for t in np.clip([at - 2, at - 1, at, at + 1], 0, last))
        out.append(Strip(clip=clip.info.name, frames=frames, caption=f"{clip.info.name}: frame {at}"))
    return out


def _of_twins(report: SourceReport) -> list[Strip]:
    out = []
    for twin, of, _ in report.duplicates[:EXAMPLES]:
        for clip in (of, twin):
            last = clip.info.num_frames - 1
            frames = tuple(int(last * share) for share in (0.1, 0.3, 0.5, 0.7, 0.9))
            out.append(Strip(clip=clip.info.name, frames=frames, caption=clip.info.name))
    return out


def _of_still(report: SourceReport) -> list[Strip]:
    out = []
    for clip in [c for c in report.usable if c.is_still][:EXAMPLES]:
        last = clip.info.num_frames - 1
        out.append(Strip(clip=clip.info.name, frames=(0, last // 2, last), caption=clip.info.name, change=True))
    return out


def _decoded(
    source: Source, strips: Sequence[Strip], progress: Callable[[int, int], None] | None
) -> dict[tuple[str, int], UInt8]:
    """The wanted frames of the wanted clips; a clip that can no longer be read has none."""
    wanted: dict[str, set[int]] = {}
    for strip in strips:
        wanted.setdefault(strip.clip, set()).update(strip.frames)
    clips = {clip.name: clip for clip in source.clips()}
    out: dict[tuple[str, int], UInt8] = {}
    for number, (name, places) in enumerate(wanted.items(), start=1):
        try:
            frames = source.read(clips[name]).frames
        except InputError:
            continue
        held = sorted(t for t in places if t < len(frames))
        out |= {(name, t): picture for t, picture in zip(held, resize_square(frames[held], SIDE_PX), strict=True)}
        if progress is not None:
            progress(number, len(wanted))
    return out


def _sheet(strips: Sequence[Strip], pictures: dict[tuple[str, int], UInt8]) -> bytes:
    """The strips below one another; no bytes where there are none."""
    rows, captions = [], []
    for strip in strips:
        row = [pictures[strip.clip, t] for t in strip.frames if (strip.clip, t) in pictures]
        if row:
            rows.append([*row, signed_change(row[0], row[-1])] if strip.change else row)
            captions.append(strip.caption)
    return picture_grid(rows, captions=captions, scale=1) if rows else b""


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.4g}" if high - low < 0.01 else f"{low:.4g} - {high:.4g}"
