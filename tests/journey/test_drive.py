"""`serve` and `drive` as two processes, the second without torch; and what a user can get wrong with them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from cyclemimic.__main__ import main
from cyclemimic.errors import InputError
from cyclemimic.recipes.remote import robot_command, served
from cyclemimic.robot.client import PolicyClient
from cyclemimic.serve.server import PolicyServer, serving
from cyclemimic.serve.wire import Hello
from cyclemimic.store.atomic import read_json
from cyclemimic.types import ActionChunk
from cyclemimic.worlds.arms import ArmsWorld
from tests.policies import arms_policy
from tests.robots import HELLO, SPACE, Walker

REPOSITORY = Path(__file__).parents[2]
ROBOT = REPOSITORY / ".venv-robot/bin/python"
WORDS = ("arms", "--body", "arm6", "--skills", "reach", "push_left", "--first-seed", "10000000")


@pytest.fixture(scope="module")
def policy_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("served") / "policy"
    run.mkdir()
    arms_policy().save(run)
    return run


@pytest.fixture
def robot(monkeypatch):
    """How `drive` is started without torch: in `.venv-robot` (`make robot`), or else here with torch blocked."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.delenv("CYCLEMIMIC_ROBOT_PYTHON", raising=False)
    if not ROBOT.exists():
        warnings.warn("no .venv-robot (make robot): drive runs in this environment with torch blocked", stacklevel=2)
    return robot_command()


def test_serve_and_drive_are_two_processes_and_the_robots_has_no_torch(policy_run, robot, tmp_path):
    if ROBOT.exists():
        code = "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('tyro'))"
        assert subprocess.check_output([ROBOT, "-c", code], text=True).strip() == "None None"
    out = tmp_path / "driven.json"
    with served(policy_run) as address:
        command = [*robot, *WORDS, "--server", address, "--episodes", "2", "--out", str(out)]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stderr == "" and "all" in told.stdout and "of 4 solved" in told.stdout and "policy" in told.stdout
    found = read_json(out)
    assert found["torch"] == ("not installed" if ROBOT.exists() else "blocked")
    assert [(row["skill"], row["seed"]) for row in found["episodes"]] == [
        (skill, 10_000_000 + i) for i in range(2) for skill in ("reach", "push_left")
    ]
    assert set(found["skills"]) == {"reach", "push_left"} and found["stopped"] is None
    assert found["loop"]["steps"] == sum(row["steps"] for row in found["episodes"]) > 0 == found["loop"]["holds"]


def test_a_terminated_run_takes_its_server_along(policy_run):
    code = (
        "import sys, time; from pathlib import Path; from cyclemimic.recipes.remote import served\n"
        "with served(Path(sys.argv[1])) as address: print(address, flush=True); time.sleep(60)"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(policy_run)], stdout=subprocess.PIPE, text=True)
    address = run.stdout.readline().strip()
    PolicyClient(address).close()
    run.terminate()
    assert run.wait(30) == 128 + signal.SIGTERM
    run.stdout.close()
    with pytest.raises(InputError, match="refused"):
        PolicyClient(address)


def test_evaluate_through_a_server_ends_as_in_one_process(policy_run, robot, capfd):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(policy_run), *WORDS[1:], "--episodes", "1", "--through-server"])
    said = capfd.readouterr().out
    assert ended.value.code == 0 and "2 of 2 episodes end as in one process" in said
    assert read_json(policy_run / "remote.json")["equal"] == 2


def test_the_light_install_says_what_it_lacks(robot):
    if not ROBOT.exists():
        pytest.skip("no .venv-robot (make robot)")
    told = subprocess.run([ROBOT, "-m", "cyclemimic", "--help"], capture_output=True, text=True, check=False)
    assert told.returncode == 1 and "cyclemimic[train]" in told.stderr and "cyclemimic drive" in told.stderr
    told = subprocess.run([ROBOT, "-m", "cyclemimic", "drive", "--help"], capture_output=True, text=True, check=False)
    assert told.returncode == 0 and "--server" in told.stdout


def test_help_lists_both():
    told = subprocess.run([sys.executable, "-m", "cyclemimic", "--help"], capture_output=True, text=True, check=True)
    assert "serve" in told.stdout and "drive" in told.stdout


@pytest.fixture
def arms_server():
    """A policy in this process that pushes to one side, and can be told to be sick."""
    world = ArmsWorld()

    class Pusher(Walker):
        def act(self, observation):
            self.asked += 1
            self.before(self.asked)
            return ActionChunk(actions=np.tile(world.action_space.high, (4, 1)), space=world.action_space)

    policy = Pusher()
    hello = Hello(
        policy="pusher", identity="2" * 64, action_space=world.action_space, cameras=(world.camera,), chunk_steps=4
    )
    with serving(policy, hello) as address:
        yield policy, address


@pytest.fixture
def ended(capsys):
    """Runs `drive`; gives the exit code and what was said on both streams."""

    def run(*words):
        with pytest.raises(SystemExit) as end:
            main(["drive", *(str(w) for w in words)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return end.value.code, said.out, said.err

    return run


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("armz",), "Did you mean 'arms'"),
        (("no.such:robot",), "importable"),
        (("tests.robots:Walker",), "makes a Walker without name, action_space, cameras"),
        (("arms", "--body", "arm66"), "Did you mean 'arm6'"),
        (("arms",), "Task.body"),
        (("arms", "--body", "arm6", "--skills", "puch_left"), "Did you mean 'push_left'"),
        (("arms", "--body", "arm6", "--episodes", "0"), "--episodes"),
        (("arms", "--body", "arm6", "--max-step", "x_m:1"), "AXIS=MOST"),
        (("arms", "--body", "arm6", "--max-step", "x=1"), "Did you mean 'x_m'"),
        (("arms", "--body", "arm6", "--rate-hz", "-1"), "--rate-hz"),
        (("arms", "--body", "arm6", "--play-steps", "9"), "--play-steps"),
        (("arms", "--body", "arm6", "--episodes", "many"), "invalid int value"),
        (("arms", "--body", "arm6", "--no-such-flag"), "unrecognized"),
    ],
)
def test_mistakes_are_told_with_exit_code_2(ended, arms_server, words, says):
    code, _, said = ended(*words, "--server", arms_server[1])
    assert code == 2 and says in said


def test_no_server(ended):
    code, _, said = ended(*WORDS, "--server", "ws://127.0.0.1:9")
    assert code == 2 and "ws://127.0.0.1:9" in said and "cyclemimic serve" in said


def test_a_policy_for_another_body(ended):
    with serving(Walker(), HELLO) as address:
        code, _, said = ended(*WORDS, "--server", address)
    assert code == 2 and "x_m m" in said and "grip fraction" in said


def test_a_robot_of_ones_own_is_driven(ended, tmp_path):
    out = tmp_path / "told.json"
    with serving(Walker(), HELLO) as address:
        words = ("--episodes", 2, "--skills", "go", "--out", out, "--overlap-steps", 1, "--blend", 1)
        code, said, _ = ended("tests.robots:Rail", "--server", address, *words)
    assert code == 0 and "go               2 of 2 solved" in said
    found = read_json(out)
    assert [row["steps"] for row in found["episodes"]] == [6, 6] and found["episodes"][0]["body"] == "rail"
    assert found["policy"] == {"name": "walker", "identity": "0" * 64}


def test_a_server_that_dies_midway_keeps_the_results_so_far(ended, tmp_path):
    out, policy, up = tmp_path / "told.json", Walker(), threading.Event()
    server = PolicyServer(policy, HELLO)

    def die(asked):
        if asked == 4:
            server.stop()
            time.sleep(0.3)

    policy.before = die
    thread = threading.Thread(target=server.run, args=(lambda address: up.set(),))
    thread.start()
    assert up.wait(10)
    words = ("--episodes", 5, "--skills", "go", "--out", out, "--max-holds", 2)
    code, said, errors = ended("tests.robots:Rail", "--server", server.address, *words)
    thread.join()
    assert code == 3 and "2 holds in a row" in errors and "cyclemimic serve" in errors
    found = read_json(out)
    # Two answers make an episode; the fourth never came.
    assert [row["success"] for row in found["episodes"]] == [True, False] and "2 holds" in found["stopped"]
    assert found["episodes"][1]["steps"] == 4 and "1 of 2 solved" in said


def test_a_policy_that_gives_nan_stops_the_run(ended, arms_server):
    policy, address = arms_server

    def sick(asked):
        assert asked < 3, "NaN in the weights"

    policy.before = sick
    code, said, errors = ended(*WORDS, "--server", address, "--max-holds", 3, "--episodes", 1)
    assert code == 3 and "NaN in the weights" in errors and "8 steps, 3 holds" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_holds_the_robot_and_keeps_the_results(number, tmp_path):
    out = tmp_path / "told.json"
    with serving(Walker(go=0.3), HELLO) as address:
        command = [sys.executable, "-m", "cyclemimic", "drive", "tests.robots:Rail", "--server", address]
        command += ["--episodes", "99", "--skills", "go", "--realtime", "--out", str(out)]
        driver = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path()}
        )
        assert "rail driven by walker" in driver.stdout.readline()
        time.sleep(1.2)
        driver.send_signal(number)
        said, errors = driver.communicate(timeout=10)
    assert driver.returncode == 3 and "stopped by hand" in errors and "Traceback" not in errors
    found = json.loads(out.read_text())
    assert 1 <= len(found["episodes"]) < 10 and all(row["success"] for row in found["episodes"])
    assert found["torch"] == "not imported" and "torch: not imported" in said
    assert found["loop"]["achieved_hz"] == pytest.approx(SPACE.rate_hz, rel=0.3)


def path():
    return os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
