"""Messages: an exact round trip, and nothing but an InputError that names the field for whatever else comes."""

import dataclasses
import tracemalloc

import msgpack
import numpy as np
import pytest

from cyclemimic.errors import InputError
from cyclemimic.serve import wire
from cyclemimic.serve.wire import Answer, Hello, Refusal, Request, number_of, pack, unpack
from cyclemimic.types import ActionSpace, Axis, CameraSpec, Observation

AXES = (Axis(name="x", unit="m", low=-0.03, high=0.05), Axis(name="grip", unit="fraction", low=0.0, high=1.0))
SPACE = ActionSpace(name="toy", axes=AXES, rate_hz=5.0)
HELLO = Hello(
    policy="toy",
    identity="ab" * 32,
    action_space=SPACE,
    cameras=(CameraSpec(name="front", height_px=5, width_px=7), CameraSpec(name="wrist", height_px=3, width_px=2)),
    chunk_steps=3,
    proprioception_width=11,
)
RNG = np.random.default_rng(0)


def observation(**changes):
    images = {"front": RNG.integers(0, 256, (5, 7, 3), np.uint8), "wrist": RNG.integers(0, 256, (3, 2, 3), np.uint8)}
    state = RNG.normal(size=11).astype(np.float32)
    return dataclasses.replace(
        Observation(images=images, instruction="schiebe den Würfel", proprioception=state), **changes
    )


def equal(one, other):
    assert one.instruction == other.instruction and list(one.images) == list(other.images)
    assert all(np.array_equal(one.images[k], other.images[k]) for k in one.images)
    assert all(other.images[k].dtype == np.uint8 and other.images[k].flags.writeable for k in one.images)
    if one.proprioception is None:
        assert other.proprioception is None
    else:
        assert other.proprioception.dtype == np.float32
        assert one.proprioception.tobytes() == other.proprioception.tobytes()


@pytest.mark.parametrize("hello", [HELLO, dataclasses.replace(HELLO, proprioception_width=None)])
def test_hello_round_trip(hello):
    assert unpack(pack(hello)) == hello


@pytest.mark.parametrize("changes", [{}, {"instruction": None}, {"proprioception": None}])
def test_request_round_trip_is_exact(changes):
    seen = observation(**changes)
    found = unpack(pack(Request(number=7, observation=seen)))
    assert found.number == 7
    equal(seen, found.observation)


def test_a_picture_that_is_a_view_travels_as_it_looks():
    seen = observation(images={"front": RNG.integers(0, 256, (6, 14, 3), np.uint8)[::-1, ::2]})
    equal(seen, unpack(pack(Request(number=0, observation=seen))).observation)


def test_answer_and_refusal_round_trip():
    actions = RNG.normal(size=(3, 2)).astype(np.float32)
    found = unpack(pack(Answer(number=3, actions=actions, policy_ms=1.25)))
    assert (found.number, found.policy_ms) == (3, 1.25)
    chunk = found.chunk(SPACE)
    assert chunk.space == SPACE and chunk.actions.tobytes() == actions.tobytes()
    with pytest.raises(InputError, match="width 1"):
        found.chunk(dataclasses.replace(SPACE, axes=AXES[:1]))
    for refusal in (Refusal(number=None, kind="message", text="?"), Refusal(number=2, kind="policy", text="NaN")):
        assert unpack(pack(refusal)) == refusal


def plain(message):
    """A message as the map that msgpack sees."""
    return msgpack.unpackb(pack(message))


def changed(message, path, value):
    found = plain(message)
    place = found
    for name in path[:-1]:
        place = place[name]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return msgpack.packb(found)


REQUEST = Request(number=3, observation=observation())
ANSWER = Answer(number=3, actions=np.ones((3, 2), np.float32), policy_ms=1.0)
NAN = np.full(11, np.nan, np.float32).tobytes()
PICTURE = ("images", "front")


@pytest.mark.parametrize(
    ("message", "path", "value", "field"),
    [
        (REQUEST, ("protocol",), 2, "message.protocol"),
        (REQUEST, ("protocol",), True, "message.protocol"),
        (REQUEST, ("type",), "requst", "message.type.*Did you mean 'request'"),
        (REQUEST, ("type",), KeyError, "message.type"),
        (REQUEST, ("number",), -1, "request.number"),
        (REQUEST, ("number",), 1.0, "request.number"),
        (REQUEST, ("images",), {}, "Observation.images"),
        (REQUEST, ("images",), [1], "Observation.images"),
        (REQUEST, ("images",), {f"c{i}": 0 for i in range(9)}, r"Observation.images\['c0'\]"),
        (REQUEST, (*PICTURE, "dtype"), "object", r"images\['front'\].dtype"),
        (REQUEST, (*PICTURE, "dtype"), "float32", r"images\['front'\].dtype"),
        (REQUEST, (*PICTURE, "dtype"), "|O", r"images\['front'\].dtype"),
        (REQUEST, (*PICTURE, "shape"), [5, 7], r"images\['front'\].shape"),
        (REQUEST, (*PICTURE, "shape"), [5, -7, 3], r"images\['front'\].shape\[1\]"),
        (REQUEST, (*PICTURE, "shape"), [1 << 40, 7, 3], r"images\['front'\].shape\[0\]"),
        (REQUEST, (*PICTURE, "shape"), [8192, 8192, 3], r"images\['front'\].data"),
        (REQUEST, (*PICTURE, "shape"), [5, 7, 4], r"images\['front'\].shape\[2\]"),
        (REQUEST, (*PICTURE, "shape"), [0, 7, 3], r"images\['front'\].shape\[0\]"),
        (REQUEST, (*PICTURE, "data"), b"short", r"images\['front'\].data"),
        (REQUEST, (*PICTURE, "data"), "text", r"images\['front'\].data"),
        (REQUEST, (*PICTURE, "data"), KeyError, r"images\['front'\].data"),
        (REQUEST, (*PICTURE, "more"), 1, r"images\['front'\].more"),
        (REQUEST, ("instruction",), 3, "Observation.instruction"),
        (REQUEST, ("instruction",), "a" * 5000, "Observation.instruction"),
        (REQUEST, ("instruction",), KeyError, "Observation.instruction"),
        (REQUEST, ("proprioception", "data"), NAN, "Observation.proprioception.*NaN"),
        (REQUEST, ("proprioception", "shape"), [1, 11], "Observation.proprioception.shape"),
        (REQUEST, ("extra",), 3, "Observation.extra"),
        (ANSWER, ("actions", "data"), np.full(6, np.inf, np.float32).tobytes(), "Answer.actions.*infinity"),
        (ANSWER, ("actions", "shape"), [6], "answer.actions.shape"),
        (ANSWER, ("policy_ms",), "fast", "answer.policy_ms"),
        (HELLO, ("identity",), "ab", "Hello.identity"),
        (HELLO, ("chunk_steps",), 0, "hello.chunk_steps"),
        (HELLO, ("action_space", "axes"), [], "hello.action_space.axes"),
        (HELLO, ("action_space", "axes", 0, "unit"), "inch", "unit of"),
        (HELLO, ("action_space", "axes", 1, "low"), 2.0, "low < high"),
        (HELLO, ("action_space", "axes", 1, "low"), float("nan"), r"hello.action_space.axes\[1\].low"),
        (HELLO, ("action_space", "rate_hz"), 0, "hello.action_space.rate_hz"),
        (HELLO, ("cameras", 0, "height_px"), 0, r"hello.cameras\[0\].height_px"),
        (HELLO, ("proprioception_width",), "7", "hello.proprioception_width"),
        (Refusal(number=1, kind="policy", text="?"), ("kind",), "polcy", "Refusal.kind"),
    ],
)
def test_the_wrong_field_is_named(message, path, value, field):
    with pytest.raises(InputError, match=field):
        unpack(changed(message, path, value))


@pytest.mark.parametrize(
    "raw", ["text", b"", b"\xc1", b"\x93\x01", pack(REQUEST)[:-1], pack(REQUEST) + b"\x00", 3, None]
)
def test_what_is_no_message_is_refused(raw):
    with pytest.raises(InputError, match="message"):
        unpack(raw)


def test_what_cannot_be_read_is_refused_before_it_is_sent():
    for wrong, field in (
        (np.zeros(11, np.float64), "float32"),
        (np.array([0, np.nan], np.float32), r"index \[1\]"),
        (np.zeros((2, 3), np.float32), "1 dimensions"),
        (np.zeros(0, np.float32), "sides"),
    ):
        with pytest.raises(InputError, match=f"Observation.proprioception.*{field}"):
            Request(number=0, observation=observation(proprioception=wrong))
    with pytest.raises(InputError, match=r"front.*sides"):
        Request(number=0, observation=observation(images={"front": np.zeros((0, 3, 3), np.uint8)}))
    with pytest.raises(InputError, match="instruction"):
        Request(number=0, observation=observation(instruction="a" * 5000))
    large = {str(i): np.zeros((2000, 2000, 3), np.uint8) for i in range(6)}
    with pytest.raises(InputError, match=r"at most .* bytes"):
        pack(Request(number=0, observation=observation(images=large)))


def test_the_number_is_found_where_the_rest_is_wrong():
    assert number_of(changed(REQUEST, ("images",), {})) == 3
    assert number_of(changed(REQUEST, ("number",), -1)) is None
    for raw in (b"", b"\x01", b"\x91\x01", b"\xc1", msgpack.packb({"number": "3"})):
        assert number_of(raw) is None


def huge():
    """Short messages that promise much."""
    yield b"\xdd\xff\xff\xff\xff"  # a list of 4 billion
    yield b"\xdf\xff\xff\xff\xff"  # a map of 4 billion
    yield b"\xc6\xff\xff\xff\xff"  # 4 GB of bytes
    yield b"\x91" * 100_000  # lists in lists
    yield (b"\xdc\x03\xff" * 2000)[: 1 << 20]  # long lists in long lists
    yield b"\xc9\xff\xff\xff\xff\x01"  # an extension
    yield msgpack.packb({"protocol": 1, "type": msgpack.Timestamp(1)})
    yield changed(REQUEST, (*PICTURE, "shape"), [8192, 8192, 3])


def test_a_message_never_takes_more_memory_than_it_is_long():
    for raw in huge():
        tracemalloc.start()
        with pytest.raises(InputError) as told:
            unpack(raw)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 20 << 20 and len(str(told.value)) < 2000


def test_nonsense_is_an_input_error_and_nothing_else():
    rng = np.random.default_rng(1)
    good = [pack(m) for m in (REQUEST, ANSWER, HELLO, Refusal(number=1, kind="policy", text="?"))]
    read = 0
    for _ in range(6000):
        raw = bytearray(good[rng.integers(len(good))] if rng.random() < 0.8 else rng.bytes(int(rng.integers(1, 60))))
        for _ in range(rng.integers(0, 4)):
            # Near the start lie types, names and shapes; further on mostly pixels.
            at = int(rng.integers(min(len(raw), 60) if rng.random() < 0.7 else len(raw)))
            if rng.random() < 0.3:
                raw[at : at + int(rng.integers(1, 5))] = rng.bytes(int(rng.integers(0, 5))) or b"\x00"
            else:
                raw[at] = int(rng.integers(256))
        try:
            assert isinstance(unpack(bytes(raw)), Hello | Request | Answer | Refusal)
            read += 1
        except InputError as error:
            assert len(str(error)) < 10_000
        number_of(bytes(raw))
    assert 500 < read < 5500, "some survive, some do not"


def test_every_kind_has_a_reader():
    assert set(wire.KINDS) == set(wire._READERS)
