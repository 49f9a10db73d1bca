"""Parts that come from outside the package, named by module:name in the tests."""

import torch
from torch import nn

from cyclemimic.nn.batches import Features
from cyclemimic.tokenizer.decoders import Decoded
from cyclemimic.tokenizer.discriminator import Judgement


class Backbone(nn.Module):
    """Means of squares of pixels, with dropout that must stay off where it is frozen."""

    def __init__(self, config):
        super().__init__()
        self.width, self.stride_px = config.width, config.stride_px
        self.scale, self.dropout = nn.Parameter(torch.rand(3, config.width)), nn.Dropout(0.5)

    def grid_for(self, size_px):
        return (size_px // self.stride_px,) * 2

    def forward(self, frames):
        squares = nn.functional.avg_pool2d(frames, self.stride_px)
        patches = self.dropout(squares.flatten(2).transpose(1, 2) @ self.scale)
        return Features(patches=patches, grid=(squares.shape[2], squares.shape[3]))


class Loaded(Backbone):
    """The same, as loaded from elsewhere: it has an identity."""

    weights_sha256 = "a" * 64


class Brightness(nn.Module):
    """A decoder that makes the frame as much brighter as the latent action says."""

    draws = True

    def __init__(self, shape):
        super().__init__()
        self.shape, self.brighter = shape, nn.Linear(shape.num_tokens * shape.code_width, 1)

    def forward(self, now, vectors, words=None):
        frames = now.frames + self.brighter(vectors.flatten(1))[:, :, None, None]
        return Decoded(scene=type(now)(frames=frames), painted=torch.zeros(len(now)))


class Greyness(nn.Module):
    """A critic that judges the whole frame alone."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.grey = shape, nn.Linear(3, 1)

    def forward(self, later, now):
        return Judgement(whole=self.grey(later.frames.mean((2, 3))).squeeze(-1))
