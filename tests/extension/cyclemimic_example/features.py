"""A FeatureBackbone without weights: the lowest cosine waves of each patch and colour, as in a JPEG."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.nn.batches import Features
from cyclemimic.nn.vision import BackboneConfig, height_and_width

WAVES = 3  # per direction


class CosineFeatures(nn.Module):
    """Frames [B, 3, H, W] in [0, 1] to 27 numbers per patch of `stride_px`. A border that fills no patch is grey."""

    basis: Tensor

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.stride_px, self.width = config.stride_px, 3 * WAVES**2
        place = (torch.arange(config.stride_px) + 0.5) * (math.pi / config.stride_px)
        waves = torch.cos(torch.arange(WAVES)[:, None] * place)  # [waves, side]
        squares = torch.einsum("ai,bj->abij", waves, waves).flatten(0, 1)[:, None] / config.stride_px
        self.register_buffer("basis", squares.repeat(3, 1, 1, 1), persistent=False)

    def grid_for(self, size_px: int | tuple[int, int]) -> tuple[int, int]:
        height_px, width_px = height_and_width(size_px)
        return math.ceil(height_px / self.stride_px), math.ceil(width_px / self.stride_px)

    def forward(self, frames: Tensor) -> Features:
        height_px, width_px = frames.shape[-2:]
        grid = self.grid_for((height_px, width_px))
        below, right = grid[0] * self.stride_px - height_px, grid[1] * self.stride_px - width_px
        whole = F.pad(frames - 0.5, (0, right, 0, below))
        found = F.conv2d(whole, self.basis, stride=self.stride_px, groups=3)  # each colour by itself
        return Features(patches=found.flatten(2).transpose(1, 2), grid=grid)
