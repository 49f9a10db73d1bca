"""Whether a file is still what it was when it was indexed; of large ones only the ends are read. Engineering."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

from cyclemimic.errors import InputError

_EDGE_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True)
class FileStamp:
    """Size, time and a hash of the ends of a file."""

    size_bytes: int  # -1 where it cannot be read
    mtime_ns: int
    edges: str


def stamp_of(file: Path) -> FileStamp:
    """The stamp of a file."""
    size_bytes, mtime_ns = size_and_time_of(file)
    if size_bytes < 0:
        return FileStamp(size_bytes=-1, mtime_ns=0, edges="")
    return FileStamp(size_bytes=size_bytes, mtime_ns=mtime_ns, edges=size_and_edges_of(file)[1])


def size_and_time_of(file: Path) -> tuple[int, int]:
    """Bytes, and when it was changed [ns]; (-1, 0) where it cannot be seen."""
    try:
        found = file.stat()
    except OSError:
        return -1, 0
    return found.st_size, found.st_mtime_ns


def size_and_edges_of(file: Path) -> tuple[int, str]:
    """Bytes, and a hash of the first and last 64 KB; (-1, '') where they cannot be read: `read` says why."""
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            return -1, ""
        size_bytes = found.st_size
        with file.open("rb") as handle:
            digest = hashlib.sha256(handle.read(_EDGE_BYTES))
            handle.seek(max(0, size_bytes - _EDGE_BYTES))
            digest.update(handle.read(_EDGE_BYTES))
    except OSError:
        return -1, ""
    return size_bytes, digest.hexdigest()


def require_unchanged(file: Path, known: FileStamp) -> None:
    """InputError where a file is not what it was; one that was copied or touched since, but is equal, may pass."""
    size_bytes, mtime_ns = size_and_time_of(file)
    if size_bytes == known.size_bytes and (
        mtime_ns == known.mtime_ns or size_and_edges_of(file) == (known.size_bytes, known.edges)
    ):
        return
    if size_bytes < 0:
        got = "no file that can be seen"
    else:
        got = f"{size_bytes} bytes" if size_bytes != known.size_bytes else "other content"
    raise InputError(
        file,
        expected=f"the file that was indexed ({known.size_bytes} bytes)",
        got=got,
        remedy="It changed since it was indexed. Run `cyclemimic data index` of this source, then the same command.",
    )
