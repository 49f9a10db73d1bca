"""The journey at the smallest scale: a recipe of few steps and small nets, and folders read as a whole."""

from dataclasses import replace
from pathlib import Path

from cyclemimic.nn.vision import BackboneConfig
from cyclemimic.policy.action_heads import HeadConfig
from cyclemimic.policy.network import NetworkConfig
from cyclemimic.policy.prismatic import PrismaticConfig
from cyclemimic.policy.towers import ConvTowerConfig
from cyclemimic.recipes.recipe import Recipe
from cyclemimic.store.atomic import sha256_file
from cyclemimic.tokenizer.decoders import MotionDecoderConfig
from cyclemimic.tokenizer.discriminator import DiscriminatorConfig
from cyclemimic.tokenizer.encoder import EncoderConfig
from cyclemimic.tokenizer.objective import ObjectiveConfig, Ramp
from cyclemimic.tokenizer.quantizer import QuantizerConfig
from cyclemimic.tokenizer.tokenizer import TokenizerConfig
from cyclemimic.train.stage1_tokenizer import TokenizerTraining
from cyclemimic.train.stage2_pretrain import PretrainConfig
from cyclemimic.train.stage3_finetune import FinetuneConfig
from cyclemimic.train.trainee import OptimConfig

BODIES = ("arm6", "scara")
SKILLS = ("reach", "push_left")
STEPS, CHECKPOINT_EVERY = 12, 3
NETWORK = NetworkConfig(
    backbone=PrismaticConfig(
        width=24,
        layers=1,
        heads=2,
        mlp_width=40,
        conv_tower=ConvTowerConfig(channels=(8, 16), token_rows=2),
    ),
    head=HeadConfig(channels=8, maps=6),
)
OPTIM = OptimConfig(steps=STEPS, warmup_steps=2)


def recipe() -> Recipe:
    """Everything small; AC3's terms are on for most of the run, and codes are reset within it."""
    trunk = TokenizerTraining(
        tokenizer=TokenizerConfig(
            size_px=16,
            backbone=BackboneConfig(width=12),
            encoder=EncoderConfig(width=16, heads=2, code_width=6),
            quantizer=QuantizerConfig(num_codes=7, reset_after=4),
            motion=MotionDecoderConfig(width=8),
        ),
        objective=ObjectiveConfig(objective="genie"),
        discriminator=DiscriminatorConfig(width=12, blocks=1, heads=2),
        steps=STEPS,
        batch_size=8,
        warmup=2,
        buffer_batches=3,
        checkpoint_every=CHECKPOINT_EVERY,
        gradient_norms_every=CHECKPOINT_EVERY,
    )
    branch = replace(trunk, first_batch=STEPS)
    ramps = {"cycle": Ramp(weight=0.1, start=0.2, length=0.3), "realism": Ramp(weight=0.02, start=0.1, length=0.3)}
    return Recipe(
        trunk=trunk,
        genie=branch,
        ac3=replace(branch, objective=ObjectiveConfig(objective="ac3", **ramps)),
        pretrain=PretrainConfig(network=NETWORK, optim=OPTIM, batch=8),
        finetune=FinetuneConfig(network=NETWORK, optim=OPTIM, batch=8, lora_rank=2),
    )


def hashes(folder: Path) -> dict[str, str]:
    """Sha256 of every file below `folder` by its relative path, but for hidden ones (locks, torn temporary files) and
    TensorBoard's, which name the time, the machine and the process.
    """
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith((".", "events.out"))]
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}
