"""Optimisers, schedules and the moving average of weights, in the form that checkpoints need."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cyclemimic.nn.collectives import average_gradients


def adamw(
    module: nn.Module, *, learning_rate: float, weight_decay: float, betas: tuple[float, float] = (0.9, 0.99)
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; no decay on vectors (biases, norms, learnable tokens). Engineering."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas)


def warm_cosine(step: int, *, steps: int, warmup: int, final: float = 0.1) -> float:
    """Factor on the learning rate: linear warm-up, then a cosine from 1 to `final`. Engineering."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return final + (1 - final) * 0.5 * (1 + float(torch.cos(torch.tensor(progress * torch.pi, dtype=torch.float64))))


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """The learning rate of every group, from now on."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def update(optimizer: torch.optim.Optimizer, loss: Tensor, *, clip_norm: float) -> Tensor:
    """One update by the gradient of `loss`, meaned over all processes; returns its norm before clipping.

    Raises:
        RuntimeError: the gradient is not finite. It is raised before any weight moves.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    average_gradients(ordered_parameters(optimizer))
    parameters = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
    norm = nn.utils.clip_grad_norm_(parameters, clip_norm, error_if_nonfinite=True)
    optimizer.step()
    return norm


def ordered_parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The optimiser's parameters in the order in which its state is saved."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """The optimiser's state as named tensors, for a safetensors file."""
    tensors = {}
    for index, parameter in enumerate(ordered_parameters(optimizer)):
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{prefix}.{index}.{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return tensors


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Undo `optimizer_tensors`."""
    for index, parameter in enumerate(ordered_parameters(optimizer)):
        start = f"{prefix}.{index}."
        found = {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}
        # Moments live beside their weights; the step count stays where AdamW keeps it, on the CPU.
        state = {
            key: value.clone() if value.ndim == 0 else value.to(parameter, copy=True) for key, value in found.items()
        }
        if state:
            optimizer.state[parameter] = state


class MovingAverage:
    """Exponential moving average of a module's parameters and a copy of its buffers; used to act and to judge."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards the module's weights; integer buffers are copied."""
        for name, value in module.state_dict().items():
            if value.dtype.is_floating_point:
                self.average[name].lerp_(value, 1 - self.decay)
            else:
                self.average[name].copy_(value)

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """The average as named tensors."""
        return {f"{prefix}.{name}": value for name, value in self.average.items()}

    def load(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        """Undo `tensors`."""
        self.average = {name: tensors[f"{prefix}.{name}"].clone() for name in self.average}


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The same tensors, each name behind `prefix.`."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those tensors whose name starts with `prefix.`, without it."""
    start = f"{prefix}."
    return {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}
