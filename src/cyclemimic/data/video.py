"""One video file in, one video file out, through PyAV with one thread. Engineering."""

from __future__ import annotations

import io
import math
import re
import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, ClassVar, cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cyclemimic.errors import InputError
from cyclemimic.store.atomic import write_atomically
from cyclemimic.types import Int64, UInt8, check_picture

VIDEO_EXTENSIONS = (".mp4", ".webm", ".avi", ".gif", ".mov", ".mkv", ".m4v")
IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg")
IMAGE_FOLDER_FPS_HZ = 10.0
MAX_CLIP_BYTES = 8 << 30  # a clip is decoded into memory as a whole
_EXIF_ORIENTATION = 0x0112
_TRUNCATED_BELOW = 0.9  # of the frames that the header declares; edit lists may hide a few


@dataclass(frozen=True, kw_only=True)
class DecodedVideo:
    """All frames of a clip [T, H, W, 3], when each is shown [s, from 0], and the usual rate [Hz].

    `remarks` say in words what was changed on the way, for whoever checks the data.
    """

    frames: UInt8
    times_s: NDArray[np.float64]
    fps: float
    remarks: tuple[str, ...] = ()

    def at_constant_rate(self) -> DecodedVideo:
        """The frame on display at every multiple of 1 / fps; itself where the rate is constant.

        Web video may hold frames for uneven times, yet a gap of H frames must be the same time everywhere.
        """
        shown = shown_frames(self.times_s, self.fps)
        if shown is None:
            return self
        grid_s, steps = np.arange(len(shown)) / self.fps, np.diff(self.times_s)
        remark = (
            f"variable frame rate: {len(self.frames)} frames, {steps.min():.3g} to {steps.max():.3g} s apart, "
            f"became {len(shown)} at {self.fps:.4g} Hz"
        )
        return DecodedVideo(frames=self.frames[shown], times_s=grid_s, fps=self.fps, remarks=(*self.remarks, remark))


def shown_frames(times_s: NDArray[np.float64], fps: float) -> Int64 | None:
    """Which frame is on display at every multiple of 1 / fps [s]; None where the rate is constant: each its own."""
    if np.abs(times_s - np.arange(len(times_s)) / fps).max() < 0.5 / fps:
        return None
    grid_s = np.arange(math.floor(times_s[-1] * fps + 1e-6) + 1) / fps
    # A quarter frame of slack: time stamps are rounded to the container's clock.
    return np.searchsorted(times_s, grid_s + 0.25 / fps, side="right") - 1


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What a file says of itself without its pictures being decoded: a promise that reading may not keep."""

    num_frames: int
    fps: float
    height_px: int
    width_px: int


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts 'frame2' before 'frame10'."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts if p)


def image_files(folder: Path) -> tuple[Path, ...]:
    """The pictures of an image folder, in natural order."""
    files = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_EXTENSIONS and p.name[0] != "."]
    return tuple(sorted(files, key=lambda p: natural_key(p.name)))


def read_video(path: Path | str, *, fps: float | None = None, file: IO[bytes] | None = None) -> DecodedVideo:
    """Decode a video file, or a folder of equally large png or jpg pictures.

    Args:
        path: mp4, webm, avi, gif, mov or mkv; or an image folder.
        fps: frames per second [Hz] instead of what the file says (image folders: 10).
        file: what to decode; `path` then only names it.

    Raises:
        InputError: the file is missing, empty, cut short, no video, has a single frame, or is too large for
        memory.
    """
    path = Path(path)
    if file is None and path.is_dir():
        return _read_image_folder(path, fps or IMAGE_FOLDER_FPS_HZ)
    if file is None:
        refuse_absent(path)
    frames: list[UInt8] = []
    times: list[float | None] = []
    turned = False
    try:
        with av.open(file or str(path)) as container:
            stream = video_stream(container, path)
            declared, rate = int(stream.frames), stream.average_rate
            colours = Colours()
            for frame in container.decode(stream):
                picture, turned = upright(colours.of(frame), frame)
                if picture.nbytes * (len(frames) + 1) > MAX_CLIP_BYTES:
                    raise _too_long(path, len(frames), picture)
                frames.append(picture)
                times.append(frame.time)
    except (av.FFmpegError, UnicodeError) as error:
        raise unreadable(path, error) from None
    _refuse_short(path, len(frames))
    if len(frames) < _TRUNCATED_BELOW * declared:
        got = f"{len(frames)} frames where the header declares {declared}"
        remedy = "The file is cut short; download or copy it again."
        raise InputError(path, expected="a whole video", got=got, remedy=remedy)
    if len({f.shape for f in frames}) > 1:
        remedy = "Encode it again at one size."
        raise InputError(path, expected="one picture size", got="several", remedy=remedy)
    times_s, found_fps = clock(times, float(rate) if rate else None)
    if fps is not None:
        times_s, found_fps = times_s * (found_fps / fps), fps
    remarks = ("turned upright as its display matrix says",) if turned else ()
    return DecodedVideo(frames=np.stack(frames), times_s=times_s, fps=found_fps, remarks=remarks)


def probe_video(path: Path | str, *, fps: float | None = None, file: IO[bytes] | None = None) -> VideoFacts:
    """Number, rate and size of a clip's frames, from headers and packets alone; nothing is decoded.

    Raises:
        InputError: as `read_video`, as far as it shows without decoding.
    """
    path = Path(path)
    if file is None and path.is_dir():
        files = image_files(path)
        _refuse_short(path, len(files))
        with _open_image(files[0]) as image:
            width, height = image.size
        rate = fps or IMAGE_FOLDER_FPS_HZ
        return VideoFacts(num_frames=len(files), fps=rate, height_px=height, width_px=width)
    if file is None:
        refuse_absent(path)
    try:
        with av.open(file or str(path)) as container:
            stream = video_stream(container, path)
            num_frames, average = int(stream.frames), stream.average_rate
            height, width = stream.height, stream.width
            if num_frames == 0 or not average:  # webm and gif do not count: count packets
                packets = [p for p in container.demux(stream) if p.size]
                num_frames = len(packets)
                base = stream.time_base or Fraction(1, 1000)
                times = sorted(float(p.pts * base) for p in packets if p.pts is not None)
                found_fps = clock(list(times), float(average) if average else None)[1]
            else:
                found_fps = float(average)
    except (av.FFmpegError, UnicodeError) as error:
        raise unreadable(path, error) from None
    _refuse_short(path, num_frames)
    return VideoFacts(num_frames=num_frames, fps=fps or found_fps, height_px=height, width_px=width)


def read_moments(path: Path | str, times_s: NDArray[np.float64], *, tolerance_s: float) -> UInt8:
    """The frames [T, H, W, 3] that a video file shows at the rising `times_s` [T]; only that stretch is decoded.

    Args:
        path: a video file whose own clock counts.
        times_s: when [s].
        tolerance_s: how far a frame may lie from its moment.

    Raises:
        InputError: as `read_video`, or there is no frame at one of the moments.
    """
    path = Path(path)
    refuse_absent(path)
    frames: dict[int, tuple[float, UInt8]] = {}
    try:
        with av.open(str(path)) as container:
            stream = video_stream(container, path)
            if times_s[0] > tolerance_s and stream.time_base:
                container.seek(int((times_s[0] - tolerance_s) / stream.time_base), stream=stream)
            colours = Colours()
            for frame in container.decode(stream):
                if frame.time is None:
                    continue
                if frame.time > times_s[-1] + tolerance_s:
                    break
                nearest = int(np.abs(times_s - frame.time).argmin())
                off_s = abs(times_s[nearest] - frame.time)
                if off_s > tolerance_s or (nearest in frames and frames[nearest][0] <= off_s):
                    continue
                picture, _ = upright(colours.of(frame), frame)
                if picture.nbytes * len(times_s) > MAX_CLIP_BYTES:
                    raise _too_long(path, len(times_s) - 1, picture)
                frames[nearest] = (off_s, picture)
    except (av.FFmpegError, UnicodeError) as error:
        raise unreadable(path, error) from None
    absent = [i for i in range(len(times_s)) if i not in frames]
    if absent:
        expected, got = f"a frame at {times_s[absent[0]]:.3f} s", f"none, nor at {len(absent) - 1} more moments"
        remedy = "The file is cut short, or its frames lie at other times than the dataset says; download it again."
        raise InputError(path, expected=expected, got=got, remedy=remedy)
    pictures = [frames[i][1] for i in range(len(times_s))]
    if len({p.shape for p in pictures}) > 1:
        remedy = "Encode it again at one size."
        raise InputError(path, expected="one picture size", got="several", remedy=remedy)
    return np.stack(pictures)


def write_video(path: Path | str, frames: UInt8, fps: float) -> None:
    """Write frames [T, H, W, 3] as H.264 in an mp4, atomically; equal frames give equal bytes.

    Colour is not subsampled (yuv444p) and the quality is high (crf 6): thin arms of one pixel must survive.
    One thread and no B-frames: the encoder's bytes depend on the number of threads, and where small pictures have
    B-frames also on what lay in memory before.
    """
    check_picture(frames, f"frames for {Path(path).name}", ndim=4)
    if not (len(frames) and fps > 0):
        got = f"{len(frames)} frames at {fps} Hz"
        raise InputError(path, expected="frames and a rate above 0", got=got, remedy="Record something.")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"crf": "6", "preset": "medium", "threads": "1", "g": "12", "bf": "0"}
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(60060), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv444p"
        stream.codec_context.thread_count = 1
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    write_atomically(path, buffer.getvalue())


class Colours:
    """Makes frames of one video RGB: one converter for all of them, as a fresh one each costs as much as its work."""

    # Where PyAV lets us choose. By itself it wakes a thread per core for every frame, which costs half as much again.
    _one_thread: ClassVar[dict[str, int]] = (
        {"threads": 1} if "threads" in (VideoReformatter.reformat.__doc__ or "") else {}
    )

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def of(self, frame: av.VideoFrame) -> UInt8:
        """The picture [H, W, 3] as it is stored."""
        rgb = self._reformatter.reformat(frame, format="rgb24", **self._one_thread).to_ndarray()
        return cast(UInt8, rgb)


def clock(times: list[float] | list[float | None], declared_hz: float | None) -> tuple[NDArray[np.float64], float]:
    """Times from 0 [s] and the usual rate [Hz]; without a usable clock the declared rate counts."""
    known = np.array([math.nan if t is None else t for t in times], np.float64)
    steps = np.diff(known)
    if len(steps) and np.isfinite(steps).all() and (steps > 0).all():
        # The mean is exact for a constant rate; where frames are uneven the median is the usual step.
        mean, median = float(steps.mean()), float(np.median(steps))
        step = mean if np.abs(steps - median).max() < 0.5 * median else median
        if declared_hz and abs(1 / step - declared_hz) < 0.02 * declared_hz:
            step = 1 / declared_hz  # time stamps are rounded; the declared fraction is not
        return known - known[0], 1 / step
    rate = declared_hz or IMAGE_FOLDER_FPS_HZ
    return np.arange(len(times)) / rate, rate


def upright(picture: UInt8, frame: av.VideoFrame) -> tuple[UInt8, bool]:
    """The picture [H, W, 3] as it is to be shown, and whether it lay otherwise.

    Telephones store a sideways picture and a display matrix; mirrored ones come from front cameras.
    """
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return picture, False
    # x' = a x + c y, y' = b x + d y, in 16.16 fixed point; only turns by right angles are followed.
    a, b, _, c, d = (int(n) for n in np.frombuffer(bytes(found), np.int32)[:5])
    swapped = abs(a) < abs(b)
    shown = picture.swapaxes(0, 1) if swapped else picture
    right, down = (c, b) if swapped else (a, d)
    shown = shown[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
    return np.ascontiguousarray(shown), swapped or right < 0 or down < 0


def video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The first video stream, to be decoded by one thread; InputError where there is none."""
    if not container.streams.video:
        remedy = "Remove this file, or give it a name without a video's extension."
        raise InputError(path, expected="a video stream", got="none", remedy=remedy)
    stream = container.streams.video[0]
    if stream.codec_context is None:
        remedy = "The file is damaged, or encode it again as H.264."
        raise InputError(path, expected="a known codec", got="an unknown one", remedy=remedy)
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return stream


def _read_image_folder(folder: Path, fps: float) -> DecodedVideo:
    files = image_files(folder)
    _refuse_short(folder, len(files))
    frames: list[UInt8] = []
    turned = False
    for file in files:
        with _open_image(file) as image:
            try:
                turned = turned or image.getexif().get(_EXIF_ORIENTATION, 1) != 1
                picture = _rgb(ImageOps.exif_transpose(image))
            except (OSError, SyntaxError, ValueError, TypeError, struct.error) as error:  # damaged EXIF too
                raise unreadable(file, error) from None
        if frames and picture.shape != frames[0].shape:
            expected, got = f"pictures of {frames[0].shape[:2]} px", f"{picture.shape[:2]}"
            remedy = "A folder of pictures is one clip; move other pictures elsewhere."
            raise InputError(file, expected=expected, got=got, remedy=remedy)
        if picture.nbytes * (len(frames) + 1) > MAX_CLIP_BYTES:
            raise _too_long(folder, len(frames), picture)
        frames.append(picture)
    remarks = ("turned upright as its EXIF says",) if turned else ()
    return DecodedVideo(frames=np.stack(frames), times_s=np.arange(len(frames)) / fps, fps=fps, remarks=remarks)


def _rgb(image: Image.Image) -> UInt8:
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255 instead of scaling
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.stack([grey] * 3, -1)
    return np.asarray(image.convert("RGB"))


def _open_image(file: Path) -> Image.Image:
    try:
        return Image.open(file)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise unreadable(file, error) from None


def refuse_absent(path: Path) -> None:
    """Raise InputError unless there is a file, or folder, with something in it."""
    if not path.exists():
        raise InputError(path, expected="a video", got="no such file", remedy="Check the path.")
    if path.stat().st_size == 0:
        remedy = "Download or copy it again, or remove it."
        raise InputError(path, expected="a video", got="an empty file", remedy=remedy)


def _refuse_short(path: Path, num_frames: int) -> None:
    if num_frames < 2:
        remedy = "One frame shows no motion; remove the clip."
        raise InputError(path, expected="at least 2 frames", got=str(num_frames), remedy=remedy)


def unreadable(path: Path, error: Exception) -> InputError:
    """What to raise where a decoder raised `error`."""
    reason = getattr(error, "strerror", None) or str(error)
    remedy = "The file is cut short, damaged or no video; download it again or remove it."
    return InputError(path, expected="a readable video or picture", got=reason, remedy=remedy)


def _too_long(path: Path, num_frames: int, picture: UInt8) -> InputError:
    return InputError(
        path,
        expected=f"a clip of at most {MAX_CLIP_BYTES >> 30} GiB once decoded",
        got=f"more than {num_frames} frames of {picture.shape[1]} x {picture.shape[0]} px",
        remedy="Cut it into parts or scale it down, for example with `ffmpeg -i IN -vf scale=-2:256 OUT`.",
    )
