"""What to say when a step does not fit into memory: the batch now, and the batch that would fit. Engineering."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cyclemimic.nn.collectives import num_processes
from cyclemimic.train.endings import OutOfMemoryError

_SIGNS = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "out of memory")
_KEPT_FREE = 0.05  # fragments and the libraries' own workspace


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Memory of a graphics card around a whole step: between steps, at its peak, and all there is."""

    resting_bytes: int
    peak_bytes: int
    capacity_bytes: int


def memory_use() -> MemoryUse | None:
    """What the steps so far have taken; None on a CPU, where the system does not tell."""
    if not (torch.cuda.is_available() and torch.cuda.memory_allocated()):
        return None
    return MemoryUse(
        resting_bytes=torch.cuda.memory_allocated(),
        peak_bytes=torch.cuda.max_memory_allocated(),
        capacity_bytes=torch.cuda.mem_get_info()[1],
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, numpy or a library of the graphics card could not get memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def batch_that_fits(batch: int, use: MemoryUse | None, count: int = 1) -> int:
    """Half of `batch`, and halved on until it fits if an earlier step was measured; at least 1 for each process.

    Args:
        batch: of all processes together.
        use: of the card of one process.
        count: how many processes share the batch.
    """
    rows = batch // count
    smaller = max(1, rows // 2)
    if use is not None:
        per_row = max(0, use.peak_bytes - use.resting_bytes) / rows
        room = use.capacity_bytes * (1 - _KEPT_FREE) - use.resting_bytes
        while smaller > 1 and per_row * smaller > room:
            smaller //= 2
    return smaller * count


def out_of_memory(name: str, step: int, batch: int, error: BaseException, use: MemoryUse | None) -> OutOfMemoryError:
    """The message."""
    words, count = str(error).strip() or type(error).__name__, num_processes()
    if batch <= count:
        advice = (
            "There is one sample a process already: take a smaller network or picture, or a machine with more memory"
        )
    else:
        how = "a guess, since no step was measured" if use is None else "by the memory that earlier steps took"
        fits = batch_that_fits(batch, use, count)
        advice = f"A batch of {fits} should fit ({how}); it makes another run, so name another --run"
    return OutOfMemoryError(
        f"{name}, step {step}: a batch of {batch} does not fit into memory ({words.splitlines()[0][:200]})."
        f" {advice}. The last checkpoint is whole."
    )
