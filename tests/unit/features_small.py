"""A cache of noise, a frozen tokenizer and the features of both, for the tests of kept features."""

from dataclasses import replace

import numpy as np
import torch

from cyclemimic.data.loader import PairLoader
from cyclemimic.nn.batches import Features
from cyclemimic.nn.vision import BackboneConfig, ConvStem
from cyclemimic.store.frame_cache import CacheRecipe, FrameCache, FrameCacheWriter
from cyclemimic.tokenizer.discriminator import DiscriminatorConfig
from cyclemimic.tokenizer.objective import ObjectiveConfig, Ramp
from cyclemimic.train.features import build_features, feature_recipe
from cyclemimic.train.stage1_tokenizer import TokenizerStage, TokenizerTraining
from cyclemimic.types import ClipInfo
from tests.paper.small import SIZE_PX, TOKENS, small_config

LENGTHS, GAP_S, BATCH = (13, 9, 3, 19), 0.6, 8
COUNTING = BackboneConfig(kind="tests.unit.features_small:Counting", width=24, trainable=False)
ON = Ramp(weight=0.1)
CRITIC = DiscriminatorConfig(width=16, blocks=1, heads=2)
FURTHER = dict.fromkeys(("composition", "reversal", "reader"), 0.1)
KINDS = {  # objective, sizes
    "genie": (ObjectiveConfig(objective="genie"), {"decoder": "motion"}),
    "ac3": (ObjectiveConfig(objective="ac3", cycle=ON, realism=ON), {"decoder": "motion"}),
    "ac3, pixel, every term": (ObjectiveConfig(objective="ac3", cycle=ON, realism=ON, **FURTHER), {"decoder": "pixel"}),
    "ac3, feature": (
        ObjectiveConfig(objective="ac3", cycle=ON, realism=ON, painted=0.0),
        {"decoder": "feature", "change": "features"},
    ),
    "univla": (
        ObjectiveConfig(objective="univla", painted=0.0),
        {"decoder": "feature", "change": "features", "given_tokens": TOKENS},
    ),
}


class Counting(ConvStem):
    """A backbone from outside that remembers the frames that it saw. It sees each alone, so that batches of other sizes
    give the same bits.
    """

    def __init__(self, config):
        super().__init__(config.width, config.stride_px)
        self.seen = []

    def forward(self, frames):
        self.seen += list(frames.detach().clone())
        each = [super(Counting, self).forward(frame[None]) for frame in frames]
        return Features(patches=torch.cat([found.patches for found in each]), grid=each[0].grid)


def cache_of_noise(folder, source_hash="abc", seed=0, lengths=LENGTHS, size_px=SIZE_PX):
    """Clips whose frames all differ."""
    rng = np.random.default_rng(seed)
    recipe = CacheRecipe(source_hash=source_hash, size_px=size_px, resampler="none")
    with FrameCacheWriter(folder, recipe) as writer:
        for i, count in enumerate(lengths):
            frames = rng.integers(0, 256, (count, size_px, size_px, 3), np.uint8)
            writer.add(ClipInfo(name=f"arm/{i}", embodiment=f"arm{i % 2}", fps=5.0, num_frames=count), frames)
        writer.finish()
    return FrameCache.open(folder)


def kept(cache, tokenizer, folder, stored_as="float32", **words):
    """The features of a cache's frames."""
    recipe = feature_recipe(cache, tokenizer.backbone, tokenizer.config.backbone, stored_as)
    return build_features(cache, tokenizer.backbone, recipe, folder, **words)


def stage(kind, cache, **changes):
    """A stage on a frozen backbone that counts; the same for the same arguments."""
    objective, sizes = KINDS[kind]
    config = TokenizerTraining(
        tokenizer=small_config(backbone=COUNTING, **sizes),
        objective=replace(objective, groups=2),
        discriminator=CRITIC,
        batch_size=BATCH,
        steps=7,
        warmup=2,
        gradient_norms_every=2,
    )
    loader = PairLoader([cache], GAP_S, batch_size=BATCH, triplets=bool(objective.composition), **changes)
    return TokenizerStage(config, loader)


def real_among(frames, cache):
    """Which of the frames that a backbone saw are frames of the cache."""
    real = {frame.tobytes() for frame in np.array(cache.frames)}
    bytes_of = ((f * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy().tobytes() for f in frames)
    return [found in real for found in bytes_of]
