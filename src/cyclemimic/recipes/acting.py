"""How a policy is judged: in a world, in a suite of tasks, or on demonstrations that it never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np

from cyclemimic.data.cache import source_hash
from cyclemimic.data.splits import split_clips
from cyclemimic.errors import InputError
from cyclemimic.evaluate.models import QUIET_S
from cyclemimic.evaluate.open_loop import OpenLoop, open_loop
from cyclemimic.evaluate.records import load_rollouts, save_rollouts
from cyclemimic.evaluate.rollout import Instruct, RolloutResult, black_image, evaluate_policy, with_instruction
from cyclemimic.evaluate.suite import Suite, SuiteResult, evaluate_suite
from cyclemimic.evaluate.suites.arms import ArmsSuite
from cyclemimic.names import meets, named
from cyclemimic.policy.network import read_spec
from cyclemimic.policy.policy import LatentActionPolicy
from cyclemimic.recipes import measured_parts
from cyclemimic.recipes.cards import renew_card
from cyclemimic.recipes.footage import HELD_OUT, SPLIT_SEED, chosen, open_source
from cyclemimic.recipes.stations import make_world
from cyclemimic.store.atomic import read_json, sha256_json, write_json
from cyclemimic.train.checkpoint import CONFIG_FILE
from cyclemimic.train.progress import Progress
from cyclemimic.types import Episode, Task, World
from cyclemimic.worlds.arms import ArmsWorld

CHOICE = "choice.json"
SUITES: dict[str, Callable[[], Suite]] = {"arms": ArmsSuite}

Show = Literal["as it is", "swapped", "black"]
Split = Literal["held-out", "validation", "test"]


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


def rollout_text(result: RolloutResult) -> str:
    """Success rates, a line per skill, and the exceptions that episodes ended in."""
    rates = {"all": result.row(), **result.per_skill()}
    return "\n".join([*(f"{name:16} {row}" for name, row in rates.items()), *result.error_messages])
