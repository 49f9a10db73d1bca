"""Sources by URL: in memory, from a stand-in for the hub; what is copied, what is not, and what each error says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.sources.hdf5 import Hdf5Source
from cyclemimic.data.sources.lerobot import LeRobotSource
from cyclemimic.data.sources.places import Place
from cyclemimic.data.sources.remote import MIRROR, heard, local_copy, public, store_error
from cyclemimic.data.sources.rlds import RldsSource
from cyclemimic.errors import InputError
from cyclemimic.recipes.footage import open_source
from cyclemimic.recipes.parts import name_of
from tests.unit.data_small import video_folder
from tests.unit.hub_small import COMMIT, hub_of

fsspec = pytest.importorskip("fsspec")
FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A bucket in memory; copies of it lie in a folder of the test."""
    monkeypatch.setenv(MIRROR, str(tmp_path / "mirror"))
    files = fsspec.filesystem("memory")
    yield files
    for name in files.ls("/", detail=False):
        files.rm(name, recursive=True)


def upload(files, folder, below):
    for path in folder.rglob("*"):
        if path.is_file():
            files.pipe_file(f"/{below}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def same(source, local):
    assert list(source.clips()) == list(local.clips()) and source.fingerprint() == local.fingerprint()
    clip = local.clips()[-1]
    np.testing.assert_array_equal(source.read(clip).frames, local.read(clip).frames)


@pytest.mark.parametrize(
    ("kind", "fixture"), [(Hdf5Source, "hdf5"), (LeRobotSource, "lerobot/v3.0"), (RldsSource, "rlds")]
)
def test_datasets_in_a_store_read_as_local_ones(store, kind, fixture):
    upload(store, FIXTURES / fixture, "bucket/set")
    source = kind("memory://bucket/set")
    same(source, kind(FIXTURES / fixture))
    assert source.origin == "memory://bucket/set" and name_of(source) == source.origin


def test_options_and_single_files_work_by_url_too(store):
    upload(store, FIXTURES / "lerobot/v3.0", "bucket/set")
    upload(store, FIXTURES / "hdf5", "bucket/h5")
    camera = LeRobotSource(FIXTURES / "lerobot/v3.0")._cameras
    other = list(camera)[-1]
    same(
        LeRobotSource(f"memory://bucket/set?camera={other}"),
        LeRobotSource(f"{FIXTURES / 'lerobot/v3.0'}?camera={other}"),
    )
    file = next((FIXTURES / "hdf5").glob("*.hdf5"))
    same(Hdf5Source(f"memory://bucket/h5/{file.name}"), Hdf5Source(file))


def test_a_folder_of_videos_is_copied_once_and_what_changed_again(store, tmp_path):
    video_folder(tmp_path / "v", {"arm/a.mp4": 5, "arm/b.mp4": 4})
    (tmp_path / "v" / "clips.jsonl").write_text('{"file": "arm/a.mp4", "licence": "CC0-1.0"}\n')
    (tmp_path / "v" / "huge.bin").write_bytes(b"x" * 1000)
    upload(store, tmp_path / "v", "bucket/v")
    heard_bytes = []
    with heard(lambda done, total: heard_bytes.append((done, total))):
        source = FolderSource("memory://bucket/v")
    same(source, FolderSource(tmp_path / "v"))
    assert source.clips()[0].licence == "CC0-1.0"
    assert heard_bytes[-1][0] == heard_bytes[-1][1] > 0 and len(heard_bytes) == 3
    copies = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "mirror").rglob("*") if p.is_file()}
    assert "huge.bin" not in copies
    got = []
    original = store.get_file
    store.get_file = lambda *words, **more: (got.append(words[0]), original(*words, **more))
    try:
        FolderSource("memory://bucket/v")
        assert got == []
        video_folder(tmp_path / "w", {"b.mp4": 6})
        store.pipe_file("/bucket/v/arm/b.mp4", (tmp_path / "w" / "b.mp4").read_bytes())
        store.rm("/bucket/v/arm/a.mp4")
        store.rm("/bucket/v/clips.jsonl")
        again = FolderSource("memory://bucket/v")
        assert len(got) == 1 and got[0].endswith("arm/b.mp4")
    finally:
        del store.get_file
    assert [(c.name, c.num_frames) for c in again.clips()] == [("arm/b.mp4", 6)]


def test_a_copy_that_was_cut_off_goes_on_and_leaves_no_half_file(store, tmp_path):
    video_folder(tmp_path / "v", {"a.mp4": 5, "b.mp4": 4, "c.mp4": 3})
    upload(store, tmp_path / "v", "bucket/v")
    original, got = store.get_file, []

    def broken(remote, local, **more):
        got.append(remote)
        if len(got) == 2:
            Path(local).write_bytes(b"half")
            raise TimeoutError("read timed out")
        original(remote, local, **more)

    store.get_file = broken
    try:
        with pytest.raises(InputError, match=r"bucket/v/b\.mp4: expected an answer of the store.*the same command"):
            FolderSource("memory://bucket/v")
        assert [p.name for p in (tmp_path / "mirror").rglob("*.mp4")] == ["a.mp4"]
        assert not list((tmp_path / "mirror").rglob("*.tmp"))
        same(FolderSource("memory://bucket/v"), FolderSource(tmp_path / "v"))
        assert len(got) == 4
    finally:
        del store.get_file


def test_what_is_not_there_or_leads_elsewhere_is_one_clear_error(store):
    for kind in ("folder", "lerobot", "hdf5", "calvin", "film", "rlds", "webdataset"):
        with pytest.raises(InputError, match="memory://nothing/here") as error:
            open_source(f"{kind}:memory://nothing/here")
        assert "\n" not in str(error.value) and error.value.remedy
    with pytest.raises(InputError, match="a store that can be opened"):
        FolderSource("nosuchstore://bucket/v")
    store.pipe_file("/bucket/bad/..\\evil.mp4", b"x")
    with pytest.raises(InputError, match="names below it"):
        local_copy("memory://bucket/bad")


@pytest.mark.parametrize(
    ("error", "expected", "remedy"),
    [
        (FileNotFoundError("bucket/x"), "something that is there", "bucket's name"),
        (PermissionError("Forbidden"), "something that you may read", "credentials"),
        (type("NoCredentialsError", (Exception,), {})("Unable to locate credentials"), "may read", "aws configure"),
        (OSError("An error occurred (403) when calling HeadObject"), "may read", "credentials"),
        (OSError("An error occurred (404) when calling GetObject"), "is there", "bucket's name"),
        (TimeoutError(), "an answer of the store", "endpoint"),
        (type("EndpointConnectionError", (Exception,), {})("Could not connect"), "an answer", "network"),
        (ValueError("odd\nlines"), "a readable file", "Check the path"),
    ],
)
def test_errors_of_stores_say_what_is_wrong(error, expected, remedy):
    found = store_error("s3://bucket/x", error)
    assert expected in found.expected and remedy in found.remedy and "\n" not in str(found)
    assert str(found).startswith("s3://bucket/x")


def test_a_place_says_the_same(store, monkeypatch):
    store.pipe_file("/bucket/p/a.tar", b"abc")
    place = Place("memory://bucket/p")
    monkeypatch.setattr(type(store), "cat_file", lambda self, *words, **more: (_ for _ in ()).throw(PermissionError()))
    with pytest.raises(InputError, match=r"p/a\.tar: expected something that you may read"):
        place.whole("a.tar")


def test_no_key_is_ever_written_down():
    assert public("s3://key:secret@bucket/a/?x=1") == "s3://bucket/a"
    assert public("hf://datasets/o/n@abc/p") == "hf://datasets/o/n@abc/p"


HUB = """
import json
from cyclemimic.data.sources.lerobot import LeRobotSource
from cyclemimic.recipes.footage import open_source
out = []
for text in ("lerobot:someone/data", "lerobot:hf://datasets/someone/data", "lerobot:someone/data?revision=main"):
    source = open_source(text)
    out.append([source.origin, len(source.clips()), source.clips()[0].licence])
for text in ("lerobot:someone/gone", "lerobot:hf://datasets/someone/gone"):
    try:
        open_source(text)
    except Exception as error:
        out.append([type(error).__name__, str(error), None])
print(json.dumps(out))
"""


def test_the_hub_by_its_own_package_pins_the_commit(tmp_path):
    env = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", MIRROR: str(tmp_path / "mirror")}
    env |= {"HF_HUB_DISABLE_TELEMETRY": "1"}
    with hub_of(FIXTURES / "lerobot" / "v3.0", "someone/data") as endpoint:
        env |= {"HF_ENDPOINT": endpoint}
        command = [sys.executable, "-c", HUB]
        told = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=200)
    assert told.returncode == 0, told.stderr
    *found, gone, gone_url = json.loads(told.stdout)
    local = LeRobotSource(FIXTURES / "lerobot" / "v3.0")
    facts = [f"hf://datasets/someone/data@{COMMIT}", len(local.clips()), local.clips()[0].licence]
    assert found == [facts] * 3
    assert gone[0] == gone_url[0] == "InputError" and "someone/gone" in gone[1] and "someone/gone" in gone_url[1]
