"""What is kept of a step whose loss is not finite: its batch and its terms, beside the run. Engineering."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from cyclemimic.nn.collectives import process_number
from cyclemimic.store.weights import save_tensors
from cyclemimic.train.endings import NotFiniteError

# The usual suspects by a word in a term's name.
_LIKELY = {
    "discriminator": "objective.adversarial 'logistic' (the printed form has no lower bound), a smaller realism weight",
    "critic": "objective.adversarial 'logistic' (the printed form has no lower bound), a lower critic_learning_rate",
    "cycle": "a higher ac3.temperature",
    "reconstruction": "pairs in which something moves (a longer gap_s)",
    "action": "actions without gaps or infinities in the demonstrations, normalization 'quantile'",
}


@runtime_checkable
class KeepsBatch(Protocol):
    """A stage that can show what its last step was given."""

    def last_batch(self) -> Mapping[str, Tensor]:
        """The tensors of the last step's batch on this process, and `index`, their place in the data, where known."""
        ...


def keep_evidence(
    stage: object, found: NotFiniteError, *, name: str, step: int, run_dir: Path, seed: object, checkpoint: int | None
) -> NotFiniteError:
    """Write RUN/nonfinite-step-N (each process its own files); returns the error that says all."""
    folder = run_dir / f"nonfinite-step-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    end = f"-{process_number()}" if process_number() else ""
    batch = dict(stage.last_batch()) if isinstance(stage, KeepsBatch) else {}
    facts: dict[str, Any] = {
        "step": step,
        "seed": seed,
        "process": process_number(),
        "found": str(found),
        "terms": {key: value if math.isfinite(value) else str(value) for key, value in found.terms.items()},
        "batch": {key: list(value.shape) for key, value in batch.items()},
        "batch_not_finite": [k for k, v in batch.items() if v.is_floating_point() and not bool(v.isfinite().all())],
    }
    (folder / f"terms{end}.json").write_text(json.dumps(facts, indent=1))
    if batch:
        save_tensors(folder / f"batch{end}.safetensors", batch, {"step": str(step)})
    return NotFiniteError(_message(found, facts, name=name, step=step, folder=folder, checkpoint=checkpoint))


def _message(
    found: NotFiniteError, facts: Mapping[str, Any], *, name: str, step: int, folder: Path, checkpoint: int | None
) -> str:
    hints = [hint for word, hint in _LIKELY.items() if any(word in term for term in _bad_terms(found))]
    if facts["batch_not_finite"]:
        hints.insert(0, f"other data (the batch itself is not finite: {', '.join(facts['batch_not_finite'])})")
    hints += ["a lower learning_rate or clip_norm", "precision fp32"]
    kept = "there is no checkpoint yet" if not checkpoint else f"the checkpoint of step {checkpoint} is good"
    return (
        f"{name}, step {step}: {found}. No weight moved; {kept}. Batch and terms lie in {folder}."
        f" Repeated, the command meets the same step again. Try: {'; '.join(hints)}."
    )


def _bad_terms(found: NotFiniteError) -> list[str]:
    return [name for name, value in found.terms.items() if not math.isfinite(value)]
