"""Features on disk: packed and read back, written shard by shard, killed and gone on with, damaged and foreign."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cyclemimic.errors import InputError
from cyclemimic.store import feature_rows
from cyclemimic.store.feature_cache import FeatureCache, FeatureCacheWriter
from cyclemimic.store.feature_rows import FeatureRecipe, packed, unpacked

FRAMES, GRID, WIDTH = 11, (2, 3), 5
RECIPE = FeatureRecipe(
    source_hash="abc",
    frames_sha256="f" * 64,
    size_px=16,
    num_frames=FRAMES,
    backbone_sha256="b" * 64,
    grid=GRID,
    width=WIDTH,
    stored_as="float16",
    backbone_name="someone/model",
)
STORED = ("float32", "float16", "int8")


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(feature_rows, "SHARD_BYTES", 3 * RECIPE.frame_bytes)


def features(seed=0, count=FRAMES):
    """One patch of every frame is a hundred times larger than the others, as in real transformers."""
    found = np.random.default_rng(seed).normal(size=(count, GRID[0] * GRID[1], WIDTH)).astype(np.float32)
    found[:, 1] *= 100
    return found


def written(folder, recipe=RECIPE, values=None, shards=None):
    """Write the first so many shards, or all and the index."""
    values = features() if values is None else values
    with FeatureCacheWriter(folder, recipe) as writer:
        while writer.num_done < len(values) and shards != 0:
            writer.add(packed(values[writer.num_done : writer.num_done + recipe.shard_frames], recipe))
            shards = None if shards is None else shards - 1
        if shards is None:
            writer.finish()
    return folder


TOO_MUCH = [("float16", 7e4), ("float16", np.nan), ("float32", np.inf), ("int8", np.nan)]


@pytest.mark.parametrize(("stored_as", "value"), TOO_MUCH)
def test_what_cannot_be_stored_is_refused(stored_as, value):
    values = features()
    values[3, 2, 1] = value
    with pytest.raises(InputError, match="someone/model"):
        packed(values, replace(RECIPE, stored_as=stored_as))


@pytest.mark.parametrize("stored_as", STORED)
def test_rows_of_a_finished_cache_in_any_order(tmp_path, stored_as):
    recipe, values = replace(RECIPE, stored_as=stored_as), features()
    cache = FeatureCache.open(written(tmp_path, recipe), recipe, verify=True)
    rows = np.array([7, 0, 7, 10])
    assert len(cache) == FRAMES and len(cache.take(rows)) == 4
    np.testing.assert_array_equal(cache.take(rows).values(), unpacked(packed(values, recipe), recipe).values()[rows])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["features.bin", "features.json"]
    with pytest.raises(ValueError, match="read-only"):
        cache.records[0] = 0


@pytest.mark.parametrize("damage", [None, "half a record", "half a line", "lost records", "another recipe"])
def test_a_killed_build_goes_on_behind_its_last_whole_shard(tmp_path, damage):
    written(tmp_path / "broken", shards=2)
    part, journal = tmp_path / "broken/features.bin.part", tmp_path / "broken/journal.jsonl"
    wanted, recipe = 6, RECIPE
    if damage == "half a record":
        part.write_bytes(part.read_bytes() + b"half")
    if damage == "half a line":
        journal.write_text(journal.read_text()[:-20])
        wanted = 3
    if damage == "lost records":
        part.write_bytes(part.read_bytes()[:-1])
        wanted = 0
    if damage == "another recipe":
        wanted, recipe = 0, replace(RECIPE, backbone_sha256="c" * 64)
    with FeatureCacheWriter(tmp_path / "broken", recipe) as writer:
        assert writer.num_done == wanted
    written(tmp_path / "broken", recipe)
    written(tmp_path / "whole", recipe)
    for name in ("features.bin", "features.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    FeatureCache.open(tmp_path / "broken", recipe, verify=True)


def test_a_kill_between_the_rename_and_the_index_costs_nothing(tmp_path):
    written(tmp_path, shards=4)
    (tmp_path / "features.bin.part").rename(tmp_path / "features.bin")
    with FeatureCacheWriter(tmp_path, RECIPE) as writer:
        assert writer.num_done == FRAMES
        writer.finish()
    FeatureCache.open(tmp_path, RECIPE, verify=True)


def test_none_and_half_a_cache_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="got none"):
        FeatureCache.open(tmp_path)
    written(tmp_path, shards=1)
    with pytest.raises(InputError, match="cut off"):
        FeatureCache.open(tmp_path)


@pytest.mark.parametrize(
    "change", [{"backbone_sha256": "c" * 64}, {"frames_sha256": "e" * 64}, {"size_px": 32}, {"stored_as": "int8"}]
)
def test_a_foreign_cache_is_never_read(tmp_path, change):
    wanted = replace(RECIPE, **change)
    assert wanted.key != RECIPE.key
    with pytest.raises(InputError, match=next(iter(change))):
        FeatureCache.open(written(tmp_path), wanted)


def test_equal_weights_under_another_name_are_the_same(tmp_path):
    moved = replace(RECIPE, backbone_name="a folder")
    assert moved.key == RECIPE.key
    FeatureCache.open(written(tmp_path), moved)
    with FeatureCacheWriter(written(tmp_path / "half", shards=1), moved) as writer:
        assert writer.num_done == 3


def test_a_spoilt_record_is_found_by_its_checksum(tmp_path):
    path = written(tmp_path) / "features.bin"
    content = bytearray(path.read_bytes())
    content[4 * RECIPE.frame_bytes] ^= 1
    path.write_bytes(bytes(content))
    FeatureCache.open(tmp_path)
    with pytest.raises(InputError, match=r"features\.bin.*frames 3 to 5"):
        FeatureCache.open(tmp_path, verify=True)


@pytest.mark.parametrize("damage", ["short", "half", "format", "field", "shards", "stored"])
def test_a_damaged_cache_is_one_clear_error(tmp_path, damage):
    written(tmp_path)
    index = tmp_path / "features.json"
    values = json.loads(index.read_text())
    if damage == "short":
        (tmp_path / "features.bin").write_bytes(b"x")
    elif damage == "half":
        index.write_text(index.read_text()[:50])
    else:
        changes = {"format": ("format", "other"), "shards": ("shards", []), "stored": ("stored_as", "float8")}
        values |= dict([changes[damage]] if damage in changes else [])
        if damage == "field":
            del values["grid"]
        index.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"features\.(bin|json)"):
        FeatureCache.open(tmp_path)
