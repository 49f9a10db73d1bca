"""Object stores by URL (`s3://`, `gs://`, `hf://` ...): opened; copied where files must lie on this disk. Engineering.

fsspec knows the stores, each by a package of its own (s3fs, gcsfs, huggingface_hub), and finds credentials and
endpoints as that package does: in the environment or its own files. Whatever fails is an InputError that says which of
the three usual things is wrong: not there, not allowed, no answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from cyclemimic.data.cache import refuse_full_disk
from cyclemimic.errors import InputError
from cyclemimic.store.atomic import alone_in, temporary_name

T = TypeVar("T")
Progress = Callable[[int, int], None]
THERE = "something that is there"  # what a store lacks, in an error's `expected`
MIRROR = "CYCLEMIMIC_MIRROR"  # environment: folder of the copies
# What tells that a file has changed, as the stores call it.
_MARKS = ("ETag", "etag", "md5Hash", "generation", "blob_id", "LastModified", "mtime", "updated", "created")
_ABSENT = ("FileNotFoundError", "NoSuchBucket", "NoSuchKey", "NotFound", "RepositoryNotFoundError")
_REFUSED = ("PermissionError", "NoCredentialsError", "Forbidden", "AccessDenied", "Credential", "Unauthorized", "Token")
_SILENT = ("Timeout", "ConnectionError", "EndpointConnection", "ConnectError", "ConnectorError", "gaierror")
_CODES = (("404", _ABSENT), ("403", _REFUSED), ("401", _REFUSED))


_LISTENER: ContextVar[Progress | None] = ContextVar("listener", default=None)


@contextmanager
def heard(progress: Progress) -> Iterator[None]:
    """Within this block `progress` is given the number of bytes copied and of all, whoever copies."""
    before = _LISTENER.set(progress)
    try:
        yield
    finally:
        _LISTENER.reset(before)


def is_remote(path: Path | str) -> bool:
    """Whether this is a URL."""
    return "://" in str(path)


def open_store(url: str) -> tuple[Any, str]:
    """The file system behind a URL, and the path in it.

    Raises:
        InputError: fsspec or the store's own package is missing, or there is no such kind of store.
    """
    try:
        import fsspec
    except ImportError:
        remedy = "Run: pip install 'cyclemimic[remote]'."
        raise InputError(url, expected="fsspec, to read URLs", got="no such package", remedy=remedy) from None
    try:
        files, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError, OSError) as error:  # the store's own package is missing, or no such store
        remedy = "Install what fsspec names, or download the folder and give its path."
        raise InputError(public(url), expected="a store that can be opened", got=str(error), remedy=remedy) from None
    return files, str(root)


def asked(where: str, ask: Callable[[], T]) -> T:
    """What a store answers. InputError that says what is wrong where it does not."""
    try:
        return ask()
    except InputError:
        raise
    except Exception as error:  # botocore, gcsfs and others share no class; the error is named and chained
        raise store_error(where, error) from error


def store_error(where: str, error: BaseException) -> InputError:
    """What a store's error means for the user."""
    kinds = [cls.__name__ for cls in type(error).__mro__] + [type(error.__cause__).__name__]
    text = " ".join(str(error).split()) or type(error).__name__
    # Some stores answer with one class and a code in words.
    for code, meant in _CODES:
        if re.search(rf"\b{code}\b", text):
            kinds += meant[:1]
    got = f"{type(error).__name__}: {text[:300]}"
    if _any(_REFUSED, kinds):
        remedy = (
            "Give credentials as the store's own tools take them (for s3 `aws configure` or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, for gs `gcloud auth application-default login`, for hf `hf auth login`)."
        )
        return InputError(where, expected="something that you may read", got=got, remedy=remedy)
    if _any(_ABSENT, kinds):
        remedy = "Check the bucket's name and the path."
        return InputError(where, expected=THERE, got=got, remedy=remedy)
    if _any(_SILENT, kinds):
        remedy = (
            "Check the network and the endpoint (for s3 AWS_ENDPOINT_URL, for gs STORAGE_EMULATOR_HOST); the same "
            "command goes on."
        )
        return InputError(where, expected="an answer of the store", got=got, remedy=remedy)
    remedy = "Check the path and whether you may read it; download it again where it is damaged."
    return InputError(where, expected="a readable file", got=got, remedy=remedy)


def _any(words: tuple[str, ...], kinds: list[str]) -> bool:
    return any(word in kind for word in words for kind in kinds)


def public(url: str) -> str:
    """A URL without the user's name, key and query in it."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def pinned(url: str) -> str:
    """A URL of the Hugging Face hub with the commit that it means now; any other URL as it is."""
    if not url.startswith("hf://"):
        return url
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        remedy = "Run: pip install huggingface_hub."
        raise InputError(url, expected="the package huggingface_hub", got="none", remedy=remedy) from None

    def ask() -> str:
        found: Any = huggingface_hub.HfFileSystem().resolve_path(url)
        facts = huggingface_hub.HfApi().repo_info(found.repo_id, repo_type=found.repo_type, revision=found.revision)
        folder = "" if found.repo_type == "model" else f"{found.repo_type}s/"
        return f"hf://{folder}{found.repo_id}@{facts.sha}/{found.path_in_repo}".rstrip("/")

    return asked(url, ask)


def at_hand(path: Path | str, suffixes: tuple[str, ...] = ()) -> tuple[Path, str | None]:
    """Where the files of a path lie on this disk, copied if it is a URL; and its public address if it is one."""
    if not is_remote(path):
        return Path(path), None
    url = pinned(str(path))
    return local_copy(url, suffixes), public(url)


def local_copy(url: str, suffixes: tuple[str, ...] = ()) -> Path:
    """The files below a URL, or the one file that it is, on this disk: copied once, changed ones again.

    They lie below the folder in the variable CYCLEMIMIC_MIRROR, or in the user's cache. Each file appears whole, so a
    copy that was killed goes on. Several processes of one machine wait for one another.

    Args:
        url: a folder or a file, as `pinned` gives it.
        suffixes: how the names of wanted files end, in small letters; all files unless given.

    Raises:
        InputError: nothing is there or may be read, a name leads out of the folder, or there is no room.
    """
    files, root = open_store(url)
    plain = public(url)
    found = dict(_listed(files, root, plain, suffixes))
    if not found:
        remedy = "Check the bucket's name and the path."
        raise InputError(plain, expected="files of this kind", got="none, here or below", remedy=remedy)
    # By what is wanted, too: a copy holds nothing else.
    key = hashlib.sha256("\0".join((plain, *suffixes)).encode()).hexdigest()[:16]
    folder = _mirror_root() / f"{key}-{PurePosixPath(plain).name}"
    journal = folder.with_name(f"{folder.name}.jsonl")
    with alone_in(folder.with_name(f"{folder.name}.lock"), waiting=print):
        had = _read_journal(journal)
        todo = {name: mark for name, mark in found.items() if had.get(name) != mark or not (folder / name).is_file()}
        for path in [p for p in folder.rglob("*") if p.is_file()]:
            if path.relative_to(folder).as_posix() not in found:
                path.unlink()  # no longer there, or half-copied
        _copy(files, root, folder, todo, journal)
    return folder / next(iter(found)) if files.isfile(root) else folder


def _copy(files: Any, root: str, folder: Path, todo: Mapping[str, str], journal: Path) -> None:
    if not todo:
        return
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {name: int(mark.partition(" ")[0]) for name, mark in todo.items()}
    done, total = 0, sum(sizes.values())
    refuse_full_disk(folder, total, f"{len(todo)} files to copy", lambda line: None)
    alone, progress = bool(files.isfile(root)), _LISTENER.get()
    with journal.open("a", encoding="utf-8") as note:
        for name, mark in todo.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            part = temporary_name(target)
            remote = root if alone else f"{root.rstrip('/')}/{name}"
            try:
                asked(remote, lambda remote=remote, part=part: files.get_file(remote, str(part)))  # type: ignore[misc]
                if part.stat().st_size != sizes[name]:
                    got, remedy = f"{part.stat().st_size} bytes", "It changed meanwhile; the same command goes on."
                    raise InputError(remote, expected=f"{sizes[name]} bytes", got=got, remedy=remedy)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
            note.write(json.dumps({"name": name, "mark": mark}) + "\n")
            note.flush()
            done += sizes[name]
            if progress is not None:
                progress(done, total)


def _listed(files: Any, root: str, url: str, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """The files below a URL by name, each with its size and what tells that it changed."""
    rows: dict[str, dict[str, Any]] = asked(url, lambda: files.find(root, detail=True))
    base = root.strip("/")
    found = {path.strip("/"): facts for path, facts in sorted(rows.items())}
    # Where a store knows prefixes and no folders, an empty object may stand for a folder.
    folders = {str(above) for path in found for above in PurePosixPath(path).parents}
    for path, facts in found.items():
        name = path.removeprefix(base).strip("/") or base.rpartition("/")[2]
        # There `videos-old/` begins as `videos` does, too.
        if facts.get("type") == "directory" or path in folders or not f"{path}/".startswith(f"{base}/"):
            continue
        parts = PurePosixPath(name).parts
        if ".." in parts or "\\" in name or "\0" in name:
            remedy = "Nothing was copied; do not trust this folder."
            raise InputError(url, expected="names below it", got=repr(name), remedy=remedy)
        if any(part[0] == "." for part in parts) or (suffixes and not name.lower().endswith(suffixes)):
            continue
        mark = next((str(facts[key]) for key in _MARKS if facts.get(key)), "")
        yield name, f"{int(facts.get('size') or 0)} {mark}"


def _read_journal(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
            found[str(row["name"])] = str(row["mark"])
        except (ValueError, KeyError, TypeError):
            continue  # a line that was cut in the middle: its file is copied again
    return found


def _mirror_root() -> Path:
    named = os.environ.get(MIRROR)
    cache = os.environ.get("XDG_CACHE_HOME")
    return Path(named) if named else (Path(cache) if cache else Path.home() / ".cache") / "cyclemimic" / "mirror"
