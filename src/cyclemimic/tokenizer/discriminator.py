"""Psi: the local-global discriminator, and both adversarial losses.

Letters in shapes: B batch, N patches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.nn.transformer import SpatialBlock
from cyclemimic.nn.vision import ConvStem

AdversarialForm = Literal["logistic", "hinge", "printed"]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Psi(o): logits for each patch [B, N] (local) and for the whole frame [B] (global); high means real."""

    local: Tensor
    whole: Tensor


class Critic(Protocol):
    """Anything that tells generated frames from real ones."""

    def __call__(self, frames: Tensor) -> Judgement:
        """Judge frames [B, C, H, W]."""
        ...


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Sizes of Psi; the paper finds it best about as deep as the encoder."""

    width: int = 48
    blocks: int = 2
    heads: int = 4
    stride_px: int = 4
    judges_pairs: bool = False


class Discriminator(nn.Module):
    """Psi. A spatial transformer over patches; a logit from every patch, and one from their pooled features.

    Paper: method, local-global discriminator. With `judges_pairs` it sees the frame now beside the later one, so that
    a realistic frame that has nothing to do with the one before is found out (engineering).
    """

    def __init__(self, config: DiscriminatorConfig, *, size_px: int) -> None:
        super().__init__()
        self.config = config
        side = size_px // config.stride_px
        self.stem = ConvStem(config.width, config.stride_px, channels=6 if config.judges_pairs else 3)
        self.position = nn.Parameter(torch.randn(side**2, config.width) * 0.02)
        self.blocks = nn.ModuleList(SpatialBlock(config.width, config.heads) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.local = nn.Linear(config.width, 1)
        self.pool = nn.Conv2d(config.width, config.width, 3, padding=1)
        self.whole = nn.Linear(config.width, 1)

    def forward(self, frames: Tensor) -> Judgement:
        """[B, 3 or 6, H, W] -> logits."""
        features = self.stem(frames)
        x = features.patches + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        rows, columns = features.grid
        pooled = F.gelu(self.pool(x.transpose(1, 2).reshape(len(x), -1, rows, columns))).mean((2, 3))
        return Judgement(local=self.local(x).squeeze(-1), whole=self.whole(pooled).squeeze(-1))


def discriminator_loss(real: Judgement, fake: Judgement, form: AdversarialForm) -> Tensor:
    """L_Psi, mean of its local and its global part.

    `printed` is the paper's -log Psi(o) - (1 - log Psi(fake)), which is unbounded below (Deviation D1).
    """
    return 0.5 * (_psi_loss(real.local, fake.local, form) + _psi_loss(real.whole, fake.whole, form))


def realism_loss(fake: Judgement, form: AdversarialForm) -> Tensor:
    """L_D, what D pays for frames that Psi takes for generated; `printed` is the paper's 1 - log Psi(fake)."""
    return 0.5 * (_d_loss(fake.local, form) + _d_loss(fake.whole, form))


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, the module's weights get no gradient: Psi judges D here but does not learn."""
    wanted = [p.requires_grad for p in module.parameters()]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, grad in zip(module.parameters(), wanted, strict=True):
            parameter.requires_grad_(grad)


def _psi_loss(real: Tensor, fake: Tensor, form: AdversarialForm) -> Tensor:
    if form == "logistic":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if form == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return -F.logsigmoid(real).mean() - (1 - F.logsigmoid(fake)).mean()


def _d_loss(fake: Tensor, form: AdversarialForm) -> Tensor:
    if form == "logistic":
        return F.softplus(-fake).mean()
    if form == "hinge":
        return -fake.mean()
    return (1 - F.logsigmoid(fake)).mean()
