"""A Critic that looks at edges: each patch of the frame's gradients is judged by one linear layer."""

import torch
from torch import nn
from torch.nn import functional as F

from cyclemimic.errors import InputError
from cyclemimic.nn.batches import Scene
from cyclemimic.tokenizer.discriminator import CriticShape, Judgement

PATCH_PX = 4


class EdgeCritic(nn.Module):
    """A logit per patch [B, N], from how much each colour changes to the right and downwards. No global judgement."""

    def __init__(self, shape: CriticShape) -> None:
        super().__init__()
        if shape.feature_width is not None:
            remedy = "Choose a decoder that draws, or another critic."
            raise InputError("EdgeCritic", expected="frames to judge", got="features", remedy=remedy)
        self.judge = nn.Conv2d(6, 1, PATCH_PX, stride=PATCH_PX)

    def forward(self, later: Scene, now: Scene) -> Judgement:
        assert later.frames is not None
        frames = F.pad(later.frames, (0, 1, 0, 1), mode="replicate")
        right = frames[:, :, :-1, 1:] - later.frames
        down = frames[:, :, 1:, :-1] - later.frames
        edges = torch.cat([right, down], dim=1).abs()
        return Judgement(local=self.judge(edges).flatten(1))
