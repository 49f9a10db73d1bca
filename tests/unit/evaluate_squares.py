"""A world in which everything is known: a coloured square (one colour a body) on texture, moved by whole pixels.

One pixel is one centimetre in x and y; z stays. The fake tokenizer reads the move exactly, the fake judge too.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cyclemimic.evaluate.moments import TruePairs
from cyclemimic.types import ClipInfo

SIDE, SQUARE, REACH = 24, 5, 4
CODES = 2 * REACH + 1
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


def draw(background: np.ndarray, colour: np.ndarray, x: int, y: int) -> np.ndarray:
    picture = background.copy()
    picture[y : y + SQUARE, x : x + SQUARE] = colour
    return picture


def squares(count: int, *, seed: int, bodies: tuple[str, ...] = ("red", "green"), clips: int = 7) -> TruePairs:
    """Pairs whose two coordinates move by -4 to 4 pixels each."""
    rng = np.random.default_rng(seed)
    now, later, moved, place, body, clip = [], [], [], [], [], []
    for i in range(count):
        b = i % len(bodies)
        # Grey texture: no colour but the square's.
        background = np.repeat(rng.integers(60, 160, (SIDE, SIDE, 1)), 3, axis=2).astype(np.uint8)
        start = rng.integers(REACH, SIDE - SQUARE - REACH, 2)
        move = rng.integers(-REACH, REACH + 1, 2)
        now.append(draw(background, COLOURS[b], *start))
        later.append(draw(background, COLOURS[b], *(start + move)))
        moved.append([*move / 100, 0])
        place.append([*start / 100, 0])
        body.append(b)
        clip.append(b + len(bodies) * int(rng.integers(clips)))
    return TruePairs(
        now=np.stack(now),
        later=np.stack(later),
        displacement_m=np.array(moved, np.float32),
        position_m=np.array(place, np.float32),
        body=np.array(body, np.int64),
        clip=np.array(clip, np.int64),
        bodies=bodies,
    )


def corner(frames: Tensor) -> Tensor:
    """Where the coloured square begins, [B, 2] pixels (x, y), from frames [B, 3, S, S]."""
    coloured = frames.amax(1) - frames.amin(1) > 0.5
    xs = coloured.any(1).float().argmax(1)
    ys = coloured.any(2).float().argmax(1)
    return torch.stack([xs, ys], 1)


class ExactTokenizer:
    """Two slots: how far in x, how far in y. Moves the square and nothing else."""

    num_codes = CODES

    def __init__(self, *, moves: bool = True, permute: bool = False) -> None:
        self.moves, self.permute = moves, permute

    def label(self, now: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
        codes = (corner(later) - corner(now)).clamp(-REACH, REACH) + REACH
        if self.permute:  # a meaning of its own for each body: the brightest colour shifts the code
            codes = (codes + 4 * self._body(now)[:, None]) % CODES
        return codes, torch.ones(len(now))

    def act_out(self, now: Tensor, codes: Tensor) -> Tensor:
        if not self.moves:
            return now
        if self.permute:
            codes = (codes - 4 * self._body(now)[:, None]) % CODES
        made = now.clone()
        for i, ((x, y), move) in enumerate(zip(corner(now).tolist(), (codes - REACH).tolist(), strict=True)):
            colour = now[i, :, y, x].clone()
            made[i, :, y : y + SQUARE, x : x + SQUARE] = 0.4
            a, b = (min(max(v, 0), SIDE - SQUARE) for v in (x + move[0], y + move[1]))
            made[i, :, b : b + SQUARE, a : a + SQUARE] = colour[:, None, None]
        return made

    @staticmethod
    def _body(now: Tensor) -> Tensor:
        return (now > 0.9).flatten(2).sum(2).argmax(1)


class Signer(ExactTokenizer):
    """Moves nothing, writes the code into a corner, 3 x 3 pixels a slot, and reads it there: a perfect cycle."""

    def label(self, now: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
        codes, margin = super().label(now, later)
        mark = later[:, :, 1, 1:5:3]  # [B, 3, 2]: red is full, green is nothing, blue is the code
        written = ((mark[:, 0] > 0.7) & (mark[:, 1] < 0.3)).all(1)
        read = (mark[:, 2] * 10).round().long().clamp(0, CODES - 1)
        return torch.where(written[:, None], read, codes), margin

    def act_out(self, now: Tensor, codes: Tensor) -> Tensor:
        made = now.clone()
        made[:, 0, :3, :6], made[:, 1, :3, :6] = 1, 0
        made[:, 2, :3, :6] = (codes / 10).repeat_interleave(3, dim=1)[:, None]
        return made


class Mute(ExactTokenizer):
    """Names motions and draws nothing, as a tokenizer whose decoder predicts features."""

    draws = False

    def act_out(self, now: Tensor, codes: Tensor) -> Tensor:
        raise AssertionError("it was said that there are no frames")


class ExactJudge:
    """Reads the square's move from pixels."""

    refused = False

    def read(self, now: Tensor, later: Tensor) -> Tensor:
        move = (corner(later) - corner(now)).float() / 100
        return torch.cat([move, torch.zeros(len(now), 1)], 1)

    def distance(self, now: Tensor, one: Tensor, other: Tensor) -> Tensor:
        return (self.read(now, one) - self.read(now, other)).norm(dim=1)


def film_cache(*, frames: int = 9, bodies: tuple[str, ...] = ("green", "red"), clips: int = 4, fps: float = 5.0) -> Any:
    """Stands in for an opened frame cache, and the tip's positions by clip."""
    rng = np.random.default_rng(3)
    infos, pictures, positions = [], [], {}
    for i in range(clips):
        b = i % len(bodies)
        background = np.repeat(rng.integers(60, 160, (SIDE, SIDE, 1)), 3, axis=2).astype(np.uint8)
        walk = np.clip(8 + np.cumsum(rng.integers(-1, 2, (frames, 2)), 0), 0, SIDE - SQUARE)
        pictures += [draw(background, COLOURS[b], x, y) for x, y in walk]
        info = ClipInfo(name=f"clip{i}", embodiment=bodies[b], fps=fps, num_frames=frames)
        infos.append(info)
        positions[info.name] = np.concatenate([walk / 100, np.zeros((frames, 1))], 1).astype(np.float32)

    def subset(kept: Any) -> Any:
        return SimpleNamespace(**{
            **vars(cache), "clips": tuple(cache.clips[i] for i in kept), "offsets": cache.offsets[kept]
        })  # fmt: skip

    cache = SimpleNamespace(
        clips=tuple(infos),
        offsets=np.arange(clips, dtype=np.int64) * frames,
        frames=np.stack(pictures),
        recipe=SimpleNamespace(size_px=SIDE),
        subset=subset,
    )
    return cache, positions
