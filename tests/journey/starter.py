"""Starts verbs as the command line does, one after the other (`--then`), on however many processes.

    python -m torch.distributed.run --nproc-per-node 2 -m -- tests.journey.starter VERB ... --then VERB ...

A program, not a test. With SIGNAL_IN_STEP="15 4" a process sends itself a signal in step 4 of a pre-training.
"""

import os
import sys

import torch

from cyclemimic import cli
from cyclemimic.train.endings import RunEndedError
from cyclemimic.train.processes import processes
from cyclemimic.train.stage2_pretrain import PretrainStage

SIGNAL_IN_STEP = "SIGNAL_IN_STEP"


def send_in_step(number: int, step: int) -> None:
    """From now on this process sends itself a signal in a step of pre-training."""
    true = PretrainStage.step

    def wrong(self, now):
        if now == step:
            os.kill(os.getpid(), number)
        return true(self, now)

    PretrainStage.step = wrong


def main(words: list[str]) -> None:
    """Every verb; where a run ended early, its message and its exit code."""
    torch.set_num_threads(1)
    if SIGNAL_IN_STEP in os.environ:
        send_in_step(*map(int, os.environ[SIGNAL_IN_STEP].split()))
    try:
        with processes():
            while words:
                end = words.index("--then") if "--then" in words else len(words)
                cli.main(words[:end])
                words = words[end + 1 :]
    except RunEndedError as error:
        print(f"cyclemimic: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(sys.argv[1:])
