"""What every Decoder promises. A new decoder joins by one line in DECODERS."""

import dataclasses

import pytest
import torch

from cyclemimic.errors import InputError
from cyclemimic.nn.batches import Features, Scene
from cyclemimic.tokenizer.decoders import (
    DecoderShape,
    FeatureDecoder,
    FeatureDecoderConfig,
    MotionDecoder,
    MotionDecoderConfig,
    PixelDecoder,
    PixelDecoderConfig,
)
from cyclemimic_example.decoder import ShiftDecoder

BATCH, PX, TOKENS, CODE, FEATURES, GRID = 5, 16, 3, 7, 11, (4, 4)
SHAPE = DecoderShape(num_tokens=TOKENS, code_width=CODE, size_px=PX, feature_width=FEATURES, grid=GRID)

# name -> how it is made for a shape
DECODERS = {
    "motion": lambda shape: MotionDecoder(MotionDecoderConfig(width=8), shape),
    "motion, free": lambda shape: MotionDecoder(MotionDecoderConfig(kind="free", width=8), shape),
    "pixel": lambda shape: PixelDecoder(PixelDecoderConfig(width=26, heads=2, blocks=1), shape),
    "feature": lambda shape: FeatureDecoder(FeatureDecoderConfig(width=26, heads=2, blocks=1), shape),
    "example": ShiftDecoder,
}


def built(name, shape=SHAPE):
    """With weights as after some training: many decoders begin as a copy."""
    torch.manual_seed(0)
    decoder = DECODERS[name](shape)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return decoder.train()


@pytest.fixture(params=DECODERS)
def decoder(request):
    return built(request.param)


def scenes(batch=BATCH):
    g = torch.Generator().manual_seed(1)
    patches = torch.randn(batch, GRID[0] * GRID[1], FEATURES, generator=g)
    return Scene(frames=torch.rand(batch, 3, PX, PX, generator=g), features=Features(patches=patches, grid=GRID))


def codes(seed=2):
    return torch.randn(BATCH, TOKENS, CODE, generator=torch.Generator().manual_seed(seed))


def test_scenes_come_back_as_it_says_and_in_the_size_in_which_they_went(decoder):
    now = scenes()
    later = decoder(now, codes()).scene
    if decoder.draws:
        assert later.frames.shape == now.frames.shape and later.features is None
    else:
        assert later.frames is None
        assert later.features.patches.shape == now.features.patches.shape and later.features.grid == GRID
    assert torch.isfinite(later.signal).all()


def test_what_was_painted_is_a_share_of_each_scene(decoder):
    painted = decoder(scenes(), codes()).painted
    assert painted.shape == (BATCH,) and (painted >= 0).all() and (painted <= 1).all()


def test_a_flow_has_two_numbers_for_every_pixel(decoder):
    flow = decoder(scenes(), codes()).flow
    assert flow is None or flow.shape == (BATCH, 2, PX, PX)


def test_it_does_not_draw_lots(decoder):
    one, other = (decoder(scenes(), codes()).scene.signal for _ in range(2))
    assert torch.equal(one, other)


def test_other_latent_actions_make_other_scenes(decoder):
    one, other = (decoder(scenes(), codes(seed)).scene.signal for seed in (2, 3))
    assert (one - other).abs().amax(tuple(range(1, one.ndim))).min() > 1e-4


def test_every_token_of_the_latent_action_counts(decoder):
    vectors = codes().requires_grad_()
    decoder(scenes(), vectors).scene.signal.square().sum().backward()
    assert (vectors.grad.abs().sum(-1) > 0).all()


def test_the_gradient_reaches_every_weight(decoder):
    decoded = decoder(scenes(), codes())
    (decoded.scene.signal.square().sum() + decoded.painted.sum()).backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_scene_alone_is_decoded_as_in_company(decoder):
    whole = decoder(scenes(), codes()).scene.signal
    alone = decoder(scenes().take(slice(2, 3)), codes()[2:3]).scene.signal
    torch.testing.assert_close(alone, whole[2:3], atol=1e-5, rtol=1e-4)


def test_the_scenes_now_stay_as_they_are(decoder):
    now = scenes()
    kept = now.frames.clone(), now.features.patches.clone()
    decoder(now, codes())
    assert torch.equal(now.frames, kept[0]) and torch.equal(now.features.patches, kept[1])


def test_it_runs_in_bf16_autocast_and_says_nearly_the_same(decoder):
    exact = decoder(scenes(), codes()).scene.signal
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = decoder(scenes(), codes()).scene.signal.float()
    assert (rough - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("name", DECODERS)
def test_words_are_heard_or_refused_when_it_is_built(name):
    shape = dataclasses.replace(SHAPE, word_width=13)
    try:
        decoder = built(name, shape)
    except InputError as error:
        assert error.remedy
        return
    one, other = (decoder(scenes(), codes(), torch.randn(BATCH, 2, 13)).scene.signal for _ in range(2))
    assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize("name", DECODERS)
def test_it_can_be_built_and_run_without_memory(name):
    with torch.device("meta"):
        decoder = DECODERS[name](SHAPE)
        features = Features(patches=torch.rand(BATCH, GRID[0] * GRID[1], FEATURES), grid=GRID)
        now = Scene(frames=torch.rand(BATCH, 3, PX, PX), features=features)
        assert decoder(now, torch.rand(BATCH, TOKENS, CODE)).scene.signal.is_meta
