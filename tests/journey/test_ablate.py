"""A small table by the command line: killed in the middle, resumed, looked at, and not measured twice.

What takes many commands is in tests/unit/test_recipes_ablate.py, where they pretend.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cyclemimic.cli import main
from cyclemimic.cli.choices import the_recipe
from cyclemimic.evaluate.cells import Cell
from cyclemimic.evaluate.pilot import PILOT
from cyclemimic.recipes.commands import StudySize
from cyclemimic.recipes.planning import Planner
from cyclemimic.recipes.tables import find_table
from cyclemimic.store.atomic import read_json
from tests.journey.conftest import RECIPE, few_steps_judge
from tests.journey.small import BODIES, SKILLS, hashes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SIZE = StudySize(episodes=6, bodies=BODIES, skills=SKILLS)


def words(root):
    return (
        "ablate", "--table", "pilot", *RECIPE, "--seeds", "1", "--episodes", str(SIZE.episodes), "--bodies", *BODIES,
        "--skills", *SKILLS, "--run", f"{root}/run", "--results", f"{root}/results", "--cache", f"{root}/cache",
    )  # fmt: skip


def ended(*command):
    with pytest.raises(SystemExit) as found:
        main([str(word) for word in command])
    return found.value.code


@pytest.fixture(scope="module")
def measured(filmed, tmp_path_factory):
    """The table, after a kill in the middle: of the command and all that it began, as when a machine is lost."""
    root = tmp_path_factory.mktemp("ablate")
    few_steps_judge(filmed)
    planner = Planner(
        table=find_table("pilot"), recipe_name=RECIPE[1], base=the_recipe(RECIPE[1]), size=SIZE, body_names=BODIES,
        split="validation", share=1.0, run=root / "run", cache=root / "cache",
    )  # fmt: skip
    shutil.copytree(filmed / "judge", planner.cell(find_table("pilot").row("genie"), 0).judge)
    repository = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{repository}/src:{repository}"}
    command = (sys.executable, "-m", "cyclemimic.cli", *words(root))
    with (root / "said.txt").open("wb") as said:
        going = subprocess.Popen(command, cwd=repository, env=environment, stdout=said, start_new_session=True)
    while going.poll() is None and not list((root / "run").glob("*-trunk-*/checkpoints/*")):
        time.sleep(0.1)
    assert going.poll() is None, (root / "said.txt").read_text()
    os.killpg(going.pid, signal.SIGKILL)
    going.wait()
    assert not list((root / "results").rglob("*.json"))
    assert ended(*words(root)) == 0
    return root


def test_the_cells_are_whole(measured):
    cells = {path.name.split("-")[0]: Cell.load(path) for path in (measured / "results/cells").iterdir()}
    assert set(cells) == {"genie", "ac3"}
    for cell in cells.values():
        assert cell.record.quality.pairs > 0 and cell.cpu_ms_per_pair > 0 and not cell.inert
        assert set(PILOT) <= set(cell.extra)
        whole = {}
        for name, value in cell.extra.items():
            if name.startswith("share."):
                group, _, code = name.rpartition(".")
                whole.setdefault(group, {})[int(code)] = value
        assert whole and all(len(share) == 7 and sum(share.values()) == pytest.approx(1) for share in whole.values())


def test_the_result_and_the_pages(measured):
    found = read_json(measured / "results/pilot-recipe-validation.json")
    assert found["complete"] and (found["seeds"], found["test_runs"]) == (1, 0)
    assert found["paired"]["joint_codes"]["n"] == 1
    assert found["paired"]["transfer_cosine"]["n"] == 0, "five steps make no judge, so transfer does not count"
    page = (measured / "results/pilot-recipe-validation.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "The judge is refused at seeds 0" in page
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)""", page), "nothing is loaded from elsewhere"
    assert str(measured) not in page


def test_a_second_run_measures_nothing(measured, capsys):
    before = hashes(measured)
    assert ended(*words(measured)) == 0
    assert "0 of 2 cells to measure" in capsys.readouterr().out
    assert hashes(measured) == before


def test_a_dry_run_runs_nothing(measured, capsys):
    main([*words(measured), "--split", "test", "--dry-run"])
    said = capsys.readouterr().out
    assert "2 of 2 cells to measure" in said and re.search(r"ablate pilot [0-9a-f]{12}$", said, re.MULTILINE)


def test_the_report_of_the_papers_tables(measured, capsys):
    main(["report", "--tables", "--results", str(measured / "results")])
    said = capsys.readouterr().out
    assert re.search(r"ACT query +95.4 +not measured", said)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("ablate", "--table", "objectives"), "objective"),
        (("ablate", "--table", "pilot", "--rows", "ac4"), "ac3"),
        (("ablate", "--table", "pilot", "--recipe", "tiny+nothing"), "--recipe"),
        (("ablate", "--table", "pilot", "--split", "test", "--log", "nowhere/log.md"), "nowhere/log.md"),
        (("report",), "--tables"),
        (("report", "--tables", "--results", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_is_refused(command, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ended(*command) == 2
    told = capsys.readouterr().err
    assert said in told and "Traceback" not in told
    assert not list(tmp_path.iterdir())
