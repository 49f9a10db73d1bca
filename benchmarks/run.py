"""What is fast and what it costs, on one core: every number beside a plain one that was measured in the same run.

`make bench`, or: python benchmarks/run.py --out FILE.json. Rates are per second of the process's own CPU time, because
other programs on the machine change the wall's clock and hardly that. A measurement is the median of its repeats.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tokenizer_step
import torch
from loader import read_mode_numbers
from torch import nn

from cyclemimic.data.cache import build_cache
from cyclemimic.data.loader import PairLoader
from cyclemimic.data.sources.film import FilmSource
from cyclemimic.data.writers.film import film
from cyclemimic.evaluate.pages import this_machine
from cyclemimic.nn.batches import pixels
from cyclemimic.recipes.tiny import tiny
from cyclemimic.store.atomic import write_json
from cyclemimic.store.frame_cache import CacheRecipe, FrameCache, FrameCacheWriter
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.train.demonstrations import demonstration_data
from cyclemimic.train.labels import label_cache
from cyclemimic.train.loop import use_threads
from cyclemimic.train.stage1_tokenizer import TokenizerStage, TokenizerTraining
from cyclemimic.train.stage3_finetune import FinetuneStage
from cyclemimic.types import Observation, Task
from cyclemimic.worlds.arms import ArmsWorld
from cyclemimic.worlds.drawn import DrawnWorld

BODIES, SKILLS, EPISODES = ("arm6", "scara", "gantry"), ("reach", "push_left"), 4
GAP_S = 0.6


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One number: how many units per second of CPU time, or how many milliseconds a unit takes."""

    value: float
    unit: str
    repeats: tuple[float, ...]
    wall_value: float  # the same by the wall's clock
    says: str


def measure(work: Callable[[], int], *, unit: str, says: str, repeats: int, warm: bool = True) -> Measured:
    """Run `work`, which returns how many units it did, some times."""
    if warm:
        work()
    cpu, wall = [], []
    for _ in range(repeats):
        began_cpu, began_wall = time.process_time(), time.perf_counter()
        count = work()
        spent_cpu, spent_wall = time.process_time() - began_cpu, time.perf_counter() - began_wall
        as_unit = (lambda s, n=count: 1000 * s / n) if unit.startswith("ms") else (lambda s, n=count: n / s)
        cpu.append(as_unit(spent_cpu))
        wall.append(as_unit(spent_wall))
    found = Measured(
        value=round(statistics.median(cpu), 3),
        unit=unit,
        repeats=tuple(round(v, 3) for v in cpu),
        wall_value=round(statistics.median(wall), 3),
        says=says,
    )
    print(f"{found.value:10.2f} {unit:22} {says}", flush=True)
    return found


def full_strength(config: TokenizerTraining) -> TokenizerTraining:
    """The same training with every term on from the first step, so that a few steps cost what late ones cost."""
    terms = config.objective
    on = {"start": 0.0, "length": 0.0}
    terms = replace(terms, cycle=replace(terms.cycle, **on), realism=replace(terms.realism, **on))
    return replace(config, objective=terms, gradient_norms_every=10**9)


def plain_autoencoder(size_px: int) -> nn.Module:
    """Later from now and later through a narrow waist, by convolutions: what learning from pairs costs at least."""
    layers = [nn.Conv2d(6, 32, 3, 2, 1), nn.GELU(), nn.Conv2d(32, 64, 3, 2, 1), nn.GELU(), nn.Conv2d(64, 8, 1)]
    layers += [nn.Conv2d(8, 64, 3, 1, 1), nn.GELU(), nn.Upsample(scale_factor=4), nn.Conv2d(64, 3, 3, 1, 1)]
    return nn.Sequential(*layers)


def tokenizer_numbers(loader: PairLoader, repeats: int, steps: int) -> dict[str, Measured]:
    """Training with both objectives, and labelling."""
    recipe, found = tiny(), {}
    stages = {"genie": TokenizerStage(full_strength(recipe.genie), loader)}
    stages["ac3"] = TokenizerStage(full_strength(recipe.ac3), loader)
    says = {"genie": "train by reconstruction", "ac3": "train with AC3 and the discriminator"}
    for name, stage in stages.items():

        def train(stage: TokenizerStage = stage) -> int:
            for step in range(steps):
                stage.step(step)
            return steps * loader.batch_size

        found[f"train_{name}"] = measure(train, unit="pairs per core-second", says=says[name], repeats=repeats)
    plain = plain_autoencoder(recipe.genie.tokenizer.size_px)
    optimizer = torch.optim.AdamW(plain.parameters())

    def train_plain() -> int:
        for step in range(steps):
            batch = loader.batch(step)
            now, later = pixels(batch.now), pixels(batch.later)
            optimizer.zero_grad()
            nn.functional.mse_loss(plain(torch.cat([now, later], 1)), later).backward()
            optimizer.step()
        return steps * loader.batch_size

    control = "plain: a convolutional autoencoder"
    found["train_plain"] = measure(train_plain, unit="pairs per core-second", says=control, repeats=repeats)
    tokenizer: LatentActionTokenizer = stages["genie"].tokenizer.eval()
    batches = [loader.batch(step) for step in range(4)]

    def label() -> int:
        for batch in batches:
            tokenizer.label(pixels(batch.now), pixels(batch.later))
        return sum(len(b) for b in batches)

    @torch.no_grad()
    def features() -> int:
        for batch in batches:
            tokenizer.backbone(pixels(batch.now))
            tokenizer.backbone(pixels(batch.later))
        return sum(len(b) for b in batches)

    found["label"] = measure(label, unit="pairs per core-second", says="label", repeats=repeats)
    control = "plain: the features of both frames alone"
    found["label_plain"] = measure(features, unit="pairs per core-second", says=control, repeats=repeats)
    return found


def repeated(cache: FrameCache, folder: Path, *, copies: int) -> FrameCache:
    """The clips of a cache some times over, under other names."""
    with FrameCacheWriter(folder, CacheRecipe(source_hash="copies", size_px=cache.size_px, resampler="none")) as writer:
        for copy in range(copies):
            for clip, first in zip(cache.clips, cache.offsets, strict=True):
                frames = np.array(cache.frames[first : first + clip.num_frames])
                writer.add(replace(clip, name=f"{copy}/{clip.name}"), frames)
        writer.finish()
    return FrameCache.open(folder)


def label_numbers(cache: FrameCache, place: Path, repeats: int) -> dict[str, Measured]:
    """Labelling a source into a store, and what it cannot do without."""
    config = tiny().genie.tokenizer
    tokenizer = LatentActionTokenizer(config).eval()
    cache = repeated(cache, place / "long", copies=12)  # so that opening and closing files is not what is timed
    loader = PairLoader([cache], GAP_S)
    frames = pixels(np.array(cache.frames))
    ready = [(tokenizer.see(pixels(p.now)), tokenizer.see(pixels(p.later))) for p in loader.all_pairs(256)]
    folders = itertools.count()

    def label() -> int:
        label_cache(tokenizer, "none", cache, GAP_S, place / f"labels-{next(folders)}", num_shards=1)
        return loader.num_pairs

    @torch.no_grad()
    def network() -> int:
        for part in frames.split(256):
            tokenizer.backbone(part)
        for now, later in ready:
            tokenizer.label_scenes(now, later)
        return loader.num_pairs

    unit = "pairs per core-second"
    control = "plain: backbone once per frame, and encoder, on ready tensors"
    return {
        "label": measure(label, unit=unit, says="label a source into a store", repeats=repeats),
        "plain": measure(network, unit=unit, says=control, repeats=repeats),
    }


def world_numbers(repeats: int) -> dict[str, Measured]:
    """Steps of a world with its pictures, and without."""

    def play(world: ArmsWorld | DrawnWorld) -> Callable[[], int]:
        def episodes() -> int:
            frames = 0
            for body in world.bodies[:3]:
                world.reset(Task(body=body, skill="push_left", seed=3))
                for _ in range(15):
                    world.step(world.expert_action())
                frames += 15
            return frames

        return episodes

    unit = "frames per core-second"
    return {
        "arms": measure(play(ArmsWorld()), unit=unit, says="arms world, 64 px, drawn with rays", repeats=repeats),
        "arms_plain": measure(
            play(ArmsWorld(draws=False)), unit=unit, says="plain: arms world stepped without drawing", repeats=repeats
        ),
        "drawn": measure(play(DrawnWorld()), unit=unit, says="drawn world, 32 px", repeats=repeats),
    }


def policy_numbers(source: FilmSource, repeats: int) -> dict[str, Measured]:
    """From observation to actions, one at a time and sixteen at once."""
    recipe = tiny()
    episodes = [source.read(clip) for clip in source.clips() if clip.embodiment == BODIES[0]]
    data = demonstration_data(episodes, None, chunk_steps=recipe.finetune.network.head.chunk_steps)
    policy = FinetuneStage(recipe.finetune, data, camera=source.camera).policy()
    frames, state = episodes[0].frames, episodes[0].proprioception
    assert state is not None
    seen = [
        Observation(
            images={source.camera.name: frames[i % len(frames)]},
            instruction=episodes[0].info.instruction,
            proprioception=state[i % len(frames)],
        )
        for i in range(16)
    ]
    tower = policy.network.latent.backbone.tower
    condition = torch.zeros(16, policy.network.latent.backbone.width)
    pictures = pixels(np.stack([s.images[source.camera.name] for s in seen]))

    def one_by_one() -> int:
        for observation in seen:
            policy.act(observation)
        return len(seen)

    def together() -> int:
        for _ in range(4):
            policy.act_batch(seen)
        return 4 * len(seen)

    @torch.inference_mode()
    def tower_alone() -> int:
        for i in range(16):
            tower(pictures[i : i + 1], condition[i : i + 1])
        return 16

    @torch.inference_mode()
    def tower_together() -> int:
        for _ in range(4):
            tower(pictures, condition)
        return 64

    unit = "ms per observation"
    return {
        "act": measure(one_by_one, unit=unit, says="policy, one observation at a time", repeats=repeats),
        "act_plain": measure(tower_alone, unit=unit, says="plain: its vision tower alone", repeats=repeats),
        "act_batch_16": measure(together, unit=unit, says="policy, sixteen at once", repeats=repeats),
        "act_batch_16_plain": measure(tower_together, unit=unit, says="plain: its vision tower alone", repeats=repeats),
    }


def is_changed() -> bool | None:
    """Whether tracked files differ from the commit; None where there is no git."""
    try:
        done = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return bool(done.stdout.strip())


def main() -> None:
    """Measure everything and write one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="training steps in one repeat")
    parser.add_argument("--shapes", default="small", help="of the tokenizer's step on given features")
    parser.add_argument("--episodes", type=int, default=1_000_000, help="of the start of the commands; 0: not measured")
    told = parser.parse_args()
    use_threads(1)
    began_cpu, began_wall = time.process_time(), time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        tasks = [Task(body=b, skill=s, seed=i) for b in BODIES for s in SKILLS for i in range(EPISODES)]
        film(ArmsWorld(), tasks, root / "film")
        source = FilmSource(root / "film")
        recipe = tiny()
        build_cache(source, root / "cache", recipe.genie.tokenizer.size_px)
        cache = FrameCache.open(root / "cache")
        loader = PairLoader([cache], GAP_S, batch_size=recipe.genie.batch_size)
        rooms = {
            "tokenizer": tokenizer_numbers(loader, told.repeats, told.steps),
            "label": label_numbers(cache, root, told.repeats),
            "loader": read_mode_numbers(measure, told.repeats),
            "world": world_numbers(told.repeats),
            "policy": policy_numbers(source, told.repeats),
        }
    over = rooms["label"]["label"].value / rooms["label"]["plain"].value
    step = tokenizer_step.measure(shapes=told.shapes, batch=4, repeats=2, counts=[1, 2])
    ratios = {
        "ac3_step_over_genie_step": rooms["tokenizer"]["train_genie"].value / rooms["tokenizer"]["train_ac3"].value,
        "segment_over_random": rooms["loader"]["segment"].value / rooms["loader"]["random"].value,
        "cache_over_random": rooms["loader"]["cache"].value / rooms["loader"]["random"].value,
        "drawing_over_stepping": rooms["world"]["arms_plain"].value / rooms["world"]["arms"].value,
        "label_over_backbone_and_encoder": over,
        **{f"step_{name}": value for name, value in step["ratio"].items()},
        "policy_over_its_tower": rooms["policy"]["act"].value / rooms["policy"]["act_plain"].value,
    }
    record: dict[str, Any] = {
        "machine": asdict(this_machine()),
        "changed_since_commit": is_changed(),
        "threads": torch.get_num_threads(),
        "repeats": told.repeats,
        "cpu_s": round(time.process_time() - began_cpu, 1),
        "wall_s": round(time.perf_counter() - began_wall, 1),
        "ratios": {name: round(value, 2) for name, value in ratios.items()},
        **{room: {name: asdict(m) for name, m in numbers.items()} for room, numbers in rooms.items()},
        "tokenizer_step": step,
    }
    for measured in record["loader"].values():
        measured["pairs_per_core_s"] = measured["value"]  # for whoever reads one key: loader.segment.pairs_per_core_s
    write_json(told.out, json.loads(json.dumps(record)))
    if told.episodes:
        # A process of its own: what it starts would else be charged with the memory that this one holds.
        words = ["--episodes", str(told.episodes), "--out", str(told.out)]
        subprocess.run([sys.executable, str(Path(__file__).with_name("start.py")), *words], check=True)
    print(f"{json.dumps(record['ratios'])}\n{told.out}")


if __name__ == "__main__":
    main()
