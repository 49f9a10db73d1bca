"""Perfect latent actions: the true motion of the hand over the gap, quantised; the bound of what a tokenizer can name.

A label store as `cyclemimic label` writes it, so that nothing behind it knows the difference. Engineering.
Letters in shapes: n pairs, L rounds, K codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from cyclemimic.data.cache import source_hash
from cyclemimic.data.pairs import valid_pairs
from cyclemimic.data.sources.film import FilmSource
from cyclemimic.errors import InputError
from cyclemimic.evaluate.controls import residual_codes, residual_k_means
from cyclemimic.recipes.footage import SPLIT_SEED, chosen, true_places
from cyclemimic.store.atomic import read_json, sha256_json, write_json
from cyclemimic.store.label_store import LabelProvenance, LabelRows, LabelStore, LabelStoreWriter

FORMAT, FILE = "cyclemimic-true-motion-1", "codebook.json"
ROUNDS, CODES = 2, 16  # L, K
MOST_PAIRS = 20_000  # that fit the centres


@dataclass(frozen=True, kw_only=True)
class MotionCodebook:
    """Centres of true motion in metres, [K, 3] for each of L rounds; a round names what those before it left over."""

    levels: tuple[Tensor, ...]
    gap_s: float

    @property
    def sha256(self) -> str:
        """Stands where labels name their tokenizer: labels of one codebook mean the same."""
        return sha256_json(self._plain())

    def _plain(self) -> dict[str, object]:
        return {"format": FORMAT, "gap_s": self.gap_s, "levels_m": [level.tolist() for level in self.levels]}

    def save(self, folder: Path) -> None:
        """Write `codebook.json`."""
        write_json(folder / FILE, self._plain())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Undo `save`. InputError where it holds something else."""
        found = read_json(folder / FILE)
        try:
            if found["format"] != FORMAT:
                raise KeyError(str(found["format"]))
            levels = tuple(torch.tensor(level, dtype=torch.float32) for level in found["levels_m"])
            return cls(levels=levels, gap_s=float(found["gap_s"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                folder / FILE, expected="a codebook of true motion", got=str(error), remedy="Remove it; fit it anew."
            ) from None


def label_true_motion(
    source: FilmSource, out: Path, codebook: Path, *, gap_s: float, bodies: Sequence[str] = ()
) -> LabelStore:
    """Label every pair of a film by what its hand truly did.

    Args:
        source: a film with proprioception.
        out: folder of the label store; what is labelled already is kept.
        codebook: folder of the codebook, fitted on these very pairs where there is none.
        gap_s: H [s].
        bodies: whose clips are labelled; all unless named.

    Raises:
        InputError: an unknown body, clips without proprioception, or a codebook of another gap.
    """
    everything = source.clips()
    wanted = chosen("bodies", bodies, sorted({clip.embodiment for clip in everything}))
    clips = [clip for clip in everything if clip.embodiment in wanted]
    places_m = true_places(source)
    pairs = valid_pairs(clips, gap_s)
    motion = np.empty((len(pairs), 3), np.float32)
    for number, clip in enumerate(clips):
        mine = pairs.clip == number
        if clip.name not in places_m:
            raise InputError(clip.name, expected="proprioception", got="none", remedy="Film with actions.")
        motion[mine] = places_m[clip.name][pairs.later[mine]] - places_m[clip.name][pairs.now[mine]]
    true_m = torch.from_numpy(motion)
    if not (codebook / FILE).exists():
        # Evenly over the clips, so that every body and skill has its share.
        some = true_m[np.linspace(0, len(true_m) - 1, min(MOST_PAIRS, len(true_m))).astype(np.int64)]
        MotionCodebook(
            levels=tuple(residual_k_means(some, CODES, ROUNDS, seed=SPLIT_SEED)), gap_s=gap_s
        ).save(codebook)  # fmt: skip
    book = MotionCodebook.load(codebook)
    if book.gap_s != gap_s:
        raise InputError(codebook, expected=f"a gap of {gap_s} s", got=f"{book.gap_s} s", remedy="Name another folder.")
    codes, margin = residual_codes(true_m, book.levels)
    provenance = LabelProvenance(
        tokenizer_sha256=book.sha256,
        source_hash=source_hash(source),
        gap_s=gap_s,
        camera="none",
        num_codes=len(book.levels[0]),
        num_tokens=len(book.levels),
        made_by="cyclemimic label --true-motion",
    )
    rows = LabelRows(
        clip=tuple(clips[i].name for i in pairs.clip),
        frame=pairs.now.astype(np.int32),
        codes=codes.numpy(),
        margin=margin.numpy(),
    )
    LabelStoreWriter(out, provenance, 1).write(0, rows)
    return LabelStore.open(out)
