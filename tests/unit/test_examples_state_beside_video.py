"""The example of a source of one's own: tables beside videos, one for all clips above them, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from cyclemimic.errors import InputError
from cyclemimic.recipes.footage import open_source
from tests.unit.data_small import video_folder

EXAMPLES = Path(__file__).parents[2] / "examples" / "sources"
POSE = "axes=x:m,y:m,z:m,turn*2:rad,gripper:fraction"


@pytest.fixture
def opened(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return lambda path, options="": open_source(f"state_beside_video:StateBesideVideo={path}?{options}")


@pytest.fixture
def episodes(tmp_path):
    """Three episodes of two cameras each, and a table with a row for each frame; the last one's is cut short."""
    video_folder(tmp_path, {f"e{i}/camera_{c}.mp4": 7 for i in range(3) for c in range(2)})
    for i in range(3):
        state = np.arange(42, dtype=np.float64).reshape(7, 6) + 100 * i
        np.savez(tmp_path / f"e{i}" / "state.npz", state=state[: 5 if i == 2 else 7], other=["words"])
    return tmp_path


def test_each_frame_has_its_row_and_its_axes(opened, episodes):
    source = opened(episodes, f"{POSE}&body=arm&only=*/camera_0.mp4")
    assert [(c.name, c.embodiment, c.num_frames) for c in source.clips()] == [
        ("e0/camera_0.mp4", "arm", 7), ("e1/camera_0.mp4", "arm", 7), ("e2/camera_0.mp4", "arm", 5)
    ]  # fmt: skip
    first, *_, last = (source.read(clip) for clip in source.clips())
    assert [f"{axis.name} [{axis.unit}]" for axis in first.proprioception_axes][2:5] == [
        "z [m]", "turn_0 [rad]", "turn_1 [rad]"
    ]  # fmt: skip
    np.testing.assert_array_equal(first.proprioception[3], np.arange(18, 24))
    assert last.frames.shape[0] == last.proprioception.shape[0] == 5
    first.proprioception[:] = 0
    assert source.read(source.clips()[0]).proprioception.any()  # what was given away is not kept


def test_one_table_for_all_clips_at_a_rate_of_its_own(opened, tmp_path):
    video_folder(tmp_path, {"videos/episode_000003.mp4": 6, "videos/episode_000010.mp4": 4})
    frame = np.concatenate([np.arange(18), np.arange(9)])  # the second episode ends with its frame 2
    episode = np.repeat([3, 10], [18, 9])
    np.savez(tmp_path / "all.npz", joints=np.stack([episode, frame], 1), episode=episode)
    source = opened(tmp_path, "axes=number:rad,frame:rad&key=joints&rows_hz=15&body=robot")
    assert [c.num_frames for c in source.clips()] == [6, 3]
    rows = [source.read(clip).proprioception.tolist() for clip in source.clips()]
    assert rows == [[[3, t] for t in (0, 3, 6, 9, 12, 15)], [[10, t] for t in (0, 3, 6)]]


def test_the_fingerprint_is_of_the_content(opened, episodes):
    first = opened(episodes, POSE).fingerprint()
    assert opened(episodes, POSE).fingerprint() == first
    assert opened(episodes, f"{POSE}&body=arm").fingerprint() != first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("axes=x:m", r"expected \[rows, 1\], got \(7, 6\)"),
        ("", r"expected \[rows, 0\], got \(7, 6\)"),
        (f"{POSE}&key=pose", "expected an .npz with pose beside it"),
        ("axes=x:feet", "unit"),
        ("axis=x:m", "Did you mean 'axes'"),
    ],
)
def test_what_is_wrong_is_named(opened, episodes, options, message):
    with pytest.raises(InputError, match=message):
        opened(episodes, options)


def test_a_missing_and_a_damaged_table_are_named_by_their_video(opened, episodes):
    (episodes / "e1" / "state.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(InputError, match=r"e1/camera_0.mp4: expected an .npz with state beside it"):
        opened(episodes, POSE)
    (episodes / "e1" / "state.npz").unlink()
    with pytest.raises(InputError, match=r"e1/camera_0.mp4: expected an .npz with state beside it"):
        opened(episodes, POSE)
