"""Stands for `cyclemimic` where a slice ends inside a long training: `python slices_small.py JOURNAL VERB ...`.

As `ablate_small.py`, but a trunk runs the loop of training, on one weight. It writes a line for each step, and in the
middle it waits, longer than any slice, unless JOURNAL.go exists. Only a trunk imports torch, which takes seconds.
"""

import sys
import time
from pathlib import Path

from tests.unit import ablate_small

STEPS, MIDDLE = 12, 5


class OneWeight:
    """Its weight is another one for another order, or another number, of steps."""

    def __init__(self, run, weight):
        self.run, self.weight = run, weight

    def step(self, step):
        with (self.run / "steps.txt").open("a") as file:
            file.write(f"{step}\n")
        self.weight = (self.weight + step) * 1.5
        return {"loss": self.weight}

    def state(self):
        return {"weight": self.weight}

    def load_state(self, tensors):
        self.weight = tensors["weight"]


def trunk(run, journal):
    """Train, and end as the command line would."""
    import torch

    from cyclemimic.train.endings import RunEndedError
    from cyclemimic.train.loop import LoopConfig, train
    from cyclemimic.train.signals import Signals

    run.mkdir(parents=True, exist_ok=True)
    stage, asked = OneWeight(run, torch.zeros((), dtype=torch.float64)), []
    step, note = stage.step, Signals._note

    def slow(number):
        if number == MIDDLE and not journal.with_suffix(".go").exists():
            journal.with_suffix(".reached").touch()
            while not asked:
                time.sleep(0.02)
        return step(number)

    def noted(self, number, frame):
        asked.append(number)
        note(self, number, frame)

    stage.step, Signals._note = slow, noted
    try:
        train(
            stage, name="trunk", run_dir=run, config={}, steps=STEPS, checkpoint_every=10**6, samples_per_step=1,
            loop=LoopConfig(tracker="none", keep_last=1),
        )  # fmt: skip
    except RunEndedError as ended:
        sys.exit(ended.exit_code)


def main(journal, verb, *words):
    if verb == "tokenizer" and "trunk" in words:
        trunk(Path(words[words.index("--run") + 1]), journal)
    ablate_small.main(journal, verb, *words)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
