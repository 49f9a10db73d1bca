import json

import numpy as np
import pytest

from cyclemimic.errors import InputError
from cyclemimic.store.frame_cache import CacheRecipe, FrameCache, FrameCacheWriter
from cyclemimic.types import ClipInfo
from tests.unit.data_small import counted_cache

RECIPE = CacheRecipe(source_hash="abc", size_px=3, resampler="none")


def clip(name, num_frames, **more):
    return ClipInfo(name=name, embodiment="arm", fps=5.0, num_frames=num_frames, **more)


def pixels(num_frames, value=1):
    return np.full((num_frames, 3, 3, 3), value, np.uint8)


def test_what_was_written_is_read(tmp_path):
    cache = counted_cache(tmp_path, [5, 2, 7], bodies=["b", "a", "b"])
    assert (len(cache), cache.size_px, cache.embodiments) == (3, 3, ("a", "b"))
    assert cache.offsets.tolist() == [0, 5, 7]
    assert cache.clip_frames(1)[:, 0, 0, 0].tolist() == [5, 6]
    assert cache.clip_frames(2).shape == (7, 3, 3, 3)
    with pytest.raises(ValueError, match="read-only"):
        cache.frames[0] = 0


def test_every_fact_of_a_clip_survives(tmp_path):
    info = clip("ü/1.mp4", 2, instruction="push", licence="CC BY 4.0")
    with FrameCacheWriter(tmp_path, RECIPE) as writer:
        writer.add(info, pixels(2))
        writer.skip("bad", "why")
        writer.finish()
    cache = FrameCache.open(tmp_path, verify=True)
    assert cache.clips == (info,)
    assert [(s.name, s.reason) for s in cache.skipped] == [("bad", "why")]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["frames.u8", "index.json"]


def test_a_killed_writer_goes_on_behind_the_last_whole_clip(tmp_path):
    with FrameCacheWriter(tmp_path, RECIPE) as writer:
        writer.add(clip("one", 2), pixels(2, 1))
        writer.skip("bad", "why")
    # What a kill in the middle of the second clip leaves: frames without their line, and half a line.
    with (tmp_path / "frames.u8.part").open("ab") as file:
        file.write(b"\x07" * 40)
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"name": "tw')
    with pytest.raises(InputError, match="cut off"):
        FrameCache.open(tmp_path)
    with FrameCacheWriter(tmp_path, RECIPE) as writer:
        assert writer.done == {"one", "bad"}
        writer.add(clip("two", 3), pixels(3, 2))
        writer.finish()
    cache = FrameCache.open(tmp_path, verify=True)
    assert [c.name for c in cache.clips] == ["one", "two"]
    assert cache.clip_frames(1).min() == 2


def test_a_kill_between_the_last_renames_loses_nothing(tmp_path):
    with FrameCacheWriter(tmp_path, RECIPE) as writer:
        writer.add(clip("one", 2), pixels(2, 9))
    (tmp_path / "frames.u8.part").rename(tmp_path / "frames.u8")
    with FrameCacheWriter(tmp_path, RECIPE) as writer:
        assert writer.done == {"one"}
        writer.finish()
    assert FrameCache.open(tmp_path, verify=True).frames.min() == 9


@pytest.mark.parametrize("other", [CacheRecipe(source_hash="x", size_px=3, resampler="none"), None])
def test_another_recipe_or_lost_frames_start_over(tmp_path, other):
    with FrameCacheWriter(tmp_path, RECIPE) as writer:
        writer.add(clip("one", 2), pixels(2))
    if other is None:
        (tmp_path / "frames.u8.part").write_bytes(b"")
    with FrameCacheWriter(tmp_path, other or RECIPE) as writer:
        assert writer.done == frozenset()


def test_frames_of_another_shape_are_refused(tmp_path):
    with FrameCacheWriter(tmp_path, RECIPE) as writer, pytest.raises(InputError, match="one"):
        writer.add(clip("one", 3), pixels(2))


def test_damage_is_found(tmp_path):
    counted_cache(tmp_path, [5, 4])
    content = bytearray((tmp_path / "frames.u8").read_bytes())
    content[6 * 27] ^= 255
    (tmp_path / "frames.u8").write_bytes(content)
    FrameCache.open(tmp_path)  # quick: sizes only
    with pytest.raises(InputError, match="arm/1"):
        FrameCache.open(tmp_path, verify=True)
    (tmp_path / "frames.u8").write_bytes(content[:-1])
    with pytest.raises(InputError, match="Build the cache again"):
        FrameCache.open(tmp_path)
    (tmp_path / "frames.u8").unlink()
    with pytest.raises(InputError, match="0 bytes"):
        FrameCache.open(tmp_path)


@pytest.mark.parametrize("damage", ["half", "format", "field", "absent"])
def test_a_bad_index_is_an_input_error(tmp_path, damage):
    counted_cache(tmp_path, [5])
    index = tmp_path / "index.json"
    rows = json.loads(index.read_text())
    if damage == "half":
        index.write_text(index.read_text()[:40])
    elif damage == "format":
        index.write_text(json.dumps({**rows, "format": "other"}))
    elif damage == "field":
        del rows["clips"][0]["fps"]
        index.write_text(json.dumps(rows))
    else:
        index.unlink()
    with pytest.raises(InputError):
        FrameCache.open(tmp_path)
