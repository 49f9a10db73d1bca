"""`cyclemimic evaluate` broken off anywhere: the same command goes on, and its record equals an unbroken one's."""

import os
import signal
import sys
import time
from collections import Counter
from functools import partial

import pytest
import torch

from cyclemimic.cli import main
from cyclemimic.evaluate import counterfactual, leak
from cyclemimic.evaluate import parts as kept
from cyclemimic.evaluate.judge import JudgeConfig
from cyclemimic.evaluate.leak import ReaderConfig
from cyclemimic.recipes import judging, measured_parts
from cyclemimic.recipes.footage import open_source
from cyclemimic.recipes.judging import run_quality
from cyclemimic.recipes.recipe import find_recipe
from cyclemimic.recipes.stations import film_world, run_tokenizer
from cyclemimic.store.atomic import read_json, write_json
from tests.journey.small import hashes, recipe

QUICK = ReaderConfig(width=4, steps=6, batch_size=8)


class KilledError(BaseException):
    """As a signal would end the work."""


@pytest.fixture(scope="module", autouse=True)
def _small():
    """A judge and readers of few steps, whose state is kept at every step; counterfactuals by twos."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "JudgeConfig", partial(JudgeConfig, width=4, steps=5))
        patch.setattr(judging, "ReaderConfig", lambda: QUICK)
        patch.setattr(counterfactual, "_BLOCK", 2)
        patch.setattr(counterfactual.build_counterfactuals, "__kwdefaults__",
                      {**counterfactual.build_counterfactuals.__kwdefaults__, "limit": 7, "tries": 12})  # fmt: skip
        patch.setattr(kept, "SAVE_S", 0.0)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A film, a tokenizer of two of its three bodies, and an unbroken measurement with controls."""
    root = tmp_path_factory.mktemp("parts")
    bodies = ("arm5", "gantry", "scara")
    # Names decide the side of a clip: from this seed on, eight of each body put clips of all three into the test.
    film_world("arms", root / "film", episodes=8, bodies=bodies, skills=["wander"], first_seed=59, actions=True)
    config = find_recipe("tiny", {"tiny": recipe}).in_one_run("genie")
    source = open_source(f"folder:{root}/film/video")
    run_tokenizer(source, config, root / "run", cache_root=root / "cache", bodies=bodies[:2], trunk=None)
    measured(root, "unbroken")
    return root


def measured(root, name, **options):
    options = {"controls": True, **options}
    return run_quality(
        root / "run", f"film:{root}/film", root / f"judge-{name}", root / name, cache_root=root / "cache", **options
    )


def test_a_measurement_killed_again_and_again_equals_an_unbroken_one(root, monkeypatch):
    written, left = Counter(), [0]
    write = kept.write_atomically

    def counted(path, content):
        if not left[0]:
            raise KilledError
        left[0] -= 1
        written[path.name] += 1
        write(path, content)

    def tensors(path, values, told):
        if not left[0]:
            raise KilledError
        left[0] -= 1
        save(path, values, told)

    save = kept.save_tensors
    monkeypatch.setattr(kept, "write_atomically", counted)
    monkeypatch.setattr(kept, "save_tensors", tensors)
    kills = 0
    while not (root / "broken/quality.json").exists():
        left[0] = 9
        try:
            measured(root, "broken")
        except KilledError:
            kills += 1
            assert list((root / "broken").iterdir()) == [root / "broken" / kept.PARTS]
    assert kills >= 8
    assert set(written.values()) == {1}, "no part is made twice"
    assert (root / "broken/quality.json").read_bytes() == (root / "unbroken/quality.json").read_bytes()
    assert hashes(root / "judge-broken") == hashes(root / "judge-unbroken")
    assert [path.name for path in (root / "broken").iterdir()] == ["quality.json"], "the parts are gone"


def test_parts_of_another_tokenizer_or_side_are_not_used(root, monkeypatch):
    source = open_source(f"film:{root}/film")
    cache = judging.cached(source, 16, root / "cache")

    def named(side="test", gap_s=0.6):
        parts = measured_parts.of_quality(root / "x", root / "run", cache, "arms", gap_s, side)
        return parts.path("labels", "npz").name

    before = named()
    assert before == named() and len({before, named("validation"), named(gap_s=0.4), named(gap_s={"arm5": 0.6})}) == 4
    facts = read_json(root / "run/tokenizer.json")
    try:
        write_json(root / "run/tokenizer.json", {**facts, "bodies": ["gantry"]})
        assert named() != before
    finally:
        write_json(root / "run/tokenizer.json", facts)
    assert named() == before


class Child:
    """A fork that measures by the command line; it pauses before every part, so that it is met at work."""

    def __init__(self, root, nap_s):
        self.log, self.code = root / "log", None
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                self._live(root, nap_s)
                code = 0
            except SystemExit as ended:
                code = ended.code
            finally:
                os._exit(code)

    def _live(self, root, nap_s):
        sys.stdout = sys.stderr = self.log.open("w", buffering=1)
        write = kept.write_atomically

        def slow(path, content):
            time.sleep(nap_s)
            write(path, content)

        kept.write_atomically = slow
        words = [str(root / "run"), "--source", f"film:{root}/film", "--judge", str(root / "judge-signals")]
        main(["evaluate", *words, "--out", str(root / "signals"), "--cache", str(root / "cache"), "--controls"])

    def ended(self):
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None


def wait_for(condition):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < 200
        time.sleep(0.01)


def test_signals_end_it_with_75_and_the_same_command_gives_the_same_record(root):
    assert torch.get_num_threads() == 1
    parts = root / "signals" / kept.PARTS

    def met(process, wanted):
        return process.ended() or len(list(parts.glob("*/*"))) >= wanted

    for number, name in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")):
        there = len(list(parts.glob("*/*")))
        process = Child(root, 0.1)
        wait_for(partial(met, process, there + 3))
        os.kill(process.pid, number)
        wait_for(process.ended)
        said = process.log.read_text()
        assert process.code == 75, said
        assert f"{name}: stopped. What was measured is kept. The same command goes on." in said
        assert "Traceback" not in said and not (root / "signals/quality.json").exists()
    process = Child(root, 0)
    wait_for(process.ended)
    assert process.code == 0, process.log.read_text()
    assert (root / "signals/quality.json").read_bytes() == (root / "unbroken/quality.json").read_bytes()
    assert not parts.exists()


def test_readers_that_were_finished_are_not_fitted_again(root, monkeypatch):
    """A kill between two readers: the first is found whole."""
    fitted, stop = [], [True]
    fit = leak.fit_reader

    def counted(see, codes, num_codes, *, parts, **words):
        if stop[0] and len(fitted) == 1:
            raise KilledError
        found = parts.under(words["config"].__dict__, words["seed"]).tensors("reader")
        fitted.append(None if found is None else int(found["done"]))
        return fit(see, codes, num_codes, parts=parts, **words)

    monkeypatch.setattr(leak, "fit_reader", counted)
    with pytest.raises(KilledError):
        measured(root, "readers", controls=False)
    stop[0] = False
    measured(root, "readers", controls=False)
    assert fitted == [None, QUICK.steps, None]
