"""Frame pairs whose true motion a source knows: a film by its simulator, any other by its state or actions."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cyclemimic.data.cache import source_hash
from cyclemimic.data.pairs import clip_gap
from cyclemimic.data.sources.film import FilmSource
from cyclemimic.data.splits import split_clips
from cyclemimic.errors import InputError
from cyclemimic.evaluate.moments import TruePairs, true_pairs
from cyclemimic.evaluate.motion import HAND, Motion, motions, told_by
from cyclemimic.recipes.footage import HELD_OUT, SPLIT_SEED
from cyclemimic.store.atomic import sha256_json
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.types import Gap, Source

LIMITS = (6000, 2000, 2000)  # pairs of training, validation and test clips


def known_motion(source: Source, cache: FrameCache, gap_s: Gap) -> tuple[TruePairs, TruePairs, TruePairs]:
    """Pairs with their true displacement, of training, validation and test clips: for measurements only.

    Raises:
        InputError: the source knows no motion, or a side has no clip.
    """
    sides = split_clips(cache.clips, HELD_OUT, SPLIT_SEED)
    counts = {"training": len(sides.train), "validation": len(sides.val), "test": len(sides.test)}
    if not all(counts.values()):
        got = ", ".join(f"{count} for {side}" for side, count in counts.items())
        film = isinstance(source, FilmSource)
        remedy = f"{'Film more episodes' if film else 'Give more clips'}; names decide the side."
        raise InputError(source.name, expected="clips for training, validation and test", got=got, remedy=remedy)
    positions: Mapping[str, NDArray[np.float64]]
    if isinstance(source, FilmSource):
        positions, motion = _filmed(source), HAND
    else:
        positions, motion = _told(source, cache, sides.train.tolist(), gap_s)
    training, validation, test = (
        true_pairs(cache.subset(side), positions, gap_s=gap_s, limit=limit, seed=SPLIT_SEED, motion=motion)
        for side, limit in zip((sides.train, sides.val, sides.test), LIMITS, strict=True)
    )
    return training, validation, test


def refuse_untold(source: Source) -> None:
    """Raise InputError unless the first clip that can be read says how it moved: before hours of decoding."""
    if isinstance(source, FilmSource):
        return
    for clip in source.clips():
        try:
            episode = source.read(clip)
        except InputError:
            continue  # it is skipped when all are decoded, which says so
        told_by(episode)
        return


def source_key(source: Source) -> str:
    """A source in names of files: a film's world; else the last part of its name and the beginning of its hash."""
    if isinstance(source, FilmSource):
        return source.world_name
    last = re.split(r"[?]", source.name)[0].rstrip("/").rpartition("/")[2]
    word = re.sub(r"[^A-Za-z0-9]+", "-", last).strip("-")
    return f"{word or 'source'}-{sha256_json([source.name, source_hash(source)])[:8]}"


def _filmed(source: FilmSource) -> dict[str, NDArray[np.float64]]:
    positions = {}
    for clip in source.clips():
        _, state = source.actions_of(clip)
        if state is None:
            raise InputError(source.name, expected="proprioception", got="none", remedy="Film with actions.")
        positions[clip.name] = state[:, :3].astype(np.float64)
    return positions


def _told(
    source: Source, cache: FrameCache, training: list[int], gap_s: Gap
) -> tuple[Mapping[str, NDArray[np.float64]], Motion]:
    listed = {clip.name: clip for clip in source.clips()}
    told = {info.name: told_by(source.read(listed[info.name])) for info in cache.clips}
    gaps = {info.name: clip_gap(gap_s, info) for info in cache.clips}
    return motions(told, gaps, [cache.clips[i].name for i in training], source.name)
