"""Look at a tokenizer on any video, without true actions: its codes, their use, what it rebuilds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cyclemimic.evaluate.moments import Pairs, frame_pairs
from cyclemimic.evaluate.quality import LatentActionModel, label_pairs, rebuild_error
from cyclemimic.evaluate.report import Picture, Section, Table, write_report
from cyclemimic.evaluate.sheets import (
    codebook_use,
    picture_grid,
    signed_change,
    transfer_rows,
    transfer_sheet,
)
from cyclemimic.evaluate.summary import number
from cyclemimic.store.atomic import write_atomically
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.tokenizer.quantizer import joint_codes, slot_perplexity
from cyclemimic.types import Int64


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What can be said without true actions."""

    pairs: int
    bodies: tuple[str, ...]
    joint_codes: float
    slot_perplexity: float
    dead_codes: int
    reconstruction_vs_copy: float
    page: Path


def inspect_tokenizer(
    tokenizer: LatentActionModel,
    cache: FrameCache,
    out_dir: Path,
    *,
    gap_s: float,
    limit: int = 1000,
    seed: int = 0,
) -> Inspection:
    """Label up to `limit` pairs of the cache, and write `inspect.html` and its PNGs to `out_dir`.

    Raises:
        InputError: no clip is as long as the gap.
    """
    pairs = frame_pairs(cache, gap_s=gap_s, limit=limit, seed=seed)
    codes = label_pairs(tokenizer, pairs)
    named = torch.from_numpy(codes)
    perplexity = slot_perplexity(named, tokenizer.num_codes)
    error = rebuild_error(tokenizer, pairs, codes)
    found = Inspection(
        pairs=len(pairs),
        bodies=pairs.bodies,
        joint_codes=float(joint_codes(named, tokenizer.num_codes)),
        slot_perplexity=float(perplexity.mean()),
        dead_codes=tokenizer.num_codes - len(np.unique(codes)),
        reconstruction_vs_copy=error,
        page=out_dir / "inspect.html",
    )
    pictures = {
        "usage": codebook_use(codes, pairs.bodies, pairs.body, tokenizer.num_codes),
        "transfer": transfer_sheet(transfer_rows(tokenizer, pairs, seed=seed)),
        "codes": code_sheet(pairs, codes),
    }
    for name, png in pictures.items():
        write_atomically(out_dir / f"{name}.png", png)
    rows = [
        ["pairs", str(found.pairs)],
        ["bodies", ", ".join(found.bodies)],
        ["latent actions in use (exp joint entropy)", number(found.joint_codes)],
        ["codes in use by slot (perplexity)", ", ".join(number(float(p)) for p in perplexity)],
        [f"dead codes of {tokenizer.num_codes}", str(found.dead_codes)],
        ["error of reconstruction / of copying", number(found.reconstruction_vs_copy)],
    ]
    copies = f"Copying the frame is no worse than the decoder ({error:.2f})." if not error < 1 else ""
    across = "one body on another" if len(found.bodies) > 1 else "one clip on another"
    sections = [
        Section(title="In numbers", warning=copies, tables=[Table(head=["", "value"], rows=rows)]),
        Section(
            title="Latent actions, by example",
            text="Pairs that share one latent action: each frame now, and what changes within the gap (grey is "
            "nothing). The more alike the motions of a row, the better the code.",
            pictures=[Picture(png=pictures["codes"], caption="The most frequent latent actions.")],
        ),
        Section(title="Transfer", pictures=[Picture(png=pictures["transfer"], caption=f"The motion of {across}.")]),
        Section(
            title="Use of the codebook",
            pictures=[Picture(png=pictures["usage"], caption="Share of each code by body.")],
        ),
    ]
    write_report(found.page, "What the tokenizer makes of this video", sections)
    return found


def code_sheet(pairs: Pairs, codes: Int64, *, rows: int = 8, examples: int = 3) -> bytes:
    """The most frequent joint codes; of each, pairs of different clips and bodies: now, and the change."""
    tuples, where, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    where = where.reshape(-1)
    grid, captions = [], []
    for which in np.argsort(-counts, kind="stable")[:rows]:
        members = _varied(pairs, np.flatnonzero(where == which), examples)
        # Side by side: each frame now, and what changes within the gap.
        seen = [(pairs.now[i], signed_change(pairs.now[i], pairs.later[i])) for i in members]
        grid.append([picture for both in seen for picture in both])
        code = " ".join(str(c) for c in tuples[which])
        shown = ", ".join(pairs.bodies[pairs.body[i]] for i in members)
        captions.append(f"code {code}: {counts[which]} pairs ({shown})")
    return picture_grid(grid, captions=captions)


def _varied(pairs: Pairs, members: Int64, count: int) -> list[int]:
    """At most `count` members, taking turns among bodies, one for each clip first."""
    seen_clips: set[int] = set()
    turns: dict[int, int] = {}
    ranked = []
    for i in members.tolist():
        body, clip = int(pairs.body[i]), int(pairs.clip[i])
        again = clip in seen_clips
        seen_clips.add(clip)
        turns[body] = turns.get(body, 0) + 1
        ranked.append((again, turns[body], i))
    return [i for _, _, i in sorted(ranked)[:count]]
