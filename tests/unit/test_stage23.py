"""Pre-training and fine-tuning: data from the stores, gradients, resuming, what is handed on."""

import dataclasses

import numpy as np
import pytest
import torch

from cyclemimic.errors import InputError
from cyclemimic.policy.action_heads import HeadConfig
from cyclemimic.policy.network import NetworkConfig, read_network
from cyclemimic.policy.policy import LatentActionPolicy
from cyclemimic.policy.prismatic import PrismaticConfig
from cyclemimic.policy.towers import ConvTowerConfig
from cyclemimic.policy.vocabulary import Vocabulary
from cyclemimic.randomness import rng_for
from cyclemimic.store.frame_cache import CacheRecipe, FrameCache, FrameCacheWriter
from cyclemimic.store.label_store import LabelProvenance, LabelRows, LabelStore, LabelStoreWriter
from cyclemimic.store.weights import load_tensors
from cyclemimic.train.demonstrations import demonstration_data
from cyclemimic.train.endings import NotFiniteError
from cyclemimic.train.loop import LoopConfig, read_metrics, train
from cyclemimic.train.pictures import Sentences, random_shift
from cyclemimic.train.stage2_pretrain import PretrainConfig, PretrainStage, pretrain_data
from cyclemimic.train.stage3_finetune import FinetuneConfig, FinetuneStage
from cyclemimic.train.trainee import OptimConfig
from cyclemimic.types import ActionSpace, Axis, CameraSpec, ClipInfo, Episode, Observation

PX, K, L, GAP = 12, 5, 2, 3
LENGTHS = (11, 7, 13, 5)
SENTENCES = ("push left", "push right", None, "push left")
SPACE = ActionSpace(name="toy", axes=tuple(Axis(name=n, unit="m", low=-1, high=1) for n in "xyz"), rate_hz=5.0)
CAMERA = CameraSpec(name="front", height_px=PX, width_px=PX)
NETWORK = NetworkConfig(
    backbone=PrismaticConfig(
        image_px=PX,
        width=26,
        layers=1,
        heads=13,
        mlp_width=29,
        conv_tower=ConvTowerConfig(channels=(5, 7), norm_groups=1, token_rows=3),
    ),
    head=HeadConfig(channels=7, norm_groups=1, maps=3, reader_width=17, mlp_width=19, chunk_steps=4),
)
OPTIM = OptimConfig(steps=6, learning_rate=3e-3, warmup_steps=2)
PRETRAIN = PretrainConfig(network=NETWORK, optim=OPTIM, batch=7)
FINETUNE = FinetuneConfig(network=NETWORK, optim=OPTIM, batch=5, blind_share=0.3, instruction_dropout=0.2)


def episodes(actions=True):
    rng = np.random.default_rng(0)
    out = []
    for i, (length, said) in enumerate(zip(LENGTHS, SENTENCES, strict=True)):
        info = ClipInfo(name=f"c{i}", embodiment=f"b{i % 3}", fps=5.0, num_frames=length, instruction=said)
        known = {
            "actions": rng.uniform(-1, 1, (length - 1, 3)).astype(np.float32),
            "proprioception": rng.normal(size=(length, 5)).astype(np.float32),
            "action_space": SPACE,
        }
        frames = rng.integers(0, 256, (length, PX, PX, 3), np.uint8)
        out.append(Episode(info=info, frames=frames, **(known if actions else {})))
    return out


def make_cache(folder):
    recipe = CacheRecipe(source_hash="s", size_px=PX, resampler="area")
    with FrameCacheWriter(folder, recipe) as writer:
        for episode in episodes():
            writer.add(episode.info, episode.frames)
        writer.finish()
    return FrameCache.open(folder)


@pytest.fixture
def cache(tmp_path):
    return make_cache(tmp_path / "cache")


def label(folder, num_codes=K, skip=()):
    provenance = LabelProvenance(
        tokenizer_sha256="t",
        source_hash="s",
        gap_s=0.6,
        camera="front",
        num_codes=num_codes,
        num_tokens=L,
        made_by="test",
    )
    writer = LabelStoreWriter(folder, provenance)
    rng = np.random.default_rng(1)
    clips, frames = [], []
    for i, length in enumerate(LENGTHS):
        if f"c{i}" not in skip:
            clips += [f"c{i}"] * (length - GAP)
            frames += range(length - GAP)
    codes = rng.integers(0, num_codes, (len(clips), L))
    rows = LabelRows(
        clip=tuple(clips),
        frame=np.array(frames, np.int32),
        codes=codes,
        margin=np.ones(len(clips), np.float32),
    )
    writer.write(0, rows)
    writer.finish()
    return LabelStore.open(folder)


@pytest.fixture
def labels(tmp_path):
    return label(tmp_path / "labels")


def test_pretrain_data_finds_every_labelled_frame(cache, labels, tmp_path):
    data = pretrain_data([cache], labels)
    assert len(data) == sum(LENGTHS) - GAP * len(LENGTHS)
    assert (data.num_codes, data.num_tokens) == (K, L)
    assert set(data.bodies) == {"b0", "b1", "b2"}
    by_name = {e.info.name: e for e in episodes()}
    row = 0
    for clip in cache.clips:
        frames, codes = labels.codes_for(clip.name)
        for frame, code in zip(frames, codes, strict=True):
            assert np.array_equal(data.pictures(np.array([row]))[0], by_name[clip.name].frames[frame])
            assert np.array_equal(data.codes[row], code)
            assert data.sentences[data.sentence[row]] == clip.instruction
            assert data.bodies[data.body[row]] == clip.embodiment
            row += 1
    two = pretrain_data([cache, cache], [labels, label(tmp_path / "fewer", skip=("c0", "c2"))])
    assert len(two) == len(data) + LENGTHS[1] + LENGTHS[3] - 2 * GAP
    mixed = np.array([len(data), 0, len(data) + 1])
    assert np.array_equal(two.pictures(mixed)[1], data.pictures(np.array([0]))[0])
    held_out = two.subset(np.flatnonzero(two.body == 1))
    assert set(held_out.body.tolist()) == {1}


def test_bodies_are_drawn_uniformly(cache, labels):
    stage = PretrainStage(dataclasses.replace(PRETRAIN, batch=3000), pretrain_data([cache], labels))
    drawn = np.bincount(stage.data.body[stage._draw(rng_for(0, 0, "x"))], minlength=3) / 3000
    np.testing.assert_allclose(drawn, 1 / 3, atol=0.04)


def test_demonstrations_by_hand(labels):
    data = demonstration_data(episodes(), labels, chunk_steps=4)
    first = episodes()[0]
    assert len(data) == sum(LENGTHS) - len(LENGTHS)
    for t in range(LENGTHS[0] - 1):
        assert np.array_equal(data.images[t], first.frames[t])
        left = min(4, LENGTHS[0] - 1 - t)
        assert data.action_mask[t].tolist() == [True] * left + [False] * (4 - left)
        assert np.array_equal(data.actions[t, :left], first.actions[t : t + left])
        assert np.array_equal(data.proprioception[t], first.proprioception[t])
        assert np.array_equal(data.hindsight[t], first.proprioception[-1, :3])
    codes = labels.codes_for("c0")[1]
    assert np.array_equal(data.codes[: len(codes)], codes)
    assert (data.codes[len(codes) : LENGTHS[0] - 1] == codes[-1]).all()
    plain = demonstration_data(episodes(), None, chunk_steps=4)
    assert (plain.num_codes, plain.codes.shape[1], plain.codes.max()) == (1, 1, 0)


def test_a_state_seen_in_pretraining_hands_the_decoder_on_but_for_its_end(cache, labels, tmp_path):
    states = {e.info.name: e.proprioception for e in episodes()}
    data = pretrain_data([cache], labels, states)
    clips = {clip.name: labels.codes_for(clip.name)[0] for clip in cache.clips}
    assert np.array_equal(data.state, np.concatenate([states[name][frames] for name, frames in clips.items()]))
    ends = [np.repeat(states[name][-1:, :3], len(frames), 0) for name, frames in clips.items()]
    assert np.array_equal(data.goal, np.concatenate(ends))
    index = np.array([3, 1])
    assert np.array_equal(data.subset(index).state, data.state[index])
    pre = PretrainStage(PRETRAIN, data)
    assert {"goal_l1", "readout_nll"} <= set(pre.step(0))
    assert np.isfinite(pre.validate(data).readout_nll)
    pre.save(tmp_path / "pre")
    told = demonstration_data(episodes(), labels, chunk_steps=4)
    fine = FinetuneStage(FINETUNE, told, init=tmp_path / "pre")
    before, after = pre.export(), fine.trainee.network.state_dict()
    for layer in ("hindsight", "mlp.0", "mlp.2"):
        assert torch.equal(before[f"head.decoders.0.{layer}.weight"], after[f"head.decoders.0.{layer}.weight"])
    assert before["head.decoders.0.mlp.4.weight"].shape != after["head.decoders.0.mlp.4.weight"].shape
    assert fine.bodies[told.embodiment].proprioception.to_json() == pre.state_units.to_json()
    blind = dataclasses.replace(FINETUNE, use_proprioception=False)
    fine = FinetuneStage(blind, told, init=tmp_path / "pre")
    assert fine.bodies[told.embodiment].proprioception is None, "what does not fit stays new"
    fine.step(0)


def test_random_shift():
    images = np.random.default_rng(0).integers(0, 256, (31, 7, 5, 3), np.uint8)
    moved = random_shift(images, rng_for(0, 3, "a"), 1)
    assert np.array_equal(moved, random_shift(images, rng_for(0, 3, "a"), 1))
    assert np.array_equal(images, random_shift(images, rng_for(0, 3, "a"), 0))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    seen = set()
    for picture, source in zip(moved, padded, strict=True):
        found = [(y, x) for y in range(3) for x in range(3) if np.array_equal(picture, source[y : y + 7, x : x + 5])]
        assert found
        seen.update(found)
    assert len(seen) == 9


def test_rows_of_a_batch_are_moved_as_the_whole_batch_is():
    images = np.random.default_rng(0).integers(0, 256, (31, 7, 5, 3), np.uint8)
    whole, rows = random_shift(images, rng_for(0, 3, "a"), 1), slice(11, 17)
    assert np.array_equal(random_shift(images[rows], rng_for(0, 3, "a"), 1, rows=rows, of=31), whole[rows])


def test_instruction_dropout_names_the_neutral_prompt():
    vocabulary = Vocabulary.build(SENTENCES, num_codes=K)
    table = Sentences(vocabulary, SENTENCES)
    index = table.drop(np.zeros(1000, np.int64), rng_for(0, 0, "d"), 0.3)
    assert 0.25 < (index == len(SENTENCES)).mean() < 0.35
    neutral = vocabulary.encode(None).ids
    assert tuple(table.ids[len(SENTENCES)][: len(neutral)].tolist()) == neutral
    assert table.drop(index, rng_for(0, 0, "d"), 0.0) is index


def stages(cache, labels, tmp_path):
    pre = lambda: PretrainStage(PRETRAIN, pretrain_data([cache], labels))  # noqa: E731
    pre().save(tmp_path / "init")
    demos = demonstration_data(episodes(), labels, chunk_steps=4)
    return {
        "pretrain": pre,
        "scratch": lambda: FinetuneStage(FINETUNE, demos, camera=CAMERA),
        "full": lambda: FinetuneStage(FINETUNE, demos, camera=CAMERA, init=tmp_path / "init"),
        "lora": lambda: FinetuneStage(
            dataclasses.replace(FINETUNE, adaptation="lora", lora_rank=2),
            demos,
            camera=CAMERA,
            init=tmp_path / "init",
        ),
    }


@pytest.mark.parametrize("kind", ["pretrain", "scratch", "full", "lora"])
def test_resumed_equals_unbroken(cache, labels, tmp_path, kind):
    make = stages(cache, labels, tmp_path)[kind]
    whole = make()
    logged = [whole.step(i) for i in range(6)]
    assert all(torch.isfinite(v).all() for row in logged for v in row.values())
    first = make()
    for i in range(3):
        first.step(i)
    halfway = {name: value.clone() for name, value in first.state().items()}
    second = make()
    second.load_state(halfway)
    for i in range(3, 6):
        rows = [{n: float(v.detach()) for n, v in r.items() if n != "data_wait_s"} for r in (second.step(i), logged[i])]
        assert rows[0] == rows[1]
    a, b = whole.state(), second.state()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert all(torch.equal(v, second.export()[n]) for n, v in whole.export().items())


def test_the_loop_takes_both_stages(cache, labels, tmp_path):
    made = stages(cache, labels, tmp_path)
    for kind in ("pretrain", "lora"):
        train(
            made[kind](), name=kind, run_dir=tmp_path / kind, config={"kind": kind}, steps=4, checkpoint_every=2,
            log_every=2, samples_per_step=5,
        )  # fmt: skip
        assert len(read_metrics(tmp_path / kind)) == 2


def test_both_stages_leave_evidence_where_a_loss_is_not_finite(cache, labels, tmp_path):
    made = stages(cache, labels, tmp_path)
    for kind, term in (("pretrain", "hindsight_nll"), ("scratch", "action_l1")):
        stage = made[kind]()
        if kind == "pretrain":
            stage.data = dataclasses.replace(stage.data, ends=stage.data.ends * np.nan)
        else:
            stage.data = dataclasses.replace(stage.data, actions=stage.data.actions * np.inf)
        said = rf"step 0: the loss is not finite \(non-finite terms: {term}\).*the batch itself is not finite"
        with pytest.raises(NotFiniteError, match=said):
            train(
                stage, name=kind, run_dir=tmp_path / kind, config={"seed": 0}, steps=4, checkpoint_every=2,
                samples_per_step=5, loop=LoopConfig(tracker="none"),
            )  # fmt: skip
        batch, _ = load_tensors(tmp_path / kind / "nonfinite-step-0/batch.safetensors")
        assert batch["images"].shape == (stage.config.batch, 3, PX, PX) and batch["codes"].shape[1] == L


def test_every_trainable_weight_moves(cache, labels, tmp_path):
    for kind, make in stages(cache, labels, tmp_path).items():
        stage = make()
        before = {n: p.detach().clone() for n, p in stage.trainee.network.named_parameters() if p.requires_grad}
        for i in range(3):
            stage.step(i)
        same = [n for n, p in stage.trainee.network.named_parameters() if p.requires_grad and torch.equal(p, before[n])]
        assert same == [], kind


def test_learns_and_validates(cache, labels):
    config = dataclasses.replace(PRETRAIN, optim=OptimConfig(steps=150, learning_rate=1e-2), batch=32, shift_px=0)
    stage = PretrainStage(config, pretrain_data([cache], labels))
    before = stage.validate(stage.data, batch=11)
    for i in range(150):
        stage.step(i)
    after = stage.validate(stage.data, batch=11)
    assert after == stage.validate(stage.data, batch=11)
    assert before.latent_nll > 2 * after.latent_nll
    assert before.readout_nll > after.readout_nll
    assert len(after.slot_accuracy) == L
    assert min(after.slot_accuracy) > 0.4


def test_policy_from_a_stage(cache, labels, tmp_path):
    stage = stages(cache, labels, tmp_path)["lora"]()
    for i in range(3):
        stage.step(i)
    stage.save(tmp_path / "policy")
    assert (tmp_path / "policy" / "adapters.safetensors").exists()
    policy = LatentActionPolicy.load(tmp_path / "policy")
    first = episodes()[0]
    seen = Observation(
        images={"front": first.frames[0]}, instruction="push left", proprioception=first.proprioception[0]
    )
    chunk = policy.act(seen)
    assert chunk.actions.shape == (4, 3)
    assert np.array_equal(chunk.actions, stage.policy().act(seen).actions)
    kept = stage.policy()
    before = kept.act(seen).actions
    stage.step(3)
    assert np.array_equal(kept.act(seen).actions, before)
    spec, weights = read_network(tmp_path / "policy")
    assert spec.bodies[0].action_width == 3
    assert set(weights) == set(stage.export())


def test_without_proprioception():
    data = demonstration_data(episodes(), None, chunk_steps=4)
    stage = FinetuneStage(dataclasses.replace(FINETUNE, use_proprioception=False), data, camera=CAMERA)
    assert "hindsight_l1" in stage.step(0)
    assert stage.policy().body.proprioception is None


def test_errors(cache, labels, tmp_path):
    with pytest.raises(InputError, match="labelled clips"):
        pretrain_data([cache], label(tmp_path / "none", skip=("c0", "c1", "c2", "c3")))
    with pytest.raises(InputError, match="one codebook"):
        pretrain_data([cache, cache], [labels, label(tmp_path / "other", num_codes=3)])
    big = dataclasses.replace(NETWORK, backbone=dataclasses.replace(NETWORK.backbone, image_px=24))
    data = pretrain_data([cache], labels)
    with pytest.raises(InputError, match="24 x 24 px"):
        PretrainStage(dataclasses.replace(PRETRAIN, network=big), data)
    demos = demonstration_data(episodes(), labels, chunk_steps=4)
    with pytest.raises(InputError, match="24 x 24 px"):
        FinetuneStage(dataclasses.replace(FINETUNE, network=big), demos, camera=CAMERA)
    PretrainStage(PRETRAIN, data).save(tmp_path / "init")
    with pytest.raises(InputError, match="tokenizer of the pre-training"):
        other = demonstration_data(episodes(), label(tmp_path / "three", num_codes=3), chunk_steps=4)
        FinetuneStage(FINETUNE, other, camera=CAMERA, init=tmp_path / "init")
    with pytest.raises(InputError, match="action space of the other"):
        demonstration_data(episodes(actions=False), labels, chunk_steps=4)
    with pytest.raises(InputError, match="at least one episode"):
        demonstration_data([], labels, chunk_steps=4)
    with pytest.raises(InputError, match="chunk"):
        FinetuneStage(FINETUNE, demonstration_data(episodes(), labels, chunk_steps=3), camera=CAMERA)
