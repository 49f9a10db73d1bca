"""Demonstrations in HDF5 as LIBERO and robomimic write them: one file per task, `data/demo_N` per episode. Engineering.

Letters in shapes: T frames, H W picture, A action axes, P proprioception axes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclemimic.data.layouts import Columns, Gripper, Layout, axis_angle, position
from cyclemimic.data.oxe import OSC_POSE
from cyclemimic.data.parts import MAX_CLIP_BYTES
from cyclemimic.data.sources.places import Options, Place, one_of, path_and_options
from cyclemimic.data.video import natural_key
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.store.atomic import sha256_json
from cyclemimic.types import ClipInfo, Episode, Float32, UInt8

EXTENSIONS = (".hdf5", ".h5")
CONTROL_RATE_HZ = 20.0  # of both benchmarks, where a file does not say
CAMERAS = {
    "agentview_rgb": "front",
    "agentview_image": "front",
    "eye_in_hand_rgb": "wrist",
    "robot0_eye_in_hand_image": "wrist",
}
_FINGER_M = 0.04  # of the Panda's hand, from the middle
_STILL = 1e-4  # an action whose six numbers are shorter is none
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, OverflowError, MemoryError)
_DAMAGED = "The file is cut short or damaged; download it again."


@dataclass(frozen=True, kw_only=True)
class _Demo:
    """One demonstration: where it lies and what can be said of it without reading a picture."""

    file: str
    group: str | None  # None where the file cannot be read
    info: ClipInfo
    fault: InputError | None = None


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What the attributes of a file say of all its demonstrations; `refusal` says why actions mean nothing to us."""

    rate_hz: float
    embodiment: str
    instruction: str | None
    opengl: bool
    refusal: str | None


class Hdf5Source:
    """The demonstrations of all HDF5 files in a folder and below, or of one file.

    LIBERO stores pictures as OpenGL draws them, lowest row first; they are turned upright. A file that cannot be
    opened is listed as one clip of 0 frames.

    Args:
        path: the folder or file. Behind `?` may follow, joined by `&`: `upright=` `auto`, `flip` (rows reversed),
            `rotate` (by half a turn, which also swaps left and right, as LIBERO-RLDS has it) or `keep`;
            `noops=drop`, which leaves out steps in which the arm is told to stay and the gripper is told nothing new;
            `cameras=all`, which reads the cameras beside the main one too.
    """

    def __init__(self, path: Path | str) -> None:
        known: Options = {
            "upright": one_of("auto", "flip", "rotate", "keep"),
            "noops": one_of("keep", "drop"),
            "cameras": one_of("main", "all"),
        }
        text, self._options = path_and_options(path, known)
        self.path = Path(text)
        self.name = f"hdf5:{path}"
        alone = self.path.is_file()
        self._root = self.path.parent if alone else self.path
        self._place = Place(self._root)
        if alone:
            self._files = [self.path.name]
        else:
            below = (f for f in self.path.rglob("*") if f.suffix.lower() in EXTENSIONS and f.name[0] != ".")
            self._files = sorted((f.relative_to(self.path).as_posix() for f in below), key=natural_key)
        if not self._files:
            remedy = "LIBERO keeps one per task; name the folder that holds them."
            raise InputError(self.path, expected="HDF5 files (.hdf5, .h5)", got="none, here or below", remedy=remedy)
        self._remarks: dict[str, tuple[str, ...]] = {}

    def clips(self) -> Sequence[ClipInfo]:
        """Every demonstration, in natural order of files and of names within."""
        return tuple(demo.info for demo in self._demos.values())

    def read(self, clip: ClipInfo) -> Episode:
        """Read one demonstration.

        Raises:
            InputError: there is no such demonstration, or its file or a field of it cannot be read; names it.
        """
        demo = self._demos.get(clip.name)
        if demo is None:
            hint = did_you_mean(clip.name, list(self._demos)[:20])
            raise InputError(self.name, expected="a demonstration of these files", got=repr(clip.name), remedy=hint)
        if demo.fault is not None:
            raise demo.fault
        where = f"{self._place.where(demo.file)}, data/{demo.group}"
        with self._opened(demo.file) as file:
            facts = self._facts(file, demo.file)
            group = _member(_member(file, "data", where), str(demo.group), where)
            observed = _member(group, "obs", where)
            keep = self._kept(group, where)
            main, *others = _cameras(observed, where)
            frames = self._pictures(observed, main, keep, facts, where)
            wanted = others if self._options.get("cameras") == "all" else []
            extra = {_name_of(key): self._pictures(observed, key, keep, facts, where) for key in wanted}
            actions = None
            if facts.refusal is None:
                told = _array(group, "actions", where)
                actions = OSC_POSE.numbers({"action": _rows(told, where, "actions", 7)}, where)
                _same_length(actions, len(keep), f"{where}, field actions")
            state = _state(observed, where)
        if state is not None:
            _same_length(state, len(keep), f"{where}, fields obs")
        return Episode(
            info=demo.info,
            frames=frames,
            actions=None if actions is None else actions[keep][:-1],  # the last one leads to no frame
            proprioception=None if state is None else state[keep],
            action_space=None if actions is None else OSC_POSE.space(demo.info.embodiment, facts.rate_hz),
            camera=_name_of(main),
            extra_frames=extra,
        )

    def remarks_of(self, clip: ClipInfo) -> tuple[str, ...]:
        """Why a file's actions are left out, on its first demonstration; how many steps were dropped."""
        return self._remarks.get(clip.name, ())

    def fingerprint(self) -> str:
        """A hash of the facts and options, and of the sizes and the first and last 64 KB of the files."""
        content = [[name, *self._place.content_of(name)] for name in self._files]
        return sha256_json([[asdict(clip) for clip in self.clips()], content, self._options])

    @cached_property
    def _demos(self) -> dict[str, _Demo]:
        found: dict[str, _Demo] = {}
        for file in self._files:
            try:
                demos = self._demos_of(file)
            except InputError as error:
                info = ClipInfo(name=file, embodiment="unknown", fps=CONTROL_RATE_HZ, num_frames=0)
                demos = [_Demo(file=file, group=None, info=info, fault=error)]
            found |= {demo.info.name: demo for demo in demos}
        return found

    def _demos_of(self, name: str) -> list[_Demo]:
        with self._opened(name) as file:
            facts, where = self._facts(file, name), self._place.where(name)
            data = _member(file, "data", where)
            groups = sorted((str(key) for key in data), key=natural_key)
            demos = [self._look(data, name, group, facts) for group in groups]
        if not demos:
            raise InputError(where, expected="demonstrations data/demo_N", got="none", remedy=_DAMAGED)
        if facts.refusal is not None:
            remark = f"actions of {name} are left out: {facts.refusal}"
            self._remarks[demos[0].info.name] = (*self._remarks.get(demos[0].info.name, ()), remark)
        return demos

    def _look(self, data: Any, file: str, group: str, facts: _Facts) -> _Demo:
        where = f"{self._place.where(file)}, data/{group}"
        num_frames, fault = 0, None
        try:
            demo = _member(data, group, where)
            observed = _member(demo, "obs", where)
            num_steps = len(_dataset(observed, _cameras(observed, where)[0], where))
            num_frames = len(self._kept(demo, where))
            if num_frames < 2:
                remedy = "One step shows no motion; go on without this one."
                raise InputError(where, expected="at least 2 steps", got=str(num_frames), remedy=remedy)
        except InputError as error:
            num_frames, fault = 0, error
        info = ClipInfo(
            name=f"{file}/{group}",
            embodiment=facts.embodiment,
            fps=facts.rate_hz,
            num_frames=num_frames,
            instruction=facts.instruction,
        )
        if fault is None and num_frames < num_steps:
            self._remarks[info.name] = (f"{num_steps - num_frames} of {num_steps} steps say nothing and were dropped",)
        return _Demo(file=file, group=group, info=info, fault=fault)

    def _kept(self, group: Any, where: str) -> NDArray[np.int64]:
        """Steps that stay: all, or those whose action does something."""
        if self._options.get("noops") != "drop":
            observed = _member(group, "obs", where)
            return np.arange(len(_dataset(observed, _cameras(observed, where)[0], where)))
        told = _rows(_array(group, "actions", where), where, "actions", None)
        grip = told[:, -1]
        new = np.concatenate([[True], grip[1:] != grip[:-1]])
        new[0] = False  # nothing came before that it could differ from
        return np.flatnonzero((np.linalg.norm(told[:, :-1], axis=1) >= _STILL) | new)

    def _pictures(self, observed: Any, key: str, keep: NDArray[np.int64], facts: _Facts, where: str) -> UInt8:
        frames = _array(observed, key, where)
        place = f"{where}, field obs/{key}"
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            expected, got = "uint8 pictures [T, H, W, 3]", f"{frames.dtype} {frames.shape}"
            raise InputError(place, expected=expected, got=got, remedy="Render the pictures again.")
        if len(keep) and keep[-1] >= len(frames):
            expected, got = f"{keep[-1] + 1} pictures, as there are actions", str(len(frames))
            raise InputError(place, expected=expected, got=got, remedy=_DAMAGED)
        how = self._options.get("upright", "auto")
        if how == "auto":
            how = "flip" if facts.opengl or key.endswith("_rgb") else "keep"
        turned = {"flip": frames[:, ::-1], "rotate": frames[:, ::-1, ::-1], "keep": frames}[how]
        return np.ascontiguousarray(turned[keep])

    def _facts(self, file: Any, name: str) -> _Facts:
        """Rate, robot, sentence and controller; each is optional, and guessed where it is missing."""
        data = _member(file, "data", self._place.where(name))
        env = _json(data, "env_args").get("env_kwargs", {})
        env = env if isinstance(env, dict) else {}
        rate, robots = env.get("control_freq"), env.get("robots")
        robot = robots[0] if isinstance(robots, list) and robots else robots
        said = _json(data, "problem_info").get("language_instruction")
        said = said[0] if isinstance(said, list) and said else said
        stem = Path(name).stem
        if not isinstance(said, str) and stem.endswith("_demo"):
            said = re.sub(r"^[A-Z_0-9]+SCENE\d+_", "", stem.removesuffix("_demo")).replace("_", " ")
        number = isinstance(rate, int | float) and 0 < rate < 1e4
        return _Facts(
            rate_hz=float(rate) if number and rate is not None else CONTROL_RATE_HZ,
            embodiment=robot.lower() if isinstance(robot, str) and robot else "panda",
            instruction=said.strip().strip('"') or None if isinstance(said, str) else None,
            opengl=data.attrs.get("macros_image_convention") == "opengl",
            refusal=_refusal(env),
        )

    @contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        """The file; whatever h5py raises within says which file it was."""
        try:
            import h5py
        except ImportError:
            remedy = "Run: pip install 'cyclemimic[train]'."
            raise InputError(self.name, expected="h5py", got="no such package", remedy=remedy) from None
        where = self._place.where(name)
        try:
            with h5py.File(self._root / name, "r") as file:
                yield file
        except InputError:
            raise
        except _UNREADABLE as error:
            got = f"{type(error).__name__}: {str(error)[:200]}"
            raise InputError(where, expected="a readable HDF5 file", got=got, remedy=_DAMAGED) from None


def _refusal(env: Mapping[str, Any]) -> str | None:
    """Why actions cannot be given units: another controller than the one of both benchmarks."""
    controller = env.get("controller_configs")
    if not isinstance(controller, dict):
        return None
    kind, delta = controller.get("type", "OSC_POSE"), controller.get("control_delta", True)
    if kind != "OSC_POSE" or not delta:
        return f"the controller is {kind}{'' if delta else ' with absolute targets'}, not OSC_POSE with changes"
    reach = controller.get("output_max", [0.05] * 3 + [0.5] * 3)
    if reach != [0.05] * 3 + [0.5] * 3:
        return f"the controller reaches {reach} per step, not 0.05 m and 0.5 rad"
    return None


def _json(data: Any, name: str) -> dict[str, Any]:
    try:
        value = json.loads(data.attrs[name])
    except (KeyError, ValueError, TypeError, RecursionError, OSError):
        return {}  # optional; what it would have said is guessed
    return value if isinstance(value, dict) else {}


def _member(group: Any, name: str, where: str) -> Any:
    """A group in a group. A link into another file is not followed: it would read what the user did not name."""
    import h5py

    known = group.get(name, getlink=True) if name in group else None
    if isinstance(known, h5py.ExternalLink) or not isinstance(group.get(name), h5py.Group):
        got = "a link into another file" if isinstance(known, h5py.ExternalLink) else "none"
        hint = f"Here: {', '.join(list(group)[:8])}. Is this a file of LIBERO or robomimic?"
        raise InputError(f"{where}, group {name}", expected="this group", got=got, remedy=hint)
    return group[name]


def _dataset(group: Any, name: str, where: str) -> Any:
    """An array, not yet read; one of other things than numbers, or too large for memory, is refused."""
    import h5py

    place = f"{where}, field {name}"
    found = None if isinstance(group.get(name, getlink=True), h5py.ExternalLink) else group.get(name)
    if not isinstance(found, h5py.Dataset) or found.ndim < 1 or found.is_virtual or found.external:
        hint = f"Fields here: {', '.join(list(group)[:12])}."
        raise InputError(place, expected="an array that lies in this file", got="none", remedy=hint)
    if found.nbytes > MAX_CLIP_BYTES or found.dtype.kind not in "uif":
        expected = f"numbers of at most {MAX_CLIP_BYTES >> 30} GiB"
        raise InputError(place, expected=expected, got=f"{found.dtype} {found.shape}", remedy=_DAMAGED)
    return found


def _array(group: Any, name: str, where: str) -> NDArray[Any]:
    array: NDArray[Any] = _dataset(group, name, where)[()]
    return array


def _rows(array: NDArray[Any], where: str, name: str, width: int | None) -> NDArray[Any]:
    if array.ndim != 2 or array.shape[1] < 1 or (width is not None and array.shape[1] != width):
        expected = f"one row of {width or 'some'} numbers per step"
        remedy = "Only one arm's pose and gripper is known; see cyclemimic.data.oxe.OSC_POSE."
        raise InputError(f"{where}, field {name}", expected=expected, got=str(array.shape), remedy=remedy)
    return array


def _cameras(observed: Any, where: str) -> list[str]:
    """Features of pictures, the main camera's first."""
    found = [str(k) for k in observed if str(k).endswith(("_rgb", "_image"))]
    if not found:
        remedy = "These demonstrations have no pictures; render them with robomimic's dataset_states_to_obs.py."
        got = f"{', '.join(list(observed)[:8]) or 'none'}"
        raise InputError(f"{where}, group obs", expected="arrays *_rgb or *_image", got=got, remedy=remedy)
    order = list(CAMERAS)
    return sorted(found, key=lambda k: (order.index(k) if k in order else len(order), k))


def _name_of(key: str) -> str:
    return CAMERAS.get(key, key.rpartition("_")[0])


def _state(observed: Any, where: str) -> Float32 | None:
    """Proprioception [T, 7]: place, rotation as axis times angle, and how far the gripper is open."""
    names = ("ee_pos", "ee_ori", "gripper_states")
    if any(name not in observed for name in names):
        names = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
    if any(name not in observed for name in names):
        return None
    place, turn, fingers = names
    arrays = {name: _rows(_array(observed, name, where), where, f"obs/{name}", None) for name in names}
    if "quat" in turn:
        arrays[turn] = _axis_angles(_rows(arrays[turn], where, f"obs/{turn}", 4))
    layout = Layout(
        parts=(
            Columns(feature=place, axes=position(2.0, "absolute")),
            Columns(feature=turn, axes=axis_angle(3.2, "absolute")),
            Gripper(feature=fingers, closed=0.0, opened=_FINGER_M),
        )
    )
    if len({len(a) for a in arrays.values()}) > 1:
        got = str({name: len(a) for name, a in arrays.items()})
        raise InputError(f"{where}, group obs", expected="as many rows in each field", got=got, remedy=_DAMAGED)
    return layout.numbers(arrays, where)


def _axis_angles(quaternions: NDArray[Any]) -> NDArray[np.float64]:
    """Quaternions x, y, z, w [T, 4] as axis times angle [T, 3], the short way round."""
    turned = quaternions * np.where(quaternions[:, 3:] < 0, -1.0, 1.0)
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large becomes infinite, and is refused
        sine = np.linalg.norm(turned[:, :3], axis=1, keepdims=True)
        angle = 2 * np.arctan2(sine, turned[:, 3:])
        vectors: NDArray[np.float64] = turned[:, :3] * np.where(sine > 1e-12, angle / np.maximum(sine, 1e-12), 2.0)
    return vectors


def _same_length(array: NDArray[Any], at_least: int, where: str) -> None:
    if len(array) < at_least:
        raise InputError(where, expected=f"{at_least} rows, one for each picture", got=str(len(array)), remedy=_DAMAGED)
