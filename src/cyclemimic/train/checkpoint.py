"""Checkpoints: a folder per step, written under another name, synced, renamed; the last whole one is found again."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from cyclemimic.errors import InputError
from cyclemimic.store.weights import load_tensors, save_tensors
from cyclemimic.train.endings import DiskFullError

CONFIG_FILE = "config.json"
PREFIX = "step-"
UNFINISHED = ".unfinished-"


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], *, keep_last: int = 2) -> Path:
    """Write the state after `step` updates; older ones beyond `keep_last` go only when the new one is whole.

    Raises:
        DiskFullError: there is no room; what was half-written is removed, the older ones are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{PREFIX}{step:08d}"
    if final.exists():
        return final
    unfinished = folder / f"{UNFINISHED}{step:08d}"
    shutil.rmtree(unfinished, ignore_errors=True)
    with room_for(tensors, folder):
        try:
            unfinished.mkdir()
            save_tensors(unfinished / "state.safetensors", dict(tensors), {"step": str(step)})
            unfinished.replace(final)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    _sync_folder(folder)
    tidy(folder, keep_last=keep_last)
    return final


def tidy(folder: Path, *, keep_last: int) -> None:
    """Remove what a kill has left: what was half-written, and checkpoints that the newer ones have replaced."""
    for old in steps_of_checkpoints(folder)[:-keep_last]:
        # Renamed before it is emptied, so that a kill in between leaves nothing that looks whole.
        shutil.rmtree(folder / f"{UNFINISHED}{old:08d}", ignore_errors=True)
        (folder / f"{PREFIX}{old:08d}").replace(folder / f"{UNFINISHED}{old:08d}")
    for unfinished in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(unfinished)


class CheckpointWriter:
    """Writes checkpoints in a thread of its own, one at a time, while training goes on with the next steps.

    The state is copied before `save` returns, which costs main memory for one more state. A failure is raised by the
    next call of `save` or `wait`.
    """

    def __init__(self, folder: Path, *, keep_last: int) -> None:
        self.folder, self.keep_last = folder, keep_last
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[Path] | None = None

    def save(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Begin to write the state after `step` updates; waits for the one before."""
        self.wait()
        # A copy in main memory: the next step changes the weights in place. No gradient is meant to pass.
        held = {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}
        self._pending = self._thread.submit(save_checkpoint, self.folder, step, held, keep_last=self.keep_last)

    def failed(self) -> bool:
        """Whether the last write is over and failed; then `wait` says why."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def wait(self) -> None:
        """Return when nothing is being written any more."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def rest(self) -> None:
        """Return when nothing is being written any more, whatever became of it: for what runs on a way out."""
        if self._pending is not None:
            self._pending.exception()

    def close(self) -> None:
        """Let the last write end, whatever becomes of it."""
        self._thread.shutdown(wait=True)


@contextmanager
def room_for(tensors: Mapping[str, Tensor], folder: Path) -> Iterator[None]:
    """Turn a full disk within the block into one message.

    Raises:
        DiskFullError: writing `tensors` into `folder` failed for want of room.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not _no_room(error):
            raise
        needed_bytes = sum(t.nbytes for t in tensors.values())
        needed = f" to write {needed_bytes / 1e6:.3g} MB" if needed_bytes else ""
        free_mb = shutil.disk_usage(folder).free / 1e6
        raise DiskFullError(
            f"{folder}: no room{needed}, {free_mb:.3g} MB are free (or a quota ends here). Nothing half-written was"
            " kept, and older checkpoints are whole. Make room, or move the run folder to another disk, then repeat the"
            " command: it goes on. --keep-last 1 keeps fewer checkpoints."
        ) from error


def steps_of_checkpoints(folder: Path) -> list[int]:
    """The steps of the whole checkpoints in `folder`, ascending."""
    return sorted(int(p.name[len(PREFIX) :]) for p in folder.glob(f"{PREFIX}*"))


def latest_checkpoint(folder: Path) -> tuple[int, dict[str, Tensor]] | None:
    """The step and the tensors of the newest whole checkpoint, or None."""
    if not folder.exists():
        return None
    steps = steps_of_checkpoints(folder)
    if not steps:
        return None
    tensors, metadata = load_tensors(folder / f"{PREFIX}{steps[-1]:08d}" / "state.safetensors")
    return int(metadata["step"]), tensors


def claim_run(run_dir: Path, config: Mapping[str, object]) -> None:
    """Bind a run folder to one configuration, so that the same command resumes and another one cannot spoil it.

    Raises:
        InputError: the folder already belongs to another configuration; names the fields that differ.
    """
    path = run_dir / CONFIG_FILE
    wanted = json.loads(json.dumps(config, default=str))
    if path.exists():
        found = json.loads(path.read_text())
        if found == wanted:
            return
        there, here = dotted(found), dotted(wanted)
        differing = sorted(k for k in {*there, *here} if there.get(k) != here.get(k))
        raise InputError(
            path,
            expected="the configuration of this command",
            got=", ".join(f"{k} {there.get(k)} there, {here.get(k)} here" for k in differing),
            remedy="Name another --run, or repeat the command that began this one to resume it.",
        )
    if run_dir.exists() and not run_dir.is_dir():
        raise InputError(run_dir, expected="a folder, or nothing yet", got="a file", remedy="Name another --run.")
    run_dir.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(wanted, indent=1, sort_keys=True))
    temporary.replace(path)


def dotted(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The values of nested mappings by dotted names, such as `optim.steps`."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        leaves |= dotted(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return leaves


def _no_room(error: Exception) -> bool:
    """Whether the disk or a quota is full; safetensors tells of the system's error only in words."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"os error {errno.ENOSPC}" in str(error) or f"os error {errno.EDQUOT}" in str(error)


def _sync_folder(folder: Path) -> None:
    """A rename is durable only once the folder itself is synced."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
