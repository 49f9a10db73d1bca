"""Scenes with an arm in front of a camera that rests or moves; what the camera does is known."""

import cv2
import numpy as np


def scene(seed, height_px, width_px):
    """Ground with things on it, wider than a picture by 40 px on each side; smooth, so that it can be resampled."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(90, 140, (9, 11, 3), np.uint8)
    ground = cv2.resize(coarse, (width_px + 80, height_px + 80), interpolation=cv2.INTER_CUBIC)
    for _ in range(40):
        x, y = int(rng.integers(0, width_px + 60)), int(rng.integers(0, height_px + 60))
        w, h = (int(v) for v in rng.integers(5, 22, 2))
        cv2.rectangle(ground, (x, y), (x + w, y + h), tuple(int(v) for v in rng.integers(0, 255, 3)), -1)
    return cv2.GaussianBlur(ground, (3, 3), 0)


def arm_clip(seed, num_frames=24, size=(96, 128), *, pan=(0.0, 0.0), shake_px=0.0, turn_rad=0.0, arm_px=30, noise=2.0):
    """A textured arm wanders before a scene: frames [T, H, W, 3], and the camera's poses [T, 3].

    A pose is turn [rad], x, y [px]; `pan` pixels a frame, `shake_px` at random, `turn_rad` over the whole clip.
    """
    height, width = size
    rng = np.random.default_rng(seed + 1000)
    ground, skin = scene(seed, height, width), scene(seed + 500, height, width)
    phase, frames = rng.uniform(0, 6, 2), []
    shakes = rng.normal(0, shake_px, (num_frames, 2)) if shake_px else np.zeros((num_frames, 2))
    poses = np.array([[turn_rad * t / num_frames, pan[0] * t, pan[1] * t] for t in range(num_frames)])
    poses[:, 1:] += shakes
    middle = np.array([width - 1, height - 1]) / 2
    for t, (turn, *shift) in enumerate(poses):
        cos, sin = np.cos(turn), np.sin(turn)
        back = np.array([[cos, sin], [-sin, cos]])  # a place of the picture in the ground, around the middle
        matrix = np.column_stack([back, middle + 40 - back @ (middle + np.array(shift))])
        seen = cv2.warpAffine(ground, matrix, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        at_x = int(width / 2 + width / 3 * np.sin(phase[0] + 0.35 * t))
        at_y = int(height / 2 + height / 4 * np.sin(phase[1] + 0.25 * t))
        left, right = max(0, at_x - arm_px // 2), min(width, at_x + arm_px // 2)
        seen[:at_y, left:right] = skin[height - at_y : height, left - at_x + 80 : right - at_x + 80]
        frames.append(np.clip(seen + rng.normal(0, noise, seen.shape), 0, 255).astype(np.uint8))
    return np.stack(frames), poses
