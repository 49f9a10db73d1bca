"""The objective: the only place where the terms of the tokenizer's loss are named, weighed and summed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.nn.batches import LatentBatch, PairBatch
from cyclemimic.tokenizer.ac3 import AC3Config, Cycle, run_cycle
from cyclemimic.tokenizer.buffer import LatentActionBuffer
from cyclemimic.tokenizer.discriminator import (
    AdversarialForm,
    Discriminator,
    discriminator_loss,
    frozen,
    realism_loss,
)
from cyclemimic.tokenizer.quantizer import commitment_loss, entropy_loss
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """A weight over a run: zero before `start`, then linear to `weight` within `length`, both as shares of the run."""

    weight: float
    start: float = 0.0
    length: float = 0.0

    def at(self, progress: float) -> float:
        """The weight when `progress`, in [0, 1), of the run is done."""
        if progress < self.start:
            return 0.0
        return self.weight * min(1.0, (progress - self.start + 1e-3) / (self.length + 1e-3))


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Which terms count how much, from when.

    `genie` is reconstruction alone, the control; `ac3` adds the cycle and the discriminator. All else is shared.
    """

    objective: Literal["genie", "ac3"] = "ac3"
    reconstruction: float = 1.0
    commitment: float = 0.1
    entropy: float = 0.02
    painted: float = 0.02
    cycle: Ramp = field(default_factory=lambda: Ramp(weight=0.2, start=0.1, length=0.4))
    realism: Ramp = field(default_factory=lambda: Ramp(weight=0.005, start=0.05, length=0.2))
    ac3: AC3Config = field(default_factory=AC3Config)
    adversarial: AdversarialForm = "logistic"

    def weights(self, progress: float) -> dict[str, float]:
        """The weight of every term when `progress`, in [0, 1), of the run is done."""
        ac3 = self.objective == "ac3"
        return {
            "reconstruction": self.reconstruction,
            "commitment": self.commitment,
            "entropy": self.entropy,
            "painted": self.painted,
            "cycle": self.cycle.at(progress) if ac3 else 0.0,
            "discriminator": self.realism.at(progress) if ac3 else 0.0,
        }


@dataclass(frozen=True, kw_only=True)
class Terms:
    """One evaluation of the objective: each term unweighted, their weights, and what the critic and the log need."""

    losses: Mapping[str, Tensor]
    weights: Mapping[str, float]
    latent: LatentBatch
    recovered: Tensor | None  # share of codes read back, None where the cycle is off
    real: Tensor | None  # frames for Psi [b, 3 or 6, H, W], None where it is off
    fake: Tensor | None

    @property
    def total(self) -> Tensor:
        """The weighted sum. Every term has a weight and every weight a term."""
        if self.losses.keys() != {k for k, w in self.weights.items() if w != 0}:
            raise AssertionError(f"terms {sorted(self.losses)} do not match weights {self.weights}")
        return torch.stack([self.weights[name] * loss for name, loss in self.losses.items()]).sum()


def reconstruction_loss(rebuilt: Tensor, batch: PairBatch) -> Tensor:
    """||D(o_t, z^q) - o_t+H||^2 as a ratio to copying o_t, so that 1 is a decoder that does nothing."""
    return F.mse_loss(rebuilt, batch.later) / F.mse_loss(batch.now, batch.later).clamp_min(1e-6)


def tokenizer_terms(
    tokenizer: LatentActionTokenizer,
    critic: Discriminator | None,
    buffer: LatentActionBuffer | None,
    batch: PairBatch,
    config: ObjectiveConfig,
    progress: float,
    generator: torch.Generator,
) -> Terms:
    """All terms on one batch, when `progress` of the run is done; pushes the batch's latent actions into the buffer."""
    weights = config.weights(progress)
    losses: dict[str, Tensor] = {}

    # What happened? Name the change between the two frames, and replay it.
    stream = tokenizer.watch(batch.now)
    latent = tokenizer.quantizer(tokenizer.read(stream, batch.now, batch.later, batch_statistics=True))
    rebuilt = tokenizer.decode(batch.now, latent.vectors)
    losses["reconstruction"] = reconstruction_loss(rebuilt.frames, batch)
    losses["commitment"] = commitment_loss(latent, tokenizer.quantizer)
    losses["entropy"] = entropy_loss(latent, tokenizer.quantizer, config.ac3.temperature)
    losses["painted"] = rebuilt.painted.mean()

    real = fake = cycle = None
    if config.objective == "ac3":
        assert buffer is not None and critic is not None
        # AC3: a latent action that was seen lately, on a frame it was not seen on.
        buffer.push(latent.codes, batch.body)  # before drawing: B = 1 means this batch alone
        drawn, _ = buffer.sample(len(batch), generator)
        unrelated = torch.randperm(len(batch), generator=generator)
        if weights["cycle"]:
            scene = batch.now[unrelated]
            cycle = run_cycle(tokenizer, scene, stream.take(unrelated), drawn, config.ac3, generator)
            losses["cycle"] = cycle.loss
        real, fake = _for_the_critic(tokenizer, critic, batch, latent, cycle)
        if weights["discriminator"]:
            with frozen(critic):
                losses["discriminator"] = realism_loss(critic(fake), config.adversarial)
    active = {k: w for k, w in weights.items() if w or k in losses}
    return Terms(
        losses={k: v for k, v in losses.items() if active[k]},
        weights=weights,
        latent=latent,
        recovered=None if cycle is None else cycle.recovered,
        real=real,
        fake=fake,
    )


def _for_the_critic(
    tokenizer: LatentActionTokenizer,
    critic: Discriminator,
    batch: PairBatch,
    latent: LatentBatch,
    cycle: Cycle | None,
) -> tuple[Tensor, Tensor]:
    """Real and generated frames, as many D(o_t, z_t) as D(o_c, z_s) once the cycle runs.

    Half of the batch is judged: Psi's passes are what costs most in a step of AC3, and it wins soon enough.
    """
    some = len(batch) // 4
    # E's and the codebook's gradient stops: L_D teaches D to be realistic, not E to be easy to draw.
    generated = tokenizer.decode(batch.now[:some], latent.vectors[:some].detach()).frames
    scene = batch.now[:some]
    if cycle is not None:
        scene = torch.cat([scene, cycle.scene[:some]])
        generated = torch.cat([generated, cycle.generated[:some]])
    now, later = batch.now[-len(scene) :], batch.later[-len(scene) :]
    if not critic.config.judges_pairs:
        return later, generated
    return torch.cat([now, later], dim=1), torch.cat([scene, generated], dim=1)


def critic_loss(critic: Discriminator, terms: Terms, form: AdversarialForm) -> Tensor:
    """L_Psi on the frames of this update."""
    assert terms.real is not None and terms.fake is not None
    # D's gradient stops: Psi learns from frames that the tokenizer can no longer change.
    return discriminator_loss(critic(terms.real), critic(terms.fake.detach()), form)


def gradient_norms(tokenizer: LatentActionTokenizer, terms: Terms) -> dict[str, Tensor]:
    """Norm of each weighted term's gradient on E (backbone included) and on D: says which term teaches whom."""
    reader = [tokenizer.backbone, tokenizer.encoder] + ([tokenizer.change] if tokenizer.change is not None else [])
    parts: dict[str, list[nn.Module]] = {"encoder": reader, "decoder": [tokenizer.decoder]}
    norms = {}
    for name, loss in terms.losses.items():
        if not loss.requires_grad:
            continue
        for part, modules in parts.items():
            parameters = [p for m in modules for p in m.parameters()]
            gradients = torch.autograd.grad(
                terms.weights[name] * loss, parameters, retain_graph=True, allow_unused=True
            )
            squares = [g.square().sum() for g in gradients if g is not None]
            norms[f"gradient.{name}.{part}"] = torch.stack(squares).sum().sqrt() if squares else torch.zeros(())
    return norms
