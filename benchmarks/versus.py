"""A public latent action model from a user's own checkout, as it is, on features that are given.

`--versus FILE:CLASS` names a class like UniVLA's: built from widths and numbers of blocks, called with a batch of
videos, giving `recon`, `target`, `z` and `emb`. What it would download is stood in for: its vision tower gives the
features at hand, and modules that are imported but play no part in the step are empty. Nothing of it is kept here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from textbook import Shapes
from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.errors import InputError


class GivenTower(nn.Module):
    """In place of the model's vision tower: whatever it is shown, it saw `given`."""

    given: Tensor  # [B * T, N, F]

    def forward_features(self, frames: Tensor) -> dict[str, Tensor]:
        """The features at hand, under the name that DINOv2 gives them."""
        return {"x_norm_patchtokens": self.given}


class Public(nn.Module):
    """The public class, with the loss that its authors take: reconstruction, codebook, a quarter of commitment."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        """Features of both frames [B, 2, N, F] -> the loss."""
        self.model.dino_encoder.given = features.flatten(0, 1)
        frames = features.new_zeros(len(features), 2, 3, 1, 1)  # only counted: the tower looks at nothing
        with _on_this_device():
            found = self.model({"videos": frames})
        embedding, vectors = found["emb"], found["z"]
        # Each of the two teaches one side: the codebook, and the encoder.
        loss = F.mse_loss(vectors, embedding.detach()) + 0.25 * F.mse_loss(embedding, vectors.detach())
        loss = loss + F.mse_loss(found["recon"], found["target"])
        if "z_uncontrol" in found:
            # That codebook is frozen: only the encoder is taught.
            loss = loss + 0.25 * F.mse_loss(found["emb_uncontrol"], found["z_uncontrol"].detach())
        return loss


def public_model(named: str, shapes: Shapes) -> Public:
    """The class of `FILE:CLASS` at these shapes.

    Raises:
        InputError: there is no such file or class.
    """
    path, _, name = named.rpartition(":")
    file = Path(path).resolve()
    if not file.is_file():
        remedy = "Check out its repository and name the file in it."
        raise InputError("--versus", expected="FILE:CLASS of a checkout", got=named, remedy=remedy)
    roots = [str(folder) for folder in file.parents]
    with mock.patch.object(sys, "path", [*sys.path, *roots]), mock.patch.dict(sys.modules, _missing()):
        found = _load(file)
        if not hasattr(found, name):
            raise InputError("--versus", expected=f"a class of {file.name}", got=name, remedy="Check its name.")
        with mock.patch.object(torch.hub, "load", lambda *_, **__: GivenTower()):
            model = getattr(found, name)(
                in_dim=3, model_dim=shapes.width, latent_dim=shapes.code_width, num_latents=shapes.num_codes,
                patch_size=14, enc_blocks=shapes.blocks, dec_blocks=shapes.blocks, num_heads=shapes.heads,
            )  # fmt: skip
    return Public(model)


def _load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("versus_model", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _missing() -> dict[str, Any]:
    """Empty modules for what such a file imports and the step does not use."""
    vision = mock.MagicMock()
    vision.transforms.Normalize = lambda **_: nn.Identity()
    return {"torchvision": vision, "rotary_embedding_torch": mock.MagicMock(), "transformers": mock.MagicMock()}


def _on_this_device() -> contextlib.AbstractContextManager[object]:
    """Where there is no GPU, `.cuda()` leaves a tensor where it is."""
    if torch.cuda.is_available():
        return contextlib.nullcontext()
    return mock.patch.object(torch.Tensor, "cuda", lambda self, *_: self)
