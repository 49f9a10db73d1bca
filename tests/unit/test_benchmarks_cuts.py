"""The benchmark of scene cuts counts what is there: on generated clips, and against answers that are known."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from cyclemimic.data.cuts import Changes, Looks, find_cuts, looks_of
from cyclemimic.data.video import write_video
from cyclemimic.errors import InputError
from cyclemimic.recipes.footage import open_source

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FRAMES, SIZE_PX = 24, 64


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cuts

    return cuts


def shot(seed, num_frames=FRAMES):
    """A scene of its own in which a patch wanders."""
    rng = np.random.default_rng(seed)
    scene = cv2.resize(rng.integers(0, 255, (7, 9, 3), np.uint8), (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_CUBIC)
    frames = np.repeat(scene[None], num_frames, 0)
    for t in range(num_frames):
        at = (seed * 7 + t) % (SIZE_PX - 9)
        frames[t, 20:29, at : at + 9] = (250, 10, 120)
    return frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two bodies with four recordings each, one of them in two parts; and a clip with a cut of its own."""
    root = tmp_path_factory.mktemp("clips")
    for number in range(8):
        write_video(root / f"{'ab'[number % 2]}/rec{number}__part1.mp4", shot(number), 10)
    write_video(root / "a/rec0__part2.mp4", shot(0), 10)
    write_video(root / "b/spliced.mp4", np.concatenate([shot(20, 9), shot(21, 9)]), 10)
    (root / "b/broken.mp4").write_bytes(b"no video")
    return root


def test_looks_of_stretches_are_those_of_the_splice():
    one, other = shot(1), shot(2)
    joined = Looks.joined([looks_of(one)[3:12], looks_of(other)[5:9]])
    frames = np.concatenate([one[3:12], other[5:9]])
    assert Changes(joined).cuts().tolist() == find_cuts(frames).tolist() == [9]


def test_cuts_are_matched_once_each_and_only_within_the_tolerance(bench):
    assert bench.matched([5, 10], [10, 5], 0) == ([True, True], 0)
    assert bench.matched([5, 10], [6, 11, 30], 0) == ([False, False], 3)
    assert bench.matched([5, 10], [6, 11, 30], 1) == ([True, True], 1)
    assert bench.matched([5], [4, 5, 6], 2) == ([True], 2)
    assert bench.matched([], [3], 0) == ([], 1) and bench.matched([3], [], 9) == ([False], 0)


def test_halves_share_no_group_and_both_have_every_body(bench, folder, capsys):
    clips = bench.read_clips(open_source(f"folder:{folder}"), None)
    assert "left out" in capsys.readouterr().out and len(clips) == 10
    assert {c.recording for c in clips if "rec0" in c.name} == {"a/rec0"}
    for seed in range(5):
        sides = bench.halves(clips, seed)
        groups = [{c.group for c in side} for side in sides]
        assert not groups[0] & groups[1] and sum(map(len, sides)) == 10
        assert all({c.body for c in side} == {"a", "b"} for side in sides)
    with pytest.raises(InputError, match="fits every clip"):
        bench.read_clips(open_source(f"folder:{folder}"), "a/(.*)")
    assert {c.group for c in bench.read_clips(open_source(f"folder:{folder}"), "(.)/")} == {"a", "b"}


def test_what_is_measured_is_what_was_spliced(bench, folder):
    words = {"splices": 24, "seed": 0, "tolerance": 0, "group": None}
    found = bench.measure(open_source(f"folder:{folder}"), **words)
    assert found["clips"] == 10 and found["recordings"] == 9 and found["splices"] == 24
    assert found["unspliced"] == {"b/spliced.mp4": [9]}
    judged = found["as_it_is"]
    assert judged["cuts"] == sum(kind["cuts"] for kind in found["within"].values()) >= 24
    assert judged["recall"] == 1.0  # scenes that have nothing in common
    assert judged["precision_95"][0] < judged["precision"] <= 1.0 and judged["reported"] >= judged["cuts"]
    assert len(found["limits_chosen_on_other_video"]["limits"]) == 2
    assert found == bench.measure(open_source(f"folder:{folder}"), **words)
    assert found["as_it_is"] != bench.measure(open_source(f"folder:{folder}"), **{**words, "seed": 3})["as_it_is"]


def test_a_judge_that_can_say_no(bench, folder):
    """Limits that nothing exceeds find nothing, limits that all exceeds report too much, and the best are chosen."""
    clips = bench.read_clips(open_source(f"folder:{folder}"), None)
    splices = bench.splices_of(clips, 12, 0)
    none, much = bench.judged(splices, 0, 9.0, 0.0), bench.judged(splices, 0, -1.0, 0.0)
    assert none.facts()["recall"] == 0 and none.facts()["reported"] == 0
    assert much.facts()["recall"] == 1 and much.facts()["precision"] < 0.2
    least, over = bench.chosen(splices, 0)
    assert bench.judged(splices, 0, least, over).f1 >= bench.judged(splices, 0).f1 > 0.9  # ours are of the grid


def test_one_recording_is_refused(bench, folder):
    clips = [c for c in bench.read_clips(open_source(f"folder:{folder}"), None) if c.recording == "a/rec0"]
    assert len(clips) == 2
    with pytest.raises(InputError, match="two recordings"):
        bench.splices_of(clips, 1, 0)
