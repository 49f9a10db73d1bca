"""The table that asks whether a policy gains by latent actions: its rows as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.recipes.ablations import changed
from cyclemimic.recipes.recipe import Recipe
from cyclemimic.recipes.tables import TABLES, Row

Start = Literal["nothing", "tokenizer", "true motion", "true actions"]


@dataclass(frozen=True, kw_only=True)
class PolicyRow:
    """One row: what a policy has learnt before it is shown the demonstrations.

    Args:
        says: what it is, in words.
        start: `nothing` learns from the demonstrations alone, for as many steps as the others take together, at the
            best of three rates; `tokenizer` is pre-trained on a tokenizer's latent actions, `true motion` on perfect
            ones, `true actions` on the actions themselves.
        tokenizer: where there is one.
        others: whether the body that acts is seen by neither tokenizer nor pre-training.
        state: whether the robot's state is seen before the demonstrations too, which no video has.
        changes: to the recipe of the policy, by name (`ablations.CHANGES`).
        beside: a row that it is compared with besides the table's.
    """

    name: str
    says: str
    start: Start = "tokenizer"
    tokenizer: Row | None = None
    others: bool = False
    state: bool = False
    changes: tuple[str, ...] = ()
    beside: str | None = None

    def recipe(self, base: Recipe) -> Recipe:
        """The recipe with this row's changes."""
        return changed(base, self.changes)

    def recipe_name(self, base: str) -> str:
        """The same for `--recipe`."""
        return "+".join([base, *self.changes])


@dataclass(frozen=True, kw_only=True)
class PolicyTable:
    """The table.

    Args:
        control: the row that all others are compared with.
        genie: the second one: reconstruction alone.
        ours: the row that the result file puts forward.
        per_skill: demonstrations of each skill, unless the command line says otherwise.
        acting_episodes: of each skill, unless it does.
        seeds: unless it does.
    """

    name: str
    says: str
    rows: tuple[PolicyRow, ...]
    control: str = "none"
    genie: str = "genie"
    ours: str = "ac3"
    per_skill: tuple[int, ...] = (5, 20, 50)
    acting_episodes: int = 48
    seeds: int = 3

    def row(self, name: str) -> PolicyRow:
        """A row by name. InputError for an unknown one."""
        known = {row.name: row for row in self.rows}
        if name not in known:
            expected = f"rows of {self.name!r}: {', '.join(known)}"
            raise InputError("--rows", expected=expected, got=repr(name), remedy=did_you_mean(name, known))
        return known[name]

    def chosen(self, names: Sequence[str]) -> tuple[PolicyRow, ...]:
        """These rows, or all, with the control before them."""
        wanted = [self.row(name) for name in (names or [row.name for row in self.rows])]
        if len({row.name for row in wanted}) < len(wanted):
            raise InputError("--rows", expected="each row once", got=" ".join(names), remedy="Remove the double.")
        return (self.row(self.control), *(row for row in wanted if row.name != self.control))


def _latent(name: str, says: str, *, others: bool = False, beside: str | None = None) -> PolicyRow:
    objective = name.removesuffix("_other_bodies")
    return PolicyRow(name=name, says=says, tokenizer=TABLES["objective"].row(objective), others=others, beside=beside)


def _won_back(change: str, says: str) -> PolicyRow:
    """A way to win back the state, on perfect codes, so that nothing but the way differs."""
    return PolicyRow(
        name=change, says=says, start="true motion", others=True, changes=(change,), beside="oracle_codes"
    )  # fmt: skip


POLICY = PolicyTable(
    name="policy",
    says="Does a policy gain by latent actions, and what holds it back?",
    rows=(
        PolicyRow(
            name="none",
            says="no latent actions: behaviour cloning, as many steps as the others in all, the best of three rates",
            start="nothing",
        ),
        PolicyRow(
            name="openvla",
            says="the same with actions as tokens of 256 bins, as OpenVLA has them",
            start="nothing",
            changes=("discrete_decoding",),
        ),
        _latent("lapa", "pre-trained on LAPA's latent actions"),
        _latent("univla", "pre-trained on UniVLA's"),
        _latent("genie", "pre-trained on those of reconstruction alone"),
        _latent("ac3", "pre-trained on those of AC3"),
        _latent("genie_other_bodies", "as genie; the body that acts is in no video", others=True),
        _latent(
            "ac3_other_bodies", "as ac3; the body that acts is in no video", others=True, beside="genie_other_bodies"
        ),
        PolicyRow(
            name="oracle_codes",
            says="pre-trained on perfect codes of the other bodies: what the tokenizer's errors cost",
            start="true motion",
            others=True,
            beside="ac3_other_bodies",
        ),
        PolicyRow(
            name="no_codes",
            says="as oracle_codes, but pre-training learns only where a clip ends: what video gives without codes",
            start="true motion",
            others=True,
            changes=("end_only",),
            beside="oracle_codes",
        ),
        _won_back("state_target", "as oracle_codes; pre-training also guesses where in the picture things move now"),
        _won_back("keypoint", "as state_target; that guess is an input of the decoder, later beside the robot's state"),
        _won_back("proprioception_dropout", "as oracle_codes; fine-tuning hides the robot's state half of the time"),
        PolicyRow(
            name="true_actions",
            says="pre-trained on true actions and states of the other bodies; its action decoder is kept: the bound",
            start="true actions",
            others=True,
            state=True,
            beside="oracle_codes",
        ),
        PolicyRow(
            name="proprio_bound",
            says="as oracle_codes, with the robot's true state in pre-training; its decoder is kept but for the end",
            start="true motion",
            others=True,
            state=True,
            beside="oracle_codes",
        ),
        PolicyRow(
            name="true_actions_blind",
            says="the same without the robot's state, which no video has; with a new action decoder",
            start="true actions",
            others=True,
            beside="true_actions",
        ),
    ),
)
