"""One verb per station, in the order in which data travels."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from cyclemimic.errors import InputError
from cyclemimic.robot.command import main as drive_command

try:
    import tyro

    from cyclemimic.cli.acting import demo, drive, serve
    from cyclemimic.cli.judging import ablate, doctor, evaluate, report
    from cyclemimic.cli.learning import finetune, pretrain, tokenizer
    from cyclemimic.cli.video import data, film, inspect, label
    from cyclemimic.train.endings import RunEndedError
    from cyclemimic.train.processes import processes
except ModuleNotFoundError as missing:
    sys.exit(
        f"cyclemimic: {missing.name} is not installed; the command line needs: pip install 'cyclemimic[train]' "
        "(all but `cyclemimic drive`, which needs the light install alone)"
    )

VERBS: dict[str, Callable[..., Any]] = {
    verb.__name__: verb
    for verb in (
        film, data, tokenizer, label, pretrain, finetune, evaluate, inspect, serve, drive, ablate, report, doctor, demo,
    )
}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Run one verb; a mistake of the user is one message and exit code 2."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["drive"]:
        sys.exit(drive_command(words[1:]))
    try:
        with processes():  # one, or those of torchrun
            tyro.extras.subcommand_cli_from_dict(
                VERBS,
                prog="cyclemimic",
                description="Learn robot actions from video that has no action labels.",
                args=arguments,
            )
    except InputError as error:
        sys.exit(_say(error, 2))
    except RunEndedError as error:
        sys.exit(_say(error, error.exit_code))
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stdout = None
        sys.exit(0)


def _say(error: Exception, code: int) -> int:
    print(f"cyclemimic: {error}", file=sys.stderr)
    return code
