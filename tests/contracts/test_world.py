"""What every World promises. A new world joins by one line in WORLDS."""

import numpy as np
import pytest

from cyclemimic.errors import InputError
from cyclemimic.types import Task, World
from cyclemimic.worlds.arms import ArmsWorld
from cyclemimic.worlds.drawn import DrawnWorld
from cyclemimic_example.world import PlateWorld

WORLDS = {
    "arms": lambda: ArmsWorld(23),
    "arms-distractor": lambda: ArmsWorld(23, disturbance="distractor"),
    "arms-moving-camera": lambda: ArmsWorld(23, disturbance="moving_camera"),
    "drawn": lambda: DrawnWorld(23),
    "example": PlateWorld,
}
TABLES = (
    "arms",
    "arms-distractor",
    "arms-moving-camera",
    "drawn",
)  # where cubes or discs are pushed


@pytest.fixture(params=WORLDS)
def make(request):
    return WORLDS[request.param]


@pytest.fixture
def world(make):
    return make()


@pytest.fixture(params=TABLES)
def table(request):
    return WORLDS[request.param]()


def _task(world, *, skill=None, seed=7):
    return Task(body=world.bodies[-1], skill=skill or world.skills[:2][-1], seed=seed)


def _idle(space):
    """Stay: no change, and in the middle where a number is a target (a gripper as open as it starts)."""
    return np.array([0 if a.kind == "delta" else (a.low + a.high) / 2 for a in space.axes], np.float32)


def _run(world, steps):
    """What comes of `steps` expert actions: pictures, proprioception and states."""
    told = []
    for _ in range(steps):
        seen = world.step(world.expert_action()).observation
        told.append((seen.images[world.camera.name].copy(), seen.proprioception, world.state()))
    return told


def _same(one, other):
    return all(np.array_equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def test_it_is_a_world(world):
    assert isinstance(world, World)
    assert world.bodies and world.skills and world.max_steps > 0


def test_equal_tasks_have_equal_lives_and_other_seeds_do_not(world):
    lives = []
    for seed in (7, 8, 7):
        world.reset(_task(world, seed=seed))
        lives.append(_run(world, 5))
    assert _same(lives[0], lives[2])
    assert not _same(lives[0], lives[1])


def test_another_world_of_the_kind_lives_alike(make, world):
    other = make()
    other.reset(_task(other, seed=3))
    _run(other, 2)  # a past must leave no trace
    other.reset(_task(other))
    world.reset(_task(world))
    assert _same(_run(world, 5), _run(other, 5))


def test_a_restored_state_has_the_same_future(world):
    before = world.reset(_task(world))
    _run(world, 4)
    state = world.state()
    future = _run(world, 6)
    seen = world.restore(state)
    assert np.array_equal(world.state(), state) and state.dtype == np.float64 and state.ndim == 1
    assert not np.array_equal(seen.images[world.camera.name], before.images[world.camera.name])
    assert _same(_run(world, 6), future)


def test_a_state_restores_in_another_world_of_the_kind_too(make, world):
    world.reset(_task(world))
    _run(world, 4)
    state = world.state()
    other = make()
    other.reset(_task(other))
    other.restore(state)
    assert _same(_run(other, 4), _run(world, 4))


def test_actions_are_clipped_to_their_limits(world):
    ends = []
    for scale in (1.0, 50.0):
        world.reset(_task(world))
        world.step((world.action_space.high * scale).astype(np.float32))
        ends.append(world.state())
    assert np.array_equal(*ends)


def test_pictures_have_the_cameras_size_and_are_not_one_colour(world):
    for body in world.bodies:
        seen = world.reset(Task(body=body, skill=world.skills[0], seed=1))
        picture = seen.images[world.camera.name]
        assert picture.shape == (world.camera.height_px, world.camera.width_px, 3) and picture.dtype == np.uint8
        assert picture.std() > 5
        assert seen.proprioception.dtype == np.float32 and np.isfinite(seen.proprioception).all()
        assert seen.instruction


def test_a_picture_once_given_does_not_change(world):
    seen = world.reset(_task(world)).images[world.camera.name]
    kept = seen.copy()
    _run(world, 3)
    assert np.array_equal(seen, kept)


def test_bodies_look_different_and_start_alike(world):
    seen = [world.reset(Task(body=body, skill=world.skills[0], seed=1)) for body in world.bodies]
    for index, one in enumerate(seen):
        for other in seen[:index]:
            gap = np.abs(one.images[world.camera.name].astype(int) - other.images[world.camera.name].astype(int))
            assert (gap.max(-1) > 40).mean() > 0.03
            np.testing.assert_allclose(one.proprioception, other.proprioception, atol=2e-3)


@pytest.mark.parametrize("field", ["body", "skill"])
def test_an_unknown_word_gets_a_proposal(world, field):
    fields = {"body": world.bodies[0], "skill": world.skills[0], "seed": 1}
    fields[field] = fields[field][:-1] + "q"
    with pytest.raises(InputError, match="Did you mean"):
        world.reset(Task(**fields))


@pytest.mark.parametrize("seed", [-1, 1.5, True])
def test_a_bad_seed_is_refused(world, seed):
    with pytest.raises(InputError, match="seed"):
        world.reset(Task(body=world.bodies[0], skill=world.skills[0], seed=seed))


def test_bad_actions_are_refused(world):
    with pytest.raises(InputError, match="reset"):
        world.step(np.zeros(world.action_space.width, np.float32))
    world.reset(_task(world))
    for bad in (np.zeros(world.action_space.width + 1), np.zeros((2, world.action_space.width)), np.zeros(())):
        with pytest.raises(InputError, match="action"):
            world.step(bad.astype(np.float32))
    with pytest.raises(InputError, match="finite"):
        world.step(np.full(world.action_space.width, np.nan, np.float32))
    with pytest.raises(InputError, match="state"):
        world.restore(np.zeros(3))


def test_the_expert_solves_what_it_is_asked_in_time(world):
    for skill in world.skills:
        solved = 0
        for seed in range(2):
            world.reset(_task(world, skill=skill, seed=seed))
            for _ in range(world.max_steps):
                step = world.step(world.expert_action())
                if step.success or step.truncated:
                    break
            assert isinstance(step.success, bool) and isinstance(step.truncated, bool)
            solved += step.success
        assert solved, skill


def test_time_runs_out_without_an_expert(world):
    # A push, where there is one: a scene may begin with the hand where it is to reach.
    world.reset(_task(world, skill="push_left" if "push_left" in world.skills else None))
    outcomes = []
    while not outcomes or not outcomes[-1].truncated:
        outcomes.append(world.step(_idle(world.action_space)))
        assert len(outcomes) <= world.max_steps
    assert not any(outcome.success for outcome in outcomes)


# What only the tables have.


def test_the_swapped_sentence_asks_for_something_else(table):
    for skill in table.skills:
        for seed in range(5):
            task = _task(table, skill=skill, seed=seed)
            told = table.reset(task).instruction
            assert told == table.instruction(task)
            assert table.swapped_instruction(task) != told
            if skill.startswith("push_"):
                assert not set(told.split()) & set(table.swapped_instruction(task).split()) - {
                    "push",
                    "the",
                    "cube",
                    "disc",
                }
