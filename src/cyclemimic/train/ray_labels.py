"""Ray Data as another way to share the work of labelling: shards are the rows, actors hold the tokenizer. Engineering.

    pip install 'cyclemimic[ray]'
    cyclemimic label --source folder:VIDEOS --tokenizer runs/mine --out runs/labels --engine ray --workers 4

Each actor writes its shards as the plain verb does, so that the store has the same bytes, and what is there already is
kept. All machines of a Ray cluster must see the tokenizer, the frames and the store under the same paths. Ray is
imported when labels are made, not before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cyclemimic.data.loader import PairLoader
from cyclemimic.errors import InputError
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.store.label_store import LabelProvenance, LabelStoreWriter
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.train.labels import NUM_SHARDS, label_shard, provenance_of, shards_of
from cyclemimic.train.progress import Progress
from cyclemimic.types import Gap, Int64

Batch = dict[str, NDArray[Any]]  # Ray's own kind of batch: columns by name


def label_with_ray(
    tokenizer_run: Path,
    tokenizer_sha256: str,
    open_frames: Callable[[], FrameCache],
    gap_s: Gap,
    folder: Path,
    *,
    cuts: Sequence[Int64] | None = None,
    device: str = "cpu",
    workers: int = 1,
    num_shards: int = NUM_SHARDS,
    origin: str | None = None,
    tokenizer_licences: Mapping[str, int] | None = None,
) -> None:
    """Label every pair, shard by shard, on `workers` actors of Ray.

    Args:
        tokenizer_run: where the tokenizer lies, for every actor.
        tokenizer_sha256: of its weights.
        open_frames: opens the frames; called here and in every actor.
        gap_s: H [s].
        folder: the label store.
        cuts: per clip the frames with which a new shot begins.
        device: of an actor; with `cuda` each takes one of Ray's GPUs.
        workers: how many actors.
        num_shards: how many shards, and so how many actors at most have work.
        origin: where the video came from, for the provenance.
        tokenizer_licences: of what the tokenizer learnt from, for the provenance.

    Raises:
        InputError: Ray is not installed, no worker is wanted, or `folder` holds other labels.
    """
    if workers < 1:
        raise InputError("--workers", expected="at least 1", got=str(workers), remedy="Try the number of cores.")
    ray = _ray()
    cache, tokenizer = open_frames(), LatentActionTokenizer.load(tokenizer_run)
    loader = PairLoader([cache], gap_s, cuts=None if cuts is None else [cuts])
    shards = shards_of(cache, loader, num_shards)
    provenance = provenance_of(
        tokenizer, tokenizer_sha256, cache, gap_s, origin=origin, tokenizer_licences=tokenizer_licences
    )
    writer = LabelStoreWriter(folder, provenance, shards)
    todo = writer.missing()
    if not todo:
        return
    progress = Progress(name="label by Ray", total=shards, done=shards - len(todo))
    rows = ray.data.from_items([{"shard": shard} for shard in todo], override_num_blocks=len(todo))
    told = (tokenizer_run, provenance, open_frames, gap_s, folder)
    labelled = rows.map_batches(
        ShardLabeller,
        fn_constructor_args=(Path.cwd(), *told, cuts, device, shards),
        batch_size=1,
        concurrency=workers,
        num_cpus=1,
        num_gpus=1 if device.startswith("cuda") else 0,
    )
    for done, _ in enumerate(labelled.iter_rows(), start=1):
        progress.update(shards - len(todo) + done)


class ShardLabeller:
    """An actor: holds the tokenizer and the frames, and labels the shards that it is given."""

    def __init__(
        self,
        working_folder: Path,
        tokenizer_run: Path,
        provenance: LabelProvenance,
        open_frames: Callable[[], FrameCache],
        gap_s: Gap,
        folder: Path,
        cuts: Sequence[Int64] | None,
        device: str,
        num_shards: int,
    ) -> None:
        os.chdir(working_folder)  # where relative paths begin, also those within a source
        torch.set_num_threads(1)  # as the plain verb: sums may depend on it
        self._device = device
        self._tokenizer = LatentActionTokenizer.load(tokenizer_run).to(device)
        cache = open_frames()
        self._loader = PairLoader([cache], gap_s, cuts=None if cuts is None else [cuts])
        self._writer = LabelStoreWriter(folder, provenance, num_shards)

    def __call__(self, batch: Batch) -> Batch:
        """Label the shards of a batch; returns how many pairs each has."""
        pairs = [
            0
            if self._writer.has(int(shard))  # written by an actor that died before it could say so
            else label_shard(self._tokenizer, self._loader, self._writer, int(shard), device=self._device)
            for shard in batch["shard"]
        ]
        return {"shard": batch["shard"], "pairs": np.array(pairs, np.int64)}


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        remedy = "Run: pip install 'cyclemimic[ray]', or leave --engine out."
        raise InputError("--engine ray", expected="Ray", got="no such package", remedy=remedy) from None
    return ray
