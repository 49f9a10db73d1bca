"""What a recipe's tokenizer takes, before anything is trained: sizes on the meta device, and one real step."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from cyclemimic.data.loader import PairArrays
from cyclemimic.nn.pretrained import PretrainedBackbone
from cyclemimic.nn.vision import BackboneConfig
from cyclemimic.nn.vit_families import ARCHITECTURES
from cyclemimic.nn.words import WordHash
from cyclemimic.randomness import rng_for
from cyclemimic.recipes.objectives import univla_stages, with_backbone
from cyclemimic.recipes.sizes import ADAM_MOMENTS, Sizes, sizes_of
from cyclemimic.tokenizer.discriminator import build_critic
from cyclemimic.tokenizer.objective import Ramp, critic_shape
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.train.optim import ordered_parameters
from cyclemimic.train.stage1_tokenizer import TokenizerStage, TokenizerTraining
from cyclemimic.types import Float32

STEP_COUNT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class NoisePairs:
    """Stands in for a loader where only the time of a step matters: pairs of noise, with all that terms may want."""

    size_px: int
    batch_size: int
    bodies: tuple[str, ...] = ("noise",)

    @property
    def action_std(self) -> Float32:
        """Of its true actions, which are all zero."""
        return np.ones(3, np.float32)

    def batch(self, step: int, rows: slice = slice(None)) -> PairArrays:
        """Noise, the same for the same step."""
        rng, count, side = rng_for(0, step, "noise"), self.batch_size, self.size_px
        now, later, latest = rng.integers(0, 256, (3, count, side, side, 3), np.uint8)
        words = WordHash()
        whole = {
            "now": now, "later": later, "latest": latest,
            "body": np.zeros(count, np.int64), "clip": np.zeros(count, np.int64),
            "frame": np.zeros(count, np.int64), "pair": np.arange(count),
            "flow": np.zeros((count, 2, side // 4, side // 4), np.float16),
            "words": np.stack([words("noise")] * count),
            "action": np.zeros((count, 3), np.float32), "action_known": np.ones(count, np.bool_),
        }  # fmt: skip
        return PairArrays(**{name: column[rows] for name, column in whole.items()})


def random_backbone(config: BackboneConfig) -> nn.Module | None:
    """A pretrained backbone's architecture with random weights, so that nothing is downloaded; None for others."""
    if config.kind != "pretrained" or config.name not in ARCHITECTURES:
        return None
    return PretrainedBackbone.random(ARCHITECTURES[config.name], layer=config.layer, input_px=config.input_px)


def tokenizer_sizes(config: TokenizerTraining) -> Sizes:
    """Parameters, memory, and the work of encoding, decoding and judging one pair; nothing is allocated."""
    sizes = config.tokenizer
    with torch.device("meta"):
        tokenizer = LatentActionTokenizer(sizes, random_backbone(sizes.backbone)).eval()
        critic = build_critic(config.discriminator, critic_shape(tokenizer))
        now, later = torch.rand(2, 1, 3, sizes.size_px, sizes.size_px)
    parts: dict[str, nn.Module] = {
        "backbone": tokenizer.backbone,
        "E": nn.ModuleList([m for m in (tokenizer.encoder, tokenizer.change, tokenizer.words) if m is not None]),
        "codebook": tokenizer.quantizer,
        "D": tokenizer.decoder,
    }
    if critic is not None:
        parts["Psi"] = critic

    def one_pair() -> Tensor:
        with torch.no_grad():  # counted, not learnt from
            scene, after = tokenizer.see(now), tokenizer.see(later)
            said = tokenizer.read(tokenizer.watch(scene), scene, after)
            # Any code serves: finding the nearest vector is no work, and the meta device has none.
            decoded = tokenizer.decode(
                scene, tokenizer.quantizer.look_up(torch.zeros(1, sizes.encoder.num_tokens).long())
            )
            if critic is not None:
                critic(decoded.scene, scene)
        return said

    return sizes_of(parts, one_pair)


def checkpoint_bytes(config: TokenizerTraining) -> int:
    """Bytes of the tensors in a checkpoint of a tokenizer's training, optimizer moments included; nothing is allocated.

    Raises:
        InputError: as `TokenizerStage`.
    """
    sizes = config.tokenizer
    with torch.device("meta"):
        backbone = random_backbone(sizes.backbone)
        if backbone is not None:
            vars(backbone)["weights_sha256"] = "none"  # which the meta device cannot tell: there are no bytes
        pairs = NoisePairs(size_px=sizes.size_px, batch_size=config.batch_size)
        stage = TokenizerStage(replace(config, device="meta"), pairs, backbone)
    optimizers = [stage.optimizer, *([stage.critic_optimizer] if stage.critic is not None else [])]
    learning = [p for optimizer in optimizers for p in ordered_parameters(optimizer)]
    # AdamW makes its moments, and a count of steps for each weight, at its first step.
    moments = sum(ADAM_MOMENTS * p.nbytes + STEP_COUNT_BYTES for p in learning)
    return sum(t.nbytes for t in stage.state().values()) + moments


@dataclass(kw_only=True)
class KeptForGradients:
    """Counts what autograd keeps between the forward and the backward pass, weights apart. Engineering.

    Args:
        weights: places in memory that are there anyway.
        most_bytes: of one graph; those before it are gone when the next one is built.
    """

    weights: frozenset[int]
    most_bytes: int = 0
    _graph: dict[int, int] = field(default_factory=dict)

    def pack(self, tensor: Tensor) -> Tensor:
        """A tensor is kept; several views of one place count once."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.weights:
            self._graph[storage.data_ptr()] = storage.nbytes()
        return tensor

    def unpack(self, tensor: Tensor) -> Tensor:
        """A backward pass has begun: the graph is whole."""
        self.close()
        return tensor

    def close(self) -> None:
        """Nothing more is kept."""
        self.most_bytes = max(self.most_bytes, sum(self._graph.values()))
        self._graph.clear()


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One real step: what it took.

    Args:
        kept_bytes: what autograd kept for the gradient, in fp32, weights apart.
        recipe_pairs: the recipe's batch, for which it is multiplied.
    """

    pairs: int
    device: str
    seconds: float
    peak_bytes: int
    terms: tuple[str, ...]
    kept_bytes: int
    recipe_pairs: int

    def text(self) -> str:
        """Two lines for the terminal."""
        kept = self.kept_bytes / self.pairs
        return (
            f"one step of {self.pairs} pairs on {self.device}: {self.seconds:.1f} s, at most "
            f"{self.peak_bytes / 1e9:.2f} GB; terms {', '.join(self.terms)}\n"
            f"kept for the gradient: {kept / 1e6:.1f} MB a pair in fp32, "
            f"{kept * self.recipe_pairs / 1e9:.2f} GB for the recipe's {self.recipe_pairs} pairs"
        )


def one_step(config: TokenizerTraining, *, pairs: int = 2, device: str = "cpu") -> StepReport:
    """Take one real step on noise with every term on, from random weights of the backbone as well.

    Args:
        pairs: in the batch; the recipe's own batch would not fit a small machine.
    """
    terms = config.objective
    on = replace(
        terms, cycle=Ramp(weight=terms.cycle.weight), realism=Ramp(weight=terms.realism.weight), groups=1
    )  # fmt: skip
    small = replace(config, batch_size=pairs, objective=on, device=device, precision="fp32", buffer_batches=1)
    loader = NoisePairs(size_px=config.tokenizer.size_px, batch_size=pairs)
    stage = TokenizerStage(small, loader, random_backbone(config.tokenizer.backbone))
    modules: list[nn.Module] = [stage.tokenizer, *([stage.critic] if stage.critic is not None else [])]
    held = (t for module in modules for t in (*module.parameters(), *module.buffers()))
    kept = KeptForGradients(weights=frozenset(t.untyped_storage().data_ptr() for t in held))
    began_s = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
        figures = stage.step(0)
    kept.close()
    seconds = time.perf_counter() - began_s
    if device == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    else:
        peak = torch.cuda.max_memory_allocated(device)
    names = [name for name in on.weights(0.0) if name in figures]
    return StepReport(
        pairs=pairs,
        device=device,
        seconds=seconds,
        peak_bytes=peak,
        terms=tuple(names),
        kept_bytes=kept.most_bytes,
        recipe_pairs=config.batch_size,
    )


def rehearsed(
    config: TokenizerTraining, *, backbone: str | None = None, step: bool = False, device: str = "cpu"
) -> str:
    """What `cyclemimic tokenizer --dry-run` prints: sizes, a checkpoint's size, and with `step` one real step.

    Of `univla` it is the second stage, which holds more. A backbone of `ARCHITECTURES` gets random weights, so that
    nothing is downloaded.
    """
    if backbone is not None:
        config = with_backbone(config, backbone)
    if config.objective.objective == "univla" and not config.tokenizer.given_tokens:
        config = univla_stages(config)[1]
    lines = [tokenizer_sizes(config).text(), f"a checkpoint: {checkpoint_bytes(config) / 1e6:.1f} MB"]
    if step:
        lines.append(one_step(config, device=device).text())
    return "\n".join(lines)
