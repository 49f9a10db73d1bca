"""The paper's motivating study in numbers: one latent action on its own frame, on other frames and on other bodies.

Letters in shapes: n pairs, L tokens of a latent action, K codes.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch

from cyclemimic.evaluate.models import LatentActionModel, MotionReader, label_pairs
from cyclemimic.evaluate.moments import TruePairs
from cyclemimic.evaluate.quality import labelled
from cyclemimic.evaluate.transfer import TransferPlan, measure_transfer, plan_transfers
from cyclemimic.evaluate.unity import matched_pairs, shares
from cyclemimic.types import Int64

PILOT = {
    "cosine_own_frame": "own frame",
    "cosine_other_frames": "other frames, same body",
    "cosine_other_bodies": "other bodies",
}


@torch.no_grad()
def measure_pilot(
    tokenizer: LatentActionModel,
    test: TruePairs,
    judge: MotionReader,
    *,
    seed: int,
    bodies: Collection[str],
    transfers: int = 600,
) -> dict[str, float]:
    """Transfer onto ever more foreign frames, of the same motions, and how often each body gets each code.

    Paper: motivation; no figure of it is published that we know of. `share.KIND.BODY.SLOT.CODE` is a share: KIND is
    `raw`, or `matched` among pairs that moved alike on every body, where what bodies do no longer counts.
    """
    codes = label_pairs(tokenizer, test)
    plans = {
        name: plan_transfers(test, sources=bodies, targets=bodies, same_body=same, limit=transfers, seed=seed)
        for name, same in (("cosine_other_frames", True), ("cosine_other_bodies", False))
    }
    own = plans["cosine_other_bodies"].source
    plans["cosine_own_frame"] = TransferPlan(source=own, target=own)
    found = {
        name: measure_transfer(tokenizer, judge, test, codes[plan.source], plan).transfer_cosine
        for name, plan in plans.items()
    }
    names = sorted(set(bodies) & set(test.bodies))
    table = matched_pairs(labelled(codes, test, tokenizer.num_codes), names)
    for column, name in enumerate(names):
        of_body = codes[np.array(test.bodies)[test.body] == name]
        found |= _shares(f"share.raw.{name}", of_body, tokenizer.num_codes)
        found |= _shares(f"share.matched.{name}", codes[table[:, column]], tokenizer.num_codes)
    return found


def _shares(name: str, codes: Int64, num_codes: int) -> dict[str, float]:
    if not len(codes):
        return {}
    share = shares(codes, num_codes)
    return {
        f"{name}.{slot}.{code}": float(share[slot, code]) for slot in range(len(share)) for code in range(num_codes)
    }
