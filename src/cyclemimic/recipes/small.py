"""The scale of one GPU, hours: between `tiny` (two cores, minutes) and `paper` (several GPUs, days).

    cyclemimic tokenizer --recipe small --dry-run step ...     what it takes
    cyclemimic ablate --recipe small --table objective --budget-minutes 7 ...     in slices; again until it exits with 0

A slice of 8 minutes has a budget of 7: beginning, and finishing the step in hand, take their share.

Nothing of this size was trained yet, and no GPU was at hand: sizes and memory are counted, steps and rates are carried
over from `tiny`. The code is that of a CPU; there say `--device cpu --precision fp32`. What bounds the sizes is a
checkpoint of at most 16 MB, so that a run can move from machine to machine between slices: 12 bytes for each weight
that learns (itself and both moments of Adam, fp32, since resuming is exact), and hardly anything else. That leaves 1.3
million weights, for the largest row of every table; `ac3` itself takes a million.

A frozen backbone is not in the checkpoint: `--backbone facebook/dinov2-small` costs 22 million weights of memory, none
on disk.
"""

from __future__ import annotations

from dataclasses import replace

from cyclemimic.nn.vision import BackboneConfig
from cyclemimic.recipes.recipe import Recipe
from cyclemimic.tokenizer.decoders import FeatureDecoderConfig, MotionDecoderConfig, PixelDecoderConfig
from cyclemimic.tokenizer.discriminator import DiscriminatorConfig
from cyclemimic.tokenizer.encoder import EncoderConfig
from cyclemimic.tokenizer.objective import ObjectiveConfig
from cyclemimic.tokenizer.tokenizer import TokenizerConfig
from cyclemimic.train.stage1_tokenizer import TokenizerTraining
from cyclemimic.train.stage2_pretrain import PretrainConfig
from cyclemimic.train.stage3_finetune import FinetuneConfig
from cyclemimic.train.trainee import OptimConfig

CHECKPOINT_MB = 16.0  # the most, of any row of any table (tests/unit/test_recipes_small.py)
# Twice the tiny recipe's side: as many patches as the paper has (16 x 16), still four pixels wide.
SIZE_PX, STRIDE_PX = 64, 4
# Blocks half again as wide as tiny's and twice as many: 16 width^2 weights each, 0.6 of the 1.3 million together.
WIDTH, BLOCKS, HEADS = 96, 4, 4
# Eight times tiny's, and its ratio; nothing longer than tiny's was measured with this code.
TRUNK_STEPS, BRANCH_STEPS = 12_000, 4_800


def tokenizer() -> TokenizerConfig:
    """E, D and codebook."""
    return TokenizerConfig(
        size_px=SIZE_PX,
        # Tiny's input; 8 px in each direction is what the checkpoint has room for (the row of the slow reader).
        change="matches",
        match_reach=4,
        # 64 wide: a convolution at the last size has 9 width^2 weights, and there are two stems. A pretrained backbone
        # named by --backbone takes its own width, and sees pictures of 224 px, so that its patches are 16 x 16 too.
        backbone=BackboneConfig(width=64, stride_px=STRIDE_PX, input_px=224),
        # Two tokens of 16 codes, as tiny: 256 latent actions are more than the arms use. tokens_4 is a row.
        encoder=EncoderConfig(width=WIDTH, blocks=BLOCKS, heads=HEADS, num_tokens=2, code_width=16),
        # Tiny's: it works on whole pictures, so its cost grows with the side already; doubled (a row) it still fits.
        motion=MotionDecoderConfig(width=32),
        # As deep as E, as the paper has it; so narrow that they fit twice as wide, which is a row too.
        pixel=PixelDecoderConfig(width=32, blocks=BLOCKS, heads=HEADS, stride_px=STRIDE_PX),
        feature=FeatureDecoderConfig(width=32, blocks=BLOCKS, heads=HEADS),
    )


def small() -> Recipe:
    """One GPU of 16 GB, hours."""
    trunk = TokenizerTraining(
        tokenizer=tokenizer(),
        objective=ObjectiveConfig(objective="genie"),  # weights and ramps are tiny's: shares of a run
        # As deep as E: the paper finds that best. 48 wide as tiny's: it wins soon enough.
        discriminator=DiscriminatorConfig(width=48, blocks=BLOCKS, heads=HEADS, stride_px=STRIDE_PX),
        steps=TRUNK_STEPS,
        # Four times tiny's: fewer pairs leave a GPU idle at this width. For the gradient 128 pairs keep 4 GB in fp32,
        # with a DINOv2-small, through which the cycle's gradient passes, 10 GB (`--dry-run step`); in bf16 less.
        batch_size=128,
        # Tiny's 2e-3 over the ratio of the widths, rounded down; the larger batch would allow more. Psi's alike.
        learning_rate=1e-3,
        critic_learning_rate=2.5e-4,
        warmup=400,  # half of tiny's share of the run: what it protects is the first moments, which need 100 steps
        final_learning_rate=0.5,  # of a trunk: its branches go on from there
        checkpoint_every=500,  # minutes apart; SIGTERM, at the end of a slice, writes one anyway
        gradient_norms_every=500,
        device="cuda",
        # Sums, statistics, distances and losses stay fp32 under autocast. torch.compile stays off: on one thread it won
        # 4 % of a block's time and took 52 s to begin, which every slice would pay again; on a GPU nobody tried.
        precision="bf16",
    )
    branch = replace(
        trunk,
        steps=BRANCH_STEPS,
        first_batch=TRUNK_STEPS,
        learning_rate=5e-4,  # half of the trunk's, where that one ended, as in tiny
        final_learning_rate=0.05,
        warmup=100,
    )
    return Recipe(
        trunk=trunk,
        genie=branch,
        ac3=replace(branch, objective=ObjectiveConfig(objective="ac3")),
        # The policy stages run on a CPU and keep tiny's network at 64 px, whose checkpoints are of 10 MB; they take
        # longer: four times the video, twice the updates on demonstrations.
        pretrain=PretrainConfig(optim=OptimConfig(steps=12_000)),
        finetune=FinetuneConfig(optim=OptimConfig(steps=1200)),
        # Filmed at twice the side that is learnt from: every pixel is the mean of four rays. Four times as many
        # episodes as tiny: in 16,800 batches of 128 each pair comes up about forty times.
        world="arms-128",
        episodes=160,
    )
