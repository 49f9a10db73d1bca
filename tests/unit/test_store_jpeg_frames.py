"""A frame cache stored as JPEG: read like any other, smaller, resumed, checked."""

import numpy as np
import pytest

from cyclemimic.data.cache import build_cache
from cyclemimic.data.loader import PairLoader
from cyclemimic.errors import InputError
from cyclemimic.store.frame_cache import FRAMES, JPEG_FRAMES, CacheRecipe, FrameCache, FrameCacheWriter
from cyclemimic.store.jpeg_frames import encode_jpeg
from cyclemimic.types import ClipInfo, Episode

SIDE, LENGTHS = 32, (9, 5, 7)


def smooth(count, seed):
    """Pictures that JPEG keeps well: a wave that moves."""
    grid = np.arange(SIDE)
    waves = [127 + 100 * np.sin((grid[:, None] + grid[None] + t) / 9 + seed) for t in range(count)]
    return np.stack([np.stack([w, w[::-1], w.T], -1) for w in waves]).astype(np.uint8)


class Waves:
    name = "waves"

    def clips(self):
        return [ClipInfo(name=f"{i}", embodiment="arm", fps=5.0, num_frames=n) for i, n in enumerate(LENGTHS)]

    def read(self, clip):
        return Episode(info=clip, frames=smooth(clip.num_frames, int(clip.name)))


@pytest.fixture
def folder(tmp_path):
    build_cache(Waves(), tmp_path / "jpeg", SIDE, stored_as="jpeg")
    return tmp_path / "jpeg"


def test_frames_are_nearly_those_of_plain_pixels_in_less_room(folder, tmp_path):
    build_cache(Waves(), tmp_path / "plain", SIDE)
    plain, jpeg = FrameCache.open(tmp_path / "plain"), FrameCache.open(folder, verify=True)
    assert plain.stored_as == "uint8" and jpeg.stored_as == "jpeg" and jpeg.kept
    assert jpeg.frames.shape == plain.frames.shape and [c.name for c in jpeg.clips] == ["0", "1", "2"]
    error = np.abs(jpeg.frames[:].astype(int) - plain.frames)
    assert 0 < error.mean() < 2 and error.max() < 30
    assert (folder / JPEG_FRAMES).stat().st_size < 0.6 * (tmp_path / "plain" / FRAMES).stat().st_size
    assert not (folder / FRAMES).exists()


def test_rows_come_in_any_order_and_a_clip_is_its_own(folder):
    cache = FrameCache.open(folder)
    whole = cache.frames[:]
    rows = np.array([20, 0, 13, 0, -1])
    np.testing.assert_array_equal(cache.frames[rows], whole[rows])
    np.testing.assert_array_equal(cache.frames[4], whole[4])
    np.testing.assert_array_equal(cache.clip_frames(1), whole[9:14])
    np.testing.assert_array_equal(cache.subset(np.array([2])).clip_frames(0), whole[14:])


def test_a_loader_draws_from_it_as_from_any(folder, tmp_path):
    build_cache(Waves(), tmp_path / "plain", SIDE)
    jpeg, plain = (
        PairLoader([FrameCache.open(where)], 0.4, batch_size=8, seed=0).batch(0)
        for where in (folder, tmp_path / "plain")
    )
    assert np.array_equal(jpeg.pair, plain.pair) and jpeg.now.shape == plain.now.shape
    for seen, known in ((jpeg.now, plain.now), (jpeg.later, plain.later)):
        assert np.abs(seen.astype(int) - known).mean() < 2 < np.abs(jpeg.now.astype(int) - plain.later).mean()


def test_it_stays_as_it_is_unless_told(folder):
    build_cache(Waves(), folder, SIDE)
    assert FrameCache.open(folder).stored_as == "jpeg"
    report = build_cache(Waves(), folder, SIDE, stored_as="uint8")
    assert report.built == 3 and FrameCache.open(folder, verify=True).stored_as == "uint8"
    assert not (folder / JPEG_FRAMES).exists()


@pytest.mark.parametrize("clips", [1, 2])
def test_a_killed_build_goes_on_as_jpeg(folder, tmp_path, clips):
    recipe = FrameCache.open(folder).recipe
    with FrameCacheWriter(tmp_path / "half", recipe) as writer:
        for clip in Waves().clips()[:clips]:
            writer.add(clip, Waves().read(clip).frames)
        writer._frames.write(b"half a picture")
    report = build_cache(Waves(), tmp_path / "half", SIDE)
    assert (report.reused, report.built) == (clips, 3 - clips)
    for name in (JPEG_FRAMES, "index.json"):
        assert (tmp_path / "half" / name).read_bytes() == (folder / name).read_bytes()


def test_damage_is_found_and_named(folder):
    file = folder / JPEG_FRAMES
    content = bytearray(file.read_bytes())
    start = int(FrameCache.open(folder).frames.starts[10])
    content[start : start + 40] = bytes(40)
    file.write_bytes(content)
    with pytest.raises(InputError, match="others in 1"):
        FrameCache.open(folder, verify=True)
    with pytest.raises(InputError, match=r"frame 10.*build it again"):
        FrameCache.open(folder).frames[10]
    file.write_bytes(content[:-5])
    with pytest.raises(InputError, match="bytes"):
        FrameCache.open(folder)


def test_a_picture_of_another_size_is_refused(tmp_path):
    recipe = CacheRecipe(source_hash="a", size_px=SIDE, resampler="none", stored_as="jpeg")
    with FrameCacheWriter(tmp_path, recipe) as writer:
        writer.add(ClipInfo(name="a", embodiment="arm", fps=5.0, num_frames=2), smooth(2, 0))
        writer.finish()
    small = encode_jpeg(smooth(2, 0)[:, :16, :16])[0]
    first = int(FrameCache.open(tmp_path).frames.starts[1])
    content = (tmp_path / JPEG_FRAMES).read_bytes()
    (tmp_path / JPEG_FRAMES).write_bytes(small + content[len(small) :])
    assert len(small) < first
    with pytest.raises(InputError, match=r"\(16, 16, 3\)"):
        FrameCache.open(tmp_path).frames[0]
