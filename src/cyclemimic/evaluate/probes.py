"""Probes and agreement: what codes alone say about the true motion, on one body and across bodies.

Letters in shapes: n pairs, L tokens of a latent action, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from cyclemimic.evaluate.judge import r_squared
from cyclemimic.randomness import entropy_for
from cyclemimic.types import Float32, Int64

Predictor = Callable[[Float32], Float32]
Fit = Callable[[Float32, Float32], Predictor]


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Pairs as a probe sees them: codes [n, L], true displacement [n, 3] in metres, body and clip [n]."""

    codes: Int64
    displacement_m: Float32
    body: NDArray[np.str_]
    clip: Int64
    num_codes: int

    def of(self, body: str) -> Labelled:
        """The pairs that show `body`."""
        here = self.body == body
        return Labelled(
            codes=self.codes[here],
            displacement_m=self.displacement_m[here],
            body=self.body[here],
            clip=self.clip[here],
            num_codes=self.num_codes,
        )

    def one_hot(self) -> Float32:
        """[n, L * K]: each slot's code by itself, nothing about frame or body."""
        hot = np.eye(self.num_codes, dtype=np.float32)[self.codes]
        return hot.reshape(len(self.codes), -1)


def fit_ridge(features: Float32, target: Float32, *, penalty: float = 1.0) -> Predictor:
    """Linear least squares with an L2 penalty on everything but the intercept. [n, F], [n, 3]."""
    centre, mean = features.mean(0, dtype=np.float64), target.mean(0, dtype=np.float64)
    x, y = features - centre, target - mean
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
    return lambda unseen: ((unseen - centre) @ weights + mean).astype(np.float32)


def fit_mlp(features: Float32, target: Float32, *, seed: int = 0, steps: int = 150) -> Predictor:
    """Two layers, full batch: sees what slots say together, which a ridge cannot. [n, F], [n, 3]."""
    mean, spread = target.mean(0), target.std(0) + 1e-6
    x, y = torch.from_numpy(features), torch.from_numpy(((target - mean) / spread).astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropy_for(seed, 0, "probe/mlp"))
        net = nn.Sequential(nn.Linear(x.shape[1], 48), nn.SiLU(), nn.Linear(48, 3))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.05)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        F.mse_loss(net(x), y).backward()
        optimizer.step()

    def predict(unseen: Float32) -> Float32:
        with torch.no_grad():
            told: Float32 = net(torch.from_numpy(unseen)).numpy() * spread + mean
        return told

    return predict


@dataclass(frozen=True, kw_only=True)
class ProbeScores:
    """R2 of a probe fitted on one body's training clips, mean over those bodies; NaN where untested.

    `axes`: the same body's, of each axis alone; one on which nothing moves is left out of its mean.
    """

    same: float
    cross: float
    unseen: float
    axes: tuple[float, float, float] = (math.nan, math.nan, math.nan)


def probe(train: Labelled, test: Labelled, seen: Iterable[str], fit: Fit) -> ProbeScores:
    """Fit on each seen body's training clips; test on that body, on the other seen, on unseen ones."""
    seen = sorted(seen)
    unseen = sorted(set(test.body.tolist()) - set(seen))
    same: list[float] = []
    cross: list[float] = []
    beyond: list[float] = []
    by_axis: list[list[float]] = [[], [], []]
    for body in seen:
        mine = train.of(body)
        if not len(mine.codes):
            continue
        predict = fit(mine.one_hot(), mine.displacement_m)
        for other in [*seen, *unseen]:
            theirs = test.of(other)
            if len(theirs.codes) < 2:
                continue
            told = predict(theirs.one_hot())
            score = r_squared(told, theirs.displacement_m)
            if other == body:
                for i, scores in enumerate(by_axis):
                    scores.append(r_squared(told[:, [i]], theirs.displacement_m[:, [i]]))
            (beyond if other in unseen else same if other == body else cross).append(score)
    first, second, third = (mean_or_nan(scores) for scores in by_axis)
    return ProbeScores(
        same=mean_or_nan(same),
        cross=mean_or_nan(cross),
        unseen=mean_or_nan(beyond),
        axes=(first, second, third),
    )


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Cohen's kappa of codes of action-matched pairs, mean over slots and over pairs of bodies."""

    same: float
    cross: float


def agreement(test: Labelled, bodies: Iterable[str], *, within_m: float = 0.01) -> Agreement:
    """Do pairs of `bodies` that moved alike get the same codes?

    Each pair meets the nearest one (true displacement, below `within_m`) of its own body in another clip, and
    of every other body; agreement is corrected for chance by the marginals of both sides.
    """
    bodies = sorted(set(bodies) & set(test.body.tolist()))
    same: list[float] = []
    cross: list[float] = []
    for a in bodies:
        for b in bodies:
            one, other = test.of(a), test.of(b)
            away = np.linalg.norm(one.displacement_m[:, None] - other.displacement_m[None], axis=-1)
            if a == b:
                away = np.where(one.clip[:, None] == other.clip[None], np.inf, away)
            nearest = away.argmin(1)
            close = away[np.arange(len(away)), nearest] < within_m
            if close.sum() >= 2:
                value = kappa(one.codes[close], other.codes[nearest[close]], test.num_codes)
                (same if a == b else cross).append(value)
    return Agreement(same=mean_or_nan(same), cross=mean_or_nan(cross))


def kappa(one: Int64, other: Int64, num_codes: int) -> float:
    """Cohen's kappa of matched codes [n, L], mean over slots: 1 for equal codes, 0 for chance.

    A slot that both sides fill with one constant code says nothing and counts 0.
    """
    values = []
    for slot in range(one.shape[1]):
        observed = float((one[:, slot] == other[:, slot]).mean())
        a = np.bincount(one[:, slot], minlength=num_codes) / len(one)
        b = np.bincount(other[:, slot], minlength=num_codes) / len(other)
        chance = float(a @ b)
        values.append((observed - chance) / (1 - chance) if chance < 1 - 1e-9 else 0.0)
    return float(np.mean(values))


def mean_or_nan(values: list[float]) -> float:
    """Mean of the finite values; NaN where there are none."""
    finite = [v for v in values if math.isfinite(v)]
    return float(np.mean(finite)) if finite else math.nan
