"""The columns of a LeRobot dataset: their names, their types, and labels as two more. Engineering.

Letters in shapes: T frames of an episode, D numbers a row, L tokens (l_z).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cyclemimic.errors import InputError
from cyclemimic.store.label_store import LabelStore
from cyclemimic.types import ClipInfo, Float32, Int64

ACTION, STATE = "action", "observation.state"
LATENT, MARGIN = "latent_action", "latent_action_margin"
NO_LABEL = -1  # in both columns, at frames that no label speaks of
COUNTERS = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64"}


def camera_key(name: str) -> str:
    """The feature of a camera; names of cameras may hold what names of features and folders may not."""
    return "observation.images." + (re.sub(r"[^\w-]+", "_", name) or "camera")


def label_columns(labels: LabelStore, clip: ClipInfo, num_frames: int) -> tuple[Int64, Float32]:
    """Codes [T, L] and margins [T] of a clip by frame, -1 where there is no label.

    Raises:
        InputError: a label is of a frame that the clip does not have.
    """
    codes = np.full((num_frames, labels.provenance.num_tokens), NO_LABEL, np.int64)
    margins = np.full(num_frames, NO_LABEL, np.float32)
    if clip.name in labels:
        frame, found = labels.codes_for(clip.name)
        if len(frame) and not 0 <= frame.min() <= frame.max() < num_frames:
            expected, got = f"labels of {num_frames} frames of {clip.name!r}", f"one of frame {frame.max()}"
            raise InputError("label store", expected=expected, got=got, remedy="Label this video again.")
        codes[frame], margins[frame] = found, labels.margins_for(clip.name)
    return codes, margins


def latent_features(num_tokens: int) -> dict[str, dict[str, Any]]:
    """What `info.json` says of the columns of labels."""
    return {
        LATENT: feature_of("int64", num_tokens, [f"token_{i}" for i in range(num_tokens)]),
        MARGIN: feature_of("float32", 1, None),
    }


def latent_arrays(codes: Int64, margins: Float32) -> dict[str, pa.Array]:
    """The columns of labels as LeRobot's tables hold them."""
    return {LATENT: column_of(codes, "int64"), MARGIN: column_of(margins[:, None], "float32")}


def column_of(rows: NDArray[Any], dtype: str) -> pa.Array:
    """Rows [T, D] as a column: of lists of D numbers, or of numbers where D is 1, as LeRobot does."""
    flat = pa.array(np.ascontiguousarray(rows, dtype).reshape(-1))
    return flat if rows.shape[1] == 1 else pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])


def feature_of(dtype: str, width: int, names: list[str] | None) -> dict[str, Any]:
    """What `info.json` says of a column of D numbers."""
    return {"dtype": dtype, "shape": [width], "names": names}
