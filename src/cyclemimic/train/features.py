"""Run a frozen backbone once over every frame of a frame cache, and keep what it makes of them. Engineering."""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from cyclemimic.data.cache import refuse_full_disk
from cyclemimic.errors import InputError
from cyclemimic.nn.batches import pixels
from cyclemimic.nn.vision import BackboneConfig, FeatureBackbone, backbone_hash
from cyclemimic.store.atomic import alone_in
from cyclemimic.store.feature_cache import FEATURE_INDEX, FEATURES, REMEDY, FeatureCache, FeatureCacheWriter
from cyclemimic.store.feature_rows import FeatureRecipe, StoredAs, packed
from cyclemimic.store.flow_cache import frames_hash
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.train.endings import DiskFullError
from cyclemimic.train.progress import Progress, duration
from cyclemimic.types import Float32

BATCH_FRAMES = 32
TIMED_S = 0.5  # a run so long says what a frame takes
CHECKED_FRAMES = 3
# Of the size of features: rounding, and other machines' arithmetic. Those of other weights are off by about one.
TOLERANCE: dict[StoredAs, float] = {"float32": 0.03, "float16": 0.03, "int8": 0.2}


def feature_recipe(
    cache: FrameCache, backbone: nn.Module, config: BackboneConfig, stored_as: StoredAs = "float16"
) -> FeatureRecipe:
    """What decides the features of these frames as this backbone sees them.

    `stored_as` is float16, or int8 with a scale for each patch: half the size, and coarser; float32 is exact.
    """
    sees = cast(FeatureBackbone, backbone)
    return FeatureRecipe(
        source_hash=cache.source_hash,
        frames_sha256=frames_hash(cache),
        size_px=cache.size_px,
        num_frames=len(cache.frames),
        backbone_sha256=backbone_hash(backbone, config),
        backbone_name=config.name or config.kind,
        grid=sees.grid_for(cache.size_px),
        width=sees.width,
        stored_as=stored_as,
    )


def build_features(
    cache: FrameCache,
    backbone: nn.Module,
    recipe: FeatureRecipe,
    folder: Path | str,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> FeatureCache:
    """The features of every frame of `cache`, computed once in fp32 and kept in `folder`.

    A build that was cut off goes on. A whole cache is kept; one that is damaged, or was made from other frames or by
    another backbone, is refused and never replaced: it may have cost days.

    Args:
        cache: the frames; a whole cache, no subset.
        backbone: frozen.
        recipe: what `feature_recipe` gave for both.
        folder: where the features lie; belongs to them alone.
        device: where the backbone runs.
        progress: is given lines of text; the first says bytes, time and free disk.

    Raises:
        InputError: not enough disk, features that cannot be stored, a damaged or foreign cache, or a second process
        at work here.
        DiskFullError: the disk filled up meanwhile.
    """
    say, folder = progress or (lambda line: None), Path(folder)
    backbone = backbone.to(device)
    # Looked at before the lock is taken: many processes may read a whole cache at once.
    if (folder / FEATURE_INDEX).exists():
        found = open_features(folder, recipe, cache, backbone, device)
        say(f"{folder} is up to date: features of {len(found)} frames.")
        return found
    with alone_in(folder):
        if not (folder / FEATURE_INDEX).exists():  # else another process has finished it meanwhile
            _make(cache, backbone, recipe, folder, device, say)
    return FeatureCache.open(folder, recipe)


def _make(
    cache: FrameCache,
    backbone: nn.Module,
    recipe: FeatureRecipe,
    folder: Path,
    device: torch.device | str,
    say: Callable[[str], None],
) -> None:
    with FeatureCacheWriter(folder, recipe) as writer:
        left = recipe.num_frames - writer.num_done
        frame_s = _seconds_per_frame(cache, backbone, device) if left else 0.0
        what = (
            f"features of {left} frames ({recipe.num_patches} patches of {recipe.width}, {recipe.stored_as}), "
            f"about {duration(left * frame_s)}"
        )
        refuse_full_disk(
            folder,
            left * recipe.frame_bytes,
            what,
            say,
            remedy=lambda room_bytes: _what_fits(recipe, backbone, left, room_bytes) + _others(folder),
        )
        told = Progress(name="features", total=recipe.num_frames, done=writer.num_done)
        while writer.num_done < recipe.num_frames:
            first, records = writer.num_done, []
            last = min(first + recipe.shard_frames, recipe.num_frames)
            for i, j in itertools.pairwise([*range(first, last, BATCH_FRAMES), last]):  # cut alike in every sitting
                records.append(packed(_seen(cache, backbone, i, j, device), recipe))
                told.update(j)
            with _room_for(writer):
                writer.add(np.concatenate(records))
        writer.finish()


@contextmanager
def _room_for(writer: FeatureCacheWriter) -> Iterator[None]:
    """Turn a disk that fills up meanwhile into one message."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFullError(
            f"{writer.folder}: no room (or a quota ends here). Features of {writer.num_done} of"
            f" {writer.recipe.num_frames} frames are kept. Make room, then repeat the command: it goes on."
        ) from error


def open_features(
    folder: Path | str,
    recipe: FeatureRecipe,
    cache: FrameCache,
    backbone: nn.Module,
    device: torch.device | str = "cpu",
) -> FeatureCache:
    """A finished feature cache of this recipe; the backbone looks at a few of the frames again.

    A hash knows weights and settings, not the code of a backbone from outside, and not whether a file was spoilt.

    Raises:
        InputError: no such cache, one of another recipe, or features that the backbone does not give.
    """
    found = FeatureCache.open(folder, recipe)
    rows = np.unique(np.linspace(0, len(found) - 1, CHECKED_FRAMES).astype(np.int64))
    kept = found.take(rows).values()
    for row, there in zip(rows.tolist(), kept, strict=True):
        here = _seen(cache, backbone, row, row + 1, device)[0]
        error, size = float(np.linalg.norm(there - here)), float(np.linalg.norm(here))
        if not error <= TOLERANCE[recipe.stored_as] * size + 1e-6:
            expected = f"the features that backbone {recipe.backbone_name} gives"
            got = f"others for frame {row} (off by {error / max(size, 1e-6):.0%})"
            raise InputError(Path(folder) / FEATURES, expected=expected, got=got, remedy=REMEDY)
    return found


def require_own_features(tokenizer_sha256: str, recipe: FeatureRecipe) -> None:
    """InputError where features are not those of the backbone whose hash this is."""
    if recipe.backbone_sha256 != tokenizer_sha256:
        raise InputError(
            "features",
            expected=f"those of this tokenizer's backbone ({tokenizer_sha256[:12]})",
            got=f"those of {recipe.backbone_name} ({recipe.backbone_sha256[:12]})",
            remedy="Make them with this backbone.",
        )


def require_frozen(tokenizer: LatentActionTokenizer) -> None:
    """InputError where the backbone learns, so that its features are others after every step."""
    if not tokenizer.sees_frozen:
        raise InputError(
            "--features",
            expected="a frozen backbone, whose features can be kept",
            got="one that learns",
            remedy="Name a frozen one with --backbone, or leave --features at compute.",
        )


@torch.no_grad()  # features teach nobody here
def _seen(cache: FrameCache, backbone: nn.Module, first: int, last: int, device: torch.device | str) -> Float32:
    """What the backbone makes of frames `first` to `last`, [B, N, C]."""
    was_training = backbone.training
    backbone.eval()
    frames = np.array(cache.frames[first:last])  # a copy: torch takes no read-only memory
    found: Float32 = backbone(pixels(frames, device)).patches.float().cpu().numpy()
    backbone.train(was_training)
    return found


def _seconds_per_frame(cache: FrameCache, backbone: nn.Module, device: torch.device | str) -> float:
    """Of batches as large as they come, or of smaller ones where these take long."""
    largest, count = min(BATCH_FRAMES, len(cache.frames)), 1
    _seen(cache, backbone, 0, 1, device)  # the first run also sets things up
    while True:
        began_s = time.perf_counter()
        _seen(cache, backbone, 0, count, device)
        spent_s = time.perf_counter() - began_s
        if spent_s >= TIMED_S or count == largest:
            return spent_s / count
        count = min(2 * count, largest)


def _what_fits(recipe: FeatureRecipe, backbone: nn.Module, frames: int, room_bytes: float) -> str:
    """What would go into the room that there is."""
    sees = cast(FeatureBackbone, backbone)
    number_bytes = recipe.frame_bytes / (recipe.num_patches * recipe.width)
    fits = []
    int8_bytes = frames * recipe.num_patches * (recipe.width + 4)
    if recipe.stored_as != "int8" and int8_bytes <= room_bytes:
        fits.append(f"--features cache-int8 ({int8_bytes / 1e9:.2f} GB)")
    for size_px in range(recipe.size_px - 1, 0, -1):
        rows, columns = sees.grid_for(size_px)
        needed = frames * rows * columns * recipe.width * number_bytes
        if needed <= room_bytes and rows * columns < recipe.num_patches:
            fits.append(f"pictures of {size_px} px ({needed / 1e9:.2f} GB)")
            break
    fits.append("--features compute, which needs none")
    return f"What would fit: {', or '.join(fits)}. Or another disk (--cache)."


def _others(folder: Path) -> str:
    """How much other features lie beside this folder: of other backbones, other frames, or builds that were cut off."""
    found = [f for f in folder.parent.glob(f"*/{FEATURES}*") if f.parent != folder]
    size_bytes = sum(f.stat().st_size for f in found)
    if not size_bytes:
        return ""
    names = ", ".join(sorted({f.parent.name for f in found})[:3])
    return f" Other features below {folder.parent} take {size_bytes / 1e9:.2f} GB, and may go: {names}."
