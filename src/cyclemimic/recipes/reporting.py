"""`cyclemimic report RUN`: the page of a run's folder from the files that lie there; nothing is measured again.

A page says what is missing, and which command would make it. Pages that hold pictures which cannot be drawn again are
left as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclemimic.errors import InputError
from cyclemimic.evaluate.cells import RowResult
from cyclemimic.evaluate.pages import CURVES, curves_section, films_section, quality_section, success_section
from cyclemimic.evaluate.records import load_quality, load_rollouts, nan_for_null
from cyclemimic.evaluate.remote import load_remote
from cyclemimic.evaluate.report import Section, Table, write_report
from cyclemimic.evaluate.statistics import MeanRow, Paired, SuccessRow
from cyclemimic.evaluate.summary import number
from cyclemimic.policy.network import NETWORK_FILE
from cyclemimic.recipes import demo
from cyclemimic.recipes.acting import rollout_text
from cyclemimic.recipes.judging import quality_text
from cyclemimic.recipes.table_pages import markdown, result_tables
from cyclemimic.recipes.tables import TABLES
from cyclemimic.store.atomic import read_json, write_atomically
from cyclemimic.tokenizer.tokenizer import CONFIG as TOKENIZER
from cyclemimic.train.checkpoint import CONFIG_FILE, steps_of_checkpoints
from cyclemimic.train.loop import CHECKPOINTS, read_metrics
from cyclemimic.train.record import ALARMS_FILE, read_rows

PAGE = "report.html"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a folder says.

    Args:
        title: of the page.
        lines: for the terminal.
        sections: of the page.
        missing: what would be on it, and how it is made.
        page: where the page lies, or will; None where there is none.
        keep: whether a page that is there already holds more than these sections.
    """

    title: str
    lines: Sequence[str]
    sections: Sequence[Section]
    missing: Sequence[str] = ()
    page: Path | None = None
    keep: bool = False

    def write(self) -> str:
        """Write the page; returns what the terminal is told."""
        lines = [self.title, *self.lines, *(f"missing: {each}" for each in self.missing)]
        if self.page is not None and self.keep and self.page.exists():
            lines.append(f"{self.page} is left as it is")
        elif self.page is not None:
            warning = Section(title="Missing", text=". ".join(self.missing)) if self.missing else None
            write_report(self.page, self.title, [*self.sections, *([warning] if warning else [])])
            lines.append(str(self.page))
        return "\n".join(lines)


def report_run(run: Path) -> str:
    """Rewrite the page of a run, or of each result of `ablate` in a folder; returns what to print.

    Raises:
        InputError: it is no folder of a tokenizer, a policy, a demo or results of `ablate`, nor such a result.
    """
    results = _results_in(run)
    if results:
        return "\n\n".join(_ablation(path).write() for path in results)
    if not run.is_dir():
        raise _nothing(run, "no such folder" if not run.exists() else "a file")
    if (run / TOKENIZER).exists():
        return _tokenizer(run).write()
    if (run / NETWORK_FILE).exists():
        return _policy(run).write()
    if (run / "trunk" / CONFIG_FILE).exists() and (run / "jobs").is_dir():
        return _demo(run)
    if (run / CONFIG_FILE).exists():
        return _unfinished(run).write()
    if (run / "jobs").is_dir():
        raise _nothing(run, "the working folder of `ablate`, whose results lie in its --results")
    raise _nothing(run, "a folder with nothing of the kind")


def _nothing(run: Path, got: str) -> InputError:
    return InputError(
        run,
        expected="a run of tokenizer, pretrain, finetune or demo, or a result of ablate",
        got=got,
        remedy="Name the folder that was its --run, or benchmarks/results/TABLE-RECIPE-SPLIT.json.",
    )


def _tokenizer(run: Path) -> Found:
    facts = read_json(run / TOKENIZER)
    rows = [
        ["bodies", ", ".join(facts.get("bodies", ()))],
        ["gap H [s]", str(facts.get("gap_s", "-"))],
        *([f"updates with {name}", str(count)] for name, count in facts.get("on_steps", {}).items()),
        *_last_figures(run, ("reconstruction", "joint_codes", "slot_perplexity")),
    ]
    sections, lines, missing = [_table("At a glance", rows)], _lines(rows), []
    records = sorted(run.glob("quality*.json"))
    for path in records:
        record = load_quality(path)
        lines += ["", path.name, quality_text(record)]
        sections.append(quality_section({run.name: record.quality}, record.references, record.judge, record.controls))
    if not records:
        missing.append(f"quality of latent actions (cyclemimic evaluate {run} --source film:PATH)")
    looked = run / "inspect" / "inspect.html"
    if looked.exists():
        lines.append(f"codes and transfers, seen: {looked}")
    else:
        missing.append(f"codes and transfers, seen (cyclemimic inspect {run} --source SOURCE)")
    return _finished(run, "Tokenizer", lines, sections, missing)


def _policy(run: Path) -> Found:
    sections, lines, missing = list[Section](), list[str](), list[str]()
    bodies = [str(body["name"]) for body in read_json(run / NETWORK_FILE).get("bodies", ())]
    acts = bool(bodies)
    if acts:
        lines.append(f"bodies: {', '.join(bodies)}")
    if (run / "validation.json").exists():
        found = read_json(run / "validation.json")
        slots = ", ".join(number(share) for share in found["slot_accuracy"])
        rows = [["latent NLL [nats]", number(found["latent_nll"])], ["accuracy by slot", slots]]
        sections.append(_table("Held-out clips", rows))
        lines += _lines(rows)
    rollouts = {p.stem.removeprefix("rollouts-"): load_rollouts(run, p.stem) for p in run.glob("rollouts-*.json")}
    rollouts = dict(sorted(rollouts.items()))
    if rollouts:
        lines += [line for name, result in rollouts.items() for line in ("", name, rollout_text(result))]
        success = {name: result.row() for name, result in rollouts.items()}
        sections += [success_section(success, rollouts), films_section(rollouts)]
    suites = sorted(run.glob("suite-*.json"))
    for path in suites:
        rates = {family: SuccessRow(**nan_for_null(row)) for family, row in read_json(path)["success"].items()}
        lines += ["", path.stem, *(f"{family:16} {row}" for family, row in rates.items())]
        sections.append(_table(path.stem, [[family, str(row)] for family, row in rates.items()]))
    if (run / "open-loop.json").exists():
        section = _open_loop(read_json(run / "open-loop.json"))
        sections.append(section)
        lines += ["", section.title, *markdown(section.tables[0])]
    if (run / "remote.json").exists():
        lines += ["", load_remote(run / "remote.json").text()]
    if acts and not (rollouts or suites or (run / "open-loop.json").exists()):
        missing.append(f"success or error of the policy (cyclemimic evaluate {run} --body {bodies[0]})")
    return _finished(run, "Policy" if acts else "Pre-trained policy", lines, sections, missing)


def _open_loop(found: Mapping[str, Any]) -> Section:
    """Mean absolute error per axis, the policy beside its controls."""
    axes, rows = found["space"]["axes"], nan_for_null(found["rows"])
    table = Table(
        head=["axis", *rows],
        rows=[
            [f"{axis['name']} [{axis['unit']}]", *(f"{row['axes'][i]['mean']:.4f}" for row in rows.values())]
            for i, axis in enumerate(axes)
        ],
    )
    said = f"Mean absolute error over {found['moments']} moments of {len(found['clips'])} held-out episodes."
    return Section(title="Error of chunks", text=said, tables=[table])


def _unfinished(run: Path) -> Found:
    """A training that has not ended: how far it is, and its curves."""
    config, logged = read_json(run / CONFIG_FILE), read_metrics(run)
    steps = config.get("steps") or config.get("optim", {}).get("steps", "?")
    kept = steps_of_checkpoints(run / CHECKPOINTS)
    rows = [
        ["last figures at step", f"{logged[-1]['step']:.0f} of {steps}" if logged else f"none of {steps}"],
        ["last checkpoint", str(kept[-1]) if kept else "none"],
    ]
    missing = ["its end: the command that began it goes on"]
    return _finished(run, "Unfinished training", _lines(rows), [_table("At a glance", rows)], missing)


def _finished(run: Path, kind: str, lines: list[str], sections: list[Section], missing: list[str]) -> Found:
    """With what every training leaves: curves, alarms, configuration."""
    logged = read_metrics(run)
    keys = tuple(dict.fromkeys([*CURVES, "loss", "latent_nll", "action"]))
    if any(key in row for row in logged for key in keys):
        sections.append(curves_section({run.name: logged}, keys))
    else:
        missing.append(f"curves (metrics.jsonl in {run})")
    alarms = read_rows(run / ALARMS_FILE)
    if alarms:
        said = [" ".join(str(value) for value in row.values()) for row in alarms]
        lines += [f"{len(said)} alarms, the last: {said[-1]}"]
        sections.append(_table("Alarms", [[str(i), text] for i, text in enumerate(said, start=1)]))
    if (run / CONFIG_FILE).exists():
        text = json.dumps(read_json(run / CONFIG_FILE), indent=1)
        sections.append(Section(title="Configuration", code=text))
    else:
        missing.append(f"the configuration ({CONFIG_FILE} in {run})")
    return Found(title=f"{kind} {run.name}", lines=lines, sections=sections, missing=missing, page=run / PAGE)


def _demo(run: Path) -> str:
    """The demo's summary and page, or what it still lacks."""
    lacks = demo.lacking(run)
    if lacks:
        missing = [*lacks, f"the summary (cyclemimic demo --run {run} goes on)"]
        return Found(title=f"Demo {run.name}", lines=(), sections=(), missing=missing).write()
    clock = run / "jobs" / "clock.json"
    summary = demo.gather(run, float(read_json(clock)["seconds"]) if clock.exists() else float("nan"))
    undrawn = demo.undrawable(run)
    if not undrawn:
        demo.write_page(run, demo.plan_of(run), summary)
        return summary.table()
    page = run / PAGE
    kept = f"{page} is left as it is: {undrawn} is gone, without which its pictures cannot be drawn again"
    return "\n".join([summary.table(), kept if page.exists() else f"missing: {page}, for {undrawn} is gone"])


def _results_in(path: Path) -> list[Path]:
    """The result files of `ablate` that a path names: itself, or those in a folder."""
    if path.is_file() and path.suffix == ".json":
        return [path] if _is_result(path) else []
    return [each for each in sorted(path.glob("*.json")) if _is_result(each)] if path.is_dir() else []


def _is_result(path: Path) -> bool:
    try:
        found = read_json(path)
    except InputError:
        return False
    return {"table", "scale", "split", "rows", "control"} <= found.keys()


def _ablation(path: Path) -> Found:
    """A table from its result file; the page of `ablate` also holds every cell and pictures, so it is kept."""
    found = nan_for_null(read_json(path))
    rows = {
        name: RowResult(
            measures={key: MeanRow(**value) for key, value in row["measures"].items()},
            paired={key: Paired(**value) for key, value in row["paired"].items()},
            seeds=tuple(row["seeds"]),
        )
        for name, row in found["rows"].items()
    }
    table = TABLES.get(found["table"])
    says = {row.name: row.says for row in table.rows} if table is not None else {}
    tables = result_tables(rows, found["control"], says)
    text = "\n".join(line for each in tables for line in ("", each.caption, *markdown(each)))
    md = path.with_suffix(".md")
    title = f"{found['table']}, {found['scale']}, {found['split']} clips"
    missing = [] if found["complete"] else ["cells (the same `cyclemimic ablate` goes on)"]
    if not md.exists():
        write_atomically(md, f"# {title}\n{text}\n".encode())
    return Found(
        title=title,
        lines=[text, ""],
        sections=[Section(title="Rows", tables=tables)],
        missing=missing,
        page=path.with_suffix(".html"),
        keep=True,
    )


def _last_figures(run: Path, names: Sequence[str]) -> list[list[str]]:
    """The last logged value of each figure."""
    logged = read_metrics(run)
    found = {name: [row[name] for row in logged if name in row] for name in names}
    return [[f"{name.replace('_', ' ')}, last", number(values[-1])] for name, values in found.items() if values]


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"{name:28} {value}" for name, value in rows]


def _table(title: str, rows: Sequence[Sequence[str]]) -> Section:
    return Section(title=title, tables=[Table(head=["", "value"], rows=rows)])
