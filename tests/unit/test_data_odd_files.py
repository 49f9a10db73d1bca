"""Files that are odd, bad or changing: each costs itself and one line, and no run of thousands."""

import os
import re
import shutil
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest

from cyclemimic.data import video as video_module
from cyclemimic.data.cache import build_cache
from cyclemimic.data.seek import OpenVideo, index_video
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.sources.hdf5 import Hdf5Source
from cyclemimic.data.sources.rlds import RldsSource
from cyclemimic.data.sources.webdataset import WebDatasetSource
from cyclemimic.data.video import probe_video, read_moments, read_video, write_video
from cyclemimic.errors import InputError
from cyclemimic.store.frame_cache import FrameCache
from tests.unit.data_small import moving_square, video_folder

FIXTURES = Path(__file__).parents[1] / "fixtures"


def in_container(path, frames, codec, rate=5, form=None, **options):
    with av.open(str(path), "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("content", ["ffconcat version 1.0\nfile other.mp4\n", "#EXTM3U\n#EXTINF:2,\nother.mp4\n"])
def test_a_script_with_a_videos_name_leads_nowhere(tmp_path, content):
    write_video(tmp_path / "other.mp4", moving_square(5), 5)
    (tmp_path / "a.mp4").write_text(content)
    for read in (probe_video, read_video):
        with pytest.raises(InputError, match=r"a\.mp4"):
            read(tmp_path / "a.mp4")
    with pytest.raises(InputError, match=r"a\.mp4"):
        read_moments(tmp_path / "a.mp4", np.array([0.0]), tolerance_s=0.1)


@pytest.mark.parametrize("form", ["mpegts", "matroska", "avi", "flv", "asf"])
def test_any_container_is_read_under_any_videos_name(tmp_path, form):
    codec = "libx264" if form != "asf" else "mpeg4"
    path = in_container(tmp_path / "a.mp4", moving_square(6, 32, 48), codec, form=form)
    assert read_video(path).frames.shape == (6, 32, 48, 3)


def test_a_name_that_looks_like_an_address_is_a_name(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", moving_square(5), 5)
    shutil.copy(tmp_path / "a.mp4", tmp_path / "concat:a.mp4")
    monkeypatch.chdir(tmp_path)
    (odd, plain) = sorted(FolderSource(".").clips(), key=lambda c: c.name != "concat:a.mp4")
    source = FolderSource(".")
    np.testing.assert_array_equal(source.read(odd).frames, source.read(plain).frames)


def test_names_that_are_no_text_or_no_line_are_listed_and_read(tmp_path):
    folder = video_folder(tmp_path / "videos", {"arm/a.mp4": 5})
    for name in (b"bad\xff.mp4", b"two\nlines.mp4"):
        shutil.copy(folder / "arm/a.mp4", os.fsencode(folder) + b"/arm/" + name)
    (folder / "arm/no\nvideo.mp4").write_text("x")
    lines = []
    build_cache(FolderSource(folder), tmp_path / "cache", 11, progress=lines.append)
    cache = FrameCache.open(tmp_path / "cache")
    assert [c.name for c in cache.clips] == ["arm/a.mp4", r"arm/bad\udcff.mp4", r"arm/two\x0alines.mp4"]
    assert not any("\n" in line for line in lines), "one line each"
    assert lines[-1].startswith(r"skipped arm/no\x0avideo.mp4: ")


def test_links_are_followed_but_not_in_circles(tmp_path):
    elsewhere = video_folder(tmp_path / "elsewhere", {"1.mp4": 3, "deep/2.mp4": 4})
    folder = video_folder(tmp_path / "videos", {"arm/3.mp4": 5})
    (folder / "hand").symlink_to(elsewhere)
    (folder / "again").symlink_to(folder / "arm")  # a second way to the same clips
    (elsewhere / "round").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    (folder / "arm/gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (folder / "arm/circle.mp4").symlink_to(folder / "arm/circle.mp4")
    source = FolderSource(folder)
    lengths = {c.name: c.num_frames for c in source.clips()}
    assert lengths == {"arm/3.mp4": 5, "arm/circle.mp4": 0, "arm/gone.mp4": 0, "hand/1.mp4": 3, "hand/deep/2.mp4": 4}
    for clip in source.clips():
        if clip.num_frames == 0:
            with pytest.raises(InputError, match=rf"{clip.name}.*no such file.*link"):
                source.read(clip)


@pytest.mark.parametrize("kind", ["webdataset", "rlds", "hdf5"])
def test_links_in_circles_cost_no_other_clip_whatever_the_format(tmp_path, kind):
    source, file = source_of_files(kind, tmp_path)
    whole = [clip.name for clip in source.clips() if "train-00001-of" not in clip.name]
    (file.parent / "round").symlink_to(file.parent)  # a folder in itself
    circle = file.with_name(file.name.replace("00000-of", "00001-of") if kind == "rlds" else f"b{file.suffix}")
    circle.unlink(missing_ok=True)
    circle.symlink_to(circle)
    again = type(source)(str(file.parent))
    found = {clip.name: clip for clip in again.clips()}
    assert set(whole) <= set(found)
    for name in whole:
        assert len(again.read(found[name]).frames) > 1
    for name in set(found) - set(whole):
        with pytest.raises(InputError, match=re.escape(circle.name)):
            again.read(found[name])


@pytest.mark.parametrize(("name", "codec"), [("a.webm", "libvpx-vp9"), ("a.avi", "mpeg4"), ("a.mkv", "ffv1")])
@pytest.mark.parametrize(("height", "width"), [(23, 29), (24, 31), (17, 16)])
def test_odd_sizes_with_halved_colour_keep_their_last_row_and_column(tmp_path, name, codec, height, width):
    frames = np.repeat(np.arange(5, dtype=np.uint8)[:, None, None, None] * 30 + 40, height, 1)
    frames = np.repeat(np.repeat(frames, width, 2), 3, 3)
    frames[:, -1], frames[:, :, -1] = 220, 220
    path = in_container(tmp_path / name, frames, codec)
    video = read_video(path)
    assert video.frames.shape == frames.shape
    assert probe_video(path).height_px == height and probe_video(path).width_px == width
    assert np.abs(video.frames.astype(int) - frames)[..., 1].mean() < 6
    assert video.frames[2, -1].mean() > 180 and video.frames[2, :, -1].mean() > 180
    sought = OpenVideo(index_video(path))
    np.testing.assert_array_equal(sought.picture(3), video.frames[3])


def test_a_pipe_is_not_waited_for(tmp_path):
    folder = video_folder(tmp_path / "videos", {"a.mp4": 5})
    os.mkfifo(folder / "b.mp4")
    report = build_cache(FolderSource(folder), tmp_path / "cache", 11)
    assert [(s.name, "a pipe, socket or device" in s.reason) for s in report.skipped] == [("b.mp4", True)]


def test_what_may_not_be_looked_at_is_one_clip_of_no_use(tmp_path, monkeypatch):
    folder = video_folder(tmp_path / "videos", {"a.mp4": 5, "b.mp4": 5})
    stat = type(folder).stat

    def refused(self, **words):
        if self.name == "b.mp4":
            raise PermissionError(13, "Permission denied")
        return stat(self, **words)

    monkeypatch.setattr(type(folder), "stat", refused)
    report = build_cache(FolderSource(folder), tmp_path / "cache", 11)
    assert [(s.name, "Permission denied" in s.reason) for s in report.skipped] == [("b.mp4", True)]


@pytest.mark.parametrize("change", ["grows", "vanishes", "is replaced"])
def test_a_file_that_changes_while_it_is_read_costs_itself(tmp_path, monkeypatch, change):
    folder = video_folder(tmp_path / "videos", {"a.mp4": 5, "b.mp4": 5, "c.mp4": 5})
    show, shown = video_module.Screen.show, []

    def meanwhile(self, frame):
        path = folder / "b.mp4"
        if self.path == path and not shown:
            shown.append(path)
            if change == "grows":
                path.write_bytes(path.read_bytes() + b"x")
            elif change == "vanishes":
                path.unlink()
            else:
                write_video(path, moving_square(9), 5)
        return show(self, frame)

    monkeypatch.setattr(video_module.Screen, "show", meanwhile)
    report = build_cache(FolderSource(folder), tmp_path / "cache", 11)
    assert report.built == 2 and [s.name for s in report.skipped] == ["b.mp4"]
    assert "changed while it was read" in report.skipped[0].reason and "again" in report.skipped[0].reason


def source_of_files(kind, tmp_path):
    """A source whose clips lie in a file that is looked at first and read later; and that file."""
    if kind == "webdataset":
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            for name in ("k", "l"):
                write_video(tmp_path / f"{name}.mp4", moving_square(5), 5)
                tar.add(tmp_path / f"{name}.mp4", f"{name}.mp4")
                (tmp_path / f"{name}.mp4").unlink()
        return WebDatasetSource(str(tmp_path)), tmp_path / "a.tar"
    if kind == "rlds":
        root = tmp_path / "rlds"
        shutil.copytree(FIXTURES / "rlds", root)
        return RldsSource(str(root)), next(path for path in sorted(root.iterdir()) if "tfrecord" in path.name)
    shutil.copy(FIXTURES / "hdf5/pick_up_the_cube_demo.hdf5", tmp_path / "a.hdf5")
    return Hdf5Source(str(tmp_path)), tmp_path / "a.hdf5"


@pytest.mark.parametrize("kind", ["webdataset", "rlds", "hdf5"])
def test_an_archive_that_changes_once_it_is_listed_is_refused_and_listed_anew(tmp_path, kind):
    source, file = source_of_files(kind, tmp_path)
    clips = source.clips()
    assert len(source.read(clips[0]).frames) > 1
    file.write_bytes(file.read_bytes() + b"\0" * 4096)
    with pytest.raises(InputError, match=r"changed while it was read.*Wait") as error:
        source.read(clips[0])
    assert file.name in str(error.value)


def test_a_video_that_changes_while_moments_of_it_are_read_is_refused(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", moving_square(9), 5)
    show = video_module.Screen.show

    def meanwhile(self, frame):
        os.utime(tmp_path / "a.mp4", (1, 1))
        return show(self, frame)

    assert read_moments(tmp_path / "a.mp4", np.array([0.2, 0.4]), tolerance_s=0.05).shape[0] == 2
    monkeypatch.setattr(video_module.Screen, "show", meanwhile)
    with pytest.raises(InputError, match=r"a\.mp4.*changed while it was read"):
        read_moments(tmp_path / "a.mp4", np.array([0.2, 0.4]), tolerance_s=0.05)


def test_files_that_vanish_once_they_are_listed_cost_themselves(tmp_path):
    folder = video_folder(tmp_path / "videos", {"a.mp4": 5, "b.mp4": 5})
    source = FolderSource(folder)
    source.clips()
    (folder / "b.mp4").unlink()
    report = build_cache(source, tmp_path / "cache", 11)
    assert [(s.name, "no such file" in s.reason) for s in report.skipped] == [("b.mp4", True)]


def test_a_cut_file_that_counts_no_frames_is_noticed_by_its_seconds(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (60, 32, 48, 3), np.uint8)
    path = in_container(tmp_path / "a.webm", noise, "libvpx-vp9")
    assert len(read_video(path).frames) == 60
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"a\.webm.*whole video.*12\.0"):
        read_video(path)


def test_half_a_character_in_a_sidecar_is_named(tmp_path):
    folder = video_folder(tmp_path, {"a.mp4": 5})
    (folder / "clips.jsonl").write_text(r'{"file": "a.mp4", "instruction": "push \ud83d"}')
    with pytest.raises(InputError, match=r"clips\.jsonl, line 1, field 'instruction'.*Unicode"):
        FolderSource(folder).clips()


@pytest.mark.parametrize("file", ["../secret.mp4", "/etc/passwd", "arm/../../secret.mp4"])
def test_a_sidecar_leads_nowhere(tmp_path, file):
    video_folder(tmp_path, {"secret.mp4": 7, "videos/a.mp4": 5})
    (tmp_path / "videos/clips.jsonl").write_text(f'{{"file": "a.mp4"}}\n{{"file": "{file}", "fps": 3}}\n')
    assert [c.name for c in FolderSource(tmp_path / "videos").clips()] == ["a.mp4"]


def test_a_whole_cache_says_again_what_is_of_no_use(tmp_path):
    folder = video_folder(tmp_path / "videos", {"a.mp4": 5})
    (folder / "b.mp4").write_text("x")
    build_cache(FolderSource(folder), tmp_path / "cache", 11)
    lines = []
    build_cache(FolderSource(folder), tmp_path / "cache", 11, progress=lines.append)
    assert lines[-1] == "skipped 1 clips that are of no use, as when they were decoded: b.mp4"
