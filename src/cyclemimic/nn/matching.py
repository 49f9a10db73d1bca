"""Where did it go? Patches of the later frame matched with the frame now around them, before anything is learnt of it.

Letters in shapes: B batch, H W picture, C width, R reach in places, K = (2 R + 1)^2 displacements, N patches.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.nn.batches import Features
from cyclemimic.nn.vision import ConvStem

_WIDTHS = (16, 16)  # of what is matched; wide enough to tell an arm from a table, cheap enough for 49 displacements
REACH = 3  # places of two pixels


class MatchingStem(nn.Module):
    """How alike each place of the later frame is to the places of the frame now around it: [B, 3, H, W] x 2 to patches.

    What a difference of pixels says of a motion depends on the colours of what moves and of what lies behind it; which
    displacement matches does not. Beside the K matches stands the size of the change, without its sign. Source: cost
    volumes of optical flow (FlowNet, PWC-Net); here an input of E. Engineering, DEVIATIONS D3.

    Args:
        width: C of the patches.
        stride_px: of the patches, 4 or more.
        reach: R, in places of two pixels.
    """

    def __init__(self, width: int, stride_px: int, reach: int = REACH) -> None:
        super().__init__()
        if stride_px < 4:
            raise ValueError(f"patches of 4 px or more, got {stride_px}")
        self.reach = reach
        self.look = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2 if a == 3 else 1, padding=1) for a, b in pairwise((3, *_WIDTHS))
        )
        self.stem = ConvStem(width, stride_px // 2, channels=(2 * reach + 1) ** 2 + 1)

    def forward(self, now: Tensor, later: Tensor) -> Features:
        """Frames [B, 3, H, W] in [0, 1] to patches [B, N, C]."""
        match = matches(self._seen(now), self._seen(later), self.reach)
        size = F.avg_pool2d((later - now).abs().mean(1, keepdim=True), 2, ceil_mode=True)
        patches: Features = self.stem(torch.cat([(match + 1) / 2, size], dim=1))  # the stem expects [0, 1]
        return patches

    def _seen(self, frames: Tensor) -> Tensor:
        x = frames * 2 - 1
        for convolution in self.look:
            x = F.gelu(convolution(x))
        return F.normalize(x, dim=1)


def matches(now: Tensor, later: Tensor, reach: int) -> Tensor:
    """Cosine of `later` [B, C, H, W] at each place with `now` up to `reach` places away: [B, K, H, W]; 0 beyond edges.

    Channels of both have length one. Displacements run row by row, from (-reach, -reach).
    """
    size, height = 2 * reach + 1, later.shape[2]
    rows, places = F.pad(now, (reach,) * 4).transpose(1, 2), later.permute(0, 2, 3, 1)
    found: list[Tensor] = []
    for i in range(size):
        # One product for a whole row of displacements, [B, H, W, W + 2 R]: the matches are its diagonals. Five times
        # faster than to lay out every window.
        product = places @ rows[:, i : i + height]
        found += [product.diagonal(j, -2, -1) for j in range(size)]
    return torch.stack(found, dim=1)
