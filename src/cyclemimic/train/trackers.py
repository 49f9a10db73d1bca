"""Where figures can be watched: TensorBoard by default, Weights & Biases or Trackio by name. Engineering.

`metrics.jsonl` in the run folder stays the record. A run that goes on from a checkpoint shows no point twice.
"""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.store.atomic import read_json, write_json

TrackerName = Literal["tensorboard", "wandb", "trackio", "none"]
PROJECT = "cyclemimic"
TENSORBOARD_FOLDER, TRACKER_FILE = "tensorboard", "tracker.json"


class Tracker(Protocol):
    """Shows figures somewhere."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Show the figures after `step` updates."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


class NoTracker:
    """Shows nothing."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class TensorBoard:
    """Event files in RUN/tensorboard; points behind the checkpoint from which a run goes on are hidden."""

    def __init__(self, run_dir: Path, *, start: int) -> None:
        module = _need("torch.utils.tensorboard", "tensorboard", extra="train")
        self._writer = module.SummaryWriter(str(run_dir / TENSORBOARD_FOLDER), purge_step=start + 1)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """One point for each figure."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class OnlineRun:
    """A run of a library with wandb's interface: `init(project, name, resume, config)`, `log(figures, step)`, `finish`.

    These cannot take points back, so what was shown up to which step is kept in RUN/tracker.json; equal steps of a
    resumed run have equal figures and are not shown again.
    """

    def __init__(self, library: str, run_dir: Path, *, name: str, config: Mapping[str, Any]) -> None:
        module = _need(library, library, extra=library)
        self._path, self._library = run_dir / TRACKER_FILE, library
        known = read_json(self._path) if self._path.exists() else {}
        # The name of a folder is not unique, and in both libraries a run is found again by its name or id.
        self._facts = known.get(library) or {"id": f"{name}-{secrets.token_hex(4)}", "step": 0}
        self._others = {key: value for key, value in known.items() if key != library}
        words: dict[str, Any] = {"project": PROJECT, "name": self._facts["id"], "resume": "allow"}
        if library == "wandb":
            words |= {"id": self._facts["id"], "name": name, "dir": str(run_dir)}
        self._run = module.init(config=dict(config), **words)
        self._finish = self._run.finish
        self._remember(int(self._facts["step"]))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Show one row, unless an earlier sitting has shown it."""
        if step > self._facts["step"]:
            self._run.log(dict(figures), step=step)
            self._remember(step)

    def close(self) -> None:
        """Send what is left."""
        self._finish()

    def _remember(self, step: int) -> None:
        self._facts["step"] = step
        write_json(self._path, {**self._others, self._library: self._facts})


def open_tracker(wanted: str, run_dir: Path, *, name: str, start: int, config: Mapping[str, Any]) -> Tracker:
    """The tracker of that name for a run that begins or goes on at step `start`.

    Raises:
        InputError: an unknown name, or its library is not installed; names the pip extra.
    """
    if wanted == "none":
        return NoTracker()
    if wanted == "tensorboard":
        return TensorBoard(run_dir, start=start)
    if wanted in ("wandb", "trackio"):
        return OnlineRun(wanted, run_dir, name=name, config=config)
    known = ("tensorboard", "wandb", "trackio", "none")
    raise InputError("--tracker", expected="a known tracker", got=repr(wanted), remedy=did_you_mean(wanted, known))


def _need(module: str, package: str, *, extra: str) -> ModuleType:
    """Import lazily: a run without this tracker needs none of it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(
            "--tracker",
            expected=f"the package {package}",
            got="none installed",
            remedy=f"pip install 'cyclemimic[{extra}]', or take --tracker none.",
        ) from None
