"""What is worth what: runs measured, tables of several seeds, and reports of both."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cyclemimic.cli.choices import CACHE, RESULTS, Features, the_recipe
from cyclemimic.errors import InputError
from cyclemimic.recipes import ablate as studies
from cyclemimic.recipes import acting, judging, judging_parts, parts, remote, reporting
from cyclemimic.recipes.commands import StudySize
from cyclemimic.recipes.doctor import doctor as look_around
from cyclemimic.recipes.policy_rows import POLICY
from cyclemimic.recipes.policy_study import PolicyStudy, policy_study_of
from cyclemimic.recipes.published import tables_text
from cyclemimic.recipes.tables import find_table
from cyclemimic.train.loop import use_threads
from cyclemimic.train.signals import ended_at_once

STUDY = StudySize()


@ended_at_once("What was measured is kept.")
def evaluate(
    run: tyro.conf.Positional[Path],
    source: str | None = None,
    judge: Path | None = None,
    split: Literal["validation", "test", "held-out"] = "held-out",
    without: Path | None = None,
    suite: str | None = None,
    world: str = "arms",
    body: str | None = None,
    skills: tuple[str, ...] = (),
    episodes: int = 20,
    first_seed: int = 10_000_000,
    show: Literal["as it is", "swapped", "black"] = "as it is",
    rivals: tuple[Path, ...] = (),
    choose_first_seed: int = 11_000_000,
    through_server: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    controls: bool = False,
    features: Features = "auto",
    out: Path | None = None,
    threads: int = 1,
    cache: Path = CACHE,
) -> None:
    """Judge a run: a policy's success in a world or error on demonstrations, or the quality of latent actions.

    Args:
        run: what to judge; a tokenizer and a policy are told apart by what lies there.
        source: for a tokenizer, video whose true motion is known: film:PATH, or any source whose episodes have a state
            or actions of named axes, or a mixture, of which each source is judged alone; for a policy, demonstrations
            that it never saw: the error of its chunks per axis, for robots that have no simulator.
        judge: for a tokenizer, folder of the independent judge; fitted on first use.
        split: which clips: for a policy and a source any of the three; a tokenizer is judged on the test clips, or
            with `validation` on those for choices.
        without: for a policy and a source, another policy beside it, such as one without pre-training.
        suite: for a policy, a fixed set of tasks: arms, or package.module:Class; then neither world nor skills count.
        world: for a policy, where it acts; a name, or package.module:Class.
        body: for a policy, with which body; of a suite all of its bodies unless named.
        skills: for a policy, which skills; all unless named.
        episodes: for a policy, how many per skill.
        first_seed: for a policy, starts are drawn from this number on, and equal for equal numbers.
        show: for a policy, the true sentence and picture, a swapped instruction, or a black picture.
        rivals: for a policy, further runs: only the one that does best from `choose_first_seed` on is judged.
        choose_first_seed: where the starts begin by which one of several is chosen.
        through_server: for a policy, `serve` it and `drive` the world, each in a process of its own, and check that
            the episodes end as they do in this process.
        controls: for a tokenizer, measure also a difference of frames, an untrained encoder, one code
            for all pairs and an oracle.
        features: for a tokenizer with a frozen backbone, as `cyclemimic label` has them.
        out: folder for results; the run itself unless given.
        threads: of one core each.
        cache: folder of decoded frames.
    """
    use_threads(threads)
    if (run / "tokenizer.json").exists():
        if source is None:
            raise InputError(
                "--source",
                expected="film:PATH, or another source whose episodes have a state or actions of named axes",
                got="none",
                remedy="Name what `film` wrote, or your own recordings: docs/guides/source.md.",
            )
        judges, results = judge or run.parent / "judge", out or run
        settings: dict[str, Any] = {
            "cache_root": cache,
            "side": "validation" if split == "validation" else "test",
            "controls": controls,
            "features": features,
        }
        opened = parts.open_sources(source)
        if isinstance(opened, parts.OpenMixture):
            records, refused = judging_parts.run_quality_of_parts(run, opened, judges, results, **settings)
            print(judging_parts.text_of_parts(records, refused))
            return
        print(judging.quality_text(judging.run_quality(run, source, judges, results, **settings)))
        return
    if suite is not None:
        if skills or through_server or source is not None:
            raise InputError(
                "--suite",
                expected="none of --skills, --through-server and --source beside it",
                got="one of them",
                remedy="A suite says itself what is done, and where.",
            )
        print(acting.run_suite(run, suite, episodes=episodes, body=body, show=show, out=out or run).text())
        return
    if source is not None:
        found = acting.run_open_loop(run, source, out=out or run, split=split, without=without, body=body)
        print(found.text())
        return
    if body is None:
        raise InputError(
            "--body", expected="the body that acts", got="none", remedy="Name the body of the demonstrations."
        )
    if through_server:
        if show != "as it is":
            raise InputError("--through-server", expected="--show 'as it is'", got=show, remedy="Leave one out.")
        record = remote.run_remote(
            run, world, body=body, skills=skills, episodes=episodes, first_seed=first_seed, out=out or run
        )
        print(record.text())
        sys.exit(0 if record.equal == record.success.n else 1)
    if rivals:
        run = acting.best_of(
            (run, *rivals), world, body=body, skills=skills, episodes=episodes, first_seed=choose_first_seed,
            out=out or run,
        )  # fmt: skip
    result = acting.run_rollouts(
        run,
        world,
        body=body,
        skills=skills,
        episodes=episodes,
        first_seed=first_seed,
        show=show,
        out=out or run,
    )
    print(acting.rollout_text(result))


def ablate(
    table: str,
    recipe: str = "tiny",
    rows: tuple[str, ...] = (),
    seeds: int | None = None,
    split: Literal["validation", "test"] = "validation",
    quarter: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    ours: str | None = None,
    latent_only: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    episodes: int | None = None,
    bodies: tuple[str, ...] = STUDY.bodies,
    unseen_bodies: tuple[str, ...] = STUDY.unseen,
    skills: tuple[str, ...] = STUDY.skills,
    acting_body: str = STUDY.acting_body,
    acting_skills: tuple[str, ...] = STUDY.acting_skills,
    per_skill: tuple[int, ...] = (),
    acting_episodes: int | None = None,
    run: Path = Path("runs/ablate"),
    results: Path = RESULTS,
    log: Path = Path("docs/log.md"),
    lanes: int = 2,
    budget_minutes: float | None = None,
    device: str | None = None,
    precision: Literal["fp32", "bf16"] | None = None,
    cache: Path = CACHE,
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """A table of the paper over several seeds, on simulated arms. What is measured already is not measured again.

    A seed is a new initialisation, a new order of the data, and new video. Exit code 75: the budget was spent, and the
    same command goes on.

    Args:
        table: pilot, objective, buffer, discriminator, decoder, head, routing, codes, data or policy.
        recipe: tiny, small, or package.module:function; the scale.
        rows: which rows beside the control; all unless named. ac3+CHANGE+CHANGE makes a row of changes.
        seeds: how many, 0 and up; 5 unless given, of the policy table 3, with `quarter` 2.
        split: validation for choices; test only once hypothesis and configuration are committed to the log.
        quarter: screen: a quarter of the recipe's steps.
        ours: the row that the result file compares with the control; the table's unless given.
        latent_only: train no policies.
        episodes: filmed per body and skill, for each seed; the recipe's unless given.
        bodies: who is filmed; all unless named.
        unseen_bodies: whose video no tokenizer sees; they are measured apart.
        skills: what is filmed.
        acting_body: whose demonstrations, and who acts.
        acting_skills: what it is shown and asked.
        per_skill: demonstrations of each skill; 5 unless given. The policy table takes several: 5 20 50 unless given.
        acting_episodes: in closed loop, of each skill; 24 unless given, of the policy table 48.
        run: folder for films and runs; may be removed once all cells are measured.
        results: folder for cells, the result file, Markdown and HTML.
        log: the log of experiments.
        lanes: commands at a time, of one core each.
        budget_minutes: stop after so long.
        device: of the tokenizers; the recipe's unless given.
        precision: of the tokenizers; the recipe's unless given.
        cache: folder of decoded frames.
        dry_run: only say which cells there are, and how many CPU-minutes they take.
    """
    base = the_recipe(recipe)
    size = StudySize(
        world=base.world,
        episodes=base.episodes if episodes is None else episodes,
        bodies=bodies,
        unseen=unseen_bodies,
        skills=skills,
        acting_body=acting_body,
        acting_skills=acting_skills,
        per_skill=per_skill[0] if per_skill else STUDY.per_skill,
        acting_episodes=acting_episodes or (POLICY if table == POLICY.name else STUDY).acting_episodes,
    )
    given: dict[str, Any] = {
        "recipe_name": recipe, "base": base, "rows": rows, "seeds": seeds, "split": split,
        "quarter": quarter, "ours": ours, "size": size, "run": run, "results": results, "log": log, "cache": cache,
        "lanes": lanes, "budget_minutes": budget_minutes, "device": device, "precision": precision,
    }  # fmt: skip
    study: studies.TableStudy | PolicyStudy
    if table == POLICY.name:
        if latent_only:
            remedy = "Leave it out; --table objective measures tokenizers."
            raise InputError("--latent-only", expected="a table of tokenizers", got=table, remedy=remedy)
        study = policy_study_of(POLICY, per_skill=per_skill, **given)
    else:
        if len(per_skill) > 1:
            got = " ".join(map(str, per_skill))
            raise InputError("--per-skill", expected="one number", got=got, remedy="--table policy takes several.")
        study = studies.study_of(find_table(table), latent_only=latent_only, **given)
    if dry_run:
        print(study.dry_run())
        return
    sys.exit(study.measure())


def report(
    run: tyro.conf.Positional[Path | None] = None,
    tables: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    results: Path = RESULTS,
) -> None:
    """The page of a run from the files in its folder, or with --tables the paper's tables; nothing is measured again.

    Args:
        run: a run of tokenizer, pretrain, finetune or demo, finished or not: its numbers are printed, and its page
            report.html is written anew, with what is missing. Or a result of `ablate`, or a folder of such.
        tables: print the paper's tables in its row order: what is published, and what was measured here, or that
            nothing was.
        results: for the tables, folder of the result files of `ablate`.
    """
    if tables == (run is not None):
        got = "both" if tables else "neither"
        raise InputError("report", expected="a run's folder, or --tables", got=got, remedy="Say which is wanted.")
    print(tables_text(results) if run is None else reporting.report_run(run))


def doctor() -> None:
    """Say what this machine has and what it lacks."""
    print(look_around())
