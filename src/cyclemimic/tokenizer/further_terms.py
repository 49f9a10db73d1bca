"""Further terms of the objective, none of them the paper's: each has a weight in `ObjectiveConfig`, zero by default.

Composition and reversal (ALAM), a flow target (LAOF), weighting by motion (MaskLAM without masks), a slow copy of E
as the reader, an adversary that must not know the body, and a share of true actions (LAOM). Sources are named at each.

Letters in shapes: B batch, L tokens, D code width, H W picture, h w grid of the flow, A axes of the true action.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.nn.batches import PairBatch, Scene
from cyclemimic.nn.collectives import global_mean
from cyclemimic.nn.vision import coordinates
from cyclemimic.tokenizer.ac3 import AC3Config, Cycle, cycle_loss, scale_gradient
from cyclemimic.tokenizer.decoders import Decoded
from cyclemimic.tokenizer.encoder import NowStream
from cyclemimic.tokenizer.quantizer import whitened
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer

MOVING = 0.1  # change of a pixel's value that counts as motion in full


class BodyClassifier(nn.Module):
    """Guesses the body from an embedding [B, L, D]; the gradient that it sends back is reversed (DANN)."""

    def __init__(self, *, num_tokens: int, code_width: int, num_bodies: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(num_tokens * code_width, 64), nn.ReLU(), nn.Linear(64, max(1, num_bodies))
        )

    def forward(self, embedding: Tensor) -> Tensor:
        """[B, L, D] -> logits [B, bodies]."""
        # Reversed: the classifier learns to know the body, E to keep it from being known.
        logits: Tensor = self.layers(scale_gradient(embedding, -1.0).flatten(1))
        return logits


class FlowHead(nn.Module):
    """Flow from a frame and a latent action, for decoders that have none of their own (LAOF)."""

    def __init__(self, *, num_tokens: int, code_width: int, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(5, width, 5, stride=4, padding=2)
        self.film = nn.Linear(num_tokens * code_width, 2 * width)
        self.out = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, 2, 3, padding=1))

    def forward(self, frames: Tensor, vectors: Tensor) -> Tensor:
        """[B, 3, H, W] and [B, L, D] -> flow [B, 2, H / 4, W / 4]."""
        x = F.gelu(self.stem(torch.cat([frames * 2 - 1, coordinates(frames)], dim=1)))
        scale, shift = self.film(vectors.flatten(1))[:, :, None, None].chunk(2, dim=1)
        flow: Tensor = self.out(x * (1 + scale) + shift)
        return flow


class SlowReader:
    """A moving average of E as the reader of generated frames: it cannot agree with D on new signs. Engineering.

    Its gradient teaches D alone. A backbone that was loaded from elsewhere is shared, not copied.
    """

    def __init__(self, tokenizer: LatentActionTokenizer, decay: float) -> None:
        self.decay = decay
        self._sees_alike = tokenizer.sees_frozen  # a copy of what never moves
        keep: dict[int, object] = {id(tokenizer.decoder): nn.Identity()}
        if tokenizer.backbone_sha256 is not None:
            keep[id(tokenizer.backbone)] = tokenizer.backbone
        self.reader = copy.deepcopy(tokenizer, keep)
        self.reader.requires_grad_(False)

    def restart(self, tokenizer: LatentActionTokenizer) -> None:
        """Become today's E, as behind a trunk."""
        now = tokenizer.own_state()
        self.reader.load_own_state({name: now[name] for name in self.reader.own_state()})

    @torch.no_grad()  # an average of weights, nobody's gradient
    def follow(self, tokenizer: LatentActionTokenizer) -> None:
        """Move a little towards the weights and the codebook of today."""
        now = tokenizer.own_state()
        for name, value in self.reader.own_state().items():
            if value.is_floating_point():
                value.lerp_(now[name], 1 - self.decay)
            else:
                value.copy_(now[name])

    def loss(self, cycle: Cycle, drawn: Tensor, config: AC3Config) -> Tensor:
        """L_C as the slow reader sees it: what D's frames say to someone who has not been trained with them today."""
        scene = cycle.scene
        if scene.frames is not None and not self._sees_alike:
            scene = self.reader.see(scene.frames)
        said = self.reader.read(self.reader.watch(scene), scene, cycle.generated)
        return cycle_loss(self.reader.embed(said, batch_statistics=False), drawn, self.reader.quantizer, config)


class Origin(nn.Module):
    """Where whitened embeddings of no motion lie [L, D]: learnt, since the mean motion of a video need not be none."""

    def __init__(self, *, num_tokens: int, code_width: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(num_tokens, code_width))

    def forward(self, said: Tensor, like: Tensor) -> Tensor:
        """What `read` gave, [B, G + L, D], as vectors [B, L, D] that can be added; in the scale of the batch `like`."""
        own = slice(-len(self.place), None)  # tokens of an earlier stage stand in front
        return whitened(said[:, own], like[:, own]) - self.place


@dataclass(frozen=True, kw_only=True)
class Helpers:
    """The networks that further terms need; None where the term is off."""

    flow: FlowHead | None = None
    adversary: BodyClassifier | None = None
    actions: nn.Linear | None = None
    origin: Origin | None = None
    reader: SlowReader | None = None

    def trained(self) -> nn.ModuleDict:
        """Those that learn with the tokenizer."""
        found = {"flow": self.flow, "adversary": self.adversary, "actions": self.actions, "origin": self.origin}
        return nn.ModuleDict({name: module for name, module in found.items() if module is not None})


def composition_loss(
    tokenizer: LatentActionTokenizer,
    origin: Origin,
    said: Tensor,
    stream: NowStream,
    now: Scene,
    later: Scene,
    latest: Scene,
    words: Tensor | None = None,
) -> Tensor:
    """||z(a, b) + z(b, c) - z(a, c)||^2 before quantisation, as a ratio to ||z(a, c)||^2 (ALAM).

    A code whose meaning is permuted on one body need not satisfy it. Embeddings are whitened but not put on the
    sphere, where sums mean nothing.

    Args:
        said: what E read between now and later; `stream` is E's stream of the scenes now.
    """
    onward = tokenizer.read(tokenizer.watch(later, words), later, latest, words)
    whole = tokenizer.read(stream, now, latest, words)
    first, second, both = (origin(x, said) for x in (said, onward, whole))
    return _ratio((first + second - both).square().mean(), both.square().mean())


def reversal_loss(
    tokenizer: LatentActionTokenizer,
    origin: Origin,
    said: Tensor,
    now: Scene,
    later: Scene,
    words: Tensor | None = None,
) -> Tensor:
    """||z(a, b) + z(b, a)||^2 before quantisation, as a ratio to ||z(a, b)||^2 (ALAM)."""
    back = origin(tokenizer.read(tokenizer.watch(later, words), later, now, words), said)
    forth = origin(said, said)
    return _ratio((forth + back).square().mean(), forth.square().mean())


def flow_loss(decoded: Decoded, batch: PairBatch, vectors: Tensor, head: FlowHead | None) -> Tensor:
    """Sum of |flow - target| over that of |target|: 1 is a decoder that moves nothing (LAOF, with classical flow)."""
    assert batch.flow is not None, "the loader must give the flow"
    flow = decoded.flow
    if flow is None:
        assert head is not None
        flow = head(batch.now, vectors)
    flow = F.adaptive_avg_pool2d(flow, (batch.flow.shape[-2], batch.flow.shape[-1]))
    return (flow - batch.flow).abs().mean() / global_mean(batch.flow.abs().mean()).clamp_min(1e-6)


def motion_weight(now: Tensor, later: Tensor, strength: float) -> Tensor:
    """Weights [B, 1, H, W] of a squared error: 1 where nothing moves, 1 + `strength` where much does. Engineering."""
    moved = ((later - now).abs().amax(1, keepdim=True) / MOVING).clamp(max=1)
    return 1 + strength * F.avg_pool2d(moved, 3, stride=1, padding=1)


def adversary_loss(classifier: BodyClassifier, embedding: Tensor, body: Tensor) -> Tensor:
    """Cross-entropy of the body; what the classifier gains, E loses."""
    return F.cross_entropy(classifier(embedding), body)


def action_loss(readout: nn.Linear, embedding: Tensor, batch: PairBatch) -> Tensor:
    """Squared error of a linear reading of the true action, over the pairs whose action is known (LAOM)."""
    assert batch.action is not None and batch.action_known is not None, "the loader must give true actions"
    error = (readout(embedding.flatten(1)) - batch.action).square().mean(1)
    known = batch.action_known.to(error.dtype)
    # The count of the whole batch, as a mean over the rows of each process: their mean is the mean over known pairs.
    count = global_mean(known.sum()).clamp_min(1e-9)
    loss: Tensor = (error * known).sum() / count
    return loss


def _ratio(error: Tensor, size: Tensor) -> Tensor:
    # The scale's gradient stops: embeddings must not grow to make the ratio small.
    return error / global_mean(size.detach()).clamp_min(1e-6)
