"""`make demo`: the whole journey, from video to a robot that acts, as the commands that a user would type."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
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
from cyclemimic.evaluate.remote import load_remote
from cyclemimic.evaluate.report import write_report
from cyclemimic.evaluate.rollout import RolloutResult
from cyclemimic.evaluate.summary import OnSteps, Summary, gradient_norms_from
from cyclemimic.recipes.adapting import SCRATCH_RATE, SKILLS, finetune_steps
from cyclemimic.recipes.footage import SPLIT_SEED, cached, open_source
from cyclemimic.recipes.jobs import Job, JobFailedError, Jobs
from cyclemimic.recipes.known_motion import known_motion
from cyclemimic.recipes.tiny import tiny
from cyclemimic.store.atomic import read_json, write_json
from cyclemimic.tokenizer.tokenizer import WEIGHTS, LatentActionTokenizer
from cyclemimic.train.checkpoint import CONFIG_FILE
from cyclemimic.train.loop import METRICS_FILE, read_metrics
from cyclemimic.train.stage1_tokenizer import tokenizer_facts

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
TOKENIZERS = ("ac3", "genie")
REMOTE = "policy-full-20"  # goes through a server as well


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """How much of everything; the quick one only shows that the way is whole.

    Args:
        body: who demonstrates and acts; its video is in the pre-training too, without actions.
        video: filmed episodes per body and skill; `wander` as many per body.
        episodes: closed-loop episodes per skill and arm.
        remote_episodes: of them, those that are driven through a server as well, per skill.
    """

    body: str = "arm6"
    video: int = 40
    trunk_steps: int
    branch_steps: int
    pretrain_steps: int
    finetune_steps: int
    finetune_20_steps: int
    episodes: int = 24
    remote_episodes: int = 2


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
        finetune_20_steps=finetune_steps(recipe.finetune.optim.steps, 20),
    )


def demo_jobs(run: Path, p: DemoPlan) -> list[Job]:
    """The demo as commands. Compared policies differ in where they start; the control has the rate best for it."""
    skills = " ".join(SKILLS)
    few = min(5, p.video)
    best_rate = f"--learning-rate {SCRATCH_RATE}"

    def job(name: str, seconds: float, says: str, command: str, *after: str) -> Job:
        # RUN is put in after the split, so that a folder with a space in its name stays one word.
        words = tuple(word.replace("RUN", str(run)) for word in command.split())
        return Job(name=name, seconds=seconds, says=says, arguments=words, after=after)

    def tokenizer(objective: str, steps: int) -> str:
        begin = "" if objective == "trunk" else " --trunk RUN/trunk"
        return (
            f"tokenizer --source folder:RUN/film/video --run RUN/{objective} --objective {objective} --steps {steps}"
            f"{begin} --cache RUN/cache"
        )

    def quality(objective: str) -> str:
        return f"evaluate RUN/{objective} --source film:RUN/film --judge RUN/judge --cache RUN/cache"

    def label(source: str, out: str) -> str:
        return f"label --source {source} --tokenizer RUN/ac3 --out RUN/{out} --cache RUN/cache"

    def finetune(policy: str, per_skill: int, steps: int, begin: str) -> str:
        return (
            f"finetune --source film:RUN/demonstrations --run RUN/{policy} --body {p.body} --per-skill {per_skill}"
            f" --labels RUN/demonstration-labels --steps {steps} {begin}"
        )

    begun = "--init RUN/pretrained --adaptation"
    jobs = [
        job("film", 45, "film five bodies at six skills",
            f"film arms --out RUN/film --episodes {p.video} --skills {skills} wander"),
        job("demonstrations", 8, f"record demonstrations with actions on {p.body}",
            f"film arms --out RUN/demonstrations --episodes 20 --bodies {p.body} --skills {skills}"
            f" --first-seed {DEMONSTRATION_SEED} --tail-steps 3"),
        job("trunk", 240, "learn latent actions from video: reconstruction trunk",
            tokenizer("trunk", p.trunk_steps), "film"),
        job("ac3", 190, "branch with AC3 and the discriminator", tokenizer("ac3", p.branch_steps), "trunk"),
        job("genie", 95, "branch without them, the control", tokenizer("genie", p.branch_steps), "trunk"),
        job("quality-genie", 90, "fit the independent judge, measure the control", quality("genie"), "genie"),
        job("demonstration-labels", 8, "label the demonstrations",
            label("film:RUN/demonstrations", "demonstration-labels"), "ac3", "demonstrations"),
        job("labels", 20, "label all video", label("folder:RUN/film/video", "labels"), "ac3"),
        job("scratch", 420, "control: no latent pre-training, all weights, as many steps",
            finetune("policy-scratch-5", few, p.pretrain_steps + p.finetune_steps, f"--adaptation full {best_rate}"),
            "demonstration-labels"),
        job("pretrain", 210, "pre-train the policy on latent actions",
            f"pretrain --source folder:RUN/film/video --labels RUN/labels --run RUN/pretrained"
            f" --steps {p.pretrain_steps} --cache RUN/cache", "labels"),
        job("full-20", 95, "fine-tune on 20 demonstrations per skill",
            finetune("policy-full-20", 20, p.finetune_20_steps, f"{begun} full"), "pretrain", "demonstration-labels"),
        job("lora-5", 80, "fine-tune on 5 demonstrations per skill, LoRA",
            finetune("policy-lora-5", few, p.finetune_steps, f"{begun} lora"), "pretrain", "demonstration-labels"),
        job("full-5", 75, "fine-tune on 5 demonstrations per skill, all weights",
            finetune("policy-full-5", few, p.finetune_steps, f"{begun} full"), "pretrain", "demonstration-labels"),
        job("quality-ac3", 30, "measure AC3", quality("ac3"), "ac3", "quality-genie"),
    ]  # fmt: skip

    maker = {f"policy-{name}": name for name in ("full-20", "lora-5", "full-5")} | {"policy-scratch-5": "scratch"}
    for name, (policy, show) in ARMS.items():
        acting = f"evaluate RUN/{policy} --body {p.body} --skills {skills} --episodes {p.episodes} --show"
        made = job(f"act-{name}", 30, f"let it act: {name.replace('_', ' ')}", acting, maker[policy])
        jobs.append(replace(made, arguments=(*made.arguments, show)))
    jobs.append(
        job("remote", 25, "serve the last policy and drive the robot in a process of its own",
            f"evaluate RUN/{REMOTE} --body {p.body} --skills {skills} --episodes {p.remote_episodes} --through-server",
            *(j.name for j in jobs if j.name.startswith("act-")))
    )  # fmt: skip
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
    summary = gather(run, seconds)
    write_page(run, p, summary)
    write_json(run / "summary.json", summary.to_json())
    return summary


def lacking(run: Path) -> list[str]:
    """The files in which the stations' measurements would stand, and that are not there."""
    wanted = [run / name / "quality.json" for name in TOKENIZERS]
    wanted += [run / name / METRICS_FILE for name in ("trunk", *TOKENIZERS)]
    wanted += [run / policy / f"{_rollouts(show)}.json" for policy, show in ARMS.values()]
    return [str(path) for path in (*wanted, run / REMOTE / "remote.json") if not path.exists()]


def undrawable(run: Path) -> Path | None:
    """What is gone of all that the page's pictures need; None where they can be drawn."""
    wanted = [run / "film", run / "cache", *(run / name / WEIGHTS for name in TOKENIZERS)]
    return next((path for path in wanted if not path.exists()), None)


def plan_of(run: Path) -> DemoPlan:
    """The plan that a demo followed, as its trunk tells."""
    return plan(quick=read_json(run / "trunk" / CONFIG_FILE)["steps"] == plan(quick=True).trunk_steps)


def gather(run: Path, seconds: float) -> Summary:
    """What the stations measured, from their files."""
    records = {name: load_quality(run / name / "quality.json") for name in TOKENIZERS}
    metrics = read_metrics(run / "ac3")
    pace = [row["cpu_ms_per_sample"] for row in metrics]
    return Summary(
        seconds=seconds,
        cpu_ms_per_pair=sum(pace) / len(pace),
        quality={name: record.quality for name, record in records.items()},
        references=records["ac3"].references,
        judge=records["ac3"].judge,
        on_steps=OnSteps(**tokenizer_facts(run / "ac3")["on_steps"]),
        gradient_norm=gradient_norms_from(metrics),
        success={name: result.row() for name, result in _acted(run).items()},
        report=str(run / "report.html"),
        remote=load_remote(run / REMOTE / "remote.json"),
    )


def write_page(run: Path, p: DemoPlan, summary: Summary) -> None:
    """Draw one self-contained page; needs the film, its cache and both tokenizers."""
    tokenizers = {name: LatentActionTokenizer.load(run / name) for name in TOKENIZERS}
    source = open_source(f"film:{run}/film")
    assert isinstance(source, FilmSource)
    cache = cached(source, tokenizers["ac3"].config.size_px, run / "cache")
    _, _, test = known_motion(source, cache, tokenizer_facts(run / "ac3")["gap_s"])
    rollouts = _acted(run)
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
            curves_section({name: read_metrics(run / name) for name in ("trunk", "genie", "ac3")}),
            provenance_section(
                json.loads(json.dumps({"plan": asdict(p), "recipe": asdict(tiny())})),
                {"training": 0, "split": SPLIT_SEED},
            ),
        ],
        text="Video of five simulated arms, latent actions learned from it, a policy pre-trained on them, fine-tuned "
        "on a few demonstrations. One seed: the numbers show that the way is whole, not which method is better.",
    )


def _acted(run: Path) -> dict[str, RolloutResult]:
    return {name: load_rollouts(run / policy, _rollouts(show)) for name, (policy, show) in ARMS.items()}


def _rollouts(show: str) -> str:
    return f"rollouts-{show.replace(' ', '-')}"
