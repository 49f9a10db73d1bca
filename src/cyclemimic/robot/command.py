"""`cyclemimic drive`: a robot's computer asks a policy server and acts. Needs neither torch nor tyro."""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.names import meets, named
from cyclemimic.robot.client import PolicyClient
from cyclemimic.robot.control_loop import ControlLoop, DrivenEpisode, LoopConfig, LoopReport, StoppedError
from cyclemimic.robot.robot import ROBOTS, Robot
from cyclemimic.serve.wire import Hello
from cyclemimic.store.atomic import write_json
from cyclemimic.types import Task

STOPPED = 3  # exit code: the run ended before its last episode did


@dataclass(frozen=True, kw_only=True)
class Drive:
    """What driving a robot gave: episodes in the order of the tasks, and why there are no more of them."""

    episodes: tuple[DrivenEpisode, ...]
    loop: LoopReport
    hello: Hello
    stopped: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values; the rows of episodes are those of `cyclemimic evaluate`."""
        rows = [{**asdict(e.task), **{k: v for k, v in vars(e).items() if k != "task"}} for e in self.episodes]
        return {
            "episodes": rows,
            "skills": {skill: {"successes": won, "n": n} for skill, (won, n) in self.per_skill().items()},
            "loop": asdict(self.loop),
            "policy": {"name": self.hello.policy, "identity": self.hello.identity},
            "stopped": self.stopped,
            "torch": torch_here(),
        }

    def per_skill(self) -> dict[str, tuple[int, int]]:
        """Episodes solved and driven, by skill, sorted by name."""
        skills = sorted({e.task.skill for e in self.episodes})
        ours = {skill: [e for e in self.episodes if e.task.skill == skill] for skill in skills}
        return {skill: (sum(e.success is True for e in some), len(some)) for skill, some in ours.items()}

    def text(self) -> str:
        """For a person: success by skill, then what the loop did."""
        parts = self.per_skill()
        whole = (sum(won for won, _ in parts.values()), sum(n for _, n in parts.values()))
        lines = [f"{name:16} {won} of {n} solved" for name, (won, n) in {"all": whole, **parts}.items()]
        told = tuple(dict.fromkeys(e.error for e in self.episodes if e.error is not None))
        return "\n".join([*lines, *told, self.loop.text(), f"torch: {torch_here()}"])


def drive(robot: Robot, client: PolicyClient, tasks: Sequence[Task], config: LoopConfig) -> Drive:
    """Drive every task once; too many holds in a row, or Ctrl-C, end it early and keep what there is.

    Raises:
        InputError: the policy is for another body, or the configuration does not fit.
    """
    loop = ControlLoop(robot, client, config)
    episodes: list[DrivenEpisode] = []
    stopped = None
    try:
        for task in tasks:
            episodes.append(loop.run(task))
    except StoppedError as error:
        episodes.append(error.episode)
        stopped = str(error)
    except KeyboardInterrupt:
        stopped = f"stopped by hand in episode {len(episodes) + 1}, which is left out"
    return Drive(episodes=tuple(episodes), loop=loop.report(), hello=client.hello, stopped=stopped)


def torch_here() -> str:
    """Whether torch is in this process, or could be."""
    if sys.modules.get("torch") is not None:
        return "imported"
    if "torch" in sys.modules:
        return "blocked"
    return "not imported" if importlib.util.find_spec("torch") else "not installed"


def parser() -> argparse.ArgumentParser:
    """The flags of `cyclemimic drive`."""
    made = argparse.ArgumentParser(prog="cyclemimic drive", description=__doc__, allow_abbrev=False)
    usual = LoopConfig()

    def flag(name: str, kind: Any, says: str, **more: Any) -> None:
        made.add_argument(name, type=kind, help=says, **more)

    flag("robot", str, f"{', '.join(ROBOTS)}, or package.module:name of something that makes a Robot")
    flag("--server", str, "of `cyclemimic serve`, such as ws://127.0.0.1:8000", required=True)
    flag("--body", str, "which body; the robot's name unless given")
    flag("--skills", str, "what to do; everything that the robot can be asked unless given", nargs="+", default=())
    flag("--episodes", int, "how many per skill", default=20)
    flag("--first-seed", int, "starts are drawn from this number on, and are those of `evaluate`", default=10_000_000)
    flag("--out", Path, "JSON file for the results")
    made.add_argument("--realtime", action="store_true", help="hold the rate by the clock; for everything real")
    flag("--rate-hz", float, "actions per second with --realtime; the robot's unless given")
    flag("--deadline-ms", float, "how long an answer may take with --realtime; one period unless given")
    flag("--play-steps", int, "how many actions of a chunk are taken; all unless given")
    flag("--overlap-steps", int, "ask so many steps ahead, while the robot moves; 0 waits", default=0)
    flag("--max-step", str, "AXIS=MOST per step, tighter than the robot's limits", nargs="+", default=())
    flag("--blend", float, "average overlapping chunks; weight of a chunk relative to the one before (1: equal)")
    flag("--max-holds", int, "so many ticks in a row without a good answer end the run", default=usual.max_holds)
    flag("--max-steps", int, "of an episode, for robots that do not know when time is up")
    flag("--instruction", str, "the sentence for the policy, instead of the robot's own")
    flag("--connect-timeout-s", float, "for the connection and the server's hello", default=10.0)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, 2 for a user's mistake, 3 for a run that was stopped."""
    given = parser().parse_args(arguments)
    torch_before = "torch" in sys.modules
    # A terminated run must hold the robot and keep its results, as after Ctrl-C; and Ctrl-C itself must do so even
    # where a shell started this in the background and told it to ignore that.
    before = {n: signal.signal(n, signal.default_int_handler) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        done = _drive(given)
    except InputError as error:
        print(f"cyclemimic: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cyclemimic: stopped by hand before the first episode", file=sys.stderr)
        return STOPPED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    ours = given.robot in ROBOTS and not torch_before
    assert not ours or torch_here() != "imported", "driving needs no torch, and something imported it"
    print(done.text())
    if given.out is not None:
        write_json(given.out, done.to_json())
    if done.stopped is not None:
        print(f"cyclemimic: {done.stopped}", file=sys.stderr)
        return STOPPED
    return 0


def _drive(given: argparse.Namespace) -> Drive:
    config = LoopConfig(
        realtime=given.realtime,
        rate_hz=given.rate_hz,
        deadline_s=None if given.deadline_ms is None else given.deadline_ms / 1e3,
        play_steps=given.play_steps,
        overlap_steps=given.overlap_steps,
        max_step=_steps(given.max_step),
        blend=given.blend,
        max_holds=given.max_holds,
        max_steps=given.max_steps,
        instruction=given.instruction,
    )
    if given.episodes < 1:
        raise InputError("--episodes", expected="1 or more", got=str(given.episodes), remedy="Leave it out.")
    robot = _robot(given.robot)
    try:
        for skill in given.skills:
            if skill not in robot.skills:
                near = did_you_mean(skill, robot.skills)
                raise InputError("--skills", expected=f"skills of {robot.name!r}", got=repr(skill), remedy=near)
        # In the order of `evaluate`: skill by skill in turn.
        tasks = [
            Task(body=given.body or robot.name, skill=skill, seed=given.first_seed + i)
            for i in range(given.episodes)
            for skill in given.skills or robot.skills
        ]
        robot.reset(tasks[0])  # a wrong body is then said before anything is asked
        client = PolicyClient(given.server, connect_timeout_s=given.connect_timeout_s)
        try:
            print(f"{robot.name} driven by {client.hello.policy} at {client.server}", flush=True)
            return drive(robot, client, tasks, config)
        finally:
            client.close()
    finally:
        robot.close()


def _robot(name: str) -> Robot:
    return meets("ROBOT", name, named("ROBOT", name, ROBOTS)(), Robot)


def _steps(words: Sequence[str]) -> dict[str, float]:
    found = {}
    for word in words:
        axis, _, most = word.partition("=")
        try:
            found[axis] = float(most)
        except ValueError:
            raise InputError(
                "--max-step", expected="AXIS=MOST, such as x_m=0.01", got=repr(word), remedy="Write it like that."
            ) from None
    return found


if __name__ == "__main__":
    sys.exit(main())
