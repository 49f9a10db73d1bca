"""One video file in, one video file out, through PyAV with one thread. Engineering."""

from __future__ import annotations

import errno
import io
import math
import os
import re
import stat
import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cyclemimic.data.parts import MAX_CLIP_BYTES
from cyclemimic.data.screen import Screen, on_black
from cyclemimic.errors import InputError
from cyclemimic.store.atomic import write_atomically
from cyclemimic.types import Int64, UInt8, check_picture

VIDEO_EXTENSIONS = (".mp4", ".webm", ".avi", ".gif", ".mov", ".mkv", ".m4v")
IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg")
IMAGE_FOLDER_FPS_HZ = 10.0
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,ivf,nut,mxf,h264,hevc"
)
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
    if file is None and _is_folder(path):
        return _read_image_folder(path, fps or IMAGE_FOLDER_FPS_HZ)
    if file is None:
        refuse_absent(path)
    before = None if file is not None else stamp_of(path)
    frames: list[UInt8] = []
    times: list[float | None] = []
    screen = Screen(path)
    try:
        with open_container(path, file) as container:
            stream = video_stream(container, path)
            declared, rate, length_s = int(stream.frames), stream.average_rate, _length_s(container)
            for frame in container.decode(stream):
                if frame.height * frame.width * 3 * (len(frames) + 1) > MAX_CLIP_BYTES:
                    raise _too_long(path, len(frames), frame.height, frame.width)
                frames.append(screen.show(frame))
                times.append(frame.time)
    except (av.FFmpegError, UnicodeError) as error:
        raise unreadable(path, error) from None
    if before is not None:
        refuse_changed(path, before)
    _refuse_short(path, len(frames))
    _refuse_cut(path, len(frames), declared, times[-1], length_s)
    if len({f.shape for f in frames}) > 1:
        remedy = "Encode it again at one size."
        raise InputError(path, expected="one picture size", got="several", remedy=remedy)
    times_s, found_fps = clock(times, float(rate) if rate else None)
    if fps is not None:
        times_s, found_fps = times_s * (found_fps / fps), fps
    return DecodedVideo(frames=np.stack(frames), times_s=times_s, fps=found_fps, remarks=screen.remarks)


def probe_video(path: Path | str, *, fps: float | None = None, file: IO[bytes] | None = None) -> VideoFacts:
    """Number, rate and size of a clip's frames, from headers and packets alone; nothing is decoded.

    Raises:
        InputError: as `read_video`, as far as it shows without decoding.
    """
    path = Path(path)
    if file is None and _is_folder(path):
        files = image_files(path)
        _refuse_short(path, len(files))
        with _open_image(files[0]) as image:
            width, height = image.size
        rate = fps or IMAGE_FOLDER_FPS_HZ
        return VideoFacts(num_frames=len(files), fps=rate, height_px=height, width_px=width)
    if file is None:
        refuse_absent(path)
    try:
        with open_container(path, file) as container:
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
    before = stamp_of(path)
    frames: dict[int, tuple[float, UInt8]] = {}
    screen = Screen(path)
    try:
        with open_container(path) as container:
            stream = video_stream(container, path)
            if times_s[0] > tolerance_s and stream.time_base:
                container.seek(int((times_s[0] - tolerance_s) / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if frame.time is None:
                    continue
                if frame.time > times_s[-1] + tolerance_s:
                    break
                nearest = int(np.abs(times_s - frame.time).argmin())
                off_s = abs(times_s[nearest] - frame.time)
                if off_s > tolerance_s or (nearest in frames and frames[nearest][0] <= off_s):
                    continue
                if frame.height * frame.width * 3 * len(times_s) > MAX_CLIP_BYTES:
                    raise _too_long(path, len(times_s) - 1, frame.height, frame.width)
                frames[nearest] = (off_s, screen.show(frame))
    except (av.FFmpegError, UnicodeError) as error:
        raise unreadable(path, error) from None
    refuse_changed(path, before)
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


def open_container(path: Path, file: IO[bytes] | None = None) -> av.container.InputContainer:
    """A file opened for decoding, whatever its extension says; `path` only names it where `file` is given.

    Only containers are opened: a playlist or a script with a video's name would lead to other files and addresses.
    """
    # `file:` in front, for a name may look like an address.
    return av.open(file or f"file:{path}", container_options={"format_whitelist": CONTAINERS})


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
                picture = rgb_of(ImageOps.exif_transpose(image))
            except (OSError, SyntaxError, ValueError, TypeError, struct.error) as error:  # damaged EXIF too
                raise unreadable(file, error) from None
        if frames and picture.shape != frames[0].shape:
            expected, got = f"pictures of {frames[0].shape[:2]} px", f"{picture.shape[:2]}"
            remedy = "A folder of pictures is one clip; move other pictures elsewhere."
            raise InputError(file, expected=expected, got=got, remedy=remedy)
        if picture.nbytes * (len(frames) + 1) > MAX_CLIP_BYTES:
            raise _too_long(folder, len(frames), *picture.shape[:2])
        frames.append(picture)
    remarks = ("turned upright as its EXIF says",) if turned else ()
    return DecodedVideo(frames=np.stack(frames), times_s=np.arange(len(frames)) / fps, fps=fps, remarks=remarks)


def rgb_of(image: Image.Image) -> UInt8:
    """A picture [H, W, 3]: grey is spread, what is transparent lies on black, 16 bits of grey become 8."""
    if image.mode.startswith("I"):  # which Pillow would cut off at 255 instead of scaling
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.stack([grey] * 3, -1)
    if image.has_transparency_data:
        return on_black(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def _open_image(file: Path) -> Image.Image:
    try:
        return Image.open(file)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise unreadable(file, error) from None


def refuse_absent(path: Path) -> None:
    """Raise InputError unless there is a file, or folder, with something in it; a pipe would be waited for forever."""
    found = _stat_of(path)
    kind = "a video" if found is None or not stat.S_ISDIR(found.st_mode) else "pictures"
    if found is None:
        raise InputError(path, expected=kind, got="no such file", remedy="Check the path, or remove the link.")
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        remedy = "Remove it, or give it a name without a video's extension."
        raise InputError(path, expected="a file", got="a pipe, socket or device", remedy=remedy)
    if found.st_size == 0 and stat.S_ISREG(found.st_mode):
        remedy = "Download or copy it again, or remove it."
        raise InputError(path, expected=kind, got="an empty file", remedy=remedy)


def _stat_of(path: Path) -> os.stat_result | None:
    """None where there is nothing, also behind links that lead nowhere or in circles."""
    try:
        return path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise unreadable(path, error) from None


def _is_folder(path: Path) -> bool:
    found = _stat_of(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def stamp_of(path: Path) -> tuple[int, int]:
    """Size and time of change of a file; (-1, -1) where there is none."""
    found = _stat_of(path)
    return (-1, -1) if found is None else (found.st_size, found.st_mtime_ns)


def refuse_changed(path: Path, before: tuple[int, int]) -> None:
    """Raise InputError where a file is not what it was when reading began: its frames may be of two videos."""
    if stamp_of(path) != before:
        got = "one that vanished or changed while it was read"
        remedy = "Wait until whatever writes it is done, then run this again."
        raise InputError(path, expected="a file that stays as it is", got=got, remedy=remedy)


def _refuse_short(path: Path, num_frames: int) -> None:
    if num_frames < 2:
        remedy = "One frame shows no motion; remove the clip."
        raise InputError(path, expected="at least 2 frames", got=str(num_frames), remedy=remedy)


def _refuse_cut(path: Path, num_frames: int, declared: int, last_s: float | None, length_s: float | None) -> None:
    """Raise InputError where far less came than the header promises: frames, or seconds where none are counted."""
    got = None
    if num_frames < _TRUNCATED_BELOW * declared:
        got = f"{num_frames} frames where the header declares {declared}"
    elif declared == 0 and None not in (last_s, length_s) and last_s < _TRUNCATED_BELOW * length_s - 1:  # type: ignore[operator]
        got = f"{last_s:.1f} s where the header declares {length_s:.1f}"
    if got is not None:
        remedy = "The file is cut short; download or copy it again."
        raise InputError(path, expected="a whole video", got=got, remedy=remedy)


def _length_s(container: av.container.InputContainer) -> float | None:
    """How long the video is [s] as its header says, where nothing else (sound, subtitles) may be what is so long."""
    alone = len(container.streams) == 1 and container.duration
    return container.duration / av.time_base if alone and container.duration else None


def unreadable(path: Path, error: Exception) -> InputError:
    """What to raise where a decoder raised `error`."""
    reason = getattr(error, "strerror", None) or str(error)
    remedy = "The file is cut short, damaged or no video; download it again or remove it."
    return InputError(path, expected="a readable video or picture", got=reason, remedy=remedy)


def _too_long(path: Path, num_frames: int, height: int, width: int) -> InputError:
    return InputError(
        path,
        expected=f"a clip of at most {MAX_CLIP_BYTES >> 30} GiB once decoded",
        got=f"more than {num_frames} frames of {width} x {height} px",
        remedy="Cut it into parts or scale it down, for example with `ffmpeg -i IN -vf scale=-2:256 OUT`.",
    )
