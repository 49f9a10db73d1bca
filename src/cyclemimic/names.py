"""One literal table per kind of thing, and `package.module:name` for what lies outside this package."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, TypeVar

from cyclemimic.errors import InputError, did_you_mean

T = TypeVar("T")


def named(where: str, text: str, table: Mapping[str, T]) -> T:
    """What `text` names: an entry of `table`, or the class or function `package.module:name`, which can be imported.

    Raises:
        InputError: there is no such entry, module or name; names what comes nearest.
    """
    if ":" not in text:
        if text not in table:
            raise InputError(
                where,
                expected=f"one of {', '.join(sorted(table))}, or package.module:name",
                got=repr(text),
                remedy=did_you_mean(text, table),
            )
        return table[text]
    found: T = imported(where, text)
    if not callable(found):
        raise InputError(
            where,
            expected="a class or a function",
            got=f"{text}, a {type(found).__name__}",
            remedy="Name what makes the thing.",
        )
    return found


def imported(where: str, text: str) -> Any:
    """What `package.module:name` names. Raises InputError where it cannot be imported."""
    module, _, name = text.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            where,
            expected="an importable package.module:name",
            got=f"{text!r} ({error})",
            remedy="Check the spelling and PYTHONPATH.",
        ) from error


def meets(where: str, text: str, found: T, protocol: type[Any]) -> T:
    """`found`, which `text` made, as something that has all that `protocol` asks for.

    Raises:
        InputError: it lacks something; says what.
    """
    methods = [name for name, value in vars(protocol).items() if not name.startswith("_") and callable(value)]
    wanted = [*protocol.__annotations__, *methods]
    lacks = [name for name in wanted if not hasattr(found, name)]
    if lacks:
        raise InputError(
            where,
            expected=f"something that makes a {protocol.__module__}.{protocol.__name__}",
            got=f"{text} makes a {type(found).__name__} without {', '.join(lacks)}",
            remedy="Give it what it lacks.",
        )
    return found
