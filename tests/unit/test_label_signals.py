"""`cyclemimic label` under signals: exit code 75, and the same command ends with the bytes of an unbroken run."""

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest

from cyclemimic.cli import main
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.video import write_video
from cyclemimic.recipes.stations import run_label, run_tokenizer
from cyclemimic.store.label_store import LabelProvenance, LabelRows, LabelStoreWriter
from cyclemimic.train import labels
from cyclemimic.train.endings import RunInterruptedError
from cyclemimic.train.signals import ended_at_once
from tests.journey.small import hashes, recipe
from tests.unit.data_small import moving_square

BATCH, SITTING = 3, 2


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with video, a tokenizer and the labels of an unbroken run, in small sittings."""
    root = tmp_path_factory.mktemp("signals")
    for i in range(2):
        write_video(root / f"video/arm/{i}.mp4", moving_square(43, 16, 16, start=i), 5)
    config = replace(recipe().trunk, steps=2, checkpoint_every=2)
    source = FolderSource(root / "video")
    run_tokenizer(source, config, root / "run", cache_root=root / "cache", trunk=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels, "SITTING_BATCHES", SITTING)
        patch.setitem(labels.label_part.__kwdefaults__, "batch_size", BATCH)
        run_label(source, root / "run", root / "unbroken", cache_root=root / "cache", threads=1)
    return root


class Child:
    """A fork that labels in small sittings by the command line; slow enough to be met at work."""

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
        true, seen = labels.LatentActionTokenizer.label_scenes, []

        def slow(tokenizer, *scenes):
            seen.append(time.sleep(nap_s))
            return true(tokenizer, *scenes)

        labels.LatentActionTokenizer.label_scenes = slow
        labels.SITTING_BATCHES = SITTING
        labels.label_part.__kwdefaults__["batch_size"] = BATCH
        words = ["--source", f"folder:{root}/video", "--tokenizer", f"{root}/run", "--out", f"{root}/broken"]
        main(["label", *words, "--cache", f"{root}/cache"])
        print("batches", len(seen))

    def ended(self):
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None


def at_work(process, sittings, wanted):
    return process.ended() or len(list(sittings.glob("labels-00000-*.parquet"))) >= wanted


def wait_for(condition):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < 200
        time.sleep(0.01)


def test_signals_end_it_with_75_and_the_same_command_gives_the_same_bytes(made):
    sittings = made / "broken/.sittings"
    for number, name in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")):
        there = len(list(sittings.glob("labels-00000-*.parquet")))
        process = Child(made, 0.2)
        wait_for(partial(at_work, process, sittings, there + 2))
        os.kill(process.pid, number)
        wait_for(process.ended)
        said = process.log.read_text()
        assert process.code == 75, said
        assert f"{name}: stopped." in said and "The same command goes on." in said and "Traceback" not in said
        assert not (made / "broken/labels-00000.parquet").exists(), "within its first shard"
    kept = len(list(sittings.glob("*.parquet")))
    process = Child(made, 0)
    wait_for(process.ended)
    said = process.log.read_text()
    assert process.code == 0, said
    batches = sum(-(-len(shard) // BATCH) for shard in shards_in(made / "unbroken"))
    assert kept >= 4 and int(said.split()[-1]) == batches - SITTING * kept
    assert hashes(made / "broken") == hashes(made / "unbroken")
    assert not sittings.exists()


def shards_in(folder):
    return [pq.read_table(path) for path in sorted(folder.glob("labels-*.parquet"))]


def test_sittings_that_are_damaged_or_of_other_settings_are_made_again(made, tmp_path, monkeypatch):
    source = FolderSource(made / "video")
    monkeypatch.setattr(labels, "SITTING_BATCHES", SITTING)
    monkeypatch.setitem(labels.label_part.__kwdefaults__, "batch_size", BATCH)
    stop_after(monkeypatch, 7)
    with pytest.raises(RunInterruptedError):
        run_label(source, made / "run", tmp_path / "labels", cache_root=made / "cache", threads=1)
    found = sorted((tmp_path / "labels/.sittings").glob("*.parquet"))
    assert len(found) == 3
    found[1].write_bytes(found[1].read_bytes()[:50])
    monkeypatch.undo()
    monkeypatch.setattr(labels, "SITTING_BATCHES", SITTING)
    monkeypatch.setitem(labels.label_part.__kwdefaults__, "batch_size", BATCH)
    run_label(source, made / "run", tmp_path / "labels", cache_root=made / "cache", threads=1)
    assert hashes(tmp_path / "labels") == hashes(made / "unbroken")


def stop_after(monkeypatch, batches):
    true, seen = labels.LatentActionTokenizer.label_scenes, []

    def label_scenes(self, *scenes):
        if len(seen) == batches:
            signal.raise_signal(signal.SIGTERM)
        seen.append(0)
        return true(self, *scenes)

    monkeypatch.setattr(labels.LatentActionTokenizer, "label_scenes", label_scenes)


def test_kept_rows_come_back_in_order_and_up_to_a_gap(tmp_path):
    told = LabelProvenance(
        tokenizer_sha256="t", source_hash="s", gap_s=0.6, camera="c", num_codes=7, num_tokens=2, made_by="x"
    )
    writer = LabelStoreWriter(tmp_path, told, 2)

    def rows(frame):
        codes = np.full((1, 2), frame, np.int64)
        return LabelRows(clip=("a",), frame=np.array([frame], np.int32), codes=codes, margin=np.zeros(1, np.float32))

    for sitting in (0, 1, 3):
        writer.keep(1, sitting, rows(sitting))
    assert [int(r.frame[0]) for r in writer.kept(1)] == [0, 1] and writer.kept(0) == []
    assert LabelStoreWriter(tmp_path, told, 2).missing() == (0, 1), "a sitting is no shard"
    left = {path.name: path.read_bytes() for path in (tmp_path / ".sittings").iterdir()}
    writer.write(1, rows(5))
    assert not (tmp_path / ".sittings").exists()
    (tmp_path / ".sittings").mkdir()
    for name, content in left.items():  # as if killed right behind the shard
        (tmp_path / ".sittings" / name).write_bytes(content)
    LabelStoreWriter(tmp_path, told, 2)
    assert not (tmp_path / ".sittings").exists()


def test_signals_are_what_they_were_behind_the_block_and_an_echo_is_one_wish():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    ends = []
    with pytest.raises(RunInterruptedError, match=r"SIGTERM: stopped\. All is kept\."), ended_at_once("All is kept."):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # passed on by a launcher
            ends.append("tidied up")
    assert ends == ["tidied up"]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_in_another_thread_nothing_changes():
    found = []

    def work():
        with ended_at_once("x"):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
