"""A mixture of two folders through tokenizer, label and pretrain; and the licences that travel along."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cyclemimic.cli import main
from cyclemimic.data.loader import PairLoader
from cyclemimic.data.segments import SegmentLoader
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.sources.lerobot import LeRobotSource
from cyclemimic.data.video import write_video
from cyclemimic.errors import InputError
from cyclemimic.evaluate.leak import ReaderConfig
from cyclemimic.recipes.exporting import export_sources
from cyclemimic.recipes.judging import run_inspect
from cyclemimic.recipes.judging_parts import run_quality_of_parts
from cyclemimic.recipes.mixtures import Mixture, MixtureEntry
from cyclemimic.recipes.parts import frames_of_parts, open_mixture, settled_gaps, weights_of
from cyclemimic.recipes.stations import run_label_part, run_pretrain, run_tokenizer
from cyclemimic.store.label_store import LabelStore
from cyclemimic.store.lineage import read_lineage
from cyclemimic.train.checkpoint import CONFIG_FILE
from cyclemimic.train.stage1_tokenizer import tokenizer_facts
from tests.journey.small import hashes, recipe
from tests.unit.test_data_gap import textured_square

ORIGIN = "hf://datasets/someone/fast@0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    for folder, step_px, count in (("fast", 1, 6), ("slow", 0.5, 5)):
        for i in range(count):
            write_video(root / folder / f"{i}.mp4", textured_square(29, 64, step_px, 18 + i), 5)
    lines = [json.dumps({"file": f"{i}.mp4", "licence": "CC0-1.0", "instruction": "push"}) for i in range(6)]
    (root / "fast" / "clips.jsonl").write_text("\n".join(lines))
    return root


def entries(root, **slow):
    return (
        MixtureEntry(source=f"folder:{root / 'fast'}", weight=3),
        MixtureEntry(source=f"folder:{root / 'slow'}", weight=1, **slow),
    )


def opened(root, **slow):
    return open_mixture(Mixture(name="both", entries=entries(root, **slow)))


def learn(source, out, name="run", **words):
    trunk = recipe().trunk
    config = replace(trunk, steps=4, checkpoint_every=2, **words)
    return run_tokenizer(source, config, out / name, cache_root=out.parent / "cache", trunk=None)


@pytest.fixture(scope="module")
def run(root):
    return learn(opened(root, gap_s=0.8), root.parent / "out")


def test_bodies_gaps_and_lineage_of_a_mixture(root, run):
    facts = tokenizer_facts(run)
    # Two folders that name no body are two bodies, each by its entry; H is the recipe's and the entry's.
    assert facts["gap_s"] == {"fast": recipe().trunk.gap_s, "slow": 0.8} and facts["bodies"] == ["fast", "slow"]
    fast, slow = read_lineage(run)["data"]
    assert (fast.share, slow.share) == (0.75, 0.25) and fast.content != slow.content
    assert set(fast.licences) == {"CC0-1.0"} and set(slow.licences) == {"unknown"}
    assert json.loads((run / CONFIG_FILE).read_text())["data"]["mixture"][0]["name"] == "fast"


def test_a_mixture_goes_on_where_it_stopped_and_refuses_other_weights(root, run):
    again = learn(opened(root, gap_s=0.8), root.parent / "out", "again")
    assert hashes(again)["tokenizer.safetensors"] == hashes(run)["tokenizer.safetensors"]
    other = open_mixture(Mixture(name="both", entries=entries(root, gap_s=0.8)[:1]))
    with pytest.raises(InputError, match=r"data\.mixture"):
        learn(other, root.parent / "out")


def test_a_body_has_one_gap(root, tmp_path):
    twice = Mixture(
        name="both",
        entries=tuple(
            MixtureEntry(source=f"folder:{root / name}", body="arm", gap_s=gap_s)
            for name, gap_s in (("fast", 0.4), ("slow", 0.8))
        ),
    )
    with pytest.raises(InputError, match=r"body 'arm'.*0\.4 s in 'fast', 0\.8 s in 'slow'.*body name of its own"):
        learn(open_mixture(twice), root.parent / "x" / "y")
    facts = tokenizer_facts(learn(opened(root, body="fast"), root.parent / "out", "shared"))
    assert facts["bodies"] == ["fast"] and facts["gap_s"] == recipe().trunk.gap_s


def test_the_gap_is_proposed_for_each_body_over_all_sources(root, capsys):
    def settled(mixture, gap_s):
        caches, _ = frames_of_parts(mixture, 16, root.parent / "cache", "cache")
        return settled_gaps(mixture, caches, [np.arange(len(cache)) for cache in caches], gap_s)

    auto = settled(opened(root), "auto")
    assert auto["slow"] == pytest.approx(2 * auto["fast"], rel=0.3)
    capsys.readouterr()
    assert settled(opened(root, gap_s=1.0), "auto") == {"fast": auto["fast"], "slow": 1.0}
    assert "slow" not in capsys.readouterr().out
    # One body in both: judged over the clips of both, so between the two.
    pooled = settled(opened(root, body="fast"), "auto")
    assert set(pooled) == {"fast"} and auto["fast"] <= pooled["fast"] <= auto["slow"]


def test_runs_of_frames_are_read_of_a_mixture(root, tmp_path):
    mixture, cache = opened(root, gap_s=0.8), tmp_path / "c"
    caches, read = frames_of_parts(mixture, 16, cache, "segment")
    assert read == "segment"
    gaps = {"fast": 0.4, "slow": 0.8}
    loader = SegmentLoader(caches, gaps, batch_size=64, sources=weights_of(mixture), run_pairs=5, runs_open=24)
    plain = PairLoader(caches, gaps, batch_size=64, sources=weights_of(mixture))
    drawn = []
    for step in range(20):
        batch = loader.batch(step)
        again = plain.take(batch.pair)
        assert np.array_equal(batch.now, again.now) and np.array_equal(batch.later, again.later)
        assert np.array_equal(batch.clip, again.clip)
        drawn.append(batch.body)
    share = np.mean(np.concatenate(drawn) == loader.bodies.index("slow"))
    assert share == pytest.approx(0.25, abs=0.08)  # as the weights say, though runs are drawn and not pairs
    config = replace(recipe().trunk, steps=2, checkpoint_every=2)
    done = run_tokenizer(mixture, config, tmp_path / "r", cache_root=cache, trunk=None, read="segment")
    assert json.loads((done / CONFIG_FILE).read_text())["data"]["read"] == "segment"
    assert not list(cache.glob("**/frames.u8"))


class Bare:
    """Clips that are no files."""

    name = "bare"

    def __init__(self, path):
        self.inner = FolderSource(path)

    def clips(self):
        return self.inner.clips()

    def read(self, clip):
        return self.inner.read(clip)


def test_runs_of_frames_are_refused_of_a_source_without_files(root, tmp_path):
    bare = MixtureEntry(source=f"tests.unit.test_recipes_mixture_training:Bare={root / 'slow'}", name="bare")
    mixture = open_mixture(Mixture(name="both", entries=(entries(root)[0], bare)))
    with pytest.raises(InputError, match="bare: expected a source that names its clips' files"):
        frames_of_parts(mixture, 16, tmp_path, "segment")


def test_direct_trains_as_the_cache_does(root, run, tmp_path):
    config = replace(recipe().trunk, steps=4, checkpoint_every=2)
    direct = run_tokenizer(
        opened(root, gap_s=0.8), config, tmp_path / "r", cache_root=tmp_path / "c", trunk=None, read="direct"
    )
    assert hashes(direct)["tokenizer.safetensors"] == hashes(run)["tokenizer.safetensors"]
    assert not list((tmp_path / "c").glob("**/frames.u8"))


@pytest.fixture(scope="module")
def labels(root, run):
    out = root.parent / "labels"
    mixture = opened(root, gap_s=0.8)
    mixture.parts[0].source.origin = ORIGIN  # as if it had been downloaded
    missing = run_label_part(mixture, run, out, cache_root=root.parent / "cache", threads=1)
    assert missing == ()
    return out


def test_each_source_has_labels_of_its_own_with_its_gap_and_licences(root, run, labels):
    fast, slow = (LabelStore.open(labels / name) for name in ("fast", "slow"))
    assert fast.provenance.licences == {"CC0-1.0": 6} and slow.provenance.licences == {"unknown": 5}
    assert fast.provenance.origin == ORIGIN and slow.provenance.origin is None
    assert set(fast.provenance.tokenizer_licences) == {"CC0-1.0", "unknown"}
    assert fast.provenance.gap_s == {"fast": recipe().trunk.gap_s} and slow.provenance.gap_s == {"slow": 0.8}
    frames, _ = slow.codes_for("0.mp4")
    assert len(frames) == 29 - 4


def test_pretraining_draws_sources_by_their_weights(root, labels, monkeypatch):
    drawn = []
    from cyclemimic.train import stage2_pretrain

    draw = stage2_pretrain.PretrainStage._draw

    def noted(self, rng):
        index = draw(self, rng)
        drawn.append(self.data.cache[index])
        return index

    monkeypatch.setattr(stage2_pretrain.PretrainStage, "_draw", noted)
    config = recipe().pretrain
    config = replace(config, batch=64, optim=replace(config.optim, steps=6))
    out = root.parent / "pretrained"
    run_pretrain(opened(root, gap_s=0.8), labels, config, out, cache_root=root.parent / "cache", threads=1)
    assert np.mean(np.concatenate(drawn)) == pytest.approx(0.25, abs=0.08)
    found = read_lineage(out)
    assert [one.share for one in found["data"]] == [0.75, 0.25]
    assert set(found["tokenizer"][0].licences) == {"CC0-1.0", "unknown"}
    card = (out / "MODEL_CARD.md").read_text()
    assert "it drives no robot yet" in card and "| fast | 75.0% | " in card and "CC0-1.0 (" in card
    assert "unknown" in card and "Ask their owners" in card and str(root) not in card


def test_pretraining_finds_where_things_move(root, labels):
    config = recipe().pretrain
    network = replace(config.network, head=replace(config.network.head, keypoint=True))
    config = replace(config, network=network, moving_weight=1.0, optim=replace(config.optim, steps=2))
    out = root.parent / "keypoint"
    run_pretrain(opened(root, gap_s=0.8), labels, config, out, cache_root=root.parent / "cache", threads=1)
    assert "moving_nll" in (out / "metrics.jsonl").read_text()


def test_labels_of_another_tokenizer_or_source_are_refused(root, labels, tmp_path):
    other = learn(opened(root, gap_s=0.8), root.parent / "out", "other", seed=1)
    mixed = tmp_path / "mixed"
    cache = root.parent / "cache"
    run_label_part(opened(root, gap_s=0.8), other, mixed, cache_root=cache, threads=1)
    for path in (mixed / "fast").iterdir():
        path.unlink()
    for path in (labels / "fast").iterdir():
        (mixed / "fast" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="labels by the tokenizer of 'fast'"):
        run_pretrain(opened(root, gap_s=0.8), mixed, recipe().pretrain, tmp_path / "p", cache_root=cache, threads=1)
    with pytest.raises(InputError, match=r"fast: expected labels"):
        run_pretrain(opened(root), mixed / "fast", recipe().pretrain, tmp_path / "p", cache_root=cache, threads=1)


def test_the_command_line_takes_a_mixture_from_video_to_pretraining(root, tmp_path, capsys):
    rows = [{"source": f"folder:{root / name}", "weight": w} for name, w in (("fast", 2), ("slow", 1))]
    (tmp_path / "my.json").write_text(json.dumps({"entries": rows}))
    source = ("--source", f"mixture:{tmp_path / 'my.json'}")
    rest = ("--cache", str(root.parent / "cache"), "--recipe", "tests.journey.small:recipe", "--tracker", "none")
    main(["tokenizer", *source, "--run", str(tmp_path / "t"), "--objective", "trunk", *rest])
    main(["label", *source, "--tokenizer", str(tmp_path / "t"), "--out", str(tmp_path / "l"), *rest[:2]])
    assert "labels of 6 clips in" in capsys.readouterr().out
    labels = ("--labels", str(tmp_path / "l"))
    main(["pretrain", *source, *labels, "--run", str(tmp_path / "p"), "--steps", "2", *rest])
    card = (tmp_path / "t" / "MODEL_CARD.md").read_text()
    assert "| fast | 66.7% |" in card and "- seed: 0" in card and "tokenizer.safetensors`: sha256" in card


def test_a_card_names_the_sources_that_were_not_there(root, tmp_path):
    rows = (*entries(root), MixtureEntry(source=f"folder:{root / 'gone'}", weight=4))
    mixture = open_mixture(Mixture(name="three", entries=rows, missing="skip"))
    trunk = learn(mixture, tmp_path / "out")
    config = replace(recipe().trunk, steps=6, checkpoint_every=3)
    branch = run_tokenizer(mixture, config, tmp_path / "branch", cache_root=tmp_path / "cache", trunk=trunk)
    for run in (trunk, branch):
        assert [one.name for one in read_lineage(run)["absent"]] == ["gone"]
        card = (run / "MODEL_CARD.md").read_text()
        assert "nothing was trained (1): \ngone." in card and "| fast | 75.0% |" in card
    assert [one.name for one in read_lineage(branch)["trunk > absent"]] == ["gone"]


def test_labels_of_each_source_are_exported_with_what_the_mixture_tells(root, labels, tmp_path):
    mixture = opened(root, gap_s=0.8, body="arm", licence="MIT")
    said = export_sources(mixture, tmp_path / "rows", to="jsonl", labels=labels)
    assert [line.partition(":")[0] for line in said.splitlines()] == ["fast", "slow"]
    rows = [json.loads(line) for line in (tmp_path / "rows/slow/labels.jsonl").read_text().splitlines()]
    assert {row["embodiment"] for row in rows} == {"arm"} and len(rows) == 5 * (29 - 4)
    fast = json.loads((tmp_path / "rows/fast/labels.jsonl").read_text().splitlines()[0])
    assert fast["embodiment"] == "fast" and fast["codes"]
    export_sources(mixture, tmp_path / "sets", to="lerobot-v3", labels=labels)
    # The licence in the head of the dataset's card is the entry's.
    assert "MIT" in (tmp_path / "sets/slow/README.md").read_text()
    assert LeRobotSource(tmp_path / "sets/slow").clips()[0].embodiment == "arm"
    with pytest.raises(InputError, match=r"gone.*expected"):
        export_sources(mixture, tmp_path / "more", to="jsonl", labels=tmp_path / "gone")
    assert not (tmp_path / "more").exists()


def test_a_mixture_is_inspected_on_one_page(root, run, tmp_path):
    words = {"cache_root": root.parent / "cache", "readers": ReaderConfig(width=4, steps=3, batch_size=8)}
    said = run_inspect(run, opened(root, gap_s=0.8), tmp_path / "page", **words)
    assert said.splitlines()[-1] == str(tmp_path / "page/inspect.html")
    page = (tmp_path / "page/inspect.html").read_text()
    assert "fast, slow" in page and (tmp_path / "page/neighbours.png").exists()


def test_a_source_of_a_mixture_that_tells_no_motion_is_not_judged(root, run, tmp_path):
    with pytest.raises(InputError, match=r"a source that a tokenizer can be judged on(.|\n)*fast: (.|\n)*slow: "):
        run_quality_of_parts(run, opened(root), tmp_path / "j", tmp_path / "o", cache_root=root.parent / "cache")
