"""`--features` through whole trainings and labels: what is kept is made once, and refused where it cannot be."""

import json
from dataclasses import replace

import pytest

from cyclemimic.cli import main
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.video import write_video
from cyclemimic.errors import InputError
from cyclemimic.recipes import footage
from cyclemimic.recipes.footage import cached, features_at_hand, kept_features
from cyclemimic.recipes.objectives import with_backbone
from cyclemimic.recipes.stations import run_label, run_label_part, run_tokenizer
from cyclemimic.store.label_store import LabelStore
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.train.stage1_tokenizer import tokenizer_facts
from tests.journey.small import hashes, recipe
from tests.unit.features_small import Counting
from tests.unit.test_data_gap import textured_square

COUNTING = "tests.unit.features_small:Counting"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("video")
    for body in ("one", "two"):
        for i in range(4):
            write_video(root / f"{body}/{i}.mp4", textured_square(13, 64, 1, 18 + i), 5)
    return FolderSource(root)


def learn(source, root, name, objective="genie", **words):
    config = replace(recipe().in_one_run(objective), steps=4, checkpoint_every=2, seed=words.pop("seed", 0))
    words = {"backbone": COUNTING, "trunk": None, **words}
    return run_tokenizer(source, config, root / name, cache_root=root / "cache", **words)


def folders(root):
    return sorted(p.name for p in (root / "cache").glob("*-features-*"))


@pytest.fixture
def calls(monkeypatch):
    """How often the backbone is asked, and for how many frames."""
    found = []
    forward = Counting.forward

    def noted(self, frames):
        found.append(len(frames))
        return forward(self, frames)

    monkeypatch.setattr(Counting, "forward", noted)
    return found


def test_features_are_made_once_for_training_a_branch_and_labels(source, tmp_path, calls, capsys):
    trunk = learn(source, tmp_path, "trunk", features="cache")
    (folder,) = folders(tmp_path)
    assert folder.endswith("-float16") and tokenizer_facts(trunk)["features"] == "float16"
    said = capsys.readouterr().out
    assert "features of 104 frames" in said and "free" in said
    made = sum(calls)
    assert made < 104 + 70  # some to learn how long it takes
    learn(source, tmp_path, "branch", features="cache", trunk=trunk, seed=1)  # whose own features would be others
    assert folders(tmp_path) == [folder] and sum(calls) - made <= 8
    made = sum(calls)
    store = run_label(source, trunk, tmp_path / "labels", cache_root=tmp_path / "cache", threads=1)
    assert len(store) and sum(calls) - made <= 4


def test_what_is_learnt_is_nearly_what_is_learnt_without(source, tmp_path):
    def loss(name):
        return [json.loads(line)["reconstruction"] for line in (tmp_path / name / "metrics.jsonl").open()]

    learn(source, tmp_path, "computed", "ac3")
    learn(source, tmp_path, "kept", "ac3", features="cache")
    learn(source, tmp_path, "coarse", "ac3", features="cache-int8")
    assert loss("kept") == pytest.approx(loss("computed"), rel=1e-2)
    assert loss("coarse") == pytest.approx(loss("computed"), rel=5e-2)
    assert [name.rpartition("-")[2] for name in folders(tmp_path)].count("int8") == 1


def test_both_stages_of_univla_read_one_cache(source, tmp_path, calls):
    own = learn(source, tmp_path, "run", "univla", features="cache")
    assert len(folders(tmp_path)) == 1
    assert tokenizer_facts(own)["features"] == tokenizer_facts(own / "first-stage")["features"] == "float16"


def test_a_stopped_run_goes_on_alike_and_not_on_other_features(source, tmp_path, monkeypatch):
    whole = learn(source, tmp_path, "whole", features="cache")
    from cyclemimic.train.stage1_tokenizer import TokenizerStage

    step, seen = TokenizerStage.step, []

    def stop_once(self, number):
        if number == 3 and not seen:
            seen.append(number)
            raise RuntimeError("stopped")
        return step(self, number)

    monkeypatch.setattr(TokenizerStage, "step", stop_once)
    with pytest.raises(RuntimeError, match="stopped"):
        learn(source, tmp_path, "broken", features="cache")
    with pytest.raises(InputError, match="features"):
        learn(source, tmp_path, "broken")
    broken = learn(source, tmp_path, "broken", features="cache")
    assert hashes(broken)["tokenizer.safetensors"] == hashes(whole)["tokenizer.safetensors"]


def test_what_cannot_be_kept_is_refused_before_anything_is_made(source, tmp_path):
    for words, said in (
        ({"read": "direct"}, "--read cache"),
        ({"read": "segment"}, "--read cache"),
        ({"backbone": None}, "frozen backbone"),
    ):
        with pytest.raises(InputError, match=said):
            learn(source, tmp_path, "run", features="cache", **words)
    assert not folders(tmp_path)


def test_other_seeds_of_random_features_have_folders_of_their_own(source, tmp_path):
    cache = cached(source, 16, tmp_path / "cache")
    sizes = with_backbone(recipe().trunk, COUNTING).tokenizer
    one, other = LatentActionTokenizer(sizes), LatentActionTokenizer(sizes)
    kept_features(one, cache, tmp_path / "cache", "cache", "cpu")
    assert features_at_hand(other, cache, tmp_path / "cache", "cpu", "float16") is None
    kept_features(other, cache, tmp_path / "cache", "cache", "cpu")
    assert len(folders(tmp_path)) == 2


def test_labels_read_what_training_read_or_what_is_exact_enough(source, tmp_path, monkeypatch):
    run = learn(source, tmp_path, "run")
    root, tokenizer = tmp_path / "cache", LatentActionTokenizer.load(run)
    cache = cached(source, 16, root)
    assert features_at_hand(tokenizer, cache, root, "cpu", None) is None
    kept_features(tokenizer, cache, root, "cache-int8", "cpu")
    assert features_at_hand(tokenizer, cache, root, "cpu", None) is None  # coarser than what it learnt on
    assert features_at_hand(tokenizer, cache, root, "cpu", "int8").recipe.stored_as == "int8"
    kept_features(tokenizer, cache, root, "cache", "cpu")
    assert features_at_hand(tokenizer, cache, root, "cpu", None).recipe.stored_as == "float16"
    tokenizer.backbone.requires_grad_(True)
    assert features_at_hand(tokenizer, cache, root, "cpu", None) is None
    asked = []
    monkeypatch.setattr(footage, "open_features", lambda *words: asked.append(words))
    words = {"cache_root": root, "threads": 1}
    run_label_part(source, run, tmp_path / "labels", features="compute", **words)
    assert not asked and len(LabelStore.open(tmp_path / "labels"))


def test_a_damaged_cache_stops_training_and_labels_with_one_message(source, tmp_path):
    run = learn(source, tmp_path, "run", features="cache")
    (name,) = folders(tmp_path)
    (tmp_path / "cache" / name / "features.bin").write_bytes(b"x")
    with pytest.raises(InputError, match=r"features\.bin.*Delete the folder"):
        learn(source, tmp_path, "again", features="cache")
    with pytest.raises(InputError, match=r"features\.bin.*Delete the folder"):
        run_label(source, run, tmp_path / "labels", cache_root=tmp_path / "cache", threads=1)


def test_the_command_line_knows_it(tmp_path, monkeypatch):
    told = []

    def noted(*_, **words):
        told.append(words["features"])
        return (0,)

    monkeypatch.setattr("cyclemimic.recipes.stations.run_tokenizer", noted)
    monkeypatch.setattr("cyclemimic.recipes.stations.run_label_part", noted)
    write_video(tmp_path / "video/one/0.mp4", textured_square(5, 64, 1, 18), 5)
    common = ["--source", f"folder:{tmp_path / 'video'}"]
    for words in ([], ["--features", "cache"], ["--features", "cache-int8"]):
        main(["tokenizer", *common, "--run", str(tmp_path / "run"), *words])
    for words in ([], ["--features", "compute"]):
        label = ["label", *common, "--tokenizer", str(tmp_path), "--out", str(tmp_path / "l"), "--num-shards", "2"]
        main([*label, *words])
    assert told == ["compute", "cache", "cache-int8", "auto", "compute"]
