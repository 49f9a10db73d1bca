"""All randomness is a pure function of (seed, step, purpose), so that a resumed run needs no saved generator."""

from __future__ import annotations

import hashlib
import zlib

import numpy as np


def entropy_for(seed: int, step: int, purpose: str) -> int:
    """A 63-bit integer drawn from (seed, step, purpose); seeds generators of other libraries. Engineering."""
    words = np.random.SeedSequence([seed, step, zlib.crc32(purpose.encode())]).generate_state(2, np.uint32)
    return int(words[0]) << 31 | int(words[1]) >> 1


def rng_for(seed: int, step: int, purpose: str) -> np.random.Generator:
    """A numpy generator that depends on nothing but (seed, step, purpose). Engineering."""
    return np.random.default_rng([seed, step, zlib.crc32(purpose.encode())])


def draw_for(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on (seed, name) alone: what is decided thing by thing. Engineering."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
