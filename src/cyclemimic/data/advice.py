"""What in a source will hurt training, why, and what to turn. Engineering.

The borders are ours, set on real clips of five bodies and on simulated arms; they say where to look, not what is true.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Literal

from cyclemimic.data.check import VARIABLE_RATE, ClipCheck, SourceReport

Weight = Literal["broken", "suspicious", "note"]

GAP_OFF = 1.6  # how many times longer or shorter than the proposed gap is worth a word
STILL_SHARE, VERY_STILL_SHARE = 0.5, 0.9
MOVING_CLIPS, MANY_MOVING_CLIPS = 0.05, 0.3
REPEATED = 0.25
FEW_CLIPS = 10
MANY_BODIES = 6
UNEVEN_BODIES = 20.0
SMALL_PX = 64


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One thing to know: how grave it is, whom it concerns, what was found, why that matters, and what to turn."""

    weight: Weight
    about: str  # a body, or "all"
    what: str
    cause: str
    remedy: str

    def text(self) -> str:
        """In one line, for a terminal."""
        mark = {"broken": "!!", "suspicious": "! ", "note": "  "}[self.weight]
        return f"{mark} {self.about}: {self.what}. {self.cause} {self.remedy}"


def advice_on(report: SourceReport) -> list[Advice]:
    """What a user should know before training, gravest first."""
    found = [*_on_source(report)]
    for body in report.bodies:
        mine = report.of_body(body)
        for part in (_on_gap, _on_actions):
            found += part(report, body)
        for look in (_on_still, _on_camera, _on_pictures, _on_time):
            found += look(body, mine)
    order = ("broken", "suspicious", "note")
    return sorted(found, key=lambda one: order.index(one.weight))


def _on_source(report: SourceReport) -> Iterator[Advice]:
    usable, faulty = report.usable, report.faulty
    not_finite = [clip for clip in faulty if "NaN" in str(clip.fault)]
    if not_finite:
        yield Advice(
            weight="broken",
            about="all",
            what=f"{len(not_finite)} clips have actions or states that are not finite",
            cause="They are left out whole: a NaN in a batch would stop the run.",
            remedy="Repair the recording, or do without them; the page lists them.",
        )
    if len(faulty) > len(not_finite):
        yield Advice(
            weight="broken" if len(faulty) >= 0.1 * len(report.clips) else "suspicious",
            about="all",
            what=f"{len(faulty) - len(not_finite)} of {len(report.clips)} clips cannot be read",
            cause="They are left out; nothing else suffers.",
            remedy="Download or encode them again; the reasons are listed.",
        )
    yield from _on_bodies(report)
    if report.duplicates:
        exact = sum(found.exact for _, _, found in report.duplicates)
        yield Advice(
            weight="suspicious",
            about="all",
            what=f"{len(report.duplicates)} clips show what another one shows, {exact} of them exactly",
            cause="They count twice, and one of a pair may be trained on while the other is held out.",
            remedy="Write them down with --drop LIST.json, and go on with the source's ?skip=LIST.json.",
        )
    yield from _on_sentences(usable, report.sentences())


def _on_bodies(report: SourceReport) -> Iterator[Advice]:
    bodies = report.bodies
    if len(bodies) == 1:
        lone = "the folder names no body" if bodies[0] == "unknown" else f"{bodies[0]!r} alone"
        yield Advice(
            weight="suspicious",
            about="all",
            what=f"one body: {lone}",
            cause="The cycle draws its targets from the same body, and codes need not mean the same on others.",
            remedy="Add video of another body, or name bodies by folders or `embodiment` in clips.jsonl.",
        )
    counts = {body: sum(c.pairs for c in report.of_body(body)) for body in bodies}
    rich, poor = (max(counts, key=lambda b: counts[b]), min(counts, key=lambda b: counts[b])) if bodies else ("", "")
    if len(bodies) > 1 and counts[rich] > UNEVEN_BODIES * max(1, counts[poor]):
        yield Advice(
            weight="suspicious",
            about=poor,
            what=f"{counts[poor]} pairs, {rich} has {counts[rich]}",
            cause="Bodies are drawn alike, so the few pairs are seen many times over and may be learnt by heart.",
            remedy="Add clips of it, or leave it out with --bodies.",
        )
    few = [body for body in bodies if len(report.of_body(body)) < FEW_CLIPS]
    if len(few) > MANY_BODIES:
        yield Advice(
            weight="broken",
            about="all",
            what=f"{len(few)} of {len(bodies)} bodies have fewer than {FEW_CLIPS} clips",
            cause="The first folder below the root names the body; here it may name an episode or a camera.",
            remedy="Lay the clips out by body, or give `embodiment` in clips.jsonl.",
        )
    else:
        for body in few:
            yield Advice(
                weight="note",
                about=body,
                what=f"{len(report.of_body(body))} clips",
                cause="About a fifth of the clips is held out, so numbers on it rest on one or two clips.",
                remedy="Cut long recordings into episodes, or add clips.",
            )


def _on_sentences(clips: tuple[ClipCheck, ...], said: Counter[str]) -> Iterator[Advice]:
    without = len(clips) - sum(said.values())
    if clips and without:
        yield Advice(
            weight="note",
            about="all",
            what=f"{without} of {len(clips)} clips have no sentence",
            cause="That is no error: latent actions need none, and `pretrain` takes a neutral one.",
            remedy="To steer by words give `instruction` in clips.jsonl.",
        )
    if not without and len(clips) > FEW_CLIPS and len(said) == 1:
        yield Advice(
            weight="note",
            about="all",
            what="one sentence for all clips",
            cause="A policy cannot learn to listen where every clip is told the same.",
            remedy="Say in clips.jsonl what each clip does, if they differ.",
        )


def _on_gap(report: SourceReport, body: str) -> Iterator[Advice]:
    found = report.gap_of(body)
    if found.gap_s is None or found.gap_frames is None:
        yield Advice(
            weight="suspicious",
            about=body,
            what=found.text(),
            cause="Nothing that moves goes far enough for a code to name it.",
            remedy="Look at the clips below; leave the body out with --bodies, or give longer clips and a longer gap.",
        )
        return
    ratio = report.gap_s / found.gap_s
    if found.gap_frames < 1:
        yield Advice(
            weight="broken" if found.gap_frames < 0.5 else "suspicious",
            about=body,
            what=f"between two frames what moves goes {1 / found.gap_frames:.1f} times as far as a pair should show",
            cause="The frame rate is too low for this motion (or the video is sped up): hands leave the picture.",
            remedy="Use the recording at its full rate, or slow it down.",
        )
    elif ratio > GAP_OFF or ratio < 1 / GAP_OFF:
        yield Advice(
            weight="suspicious",
            about=body,
            what=f"too {'fast' if ratio > 1 else 'slow'} for {report.gap_s:g} s: what moves goes {ratio:.2g} times the "
            "way that suits a pair",
            cause="One motion gets other codes on a faster and on a slower body.",
            remedy=f"--gap-s auto gives each body its own; for this one {found.gap_s:.2f} s.",
        )
    usual_s = median(clip.info.num_frames / clip.info.fps for clip in report.of_body(body))
    if found.gap_s > 0.5 * usual_s:
        yield Advice(
            weight="suspicious",
            about=body,
            what=f"the proposed gap is {found.gap_s:.2f} s and clips last {usual_s:.2f} s",
            cause="Few pairs, or none, fit into a clip.",
            remedy=f"Give --gap-s below {0.5 * usual_s:.2g} instead of auto, or longer clips.",
        )


def _on_actions(report: SourceReport, body: str) -> Iterator[Advice]:
    for name, axes in report.axes_of(body).items():
        odd = [f"{axis.name} {remark}" for axis in axes for remark in axis.remarks]
        if odd:
            yield Advice(
                weight="suspicious",
                about=body,
                what=f"actions {name}: {'; '.join(odd[:4])}" + (f" and {len(odd) - 4} more" if len(odd) > 4 else ""),
                cause="An axis that sticks at an end was cut off there, one that never changes teaches nothing, and a "
                "wrong unit moves a robot by the wrong way.",
                remedy="See the histograms; correct the units (`?units=`, a convention) or record with wider limits.",
            )


def _on_still(body: str, clips: tuple[ClipCheck, ...]) -> Iterator[Advice]:
    pairs, still = sum(c.pairs for c in clips), sum(c.still_pairs for c in clips)
    if pairs and still > STILL_SHARE * pairs:
        yield Advice(
            weight="broken" if still > VERY_STILL_SHARE * pairs else "suspicious",
            about=body,
            what=f"nothing moves in {still / pairs:.0%} of the pairs",
            cause="They all teach one code, the one for rest, and the others starve.",
            remedy="Cut waiting from the clips, take a longer --gap-s, or drop still clips (--drop LIST.json).",
        )
    whole = sum(c.is_still for c in clips)
    if whole:
        yield Advice(
            weight="suspicious" if whole >= 0.1 * len(clips) else "note",
            about=body,
            what=f"{whole} of {len(clips)} clips are still throughout",
            cause="They hold no action.",
            remedy="--drop LIST.json writes them down for the source's ?skip=LIST.json.",
        )
    short = sum(c.pairs == 0 for c in clips)
    if short:
        yield Advice(
            weight="suspicious",
            about=body,
            what=f"{short} clips give no pair",
            cause="They, or the shots in them, are shorter than the gap.",
            remedy="Take a shorter --gap-s, or drop them.",
        )


def _on_camera(body: str, clips: tuple[ClipCheck, ...]) -> Iterator[Advice]:
    moving = [c for c in clips if c.camera_moves]
    if len(moving) >= max(1, MOVING_CLIPS * len(clips)):
        yield Advice(
            weight="broken" if len(moving) >= MANY_MOVING_CLIPS * len(clips) else "suspicious",
            about=body,
            what=f"the camera moves in {len(moving)} of {len(clips)} clips",
            cause="That changes every pixel, more than an arm does, and the codes will name it.",
            remedy="Fix the camera; for shaking and small drifts add ?stabilise=shift to the source; else drop those "
            "clips (--drop LIST.json --drop-kinds camera).",
        )
    unknown = [c for c in clips if c.camera is not None and not c.camera.is_known]
    if len(unknown) > 0.5 * len(clips):
        yield Advice(
            weight="note",
            about=body,
            what=f"in {len(unknown)} clips one cannot tell whether the camera moves",
            cause="Too few corners, or nearly everything moves, as in front of a wrist camera.",
            remedy="Look at the strips below.",
        )


def _on_pictures(body: str, clips: tuple[ClipCheck, ...]) -> Iterator[Advice]:
    sizes = Counter(next(iter(c.cameras.values())) for c in clips if c.cameras)
    shapes = {round(width / height, 1) for height, width in sizes}
    if len(shapes) > 1:
        yield Advice(
            weight="note",
            about=body,
            what=f"{len(sizes)} picture sizes of {len(shapes)} proportions",
            cause="The middle square is cut out of each, so that they show more or less of the scene.",
            remedy="If hands lie outside the square, cut the video yourself first.",
        )
    small = [size for size in sizes if min(size) < SMALL_PX]
    if small:
        yield Advice(
            weight="suspicious",
            about=body,
            what=f"pictures of {min(map(min, small))} px",
            cause="They are enlarged for training; thin fingers are lost.",
            remedy="Use the recording at its full size.",
        )


def _on_time(body: str, clips: tuple[ClipCheck, ...]) -> Iterator[Advice]:
    uneven = sum(any(remark.startswith(VARIABLE_RATE) for remark in c.remarks) for c in clips)
    if uneven:
        yield Advice(
            weight="note",
            about=body,
            what=f"{uneven} clips have a variable frame rate",
            cause="They were put on an even clock by repeating and leaving out frames.",
            remedy="Nothing needs to be done; encode at a constant rate if pairs look frozen.",
        )
    repeating = [c for c in clips if c.repeated > REPEATED]
    if len(repeating) > 0.1 * len(clips):
        yield Advice(
            weight="suspicious",
            about=body,
            what=f"{len(repeating)} clips repeat frames while things move",
            cause="The recording was slower than its file says, so neighbouring frames are equal and then jump.",
            remedy="Take a gap of several frames, or encode them again at their true rate.",
        )
    rates = [c.info.fps for c in clips]
    if max(rates) > 4 * min(rates):
        yield Advice(
            weight="suspicious",
            about=body,
            what=f"rates from {min(rates):g} to {max(rates):g} frames/s",
            cause="Some files may say a wrong rate, and then the gap is another time there.",
            remedy="Give `fps` in clips.jsonl where it is wrong.",
        )
