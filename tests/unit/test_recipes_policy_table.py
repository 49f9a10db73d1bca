"""The policy table over commands that pretend: what is planned, shared, compared and refused."""

import json
import sys
from collections import Counter

import pytest

from cyclemimic.errors import InputError
from cyclemimic.evaluate.policy_cells import PolicyCell, policy_results
from cyclemimic.recipes.ablate import study_of
from cyclemimic.recipes.adapting import SCRATCH_RATES
from cyclemimic.recipes.commands import EPISODE_SEED, StudySize
from cyclemimic.recipes.policy_rows import POLICY
from cyclemimic.recipes.policy_study import policy_study_of
from cyclemimic.recipes.tables import find_table
from cyclemimic.recipes.tiny import tiny
from cyclemimic.store.atomic import read_json
from tests.unit import ablate_small


@pytest.fixture
def study(tmp_path):
    def made(rows=("genie",), *, per_skill=(5,), seeds=1, **words):
        settings = {
            "split": "validation", "quarter": False, "ours": None, "size": StudySize(), "device": None, "lanes": 2,
            "log": tmp_path / "docs/log.md", "budget_minutes": None,
        }  # fmt: skip
        found = policy_study_of(
            POLICY, recipe_name="tiny", base=tiny(), rows=rows, seeds=seeds, per_skill=per_skill,
            run=tmp_path / "run", results=tmp_path / "results", cache=tmp_path / "cache", **{**settings, **words},
        )  # fmt: skip
        found.command = (sys.executable, ablate_small.__file__, str(tmp_path / "journal"))
        return found

    return made


def asked(tmp_path):
    path = tmp_path / "journal"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def flag(words, name):
    return words[words.index(name) + 1]


def jobs_of(made, verb):
    return [job.arguments for job in made._whole.jobs.values() if job.arguments[0] == verb]


def test_every_cell_is_measured_once_and_a_second_run_does_nothing(study, tmp_path):
    made = study(("genie", "ac3"), per_skill=(5, 20))
    assert made.measure() == 0
    verbs = Counter(words[0] for words in asked(tmp_path))
    # One film of video and two of demonstrations; a trunk and two branches; labels of all three films for each
    # tokenizer; one pre-training for both numbers; three rates without pre-training, one with.
    assert verbs == {"film": 3, "tokenizer": 3, "label": 6, "pretrain": 2, "finetune": 10, "evaluate": 6}
    cells = {path.name: path.read_bytes() for path in (tmp_path / "results/cells").iterdir()}
    assert len(cells) == 6
    assert study(("genie", "ac3"), per_skill=(5, 20)).measure() == 0
    assert Counter(words[0] for words in asked(tmp_path)) == verbs
    assert study(("genie", "ac3"), per_skill=(20,)).measure() == 0, "a part of the table is the same cells"
    assert Counter(words[0] for words in asked(tmp_path)) == verbs
    assert {path.name: path.read_bytes() for path in (tmp_path / "results/cells").iterdir()} == cells


def test_tokenizers_are_those_of_the_objective_table(study, tmp_path):
    names = ("lapa", "univla", "genie", "ac3")
    here = study(names)._whole.jobs
    there = study_of(
        find_table("objective"), recipe_name="tiny", base=tiny(), rows=names, seeds=1, split="validation",
        quarter=False, ours=None, latent_only=False, size=StudySize(), run=tmp_path / "run",
        results=tmp_path / "results", log=tmp_path / "log.md", cache=tmp_path / "cache", lanes=1, budget_minutes=None,
        device=None,
    )._whole.jobs  # fmt: skip
    for stage in ("film", "trunk", "tokenizer", "labels", "pretrain", "policy"):
        mine = {name: job for name, job in here.items() if f"-{stage}-" in name}
        shared = {name: job for name, job in there.items() if f"-{stage}-" in name}
        assert shared, stage
        for name, job in shared.items():
            assert mine[name].arguments == job.arguments


def test_no_pretraining_gets_as_many_steps_and_the_best_of_three_rates(study, tmp_path):
    made = study(("openvla",))
    trained = jobs_of(made, "finetune")
    assert {flag(words, "--steps") for words in trained} == {"3600"} and len(trained) == 6
    assert all("--init" not in words and "--labels" not in words for words in trained)
    assert sorted({float(flag(words, "--learning-rate")) for words in trained}) == list(SCRATCH_RATES)
    assert {flag(words, "--recipe") for words in trained} == {"tiny", "tiny+discrete_decoding"}
    made.measure()
    cell = made.cells()["none", 5][0]
    assert (cell.rate, cell.rates["0.001"]) == (1e-3, 0.75), "the second of three, as the choice says"


@pytest.mark.parametrize("split", ["validation", "test"])
def test_rates_are_chosen_from_validation_starts_and_judged_from_the_splits(study, split):
    (acts,) = jobs_of(study(("none",), split=split), "evaluate")
    assert flag(acts, "--choose-first-seed") == str(EPISODE_SEED["validation"])
    assert flag(acts, "--first-seed") == str(EPISODE_SEED[split])


def test_all_rows_act_from_the_same_starts(study):
    acting = jobs_of(study((), per_skill=(5, 20, 50), seeds=2), "evaluate")
    assert len(acting) == len(POLICY.rows) * 3 * 2
    asks = {tuple(flag(words, name) for name in ("--first-seed", "--episodes", "--body")) for words in acting}
    assert len(asks) == 1


@pytest.mark.parametrize("row", [row.name for row in POLICY.rows if row.others])
def test_rows_of_other_bodies_never_see_the_one_that_acts(study, row):
    made = study((row,))
    for verb, name in (("tokenizer", "--bodies"), ("finetune", "--body"), ("label", "--bodies")):
        for words in jobs_of(made, verb):
            of_the_demonstrations = any("demonstrations-" in word for word in words)
            if of_the_demonstrations:
                continue
            seen = words[words.index(name) + 1 :]
            assert "arm6" not in seen and "arm7" in seen, (row, verb)


def test_perfect_codes_mean_the_same_in_video_and_demonstrations(study):
    video, shown = jobs_of(study(("oracle_codes",)), "label")
    assert flag(video, "--true-motion") == flag(video, "--out") == flag(shown, "--true-motion")
    assert flag(shown, "--out") != flag(video, "--out") and "--bodies" not in shown


def test_true_actions_are_learnt_for_as_long_as_pretraining_takes(study):
    made = study(("true_actions",))
    (bound,) = (words for words in jobs_of(made, "finetune") if "--as-one-body" in words)
    assert flag(bound, "--steps") == "3000" and flag(bound, "--per-skill") == "40"
    (tuned,) = (words for words in jobs_of(made, "finetune") if "--init" in words)
    assert flag(tuned, "--init") == flag(bound, "--run") and "--labels" not in tuned


def test_without_the_state_only_pretraining_is_blind(study):
    made = study(("true_actions", "true_actions_blind"))
    blind = [words for words in jobs_of(made, "finetune") if "--no-proprioception" in words]
    assert len(blind) == 1 and "--as-one-body" in blind[0]


@pytest.mark.parametrize("row", ["state_target", "keypoint", "proprioception_dropout"])
def test_ways_to_win_the_state_back_differ_from_perfect_codes_in_the_recipe_alone(study, row):
    (plain,), (won,) = (jobs_of(study((name,)), "pretrain") for name in ("oracle_codes", row))
    assert flag(won, "--source") == flag(plain, "--source") and flag(won, "--source").startswith("folder:")
    assert flag(won, "--labels") == flag(plain, "--labels") and "--proprioception" not in won
    assert flag(won, "--recipe") == f"tiny+{row}"
    # Fine-tuning is another, pre-training only where it learns something else.
    assert (flag(won, "--run") == flag(plain, "--run")) == (row == "proprioception_dropout")
    tuned = [
        [words for words in jobs_of(study((name,)), "finetune") if "--init" in words] for name in ("oracle_codes", row)
    ]
    assert flag(tuned[0][0], "--run") != flag(tuned[1][0], "--run")
    assert flag(tuned[1][0], "--init") == flag(won, "--run") and "--no-proprioception" not in tuned[1][0]
    assert POLICY.row(row).beside == "oracle_codes"


def test_commands_come_behind_what_they_need(study):
    jobs = study((), per_skill=(5, 20))._whole.jobs
    for number, job in enumerate(jobs.values()):
        assert set(job.after) <= set(list(jobs)[:number]), job.name


def test_the_result_compares_rows_seed_by_seed_and_start_by_start(study, tmp_path):
    made = study(("genie", "genie_other_bodies", "ac3_other_bodies"), seeds=2)
    made.measure()
    found = read_json(made.result)
    assert (found["control"], found["complete"], found["test_runs"]) == ("none", True, 0)
    row = found["rows"]["ac3_other_bodies"]["5"]
    assert set(row["against"]) == {"none", "genie", "genie_other_bodies"}
    assert row["mean"]["mean"] == 0.75 and row["episodes"]["n"] == 8
    text = (tmp_path / "results" / f"{made.name}.md").read_text()
    page = (tmp_path / "results" / f"{made.name}.html").read_text()
    for name in ("none", "genie", "ac3_other_bodies"):
        assert f"| {name} |" in text and f"<td>{name}</td>" in page
    assert "genie_other_bodies: +0.0" in text and str(tmp_path) not in text + page


def cell(row, seed, solved, per_skill=5, episodes=4):
    size = {"world": "arms", "acting_body": "arm6", "acting_skills": ["reach"], "acting_episodes": episodes}
    n, k = len(solved), solved.count("1")
    success = {"rate": k / n, "low": 0.0, "high": 1.0, "n": n, "errors": 0}
    from cyclemimic.evaluate.statistics import SuccessRow

    return PolicyCell(
        row=row, seed=seed, per_skill=per_skill, scale="tiny", split="validation", key="0", share=1.0,
        success=SuccessRow(**success), skills={"reach": SuccessRow(**success)}, solved=solved, rates={}, rate=None,
        configuration={"size": size}, cpu="", commit=None,
    )  # fmt: skip


def test_differences_and_discordant_starts():
    cells = {("none", 5): [cell("none", 0, "1000"), cell("none", 1, "0001")],
             ("ac3", 5): [cell("ac3", 0, "0111"), cell("ac3", 1, "0011"), cell("ac3", 2, "0000")]}  # fmt: skip
    found = policy_results(cells, {"none": ("none", "genie"), "ac3": ("none", "genie")})
    against = found["ac3", 5].against["none"]
    assert (against.paired.n, against.paired.wins) == (2, 2), "the seeds that both have"
    assert against.paired.mean_difference == pytest.approx((0.5 + 0.25) / 2)
    assert (against.starts.only_first, against.starts.only_second) == (1, 4)
    assert (found["ac3", 5].episodes.n, found["ac3", 5].episodes.rate) == (12, pytest.approx(5 / 12))
    assert found["none", 5].against == {}


def test_cells_of_other_starts_are_not_compared():
    cells = {("none", 5): [cell("none", 0, "1000")], ("ac3", 5): [cell("ac3", 0, "0111", episodes=2)]}
    with pytest.raises(InputError, match="same starts"):
        policy_results(cells, {"none": (), "ac3": ("none",)})


def test_a_cell_reads_back_and_a_spoilt_one_is_refused(tmp_path):
    path = cell("ac3", 0, "0111").save(tmp_path)
    assert PolicyCell.load(path) == cell("ac3", 0, "0111") and path.name.startswith("policy-ac3-5-tiny")
    path.write_text("{}")
    with pytest.raises(InputError, match="run again"):
        PolicyCell.load(path)


def test_screening_takes_a_quarter_of_the_steps(study):
    steps = {flag(words, "--steps") for words in jobs_of(study(("genie",), quarter=True, seeds=None), "pretrain")}
    assert steps == {"750"} and study(quarter=True, seeds=None).seeds == (0, 1)
    assert study(seeds=None).seeds == (0, 1, 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"rows": ("ac4",)}, "ac3"),
        ({"rows": ("ac3", "ac3")}, "once"),
        ({"per_skill": (5, 5)}, "--per-skill"),
        ({"per_skill": (0,)}, "--per-skill"),
        ({"seeds": 0}, "--seeds"),
        ({"ours": "lapa"}, "--ours"),
        ({"rows": ("oracle_codes",), "size": StudySize(bodies=("arm6",))}, "--bodies"),
        ({"rows": ("true_actions",), "size": StudySize(skills=("wander",))}, "--skills"),
        ({"split": "test", "quarter": True}, "--quarter"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_run(study, tmp_path, words, said):
    with pytest.raises(InputError, match=said):
        study(**words)
    assert not (tmp_path / "run").exists()
