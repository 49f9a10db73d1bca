"""From a tokenizer, or none, to commands that train a policy and let it act."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cyclemimic.errors import InputError
from cyclemimic.recipes.commands import DEMONSTRATION_SEED, EPISODE_SEED, SEED_STRIDE, Made, decides
from cyclemimic.recipes.planning_tokenizer import TokenizerCommands
from cyclemimic.train.stage2_pretrain import PretrainConfig
from cyclemimic.train.stage3_finetune import FinetuneConfig

# CPU-seconds per step and per episode, from docs/log.md: two cores of a Xeon, 64 px.
PRETRAIN_STEP_S, FINETUNE_STEP_S, EPISODE_S = 0.07, 0.13, 0.25


@dataclass(kw_only=True)
class PolicyCommands(TokenizerCommands):
    """Labels, pre-training, fine-tuning and episodes."""

    def steps(self, steps: int) -> int:
        """The study's share of a recipe's steps, at least one."""
        return max(1, round(steps * self.share))

    def demonstrations(self, seed: int) -> Made:
        """Demonstrations of the body that acts."""
        size, first = self.size, DEMONSTRATION_SEED + SEED_STRIDE * seed
        body, skills = size.acting_body, size.acting_skills
        return self.make(
            "demonstrations", seed, f"record demonstrations on {body}", 0.4 * size.per_skill,
            [size.world, body, skills, size.per_skill, first],
            lambda out: (
                "film", size.world, "--out", out, "--episodes", size.per_skill, "--bodies", body,
                "--skills", *skills, "--first-seed", first, "--tail-steps", 3,
            ),
        )  # fmt: skip

    def labels(
        self, seed: int, row: str, says: str, tokenizer: Made, of: Made, source: str, seconds: float,
        only: Sequence[str] = (),
    ) -> Made:  # fmt: skip
        """The latent actions of a film's video, of `only` these bodies or of all."""
        some = ("--bodies", *only) if only else ()
        return self.make(
            "labels", seed, f"label {says}: {row}", seconds, list(only),
            lambda out: (
                "label", "--source", source, "--tokenizer", tokenizer.folder, "--out", out, "--cache", self.cache,
                *some,
            ),
            (tokenizer, of),
        )  # fmt: skip

    def true_labels(
        self, seed: int, says: str, of: Made, codebook: Made | None = None, only: Sequence[str] = ()
    ) -> Made:
        """Perfect codes of a film's clips, of `only` these bodies or of all; by an earlier codebook or its own."""
        gap_s = self.base.trunk.gap_s
        if not isinstance(gap_s, float):
            raise InputError(
                "TokenizerTraining.gap_s", expected="seconds, for the rows of perfect codes", got=str(gap_s),
                remedy="Leave these rows out.",
            )  # fmt: skip
        some = ("--bodies", *only) if only else ()
        return self.make(
            "true-labels", seed, f"label {says} by true motion", 5.0, [gap_s, list(only)],
            lambda out: (
                "label", "--source", f"film:{of.folder}", "--out", out,
                "--true-motion", out if codebook is None else codebook.folder, "--gap-s", gap_s, *some,
            ),
            (of,) if codebook is None else (of, codebook),
        )  # fmt: skip

    def true_actions(
        self, seed: int, recipe: str, config: FinetuneConfig, film: Made, only: Sequence[str], *, state: bool = True
    ) -> Made:
        """A policy of the true actions of the film, learnt for as many steps as pre-training takes."""
        size, steps = self.size, self.steps(self.base.pretrain.optim.steps)
        absent = [skill for skill in size.acting_skills if skill not in size.skills]
        if absent:
            raise InputError(
                "--skills", expected=f"{', '.join(absent)}, which are acted", got="not filmed",
                remedy="Film them too, or leave the row true_actions out.",
            )  # fmt: skip
        return self.make(
            "true-actions", seed, "learn the true actions of other bodies", FINETUNE_STEP_S * steps,
            [decides(replace(config, seed=seed, use_proprioception=state)), steps, list(only), size.acting_skills,
             size.episodes],
            lambda out: (
                "finetune", "--source", f"film:{film.folder}", "--run", out, "--body", *only, "--as-one-body",
                "--skills", *size.acting_skills, "--per-skill", size.episodes, "--adaptation", "full",
                "--recipe", recipe, "--steps", steps, "--seed", seed, "--tracker", "none", "--keep-last", 1,
                *([] if state else ["--no-proprioception"]),
            ),
            (film,),
        )  # fmt: skip

    def pretrained(
        self, seed: int, row: str, recipe: str, config: PretrainConfig, film: Made, video: Made,
        *, state: bool = False,
    ) -> Made:  # fmt: skip  # fmt: skip
        """A policy that knows which latent action follows."""
        steps = self.steps(config.optim.steps)
        return self.make(
            "pretrain", seed, f"pre-train a policy: {row}", PRETRAIN_STEP_S * steps,
            [decides(replace(config, seed=seed)), steps, *(["state"] if state else [])],
            lambda out: (
                "pretrain", "--source", f"film:{film.folder}" if state else f"folder:{film.folder}/video",
                *(["--proprioception"] if state else []), "--labels", video.folder, "--run", out,
                "--recipe", recipe, "--steps", steps, "--seed", seed, "--cache", self.cache, "--tracker", "none",
                "--keep-last", 1,
            ),
            (video,),
        )  # fmt: skip

    def policy(
        self,
        seed: int,
        row: str,
        recipe: str,
        config: FinetuneConfig,
        *,
        steps: int,
        known: Made | None = None,
        begun: Made | None = None,
        rate: float | None = None,
    ) -> Made:
        """A policy fine-tuned on the demonstrations, all weights, at the recipe's rate or another.

        Args:
            seed: of the study.
            row: its name, for a person.
            recipe: for `--recipe`.
            config: the recipe's fine-tuning.
            steps: updates.
            known: labels of the demonstrations' video; without them plain behaviour cloning.
            begun: what its weights begin from; random ones unless given.
            rate: learning rate.
        """
        size, shown = self.size, self.demonstrations(seed)
        facts: list[Any] = [decides(replace(config, seed=seed)), steps, "full", size.acting_body, size.per_skill]
        words: list[object] = []
        if known is not None:
            words += ["--labels", known.folder]
        if begun is not None:
            words += ["--init", begun.folder]
        at: list[object] = []
        if rate is not None:
            facts.append(rate)
            at = ["--learning-rate", rate]
        after = [made for made in (begun, known) if made is not None]
        if known is None:
            after.append(shown)
        return self.make(
            "policy", seed, f"fine-tune it: {row}" + (f" at {rate:g}" if rate else ""), FINETUNE_STEP_S * steps, facts,
            lambda out: (
                "finetune", "--source", f"film:{shown.folder}", "--run", out, "--body", size.acting_body,
                *words, "--adaptation", "full", "--per-skill", size.per_skill, "--recipe", recipe, "--steps", steps,
                *at, "--seed", seed, "--tracker", "none", "--keep-last", 1,
            ),
            after,
        )  # fmt: skip

    def rollouts(self, seed: int, row: str, policy: Made, rivals: Sequence[Made] = ()) -> Made:
        """Episodes of a policy; of several, of the one that did best from the validation starts."""
        size, starts = self.size, EPISODE_SEED[self.split]
        facts: list[Any] = [size.world, size.acting_body, size.acting_skills, size.acting_episodes, starts]
        choice: tuple[object, ...] = ()
        if rivals:
            chosen_from = EPISODE_SEED["validation"]
            facts.append(chosen_from)
            choice = ("--rivals", *(rival.folder for rival in rivals), "--choose-first-seed", chosen_from)
        runs = 1 if not rivals else 1 + len(rivals) + (self.split == "test")
        return self.make(
            "rollouts", seed, f"let it act: {row}",
            runs * EPISODE_S * size.acting_episodes * len(size.acting_skills), facts,
            lambda out: (
                "evaluate", policy.folder, "--world", size.world, "--body", size.acting_body,
                "--skills", *size.acting_skills, "--episodes", size.acting_episodes, "--first-seed", starts,
                "--out", out, *choice,
            ),
            (policy, *rivals),
        )  # fmt: skip
