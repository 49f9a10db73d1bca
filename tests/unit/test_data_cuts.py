import json

import cv2
import numpy as np
import pytest

from cyclemimic.data import cuts as cuts_module
from cyclemimic.data.cuts import cuts_of, find_cuts
from tests.unit.data_small import counted_cache

SIZE_PX = 48


def shot(seed, num_frames=12, pan=0):
    """A scene of its own with a patch that wanders through it; `pan` pixels a frame the camera turns."""
    rng = np.random.default_rng(seed)
    wide = SIZE_PX + abs(pan) * num_frames
    scene = cv2.resize(rng.integers(0, 255, (7, 9, 3), np.uint8), (wide, SIZE_PX), interpolation=cv2.INTER_CUBIC)
    frames = np.stack([scene[:, abs(pan) * t : abs(pan) * t + SIZE_PX] for t in range(num_frames)]).copy()
    for t in range(num_frames):
        at = (seed * 7 + 2 * t) % (SIZE_PX - 9)
        frames[t, 20:29, at : at + 9] = (250, 10, 120)
    return frames[:: -1 if pan < 0 else 1]


def test_cuts_are_found_where_shots_meet():
    lengths = [12, 5, 9, 3, 20]
    frames = np.concatenate([shot(i, n) for i, n in enumerate(lengths)])
    cuts = find_cuts(frames)
    assert cuts.tolist() == np.cumsum(lengths)[:-1].tolist() and cuts.dtype == np.int64


@pytest.mark.parametrize("pan", [0, 1, -2, 3])
def test_motion_and_a_turning_camera_are_no_cut(pan):
    assert find_cuts(shot(3, 30, pan)).tolist() == []
    assert find_cuts(np.concatenate([shot(3, 15, pan), shot(4, 15, pan)])).tolist() == [15]


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("at", [1, 6, 9])
def test_a_flash_is_no_cut(frames, at):
    clip = shot(5)
    clip[at : at + frames] = np.clip(clip[at : at + frames].astype(int) * 2 + 40, 0, 255)
    assert find_cuts(clip).tolist() == []


def test_noise_and_a_slow_change_of_light_are_no_cut():
    clip = shot(6, 40).astype(int)
    noise = np.random.default_rng(0).normal(0, 4, clip.shape)
    light = np.linspace(0.7, 1.2, 40)[:, None, None, None]
    assert find_cuts(np.clip(clip * light + noise, 0, 255).astype(np.uint8)).tolist() == []


def test_hectic_motion_is_no_cut_and_hides_none_that_is_clear():
    rng = np.random.default_rng(2)
    frames = np.concatenate([shot(1, 20), shot(2, 20)])
    for frame in frames:
        y, x = rng.integers(0, SIZE_PX // 2, 2)
        frame[y : y + SIZE_PX // 3, x : x + SIZE_PX // 3] = (60, 70, 80)
    assert find_cuts(frames).tolist() == [20]


def test_a_new_place_in_the_same_colours_is_a_cut_and_a_new_colour_of_the_same_place():
    one = shot(7)
    assert find_cuts(np.concatenate([one, one[:, ::-1, ::-1]])).tolist() == [12]
    assert find_cuts(np.concatenate([one, 255 - one])).tolist() == [12]


@pytest.mark.parametrize("num_frames", [0, 1, 2])
def test_very_short_clips(num_frames):
    assert find_cuts(shot(8, 3)[:num_frames]).tolist() == []
    if num_frames == 2:
        assert find_cuts(np.concatenate([shot(8, 1), shot(9, 1)])).tolist() == [1]


def test_chunks_and_tiny_pictures_change_nothing(monkeypatch):
    frames = np.concatenate([shot(i, 7) for i in range(4)])
    whole = find_cuts(frames).tolist()
    monkeypatch.setattr(cuts_module, "_CHUNK_FRAMES", 5)
    assert find_cuts(frames).tolist() == whole == [7, 14, 21]
    assert find_cuts(np.zeros((9, 3, 3, 3), np.uint8)).tolist() == []
    assert find_cuts(frames[:, 1::5, 1::5]).tolist() == whole  # 10 px: no whole number of blocks


def test_the_cuts_of_a_cache_are_kept(tmp_path, monkeypatch):
    cache, path = counted_cache(tmp_path / "cache", [5, 2, 7]), tmp_path / "cuts.json"
    calls = []

    def counted(frames):
        calls.append(len(frames))
        return np.array([1] if len(frames) > 4 else [], np.int64)

    monkeypatch.setattr(cuts_module, "find_cuts", counted)
    lines = []
    first = cuts_of(cache, path, lines.append)
    assert [c.tolist() for c in first] == [[1], [], [1]] and calls == [5, 2, 7]
    assert lines == ["2 cuts in 2 of 3 clips"]
    again = cuts_of(cache, path)
    assert [c.tolist() for c in again] == [[1], [], [1]] and again[1].dtype == np.int64 and len(calls) == 3
    for damage in ("other frames", "half", "method"):
        calls.clear()
        if damage == "other frames":
            cuts_of(counted_cache(tmp_path / "two", [5]), path)
            assert calls == [5]
        elif damage == "half":
            path.write_text(path.read_text()[:30])
        else:
            path.write_text(json.dumps({**json.loads(path.read_text()), "method": "old"}))
        calls.clear()
        assert len(cuts_of(cache, path)) == 3 and calls == [5, 2, 7]
    assert len(cuts_of(cache)) == 3
