"""Measurements that read kept features: the numbers of those that compute them, and the backbone is not asked."""

import numpy as np
import pytest
import torch

from cyclemimic.data.joined import joined
from cyclemimic.errors import InputError
from cyclemimic.evaluate.inspect import inspect_tokenizer
from cyclemimic.evaluate.known_frames import KnownFrames
from cyclemimic.evaluate.leak import ReaderConfig
from cyclemimic.evaluate.models import label_pairs
from cyclemimic.evaluate.moments import frame_pairs
from cyclemimic.evaluate.parts import KeptLabels, Parts
from cyclemimic.nn.batches import pixels
from tests.unit.features_small import GAP_S, cache_of_noise, kept, stage

QUICK = ReaderConfig(width=4, steps=3, batch_size=8)


@pytest.fixture
def caches(tmp_path):
    return [
        cache_of_noise(tmp_path / "one"),
        cache_of_noise(tmp_path / "two", source_hash="def", seed=1, lengths=(9, 14, 11)),
    ]


@pytest.fixture
def both(caches):
    return joined(caches, ["one", "two"], "both")


@pytest.fixture
def tokenizer(caches):
    torch.manual_seed(0)
    return stage("ac3", caches[0]).tokenizer.eval()


def known_of(tokenizer, caches, tmp_path, stored_as):
    found = [kept(c, tokenizer, tmp_path / f"{i}-{stored_as}", stored_as) for i, c in enumerate(caches)]
    return KnownFrames(tokenizer, found)


def test_joined_caches_hold_the_frames_of_each(caches, both):
    assert [clip.name for clip in both.clips[:1]] == ["one/arm/0"] and both.clips[-1].name == "two/arm/2"
    assert len(both.frames) == sum(len(c.frames) for c in caches) and both.source_hash == "both"
    for i, (cache, own) in enumerate([(caches[0], 0), (caches[0], 3), (caches[1], 0), (caches[1], 2)]):
        where = [0, 3, 4, 6][i]
        assert np.array_equal(both.clip_frames(where), cache.clip_frames(own))
    order = np.random.default_rng(0).permutation(len(both.frames))
    whole = np.concatenate([np.array(c.frames) for c in caches])
    assert np.array_equal(both.frames[order], whole[order])
    assert joined(caches[:1], ["one"], "x") is caches[0]


def test_codes_and_margins_by_kept_features_are_those_that_are_computed(caches, both, tokenizer, tmp_path):
    pairs = frame_pairs(both, gap_s=GAP_S, limit=60, seed=0)
    assert np.array_equal(both.frames[pairs.row[:, 0]], pairs.now)
    assert np.array_equal(both.frames[pairs.row[:, 1]], pairs.later)
    plain = label_pairs(tokenizer, pairs)
    exact = known_of(tokenizer, caches, tmp_path, "float32")
    half = known_of(tokenizer, caches, tmp_path, "float16")
    tokenizer.backbone.seen.clear()
    assert np.array_equal(label_pairs(exact, pairs), plain)
    assert np.array_equal(label_pairs(half, pairs), plain)
    assert not tokenizer.backbone.seen
    now, later = pixels(pairs.now), pixels(pairs.later)
    margin = tokenizer.label(now, later)[1]
    assert torch.allclose(exact.label_known(now, later, pairs.row)[1], margin, rtol=0, atol=1e-6)
    rounded = half.label_known(now, later, pairs.row)[1]
    assert torch.allclose(rounded, margin, rtol=0, atol=2e-3) and not torch.equal(rounded, margin)
    wrong = exact.label_known(now, later, pairs.row[::-1].copy())[1]
    assert not torch.allclose(wrong, margin, rtol=0, atol=2e-3)  # it is these features that decide


def test_kept_labels_tell_known_frames_from_others(caches, tokenizer, tmp_path):
    pairs = frame_pairs(caches[0], gap_s=GAP_S, limit=20, seed=0)
    labels = KeptLabels(known_of(tokenizer, caches, tmp_path, "float32"), Parts(tmp_path / "parts", ["x"]))
    tokenizer.backbone.seen.clear()
    first = label_pairs(labels, pairs)
    assert list((tmp_path / "parts").iterdir()) and not tokenizer.backbone.seen
    assert np.array_equal(label_pairs(labels, pairs), first)
    assert np.array_equal(label_pairs(KeptLabels(tokenizer, Parts()), pairs), first)


def test_inspecting_gives_the_same_numbers_and_asks_the_backbone_less(caches, both, tokenizer, tmp_path):
    words = {"gap_s": GAP_S, "limit": 40, "readers": QUICK}
    model = known_of(tokenizer, caches, tmp_path, "float16")
    tokenizer.backbone.seen.clear()
    plain = inspect_tokenizer(tokenizer, both, tmp_path / "plain", **words)
    asked = len(tokenizer.backbone.seen)
    tokenizer.backbone.seen.clear()
    found = inspect_tokenizer(model, both, tmp_path / "known", **words)
    assert 0 < len(tokenizer.backbone.seen) < asked  # generated frames are nobody's to keep
    for name, value in plain.row().items():
        assert found.row()[name] == pytest.approx(value, rel=0.05, abs=0.05, nan_ok=True), name


def test_features_of_another_backbone_are_refused(caches, tokenizer, tmp_path):
    torch.manual_seed(1)
    other = stage("ac3", caches[0]).tokenizer
    other.backbone.load_state_dict({k: v + 1 for k, v in other.backbone.state_dict().items()})
    with pytest.raises(InputError, match="those of this tokenizer's backbone"):
        KnownFrames(tokenizer, [kept(caches[0], other, tmp_path / "other")])
