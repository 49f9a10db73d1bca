from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from cyclemimic.data.duplicates import NEAR, difference, find_duplicates, look_at
from cyclemimic.data.video import read_video
from cyclemimic.embodiment.resize import resize_square
from tests.unit.camera_small import arm_clip

FPS = 10.0


def episode(seed, num_frames=30, arm_px=16):
    """Another episode of one robot at one table: the scene is the same, the arm goes its own way."""
    table = arm_clip(77, 1, arm_px=0, noise=0.0)[0][0]
    rng = np.random.default_rng(seed)
    places = np.cumsum(rng.normal(0, 6, (num_frames, 2)), 0) + rng.uniform(30, 70, 2)
    frames = np.repeat(table[None], num_frames, 0).copy()
    for frame, (x, y) in zip(frames, places.clip(20, 90).astype(int), strict=True):
        cv2.rectangle(frame, (x, 0), (x + arm_px, y), (35, 40, 50), -1)
        cv2.circle(frame, (x + arm_px // 2, y), arm_px // 2 + 2, (220, 90, 40), -1)
    return np.clip(frames + rng.normal(0, 1.5, frames.shape), 0, 255).astype(np.uint8)


def encoded(path, frames, *, crf=35, fps=FPS, codec="libx264"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.options, stream.pix_fmt = {"crf": str(crf), "threads": "1"}, "yuv420p"
        stream.height, stream.width = frames.shape[1:3]
        stream.codec_context.thread_count = 1
        if codec != "libx264":
            stream.bit_rate = 150_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return read_video(path).frames


def smaller(frames):
    return np.stack([cv2.resize(frame, (76, 58), interpolation=cv2.INTER_AREA) for frame in frames])


def brighter(frames):
    return np.clip(frames * 0.85 + 25, 0, 255).astype(np.uint8)


COPIES = {
    "crf35": lambda path, f: (encoded(path, f), FPS),
    "mpeg4": lambda path, f: (encoded(path, f, codec="mpeg4"), FPS),
    "small": lambda path, f: (encoded(path, smaller(f), crf=28), FPS),
    "bright": lambda path, f: (encoded(path, brighter(f), crf=30), FPS),
    "half rate": lambda path, f: (encoded(path, f[::2], crf=28, fps=FPS / 2), FPS / 2),
}


def look(frames, fps=FPS):
    return look_at(resize_square(frames, 64), fps)


def test_copies_are_found_and_other_episodes_at_the_same_table_are_none(tmp_path):
    """Precision and recall of copies that were encoded anew in five ways, among 20 episodes of one scene."""
    episodes = [episode(seed) for seed in range(20)]
    looks, truth = [look(frames) for frames in episodes], {}
    for i, (kind, copy) in enumerate((k, c) for _ in range(2) for k, c in COPIES.items()):
        frames, fps = copy(tmp_path / f"{i}.mp4", episodes[i])
        truth[len(looks)] = i
        looks.append(look(frames, fps))
        assert len(frames) / fps == pytest.approx(3.0), kind
    found = {d.clip: d.of for d in find_duplicates(looks)}
    right = sum(truth.get(clip) == of for clip, of in found.items())
    print(f"precision {right}/{len(found)}, recall {right}/{len(truth)}")
    assert right == len(found) and right == len(truth)
    nearest = min(difference(a.moments, b.moments) for i, a in enumerate(looks[:20]) for b in looks[:i])
    assert nearest > 1.5 * NEAR  # room on the other side of the border


def test_equal_pictures_are_exact_and_a_chain_is_named_after_its_first():
    frames = episode(1)
    noisy = np.clip(frames.astype(int) + 2, 0, 255).astype(np.uint8)
    found = find_duplicates([look(frames), look(episode(2)), look(frames), look(noisy), look(noisy)])
    assert [(d.clip, d.of) for d in found] == [(2, 0), (3, 0), (4, 0)] and [d.exact for d in found[:2]] == [True, False]
    assert found[0].difference == 0.0 and 0 < found[1].difference < NEAR


def test_the_same_pictures_at_another_speed_are_another_clip():
    frames = episode(3)
    assert find_duplicates([look(frames), look(frames, 2 * FPS)]) == []
    assert find_duplicates([look(frames), look(frames[::-1])]) == []


def test_still_clips_of_one_scene_are_the_same_and_of_two_are_not():
    rng = np.random.default_rng(0)
    scenes = [arm_clip(seed, 1, arm_px=0, noise=0.0)[0].repeat(12, 0) for seed in (1, 1, 2)]
    noisy = [np.clip(s + rng.normal(0, 1.5, s.shape), 0, 255).astype(np.uint8) for s in scenes]
    assert [(d.clip, d.of) for d in find_duplicates([look(frames) for frames in noisy])] == [(1, 0)]


@pytest.mark.parametrize("num_frames", [1, 2, 7])
def test_clips_shorter_than_the_moments(num_frames):
    frames = episode(4)[:num_frames]
    found = find_duplicates([look(frames), look(episode(5)[:num_frames]), look(frames)])
    assert [(d.clip, d.of, d.exact) for d in found] == [(2, 0, True)]
    assert find_duplicates([]) == [] and find_duplicates([look(frames)]) == []
