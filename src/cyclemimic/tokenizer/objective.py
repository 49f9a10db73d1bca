"""The objective: the only place where the terms of the tokenizer's loss are named, weighed and summed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.nn.batches import LatentBatch, PairBatch, Scene
from cyclemimic.nn.collectives import all_rows, global_mean, my_rows
from cyclemimic.nn.vision import FeatureBackbone
from cyclemimic.tokenizer.ac3 import AC3Config, Cycle, run_cycle
from cyclemimic.tokenizer.buffer import LatentActionBuffer
from cyclemimic.tokenizer.decoders import Decoded
from cyclemimic.tokenizer.discriminator import (
    AdversarialForm,
    Critic,
    CriticShape,
    Judgement,
    discriminator_loss,
    judge_once,
    realism_loss,
)
from cyclemimic.tokenizer.encoder import NowStream
from cyclemimic.tokenizer.further_terms import (
    Helpers,
    action_loss,
    adversary_loss,
    composition_loss,
    flow_loss,
    motion_weight,
    reversal_loss,
)
from cyclemimic.tokenizer.quantizer import at_least_float, commitment_loss, entropy_loss
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer

Objective = Literal["genie", "lapa", "univla", "ac3"]


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

    `genie` is reconstruction alone, the control; `ac3` adds the cycle and the discriminator. `lapa` and `univla` are
    reconstruction alone too; what sets them apart is in the tokenizer (`recipes/objectives.py`). All else is shared.

    Args:
        groups: o_c comes from the same group of the batch, so that groups can lie on different processes.
        motion_weight: how much more moving places count in the reconstruction; 0 counts all alike.
        composition: weight of z(a, b) + z(b, c) = z(a, c); needs triplets.
        reversal: weight of z(a, b) = -z(b, a).
        flow: weight of optical flow as a target; needs the loader's flow.
        reader: weight of L_C as a slow copy of E reads it, which teaches D.
        reader_decay: of that copy.
        adversary: weight of not letting an embedding tell the body.
        actions: weight of reading true actions, where the loader knows them.
    """

    objective: Objective = "ac3"
    reconstruction: float = 1.0
    commitment: float = 0.1
    entropy: float = 0.02
    painted: float = 0.02
    cycle: Ramp = field(default_factory=lambda: Ramp(weight=0.2, start=0.1, length=0.4))
    realism: Ramp = field(default_factory=lambda: Ramp(weight=0.005, start=0.05, length=0.2))
    ac3: AC3Config = field(default_factory=AC3Config)
    adversarial: AdversarialForm = "logistic"
    groups: int = 2
    motion_weight: float = 0.0
    composition: float = 0.0
    reversal: float = 0.0
    flow: float = 0.0
    reader: float = 0.0
    reader_decay: float = 0.99
    adversary: float = 0.0
    actions: float = 0.0

    def weights(self, progress: float) -> dict[str, float]:
        """The weight of every term when `progress`, in [0, 1), of the run is done."""
        ac3 = self.objective == "ac3"
        cycle = self.cycle.at(progress) if ac3 else 0.0
        return {
            "reconstruction": self.reconstruction,
            "commitment": 0.0 if self.objective == "lapa" else self.commitment,  # NSVQ has none
            "entropy": self.entropy,
            "painted": self.painted,
            "cycle": cycle,
            "discriminator": self.realism.at(progress) if ac3 else 0.0,
            "composition": self.composition,
            "reversal": self.reversal,
            "flow": self.flow,
            "reader": self.reader if cycle else 0.0,
            "adversary": self.adversary,
            "actions": self.actions,
        }


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Real and generated scenes for Psi, each behind the scene that it follows."""

    real: Scene
    real_now: Scene
    fake: Scene
    fake_now: Scene
    verdict: Judgement | None = None  # what Psi said of `fake` when D was judged; its gradient reaches Psi alone


@dataclass(frozen=True, kw_only=True)
class Terms:
    """One evaluation of the objective: each term unweighted, their weights, and what the critic and the log need."""

    losses: Mapping[str, Tensor]
    weights: Mapping[str, float]
    latent: LatentBatch
    cycle: Cycle | None  # None where it is off
    judged: Judged | None  # what Psi judges, None where it is off

    @property
    def total(self) -> Tensor:
        """The weighted sum. Every term has a weight and every weight a term."""
        if self.losses.keys() != {k for k, w in self.weights.items() if w != 0}:
            raise AssertionError(f"terms {sorted(self.losses)} do not match weights {self.weights}")
        return torch.stack([self.weights[name] * loss for name, loss in self.losses.items()]).sum()


def reconstruction_loss(rebuilt: Scene, now: Scene, later: Scene, *, strength: float = 0.0) -> Tensor:
    """||D(o_t, z^q) - o_t+H||^2 as a ratio to copying o_t, so that 1 is a decoder that does nothing.

    Of frames, or of features where D predicts these. With `strength` what moves counts more.
    """
    weight: Tensor | None = None
    if strength:
        assert now.frames is not None and later.frames is not None
        weight = motion_weight(now.frames, later.frames, strength)
    if rebuilt.frames is None:
        assert now.features is not None
        if weight is not None:
            weight = F.adaptive_avg_pool2d(weight, now.features.grid).flatten(2).transpose(1, 2)  # as [B, N, 1]
        now, later = Scene(features=now.features), Scene(features=later.features)
    before, after = at_least_float(now.signal), at_least_float(later.signal)
    error, copying = (rebuilt.signal - after).square(), (before - after).square()
    if weight is not None:
        error, copying = error * weight, copying * weight
    return error.mean() / global_mean(copying.mean()).clamp_min(1e-6)


def tokenizer_terms(
    tokenizer: LatentActionTokenizer,
    critic: Critic | None,
    buffer: LatentActionBuffer | None,
    batch: PairBatch,
    config: ObjectiveConfig,
    progress: float,
    generator: torch.Generator,
    helpers: Helpers | None = None,
) -> Terms:
    """All terms on one batch, when `progress` of the run is done; pushes the batch's latent actions into the buffer.

    On several processes `batch` is this process's share; every process draws the same numbers for the whole batch.
    """
    weights = config.weights(progress)
    helpers = helpers or Helpers()
    losses: dict[str, Tensor] = {}

    # What happened? Name the change between the two frames, and replay it.
    now, later = tokenizer.see(batch.now, batch.now_patches), tokenizer.see(batch.later, batch.later_patches)
    stream = tokenizer.watch(now, batch.words)
    said = tokenizer.read(stream, now, later, batch.words)
    latent = tokenizer.quantize(said, batch_statistics=True, generator=generator)
    rebuilt = tokenizer.decode(now, latent.vectors, given=latent.given, words=batch.words)
    losses["reconstruction"] = reconstruction_loss(rebuilt.scene, now, later, strength=config.motion_weight)
    losses["commitment"] = commitment_loss(latent, tokenizer.quantizer)
    losses["entropy"] = entropy_loss(latent, tokenizer.quantizer, config.ac3.temperature)
    losses["painted"] = rebuilt.painted.mean()

    cycle: Cycle | None = None
    judged: Judged | None = None
    if config.objective == "ac3":
        assert buffer is not None
        # AC3: a latent action that was seen lately, on a frame it was not seen on.
        bodies = all_rows(batch.body)
        buffer.push(all_rows(latent.codes), bodies)  # before drawing: B = 1 means this batch alone
        mine = my_rows(len(bodies))
        drawn, seen_on = buffer.sample(len(bodies), generator, inverse_frequency=config.ac3.inverse_frequency)
        order = unrelated(bodies, seen_on if config.ac3.other_body else None, config.groups, generator)
        if weights["cycle"]:
            place = order[mine].to(batch.now.device) - mine.start
            cycle = run_cycle(tokenizer, now.take(place), stream.take(place), drawn[mine], config.ac3, generator, said)
            losses["cycle"] = cycle.loss
            if weights["reader"]:
                assert helpers.reader is not None
                losses["reader"] = helpers.reader.loss(cycle, drawn[mine], config.ac3)
        if critic is not None:
            judged = _for_the_critic(tokenizer, now, later, latent, cycle)
            if weights["discriminator"]:
                losses["discriminator"], verdict = judge_once(
                    critic, judged.fake, judged.fake_now, lambda said: realism_loss(said, config.adversarial)
                )
                judged = replace(judged, verdict=verdict)
    if critic is None:
        weights["discriminator"] = 0.0  # there is nobody to judge
    losses |= _further(tokenizer, helpers, batch, weights, now, later, stream, said, latent, rebuilt)
    return Terms(
        losses={k: v for k, v in losses.items() if weights[k]},
        weights=weights,
        latent=latent,
        cycle=cycle,
        judged=judged,
    )


def unrelated(bodies: Tensor, seen_on: Tensor | None, groups: int, generator: torch.Generator) -> Tensor:
    """Which scene of the whole batch [B] each drawn latent action is acted out on: one of its own group.

    A permutation; or, where the bodies `seen_on` of the drawn actions are given, any scene of another body (of any
    body where the group shows no other).
    """
    assert len(bodies) % groups == 0, "groups are of one size"
    size = len(bodies) // groups
    if seen_on is None:
        parts = [torch.randperm(size, generator=generator) + start for start in range(0, len(bodies), size)]
        return torch.cat(parts)
    chosen = []
    for start in range(0, len(bodies), size):
        keys = torch.rand(size, size, generator=generator)
        other = (seen_on[start : start + size, None] != bodies[None, start : start + size]).cpu()
        chosen.append((keys + other).argmax(1) + start)  # keys are below 1: another body always wins
    return torch.cat(chosen)


def _for_the_critic(
    tokenizer: LatentActionTokenizer, now: Scene, later: Scene, latent: LatentBatch, cycle: Cycle | None
) -> Judged:
    """Real and generated scenes, as many D(o_t, z_t) as D(o_c, z_s) once the cycle runs.

    Half of the batch is judged: Psi's passes are what costs most in a step of AC3, and it wins soon enough. On several
    processes these are the rows of one process where each has a multiple of four.
    """
    quarter = slice(0, None, 4)
    fake_now = now.take(quarter)
    # E's and the codebook's gradient stops: L_D teaches D to be realistic, not E to be easy to draw.
    given = None if latent.given is None else latent.given[quarter].detach()
    fake = tokenizer.decode(fake_now, latent.vectors[quarter].detach(), given=given).scene
    if cycle is not None:
        fake, fake_now = fake.joined(cycle.generated.take(quarter)), fake_now.joined(cycle.scene.take(quarter))
    others = slice(1, None, 4 if cycle is None else 2)
    return Judged(real=later.take(others), real_now=now.take(others), fake=fake, fake_now=fake_now)


def _further(
    tokenizer: LatentActionTokenizer,
    helpers: Helpers,
    batch: PairBatch,
    weights: Mapping[str, float],
    now: Scene,
    later: Scene,
    stream: NowStream,
    said: Tensor,
    latent: LatentBatch,
    rebuilt: Decoded,
) -> dict[str, Tensor]:
    """The terms of `further_terms.py` whose weight is not zero."""
    losses: dict[str, Tensor] = {}
    if weights["composition"]:
        assert batch.latest is not None, "composition needs triplets from the loader"
        assert helpers.origin is not None
        latest = tokenizer.see(batch.latest, batch.latest_patches)
        losses["composition"] = composition_loss(
            tokenizer, helpers.origin, said, stream, now, later, latest, batch.words
        )
    if weights["reversal"]:
        assert helpers.origin is not None
        losses["reversal"] = reversal_loss(tokenizer, helpers.origin, said, now, later, batch.words)
    if weights["flow"]:
        losses["flow"] = flow_loss(rebuilt, batch, latent.vectors, helpers.flow)
    if weights["adversary"]:
        assert helpers.adversary is not None
        losses["adversary"] = adversary_loss(helpers.adversary, latent.embedding, batch.body)
    if weights["actions"]:
        assert helpers.actions is not None
        losses["actions"] = action_loss(helpers.actions, latent.embedding, batch)
    return losses


def critic_shape(tokenizer: LatentActionTokenizer) -> CriticShape:
    """What Psi judges of this tokenizer: its frames, or the features of a decoder that draws none."""
    size_px, backbone = tokenizer.config.size_px, cast(FeatureBackbone, tokenizer.backbone)
    if tokenizer.draws:
        return CriticShape(size_px=size_px)
    return CriticShape(size_px=size_px, feature_width=backbone.width, grid=backbone.grid_for(size_px))


def critic_loss(critic: Critic, judged: Judged, form: AdversarialForm) -> Tensor:
    """L_Psi on the scenes of this update, with the weights that Psi had when D was judged.

    What Psi said of the generated scenes then is not asked again, so that this can be learnt from once.
    """
    # D's gradient stops: Psi learns from frames that the tokenizer can no longer change.
    real, fake = critic(judged.real.detached(), judged.real_now.detached()), judged.verdict
    if fake is None:
        fake = critic(judged.fake.detached(), judged.fake_now.detached())
    return discriminator_loss(real, fake, form)


def gradient_norms(tokenizer: LatentActionTokenizer, terms: Terms) -> dict[str, Tensor]:
    """Norm of each weighted term's gradient on E (backbone included) and on D: says which term teaches whom."""
    reader = [m for m in (tokenizer.backbone, tokenizer.encoder, tokenizer.change, tokenizer.words) if m is not None]
    parts: dict[str, list[nn.Module]] = {"encoder": reader, "decoder": [tokenizer.decoder]}
    norms = {}
    for name, loss in terms.losses.items():
        if not loss.requires_grad:
            continue
        for part, modules in parts.items():
            parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
            gradients = torch.autograd.grad(
                terms.weights[name] * loss, parameters, retain_graph=True, allow_unused=True
            )
            # Meaned over the processes before the norm is taken; only looked at.
            squares = [global_mean(g.detach()).square().sum() for g in gradients if g is not None]
            norms[f"gradient.{name}.{part}"] = torch.stack(squares).sum().sqrt() if squares else torch.zeros(())
    return norms
