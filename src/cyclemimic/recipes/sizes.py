"""How big a recipe is before it runs: parameters, memory, and the work of one forward pass, on the meta device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

FP32_BYTES, BF16_BYTES = 4, 2
ADAM_MOMENTS = 2
ELSEWHERE = "elsewhere"


@dataclass(frozen=True, kw_only=True)
class PartSizes:
    """Sizes of one part.

    Args:
        trainable: parameters that get a gradient.
        frozen: parameters that get none.
        buffers: numbers of other tensors, such as a codebook that follows a moving average.
        flops: of one forward pass, a multiplication with its addition counted as two; None where none was run.
    """

    name: str
    trainable: int
    frozen: int
    buffers: int
    flops: int | None

    def weight_bytes(self, number_bytes: int = FP32_BYTES) -> int:
        """Parameters and buffers."""
        return number_bytes * (self.trainable + self.frozen + self.buffers)

    def gradient_bytes(self, number_bytes: int = FP32_BYTES) -> int:
        """One number for each trainable parameter."""
        return number_bytes * self.trainable

    def optimizer_bytes(self, number_bytes: int = FP32_BYTES) -> int:
        """Both moments of Adam for each trainable parameter."""
        return ADAM_MOMENTS * number_bytes * self.trainable


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of every part. Activations are not among them: they depend on the batch and on what is kept."""

    parts: tuple[PartSizes, ...]

    @property
    def total(self) -> PartSizes:
        """The sum over parts."""
        flops = [p.flops for p in self.parts if p.flops is not None]
        return PartSizes(
            name="total",
            trainable=sum(p.trainable for p in self.parts),
            frozen=sum(p.frozen for p in self.parts),
            buffers=sum(p.buffers for p in self.parts),
            flops=sum(flops) if flops else None,
        )

    def text(self) -> str:
        """A table for the terminal: millions of parameters, GFLOP of a forward pass, MB in fp32 and in bf16."""
        head = ("part", "trainable M", "frozen M", "GFLOP", "weights MB", "gradients MB", "optimizer MB")
        rows = [head, *(_row(part) for part in (*self.parts, self.total))]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        return "\n".join([*lines, "MB: fp32 / bf16; the optimizer is Adam. Activations come on top."])


def sizes_of(parts: Mapping[str, nn.Module], forward: Callable[[], object] | None) -> Sizes:
    """Count what the parts hold, and what `forward` computes in each of them.

    Build the parts and the inputs of `forward` under `torch.device("meta")`: nothing is allocated then, and attention
    counts too, which the fused kernel of a CPU hides. Only matrix products, convolutions and attention are counted.
    What is computed outside every part's modules comes under "elsewhere".

    Args:
        parts: modules by name; a parameter that two of them share counts where it comes first.
        forward: runs one forward pass; None leaves the work uncounted.
    """
    flops = {} if forward is None else _flops_of(parts, forward)
    seen: set[int] = set()
    rows = []
    for name, module in parts.items():
        parameters = [p for p in module.parameters() if id(p) not in seen]
        buffers = [b for b in module.buffers() if id(b) not in seen]
        seen.update(id(t) for t in (*parameters, *buffers))
        rows.append(
            PartSizes(
                name=name,
                trainable=sum(p.numel() for p in parameters if p.requires_grad),
                frozen=sum(p.numel() for p in parameters if not p.requires_grad),
                buffers=sum(b.numel() for b in buffers),
                flops=None if forward is None else flops[name],
            )
        )
    if flops.get(ELSEWHERE):
        rows.append(PartSizes(name=ELSEWHERE, trainable=0, frozen=0, buffers=0, flops=flops[ELSEWHERE]))
    return Sizes(parts=tuple(rows))


def _flops_of(parts: Mapping[str, nn.Module], forward: Callable[[], object]) -> Counter[str]:
    """What `forward` computes, by the part whose module was entered last and not yet left.

    A part may be run through methods of its own, so every module of it is watched, not only the part itself.
    """
    counter = FlopCounterMode(display=False)
    found: Counter[str] = Counter()
    entered = [ELSEWHERE]

    def settle() -> None:
        found[entered[-1]] += counter.get_total_flops() - found.total()

    def enter(name: str) -> None:
        settle()
        entered.append(name)

    def leave(*_: object) -> None:
        settle()
        entered.pop()

    owner: dict[nn.Module, str] = {}
    for name, part in parts.items():
        for module in part.modules():
            owner.setdefault(module, name)
    with ExitStack() as stack:
        for module, name in owner.items():
            stack.callback(module.register_forward_pre_hook(lambda *_, name=name: enter(name)).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        with counter:
            forward()
        settle()
    return found


def _row(part: PartSizes) -> tuple[str, ...]:
    def both(fp32: int, bf16: int) -> str:
        return f"{fp32 / 1e6:.1f} / {bf16 / 1e6:.1f}"

    return (
        part.name,
        f"{part.trainable / 1e6:.3f}",
        f"{part.frozen / 1e6:.3f}",
        "-" if part.flops is None else f"{part.flops / 1e9:.3f}",
        both(part.weight_bytes(FP32_BYTES), part.weight_bytes(BF16_BYTES)),
        both(part.gradient_bytes(FP32_BYTES), part.gradient_bytes(BF16_BYTES)),
        both(part.optimizer_bytes(FP32_BYTES), part.optimizer_bytes(BF16_BYTES)),
    )
