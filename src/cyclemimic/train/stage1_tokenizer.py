"""Stage 1: learn the latent action tokenizer from frame pairs."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cyclemimic.data.loader import PairArrays, PairLoader
from cyclemimic.errors import InputError
from cyclemimic.nn.batches import LatentBatch, PairBatch, patches, pixels
from cyclemimic.nn.collectives import all_rows, my_rows, num_processes
from cyclemimic.randomness import entropy_for
from cyclemimic.store.feature_cache import FeatureCache
from cyclemimic.tokenizer.ac3 import Cycle
from cyclemimic.tokenizer.buffer import LatentActionBuffer
from cyclemimic.tokenizer.discriminator import DiscriminatorConfig, build_critic
from cyclemimic.tokenizer.further_terms import BodyClassifier, FlowHead, Helpers, Origin, SlowReader
from cyclemimic.tokenizer.objective import (
    ObjectiveConfig,
    critic_loss,
    critic_shape,
    gradient_norms,
    reconstruction_loss,
    tokenizer_terms,
)
from cyclemimic.tokenizer.quantizer import joint_codes, slot_perplexity
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer, TokenizerConfig
from cyclemimic.train.checkpoint import dotted
from cyclemimic.train.features import require_frozen, require_own_features
from cyclemimic.train.loop import LoopConfig, train, use_threads
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
from cyclemimic.train.processes import local_device, together
from cyclemimic.train.progress import Waiting
from cyclemimic.types import Float32, Gap

USAGE_BATCHES = 16
SETTLING_BATCHES = 64


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining:
    """Everything that decides how a tokenizer is trained.

    Args:
        gap_s: H, seconds between now and later, of all bodies or of each; `auto` is what `data.gap` proposes for each,
            and is settled before training.
        action_share: of the clips, whose true motion the term `actions` may use.
        first_batch: number of the first batch of the data order; a branch goes on where its trunk ended.
        precision: bf16 is autocast; on a CPU it pays only where the processor multiplies bf16.
    """

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    gap_s: Gap | Literal["auto"] = 0.6
    action_share: float = 0.02
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


class Pairs(Protocol):
    """What stage 1 asks of a loader; `PairLoader` is one."""

    @property
    def bodies(self) -> tuple[str, ...]:
        """Names of the embodiments."""
        ...

    @property
    def action_std(self) -> Float32 | None:
        """The scale of true actions [A], None where there are none."""
        ...

    def batch(self, step: int, rows: slice = ...) -> PairArrays:
        """The pairs of a step, or some rows of them."""
        ...


class TokenizerStage:
    """Trains E, codebook and D, and for AC3 also Psi. Meets `train.loop.Stage`."""

    def __init__(self, config: TokenizerTraining, loader: Pairs, backbone: nn.Module | None = None) -> None:
        torch.manual_seed(entropy_for(config.seed, 0, "tokenizer/initialisation"))
        self.loader, self.device = loader, torch.device(local_device(config.device))
        self.config = config = replace(config, objective=grouped(config.objective, config.batch_size))
        self.tokenizer = LatentActionTokenizer(config.tokenizer, backbone).train().to(self.device)
        self.critic: nn.Module | None = None
        self.buffer: LatentActionBuffer | None = None
        if config.objective.objective == "ac3":
            if config.tokenizer.words:
                raise InputError(
                    "TokenizerConfig.words",
                    expected="an E without words for AC3: o_c has a sentence of its own",
                    got="words",
                    remedy="Use words in the first stage of univla alone.",
                )
            if not self.tokenizer.draws and config.tokenizer.change in ("pixels", "matches"):
                raise InputError(
                    "TokenizerConfig.change",
                    expected="'features' or 'none' for AC3 with a decoder that draws no pixels",
                    got="'pixels'",
                    remedy="Change it in the recipe, or on the command line: --change features.",
                )
            self.critic = build_critic(config.discriminator, critic_shape(self.tokenizer))
            self.buffer = self._memory(config.buffer_batches)
        self._waiting = Waiting()
        self._batch: PairBatch | None = None
        self.helpers = self._helpers()
        trained = nn.ModuleList([self.tokenizer, self.helpers.trained()]).to(self.device)
        self.optimizer = adamw(trained, learning_rate=config.learning_rate, weight_decay=config.weight_decay)
        if self.critic is not None:
            self.critic_optimizer = adamw(
                self.critic.to(self.device), learning_rate=config.critic_learning_rate, weight_decay=0.0,
                betas=(0.5, 0.99),
            )  # fmt: skip
        # Usage is told over the last batches: one batch has too few pairs to hold more joint codes than its size.
        self.recent = self._memory(USAGE_BATCHES)
        self.on_steps = {
            "cycle": torch.zeros((), dtype=torch.int64),
            "discriminator": torch.zeros((), dtype=torch.int64),
        }

    def begin_from(self, trunk: LatentActionTokenizer) -> None:
        """Start from another tokenizer's weights and codebook. InputError where its configuration is another one."""
        here_config = self.config.tokenizer
        if here_config.given_tokens and not trunk.config.given_tokens:
            wanted = _first_stage_sizes(here_config, num_tokens=here_config.given_tokens)
            found = _first_stage_sizes(trunk.config, num_tokens=trunk.config.encoder.num_tokens)
            if wanted != found or trunk.backbone_sha256 != self.tokenizer.backbone_sha256:
                raise InputError(
                    "--trunk",
                    expected=f"a first stage of {wanted} on backbone {self.tokenizer.backbone_sha256 or 'conv'}",
                    got=f"one of {found} on backbone {trunk.backbone_sha256 or 'conv'}",
                    remedy="Train a first stage with this recipe.",
                )
            self.tokenizer.take_over(trunk)
            self._restart_reader()
            return
        there, here = dotted(asdict(trunk.config)), dotted(asdict(here_config))
        if there != here:
            raise InputError(
                "--trunk",
                expected="a tokenizer of the same configuration",
                got=", ".join(f"{k} {v} there, {here[k]} here" for k, v in there.items() if v != here[k]),
                remedy="Train a trunk with this configuration, or go without one.",
            )
        self.tokenizer.load_own_state(trunk.own_state())
        self._restart_reader()

    def take_backbone(self, other: LatentActionTokenizer) -> None:
        """See what another tokenizer's backbone sees; it is frozen here. InputError where it would learn."""
        if self.config.tokenizer.backbone != replace(other.config.backbone, trainable=False):
            raise InputError(
                "--backbone",
                expected="the other tokenizer's backbone, frozen",
                got=str(self.config.tokenizer.backbone),
                remedy="Take the configuration from recipes/objectives.py::with_backbone.",
            )
        self.tokenizer.backbone.load_state_dict(other.backbone.state_dict())
        self._restart_reader()

    def _restart_reader(self) -> None:
        if self.helpers.reader is not None:
            self.helpers.reader.restart(self.tokenizer)

    def step(self, step: int) -> Mapping[str, Tensor]:
        """One update of the tokenizer, then one of its critic."""
        config = self.config
        with self._waiting:
            batch = self.draw(step)
        self._batch = batch
        # On the CPU wherever the network is: the same draws on every device.
        generator = torch.Generator().manual_seed(entropy_for(config.seed, config.first_batch + step, "tokenizer/step"))
        progress = step / config.steps
        with self._autocast():
            terms = tokenizer_terms(
                self.tokenizer, self.critic, self.buffer, batch, config.objective, progress, generator, self.helpers
            )
        figures: dict[str, Tensor] = dict(terms.losses)
        if (step + 1) % config.gradient_norms_every == 0 or step + 1 == config.steps:
            figures |= gradient_norms(self.tokenizer, terms)
            with self._autocast():  # o_c was seen under it
                figures["reconstruction_shuffled"] = self._with_other_codes(batch, terms.latent)
                if terms.cycle is not None:
                    figures["cycle_accuracy_clean"] = self._read_clean(terms.cycle)

        rate = warm_cosine(step, steps=config.steps, warmup=config.warmup, final=config.final_learning_rate)
        set_learning_rate(self.optimizer, config.learning_rate * rate)
        figures["gradient_norm"] = update(self.optimizer, terms.total, clip_norm=config.clip_norm, terms=terms.losses)
        reset = self.tokenizer.quantizer.follow(terms.latent, generator)
        if self.helpers.reader is not None:
            self.helpers.reader.follow(self.tokenizer)
        if self.buffer is not None:
            self.buffer.forget(reset)
        if self.critic is not None and terms.judged is not None:
            with self._autocast():
                loss = critic_loss(self.critic, terms.judged, config.objective.adversarial)
            update(self.critic_optimizer, loss, clip_norm=config.clip_norm, terms={"critic": loss})
            figures["critic"] = loss
        for name, count in self.on_steps.items():
            count += int(name in terms.losses)
        if terms.cycle is not None:
            figures["cycle_accuracy"] = terms.cycle.recovered
        self.recent.push(all_rows(terms.latent.codes), all_rows(batch.body))
        used = self.recent.codes[self.recent.bodies >= 0]
        figures["joint_codes"] = joint_codes(used, self.tokenizer.num_codes)
        figures["slot_perplexity"] = slot_perplexity(used, self.tokenizer.num_codes).mean()
        figures["data_wait_s"] = self._waiting.taken()
        return figures

    @torch.no_grad()  # looked at, not learnt from
    def settle(self) -> None:
        """Measure the codebook's running statistics anew over many real pairs, with the weights as they now are.

        They lag behind weights that still move: the codes that are written down would not be those that D was taught.
        """
        said = []
        for step in range(self.config.steps, self.config.steps + SETTLING_BATCHES):
            batch = self.draw(step)
            with self._autocast():  # as in the steps of training
                now = self.tokenizer.see(batch.now, batch.now_patches)
                later = self.tokenizer.see(batch.later, batch.later_patches)
                said.append(self.tokenizer.read(self.tokenizer.watch(now, batch.words), now, later, batch.words))
        self.tokenizer.quantizer.settle(torch.cat(said)[:, self.config.tokenizer.given_tokens :])

    def last_batch(self) -> Mapping[str, Tensor]:
        """What the last step was given, on this process."""
        return {} if self._batch is None else {k: v for k, v in vars(self._batch).items() if v is not None}

    def draw(self, step: int) -> PairBatch:
        """The share of this process in the batch of a step."""
        arrays = self.loader.batch(self.config.first_batch + step, my_rows(self.config.batch_size))

        def moved(column: NDArray[Any] | None) -> Tensor | None:
            return None if column is None else torch.from_numpy(column).to(self.device)

        self._require(arrays)
        flow = moved(arrays.flow)
        looks = ("now_patches", "later_patches", "latest_patches")
        seen = {name: patches(rows, self.device) for name, rows in zip(looks, arrays.features, strict=False)}
        return PairBatch(
            now=pixels(arrays.now, self.device),
            later=pixels(arrays.later, self.device),
            body=torch.from_numpy(arrays.body).to(self.device),
            latest=None if arrays.latest is None else pixels(arrays.latest, self.device),
            flow=None if flow is None else flow.float(),
            words=moved(arrays.words),
            action=moved(arrays.action),
            action_known=moved(arrays.action_known),
            **seen,
        )

    @torch.no_grad()  # looked at, not learnt from
    def _with_other_codes(self, batch: PairBatch, latent: LatentBatch) -> Tensor:
        """The reconstruction with other pairs' latent actions: near that of the own ones, D ignores them."""
        now = self.tokenizer.see(batch.now, batch.now_patches)
        later = self.tokenizer.see(batch.later, batch.later_patches)
        rebuilt = self.tokenizer.decode(now, latent.vectors.roll(1, 0), given=latent.given, words=batch.words)
        return reconstruction_loss(rebuilt.scene, now, later)

    @torch.no_grad()  # looked at, not learnt from
    def _read_clean(self, cycle: Cycle) -> Tensor:
        """Share of codes that E reads from o_g as D made it; `cycle.recovered` is read behind noise and blur."""
        said = self.tokenizer.read(self.tokenizer.watch(cycle.scene), cycle.scene, cycle.generated)
        embedding = self.tokenizer.embed(said, batch_statistics=False)
        return (self.tokenizer.quantizer.distances(embedding).argmin(-1) == cycle.drawn).double().mean()

    def _memory(self, batches: int) -> LatentActionBuffer:
        tokens = self.config.tokenizer.encoder.num_tokens
        return LatentActionBuffer(
            num_batches=batches, batch_size=self.config.batch_size, num_tokens=tokens
        ).to(self.device)  # fmt: skip

    def _helpers(self) -> Helpers:
        """The networks of the further terms whose weight is not zero."""
        weights, sizes = self.config.objective, self.config.tokenizer
        code = {"num_tokens": sizes.encoder.num_tokens, "code_width": sizes.encoder.code_width}
        needs_flow = bool(weights.flow) and sizes.decoder != "motion"
        std = self.loader.action_std if weights.actions else None
        if weights.actions and std is None:
            raise _missing("ObjectiveConfig.actions", "actions")
        return Helpers(
            flow=FlowHead(**code) if needs_flow else None,
            adversary=BodyClassifier(**code, num_bodies=len(self.loader.bodies)) if weights.adversary else None,
            actions=None if std is None else nn.Linear(code["num_tokens"] * code["code_width"], len(std)),
            origin=Origin(**code) if weights.composition or weights.reversal else None,
            reader=SlowReader(self.tokenizer, weights.reader_decay)
            if weights.reader and weights.objective == "ac3"
            else None,
        )

    def _require(self, arrays: PairArrays) -> None:
        """InputError where the loader does not give what a term or E wants beside the pairs."""
        terms = self.config.objective
        for where, wanted, given, argument in (
            ("ObjectiveConfig.composition", terms.composition, arrays.latest, "triplets"),
            ("ObjectiveConfig.flow", terms.flow, arrays.flow, "flow"),
            ("ObjectiveConfig.actions", terms.actions, arrays.action, "actions"),
            ("TokenizerConfig.words", self.config.tokenizer.words, arrays.words, "words"),
        ):
            if wanted and given is None:
                raise _missing(where, argument)
        if arrays.features:
            require_frozen(self.tokenizer)
            require_own_features(self._features_sha256, arrays.features[0].recipe)

    @functools.cached_property
    def _features_sha256(self) -> str:
        """Asked for with the first batch, when the frozen backbone is what it will be."""
        return self.tokenizer.features_sha256

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def state(self) -> dict[str, Tensor]:
        """Weights, codebook, buffer, both optimisers, counters."""
        tensors = with_prefix(self.tokenizer.own_state(), "tokenizer") | optimizer_tensors(self.optimizer, "optimizer")
        tensors |= with_prefix(self.on_steps, "on_steps") | with_prefix(self.recent.state_dict(), "recent")
        tensors |= with_prefix(self.helpers.trained().state_dict(), "helpers")
        if self.helpers.reader is not None:
            tensors |= with_prefix(self.helpers.reader.reader.own_state(), "reader")
        if self.buffer is not None:
            tensors |= with_prefix(self.buffer.state_dict(), "buffer")
        if self.critic is not None:
            tensors |= with_prefix(self.critic.state_dict(), "critic")
            tensors |= optimizer_tensors(self.critic_optimizer, "critic_optimizer")
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Undo `state`."""
        self.tokenizer.load_own_state(without_prefix(tensors, "tokenizer"))
        load_optimizer_tensors(self.optimizer, tensors, "optimizer")
        self.on_steps = without_prefix(tensors, "on_steps")
        self.recent.load_state_dict(without_prefix(tensors, "recent"))
        self.helpers.trained().load_state_dict(without_prefix(tensors, "helpers"))
        if self.helpers.reader is not None:
            self.helpers.reader.reader.load_own_state(without_prefix(tensors, "reader"))
        if self.buffer is not None:
            self.buffer.load_state_dict(without_prefix(tensors, "buffer"))
        if self.critic is not None:
            self.critic.load_state_dict(without_prefix(tensors, "critic"))
            load_optimizer_tensors(self.critic_optimizer, tensors, "critic_optimizer")


def _missing(where: str, argument: str) -> InputError:
    return InputError(
        where,
        expected=f"a loader that gives {argument}",
        got="none",
        remedy=f"Make the PairLoader with {argument}=..., or switch this off.",
    )


def _first_stage_sizes(config: TokenizerConfig, *, num_tokens: int) -> dict[str, int]:
    """What must be alike for a second stage to take over the tokens and the codebook of a first one."""
    return {
        "num_tokens": num_tokens,
        "width": config.encoder.width,
        "code_width": config.encoder.code_width,
        "num_codes": config.quantizer.num_codes,
    }


def grouped(objective: ObjectiveConfig, batch_size: int) -> ObjectiveConfig:
    """The objective with a number of groups that the processes and the batch allow.

    Raises:
        InputError: the batch cannot be dealt to the processes.
    """
    my_rows(batch_size)
    groups = math.lcm(objective.groups, num_processes())
    return replace(objective, groups=groups if batch_size % groups == 0 else num_processes())


def train_tokenizer(
    config: TokenizerTraining,
    loader: PairLoader,
    run_dir: Path,
    *,
    trunk: Path | None = None,
    backbone: Path | None = None,
    name: str = "tokenizer",
    data: Mapping[str, Any] | None = None,
    features: Callable[[LatentActionTokenizer], Sequence[FeatureCache]] | None = None,
    loop: LoopConfig | None = None,
) -> Path:
    """Train (or resume) a tokenizer in `run_dir`; returns `run_dir`, from which LatentActionTokenizer.load reads it.

    Args:
        trunk: folder of a tokenizer to begin from, so that two objectives branch off one reconstruction trunk.
        backbone: folder of a tokenizer whose backbone is taken, frozen.
        data: what the loader reads, for the record and to refuse a resume on other data.
        features: gives, for each cache of the loader, its frames' features as the tokenizer's frozen backbone sees
            them, which is then run on generated frames alone; None: it sees every frame in every step.
        loop: what the run does beside its steps.
    """
    if config.tokenizer.given_tokens and trunk is None:
        raise InputError(
            "--trunk",
            expected="a first stage, whose tokens and codebook are given to this one",
            got="none",
            remedy="Train it first: recipes/objectives.py::univla_stages.",
        )
    use_threads(config.threads)
    stage = TokenizerStage(config, loader)
    if backbone is not None:
        stage.take_backbone(LatentActionTokenizer.load(backbone))
    if trunk is not None:
        stage.begin_from(LatentActionTokenizer.load(trunk))
    kept: Sequence[FeatureCache] = ()
    if features is not None:
        require_frozen(stage.tokenizer)
        kept = features(stage.tokenizer)
        loader.use_features(kept)
    train(
        stage,
        name=name,
        run_dir=run_dir,
        config={
            **asdict(config),
            "trunk": None if trunk is None else trunk.name,
            "backbone_from": None if backbone is None else backbone.name,
            "data": dict(data or {}),
        },
        steps=config.steps,
        checkpoint_every=config.checkpoint_every,
        samples_per_step=config.batch_size,
        loop=loop,
    )
    stage.settle()
    on_steps = {name: int(count) for name, count in stage.on_steps.items()}
    # A loader knows the bodies of its caches; trained on were those of which it keeps pairs.
    seen = {body for body, pairs in zip(loader.bodies, loader.pairs_per_body, strict=True) if pairs}
    if trunk is not None:
        seen |= set(tokenizer_facts(trunk)["bodies"])
    with together() as first:
        if first:
            facts: dict[str, Any] = {"gap_s": config.gap_s, "on_steps": on_steps, "bodies": sorted(seen)}
            if kept:
                facts["features"] = kept[0].recipe.stored_as
            stage.tokenizer.save(run_dir, facts)
    return run_dir


def tokenizer_facts(run_dir: Path) -> dict[str, Any]:
    """What `train_tokenizer` wrote beside the weights: gap_s, on_steps, bodies, config; how features were kept."""
    facts: dict[str, Any] = json.loads((run_dir / "tokenizer.json").read_text())
    return facts
