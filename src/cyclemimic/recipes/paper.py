"""The scale of the paper: DINOv2-B, twelve blocks, 7 B parameters of policy. For machines with several GPUs.

What the source gives is literal here (l_z = 4, B = 4, a discriminator of twelve blocks, a decoder that paints); what it
leaves open is UniVLA's (224 px, K = 16 of width 128, batches of 512). `cyclemimic tokenizer --recipe paper --dry-run`
says what it takes. Nothing of this size was ever trained here.
"""

from __future__ import annotations

from dataclasses import replace

from cyclemimic.nn.vision import BackboneConfig
from cyclemimic.policy.network import NetworkConfig
from cyclemimic.policy.prismatic import PrismaticConfig
from cyclemimic.recipes.recipe import Recipe
from cyclemimic.tokenizer.ac3 import AC3Config
from cyclemimic.tokenizer.decoders import FeatureDecoderConfig, PixelDecoderConfig
from cyclemimic.tokenizer.discriminator import DiscriminatorConfig
from cyclemimic.tokenizer.encoder import EncoderConfig
from cyclemimic.tokenizer.objective import ObjectiveConfig
from cyclemimic.tokenizer.quantizer import QuantizerConfig
from cyclemimic.tokenizer.tokenizer import TokenizerConfig
from cyclemimic.train.stage1_tokenizer import TokenizerTraining
from cyclemimic.train.stage2_pretrain import PretrainConfig
from cyclemimic.train.stage3_finetune import FinetuneConfig
from cyclemimic.train.trainee import OptimConfig

DINOV2 = "facebook/dinov2-with-registers-base"
WIDTH, BLOCKS, HEADS = 768, 12, 12


def tokenizer() -> TokenizerConfig:
    """E, D and codebook at the paper's sizes."""
    return TokenizerConfig(
        size_px=224,
        change="none",
        decoder="pixel",
        backbone=BackboneConfig(kind="pretrained", name=DINOV2, trainable=False),
        encoder=EncoderConfig(width=WIDTH, blocks=BLOCKS, heads=HEADS, num_tokens=4, code_width=128),
        quantizer=QuantizerConfig(num_codes=16),
        pixel=PixelDecoderConfig(width=WIDTH, blocks=BLOCKS, heads=HEADS, stride_px=16),
        feature=FeatureDecoderConfig(width=WIDTH, blocks=BLOCKS, heads=HEADS),
    )


def paper() -> Recipe:
    """The paper's literal recipe: everything of L_C reaches D, nothing spoils what D hides but Psi."""
    literal = AC3Config(gradient_into_decoder=1.0, noise=0.0, blur=False)
    trunk = TokenizerTraining(
        tokenizer=tokenizer(),
        objective=ObjectiveConfig(objective="genie", ac3=literal, painted=0.0),
        discriminator=DiscriminatorConfig(width=WIDTH, blocks=BLOCKS, heads=HEADS, stride_px=16),
        gap_s=1.0,
        steps=50_000,
        batch_size=512,
        learning_rate=1e-4,
        critic_learning_rate=1e-4,
        warmup=1000,
        checkpoint_every=1000,
        gradient_norms_every=1000,
        device="cuda",
        precision="bf16",
    )
    branch = replace(trunk, first_batch=trunk.steps)
    network = NetworkConfig(
        backbone=PrismaticConfig(
            vision="dinov2+siglip",
            image_px=224,
            width=4096,
            layers=32,
            heads=32,
            mlp_width=11_008,
        )
    )
    return Recipe(
        trunk=trunk,
        genie=branch,
        ac3=replace(branch, objective=replace(branch.objective, objective="ac3")),
        pretrain=PretrainConfig(network=network, optim=OptimConfig(steps=20_000, learning_rate=2e-5), batch=1024),
        finetune=FinetuneConfig(
            network=network, optim=OptimConfig(steps=30_000, learning_rate=3.5e-4), batch=128, adaptation="lora"
        ),
    )
