"""Demonstrations in HDF5 as LIBERO and robomimic write them: one file per task, `data/demo_N` per episode. Engineering.

Files are opened by a child process (`hdf5_demos`), because HDF5's C library crashes or hangs over some damaged ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cyclemimic.data.apart import Answer, reader
from cyclemimic.data.oxe import OSC_POSE
from cyclemimic.data.parts import MAX_CLIP_BYTES
from cyclemimic.data.sources.hdf5_demos import state_layout
from cyclemimic.data.sources.places import Options, Place, one_of, path_and_options
from cyclemimic.data.sources.remote import at_hand
from cyclemimic.data.video import natural_key
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.store.atomic import sha256_json
from cyclemimic.types import ClipInfo, Episode

EXTENSIONS = (".hdf5", ".h5")
CHILD = "cyclemimic.data.sources.hdf5_demos"
MEMORY_BYTES = 2 * MAX_CLIP_BYTES + (1 << 30)  # pictures as they lie in the file and turned upright, and the child
PATIENCE_S, SLOWEST_BYTES_S = 30.0, 4e6  # how long one reading may take: some seconds, and the file at this rate
_UNKNOWN_HZ = 20.0  # of a file that cannot be read
_STATE_AXES = tuple(axis for part in state_layout("place", "turn", "fingers").parts for axis in part.axes)
_DAMAGED = "The file is cut short or damaged; download it again."


@dataclass(frozen=True, kw_only=True)
class _Demo:
    """One demonstration: where it lies and what can be said of it without reading a picture."""

    file: str
    group: str | None  # None where the file cannot be read
    info: ClipInfo
    fault: InputError | None = None


class Hdf5Source:
    """The demonstrations of all HDF5 files in a folder and below, or of one file.

    LIBERO stores pictures as OpenGL draws them, lowest row first; they are turned upright. A file that cannot be
    opened is listed as one clip of 0 frames.

    Args:
        path: the folder or file, or its URL: then it is copied to this disk once. Behind `?` may follow, joined by
            `&`: `upright=` `auto`, `flip` (rows reversed),
            `rotate` (by half a turn, which also swaps left and right, as LIBERO-RLDS has it) or `keep`;
            `noops=drop`, which leaves out steps in which the arm is told to stay and the gripper is told nothing new;
            `cameras=all`, which reads the cameras beside the main one too.
        patience_s: how long reading something of a file may take, beside the time that its bytes take at a slow rate.
    """

    def __init__(self, path: Path | str, *, patience_s: float = PATIENCE_S) -> None:
        known: Options = {
            "upright": one_of("auto", "flip", "rotate", "keep"),
            "noops": one_of("keep", "drop"),
            "cameras": one_of("main", "all"),
        }
        text, self._options = path_and_options(path, known)
        self.path, self.origin = at_hand(text, EXTENSIONS)
        self.name, self.patience_s = f"hdf5:{path}", patience_s
        alone = self.path.is_file()
        self._root = self.path.parent if alone else self.path
        self._place = Place(self._root)
        if alone:
            self._files = [self.path.name]
        else:
            below = (f for f in self.path.rglob("*") if f.suffix.lower() in EXTENSIONS and f.name[0] != ".")
            self._files = sorted((f.relative_to(self.path).as_posix() for f in below), key=natural_key)
        if not self._files:
            remedy = "LIBERO keeps one per task; name the folder that holds them."
            raise InputError(self.path, expected="HDF5 files (.hdf5, .h5)", got="none, here or below", remedy=remedy)
        self._remarks: dict[str, tuple[str, ...]] = {}

    def clips(self) -> Sequence[ClipInfo]:
        """Every demonstration, in natural order of files and of names within."""
        return tuple(demo.info for demo in self._demos.values())

    def read(self, clip: ClipInfo) -> Episode:
        """Read one demonstration.

        Raises:
            InputError: there is no such demonstration, or its file or a field of it cannot be read; names it.
            LostReaderError: HDF5 crashed over it, or hung; an InputError too.
        """
        demo = self._demos.get(clip.name)
        if demo is None:
            hint = did_you_mean(clip.name, list(self._demos)[:20])
            raise InputError(self.name, expected="a demonstration of these files", got=repr(clip.name), remedy=hint)
        if demo.fault is not None:
            raise demo.fault
        answer = self._asked(demo.file, demo.group)
        cameras, others = answer.facts["cameras"], answer.facts["others"]
        main, *extra = answer.arrays[: len(cameras)]
        numbers = dict(zip(others, answer.arrays[len(cameras) :], strict=True))
        actions = numbers.get("actions")
        return Episode(
            info=demo.info,
            frames=main,
            actions=actions,
            proprioception=numbers.get("proprioception"),
            proprioception_axes=_STATE_AXES if "proprioception" in numbers else (),
            action_space=None if actions is None else OSC_POSE.space(demo.info.embodiment, demo.info.fps),
            camera=cameras[0],
            extra_frames=dict(zip(cameras[1:], extra, strict=True)),
        )

    def remarks_of(self, clip: ClipInfo) -> tuple[str, ...]:
        """Why a file's actions are left out, on its first demonstration; how many steps were dropped."""
        return self._remarks.get(clip.name, ())

    def fingerprint(self) -> str:
        """A hash of the facts and options, and of the sizes and the first and last 64 KB of the files."""
        content = [[name, *self._place.content_of(name)] for name in self._files]
        return sha256_json([[asdict(clip) for clip in self.clips()], content, self._options])

    @cached_property
    def _demos(self) -> dict[str, _Demo]:
        found: dict[str, _Demo] = {}
        for file in self._files:
            try:
                demos = self._demos_of(file)
            except InputError as error:
                info = ClipInfo(name=file, embodiment="unknown", fps=_UNKNOWN_HZ, num_frames=0)
                demos = [_Demo(file=file, group=None, info=info, fault=error)]
            found |= {demo.info.name: demo for demo in demos}
        return found

    def _demos_of(self, file: str) -> list[_Demo]:
        told = self._asked(file, None).facts
        found = sorted(told["demos"], key=lambda demo: natural_key(demo["group"]))
        if not found:
            where = self._place.where(file)
            raise InputError(where, expected="demonstrations data/demo_N", got="none", remedy=_DAMAGED)
        demos = [self._demo(file, demo, told["about"]) for demo in found]
        if told["refusal"] is not None:
            remark, first = f"actions of {file} are left out: {told['refusal']}", demos[0].info.name
            self._remarks[first] = (*self._remarks.get(first, ()), remark)
        return demos

    def _demo(self, file: str, found: Mapping[str, Any], about: Mapping[str, Any]) -> _Demo:
        info = ClipInfo(name=f"{file}/{found['group']}", num_frames=int(found["frames"]), **about)
        fault = None
        if found["fault"] is not None:
            place, expected, got, remedy = found["fault"]
            fault = InputError(place, expected=expected, got=got, remedy=remedy)
        elif found["frames"] < found["steps"]:
            dropped = f"{found['steps'] - found['frames']} of {found['steps']} steps say nothing and were dropped"
            self._remarks[info.name] = (dropped,)
        return _Demo(file=file, group=found["group"], info=info, fault=fault)

    def _asked(self, file: str, demo: str | None) -> Answer:
        """What the child says of a file, or of one demonstration in it."""
        request = {
            "file": str((self._root / file).absolute()),
            "where": self._place.where(file),
            "max_bytes": MAX_CLIP_BYTES,
            "options": self._options,
            "demo": demo,
        }
        patience_s = self.patience_s + self._place.size_of(file) / SLOWEST_BYTES_S
        if demo is None:
            self._place.mark(file)  # what is in it is asked now; demonstrations are read later
        answer = reader(CHILD, memory_bytes=MEMORY_BYTES).ask(
            request, where=str(request["where"]), patience_s=patience_s
        )
        self._place.refuse_changed(file)
        return answer
