"""A step of the tokenizer on given features, beside a textbook implementation of the same size, in one run.

    python benchmarks/tokenizer_step.py --out FILE.json [--shapes univla] [--versus lam.py:CLASS]

A step is the objective and its gradient, for AC3 with Psi also Psi's loss and its gradient; no optimiser, whose time
does not depend on the batch. The four steps take turns, and of each the best repeat counts. Every setting (threads,
precision) is written when it is done, and is not measured again where FILE.json holds it already.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from textbook import SHAPES, Shapes, TextbookTokenizer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pixel_unshuffle
from torch.utils.flop_counter import FlopCounterMode

from cyclemimic.evaluate.pages import this_machine
from cyclemimic.nn.batches import Features, PairBatch
from cyclemimic.store.atomic import read_json, write_json
from cyclemimic.tokenizer.buffer import LatentActionBuffer
from cyclemimic.tokenizer.decoders import FeatureDecoderConfig
from cyclemimic.tokenizer.discriminator import DiscriminatorConfig, build_critic
from cyclemimic.tokenizer.encoder import EncoderConfig
from cyclemimic.tokenizer.objective import ObjectiveConfig, Ramp, critic_loss, critic_shape, tokenizer_terms
from cyclemimic.tokenizer.quantizer import QuantizerConfig
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer, TokenizerConfig

Step = Callable[[], Tensor]
TARGETS = {"textbook_over_genie": 1.3, "ac3_over_genie": 1.55, "ac3_discriminator_over_genie": 2.0}


class GivenFeatures(nn.Module):
    """Stands in for a frozen backbone whose features are at hand: they travel as the pixels of the frames."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.width, self.grid = shapes.feature_width, (shapes.grid, shapes.grid)
        self.stride_px = round((shapes.feature_width / 3) ** 0.5)
        assert 3 * self.stride_px**2 == self.width

    def grid_for(self, size_px: int | tuple[int, int]) -> tuple[int, int]:
        """The grid, which is given too."""
        return self.grid

    def forward(self, frames: Tensor) -> Features:
        """[B, 3, H, W] -> [B, N, F]."""
        patches = pixel_unshuffle(frames, self.stride_px).flatten(2).transpose(1, 2)
        return Features(patches=patches.contiguous(), grid=self.grid)


def our_tokenizer(shapes: Shapes) -> LatentActionTokenizer:
    """E, codebook and D of the same sizes, over the same features."""
    backbone = GivenFeatures(shapes)
    sizes = {"width": shapes.width, "blocks": shapes.blocks, "heads": shapes.heads}
    config = TokenizerConfig(
        size_px=backbone.stride_px * shapes.grid,
        change="none",
        decoder="feature",
        encoder=EncoderConfig(num_tokens=shapes.num_tokens, code_width=shapes.code_width, **sizes),
        quantizer=QuantizerConfig(num_codes=shapes.num_codes),
        feature=FeatureDecoderConfig(**sizes),
    )
    return LatentActionTokenizer(config, backbone)


def our_step(
    tokenizer: LatentActionTokenizer, critic: nn.Module | None, batch: PairBatch, objective: str, cast: torch.autocast
) -> Step:
    """The gradient of every term at full weight, the cycle's half included; and Psi's own where there is one."""
    config = ObjectiveConfig(
        objective=objective,  # type: ignore[arg-type]
        cycle=Ramp(weight=0.1),
        realism=Ramp(weight=0.02),
        painted=0.0,
    )
    count, tokens = len(batch), tokenizer.config.encoder.num_tokens
    buffer = LatentActionBuffer(num_batches=4, batch_size=count, num_tokens=tokens).to(batch.now.device)
    modules = [tokenizer] if critic is None else [tokenizer, critic]

    def step() -> Tensor:
        for module in modules:
            module.zero_grad(set_to_none=True)
        with cast:
            terms = tokenizer_terms(tokenizer, critic, buffer, batch, config, 0.5, torch.Generator().manual_seed(0))
            total = terms.total
        total.backward()
        if critic is not None:
            assert terms.judged is not None
            with cast:
                loss = critic_loss(critic, terms.judged, config.adversarial)
            loss.backward()
        return total.detach()  # only looked at

    return step


def plain_step(model: nn.Module, features: Tensor, cast: torch.autocast) -> Step:
    """The gradient of the loss that a model gives for features [B, 2, N, F]."""

    def step() -> Tensor:
        model.zero_grad(set_to_none=True)
        with cast:
            loss: Tensor = model(features)
        loss.backward()
        return loss.detach()  # only looked at

    return step


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def flops_of(step: Step) -> int:
    """Of matrix products, a multiplication with its addition counted as two; attention spelt out, so that it counts."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    return int(counter.get_total_flops())


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside, torch computes with this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def ratios(steps: dict[str, dict[str, float]]) -> dict[str, float]:
    """What is told of a setting: each over its control."""
    seconds = {name: row["seconds"] for name, row in steps.items()}
    pairs = {
        "textbook_over_genie": ("textbook", "genie"),
        "genie_over_textbook": ("genie", "textbook"),
        "ac3_over_genie": ("ac3", "genie"),
        "ac3_discriminator_over_genie": ("ac3_discriminator", "genie"),
        "versus_over_textbook": ("versus", "textbook"),
        "versus_over_genie": ("versus", "genie"),
    }
    return {k: round(seconds[a] / seconds[b], 3) for k, (a, b) in pairs.items() if a in seconds and b in seconds}


def taking_turns(steps: dict[str, Step], device: str, repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds of each step, the least of its repeats; all warm up, then all run once, then again.

    Of one thread these are seconds of the process's own CPU time, which other programs hardly change; else the wall's.
    """
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            wait(device)
            began, began_wall = clock(), time.perf_counter()
            step()
            wait(device)
            if repeat:
                found[name].append((clock() - began, time.perf_counter() - began_wall))
    return {
        name: {
            "seconds": round(min(own for own, _ in both), 4),
            "wall_s": round(min(wall for _, wall in both), 4),
            "repeats": [round(own, 4) for own, _ in both],
        }
        for name, both in found.items()
    }


def matrix_ceiling(device: str, dtype: torch.dtype) -> float:
    """FLOP per second of one large matrix product, the best of some."""
    side = 8192 if device == "cuda" else 1024
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    product: Step = lambda: a @ b  # noqa: E731
    seconds: float = taking_turns({"product": product}, device, 6)["product"]["seconds"]
    return 2 * side**3 / max(seconds, 1e-9)


def settings(device: str, counts: list[int]) -> dict[str, tuple[int, torch.dtype | None]]:
    """Threads and type of each setting; bf16 only where the processor computes in it."""
    if device == "cuda":
        return {"fp32": (1, None), "bf16": (1, torch.bfloat16)}
    kinds: dict[str, torch.dtype | None] = {"fp32": None}
    if torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported():
        kinds["bf16"] = torch.bfloat16
    return {f"{k}, {n} thread{'s'[: n > 1]}": (n, dtype) for k, dtype in kinds.items() for n in counts}


def measure(
    *,
    shapes: str,
    batch: int,
    repeats: int,
    counts: list[int],
    device: str = "cpu",
    versus: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Every setting; with `out`, what is there already is kept and each new one is added to it."""
    sizes = SHAPES[shapes]
    what = {"shapes": shapes, **asdict(sizes), "batch": batch, "versus": versus, "device": device}
    what |= {"commit": this_machine().commit, "torch": torch.__version__}
    record: dict[str, Any] = {"what": what, "settings": {}}
    if out is not None and out.exists() and read_json(out).get("what") == what:
        record = read_json(out)
    torch.manual_seed(0)
    tokenizer = our_tokenizer(sizes).to(device).train()
    side = tokenizer.config.size_px
    now, later = torch.rand(2, batch, 3, side, side, device=device)
    pairs = PairBatch(now=now, later=later, body=torch.zeros(batch, dtype=torch.int64, device=device))
    features = torch.stack([tokenizer.see(frames).features.patches for frames in (now, later)], 1)  # type: ignore[union-attr]
    psi = DiscriminatorConfig(width=sizes.width, blocks=sizes.blocks, heads=sizes.heads)
    critic = build_critic(psi, critic_shape(tokenizer))
    assert critic is not None
    models: dict[str, nn.Module] = {"textbook": TextbookTokenizer(sizes).to(device)}
    critic.to(device)
    if versus is not None:
        from versus import public_model

        models["versus"] = public_model(versus, sizes).to(device)

    def steps(dtype: torch.dtype | None) -> dict[str, Step]:
        cast = torch.autocast(device, dtype=dtype, enabled=dtype is not None)
        return {name: plain_step(model, features, cast) for name, model in models.items()} | {
            "genie": our_step(tokenizer, None, pairs, "genie", cast),
            "ac3": our_step(tokenizer, None, pairs, "ac3", cast),
            "ac3_discriminator": our_step(tokenizer, critic, pairs, "ac3", cast),
        }

    if "flops" not in record:
        with threads(max(counts)):
            record["flops"] = {name: flops_of(step) for name, step in steps(None).items()}
        parameters = {name: sum(p.numel() for p in m.parameters()) for name, m in models.items()}
        record["parameters"] = {**parameters, "genie": sum(p.numel() for p in tokenizer.parameters())}
    for name, (count, dtype) in settings(device, counts).items():
        if name in record["settings"]:
            continue
        with threads(count):
            load = os.getloadavg()[0]
            rows = taking_turns(steps(dtype), device, repeats)
            ceiling = matrix_ceiling(device, dtype or torch.float32)
        of_ceiling = {n: record["flops"][n] / row["seconds"] / ceiling for n, row in rows.items()}
        for step_name, row in rows.items():
            row |= {"flops": record["flops"][step_name], "of_ceiling": round(of_ceiling[step_name], 3)}
        record["settings"][name] = {
            **rows, "ratio": ratios(rows), "ceiling_gflops": round(ceiling / 1e9, 1), "load": round(load, 2)
        }  # fmt: skip
        print(f"tokenizer step, {shapes} shapes, {name}: {record['settings'][name]['ratio']}", flush=True)
        if out is not None:
            write_json(out, record)
    first = next(iter(record["settings"].values()))
    return {**record, **first, "setting": next(iter(record["settings"])), "targets": TARGETS}


def main() -> None:
    """Measure and write one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shapes", choices=sorted(SHAPES), default="small")
    parser.add_argument("--blocks", type=int, help="another number of blocks than the shapes have")
    parser.add_argument("--batch", type=int, default=4, help="pairs; Psi judges half of them, so four at least")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--versus", help="FILE:CLASS of a public checkout, timed as it is")
    told = parser.parse_args()
    if told.blocks is not None:
        SHAPES[told.shapes] = replace(SHAPES[told.shapes], blocks=told.blocks)
    how = {"shapes": told.shapes, "batch": told.batch, "repeats": told.repeats, "counts": told.threads}
    found = measure(**how, device=told.device, versus=told.versus, out=told.out)
    write_json(told.out, found)
    print(told.out)


if __name__ == "__main__":
    main()
