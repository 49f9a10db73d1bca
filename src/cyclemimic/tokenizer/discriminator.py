"""Psi: the local-global discriminator, and both adversarial losses.

Letters in shapes: B batch, N patches, F width of backbone features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.names import named
from cyclemimic.nn.batches import Scene
from cyclemimic.nn.transformer import SpatialBlock
from cyclemimic.nn.vision import ConvStem

AdversarialForm = Literal["logistic", "hinge", "printed"]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Psi(o): logits for each patch [B, N] (local) and for the whole frame [B] (global); high means real.

    A critic may leave one of them out.
    """

    local: Tensor | None = None
    whole: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class CriticShape:
    """What a critic is built for: the picture, and where D predicts features the width and grid of these."""

    size_px: int
    feature_width: int | None = None  # None: it judges frames
    grid: tuple[int, int] = (0, 0)


class Critic(Protocol):
    """Anything that tells generated scenes from real ones. Built with a `CriticShape`."""

    def __call__(self, later: Scene, now: Scene) -> Judgement:
        """Judge the later scenes; those now that they follow may be looked at too."""
        ...


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Which critic, and its sizes; the paper finds it best about as deep as the encoder.

    Args:
        kind: local-global (the paper), local, none, or package.module:Class, called with a `CriticShape`.
        judges_pairs: whether it sees the frame now beside the later one.
    """

    kind: str = "local-global"
    width: int = 48
    blocks: int = 2
    heads: int = 4
    stride_px: int = 4
    judges_pairs: bool = False


class Discriminator(nn.Module):
    """Psi. A spatial transformer over patches; a logit from every patch, and one from their pooled features.

    Paper: method, local-global discriminator. With `judges_pairs` it sees the frame now beside the later one, so that
    a realistic frame that has nothing to do with the one before is found out (engineering). Where D predicts features
    it judges features.
    """

    def __init__(self, config: DiscriminatorConfig, shape: CriticShape) -> None:
        super().__init__()
        self.config = config
        looks = 2 if config.judges_pairs else 1
        side = shape.size_px // config.stride_px
        grid = (side, side) if shape.feature_width is None else shape.grid
        self.stem: nn.Module = (
            ConvStem(config.width, config.stride_px, channels=3 * looks)
            if shape.feature_width is None
            else nn.Linear(shape.feature_width * looks, config.width)
        )
        self.grid = grid
        self.position = nn.Parameter(torch.randn(grid[0] * grid[1], config.width) * 0.02)
        self.blocks = nn.ModuleList(SpatialBlock(config.width, config.heads) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.local = nn.Linear(config.width, 1)
        self.pool: nn.Conv2d | None = None
        self.whole: nn.Linear | None = None
        if config.kind == "local-global":
            self.pool = nn.Conv2d(config.width, config.width, 3, padding=1)
            self.whole = nn.Linear(config.width, 1)

    def forward(self, later: Scene, now: Scene) -> Judgement:
        """Scenes of B pairs -> logits."""
        if isinstance(self.stem, ConvStem):
            assert later.frames is not None
            seen = later.frames
            if self.config.judges_pairs:
                assert now.frames is not None
                seen = torch.cat([now.frames, seen], dim=1)
            x = self.stem(seen).patches
        else:
            assert later.features is not None
            patches = later.features.patches
            if self.config.judges_pairs:
                assert now.features is not None
                patches = torch.cat([now.features.patches, patches], dim=-1)
            x = self.stem(patches)
        x = x + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        local = self.local(x).squeeze(-1)
        if self.pool is None or self.whole is None:
            return Judgement(local=local)
        pooled = F.gelu(self.pool(x.transpose(1, 2).reshape(len(x), -1, *self.grid))).mean((2, 3))
        return Judgement(local=local, whole=self.whole(pooled).squeeze(-1))


CRITICS = ("local-global", "local", "none")


def build_critic(config: DiscriminatorConfig, shape: CriticShape) -> nn.Module | None:
    """The critic that `config` names, or None. Meets `Critic`."""
    if ":" in config.kind:
        outside: Callable[[CriticShape], nn.Module] = named("DiscriminatorConfig.kind", config.kind, {})
        return outside(shape)
    kind = named("DiscriminatorConfig.kind", config.kind, {kind: kind for kind in CRITICS})
    return None if kind == "none" else Discriminator(config, shape)


def discriminator_loss(real: Judgement, fake: Judgement, form: AdversarialForm) -> Tensor:
    """L_Psi, mean of its local and its global part.

    `printed` is the paper's -log Psi(o) - (1 - log Psi(fake)), which is unbounded below (Deviation D1).
    """
    pairs = ((real.local, fake.local), (real.whole, fake.whole))
    return torch.stack([_psi_loss(r, f, form) for r, f in pairs if r is not None and f is not None]).mean()


def realism_loss(fake: Judgement, form: AdversarialForm) -> Tensor:
    """L_D, what D pays for frames that Psi takes for generated; `printed` is the paper's 1 - log Psi(fake)."""
    return torch.stack([_d_loss(part, form) for part in (fake.local, fake.whole) if part is not None]).mean()


def judge_once(
    critic: Critic, fake: Scene, now: Scene, paid: Callable[[Judgement], Tensor]
) -> tuple[Tensor, Judgement]:
    """L_D = `paid` for generated scenes, and what Psi said of them, to learn from. Engineering: one pass for both.

    Psi's weights do not move between the two losses, so that a second pass would say the same. The gradient of L_D
    with respect to the scenes is computed here and goes on into D; Psi's weights get none of it. The gradient of
    what is said reaches Psi's weights and ends at the scenes.
    """
    given: list[Tensor] = []
    leaves: list[Tensor] = []

    def shown(tensor: Tensor) -> Tensor:
        leaf = tensor.detach()  # it has no past: here the gradients of both losses part
        if not tensor.requires_grad:
            return leaf
        given.append(tensor)
        leaves.append(leaf.requires_grad_())
        return leaf.view_as(leaf)  # not the leaf itself, on which hooks of modules cannot stand

    verdict = critic(fake.each(shown), now.each(shown))
    loss = paid(verdict)
    if not leaves or not loss.requires_grad:
        return loss.detach(), verdict  # nobody made these scenes who could learn
    with torch.autocast(loss.device.type, enabled=False):  # a gradient has the precision of its own pass
        gradients = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
    return _WithGradient.apply(loss.detach(), gradients, *given), verdict  # type: ignore[no-untyped-call]


class _WithGradient(torch.autograd.Function):
    """A value whose gradient with respect to some tensors is known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: tuple[Tensor | None, ...], *given: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(None if g is None else g * upstream for g in ctx.gradients))


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
