"""Controls of every quality: latent actions that nobody learned, measured by the same code on the same pairs.

Frozen-feature difference (PCA, k-means), an untrained encoder (k-means, so that every code is in use), one code for
every pair, and an oracle that quantises the true displacement. None of them draws frames.
Letters in shapes: n pairs, B batch, F features, L tokens of a latent action, D code width, K codes, S side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cyclemimic.evaluate.models import BATCH, LatentActionModel
from cyclemimic.evaluate.moments import Pairs, TruePairs
from cyclemimic.nn.batches import pixels
from cyclemimic.nn.vision import FeatureBackbone
from cyclemimic.randomness import entropy_for, rng_for
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer, TokenizerConfig
from cyclemimic.types import UInt8

Embed = Callable[[Tensor, Tensor], Tensor]  # frames now and later [B, 3, S, S] -> embeddings [B, L, D]
_ROUNDS = 30
_PIXELS_PX = 16
_AXES_OF_A_SLOT = 4


class ClusteredCodes:
    """Embeddings quantised by k-means, slot by slot; a `LatentActionModel` without frames."""

    draws = False

    def __init__(self, embed: Embed, train: Pairs, *, num_codes: int, seed: int) -> None:
        self.num_codes = num_codes
        self.embed = embed
        found = _in_batches(embed, train)
        self.centres = torch.stack([
            k_means(found[:, slot], num_codes, seed=seed + slot) for slot in range(found.shape[1])
        ])  # fmt: skip

    def label(self, now: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest centres' codes [B, L], and the margin [B] to the second nearest."""
        return _nearest(self.embed(now, later), self.centres)

    def act_out(self, now: Tensor, codes: Tensor) -> Tensor:
        """No control has a decoder."""
        raise NotImplementedError("a control without a decoder acts nothing out; ask `draws` first")


class OneCode:
    """The same code for every pair: a probe of it knows the mean of the training pairs and nothing else."""

    draws = False

    def __init__(self, *, num_codes: int, num_tokens: int) -> None:
        self.num_codes, self.num_tokens = num_codes, num_tokens

    def label(self, now: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
        """Zeros [B, L], and no margin [B]."""
        return torch.zeros(len(now), self.num_tokens, dtype=torch.int64), torch.zeros(len(now))

    def act_out(self, now: Tensor, codes: Tensor) -> Tensor:
        """No control has a decoder."""
        raise NotImplementedError("a control without a decoder acts nothing out; ask `draws` first")


class OracleCodes:
    """The true displacement, quantised by k-means in rounds (each slot names what the slots before it left over).

    The upper bound of probe and agreement for that many codes. It knows the pairs it was shown, by their pixels.
    """

    draws = False

    def __init__(self, train: TruePairs, test: TruePairs, *, num_codes: int, num_tokens: int, seed: int) -> None:
        self.num_codes = num_codes
        self.levels = residual_k_means(torch.from_numpy(train.displacement_m), num_codes, num_tokens, seed=seed)
        self._known: dict[bytes, NDArray[np.float32]] = {}
        for pairs in (train, test):
            for now, later, true_m in zip(pairs.now, pairs.later, pairs.displacement_m, strict=True):
                self._known[_fingerprint(now, later)] = true_m

    def label(self, now: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, L] of pairs that it was shown, and margins [B] of the last slot."""
        frames = [(x.permute(0, 2, 3, 1) * 255).round().byte().numpy() for x in (now, later)]
        true_m = torch.from_numpy(np.stack([self._known[_fingerprint(a, b)] for a, b in zip(*frames, strict=True)]))
        return residual_codes(true_m, self.levels)

    def act_out(self, now: Tensor, codes: Tensor) -> Tensor:
        """No control has a decoder."""
        raise NotImplementedError("a control without a decoder acts nothing out; ask `draws` first")


def fit_controls(
    train: TruePairs,
    test: TruePairs,
    *,
    num_codes: int,
    num_tokens: int,
    seed: int,
    tokenizer: TokenizerConfig,
    backbone: FeatureBackbone | None = None,
    pairs: int = 3000,
) -> dict[str, LatentActionModel]:
    """The four controls by name, fitted on training pairs.

    Args:
        train: pairs that fit them, `pairs` at most.
        test: pairs that the oracle will be asked for besides.
        num_codes: K of the tokenizer that they stand beside.
        num_tokens: l_z of it.
        seed: initialisations.
        tokenizer: sizes of the untrained encoder.
        backbone: frozen features whose difference is quantised; small pictures unless given.
    """
    thin = train.thinned(pairs, seed)
    difference = difference_embedding(thin, num_tokens=num_tokens, backbone=backbone, seed=seed)
    untrained = untrained_embedding(tokenizer, thin, seed=seed)
    return {
        "difference": ClusteredCodes(difference, thin, num_codes=num_codes, seed=seed),
        "mean": OneCode(num_codes=num_codes, num_tokens=num_tokens),
        "oracle": OracleCodes(train, test, num_codes=num_codes, num_tokens=num_tokens, seed=seed),
        "random encoder": ClusteredCodes(untrained, thin, num_codes=num_codes, seed=seed),
    }


def difference_embedding(
    train: Pairs, *, num_tokens: int, backbone: FeatureBackbone | None = None, seed: int = 0
) -> Embed:
    """The first principal components of features later - features now, dealt out to the slots in turn."""

    @torch.no_grad()
    def change(now: Tensor, later: Tensor) -> Tensor:
        if backbone is None:
            side = min(_PIXELS_PX, now.shape[-1])
            return F.adaptive_avg_pool2d(later - now, side).flatten(1)
        return (backbone(later).patches - backbone(now).patches).flatten(1)

    found = _in_batches(change, train)
    wanted = min(_AXES_OF_A_SLOT * num_tokens, *found.shape)
    wanted -= wanted % num_tokens
    mean = found.mean(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropy_for(seed, 0, "controls/components"))
        _, _, axes = torch.pca_lowrank(found - mean, q=wanted, center=False)

    def embed(now: Tensor, later: Tensor) -> Tensor:
        components = (change(now, later) - mean) @ axes
        # Component i goes to slot i modulo L, so that each slot has its share of what varies most.
        return components.view(len(now), -1, num_tokens).transpose(1, 2)

    return embed


def untrained_embedding(config: TokenizerConfig, train: Pairs, *, seed: int) -> Embed:
    """What an encoder of these sizes says with its random weights, whitened per slot and axis."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropy_for(seed, 0, "controls/initialisation"))
        tokenizer = LatentActionTokenizer(config).eval()

    @torch.no_grad()
    def raw(now: Tensor, later: Tensor) -> Tensor:
        return tokenizer.encode(now, later).embedding

    found = _in_batches(raw, train)
    mean, spread = found.mean(0), found.std(0) + 1e-8
    return lambda now, later: (raw(now, later) - mean) / spread


def k_means(points: Tensor, count: int, *, seed: int) -> Tensor:
    """`count` centres [count, D] of points [n, D]: k-means++, then Lloyd's rounds. Points may be fewer than centres."""
    rng = rng_for(seed, 0, "controls/k_means")
    centres = points[[int(rng.integers(len(points)))]]
    while len(centres) < count:
        away = torch.cdist(points, centres).amin(1).double().square().numpy()
        share = away / away.sum() if away.sum() > 0 else None
        centres = torch.cat([centres, points[[int(rng.choice(len(points), p=share))]]])
    for _ in range(_ROUNDS):
        nearest = torch.cdist(points, centres).argmin(1)
        members = F.one_hot(nearest, count).to(points.dtype)
        sizes = members.sum(0)
        # A centre without points stays where it is.
        centres = torch.where(sizes[:, None] > 0, (members.T @ points) / sizes.clamp_min(1)[:, None], centres)
    return centres


def residual_k_means(points: Tensor, count: int, rounds: int, *, seed: int) -> list[Tensor]:
    """Centres [count, D] of each round; a round clusters what the rounds before it left over of the points [n, D]."""
    levels = []
    for number in range(rounds):
        levels.append(k_means(points, count, seed=seed + number))
        points = points - levels[-1][torch.cdist(points, levels[-1]).argmin(-1)]
    return levels


def residual_codes(points: Tensor, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Codes [B, rounds] of points [B, D], and the margin [B] of the last round to its second nearest centre."""
    codes = []
    for level in levels:
        nearest = torch.cdist(points, level).topk(2, dim=-1, largest=False)
        codes.append(nearest.indices[:, 0])
        points = points - level[codes[-1]]
    return torch.stack(codes, dim=1), nearest.values[:, 1] - nearest.values[:, 0]


def _nearest(embedding: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [B, L] of embeddings [B, L, D] among centres [L, K, D], and the least margin [B]."""
    away = torch.cdist(embedding.transpose(0, 1), centres).transpose(0, 1)
    nearest = away.topk(2, dim=-1, largest=False)
    return nearest.indices[..., 0], (nearest.values[..., 1] - nearest.values[..., 0]).amin(-1)


def _in_batches(embed: Embed, pairs: Pairs) -> Tensor:
    """The embeddings of all pairs."""
    parts: Sequence[slice] = [slice(i, i + BATCH) for i in range(0, len(pairs), BATCH)]
    return torch.cat([embed(pixels(pairs.now[p]), pixels(pairs.later[p])) for p in parts])


def _fingerprint(now: UInt8, later: UInt8) -> bytes:
    return hashlib.blake2b(now.tobytes() + later.tobytes(), digest_size=16).digest()
