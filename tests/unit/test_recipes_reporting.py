"""`report RUN`: what a folder's files say, what is missing, what is left as it is, what is refused."""

import json

import numpy as np
import pytest

from cyclemimic import cli
from cyclemimic.errors import InputError
from cyclemimic.evaluate.cells import MEASURES
from cyclemimic.evaluate.records import save_rollouts
from cyclemimic.evaluate.rollout import EpisodeOutcome, RolloutResult
from cyclemimic.evaluate.summary import null_for_nan
from cyclemimic.recipes.demo import lacking, plan, plan_of
from cyclemimic.recipes.reporting import report_run
from cyclemimic.types import Task
from tests.unit import ablate_small


@pytest.fixture
def tokenizer(tmp_path):
    run = tmp_path / "mine"
    facts = {"bodies": ["arm6", "scara"], "gap_s": 0.6, "on_steps": {"cycle": 7, "discriminator": 0}}
    ablate_small.write(run / "tokenizer.json", facts)
    ablate_small.write(run / "config.json", {"steps": 40, "seed": 3})
    rows = [{"step": 20 * i, "reconstruction": 1 / i, "joint_codes": 11.0 * i} for i in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_a_tokenizer_says_what_is_known_and_what_is_missing(tokenizer):
    said = report_run(tokenizer)
    assert "arm6, scara" in said and "0.500" in said and "22.0" in said
    assert "missing: quality" in said and f"cyclemimic evaluate {tokenizer}" in said
    page = (tokenizer / "report.html").read_text()
    assert "Missing" in page and page.count("data:image/png;base64,") == 1 and "&quot;seed&quot;: 3" in page


def test_a_measured_tokenizer_shows_its_measurement_and_is_written_anew(tokenizer):
    report_run(tokenizer)
    before = {p.name: p.read_bytes() for p in tokenizer.iterdir() if p.name != "report.html"}
    score = dict.fromkeys(("copy", "random_code", "oracle_code"), ablate_small.SCORE)
    record = {"quality": ablate_small.quality("ac3", 0), "judge": ablate_small.JUDGE, "references": score}
    ablate_small.write(tokenizer / "quality.json", record)
    said = report_run(tokenizer)
    assert "missing: quality" not in said and "0.700" in said and "the judge is believed" in said
    assert "Quality of latent actions" in (tokenizer / "report.html").read_text()
    assert {p.name: p.read_bytes() for p in tokenizer.iterdir() if p.name in before} == before


def test_a_policy_shows_its_episodes(tmp_path):
    run = tmp_path / "policy"
    ablate_small.write(run / "network.json", {"bodies": [{"name": "arm6"}]})
    assert f"missing: success or error of the policy (cyclemimic evaluate {run} --body arm6)" in report_run(run)
    film = np.zeros((3, 8, 8, 3), np.uint8)
    outcomes = tuple(
        EpisodeOutcome(
            task=Task(body="arm6", skill="reach", seed=i), success=i < 3, steps=5, error=None, film=None if i else film
        )
        for i in range(4)
    )
    save_rollouts(run, "rollouts-as-it-is", RolloutResult(outcomes=outcomes))
    interval = {"mean": 0.25, "low": 0.2, "high": 0.3}
    rows = {name: {"axes": [interval]} for name in ("policy", "hold")}
    found = {"space": {"axes": [{"name": "x_m", "unit": "m"}]}, "clips": ["a"], "moments": 9, "rows": rows}
    ablate_small.write(run / "open-loop.json", found)
    said = report_run(run)
    assert "75% (30-95), n 4" in said and "| x_m [m] | 0.2500 | 0.2500 |" in said and "missing: success" not in said
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 1 and "Success in closed loop" in page


def test_a_pre_trained_policy_is_not_asked_to_act(tmp_path):
    ablate_small.write(tmp_path / "run/network.json", {"bodies": []})
    ablate_small.write(tmp_path / "run/validation.json", {"latent_nll": 1.5, "slot_accuracy": [0.5, 0.25]})
    said = report_run(tmp_path / "run")
    assert "Pre-trained policy" in said and "0.500, 0.250" in said and "cyclemimic evaluate" not in said


def test_an_unfinished_training_says_how_far_it_is(tokenizer):
    (tokenizer / "tokenizer.json").unlink()
    (tokenizer / "checkpoints/step-00000030").mkdir(parents=True)
    said = report_run(tokenizer)
    assert "40 of 40" in said and "30" in said and "the command that began it goes on" in said


@pytest.fixture
def result(tmp_path):
    mean = {"mean": 0.5, "low": None, "high": None, "n": 1}
    paired = {"control": 0.5, "ours": 0.6, "mean_difference": 0.1, "low": None, "high": None, "wins": 1, "losses": 0}
    row = {"measures": {}, "paired": {}, "seeds": [0]}
    for name in MEASURES:
        row["measures"][name] = mean if name == "probe_cross" else {**mean, "n": 0}
        row["paired"][name] = {**paired, "n": int(name == "probe_cross"), "sign_p": 1.0}
    path = tmp_path / "results/objective-small-validation.json"
    whole = {
        "table": "objective", "scale": "small", "split": "validation", "control": "genie", "complete": False,
        "rows": {"genie": row, "ac3": row},
    }  # fmt: skip
    ablate_small.write(path, null_for_nan(whole))
    return path


def test_a_result_of_ablate_is_shown_and_its_pages_are_kept(result):
    said = report_run(result)
    assert "| ac3 | +0.100, 1/1, p 1.00 |" in said and "probe cross" in said and "missing: cells" in said
    assert result.with_suffix(".md").exists() and "Minus genie" in result.with_suffix(".html").read_text()
    for suffix in (".md", ".html"):
        result.with_suffix(suffix).write_text("with pictures")
    ablate_small.write(result.parent / "latest-cpu.json", {"machine": "another kind of file"})
    assert "left as it is" in report_run(result.parent)
    assert {result.with_suffix(suffix).read_text() for suffix in (".md", ".html")} == {"with pictures"}


def test_a_demo_that_is_not_done_says_what_it_lacks(tmp_path):
    quick = plan(quick=True)
    ablate_small.write(tmp_path / "demo/trunk/config.json", {"steps": quick.trunk_steps})
    (tmp_path / "demo/jobs").mkdir()
    said = report_run(tmp_path / "demo")
    assert "ac3/quality.json" in said and "rollouts-black.json" in said and "goes on" in said
    assert plan_of(tmp_path / "demo") == quick and len(lacking(tmp_path / "demo")) == 12
    assert not (tmp_path / "demo/report.html").exists()


def test_what_is_no_run_is_refused(tmp_path):
    (tmp_path / "jobs").mkdir()
    for path, said in ((tmp_path / "nowhere", "no such folder"), (tmp_path, "--results"), (tmp_path / "jobs", "kind")):
        with pytest.raises(InputError, match=said):
            report_run(path)
    (tmp_path / "some.json").write_text("{}")
    with pytest.raises(InputError, match="a file"):
        report_run(tmp_path / "some.json")


def test_a_damaged_measurement_is_named(tokenizer):
    (tokenizer / "quality.json").write_text("{")
    with pytest.raises(InputError, match=r"quality\.json"):
        report_run(tokenizer)


@pytest.mark.parametrize("words", [(), ("RUN", "--tables")])
def test_one_of_both_is_said(words, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", *(word.replace("RUN", str(tmp_path)) for word in words)])
    assert ended.value.code == 2 and "--tables" in capsys.readouterr().err


def test_the_verb_prints_it(tokenizer, capsys):
    cli.main(["report", str(tokenizer)])
    assert str(tokenizer / "report.html") in capsys.readouterr().out
