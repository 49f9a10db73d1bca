"""A small net's training, for those who judge: one cycle of the learning rate, and a kill costs seconds of it.

A pure function of net, seed and batches, whether it is broken off or not. Engineering.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, MutableMapping

import torch
from torch import Tensor, nn

from cyclemimic.evaluate import parts as kept
from cyclemimic.evaluate.models import QUIET_S
from cyclemimic.evaluate.parts import Parts
from cyclemimic.train.optim import load_optimizer_tensors, optimizer_tensors
from cyclemimic.train.progress import Progress


class Fit:
    """Steps of a training. `for _ in fit.steps(): ... fit.update(loss)`, with indices from `fit.batch`.

    Args:
        net: learns; its dropout draws from torch's generator, which must be forked and seeded around all of it.
        name: of the part, and of the line of progress.
        steps: updates in all.
        learning_rate: the cycle's highest.
        weight_decay: of AdamW.
        entropy: seed of the order and of what batches draw from `generator`.
        parts: where the state of an unfinished training is kept.
        clip_norm: of the gradient; not clipped unless given.
        beside: tensors that the steps change in place, such as an average of the weights; they are kept too.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        name: str,
        steps: int,
        learning_rate: float,
        weight_decay: float,
        entropy: int,
        parts: Parts,
        clip_norm: float | None = None,
        beside: MutableMapping[str, Tensor] | None = None,
    ) -> None:
        self.net, self.name, self.total, self.parts = net, name, steps, parts
        self.clip_norm, self.beside = clip_norm, {} if beside is None else beside
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=learning_rate, weight_decay=weight_decay)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, learning_rate, total_steps=steps)
        self.generator = torch.Generator().manual_seed(entropy)
        self._order = torch.zeros(0, dtype=torch.int64)

    def steps(self) -> Iterator[int]:
        """The numbers of the steps that are left to do."""
        done = self._load()
        progress = Progress(name=self.name, total=self.total, done=done, quiet_s=QUIET_S)
        saved_s = time.monotonic()
        for number in range(done, self.total):
            yield number
            progress.update(number + 1)
            if number + 1 == self.total or time.monotonic() - saved_s >= kept.SAVE_S:
                self._save(number + 1)
                saved_s = time.monotonic()

    def batch(self, count: int, size: int) -> Tensor:
        """The next `size` of `count` indices: all come up before one comes again, but at the seams."""
        if len(self._order) < size:
            self._order = torch.cat([self._order, torch.randperm(count, generator=self.generator)])
        index, self._order = self._order[:size], self._order[size:]
        return index

    def update(self, loss: Tensor) -> None:
        """One step down the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.clip_norm)
        self.optimizer.step()
        self.schedule.step()

    def _save(self, done: int) -> None:
        (group,) = self.optimizer.param_groups
        cycle = [group["lr"], *group["betas"], group["initial_lr"]]
        tensors = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        tensors |= {f"beside.{name}": value for name, value in self.beside.items()}
        tensors |= optimizer_tensors(self.optimizer, "optimizer")
        tensors |= {
            "done": torch.tensor(done),
            "cycle": torch.tensor(cycle, dtype=torch.float64),
            "order": self._order,
            "generator": self.generator.get_state(),
            "torch": torch.get_rng_state(),
        }
        self.parts.keep_tensors(self.name, tensors)

    def _load(self) -> int:
        """Go on where an earlier process stood; returns the steps that it took."""
        found = self.parts.tensors(self.name)
        if found is None:
            return 0
        self.net.load_state_dict(_under("net.", found))
        for name, value in _under("beside.", found).items():
            self.beside[name].copy_(value)
        load_optimizer_tensors(self.optimizer, found, "optimizer")
        done = int(found["done"])
        (group,) = self.optimizer.param_groups
        group["lr"], first, second, group["initial_lr"] = found["cycle"].tolist()
        group["betas"] = (first, second)
        self.schedule.last_epoch = done  # the cycle's shape is a function of it alone
        self._order = found["order"]
        self.generator.set_state(found["generator"])
        torch.set_rng_state(found["torch"])
        return done


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
