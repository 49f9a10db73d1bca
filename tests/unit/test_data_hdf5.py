import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cyclemimic.data.apart import LostReaderError, reader
from cyclemimic.data.sources import hdf5
from cyclemimic.data.sources.hdf5 import Hdf5Source
from cyclemimic.errors import InputError

h5py = pytest.importorskip("h5py")

FIXTURE = Path(__file__).parents[1] / "fixtures" / "hdf5"
STOVE, CUBE = "KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5", "pick_up_the_cube_demo.hdf5"


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(FIXTURE, tmp_path / "hdf5"))


def read(source, name):
    return source.read(next(c for c in source.clips() if c.name == name))


def test_names_sentences_rates_and_lengths():
    clips = Hdf5Source(FIXTURE).clips()
    assert [(c.name, c.num_frames, c.fps, c.instruction) for c in clips] == [
        (f"{STOVE}/demo_0", 5, 20, "turn on the stove"),
        (f"{STOVE}/demo_2", 7, 20, "turn on the stove"),
        (f"{STOVE}/demo_10", 3, 20, "turn on the stove"),
        ("image.hdf5/demo_0", 4, 10, None),
        ("image.hdf5/demo_1", 3, 10, None),
        (f"{CUBE}/demo_0", 4, 20, "pick up the cube"),
    ]
    assert {c.embodiment for c in clips} == {"panda"}


def test_one_file_alone_has_the_same_clips():
    alone = Hdf5Source(FIXTURE / CUBE)
    assert [c.name for c in alone.clips()] == [f"{CUBE}/demo_0"]
    np.testing.assert_array_equal(
        alone.read(alone.clips()[0]).frames, read(Hdf5Source(FIXTURE), f"{CUBE}/demo_0").frames
    )


def test_pictures_are_upright_in_both_layouts():
    for name, square in ((f"{CUBE}/demo_0", 0), ("image.hdf5/demo_1", 1)):
        frames = read(Hdf5Source(FIXTURE), name).frames
        assert frames.shape[1:] == (22, 26, 3)
        assert (frames[:, 0] == 250).all() and (frames[:, -1] == 40).all()
        for t, frame in enumerate(frames):
            assert (frame[8:14, square + t : square + t + 6] == (230, 60, 30)).all()


def test_upright_can_be_said():
    upright = read(Hdf5Source(FIXTURE), f"{CUBE}/demo_0").frames
    for how, wanted in (("keep", upright[:, ::-1]), ("rotate", upright[:, :, ::-1]), ("flip", upright)):
        np.testing.assert_array_equal(read(Hdf5Source(f"{FIXTURE}?upright={how}"), f"{CUBE}/demo_0").frames, wanted)


def test_actions_are_metres_radians_and_openings():
    episode = read(Hdf5Source(f"{FIXTURE}?cameras=all"), f"{STOVE}/demo_0")
    assert episode.actions.shape == (4, 7)
    np.testing.assert_allclose(episode.actions[0], [0.025, -0.05, 0, 0, 0.125, 0, 1], atol=1e-7)
    np.testing.assert_allclose(episode.actions[3, 6], 0)
    assert [a.kind for a in episode.action_space.axes] == ["delta"] * 6 + ["absolute"]
    np.testing.assert_allclose(episode.proprioception[2], [0.06, 0.07, 0.08, 0.5, 0.5, 0.5, 0.5], atol=1e-6)
    assert episode.camera == "front" and episode.extra_frames["wrist"].shape == (5, 22, 13, 3)


def test_a_quaternion_is_taken_the_short_way_round():
    state = read(Hdf5Source(FIXTURE), "image.hdf5/demo_0").proprioception
    np.testing.assert_allclose(state[0], [0, 0, 0, 0, 0, np.pi / 2, 1], atol=1e-6)


def test_steps_that_say_nothing_can_be_dropped():
    source = Hdf5Source(f"{FIXTURE}?noops=drop")
    lengths = {c.name: c.num_frames for c in source.clips()}
    # In demo_0 the still step is the one that closes the gripper: it says something.
    assert [lengths[f"{STOVE}/demo_{n}"] for n in (0, 2, 10)] == [5, 6, 2]
    whole, short = read(Hdf5Source(FIXTURE), f"{STOVE}/demo_2"), read(source, f"{STOVE}/demo_2")
    np.testing.assert_array_equal(short.frames, np.delete(whole.frames, 2, 0))
    np.testing.assert_array_equal(short.actions, np.delete(whole.actions, 2, 0))
    assert "1 of 7 steps" in source.remarks_of(source.clips()[1])[0]
    assert source.fingerprint() != Hdf5Source(FIXTURE).fingerprint()


def change_env(copy, **changes):
    with h5py.File(copy / CUBE, "r+") as file:
        env = json.loads(file["data"].attrs["env_args"])
        env["env_kwargs"].update(changes)
        file["data"].attrs["env_args"] = json.dumps(env)


@pytest.mark.parametrize(
    ("controller", "reason"),
    [
        ({"type": "JOINT_POSITION"}, "JOINT_POSITION"),
        ({"type": "OSC_POSE", "control_delta": False}, "absolute targets"),
        ({"type": "OSC_POSE", "output_max": [1] * 6}, "reaches"),
    ],
)
def test_actions_of_another_controller_are_left_out_with_a_remark(copy, controller, reason):
    change_env(copy, controller_configs=controller)
    source = Hdf5Source(copy)
    episode = read(source, f"{CUBE}/demo_0")
    assert episode.actions is None and episode.action_space is None
    assert reason in source.remarks_of(episode.info)[0]


def test_what_attributes_do_not_say_is_guessed_from_the_name(copy):
    with h5py.File(copy / STOVE, "r+") as file:
        for name in list(file["data"].attrs):
            del file["data"].attrs[name]
    clip = Hdf5Source(copy).clips()[0]
    assert (clip.instruction, clip.fps, clip.embodiment) == ("turn on the stove", 20, "panda")


def put(name, value):
    def change(demo):
        if name in demo:
            del demo[name]
        if value is not None:
            demo[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("obs/agentview_rgb", None), None),  # then the wrist camera is the main one
        (put("obs", None), "group obs: expected this group"),
        (put("obs/agentview_rgb", np.zeros((5, 22, 26, 4), np.uint8)), "agentview_rgb: expected uint8"),
        (put("obs/agentview_rgb", np.zeros((5, 22, 26, 3), np.float32)), "agentview_rgb: expected uint8"),
        (put("obs/agentview_rgb", np.zeros((1, 22, 26, 3), np.uint8)), "at least 2 steps"),
        (put("obs/agentview_rgb", h5py.ExternalLink("image.hdf5", "/data")), "lies in this file"),
        (put("obs/agentview_rgb", h5py.SoftLink("/nowhere")), "lies in this file"),
        (put("actions", None), "field actions"),
        (put("actions", np.zeros((5, 6))), r"field actions: expected one row of 7"),
        (put("actions", np.zeros((4, 7))), r"field actions: expected 5 rows"),
        (put("actions", np.full((5, 7), np.nan)), "field action: expected finite.*step 0"),
        (put("actions", np.full((5, 7), "x", object)), "field actions: expected numbers"),
        (put("obs/ee_pos", np.zeros((4, 3))), "as many rows"),
        (put("obs/ee_pos", np.zeros(5)), "ee_pos"),
        (put("obs/ee_pos", np.full((5, 3), np.inf)), "ee_pos: expected finite"),
    ],
)
def test_bad_fields_are_named_and_stop_no_other(copy, change, message):
    with h5py.File(copy / STOVE, "r+") as file:
        change(file["data/demo_0"])
    source = Hdf5Source(copy)
    assert len(source.clips()) == 6
    if message is None:
        assert source.read(source.clips()[0]).camera == "wrist"
    else:
        with pytest.raises(InputError, match=message) as error:
            source.read(source.clips()[0])
        assert f"{STOVE}, data/demo_0" in str(error.value)
    for clip in source.clips()[1:]:
        source.read(clip)


def test_an_array_that_claims_to_be_huge_is_refused_before_it_is_read(copy):
    with h5py.File(copy / CUBE, "r+") as file:
        obs = file["data/demo_0/obs"]
        del obs["agentview_rgb"]
        obs.create_dataset("agentview_rgb", (1 << 40, 22, 26, 3), np.uint8, chunks=(1, 22, 26, 3))
    source = Hdf5Source(copy / CUBE)
    with pytest.raises(InputError, match="at most 8 GiB"):
        source.read(source.clips()[0])


@pytest.mark.parametrize("group", ["data", "other"])
def test_a_file_of_another_kind_is_one_clip_that_says_so(copy, group):
    with h5py.File(copy / CUBE, "w") as file:
        file.create_group(group)
    source = Hdf5Source(copy)
    assert source.clips()[-1].name == CUBE
    with pytest.raises(InputError, match=rf"{CUBE}.*expected (this group|demonstrations)"):
        source.read(source.clips()[-1])


def test_empty_folders_and_wrong_options(tmp_path):
    with pytest.raises(InputError, match=r"\.hdf5"):
        Hdf5Source(tmp_path)
    with pytest.raises(InputError, match="expected a folder"):
        Hdf5Source(tmp_path / "nowhere")
    with pytest.raises(InputError, match="upright"):
        Hdf5Source(f"{FIXTURE}?upright=maybe")


@pytest.mark.parametrize(
    ("how", "message"),
    [("crash", r"image\.hdf5: .*its reader died \(SIGSEGV"), ("hang", r"image\.hdf5: expected an answer within 1 s")],
)
def test_a_crash_or_hang_of_hdf5_costs_one_episode(monkeypatch, how, message):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("BROKEN", how)
    monkeypatch.setattr(hdf5, "CHILD", "tests.unit.hdf5_broken_child")
    source = Hdf5Source(FIXTURE, patience_s=1)
    assert len(source.clips()) == 6
    with pytest.raises(LostReaderError, match=message):
        read(source, "image.hdf5/demo_1")
    assert len(read(source, "image.hdf5/demo_0").frames) == 4
    reader(hdf5.CHILD, memory_bytes=0).close()
