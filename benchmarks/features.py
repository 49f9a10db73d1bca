"""A step of the tokenizer whose frozen backbone sees every frame, beside one that reads kept features; in one run.

    python benchmarks/features.py [--size-px 224] [--batch 4] [--steps 3] [--device cuda]

The backbone has the sizes of DINOv2-S/14 and random weights; the frames are noise. A step is the stage's own: reading,
every term of the objective, its gradient, the optimisers. Steps take turns, and of each the best counts; on one thread
of a CPU in seconds of the process's own time. Prints one line per objective, and what the features cost to make.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cyclemimic.data.loader import PairLoader
from cyclemimic.nn.pretrained import PretrainedBackbone
from cyclemimic.nn.vision import BackboneConfig
from cyclemimic.nn.vit_families import Architecture, VitSize
from cyclemimic.store.feature_cache import FeatureCache
from cyclemimic.store.feature_rows import StoredAs
from cyclemimic.store.frame_cache import CacheRecipe, FrameCache, FrameCacheWriter
from cyclemimic.tokenizer.decoders import FeatureDecoderConfig, PixelDecoderConfig
from cyclemimic.tokenizer.discriminator import DiscriminatorConfig
from cyclemimic.tokenizer.encoder import EncoderConfig
from cyclemimic.tokenizer.objective import ObjectiveConfig, Ramp
from cyclemimic.tokenizer.tokenizer import TokenizerConfig
from cyclemimic.train.features import build_features, feature_recipe
from cyclemimic.train.stage1_tokenizer import TokenizerStage, TokenizerTraining
from cyclemimic.types import ClipInfo

SMALL = Architecture(family="dinov2", size=VitSize(width=384, layers=12, heads=6, mlp_width=1536), native_px=518)
BACKBONE = BackboneConfig(kind="pretrained", name="random DINOv2-S/14", trainable=False)
CLIP_FRAMES, GAP_FRAMES = 24, 3
OBJECTIVES = {"genie": "pixel", "ac3": "pixel", "univla": "feature"}  # and its decoder


def frames_of_noise(folder: Path, size_px: int) -> FrameCache:
    """Two clips."""
    rng, recipe = np.random.default_rng(0), CacheRecipe(source_hash="noise", size_px=size_px, resampler="none")
    with FrameCacheWriter(folder, recipe) as writer:
        for name in "ab":
            frames = rng.integers(0, 256, (CLIP_FRAMES, size_px, size_px, 3), np.uint8)
            writer.add(ClipInfo(name=name, embodiment=name, fps=5.0, num_frames=CLIP_FRAMES), frames)
        writer.finish()
    return FrameCache.open(folder)


def stage_of(
    objective: str, cache: FrameCache, features: Sequence[FeatureCache], backbone: nn.Module, batch: int, device: str
) -> TokenizerStage:
    """E and D of four blocks, 384 wide, with every term on from the first step."""
    sizes = {"width": 384, "blocks": 4, "heads": 6}
    tokenizer = TokenizerConfig(
        size_px=cache.size_px,
        change="features",
        decoder=OBJECTIVES[objective],
        backbone=BACKBONE,
        encoder=EncoderConfig(num_tokens=4, code_width=128, **sizes),
        pixel=PixelDecoderConfig(stride_px=16, **sizes),
        feature=FeatureDecoderConfig(**sizes),
    )
    terms = ObjectiveConfig(
        objective=objective,  # type: ignore[arg-type]
        cycle=Ramp(weight=0.1),
        realism=Ramp(weight=0.02),
    )
    config = TokenizerTraining(
        tokenizer=tokenizer,
        objective=replace(terms, groups=1),
        discriminator=DiscriminatorConfig(stride_px=16, **sizes),
        batch_size=batch,
        gradient_norms_every=10**6,
        device=device,
    )
    loader = PairLoader([cache], GAP_FRAMES / 5, batch_size=batch, features=features)
    return TokenizerStage(config, loader, backbone)


def seconds(stage: TokenizerStage, step: int) -> float:
    """Of one step: of the process alone on one thread of a CPU, else of the wall."""
    cuda = stage.device.type == "cuda"
    clock = time.perf_counter if cuda or torch.get_num_threads() > 1 else time.process_time
    if cuda:
        torch.cuda.synchronize()
    began_s = clock()
    stage.step(step)
    if cuda:
        torch.cuda.synchronize()
    return clock() - began_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-px", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4, help="pairs; Psi judges half of them, so four at least")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--stored-as", choices=("float16", "int8"), default="float16")
    parser.add_argument("--objectives", nargs="+", choices=sorted(OBJECTIVES), default=list(OBJECTIVES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    torch.manual_seed(0)
    backbone = PretrainedBackbone.random(SMALL).to(told.device)
    stored_as: StoredAs = told.stored_as
    with tempfile.TemporaryDirectory() as folder:
        cache = frames_of_noise(Path(folder) / "frames", told.size_px)
        recipe = feature_recipe(cache, backbone, BACKBONE, stored_as)
        began_s = time.perf_counter()
        kept = build_features(cache, backbone, recipe, Path(folder) / "features", device=told.device)
        each_s = (time.perf_counter() - began_s) / len(kept)
        print(
            f"features: {recipe.frame_bytes / 1e3:.0f} kB and {1e3 * each_s:.0f} ms of the wall per frame, {stored_as}"
        )
        for objective in told.objectives:
            stages = [stage_of(objective, cache, f, backbone, told.batch, told.device) for f in ((), (kept,))]
            found = [[seconds(stage, step) for stage in stages] for step in range(told.steps + 1)][1:]
            computed_s, read_s = (min(column) for column in zip(*found, strict=True))
            ratio = f"{read_s / computed_s:.2f} of it"
            print(
                f"{objective}: a step {computed_s:.2f} s computed, {read_s:.2f} s from kept features, {ratio}",
                flush=True,
            )


if __name__ == "__main__":
    main()
