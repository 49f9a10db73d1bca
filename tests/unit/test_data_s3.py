"""Sources in a real S3 protocol, by moto's server on this machine. Run by tests/reference/s3.sh where moto is missing.

The main environment has neither moto nor s3fs: both want many packages that nothing else here needs.
"""

import os
from pathlib import Path

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

moto = pytest.importorskip("moto.server", reason="moto is not installed: run tests/reference/s3.sh")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: run tests/reference/s3.sh")
FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def endpoint():
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint, tmp_path, monkeypatch):
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        MIRROR: str(tmp_path / "mirror"),
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    if not files.exists("videos"):
        files.mkdir("videos")
    yield files
    s3fs.S3FileSystem.clear_instance_cache()


def test_every_kind_of_source_reads_from_s3_as_from_disk(bucket, tmp_path):
    video_folder(tmp_path / "folder", {"arm/a.mp4": 5, "hand/b.mp4": 4})
    tar_shards(tmp_path / "tar")
    for kind, folder in (
        (FolderSource, tmp_path / "folder"),
        (WebDatasetSource, tmp_path / "tar"),
        (RldsSource, FIXTURES / "rlds"),
        (LeRobotSource, FIXTURES / "lerobot" / "v3.0"),
        (Hdf5Source, FIXTURES / "hdf5"),
    ):
        bucket.put(str(folder), f"videos/{kind.__name__}", recursive=True)
        source, local = kind(f"s3://videos/{kind.__name__}"), kind(folder)
        assert list(source.clips()) == list(local.clips()) and source.fingerprint() == local.fingerprint()
        clip = local.clips()[0]
        np.testing.assert_array_equal(source.read(clip).frames, local.read(clip).frames)
        assert source.origin == f"s3://videos/{kind.__name__}"


def test_a_marker_of_a_folder_and_a_neighbour_of_a_like_name_are_no_files_of_it(bucket, tmp_path):
    root = FIXTURES / "lerobot" / "v3.0"
    bucket.put(str(root), "videos/set", recursive=True)
    bucket.call_s3("put_object", Bucket="videos", Key="set/", Body=b"")
    bucket.call_s3("put_object", Bucket="videos", Key="set/data/", Body=b"")
    bucket.call_s3("put_object", Bucket="videos", Key="set-old/meta/info.json", Body=b"{}")
    assert LeRobotSource("s3://videos/set").fingerprint() == LeRobotSource(root).fingerprint()
    copied = {p.relative_to(tmp_path / "mirror").as_posix().partition("/")[2] for p in tmp_path.glob("mirror/*/**/*")}
    assert {p.relative_to(root).as_posix() for p in root.rglob("*")} == copied - {"", ".lock"}


@pytest.mark.parametrize("kind", [FolderSource, WebDatasetSource, RldsSource, LeRobotSource, Hdf5Source])
def test_what_is_not_there(bucket, kind):
    for url in ("s3://no-such-bucket/x", "s3://videos/no-such-folder"):
        with pytest.raises(InputError) as error:
            kind(url)
        assert url in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [FolderSource, RldsSource])
def test_no_credentials(bucket, kind, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(InputError, match=r"s3://videos/x.*expected something that you may read.*aws configure"):
        kind("s3://videos/x")


@pytest.mark.parametrize("kind", [FolderSource, WebDatasetSource])
def test_nobody_answers(bucket, kind, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(InputError, match=r"s3://videos/x.*expected an answer of the store.*AWS_ENDPOINT_URL"):
        kind("s3://videos/x")
