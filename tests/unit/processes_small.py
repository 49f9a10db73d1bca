"""What each of several processes does in the tests of training; `start` runs one of the functions on W processes."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from cyclemimic.nn import collectives
from cyclemimic.train.endings import DivergedError, NotFiniteError, ProcessLostError, RunEndedError, RunInterruptedError
from cyclemimic.train.loop import LoopConfig, train
from cyclemimic.train.optim import (
    adamw,
    load_optimizer_tensors,
    optimizer_tensors,
    update,
    with_prefix,
    without_prefix,
)
from cyclemimic.train.processes import is_first, processes, require_agreement, together

REPOSITORY = Path(__file__).parents[2]
BATCH, STEPS = 6, 5
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


def start(folder: Path, *jobs: str) -> subprocess.CompletedProcess[str]:
    """Run functions of this file on two processes, one after the other, and wait."""
    command = [sys.executable, *LAUNCHER, "tests.unit.processes_small", str(folder), *jobs]
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{REPOSITORY}/src:{REPOSITORY}"}
    return subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **own}, capture_output=True, text=True, check=False, timeout=100
    )


def losses(folder: Path) -> None:
    """Five steps of pre-training and of fine-tuning from stores in `folder`, in both precisions; their mean losses."""
    # Imported here alone: the other jobs need none of it.
    from cyclemimic.train.demonstrations import demonstration_data
    from cyclemimic.train.stage2_pretrain import PretrainStage, pretrain_data
    from cyclemimic.train.stage3_finetune import FinetuneStage
    from tests.unit import test_stage23 as small

    cache, labels = small.FrameCache.open(folder / "cache"), small.LabelStore.open(folder / "labels")
    demonstrations = demonstration_data(small.episodes(), labels, chunk_steps=4)
    found = {}
    for precision in ("float32", "float64"):
        pretrain = dataclasses.replace(small.PRETRAIN, batch=BATCH, instruction_dropout=0.3)
        finetune = dataclasses.replace(small.FINETUNE, batch=BATCH)
        stages = {
            "pretrain": PretrainStage(pretrain, pretrain_data([cache], labels)),
            "finetune": FinetuneStage(finetune, demonstrations, camera=small.CAMERA),
        }
        for name, stage in stages.items():
            if precision == "float64":
                in_double(stage)
            rows = [stage.step(step) for step in range(STEPS)]
            require_agreement(stage.state(), name)
            for key in sorted(rows[0].keys() - {"data_wait_s"}):
                values = torch.stack([row[key].detach().double() for row in rows])
                found[f"{name} {key} {precision}"] = collectives.global_mean(values).tolist()
    if is_first():
        (folder / f"losses-{collectives.num_processes()}.json").write_text(json.dumps(found))


def in_double(stage) -> None:
    """The same stage in float64: its network, the optimiser over it, and what it reads."""
    trainee = stage.trainee
    stage.trainee = type(trainee)(trainee.network.double(), trainee.config)
    observe = stage._sentences.observe
    stage._sentences.observe = lambda *a, **k: _double(observe(*a, **k))
    numbers = {name: getattr(stage.data, name, None) for name in ("actions", "state", "ends")}
    doubled = {name: value.astype(np.float64) for name, value in numbers.items() if value is not None}
    stage.data = dataclasses.replace(stage.data, **doubled)


def _double(batch):
    state = None if batch.proprioception is None else batch.proprioception.double()
    return dataclasses.replace(batch, images=batch.images.double(), proprioception=state)


def sums(folder: Path) -> None:
    """Each function of collectives.py against what it stands for."""
    mine, count = collectives.process_number(), collectives.num_processes()
    assert count == 2
    x = torch.tensor([1.0 + mine, 2.0], dtype=torch.float64, requires_grad=True)
    total = collectives.global_sum(x)
    assert total.tolist() == [3.0, 4.0]
    ((mine + 1) * total.square()).sum().backward()  # the loss of each process teaches both
    assert x.grad.tolist() == [3 * 2 * 3.0, 3 * 2 * 4.0]
    assert collectives.global_mean(torch.tensor(float(mine))).item() == 0.5
    assert collectives.all_rows(torch.tensor([[True, False], [mine == 1, True]]).T).shape == (4, 2)
    assert collectives.all_rows(torch.arange(2) + 2 * mine).tolist() == [0, 1, 2, 3]
    assert collectives.highest([mine, -mine, 7]) == [1, 0, 7]
    rows = collectives.my_rows(8)
    assert (rows.start, rows.stop) == (4 * mine, 4 * mine + 4)
    a, b, c = (torch.nn.Parameter(torch.zeros(2, 3, dtype=d)) for d in (torch.float32, torch.float64, torch.float32))
    a.grad = torch.full((2, 3), float(mine))
    b.grad = torch.full((3, 2), 4.0, dtype=torch.float64).T if mine else None
    collectives.average_gradients([a, b, c])
    assert (a.grad == 0.5).all() and (b.grad == 2).all() and c.grad is None


def disagree(folder: Path) -> None:
    """A tensor that differs is named, on every process."""
    mine = collectives.process_number()
    require_agreement({"a": torch.ones(3), "b": torch.ones(())}, "x")
    try:
        require_agreement({"a": torch.ones(3), "b": torch.tensor(1.0 + 1e-7 * mine)}, "toy, step 3")
    except DivergedError as error:
        assert "toy, step 3" in str(error) and "'b'" in str(error)
    else:
        raise AssertionError("not noticed")


def one_loss_not_finite(folder: Path) -> None:
    """The loss of process 1 alone is not finite: all stop in that step, and no weight moves."""
    module = torch.nn.Linear(2, 3)
    torch.nn.init.ones_(module.weight)
    before = module.weight.detach().clone()
    loss = module(torch.ones(1, 2)).sum() * (torch.nan if collectives.process_number() else 1.0)
    try:
        update(adamw(module, learning_rate=0.1, weight_decay=0), loss, clip_norm=1, terms={"toy": loss})
    except NotFiniteError as error:
        assert "toy" in str(error)
    else:
        raise AssertionError("not noticed")
    assert torch.equal(module.weight, before)


def a_block_that_fails(folder: Path) -> None:
    """What process 0 cannot do ends the block on process 1 as well; process 0 keeps its own error."""
    try:
        with together() as first:
            if first:
                raise OSError("mine")
    except (OSError, ProcessLostError) as error:
        said = "mine" if collectives.process_number() == 0 else "Another process of this run stopped"
        assert said in str(error)
    else:
        raise AssertionError("went on")


class Two:
    """A stage with two optimisers, as the tokenizer and its critic: the second learns from what the first has made."""

    def __init__(self):
        torch.manual_seed(3)
        self.maker, self.critic = torch.nn.Linear(3, 5), torch.nn.Linear(5, 1)
        self.optimizers = [adamw(m, learning_rate=0.05, weight_decay=0.1) for m in (self.maker, self.critic)]

    def step(self, step):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))[collectives.my_rows(8)]
        made = self.maker(x)
        centred = made - collectives.global_mean(made.mean(0))  # a statistic of the whole batch
        first = centred.square().mean() + self.critic(made).mean()
        update(self.optimizers[0], first, clip_norm=1.0, terms={"first": first})
        second = (self.critic(made.detach()) - 1).square().mean()
        update(self.optimizers[1], second, clip_norm=1.0, terms={"second": second})
        return {"first": first, "second": second}

    def state(self):
        tensors = with_prefix(self.maker.state_dict(), "maker") | with_prefix(self.critic.state_dict(), "critic")
        for number, optimizer in enumerate(self.optimizers):
            tensors |= optimizer_tensors(optimizer, f"optimizer-{number}")
        return tensors

    def load_state(self, tensors):
        self.maker.load_state_dict(without_prefix(tensors, "maker"))
        self.critic.load_state_dict(without_prefix(tensors, "critic"))
        for number, optimizer in enumerate(self.optimizers):
            load_optimizer_tensors(optimizer, tensors, f"optimizer-{number}")


class Hurt(Two):
    """Process 1 is sent a signal in its fourth step."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def step(self, step):
        if step == 4 and collectives.process_number() == 1:
            os.kill(os.getpid(), self.number)
        return super().step(step)


def run(stage, folder: Path) -> None:
    """The whole loop, with checkpoints."""
    train(
        stage, name="two", run_dir=folder, config={}, steps=7, checkpoint_every=3, log_every=2, samples_per_step=8,
        loop=LoopConfig(tracker="none", keep_last=1),
    )  # fmt: skip


def two_optimizers(folder: Path) -> None:
    """Unbroken."""
    run(Two(), folder / f"two-{collectives.num_processes()}")


def a_signal_to_one(folder: Path) -> None:
    """All stop behind the same step, and the same call goes on from there."""
    try:
        run(Hurt(signal.SIGTERM), folder / "signalled")
    except RunInterruptedError as error:
        assert "stopped by SIGTERM at step 5" in str(error)
    else:
        raise AssertionError("went on")
    assert [p.name for p in (folder / "signalled/checkpoints").iterdir()] == ["step-00000005"]
    run(Two(), folder / "signalled")


def death_of_one(folder: Path) -> None:
    """Process 1 dies of SIGKILL."""
    try:
        run(Hurt(signal.SIGKILL), folder / "death")
    except RunEndedError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


def main(folder: Path, jobs: list[str]) -> None:
    """Each job; those that pass leave a file, and one that fails is said at once."""
    torch.set_num_threads(1)
    with processes(timeout_s=20):
        for job in jobs:
            globals()[job](folder)
            (folder / f"passed-{job}-{collectives.process_number()}").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
