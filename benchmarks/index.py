"""How long an index of a million episodes takes to open, and how much memory: python benchmarks/index.py [--rows N].

The rows are generated: what is measured is the file and its reader, not the looking at a million videos.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cyclemimic.store.index import SCHEMA, EpisodeIndex, write_index

BATCH_ROWS = 8192
BODIES = ("franka", "widowx", "human_hand", "humanoid", "google_robot")


def generated(rows: int) -> Iterator[Any]:
    """Tables of rows: 150 to 450 frames, a key frame every 30, sentences of which many repeat."""
    for start in range(0, rows, BATCH_ROWS):
        count = min(BATCH_ROWS, rows - start)
        rng = np.random.default_rng(start)
        frames = rng.integers(150, 450, count)
        keys = [list(range(0, int(n), 30)) for n in frames]
        columns = {
            "uri": [f"{BODIES[i % 5]}/recording-{start + i:08d}.mp4" for i in range(count)],
            "stream": [0] * count,
            "frames": frames,
            "fps": [30.0] * count,
            "height_px": [256] * count,
            "width_px": [340] * count,
            "key_times_s": [[k / 30 for k in key] for key in keys],
            "key_frames": keys,
            "first_pts": [0] * count,
            "step_pts": [512] * count,
            "pts": [[]] * count,
            "shown": [[]] * count,
            "embodiment": [BODIES[i % 5] for i in range(count)],
            "instruction": [f"move thing {n}" for n in rng.integers(0, 5000, count)],
            "licence": ["CC-BY-4.0"] * count,
            "fault": [None] * count,
        }
        yield pa.table({name: pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names}, SCHEMA)


def resident_mb() -> float:
    """Memory of this process now; the largest so far would be its parent's. Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def opened(path: Path) -> dict[str, float]:
    """Open, look up a hundred random episodes, and go through a tenth of all."""
    before_mb, began_s = resident_mb(), time.perf_counter()
    index = EpisodeIndex.open(path)
    open_s, open_mb = time.perf_counter() - began_s, resident_mb()
    began_s = time.perf_counter()
    for i in np.random.default_rng(0).integers(0, len(index), 20).tolist():
        assert index.row(i).frames == index.frames[i]
    row_s = (time.perf_counter() - began_s) / 20
    for number, _ in enumerate(index.rows()):
        if number > len(index) // 10:
            break
    return {
        "open_s": round(open_s, 3),
        "open_mb": round(open_mb - before_mb, 1),
        "row_ms": round(1e3 * row_s, 1),
        "walk_mb": round(resident_mb() - open_mb, 1),
    }


def main() -> None:
    """Write an index, and read it in a process of its own: that of the writer has used memory before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.read is not None:
        print(json.dumps(opened(told.read)))
        return
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "index.parquet"
        began_s = time.perf_counter()
        write_index(path, generated(told.rows), "generated")
        print(f"{told.rows} rows, {path.stat().st_size / 1e6:.0f} MB, written in {time.perf_counter() - began_s:.0f} s")
        print(subprocess.check_output([sys.executable, __file__, "--read", str(path)], text=True).strip())


if __name__ == "__main__":
    main()
