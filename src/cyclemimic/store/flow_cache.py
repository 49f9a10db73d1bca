"""Optical flow of every frame pair of a frame cache, as a memory map with an index. Numpy only. Engineering.

    FOLDER/flow.f16     float16 [pairs, 2, h, w]: every pair of every clip, clip after clip, ascending in time
    FOLDER/flow.json    what it was made from, and how many pairs each clip has

While it is being built it lies in `flow.f16.part`, and `part.json` says how many of its rows are whole: a build that
was killed goes on behind them.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError
from cyclemimic.store.atomic import read_json, sha256_json, sync_folder, write_json
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.types import Gap, Int64

FORMAT = "cyclemimic-flow-cache-1"
FLOW, FLOW_INDEX, FLOW_PART, FLOW_DONE = "flow.f16", "flow.json", "flow.f16.part", "part.json"
Float16 = NDArray[np.float16]


def frames_hash(cache: FrameCache) -> str:
    """A hash of every pixel of a frame cache and of the order of its clips; nothing is read."""
    return sha256_json(list(cache.sha256))


@dataclass(frozen=True, kw_only=True)
class FlowRecipe:
    """What decides a flow cache's numbers: the frames, the gap, the method, and the grid."""

    source_hash: str
    frames_sha256: str
    size_px: int
    gap_s: Gap
    method: str
    grid: tuple[int, int]  # h, w
    pairs_of_clip: tuple[int, ...]

    @property
    def num_pairs(self) -> int:
        """Rows of the file."""
        return sum(self.pairs_of_clip)

    @property
    def pair_bytes(self) -> int:
        """Bytes of one row."""
        return 2 * self.grid[0] * self.grid[1] * 2

    def to_json(self) -> dict[str, Any]:
        """As it lies in the index."""
        return {**asdict(self), "format": FORMAT, "grid": list(self.grid), "pairs_of_clip": list(self.pairs_of_clip)}


@dataclass(frozen=True, kw_only=True)
class FlowCache:
    """A finished flow cache, opened for reading. `flow` is a read-only memory map [pairs, 2, h, w]."""

    flow: Float16
    first: Int64  # [clips]: row of each clip's first pair; the pair at frame t lies t rows on
    recipe: FlowRecipe

    @property
    def gap_s(self) -> Gap:
        """H, in seconds."""
        return self.recipe.gap_s

    @property
    def frames_sha256(self) -> str:
        """`frames_hash` of the frame cache."""
        return self.recipe.frames_sha256

    @classmethod
    def open(cls, folder: Path | str) -> FlowCache:
        """Open a flow cache.

        Raises:
            InputError: there is no finished flow cache here, or it is damaged.
        """
        folder = Path(folder)
        recipe = _read_index(folder / FLOW_INDEX)
        path = folder / FLOW
        size_bytes = path.stat().st_size if path.exists() else 0
        wanted_bytes = recipe.num_pairs * recipe.pair_bytes
        if size_bytes != wanted_bytes:
            expected, got = f"{recipe.num_pairs} pairs ({wanted_bytes} bytes)", f"{size_bytes} bytes"
            raise InputError(path, expected=expected, got=got, remedy="Delete the folder; the flow is made again.")
        counts = np.array(recipe.pairs_of_clip, np.int64)
        flow = np.memmap(path, np.float16, "r", shape=(recipe.num_pairs, 2, *recipe.grid))
        return cls(flow=flow, first=np.cumsum(counts) - counts, recipe=recipe)

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.flow)


class FlowCacheWriter:
    """Writes a flow cache run by run of pairs; on a half-built one of the same recipe it goes on."""

    def __init__(self, folder: Path | str, recipe: FlowRecipe) -> None:
        self.folder, self.recipe = Path(folder), recipe
        self.folder.mkdir(parents=True, exist_ok=True)
        self.num_done = self._recover()
        self._file = (self.folder / FLOW_PART).open("r+b")
        self._file.truncate(self.num_done * recipe.pair_bytes)
        self._file.seek(0, os.SEEK_END)

    def __enter__(self) -> FlowCacheWriter:
        """Close the file at the end of the block, whatever happens."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, flow: Float16) -> None:
        """Append the next pairs [n, 2, h, w]."""
        assert flow.dtype == np.float16 and flow.shape[1:] == (2, *self.recipe.grid), flow.shape
        self._file.write(np.ascontiguousarray(flow).data)
        self._file.flush()
        # Rows first: the count is a promise that they are on disk.
        os.fsync(self._file.fileno())
        self.num_done += len(flow)
        write_json(self.folder / FLOW_DONE, {"recipe": self.recipe.to_json(), "done": self.num_done})

    def finish(self) -> None:
        """Turn the part file into the cache. An older one in this folder is replaced only now."""
        assert self.num_done == self.recipe.num_pairs, f"{self.num_done} of {self.recipe.num_pairs} pairs"
        self._file.close()
        # The old index goes first: an index must never lie beside flow that it does not describe.
        (self.folder / FLOW_INDEX).unlink(missing_ok=True)
        (self.folder / FLOW_PART).replace(self.folder / FLOW)
        sync_folder(self.folder)
        write_json(self.folder / FLOW_INDEX, self.recipe.to_json())
        (self.folder / FLOW_DONE).unlink(missing_ok=True)

    def _recover(self) -> int:
        """How many rows a killed build of the same recipe left whole."""
        part, done = self.folder / FLOW_PART, 0
        if (self.folder / FLOW_DONE).exists() and part.exists():
            try:
                noted = read_json(self.folder / FLOW_DONE)
            except InputError:
                noted = {}  # damaged: making the flow again is the remedy
            count = int(noted.get("done", 0))
            same = noted.get("recipe") == self.recipe.to_json()
            if same and part.stat().st_size >= count * self.recipe.pair_bytes:
                done = count
        part.touch()
        return done


def _read_index(path: Path) -> FlowRecipe:
    index = read_json(path)
    remedy = "Delete the folder; the flow is made again."
    if index.pop("format", None) != FORMAT:
        raise InputError(path, expected=f"format {FORMAT!r}", got="another", remedy=remedy)
    try:
        height, width = index.pop("grid")
        counts = tuple(int(n) for n in index.pop("pairs_of_clip"))
        return FlowRecipe(**index, grid=(int(height), int(width)), pairs_of_clip=counts)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(path, expected="a whole index", got=f"a fault at {error}", remedy=remedy) from None
