"""Verdicts: thresholds in both directions, and no praise for the cycle alone."""

import math

import pytest

from cyclemimic.evaluate.report import Table
from cyclemimic.evaluate.verdicts import RANGES, Range, verdict_lines, verdict_table, verdicts_on

HEALTHY = {
    "num_codes": 16, "num_tokens": 2, "pairs": 1000, "joint_codes": 60.0, "slot_perplexity": 12.0, "dead_codes": 0,
    "reconstruction_vs_copy": 0.3, "delta_psnr_db": 4.0, "cycle_accuracy": 0.9, "cycle_accuracy_noise": 0.88,
    "leak_excess": 0.0, "transfer_cosine": 0.8, "counterfactual_score": 0.8, "probe_cross": 0.6, "kappa_cross": 0.4,
    "retrieval_map": 0.5, "retrieval_map_chance": 0.1, "judge_refused": False,
}  # fmt: skip


def _status(**changes):
    return {v.name: v.status for v in verdicts_on({**HEALTHY, **changes})}


def test_ranges_are_read_in_their_direction():
    high = Range(name="", good=0.5, broken=0.1, meaning="", remedy="")
    low = Range(name="", good=0.1, broken=0.5, meaning="", remedy="")
    assert [high.status(x) for x in (0.1, 0.3, 0.5)] == ["broken", "suspicious", "good"]
    assert [low.status(x) for x in (0.1, 0.3, 0.5)] == ["good", "suspicious", "broken"]
    for name, span in RANGES.items():
        assert span.good != span.broken and span.meaning.endswith(".") and span.remedy.endswith("."), name
        assert set(span.needs + span.bows_to) <= set(RANGES)


def test_a_healthy_run_is_good_throughout_and_every_range_is_asked():
    found = _status()
    assert set(found.values()) == {"good"} and set(found) == {span.name for span in RANGES.values()}


@pytest.mark.parametrize(
    "changes",
    [
        {"leak_excess": 0.5},
        {"leak_excess": math.nan},
        {"delta_psnr_db": 0.1},
        {"cycle_accuracy_noise": 0.3},
        {"transfer_cosine": 0.2},
        {"probe_cross": -0.5},
    ],
)
def test_cycle_accuracy_alone_is_never_good(changes):
    assert _status(**changes)["cycle accuracy"] == "suspicious"
    only = {v.name: v.status for v in verdicts_on({"cycle_accuracy": 1.0})}
    assert only == {"cycle accuracy": "suspicious"}


@pytest.mark.parametrize(
    ("changes", "name", "status"),
    [
        ({"joint_codes": 5.0}, "joint_share", "broken"),
        ({"joint_codes": 20.0}, "joint_share", "suspicious"),
        ({"joint_codes": 20.0, "pairs": 60}, "joint_share", "good"),
        ({"slot_perplexity": 1.5}, "perplexity_share", "broken"),
        ({"dead_codes": 8}, "dead_share", "broken"),
        ({"reconstruction_vs_copy": 1.1}, "reconstruction_vs_copy", "broken"),
        ({"retrieval_map": 0.12}, "retrieval_gain", "broken"),
        ({"leak_excess": 0.4}, "leak_excess", "broken"),
    ],
)
def test_what_is_wrong_is_named(changes, name, status):
    assert _status(**changes)[RANGES[name].name] == status


def test_a_refused_judge_gives_no_verdict_on_transfer_and_nan_none_at_all():
    found = _status(judge_refused=True, kappa_cross=math.nan)
    assert RANGES["transfer_cosine"].name not in found and RANGES["kappa_cross"].name not in found


def test_the_worst_comes_first_and_says_what_to_try():
    verdicts = verdicts_on({**HEALTHY, "joint_codes": 3.0, "probe_cross": 0.3})
    lines = verdict_lines(verdicts)
    assert lines[0].startswith("broken") and RANGES["joint_share"].name in lines[0]
    text = " ".join(line.strip() for line in lines)
    assert RANGES["joint_share"].remedy in text and RANGES["kappa_cross"].meaning not in text
    assert max(map(len, lines)) < 120
    table = verdict_table(verdicts)
    assert table.status[0] == "broken" and table.rows[0][2] == "broken"
    page = table.html()
    assert '<tr class="broken">' in page and '<td class="status">broken</td>' in page and '<td class="prose">' in page


def test_cells_of_controls_stand_back():
    page = Table(head=["", "ours", "theirs"], rows=[["x", "1", "<2"]], control_columns=frozenset({2})).html()
    assert '<th class="control">theirs</th>' in page and '<td class="control">&lt;2</td>' in page
