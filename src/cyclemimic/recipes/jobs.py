"""Commands that wait for one another, two at a time; what they say goes to logs, one line of progress to the person."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cyclemimic.store.atomic import read_json, write_json
from cyclemimic.train.progress import duration
from cyclemimic.train.signals import ended_at_once


@dataclass(frozen=True, kw_only=True)
class Job:
    """One `cyclemimic` command.

    Args:
        name: unique; names its log and its mark.
        arguments: what follows `cyclemimic`.
        after: names of jobs whose results it needs.
        seconds: how long it takes on one core of a usual machine; only the remaining time is guessed from it.
        says: what it does, for a person.
    """

    name: str
    arguments: tuple[str, ...]
    seconds: float
    says: str
    after: tuple[str, ...] = ()


@dataclass(kw_only=True)
class JobFailedError(RuntimeError):
    """A command ended with an error."""

    job: Job
    log: Path
    tail: str

    def __str__(self) -> str:
        """The command, and the end of what it said."""
        return f"station {self.job.name!r} failed; the end of {self.log}:\n{self.tail}"


@dataclass(kw_only=True)
class Jobs:
    """Runs `jobs`, each listed behind those it needs, `lanes` at a time. Jobs marked as done are not run again.

    Args:
        budget_s: stop after so long, with `left` to do; what runs then is asked to end, and a later run goes on.
        ended: told of each job once it is marked as done.
        keep_going: a job that fails goes to `failures`, and all that does not need it is run.
    """

    jobs: Sequence[Job]
    folder: Path
    lanes: int = 2
    say_every_s: float = 15.0
    command: tuple[str, ...] = (sys.executable, "-m", "cyclemimic.cli")
    budget_s: float | None = None
    ended: Callable[[Job], None] | None = None
    keep_going: bool = False
    failures: list[JobFailedError] = field(default_factory=list)
    _running: dict[str, tuple[subprocess.Popen[bytes], float]] = field(default_factory=dict)
    _done: dict[str, float] = field(default_factory=dict)  # name -> seconds it took
    _began_s: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> tuple[str, ...]:
        """Names of the jobs that are not done."""
        return tuple(job.name for job in self.jobs if job.name not in self._done)

    def is_done(self, job: Job) -> bool:
        """Whether it is marked as done, in this run or an earlier one."""
        return self._mark(job).exists()

    def run(self) -> float:
        """Run what is left, or as much as the budget lets; returns the seconds spent, earlier sittings included.

        Raises:
            JobFailedError: a job ended with an error. The others are stopped; a later run goes on. Never with
                `keep_going`.
            RunInterruptedError: SIGTERM or Ctrl-C; the commands that ran were ended too, and a later run goes on.
        """
        # A terminated run must take its commands along; the default would leave them behind, still writing.
        with ended_at_once("What its commands have done is kept."):
            return self._run()

    def _run(self) -> float:
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        earlier_s = 0.0
        for job in self.jobs:
            if self._mark(job).exists():
                self._done[job.name] = float(read_json(self._mark(job))["seconds"])
        clock = self.folder / "clock.json"
        if clock.exists():
            earlier_s = float(read_json(clock)["seconds"])
        said_s = 0.0
        try:
            while self._ahead():
                if self.budget_s is not None and time.monotonic() - self._began_s >= self.budget_s:
                    break
                self._start_ready()
                time.sleep(0.2)
                self._collect()
                spent_s = time.monotonic() - self._began_s
                if spent_s - said_s > self.say_every_s:
                    said_s = spent_s
                    write_json(clock, {"seconds": earlier_s + spent_s})
                    print(self._line(spent_s), flush=True)
            self._stop()
            self._collect_whole()
        finally:
            self._stop()
            total_s = earlier_s + time.monotonic() - self._began_s
            write_json(clock, {"seconds": total_s})
        return total_s

    def _ahead(self) -> list[Job]:
        """Jobs that are not done and do not need one that failed."""
        lost = {failure.job.name for failure in self.failures}
        for job in self.jobs:
            if lost & set(job.after):
                lost.add(job.name)
        return [job for job in self.jobs if job.name not in lost and job.name not in self._done]

    def _mark(self, job: Job) -> Path:
        return self.folder / "done" / f"{job.name}.json"

    def _log(self, job: Job) -> Path:
        return self.folder / "logs" / f"{job.name}.log"

    def _start_ready(self) -> None:
        for job in self._ahead():
            idle = job.name not in self._running
            if len(self._running) < self.lanes and idle and all(name in self._done for name in job.after):
                print(f"- {job.says}", flush=True)
                with self._log(job).open("wb") as log:
                    command = [*self.command, *job.arguments]
                    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
                self._running[job.name] = (process, time.monotonic())

    def _stop(self) -> None:
        """Ask what runs to end, and wait: a training writes a checkpoint first."""
        for process, _ in self._running.values():
            process.terminate()
        for process, _ in self._running.values():
            process.wait()

    def _collect_whole(self) -> None:
        """Mark what was done before it could be stopped, so that nothing measured is measured again."""
        for name in [name for name, (process, _) in self._running.items() if process.returncode != 0]:
            del self._running[name]
        self._collect()

    def _collect(self) -> None:
        for job in self.jobs:
            if job.name not in self._running:
                continue
            process, began_s = self._running[job.name]
            code = process.poll()
            if code is None:
                continue
            del self._running[job.name]
            if code != 0:
                tail = "\n".join(self._log(job).read_text(errors="replace").splitlines()[-12:])
                failure = JobFailedError(job=job, log=self._log(job), tail=tail)
                if not self.keep_going:
                    raise failure
                print(failure, flush=True)
                self.failures.append(failure)
                continue
            self._done[job.name] = time.monotonic() - began_s
            write_json(self._mark(job), {"seconds": self._done[job.name]})
            if self.ended is not None:
                self.ended(job)

    def _line(self, spent_s: float) -> str:
        """How far all is: what runs, what it said last, and how long is left."""
        now = []
        for job in self.jobs:
            if job.name in self._running:
                lines = self._log(job).read_text(errors="replace").replace("\r", "\n").split("\n")
                last = next((line for line in reversed(lines) if line.startswith("[")), "")
                now.append(last.split("  ")[0].strip() or job.name)
        return f"  {duration(spent_s)}: {', '.join(now)}; about {duration(self._left_s())} left"

    def _left_s(self) -> float:
        """Guess: the longest chain of jobs ahead, or all work shared by the lanes, whichever is longer."""
        pace = sum(self._done.values()) / max(1.0, sum(j.seconds for j in self.jobs if j.name in self._done))
        pace = pace if self._done else 1.0
        left: dict[str, float] = {}
        for job in self.jobs:
            running = self._running.get(job.name)
            spent_s = time.monotonic() - running[1] if running else 0.0
            own_s = 0.0 if job.name in self._done else max(1.0, job.seconds * pace - spent_s)
            left[job.name] = own_s + max((left[name] for name in job.after), default=0.0)
        work_s = sum(left[j.name] - max((left[n] for n in j.after), default=0.0) for j in self.jobs)
        return max(max(left.values()), work_s / self.lanes)
