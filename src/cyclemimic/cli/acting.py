"""What acts: a policy behind a server, a robot that asks it, and the whole journey."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

from cyclemimic.recipes import demo as demo_recipe
from cyclemimic.recipes import remote
from cyclemimic.train.loop import use_threads


def serve(
    policy: tyro.conf.Positional[Path],
    host: str = "127.0.0.1",
    port: int = 8000,
    body: str | None = None,
    threads: int = 1,
    device: str = "cpu",
) -> None:
    """Let robots ask a policy: a websocket that `cyclemimic drive` talks to. Ctrl-C or SIGTERM ends it.

    Args:
        policy: a run of `cyclemimic finetune`.
        host: where to listen. There is no password: other machines only in a network that you trust.
        port: 0 takes any free one; the address is printed.
        body: which, of a policy that knows several.
        threads: of one core each.
        device: cpu, cuda, cuda:1 ...
    """
    use_threads(threads)
    remote.serve_policy(policy, host=host, port=port, device=device, body=body)


def drive() -> None:
    """Drive a robot, or the simulated arms, by a policy server. Needs no torch; see `cyclemimic drive --help`."""
    raise AssertionError("`main` hands this verb on before tyro sees it")


def demo(run: Path = Path("runs/demo"), quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False) -> None:
    """The whole journey on simulated arms: from video to a robot that acts, on two cores.

    Args:
        run: folder for everything; started again it goes on.
        quick: a few minutes instead of a quarter of an hour; its numbers mean nothing.
    """
    sys.exit(demo_recipe.run_demo(run, quick=quick))
