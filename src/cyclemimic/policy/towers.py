"""Vision towers: the paper's pair of transformers (DINOv2 + SigLIP), and convolutions for recipes of minutes.

Letters in shapes: B batch, N visual tokens, D width of the language model, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.errors import InputError
from cyclemimic.nn.vision import coordinates
from cyclemimic.nn.vit_families import IMAGENET_MEAN, IMAGENET_STD, SIGLIP_MEAN, SIGLIP_STD, VitSize
from cyclemimic.policy.backbone import VisualFeatures

if TYPE_CHECKING:
    from transformers import Dinov2WithRegistersConfig, SiglipVisionConfig


@dataclass(frozen=True, kw_only=True)
class ConvTowerConfig:
    """Sizes of the convolutional tower; the defaults come from short runs on a CPU."""

    channels: tuple[int, int] = (24, 48)
    norm_groups: int = 4  # normalised before the words modulate: binds words to colours several times sooner
    token_rows: int = 4  # the map is pooled to token_rows x token_rows visual tokens


@dataclass(frozen=True, kw_only=True)
class PrismaticVisionConfig:
    """Sizes of both transformers; the defaults are Prismatic-7B's (DINOv2-L with registers, SigLIP-SO400M)."""

    dino: VitSize = field(default_factory=lambda: VitSize(width=1024, layers=24, heads=16, mlp_width=4096))
    siglip: VitSize = field(default_factory=lambda: VitSize(width=1152, layers=27, heads=16, mlp_width=4304))
    registers: int = 4
    projector_width: int = 8704


class FiLM(nn.Module):
    """Scales and shifts channels as a condition says; starts as the identity up to small weights. Engineering."""

    def __init__(self, condition_width: int, channels: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(condition_width, 2 * channels)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """[B, C, rows, columns] under a condition [B, D]."""
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        modulated: Tensor = x * (1 + scale) + shift
        return modulated


class ConvTower(nn.Module):
    """Two strided convolutions whose channels the words modulate. Engineering: random small ViTs learn slowly."""

    def __init__(self, config: ConvTowerConfig, *, image_px: int, width: int) -> None:
        super().__init__()
        side = image_px // 4
        if image_px % 4 or side % config.token_rows:
            raise InputError(
                "ConvTower",
                expected=f"an image side divisible by {4 * config.token_rows} px",
                got=f"{image_px} px",
                remedy="Choose another image_px or token_rows.",
            )
        first, second = config.channels
        self.pool_px = side // config.token_rows
        self.num_tokens, self.map_channels = config.token_rows**2, second
        self.norm = nn.LayerNorm(width)
        self.conv1, self.film1 = nn.Conv2d(3, first, 5, stride=2, padding=2), FiLM(width, first)
        self.conv2, self.film2 = nn.Conv2d(first + 2, second, 3, stride=2, padding=1), FiLM(width, second)
        self.groups = config.norm_groups
        self.project = nn.Linear(second + 2, width)

    def forward(self, images: Tensor, sentence: Tensor) -> VisualFeatures:
        """Pictures [B, 3, H, W] in [0, 1], mean word embedding [B, D] -> 16 tokens and a map of H/4 x W/4."""
        condition = self.norm(sentence)
        x = self.conv1(2 * images - 1)
        x = F.relu(self.film1(F.group_norm(x, self.groups), condition))
        x = self.conv2(torch.cat([x, coordinates(x)], 1))
        x = F.relu(self.film2(F.group_norm(x, self.groups), condition))
        pooled = F.avg_pool2d(torch.cat([x, coordinates(x)], 1), self.pool_px)
        return VisualFeatures(tokens=self.project(pooled.flatten(2).transpose(1, 2)), map=x)


class PrismaticVision(nn.Module):
    """DINOv2 and SigLIP features of the last layer but one, joined patch by patch (Prismatic; paper, policy)."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: PrismaticVisionConfig, *, image_px: int, width: int) -> None:
        super().__init__()
        sides = {image_px / config.dino.patch_px, image_px / config.siglip.patch_px}
        if len(sides) != 1 or not next(iter(sides)).is_integer():
            raise InputError(
                "PrismaticVision",
                expected="both towers to cut the picture into the same whole patches",
                got=f"{image_px} px with patches of {config.dino.patch_px} and {config.siglip.patch_px} px",
                remedy="Give both towers one patch size that divides image_px.",
            )
        # Here and not above: importing these takes seconds, and only this tower needs them.
        from transformers import Dinov2WithRegistersModel, SiglipVisionModel

        self.image_px, self.side = image_px, int(next(iter(sides)))
        self.skipped = 1 + config.registers  # class token and registers stand before DINOv2's patches
        self.num_tokens, self.map_channels = self.side**2, config.dino.width + config.siglip.width
        self.dino = Dinov2WithRegistersModel(_dino_config(config, image_px))
        self.siglip = SiglipVisionModel(_siglip_config(config.siglip, image_px))
        self.projector = nn.Sequential(
            nn.Linear(self.map_channels, config.projector_width),
            nn.GELU(),
            nn.Linear(config.projector_width, width),
            nn.GELU(),
            nn.Linear(width, width),
        )
        means, stds = (IMAGENET_MEAN, SIGLIP_MEAN), (IMAGENET_STD, SIGLIP_STD)
        self.register_buffer("mean", torch.tensor(means)[:, :, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(stds)[:, :, None, None], persistent=False)

    def forward(self, images: Tensor, sentence: Tensor) -> VisualFeatures:
        """Pictures [B, 3, H, W] in [0, 1] of any size; the sentence [B, D] is not used: these towers know no words."""
        if images.shape[-2:] != (self.image_px, self.image_px):
            size = (self.image_px, self.image_px)
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        dino = self.dino((images - self.mean[0]) / self.std[0], output_hidden_states=True)
        siglip = self.siglip((images - self.mean[1]) / self.std[1], output_hidden_states=True)
        patches = torch.cat([dino.hidden_states[-2][:, self.skipped :], siglip.hidden_states[-2]], dim=-1)
        grid = patches.transpose(1, 2).unflatten(2, (self.side, self.side))
        return VisualFeatures(tokens=self.projector(patches), map=grid)


def _dino_config(config: PrismaticVisionConfig, image_px: int) -> Dinov2WithRegistersConfig:
    from transformers import Dinov2WithRegistersConfig

    size = config.dino
    return Dinov2WithRegistersConfig(
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        mlp_ratio=size.mlp_width // size.width,
        image_size=image_px,
        patch_size=size.patch_px,
        num_register_tokens=config.registers,
    )


def _siglip_config(size: VitSize, image_px: int) -> SiglipVisionConfig:
    from transformers import SiglipVisionConfig

    return SiglipVisionConfig(
        hidden_size=size.width,
        intermediate_size=size.mlp_width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        image_size=image_px,
        patch_size=size.patch_px,
    )
