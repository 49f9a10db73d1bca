import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cyclemimic.data import cache as cache_module
from cyclemimic.data.cache import build_cache, source_hash
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.video import read_video, write_video
from cyclemimic.embodiment.resize import resize_square
from cyclemimic.errors import InputError
from cyclemimic.store.atomic import alone_in
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.types import ClipInfo, Episode
from tests.unit.data_small import moving_square, video_folder

CLIPS = {"arm/1.mp4": 6, "arm/2.mp4": 4, "hand/1.mp4": 5}


@pytest.fixture
def videos(tmp_path):
    return video_folder(tmp_path / "videos", CLIPS)


class ListSource:
    """A source that cannot look into its files."""

    name = "list"

    def __init__(self, lengths):
        self.lengths = lengths
        self.reads = []

    def clips(self):
        return [ClipInfo(name=n, embodiment="arm", fps=5.0, num_frames=t) for n, t in self.lengths]

    def read(self, clip):
        self.reads.append(clip.name)
        return Episode(info=clip, frames=moving_square(clip.num_frames))


def test_the_cache_holds_what_the_videos_show(tmp_path, videos):
    report = build_cache(FolderSource(videos), tmp_path / "cache", 11)
    assert (report.built, report.reused, report.skipped) == (3, 0, ())
    cache = FrameCache.open(tmp_path / "cache", verify=True)
    assert [(c.name, c.num_frames) for c in cache.clips] == list(CLIPS.items())
    assert cache.embodiments == ("arm", "hand")
    for i, clip in enumerate(cache.clips):
        want = resize_square(read_video(videos / clip.name).frames, 11)
        np.testing.assert_array_equal(cache.clip_frames(i), want)


def test_bytes_and_free_disk_are_said_before_anything_is_decoded(tmp_path):
    source, lines = ListSource([("a", 3), ("b", 2)]), []
    build_cache(source, tmp_path, 11, progress=lambda line: lines.append((line, len(source.reads))))
    assert "needed" in lines[0][0] and "free" in lines[0][0] and lines[0][1] == 0
    assert f"{5 * 11 * 11 * 3 / 1e6:.1f} MB" in lines[0][0]


def test_an_unchanged_source_is_not_decoded_again(tmp_path):
    source = ListSource([("a", 3), ("b", 2)])
    build_cache(source, tmp_path, 11)
    report = build_cache(source, tmp_path, 11)
    assert (report.built, report.reused, source.reads) == (0, 2, ["a", "b"])


@pytest.mark.parametrize("change", ["clip", "size", "fit", "damage"])
def test_a_change_builds_anew(tmp_path, change):
    build_cache(ListSource([("a", 3)]), tmp_path, 11)
    source = ListSource([("a", 3), ("b", 2)] if change == "clip" else [("a", 3)])
    if change == "damage":
        (tmp_path / "frames.u8").write_bytes(b"x")
    fit = "squash" if change == "fit" else "crop"
    report = build_cache(source, tmp_path, 13 if change == "size" else 11, fit=fit)
    assert report.reused == 0 and len(source.reads) == report.built
    assert FrameCache.open(tmp_path, verify=True).size_px == (13 if change == "size" else 11)


def test_a_changed_video_changes_the_hash_and_a_copied_folder_does_not(tmp_path, videos):
    before = source_hash(FolderSource(videos))
    shutil.copytree(videos, tmp_path / "copy")
    assert source_hash(FolderSource(tmp_path / "copy")) == before
    content = bytearray((videos / "arm/1.mp4").read_bytes())
    content[-1] ^= 1
    (videos / "arm/1.mp4").write_bytes(content)
    assert source_hash(FolderSource(videos)) != before


@pytest.mark.parametrize("killed_at", [0, 1, 2, 3])
def test_a_killed_build_goes_on(tmp_path, killed_at):
    lengths = [("a", 3), ("b", 2), ("c", 4)]

    def kill(line):
        kill.calls += 1
        if kill.calls == killed_at + 1:
            raise KeyboardInterrupt

    kill.calls = 0
    with pytest.raises(KeyboardInterrupt):
        build_cache(ListSource(lengths), tmp_path / "killed", 11, progress=kill)
    with pytest.raises(InputError, match="cut off"):
        FrameCache.open(tmp_path / "killed")
    source = ListSource(lengths)
    report = build_cache(source, tmp_path / "killed", 11)
    assert (report.reused, report.built) == (killed_at, 3 - killed_at)
    assert source.reads == [n for n, _ in lengths][killed_at:]
    build_cache(ListSource(lengths), tmp_path / "unbroken", 11)
    for name in ("frames.u8", "index.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


def test_an_old_cache_stays_until_the_new_one_is_whole(tmp_path):
    build_cache(ListSource([("a", 3)]), tmp_path, 11)

    def kill(line):
        if line.startswith("2/2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_cache(ListSource([("a", 3), ("b", 2)]), tmp_path, 11, progress=kill)
    assert len(FrameCache.open(tmp_path, verify=True)) == 1


def test_bad_clips_are_skipped_and_listed(tmp_path, videos):
    (videos / "arm/2.mp4").write_bytes(b"")
    (videos / "arm/3.mp4").write_text("no video")
    lines = []
    report = build_cache(FolderSource(videos), tmp_path / "cache", 11, min_frames=6, progress=lines.append)
    assert (report.built, [s.name for s in report.skipped]) == (1, ["arm/2.mp4", "arm/3.mp4", "hand/1.mp4"])
    assert "empty file" in report.skipped[0].reason and "fewer than 6" in report.skipped[2].reason
    assert sum(line.startswith("skipped") for line in lines) == 3
    cache = FrameCache.open(tmp_path / "cache")
    assert cache.skipped == report.skipped and [c.name for c in cache.clips] == ["arm/1.mp4"]
    again = build_cache(FolderSource(videos), tmp_path / "cache", 11, min_frames=6)
    assert (again.built, again.skipped) == (0, report.skipped)


def test_clips_of_all_sizes_become_one(tmp_path):
    for i, (height, width) in enumerate([(22, 26), (44, 22), (11, 60)]):
        write_video(tmp_path / f"videos/{i}.mp4", moving_square(3, height, width), 5)
    assert build_cache(FolderSource(tmp_path / "videos"), tmp_path / "cache", 11).skipped == ()
    cache = FrameCache.open(tmp_path / "cache", verify=True)
    assert cache.frames.shape == (9, 11, 11, 3)


def test_nothing_usable_is_an_input_error(tmp_path, videos):
    with pytest.raises(InputError, match="All 3 clips"):
        build_cache(FolderSource(videos), tmp_path / "cache", 11, min_frames=99)


def test_a_full_disk_is_refused_before_anything_is_decoded(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: usage)
    source = ListSource([("a", 3)])
    with pytest.raises(InputError, match="80%"):
        build_cache(source, tmp_path, 11)
    assert source.reads == []


def test_two_clips_of_one_name_are_refused(tmp_path):
    with pytest.raises(InputError, match="'a' twice"):
        build_cache(ListSource([("a", 3), ("a", 3)]), tmp_path, 11)


def test_no_absolute_path_lies_in_the_cache(tmp_path, videos):
    build_cache(FolderSource(videos), tmp_path / "cache", 11)
    assert str(tmp_path) not in (tmp_path / "cache" / "index.json").read_text()


def test_a_whole_cache_is_read_while_another_process_holds_the_folder(tmp_path):
    source = ListSource([("a", 3), ("b", 2)])
    build_cache(source, tmp_path, 16)
    with alone_in(tmp_path):
        assert build_cache(source, tmp_path, 16).reused == 2


def test_a_second_process_waits_for_the_first_and_decodes_nothing(tmp_path):
    source, lines = ListSource([("a", 3), ("b", 2)]), []
    waits = threading.Event()

    def say(line):
        lines.append(line)
        if "waiting" in line:
            waits.set()

    with ThreadPoolExecutor(1) as pool:
        with alone_in(tmp_path / "cache"):
            second = pool.submit(build_cache, source, tmp_path / "cache", 16, progress=say)
            assert waits.wait(10)
            assert source.reads == []
            recipe = cache_module._recipe(source, 16, "crop", 2)
            cache_module._build(source, source.clips(), tmp_path / "cache", recipe, "crop", 2, print)
        assert second.result(10).reused == 2
    assert source.reads == ["a", "b"]
    assert len([line for line in lines if "waiting" in line]) == 1
