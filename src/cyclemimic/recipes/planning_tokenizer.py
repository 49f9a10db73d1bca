"""From rows to commands that make and measure a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cyclemimic.recipes.commands import Commands, Made, decides, plain
from cyclemimic.recipes.tables import Row, shortened
from cyclemimic.train.stage1_tokenizer import TokenizerTraining

# CPU-ms per pair where no cell tells yet, from docs/log.md: two cores of a Xeon, 32 px.
PACE_MS = {"ac3": 10.0}
PACE_MS_ALONE = 5.0
_BESIDE = ("device", "threads", "checkpoint_every", "gradient_norms_every")  # change no number that is judged


@dataclass(kw_only=True)
class TokenizerCommands(Commands):
    """Trunks, tokenizers and their measurement."""

    _judged_first: dict[Path, str] = field(default_factory=dict)

    def tokenizer(self, row: Row, seed: int, only: Sequence[str] = ()) -> Made:
        """A row's tokenizer, and the trunk that it begins from; `only` these bodies instead of the row's share."""
        film = self.film(seed, row.clips)
        recipe = row.recipe(self.base)
        seen = tuple(body for body in self.body_names if body not in self.size.unseen)
        bodies = tuple(only) or seen[: max(1, round(len(seen) * row.bodies))]
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
        facts = plain(decides(replace(config, seed=seed, precision=precision)))
        for name in _BESIDE:
            del facts[name]
        alone = self.pace_ms.get("genie", PACE_MS_ALONE)
        pace_ms = self.pace_ms.get(objective, PACE_MS.get(objective, alone))
        device = ("--device", self.device) if self.device else ()
        rounded = ("--precision", self.precision) if self.precision else ()
        some = ("--bodies", *bodies) if bodies else ()
        begins = str(words[0]) if words else ""
        return self.make(
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

    def quality(self, row: Row, seed: int, tokenizer: Made, film: Made, judge: Path) -> Made:
        """What its latent actions are worth, by the judge of the seed's film."""
        # The first one fits the judge and asks the simulator what truly happens; the others find both.
        first = self._judged_first.get(judge)
        made = self.make(
            "quality", seed, f"measure {row.name}", 30.0 if first else 90.0, self.split,
            lambda out: (
                "evaluate", tokenizer.folder, "--source", f"film:{film.folder}", "--judge", judge,
                "--split", self.split, "--out", out, "--cache", self.cache,
            ),
            (tokenizer, film), (first,) if first else (),
        )  # fmt: skip
        self._judged_first.setdefault(judge, made.name)
        return made
