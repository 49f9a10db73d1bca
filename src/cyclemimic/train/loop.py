"""The loop of every stage: step, log, checkpoint. Killed and started again, a run ends with the same weights."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cyclemimic.store.atomic import alone_in
from cyclemimic.store.weights import load_tensors, save_tensors
from cyclemimic.train.checkpoint import claim_run, latest_checkpoint, save_checkpoint
from cyclemimic.train.progress import Progress

FINAL_STATE = "state.safetensors"
METRICS_FILE = "metrics.jsonl"


class Stage(Protocol):
    """What a loop trains. `step` must be a pure function of (state, step): all randomness comes from (seed, step)."""

    def step(self, step: int) -> Mapping[str, Tensor]:
        """One update; returns scalars to log."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All that the future depends on: weights, optimisers, moving averages, the buffer."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Undo `state`."""
        ...


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
) -> None:
    """Train `stage` for `steps` updates in `run_dir`, resuming what lies there; `stage` is then in its final state.

    Raises:
        InputError: `run_dir` belongs to another configuration, or another process is at work in it.
    """
    claim_run(run_dir, config)
    # Two processes in one folder would spoil each other's checkpoints.
    with alone_in(run_dir):
        final = run_dir / FINAL_STATE
        if final.exists():
            stage.load_state(load_tensors(final)[0])
            return
        found = latest_checkpoint(run_dir / "checkpoints")
        start = 0
        if found is not None:
            start, tensors = found
            stage.load_state(tensors)
        _truncate_metrics(run_dir / METRICS_FILE, start)
        progress = Progress(name=name, total=steps, done=start)
        window: dict[str, list[Tensor]] = {}
        count = 0
        wall_s, cpu_s = time.monotonic(), time.process_time()
        with (run_dir / METRICS_FILE).open("a") as log:
            for step in range(start, steps):
                for key, value in stage.step(step).items():
                    window.setdefault(key, []).append(value.detach())
                count += 1
                done = step + 1
                if done % log_every == 0 or done == steps:
                    figures = {k: float(torch.stack(v).double().mean()) for k, v in window.items()}
                    spent_cpu_s = time.process_time() - cpu_s
                    figures["cpu_ms_per_sample"] = 1000 * spent_cpu_s / (count * samples_per_step)
                    figures["samples_per_s"] = count * samples_per_step / (time.monotonic() - wall_s)
                    log.write(json.dumps({"step": done, **figures}) + "\n")
                    log.flush()
                    progress.update(done, figures)
                    window, count = {}, 0
                    wall_s, cpu_s = time.monotonic(), time.process_time()
                if done % checkpoint_every == 0 and done < steps:
                    save_checkpoint(run_dir / "checkpoints", done, stage.state())
        save_tensors(final, stage.state(), {"step": str(steps)})


def read_metrics(run_dir: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics, oldest first."""
    path = run_dir / METRICS_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def use_threads(threads: int) -> None:
    """One number of threads for the run: the sums of a matrix product, and so the weights, depend on it."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)


def _truncate_metrics(path: Path, step: int) -> None:
    """Drop rows behind the checkpoint from which the run goes on, and a row that was cut in the middle."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if row["step"] <= step:
            kept.append(line)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(f"{line}\n" for line in kept))
    temporary.replace(path)
