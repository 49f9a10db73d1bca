"""One of W processes that learn from kept features: a few steps, and what came of them, as tensors in a file."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from cyclemimic.nn import collectives
from cyclemimic.store.weights import save_tensors
from tests.unit.features_small import cache_of_noise, kept, stage

TERMS = ("reconstruction", "commitment", "cycle", "discriminator", "critic")


def steps(folder):
    """Losses of three steps on float16 features, meaned over the processes."""
    torch.set_num_threads(1)
    cache = cache_of_noise(folder / "frames")
    one = stage("ac3", cache)
    one.loader.use_features([kept(cache, one.tokenizer, folder / "features", "float16")])
    found = {}
    for step in range(3):
        figures = one.step(step)
        found |= {f"{step}.{name}": collectives.global_mean(figures[name].detach()) for name in TERMS}
    return found


def main(folder, mine, count):
    """Join the other processes by a file in `folder`."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=mine, world_size=count)
    save_tensors(folder / f"{mine}.safetensors", steps(folder / str(mine)), {})
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
