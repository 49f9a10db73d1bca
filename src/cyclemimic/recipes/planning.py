"""From rows and seeds to commands: what each cell of a table needs, shared where two cells need the same.

A command is named by what it makes: the same training on the same film has the same key in every row and table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cyclemimic.recipes.demo import SKILLS
from cyclemimic.recipes.jobs import Job
from cyclemimic.recipes.recipe import Recipe
from cyclemimic.recipes.tables import Row, TableSpec, shortened
from cyclemimic.store.atomic import sha256_json
from cyclemimic.train.stage1_tokenizer import TokenizerTraining

# Starts of a seed's films, demonstrations and episodes: apart from one another, and from those of the demo.
FILM_SEED, DEMONSTRATION_SEED, SEED_STRIDE = 20_000_000, 120_000_000, 1_000_000
EPISODE_SEED = {"validation": 11_000_000, "test": 10_000_000}
QUARTER = 0.25
# CPU-ms per pair where no cell tells yet, from docs/log.md: two cores of a Xeon, 32 px.
PACE_MS = {"ac3": 10.0}
PACE_MS_ALONE = 5.0
_BESIDE = ("device", "threads", "checkpoint_every", "gradient_norms_every")  # change no number that is judged


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


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """One cell to be: the row, the seed, its key, and what will have been made for it."""

    row: Row
    seed: int
    key: str
    film: Made
    judge: Path
    tokenizer: Made
    quality: Made
    rollouts: Made | None

    @property
    def ends(self) -> tuple[str, ...]:
        """The jobs after which it can be written down."""
        return (self.quality.name, *([self.rollouts.name] if self.rollouts else []))


@dataclass(kw_only=True)
class Planner:
    """Collects the commands of the cells that are asked for, each once, in an order that can be run.

    Args:
        recipe_name: what `--recipe` was, to which changes are joined.
        base: that recipe.
        body_names: of the film, in the world's order.
        share: of the recipe's steps.
        pace_ms: CPU-ms per pair by objective, for guesses of time alone.
    """

    table: TableSpec
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
    _judged_first: dict[Path, str] = field(default_factory=dict)

    def cell(self, row: Row, seed: int) -> CellPlan:
        """Plan one cell; what an earlier one makes too is not planned again."""
        film = self._film(seed)
        tokenizer = self._tokenizer(row, seed)
        recipe = row.recipe(self.base)
        judge = self.run / f"judge-{sha256_json([film.key, recipe.trunk.tokenizer.size_px])[:12]}"
        quality = self._quality(row, seed, tokenizer, film, judge)
        rollouts = self._rollouts(row, seed, tokenizer, film) if self.table.acts else None
        ends = [quality.key, rollouts.key if rollouts else None, "pilot" if self.table.pilot else None]
        return CellPlan(
            row=row,
            seed=seed,
            key=sha256_json(ends)[:12],
            film=film,
            judge=judge,
            tokenizer=tokenizer,
            quality=quality,
            rollouts=rollouts,
        )

    def cpu_s(self, jobs: Iterable[str]) -> float:
        """CPU-seconds that these commands take, by what is known of their pace."""
        return sum(self.jobs[name].seconds for name in jobs)

    def _make(
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
        key = sha256_json([stage, seed, _plain(facts), [made.key for made in after]])[:12]
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

    def _film(self, seed: int, share: float = 1.0) -> Made:
        size = self.size
        # Fewer episodes are the first of more: the same starts, so that all rows are judged on the same clips.
        episodes = max(1, round(size.episodes * share))
        first = FILM_SEED + SEED_STRIDE * seed
        bodies = ("--bodies", *size.bodies) if size.bodies else ()
        return self._make(
            "film", seed, f"film {episodes} episodes per body and skill", 1.2 * episodes,
            [size.world, episodes, size.bodies, size.skills, first],
            lambda out: (
                "film", size.world, "--out", out, "--episodes", episodes, "--first-seed", first, *bodies,
                "--skills", *size.skills,
            ),
        )  # fmt: skip

    def _tokenizer(self, row: Row, seed: int) -> Made:
        film = self._film(seed, row.clips)
        recipe = row.recipe(self.base)
        seen = tuple(body for body in self.body_names if body not in self.size.unseen)
        bodies = seen[: max(1, round(len(seen) * row.bodies))]
        bodies = bodies if len(bodies) < len(self.body_names) else ()
        config = row.training(self.base, self.share)
        # Everything is learnt from video alone, but for the term that may see a few true motions.
        video = f"folder:{film.folder}/video"
        source = f"film:{film.folder}" if config.objective.actions else video
        begun: tuple[Made, ...] = ()
        words: tuple[object, ...] = ()
        if row.begin == "trunk":
            trunk = self._training(
                "trunk", seed, row.recipe_name(self.recipe_name), shortened(recipe.trunk, self.share),
                "trunk", film, video, bodies,
            )  # fmt: skip
            begun, words = (trunk,), ("--trunk", trunk.folder)
        if row.begin == "features":
            trunk = self._training(
                "trunk", seed, self.recipe_name, shortened(self.base.trunk, self.share), "trunk", film, video, bodies
            )
            begun, words = (trunk,), ("--backbone", trunk.folder)
        return self._training(
            row.name.replace("+", "_"), seed, row.recipe_name(self.recipe_name), config, row.objective,
            film, source, bodies, words, begun,
        )  # fmt: skip

    def _training(
        self,
        says: str,
        seed: int,
        recipe: str,
        config: TokenizerTraining,
        objective: str,
        film: Made,
        source: str,
        bodies: tuple[str, ...],
        words: tuple[object, ...] = (),
        begun: tuple[Made, ...] = (),
    ) -> Made:
        precision = self.precision or config.precision
        facts = _plain(asdict(replace(config, seed=seed, precision=precision)))
        for name in _BESIDE:
            del facts[name]
        alone = self.pace_ms.get("genie", PACE_MS_ALONE)
        pace_ms = self.pace_ms.get(objective, PACE_MS.get(objective, alone))
        device = ("--device", self.device) if self.device else ()
        rounded = ("--precision", self.precision) if self.precision else ()
        some = ("--bodies", *bodies) if bodies else ()
        begins = str(words[0]) if words else ""
        return self._make(
            "trunk" if objective == "trunk" else "tokenizer", seed,
            f"learn latent actions: {says}", config.steps * config.batch_size * pace_ms / 1000,
            [facts, objective, bodies, begins],
            lambda out: (
                "tokenizer", "--source", source, "--run", out, "--recipe", recipe, "--objective", objective,
                "--steps", config.steps, "--seed", seed, "--cache", self.cache, "--tracker", "none",
                "--keep-last", 1, *device, *rounded, *words, *some,
            ),
            (film, *begun),
        )  # fmt: skip

    def _quality(self, row: Row, seed: int, tokenizer: Made, film: Made, judge: Path) -> Made:
        # The first one fits the judge and asks the simulator what truly happens; the others find both.
        first = self._judged_first.get(judge)
        made = self._make(
            "quality", seed, f"measure {row.name}", 30.0 if first else 90.0, self.split,
            lambda out: (
                "evaluate", tokenizer.folder, "--source", f"film:{film.folder}", "--judge", judge,
                "--split", self.split, "--out", out, "--cache", self.cache,
            ),
            (tokenizer, film), (first,) if first else (),
        )  # fmt: skip
        self._judged_first.setdefault(judge, made.name)
        return made

    def _rollouts(self, row: Row, seed: int, tokenizer: Made, film: Made) -> Made:
        size, recipe, name = self.size, row.recipe(self.base), row.recipe_name(self.recipe_name)
        pretrain, finetune = recipe.pretrain, recipe.finetune
        steps = [max(1, round(part.optim.steps * self.share)) for part in (pretrain, finetune)]
        first = DEMONSTRATION_SEED + SEED_STRIDE * seed
        body, skills = size.acting_body, size.acting_skills
        shown = self._make(
            "demonstrations", seed, f"record demonstrations on {body}", 0.4 * size.per_skill,
            [size.world, body, skills, size.per_skill, first],
            lambda out: (
                "film", size.world, "--out", out, "--episodes", size.per_skill, "--bodies", body,
                "--skills", *skills, "--first-seed", first, "--tail-steps", 3,
            ),
        )  # fmt: skip

        def labels(of: Made, source: str, says: str, seconds: float) -> Made:
            return self._make(
                "labels", seed, f"label {says}: {row.name}", seconds, [],
                lambda out: (
                    "label", "--source", source, "--tokenizer", tokenizer.folder, "--out", out, "--cache", self.cache,
                ),
                (tokenizer, of),
            )  # fmt: skip

        video = labels(film, f"folder:{film.folder}/video", "all video", 20.0)
        known = labels(shown, f"film:{shown.folder}", "the demonstrations", 8.0)
        pretrained = self._make(
            "pretrain", seed, f"pre-train a policy: {row.name}", 0.07 * steps[0],
            [asdict(replace(pretrain, seed=seed)), steps[0]],
            lambda out: (
                "pretrain", "--source", f"folder:{film.folder}/video", "--labels", video.folder, "--run", out,
                "--recipe", name, "--steps", steps[0], "--seed", seed, "--cache", self.cache, "--tracker", "none",
                "--keep-last", 1,
            ),
            (video,),
        )  # fmt: skip
        policy = self._make(
            "policy", seed, f"fine-tune it: {row.name}", 0.13 * steps[1],
            [asdict(replace(finetune, seed=seed)), steps[1], "full", body, size.per_skill],
            lambda out: (
                "finetune", "--source", f"film:{shown.folder}", "--run", out, "--body", body,
                "--labels", known.folder, "--init", pretrained.folder, "--adaptation", "full",
                "--per-skill", size.per_skill, "--recipe", name, "--steps", steps[1], "--seed", seed,
                "--tracker", "none", "--keep-last", 1,
            ),
            (pretrained, known),
        )  # fmt: skip
        starts = EPISODE_SEED[self.split]
        return self._make(
            "rollouts", seed, f"let it act: {row.name}", 0.25 * size.acting_episodes * len(skills),
            [size.world, body, skills, size.acting_episodes, starts],
            lambda out: (
                "evaluate", policy.folder, "--world", size.world, "--body", body, "--skills", *skills,
                "--episodes", size.acting_episodes, "--first-seed", starts, "--out", out,
            ),
            (policy,),
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


def _plain(value: object) -> Any:
    """As JSON holds it, whatever dataclass or path it was."""
    return json.loads(json.dumps(value, default=str))
