"""Patch features of every frame of a frame cache, as a memory map with an index. Numpy only. Engineering.

    FOLDER/features.bin     a record per frame, in the order of the frame cache: patches [N, C], and for int8 behind
                            them the scale of each patch, float32 [N]
    FOLDER/features.json    what it was made from, and the sha256 of every shard, a run of frames

While it is being built it lies in `features.bin.part` with `journal.jsonl` beside it: a line per finished shard,
written after the shard is on disk. A build that was killed goes on behind the last whole line.

Letters in shapes: F frames of the cache, B frames that are read, N patches, C channels.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType

import numpy as np

from cyclemimic.errors import InputError
from cyclemimic.store.atomic import read_json, sync_folder, write_json
from cyclemimic.store.feature_rows import FORMAT, FeatureRecipe, FeatureRows, recipe_from_json, unpacked
from cyclemimic.types import Int64, UInt8

FEATURES, FEATURE_INDEX = "features.bin", "features.json"
FEATURE_PART, FEATURE_JOURNAL = "features.bin.part", "journal.jsonl"
REMEDY = "Delete the folder; the features are made again."


@dataclass(frozen=True, kw_only=True)
class FeatureShard:
    """A run of frames: how many, and the sha256 of their records."""

    frames: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """A finished feature cache, opened for reading. `records` is a read-only memory map of bytes [F, bytes]."""

    records: UInt8
    recipe: FeatureRecipe
    shards: tuple[FeatureShard, ...]
    folder: Path

    @classmethod
    def open(cls, folder: Path | str, wanted: FeatureRecipe | None = None, *, verify: bool = False) -> FeatureCache:
        """Open a feature cache.

        Args:
            folder: where it lies.
            wanted: what it must have been made from; None takes what is there.
            verify: also read every record and compare checksums.

        Raises:
            InputError: there is no finished feature cache here, it is damaged, or it was made from something else.
        """
        folder = Path(folder)
        if not (folder / FEATURE_INDEX).exists():
            half = (folder / FEATURE_JOURNAL).exists()
            raise InputError(
                folder,
                expected=f"a feature cache ({FEATURE_INDEX} and {FEATURES})",
                got="one whose building was cut off" if half else "none",
                remedy="Run `cyclemimic tokenizer ... --features cache`; "
                + ("it goes on." if half else "it makes it."),
            )
        recipe, shards = _read_index(folder / FEATURE_INDEX)
        if wanted is not None and recipe != wanted:
            raise _foreign(folder / FEATURE_INDEX, recipe, wanted)
        path = folder / FEATURES
        size_bytes = path.stat().st_size if path.exists() else 0
        if size_bytes != recipe.num_bytes:
            expected = f"features of {recipe.num_frames} frames ({recipe.num_bytes} bytes)"
            raise InputError(path, expected=expected, got=f"{size_bytes} bytes", remedy=REMEDY)
        records = np.memmap(path, np.uint8, "r", shape=(recipe.num_frames, recipe.frame_bytes))
        cache = cls(records=records, recipe=recipe, shards=shards, folder=folder)
        if verify:
            cache.verify()
        return cache

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.records)

    def take(self, rows: Int64 | slice) -> FeatureRows:
        """The features of the frames in these rows [B] of the frame cache; read now."""
        return unpacked(np.asarray(self.records[rows]), self.recipe)

    def verify(self) -> None:
        """Read every record; raise InputError that names the frames whose records changed."""
        start, bad = 0, []
        for shard in self.shards:
            stop = start + shard.frames
            if hashlib.sha256(np.ascontiguousarray(self.records[start:stop]).data).hexdigest() != shard.sha256:
                bad.append(f"frames {start} to {stop - 1}")
            start = stop
        if bad:
            expected = "records with the checksums of the index"
            got = f"others in {', '.join(bad[:5])}"
            raise InputError(self.folder / FEATURES, expected=expected, got=got, remedy=REMEDY)


class FeatureCacheWriter:
    """Writes a feature cache shard by shard; on a half-built one of the same recipe it goes on where that stopped."""

    def __init__(self, folder: Path | str, recipe: FeatureRecipe) -> None:
        self.folder, self.recipe = Path(folder), recipe
        self.folder.mkdir(parents=True, exist_ok=True)
        self._shards: list[FeatureShard] = []
        self._recover()
        self._records = (self.folder / FEATURE_PART).open("ab")
        self._journal = (self.folder / FEATURE_JOURNAL).open("a", encoding="utf-8")

    def __enter__(self) -> FeatureCacheWriter:
        """Close the files at the end of the block, whatever happens."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._records.close()
        self._journal.close()

    @property
    def num_done(self) -> int:
        """Frames whose features are written."""
        return sum(shard.frames for shard in self._shards)

    def add(self, records: UInt8) -> None:
        """Append the next shard: records [n, bytes] that `packed` made."""
        assert records.dtype == np.uint8 and records.shape[1:] == (self.recipe.frame_bytes,), records.shape
        whole = np.ascontiguousarray(records)
        self._records.write(whole.data)
        self._records.flush()
        # Records first: a journal line is a promise that they are on disk.
        os.fsync(self._records.fileno())
        self._shards.append(FeatureShard(frames=len(whole), sha256=hashlib.sha256(whole.data).hexdigest()))
        self._journal.write(json.dumps(asdict(self._shards[-1])) + "\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def finish(self) -> None:
        """Turn the part file into the cache."""
        assert self.num_done == self.recipe.num_frames, f"{self.num_done} of {self.recipe.num_frames} frames"
        self._records.close()
        self._journal.close()
        # The old index goes first: an index must never lie beside records that it does not describe.
        (self.folder / FEATURE_INDEX).unlink(missing_ok=True)
        (self.folder / FEATURE_PART).replace(self.folder / FEATURES)
        sync_folder(self.folder)
        write_json(self.folder / FEATURE_INDEX, {**self.recipe.to_json(), "shards": [asdict(s) for s in self._shards]})
        (self.folder / FEATURE_JOURNAL).unlink()

    def _recover(self) -> None:
        """Take over what a killed build finished; anything behind the last whole journal line is cut off."""
        journal, part, records = (self.folder / name for name in (FEATURE_JOURNAL, FEATURE_PART, FEATURES))
        lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
        if lines and _recipe_of_line(lines[0]) == self.recipe:
            for line in lines[1:]:
                try:
                    row = json.loads(line)
                    self._shards.append(FeatureShard(frames=int(row["frames"]), sha256=str(row["sha256"])))
                except (ValueError, KeyError, TypeError):
                    break
        if not part.exists() and records.exists() and not (self.folder / FEATURE_INDEX).exists():
            records.replace(part)  # killed inside `finish`, between the rename and the index
        if not part.exists() or part.stat().st_size < self.num_done * self.recipe.frame_bytes:
            self._shards = []
        with part.open("ab") as handle:
            handle.truncate(self.num_done * self.recipe.frame_bytes)
        rows = [json.dumps(self.recipe.to_json()), *(json.dumps(asdict(shard)) for shard in self._shards)]
        journal.write_text("\n".join(rows) + "\n", encoding="utf-8")


def _recipe_of_line(line: bytes) -> FeatureRecipe | None:
    try:
        return recipe_from_json(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # another format or a damaged journal: making the features again is the remedy


def _read_index(path: Path) -> tuple[FeatureRecipe, tuple[FeatureShard, ...]]:
    index = read_json(path)
    try:
        recipe = recipe_from_json(index)
        shards = tuple(FeatureShard(frames=int(s["frames"]), sha256=str(s["sha256"])) for s in index["shards"])
    except (KeyError, TypeError, ValueError) as error:
        expected, got = f"a whole index of format {FORMAT!r}", f"a fault at {error}"
        raise InputError(path, expected=expected, got=got, remedy=REMEDY) from None
    if sum(shard.frames for shard in shards) != recipe.num_frames:
        got = f"checksums of {sum(shard.frames for shard in shards)}"
        raise InputError(path, expected=f"checksums of {recipe.num_frames} frames", got=got, remedy=REMEDY)
    return recipe, shards


def _foreign(path: Path, found: FeatureRecipe, wanted: FeatureRecipe) -> InputError:
    differing = [f.name for f in fields(wanted) if f.compare and getattr(found, f.name) != getattr(wanted, f.name)]

    def said(recipe: FeatureRecipe) -> str:
        return ", ".join(f"{name} {str(getattr(recipe, name))[:12]}" for name in differing)

    return InputError(path, expected=f"features with {said(wanted)}", got=said(found), remedy=REMEDY)
