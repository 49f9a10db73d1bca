import cv2
import numpy as np
import pytest

from cyclemimic.cli import main
from cyclemimic.data.camera import camera_motion, small_grey, watch_camera
from cyclemimic.data.cuts import find_cuts
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.stabilise import FARTHEST, camera_path, named_mode, stabilised
from cyclemimic.data.video import write_video
from cyclemimic.data.writers.film import film
from cyclemimic.embodiment.resize import resize_square
from cyclemimic.errors import InputError
from cyclemimic.recipes.footage import open_source
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.types import Task
from cyclemimic.worlds.arms import ArmsWorld
from tests.unit.camera_small import arm_clip

REST = [{"arm_px": 30}, {"arm_px": 70}, {"noise": 6.0}, {"arm_px": 8, "noise": 0.0}]
MOTIONS = [
    {"pan": (0.5, 0.0)},
    {"pan": (-0.4, 0.8)},
    {"shake_px": 1.5},
    {"turn_rad": 0.3},
    {"pan": (0.6, 0), "arm_px": 60},
]


def watched(seed, **words):
    return watched_frames(arm_clip(seed, **words)[0])


def watched_frames(frames):
    return watch_camera(frames, 6, np.zeros(len(frames), np.int64))


def test_a_camera_that_moves_is_told_from_an_arm_that_moves():
    """Precision and recall over scenes, arms of all sizes, noise, pans, shaking and turns."""
    moving = [watched(seed, **words).moves for seed in range(4) for words in MOTIONS]
    resting = [watched(seed, **words).moves for seed in range(4) for words in REST]
    recall, false = np.mean(moving), sum(resting)
    print(f"recall {recall:.2f} of {len(moving)}, {false} of {len(resting)} at rest called moving")
    assert false == 0 and recall >= 0.95


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """Clips of the arms world at 64 px, on plain ground, by what else moves: nothing, a ball, the camera."""
    skills, bodies = ("push_left", "close_drawer"), ("arm5", "gantry")
    tasks = [Task(body=body, skill=skill, seed=71) for body in bodies for skill in skills]
    clips = {}
    for disturbance in ("none", "distractor", "moving_camera"):
        root = tmp_path_factory.mktemp(disturbance)
        film(ArmsWorld(64, disturbance=disturbance), tasks, root, only_successes=False, keep_actions=False)
        source = FolderSource(root / "video")
        clips[disturbance] = [source.read(clip).frames for clip in source.clips()]
    return clips


def at_64_px(frames):
    return watch_camera(frames, 3, np.zeros(len(frames), np.int64))  # .6 s at 5 Hz


def test_a_moving_camera_is_told_on_plain_ground_at_64_px(filmed):
    for disturbance in ("none", "distractor"):
        found = [at_64_px(frames) for frames in filmed[disturbance]]
        assert not any(one.moves for one in found) and sum(one.is_known for one in found) >= 3
    found = [at_64_px(frames) for frames in filmed["moving_camera"]]
    assert len(found) == 4 and all(one.moves for one in found)
    assert any("nothing stays in place in" in one.text() for one in found)
    assert all(0 <= one.worst[0] < one.worst[1] < 64 and one.moving + one.adrift <= one.known for one in found)
    one_frame = filmed["moving_camera"][0][5]
    assert not at_64_px(np.repeat(one_frame[None], 12, 0)).moves


def test_a_camera_that_cannot_be_followed_is_not_held_but_said_to_be_left(filmed):
    for frames in filmed["none"]:
        held, remark = stabilised(frames, "shift", 3)
        assert held is frames and remark == ""
    for frames in filmed["moving_camera"]:
        held, remark = stabilised(frames, "shift", 3)
        assert held is frames and ("camera not held still" in remark) == at_64_px(frames).moves


@pytest.mark.parametrize("arm_px", [8, 30, 45])
@pytest.mark.parametrize("cubes", [0, 4])
def test_an_arm_before_an_even_wall_is_no_moving_camera(arm_px, cubes):
    """All that moves, or nearly all that can be seen at all, is the arm."""
    for seed in range(3):
        clip, _ = arm_clip(seed, size=(64, 64), arm_px=arm_px, noise=2.0)
        rest, _ = arm_clip(seed, size=(64, 64), arm_px=0, noise=0.0)
        moves = np.abs(clip.astype(int) - rest).max(-1, keepdims=True) > 20
        wall = np.full_like(clip, 120)
        for place in range(cubes):
            y, x = 5 + 37 * (place // 2), 9 + 33 * (place % 2)
            wall[:, y : y + 6, x : x + 6] = (200, 40 * place, 30)
        assert not watched_frames(np.where(moves, clip, wall)).moves


def test_how_far_it_moves_is_right():
    found = watched(1, pan=(0.5, 0.0))
    assert found.way == pytest.approx(6 * 0.5 / 96, rel=0.15) and found.known >= 0.8 * found.moments
    assert found.worst[1] - found.worst[0] == 6
    frames, _ = arm_clip(2, turn_rad=0.4, num_frames=20)
    motion = camera_motion(*small_grey(frames[[4, 9]]))
    assert motion.turn_rad == pytest.approx(0.1, abs=0.01) and motion.known


def test_an_even_wall_says_nothing_and_tiny_pictures_do_not_break():
    wall = np.full((2, 96, 128), 90, np.uint8)
    assert not camera_motion(*wall).known
    assert not camera_motion(*np.zeros((2, 5, 5), np.uint8)).known
    short = watch_camera(np.zeros((3, 20, 20, 3), np.uint8), 5, np.zeros(3, np.int64))
    assert short.moments == 0 and not short.moves


def test_pairs_across_a_cut_are_not_looked_at():
    one, two = arm_clip(1, 12)[0], arm_clip(9, 12)[0]
    frames = np.concatenate([one, two])
    found = watch_camera(frames, 6, np.repeat([0, 1], 12))
    assert found.moments == 12 and not found.moves


def background_change(frames, rows=slice(None)):
    """How far the borders, where the arm seldom is, are from those of the middle frame, of 255."""
    still = np.abs(frames.astype(int) - frames[len(frames) // 2]).mean(-1)
    return float(np.median(still[:, -20:][:, rows]))


@pytest.mark.parametrize(("words", "mode"), [({"shake_px": 2.0}, "shift"), ({"turn_rad": 0.15}, "turn")])
def test_a_shaking_camera_is_held_still_and_the_border_is_gone(words, mode):
    frames, poses = arm_clip(3, noise=0.0, **words)
    before = frames.copy()
    held, remark = stabilised(frames, mode, 6)
    assert np.array_equal(frames, before)
    assert held.shape[0] == len(frames) and held.shape[1] < 96 and held.shape[2] < 128
    cut = ((96 - held.shape[1]) // 2, (128 - held.shape[2]) // 2)
    assert f"border of {cut[1]} x {cut[0]} px" in remark
    assert background_change(held) < 0.35 * background_change(frames[:, cut[0] : 96 - cut[0], cut[1] : 128 - cut[1]])
    path, lost = camera_path(frames, mode)
    true = poses - np.median(poses, 0)
    assert lost <= 2 and np.abs(path[:, 1:] * 96 - true[:, 1:]).max() < 1.0
    if mode == "turn":
        assert np.abs(path[:, 0] - true[:, 0]).max() < 0.01


def test_each_shot_is_held_by_itself():
    frames = np.concatenate([arm_clip(3, 14, shake_px=1.5)[0], arm_clip(8, 14, shake_px=1.5)[0]])
    assert find_cuts(resize_square(frames, 64)).tolist() == [14]
    held, remark = stabilised(frames, "shift", 6)
    assert "held still (shift)" in remark
    assert background_change(held[:14]) < background_change(frames[:14])
    assert background_change(held[14:]) < background_change(frames[14:])


def test_what_rests_is_left_alone_and_what_wanders_off_is_said_to():
    frames, _ = arm_clip(4)
    held, remark = stabilised(frames, "shift", 6)
    assert held is frames and remark == ""
    wide, _ = arm_clip(4, pan=(0.0, 1.4), arm_px=10)
    held, remark = stabilised(wide, "shift", 6)
    assert held is wide and f"more than {FARTHEST:.0%}" in remark
    dark = arm_clip(3, shake_px=2.0)[0]
    dark[::4] = 0  # nothing to follow there
    held, remark = stabilised(dark, "shift", 6)
    assert held is dark and (remark == "" or "could not be followed" in remark)
    with pytest.raises(InputError, match="shift or turn"):
        named_mode("shfit")


def test_a_held_source_is_another_source_down_to_the_cache(tmp_path, capsys):
    frames, _ = arm_clip(3, shake_px=2.0, noise=0.0)
    write_video(tmp_path / "v/arm/1.mp4", frames, 10)
    write_video(tmp_path / "v/arm/2.mp4", arm_clip(5, noise=0.0)[0], 10)
    caches = {}
    for name in (f"folder:{tmp_path}/v", f"folder:{tmp_path}/v?stabilise=shift"):
        main(["data", "cache", name, "--size-px", "32", "--cache", str(tmp_path / "cache")])
        caches[name] = open_source(name)
    found = [FrameCache.open(path.parent) for path in sorted((tmp_path / "cache").glob("*/index.json"))]
    assert len(found) == 2 and len({cache.source_hash for cache in found}) == 2
    shaking, held = sorted((np.array(cache.clip_frames(0)) for cache in found), key=background_change, reverse=True)
    assert background_change(held) < 0.5 * background_change(shaking)
    assert np.array_equal(found[0].clip_frames(1), found[1].clip_frames(1))  # its camera rests
    held_source = caches[f"folder:{tmp_path}/v?stabilise=shift"]
    held_source.read(held_source.clips()[0])
    assert "held still" in held_source.remarks_of(held_source.clips()[0])[-1]
    with pytest.raises(InputError, match="shift or turn"):
        open_source(f"folder:{tmp_path}/v?stabilise=no")
    assert cv2.getNumThreads() >= 1
