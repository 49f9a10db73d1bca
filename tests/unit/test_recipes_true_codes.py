"""Perfect codes: labels of true motion that pre-training reads as any others."""

from types import SimpleNamespace

import numpy as np
import pytest

from cyclemimic.data.sources.film import FilmSource
from cyclemimic.errors import InputError
from cyclemimic.policy.network import NETWORK_FILE, WEIGHTS_FILE
from cyclemimic.policy.policy import POLICY_FILE
from cyclemimic.recipes import true_codes
from cyclemimic.recipes.true_codes import FILE, MotionCodebook, label_true_motion
from cyclemimic.store.label_store import LabelStore
from cyclemimic.types import ClipInfo

GAP_S, FPS, FRAMES = 0.6, 5.0, 9
# Exact in binary, or the second round names how sums are rounded.
DIRECTIONS = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 128


class Film(FilmSource):
    """Hands that go straight on, each clip another way; the second body the same ways as the first."""

    def __init__(self, bodies=("one", "two"), fingerprint="film"):
        self.name, self._fingerprint = "film:small", fingerprint
        self._clips = [
            ClipInfo(name=f"{body}/{i}", embodiment=body, fps=FPS, num_frames=FRAMES, instruction="go", licence=None)
            for body in bodies
            for i in range(len(DIRECTIONS))
        ]

    def clips(self):
        return self._clips

    def fingerprint(self):
        return self._fingerprint

    def actions_of(self, clip):
        way = DIRECTIONS[int(clip.name[-1])]
        return np.zeros((FRAMES - 1, 5), np.float32), (np.arange(FRAMES)[:, None] * way).astype(np.float32)


def test_equal_motions_of_different_bodies_get_equal_codes_and_others_do_not(tmp_path):
    store = label_true_motion(Film(), tmp_path / "labels", tmp_path / "labels", gap_s=GAP_S)
    assert (store.provenance.num_codes, store.provenance.num_tokens) == (16, 2)
    assert len(store) == 8 * (FRAMES - 3), "a gap is three frames"
    first = {name: {tuple(c) for c in store.codes_for(name)[1].tolist()} for name in store.clips}
    assert all(len(codes) == 1 for codes in first.values())
    assert len({next(iter(codes))[0] for name, codes in first.items() if name.startswith("one")}) == len(DIRECTIONS)
    for i in range(len(DIRECTIONS)):
        assert first[f"one/{i}"] == first[f"two/{i}"]


def test_demonstrations_take_the_codebook_of_the_video(tmp_path):
    video = label_true_motion(Film(), tmp_path / "video", tmp_path / "video", gap_s=GAP_S, bodies=("two",))
    assert {name.split("/")[0] for name in video.clips} == {"two"}
    shown = label_true_motion(Film(("one",), "shown"), tmp_path / "shown", tmp_path / "video", gap_s=GAP_S)
    shown.require(tokenizer_sha256=video.provenance.tokenizer_sha256, source_hash="shown")
    assert not (tmp_path / "shown" / FILE).exists()
    assert (shown.codes_for("one/2")[1] == video.codes_for("two/2")[1]).all()
    before = (tmp_path / "shown/labels-00000.parquet").stat().st_mtime_ns
    again = label_true_motion(Film(("one",), "shown"), tmp_path / "shown", tmp_path / "video", gap_s=GAP_S)
    assert len(again) == len(shown) and (tmp_path / "shown/labels-00000.parquet").stat().st_mtime_ns == before
    assert len(LabelStore.open(tmp_path / "video")) == len(video)


def test_what_cannot_be_labelled_is_refused(tmp_path, monkeypatch):
    label_true_motion(Film(), tmp_path / "labels", tmp_path / "book", gap_s=GAP_S)
    with pytest.raises(InputError, match="gap of"):
        label_true_motion(Film(), tmp_path / "other", tmp_path / "book", gap_s=0.4)
    with pytest.raises(InputError, match="--bodies"):
        label_true_motion(Film(), tmp_path / "other", tmp_path / "book", gap_s=GAP_S, bodies=("three",))
    (tmp_path / "book" / FILE).write_text("{}")
    with pytest.raises(InputError, match="codebook of true motion"):
        MotionCodebook.load(tmp_path / "book")
    monkeypatch.setattr(true_codes, "true_places", lambda source: {})
    with pytest.raises(InputError, match="proprioception"):
        label_true_motion(Film(), tmp_path / "blind", tmp_path / "new", gap_s=GAP_S)


def test_the_best_of_several_policies_is_chosen_and_none_is_run_twice(tmp_path, monkeypatch):
    from cyclemimic.recipes import acting

    solved = {"a": 0.25, "b": 0.75, "c": 0.75}
    ran = []

    def run_rollouts(run, world, *, out, **words):
        ran.append(run.name)
        out.mkdir(parents=True)
        (out / "rollouts-as-it-is.json").write_text("{}")

    def load_rollouts(folder, name):
        from cyclemimic.evaluate.statistics import success_row

        return SimpleNamespace(row=lambda: success_row(round(4 * solved[folder.parent.name]), 4))

    monkeypatch.setattr(acting, "run_rollouts", run_rollouts)
    monkeypatch.setattr(acting, "load_rollouts", load_rollouts)
    runs = [tmp_path / name for name in solved]
    for run in runs:
        run.mkdir()
        for name in (WEIGHTS_FILE, NETWORK_FILE, POLICY_FILE):
            (run / name).write_text(run.name)
    words = {"body": "arm6", "skills": ("reach",), "episodes": 4}
    for _ in range(2):
        best = acting.best_of(runs, "arms", first_seed=7, out=tmp_path / "out", **words)
        assert best == tmp_path / "b", "the first of equals"
    assert ran == ["a", "b", "c"]
    acting.best_of(runs, "arms", first_seed=8, out=tmp_path / "out", **words)
    assert len(ran) == 6, "other starts are another question"
    (runs[0] / WEIGHTS_FILE).write_text("trained again")
    acting.best_of(runs, "arms", first_seed=7, out=tmp_path / "out", **words)
    assert ran[6:] == ["a"], "what other weights did says nothing"
    from cyclemimic.store.atomic import read_json

    assert [row["rate"] for row in read_json(tmp_path / "out/choice.json")["runs"]] == [0.25, 0.75, 0.75]
