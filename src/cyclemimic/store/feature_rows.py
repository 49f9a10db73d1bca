"""Patch features of frames as bytes: what they were made from, and how they are packed. Numpy only. Engineering.

Letters in shapes: B frames, N patches, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError
from cyclemimic.store.atomic import sha256_json
from cyclemimic.types import Float32, Int64, UInt8

FORMAT = "cyclemimic-feature-cache-1"
SHARD_BYTES, SHARD_FRAMES = 32 << 20, 128  # about, and at most: what a kill can cost, and what is held meanwhile
StoredAs = Literal["float32", "float16", "int8"]
_TYPES: dict[str, Any] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "int8": np.dtype("i1")}
_SCALE = np.dtype("<f4")
_LARGEST = 127  # of int8, both ways alike


@dataclass(frozen=True, kw_only=True)
class FeatureRecipe:
    """What decides a feature cache's numbers: the frames, the backbone, and how numbers are stored.

    Args:
        frames_sha256: `flow_cache.frames_hash` of the frame cache.
        backbone_sha256: of the backbone's kind, its weights, and how it prepares pictures.
        backbone_name: for people; equal weights under another name are the same backbone.
    """

    source_hash: str
    frames_sha256: str
    size_px: int
    num_frames: int
    backbone_sha256: str
    grid: tuple[int, int]
    width: int
    stored_as: StoredAs
    backbone_name: str = field(default="", compare=False)

    @property
    def num_patches(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]

    @property
    def frame_bytes(self) -> int:
        """Bytes of one record."""
        numbers = self.num_patches * self.width * int(_TYPES[self.stored_as].itemsize)
        return numbers + (self.num_patches * _SCALE.itemsize if self.stored_as == "int8" else 0)

    @property
    def num_bytes(self) -> int:
        """Bytes of all records."""
        return self.num_frames * self.frame_bytes

    @property
    def shard_frames(self) -> int:
        """How many frames a shard has; the last may have fewer."""
        return max(1, min(SHARD_BYTES // self.frame_bytes, SHARD_FRAMES))

    @property
    def key(self) -> str:
        """Equal for equal recipes: names the folder, so that other features lie elsewhere."""
        return sha256_json([getattr(self, f.name) for f in fields(self) if f.compare])

    def to_json(self) -> dict[str, Any]:
        """As it lies in the index."""
        return {**asdict(self), "format": FORMAT, "grid": list(self.grid)}


@dataclass(frozen=True, kw_only=True)
class FeatureRows:
    """Features of B frames as they are stored."""

    patches: NDArray[Any]  # [B, N, C], float32, float16 or int8
    scale: Float32 | None  # [B, N], by which int8 is multiplied
    recipe: FeatureRecipe

    def __len__(self) -> int:
        return len(self.patches)

    def take(self, index: Int64 | slice) -> FeatureRows:
        """Those of the frames that `index` names."""
        scale = None if self.scale is None else self.scale[index]
        return FeatureRows(patches=self.patches[index], scale=scale, recipe=self.recipe)

    def values(self) -> Float32:
        """The features [B, N, C]."""
        found: Float32 = self.patches.astype(np.float32)
        return found if self.scale is None else found * self.scale[..., None]


def packed(features: Float32, recipe: FeatureRecipe) -> UInt8:
    """Features [B, N, C] as records [B, bytes].

    int8 keeps each patch over its largest value, so that one patch of large features does not coarsen the others.

    Raises:
        InputError: numbers that are not finite, or too large for float16.
    """
    assert features.shape[1:] == (recipe.num_patches, recipe.width), features.shape
    largest = np.abs(features).max(-1)  # [B, N]
    limit = float(np.finfo(np.float16).max) if recipe.stored_as == "float16" else np.inf
    if not (largest <= limit).all() or not np.isfinite(largest).all():
        remedy = "Compute them in every step, or keep them as int8." if limit < np.inf else "Is the backbone whole?"
        got = f"a feature of {largest[~(largest <= limit) | ~np.isfinite(largest)][0]}"
        expected = f"finite features that {recipe.stored_as} can hold"
        raise InputError(f"backbone {recipe.backbone_name}", expected=expected, got=got, remedy=remedy)
    if recipe.stored_as != "int8":
        return _bytes_of(features.astype(_TYPES[recipe.stored_as]))
    scale = (largest / _LARGEST).astype(_SCALE)
    whole = np.rint(features / np.where(scale > 0, scale, 1)[..., None]).clip(-_LARGEST, _LARGEST)
    return np.concatenate([_bytes_of(whole.astype(np.int8)), _bytes_of(scale)], axis=1)


def unpacked(records: UInt8, recipe: FeatureRecipe) -> FeatureRows:
    """Undo `packed`, but leave the multiplication by the scale to whoever computes."""
    shape = (len(records), recipe.num_patches, recipe.width)
    numbers = recipe.num_patches * recipe.width * int(_TYPES[recipe.stored_as].itemsize)
    patches = np.ascontiguousarray(records[:, :numbers]).view(_TYPES[recipe.stored_as]).reshape(shape)
    if recipe.stored_as != "int8":
        return FeatureRows(patches=patches, scale=None, recipe=recipe)
    scale = np.ascontiguousarray(records[:, numbers:]).view(_SCALE)
    return FeatureRows(patches=patches, scale=scale, recipe=recipe)


def _bytes_of(numbers: NDArray[Any]) -> UInt8:
    return np.ascontiguousarray(numbers).reshape(len(numbers), -1).view(np.uint8)


def recipe_from_json(values: Mapping[str, Any]) -> FeatureRecipe:
    """Undo `FeatureRecipe.to_json`. KeyError, TypeError or ValueError where something is missing or of another kind."""
    if values.get("format") != FORMAT or values["stored_as"] not in _TYPES:
        raise ValueError("format")
    rows, columns = values["grid"]
    return FeatureRecipe(
        source_hash=str(values["source_hash"]),
        frames_sha256=str(values["frames_sha256"]),
        size_px=int(values["size_px"]),
        num_frames=int(values["num_frames"]),
        backbone_sha256=str(values["backbone_sha256"]),
        grid=(int(rows), int(columns)),
        width=int(values["width"]),
        stored_as=values["stored_as"],
        backbone_name=str(values["backbone_name"]),
    )
