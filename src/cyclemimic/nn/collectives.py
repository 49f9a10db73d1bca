"""Sums and means over all processes of a run; with one process each function is the identity. Engineering.

A run on W processes computes what one process computes: every process draws the same numbers for the whole batch and
works on its own rows; what a loss needs of the whole batch (statistics, counts) comes from here, with its gradient;
gradients are averaged once a step. The loss on every process is a mean over its own rows, so that the mean over the
processes is the loss of the whole batch.

Letters in shapes: B rows of the whole batch, b = B / W rows of this process.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from cyclemimic.errors import InputError


def num_processes() -> int:
    """W."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_number() -> int:
    """The number of this process, 0 .. W - 1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def my_rows(batch_size: int) -> slice:
    """The rows of a batch of B that this process works on, contiguous, equally many on every process.

    Raises:
        InputError: B is no multiple of W.
    """
    count = num_processes()
    if batch_size % count:
        raise InputError(
            "batch_size",
            expected=f"a multiple of the {count} processes",
            got=str(batch_size),
            remedy="Change the batch size, or start another number of processes.",
        )
    share = batch_size // count
    return slice(process_number() * share, (process_number() + 1) * share)


def global_sum(x: Tensor) -> Tensor:
    """The sum of `x` over all processes; differentiable: every process's loss teaches every process's `x`."""
    if num_processes() == 1:
        return x
    from torch.distributed.nn.functional import all_reduce

    total: Tensor = all_reduce(x.contiguous())
    return total


def global_mean(x: Tensor) -> Tensor:
    """The mean of `x` over all processes; differentiable."""
    return global_sum(x) / num_processes()


@torch.no_grad()
def all_rows(x: Tensor) -> Tensor:
    """The rows [B, ...] of every process in their order, from this process's [b, ...]; carries no gradient."""
    if num_processes() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(num_processes())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over all processes, in one message for each dtype."""
    if num_processes() == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is None:  # unused here, perhaps used elsewhere: all processes must send alike
            parameter.grad = torch.zeros_like(parameter)
        by_dtype.setdefault(parameter.dtype, []).append(parameter.grad)
    for gradients in by_dtype.values():
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= num_processes()
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
