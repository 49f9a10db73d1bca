"""Sizes: counts equal those by hand, nothing is allocated, and work lands in the part that does it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cyclemimic.nn.batches import Features
from cyclemimic.nn.pretrained import PretrainedBackbone
from cyclemimic.nn.transformer import SpatialAttention
from cyclemimic.nn.vit_families import ARCHITECTURES
from cyclemimic.recipes.sizes import sizes_of
from cyclemimic.tokenizer.encoder import Encoder, EncoderConfig


def by_name(sizes):
    return {part.name: part for part in sizes.parts}


def test_parameters_and_bytes_are_those_by_hand():
    frozen = nn.Linear(3, 5).requires_grad_(False)
    half = nn.Sequential(nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7))
    sizes = by_name(sizes_of({"frozen": frozen, "half": half}, None))
    assert (sizes["frozen"].trainable, sizes["frozen"].frozen, sizes["frozen"].buffers) == (0, 20, 0)
    assert (sizes["half"].trainable, sizes["half"].frozen, sizes["half"].buffers) == (49, 0, 15)
    assert sizes["frozen"].weight_bytes() == 80
    assert sizes["frozen"].gradient_bytes() == sizes["frozen"].optimizer_bytes() == 0
    assert sizes["half"].weight_bytes(2) == 2 * 64
    assert sizes["half"].gradient_bytes(2) == 2 * 49 and sizes["half"].optimizer_bytes(2) == 2 * 2 * 49
    assert sizes["half"].flops is None


def test_shared_weights_count_once():
    a, b = nn.Linear(3, 5), nn.Linear(3, 5)
    b.weight = a.weight
    total = sizes_of({"a": a, "b": b}, None).total
    assert total.trainable == 15 + 5 + 5


def test_work_is_counted_in_the_part_that_does_it():
    with torch.device("meta"):
        first, second, frames = nn.Linear(3, 5), nn.Sequential(nn.Linear(5, 7)), torch.rand(11, 3)
        other = torch.rand(7, 13)
    sizes = sizes_of({"first": first, "second": second}, lambda: second(F.gelu(first(frames))) @ other)
    parts = by_name(sizes)
    assert parts["first"].flops == 2 * 11 * 3 * 5
    assert parts["second"].flops == 2 * 11 * 5 * 7
    assert parts["elsewhere"].flops == 2 * 11 * 7 * 13
    assert sizes.total.flops == 22 * (15 + 35 + 91)


def test_a_part_inside_another_is_counted_once():
    with torch.device("meta"):
        inner = nn.Linear(3, 3)
        outer = nn.Sequential(nn.Linear(3, 3), inner)
        frames = torch.rand(11, 3)
    parts = by_name(sizes_of({"inner": inner, "outer": outer}, lambda: outer(frames)))
    assert parts["inner"].flops == parts["outer"].flops == 2 * 11 * 9
    assert parts["inner"].trainable == parts["outer"].trainable == 12


def test_attention_is_counted():
    batch, tokens, width = 2, 7, 12
    with torch.device("meta"):
        attention, x = SpatialAttention(width, 3), torch.rand(batch, tokens, width)
    linear = 2 * batch * tokens * width * 4 * width
    between = 2 * 2 * batch * tokens * tokens * width
    assert sizes_of({"attention": attention}, lambda: attention(x)).total.flops == linear + between


def test_a_part_that_is_run_through_its_own_methods():
    with torch.device("meta"):
        encoder = Encoder(EncoderConfig(width=12, blocks=2, heads=3), feature_width=5, num_patches=7)
        features = Features(patches=torch.rand(2, 7, 5), grid=(1, 7))
    sizes = sizes_of({"encoder": encoder}, lambda: encoder.read(encoder.watch(features), features, features - features))
    assert set(by_name(sizes)) == {"encoder"}
    assert sizes.total.flops > 2 * 2 * 7 * 2 * 12**2 * 12


def test_nothing_stays_behind():
    part = nn.Linear(3, 5)
    with pytest.raises(RuntimeError):
        sizes_of({"part": part}, lambda: part(torch.rand(2, 4)))
    assert not part._forward_hooks and not part._forward_pre_hooks


def test_a_frozen_backbone_of_paper_size_costs_no_memory_to_count():
    with torch.device("meta"):
        backbone = PretrainedBackbone.random(ARCHITECTURES["facebook/dinov2-with-registers-base"])
        frames = torch.rand(1, 3, 224, 224)
    total = sizes_of({"backbone": backbone}, lambda: backbone(frames)).total
    assert total.trainable == 0 and total.frozen / 1e6 == pytest.approx(86.58, abs=0.01)
    tokens, width = 1 + 4 + 256, 768
    blocks = 12 * (2 * tokens * 12 * width**2 + 2 * 2 * tokens**2 * width)
    patches = 2 * 256 * 3 * 14**2 * width
    assert total.flops == blocks + patches


def test_the_table_names_every_part_and_the_sum():
    with torch.device("meta"):
        part, frames = nn.Linear(1000, 1000), torch.rand(1000, 1000)
    lines = sizes_of({"part": part}, lambda: part(frames)).text().splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["part", "part", "total"]
    assert lines[1].split() == [
        "part",
        "1.001",
        "0.000",
        "2.000",
        "4.0",
        "/",
        "2.0",
        "4.0",
        "/",
        "2.0",
        "8.0",
        "/",
        "4.0",
    ]
    assert "-" in sizes_of({"part": part}, None).text().splitlines()[1].split()
