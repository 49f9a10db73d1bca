"""The benchmark of the tokenizer's step: its control has the published size, and all steps run at one maths."""

from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def step(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import tokenizer_step

    return tokenizer_step


def test_the_control_has_the_parameters_of_the_published_class(step):
    with torch.device("meta"):
        model = step.TextbookTokenizer(step.SHAPES["univla"])
    assert sum(p.numel() for p in model.encoder.parameters()) == 113_959_680
    assert sum(p.numel() for p in [*model.decoder.parameters(), *model.out.parameters()]) == 86_211_072


def test_ours_is_as_large_and_works_less(step, monkeypatch, tmp_path):
    small = step.Shapes(grid=3, feature_width=12, width=24, blocks=3, heads=2, num_tokens=2, code_width=5, num_codes=7)
    monkeypatch.setitem(step.SHAPES, "small", small)
    how = {"shapes": "small", "batch": 4, "repeats": 1, "counts": [1], "out": tmp_path / "step.json"}
    found = step.measure(**how)
    assert found["parameters"]["genie"] == pytest.approx(found["parameters"]["textbook"], rel=0.05)
    flops = found["flops"]
    assert flops["genie"] < flops["textbook"]
    assert flops["genie"] < flops["ac3"] < 1.75 * flops["genie"]  # D once more and half of E: the stream is shared
    assert flops["ac3"] < flops["ac3_discriminator"]
    assert set(found["ratio"]) == {
        "textbook_over_genie", "genie_over_textbook", "ac3_over_genie", "ac3_discriminator_over_genie"
    }  # fmt: skip
    began = (tmp_path / "step.json").read_bytes()
    assert step.measure(**how)["settings"] == found["settings"]  # nothing is measured twice
    assert (tmp_path / "step.json").read_bytes() == began


def test_a_checkout_that_is_not_there(step, monkeypatch):
    import versus

    with pytest.raises(ValueError, match="FILE:CLASS"):
        versus.public_model("nowhere/lam.py:Model", step.SHAPES["small"])


def test_a_public_class_is_timed_as_it_is(step, tmp_path):
    import versus

    (tmp_path / "lam.py").write_text(PUBLIC)
    model = versus.public_model(f"{tmp_path / 'lam.py'}:Model", step.SHAPES["small"])
    features = torch.rand(3, 2, 5, 768)
    loss = model(features)
    # Reconstruction is off by one everywhere, and so are the vectors.
    torch.testing.assert_close(loss, torch.tensor(1 + 1 + 0.25), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="a class of lam"):
        versus.public_model(f"{tmp_path / 'lam.py'}:Other", step.SHAPES["small"])


PUBLIC = """
import torch
from torchvision import transforms

class Model(torch.nn.Module):
    def __init__(self, **sizes):
        super().__init__()
        self.look = transforms.Normalize(mean=0, std=1)
        self.dino_encoder = torch.hub.load("somewhere", "something")

    def forward(self, batch):
        seen = self.dino_encoder.forward_features(self.look(batch["videos"]).cuda())["x_norm_patchtokens"]
        target = seen.unflatten(0, (-1, 2))[:, 1]
        return {"recon": target + 1, "target": target, "z": target, "emb": target + 1}
"""
