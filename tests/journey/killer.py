"""Runs stations in children that kill themselves at given moments, and starts each again until it ends.

A program, not a test: `python -m tests.journey.killer PLAN.json`. The package is imported once; every attempt is a fork
that dies of SIGKILL, which no `finally` and no handler sees. A moment is a number of calls of the package's functions
after a step began (or after the start), or a file of which half is written: `tear` counts syncs of files.
"""

import functools
import json
import os
import signal
import stat
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

import cyclemimic
from cyclemimic import cli
from cyclemimic.policy.network import NetworkSpec, build_pretrain_network
from cyclemimic.policy.vocabulary import Vocabulary
from cyclemimic.recipes import footage, stations
from cyclemimic.train import stage1_tokenizer
from cyclemimic.train.loop import train, use_threads
from cyclemimic.train.optim import adamw
from cyclemimic.train.stage1_tokenizer import TokenizerStage
from cyclemimic.train.stage2_pretrain import PretrainStage
from cyclemimic.train.stage3_finetune import FinetuneStage
from cyclemimic.train.trackers import open_tracker
from tests.journey.small import BODIES, CHECKPOINT_EVERY, NETWORK, SKILLS, STEPS, recipe

PACKAGE = str(Path(cyclemimic.__file__).parent)
DRAWN = 4  # kills at drawn moments, beside the torn files


def tokenizer(root: Path, run: Path) -> None:
    """AC3: buffer, critic and both optimisers."""
    source = footage.open_source(f"folder:{root}/film/video")
    stations.run_tokenizer(source, recipe().ac3, run, cache_root=root / "cache", trunk=root / "trunk")


def pretrain(root: Path, run: Path) -> None:
    """On the labels of the journey."""
    source = footage.open_source(f"folder:{root}/film/video")
    config, every = recipe().pretrain, {"checkpoint_every": CHECKPOINT_EVERY}
    stations.run_pretrain(source, root / "labels", config, run, cache_root=root / "cache", threads=1, **every)


def finetune(root: Path, run: Path) -> None:
    """From random weights: what it begins from is no part of the question."""
    source = footage.open_source(f"film:{root}/demonstrations")
    words = {"body": BODIES[0], "skills": (), "per_skill": 2, "labels": root / "demonstration-labels", "init": None}
    stations.run_finetune(source, recipe().finetune, run, **words, threads=1, checkpoint_every=CHECKPOINT_EVERY)


def label(root: Path, out: Path) -> None:
    """By the command line."""
    words = ["--tokenizer", f"{root}/ac3", "--out", str(out), "--cache", f"{root}/cache"]
    cli.main(["label", "--source", f"folder:{root}/film/video", *words])


def film(root: Path, out: Path) -> None:
    """By the command line."""
    cli.main(["film", "arms", "--out", str(out), "--episodes", "4", "--bodies", BODIES[1], "--skills", *SKILLS])


def cache(root: Path, out: Path) -> None:
    """Frames of the demonstrations, decoded once."""
    cli.main(["data", "cache", f"folder:{root}/demonstrations/video", "--size-px", "24", "--cache", str(out)])


JOBS = {
    "tokenizer": tokenizer,
    "pretrain": pretrain,
    "finetune": finetune,
    "label": label,
    "film": film,
    "cache": cache,
}
STAGES = ("tokenizer", "pretrain", "finetune")


class Death:
    """Waits for its moment in this process: a step (or the start), and so many calls or synced files behind it."""

    def __init__(self, moment: dict[str, int]) -> None:
        self.moment, self.armed = moment, "step" not in moment
        self.calls = self.syncs = 0
        self.begun: list[int] = []  # calls when each step began
        self._sync = os.fsync

    def install(self) -> None:
        """Watch steps, calls and syncs from now on."""
        for stage in (TokenizerStage, PretrainStage, FinetuneStage):
            self._watch_steps(stage)
        os.fsync = self.fsync
        sys.setprofile(self.profile)
        threading.setprofile(self.profile)

    def _watch_steps(self, stage: type) -> None:
        step_of = stage.step

        def step(stage_self, number):
            self.begun.append(self.calls)
            if number == self.moment.get("step"):
                self.armed, self.calls = True, 0
            return step_of(stage_self, number)

        stage.step = step

    def profile(self, frame, event, _) -> None:
        """Count the package's own calls."""
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self.calls += 1
            if self.armed and self.calls == self.moment.get("calls"):
                os.kill(os.getpid(), signal.SIGKILL)

    def fsync(self, handle: int) -> None:
        """Half of the file's bytes are there, then the power is gone."""
        found = os.fstat(handle)
        if self.armed and stat.S_ISREG(found.st_mode):
            self.syncs += 1
            if self.syncs == self.moment.get("tear"):
                os.ftruncate(handle, found.st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
        self._sync(handle)


def attempt(job: str, root: Path, out: Path, moment: dict[str, int], counts: Path | None = None) -> int:
    """One life: the exit code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            log = os.open(root / f"{job}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            death = Death(moment)
            death.install()
            JOBS[job](root, out)
            sys.setprofile(None)
            if counts is not None:
                counts.write_text(json.dumps({"begun": death.begun, "calls": death.calls, "syncs": death.syncs}))
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def stage_moments(rng: np.random.Generator, counts: dict) -> list[dict[str, int]]:
    """Drawn moments of a training, in the order of its steps; a torn checkpoint, and torn weights at the very end."""
    begun, moments = counts["begun"], []
    for call in rng.integers(begun[1] + 1, begun[-1], DRAWN):
        step = max(i for i, start in enumerate(begun) if start < call)
        moments.append({"step": step, "calls": int(call) - begun[step]})
    torn = int(rng.integers(1, STEPS // CHECKPOINT_EVERY)) * CHECKPOINT_EVERY - 1
    moments.append({"step": torn, "tear": 1})
    return [*sorted(moments, key=lambda m: m["step"]), {"step": STEPS - 1, "tear": 2}]


def store_moments(rng: np.random.Generator, counts: dict) -> list[dict[str, int]]:
    """Moments of a job without steps: none is later than a fifth of the whole, so that every kill finds it at work."""
    most = counts["calls"] // (DRAWN + 2)
    moments = [{"calls": int(call)} for call in rng.integers(most // 3, most, DRAWN)]
    moments.insert(int(rng.integers(DRAWN)), {"tear": 2})
    return moments


def import_the_rest() -> None:
    """What the libraries import on first use, so that no child has to: a network and its optimiser."""
    use_threads(1)
    vocabulary = Vocabulary.build(("reach",), num_codes=2)
    network = build_pretrain_network(NetworkSpec(config=NETWORK, vocabulary=vocabulary, num_tokens=1), seed=0)
    adamw(network, learning_rate=1e-3, weight_decay=0.0).zero_grad()
    with tempfile.TemporaryDirectory() as folder:
        open_tracker("tensorboard", Path(folder), name="none", start=0, config={}).close()


def main(plan: Path) -> None:
    """Every job unbroken, then killed and started again; what became of each goes to PLAN.done."""
    told = json.loads(plan.read_text())
    import_the_rest()
    root, rng, endings = Path(told["root"]), np.random.default_rng(told["seed"]), {}
    stations.train = stage1_tokenizer.train = functools.partial(train, log_every=CHECKPOINT_EVERY)
    for job in told["jobs"]:
        counts = root / f"{job}-counts.json"
        whole = attempt(job, root, root / "unbroken" / job, {}, counts)
        if whole != 0:
            sys.exit(f"{job} failed:\n{(root / f'{job}.log').read_text()}")
        draw = stage_moments if job in STAGES else store_moments
        moments = draw(rng, json.loads(counts.read_text()))
        lives = [attempt(job, root, root / "killed" / job, moment) for moment in moments]
        lives.append(attempt(job, root, root / "killed" / job, {}))
        endings[job] = {"moments": moments, "endings": lives, "log": (root / f"{job}.log").read_text()[-3000:]}
    plan.with_suffix(".done").write_text(json.dumps(endings))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
