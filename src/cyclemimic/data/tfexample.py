"""Reading `tf.train.Example` and `SequenceExample` without TensorFlow or protobuf. Engineering.

Both are maps from a name to a list of bytes, of floats or of integers. No length in a message is believed beyond the
bytes that are there, so that no message takes more memory than a small multiple of its own size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError

Values = tuple[memoryview, ...] | NDArray[np.float32] | NDArray[np.int64]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types; its groups (3, 4) are not used
_FEATURES, _FEATURE_LISTS = 1, 2  # fields of Example, and of SequenceExample (where 1 is the context)
_KEY, _VALUE = 1, 2  # fields of an entry in a map
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3  # fields of a Feature
_MAX_KEYS = 4096


def feature_spans(message: bytes | memoryview, where: object) -> dict[str, tuple[memoryview, ...]]:
    """The undecoded features of an Example by name; values are stepped over, not looked at.

    A feature of an Example has one part. A feature list of a SequenceExample has one part per step; TFDS lays the
    steps of an Example end to end in the same way.

    Raises:
        InputError: it is no Example.
    """
    found: dict[str, tuple[memoryview, ...]] = {}
    for field, features in _messages(memoryview(message), where):
        if field not in (_FEATURES, _FEATURE_LISTS):
            continue
        for entry_field, entry in _messages(features, where):
            if entry_field != 1:
                continue
            name, value = "", memoryview(b"")
            for part, content in _messages(entry, where):
                if part == _KEY:
                    name = _name(content, where)
                elif part == _VALUE:
                    value = content
            if field == _FEATURE_LISTS:
                found[name] = tuple(step for part, step in _messages(value, f"{where}, feature {name!r}") if part == 1)
            else:
                found[name] = (value,)
            if len(found) > _MAX_KEYS:
                _wrong(where, f"at most {_MAX_KEYS} features", "more")
    return found


def decoded(parts: tuple[memoryview, ...], where: object) -> Values:
    """The values of a feature that `feature_spans` gave.

    Raises:
        InputError: they are damaged, or of several kinds.
    """
    lists = [part for feature in parts for part in _messages(feature, where)]
    kinds = {kind for kind, _ in lists}
    if len(kinds) > 1 or kinds - {_BYTES_LIST, _FLOAT_LIST, _INT64_LIST}:
        _wrong(where, "one list of bytes, floats or integers", f"fields {sorted(kinds)[:8]}")
    if kinds == {_FLOAT_LIST}:
        return _joined([_floats(content, where) for _, content in lists])
    if kinds == {_INT64_LIST}:
        return _joined([_integers(content, where) for _, content in lists])
    return tuple(value for _, content in lists for field, value in _messages(content, where) if field == 1)


def _floats(message: memoryview, where: object) -> NDArray[np.float32]:
    runs = []
    for field, kind, content in _fields(message, where):
        if field != 1 or kind not in (_BYTES, _FIXED32) or len(content) % 4:
            _wrong(where, "floats of 4 bytes", f"{len(content)} bytes in field {field} of wire type {kind}")
        runs.append(np.frombuffer(content, "<f4"))
    return _joined(runs, np.float32)


def _integers(message: memoryview, where: object) -> NDArray[np.int64]:
    runs = []
    for field, kind, content in _fields(message, where):
        if field != 1 or kind not in (_BYTES, _VARINT):
            _wrong(where, "integers", f"field {field} of wire type {kind}")
        runs.append(_varints(np.frombuffer(content, np.uint8), where))
    return _joined(runs, np.int64)


def _varints(data: NDArray[np.uint8], where: object) -> NDArray[np.int64]:
    """Integers whose bytes hold 7 bits each, lowest first; the eighth bit says that more follow."""
    if not len(data):
        return np.empty(0, np.int64)
    ends = np.flatnonzero(data < 0x80)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if not len(ends) or ends[-1] != len(data) - 1 or (ends - starts).max() > 9:
        _wrong(where, "integers of at most 10 bytes", "one without an end")
    place = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
    bits = (data & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.bitwise_or.reduceat(bits, starts).astype(np.int64)


def _joined(runs: list[NDArray[Any]], dtype: type[Any] | None = None) -> NDArray[Any]:
    return np.concatenate(runs) if runs else np.empty(0, dtype)


def _messages(message: memoryview, where: object) -> Iterator[tuple[int, memoryview]]:
    """The fields of a message that are bytes or messages themselves; others do not occur here."""
    for field, kind, content in _fields(message, where):
        if kind != _BYTES:
            _wrong(where, "bytes", f"wire type {kind} in field {field}")
        yield field, content


def _fields(message: memoryview, where: object) -> Iterator[tuple[int, int, memoryview]]:
    """Field number, wire type and content of each field; the content of a varint is its own bytes."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at, where)
        kind, start = tag & 7, at
        if kind == _BYTES:
            length, start = _varint(message, at, where)
            at = start + length
        elif kind == _VARINT:
            _, at = _varint(message, at, where)
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            _wrong(where, "a protobuf message", f"wire type {kind} at byte {at}")
        if at > end:
            _wrong(where, f"{at - start} bytes", f"{end - start} before the message ends")
        yield tag >> 3, kind, message[start:at]


def _varint(message: memoryview, at: int, where: object) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            break
    else:
        _wrong(where, "an integer", f"no end of one that starts at byte {at}")
    return value, at + i + 1


def _name(content: memoryview, where: object) -> str:
    try:
        return str(content, "utf-8")
    except UnicodeDecodeError as error:
        _wrong(where, "names of features in UTF-8", f"byte {content[error.start]:#04x}")


def _wrong(where: object, expected: str, got: str) -> NoReturn:
    remedy = "The record is damaged, or holds no tf.train.Example; download it again."
    raise InputError(where, expected=expected, got=got, remedy=remedy)
