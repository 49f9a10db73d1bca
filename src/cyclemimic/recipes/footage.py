"""Footage: sources by name, their frames decoded once or when asked for, where shots begin, and the gap H.

What every station reads from, below one folder of caches.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cyclemimic.data.cache import build_cache, source_hash
from cyclemimic.data.cut_table import cut_table
from cyclemimic.data.cuts import cuts_of, kept_cuts
from cyclemimic.data.filed import Filed, IndexedVideos, content_of, index_source, large_index
from cyclemimic.data.flow import build_flow
from cyclemimic.data.gap import propose_gaps
from cyclemimic.data.segments import ReadMode, read_mode
from cyclemimic.data.sources.calvin import CalvinSource
from cyclemimic.data.sources.chosen import chosen_of, options_of
from cyclemimic.data.sources.film import FilmSource
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.sources.hdf5 import Hdf5Source
from cyclemimic.data.sources.lerobot import LeRobotSource
from cyclemimic.data.sources.remote import heard
from cyclemimic.data.sources.rlds import RldsSource
from cyclemimic.data.sources.webdataset import WebDatasetSource
from cyclemimic.data.true_actions import TrueActions
from cyclemimic.data.unkept import VideoFrames, open_videos
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.names import meets, named
from cyclemimic.nn.words import WordHash
from cyclemimic.store.atomic import sha256_json
from cyclemimic.store.clips import CutTable, facts_of
from cyclemimic.store.feature_cache import FEATURE_INDEX, FeatureCache
from cyclemimic.store.feature_rows import FeatureRecipe, StoredAs
from cyclemimic.store.flow_cache import FlowCache
from cyclemimic.store.frame_cache import INDEX, FrameCache, FramesAs
from cyclemimic.store.index import EpisodeIndex
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.train.features import build_features, feature_recipe, open_features, require_frozen
from cyclemimic.train.processes import local_device, together
from cyclemimic.train.progress import Progress
from cyclemimic.train.stage1_tokenizer import TokenizerTraining
from cyclemimic.types import Float32, Gap, Int64, Source

# One literal table per kind of thing.
SOURCES: dict[str, Callable[[str], Source]] = {
    "folder": FolderSource,
    "film": FilmSource,
    "rlds": RldsSource,
    "hdf5": Hdf5Source,
    "webdataset": WebDatasetSource,
    "calvin": CalvinSource,
    "lerobot": LeRobotSource,
}

FeatureMode = Literal["compute", "cache", "cache-int8"]
STORED: dict[str, StoredAs] = {"cache": "float16", "cache-int8": "int8"}

HELD_OUT = 0.2  # share of clips that no training sees: half for validation, half for the test
SPLIT_SEED = 0


def open_source(text: str) -> Source:
    """The source that `text` names.

    `folder:PATH` (video without actions), `film:PATH` (what `film` wrote), `lerobot:PATH` or `lerobot:OWNER/NAME`
    (options behind `?`, see `LeRobotSource`), or a bare PATH, read as a folder. PATH may be a URL. One from outside is
    `package.module:Class=PATH`; the class is called with PATH.

    Every source knows three options: `?skip=LIST.json` leaves out the clips of a list (`data check --drop` writes one),
    `?stabilise=shift` or `turn` holds the main camera still, `?cache_fps=10` keeps at most so many frames a second.
    """
    plain, options = options_of(text)
    return chosen_of(_open_plain(plain), text, options)


def _open_plain(text: str) -> Source:
    """The source that `text` names, whose options are those of its kind alone."""
    kind, colon, path = text.partition(":")
    if not colon:
        kind, path = "folder", text
    if kind == "mixture":
        raise InputError(
            "--source",
            expected="one source",
            got=repr(text),
            remedy="Name one of its sources: demonstrations, true codes and policies are of one. Mixtures are taken by "
            "data, tokenizer, label, pretrain, inspect, and evaluate of a tokenizer.",
        )
    if kind in SOURCES:
        copied = Progress(name="copy, bytes", total=1)

        def say(done: int, total: int) -> None:
            copied.total = total
            copied.update(done)

        with heard(say):
            return SOURCES[kind](path)
    outside, equals, argument = text.partition("=")
    if not equals:
        raise InputError(
            "--source",
            expected="KIND:PATH or package.module:Class=PATH",
            got=repr(text),
            remedy=did_you_mean(kind, SOURCES),
        )
    return meets("--source", outside, named("--source", outside, SOURCES)(argument), Source)


def chosen(what: str, wanted: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """`wanted`, or everything known where nothing is wanted; InputError for an unknown one."""
    for name in wanted:
        if name not in known:
            raise InputError(f"--{what}", expected=f"known {what}", got=repr(name), remedy=did_you_mean(name, known))
    return tuple(wanted) or tuple(known)


def cached(source: Source, size_px: int, root: Path, stored_as: FramesAs | None = None) -> FrameCache:
    """The source's frames at one size, decoded once below `root`; stored as they are there already unless told."""
    # Named by content: the same video under another name, or as a film with actions, is not decoded twice.
    folder = root / _name_of_cache(source_hash(source), size_px)
    progress = Progress(name=f"decode at {size_px} px", total=len(source.clips()))
    seen = 0

    def say(line: str) -> None:
        nonlocal seen
        if re.match(r"\d+/\d+ ", line):
            seen += 1
            progress.update(seen)
        elif "is up to date" not in line:
            print(line, flush=True)

    with together() as first:
        if first:
            build_cache(source, folder, size_px, stored_as=stored_as, progress=say)
    return FrameCache.open(folder)


def frames_of(
    source: Source, size_px: int, root: Path, read: ReadMode | Literal["auto"]
) -> tuple[FrameCache, ReadMode]:
    """The source's frames, decoded once or when asked for, and which of it."""
    videos: FrameCache | None = None
    if read == "auto":
        large = large_index(source, index_path(source, root))
        content = (large and content_of(large)) or source_hash(source)
        if (root / _name_of_cache(content, size_px) / INDEX).exists() or not isinstance(source, Filed):
            read = "cache"
        else:
            root.mkdir(parents=True, exist_ok=True)
            videos = open_videos(source, size_px, index=indexed(source, root))
            read = read_mode(videos, shutil.disk_usage(root).free)
        print(f"read: {read}", flush=True)
    if read == "cache":
        return cached(source, size_px, root), read
    videos = videos or open_videos(source, size_px, index=indexed(source, root))
    for skipped in videos.skipped:
        print(f"skipped {skipped.name}: {skipped.reason}", flush=True)
    return videos, read


def indexed(source: Source, root: Path, *, threads: int = 1, look_again: bool = False) -> EpisodeIndex:
    """What reading a source's frames needs, looked up once and kept below `root`.

    Whether files came or changed is seen at every call, but of a large source only with `look_again`: otherwise its
    files are looked at when they are opened, see `large_index`.
    """
    path, said = index_path(source, root), Progress(name="index", total=1)
    if not look_again and (large := large_index(source, path)) is not None:
        print(
            f"index: {len(large)} episodes as they were; a file is looked at when it is opened. If files came or "
            "changed, run `cyclemimic data index` of this source.",
            flush=True,
        )
        return large

    def say(done: int, total: int) -> None:
        said.total = total
        said.update(done)

    with together() as first:
        if first:
            index_source(source, path, threads=threads, progress=say)
    return EpisodeIndex.open(path)


def index_path(source: Source, root: Path) -> Path:
    """Where the index of a source lies below the folder of caches."""
    return root / f"index-{sha256_json(source.name)[:16]}.parquet"


def _name_of_cache(content: str, size_px: int) -> str:
    return f"{content[:16]}-{size_px}px"


def shots(cache: FrameCache, root: Path, *, threads: int = 1) -> Sequence[Int64]:
    """Where new shots begin in each clip of a cache; found once, and kept beside the frames or the index."""
    decoded = "" if cache.kept else "-unkept"
    path = root / f"{_name_of_cache(cache.source_hash, cache.size_px)}{decoded}-cuts.json"
    frames: Any = cache.frames
    if isinstance(frames, VideoFrames) and isinstance(frames.indices, IndexedVideos):
        return _shots_of_index(cache, frames.indices, path, threads)
    with together() as first:
        if first:
            cuts_of(cache, path)
    return cuts_of(cache, path)


def _shots_of_index(cache: FrameCache, videos: IndexedVideos, before: Path, threads: int) -> CutTable:
    path = videos.episodes.path.with_name(f"{videos.episodes.path.stem}-{cache.size_px}px-cuts.parquet")
    said = Progress(name="cuts", total=1)

    def say(done: int, total: int) -> None:
        said.total = total
        said.update(done)

    with together() as first:
        if first:
            kept = None if path.exists() else kept_cuts(cache, before)  # as they were kept before there was a table
            known = None if kept is None else dict(zip(videos.rows.tolist(), kept, strict=True))
            cut_table(cache, path, threads=threads, progress=say, known=known)
    found, bad = cut_table(cache, path)
    if bad:
        print(f"{bad} clips cannot be decoded and are left out; column fault of {path} says why", flush=True)
    return found


def settled_gap(caches: FrameCache | Sequence[FrameCache], gap_s: Gap | Literal["auto"]) -> Gap:
    """H as it was given, or for each body of one or several caches what its motion asks for."""
    if gap_s != "auto":
        return gap_s
    with together() as first:
        return propose_gaps(caches, progress=print if first else None)


def gap_for(cache: FrameCache, gap_s: Gap) -> Gap:
    """A tokenizer's H for the bodies of a cache; where it has one for each, new ones get theirs by the same rule."""
    if not isinstance(gap_s, Mapping):
        return gap_s
    facts = facts_of(cache.clips)
    new = np.flatnonzero(~np.isin(np.array(facts.bodies)[facts.body], tuple(gap_s)))
    found = dict(propose_gaps(cache.subset(new), progress=print)) if len(new) else {}
    return {body: gap_s.get(body, found.get(body, 0.0)) for body in cache.embodiments}


def gap_name(gap_s: Gap) -> str:
    """Names H in a folder's name."""
    return f"{sha256_json(dict(gap_s))[:8]}" if isinstance(gap_s, Mapping) else f"{gap_s:g}s"


def loader_extras(
    sources: Sequence[Source], caches: Sequence[FrameCache], config: TokenizerTraining, gap_s: Gap, root: Path
) -> dict[str, Any]:
    """What the terms of this objective want beside pairs, as arguments of `PairLoader`.

    Raises:
        InputError: a share of true actions is wanted of sources that know none, or of several.
    """
    terms, extras = config.objective, dict[str, Any]()
    if terms.composition:
        extras["triplets"] = True
    if config.tokenizer.words:
        extras["words"] = WordHash(vocabulary=config.tokenizer.word_hashes)
    if terms.flow:
        extras["flow"] = [_flow_of(cache, gap_s, root) for cache in caches]
    if terms.actions:
        source = sources[0]
        if len(sources) > 1 or not isinstance(source, FilmSource):
            raise InputError(
                "ObjectiveConfig.actions",
                expected="one source whose true motion is known (film:PATH)",
                got=", ".join(source.name for source in sources),
                remedy="Name such a source, or set the weight to 0.",
            )
        extras["actions"] = TrueActions(places=true_places(source), share=config.action_share)
    return extras


def _flow_of(cache: FrameCache, gap_s: Gap, root: Path) -> FlowCache:
    if not cache.kept:
        remedy = "Read from the cache, or set the weight to 0."
        raise InputError("ObjectiveConfig.flow", expected="--read cache", got="another", remedy=remedy)
    folder = root / f"{_name_of_cache(cache.source_hash, cache.size_px)}-flow-{gap_name(gap_s)}"
    with together() as first:
        if first:
            build_flow(cache, gap_s, folder, progress=print)
    return FlowCache.open(folder)


def kept_features(
    tokenizer: LatentActionTokenizer, cache: FrameCache, root: Path, mode: Literal["cache", "cache-int8"], device: str
) -> FeatureCache:
    """What a tokenizer's frozen backbone makes of every frame of a cache, made once and kept below `root`.

    Raises:
        InputError: a backbone that learns, frames that no cache holds, or no room for the features.
    """
    require_frozen(tokenizer)
    require_kept_frames(cache)
    recipe = feature_recipe(cache, tokenizer.backbone, tokenizer.config.backbone, STORED[mode])
    folder = _folder_of_features(recipe, root)
    with together() as first:
        if first:
            build_features(cache, tokenizer.backbone, recipe, folder, device=local_device(device), progress=print)
    return FeatureCache.open(folder, recipe)


def features_at_hand(
    tokenizer: LatentActionTokenizer, cache: FrameCache, root: Path, device: str, trained_on: StoredAs | None
) -> FeatureCache | None:
    """Features of every frame of a cache where they are kept already: as those of training were, else as float16."""
    if not tokenizer.sees_frozen or not cache.kept:
        return None
    for stored_as in dict.fromkeys((trained_on or "float16", "float16")):
        recipe = feature_recipe(cache, tokenizer.backbone, tokenizer.config.backbone, stored_as)
        folder = _folder_of_features(recipe, root)
        if (folder / FEATURE_INDEX).exists():
            place = local_device(device)
            return open_features(folder, recipe, cache, tokenizer.backbone.to(place), place)
    return None


def features_for(
    tokenizer: LatentActionTokenizer,
    cache: FrameCache,
    root: Path,
    mode: FeatureMode | Literal["auto"],
    device: str,
    trained_on: StoredAs | None,
) -> FeatureCache | None:
    """Features of every frame of a cache as `--features` says: `auto` takes those at hand and makes none."""
    if mode == "auto":
        return features_at_hand(tokenizer, cache, root, device, trained_on)
    return None if mode == "compute" else kept_features(tokenizer, cache, root, mode, device)


def require_kept_frames(cache: FrameCache) -> None:
    """InputError where frames are decoded when asked for: features are kept of a frame cache alone."""
    if not cache.kept:
        remedy = "Read from the cache, or leave --features at compute."
        raise InputError("--features", expected="--read cache", got="another", remedy=remedy)


def _folder_of_features(recipe: FeatureRecipe, root: Path) -> Path:
    # By all that decides them: another backbone, or frames decoded anew, have a folder of their own.
    name = _name_of_cache(recipe.source_hash, recipe.size_px)
    return root / f"{name}-features-{recipe.key[:16]}-{recipe.stored_as}"


def true_places(source: FilmSource) -> dict[str, NDArray[np.floating[Any]]]:
    """Where the hand is at every frame of each clip [T, 3], in metres."""
    states = ((clip.name, source.actions_of(clip)[1]) for clip in source.clips())
    return {name: state[:, :3] for name, state in states if state is not None}


def true_states(source: Source) -> dict[str, Float32]:
    """The robot's state at every frame of each clip [T, P]. InputError where a source knows none."""
    states = {}
    for clip in source.clips():
        state = source.actions_of(clip)[1] if isinstance(source, FilmSource) else None
        if state is None:
            raise InputError(
                "--proprioception", expected="film:PATH with proprioception", got=source.name,
                remedy="Film with actions, or leave it out.",
            )  # fmt: skip
        states[clip.name] = state
    return states
