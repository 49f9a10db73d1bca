"""The policy that acts: checks its observation, is deterministic, and acts equally after a trip to the disk."""

import dataclasses

import numpy as np
import pytest

from cyclemimic.embodiment.normalize import Normalizer
from cyclemimic.errors import InputError
from cyclemimic.policy.action_heads import BodyWidths, HeadConfig
from cyclemimic.policy.network import NetworkConfig, NetworkSpec, build_policy_network
from cyclemimic.policy.policy import BodySpec, LatentActionPolicy
from cyclemimic.policy.prismatic import PrismaticConfig
from cyclemimic.policy.towers import ConvTowerConfig
from cyclemimic.policy.vocabulary import Vocabulary
from cyclemimic.types import ActionSpace, Axis, CameraSpec, Observation, Policy

AXES = tuple(Axis(name=n, unit=u, low=-0.03, high=0.05) for n, u in (("x", "m"), ("y", "m"), ("grip", "fraction")))
SPACE = ActionSpace(name="toy", axes=AXES, rate_hz=5.0)
ROWS = np.random.default_rng(1).normal(0, 0.01, (53, 3)).astype(np.float32)
STATES = np.random.default_rng(2).normal(0.3, 0.1, (53, 7)).astype(np.float32)


def make(state=True, camera_px=24):
    vocabulary = Vocabulary.build(["push the red cube left", "reach the blue cube"], num_codes=5)
    backbone = PrismaticConfig(
        image_px=24,
        width=26,
        heads=13,
        mlp_width=37,
        conv_tower=ConvTowerConfig(channels=(5, 7), norm_groups=1, token_rows=3),
    )
    config = NetworkConfig(
        backbone=backbone,
        head=HeadConfig(channels=11, norm_groups=1, maps=5, reader_width=13, mlp_width=17, octaves=2, chunk_steps=2),
    )
    spec = NetworkSpec(
        config=config,
        vocabulary=vocabulary,
        num_tokens=3,
        bodies=(BodyWidths(name="toy", action_width=3, chunk_steps=2, proprioception_width=7 if state else 0),),
    )
    body = BodySpec(
        action_space=SPACE,
        camera=CameraSpec(name="front", height_px=camera_px, width_px=camera_px),
        actions=Normalizer.fit(ROWS),
        proprioception=Normalizer.fit(STATES, "std") if state else None,
    )
    return LatentActionPolicy(build_policy_network(spec, seed=3), body)


def look(seed=0, side=24, sentence="push the red cube left", camera="front", state=True):
    picture = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return Observation(images={camera: picture}, instruction=sentence, proprioception=STATES[seed] if state else None)


def test_acts_in_units_and_within_limits():
    policy = make()
    assert isinstance(policy, Policy)
    chunk = policy.act(look())
    assert chunk.actions.shape == (2, 3)
    assert chunk.space == SPACE
    policy.network.head.decoders[0].mlp[-1].bias.data.fill_(1e6)
    assert np.array_equal(policy.act(look()).actions, np.tile(SPACE.high, (2, 1)))


def test_deterministic_and_equal_in_a_batch():
    policy, seen = (
        make(),
        [look(i, sentence=s) for i, s in enumerate(["reach the blue cube", None, "push the red cube left"])],
    )
    assert np.array_equal(policy.act(seen[0]).actions, policy.act(seen[0]).actions)
    for one, together in zip(seen, policy.act_batch(seen), strict=True):
        np.testing.assert_allclose(policy.act(one).actions, together.actions, atol=1e-6)
    assert policy.act_batch([]) == []
    assert policy.codes(seen).shape == (3, 3)


@pytest.mark.parametrize("state", [True, False])
def test_round_trip_acts_bit_for_bit(tmp_path, state):
    policy = make(state=state)
    policy.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "network.json", "policy.json"]
    again = LatentActionPolicy.load(tmp_path)
    assert again.body.action_space == SPACE
    for i in range(3):
        assert np.array_equal(policy.act(look(i)).actions, again.act(look(i)).actions)


def test_pictures_of_the_camera_are_scaled_to_the_network():
    assert make(camera_px=36).act(look(side=36)).actions.shape == (2, 3)


def test_unknown_word_is_said_once():
    policy = make()
    with pytest.warns(UserWarning, match="purple"):
        policy.act(look(sentence="push the purple cube left"))
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.act(look(sentence="push the purple cube left"))


def test_errors(tmp_path):
    policy = make()
    with pytest.raises(InputError, match="camera 'front'"):
        policy.act(look(camera="wrist"))
    with pytest.raises(InputError, match="24 x 24 px"):
        policy.act(look(side=31))
    with pytest.raises(InputError, match="robot's state"):
        policy.act(look(state=False))
    with pytest.raises(InputError, match="width 7"):
        policy.act(dataclasses.replace(look(), proprioception=np.zeros(5, np.float32)))
    with pytest.raises(InputError, match="specification"):
        LatentActionPolicy.load(tmp_path)
    policy.save(tmp_path)
    (tmp_path / "policy.json").unlink()
    with pytest.raises(InputError, match="fine-tuned policy"):
        LatentActionPolicy.load(tmp_path)
