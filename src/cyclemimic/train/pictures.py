"""What both policy stages do to a batch of pictures and sentences before the network sees it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cyclemimic.nn.batches import ObservationBatch, pixels
from cyclemimic.policy.vocabulary import Vocabulary
from cyclemimic.types import UInt8


def random_shift(
    images: UInt8, rng: np.random.Generator, shift_px: int, *, rows: slice = slice(None), of: int | None = None
) -> UInt8:
    """Each picture [B, H, W, 3] moved by up to `shift_px` in both directions, its edge repeated.

    Keep it at one pixel: a pixel is a distance on the table, and actions are not moved along. Engineering.

    Args:
        images: a batch, or `rows` of one.
        rng: draws for the whole batch, so that each process moves its rows as one process would.
        shift_px: at most so far.
        rows: which rows of the batch `images` are.
        of: size of the batch; that of `images` unless given.
    """
    if shift_px == 0:
        return images
    batch, height, width, _ = images.shape
    move = rng.integers(-shift_px, shift_px + 1, (2, of or batch, 1))[:, rows]
    down = np.clip(np.arange(height) + move[0], 0, height - 1)
    across = np.clip(np.arange(width) + move[1], 0, width - 1)
    moved: UInt8 = images[np.arange(batch)[:, None, None], down[:, :, None], across[:, None, :]]
    return moved


class Sentences:
    """The token ids of a data set's sentences, looked up by index; the last row is the neutral prompt."""

    def __init__(self, vocabulary: Vocabulary, sentences: tuple[str | None, ...]) -> None:
        ids, mask = vocabulary.table([*sentences, None])
        self.ids, self.mask = torch.from_numpy(ids), torch.from_numpy(mask)

    def observe(
        self,
        images: UInt8,
        sentence: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
        *,
        device: torch.device,
        proprioception: Tensor | None = None,
    ) -> ObservationBatch:
        """A batch of pictures [B, H, W, 3] with the sentences of index [B]."""
        index = torch.from_numpy(sentence)
        return ObservationBatch(
            images=pixels(images, device),
            words=self.ids[index].to(device),
            word_mask=self.mask[index].to(device),
            proprioception=None if proprioception is None else proprioception.to(device),
        )

    def drop(
        self,
        sentence: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
        rng: np.random.Generator,
        share: float,
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        """The same indices, a random `share` of them replaced by the neutral prompt's."""
        if share == 0:
            return sentence
        return np.where(rng.random(len(sentence)) < share, len(self.ids) - 1, sentence)
