import json
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from cyclemimic.data.layouts import Columns, Gripper, Layout, position
from cyclemimic.data.oxe import CONVENTIONS, Convention, convention_of
from cyclemimic.data.sources.rlds import RldsSource
from cyclemimic.data.tfexample import decoded, feature_spans
from cyclemimic.data.tfrecord import FOOTER_BYTES, checked_content, crc32c, framed, record_spans
from cyclemimic.errors import InputError

FIXTURE = Path(__file__).parents[1] / "fixtures" / "rlds"
SHARD = "bridge_dataset-train.tfrecord-00000-of-00002"
MINE = Convention(name="mine", embodiment="my_arm", rate_hz=7, cameras={"top": "observation/image_1"})
NO_CONVENTION = "not a convention"


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(FIXTURE, tmp_path / "rlds"))


def records_of(path):
    content = path.read_bytes()
    return [content[start : start + length] for start, length in record_spans(content, path)]


def write_records(path, records):
    path.write_bytes(b"".join(framed(record) for record in records))


def changed(copy, old, new, record=0):
    """One record of the first shard with bytes of equal length put in place of others, its checksums right."""
    assert len(old) == len(new)
    records = records_of(copy / SHARD)
    assert old in records[record]
    records[record] = records[record].replace(old, new)
    write_records(copy / SHARD, records)
    return RldsSource(copy)


def edit(path, change):
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


# Checksums and frames.


def test_crc32c_of_the_published_vectors():
    assert crc32c(b"") == 0
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("length", [63, 64, 127, 128, 131, 16384, 16501, 262151])
def test_the_fast_checksum_is_the_slow_one(length):
    content = np.random.default_rng(length).bytes(length)
    state = 0xFFFFFFFF
    for byte in content:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    assert crc32c(content) == state ^ 0xFFFFFFFF


def test_frames_are_those_that_tensorflow_wrote():
    content = (FIXTURE / SHARD).read_bytes()
    assert b"".join(framed(r) for r in records_of(FIXTURE / SHARD)) == content


def test_a_sequence_example_is_laid_end_to_end():
    (record,) = records_of(FIXTURE / "sequence.tfrecord")
    found = {name: decoded(parts, name) for name, parts in feature_spans(record, "here").items()}
    assert [bytes(v) for v in found["name"]] == [b"a\0b\xff", b""]
    np.testing.assert_array_equal(found["floats"], [0, 0, 1, 0.25, 2, 0.5])
    np.testing.assert_array_equal(found["integers"], [0, 1, -1, 1 << 20, -2, 1 << 40])


def test_negative_and_long_integers_survive():
    episodes = [feature_spans(r, "here") for r in records_of(FIXTURE / SHARD)]
    counts = [decoded(parts["steps/count"], "here") for parts in episodes]
    assert all((np.diff(c) == -1).all() for c in counts) and {int(c[0]) % 300 for c in counts} == {0}


def test_a_length_that_is_not_there_takes_no_memory():
    huge = struct.pack("<Q", 1 << 62)
    content = huge + framed(huge)[12 + len(huge) :]  # a length with its right checksum, and nothing behind it
    with pytest.raises(InputError, match=r"record 0.*bytes of content"):
        list(record_spans(content, "a shard"))
    with pytest.raises(InputError, match="bytes"):
        feature_spans(b"\x0a\xff\xff\xff\xff\xff\xff\xff\x7f", "a record")


# What TensorFlow reads, we read.


def test_everything_equals_what_tensorflow_reads():
    source = RldsSource(f"{FIXTURE}?cameras=all")
    truth = json.loads((FIXTURE / "read_by_tensorflow.json").read_text())
    assert len(source.clips()) == len(truth)
    for clip, episode in zip(source.clips(), truth, strict=True):
        read, skip = source.read(clip), 1
        assert clip.instruction == (episode["instruction"] or None)
        np.testing.assert_allclose(read.actions, np.array(episode["actions"])[skip:-1], rtol=1e-6)
        wanted = np.array(episode["states"])[skip:]
        wanted[:, 6] = wanted[:, 6].clip(0, 1)
        np.testing.assert_allclose(read.proprioception, wanted, rtol=1e-6)
        red = np.array(episode["red_of_first_row"])[skip:]
        assert read.frames.shape[1:] == (22, 26, 3)
        assert np.abs(read.frames[:, 0, :, 0].astype(int) - red).max() <= 4  # decoders of jpg round differently
        assert set(read.extra_frames) == {"1"} and (read.extra_frames["1"][..., 2] == 100).all()
        assert read.camera == "front" and read.action_space.rate_hz == 5


def test_only_the_main_camera_is_decoded_unless_asked(copy):
    source = RldsSource(copy)
    assert not source.read(source.clips()[0]).extra_frames


def test_clips_are_listed_without_a_checksum_of_contents_or_a_picture(copy):
    content = bytearray((copy / SHARD).read_bytes())
    content[-1] ^= 1
    (copy / SHARD).write_bytes(content)
    source = RldsSource(copy)
    assert source.clips()[1].num_frames >= 2
    source.read(source.clips()[0])
    with pytest.raises(InputError, match=rf"{SHARD}, record 1: expected the checksum 0x"):
        source.read(source.clips()[1])


# Options and conventions.


def test_a_split_a_rate_and_a_convention_can_be_named():
    source = RldsSource(f"{FIXTURE}?split=val&rate_hz=9")
    assert [c.name for c in source.clips()] == ["val-00000-of-00002/0", "val-00001-of-00002/0"]
    episode = source.read(source.clips()[0])
    assert episode.info.fps == 9 and episode.action_space.rate_hz == 9
    source = RldsSource(f"{FIXTURE}?convention={__name__}:MINE")
    episode = source.read(source.clips()[0])
    assert (episode.info.embodiment, episode.info.fps, episode.camera) == ("my_arm", 7, "top")
    assert episode.actions is None and (episode.frames[..., 2] == 100).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("spilt=val", "Did you mean 'split'"),
        ("split=vall", "Did you mean val|Known: train, val"),
        ("rate_hz=0", "rate_hz.*above 0"),
        ("rate_hz=x", "rate_hz"),
        ("cameras=two", "all"),
        ("convention=bridge_datasets", "Did you mean 'bridge_dataset'"),
        ("convention=droid", "exterior_image_1_left"),
        ("convention=no.such:thing", "importable"),
        (f"convention={__name__}:NO_CONVENTION", "a Convention, got str"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        RldsSource(f"{FIXTURE}?{options}").clips()


def test_a_dataset_of_an_unknown_name_is_video_alone(copy):
    edit(copy / "dataset_info.json", lambda facts: facts.update(name="my_own"))
    for shard in copy.glob("bridge_dataset-*"):
        shard.rename(shard.with_name(shard.name.replace("bridge_dataset", "my_own")))
    source = RldsSource(copy)
    first = source.clips()[0]
    episode = source.read(first)
    assert (episode.camera, episode.actions, first.embodiment, first.fps) == ("image_0", None, "my_own", 10)
    assert "öffne die Schublade" in {c.instruction for c in source.clips()}
    assert "no convention is known for 'my_own'" in source.remarks_of(first)[0]


def test_the_table_is_sound():
    names = [c.name for c in CONVENTIONS]
    assert len(set(names)) == len(names) >= 6
    for name in ("bridge_dataset", "bridge", "fractal20220817_data", "libero_10_no_noops", "droid_100", "taco_play"):
        found = convention_of(name)
        assert found.action_space.axes[-1].unit == "fraction" and found.action_space.axes[-1].kind == "absolute"
    assert [a.name for a in convention_of("language_table_sim").action_space.axes] == ["x_m", "y_m"]
    assert convention_of("droid").action_space.axes[0].kind == "absolute"
    assert convention_of("nothing_known") is None


def test_numbers_become_metres_and_fractions_open():
    layout = convention_of("libero_10").actions
    numbers = layout.numbers({"action": np.array([[1, 0, 0, 0, -1, 0, -1], [0, 0.5, 0, 0, 0, 0, 1]])}, "here")
    np.testing.assert_allclose(numbers, [[0.05, 0, 0, 0, -0.5, 0, 1], [0, 0.025, 0, 0, 0, 0, 0]], atol=1e-7)


@pytest.mark.parametrize(
    ("told", "opened"),
    [
        ([0, 1, 0, 0, -1, 0], [1, 0, 0, 0, 1, 1]),  # 1 closes: open until then
        ([0, -1, 0, 1], [0, 1, 1, 0]),  # -1 opens: closed until then
        ([0.05, -0.05], [1, 1]),  # too little to be a movement
    ],
)
def test_a_relative_gripper_stays_where_it_was_told_to_go(told, opened):
    gripper = Gripper(feature="grip", closed=1, opened=-1, relative=True)
    np.testing.assert_array_equal(gripper.numbers(np.array(told, float)[:, None], "here")[:, 0], opened)


def test_a_layout_names_a_column_or_a_feature_that_is_missing():
    layout = Layout(parts=(Columns(feature="action", axes=position(1.0), first=2),))
    with pytest.raises(InputError, match=r"field action.*at least 5 columns, got 4"):
        layout.numbers({"action": np.zeros((2, 4))}, "here")
    with pytest.raises(InputError, match=r"field action.*state"):
        layout.numbers({"state": np.zeros((2, 4))}, "here")


def test_only_the_columns_that_count_must_be_finite():
    layout = Layout(parts=(Columns(feature="action", axes=position(1.0), first=2),))
    numbers = np.zeros((3, 6))
    numbers[1, 5] = np.nan
    assert layout.numbers({"action": numbers}, "here").shape == (3, 3)
    numbers[1, 3] = np.inf
    with pytest.raises(InputError, match="finite numbers, got NaN or infinity at step 1, column 3"):
        layout.numbers({"action": numbers}, "here")
    numbers[1, 3] = 1e300  # finite, and yet no float32
    with pytest.raises(InputError, match="step 1, column 3"):
        layout.numbers({"action": numbers}, "here")
    gripper = Layout(parts=(Gripper(feature="grip", closed=1, opened=-1, relative=True),))
    with pytest.raises(InputError, match="step 1, column 0"):
        gripper.numbers({"grip": np.array([[1], [np.nan]])}, "here")


def test_language_table_spells_sentences_in_code_points(copy):
    spelt = Convention(
        name="x", embodiment="e", rate_hz=1, cameras={"a": "observation/image_0"}, instruction=("letters",)
    )
    source = RldsSource(copy)
    source._convention = spelt
    words = [ord(c) for c in "schön"] + [0, 0, 65]

    def feature(values):
        packed = b"".join(varint(v) for v in values)
        body = b"\x1a" + varint(len(packed) + 2) + b"\x0a" + varint(len(packed)) + packed
        return memoryview(body)

    assert source._instruction({"steps/letters": (feature(words),)}, "here") == "s"  # a scalar is one letter
    source._features["steps/letters"] = type(source._features["steps/action"])(kind="Tensor", shape=(8,))
    assert source._instruction({"steps/letters": (feature(words),)}, "here") == "schön"
    with pytest.raises(InputError, match=r"Unicode|UTF-8"):
        source._instruction({"steps/letters": (feature([0xD800] * 8),)}, "here")


def varint(n):
    out = b""
    while n > 0x7F:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def test_sources_are_named_on_the_command_line_with_their_options():
    from cyclemimic.recipes.footage import open_source

    for text, clips in ((f"rlds:{FIXTURE}?split=val", 2), (f"hdf5:{FIXTURE.parent / 'hdf5'}?noops=drop", 6)):
        source = open_source(text)
        assert source.name == text and len(source.clips()) == clips
    with pytest.raises(InputError, match="rlds"):
        open_source(f"rldss:{FIXTURE}")


def test_the_convention_in_the_guide_is_one():
    text = (Path(__file__).parents[2] / "docs" / "guides" / "datasets.md").read_text()
    (shown,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    found = {}
    exec(shown, found)
    assert [a.name for a in found["MINE"].action_space.axes] == ["x_m", "y_m", "z_m", "roll", "pitch", "yaw", "gripper"]


# Bad input.


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dataset_info.json", lambda f: f.pop("splits"), "splits"),
        ("dataset_info.json", lambda f: f.update(splits=7), "splits"),
        ("dataset_info.json", lambda f: f.update(splits=[]), "shards"),
        ("dataset_info.json", lambda f: f["splits"][0].update(shardLengths=["x"]), "shardLengths"),
        ("dataset_info.json", lambda f: f["splits"][0].update(shardLengths=[-1]), "0 to"),
        ("dataset_info.json", lambda f: f["splits"][0].update(shardLengths=["9" * 18]), "0 to"),
        ("dataset_info.json", lambda f: f["splits"][0].update(filepathTemplate="../{SPLIT}"), "beside it"),
        ("dataset_info.json", lambda f: f.update(fileFormat="array_record"), "tfrecord, got 'array_record'"),
        ("features.json", lambda f: f.pop("featuresDict"), "image_0"),
        ("features.json", lambda f: f.update(featuresDict={"features": {"steps": 3}}), "steps"),
        ("features.json", lambda f: f.update(pythonClassName=3), "an object"),
    ],
)
def test_wrong_facts_are_named(copy, name, change, message):
    edit(copy / name, change)
    with pytest.raises(InputError, match=message) as error:
        RldsSource(copy).clips()
    assert name in str(error.value) and error.value.remedy


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_missing_or_damaged_facts_are_named(copy, name):
    (copy / name).write_bytes(b"\xff{")
    with pytest.raises(InputError, match=rf"{name}: expected valid JSON"):
        RldsSource(copy)
    (copy / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: expected a file that TFDS writes"):
        RldsSource(copy)


def test_a_folder_above_the_version_says_which_to_name(copy, tmp_path):
    copy.rename(tmp_path / "1.0.0")
    with pytest.raises(InputError, match=r"Name a version's folder, such as 1\.0\.0"):
        RldsSource(tmp_path)


def feature_of(facts, *names):
    for name in ("steps", *names):
        facts = facts["featuresDict"]["features"][name]
        facts = facts["sequence"]["feature"] if "sequence" in facts else facts
    return facts


@pytest.mark.parametrize(
    ("names", "change", "message"),
    [
        (("observation", "image_0"), {"pythonClassName": "x.Video"}, "image_0.*Image.*got Video"),
        (("action",), {"pythonClassName": "x.Optional"}, "steps/action.*got Optional"),
        (("action",), {"tensor": {"shape": {"dimensions": ["-1"]}, "dtype": "float32"}}, "fixed shape"),
        (("action",), {"tensor": {"shape": {"dimensions": ["7"]}, "encoding": "zlib"}}, "encoded as zlib"),
    ],
)
def test_features_of_unknown_types_are_named(copy, names, change, message):
    edit(copy / "features.json", lambda facts: feature_of(facts, *names).update(change))
    with pytest.raises(InputError, match=message):
        RldsSource(copy)


def test_a_wrong_count_is_an_episode_that_is_missing_or_a_remark(copy):
    edit(copy / "dataset_info.json", lambda f: f["splits"][0].update(shardLengths=["3", "1"]))
    source = RldsSource(copy)
    assert [c.num_frames for c in source.clips()][2] == 0
    with pytest.raises(InputError, match=rf"{SHARD}, record 2: expected 3 episodes.*got 2"):
        source.read(source.clips()[2])
    edit(copy / "dataset_info.json", lambda f: f["splits"][0].update(shardLengths=["1", "1"]))
    source = RldsSource(copy)
    assert len(source.clips()) == 5 and "holds 2 episodes where" in source.remarks_of(source.clips()[0])[0]


def test_a_part_of_a_dataset_is_read_and_a_remark_says_so(copy):
    (copy / SHARD).unlink()
    source = RldsSource(copy)
    assert len(source.clips()) == 3
    assert source.remarks_of(source.clips()[0]) == (f"one shard is not here: {SHARD}",)
    for shard in copy.glob("bridge_dataset-*"):
        shard.unlink()
    with pytest.raises(InputError, match="none of its 4 shards"):
        RldsSource(copy).clips()


def test_a_cut_shard_keeps_the_episodes_before_the_cut(copy):
    content = (copy / SHARD).read_bytes()
    (copy / SHARD).write_bytes(content[:-3])
    source = RldsSource(copy)
    source.read(source.clips()[0])
    with pytest.raises(InputError, match=rf"{SHARD}, record 1: expected \d+ bytes of content"):
        source.read(source.clips()[1])


def test_bad_fields_are_named_and_stop_no_other_episode(copy):
    (record, _) = records_of(copy / SHARD)
    actions = bytes(feature_spans(record, "here")["steps/action"][0])
    sentence = json.loads((FIXTURE / "read_by_tensorflow.json").read_text())[1]["instruction"].encode()
    cases = [
        (0, actions, actions[:-4] + struct.pack("<f", np.nan), "record 0, field steps/action.*step 3, column 6|NaN"),
        (0, b"\xff\xd8\xff\xe0", b"\0\0\0\0", "record 0, field steps/observation/image_0, step 0"),
        (0, b"steps/action", b"steps/akshun", "record 0, field steps/action: expected this field"),
        (0, b"steps/observation/state", b"steps/observation/stats", "field steps/observation/state"),
    ]
    if sentence:
        cases.append((1, sentence, sentence[:-1] + b"\xff", "record 1, field steps/language_instruction.*UTF-8"))
    for number, old, new, message in cases:
        source = changed(copy, old, new, number)
        with pytest.raises(InputError, match=message):
            source.read(source.clips()[number])
        for clip in source.clips()[2:]:
            source.read(clip)
        shutil.copy(FIXTURE / SHARD, copy)


def test_numbers_and_pictures_must_be_one_per_step(copy):
    records = records_of(copy / SHARD)
    edit(copy / "features.json", lambda f: feature_of(f, "action")["tensor"]["shape"].update(dimensions=["14"]))
    source = RldsSource(copy)
    with pytest.raises(InputError, match=r"field steps/action: expected . steps of 14 numbers"):
        source.read(source.clips()[0])
    write_records(copy / SHARD, [records[0].replace(b"steps/is_first", b"steps/was_first"[:14]), records[1]])
    assert RldsSource(copy).clips()[0].num_frames >= 2  # counted by is_last


def test_no_damage_to_a_shard_stops_a_run(copy):
    """Bytes changed, cut and doubled, with checksums made right again, so that the parser is what is tested."""
    rng = np.random.default_rng(11)
    whole = records_of(copy / SHARD)
    sound = 0
    for i in range(200):
        record = bytearray(whole[i % 2])
        for at in rng.integers(0, len(record), rng.integers(1, 6)):
            record[at] = rng.integers(0, 256)
        cut = int(rng.integers(0, len(record))) if i % 5 == 0 else len(record)
        write_records(copy / SHARD, [bytes(record[:cut]) * (2 if i % 7 == 0 else 1), whole[1]])
        source = RldsSource(copy)
        try:
            source.read(source.clips()[0])
            sound += 1
        except InputError as error:
            assert SHARD in str(error)
        source.read(source.clips()[1])
    assert 0 < sound < 200


def test_no_damage_to_the_frames_stops_a_run(copy):
    rng = np.random.default_rng(5)
    content = np.frombuffer((copy / SHARD).read_bytes(), np.uint8)
    starts = [start for start, _ in record_spans(content.tobytes(), "here")]
    for i in range(60):
        damaged = content.copy()
        at = rng.integers(0, len(content), 3) if i % 2 else starts[i // 2 % 2] - 12 + rng.integers(0, 12, 2)
        damaged[at] = rng.integers(0, 256, len(at))
        (copy / SHARD).write_bytes(damaged.tobytes())
        source = RldsSource(copy)
        for clip in source.clips()[:2]:
            try:
                source.read(clip)
            except InputError as error:
                assert SHARD in str(error)


def test_a_record_of_another_length_is_refused():
    record = framed(b"abc")[12:]
    assert bytes(checked_content(record, 3, "here")) == b"abc" and FOOTER_BYTES == 4
    with pytest.raises(InputError, match="8 bytes"):
        checked_content(record, 4, "here")


# By URL.


def test_a_dataset_in_an_object_store_reads_the_same():
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    for path in FIXTURE.iterdir():
        files.pipe_file(f"/bucket/rlds/{path.name}", path.read_bytes())
    source, local = RldsSource("memory://bucket/rlds"), RldsSource(FIXTURE)
    assert list(source.clips()) == list(local.clips()) and source.fingerprint() == local.fingerprint()
    np.testing.assert_array_equal(source.read(source.clips()[2]).frames, local.read(local.clips()[2]).frames)
    files.rm("/bucket/rlds", recursive=True)


def test_what_a_store_complains_of_is_an_input_error(monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    files.pipe_file("/bucket/bad/dataset_info.json", b"{}")

    def refuse(*args, **kwargs):
        raise ArithmeticError("no credentials")

    monkeypatch.setattr(type(files), "cat_file", refuse)
    with pytest.raises(InputError, match=r"bucket/bad/dataset_info\.json: .*no credentials"):
        RldsSource("memory://bucket/bad")
    files.rm("/bucket/bad", recursive=True)


def test_a_store_that_nobody_knows_is_named():
    pytest.importorskip("fsspec")
    with pytest.raises(InputError, match="nosuch://x"):
        RldsSource("nosuch://x")
