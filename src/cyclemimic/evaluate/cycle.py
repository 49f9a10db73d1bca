"""The cycle, as a measurement: codes drawn, acted out on other frames, and read back by E, sharp and spoiled.

Never evidence alone: a decoder that signs its frames is read back perfectly. `leak.py` asks for the signature.
Letters in shapes: m transfers, L tokens of a latent action, S side of the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cyclemimic.evaluate.judge import blur
from cyclemimic.evaluate.models import LatentActionModel, act_out, draws, label_frames
from cyclemimic.evaluate.moments import Pairs
from cyclemimic.evaluate.transfer import TransferPlan
from cyclemimic.nn.batches import pixels
from cyclemimic.randomness import entropy_for
from cyclemimic.types import Int64

_NOISE = 0.05


@dataclass(frozen=True, kw_only=True)
class ActedOut:
    """Latent actions acted out on other frames: o_c, z_s and o_g."""

    scenes: Tensor  # [m, 3, S, S]
    drawn: Tensor  # [m, L]
    generated: Tensor  # [m, 3, S, S]


def act_plan(model: LatentActionModel, test: Pairs, codes: Int64, plan: TransferPlan) -> ActedOut | None:
    """Act the sources' codes [n, L] out on the plan's targets; None where nothing is drawn or planned."""
    if not draws(model) or not len(plan):
        return None
    scenes, drawn = pixels(test.now[plan.target]), torch.from_numpy(codes[plan.source])
    return ActedOut(scenes=scenes, drawn=drawn, generated=act_out(model, scenes, drawn))


@dataclass(frozen=True, kw_only=True)
class CycleAccuracy:
    """Share of codes read back from generated frames: as they are, with noise, blurred, in 8 bits."""

    clean: float
    noise: float
    blur: float
    eight_bit: float


def cycle_accuracy(model: LatentActionModel, acted: ActedOut | None, *, seed: int) -> CycleAccuracy:
    """Ask E for the codes that were drawn; NaN where nothing was acted out."""
    if acted is None:
        return CycleAccuracy(clean=math.nan, noise=math.nan, blur=math.nan, eight_bit=math.nan)
    generator = torch.Generator().manual_seed(entropy_for(seed, 0, "evaluate/noise"))
    made = acted.generated
    seen = {
        "clean": made,
        "noise": made + _NOISE * torch.randn(made.shape, generator=generator),
        "blur": blur(made),
        "eight_bit": eight_bit(made),
    }
    return CycleAccuracy(
        **{name: share_right(label_frames(model, acted.scenes, frames), acted.drawn) for name, frames in seen.items()}
    )


def eight_bit(frames: Tensor) -> Tensor:
    """Frames in [0, 1] as a file of pictures would keep them."""
    return (frames.clamp(0, 1) * 255).round() / 255


def share_right(told: Tensor, true: Tensor) -> float:
    """Share of equal codes, over slots and pairs."""
    return float((told == true).double().mean())
