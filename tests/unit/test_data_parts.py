"""A long video is several clips: listed without decoding, decoded once, one part in memory, the same in every mode."""

import av
import numpy as np
import pytest

from cyclemimic.data.cache import build_cache
from cyclemimic.data.check import check_clips
from cyclemimic.data.cuts import cuts_of
from cyclemimic.data.loader import PairLoader
from cyclemimic.data.parts import PART_S, parts_of
from cyclemimic.data.seek import OpenVideo
from cyclemimic.data.sources.film import FilmSource
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.splits import split_clips
from cyclemimic.data.unkept import open_videos
from cyclemimic.data.video import read_video, write_video
from cyclemimic.data.writers.film import film
from cyclemimic.embodiment.resize import resize_square
from cyclemimic.errors import InputError
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.types import Task
from tests.unit.data_small import ToyWorld, moving_square

FPS, FRAMES = 10.0, 2150  # 215 s: parts of 600, 600, 600 and 350 frames
NAMES = [f"arm/long__part{i:04d}.mp4" for i in range(4)]
CUT = 1000  # within the second part


def long_film(num_frames=FRAMES):
    """A square that moves; the whole scene changes at CUT."""
    frames = moving_square(num_frames, 16, 24)
    frames[CUT:] = 255 - frames[CUT:]
    frames[:, :2, :12] = (np.arange(num_frames)[:, None] >> np.arange(12) & 1)[:, None, :, None] * 255
    return frames


def numbers_in(frames):
    """Which frame of the film each is: its number is written into its corner."""
    return ((frames[:, 0, :12, 0] > 127) << np.arange(12)).sum(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    write_video(root / "arm/long.mp4", long_film(), FPS)
    write_video(root / "arm/short.mp4", moving_square(60, 16, 24), FPS)
    (root / "clips.jsonl").write_text('{"file": "arm/long.mp4", "instruction": "tidy up"}')
    return root


def test_parts_are_a_minute_and_a_short_rest_joins_the_last():
    assert parts_of("a.mp4", 1200, 10, 16, 24) == ()
    assert [(p.start, p.stop) for p in parts_of("a.mp4", 1499, 10, 16, 24)] == [(0, 600), (600, 1499)]
    assert [(p.start, p.stop) for p in parts_of("a.mp4", 1501, 10, 16, 24)][-1] == (1200, 1501)
    assert [p.name for p in parts_of("x/a.b.mp4", 1499, 10, 16, 24)][1] == "x/a.b__part0001.mp4"
    large = parts_of("a.mp4", 1100, 10, 4000, 6000)  # short, but larger than memory
    assert [(p.start, p.stop) for p in large] == [(0, 600), (600, 1100)] and parts_of(
        "a.mp4", 700, 10, 4000, 6000
    ) == ()


def test_a_long_video_is_listed_in_parts(folder):
    clips = FolderSource(folder).clips()
    assert [c.name for c in clips] == [*NAMES, "arm/short.mp4"]
    assert [c.num_frames for c in clips] == [600, 600, 600, 350, 60] and PART_S * FPS == 600
    assert {c.instruction for c in clips[:4]} == {"tidy up"} and clips[4].instruction is None
    split = split_clips(clips, 0.5, seed=3)
    assert any({0, 1, 2, 3} <= set(side.tolist()) for side in (split.train, split.val, split.test)), "one recording"


def test_parts_are_the_video_decoded_once_and_bit_by_bit(folder, tmp_path, monkeypatch):
    decoded, largest = [], [0]
    next_of = OpenVideo._next

    def count(self):
        found = next_of(self)
        decoded.append(self._at)
        return found

    def watched(frames, *rest):
        largest[0] = max(largest[0], len(frames))
        return resize_square(frames, *rest)

    monkeypatch.setattr(OpenVideo, "_next", count)
    monkeypatch.setattr("cyclemimic.data.cache.resize_square", watched)
    build_cache(FolderSource(folder), tmp_path / "cache", 16)
    assert sorted(decoded) == list(range(FRAMES)), "every frame once"
    assert largest[0] <= 64
    monkeypatch.undo()
    cache = FrameCache.open(tmp_path / "cache", verify=True)
    assert [c.name for c in cache.clips] == [*NAMES, "arm/short.mp4"]
    whole = read_video(folder / "arm/long.mp4").frames
    np.testing.assert_array_equal(numbers_in(whole), np.arange(FRAMES))
    direct = open_videos(FolderSource(folder), 16)
    assert direct.clips == cache.clips
    rows = np.array([0, 599, 600, 1233, 1799, 1800, 2149])
    np.testing.assert_array_equal(direct.frames[rows], cache.frames[rows])
    source = FolderSource(folder)
    for i in (2, 0):  # in any order
        part = source.read(source.clips()[i])
        np.testing.assert_array_equal(part.frames, whole[600 * i : 600 * i + 600])


def test_a_build_that_was_killed_goes_on_at_its_part(folder, tmp_path):
    def kill(line):
        if line.startswith("2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_cache(FolderSource(folder), tmp_path / "killed", 16, progress=kill)
    report = build_cache(FolderSource(folder), tmp_path / "killed", 16)
    assert (report.reused, report.built) == (2, 3)
    build_cache(FolderSource(folder), tmp_path / "unbroken", 16)
    assert (tmp_path / "killed/frames.u8").read_bytes() == (tmp_path / "unbroken/frames.u8").read_bytes()


def test_no_pair_crosses_a_part_or_a_cut(folder, tmp_path):
    build_cache(FolderSource(folder), tmp_path / "cache", 16)
    cache = FrameCache.open(tmp_path / "cache")
    cuts = cuts_of(cache)
    assert [c.tolist() for c in cuts[:4]] == [[], [CUT - 600], [], []]
    loader = PairLoader([cache], 0.6, cuts=[cuts], keep=[np.arange(4)])
    assert loader.num_pairs == FRAMES - 6 * 5, "three edges of parts, a cut and the end cost a gap each"


def test_the_check_reads_parts_too(folder):
    report = check_clips(FolderSource(folder))
    assert [len(c.cuts) for c in report.clips] == [0, 1, 0, 0, 0]


def test_uneven_times_are_cut_by_the_clock(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.options = 24, 16, "yuv444p", {"bf": "0", "crf": "6"}
        for t, picture in enumerate(long_film(1300)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = t + 300 * (t >= 700)  # it stands still for half a minute
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    source = FolderSource(tmp_path)
    assert [c.num_frames for c in source.clips()] == [600, 600, 400]
    whole = read_video(tmp_path / "a.mp4").at_constant_rate().frames
    found = np.concatenate([source.read(c).frames for c in source.clips()])
    np.testing.assert_array_equal(found, whole)


def test_a_long_video_that_is_cut_short_keeps_what_is_there_and_says_so(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.options = 24, 16, "yuv444p", {"bf": "0", "crf": "6"}
        for picture in long_film():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(content[: int(len(content) * 0.8)])
    report = check_clips(FolderSource(tmp_path))
    usable = report.usable
    assert 2 <= len(usable) <= 3 and [c.info.num_frames for c in usable[:2]] == [600, 600]
    assert all("cut short" in c.remarks[0] and "of 2150 frames" in c.remarks[0] for c in usable)


def test_a_file_that_changed_since_it_was_listed_costs_its_parts(folder, tmp_path):
    content = bytearray((folder / "arm/long.mp4").read_bytes())
    (tmp_path / "long.mp4").write_bytes(content)
    source = FolderSource(tmp_path)
    first, second = source.clips()[:2]
    source.read(first)
    (tmp_path / "long.mp4").write_bytes(content + b"x")
    with pytest.raises(InputError, match=r"long\.mp4.*changed while it was read"):
        source.read(second)


def test_a_film_with_actions_stays_whole(tmp_path, monkeypatch):
    task = Task(body="big", skill="right", seed=0)
    film(ToyWorld(), [task], tmp_path)
    for module in ("parts", "long_video"):
        monkeypatch.setattr(f"cyclemimic.data.{module}.LONG_S", 0.1)
    monkeypatch.setattr("cyclemimic.data.parts.PART_S", 0.4)
    assert len(FolderSource(tmp_path / "video").clips()) > 1
    source = FilmSource(tmp_path)
    (clip,) = source.clips()
    assert len(source.read(clip).actions) == clip.num_frames - 1
    assert len(open_videos(source, 16)) == 1
