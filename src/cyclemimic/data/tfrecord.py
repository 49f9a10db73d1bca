"""Reading tfrecord files without TensorFlow: the frames around records and their checksums (CRC-32C). Engineering.

A record is its length (8 bytes), a checksum of the length (4), its content, a checksum of the content (4), all
little-endian. Checksums are masked: turned right by 15 bits, plus a constant.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError

HEADER_BYTES, FOOTER_BYTES = 12, 4
_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_MASK_DELTA = 0xA282EAD8
_DAMAGED = "The file is cut short or damaged; download it again."

Words = NDArray[np.uint32]
Buffer = bytes | memoryview


def crc32c(content: Buffer) -> int:
    """CRC-32C of bytes.

    Long content is cut into lanes of equal length that numpy works through side by side; that a checksum is linear
    then joins them.
    """
    data = np.frombuffer(content, np.uint8)
    width = 64 if len(data) < 1 << 14 else 256 if len(data) < 1 << 18 else 1024
    lanes = len(data) // width
    state = 0xFFFFFFFF
    if lanes > 1:
        table, columns = _byte_table(), np.ascontiguousarray(data[: lanes * width].reshape(lanes, width).T)
        parts = np.zeros(lanes, np.uint32)
        for column in columns:
            parts = table[(parts ^ column) & 0xFF] ^ (parts >> 8)
        a, b, c, d = _past_zeros(width)
        for part in parts.tolist():
            state = a[state & 0xFF] ^ b[state >> 8 & 0xFF] ^ c[state >> 16 & 0xFF] ^ d[state >> 24] ^ part
        data = data[lanes * width :]
    slow = _byte_list()
    for byte in data.tolist():
        state = slow[(state ^ byte) & 0xFF] ^ (state >> 8)
    return state ^ 0xFFFFFFFF


def masked_crc32c(content: Buffer) -> int:
    """The checksum as tfrecord files hold it."""
    crc = crc32c(content)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def framed(content: bytes) -> bytes:
    """One record as a tfrecord file holds it."""
    length = struct.pack("<Q", len(content))
    return b"".join(
        (length, struct.pack("<I", masked_crc32c(length)), content, struct.pack("<I", masked_crc32c(content)))
    )


def record_spans(file: Buffer, where: object) -> Iterator[tuple[int, int]]:
    """Where each record's content starts in a file and how long it is; contents are not looked at.

    Raises:
        InputError: a header is damaged or the file ends within a record, after all records before it were given.
    """
    at, number = 0, 0
    while at < len(file):
        place = f"{where}, record {number}"
        header = bytes(file[at : at + HEADER_BYTES])
        if len(header) < HEADER_BYTES:
            got = f"{len(header)} bytes before the file ends"
            raise InputError(place, expected=f"a header of {HEADER_BYTES} bytes", got=got, remedy=_DAMAGED)
        length, crc = struct.unpack("<QI", header)
        if masked_crc32c(header[:8]) != crc:
            got = f"another of the length {length}"
            raise InputError(place, expected=f"the checksum {crc:#010x} of its length", got=got, remedy=_DAMAGED)
        left = len(file) - at - HEADER_BYTES - FOOTER_BYTES
        if length > left:
            got = f"a file that ends after {max(0, left)}"
            raise InputError(place, expected=f"{length} bytes of content", got=got, remedy=_DAMAGED)
        yield at + HEADER_BYTES, length
        at += HEADER_BYTES + length + FOOTER_BYTES
        number += 1


def checked_content(framed_content: Buffer, length: int, where: object) -> memoryview:
    """A record's content, from its content and footer; raises InputError where the checksum is of another."""
    view = memoryview(framed_content)
    if len(view) != length + FOOTER_BYTES:
        got = f"{len(view)} bytes before the file ends"
        raise InputError(where, expected=f"{length + FOOTER_BYTES} bytes", got=got, remedy=_DAMAGED)
    content, (crc,) = view[:length], struct.unpack("<I", view[length:])
    if (found := masked_crc32c(content)) != crc:
        raise InputError(where, expected=f"the checksum {crc:#010x}", got=f"{found:#010x}", remedy=_DAMAGED)
    return content


@cache
def _byte_table() -> Words:
    """What one more byte does to a checksum [256]."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table


@cache
def _byte_list() -> list[int]:
    return [int(n) for n in _byte_table()]  # a list: single numpy numbers are slow


@cache
def _past_zeros(num_bytes: int) -> list[list[int]]:
    """What `num_bytes` zeros do to a checksum, for each value of each of its bytes [4][256]."""
    shifts = np.arange(4, dtype=np.uint32)[:, None] * 8
    states = np.arange(256, dtype=np.uint32) << shifts
    table = _byte_table()
    for _ in range(num_bytes):
        states = table[states & 0xFF] ^ (states >> 8)
    return [[int(n) for n in row] for row in states]
