"""One of W processes of the tests of the tokenizer's stage: five steps, and what came of them, as tensors in a file."""

import dataclasses
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from cyclemimic.nn import collectives
from cyclemimic.store.weights import save_tensors
from cyclemimic.tokenizer.further_terms import SlowReader
from cyclemimic.train.optim import adamw
from tests.paper.small import FROZEN, small_config
from tests.unit.test_stage1 import AC3, EVERY_TERM, Pairs, stage

BATCH, STEPS = 8, 5  # a share of each process that is a multiple of four
# The first deals codes out within the rows of a process, the second is a time.
PER_PROCESS = ("reconstruction_shuffled", "data_wait_s")
FEATURES = {"decoder": "feature", "change": "features", "backbone": FROZEN}
LEVERS = dataclasses.replace(AC3.ac3, trim=0.3, other_body=True, inverse_frequency=True)
KINDS = {
    "ac3": lambda: stage(**settings()),
    "further": lambda: stage(EVERY_TERM, **settings()),
    "levers": lambda: stage(dataclasses.replace(AC3, ac3=LEVERS), **settings()),
    "lapa": lambda: stage(dataclasses.replace(AC3, objective="lapa"), lapa(), **settings()),
    "features": lambda: stage(EVERY_TERM, small_config(**FEATURES), **settings()),
}


def lapa():
    """Sizes of LAPA's tokenizer, whose codes die soon."""
    sizes = small_config()
    quantizer = dataclasses.replace(sizes.quantizer, kind="nsvq", reset_after=2)
    return dataclasses.replace(
        sizes, quantizer=quantizer, encoder=dataclasses.replace(sizes.encoder, readout="difference")
    )


RUNS = [(kind, "float64") for kind in KINDS] + [(kind, "float32") for kind in ("ac3", "further")]


def settings():
    return {"loader": Pairs(BATCH), "gradient_norms_every": 2, "learning_rate": 1e-3, "warmup": 2, "steps": STEPS}


def in_double(one):
    """The same stage in float64: networks, optimisers, codebook, and what it sees."""
    one.tokenizer.double()
    helpers = {k: m.double() for k, m in vars(one.helpers).items() if isinstance(m, nn.Module)}
    if one.helpers.reader is not None:
        helpers["reader"] = SlowReader(one.tokenizer, one.helpers.reader.decay)
    one.helpers = dataclasses.replace(one.helpers, **helpers)
    c = one.config
    trained = nn.ModuleList([one.tokenizer, one.helpers.trained()])
    one.optimizer = adamw(trained, learning_rate=c.learning_rate, weight_decay=c.weight_decay)
    if one.critic is not None:
        one.critic_optimizer = adamw(
            one.critic.double(), learning_rate=c.critic_learning_rate, weight_decay=0.0, betas=(0.5, 0.99)
        )
    draw = one.draw

    def drawn(step):
        batch = draw(step)
        floats = {k: v.double() for k, v in vars(batch).items() if v is not None and v.is_floating_point()}
        return dataclasses.replace(batch, **floats)

    one.draw = drawn


def steps(kind, precision):
    """Figures of five steps, meaned over the processes, and the state behind them."""
    torch.set_num_threads(1)
    one = KINDS[kind]()
    if precision == "float64":
        in_double(one)
    found = {}
    for step in range(STEPS):
        for name, value in one.step(step).items():
            figure = value.detach().double()
            found[f"figure.{step}.{name}"] = figure if name in PER_PROCESS else collectives.global_mean(figure)
    return found | {f"state.{k}": v.detach().clone() for k, v in one.state().items()}


def main(folder, mine, count):
    """Join the other processes by a file in `folder`."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=mine, world_size=count)
    for kind, precision in RUNS:
        save_tensors(folder / f"{kind}-{precision}-{mine}.safetensors", steps(kind, precision), {})
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
