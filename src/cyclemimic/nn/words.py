"""Sentences as hashed words: numbers without a vocabulary file, so that any source's sentences fit. Numpy only.

Engineering. Two words may share a number; the table of the policy, which must name every word, is its own.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

import numpy as np

from cyclemimic.errors import InputError
from cyclemimic.types import Int64

PADDING = 0


@dataclass(frozen=True, kw_only=True)
class WordHash:
    """A sentence to W numbers below V: lower-cased words by their CRC-32, 0 behind the last.

    Args:
        vocabulary: V, rows of the table that reads the numbers.
        length: W; longer sentences are cut.
    """

    vocabulary: int = 4096
    length: int = 16

    def __post_init__(self) -> None:
        if self.vocabulary < 2 or self.length < 1:
            raise InputError(
                "WordHash",
                expected="a vocabulary of at least 2 and a length of at least 1",
                got=f"{self.vocabulary} and {self.length}",
                remedy="Try 4096 and 16.",
            )

    def __call__(self, sentence: str | None) -> Int64:
        """Numbers [W]; all padding where there is no sentence."""
        found = re.findall(r"\w+", (sentence or "").lower())[: self.length]
        out = np.full(self.length, PADDING, np.int64)
        # Not hash(): Python's differs from process to process.
        out[: len(found)] = [1 + zlib.crc32(word.encode()) % (self.vocabulary - 1) for word in found]
        return out
