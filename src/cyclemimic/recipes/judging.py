"""How a run is judged, as one function for each thing that can be judged: from names on a command line to results."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from cyclemimic.data.cache import source_hash
from cyclemimic.data.loader import split_clips
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
from cyclemimic.evaluate.leak import ReaderConfig
from cyclemimic.evaluate.models import QUIET_S, label_pairs
from cyclemimic.evaluate.moments import TruePairs
from cyclemimic.evaluate.open_loop import OpenLoop, open_loop
from cyclemimic.evaluate.pages import QUALITY_COLUMNS, this_machine
from cyclemimic.evaluate.parts import KeptLabels, Parts
from cyclemimic.evaluate.quality import Quality, measure_quality
from cyclemimic.evaluate.records import QualityRecord, load_rollouts, save_quality, save_rollouts
from cyclemimic.evaluate.rollout import (
    Instruct,
    RolloutResult,
    black_image,
    evaluate_policy,
    with_instruction,
)
from cyclemimic.evaluate.suite import Suite, SuiteResult, evaluate_suite
from cyclemimic.evaluate.suites.arms import ArmsSuite
from cyclemimic.evaluate.summary import number as figure
from cyclemimic.evaluate.transfer import measure_references
from cyclemimic.evaluate.verdicts import verdict_lines, verdicts_on
from cyclemimic.names import meets, named
from cyclemimic.policy.network import read_spec
from cyclemimic.policy.policy import LatentActionPolicy
from cyclemimic.recipes import measured_parts
from cyclemimic.recipes.cards import renew_card
from cyclemimic.recipes.footage import HELD_OUT, SPLIT_SEED, cached, chosen, gap_for, open_source
from cyclemimic.recipes.known_motion import known_motion as known_motion
from cyclemimic.recipes.known_motion import refuse_untold, source_key
from cyclemimic.recipes.stations import WORLDS, make_world
from cyclemimic.store.atomic import read_json, sha256_json, write_json
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.train.checkpoint import CONFIG_FILE
from cyclemimic.train.progress import Progress
from cyclemimic.train.stage1_tokenizer import tokenizer_facts
from cyclemimic.types import Episode, Gap, Task, World
from cyclemimic.worlds.arms import ArmsWorld

CHOICE = "choice.json"
SUITES: dict[str, Callable[[], Suite]] = {"arms": ArmsSuite}

# Figures that the judge reads, void where it is refused.
JUDGED = (
    "transfer_cosine",
    "transfer_r2",
    "transfer_cosine_same",
    "transfer_cosine_unseen",
    "counterfactual_feature_score",
)

Show = Literal["as it is", "swapped", "black"]
Split = Literal["held-out", "validation", "test"]


def run_quality(
    run: Path,
    source_text: str,
    judge_folder: Path,
    out: Path,
    *,
    cache_root: Path,
    side: str = "test",
    controls: bool = False,
    readers: ReaderConfig | None = None,
) -> QualityRecord:
    """Judge a tokenizer's latent actions on clips that it never saw, and write `quality.json` to `out`.

    Of a film of another split of a world, such as arms-distractor, it is `quality-WORLD.json`; of any other source,
    whose episodes must say by a state or by actions how they moved, `quality-SOURCE.json`. Only films have
    counterfactuals.

    Args:
        run: the tokenizer.
        source_text: film:PATH, or another source with a state or actions of named axes.
        judge_folder: where the judge and the counterfactuals lie, or will; every tokenizer shares them. The judge of a
            source that is no film lies in a folder of its own within.
        out: folder of the record.
        cache_root: folder of decoded frames.
        side: test, or validation for choices.
        controls: whether controls are measured beside it.
        readers: how the readers of the leak are trained.

    Raises:
        InputError: the source does not say how its clips moved.
    """
    source = open_source(source_text)
    refuse_untold(source)
    tokenizer = LatentActionTokenizer.load(run)
    facts = tokenizer_facts(run)
    cache = cached(source, tokenizer.config.size_px, cache_root)
    gap_s = gap_for(cache, facts["gap_s"])
    training, validation, test = known_motion(source, cache, gap_s)
    film, key = source if isinstance(source, FilmSource) else None, source_key(source)
    parts = measured_parts.of_quality(out, run, cache, key, gap_s, side)
    judges = judge_folder if film else judge_folder / key
    judge = fitted_judge(judges, training, validation, parts)
    held_out = test if side == "test" else validation
    seen, foreign = list(facts["bodies"]), tuple[str, ...]()
    if not set(seen) & set(training.bodies):
        foreign = training.bodies  # of a source that was not trained on at all, probes are fitted on its own clips
        seen = list(foreign)
    futures = None
    if film is not None:
        futures = counterfactuals(film, cache, held_out, judge_folder, gap_s=gap_s, bodies=seen, side=side, parts=parts)
    labels = KeptLabels(tokenizer, parts.under("labels"))
    judged = parts.under(judge.identity(), seen, len(futures) if futures is not None else None)
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
    plain = film is not None and key.removeprefix("arms-") == key
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


def rollout_text(result: RolloutResult) -> str:
    """Success rates, a line per skill, and the exceptions that episodes ended in."""
    rates = {"all": result.row(), **result.per_skill()}
    return "\n".join([*(f"{name:16} {row}" for name, row in rates.items()), *result.error_messages])


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


def shown(show: Show, world: World) -> Instruct | None:
    """How an episode's observations are changed before the policy sees them: the controls of every result."""
    if show == "as it is":
        return None
    if show == "black":
        return lambda task, seen: black_image(seen)
    if not isinstance(world, ArmsWorld):
        raise InputError(
            "--show",
            expected="a world that knows swapped instructions (arms)",
            got=world.name,
            remedy="Use --show black.",
        )
    return lambda task, seen: with_instruction(seen, world.swapped_instruction(task))


def run_rollouts(
    run: Path,
    world_name: str,
    *,
    body: str,
    skills: Sequence[str],
    episodes: int,
    first_seed: int,
    show: Show,
    out: Path,
) -> RolloutResult:
    """Closed-loop success of a policy; the same starts for every policy that is given the same numbers."""
    policy = policy_for(run, body)
    world = make_world(world_name)
    chosen("body", [body], world.bodies)
    # Skill by skill in turn, so that a run that is looked at half-way has seen every skill.
    names = chosen("skills", skills, world.skills)
    tasks = [Task(body=body, skill=skill, seed=first_seed + i) for i in range(episodes) for skill in names]
    name = f"rollouts-{show.replace(' ', '-')}"
    parts = measured_parts.of_policy(out, name, run, world_name, show)
    result = evaluate_policy(
        lambda: make_world(world_name),
        policy,
        tasks,
        chunk_steps=policy.chunk_steps,
        instruct=shown(show, world),
        films_per_skill=1,
        parts=parts,
    )
    save_rollouts(out, name, result)
    parts.remove()
    renew_card(run, out)
    return result


def best_of(
    runs: Sequence[Path],
    world_name: str,
    *,
    body: str,
    skills: Sequence[str],
    episodes: int,
    first_seed: int,
    out: Path,
) -> Path:
    """The policy that does best from some starts, the first of equals; `choice.json` in `out` says how all did.

    What a run did is kept in its folder and not done again, as long as its weights are what they were.
    """
    results = {}
    for run in runs:
        weights = measured_parts.policy_sha256(run)
        folder = run / f"choice-{sha256_json([world_name, body, list(skills), episodes, first_seed, weights])[:12]}"
        if not (folder / "rollouts-as-it-is.json").exists():
            run_rollouts(
                run, world_name, body=body, skills=skills, episodes=episodes, first_seed=first_seed, show="as it is",
                out=folder,
            )  # fmt: skip
        results[run] = load_rollouts(folder, "rollouts-as-it-is").row()
    best = max(runs, key=lambda run: results[run].rate)
    rows = [{"run": run.name, **asdict(results[run])} for run in runs]
    write_json(out / CHOICE, {"first_seed": first_seed, "chosen": runs.index(best), "runs": rows})
    return best


def run_suite(
    run: Path, name: str, *, episodes: int, body: str | None = None, show: Show = "as it is", out: Path
) -> SuiteResult:
    """A policy on a suite, by name or by `package.module:Class`; writes `suite-NAME.json` to `out`."""
    suite: Suite = meets("--suite", name, named("--suite", name, SUITES)(), Suite)

    policy: LatentActionPolicy | None = None

    def ours(acting: str) -> tuple[LatentActionPolicy, int]:
        """One network for all bodies; a policy that knows a single body is tried on each."""
        nonlocal policy
        if policy is None:
            policy = policy_for(run, acting)
        elif len(policy.bodies) > 1:
            policy = policy.driving(acting)
        return policy, policy.chunk_steps

    kept = f"suite-{suite.name}" if show == "as it is" else f"suite-{suite.name}-{show}"
    parts = measured_parts.of_policy(out, kept, run, name, show)
    result = evaluate_suite(suite, ours, episodes=episodes, body=body, instruct=shown(show, suite.world()), parts=parts)
    result.save(out / f"{kept}.json")
    parts.remove()
    renew_card(run, out)
    return result


def policy_for(run: Path, body: str | None, device: str = "cpu") -> LatentActionPolicy:
    """The policy of a run; of one that knows several bodies, for `body`."""
    known = read_spec(run).bodies
    return LatentActionPolicy.load(run, device, embodiment=body if len(known) > 1 else None)


def run_open_loop(
    run: Path,
    source_text: str,
    *,
    out: Path,
    split: Split = "held-out",
    without: Path | None = None,
    body: str | None = None,
) -> OpenLoop:
    """How far a policy's chunks lie from demonstrations that it never saw, beside its controls.

    Args:
        run: a run of `finetune`.
        source_text: demonstrations with actions.
        out: folder for `open-loop.json`.
        split: which held-out clips; names decide the side.
        without: another run of `finetune`, such as one without pre-training, on the same axes.
        body: of a policy that knows several.

    Raises:
        InputError: a clip was trained on, no clip is left, or a run does not say on what it was trained.
    """
    source = open_source(source_text)
    policy = policy_for(run, body)
    runs = [run] if without is None else [run, without]
    trained = {found.name: _trained_clips(found) for found in runs}
    clips = source.clips()
    sides = split_clips(clips, HELD_OUT, SPLIT_SEED)
    index = {"validation": sides.val, "test": sides.test, "held-out": np.union1d(sides.val, sides.test)}[split]
    # A policy of bodies that share an action space is called after the space, and knows them all.
    mine = [clip for clip in clips if policy.embodiment in (clip.embodiment, policy.body.action_space.name)]
    names = {clips[i].name for i in index}
    held_out = [clip for clip in mine if clip.name in names]
    if not held_out:
        raise InputError(
            source_text,
            expected=f"{split} clips of body {policy.embodiment!r}",
            got="none",
            remedy="Record more; a clip's name decides its side.",
        )
    for name, seen in trained.items():
        # By name alone, since a source that has grown has another hash; what was held out is so by its name.
        both = sorted(seen & {clip.name for clip in held_out})
        if both:
            raise InputError(
                name,
                expected="a policy that was not trained on the clips that judge it",
                got=f"{len(both)} clips trained on, the first {both[0]!r}",
                remedy="Fine-tune with the held-out clips left out.",
            )
    same = read_json(run / CONFIG_FILE)["demonstrations"] == source_hash(source)
    habits = trained[run.name] if same else {clips[i].name for i in sides.train}
    taught = [clip for clip in mine if clip.name in habits]
    progress = Progress(name="episodes", total=len(held_out), quiet_s=QUIET_S)

    def read() -> Iterator[Episode]:
        for number, clip in enumerate(held_out):
            yield source.read(clip)
            progress.update(number + 1)

    parts = measured_parts.of_open_loop(out, runs, source, split, body)
    result = open_loop(
        policy,
        read(),
        training_episodes=(source.read(clip) for clip in taught),
        others={} if without is None else {without.name: policy_for(without, body)},
        parts=parts,
    )
    result.save(out / "open-loop.json")
    parts.remove()
    return result


def _trained_clips(run: Path) -> set[str]:
    """The names of the clips that a run was trained on."""
    found = read_json(run / CONFIG_FILE)
    if "clips" not in found:
        raise InputError(
            run / CONFIG_FILE,
            expected="the clips that the policy was trained on",
            got="no record",
            remedy="Fine-tune again with this version, or name a run of `finetune`.",
        )
    return set(found["clips"])


def run_inspect(
    run: Path, source_text: str, out: Path, *, cache_root: Path, readers: ReaderConfig | None = None
) -> str:
    """A page about a tokenizer on any video; returns verdicts and where the page lies, as lines."""
    tokenizer = LatentActionTokenizer.load(run)
    cache = cached(open_source(source_text), tokenizer.config.size_px, cache_root)
    found = inspect_tokenizer(
        tokenizer, cache, out, gap_s=gap_for(cache, tokenizer_facts(run)["gap_s"]), readers=readers
    )
    return "\n".join([*verdict_lines(found.verdicts()), str(found.page)])


def doctor() -> str:
    """What this machine has and lacks, a line each."""
    machine = this_machine()
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    lines = [
        f"processor     {machine.cpu}, {os.cpu_count()} cores, torch uses {machine.threads}",
        f"python        {machine.python}",
        *(f"{name:13} {version}" for name, version in machine.versions.items()),
        f"GPU           {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none (not needed)'}",
        f"disk          {free_gb:.0f} GB free here",
    ]
    world = make_world("arms")
    world.reset(Task(body=world.bodies[0], skill=world.skills[0], seed=0))
    lines.append(f"arms world    draws at {world.camera.width_px} px without OpenGL")
    return "\n".join(lines)
