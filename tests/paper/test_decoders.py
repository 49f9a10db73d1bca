"""D: frame and latent action to the later frame; a motion decoder can move but hardly paint."""

import pytest
import torch
from torch.nn import functional as F

from cyclemimic.nn.vision import coordinates
from cyclemimic.tokenizer.decoders import MotionDecoder, MotionDecoderConfig
from tests.paper.small import CODE_WIDTH, SHAPE, SIZE_PX, TOKENS, picture, small_batch, small_config, small_tokenizer

KINDS = ["free", "factorised"]


def motion(kind):
    torch.manual_seed(0)
    return MotionDecoder(MotionDecoderConfig(kind=kind, width=8), SHAPE)


@pytest.mark.parametrize("decoder", ["motion", "pixel"])
def test_frames_of_the_same_size_that_depend_on_the_latent_action(decoder):
    tokenizer, batch = small_tokenizer(decoder=decoder), small_batch()
    if decoder == "pixel":
        torch.nn.init.normal_(tokenizer.decoder.out.weight)
    vectors = torch.randn(len(batch), TOKENS, CODE_WIDTH)
    one, other = (tokenizer.decode(picture(batch.now), v).frames for v in (vectors, -vectors))
    assert one.shape == batch.now.shape
    assert not torch.allclose(one, other, atol=1e-4)


def test_pixel_decoder_begins_as_a_copy():
    tokenizer, batch = small_tokenizer(decoder="pixel"), small_batch()
    vectors = torch.randn(len(batch), TOKENS, CODE_WIDTH)
    torch.testing.assert_close(tokenizer.decode(picture(batch.now), vectors).frames, batch.now)


@pytest.mark.parametrize("kind", KINDS)
def test_without_paint_every_colour_comes_from_the_frame(kind):
    decoder = motion(kind)
    with torch.no_grad():
        decoder.out.bias[-4] = -40.0  # the mask's plane: nothing is painted
    now = torch.rand(5, 3, SIZE_PX, SIZE_PX) * 0.3 + 0.2
    decoded = decoder(picture(now), torch.randn(5, TOKENS, CODE_WIDTH))
    assert decoded.painted.max() < 1e-6
    assert decoded.frames.amin() >= now.amin() - 1e-5
    assert decoded.frames.amax() <= now.amax() + 1e-5


def test_factorised_the_code_alone_says_how_things_move():
    """Where the gate is open, the flow at the hand is a function of the code, the same on every frame."""
    decoder = motion("factorised")
    with torch.no_grad():
        decoder.out.bias[0] = 40.0  # the gate is open everywhere
        decoder.out.weight.zero_()
    code = torch.randn(1, TOKENS, CODE_WIDTH).expand(2, -1, -1)
    now = torch.rand(2, 3, SIZE_PX, SIZE_PX)
    place = coordinates(now)
    fine = F.gelu(decoder.stem(torch.cat([now * 2 - 1, place], 1)))
    planes = torch.zeros(2, 5, SIZE_PX, SIZE_PX) + 10
    flow = decoder._flow(planes, fine, code.flatten(1), place)
    hand = decoder._hand(fine)
    shift, stretch = decoder.how(code.flatten(1)).split([2, 4], -1)
    stretch = torch.tanh(stretch).view(2, 2, 2) * 0.5
    at_hand = flow - torch.einsum("bij,bjhw->bihw", stretch, place - hand)
    torch.testing.assert_close(at_hand[0], at_hand[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(at_hand[0, :, 0, 0], torch.tanh(shift[0]) * decoder.config.reach, atol=1e-4, rtol=0)


def test_config_survives_json():
    from dataclasses import asdict

    from cyclemimic.tokenizer.tokenizer import TokenizerConfig

    config = small_config(decoder="pixel")
    assert TokenizerConfig.from_json(asdict(config)) == config
