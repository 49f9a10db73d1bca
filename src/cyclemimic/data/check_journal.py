"""What a check has found so far, a line per clip, so that a check that was stopped goes on. Engineering.

    FILE.jsonl    first line: of which source and with which gap; then one `ClipCheck` a line

A line is written once its clip is done; a half line at the end is passed over. Nothing here is needed by training.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cyclemimic.data.axes import ActionRows
from cyclemimic.data.camera import ClipCamera
from cyclemimic.data.check import ClipCheck
from cyclemimic.data.duplicates import ClipLook
from cyclemimic.types import ActionSpace, Axis, ClipInfo

FORMAT = "cyclemimic-check-2"


class CheckJournal:
    """Remembers checks of one source and gap at `path`; those of another are forgotten.

    Args:
        path: the file.
        content: what the findings are of, such as the source's hash.
        gap_s: over which motion was looked for [s].
    """

    def __init__(self, path: Path | str, content: str, gap_s: float) -> None:
        self.path = Path(path)
        self._header = json.dumps({"format": FORMAT, "source": content, "gap_s": gap_s}, sort_keys=True)
        self.known: dict[str, ClipCheck] = {}
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []
        if not lines or lines[0].decode(errors="replace") != self._header:
            lines = [self._header.encode()]
        whole = [lines[0]]
        for line in lines[1:]:
            try:
                check = check_from_json(json.loads(line))
            except (ValueError, KeyError, TypeError):
                break  # written half, or by another version: looking again is the remedy
            self.known[check.info.name] = check
            whole.append(line)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"\n".join(whole) + b"\n")
        self._file: IO[str] | None = None

    def add(self, check: ClipCheck) -> None:
        """Note what was found in one clip."""
        if self._file is None:
            self._file = self.path.open("a", encoding="utf-8")
        self._file.write(json.dumps(check_to_json(check), ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def check_to_json(check: ClipCheck) -> dict[str, Any]:
    """As it lies in the journal."""
    look, actions = check.look, check.actions
    return {
        "info": asdict(check.info),
        "fault": check.fault,
        "remarks": list(check.remarks),
        "cuts": check.cuts.tolist(),
        "pairs": check.pairs,
        "still_pairs": check.still_pairs,
        "repeated": check.repeated,
        "to_move": None if check.to_move is None else _packed(check.to_move),
        "cameras": [[name, *size] for name, size in check.cameras.items()],
        "camera": None if check.camera is None else asdict(check.camera),
        "look": None if look is None else {**asdict(look), "moments": _packed(look.moments)},
        "actions": None if actions is None else {"rows": _packed(actions.rows), "space": _space(actions.space)},
    }


def check_from_json(row: Mapping[str, Any]) -> ClipCheck:
    """What `check_to_json` made."""
    camera, look, actions = row["camera"], row["look"], row["actions"]
    return ClipCheck(
        info=ClipInfo(**row["info"]),
        fault=row["fault"],
        remarks=tuple(row["remarks"]),
        cuts=np.array(row["cuts"], np.int64),
        pairs=row["pairs"],
        still_pairs=row["still_pairs"],
        repeated=row["repeated"],
        to_move=None if row["to_move"] is None else _unpacked(row["to_move"]),
        cameras={name: (height, width) for name, height, width in row["cameras"]},
        camera=None if camera is None else ClipCamera(**{**camera, "worst": tuple(camera["worst"])}),
        look=None if look is None else ClipLook(**{**look, "moments": _unpacked(look["moments"])}),
        actions=None
        if actions is None
        else ActionRows(rows=_unpacked(actions["rows"]), space=_space_from(actions["space"])),
    )


def _packed(array: NDArray[Any]) -> list[Any]:
    return [array.dtype.name, list(array.shape), base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()]


def _unpacked(packed: list[Any]) -> Any:
    name, shape, text = packed
    return np.frombuffer(base64.b64decode(text), np.dtype(name)).reshape(shape).copy()


def _space(space: ActionSpace | None) -> dict[str, Any] | None:
    return None if space is None else asdict(space)


def _space_from(row: Mapping[str, Any] | None) -> ActionSpace | None:
    return None if row is None else ActionSpace(**{**row, "axes": tuple(Axis(**axis) for axis in row["axes"])})
