"""What every Source keeps to, and what each refuses."""

import json

import numpy as np
import pytest
from PIL import Image

from cyclemimic.data.sources.film import FilmSource
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.writers.film import film
from cyclemimic.errors import InputError
from cyclemimic.types import ClipInfo, Source, Task
from tests.unit.data_small import SPACE, ToyWorld, moving_square, video_folder

TASKS = [Task(body=b, skill="right", seed=s) for b in ("small", "big") for s in (10, 2)]


def folder_source(root):
    video_folder(root, {"arm/10.mp4": 6, "arm/2.mp4": 4, "top.mp4": 3, "hand/left/a.mp4": 5})
    (root / "hand" / "pictures").mkdir()
    for t, picture in enumerate(moving_square(3)):
        Image.fromarray(picture).save(root / "hand" / "pictures" / f"{t}.jpg")
    return FolderSource(root)


def film_source(root):
    film(ToyWorld(), TASKS, root)
    return FilmSource(root)


SOURCES = {"folder": folder_source, "film": film_source}


@pytest.fixture(params=SOURCES)
def source(request, tmp_path):
    return SOURCES[request.param](tmp_path / "data")


def break_one(source):
    """Damage the second clip of a source; returns the clip."""
    clip = source.clips()[1]
    folder = source.path / "video" if isinstance(source, FilmSource) else source.path
    (folder / clip.name).write_bytes(b"")
    return clip


def test_it_meets_the_protocol(source):
    assert isinstance(source, Source) and isinstance(source.name, str)


def test_clips_are_unique_and_in_an_order_that_never_changes(source):
    clips = source.clips()
    assert all(isinstance(c, ClipInfo) for c in clips)
    assert len({c.name for c in clips}) == len(clips) > 1
    assert list(type(source)(source.path).clips()) == list(clips)


def test_episodes_keep_what_the_clips_promise(source):
    for clip, episode in ((c, source.read(c)) for c in source.clips()):
        assert episode.info == clip and len(episode.frames) == clip.num_frames >= 2
        assert clip.fps > 0 and clip.embodiment


def test_reading_needs_no_order(source):
    clip = source.clips()[-1]
    np.testing.assert_array_equal(type(source)(source.path).read(clip).frames, source.read(clip).frames)


def test_a_bad_clip_stops_no_other(source):
    bad = break_one(source)
    again = type(source)(source.path)
    assert [c.name for c in again.clips()] == [c.name for c in source.clips()]
    with pytest.raises(InputError, match=bad.name.rsplit("/", 1)[-1]):
        again.read(bad)
    again.read(again.clips()[0])


def test_the_fingerprint_is_of_the_content(source):
    before = source.fingerprint()
    assert type(source)(source.path).fingerprint() == before
    break_one(source)
    assert type(source)(source.path).fingerprint() != before


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
        ({"actions": np.full((4, 2), np.nan)}, "NaN"),
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
