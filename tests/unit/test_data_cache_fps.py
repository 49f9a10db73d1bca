"""`?cache_fps=`: fewer frames a second, in caches and in what the disk must hold."""

import shutil

import numpy as np
import pytest

from cyclemimic.data.sources.chosen import ChosenSource, thinned
from cyclemimic.data.video import write_video
from cyclemimic.errors import InputError
from cyclemimic.recipes.footage import cached, open_source
from cyclemimic.store.label_store import LabelStore
from cyclemimic.train import labels
from cyclemimic.types import ClipInfo, Episode
from tests.paper.small import small_tokenizer
from tests.unit.data_small import moving_square
from tests.unit.test_train_labels import cache_of_noise


@pytest.fixture
def videos(tmp_path):
    for name, count, fps in (("quick", 31, 30), ("slow", 7, 5)):
        write_video(tmp_path / f"videos/{name}.mp4", moving_square(count, 24, 24), fps)
    return tmp_path / "videos"


@pytest.mark.parametrize(("asked", "every"), [("10", 3), ("12", 3), ("15", 2), ("29.9", 2), ("30", 1), ("100", 1)])
def test_at_most_so_many_frames_a_second_are_kept_at_even_times(videos, asked, every):
    whole, less = open_source(f"folder:{videos}"), open_source(f"folder:{videos}?cache_fps={asked}")
    for before, after in zip(whole.clips(), less.clips(), strict=True):
        step = every if before.fps == 30 else 1
        episode = less.read(after)
        assert after.fps == before.fps / step and after.num_frames == len(episode.frames) == episode.info.num_frames
        np.testing.assert_array_equal(episode.frames, whole.read(before).frames[::step])
        assert any("frame is kept" in remark for remark in less.remarks_of(after)) == (step > 1)
    assert less.fingerprint() != whole.fingerprint(), "it is another source"


def test_a_cache_of_it_is_smaller_and_the_whole_one_offers_it(videos, tmp_path, capsys):
    big = cached(open_source(f"folder:{videos}"), 16, tmp_path / "cache")
    said = capsys.readouterr().out
    assert "2 clips to decode" in said and "MB needed" in said and "MB free" in said and "?cache_fps=10" in said
    small = cached(open_source(f"folder:{videos}?cache_fps=10"), 16, tmp_path / "cache")
    assert "?cache_fps" not in capsys.readouterr().out, "there is little left to save"
    assert (len(big.frames), len(small.frames)) == (38, 18)


def test_a_full_disk_says_which_rate_would_fit(videos, tmp_path, monkeypatch):
    # Of 38 frames of 768 bytes, 2.4 s, fifteen and a half fit: 6.4 frames a second.
    usage = shutil.disk_usage(tmp_path)._replace(free=15.5 * 768 / 0.8)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"\?cache_fps=6\.") as refused:
        cached(open_source(f"folder:{videos}"), 16, tmp_path / "cache")
    rate = str(refused.value).partition("cache_fps=")[2].split()[0]
    assert len(cached(open_source(f"folder:{videos}?cache_fps={rate}"), 16, tmp_path / "cache").frames) <= 15.5


def test_actions_are_left_out_because_each_leads_from_one_frame_to_the_next():
    class Robot:
        name = "robot"

        def clips(self):
            return [ClipInfo(name="a", embodiment="arm", fps=30.0, num_frames=7)]

        def read(self, clip):
            numbers = np.arange(7, dtype=np.float32)[:, None]
            return Episode(
                info=clip, frames=moving_square(7), actions=numbers[1:], proprioception=numbers,
                extra_frames={"wrist": moving_square(7, 20, 20)},
            )  # fmt: skip

    source = ChosenSource(Robot(), "robot?cache_fps=10", cache_fps=10.0)
    (clip,) = source.clips()
    episode = source.read(clip)
    assert episode.actions is None and episode.proprioception[:, 0].tolist() == [0, 3, 6]
    assert len(episode.extra_frames["wrist"]) == 3 and "no actions" in source.remarks_of(clip)[0]
    assert len(thinned(episode, 2).frames) == 2


@pytest.mark.parametrize("text", ["0", "-5", "many", "nan"])
def test_a_rate_that_is_none_is_refused(videos, text):
    with pytest.raises(InputError, match="cache_fps"):
        open_source(f"folder:{videos}?cache_fps={text}")


def test_label_says_what_it_needs_and_refuses_a_full_disk(tmp_path, monkeypatch, capsys):
    cache, words = cache_of_noise(tmp_path / "cache"), {"gap_s": 0.6}
    label = lambda out: labels.label_part(small_tokenizer(), "sha", cache, folder=tmp_path / out, **words)  # noqa: E731
    label("labels")
    said = capsys.readouterr().out
    assert f"about {len(LabelStore.open(tmp_path / 'labels'))} pairs to label" in said and "MB free" in said
    label("labels")
    assert "to label" not in capsys.readouterr().out, "nothing is left to do"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(InputError, match="80%"):
        label("more")
