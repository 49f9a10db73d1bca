"""The codebook: embeddings z^e to codes and vectors z^q, kept alive by moving averages and resets.

Letters in shapes: B batch, L tokens of a latent action, D code width, K codes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.nn.batches import LatentBatch
from cyclemimic.nn.collectives import all_rows, global_mean, my_rows, num_processes


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """Sizes and habits of the codebook.

    Args:
        kind: `ema` passes the decoder's gradient straight through and lets vectors follow a moving average; `nsvq`
            (LAPA) adds noise as long as the error instead, so that the decoder teaches the vectors as well.
        decay: of the moving average.
        reset_after: steps without use after which a code is dead.
        statistics_momentum: of the running mean and variance.
    """

    kind: Literal["ema", "nsvq"] = "ema"
    num_codes: int = 16
    decay: float = 0.95
    reset_after: int = 50
    statistics_momentum: float = 0.05


class VectorQuantizer(nn.Module):
    """VQ with K vectors on the unit sphere, shared by the L slots.

    Paper: method, latent action tokenizer. Engineering: embeddings are whitened per slot and axis (batch statistics of
    real pairs, running ones for generated frames) and put on the unit sphere, or they collapse to one point at small
    scale; vectors follow a moving average; a code unused for `reset_after` steps becomes a random embedding.
    """

    codebook: Tensor  # [K, D]
    cluster_size: Tensor  # [K]
    cluster_sum: Tensor  # [K, D]
    unused_steps: Tensor  # [K]
    mean: Tensor  # [L, D]
    variance: Tensor  # [L, D]

    def __init__(self, config: QuantizerConfig, *, num_tokens: int, code_width: int) -> None:
        super().__init__()
        self.config = config
        vectors = F.normalize(torch.randn(config.num_codes, code_width), dim=-1)
        if config.kind == "nsvq":
            self.codebook = nn.Parameter(vectors)
        else:
            self.register_buffer("codebook", vectors)
        self.register_buffer("cluster_size", torch.ones(config.num_codes))
        self.register_buffer("cluster_sum", vectors.clone())
        self.register_buffer("unused_steps", torch.zeros(config.num_codes, dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(num_tokens, code_width))
        self.register_buffer("variance", torch.ones(num_tokens, code_width))

    def on_sphere(self, raw: Tensor, *, batch_statistics: bool, like: Tensor | None = None) -> Tensor:
        """Whiten [B, L, D] per slot and axis and normalise to length one: the embedding z^e whose distances count.

        Args:
            raw: what the encoder put out.
            batch_statistics: True on real pairs during training (and updates the running ones).
            like: what it put out on the real pairs of this step, whose statistics then count for generated frames: the
                running ones lag behind a fast encoder, and a code would be another one for no reason.
        """
        raw = at_least_float(raw)  # statistics and distances stay in fp32 under autocast
        mean, variance = self.mean, self.variance
        if like is not None:
            mean, variance = batch_statistics_of(at_least_float(like.detach()))  # a scale, nobody's gradient
        if batch_statistics:
            mean, variance = batch_statistics_of(raw)
            with torch.no_grad():  # the running statistics are a memory, nobody's gradient
                self.mean.lerp_(mean, self.config.statistics_momentum)
                self.variance.lerp_(variance, self.config.statistics_momentum)
        return F.normalize((raw - mean) * torch.rsqrt(variance + 1e-5), dim=-1)

    @torch.no_grad()  # a memory, nobody's gradient
    def settle(self, raw: Tensor) -> None:
        """Take the statistics of `raw` [n, L, D] for the running ones: at the end of training, over many real pairs."""
        mean, variance = batch_statistics_of(at_least_float(raw))
        self.mean.copy_(mean)
        self.variance.copy_(variance)

    def distances(self, embedding: Tensor) -> Tensor:
        """d(z^e, e_k), Euclidean: [B, L, D] -> [B, L, K]. The codebook gets no gradient from distances."""
        with torch.autocast(embedding.device.type, enabled=False):
            book = self.codebook.detach()
            length = embedding.square().sum(-1, keepdim=True) + book.square().sum(-1)
            return (length - 2 * embedding @ book.T).clamp_min(1e-12).sqrt()

    def look_up(self, codes: Tensor) -> Tensor:
        """Today's vectors of `codes` [..., L] -> [..., L, D], as constants: no gradient reaches the codebook."""
        return self.codebook.detach()[codes]

    def forward(self, embedding: Tensor, generator: torch.Generator | None = None) -> LatentBatch:
        """The nearest vectors, as D is given them: with a gradient into `embedding` [B, L, D].

        With NSVQ and a generator (during training) the quantisation error becomes noise of its length, so that the
        decoder's gradient reaches the codebook too.
        """
        codes = self.distances(embedding).argmin(-1)
        if self.config.kind == "nsvq" and generator is not None:
            whole = len(embedding) * num_processes()
            noise = torch.randn(whole, *embedding.shape[1:], generator=generator)[my_rows(whole)]
            noise = F.normalize(noise.to(embedding), dim=-1)
            error = (embedding - self.codebook[codes]).norm(dim=-1, keepdim=True)
            return LatentBatch(embedding=embedding, vectors=embedding + error * noise, codes=codes)
        # Straight through: the decoder's gradient with respect to z^q goes to z^e unchanged; the codebook gets none.
        vectors = embedding + (self.look_up(codes) - embedding).detach()
        return LatentBatch(embedding=embedding, vectors=vectors, codes=codes)

    @torch.no_grad()
    def follow(self, latent: LatentBatch, generator: torch.Generator) -> Tensor:
        """Move the vectors towards the embeddings that chose them and reset dead codes; returns the codes reset [R].

        NSVQ's vectors have moved with the optimiser; here they only return to the sphere. On several processes all of
        them see the whole batch and do the same.
        """
        flat, codes = all_rows(latent.embedding).flatten(0, 1), all_rows(latent.codes).flatten()
        chosen = F.one_hot(codes, self.config.num_codes).to(flat.dtype)
        counts = chosen.sum(0)
        if self.config.kind == "nsvq":
            self.cluster_size.fill_(1.0)
            self.cluster_sum.copy_(self.codebook)
            return self._reset_and_normalise(flat, counts, generator)
        self.cluster_size.lerp_(counts, 1 - self.config.decay)
        self.cluster_sum.lerp_(chosen.T @ flat, 1 - self.config.decay)
        return self._reset_and_normalise(flat, counts, generator)

    def _reset_and_normalise(self, flat: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
        """Give dead codes an embedding of the batch and put all vectors on the sphere; returns the codes reset."""
        self.unused_steps.copy_(torch.where(counts > 0, 0, self.unused_steps + 1))
        dead = (self.unused_steps >= self.config.reset_after).nonzero().squeeze(1)
        if len(dead):
            donors = flat[torch.randint(len(flat), (len(dead),), generator=generator)]
            self.cluster_sum[dead], self.cluster_size[dead] = donors, 1.0
            self.unused_steps[dead] = 0
        self.codebook.copy_(F.normalize(self.cluster_sum / self.cluster_size.clamp_min(1e-3)[:, None], dim=-1))
        return dead


def commitment_loss(latent: LatentBatch, quantizer: VectorQuantizer) -> Tensor:
    """||z^e - sg(e)||^2: pulls embeddings to their vectors; the vectors follow by moving average instead."""
    # The codebook's gradient stops (it is a buffer): only the encoder is pulled.
    return F.mse_loss(latent.embedding, quantizer.look_up(latent.codes)) * latent.embedding.shape[-1]


def entropy_loss(latent: LatentBatch, quantizer: VectorQuantizer, temperature: float) -> Tensor:
    """1 - H(mean code probability) / log K, mean over slots: zero when every code is used alike. Engineering."""
    probability = global_mean(torch.softmax(-quantizer.distances(latent.embedding) / temperature, dim=-1).mean(0))
    entropy = -(probability * (probability + 1e-9).log()).sum(-1)
    return 1 - entropy.mean() / math.log(quantizer.config.num_codes)


def batch_statistics_of(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [L, D] of `raw` [B, L, D] over the batch of all processes; they carry its gradient."""
    mean = global_mean(raw.mean(0))
    return mean, global_mean((raw - mean).square().mean(0))


def whitened(raw: Tensor, like: Tensor) -> Tensor:
    """`raw` [B, L, D] by the mean and deviation of the batch `like`, not on the sphere: sums mean something.

    The statistics carry a gradient: no term gains by making all of E's output small.
    """
    mean, variance = batch_statistics_of(at_least_float(like))
    # Hardly any floor, unlike on the sphere: below one it would pay to be small.
    return (at_least_float(raw) - mean) * torch.rsqrt(variance + 1e-8)


def at_least_float(x: Tensor) -> Tensor:
    """What autocast made short, as float32: small differences of it count."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def joint_codes(codes: Tensor, num_codes: int) -> Tensor:
    """Exp(joint entropy) of the tuples [n, L]: how many latent actions are in use, all slots taken together."""
    place = num_codes ** torch.arange(codes.shape[-1], device=codes.device)
    counts = torch.unique((codes * place).sum(-1), return_counts=True)[1].double()
    share = counts / counts.sum()
    return torch.exp(-(share * share.log()).sum())


def slot_perplexity(codes: Tensor, num_codes: int) -> Tensor:
    """Exp(entropy) of each slot [L] over the tuples [n, L]."""
    share = F.one_hot(codes, num_codes).double().mean(0)
    return torch.exp(-(share * (share + 1e-12).log()).sum(-1))
