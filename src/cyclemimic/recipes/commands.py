"""The commands of a study: each is named by what it makes, so that equal work is done once.

The same training on the same film has the same key in every row and table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from cyclemimic.recipes.adapting import SKILLS
from cyclemimic.recipes.jobs import Job
from cyclemimic.recipes.recipe import Recipe
from cyclemimic.store.atomic import sha256_json

# Starts of a seed's films, demonstrations and episodes: apart from one another, and from those of the demo.
FILM_SEED, DEMONSTRATION_SEED, SEED_STRIDE = 20_000_000, 120_000_000, 1_000_000
EPISODE_SEED = {"validation": 11_000_000, "test": 10_000_000}


@dataclass(frozen=True, kw_only=True)
class StudySize:
    """How much a seed films and how long its policies act.

    Args:
        world: where; it must know its bodies and their starts.
        episodes: filmed, per body and skill.
        bodies: who is filmed; all of the world unless named.
        unseen: of these, whose video no tokenizer sees; they are measured apart.
        skills: what is filmed.
        acting_body: whose demonstrations, and who acts.
        acting_skills: what it is shown and asked.
        per_skill: demonstrations of each.
        acting_episodes: in closed loop, of each.
    """

    world: str = "arms"
    episodes: int = 40
    bodies: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    skills: tuple[str, ...] = (*SKILLS, "wander")
    acting_body: str = "arm6"
    acting_skills: tuple[str, ...] = SKILLS
    per_skill: int = 5
    acting_episodes: int = 24


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a command leaves in `folder`, and the key of everything that decides what that is."""

    name: str
    folder: Path
    key: str


@dataclass(kw_only=True)
class Commands:
    """Collects commands, each once, in an order that can be run. What stages add to it stands in planning_*.py.

    Args:
        recipe_name: what `--recipe` was, to which changes are joined.
        base: that recipe.
        body_names: of the film, in the world's order.
        share: of the recipe's steps.
        pace_ms: CPU-ms per pair by objective, for guesses of time alone.
    """

    recipe_name: str
    base: Recipe
    size: StudySize
    body_names: tuple[str, ...]
    split: str
    share: float
    run: Path
    cache: Path
    device: str | None = None
    precision: Literal["fp32", "bf16"] | None = None
    pace_ms: Mapping[str, float] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)

    def cpu_s(self, jobs: Iterable[str]) -> float:
        """CPU-seconds that these commands take, by what is known of their pace."""
        return sum(self.jobs[name].seconds for name in jobs)

    def make(
        self,
        stage: str,
        seed: int,
        says: str,
        seconds: float,
        facts: object,
        words: Callable[[Path], Sequence[object]],
        after: Sequence[Made] = (),
        waits: Sequence[str] = (),
    ) -> Made:
        """A command: `facts` and what it begins from decide its key; `waits` decides nothing but the order."""
        key = sha256_json([stage, seed, plain(facts), [made.key for made in after]])[:12]
        name = f"seed{seed}-{stage}-{key}"
        folder = self.run / name
        if name not in self.jobs:
            self.jobs[name] = Job(
                name=name,
                arguments=tuple(str(word) for word in words(folder)),
                seconds=seconds,
                says=f"seed {seed}: {says}",
                after=(*(made.name for made in after), *waits),
            )
        return Made(name=name, folder=folder, key=key)

    def film(self, seed: int, share: float = 1.0) -> Made:
        """The video of a seed, or the first `share` of its episodes; its actions lie apart."""
        size = self.size
        # Fewer episodes are the first of more: the same starts, so that all rows are judged on the same clips.
        episodes = max(1, round(size.episodes * share))
        first = FILM_SEED + SEED_STRIDE * seed
        bodies = ("--bodies", *size.bodies) if size.bodies else ()
        return self.make(
            "film", seed, f"film {episodes} episodes per body and skill", 1.2 * episodes,
            [size.world, episodes, size.bodies, size.skills, first],
            lambda out: (
                "film", size.world, "--out", out, "--episodes", episodes, "--first-seed", first, *bodies,
                "--skills", *size.skills,
            ),
        )  # fmt: skip


def needed(jobs: Mapping[str, Job], ends: Iterable[str]) -> list[Job]:
    """The jobs that lead to `ends`, in the order in which they were planned."""
    wanted: set[str] = set()
    ahead = list(ends)
    while ahead:
        name = ahead.pop()
        if name not in wanted:
            wanted.add(name)
            ahead += jobs[name].after
    return [job for name, job in jobs.items() if name in wanted]


def decides(config: object) -> Any:
    """A config as what decides a training's numbers: `asdict`, without fields that say no more than was so before them.

    A field that is new to a config says in its metadata what held `before` there was such a field. As long as it has
    that value, keys are those of before, and nothing that was measured is measured again.
    """
    if is_dataclass(config):
        values = {f.name: (getattr(config, f.name), f.metadata) for f in fields(config)}
        return {name: decides(value) for name, (value, told) in values.items() if _is_new(value, told)}
    if isinstance(config, Mapping):
        return {name: decides(value) for name, value in config.items()}
    return [decides(value) for value in config] if isinstance(config, list | tuple) else config


def _is_new(value: object, told: Mapping[Any, Any]) -> bool:
    return "before" not in told or value != told["before"]


def plain(value: object) -> Any:
    """As JSON holds it, whatever dataclass or path it was."""
    return json.loads(json.dumps(value, default=str))
