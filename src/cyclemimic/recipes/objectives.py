"""The controls' objectives from one recipe: the same data, steps, sizes and care; what the objective is differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cyclemimic.nn.vision import BackboneConfig
from cyclemimic.tokenizer.objective import Objective, ObjectiveConfig
from cyclemimic.tokenizer.tokenizer import CONFIG, TokenizerConfig
from cyclemimic.train.stage1_tokenizer import TokenizerTraining, tokenizer_facts


def as_lapa(config: TokenizerTraining) -> TokenizerTraining:
    """LAPA: the latent action is a difference of both frames' tokens, quantised by NSVQ; reconstruction alone.

    Source: LAPA (2410.11758). E's transformer, its inputs and D are the recipe's.
    """
    sizes = config.tokenizer
    sizes = replace(
        sizes,
        encoder=replace(sizes.encoder, readout="difference"),
        quantizer=replace(sizes.quantizer, kind="nsvq"),
    )
    return replace(config, tokenizer=sizes, objective=_alone(config.objective, "lapa"))


def univla_stages(config: TokenizerTraining) -> tuple[TokenizerTraining, TokenizerTraining]:
    """UniVLA: D predicts frozen features; a first stage that hears the sentence, a second that keeps its codebook.

    What a sentence explains, the first stage's codes need not hold; they hold the rest (a person who walks by, light).
    The second stage is given them, frozen, hears nothing, and its own codes are the latent action. Both stages
    together take the steps of the recipe. Source: UniVLA (2505.06111).
    """
    sizes = replace(config.tokenizer, decoder="feature", change="features")
    terms = replace(_alone(config.objective, "univla"), painted=0.0)
    first_steps = config.steps // 2
    first = replace(config, tokenizer=replace(sizes, words=True), objective=terms, steps=first_steps)
    second = replace(
        config,
        tokenizer=replace(sizes, given_tokens=sizes.encoder.num_tokens),
        objective=terms,
        steps=config.steps - first_steps,
        first_batch=config.first_batch + first_steps,
    )
    return first, second


def with_backbone(config: TokenizerTraining, name: str) -> TokenizerTraining:
    """The same training on a frozen backbone: that of a tokenizer's run, a pretrained one, or one from outside.

    A pretrained one is named by hub id or folder, one from outside by `package.module:Class`. Features of both carry
    their own change; their patches seldom suit a stem over pixels. It is shown pictures of the recipe's `input_px`.
    """
    run = Path(name)
    if (run / CONFIG).exists():
        found = TokenizerConfig.from_json(tokenizer_facts(run)["config"]).backbone
        return replace(config, tokenizer=replace(config.tokenizer, backbone=replace(found, trainable=False)))
    outside = ":" in name and not run.exists()
    input_px = config.tokenizer.backbone.input_px
    backbone = BackboneConfig(
        kind=name if outside else "pretrained", name="" if outside else name, trainable=False, input_px=input_px
    )
    return replace(config, tokenizer=replace(config.tokenizer, backbone=backbone, change="features"))


def _alone(terms: ObjectiveConfig, objective: Objective) -> ObjectiveConfig:
    return replace(terms, objective=objective)
