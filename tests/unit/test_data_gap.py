from types import SimpleNamespace

import mujoco
import numpy as np
import pytest

from cyclemimic.data.check import check_clips
from cyclemimic.data.gap import LOOK, MOTION, frames_to_move, motion_between, propose_gap, propose_gaps, sampled
from cyclemimic.data.loader import PairLoader
from cyclemimic.data.pairs import gap_of, valid_pairs
from cyclemimic.errors import InputError
from cyclemimic.recipes.footage import gap_for, settled_gap
from cyclemimic.store.frame_cache import CacheRecipe, FrameCache, FrameCacheWriter
from cyclemimic.types import ClipInfo, Episode, Task
from cyclemimic.worlds import arms
from tests.unit.data_small import counted_cache

MASTER_HZ = 40


def seen_between_actions(body, seed):
    """Pictures [T, 64, 64, 3] and the hand's true places [T, 3], at 40 Hz: also while an action is being done."""
    world = arms.ArmsWorld(64)
    world.reset(Task(body=body, skill="wander", seed=seed))
    rig, pictures, tips = world._rig, [], []
    step = mujoco.mj_step

    def look(model, data, nstep):
        step(model, data, nstep=nstep)
        mujoco.mj_kinematics(model, data)
        pictures.append(rig.rays.draw(model, data, data.site_xpos[rig.tip], None))
        tips.append(data.site_xpos[rig.tip].copy())

    looking = SimpleNamespace(**{**vars(mujoco), "mj_step": look})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms, "mujoco", looking)
        for _ in range(20):
            world.step(world.expert_action())
    return np.stack(pictures), np.stack(tips)


def filmed_at(pictures, rate_hz, speed):
    """The same motion, `speed` times as fast, by a camera of another rate."""
    times = np.arange(int(len(pictures) / MASTER_HZ / speed * rate_hz)) / rate_hz * speed * MASTER_HZ
    return pictures[np.minimum(np.round(times).astype(int), len(pictures) - 1)]


def true_way_m(takes, gap_s, speed):
    gap = gap_s * speed * MASTER_HZ
    low, share = int(gap), gap - int(gap)
    ways = []
    for _, tips in takes:
        later = (1 - share) * tips[low : len(tips) - 1] + share * tips[low + 1 :]
        ways.append(np.linalg.norm(later - tips[: len(later)], axis=1))
    return np.median(np.concatenate(ways))


@pytest.mark.parametrize("body", ["arm6", "gantry"])
def test_at_the_proposed_gap_the_hand_goes_as_far_whatever_rate_and_speed(body):
    takes = [seen_between_actions(body, seed) for seed in range(5)]
    found, ways = {}, []
    for rate_hz in (10, 20, 30):
        for speed in (0.5, 1.0, 2.0):
            moved = [frames_to_move(filmed_at(pictures, rate_hz, speed), 6) for pictures, _ in takes]
            found[rate_hz, speed] = propose_gap(body, moved, [rate_hz] * len(moved)).gap_s
            ways.append(true_way_m(takes, found[rate_hz, speed], speed))
    middle = np.median(ways)
    assert np.abs(np.array(ways) / middle - 1).max() < 0.15, (found, ways)
    assert found[20, 0.5] > 1.6 * found[20, 1.0] > 2.5 * found[20, 2.0]


def textured_square(num_frames, side_px, step_px, square_px):
    """A patch of noise that moves right over a still ground."""
    rng = np.random.default_rng(0)
    ground = np.full((side_px, side_px, 3), 60, np.uint8)
    patch = rng.integers(100, 255, (square_px // 2, square_px // 2, 3), np.uint8).repeat(2, 0).repeat(2, 1)
    square_px = len(patch)
    frames = np.stack([ground] * num_frames)
    for t in range(num_frames):
        left = round(2 + t * step_px)
        frames[t, side_px // 3 : side_px // 3 + square_px, left : left + square_px] = patch
    return frames


def test_neither_the_ground_nor_the_size_of_the_picture_counts():
    small = textured_square(20, 64, 1, 20)
    large = small.repeat(2, 1).repeat(2, 2)
    narrow = textured_square(20, 64, 1, 12)
    ways = [frames_to_move(frames) for frames in (small, large, narrow)]
    np.testing.assert_allclose(ways[1], ways[0])
    assert np.median(ways[0]) == pytest.approx(LOOK * 64, rel=0.3)
    assert np.median(ways[2]) == pytest.approx(np.median(ways[0]), rel=0.2)
    assert motion_between(small[0], small[2]) == pytest.approx(2 / 64, rel=0.2)
    assert motion_between(small[0], small[0]) == 0


def test_moments_without_motion_do_not_count_and_those_that_never_go_far_do():
    moved = np.array([4.0, 4.0, 4.0, np.nan, np.nan, np.nan, np.nan])
    found = propose_gap("arm", [moved], [8.0])
    assert found.gap_s == pytest.approx(0.5 * MOTION / LOOK) and (found.moments, found.still) == (7, 4)
    assert found.gap_frames == pytest.approx(4 * MOTION / LOOK)
    assert propose_gap("arm", [np.array([4.0, np.inf, np.inf])], [8.0]).gap_s is None
    assert "too little moves" in propose_gap("arm", [], []).text()
    twice = propose_gap("arm", [np.array([4.0]), np.array([8.0]), np.array([2.0])], [8.0, 16.0, 4.0])
    assert twice.gap_s == found.gap_s  # other rates, the same time
    assert len(frames_to_move(textured_square(1, 64, 1, 9))) == 0
    with pytest.raises(InputError, match="share of the side"):
        propose_gap("arm", [moved], [8.0], motion=1.5)


def two_bodies(folder, still=False):
    """One body twice as fast as the other."""
    with FrameCacheWriter(folder, CacheRecipe(source_hash="x", size_px=64, resampler="none")) as writer:
        for body, step_px in (("fast", 2), ("slow", 0 if still else 1)):
            for i in range(2):
                frames = textured_square(19, 64, step_px, 18 - 2 * i)
                writer.add(ClipInfo(name=f"{body}/{i}", embodiment=body, fps=5.0, num_frames=19), frames)
        writer.finish()
    return FrameCache.open(folder)


def test_every_body_gets_its_gap_and_the_loader_keeps_to_it(tmp_path):
    cache, lines = two_bodies(tmp_path / "a"), []
    gaps = propose_gaps(cache, 0.06, progress=lines.append)
    assert gaps["slow"] == pytest.approx(2 * gaps["fast"], rel=0.15) and len(lines) == 2
    assert settled_gap(cache, 0.4) == 0.4 and set(settled_gap(cache, "auto")) == {"fast", "slow"}
    loader = PairLoader([cache], {"fast": 0.4, "slow": 0.8}, batch_size=64)
    batch = loader.batch(0)
    assert set(batch.body) == {0, 1}
    for now, later, body, clip, frame in zip(batch.now, batch.later, batch.body, batch.clip, batch.frame, strict=True):
        np.testing.assert_array_equal(now, cache.clip_frames(clip)[frame])
        np.testing.assert_array_equal(later, cache.clip_frames(clip)[frame + (2, 4)[body]])
    assert gap_for(cache, 0.4) == 0.4
    kept = gap_for(cache, {"fast": 0.7, "other": 1.0})
    assert kept["fast"] == 0.7 and set(kept) == {"fast", "slow"} and kept["slow"] > 0


def test_a_body_without_gap_or_motion_is_refused(tmp_path):
    with pytest.raises(InputError, match="gap of body 'slow'"):
        propose_gaps(two_bodies(tmp_path / "a", still=True))
    cache = counted_cache(tmp_path / "b", [9, 9], bodies=["arm", "hand"])
    with pytest.raises(InputError, match="gap of body 'hand'"):
        valid_pairs(cache.clips, {"arm": 0.2, "hans": 0.2})
    with pytest.raises(InputError, match="seconds above 0"):
        valid_pairs(cache.clips, {"arm": 0.2, "hand": -1.0})
    assert gap_of(0.3, "arm") == 0.3 and gap_of({"arm": 0.2}, "arm") == 0.2


def test_few_clips_are_looked_at_and_evenly(tmp_path):
    clips = [ClipInfo(name=str(i), embodiment="ab"[i % 2], fps=5.0, num_frames=9) for i in range(200)]
    found = sampled(clips)
    assert {body: len(mine) for body, mine in found.items()} == {"a": 24, "b": 24}
    assert found["a"][0] == 0 and found["a"][-1] == 198 and found["b"][-1] == 199


class Moving:
    name = "moving"

    def clips(self):
        return [ClipInfo(name="a", embodiment="arm", fps=5.0, num_frames=19)]

    def read(self, clip):
        return Episode(info=clip, frames=textured_square(19, 64, 1, 16))


def test_the_check_prints_the_proposal():
    report = check_clips(Moving())
    assert report.gap_of("arm").gap_s == pytest.approx(MOTION * 64 / 5, rel=0.3)
    assert "proposed gap" in "\n".join(report.lines())
