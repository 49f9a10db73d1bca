"""The policy's one backbone: a vision tower, a projector and a causal language model, all classes of `transformers`.

Letters in shapes: B batch, N visual tokens of all cameras, W words, L tokens of a latent action, X action tokens,
D width, T = N + W + L + 1 + X.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cyclemimic.names import named
from cyclemimic.nn.batches import ObservationBatch
from cyclemimic.policy.backbone import BackboneOutput, Tail, VisionTower, VisualFeatures
from cyclemimic.policy.towers import ConvTower, ConvTowerConfig, PrismaticVision, PrismaticVisionConfig
from cyclemimic.policy.vocabulary import PAD, Vocabulary

LanguageBuilder = Callable[["PrismaticConfig", int], Any]


@dataclass(frozen=True, kw_only=True)
class PrismaticConfig:
    """Sizes of the backbone. The defaults are the tiny recipe; Prismatic-7B is width 4096, 32 layers, 32 heads."""

    vision: str = "convolutional"  # or dinov2+siglip, or package.module:name of a `VisionTower`
    language: str = "llama"  # or qwen2, or package.module:name of a function (config, vocabulary size) -> model
    image_px: int = 64
    width: int = 128  # D
    layers: int = 2
    heads: int = 4
    mlp_width: int = 512
    max_tokens: int = 512
    extra_cameras: int = 0  # beside the main one
    conv_tower: ConvTowerConfig = field(default_factory=ConvTowerConfig)
    prismatic_vision: PrismaticVisionConfig = field(default_factory=PrismaticVisionConfig)


class PrismaticBackbone(nn.Module):
    """[further cameras][visual tokens][BOS words][LACT x l_z][ACT][action tokens] through a causal language model.

    Paper, policy. Weights are random; nothing is downloaded. Padded words and cameras that a body lacks are masked and
    take up no position. Further cameras stand in front, so that the main one is as far from the words as it was when
    pre-training knew no other; one tower sees them all, and a learnt vector per camera tells them apart.
    """

    vocabulary_rows: tuple[str, ...] = ("language.model.embed_tokens.weight", "language.lm_head.weight")

    def __init__(self, config: PrismaticConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.first_latent_id, self.act_id = vocabulary.first_latent_id, vocabulary.act_id
        self.first_bin_id = vocabulary.first_bin_id
        self.tower = build_tower(config)
        self.map_channels: int = self.tower.map_channels
        self.language = build_language(config, len(vocabulary))
        if config.extra_cameras:
            self.views = nn.Parameter(torch.zeros(config.extra_cameras, config.width))

    def forward(
        self, observation: ObservationBatch, codes: Tensor, blind: Tensor | None = None, tail: Tail | None = None
    ) -> BackboneOutput:
        """Teacher-forced pass.

        Args:
            observation: B pictures and sentences.
            codes: [B, L] integers in [0, K).
            blind: [B] bool; where True nothing behind the latent tokens sees them, so that it must read the picture.
            tail: what the action head adds behind the latent tokens.
        """
        batch, num_tokens = codes.shape
        tail = tail or Tail()
        prefix, valid, visual, extra = self._prefix(observation)
        latents = self._embed(codes + self.first_latent_id)
        behind = [self._act(batch, codes.device, tail.shift)]
        if tail.bins is not None:
            behind.append(self._embed(tail.bins[:, :-1] + self.first_bin_id))  # nothing is asked of the last one
        whole = torch.cat([prefix, latents, *behind], 1)
        start, stop = prefix.shape[1], prefix.shape[1] + num_tokens
        valid = torch.cat([valid, valid.new_ones(batch, whole.shape[1] - start)], 1)
        allowed = causal_mask(valid)
        if blind is not None:
            allowed[:, :, stop:, start:stop] &= ~blind[:, None, None, None]
        states = self._run(whole, allowed, positions(valid))
        before, latent_states, after = states.split([start, num_tokens, whole.shape[1] - stop], dim=1)
        last_word = _at_last_word(before, observation.word_mask)
        return BackboneOutput(
            slots=torch.cat([last_word[:, None], latent_states[:, :-1]], 1),
            latents=latent_states,
            act=after[:, 0],
            visual=visual,
            extra=extra,
            bins=tail.bins,
            bin_logits=None if tail.bins is None else self.token_logits(after),
        )

    def decode(
        self,
        observation: ObservationBatch,
        num_tokens: int,
        choose: Callable[[Tensor], Tensor],
        *,
        shift: Tensor | None = None,
        num_bins: int = 0,
        choose_bin: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, BackboneOutput]:
        """Latent tokens one by one, then ACT; earlier keys and values are kept, the picture is looked at once.

        Args:
            observation: B pictures and sentences.
            num_tokens: L.
            choose: maps a state [B, D] to codes [B].
            shift: [B, D], added to ACT's embedding.
            num_bins: X, how many action tokens follow ACT.
            choose_bin: maps a state [B, D] to numbers of action tokens [B].
        """
        prefix, valid, visual, extra = self._prefix(observation)
        output = self.language.model(
            inputs_embeds=prefix,
            attention_mask=causal_mask(valid),
            position_ids=positions(valid),
            use_cache=True,
        )
        cache = output.past_key_values

        def follow(embedding: Tensor) -> Tensor:
            """The state [B, D] at one more token."""
            nonlocal valid
            valid = torch.cat([valid, valid.new_ones(len(valid), 1)], 1)
            return self._run(embedding, valid[:, None, None, :], positions(valid)[:, -1:], cache)[:, 0]

        slots = [_at_last_word(output.last_hidden_state, observation.word_mask)]
        chosen: list[Tensor] = []
        for _ in range(num_tokens):
            chosen.append(choose(slots[-1]))
            slots.append(follow(self._embed(chosen[-1][:, None] + self.first_latent_id)))
        act = follow(self._act(len(prefix), prefix.device, shift))
        bins: list[Tensor] = []
        state = act
        for place in range(num_bins):
            assert choose_bin is not None
            bins.append(choose_bin(state))
            if place < num_bins - 1:
                state = follow(self._embed(bins[-1][:, None] + self.first_bin_id))
        return torch.stack(chosen, 1), BackboneOutput(
            slots=torch.stack(slots[:-1], 1),
            latents=torch.stack(slots[1:], 1),
            act=act,
            visual=visual,
            extra=extra,
            bins=torch.stack(bins, 1) if bins else None,
        )

    def token_logits(self, states: Tensor) -> Tensor:
        """[..., D] to logits over the whole vocabulary [..., V]."""
        return self.language.lm_head(states)  # type: ignore[no-any-return]

    def _embed(self, ids: Tensor) -> Tensor:
        return self.language.model.embed_tokens(ids)  # type: ignore[no-any-return]

    def _act(self, batch: int, device: torch.device, shift: Tensor | None) -> Tensor:
        """ACT's embedding [B, 1, D], moved by what the action head adds to it."""
        act = self._embed(torch.full((batch, 1), self.act_id, device=device))
        return act if shift is None else act + shift[:, None]

    def _prefix(
        self, observation: ObservationBatch
    ) -> tuple[Tensor, Tensor, VisualFeatures, tuple[VisualFeatures, ...]]:
        """Embeddings [B, N + W, D] of pictures and words, which of them count [B, N + W], and the visual features."""
        assert len(observation.extra_images) == self.config.extra_cameras
        words = self._embed(observation.words)
        weight = observation.word_mask[..., None].to(words.dtype)
        sentence = (words * weight).sum(1) / weight.sum(1)
        visual = self.tower(observation.images, sentence)
        extra = tuple(self.tower(images, sentence) for images in observation.extra_images)
        ones = observation.word_mask.new_ones(visual.tokens.shape[:2])
        seen = observation.extra_seen
        masks = [ones if seen is None else ones & seen[:, i, None] for i in range(len(extra))]
        tokens = [found.tokens + self.views[i] for i, found in enumerate(extra)]
        return (
            torch.cat([*tokens, visual.tokens, words], 1),
            torch.cat([*masks, ones, observation.word_mask], 1),
            visual,
            extra,
        )

    def _run(self, embeddings: Tensor, allowed: Tensor, position_ids: Tensor, cache: Any = None) -> Tensor:
        output = self.language.model(
            inputs_embeds=embeddings,
            attention_mask=allowed,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state  # type: ignore[no-any-return]


def causal_mask(valid: Tensor) -> Tensor:
    """[B, T] bool to [B, 1, T, T] bool: True where row may look at column; nobody looks at padding or ahead."""
    tokens = valid.shape[1]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=valid.device).tril()
    return causal[None, None] & valid[:, None, None, :]


def positions(valid: Tensor) -> Tensor:
    """Position ids [B, T] that do not count padding, so that padding changes nothing."""
    return (valid.long().cumsum(1) - 1).clamp_min(0)


def build_tower(config: PrismaticConfig) -> VisionTower:
    """The vision tower that `config.vision` names."""
    return named("PrismaticConfig.vision", config.vision, VISION)(config)


def build_language(config: PrismaticConfig, vocabulary_size: int) -> Any:
    """A causal language model in the form of `transformers`, with random weights and no dropout."""
    return named("PrismaticConfig.language", config.language, LANGUAGES)(config, vocabulary_size)


def _llama(config: PrismaticConfig, vocabulary_size: int) -> Any:
    # Here and not above: importing it takes seconds, which verbs without a policy need not pay.
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_sizes(config, vocabulary_size)))


def _qwen2(config: PrismaticConfig, vocabulary_size: int) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**_sizes(config, vocabulary_size)))


def _sizes(config: PrismaticConfig, vocabulary_size: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "max_position_embeddings": config.max_tokens,
        "pad_token_id": PAD,
        "tie_word_embeddings": False,
        "attention_dropout": 0.0,
        "attn_implementation": "sdpa",  # takes our boolean masks
    }


VISION: dict[str, Callable[[PrismaticConfig], VisionTower]] = {
    "convolutional": lambda c: ConvTower(c.conv_tower, image_px=c.image_px, width=c.width),
    "dinov2+siglip": lambda c: PrismaticVision(c.prismatic_vision, image_px=c.image_px, width=c.width),
}
LANGUAGES: dict[str, LanguageBuilder] = {"llama": _llama, "qwen2": _qwen2}


def _at_last_word(states: Tensor, word_mask: Tensor) -> Tensor:
    """The state [B, D] at the last real word; it predicts the first latent token."""
    last = states.shape[1] - word_mask.shape[1] + word_mask.sum(1) - 1
    return states[torch.arange(len(states), device=states.device), last]
