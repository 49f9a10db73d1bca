"""`make demo`: the whole journey, from video to a robot that acts, as the commands that a user would type."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cyclemimic.data.sources.film import FilmSource
from cyclemimic.evaluate.pages import (
    codes_section,
    curves_section,
    films_section,
    headline_section,
    objective_section,
    provenance_section,
    quality_section,
    success_section,
    transfer_section,
)
from cyclemimic.evaluate.records import load_quality, load_rollouts
from cyclemimic.evaluate.report import write_report
from cyclemimic.evaluate.summary import OnSteps, Summary, gradient_norms_from
from cyclemimic.recipes.jobs import Job, JobFailedError, Jobs
from cyclemimic.recipes.stations import SPLIT_SEED, cached, known_motion, open_source
from cyclemimic.recipes.tiny import tiny
from cyclemimic.store.atomic import write_json
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.train.loop import read_metrics
from cyclemimic.train.stage1_tokenizer import tokenizer_facts

SKILLS = ("reach", "push_left", "push_right", "push_forward", "push_back")
DEMONSTRATION_SEED = 5_000_000
# name in the summary -> (policy, what it is shown)
ARMS = {
    "pretrained_lora": ("policy-lora-5", "as it is"),
    "pretrained_full": ("policy-full-5", "as it is"),
    "scratch": ("policy-scratch-5", "as it is"),
    "pretrained_20": ("policy-full-20", "as it is"),
    "swapped_instruction": ("policy-full-20", "swapped"),
    "black_image": ("policy-full-20", "black"),
}


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """How much of everything; the quick one only shows that the way is whole.

    Args:
        body: who demonstrates and acts; its video is in the pre-training too, without actions.
        video: filmed episodes per body and skill; `wander` as many per body.
        episodes: closed-loop episodes per skill and arm.
    """

    body: str = "arm6"
    video: int = 40
    trunk_steps: int
    branch_steps: int
    pretrain_steps: int
    finetune_steps: int
    finetune_20_steps: int
    episodes: int = 24


def plan(quick: bool) -> DemoPlan:
    """The plan of `make demo`, with the steps of the tiny recipe."""
    if quick:
        return DemoPlan(
            video=4,
            trunk_steps=30,
            branch_steps=20,
            pretrain_steps=20,
            finetune_steps=20,
            finetune_20_steps=20,
            episodes=2,
        )
    recipe = tiny()
    return DemoPlan(
        trunk_steps=recipe.trunk.steps,
        branch_steps=recipe.ac3.steps,
        pretrain_steps=recipe.pretrain.optim.steps,
        finetune_steps=recipe.finetune.optim.steps,
        finetune_20_steps=recipe.finetune.optim.steps,
    )


def demo_jobs(run: Path, p: DemoPlan) -> list[Job]:
    """The demo as commands. The policies that are compared differ in nothing but where they start."""
    video, film, demos, cache = (
        f"folder:{run}/film/video",
        f"film:{run}/film",
        f"film:{run}/demonstrations",
        f"{run}/cache",
    )
    at = {
        name: str(run / name)
        for name in ("trunk", "genie", "ac3", "labels", "demonstration-labels", "pretrained", "judge")
    }
    store = ("--cache", cache)

    def tokenizer(objective: str, steps: int, *begin: str) -> tuple[str, ...]:
        return (
            "tokenizer",
            "--source",
            video,
            "--run",
            at[objective],
            "--objective",
            objective,
            "--steps",
            str(steps),
            *begin,
            *store,
        )

    def finetune(name: str, per_skill: int, steps: int, *begin: str) -> tuple[str, ...]:
        words = (
            "finetune",
            "--source",
            demos,
            "--run",
            str(run / name),
            "--body",
            p.body,
            "--per-skill",
            str(per_skill),
        )
        return (*words, "--labels", at["demonstration-labels"], "--steps", str(steps), *begin)

    few = min(5, p.video)
    jobs = [
        Job(
            name="film",
            says="film five bodies at six skills",
            seconds=45,
            arguments=(
                "film",
                "arms",
                "--out",
                f"{run}/film",
                "--episodes",
                str(p.video),
                "--skills",
                *SKILLS,
                "wander",
            ),
        ),
        Job(
            name="demonstrations",
            says=f"record demonstrations with actions on {p.body}",
            seconds=8,
            arguments=(
                "film",
                "arms",
                "--out",
                f"{run}/demonstrations",
                "--episodes",
                "20",
                "--bodies",
                p.body,
                "--skills",
                *SKILLS,
                "--first-seed",
                str(DEMONSTRATION_SEED),
            ),
        ),
        Job(
            name="trunk",
            says="learn latent actions from video: reconstruction trunk",
            seconds=260,
            after=("film",),
            arguments=tokenizer("trunk", p.trunk_steps),
        ),
        Job(
            name="ac3",
            says="branch with AC3 and the discriminator",
            seconds=220,
            after=("trunk",),
            arguments=tokenizer("ac3", p.branch_steps, "--trunk", at["trunk"]),
        ),
        Job(
            name="genie",
            says="branch without them, the control",
            seconds=90,
            after=("trunk",),
            arguments=tokenizer("genie", p.branch_steps, "--trunk", at["trunk"]),
        ),
        Job(
            name="quality-genie",
            says="fit the independent judge, measure the control",
            seconds=120,
            after=("genie",),
            arguments=("evaluate", at["genie"], "--source", film, "--judge", at["judge"], *store),
        ),
        Job(
            name="demonstration-labels",
            says="label the demonstrations",
            seconds=8,
            after=("ac3", "demonstrations"),
            arguments=(
                "label",
                "--source",
                demos,
                "--tokenizer",
                at["ac3"],
                "--out",
                at["demonstration-labels"],
                *store,
            ),
        ),
        Job(
            name="labels",
            says="label all video",
            seconds=20,
            after=("ac3",),
            arguments=("label", "--source", video, "--tokenizer", at["ac3"], "--out", at["labels"], *store),
        ),
        Job(
            name="scratch",
            says="control: no latent pre-training, all weights, as many steps",
            seconds=260,
            after=("demonstration-labels",),
            arguments=finetune("policy-scratch-5", few, p.pretrain_steps + p.finetune_steps, "--adaptation", "full"),
        ),
        Job(
            name="pretrain",
            says="pre-train the policy on latent actions",
            seconds=220,
            after=("labels",),
            arguments=(
                "pretrain",
                "--source",
                video,
                "--labels",
                at["labels"],
                "--run",
                at["pretrained"],
                "--steps",
                str(p.pretrain_steps),
                *store,
            ),
        ),
        Job(
            name="quality-ac3",
            says="measure AC3",
            seconds=35,
            after=("ac3", "quality-genie"),
            arguments=("evaluate", at["ac3"], "--source", film, "--judge", at["judge"], *store),
        ),
        Job(
            name="full-20",
            says="fine-tune on 20 demonstrations per skill",
            seconds=80,
            after=("pretrain", "demonstration-labels"),
            arguments=finetune(
                "policy-full-20", 20, p.finetune_20_steps, "--init", at["pretrained"], "--adaptation", "full"
            ),
        ),
        Job(
            name="lora-5",
            says="fine-tune on 5 demonstrations per skill, LoRA",
            seconds=80,
            after=("pretrain", "demonstration-labels"),
            arguments=finetune(
                "policy-lora-5", few, p.finetune_steps, "--init", at["pretrained"], "--adaptation", "lora"
            ),
        ),
        Job(
            name="full-5",
            says="fine-tune on 5 demonstrations per skill, all weights",
            seconds=80,
            after=("pretrain", "demonstration-labels"),
            arguments=finetune(
                "policy-full-5", few, p.finetune_steps, "--init", at["pretrained"], "--adaptation", "full"
            ),
        ),
    ]
    made = {
        "policy-full-20": "full-20",
        "policy-lora-5": "lora-5",
        "policy-full-5": "full-5",
        "policy-scratch-5": "scratch",
    }
    for name, (policy, show) in ARMS.items():
        words = (
            "evaluate",
            str(run / policy),
            "--body",
            p.body,
            "--skills",
            *SKILLS,
            "--episodes",
            str(p.episodes),
            "--show",
            show,
        )
        jobs.append(
            Job(
                name=f"act-{name}",
                says=f"let it act: {name.replace('_', ' ')}",
                seconds=20,
                after=(made[policy],),
                arguments=words,
            )
        )
    return jobs


def run_demo(run: Path, *, quick: bool) -> int:
    """Run what is left of the demo and write its summary and report; returns the exit code.

    Not 0 where a station failed or a term of the objective was inert, whatever the numbers are.
    """
    p = plan(quick)
    jobs = demo_jobs(run, p)
    print(
        f"CycleMimic demo in {run}: from video to a robot that acts. {len(jobs)} commands, two at a time:", flush=True
    )
    try:
        seconds = Jobs(jobs=jobs, folder=run / "jobs").run()
    except JobFailedError as failed:
        print(failed)
        return 1
    summary = write_summary(run, p, seconds)
    print(summary.table())
    if summary.inert_terms():
        print(f"inert terms of the objective: {', '.join(summary.inert_terms())}")
        return 1
    return 0


def write_summary(run: Path, p: DemoPlan, seconds: float) -> Summary:
    """Gather what the stations measured into summary.json and one self-contained page."""
    records = {name: load_quality(run / name / "quality.json") for name in ("ac3", "genie")}
    rollouts = {
        name: load_rollouts(run / policy, f"rollouts-{show.replace(' ', '-')}") for name, (policy, show) in ARMS.items()
    }
    metrics = {name: read_metrics(run / name) for name in ("trunk", "genie", "ac3")}
    pace = [row["cpu_ms_per_sample"] for row in metrics["ac3"]]
    summary = Summary(
        seconds=seconds,
        cpu_ms_per_pair=sum(pace) / len(pace),
        quality={name: record.quality for name, record in records.items()},
        references=records["ac3"].references,
        judge=records["ac3"].judge,
        on_steps=OnSteps(**tokenizer_facts(run / "ac3")["on_steps"]),
        gradient_norm=gradient_norms_from(metrics["ac3"]),
        success={name: result.row() for name, result in rollouts.items()},
        report=str(run / "report.html"),
    )
    tokenizers = {name: LatentActionTokenizer.load(run / name) for name in ("ac3", "genie")}
    source = open_source(f"film:{run}/film")
    assert isinstance(source, FilmSource)
    cache = cached(source, tokenizers["ac3"].config.size_px, run / "cache")
    _, _, test = known_motion(source, cache, tokenizer_facts(run / "ac3")["gap_s"])
    write_report(
        run / "report.html",
        "CycleMimic: from video to a robot that acts",
        [
            headline_section(summary),
            success_section(summary.success, rollouts),
            quality_section(summary.quality, summary.references, summary.judge),
            transfer_section(tokenizers, test, seed=SPLIT_SEED),
            codes_section(tokenizers, test),
            films_section(rollouts),
            objective_section(summary),
            curves_section(metrics),
            provenance_section(
                json.loads(json.dumps({"plan": asdict(p), "recipe": asdict(tiny())})),
                {"training": 0, "split": SPLIT_SEED},
            ),
        ],
        text="Video of five simulated arms, latent actions learned from it, a policy pre-trained on them, fine-tuned "
        "on a few demonstrations. One seed: the numbers show that the way is whole, not which method is better.",
    )
    write_json(run / "summary.json", summary.to_json())
    return summary
