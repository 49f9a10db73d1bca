import shutil

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cyclemimic.data import flow as flow_module
from cyclemimic.data.flow import backward_flow, build_flow, flow_grid
from cyclemimic.errors import InputError
from cyclemimic.store.flow_cache import FlowCache
from cyclemimic.store.frame_cache import CacheRecipe, FrameCache, FrameCacheWriter
from cyclemimic.types import ClipInfo

SIZE_PX = 64


def square_on_ground(left, top, side=21, size_px=SIZE_PX):
    """A patterned square on an even ground."""
    rng = np.random.default_rng(0)
    pattern = cv2.resize(rng.integers(0, 255, (7, 7, 3), np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
    frame = np.full((size_px, size_px, 3), 90, np.uint8)
    frame[top : top + side, left : left + side] = pattern
    return frame


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, -4), (-5, 2)])
def test_a_moved_square_comes_from_where_it_was(dx, dy):
    now, later = square_on_ground(19, 23), square_on_ground(19 + dx, 23 + dy)
    flow_px = backward_flow(now, later).astype(np.float32) * SIZE_PX / 2
    inside = np.s_[
        :, -(-(23 + dy) // 4) + 1 : (23 + dy + 21) // 4 - 1, -(-(19 + dx) // 4) + 1 : (19 + dx + 21) // 4 - 1
    ]
    assert flow_px.shape == (2, 16, 16) and flow_px[inside].size
    error_px = np.hypot(flow_px[0] + dx, flow_px[1] + dy)[inside[1:]]
    assert error_px.max() < 0.5


def test_what_rests_far_from_motion_has_no_flow():
    flow = backward_flow(square_on_ground(2, 2), square_on_ground(5, 2))
    changed_to = (2 + 21 + 3 + SIZE_PX // 8) // 4 + 1
    assert flow[0, 2, 3] != 0 and (flow[:, changed_to:] == 0).all() and (flow[:, :, changed_to:] == 0).all()
    still = square_on_ground(9, 9)
    assert (backward_flow(still, still) == 0).all()
    noise = np.minimum(still, 250) + np.random.default_rng(1).integers(0, 5, still.shape, np.uint8)
    assert (backward_flow(still, noise) == 0).all()


def test_sampling_now_at_place_and_flow_makes_later():
    rng = np.random.default_rng(2)
    wide = cv2.resize(
        rng.integers(0, 255, (12, 14, 3), np.uint8), (SIZE_PX + 8, SIZE_PX), interpolation=cv2.INTER_CUBIC
    )
    now, later = wide[:, :SIZE_PX], wide[:, 5 : SIZE_PX + 5]  # the camera turns right: all goes left

    def picture(frame):
        return torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()

    flow = torch.from_numpy(backward_flow(now, later)).float()[None]
    flow = F.interpolate(flow, size=SIZE_PX, mode="bilinear", align_corners=False)
    place = F.affine_grid(torch.eye(2, 3)[None], (1, 3, SIZE_PX, SIZE_PX), align_corners=False)
    moved = F.grid_sample(picture(now), place + flow.permute(0, 2, 3, 1), align_corners=False)
    # What came into the picture cannot be sampled from it.
    error = (moved - picture(later)).abs()[..., :-8].mean()
    assert error < 0.15 * (picture(now) - picture(later)).abs()[..., :-8].mean()


def test_a_flow_that_explains_less_than_rest_is_none():
    rng = np.random.default_rng(4)
    scenes = [
        cv2.resize(rng.integers(0, 255, (9, 9, 3), np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC) for _ in "ab"
    ]
    cells_px = np.moveaxis(backward_flow(*scenes).astype(np.float32), 0, -1) * SIZE_PX / 2
    rests = (cells_px == 0).all(-1)
    assert 0.1 < rests.mean() < 0.9  # nothing here is one scene moved, yet much can be taken from elsewhere
    better = flow_module._error(*scenes, cells_px) < flow_module._error(*scenes, 0 * cells_px) + 1
    assert better[~rests].mean() > 0.9  # not all: a cell at rest bends its neighbours' flow


@pytest.mark.parametrize("size_px", [3, 13, 32])
def test_small_and_odd_sizes(size_px):
    frames = np.random.default_rng(0).integers(0, 255, (2, size_px, size_px, 3), np.uint8)
    flow = backward_flow(*frames)
    assert flow.shape == (2, *flow_grid(size_px)) and np.isfinite(flow).all()


def moving_cache(folder, lengths=(9, 2, 6), source_hash="abc"):
    recipe = CacheRecipe(source_hash=source_hash, size_px=32, resampler="none")
    with FrameCacheWriter(folder, recipe) as writer:
        for i, n in enumerate(lengths):
            frames = np.stack([square_on_ground(2 + t, 3 + i, 13, 32) for t in range(n)])
            writer.add(ClipInfo(name=f"arm/{i}", embodiment="arm", fps=5.0, num_frames=n), frames)
        writer.finish()
    return FrameCache.open(folder)


def test_the_cache_holds_the_flow_of_every_pair(tmp_path):
    cache, lines = moving_cache(tmp_path / "cache"), []
    flow = build_flow(cache, 0.6, tmp_path / "flow", progress=lines.append)
    assert flow.first.tolist() == [0, 6, 6] and len(flow) == 9 and flow.flow.dtype == np.float16
    for clip, t in ((0, 0), (0, 5), (2, 2)):
        frames = cache.clip_frames(clip)
        np.testing.assert_array_equal(flow.flow[flow.first[clip] + t], backward_flow(frames[t], frames[t + 3]))
    assert "MB needed" in lines[0] and "free" in lines[0] and "ms each" in lines[-1]
    assert f"{9 * 2 * 8 * 8 * 2 / 1e6:.1f} MB" in lines[0]
    assert sorted(p.name for p in (tmp_path / "flow").iterdir()) == [".lock", "flow.f16", "flow.json"]
    with pytest.raises(ValueError, match="read-only"):
        flow.flow[0] = 0


def test_threads_change_nothing(tmp_path):
    cache = moving_cache(tmp_path / "cache")
    one, two = (build_flow(cache, 0.4, tmp_path / str(n), threads=n) for n in (1, 2))
    np.testing.assert_array_equal(one.flow, two.flow)


def test_it_is_made_once_and_again_when_something_changed(tmp_path, monkeypatch):
    calls = []

    def counted(now, later):
        calls.append(1)
        return backward_flow(now, later)

    monkeypatch.setattr(flow_module, "backward_flow", counted)
    cache, folder = moving_cache(tmp_path / "cache"), tmp_path / "flow"

    def made(cache, gap_s):
        calls.clear()
        assert len(build_flow(cache, gap_s, folder)) > 0
        return len(calls)

    assert (made(cache, 0.6), made(cache, 0.6)) == (9, 0)
    assert made(cache, 0.4) == 11  # another gap
    assert made(moving_cache(tmp_path / "other", source_hash="x"), 0.4) == 11  # another source
    assert made(moving_cache(tmp_path / "more", (9, 2, 7)), 0.4) == 12  # other frames
    monkeypatch.setattr(flow_module, "METHOD", "another")
    assert made(cache, 0.4) == 11
    (folder / "flow.f16").write_bytes(b"x")
    with pytest.raises(InputError, match="1 bytes"):
        FlowCache.open(folder)
    assert made(cache, 0.4) == 11


def test_opencv_has_one_thread_meanwhile_and_as_many_as_before_again(tmp_path, monkeypatch):
    before, during = cv2.getNumThreads(), []

    def noted(now, later):
        during.append(cv2.getNumThreads())
        return backward_flow(now, later)

    monkeypatch.setattr(flow_module, "backward_flow", noted)
    cv2.setNumThreads(2)
    try:
        build_flow(moving_cache(tmp_path / "cache"), 0.6, tmp_path / "flow")
        assert set(during) == {1} and cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("damage", [None, "rows", "count", "gap"])
def test_a_killed_build_goes_on(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(flow_module, "_CHUNK_PAIRS", 2)
    cache, folder = moving_cache(tmp_path / "cache"), tmp_path / "flow"

    def kill(line):
        if line.startswith("6/9"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_flow(cache, 0.6, folder, progress=kill)
    with pytest.raises(InputError):
        FlowCache.open(folder)
    part = folder / "flow.f16.part"
    part.write_bytes(part.read_bytes() + b"half a row")
    if damage == "rows":
        part.write_bytes(b"")
    if damage == "count":
        (folder / "part.json").write_text("{")
    gap_s, lines = 0.4 if damage == "gap" else 0.6, []
    flow = build_flow(cache, gap_s, folder, progress=lines.append)
    wanted = {None: "flow of 3 ", "gap": "flow of 11 "}.get(damage, "flow of 9 ")
    assert lines[0].startswith(wanted)
    np.testing.assert_array_equal(flow.flow, build_flow(cache, gap_s, tmp_path / "unbroken").flow)


def test_a_full_disk_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    cache = moving_cache(tmp_path / "cache")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="80%"):
        build_flow(cache, 0.6, tmp_path / "flow")
    with pytest.raises(InputError, match="clips longer"):
        build_flow(cache, 9.0, tmp_path / "flow")


@pytest.mark.parametrize("damage", ["half", "format", "field"])
def test_a_bad_index_is_named(tmp_path, damage):
    build_flow(moving_cache(tmp_path / "cache"), 0.6, tmp_path / "flow")
    index = tmp_path / "flow/flow.json"
    text = index.read_text()
    index.write_text(
        {"half": text[:50], "format": text.replace("flow-cache-1", "other"), "field": text.replace("gap_s", "gap")}[
            damage
        ]
    )
    with pytest.raises(InputError, match=r"flow\.json"):
        FlowCache.open(tmp_path / "flow")
