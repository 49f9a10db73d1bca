"""`--read` and `--gap-s auto` through a whole training."""

from dataclasses import replace

import numpy as np
import pytest

from cyclemimic.cli import main
from cyclemimic.data.segments import SegmentLoader
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.unkept import VideoFrames
from cyclemimic.data.video import write_video
from cyclemimic.errors import InputError
from cyclemimic.recipes.footage import cached, frames_of
from cyclemimic.recipes.stations import run_label, run_tokenizer
from cyclemimic.store.label_store import LabelStore
from cyclemimic.train.stage1_tokenizer import tokenizer_facts
from tests.journey.small import hashes, recipe
from tests.unit.test_data_gap import textured_square


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("video")
    for body, step_px in (("fast", 1), ("slow", 0.5)):
        for i in range(6):
            write_video(root / f"{body}/{i}.mp4", textured_square(29, 64, step_px, 18 + i), 5)
    return FolderSource(root)


def learn(source, root, name, *, steps=4, **words):
    trunk = recipe().trunk
    config = replace(trunk, steps=steps, checkpoint_every=2, gap_s=words.pop("gap_s", trunk.gap_s))
    return run_tokenizer(source, config, root / name, cache_root=root / "cache", trunk=None, **words)


def test_direct_trains_as_the_cache_does_and_writes_no_frames(source, tmp_path):
    direct = hashes(learn(source, tmp_path, "direct", read="direct"))
    assert not list(tmp_path.glob("cache/**/frames.u8"))
    assert direct["tokenizer.safetensors"] == hashes(learn(source, tmp_path, "cached"))["tokenizer.safetensors"]


def test_segments_go_on_where_a_run_stopped(source, tmp_path, monkeypatch):
    whole = learn(source, tmp_path, "whole", read="segment")
    step, seen = 3, []
    batch = SegmentLoader.batch

    def stop_once(self, number, *rest):
        if number == step and not seen:
            seen.append(number)
            raise RuntimeError("stopped")
        return batch(self, number, *rest)

    monkeypatch.setattr(SegmentLoader, "batch", stop_once)
    with pytest.raises(BaseException):  # noqa: B017
        learn(source, tmp_path, "broken", read="segment")
    broken = learn(source, tmp_path, "broken", read="segment")
    assert seen and hashes(whole)["tokenizer.safetensors"] == hashes(broken)["tokenizer.safetensors"]


def test_the_gap_of_each_body_reaches_the_labels(source, tmp_path, capsys):
    run = learn(source, tmp_path, "auto", gap_s="auto", read="segment")
    gap_s = tokenizer_facts(run)["gap_s"]
    assert gap_s["slow"] == pytest.approx(2 * gap_s["fast"], rel=0.2)
    assert "proposed gap" in capsys.readouterr().out
    labels = run_label(source, run, tmp_path / "labels", cache_root=tmp_path / "cache", threads=1)
    assert labels.provenance.gap_s == gap_s
    for clip in cached(source, 16, tmp_path / "cache").clips:
        frames, _ = labels.codes_for(clip.name)
        assert len(frames) == 29 - int(gap_s[clip.embodiment] * 5 + 0.5)


def test_auto_takes_a_cache_that_is_there_or_small(source, tmp_path, monkeypatch):
    frames, read = frames_of(source, 16, tmp_path, "auto")
    assert read == "cache" and isinstance(frames.frames, np.ndarray)
    monkeypatch.setattr("cyclemimic.recipes.footage.read_mode", lambda videos, free: "segment")
    assert frames_of(source, 16, tmp_path, "auto")[1] == "cache"
    frames, read = frames_of(source, 8, tmp_path, "auto")
    assert read == "segment" and isinstance(frames.frames, VideoFrames)


def test_flow_needs_the_cache(source, tmp_path):
    config = recipe().trunk
    config = replace(config, objective=replace(config.objective, flow=0.1))
    with pytest.raises(InputError, match="--read cache"):
        run_tokenizer(source, config, tmp_path / "run", cache_root=tmp_path, trunk=None, read="direct")


def test_jobs_that_share_a_folder_label_as_one_does_and_nothing_twice(source, tmp_path, capsys):
    run = learn(source, tmp_path, "run")
    cache = ("--cache", str(tmp_path / "cache"))

    def label(out, *words):
        main(["label", "--source", str(source.path), "--tokenizer", str(run), "--out", str(tmp_path / out), *words])

    label("one", *cache)
    for job in (2, 0):
        label("several", "--shard-index", str(job), "--num-shards", "3", "--read", "direct", *cache)
    assert "job 0 of 3 is done; 3 shards are left to the others" in capsys.readouterr().out
    with pytest.raises(InputError, match="missing: 1, 4, 7"):
        LabelStore.open(tmp_path / "several")
    shards = tmp_path / "several"
    before = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.parquet")}
    (shards / "labels-00002.parquet").unlink()  # as if killed before it was whole
    for job in (2, 1):
        label("several", "--shard-index", str(job), "--num-shards", "3", *cache)
    after = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.parquet")}
    assert [name for name in before if after[name] != before[name]] == ["labels-00002.parquet"]
    assert {n: h for n, h in hashes(shards).items() if n.endswith("parquet")} == {
        n: h for n, h in hashes(tmp_path / "one").items() if n.endswith("parquet")
    }
    with pytest.raises(SystemExit):
        label("several", "--shard-index", "3", "--num-shards", "3", *cache)
    assert "a part below 3" in capsys.readouterr().err
