"""Between stations 2 and 3: the encoder as inverse-dynamics model labels whole sources, once.

Letters in shapes: B pairs, S side of the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

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


def label_part(
    tokenizer: LatentActionTokenizer,
    tokenizer_sha256: str,
    cache: FrameCache,
    gap_s: Gap,
    folder: Path,
    *,
    batch_size: int = 256,
    num_shards: int = 8,
    camera: str = "video",
    cuts: Sequence[Int64] | None = None,
    device: str = "cpu",
    part: int = 0,
    num_parts: int = 1,
    features: FeatureCache | None = None,
    origin: str | None = None,
    tokenizer_licences: Mapping[str, int] | None = None,
) -> None:
    """Label the shards of one part of several, of all pairs of `cache`. Shards that are there already are kept.

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
    num_shards = max(num_shards, num_parts)
    loader = PairLoader([cache], gap_s, cuts=None if cuts is None else [cuts])
    if features is not None:
        require_own_features(tokenizer.features_sha256, features.recipe)
        loader.use_features([features])
    shards = min(num_shards, len(cache) - len(loader.skipped))  # no empty shard, whatever the number of processes
    provenance = LabelProvenance(
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
    with together() as first:
        if first:  # one process alone makes the folder and its manifest
            LabelStoreWriter(folder, provenance, shards)
    with together():
        writer = LabelStoreWriter(folder, provenance, shards)
        place = local_device(device)
        tokenizer = tokenizer.to(place)
        progress, done = Progress(name="label", total=max(1, loader.num_pairs // num_parts)), 0
        for shard in range(shards)[part::num_parts][process_number() :: num_processes()]:
            if writer.has(shard):
                continue
            parts, scenes = [], ScenesOnce(tokenizer, loader, place)
            for arrays in loader.all_pairs(batch_size, shard=shard, num_shards=shards):
                codes, margin = tokenizer.label_scenes(*scenes.of(arrays))
                parts.append((arrays.clip, arrays.frame, codes.cpu().numpy(), margin.cpu().numpy()))
                done += len(arrays)
                if is_first():  # the others have done about as much
                    progress.update(min(loader.num_pairs // num_parts, done * num_processes()))
            clip, frame, codes_found, margins = (np.concatenate(column) for column in zip(*parts, strict=True))
            names = tuple(loader.clips[i].name for i in clip)
            rows = LabelRows(clip=names, frame=frame.astype(np.int32), codes=codes_found, margin=margins)
            writer.write(shard, rows)


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
        self._tokenizer, self._device = tokenizer, device
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
            seen = self._tokenizer.see(pixels(pictures, self._device))
            held = seen if held is None else held.joined(seen)
        assert held is not None, "a batch has pairs"
        order = np.argsort(self._numbers)
        place = order[np.searchsorted(self._numbers, numbers, sorter=order)]
        self._held = held
        return held.take(self._index(place[: len(now)])), held.take(self._index(place[len(now) :]))

    def _see(self, pictures: UInt8, rows: FeatureRows) -> Scene:
        return self._tokenizer.see(pixels(pictures, self._device), patches(rows, self._device))

    def _index(self, rows: Int64) -> torch.Tensor:
        return torch.from_numpy(rows).to(self._device)
