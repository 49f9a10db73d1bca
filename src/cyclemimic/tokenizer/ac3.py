"""AC3, action-centric cycle consistency: make happen what nobody filmed, then recognise what was made to happen.

    z_s ~ Z        draw a latent action from the buffer of the last B batches
    o_g = D(o_c, z_s^q)     act it out on an unrelated frame, often another body's
    z_e = E(o_c, o_g)       read it back, before quantisation
    L_C = mean over the l_z slots of CE(-d(z_e, e_k) / tau, code of z_s)

Letters in shapes: B batch, L tokens of a latent action, K codes, D code width, H W picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from cyclemimic.nn.batches import Features, Scene
from cyclemimic.nn.collectives import all_rows, global_mean, my_rows, num_processes
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
        other_body: whether o_c always shows another body than the one on which z_s was seen.
        inverse_frequency: whether rare latent actions are drawn from the buffer as often as common ones.
        trim: share of the batch whose L_C is worst and does not count: actions that cannot happen in o_c.
    """

    temperature: float = 0.2
    squared: bool = False
    gradient_into_decoder: float = 0.3
    noise: float = 0.05
    blur: bool = True
    other_body: bool = False
    inverse_frequency: bool = False
    trim: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Cycle:
    """One turn of the cycle."""

    scene: Scene  # o_c
    generated: Scene  # o_g, before noise and blur
    loss: Tensor  # L_C, scalar
    drawn: Tensor  # codes of z_s [B, L]
    recovered: Tensor  # share of codes read back as they were drawn; never evidence alone (signatures)


def run_cycle(
    tokenizer: LatentActionTokenizer,
    scene: Scene,
    stream: NowStream,
    drawn: Tensor,
    config: AC3Config,
    generator: torch.Generator,
    real: Tensor | None = None,
) -> Cycle:
    """Act the drawn codes [B, L] out on o_c = `scene` and ask E for them back.

    Paper: method, action-centric cycle consistency. `stream` is E's stream of o_c: what E knew of these frames before
    is what it knows now, for the frame now never sees what follows; so it is computed once for both passes. `real` is
    what E said of this step's real pairs: what it says here is whitened alike.
    """
    # z_s is a constant look-up: no gradient reaches the codebook through it.
    generated = tokenizer.decode(scene, tokenizer.quantizer.look_up(drawn)).scene
    seen = corrupt(dialled(generated, config.gradient_into_decoder), config, generator)
    embedding = tokenizer.embed(tokenizer.read(stream, scene, seen), batch_statistics=False, like=real)
    return Cycle(
        scene=scene,
        generated=generated,
        drawn=drawn,
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
    if not config.trim:
        return F.cross_entropy(logits.flatten(0, 1), drawn.flatten())
    each = F.cross_entropy(logits.flatten(0, 1), drawn.flatten(), reduction="none").view(drawn.shape).mean(1)
    everybody = all_rows(each.detach())  # only ranked: which rows count teaches nobody
    worst = everybody.kthvalue(max(1, round(len(everybody) * (1 - config.trim)))).values
    counts = (each.detach() <= worst).to(each.dtype)
    loss: Tensor = (each * counts).mean() / global_mean(counts.mean())
    return loss


def scale_gradient(x: Tensor, share: float) -> Tensor:
    """The value of `x` with `share` of its gradient."""
    # The rest of the gradient, that would teach D how to be read, stops here.
    return x if share == 1 else x * share + x.detach() * (1 - share)


def dialled(scene: Scene, share: float) -> Scene:
    """The same scenes with `share` of their gradient."""
    features = scene.features
    if features is not None:
        features = Features(patches=scale_gradient(features.patches, share), grid=features.grid)
    return Scene(frames=None if scene.frames is None else scale_gradient(scene.frames, share), features=features)


def corrupt(scene: Scene, config: AC3Config, generator: torch.Generator) -> Scene:
    """Blur half of the batch and add noise: what D hides in fine patterns does not survive. Engineering.

    Features get noise of `config.noise` deviations and no blur. The noise of the whole batch is drawn on the device;
    only its seed comes from `generator`.
    """
    signal = scene.signal
    whole = len(signal) * num_processes()
    own = torch.Generator(signal.device).manual_seed(int(torch.randint(2**62, (), generator=generator)))

    def noisy(x: Tensor, deviation: Tensor | float) -> Tensor:
        if not config.noise:
            return x
        noise = torch.randn((whole, *x.shape[1:]), generator=own, device=x.device, dtype=x.dtype)
        return x + config.noise * deviation * noise[my_rows(whole)]

    if scene.frames is None:
        assert scene.features is not None
        size = signal.detach()  # the scale of the noise teaches nobody
        deviation = global_mean((size - global_mean(size.mean())).square().mean()).sqrt()
        patches = noisy(signal, deviation)
        return Scene(features=replace(scene.features, patches=patches))
    frames = scene.frames
    if config.blur:
        blurred = F.avg_pool2d(F.pad(frames[::2], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        frames = frames.clone()
        frames[::2] = blurred
    return Scene(frames=noisy(frames, 1.0))
