"""`cyclemimic` and `python -m cyclemimic`: hands `drive` on before anything heavy is imported."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> None:
    """Run one verb. A robot's computer has neither torch nor tyro, and `drive` needs neither."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["drive"]:
        from cyclemimic.robot.command import main as drive

        sys.exit(drive(words[1:]))
    from cyclemimic.cli import main as verbs

    verbs(words)


if __name__ == "__main__":
    main()
