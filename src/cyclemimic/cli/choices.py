"""What several verbs choose from, and where they look unless told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cyclemimic.recipes.ablations import changed
from cyclemimic.recipes.paper import paper
from cyclemimic.recipes.recipe import Recipe, find_recipe
from cyclemimic.recipes.small import small
from cyclemimic.recipes.tiny import tiny

Features = Literal["auto", "compute", "cache", "cache-int8"]
RECIPES = {"tiny": tiny, "small": small, "paper": paper}
CACHE = Path("runs/cache")
RESULTS = Path("benchmarks/results")


def the_recipe(name: str) -> Recipe:
    """A recipe by name, with changes behind it: tiny+term_flow+critic_pairs."""
    base, *changes = name.split("+")
    return changed(find_recipe(base, RECIPES), changes)
