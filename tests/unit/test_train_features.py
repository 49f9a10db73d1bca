"""A frozen backbone sees every frame once; what it makes of them is kept, refused where foreign, and used unchanged."""

import errno
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from cyclemimic.data.loader import PairLoader
from cyclemimic.errors import InputError
from cyclemimic.nn.batches import patches, pixels
from cyclemimic.nn.pretrained import PretrainedBackbone
from cyclemimic.nn.vision import BackboneConfig, backbone_hash
from cyclemimic.store import feature_rows
from cyclemimic.store.feature_cache import FeatureCache, FeatureCacheWriter
from cyclemimic.train import features as features_module
from cyclemimic.train.endings import DiskFullError
from cyclemimic.train.features import build_features, feature_recipe
from tests.contracts.test_feature_backbone import small_architecture
from tests.unit.features_small import LENGTHS, cache_of_noise, kept, stage

FRAMES = sum(LENGTHS)


@pytest.fixture
def cache(tmp_path):
    return cache_of_noise(tmp_path / "frames")


@pytest.fixture
def tokenizer(cache):
    return stage("genie", cache).tokenizer


@pytest.mark.parametrize("stored_as", ["float32", "float16", "int8"])
def test_the_features_of_every_frame_are_those_that_the_backbone_gives(cache, tokenizer, tmp_path, stored_as):
    lines = []
    found = kept(cache, tokenizer, tmp_path / "features", stored_as, progress=lines.append)
    real = tokenizer.backbone(pixels(np.array(cache.frames))).patches.detach().numpy()
    size = np.abs(real).max()
    rows = found.take(np.arange(FRAMES))
    np.testing.assert_allclose(
        rows.values(), real, atol={"float32": 1e-6, "float16": 1e-3, "int8": 5e-3}[stored_as] * size
    )
    found.verify()
    assert "MB needed" in lines[0] and "free" in lines[0] and "), about " in lines[0] and stored_as in lines[0]
    assert f"{found.recipe.num_bytes / 1e6:.1f} MB" in lines[0]


@pytest.mark.parametrize("stored_as", ["float32", "float16", "int8"])
def test_a_device_is_given_the_stored_numbers(cache, tokenizer, tmp_path, stored_as):
    rows = kept(cache, tokenizer, tmp_path / "features", stored_as).take(np.array([3, 0, 11]))
    found = patches(rows)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), rows.values())


def test_it_is_made_once(cache, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(features_module, "TIMED_S", 0)
    kept(cache, tokenizer, tmp_path / "features")
    assert len(tokenizer.backbone.seen) == FRAMES + 1 + 1  # of which one sets things up, and one is timed
    tokenizer.backbone.seen.clear()
    lines = []
    kept(cache, tokenizer, tmp_path / "features", progress=lines.append)
    assert len(tokenizer.backbone.seen) == features_module.CHECKED_FRAMES and "up to date" in lines[0]


def test_a_killed_build_goes_on_and_does_nothing_twice(cache, tokenizer, tmp_path, monkeypatch):
    recipe = feature_recipe(cache, tokenizer.backbone, tokenizer.config.backbone, "float16")
    monkeypatch.setattr(feature_rows, "SHARD_BYTES", 7 * recipe.frame_bytes)
    monkeypatch.setattr(features_module, "BATCH_FRAMES", 3)
    monkeypatch.setattr(features_module, "TIMED_S", 0)
    true, calls = features_module.packed, []

    def killed(*words):
        calls.append(words)
        if len(calls) == 8:  # in the third shard of seven frames
            raise KeyboardInterrupt
        return true(*words)

    folder = tmp_path / "broken"
    monkeypatch.setattr(features_module, "packed", killed)
    with pytest.raises(KeyboardInterrupt):
        build_features(cache, tokenizer.backbone, recipe, folder)
    with pytest.raises(InputError, match="cut off"):
        FeatureCache.open(folder)
    monkeypatch.setattr(features_module, "packed", true)
    tokenizer.backbone.seen.clear()
    lines = []
    build_features(cache, tokenizer.backbone, recipe, folder, progress=lines.append)
    assert lines[0].startswith(f"features of {FRAMES - 14} frames")
    assert len(tokenizer.backbone.seen) == FRAMES - 14 + 1 + 1
    build_features(cache, tokenizer.backbone, recipe, tmp_path / "whole")
    for name in ("features.bin", "features.json"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_full_disk_is_refused_and_what_fits_is_named(cache, tokenizer, tmp_path, monkeypatch):
    recipe = feature_recipe(cache, tokenizer.backbone, tokenizer.config.backbone, "float16")

    def free(share):
        usage = shutil.disk_usage(tmp_path)._replace(free=int(share * recipe.num_bytes / 0.8))
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    coarse = replace(recipe, stored_as="int8")
    build_features(cache, tokenizer.backbone, coarse, tmp_path / "coarse")
    free(0.99)
    with pytest.raises(InputError, match=r"80%.*cache-int8 .*pictures of 12 px .*features compute.*may go: coarse"):
        build_features(cache, tokenizer.backbone, recipe, tmp_path / "features")
    free(0.5)
    with pytest.raises(InputError, match=r"What would fit: pictures of 8 px"):
        build_features(cache, tokenizer.backbone, recipe, tmp_path / "features")
    assert not (tmp_path / "features/features.bin").exists()
    free(1.01)
    assert len(build_features(cache, tokenizer.backbone, recipe, tmp_path / "features")) == FRAMES


def test_a_disk_that_fills_up_meanwhile_keeps_what_is_done(cache, tokenizer, tmp_path, monkeypatch):
    recipe = feature_recipe(cache, tokenizer.backbone, tokenizer.config.backbone, "float16")
    monkeypatch.setattr(feature_rows, "SHARD_FRAMES", 7)
    add = FeatureCacheWriter.add

    def full(self, records):
        if self.num_done:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, records)

    monkeypatch.setattr(FeatureCacheWriter, "add", full)
    with pytest.raises(DiskFullError, match=f"Features of 7 of {FRAMES} frames are kept"):
        build_features(cache, tokenizer.backbone, recipe, tmp_path / "features")
    monkeypatch.setattr(FeatureCacheWriter, "add", add)
    lines = []
    build_features(cache, tokenizer.backbone, recipe, tmp_path / "features", progress=lines.append).verify()
    assert lines[0].startswith(f"features of {FRAMES - 7} frames")


def test_another_backbone_never_reads_them(cache, tokenizer, tmp_path):
    kept(cache, tokenizer, tmp_path / "features")
    with torch.no_grad():
        tokenizer.backbone.mix.bias[0] += 1e-3
    with pytest.raises(InputError, match="backbone_sha256"):
        kept(cache, tokenizer, tmp_path / "features")


def test_other_frames_never_get_them(cache, tokenizer, tmp_path):
    kept(cache, tokenizer, tmp_path / "features")
    other = cache_of_noise(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="frames_sha256"):
        kept(other, tokenizer, tmp_path / "features")


def test_a_backbone_whose_code_changed_is_found_out(cache, tokenizer, tmp_path, monkeypatch):
    kept(cache, tokenizer, tmp_path / "features", "int8")
    kept(cache, tokenizer, tmp_path / "features", "int8")
    forward = type(tokenizer.backbone).forward
    monkeypatch.setattr(type(tokenizer.backbone), "forward", lambda self, frames: forward(self, 1 - frames))
    with pytest.raises(InputError, match=r"features\.bin.*others for frame 0"):
        kept(cache, tokenizer, tmp_path / "features", "int8")


def test_a_damaged_cache_is_refused_and_not_replaced(cache, tokenizer, tmp_path):
    kept(cache, tokenizer, tmp_path / "features")
    (tmp_path / "features/features.bin").write_bytes(b"x")
    with pytest.raises(InputError, match=r"features\.bin.*1 bytes"):
        kept(cache, tokenizer, tmp_path / "features")
    assert (tmp_path / "features/features.bin").read_bytes() == b"x"


def test_a_pretrained_backbone_is_known_by_weights_and_settings_not_by_its_name():
    torch.manual_seed(0)
    backbone = PretrainedBackbone.random(small_architecture("dinov2"))
    config = BackboneConfig(kind="pretrained", name="someone/model", trainable=False)
    known = backbone_hash(backbone, config)
    assert backbone_hash(backbone, replace(config, name="/a/folder")) == known
    assert backbone_hash(backbone, replace(config, input_px=21)) != known
    other = PretrainedBackbone.random(small_architecture("dinov2"))
    assert backbone_hash(other, config) != known


def test_features_of_a_pretrained_backbone_lie_on_its_grid(tmp_path):
    cache = cache_of_noise(tmp_path / "frames", size_px=28, lengths=(3, 2))
    backbone = PretrainedBackbone.random(small_architecture("dinov2"))
    recipe = feature_recipe(cache, backbone, BackboneConfig(kind="pretrained", trainable=False), "float16")
    found = build_features(cache, backbone, recipe, tmp_path / "features")
    assert recipe.grid == (4, 4) and found.take(np.array([4, 0])).patches.shape == (2, 16, 36)


def test_a_loader_refuses_features_of_other_frames_and_of_several_kinds(cache, tokenizer, tmp_path):
    own = kept(cache, tokenizer, tmp_path / "own")
    other = cache_of_noise(tmp_path / "other", seed=1)
    foreign = kept(other, tokenizer, tmp_path / "foreign")
    coarse = kept(other, tokenizer, tmp_path / "coarse", "int8")
    PairLoader([cache, other], 0.6, features=[own, foreign])
    for caches, features, said in (
        ([cache], [foreign], "of others"),
        ([cache], [own, own], "one entry per cache"),
        ([cache, other], [own, coarse], "int8"),
        ([replace(cache, frames=None)], [own], "--features compute"),
    ):
        with pytest.raises(InputError, match=said):
            PairLoader(caches, 0.6).use_features(features)


def test_features_come_with_their_frames_from_each_of_several_caches(cache, tokenizer, tmp_path):
    other = cache_of_noise(tmp_path / "other", seed=1, lengths=(7, 11))
    both = [kept(c, tokenizer, tmp_path / str(i)) for i, c in enumerate((cache, other))]
    loader = PairLoader([cache, other], 0.6, triplets=True, features=both, batch_size=16)
    pairs = loader.batch(3)
    assert set(loader._cache_of_clip[pairs.clip]) == {0, 1}
    for frames, rows in zip((pairs.now, pairs.later, pairs.latest), pairs.features, strict=True):
        real = tokenizer.backbone(pixels(frames)).patches.detach().numpy()
        np.testing.assert_allclose(rows.values(), real, atol=1e-5)
