import io
import json
import tarfile

import numpy as np
import pytest

from cyclemimic.data.sources.webdataset import WebDatasetSource
from cyclemimic.errors import InputError
from tests.unit.data_small import moving_square, picture_bytes, tar_of, tar_shards

PICTURES = {f"k.{t}.png": picture_bytes(p) for t, p in enumerate(moving_square(3))}


def only(source, name):
    return next(c for c in source.clips() if c.name.endswith(name))


def test_samples_their_facts_and_their_order(tmp_path):
    clips = WebDatasetSource(tar_shards(tmp_path)).clips()
    assert [(c.name, c.embodiment, c.fps, c.num_frames, c.instruction, c.licence) for c in clips] == [
        ("s-000.tar/arm/a", "franka", 5, 5, "push", "CC0-1.0"),
        ("s-000.tar/arm/b", "arm", 5, 4, None, None),
        ("s-001.tar/p", "unknown", 4, 3, "schön", None),
    ]


def test_frames_of_videos_and_pictures(tmp_path):
    source = WebDatasetSource(tar_shards(tmp_path))
    np.testing.assert_array_equal(source.read(source.clips()[2]).frames, moving_square(3))
    video = source.read(source.clips()[1]).frames
    assert np.abs(video.astype(int) - moving_square(4, start=1)).mean() < 3


def test_one_shard_alone_and_a_rate(tmp_path):
    tar_of(tmp_path / "x.tar", PICTURES)
    tar_of(tmp_path / "y.tar", PICTURES)
    source = WebDatasetSource(f"{tmp_path / 'x.tar'}?rate_hz=3")
    assert [(c.name, c.fps) for c in source.clips()] == [("x.tar/k", 3)]


def test_a_rate_in_json_is_the_videos_rate(tmp_path):
    tar_shards(tmp_path / "from")
    with tarfile.open(tmp_path / "from" / "s-000.tar") as tar:
        video = tar.extractfile("arm/b.mp4").read()
    tar_of(tmp_path / "x.tar", {"b.mp4": video, "b.json": b'{"fps": 2.5}'})
    source = WebDatasetSource(tmp_path / "x.tar")
    clip = source.clips()[0]
    assert clip.fps == 2.5 and source.read(clip).info == clip


def test_pictures_are_in_natural_order(tmp_path):
    frames = moving_square(11)
    tar_of(tmp_path / "x.tar", {f"k.{t}.png": picture_bytes(frames[t]) for t in reversed(range(11))})
    source = WebDatasetSource(tmp_path)
    np.testing.assert_array_equal(source.read(source.clips()[0]).frames, frames)


@pytest.mark.parametrize("name", ["../k.0.png", "/etc/k.png", "a/../../k.png", "a\\k.png", "C:/k.png", "a//k.png"])
def test_names_that_lead_elsewhere_are_refused_and_stop_no_other(tmp_path, name):
    tar_of(tmp_path / "x.tar", {name: b"x"} | PICTURES)
    source = WebDatasetSource(tmp_path)
    sound, refused = source.clips()
    assert len(source.read(sound).frames) == 3 and refused.name == "x.tar/refused-0"
    with pytest.raises(InputError, match=r"x\.tar, member .*may lead elsewhere"):
        source.read(refused)


def test_links_and_folders_in_a_shard_are_passed_over(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        link = tarfile.TarInfo("k.9.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        folder = tarfile.TarInfo("k")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in PICTURES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert [(c.name, c.num_frames) for c in WebDatasetSource(tmp_path).clips()] == [("x.tar/k", 3)]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"k.json": b"{"}, "sample 'k', member json: expected a JSON object"),
        ({"k.json": b"[1]"}, "member json: expected a JSON object, got list"),
        ({"k.json": b"\xff"}, "member json: expected text in UTF-8"),
        ({"k.json": b'{"fps": 0}'}, "field fps"),
        ({"k.json": b'{"fps": true}'}, "field fps"),
        ({"k.json": b'{"instruction": 3}'}, "field instruction: expected text"),
        ({"k.txt": "schön".encode("latin1")}, "member txt: expected text in UTF-8"),
        ({"k.txt": b"x" * (1 << 20) + b"x"}, "at most 1048576 bytes"),
        ({"k.2.png": b"\x89PNG"}, "step 2: expected a png or jpg"),
        ({"k.2.png": b""}, "step 2: expected a png or jpg picture, got no bytes"),
        ({"k.2.png": picture_bytes(moving_square(1, 20)[0])}, "step 2: expected pictures of"),
        ({"k.mp4": b"no video"}, "member mp4: expected a readable video"),
    ],
)
def test_bad_members_are_named_and_stop_no_other(tmp_path, members, message):
    tar_of(tmp_path / "x.tar", PICTURES | members | {n.replace("k", "z"): c for n, c in PICTURES.items()})
    source = WebDatasetSource(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        source.read(only(source, "/k"))
    assert "x.tar, sample 'k'" in str(error.value)
    assert len(source.read(only(source, "/z")).frames) == 3


def test_a_single_picture_and_a_member_twice_are_no_clip(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("one.jpg", "two.0.png", "two.1.png", "two.1.png"):
            info = tarfile.TarInfo(name)
            tar.addfile(info)
    source = WebDatasetSource(tmp_path)
    for name, message in (("one", "at least 2 pictures"), ("two", "each member once")):
        with pytest.raises(InputError, match=message):
            source.read(only(source, name))


def test_a_cut_shard_keeps_what_is_whole(tmp_path):
    tar_shards(tmp_path)
    path = tmp_path / "s-000.tar"
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"arm/b.mp4") + 700])
    source = WebDatasetSource(tmp_path)
    assert [c.name for c in source.clips()] == ["s-000.tar/arm/a", "s-000.tar/arm/b", "s-000.tar", "s-001.tar/p"]
    source.read(source.clips()[0])
    for clip in source.clips()[1:3]:
        with pytest.raises(InputError, match=r"s-000\.tar"):
            source.read(clip)


def test_packed_shards_and_empty_folders_say_what_to_do(tmp_path):
    with pytest.raises(InputError, match="tar shards"):
        WebDatasetSource(tmp_path)
    (tmp_path / "x.tar.gz").write_bytes(b"")
    with pytest.raises(InputError, match="Unpack"):
        WebDatasetSource(tmp_path)
    tar_of(tmp_path / "empty.tar", {})
    source = WebDatasetSource(tmp_path)
    with pytest.raises(InputError, match="expected samples, got none"):
        source.read(source.clips()[0])


def test_no_damage_to_a_shard_stops_a_run(tmp_path):
    path = tar_of(tmp_path / "x.tar", PICTURES | {"k.json": json.dumps({"fps": 4}).encode()})
    whole, rng = np.frombuffer(path.read_bytes(), np.uint8), np.random.default_rng(7)
    headers = [at for at in range(0, len(whole), 512) if whole[at : at + 2].tobytes() == b"k."]
    for i in range(200):
        content = whole.copy()
        at = rng.integers(0, len(content), 4) if i % 2 else rng.choice(headers) + rng.integers(0, 512, 2)
        content[at] = rng.integers(0, 256, len(at))
        if i % 2 == 0:  # make the header's checksum right again, so that the damage counts
            head = content[at[0] // 512 * 512 :][:512]
            head[148:156] = 32
            head[148:156] = np.frombuffer(b"%06o\0 " % int(head.sum()), np.uint8)
        path.write_bytes(content.tobytes())
        source = WebDatasetSource(tmp_path)
        for clip in source.clips():
            try:
                source.read(clip)
            except InputError as error:
                assert "x.tar" in str(error)


def test_shards_in_an_object_store_read_the_same(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    for path in tar_shards(tmp_path).iterdir():
        files.pipe_file(f"/bucket/tar/{path.name}", path.read_bytes())
    source, local = WebDatasetSource("memory://bucket/tar"), WebDatasetSource(tmp_path)
    assert list(source.clips()) == list(local.clips()) and source.fingerprint() == local.fingerprint()
    for clip in local.clips():
        np.testing.assert_array_equal(source.read(clip).frames, local.read(clip).frames)
    assert [c.name for c in WebDatasetSource("memory://bucket/tar/s-001.tar").clips()] == ["s-001.tar/p"]
    files.rm("/bucket/tar", recursive=True)
