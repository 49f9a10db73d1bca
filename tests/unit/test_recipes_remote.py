"""A policy over the wire does what it does in one process, number by number."""

import sys

import numpy as np
import pytest

from cyclemimic.errors import InputError
from cyclemimic.evaluate import remote as records
from cyclemimic.evaluate.rollout import EpisodeOutcome, RolloutResult, evaluate_policy
from cyclemimic.evaluate.statistics import success_row
from cyclemimic.recipes import remote
from cyclemimic.robot.client import PolicyClient
from cyclemimic.robot.command import drive
from cyclemimic.robot.control_loop import LoopConfig
from cyclemimic.robot.simulated import SimulatedRobot
from cyclemimic.serve.server import serving
from cyclemimic.store.atomic import write_json
from cyclemimic.types import Task
from cyclemimic.worlds.arms import ArmsWorld
from tests.policies import arms_policy

TASKS = [Task(body="arm6", skill=skill, seed=10_000_000) for skill in ("reach", "push_left", "lift")]


class Remembering(ArmsWorld):
    """Keeps every action that it was given, and the state that it led to."""

    def __init__(self):
        super().__init__()
        self.past = []

    def step(self, action):
        step = super().step(action)
        self.past.append((np.array(action).tobytes(), self.state().tobytes()))
        return step


def test_episodes_over_the_wire_are_those_of_one_process(tmp_path):
    policy = arms_policy()
    policy.save(tmp_path)
    here, there = Remembering(), Remembering()
    result = evaluate_policy(lambda: here, policy, TASKS, chunk_steps=4, batch=1)
    hello = remote.policy_hello(tmp_path, policy)
    assert (hello.policy, hello.chunk_steps, hello.proprioception_width) == (tmp_path.name, 4, 5)
    with serving(policy, hello) as address:
        client = PolicyClient(address)
        driven = drive(SimulatedRobot(there), client, TASKS, LoopConfig())
        client.close()
    assert here.past == there.past and len({action for action, _ in here.past}) > len(here.past) // 2
    write_json(tmp_path / "driven.json", driven.to_json())
    through = records.driven_outcomes(tmp_path / "driven.json")
    assert through.outcomes == result.outcomes and driven.stopped is None
    assert records.count_equal(result, through) == len(TASKS)


def test_the_identity_is_that_of_the_weights(tmp_path):
    found = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        policy = arms_policy(seed)
        (tmp_path / name).mkdir()
        policy.save(tmp_path / name)
        found.append(remote.policy_hello(tmp_path / name, policy).identity)
    assert found[0] == found[1] != found[2]


def test_what_ends_otherwise_is_not_counted_as_equal():
    one, two = (EpisodeOutcome(task=t, success=False, steps=3) for t in TASKS[:2])
    other = EpisodeOutcome(task=TASKS[1], success=False, steps=4)
    more = EpisodeOutcome(task=TASKS[2], success=False, steps=3)
    count = records.count_equal(RolloutResult(outcomes=(one, two)), RolloutResult(outcomes=(one, other, more)))
    assert count == 1


def test_the_record_comes_back_and_says_itself_in_a_line(tmp_path):
    record = records.RemoteRecord(
        success=success_row(3, 4), equal=4, holds=0, latency_p50_ms=7.0, latency_p95_ms=None, robot_torch="blocked"
    )
    records.save_remote(tmp_path / "remote.json", record)
    assert records.load_remote(tmp_path / "remote.json") == record
    assert "75%" in record.text() and "4 of 4" in record.text() and "\n" not in record.text()
    write_json(tmp_path / "other.json", {"episodes": [{"body": 1}]})
    with pytest.raises(InputError, match="drive --out"):
        records.driven_outcomes(tmp_path / "other.json")


def test_which_python_drives(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(remote.ROBOT_PYTHON, raising=False)
    assert remote.robot_command()[0] == sys.executable and "['torch'] = None" in remote.robot_command()[2]
    (tmp_path / ".venv-robot/bin").mkdir(parents=True)
    (tmp_path / ".venv-robot/bin/python").touch()
    assert remote.robot_command()[0] == str(tmp_path / ".venv-robot/bin/python")
    monkeypatch.setenv(remote.ROBOT_PYTHON, "another")
    assert remote.robot_command() == ("another", "-m", "cyclemimic", "drive")


def test_a_server_that_does_not_come_up_is_told(tmp_path):
    with pytest.raises(InputError, match=r"expected a server, got .*network.json"), remote.served(tmp_path):
        pass
