from __future__ import annotations

import io
import json
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclemimic.errors import InputError
from cyclemimic.evaluate.inspect import inspect_tokenizer
from cyclemimic.evaluate.judge import JudgeReport
from cyclemimic.evaluate.leak import ReaderConfig
from cyclemimic.evaluate.pages import (
    codes_section,
    curves_section,
    headline_section,
    objective_section,
    provenance_section,
    quality_section,
    success_section,
    transfer_section,
)
from cyclemimic.evaluate.quality import Quality
from cyclemimic.evaluate.records import QualityRecord, load_quality, save_quality
from cyclemimic.evaluate.remote import RemoteRecord
from cyclemimic.evaluate.report import Report, Section, Table
from cyclemimic.evaluate.sheets import film_strips, transfer_rows, transfer_sheet
from cyclemimic.evaluate.statistics import success_row
from cyclemimic.evaluate.summary import OnSteps, Summary, TermNorms, gradient_norms_from
from cyclemimic.evaluate.transfer import References, TransferScore
from cyclemimic.evaluate.verdicts import RANGES
from tests.unit.evaluate_squares import SIDE, ExactTokenizer, Mute, film_cache, squares

ARMS = ("pretrained_lora", "pretrained_full", "scratch", "pretrained_20", "swapped_instruction", "black_image")
JUDGE = JudgeReport(
    r2=0.91, r2_blurred=0.9, cosine=0.96, r2_axes=(0.9, 0.9, 0.8), pairs=9, least_r2=0.8, most_change=0.05
)
TEST = squares(60, seed=0)


def summary() -> Summary:
    numbers = {f.name: 0.5 for f in fields(Quality)} | {"dead_codes": 1, "judge_refused": False}
    quality = Quality(**numbers)
    return Summary(
        seconds=600.0,
        cpu_ms_per_pair=11.0,
        quality={"ac3": quality, "genie": replace(quality, transfer_cosine_unseen=float("nan"))},
        references=References(**{
            name: TransferScore(transfer_cosine=v, transfer_r2=v)
            for name, v in (("copy", 0.0), ("random_code", 0.1), ("oracle_code", 0.8))
        }),
        judge=JUDGE,
        on_steps=OnSteps(cycle=300, discriminator=350),
        gradient_norm={
            "reconstruction": TermNorms(encoder=0.1, decoder=0.2),
            "cycle": TermNorms(encoder=0.1, decoder=0.01),
            "discriminator": TermNorms(encoder=0.0, decoder=0.02),
        },
        success={name: success_row(30, 40, errors=1) for name in ARMS},
        report="report.html",
    )  # fmt: skip


def test_a_robot_in_another_process_gets_its_line() -> None:
    record = RemoteRecord(
        success=success_row(7, 9), equal=8, holds=2, latency_p50_ms=5.0, latency_p95_ms=None, robot_torch="blocked"
    )
    assert "server" not in summary().table() and summary().to_json()["remote"] is None
    tried = replace(summary(), remote=record)
    rows = headline_section(tried).tables[0].rows
    assert "8 of 9 episodes end as in one process" in tried.table() and "torch on the robot: blocked" in tried.table()
    assert ["success, robot in another process", f"{record.success}; 8 of 9 end alike"] in [list(row) for row in rows]
    assert tried.to_json()["remote"]["equal"] == 8 and tried.to_json()["remote"]["success"]["n"] == 9


def test_the_json_has_exactly_these_keys() -> None:
    found = json.loads(json.dumps(summary().to_json(), allow_nan=False))
    assert set(found) == {
        "seconds", "cpu_ms_per_pair", "quality", "references", "judge", "on_steps", "gradient_norm", "success",
        "report", "remote",
    }  # fmt: skip
    assert set(found["quality"]) == {"ac3", "genie"}
    for row in found["quality"].values():
        assert set(row) >= {
            "transfer_cosine", "transfer_r2", "probe_same", "probe_cross", "kappa_cross", "joint_codes",
            "reconstruction_vs_copy", "cycle_accuracy",
        }  # fmt: skip
    assert found["quality"]["genie"]["transfer_cosine_unseen"] is None
    assert set(found["references"]) == {"copy", "random_code", "oracle_code"}
    assert all("transfer_cosine" in r for r in found["references"].values())
    assert found["judge"]["refused"] is False and {"r2", "r2_blurred"} <= set(found["judge"])
    assert set(found["on_steps"]) == {"cycle", "discriminator"}
    assert set(found["gradient_norm"]) == {"reconstruction", "cycle", "discriminator"}
    assert all(set(norms) == {"encoder", "decoder"} for norms in found["gradient_norm"].values())
    assert set(found["success"]) == set(ARMS)
    assert all(set(row) == {"rate", "low", "high", "n", "errors"} for row in found["success"].values())


def test_inert_terms_are_found() -> None:
    good = summary()
    assert good.inert_terms() == ()
    assert replace(good, on_steps=OnSteps(cycle=0, discriminator=350)).inert_terms() == ("cycle",)
    norms = {**good.gradient_norm, "discriminator": TermNorms(encoder=0.0, decoder=0.0)}
    dead = replace(good, gradient_norm=norms)
    assert dead.inert_terms() == ("discriminator",) and "INERT" in dead.table()
    sick = {**good.gradient_norm, "cycle": TermNorms(encoder=float("nan"), decoder=float("nan"))}
    assert replace(good, gradient_norm=sick).inert_terms() == ("cycle",)
    assert replace(good, gradient_norm={}).inert_terms() == ("reconstruction", "cycle", "discriminator")


def test_gradient_norms_are_means_over_the_rows_that_have_them() -> None:
    rows = [{"step": 1.0}, {"gradient.cycle.encoder": 1.0}, {"gradient.cycle.encoder": 3.0}]
    norms = gradient_norms_from(rows)
    assert norms["cycle"] == TermNorms(encoder=2.0, decoder=0.0)
    assert norms["reconstruction"] == TermNorms(encoder=0.0, decoder=0.0)


def test_a_refused_judge_is_said_everywhere() -> None:
    refused = replace(summary(), judge=replace(JUDGE, r2=0.5))
    assert refused.to_json()["judge"]["refused"] is True and "REFUSED" in refused.table()
    assert "refused" in headline_section(refused).html()
    assert "refused" in quality_section(refused.quality, refused.references, refused.judge).html()
    assert "refused" not in headline_section(summary()).html()


def test_the_report_needs_nothing_beside_it(tmp_path: Path) -> None:
    one = summary()
    rows = [{"step": float(i), "reconstruction": 1 / i, "joint_codes": 20.0} for i in range(1, 5)]
    models = {"ac3": ExactTokenizer(), "genie": ExactTokenizer(moves=False)}
    report = Report(title="A run <of> mine")
    report.add(
        headline_section(one),
        success_section(one.success),
        quality_section(one.quality, one.references, one.judge),
        objective_section(one),
        curves_section({"ac3": rows}),
        codes_section(models, TEST),
        transfer_section(models, TEST, seed=0, count=2),
        provenance_section({"steps": 3}, {"tokenizer": 0}),
    )
    page = report.write(tmp_path / "deep" / "report.html").read_text()
    assert not re.search(r"""(src|href)\s*=\s*(?!["']data:)""", page) and "@import" not in page
    assert "url(" not in page and "<script" not in page
    assert page.count("data:image/png;base64,") == 7
    assert "A run &lt;of&gt; mine" in page and "pretrained lora" in page and 'name="viewport"' in page
    assert "torch threads" in page


def test_cells_are_escaped() -> None:
    section = Section(title="<b>", text="a & b", tables=[Table(head=["<i>"], rows=[["</table>"]])], code="<pre>")
    assert "<b>" not in section.html() and "&lt;/table&gt;" in section.html() and "&lt;pre&gt;" in section.html()


def test_a_transfer_sheet_shows_another_body() -> None:
    rows = transfer_rows(ExactTokenizer(), TEST, seed=0, count=3)
    assert len(rows) == 3
    for row in rows:
        source, target = row.caption.split(":")[0].split(" on ")
        assert source != target
        assert not np.array_equal(row.target, row.generated)
    sheet = Image.open(io.BytesIO(transfer_sheet(rows)))
    assert sheet.size[0] >= 5 * SIDE * 3 and sheet.size[1] >= 3 * SIDE * 3
    with pytest.raises(InputError):
        transfer_sheet([])


def test_film_strips_hold_films_of_any_length() -> None:
    short, long = np.zeros((1, 8, 8, 3), np.uint8), np.zeros((20, 8, 8, 3), np.uint8)
    strip = Image.open(io.BytesIO(film_strips([("one", short), ("many", long)], frames=5)))
    assert strip.size[0] >= 5 * 8


QUICK = ReaderConfig(width=4, steps=4, batch_size=8)


def test_inspecting_needs_no_true_actions(tmp_path: Path) -> None:
    cache, _ = film_cache()
    found = inspect_tokenizer(ExactTokenizer(), cache, tmp_path, gap_s=0.6, readers=QUICK)
    assert found.pairs == 24 and found.bodies == ("green", "red") and 1 < found.joint_codes <= 24
    assert found.reconstruction_vs_copy < 1 and found.cycle_accuracy > 0.9
    assert 0 <= found.leak.reader_real <= 1 and np.isfinite(found.row()["leak_excess"])
    assert {v.status for v in found.verdicts()} <= {"good", "suspicious", "broken"} and len(found.verdicts()) == 8
    assert found.page.exists() and {p.name for p in tmp_path.glob("*.png")} == {
        "usage.png",
        "transfer.png",
        "codes.png",
        "neighbours.png",
    }
    page = found.page.read_text()
    assert "Verdicts" in page and "leak: index, excess" in page
    alone, _ = film_cache(bodies=("red",), clips=1)  # one clip of one body: still a page
    one = inspect_tokenizer(ExactTokenizer(), alone, tmp_path / "alone", gap_s=0.6, readers=QUICK)
    assert not (tmp_path / "alone/neighbours.png").exists()  # there is no other body
    assert one.page.exists() and np.isnan(one.cycle_accuracy) and np.isnan(one.leak.leak_index)


def test_inspecting_a_tokenizer_without_frames_leaves_out_what_is_drawn(tmp_path: Path) -> None:
    cache, _ = film_cache()
    found = inspect_tokenizer(Mute(), cache, tmp_path, gap_s=0.6, readers=QUICK)
    assert {p.name for p in tmp_path.glob("*.png")} == {"usage.png", "codes.png", "neighbours.png"}
    assert np.isnan(found.delta_psnr_db) and np.isnan(found.reconstruction_vs_copy) and found.joint_codes > 1
    assert {v.name for v in found.verdicts()} == {
        RANGES[name].name for name in ("joint_share", "perplexity_share", "dead_share")
    }
    section = transfer_section({"mute": Mute(), "ac3": ExactTokenizer()}, TEST, seed=0, count=2)
    assert [picture.caption for picture in section.pictures] == ["ac3"]


def test_controls_stand_beside_what_they_can_be_asked(tmp_path: Path) -> None:
    one = summary()
    nothing = replace(one.quality["ac3"], **{
        f.name: float("nan") for f in fields(Quality)
        if f.name.startswith(("transfer", "counterfactual", "cycle", "leak", "alone"))
    })  # fmt: skip
    controls = {"oracle": replace(nothing, counterfactual_pairs=0)}
    section = quality_section(one.quality, one.references, one.judge, controls)
    heads = [list(table.head) for table in section.tables[:6]]
    assert [("oracle" in head) for head in heads] == [False, False, True, True, True, False]
    assert "Verdicts on ac3" in section.html() and "Verdicts on genie" in section.html()
    assert [("oracle" in t.head) for t in quality_section(one.quality, one.references, one.judge).tables] == [
        False
    ] * 10


def test_records_come_back_and_older_ones_read_too(tmp_path: Path) -> None:
    one = summary()
    record = QualityRecord(
        quality=one.quality["genie"], references=one.references, judge=one.judge, source="arms",
        controls={"oracle": one.quality["ac3"]},
    )  # fmt: skip
    save_quality(tmp_path / "quality.json", record)
    again = load_quality(tmp_path / "quality.json")
    assert str(again) == str(record)  # as text, because NaN is not equal to itself
    old = json.loads((tmp_path / "quality.json").read_text())
    for gone in ("leak_index", "counterfactual_pairs", "probe_cross"):
        del old["quality"][gone]
    del old["controls"], old["source"], old["references"]["copy"]["counterfactual_psnr_db"]
    old["quality"]["of_the_future"] = old["judge"]["of_the_future"] = 1.0
    (tmp_path / "quality.json").write_text(json.dumps(old))
    found = load_quality(tmp_path / "quality.json")
    assert np.isnan(found.quality.leak_index) and np.isnan(found.quality.probe_cross) and found.controls == {}
    assert found.quality.counterfactual_pairs == 0 and found.quality.kappa_cross == 0.5
    assert np.isnan(found.references.copy.counterfactual_psnr_db) and found.references.copy.transfer_cosine == 0
