from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cyclemimic.errors import InputError
from cyclemimic.evaluate.judge import Judge, JudgeConfig, fit_judge, mean_cosine, r_squared
from cyclemimic.nn.batches import pixels
from tests.unit.evaluate_squares import squares

TRAIN, TEST = squares(700, seed=1), squares(150, seed=2)
CONFIG = JudgeConfig(width=12, steps=350, batch_size=32)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return fit_judge(TRAIN, TEST, seed=0, config=CONFIG)


def test_a_judge_that_reads_motion_is_believed(judge: Judge) -> None:
    assert judge.report.r2 > 0.8 and abs(judge.report.r2 - judge.report.r2_blurred) <= 0.05
    assert not judge.refused and judge.report.reason is None
    assert judge.report.cosine > 0.9 and judge.report.pairs == 150


def test_a_judge_of_noise_is_refused() -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, TRAIN.displacement_m.shape).astype(np.float32)
    judge = fit_judge(replace(TRAIN, displacement_m=noise), TEST, seed=0, config=replace(CONFIG, steps=40))
    assert judge.refused and judge.report.reason is not None and "R2" in judge.report.reason


def test_a_judge_that_blur_unsettles_is_refused(judge: Judge) -> None:
    report = replace(judge.report, r2=0.9, r2_blurred=0.8)
    assert report.refused and "blur" in str(report.reason)


def test_the_judge_is_a_function_of_data_and_seed_and_leaves_the_global_generator_alone() -> None:
    quick = replace(CONFIG, steps=3)
    before = torch.get_rng_state()
    a, b = (fit_judge(TRAIN, TEST, seed=5, config=quick) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    now, later = pixels(TEST.now), pixels(TEST.later)
    assert torch.equal(a.read(now, later), b.read(now, later))
    assert not torch.equal(a.read(now, later), fit_judge(TRAIN, TEST, seed=6, config=quick).read(now, later))


def test_a_saved_judge_reads_alike(judge: Judge, tmp_path: Path) -> None:
    judge.save(tmp_path)
    again = Judge.load(tmp_path)
    now, later = pixels(TEST.now), pixels(TEST.later)
    assert torch.equal(judge.read(now, later), again.read(now, later))
    assert str(again.report) == str(judge.report)  # as text, because R2 of the axis without motion is NaN
    with pytest.raises(InputError, match="a judge"):
        Judge.load(tmp_path / "nowhere")


def test_scores_by_hand() -> None:
    true = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]], np.float32)
    assert r_squared(true, true) == 1 and r_squared(np.zeros_like(true), true) == 0
    told = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, -2, 0]], np.float32)
    assert mean_cosine(told, true, least_m=0.5) == pytest.approx((1 - 1 + 0 + 1) / 4)
    assert np.isnan(mean_cosine(told, true, least_m=5))


def test_the_distance_of_features_grows_with_what_is_wrong(judge: Judge) -> None:
    now, later = pixels(TEST.now), pixels(TEST.later)
    none = judge.distance(now, later, later)
    shifted, still = judge.distance(now, later.roll(1, -1), later), judge.distance(now, now, later)
    assert none.shape == (150,) and none.abs().max() == 0
    assert shifted.mean() > 0 and still[np.linalg.norm(TEST.displacement_m, axis=1) > 0].min() > 0
    torch.testing.assert_close(still, judge.distance(now, later, now))
    torch.testing.assert_close(judge.distance(now, later + 0.001, later), none)  # less than 8 bits tell
