"""The loop of every stage: step, log, checkpoint. Killed and started again, a run ends with the same weights."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cyclemimic.errors import InputError
from cyclemimic.nn.collectives import highest
from cyclemimic.store.atomic import alone_in
from cyclemimic.store.weights import load_tensors, save_tensors
from cyclemimic.train.alarms import AlarmConfig
from cyclemimic.train.checkpoint import (
    CheckpointWriter,
    claim_run,
    latest_checkpoint,
    room_for,
    steps_of_checkpoints,
    tidy,
)
from cyclemimic.train.endings import NotFiniteError, RunEndedError, RunInterruptedError
from cyclemimic.train.memory import MemoryUse, is_out_of_memory, memory_use, out_of_memory
from cyclemimic.train.nonfinite import keep_evidence
from cyclemimic.train.processes import is_first, is_lost, lost, require_agreement, together
from cyclemimic.train.record import METRICS_FILE as METRICS_FILE
from cyclemimic.train.record import Record, read_rows
from cyclemimic.train.signals import Signals, name_of
from cyclemimic.train.trackers import TrackerName

FINAL_STATE = "state.safetensors"
CHECKPOINTS = "checkpoints"


class Stage(Protocol):
    """What a loop trains. `step` must be a pure function of (state, step): all randomness comes from (seed, step).

    On several processes each draws for the whole batch and works on `my_rows` of it; figures are means over those
    rows, the same names on every process, and all of `state` is equal everywhere. A stage that also has `last_batch`
    (`nonfinite.KeepsBatch`) can be asked what it was given when a loss was not finite.
    """

    def step(self, step: int) -> Mapping[str, Tensor]:
        """One update; returns scalars to log."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All that the future depends on: weights, optimisers, moving averages, the buffer."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Undo `state`."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What a run does beside its steps. None of it changes a weight, so that a run may go on with other settings.

    Args:
        keep_last: how many checkpoints are kept.
        checkpoint_every_s: also write one when so much time has passed since the last; None: by steps alone.
        tracker: where figures can be watched (trackers.py).
        alarms: when to warn (alarms.py).
    """

    keep_last: int = 2
    checkpoint_every_s: float | None = None
    tracker: TrackerName = "tensorboard"
    alarms: AlarmConfig = field(default_factory=AlarmConfig)

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            got = str(self.keep_last)
            raise InputError(
                "keep_last", expected="at least 1", got=got, remedy="Without a checkpoint nothing resumes."
            )
        if self.checkpoint_every_s is not None and not self.checkpoint_every_s > 0:
            got = str(self.checkpoint_every_s)
            raise InputError("checkpoint_every_s", expected="seconds above 0", got=got, remedy="Try 600, or none.")


def train(
    stage: Stage,
    *,
    name: str,
    run_dir: Path,
    config: Mapping[str, Any],
    steps: int,
    checkpoint_every: int,
    log_every: int = 20,
    samples_per_step: int,
    loop: LoopConfig | None = None,
) -> None:
    """Train `stage` for `steps` updates in `run_dir`, resuming what lies there; `stage` is then in its final state.

    Raises:
        InputError: `run_dir` belongs to another configuration, or another process is at work in it.
        RunEndedError: it had to stop before (endings.py); the same command goes on.
    """
    loop = loop or LoopConfig()
    with ExitStack() as stack:
        with together() as first:
            if first:
                claim_run(run_dir, config)
                # Two processes in one folder would spoil each other's checkpoints.
                stack.enter_context(alone_in(run_dir))
                tidy(run_dir / CHECKPOINTS, keep_last=loop.keep_last)
        if (run_dir / FINAL_STATE).exists():
            stage.load_state(load_tensors(run_dir / FINAL_STATE)[0])
            return
        _Run(
            stage=stage,
            name=name,
            run_dir=run_dir,
            config=config,
            steps=steps,
            checkpoint_every=checkpoint_every,
            log_every=log_every,
            samples_per_step=samples_per_step,
            loop=loop,
        ).go_on()


@dataclass(kw_only=True)
class _Run:
    """One sitting of `train`."""

    stage: Stage
    name: str
    run_dir: Path
    config: Mapping[str, Any]
    steps: int
    checkpoint_every: int
    log_every: int
    samples_per_step: int
    loop: LoopConfig
    memory: MemoryUse | None = None
    saved_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.checkpoints = CheckpointWriter(self.run_dir / CHECKPOINTS, keep_last=self.loop.keep_last)

    def go_on(self) -> None:
        """From the last checkpoint to the end, or to whatever ends it before."""
        start = self._resume()
        step, record = start, None
        try:
            record = Record(
                self.run_dir,
                name=self.name,
                start=start,
                steps=self.steps,
                samples_per_step=self.samples_per_step,
                tracker=self.loop.tracker,
                alarms=self.loop.alarms,
                config=self.config,
            )
            with Signals() as signals:
                for step in range(start, self.steps):
                    record.add(self._step(step))
                    if (step + 1) % self.log_every == 0 or step + 1 == self.steps:
                        with room_for({}, self.run_dir):
                            record.log(step + 1)
                    if step + 1 < self.steps:
                        self._keep(step + 1, signals)
                self._end()
        except RunEndedError:
            raise
        except RuntimeError as error:
            if is_lost(error):
                checkpoint = self._last_checkpoint()
                kept = (
                    f"The last checkpoint is that of step {checkpoint}" if checkpoint else "There is no checkpoint yet"
                )
                raise lost(f"{self.name}, step {step}: ", kept) from error
            raise
        finally:
            self.checkpoints.close()
            if record is not None:
                record.close()

    def _resume(self) -> int:
        """Load the last checkpoint, where there is one; returns the step to begin with."""
        found = latest_checkpoint(self.run_dir / CHECKPOINTS)
        start = 0 if found is None else found[0]
        if highest([start, -start]) != [start, -start]:
            raise InputError(
                self.run_dir,
                expected="one run folder that all processes see",
                got=f"other checkpoints than on another machine (here step {start})",
                remedy="Put the run folder on a disk that all machines share.",
            )
        if found is not None:
            self.stage.load_state(found[1])
        return start

    def _step(self, step: int) -> Mapping[str, Tensor]:
        try:
            figures = self.stage.step(step)
        except NotFiniteError as found:
            raise keep_evidence(
                self.stage,
                found,
                name=self.name,
                step=step,
                run_dir=self.run_dir,
                seed=self.config.get("seed"),
                checkpoint=self._last_checkpoint(),
            ) from found
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise out_of_memory(self.name, step, self.samples_per_step, error, self.memory) from error
            raise
        self.memory = memory_use()
        return figures

    def _keep(self, done: int, signals: Signals) -> None:
        """A checkpoint, if the step, the clock or a signal asks for one; and the end, if a signal does."""
        every_s = self.loop.checkpoint_every_s
        due = every_s is not None and time.monotonic() - self.saved_s >= every_s
        # Process by process it may be another moment; all must stop and save at the same step.
        caught, is_due, failed = highest([signals.caught, int(due), int(self.checkpoints.failed())])
        if failed:
            self._settle()
        if caught or is_due or done % self.checkpoint_every == 0:
            self._save(done)
        if caught:
            self._settle()
            raise RunInterruptedError(
                f"{self.name}: stopped by {name_of(caught)} at step {done}; the same command goes on"
            )

    def _save(self, done: int) -> None:
        state = self.stage.state()
        require_agreement(state, f"{self.name}, step {done}")
        if is_first():
            self.checkpoints.save(done, state)
        self.saved_s = time.monotonic()

    def _settle(self) -> None:
        """Wait until nothing is being written; where that failed, all processes end."""
        with together() as first:
            if first:
                self.checkpoints.wait()

    def _end(self) -> None:
        state = self.stage.state()
        require_agreement(state, f"{self.name}, step {self.steps}")
        with together() as first:
            if first:
                self.checkpoints.wait()
                with room_for(state, self.run_dir):
                    save_tensors(self.run_dir / FINAL_STATE, state, {"step": str(self.steps)})

    def _last_checkpoint(self) -> int | None:
        self.checkpoints.rest()
        whole = steps_of_checkpoints(self.run_dir / CHECKPOINTS)
        return whole[-1] if whole else None


def read_metrics(run_dir: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics, oldest first."""
    return read_rows(run_dir / METRICS_FILE)


def use_threads(threads: int) -> None:
    """One number of threads for the run: the sums of a matrix product, and so the weights, depend on it."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # That also fills every new tensor before it is written; whatever reads one before is a fault, not a random number.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
