"""The arms world: its experts, its physics, its camera."""

import ast
import inspect
import textwrap

import mujoco
import numpy as np
import pytest

from cyclemimic.embodiment.arms import ARMS_ACTION_SPACE, ARMS_BODIES, ARMS_PROPRIOCEPTION
from cyclemimic.errors import InputError
from cyclemimic.types import Task
from cyclemimic.worlds.arms import ArmsWorld, _Rig, instruction_for
from cyclemimic.worlds.arms_bodies import BODIES
from cyclemimic.worlds.arms_scene import FIXTURES, scene_xml
from cyclemimic.worlds.arms_tasks import COLOURS, DIRECTIONS, SKILLS, layout_for, push_direction


@pytest.fixture(scope="module")
def blind():
    return ArmsWorld(draws=False)


def _solve(world, task):
    world.reset(task)
    while True:
        outcome = world.step(world.expert_action())
        if outcome.success or outcome.truncated:
            return outcome


@pytest.mark.parametrize("skill", SKILLS)
def test_experts_solve_their_skill_on_every_body(blind, skill):
    for body in blind.bodies:
        assert all(_solve(blind, Task(body=body, skill=skill, seed=1000 + seed)).success for seed in range(3)), body


@pytest.mark.parametrize("skill", [s for s in SKILLS if s != "wander"])
def test_a_hand_at_rest_solves_nothing(blind, skill):
    blind.reset(Task(body="gantry", skill=skill, seed=3))
    assert not any(blind.step(np.array([0, 0, 0, 0, 0.5], np.float32)).success for _ in range(SKILLS[skill].max_steps))


def test_time_is_up_after_the_skills_own_steps(blind):
    blind.reset(Task(body="scara", skill="lift", seed=3))
    ends = [blind.step(np.zeros(5, np.float32)).truncated for _ in range(SKILLS["lift"].max_steps)]
    assert ends == [False] * (len(ends) - 1) + [True]
    assert blind.max_steps == max(s.max_steps for s in SKILLS.values())


def test_the_table_of_bodies_is_the_scene():
    assert tuple(BODIES) == tuple(b.name for b in ARMS_BODIES) == ArmsWorld.bodies
    assert [len(BODIES[b.name].links) for b in ARMS_BODIES] == [b.num_joints for b in ARMS_BODIES]
    assert len({b.num_joints for b in ARMS_BODIES}) >= 3
    assert (ARMS_ACTION_SPACE.width, len(ARMS_PROPRIOCEPTION), ARMS_ACTION_SPACE.rate_hz) == (5, 5, 5.0)


@pytest.mark.parametrize("body", ArmsWorld.bodies)
def test_nothing_is_tied_to_anything_and_no_file_is_read(body):
    for fixture in FIXTURES:
        xml = scene_xml(body, fixture, 11)
        model = mujoco.MjModel.from_xml_string(xml)
        assert model.neq == 0 and model.nmesh == 0 and model.ntex == 0
        assert not any(word in xml for word in ("weld", "equality", "mocap", "file="))


def test_a_step_writes_servo_targets_and_nothing_else():
    """Every assignment into the simulator's data, in what a step calls, is into `ctrl`."""
    written = set()
    for function in (ArmsWorld.step, _Rig.follow):
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                while isinstance(target, ast.Subscript):
                    target = target.value
                owner = target.value if isinstance(target, ast.Attribute) else None
                if owner is not None and not (isinstance(owner, ast.Name) and owner.id == "self"):
                    written.add(target.attr)
    assert written == {"ctrl"}


def test_a_hand_that_closes_on_nothing_lifts_nothing(blind):
    blind.reset(Task(body="arm6", skill="lift", seed=2))
    for _ in range(20):
        blind.step(np.array([0, 0, 0.02, 0, 0], np.float32))
    assert blind.view().cube_m[2] < 0.03


@pytest.mark.parametrize("body", ArmsWorld.bodies)
def test_equal_actions_move_every_hand_alike(blind, body):
    blind.reset(Task(body=body, skill="reach", seed=5))
    start = blind.view()
    for action in ((0.02, -0.02, 0.01, 0.2, 0.9), (0.02, 0.0, 0.01, 0.1, 0.9), (0, 0, 0, 0, 0.9)):
        blind.step(np.array(action, np.float32))
    end = blind.view()
    np.testing.assert_allclose(end.tip_m - start.tip_m, (0.04, -0.02, 0.02), atol=0.003)
    assert abs(end.yaw_rad - start.yaw_rad - 0.3) < 0.03 and abs(end.opening - 0.9) < 0.05


@pytest.mark.parametrize("body", ArmsWorld.bodies)
def test_every_corner_is_reached_and_no_hand_runs_away(blind, body):
    blind.reset(Task(body=body, skill="wander", seed=0))
    low, high = (np.array([getattr(a, side) for a in ARMS_PROPRIOCEPTION[:3]]) for side in ("low", "high"))
    for corner in ((0, 0, 0.02), (0.17, 0.17, 0.03), (0.17, -0.17, 0.03), (-0.18, -0.18, 0.03), (-0.18, 0.18, 0.03)):
        for _ in range(60):
            move = np.clip(corner - blind.view().target_m, -0.025, 0.025)
            blind.step(np.array([*move, 0, 0], np.float32))
        assert np.linalg.norm(blind.view().tip_m - corner) < 0.02, corner
        away = blind.view().tip_m
    for _ in range(30):
        blind.step(np.array([-9, 9, 9, 0, 1], np.float32))
    away = blind.view().tip_m
    assert (away > low - 0.02).all() and (away < high + 0.02).all()


@pytest.mark.parametrize("way", DIRECTIONS)
def test_directions_are_those_of_the_picture(way):
    world = ArmsWorld(64)
    task = Task(body="gantry", skill=f"push_{way}", seed=4)
    colour = np.array(COLOURS[layout_for(task.skill, task.seed).colour])

    def centre(seen):
        picture = seen.images["front"].astype(float)
        hue = picture / (picture.sum(-1, keepdims=True) + 1)
        rows, columns = np.nonzero(np.abs(hue - colour / colour.sum()).sum(-1) < 0.12)
        return np.array([columns.mean(), rows.mean()])

    start = centre(world.reset(task))
    moved = centre(_solve(world, task).observation) - start
    along = {"left": -moved[0], "right": moved[0], "forward": -moved[1], "back": moved[1]}[way]
    assert along > 3


@pytest.mark.parametrize("skill", SKILLS)
def test_layouts_are_apart_out_of_the_way_and_wide(skill):
    layouts = [layout_for(skill, seed) for seed in range(60)]
    cubes = np.array([x.cube_m for x in layouts])
    assert min(np.linalg.norm(x.cube_m - x.other_m) for x in layouts) >= 0.10
    assert all(x.colour != x.other_colour for x in layouts) and {x.colour for x in layouts} == set(COLOURS)
    if SKILLS[skill].fixture == "none":
        assert (np.ptp(cubes, axis=0) > 0.2).all() and np.abs(cubes).max() <= 0.12
    if skill.startswith("push_"):
        way = push_direction(skill)
        for x in layouts:
            rel = x.other_m - x.cube_m
            assert not (0 < rel @ way < 0.11 and abs(rel[0] * way[1] - rel[1] * way[0]) < 0.07)


def test_sentences():
    assert instruction_for("push_left", "green") == "push the green cube left"
    with pytest.raises(InputError, match="Did you mean 'push_left'"):
        instruction_for("push_lift", "green")
    with pytest.raises(InputError, match="Did you mean 'green'"):
        instruction_for("reach", "grean")


def test_cubes_are_about_seven_pixels_wide_and_in_view():
    world = ArmsWorld(64)
    for seed in range(10):
        task = Task(body="arm5", skill="push_back", seed=seed)
        layout = layout_for(task.skill, seed)
        picture = world.reset(task).images["front"].astype(float)
        for name in (layout.colour, layout.other_colour):
            colour = np.array(COLOURS[name])
            hue = picture / (picture.sum(-1, keepdims=True) + 1)
            _, columns = np.nonzero(np.abs(hue - colour / colour.sum()).sum(-1) < 0.10)
            assert 10 < len(columns) < 150


def test_other_mujoco_versions_draw_nearly_alike():
    world = ArmsWorld(48)
    task = Task(body="arm7", skill="push_left", seed=1)
    with_normals = world.reset(task).images["front"].astype(int)
    rays = world._rig.rays
    rays._has_normals = False
    normal = rays._normals_from_depth()
    flat = (normal * rays._normal.reshape(-1, 3)).sum(-1)[rays._depth >= 0]
    assert np.median(flat) > 0.999 and with_normals.std() > 5


def test_a_blind_world_gives_black_pictures_and_the_same_physics(blind):
    seeing, task = ArmsWorld(16), Task(body="scara", skill="lift", seed=6)
    ends = []
    for world in (blind, seeing):
        world.reset(task)
        for _ in range(8):
            seen = world.step(world.expert_action()).observation
        ends.append(world.state())
    assert np.array_equal(*ends) and seen.images["front"].any()
    assert not blind.reset(task).images["front"].any()


def test_mistakes_in_the_constructor_are_named():
    with pytest.raises(InputError, match="size_px"):
        ArmsWorld(3)
    with pytest.raises(InputError, match="Did you mean 'rays'"):
        ArmsWorld(renderer="ray")


def test_a_missing_opengl_is_explained(monkeypatch):
    def refuse(*_):
        raise RuntimeError("no context")

    monkeypatch.setattr(mujoco, "Renderer", refuse)
    with pytest.raises(InputError, match="renderer='rays'"):
        ArmsWorld(16, renderer="gl").reset(Task(body="arm5", skill="reach", seed=0))
