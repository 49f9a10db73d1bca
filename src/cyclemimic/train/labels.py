"""Between stations 2 and 3: the encoder as inverse-dynamics model labels whole sources, once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cyclemimic.data.loader import PairLoader
from cyclemimic.errors import InputError
from cyclemimic.nn.batches import pixels
from cyclemimic.nn.collectives import num_processes, process_number
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.store.label_store import LabelProvenance, LabelRows, LabelStore, LabelStoreWriter
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.train.processes import is_first, local_device, together
from cyclemimic.train.progress import Progress
from cyclemimic.types import Gap, Int64


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
) -> None:
    """Label the shards of one part of several, of all pairs of `cache`. Shards that are there already are kept.

    Paper: method, the trained encoder labels all video offline. Engineering: batches are cut the same way on every
    run, so that a store written in two sittings, or by several processes or parts, equals one written in one. Parts
    share nothing but the folder, and no shard: they may run at once on different machines.

    Raises:
        InputError: no such part, or `folder` holds labels of another tokenizer, source or gap.
    """
    if not 0 <= part < num_parts:
        remedy = "Count parts from 0."
        raise InputError("part", expected=f"a part below {num_parts}", got=str(part), remedy=remedy)
    num_shards = max(num_shards, num_parts)
    loader = PairLoader([cache], gap_s, cuts=None if cuts is None else [cuts])
    shards = min(num_shards, len(cache) - len(loader.skipped))  # no empty shard, whatever the number of processes
    provenance = LabelProvenance(
        tokenizer_sha256=tokenizer_sha256,
        source_hash=cache.source_hash,
        gap_s=gap_s,
        camera=camera,
        num_codes=tokenizer.num_codes,
        num_tokens=tokenizer.config.encoder.num_tokens,
        made_by="cyclemimic label",
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
            parts = []
            for arrays in loader.all_pairs(batch_size, shard=shard, num_shards=shards):
                codes, margin = tokenizer.label(pixels(arrays.now, place), pixels(arrays.later, place))
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
