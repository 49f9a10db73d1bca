"""Fine-tuning an SO-101 with two cameras, several bodies at once, every head, no sentences, new words; bad input."""

import dataclasses

import numpy as np
import pytest
import torch

from cyclemimic.embodiment.so101 import SO101_ACTION_SPACE
from cyclemimic.errors import InputError
from cyclemimic.nn.batches import pixels
from cyclemimic.policy.action_heads import HeadConfig, hindsight_loss
from cyclemimic.policy.network import NetworkConfig, NetworkSpec, build_pretrain_network, read_spec, save_network
from cyclemimic.policy.policy import LatentActionPolicy
from cyclemimic.policy.prismatic import PrismaticConfig
from cyclemimic.policy.towers import ConvTowerConfig
from cyclemimic.policy.vocabulary import Vocabulary
from cyclemimic.train.demonstrations import demonstration_data
from cyclemimic.train.stage3_finetune import FinetuneConfig, FinetuneStage
from cyclemimic.train.trainee import OptimConfig
from cyclemimic.types import ActionSpace, Axis, CameraSpec, ClipInfo, Episode, Observation
from tests.unit.so101_small import so101_episode

PX, CHUNK_S = 12, 0.2
NETWORK = NetworkConfig(
    backbone=PrismaticConfig(
        image_px=PX,
        width=26,
        layers=1,
        heads=13,
        mlp_width=29,
        conv_tower=ConvTowerConfig(channels=(5, 7), norm_groups=1, token_rows=3),
    ),
    head=HeadConfig(channels=7, norm_groups=1, maps=3, reader_width=17, mlp_width=19, chunk_s=CHUNK_S, bins=13),
)
FINETUNE = FinetuneConfig(
    network=NETWORK, optim=OptimConfig(steps=5, learning_rate=3e-3, warmup_steps=1), batch=6, extra_cameras=("wrist",)
)
ARM = ActionSpace(
    name="toy", axes=tuple(Axis(name=n, unit="m", low=-1, high=1, kind="delta") for n in "abcde"), rate_hz=10.0
)


def so101_data(count=2, extra=("wrist",), chunk_steps=6, **options):
    found = (so101_episode(i, **options) for i in range(count))
    return demonstration_data(found, None, chunk_steps=chunk_steps, extra_cameras=extra, image_px=PX)


def arm_data(name="arm", state=4, instruction="push it", chunk_steps=2):
    rng = np.random.default_rng(7)
    found = [
        Episode(
            info=ClipInfo(name=f"{name}{i}", embodiment=name, fps=10.0, num_frames=5, instruction=instruction),
            frames=rng.integers(0, 256, (5, 24, 24, 3), np.uint8),
            actions=rng.uniform(-1, 1, (4, 5)).astype(np.float32),
            proprioception=rng.normal(size=(5, state)).astype(np.float32) if state else None,
            action_space=ARM,
        )
        for i in range(2)
    ]
    return demonstration_data(found, None, chunk_steps=chunk_steps, image_px=PX)


def trained(stage, steps=3):
    for step in range(steps):
        assert all(torch.isfinite(value) for value in stage.step(step).values())
    return stage


def so101_look(t=0, seed=0, instruction="lift the cube", cameras=("front", "wrist")):
    found = so101_episode(seed)
    images = {"front": found.frames[t], "wrist": found.extra_frames["wrist"][t]}
    return Observation(
        images={name: images[name] for name in cameras},
        instruction=instruction,
        proprioception=found.proprioception[t],
    )


@pytest.mark.parametrize("kind", ["act_query", "latent", "bins"])
def test_so101_from_episodes_to_joint_targets(kind, tmp_path):
    network = dataclasses.replace(NETWORK, head=dataclasses.replace(NETWORK.head, kind=kind))
    stage = trained(FinetuneStage(dataclasses.replace(FINETUNE, network=network), so101_data()))
    stage.save(tmp_path)
    policy = LatentActionPolicy.load(tmp_path)
    chunk = policy.act(so101_look())
    assert chunk.actions.shape == (6, 6) == (policy.chunk_steps, SO101_ACTION_SPACE.width)  # .2 s of 30 Hz
    assert chunk.space == SO101_ACTION_SPACE
    assert (chunk.actions >= SO101_ACTION_SPACE.low).all()
    assert (chunk.actions <= SO101_ACTION_SPACE.high).all()
    assert policy.body.camera == CameraSpec(name="front", height_px=480, width_px=640)
    assert policy.body.extra_cameras == (CameraSpec(name="wrist", height_px=480, width_px=640),)
    assert np.array_equal(chunk.actions, stage.policy().act(so101_look()).actions)
    assert read_spec(tmp_path).config.head.kind == kind
    with pytest.raises(InputError, match="camera 'wrist'"):
        policy.act(so101_look(cameras=("front",)))
    small = dict(so101_look().images) | {"wrist": np.zeros((24, 32, 3), np.uint8)}
    with pytest.raises(InputError, match="480 x 640 px"):
        policy.act(dataclasses.replace(so101_look(), images=small))
    black = dict(so101_look().images) | {"wrist": np.zeros((480, 640, 3), np.uint8)}
    if kind != "bins":  # a bin may well stay the likeliest
        assert not np.array_equal(policy.act(dataclasses.replace(so101_look(), images=black)).actions, chunk.actions)


def test_acts_on_the_very_pictures_that_it_was_trained_on():
    data = so101_data()
    policy = FinetuneStage(FINETUNE, data).policy()
    batch = policy._batch([so101_look(t=3)])
    assert torch.equal(batch.images, pixels(data.images[3:4]))
    assert torch.equal(batch.extra_images[0], pixels(data.extra_images[0][3:4]))


def test_so101_learns_its_joints():
    config = dataclasses.replace(FINETUNE, optim=OptimConfig(steps=80, learning_rate=1e-2, warmup_steps=5), batch=16)
    stage = FinetuneStage(config, so101_data())
    first = float(stage.step(0)["action_l1"].detach())
    last = np.mean([float(stage.step(i)["action_l1"].detach()) for i in range(1, 80)][-10:])
    assert last < 0.5 * first


@pytest.mark.parametrize("kind", ["act_query", "latent", "bins"])
@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_several_bodies_in_one_network(kind, adaptation, tmp_path):
    head = dataclasses.replace(NETWORK.head, kind=kind)
    config = dataclasses.replace(
        FINETUNE, network=dataclasses.replace(NETWORK, head=head), adaptation=adaptation, lora_rank=2
    )
    sets = [so101_data(), arm_data(), arm_data("mute", state=0)]
    stage = trained(FinetuneStage(config, sets))
    stage.save(tmp_path)
    with pytest.raises(InputError, match="so101, arm, mute"):
        LatentActionPolicy.load(tmp_path)
    with pytest.raises(InputError, match="Did you mean 'arm'"):
        LatentActionPolicy.load(tmp_path, embodiment="arms")
    policy = LatentActionPolicy.load(tmp_path, embodiment="arm")
    look = Observation(images={"front": np.zeros((24, 24, 3), np.uint8)}, proprioception=np.zeros(4, np.float32))
    assert policy.act(look).actions.shape == (2, 5)
    assert policy.act(look).space == ARM
    mute = policy.driving("mute").act(dataclasses.replace(look, proprioception=None))
    assert mute.actions.shape == (2, 5)
    assert policy.driving("so101").act(so101_look()).actions.shape == (6, 6)
    with pytest.raises(InputError, match="width 4"):
        policy.act(dataclasses.replace(look, proprioception=np.zeros(6, np.float32)))


def test_resumed_equals_unbroken_with_several_bodies():
    make = lambda: FinetuneStage(FINETUNE, [so101_data(), arm_data()])  # noqa: E731
    whole, first, second = make(), make(), make()
    for step in range(4):
        whole.step(step)
    for step in range(2):
        first.step(step)
    second.load_state({name: value.clone() for name, value in first.state().items()})
    for step in range(2, 4):
        second.step(step)
    assert all(torch.equal(value, second.export()[name]) for name, value in whole.export().items())


def test_bodies_are_drawn_evenly_and_their_rows_are_their_own():
    stage = FinetuneStage(dataclasses.replace(FINETUNE, batch=2000, shift_px=0), [so101_data(), arm_data()])
    batch = stage.draw(np.random.default_rng(0))
    body = batch.observation.body
    assert abs(float(body.float().mean()) - 0.5) < 0.05
    assert batch.axis_mask[body == 1].sum(1).eq(5).all()
    assert batch.axis_mask[body == 0].sum(1).eq(6).all()
    assert batch.hindsight_mask is None
    assert not batch.action_mask[body == 1][:, 2:].any()
    assert torch.equal(batch.observation.extra_seen[:, 0], body == 0)
    assert not batch.observation.extra_images[0][body == 1].any()
    arm = stage.bodies["arm"].actions.normalize(stage.sets[1].actions).reshape(8, -1)
    for row in batch.actions[body == 1][:9, :2, :5].reshape(9, -1).numpy():
        assert (np.abs(arm - row).max(1) < 1e-6).any()


def test_where_the_hand_ends_is_learnt_of_the_bodies_that_tell():
    stage = FinetuneStage(dataclasses.replace(FINETUNE, batch=100), [so101_data(), arm_data("mute", state=0)])
    batch = stage.draw(np.random.default_rng(0))
    assert torch.equal(batch.hindsight_mask, batch.observation.body == 0)
    assert not batch.observation.proprioception[batch.observation.body == 1].any()
    guess = torch.where(batch.hindsight_mask[:, None], batch.hindsight + 2, torch.full((100, 3), 99.0))
    assert float(hindsight_loss(guess, batch.hindsight, batch.hindsight_mask)) == pytest.approx(2.0)


def test_no_sentences_and_dropout(tmp_path):
    config = dataclasses.replace(FINETUNE, instruction_dropout=0.5)
    stage = trained(FinetuneStage(config, so101_data(instruction=None)))
    assert stage.spec.vocabulary.words == Vocabulary.build([], num_codes=1).words
    stage.save(tmp_path)
    chunk = LatentActionPolicy.load(tmp_path).act(so101_look(instruction=None))
    assert chunk.actions.shape == (6, 6)
    mixed = trained(FinetuneStage(config, [so101_data(instruction=None), arm_data()]))
    assert {tuple(data.sentences) for data in mixed.sets} == {(None,), ("push it",)}
    assert set(mixed.data.sentences) == {None, "push it"}


@pytest.mark.parametrize("adaptation", ["full", "lora"])
@pytest.mark.parametrize("kind", ["act_query", "latent", "bins"])
def test_one_pretraining_serves_every_head_and_learns_new_words(kind, adaptation, tmp_path):
    words = Vocabulary.build(["push it"], num_codes=1)
    pretrained = build_pretrain_network(NetworkSpec(config=NETWORK, vocabulary=words, num_tokens=1), seed=3)
    save_network(tmp_path, pretrained.spec, pretrained.state_dict())
    # The chunk and the kind are fine-tuning's to choose; the reader's sizes are the pre-training's.
    head = HeadConfig(kind=kind, chunk_steps=3, channels=99, mlp_width=11, bins=13)
    config = dataclasses.replace(
        FINETUNE, network=NetworkConfig(head=head), adaptation=adaptation, lora_rank=2, extra_cameras=()
    )
    stage = FinetuneStage(config, so101_data(extra=(), chunk_steps=3), init=tmp_path)
    found = stage.spec.config.head
    assert (found.kind, found.chunk_steps, found.mlp_width, found.channels) == (kind, 3, 11, NETWORK.head.channels)
    assert {"lift", "the", "cube", "push"} <= set(stage.spec.vocabulary.words)
    name = "latent.backbone.language.model.embed_tokens.weight"
    row = stage.spec.vocabulary.encode("lift").ids[1]
    before = stage.trainee.network.state_dict()[name][row].clone()
    trained(stage)
    assert not torch.equal(stage.trainee.network.state_dict()[name][row], before)
    with pytest.warns(UserWarning, match="fetch"):
        assert stage.policy().act(so101_look(instruction="fetch the cube")).actions.shape == (3, 6)


def test_known_words_leave_lora_as_it_was(tmp_path):
    words = Vocabulary.build(["lift the cube"], num_codes=1)
    pretrained = build_pretrain_network(NetworkSpec(config=NETWORK, vocabulary=words, num_tokens=1), seed=3)
    save_network(tmp_path, pretrained.spec, pretrained.state_dict())
    stage = FinetuneStage(dataclasses.replace(FINETUNE, adaptation="lora", lora_rank=2), so101_data(), init=tmp_path)
    assert stage.spec.vocabulary == words
    assert not stage.trainee.network.latent.backbone.language.model.embed_tokens.weight.requires_grad


def test_bad_episodes():
    bad = so101_episode(1).actions.copy()
    bad[3, 2] = np.nan
    with pytest.raises(InputError, match=r"episode 'episode_000001', field actions.* index \[3, 2\]"):
        so101_episode(1, actions=bad)
    with pytest.raises(InputError, match="episode 'episode_000001', field actions: expected actions of width 6"):
        so101_episode(1, actions=bad[:, :5])
    with pytest.raises(InputError, match="episode 'episode_000000', field extra_frames: expected camera 'wrist'"):
        so101_data(wrist=False)
    found = so101_episode(0)
    with pytest.raises(InputError, match=r"field extra_frames\['wrist'\].*11 frames"):
        dataclasses.replace(found, extra_frames={"wrist": found.extra_frames["wrist"][:-1]})
    with pytest.raises(InputError, match="of another camera"):
        dataclasses.replace(found, extra_frames={"front": found.frames})
    with pytest.raises(InputError, match="one row for each of 11 frames"):
        dataclasses.replace(found, proprioception=found.proprioception[:-1])
    state = found.proprioception.copy()
    state[4, 1] = np.inf
    with pytest.raises(InputError, match=r"field proprioception.* index \[4, 1\]"):
        dataclasses.replace(found, proprioception=state)
    smaller = dataclasses.replace(so101_episode(1), frames=found.frames[:, ::2, ::2])
    with pytest.raises(InputError, match=r"episode 'episode_000001'.*front 480 x 640 px"):
        demonstration_data([found, smaller], None, chunk_steps=6)


def test_bad_settings():
    with pytest.raises(InputError, match="Did you mean 'wrist'"):
        FinetuneStage(dataclasses.replace(FINETUNE, extra_cameras=("wrists",)), so101_data())
    with pytest.raises(InputError, match="one set for each body"):
        FinetuneStage(FINETUNE, [so101_data(), so101_data()])
    with pytest.raises(InputError, match="chunks of 6 steps"):
        FinetuneStage(FINETUNE, so101_data(chunk_steps=4))
    latent, bins = (
        dataclasses.replace(NETWORK, head=dataclasses.replace(NETWORK.head, kind=kind)) for kind in ("latent", "bins")
    )
    with pytest.raises(InputError, match="blind"):
        FinetuneStage(dataclasses.replace(FINETUNE, network=latent, blind_share=0.1), so101_data())
    with pytest.raises(InputError, match="between which the bins lie"):
        FinetuneStage(dataclasses.replace(FINETUNE, network=bins, normalization="std"), so101_data())


@pytest.mark.parametrize("same", [True, False])
def test_a_policy_of_the_same_axes_hands_its_decoder_and_units_on(same, tmp_path):
    config = dataclasses.replace(FINETUNE, extra_cameras=())
    first = trained(FinetuneStage(config, arm_data()))
    first.save(tmp_path)
    data = arm_data("other")
    if not same:
        axes = tuple(dataclasses.replace(axis, unit="rad") for axis in ARM.axes)
        data = dataclasses.replace(data, action_space=dataclasses.replace(ARM, axes=axes))
    data = dataclasses.replace(data, actions=2 * data.actions, proprioception=3 * data.proprioception)
    second = FinetuneStage(dataclasses.replace(config, seed=9), data, init=tmp_path)
    name, reader = "head.decoders.0.mlp.0.weight", "head.reader.conv.weight"
    before, after = first.export(), second.trainee.network.state_dict()
    assert torch.equal(before[reader], after[reader])
    assert torch.equal(before[name], after[name]) == same
    units = (first.bodies["arm"].actions.to_json(), first.bodies["arm"].proprioception.to_json())
    now = second.bodies["other"]
    assert ((now.actions.to_json(), now.proprioception.to_json()) == units) == same
    trained(second)
