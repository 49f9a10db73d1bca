import numpy as np
import pyarrow.parquet as pq
import pytest

from cyclemimic.cli import main
from cyclemimic.data.filed import episode_row, index_source, video_of
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.unkept import open_videos
from cyclemimic.errors import InputError
from cyclemimic.store import episode_rows
from cyclemimic.store.index import EpisodeIndex, EpisodeRow, build_index
from tests.unit.data_small import video_folder
from tests.unit.test_data_segments import Nameless, busy
from tests.unit.test_data_video import encode


@pytest.fixture
def source(tmp_path):
    root = video_folder(tmp_path / "video", {"arm/1.mp4": 29, "arm/2.mp4": 13, "hand/3.mp4": 7})
    encode(root / "hand/uneven.mp4", busy(31), "libx264", "yuv420p", rate=10, times=[*range(20), *range(25, 36)])
    (root / "hand/bad.mp4").write_bytes(b"no video")
    (root / "clips.jsonl").write_text('{"file": "arm/2.mp4", "instruction": "go", "licence": "MIT", "fps": 9}\n')
    return FolderSource(root)


def test_the_index_says_of_every_file_what_the_file_says(source, tmp_path):
    index = index_source(source, tmp_path / "index.parquet", threads=2)
    rows = list(index.rows())
    assert [row.uri for row in rows] == list(source.names()) and len(index) == 5
    assert [index.row(i) for i in range(5)] == rows
    by_name = {row.uri: row for row in rows}
    second = by_name["arm/2.mp4"]
    assert (second.frames, second.fps, second.instruction, second.licence) == (13, 9, "go", "MIT")
    assert (second.height_px, second.width_px, second.stream) == (22, 26, 0)
    keys = by_name["arm/1.mp4"].key_frames
    assert keys[:2] == [0, 12] and by_name["arm/1.mp4"].key_times_s == pytest.approx([key / 5 for key in keys])
    assert "readable video" in by_name["hand/bad.mp4"].fault and by_name["hand/bad.mp4"].frames == 0
    assert index.frames.tolist() == [row.frames for row in rows] and index.fps.tolist() == [row.fps for row in rows]
    assert [index.bodies[b] for b in index.body] == [row.embodiment for row in rows]
    for name in ("arm/1.mp4", "hand/uneven.mp4"):
        found, told = video_of(source, by_name[name]), video_of(source, episode_row(source, name))
        for column in ("pts", "keys", "shown"):
            np.testing.assert_array_equal(getattr(found, column), getattr(told, column))
    assert len(by_name["hand/uneven.mp4"].pts) == 31 and by_name["arm/1.mp4"].pts == []


def test_with_the_index_no_file_is_looked_at(source, tmp_path, monkeypatch):
    index = index_source(source, tmp_path / "index.parquet")
    without = open_videos(source, 11)

    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr("cyclemimic.data.filed.index_video", never)
    with_it = open_videos(source, 11, index=index)
    assert tuple(with_it.clips) == without.clips and with_it.skipped == without.skipped
    assert tuple(with_it.sha256) == tuple(without.sha256)
    np.testing.assert_array_equal(with_it.frames[np.arange(40)], without.frames[np.arange(40)])


def counted(names, stop_at=None):
    seen = []

    def describe(name):
        if name == stop_at:
            raise RuntimeError("killed")
        seen.append(name)
        return EpisodeRow(uri=name, embodiment=f"body{len(name)}", fps=5.0, frames=int(name), key_frames=[0, int(name)])

    return describe, seen


def test_a_killed_build_goes_on_and_a_whole_one_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(episode_rows, "PART_ROWS", 5)
    monkeypatch.setattr(episode_rows, "GROUP_ROWS", 7)
    path, names = tmp_path / "index.parquet", [str(i) for i in range(1, 24)]
    describe, first = counted(names, stop_at="13")
    with pytest.raises(RuntimeError, match="killed"):
        build_index(path, names, describe, len)
    assert not path.exists()
    describe, second = counted(names)
    done = []
    index = build_index(path, names, describe, len, threads=3, progress=lambda n, of: done.append((n, of)))
    assert sorted(set(second), key=int) == [str(i) for i in range(11, 24)] and {"1", "10"} <= set(first)
    assert done[-1] == (23, 23) and not path.with_name("index.parquet.parts").exists()
    assert [row.uri for row in index.rows()] == names and index.row(17).key_frames == [0, 18]
    assert pq.ParquetFile(path).num_row_groups == 4 and index.bodies == ("body1", "body2")
    describe, third = counted(names)
    build_index(path, names, describe, len)
    assert third == []
    build_index(path, names, describe, lambda name: 7 if name == "8" else len(name))
    assert third != []  # a file of another size is another file
    assert build_index(path, names[:3], describe, len).frames.tolist() == [1, 2, 3]


def test_a_missing_damaged_or_foreign_index_is_an_input_error(source, tmp_path):
    with pytest.raises(InputError, match="whole index"):
        EpisodeIndex.open(tmp_path / "none.parquet")
    path = tmp_path / "index.parquet"
    index_source(source, path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="data index"):
        EpisodeIndex.open(path)
    assert len(index_source(source, path)) == 5  # made again
    pq.write_table(pq.read_table(path).select(["uri"]), path)
    with pytest.raises(InputError, match="whole index"):
        EpisodeIndex.open(path)
    with pytest.raises(InputError, match="names its clips' files"):
        index_source(Nameless(), path)


def test_the_command_says_what_it_found(source, tmp_path, capsys):
    words = ["data", "index", str(source.path), "--threads", "2", "--cache", str(tmp_path / "cache")]
    main(words)
    said = capsys.readouterr().out
    assert "5 episodes, 85 frames, 1 of no use" in said
