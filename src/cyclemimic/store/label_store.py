"""Latent actions per frame pair, as Parquet shards with provenance; resumable. Engineering.

    FOLDER/manifest.json         provenance, and how many shards make the store whole
    FOLDER/labels-00000.parquet  columns clip (string), frame (int32), codes (list of l_z int16),
                                 margin (float32)

    FOLDER/.sittings/            what is there of a shard that is not whole yet; goes with the shard's last row

`frame` is the index t of the earlier frame in its clip; `margin` is the distance from the embedding to its second
nearest code minus that to its nearest, of the token for which that is least: near 0 means the code was a toss-up. Any
Parquet reader can use the shards without this package.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.store.atomic import read_json, write_atomically, write_json
from cyclemimic.types import Float32, Gap, Int64, LatentAction

FORMAT = "cyclemimic-labels-1"
MANIFEST, SITTINGS = "manifest.json", ".sittings"
_SHARD = re.compile(r"labels-(\d{5,})\.parquet")
_KEY = b"cyclemimic"
_TOLD = ("made_by", "licences", "tokenizer_licences", "origin")  # decide no code; labels made before lack some
_MAX_CODES = 1 << 15  # codes are int16


@dataclass(frozen=True, kw_only=True)
class LabelProvenance:
    """What the labels were made from. Two stores may be mixed only where all of it is equal that decides a code."""

    tokenizer_sha256: str
    source_hash: str
    gap_s: Gap
    camera: str
    num_codes: int  # K
    num_tokens: int  # L
    made_by: str
    licences: Mapping[str, int] | None = None  # of the labelled clips, how many under each; None: not recorded
    tokenizer_licences: Mapping[str, int] | None = None  # of what the tokenizer was trained on; None: not recorded
    origin: str | None = None  # public address of the labelled data, with its revision; None for local files

    def __post_init__(self) -> None:
        if not (0 < self.num_codes <= _MAX_CODES and self.num_tokens > 0):
            raise InputError(
                "LabelProvenance",
                expected=f"1 to {_MAX_CODES} codes and at least one token",
                got=f"{self.num_codes} codes, {self.num_tokens} tokens",
                remedy="Codes are stored as int16; use a smaller codebook.",
            )


@dataclass(frozen=True, kw_only=True)
class LabelRows:
    """Labels of n frame pairs, column by column."""

    clip: tuple[str, ...]  # [n] clip names
    frame: NDArray[np.int32]  # [n]
    codes: Int64  # [n, L]
    margin: Float32  # [n]

    def __len__(self) -> int:
        return len(self.clip)

    def check(self, provenance: LabelProvenance, where: object) -> None:
        """Raise InputError unless lengths agree and the codes fit the codebook."""
        n, tokens = len(self.clip), provenance.num_tokens
        got = (self.frame.shape, self.codes.shape, self.margin.shape)
        if got != ((n,), (n, tokens), (n,)):
            expected = f"frame [{n}], codes [{n}, {tokens}], margin [{n}]"
            raise InputError(where, expected=expected, got=str(got), remedy="Give one entry per pair.")
        LatentAction(codes=self.codes, num_codes=provenance.num_codes)


class LabelStoreWriter:
    """Writes shards, each by rename; shards already there are kept, so a killed run goes on.

    Args:
        folder: where the store lies; made if need be.
        provenance: must equal that of shards already there (InputError otherwise).
        num_shards: how many shards make the store whole; None if unknown (then `finish` says it).
    """

    def __init__(self, folder: Path | str, provenance: LabelProvenance, num_shards: int | None = None) -> None:
        self.folder, self.provenance = Path(folder), provenance
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest = self.folder / MANIFEST
        if manifest.exists():
            known, known_shards = _read_manifest(manifest)
            _refuse_other(known, provenance, manifest)
            if None not in (known_shards, num_shards) and known_shards != num_shards:
                raise InputError(
                    manifest,
                    expected=f"{num_shards} shards",
                    got=f"a store begun with {known_shards}",
                    remedy="Go on with the same number of shards, or choose an empty folder.",
                )
            num_shards = num_shards if known_shards is None else known_shards
        self._write_manifest(num_shards)
        self._present = set(_shards(self.folder))
        for shard in self._present:
            _refuse_other(_read_shard_provenance(self.path(shard)), provenance, self.path(shard))
            self._forget_sittings(shard)  # a kill right behind its last row left them

    def path(self, shard: int) -> Path:
        """Where a shard lies."""
        return self.folder / f"labels-{shard:05d}.parquet"

    def has(self, shard: int) -> bool:
        """Whether a shard is already there, so that its pairs need not be encoded again."""
        return shard in self._present

    def missing(self) -> tuple[int, ...]:
        """Expected shards that are not there yet; empty if the number of shards is unknown."""
        return tuple(i for i in range(self.num_shards or 0) if i not in self._present)

    def write(self, shard: int, rows: LabelRows) -> bool:
        """Write one shard; returns False, and writes nothing, where it is already there."""
        if self.has(shard):
            return False
        if self.num_shards is not None and not 0 <= shard < self.num_shards:
            expected = f"a shard below {self.num_shards}"
            raise InputError(self.folder, expected=expected, got=str(shard), remedy="Count from 0.")
        self._write_rows(self.path(shard), rows)
        self._present.add(shard)
        self._forget_sittings(shard)
        return True

    def keep(self, shard: int, sitting: int, rows: LabelRows) -> None:
        """Keep the next rows of a shard that is not whole yet; sittings are counted from 0."""
        self._write_rows(self.folder / SITTINGS / f"labels-{shard:05d}-{sitting:05d}.parquet", rows)

    def kept(self, shard: int) -> list[LabelRows]:
        """What `keep` kept of a shard, in order, up to the first that is missing, damaged or of something else."""
        found: list[LabelRows] = []
        for sitting, path in enumerate(self._sittings(shard)):
            if path.stem.rsplit("-", 1)[1] != f"{sitting:05d}":
                break
            try:
                _refuse_other(_read_shard_provenance(path), self.provenance, path)
                clip, frame, codes, margin = _read_shard(path, self.provenance.num_tokens)
            except InputError:
                break  # making them again is the remedy
            found.append(LabelRows(clip=tuple(clip.tolist()), frame=frame, codes=codes, margin=margin))
        return found

    def _forget_sittings(self, shard: int) -> None:
        for path in self._sittings(shard):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others' shards lie there still, or nothing ever did
            (self.folder / SITTINGS).rmdir()

    def _sittings(self, shard: int) -> list[Path]:
        return sorted((self.folder / SITTINGS).glob(f"labels-{shard:05d}-*.parquet"))

    def _write_rows(self, path: Path, rows: LabelRows) -> None:
        rows.check(self.provenance, path)
        flat = pa.array(np.ascontiguousarray(rows.codes, np.int16).reshape(-1), pa.int16())
        columns = {
            "clip": pa.array(rows.clip, pa.string()),
            "frame": pa.array(rows.frame, pa.int32()),
            "codes": pa.FixedSizeListArray.from_arrays(flat, self.provenance.num_tokens),
            "margin": pa.array(rows.margin, pa.float32()),
        }
        table = pa.table(columns).replace_schema_metadata({_KEY: _provenance_to_text(self.provenance)})
        write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))

    def finish(self) -> None:
        """Say that the shards now present are all there will be."""
        self._write_manifest(max(self._present, default=-1) + 1)

    def _write_manifest(self, num_shards: int | None) -> None:
        self.num_shards = num_shards
        rows = {"format": FORMAT, "provenance": asdict(self.provenance), "num_shards": num_shards}
        write_json(self.folder / MANIFEST, rows)


@dataclass(frozen=True, kw_only=True)
class LabelStore:
    """A store opened for reading, sorted by clip (in order of name) and frame."""

    provenance: LabelProvenance
    clips: tuple[str, ...]  # clip names, sorted
    clip_index: Int64  # [n], into `clips`
    frame: NDArray[np.int32]  # [n]
    codes: Int64  # [n, L]
    margin: Float32  # [n]

    @classmethod
    def open(cls, folder: Path | str, expected: LabelProvenance | None = None) -> LabelStore:
        """Read all shards.

        Raises:
            InputError: no store, shards missing (says which), a damaged shard, or shards of another
            provenance.
        """
        folder = Path(folder)
        shards = _shards(folder)
        manifest = folder / MANIFEST
        provenance = expected
        if manifest.exists():
            known, num_shards = _read_manifest(manifest)
            absent = [str(i) for i in range(num_shards or 0) if i not in shards]
            if absent:
                raise InputError(
                    folder,
                    expected=f"{num_shards} shards of labels",
                    got=f"{len(shards)}; missing: {', '.join(absent[:20])}{' and more' * (len(absent) > 20)}",
                    remedy="Run `cyclemimic label` again as before; it writes only what is missing.",
                )
            if expected is not None:
                _refuse_other(known, expected, manifest)
            provenance = known
        if not shards:
            remedy = "Run `cyclemimic label` first."
            raise InputError(folder, expected="labels-*.parquet", got="none", remedy=remedy)
        names: list[NDArray[np.str_]] = []
        columns: list[tuple[NDArray[np.int32], Int64, Float32]] = []
        for path in shards.values():
            found = _read_shard_provenance(path)
            provenance = provenance or found
            _refuse_other(found, provenance, path)
            clip_of, frame_of, codes_of, margin_of = _read_shard(path, provenance.num_tokens)
            names.append(clip_of)
            columns.append((frame_of, codes_of, margin_of))
        assert provenance is not None
        clips, index = np.unique(np.concatenate(names), return_inverse=True)
        frame, codes, margin = (np.concatenate(column) for column in zip(*columns, strict=True))
        order = np.lexsort((frame, index))
        index, frame = index[order].astype(np.int64), frame[order]
        twice = (np.diff(index) == 0) & (np.diff(frame) == 0)
        if twice.any():
            i = int(np.argmax(twice))
            got = f"frame {frame[i]} of {str(clips[index[i]])!r} twice"
            remedy = "Delete the shards that repeat others and label again."
            raise InputError(folder, expected="one label per frame", got=got, remedy=remedy)
        LatentAction(codes=codes, num_codes=provenance.num_codes)
        return cls(
            provenance=provenance,
            clips=tuple(str(c) for c in clips),
            clip_index=index,
            frame=frame,
            codes=codes[order],
            margin=margin[order],
        )

    def __len__(self) -> int:
        """Number of labelled frame pairs."""
        return len(self.frame)

    def __contains__(self, clip_name: object) -> bool:
        return clip_name in self.clips

    def codes_for(self, clip_name: str) -> tuple[NDArray[np.int32], Int64]:
        """Frames [n], ascending, and codes [n, L] of one clip. InputError for an unknown clip."""
        rows = self._rows(clip_name)
        return self.frame[rows], self.codes[rows]

    def margins_for(self, clip_name: str) -> Float32:
        """Margins [n] of one clip, in the order of `codes_for`."""
        return self.margin[self._rows(clip_name)]

    def latent_actions(self) -> LatentAction:
        """All labels, codes [n, L]."""
        return LatentAction(codes=self.codes, num_codes=self.provenance.num_codes)

    def require(self, *, source_hash: str | None = None, tokenizer_sha256: str | None = None) -> None:
        """Raise InputError unless the labels were made from this source and by this tokenizer."""
        wanted = {"source_hash": source_hash, "tokenizer_sha256": tokenizer_sha256}
        for name, value in wanted.items():
            found = getattr(self.provenance, name)
            if value is not None and value != found:
                remedy = "Label this video with this tokenizer."
                raise InputError(f"label store, {name}", expected=value, got=found, remedy=remedy)

    def _rows(self, clip_name: str) -> slice:
        i = int(np.searchsorted(np.array(self.clips), clip_name))
        if i == len(self.clips) or self.clips[i] != clip_name:
            remedy = did_you_mean(clip_name, self.clips[:20])
            raise InputError("label store", expected="a labelled clip", got=repr(clip_name), remedy=remedy)
        start, stop = np.searchsorted(self.clip_index, [i, i + 1])
        return slice(int(start), int(stop))


def missing_shards(folder: Path | str) -> tuple[int, ...]:
    """The numbers of the shards that a store still lacks. InputError where none was begun."""
    _, num_shards = _read_manifest(Path(folder) / MANIFEST)
    present = _shards(Path(folder))
    return tuple(i for i in range(num_shards or 0) if i not in present)


def _shards(folder: Path) -> dict[int, Path]:
    """The shards of a store by number, in order."""
    found = {int(m[1]): p for p in folder.glob("labels-*.parquet") if (m := _SHARD.fullmatch(p.name))}
    return dict(sorted(found.items()))


def _refuse_other(found: LabelProvenance, wanted: LabelProvenance, where: Path) -> None:
    other = [k for k, v in asdict(wanted).items() if asdict(found)[k] != v and k not in _TOLD]
    if other:
        raise InputError(
            where,
            expected=", ".join(f"{k} {getattr(wanted, k)}" for k in other),
            got=", ".join(f"{k} {getattr(found, k)}" for k in other),
            remedy="These labels were made from something else; choose another folder, or delete it.",
        )


def _provenance_to_text(provenance: LabelProvenance) -> str:
    return json.dumps({"format": FORMAT, **asdict(provenance)}, sort_keys=True)


def _provenance_from(row: Mapping[str, Any], where: Path) -> LabelProvenance:
    names: Sequence[str] = tuple(LabelProvenance.__dataclass_fields__)
    try:
        return LabelProvenance(**{name: row[name] for name in names if name in row or name not in _TOLD[1:]})
    except (KeyError, TypeError) as error:
        remedy = "The file is damaged or not ours; label again."
        raise InputError(where, expected="provenance", got=f"a fault at {error}", remedy=remedy) from None


def _read_manifest(path: Path) -> tuple[LabelProvenance, int | None]:
    manifest = read_json(path)
    return _provenance_from(manifest.get("provenance", {}), path), manifest.get("num_shards")


def _read_shard_provenance(path: Path) -> LabelProvenance:
    try:
        metadata = pq.read_schema(path).metadata or {}
        row = json.loads(metadata.get(_KEY, b"{}"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    return _provenance_from(row, path)


def _read_shard(path: Path, num_tokens: int) -> tuple[NDArray[np.str_], NDArray[np.int32], Int64, Float32]:
    try:
        table = pq.read_table(path)
        flat = table["codes"].combine_chunks().flatten().to_numpy()
        codes = flat.astype(np.int64).reshape(len(table), num_tokens)
        clip = np.array(table["clip"].to_pylist(), np.str_)
        return clip, table["frame"].to_numpy(), codes, table["margin"].to_numpy()
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> InputError:
    remedy = "Delete this shard and run `cyclemimic label` again; it writes only what is missing."
    return InputError(path, expected="a whole Parquet shard", got=str(error).splitlines()[0], remedy=remedy)
