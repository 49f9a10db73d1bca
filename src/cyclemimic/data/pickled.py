"""Reading the plain values in a pickle without unpickling it. Engineering.

Unpickling a stranger's file runs what the file says. This reader runs nothing: it follows the few opcodes that build
texts, numbers, lists, tuples and dictionaries, notes a call without making it, and refuses everything else. Calls that
numpy writes for its integers are read from their bytes; other calls stay notes.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cyclemimic.errors import InputError

MAX_BYTES = 1 << 30
_REMEDY = "Make the file again, or save its values as JSON."
_INTEGERS = {"i1": 1, "i2": 2, "i4": 4, "i8": 8, "u1": 1, "u2": 2, "u4": 4, "u8": 8}


@dataclass
class Call:
    """What a pickle would have called, with what, and the state that it would have given to the result."""

    name: str
    arguments: Any = None
    state: Any = None


class _Mark:
    """Where on the stack a list of things begins."""


# What an opcode that only holds a value pushes is its argument.
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING"),
}
_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": _Mark,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def plain_values(content: bytes, where: object) -> Any:
    """The value that a pickle describes, with a `Call` in place of everything that is no plain value.

    Raises:
        InputError: it is no pickle, is damaged, or needs an opcode that this reader does not follow.
    """
    if len(content) > MAX_BYTES:
        raise InputError(where, expected=f"at most {MAX_BYTES} bytes", got=str(len(content)), remedy=_REMEDY)
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                break
            _follow(opcode.name, argument, stack, memo)
        (value,) = stack
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, UnicodeError) as error:
        got = f"{type(error).__name__}: {str(error)[:200]}"
        raise InputError(where, expected="a pickle of plain values", got=got, remedy=_REMEDY) from None
    return value


def _follow(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    if name in _VALUES:
        stack.append(argument)
    elif name in _NEW:
        stack.append(_NEW[name]())
    elif name in _TUPLES:
        stack[-_TUPLES[name] :] = [tuple(_several(stack, _TUPLES[name]))]
    elif name == "TUPLE":
        stack.append(tuple(_since_mark(stack)))
    elif name in ("APPEND", "APPENDS"):
        items = [stack.pop()] if name == "APPEND" else _since_mark(stack)
        _top(stack, list).extend(items)
    elif name in ("SETITEM", "SETITEMS"):
        items = [stack.pop() for _ in range(2)][::-1] if name == "SETITEM" else _since_mark(stack)
        _top(stack, dict).update(zip(items[::2], items[1::2], strict=True))
    elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name == "GLOBAL":
        stack.append(Call(name=str(argument)))
    elif name == "STACK_GLOBAL":
        module, attribute = _several(stack, 2)
        stack[-2:] = [Call(name=f"{module} {attribute}")]
    elif name == "REDUCE":
        arguments, called = stack.pop(), stack.pop()
        stack.append(_noted(called, arguments))
    elif name == "BUILD":
        state = stack.pop()
        _top(stack, Call).state = state
    elif name not in ("PROTO", "FRAME"):
        raise ValueError(f"opcode {name}, which plain values do not need")


def _noted(called: Any, arguments: Any) -> Any:
    """A call that is not made; an integer or bytes where the call is known to be one."""
    if not isinstance(called, Call) or not isinstance(arguments, tuple):
        raise TypeError("a call of something that is no name")
    if called.name.endswith("multiarray scalar") and len(arguments) == 2:
        kind, data = arguments
        code = kind.arguments[0] if isinstance(kind, Call) and isinstance(kind.arguments, tuple) else None
        little = isinstance(kind, Call) and isinstance(kind.state, tuple) and ">" not in kind.state
        if isinstance(code, str) and isinstance(data, bytes) and little and _INTEGERS.get(code) == len(data):
            return int.from_bytes(data, "little", signed=code[0] == "i")
    if called.name == "_codecs encode" and len(arguments) == 2 and arguments[1] == "latin1":
        return str(arguments[0]).encode("latin1")  # how old protocols spell bytes
    return Call(name=called.name, arguments=arguments)


def _several(stack: list[Any], count: int) -> list[Any]:
    if len(stack) < count:
        raise IndexError("fewer values than an opcode takes")
    return stack[-count:]


def _since_mark(stack: list[Any]) -> list[Any]:
    items = []
    while not isinstance(top := stack.pop(), _Mark):
        items.append(top)
    return items[::-1]


def _top(stack: list[Any], kind: type[Any]) -> Any:
    if not isinstance(stack[-1], kind):
        raise TypeError(f"no {kind.__name__} to fill")
    return stack[-1]
