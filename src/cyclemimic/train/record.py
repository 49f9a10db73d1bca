"""What a run writes about itself: figures, alarms, a tracker's points and a line of progress. Engineering."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cyclemimic.nn.collectives import global_mean, num_processes
from cyclemimic.train.alarms import Alarm, AlarmConfig, Watch, alarm_row
from cyclemimic.train.processes import is_first
from cyclemimic.train.progress import Progress
from cyclemimic.train.trackers import NoTracker, Tracker, open_tracker

METRICS_FILE, ALARMS_FILE = "metrics.jsonl", "alarms.jsonl"
WAITED = "data_wait_s"  # a stage's figure: seconds that a step waited for its data


class Record:
    """Gathers the figures of steps and writes their means over the steps since the last row and over all processes.

    Every process must call `log` at the same steps; the first alone writes. Where a run went on between two rows, the
    next row is the mean over the steps of this sitting.

    Args:
        start: the step at which this sitting begins; rows behind it are dropped.
        samples_per_step: of all processes together.
        tracker: its name.
        config: of the run, for the tracker.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        name: str,
        start: int,
        steps: int,
        samples_per_step: int,
        tracker: str,
        alarms: AlarmConfig,
        config: Mapping[str, Any],
    ) -> None:
        self._run_dir, self._samples = run_dir, samples_per_step
        self._tracker: Tracker = NoTracker()
        if is_first():
            for file in (METRICS_FILE, ALARMS_FILE):
                _truncate(run_dir / file, start)
            self._tracker = open_tracker(tracker, run_dir, name=name, start=start, config=config)
            self._watch = Watch(alarms)
            self._watch.recall(read_rows(run_dir / METRICS_FILE))
        self._progress = Progress(name=name, total=steps, done=start)
        self._clear()

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Take the figures of one step."""
        for key, value in figures.items():
            self._window.setdefault(key, []).append(value.detach())  # a number to log; no gradient is meant to pass
        self._count += 1

    def log(self, done: int) -> None:
        """Write the means since the last row, `done` steps being done, and say what they give reason to."""
        figures = self._means()
        self._clear()
        if not is_first():
            return
        _append(self._run_dir / METRICS_FILE, {"step": done, **figures})
        self._tracker.log(done, figures)
        for alarm in self._watch.look(done, figures):
            self._say(alarm)
        self._progress.update(done, figures)

    def close(self) -> None:
        """Let go of the tracker."""
        self._tracker.close()

    def _say(self, alarm: Alarm) -> None:
        print(alarm, file=sys.stderr, flush=True)
        _append(self._run_dir / ALARMS_FILE, alarm_row(alarm))
        self._tracker.log(alarm.step, {f"alarm/{alarm.name.replace(' ', '_')}": 1.0})

    def _means(self) -> dict[str, float]:
        spent_s, count = time.monotonic() - self._wall_s, self._count * self._samples
        figures = {k: float(torch.stack(v).double().mean()) for k, v in self._window.items()}
        if WAITED in figures:
            figures["data_wait_share"] = figures.pop(WAITED) * len(self._window[WAITED]) / max(spent_s, 1e-9)
        cpu_s = time.process_time() - self._cpu_s
        figures["cpu_ms_per_sample"] = 1000 * cpu_s * num_processes() / count
        if num_processes() > 1:
            names = sorted(figures)  # the same order on every process
            means = global_mean(torch.tensor([figures[name] for name in names], dtype=torch.float64)).tolist()
            figures |= dict(zip(names, means, strict=True))
        figures["samples_per_s"] = count / spent_s
        return figures

    def _clear(self) -> None:
        self._window: dict[str, list[Tensor]] = {}
        self._count = 0
        self._wall_s, self._cpu_s = time.monotonic(), time.process_time()


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a file of JSON lines, oldest first; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _append(path: Path, row: Mapping[str, object]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def _truncate(path: Path, step: int) -> None:
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
