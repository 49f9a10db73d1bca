"""Checkpoints: a folder per step, written under another name, synced, renamed; the last whole one is found again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cyclemimic.errors import InputError
from cyclemimic.store.weights import load_tensors, save_tensors

CONFIG_FILE = "config.json"
PREFIX = "step-"
UNFINISHED = ".unfinished-"


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], *, keep_last: int = 2) -> Path:
    """Write the state after `step` updates; older ones beyond `keep_last` go only when the new one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{PREFIX}{step:08d}"
    if final.exists():
        return final
    unfinished = folder / f"{UNFINISHED}{step:08d}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    save_tensors(unfinished / "state.safetensors", dict(tensors), {"step": str(step)})
    unfinished.replace(final)
    _sync_folder(folder)
    for old in _steps(folder)[:-keep_last]:
        shutil.rmtree(folder / f"{PREFIX}{old:08d}")
    return final


def latest_checkpoint(folder: Path) -> tuple[int, dict[str, Tensor]] | None:
    """The step and the tensors of the newest whole checkpoint, or None. What was half-written is removed."""
    if not folder.exists():
        return None
    for unfinished in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(unfinished)
    steps = _steps(folder)
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


def _steps(folder: Path) -> list[int]:
    return sorted(int(p.name[len(PREFIX) :]) for p in folder.glob(f"{PREFIX}*"))


def _sync_folder(folder: Path) -> None:
    """A rename is durable only once the folder itself is synced."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
