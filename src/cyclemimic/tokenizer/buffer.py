"""Z: the latent actions of the last B batches, from which AC3 draws."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LatentActionBuffer(nn.Module):
    """Z. A ring of codes and the bodies they were seen on; part of the checkpoint, for it cannot be derived.

    Paper: method, AC3; B = 4 batches, sampled uniformly. Engineering: codes are kept, not vectors, and embedded with
    today's codebook when drawn; a code that was reset takes its entries with it.
    """

    codes: Tensor  # [capacity, L] int64
    bodies: Tensor  # [capacity] int64, -1 where empty or forgotten
    cursor: Tensor  # [] int64

    def __init__(self, *, num_batches: int, batch_size: int, num_tokens: int) -> None:
        super().__init__()
        capacity = num_batches * batch_size
        self.register_buffer("codes", torch.zeros(capacity, num_tokens, dtype=torch.int64))
        self.register_buffer("bodies", torch.full((capacity,), -1, dtype=torch.int64))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        return int((self.bodies >= 0).sum())

    @torch.no_grad()
    def push(self, codes: Tensor, bodies: Tensor) -> None:
        """Remember the latent actions [b, L] of a batch; the oldest make room."""
        places = (self.cursor + torch.arange(len(codes), device=codes.device)) % len(self.codes)
        self.codes[places], self.bodies[places] = codes, bodies
        self.cursor.copy_((self.cursor + len(codes)) % len(self.codes))

    @torch.no_grad()
    def forget(self, reset: Tensor) -> None:
        """Drop entries that hold a code of `reset` [R]: their meaning is gone."""
        if len(reset):
            self.bodies[torch.isin(self.codes, reset).any(-1)] = -1

    @torch.no_grad()
    def sample(
        self, count: int, generator: torch.Generator, *, inverse_frequency: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Draw `count` whole latent actions: codes [count, L] and bodies [count].

        Uniformly over the entries (paper), or with `inverse_frequency` uniformly over the different latent actions
        (engineering): idle ones are the most frequent of manipulation video.

        Raises:
            ValueError: the buffer is empty.
        """
        held = (self.bodies >= 0).nonzero().squeeze(1)
        if not len(held):
            raise ValueError("the buffer is empty: push a batch before sampling")
        if inverse_frequency:
            _, kind, counts = torch.unique(self.codes[held], dim=0, return_inverse=True, return_counts=True)
            chances = (1.0 / counts.double())[kind].cpu()
            drawn = held[torch.multinomial(chances, count, replacement=True, generator=generator).to(held.device)]
        else:
            drawn = held[torch.randint(len(held), (count,), generator=generator).to(held.device)]
        return self.codes[drawn], self.bodies[drawn]
