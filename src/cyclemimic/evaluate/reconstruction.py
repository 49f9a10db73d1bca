"""Reconstruction: D(o_t, z_t) against o_t+H, beside copying the frame and beside another latent action.

Letters in shapes: n pairs, L tokens of a latent action, S side of the picture.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from cyclemimic.evaluate.models import LatentActionModel, act_out, draws
from cyclemimic.evaluate.moments import Pairs
from cyclemimic.nn.batches import pixels
from cyclemimic.randomness import rng_for
from cyclemimic.types import Int64

_LEAST_ERROR = 1e-6  # of a picture that is equal but for nothing: 60 dB


def psnr_db(one: Tensor, other: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [n] of pictures [n, 3, S, S] in [0, 1]; at most 60 dB."""
    error = (one - other).square().flatten(1).mean(1)
    return -10 * torch.log10(error.clamp_min(_LEAST_ERROR))


def rebuild_error(model: LatentActionModel, pairs: Pairs, codes: Int64) -> float:
    """Squared error of D(o_t, z_t) against o_t+H, as a ratio to that of copying o_t; NaN without frames."""
    if not draws(model):
        return math.nan
    now, later = pixels(pairs.now), pixels(pairs.later)
    rebuilt = act_out(model, now, torch.from_numpy(codes))
    return float((rebuilt - later).square().sum() / (now - later).square().sum().clamp_min(1e-9))


def delta_psnr_db(model: LatentActionModel, pairs: Pairs, codes: Int64, *, seed: int) -> float:
    """How much worse o_t+H is rebuilt with the latent action of a random other pair, in dB; NaN without frames.

    Genie's measure of how much the latent action controls: 0 where D does not listen to it.
    """
    if not draws(model):
        return math.nan
    now, later = pixels(pairs.now), pixels(pairs.later)
    other = other_codes(codes, len(codes), seed=seed)
    own, random = (psnr_db(act_out(model, now, torch.from_numpy(c)), later) for c in (codes, other))
    return float((own - random).mean())


def other_codes(codes: Int64, count: int, *, seed: int) -> Int64:
    """Latent actions [count, L] of random pairs among `codes` [n, L]: the control of what a code says."""
    drawn: Int64 = codes[rng_for(seed, 0, "evaluate/random_code").integers(0, len(codes), count)]
    return np.ascontiguousarray(drawn)
