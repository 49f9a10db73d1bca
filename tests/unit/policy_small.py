"""Networks of a few thousand weights, bodies of different widths, and a backbone, tower and head from outside."""

import torch
from torch import nn

from cyclemimic.nn.batches import ObservationBatch
from cyclemimic.policy.action_heads import ActQueryHead, BodyWidths, HeadConfig, HeadOutput
from cyclemimic.policy.network import NetworkConfig, NetworkSpec, head_class
from cyclemimic.policy.prismatic import PrismaticBackbone, PrismaticConfig, build_language
from cyclemimic.policy.towers import ConvTower, ConvTowerConfig
from cyclemimic.policy.vocabulary import Vocabulary

K, L, BINS, PX = 7, 3, 11, 12
WORDS = Vocabulary.build(["push the red cube left"], num_codes=K)
SLOW = BodyWidths(name="slow", action_width=3, chunk_steps=2, proprioception_width=5)
FAST = BodyWidths(name="fast", action_width=2, chunk_steps=5, proprioception_width=7)
BLIND = BodyWidths(name="blind", action_width=5, chunk_steps=3)


def spec(kind="act_query", bodies=(SLOW,), cameras=0, vision="convolutional", language="llama", backbone="prismatic"):
    head = HeadConfig(
        kind=kind, channels=5, norm_groups=1, maps=3, reader_width=7, mlp_width=11, octaves=2, chunk_steps=2, bins=BINS
    )
    config = NetworkConfig(
        backbone_kind=backbone,
        backbone=PrismaticConfig(
            vision=vision,
            language=language,
            image_px=PX,
            width=26,
            layers=1,
            heads=13,
            mlp_width=29,
            extra_cameras=cameras,
            conv_tower=ConvTowerConfig(channels=(5, 7), norm_groups=1, token_rows=3),
        ),
        head=head,
    )
    vocabulary = WORDS.extended([], num_bins=head_class(head).num_bins(head))
    return NetworkSpec(config=config, vocabulary=vocabulary, num_tokens=L, bodies=tuple(bodies))


def observe(bodies=(SLOW,), batch=4, cameras=0, seed=0, body=None):
    g = torch.Generator().manual_seed(seed)
    words, mask = WORDS.table(["push the red cube left", None, "push left", "cube"][:batch])
    widest = max(b.proprioception_width for b in bodies)
    return ObservationBatch(
        images=torch.rand(batch, 3, PX, PX, generator=g),
        words=torch.from_numpy(words),
        word_mask=torch.from_numpy(mask),
        proprioception=torch.randn(batch, widest, generator=g) if widest else None,
        extra_images=tuple(torch.rand(batch, 3, PX, PX, generator=g) for _ in range(cameras)),
        body=(torch.arange(batch) % len(bodies)) if body is None else torch.full((batch,), body),
    )


def some_codes(batch=4, seed=0):
    return torch.randint(K, (batch, L), generator=torch.Generator().manual_seed(seed))


class OutsideTower(ConvTower):
    """A tower as a user would write one."""

    def __init__(self, config):
        super().__init__(config.conv_tower, image_px=config.image_px, width=config.width)


def outside_language(config, vocabulary_size):
    """A language model as a user would build one."""
    return build_language(PrismaticConfig(width=config.width, heads=13, layers=1, language="qwen2"), vocabulary_size)


class OutsideBackbone(PrismaticBackbone):
    """A backbone as a user would write one."""


class OutsideHead(nn.Module):
    """A head that says what its one weight per body says, whatever is seen."""

    num_action_tokens = 0

    def __init__(self, config, sizes):
        super().__init__()
        (self.body,) = sizes.bodies
        self.chunk = nn.Parameter(torch.zeros(self.body.chunk_steps, self.body.action_width))

    num_bins = staticmethod(lambda config: 0)

    def shift(self, observation):
        return None

    def tokens(self, actions, body):
        return None

    def forward(self, output, observation):
        return HeadOutput(actions=self.chunk.expand(len(output.act), -1, -1))

    losses = ActQueryHead.losses
