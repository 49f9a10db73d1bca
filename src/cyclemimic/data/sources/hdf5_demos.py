"""What lies in an open HDF5 file of demonstrations; run as a module, it answers `Hdf5Source`. Engineering.

HDF5's C library crashes or hangs over some damaged files, so it is called in a process of its own alone. That is why
nothing is imported here that reading numbers does not need.

Letters in shapes: T frames, H W picture, A action axes, P proprioception axes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclemimic.data.apart import Answer, answer_all
from cyclemimic.data.layouts import Columns, Gripper, Layout, axis_angle, position
from cyclemimic.data.oxe import OSC_POSE
from cyclemimic.errors import InputError
from cyclemimic.types import Float32, UInt8

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
class _Facts:
    """What the attributes of a file say of all its demonstrations; `refusal` says why actions mean nothing to us."""

    rate_hz: float
    embodiment: str
    instruction: str | None
    opengl: bool
    refusal: str | None


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What is asked of a file.

    Args:
        file: its path.
        where: what messages call it.
        max_bytes: a larger array is refused before it is read.
        options: of the source.
        demo: the group of the demonstration to read; None: list them all.
    """

    file: str
    where: str
    max_bytes: int
    options: Mapping[str, str]
    demo: str | None = None


def answered(told: Mapping[str, Any]) -> Answer:
    """The list of a file's demonstrations, or one of them."""
    request = _Request(**{name: told[name] for name in _Request.__dataclass_fields__})
    with _opened(request) as file:
        wanted = _Demos(file, request)
        return wanted.listed() if request.demo is None else wanted.read(request.demo)


class _Demos:
    """The demonstrations of one open file."""

    def __init__(self, file: Any, request: _Request) -> None:
        self._request, self._where = request, request.where
        self._data = _member(file, "data", self._where)
        self._facts = _facts(self._data, Path(request.file).stem)

    def listed(self) -> Answer:
        """What can be said of each demonstration without reading a picture."""
        demos = [self._look(str(group)) for group in self._data]
        facts = self._facts
        about = {"fps": facts.rate_hz, "embodiment": facts.embodiment, "instruction": facts.instruction}
        return Answer(facts={"demos": demos, "about": about, "refusal": facts.refusal})

    def _look(self, group: str) -> dict[str, Any]:
        where = f"{self._where}, data/{group}"
        try:
            demo = _member(self._data, group, where)
            observed = _member(demo, "obs", where)
            num_steps = len(self._dataset(observed, _cameras(observed, where)[0], where))
            num_frames = len(self._kept(demo, where))
            if num_frames < 2:
                remedy = "One step shows no motion; go on without this one."
                raise InputError(where, expected="at least 2 steps", got=str(num_frames), remedy=remedy)
        except InputError as error:
            fault = [error.where, error.expected, error.got, error.remedy]
            return {"group": group, "frames": 0, "steps": 0, "fault": fault}
        return {"group": group, "frames": num_frames, "steps": num_steps, "fault": None}

    def read(self, group: str) -> Answer:
        """Pictures of all wanted cameras, then actions and proprioception where they are known."""
        where = f"{self._where}, data/{group}"
        demo = _member(self._data, group, where)
        observed = _member(demo, "obs", where)
        keep = self._kept(demo, where)
        main, *extra = _cameras(observed, where)
        cameras = [main, *(extra if self._request.options.get("cameras") == "all" else [])]
        arrays: list[NDArray[Any]] = [self._pictures(observed, key, keep, where) for key in cameras]
        others = []
        if self._facts.refusal is None:
            told = self._array(demo, "actions", where)
            actions = OSC_POSE.numbers({"action": _rows(told, where, "actions", 7)}, where)
            _same_length(actions, len(keep), f"{where}, field actions")
            arrays.append(actions[keep][:-1])  # the last one leads to no frame
            others.append("actions")
        if (state := self._state(observed, where)) is not None:
            _same_length(state, len(keep), f"{where}, fields obs")
            arrays.append(state[keep])
            others.append("proprioception")
        return Answer(facts={"cameras": [_name_of(key) for key in cameras], "others": others}, arrays=arrays)

    def _kept(self, group: Any, where: str) -> NDArray[np.int64]:
        """Steps that stay: all, or those whose action does something."""
        if self._request.options.get("noops") != "drop":
            observed = _member(group, "obs", where)
            return np.arange(len(self._dataset(observed, _cameras(observed, where)[0], where)))
        told = _rows(self._array(group, "actions", where), where, "actions", None)
        grip = told[:, -1]
        new = np.concatenate([[True], grip[1:] != grip[:-1]])
        new[0] = False  # nothing came before that it could differ from
        return np.flatnonzero((np.linalg.norm(told[:, :-1], axis=1) >= _STILL) | new)

    def _pictures(self, observed: Any, key: str, keep: NDArray[np.int64], where: str) -> UInt8:
        frames = self._array(observed, key, where)
        place = f"{where}, field obs/{key}"
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            expected, got = "uint8 pictures [T, H, W, 3]", f"{frames.dtype} {frames.shape}"
            raise InputError(place, expected=expected, got=got, remedy="Render the pictures again.")
        if len(keep) and keep[-1] >= len(frames):
            expected, got = f"{keep[-1] + 1} pictures, as there are actions", str(len(frames))
            raise InputError(place, expected=expected, got=got, remedy=_DAMAGED)
        how = self._request.options.get("upright", "auto")
        if how == "auto":
            how = "flip" if self._facts.opengl or key.endswith("_rgb") else "keep"
        turned = {"flip": frames[:, ::-1], "rotate": frames[:, ::-1, ::-1], "keep": frames}[how]
        return np.ascontiguousarray(turned if len(keep) == len(frames) else turned[keep])

    def _dataset(self, group: Any, name: str, where: str) -> Any:
        """An array, not yet read; one of other things than numbers, or too large for memory, is refused."""
        import h5py

        place = f"{where}, field {name}"
        found = None if isinstance(group.get(name, getlink=True), h5py.ExternalLink) else group.get(name)
        if not isinstance(found, h5py.Dataset) or found.ndim < 1 or found.is_virtual or found.external:
            hint = f"Fields here: {', '.join(list(group)[:12])}."
            raise InputError(place, expected="an array that lies in this file", got="none", remedy=hint)
        if found.nbytes > self._request.max_bytes or found.dtype.kind not in "uif":
            expected = f"numbers of at most {self._request.max_bytes >> 30} GiB"
            raise InputError(place, expected=expected, got=f"{found.dtype} {found.shape}", remedy=_DAMAGED)
        return found

    def _array(self, group: Any, name: str, where: str) -> NDArray[Any]:
        array: NDArray[Any] = self._dataset(group, name, where)[()]
        return array

    def _state(self, observed: Any, where: str) -> Float32 | None:
        """Proprioception [T, 7]: place, rotation as axis times angle, and how far the gripper is open."""
        names = ("ee_pos", "ee_ori", "gripper_states")
        if any(name not in observed for name in names):
            names = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
        if any(name not in observed for name in names):
            return None
        place, turn, fingers = names
        arrays = {name: _rows(self._array(observed, name, where), where, f"obs/{name}", None) for name in names}
        if "quat" in turn:
            arrays[turn] = _axis_angles(_rows(arrays[turn], where, f"obs/{turn}", 4))
        layout = state_layout(place, turn, fingers)
        if len({len(a) for a in arrays.values()}) > 1:
            got = str({name: len(a) for name, a in arrays.items()})
            raise InputError(f"{where}, group obs", expected="as many rows in each field", got=got, remedy=_DAMAGED)
        return layout.numbers(arrays, where)


def state_layout(place: str, turn: str, fingers: str) -> Layout:
    """The parts of proprioception, by the names that their fields have in a file."""
    return Layout(
        parts=(
            Columns(feature=place, axes=position(2.0, "absolute")),
            Columns(feature=turn, axes=axis_angle(3.2, "absolute")),
            Gripper(feature=fingers, closed=0.0, opened=_FINGER_M),
        )
    )


def _facts(data: Any, stem: str) -> _Facts:
    """Rate, robot, sentence and controller; each is optional, and guessed where it is missing."""
    env = _json(data, "env_args").get("env_kwargs", {})
    env = env if isinstance(env, dict) else {}
    rate, robots = env.get("control_freq"), env.get("robots")
    robot = robots[0] if isinstance(robots, list) and robots else robots
    said = _json(data, "problem_info").get("language_instruction")
    said = said[0] if isinstance(said, list) and said else said
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
def _opened(request: _Request) -> Iterator[Any]:
    """The file; whatever h5py raises within says which file it was."""
    try:
        import h5py
    except ImportError:
        remedy = "Run: pip install 'cyclemimic[train]'."
        raise InputError(request.where, expected="h5py", got="no such package", remedy=remedy) from None
    try:
        with h5py.File(request.file, "r") as file:
            yield file
    except InputError:
        raise
    except _UNREADABLE as error:
        got = f"{type(error).__name__}: {str(error)[:200]}"
        raise InputError(request.where, expected="a readable HDF5 file", got=got, remedy=_DAMAGED) from None


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


if __name__ == "__main__":
    with suppress(ImportError):  # told once something is asked
        import h5py  # noqa: F401  now, so that its import is no file's time
    answer_all(answered)
