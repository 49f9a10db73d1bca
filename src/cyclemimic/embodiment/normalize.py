"""Statistics that bring actions and proprioception to a common scale, and their inverse. Numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError
from cyclemimic.types import Float32

CONSTANT = 1e-3  # an axis that spreads less (a millimetre, a milliradian) is constant: its noise must not be magnified
QUANTILES = (0.01, 0.99)

Kind = Literal["quantile", "std"]


@dataclass(frozen=True, kw_only=True)
class Normalizer:
    """`(value - offset) / scale` per axis; `denormalize` inverts it up to float32 rounding. Engineering."""

    offset: Float32  # [A]
    scale: Float32  # [A], > 0

    def __post_init__(self) -> None:
        if self.offset.shape != self.scale.shape or self.offset.ndim != 1:
            raise InputError(
                "Normalizer",
                expected="offset and scale [axes]",
                got=f"{self.offset.shape} and {self.scale.shape}",
                remedy="Fit it, or read it whole from a checkpoint.",
            )
        if not (np.isfinite(self.offset).all() and np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise InputError(
                "Normalizer",
                expected="finite offsets, scales > 0",
                got=f"{self.scale}",
                remedy="Fit it again.",
            )

    @property
    def width(self) -> int:
        """Number of axes."""
        return int(self.offset.shape[0])

    @classmethod
    def fit(cls, values: NDArray[Any], kind: Kind = "quantile", *, constant_scale: float = 1.0) -> Normalizer:
        """Statistics of `values` [..., A].

        `quantile` sends the 1st and 99th percentile to -1 and 1 (as OpenVLA does; minimum and maximum where
        those two coincide), `std` gives mean 0 and deviation 1. A constant axis gets `constant_scale`: 1 keeps
        the unit of an input, so that an unseen value does not become a thousand deviations; a small one keeps a
        predicted axis still, whatever a network says.

        Raises:
            InputError: no rows, a number that is not finite, or an unknown kind.
        """
        if values.ndim < 1 or values.size == 0 or not np.isfinite(values).all():
            raise InputError(
                "Normalizer.fit",
                expected="finite rows [..., axes]",
                got=str(values.shape),
                remedy="Drop bad rows.",
            )
        rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
        if kind == "quantile":
            low, high = np.quantile(rows, QUANTILES, axis=0)
            narrow = high - low <= CONSTANT
            low, high = np.where(narrow, rows.min(0), low), np.where(narrow, rows.max(0), high)
            offset, scale = (low + high) / 2, (high - low) / 2
        elif kind == "std":
            offset, scale = rows.mean(0), rows.std(0)
        else:
            raise InputError("Normalizer.fit", expected="quantile or std", got=repr(kind), remedy="Name one of them.")
        scale = np.where(scale <= CONSTANT, constant_scale, scale)
        return cls(offset=offset.astype(np.float32), scale=scale.astype(np.float32))

    def normalize(self, values: NDArray[Any]) -> Float32:
        """[..., A] in the body's units to [..., A] near [-1, 1]."""
        self._check(values)
        return ((values.astype(np.float32) - self.offset) / self.scale).astype(np.float32)

    def denormalize(self, values: NDArray[Any]) -> Float32:
        """[..., A] normalised to [..., A] in the body's units."""
        self._check(values)
        return (values.astype(np.float32) * self.scale + self.offset).astype(np.float32)

    def to_json(self) -> dict[str, list[float]]:
        """Lists that JSON can hold; float32 survives the round trip bit for bit."""
        return {"offset": self.offset.astype(float).tolist(), "scale": self.scale.astype(float).tolist()}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Normalizer:
        """Undo `to_json`."""
        return cls(offset=np.array(found["offset"], np.float32), scale=np.array(found["scale"], np.float32))

    def _check(self, values: NDArray[Any]) -> None:
        if values.ndim < 1 or values.shape[-1] != self.width:
            raise InputError(
                "Normalizer",
                expected=f"values of width {self.width}",
                got=f"shape {values.shape}",
                remedy="These statistics belong to another body.",
            )
