"""Three ways to read pairs, on the same video in the same run: random seeks, runs decoded once, the frame cache.

The arms world filmed at 256 px and 30 frames/s with a sensor's noise, as H.264 (crf 23, a key frame every 30 frames):
what the web's and robots' video is like. `python benchmarks/loader.py` prints these numbers alone.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from cyclemimic.data.cache import build_cache
from cyclemimic.data.loader import PairLoader
from cyclemimic.data.segments import SegmentLoader
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.unkept import open_videos
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.types import Task
from cyclemimic.worlds.arms import ArmsWorld

SIDE_PX, CACHE_PX, FPS_HZ, GAP_S = 256, 224, 30, 0.5
CLIPS, CLIP_FRAMES, TAKES, NOISE = 8, 480, 4, 3.0  # noise: standard deviation, of 255
BATCH = 32


def noisy_film(root: Path) -> None:
    """Write `CLIPS` clips: takes of wandering arms, played one after another, each clip with noise of its own."""
    world, takes = ArmsWorld(SIDE_PX), []
    for i in range(TAKES):
        pictures = [world.reset(Task(body=world.bodies[i], skill="wander", seed=i)).images[world.camera.name].copy()]
        for _ in range(19):
            pictures.append(world.step(world.expert_action()).observation.images[world.camera.name].copy())
        takes.append(np.stack(pictures))
    (root / "arm").mkdir(parents=True)
    for i in range(CLIPS):
        rng = np.random.default_rng(i)
        with av.open(str(root / f"arm/{i}.mp4"), "w") as container:
            options = {"crf": "23", "g": "30", "keyint_min": "30", "sc_threshold": "0", "threads": "1"}
            stream = container.add_stream("libx264", rate=FPS_HZ, options=options)
            stream.height = stream.width = SIDE_PX
            stream.pix_fmt = "yuv420p"
            stream.codec_context.thread_count = 1
            for t in range(CLIP_FRAMES):
                take = takes[(i + t // 120) % TAKES]
                noise = rng.normal(0, NOISE, (SIDE_PX, SIDE_PX, 1))
                picture = np.clip(take[t // 6 % len(take)] + noise, 0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())


def read_mode_numbers(measure: Callable[..., Any], repeats: int) -> dict[str, Any]:
    """Pairs per core-second by each way of reading; `measure` is that of `run.py`."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        noisy_film(root / "video")
        source = FolderSource(root / "video")
        videos = open_videos(source, SIDE_PX)
        direct = PairLoader([videos], GAP_S, batch_size=BATCH)
        segment = SegmentLoader(videos, GAP_S, batch_size=BATCH)
        build_cache(source, root / "cache", CACHE_PX)
        cache = PairLoader([FrameCache.open(root / "cache")], GAP_S, batch_size=BATCH)
        at = dict.fromkeys(("random", "segment", "cache"), 0)

        def read(name: str, loader: PairLoader, steps: int) -> Callable[[], int]:
            def work() -> int:
                at[name] += steps
                return sum(len(loader.batch(step)) for step in range(at[name] - steps, at[name]))

            return work

        ways = {
            "random": (direct, 4, f"plain: random seeks, {SIDE_PX} px, a key frame every 30"),
            "segment": (segment, 120, f"runs decoded once, mixed over 64, {SIDE_PX} px"),
            "cache": (cache, 300, f"frame cache, {CACHE_PX} px"),
        }
        unit = "pairs per core-second"
        return {
            name: measure(read(name, loader, steps), unit=unit, says=says, repeats=repeats)
            for name, (loader, steps, says) in ways.items()
        }


if __name__ == "__main__":
    from run import measure

    began_s = time.perf_counter()
    found = read_mode_numbers(measure, 5)
    over = found["segment"].value / found["random"].value
    print(f"segment over random {over:.1f}; {time.perf_counter() - began_s:.0f} s")
