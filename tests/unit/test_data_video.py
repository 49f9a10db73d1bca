import contextlib
import struct

import av
import numpy as np
import pytest
from PIL import Image

from cyclemimic.data.seek import OpenVideo, index_video
from cyclemimic.data.video import DecodedVideo, natural_key, probe_video, read_moments, read_video, write_video
from cyclemimic.errors import InputError
from tests.unit.data_small import moving_square


def encode(path, frames, codec, pix_fmt, rate=5, times=None, form=None):
    """Encode with any codec; `times` are pts in units of 1 / rate."""
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        stream.bit_rate = 4_000_000
        for t, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts = times[t]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def images(folder, frames, names=None):
    folder.mkdir(parents=True)
    for t, picture in enumerate(frames):
        Image.fromarray(picture).save(folder / (names[t] if names else f"f{t}.png"))
    return folder


def test_what_is_written_is_read_with_its_colours(tmp_path):
    frames = moving_square(7, height_px=23, width_px=29)  # odd sizes
    write_video(tmp_path / "a.mp4", frames, 12.5)
    video = read_video(tmp_path / "a.mp4")
    assert video.frames.shape == frames.shape and video.fps == 12.5
    np.testing.assert_allclose(video.times_s, np.arange(7) / 12.5, atol=1e-4)
    error = np.abs(video.frames.astype(int) - frames)
    assert error.mean() < 2 and np.quantile(error, 0.99) < 12


def test_equal_frames_give_equal_bytes_and_nothing_else_is_left(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, moving_square(30), 10)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.gif", "gif", "rgb8"),
    ],
)
def test_every_format_is_read_and_probed_alike(tmp_path, name, codec, pix_fmt):
    frames = moving_square(9)
    encode(tmp_path / name, frames, codec, pix_fmt)
    video, facts = read_video(tmp_path / name), probe_video(tmp_path / name)
    assert video.frames.shape == frames.shape
    assert (facts.num_frames, facts.height_px, facts.width_px) == (9, 22, 26)
    assert video.fps == pytest.approx(5) and facts.fps == pytest.approx(5)
    # The square is where it should be: the reddest column moves a pixel per frame.
    red = video.frames[..., 0].astype(int) - video.frames[..., 2]
    centres = (red.clip(60).sum(1) - 60 * 22) @ np.arange(26) / (red.clip(60).sum((1, 2)) - 60 * 22 * 26)
    np.testing.assert_allclose(np.diff(centres), 1, atol=0.3)


def test_an_image_folder_is_a_clip_in_natural_order(tmp_path):
    frames = moving_square(12)
    folder = images(tmp_path / "clip", frames)
    video = read_video(folder)
    np.testing.assert_array_equal(video.frames, frames)
    assert (video.fps, read_video(folder, fps=4).times_s[1]) == (10.0, 0.25)
    assert probe_video(folder).num_frames == 12
    assert sorted(["f10", "f9", "F1"], key=natural_key) == ["F1", "f9", "f10"]


def test_grey_and_transparent_pictures_become_rgb(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    Image.new("L", (5, 3), 7).save(folder / "1.png")
    Image.new("RGBA", (5, 3), (7, 7, 7, 255)).save(folder / "2.png")
    assert read_video(folder).frames.shape == (2, 3, 5, 3)


def test_deep_grey_pictures_are_scaled(tmp_path):
    for t, value in enumerate([0, 300, 30000, 65535]):
        folder = tmp_path / "clip"
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.full((3, 5), value, np.uint16)).save(folder / f"{t}.png")
    assert read_video(tmp_path / "clip").frames[:, 0, 0].tolist() == [[0] * 3, [1] * 3, [117] * 3, [255] * 3]


def test_a_telephones_pictures_are_turned_upright(tmp_path):
    frames = moving_square(3)
    (tmp_path / "clip").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    for t, picture in enumerate(frames):
        Image.fromarray(picture).save(tmp_path / "clip" / f"{t}.png", exif=exif)
    video = read_video(tmp_path / "clip")
    np.testing.assert_array_equal(video.frames, np.rot90(frames, -1, (1, 2)))
    assert video.remarks == ("turned upright as its EXIF says",)


def test_uneven_times_become_a_constant_rate(tmp_path):
    frames = moving_square(6)
    encode(tmp_path / "a.mp4", frames, "libx264", "yuv420p", rate=10, times=[0, 1, 2, 5, 6, 7])
    video = read_video(tmp_path / "a.mp4")
    np.testing.assert_allclose(video.times_s, [0, 0.1, 0.2, 0.5, 0.6, 0.7], atol=1e-3)
    even = video.at_constant_rate()
    assert even.fps == pytest.approx(10, rel=0.05) and len(even.frames) == 8
    shown = [int(np.abs(video.frames.astype(int) - f).sum((1, 2, 3)).argmin()) for f in even.frames]
    assert shown == [0, 1, 2, 2, 2, 3, 4, 5]


def test_what_was_changed_on_the_way_is_said(tmp_path):
    encode(tmp_path / "a.mp4", moving_square(6), "libx264", "yuv420p", rate=10, times=[0, 1, 2, 5, 6, 7])
    (remark,) = read_video(tmp_path / "a.mp4").at_constant_rate().remarks
    assert remark == "variable frame rate: 6 frames, 0.1 to 0.3 s apart, became 8 at 10 Hz"
    write_video(tmp_path / "b.mp4", moving_square(6), 10)
    assert read_video(tmp_path / "b.mp4").at_constant_rate().remarks == ()


def display_matrix(path, a, b, c, d):
    """Write how an mp4 is to be shown into its track header."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    content[at : at + 36] = struct.pack(">9i", *(n << 16 for n in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((0, 1, -1, 0), lambda f: np.rot90(f, -1)),  # a telephone held upright
        ((-1, 0, 0, -1), lambda f: np.rot90(f, 2)),
        ((0, -1, 1, 0), lambda f: np.rot90(f, 1)),
        ((-1, 0, 0, 1), lambda f: f[:, ::-1]),  # a front camera
        ((1, 0, 0, -1), lambda f: f[::-1]),
        ((0, 1, 1, 0), lambda f: f.swapaxes(0, 1)),
        ((1, 0, 0, 1), lambda f: f),
    ],
)
def test_a_display_matrix_is_followed(tmp_path, matrix, shown):
    frames = moving_square(4)
    frames[:, :3, :5] = (20, 60, 250)  # no two ways of turning look alike
    write_video(tmp_path / "a.mp4", frames, 5)
    display_matrix(tmp_path / "a.mp4", *matrix)
    video = read_video(tmp_path / "a.mp4")
    want = np.stack([shown(f) for f in frames])
    assert video.frames.shape == want.shape and np.abs(video.frames.astype(int) - want).mean() < 2
    assert bool(video.remarks) == (matrix != (1, 0, 0, 1))
    # However it is read.
    sought = OpenVideo(index_video(tmp_path / "a.mp4"))
    np.testing.assert_array_equal(sought.picture(2), video.frames[2])
    moments = read_moments(tmp_path / "a.mp4", np.array([0.2, 0.4]), tolerance_s=0.05)
    np.testing.assert_array_equal(moments, video.frames[1:3])


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mkv", "ffv1", "gray"),
        ("a.mkv", "ffv1", "gray16le"),
        ("a.mkv", "ffv1", "yuva420p"),
        ("a.mkv", "ffv1", "yuv420p10le"),
        ("a.mp4", "libx264", "yuv420p10le"),
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("a.mov", "png", "rgba"),
    ],
)
def test_grey_transparent_and_deep_video_becomes_8_bit_rgb(tmp_path, name, codec, pix_fmt):
    frames = moving_square(5)
    if pix_fmt.startswith("gray"):
        frames[:] = frames.mean(-1, keepdims=True)
    try:
        encode(tmp_path / name, frames, codec, pix_fmt)
    except (av.FFmpegError, ValueError) as error:
        pytest.skip(f"this build of FFmpeg cannot write it: {error}")
    video = read_video(tmp_path / name)
    assert video.frames.shape == frames.shape and video.frames.dtype == np.uint8
    assert np.abs(video.frames.astype(int) - frames).mean() < 6  # colour is thinned out


def test_the_content_counts_and_not_the_extension(tmp_path):
    write_video(tmp_path / "a.mp4", moving_square(5), 5)
    (tmp_path / "a.mp4").rename(tmp_path / "a.avi")
    assert len(read_video(tmp_path / "a.avi").frames) == 5


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.avi"])
def test_no_damage_stops_a_run(tmp_path, name):
    codec = {"a.mp4": "libx264", "a.webm": "libvpx-vp9", "a.avi": "mpeg4"}[name]
    encode(tmp_path / name, moving_square(7), codec, "yuv420p")
    whole, rng = np.frombuffer((tmp_path / name).read_bytes(), np.uint8), np.random.default_rng(7)
    for _ in range(30):
        content = whole.copy()
        content[rng.integers(0, min(len(content), 900), 12)] = rng.integers(0, 256, 12)
        (tmp_path / name).write_bytes(content.tobytes())
        for read in (probe_video, read_video):
            with contextlib.suppress(InputError):
                read(tmp_path / name)


def test_a_codec_that_nobody_knows(tmp_path):
    write_video(tmp_path / "a.mp4", moving_square(5), 5)
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(content.replace(b"avc1\0\0", b"xyz1\0\0").replace(b"avcC", b"xyzC"))
    for read in (probe_video, read_video):
        with pytest.raises(InputError, match=r"a\.mp4.*known codec"):
            read(tmp_path / "a.mp4")


def test_a_constant_rate_is_left_alone():
    times_s = np.arange(9) / 29.97 + np.array([0, 1, -1] * 3) * 5e-4
    video = DecodedVideo(frames=moving_square(9), times_s=times_s, fps=29.97)
    assert video.at_constant_rate() is video


def test_fps_can_be_told(tmp_path):
    write_video(tmp_path / "a.mp4", moving_square(5), 10)
    video = read_video(tmp_path / "a.mp4", fps=2)
    assert video.fps == 2 and video.times_s[1] == pytest.approx(0.5)
    assert probe_video(tmp_path / "a.mp4", fps=2).fps == 2


def truncated(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def bad_file(tmp_path, kind):
    path = tmp_path / "bad.mp4"
    if kind in ("cut", "one frame"):
        write_video(path, moving_square(1 if kind == "one frame" else 20), 5)
    if kind == "cut":
        truncated(path, 0.5)
    elif kind == "zero bytes":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("This is not a video.\n" * 50)
    elif kind == "sound only":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=8000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 8000
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    elif kind == "one picture":
        images(path, moving_square(1))
    elif kind == "sizes":
        images(path, [moving_square(1)[0], moving_square(1, height_px=23)[0]])
    elif kind == "cut picture":
        images(path, moving_square(3))
        truncated(path / "f1.png", 0.4)
    return path


KINDS = [
    "cut",
    "one frame",
    "zero bytes",
    "text",
    "sound only",
    "one picture",
    "sizes",
    "cut picture",
    "absent",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_file_is_named_with_a_remedy(tmp_path, kind):
    path = bad_file(tmp_path, kind)
    with pytest.raises(InputError, match=r"bad\.mp4") as error:
        read_video(path)
    assert error.value.remedy
    if kind in ("sizes", "cut picture"):
        assert error.value.where.endswith("f1.png")
    if kind not in ("sizes", "cut picture"):  # these show only when the pictures are decoded
        with pytest.raises(InputError, match=r"bad\.mp4"):
            probe_video(path)


def test_a_cut_file_whose_header_is_whole_is_noticed(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (40, 22, 26, 3), np.uint8)
    with av.open(str(tmp_path / "a.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=5)
        stream.height, stream.width, stream.pix_fmt = 22, 26, "yuv420p"
        for picture in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    assert len(read_video(tmp_path / "a.mp4").frames) == 40
    truncated(tmp_path / "a.mp4", 0.6)
    with pytest.raises(InputError, match=r"a\.mp4"):
        read_video(tmp_path / "a.mp4")


def test_nothing_is_not_written(tmp_path):
    for frames, fps in ((moving_square(0), 5), (moving_square(2), 0)):
        with pytest.raises(InputError):
            write_video(tmp_path / "a.mp4", frames, fps)
    assert not list(tmp_path.iterdir())
