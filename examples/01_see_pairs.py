"""From video to frame pairs: film four drawn bodies, decode once, and look at what lies 0.6 s apart.

python examples/01_see_pairs.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

from cyclemimic.data.cache import build_cache
from cyclemimic.data.loader import PairLoader
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.writers.film import film
from cyclemimic.evaluate.sheets import picture_grid, signed_change
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.types import Task
from cyclemimic.worlds.drawn import DrawnWorld

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())

# Any folder of videos would do. This one is filmed: scripted experts in a flat world, without actions.
world = DrawnWorld()
tasks = [
    Task(body=body, skill=skill, seed=seed) for body in world.bodies for skill in world.skills for seed in range(3)
]
report = film(world, tasks, folder / "film", keep_actions=False)
print(report.table())

# A source lists clips. The cache decodes them once, so that a random pair costs microseconds.
source = FolderSource(folder / "film/video")
build_cache(source, folder / "cache", size_px=32)
cache = FrameCache.open(folder / "cache")
print(f"{len(cache)} clips, {len(cache.frames)} frames of {', '.join(cache.embodiments)}")

# A pair is a time apart, not a number of frames: sources differ in speed. Every body is drawn equally often.
loader = PairLoader([cache], gap_s=0.6, seed=0, batch_size=8)
batch = loader.batch(step=0)
print(f"{loader.num_pairs} pairs; the first batch shows {[loader.bodies[i] for i in batch.body]}")

change = [signed_change(now, later) for now, later in zip(batch.now, batch.later, strict=True)]
sheet = folder / "pairs.png"
sheet.write_bytes(picture_grid([batch.now, batch.later, change], captions=["now", "later", "change"]))
print(f"look at {sheet}")
