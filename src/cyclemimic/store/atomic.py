"""Writing so that a kill at any moment leaves the old content or the new, never half. Engineering."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cyclemimic.errors import InputError

_CHUNK_BYTES = 1 << 20
LEFT_OVER_S = 3600.0  # a temporary file that nobody wrote to for so long was left by a process that was killed
_TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")
_swept_at_s: dict[Path, float] = {}


def temporary_name(path: Path) -> Path:
    """A hidden, unused name in the folder of `path`: only within one file system is a rename atomic."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed writers left in a folder; looks once per `LEFT_OVER_S`. Engineering.

    Folders stay: what `replace_folder` moved away may be the only copy.
    """
    now_s = time.time()
    key = folder.absolute()
    if now_s - _swept_at_s.get(key, 0.0) < LEFT_OVER_S:
        return
    _swept_at_s[key] = now_s
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not _TEMPORARY.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError):  # another process may sweep too
                facts = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(facts.st_mode) and now_s - facts.st_mtime > LEFT_OVER_S:
                    Path(entry.path).unlink()


def sync_folder(folder: Path) -> None:
    """Make renames within `folder` survive a power cut; does nothing where folders cannot be opened."""
    with contextlib.suppress(PermissionError, IsADirectoryError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_atomically(path: Path | str, content: bytes | Callable[[Path], None]) -> None:
    """Write a file under a temporary name, fsync it, and rename it to `path`; old litter is swept. Engineering.

    Args:
        path: the final name; its folder is made if need be.
        content: the bytes, or a function that writes the whole file at the temporary path it is given.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
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
def alone_in(folder: Path | str, *, waiting: Callable[[str], object] | None = None) -> Iterator[None]:
    """Hold the only writer's lock of `folder`; the system frees it when the process dies. Engineering.

    Args:
        folder: made where it is missing.
        waiting: told once that another process is at work here, which is then waited for: right where both would
            make the same, such as a cache. Look again at what is there once inside.

    Raises:
        InputError: another process writes here, and nobody waits for it.
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
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is None:
                raise InputError(
                    folder,
                    expected="one process that writes here",
                    got="a second one",
                    remedy="Wait for the other process, or choose another folder.",
                ) from None
            waiting(f"another process is at work in {folder}; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
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
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def canonical(value: Any) -> str:
    """The spelling that `sha256_json` hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_list(entries: Iterable[str]) -> str:
    """`sha256_json` of a list whose entries are `canonical` already; none need be held."""
    digest, before = hashlib.sha256(b"["), b""
    for entry in entries:
        digest.update(before + entry.encode())
        before = b","
    digest.update(b"]")
    return digest.hexdigest()


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
