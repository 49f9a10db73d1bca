"""CALVIN: one npz file per step, `ep_start_end_ids.npy`, and sentences in `lang_annotations`. Engineering.

Letters in shapes: T frames, H W picture, N episodes, A action axes, P proprioception axes.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from cyclemimic.data.layouts import Columns, Gripper, Layout, angles, position
from cyclemimic.data.parts import MAX_CLIP_BYTES
from cyclemimic.data.pickled import MAX_BYTES, Call, plain_values
from cyclemimic.data.sources.places import Options, one_of, path_and_options
from cyclemimic.data.sources.remote import at_hand
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.store.atomic import sha256_json
from cyclemimic.types import Axis, ClipInfo, Episode, UInt8

BOUNDS, SENTENCES = "ep_start_end_ids.npy", "lang_annotations/auto_lang_ann.npy"
EMBODIMENT, RATE_HZ = "franka", 30.0
PLAY_STEPS = 1000  # play is cut into clips of at most as many; an episode of it would not fit into memory
MAX_STEP_BYTES = 16 << 20  # of one array of one step
MAX_CLIPS = 1_000_000

# Changes are stored as multiples of 2 cm and 0.05 rad, limited to one; the gripper says -1 to close and 1 to open.
ACTIONS = Layout(
    parts=(
        Columns(feature="rel_actions", axes=position(0.02), scale=0.02),
        Columns(feature="rel_actions", axes=angles(0.05), first=3, scale=0.05),
        Gripper(feature="rel_actions", column=6, closed=-1.0, opened=1.0),
    )
)
STATE = Layout(
    parts=(
        Columns(feature="robot_obs", axes=position(1.5, "absolute")),
        Columns(feature="robot_obs", axes=angles(3.2, "absolute"), first=3),
        Gripper(feature="robot_obs", column=6, closed=0.0, opened=0.08),  # metres between the fingers
        Columns(
            feature="robot_obs",
            axes=tuple(Axis(name=f"joint_{i}", unit="rad", low=-3.2, high=3.2) for i in range(1, 8)),
            first=7,
        ),
    )
)
_CAMERAS = {"front": "rgb_static", "wrist": "rgb_gripper"}
# What zipfile and numpy raise for damaged files; NotImplementedError is a compression that zipfile does not know.
_UNREADABLE = (
    *(OSError, ValueError, KeyError, EOFError, RuntimeError, MemoryError, OverflowError, NotImplementedError),
    *(zlib.error, zipfile.BadZipFile),
)
_DAMAGED = "The file is cut short or damaged; copy the dataset again."


class CalvinSource:
    """The clips of one split of CALVIN, such as `task_D_D/training`.

    Where sentences are annotated, a clip is one annotated window; else, or with `clips=play`, play is cut into clips
    of about half a minute. The annotations come as a pickle; it is never unpickled, see `cyclemimic.data.pickled`.
    The fingerprint looks at the first, the middle and the last step of each clip.

    Args:
        path: the split's folder, or its URL: then it is copied to this disk once. Behind `?` may follow, joined by
            `&`: `clips=language` or `play`; `cameras=all`, which reads the gripper's camera too.
    """

    def __init__(self, path: Path | str) -> None:
        known: Options = {"clips": one_of("auto", "language", "play"), "cameras": one_of("main", "all")}
        text, self._options = path_and_options(path, known)
        self.path, self.origin = at_hand(text)
        self.name = f"calvin:{path}"
        if not (self.path / BOUNDS).is_file() and not (self.path / SENTENCES).is_file():
            below = sorted(f.name for f in self.path.iterdir() if f.is_dir()) if self.path.is_dir() else []
            remedy = "Name a split's folder, such as task_D_D/training."
            got = f"neither{', but folders ' + ', '.join(below[:4]) if below else ''}"
            raise InputError(self.path, expected=f"{BOUNDS} or {SENTENCES}", got=got, remedy=remedy)

    def clips(self) -> Sequence[ClipInfo]:
        """Every clip: windows in the order of the annotations, or play in the order of its steps."""
        return tuple(info for info, _, _ in self._spans.values())

    def read(self, clip: ClipInfo) -> Episode:
        """Read the steps of one clip.

        Raises:
            InputError: there is no such clip, or one of its steps is missing or damaged; names the file and the field.
        """
        if clip.name not in self._spans:
            hint = did_you_mean(clip.name, list(self._spans)[:20])
            raise InputError(self.name, expected="a clip of this split", got=repr(clip.name), remedy=hint)
        info, first, last = self._spans[clip.name]
        wanted = [_CAMERAS["front"], *([_CAMERAS["wrist"]] if self._options.get("cameras") == "all" else [])]
        pictures: dict[str, UInt8] = {}
        numbers: dict[str, list[NDArray[Any]]] = {"rel_actions": [], "robot_obs": []}
        for t, step in enumerate(range(first, last + 1)):
            path = self.path / f"episode_{step:07d}.npz"
            arrays = _step(path, (*wanted, *numbers))
            for name in wanted:
                _put(arrays[name], pictures, name, t, info.num_frames, path)
            for name, rows in numbers.items():
                if arrays[name].ndim != 1 or (rows and arrays[name].shape != rows[0].shape):
                    where = f"{path}, field {name}"
                    raise InputError(where, expected="one row", got=str(arrays[name].shape), remedy=_DAMAGED)
                _refuse_infinite(arrays[name], f"{path}, field {name}")
                rows.append(arrays[name])
        where = f"{self.path}, clip {clip.name}"
        told = {name: np.stack(rows) for name, rows in numbers.items()}
        return Episode(
            info=info,
            frames=pictures[_CAMERAS["front"]],
            actions=ACTIONS.numbers(told, where)[:-1],  # the last one leads to no frame of this clip
            proprioception=STATE.numbers(told, where),
            action_space=ACTIONS.space(EMBODIMENT, RATE_HZ),
            proprioception_axes=STATE.axes,
            camera="front",
            extra_frames={name: pictures[key] for name, key in _CAMERAS.items() if key in wanted[1:]},
        )

    def fingerprint(self) -> str:
        """A hash of the facts, and of three steps of each clip."""
        content = []
        for info, first, last in self._spans.values():
            steps = sorted({first, (first + last) // 2, last})
            content.append([asdict(info), *(_digest(self.path / f"episode_{step:07d}.npz") for step in steps)])
        return sha256_json(content)

    @cached_property
    def _spans(self) -> dict[str, tuple[ClipInfo, int, int]]:
        """Facts, first and last step of each clip."""
        kind = self._options.get("clips", "auto")
        if kind == "auto":
            kind = "language" if (self.path / SENTENCES).is_file() else "play"
        spans = self._windows() if kind == "language" else self._play()
        if not spans or len(spans) > MAX_CLIPS:
            where, got = self.path / (SENTENCES if kind == "language" else BOUNDS), str(len(spans))
            raise InputError(where, expected=f"1 to {MAX_CLIPS} clips", got=got, remedy=_DAMAGED)
        found = {}
        for i, (first, last, said) in enumerate(spans):
            info = ClipInfo(
                name=f"{kind}-{i:05d}-{first:07d}",
                embodiment=EMBODIMENT,
                fps=RATE_HZ,
                num_frames=last - first + 1,
                instruction=said,
            )
            found[info.name] = (info, first, last)
        return found

    def _play(self) -> list[tuple[int, int, None]]:
        path = self.path / BOUNDS
        bounds = _array_in(_bytes_of(path, MAX_STEP_BYTES), path)
        if bounds.ndim != 2 or bounds.shape[1] != 2 or bounds.dtype.kind not in "iu":
            got = f"{bounds.dtype} {bounds.shape}"
            raise InputError(path, expected="whole numbers [N, 2], first and last steps", got=got, remedy=_DAMAGED)
        spans: list[tuple[int, int, None]] = []
        for first, last in bounds.tolist():
            _check_span(first, last, path)
            if (last - first) / PLAY_STEPS + len(spans) > MAX_CLIPS:
                raise InputError(path, expected=f"at most {MAX_CLIPS} clips", got="more", remedy=_DAMAGED)
            # A single step that is left over shows no motion: no clip begins with the last step.
            starts = range(first, last, PLAY_STEPS)
            spans += [(start, min(start + PLAY_STEPS - 1, last), None) for start in starts]
        return spans

    def _windows(self) -> list[tuple[int, int, str]]:
        path = self.path / SENTENCES
        value = _object_in(_bytes_of(path, MAX_BYTES), path)
        try:
            said, windows = value["language"]["ann"], value["info"]["indx"]
            texts = [t for t in said if isinstance(t, str)]
            pairs = [(int(first), int(last)) for first, last in windows]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            expected, got = "language.ann (sentences) and info.indx (first and last steps)", repr(error)[:200]
            raise InputError(path, expected=expected, got=got, remedy=_DAMAGED) from None
        if not len(texts) == len(said) == len(pairs):
            got = f"{len(texts)} and {len(pairs)}"
            raise InputError(path, expected="as many sentences as windows", got=got, remedy=_DAMAGED)
        for first, last in pairs:
            _check_span(first, last, path)
        return [(first, last, text) for (first, last), text in zip(pairs, texts, strict=True)]


def _check_span(first: int, last: int, path: Path) -> None:
    if not 0 <= first < last < 1 << 40:
        raise InputError(path, expected="first < last steps", got=f"{first} and {last}", remedy=_DAMAGED)


def _step(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Some arrays of one step; sizes are looked at before anything is unpacked."""
    found: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(path) as file:
            for name in names:
                where = f"{path}, field {name}"
                if f"{name}.npy" not in file.namelist():
                    hint = f"Fields here: {', '.join(file.namelist()[:12])}."
                    raise InputError(where, expected="this field", got="none", remedy=hint)
                size = file.getinfo(f"{name}.npy").file_size
                if size > MAX_STEP_BYTES:
                    raise InputError(where, expected=f"at most {MAX_STEP_BYTES} bytes", got=str(size), remedy=_DAMAGED)
                with file.open(f"{name}.npy") as member:
                    found[name] = _array_in(member.read(MAX_STEP_BYTES + 1), where)
    except InputError:
        raise
    except FileNotFoundError:
        remedy = "Copy this step too, or leave its clip out."
        raise InputError(path, expected="a step of the clip", got="no file", remedy=remedy) from None
    except _UNREADABLE as error:
        got = f"{type(error).__name__}: {str(error)[:200]}"
        raise InputError(path, expected="a readable npz file", got=got, remedy=_DAMAGED) from None
    return found


def _put(picture: NDArray[Any], pictures: dict[str, UInt8], name: str, t: int, num_frames: int, path: Path) -> None:
    where = f"{path}, field {name}"
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
        got = f"{picture.dtype} {picture.shape}"
        raise InputError(where, expected="a uint8 picture [H, W, 3]", got=got, remedy=_DAMAGED)
    if name not in pictures:
        if picture.nbytes * num_frames > MAX_CLIP_BYTES:
            expected, got = f"a clip of at most {MAX_CLIP_BYTES >> 30} GiB", f"{num_frames} of {picture.shape}"
            raise InputError(where, expected=expected, got=got, remedy="Use shorter clips.")
        pictures[name] = np.empty((num_frames, *picture.shape), np.uint8)
    if picture.shape != pictures[name].shape[1:]:
        expected = f"{pictures[name].shape[1:]}, as in the clip's first step"
        raise InputError(where, expected=expected, got=str(picture.shape), remedy=_DAMAGED)
    pictures[name][t] = picture


def _refuse_infinite(row: NDArray[Any], where: str) -> None:
    if row.dtype.kind not in "fiu" or not np.isfinite(row).all():
        got = f"{row.dtype}, or NaN or infinity among it"
        raise InputError(where, expected="finite numbers", got=got, remedy="Leave this step's clip out.")


def _bytes_of(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as handle:
            content = handle.read(most + 1)
    except OSError as error:
        remedy = "Copy the dataset again, or choose other clips with ?clips=."
        raise InputError(path, expected="a readable file", got=str(error.strerror), remedy=remedy) from None
    if len(content) > most:
        raise InputError(path, expected=f"at most {most} bytes", got="more", remedy=_DAMAGED)
    return content


def _header(content: bytes, where: object) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, order, type and start of the numbers in an npy file."""
    file = io.BytesIO(content)
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except (*_UNREADABLE, SyntaxError, TypeError, RecursionError) as error:
        raise InputError(where, expected="a npy array", got=str(error)[:200], remedy=_DAMAGED) from None
    return shape, fortran, dtype, file.tell()


def _array_in(content: bytes, where: object) -> NDArray[Any]:
    """The array in an npy file; its shape is believed only where its bytes are there."""
    shape, fortran, dtype, start = _header(content, where)
    if dtype.hasobject or dtype.itemsize == 0 or math.prod(shape) * dtype.itemsize != len(content) - start:
        got = f"{dtype} {shape} in {len(content) - start} bytes"
        raise InputError(where, expected="numbers, as many as the header says", got=got, remedy=_DAMAGED)
    return np.frombuffer(content, dtype, offset=start).reshape(shape, order="F" if fortran else "C")


def _object_in(content: bytes, where: object) -> Any:
    """The one object in an npy file of objects, read as plain values."""
    shape, _, dtype, start = _header(content, where)
    if not dtype.hasobject or math.prod(shape) != 1:
        raise InputError(where, expected="one object", got=f"{dtype} {shape}", remedy=_DAMAGED)
    value = plain_values(content[start:], where)
    # An array of objects is a call, whose state ends with the list of its objects.
    if isinstance(value, Call) and isinstance(value.state, tuple) and isinstance(value.state[-1], list):
        return next(iter(value.state[-1]), None)
    return value


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""  # `read` says why
