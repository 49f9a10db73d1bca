"""The judge: an inverse-dynamics net that says how far the hand moved, and is no relative of E.

It is fitted on true displacements of training episodes and never sees a generated frame, so a decoder cannot
have learned to please it. Where it reads real frames badly, or blur changes its mind, it is refused.
Letters in shapes: n pairs, B batch, S side of the picture.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.errors import InputError
from cyclemimic.evaluate.fitting import Fit
from cyclemimic.evaluate.moments import TruePairs
from cyclemimic.evaluate.parts import Parts
from cyclemimic.nn.batches import pixels
from cyclemimic.randomness import entropy_for
from cyclemimic.store.atomic import read_json, write_json
from cyclemimic.store.weights import load_tensors, save_tensors
from cyclemimic.types import Float32

WEIGHTS, FACTS = "judge.safetensors", "judge.json"


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Sizes and training of the judge, and what it must reach to be believed.

    Args:
        width: channels of the first layer.
        steps: updates; time is bounded by steps and not by a clock, so that the judge is the same everywhere.
        still: share of training pairs that show one frame twice, with displacement zero.
        moving_cm: displacements above this count in the cosine.
        least_r2: held-out R2 that it must reach.
        most_change: how much R2 may change when the later frame is blurred.
    """

    width: int = 24
    steps: int = 1500
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    still: float = 0.06
    moving_cm: float = 2.0
    least_r2: float = 0.8
    most_change: float = 0.05


@dataclass(frozen=True, kw_only=True)
class JudgeReport:
    """How well the judge reads held-out real pairs. R2 is over all axes together, `r2_axes` over x, y, z."""

    r2: float
    r2_blurred: float
    cosine: float
    r2_axes: tuple[float, float, float]
    pairs: int
    least_r2: float
    most_change: float

    @property
    def refused(self) -> bool:
        """Whether its readings of generated frames prove nothing."""
        return self.reason is not None

    @property
    def reason(self) -> str | None:
        """Why it is refused, or None."""
        if not self.r2 >= self.least_r2:
            return f"R2 {self.r2:.3f} on held-out real pairs is below {self.least_r2}"
        if not abs(self.r2 - self.r2_blurred) <= self.most_change:
            change = f"{self.r2:.3f} to {self.r2_blurred:.3f}"
            return f"R2 changes from {change} under blur, more than {self.most_change}"
        return None


class JudgeNet(nn.Module):
    """Plain convolutions on (now, later, later - now) and where in the picture they are; a small head.

    Engineering: three halvings of the side; the place of what remains is kept by flattening, because how far
    a pixel is in metres depends on where it is in the picture.
    """

    def __init__(self, width: int, size_px: int) -> None:
        super().__init__()
        if size_px % 8:
            raise ValueError(f"the judge halves three times: size_px must be a multiple of 8, got {size_px}")
        self.see = nn.Sequential(
            nn.Conv2d(9, width, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 3 * width, 3, stride=2, padding=1),
            nn.SiLU(),
        )
        self.tell = nn.Sequential(
            nn.Linear(3 * width * (size_px // 8) ** 2, 128), nn.SiLU(), nn.Dropout(0.1), nn.Linear(128, 3)
        )

    def forward(self, now: Tensor, later: Tensor) -> Tensor:
        """[B, 3, S, S] each, in [0, 1] -> displacement [B, 3] in units of its spread."""
        told: Tensor = self.tell(self.see(self.stacked(now, later)).flatten(1))
        return told

    @staticmethod
    def stacked(now: Tensor, later: Tensor) -> Tensor:
        """What the net sees of two frames, [B, 9, S, S]."""
        return torch.cat([now * 2 - 1, later * 2 - 1, (later - now) * 2], dim=1)


class Judge:
    """A fitted net, the scale of displacements it was fitted on, and its report."""

    def __init__(
        self,
        net: JudgeNet,
        spread_m: Tensor,
        report: JudgeReport,
        config: JudgeConfig,
        size_px: int,
    ) -> None:
        self.net, self.spread_m = net.eval(), spread_m
        self.report, self.config, self.size_px = report, config, size_px

    @property
    def refused(self) -> bool:
        """Whether transfer numbers read by this judge must be flagged."""
        return self.report.refused

    @torch.no_grad()
    def read(self, now: Tensor, later: Tensor) -> Tensor:
        """Displacement of the tip in metres, [B, 3], between frames [B, 3, S, S] in [0, 1]."""
        # What is not a picture of 8 bits cannot carry a message to the judge.
        later = (later.clamp(0, 1) * 255).round() / 255
        return torch.cat([
            self.net(now[i : i + 256], later[i : i + 256]) * self.spread_m
            for i in range(0, len(now), 256)
        ])  # fmt: skip

    @torch.no_grad()
    def distance(self, now: Tensor, one: Tensor, other: Tensor) -> Tensor:
        """How different two later frames look to the judge, [B]: its features' distance, after LPIPS.

        Mean over places of the squared difference of features of length one, summed over the layers of its trunk.
        """
        one, other = ((later.clamp(0, 1) * 255).round() / 255 for later in (one, other))
        parts = [slice(i, i + 256) for i in range(0, len(now), 256)]
        return torch.cat([self._distance(now[p], one[p], other[p]) for p in parts])

    def _distance(self, now: Tensor, one: Tensor, other: Tensor) -> Tensor:
        a, b = self.net.stacked(now, one), self.net.stacked(now, other)
        total = torch.zeros(len(now))
        for layer in self.net.see:
            a, b = layer(a), layer(b)
            if isinstance(layer, nn.SiLU):
                total += (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean((1, 2))
        return total

    def identity(self) -> str:
        """Hash of what its readings depend on: the weights and the scale."""
        digest = hashlib.sha256()
        for name, value in sorted({**self.net.state_dict(), "spread_m": self.spread_m}.items()):
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write weights and report."""
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / WEIGHTS, {**self.net.state_dict(), "spread_m": self.spread_m}, {})
        report = asdict(self.report)
        # JSON knows no NaN, which is the R2 of an axis along which nothing moved.
        report["r2_axes"] = [None if math.isnan(r2) else r2 for r2 in self.report.r2_axes]
        facts = {"config": asdict(self.config), "report": report, "size_px": self.size_px}
        write_json(folder / FACTS, facts)

    @classmethod
    def load(cls, folder: Path) -> Judge:
        """Read what `save` wrote.

        Raises:
            InputError: the folder holds no judge.
        """
        if not (folder / FACTS).exists():
            raise InputError(
                folder,
                expected=f"a judge ({FACTS} and {WEIGHTS})",
                got="none",
                remedy="Fit one with fit_judge.",
            )
        facts = read_json(folder / FACTS)
        tensors, _ = load_tensors(folder / WEIGHTS)
        spread_m = tensors.pop("spread_m")
        config = JudgeConfig(**facts["config"])
        net = JudgeNet(config.width, facts["size_px"])
        net.load_state_dict(tensors)
        values = facts["report"]
        axes = tuple(math.nan if r2 is None else r2 for r2 in values["r2_axes"])
        report = JudgeReport(**{**values, "r2_axes": axes})
        return cls(net, spread_m, report, config, facts["size_px"])


def fit_judge(
    train: TruePairs,
    held_out: TruePairs,
    *,
    seed: int,
    config: JudgeConfig | None = None,
    parts: Parts | None = None,
) -> Judge:
    """Fit the judge on `train` and report on `held_out`, whose clips must be others.

    A pure function of the pairs, the seed and the number of threads. With `parts`, whose facts decide these, a fit that
    was broken off goes on. Engineering.
    """
    config = config or JudgeConfig()
    size_px = int(train.now.shape[1])
    true_m = torch.from_numpy(train.displacement_m)
    spread_m = true_m.square().mean(0).sqrt().clamp_min(1e-4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropy_for(seed, 0, "judge/initialisation"))
        net = JudgeNet(config.width, size_px).train()
        average = _fit(net, train, true_m / spread_m, seed, config, parts or Parts())
    net.load_state_dict(average)
    blank = JudgeReport(
        r2=math.nan, r2_blurred=math.nan, cosine=math.nan, r2_axes=(math.nan,) * 3, pairs=0,
        least_r2=config.least_r2, most_change=config.most_change,
    )  # fmt: skip
    judge = Judge(net, spread_m, blank, config, size_px)
    judge.report = report_on(judge, held_out)
    return judge


def _fit(
    net: JudgeNet, train: TruePairs, target: Tensor, seed: int, config: JudgeConfig, parts: Parts
) -> dict[str, Tensor]:
    """The moving average of the weights over the training."""
    average = {k: v.clone() for k, v in net.state_dict().items()}
    fit = Fit(
        net,
        name="judge",
        steps=config.steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        entropy=entropy_for(seed, 0, "judge/batches"),
        parts=parts.under(asdict(config), seed),
        clip_norm=1.0,
        beside=average,
    )
    generator = fit.generator
    for _ in fit.steps():
        index = fit.batch(len(train), config.batch_size)
        now, later = pixels(train.now[index.numpy()]), pixels(train.later[index.numpy()])
        # A motion run backwards is a motion too: the opposite one.
        back = torch.rand(len(index), generator=generator) < 0.5
        now, later = torch.where(back[:, None, None, None], torch.stack([later, now]), torch.stack([now, later]))
        # A frame and itself: nothing moved. Else a decoder that copies would be read as anything.
        still = torch.rand(len(index), generator=generator) < config.still
        later = torch.where(still[:, None, None, None], now, later)
        told = net(*spoil(now, later, generator))
        sign = torch.where(back, -1.0, 1.0) * ~still
        loss = F.smooth_l1_loss(told, target[index] * sign[:, None])
        fit.update(loss)
        for name, value in net.state_dict().items():
            average[name].lerp_(value, 0.01)
    return average


def blur(frames: Tensor) -> Tensor:
    """Binomial 3 x 3 blur of frames [B, 3, S, S], about 0.7 px wide."""
    kernel = torch.tensor([0.25, 0.5, 0.25])
    square = (kernel[:, None] * kernel).expand(frames.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(frames, (1, 1, 1, 1), mode="replicate"), square, groups=frames.shape[1])


def spoil(now: Tensor, later: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What pictures may suffer without another motion: blur, light, noise.

    Frames [B, 3, S, S] in [0, 1]; half of the batch keeps its later frame sharp.
    """
    count = len(now)
    draw = torch.rand(count, 1, 1, 1, generator=generator)
    later = torch.where(draw < 0.5, blur(later), later)
    now = torch.where(draw < 0.15, blur(now), now)
    light = 1 + 0.15 * (torch.rand(count, 3, 1, 1, generator=generator) * 2 - 1)
    now, later = (now * light).clamp(0, 1), (later * light).clamp(0, 1)
    strength = 0.03 * torch.rand(count, 1, 1, 1, generator=generator)
    now = now + strength * torch.randn(now.shape, generator=generator)
    later = later + strength * torch.randn(later.shape, generator=generator)
    return now, later


def r_squared(told: Float32, true: Float32) -> float:
    """1 - squared error over squared spread, all axes together; [n, axes]. Zero is the mean's score."""
    spread = float(((true - true.mean(0)) ** 2).sum())
    return 1 - float(((told - true) ** 2).sum()) / spread if spread > 0 else math.nan


def mean_cosine(told: Float32, true: Float32, *, least_m: float) -> float:
    """Mean cosine between told and true displacements [n, 3], over those true ones longer than `least_m`.

    A reading of exactly no motion has cosine 0.
    """
    length = np.linalg.norm(true, axis=1)
    moving = length > least_m
    if not moving.any():
        return math.nan
    norms = np.linalg.norm(told[moving], axis=1) * length[moving]
    dots = (told[moving] * true[moving]).sum(1)
    return float(np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0).mean())


def report_on(judge: Judge, held_out: TruePairs) -> JudgeReport:
    """Read held-out real pairs, sharp and with the later frame blurred."""
    true = held_out.displacement_m
    now, later = pixels(held_out.now), pixels(held_out.later)
    told = judge.read(now, later).numpy()
    blurred = judge.read(now, blur(later)).numpy()
    x, y, z = (r_squared(told[:, [i]], true[:, [i]]) for i in range(3))
    return JudgeReport(
        r2=r_squared(told, true),
        r2_blurred=r_squared(blurred, true),
        cosine=mean_cosine(told, true, least_m=judge.config.moving_cm / 100),
        r2_axes=(x, y, z),
        pairs=len(held_out),
        least_r2=judge.config.least_r2,
        most_change=judge.config.most_change,
    )
