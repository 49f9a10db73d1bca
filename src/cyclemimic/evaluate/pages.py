"""The sections of a run's page: each takes typed results and says in a sentence how to read them."""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cyclemimic.evaluate.judge import JudgeReport
from cyclemimic.evaluate.models import LatentActionModel, draws, label_pairs
from cyclemimic.evaluate.moments import Pairs, TruePairs
from cyclemimic.evaluate.quality import Quality, labelled
from cyclemimic.evaluate.report import Picture, Section, Table
from cyclemimic.evaluate.rollout import RolloutResult
from cyclemimic.evaluate.sheets import (
    codebook_use,
    film_strips,
    training_curves,
    transfer_rows,
    transfer_sheet,
)
from cyclemimic.evaluate.statistics import SuccessRow
from cyclemimic.evaluate.summary import Summary, number
from cyclemimic.evaluate.transfer import References
from cyclemimic.evaluate.unity import matched_pairs
from cyclemimic.evaluate.verdicts import verdict_table, verdicts_on

QUALITY_GROUPS: dict[str, dict[str, str]] = {
    "transfer": {
        "transfer_cosine": "transfer cos",
        "transfer_r2": "transfer R2",
        "transfer_cosine_same": "same body cos",
        "transfer_cosine_unseen": "unseen body cos",
    },
    "counterfactual": {
        "counterfactual_psnr_db": "PSNR [dB]",
        "counterfactual_score": "score PSNR",
        "counterfactual_feature_score": "score features",
        "counterfactual_pairs": "counterfactuals",
    },
    "probe": {
        "probe_same": "probe same",
        "probe_cross": "probe cross",
        "probe_unseen": "probe unseen",
        "probe_axis_1": "same, 1st axis",
        "probe_axis_2": "... 2nd axis",
        "probe_axis_3": "... 3rd axis",
        "probe_mlp_same": "MLP same",
        "probe_mlp_cross": "MLP cross",
    },
    "unity": {
        "kappa_same": "kappa same",
        "kappa_cross": "kappa cross",
        "retrieval_map": "retrieval mAP",
        "retrieval_map_chance": "... by chance",
        "body_divergence": "JS of bodies",
        "body_divergence_matched": "... same motion",
    },
    "usage": {
        "joint_codes": "joint codes",
        "joint_codes_within": "... within a body",
        "slot_perplexity": "slot perplexity",
        "dead_codes": "dead codes",
        "reconstruction_vs_copy": "error / copy",
        "delta_psnr_db": "delta PSNR [dB]",
    },
    "cycle": {
        "cycle_accuracy": "cycle acc",
        "cycle_accuracy_noise": "... noise",
        "cycle_accuracy_blur": "... blur",
        "cycle_accuracy_8bit": "... 8 bit",
        "leak_index": "leak index",
        "leak_excess": "leak excess",
        "leak_reader_real": "reader, real",
        "leak_reader_generated": "... generated",
        "alone_accuracy": "from o_g alone",
        "alone_chance": "... by chance",
    },
}
QUALITY_COLUMNS = {key: text for group in QUALITY_GROUPS.values() for key, text in group.items()}
_GROUP_TEXTS = {
    "transfer": "A motion of one body is named and acted out on another; a judge fitted on true motions of real frames "
    "says what moved.",
    "counterfactual": "The same against what the simulator says truly comes of the source's actions: PSNR, and where "
    "it lies between a random code (0) and the code that E gives the true future (1), in pixels and in the features "
    "of the judge.",
    "probe": "How much of the true motion a linear map (or two layers) reads from codes, fitted on one body; "
    "the axes are x, y and z, or those of the motion.",
    "unity": "Kappa: whether equal motions of different bodies get equal codes (0 is chance). Retrieval: equal motions "
    "of other bodies, ranked by codes. JS: how differently bodies use codes, at large and for equal motions; low "
    "values prove nothing.",
    "usage": "Latent actions in use; what reconstruction gains by them.",
    "cycle": "Codes read back from generated frames. Cycle accuracy alone proves nothing: the reader, fitted on real "
    "pairs to say E's codes, must find them there too. The leak's excess is 0 or "
    "below where it does as well there as on real frames.",
}
_REFERENCE_COLUMNS = ("transfer_cosine", "transfer_r2", "counterfactual_psnr_db")
CONTROLS = ("swapped_instruction", "black_image")
CURVES = ("reconstruction", "cycle", "discriminator", "cycle_accuracy", "joint_codes", "gradient_norm")


def headline_section(summary: Summary) -> Section:
    """The few numbers to read first."""
    rows = [[f"transfer cosine, {name}", number(q.transfer_cosine)] for name, q in summary.quality.items()]
    rows += [
        [f"transfer cosine, {name.replace('_', ' ')}", number(score["transfer_cosine"])]
        for name, score in summary.references.row().items()
    ]
    rows += [[f"success, {name.replace('_', ' ')}", str(row)] for name, row in summary.success.items()]
    if summary.remote:
        # Short: a long line here pushes every number out of sight.
        same = f"{summary.remote.equal} of {summary.remote.success.n} end alike"
        rows.append(["success, robot in another process", f"{summary.remote.success}; {same}"])
    rows.append(["wall time", f"{summary.seconds:.0f} s"])
    rows.append(["tokenizer step", f"{summary.cpu_ms_per_pair:.2f} CPU ms per pair"])
    inert = summary.inert_terms()
    warning = f"These terms did nothing: {', '.join(inert)}. " if inert else ""
    if summary.judge.refused:
        warning += f"The judge is refused: {summary.judge.reason}."
    return Section(title="At a glance", warning=warning, tables=[Table(head=["", "value"], rows=rows)])


def success_section(success: Mapping[str, SuccessRow], per_skill: Mapping[str, RolloutResult] | None = None) -> Section:
    """Success rates with intervals; the policy's own controls stand back."""
    names = list(success)
    table = Table(
        head=["policy", "rate", "95 % interval", "episodes", "errors"],
        rows=[
            [n.replace("_", " "), f"{r.rate:.1%}", f"{r.low:.1%} - {r.high:.1%}", str(r.n), str(r.errors)]
            for n, r in success.items()
        ],
        control=frozenset(i for i, n in enumerate(names) if n in CONTROLS),
    )
    tables = [table]
    if per_skill:
        skills = sorted({skill for result in per_skill.values() for skill in result.per_skill()})
        rows = []
        for name, result in per_skill.items():
            parts = result.per_skill()
            rows.append([name.replace("_", " "), *(f"{parts[s].rate:.0%}" if s in parts else "-" for s in skills)])
        tables.append(Table(head=["rate by skill", *(s.replace("_", " ") for s in skills)], rows=rows))
    return Section(
        title="Success in closed loop",
        text="Every policy starts from the same states. A swapped instruction or a black picture should ruin "
        "a policy that listens and looks. Intervals are Wilson's; an episode that ends in an exception is an "
        "error, not a success.",
        tables=tables,
    )


def quality_section(
    quality: Mapping[str, Quality],
    references: References,
    judge: JudgeReport,
    controls: Mapping[str, Quality] | None = None,
) -> Section:
    """Latent actions, one column for each tokenizer and control, with the controls of transfer and verdicts below."""
    tables = []
    for group, keys in QUALITY_GROUPS.items():
        # A control without a decoder has no place where frames are read.
        beside = {name: found for name, found in (controls or {}).items() if _says_something(found, keys)}
        columns = {**quality, **beside}
        table = Table(
            head=["", *columns],
            rows=[[text, *(number(found.row()[key]) for found in columns.values())] for key, text in keys.items()],
            strong=frozenset({0}) if group == "transfer" else frozenset(),
            control_columns=frozenset(range(1 + len(quality), 1 + len(columns))),
            caption=_GROUP_TEXTS[group],
        )
        tables.append(table)
    references_table = Table(
        head=["control of transfer", "cosine", "R2", "counterfactual PSNR [dB]"],
        rows=[
            [name.replace("_", " "), *(number(s[key]) for key in _REFERENCE_COLUMNS)]
            for name, s in references.row().items()
        ],
        control=frozenset(range(3)),
    )
    x, y, z = judge.r2_axes
    reading = Table(
        head=["judge on real held-out pairs", "value"],
        rows=[
            ["R2", number(judge.r2)],
            ["R2, later frame blurred", number(judge.r2_blurred)],
            ["R2 of x, y, z", f"{number(x)}, {number(y)}, {number(z)}"],
            ["cosine", number(judge.cosine)],
            ["pairs", str(judge.pairs)],
        ],
    )
    said = [
        replace(verdict_table(verdicts_on(found.row())), caption=f"Verdicts on {name}, worst first.")
        for name, found in quality.items()
    ]
    return Section(
        title="Quality of latent actions",
        text="The same held-out pairs for every column. Verdicts compare with our own runs; they are no substitute "
        "for the controls.",
        warning=f"Transfer is refused: {judge.reason}." if judge.refused else "",
        tables=[*tables, references_table, reading, *said],
    )


def _says_something(found: Quality, keys: Mapping[str, str]) -> bool:
    """Whether any of these figures could be measured."""
    return any(isinstance(value, float) and math.isfinite(value) for value in (found.row()[key] for key in keys))


def objective_section(summary: Summary) -> Section:
    """Whether each term of the objective was on, and what it moved."""
    steps = {"cycle": summary.on_steps.cycle, "discriminator": summary.on_steps.discriminator}
    rows = [
        [term, str(steps.get(term, "all")), f"{norms.encoder:.3g}", f"{norms.decoder:.3g}"]
        for term, norms in summary.gradient_norm.items()
    ]
    inert = summary.inert_terms()
    return Section(
        title="What the objective did",
        text="Updates at which a term counted, and the mean norm of its weighted gradient. The discriminator "
        "teaches the decoder alone, so its gradient on the encoder is zero by design.",
        warning=f"Inert: {', '.join(inert)}." if inert else "",
        tables=[Table(head=["term", "updates", "gradient on E", "gradient on D"], rows=rows)],
    )


def curves_section(runs: Mapping[str, Sequence[Mapping[str, float]]], keys: Sequence[str] = CURVES) -> Section:
    """Training curves of the runs."""
    png = training_curves(runs, keys)
    return Section(title="Training", pictures=[Picture(png=png, caption="Figures over updates, as logged.")])


def codes_section(tokenizers: Mapping[str, LatentActionModel], test: Pairs) -> Section:
    """How often each body gets each code, for each tokenizer; at large, and for equal motions where they are known."""
    pictures = []
    for name, model in tokenizers.items():
        codes = label_pairs(model, test)
        png = codebook_use(codes, test.bodies, test.body, model.num_codes)
        caption = f"{name}: equal bars say that bodies use codes alike, not yet that they mean the same."
        pictures.append(Picture(png=png, caption=caption))
        if isinstance(test, TruePairs):
            within_m = test.motion.within
            table = matched_pairs(labelled(codes, test, model.num_codes), test.bodies, within_m=within_m)
            body = np.tile(np.arange(len(test.bodies)), len(table))
            png = codebook_use(codes[table.ravel()], test.bodies, body, model.num_codes)
            caption = f"{name}: the same for {len(table)} motions that every body made; differences are the body's."
            pictures.append(Picture(png=png, caption=caption))
    return Section(title="Use of the codebook by body", pictures=pictures)


def transfer_section(tokenizers: Mapping[str, LatentActionModel], test: Pairs, *, seed: int, count: int = 8) -> Section:
    """The same transfers drawn by each tokenizer that draws."""
    pictures = [
        Picture(png=transfer_sheet(transfer_rows(model, test, seed=seed, count=count)), caption=name)
        for name, model in tokenizers.items()
        if draws(model)
    ]
    return Section(
        title="Transfer, seen",
        text="A pair of one body, a frame of another, what the decoder makes of that frame with the pair's latent "
        "action, and the change (grey is none).",
        pictures=pictures,
    )


def films_section(results: Mapping[str, RolloutResult]) -> Section:
    """Film strips of the episodes that were kept, policy by policy."""
    pictures = []
    for name, result in results.items():
        films = []
        for outcome in result.films():
            assert outcome.film is not None
            end = "error" if outcome.error else "solved" if outcome.success else "not solved"
            task = outcome.task
            films.append(
                (
                    f"{task.body}, {task.skill}, seed {task.seed}: {end} after {outcome.steps} steps",
                    outcome.film,
                )
            )
        if films:
            pictures.append(Picture(png=film_strips(films), caption=name.replace("_", " ")))
    return Section(title="Episodes", pictures=pictures)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a number was measured on."""

    cpu: str
    threads: int
    python: str
    versions: Mapping[str, str]
    commit: str | None


def this_machine() -> Machine:
    """The processor, torch's threads, versions of what computes, and the commit where git knows one."""
    wanted = ("cyclemimic", "torch", "numpy", "mujoco", "transformers", "peft")
    versions = {}
    for name in wanted:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Machine(
        cpu=_cpu(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        versions=versions,
        commit=_commit(),
    )


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the sources, with a plus where they were changed since; None where git knows none."""
    folder = Path(__file__).resolve().parent

    def git(*words: str) -> str | None:
        try:
            ran = subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=5, check=False
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return ran.stdout.strip() if ran.returncode == 0 else None

    # An installed copy may lie below somebody else's repository: the file must be one that git tracks.
    if not git("ls-files", "--", Path(__file__).name):
        return None
    commit = git("rev-parse", "--short=12", "HEAD")
    return commit and commit + ("+" if git("status", "--porcelain", "--", ".") else "")


def provenance_section(config: Mapping[str, Any], seeds: Mapping[str, int], machine: Machine | None = None) -> Section:
    """Seeds, machine, versions and the whole configuration."""
    machine = machine or this_machine()
    rows = [
        ["processor", machine.cpu],
        ["torch threads", str(machine.threads)],
        ["python", machine.python],
        *([name, version] for name, version in machine.versions.items()),
        ["commit", machine.commit or "unknown"],
        *([f"seed, {name}", str(seed)] for name, seed in seeds.items()),
    ]
    return Section(
        title="Where this comes from",
        tables=[Table(head=["", "value"], rows=rows)],
        code=json.dumps(config, indent=1, default=str),
    )
