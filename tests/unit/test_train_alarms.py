"""Each rule on made-up figures: it speaks where it should, once, and is silent otherwise."""

import itertools
import json

import pytest
import torch

from cyclemimic.train.alarms import AlarmConfig, Watch
from cyclemimic.train.loop import LoopConfig, train
from cyclemimic.train.record import ALARMS_FILE

GOOD = {
    "joint_codes": 60.0,
    "slot_perplexity": 9.0,
    "reconstruction": 0.5,
    "reconstruction_shuffled": 0.9,
    "cycle_accuracy_clean": 0.8,
    "cycle_accuracy": 0.7,
    "painted": 0.05,
    "data_wait_share": 0.02,
}
SETTLE, PATIENCE = AlarmConfig().settle, AlarmConfig().patience


def alarms(rows, watch=None, start=1):
    watch = watch or Watch(AlarmConfig())
    return [alarm for step, row in enumerate(rows, start) for alarm in watch.look(step, row)]


def healthy(count=SETTLE + 5):
    return [dict(GOOD) for _ in range(count)]


def then(count=PATIENCE, **changed):
    return healthy() + [{**GOOD, **changed} for _ in range(count)]


def test_good_figures_raise_no_alarm():
    wobbling = [{**GOOD, "joint_codes": 60 + 20 * (-1) ** i, "reconstruction": 0.5 + 0.02 * (i % 3)} for i in range(60)]
    assert alarms(healthy() + wobbling) == []
    assert alarms([{"latent_nll": 1.0}] * 60) == [], "a stage without these figures"


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("collapse", {"joint_codes": 17.0}, "joint_codes is 17, its best was 60"),
        ("collapse", {"slot_perplexity": 2.0}, "slot_perplexity is 2"),
        ("leak", {"cycle_accuracy": 0.2}, "0.80 on clean frames, 0.20 on corrupted"),
        ("leak", {"reconstruction": 0.7}, "while reconstruction went from 0.5 to 0.7"),
        ("leak", {"painted": 0.4}, "40% of the picture is painted"),
        ("ignored latent", {"reconstruction_shuffled": 0.51}, "0.5 with the right code and 0.51 with a wrong one"),
        ("starving loader", {"data_wait_share": 0.6}, "60% of the time"),
    ],
)
def test_each_fault_has_its_alarm(name, changed, said):
    (alarm,) = alarms(then(**changed))
    assert alarm.name == name and said in alarm.seen
    assert str(alarm).startswith(f"ALARM {name} at step {SETTLE + 5 + PATIENCE}: ")
    assert " Likely: " in str(alarm) and " Try: " in str(alarm)
    assert alarms(then(PATIENCE - 1, **changed)) == [], "one odd row is no alarm"


@pytest.mark.parametrize(
    "changed",
    [
        {"cycle_accuracy_clean": 0.3, "cycle_accuracy": 0.05},  # a cycle that fails hides nothing
        {"cycle_accuracy_clean": 0.3, "reconstruction": 0.9, "reconstruction_shuffled": 1.2},
        {"painted": 1.0},  # the decoder that only paints
        {"joint_codes": 30.0},
    ],
)
def test_what_looks_alike_is_no_alarm(changed):
    assert alarms(then(20, **changed)) == []


def test_few_codes_at_the_very_beginning_are_no_alarm_but_later_they_are():
    early = [{**GOOD, "joint_codes": 1.2} for _ in range(SETTLE)]
    assert alarms(early + healthy(20)) == []
    (alarm,) = alarms([{**GOOD, "joint_codes": 1.2} for _ in range(SETTLE + 20)])
    assert alarm.name == "collapse", "it never had more"


def test_many_codes_before_the_run_settles_are_no_measure():
    assert alarms([{**GOOD, "joint_codes": 500.0} for _ in range(SETTLE)] + healthy(20)) == []


def test_an_alarm_is_said_once_and_again_only_after_calm():
    watch, fault = Watch(AlarmConfig(quiet=5)), {**GOOD, "data_wait_share": 0.9}
    step = itertools.count()

    def heard(row, count):
        return sum(len(watch.look(next(step), row)) for _ in range(count))

    assert heard(GOOD, 20) == 0 and heard(fault, 30) == 1
    assert heard(GOOD, 2) == 0 and heard(fault, 10) == 0, "hardly calm"
    assert heard(GOOD, 5) == 0 and heard(fault, 10) == 1


def test_recalled_rows_are_remembered_and_not_said_again():
    rows = then(5, joint_codes=10.0)
    watch = Watch(AlarmConfig())
    watch.recall([{"step": i, **row} for i, row in enumerate(rows)])
    assert alarms([{**GOOD, "joint_codes": 10.0}] * 5, watch) == []


class Starved:
    """A stage that says that it waited."""

    def step(self, step):
        return {"x": torch.tensor(1.0), "data_wait_s": torch.tensor(100.0)}

    def state(self):
        return {"x": torch.ones(1)}

    def load_state(self, tensors):
        pass


def test_the_loop_says_alarms_writes_them_and_goes_on(tmp_path, capsys):
    train(
        Starved(), name="s", run_dir=tmp_path, config={}, steps=20, checkpoint_every=100, log_every=2,
        samples_per_step=1, loop=LoopConfig(tracker="none"),
    )  # fmt: skip
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ALARM")]
    assert len(said) == 1 and said[0].startswith("ALARM starving loader at step 6:")
    (row,) = [json.loads(line) for line in (tmp_path / ALARMS_FILE).read_text().splitlines()]
    assert (row["name"], row["step"]) == ("starving loader", 6) and row["remedy"]
