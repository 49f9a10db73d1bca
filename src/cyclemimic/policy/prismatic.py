"""The policy's one backbone: a vision tower, a projector and a causal language model, all classes of `transformers`.

Letters in shapes: B batch, N visual tokens, W words, L tokens of a latent action, D width, T = N + W + L + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cyclemimic.errors import InputError
from cyclemimic.nn.batches import ObservationBatch
from cyclemimic.policy.backbone import BackboneOutput, VisionTower, VisualFeatures
from cyclemimic.policy.towers import ConvTower, ConvTowerConfig, PrismaticVision, PrismaticVisionConfig
from cyclemimic.policy.vocabulary import PAD, Vocabulary

Vision = Literal["convolutional", "dinov2+siglip"]
Language = Literal["llama", "qwen2"]


@dataclass(frozen=True, kw_only=True)
class PrismaticConfig:
    """Sizes of the backbone. The defaults are the tiny recipe; Prismatic-7B is width 4096, 32 layers, 32 heads."""

    vision: Vision = "convolutional"
    language: Language = "llama"
    image_px: int = 64
    width: int = 128  # D
    layers: int = 2
    heads: int = 4
    mlp_width: int = 512
    max_tokens: int = 512
    conv_tower: ConvTowerConfig = field(default_factory=ConvTowerConfig)
    prismatic_vision: PrismaticVisionConfig = field(default_factory=PrismaticVisionConfig)


class PrismaticBackbone(nn.Module):
    """[visual tokens][BOS words][LACT x l_z][ACT] through a causal language model (paper, policy).

    Weights are random; nothing is downloaded. Padded words are masked and take up no position.
    """

    def __init__(self, config: PrismaticConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.first_latent_id, self.act_id = vocabulary.first_latent_id, vocabulary.act_id
        self.tower = build_tower(config)
        self.map_channels: int = self.tower.map_channels
        self.language = build_language(config, len(vocabulary))

    def forward(self, observation: ObservationBatch, codes: Tensor, blind: Tensor | None = None) -> BackboneOutput:
        """Teacher-forced pass.

        Args:
            observation: B pictures and sentences.
            codes: [B, L] integers in [0, K).
            blind: [B] bool; where True the ACT query does not see the latent tokens, so that it must read the picture.
        """
        batch, num_tokens = codes.shape
        prefix, valid, visual = self._prefix(observation)
        act = torch.full((batch, 1), self.act_id, device=codes.device)
        behind = self._embed(torch.cat([codes + self.first_latent_id, act], 1))
        valid = torch.cat([valid, valid.new_ones(batch, num_tokens + 1)], 1)
        allowed = causal_mask(valid)
        if blind is not None:
            start = prefix.shape[1]
            allowed[:, :, -1, start : start + num_tokens] &= ~blind[:, None, None]
        states = self._run(torch.cat([prefix, behind], 1), allowed, positions(valid))
        before, latents, act_state = states.split([prefix.shape[1], num_tokens, 1], dim=1)
        last_word = _at_last_word(before, observation.word_mask)
        slots = torch.cat([last_word[:, None], latents[:, :-1]], 1)
        return BackboneOutput(slots=slots, latents=latents, act=act_state[:, 0], visual=visual)

    def decode(
        self, observation: ObservationBatch, num_tokens: int, choose: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, BackboneOutput]:
        """Latent tokens one by one, then ACT; earlier keys and values are kept, the picture is looked at once.

        Args:
            observation: B pictures and sentences.
            num_tokens: L.
            choose: maps a state [B, D] to codes [B].
        """
        prefix, valid, visual = self._prefix(observation)
        output = self.language.model(
            inputs_embeds=prefix,
            attention_mask=causal_mask(valid),
            position_ids=positions(valid),
            use_cache=True,
        )
        cache = output.past_key_values
        slots = [_at_last_word(output.last_hidden_state, observation.word_mask)]
        latents: list[Tensor] = []
        chosen: list[Tensor] = []
        for slot in range(num_tokens + 1):
            if slot < num_tokens:
                chosen.append(choose(slots[-1]))
                ids = chosen[-1] + self.first_latent_id
            else:
                ids = torch.full_like(chosen[-1], self.act_id)
            valid = torch.cat([valid, valid.new_ones(len(valid), 1)], 1)
            state = self._run(self._embed(ids[:, None]), valid[:, None, None, :], positions(valid)[:, -1:], cache)[:, 0]
            latents.append(state)
            slots.append(state)
        act = latents.pop()
        return torch.stack(chosen, 1), BackboneOutput(
            slots=torch.stack(slots[:num_tokens], 1), latents=torch.stack(latents, 1), act=act, visual=visual
        )

    def token_logits(self, states: Tensor) -> Tensor:
        """[..., D] to logits over the whole vocabulary [..., V]."""
        return self.language.lm_head(states)  # type: ignore[no-any-return]

    def _embed(self, ids: Tensor) -> Tensor:
        return self.language.model.embed_tokens(ids)  # type: ignore[no-any-return]

    def _prefix(self, observation: ObservationBatch) -> tuple[Tensor, Tensor, VisualFeatures]:
        """Embeddings [B, N + W, D] of picture and words, which of them count [B, N + W], and the visual features."""
        words = self._embed(observation.words)
        weight = observation.word_mask[..., None].to(words.dtype)
        visual = self.tower(observation.images, (words * weight).sum(1) / weight.sum(1))
        seen = observation.word_mask.new_ones(visual.tokens.shape[:2])
        return torch.cat([visual.tokens, words], 1), torch.cat([seen, observation.word_mask], 1), visual

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


def build_tower(config: PrismaticConfig) -> ConvTower | PrismaticVision:
    """The vision tower that `config.vision` names; both meet `VisionTower`."""
    tower: VisionTower
    if config.vision == "convolutional":
        tower = ConvTower(config.conv_tower, image_px=config.image_px, width=config.width)
    elif config.vision == "dinov2+siglip":
        tower = PrismaticVision(config.prismatic_vision, image_px=config.image_px, width=config.width)
    else:
        raise InputError(
            "PrismaticConfig.vision",
            expected="convolutional or dinov2+siglip",
            got=repr(config.vision),
            remedy="Name one of them.",
        )
    return tower


def build_language(config: PrismaticConfig, vocabulary_size: int) -> Any:
    """A causal language model of `transformers` with random weights and no dropout."""
    # Here and not above: importing them takes seconds, which verbs without a policy need not pay.
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    kinds = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
    if config.language not in kinds:
        raise InputError(
            "PrismaticConfig.language",
            expected="llama or qwen2",
            got=repr(config.language),
            remedy="Name one of them.",
        )
    config_class, model_class = kinds[config.language]
    return model_class(
        config_class(
            vocab_size=vocabulary_size,
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.max_tokens,
            pad_token_id=PAD,
            tie_word_embeddings=False,
            attention_dropout=0.0,
            attn_implementation="sdpa",  # takes our boolean masks
        )
    )


def _at_last_word(states: Tensor, word_mask: Tensor) -> Tensor:
    """The state [B, D] at the last real word; it predicts the first latent token."""
    last = states.shape[1] - word_mask.shape[1] + word_mask.sum(1) - 1
    return states[torch.arange(len(states), device=states.device), last]
