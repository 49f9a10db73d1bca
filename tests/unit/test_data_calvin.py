import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from cyclemimic.data.pickled import Call, plain_values
from cyclemimic.data.sources.calvin import CalvinSource
from cyclemimic.errors import InputError
from tests.unit.data_small import calvin_split, moving_square


@pytest.fixture
def split(tmp_path):
    return calvin_split(tmp_path / "training")


def test_windows_and_their_sentences(split):
    clips = CalvinSource(split).clips()
    assert [(c.name, c.num_frames, c.instruction) for c in clips] == [
        ("language-00000-0000010", 4, "push the block"),
        ("language-00001-0000014", 5, "öffne"),
        ("language-00002-0000020", 3, "lift it"),
    ]
    assert {(c.fps, c.embodiment) for c in clips} == {(30, "franka")}


def test_pictures_actions_and_proprioception(split):
    source = CalvinSource(f"{split}?cameras=all")
    episode = source.read(source.clips()[1])
    np.testing.assert_array_equal(episode.frames, np.concatenate([moving_square(1, start=s) for s in range(14, 19)]))
    np.testing.assert_array_equal(episode.extra_frames["wrist"][:, 0, 0, 0], range(14, 19))
    np.testing.assert_allclose(episode.actions[0], [0.02, -0.01, 0, 0, 0, 0.025, 1], atol=1e-7)
    np.testing.assert_array_equal(episode.actions[:, 6], [1, 1, 0, 0])
    assert episode.proprioception.shape == (5, 14)
    np.testing.assert_allclose(episode.proprioception[0, [0, 5, 6, 7, 13]], [0.14, 0.64, 0.5, -1, 1], atol=1e-6)


def test_play_is_cut_into_clips(split, monkeypatch):
    monkeypatch.setattr("cyclemimic.data.sources.calvin.PLAY_STEPS", 7)
    source = CalvinSource(f"{split}?clips=play")
    assert [c.name for c in source.clips()] == ["play-00000-0000010", "play-00001-0000017"]
    assert [c.num_frames for c in source.clips()] == [7, 7]  # the step that is left over shows no motion
    assert len(source.read(source.clips()[1]).frames) == 7
    (split / "lang_annotations" / "auto_lang_ann.npy").unlink()
    assert CalvinSource(split).clips()[0].name == "play-00000-0000010"


def write_step(split, step=15, **changes):
    path = split / f"episode_{step:07d}.npz"
    with np.load(path) as file:
        arrays = {name: file[name] for name in file} | changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rgb_static": None}, "field rgb_static: expected this field"),
        ({"rgb_static": np.zeros((22, 26), np.uint8)}, "field rgb_static: expected a uint8 picture"),
        ({"rgb_static": np.zeros((9, 26, 3), np.uint8)}, "as in the clip's first step"),
        ({"rel_actions": np.full(7, np.nan)}, "field rel_actions: expected finite"),
        ({"rel_actions": np.zeros((1, 7))}, "field rel_actions: expected one row"),
        ({"rel_actions": np.zeros(6)}, "field rel_actions: expected one row"),
        ({"robot_obs": np.full(15, "x")}, "field robot_obs: expected finite"),
        ({"robot_obs": np.array([{}] * 15)}, "field robot_obs: expected numbers"),  # would need unpickling
        ({"rgb_static": np.zeros((3000, 3000, 3), np.uint8)}, "at most 16777216 bytes"),
    ],
)
def test_bad_steps_are_named_and_stop_no_other_clip(split, changes, message):
    write_step(split, **changes)
    source = CalvinSource(split)
    with pytest.raises(InputError, match=message) as error:
        source.read(source.clips()[1])
    assert "episode_0000015.npz" in str(error.value)
    for clip in (source.clips()[0], source.clips()[2]):
        source.read(clip)


def test_a_shape_that_is_not_there_takes_no_memory(split):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)})
    path = split / "episode_0000015.npz"
    with np.load(path) as file:
        arrays = {name: file[name] for name in file if name != "rel_actions"}
    np.savez(path, **arrays)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("rel_actions.npy", buffer.getvalue())
    with pytest.raises(InputError, match="as many as the header says"):
        CalvinSource(split).read(CalvinSource(split).clips()[1])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3), int), r"\[N, 2\]"),
        (np.zeros((1, 2)), r"\[N, 2\]"),
        (np.array([[9, 3]]), "first < last"),
        (np.array([[0, 1 << 39]]), "at most 1000000 clips"),
        (np.zeros((0, 2), int), "1 to 1000000 clips, got 0"),
    ],
)
def test_wrong_bounds_are_named(split, array, message):
    np.save(split / "ep_start_end_ids.npy", array)
    with pytest.raises(InputError, match=rf"ep_start_end_ids\.npy: .*{message}"):
        CalvinSource(f"{split}?clips=play").clips()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "language.ann"),
        ({"language": {"ann": ["a"]}, "info": {"indx": []}}, "as many sentences"),
        ({"language": {"ann": [3]}, "info": {"indx": [(1, 2)]}}, "as many sentences"),
        ({"language": {"ann": ["a"]}, "info": {"indx": [(2, 1)]}}, "first < last"),
        ({"language": {"ann": ["a"]}, "info": {"indx": [(1, 2, 3)]}}, "language.ann"),
        ({"language": {"ann": []}, "info": {"indx": []}}, "1 to 1000000 clips"),
        ([1, 2], "one object"),
    ],
)
def test_wrong_annotations_are_named(split, value, message):
    array = np.array(value, object)
    np.save(split / "lang_annotations" / "auto_lang_ann.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=rf"auto_lang_ann\.npy: .*{message}"):
        CalvinSource(split).clips()


def test_a_folder_above_and_wrong_options_say_what_to_do(split):
    with pytest.raises(InputError, match=r"but folders training.*such as task_D_D/training"):
        CalvinSource(split.parent)
    with pytest.raises(InputError, match="option clips"):
        CalvinSource(f"{split}?clips=all")
    (split / "ep_start_end_ids.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match="a npy array"):
        CalvinSource(f"{split}?clips=play").clips()


# The reader of pickles, which runs nothing.


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_those_that_were_pickled(protocol):
    value = {"a": [1, -2, 3.5, None, True, 1 << 70, "ö", b"\xff\0"], 2: ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))}
    value["again"] = value["a"]
    assert plain_values(pickle.dumps(value, protocol), "here") == value


@pytest.mark.parametrize("protocol", [2, 4])
def test_integers_of_numpy_are_read_and_its_arrays_are_notes(protocol):
    read = plain_values(pickle.dumps([np.int64(-7), np.uint8(200), np.zeros(3), np.float32(1)], protocol), "here")
    assert read[:2] == [-7, 200] and isinstance(read[2], Call) and isinstance(read[3], Call)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_nothing_that_a_pickle_says_is_run(tmp_path, protocol):
    content = pickle.dumps({"language": Evil(str(tmp_path / "made"))}, protocol)
    try:
        value = plain_values(content, "here")
    except InputError:
        assert protocol < 2  # old protocols are not followed at all
    else:
        assert isinstance(value["language"], Call) and value["language"].name.endswith("mkdir")
    assert not (tmp_path / "made").exists()


def test_no_damage_to_a_pickle_is_more_than_an_input_error():
    whole = pickle.dumps({"ann": ["push", "ö"], "indx": [(1, np.int64(2))], "emb": np.zeros(3)}, 4)
    rng, refused = np.random.default_rng(3), 0
    for i in range(500):
        content = bytearray(whole[: rng.integers(1, len(whole))] if i % 5 == 0 else whole)
        for at in rng.integers(0, len(content), rng.integers(0, 4)):
            content[at] = rng.integers(0, 256)
        try:
            plain_values(bytes(content), "here")
        except InputError:
            refused += 1
    assert 0 < refused < 500
