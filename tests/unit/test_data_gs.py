"""Sources in Google's storage protocol, by an emulator on this machine; run by tests/reference/gs.sh where none is.

The main environment has neither gcp-storage-emulator nor gcsfs: both want packages that nothing else here needs.
"""

import logging
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.sources.hdf5 import Hdf5Source
from cyclemimic.data.sources.lerobot import LeRobotSource
from cyclemimic.data.sources.remote import MIRROR
from cyclemimic.data.sources.rlds import RldsSource
from cyclemimic.data.sources.webdataset import WebDatasetSource
from cyclemimic.errors import InputError
from tests.unit.data_small import tar_shards, video_folder

emulator = pytest.importorskip(
    "gcp_storage_emulator.server", reason="gcp-storage-emulator is not installed: run tests/reference/gs.sh"
)
# Read at import. What gcsfs tries first otherwise, gRPC over TLS, no emulator speaks: half a minute for each bucket.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
gcsfs = pytest.importorskip("gcsfs", reason="gcsfs is not installed: run tests/reference/gs.sh")
FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def endpoint():
    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    server = emulator.create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    yield f"http://127.0.0.1:{server._api._httpd.server_address[1]}"
    server.stop()


def at(monkeypatch, endpoint):
    """gs:// leads there; as whoever has no credentials."""
    for name in [n for n in os.environ if n.startswith(("GOOGLE_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # no machine of Google's is asked for credentials
    gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.fixture
def bucket(endpoint, tmp_path, monkeypatch):
    at(monkeypatch, endpoint)
    monkeypatch.setenv(MIRROR, str(tmp_path / "mirror"))
    files = gcsfs.GCSFileSystem(token="anon")
    if not files.exists("videos"):
        files.mkdir("videos")
    yield files
    gcsfs.GCSFileSystem.clear_instance_cache()


def put(files, folder, below):
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files.pipe_file(f"{below}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def test_every_kind_of_source_reads_from_gs_as_from_disk(bucket, tmp_path):
    video_folder(tmp_path / "folder", {"arm/a.mp4": 5, "hand/b.mp4": 4})
    tar_shards(tmp_path / "tar")
    for kind, folder in (
        (FolderSource, tmp_path / "folder"),
        (WebDatasetSource, tmp_path / "tar"),
        (RldsSource, FIXTURES / "rlds"),
        (LeRobotSource, FIXTURES / "lerobot" / "v3.0"),
        (Hdf5Source, FIXTURES / "hdf5"),
    ):
        put(bucket, folder, f"videos/{kind.__name__}")
        bucket.invalidate_cache()
        source, local = kind(f"gs://videos/{kind.__name__}"), kind(folder)
        assert list(source.clips()) == list(local.clips()) and source.fingerprint() == local.fingerprint()
        clip = local.clips()[0]
        np.testing.assert_array_equal(source.read(clip).frames, local.read(clip).frames)
        assert source.origin == f"gs://videos/{kind.__name__}"


def test_a_file_that_changed_is_copied_again_and_no_other(bucket, tmp_path):
    folder = video_folder(tmp_path / "folder", {"arm/a.mp4": 5, "arm/b.mp4": 4})
    put(bucket, folder, "videos/changing")
    first = FolderSource("gs://videos/changing")
    content = first.fingerprint()
    before = {p.name: p.stat().st_mtime_ns for p in first.path.rglob("*.mp4")}
    video_folder(folder, {"arm/b.mp4": 7})
    bucket.pipe_file("videos/changing/arm/b.mp4", (folder / "arm/b.mp4").read_bytes())
    gcsfs.GCSFileSystem.clear_instance_cache()
    second = FolderSource("gs://videos/changing")
    after = {p.name: p.stat().st_mtime_ns for p in second.path.rglob("*.mp4")}
    assert [name for name in before if after[name] != before[name]] == ["b.mp4"]
    assert second.fingerprint() == FolderSource(folder).fingerprint() != content


def test_a_marker_of_a_folder_and_a_neighbour_of_a_like_name_are_no_files_of_it(bucket, tmp_path):
    root = FIXTURES / "lerobot" / "v3.0"
    put(bucket, root, "videos/set")
    bucket.pipe_file("videos/set/data/", b"")
    bucket.pipe_file("videos/set-old/meta/info.json", b"{}")
    assert LeRobotSource("gs://videos/set").fingerprint() == LeRobotSource(root).fingerprint()


@pytest.mark.parametrize("kind", [FolderSource, WebDatasetSource, RldsSource, LeRobotSource, Hdf5Source])
def test_what_is_not_there(bucket, kind):
    for url in ("gs://no-such-bucket/x", "gs://videos/no-such-folder"):
        with pytest.raises(InputError) as error:
            kind(url)
        assert url in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [FolderSource, WebDatasetSource])
def test_nobody_answers(kind, tmp_path, monkeypatch):
    monkeypatch.setenv(MIRROR, str(tmp_path / "mirror"))
    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=_at_once))
    at(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"gs://videos/x.*expected an answer of the store.*STORAGE_EMULATOR_HOST"):
        kind("gs://videos/x")
    gcsfs.GCSFileSystem.clear_instance_cache()


async def _at_once(*_):
    """Nobody waits between two tries."""
