"""The leak index: does E read from generated frames what an independent reader of motion cannot see in them?

The reader is no relative of E (plain convolutions) and learns E's codes from *real* pairs alone, so it knows nothing of
signatures that D and E may have agreed upon. No true actions are needed.
Letters in shapes: n pairs, m transfers, B batch, L tokens of a latent action, K codes, S side of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.evaluate.cycle import ActedOut, share_right
from cyclemimic.evaluate.fitting import Fit
from cyclemimic.evaluate.judge import spoil
from cyclemimic.evaluate.models import BATCH, LatentActionModel, act_out
from cyclemimic.evaluate.moments import Pairs
from cyclemimic.evaluate.parts import Parts
from cyclemimic.nn.batches import pixels
from cyclemimic.randomness import entropy_for
from cyclemimic.types import Int64

_LARGEST_PX = 64  # larger frames are shrunk for the readers

SeeBatch = Callable[[Tensor, torch.Generator], Tensor]  # pairs of an index [B] -> what a reader sees of them


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """Sizes and training of a reader; bounded by steps and not by a clock, so that it is the same everywhere."""

    width: int = 16
    steps: int = 600
    batch_size: int = 48
    learning_rate: float = 2e-3
    weight_decay: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Leak:
    """What readers make of generated frames; accuracies are shares of codes.

    Args:
        leak_index: E's accuracy on D's frames less the reader's on the same frames, over the reader's on held-out real
            pairs. Also counts what the reader misses on real pairs: read it beside `reader_real`.
        leak_excess: E's accuracy on D's frames less the share that the reader keeps on them of what it reads on real
            pairs. Compares like with like: 0 where D's frames are to both as real ones are.
        reader_real: of the reader, on held-out real pairs.
        reader_generated: of the reader, on D's frames.
        alone: of a second reader that was fitted on generated frames and sees o_g but never o_c.
        alone_chance: of always naming each slot's most frequent code.
    """

    leak_index: float
    leak_excess: float
    reader_real: float
    reader_generated: float
    alone: float
    alone_chance: float


UNREAD = Leak(
    leak_index=math.nan,
    leak_excess=math.nan,
    reader_real=math.nan,
    reader_generated=math.nan,
    alone=math.nan,
    alone_chance=math.nan,
)


class Reader(nn.Module):
    """Strided convolutions, the place kept by flattening, one row of logits for each slot. Engineering."""

    def __init__(self, channels: int, width: int, size_px: int, num_tokens: int, num_codes: int) -> None:
        super().__init__()
        self.num_tokens, self.num_codes = num_tokens, num_codes
        self.see = nn.Sequential(
            nn.Conv2d(channels, width, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 3 * width, 3, stride=2, padding=1),
            nn.SiLU(),
        )
        side = math.ceil(size_px / 8)
        self.tell = nn.Sequential(
            nn.Linear(3 * width * side**2, 96), nn.SiLU(), nn.Dropout(0.1), nn.Linear(96, num_tokens * num_codes)
        )

    def forward(self, seen: Tensor) -> Tensor:
        """[B, channels, S, S] -> logits [B, L, K]."""
        told: Tensor = self.tell(self.see(seen).flatten(1))
        return told.view(len(told), self.num_tokens, self.num_codes)


def measure_leak(
    model: LatentActionModel,
    train: Pairs,
    train_codes: Int64,
    test: Pairs,
    test_codes: Int64,
    acted: ActedOut | None,
    *,
    accuracy: float,
    seed: int,
    config: ReaderConfig | None = None,
    parts: Parts | None = None,
) -> Leak:
    """Fit both readers and ask them.

    Args:
        model: whose E and D.
        train: real pairs, and the codes [n, L] that E gave them: what the reader learns from.
        train_codes: those codes.
        test: real pairs of other clips: how well the reader imitates E.
        test_codes: E's codes of these.
        acted: codes acted out on other frames of the test clips.
        accuracy: E's own accuracy on these frames.
        seed: initialisation and order.
        config: sizes.
        parts: where unfinished readers are kept; its facts decide all else.
    """
    if acted is None:
        return UNREAD
    config, parts = config or ReaderConfig(), parts or Parts()
    codes = torch.from_numpy(train_codes)
    now, later = shrunk(pixels(train.now)), shrunk(pixels(train.later))

    def pairs_of(index: Tensor, generator: torch.Generator) -> Tensor:
        # D's frames are never quite sharp: the reader must not stumble over blur, light or noise.
        return both(*spoil(now[index], later[index], generator))

    reader = fit_reader(pairs_of, codes, model.num_codes, seed=seed, config=config, parts=parts.under("pairs"))
    real = _told(reader, both(shrunk(pixels(test.now)), shrunk(pixels(test.later))))
    read = _told(reader, both(shrunk(acted.scenes), shrunk(acted.generated)))
    reader_real = share_right(real, torch.from_numpy(test_codes))
    reader_generated = share_right(read, acted.drawn)

    # Any latent action on any frame: what the picture alone then says of the code, D wrote into it.
    generator = torch.Generator().manual_seed(entropy_for(seed, 0, "leak/scenes"))
    order = torch.randperm(len(codes), generator=generator)
    written = shrunk(act_out(model, pixels(train.now), codes[order]))

    def picture_of(index: Tensor, _: torch.Generator) -> Tensor:
        return centred(written[index])

    alone = fit_reader(picture_of, codes[order], model.num_codes, seed=seed, config=config, parts=parts.under("alone"))
    modes = codes.mode(0).values
    known = reader_real > 0
    return Leak(
        leak_index=(accuracy - reader_generated) / reader_real if known else math.nan,
        leak_excess=accuracy - reader_generated / reader_real if known else math.nan,
        reader_real=reader_real,
        reader_generated=reader_generated,
        alone=share_right(_told(alone, centred(shrunk(acted.generated))), acted.drawn),
        alone_chance=share_right(modes.expand_as(acted.drawn), acted.drawn),
    )


def fit_reader(
    see: SeeBatch, codes: Tensor, num_codes: int, *, seed: int, config: ReaderConfig, parts: Parts | None = None
) -> Reader:
    """Learn codes [n, L] from what `see` shows of the pairs of an index [B].

    A pure function of its arguments but `parts`, and of the number of threads.
    """
    first = see(torch.zeros(1, dtype=torch.int64), torch.Generator().manual_seed(0))
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropy_for(seed, 0, "leak/initialisation"))
        reader = Reader(first.shape[1], config.width, first.shape[-1], codes.shape[1], num_codes).train()
        fit = Fit(
            reader,
            name="reader",
            steps=config.steps,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            entropy=entropy_for(seed, 0, "leak/batches"),
            parts=(parts or Parts()).under(asdict(config), seed),
        )
        for _ in fit.steps():
            index = fit.batch(len(codes), config.batch_size)
            logits = reader(see(index, fit.generator))
            fit.update(F.cross_entropy(logits.flatten(0, 1), codes[index].flatten()))
    return reader.eval()


@torch.no_grad()
def _told(reader: Reader, seen: Tensor) -> Tensor:
    """Codes [n, L]."""
    return torch.cat([reader(seen[i : i + BATCH]).argmax(-1) for i in range(0, len(seen), BATCH)])


def both(now: Tensor, later: Tensor) -> Tensor:
    """[B, 9, S, S]: frames now and later around 0, and the change, doubled."""
    return torch.cat([centred(now), centred(later), (later - now) * 2], dim=1)


def centred(frames: Tensor) -> Tensor:
    """Frames in [0, 1] around 0."""
    return frames * 2 - 1


def shrunk(frames: Tensor) -> Tensor:
    """Frames [n, 3, S, S] at 64 px at most, by averaging areas."""
    if frames.shape[-1] <= _LARGEST_PX:
        return frames
    return F.interpolate(frames, size=(_LARGEST_PX, _LARGEST_PX), mode="area")
