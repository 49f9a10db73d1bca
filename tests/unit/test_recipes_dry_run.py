"""Sizes without memory, and one real step of noise, before anything is trained."""

from dataclasses import replace

import pytest

from cyclemimic import cli
from cyclemimic.recipes.dry_run import NoisePairs, one_step, tokenizer_sizes
from cyclemimic.recipes.paper import paper
from cyclemimic.recipes.tiny import tiny
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from tests.journey.small import recipe

UNIVLA_ENCODER = 113_959_680  # parameters of the class that UniVLA published, without its tokens and codebook


def part(sizes, name):
    return next(p for p in sizes.parts if p.name == name)


def test_the_papers_tokenizer_is_counted_and_its_encoder_is_univlas():
    sizes = tokenizer_sizes(paper().ac3)
    encoder, backbone = part(sizes, "E"), part(sizes, "backbone")
    assert abs(encoder.trainable / UNIVLA_ENCODER - 1) < 0.02
    assert backbone.trainable == 0 and backbone.frozen == pytest.approx(86.58e6, rel=1e-3)
    assert all(part(sizes, name).flops > 1e9 for name in ("backbone", "E", "D", "Psi"))


def test_sizes_are_those_of_the_tokenizer_that_is_trained():
    config = tiny().ac3
    sizes, built = tokenizer_sizes(config), LatentActionTokenizer(config.tokenizer)
    parts = (p for p in sizes.parts if p.name != "Psi")
    assert sum(p.trainable + p.frozen for p in parts) == sum(p.numel() for p in built.parameters())


def test_a_step_has_every_term_of_the_recipe():
    report = one_step(recipe().ac3, pairs=4)
    assert {"reconstruction", "cycle", "discriminator"} <= set(report.terms)
    assert report.seconds > 0 and report.peak_bytes > 1e6 and "one step of 4 pairs" in report.text()


def test_a_step_of_the_papers_shapes_with_two_blocks_runs_here():
    """The paper's widths, patches, tokens, codes and frozen DINOv2-B; all its twelve blocks take minutes here."""
    config = paper().ac3
    sizes = config.tokenizer
    sizes = replace(
        sizes,
        backbone=replace(sizes.backbone, layer=1),
        encoder=replace(sizes.encoder, blocks=2),
        pixel=replace(sizes.pixel, blocks=1),
    )
    config = replace(config, tokenizer=sizes, discriminator=replace(config.discriminator, blocks=1))
    assert {"reconstruction", "cycle", "discriminator"} <= set(one_step(config, pairs=2).terms)


def test_noise_is_the_same_for_the_same_step():
    pairs = NoisePairs(size_px=8, batch_size=3)
    assert (pairs.batch(1).now == pairs.batch(1).now).all() and not (pairs.batch(1).now == pairs.batch(2).now).all()
    assert (pairs.batch(1, slice(1, 3)).later == pairs.batch(1).later[1:]).all()


def test_the_command_trains_nothing(tmp_path, capsys):
    cli.main(["tokenizer", "--source", "none", "--run", str(tmp_path / "run"), "--dry-run", "sizes"])
    assert "GFLOP" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
