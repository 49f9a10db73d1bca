"""AC3, action-centric cycle consistency: make happen what nobody filmed, then recognise what was made to happen.

    z_s ~ Z        draw a latent action from the buffer of the last B batches
    o_g = D(o_c, z_s^q)     act it out on an unrelated frame, often another body's
    z_e = E(o_c, o_g)       read it back, before quantisation
    L_C = mean over the l_z slots of CE(-d(z_e, e_k) / tau, code of z_s)

Letters in shapes: B batch, L tokens of a latent action, K codes, D code width, H W picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cyclemimic.tokenizer.encoder import NowStream
from cyclemimic.tokenizer.quantizer import VectorQuantizer
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer


@dataclass(frozen=True, kw_only=True)
class AC3Config:
    """The dials of AC3.

    Args:
        temperature: tau.
        squared: d is the squared Euclidean distance instead of the Euclidean one (Deviation D2).
        gradient_into_decoder: share of L_C's gradient that reaches D; 0 teaches E alone.
        noise: standard deviation, in units of the full range of a pixel, of the noise on o_g before it is read.
        blur: whether o_g is blurred for half of the batch before it is read; both spoil what D could hide in pixels.
    """

    temperature: float = 0.2
    squared: bool = False
    gradient_into_decoder: float = 0.3
    noise: float = 0.05
    blur: bool = True


@dataclass(frozen=True, kw_only=True)
class Cycle:
    """One turn of the cycle."""

    scene: Tensor  # o_c [B, 3, H, W]
    generated: Tensor  # o_g [B, 3, H, W], before noise and blur
    loss: Tensor  # L_C, scalar
    recovered: Tensor  # share of codes read back as they were drawn; never evidence alone (signatures)


def run_cycle(
    tokenizer: LatentActionTokenizer,
    frames: Tensor,
    stream: NowStream,
    drawn: Tensor,
    config: AC3Config,
    generator: torch.Generator,
) -> Cycle:
    """Act the drawn codes [B, L] out on o_c = `frames` [B, 3, H, W] and ask E for them back.

    Paper: method, action-centric cycle consistency. `stream` is E's stream of o_c: what E knew of these frames before
    is what it knows now, for the frame now never sees what follows; so it is computed once for both passes.
    """
    # z_s is a constant look-up: no gradient reaches the codebook through it.
    generated = tokenizer.decode(frames, tokenizer.quantizer.look_up(drawn)).frames
    seen = corrupt(scale_gradient(generated, config.gradient_into_decoder), config, generator)
    embedding = tokenizer.read(stream, frames, seen, batch_statistics=False)
    return Cycle(
        scene=frames,
        generated=generated,
        loss=cycle_loss(embedding, drawn, tokenizer.quantizer, config),
        recovered=(tokenizer.quantizer.distances(embedding).argmin(-1) == drawn).float().mean(),
    )


def cycle_loss(embedding: Tensor, drawn: Tensor, quantizer: VectorQuantizer, config: AC3Config) -> Tensor:
    """L_C: cross-entropy over codes with logits -d(z_e, e_k) / tau, mean over slots and batch.

    Args:
        embedding: z_e [B, L, D].
        drawn: the codes of z_s [B, L], the answer.
    """
    distances = quantizer.distances(embedding)
    logits = -(distances.square() if config.squared else distances) / config.temperature
    return F.cross_entropy(logits.flatten(0, 1), drawn.flatten())


def scale_gradient(x: Tensor, share: float) -> Tensor:
    """The value of `x` with `share` of its gradient."""
    # The rest of the gradient, that would teach D how to be read, stops here.
    return x if share == 1 else x * share + x.detach() * (1 - share)


def corrupt(frames: Tensor, config: AC3Config, generator: torch.Generator) -> Tensor:
    """Blur half of the batch and add noise: what D hides in fine pixel patterns does not survive. Engineering."""
    if config.blur:
        half = len(frames) // 2
        blurred = F.avg_pool2d(F.pad(frames[:half], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        frames = torch.cat([blurred, frames[half:]])
    if config.noise:
        frames = frames + config.noise * torch.randn(frames.shape, generator=generator).to(frames)
    return frames
