"""A start on many episodes looks at no file before it is opened; what changed is noticed then."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from cyclemimic.cli import main
from cyclemimic.data import cut_table as cut_tables
from cyclemimic.data import filed
from cyclemimic.data.cache import source_hash
from cyclemimic.data.cut_table import cut_table
from cyclemimic.data.cuts import cuts_of
from cyclemimic.data.filed import index_source, large_index
from cyclemimic.data.loader import PairLoader
from cyclemimic.data.segments import SegmentLoader
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.unkept import open_videos
from cyclemimic.data.video import IMAGE_FOLDER_FPS_HZ, write_video
from cyclemimic.data.writers.film import VIDEO, film
from cyclemimic.errors import InputError
from cyclemimic.recipes.footage import frames_of, indexed, open_source, shots
from cyclemimic.recipes.lineages import lineage_of
from cyclemimic.store.atomic import sha256_json
from cyclemimic.store.clips import CutTable, chosen
from cyclemimic.types import Task
from cyclemimic.worlds.arms import ArmsWorld
from tests.unit.data_small import moving_square

EPISODES, SIZE = 2000, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two thousand episodes: one file of a shot of 6 frames and one of two shots of 5, each under many names."""
    root = tmp_path_factory.mktemp("large") / "video"
    write_video(root / "first.mp4", moving_square(6), 5.0)
    write_video(root / "second.mp4", np.concatenate([moving_square(5), 255 - moving_square(5)[:, ::-1]]), 5.0)
    for i in range(EPISODES):
        name = root / ("arm", "hand")[i % 2] / f"{i // 100:02d}" / f"{i % 100:02d}.mp4"
        name.parent.mkdir(parents=True, exist_ok=True)
        os.link(root / ("first.mp4", "second.mp4")[i % 3 == 0], name)
    for name in ("first.mp4", "second.mp4"):
        (root / name).unlink()
    (root / "clips.jsonl").write_text('{"file": "arm/00/00.mp4", "licence": "MIT"}\n')
    return root


@pytest.fixture(scope="module")
def root(folder, tmp_path_factory):
    """Caches with the index and the cuts of the folder."""
    place = tmp_path_factory.mktemp("caches")
    source = FolderSource(folder)
    videos = open_videos(source, SIZE, index=indexed(source, place))
    # One of each kind is decoded; another test decodes others and compares.
    one, two = cuts_of(videos.subset(np.flatnonzero(videos.clips.facts.num_frames == 6)[:1]))[0], np.array([5])
    known = {i: one if frames == 6 else two for i, frames in enumerate(videos.clips.facts.num_frames.tolist())}
    path = videos.frames.indices.episodes.path
    cut_table(videos, path.with_name(f"{path.stem}-{SIZE}px-cuts.parquet"), known=known)
    return place


@pytest.fixture
def looks(monkeypatch, folder):
    """Paths below the folder that were looked at, in whatever way."""
    seen, real_stat, real_scan, real_open = [], os.stat, os.scandir, open
    monkeypatch.setattr(filed, "LARGE", EPISODES)

    def note(path):
        if isinstance(path, str | os.PathLike) and str(path).startswith(str(folder)):
            seen.append(Path(path).relative_to(folder).as_posix())

    def stat(path, *args, **settings):
        note(path)
        return real_stat(path, *args, **settings)

    def scan(path="."):
        note(path)
        return real_scan(path)

    def opened(path, *args, **settings):
        note(path)
        return real_open(path, *args, **settings)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "scandir", scan)
    monkeypatch.setattr("builtins.open", opened)
    monkeypatch.setattr("io.open", opened)
    return seen


@pytest.mark.parametrize("read", ["direct", "segment"])
def test_from_the_name_of_a_source_to_its_first_batch_only_the_files_of_that_batch_are_looked_at(
    folder, root, looks, read
):
    source = open_source(f"folder:{folder}")
    videos, _ = frames_of(source, SIZE, root, read)
    cuts = shots(videos, root)
    keep = np.arange(0, EPISODES, 2)
    lineage = lineage_of(source, [videos], [keep], [1])
    if read == "direct":
        loader = PairLoader([videos], 0.4, batch_size=4, keep=[keep], cuts=[cuts])
    else:
        loader = SegmentLoader(videos, 0.4, batch_size=4, keep=keep, cuts=cuts, runs_open=4, lanes=2)
    before = [name for name in looks if name.endswith(".mp4") or "/" in name]
    assert before == [] and len(looks) < 20  # the root and the sidecar
    batch = loader.batch(0)
    files = {name for name in looks if name.endswith(".mp4")}
    assert files == {loader.clips[i].name for i in batch.clip} and 0 < len(files) <= 4
    assert lineage[0].bodies == ("arm", "hand") and lineage[0].clips == len(keep)
    assert lineage[0].licences == {"MIT": 1, "unknown": len(keep) - 1}


def test_a_small_source_is_looked_at_whole(folder, root, looks, monkeypatch):
    monkeypatch.setattr(filed, "LARGE", EPISODES + 1)
    indexed(FolderSource(folder), root)
    assert len({name for name in looks if name.endswith(".mp4")}) >= EPISODES


def test_fingerprint_and_cuts_from_the_index_are_those_of_looking_at_every_file(folder, root, looks):
    source = FolderSource(folder)
    large = large_index(source, next(root.glob("index-*[0-9a-f].parquet")))
    assert large is not None and len(large) == EPISODES
    videos = open_videos(source, SIZE, index=large)
    plain = FolderSource(folder).fingerprint()
    assert videos.source_hash == plain == source_hash(open_source(f"film:{_film(folder)}"))
    some = np.array([0, 1, 2, 3, 1500, 1999])
    found, told = shots(videos, root), cuts_of(videos.subset(some))
    assert isinstance(found, CutTable) and len(found) == EPISODES
    assert [cut.tolist() for cut in chosen(found, some)] == [cut.tolist() for cut in told]
    assert {tuple(cut.tolist()) for cut in told} == {(), (5,)}
    args = {"batch_size": 4, "keep": [some]}
    one = PairLoader([videos], 0.2, cuts=[found], **args)
    other = PairLoader([videos], 0.2, cuts=[[found[i] for i in range(EPISODES)]], **args)
    np.testing.assert_array_equal(one.batch(3).pair, other.batch(3).pair)
    assert one.num_pairs == other.num_pairs and one.num_skipped == len(one.skipped)


def _film(folder):
    """The same video as `film` would leave it."""
    place = folder.parent / "film"
    if not place.exists():
        film(ArmsWorld(), [Task(body="arm6", skill="reach", seed=0)], place)
        shutil.rmtree(place / VIDEO)
        (place / VIDEO).symlink_to(folder)
    return place


def test_the_fingerprint_of_a_folder_has_not_changed(tmp_path):
    write_video(tmp_path / "arm/1.mp4", moving_square(6), 5.0)
    (tmp_path / "arm/1.mp4").write_bytes(b"not a video, but the same bytes everywhere")
    content = [["1.mp4", 42, hashlib.sha256(2 * b"not a video, but the same bytes everywhere").hexdigest()]]
    clip = {
        "name": "arm/1.mp4", "embodiment": "arm", "fps": IMAGE_FOLDER_FPS_HZ, "num_frames": 0, "instruction": None,
        "licence": None,
    }  # fmt: skip
    assert FolderSource(tmp_path).fingerprint() == sha256_json([{**clip, "content": content}])


def test_a_file_that_changed_is_noticed_when_it_is_opened_and_indexed_alone(tmp_path, monkeypatch, capsys):
    for i in range(5):
        write_video(tmp_path / f"video/arm/{i}.mp4", moving_square(6, start=i), 5.0)
    monkeypatch.setattr(filed, "LARGE", 5)
    source, place = FolderSource(tmp_path / "video"), tmp_path / "caches"
    place.mkdir()
    before = open_videos(source, SIZE, index=indexed(source, place))
    shots(before, place)
    os.utime(tmp_path / "video/arm/1.mp4", ns=(1, 1))  # touched, as by a copy
    write_video(tmp_path / "video/arm/3.mp4", moving_square(7, start=9), 5.0)
    again = FolderSource(tmp_path / "video")
    videos = open_videos(again, SIZE, index=indexed(again, place))
    assert "5 episodes as they were" in capsys.readouterr().out and videos.source_hash == before.source_hash
    np.testing.assert_array_equal(videos.frames[np.arange(18)], before.frames[np.arange(18)])
    with pytest.raises(InputError, match=r"arm/3\.mp4.*file that was indexed.*data index"):
        _ = videos.frames[np.arange(18, 20)]
    (tmp_path / "video/arm/2.mp4").unlink()
    with pytest.raises(InputError, match=r"arm/2\.mp4.*no file"):
        _ = open_videos(again, SIZE, index=indexed(again, place)).frames[np.arange(12, 14)]
    described, real = [], filed.index_video
    monkeypatch.setattr(filed, "index_video", lambda path, **k: described.append(path.name) or real(path, **k))
    main(["data", "index", f"{tmp_path / 'video'}", "--cache", str(place)])
    assert sorted(described) == ["1.mp4", "3.mp4"]  # the others are taken over
    fresh = FolderSource(tmp_path / "video")
    now = open_videos(
        fresh, SIZE, index=large_index(fresh, before.frames.indices.episodes.path) or indexed(fresh, place)
    )
    assert len(now) == 4 and now.source_hash == fresh.fingerprint() != before.source_hash


def test_a_changed_sidecar_of_a_large_source_is_read(tmp_path, monkeypatch):
    for i in range(3):
        write_video(tmp_path / f"video/arm/{i}.mp4", moving_square(6, start=i), 5.0)
    monkeypatch.setattr(filed, "LARGE", 3)
    (tmp_path / "caches").mkdir()
    first = indexed(FolderSource(tmp_path / "video"), tmp_path / "caches")
    assert first.bodies == ("arm",)
    (tmp_path / "video/clips.jsonl").write_text('{"file": "arm/1.mp4", "embodiment": "hand"}\n')
    second = indexed(FolderSource(tmp_path / "video"), tmp_path / "caches")
    assert set(second.bodies) == {"arm", "hand"}
    assert second.notes["source_hash"] == FolderSource(tmp_path / "video").fingerprint() != first.notes["source_hash"]


def test_the_search_for_cuts_goes_on_where_it_was_killed_and_a_clip_that_cannot_be_decoded_stops_nothing(
    tmp_path, monkeypatch, capsys
):
    for i in range(6):
        write_video(tmp_path / f"video/arm/{i}.mp4", moving_square(40, start=i), 5.0)
    monkeypatch.setattr("cyclemimic.store.episode_rows.PART_ROWS", 2)
    source = FolderSource(tmp_path / "video")
    index = index_source(source, tmp_path / "index.parquet")
    videos = open_videos(source, SIZE, index=index)
    found, real = [], cut_tables.find_cuts

    def find(frames, stop=4):
        if len(found) == stop:
            raise KeyboardInterrupt
        found.append(len(frames))
        return real(frames)

    monkeypatch.setattr(cut_tables, "find_cuts", find)
    with pytest.raises(KeyboardInterrupt):
        cut_table(videos, tmp_path / "cuts.parquet")
    path = tmp_path / "video/arm/5.mp4"
    stamp, content = path.stat(), path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    os.utime(path, ns=(stamp.st_mtime_ns, stamp.st_mtime_ns))
    monkeypatch.setattr(cut_tables, "find_cuts", lambda frames: find(frames, stop=9))
    cuts, bad = cut_table(videos, tmp_path / "cuts.parquet")
    assert len(found) == 5 and bad == 1  # four before, one now; the sixth cannot be decoded
    assert [len(cut) for cut in cuts] == [0] * 5 + [39]
    loader = PairLoader([videos], 0.4, cuts=[cuts])
    assert [skipped.name for skipped in loader.skipped] == ["arm/5.mp4"]
    assert cut_table(videos, tmp_path / "cuts.parquet")[1] == 1 and len(found) == 5
