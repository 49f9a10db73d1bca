"""A network with its optimiser, schedule and moving average: what the two policy stages have in common."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor, nn

from cyclemimic.train.optim import (
    NO_TERMS,
    MovingAverage,
    adamw,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
    update,
    warm_cosine,
    with_prefix,
    without_prefix,
)

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How a policy stage moves its weights; the defaults come from short runs on a CPU."""

    steps: int = 2000
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    final_rate: float = 0.1  # share of the learning rate that is left at the end
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    average_decay: float = 0.99


class Trainee(Generic[Network]):
    """Updates a network; its state is a flat dictionary of tensors."""

    def __init__(self, network: Network, config: OptimConfig) -> None:
        self.network, self.config = network, config
        self.optimizer = adamw(network, learning_rate=config.learning_rate, weight_decay=config.weight_decay)
        self.average = MovingAverage(network, config.average_decay)

    def apply(self, step: int, loss: Tensor, terms: Mapping[str, Tensor] = NO_TERMS) -> Tensor:
        """One update by the gradient of `loss`, made of `terms`; returns the gradient's norm before clipping."""
        c = self.config
        factor = warm_cosine(step, steps=c.steps, warmup=c.warmup_steps, final=c.final_rate)
        set_learning_rate(self.optimizer, c.learning_rate * factor)
        norm = update(self.optimizer, loss, clip_norm=c.clip_norm, terms=terms)
        self.average.update(self.network)
        return norm

    def averaged(self) -> Network:
        """A copy of the network that holds the averaged weights, in evaluation mode."""
        twin = copy.deepcopy(self.network)
        twin.load_state_dict(self.average.whole(self.network))
        return twin.eval()

    def export(self) -> dict[str, Tensor]:
        """The averaged weights, and the frozen ones as they are."""
        return self.average.whole(self.network)

    def state(self) -> dict[str, Tensor]:
        """Weights, optimiser and average."""
        return {
            **with_prefix(self.network.state_dict(), "network"),
            **optimizer_tensors(self.optimizer, "optimizer"),
            **self.average.tensors("average"),
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Undo `state`."""
        self.network.load_state_dict(without_prefix(tensors, "network"))
        load_optimizer_tensors(self.optimizer, tensors, "optimizer")
        self.average.load(tensors, "average")
