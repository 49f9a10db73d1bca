"""A tokenizer that knows already what its frozen backbone makes of every frame of a cache. Engineering.

Letters in shapes: B batch, L tokens of a latent action, S side of the picture, F frames of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cyclemimic.nn.batches import Scene, patches
from cyclemimic.store.feature_cache import FeatureCache
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.train.features import require_own_features
from cyclemimic.types import Int64


class KnownFrames:
    """A tokenizer as what is measured; the backbone sees generated frames alone, those of the cache it has seen.

    Codes are those of the tokenizer up to how features are rounded on disk.

    Args:
        tokenizer: with a frozen backbone.
        features: of every frame of the cache from which pairs are drawn; of several joined caches, in their order.

    Raises:
        InputError: features of another backbone.
    """

    def __init__(self, tokenizer: LatentActionTokenizer, features: Sequence[FeatureCache]) -> None:
        for found in features:
            require_own_features(tokenizer.features_sha256, found.recipe)
        self.tokenizer, self.features = tokenizer, tuple(features)
        self.draws = tokenizer.draws
        self._first = np.cumsum([0, *map(len, features)])  # row of each cache's first frame, and F

    @property
    def num_codes(self) -> int:
        """K."""
        return self.tokenizer.num_codes

    def label(self, now: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, L] and margin [B] of any frames [B, 3, S, S]: the backbone sees them."""
        return self.tokenizer.label(now, later)

    def label_known(self, now: Tensor, later: Tensor, row: Int64) -> tuple[Tensor, Tensor]:
        """`label` of frames of the cache, whose rows now and later are [B, 2]."""
        return self.tokenizer.label_scenes(self._scene(now, row[:, 0]), self._scene(later, row[:, 1]))

    def act_out(self, now: Tensor, codes: Tensor) -> Tensor:
        """Later frames [B, 3, S, S] from frames now and codes [B, L]."""
        return self.tokenizer.act_out(now, codes)

    def _scene(self, frames: Tensor, row: Int64) -> Scene:
        assert len(row) and row.max() < self._first[-1], "rows of the cache whose features these are"
        cache = np.searchsorted(self._first, row, side="right") - 1
        seen: Tensor | None = None
        for which in np.unique(cache).tolist():
            here = np.flatnonzero(cache == which)
            found = patches(self.features[which].take(row[here] - self._first[which]), frames.device)
            seen = found.new_empty(len(row), *found.shape[1:]) if seen is None else seen
            seen[torch.from_numpy(here).to(frames.device)] = found
        return self.tokenizer.see(frames, seen)
