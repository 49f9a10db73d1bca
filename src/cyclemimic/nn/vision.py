"""Frames to patch features: the Protocol of feature backbones, the convolutional one, and how one is chosen."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.names import named
from cyclemimic.nn.batches import Features
from cyclemimic.store.atomic import sha256_json


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which feature backbone, and whether it learns.

    Args:
        kind: conv (random weights, from this package), pretrained (DINOv2, DINOv3, SigLIP, V-JEPA 2), or
            package.module:Class, which is called with this configuration.
        trainable: False freezes it; gradients still pass through to its input.
        width: C, of `conv`.
        stride_px: of `conv`.
        name: of `pretrained`: a hub id or a folder.
        layer: of `pretrained`: how many blocks are run; None is all of them.
        input_px: of `pretrained`: side to which frames are resized; None takes them as they come.
    """

    kind: str = "conv"
    trainable: bool = True
    width: int = 48
    stride_px: int = 4
    name: str = ""
    layer: int | None = None
    input_px: int | None = None


class FeatureBackbone(Protocol):
    """Frames [B, 3, H, W] in [0, 1] to patch features; differentiable in its input even where it is frozen.

    A backbone may resize frames before it cuts them into patches, so the grid comes from `grid_for`, not from
    H / stride_px.
    """

    width: int  # C, channels of a patch feature
    stride_px: int  # side of a patch in the picture that the backbone itself works on

    def grid_for(self, size_px: int | tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the features of frames of `size_px`: a square's side, or (height, width)."""
        ...

    def __call__(self, frames: Tensor) -> Features:
        """Features [B, N, C] on the grid that `grid_for` gives for (H, W)."""
        ...


class ConvStem(nn.Module):
    """Strided convolutions with coordinate channels, as feature backbone without pretrained weights. Engineering.

    Args:
        width: C.
        stride_px: 2, 4, 8 ...: one convolution of stride 2 for each factor of two.
        channels: colours in; 3 for frames.
    """

    def __init__(self, width: int, stride_px: int, channels: int = 3) -> None:
        super().__init__()
        halvings = stride_px.bit_length() - 1
        if 2**halvings != stride_px:
            raise ValueError(f"stride_px must be a power of two, got {stride_px}")
        self.width, self.stride_px = width, stride_px
        between = [max(16, width >> (halvings - 1 - i)) for i in range(halvings - 1)]
        widths = [channels + 2, *between, width]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(widths)
        )
        self.mix = nn.Conv2d(width, width, 3, padding=1)

    def grid_for(self, size_px: int | tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the features of frames of `size_px`: a square's side, or (height, width)."""
        height_px, width_px = height_and_width(size_px)
        return math.ceil(height_px / self.stride_px), math.ceil(width_px / self.stride_px)

    def forward(self, frames: Tensor) -> Features:
        """[B, channels, H, W] -> patches [B, N, C]."""
        x = with_coordinates(frames)
        for convolution in self.convolutions:
            x = F.gelu(convolution(x))
        x = x + self.mix(x)
        return Features(patches=x.flatten(2).transpose(1, 2), grid=(x.shape[2], x.shape[3]))


def height_and_width(size_px: int | tuple[int, int]) -> tuple[int, int]:
    """A square's side, or (height, width), as (height, width)."""
    return size_px if isinstance(size_px, tuple) else (size_px, size_px)


def _pretrained(config: BackboneConfig) -> nn.Module:
    # Here and not above: `transformers` takes seconds to import.
    from cyclemimic.nn.pretrained import PretrainedBackbone, PretrainedBackboneConfig

    return PretrainedBackbone.load(
        PretrainedBackboneConfig(name=config.name, layer=config.layer, input_px=config.input_px)
    )


BACKBONES: dict[str, Callable[[BackboneConfig], nn.Module]] = {
    "conv": lambda config: ConvStem(config.width, config.stride_px),
    "pretrained": _pretrained,
}


def build_backbone(config: BackboneConfig) -> nn.Module:
    """The feature backbone that `config` names; frozen where it says so. Meets `FeatureBackbone`."""
    backbone = named("BackboneConfig.kind", config.kind, BACKBONES)(config)
    if not config.trainable:
        backbone.requires_grad_(False)
    return backbone


def backbone_hash(backbone: nn.Module, config: BackboneConfig) -> str:
    """A hash of all that decides a backbone's features: its kind and settings, weights, preparation of pictures.

    A pretrained one is known by its weights, wherever they lie. The code of a class is not hashed.
    """
    settings = {name: value for name, value in asdict(config).items() if name != "trainable"}
    if config.kind == "pretrained":
        del settings["name"]
    return sha256_json({**settings, "weights": getattr(backbone, "weights_sha256", None) or _weights_hash(backbone)})


def _weights_hash(module: nn.Module) -> str:
    """Names, shapes and bytes of parameters and buffers, those too that a state_dict leaves out."""
    digest = hashlib.sha256()
    for name, tensor in sorted({**dict(module.named_parameters()), **dict(module.named_buffers())}.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)  # only looked at
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def with_coordinates(frames: Tensor) -> Tensor:
    """Frames [B, C, H, W] in [0, 1] as [B, C + 2, H, W] in [-1, 1], the last two channels x and y.

    Channels lie innermost in memory, which convolutions keep: on a CPU that makes them faster.
    """
    x = torch.cat([frames * 2 - 1, coordinates(frames)], dim=1)
    return x.contiguous(memory_format=torch.channels_last)


def coordinates(frames: Tensor) -> Tensor:
    """Two channels [B, 2, H, W] with x and y in [-1, 1] at the centres of pixels, x first as grid_sample wants them."""
    batch, _, height, width = frames.shape
    ys = (torch.arange(height, device=frames.device, dtype=frames.dtype) + 0.5) * (2 / height) - 1
    xs = (torch.arange(width, device=frames.device, dtype=frames.dtype) + 0.5) * (2 / width) - 1
    grid = torch.stack([xs.expand(height, width), ys[:, None].expand(height, width)])
    return grid.expand(batch, 2, height, width)
