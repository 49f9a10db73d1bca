"""What a user did wrong, said once and clearly: where, what was expected, what came, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SPELT_OUT = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


class InputError(ValueError):
    """A mistake in what the user gave us. The command line prints it as one message, without a traceback.

    Args:
        where: the file, folder, flag or field that is wrong.
        expected: what would have been right.
        got: what was found instead.
        remedy: what to do about it.
        each: where several things are wrong alike, a line for each of them, below the first.
    """

    def __init__(self, where: object, *, expected: str, got: str, remedy: str, each: Iterable[str] = ()) -> None:
        self.where, self.expected, self.got, self.remedy = str(where), expected, got, remedy
        # One line, whatever a file is called: who lists thousands of them counts lines.
        place, found, *below = (text.translate(_SPELT_OUT) for text in (self.where, got, *each))
        first = f"{place}: expected {expected}, got {found}. {remedy}"
        super().__init__("\n  ".join([first, *below]))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that proposes the nearest known word and lists the others."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known: {', '.join(known)}."
