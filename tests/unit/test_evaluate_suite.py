"""A policy on a suite: which tasks are run, what the table says, what is kept."""

import math
from dataclasses import replace

import numpy as np
import pytest

from cyclemimic.errors import InputError
from cyclemimic.evaluate.rollout import EpisodeOutcome, RolloutResult
from cyclemimic.evaluate.suite import ALL, ReferenceRow, SuiteResult, evaluate_suite
from cyclemimic.evaluate.suites.arms import ArmsSuite
from cyclemimic.store.atomic import read_json
from cyclemimic.types import ActionChunk, Task
from cyclemimic.worlds.arms import ArmsWorld
from tests.unit.data_small import SPACE, ToyWorld

ROW = ReferenceRow(method="theirs", success={"small bodies": 0.375, ALL: 0.5}, source="a paper, table 2")


class ToySuite:
    """Odd starts never arrive in this world."""

    name, references = "toy", (ROW,)

    def world(self):
        return ToyWorld()

    def tasks(self, episodes):
        def of(body):
            return [Task(body=body, skill=skill, seed=i) for i in range(episodes) for skill in ("right", "up")]

        return {"small bodies": of("small"), "big bodies": of("big")}


class Steady:
    """Says one action again and again, and counts whom it was asked for."""

    def act_batch(self, observations):
        return [ActionChunk(actions=np.full((2, 2), 0.5, np.float32), space=SPACE) for _ in observations]


def ran(**more):
    asked = []

    def policy_for(body):
        asked.append(body)
        return Steady(), 2

    return evaluate_suite(ToySuite(), policy_for, **{"episodes": 3, **more}), asked


def test_every_task_is_run_once_in_its_family_by_the_policy_for_its_body():
    result, asked = ran()
    assert asked == ["small", "big"]
    for family, tasks in ToySuite().tasks(3).items():
        assert [o.task for o in result.families[family].outcomes] == tasks
        assert [o.success for o in result.families[family].outcomes] == [t.seed % 2 == 0 for t in tasks]


def test_rows_of_families_and_of_all():
    rows = ran()[0].rows()
    assert list(rows) == ["small bodies", "big bodies", ALL]
    assert (rows["big bodies"].rate, rows["big bodies"].n) == (pytest.approx(4 / 6), 6)
    assert (rows[ALL].rate, rows[ALL].n) == (pytest.approx(8 / 12), 12)
    assert rows[ALL].low < 8 / 12 < rows[ALL].high


def test_a_body_that_the_policy_does_not_know_is_told_before_anything_is_run():
    made = []

    class Watched(ToySuite):
        def world(self):
            made.append(1)
            return super().world()

    def policy_for(body):
        if body == "big":
            raise InputError("embodiment", expected="small", got=body, remedy="Name it.")
        return Steady(), 2

    with pytest.raises(InputError, match="embodiment"):
        evaluate_suite(Watched(), policy_for, episodes=1)
    assert not made


def test_one_body_alone_has_no_row_of_all():
    result, asked = ran(body="big")
    assert list(result.rows()) == ["big bodies"] and asked == ["big"]


def test_the_table_sets_ours_beside_what_was_published_and_says_so():
    lines = ran()[0].text().splitlines()
    assert lines[0].split() == ["toy", "this", "policy", "theirs", "[1]"]
    assert lines[1].startswith("small bodies  67% (") and lines[1].endswith("37.5%")
    assert lines[2].endswith("-") and lines[3].endswith("50.0%")
    assert lines[4] == "[1] published in a paper, table 2; not run here"


def test_what_went_wrong_is_said_below_and_is_no_success():
    def broken(task, observation):
        raise RuntimeError("no sight")

    result, _ = ran(instruct=broken)
    assert result.rows()[ALL].errors == 12 and result.rows()[ALL].rate == 0
    assert "12 errors" in result.text() and result.text().endswith("RuntimeError: no sight")


def test_results_on_disk(tmp_path):
    result, _ = ran()
    result.save(tmp_path / "suite-toy.json")
    found = read_json(tmp_path / "suite-toy.json")
    assert found["success"][ALL]["n"] == 12 and set(found["episodes"]) == set(result.families)
    assert found["episodes"]["big bodies"][2] == {
        **{"body": "big", "skill": "right", "seed": 1},
        **{"success": False, "steps": 7, "error": None},
    }
    assert found["published_elsewhere"] == [
        {"method": "theirs", "success": {"small bodies": 0.375, ALL: 0.5}, "source": "a paper, table 2"}
    ]


@pytest.mark.parametrize(
    ("more", "says"),
    [({"body": "bigg"}, "body of 'toy'.*Did you mean 'big'"), ({"episodes": 0}, "--episodes: expected 1 or more")],
)
def test_what_cannot_be_run_is_refused(more, says):
    with pytest.raises(InputError, match=says):
        ran(**more)


@pytest.mark.parametrize("change", [{"success": {"a": 37.5}}, {"success": {"a": math.nan}}, {"source": ""}])
def test_percents_and_rows_from_nowhere_are_refused(change):
    with pytest.raises(InputError, match="shares between 0 and 1, and where they were published"):
        replace(ROW, **change)


def test_a_suite_without_parts_has_one_row():
    outcome = EpisodeOutcome(task=Task(body="a", skill="b", seed=0), success=True, steps=1)
    assert list(SuiteResult(suite="s", families={"tasks": RolloutResult(outcomes=(outcome,))}).rows()) == ["tasks"]


def test_the_arms_suite_is_five_skills_on_every_body_from_the_same_starts():
    families = ArmsSuite().tasks(2)
    assert set(families) == set(ArmsWorld.bodies)
    starts = [[(t.skill, t.seed) for t in tasks] for tasks in families.values()]
    assert all(start == starts[0] for start in starts) and len(set(starts[0])) == 10
    assert {skill for skill, _ in starts[0]} == {"reach", "push_left", "push_right", "push_forward", "push_back"}
