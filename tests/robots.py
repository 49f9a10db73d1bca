"""A robot without a world: one number along a line, for tests of the client, the loop and the command."""

import numpy as np

from cyclemimic.errors import InputError
from cyclemimic.serve.wire import Hello
from cyclemimic.types import ActionChunk, ActionSpace, Axis, CameraSpec, Observation

AXES = (
    Axis(name="x", unit="m", low=-1.0, high=1.0, kind="delta"),
    Axis(name="grip", unit="fraction", low=0.0, high=1.0),
)
SPACE = ActionSpace(name="rail", axes=AXES, rate_hz=50.0)
CAMERA = CameraSpec(name="eye", height_px=3, width_px=5)
HELLO = Hello(policy="walker", identity="0" * 64, action_space=SPACE, cameras=(CAMERA,), chunk_steps=4)


class Rail:
    """Goes along x and is done at 6; remembers all that it was told."""

    name, action_space, cameras, skills = "rail", SPACE, (CAMERA,), ("go", "stay")

    def __init__(self, until=6.0):
        self.until, self.told, self.holds, self.closed, self.blind, self.sick_at = until, [], 0, 0, False, None
        self.at = None

    def reset(self, task):
        if task.skill not in self.skills:
            raise InputError("Task.skill", expected="go or stay", got=task.skill, remedy="Choose one.")
        self.at, self.told, self.task = np.zeros(2), [], task

    def observe(self):
        picture = np.full((3, 5, 3), min(255, len(self.told)), np.uint8)
        at = np.full(2, np.nan) if self.blind else self.at
        return Observation(images={"eye": picture}, instruction=self.task.skill, proprioception=at.astype(np.float32))

    def apply(self, action):
        if np.ndim(action) != 1:
            raise InputError("action", expected="[axes]", got=str(np.shape(action)), remedy="One at a time.")
        SPACE.check(action, "action")
        if len(self.told) == self.sick_at:
            raise RuntimeError("a motor is hot")
        self.told.append(np.array(action))
        self.at = np.array([self.at[0] + action[0], action[1]])

    def hold(self):
        self.holds += 1

    def outcome(self):
        return True if self.at is not None and self.at[0] > self.until - 1e-6 else None

    def close(self):
        self.closed += 1


class Walker:
    """Answers four actions: ahead by `go`, with a grip that says how often it was asked. `does` may be replaced."""

    def __init__(self, go=1.0):
        self.go, self.asked, self.seen = go, 0, []

    def act(self, observation):
        self.seen.append(observation)
        self.asked += 1
        self.before(self.asked)
        return ActionChunk(actions=self.actions(observation), space=SPACE)

    def before(self, asked):
        """For tests that are late or sick."""

    def actions(self, observation):
        return np.tile(np.array([self.go, self.asked / 100], np.float32), (4, 1))
