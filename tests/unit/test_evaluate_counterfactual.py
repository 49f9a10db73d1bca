"""Exact counterfactuals: films are lived again, other actions are tried, and generated frames stand against them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cyclemimic.data.cache import build_cache
from cyclemimic.data.sources.film import FilmSource
from cyclemimic.data.writers.film import episode_name, film, task_of
from cyclemimic.evaluate.counterfactual import (
    Counterfactuals,
    Filmed,
    build_counterfactuals,
    measure_counterfactual,
    with_counterfactuals,
)
from cyclemimic.evaluate.models import label_pairs
from cyclemimic.evaluate.moments import true_pairs
from cyclemimic.evaluate.transfer import UNTESTED, References, plan_transfers
from cyclemimic.nn.batches import pixels
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.types import Task
from cyclemimic.worlds.arms import ArmsWorld
from tests.unit.evaluate_squares import ExactJudge, ExactTokenizer, Mute, squares

BODIES, GAP_S, SIDE = ("arm5", "gantry"), 0.6, 32


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """The film's pairs, what led to each clip, and the cache of its frames."""
    out = tmp_path_factory.mktemp("film")
    tasks = [Task(body=b, skill=s, seed=i) for b in BODIES for s in ("reach", "push_left") for i in (3, 4)]
    film(ArmsWorld(SIDE), tasks, out / "film")
    source = FilmSource(out / "film")
    build_cache(source, out / "cache", SIDE)
    cache = FrameCache.open(out / "cache")
    led = {}
    for clip in source.clips():
        actions, state = source.actions_of(clip)
        led[clip.name] = Filmed(task=task_of(clip.name), actions=actions, tip_m=state[:, :3])
    places = {name: one.tip_m for name, one in led.items()}
    assert source.world_name == "arms"
    return true_pairs(cache, places, gap_s=GAP_S, limit=200, seed=0), led, cache


def _build(filmed, **changes):
    pairs, led, _ = filmed
    words = {"gap_s": GAP_S, "size_px": SIDE, "bodies": BODIES, "seed": 0, "limit": 20, **changes}
    return build_counterfactuals(ArmsWorld(SIDE), words.pop("led", led), words.pop("pairs", pairs), **words)


@pytest.fixture(scope="module")
def found(filmed):
    return _build(filmed)


def _lead(world, led, frame):
    """Live a clip up to a frame."""
    seen = world.reset(led.task)
    for action in led.actions[:frame]:
        seen = world.step(action).observation
    return seen


def test_names_of_clips_tell_their_tasks():
    task = Task(body="arm5", skill="push_left", seed=12_000_007)
    assert task_of(episode_name(task)) == task_of(episode_name(task) + ".mp4") == task
    assert task_of("arm5/mine.mp4") is None and task_of("a/b/reach-000001.mp4") is None


def test_a_replayed_picture_is_the_films_frame_but_for_its_compression(filmed):
    pairs, led, cache = filmed
    world = ArmsWorld(SIDE)
    for number in (0, len(cache) - 1):
        info, frames = cache.clips[number], cache.clip_frames(number)
        for frame in (0, info.num_frames // 2, info.num_frames - 1):
            picture = _lead(world, led[info.name], frame).images["front"]
            assert np.abs(picture.astype(int) - frames[frame]).mean() < 4
            other = frames[(frame + info.num_frames // 2) % info.num_frames]
            assert np.abs(picture.astype(int) - frames[frame]).mean() < np.abs(picture.astype(int) - other).mean()
    assert pairs.frame is not None and pairs.clip_names == tuple(info.name for info in cache.clips)


def test_a_counterfactual_is_the_sources_actions_from_the_targets_state(filmed, found):
    pairs, led, _ = filmed
    assert len(found) == 20 and (pairs.body[found.source] != pairs.body[found.target]).all()
    world = ArmsWorld(SIDE)
    for i in (0, 7, 19):
        source, target = int(found.source[i]), int(found.target[i])
        own, other = led[pairs.clip_names[pairs.clip[source]]], led[pairs.clip_names[pairs.clip[target]]]
        seen = _lead(world, other, int(pairs.frame[target]))
        assert np.array_equal(seen.images["front"], found.now[i])
        start = seen.proprioception[:3]
        for action in own.actions[pairs.frame[source] : pairs.frame[source] + 3]:
            seen = world.step(action).observation
        assert np.array_equal(seen.images["front"], found.later[i])
        went = seen.proprioception[:3] - start
        assert np.linalg.norm(went - pairs.displacement_m[source]) < 0.016
        assert np.linalg.norm(pairs.displacement_m[source]) >= 0.02


def test_what_cannot_be_compared_is_left_out_and_counted(filmed, found):
    assert found.not_replayed == found.hindered == 0 < found.other_contact
    _, led, _ = filmed
    other_world = {name: replace(one, task=replace(one.task, seed=one.task.seed + 1)) for name, one in led.items()}
    nothing = _build(filmed, led=other_world)
    assert len(nothing) == 0 < nothing.not_replayed and nothing.now.shape == (0, SIDE, SIDE, 3)
    unknown = _build(filmed, led={})
    assert len(unknown) == 0 < unknown.not_replayed


def test_it_is_drawn_alike_for_equal_seeds_and_kept_as_it_is(filmed, found, tmp_path):
    again, other = _build(filmed), _build(filmed, seed=1)
    assert np.array_equal(found.later, again.later) and not np.array_equal(found.source, other.source)
    found.save(tmp_path / "kept.npz")
    kept = Counterfactuals.load(tmp_path / "kept.npz")
    for name, value in vars(found).items():
        assert np.array_equal(getattr(kept, name), value) and type(getattr(kept, name)) is type(value)
    small = _build(filmed, size_px=16, limit=3)
    assert small.now.shape == (3, 16, 16, 3)


TEST = squares(300, seed=2)


def _truth(count=120):
    """Counterfactuals of the world of squares: the exact tokenizer's frames."""
    plan = plan_transfers(TEST, sources=TEST.bodies, targets=TEST.bodies, same_body=False, limit=count, seed=0)
    exact = ExactTokenizer()
    now = TEST.now[plan.target]
    codes = label_pairs(exact, TEST.take(plan.source))
    later = exact.act_out(pixels(now), torch.from_numpy(codes))
    later = (later * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return Counterfactuals(
        source=plan.source, target=plan.target, now=now, later=later, not_replayed=0, hindered=0, other_contact=0
    )


def test_scores_are_one_for_the_truth_and_near_nothing_for_another_meaning():
    truth = _truth()
    found = {
        name: measure_counterfactual(model, ExactJudge(), truth, label_pairs(model, TEST), seed=0)
        for name, model in (
            ("exact", ExactTokenizer()), ("permuted", ExactTokenizer(permute=True)),
            ("still", ExactTokenizer(moves=False)), ("mute", Mute()),
        )
    }  # fmt: skip
    exact, permuted = found["exact"], found["permuted"]
    assert exact.score > 0.99 and exact.feature_score == pytest.approx(1) and exact.pairs == len(truth)
    assert exact.psnr_db > exact.random_db + 5 and exact.psnr_db > exact.copy_db + 5
    assert permuted.score < 0.2 and permuted.feature_score < 0.4
    # Where no code changes anything there is no scale; without frames there is nothing at all.
    assert math.isnan(found["still"].score) and found["still"].psnr_db == pytest.approx(found["still"].copy_db)
    assert math.isnan(found["mute"].psnr_db) and found["mute"].pairs == 0
    nothing = measure_counterfactual(ExactTokenizer(), ExactJudge(), None, label_pairs(Mute(), TEST), seed=0)
    assert math.isnan(nothing.score)
    beside = with_counterfactuals(References(copy=UNTESTED, random_code=UNTESTED, oracle_code=UNTESTED), exact)
    assert beside.copy.counterfactual_psnr_db == exact.copy_db
    assert beside.oracle_code.counterfactual_psnr_db == exact.oracle_db > beside.random_code.counterfactual_psnr_db
