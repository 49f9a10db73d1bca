"""How long the real commands take to begin on a million episodes, and what memory they need.

python benchmarks/start.py [--episodes N] [--out FILE.json]

A thousand small video files lie in a folder, under a million names by way of links to that folder, so that every
episode of the index can be opened. Index and cuts of the thousand are found by the package; those of the million are
the same rows under the other names: what is measured is the start, not the looking at a million files, which is done
once. Each command is run whole, as users do, on the thousand and on the million: `tokenizer` for one step, `label` for
one shard of ten episodes. With --out the numbers go into that file, under loader.start.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cyclemimic.data.cut_table import SCHEMA as CUT_SCHEMA
from cyclemimic.data.cut_table import made_of
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.unkept import open_videos
from cyclemimic.data.video import write_video
from cyclemimic.evaluate.pages import this_machine
from cyclemimic.recipes.footage import index_path, indexed, shots
from cyclemimic.recipes.tiny import tiny
from cyclemimic.store.atomic import read_json, write_json
from cyclemimic.store.episode_rows import write_rows
from cyclemimic.store.index import SCHEMA, EpisodeIndex, write_index

FILES, DIFFERENT, FRAMES, SIDE_PX, FPS_HZ = 1000, 20, 24, 64, 10.0
BODIES = ("franka", "widowx", "human_hand", "humanoid", "google_robot")
SHARD_EPISODES = 10
CUTS_PX = tiny().genie.tokenizer.size_px  # the size at which `tokenizer` reads
CLI = (sys.executable, "-m", "cyclemimic.cli")


def small_files(folder: Path) -> None:
    """`FILES` files of one body: a bright square wanders over a dark ground, `DIFFERENT` ways of it."""
    folder.mkdir(parents=True)
    for i in range(FILES):
        path = folder / f"{i:04d}.mp4"
        if i >= DIFFERENT:
            shutil.copyfile(folder / f"{i % DIFFERENT:04d}.mp4", path)
            continue
        frames = np.full((FRAMES, SIDE_PX, SIDE_PX, 3), 40, np.uint8)
        for t in range(FRAMES):
            left, top = (3 * i + t) % (SIDE_PX - 9), (2 * i + t // 2) % (SIDE_PX - 9)
            frames[t, top : top + 9, left : left + 9] = (230, 60, 30)
        write_video(path, frames, FPS_HZ)


def many_names(folder: Path, plain: Path, episodes: int) -> None:
    """`episodes` names of these files: links to their folder."""
    for i in range(episodes // FILES):
        link = folder / BODIES[i % len(BODIES)] / f"{i:06d}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(plain.absolute(), target_is_directory=True)


def renamed(table: Any, episodes: int) -> Iterator[Any]:
    """The rows of the thousand files under all names of theirs, folder by folder."""
    names, marks = [Path(uri).name for uri in table["uri"].to_pylist()], table["mark"].to_pylist()
    for i in range(episodes // FILES):
        body = BODIES[i % len(BODIES)]
        columns = {
            "uri": [f"{body}/{i:06d}/{name}" for name in names],
            "embodiment": [body] * FILES,
            "mark": [f"{i:06d}{mark[6:]}" for mark in marks],
        }
        changed = table
        for name, column in columns.items():
            place = SCHEMA.names.index(name)
            changed = changed.set_column(place, SCHEMA.field(name), pa.array(column, SCHEMA.field(name).type))
        yield changed


def prepare(place: Path, episodes: int) -> tuple[str, str]:
    """Folders, indices and cuts in `place`; what `--source` is for the thousand and for the million."""
    caches = place / "caches"
    caches.mkdir()
    few = FolderSource(place / "few")
    index = indexed(few, caches)
    videos = open_videos(few, CUTS_PX, index=index)
    shots(videos, caches)
    many = FolderSource(place / "many")
    path = index_path(many, caches)
    notes = {"about": many.beside(), "source_hash": "0" * 64}
    write_index(path, renamed(pq.read_table(index.path, schema=SCHEMA), episodes), "generated", notes)
    cuts = pq.read_table(_cuts_path(index.path), schema=CUT_SCHEMA)
    of_many = open_videos(many, CUTS_PX, index=EpisodeIndex.open(path))
    tables = (cuts for _ in range(episodes // FILES))
    write_rows(_cuts_path(path), tables, CUT_SCHEMA, "generated", {"made_of": made_of(of_many)})
    return few.name, many.name


def _cuts_path(index: Path) -> Path:
    return index.with_name(f"{index.stem}-{CUTS_PX}px-cuts.parquet")


def timed(words: list[str]) -> dict[str, float]:
    """Run a command and say what it took; its output is shown where it fails."""
    began_s = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen([*CLI, *words], stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(words)}: exit {child.returncode}\n{said.read()}")
    return {
        "s": round(time.perf_counter() - began_s, 2),
        "cpu_s": round(used.ru_utime + used.ru_stime, 2),
        "peak_mb": round(used.ru_maxrss / 1024, 1),
    }


def start_numbers(episodes: int = 1_000_000) -> dict[str, Any]:
    """Seconds, CPU seconds and the largest memory of `tokenizer` and `label`, on a thousand episodes and on many."""
    found: dict[str, Any] = {"episodes": episodes, "machine": asdict(this_machine())}
    with tempfile.TemporaryDirectory() as there:
        place = Path(there)
        small_files(place / "few" / BODIES[0])
        many_names(place / "many", place / "few" / BODIES[0], episodes)
        sources = dict(zip(("thousand", "million"), prepare(place, episodes), strict=True))
        caches = ["--cache", str(place / "caches")]
        for name, source in sources.items():
            words = ["tokenizer", "--source", source, "--run", str(place / f"run-{name}"), "--read", "segment"]
            words += ["--objective", "genie", "--steps", "1", "--tracker", "none", *caches]
            found[f"tokenizer_{name}"] = timed(words)
            print(f"tokenizer --read segment, {name}: {found[f'tokenizer_{name}']}", flush=True)
        for name, source in sources.items():
            count = FILES if name == "thousand" else episodes
            words = ["label", "--source", source, "--tokenizer", str(place / f"run-{name}"), "--read", "direct"]
            words += ["--out", str(place / f"labels-{name}"), "--num-shards", str(count // SHARD_EPISODES), *caches]
            found[f"label_{name}"] = timed(words)
            print(f"label --read direct, {name}: {found[f'label_{name}']}", flush=True)
    found["million_s"] = found["tokenizer_million"]["s"]
    found["million_cpu_s"] = found["tokenizer_million"]["cpu_s"]
    found["million_peak_mb"] = found["tokenizer_million"]["peak_mb"]
    return found


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, help="a JSON file, such as benchmarks/results/latest-cpu.json")
    told = parser.parse_args()
    found = start_numbers(told.episodes)
    if told.out is not None:
        record = read_json(told.out) if told.out.exists() else {}
        record.setdefault("loader", {})["start"] = found
        write_json(told.out, record)


if __name__ == "__main__":
    main()
