"""Sums and means over all processes of a run; with one process each function is the identity. Engineering.

A run on W processes computes what one process computes: every process draws the same numbers for the whole batch and
works on its own rows; what a loss needs of the whole batch (statistics, counts) comes from here, with its gradient;
gradients are averaged once a step. The loss on every process is a mean over its own rows, so that the mean over the
processes is the loss of the whole batch.

Letters in shapes: B rows of the whole batch, b = B / W rows of this process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cyclemimic.errors import InputError

_MESSAGE_BYTES = 64 << 20  # gradients travel in pieces: a copy of all of them at once would double their memory


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
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return total


def global_mean(x: Tensor) -> Tensor:
    """The mean of `x` over all processes; differentiable."""
    return global_sum(x) / num_processes()


@torch.no_grad()
def all_rows(x: Tensor) -> Tensor:
    """The rows [B, ...] of every process in their order, from this process's [b, ...]; nobody gets a gradient by it."""
    if num_processes() == 1:
        return x
    mine = x.contiguous()
    parts = [torch.empty_like(mine) for _ in range(num_processes())]
    dist.all_gather(parts, mine)
    return torch.cat(parts)


def highest(values: Sequence[int], group: dist.ProcessGroup | None = None) -> list[int]:
    """Each of `values` as its maximum over all processes: what one of them knows, all know."""
    if num_processes() == 1:
        return list(values)
    shared = torch.tensor(values, dtype=torch.int64, device=_message_device())
    dist.all_reduce(shared, dist.ReduceOp.MAX, group)
    found: list[int] = shared.tolist()
    return found


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over all processes. What no process used keeps none, as on one process."""
    if num_processes() == 1:
        return
    held = list(parameters)
    used = highest([int(p.grad is not None) for p in held])
    gradients = []
    for parameter, somewhere in zip(held, used, strict=True):
        if somewhere:
            if parameter.grad is None:  # unused here, used elsewhere: all processes must send alike
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    for piece in _pieces(gradients):
        flat = torch.cat([g.flatten() for g in piece])
        dist.all_reduce(flat)
        flat /= num_processes()
        for gradient, part in zip(piece, flat.split([g.numel() for g in piece]), strict=True):
            gradient.copy_(part.view_as(gradient))


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of what all processes ask for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone(memory_format=torch.contiguous_format)  # a copy to add into; autograd is this class
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def _pieces(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The gradients in their order, cut into runs of one type that are not too large for one message."""
    piece: list[Tensor] = []
    for gradient in gradients:
        alike = not piece or (gradient.dtype, gradient.device) == (piece[0].dtype, piece[0].device)
        if piece and (not alike or sum(g.nbytes for g in piece) + gradient.nbytes > _MESSAGE_BYTES):
            yield piece
            piece = []
        piece.append(gradient)
    if piece:
        yield piece


def _message_device() -> torch.device:
    """Where small messages lie: in main memory if any backend takes them there."""
    only_cuda = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if only_cuda else torch.device("cpu")
