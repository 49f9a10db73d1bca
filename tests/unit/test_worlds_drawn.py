"""The drawn world: exact motion, experts that never fail, pictures that cost next to nothing."""

import subprocess
import sys
import time

import numpy as np
import pytest

from cyclemimic.errors import InputError
from cyclemimic.types import Task
from cyclemimic.worlds.drawn import DrawnWorld


@pytest.mark.parametrize("body", DrawnWorld.bodies)
@pytest.mark.parametrize("skill", DrawnWorld.skills)
def test_the_expert_solves_every_task(body, skill):
    world = DrawnWorld(11)
    for seed in range(20):
        world.reset(Task(body=body, skill=skill, seed=seed))
        while not (outcome := world.step(world.expert_action())).success:
            assert not outcome.truncated


def test_the_hand_moves_exactly_as_told():
    world = DrawnWorld(13)
    start = world.reset(Task(body="elbow", skill="reach", seed=3)).proprioception
    end = world.step(np.array([0.011, -0.023, 1.0], np.float32)).observation.proprioception
    np.testing.assert_allclose(end[:2] - start[:2], (0.011, -0.023), atol=1e-6)
    assert end[2] == 1.0


@pytest.mark.parametrize(("opening", "moves"), [(1.0, False), (0.0, True)])
def test_only_a_closed_hand_pushes(opening, moves):
    world = DrawnWorld(13)
    world.reset(Task(body="crane", skill="push_left", seed=3))
    before = world.state()[3:7]
    for _ in range(12):
        move = np.clip(world.state()[3:5] - world.state()[:2], -0.025, 0.025)
        world.step(np.array([*move, opening], np.float32))
    assert bool(np.abs(world.state()[3:7] - before).max() > 0.005) is moves


@pytest.mark.parametrize(
    ("way", "axis", "sign"), [("left", 1, -1), ("right", 1, 1), ("forward", 0, -1), ("back", 0, 1)]
)
def test_directions_are_those_of_the_picture(way, axis, sign):
    world = DrawnWorld(37)
    places = []
    seen = world.reset(Task(body="scout", skill=f"push_{way}", seed=2))
    colour = seen.instruction.split()[2]
    channel = {"red": 0, "green": 1, "blue": 2}[colour]
    for _ in range(world.max_steps):
        picture = seen.images["top"].astype(int)
        others = [c for c in range(3) if c != channel]
        places.append(np.argwhere((picture[..., channel] > 120) & (picture[..., others].max(-1) < 60)).mean(0))
        outcome = world.step(world.expert_action())
        seen = outcome.observation
        if outcome.success:
            break
    assert sign * (places[-1] - places[0])[axis] > 2


def test_a_picture_size_too_small_is_refused():
    with pytest.raises(InputError, match="size_px"):
        DrawnWorld(2)


def test_a_step_is_instant():
    world = DrawnWorld(32)
    world.reset(Task(body="elbow", skill="reach", seed=0))
    start = time.process_time()
    for _ in range(500):
        world.step(np.zeros(3, np.float32))
    assert (time.process_time() - start) / 500 < 1e-3  # 0.15 ms on a quiet core; a shared one may be slow


def test_it_needs_numpy_alone():
    code = "import sys, cyclemimic.worlds.drawn; print(any(m in sys.modules for m in ('torch', 'mujoco')))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )
