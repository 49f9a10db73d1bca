"""The server and what it says to clients that do wrong: it goes on serving them, and everybody else."""

import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from cyclemimic.errors import InputError
from cyclemimic.robot.client import BadAnswerError, PolicyClient
from cyclemimic.serve.server import PolicyServer, serving
from cyclemimic.serve.wire import MAX_MESSAGE_BYTES, Answer, Hello, Refusal, Request, pack, unpack
from cyclemimic.types import ActionChunk, ActionSpace, Observation, Task
from tests.robots import AXES, HELLO, SPACE, Rail, Walker


@pytest.fixture
def seen():
    robot = Rail()
    robot.reset(Task(body="rail", skill="go", seed=0))
    return robot.observe()


@pytest.fixture
def policy():
    return Walker()


@pytest.fixture
def address(policy):
    with serving(policy, HELLO) as found:
        yield found


def plain(address):
    return connect(address, compression=None, proxy=None)


def test_hello_then_answers(address, policy, seen):
    with plain(address) as line:
        assert unpack(line.recv(timeout=5)) == HELLO
        for number in (4, 9):
            line.send(pack(Request(number=number, observation=seen)))
            answer = unpack(line.recv(timeout=5))
            assert isinstance(answer, Answer) and answer.number == number and answer.policy_ms >= 0
            assert answer.actions.shape == (4, 2)
    assert isinstance(policy.seen[0], Observation) and np.array_equal(policy.seen[0].images["eye"], seen.images["eye"])


def test_the_time_in_an_answer_is_the_policys(policy, seen):
    policy.before = lambda asked: time.sleep(0.05)
    with serving(policy, HELLO) as address:
        reply = PolicyClient(address).act(seen, 5)
    assert 50 <= reply.policy_ms <= reply.latency_ms < 2000


def test_nonsense_is_refused_by_field_and_the_client_is_served_on(address, seen):
    with plain(address) as line, plain(address) as other:
        line.recv(timeout=5), other.recv(timeout=5)
        blind = pack(Request(number=5, observation=seen)).replace(b"float32", b"float64")
        for nonsense, number, field in (
            (b"\x00\x01", None, "message"),
            ("text", None, "binary frame"),
            (pack(HELLO), None, "message.type"),
            (pack(Answer(number=2, actions=np.zeros((1, 2), np.float32), policy_ms=0)), 2, "message.type"),
            (blind, 5, "Observation.proprioception.dtype"),
        ):
            line.send(nonsense)
            told = unpack(line.recv(timeout=5))
            assert isinstance(told, Refusal) and told.kind == "message" and told.number == number
            assert field in told.text
            for client in (line, other):
                client.send(pack(Request(number=1, observation=seen)))
                assert isinstance(unpack(client.recv(timeout=5)), Answer)


def test_a_message_that_is_too_long_costs_its_sender_the_connection_and_nobody_else(address, seen):
    with plain(address) as line, plain(address) as other:
        line.recv(timeout=5), other.recv(timeout=5)
        with pytest.raises(Exception, match="1009"):
            line.send(bytes(MAX_MESSAGE_BYTES + 1))
            line.recv(timeout=20)
        other.send(pack(Request(number=1, observation=seen)))
        assert isinstance(unpack(other.recv(timeout=5)), Answer)


def test_what_the_policy_raises_is_told_and_kills_nothing(policy, address, seen, caplog):
    def sick(asked):
        if asked == 1:
            raise KeyError("weights")
        if asked == 2:
            raise InputError("Observation.images", expected="camera 'wrist'", got="eye", remedy="Add it.")

    policy.before = sick
    client = PolicyClient(address)
    with pytest.raises(BadAnswerError, match=r"\(policy\): KeyError: 'weights'"):
        client.act(seen, 5)
    assert "the policy failed" in caplog.text and "KeyError" in caplog.text
    with pytest.raises(BadAnswerError, match=r"\(observation\): Observation.images: expected camera 'wrist'"):
        client.act(seen, 5)
    assert client.act(seen, 5).chunk.actions.shape == (4, 2)


def test_actions_of_no_use_are_refused_at_the_server(policy, address, seen):
    client = PolicyClient(address)
    policy.actions = lambda o: np.full((4, 2), np.nan, np.float32)
    with pytest.raises(BadAnswerError, match="NaN"):
        client.act(seen, 5)
    policy.actions = lambda o: np.zeros((4, 3), np.float32)
    with pytest.raises(BadAnswerError, match="width 2"):
        client.act(seen, 5)
    other = ActionSpace(name="other", axes=AXES[::-1], rate_hz=50.0)
    policy.act = lambda o: ActionChunk(actions=np.zeros((4, 2), np.float32), space=other)
    with pytest.raises(BadAnswerError, match="'other', another action space"):
        client.act(seen, 5)


def test_clients_at_once_are_answered_one_at_a_time_each_with_its_own(seen):
    class Alone:
        inside, most = 0, 0

        def act(self, observation):
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(0.002)
            self.inside -= 1
            return ActionChunk(actions=np.full((1, 2), observation.proprioception[0], np.float32), space=SPACE)

    policy, wrong = Alone(), []
    with serving(policy, HELLO) as address:

        def ask(number):
            client = PolicyClient(address)
            for _ in range(10):
                mine = Observation(images=seen.images, proprioception=np.array([number, 0], np.float32))
                if client.act(mine, 20).chunk.actions[0, 0] != number:
                    wrong.append(number)
            client.close()

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == [] and policy.most == 1


def test_health_and_browsers(address):
    with urllib.request.urlopen(address.replace("ws:", "http:") + "/healthz", timeout=5) as told:
        assert (told.status, told.read()) == (200, b"OK\n")
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(address.replace("ws:", "http:") + "/other", timeout=5)
    with pytest.raises(InvalidStatus, match="403"):
        connect(address, origin="http://a.page.somewhere", proxy=None)


def test_a_port_that_is_taken(address):
    port = int(address.rpartition(":")[2])
    with pytest.raises(InputError, match="--port"):
        PolicyServer(Walker(), HELLO, port=port).run(lambda address: None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_peace(number):
    code = (
        "from cyclemimic.serve.server import PolicyServer\nfrom tests.robots import HELLO, Walker\n"
        "PolicyServer(Walker(), HELLO).run(lambda a: print(a, flush=True))\nprint('stopped')\n"
        "import sys; assert 'torch' not in sys.modules"
    )
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    address = server.stdout.readline().strip()
    assert address.startswith("ws://127.0.0.1:")
    client = PolicyClient(address)
    server.send_signal(number)
    said, errors = server.communicate(timeout=10)
    assert (server.returncode, said.strip(), errors) == (0, "stopped", "")
    client.close()


def test_hello_is_checked_before_anything_listens():
    with pytest.raises(InputError, match="identity"):
        Hello(policy="p", identity="", action_space=SPACE, cameras=HELLO.cameras, chunk_steps=1)
