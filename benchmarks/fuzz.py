"""Damaged input for everything that reads what others wrote: it is read, or refused with an InputError, and no more.

python benchmarks/fuzz.py [--inputs 10000] [--only NAME ...] [--go-on] [--out FILE.json]

Each parser gets sound inputs in which some bytes are changed, cut, doubled or put in; input i of a parser depends on
the seed and i alone. A parser runs in a process of its own with little memory and a clock for each input, so that a
crash or a hang of a library below us is counted too, and ends nothing. `lost` counts those among the refused for which
the child that reads HDF5 crashed or hung. With --only, what FILE says of the other parsers is kept. FILE is written as
counts grow, and with --go-on a parser begins behind the inputs that FILE counts for it. Exit status 1 where anything
else than an InputError came out.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import resource
import signal
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cyclemimic.data.apart import LostReaderError
from cyclemimic.data.pickled import plain_values
from cyclemimic.data.sources.calvin import CalvinSource
from cyclemimic.data.sources.folder import read_sidecar
from cyclemimic.data.sources.hdf5 import Hdf5Source
from cyclemimic.data.sources.rlds import RldsSource
from cyclemimic.data.sources.webdataset import WebDatasetSource
from cyclemimic.data.tfexample import decoded, feature_spans
from cyclemimic.data.tfrecord import FOOTER_BYTES, checked_content, framed, record_spans
from cyclemimic.embodiment.arms import ARMS_ACTION_SPACE
from cyclemimic.errors import InputError
from cyclemimic.evaluate.pages import this_machine
from cyclemimic.serve.wire import Answer, Hello, Refusal, Request, pack, unpack
from cyclemimic.store.atomic import read_json, write_json
from cyclemimic.types import CameraSpec, Observation

HERE = Path(__file__).parent
FIXTURES = HERE.parent / "tests" / "fixtures"
RLDS_SHARD, HDF5_FILE = "bridge_dataset-train.tfrecord-00000-of-00002", "image.hdf5"
MEMORY_BYTES, CLOCK_S = 4 << 30, 20
HDF5_PATIENCE_S = 2  # its child is given up long before the clock of an input runs out
SEED = 0
TELL_INPUTS = 250  # after so many the counts are written
_KINDS = ("read", "refused", "lost", "other", "crashed", "hung")
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None  # a file per input: in memory where there is such a folder
_TEMPTING = (b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7, b"\x80" * 10, b"\xff" * 4, b"\x80\0\0\0", b"\0")


def mutated(sound: bytes, rng: np.random.Generator) -> bytes:
    """One to four damages to a sound input."""
    content = bytearray(sound)
    for _ in range(rng.integers(1, 5)):
        if not content:
            break
        at, kind = int(rng.integers(len(content))), int(rng.integers(8))
        length = int(rng.integers(1, 1 + min(64, len(content) - at)))
        if kind <= 2:
            content[at] = int(rng.integers(256))
        elif kind == 3:
            content[at] ^= 1 << int(rng.integers(8))
        elif kind == 4:
            del content[at : at + length]
        elif kind == 5:
            content[at:at] = content[at : at + length]
        elif kind == 6:
            word = _TEMPTING[rng.integers(len(_TEMPTING))]
            content[at : at + len(word)] = word
        elif rng.integers(4) == 0:
            del content[at:]
    return bytes(content)


class Parser:
    """One parser: sound inputs, and what reads a damaged one."""

    def __init__(self, sound: list[bytes], read: Callable[[bytes], object]) -> None:
        self.sound, self.read = sound, read


def _records() -> list[bytes]:
    file = (FIXTURES / "rlds" / RLDS_SHARD).read_bytes()
    return [file[start : start + length] for start, length in record_spans(file, RLDS_SHARD)]


def _read_frames(content: bytes) -> None:
    for start, length in record_spans(content, "shard"):
        checked_content(content[start : start + length + FOOTER_BYTES], length, "record")


def _read_example(content: bytes) -> None:
    for name, parts in feature_spans(content, "record").items():
        decoded(parts, name)


def _read_all(source: object) -> None:
    """List and read every clip; a refused one ends nothing, and is told once all were tried."""
    refused = None
    for clip in source.clips():
        try:
            source.read(clip)
        except InputError as error:
            refused = error
    if refused is not None:
        raise refused


def parsers(folder: Path) -> dict[str, Parser]:
    """All parsers by name; files that they read lie in `folder`."""
    rlds, calvin, tars = folder / "rlds", folder / "calvin", folder / "tars"
    for name in ("rlds", "calvin", "tars"):
        (folder / name).mkdir()
    for name in ("dataset_info.json", "features.json", RLDS_SHARD):
        (rlds / name).write_bytes((FIXTURES / "rlds" / name).read_bytes())

    def rlds_record(content: bytes) -> None:
        (rlds / RLDS_SHARD).write_bytes(framed(content) + framed(records[1]))
        source = RldsSource(rlds)
        source.read(source.clips()[1])  # a bad episode never stops the next
        source.read(source.clips()[0])

    def rlds_facts(content: bytes) -> None:
        (rlds / RLDS_SHARD).write_bytes(b"".join(framed(r) for r in records))
        (rlds / "features.json").write_bytes(content)
        _read_all(RldsSource(rlds))

    def sidecar(content: bytes) -> None:
        (folder / "clips.jsonl").write_bytes(content)
        read_sidecar(folder / "clips.jsonl")

    def hdf5(content: bytes) -> None:
        (folder / HDF5_FILE).write_bytes(content)
        _read_all(Hdf5Source(folder / HDF5_FILE, patience_s=HDF5_PATIENCE_S))

    def tar(content: bytes) -> None:
        (tars / "x.tar").write_bytes(content)
        _read_all(WebDatasetSource(tars))

    step = {
        "rgb_static": np.full((5, 7, 3), 9, np.uint8),
        "rel_actions": np.zeros(7),
        "robot_obs": np.zeros(15),
    }
    for number in (0, 1):
        np.savez(calvin / f"episode_{number:07d}.npz", **step)
    np.save(calvin / "ep_start_end_ids.npy", np.array([[0, 1]]))

    def npz(content: bytes) -> None:
        (calvin / "episode_0000001.npz").write_bytes(content)
        _read_all(CalvinSource(calvin))

    records = _records()
    frames = [(FIXTURES / "rlds" / RLDS_SHARD).read_bytes()]
    example = [*records, (FIXTURES / "rlds" / "sequence.tfrecord").read_bytes()[12:-4]]
    rows = '{"file": "a/1.mp4", "embodiment": "arm", "fps": 10, "instruction": "schön"}\n{"file": "b.mp4"}\n'
    return {
        "wire.unpack": Parser(_messages(), unpack),
        "folder.read_sidecar": Parser([rows.encode()], sidecar),
        "tfrecord frames": Parser(frames, _read_frames),
        "tfexample": Parser(example, _read_example),
        "rlds record": Parser(records[:1], rlds_record),
        "rlds features.json": Parser([(rlds / "features.json").read_bytes()], rlds_facts),
        "webdataset tar": Parser([_tar()], tar),
        "calvin npz": Parser([(calvin / "episode_0000001.npz").read_bytes()], npz),
        "pickled": Parser([_annotations(2), _annotations(4)], lambda content: plain_values(content, "pickle")),
        "hdf5": Parser([(FIXTURES / "hdf5" / HDF5_FILE).read_bytes()], hdf5),
    }


def _messages() -> list[bytes]:
    camera = CameraSpec(name="front", height_px=5, width_px=7)
    seen = Observation(
        images={"front": np.zeros((5, 7, 3), np.uint8)}, instruction="push", proprioception=np.zeros(3, np.float32)
    )
    space = ARMS_ACTION_SPACE
    return [
        pack(Hello(policy="p", identity="a" * 64, action_space=space, cameras=(camera,), chunk_steps=3)),
        pack(Request(number=1, observation=seen)),
        pack(Answer(number=1, actions=np.zeros((3, 5), np.float32), policy_ms=1.5)),
        pack(Refusal(number=None, kind="message", text="no")),
    ]


def _tar() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        members: dict[str, bytes] = {"a/k.json": b'{"fps": 4}', "a/k.txt": b"push"}
        for t in range(2):
            picture = io.BytesIO()
            Image.fromarray(np.full((5, 7, 3), 40 + t, np.uint8)).save(picture, "PNG")
            members[f"a/k.{t}.png"] = picture.getvalue()
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _annotations(protocol: int) -> bytes:
    value = {"language": {"ann": ["push", "ö"], "emb": np.zeros(2)}, "info": {"indx": [(1, np.int64(2)), (3, 4)]}}
    return pickle.dumps(value, protocol)


def run(
    name: str, inputs: int, before: Mapping[str, Any] | None = None, tell: Callable[[dict[str, object]], None] = print
) -> dict[str, object]:
    """Counts of what a parser did with damaged inputs.

    Args:
        name: the parser.
        inputs: how many, those of `before` included.
        before: what an earlier run counted; its inputs are not done again.
        tell: is given the counts so far, now and then.
    """
    counts, done, start = Counter[str](), 0, time.monotonic()
    others: list[str] = []
    commits, spent_s = [this_machine().commit], 0.0
    if before is not None:
        counts.update({kind: before[kind] for kind in _KINDS if kind in before})
        done, others, spent_s = before["inputs"], list(before["examples"]), before["wall_s"]
        earlier = str(before["commit"]).split(", ")
        commits = [*earlier, *(one for one in commits if one not in earlier)]

    def found() -> dict[str, object]:
        seconds = round(spent_s + time.monotonic() - start, 1)
        kinds = {kind: counts[kind] for kind in _KINDS}
        return {"inputs": done, **kinds, "wall_s": seconds, "commit": ", ".join(commits), "examples": others[:5]}

    while done < inputs:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _work(name, done, inputs, writer)
        os.close(writer)
        with os.fdopen(reader) as lines:
            for line in lines:
                outcome, _, said = line.rstrip("\n").partition("\t")
                counts[outcome] += 1
                done += 1
                if outcome == "lost":
                    counts["refused"] += 1
                if outcome == "other":
                    others.append(f"input {done - 1}: {said}")
                if done % TELL_INPUTS == 0:
                    tell(found())
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            hung = os.WTERMSIG(status) == signal.SIGALRM
            counts["hung" if hung else "crashed"] += 1
            others.append(f"input {done}: signal {os.WTERMSIG(status)}")
            done += 1
    return found()


def _work(name: str, first: int, inputs: int, writer: int) -> None:
    """The child: one line for each input, then it is gone."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with tempfile.TemporaryDirectory(dir=FAST) as folder, os.fdopen(writer, "w") as lines:
        parser = parsers(Path(folder))[name]
        for i in range(first, inputs):
            rng = np.random.default_rng([SEED, i])
            content = mutated(parser.sound[i % len(parser.sound)], rng)
            signal.setitimer(signal.ITIMER_REAL, CLOCK_S)
            try:
                parser.read(content)
                said = "read"
            except InputError as error:
                said = "lost" if isinstance(error, LostReaderError) else "refused"
            except BaseException as error:  # noqa: BLE001  whatever it is, it is what we look for
                said = f"other\t{type(error).__name__}: {str(error)[:200]!r}"
            lines.write(said + "\n")
            lines.flush()
        signal.setitimer(signal.ITIMER_REAL, 0)
    os._exit(0)


def _kept(path: Path) -> dict[str, dict[str, object]]:
    """What a file says of the parsers, unless they saw other inputs."""
    before = read_json(path) if path.exists() else {}
    if before.get("seed") != SEED:
        return {}
    return {name: {"commit": before["machine"]["commit"], **counts} for name, counts in before["parsers"].items()}


def main() -> int:
    """Run the parsers that are asked for, and write the counts."""
    ask = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    ask.add_argument("--inputs", type=int, default=10_000)
    ask.add_argument("--only", nargs="*", default=[])
    ask.add_argument("--go-on", action="store_true", help="begin behind the inputs that FILE counts")
    ask.add_argument("--out", type=Path, default=HERE / "results" / "fuzz.json")
    args = ask.parse_args()
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        names = [name for name in parsers(Path(folder)) if not args.only or name in args.only]
    found = _kept(args.out) if args.only or args.go_on else {}

    def write(name: str, counts: dict[str, object]) -> None:
        found[name] = counts
        machine = asdict(this_machine())
        write_json(args.out, {"seed": SEED, "memory_bytes": MEMORY_BYTES, "parsers": found, "machine": machine})

    for name in names:
        write(name, run(name, args.inputs, found.get(name) if args.go_on else None, partial(write, name)))
        print(f"{name:22} {found[name]}", flush=True)
    found = {name: found[name] for name in names}
    bad = [name for name, c in found.items() if c["other"] or c["crashed"] or c["hung"]]
    print(f"only InputErrors came out of {len(found) - len(bad)} of {len(found)} parsers")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
