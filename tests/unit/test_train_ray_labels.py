"""Labels by Ray Data are those of the plain verb, to the byte."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cyclemimic.cli import main
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.video import write_video
from cyclemimic.recipes.stations import run_label, run_tokenizer
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.train.ray_labels import ShardLabeller
from tests.journey.small import hashes, recipe
from tests.unit.data_small import moving_square

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'cyclemimic[ray]'"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("ray")
    for i in range(5):
        write_video(root / f"video/arm/{i}.mp4", moving_square(9 + i, 16, 16, start=i), 5)
    config = replace(recipe().trunk, steps=2, checkpoint_every=2)
    source = FolderSource(root / "video")
    run_tokenizer(source, config, root / "run", cache_root=root / "cache", trunk=None)
    run_label(source, root / "run", root / "plain", cache_root=root / "cache", threads=1)
    return root


def label(root, *words):
    given = ["--source", f"folder:{root}/video", "--tokenizer", f"{root}/run", "--cache", f"{root}/cache"]
    main(["label", *given, "--out", f"{root}/by-ray", "--engine", "ray", *words])


@needs_ray
@pytest.mark.slow
def test_the_store_is_that_of_the_plain_verb_and_goes_on(made, monkeypatch):
    import ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", object_store_memory=100 << 20)
    try:
        label(made, "--workers", "2")
        assert hashes(made / "by-ray") == hashes(made / "plain")
        (made / "by-ray/labels-00002.parquet").unlink()
        before = (made / "by-ray/labels-00001.parquet").stat().st_mtime_ns
        label(made, "--workers", "2")
        assert hashes(made / "by-ray") == hashes(made / "plain")
        assert (made / "by-ray/labels-00001.parquet").stat().st_mtime_ns == before
    finally:
        ray.shutdown()


def test_an_actor_labels_its_shards_as_the_plain_verb_does(made, tmp_path):
    from cyclemimic.recipes.footage import cached, shots
    from cyclemimic.store.label_store import LabelStore

    store = LabelStore.open(made / "plain")
    cache = cached(FolderSource(made / "video"), 16, made / "cache")
    (frames,) = {p.parent for p in (made / "cache").glob("*/frames.u8")}
    gap_s = store.provenance.gap_s
    cuts = shots(cache, made / "cache")
    settings = (
        Path.cwd(),
        made / "run",
        store.provenance,
        lambda: FrameCache.open(frames),
        gap_s,
        tmp_path / "store",
        cuts,
        "cpu",
        5,
    )
    actor = ShardLabeller(*settings)
    found = [actor({"shard": np.array([shard])})["pairs"].tolist() for shard in (3, 0, 1, 4, 2)]
    assert sum(n for (n,) in found) == len(store)
    assert hashes(tmp_path / "store") == hashes(made / "plain")
    assert actor({"shard": np.array([3])})["pairs"].tolist() == [0], "nothing twice"


def test_wrong_settings_and_a_missing_ray_say_what_to_do(made, monkeypatch, capsys):
    for words, message in (
        (("--workers", "0"), "--workers: expected at least 1"),
        (("--num-shards", "2"), "--num-shards: expected 1 with --engine ray"),
        ((), "pip install 'cyclemimic[ray]'"),
    ):
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(SystemExit) as ended:
            label(made, *words)
        assert ended.value.code == 2 and message in capsys.readouterr().err
