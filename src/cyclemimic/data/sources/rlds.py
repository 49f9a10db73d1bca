"""RLDS datasets as TFDS writes them (Open X-Embodiment and its relatives), without TensorFlow. Engineering.

Letters in shapes: T frames, H W picture, C columns of a feature, A action axes, P proprioception axes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from numpy.typing import NDArray

from cyclemimic.data.layouts import Layout
from cyclemimic.data.oxe import Convention, convention_of, named_convention
from cyclemimic.data.pictures import decode_pictures
from cyclemimic.data.sources.places import Options, Place, one_of, path_and_options, positive
from cyclemimic.data.tfexample import Values, decoded, feature_spans
from cyclemimic.data.tfrecord import FOOTER_BYTES, checked_content, record_spans
from cyclemimic.data.video import IMAGE_FOLDER_FPS_HZ
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.store.atomic import sha256_json
from cyclemimic.types import ClipInfo, Episode, Float32, UInt8

INFO, FEATURES = "dataset_info.json", "features.json"
MAX_EPISODES = 10_000_000
_STEPS = "steps/"
_SMALL = ("is_first", "is_last", "is_terminal", "reward", "discount")  # one number per step in every dataset
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_DAMAGED = "Download the dataset again, or read the split with tensorflow_datasets and write it anew."


@dataclass(frozen=True, kw_only=True)
class _Feature:
    """What `features.json` says of one: 'Image', 'Text', 'Tensor', 'Scalar' ..., and numbers per step."""

    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Record:
    """One episode: where it lies, and what can be said of it without decoding; or why nothing can be."""

    shard: str
    number: int
    start: int = 0
    length: int = 0
    num_frames: int = 0
    instruction: str | None = None
    fault: InputError | None = None


class RldsSource:
    """The episodes of the folder that holds `dataset_info.json`, `features.json` and tfrecord shards.

    What the features mean says a `Convention`, found by the dataset's name. A dataset of an unknown name is video
    alone, at 10 steps per second. Shards that are not there are passed over, so that a part of a large dataset can be
    read; a remark on the first clip says so. Listing reads headers and sentences; checksums are looked at with `read`.

    Args:
        path: the folder, or its URL where fsspec is installed. Behind `?` may follow, joined by `&`: `split=NAME`;
            `convention=NAME` or `package.module:NAME`, see `cyclemimic.data.oxe`; `rate_hz=NUMBER`; `cameras=all`,
            which decodes the cameras beside the main one too.
    """

    def __init__(self, path: Path | str) -> None:
        known: Options = {
            "split": str,
            "convention": str,
            "rate_hz": positive,
            "cameras": one_of("main", "all"),
        }
        text, options = path_and_options(path, known)
        self.path = Path(text)
        self.name = f"rlds:{path}"
        self._place, self._options = Place(text), options
        self.origin = self._place.origin
        self._info = self._json(INFO)
        self._features = _flat(self._json(FEATURES), self._place.where(FEATURES))
        self._dataset = str(self._info.get("name", ""))
        if self._info.get("fileFormat", "tfrecord") != "tfrecord":
            where, got = self._place.where(INFO), repr(self._info["fileFormat"])
            remedy = "Write it again with file_format=tfrecord."
            raise InputError(where, expected="the file format tfrecord", got=got, remedy=remedy)
        chosen = options.get("convention")
        found = named_convention(chosen) if chosen else convention_of(self._dataset)
        self._convention = found or self._guessed()
        self._known = found is not None
        self._rate_hz = float(options.get("rate_hz", self._convention.rate_hz))
        self._check_convention()
        self._remarks: dict[str, tuple[str, ...]] = {}

    def clips(self) -> Sequence[ClipInfo]:
        """Every episode, in the order of splits and shards."""
        return self._clips

    def read(self, clip: ClipInfo) -> Episode:
        """Check and decode one episode.

        Raises:
            InputError: there is no such episode, or its shard, record or a field of it is damaged; names it.
        """
        if clip.name not in self._records:
            hint = did_you_mean(clip.name, list(self._records)[:20])
            raise InputError(self.name, expected="an episode of this dataset", got=repr(clip.name), remedy=hint)
        record = self._records[clip.name]
        if record.fault is not None:
            raise record.fault
        where = self._where(record)
        framed = self._place.span(record.shard, record.start, record.length + FOOTER_BYTES)
        parts = feature_spans(checked_content(framed, record.length, where), where)
        convention, skip = self._convention, self._convention.skip_steps
        cameras = {
            name: self._pictures(parts, feature, where, record.num_frames)
            for name, feature in self._chosen_cameras(parts).items()
        }
        main, *others = cameras
        actions = self._numbers(parts, convention.actions, where)
        state = self._numbers(parts, convention.state, where)
        info = self._describe(clip.name, record)
        space = convention.action_space
        if space is not None and self._rate_hz != space.rate_hz:
            assert convention.actions is not None
            space = convention.actions.space(space.name, self._rate_hz)
        return Episode(
            info=info,
            frames=cameras[main],
            # The action of the last step leads to no frame.
            actions=None if actions is None else actions[skip:-1],
            proprioception=None if state is None else state[skip:],
            action_space=space,
            proprioception_axes=() if convention.state is None else convention.state.axes,
            camera=main,
            extra_frames={name: cameras[name] for name in others},
        )

    def remarks_of(self, clip: ClipInfo) -> tuple[str, ...]:
        """What a user should know of the dataset, on its first clip; and of a shard, on the first clip of it."""
        return self._remarks.get(clip.name, ())

    def fingerprint(self) -> str:
        """A hash of the facts, of the sizes of the shards, and of the first and last 64 KB of each."""
        shards = dict.fromkeys(record.shard for record in self._records.values())
        content = [[name, *self._place.content_of(name)] for name in (INFO, FEATURES, *shards)]
        return sha256_json([[asdict(clip) for clip in self._clips], content])

    @cached_property
    def _clips(self) -> tuple[ClipInfo, ...]:
        return tuple(self._describe(name, record) for name, record in self._records.items())

    def _describe(self, name: str, record: _Record) -> ClipInfo:
        return ClipInfo(
            name=name,
            embodiment=self._convention.embodiment,
            fps=self._rate_hz,
            num_frames=record.num_frames,
            instruction=record.instruction,
            licence=self._convention.licence,
        )

    @cached_property
    def _records(self) -> dict[str, _Record]:
        here, found = set(self._place.names()), dict[str, _Record]()
        remarks, missing = list[str](), list[str]()
        if not self._known:
            remarks.append(
                f"no convention is known for {self._dataset!r}: video alone, at {self._rate_hz:g} frames/s; "
                "see cyclemimic.data.oxe"
            )
        for split, counts in self._splits().items():
            for i, declared in enumerate(counts):
                shard = self._shard_name(split, i, len(counts))
                if shard not in here:
                    missing.append(shard)
                    continue
                records, remark = self._index(shard, declared)
                names = [f"{split}-{i:05d}-of-{len(counts):05d}/{record.number}" for record in records]
                found |= dict(zip(names, records, strict=True))
                if remark and names:
                    self._remarks[names[0]] = (remark,)
        if missing:
            which = f"{len(missing)} shards are not here, such as" if len(missing) > 1 else "one shard is not here:"
            remarks.append(f"{which} {missing[0]}")
        if not found:
            got = f"none of its {len(missing)} shards" if missing else "no shards"
            where = self._place.where(INFO)
            remedy = f"Download them, for example {missing[0]!r}." if missing else _DAMAGED
            raise InputError(where, expected="the shards that it speaks of", got=got, remedy=remedy)
        first = next(iter(found))
        self._remarks[first] = (*remarks, *self._remarks.get(first, ()))
        return found

    def _index(self, shard: str, declared: int) -> tuple[list[_Record], str | None]:
        """The records of a shard, as many as declared at least; damaged ones say why."""
        records = list[_Record]()
        fault: InputError | None = None
        try:
            file = self._place.whole(shard)
            for start, length in record_spans(file, self._place.where(shard)):
                records.append(self._look(shard, len(records), start, file[start : start + length]))
        except InputError as error:
            fault = error
        remark = None
        if fault is None and len(records) > declared:
            remark = f"{shard} holds {len(records)} episodes where {INFO} declares {declared}"
        for number in range(len(records), declared):
            missing = fault or InputError(
                f"{self._place.where(shard)}, record {number}",
                expected=f"{declared} episodes, as {INFO} declares",
                got=str(len(records)),
                remedy="The file is cut short; download it again.",
            )
            records.append(_Record(shard=shard, number=number, fault=missing))
        return records, remark

    def _look(self, shard: str, number: int, start: int, content: memoryview) -> _Record:
        """Length and sentence of an episode; pictures are stepped over."""
        record = _Record(shard=shard, number=number, start=start, length=len(content))
        where = self._where(record)
        try:
            parts = feature_spans(content, where)
            num_frames = self._num_steps(parts, where) - self._convention.skip_steps
            if num_frames < 2:
                remedy = "One step shows no motion; go on without this episode."
                raise InputError(where, expected="at least 2 steps", got=str(max(0, num_frames)), remedy=remedy)
            instruction = self._instruction(parts, where)
        except InputError as error:
            return replace(record, fault=error)
        return replace(record, num_frames=num_frames, instruction=instruction)

    def _num_steps(self, parts: Mapping[str, tuple[memoryview, ...]], where: str) -> int:
        for name in _SMALL:
            if _STEPS + name in parts:
                return len(decoded(parts[_STEPS + name], f"{where}, field {_STEPS}{name}"))
        camera = _STEPS + next(iter(self._convention.cameras.values()))
        return len(decoded(_taken(parts, camera, where), f"{where}, field {camera}"))

    def _instruction(self, parts: Mapping[str, tuple[memoryview, ...]], where: str) -> str | None:
        for name in self._convention.instruction:
            feature = _STEPS + name
            if feature in parts:
                place = f"{where}, field {feature}"
                said = _text(decoded(parts[feature], place), self._features.get(feature), place)
                if said:
                    return said
        return None

    def _chosen_cameras(self, parts: Mapping[str, tuple[memoryview, ...]]) -> dict[str, str]:
        (main, feature), *others = self._convention.cameras.items()
        wanted = others if self._options.get("cameras") == "all" else []
        return {main: feature} | {name: other for name, other in wanted if _STEPS + other in parts}

    def _pictures(self, parts: Mapping[str, tuple[memoryview, ...]], name: str, where: str, num_frames: int) -> UInt8:
        feature = _STEPS + name
        place, skip = f"{where}, field {feature}", self._convention.skip_steps
        values = decoded(_taken(parts, feature, where), place)
        if not isinstance(values, tuple):
            _wrong(place, "encoded pictures", f"numbers of {values.dtype}")
        if len(values) != num_frames + skip:
            _wrong(place, f"{num_frames + skip} pictures, one for each step", str(len(values)))
        return decode_pictures(values[skip:], place)

    def _numbers(
        self, parts: Mapping[str, tuple[memoryview, ...]], layout: Layout | None, where: str
    ) -> Float32 | None:
        if layout is None:
            return None
        arrays: dict[str, NDArray[Any]] = {}
        num_steps = self._num_steps(parts, where)
        for name in layout.features:
            feature = _STEPS + name
            place = f"{where}, field {feature}"
            values = decoded(_taken(parts, feature, where), place)
            if isinstance(values, tuple):
                _wrong(place, "numbers", "bytes")
            width = math.prod(self._features[feature].shape)
            if len(values) != num_steps * width:
                _wrong(place, f"{num_steps} steps of {width} numbers", f"{len(values)} numbers")
            arrays[name] = values.reshape(num_steps, width)
        return layout.numbers(arrays, where)

    def _check_convention(self) -> None:
        """Raise InputError unless the features that the convention needs are there and of a known type."""
        convention, where = self._convention, self._place.where(FEATURES)
        numbers = [name for layout in (convention.actions, convention.state) if layout for name in layout.features]
        wanted: list[tuple[str, tuple[str, ...]]] = [(next(iter(convention.cameras.values())), ("Image",))]
        wanted += [(name, ("Tensor", "Scalar")) for name in numbers]
        for name, kinds in wanted:
            feature = self._features.get(_STEPS + name)
            if feature is None:
                raise InputError(
                    where,
                    expected=f"a feature {_STEPS + name!r}, as the convention {convention.name!r} says",
                    got="none",
                    remedy=f"Name another convention. {did_you_mean(_STEPS + name, self._features)}",
                )
            if feature.kind not in kinds or (min(feature.shape, default=1) < 1 and feature.kind != "Image"):
                raise InputError(
                    f"{where}, feature {_STEPS + name}",
                    expected=f"{' or '.join(kinds)} of a fixed shape",
                    got=f"{feature.kind} {feature.shape}",
                    remedy="Name a convention that leaves it out.",
                )

    def _guessed(self) -> Convention:
        """Cameras and the sentence by their types and names; the rest is not known."""
        steps = {n.removeprefix(_STEPS): f for n, f in self._features.items() if n.startswith(_STEPS)}
        pictures = [n for n, f in steps.items() if f.kind == "Image" and "depth" not in n]
        if not pictures:
            where, got = self._place.where(FEATURES), f"none among {sorted(steps)[:8]}"
            remedy = "Name a convention for this dataset."
            raise InputError(where, expected="a feature of pictures", got=got, remedy=remedy)
        pictures.sort(key=lambda n: ("wrist" in n or "hand" in n or "gripper" in n, n))
        return Convention(
            name=self._dataset,
            embodiment=self._dataset or "unknown",
            rate_hz=IMAGE_FOLDER_FPS_HZ,
            cameras={n.rpartition("/")[2]: n for n in pictures},
            instruction=tuple(n for n, f in steps.items() if f.kind == "Text" and "instruction" in n),
        )

    def _splits(self) -> dict[str, list[int]]:
        """Episodes of each shard, by split, as `dataset_info.json` declares."""
        where, splits = self._place.where(INFO), dict[str, list[int]]()
        try:
            for split in self._info["splits"]:
                splits[str(split["name"])] = [int(n) for n in split["shardLengths"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                where,
                expected="splits, each with a name and shardLengths",
                got=f"{type(error).__name__}: {error}",
                remedy=_DAMAGED,
            ) from None
        counts = [n for lengths in splits.values() for n in lengths]
        if min(counts, default=0) < 0 or sum(counts) > MAX_EPISODES:
            expected, got = f"0 to {MAX_EPISODES} episodes", f"shardLengths from {min(counts)} to {max(counts)}"
            raise InputError(where, expected=expected, got=got, remedy=_DAMAGED)
        chosen = self._options.get("split")
        if chosen is None:
            return splits
        if chosen not in splits:
            remedy = did_you_mean(chosen, splits)
            raise InputError(where, expected=f"a split {chosen!r}", got="none of this name", remedy=remedy)
        return {chosen: splits[chosen]}

    def _shard_name(self, split: str, index: int, count: int) -> str:
        templates = {str(s["name"]): s.get("filepathTemplate") or _TEMPLATE for s in self._info["splits"]}
        name = str(templates[split])
        for word, value in {
            "{DATASET}": self._dataset,
            "{SPLIT}": split,
            "{FILEFORMAT}": "tfrecord",
            "{SHARD_X_OF_Y}": f"{index:05d}-of-{count:05d}",
            "{SHARD_INDEX}": f"{index:05d}",
            "{NUM_SHARDS}": f"{count:05d}",
        }.items():
            name = name.replace(word, value)
        if "/" in name or "\\" in name or "{" in name:
            where, expected = self._place.where(INFO), "file names of shards that lie beside it"
            raise InputError(where, expected=expected, got=repr(name), remedy=_DAMAGED)
        return name

    def _json(self, name: str) -> dict[str, Any]:
        where = self._place.where(name)
        if name not in self._place.names():
            versions = [n for n in self._place.names() if n[0].isdigit()]
            remedy = f"Name a version's folder, such as {versions[-1]}." if versions else _DAMAGED
            raise InputError(where, expected="a file that TFDS writes beside the shards", got="none", remedy=remedy)
        content = self._place.span(name, 0, 64 << 20)
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError(where, expected="valid JSON", got=str(error), remedy=_DAMAGED) from None
        if not isinstance(value, dict):
            raise InputError(where, expected="a JSON object", got=type(value).__name__, remedy=_DAMAGED)
        return value

    def _where(self, record: _Record) -> str:
        return f"{self._place.where(record.shard)}, record {record.number}"


def _flat(node: object, where: str, name: str = "") -> dict[str, _Feature]:
    """The features of a `features.json` by the names under which records hold them."""
    if not isinstance(node, dict) or not isinstance(node.get("pythonClassName", ""), str):
        raise InputError(f"{where}, feature {name or 'top'}", expected="an object", got=str(node)[:80], remedy=_DAMAGED)
    inner = node.get("featuresDict")
    if isinstance(inner, dict) and isinstance(inner.get("features"), dict):
        found: dict[str, _Feature] = {}
        for key, value in inner["features"].items():
            found |= _flat(value, where, f"{name}/{key}" if name else str(key))
        return found
    if isinstance(node.get("sequence"), dict):
        return _flat(node["sequence"].get("feature"), where, name)
    kind = str(node.get("pythonClassName", "")).rpartition(".")[2]
    facts = node.get("image" if kind == "Image" else "tensor") or {}
    if kind == "Tensor" and isinstance(facts, dict) and facts.get("encoding", "none") != "none":
        kind = f"Tensor encoded as {facts['encoding']}"
    try:
        shape = tuple(int(n) for n in (facts.get("shape") or {}).get("dimensions", ()))
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise InputError(f"{where}, feature {name}", expected="a shape", got=str(facts)[:80], remedy=_DAMAGED) from None
    return {name: _Feature(kind=kind, shape=shape)}


def _taken(parts: Mapping[str, tuple[memoryview, ...]], feature: str, where: str) -> tuple[memoryview, ...]:
    if feature not in parts:
        raise InputError(
            f"{where}, field {feature}",
            expected="this field",
            got="none",
            remedy=f"Fields here: {', '.join(sorted(parts)[:12])}.",
        )
    return parts[feature]


def _text(values: Values, feature: _Feature | None, where: str) -> str:
    """What the first step says; code points are text filled up with zeros."""
    if not len(values):
        return ""
    try:
        if isinstance(values, tuple):
            said = str(values[0], "utf-8")
        else:
            width = math.prod(feature.shape) if feature is not None else 1
            said = "".join(chr(int(n)) for n in values[: min(width, 4096)])
    except (UnicodeDecodeError, ValueError, OverflowError) as error:
        remedy = "Go on without this episode, or write its sentence anew."
        raise InputError(where, expected="a sentence in UTF-8", got=str(error), remedy=remedy) from None
    said = said.partition("\0")[0].strip()
    try:
        said.encode()
    except UnicodeEncodeError as error:
        raise InputError(where, expected="a sentence in Unicode", got=str(error), remedy=_DAMAGED) from None
    return said


def _wrong(where: str, expected: str, got: str) -> NoReturn:
    raise InputError(where, expected=expected, got=got, remedy=_DAMAGED)
