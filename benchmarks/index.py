"""An index of a million episodes: seconds and memory to open it, and to start a loader on its training clips.

python benchmarks/index.py [--rows N] [--out FILE.json]. The rows are generated: what is measured is the file and its
readers, not the looking at a million videos. Memory is what a process holds beyond what it held before.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cyclemimic.data.loader import PairLoader
from cyclemimic.data.segments import SegmentLoader
from cyclemimic.data.splits import split_clips
from cyclemimic.data.unkept import open_videos
from cyclemimic.evaluate.pages import this_machine
from cyclemimic.nn.words import WordHash
from cyclemimic.store.atomic import write_json
from cyclemimic.store.index import SCHEMA, EpisodeIndex, write_index
from cyclemimic.types import ClipInfo, Episode

BATCH_ROWS, DRAWN = 8192, 200
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
            "size_bytes": [-1] * count,
            "mtime_ns": [0] * count,
            "edges": [""] * count,
            "content": [[]] * count,
            "mark": [f"{start + i:032d}" for i in range(count)],
        }
        yield pa.table({name: pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names}, SCHEMA)


def resident_mb() -> float:
    """Memory of this process now; the largest so far would be its parent's. Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


class Named:
    """A source of the index's files; none is opened, and no list of them is made."""

    name = "generated"

    def names(self) -> Sequence[str]:
        """Nobody asks: the index has them."""
        raise NotImplementedError

    def describe(self, name: str) -> ClipInfo:
        """Nobody asks either."""
        raise NotImplementedError(name)

    def file_of(self, name: str) -> Path:
        """A name for it."""
        return Path(name)

    def rate_of(self, name: str) -> float | None:
        """What the file says."""
        return None

    def clips(self) -> Sequence[ClipInfo]:
        """Nobody asks."""
        raise NotImplementedError

    def read(self, clip: ClipInfo) -> Episode:
        """There is nothing to read."""
        raise NotImplementedError(clip)

    def fingerprint(self) -> str:
        """Of no content."""
        return "0" * 64


def opened(path: Path) -> dict[str, float]:
    """Open, look up a hundred random episodes, and go through a tenth of all."""
    before_mb, began_s = resident_mb(), time.perf_counter()
    index = EpisodeIndex.open(path)
    open_s, open_mb = time.perf_counter() - began_s, resident_mb()
    began_s = time.perf_counter()
    for i in np.random.default_rng(0).integers(0, len(index), 100).tolist():
        assert index.row(i).frames == index.frames[i]
    row_s = (time.perf_counter() - began_s) / 100
    for number, _ in enumerate(index.rows()):
        if number > len(index) // 10:
            break
    return {
        "open_s": round(open_s, 3),
        "open_mb": round(open_mb - before_mb, 1),
        "row_ms": round(1e3 * row_s, 1),
        "walk_mb": round(resident_mb() - open_mb, 1),
    }


def loaded(path: Path, kind: str) -> dict[str, float]:
    """From the index's file to a loader of the training clips, as `tokenizer --read` does it; and what batches cost.

    Drawing is measured and decoding is not: pairs by their numbers, and the runs of the first blocks.
    """
    before_mb, began_s, began_cpu_s = resident_mb(), time.perf_counter(), time.process_time()
    videos = open_videos(Named(), 64, index=EpisodeIndex.open(path))
    opened_s = time.process_time() - began_cpu_s
    keep = split_clips(videos.clips, 0.2, 0).train
    split_s = time.process_time() - began_cpu_s - opened_s
    if kind == "segment":
        segments = SegmentLoader(videos, 0.5, keep=keep, words=WordHash())
        draw: Callable[[int], object] = lambda step: [segments.block(lane, step, 0, 8) for lane in range(8)]  # noqa: E731
        loader: PairLoader = segments
    else:
        loader = PairLoader([videos], 0.5, keep=[keep], words=WordHash())
        # As `batch`, but for the pictures.
        loader.take = loader.places  # type: ignore[method-assign, assignment]
        draw = loader.batch
    draw(0)
    start_s, start_cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    start_mb, began_cpu_draw_s = resident_mb(), time.process_time()
    for step in range(1, 1 + DRAWN):
        draw(step)
    draw_s = time.process_time() - began_cpu_draw_s
    half_mb = resident_mb()
    for i in np.random.default_rng(1).integers(0, len(videos), 200).tolist():
        assert len(videos.clips[i].name) > 5 and len(videos.frames.indices[i].keys) > 0  # type: ignore[attr-defined]
    return {
        "pairs": loader.num_pairs,
        "start_s": round(start_s, 2),
        "start_cpu_s": round(start_cpu_s, 2),
        "of_it_open_cpu_s": round(opened_s, 2),
        "of_it_split_cpu_s": round(split_s, 2),
        "start_mb": round(start_mb - before_mb, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mb, 1),
        "draw_ms": round(1e3 * draw_s / DRAWN, 3),
        "drawn_mb": round(half_mb - start_mb, 1),
        "looked_up_mb": round(resident_mb() - half_mb, 1),
    }


def main() -> None:
    """Write an index, and read it in processes of their own: that of the writer has used memory before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kind", default="index", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.read is not None:
        print(json.dumps(opened(told.read) if told.kind == "index" else loaded(told.read, told.kind)))
        return
    found: dict[str, Any] = {"rows": told.rows, "machine": asdict(this_machine())}
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "index.parquet"
        began_s = time.perf_counter()
        write_index(path, generated(told.rows), "generated")
        print(f"{told.rows} rows, {path.stat().st_size / 1e6:.0f} MB, written in {time.perf_counter() - began_s:.0f} s")
        for kind in ("index", "pairs", "segment"):
            words = [sys.executable, __file__, "--read", str(path), "--kind", kind]
            found[kind] = json.loads(subprocess.check_output(words, text=True))
            print(kind, json.dumps(found[kind]), flush=True)
    if told.out is not None:
        write_json(told.out, found)


if __name__ == "__main__":
    main()
