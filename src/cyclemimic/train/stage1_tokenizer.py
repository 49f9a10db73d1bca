"""Stage 1: learn the latent action tokenizer from frame pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cyclemimic.data.loader import PairLoader
from cyclemimic.errors import InputError
from cyclemimic.nn.batches import PairBatch, pixels
from cyclemimic.randomness import entropy_for
from cyclemimic.tokenizer.buffer import LatentActionBuffer
from cyclemimic.tokenizer.discriminator import Discriminator, DiscriminatorConfig
from cyclemimic.tokenizer.objective import ObjectiveConfig, critic_loss, gradient_norms, tokenizer_terms
from cyclemimic.tokenizer.quantizer import joint_codes, slot_perplexity
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer, TokenizerConfig
from cyclemimic.train.checkpoint import dotted
from cyclemimic.train.loop import train, use_threads
from cyclemimic.train.optim import (
    adamw,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
    update,
    warm_cosine,
    with_prefix,
    without_prefix,
)

USAGE_BATCHES = 16


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining:
    """Everything that decides how a tokenizer is trained.

    Args:
        gap_s: H, seconds between now and later.
        first_batch: number of the first batch of the data order; a branch goes on where its trunk ended.
        precision: bf16 is autocast; on a CPU it pays only where the processor multiplies bf16.
    """

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    gap_s: float = 0.6
    steps: int = 2000
    batch_size: int = 32
    learning_rate: float = 2e-3
    critic_learning_rate: float = 5e-4
    weight_decay: float = 0.01
    warmup: int = 100
    final_learning_rate: float = 0.1
    clip_norm: float = 1.0
    buffer_batches: int = 4
    first_batch: int = 0
    seed: int = 0
    threads: int = 1
    checkpoint_every: int = 250
    gradient_norms_every: int = 100
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"


class TokenizerStage:
    """Trains E, codebook and D, and for AC3 also Psi. Meets `train.loop.Stage`."""

    def __init__(self, config: TokenizerTraining, loader: PairLoader) -> None:
        torch.manual_seed(entropy_for(config.seed, 0, "tokenizer/initialisation"))
        self.config, self.loader, self.device = config, loader, torch.device(config.device)
        self.tokenizer = LatentActionTokenizer(config.tokenizer).train().to(self.device)
        self.optimizer = adamw(self.tokenizer, learning_rate=config.learning_rate, weight_decay=config.weight_decay)
        self.critic: Discriminator | None = None
        self.buffer: LatentActionBuffer | None = None
        if config.objective.objective == "ac3":
            self.critic = Discriminator(config.discriminator, size_px=config.tokenizer.size_px).to(self.device)
            self.critic_optimizer = adamw(
                self.critic, learning_rate=config.critic_learning_rate, weight_decay=0.0, betas=(0.5, 0.99)
            )
            self.buffer = LatentActionBuffer(
                num_batches=config.buffer_batches,
                batch_size=config.batch_size,
                num_tokens=config.tokenizer.encoder.num_tokens,
            ).to(self.device)
        # Usage is told over the last batches: one batch has too few pairs to hold more joint codes than its size.
        self.recent = LatentActionBuffer(
            num_batches=USAGE_BATCHES,
            batch_size=config.batch_size,
            num_tokens=config.tokenizer.encoder.num_tokens,
        ).to(self.device)
        self.on_steps = {
            "cycle": torch.zeros((), dtype=torch.int64),
            "discriminator": torch.zeros((), dtype=torch.int64),
        }

    def begin_from(self, trunk: LatentActionTokenizer) -> None:
        """Start from another tokenizer's weights and codebook. InputError where its configuration is another one."""
        there, here = dotted(asdict(trunk.config)), dotted(asdict(self.config.tokenizer))
        if there != here:
            raise InputError(
                "--trunk",
                expected="a tokenizer of the same configuration",
                got=", ".join(f"{k} {v} there, {here[k]} here" for k, v in there.items() if v != here[k]),
                remedy="Train a trunk with this configuration, or go without one.",
            )
        self.tokenizer.load_state_dict(trunk.state_dict())

    def step(self, step: int) -> Mapping[str, Tensor]:
        """One update of the tokenizer, then one of its critic."""
        config = self.config
        arrays = self.loader.batch(config.first_batch + step)
        batch = PairBatch(
            now=pixels(arrays.now, self.device),
            later=pixels(arrays.later, self.device),
            body=torch.from_numpy(arrays.body).to(self.device),
        )
        # On the CPU wherever the network is: the same draws on every device.
        generator = torch.Generator().manual_seed(entropy_for(config.seed, config.first_batch + step, "tokenizer/step"))
        progress = step / config.steps
        with self._autocast():
            terms = tokenizer_terms(
                self.tokenizer, self.critic, self.buffer, batch, config.objective, progress, generator
            )
        figures: dict[str, Tensor] = dict(terms.losses)
        if (step + 1) % config.gradient_norms_every == 0 or step + 1 == config.steps:
            figures |= gradient_norms(self.tokenizer, terms)

        rate = warm_cosine(step, steps=config.steps, warmup=config.warmup, final=config.final_learning_rate)
        set_learning_rate(self.optimizer, config.learning_rate * rate)
        figures["gradient_norm"] = update(self.optimizer, terms.total, clip_norm=config.clip_norm)
        reset = self.tokenizer.quantizer.follow(terms.latent, generator)
        if self.buffer is not None and self.critic is not None:
            self.buffer.forget(reset)
            with self._autocast():
                loss = critic_loss(self.critic, terms, config.objective.adversarial)
            update(self.critic_optimizer, loss, clip_norm=config.clip_norm)
            figures["critic"] = loss
        for name, count in self.on_steps.items():
            count += int(name in terms.losses)
        if terms.recovered is not None:
            figures["cycle_accuracy"] = terms.recovered
        self.recent.push(terms.latent.codes, batch.body)
        used = self.recent.codes[self.recent.bodies >= 0]
        figures["joint_codes"] = joint_codes(used, self.tokenizer.num_codes)
        figures["slot_perplexity"] = slot_perplexity(used, self.tokenizer.num_codes).mean()
        return figures

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def state(self) -> dict[str, Tensor]:
        """Weights, codebook, buffer, both optimisers, counters."""
        tensors = with_prefix(self.tokenizer.state_dict(), "tokenizer") | optimizer_tensors(self.optimizer, "optimizer")
        tensors |= with_prefix(self.on_steps, "on_steps") | with_prefix(self.recent.state_dict(), "recent")
        if self.critic is not None and self.buffer is not None:
            tensors |= with_prefix(self.critic.state_dict(), "critic") | with_prefix(self.buffer.state_dict(), "buffer")
            tensors |= optimizer_tensors(self.critic_optimizer, "critic_optimizer")
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Undo `state`."""
        self.tokenizer.load_state_dict(without_prefix(tensors, "tokenizer"))
        load_optimizer_tensors(self.optimizer, tensors, "optimizer")
        self.on_steps = without_prefix(tensors, "on_steps")
        self.recent.load_state_dict(without_prefix(tensors, "recent"))
        if self.critic is not None and self.buffer is not None:
            self.critic.load_state_dict(without_prefix(tensors, "critic"))
            self.buffer.load_state_dict(without_prefix(tensors, "buffer"))
            load_optimizer_tensors(self.critic_optimizer, tensors, "critic_optimizer")


def train_tokenizer(
    config: TokenizerTraining,
    loader: PairLoader,
    run_dir: Path,
    *,
    trunk: Path | None = None,
    name: str = "tokenizer",
    data: Mapping[str, Any] | None = None,
) -> Path:
    """Train (or resume) a tokenizer in `run_dir`; returns `run_dir`, from which LatentActionTokenizer.load reads it.

    Args:
        trunk: folder of a tokenizer to begin from, so that two objectives branch off one reconstruction trunk.
        data: what the loader reads, for the record and to refuse a resume on other data.
    """
    use_threads(config.threads)
    stage = TokenizerStage(config, loader)
    if trunk is not None:
        stage.begin_from(LatentActionTokenizer.load(trunk))
    train(
        stage,
        name=name,
        run_dir=run_dir,
        config={**asdict(config), "trunk": None if trunk is None else trunk.name, "data": dict(data or {})},
        steps=config.steps,
        checkpoint_every=config.checkpoint_every,
        samples_per_step=config.batch_size,
    )
    on_steps = {name: int(count) for name, count in stage.on_steps.items()}
    # A loader knows the bodies of its caches; trained on were those of which it keeps pairs.
    seen = {body for body, pairs in zip(loader.bodies, loader.pairs_per_body, strict=True) if pairs}
    if trunk is not None:
        seen |= set(tokenizer_facts(trunk)["bodies"])
    stage.tokenizer.save(run_dir, {"gap_s": config.gap_s, "on_steps": on_steps, "bodies": sorted(seen)})
    return run_dir


def tokenizer_facts(run_dir: Path) -> dict[str, Any]:
    """What `train_tokenizer` wrote beside the weights: gap_s, on_steps, bodies, config."""
    facts: dict[str, Any] = json.loads((run_dir / "tokenizer.json").read_text())
    return facts
