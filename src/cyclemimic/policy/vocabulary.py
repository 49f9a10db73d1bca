"""The words of the task sentences and the tokens that the paper adds to them: LACT_1 .. LACT_K, ACT, action tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError

PAD, BOS, UNK = 0, 1, 2
NUM_SPECIAL = 3
NEUTRAL_PROMPT = "do the task"


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """A sentence as token ids, and those of its words that the vocabulary lacks."""

    ids: tuple[int, ...]
    unknown: tuple[str, ...] = ()


def split_words(sentence: str) -> list[str]:
    """Lower-cased words without punctuation. Engineering."""
    return re.findall(r"\w+", sentence.lower())


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Token ids in this order: PAD, BOS, UNK, the words sorted, LACT_1 .. LACT_K, ACT, action tokens (after UniVLA).

    The K latent tokens are shared by all l_z slots, as in the paper. Action tokens are there only where the action
    head speaks in them.
    """

    words: tuple[str, ...]
    num_codes: int  # K
    neutral: str = NEUTRAL_PROMPT
    num_bins: int = 0  # action tokens

    def __post_init__(self) -> None:
        if self.num_codes < 1 or self.num_bins < 0:
            raise InputError(
                "Vocabulary",
                expected="at least one code, and no negative number of bins",
                got=f"{self.num_codes} codes, {self.num_bins} bins",
                remedy="Give the codebook's K.",
            )
        if list(self.words) != sorted(set(self.words)):
            raise InputError(
                "Vocabulary.words",
                expected="sorted, no word twice",
                got=repr(self.words[:8]),
                remedy="Use build().",
            )

    @classmethod
    def build(cls, sentences: Iterable[str | None], *, num_codes: int, neutral: str = NEUTRAL_PROMPT) -> Vocabulary:
        """The vocabulary of `sentences` and of the neutral prompt; independent of their order."""
        known = set(split_words(neutral))
        for sentence in sentences:
            known.update(split_words(sentence or ""))
        return cls(words=tuple(sorted(known)), num_codes=num_codes, neutral=neutral)

    def __len__(self) -> int:
        return NUM_SPECIAL + len(self.words) + self.num_codes + 1 + self.num_bins

    @property
    def first_latent_id(self) -> int:
        """Token id of LACT_1."""
        return NUM_SPECIAL + len(self.words)

    @property
    def act_id(self) -> int:
        """Token id of ACT, the query behind the latent tokens."""
        return self.first_latent_id + self.num_codes

    @property
    def first_bin_id(self) -> int:
        """Token id of the first action token."""
        return self.act_id + 1

    def extended(self, sentences: Iterable[str | None], *, num_bins: int) -> Vocabulary:
        """The same vocabulary with the words of more `sentences`, and with `num_bins` action tokens."""
        more = {word for sentence in sentences for word in split_words(sentence or "")}
        return replace(self, words=tuple(sorted({*self.words, *more})), num_bins=num_bins)

    def ids_in(self, other: Vocabulary) -> NDArray[np.int64]:
        """For each token of ours, its id in `other`, -1 where `other` lacks it. Both must have the same codes."""
        assert self.num_codes == other.num_codes
        there = {word: NUM_SPECIAL + i for i, word in enumerate(other.words)}
        words = [there.get(word, -1) for word in self.words]
        behind = np.arange(self.num_codes + 1) + other.first_latent_id
        bins = (
            np.arange(self.num_bins) + other.first_bin_id if self.num_bins == other.num_bins else [-1] * self.num_bins
        )
        return np.array([*range(NUM_SPECIAL), *words, *behind, *bins], np.int64)

    def latent_id(self, code: int) -> int:
        """Token id of the latent token of `code` in [0, K)."""
        if not 0 <= code < self.num_codes:
            raise InputError(
                "latent code",
                expected=f"[0, {self.num_codes})",
                got=str(code),
                remedy="These labels belong to another codebook.",
            )
        return self.first_latent_id + code

    def code_of(self, token_id: int) -> int:
        """The code whose latent token has this id; undoes `latent_id`."""
        code = token_id - self.first_latent_id
        if not 0 <= code < self.num_codes:
            raise InputError(
                "token id",
                expected=f"a latent token in [{self.first_latent_id}, {self.act_id})",
                got=str(token_id),
                remedy="Words and ACT carry no code.",
            )
        return code

    def encode(self, sentence: str | None) -> Encoding:
        """BOS and the words of `sentence`; None stands for the neutral prompt, an unknown word becomes UNK."""
        words = split_words(self.neutral if sentence is None else sentence)
        index = {word: NUM_SPECIAL + i for i, word in enumerate(self.words)}
        return Encoding(
            ids=(BOS, *(index.get(word, UNK) for word in words)),
            unknown=tuple(sorted({word for word in words if word not in index})),
        )

    def table(self, sentences: Sequence[str | None]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Token ids [B, W], right-padded with PAD, and the mask [B, W] that is True where there is a word."""
        encoded = [self.encode(sentence).ids for sentence in sentences]
        ids = np.full((len(encoded), max(map(len, encoded), default=1)), PAD, np.int64)
        for row, found in zip(ids, encoded, strict=True):
            row[: len(found)] = found
        return ids, ids != PAD

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {
            "words": list(self.words),
            "num_codes": self.num_codes,
            "neutral": self.neutral,
            "num_bins": self.num_bins,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Vocabulary:
        """Undo `to_json`."""
        return cls(
            words=tuple(found["words"]),
            num_codes=int(found["num_codes"]),
            neutral=str(found["neutral"]),
            num_bins=int(found.get("num_bins", 0)),
        )
