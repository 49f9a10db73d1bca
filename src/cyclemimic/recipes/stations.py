"""Each station of the journey as one function: from names on a command line to files in a run folder.

What `cyclemimic VERB` does, without the command line; the demo and users' scripts call the same functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cyclemimic.data.cache import source_hash
from cyclemimic.data.loader import PairLoader
from cyclemimic.data.segments import ReadMode, SegmentLoader
from cyclemimic.data.sources.film import FilmSource
from cyclemimic.data.splits import split_clips
from cyclemimic.data.writers.film import FilmReport, film
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.names import meets, named
from cyclemimic.policy.network import read_spec
from cyclemimic.recipes.cards import from_run, write_card
from cyclemimic.recipes.footage import (
    HELD_OUT,
    SPLIT_SEED,
    FeatureMode,
    chosen,
    features_for,
    frames_of,
    gap_for,
    kept_features,
    loader_extras,
    require_kept_frames,
    shots,
    true_states,
)
from cyclemimic.recipes.lineages import (
    absent_from,
    content_of,
    labels_of,
    licences_behind,
    lineage_of,
    lineage_of_clips,
    store_of,
    tokenizer_behind,
)
from cyclemimic.recipes.objectives import univla_stages, with_backbone
from cyclemimic.recipes.parts import (
    OpenMixture,
    Sources,
    frames_of_parts,
    origin_of,
    parts_of,
    settled_gaps,
    weights_of,
)
from cyclemimic.store.atomic import read_json, sha256_file, write_json
from cyclemimic.store.clips import chosen as some
from cyclemimic.store.clips import facts_of
from cyclemimic.store.feature_cache import FeatureCache
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.store.label_store import LabelStore, missing_shards
from cyclemimic.store.lineage import save_lineage
from cyclemimic.tokenizer.tokenizer import CONFIG as TOKENIZER
from cyclemimic.tokenizer.tokenizer import WEIGHTS, LatentActionTokenizer
from cyclemimic.train.checkpoint import CONFIG_FILE
from cyclemimic.train.demonstrations import DemonstrationData, demonstration_data
from cyclemimic.train.labels import label_part
from cyclemimic.train.loop import LoopConfig, train, use_threads
from cyclemimic.train.processes import together
from cyclemimic.train.progress import Progress
from cyclemimic.train.ray_labels import label_with_ray
from cyclemimic.train.signals import ended_at_once
from cyclemimic.train.stage1_tokenizer import TokenizerTraining, tokenizer_facts, train_tokenizer
from cyclemimic.train.stage2_pretrain import PretrainConfig, PretrainData, PretrainStage, pretrain_data
from cyclemimic.train.stage3_finetune import FinetuneConfig, FinetuneStage
from cyclemimic.types import ClipInfo, Int64, Source, Task, World
from cyclemimic.worlds.arms import ArmsWorld
from cyclemimic.worlds.drawn import DrawnWorld

# One literal table per kind of thing.
WORLDS: dict[str, Callable[[], World]] = {
    "arms": ArmsWorld,
    "arms-128": partial(ArmsWorld, size_px=128),
    "arms-distractor": partial(ArmsWorld, disturbance="distractor"),
    "arms-moving-camera": partial(ArmsWorld, disturbance="moving_camera"),
    "drawn": DrawnWorld,
}


def make_world(name: str) -> World:
    """A fresh world by name, or by `package.module:Class`."""
    return meets("world", name, named("world", name, WORLDS)(), World)


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


def run_tokenizer(
    source: Sources,
    config: TokenizerTraining,
    run: Path,
    *,
    cache_root: Path,
    bodies: Sequence[str] = (),
    trunk: Path | None,
    backbone: str | None = None,
    read: ReadMode | Literal["auto"] = "cache",
    features: FeatureMode = "compute",
    loop: LoopConfig | None = None,
) -> Path:
    """Station 2: learn a tokenizer from the training clips of a source or a mixture, of some bodies or of all.

    `read` says where frames come from: `cache` decodes the source once, `segment` decodes runs of frames as they are
    needed, `direct` seeks every pair; `auto` chooses by size and key frames. `direct` gives the batches that `cache`
    gives. With `features` other than `compute` a frozen backbone sees every frame once, and what it makes of them is
    kept beside the frames.

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
                features=features,
                loop=loop,
            )
    caches, read = frames_of_parts(source, config.tokenizer.size_px, cache_root, read)
    if features != "compute":
        for cache in caches:
            require_kept_frames(cache)
    wanted = chosen("bodies", bodies, sorted({body for cache in caches for body in cache.embodiments}))
    keep = [_training_clips(cache, wanted) for cache in caches]
    gap_s = settled_gaps(source, caches, keep, config.gap_s)
    config = replace(config, gap_s=gap_s)
    extras = loader_extras([part.source for part in parts_of(source)], caches, config, gap_s, cache_root)
    extras |= {"seed": config.seed, "batch_size": config.batch_size}
    cuts = [shots(cache, cache_root, threads=config.threads) for cache in caches]
    loader = (
        SegmentLoader(caches, gap_s, keep=keep, cuts=cuts, sources=weights_of(source), **extras)
        if read == "segment"
        else PairLoader(caches, gap_s, keep=keep, cuts=cuts, sources=weights_of(source), **extras)
    )
    lineage = lineage_of(source, caches, keep, loader.pairs_per_cache())
    data = {
        "source": content_of(source, caches),
        **({"mixture": [asdict(one) for one in lineage]} if isinstance(source, OpenMixture) else {}),
        **({"read": read} if read == "segment" else {}),  # which has another order of pairs
        **({"features": features} if features != "compute" else {}),  # which are rounded
        "bodies": list(wanted),
        "clips": sum(map(len, keep)),
        "pairs": loader.num_pairs,
        "labelled_clips": list(loader.labelled_clips),
        "action_std": None if loader.action_std is None else loader.action_std.tolist(),
    }

    def kept(tokenizer: LatentActionTokenizer) -> tuple[FeatureCache, ...]:
        assert features != "compute"
        return tuple(kept_features(tokenizer, cache, cache_root, features, config.device) for cache in caches)

    done = train_tokenizer(
        config,
        loader,
        run,
        trunk=trunk,
        backbone=frozen_from,
        name=run.name,
        data=data,
        features=None if features == "compute" else kept,
        loop=loop,
    )
    with together() as writes:
        if writes:
            behind = {**from_run("trunk", trunk), **from_run("backbone", frozen_from)}
            save_lineage(run, data=lineage, **absent_from(source), **behind)
            write_card(run)
    return done


def _training_clips(cache: FrameCache, bodies: Sequence[str]) -> Int64:
    """Indices of the clips of these bodies that are not held out."""
    facts, train_side = facts_of(cache.clips), split_clips(cache.clips, HELD_OUT, SPLIT_SEED).train
    found: Int64 = train_side[np.isin(np.array(facts.bodies)[facts.body[train_side]], bodies)]
    return found


def run_label(
    source: Source, tokenizer_run: Path, out: Path, *, cache_root: Path, threads: int, device: str = "cpu"
) -> LabelStore:
    """Station 2 to 3: the encoder labels every pair of a source."""
    run_label_part(source, tokenizer_run, out, cache_root=cache_root, threads=threads, device=device)
    return LabelStore.open(out)


def run_label_part(
    source: Sources,
    tokenizer_run: Path,
    out: Path,
    *,
    cache_root: Path,
    threads: int,
    device: str = "cpu",
    part: int = 0,
    num_parts: int = 1,
    read: Literal["cache", "direct"] = "cache",
    features: FeatureMode | Literal["auto"] = "auto",
    bodies: Sequence[str] = (),
    engine: Literal["plain", "ray"] = "plain",
    workers: int = 1,
) -> tuple[int, ...]:
    """One of several jobs that label a source together; returns the shards that the store still lacks.

    Each source of a mixture gets a store of its own, OUT/NAME, which other mixtures may use; the shards that are
    lacking are then those of all. Jobs that start at once need a cache that is there already, or `read` direct.
    `features` auto takes kept ones where they are there and makes none; see `features_at_hand`. With `bodies` only
    their clips are labelled, and pre-training sees no others. With the engine `ray` the one job is shared among
    `workers` actors, and the store's bytes are the same (train/ray_labels.py); they compute features anew.

    Raises:
        InputError: Ray is to share what several jobs share already, or some bodies of one source.
        RunInterruptedError: SIGTERM or Ctrl-C; the same call goes on, and the store's bytes will be the same.
    """
    if engine == "ray" and num_parts > 1:
        remedy = "Name more --workers instead."
        raise InputError("--num-shards", expected="1 with --engine ray", got=str(num_parts), remedy=remedy)
    use_threads(threads)
    if engine == "ray" and bodies:
        remedy = "Leave the bodies away, or the engine."
        raise InputError("--bodies", expected="all of them with --engine ray", got=", ".join(bodies), remedy=remedy)
    with ended_at_once("Decoded clips and labels of whole shards and sittings are kept."):
        tokenizer = LatentActionTokenizer.load(tokenizer_run)
        caches, _ = frames_of_parts(source, tokenizer.config.size_px, cache_root, read)
        wanted = chosen("bodies", bodies, sorted({body for cache in caches for body in cache.embodiments}))
        facts, learnt = tokenizer_facts(tokenizer_run), licences_behind(tokenizer_run)
        sha256 = sha256_file(tokenizer_run / WEIGHTS)
        missing: list[int] = []
        for one, cache in zip(parts_of(source), caches, strict=True):
            place = store_of(out, source, one)
            if isinstance(source, OpenMixture):
                print(f"label {one.name}", flush=True)
            cuts = shots(cache, cache_root, threads=threads)
            gap_s = gap_for(cache, facts["gap_s"])
            known: dict[str, Any] = {"origin": origin_of(one.source), "tokenizer_licences": learnt}
            if engine == "ray":
                size_px = tokenizer.config.size_px
                opened = partial(_frames_again, cache.source_hash, one.source, size_px, cache_root, read)
                run = tokenizer_run.absolute()
                label_with_ray(run, sha256, opened, gap_s, place, cuts=cuts, device=device, workers=workers, **known)
            else:
                kept = features_for(tokenizer, cache, cache_root, features, device, facts.get("features"))
                if bodies:
                    numbers = facts_of(cache.clips)
                    keep = np.flatnonzero(np.isin(np.array(numbers.bodies)[numbers.body], wanted))
                    # Kept features lie in the order of the whole cache; here they are computed anew: the same codes.
                    cache, cuts, kept = cache.subset(keep), some(cuts, keep), None
                    gap_s = gap_for(cache, facts["gap_s"])
                label_part(
                    tokenizer, sha256, cache, gap_s, place,
                    cuts=cuts, device=device, part=part, num_parts=num_parts, features=kept, **known,
                )  # fmt: skip
            missing += missing_shards(place)
    return tuple(missing)


def _frames_again(
    content: str, source: Source, size_px: int, cache_root: Path, read: Literal["cache", "direct"]
) -> FrameCache:
    """What `frames_of` gave, opened by another process."""
    cache, _ = frames_of(source, size_px, cache_root, read)
    if cache.source_hash != content:
        remedy = "Wait until nothing writes there, then run this again."
        raise InputError(source.name, expected="video that stays as it is", got="other video", remedy=remedy)
    return cache


def run_pretrain(
    source: Sources,
    labels: Path,
    config: PretrainConfig,
    run: Path,
    *,
    cache_root: Path,
    threads: int,
    proprioception: bool = False,
    checkpoint_every: int = 500,
    loop: LoopConfig | None = None,
) -> Path:
    """Station 3, first half: which latent action follows a picture and a sentence.

    Of a mixture the labels are those that `run_label_part` wrote, a store for each source. With `proprioception` the
    robot's state is seen too, which no video has: a bound, for films with actions.
    """
    use_threads(threads)
    caches, _ = frames_of_parts(source, config.network.backbone.image_px, cache_root, "cache")
    stores = labels_of(source, labels, caches)
    states = None
    if proprioception:
        if isinstance(source, OpenMixture):
            raise InputError(
                "--proprioception", expected="film:PATH", got="a mixture", remedy="Name one film, or leave it out."
            )
        states = true_states(source)
    data = pretrain_data(caches, stores, states, moving=config.moving_weight > 0)
    held_out = _held_out(data, caches)
    training = data.subset(np.flatnonzero(~held_out))
    stage = PretrainStage(config, training, sources=weights_of(source))
    keep = [split_clips(cache.clips, HELD_OUT, SPLIT_SEED) for cache in caches]
    trained = [np.union1d(side.train, side.test) for side in keep]
    moments = np.bincount(training.cache, minlength=len(caches)).tolist()
    lineage = lineage_of(source, caches, trained, moments)
    train(
        stage,
        name=run.name,
        run_dir=run,
        config={
            **asdict(config),
            **({"proprioception": True} if proprioception else {}),
            "threads": threads,
            "source": content_of(source, caches),
            **({"mixture": [asdict(one) for one in lineage]} if isinstance(source, OpenMixture) else {}),
            "tokenizer": stores[0].provenance.tokenizer_sha256,
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
        if first:
            save_lineage(run, data=lineage, **absent_from(source), **tokenizer_behind(stores))
            write_card(run)
    return run


def _held_out(data: PretrainData, caches: Sequence[FrameCache]) -> NDArray[np.bool_]:
    """Which moments [N] lie in clips for validation, of each cache by its own names."""
    out = np.zeros(len(data), bool)
    for number, cache in enumerate(caches):
        here = data.cache == number
        clip = np.searchsorted(cache.offsets, data.frame[here], side="right") - 1
        out[here] = np.isin(clip, split_clips(cache.clips, HELD_OUT, SPLIT_SEED).val)
    return out


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
    as_one_body: bool = False,
    checkpoint_every: int = 500,
    loop: LoopConfig | None = None,
) -> Path:
    """Station 3, second half: physical actions from a few demonstrations, of one body or of several at once.

    Several bodies get an action decoder each, or `as_one_body` share one, where they share an action space. Any source
    will do whose episodes carry actions. Which clips were used stands in the run's configuration, so that
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
    whole = [clip for mine in clips.values() for clip in mine]
    sets = [whole] if as_one_body else list(clips.values())
    data = [_demonstrations(source, mine, store, config, image_px, alone=len(sets) == 1) for mine in sets]
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
            "clips": [clip.name for clip in whole],
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
            used = [clip for mine in clips.values() for clip in mine]
            shown = lineage_of_clips(source, used)
            save_lineage(run, data=[shown], **from_run("init", init), **tokenizer_behind([store] if store else []))
            write_card(run)
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
        moving=config.moving_weight > 0,
    )
