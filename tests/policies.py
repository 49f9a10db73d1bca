"""A policy of random weights for the arms world, saved as `finetune` saves one."""

import numpy as np
import torch

from cyclemimic.embodiment.normalize import Normalizer
from cyclemimic.policy.action_heads import BodyWidths
from cyclemimic.policy.network import NetworkSpec, build_policy_network
from cyclemimic.policy.policy import BodySpec, LatentActionPolicy
from cyclemimic.policy.vocabulary import Vocabulary
from cyclemimic.worlds.arms import ArmsWorld
from tests.journey.small import NETWORK


def arms_policy(seed=3):
    """Acts somehow, but not twice alike for two observations."""
    world, rng = ArmsWorld(), np.random.default_rng(seed)
    space = world.action_space
    sentences = ["push the red cube left", "reach the blue cube", "lift the green cube right"]
    steps = NETWORK.head.steps_at(space.rate_hz)
    spec = NetworkSpec(
        config=NETWORK,
        vocabulary=Vocabulary.build(sentences, num_codes=5),
        num_tokens=2,
        bodies=(BodyWidths(name="arm", action_width=space.width, chunk_steps=steps, proprioception_width=5),),
    )
    body = BodySpec(
        action_space=space,
        camera=world.camera,
        actions=Normalizer.fit(rng.uniform(space.low, space.high, (53, space.width)).astype(np.float32)),
        proprioception=Normalizer.fit(rng.uniform(-0.1, 0.2, (53, 5)).astype(np.float32), "std"),
    )
    network = build_policy_network(spec, seed=seed)
    # At the start a head answers much the same to everything.
    network.head.decoders[0].mlp[-1].weight.data.normal_(0, 1, generator=torch.Generator().manual_seed(seed))
    return LatentActionPolicy(network, body)
