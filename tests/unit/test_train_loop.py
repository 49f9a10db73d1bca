"""The loop, its checkpoints and optimisers: resumed equals unbroken, another configuration is refused."""

import itertools
import json

import pytest
import torch

from cyclemimic.errors import InputError
from cyclemimic.store.atomic import alone_in
from cyclemimic.train import checkpoint
from cyclemimic.train.checkpoint import (
    UNFINISHED,
    claim_run,
    latest_checkpoint,
    save_checkpoint,
    steps_of_checkpoints,
    tidy,
)
from cyclemimic.train.loop import METRICS_FILE, read_metrics, train
from cyclemimic.train.optim import (
    MovingAverage,
    adamw,
    load_optimizer_tensors,
    optimizer_tensors,
    update,
    warm_cosine,
    with_prefix,
    without_prefix,
)


class Walk:
    """A stage whose state is a number that each step moves by a function of the step alone."""

    def __init__(self, stop_at=None):
        self.place, self.stop_at = torch.zeros(1, dtype=torch.float64), stop_at

    def step(self, step):
        if step == self.stop_at:
            raise KeyboardInterrupt
        self.place = self.place * 0.9 + step
        return {"place": self.place.sum()} | ({"rare": torch.tensor(7.0)} if step == 3 else {})

    def state(self):
        return {"place": self.place}

    def load_state(self, tensors):
        self.place = tensors["place"].clone()


def run(stage, folder, steps=11, **config):
    train(
        stage,
        name="walk",
        run_dir=folder,
        config=config,
        steps=steps,
        checkpoint_every=3,
        log_every=2,
        samples_per_step=5,
    )
    return stage


def test_resumed_run_equals_the_unbroken_one_and_logs_each_step_once(tmp_path):
    unbroken = run(Walk(), tmp_path / "a")
    for stop_at in (2, 5, 10):
        with pytest.raises(KeyboardInterrupt):
            run(Walk(stop_at), tmp_path / "b")
    resumed = run(Walk(), tmp_path / "b")
    assert torch.equal(resumed.place, unbroken.place)
    steps = [[row["step"] for row in read_metrics(tmp_path / f)] for f in "ab"]
    assert steps[0] == [2, 4, 6, 8, 10, 11]
    assert len(set(steps[1])) == len(steps[1])


def test_finished_run_is_only_loaded(tmp_path):
    first = run(Walk(), tmp_path)
    again = run(Walk(stop_at=0), tmp_path)
    assert torch.equal(first.place, again.place)


def test_figures_that_are_not_logged_every_step_are_meaned_over_those_they_have(tmp_path):
    run(Walk(), tmp_path)
    assert [row["rare"] for row in read_metrics(tmp_path) if "rare" in row] == [7.0]


def test_another_configuration_is_refused_by_the_names_of_its_fields(tmp_path):
    run(Walk(), tmp_path, rate=1, size=3)
    with pytest.raises(InputError, match="rate 1 there, 2 here"):
        run(Walk(), tmp_path, rate=2, size=3)


def test_a_second_process_in_the_same_folder_is_refused(tmp_path):
    with alone_in(tmp_path), pytest.raises(InputError, match="a second one"):
        run(Walk(), tmp_path)


def test_a_row_that_was_cut_is_dropped(tmp_path):
    claim_run(tmp_path, {})
    save_checkpoint(tmp_path / "checkpoints", 3, Walk().state())
    rows = [json.dumps({"step": 2, "place": 1}), json.dumps({"step": 4, "place": 1}), '{"step": 6, "pl']
    (tmp_path / METRICS_FILE).write_text("\n".join(rows))
    run(Walk(), tmp_path)
    assert [row["step"] for row in read_metrics(tmp_path)][:3] == [2, 4, 6]


def test_half_written_checkpoint_is_ignored_and_removed(tmp_path):
    save_checkpoint(tmp_path, 3, {"x": torch.ones(2)})
    (tmp_path / f"{UNFINISHED}00000006").mkdir()
    step, tensors = latest_checkpoint(tmp_path)
    assert step == 3
    assert torch.equal(tensors["x"], torch.ones(2))
    tidy(tmp_path, keep_last=2)
    assert steps_of_checkpoints(tmp_path) == [3]
    assert not list(tmp_path.glob(f"{UNFINISHED}*"))


def test_only_the_last_checkpoints_are_kept(tmp_path):
    for step in (3, 6, 9):
        save_checkpoint(tmp_path, step, {"x": torch.ones(2)}, keep_last=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000006", "step-00000009"]


@pytest.mark.parametrize("at", [0, 1])
def test_a_kill_while_an_old_checkpoint_goes_leaves_none_that_only_looks_whole(tmp_path, monkeypatch, at):
    folder, true, calls = tmp_path / "checkpoints", checkpoint.shutil.rmtree, []
    claim_run(tmp_path, {})
    for step in (3, 6):
        save_checkpoint(folder, step, Walk().state())

    def killed(path, **more):
        calls.append(path)
        if len(calls) > 1 + at:  # the first clears the way for the new one
            (path / "state.safetensors").unlink(missing_ok=True)
            raise KeyboardInterrupt
        true(path, **more)

    monkeypatch.setattr(checkpoint.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, 9, Walk().state())
    monkeypatch.undo()
    assert all((folder / f"step-{s:08d}/state.safetensors").exists() for s in steps_of_checkpoints(folder))
    run(Walk(), tmp_path)  # goes on from step 9, and writes no other checkpoint
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000006", "step-00000009"]


def test_optimizer_state_survives_a_round_trip():
    def steps(module, optimizer, count):
        for _ in range(count):
            update(optimizer, module(torch.ones(3, 2)).square().sum(), clip_norm=1.0)

    torch.manual_seed(0)
    module = torch.nn.Linear(2, 5)
    other = torch.nn.Linear(2, 5)
    optimizers = [adamw(m, learning_rate=0.1, weight_decay=0.1) for m in (module, other)]
    steps(module, optimizers[0], 3)
    other.load_state_dict(module.state_dict())
    load_optimizer_tensors(optimizers[1], optimizer_tensors(optimizers[0], "o"), "o")
    for m, o in zip((module, other), optimizers, strict=True):
        steps(m, o, 2)
    assert torch.equal(module.weight, other.weight)


def test_vectors_do_not_decay():
    groups = adamw(torch.nn.Linear(2, 5), learning_rate=0.1, weight_decay=0.3).param_groups
    assert [(g["weight_decay"], [p.ndim for p in g["params"]]) for g in groups] == [(0.3, [2]), (0.0, [1])]


def test_update_refuses_a_gradient_that_is_not_finite_before_any_weight_moves():
    module = torch.nn.Linear(2, 5)
    before = module.weight.clone()
    with pytest.raises(RuntimeError, match="non-finite"):
        update(
            adamw(module, learning_rate=0.1, weight_decay=0), module(torch.full((1, 2), torch.inf)).sum(), clip_norm=1
        )
    assert torch.equal(module.weight, before)


def test_schedule_warms_up_then_falls_to_its_end():
    factors = [warm_cosine(s, steps=100, warmup=10, final=0.2) for s in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == pytest.approx(1)
    assert factors[100] == pytest.approx(0.2)
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))


def test_moving_average_moves_by_its_decay_and_survives():
    module = torch.nn.Linear(2, 5)
    average = MovingAverage(module, 0.75)
    start = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.add_(4)
    average.update(module)
    torch.testing.assert_close(average.average["weight"], start + 1)
    other = MovingAverage(torch.nn.Linear(2, 5), 0.75)
    other.load(average.tensors("a"), "a")
    assert torch.equal(other.average["weight"], average.average["weight"])


def test_frozen_weights_are_neither_averaged_nor_saved_twice():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3).requires_grad_(False), torch.nn.BatchNorm1d(3))
    module[0].bias.requires_grad_(True)
    average = MovingAverage(module, 0.5)
    assert set(average.tensors("a")) == {"a.0.bias"} | {f"a.1.{n}" for n in module[1].state_dict()}
    with torch.no_grad():
        module[0].weight.fill_(5)
    whole = average.whole(module)
    assert list(whole) == list(module.state_dict())
    assert whole["0.weight"].data_ptr() == module[0].weight.data_ptr()
    assert whole["0.bias"] is average.average["0.bias"]


def test_tied_weights_are_averaged_under_both_names():
    module = torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)])
    module[1].weight = module[0].weight
    assert {"0.weight", "1.weight"} <= set(MovingAverage(module, 0.5).average)


def test_prefixes_undo_each_other():
    tensors = {"a": torch.ones(1), "b.c": torch.zeros(1)}
    assert without_prefix({**with_prefix(tensors, "x"), "xy.a": torch.ones(1)}, "x") == tensors
