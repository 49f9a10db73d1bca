"""What a recipe's tokenizer takes, before anything is trained: sizes on the meta device, and one real step."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from cyclemimic.data.loader import PairArrays
from cyclemimic.nn.pretrained import PretrainedBackbone
from cyclemimic.nn.vision import BackboneConfig
from cyclemimic.nn.vit_families import ARCHITECTURES
from cyclemimic.nn.words import WordHash
from cyclemimic.randomness import rng_for
from cyclemimic.recipes.sizes import Sizes, sizes_of
from cyclemimic.tokenizer.discriminator import build_critic
from cyclemimic.tokenizer.objective import Ramp, critic_shape
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.train.stage1_tokenizer import TokenizerStage, TokenizerTraining
from cyclemimic.types import Float32


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


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One real step: what it took."""

    pairs: int
    device: str
    seconds: float
    peak_bytes: int
    terms: tuple[str, ...]

    def text(self) -> str:
        """A line for the terminal."""
        return (
            f"one step of {self.pairs} pairs on {self.device}: {self.seconds:.1f} s, at most "
            f"{self.peak_bytes / 1e9:.2f} GB; terms {', '.join(self.terms)}"
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
    began_s = time.perf_counter()
    figures = stage.step(0)
    seconds = time.perf_counter() - began_s
    if device == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    else:
        peak = torch.cuda.max_memory_allocated(device)
    names = [name for name in on.weights(0.0) if name in figures]
    return StepReport(pairs=pairs, device=device, seconds=seconds, peak_bytes=peak, terms=tuple(names))
