"""LeRobot datasets as a source: what the official package wrote, units, and what is refused.

The fixtures are by `tests/fixtures/make_lerobot.py`; its numbers and pictures are known.
"""

import contextlib
import json
import math
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cyclemimic.data.sources.lerobot import LeRobotSource, licence_of
from cyclemimic.data.sources.lerobot_meta import filled
from cyclemimic.embodiment.lerobot import converted, scales_of
from cyclemimic.embodiment.so101 import SO101_JOINTS
from cyclemimic.errors import InputError
from cyclemimic.recipes.footage import open_source
from tests.fixtures import make_lerobot as made

VERSIONS = ("v2.1", "v3.0")
FIXTURES = made.__file__.replace("make_lerobot.py", "lerobot")


@pytest.fixture(params=VERSIONS)
def root(request, tmp_path):
    shutil.copytree(f"{FIXTURES}/{request.param}", tmp_path / "data")
    return tmp_path / "data"


def in_si(rows):
    """The fixture's degrees and percent."""
    return rows * np.array([math.pi / 180] * 5 + [0.01])


def edit_info(root, **changes):
    path = root / "meta" / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_features(root, key, **changes):
    features = json.loads((root / "meta" / "info.json").read_text())["features"]
    features[key] |= changes
    edit_info(root, features=features)


def table_of(root, episode=1):
    """The table of an episode that has one of its own."""
    return next(iter(sorted(root.glob(f"data/*/*{episode}.parquet"))))


def edit_table(root, column, change):
    """Replace a column of the second episode's table by what `change` makes of its values [T, D]."""
    path = table_of(root)
    table = pq.read_table(path, partitioning=None)
    values = np.array(table[column].to_pylist(), np.float64)
    kind = table.schema.field(column).type
    array = pa.array(change(values).tolist()).cast(pa.float32() if pa.types.is_floating(kind) else kind, safe=False)
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, array), path)


# What is read.


def test_pictures_numbers_and_sentences_are_those_that_were_written(root):
    source = LeRobotSource(root)
    assert [(c.name, c.num_frames, c.instruction) for c in source.clips()] == [
        (f"episode_{i:06d}", n, task) for i, (n, task) in enumerate(zip(made.LENGTHS, made.TASKS, strict=True))
    ]
    for index, clip in enumerate(source.clips()):
        assert (clip.embodiment, clip.fps, clip.licence) == ("so101_follower", made.FPS, "cc0-1.0")
        episode = source.read(clip)
        states = np.stack([made.state(index, t) for t in range(clip.num_frames)])
        np.testing.assert_allclose(episode.proprioception, in_si(states), atol=1e-6)
        # The action of a frame is the state at the next one.
        np.testing.assert_allclose(episode.actions, in_si(states[1:]), atol=1e-6)
        wrist = np.stack([made.picture(index, t, wrist=True) for t in range(clip.num_frames)])
        np.testing.assert_array_equal(episode.extra_frames["wrist"], wrist)  # PNG in the table
        front = np.stack([made.picture(index, t, wrist=False) for t in range(clip.num_frames)])
        assert episode.camera == "front" and np.abs(episode.frames - front.astype(float)).mean() < 4  # AV1


def test_both_versions_are_the_same_dataset():
    old, new = (LeRobotSource(f"{FIXTURES}/{version}") for version in VERSIONS)
    assert list(old.clips()) == list(new.clips()) and old.action_space == new.action_space
    for clip in old.clips():
        one, other = old.read(clip), new.read(clip)
        np.testing.assert_array_equal(one.actions, other.actions)
        # Two encoders; a frame too early or too late would be off by 25.
        assert np.abs(one.frames - other.frames.astype(float)).mean() < 4


def test_the_space_of_an_so101_is_our_table_at_the_rate_of_the_data(root):
    space = LeRobotSource(root).action_space
    assert space.axes == SO101_JOINTS and space.rate_hz == made.FPS and space.kind == "joints"


def test_another_main_camera_is_another_source(root):
    front, wrist = LeRobotSource(root), LeRobotSource(f"{root}?camera=wrist")
    episode = wrist.read(wrist.clips()[0])
    assert episode.camera == "wrist" and list(episode.extra_frames) == ["front"]
    assert front.fingerprint() != wrist.fingerprint()
    with pytest.raises(InputError, match="Did you mean 'wrist'"):
        LeRobotSource(f"{root}?camera=wrists")


def test_without_units_it_is_video_alone(root):
    edit_info(root, robot_type="unheard-of")
    with pytest.raises(InputError, match=r"shoulder_pan\.pos.*unheard-of.*\?units="):
        LeRobotSource(root)
    source = LeRobotSource(f"{root}?units=none")
    episode = source.read(source.clips()[0])
    assert episode.actions is None and episode.proprioception is None and source.action_space is None


def test_units_that_were_said_make_axes_with_limits_of_the_data(root):
    edit_info(root, robot_type="unheard-of")
    source = LeRobotSource(f"{root}?units=mm,mm,mm,degrees,rad,percent&kinds=delta,delta,delta,delta,delta,absolute")
    space = source.action_space
    assert [a.unit for a in space.axes] == ["m", "m", "m", "rad", "rad", "fraction"] and space.kind == "pose"
    assert [a.kind for a in space.axes] == ["delta"] * 5 + ["absolute"]
    actions = np.concatenate([source.read(clip).actions for clip in source.clips()])
    assert (actions > space.low).all() and (actions < space.high).all()
    assert actions[0, 0] == pytest.approx(0.102) and actions[0, 5] == pytest.approx(0.1)


def test_limits_are_found_without_statistics(root):
    edit_info(root, robot_type="unheard-of")
    wanted = LeRobotSource(f"{root}?units=degrees").action_space
    for path in root.glob("meta/*stats*"):
        path.unlink()
    found = LeRobotSource(f"{root}?units=degrees").action_space
    np.testing.assert_allclose(found.low, wanted.low, atol=1e-6)
    np.testing.assert_allclose(found.high, wanted.high, atol=1e-6)


def test_further_columns_and_files_are_passed_over(root):
    (root / "data" / "notes.txt").write_text("hello")
    edit_info(root, tools=[], invented={"a": 1})
    source = LeRobotSource(root)
    assert source.read(source.clips()[1]).actions is not None  # `next.reward` is in every table


def test_a_depth_camera_is_no_camera(root):
    edit_features(root, "observation.images.front", info={"video.is_depth_map": True})
    assert LeRobotSource(root).read(LeRobotSource(root).clips()[0]).camera == "wrist"


def test_it_is_opened_by_name(root):
    assert isinstance(open_source(f"lerobot:{root}?camera=wrist"), LeRobotSource)


# Units.


@pytest.mark.parametrize(
    ("names", "largest", "asked", "units", "factor"),
    [
        (["main_shoulder_pan", "main_gripper"], [10, 10], None, None, None),  # not all axes of the arm
        ([f"main_{a.name}" for a in SO101_JOINTS], [10] * 6, None, "rad", math.pi / 180),
        ([f"{a.name}.pos" for a in SO101_JOINTS], [10, 120, 10, 10, 10, 10], None, "rad", math.pi / 180),
        ([f"{a.name}.pos" for a in SO101_JOINTS], [100, 90, 10, 10, 10, 100], None, None, None),
        ([f"{a.name}.pos" for a in SO101_JOINTS], [100] * 6, "degrees", "rad", math.pi / 180),
        ([f"{a.name}.pos" for a in SO101_JOINTS], [100] * 6, "range", "rad", 1.91986 / 100),
    ],
)
def test_units_of_so_arms(names, largest, asked, units, factor):
    def found():
        return scales_of("so100", names, asked=asked, largest=np.array(largest), where="info.json", option="units")

    if units is None:
        with pytest.raises(InputError, match=r"\?units="):
            found()
        return
    scales = found()
    assert [s.unit for s in scales] == [units] * 5 + ["fraction"]
    assert scales[0].factor == pytest.approx(factor) and scales[5].factor == 0.01


def test_the_range_of_a_joint_goes_from_limit_to_limit():
    names = [f"{a.name}.pos" for a in SO101_JOINTS]
    scales = scales_of("so101", names, asked="range", largest=np.ones(6), where="x", option="units")
    ends = converted(np.array([[-100.0] * 5 + [0], [100.0] * 6]), scales)
    np.testing.assert_allclose(ends, [[a.low for a in SO101_JOINTS], [a.high for a in SO101_JOINTS]], atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "message"),
    [("degree", "Did you mean 'degrees'"), ("rad,rad", "one unit for each of 3"), ("range", "limits")],
)
def test_wrong_units_are_named(asked, message):
    with pytest.raises(InputError, match=message):
        scales_of("x", ["a", "b", "c"], asked=asked, largest=np.ones(3), where="x", option="units")


def test_names_may_say_their_units():
    names = ["x_m", "yaw_rad", "lift_mm", "elbow_deg.pos"]
    scales = scales_of("x", names, asked=None, largest=np.ones(4), where="x", option="units")
    assert [s.unit for s in scales] == ["m", "rad", "m", "rad"] and scales[2].factor == 1e-3


# What is refused.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebase_version": "v1.6"}, r"info\.json, field codebase_version.*v1\.6"),
        ({"codebase_version": None}, "codebase_version"),
        ({"fps": 0}, "field fps"),
        ({"fps": "10"}, "field fps"),
        ({"total_episodes": 5}, "field total_episodes: expected 4.*got 5"),
        ({"total_frames": 21}, "field total_frames: expected 22.*got 21"),
        ({"total_frames": -1}, "field total_frames"),
        ({"features": []}, "field features"),
        ({"features": {"action": {"dtype": 3}}}, r"features\['action'\]"),
        ({"features": {"action": {"dtype": "float32", "shape": [6], "names": None}}}, "a camera"),
        ({"data_path": "../../etc/passwd"}, "field data_path.*below the dataset"),
        ({"data_path": "/etc/passwd"}, "field data_path.*below the dataset"),
        ({"data_path": 3}, "field data_path.*template"),
        ({"video_path": "videos/../../{video_key}.mp4"}, "field video_path.*below the dataset"),
        ({"video_path": "videos/{video_key.__class__}.mp4"}, "field video_path.*below the dataset"),
        ({"data_path": "data/{nonsense}.parquet"}, "field data_path.*nonsense"),
    ],
)
def test_wrong_facts_are_named(root, changes, message):
    edit_info(root, **changes)
    with pytest.raises(InputError, match=message) as error:
        LeRobotSource(root)
    assert error.value.remedy


def test_a_camera_cannot_lead_out_of_the_folder(root):
    features = json.loads((root / "meta" / "info.json").read_text())["features"]
    edit_info(root, features={**features, "../../../etc": features["observation.images.front"]})
    with pytest.raises(InputError, match=r"below the dataset|columns"):
        LeRobotSource(root)
    with pytest.raises(InputError, match="below the dataset"):
        filled("videos/{video_key}/a.mp4", {"video_key": "../.."}, "info.json")


@pytest.mark.parametrize("name", ["info.json", "episodes"])
def test_missing_and_damaged_meta_is_named(root, name):
    (path,) = [p for p in root.glob("meta/**/*") if p.is_file() and p.relative_to(root / "meta").parts[0].startswith(
        name) and "stats" not in p.name]  # fmt: skip
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"\xff\xfe", b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match="meta/"):
            LeRobotSource(root)
    path.unlink()
    with pytest.raises(InputError, match="meta/"):
        LeRobotSource(root)


def refused(root, message):
    """The second episode is refused with such a message, and the others are read."""
    source = LeRobotSource(root)
    clips = source.clips()
    with pytest.raises(InputError, match=message) as error:
        source.read(clips[1])
    assert error.value.expected and error.value.remedy
    for clip in (*clips[:1], *clips[2:]):
        source.read(clip)


def marked(value, frame, axis=2):
    def change(values):
        values[frame, axis] = value
        return values

    return change


def test_actions_that_are_no_numbers_are_named_by_frame_and_axis(root):
    edit_table(root, "action", marked(np.nan, 3))
    refused(root, r"parquet, episode 1, field action.*NaN or infinity at frame 3, axis 'elbow_flex\.pos'")


def test_the_last_action_leads_nowhere_and_may_be_anything(root):
    edit_table(root, "action", marked(np.nan, -1))
    source = LeRobotSource(root)
    assert np.isfinite(source.read(source.clips()[1]).actions).all()


def test_a_state_that_is_no_number_is_refused_at_the_last_frame_too(root):
    edit_table(root, "observation.state", marked(np.inf, -1))
    refused(root, r"field observation\.state.*frame 6")


@pytest.mark.parametrize("change", [lambda t: t - 1, lambda t: t * 3, lambda t: t * np.nan])
def test_negative_and_wrong_times_are_refused(root, change):
    edit_table(root, "timestamp", change)
    refused(root, "field timestamp")


def test_frames_with_a_gap_are_refused(root):
    edit_table(root, "frame_index", lambda n: n + (n > 2))
    refused(root, "field frame_index")


def test_a_table_with_rows_missing_or_of_another_episode_is_refused(root):
    path = table_of(root)
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.slice(0, 4), path)
    refused(root, "expected 7 rows.*got 4")
    pq.write_table(table, path)
    edit_table(root, "episode_index", lambda n: n + 7)
    refused(root, "expected 7 rows.*got 0")


def test_a_column_that_is_missing_is_named(root):
    path = table_of(root)
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["action"]), path)
    refused(root, r"expected columns \['action'\]")


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_a_table_that_is_cut_short_is_named(root, share):
    path = table_of(root)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(root, path.name)


def test_no_damage_stops_a_run(root):
    rng = np.random.default_rng(7)
    files = sorted(p for p in root.rglob("*") if p.is_file())
    for i in range(3 * len(files)):
        path = files[i % len(files)]
        whole = path.read_bytes()
        content = np.frombuffer(whole, np.uint8).copy()
        content[rng.integers(0, len(content), 5)] = rng.integers(0, 256, 5)
        path.write_bytes(content.tobytes())
        with contextlib.suppress(InputError):
            source = LeRobotSource(root)
            for clip in source.clips()[1:3]:
                with contextlib.suppress(InputError):
                    source.read(clip)
        path.write_bytes(whole)


def test_a_picture_in_the_table_that_is_none_or_lies_elsewhere_is_refused(root):
    path = table_of(root)
    table = pq.read_table(path, partitioning=None)
    place = table.column_names.index("observation.images.wrist")
    for cell in ({"bytes": b"no picture", "path": None}, {"bytes": None, "path": "../../secret.png"}):
        cells = [cell, *table["observation.images.wrist"].to_pylist()[1:]]
        column = pa.array(cells, table.schema.field(place).type)
        pq.write_table(table.set_column(place, "observation.images.wrist", column), path)
        refused(root, r"observation\.images\.wrist, frame 0")


def test_a_missing_video_is_named(root):
    video = next(iter(sorted(root.glob("videos/**/*1.mp4"))))
    video.unlink()
    refused(root, video.name)


def test_an_episode_of_one_frame_is_listed_and_refused(tmp_path):
    root = tmp_path / "data"
    shutil.copytree(f"{FIXTURES}/v2.1", root)
    path = root / "meta" / "episodes.jsonl"
    path.write_text(path.read_text().replace('"length": 7', '"length": 1'))
    edit_info(root, total_frames=22 - 6)
    table = table_of(root)
    pq.write_table(pq.read_table(table, partitioning=None).slice(0, 1), table)
    assert LeRobotSource(root).clips()[1].num_frames == 1
    refused(root, "at least 2 frames")


def test_a_stretch_before_the_beginning_is_refused(tmp_path):
    root = tmp_path / "data"
    shutil.copytree(f"{FIXTURES}/v3.0", root)
    (path,) = root.glob("meta/episodes/*/*.parquet")
    table = pq.read_table(path, partitioning=None)
    name = "videos/observation.images.front/from_timestamp"
    place = table.column_names.index(name)
    pq.write_table(table.set_column(place, name, pa.array([0.0, -0.5, *table[name].to_pylist()[2:]])), path)
    refused(root, r"mp4, episode 1, field from_timestamp.*-0\.5")


@pytest.mark.parametrize(
    "line",
    ['{"episode_index": 4}', "[]", "{", '{"episode_index": 0, "length": 4}', '{"episode_index": -1, "length": 2}'],
)
def test_a_bad_line_of_episodes_is_named(tmp_path, line):
    root = tmp_path / "data"
    shutil.copytree(f"{FIXTURES}/v2.1", root)
    with (root / "meta" / "episodes.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=r"line 5|one twice"):
        LeRobotSource(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [("?colour=red", "colour"), ("?camera=", "camera="), ("?kinds=relative", "absolute or delta")],
)
def test_wrong_options_are_named(root, text, message):
    with pytest.raises(InputError, match=message):
        LeRobotSource(f"{root}{text}")


def test_names_that_do_not_fit_the_width_are_refused(root):
    edit_features(root, "action", names=["a", "b"])
    with pytest.raises(InputError, match=r"features\['action'\]\.names.*6 different names"):
        LeRobotSource(root)


def test_a_name_that_is_no_folder_is_asked_of_the_hub(monkeypatch, root):
    import huggingface_hub

    asked = []

    def download(name, *, repo_type, revision):
        asked.append((name, repo_type, revision))
        if name == "someone/gone":
            raise OSError("no network")
        return str(root)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert len(LeRobotSource("someone/data?revision=v2.1").clips()) == 4
    assert asked == [("someone/data", "dataset", "v2.1")]
    with pytest.raises(InputError, match=r"lerobot:someone/gone.*no network.*name the folder"):
        LeRobotSource("someone/gone")
    with pytest.raises(InputError, match="no such folder"):
        LeRobotSource("/no/such/folder")
    assert len(asked) == 2


def test_the_licence_stands_in_the_head_of_the_card(tmp_path):
    card = tmp_path / "README.md"
    assert licence_of(card) is None
    for text, found in (("---\nlicense: mit\n---\n", "mit"), ("license: mit\n", None), ("---\ntags: []\n---\n", None)):
        card.write_text(text)
        assert licence_of(card) == found
