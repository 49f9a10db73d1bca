"""The leak index tells a decoder that moves from one that signs."""

import math

import numpy as np
import pytest
import torch

from cyclemimic.evaluate.cycle import act_plan, cycle_accuracy, eight_bit
from cyclemimic.evaluate.leak import ReaderConfig, measure_leak, shrunk
from cyclemimic.evaluate.models import label_pairs
from cyclemimic.evaluate.transfer import plan_transfers
from tests.unit.evaluate_squares import ExactTokenizer, Mute, Signer, squares

TRAIN, TEST = squares(900, seed=1), squares(200, seed=2)
CONFIG = ReaderConfig(width=8, steps=350, batch_size=32)


def _leak(model, config=CONFIG, seed=0):
    codes = label_pairs(model, TEST)
    plan = plan_transfers(TEST, sources=TEST.bodies, targets=TEST.bodies, same_body=False, limit=300, seed=0)
    acted = act_plan(model, TEST, codes, plan)
    cycle = cycle_accuracy(model, acted, seed=0)
    leak = measure_leak(
        model, TRAIN, label_pairs(model, TRAIN), TEST, codes, acted, accuracy=cycle.clean, seed=seed, config=config
    )  # fmt: skip
    return cycle, leak


@pytest.fixture(scope="module")
def found():
    return {model: _leak(model()) for model in (ExactTokenizer, Signer)}


def test_an_honest_mover_leaks_nothing_and_a_signer_everything(found):
    (honest_cycle, honest), (signed_cycle, signed) = found.values()
    assert honest_cycle.clean == signed_cycle.clean == 1, "the cycle cannot tell them apart"
    assert honest.reader_real > 0.5 and abs(honest.reader_generated - honest.reader_real) < 0.15
    assert abs(honest.leak_excess) < 0.15
    assert signed.leak_index > 0.5 < signed.leak_excess
    # The index also counts what the reader misses on real pairs.
    assert honest.leak_index == pytest.approx((1 - honest.reader_generated) / honest.reader_real)


def test_what_is_written_into_a_frame_is_read_from_it_alone(found):
    (_, honest), (_, signed) = found.values()
    assert signed.alone > signed.alone_chance + 0.3
    assert honest.alone < signed.alone - 0.2
    assert 0.05 < signed.alone_chance < 0.25


def test_a_signature_in_faint_shades_does_not_survive_noise_and_survives_eight_bits(found):
    (honest, _), (signed, _) = found.values()
    assert signed.eight_bit == 1 and signed.noise < 0.8
    assert honest.noise == honest.blur == 1
    assert torch.equal(eight_bit(torch.tensor([0.0, 0.5, 2.0])) * 255, torch.tensor([0.0, 128.0, 255.0]))


def test_it_is_a_function_of_the_seed_and_leaves_the_global_generator_alone():
    quick = ReaderConfig(width=4, steps=5, batch_size=8)
    before = torch.get_rng_state()
    first, again, other = (_leak(ExactTokenizer(), quick, seed)[1] for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert first == again != other


def test_without_frames_there_is_nothing_to_read():
    cycle, leak = _leak(Mute())
    assert all(math.isnan(value) for value in [*vars(cycle).values(), *vars(leak).values()])


def test_large_frames_are_shrunk_by_areas():
    frames = torch.from_numpy(np.random.default_rng(0).random((2, 3, 128, 128), np.float32))
    assert torch.allclose(shrunk(frames)[0, 0, 0, 0], frames[0, 0, :2, :2].mean())
    assert shrunk(frames[..., :23, :23]).shape[-1] == 23
