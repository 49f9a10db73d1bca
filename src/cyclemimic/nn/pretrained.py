"""Frozen pretrained vision transformers as feature backbones: DINOv2, DINOv3, SigLIP, V-JEPA 2, from `transformers`.

Letters in shapes: B batch, H W picture, N patches, C channels.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.nn.batches import Features
from cyclemimic.nn.vision import height_and_width
from cyclemimic.nn.vit_families import (
    FAMILIES,
    Architecture,
    Family,
    FamilyName,
    Preprocessing,
    Resampling,
    transformers_config,
)


@dataclass(frozen=True, kw_only=True)
class PretrainedBackboneConfig:
    """Which pretrained backbone.

    Args:
        name: an id of the Hugging Face hub, or a local folder with config.json and model.safetensors.
        revision: branch, tag or commit on the hub.
        layer: how many blocks are run before the model's final norm; None is all of them.
        input_px: side to which frames are resized; None takes them as they come, to the nearest whole patch. V-JEPA 2
            knows positions for one size only: its own, or this one.
    """

    name: str
    revision: str = "main"
    layer: int | None = None
    input_px: int | None = None


class PretrainedBackbone(nn.Module):
    """A frozen vision transformer: frames to the patch tokens behind its final norm, without class token and registers.

    Paper: method, latent action tokenizer (DINOv2). Made by `load` or `random`. It stays in evaluation mode and gets no
    gradient, but passes one on to its frames. Its weights stay out of `state_dict`: whoever saves a model writes down
    `weights_sha256` and loads the backbone by name again. V-JEPA 2 sees each frame as a clip that stands still.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        family_name: FamilyName,
        *,
        preprocessing: Preprocessing,
        layer: int | None,
        input_px: int | None,
    ) -> None:
        super().__init__()
        family, config = FAMILIES[family_name], cast(Any, model.config)
        self.family_name, self.resampling = family_name, preprocessing.resampling
        self.width: int = config.hidden_size
        self.stride_px: int = config.patch_size
        self.input_px: int | None = getattr(config, family.size_field) if family.fixed_size else input_px
        # Class token and registers stand before the patches.
        self.skipped: int = family.class_token + getattr(config, "num_register_tokens", 0)
        self.model = cast(nn.Module, model.encoder) if family_name == "vjepa2" else model  # without its predictor
        _keep_blocks(self.model, family.blocks, layer)
        self.model.requires_grad_(False)
        super().train(False)
        self.register_buffer("mean", torch.tensor(preprocessing.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std)[:, None, None], persistent=False)
        self.register_state_dict_post_hook(_leave_weights_out)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_miss_no_weights)  # type: ignore[no-untyped-call]

    @classmethod
    def load(cls, config: PretrainedBackboneConfig, *, weights_sha256: str | None = None) -> PretrainedBackbone:
        """Read safetensors of a local folder or of the hub's cache, which is filled from the network if need be.

        Args:
            config: which backbone.
            weights_sha256: what the backbone must be, as written down when something was trained on it.

        Raises:
            InputError: no such model, another family, weights that lack something, or other weights than asked for.
        """
        # Here and not above: importing transformers takes seconds, and only this needs it.
        import transformers

        name = _name_or_folder(config.name)
        family_name, model_config = _read_model_config(name, config.revision)
        family = FAMILIES[family_name]
        _check_sizes(family, model_config, layer=config.layer, input_px=config.input_px)
        model = _read_weights(getattr(transformers, family.model), name, config.revision, model_config, family)
        backbone = cls(
            model,
            family_name,
            preprocessing=_read_preprocessing(name, config.revision, family.preprocessing),
            layer=config.layer,
            input_px=config.input_px,
        )
        if weights_sha256 is not None and backbone.weights_sha256 != weights_sha256:
            raise InputError(
                config.name,
                expected=f"the backbone {weights_sha256[:12]} on which this was trained",
                got=backbone.weights_sha256[:12],
                remedy="Give its folder, or the revision of the hub that holds it.",
            )
        return backbone

    @classmethod
    def random(
        cls, architecture: Architecture, *, layer: int | None = None, input_px: int | None = None
    ) -> PretrainedBackbone:
        """Random weights, for tests and, under `torch.device("meta")`, for sizes."""
        import transformers

        family = FAMILIES[architecture.family]
        model_config = transformers_config(architecture)
        _check_sizes(family, model_config, layer=layer, input_px=input_px)
        return cls(
            getattr(transformers, family.model)(model_config),
            architecture.family,
            preprocessing=family.preprocessing,
            layer=layer,
            input_px=input_px,
        )

    @functools.cached_property
    def weights_sha256(self) -> str:
        """Names, shapes and bytes of the weights, and how pictures are prepared for them; files do not matter."""
        digest = hashlib.sha256(f"{self.family_name} {self.resampling} {self.skipped}".encode())
        for name, tensor in sorted({**self.model.state_dict(), ".mean": self.mean, ".std": self.std}.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
        return digest.hexdigest()

    def train(self, mode: bool = True) -> PretrainedBackbone:
        """Stay in evaluation mode: dropout or jittered positions would make another teacher of it."""
        return super().train(False)

    def grid_for(self, size_px: int | tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the features of frames of `size_px`: a square's side, or (height, width)."""
        height_px, width_px = self._picture_size(height_and_width(size_px))
        return height_px // self.stride_px, width_px // self.stride_px

    def forward(self, frames: Tensor) -> Features:
        """Frames [B, 3, H, W] in [0, 1] -> patches [B, N, C]."""
        height_px, width_px = frames.shape[-2:]
        pictures = resize(frames, self._picture_size((height_px, width_px)), self.resampling)
        pictures = (pictures - self.mean) / self.std
        if self.family_name == "siglip":
            output = self.model(pictures, interpolate_pos_encoding=True)
        elif self.family_name == "vjepa2":
            frames_per_token = cast(Any, self.model.config).tubelet_size
            output = self.model(pictures[:, None].expand(-1, frames_per_token, -1, -1, -1))
        else:
            output = self.model(pictures)
        return Features(patches=output.last_hidden_state[:, self.skipped :], grid=self.grid_for((height_px, width_px)))

    def _picture_size(self, size_px: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the picture that the model is given for a frame of `size_px`."""
        if self.input_px is not None:
            return self.input_px, self.input_px
        patch = self.stride_px
        height, width = (max(1, (side + patch // 2) // patch) * patch for side in size_px)
        return height, width


def resize(frames: Tensor, size_px: tuple[int, int], resampling: Resampling) -> Tensor:
    """Frames [B, 3, H, W] to another height and width, antialiased, as `F.interpolate` does it. Engineering.

    Two matrix products instead, because the gradient of `F.interpolate` on a GPU is another each time. Not clamped to
    [0, 1], which bicubic may leave by a little: a clamp would stop the gradient there.
    """
    height, width = frames.shape[-2:]
    if (height, width) == size_px:
        return frames
    # Pixels stay in fp32 under autocast; the meta device knows no autocast.
    full = contextlib.nullcontext() if frames.is_meta else torch.autocast(frames.device.type, enabled=False)
    with full:
        rows, columns = (
            _resampling_matrix(old, new, resampling, frames.device)
            for old, new in zip((height, width), size_px, strict=True)
        )
        return rows @ frames.float() @ columns.T


def _check_sizes(family: Family, model_config: Any, *, layer: int | None, input_px: int | None) -> None:
    """Fit `model_config` to what is asked for, or say why it cannot be."""
    layers, patch = model_config.num_hidden_layers, model_config.patch_size
    if layer is not None and not 1 <= layer <= layers:
        raise InputError("layer", expected=f"1 to {layers}", got=str(layer), remedy="Leave it out to run all blocks.")
    if input_px is not None:
        if input_px < patch or input_px % patch:
            raise InputError(
                "input_px",
                expected=f"whole patches of {patch} px",
                got=f"{input_px} px",
                remedy=f"The nearest is {max(1, round(input_px / patch)) * patch}.",
            )
        if family.fixed_size:
            # It counts positions along rows of this length; nothing learnt depends on it.
            setattr(model_config, family.size_field, input_px)


def _keep_blocks(model: nn.Module, blocks: str, layer: int | None) -> None:
    """Drop the blocks behind `layer`, so that the final norm comes right behind it."""
    parent, _, name = blocks.rpartition(".")
    holder = operator.attrgetter(parent)(model) if parent else model
    setattr(holder, name, getattr(holder, name)[:layer])


def _resampling_matrix(old: int, new: int, resampling: Resampling, device: torch.device) -> Tensor:
    """[new, old]: the weights with which `F.interpolate` mixes `old` pixels of a line into `new` ones."""
    lines = torch.eye(old, device=device)[None, None]
    return F.interpolate(lines, size=(new, old), mode=resampling, antialias=True)[0, 0]


def _leave_weights_out(module: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: object) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}model.")]:
        del state[name]


def _miss_no_weights(module: nn.Module, incompatible: Any) -> None:
    ours = {f"model.{name}" for name in cast(PretrainedBackbone, module).model.state_dict()}
    missing = incompatible.missing_keys
    missing[:] = [name for name in missing if not any(name == own or name.endswith(f".{own}") for own in ours)]


def _name_or_folder(name: str) -> str:
    """`name` as it stands if it is an id of the hub, else the folder that it names."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder)
    if name.startswith((".", "/", "~")):
        raise InputError(
            name,
            expected="a folder with config.json and model.safetensors",
            got="no folder",
            remedy="Check the path.",
        )
    return name


def _read_model_config(name: str, revision: str) -> tuple[FamilyName, Any]:
    """The family and the configuration object of `transformers` that config.json asks for."""
    import transformers

    try:
        values, _ = transformers.PretrainedConfig.get_config_dict(name, revision=revision)
    except OSError as error:
        raise _not_found(name, "config.json", str(error)) from error
    if not values:
        raise _not_found(name, "config.json", "none")
    kind = str(values.get("model_type"))
    if kind == "siglip":  # both towers; we read the one that sees
        values = values["vision_config"]
    family_name = cast(FamilyName, {"siglip_vision_model": "siglip"}.get(kind, kind))
    if family_name not in FAMILIES:
        remedy = did_you_mean(kind, FAMILIES)
        if kind.startswith("siglip2"):
            remedy = "SigLIP 2 works here in its fixed resolutions (model_type siglip), not as NaFlex."
        raise InputError(name, expected="a model_type that we can read", got=repr(kind), remedy=remedy)
    model_config = getattr(transformers, FAMILIES[family_name].config).from_dict(values)
    if family_name == "siglip":
        model_config.vision_use_head = False
    return family_name, model_config


def _read_weights(model_class: Any, name: str, revision: str, model_config: Any, family: Family) -> nn.Module:
    """The model with every weight from safetensors; `transformers` itself would fill gaps with random numbers."""
    from safetensors import SafetensorError

    try:
        with _quiet_transformers():
            model, info = model_class.from_pretrained(
                name,
                config=model_config,
                revision=revision,
                use_safetensors=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except OSError as error:
        raise _not_found(name, "weights in safetensors (pickled .bin files are not read)", str(error)) from error
    except SafetensorError as error:
        raise InputError(
            name,
            expected="whole safetensors files",
            got=str(error),
            remedy="A file is cut short or of another format; copy or download it again.",
        ) from error
    lacking = sorted(key for key in info["missing_keys"] if not key.startswith(family.unread))
    lacking += sorted(f"{key} {tuple(found)}" for key, found, _ in info["mismatched_keys"])
    too_many = sorted(key for key in info["unexpected_keys"] if _is_block(key, family))
    if lacking or too_many:
        wrong = lacking or too_many
        what = f"{len(lacking)} missing or of another shape" if lacking else f"{len(too_many)} too many"
        raise InputError(
            name,
            expected="the weights of the model in config.json",
            got=f"{what}: {', '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''}",
            remedy="config.json and the weights belong to different models, or the download is not whole.",
        )
    return cast(nn.Module, model)


def _is_block(key: str, family: Family) -> bool:
    """Whether a weight that the model has no place for is of a block of its vision transformer."""
    return not key.startswith(family.unread) and re.search(r"(^|\.)layers?\.\d+\.", key) is not None


def _read_preprocessing(name: str, revision: str, usual: Preprocessing) -> Preprocessing:
    """What the checkpoint says of how pictures were prepared; `usual` where it says nothing."""
    from transformers.utils import cached_file

    for file in ("preprocessor_config.json", "video_preprocessor_config.json"):
        try:
            path = cached_file(name, file, revision=revision)
        except OSError:  # not every checkpoint has one
            continue
        values = json.loads(Path(path).read_text())
        names_of_pillow: dict[Any, Resampling] = {2: "bilinear", 3: "bicubic"}
        return Preprocessing(
            mean=tuple(values.get("image_mean") or usual.mean),
            std=tuple(values.get("image_std") or usual.std),
            resampling=names_of_pillow.get(values.get("resample"), usual.resampling),
        )
    return usual


def _not_found(name: str, what: str, found: str) -> InputError:
    remedy = (
        f"Check the spelling; download it once while online (hf download {name}) or name a local folder that holds it. "
        "DINOv3 also wants its licence accepted on the hub, and `hf auth login`."
    )
    if Path(name).is_dir():
        remedy = "A folder must hold config.json and model.safetensors; `hf download ID --local-dir FOLDER` makes one."
    return InputError(name, expected=what, got=found.strip().partition("\n")[0], remedy=remedy)


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar and no table of unused weights: what is wrong with weights, we say ourselves."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
