"""The client against servers that are absent, strange, late, sick or gone."""

import dataclasses
import socket
import threading
import time

import numpy as np
import pytest
from websockets.sync.server import serve

from cyclemimic.errors import InputError
from cyclemimic.robot.client import BadAnswerError, LateAnswerError, PolicyClient, ServerLostError
from cyclemimic.serve.server import serving
from cyclemimic.serve.wire import Answer, Refusal, pack, unpack
from cyclemimic.types import ActionSpace, Axis, CameraSpec, Task
from tests.robots import AXES, CAMERA, HELLO, SPACE, Rail, Walker


@pytest.fixture
def seen():
    robot = Rail()
    robot.reset(Task(body="rail", skill="go", seed=0))
    return robot.observe()


@pytest.fixture
def strange():
    """Servers that speak as a test says; gives a function from a handler to an address."""
    servers = []

    def start(handler):
        server = serve(handler, "127.0.0.1", 0, compression=None)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"ws://127.0.0.1:{server.socket.getsockname()[1]}"

    yield start
    for server in servers:
        server.shutdown()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_nobody_there():
    address = f"ws://127.0.0.1:{free_port()}"
    with pytest.raises(InputError, match=rf"{address}.*refused.*cyclemimic serve"):
        PolicyClient(address)


@pytest.mark.parametrize("address", ["localhost", "http://127.0.0.1:1", "ws://"])
def test_no_address(address):
    with pytest.raises(InputError, match="ws://"):
        PolicyClient(address)


def test_somebody_else_there(strange):
    def silent(line):
        time.sleep(1)

    for handler, got in (
        (lambda line: line.send("hi"), "binary frame"),
        (lambda line: line.send(pack(Refusal(number=None, kind="policy", text=""))), "got Refusal"),
        (silent, "silence"),
        (lambda line: line.close(), "received 1000"),
    ):
        with pytest.raises(InputError, match=got):
            PolicyClient(strange(handler), connect_timeout_s=0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"ws://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(InputError, match="Timeout"):
            PolicyClient(address, connect_timeout_s=0.3)


def test_another_body_is_refused_and_both_are_shown():
    with serving(Walker(), HELLO) as address:
        client = PolicyClient(address)
        client.check(SPACE, (CAMERA,))
        wider = dataclasses.replace(SPACE, axes=(dataclasses.replace(AXES[0], low=-9.0), AXES[1]))
        client.check(wider, (CAMERA, CameraSpec(name="more", height_px=1, width_px=1)))  # limits are the robot's own
        for axes in (AXES[::-1], AXES[:1], (AXES[0], Axis(name="grip", unit="m", low=0, high=1))):
            other = ActionSpace(name="other", axes=axes, rate_hz=50.0)
            with pytest.raises(InputError) as told:
                client.check(other, (CAMERA,))
            assert "got x m" in str(told.value) and all(f"{a.name} {a.unit}" in told.value.expected for a in axes)
        with pytest.raises(InputError, match=r"robot's 10 Hz, got 50 Hz"):
            client.check(dataclasses.replace(SPACE, rate_hz=10.0), (CAMERA,))
        with pytest.raises(InputError, match=r"'eye' 4 x 5 px, got 'eye' 3 x 5 px"):
            client.check(SPACE, (dataclasses.replace(CAMERA, height_px=4),))


def test_a_late_answer_is_dropped_and_the_next_is_the_next(seen):
    policy = Walker()
    policy.before = lambda asked: time.sleep(0.3 if asked == 1 else 0)
    with serving(policy, HELLO) as address:
        client = PolicyClient(address)
        with pytest.raises(LateAnswerError, match="ms after"):
            client.act(seen, 0.05)
        with pytest.raises(LateAnswerError, match="still no answer"):
            client.act(seen, 0.05)
        assert policy.asked == 1, "questions do not pile up at the server"
        reply = client.act(seen, 5)
    assert policy.asked == 2 and np.isclose(reply.chunk.actions[0, 1], 0.02) and reply.latency_ms < 250


def test_an_answer_that_comes_while_the_robot_moves_is_kept(seen):
    with serving(Walker(), HELLO) as address:
        client = PolicyClient(address)
        client.ask(seen)
        assert client.listen(5)
        time.sleep(0.3)
        assert client.answer(0).latency_ms < 250  # when it came, not when it was fetched


def test_answers_of_no_use(strange, seen):
    def handler(line):
        line.send(pack(HELLO))
        for raw in line:
            number = unpack(raw).number
            good = pack(Answer(number=number, actions=np.zeros((4, 2), np.float32), policy_ms=1))
            old = pack(Answer(number=number + 7, actions=np.ones((4, 2), np.float32), policy_ms=1))
            wide = pack(Answer(number=number, actions=np.zeros((4, 3), np.float32), policy_ms=1))
            told = {1: [good[:-3]], 2: [wide], 3: ["text"], 4: [old, pack(HELLO), good]}
            told[5] = [good.replace(np.zeros(8, np.float32).tobytes(), np.full(8, np.nan, np.float32).tobytes())]
            for message in told.get(number, [good]):
                line.send(message)

    client = PolicyClient(strange(handler))
    for got in ("incomplete|Unpack", "width 2", "binary frame"):
        with pytest.raises(BadAnswerError, match=got):
            client.act(seen, 5)
    assert not client.act(seen, 5).chunk.actions.any(), "what answers another question is dropped"
    with pytest.raises(BadAnswerError, match=r"Answer.actions.*NaN"):
        client.act(seen, 5)
    assert client.act(seen, 5).policy_ms == 1


def test_an_observation_that_cannot_be_sent_is_named_and_nothing_is_open(seen):
    with serving(Walker(), HELLO) as address:
        client = PolicyClient(address)
        with pytest.raises(InputError, match=r"Observation.proprioception.*NaN"):
            client.act(dataclasses.replace(seen, proprioception=np.full(2, np.nan, np.float32)), 5)
        assert client.act(seen, 5).chunk.actions.shape == (4, 2)


def test_a_server_that_goes_and_comes_back(strange, seen):
    answered = []

    def mortal(line):
        line.send(pack(HELLO))
        number = unpack(line.recv()).number
        if not answered:
            answered.append(1)
            return  # the connection ends here
        line.send(pack(Answer(number=number, actions=np.zeros((4, 2), np.float32), policy_ms=1)))

    client = PolicyClient(strange(mortal))
    with pytest.raises(ServerLostError, match="ended"):
        client.act(seen, 5)
    with pytest.raises(ServerLostError, match="ended"):
        client.act(seen, 5)
    client.reconnect()
    assert client.act(seen, 5).policy_ms == 1
    client.close()
    client.close()


def test_another_policy_after_a_restart_is_refused(strange):
    hellos = iter([HELLO, dataclasses.replace(HELLO, policy="runner", identity="1" * 64)])
    client = PolicyClient(strange(lambda line: line.send(pack(next(hellos)))))
    with pytest.raises(InputError, match=r"walker \(000000000000\), got runner \(111111111111\)"):
        client.reconnect()
