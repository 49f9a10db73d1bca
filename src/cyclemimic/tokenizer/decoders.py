"""D: a frame and a latent action to the later frame. Painting, moving and predicting features, behind one Protocol.

Letters in shapes: B batch, H W picture, N patches, F width of backbone features, L tokens of a latent action,
D code width, W words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.errors import InputError
from cyclemimic.nn.batches import Features, Scene
from cyclemimic.nn.transformer import SpatialBlock
from cyclemimic.nn.vision import ConvStem, coordinates, with_coordinates
from cyclemimic.tokenizer.quantizer import at_least_float


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """What a decoder is built for: latent tokens, the picture, and the features of the backbone."""

    num_tokens: int  # L
    code_width: int  # D
    size_px: int  # H = W
    feature_width: int  # F
    grid: tuple[int, int]  # of the patches
    word_width: int = 0  # of the words that come along; 0: none do


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What a decoder made of a scene."""

    scene: Scene  # frames, or the features alone of a decoder that draws none
    painted: Tensor  # [B] in [0, 1], how much was painted instead of moved
    flow: Tensor | None = None  # [B, 2, H, W], where each place came from, in units of half the picture

    @property
    def frames(self) -> Tensor:
        """The frames [B, 3, H, W] of a decoder that draws."""
        assert self.scene.frames is not None, "this decoder predicts features and draws no frames"
        return self.scene.frames


class Decoder(Protocol):
    """D(o, z^q): what the latent action makes of a frame. Built with a `DecoderShape`."""

    draws: bool  # whether scenes come as frames; else as features

    def __call__(self, now: Scene, vectors: Tensor, words: Tensor | None = None) -> Decoded:
        """Scenes (frames in [0, 1] and their features), vectors [B, L, D] and words [B, W, C] to later scenes."""
        ...


@dataclass(frozen=True, kw_only=True)
class PixelDecoderConfig:
    """Sizes of the paper's decoder."""

    width: int = 64
    blocks: int = 2
    heads: int = 4
    stride_px: int = 4


class PixelDecoder(nn.Module):
    """D of the paper: a spatial transformer over patches and latent action tokens that paints every pixel.

    Paper: method, latent action tokenizer. It paints a change onto the frame now (engineering: a residual).
    """

    draws = True

    def __init__(self, config: PixelDecoderConfig, shape: DecoderShape) -> None:
        super().__init__()
        self.config, self.num_tokens = config, shape.num_tokens
        patches = (shape.size_px // config.stride_px) ** 2
        self.stem = ConvStem(config.width, config.stride_px)
        self.action_in = nn.Linear(shape.code_width, config.width)
        self.word_in = nn.Linear(shape.word_width, config.width) if shape.word_width else None
        self.slot = nn.Parameter(torch.randn(shape.num_tokens, config.width) * 0.02)
        self.position = nn.Parameter(torch.randn(patches, config.width) * 0.02)
        self.blocks = nn.ModuleList(SpatialBlock(config.width, config.heads) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, 3 * config.stride_px**2)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, now: Scene, vectors: Tensor, words: Tensor | None = None) -> Decoded:
        """Frames [B, 3, H, W] and vectors [B, L, D] -> frames [B, 3, H, W]."""
        frames = _pixels_of(now)
        features = self.stem(frames)
        parts = [self.action_in(vectors) + self.slot, features.patches + self.position]
        if self.word_in is not None and words is not None:
            parts.append(self.word_in(words))
        x = torch.cat(parts, dim=1)
        for block in self.blocks:
            x = block(x)
        patches = self.out(self.norm(x[:, self.num_tokens : self.num_tokens + len(self.position)]))
        rows, columns = features.grid
        squares = patches.transpose(1, 2).reshape(len(now), -1, rows, columns)
        frames = frames + F.pixel_shuffle(squares, self.config.stride_px)
        return Decoded(scene=Scene(frames=frames), painted=torch.ones(len(now), device=frames.device))


@dataclass(frozen=True, kw_only=True)
class FeatureDecoderConfig:
    """Sizes of the decoder that predicts features."""

    width: int = 64
    blocks: int = 2
    heads: int = 4


class FeatureDecoder(nn.Module):
    """D that predicts the later frame's features and draws nothing, as UniVLA's does.

    Needs a frozen backbone: features that learn would become easy to predict instead of informative. It predicts a
    change onto the features now (engineering: a residual that begins as a copy).
    """

    draws = False

    def __init__(self, config: FeatureDecoderConfig, shape: DecoderShape) -> None:
        super().__init__()
        self.config, self.num_tokens = config, shape.num_tokens
        width, patches = config.width, shape.grid[0] * shape.grid[1]
        self.patch_in = nn.Linear(shape.feature_width, width)
        self.action_in = nn.Linear(shape.code_width, width)
        self.word_in = nn.Linear(shape.word_width, width) if shape.word_width else None
        self.slot = nn.Parameter(torch.randn(shape.num_tokens, width) * 0.02)
        self.position = nn.Parameter(torch.randn(patches, width) * 0.02)
        self.blocks = nn.ModuleList(SpatialBlock(width, config.heads) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, shape.feature_width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, now: Scene, vectors: Tensor, words: Tensor | None = None) -> Decoded:
        """Features [B, N, F] and vectors [B, L, D] -> features [B, N, F]."""
        assert now.features is not None
        seen = now.features.patches
        parts = [self.action_in(vectors) + self.slot, self.patch_in(seen) + self.position]
        if self.word_in is not None and words is not None:
            parts.append(self.word_in(words))
        x = torch.cat(parts, dim=1)
        for block in self.blocks:
            x = block(x)
        change = self.out(self.norm(x[:, self.num_tokens : self.num_tokens + len(self.position)]))
        # A sum in bf16 would swallow small changes.
        scene = Scene(features=Features(patches=at_least_float(seen) + change, grid=now.features.grid))
        return Decoded(scene=scene, painted=torch.ones(len(seen), device=seen.device))


@dataclass(frozen=True, kw_only=True)
class MotionDecoderConfig:
    """Sizes of the motion decoder, and whether the code alone says how things move."""

    kind: Literal["free", "factorised"] = "factorised"
    width: int = 32
    reach: float = 0.6


class MotionDecoder(nn.Module):
    """D that can only move what is in the frame, and paint a little where something was hidden.

    Engineering (docs/decisions): a decoder that paints freely signs its frames and the cycle is solved by signatures.
    `free`: flow(x) comes from frame and code together. `factorised`: the code alone says how, the frame what and where:

        flow(x) = gate(o, z)(x) * (t(z) + S(z) (x - hand(o)));   o' = warp(o, flow) (1 - m) + paint m
    """

    draws = True

    def __init__(self, config: MotionDecoderConfig, shape: DecoderShape) -> None:
        super().__init__()
        if shape.word_width:
            raise InputError(
                "TokenizerConfig.words",
                expected="a decoder that can read words (pixel or feature)",
                got="motion",
                remedy="Choose another decoder, or go without words.",
            )
        self.config = config
        width, latent = config.width, shape.num_tokens * shape.code_width
        self.stem = nn.Conv2d(5, width, 3, stride=2, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.up = nn.Conv2d(3 * width, width, 3, padding=1)
        self.modulate_down = nn.Linear(latent, 4 * width)
        self.modulate_up = nn.Linear(latent, 2 * width)
        self.thin = nn.Conv2d(width, 8, 1)
        self.fine = nn.Conv2d(8 + 3, 16, 3, padding=1)
        # One flow or gate plane, one mask plane, three colours.
        self.out = nn.Conv2d(16, (2 if config.kind == "free" else 1) + 1 + 3, 3, padding=1)
        with torch.no_grad():  # it begins by moving and painting almost nothing
            self.out.weight.normal_(std=0.01)
            self.out.bias.zero_()  # type: ignore[union-attr]
        if config.kind == "factorised":
            self.where = nn.Conv2d(width, 1, 1)
            self.how = nn.Sequential(nn.Linear(latent, 64), nn.GELU(), nn.Linear(64, 6))

    def forward(self, now: Scene, vectors: Tensor, words: Tensor | None = None) -> Decoded:
        """Frames [B, 3, H, W] and vectors [B, L, D] -> frames [B, 3, H, W]."""
        frames, code = _pixels_of(now), vectors.flatten(1)
        place = coordinates(frames)
        fine = F.gelu(self.stem(with_coordinates(frames)))
        coarse = F.gelu(self._film(self.down(fine), self.modulate_down(code)))
        coarse = coarse + F.gelu(self.middle(coarse))
        joined = torch.cat([fine, F.interpolate(coarse, scale_factor=2.0)], dim=1)
        joined = F.gelu(self._film(self.up(joined), self.modulate_up(code)))
        # Thinned first: planes at full size are what costs most here.
        whole = F.interpolate(self.thin(joined), size=frames.shape[-2:], mode="bilinear", align_corners=False)
        whole = torch.cat([whole, frames], dim=1).contiguous(memory_format=torch.channels_last)
        planes = self.out(F.gelu(self.fine(whole)))
        mask = torch.sigmoid(planes[:, -4:-3] - 3)
        paint = torch.sigmoid(planes[:, -3:])
        flow = self._flow(planes, fine, code, place)
        moved = F.grid_sample(frames, (place + flow).permute(0, 2, 3, 1), padding_mode="border", align_corners=False)
        scene = Scene(frames=moved * (1 - mask) + paint * mask)
        return Decoded(scene=scene, painted=mask.mean((1, 2, 3)), flow=flow)

    def _flow(self, planes: Tensor, fine: Tensor, code: Tensor, place: Tensor) -> Tensor:
        """Where each pixel of the later frame comes from, [B, 2, H, W] in units of half the picture."""
        if self.config.kind == "free":
            return torch.tanh(planes[:, :2]) * self.config.reach
        gate = torch.sigmoid(planes[:, :1] * 4)
        shift, stretch = self.how(code).split([2, 4], dim=-1)
        shift = torch.tanh(shift)[:, :, None, None] * self.config.reach
        offset = place - self._hand(fine)
        stretch = torch.tanh(stretch).view(-1, 2, 2) * 0.5
        flow: Tensor = gate * (shift + torch.einsum("bij,bjhw->bihw", stretch, offset))
        return flow

    def _hand(self, fine: Tensor) -> Tensor:
        """Where the hand is, [B, 2, 1, 1]: a spatial softmax over the frame's features."""
        heat: Tensor = self.where(fine).flatten(2).softmax(-1)
        return (heat * coordinates(fine).flatten(2)).sum(-1)[:, :, None, None]

    @staticmethod
    def _film(x: Tensor, modulation: Tensor) -> Tensor:
        scale, shift = modulation[:, :, None, None].chunk(2, dim=1)
        modulated: Tensor = x * (1 + scale) + shift
        return modulated


def _pixels_of(scene: Scene) -> Tensor:
    assert scene.frames is not None, "a decoder that draws needs the frame's pixels"
    return scene.frames
