"""The tables of the paper as data: rows, what each changes, which row is the control, what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.names import named
from cyclemimic.recipes.ablations import CHANGES, changed
from cyclemimic.recipes.recipe import Recipe, RecipeObjective
from cyclemimic.train.stage1_tokenizer import TokenizerTraining

Begin = Literal["trunk", "random", "features"]
ROW_OBJECTIVES: tuple[RecipeObjective, ...] = ("genie", "lapa", "univla", "ac3")
CARRIED_ROWS = 3  # rows beside the control that may look at the test clips


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: a tokenizer, and where the table asks for it a policy behind it.

    Args:
        says: what it is, in words.
        changes: to the recipe, by name (`ablations.CHANGES`).
        begin: `trunk` branches off a trunk of this recipe; `random` takes as many steps in one run; `features` does so
            on the frozen features of a trunk of the unchanged recipe.
        bodies: share of the bodies whose video is trained on, at least one.
        clips: share of their clips.
    """

    name: str
    says: str
    objective: RecipeObjective = "ac3"
    changes: tuple[str, ...] = ()
    begin: Begin = "trunk"
    bodies: float = 1.0
    clips: float = 1.0

    def recipe(self, base: Recipe) -> Recipe:
        """The recipe with this row's changes."""
        return changed(base, self.changes)

    def recipe_name(self, base: str) -> str:
        """The same for `--recipe`."""
        return "+".join([base, *self.changes])

    def training(self, base: Recipe, share: float) -> TokenizerTraining:
        """What its last tokenizer run trains, at a share of the recipe's steps."""
        recipe = self.recipe(base)
        branches = {"genie": recipe.genie, "ac3": recipe.ac3}
        config = branches[self.objective] if self.begin == "trunk" else recipe.in_one_run(self.objective)
        return shortened(config, share)


def shortened(config: TokenizerTraining, share: float) -> TokenizerTraining:
    """The same training at a share of its steps, at least one."""
    return replace(config, steps=max(1, round(config.steps * share)))


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """One table.

    Args:
        says: what it asks.
        control: the row that all others are compared with, on the same seeds.
        ours: the row that `paired` in the result file compares; another may be named when it is run.
        acts: whether a policy is trained behind every row, and its success in closed loop measured.
        pilot: whether the figures of the paper's pilot study are measured as well.
    """

    name: str
    says: str
    rows: tuple[Row, ...]
    control: str
    ours: str
    acts: bool = False
    pilot: bool = False

    def row(self, name: str) -> Row:
        """A row by name. OBJECTIVE+CHANGE+CHANGE makes one of changes alone, such as the best of several together.

        Raises:
            InputError: there is no such row, objective or change.
        """
        known = {row.name: row for row in self.rows}
        if name in known:
            return known[name]
        objective, *changes = name.split("+")
        if not changes or objective not in ("genie", "ac3"):
            raise InputError(
                "--rows",
                expected=f"rows of {self.name!r}, or genie+CHANGE or ac3+CHANGE",
                got=repr(name),
                remedy=did_you_mean(name, known),
            )
        for change in changes:
            named("--rows", change, CHANGES)
        return Row(
            name=name,
            says=f"{objective} with {', '.join(changes)}",
            objective="genie" if objective == "genie" else "ac3",
            changes=tuple(changes),
        )

    def chosen(self, names: Sequence[str]) -> tuple[Row, ...]:
        """These rows, or all, with the control before them."""
        wanted = [self.row(name) for name in (names or [row.name for row in self.rows])]
        if len({row.name for row in wanted}) < len(wanted):
            raise InputError("--rows", expected="each row once", got=" ".join(names), remedy="Remove the double.")
        return (self.row(self.control), *(row for row in wanted if row.name != self.control))


GENIE = Row(name="genie", says="reconstruction alone (the paper's 'w/ Genie')", objective="genie")
AC3 = Row(name="ac3", says="AC3 and the discriminator, at the recipe's settings")


def _term(name: str, says: str) -> Row:
    return Row(name=f"ac3+{name}", says=says, changes=(name,))


def _decoder(kind: str, size: str) -> Row:
    changes = tuple(c for c in (f"decoder_{kind}" * (kind != "motion"), f"decoder_{size}" * (size != "whole")) if c)
    widths = {"half": "half as wide", "whole": "as wide as the recipe says", "double": "twice as wide"}
    kinds = {"motion": "moves what is there", "pixel": "paints", "feature": "predicts frozen features"}
    return Row(
        name=kind if size == "whole" else f"{kind}_{size}",
        says=f"AC3, D {kinds[kind]}, {widths[size]}",
        changes=changes,
        begin="features" if kind == "feature" else "trunk",
    )


TABLES: dict[str, TableSpec] = {
    table.name: table
    for table in (
        TableSpec(
            name="pilot",
            says="What a latent action does on its own frame, on other frames and on other bodies.",
            rows=(GENIE, AC3),
            control="genie",
            ours="ac3",
            pilot=True,
        ),
        TableSpec(
            name="objective",
            says="Which objective gives latent actions that mean the same on every body.",
            rows=(
                GENIE,
                Row(name="lapa", says="LAPA: difference of tokens, NSVQ", objective="lapa", begin="random"),
                Row(
                    name="univla",
                    says="UniVLA: frozen features of a trunk, two stages, the first hears the sentence",
                    objective="univla",
                    begin="features",
                ),
                Row(
                    name="genie_literal",
                    says="the control of the next row: the same sizes, reconstruction alone",
                    objective="genie",
                    changes=("paper_literal",),
                    begin="random",
                ),
                Row(name="ac3_literal", says="AC3 as the paper prints it", changes=("paper_literal",), begin="random"),
                AC3,
                _term("term_composition", "AC3 and z(a, b) + z(b, c) = z(a, c)"),
                _term("term_reversal", "AC3 and z(a, b) = -z(b, a)"),
                _term("term_flow", "AC3 and optical flow as a target"),
                _term("term_motion", "AC3, moving places count up to twice"),
                _term("term_reader", "AC3 and a slow copy of E that teaches D"),
                _term("term_adversary", "AC3 and an adversary that must not know the body"),
                _term("term_actions", "AC3 and the true motion of 2 % of the clips"),
            ),
            control="genie",
            ours="ac3",
            acts=True,
        ),
        TableSpec(
            name="buffer",
            says="How many batches the buffer of AC3 holds.",
            rows=(
                replace(GENIE, begin="random"),
                Row(name="B=1", says="this batch alone", changes=("buffer_1",), begin="random"),
                Row(name="B=4", says="four batches (the paper's)", begin="random"),
                Row(name="B=16", says="sixteen batches", changes=("buffer_16",), begin="random"),
            ),
            control="genie",
            ours="B=4",
            acts=True,
        ),
        TableSpec(
            name="discriminator",
            says="Whether the leak guard is needed, what it sees, and how deep it is.",
            rows=(
                Row(name="none", says="AC3 without a discriminator", changes=("critic_none",)),
                Row(name="local", says="it judges patches alone", changes=("critic_local",)),
                Row(name="local-global", says="patches and the whole frame (the paper's), as deep as E"),
                Row(name="pair", says="the same, beside the frame now", changes=("critic_pairs",)),
                Row(name="depth-half", says="half as deep as E", changes=("critic_shallow",)),
                Row(name="depth-more", says="half as deep again as E", changes=("critic_deep",)),
            ),
            control="none",
            ours="local-global",
            acts=True,
        ),
        TableSpec(
            name="decoder",
            says="What D may do: move, paint, or predict features; and how wide it is.",
            rows=tuple(
                _decoder(kind, size) for kind in ("pixel", "motion", "feature") for size in ("half", "whole", "double")
            ),
            control="pixel",
            ours="motion",
        ),
        TableSpec(
            name="head",
            says="How actions leave the policy; one tokenizer and one pre-training for all.",
            rows=(
                Row(name="discrete", says="action tokens of 256 bins", changes=("discrete_decoding",)),
                Row(name="latent", says="from the states at the latent tokens", changes=("latent_decoding",)),
                Row(name="act_query", says="from a query behind the latent tokens (the paper's)"),
            ),
            control="discrete",
            ours="act_query",
            acts=True,
        ),
        TableSpec(
            name="routing",
            says="How much of L_C teaches D.",
            rows=(
                Row(name="share-0", says="E alone", changes=("route_none",)),
                Row(name="share-0.1", says="a tenth reaches D", changes=("route_tenth",)),
                Row(name="recipe", says="as the recipe says"),
                Row(name="share-1", says="all of it", changes=("route_whole",)),
                Row(name="reader", says="as the recipe says, and a slow copy of E teaches D", changes=("term_reader",)),
            ),
            control="share-0",
            ours="recipe",
        ),
        TableSpec(
            name="codes",
            says="K codes and l_z tokens.",
            rows=(
                Row(name="recipe", says="as the recipe says"),
                Row(name="K-half", says="half as many codes", changes=("codes_half",)),
                Row(name="K-double", says="twice as many codes", changes=("codes_double",)),
                Row(name="l_z=1", says="one token", changes=("tokens_1",)),
                Row(name="l_z=4", says="four tokens (the paper's)", changes=("tokens_4",)),
            ),
            control="recipe",
            ours="l_z=4",
        ),
        TableSpec(
            name="data",
            says="How much video, and of how many bodies; all are judged on the same clips.",
            rows=(
                Row(name="all", says="all bodies, all clips"),
                Row(name="one-body", says="one body", bodies=0.0),
                Row(name="half-bodies", says="half of the bodies", bodies=0.5),
                Row(name="clips-eighth", says="an eighth of the clips", clips=1 / 8),
                Row(name="clips-half", says="half of the clips", clips=1 / 2),
            ),
            control="one-body",
            ours="all",
        ),
    )
}


def find_table(name: str) -> TableSpec:
    """A table by name. InputError for an unknown one."""
    if name not in TABLES:
        raise InputError("--table", expected="a table", got=repr(name), remedy=did_you_mean(name, (*TABLES, "policy")))
    return TABLES[name]
