"""Optimisers, schedules and the moving average of weights, in the form that checkpoints need."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cyclemimic.nn.collectives import average_gradients, global_mean
from cyclemimic.train.endings import NotFiniteError

NO_TERMS: Mapping[str, Tensor] = {}


def adamw(
    module: nn.Module, *, learning_rate: float, weight_decay: float, betas: tuple[float, float] = (0.9, 0.99)
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; no decay on vectors (biases, norms, learnable tokens). Engineering."""
    trainable = [(n, p) for n, p in module.named_parameters() if p.requires_grad]  # named, so that errors can name them
    groups = [
        {"params": [(n, p) for n, p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [(n, p) for n, p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    # On a CPU one loop over each weight instead of a dozen; elsewhere torch's own choice.
    fused = True if all(p.device.type == "cpu" for _, p in trainable) else None
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused)


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


def update(
    optimizer: torch.optim.Optimizer, loss: Tensor, *, clip_norm: float, terms: Mapping[str, Tensor] = NO_TERMS
) -> Tensor:
    """One update by the gradient of `loss`, meaned over all processes; returns its norm before clipping.

    Args:
        optimizer: moves its own parameters only.
        loss: a mean over the rows of this process.
        clip_norm: the gradient is shortened to this length.
        terms: what `loss` is made of, by name, to name in an error.

    Raises:
        NotFiniteError: the loss or its gradient is not finite, here or on another process; all processes raise it,
            before any weight moves.
    """
    optimizer.zero_grad(set_to_none=True)
    finite = torch.isfinite(global_mean(loss.detach()))  # only looked at: no gradient is meant to pass
    parameters = ordered_parameters(optimizer)
    loss.backward(inputs=[p for p in parameters if p.requires_grad])  # of nothing else a gradient is computed
    average_gradients(parameters)
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if not (finite & torch.isfinite(norm)):  # asked once: on a GPU each question waits for all that was launched
        guilty = _guilty("gradient", terms, _wild(optimizer)) if finite else _guilty("loss", terms)
        raise NotFiniteError(guilty, terms=_values(loss, terms))
    nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    optimizer.step()
    return norm


def _guilty(what: str, terms: Mapping[str, Tensor], wild: tuple[str, ...] = ()) -> str:
    """Which terms, meaned over all processes, and which weights' gradients are not finite."""
    bad = [name for name, value in terms.items() if not torch.isfinite(global_mean(value.detach())).all()]
    said = f"the {what} is not finite (non-finite terms: {', '.join(bad) or 'none'}"
    if wild:
        said += f"; gradients of {len(wild)} weights, such as {', '.join(wild[:3])}"
    return said + ")"


def _values(loss: Tensor, terms: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value.detach().double().mean()) for name, value in {"loss": loss, **terms}.items()}


def _wild(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """The names of the weights whose gradient is not finite."""
    return tuple(
        name
        for group in optimizer.param_groups
        for name, p in zip(group.get("param_names", ()), group["params"], strict=False)
        if p.grad is not None and not torch.isfinite(p.grad).all()
    )


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
    """Exponential moving average of a module's trainable weights and buffers; used to act and to judge.

    Frozen weights are what they are: they are not held twice.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        frozen = {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}
        # A copy: no gradient is meant to reach an average.
        self.average = {n: value.detach().clone() for n, value in module.state_dict().items() if n not in frozen}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards the module's weights; integer buffers are copied."""
        now = module.state_dict()
        for name, average in self.average.items():
            if average.dtype.is_floating_point:
                average.lerp_(now[name], 1 - self.decay)
            else:
                average.copy_(now[name])

    def whole(self, module: nn.Module) -> dict[str, Tensor]:
        """The module's state with the average in place of what moves; frozen weights by reference."""
        return {**module.state_dict(), **self.average}

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """The average as named tensors."""
        return {f"{prefix}.{name}": value for name, value in self.average.items()}

    def load(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        """Undo `tensors`."""
        self.average = {name: tensors[f"{prefix}.{name}"].to(old, copy=True) for name, old in self.average.items()}


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The same tensors, each name behind `prefix.`."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those tensors whose name starts with `prefix.`, without it."""
    start = f"{prefix}."
    return {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}
