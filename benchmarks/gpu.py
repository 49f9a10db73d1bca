"""The training steps on a GPU, in fp32 and under bf16 autocast, on random tensors.

`make bench-gpu`, or: python benchmarks/gpu.py --out FILE.json. It needs torch, transformers and safetensors and neither
video, nor a world, nor the command line's parser. Where there is no GPU it says so, writes {"gpu": null} and ends well.
With --device cpu it runs the small sizes once, to see that it works.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cyclemimic.nn.batches import PairBatch
from cyclemimic.nn.vision import BackboneConfig
from cyclemimic.policy.network import NetworkConfig
from cyclemimic.policy.prismatic import PrismaticConfig
from cyclemimic.tokenizer.buffer import LatentActionBuffer
from cyclemimic.tokenizer.decoders import PixelDecoderConfig
from cyclemimic.tokenizer.discriminator import CriticShape, Discriminator, DiscriminatorConfig
from cyclemimic.tokenizer.encoder import EncoderConfig
from cyclemimic.tokenizer.objective import ObjectiveConfig, Ramp, critic_loss, tokenizer_terms
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer, TokenizerConfig
from cyclemimic.train.optim import adamw, update
from cyclemimic.train.stage2_pretrain import PretrainConfig, PretrainData, PretrainStage

Step = Callable[[int], object]

# name -> tokenizer, critic, pairs in a batch
TOKENIZERS: dict[str, tuple[TokenizerConfig, DiscriminatorConfig, int]] = {
    "tiny": (TokenizerConfig(), DiscriminatorConfig(), 32),
    "tiny, large batch": (TokenizerConfig(), DiscriminatorConfig(), 512),
    "twelve blocks": (
        TokenizerConfig(
            size_px=64,
            backbone=BackboneConfig(width=192),
            decoder="pixel",
            encoder=EncoderConfig(width=384, blocks=12, heads=6, num_tokens=4, code_width=32),
            pixel=PixelDecoderConfig(width=384, blocks=12, heads=6),
        ),
        DiscriminatorConfig(width=384, blocks=12, heads=6),
        128,
    ),
}
POLICIES: dict[str, tuple[NetworkConfig, int]] = {
    "tiny": (NetworkConfig(), 16),
    "tiny, large batch": (NetworkConfig(), 512),
    "twelve layers": (
        NetworkConfig(backbone=PrismaticConfig(width=768, layers=12, heads=12, mlp_width=3072)),
        128,
    ),
}
PRECISIONS = {"fp32": None, "bf16 autocast": torch.bfloat16}


def random_pairs(config: TokenizerConfig, count: int, device: str) -> PairBatch:
    """Noise, and the same noise a little changed."""
    now = torch.rand(count, 3, config.size_px, config.size_px, device=device)
    later = (now + 0.1 * torch.randn_like(now)).clamp(0, 1)
    return PairBatch(now=now, later=later, body=torch.zeros(count, dtype=torch.int64, device=device))


def tokenizer_step(name: str, objective: str, device: str, dtype: torch.dtype | None) -> tuple[Step, int]:
    """One update of E, codebook and D, and for AC3 one of Psi, as stage 1 does them; every term is on."""
    config, critic_config, count = TOKENIZERS[name]
    always = {"cycle": Ramp(weight=0.1), "realism": Ramp(weight=0.02)}
    terms_config = replace(ObjectiveConfig(**always), objective=objective)
    tokenizer = LatentActionTokenizer(config).to(device).train()
    optimizer = adamw(tokenizer, learning_rate=1e-3, weight_decay=0.01)
    critic = buffer = critic_optimizer = None
    if objective == "ac3":
        critic = Discriminator(critic_config, CriticShape(size_px=config.size_px)).to(device)
        critic_optimizer = adamw(critic, learning_rate=5e-4, weight_decay=0.0)
        buffer = LatentActionBuffer(num_batches=4, batch_size=count, num_tokens=config.encoder.num_tokens).to(device)
    batch = random_pairs(config, count, device)

    def step(number: int) -> Tensor:
        generator = torch.Generator().manual_seed(number)
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            terms = tokenizer_terms(tokenizer, critic, buffer, batch, terms_config, 0.5, generator)
            total = terms.total
        norm = update(optimizer, total, clip_norm=1.0)
        reset = tokenizer.quantizer.follow(terms.latent, generator)
        if critic is not None and buffer is not None and critic_optimizer is not None:
            buffer.forget(reset)
            with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
                loss = critic_loss(critic, terms.judged, terms_config.adversarial)
            update(critic_optimizer, loss, clip_norm=1.0)
        return norm

    return step, count


def pretrain_step(name: str, device: str, dtype: torch.dtype | None) -> tuple[Step, int]:
    """One update of the latent policy, drawing the batch included."""
    network, count = POLICIES[name]
    side, moments = network.backbone.image_px, 256
    rng = np.random.default_rng(0)
    data = PretrainData(
        images=(rng.integers(0, 256, (moments, side, side, 3), np.uint8),),
        cache=np.zeros(moments, np.int64),
        frame=np.arange(moments),
        sentence=np.zeros(moments, np.int64),
        codes=rng.integers(0, 16, (moments, 4)),
        body=np.zeros(moments, np.int64),
        clip=np.zeros(moments, np.int64),
        ends=np.full((1, network.head.end_cells), 1 / network.head.end_cells, np.float32),
        sentences=("push the red cube left",),
        bodies=("arm",),
        num_codes=16,
    )
    stage = PretrainStage(PretrainConfig(network=network, batch=count), data, device=device)

    def step(number: int) -> object:
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            return stage.step(number)

    return step, count


def timed(step: Step, count: int, device: str, *, warm: int, steps: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of a step: the median of repeats, each waited for."""
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for number in range(warm):
        step(number)
    each = []
    for repeat in range(repeats):
        wait()
        began = time.perf_counter()
        for number in range(steps):
            step(warm + repeat * steps + number)
        wait()
        each.append(1000 * (time.perf_counter() - began) / steps)
    middle = statistics.median(each)
    return {
        "step_ms": round(middle, 3),
        "samples_per_s": round(1000 * count / middle, 1),
        "repeats_ms": [round(value, 3) for value in each],
        "batch": count,
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 3) if device == "cuda" else None,
    }


def all_numbers(device: str, **how: int) -> dict[str, Any]:
    """Every step in every precision; a step that a precision cannot do says why."""
    small = device != "cuda"
    makers: dict[str, Callable[[torch.dtype | None], tuple[Step, int]]] = {}
    for name in ["tiny"] if small else TOKENIZERS:
        for objective in ("genie", "ac3"):
            makers[f"tokenizer {objective}, {name}"] = lambda d, n=name, o=objective: tokenizer_step(n, o, device, d)
    for name in ["tiny"] if small else POLICIES:
        makers[f"pretrain, {name}"] = lambda d, n=name: pretrain_step(n, device, d)
    found: dict[str, Any] = {}
    for what, make in makers.items():
        for precision, dtype in PRECISIONS.items():
            torch.manual_seed(0)
            try:
                step, count = make(dtype)
                row = timed(step, count, device, **how)
            except RuntimeError as error:
                row = {"failed": str(error).splitlines()[0]}
            found.setdefault(what, {})[precision] = row
            print(f"{what:36} {precision:14} {row.get('step_ms', row.get('failed'))}", flush=True)
    return found


def commit() -> str | None:
    """The commit, where git knows one."""
    try:
        words = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def main() -> None:
    """Measure, or say that there is nothing to measure on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    told = parser.parse_args()
    here = {"commit": commit(), "torch": torch.__version__, "python": platform.python_version()}
    record: dict[str, Any] = {"gpu": None, **here}
    if told.device == "cpu":
        record |= {"device": "cpu", "steps": all_numbers("cpu", warm=1, steps=1, repeats=1)}
    elif torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        record["gpu"] = {"name": properties.name, "memory_gb": round(properties.total_memory / 1e9, 1)}
        record |= {"cuda": torch.version.cuda, "steps": all_numbers("cuda", warm=10, steps=20, repeats=5)}
    else:
        print("There is no GPU here; nothing was measured.")
    told.out.parent.mkdir(parents=True, exist_ok=True)
    told.out.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    print(told.out)


if __name__ == "__main__":
    main()
