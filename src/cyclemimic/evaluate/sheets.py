"""Pictures as PNG bytes: transfer sheets, film strips, use of the codebook, training curves.

Letters in shapes: n pairs, S side of a picture, T frames, L tokens of a latent action, K codes.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from cyclemimic.errors import InputError
from cyclemimic.evaluate.models import LatentActionModel, act_out, label_pairs
from cyclemimic.evaluate.moments import Pairs, TruePairs
from cyclemimic.nn.batches import pixels
from cyclemimic.randomness import rng_for
from cyclemimic.types import Int64, UInt8

INK, PAPER, MUTED = (28, 30, 34), (255, 255, 255), (105, 110, 120)
GAP_PX, TEXT_PX = 6, 12
COLUMNS = ("source now", "source later", "target", "generated", "change x2")


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """A motion of one body acted out on a frame of another. Pictures [S, S, 3]."""

    source_now: UInt8
    source_later: UInt8
    target: UInt8
    generated: UInt8
    caption: str


def transfer_rows(tokenizer: LatentActionModel, pairs: Pairs, *, seed: int, count: int = 8) -> list[SheetRow]:
    """Draw `count` transfers, across bodies where there are several, of sources in which much moves."""
    if isinstance(pairs, TruePairs):
        moved = np.linalg.norm(pairs.displacement_m, axis=1)
    else:
        moved = np.abs(pairs.later.astype(np.int16) - pairs.now).mean((1, 2, 3))
    lively = pairs.take(np.sort(np.argsort(-moved, kind="stable")[: max(count * 4, len(pairs) // 3)]))
    rng = rng_for(seed, 0, "evaluate/sheet")
    source = rng.permutation(len(lively))[:count]
    target = [_partner(lively, int(i), rng) for i in source]
    codes = label_pairs(tokenizer, lively)[source]
    generated = to_bytes(act_out(tokenizer, pixels(lively.now[target]), torch.from_numpy(codes)))
    return [
        SheetRow(
            source_now=lively.now[s],
            source_later=lively.later[s],
            target=lively.now[t],
            generated=made,
            caption=f"{_body(lively, s)} on {_body(lively, t)}: {_words(lively, s, code)}",
        )
        for s, t, made, code in zip(source, target, generated, codes, strict=True)
    ]


def _partner(pairs: Pairs, source: int, rng: np.random.Generator) -> int:
    """A pair of another body, else of another clip, else any other."""
    for differs in (pairs.body != pairs.body[source], pairs.clip != pairs.clip[source]):
        if differs.any():
            return int(rng.choice(np.flatnonzero(differs)))
    return int(rng.integers(len(pairs)))


def _body(pairs: Pairs, i: int) -> str:
    return pairs.bodies[int(pairs.body[i])]


def _words(pairs: Pairs, i: int, code: Int64) -> str:
    words = "code " + " ".join(str(c) for c in code)
    if isinstance(pairs, TruePairs):
        if pairs.motion.unit == "m":
            x, y, z = pairs.displacement_m[i] * 100
            words += f", truly {x:+.0f} {y:+.0f} {z:+.0f} cm"
        else:
            words += ", truly " + " ".join(f"{value:+.1f}" for value in pairs.displacement_m[i])
    return words


def to_bytes(frames: torch.Tensor) -> UInt8:
    """[n, 3, S, S] in [0, 1] to pictures [n, S, S, 3]."""
    whole: UInt8 = (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return whole


def transfer_sheet(rows: Sequence[SheetRow], *, scale: int = 3) -> bytes:
    """Rows of source now, source later, target frame, generated frame and its change, doubled around grey."""
    if not rows:
        raise InputError("transfer_sheet", expected="at least one row", got="none", remedy="Draw more pairs.")
    grid = [[r.source_now, r.source_later, r.target, r.generated, signed_change(r.target, r.generated)] for r in rows]
    return picture_grid(grid, captions=[r.caption for r in rows], columns=COLUMNS, scale=scale)


def signed_change(now: UInt8, later: UInt8, gain: float = 2.0) -> UInt8:
    """Later - now, `gain` times, around mid-grey."""
    change: UInt8 = np.clip(128 + gain * (later.astype(np.float32) - now), 0, 255).astype(np.uint8)
    return change


def picture_grid(
    grid: Sequence[Sequence[UInt8]], *, captions: Sequence[str], columns: Sequence[str] = (), scale: int = 3
) -> bytes:
    """Rows of pictures of one size, each under its caption, enlarged without smoothing."""
    side_px = grid[0][0].shape[1] * scale
    high_px = grid[0][0].shape[0] * scale
    line_px = TEXT_PX + 6
    font = ImageFont.load_default(TEXT_PX)
    wide = max(len(row) for row in grid)
    top_px = GAP_PX + (line_px if columns else 0)
    row_px = line_px + high_px + GAP_PX
    words_px = max(int(font.getlength(caption)) for caption in captions)
    size = (GAP_PX + max(wide * (side_px + GAP_PX), words_px + GAP_PX), top_px + len(grid) * row_px)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, name in enumerate(columns):
        draw.text((GAP_PX + i * (side_px + GAP_PX), GAP_PX), name, fill=MUTED, font=font)
    for r, (row, caption) in enumerate(zip(grid, captions, strict=True)):
        y = top_px + r * row_px
        draw.text((GAP_PX, y), caption, fill=INK, font=font)
        for c, picture in enumerate(row):
            big = Image.fromarray(picture).resize((side_px, high_px), Image.Resampling.NEAREST)
            sheet.paste(big, (GAP_PX + c * (side_px + GAP_PX), y + line_px))
    return _png(sheet)


def film_strips(films: Sequence[tuple[str, UInt8]], *, frames: int = 7, scale: int = 1) -> bytes:
    """One row for each film (caption, [T, S, S, 3]): `frames` moments from first to last."""
    if not films:
        raise InputError(
            "film_strips", expected="at least one film", got="none", remedy="Keep films: films_per_skill=1."
        )
    rows = []
    for _, film in films:
        places = np.linspace(0, len(film) - 1, min(frames, len(film))).round().astype(int)
        rows.append([film[i] for i in places])
    return picture_grid(rows, captions=[caption for caption, _ in films], scale=scale)


def codebook_use(codes: Int64, bodies: Sequence[str], body: Int64, num_codes: int) -> bytes:
    """Bars: how often each body's pairs get each code [n, L], one panel for each slot."""
    slots = codes.shape[1]
    figure = Figure(figsize=(7, 1.2 + 1.7 * slots), dpi=110, layout="constrained")
    axes = figure.subplots(slots, 1, sharex=True, squeeze=False)[:, 0]
    width = 0.8 / len(bodies)
    for slot, axis in enumerate(axes):
        for i, name in enumerate(bodies):
            own = codes[body == i, slot]
            share = np.bincount(own, minlength=num_codes) / max(1, len(own))
            places = np.arange(num_codes) + (i - (len(bodies) - 1) / 2) * width
            axis.bar(places, share, width, label=name)
        axis.set_ylabel(f"share, slot {slot + 1}")
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xticks(range(num_codes))
    axes[-1].set_xlabel("code")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(bodies), frameon=False)
    return drawn(figure)


def training_curves(
    runs: Mapping[str, Sequence[Mapping[str, float]]], keys: Sequence[str], *, names: Collection[str] = ()
) -> bytes:
    """One panel for each key of metrics.jsonl, one line for each run; keys that no run logged are left out.

    Args:
        runs: name of a run -> its rows (`train.loop.read_metrics`).
        keys: which figures.
        names: titles of the panels instead of the keys, in their order.

    Raises:
        InputError: no run logged any of the keys.
    """
    titles = dict(zip(keys, names or keys, strict=True))
    known = [k for k in keys if any(k in row for rows in runs.values() for row in rows)]
    if not known:
        raise InputError(
            "training_curves",
            expected=f"figures {', '.join(keys)}",
            got="none of them",
            remedy="Read another run.",
        )
    high = (len(known) + 1) // 2
    figure = Figure(figsize=(8, 0.5 + 2.1 * high), dpi=110, layout="constrained")
    panels = figure.subplots(high, 2, squeeze=False).ravel()
    for axis, key in zip(panels, known, strict=False):
        for i, (name, rows) in enumerate(runs.items()):
            points = [(row["step"], row[key]) for row in rows if key in row]
            if points:
                axis.plot(
                    *zip(*points, strict=True),
                    color=f"C{i}",
                    linewidth=1.3,
                    marker="." if len(points) < 30 else "",
                    label=name,
                )
        axis.set_title(titles[key], fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    for axis in panels[len(known) :]:
        axis.set_visible(False)
    lines = {label: line for axis in panels for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(
        list(lines.values()), list(lines), loc="outside upper center", ncols=max(1, len(lines)), frameon=False
    )
    return drawn(figure)


def drawn(figure: Any) -> bytes:
    """A figure of matplotlib as PNG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
