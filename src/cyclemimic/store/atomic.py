"""Writing so that a kill at any moment leaves the old content or the new, never half. Engineering."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cyclemimic.errors import InputError

_CHUNK_BYTES = 1 << 20


def temporary_name(path: Path) -> Path:
    """A hidden, unused name in the folder of `path`: only within one file system is a rename atomic."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def sync_folder(folder: Path) -> None:
    """Make renames within `folder` survive a power cut; does nothing where folders cannot be opened."""
    with contextlib.suppress(PermissionError, IsADirectoryError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_atomically(path: Path | str, content: bytes | Callable[[Path], None]) -> None:
    """Write a file under a temporary name, fsync it, and rename it to `path`. Engineering.

    Args:
        path: the final name; its folder is made if need be.
        content: the bytes, or a function that writes the whole file at the temporary path it is given.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content)
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace_folder(tmp: Path | str, final: Path | str) -> None:
    """Put the finished folder `tmp` at `final`, on the same file system; an older `final` goes. Engineering.

    No call exchanges two folders everywhere, so between two renames `final` is absent; a kill there leaves
    the old content as `.NAME.*.tmp` and the new one at `tmp`. A reader therefore sees the old, nothing, or
    the new.
    """
    tmp, final = Path(tmp), Path(final)
    for file in tmp.rglob("*"):
        if file.is_file():
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
    final.parent.mkdir(parents=True, exist_ok=True)
    old = temporary_name(final)
    had_old = final.exists()
    if had_old:
        final.rename(old)
    tmp.rename(final)
    sync_folder(final.parent)
    if had_old:
        shutil.rmtree(old)


@contextlib.contextmanager
def alone_in(folder: Path | str, *, wait: bool = False) -> Iterator[None]:
    """Hold the only writer's lock of `folder`; the system frees it when the process dies. Engineering.

    With `wait` it waits for the process that holds it.

    Raises:
        InputError: another process writes here.
    """
    try:
        import fcntl
    except ImportError:  # pragma: no cover - Windows: no advisory locks, so two writers are the user's care
        yield
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                folder,
                expected="one process that writes here",
                got="a second one",
                remedy="Wait for the other process, or choose another folder.",
            ) from None
        yield


def sha256_file(path: Path | str) -> str:
    """Sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as handle:
        while chunk := handle.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Sha256 of a JSON value in one canonical spelling: the order of keys does not matter. NaN is refused."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_json(path: Path | str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: the file is missing, is no JSON, or holds no object.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(
            path, expected="a JSON file", got="no file", remedy="Check the path, or make the file again."
        ) from None
    except OSError as error:
        raise InputError(
            path, expected="a readable JSON file", got=str(error.strerror), remedy="Check the path."
        ) from None
    except ValueError as error:
        raise InputError(
            path, expected="valid JSON", got=str(error), remedy="The file is damaged; make it again."
        ) from None
    if not isinstance(value, dict):
        raise InputError(path, expected="a JSON object", got=type(value).__name__, remedy="Is this the right file?")
    return value


def write_json(path: Path | str, value: Mapping[str, Any]) -> None:
    """Write an object as readable JSON, atomically; equal objects give equal bytes."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())
