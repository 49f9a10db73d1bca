"""Mixtures: several sources in one training, each with a weight, by name, from a small file, or from a function.

    mixture:bridge?root=DATA     a table of recipes/published_mixtures.py, its data below the folder or URL DATA
    mixture:mine.toml            a file of the user's, or mine.json
    mixture:package.module:name  a `Mixture`, or a function that returns one

Behind any of them `?missing=skip` goes on without the sources that are not there.

Here is what a mixture says; recipes/parts.py opens its sources.
"""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from cyclemimic.data.mixture import Per, SourceWeights, check_weight
from cyclemimic.data.sources.places import one_of, path_and_options
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.names import imported
from cyclemimic.recipes.published_mixtures import MIXTURES, PublishedMixture

KIND = "mixture"
ROOT = "data"  # where the data of a named mixture lies, unless `?root=` says
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_NUMBERS = ("weight", "gap_s")
_EXAMPLE = 'Write for example [[entries]], source = "folder:VIDEOS", weight = 2.'


@dataclass(frozen=True, kw_only=True)
class MixtureEntry:
    """One source of a mixture.

    Args:
        source: as `--source` takes it, such as folder:PATH; paths count from where the command runs.
        weight: above 0; what it means says `Mixture.per`.
        name: in tables and for the folder of its labels; the last part of the path unless given.
        gap_s: H [s] of its bodies; that of the recipe or the command line unless given.
        body: what all its clips are called; as the source says unless given.
        licence: of clips of which the source does not know it.
        get: how to come by the data, for the message when it is not there.
    """

    source: str
    weight: float = 1.0
    name: str = ""
    gap_s: float | None = None
    body: str | None = None
    licence: str | None = None
    get: str | None = None

    def __post_init__(self) -> None:
        if not self.source or self.source.startswith(f"{KIND}:"):
            remedy = "Name a source such as folder:PATH; a mixture holds no mixtures."
            raise InputError("entry, field source", expected="a source", got=repr(self.source), remedy=remedy)
        where = f"entry {self.name or self.source!r}"
        check_weight(f"{where}, field weight", self.weight)
        if self.gap_s is not None and not 0 < self.gap_s < float("inf"):
            raise InputError(
                f"{where}, field gap_s", expected="seconds above 0", got=str(self.gap_s), remedy="Try 0.5."
            )
        if not self.name:
            object.__setattr__(self, "name", _name_from(self.source))
        if not _NAME.fullmatch(self.name):
            expected = "letters, digits, '.', '_' and '-'"
            remedy = "A folder of labels bears this name."
            raise InputError(f"{where}, field name", expected=expected, got=repr(self.name), remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Several sources and how often each is drawn.

    Args:
        name: in messages.
        entries: at least one.
        per: `source`: weights are shares of the draws, over their sum. `pair`: a weight multiplies the source's number
            of pairs, as mixtures published for robot data mostly mean it.
        missing: `skip` leaves out the sources that are not there, `refuse` names them; a damaged one is always refused.
    """

    name: str
    entries: tuple[MixtureEntry, ...]
    per: Per = "source"
    missing: Literal["refuse", "skip"] = "refuse"

    def __post_init__(self) -> None:
        if not self.entries:
            raise InputError(f"mixture {self.name}", expected="at least one entry", got="none", remedy=_EXAMPLE)
        for what, values in (
            ("name", [entry.name for entry in self.entries]),
            ("source", [entry.source for entry in self.entries]),
        ):
            twice = [value for value, count in Counter(values).items() if count > 1]
            if twice:
                remedy = "Give each a name of its own." if what == "name" else "Give it once, with the weights' sum."
                where = f"mixture {self.name}, field {what}"
                raise InputError(where, expected="each once", got=f"{twice[0]!r} twice", remedy=remedy)
        # Refuses an unknown `per` here, where the mixture is written down.
        self.weights()

    def weights(self) -> SourceWeights:
        """As a loader takes them."""
        return SourceWeights(
            names=tuple(entry.name for entry in self.entries),
            weights=tuple(float(entry.weight) for entry in self.entries),
            per=self.per,
        )


def find_mixture(text: str) -> Mixture:
    """The mixture that stands behind `mixture:`.

    Raises:
        InputError: there is none of that name, or its file cannot be read or says something else.
    """
    what, options = path_and_options(text, {"root": str, "missing": one_of("refuse", "skip")})
    missing = options.pop("missing", None)
    found = _found(text, what, options)
    return found if missing is None else replace(found, missing=missing)


def _found(text: str, what: str, options: Mapping[str, str]) -> Mixture:
    if what in MIXTURES:
        return _published(what, MIXTURES[what], str(options.get("root", ROOT)))
    if options:
        remedy = "A file or a function says itself where its data lies."
        raise InputError(f"{KIND}:{text}", expected="no option 'root'", got=options["root"], remedy=remedy)
    if Path(what).suffix in (".toml", ".json"):
        return read_mixture(Path(what))
    if ":" in what:
        return called(f"{KIND}:{what}", imported("--source", what))
    remedy = f"{did_you_mean(what, MIXTURES)} A file ends in .toml or .json; a function is package.module:name."
    raise InputError(f"{KIND}:{text}", expected="a known mixture, a file or a function", got=repr(what), remedy=remedy)


def called(where: str, found: Any) -> Mixture:
    """A `Mixture`, or what a function without arguments returns, which must be one."""
    if callable(found) and not isinstance(found, Mixture):
        try:
            inspect.signature(found).bind()
        except TypeError as error:  # such as a source's class, which wants its path
            remedy = "A source from outside is named package.module:Class=PATH."
            raise InputError(where, expected="a function without arguments", got=str(error), remedy=remedy) from None
        found = found()
    mixture = found
    if not isinstance(mixture, Mixture):
        remedy = "Return a cyclemimic.recipes.mixtures.Mixture."
        raise InputError(where, expected="a Mixture", got=type(mixture).__name__, remedy=remedy)
    return mixture


def read_mixture(path: Path) -> Mixture:
    """A mixture from a TOML or JSON file: `entries` with the fields of `MixtureEntry`, and maybe `per`.

    Raises:
        InputError: the file cannot be read, or a field is unknown, missing or of another type; names it.
    """
    parse: Callable[[str], Any] = tomllib.loads if path.suffix == ".toml" else json.loads
    try:
        said = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(path, expected="a file", got=str(error.strerror), remedy="Check the path.") from None
    except ValueError as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise InputError(path, expected=f"valid {kind}", got=str(error), remedy=_EXAMPLE) from None
    if not isinstance(said, Mapping):
        raise InputError(path, expected="an object with 'entries'", got=type(said).__name__, remedy=_EXAMPLE)
    for field in said:
        if field not in ("entries", "per"):
            remedy = did_you_mean(str(field), ("entries", "per"))
            raise InputError(f"{path}, field {field}", expected="known fields", got=repr(field), remedy=remedy)
    rows = said.get("entries")
    if not isinstance(rows, list):
        got = "none" if rows is None else type(rows).__name__
        raise InputError(f"{path}, field entries", expected="a list of entries", got=got, remedy=_EXAMPLE)
    entries = tuple(_entry(row, f"{path}, entry {number}") for number, row in enumerate(rows, start=1))
    try:
        return Mixture(name=path.name, entries=entries, per=said.get("per", "source"))
    except InputError as error:
        raise _at(path, error) from None


def _entry(row: object, where: str) -> MixtureEntry:
    if not isinstance(row, Mapping):
        raise InputError(where, expected="an object", got=type(row).__name__, remedy=_EXAMPLE)
    known = [field.name for field in fields(MixtureEntry)]
    for name, value in row.items():
        if name not in known:
            hint = did_you_mean(str(name), known)
            raise InputError(where, expected="known fields", got=repr(name), remedy=hint)
        fits = isinstance(value, int | float) if name in _NUMBERS else isinstance(value, str)
        if not fits or isinstance(value, bool):
            expected = "a number" if name in _NUMBERS else "text"
            raise InputError(f"{where}, field {name}", expected=expected, got=repr(value), remedy=_EXAMPLE)
    if "source" not in row:
        raise InputError(f"{where}, field source", expected="a source", got="none", remedy=_EXAMPLE)
    try:
        return MixtureEntry(**row)
    except InputError as error:
        raise _at(where, error) from None


def _at(where: object, error: InputError) -> InputError:
    return InputError(f"{where}: {error.where}", expected=error.expected, got=error.got, remedy=error.remedy)


def _name_from(source: str) -> str:
    path = source.partition("?")[0].rstrip("/")
    last = re.split(r"[/:=]", path)[-1]
    return re.sub(r"[^\w.-]+", "-", last).strip("-._") or "source"


def _published(name: str, table: PublishedMixture, root: str) -> Mixture:
    entries = tuple(
        MixtureEntry(
            name=row.name,
            source=row.source(root),
            weight=row.weight,
            body=row.body,
            get=row.get(root),
        )
        for row in table.rows
    )
    return replace(Mixture(name=name, entries=entries), per=table.per)
