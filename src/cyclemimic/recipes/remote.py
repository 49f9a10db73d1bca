"""A policy behind a server, and a robot that is driven by it in another process: what `serve` and the demo do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from cyclemimic.errors import InputError
from cyclemimic.evaluate.remote import RemoteRecord, count_equal, driven_outcomes, save_remote
from cyclemimic.evaluate.rollout import evaluate_policy
from cyclemimic.policy.network import NETWORK_FILE, WEIGHTS_FILE
from cyclemimic.policy.policy import POLICY_FILE, LatentActionPolicy
from cyclemimic.recipes.acting import policy_for
from cyclemimic.recipes.footage import chosen
from cyclemimic.recipes.stations import make_world
from cyclemimic.robot.robot import ROBOTS
from cyclemimic.serve.server import PolicyServer
from cyclemimic.serve.wire import Hello
from cyclemimic.store.atomic import read_json, sha256_file, sha256_json

ROBOT_PYTHON = "CYCLEMIMIC_ROBOT_PYTHON"
_UP_S, _DRIVE_S = 120.0, 900.0
# Stands in for an environment without torch where there is none.
_WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from cyclemimic.robot.command import main; sys.exit(main())"


def policy_hello(run: Path, policy: LatentActionPolicy) -> Hello:
    """What a server of the policy in folder `run` says first."""
    body = policy.body
    files = {name: sha256_file(run / name) for name in (WEIGHTS_FILE, NETWORK_FILE, POLICY_FILE)}
    return Hello(
        policy=run.name or run.resolve().name,
        identity=sha256_json(files),
        action_space=body.action_space,
        cameras=(body.camera, *(camera for camera in body.extra_cameras if camera is not None)),
        chunk_steps=policy.chunk_steps,
        proprioception_width=None if body.proprioception is None else body.proprioception.width,
    )


def serve_policy(run: Path, *, host: str, port: int, device: str, body: str | None = None) -> None:
    """Serve the policy in folder `run`, for `body` of several that it knows, until SIGTERM or SIGINT.

    Prints the address.
    """
    policy = policy_for(run, body, device)
    hello = policy_hello(run, policy)
    server = PolicyServer(policy, hello, host=host, port=port)
    server.run(lambda address: print(f"serving {hello.policy} at {address}", flush=True))
    print("stopped", flush=True)


def robot_command() -> tuple[str, ...]:
    """How `cyclemimic drive` is started in the robot's environment.

    That is the Python in the variable CYCLEMIMIC_ROBOT_PYTHON, or of .venv-robot here (`make robot`), or else this
    one, with torch blocked.
    """
    named = os.environ.get(ROBOT_PYTHON)
    beside = Path(".venv-robot/bin/python")
    if named or beside.exists():
        return (named or str(beside.absolute()), "-m", "cyclemimic", "drive")
    return (sys.executable, "-c", _WITHOUT_TORCH)


@contextlib.contextmanager
def served(run: Path, body: str | None = None) -> Iterator[str]:
    """`cyclemimic serve` in a process of its own, at any free port; gives its address.

    Raises:
        InputError: it did not come up; shows what it said.
    """
    # Ended by a signal, this process must take the server along; the default would leave it behind, still listening.
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number)) if main else None
    command = [
        sys.executable,
        "-m",
        "cyclemimic",
        "serve",
        str(run),
        "--port",
        "0",
        *(["--body", body] if body else []),
    ]
    command += ["--threads", str(torch.get_num_threads())]  # the last bits of a sum depend on it
    with tempfile.TemporaryFile("w+") as said:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, stdin=subprocess.DEVNULL)
        assert server.stdout is not None
        # A server that never speaks is ended, which ends the wait for its line.
        watch = threading.Timer(_UP_S, server.kill)
        watch.start()
        try:
            line = server.stdout.readline()
            watch.cancel()
            _, _, address = line.rpartition(" at ")
            if not address.startswith("ws://"):
                said.seek(0)
                tail = said.read()[-2000:].strip() or "nothing"
                raise InputError(f"serve {run}", expected="a server", got=tail, remedy="Is this a policy's run?")
            yield address.strip()
        finally:
            watch.cancel()
            server.terminate()
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
            server.stdout.close()
            server.wait()
            if main:
                signal.signal(signal.SIGTERM, before)


def run_remote(
    run: Path,
    world_name: str,
    *,
    body: str,
    skills: Sequence[str],
    episodes: int,
    first_seed: int,
    out: Path,
) -> RemoteRecord:
    """Drive a world by a served policy, and compare with the same episodes in this process.

    Writes `driven.json` (every episode, and what the control loop did) and `remote.json` (the record).

    Raises:
        InputError: this world cannot be driven, or one of the two processes failed; shows what it said.
    """
    chosen("world", [world_name], tuple(ROBOTS))
    world = make_world(world_name)
    chosen("body", [body], world.bodies)
    names = chosen("skills", skills, world.skills)
    policy = policy_for(run, body)
    driven = out / "driven.json"
    words = ["--body", body, "--skills", *names, "--episodes", str(episodes), "--first-seed", str(first_seed)]
    with served(run, body) as address:
        command = [*robot_command(), world_name, "--server", address, *words, "--out", str(driven.absolute())]
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_DRIVE_S)
    if told.returncode != 0:
        raise InputError(
            "cyclemimic drive",
            expected="exit code 0",
            got=f"{told.returncode}: {told.stderr.strip()[-2000:]}",
            remedy="Read what it says.",
        )
    through = driven_outcomes(driven)
    # One at a time, as the server acts: in a batch the last bits of a sum may differ.
    here = evaluate_policy(
        lambda: world,
        policy,
        [o.task for o in through.outcomes],
        chunk_steps=policy.chunk_steps,
        batch=1,
    )
    found = read_json(driven)
    record = RemoteRecord(
        success=through.row(),
        equal=count_equal(here, through),
        holds=found["loop"]["holds"],
        latency_p50_ms=found["loop"]["latency_p50_ms"],
        latency_p95_ms=found["loop"]["latency_p95_ms"],
        robot_torch=found["torch"],
    )
    save_remote(out / "remote.json", record)
    return record
