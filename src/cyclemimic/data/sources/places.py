"""A folder of large files, on this disk or in an object store: listed, and read in spans. Engineering.

Paths are local, or URLs that fsspec knows (`s3://`, `gs://`, `memory://` ...); fsspec is imported for those alone.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from cyclemimic.data.sources.remote import asked, is_remote, open_store, pinned, public
from cyclemimic.data.video import refuse_changed, stamp_of
from cyclemimic.errors import InputError, did_you_mean

T = TypeVar("T")
Options = Mapping[str, Callable[[str], Any]]  # how to read the value of each
EDGE_BYTES = 64 << 10
_REMEDY = "Check the path and whether you may read it; download it again where it is damaged."


def path_and_options(text: Path | str, known: Options) -> tuple[str, dict[str, Any]]:
    """`PATH?name=value&name=value` taken apart; `known` says how to read each value.

    Raises:
        InputError: an option is unknown or has a wrong value.
    """
    path, _, query = str(text).partition("?")
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            hint = did_you_mean(name, known)
            raise InputError(str(text), expected="known options behind '?'", got=repr(name), remedy=hint)
        try:
            options[name] = known[name](value)
        except ValueError as error:
            where = f"{text}, option {name}"
            raise InputError(where, expected="another value", got=repr(value), remedy=f"{error}.") from None
    return path, options


def one_of(*values: str) -> Callable[[str], str]:
    """Reads an option that has few values."""

    def read(value: str) -> str:
        if value not in values:
            raise ValueError(f"Known: {', '.join(values)}")
        return value

    return read


def positive(value: str) -> float:
    """Reads an option that is a number above 0."""
    number = float(value)
    if not 0 < number < 1e6:
        raise ValueError("A number above 0 is wanted")
    return number


class Place:
    """The files of one folder by name. Whatever cannot be read is an InputError that names the file."""

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        self.local = not is_remote(self.path)
        self.origin: str | None = None  # public address
        self._stamps: dict[str, tuple[int, int]] = {}  # of files that were looked at
        if not self.local:
            url = pinned(self.path)
            self.origin = public(url)
            self._files, self._root = open_store(url)
            return
        folder = Path(path)
        if not folder.is_dir():
            got = "a file" if folder.exists() else "no such folder"
            raise InputError(path, expected="a folder", got=got, remedy="Check the path.")

    def where(self, name: str) -> str:
        """A file as it is called in messages."""
        return f"{self.path.rstrip('/')}/{name}".rstrip("/")

    def names(self) -> list[str]:
        """All files here, hidden ones apart, links into nothing too."""
        try:
            if self.local:
                found = [entry.name for entry in Path(self.path).iterdir()]
            else:
                entries = self._stored("", lambda: self._files.ls(self._root, detail=False))
                found = [str(entry).rsplit("/", 1)[-1] for entry in entries]
        except OSError as error:
            raise self._unreadable("", error) from None
        return sorted(name for name in found if name and name[0] != ".")

    def size_of(self, name: str) -> int:
        """Bytes of a file."""
        if not self.local:
            return self._stored(name, lambda: int(self._files.size(self._join(name))))
        try:
            return (Path(self.path) / name).stat().st_size
        except OSError as error:
            raise self._unreadable(name, error) from None

    def whole(self, name: str) -> memoryview:
        """All bytes of a file: mapped where it is local, so that what is not looked at is not read."""
        if not self.local:
            return memoryview(self._stored(name, lambda: bytes(self._files.cat_file(self._join(name)))))
        self.mark(name)
        try:
            with (Path(self.path) / name).open("rb") as handle:
                if os.fstat(handle.fileno()).st_size == 0:  # nothing can be mapped
                    return memoryview(b"")
                return memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            raise self._unreadable(name, error) from None

    def span(self, name: str, start: int, length: int) -> bytes:
        """Some bytes of a file; fewer where it ends.

        Raises:
            InputError: it cannot be read, or is not what it was when it was looked at as a whole.
        """
        content = self._span(name, start, length)
        self.refuse_changed(name)
        return content

    def _span(self, name: str, start: int, length: int) -> bytes:
        if not self.local:
            end = start + length
            return self._stored(name, lambda: bytes(self._files.cat_file(self._join(name), start=start, end=end)))
        try:
            with (Path(self.path) / name).open("rb") as handle:
                handle.seek(start)
                return handle.read(length)
        except (OSError, ValueError) as error:
            raise self._unreadable(name, error) from None

    def mark(self, name: str) -> None:
        """Remember what a local file is like now, for `refuse_changed`."""
        if self.local:
            self._stamps[name] = stamp_of(Path(self.path) / name)

    def refuse_changed(self, name: str) -> None:
        """Raise InputError where a file changed since it was marked: what lies where was found out before."""
        if name in self._stamps:
            refuse_changed(Path(self.path) / name, self._stamps[name])

    def content_of(self, name: str) -> tuple[int, str]:
        """Size and a hash of the first and last 64 KB, for fingerprints; (-1, '') where they cannot be read."""
        try:
            size = self.size_of(name)
            edges = self._span(name, 0, EDGE_BYTES), self._span(name, max(0, size - EDGE_BYTES), EDGE_BYTES)
        except InputError:
            return -1, ""
        return size, hashlib.sha256(b"".join(edges)).hexdigest()

    def _stored(self, name: str, ask: Callable[[], T]) -> T:
        """What a store answers."""
        return asked(self.where(name), ask)

    def _join(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _unreadable(self, name: str, error: Exception) -> InputError:
        got = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        return InputError(self.where(name), expected="a readable file", got=got, remedy=_REMEDY)
