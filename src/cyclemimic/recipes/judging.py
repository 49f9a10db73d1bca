"""How a tokenizer is judged: from names on a command line to results."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from cyclemimic.data.joined import joined
from cyclemimic.data.sources.film import FilmSource
from cyclemimic.data.writers.film import task_of
from cyclemimic.errors import InputError
from cyclemimic.evaluate.controls import fit_controls
from cyclemimic.evaluate.counterfactual import (
    Counterfactuals,
    CounterfactualScore,
    Filmed,
    build_counterfactuals,
    measure_counterfactual,
    with_counterfactuals,
)
from cyclemimic.evaluate.inspect import inspect_tokenizer
from cyclemimic.evaluate.judge import Judge, JudgeConfig, fit_judge, report_on
from cyclemimic.evaluate.known_frames import KnownFrames
from cyclemimic.evaluate.leak import ReaderConfig
from cyclemimic.evaluate.models import label_pairs
from cyclemimic.evaluate.moments import TruePairs
from cyclemimic.evaluate.pages import QUALITY_COLUMNS
from cyclemimic.evaluate.parts import KeptLabels, Parts
from cyclemimic.evaluate.quality import Quality, measure_quality
from cyclemimic.evaluate.records import QualityRecord, save_quality
from cyclemimic.evaluate.summary import number as figure
from cyclemimic.evaluate.transfer import measure_references
from cyclemimic.evaluate.verdicts import verdict_lines, verdicts_on
from cyclemimic.recipes import measured_parts
from cyclemimic.recipes.cards import renew_card
from cyclemimic.recipes.footage import SPLIT_SEED, FeatureMode, cached, features_for, gap_for, open_source
from cyclemimic.recipes.known_motion import known_motion, refuse_untold, source_key
from cyclemimic.recipes.lineages import content_of
from cyclemimic.recipes.parts import Part, Sources, frames_of_parts, parts_of
from cyclemimic.recipes.stations import WORLDS, make_world
from cyclemimic.store.atomic import sha256_json
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.train.stage1_tokenizer import tokenizer_facts
from cyclemimic.types import Gap

# Figures that the judge reads, void where it is refused.
JUDGED = (
    "transfer_cosine",
    "transfer_r2",
    "transfer_cosine_same",
    "transfer_cosine_unseen",
    "counterfactual_feature_score",
)


def run_quality(
    run: Path,
    judged_on: str | Part,
    judge_folder: Path,
    out: Path,
    *,
    cache_root: Path,
    side: str = "test",
    controls: bool = False,
    readers: ReaderConfig | None = None,
    features: FeatureMode | Literal["auto"] = "auto",
) -> QualityRecord:
    """Judge a tokenizer's latent actions on clips that it never saw, and write `quality.json` to `out`.

    Of a film of another split of a world, such as arms-distractor, it is `quality-WORLD.json`; of any other source,
    whose episodes must say by a state or by actions how they moved, `quality-SOURCE.json`; of a part of a mixture it is
    `quality-PART.json`. Only films have counterfactuals.

    Args:
        run: the tokenizer.
        judged_on: film:PATH, or another source with a state or actions of named axes; or an opened part of a mixture,
            whose clips are called as the mixture calls them.
        judge_folder: where the judge and the counterfactuals lie, or will; every tokenizer shares them. The judge of a
            source that is no film lies in a folder of its own within.
        out: folder of the record.
        cache_root: folder of decoded frames.
        side: test, or validation for choices.
        controls: whether controls are measured beside it.
        readers: how the readers of the leak are trained.
        features: of a frozen backbone: auto reads kept ones where they are there, see `features_for`.

    Raises:
        InputError: the source does not say how its clips moved.
    """
    part = judged_on if isinstance(judged_on, Part) else Part(name="", source=open_source(judged_on))
    source = part.source
    refuse_untold(source)
    tokenizer = LatentActionTokenizer.load(run)
    facts = tokenizer_facts(run)
    cache = cached(source, tokenizer.config.size_px, cache_root)
    kept = features_for(tokenizer, cache, cache_root, features, "cpu", facts.get("features"))
    cache = cache if part.alone else part.renamed(cache)
    gap_s = gap_for(cache, facts["gap_s"])
    training, validation, test = known_motion(source, cache, gap_s)
    # A world does not know its bodies by other names.
    film = source if isinstance(source, FilmSource) and part.body is None else None
    key = source_key(source) if part.alone else part.name
    parts = measured_parts.of_quality(out, run, cache, key, gap_s, side)
    judges = judge_folder if film else judge_folder / source_key(source)
    judge = fitted_judge(judges, training, validation, parts)
    held_out = test if side == "test" else validation
    seen, foreign = list(facts["bodies"]), tuple[str, ...]()
    if not set(seen) & set(training.bodies):
        foreign = training.bodies  # of a source that was not trained on at all, probes are fitted on its own clips
        seen = list(foreign)
    futures = None
    if film is not None:
        futures = counterfactuals(film, cache, held_out, judge_folder, gap_s=gap_s, bodies=seen, side=side, parts=parts)
    # Kept features are rounded: what was labelled without them is nearly, but not wholly, the same.
    read = parts if kept is None else parts.under("features", kept.recipe.key)
    labels = KeptLabels(tokenizer if kept is None else KnownFrames(tokenizer, [kept]), read.under("labels"))
    judged = read.under(judge.identity(), seen, len(futures) if futures is not None else None)
    quality = measure_quality(
        labels,
        training,
        held_out,
        judge,
        seed=SPLIT_SEED,
        seen_bodies=seen,
        counterfactuals=futures,
        readers=readers or ReaderConfig(),
        parts=judged,
    )
    references = measure_references(labels, held_out, judge, seed=SPLIT_SEED, seen_bodies=seen, parts=judged)
    score = judged.figures(
        "score",
        CounterfactualScore,
        lambda: measure_counterfactual(labels, judge, futures, label_pairs(labels, held_out), seed=SPLIT_SEED),
    )
    beside: dict[str, Quality] = {}
    if controls:
        models = fit_controls(
            training,
            held_out,
            num_codes=quality.num_codes,
            num_tokens=quality.num_tokens,
            seed=SPLIT_SEED,
            tokenizer=tokenizer.config,
        )
        beside = {
            name: measure_quality(
                KeptLabels(model, parts.under("labels", name)),
                training,
                held_out,
                judge,
                seed=SPLIT_SEED,
                seen_bodies=seen,
                parts=judged.under("control", name),
            )
            for name, model in models.items()
        }
    record = QualityRecord(
        quality=quality,
        references=with_counterfactuals(references, score),
        judge=judge.report,
        source=key,
        controls=beside,
        motion=training.motion,
        filmed=film is not None,
        foreign=foreign,
    )
    plain = part.alone and film is not None and key.removeprefix("arms-") == key
    save_quality(out / ("quality.json" if plain else f"quality-{key}.json"), record)
    parts.remove()
    renew_card(run, out)
    return record


def counterfactuals(
    source: FilmSource,
    cache: FrameCache,
    held_out: TruePairs,
    folder: Path,
    *,
    gap_s: Gap,
    bodies: Sequence[str],
    side: str,
    parts: Parts | None = None,
) -> Counterfactuals | None:
    """What truly comes of other actions, made once and kept in `folder`; None where the world cannot be had again."""
    if source.world_name not in WORLDS:
        print(f"no counterfactuals: the film's world {source.world_name!r} is not one of {', '.join(WORLDS)}")
        return None
    # A world may be known under several names, which differ in the size of its pictures.
    alike = [world for world in map(make_world, WORLDS) if world.name == source.world_name]
    world = next((found for found in alike if found.camera == source.camera), None)
    if world is None:
        print(f"no counterfactuals: filmed with {source.camera}, but the world has {alike[0].camera}")
        return None
    size_px, between = cache.recipe.size_px, tuple(sorted(bodies))
    key = sha256_json([1, source.world_name, cache.source_hash, side, gap_s, size_px, between, SPLIT_SEED])
    path = folder / f"counterfactuals-{key[:16]}.npz"
    if path.exists():
        return Counterfactuals.load(path)
    names = {held_out.clip_names[i] for i in np.unique(held_out.clip)}
    filmed = {}
    for clip in source.clips():
        task = task_of(clip.name)
        actions, state = source.actions_of(clip) if clip.name in names and task is not None else (None, None)
        if task is not None and actions is not None and state is not None:
            filmed[clip.name] = Filmed(task=task, actions=actions, tip_m=state[:, :3])
    found = build_counterfactuals(
        world, filmed, held_out, gap_s=gap_s, size_px=size_px, bodies=between, seed=SPLIT_SEED, parts=parts
    )
    found.save(path)
    return found


def quality_text(record: QualityRecord) -> str:
    """A tokenizer's numbers, a line each, beside the controls; verdicts; and whether the judge may be believed."""
    rows = [record.quality.row(), *(found.row() for found in record.controls.values())]
    lines = [*_motion_lines(record)] * (not record.filmed)
    if record.controls or not record.filmed:
        lines.append(f"{'on ' + record.source:31.31}" + "".join(f" {name:>15}" for name in record.controls))
    void = record.judge.refused and not record.filmed
    for key, text in QUALITY_COLUMNS.items():
        first, *others = (figure(row[key]) for row in rows)
        first = "refused" if void and key in JUDGED else first
        lines.append((f"{text:16} {first}" + " " * (15 - len(first)) + " ".join(f"{o:>15}" for o in others)).rstrip())
    for name, score in record.references.row().items():
        cosine = "refused" if void else figure(score["transfer_cosine"])
        psnr = figure(score["counterfactual_psnr_db"])
        lines.append(f"transfer cos {cosine}, counterfactual {psnr} dB of the control {name.replace('_', ' ')}")
    lines += verdict_lines(verdicts_on(record.quality.row()))
    reason = record.judge.reason
    return "\n".join([*lines, f"the judge is refused: {reason}" if reason else "the judge is believed"])


def _motion_lines(record: QualityRecord) -> list[str]:
    """What true motion is here, how far the judge reads each axis of it, and who was never seen."""
    motion, judge = record.motion, record.judge
    axes = ", ".join(f"{name} {figure(r2)}" for name, r2 in zip(motion.axes, judge.r2_axes, strict=True))
    lines = [
        *textwrap.wrap(f"motion: {motion.said}", 110, subsequent_indent="  "),
        f"axes {', '.join(motion.axes)} [{motion.unit}]; alike within {motion.within:g}, moving from {motion.moving:g}",
        f"the judge's R2 on validation clips: {figure(judge.r2)}; {axes}",
    ]
    if record.foreign:
        names = ", ".join(record.foreign)
        said = f"no bodies of the training, by their names: {names}; probes are fitted on their own training clips"
        lines += textwrap.wrap(said, 110, subsequent_indent="  ")
    return lines


def fitted_judge(folder: Path, training: TruePairs, held_out: TruePairs, parts: Parts | None = None) -> Judge:
    """The judge that lies in `folder`, fitted now where there is none.

    One that was fitted on another film is asked about this one: it may be refused here.

    Raises:
        InputError: it reads pictures of another size.
    """
    if not (folder / "judge.json").exists():
        config = JudgeConfig(moving_cm=100 * training.motion.moving)
        judge = fit_judge(training, held_out, seed=SPLIT_SEED, config=config, parts=parts)
        judge.save(folder)
        return judge
    judge = Judge.load(folder)
    size_px = held_out.now.shape[1]
    if judge.size_px != size_px:
        raise InputError(
            "--judge",
            expected=f"a judge of pictures of {size_px} px",
            got=f"{judge.size_px} px",
            remedy="Name another folder; the judge is fitted there on first use.",
        )
    judge.report = report_on(judge, held_out)
    return judge


def run_inspect(
    run: Path,
    source: Sources,
    out: Path,
    *,
    cache_root: Path,
    readers: ReaderConfig | None = None,
    features: FeatureMode | Literal["auto"] = "auto",
) -> str:
    """A page about a tokenizer on any video; returns verdicts and where the page lies, as lines.

    Of a mixture it is one page over the clips of all its sources: as many pairs of each body.
    """
    tokenizer, facts = LatentActionTokenizer.load(run), tokenizer_facts(run)
    caches, _ = frames_of_parts(source, tokenizer.config.size_px, cache_root, "cache")
    known = [features_for(tokenizer, c, cache_root, features, "cpu", facts.get("features")) for c in caches]
    kept = [found for found in known if found is not None]
    model = KnownFrames(tokenizer, kept) if len(kept) == len(caches) else tokenizer
    cache = joined(caches, [part.name for part in parts_of(source)], content_of(source, caches))
    found = inspect_tokenizer(model, cache, out, gap_s=gap_for(cache, facts["gap_s"]), readers=readers)
    return "\n".join([*verdict_lines(found.verdicts()), str(found.page)])
