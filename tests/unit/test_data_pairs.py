import numpy as np
import pytest

from cyclemimic.data.pairs import gap_in_frames, valid_pairs
from cyclemimic.errors import InputError
from cyclemimic.types import ClipInfo


def clips(*lengths_and_fps):
    return [
        ClipInfo(name=str(i), embodiment="arm", fps=fps, num_frames=n) for i, (n, fps) in enumerate(lengths_and_fps)
    ]


def test_the_gap_is_a_time():
    assert [gap_in_frames(0.5, fps) for fps in (10, 5, 4, 3, 1, 0.5)] == [5, 3, 2, 2, 1, 1]


@pytest.mark.parametrize("seed", range(20))
def test_all_pairs_and_only_those_within_a_clip(seed):
    rng = np.random.default_rng(seed)
    given = clips(
        *[(int(n), float(f)) for n, f in zip(rng.integers(0, 30, 17), rng.choice([3, 5, 10], 17), strict=True)]
    )
    pairs = valid_pairs(given, 0.6)
    want = [
        (i, t, t + gap_in_frames(0.6, c.fps))
        for i, c in enumerate(given)
        for t in range(c.num_frames)
        if t + gap_in_frames(0.6, c.fps) < c.num_frames
    ]
    assert list(zip(pairs.clip, pairs.now, pairs.later, strict=True)) == want and len(pairs) == len(want)
    assert {s.name for s in pairs.skipped} == {c.name for i, c in enumerate(given) if i not in pairs.clip}


def test_short_clips_are_listed_with_a_reason():
    pairs = valid_pairs(clips((6, 10), (5, 10)), 0.5)
    assert len(pairs) == 1 and pairs.skipped[0].name == "1" and "needs 6" in pairs.skipped[0].reason


@pytest.mark.parametrize("gap_s", [0, -1, float("nan"), float("inf")])
def test_a_gap_that_is_no_time_is_refused(gap_s):
    with pytest.raises(InputError, match="gap_s"):
        valid_pairs(clips((6, 10)), gap_s)


def test_no_pair_at_all_is_an_input_error():
    with pytest.raises(InputError, match=r"longest 0\.60 s"):
        valid_pairs(clips((6, 10), (2, 10)), 5.0)
    with pytest.raises(InputError, match="0 clips"):
        valid_pairs([], 1.0)
    with pytest.raises(InputError, match="clip '0'"):
        valid_pairs(clips((6, 0)), 1.0)
