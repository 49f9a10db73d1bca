"""Each station of the journey as one function: from names on a command line to files in a run folder.

What `cyclemimic VERB` does, without the command line; the demo and users' scripts call the same functions.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cyclemimic.data.cache import build_cache, source_hash
from cyclemimic.data.check import check_clips
from cyclemimic.data.cuts import cuts_of
from cyclemimic.data.flow import build_flow
from cyclemimic.data.gap import propose_gaps
from cyclemimic.data.loader import PairLoader, split_clips
from cyclemimic.data.seek import Filed, index_source, open_videos
from cyclemimic.data.segments import ReadMode, SegmentLoader, read_mode
from cyclemimic.data.sources.calvin import CalvinSource
from cyclemimic.data.sources.film import FilmSource
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.sources.hdf5 import Hdf5Source
from cyclemimic.data.sources.rlds import RldsSource
from cyclemimic.data.sources.webdataset import WebDatasetSource
from cyclemimic.data.true_actions import TrueActions
from cyclemimic.data.writers.film import FilmReport, film
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.names import meets, named
from cyclemimic.nn.words import WordHash
from cyclemimic.policy.network import read_spec
from cyclemimic.recipes.objectives import univla_stages, with_backbone
from cyclemimic.store.atomic import read_json, sha256_file, sha256_json, write_json
from cyclemimic.store.flow_cache import FlowCache
from cyclemimic.store.frame_cache import INDEX, FrameCache
from cyclemimic.store.index import EpisodeIndex
from cyclemimic.store.label_store import LabelStore, missing_shards
from cyclemimic.tokenizer.tokenizer import CONFIG as TOKENIZER
from cyclemimic.tokenizer.tokenizer import WEIGHTS, LatentActionTokenizer
from cyclemimic.train.checkpoint import CONFIG_FILE
from cyclemimic.train.demonstrations import DemonstrationData, demonstration_data
from cyclemimic.train.labels import label_part
from cyclemimic.train.loop import LoopConfig, train, use_threads
from cyclemimic.train.processes import together
from cyclemimic.train.progress import Progress
from cyclemimic.train.stage1_tokenizer import TokenizerTraining, tokenizer_facts, train_tokenizer
from cyclemimic.train.stage2_pretrain import PretrainConfig, PretrainStage, pretrain_data
from cyclemimic.train.stage3_finetune import FinetuneConfig, FinetuneStage
from cyclemimic.types import ClipInfo, Gap, Int64, Source, Task, World
from cyclemimic.worlds.arms import ArmsWorld
from cyclemimic.worlds.drawn import DrawnWorld

# One literal table per kind of thing.
SOURCES: dict[str, Callable[[str], Source]] = {
    "folder": FolderSource,
    "film": FilmSource,
    "rlds": RldsSource,
    "hdf5": Hdf5Source,
    "webdataset": WebDatasetSource,
    "calvin": CalvinSource,
}
WORLDS: dict[str, Callable[[], World]] = {
    "arms": ArmsWorld,
    "arms-distractor": partial(ArmsWorld, disturbance="distractor"),
    "arms-moving-camera": partial(ArmsWorld, disturbance="moving_camera"),
    "drawn": DrawnWorld,
}

HELD_OUT = 0.2  # share of clips that no training sees: half for validation, half for the test
SPLIT_SEED = 0


def open_source(text: str) -> Source:
    """The source that `text` names.

    `folder:PATH` (video without actions), `film:PATH` (what `film` wrote), or a bare PATH, read as a folder. One from
    outside is `package.module:Class=PATH`; the class is called with PATH.
    """
    kind, colon, path = text.partition(":")
    if not colon:
        kind, path = "folder", text
    if kind in SOURCES:
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


def make_world(name: str) -> World:
    """A fresh world by name, or by `package.module:Class`."""
    return meets("world", name, named("world", name, WORLDS)(), World)


def chosen(what: str, wanted: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """`wanted`, or everything known where nothing is wanted; InputError for an unknown one."""
    for name in wanted:
        if name not in known:
            raise InputError(f"--{what}", expected=f"known {what}", got=repr(name), remedy=did_you_mean(name, known))
    return tuple(wanted) or tuple(known)


def film_world(
    world_name: str,
    out: Path,
    *,
    episodes: int,
    bodies: Sequence[str],
    skills: Sequence[str],
    first_seed: int,
    actions: bool,
    tail_steps: int = 0,
) -> FilmReport:
    """Let the scripted experts act and write video, and the actions apart. Every body gets starts of its own."""
    world = make_world(world_name)
    tasks = [
        Task(body=body, skill=skill, seed=first_seed + 100_000 * world.bodies.index(body) + i)
        for body in chosen("bodies", bodies, world.bodies)
        for skill in chosen("skills", skills, world.skills)
        for i in range(episodes)
    ]
    progress = Progress(name="film", total=len(tasks))
    count = iter(range(1, len(tasks) + 1))
    return film(
        world,
        tasks,
        out,
        keep_actions=actions,
        tail_steps=tail_steps,
        progress=lambda line: progress.update(next(count)),
    )


def cached(source: Source, size_px: int, root: Path) -> FrameCache:
    """The source's frames at one size, decoded once below `root`."""
    # Named by content: the same video under another name, or as a film with actions, is not decoded twice.
    folder = root / _name_of_cache(source_hash(source), size_px)
    progress = Progress(name=f"decode at {size_px} px", total=len(source.clips()))
    seen = 0

    def say(line: str) -> None:
        nonlocal seen
        if re.match(r"\d+/\d+ ", line):
            seen += 1
            progress.update(seen)
        elif line.startswith("skipped"):
            print(line, flush=True)

    with together() as first:
        if first:
            build_cache(source, folder, size_px, progress=say)
    return FrameCache.open(folder)


def frames_of(
    source: Source, size_px: int, root: Path, read: ReadMode | Literal["auto"]
) -> tuple[FrameCache, ReadMode]:
    """The source's frames, decoded once or when asked for, and which of it."""
    if read == "auto":
        if (root / _name_of_cache(source_hash(source), size_px) / INDEX).exists() or not isinstance(source, Filed):
            read = "cache"
        else:
            root.mkdir(parents=True, exist_ok=True)
            read = read_mode(open_videos(source, size_px, index=indexed(source, root)), shutil.disk_usage(root).free)
        print(f"read: {read}", flush=True)
    if read == "cache":
        return cached(source, size_px, root), read
    videos = open_videos(source, size_px, index=indexed(source, root))
    for skipped in videos.skipped:
        print(f"skipped {skipped.name}: {skipped.reason}", flush=True)
    return videos, read


def indexed(source: Source, root: Path, *, threads: int = 1) -> EpisodeIndex:
    """What reading a source's frames needs, looked up once and kept below `root`."""
    path, said = root / f"index-{sha256_json(source.name)[:16]}.parquet", Progress(name="index", total=1)

    def say(done: int, total: int) -> None:
        said.total = total
        said.update(done)

    with together() as first:
        if first:
            index_source(source, path, threads=threads, progress=say)
    return EpisodeIndex.open(path)


def _name_of_cache(content: str, size_px: int) -> str:
    return f"{content[:16]}-{size_px}px"


def shots(cache: FrameCache, root: Path) -> list[Int64]:
    """Where new shots begin in each clip of a cache; found once and kept beside the frames."""
    decoded = "" if isinstance(cache.frames, np.ndarray) else "-unkept"
    path = root / f"{_name_of_cache(cache.source_hash, cache.size_px)}{decoded}-cuts.json"
    with together() as first:
        if first:
            cuts_of(cache, path)
    return cuts_of(cache, path)


def run_tokenizer(
    source: Source,
    config: TokenizerTraining,
    run: Path,
    *,
    cache_root: Path,
    bodies: Sequence[str] = (),
    trunk: Path | None,
    backbone: str | None = None,
    read: ReadMode | Literal["auto"] = "cache",
    loop: LoopConfig | None = None,
) -> Path:
    """Station 2: learn a tokenizer from the training clips of a source, of some bodies or of all.

    `read` says where frames come from: `cache` decodes the source once, `segment` decodes runs of frames as they are
    needed, `direct` seeks every pair; `auto` chooses by size and key frames. `direct` gives the batches that `cache`
    gives.

    With the objective `univla` two stages are learnt, the first in `run`/first-stage unless `trunk` names one.
    """
    if backbone is not None:
        config = with_backbone(config, backbone)
    taken = backbone is not None and config.tokenizer.backbone.kind != "pretrained"
    frozen_from = Path(backbone) if backbone is not None and taken and (Path(backbone) / TOKENIZER).exists() else None
    if config.objective.objective == "univla" and not config.tokenizer.words and not config.tokenizer.given_tokens:
        first, config = univla_stages(config)
        if trunk is None:
            trunk = run / "first-stage"
            run_tokenizer(
                source,
                first,
                trunk,
                cache_root=cache_root,
                bodies=bodies,
                trunk=None,
                backbone=backbone,
                read=read,
                loop=loop,
            )
    cache, read = frames_of(source, config.tokenizer.size_px, cache_root, read)
    wanted = chosen("bodies", bodies, cache.embodiments)
    keep = np.array(
        [i for i in split_clips(cache.clips, HELD_OUT, SPLIT_SEED).train if cache.clips[i].embodiment in wanted]
    )
    gap_s = settled_gap(cache.subset(keep), config.gap_s)
    config = replace(config, gap_s=gap_s)
    extras = loader_extras(source, cache, config, gap_s, cache_root)
    extras |= {"seed": config.seed, "batch_size": config.batch_size}
    cuts = shots(cache, cache_root)
    loader = (
        SegmentLoader(cache, gap_s, keep=keep, cuts=cuts, **extras)
        if read == "segment"
        else PairLoader([cache], gap_s, keep=[keep], cuts=[cuts], **extras)
    )
    data = {
        "source": cache.source_hash,
        **({"read": read} if read == "segment" else {}),  # which has another order of pairs
        "bodies": list(wanted),
        "clips": len(keep),
        "pairs": loader.num_pairs,
        "labelled_clips": list(loader.labelled_clips),
        "action_std": None if loader.action_std is None else loader.action_std.tolist(),
    }
    return train_tokenizer(config, loader, run, trunk=trunk, backbone=frozen_from, name=run.name, data=data, loop=loop)


def settled_gap(cache: FrameCache, gap_s: Gap | Literal["auto"]) -> Gap:
    """H as it was given, or for each body of a cache what its motion asks for."""
    if gap_s != "auto":
        return gap_s
    with together() as first:
        return propose_gaps(cache, progress=print if first else None)


def gap_for(cache: FrameCache, gap_s: Gap) -> Gap:
    """A tokenizer's H for the bodies of a cache; where it has one for each, new ones get theirs by the same rule."""
    if not isinstance(gap_s, Mapping):
        return gap_s
    new = np.array([i for i, clip in enumerate(cache.clips) if clip.embodiment not in gap_s], np.int64)
    found = dict(propose_gaps(cache.subset(new), progress=print)) if len(new) else {}
    return {body: gap_s.get(body, found.get(body, 0.0)) for body in cache.embodiments}


def gap_name(gap_s: Gap) -> str:
    """Names H in a folder's name."""
    return f"{sha256_json(dict(gap_s))[:8]}" if isinstance(gap_s, Mapping) else f"{gap_s:g}s"


def loader_extras(
    source: Source, cache: FrameCache, config: TokenizerTraining, gap_s: Gap, root: Path
) -> dict[str, Any]:
    """What the terms of this objective want beside pairs, as arguments of `PairLoader`.

    Raises:
        InputError: a share of true actions is wanted of a source that knows none.
    """
    terms, extras = config.objective, dict[str, Any]()
    if terms.composition:
        extras["triplets"] = True
    if config.tokenizer.words:
        extras["words"] = WordHash(vocabulary=config.tokenizer.word_hashes)
    if terms.flow:
        if not isinstance(cache.frames, np.ndarray):
            remedy = "Read from the cache, or set the weight to 0."
            raise InputError("ObjectiveConfig.flow", expected="--read cache", got="another", remedy=remedy)
        folder = root / f"{_name_of_cache(cache.source_hash, cache.size_px)}-flow-{gap_name(gap_s)}"
        with together() as first:
            if first:
                build_flow(cache, gap_s, folder, progress=print)
        extras["flow"] = [FlowCache.open(folder)]
    if terms.actions:
        if not isinstance(source, FilmSource):
            raise InputError(
                "ObjectiveConfig.actions",
                expected="a source whose true motion is known (film:PATH)",
                got=source.name,
                remedy="Name such a source, or set the weight to 0.",
            )
        extras["actions"] = TrueActions(places=true_places(source), share=config.action_share)
    return extras


def true_places(source: FilmSource) -> dict[str, NDArray[np.floating[Any]]]:
    """Where the hand is at every frame of each clip [T, 3], in metres."""
    states = ((clip.name, source.actions_of(clip)[1]) for clip in source.clips())
    return {name: state[:, :3] for name, state in states if state is not None}


def run_label(
    source: Source, tokenizer_run: Path, out: Path, *, cache_root: Path, threads: int, device: str = "cpu"
) -> LabelStore:
    """Station 2 to 3: the encoder labels every pair of a source."""
    run_label_part(source, tokenizer_run, out, cache_root=cache_root, threads=threads, device=device)
    return LabelStore.open(out)


def run_label_part(
    source: Source,
    tokenizer_run: Path,
    out: Path,
    *,
    cache_root: Path,
    threads: int,
    device: str = "cpu",
    part: int = 0,
    num_parts: int = 1,
    read: Literal["cache", "direct"] = "cache",
) -> tuple[int, ...]:
    """One of several jobs that label a source together; returns the shards that the store still lacks.

    Jobs that start at once need a cache that is there already, or `read` direct.
    """
    use_threads(threads)
    tokenizer = LatentActionTokenizer.load(tokenizer_run)
    cache, _ = frames_of(source, tokenizer.config.size_px, cache_root, read)
    sha256 = sha256_file(tokenizer_run / WEIGHTS)
    gap_s, cuts = gap_for(cache, tokenizer_facts(tokenizer_run)["gap_s"]), shots(cache, cache_root)
    label_part(tokenizer, sha256, cache, gap_s, out, cuts=cuts, device=device, part=part, num_parts=num_parts)
    return missing_shards(out)


def run_pretrain(
    source: Source,
    labels: Path,
    config: PretrainConfig,
    run: Path,
    *,
    cache_root: Path,
    threads: int,
    checkpoint_every: int = 500,
    loop: LoopConfig | None = None,
) -> Path:
    """Station 3, first half: which latent action follows a picture and a sentence."""
    use_threads(threads)
    cache = cached(source, config.network.backbone.image_px, cache_root)
    store = LabelStore.open(labels)
    store.require(source_hash=cache.source_hash)
    data = pretrain_data([cache], store)
    sides = split_clips(cache.clips, HELD_OUT, SPLIT_SEED)
    clip = np.searchsorted(cache.offsets, data.frame, side="right") - 1
    held_out = np.isin(clip, sides.val)
    training = data.subset(np.flatnonzero(~held_out))
    stage = PretrainStage(config, training)
    train(
        stage,
        name=run.name,
        run_dir=run,
        config={
            **asdict(config),
            "threads": threads,
            "source": cache.source_hash,
            "tokenizer": store.provenance.tokenizer_sha256,
        },
        steps=config.optim.steps,
        checkpoint_every=checkpoint_every,
        samples_per_step=config.batch,
        loop=loop,
    )
    with together() as first:
        if first:
            stage.save(run)
        if first and held_out.any():
            scores = stage.validate(data.subset(np.flatnonzero(held_out)))
            write_json(run / "validation.json", asdict(scores))
            accuracy = ", ".join(f"{a:.2f}" for a in scores.slot_accuracy)
            print(f"held-out clips: latent NLL {scores.latent_nll:.3f} nats, accuracy by slot {accuracy}")
    return run


def demonstration_clips(
    source: Source, *, body: str, skills: Sequence[str], per_skill: int, hold_out: bool = False
) -> tuple[ClipInfo, ...]:
    """The first `per_skill` demonstrations of each skill on one body, in the order of their names.

    A skill is what `film` calls so, in other sources a sentence. With `hold_out` the clips that `evaluate` takes for
    its own are left out.
    """
    everything = source.clips()
    sides = split_clips(everything, HELD_OUT, SPLIT_SEED)
    open_to_us = sides.train if hold_out else np.arange(len(everything))
    clips = [everything[i] for i in open_to_us if everything[i].embodiment == body]
    if not clips:
        known = sorted({c.embodiment for c in everything})
        raise InputError(
            source.name,
            expected=f"demonstrations of body {body!r}",
            got="none",
            remedy=did_you_mean(body, known) if body not in known else "All its clips are held out; record more.",
        )
    filmed = isinstance(source, FilmSource)
    skill_of = {c.name: re.sub(r"-\d+$", "", Path(c.name).stem) if filmed else str(c.instruction) for c in clips}
    wanted = chosen("skills", skills, sorted(set(skill_of.values())))
    by_skill: dict[str, list[ClipInfo]] = {skill: [] for skill in dict.fromkeys(skill_of.values()) if skill in wanted}
    for clip in clips:
        have = by_skill.get(skill_of[clip.name])
        if have is not None and len(have) < per_skill:
            have.append(clip)
    short = {skill: len(have) for skill, have in by_skill.items() if len(have) < per_skill}
    if short:
        raise InputError(
            source.name,
            expected=f"{per_skill} demonstrations per skill",
            got=str(short),
            remedy="Film more, or ask for fewer.",
        )
    return tuple(clip for have in by_skill.values() for clip in have)


def run_finetune(
    source: Source,
    config: FinetuneConfig,
    run: Path,
    *,
    body: str | Sequence[str],
    skills: Sequence[str],
    per_skill: int,
    labels: Path | None,
    init: Path | None,
    threads: int,
    hold_out: bool = False,
    checkpoint_every: int = 500,
    loop: LoopConfig | None = None,
) -> Path:
    """Station 3, second half: physical actions from a few demonstrations, of one body or of several at once.

    Any source will do whose episodes carry actions. Which clips were used stands in the run's configuration, so that
    `run_open_loop` can refuse them.
    """
    use_threads(threads)
    bodies = [body] if isinstance(body, str) else list(dict.fromkeys(body))
    clips = {
        name: demonstration_clips(source, body=name, skills=skills, per_skill=per_skill, hold_out=hold_out)
        for name in bodies
    }
    store = None if labels is None else LabelStore.open(labels)
    if store is not None:
        store.require(source_hash=source_hash(source))
    image_px = (config.network if init is None else read_spec(init).config).backbone.image_px
    data = [_demonstrations(source, mine, store, config, image_px, alone=len(bodies) == 1) for mine in clips.values()]
    stage = FinetuneStage(config, data, init=init)
    if store is not None and init is not None and (init / CONFIG_FILE).exists():
        # The same number of codes is not the same codes: only the tokenizer behind the pre-training means them.
        store.require(tokenizer_sha256=read_json(init / CONFIG_FILE).get("tokenizer"))
    train(
        stage,
        name=run.name,
        run_dir=run,
        config={
            **asdict(config),
            "threads": threads,
            "demonstrations": source_hash(source),
            "body": bodies[0] if len(bodies) == 1 else bodies,
            "per_skill": per_skill,
            "clips": [clip.name for mine in clips.values() for clip in mine],
            "init": None if init is None else init.name,
            "labels": None if store is None else store.provenance.tokenizer_sha256,
        },
        steps=config.optim.steps,
        checkpoint_every=checkpoint_every,
        samples_per_step=config.batch,
        loop=loop,
    )
    with together() as first:
        if first:
            stage.save(run)
    return run


def _demonstrations(
    source: Source,
    clips: Sequence[ClipInfo],
    labels: LabelStore | None,
    config: FinetuneConfig,
    image_px: int,
    *,
    alone: bool,
) -> DemonstrationData:
    """The moments of one body's clips; beside other bodies it may lack a camera that they have."""
    first = source.read(clips[0])
    rate_hz = first.info.fps if first.action_space is None else first.action_space.rate_hz
    return demonstration_data(
        (source.read(clip) for clip in clips),
        labels,
        chunk_steps=config.network.head.steps_at(rate_hz),
        extra_cameras=[name for name in config.extra_cameras if alone or name in first.extra_frames],
        image_px=image_px,
    )


def check_source(source: Source) -> None:
    """Print what a source holds, clip by clip decoded, and which clips are of no use."""
    progress = Progress(name="check", total=len(source.clips()))
    report = check_clips(source, progress=lambda done, total: progress.update(done))
    for line in report.lines():
        print(line)
    if not report.usable:
        raise InputError(source.name, expected="a usable clip", got="none", remedy="See the lines above.")
