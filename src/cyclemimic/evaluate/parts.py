"""What a long measurement has finished, kept as files until it is whole: killed at any moment, it goes on from there.

A part's file is named by everything that decides it and appears whole or not at all, so what lies there may be used,
and what no longer fits is never found. Code is not among what decides it. Engineering.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cyclemimic.errors import InputError
from cyclemimic.evaluate.models import KnowsFrames, LatentActionModel, draws
from cyclemimic.store.atomic import sha256_json, write_atomically
from cyclemimic.store.weights import load_tensors, save_tensors
from cyclemimic.types import Int64

PARTS = "parts"  # a folder within the folder of results
SAVE_S = 10.0  # the most work in seconds, or about that, that a kill costs
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)

T = TypeVar("T")
Arrays = Mapping[str, NDArray[Any]]


class Parts:
    """The parts of one measurement.

    Args:
        folder: where they lie; None keeps nothing, and all is made when it is asked for.
        facts: what decides all of them, as JSON holds it: weights, source, settings.
    """

    def __init__(self, folder: Path | None = None, facts: object = None) -> None:
        self.folder, self._salt = folder, sha256_json(facts)

    def under(self, *facts: object) -> Parts:
        """Parts of the same folder that further facts decide."""
        return Parts(self.folder, [self._salt, *facts])

    def figures(self, name: str, kind: type[T], make: Callable[[], T]) -> T:
        """A dataclass of numbers, made now or found; found ones equal made ones bit for bit."""
        path = self.path(name, "json")
        if path is None:
            return make()
        with suppress(*_UNREADABLE):
            return _again(kind, json.loads(path.read_bytes()))
        made = make()
        write_atomically(path, json.dumps(asdict(made)).encode())  # type: ignore[call-overload]
        return made

    def arrays(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """Named arrays, made now or found."""
        found = self.found(name)
        if found is None:
            found = make()
            self.keep(name, found)
        return found

    def found(self, name: str) -> Arrays | None:
        """What `keep` wrote, or None."""
        path = self.path(name, "npz")
        if path is not None and path.exists():
            with suppress(*_UNREADABLE), np.load(path, allow_pickle=False) as stored:
                return {key: stored[key] for key in stored.files}
        return None

    def keep(self, name: str, arrays: Arrays) -> None:
        """Write arrays as a part, in place of what it was."""
        path = self.path(name, "npz")
        if path is not None:
            buffer = io.BytesIO()
            named: dict[str, Any] = dict(arrays)
            np.savez_compressed(buffer, allow_pickle=False, **named)
            write_atomically(path, buffer.getvalue())

    def tensors(self, name: str) -> dict[str, Tensor] | None:
        """What `keep_tensors` wrote, or None."""
        path = self.path(name, "safetensors")
        if path is not None and path.exists():
            with suppress(InputError):
                return load_tensors(path)[0]
        return None

    def keep_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors as a part, in place of what it was."""
        path = self.path(name, "safetensors")
        if path is not None:
            save_tensors(path, tensors, {})

    def path(self, name: str, kind: str) -> Path | None:
        """Where a part lies, or will; None where nothing is kept."""
        if self.folder is None:
            return None
        word = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
        return self.folder / f"{word}-{sha256_json([self._salt, name])[:16]}.{kind}"

    def remove(self) -> None:
        """Remove all parts of the folder, once the measurement is written."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):  # other measurements have theirs beside it
                self.folder.parent.rmdir()


def parts_of(out: Path, what: str, *facts: object) -> Parts:
    """Parts of the measurement `what` whose results lie in `out`; the number of threads decides the last bits too."""
    return Parts(out / PARTS / what, [*facts, torch.get_num_threads()])


class KeptLabels:
    """A model whose labels are kept, batch by batch: equal frames are labelled once, now and in a later process."""

    def __init__(self, model: LatentActionModel, parts: Parts) -> None:
        self.model, self.parts, self.draws = model, parts, draws(model)

    @property
    def num_codes(self) -> int:
        """K."""
        return self.model.num_codes

    def label(self, now: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, L] and margin [B] of pairs of frames [B, 3, S, S]."""
        return self._kept(now, later, lambda: self.model.label(now, later))

    def label_known(self, now: Tensor, later: Tensor, row: Int64) -> tuple[Tensor, Tensor]:
        """`label`, where the model knows the cache's frames by what it knows of the rows [B, 2]."""
        if not isinstance(self.model, KnowsFrames):
            return self.label(now, later)
        model = self.model
        return self._kept(now, later, lambda: model.label_known(now, later, row))

    def _kept(self, now: Tensor, later: Tensor, label: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        def made() -> Arrays:
            codes, margin = label()
            return {"codes": codes.numpy(), "margin": margin.numpy()}

        if self.parts.folder is None:
            return label()
        seen = hashlib.blake2b(digest_size=16)
        for frames in (now, later):
            seen.update(frames.contiguous().numpy().data)
        found = self.parts.arrays(f"labels {seen.hexdigest()}", made)
        return torch.from_numpy(found["codes"]), torch.from_numpy(found["margin"])

    def act_out(self, now: Tensor, codes: Tensor) -> Tensor:
        """Frames are large and soon drawn: they are not kept."""
        return self.model.act_out(now, codes)


def _again(kind: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass from `asdict`; KeyError where it lacks a field."""
    hints = get_type_hints(kind)
    known: dict[str, Any] = {}
    for each in fields(kind):  # type: ignore[arg-type]
        value, hint = values[each.name], hints[each.name]
        if isinstance(hint, type) and is_dataclass(hint):
            value = _again(hint, value)
        known[each.name] = tuple(value) if isinstance(value, list) else value
    return kind(**known)
