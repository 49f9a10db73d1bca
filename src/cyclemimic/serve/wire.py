"""What travels between a robot and a policy server: msgpack maps whose every field is checked. No pickle.

An array is a map of its type (of the two in `ARRAYS`), its shape and its bytes, little-endian and row by row.
Whatever comes in, `unpack` gives a message or an InputError that names the field, and never takes more memory than
the message is long. Engineering.

Letters in shapes: H W picture, P proprioception axes, S steps of a chunk, A action axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, NoReturn

import msgpack
import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.types import ActionChunk, ActionSpace, Axis, CameraSpec, Float32, Observation

PROTOCOL = 1
MAX_MESSAGE_BYTES = 64 << 20
MAX_CAMERAS, MAX_SIDE_PX = 16, 8192
MAX_AXES, MAX_STEPS, MAX_CHARACTERS = 1024, 1024, 4096

ARRAYS: dict[str, np.dtype[Any]] = {"uint8": np.dtype("u1"), "float32": np.dtype("<f4")}
REFUSALS = ("message", "observation", "policy")


@dataclass(frozen=True, kw_only=True)
class Hello:
    """What a server says first: whom it serves, and what that policy needs and answers.

    Args:
        policy: its name, for people.
        identity: sha256 of what it is made of, in hex; another policy has another.
        action_space: axes in order, with units and limits, and the rate.
        cameras: the pictures that an observation must hold.
        chunk_steps: actions in an answer, S.
        proprioception_width: P, or None for a policy that does not look at the robot's state.
    """

    policy: str
    identity: str
    action_space: ActionSpace
    cameras: tuple[CameraSpec, ...]
    chunk_steps: int
    proprioception_width: int | None = None

    def __post_init__(self) -> None:
        if len(self.identity) != 64 or set(self.identity) - set("0123456789abcdef"):
            _wrong("Hello.identity", "a sha256 of 64 hex digits", _said(self.identity))
        for name, count, most in (
            ("action_space.axes", self.action_space.width, MAX_AXES),
            ("cameras", len(self.cameras), MAX_CAMERAS),
            ("chunk_steps", self.chunk_steps, MAX_STEPS),
        ):
            if not 1 <= count <= most:
                _wrong(f"Hello.{name}", f"1 to {most}", str(count))


@dataclass(frozen=True, kw_only=True)
class Request:
    """A robot asks: what now? The answer has the same `number`, so that a late one is not taken for another."""

    number: int
    observation: Observation

    def __post_init__(self) -> None:
        seen = self.observation
        if seen.instruction is not None:
            _text("Observation.instruction", seen.instruction)
        if len(seen.images) > MAX_CAMERAS:
            _wrong("Observation.images", f"at most {MAX_CAMERAS} cameras", str(len(seen.images)))
        for name, picture in seen.images.items():
            if not all(1 <= side <= MAX_SIDE_PX for side in picture.shape[:2]):
                _wrong(f"Observation.images[{_said(name)}]", f"sides of 1 to {MAX_SIDE_PX} px", str(picture.shape))
        if seen.proprioception is not None:
            _check_floats("Observation.proprioception", seen.proprioception, (MAX_AXES,))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The next actions [S, A], and how long the policy thought."""

    number: int
    actions: Float32
    policy_ms: float

    def __post_init__(self) -> None:
        _check_floats("Answer.actions", self.actions, (MAX_STEPS, MAX_AXES))

    def chunk(self, space: ActionSpace) -> ActionChunk:
        """The actions in the units of `space`. Raises InputError for another width."""
        return ActionChunk(actions=self.actions, space=space)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """No answer, and why: the message made no sense, the observation does not fit, or the policy failed.

    Args:
        number: of the request; None where the message could not be read.
        kind: one of `REFUSALS`.
        text: for people; names the field.
    """

    number: int | None
    kind: str
    text: str

    def __post_init__(self) -> None:
        if self.kind not in REFUSALS:
            _wrong("Refusal.kind", f"one of {REFUSALS}", _said(self.kind), did_you_mean(self.kind[:80], REFUSALS))


Message = Hello | Request | Answer | Refusal
KINDS: dict[str, type[Message]] = {"hello": Hello, "request": Request, "answer": Answer, "refusal": Refusal}


def pack(message: Message) -> bytes:
    """A message as bytes. Raises InputError where it is longer than a message may be."""
    kind = next(name for name, cls in KINDS.items() if isinstance(message, cls))
    if isinstance(message, Request):
        seen = message.observation
        body = {
            "number": message.number,
            "images": {name: _packed(f"Observation.images[{name!r}]", p) for name, p in seen.images.items()},
            "instruction": seen.instruction,
            "proprioception": None
            if seen.proprioception is None
            else _packed("Observation.proprioception", seen.proprioception),
        }
    elif isinstance(message, Answer):
        body = {**vars(message), "actions": _packed("Answer.actions", message.actions)}
    else:
        body = asdict(message)
    raw: bytes = msgpack.packb({"protocol": PROTOCOL, "type": kind, **body}, use_bin_type=True)
    if len(raw) > MAX_MESSAGE_BYTES:
        _wrong(kind, f"at most {MAX_MESSAGE_BYTES} bytes", str(len(raw)), "Send fewer or smaller pictures.")
    return raw


def unpack(raw: object) -> Message:
    """Undo `pack`, whoever packed it.

    Raises:
        InputError: it is no message of this protocol; names the field that is wrong.
    """
    if not isinstance(raw, bytes):
        _wrong("message", "msgpack in a binary frame", _said(raw))
    if len(raw) > MAX_MESSAGE_BYTES:
        _wrong("message", f"at most {MAX_MESSAGE_BYTES} bytes", str(len(raw)))
    try:
        value = msgpack.unpackb(
            raw,
            max_str_len=4 * MAX_CHARACTERS,  # bytes of UTF-8
            max_bin_len=MAX_MESSAGE_BYTES,
            max_array_len=MAX_AXES,
            max_map_len=64,
            max_ext_len=0,
        )
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
        _wrong("message", "msgpack", f"{type(error).__name__}: {str(error)[:200]}")
    read = _Fields(value, "message")
    version = read.whole("protocol", 0, 1 << 32)
    if version != PROTOCOL:
        _wrong(
            "message.protocol", str(PROTOCOL), str(version), "Install the same version on the robot and on the server."
        )
    kind = read.text("type")
    if kind not in KINDS:
        _wrong("message.type", f"one of {', '.join(KINDS)}", _said(kind), did_you_mean(kind[:80], KINDS))
    read.where = kind
    found = _READERS[kind](read)
    read.end()
    return found


def number_of(raw: bytes) -> int | None:
    """The number of a request that is wrong elsewhere, so that its sender knows which one is refused."""
    try:
        number = msgpack.unpackb(raw, max_array_len=MAX_AXES, max_map_len=64, max_ext_len=0)["number"]
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError, KeyError, TypeError, IndexError):
        return None
    return number if type(number) is int and 0 <= number < 1 << 32 else None


def _read_hello(read: _Fields) -> Hello:
    space = read.fields("action_space")
    axes = tuple(_read_axis(axis) for axis in space.rows("axes", MAX_AXES))
    rate_hz = space.number("rate_hz")
    if not 0 < rate_hz < math.inf:
        _wrong(f"{space.where}.rate_hz", "more than 0 Hz", str(rate_hz))
    words: dict[str, Any] = {word: space.text(word) for word in ("name", "kind")}
    action_space = ActionSpace(axes=axes, rate_hz=rate_hz, **words)
    space.end()
    cameras = []
    for row in read.rows("cameras", MAX_CAMERAS):
        sides = {side: row.whole(side, 1, MAX_SIDE_PX) for side in ("height_px", "width_px")}
        cameras.append(CameraSpec(name=row.text("name"), **sides))
        row.end()
    state = read.take("proprioception_width")
    return Hello(
        policy=read.text("policy"),
        identity=read.text("identity"),
        action_space=action_space,
        cameras=tuple(cameras),
        chunk_steps=read.whole("chunk_steps", 1, MAX_STEPS),
        proprioception_width=None if state is None else _whole("hello.proprioception_width", state, 1, MAX_AXES),
    )


def _read_axis(read: _Fields) -> Axis:
    # Limits are numbers, everything else that an axis says of itself is a word.
    words: dict[str, Any] = {f.name: read.text(f.name) for f in fields(Axis) if f.name not in ("low", "high")}
    axis = Axis(low=read.number("low"), high=read.number("high"), **words)
    read.end()
    return axis


def _read_request(read: _Fields) -> Request:
    number = read.whole("number", 0, (1 << 32) - 1)
    read.where = "Observation"
    pictures = read.fields("images")
    images = {name: pictures.array(name, "uint8", (MAX_SIDE_PX, MAX_SIDE_PX, 3)) for name in tuple(pictures.left)}
    instruction, state = read.take("instruction"), read.take("proprioception")
    if instruction is not None:
        _text("Observation.instruction", instruction)
    if state is not None:
        state = _array("Observation.proprioception", state, "float32", (MAX_AXES,))
    return Request(
        number=number,
        observation=Observation(images=images, instruction=instruction, proprioception=state),
    )


def _read_answer(read: _Fields) -> Answer:
    return Answer(
        number=read.whole("number", 0, (1 << 32) - 1),
        actions=read.array("actions", "float32", (MAX_STEPS, MAX_AXES)),
        policy_ms=read.number("policy_ms"),
    )


def _read_refusal(read: _Fields) -> Refusal:
    number = read.take("number")
    if number is not None:
        number = _whole("refusal.number", number, 0, (1 << 32) - 1)
    return Refusal(number=number, kind=read.text("kind"), text=read.text("text"))


_READERS: dict[str, Callable[[_Fields], Message]] = {
    "hello": _read_hello,
    "request": _read_request,
    "answer": _read_answer,
    "refusal": _read_refusal,
}


class _Fields:
    """Takes a map apart, field by field, and names what is missing, wrong or unknown."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            _wrong(where, "a map of fields", _said(value))
        for name in value:
            if not isinstance(name, str):
                _wrong(where, "names of fields that are text", _said(name))
            if len(name) > MAX_CHARACTERS:
                _wrong(where, f"names of fields of at most {MAX_CHARACTERS} characters", _said(name))
        self.left: dict[str, Any] = dict(value)
        self.where = where

    def take(self, name: str) -> Any:
        if name not in self.left:
            _wrong(f"{self.where}.{name}", "this field", "none", f"Fields here: {_said(sorted(self.left)[:8])}.")
        return self.left.pop(name)

    def text(self, name: str) -> str:
        return _text(f"{self.where}.{name}", self.take(name))

    def whole(self, name: str, low: int, high: int) -> int:
        return _whole(f"{self.where}.{name}", self.take(name), low, high)

    def number(self, name: str) -> float:
        value = self.take(name)
        if type(value) not in (int, float) or math.isnan(value):
            _wrong(f"{self.where}.{name}", "a number", _said(value))
        return float(value)

    def array(self, name: str, kind: str, most: tuple[int, ...]) -> NDArray[Any]:
        where = f"{self.where}[{_said(name)}]" if self.where.endswith("images") else f"{self.where}.{name}"
        return _array(where, self.take(name), kind, most)

    def fields(self, name: str) -> _Fields:
        return _Fields(self.take(name), f"{self.where}.{name}")

    def rows(self, name: str, most: int) -> list[_Fields]:
        value = self.take(name)
        if not isinstance(value, list) or not 1 <= len(value) <= most:
            _wrong(f"{self.where}.{name}", f"a list of 1 to {most}", _said(value))
        return [_Fields(row, f"{self.where}.{name}[{i}]") for i, row in enumerate(value)]

    def end(self) -> None:
        if self.left:
            _wrong(f"{self.where}.{next(iter(self.left))[:80]}", "no such field", "one", "Remove it.")


def _text(where: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_CHARACTERS:
        _wrong(where, f"text of at most {MAX_CHARACTERS} characters", _said(value))
    return value


def _whole(where: str, value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        _wrong(where, f"an integer from {low} to {high}", _said(value))
    return value


def _packed(where: str, array: NDArray[Any]) -> dict[str, Any]:
    kind = array.dtype.name
    if kind not in ARRAYS:
        _wrong(where, f"an array of {' or '.join(ARRAYS)}", kind, "Convert it.")
    return {"dtype": kind, "shape": list(array.shape), "data": array.astype(ARRAYS[kind], copy=False).tobytes()}


def _array(where: str, value: object, kind: str, most: tuple[int, ...]) -> NDArray[Any]:
    """The array in a map; its shape is believed only where its bytes are there."""
    read = _Fields(value, where)
    dtype, shape, data = read.text("dtype"), read.take("shape"), read.take("data")
    read.end()
    if dtype != kind:
        _wrong(f"{where}.dtype", kind, _said(dtype))
    if not isinstance(shape, list) or len(shape) != len(most):
        _wrong(f"{where}.shape", f"{len(most)} sides", _said(shape))
    sides = [
        _whole(f"{where}.shape[{i}]", side, 1, high) for i, (side, high) in enumerate(zip(shape, most, strict=True))
    ]
    size = math.prod(sides) * ARRAYS[kind].itemsize
    if not isinstance(data, bytes) or len(data) != size:
        _wrong(f"{where}.data", f"{size} bytes for the shape {sides}", _said(data))
    found: NDArray[Any] = np.frombuffer(data, ARRAYS[kind]).reshape(sides).astype(kind)  # a copy that may be written
    return found


def _check_floats(where: str, array: NDArray[Any], most: tuple[int, ...]) -> None:
    if array.dtype != np.float32 or array.ndim != len(most):
        _wrong(where, f"float32 of {len(most)} dimensions", f"{array.dtype} {array.shape}", "Convert it.")
    if not all(1 <= side <= high for side, high in zip(array.shape, most, strict=True)):
        _wrong(where, f"sides of 1 to {most}", str(array.shape))
    if not np.isfinite(array).all():
        _wrong(where, "finite numbers", f"NaN or infinity at index {np.argwhere(~np.isfinite(array))[0].tolist()}")


def _said(value: object) -> str:
    """A value in few words, however large it is."""
    if isinstance(value, str):
        return repr(value[:80])
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, list) and len(value) <= 8 and all(isinstance(v, int | str) for v in value):
        return repr(value)[:80]
    if isinstance(value, bytes | list | dict):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def _wrong(where: str, expected: str, got: str, remedy: str = "") -> NoReturn:
    raise InputError(where, expected=expected, got=got, remedy=remedy or "See cyclemimic.serve.wire for what is sent.")
