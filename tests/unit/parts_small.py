"""A measurement of five parts as a command: `python parts_small.py FOLDER`, which waits in the third unless FOLDER/go.

FOLDER/made.txt has a line for each part that was made; FOLDER/result.json is the measurement.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from cyclemimic.evaluate.parts import parts_of
from cyclemimic.store.atomic import write_json
from cyclemimic.train.endings import RunEndedError
from cyclemimic.train.signals import ended_at_once

COUNT, MIDDLE = 5, 3


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measure."""

    value: float


def main(folder):
    def made(number):
        if number == MIDDLE and not (folder / "go").exists():
            (folder / "reached").touch()
            time.sleep(600)
        with (folder / "made.txt").open("a") as file:
            file.write(f"{number}\n")
        return Figure(value=number / 3)

    with ended_at_once("What was measured is kept."):
        parts = parts_of(folder, "measurement", "of these weights")
        figures = [parts.figures(f"part {i}", Figure, lambda i=i: made(i)).value for i in range(COUNT)]
        write_json(folder / "result.json", {"figures": figures})
        parts.remove()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except RunEndedError as ended:
        print(ended)
        sys.exit(ended.exit_code)
