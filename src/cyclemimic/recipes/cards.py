"""MODEL_CARD.md beside weights: what they were made from, under which licences, how, and what was measured.

Written from the files of a run, so that it can be written again whenever one of them changes. It names no folder and
no machine: it may be published with the weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclemimic.evaluate.pages import this_machine
from cyclemimic.policy.policy import POLICY_FILE
from cyclemimic.store.atomic import read_json, sha256_file, write_atomically
from cyclemimic.store.lineage import FILE as LINEAGE
from cyclemimic.store.lineage import UNKNOWN, Lineage, licence_text, read_lineage
from cyclemimic.tokenizer.tokenizer import CONFIG as TOKENIZER
from cyclemimic.train.checkpoint import CONFIG_FILE

CARD = "MODEL_CARD.md"
ABSENT = "absent"
# What a part of a lineage is, in words.
_PARTS = {
    "data": "Trained on",
    "trunk": "Its first steps are those of a trunk, trained on",
    "backbone": "Its backbone is another tokenizer's, trained on",
    "init": "It begins from a pre-trained policy, trained on",
    "tokenizer": "The latent actions are a tokenizer's, trained on",
    "labels": "The latent actions label",
}
_SETTINGS = ("seed", "steps", "batch_size", "batch", "gap_s", "adaptation", "precision", "body", "per_skill")


def from_run(part: str, run: Path | None) -> dict[str, tuple[Lineage, ...]]:
    """What another run that this one begins from was made from, under the name `part`; empty where there is none.

    All of it: a trunk's own backbone, and the tokenizer behind a pre-trained policy, count too.
    """
    found = {} if run is None else read_lineage(run)
    if not found:
        return {}
    below = {name: rows for name, rows in found.items() if name != "data"}
    return {**{f"{part} > {name}": rows for name, rows in below.items()}, part: found.get("data", ())}


def write_card(run: Path) -> Path | None:
    """Write or renew the card of a run of tokenizer, pretrain or finetune; None where nothing says what it is."""
    if not (run / LINEAGE).exists():
        return None
    lines = [f"# {run.name or run.resolve().name}", "", _what(run), ""]
    lines += ["## Data and licences", "", *_data(run), "", "## How", "", *_how(run), "", "## Measured", ""]
    lines += [*_measured(run), ""]
    write_atomically(run / CARD, "\n".join(lines).encode())
    return run / CARD


def renew_card(run: Path, out: Path) -> None:
    """Write the card again if results lie beside the weights now; a run that is only looked at stays as it is."""
    if out.resolve() == run.resolve():
        write_card(run)


def _what(run: Path) -> str:
    if (run / TOKENIZER).exists():
        kind = "A latent action tokenizer: it names what happened between two frames by a few codes"
    elif (run / POLICY_FILE).exists():
        bodies = ", ".join(read_json(run / POLICY_FILE).get("bodies", {}))
        kind = f"A policy that drives {bodies} by pictures and words"
    else:
        kind = "A policy that says which latent action follows a picture and a sentence; it drives no robot yet"
    return f"{kind}. {_made_by(run)}"


def _made_by(run: Path) -> str:
    """The code that made the weights: what an older card of these very weights says, else the code of today."""
    card = run / CARD
    if card.exists():
        text = card.read_text(encoding="utf-8")
        told = re.search(r"Made by CycleMimic [^\n]*", text)
        if told and all(sha256_file(path) in text for path in _weights(run)):
            return told.group()
    here = this_machine()
    return f"Made by CycleMimic {here.versions.get('cyclemimic', UNKNOWN)}, commit {here.commit or UNKNOWN}."


def _weights(run: Path) -> list[Path]:
    return sorted(path for path in run.glob("*.safetensors") if path.name != "state.safetensors")


def _data(run: Path) -> Iterator[str]:
    found = read_lineage(run)
    for part, rows in found.items():
        if not rows:
            continue
        if part.rpartition(" > ")[2] == ABSENT:
            yield f"Sources of the mixture that were not there, and on which nothing was trained ({len(rows)}): "
            yield ", ".join(row.name for row in rows) + ". The shares are among the others."
            yield ""
            continue
        yield f"{_PARTS.get(part.rpartition(' > ')[2], part)}:" if " > " not in part else f"{part}:"
        yield ""
        yield "| Source | Share | Clips | Bodies | Licences | Content |"
        yield "|---|---|---|---|---|---|"
        for row in rows:
            bodies, licences = ", ".join(row.bodies) or UNKNOWN, licence_text(row.licences)
            name = row.origin or row.name
            cells = (name, f"{row.share:.1%}", str(row.clips), bodies, licences, f"`{row.content[:16]}`")
            yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
        yield ""
    if any(UNKNOWN in row.licences for rows in found.values() for row in rows):
        yield "Of clips whose licence is unknown nobody stated one. Ask their owners before you publish these weights."
    else:
        yield "The licences are those that the data states. Whether they allow what you plan is for you to read."


def _how(run: Path) -> Iterator[str]:
    config = read_json(run / CONFIG_FILE) if (run / CONFIG_FILE).exists() else {}
    objective = config.get("objective")
    if isinstance(objective, Mapping):
        yield f"- objective: {objective.get('objective')}"
    optim = config.get("optim")
    settings = {**(optim if isinstance(optim, Mapping) else {}), **config}
    yield from (f"- {name}: {settings[name]}" for name in _SETTINGS if settings.get(name) is not None)
    yield from (f"- `{path.name}`: sha256 {sha256_file(path)}" for path in _weights(run))
    yield f"- everything else: `{CONFIG_FILE}`"


def _measured(run: Path) -> Sequence[str]:
    rows = [(name, key, value) for name, key, value in _figures(run) if math.isfinite(value)]
    if not rows:
        return ["Nothing yet. `cyclemimic evaluate` adds what it measures."]
    table = [f"| `{name}` | {key} | {value:.4g} |" for name, key, value in rows]
    return ["| File | Figure | Value |", "|---|---|---|", *table]


def _figures(run: Path) -> Iterator[tuple[str, str, float]]:
    """The numbers of the records that `evaluate` and training leave in a run."""
    for path in sorted(run.glob("*.json")):
        for pattern, keys in _RECORDS.items():
            if path.match(pattern):
                for key in keys:
                    found: Any = read_json(path)
                    for word in key.split(".") if key else ():
                        found = found.get(word) if isinstance(found, Mapping) else None
                    yield from ((path.name, name, value) for name, value in _numbers(found, key.rpartition(".")[2]))


_RECORDS = {
    "quality*.json": ("quality",),
    "rollouts-*.json": ("all",),
    "suite-*.json": ("success",),
    "validation.json": ("",),
}


def _numbers(found: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(found, bool):
        return
    if isinstance(found, int | float):
        yield name, float(found)
    elif isinstance(found, Mapping):
        for key, value in found.items():
            yield from _numbers(value, f"{name}.{key}".strip("."))
    elif isinstance(found, list):
        for i, value in enumerate(found):
            yield from _numbers(value, f"{name}[{i}]")
