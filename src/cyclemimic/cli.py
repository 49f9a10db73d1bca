"""One verb per station, in the order in which data travels."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclemimic.errors import InputError
from cyclemimic.robot.command import main as drive_command

try:
    import tyro

    from cyclemimic.data.check import GAP_S
    from cyclemimic.data.skip import DROPPED
    from cyclemimic.data.sources.film import FilmSource
    from cyclemimic.recipes import ablate as studies
    from cyclemimic.recipes import checking, exporting, footage, judging, lineages, parts, remote, reporting, stations
    from cyclemimic.recipes import demo as demo_recipe
    from cyclemimic.recipes import dry_run as rehearsal
    from cyclemimic.recipes.ablations import changed
    from cyclemimic.recipes.commands import StudySize
    from cyclemimic.recipes.paper import paper
    from cyclemimic.recipes.policy_rows import POLICY
    from cyclemimic.recipes.policy_study import PolicyStudy, policy_study_of
    from cyclemimic.recipes.published import tables_text
    from cyclemimic.recipes.recipe import Recipe, RecipeObjective, find_recipe
    from cyclemimic.recipes.small import small
    from cyclemimic.recipes.tables import find_table
    from cyclemimic.recipes.tiny import tiny
    from cyclemimic.recipes.true_codes import label_true_motion
    from cyclemimic.store.label_store import LabelStore
    from cyclemimic.train.endings import RunEndedError
    from cyclemimic.train.loop import LoopConfig, use_threads
    from cyclemimic.train.processes import processes
    from cyclemimic.train.trackers import TrackerName
except ModuleNotFoundError as missing:
    sys.exit(
        f"cyclemimic: {missing.name} is not installed; the command line needs: pip install 'cyclemimic[train]' "
        "(all but `cyclemimic drive`, which needs the light install alone)"
    )

RECIPES = {"tiny": tiny, "small": small, "paper": paper}
CACHE = Path("runs/cache")
RESULTS = Path("benchmarks/results")
STUDY = StudySize()


def film(
    world: tyro.conf.Positional[str],
    out: Path,
    episodes: int = 20,
    bodies: tuple[str, ...] = (),
    skills: tuple[str, ...] = (),
    first_seed: int = 0,
    actions: bool = True,
    tail_steps: int = 0,
    report: bool = False,
) -> None:
    """Film scripted experts in a simulated world: video files, and the actions apart from them.

    Args:
        world: which world: arms, arms-128, arms-distractor, arms-moving-camera, drawn, or package.module:Class.
        out: folder for video/ (with a sidecar of sentences) and actions/.
        episodes: how many per body and skill.
        bodies: which bodies; all unless named.
        skills: which skills; all unless named.
        first_seed: starts are drawn from this number on.
        actions: whether actions are written (apart from the video).
        tail_steps: how long the expert goes on once the task is solved.
        report: print expert success per body and skill.
    """
    found = stations.film_world(
        world,
        out,
        episodes=episodes,
        bodies=bodies,
        skills=skills,
        first_seed=first_seed,
        actions=actions,
        tail_steps=tail_steps,
    )
    print(f"{found.clips} clips in {out / 'video'}, {found.filmed} of them filmed now")
    if report:
        print(found.table())


def data(
    action: tyro.conf.Positional[Literal["check", "cache", "index", "export"]],
    source: tyro.conf.Positional[str],
    size_px: int = 64,
    threads: int = 1,
    cache: Path = CACHE,
    to: exporting.Kind = "lerobot-v3",
    labels: Path | None = None,
    out: Path | None = None,
    gap_s: float = GAP_S,
    report: Path | None = None,
    drop: Path | None = None,
    drop_kinds: tuple[str, ...] = DROPPED,
) -> None:
    """Look at a source of video, decode it once into a memory-mapped cache, or write it for others to read.

    Args:
        action: check prints and draws what is there, what will hurt training, and which gap suits each body; cache
            decodes; index notes key frames and sizes in one Parquet file, so that reading without a cache begins at
            once; export writes.
        source: folder:PATH, film:PATH, lerobot:PATH, rlds:PATH, hdf5:PATH, webdataset:PATH, calvin:PATH, or
            package.module:Class=PATH; export aside also mixture:bridge, mixture:full, mixture:FILE.toml, or
            mixture:package.module:function. Of a mixture, check prints shares, episodes and licences. Behind any but a
            mixture ?skip=LIST.json leaves clips out, and ?stabilise=shift (or turn) holds a shaking camera still; name
            it so to every verb.
        size_px: side of the cached pictures.
        threads: how many files are indexed at once.
        cache: folder of all caches.
        to: export: a LeRobot dataset, or the labels alone as Parquet or JSON lines.
        labels: export: what `cyclemimic label` wrote for this source.
        out: export: the folder to write.
        gap_s: check: seconds over which motion is looked for; of a mixture, where an entry gives none.
        report: check: the page; runs/check/NAME.html unless given.
        drop: check: a JSON file to write, of clips that are better left out, for the source's ?skip=LIST.json.
        drop_kinds: check: of which kinds: unreadable, duplicate, still, short, camera.
    """
    if action == "export":
        if out is None:
            raise InputError("--out", expected="a folder to export to", got="none", remedy="Name one.")
        print(exporting.export(footage.open_source(source), out, to=to, labels=labels))
        return
    opened = parts.open_sources(source)
    if action == "check" and isinstance(opened, parts.OpenMixture):
        print("\n".join(parts.mixture_lines(opened, gap_s)))
        return
    for one in parts.parts_of(opened):
        if action == "check":
            checking.check_source(one.source, gap_s=gap_s, page=report, drop=drop, drop_kinds=drop_kinds)
        elif action == "cache":
            footage.cached(one.source, size_px, cache)
        else:
            found = footage.indexed(one.source, cache, threads=threads)
            bad = int((found.frames == 0).sum())
            print(f"{len(found)} episodes, {int(found.frames.sum())} frames, {bad} of no use: {found.path}")


def tokenizer(
    source: str,
    run: Path,
    recipe: str = "tiny",
    objective: RecipeObjective = "ac3",
    trunk: Path | None = None,
    backbone: str | None = None,
    read: Literal["cache", "segment", "direct", "auto"] = "cache",
    features: footage.FeatureMode = "compute",
    steps: int | None = None,
    gap_s: float | Literal["auto"] | None = None,
    decoder: str | None = None,
    critic: str | None = None,
    change: Literal["pixels", "features", "matches", "none"] | None = None,
    bodies: tuple[str, ...] = (),
    seed: int | None = None,
    threads: int = 1,
    device: str | None = None,
    precision: Literal["fp32", "bf16"] | None = None,
    cache: Path = CACHE,
    tracker: TrackerName = "tensorboard",
    keep_last: int = 2,
    checkpoint_every_s: float | None = None,
    dry_run: Literal["sizes", "step"] | None = None,
) -> None:
    """Learn latent actions from video alone. Started again with the same command it goes on where it stopped.

    Args:
        source: where the video lies, such as folder:PATH or package.module:Class=PATH; or several sources at once:
            mixture:bridge, mixture:full, mixture:FILE.toml, mixture:package.module:function.
        run: folder for weights, metrics and checkpoints.
        recipe: tiny, small, paper, or package.module:function.
        objective: trunk and genie are reconstruction alone; ac3 adds the cycle and the discriminator; lapa and
            univla are the controls of those names.
        trunk: a run to begin from, so that both objectives branch off one; without it one run does both parts.
        backbone: frozen features: a hub id, a folder, a run of `cyclemimic tokenizer` whose backbone is taken, or
            package.module:Class.
        read: cache decodes the video once, segment decodes runs of frames as they are needed, direct seeks every pair;
            auto chooses by size and key frames.
        features: of a frozen backbone: compute runs it on every frame of every batch; cache runs it once on every frame
            of the source and keeps what it gives on disk, rounded to 16 bits, cache-int8 in half of that.
        steps: updates; the recipe's unless given.
        gap_s: seconds between the two frames of a pair; auto proposes them for each body from how fast it moves.
        decoder: motion moves what is in the frame, pixel paints, feature predicts features; or package.module:Class.
        critic: local-global, local, none; or package.module:Class.
        change: what E sees of the change beside both frames.
        bodies: embodiments to learn from; all unless named.
        seed: initialisation and data order.
        threads: of one core each; final weights depend on it.
        device: cpu, cuda, cuda:1 ...; the recipe's unless given.
        precision: fp32, or bf16 by autocast (for GPUs); the recipe's unless given.
        cache: folder of decoded frames.
        tracker: where figures can be watched: tensorboard, wandb, trackio or none.
        keep_last: how many checkpoints are kept.
        checkpoint_every_s: also write one after so many seconds.
        dry_run: train nothing: print sizes and work, and with `step` take one real step of two pairs of noise.
    """
    found = the_recipe(recipe)
    apart = objective in ("lapa", "univla")
    config = found.in_one_run(objective) if trunk is None or apart else getattr(found, objective)
    changes = {
        "steps": steps,
        "gap_s": gap_s,
        "seed": seed,
        "threads": threads,
        "device": device,
        "precision": precision,
    }
    config = replace(config, **{k: v for k, v in changes.items() if v is not None})
    pieces = {k: v for k, v in {"decoder": decoder, "change": change}.items() if v is not None}
    config = replace(config, tokenizer=replace(config.tokenizer, **pieces))
    if critic is not None:
        config = replace(config, discriminator=replace(config.discriminator, kind=critic))
    if dry_run is not None:
        print(rehearsal.rehearsed(config, backbone=backbone, step=dry_run == "step", device=device or "cpu"))
        return
    stations.run_tokenizer(
        parts.open_sources(source),
        config,
        run,
        cache_root=cache,
        bodies=bodies,
        trunk=trunk,
        backbone=backbone,
        read=read,
        features=features,
        loop=LoopConfig(tracker=tracker, keep_last=keep_last, checkpoint_every_s=checkpoint_every_s),
    )
    print(f"tokenizer in {run}")


def label(
    source: str,
    out: Path,
    tokenizer: Path | None = None,
    true_motion: Path | None = None,
    gap_s: float = 0.6,
    bodies: tuple[str, ...] = (),
    shard_index: int = 0,
    num_shards: int = 1,
    read: Literal["cache", "direct"] = "cache",
    features: Literal["auto", "compute", "cache", "cache-int8"] = "auto",
    engine: Literal["plain", "ray"] = "plain",
    workers: int = 1,
    threads: int = 1,
    device: str = "cpu",
    cache: Path = CACHE,
) -> None:
    """Label every frame pair of a source with its latent action, into Parquet with provenance.

    Args:
        source: where the video lies, such as folder:PATH, or a mixture as `tokenizer` takes it.
        out: folder of the label store, or of one for each source of a mixture; what is labelled already is kept.
            Stopped by SIGTERM or Ctrl-C (exit code 75), the same command goes on.
        tokenizer: a run of `cyclemimic tokenizer`.
        true_motion: instead of a tokenizer, for film:PATH: perfect codes of the hand's true motion. Folder of their
            codebook, fitted on first use.
        gap_s: of true motion: seconds between the two frames of a pair.
        bodies: whose clips are labelled; all unless named.
        shard_index: which of `num_shards` jobs this is, from 0; the store can be read once all are done.
        num_shards: how many jobs label this source together.
        read: cache decodes the video once, direct as it is needed; jobs that start together need a finished cache, or
            direct.
        features: of a frozen backbone: auto reads what training kept on disk where it is there, and else computes;
            compute, cache and cache-int8 as `cyclemimic tokenizer` has them.
        engine: ray shares the work by Ray Data (`pip install 'cyclemimic[ray]'`), and writes the same bytes.
        workers: ray: how many actors.
        threads: of one core each.
        device: cpu, cuda ...
        cache: folder of decoded frames.
    """
    if (tokenizer is None) == (true_motion is None):
        raise InputError(
            "--tokenizer", expected="a tokenizer, or --true-motion", got="neither" if tokenizer is None else "both",
            remedy="Name a run of `cyclemimic tokenizer`.",
        )  # fmt: skip
    if true_motion is not None:
        film = footage.open_source(source)
        if not isinstance(film, FilmSource):
            raise InputError("--source", expected="film:PATH", got=source, remedy="Name what `film` wrote.")
        store = label_true_motion(film, out, true_motion, gap_s=gap_s, bodies=bodies)
        print(f"{len(store)} labels of {len(store.clips)} clips in {out}")
        return
    assert tokenizer is not None
    opened = parts.open_sources(source)
    missing = stations.run_label_part(
        opened,
        tokenizer,
        out,
        cache_root=cache,
        threads=threads,
        device=device,
        part=shard_index,
        num_parts=num_shards,
        read=read,
        features=features,
        bodies=bodies,
        engine=engine,
        workers=workers,
    )
    if missing and num_shards > 1:
        print(f"job {shard_index} of {num_shards} is done; {len(missing)} shards are left to the others")
        return
    for one in parts.parts_of(opened):
        place = lineages.store_of(out, opened, one)
        store = LabelStore.open(place)
        print(f"{len(store)} labels of {len(store.clips)} clips in {place}")


def pretrain(
    source: str,
    labels: Path,
    run: Path,
    proprioception: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    recipe: str = "tiny",
    policy_backbone: str | None = None,
    steps: int | None = None,
    seed: int | None = None,
    threads: int = 1,
    cache: Path = CACHE,
    tracker: TrackerName = "tensorboard",
    keep_last: int = 2,
    checkpoint_every_s: float | None = None,
) -> None:
    """Teach the policy which latent action follows a picture and a sentence; no actions are read.

    Args:
        source: the video that was labelled, or the mixture.
        labels: what `cyclemimic label` wrote.
        run: folder for weights, metrics and checkpoints.
        proprioception: of film:PATH, see the robot's state as well, which no video has: a bound.
        recipe: tiny, small, paper, or package.module:function.
        policy_backbone: prismatic, or package.module:Class; the recipe's unless given.
        steps: updates; the recipe's unless given.
        seed: initialisation and data order.
        threads: of one core each; final weights depend on it.
        cache: folder of decoded frames.
        tracker: where figures can be watched: tensorboard, wandb, trackio or none.
        keep_last: how many checkpoints are kept.
        checkpoint_every_s: also write one after so many seconds.
    """
    config = the_recipe(recipe).pretrain
    if policy_backbone is not None:
        config = replace(config, network=replace(config.network, backbone_kind=policy_backbone))
    if steps is not None:
        config = replace(config, optim=replace(config.optim, steps=steps))
    if seed is not None:
        config = replace(config, seed=seed)
    stations.run_pretrain(
        parts.open_sources(source),
        labels,
        config,
        run,
        cache_root=cache,
        threads=threads,
        proprioception=proprioception,
        loop=LoopConfig(tracker=tracker, keep_last=keep_last, checkpoint_every_s=checkpoint_every_s),
    )
    print(f"pre-trained policy in {run}")


def finetune(
    source: str,
    run: Path,
    body: tuple[str, ...],
    labels: Path | None = None,
    init: Path | None = None,
    adaptation: Literal["lora", "full"] = "lora",
    per_skill: int = 20,
    skills: tuple[str, ...] = (),
    head: str | None = None,
    extra_cameras: tuple[str, ...] = (),
    proprioception: bool = True,
    instruction_dropout: float = 0.0,
    hold_out: bool = False,
    as_one_body: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    recipe: str = "tiny",
    policy_backbone: str | None = None,
    steps: int | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
    threads: int = 1,
    tracker: TrackerName = "tensorboard",
    keep_last: int = 2,
    checkpoint_every_s: float | None = None,
) -> None:
    """Teach the policy a body's actions from a few demonstrations.

    Args:
        source: demonstrations with actions, film:PATH, lerobot:PATH or package.module:Class=PATH.
        run: folder for the policy, metrics and checkpoints.
        body: whose demonstrations; several bodies share one network.
        labels: latent actions of the demonstrations' video; without them plain behaviour cloning.
        init: a run of `cyclemimic pretrain`, or of `finetune`; without it all weights start at random. Of `finetune` on
            one body, or `as_one_body`, the action decoder is kept too where the action space is the same.
        adaptation: lora trains adapters and the action head, full trains everything.
        per_skill: how many demonstrations of each skill.
        skills: which skills; all unless named. In other sources than films a skill is its sentence.
        head: act_query, latent, bins or package.module:Class; the recipe's unless given.
        extra_cameras: cameras that the policy sees beside the main one, such as wrist.
        proprioception: whether the policy sees the robot's state.
        instruction_dropout: share of moments that are shown without their sentence.
        hold_out: leave the held-out clips out, so that `evaluate --split held-out` can use them.
        as_one_body: several bodies of one action space share one action decoder.
        recipe: tiny, small, paper, or package.module:function.
        policy_backbone: without `init`: prismatic, or package.module:Class; the recipe's unless given.
        steps: updates; the recipe's unless given.
        learning_rate: the recipe's unless given.
        seed: initialisation and data order.
        threads: of one core each; final weights depend on it.
        tracker: where figures can be watched: tensorboard, wandb, trackio or none.
        keep_last: how many checkpoints are kept.
        checkpoint_every_s: also write one after so many seconds.
    """
    if policy_backbone is not None and init is not None:
        raise InputError(
            "--policy-backbone",
            expected="none beside --init, which brings its own",
            got=policy_backbone,
            remedy="Leave one of them out.",
        )
    config = replace(
        the_recipe(recipe).finetune,
        adaptation=adaptation,
        extra_cameras=extra_cameras,
        use_proprioception=proprioception,
        instruction_dropout=instruction_dropout,
    )
    if head is not None:
        sizes = replace(config.network.head, kind=head)
        config = replace(config, network=replace(config.network, head=sizes))
    if policy_backbone is not None:
        config = replace(config, network=replace(config.network, backbone_kind=policy_backbone))
    if steps is not None:
        config = replace(config, optim=replace(config.optim, steps=steps))
    if learning_rate is not None:
        config = replace(config, optim=replace(config.optim, learning_rate=learning_rate))
    if seed is not None:
        config = replace(config, seed=seed)
    stations.run_finetune(
        footage.open_source(source),
        config,
        run,
        body=body,
        skills=skills,
        per_skill=per_skill,
        labels=labels,
        init=init,
        hold_out=hold_out,
        as_one_body=as_one_body,
        threads=threads,
        loop=LoopConfig(tracker=tracker, keep_last=keep_last, checkpoint_every_s=checkpoint_every_s),
    )
    print(f"policy in {run}")


def evaluate(
    run: tyro.conf.Positional[Path],
    source: str | None = None,
    judge: Path | None = None,
    split: Literal["validation", "test", "held-out"] = "held-out",
    without: Path | None = None,
    suite: str | None = None,
    world: str = "arms",
    body: str | None = None,
    skills: tuple[str, ...] = (),
    episodes: int = 20,
    first_seed: int = 10_000_000,
    show: Literal["as it is", "swapped", "black"] = "as it is",
    rivals: tuple[Path, ...] = (),
    choose_first_seed: int = 11_000_000,
    through_server: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    controls: bool = False,
    out: Path | None = None,
    threads: int = 1,
    cache: Path = CACHE,
) -> None:
    """Judge a run: a policy's success in a world or error on demonstrations, or the quality of latent actions.

    Args:
        run: what to judge; a tokenizer and a policy are told apart by what lies there.
        source: for a tokenizer, video whose true motion is known: film:PATH, or any source whose episodes have a state
            or actions of named axes; for a policy, demonstrations that it never saw: the error of its chunks per axis,
            for robots that have no simulator.
        judge: for a tokenizer, folder of the independent judge; fitted on first use.
        split: which clips: for a policy and a source any of the three; a tokenizer is judged on the test clips, or
            with `validation` on those for choices.
        without: for a policy and a source, another policy beside it, such as one without pre-training.
        suite: for a policy, a fixed set of tasks: arms, or package.module:Class; then neither world nor skills count.
        world: for a policy, where it acts; a name, or package.module:Class.
        body: for a policy, with which body; of a suite all of its bodies unless named.
        skills: for a policy, which skills; all unless named.
        episodes: for a policy, how many per skill.
        first_seed: for a policy, starts are drawn from this number on, and equal for equal numbers.
        show: for a policy, the true sentence and picture, a swapped instruction, or a black picture.
        rivals: for a policy, further runs: only the one that does best from `choose_first_seed` on is judged.
        choose_first_seed: where the starts begin by which one of several is chosen.
        through_server: for a policy, `serve` it and `drive` the world, each in a process of its own, and check that
            the episodes end as they do in this process.
        controls: for a tokenizer, measure also a difference of frames, an untrained encoder, one code
            for all pairs and an oracle.
        out: folder for results; the run itself unless given.
        threads: of one core each.
        cache: folder of decoded frames.
    """
    use_threads(threads)
    if (run / "tokenizer.json").exists():
        if source is None:
            raise InputError(
                "--source",
                expected="film:PATH, or another source whose episodes have a state or actions of named axes",
                got="none",
                remedy="Name what `film` wrote, or your own recordings: docs/guides/source.md.",
            )
        quality = judging.run_quality(
            run,
            source,
            judge or run.parent / "judge",
            out or run,
            cache_root=cache,
            side="validation" if split == "validation" else "test",
            controls=controls,
        )
        print(judging.quality_text(quality))
        return
    if suite is not None:
        if skills or through_server or source is not None:
            raise InputError(
                "--suite",
                expected="none of --skills, --through-server and --source beside it",
                got="one of them",
                remedy="A suite says itself what is done, and where.",
            )
        print(judging.run_suite(run, suite, episodes=episodes, body=body, show=show, out=out or run).text())
        return
    if source is not None:
        found = judging.run_open_loop(run, source, out=out or run, split=split, without=without, body=body)
        print(found.text())
        return
    if body is None:
        raise InputError(
            "--body", expected="the body that acts", got="none", remedy="Name the body of the demonstrations."
        )
    if through_server:
        if show != "as it is":
            raise InputError("--through-server", expected="--show 'as it is'", got=show, remedy="Leave one out.")
        record = remote.run_remote(
            run, world, body=body, skills=skills, episodes=episodes, first_seed=first_seed, out=out or run
        )
        print(record.text())
        sys.exit(0 if record.equal == record.success.n else 1)
    if rivals:
        run = judging.best_of(
            (run, *rivals), world, body=body, skills=skills, episodes=episodes, first_seed=choose_first_seed,
            out=out or run,
        )  # fmt: skip
    result = judging.run_rollouts(
        run,
        world,
        body=body,
        skills=skills,
        episodes=episodes,
        first_seed=first_seed,
        show=show,
        out=out or run,
    )
    print(judging.rollout_text(result))


def inspect(
    run: tyro.conf.Positional[Path], source: str, out: Path | None = None, threads: int = 1, cache: Path = CACHE
) -> None:
    """Look at a tokenizer on any video: which codes are used, what they do on other frames, as one page.

    Args:
        run: a run of `cyclemimic tokenizer`.
        source: where the video lies, such as folder:PATH.
        out: folder for the page; RUN/inspect unless given.
        threads: of one core each.
        cache: folder of decoded frames.
    """
    use_threads(threads)
    print(judging.run_inspect(run, source, out or run / "inspect", cache_root=cache))


def serve(
    policy: tyro.conf.Positional[Path],
    host: str = "127.0.0.1",
    port: int = 8000,
    body: str | None = None,
    threads: int = 1,
    device: str = "cpu",
) -> None:
    """Let robots ask a policy: a websocket that `cyclemimic drive` talks to. Ctrl-C or SIGTERM ends it.

    Args:
        policy: a run of `cyclemimic finetune`.
        host: where to listen. There is no password: other machines only in a network that you trust.
        port: 0 takes any free one; the address is printed.
        body: which, of a policy that knows several.
        threads: of one core each.
        device: cpu, cuda, cuda:1 ...
    """
    use_threads(threads)
    remote.serve_policy(policy, host=host, port=port, device=device, body=body)


def drive() -> None:
    """Drive a robot, or the simulated arms, by a policy server. Needs no torch; see `cyclemimic drive --help`."""
    raise AssertionError("`main` hands this verb on before tyro sees it")


def demo(run: Path = Path("runs/demo"), quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False) -> None:
    """The whole journey on simulated arms: from video to a robot that acts, on two cores.

    Args:
        run: folder for everything; started again it goes on.
        quick: a few minutes instead of a quarter of an hour; its numbers mean nothing.
    """
    sys.exit(demo_recipe.run_demo(run, quick=quick))


def ablate(
    table: str,
    recipe: str = "tiny",
    rows: tuple[str, ...] = (),
    seeds: int | None = None,
    split: Literal["validation", "test"] = "validation",
    quarter: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    ours: str | None = None,
    latent_only: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    episodes: int | None = None,
    bodies: tuple[str, ...] = STUDY.bodies,
    unseen_bodies: tuple[str, ...] = STUDY.unseen,
    skills: tuple[str, ...] = STUDY.skills,
    acting_body: str = STUDY.acting_body,
    acting_skills: tuple[str, ...] = STUDY.acting_skills,
    per_skill: tuple[int, ...] = (),
    acting_episodes: int | None = None,
    run: Path = Path("runs/ablate"),
    results: Path = RESULTS,
    log: Path = Path("docs/log.md"),
    lanes: int = 2,
    budget_minutes: float | None = None,
    device: str | None = None,
    precision: Literal["fp32", "bf16"] | None = None,
    cache: Path = CACHE,
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """A table of the paper over several seeds, on simulated arms. What is measured already is not measured again.

    A seed is a new initialisation, a new order of the data, and new video. Exit code 75: the budget was spent, and the
    same command goes on.

    Args:
        table: pilot, objective, buffer, discriminator, decoder, head, routing, codes, data or policy.
        recipe: tiny, small, or package.module:function; the scale.
        rows: which rows beside the control; all unless named. ac3+CHANGE+CHANGE makes a row of changes.
        seeds: how many, 0 and up; 5 unless given, of the policy table 3, with `quarter` 2.
        split: validation for choices; test only once hypothesis and configuration are committed to the log.
        quarter: screen: a quarter of the recipe's steps.
        ours: the row that the result file compares with the control; the table's unless given.
        latent_only: train no policies.
        episodes: filmed per body and skill, for each seed; the recipe's unless given.
        bodies: who is filmed; all unless named.
        unseen_bodies: whose video no tokenizer sees; they are measured apart.
        skills: what is filmed.
        acting_body: whose demonstrations, and who acts.
        acting_skills: what it is shown and asked.
        per_skill: demonstrations of each skill; 5 unless given. The policy table takes several: 5 20 50 unless given.
        acting_episodes: in closed loop, of each skill; 24 unless given, of the policy table 48.
        run: folder for films and runs; may be removed once all cells are measured.
        results: folder for cells, the result file, Markdown and HTML.
        log: the log of experiments.
        lanes: commands at a time, of one core each.
        budget_minutes: stop after so long.
        device: of the tokenizers; the recipe's unless given.
        precision: of the tokenizers; the recipe's unless given.
        cache: folder of decoded frames.
        dry_run: only say which cells there are, and how many CPU-minutes they take.
    """
    base = the_recipe(recipe)
    size = StudySize(
        world=base.world,
        episodes=base.episodes if episodes is None else episodes,
        bodies=bodies,
        unseen=unseen_bodies,
        skills=skills,
        acting_body=acting_body,
        acting_skills=acting_skills,
        per_skill=per_skill[0] if per_skill else STUDY.per_skill,
        acting_episodes=acting_episodes or (POLICY if table == POLICY.name else STUDY).acting_episodes,
    )
    given: dict[str, Any] = {
        "recipe_name": recipe, "base": base, "rows": rows, "seeds": seeds, "split": split,
        "quarter": quarter, "ours": ours, "size": size, "run": run, "results": results, "log": log, "cache": cache,
        "lanes": lanes, "budget_minutes": budget_minutes, "device": device, "precision": precision,
    }  # fmt: skip
    study: studies.TableStudy | PolicyStudy
    if table == POLICY.name:
        if latent_only:
            remedy = "Leave it out; --table objective measures tokenizers."
            raise InputError("--latent-only", expected="a table of tokenizers", got=table, remedy=remedy)
        study = policy_study_of(POLICY, per_skill=per_skill, **given)
    else:
        if len(per_skill) > 1:
            got = " ".join(map(str, per_skill))
            raise InputError("--per-skill", expected="one number", got=got, remedy="--table policy takes several.")
        study = studies.study_of(find_table(table), latent_only=latent_only, **given)
    if dry_run:
        print(study.dry_run())
        return
    sys.exit(study.measure())


def report(
    run: tyro.conf.Positional[Path | None] = None,
    tables: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    results: Path = RESULTS,
) -> None:
    """The page of a run from the files in its folder, or with --tables the paper's tables; nothing is measured again.

    Args:
        run: a run of tokenizer, pretrain, finetune or demo, finished or not: its numbers are printed, and its page
            report.html is written anew, with what is missing. Or a result of `ablate`, or a folder of such.
        tables: print the paper's tables in its row order: what is published, and what was measured here, or that
            nothing was.
        results: for the tables, folder of the result files of `ablate`.
    """
    if tables == (run is not None):
        got = "both" if tables else "neither"
        raise InputError("report", expected="a run's folder, or --tables", got=got, remedy="Say which is wanted.")
    print(tables_text(results) if run is None else reporting.report_run(run))


def doctor() -> None:
    """Say what this machine has and what it lacks."""
    print(judging.doctor())


VERBS: dict[str, Callable[..., Any]] = {
    "film": film,
    "data": data,
    "tokenizer": tokenizer,
    "label": label,
    "pretrain": pretrain,
    "finetune": finetune,
    "evaluate": evaluate,
    "inspect": inspect,
    "serve": serve,
    "drive": drive,
    "ablate": ablate,
    "report": report,
    "doctor": doctor,
    "demo": demo,
}


def the_recipe(name: str) -> Recipe:
    """A recipe by name, with changes behind it: tiny+term_flow+critic_pairs."""
    base, *changes = name.split("+")
    return changed(find_recipe(base, RECIPES), changes)


def main(arguments: list[str] | None = None) -> None:
    """Run one verb; a mistake of the user is one message and exit code 2."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["drive"]:
        sys.exit(drive_command(words[1:]))
    try:
        with processes():  # one, or those of torchrun
            tyro.extras.subcommand_cli_from_dict(
                VERBS,
                prog="cyclemimic",
                description="Learn robot actions from video that has no action labels.",
                args=arguments,
            )
    except InputError as error:
        sys.exit(_say(error, 2))
    except RunEndedError as error:
        sys.exit(_say(error, error.exit_code))
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stdout = None
        sys.exit(0)


def _say(error: Exception, code: int) -> int:
    print(f"cyclemimic: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
