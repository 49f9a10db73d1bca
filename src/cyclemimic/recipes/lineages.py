"""Where a training's data comes from, for the record, and the labels of each of its sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cyclemimic.data.cache import source_hash
from cyclemimic.errors import InputError
from cyclemimic.recipes.cards import ABSENT
from cyclemimic.recipes.parts import OpenMixture, Part, Sources, name_of, origin_of, parts_of, weights_of
from cyclemimic.store.atomic import sha256_json
from cyclemimic.store.clips import chosen, facts_of
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.store.label_store import LabelStore
from cyclemimic.store.lineage import Lineage, licences_of, read_lineage
from cyclemimic.types import ClipInfo, Int64, Source


def content_of(source: Sources, caches: Sequence[FrameCache]) -> str:
    """A hash of all that is read: the source's own, or of a mixture's names and hashes; its weights stay out."""
    if not isinstance(source, OpenMixture):
        return caches[0].source_hash
    return sha256_json({part.name: cache.source_hash for part, cache in zip(source.parts, caches, strict=True)})


def lineage_of(
    source: Sources, caches: Sequence[FrameCache], clips: Sequence[Int64], num_pairs: Sequence[int]
) -> tuple[Lineage, ...]:
    """Where a training's clips, of each cache those of the given indices, come from, and the share of each source."""
    weights = weights_of(source)
    shares = [1.0] if weights is None else weights.shares(num_pairs).tolist()
    return tuple(
        Lineage(
            name=part.name,
            content=cache.source_hash,
            clips=len(mine),
            licences=licences_of(chosen(cache.clips, mine)),
            origin=origin_of(part.source),
            share=round(share, 6),
            bodies=facts_of(cache.clips).chosen(mine).embodiments,
        )
        for part, cache, mine, share in zip(parts_of(source), caches, clips, shares, strict=True)
    )


def absent_from(source: Sources) -> dict[str, tuple[Lineage, ...]]:
    """The sources that a mixture went on without, as a part of a lineage of no clips; empty where all were there."""
    if not isinstance(source, OpenMixture) or not source.absent:
        return {}
    return {ABSENT: tuple(Lineage(name=n, content="", clips=0, licences={}, share=0.0) for n in source.absent)}


def lineage_of_clips(source: Source, clips: Sequence[ClipInfo]) -> Lineage:
    """Where some clips of a source come from."""
    return Lineage(
        name=name_of(source),
        content=source_hash(source),
        clips=len(clips),
        licences=licences_of(clips),
        origin=origin_of(source),
        bodies=tuple(sorted({clip.embodiment for clip in clips})),
    )


def licences_behind(run: Path) -> dict[str, int] | None:
    """The licences of all that a tokenizer learnt from, its trunk's data too; None where it says nothing of it."""
    rows = {one.content: one for part in read_lineage(run).values() for one in part}
    total: Counter[str] = Counter()
    for one in rows.values():
        total.update(one.licences)
    return dict(sorted(total.items())) or None


def tokenizer_behind(stores: Sequence[LabelStore]) -> dict[str, tuple[Lineage, ...]]:
    """What the tokenizer behind labels learnt from, as the labels tell it."""
    if not stores or stores[0].provenance.tokenizer_licences is None:
        return {}
    told = stores[0].provenance
    licences = dict(told.tokenizer_licences or {})
    one = Lineage(name="its data", content=told.tokenizer_sha256, clips=sum(licences.values()), licences=licences)
    return {"tokenizer": (one,)}


def store_of(labels: Path, source: Sources, part: Part) -> Path:
    """Where the labels of a part lie."""
    return labels / part.name if isinstance(source, OpenMixture) else labels


def labels_of(source: Sources, labels: Path, caches: Sequence[FrameCache]) -> list[LabelStore]:
    """The labels of each part.

    Raises:
        InputError: some are missing, or they were made from other clips or by different tokenizers.
    """
    parts = parts_of(source)
    stores = [LabelStore.open(store_of(labels, source, part)) for part in parts]
    for part, store, cache in zip(parts, stores, caches, strict=True):
        store.require(source_hash=cache.source_hash)
        if store.provenance.tokenizer_sha256 != stores[0].provenance.tokenizer_sha256:
            raise InputError(
                store_of(labels, source, part),
                expected=f"labels by the tokenizer of {parts[0].name!r}",
                got="another tokenizer's",
                remedy="The same code means something else there. Label all sources with one tokenizer.",
            )
    return stores
