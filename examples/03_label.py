"""From a tokenizer to labels: the latent action of every frame pair, in Parquet that any other program can read.

python examples/03_label.py [FOLDER]
"""

import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.writers.film import film
from cyclemimic.recipes.stations import run_label, run_tokenizer
from cyclemimic.recipes.tiny import tiny
from cyclemimic.store.label_store import LabelStore
from cyclemimic.types import Task
from cyclemimic.worlds.drawn import DrawnWorld

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
world = DrawnWorld()
tasks = [
    Task(body=body, skill=skill, seed=seed) for body in world.bodies for skill in world.skills for seed in range(4)
]
film(world, tasks, folder / "film", keep_actions=False)
source = FolderSource(folder / "film/video")
config = replace(tiny().trunk, steps=60, batch_size=16, warmup=10)
run = run_tokenizer(source, config, folder / "tokenizer", cache_root=folder / "cache", trunk=None)

# Shards are written whole. Killed and started again, this writes only what is missing.
store = run_label(source, run, folder / "labels", cache_root=folder / "cache", threads=1)
print(f"{len(store)} labels of {len(store.clips)} clips")

# With this package: labels of one clip, and where they came from.
frames, codes = store.codes_for(store.clips[0])
print(store.clips[0], [(int(t), tuple(z)) for t, z in zip(frames, codes.tolist(), strict=True)])
print(store.provenance)

# Without it: plain columns.
table = pq.read_table(folder / "labels/labels-00000.parquet")
print(table.slice(0, 3).to_pylist())

# Which latent actions belong to which skill? Nobody told the tokenizer that there are skills.
used: dict[str, Counter[tuple[int, ...]]] = {skill: Counter() for skill in world.skills}
for clip in LabelStore.open(folder / "labels").clips:
    used[Path(clip).stem.rsplit("-", 1)[0]].update(map(tuple, store.codes_for(clip)[1].tolist()))
for skill, counts in used.items():
    print(f"{skill:13} {counts.most_common(3)}")
