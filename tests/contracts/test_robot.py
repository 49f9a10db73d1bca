"""What every Robot promises. A new robot joins by one line in MADE."""

import numpy as np
import pytest

from cyclemimic.errors import InputError
from cyclemimic.robot.robot import ROBOTS, Robot
from cyclemimic.robot.simulated import SimulatedRobot
from cyclemimic.types import Task
from cyclemimic.worlds.drawn import DrawnWorld
from cyclemimic_example.robot import PlateRobot
from tests.robots import Rail

# name -> (how it is made, a body of it)
MADE = {
    **{name: (make, {"arms": "arm6"}[name]) for name, make in ROBOTS.items()},
    "drawn": (lambda: SimulatedRobot(DrawnWorld(23)), None),
    "fake": (Rail, "rail"),
    "example": (PlateRobot, "red"),
}


@pytest.fixture(params=MADE)
def robot(request):
    make, body = MADE[request.param]
    made = make()
    made.reset(Task(body=body or made.world.bodies[0], skill=made.skills[0], seed=3))
    yield made
    made.close()


def middle(robot):
    return ((robot.action_space.low + robot.action_space.high) / 2).astype(np.float32)


def same(one, other):
    assert one.images.keys() == other.images.keys() and one.instruction == other.instruction
    assert all(np.array_equal(one.images[k], other.images[k]) for k in one.images)
    assert np.array_equal(one.proprioception, other.proprioception)


def test_it_is_a_robot(robot):
    assert isinstance(robot, Robot)
    assert robot.name and robot.cameras and robot.skills and robot.action_space.width > 0


def test_it_sees_what_its_cameras_say(robot):
    for _ in range(2):
        seen = robot.observe()
        assert set(seen.images) == {c.name for c in robot.cameras}
        for camera in robot.cameras:
            picture = seen.images[camera.name]
            assert picture.shape == (camera.height_px, camera.width_px, 3) and picture.dtype == np.uint8
        if seen.proprioception is not None:
            assert seen.proprioception.dtype == np.float32 and np.isfinite(seen.proprioception).all()
        robot.apply(middle(robot))


def test_it_moves_when_told(robot):
    before = robot.observe()
    robot.apply(robot.action_space.high)
    assert not np.array_equal(robot.observe().proprioception, before.proprioception)
    assert robot.outcome() is None


def test_a_bad_action_is_refused_and_moves_nothing(robot):
    before = robot.observe()
    width = robot.action_space.width
    for bad in (np.zeros(width + 1), np.zeros(width - 1), np.zeros((2, width)), np.full(width, np.nan)):
        with pytest.raises(InputError, match="action"):
            robot.apply(bad.astype(np.float32))
    last = middle(robot)
    last[-1] = np.inf
    with pytest.raises(InputError, match="finite"):
        robot.apply(last)
    same(before, robot.observe())


def test_holding_keeps_still_and_may_be_said_twice(robot):
    robot.apply(robot.action_space.high)
    robot.hold()
    before = robot.observe()
    robot.hold()
    same(before, robot.observe())
    robot.apply(robot.action_space.low)
    assert not np.array_equal(robot.observe().proprioception, before.proprioception)


def test_closing_twice_is_harmless(robot):
    robot.close()
    robot.close()


def test_an_unknown_skill_is_refused(robot):
    body = robot.world.bodies[0] if isinstance(robot, SimulatedRobot) else robot.name
    with pytest.raises(InputError, match="skill"):
        robot.reset(Task(body=body, skill="no such", seed=0))


def test_a_simulated_robot_wants_a_task_first():
    for call in (lambda r: r.observe(), lambda r: r.apply(middle(r))):
        with pytest.raises(InputError, match="reset"):
            call(SimulatedRobot(DrawnWorld(23)))


def test_a_simulated_robot_is_told_when_time_is_up_and_when_it_is_done():
    world = DrawnWorld(23)
    robot = SimulatedRobot(world)
    robot.reset(Task(body=world.bodies[0], skill="reach", seed=3))
    while robot.outcome() is None:
        robot.apply(world.expert_action())
    assert robot.outcome() is True
    robot.reset(Task(body=world.bodies[0], skill="reach", seed=3))
    steps = 0
    while robot.outcome() is None:
        robot.apply(np.zeros(robot.action_space.width, np.float32))
        steps += 1
    assert robot.outcome() is False and steps <= world.max_steps
