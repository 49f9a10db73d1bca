"""The tokenizer's stage on kept features: the same losses, gradients, batches and labels, without the backbone."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cyclemimic.data.loader import PairLoader
from cyclemimic.errors import InputError
from cyclemimic.store.weights import load_tensors
from cyclemimic.train.labels import label_cache
from tests.paper.small import small_tokenizer
from tests.unit.features_processes_small import steps
from tests.unit.features_small import GAP_S, KINDS, LENGTHS, cache_of_noise, kept, real_among, stage

REPOSITORY = Path(__file__).parents[2]
TOLERANCE = {"float32": 0, "float16": 2e-3}  # of losses and gradients, as a share of their size


@pytest.fixture
def cache(tmp_path):
    return cache_of_noise(tmp_path / "frames")


def gradients_of(one, step=0):
    """Losses of a step, and the gradients that its first backward pass left before any was clipped."""
    found = {}

    def note(name):
        return lambda gradient: found.setdefault(name, gradient.detach().clone())

    handles = [p.register_hook(note(name)) for name, p in one.tokenizer.named_parameters() if p.requires_grad]
    figures = one.step(step)
    for handle in handles:
        handle.remove()
    return {k: v.detach() for k, v in figures.items() if k != "data_wait_s"}, found


def apart(one, other):
    """The largest difference, as a share of the size of the other."""
    return float((one - other).norm() / other.norm().clamp_min(1e-12))


@pytest.mark.parametrize("stored_as", TOLERANCE)
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_a_backbone_that_is_run(cache, tmp_path, kind, stored_as):
    computed, reading = stage(kind, cache), stage(kind, cache)
    reading.loader.use_features([kept(cache, reading.tokenizer, tmp_path / "features", stored_as)])
    (losses, gradients), (losses_kept, gradients_kept) = gradients_of(computed), gradients_of(reading)
    assert losses.keys() == losses_kept.keys() and gradients.keys() == gradients_kept.keys()
    assert len(gradients) > 20 and any(g.abs().sum() > 0 for g in gradients.values())
    whole, whole_kept = (torch.cat([g.flatten() for g in found.values()]) for found in (gradients, gradients_kept))
    if stored_as == "float32":
        differing = [k for k in gradients if not torch.equal(gradients[k], gradients_kept[k])]
        assert not differing and all(torch.equal(losses[k], losses_kept[k]) for k in losses)
    else:
        assert apart(whole_kept, whole) < TOLERANCE[stored_as]
        assert not torch.equal(whole_kept, whole), "what is read is not what is computed"
        for name in computed.config.objective.weights(0.5).keys() & losses.keys():
            assert losses_kept[name].item() == pytest.approx(losses[name].item(), rel=5e-3, abs=1e-5), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_backbone_sees_generated_frames_alone(cache, tmp_path, kind):
    one = stage(kind, cache)
    seen, reader = one.tokenizer.backbone.seen, one.helpers.reader
    if reader is not None:
        reader.reader.backbone.seen = seen  # the slow copy of E has eyes of its own
    for step in range(2):
        one.step(step)
    assert any(real_among(seen, cache))
    one.loader.use_features([kept(cache, one.tokenizer, tmp_path / "features")])
    seen.clear()
    for step in range(2, 4):
        one.step(step)
    one.settle()
    assert not any(real_among(seen, cache))
    draws = kind.startswith("ac3") and "feature" not in kind
    assert bool(seen) == draws


def test_every_step_and_the_end_are_those_of_a_backbone_that_is_run(cache, tmp_path):
    ends = []
    for reads in (False, True):
        one = stage("ac3, pixel, every term", cache)
        if reads:
            one.loader.use_features([kept(cache, one.tokenizer, tmp_path / "features")])
        for step in range(5):
            one.step(step)
        one.settle()
        ends.append(one.state())
    assert not [name for name, value in ends[0].items() if not torch.equal(value, ends[1][name])]


def test_the_order_of_samples_is_unchanged_for_any_share_of_a_batch(cache, tmp_path):
    features = kept(cache, stage("genie", cache).tokenizer, tmp_path / "features", "int8")
    plain, reading = (PairLoader([cache], GAP_S, batch_size=8, features=f) for f in ((), [features]))
    whole, same = reading.batch(5), plain.batch(5)
    assert not same.features
    for name in ("now", "later", "body", "clip", "frame", "pair"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(same, name))
    shares = [reading.batch(5, rows) for rows in (slice(0, 4), slice(4, 8))]
    for look in range(2):
        values = np.concatenate([share.features[look].values() for share in shares])
        np.testing.assert_array_equal(values, whole.features[look].values())


def test_two_processes_learn_what_one_learns(tmp_path):
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{REPOSITORY}/src:{REPOSITORY}"}
    command = [sys.executable, "-m", "tests.unit.features_processes_small", str(tmp_path)]
    started = [
        subprocess.Popen([*command, str(mine), "2"], cwd=REPOSITORY, env={**os.environ, **own}, stderr=subprocess.PIPE)
        for mine in (0, 1)
    ]
    said = [process.communicate(timeout=200)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)[-3000:]
    one, two = steps(tmp_path / "one"), [load_tensors(tmp_path / f"{mine}.safetensors")[0] for mine in (0, 1)]
    for name, value in one.items():
        assert torch.equal(two[0][name], two[1][name]), name
        torch.testing.assert_close(two[0][name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_features_of_another_backbone_stop_the_first_step(cache, tmp_path):
    one = stage("genie", cache)
    features = kept(cache, one.tokenizer, tmp_path / "features")
    with torch.no_grad():
        one.tokenizer.backbone.mix.bias[0] += 1e-3
    one.loader.use_features([features])
    with pytest.raises(InputError, match="this tokenizer's backbone"):
        one.step(0)


def test_features_for_a_backbone_that_learns_are_refused(cache, tmp_path):
    one = stage("genie", cache)
    one.loader.use_features([kept(cache, one.tokenizer, tmp_path / "features")])
    one.tokenizer.backbone.requires_grad_(True)
    with pytest.raises(InputError, match="frozen backbone"):
        one.step(0)


@pytest.mark.parametrize("stored_as", ["float32", "float16"])
def test_labels_are_those_of_a_backbone_that_is_run(cache, tmp_path, stored_as):
    tokenizer = stage("genie", cache).tokenizer.eval()
    features = kept(cache, tokenizer, tmp_path / "features", stored_as)
    stores = [label_cache(tokenizer, "sha", cache, GAP_S, tmp_path / "computed", batch_size=5, num_shards=2)]
    tokenizer.backbone.seen.clear()
    words = {"batch_size": 5, "num_shards": 2, "features": features}
    stores.append(label_cache(tokenizer, "sha", cache, GAP_S, tmp_path / "read", **words))
    assert not tokenizer.backbone.seen
    names = [clip.name for clip in cache.clips if clip.name in stores[0]]
    assert len(names) == sum(n > 3 for n in LENGTHS)
    for name in names:
        (_, codes), (_, codes_kept) = (store.codes_for(name) for store in stores)
        clear = stores[0].margins_for(name) > (0 if stored_as == "float32" else 1e-3)
        assert clear.any()
        np.testing.assert_array_equal(codes_kept[clear], codes[clear])


def test_labels_refuse_features_of_another_backbone(cache, tmp_path):
    features = kept(cache, stage("genie", cache).tokenizer, tmp_path / "features")
    with pytest.raises(InputError, match="this tokenizer's backbone"):
        label_cache(small_tokenizer(), "sha", cache, GAP_S, tmp_path / "labels", features=features)


def test_a_slow_reader_with_eyes_of_its_own_looks_again(cache):
    one = stage("ac3, pixel, every term", cache)
    reader = one.helpers.reader
    assert reader._sees_alike
    learning = copy.deepcopy(one.tokenizer)
    learning.backbone.requires_grad_(True)
    assert not type(reader)(learning, 0.9)._sees_alike
