"""Demonstrations of an SO-101 as a user would record them: smooth joint targets, drawn as two simple pictures."""

from functools import cache

import numpy as np

from cyclemimic.embodiment.so101 import SO101_ACTION_SPACE, SO101_CAMERAS, SO101_JOINTS
from cyclemimic.types import ClipInfo, Episode

FRONT, WRIST = SO101_CAMERAS


def so101_episode(seed, length=11, instruction="lift the cube", wrist=True, actions=None):
    joints, front, side = recorded(seed, length)
    return Episode(
        info=ClipInfo(
            name=f"episode_{seed:06d}", embodiment="so101", fps=30.0, num_frames=length, instruction=instruction
        ),
        frames=front,
        actions=joints[1:] if actions is None else actions,
        proprioception=joints,
        action_space=SO101_ACTION_SPACE,
        camera=FRONT.name,
        extra_frames={WRIST.name: side} if wrist else {},
    )


@cache
def recorded(seed, length):
    """Joints [T, 6], and the pictures of both cameras."""
    rng = np.random.default_rng(seed)
    low, high = np.array([(axis.low, axis.high) for axis in SO101_JOINTS]).T
    phase, speed = rng.uniform(0, 6, (2, 6))
    wave = 0.5 + 0.4 * np.sin(phase + speed * np.arange(length)[:, None] / 30)
    joints = (low + (high - low) * wave).astype(np.float32)
    return joints, np.stack([draw(row) for row in wave]), np.stack([draw(row[::-1]) for row in wave])


def draw(shares):
    """A bar for each joint, as high as its share of the range."""
    picture = np.full((FRONT.height_px, FRONT.width_px, 3), 40, np.uint8)
    for i, share in enumerate(shares):
        picture[-max(1, int(share * FRONT.height_px)) :, 80 + 80 * i : 140 + 80 * i, i % 3] = 255
    return picture


class So101Source:
    """A source of a user's own: not ours, no fingerprint."""

    name = "mine"

    def __init__(self, count=6, **options):
        self.count, self.options = count, options

    def clips(self):
        return [so101_episode(seed, **self.options).info for seed in range(self.count)]

    def read(self, clip):
        return so101_episode(int(clip.name[-6:]), **self.options)
