"""Look at a tokenizer on any video, without true actions: its codes, their use, what it rebuilds, what may be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cyclemimic.data.pairs import valid_pairs
from cyclemimic.evaluate.cycle import CycleAccuracy, act_plan, cycle_accuracy
from cyclemimic.evaluate.leak import UNREAD, Leak, ReaderConfig, measure_leak
from cyclemimic.evaluate.models import LatentActionModel, draws, label_pairs
from cyclemimic.evaluate.moments import Pairs, frame_pairs
from cyclemimic.evaluate.neighbours import neighbour_sheet
from cyclemimic.evaluate.reconstruction import delta_psnr_db, rebuild_error
from cyclemimic.evaluate.report import Picture, Section, Table, write_report
from cyclemimic.evaluate.sheets import (
    codebook_use,
    picture_grid,
    signed_change,
    transfer_rows,
    transfer_sheet,
)
from cyclemimic.evaluate.summary import number
from cyclemimic.evaluate.transfer import plan_transfers
from cyclemimic.evaluate.verdicts import Verdict, verdict_table, verdicts_on
from cyclemimic.randomness import rng_for
from cyclemimic.store.atomic import write_atomically
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.tokenizer.quantizer import joint_codes, slot_perplexity
from cyclemimic.types import Gap, Int64

_READERS_BYTES = 256_000_000  # of frames that the readers of the leak are fitted on and asked about
_READERS_SHARE = 0.7  # of clips that they are fitted on


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What can be said without true actions; NaN where the tokenizer draws no frames or there is one clip alone."""

    pairs: int
    bodies: tuple[str, ...]
    num_codes: int
    num_tokens: int
    joint_codes: float
    slot_perplexity: float
    dead_codes: int
    reconstruction_vs_copy: float
    delta_psnr_db: float
    cycle_accuracy: float
    cycle_accuracy_noise: float
    cycle_accuracy_blur: float
    cycle_accuracy_8bit: float
    leak: Leak
    page: Path

    def row(self) -> dict[str, float]:
        """The numbers by name, those of the leak among them."""
        own = {name: value for name, value in vars(self).items() if isinstance(value, int | float)}
        return {**own, "leak_index": self.leak.leak_index, "leak_excess": self.leak.leak_excess}

    def verdicts(self) -> list[Verdict]:
        """What the numbers mean."""
        return verdicts_on(self.row())


def inspect_tokenizer(
    tokenizer: LatentActionModel,
    cache: FrameCache,
    out_dir: Path,
    *,
    gap_s: Gap,
    limit: int = 1000,
    seed: int = 0,
    readers: ReaderConfig | None = None,
) -> Inspection:
    """Label up to `limit` pairs of the cache, and write `inspect.html` and its PNGs to `out_dir`.

    Raises:
        InputError: no clip is as long as the gap.
    """
    pairs = frame_pairs(cache, gap_s=gap_s, limit=limit, seed=seed)
    codes = label_pairs(tokenizer, pairs)
    named = torch.from_numpy(codes)
    perplexity = slot_perplexity(named, tokenizer.num_codes)
    cycle, leak = _cycle_and_leak(tokenizer, cache, gap_s=gap_s, limit=3 * limit, seed=seed, readers=readers)
    found = Inspection(
        pairs=len(pairs),
        bodies=pairs.bodies,
        num_codes=tokenizer.num_codes,
        num_tokens=codes.shape[1],
        joint_codes=float(joint_codes(named, tokenizer.num_codes)),
        slot_perplexity=float(perplexity.mean()),
        dead_codes=tokenizer.num_codes - len(np.unique(codes)),
        reconstruction_vs_copy=rebuild_error(tokenizer, pairs, codes),
        delta_psnr_db=delta_psnr_db(tokenizer, pairs, codes, seed=seed),
        cycle_accuracy=cycle.clean,
        cycle_accuracy_noise=cycle.noise,
        cycle_accuracy_blur=cycle.blur,
        cycle_accuracy_8bit=cycle.eight_bit,
        leak=leak,
        page=out_dir / "inspect.html",
    )
    pictures = {
        "codes": code_sheet(pairs, codes),
        "usage": codebook_use(codes, pairs.bodies, pairs.body, tokenizer.num_codes),
    }
    if len(pairs.bodies) > 1:
        pictures["neighbours"] = neighbour_sheet(pairs, codes, seed=seed)
    if draws(tokenizer):
        pictures["transfer"] = transfer_sheet(transfer_rows(tokenizer, pairs, seed=seed))
    for name, png in pictures.items():
        write_atomically(out_dir / f"{name}.png", png)
    write_report(found.page, "What the tokenizer makes of this video", _sections(found, perplexity, pictures))
    return found


def _cycle_and_leak(
    tokenizer: LatentActionModel,
    cache: FrameCache,
    *,
    gap_s: Gap,
    limit: int,
    seed: int,
    readers: ReaderConfig | None,
) -> tuple[CycleAccuracy, Leak]:
    """On clips that the readers were not fitted on, across bodies where there are several."""
    order = rng_for(seed, 0, "inspect/clips").permutation(len(cache.clips))
    long_enough = set(valid_pairs(cache.clips, gap_s).clip.tolist())
    order = np.array([i for i in order if int(i) in long_enough], np.int64)
    cut = int(len(order) * _READERS_SHARE)
    if not draws(tokenizer) or not 0 < cut < len(order):
        return cycle_accuracy(tokenizer, None, seed=seed), UNREAD
    limit = max(2, min(limit, _READERS_BYTES // (6 * cache.recipe.size_px**2)))
    many = int(limit * _READERS_SHARE)
    train = frame_pairs(cache.subset(np.sort(order[:cut])), gap_s=gap_s, limit=many, seed=seed)
    test = frame_pairs(cache.subset(np.sort(order[cut:])), gap_s=gap_s, limit=limit - many, seed=seed)
    codes = label_pairs(tokenizer, test)
    plans = [
        plan_transfers(test, sources=test.bodies, targets=test.bodies, same_body=same_body, limit=len(test), seed=seed)
        for same_body in (False, True)
    ]
    acted = act_plan(tokenizer, test, codes, plans[0] if len(plans[0]) else plans[1])
    cycle = cycle_accuracy(tokenizer, acted, seed=seed)
    leak = measure_leak(
        tokenizer,
        train,
        label_pairs(tokenizer, train),
        test,
        codes,
        acted,
        accuracy=cycle.clean,
        seed=seed,
        config=readers,
    )
    return cycle, leak


def _sections(found: Inspection, perplexity: torch.Tensor, pictures: Mapping[str, bytes]) -> list[Section]:
    """The page, in the order in which it is read."""
    leak = found.leak
    rows = [
        ["pairs", str(found.pairs)],
        ["bodies", ", ".join(found.bodies)],
        ["latent actions in use (exp joint entropy)", number(found.joint_codes)],
        ["codes in use by slot (perplexity)", ", ".join(number(float(p)) for p in perplexity)],
        [f"dead codes of {found.num_codes}", str(found.dead_codes)],
        ["error of reconstruction / of copying", number(found.reconstruction_vs_copy)],
        ["PSNR lost with a random code [dB]", number(found.delta_psnr_db)],
        [
            "cycle accuracy: clean, noise, blur, 8 bit",
            ", ".join(
                number(value)
                for value in (
                    found.cycle_accuracy,
                    found.cycle_accuracy_noise,
                    found.cycle_accuracy_blur,
                    found.cycle_accuracy_8bit,
                )
            ),
        ],
        ["reader of real pairs: on real, on generated", f"{number(leak.reader_real)}, {number(leak.reader_generated)}"],
        ["leak: index, excess", f"{number(leak.leak_index)}, {number(leak.leak_excess)}"],
        ["codes read from o_g alone, by chance", f"{number(leak.alone)}, {number(leak.alone_chance)}"],
    ]
    error = found.reconstruction_vs_copy
    copies = f"Copying the frame is no worse than the decoder ({error:.2f})." if error >= 1 else ""
    across = "one body on another" if len(found.bodies) > 1 else "one clip on another"
    sections = [
        Section(
            title="Verdicts",
            text="Compared with our own runs on simulated arms; your video may move the borders. Nothing here needs "
            "true actions, so nothing here proves that codes mean the same on every body: measure transfer for that.",
            warning=copies,
            tables=[verdict_table(found.verdicts())],
        ),
        Section(title="In numbers", tables=[Table(head=["", "value"], rows=rows)]),
        Section(
            title="Latent actions, by example",
            text="Pairs that share one latent action: each frame now, and what changes within the gap (grey is "
            "nothing). The more alike the motions of a row, the better the code.",
            pictures=[Picture(png=pictures["codes"], caption="The most frequent latent actions.")],
        ),
    ]
    if "neighbours" in pictures:
        neighbours = Section(
            title="The same latent action on other bodies",
            text="Lively pairs, drawn by lot, and on every other body a pair whose code differs in the fewest slots, "
            "by lot among equals. Do they move alike? Then codes may mean the same on every body.",
            pictures=[Picture(png=pictures["neighbours"], caption="Now and later, side by side.")],
        )
        sections.append(neighbours)
    if "transfer" in pictures:
        picture = Picture(png=pictures["transfer"], caption=f"The motion of {across}.")
        sections.append(Section(title="Transfer", pictures=[picture]))
    picture = Picture(png=pictures["usage"], caption="Share of each code by body.")
    return [*sections, Section(title="Use of the codebook", pictures=[picture])]


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
