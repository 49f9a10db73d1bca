"""A tokenizer of prime sizes, and pairs to feed it, for the tests of the paper's claims."""

import torch

from cyclemimic.nn.batches import PairBatch, Scene
from cyclemimic.nn.vision import BackboneConfig
from cyclemimic.tokenizer.buffer import LatentActionBuffer
from cyclemimic.tokenizer.decoders import (
    DecoderShape,
    FeatureDecoderConfig,
    MotionDecoderConfig,
    PixelDecoderConfig,
)
from cyclemimic.tokenizer.discriminator import CriticShape, Discriminator, DiscriminatorConfig
from cyclemimic.tokenizer.encoder import EncoderConfig
from cyclemimic.tokenizer.quantizer import QuantizerConfig
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer, TokenizerConfig

BATCH, SIZE_PX, TOKENS, CODES, CODE_WIDTH = 6, 16, 3, 7, 5
SHAPE = DecoderShape(num_tokens=TOKENS, code_width=CODE_WIDTH, size_px=SIZE_PX, feature_width=24, grid=(4, 4))
FROZEN = BackboneConfig(width=24, trainable=False)


def picture(frames):
    """Frames as D wants them."""
    return Scene(frames=frames)


def small_config(**changes):
    return TokenizerConfig(
        **{
            "size_px": SIZE_PX,
            "backbone": BackboneConfig(width=24),
            "encoder": EncoderConfig(width=22, blocks=2, heads=2, num_tokens=TOKENS, code_width=CODE_WIDTH),
            "quantizer": QuantizerConfig(num_codes=CODES, reset_after=11),
            "motion": MotionDecoderConfig(width=8),
            "pixel": PixelDecoderConfig(width=24, blocks=1, heads=2),
            "feature": FeatureDecoderConfig(width=24, blocks=1, heads=2),
            **changes,
        }
    )


def small_tokenizer(**changes):
    torch.manual_seed(0)
    return LatentActionTokenizer(small_config(**changes)).train()


def small_critic(**changes):
    torch.manual_seed(1)
    return Discriminator(DiscriminatorConfig(width=16, blocks=1, heads=2, **changes), CriticShape(size_px=SIZE_PX))


def small_buffer(batches=4):
    return LatentActionBuffer(num_batches=batches, batch_size=BATCH, num_tokens=TOKENS)


def small_batch(seed=0, size=BATCH, **more):
    generator = torch.Generator().manual_seed(seed)
    now = torch.rand(size, 3, SIZE_PX, SIZE_PX, generator=generator)
    later = (now + 0.3 * torch.rand(now.shape, generator=generator)).clamp(0, 1)
    return PairBatch(now=now, later=later, body=torch.arange(size) % 3, **more)


def parameters_of(*modules):
    return [p for m in modules for p in m.parameters()]


def has_gradient(*modules):
    return any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters_of(*modules))
