"""Each station of the journey as one function: from names on a command line to files in a run folder.

What `cyclemimic VERB` does, without the command line; the demo and users' scripts call the same functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from cyclemimic.data.cache import build_cache, source_hash
from cyclemimic.data.loader import PairLoader, split_clips
from cyclemimic.data.sources.film import FilmSource
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.writers.film import FilmReport, film
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.store.atomic import read_json, sha256_file, write_json
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.store.label_store import LabelStore
from cyclemimic.tokenizer.tokenizer import WEIGHTS, LatentActionTokenizer
from cyclemimic.train.checkpoint import CONFIG_FILE
from cyclemimic.train.labels import label_cache
from cyclemimic.train.loop import LoopConfig, train, use_threads
from cyclemimic.train.processes import together
from cyclemimic.train.progress import Progress
from cyclemimic.train.stage1_tokenizer import TokenizerTraining, tokenizer_facts, train_tokenizer
from cyclemimic.train.stage2_pretrain import PretrainConfig, PretrainStage, pretrain_data
from cyclemimic.train.stage3_finetune import FinetuneConfig, FinetuneStage, demonstration_data
from cyclemimic.types import Episode, Source, Task, World
from cyclemimic.worlds.arms import ArmsWorld
from cyclemimic.worlds.drawn import DrawnWorld

# One literal table per kind of thing.
SOURCES: dict[str, Callable[[str], Source]] = {"folder": FolderSource, "film": FilmSource}
WORLDS: dict[str, Callable[[], World]] = {"arms": ArmsWorld, "drawn": DrawnWorld}

HELD_OUT = 0.2  # share of clips that no training sees: half for validation, half for the test
SPLIT_SEED = 0


def open_source(text: str) -> Source:
    """`folder:PATH` (video without actions), `film:PATH` (what `film` wrote), or a bare PATH, read as a folder."""
    kind, colon, path = text.partition(":")
    if not colon:
        kind, path = "folder", text
    if kind not in SOURCES:
        raise InputError("--source", expected="KIND:PATH", got=repr(text), remedy=did_you_mean(kind, SOURCES))
    return SOURCES[kind](path)


def make_world(name: str) -> World:
    """A fresh world by name."""
    if name not in WORLDS:
        raise InputError("world", expected="a known world", got=repr(name), remedy=did_you_mean(name, WORLDS))
    return WORLDS[name]()


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
    folder = root / f"{source_hash(source)[:16]}-{size_px}px"
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


def run_tokenizer(
    source: Source,
    config: TokenizerTraining,
    run: Path,
    *,
    cache_root: Path,
    bodies: Sequence[str] = (),
    trunk: Path | None,
) -> Path:
    """Station 2: learn a tokenizer from the training clips of a source, of some bodies or of all."""
    cache = cached(source, config.tokenizer.size_px, cache_root)
    wanted = chosen("bodies", bodies, cache.embodiments)
    keep = np.array(
        [i for i in split_clips(cache.clips, HELD_OUT, SPLIT_SEED).train if cache.clips[i].embodiment in wanted]
    )
    loader = PairLoader([cache], config.gap_s, seed=config.seed, batch_size=config.batch_size, keep=[keep])
    data = {
        "source": cache.source_hash,
        "bodies": list(wanted),
        "clips": len(keep),
        "pairs": loader.num_pairs,
    }
    return train_tokenizer(config, loader, run, trunk=trunk, name=run.name, data=data)


def run_label(source: Source, tokenizer_run: Path, out: Path, *, cache_root: Path, threads: int) -> LabelStore:
    """Station 2 to 3: the encoder labels every pair of a source."""
    use_threads(threads)
    tokenizer = LatentActionTokenizer.load(tokenizer_run)
    cache = cached(source, tokenizer.config.size_px, cache_root)
    sha256 = sha256_file(tokenizer_run / WEIGHTS)
    return label_cache(tokenizer, sha256, cache, tokenizer_facts(tokenizer_run)["gap_s"], out)


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


def demonstrations(source: FilmSource, *, body: str, skills: Sequence[str], per_skill: int) -> list[Episode]:
    """The first `per_skill` demonstrations of each skill on one body, in the order of their names."""
    clips = [c for c in source.clips() if c.embodiment == body]
    if not clips:
        known = sorted({c.embodiment for c in source.clips()})
        raise InputError(
            source.name,
            expected=f"demonstrations of body {body!r}",
            got="none",
            remedy=did_you_mean(body, known),
        )
    skill_of = {clip.name: re.sub(r"-\d+$", "", Path(clip.name).stem) for clip in clips}
    wanted = chosen("skills", skills, sorted(set(skill_of.values())))
    by_skill: dict[str, list[Episode]] = {}
    for clip in clips:
        have = by_skill.setdefault(skill_of[clip.name], [])
        if skill_of[clip.name] in wanted and len(have) < per_skill:
            have.append(source.read(clip))
    short = {skill: len(have) for skill, have in by_skill.items() if 0 < len(have) < per_skill}
    if short:
        raise InputError(
            source.name,
            expected=f"{per_skill} demonstrations per skill",
            got=str(short),
            remedy="Film more, or ask for fewer.",
        )
    return [episode for have in by_skill.values() for episode in have]


def run_finetune(
    source: FilmSource,
    config: FinetuneConfig,
    run: Path,
    *,
    body: str,
    skills: Sequence[str],
    per_skill: int,
    labels: Path | None,
    init: Path | None,
    threads: int,
    checkpoint_every: int = 500,
    loop: LoopConfig | None = None,
) -> Path:
    """Station 3, second half: physical actions from a few demonstrations."""
    use_threads(threads)
    episodes = demonstrations(source, body=body, skills=skills, per_skill=per_skill)
    store = None if labels is None else LabelStore.open(labels)
    if store is not None:
        store.require(source_hash=source.fingerprint())
    chunk_steps = config.network.head.chunk_steps
    data = demonstration_data(episodes, store, chunk_steps=chunk_steps)
    stage = FinetuneStage(config, data, camera=source.camera, init=init)
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
            "demonstrations": source.fingerprint(),
            "body": body,
            "per_skill": per_skill,
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


def check_source(source: Source) -> None:
    """Print what a source holds, clip by clip decoded, and which clips are of no use."""
    clips = source.clips()
    bad: list[str] = []
    progress = Progress(name="check", total=len(clips))
    bodies: dict[str, list[tuple[int, float]]] = {}
    said = 0
    for number, clip in enumerate(clips, start=1):
        try:
            frames = len(source.read(clip).frames)
        except InputError as error:
            bad.append(str(error))
        else:
            bodies.setdefault(clip.embodiment, []).append((frames, clip.fps))
            said += clip.instruction is not None
        progress.update(number)
    print(f"{source.name}: {len(clips)} clips, {said} with a sentence, {len(bad)} of no use")
    for body, found in sorted(bodies.items()):
        lengths = [f for f, _ in found]
        rates = sorted({round(r, 2) for _, r in found})
        spread = f"{min(lengths)} to {max(lengths)} a clip"
        print(f"  {body}: {len(found)} clips, {sum(lengths)} frames ({spread}), {rates} frames/s")
    for line in bad:
        print(f"  of no use: {line}")
    if len(bad) == len(clips):
        raise InputError(source.name, expected="a usable clip", got="none", remedy="See the lines above.")
