"""Studies over commands that pretend: each cell once, whatever stops them; tests of the log; what the table says."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from cyclemimic.errors import InputError
from cyclemimic.evaluate.cells import Cell
from cyclemimic.recipes import ablate
from cyclemimic.recipes.ablate import inert_terms, study_of
from cyclemimic.recipes.commands import StudySize
from cyclemimic.recipes.published import NOT_MEASURED, PUBLISHED, tables_text
from cyclemimic.recipes.stations import make_world
from cyclemimic.recipes.table_pages import RowPicture
from cyclemimic.recipes.tables import TABLES, find_table
from cyclemimic.recipes.tiny import tiny
from cyclemimic.store.atomic import alone_in, read_json
from cyclemimic.train.endings import RunInterruptedError
from tests.unit import ablate_small

PNG = b"\x89PNG picture"


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch):
    """Pretended tokenizers draw nothing."""
    monkeypatch.setattr(ablate, "draw_row", lambda row, *_, **__: RowPicture(row=row.name, caption=row.says, png=PNG))


@pytest.fixture
def study(tmp_path):
    def made(table="objective", *, rows=("ac3",), seeds=2, budget_minutes=None, command=None, **words):
        settings = {
            "split": "validation", "quarter": False, "ours": None, "latent_only": True, "size": StudySize(),
            "device": None, "lanes": 2, "log": tmp_path / "docs/log.md",
        }  # fmt: skip
        found = study_of(
            find_table(table), recipe_name="tiny", base=tiny(), rows=rows, seeds=seeds,
            budget_minutes=budget_minutes, run=tmp_path / "run", results=tmp_path / "results",
            cache=tmp_path / "cache", **{**settings, **words},
        )  # fmt: skip
        found.command = command or (sys.executable, ablate_small.__file__, str(tmp_path / "journal"))
        return found

    return made


def asked(tmp_path):
    path = tmp_path / "journal"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_every_cell_is_measured_once_and_a_second_run_does_nothing(study, tmp_path):
    assert study().measure() == 0
    verbs = [words[0] for words in asked(tmp_path)]
    # By seed: a film, a trunk, two branches, two measurements.
    assert {verb: verbs.count(verb) for verb in set(verbs)} == {"film": 2, "tokenizer": 6, "evaluate": 4}
    cells = {p.name: p.read_bytes() for p in (tmp_path / "results/cells").iterdir()}
    assert len(cells) == 4
    assert study().measure() == 0
    assert len(asked(tmp_path)) == len(verbs)
    assert {p.name: p.read_bytes() for p in (tmp_path / "results/cells").iterdir()} == cells


def test_cells_are_enough_where_the_runs_were_removed(study, tmp_path):
    study().measure()
    before = len(asked(tmp_path))
    (tmp_path / "run").rename(tmp_path / "gone")
    assert study().measure() == 0 and len(asked(tmp_path)) == before


def test_a_seed_is_new_weights_new_order_and_new_video(study, tmp_path):
    study().measure()
    films = [words for words in asked(tmp_path) if words[0] == "film"]
    assert len({words[words.index("--first-seed") + 1] for words in films}) == 2
    runs = [words for words in asked(tmp_path) if words[0] == "tokenizer"]
    seeds = {words[words.index("--source") + 1]: set() for words in runs}
    for words in runs:
        seeds[words[words.index("--source") + 1]].add(words[words.index("--seed") + 1])
    assert sorted(map(sorted, seeds.values())) == [["0"], ["1"]]


def test_another_table_takes_the_cells_that_are_the_same(study, tmp_path):
    study().measure()
    before = len(asked(tmp_path))
    assert study("objective", rows=("ac3", "ac3+critic_none")).measure() == 0
    assert len(asked(tmp_path)) == before + 4, "a branch and a measurement of each seed"


def test_killed_between_a_command_and_its_cell_it_goes_on(study, tmp_path, monkeypatch):
    saved = []

    def dies(self, folder):
        saved.append(self.row)
        if len(saved) == 2:
            raise KeyboardInterrupt
        return save(self, folder)

    save = Cell.save
    monkeypatch.setattr(Cell, "save", dies)
    with pytest.raises(RunInterruptedError):
        study().measure()
    monkeypatch.setattr(Cell, "save", save)
    before = len([words for words in asked(tmp_path) if words[0] == "film"])
    assert study().measure() == 0
    assert len([words for words in asked(tmp_path) if words[0] == "film"]) == 2 >= before
    measured = [words[words.index("--out") + 1] for words in asked(tmp_path) if words[0] == "evaluate"]
    assert len(set(measured)) == 4


def test_a_spent_budget_ends_with_75_and_the_same_command_goes_on(study, tmp_path, capsys):
    stopped = study(budget_minutes=1e-6)
    assert stopped.measure() == 75
    assert "same command goes on" in capsys.readouterr().out
    assert not read_json(stopped.result)["complete"]
    assert study().measure() == 0
    assert read_json(stopped.result)["complete"]


def test_a_failed_command_ends_with_1_and_keeps_what_was_measured(study, tmp_path, capsys):
    (tmp_path / "journal.fail").write_text("univla")
    broken = study(rows=("univla", "ac3"), seeds=1, lanes=1)
    assert broken.measure() == 1
    assert "univla fails" in capsys.readouterr().out
    assert len(list((tmp_path / "results/cells").iterdir())) == 2, "the other rows are measured"
    (tmp_path / "journal.fail").unlink()
    assert broken.measure() == 0 and len(list((tmp_path / "results/cells").iterdir())) == 3


def test_two_studies_do_not_share_a_folder_at_the_same_time(study, tmp_path):
    with alone_in(tmp_path / "run/jobs"), pytest.raises(InputError, match="second one"):
        study().measure()
    assert asked(tmp_path) == []


def test_the_result_compares_ours_with_the_control_seed_by_seed(study):
    made = study(seeds=3)
    made.measure()
    found = read_json(made.result)
    assert (found["seeds"], found["test_runs"], found["control"], found["ours"]) == (3, 0, "genie", "ac3")
    probe, kappa, leak = (found["paired"][name] for name in ("probe_cross", "kappa_cross", "leak_index"))
    assert probe["mean_difference"] == pytest.approx(0.1) and (probe["wins"], probe["n"]) == (3, 3)
    assert probe["control"] == pytest.approx(0.42) and probe["ours"] == pytest.approx(0.52)
    assert (kappa["wins"], kappa["losses"]) == (2, 1) and kappa["low"] < 0 < kappa["high"]
    assert leak["mean_difference"] == pytest.approx(-0.1) and leak["wins"] == 3, "lower is better"
    assert found["paired"]["joint_codes"]["n"] == 0 and found["paired"]["joint_codes"]["low"] is None


def test_the_pages_hold_every_row_and_a_picture_of_each(study, tmp_path):
    made = study(rows=("ac3", "ac3+term_flow+critic_pairs"))
    made.measure()
    page = (tmp_path / "results" / f"{made.name}.html").read_text()
    text = (tmp_path / "results" / f"{made.name}.md").read_text()
    for name in ("genie", "ac3", "ac3+term_flow+critic_pairs"):
        assert f"| {name} |" in text and f"<td>{name}</td>" in page
    assert page.count("data:image/png;base64,") == 3
    assert "+0.100 (+0.100 to +0.100), 2/2, p 0.50" in text


def test_success_is_measured_where_the_table_asks_for_it(study, tmp_path):
    made = study("head", rows=(), seeds=1, latent_only=False)
    made.measure()
    verbs = [words[0] for words in asked(tmp_path)]
    assert verbs.count("tokenizer") == 2 and verbs.count("pretrain") == 1, "one tokenizer, one pre-training"
    assert verbs.count("finetune") == 3
    success = read_json(made.result)["paired"]["success"]
    assert (success["ours"], success["n"]) == (0.75, 1)


def test_screening_takes_a_quarter_of_the_steps_on_two_seeds_and_its_own_file(study, tmp_path):
    made = study(quarter=True, seeds=None)
    assert made.seeds == (0, 1) and made.name == "objective-tiny-quarter-validation"
    made.measure()
    steps = {words[words.index("--steps") + 1] for words in asked(tmp_path) if words[0] == "tokenizer"}
    assert steps == {"375", "150"}
    assert not {plan.key for plan in made.plans} & {plan.key for plan in study().plans}


def test_a_term_that_never_counted_is_told(study, tmp_path):
    made = study("discriminator", rows=("local-global",), seeds=1)
    made.measure()
    assert "none: cycle never counted" in (tmp_path / "results" / f"{made.name}.md").read_text()
    assert inert_terms(tiny().ac3, {"cycle": 3, "discriminator": 0}) == ("discriminator",)
    assert inert_terms(tiny().genie, {"cycle": 0, "discriminator": 0}) == ()


def git(folder, *words):
    name = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *name, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "docs").mkdir()
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "begin")
    return tmp_path


def test_test_clips_wait_until_the_hypothesis_is_committed(study, repository):
    made = study(split="test")
    log = repository / "docs/log.md"
    for text in ("", "nothing of the kind", "ablate objective 0123456789ab", f"ablate buffer {made.configuration}"):
        log.write_text(text)
        git(repository, "add", "docs")
        git(repository, "commit", "-q", "--allow-empty", "-m", "log")
        with pytest.raises(InputError, match="committed"):
            made.measure()
    log.write_text(f"- **Command**: {made.log_line}\n")
    with pytest.raises(InputError, match="committed"):
        made.measure()  # written, not committed
    assert asked(repository) == []
    git(repository, "commit", "-qam", "hypothesis")
    assert made.measure() == 0
    assert made.log_line in made.dry_run()
    # Other rows, or other seeds, are another configuration.
    with pytest.raises(InputError, match="committed"):
        study(split="test", seeds=3).measure()


def test_looks_at_test_clips_are_counted(study, repository):
    made = study(split="test")
    (repository / "docs/log.md").write_text(made.log_line)
    git(repository, "add", "docs")
    git(repository, "commit", "-qm", "hypothesis")
    made.measure()
    assert read_json(made.result)["test_runs"] == 1
    made.measure()
    assert read_json(made.result)["test_runs"] == 1, "nothing was measured again"
    next((repository / "results/cells").iterdir()).unlink()
    made.measure()
    assert read_json(made.result)["test_runs"] == 2


def test_at_most_three_rows_are_carried_to_the_test(study):
    rows = ("ac3", "lapa", "ac3+term_flow", "ac3+term_reader")
    with pytest.raises(InputError, match="at most 3"):
        study(rows=rows, split="test")
    assert len(study(rows=rows[:3], split="test").rows) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"table": "objectiv"}, "objective"),
        ({"rows": ("ac4",)}, "ac3"),
        ({"rows": ("ac3+term_flwo",)}, "term_flow"),
        ({"rows": ("lapa+term_flow",)}, "genie\\+CHANGE"),
        ({"rows": ("ac3", "ac3")}, "once"),
        ({"ours": "lapa"}, "--ours"),
        ({"seeds": 0}, "--seeds"),
        ({"lanes": 0}, "--lanes"),
        ({"budget_minutes": -1.0}, "--budget-minutes"),
        ({"split": "test", "quarter": True}, "--quarter"),
        ({"size": StudySize(bodies=("arm61",))}, "arm6"),
        ({"size": StudySize(acting_body="arm61")}, "arm6"),
        ({"size": StudySize(skills=("reech",))}, "reach"),
        ({"size": StudySize(unseen=("arm61",))}, "arm6"),
        ({"size": StudySize(bodies=("arm6", "arm7"), unseen=("arm7", "arm6"))}, "a body that is seen"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_run(study, tmp_path, words, said):
    with pytest.raises(InputError, match=said):
        study(**words)
    assert not (tmp_path / "run").exists()


def test_a_cell_reads_back_and_a_spoilt_one_is_refused(study, tmp_path):
    study(seeds=1).measure()
    path = next((tmp_path / "results/cells").glob("ac3-*"))
    cell = Cell.load(path)
    assert cell.figure("transfer_cosine") == pytest.approx(0.7) and cell.cpu_ms_per_pair == 7.0
    assert Cell.load(cell.save(tmp_path / "again")).figure("leak_index") == cell.figure("leak_index")
    path.write_text("{}")
    with pytest.raises(InputError, match="run again"):
        Cell.load(path)


def test_measured_pace_gives_the_guess_of_the_next_study(study):
    made = study(seeds=1)
    guess = made.dry_run()
    made.measure()
    assert "seed 0" in guess and "measured" in made.dry_run()
    branch = next(job for job in study(seeds=2)._whole.jobs.values() if job.says == "seed 1: learn latent actions: ac3")
    assert branch.seconds == pytest.approx(600 * 32 * 7.0 / 1000)


@pytest.mark.parametrize("table", TABLES)
def test_every_table_asks_for_no_more_than_earlier_commands_make(study, table):
    made = study(table, rows=(), latent_only=False)
    jobs = made._whole.jobs
    for number, job in enumerate(jobs.values()):
        assert set(job.after) <= set(list(jobs)[:number]), job.name
    assert len({plan.key for plan in made.plans}) == len(made.plans), "no two rows are the same"


def test_rows_on_frozen_features_see_those_of_a_trunk(study):
    jobs = study(rows=("univla",), seeds=1)._whole.jobs
    (univla,) = (job for job in jobs.values() if "univla" in job.arguments)
    backbone = univla.arguments[univla.arguments.index("--backbone") + 1]
    (trunk,) = (job for job in jobs.values() if ("--run", backbone) in pairwise(job.arguments))
    assert trunk.name in univla.after and "--trunk" not in univla.arguments


def test_less_video_is_judged_on_all_of_it(study):
    jobs = study("data", rows=("clips-eighth", "half-bodies"), seeds=1)._whole.jobs
    films = [job.arguments for job in jobs.values() if job.arguments[0] == "film"]
    assert sorted(words[words.index("--episodes") + 1] for words in films) == ["40", "5"]
    few = {j.arguments[j.arguments.index("--bodies") + 1 :] for j in jobs.values() if "--bodies" in j.arguments}
    bodies = make_world("arms").bodies
    assert few == {bodies[:1], bodies[:2]}
    assert len({words[words.index("--first-seed") + 1] for words in films}) == 1
    judged = {j.arguments[j.arguments.index("--source") + 1] for j in jobs.values() if j.arguments[0] == "evaluate"}
    assert len(judged) == 1


def test_a_body_that_is_unseen_is_filmed_and_judged_and_trained_on_by_nobody(study):
    jobs = study(seeds=1, size=StudySize(unseen=("arm6",)))._whole.jobs
    rest = tuple(body for body in make_world("arms").bodies if body != "arm6")
    trained = [job.arguments for job in jobs.values() if job.arguments[0] == "tokenizer"]
    assert len(trained) == 3 and all(words[words.index("--bodies") + 1 :] == rest for words in trained)
    films = [job.arguments for job in jobs.values() if job.arguments[0] == "film"]
    assert len(films) == 1 and "--bodies" not in films[0]


def test_the_papers_tables_say_what_is_measured_and_what_is_not(study, tmp_path):
    (tmp_path / "results").mkdir()
    assert tables_text(tmp_path / "results").count(NOT_MEASURED) == sum(len(table.rows) for table in PUBLISHED)
    study().measure()
    said = tables_text(tmp_path / "results").splitlines()
    (genie,) = (line for line in said if "w/ Genie (Full)" in line)
    assert "88.6" in genie and "tiny, validation: transfer cos 0.505 (0.441 to 0.569), n 2" in genie
    (lapa,) = (line for line in said if line.startswith("  LAPA"))
    assert lapa.endswith(NOT_MEASURED)
    with pytest.raises(InputError, match="ablate"):
        tables_text(tmp_path / "nowhere")


def test_published_rows_name_rows_of_our_tables():
    for table in PUBLISHED:
        for row in table.rows:
            if row.here is not None:
                assert find_table(row.here[0]).row(row.here[1]).name == row.here[1]


def test_results_are_no_paths_of_this_machine(study, tmp_path):
    made = study(seeds=1)
    made.measure()
    for path in (tmp_path / "results").rglob("*"):
        assert path.is_dir() or str(tmp_path) not in path.read_text()
    assert Path(made.result).name == "objective-tiny-validation.json"
