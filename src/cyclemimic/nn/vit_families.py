"""Kinds of pretrained vision transformers, as `transformers` has them: sizes, classes, how pictures are prepared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

FamilyName = Literal["dinov2", "dinov2_with_registers", "dinov3_vit", "siglip", "vjepa2"]
Resampling = Literal["bilinear", "bicubic"]
Colour = tuple[float, float, float]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIGLIP_MEAN, SIGLIP_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class VitSize:
    """Sizes of one vision transformer."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    patch_px: int = 14


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A vision transformer without its weights.

    Args:
        family: one of FAMILIES.
        size: width, layers, heads and patch.
        native_px: side of the pictures that its position embeddings are made for.
        registers: tokens that stand between the class token and the patches; DINOv2 with registers and DINOv3 only.
    """

    family: FamilyName
    size: VitSize
    native_px: int
    registers: int = 0


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How pictures in [0, 1] were prepared when the weights were trained."""

    mean: Colour
    std: Colour
    resampling: Resampling


@dataclass(frozen=True, kw_only=True)
class Family:
    """What differs between kinds of models.

    Args:
        config, model: names of classes in `transformers`.
        blocks: where the model keeps its list of blocks.
        preprocessing: of the original checkpoints; a checkpoint's own preprocessor_config.json goes before.
        size_field: the name of native_px.
        unread: beginnings of names of weights on which no patch feature depends.
        fixed_size: True where positions are made for one size, and cannot be had for another.
        class_token: True where one stands before the patches.
    """

    config: str
    model: str
    blocks: str
    preprocessing: Preprocessing
    size_field: str = "image_size"
    unread: tuple[str, ...] = ("embeddings.mask_token",)
    fixed_size: bool = False
    class_token: bool = True


_IMAGENET_BICUBIC = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD, resampling="bicubic")
_IMAGENET_BILINEAR = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD, resampling="bilinear")
_SIGLIP = Preprocessing(mean=SIGLIP_MEAN, std=SIGLIP_STD, resampling="bicubic")

FAMILIES: dict[FamilyName, Family] = {
    "dinov2": Family(
        config="Dinov2Config", model="Dinov2Model", blocks="encoder.layer", preprocessing=_IMAGENET_BICUBIC
    ),
    "dinov2_with_registers": Family(
        config="Dinov2WithRegistersConfig",
        model="Dinov2WithRegistersModel",
        blocks="encoder.layer",
        preprocessing=_IMAGENET_BICUBIC,
    ),
    "dinov3_vit": Family(
        config="DINOv3ViTConfig", model="DINOv3ViTModel", blocks="model.layer", preprocessing=_IMAGENET_BILINEAR
    ),
    # SigLIP 2 of a fixed resolution is the same class and says model_type siglip.
    "siglip": Family(
        config="SiglipVisionConfig",
        model="SiglipVisionModel",
        blocks="encoder.layers",
        preprocessing=_SIGLIP,
        unread=("head.", "text_model."),
        class_token=False,
    ),
    "vjepa2": Family(
        config="VJEPA2Config",
        model="VJEPA2Model",
        blocks="layer",  # of its encoder
        preprocessing=_IMAGENET_BILINEAR,
        size_field="crop_size",
        unread=("predictor.", "pooler."),
        fixed_size=True,
        class_token=False,
    ),
}

# Architectures of checkpoints on the hub, so that sizes are known without a network.
ARCHITECTURES: dict[str, Architecture] = {
    "facebook/dinov2-small": Architecture(
        family="dinov2", size=VitSize(width=384, layers=12, heads=6, mlp_width=1536), native_px=518
    ),
    "facebook/dinov2-with-registers-small": Architecture(
        family="dinov2_with_registers",
        size=VitSize(width=384, layers=12, heads=6, mlp_width=1536),
        native_px=518,
        registers=4,
    ),
    "facebook/dinov2-base": Architecture(
        family="dinov2", size=VitSize(width=768, layers=12, heads=12, mlp_width=3072), native_px=518
    ),
    "facebook/dinov2-with-registers-base": Architecture(
        family="dinov2_with_registers",
        size=VitSize(width=768, layers=12, heads=12, mlp_width=3072),
        native_px=518,
        registers=4,
    ),
    "facebook/dinov3-vitb16-pretrain-lvd1689m": Architecture(
        family="dinov3_vit",
        size=VitSize(width=768, layers=12, heads=12, mlp_width=3072, patch_px=16),
        native_px=224,
        registers=4,
    ),
    "google/siglip-so400m-patch14-224": Architecture(
        family="siglip", size=VitSize(width=1152, layers=27, heads=16, mlp_width=4304), native_px=224
    ),
    "facebook/vjepa2-vitl-fpc64-256": Architecture(
        family="vjepa2",
        size=VitSize(width=1024, layers=24, heads=16, mlp_width=4096, patch_px=16),
        native_px=256,
    ),
}


def transformers_config(architecture: Architecture) -> Any:
    """The configuration object of `transformers` for an architecture."""
    import transformers

    family, size = FAMILIES[architecture.family], architecture.size
    fields: dict[str, Any] = {
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "patch_size": size.patch_px,
        family.size_field: architecture.native_px,
    }
    if architecture.family in ("dinov2", "dinov2_with_registers"):
        fields["mlp_ratio"] = size.mlp_width // size.width
    elif architecture.family == "vjepa2":
        fields["mlp_ratio"] = size.mlp_width / size.width
    else:
        fields["intermediate_size"] = size.mlp_width
    if architecture.family in ("dinov2_with_registers", "dinov3_vit"):
        fields["num_register_tokens"] = architecture.registers
    if architecture.family == "siglip":
        fields["vision_use_head"] = False  # it pools patches to one vector, which we do not read
    return getattr(transformers, family.config)(**fields)
