"""What fine-tuning refuses before its first step: demonstrations and settings that do not go together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.policy.action_heads import ActQueryHead, HeadConfig, LatentHead
from cyclemimic.policy.network import NetworkConfig, head_class
from cyclemimic.train.demonstrations import DemonstrationData

if TYPE_CHECKING:
    from cyclemimic.train.stage3_finetune import FinetuneConfig


def check_sets(sets: Sequence[DemonstrationData], config: FinetuneConfig) -> None:
    """What all bodies must share, and what settings exclude each other. InputError where they do not."""
    names = [data.embodiment for data in sets]
    kinds = {(data.num_codes, data.codes.shape[1]) for data in sets}
    if not sets or len(set(names)) != len(names) or len(kinds) != 1:
        raise InputError(
            "demonstrations",
            expected="one set for each body, all with labels of one codebook",
            got=f"bodies {', '.join(names) or 'none'}, (K, l_z) {sorted(kinds)}",
            remedy="Join a body's demonstrations, and label with one tokenizer.",
        )
    known = {camera.name for data in sets for camera in data.extra_cameras}
    for name in config.extra_cameras:
        if name not in known:
            raise InputError(
                "FinetuneConfig.extra_cameras",
                expected="a camera of the demonstrations",
                got=repr(name),
                remedy=did_you_mean(name, known) if known else "Cut them with demonstration_data(extra_cameras=...).",
            )
    stateless = not config.use_proprioception or all(data.proprioception is None for data in sets)
    if not 0 <= config.proprioception_dropout < 1 or (config.proprioception_dropout and stateless):
        raise InputError(
            "FinetuneConfig.proprioception_dropout",
            expected="0 where the policy sees no state" if stateless else "a share in [0, 1)",
            got=str(config.proprioception_dropout),
            remedy="Leave it at 0." if stateless else "To hide the state always, set use_proprioception to False.",
        )
    head = head_class(config.network.head)
    if config.blind_share > 0 and issubclass(head, LatentHead):
        raise InputError(
            "FinetuneConfig.blind_share",
            expected="0 with a head that reads the latent tokens",
            got=str(config.blind_share),
            remedy="Only the ACT query can be blind to them.",
        )
    if head.num_bins(config.network.head) and config.normalization != "quantile":
        raise InputError(
            "FinetuneConfig.normalization",
            expected="quantile, between which the bins lie",
            got=repr(config.normalization),
            remedy="Leave it at its default for a head of bins.",
        )


def check_sizes(data: DemonstrationData, config: NetworkConfig) -> None:
    """Chunks and pictures of the sizes that the network has. InputError where they are not."""
    side, steps = config.backbone.image_px, config.head.steps_at(data.action_space.rate_hz)
    if data.actions.shape[1] != steps:
        raise InputError(
            "demonstrations",
            expected=f"chunks of {steps} steps, as chunk_steps or chunk_s says",
            got=str(data.actions.shape[1]),
            remedy="Cut them again with demonstration_data.",
        )
    for images in (data.images, *data.extra_images):
        if images.shape[1:3] != (side, side):
            raise InputError(
                "demonstrations",
                expected=f"pictures of {side} x {side} px, as image_px says",
                got=f"{images.shape[1:3]}",
                remedy="Cut them again with demonstration_data(image_px=...).",
            )


def check_keypoint(sets: Sequence[DemonstrationData], weight: float, head: HeadConfig) -> None:
    """A weight of where things move needs a keypoint that it teaches, and the places. InputError without."""
    where = "FinetuneConfig.moving_weight"
    if not 0 <= weight < float("inf"):
        raise InputError(where, expected="0 or more", got=str(weight), remedy="0 leaves the term out.")
    if not weight:
        return
    if not head.keypoint or not issubclass(head_class(head), ActQueryHead):
        raise InputError(
            where, expected="0 with a head that has no keypoint", got=str(weight),
            remedy="Set HeadConfig.keypoint, in pre-training too, with the head act_query or latent.",
        )  # fmt: skip
    if any(data.moving is None for data in sets):
        raise InputError(
            "demonstrations", expected="where things move, since moving_weight is above 0", got="none",
            remedy="Cut them with demonstration_data(..., moving=True).",
        )  # fmt: skip
