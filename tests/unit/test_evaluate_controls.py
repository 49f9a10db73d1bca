"""Controls are measured as tokenizers are, use their codes, and bracket what can be reached."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cyclemimic.evaluate.controls import ClusteredCodes, difference_embedding, fit_controls, k_means
from cyclemimic.evaluate.models import draws, label_pairs
from cyclemimic.evaluate.quality import measure_quality
from cyclemimic.evaluate.reconstruction import delta_psnr_db
from cyclemimic.evaluate.transfer import measure_references
from cyclemimic.nn.vision import BackboneConfig
from cyclemimic.tokenizer.encoder import EncoderConfig
from cyclemimic.tokenizer.tokenizer import TokenizerConfig
from tests.unit.evaluate_squares import SIDE, ExactJudge, ExactTokenizer, Mute, squares

TRAIN, TEST = squares(700, seed=1), squares(300, seed=2)
CONFIG = TokenizerConfig(
    size_px=SIDE, backbone=BackboneConfig(width=11), encoder=EncoderConfig(width=16, blocks=1, heads=2)
)


@pytest.fixture(scope="module")
def controls():
    return fit_controls(TRAIN, TEST, num_codes=7, num_tokens=2, seed=0, tokenizer=CONFIG)


def test_each_uses_its_codes_and_draws_nothing(controls):
    assert set(controls) == {"difference", "mean", "random encoder", "oracle"}
    for name, model in controls.items():
        codes = label_pairs(model, TEST)
        assert codes.shape == (300, 2) and not draws(model), name
        assert all(len(np.unique(slot)) == (1 if name == "mean" else 7) for slot in codes.T), name
        with pytest.raises(NotImplementedError, match="draws"):
            model.act_out(torch.zeros(1, 3, SIDE, SIDE), torch.zeros(1, 2, dtype=torch.int64))
        _, margin = model.label(*(torch.from_numpy(x[:4]).permute(0, 3, 1, 2) / 255 for x in (TEST.now, TEST.later)))
        assert margin.shape == (4,) and (margin >= 0).all()


def test_the_oracle_is_the_upper_bound_and_the_others_are_below(controls):
    found = {
        name: measure_quality(model, TRAIN, TEST, ExactJudge(), seed=0, transfers=50)
        for name, model in controls.items()
    }
    oracle = found.pop("oracle")
    assert oracle.probe_cross > 0.85 and oracle.kappa_cross > 0.95
    assert oracle.retrieval_map > oracle.retrieval_map_chance + 0.3
    for name, other in found.items():
        assert other.probe_cross < oracle.probe_cross - 0.2, name
        assert other.kappa_cross < oracle.kappa_cross - 0.2, name


def test_what_draws_nothing_has_no_number_that_is_read_from_frames():
    quality = measure_quality(Mute(), TRAIN, TEST, ExactJudge(), seed=0, transfers=50)
    drawn = measure_quality(ExactTokenizer(), TRAIN, TEST, ExactJudge(), seed=0, transfers=50)
    for name, value in quality.row().items():
        read = name.startswith(("transfer", "counterfactual_", "cycle", "leak", "alone", "reconstruction", "delta"))
        if read and name != "counterfactual_pairs":
            assert math.isnan(value), name
        elif not name.endswith("unseen"):
            assert value == pytest.approx(drawn.row()[name], rel=0, abs=0, nan_ok=True), name
    references = measure_references(Mute(), TEST, ExactJudge(), seed=0, transfers=50)
    assert math.isnan(references.oracle_code.transfer_cosine) and references.copy.transfer_cosine == 0
    assert delta_psnr_db(ExactTokenizer(), TEST, label_pairs(ExactTokenizer(), TEST), seed=0) > 2
    still = ExactTokenizer(moves=False)
    assert delta_psnr_db(still, TEST, label_pairs(still, TEST), seed=0) == pytest.approx(0)


def test_any_frozen_features_can_be_the_control():
    asked = []

    def backbone(frames):
        asked.append(len(frames))
        rows = torch.nn.functional.avg_pool2d(frames, 8).flatten(2).transpose(1, 2)
        return SimpleNamespace(patches=rows, grid=(3, 3))

    embed = difference_embedding(TRAIN, num_tokens=3, backbone=backbone)
    model = ClusteredCodes(embed, TRAIN, num_codes=5, seed=0)
    assert label_pairs(model, TEST).shape == (300, 3) and asked
    again = ClusteredCodes(difference_embedding(TRAIN, num_tokens=3, backbone=backbone), TRAIN, num_codes=5, seed=0)
    assert np.array_equal(label_pairs(model, TEST), label_pairs(again, TEST))


def test_k_means_finds_clusters_and_bears_too_few_points():
    rng = np.random.default_rng(0)
    places = np.array([[0, 0], [9, 0], [0, 9]], np.float32)
    points = torch.from_numpy((places[np.arange(60) % 3] + rng.normal(0, 0.1, (60, 2))).astype(np.float32))
    centres = k_means(points, 3, seed=0)
    assert torch.cdist(torch.from_numpy(places), centres).amin(1).max() < 0.2
    assert k_means(points[:1], 4, seed=0).shape == (4, 2)
