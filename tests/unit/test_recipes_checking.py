"""`data check` from end to end: what it says, what it draws, what it writes down, and who honours that."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from cyclemimic.cli import main
from cyclemimic.data.advice import advice_on
from cyclemimic.data.axes import axes_found, rows_of
from cyclemimic.data.check import ClipCheck, SourceReport, check_clips
from cyclemimic.data.check_journal import CheckJournal, check_from_json, check_to_json
from cyclemimic.data.filed import Filed
from cyclemimic.data.skip import Skip, read_skips, skips_of, write_skips
from cyclemimic.data.sources.chosen import options_of
from cyclemimic.data.video import write_video
from cyclemimic.errors import InputError
from cyclemimic.recipes import checking
from cyclemimic.recipes.checking import check_source, page_name
from cyclemimic.recipes.footage import cached, open_source
from cyclemimic.recipes.stations import run_label, run_tokenizer
from cyclemimic.types import ActionSpace, Axis, ClipInfo, Episode
from tests.journey.small import recipe
from tests.unit.camera_small import arm_clip
from tests.unit.data_small import moving_square
from tests.unit.test_data_duplicates import episode


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six episodes, one of them twice, one still, one with a moving camera, and a damaged file."""
    root = tmp_path_factory.mktemp("v")
    for i in range(5):
        write_video(root / f"arm/{i}.mp4", episode(i, 24), 10)
    shutil.copy(root / "arm/1.mp4", root / "arm/again.mp4")
    write_video(root / "arm/still.mp4", np.repeat(episode(9, 1), 24, 0), 10)
    write_video(root / "hand/pan.mp4", arm_clip(3, pan=(0.7, 0.0))[0], 10)
    (root / "arm/damaged.mp4").write_bytes(b"no video")
    (root / "clips.jsonl").write_text('{"file": "arm/0.mp4", "instruction": "push <the> cube"}\n')
    return root


@pytest.fixture(scope="module")
def checked(folder, tmp_path_factory):
    page = tmp_path_factory.mktemp("check") / "page.html"
    return check_source(open_source(f"folder:{folder}"), page=page)


def test_the_page_holds_pictures_and_every_finding(checked):
    page = checked.page.read_text()
    assert page.count("data:image/png;base64,") >= 6
    assert "http" not in page and "<script" not in page and "push &lt;the&gt; cube" in page
    for word in ("arm/again.mp4", "arm/damaged.mp4", "arm/still.mp4", "hand/pan.mp4", "camera moves", "Duplicates"):
        assert word in page


def test_advice_names_cause_and_knob(checked):
    said = {(one.about, one.what): one for one in checked.advice}
    whats = "\n".join(f"{about}: {what}" for about, what in said)
    assert "hand: the camera moves in 1 of 1 clips" in whats
    assert "all: 1 clips show what another one shows, 1 of them exactly" in whats
    assert "all: 1 of 9 clips cannot be read" in whats
    assert "arm: 1 of 7 clips are still throughout" in whats
    assert "all: 7 of 8 clips have no sentence" in whats
    assert all(one.cause and one.remedy for one in checked.advice)
    order = ["broken", "suspicious", "note"]
    weights = [order.index(one.weight) for one in checked.advice]
    assert weights == sorted(weights)


def test_a_check_goes_on_and_decodes_nothing_twice(folder, tmp_path, monkeypatch):
    source, page = open_source(f"folder:{folder}"), tmp_path / "p.html"
    reads = []
    read = type(source).read

    def counted(self, clip):
        reads.append(clip.name)
        if len(reads) == 4:
            raise KeyboardInterrupt
        return read(self, clip)

    monkeypatch.setattr(type(source), "read", counted)
    monkeypatch.setattr(checking, "write_data_page", lambda path, *rest: path)
    with pytest.raises(KeyboardInterrupt):
        check_source(source, page=page)
    with (page.with_suffix(".found") / "clips.jsonl").open("a") as journal:
        journal.write('{"info": {"name": "ha')  # as if killed while it wrote
    first = check_source(source, page=page)
    assert len(reads) == 10 and sorted(set(reads)) == sorted(clip.name for clip in source.clips())
    again = check_source(source, page=page)
    assert len(reads) == 10
    assert first.report.lines() == again.report.lines() and first.advice == again.advice
    check_source(source, page=page, gap_s=0.3)
    assert len(reads) == 19  # of another gap nothing is known


def test_a_list_of_clips_to_do_without_is_honoured_by_every_station(folder, tmp_path, capsys):
    skip = tmp_path / "skip.json"
    words = ["data", "check", f"folder:{folder}", "--report", str(tmp_path / "p.html"), "--drop", str(skip)]
    main([*words, "--drop-kinds", "duplicate", "still", "unreadable"])
    assert f"folder:{folder}?skip={skip}" in capsys.readouterr().out
    reasons = read_skips(skip)
    assert set(reasons) == {"arm/again.mp4", "arm/still.mp4", "arm/damaged.mp4"}
    assert reasons["arm/again.mp4"] == "shows what arm/1.mp4 shows, exactly"
    whole, less = open_source(f"folder:{folder}"), open_source(f"folder:{folder}?skip={skip}")
    assert isinstance(less, Filed) and less.fingerprint() != whole.fingerprint()
    kept = [f"arm/{i}.mp4" for i in range(5)] + ["hand/pan.mp4"]
    assert [clip.name for clip in less.clips()] == list(less.names()) == kept
    assert [clip.name for clip in cached(less, 16, tmp_path / "cache").clips] == kept
    run = run_tokenizer(
        less,
        replace(recipe().trunk, steps=1, gap_s=0.4),
        tmp_path / "run",
        cache_root=tmp_path / "cache",
        trunk=None,
        read="segment",
    )
    labels = run_label(less, run, tmp_path / "labels", cache_root=tmp_path / "cache", threads=1)
    assert set(labels.clips) == set(kept)
    with pytest.raises(InputError, match="source"):
        labels.require(source_hash=cached(whole, 16, tmp_path / "cache").source_hash)
    with pytest.raises(InputError, match="not skipped"):
        less.read(next(clip for clip in whole.clips() if clip.name == "arm/again.mp4"))


def test_wrong_lists_say_what_is_wrong(folder, tmp_path):
    path = tmp_path / "skip.json"
    write_skips(path, "x", [Skip(clip="elsewhere.mp4", kind="still", reason="")])
    with pytest.raises(InputError, match=r"another source's list"):
        open_source(f"folder:{folder}?skip={path}").clips()
    write_skips(path, "x", [])
    assert open_source(f"folder:{folder}?skip={path}").name == f"folder:{folder}"  # nothing to leave out
    names = [clip.name for clip in open_source(f"folder:{folder}").clips()]
    write_skips(path, "x", [Skip(clip=name, kind="still", reason="") for name in names])
    with pytest.raises(InputError, match="Skip fewer"):
        open_source(f"folder:{folder}?skip={path}").clips()
    for content in ('{"clips": []}', '{"format": "cyclemimic-skip-1", "clips": [{"file": "a"}]}', "[]", "half"):
        path.write_text(content)
        with pytest.raises(InputError, match=r"skip\.json"):
            read_skips(path)
    with pytest.raises(InputError, match="no file"):
        open_source(f"folder:{folder}?skip={tmp_path}/none.json")
    with pytest.raises(InputError, match="drop-kinds"):
        check_source(open_source(f"folder:{folder}"), page=tmp_path / "p.html", drop_kinds=("stil",))
    assert not (tmp_path / "p.found").exists()  # said before anything was decoded


def test_options_of_every_source_stand_beside_its_own():
    assert options_of("rlds:a?split=train&skip=l%20s.json") == ("rlds:a?split=train", {"skip": "l s.json"})
    assert options_of("folder:a?skip=x&stabilise=turn") == ("folder:a", {"skip": "x", "stabilise": "turn"})
    assert options_of("folder:what?/videos") == ("folder:what?/videos", {})
    for bad in ("folder:a?skip=", "folder:a?skip=x&skip=y"):
        with pytest.raises(InputError, match="one value of skip"):
            options_of(bad)


SPACE = ActionSpace(
    name="toy",
    axes=(
        Axis(name="x", unit="m", low=-1, high=1, kind="delta"),
        Axis(name="stuck", unit="rad", low=-9, high=9),
        Axis(name="cut", unit="rad", low=-900, high=900),
        Axis(name="gripper", unit="fraction", low=0, high=1),
    ),
    rate_hz=5.0,
)


class Acting:
    """Three clips with actions; the second one's are not finite."""

    name = "acting"

    def clips(self):
        return [ClipInfo(name=str(i), embodiment="arm", fps=5.0, num_frames=30) for i in range(3)]

    def read(self, clip):
        rng = np.random.default_rng(int(clip.name))
        actions = np.zeros((29, 4), np.float32)
        actions[:, 0] = rng.normal(0, 0.01, 29)
        actions[:, 2] = np.clip(rng.normal(0, 300, 29), -200, 200)
        actions[:, 3] = rng.integers(0, 2, 29)
        if clip.name == "1":
            actions[3, 0] = np.nan
        frames = moving_square(30, start=7 * int(clip.name))
        return Episode(info=clip, frames=frames, actions=actions, action_space=SPACE)


def test_actions_are_shown_by_axis_and_what_is_odd_is_said(tmp_path):
    checked = check_source(Acting(), page=tmp_path / "p.html")
    axes = {axis.name: axis for axis in checked.report.axes_of("arm")["toy"]}
    assert axes["x"].remarks == () and axes["x"].unit == "m" and axes["x"].kind == "delta"
    assert axes["x"].counts.sum() == 58 and axes["gripper"].remarks == ()
    assert axes["stuck"].remarks == ("never changes",)
    assert "lower end" in axes["cut"].remarks[0] and "another unit?" in axes["cut"].remarks[-1]
    text = "\n".join(one.text() for one in checked.advice)
    assert "1 clips have actions or states that are not finite" in text and "cannot be read" not in text
    assert "actions toy: stuck never changes" in text
    page = checked.page.read_text()
    assert "Actions of arm: toy" in page and "never changes" in page


def test_actions_without_a_space_are_counted():
    rows = rows_of(np.arange(12, dtype=np.float32).reshape(6, 2), None)
    assert [(axis.name, axis.unit) for axis in axes_found([rows])] == [("axis 0", "?"), ("axis 1", "?")]
    assert rows_of(None, None) is None and rows_of(np.zeros((0, 3), np.float32), None) is None
    assert len(rows_of(np.zeros((5000, 1), np.float32), None).rows) == 400


def test_a_journal_gives_back_what_was_found(tmp_path):
    report = check_clips(Acting())
    for check in report.clips:
        back = check_from_json(json.loads(json.dumps(check_to_json(check))))
        assert json.dumps(check_to_json(back)) == json.dumps(check_to_json(check))
    journal = CheckJournal(tmp_path / "j.jsonl", "source", 0.6)
    journal.add(report.clips[0])
    journal.close()
    assert set(CheckJournal(tmp_path / "j.jsonl", "source", 0.6).known) == {"0"}
    assert CheckJournal(tmp_path / "j.jsonl", "other", 0.6).known == {}


def still_report(still, *, repeated=0.0, cameras=None):
    info = ClipInfo(name="a", embodiment="arm", fps=10.0, num_frames=100)
    words = {
        "cuts": np.empty(0, np.int64),
        "pairs": 100,
        "repeated": repeated,
        "cameras": cameras or {"front": (96, 96)},
    }
    clips = tuple(ClipCheck(info=replace(info, name=str(i)), still_pairs=still, **words) for i in range(12))
    return SourceReport(name="s", gap_s=0.6, clips=clips)


@pytest.mark.parametrize(("still", "weight"), [(40, None), (60, "suspicious"), (92, "broken")])
def test_much_rest_is_said_by_how_much(still, weight):
    found = [one for one in advice_on(still_report(still)) if "nothing moves in" in one.what]
    assert [one.weight for one in found] == ([weight] if weight else [])


def test_repeated_frames_and_small_pictures_are_said():
    text = "\n".join(one.text() for one in advice_on(still_report(0, repeated=0.5, cameras={"front": (48, 64)})))
    assert "12 clips repeat frames while things move" in text and "pictures of 48 px" in text
    slow = np.repeat(moving_square(15), 2, 0)

    class Slow:
        name = "slow"

        def clips(self):
            return [ClipInfo(name="a", embodiment="arm", fps=10.0, num_frames=n) for n in (30,)]

        def read(self, clip):
            return Episode(info=clip, frames=slow)

    assert check_clips(Slow()).clips[0].repeated == pytest.approx(0.5, abs=0.1)
    assert check_clips(Acting()).clips[0].repeated == 0


def test_what_to_drop_follows_the_kinds_asked_for(checked):
    kinds = {skip.clip: skip.kind for skip in skips_of(checked.report, ("camera", "short"))}
    assert kinds == {"hand/pan.mp4": "camera"}
    assert skips_of(checked.report, ()) == []


def test_a_source_of_which_nothing_is_usable_is_drawn_and_refused(tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "v/a.mp4").write_bytes(b"")
    with pytest.raises(InputError, match="usable clip"):
        check_source(open_source(f"folder:{tmp_path}/v"), page=tmp_path / "p.html")
    assert "a.mp4" in (tmp_path / "p.html").read_text()


def test_pages_of_different_sources_have_different_names():
    names = {page_name(text) for text in ("folder:a/v", "folder:b/v", "rlds:b/v?split=x", "x.y:Z=/b/v")}
    assert len(names) == 4 and all("/" not in name and "?" not in name for name in names)


def test_folders_that_name_episodes_are_not_taken_for_many_bodies():
    report = still_report(0)
    clips = tuple(replace(c, info=replace(c.info, embodiment=f"episode {i}")) for i, c in enumerate(report.clips))
    whats = [one.what for one in advice_on(replace(report, clips=clips))]
    assert "12 of 12 bodies have fewer than 10 clips" in whats and "1 clips" not in whats
