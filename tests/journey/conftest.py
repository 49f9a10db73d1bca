"""The journey is made once for the session; tests look at what it left, and change copies only."""

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from cyclemimic.cli import main
from cyclemimic.evaluate.judge import JudgeConfig, fit_judge
from cyclemimic.recipes.footage import cached, open_source
from cyclemimic.recipes.known_motion import known_motion
from tests.journey.small import BODIES, SKILLS

RECIPE = ("--recipe", "tests.journey.small:recipe")


@dataclass(frozen=True)
class Journey:
    """Where everything lies."""

    root: Path

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    @property
    def video(self) -> str:
        return f"folder:{self.root}/film/video"

    @property
    def film(self) -> str:
        return f"film:{self.root}/film"

    @property
    def demonstrations(self) -> str:
        return f"film:{self.root}/demonstrations"

    @property
    def cache(self) -> tuple[str, str]:
        return "--cache", str(self.root / "cache")

    def run(self, verb: str, *words: object) -> str:
        """One command of the command line, in this process; returns what it printed."""
        with contextlib.redirect_stdout(io.StringIO()) as said:
            main([verb, *(str(w) for w in words)])
        return said.getvalue()

    def tokenizer(self, name: str, objective: str, *words: object) -> None:
        run = ("--run", self / name, "--objective", objective)
        self.run("tokenizer", "--source", self.video, *run, *RECIPE, *words, *self.cache)

    def finetune(self, name: str, *words: object) -> None:
        begin = ("--labels", self / "demonstration-labels", "--init", self / "pretrained")
        run = ("--run", self / name, "--body", BODIES[0], "--per-skill", 3)
        self.run("finetune", "--source", self.demonstrations, *run, *begin, *RECIPE, *words)


@pytest.fixture(scope="session")
def filmed(tmp_path_factory) -> Journey:
    """Video of two bodies, and demonstrations of one of them."""
    journey = Journey(tmp_path_factory.mktemp("journey"))
    words = ("--skills", *SKILLS, "--report")
    journey.run(
        "film", "arms", "--out", journey / "film", "--episodes", 5, "--bodies", *BODIES, *words, "--first-seed", 1000
    )
    seed = ("--first-seed", 5_000_000)
    journey.run(
        "film", "arms", "--out", journey / "demonstrations", "--episodes", 3, "--bodies", BODIES[0], *words, *seed
    )
    return journey


@pytest.fixture(scope="session")
def labelled(filmed) -> Journey:
    """And three tokenizers of one trunk, and the labels of the third."""
    filmed.run("data", "cache", filmed.video, "--size-px", 16, *filmed.cache)
    filmed.tokenizer("trunk", "trunk")
    for objective in ("genie", "ac3"):
        filmed.tokenizer(objective, objective, "--trunk", filmed / "trunk")
    for name, source in (("labels", filmed.video), ("demonstration-labels", filmed.demonstrations)):
        words = ("--tokenizer", filmed / "ac3", "--out", filmed / name)
        filmed.run("label", "--source", source, *words, *filmed.cache)
    return filmed


@pytest.fixture(scope="session")
def journey(labelled) -> Journey:
    """And policies, what they did, and what the tokenizer is worth."""
    words = ("--labels", labelled / "labels", "--run", labelled / "pretrained")
    labelled.run("pretrain", "--source", labelled.video, *words, *RECIPE, *labelled.cache)
    for adaptation in ("lora", "full"):
        labelled.finetune(f"policy-{adaptation}", "--adaptation", adaptation)
    for show in ("as it is", "swapped", "black"):
        words = ("--body", BODIES[0], "--skills", *SKILLS, "--episodes", 1, "--show", show)
        said = labelled.run("evaluate", labelled / "policy-lora", *words)
        (labelled / f"said-{show.split()[0]}.txt").write_text(said)
    few_steps_judge(labelled)
    words = ("--source", labelled.film, "--judge", labelled / "judge", *labelled.cache)
    (labelled / "said-quality.txt").write_text(labelled.run("evaluate", labelled / "ac3", *words))
    labelled.run("inspect", labelled / "genie", "--source", labelled.video, *labelled.cache)
    return labelled


def few_steps_judge(journey: Journey) -> None:
    """A judge that is fitted in a second (and refused, as it should be), where `evaluate` looks for one."""
    source = open_source(journey.film)
    training, validation, _ = known_motion(source, cached(source, 16, journey / "cache"), 0.6)
    fit_judge(training, validation, seed=0, config=JudgeConfig(width=4, steps=5)).save(journey / "judge")


@pytest.fixture(scope="session", autouse=True)
def _plain_terminal():
    """Messages as wide as they are, without colours, so that tests may look for words in them."""
    os.environ.update(COLUMNS="200", NO_COLOR="1")
