"""Between stations 2 and 3: the encoder as inverse-dynamics model labels whole sources, once.

Letters in shapes: B pairs, S side of the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cyclemimic.data.cache import refuse_full_disk
from cyclemimic.data.loader import PairArrays, PairLoader
from cyclemimic.errors import InputError
from cyclemimic.nn.batches import Scene, patches, pixels
from cyclemimic.nn.collectives import num_processes, process_number
from cyclemimic.store.clips import facts_of
from cyclemimic.store.feature_cache import FeatureCache
from cyclemimic.store.feature_rows import FeatureRows
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.store.label_store import LabelProvenance, LabelRows, LabelStore, LabelStoreWriter
from cyclemimic.store.lineage import licences_of
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.train.features import require_own_features
from cyclemimic.train.processes import is_first, local_device, together
from cyclemimic.train.progress import Progress
from cyclemimic.types import Gap, Int64, UInt8

# Few pairs at once: what one batch works on fits a processor's cache, and memory is used again instead of asked for.
BATCH_SIZE, NUM_SHARDS = 64, 8
SITTING_BATCHES = 256
ROW_BYTES = 12  # of a label beside its codes: clip, frame and margin


def label_part(
    tokenizer: LatentActionTokenizer,
    tokenizer_sha256: str,
    cache: FrameCache,
    gap_s: Gap,
    folder: Path,
    *,
    batch_size: int = BATCH_SIZE,
    num_shards: int = NUM_SHARDS,
    camera: str = "video",
    cuts: Sequence[Int64] | None = None,
    device: str = "cpu",
    part: int = 0,
    num_parts: int = 1,
    features: FeatureCache | None = None,
    origin: str | None = None,
    tokenizer_licences: Mapping[str, int] | None = None,
) -> None:
    """Label the shards of one part of several, of all pairs of `cache`. What is there already is kept.

    Paper: method, the trained encoder labels all video offline. Engineering: batches are cut the same way on every
    run, so that a store written in two sittings, or by several processes or parts, equals one written in one. Parts
    share nothing but the folder, and no shard: they may run at once on different machines. With `features` of these
    frames the backbone is not run. The licences of the clips go into the provenance; `origin` and `tokenizer_licences`
    (of what the tokenizer learnt from) go along.

    Raises:
        InputError: no such part, features of another backbone or other frames, or `folder` holds labels of another
        tokenizer, source or gap.
    """
    if not 0 <= part < num_parts:
        remedy = "Count parts from 0."
        raise InputError("part", expected=f"a part below {num_parts}", got=str(part), remedy=remedy)
    loader = PairLoader([cache], gap_s, cuts=None if cuts is None else [cuts])
    if features is not None:
        require_own_features(tokenizer.features_sha256, features.recipe)
        loader.use_features([features])
    shards = shards_of(cache, loader, max(num_shards, num_parts))
    provenance = provenance_of(
        tokenizer, tokenizer_sha256, cache, gap_s, camera, origin=origin, tokenizer_licences=tokenizer_licences
    )
    with together() as first:
        if first:  # one process alone makes the folder and its manifest
            whole = LabelStoreWriter(folder, provenance, shards)
            mine = [shard for shard in range(shards)[part::num_parts] if not whole.has(shard)]
            if mine:
                left = loader.num_pairs * len(mine) // shards
                needed = left * (ROW_BYTES + 2 * provenance.num_tokens)
                refuse_full_disk(folder, needed, f"about {left} pairs to label", print)
    with together():
        writer = LabelStoreWriter(folder, provenance, shards)
        place = local_device(device)
        tokenizer = tokenizer.to(place)
        progress, done = Progress(name="label", total=max(1, loader.num_pairs // num_parts)), 0

        def count(pairs: int) -> None:
            nonlocal done
            done += pairs
            if is_first():  # the others have done about as much
                progress.update(min(loader.num_pairs // num_parts, done * num_processes()))

        for shard in range(shards)[part::num_parts][process_number() :: num_processes()]:
            if not writer.has(shard):
                label_shard(tokenizer, loader, writer, shard, batch_size=batch_size, device=place, count=count)


def shards_of(cache: FrameCache, loader: PairLoader, wanted: int) -> int:
    """How many shards a store has: as many as `wanted`, but none is empty, whatever the number of processes."""
    return min(wanted, len(cache) - loader.num_skipped)


def provenance_of(
    tokenizer: LatentActionTokenizer,
    tokenizer_sha256: str,
    cache: FrameCache,
    gap_s: Gap,
    camera: str = "video",
    *,
    origin: str | None = None,
    tokenizer_licences: Mapping[str, int] | None = None,
) -> LabelProvenance:
    """What the labels of a cache by a tokenizer are made from, and under which licences."""
    return LabelProvenance(
        tokenizer_sha256=tokenizer_sha256,
        source_hash=cache.source_hash,
        gap_s=gap_s,
        camera=camera,
        num_codes=tokenizer.num_codes,
        num_tokens=tokenizer.config.encoder.num_tokens,
        made_by="cyclemimic label",
        licences=licences_of(cache.clips),
        tokenizer_licences=tokenizer_licences,
        origin=origin,
    )


def label_shard(
    tokenizer: LatentActionTokenizer,
    loader: PairLoader,
    writer: LabelStoreWriter,
    shard: int,
    *,
    batch_size: int = BATCH_SIZE,
    device: torch.device | str = "cpu",
    count: Callable[[int], None] = lambda pairs: None,
) -> int:
    """Label and write one shard, and return its number of pairs; what an earlier run kept of it is not done again.

    Engineering. Rows are kept every `SITTING_BATCHES` batches. Nothing reaches over the edge of a sitting, not even
    the frames that `ScenesOnce` holds, so that the bytes of a shard do not tell where its making was cut off.

    Args:
        tokenizer: on `device`.
        loader: of all pairs.
        writer: knows the number of shards.
        shard: which.
        batch_size: B.
        device: where pictures go.
        count: is given the number of pairs that are done now.
    """
    assert writer.num_shards is not None, "a store of a known number of shards"
    sittings = writer.kept(shard)
    if any(len(rows) != SITTING_BATCHES * batch_size for rows in sittings):
        sittings = []  # kept by other settings
    count(sum(map(len, sittings)))
    skip = SITTING_BATCHES * len(sittings)
    batches = loader.all_pairs(batch_size, shard=shard, num_shards=writer.num_shards, skip=skip)
    while sitting := list(_labelled(islice(batches, SITTING_BATCHES), ScenesOnce(tokenizer, loader, device), count)):
        sittings.append(_joined(sitting))
        if len(sitting) == SITTING_BATCHES and len(sittings[-1]) == SITTING_BATCHES * batch_size:
            writer.keep(shard, len(sittings) - 1, sittings[-1])
    rows = _joined(sittings)
    writer.write(shard, rows)
    return len(rows)


def _labelled(batches: Iterable[PairArrays], scenes: ScenesOnce, count: Callable[[int], None]) -> Iterator[LabelRows]:
    for arrays in batches:
        codes, margin = scenes.tokenizer.label_scenes(*scenes.of(arrays))
        clips, place = np.unique(arrays.clip, return_inverse=True)  # a name is looked up once a batch
        known = [scenes.loader.clips[i].name for i in clips.tolist()]
        names = tuple(known[i] for i in place.tolist())
        frame = arrays.frame.astype(np.int32)
        yield LabelRows(clip=names, frame=frame, codes=codes.cpu().numpy(), margin=margin.cpu().numpy())
        count(len(arrays))


def _joined(parts: Sequence[LabelRows]) -> LabelRows:
    return LabelRows(
        clip=tuple(name for rows in parts for name in rows.clip),
        frame=np.concatenate([rows.frame for rows in parts]),
        codes=np.concatenate([rows.codes for rows in parts]),
        margin=np.concatenate([rows.margin for rows in parts]),
    )


def label_cache(
    tokenizer: LatentActionTokenizer,
    tokenizer_sha256: str,
    cache: FrameCache,
    gap_s: Gap,
    folder: Path,
    **settings: Any,
) -> LabelStore:
    """Label every pair of `cache` and return the store: the only part of one, see `label_part`."""
    label_part(tokenizer, tokenizer_sha256, cache, gap_s, folder, **settings)
    return LabelStore.open(folder)


class ScenesOnce:
    """The scenes of pairs that come clip after clip, ascending in time; the backbone sees every frame once at most.

    Engineering. A frame is `later` of one pair and `now` of another. What no pair to come can need is let go: about one
    batch and the frames of one gap are held. Where the loader gives stored features, the backbone sees none.
    """

    def __init__(self, tokenizer: LatentActionTokenizer, loader: PairLoader, device: torch.device | str) -> None:
        self.tokenizer, self.loader, self._device = tokenizer, loader, device
        self._gaps = loader.gap_frames
        frames = facts_of(loader.clips).num_frames
        self._before = np.cumsum(frames) - frames  # frames of all clips are numbered through
        self._held: Scene | None = None
        self._numbers = np.zeros(0, np.int64)  # of the frames held, in their order

    @torch.no_grad()  # labels teach nobody here
    def of(self, pairs: PairArrays) -> tuple[Scene, Scene]:
        """The scenes now and later of B pairs, each with frames [B, 3, S, S] and their features."""
        if pairs.features:
            now_rows, later_rows = pairs.features[:2]
            return self._see(pairs.now, now_rows), self._see(pairs.later, later_rows)
        now = self._before[pairs.clip] + pairs.frame
        numbers = np.concatenate([now, now + self._gaps[pairs.clip]])
        wanted, first = np.unique(numbers, return_index=True)
        stay, fresh = self._numbers >= wanted[0], ~np.isin(wanted, self._numbers)
        held, self._numbers = self._held, np.concatenate([self._numbers[stay], wanted[fresh]])
        if held is not None and not stay.all():
            held = held.take(self._index(np.flatnonzero(stay)))
        if fresh.any():
            pictures = np.concatenate([pairs.now, pairs.later])[first[fresh]]
            seen = self.tokenizer.see(pixels(pictures, self._device))
            held = seen if held is None else held.joined(seen)
        assert held is not None, "a batch has pairs"
        order = np.argsort(self._numbers)
        place = order[np.searchsorted(self._numbers, numbers, sorter=order)]
        self._held = held
        return held.take(self._index(place[: len(now)])), held.take(self._index(place[len(now) :]))

    def _see(self, pictures: UInt8, rows: FeatureRows) -> Scene:
        return self.tokenizer.see(pixels(pictures, self._device), patches(rows, self._device))

    def _index(self, rows: Int64) -> torch.Tensor:
        return torch.from_numpy(rows).to(self._device)
