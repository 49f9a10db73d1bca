"""Ways to win the robot's state back from video: a target, a keypoint, and a state that is hidden at times."""

import dataclasses

import numpy as np
import pytest
import torch

from cyclemimic.data.hindsight import END_GRID, moving_maps
from cyclemimic.errors import InputError
from cyclemimic.policy.action_heads import HINDSIGHT_AXES, KEYPOINT_AXES, BodyWidths, HeadConfig, waves
from cyclemimic.policy.network import NetworkSpec, build_pretrain_network, read_network, with_room_for_state
from cyclemimic.policy.policy import LatentActionPolicy
from cyclemimic.policy.reader import end_loss, keypoint
from cyclemimic.policy.vocabulary import Vocabulary
from cyclemimic.randomness import rng_for
from cyclemimic.train.demonstrations import demonstration_data
from cyclemimic.train.stage2_pretrain import PretrainStage, pretrain_data
from cyclemimic.train.stage3_finetune import FinetuneStage
from cyclemimic.types import Observation
from tests.unit.test_stage23 import CAMERA, FINETUNE, NETWORK, PRETRAIN, L, episodes, label, make_cache

WITH_KEYPOINT = dataclasses.replace(NETWORK, head=dataclasses.replace(NETWORK.head, keypoint=True))
TARGET = dataclasses.replace(PRETRAIN, moving_weight=1.0)
KEYPOINT = dataclasses.replace(TARGET, network=WITH_KEYPOINT)
BLIND = dataclasses.replace(FINETUNE, use_proprioception=False)


@pytest.fixture
def cache(tmp_path):
    return make_cache(tmp_path / "cache")


@pytest.fixture
def labels(tmp_path):
    return label(tmp_path / "labels")


@pytest.fixture
def data(cache, labels):
    return pretrain_data([cache], labels, moving=True)


def demonstrations(labels):
    return demonstration_data(episodes(), labels, chunk_steps=4)


def test_every_moment_knows_where_things_move_and_only_where_that_was_asked(cache, labels, data):
    maps = [moving_maps(cache.clip_frames(i))[labels.codes_for(clip.name)[0]] for i, clip in enumerate(cache.clips)]
    assert np.array_equal(data.moving, np.concatenate(maps)) and data.moving.shape == (len(data), END_GRID**2)
    index = np.array([4, 0])
    assert np.array_equal(data.subset(index).moving, data.moving[index])
    assert pretrain_data([cache], labels).moving is None


def test_the_target_is_a_term_of_the_loss_and_teaches_the_features(data):
    plain, stage = PretrainStage(PRETRAIN, data), PretrainStage(TARGET, data)
    first, other = plain.trainee.network.state_dict(), stage.trainee.network.state_dict()
    assert set(other) - set(first) == {"head.moving.weight", "head.moving.bias"}
    assert all(torch.equal(first[name], other[name]) for name in first), "the same first weights"
    terms = stage.step(0)
    assert "moving_nll" in terms and "moving_nll" not in plain.step(0)
    seen = stage.last_batch()
    assert torch.equal(seen["moving"], torch.from_numpy(data.moving)[seen["index"]])
    before, after = (s.trainee.network.state_dict()["head.reader.join.weight"] for s in (plain, stage))
    assert not torch.equal(before, after), "the reader learns from it"
    heavy = PretrainStage(dataclasses.replace(TARGET, moving_weight=3.0), data)
    alone = PretrainStage(
        dataclasses.replace(TARGET, latent_weight=0.0, readout_weight=0.0, hindsight_weight=0.0), data
    )
    assert float(heavy.step(0)["moving_nll"].detach()) == float(alone.step(0)["moving_nll"].detach())
    join = "head.reader.join.weight"
    assert not torch.equal(heavy.trainee.network.state_dict()[join], after)
    assert not torch.equal(alone.trainee.network.state_dict()[join], first[join])


def test_the_target_is_scored_on_held_out_moments_and_thrown_away(data, labels, tmp_path):
    stage = PretrainStage(TARGET, data)
    assert PretrainStage(PRETRAIN, data).validate(data).moving_nll is None
    scores = stage.validate(data, batch=len(data))
    observed = stage._sentences.observe(data.pictures(np.arange(len(data))), data.sentence, device=stage.device)
    with torch.no_grad():
        _, said = stage.trainee.averaged().whole(observed, torch.from_numpy(data.codes))
    assert scores.moving_nll == pytest.approx(float(end_loss(said.moving, torch.from_numpy(data.moving))), rel=1e-5)
    assert len(scores.slot_accuracy) == L
    assert scores.moving_nll == pytest.approx(stage.validate(data, batch=11).moving_nll, rel=1e-5)
    stage.save(tmp_path / "pre")
    fine = FinetuneStage(FINETUNE, demonstrations(labels), camera=CAMERA, init=tmp_path / "pre")
    assert not [name for name in fine.trainee.network.state_dict() if "moving" in name]


def test_a_keypoint_is_the_middle_of_what_moves():
    logits = torch.full((2, 64), -50.0)
    logits[0, 8 * 7] = logits[1, 8 * 3] = logits[1, 8 * 4 + 7] = 50.0
    torch.testing.assert_close(keypoint(logits), torch.tensor([[1.0, -1.0], [0.0, 0.0]]))


def test_codes_are_read_from_the_keypoint_and_teach_it_too(data):
    network = PretrainStage(KEYPOINT, data).trainee.network
    observed = PretrainStage(KEYPOINT, data)._sentences.observe(
        data.pictures(np.arange(5)), data.sentence[:5], device=torch.device("cpu")
    )
    _, said = network.whole(observed, torch.from_numpy(data.codes[:5]))
    assert said.codes.shape == (5, L, data.num_codes) and said.moving.shape == (5, END_GRID**2)
    said.codes.square().sum().backward()
    assert float(network.head.reader.moving.weight.grad.abs().max()) > 0
    with torch.no_grad():
        network.head.reader.moving.bias[0] += 9.0
        _, elsewhere = network.whole(observed, torch.from_numpy(data.codes[:5]))
    assert not torch.allclose(elsewhere.codes, said.codes), "another keypoint, other codes"
    assert torch.equal(elsewhere.end, said.end)


def test_fine_tuning_keeps_the_keypoint_and_adds_the_state(data, labels, tmp_path):
    pre = PretrainStage(KEYPOINT, data)
    for step in range(3):
        assert torch.isfinite(pre.step(step)["moving_nll"])
    pre.save(tmp_path / "pre")
    before = pre.export()
    told = demonstrations(labels)
    fine = FinetuneStage(FINETUNE, told, camera=CAMERA, init=tmp_path / "pre")
    after = fine.trainee.network.state_dict()
    for name in ("reader.moving", "reader.join", "decoders.0.hindsight", "decoders.0.mlp.2"):
        assert torch.equal(before[f"head.{name}.weight"], after[f"head.{name}.weight"]), name
    assert fine.bodies[told.embodiment].proprioception is not None
    moved = {n: p.detach().clone() for n, p in fine.trainee.network.named_parameters()}
    for step in range(3):
        fine.step(step)
    assert [n for n, p in fine.trainee.network.named_parameters() if torch.equal(p, moved[n])] == []
    fine.save(tmp_path / "policy")
    policy, first = LatentActionPolicy.load(tmp_path / "policy"), episodes()[0]
    seen = Observation(
        images={"front": first.frames[0]}, instruction="push left", proprioception=first.proprioception[0]
    )
    assert np.array_equal(policy.act(seen).actions, fine.policy().act(seen).actions)
    assert read_network(tmp_path / "policy")[0].config.head.keypoint


def test_a_decoder_grown_for_the_state_begins_as_it_was(data, labels, tmp_path):
    pre = PretrainStage(KEYPOINT, data)
    pre.save(tmp_path / "pre")
    spec, tensors = read_network(tmp_path / "pre")
    state = 5
    now = dataclasses.replace(
        spec, bodies=(BodyWidths(name="b", action_width=3, chunk_steps=4, proprioception_width=state),)
    )
    name, head = "head.decoders.0.mlp.0.weight", spec.config.head
    grown = with_room_for_state(tensors, spec, now)[name]
    features = torch.randn(6, head.reader_width)
    known, robot = torch.randn(6, HINDSIGHT_AXES + KEYPOINT_AXES), torch.randn(6, state)
    small = torch.cat([features, waves(known, head.octaves)], 1) @ tensors[name].T
    large = torch.cat([features, waves(torch.cat([known, robot], 1), head.octaves)], 1) @ grown.T
    torch.testing.assert_close(large, small)
    assert torch.equal(with_room_for_state(tensors, spec, spec)[name], tensors[name]), "no state, no room"
    two = dataclasses.replace(now, bodies=(*now.bodies, dataclasses.replace(now.bodies[0], name="c")))
    assert torch.equal(with_room_for_state(tensors, spec, two)[name], tensors[name]), "each body has its own decoder"
    fine = FinetuneStage(BLIND, demonstrations(labels), camera=CAMERA, init=tmp_path / "pre")
    assert torch.equal(fine.trainee.network.state_dict()[name], tensors[name])
    assert torch.isfinite(fine.step(0)["action_l1"])


def test_a_keypoint_goes_with_the_robots_state_in_pretraining_too(cache, labels, tmp_path):
    states = {e.info.name: e.proprioception for e in episodes()}
    pre = PretrainStage(KEYPOINT, pretrain_data([cache], labels, states, moving=True))
    assert {"moving_nll", "goal_l1"} <= set(pre.step(0))
    pre.save(tmp_path / "pre")
    fine = FinetuneStage(FINETUNE, demonstrations(labels), camera=CAMERA, init=tmp_path / "pre")
    name = "head.decoders.0.mlp.0.weight"
    assert torch.equal(fine.trainee.network.state_dict()[name], pre.export()[name])


def test_fine_tuning_goes_on_to_learn_the_keypoint_from_the_demonstrations_video(data, labels, tmp_path):
    PretrainStage(KEYPOINT, data).save(tmp_path / "pre")
    told = demonstration_data(episodes(), labels, chunk_steps=4, moving=True)
    maps = [moving_maps(e.frames)[:-1] for e in episodes()]
    assert np.array_equal(told.moving, np.concatenate(maps)) and len(told.moving) == len(told)
    assert demonstrations(labels).moving is None
    learning = dataclasses.replace(FINETUNE, moving_weight=1.0, optim=dataclasses.replace(FINETUNE.optim, steps=60))
    stages = [
        FinetuneStage(dataclasses.replace(learning, moving_weight=w), told, camera=CAMERA, init=tmp_path / "pre")
        for w in (0.0, 1.0)
    ]
    assert "moving_nll" not in stages[0].step(0)
    terms = stages[1].step(0)
    batch, name = stages[1].last_batch(), "head.reader.moving.weight"
    assert float(terms["moving_nll"].detach()) > 0 and batch["moving"].shape == (FINETUNE.batch, END_GRID**2)
    one, other = (stage.trainee.network.state_dict()[name] for stage in stages)
    assert not torch.equal(one, other), "it is a term of the loss"
    before = float(np.mean([float(stages[1].step(i)["moving_nll"].detach()) for i in range(1, 11)]))
    after = float(np.mean([float(stages[1].step(i)["moving_nll"].detach()) for i in range(50, 60)]))
    assert after < before


def test_a_keypoint_without_pretraining_is_learnt_from_the_demonstrations(labels):
    told = demonstration_data(episodes(), labels, chunk_steps=4, moving=True)
    config = dataclasses.replace(FINETUNE, network=WITH_KEYPOINT, moving_weight=1.0)
    stage = FinetuneStage(config, told, camera=CAMERA)
    assert "moving_nll" in stage.step(0)
    latent = dataclasses.replace(WITH_KEYPOINT, head=dataclasses.replace(WITH_KEYPOINT.head, kind="latent"))
    other = FinetuneStage(dataclasses.replace(config, network=latent, blind_share=0.0), told, camera=CAMERA)
    assert "moving_nll" in other.step(0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"moving_weight": -1.0}, "0 or more"),
        ({"moving_weight": float("nan")}, "0 or more"),
        ({"moving_weight": 1.0}, "no keypoint"),
        ({"moving_weight": 1.0, "network": WITH_KEYPOINT}, "moving=True"),
    ],
)
def test_a_keypoint_that_nothing_teaches_is_refused(labels, changes, said):
    with pytest.raises(InputError, match=said):
        FinetuneStage(dataclasses.replace(FINETUNE, **changes), demonstrations(labels), camera=CAMERA)


def test_a_head_of_bins_has_no_keypoint(labels):
    head = dataclasses.replace(WITH_KEYPOINT.head, kind="bins")
    config = dataclasses.replace(
        FINETUNE, network=dataclasses.replace(WITH_KEYPOINT, head=head), moving_weight=1.0, blind_share=0.0
    )
    with pytest.raises(InputError, match="no keypoint"):
        FinetuneStage(config, demonstration_data(episodes(), labels, chunk_steps=4, moving=True), camera=CAMERA)


def hidden_rows(stage, share, step):
    stage.config = dataclasses.replace(stage.config, proprioception_dropout=share)
    return stage.draw(rng_for(stage.config.seed, step, "finetune")).observation.proprioception


def test_dropout_hides_its_share_of_the_states_and_nothing_else(labels):
    config = dataclasses.replace(FINETUNE, batch=1000, blind_share=0.0)
    stage = FinetuneStage(config, demonstrations(labels), camera=CAMERA)
    shown, some = hidden_rows(stage, 0.0, 3), hidden_rows(stage, 0.3, 3)
    hidden = (some == 0).all(1)
    assert 0.25 < float(hidden.float().mean()) < 0.35
    assert torch.equal(some[~hidden], shown[~hidden]) and not (shown == 0).all(1).any()
    assert torch.equal(some, hidden_rows(stage, 0.3, 3)), "of seed and step alone"
    assert not torch.equal(hidden, (hidden_rows(stage, 0.3, 4) == 0).all(1))
    state = stage.bodies[stage.sets[0].embodiment].proprioception
    mean = stage.sets[0].proprioception.mean(0, keepdims=True)
    assert np.abs(state.normalize(mean)).max() < 1e-5, "0 is the mean"


def test_dropout_is_for_learning_alone(labels):
    stage = FinetuneStage(
        dataclasses.replace(FINETUNE, proprioception_dropout=0.99), demonstrations(labels), camera=CAMERA
    )
    stage.step(0)
    first = episodes()[0]
    acts = [
        stage.policy().act(
            Observation(
                images={"front": first.frames[0]}, instruction="push left", proprioception=first.proprioception[t]
            )
        )
        for t in (0, 3)
    ]
    assert not np.array_equal(acts[0].actions, acts[1].actions), "who acts sees its state"


@pytest.mark.parametrize(
    ("weight", "said"), [(-1.0, "moving_weight"), (float("nan"), "moving_weight"), (float("inf"), "moving_weight")]
)
def test_a_weight_that_is_none_is_refused(data, weight, said):
    with pytest.raises(InputError, match=said):
        PretrainStage(dataclasses.replace(PRETRAIN, moving_weight=weight), data)


def test_what_cannot_be_learnt_is_refused(cache, labels, data):
    with pytest.raises(InputError, match="hindsight_weight"):
        PretrainStage(dataclasses.replace(PRETRAIN, hindsight_weight=-0.5), data)
    with pytest.raises(InputError, match="above 0 with HeadConfig"):
        PretrainStage(dataclasses.replace(KEYPOINT, moving_weight=0.0), data)
    with pytest.raises(InputError, match="moving=True"):
        PretrainStage(TARGET, pretrain_data([cache], labels))
    words = Vocabulary.build(("push",), num_codes=3)
    head = HeadConfig(channels=7, norm_groups=1, maps=3, reader_width=17, keypoint=True, end_cells=63)
    with pytest.raises(InputError, match="end_cells"):
        network = dataclasses.replace(NETWORK, head=head)
        build_pretrain_network(NetworkSpec(config=network, vocabulary=words, num_tokens=1), seed=0)


@pytest.mark.parametrize(
    ("config", "share", "said"),
    [(FINETUNE, -0.1, "share"), (FINETUNE, 1.0, "use_proprioception"), (BLIND, 0.5, "no state")],
)
def test_a_share_that_is_none_is_refused(labels, config, share, said):
    with pytest.raises(InputError, match=said):
        FinetuneStage(dataclasses.replace(config, proprioception_dropout=share), demonstrations(labels), camera=CAMERA)
