"""Of which measurement parts are kept, and what decides them: weights, source, split and settings; never the code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cyclemimic.data.cache import source_hash
from cyclemimic.evaluate.parts import Parts, parts_of
from cyclemimic.policy.network import NETWORK_FILE, WEIGHTS_FILE
from cyclemimic.policy.policy import POLICY_FILE
from cyclemimic.recipes.footage import SPLIT_SEED
from cyclemimic.store.atomic import sha256_file, sha256_json
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.tokenizer.tokenizer import CONFIG, WEIGHTS
from cyclemimic.train.checkpoint import CONFIG_FILE
from cyclemimic.types import Gap, Source


def of_quality(out: Path, run: Path, cache: FrameCache, source: str, gap_s: Gap, side: str) -> Parts:
    """Parts of a tokenizer's quality in `out`; which judge reads is known later, and goes `under` them."""
    gaps = dict(gap_s) if isinstance(gap_s, Mapping) else gap_s
    files = [sha256_file(run / name) for name in (WEIGHTS, CONFIG)]
    return parts_of(
        out, f"quality-{source}-{side}", files, cache.source_hash, cache.recipe.size_px, gaps, side, SPLIT_SEED
    )


def of_policy(out: Path, what: str, run: Path, world: str, show: str) -> Parts:
    """Parts of a policy's episodes in `out`; tasks and batch go `under` them."""
    return parts_of(out, what, policy_sha256(run), world, show)


def of_open_loop(out: Path, runs: Sequence[Path], source: Source, split: str, body: str | None) -> Parts:
    """Parts of the errors of policies on demonstrations in `out`; the first run is the one that is judged."""
    # What a run was trained on decides its controls.
    told = [[policy_sha256(run), sha256_file(run / CONFIG_FILE)] for run in runs]
    return parts_of(out, "open-loop", told, source_hash(source), split, body)


def policy_sha256(run: Path) -> str:
    """Hash of all files that decide how the policy in `run` acts."""
    return sha256_json({name: sha256_file(run / name) for name in (WEIGHTS_FILE, NETWORK_FILE, POLICY_FILE)})
