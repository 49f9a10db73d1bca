"""What ends a run before its last step: signals, losses that are not finite, full disks, too little memory."""

import errno
import json
import os
import signal
import threading
import time

import pytest
import torch

from cyclemimic.errors import InputError
from cyclemimic.store import weights
from cyclemimic.store.weights import load_tensors
from cyclemimic.train import checkpoint, endings
from cyclemimic.train.checkpoint import CheckpointWriter, save_checkpoint, steps_of_checkpoints
from cyclemimic.train.endings import DiskFullError, NotFiniteError, OutOfMemoryError, RunInterruptedError
from cyclemimic.train.loop import LoopConfig, read_metrics, train
from cyclemimic.train.memory import MemoryUse, batch_that_fits, is_out_of_memory
from cyclemimic.train.optim import adamw, load_optimizer_tensors, optimizer_tensors, update
from cyclemimic.train.signals import Signals

QUIET = LoopConfig(tracker="none")


class Line:
    """Fits a line; `at` maps a step to what happens in it, with the batch."""

    def __init__(self, at=None):
        torch.manual_seed(1)
        self.module, self.at = torch.nn.Linear(3, 2), at or {}
        self.optimizer = adamw(self.module, learning_rate=0.1, weight_decay=0)

    def step(self, step):
        x = torch.randn(7, 3, generator=torch.Generator().manual_seed(step))
        self.batch = {"index": torch.arange(7) + step, "x": x}
        if step in self.at:
            x = self.at[step](x)
        fit, size = (self.module(x) - 1).square().mean(), x.sum() * 0
        terms = {"fit_loss": fit, "size_loss": size}
        return {**terms, "norm": update(self.optimizer, fit + size, clip_norm=1.0, terms=terms)}

    def last_batch(self):
        return self.batch

    def state(self):
        return {"weight": self.module.weight, "bias": self.module.bias, **optimizer_tensors(self.optimizer, "o")}

    def load_state(self, tensors):
        with torch.no_grad():
            self.module.weight.copy_(tensors["weight"])
            self.module.bias.copy_(tensors["bias"])
        load_optimizer_tensors(self.optimizer, tensors, "o")


def run(stage, folder, steps=11, loop=QUIET, every=3):
    train(
        stage, name="line", run_dir=folder, config={"seed": 5}, steps=steps, checkpoint_every=every, log_every=2,
        samples_per_step=7, loop=loop,
    )  # fmt: skip
    return stage


def kept(folder):
    return steps_of_checkpoints(folder / "checkpoints")


def send(number):
    def wrong(x):
        os.kill(os.getpid(), number)
        return x

    return wrong


def fail(error):
    def wrong(x):
        raise error

    return wrong


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_behind_its_step_with_a_checkpoint(tmp_path, number):
    before = signal.getsignal(number)
    whole = run(Line(), tmp_path / "a")
    with pytest.raises(RunInterruptedError, match=f"stopped by {number.name} at step 5; the same command goes on"):
        run(Line({4: send(number)}), tmp_path / "b")
    assert kept(tmp_path / "b") == [3, 5]
    assert signal.getsignal(number) == before
    again = run(Line(), tmp_path / "b")
    assert torch.equal(again.module.weight, whole.module.weight)
    assert [row["step"] for row in read_metrics(tmp_path / "b")] == [2, 4, 6, 8, 10, 11]


def test_a_signal_in_the_last_step_lets_the_run_end(tmp_path):
    run(Line({10: send(signal.SIGTERM)}), tmp_path)
    assert (tmp_path / "state.safetensors").exists()


def test_a_signal_passed_on_is_one_wish_and_a_later_one_is_obeyed(monkeypatch):
    with pytest.raises(KeyboardInterrupt), Signals() as signals:
        monkeypatch.setattr(signal, "raise_signal", lambda number: (_ for _ in ()).throw(KeyboardInterrupt))
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.caught == signal.SIGTERM
        signals._caught_s -= 10
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_every_ending_has_a_code_of_its_own_kind():
    classes = endings.RunEndedError.__subclasses__()
    assert len(classes) == 6 and {c.exit_code for c in classes} == {69, 70, 71, 73, 75}
    assert [c for c in classes if c.exit_code == 75] == [RunInterruptedError]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_stops_before_a_weight_moves_and_leaves_its_batch(tmp_path, bad):
    broken = Line({4: lambda x: torch.where(torch.arange(7)[:, None] == 2, bad, x)})
    with pytest.raises(NotFiniteError) as ended:
        run(broken, tmp_path)
    said = str(ended.value)
    folder = tmp_path / "nonfinite-step-4"
    assert "line, step 4: the loss is not finite (non-finite terms: fit_loss, size_loss)" in said
    assert str(folder) in said and "checkpoint of step 3 is good" in said and "learning_rate" in said
    facts = json.loads((folder / "terms.json").read_text())
    assert (facts["step"], facts["seed"]) == (4, 5)
    assert facts["terms"]["fit_loss"] in ("nan", "inf") and set(facts["terms"]) == {"loss", "fit_loss", "size_loss"}
    assert facts["batch_not_finite"] == []  # the data were good: the fault is behind them
    batch, _ = load_tensors(folder / "batch.safetensors")
    assert torch.equal(batch["x"], broken.batch["x"]) and batch["index"].tolist() == list(range(4, 11))
    assert kept(tmp_path) == [3]
    four = run(Line(), tmp_path / "b", steps=4)
    assert torch.equal(broken.module.weight, four.module.weight)


def test_only_the_terms_that_are_not_finite_are_named():
    module = torch.nn.Linear(2, 3)
    good = module(torch.ones(1, 2)).sum()
    bad = good * torch.inf
    with pytest.raises(NotFiniteError, match=r"non-finite terms: cycle\)"):
        update(
            adamw(module, learning_rate=0.1, weight_decay=0), good + bad, clip_norm=1, terms={"a": good, "cycle": bad}
        )


def test_a_gradient_that_is_not_finite_is_named_by_its_weight():
    module = torch.nn.ModuleDict({"good": torch.nn.Linear(2, 1), "bad": torch.nn.Linear(2, 1, bias=False)})
    torch.nn.init.zeros_(module["bad"].weight)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    x = torch.ones(1, 2)
    loss = module["good"](x).sum() + module["bad"](x).abs().sqrt().sum()  # finite, its slope at 0 is not
    with pytest.raises(NotFiniteError, match=r"the gradient is not finite .* 1 weights, such as bad.weight"):
        update(adamw(module, learning_rate=0.1, weight_decay=0.1), loss, clip_norm=1)
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_a_stage_that_keeps_no_batch_still_says_the_terms(tmp_path):
    class Bare:
        def __init__(self):
            line = Line({0: lambda x: x * torch.nan})
            self.step, self.state, self.load_state = line.step, line.state, line.load_state

    with pytest.raises(NotFiniteError, match="there is no checkpoint yet"):
        run(Bare(), tmp_path)
    assert [p.name for p in (tmp_path / "nonfinite-step-0").iterdir()] == ["terms.json"]


def test_keep_last_and_the_clock(tmp_path):
    run(Line(), tmp_path / "a", loop=LoopConfig(tracker="none", keep_last=1))
    assert kept(tmp_path / "a") == [9]
    run(Line(), tmp_path / "b", loop=LoopConfig(tracker="none", keep_last=4))
    assert kept(tmp_path / "b") == [3, 6, 9]
    run(Line(), tmp_path / "c", loop=LoopConfig(tracker="none", checkpoint_every_s=1e-9, keep_last=3), every=1000)
    assert kept(tmp_path / "c") == [8, 9, 10]
    for wrong in ({"keep_last": 0}, {"checkpoint_every_s": 0.0}):
        with pytest.raises(InputError):
            LoopConfig(**wrong)


def test_other_settings_of_the_loop_go_on_with_the_same_run(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Line({5: fail(KeyboardInterrupt)}), tmp_path)
    run(Line(), tmp_path, loop=LoopConfig(tracker="none", keep_last=1, checkpoint_every_s=100))
    assert kept(tmp_path) == [9]


def test_a_checkpoint_is_written_beside_the_steps_from_a_copy(tmp_path, monkeypatch):
    gate, began = threading.Event(), threading.Event()
    true = checkpoint.save_tensors

    def slow(path, tensors, metadata):
        began.set()
        assert gate.wait(10)
        true(path, tensors, metadata)

    monkeypatch.setattr(checkpoint, "save_tensors", slow)
    writer = CheckpointWriter(tmp_path, keep_last=2)
    value = torch.ones(3)
    writer.save(3, {"x": value})
    assert began.wait(10)
    value.mul_(7)  # training goes on
    assert steps_of_checkpoints(tmp_path) == [] and not writer.failed()
    gate.set()
    writer.save(6, {"x": value})  # waits for the first
    assert steps_of_checkpoints(tmp_path)[0] == 3
    writer.wait()
    assert load_tensors(tmp_path / "step-00000003/state.safetensors")[0]["x"].tolist() == [1, 1, 1]
    assert load_tensors(tmp_path / "step-00000006/state.safetensors")[0]["x"].tolist() == [7, 7, 7]
    writer.close()


def full_disk(monkeypatch, from_call=1):
    """From some call on, files end half-written with ENOSPC."""
    true, calls = weights.save_file, []

    def full(tensors, path, metadata):
        calls.append(path)
        if len(calls) >= from_call:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        true(tensors, path, metadata=metadata)

    monkeypatch.setattr(weights, "save_file", full)
    return true


def test_a_full_disk_is_one_message_and_the_older_checkpoint_stays_whole(tmp_path, monkeypatch):
    true = full_disk(monkeypatch, from_call=2)
    with pytest.raises(DiskFullError) as ended:
        run(Line(), tmp_path)
    said = str(ended.value)
    assert str(tmp_path / "checkpoints") in said and "MB are free" in said and "--keep-last 1" in said
    assert kept(tmp_path) == [3]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]
    monkeypatch.setattr(weights, "save_file", true)
    resumed, whole = run(Line(), tmp_path), run(Line(), tmp_path / "whole")
    assert torch.equal(resumed.module.weight, whole.module.weight)


def test_a_full_disk_at_the_very_end_and_in_words_of_safetensors(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(tensors, path, metadata):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(DiskFullError):
        run(Line(), tmp_path, every=1000)
    assert not (tmp_path / "state.safetensors").exists()
    with pytest.raises(SafetensorError):
        monkeypatch.setattr(weights, "save_file", lambda *a, **k: (_ for _ in ()).throw(SafetensorError("torn")))
        save_checkpoint(tmp_path / "other", 3, {"x": torch.ones(1)})
    assert list((tmp_path / "other").iterdir()) == []


def test_too_little_memory_says_a_batch_that_fits(tmp_path):
    words = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
    with pytest.raises(OutOfMemoryError) as ended:
        run(Line({4: fail(RuntimeError(words))}), tmp_path)
    said = str(ended.value)
    assert "line, step 4: a batch of 7 does not fit into memory" in said and "A batch of 3 should fit (a guess" in said
    assert kept(tmp_path) == [3]
    with pytest.raises(RuntimeError, match="shapes"):
        run(Line({4: fail(RuntimeError("shapes do not match"))}), tmp_path)


def test_what_counts_as_too_little_memory():
    assert all(map(is_out_of_memory, (torch.OutOfMemoryError("x"), MemoryError())))
    with pytest.raises(RuntimeError) as ended:
        torch.empty(1 << 46)
    assert is_out_of_memory(ended.value)
    assert not is_out_of_memory(ValueError("out of memory"))


def test_the_batch_is_halved_until_it_fits():
    assert batch_that_fits(64, None) == 32 and batch_that_fits(1, None) == 1
    use = MemoryUse(resting_bytes=10, peak_bytes=10 + 64 * 100, capacity_bytes=1000)  # 100 bytes a sample
    assert batch_that_fits(64, use) == 8 and batch_that_fits(2 * 64, use, count=2) == 16
    assert batch_that_fits(64, MemoryUse(resting_bytes=990, peak_bytes=7390, capacity_bytes=1000)) == 1
