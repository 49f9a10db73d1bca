"""Labels of whole sources: each frame is seen once, each shard made once, labels are those of pairs on their own."""

import numpy as np
import pytest
import torch

from cyclemimic.data.loader import PairLoader
from cyclemimic.nn.batches import pixels
from cyclemimic.store.frame_cache import CacheRecipe, FrameCache, FrameCacheWriter
from cyclemimic.train import labels
from cyclemimic.train.labels import ScenesOnce, label_cache, label_part
from cyclemimic.types import ClipInfo
from tests.paper.small import SIZE_PX, small_tokenizer

LENGTHS, RATES_HZ, GAP_S = (13, 5, 2, 19, 7), (5.0, 5.0, 5.0, 10.0, 5.0), 0.6


class Counting(torch.nn.Module):
    """A backbone that remembers the frames that it saw."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.width, self.grid_for, self.seen = inner, inner.width, inner.grid_for, []

    def forward(self, frames):
        self.seen += [frame.numpy().tobytes() for frame in frames]
        return self.inner(frames)


def cache_of_noise(folder):
    rng = np.random.default_rng(0)
    with FrameCacheWriter(folder, CacheRecipe(source_hash="abc", size_px=SIZE_PX, resampler="none")) as writer:
        for i, (count, fps) in enumerate(zip(LENGTHS, RATES_HZ, strict=True)):
            frames = rng.integers(0, 256, (count, SIZE_PX, SIZE_PX, 3), np.uint8)
            writer.add(ClipInfo(name=f"arm/{i}", embodiment="arm", fps=fps, num_frames=count), frames)
        writer.finish()
    return FrameCache.open(folder)


def counting_tokenizer(**changes):
    tokenizer = small_tokenizer(**changes).eval()
    tokenizer.backbone = Counting(tokenizer.backbone)
    return tokenizer


@pytest.mark.parametrize("batch_size", [1, 3, 11, 256])
@pytest.mark.parametrize("change", ["pixels", "features", "matches", "none"])
def test_labels_are_those_of_pairs_on_their_own(tmp_path, batch_size, change):
    cache, tokenizer = cache_of_noise(tmp_path / "cache"), counting_tokenizer(change=change)
    store = label_cache(tokenizer, "sha", cache, GAP_S, tmp_path / "labels", batch_size=batch_size, num_shards=2)
    loader = PairLoader([cache], GAP_S)
    pairs = loader.take(np.arange(loader.num_pairs))
    codes, margin = tokenizer.label(pixels(pairs.now), pixels(pairs.later))
    names = [cache.clips[i].name for i in range(len(cache)) if cache.clips[i].name in store]
    np.testing.assert_array_equal(np.concatenate([store.codes_for(n)[1] for n in names]), codes.numpy())
    margins = np.concatenate([store.margins_for(n) for n in names])
    np.testing.assert_allclose(margins, margin.numpy(), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 11, 256])
def test_the_backbone_sees_each_frame_once(tmp_path, batch_size):
    cache, tokenizer = cache_of_noise(tmp_path / "cache"), counting_tokenizer()
    label_cache(tokenizer, "sha", cache, GAP_S, tmp_path / "labels", batch_size=batch_size, num_shards=2)
    seen = tokenizer.backbone.seen
    assert len(seen) == len(set(seen))
    loader = PairLoader([cache], GAP_S)
    pairs = loader.take(np.arange(loader.num_pairs))
    assert len(seen) == len(np.unique(np.concatenate([pairs.now, pairs.later]), axis=0)) < 2 * loader.num_pairs


def test_scenes_that_no_pair_to_come_needs_are_let_go(tmp_path):
    cache, tokenizer = cache_of_noise(tmp_path / "cache"), counting_tokenizer()
    loader = PairLoader([cache], GAP_S)
    scenes = ScenesOnce(tokenizer, loader, "cpu")
    for pairs in loader.all_pairs(3):
        now, later = scenes.of(pairs)
        torch.testing.assert_close(now.frames, pixels(pairs.now))
        torch.testing.assert_close(later.features.patches, tokenizer.backbone.inner(later.frames).patches)
        assert len(scenes._held) <= 3 + 3 + 6  # the batch, its later frames, and those of the longest gap


@pytest.mark.parametrize(("parts", "processes"), [(1, 1), (1, 2), (3, 1), (3, 2), (2, 5)])
def test_every_shard_is_made_once_whatever_jobs_and_processes_share_them(tmp_path, monkeypatch, parts, processes):
    cache, tokenizer, made = cache_of_noise(tmp_path / "cache"), small_tokenizer().eval(), []
    monkeypatch.setattr(labels, "num_processes", lambda: processes)
    monkeypatch.setattr(labels, "label_shard", lambda t, loader, writer, shard, **_: made.append(shard))
    mine = []
    for part in range(parts):
        for process in range(processes):
            monkeypatch.setattr(labels, "process_number", lambda process=process: process)
            before = len(made)
            label_part(
                tokenizer, "sha", cache, GAP_S, tmp_path / "labels", num_shards=4, part=part, num_parts=parts
            )  # fmt: skip
            mine.append(len(made) - before)
    assert sorted(made) == list(range(4)), "four clips are long enough for a pair"
    assert sum(mine) == 4 and max(mine) <= -(-4 // (parts * processes)) + 1


def test_a_margin_is_how_much_farther_the_second_nearest_code_is_for_the_least_sure_token(tmp_path):
    cache, tokenizer = cache_of_noise(tmp_path / "cache"), small_tokenizer().eval()
    pairs = PairLoader([cache], GAP_S).take(np.arange(9))
    now, later = tokenizer.see(pixels(pairs.now)), tokenizer.see(pixels(pairs.later))
    codes, margin = tokenizer.label_scenes(now, later)
    with torch.no_grad():
        embedding = tokenizer.embed(tokenizer.read(tokenizer.watch(now), now, later), batch_statistics=False)
        distances = tokenizer.quantizer.distances(embedding).numpy()  # [9, L, K]
    order = np.sort(distances, -1)
    np.testing.assert_array_equal(codes.numpy(), distances.argmin(-1))
    np.testing.assert_allclose(margin.numpy(), (order[..., 1] - order[..., 0]).min(-1), rtol=1e-5)
    assert (margin > 0).all() and codes.shape[1] > 1
