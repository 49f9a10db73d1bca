import math

import numpy as np
import pytest

from cyclemimic.errors import InputError
from cyclemimic.evaluate.moments import frame_pairs, true_pairs
from cyclemimic.evaluate.probes import Labelled, agreement, fit_mlp, fit_ridge, kappa, probe
from cyclemimic.evaluate.quality import joint_codes_within, measure_quality
from cyclemimic.evaluate.transfer import measure_references, plan_transfers
from tests.unit.evaluate_squares import CODES, ExactJudge, ExactTokenizer, film_cache, squares

TRAIN, TEST = squares(400, seed=1), squares(300, seed=2)


def test_moments_give_the_true_displacement_over_the_gap() -> None:
    cache, positions = film_cache()
    pairs = true_pairs(cache, positions, gap_s=0.6, limit=1000, seed=0)
    assert pairs.bodies == ("green", "red") and len(pairs) == 4 * (9 - 3)
    first = positions["clip0"]
    np.testing.assert_allclose(pairs.displacement_m[0], first[3] - first[0], atol=1e-7)
    np.testing.assert_array_equal(pairs.now[0], cache.frames[0])
    np.testing.assert_array_equal(pairs.later[0], cache.frames[3])
    np.testing.assert_array_equal(pairs.later[6], cache.frames[9 + 3])  # no pair crosses a clip's edge


def test_moments_are_balanced_and_repeatable() -> None:
    cache, positions = film_cache(clips=5)  # three clips of one body, two of the other
    a = true_pairs(cache, positions, gap_s=0.2, limit=20, seed=7)
    b = true_pairs(cache, positions, gap_s=0.2, limit=20, seed=7)
    assert np.bincount(a.body).tolist() == [10, 10]
    np.testing.assert_array_equal(a.now, b.now)
    assert not np.array_equal(a.now, frame_pairs(cache, gap_s=0.2, limit=20, seed=8).now)


def test_moments_refuse_a_clip_without_positions() -> None:
    cache, positions = film_cache()
    del positions["clip2"]
    with pytest.raises(InputError, match="clip2"):
        true_pairs(cache, positions, gap_s=0.6, limit=10, seed=0)


def test_kappa_by_hand() -> None:
    codes = np.array([[0], [1], [2], [1]])
    assert kappa(codes, codes, 3) == 1.0
    # Half agree; each side has marginals 1/2, 1/2, so chance is 1/2 and kappa 0.
    assert kappa(np.array([[0], [0], [1], [1]]), np.array([[0], [1], [0], [1]]), 2) == 0.0
    assert kappa(np.zeros((4, 1), np.int64), np.zeros((4, 1), np.int64), 2) == 0.0  # constant codes say nothing
    rng = np.random.default_rng(0)
    assert abs(kappa(rng.integers(0, 5, (4000, 2)), rng.integers(0, 5, (4000, 2)), 5)) < 0.03


def _labelled(codes: np.ndarray, displacement: np.ndarray, body: np.ndarray) -> Labelled:
    return Labelled(
        codes=codes, displacement_m=displacement.astype(np.float32), body=body,
        clip=np.arange(len(codes)), num_codes=CODES,
    )  # fmt: skip


def test_probe_is_perfect_where_codes_determine_the_motion_and_fails_where_a_body_permutes_them() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, CODES, (600, 2))
    moved = np.concatenate([codes - 4, np.zeros((600, 1))], 1) / 100
    body = np.array(["a", "b"])[np.arange(600) % 2]
    same_meaning = _labelled(codes, moved, body)
    scores = probe(same_meaning, same_meaning, ["a", "b"], lambda x, y: fit_ridge(x, y, penalty=1e-6))
    assert scores.same == pytest.approx(1, abs=1e-4) and scores.cross == pytest.approx(1, abs=1e-4)
    assert math.isnan(scores.unseen)

    permuted = codes.copy()
    permuted[body == "b"] = (permuted[body == "b"] + 4) % CODES
    other_meaning = _labelled(permuted, moved, body)
    scores = probe(other_meaning, other_meaning, ["a", "b"], fit_ridge)
    assert scores.same > 0.95 and scores.cross < 0
    assert probe(other_meaning, other_meaning, ["a"], fit_ridge).unseen < 0
    assert agreement(same_meaning, ["a", "b"]).cross > 0.99
    assert agreement(other_meaning, ["a", "b"]).cross < 0.1 < 0.99 < agreement(other_meaning, ["a", "b"]).same


def test_mlp_probe_reads_what_slots_say_together() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2, (400, 2))
    moved = np.repeat((codes[:, :1] ^ codes[:, 1:]) / 10, 3, axis=1)  # exclusive or: nothing for a linear map
    both = _labelled(codes, moved, np.array(["a"] * 400))
    assert probe(both, both, ["a"], fit_ridge).same < 0.1
    assert probe(both, both, ["a"], fit_mlp).same > 0.95


def test_transfers_go_to_other_bodies_and_stay_in_the_workspace() -> None:
    plan = plan_transfers(TEST, sources=TEST.bodies, targets=TEST.bodies, same_body=False, limit=100, seed=0)
    assert len(plan) == 100 and (TEST.body[plan.source] != TEST.body[plan.target]).all()
    assert TEST.position_m is not None
    end = TEST.position_m[plan.target] + TEST.displacement_m[plan.source]
    assert (end >= TEST.position_m.min(0)).all() and (end <= TEST.position_m.max(0)).all()
    within = plan_transfers(TEST, sources=TEST.bodies, targets=TEST.bodies, same_body=True, limit=50, seed=0)
    assert (TEST.body[within.source] == TEST.body[within.target]).all()
    assert (TEST.clip[within.source] != TEST.clip[within.target]).all()


def test_a_tokenizer_that_moves_truly_is_perfect() -> None:
    quality = measure_quality(ExactTokenizer(), TRAIN, TEST, ExactJudge(), seed=0)
    assert quality.transfer_cosine == pytest.approx(1, abs=1e-6)
    assert quality.transfer_r2 == pytest.approx(1, abs=1e-6)
    assert quality.transfer_cosine_same == pytest.approx(1, abs=1e-6)
    assert quality.probe_same > 0.99 and quality.probe_cross > 0.99
    assert quality.kappa_cross == pytest.approx(1) and quality.kappa_same == pytest.approx(1)
    assert quality.cycle_accuracy == 1.0 and quality.dead_codes == 0
    assert 60 < quality.joint_codes < 81 and 8 < quality.slot_perplexity <= 9
    assert quality.reconstruction_vs_copy < 0.2  # what was hidden is painted grey
    assert math.isnan(quality.probe_unseen) and math.isnan(quality.transfer_cosine_unseen)


def test_a_decoder_that_copies_transfers_nothing() -> None:
    quality = measure_quality(ExactTokenizer(moves=False), TRAIN, TEST, ExactJudge(), seed=0)
    assert quality.transfer_cosine == 0 and abs(quality.transfer_r2) < 0.05
    assert quality.reconstruction_vs_copy == pytest.approx(1)
    assert quality.probe_cross > 0.99  # codes may be good although the decoder ignores them


def test_permuted_codes_pass_the_cycle_but_not_the_probe() -> None:
    quality = measure_quality(ExactTokenizer(permute=True), TRAIN, TEST, ExactJudge(), seed=0)
    assert quality.cycle_accuracy > 0.7  # moves beyond the picture's edge are cut, and read back cut
    assert quality.transfer_cosine < 0.5 and quality.kappa_cross < 0.2 < quality.kappa_same


def test_codes_that_only_name_the_body_do_not_count_within_a_body() -> None:
    body = np.repeat([0, 1, 2], 40)
    own = np.arange(120) % 4
    alike, apart = np.stack([own, own], 1), np.stack([own, body], 1)
    assert joint_codes_within(alike, body, 8) == pytest.approx(4)
    assert joint_codes_within(apart, body, 8) == pytest.approx(4)
    assert joint_codes_within(apart, np.zeros_like(body), 8) == pytest.approx(12)


def test_unseen_bodies_are_measured_apart() -> None:
    three = squares(300, seed=4, bodies=("red", "green", "blue"))
    quality = measure_quality(ExactTokenizer(), TRAIN, three, ExactJudge(), seed=0, seen_bodies=("red", "green"))
    assert quality.probe_unseen > 0.99 and quality.transfer_cosine_unseen == pytest.approx(1, abs=1e-6)


def test_references_bracket_the_tokenizer() -> None:
    references = measure_references(ExactTokenizer(), TEST, ExactJudge(), seed=0)
    assert references.copy.transfer_cosine == 0
    assert abs(references.random_code.transfer_cosine) < 0.15
    assert references.oracle_code.transfer_cosine > 0.95
