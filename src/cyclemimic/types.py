"""The nouns that travel between the stations, and the Protocols through which others extend us. Numpy only.

Letters in shapes: T frames of an episode, H W picture, A action axes, P proprioception axes,
L tokens of a latent action (l_z), K codes, S steps of an action chunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

Gap = float | Mapping[str, float]  # H [s]: one for all, or one for each body by its name

UNITS = ("m", "rad", "fraction")
AxisKind = Literal["absolute", "delta"]
SpaceKind = Literal["pose", "joints"]


def check_picture(picture: UInt8, where: str, ndim: int = 3) -> None:
    """Raise InputError unless `picture` is uint8 [..., H, W, 3] with `ndim` dimensions."""
    if picture.dtype != np.uint8 or picture.ndim != ndim or picture.shape[-1] != 3:
        raise InputError(
            where,
            expected=f"uint8 pixels with {ndim} dimensions, the last of 3 colours",
            got=f"{picture.dtype} {picture.shape}",
            remedy="Convert to 8-bit RGB, height and width before colour.",
        )


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One number of an action or of proprioception: its name, its unit, and its limits per step.

    `absolute` is where to be, `delta` how far to go from where the last step led.
    """

    name: str
    unit: str
    low: float
    high: float
    kind: AxisKind = "absolute"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise InputError(
                f"axis {self.name!r}",
                expected=f"a unit of {UNITS}",
                got=repr(self.unit),
                remedy="Convert to SI.",
            )
        if self.kind not in get_args(AxisKind):
            raise InputError(
                f"axis {self.name!r}",
                expected=f"a kind of {get_args(AxisKind)}",
                got=repr(self.kind),
                remedy="Say whether the number is a target or a change.",
            )
        if not self.low < self.high:
            raise InputError(
                f"axis {self.name!r}",
                expected="low < high",
                got=f"{self.low} >= {self.high}",
                remedy="Swap the limits.",
            )


@dataclass(frozen=True, kw_only=True)
class ActionSpace:
    """What a body can be told to do: named axes with units and limits, and how often [Hz]."""

    name: str
    axes: tuple[Axis, ...]
    rate_hz: float
    kind: SpaceKind = "pose"  # of a hand, or the angles of joints

    def __post_init__(self) -> None:
        if not self.rate_hz > 0:
            raise InputError(
                f"action space {self.name!r}",
                expected="a rate above 0 Hz",
                got=str(self.rate_hz),
                remedy="Give the rate at which actions are taken.",
            )
        if self.kind not in get_args(SpaceKind):
            raise InputError(
                f"action space {self.name!r}",
                expected=f"a kind of {get_args(SpaceKind)}",
                got=repr(self.kind),
                remedy="Say what its axes move.",
            )

    @property
    def width(self) -> int:
        """Number of axes, A."""
        return len(self.axes)

    @property
    def low(self) -> Float32:
        """Lower limits [A]."""
        return np.array([a.low for a in self.axes], np.float32)

    @property
    def high(self) -> Float32:
        """Upper limits [A]."""
        return np.array([a.high for a in self.axes], np.float32)

    def check(self, actions: NDArray[Any], where: str) -> None:
        """Raise InputError unless `actions` is finite with last dimension A."""
        names = ", ".join(f"{a.name} [{a.unit}]" for a in self.axes)
        if actions.ndim < 1 or actions.shape[-1] != self.width:
            raise InputError(
                where,
                expected=f"actions of width {self.width} ({names})",
                got=f"shape {actions.shape}",
                remedy=f"Give one number per axis of {self.name!r}, or name another action space.",
            )
        if not np.isfinite(actions).all():
            bad = np.argwhere(~np.isfinite(actions))[0].tolist()
            raise InputError(
                where,
                expected="finite actions",
                got=f"NaN or infinity at index {bad}",
                remedy="Drop that step.",
            )


@dataclass(frozen=True, kw_only=True)
class CameraSpec:
    """A camera's name and the size of its pictures."""

    name: str
    height_px: int
    width_px: int


@dataclass(frozen=True, kw_only=True)
class FramePair:
    """(o_t, o_t+H): two frames of one episode, `gap_s` seconds apart."""

    now: UInt8  # [H, W, 3]
    later: UInt8  # [H, W, 3]
    gap_s: float
    embodiment: str

    def __post_init__(self) -> None:
        check_picture(self.now, "FramePair.now")
        check_picture(self.later, "FramePair.later")
        if self.now.shape != self.later.shape:
            raise InputError(
                "FramePair",
                expected="two pictures of one size",
                got=f"{self.now.shape} and {self.later.shape}",
                remedy="Both frames must come from one episode.",
            )
        if not self.gap_s > 0:
            raise InputError(
                "FramePair.gap_s",
                expected="> 0 seconds",
                got=str(self.gap_s),
                remedy="`later` comes after `now`.",
            )


@dataclass(frozen=True, kw_only=True)
class LatentAction:
    """z: the codes of one or many latent actions, each l_z integers below K."""

    codes: Int64  # [..., L]
    num_codes: int  # K

    def __post_init__(self) -> None:
        if not np.issubdtype(self.codes.dtype, np.integer) or self.codes.ndim < 1:
            raise InputError(
                "LatentAction.codes",
                expected="integers [..., l_z]",
                got=f"{self.codes.dtype} {self.codes.shape}",
                remedy="Pass the quantizer's codes, not its vectors.",
            )
        if self.codes.size and not (self.codes.min() >= 0 and self.codes.max() < self.num_codes):
            raise InputError(
                "LatentAction.codes",
                expected=f"codes in [0, {self.num_codes})",
                got=f"[{self.codes.min()}, {self.codes.max()}]",
                remedy="These labels belong to another codebook.",
            )

    @property
    def num_tokens(self) -> int:
        """l_z."""
        return int(self.codes.shape[-1])


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a policy sees: pictures by camera name, the sentence, and (where the body has it) proprioception."""

    images: Mapping[str, UInt8]  # each [H, W, 3]
    instruction: str | None = None
    proprioception: Float32 | None = None  # [P], metres, radians, fractions as the embodiment's table says

    def __post_init__(self) -> None:
        if not self.images:
            raise InputError("Observation.images", expected="at least one camera", got="none", remedy="Add a picture.")
        for name, picture in self.images.items():
            check_picture(picture, f"Observation.images[{name!r}]")


@dataclass(frozen=True, kw_only=True)
class ActionChunk:
    """The next S actions [S, A] in the units of `space`."""

    actions: Float32  # [S, A]
    space: ActionSpace

    def __post_init__(self) -> None:
        if self.actions.ndim != 2:
            raise InputError(
                "ActionChunk.actions",
                expected="[steps, axes]",
                got=str(self.actions.shape),
                remedy="Add a step axis.",
            )
        self.space.check(self.actions, "ActionChunk.actions")


@dataclass(frozen=True, kw_only=True)
class ClipInfo:
    """What is known of a clip before any picture is decoded. `name` is unique within its source."""

    name: str
    embodiment: str
    fps: float
    num_frames: int
    instruction: str | None = None
    licence: str | None = None


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One decoded clip: T frames and, if the source knows them, the T - 1 actions between them.

    `frames` are those of the main camera; other cameras' may have another size, and show the same T moments.
    """

    info: ClipInfo
    frames: UInt8  # [T, H, W, 3]
    actions: Float32 | None = None  # [T - 1, A]; action t leads from frame t to frame t + 1
    proprioception: Float32 | None = None  # [T, P]
    action_space: ActionSpace | None = None
    proprioception_axes: tuple[Axis, ...] = ()  # of its P numbers, where the source knows what they are
    camera: str = "front"  # the name of the camera that took `frames`
    extra_frames: Mapping[str, UInt8] = field(default_factory=dict)  # other cameras by name, each [T, H', W', 3]

    def __post_init__(self) -> None:
        where = f"episode {self.info.name!r}"
        check_picture(self.frames, f"{where}, field frames", ndim=4)
        self._check_cameras(where)
        self._check_actions(where)
        self._check_proprioception(where)

    def _check_actions(self, where: str) -> None:
        if self.actions is None:
            return
        if len(self.actions) != len(self.frames) - 1:
            raise InputError(
                f"{where}, field actions",
                expected=f"{len(self.frames) - 1} actions between {len(self.frames)} frames",
                got=str(len(self.actions)),
                remedy="Action t leads from frame t to frame t + 1.",
            )
        if self.action_space is not None:
            self.action_space.check(self.actions, f"{where}, field actions")

    def _check_cameras(self, where: str) -> None:
        for name, frames in self.extra_frames.items():
            place = f"{where}, field extra_frames[{name!r}]"
            check_picture(frames, place, ndim=4)
            if len(frames) != len(self.frames) or name == self.camera:
                raise InputError(
                    place,
                    expected=f"{len(self.frames)} frames, as the main camera {self.camera!r} has, of another camera",
                    got=f"{len(frames)} of {name!r}",
                    remedy="All cameras of an episode show the same moments.",
                )

    def _check_proprioception(self, where: str) -> None:
        state = self.proprioception
        if state is None:
            return
        if state.ndim != 2 or len(state) != len(self.frames):
            raise InputError(
                f"{where}, field proprioception",
                expected=f"one row for each of {len(self.frames)} frames",
                got=str(state.shape),
                remedy="Row t is the robot's state at frame t.",
            )
        if not np.isfinite(state).all():
            raise InputError(
                f"{where}, field proprioception",
                expected="finite numbers",
                got=f"NaN or infinity at index {np.argwhere(~np.isfinite(state))[0].tolist()}",
                remedy="Drop that step.",
            )
        if self.proprioception_axes and len(self.proprioception_axes) != state.shape[1]:
            raise InputError(
                f"{where}, field proprioception_axes",
                expected=f"an axis for each of {state.shape[1]} numbers, or none",
                got=str(len(self.proprioception_axes)),
                remedy="Name all numbers of the state, in their order.",
            )


@runtime_checkable
class Source(Protocol):
    """Where clips come from. `clips` is cheap and decodes no picture; `read` decodes one clip."""

    name: str

    def clips(self) -> Sequence[ClipInfo]:
        """Every clip, in an order that never changes."""
        ...

    def read(self, clip: ClipInfo) -> Episode:
        """Decode one clip. Raises InputError that names the file when it cannot be read."""
        ...


@runtime_checkable
class Policy(Protocol):
    """Acts. The same object in simulation, behind a server and in tests."""

    def act(self, observation: Observation) -> ActionChunk:
        """The next chunk of actions, in the units of the body's action space."""
        ...


@dataclass(frozen=True, kw_only=True)
class WorldStep:
    """What one action did: the new observation, whether the task is solved, whether time is up."""

    observation: Observation
    success: bool
    truncated: bool


@dataclass(frozen=True, kw_only=True)
class Task:
    """One thing to do: which body, which skill (a name such as 'push_left'), which start (seed)."""

    body: str
    skill: str
    seed: int


@runtime_checkable
class World(Protocol):
    """A stand-in for the robot, in the manner of Gymnasium: seeded, deterministic, restorable."""

    name: str
    bodies: tuple[str, ...]
    skills: tuple[str, ...]
    action_space: ActionSpace
    camera: CameraSpec
    max_steps: int

    def reset(self, task: Task) -> Observation:
        """Start `task`; equal tasks start equal."""
        ...

    def step(self, action: Float32) -> WorldStep:
        """Apply one action [A]; it is clipped to the limits of `action_space`."""
        ...

    def expert_action(self) -> Float32:
        """The scripted expert's next action [A] for the running task; it may look at the world's state."""
        ...

    def state(self) -> NDArray[np.float64]:
        """Everything that the future depends on, as a flat array."""
        ...

    def restore(self, state: NDArray[np.float64]) -> Observation:
        """Return to a state that `state` gave for the running task."""
        ...
