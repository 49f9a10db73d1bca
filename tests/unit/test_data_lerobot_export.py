"""Export to LeRobot and of labels: what is written is what was read, and what is refused."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from cyclemimic.cli import data
from cyclemimic.data.cache import source_hash
from cyclemimic.data.sources.film import FilmSource
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.sources.lerobot import LeRobotSource
from cyclemimic.data.writers.film import film
from cyclemimic.data.writers.lerobot import write_lerobot
from cyclemimic.data.writers.lerobot_columns import camera_key
from cyclemimic.data.writers.lerobot_stats import merged, stats_of_numbers, stats_of_pictures
from cyclemimic.errors import InputError
from cyclemimic.recipes.exporting import export
from cyclemimic.store.label_store import LabelProvenance, LabelRows, LabelStore, LabelStoreWriter
from cyclemimic.types import ActionSpace, Axis, ClipInfo, Episode, Task
from tests.unit.data_small import SPACE, ToyWorld, moving_square, video_folder
from tests.unit.test_data_lerobot import FIXTURES

TASKS = [Task(body=b, skill=s, seed=2 * i) for i, (b, s) in enumerate([("big", "right"), ("small", "up")] * 2)]
LENGTHS = (3, 5, 4)
K, TOKENS = 7, 3


class Recorded:
    """Three episodes in memory, of two cameras and an action space with targets and changes."""

    name = "recorded"
    space = ActionSpace(
        name="robot",
        axes=(
            Axis(name="x_m", unit="m", low=-1, high=1, kind="delta"),
            Axis(name="grip", unit="fraction", low=0, high=1),
        ),
        rate_hz=5.0,
    )

    def clips(self):
        return [
            ClipInfo(
                name=f"clip {i}",
                embodiment="robot",
                fps=5.0,
                num_frames=n,
                instruction=("lift", None, "lift")[i],
                licence="cc-by-4.0",
            )
            for i, n in enumerate(LENGTHS)
        ]

    def read(self, clip):
        i, n = int(clip.name[-1]), clip.num_frames
        rng = np.random.default_rng(i)
        return Episode(
            info=clip,
            frames=moving_square(n, start=3 * i),
            actions=rng.uniform(0.1, 0.9, (n - 1, 2)).astype(np.float32),
            proprioception=rng.normal(size=(n, 3)).astype(np.float32),
            action_space=self.space,
            camera="top",
            extra_frames={"wrist/left": moving_square(n, height_px=31, width_px=19, start=i)},
        )


def close(one, other):
    """Whether pictures are equal but for the encoder."""
    return np.abs(one.astype(float) - other).mean() < 1.5


def labels_of(source, folder, tokens=TOKENS):
    """A label for every pair two frames apart but of the last clip, which has none."""
    provenance = LabelProvenance(
        tokenizer_sha256="t",
        source_hash=source_hash(source),
        gap_s=0.4,
        camera="front",
        num_codes=K,
        num_tokens=tokens,
        made_by="test",
    )
    names = [c.name for c in source.clips()[:-1] for _ in range(c.num_frames - 2)]
    frames = [t for c in source.clips()[:-1] for t in range(c.num_frames - 2)]
    writer = LabelStoreWriter(folder, provenance, num_shards=1)
    rng = np.random.default_rng(5)
    rows = LabelRows(
        clip=tuple(names),
        frame=np.array(frames, np.int32),
        codes=rng.integers(0, K, (len(names), tokens)),
        margin=rng.random(len(names)).astype(np.float32),
    )
    writer.write(0, rows)
    return LabelStore.open(folder)


def columns_of(root, *names):
    """Columns of all tables, in the order of the frames."""
    tables = [pq.read_table(p, partitioning=None) for p in sorted(root.glob("data/*/*.parquet"))]
    return [np.concatenate([np.array(t[name].to_pylist()) for t in tables]) for name in names]


@pytest.fixture(params=["v3.0", "v2.1"])
def version(request):
    return request.param


@pytest.mark.parametrize("mb", [100.0, 1e-9])
def test_what_is_written_is_read_again(tmp_path, version, mb):
    source = Recorded()
    report = write_lerobot(source, tmp_path / "out", version=version, data_mb=mb, video_mb=mb)
    assert (report.episodes, report.frames, report.skipped) == (3, 12, ())
    files = len(list((tmp_path / "out").glob("data/*/*.parquet")))
    assert files == (1 if version == "v3.0" and mb == 100 else 3)
    back = LeRobotSource(tmp_path / "out")
    assert back.version == version and back.action_space == source.space
    for old, new in zip(source.clips(), back.clips(), strict=True):
        assert replace(new, name=old.name) == old
        one, other = source.read(old), back.read(new)
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_array_equal(one.proprioception, other.proprioception)
        assert other.camera == "top" and close(one.frames, other.frames)
        assert close(one.extra_frames["wrist/left"], other.extra_frames["wrist_left"])


def test_a_film_comes_back_with_its_bodies_and_space(tmp_path, version):
    film(ToyWorld(), TASKS, tmp_path / "film")
    source = FilmSource(tmp_path / "film")
    write_lerobot(source, tmp_path / "out", version=version)
    back = LeRobotSource(tmp_path / "out")
    assert back.action_space == SPACE
    assert [c.embodiment for c in back.clips()] == [c.embodiment for c in source.clips()] == ["big"] * 2 + ["small"] * 2
    for old, new in zip(source.clips(), back.clips(), strict=True):
        np.testing.assert_array_equal(source.read(old).actions, back.read(new).actions)
        assert close(source.read(old).frames, back.read(new).frames)
    assert json.loads((tmp_path / "out" / "meta" / "info.json").read_text())["robot_type"] == "mixed"


def test_at_the_last_frame_targets_stay_and_changes_are_nothing(tmp_path, version):
    write_lerobot(Recorded(), tmp_path / "out", version=version)
    (actions,) = columns_of(tmp_path / "out", "action")
    ends = np.cumsum(LENGTHS) - 1
    np.testing.assert_array_equal(actions[ends, 0], 0)
    np.testing.assert_array_equal(actions[ends, 1], actions[ends - 1, 1])


def test_labels_are_a_column_and_minus_one_where_there_is_none(tmp_path, version):
    source = Recorded()
    labels = labels_of(source, tmp_path / "labels")
    write_lerobot(source, tmp_path / "out", version=version, labels=labels)
    codes, margin, episode, frame = columns_of(
        tmp_path / "out", "latent_action", "latent_action_margin", "episode_index", "frame_index"
    )
    assert codes.shape == (12, TOKENS) and codes.dtype == np.int64
    known = (codes >= 0).all(1)
    assert known.tolist() == [e < 2 and t < LENGTHS[e] - 2 for e, t in zip(episode, frame, strict=True)]
    np.testing.assert_array_equal(codes[known], labels.codes)
    np.testing.assert_array_equal(margin[known], labels.margin)
    assert (codes[~known] == -1).all() and (margin[~known] == -1).all()
    feature = json.loads((tmp_path / "out" / "meta" / "info.json").read_text())["features"]["latent_action"]
    assert (feature["dtype"], feature["shape"]) == ("int64", [TOKENS])


@pytest.mark.parametrize("tokens", [1, TOKENS])
def test_a_lerobot_dataset_is_copied_as_it_is_with_a_column_more(tmp_path, version, tokens):
    root, out = f"{FIXTURES}/{version}", tmp_path / "out"
    source = LeRobotSource(root)
    labels = labels_of(source, tmp_path / "labels", tokens)
    export(source, out, to="lerobot-v3" if version == "v3.0" else "lerobot-v2.1", labels=tmp_path / "labels")
    back = LeRobotSource(out)
    assert list(back.clips()) == list(source.clips())
    for clip in source.clips():
        np.testing.assert_array_equal(source.read(clip).frames, back.read(clip).frames)  # not encoded again
        np.testing.assert_array_equal(source.read(clip).actions, back.read(clip).actions)
    codes, reward = columns_of(out, "latent_action", "next.reward")
    assert reward.sum() == 4  # a column that is not ours
    codes = codes.reshape(len(codes), -1)
    np.testing.assert_array_equal(codes[(codes >= 0).all(1)], labels.codes)
    features = json.loads((out / "meta" / "info.json").read_text())["features"]
    metadata = pq.read_schema(next(iter(out.glob("data/*/*.parquet")))).metadata[b"huggingface"]
    assert set(json.loads(metadata)["info"]["features"]) == set(features) - {"observation.images.front"}
    stats = out / "meta" / ("stats.json" if version == "v3.0" else "episodes_stats.jsonl")
    found = json.loads(stats.read_text().splitlines()[0] if version == "v2.1" else stats.read_text())
    assert set(found.get("stats", found)) == set(features)
    assert "latent_action" not in json.loads((LeRobotSource(root).path / "meta" / "info.json").read_text())["features"]


def test_what_is_a_link_is_copied_and_not_changed(tmp_path):
    # The hub's cache holds links to files that other snapshots share.
    root = tmp_path / "snapshot"
    shutil.copytree(f"{FIXTURES}/v3.0", root, copy_function=os.symlink)
    source = LeRobotSource(root)
    labels_of(source, tmp_path / "labels")
    before = source.fingerprint()
    export(source, tmp_path / "out", to="lerobot-v3", labels=tmp_path / "labels")
    assert LeRobotSource(root).fingerprint() == before
    assert not any(p.is_symlink() for p in (tmp_path / "out").rglob("*"))


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_labels_alone(tmp_path, kind):
    source = Recorded()
    labels = labels_of(source, tmp_path / "labels")
    assert export(source, tmp_path / "out", to=kind, labels=tmp_path / "labels").startswith(f"{len(labels)} labels")
    if kind == "parquet":
        rows = pq.read_table(tmp_path / "out" / "labels.parquet").to_pylist()
    else:
        rows = [json.loads(line) for line in (tmp_path / "out" / "labels.jsonl").read_text().splitlines()]
    assert [row["codes"] for row in rows] == labels.codes.tolist()
    assert rows[1] == {
        "clip": "clip 1",
        "embodiment": "robot",
        "instruction": None,
        "frame": 0,
        "time_s": 0.0,
        "gap_s": 0.4,
        "codes": labels.codes[1].tolist(),
        "margin": pytest.approx(float(labels.margin[1])),
    }
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["num_codes"] == K
    with pytest.raises(InputError, match="--labels"):
        export(source, tmp_path / "out", to=kind)


def test_labels_of_another_source_are_refused(tmp_path):
    labels_of(Recorded(), tmp_path / "labels")
    other = FolderSource(video_folder(tmp_path / "video", {"a.mp4": 3}))
    for to in ("lerobot-v3", "parquet"):
        with pytest.raises(InputError, match="source_hash"):
            export(other, tmp_path / "out", to=to, labels=tmp_path / "labels")
    assert not (tmp_path / "out").exists()


def test_a_clip_that_cannot_be_used_is_left_out_and_named(tmp_path, version):
    video_folder(tmp_path / "video", {"1.mp4": 4, "2.mp4": 3, "3.mp4": 5})
    video_folder(tmp_path / "video", {"4.mp4": 4}, fps=7.0)
    (tmp_path / "video" / "2.mp4").write_bytes(b"no video")
    said = []
    source = FolderSource(tmp_path / "video")
    report = write_lerobot(source, tmp_path / "out", version=version, progress=said.append)
    assert [s.name for s in report.skipped] == ["2.mp4", "4.mp4"] and "fps 5.0" in report.skipped[1].reason
    assert sum("skipped" in line for line in said) == 2
    back = LeRobotSource(tmp_path / "out")
    assert [c.num_frames for c in back.clips()] == [4, 5]
    episode = back.read(back.clips()[1])
    assert episode.actions is None and episode.info.instruction is None and close(
        episode.frames, source.read(source.clips()[2]).frames
    )  # fmt: skip


def test_nothing_is_left_where_nothing_can_be_used(tmp_path):
    (tmp_path / "video").mkdir()
    (tmp_path / "video" / "a.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match="usable clip"):
        write_lerobot(FolderSource(tmp_path / "video"), tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["video"]


def test_a_folder_with_files_is_not_written_over(tmp_path):
    (tmp_path / "out").mkdir()
    write_lerobot(Recorded(), tmp_path / "out")  # an empty one will do
    with pytest.raises(InputError, match="empty folder"):
        write_lerobot(Recorded(), tmp_path / "out")
    labels_of(source := LeRobotSource(f"{FIXTURES}/v3.0"), tmp_path / "labels")
    with pytest.raises(InputError, match="empty folder"):
        export(source, tmp_path / "out", to="lerobot-v3", labels=tmp_path / "labels")


def test_equal_episodes_give_equal_files(tmp_path, version):
    for name in "ab":
        write_lerobot(Recorded(), tmp_path / name, version=version)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) > 8
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_names_of_cameras_become_names_of_folders():
    assert camera_key("../../etc") == "observation.images._etc" and camera_key("front") == "observation.images.front"


def test_statistics_of_parts_together_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    parts = [rng.normal(i, 1 + i, (n, 2)) for i, n in enumerate((3, 7, 11))]
    found, whole = merged([stats_of_numbers(p) for p in parts]), stats_of_numbers(np.concatenate(parts))
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(found[name], whole[name])
    pictures = stats_of_pictures(moving_square(5))
    assert pictures["mean"].shape == (3, 1, 1) and pictures["max"].max() == 230 / 255
    assert pictures["count"] == [5]


def test_the_verb_exports(tmp_path, capsys):
    film(ToyWorld(), TASKS[:2], tmp_path / "film")
    data("export", f"film:{tmp_path / 'film'}", out=tmp_path / "out")
    assert "2 episodes, 10 frames" in capsys.readouterr().out
    with pytest.raises(InputError, match="--out"):
        data("export", f"film:{tmp_path / 'film'}")
