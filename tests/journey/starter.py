"""Starts a verb as the command line does, on however many processes; `--hurt` lets this process die at a step.

python -m torch.distributed.run --nproc-per-node 2 -m tests.journey.starter VERB ...
"""

import os
import signal
import sys

import torch

from cyclemimic import cli
from cyclemimic.train.endings import RunEndedError
from cyclemimic.train.processes import processes
from cyclemimic.train.stage2_pretrain import PretrainStage

HURT = "HURT_PROCESS_AT_STEP"  # environment: "1 4" kills process 1 in step 4


def hurt(process: int, step: int) -> None:
    """From now on a process dies of SIGKILL in a step of pre-training."""
    true = PretrainStage.step

    def wrong(self, number):
        if number == step and os.environ.get("RANK", "0") == str(process):
            os.kill(os.getpid(), signal.SIGKILL)
        return true(self, number)

    PretrainStage.step = wrong


def main() -> None:
    """The verb's exit code, and its message on stderr."""
    torch.set_num_threads(1)
    if HURT in os.environ:
        hurt(*map(int, os.environ[HURT].split()))
    try:
        with processes():
            cli.main(sys.argv[1:])
    except RunEndedError as error:
        print(f"cyclemimic: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
