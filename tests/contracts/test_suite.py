"""What every Suite promises. A new suite joins by one line in MADE."""

import re

import pytest

from cyclemimic.evaluate.suite import ALL, ReferenceRow, Suite
from cyclemimic.recipes.acting import SUITES
from cyclemimic.types import World
from cyclemimic_example.suite import PlateSuite

MADE = {**SUITES, "example": PlateSuite}


@pytest.fixture(params=MADE)
def suite(request):
    return MADE[request.param]()


def test_it_is_a_suite_whose_name_can_name_a_file(suite):
    assert isinstance(suite, Suite)
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", suite.name)


def test_every_world_is_a_fresh_one(suite):
    one, other = suite.world(), suite.world()
    assert isinstance(one, World) and one is not other


def test_its_world_knows_every_task_and_says_what_is_to_be_done(suite):
    world = suite.world()
    for tasks in suite.tasks(1).values():
        for task in tasks[:: max(1, len(tasks) // 3)]:
            assert world.reset(task).instruction


def test_families_have_names_and_tasks_and_share_none(suite):
    families = suite.tasks(3)
    assert families and ALL not in families
    everything = [task for tasks in families.values() for task in tasks]
    assert all(family and tasks for family, tasks in families.items())
    assert len(set(everything)) == len(everything)


def test_episodes_are_starts_of_each_skill_on_each_body(suite):
    for tasks in suite.tasks(3).values():
        counts = {}
        for task in tasks:
            counts[task.body, task.skill] = counts.get((task.body, task.skill), 0) + 1
        assert set(counts.values()) == {3}


def test_the_same_tasks_every_time_and_more_episodes_keep_those_of_fewer(suite):
    few, many = suite.tasks(2), suite.tasks(3)
    assert few == type(suite)().tasks(2) and list(few) == list(many)
    for family in few:
        assert set(few[family]) < set(many[family])


def test_what_others_published_has_a_source_and_is_of_its_families(suite):
    for row in suite.references:
        assert isinstance(row, ReferenceRow) and row.method and row.source
        assert row.success and set(row.success) <= {*suite.tasks(1), ALL}
    assert len({row.method for row in suite.references}) == len(suite.references)
