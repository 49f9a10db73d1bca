"""What learns: the tokenizer from video, the policy from its latent actions, then from demonstrations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cyclemimic.cli.choices import CACHE, the_recipe
from cyclemimic.errors import InputError
from cyclemimic.recipes import dry_run as rehearsal
from cyclemimic.recipes import footage, parts, stations
from cyclemimic.recipes.recipe import RecipeObjective
from cyclemimic.train.loop import LoopConfig
from cyclemimic.train.trackers import TrackerName


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
    proprioception_dropout: float | None = None,
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
        proprioception_dropout: share of moments at which it does not, while it learns; the recipe's unless given.
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
    if proprioception_dropout is not None:
        config = replace(config, proprioception_dropout=proprioception_dropout)
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
