"""From frame pairs to latent actions: train a tokenizer for some seconds and act a code out on every body.

    python examples/02_latent_actions.py [FOLDER]

A few hundred steps name little more than left and right; `cyclemimic tokenizer` trains for thousands.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cyclemimic.data.loader import PairLoader
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.writers.film import film
from cyclemimic.evaluate.sheets import picture_grid
from cyclemimic.nn.batches import pixels
from cyclemimic.recipes.footage import cached
from cyclemimic.recipes.stations import run_tokenizer
from cyclemimic.recipes.tiny import tiny
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.types import Task
from cyclemimic.worlds.drawn import DrawnWorld

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
world = DrawnWorld()
tasks = [
    Task(body=body, skill=skill, seed=seed) for body in world.bodies for skill in world.skills for seed in range(4)
]
film(world, tasks, folder / "film", keep_actions=False)
source = FolderSource(folder / "film/video")

# Reconstruction first, then AC3 on top of it: both in one run, AC3 within its last quarter.
config = replace(tiny().in_one_run("ac3"), steps=80, batch_size=16, warmup=10)
run = run_tokenizer(source, config, folder / "tokenizer", cache_root=folder / "cache", trunk=None)
tokenizer = LatentActionTokenizer.load(run)

# The encoder names what happened between two frames ...
cache = cached(source, tokenizer.config.size_px, folder / "cache")
batch = PairLoader([cache], config.gap_s, batch_size=128).batch(step=0)
codes, _ = tokenizer.label(pixels(batch.now), pixels(batch.later))
found, counts = codes.unique(dim=0, return_counts=True)
acted = found[counts.argsort(descending=True)[:4]]
print(f"{len(found)} latent actions in 128 pairs; the most frequent: {acted.tolist()}")

# ... and the decoder acts the name out on whatever stands before it: here on the first frame of every body.
first = {clip.embodiment: cache.clip_frames(i)[0] for i, clip in reversed(list(enumerate(cache.clips)))}
now = pixels(np.stack([first[body] for body in cache.embodiments]))
with torch.no_grad():
    rows = [now, *(tokenizer.act_out(now, code.expand(len(now), -1)).clamp(0, 1) for code in acted)]
pictures = [(row * 255).byte().permute(0, 2, 3, 1).numpy() for row in rows]
captions = ["now", *(f"code {' '.join(map(str, code))}" for code in acted.tolist())]
sheet = folder / "acted-out.png"
sheet.write_bytes(picture_grid(pictures, captions=captions))
print(f"look at {sheet}")
