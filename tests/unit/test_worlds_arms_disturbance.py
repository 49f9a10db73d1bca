"""A distractor and a moving camera: other pictures of the same life."""

import mujoco
import numpy as np
import pytest

from cyclemimic.errors import InputError
from cyclemimic.recipes.stations import make_world
from cyclemimic.types import Task
from cyclemimic.worlds.arms import ArmsWorld, _add_to_scene, _Rig
from cyclemimic.worlds.arms_disturbance import ball_at, camera_at

TASK = Task(body="arm6", skill="lift", seed=6)


def _life(world, steps=7):
    pictures, states = [world.reset(TASK).images["front"]], [world.state()]
    for _ in range(steps):
        pictures.append(world.step(world.expert_action()).observation.images["front"])
        states.append(world.state())
    return np.stack(pictures).astype(int), np.stack(states)


@pytest.mark.parametrize("disturbance", ["distractor", "moving_camera"])
def test_states_are_equal_and_pictures_are_not(disturbance):
    plain, states = _life(ArmsWorld(32))
    disturbed, other = _life(ArmsWorld(32, disturbance=disturbance))
    assert np.array_equal(states, other)
    changed = (np.abs(plain - disturbed).max(-1) > 20).mean((1, 2))
    assert (changed > 0.003).mean() > 0.8  # a ball may pass behind the arm
    assert np.abs(disturbed[1:] - disturbed[:-1]).max(-1).max() > 40


def test_a_camera_moves_the_whole_picture_and_a_ball_a_small_part():
    plain, _ = _life(ArmsWorld(32))
    shares = {
        kind: (np.abs(plain - _life(ArmsWorld(32, disturbance=kind))[0]).max(-1) > 20).mean()
        for kind in ("distractor", "moving_camera")
    }
    assert shares["distractor"] < 0.04 < shares["moving_camera"]


def test_what_disturbs_knows_nothing_of_body_or_action():
    for body in ("gantry", "arm5"):
        task = Task(body=body, skill=TASK.skill, seed=TASK.seed)
        assert np.array_equal(ball_at(task, 5).centre_m, ball_at(TASK, 5).centre_m)
        assert np.array_equal(camera_at(task, 5).place_m, camera_at(TASK, 5).place_m)
    other = Task(body=TASK.body, skill=TASK.skill, seed=7)
    assert not np.allclose(ball_at(other, 5).centre_m, ball_at(TASK, 5).centre_m)
    way = np.diff([ball_at(TASK, t).centre_m for t in range(200)], axis=0)
    assert 0.01 < np.median(np.linalg.norm(way, axis=1)) < 0.05
    axes = camera_at(TASK, 3).axes
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    assert np.linalg.det(axes) == pytest.approx(1)


def test_the_ball_is_hidden_by_what_stands_before_it():
    """Of the disc that it would fill, the arm and the frame's edge leave a part."""
    world = ArmsWorld(64, disturbance="distractor")
    plain = ArmsWorld(64)
    seen = []
    for seed in range(12):
        task = Task(body="arm7", skill="reach", seed=seed)
        pair = [w.reset(task).images["front"].astype(int) for w in (plain, world)]
        seen.append(int((np.abs(pair[0] - pair[1]).max(-1) > 0).sum()))
    assert min(seen) < 15 < 25 < max(seen) < 90


def test_opengl_would_draw_the_ball_too():
    rig = _Rig("gantry", "none", 16)
    scene = mujoco.MjvScene(rig.model, maxgeom=200)
    camera = mujoco.MjvCamera()
    mujoco.mjv_updateScene(rig.model, rig.data, mujoco.MjvOption(), None, camera, mujoco.mjtCatBit.mjCAT_ALL, scene)
    before, ball = scene.ngeom, ball_at(TASK, 0)
    _add_to_scene(scene, ball)
    added = scene.geoms[before]
    assert scene.ngeom == before + 1 and added.type == mujoco.mjtGeom.mjGEOM_SPHERE
    np.testing.assert_allclose(added.pos, ball.centre_m, atol=1e-6)


def test_the_worlds_have_names_and_unknown_disturbances_are_refused():
    assert make_world("arms").name == ArmsWorld.name == "arms"
    for name in ("arms-distractor", "arms-moving-camera"):
        assert make_world(name).name == name
    with pytest.raises(InputError, match="Did you mean 'distractor'"):
        ArmsWorld(16, disturbance="distraction")
