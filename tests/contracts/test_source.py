"""What every Source keeps to, and what each refuses."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclemimic.data.sources.calvin import CalvinSource
from cyclemimic.data.sources.chosen import ChosenSource
from cyclemimic.data.sources.film import FilmSource
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.sources.hdf5 import Hdf5Source
from cyclemimic.data.sources.lerobot import LeRobotSource
from cyclemimic.data.sources.rlds import RldsSource
from cyclemimic.data.sources.webdataset import WebDatasetSource
from cyclemimic.data.writers.film import film
from cyclemimic.errors import InputError
from cyclemimic.types import ClipInfo, Source, Task
from cyclemimic_example.source import NpzSource
from tests.unit.data_small import SPACE, ToyWorld, calvin_split, moving_square, tar_shards, video_folder

FIXTURES = Path(__file__).parents[1] / "fixtures"
TASKS = [Task(body=b, skill="right", seed=s) for b in ("small", "big") for s in (10, 2)]


def folder_source(root):
    video_folder(root, {"arm/10.mp4": 6, "arm/2.mp4": 4, "top.mp4": 3, "hand/left/a.mp4": 5})
    (root / "hand" / "pictures").mkdir()
    for t, picture in enumerate(moving_square(3)):
        Image.fromarray(picture).save(root / "hand" / "pictures" / f"{t}.jpg")
    return FolderSource(root)


class ChosenFolder(ChosenSource):
    """A folder without its last clip, its cameras held still, at most five frames a second."""

    def __init__(self, path):
        super().__init__(FolderSource(path), f"folder:{path}", skip=("top.mp4",), stabilise="shift", cache_fps=5.0)
        self.path = path


def chosen_source(root):
    return ChosenFolder(folder_source(root).path)


def film_source(root):
    film(ToyWorld(), TASKS, root)
    return FilmSource(root)


def npz_source(root):
    root.mkdir()
    clips = []
    for i, body in enumerate(("red", "red", "blue")):
        frames = moving_square(4, start=i)
        np.savez(
            root / f"{i}.npz", frames=frames, actions=np.zeros((3, 2), np.float32), proprioception=np.zeros((4, 2))
        )
        facts = {"name": f"{i}.npz", "embodiment": body, "fps": 5.0, "num_frames": 4}
        clips.append({**facts, "instruction": "cover the ring"})
    (root / "clips.json").write_text(json.dumps(clips))
    return NpzSource(root)


def rlds_source(root):
    shutil.copytree(FIXTURES / "rlds", root)
    return RldsSource(root)


def hdf5_source(root):
    shutil.copytree(FIXTURES / "hdf5", root)
    return Hdf5Source(root)


def webdataset_source(root):
    tar_shards(root)
    return WebDatasetSource(root)


def calvin_source(root):
    calvin_split(root)
    return CalvinSource(root)


def shard_of(source, clip):
    split, rest = clip.name.split("/")[0].split("-", 1)
    return source.path / f"bridge_dataset-{split}.tfrecord-{rest}"


def lerobot_source(version, root):
    shutil.copytree(FIXTURES / "lerobot" / version, root)
    return LeRobotSource(root)


def video_of(source, clip):
    """In both fixtures the second episode has files of its own; of the others it matters only that they are others."""
    second = clip.name == source.clips()[1].name
    return sorted(source.path.glob(f"videos/**/*{int(second)}.mp4"))[0]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A source under test: `make(folder)` fills the folder and opens it, `file_of(source, clip)` is what to damage.

    One whose clips have their names `inside` a file cannot list them when that file is damaged; it lists the file.
    """

    make: Callable
    file_of: Callable
    inside: bool = False


# A new source joins with one line.
SOURCES = {
    "folder": Kind(make=folder_source, file_of=lambda source, clip: source.path / clip.name),
    "chosen": Kind(make=chosen_source, file_of=lambda source, clip: source.path / clip.name),
    "film": Kind(make=film_source, file_of=lambda source, clip: source.path / "video" / clip.name),
    "rlds": Kind(make=rlds_source, file_of=shard_of),
    "hdf5": Kind(
        make=hdf5_source, file_of=lambda source, clip: source.path / clip.name.rpartition("/")[0], inside=True
    ),
    "webdataset": Kind(
        make=webdataset_source, file_of=lambda source, clip: source.path / clip.name.split("/")[0], inside=True
    ),
    "calvin": Kind(
        make=calvin_source, file_of=lambda source, clip: source.path / f"episode_{clip.name.split('-')[2]}.npz"
    ),
    "lerobot-v2.1": Kind(make=partial(lerobot_source, "v2.1"), file_of=video_of),
    "lerobot-v3.0": Kind(make=partial(lerobot_source, "v3.0"), file_of=video_of),
    "example": Kind(make=npz_source, file_of=lambda source, clip: source.path / clip.name),
}


@pytest.fixture(params=SOURCES)
def kind(request):
    return SOURCES[request.param]


@pytest.fixture
def source(kind, tmp_path):
    return kind.make(tmp_path / "data")


def opened_again(source):
    return type(source)(source.path)


def test_it_meets_the_protocol(source):
    assert isinstance(source, Source) and isinstance(source.name, str) and source.name


def test_clips_are_unique_and_in_an_order_that_never_changes(source):
    clips = source.clips()
    assert all(isinstance(c, ClipInfo) for c in clips)
    assert len({c.name for c in clips}) == len(clips) > 1
    assert list(source.clips()) == list(opened_again(source).clips()) == list(clips)


def test_clips_are_facts_of_the_right_kind(source):
    for clip in source.clips():
        assert 0 < clip.fps < 1000 and clip.num_frames >= 2 and clip.embodiment
        assert clip.instruction is None or isinstance(clip.instruction, str)
        assert not clip.name.startswith("/")
        json.dumps(clip.name, ensure_ascii=False).encode()


def test_episodes_keep_what_the_clips_promise(source):
    for clip, episode in ((c, source.read(c)) for c in source.clips()):
        assert episode.info == clip and len(episode.frames) == clip.num_frames
        assert episode.frames.dtype == np.uint8 and episode.frames.shape[3] == 3
        if episode.actions is not None:
            assert episode.actions.dtype == np.float32 and episode.action_space is not None


def test_reading_twice_and_in_any_order_gives_the_same(source):
    clip = source.clips()[-1]
    first = source.read(clip)
    for again in (source.read(clip), opened_again(source).read(clip)):
        assert again.info == first.info
        for name in ("frames", "actions", "proprioception"):
            np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    first.frames[:] = 0  # what was given away is not kept
    assert source.read(clip).frames.any()


def test_an_unknown_clip_is_an_input_error(source):
    for name in ("no-such-clip.mp4", "", "../data", source.clips()[0].name + "x"):
        with pytest.raises(InputError) as error:
            source.read(ClipInfo(name=name, embodiment="arm", fps=5.0, num_frames=4))
        assert error.value.remedy


@pytest.mark.parametrize("damage", ["zero bytes", "cut", "noise", "gone"])
def test_a_bad_clip_is_named_and_stops_no_other(kind, source, damage):
    clips = source.clips()
    path = kind.file_of(source, clips[1])
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
        path.symlink_to("nowhere")  # listed, yet there is nothing behind the name
    else:
        noise = np.random.default_rng(0).bytes(len(content))
        path.write_bytes({"zero bytes": b"", "cut": content[: len(content) // 3], "noise": noise}[damage])
    again = opened_again(source)
    spared = [c for c in clips if kind.file_of(source, c) != path]
    listed = [c.name for c in again.clips()]
    if kind.inside:
        gone = next(c for c in again.clips() if c.name.startswith(path.name) and c.num_frames == 0)
        assert [n for n in listed if not n.startswith(path.name)] == [c.name for c in spared]
    else:
        gone = clips[1]
        assert listed == [c.name for c in clips]
    with pytest.raises(InputError, match=re.escape(path.name)) as error:
        again.read(gone)
    assert error.value.remedy and error.value.expected and error.value.got
    assert spared
    for clip in spared:
        again.read(clip)
    again.fingerprint()


def test_the_fingerprint_is_of_the_content(kind, source, tmp_path):
    before = source.fingerprint()
    assert opened_again(source).fingerprint() == before
    shutil.copytree(source.path, tmp_path / "elsewhere")
    assert type(source)(tmp_path / "elsewhere").fingerprint() == before
    kind.file_of(source, source.clips()[1]).write_bytes(b"")
    assert opened_again(source).fingerprint() != before


# What only a folder of videos has.


def test_names_bodies_and_natural_order(tmp_path):
    clips = folder_source(tmp_path).clips()
    assert [(c.name, c.embodiment, c.num_frames) for c in clips] == [
        ("arm/2.mp4", "arm", 4),
        ("arm/10.mp4", "arm", 6),
        ("hand/left/a.mp4", "hand", 5),
        ("hand/pictures", "hand", 3),
        ("top.mp4", "unknown", 3),
    ]


def test_the_sidecar_wins(tmp_path):
    folder_source(tmp_path)
    rows = [
        {
            "file": "./arm/2.mp4",
            "embodiment": "franka",
            "instruction": "push",
            "fps": 2.5,
            "licence": "CC0-1.0",
        },
        {"file": "gone.mp4"},
    ]
    (tmp_path / "clips.jsonl").write_text("\n".join(json.dumps(r) for r in rows) + "\n\n")
    source = FolderSource(tmp_path)
    clip = source.clips()[0]
    assert (clip.embodiment, clip.instruction, clip.fps, clip.licence) == ("franka", "push", 2.5, "CC0-1.0")
    assert source.read(clip).info == clip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1"),
        ("[1]", "JSON object"),
        ('{"embodiment": "arm"}', "'file'"),
        ('{"file": "top.mp4", "body": "arm"}', "body"),
        ('{"file": "top.mp4", "instructions": "x"}', "Did you mean 'instruction'"),
        ('{"file": "top.mp4", "fps": 0}', "fps"),
        ('{"file": "top.mp4", "fps": "10"}', "fps"),
        ('{"file": "arm/3.mp4"}', "none of them"),
    ],
)
def test_a_bad_sidecar_names_the_line(tmp_path, line, message):
    folder_source(tmp_path)
    (tmp_path / "clips.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        FolderSource(tmp_path).clips()


def test_a_folder_of_pictures_alone_is_one_clip(tmp_path):
    folder = tmp_path / "walk"
    folder.mkdir()
    for t, picture in enumerate(moving_square(4)):
        Image.fromarray(picture).save(folder / f"{t}.png")
    source = FolderSource(folder)
    assert [(c.name, c.embodiment) for c in source.clips()] == [("walk", "unknown")]
    np.testing.assert_array_equal(source.read(source.clips()[0]).frames, moving_square(4))


def test_thumbnails_beside_videos_and_hidden_files_are_no_clips(tmp_path):
    video_folder(tmp_path, {"arm/1.mp4": 3, ".trash/1.mp4": 3, "arm/.2.mp4": 3})
    for t, picture in enumerate(moving_square(2)):
        Image.fromarray(picture).save(tmp_path / "arm" / f"{t}.png")
    assert [c.name for c in FolderSource(tmp_path).clips()] == ["arm/1.mp4"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n{'file'".encode("utf-16"), r"clips\.jsonl, line 1.*UTF-8"),
        ('{"file": "top.mp4"}\n{"file": "arm/2.mp4", "instruction": "schön"}'.encode("latin1"), r"line 2.*UTF-8.*0xf6"),
    ],
)
def test_a_sidecar_that_is_no_utf8_is_named_with_its_line(tmp_path, content, message):
    folder_source(tmp_path)
    (tmp_path / "clips.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=message):
        FolderSource(tmp_path).clips()


def test_a_sidecar_with_a_mark_in_front_and_one_that_is_a_folder(tmp_path):
    folder_source(tmp_path)
    (tmp_path / "clips.jsonl").write_bytes('{"file": "top.mp4", "instruction": "schön"}'.encode("utf-8-sig"))
    assert FolderSource(tmp_path).clips()[-1].instruction == "schön"
    (tmp_path / "clips.jsonl").unlink()
    (tmp_path / "clips.jsonl").mkdir()
    with pytest.raises(InputError, match="readable file"):
        FolderSource(tmp_path).clips()


def test_a_file_name_that_is_no_text_is_listed_and_read(tmp_path):
    folder_source(tmp_path)
    try:
        (tmp_path / "top.mp4").rename(tmp_path / os.fsdecode(b"t\xf6p.mp4"))
    except OSError:
        pytest.skip("this file system holds Unicode names alone")
    source = FolderSource(tmp_path)
    clip = source.clips()[-1]
    assert clip.name == "t\\udcf6p.mp4" and source.fingerprint()
    assert len(source.read(clip).frames) == 3


def test_an_empty_folder_says_what_is_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"mp4, webm, avi, gif.*png, jpg"):
        FolderSource(tmp_path).clips()
    for path in ("nowhere", "notes.txt"):
        with pytest.raises(InputError, match="folder of videos"):
            FolderSource(tmp_path / path)


# What only a film has.


def test_a_film_has_actions_proprioception_and_their_space(tmp_path):
    source = film_source(tmp_path)
    clip = source.clips()[0]
    episode = source.read(clip)
    assert (clip.name, clip.instruction) == ("big/right-000002.mp4", "go right")
    assert episode.actions.shape == (4, 2) and episode.proprioception.shape == (5, 2)
    assert episode.action_space == SPACE and episode.actions.dtype == np.float32
    np.testing.assert_allclose(np.diff(episode.proprioception, axis=0), episode.actions)


def test_labels_of_the_video_are_labels_of_the_film(tmp_path):
    source, folder = film_source(tmp_path), FolderSource(tmp_path / "video")
    assert list(source.clips()) == list(folder.clips()) and source.fingerprint() == folder.fingerprint()


def action_file(source):
    return source.path / "actions" / source.clips()[0].name.replace(".mp4", ".npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"actions": np.zeros((4, 3))}, "width 2"),
        ({"actions": np.zeros((5, 2))}, "4 actions between 5 frames"),
        ({"actions": np.zeros(4)}, "npz"),
        (
            {"actions": np.where(np.eye(4, 2, -2) > 0, np.nan, 0)},
            r"npz, field actions.*NaN or infinity at index \[2, 0\]",
        ),
        ({"actions": np.zeros((4, 2)), "proprioception": np.full((5, 2), np.inf)}, r"proprioception.*\[0, 0\]"),
        ({"actions": np.zeros((4, 2)), "proprioception": np.zeros(5)}, "proprioception of 5"),
        ({"actions": np.full((4, 2), "x")}, "npz"),
        ({"actions": np.zeros((4, 2)), "proprioception": np.zeros((4, 2))}, "proprioception of 5"),
        ({"other": np.zeros(4)}, "npz"),
        ({"actions": np.array([{"a": 1}], object)}, "npz"),  # needs pickle: refused
    ],
)
def test_wrong_actions_are_refused(tmp_path, arrays, message):
    source = film_source(tmp_path)
    np.savez(action_file(source), **arrays)
    with pytest.raises(InputError, match=message):
        source.read(source.clips()[0])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_no_damage_to_actions_stops_a_run(tmp_path, save):
    source = film_source(tmp_path)
    path, rng = action_file(source), np.random.default_rng(3)
    save(path, actions=rng.normal(size=(4, 2)))
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(60):
        content = whole.copy()
        content[rng.integers(0, len(content), 9)] = rng.integers(0, 256, 9)
        path.write_bytes(content.tobytes())
        with contextlib.suppress(InputError):
            source.actions_of(source.clips()[0])


@pytest.mark.parametrize("damage", ["cut", "absent", "zero"])
def test_damaged_actions_are_named(tmp_path, damage):
    source = film_source(tmp_path)
    path = action_file(source)
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 100 if damage == "cut" else 0])
    with pytest.raises(InputError, match=r"right-000002\.npz"):
        source.read(source.clips()[0])


def test_a_film_without_actions_is_refused_with_a_remedy(tmp_path):
    film(ToyWorld(), TASKS, tmp_path, keep_actions=False)
    with pytest.raises(InputError, match="folder of videos"):
        FilmSource(tmp_path)
    with pytest.raises(InputError, match=r"world\.json"):
        FilmSource(tmp_path / "video")
