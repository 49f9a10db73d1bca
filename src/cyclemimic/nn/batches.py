"""The torch twins of types.py: what one training step takes and gives. Pixels are float32 in [0, 1], channels first.

Letters in shapes: B batch, H W picture, N patches, C channels, L tokens of a latent action, D code width,
W words, P proprioception axes, S steps of a chunk, A action axes, h w grid of the optical flow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cyclemimic.store.feature_rows import FeatureRows


def pixels(frames: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """Uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [0, 1]; converted on the device."""
    return torch.from_numpy(np.ascontiguousarray(frames)).to(device).permute(0, 3, 1, 2).float().div_(255.0)


def patches(rows: FeatureRows, device: torch.device | str = "cpu") -> Tensor:
    """Stored features as float32 [B, N, C]; converted on the device."""
    found = torch.from_numpy(rows.patches).to(device).float()
    return found if rows.scale is None else found.mul_(torch.from_numpy(rows.scale).to(device)[..., None])


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """(o_t, o_t+H) of B pairs, and the body that each shows."""

    now: Tensor  # [B, 3, H, W]
    later: Tensor  # [B, 3, H, W]
    body: Tensor  # [B] int64, index into the mixture's list of embodiments
    latest: Tensor | None = None  # [B, 3, H, W], o_t+2H, where triplets are asked for
    flow: Tensor | None = None  # [B, 2, h, w], where each place of o_t+H was in o_t, in units of half the picture
    words: Tensor | None = None  # [B, W] int64, hashed words of the sentence, 0 behind them
    action: Tensor | None = None  # [B, A], the true motion, normalised, where it is known
    action_known: Tensor | None = None  # [B] bool
    now_patches: Tensor | None = None  # [B, N, C], what the frozen backbone makes of `now`, where that is known already
    later_patches: Tensor | None = None  # [B, N, C]
    latest_patches: Tensor | None = None  # [B, N, C]

    def __len__(self) -> int:
        return self.now.shape[0]


@dataclass(frozen=True, kw_only=True)
class Features:
    """Patch features of B frames on a grid of rows x columns."""

    patches: Tensor  # [B, N, C], N = rows * columns
    grid: tuple[int, int]

    def __sub__(self, other: Features) -> Features:
        return Features(patches=self.patches - other.patches, grid=self.grid)

    def take(self, index: Tensor | slice) -> Features:
        """The features of the frames that `index` [B'] names."""
        return Features(patches=self.patches[index], grid=self.grid)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One moment of B clips as D and E know it: pixels, patch features, or both."""

    frames: Tensor | None = None  # [B, 3, H, W]
    features: Features | None = None

    def __len__(self) -> int:
        return len(self.signal)

    @property
    def signal(self) -> Tensor:
        """What there is: the pixels, or where there are none the patch features [B, N, C]."""
        if self.frames is not None:
            return self.frames
        assert self.features is not None, "a scene holds pixels or features"
        return self.features.patches

    def take(self, index: Tensor | slice) -> Scene:
        """The scenes that `index` [B'] names."""
        return Scene(
            frames=None if self.frames is None else self.frames[index],
            features=None if self.features is None else self.features.take(index),
        )

    def joined(self, other: Scene) -> Scene:
        """These scenes and then the others, as far as both know them."""
        frames, features = None, None
        if self.frames is not None and other.frames is not None:
            frames = torch.cat([self.frames, other.frames])
        if self.features is not None and other.features is not None:
            patches = torch.cat([self.features.patches, other.features.patches])
            features = Features(patches=patches, grid=self.features.grid)
        return Scene(frames=frames, features=features)

    def detached(self) -> Scene:
        """The same scenes; whoever looks at them teaches nobody who made them."""
        # The gradient of the one who looks stops: Psi must not teach D how to be found out.
        return self.each(Tensor.detach)

    def each(self, made: Callable[[Tensor], Tensor]) -> Scene:
        """The same scenes with `made` of their pixels and of their patch features, of what there is."""
        features = self.features
        if features is not None:
            features = Features(patches=made(features.patches), grid=features.grid)
        return Scene(frames=None if self.frames is None else made(self.frames), features=features)


@dataclass(frozen=True, kw_only=True)
class LatentBatch:
    """Latent actions of B pairs: before quantisation, after it, and as integers."""

    embedding: Tensor  # [B, L, D], z^e
    vectors: Tensor  # [B, L, D], z^q; carries the straight-through gradient
    codes: Tensor  # [B, L] int64
    given: Tensor | None = None  # [B, G, D], vectors of an earlier stage's tokens, where there are any


@dataclass(frozen=True, kw_only=True)
class ObservationBatch:
    """What a policy sees, B times: a picture, the words of the sentence, optionally proprioception and more cameras."""

    images: Tensor  # [B, 3, H, W], the main camera
    words: Tensor  # [B, W] int64 token ids, right-padded
    word_mask: Tensor  # [B, W] bool, True where there is a word
    proprioception: Tensor | None = None  # [B, P], normalised; narrower bodies are padded with 0
    extra_images: tuple[Tensor, ...] = ()  # of each further camera [B, 3, H, W]
    extra_seen: Tensor | None = None  # [B, cameras] bool, False where a body lacks that camera; None: all are seen
    body: Tensor | None = None  # [B] int64, index into the network's bodies; None: its only one

    def __len__(self) -> int:
        return self.images.shape[0]


@dataclass(frozen=True, kw_only=True)
class DemonstrationBatch:
    """B moments of demonstrations: what was seen, which latent action followed, which actions were taken."""

    observation: ObservationBatch
    codes: Tensor  # [B, L] int64
    actions: Tensor | None = None  # [B, S, A], normalised
    action_mask: Tensor | None = None  # [B, S] bool, False behind the episode's end
    axis_mask: Tensor | None = None  # [B, A] bool, False where a body has no such axis; None: all have all
    hindsight: Tensor | None = None  # [B, 3], normalised: where the hand is at the end of the demonstration
    hindsight_mask: Tensor | None = None  # [B] bool, False where that is not known; None: it is known of all
    moving: Tensor | None = None  # [B, cells], where in the picture things move: shares that sum to 1
