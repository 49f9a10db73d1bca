"""Judging from names to a record: unseen bodies, another split, controls, counterfactuals made once."""

import json
import math

import numpy as np
import pytest
import torch

from cyclemimic.errors import InputError
from cyclemimic.evaluate.judge import Judge, JudgeConfig, JudgeNet, fit_judge
from cyclemimic.evaluate.leak import ReaderConfig
from cyclemimic.evaluate.records import load_quality
from cyclemimic.recipes.footage import cached, open_source
from cyclemimic.recipes.judging import counterfactuals, quality_text, run_inspect, run_quality
from cyclemimic.recipes.judging_parts import run_quality_of_parts, text_of_parts
from cyclemimic.recipes.known_motion import known_motion
from cyclemimic.recipes.mixtures import Mixture, MixtureEntry
from cyclemimic.recipes.parts import open_mixture
from cyclemimic.recipes.recipe import find_recipe
from cyclemimic.recipes.stations import film_world, run_tokenizer
from tests.journey.small import recipe

BODIES, QUICK = ("arm5", "gantry", "scara"), ReaderConfig(width=4, steps=6, batch_size=8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A film with a distractor, a tokenizer of two of its three bodies, and a judge of a second's training."""
    root = tmp_path_factory.mktemp("judging")
    # Names decide the side of a clip: from this seed on, eight of each body put clips of all three into the test.
    words = {"bodies": BODIES, "skills": ["wander"], "first_seed": 59, "actions": True}
    film_world("arms-distractor", root / "film", episodes=8, **words)
    config = find_recipe("tiny", {"tiny": recipe}).in_one_run("genie")
    source = open_source(f"folder:{root}/film/video")
    run_tokenizer(source, config, root / "run", cache_root=root / "cache", bodies=BODIES[:2], trunk=None)
    film = open_source(f"film:{root}/film")
    training, validation, _ = known_motion(film, cached(film, 16, root / "cache"), 0.6)
    fit_judge(training, validation, seed=0, config=JudgeConfig(width=4, steps=5)).save(root / "judge")
    return root


@pytest.fixture(scope="module")
def record(root):
    return run_quality(
        root / "run", f"film:{root}/film", root / "judge", root / "out", cache_root=root / "cache", controls=True,
        readers=QUICK,
    )  # fmt: skip


def test_a_tokenizer_knows_which_bodies_it_was_trained_on(root):
    assert json.loads((root / "run/tokenizer.json").read_text())["bodies"] == sorted(BODIES[:2])


def test_bodies_never_trained_on_fill_their_columns(record):
    quality = record.quality
    assert math.isfinite(quality.probe_unseen) and math.isfinite(quality.transfer_cosine_unseen)
    assert math.isfinite(quality.probe_cross) and math.isfinite(quality.leak_index)


def test_another_split_has_a_record_of_its_own_and_its_own_world(root, record):
    assert record.source == "arms-distractor" and record.quality.counterfactual_pairs > 0
    assert {p.name for p in (root / "out").iterdir()} == {"quality-arms-distractor.json"}
    assert str(load_quality(root / "out/quality-arms-distractor.json")) == str(record)
    assert record.references.copy.counterfactual_psnr_db > 5


def test_counterfactuals_are_made_once(root, record, monkeypatch):
    kept = list((root / "judge").glob("counterfactuals-*.npz"))
    assert len(kept) == 1
    film = open_source(f"film:{root}/film")
    cache = cached(film, 16, root / "cache")
    _, _, test = known_motion(film, cache, 0.6)
    words = {"gap_s": 0.6, "bodies": BODIES[:2], "side": "test"}
    monkeypatch.setattr("cyclemimic.recipes.judging.build_counterfactuals", lambda *_, **__: pytest.fail("made again"))
    found = counterfactuals(film, cache, test, root / "judge", **words)
    assert found is not None and len(found) == record.quality.counterfactual_pairs
    film.world_name = "a world of the past"
    assert counterfactuals(film, cache, test, root / "judge", **words) is None


def test_controls_are_in_the_record_and_in_the_lines(record):
    assert set(record.controls) == {"difference", "mean", "random encoder", "oracle"}
    assert record.controls["oracle"].probe_same > record.quality.probe_same
    said = quality_text(record)
    assert said.startswith("on arms-distractor") and "oracle" in said.splitlines()[0]
    assert "the judge is refused: R2" in said and "dB of the control oracle code" in said
    assert max(map(len, said.splitlines())) < 120


def test_a_judge_of_another_film_is_asked_about_this_one(root, record):
    judge = json.loads((root / "judge/judge.json").read_text())
    film = open_source(f"film:{root}/film")
    _, validation, _ = known_motion(film, cached(film, 16, root / "cache"), 0.6)
    assert record.judge.pairs == len(validation) == judge["report"]["pairs"]
    Judge(JudgeNet(4, 8), torch.ones(3), record.judge, JudgeConfig(width=4), 8).save(root / "small")
    with pytest.raises(InputError, match="a judge of pictures of 16 px"):
        run_quality(root / "run", f"film:{root}/film", root / "small", root / "out", cache_root=root / "cache")


def test_inspecting_says_its_verdicts(root):
    said = run_inspect(
        root / "run", open_source(f"folder:{root}/film/video"), root / "inspect", cache_root=root / "cache",
        readers=QUICK,
    )  # fmt: skip
    assert said.splitlines()[-1] == str(root / "inspect/inspect.html")
    assert any(line.startswith(("good", "suspicious", "broken")) for line in said.splitlines())
    assert np.isfinite([float(line.split()[1]) for line in said.splitlines() if line[0].isalpha()]).all()


def test_a_mixture_is_judged_source_by_source(root, record):
    """A film under its own body names is judged as it is alone; video beside it that tells no motion is passed over."""
    entries = (
        MixtureEntry(source=f"film:{root}/film", name="filmed"),
        MixtureEntry(source=f"folder:{root}/film/video", name="video"),
    )
    words = {"cache_root": root / "cache", "readers": QUICK}
    out = root / "parts-out"
    mixture = open_mixture(Mixture(name="two", entries=entries))
    records, refused = run_quality_of_parts(root / "run", mixture, root / "judge", out, **words)
    assert set(records) == {"filmed"} and set(refused) == {"video"}
    found = records["filmed"]
    assert found.source == "filmed" and {p.name for p in out.iterdir()} == {"quality-filmed.json"}
    assert found.quality.transfer_cosine == record.quality.transfer_cosine
    assert "video was not judged: " in text_of_parts(records, refused)
