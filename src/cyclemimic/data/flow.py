"""Optical flow between the frames of every pair, once: a target for decoders that move things. Engineering.

Dense inverse search (Kroeger et al., 2016) as OpenCV has it. The flow is backward: for each pixel of the later frame
where it comes from in the frame now, so that sampling now at place + flow makes later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclemimic.data.cache import refuse_full_disk
from cyclemimic.data.hindsight import LEAST_CHANGE
from cyclemimic.data.pairs import clip_gap, valid_pairs
from cyclemimic.errors import InputError
from cyclemimic.store.atomic import alone_in
from cyclemimic.store.flow_cache import FlowCache, FlowCacheWriter, FlowRecipe, frames_hash
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.types import Gap, UInt8

REDUCE = 4  # pixels per cell of the grid
LEAST_SIDE_PX = 128  # smaller pictures are enlarged first: the method's patches are 8 px wide at half size
REST_SHARE = 8  # nothing changes within side / REST_SHARE: it rests
MARGIN = 1.0  # of 255: a flow that explains a cell worse than rest by more than this is none
METHOD = (
    f"OpenCV DIS, preset medium, of grey pictures enlarged to at least {LEAST_SIDE_PX} px; area mean; zero where "
    f"nothing changes by {LEAST_CHANGE} within 1/{REST_SHARE} of the side, or rest is better by {MARGIN}; version 1"
)
_CHUNK_PAIRS = 1024


def flow_grid(size_px: int) -> tuple[int, int]:
    """Rows and columns of the flow of pictures of this size."""
    return (max(1, size_px // REDUCE),) * 2


def backward_flow(now: UInt8, later: UInt8) -> NDArray[np.float16]:
    """Where the pixels of `later` come from in `now`, both [S, S, 3]: offsets [2, S / 4, S / 4], x first.

    In units of half the picture, so that torch's `grid_sample(now, place + flow, align_corners=False)` gives later.
    """
    cv2 = opencv()
    size = len(now)
    factor = -(-LEAST_SIDE_PX // size) if size < LEAST_SIDE_PX else 1
    changed = (np.abs(now.astype(np.int16) - later).max(-1) >= LEAST_CHANGE).astype(np.uint8)
    if not changed.any():
        return np.zeros((2, *flow_grid(size)), np.float16)
    grey = [cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in (later, now)]
    if factor > 1:
        grey = [cv2.resize(g, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR) for g in grey]
    flow_px = cv2.resize(_method().calc(*grey, None), (size, size), interpolation=cv2.INTER_AREA) / factor
    # Even ground has no flow of its own and takes over its neighbours'; where nothing changes, nothing moved.
    reach = 2 * (size // REST_SHARE) + 1
    flow_px[cv2.dilate(changed, np.ones((reach, reach), np.uint8)) == 0] = 0
    cells = cv2.resize(flow_px, flow_grid(size)[::-1], interpolation=cv2.INTER_AREA)
    cells[_error(now, later, cells) > _error(now, later, 0 * cells) + MARGIN] = 0
    flow: NDArray[np.float16] = np.moveaxis(cells * (2 / size), -1, 0).astype(np.float16)
    return flow


def _error(now: UInt8, later: UInt8, cells_px: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far `now`, moved by the cells' flow [h, w, 2], is from `later`: the mean of each cell [h, w], of 255."""
    cv2 = opencv()
    size = len(now)
    flow_px = cv2.resize(cells_px, (size, size), interpolation=cv2.INTER_LINEAR)
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    moved = cv2.remap(
        now, columns + flow_px[..., 0], rows + flow_px[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    error = np.abs(moved.astype(np.float32) - later).mean(-1)
    cell_error: NDArray[np.float32] = cv2.resize(error, cells_px.shape[1::-1], interpolation=cv2.INTER_AREA)
    return cell_error


def build_flow(
    cache: FrameCache,
    gap_s: Gap,
    folder: Path | str,
    *,
    threads: int = 1,
    progress: Callable[[str], None] | None = None,
) -> FlowCache:
    """The flow of every pair of `cache`, made once and kept in `folder`.

    A whole flow cache of the same frames, gap and method is kept; any other is replaced once the new one is whole.
    A build that was cut off goes on. The numbers do not depend on `threads`.

    Args:
        cache: the frames; a whole cache, no subset.
        gap_s: H [s], of all bodies or of each, as the loader has it.
        folder: where the flow lies; belongs to it alone.
        threads: of one core each.
        progress: is given lines of text: first bytes needed and free, then how far it is.

    Raises:
        InputError: not enough disk, no pair, or OpenCV is not installed.
    """
    say = progress or (lambda line: None)
    folder = Path(folder)
    counts = [max(0, c.num_frames - clip_gap(gap_s, c)) for c in cache.clips]
    recipe = FlowRecipe(
        source_hash=cache.source_hash,
        frames_sha256=frames_hash(cache),
        size_px=cache.size_px,
        gap_s=gap_s,
        method=METHOD,
        grid=flow_grid(cache.size_px),
        pairs_of_clip=tuple(counts),
    )
    if (whole := _whole(folder, recipe)) is None:
        with alone_in(folder, waiting=say):
            whole = _whole(folder, recipe)  # whoever was waited for may have made it
            if whole is None:
                return _make(cache, gap_s, folder, recipe, threads, say)
    say(f"{folder} is up to date: flow of {len(whole)} pairs.")
    return whole


def _make(
    cache: FrameCache, gap_s: Gap, folder: Path, recipe: FlowRecipe, threads: int, say: Callable[[str], None]
) -> FlowCache:
    """The flow of the pairs that are not there yet; the folder is locked."""
    index = valid_pairs(cache.clips, gap_s)
    now = cache.offsets[index.clip] + index.now
    later = cache.offsets[index.clip] + index.later
    with FlowCacheWriter(folder, recipe) as writer:
        left = recipe.num_pairs - writer.num_done
        refuse_full_disk(folder, left * recipe.pair_bytes, f"flow of {left} pairs", say)
        began_s, first = time.perf_counter(), writer.num_done
        with one_thread_each(), ThreadPoolExecutor(max(1, threads)) as pool:
            for start in range(first, len(index), _CHUNK_PAIRS):
                stop = min(start + _CHUNK_PAIRS, len(index))
                frames = (cache.frames[now[start:stop]], cache.frames[later[start:stop]])
                writer.add(np.stack(list(pool.map(backward_flow, *frames))))
                ms = 1e3 * (time.perf_counter() - began_s) / (stop - first)
                say(f"{stop}/{len(index)} pairs, {ms:.2f} ms each, {(len(index) - stop) * ms / 1e3:.0f} s to go")
        writer.finish()
    return FlowCache.open(folder)


_LOCAL = threading.local()


def _method() -> Any:
    """One object a thread: it holds buffers between calls."""
    if not hasattr(_LOCAL, "method"):
        cv2 = opencv()
        _LOCAL.method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return _LOCAL.method


@contextmanager
def one_thread_each() -> Iterator[None]:
    """OpenCV cuts a picture into as many stripes as it has threads, and the flow depends on them: one."""
    cv2 = opencv()
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _whole(folder: Path, recipe: FlowRecipe) -> FlowCache | None:
    try:
        found = FlowCache.open(folder)
    except InputError:
        return None  # none, half or damaged: building is the remedy
    return found if found.recipe == recipe else None


def opencv() -> Any:
    """The module cv2, imported when it is first needed; InputError where it is not installed."""
    try:
        import cv2
    except ModuleNotFoundError:
        remedy = "pip install 'cyclemimic[train]'"
        raise InputError("optical flow", expected="OpenCV", got="not installed", remedy=remedy) from None
    return cv2
