"""One run on several processes, as `torchrun` starts them: joining, waiting for one another, and ending together.

    torchrun --nproc-per-node 2 -m -- cyclemimic.cli pretrain --run runs/pretrained ...

(Without the `--` torchrun takes `--run` for an option of its own, even behind the program's name.) Process 0 alone
writes and speaks. All processes must see the same run folder. The numbers are those of one process
(nn/collectives.py) up to rounding, and a run may go on with another number of processes. Engineering.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from cyclemimic.errors import InputError
from cyclemimic.nn.collectives import highest, num_processes, process_number
from cyclemimic.train.endings import DivergedError, ProcessLostError

TIMEOUT = "CYCLEMIMIC_TIMEOUT_S"  # environment: how long a process that does not answer is waited for
TIMEOUT_S = 600.0
_PATIENCE = timedelta(days=14)  # while one process decodes or writes, the others wait as long as it lives

_patient: list[dist.ProcessGroup] = []


@contextmanager
def processes(*, timeout_s: float | None = None) -> Iterator[None]:
    """Join the processes that torchrun started with this one, if it did; leave them behind the block.

    Within another such block it does nothing. Only process 0 prints to stdout; all may write to stderr.

    Args:
        timeout_s: how long to wait in a step for a process that does not answer; a dead one is noticed at once.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1 or num_processes() > 1:
        yield
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(
            "WORLD_SIZE",
            expected="the environment that torchrun gives its processes",
            got=f"no {', '.join(missing)}",
            remedy="Start with torchrun, or unset WORLD_SIZE.",
        )
    both = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    seconds = _timeout_s() if timeout_s is None else timeout_s
    dist.init_process_group(both, timeout=timedelta(seconds=seconds))
    _patient.append(dist.new_group(backend="gloo", timeout=_PATIENCE))
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stdout if is_first() else nowhere):  # noqa: PTH123
            yield
    except RuntimeError as error:
        if is_lost(error):
            raise lost() from error
        raise
    finally:
        _patient.clear()
        dist.destroy_process_group()


def is_first() -> bool:
    """Whether this is process 0, which writes and speaks for all."""
    return process_number() == 0


def local_device(device: str) -> str:
    """The device of this process: `cuda` is the graphics card of its number on this machine.

    Raises:
        InputError: a graphics card is asked for, and torch finds none.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            "--device",
            expected="a machine with a GPU that torch can use",
            got=f"{device} on one without",
            remedy="Say --device cpu --precision fp32: it is the same code, slower.",
        )
    if device != "cuda" or num_processes() == 1:
        return device
    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    torch.cuda.set_device(own)
    return own


@contextmanager
def together() -> Iterator[bool]:
    """A block behind which all processes wait for one another; it gives True on process 0, to let that one write.

    Raises:
        ProcessLostError: the block failed on another process, which says why.
    """
    if num_processes() == 1:
        yield True
        return
    group = _patient[0] if _patient else None
    try:
        yield is_first()
    except BaseException:
        with suppress(RuntimeError):  # tell the others, if they still live; then go on with the error
            highest([1], group)
        raise
    if highest([0], group) != [0]:
        raise ProcessLostError("Another process of this run stopped; its message says why.")


def require_agreement(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise DivergedError unless all processes hold the same bits; names the first tensor that differs."""
    if num_processes() == 1:
        return
    names = sorted(tensors)
    sums = [zlib.crc32(_bits(tensors[name])) for name in names]
    most = highest([*sums, *(-s for s in sums)])  # maxima and, of the negated, minima
    differing = [n for i, n in enumerate(names) if most[i] != -most[len(names) + i]]
    if differing:
        raise DivergedError(
            f"{where}: {len(differing)} of {len(names)} tensors differ between the processes, first {differing[0]!r}."
            " No checkpoint was written. Every process must draw the same numbers and run the same versions on the"
            " same kind of machine; the last checkpoint is whole."
        )


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another process is gone or does not answer; gloo has no class of its own for it."""
    lost_class = isinstance(error, (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError))
    return lost_class or (type(error) is RuntimeError and num_processes() > 1 and "gloo" in str(error).lower())


def lost(where: str = "", kept: str = "What lies on disk is whole") -> ProcessLostError:
    """What to say when another process is gone; `where` that was noticed, and what is `kept`."""
    return ProcessLostError(
        f"{where}another of the {num_processes()} processes died or does not answer, so process {process_number()} ends"
        f" too; see what the other one said. {kept}. The same command goes on from there. ({TIMEOUT} says how long a"
        " silent process is waited for.)"
    )


def _bits(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten()  # only looked at: no gradient is meant to pass
    return memoryview(flat.view(torch.uint8).numpy() if flat.numel() else b"")  # type: ignore[arg-type]


def _timeout_s() -> float:
    text = os.environ.get(TIMEOUT, str(TIMEOUT_S))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise InputError(TIMEOUT, expected="seconds above 0", got=repr(text), remedy="Set it to 600, or unset it.")
    return seconds
