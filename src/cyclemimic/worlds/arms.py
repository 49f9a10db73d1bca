"""Our own MuJoCo table: five bodies, one shared action, ten worded skills with scripted experts.

Only contact moves things: after reset a step writes nothing but servo targets. Needs `mujoco`, no OpenGL, no files.
Engineering.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from cyclemimic.embodiment.arms import ARMS_ACTION_SPACE, ARMS_BODIES, ARMS_PROPRIOCEPTION
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.types import ActionSpace, CameraSpec, Float32, Observation, Task, UInt8, WorldStep
from cyclemimic.worlds.arms_disturbance import Ball, CameraPose, Disturbance, ball_at, camera_at, check_disturbance
from cyclemimic.worlds.arms_scene import CAMERA_NAME, CUBE_HALF_M, FINGER_TRAVEL_M, scene_xml
from cyclemimic.worlds.arms_tasks import (
    COLOURS,
    SKILLS,
    Floats,
    Layout,
    View,
    find_skill,
    instruction_for,
    is_done,
    layout_for,
    swapped_instruction_for,
)
from cyclemimic.worlds.checks import check_task, clipped
from cyclemimic.worlds.experts.arms import expert_action
from cyclemimic.worlds.hand_ik import HandIK
from cyclemimic.worlds.rays import RayRenderer

__all__ = ["ArmsWorld", "instruction_for"]

RENDERERS = ("rays", "gl")
_RAMPS, _SUBSTEPS = 8, 5  # 40 substeps of 5 ms = one step at 5 Hz; servo targets move on in 8 small ramps
_LEAD_M, _LEAD_RAD = 0.04, 0.4  # how far the hand's target may run ahead of a hand that is held up
_START_OPENING = 0.5
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_LOW = np.array([a.low for a in ARMS_PROPRIOCEPTION[:4]])
_HIGH = np.array([a.high for a in ARMS_PROPRIOCEPTION[:4]])


class _Rig:
    """One body with one fixture: the compiled model, its data, and where in it things are."""

    def __init__(self, body: str, fixture: str, size_px: int) -> None:
        self.model: Any = mujoco.MjModel.from_xml_string(scene_xml(body, fixture, size_px))
        self.data: Any = mujoco.MjData(self.model)
        self.num_joints = self.model.nu - 2
        self.ik = HandIK(self.model, self.num_joints)
        self.tip = self.model.site("tip").id
        self.fingers = [int(self.model.joint(f"finger_{side}").qposadr[0]) for side in ("left", "right")]
        self.cubes = [int(self.model.joint(name).qposadr[0]) for name in ("cube", "other")]
        self.cube_bodies = [self.model.body(name).id for name in ("cube", "other")]
        self.cube_geoms = [self.model.geom(name).id for name in ("cube", "other")]
        self.fixture = self.model.body("fixture").id if fixture != "none" else None
        moving = {"button": "cap", "drawer": "drawer"}.get(fixture)
        self.fixture_joint = int(self.model.joint(moving).qposadr[0]) if moving else None
        self.rays: RayRenderer | None = None
        self.gl: Any = None

    def place(self, layout: Layout) -> None:
        """Put everything where the layout says."""
        model, data = self.model, self.data
        mujoco.mj_resetData(model, data)
        if self.fixture is not None:
            model.body_pos[self.fixture, :2] = layout.fixture_m
        if self.fixture_joint is not None:
            data.qpos[self.fixture_joint] = layout.drawer_m
        cubes = (
            (layout.cube_m, layout.cube_yaw_rad, layout.colour),
            (layout.other_m, layout.other_yaw_rad, layout.other_colour),
        )
        for (xy, yaw, colour), start, geom in zip(cubes, self.cubes, self.cube_geoms, strict=True):
            data.qpos[start : start + 7] = (*xy, CUBE_HALF_M, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))
            model.geom_rgba[geom, :3] = COLOURS[colour]
        joints = self.ik.solve(layout.hand_m, 0.0, np.zeros(self.num_joints), iterations=60)
        data.qpos[: self.num_joints] = joints
        data.qpos[self.fingers] = _START_OPENING * FINGER_TRAVEL_M
        data.ctrl[: self.num_joints] = joints
        data.ctrl[self.num_joints :] = _START_OPENING * FINGER_TRAVEL_M
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)  # places the camera, which the reset forgot

    def follow(self, target: Floats) -> None:
        """One step of 0.2 s towards the hand target [5]; the only thing written is servo targets."""
        data, joints = self.data, self.num_joints
        before = data.ctrl.copy()
        after = np.empty_like(before)
        after[:joints] = self.ik.solve(target[:3], target[3], before[:joints])
        after[joints:] = target[4] * (FINGER_TRAVEL_M + 0.01) - 0.01  # closed squeezes by 1 cm: that is the grip
        for ramp in range(1, _RAMPS + 1):
            data.ctrl[:] = before + (after - before) * (ramp / _RAMPS)
            mujoco.mj_step(self.model, data, nstep=_SUBSTEPS)
        mujoco.mj_kinematics(self.model, data)

    def aim(self, pose: CameraPose) -> None:
        """Move the camera, which no physics depends on."""
        camera = self.model.camera(CAMERA_NAME).id
        self.model.cam_pos[camera] = pose.place_m
        mujoco.mju_mat2Quat(self.model.cam_quat[camera], pose.axes.flatten())
        mujoco.mj_camlight(self.model, self.data)
        if self.rays is not None:
            self.rays.look(self.model, self.data)

    def tip_yaw_rad(self) -> float:
        """The hand's yaw."""
        rotation = self.data.site_xmat[self.tip]
        return float(np.arctan2(rotation[3], rotation[0]))

    def opening(self) -> float:
        """How far the fingers are open, as a fraction."""
        return float(self.data.qpos[self.fingers].mean() / FINGER_TRAVEL_M)


class ArmsWorld:
    """Five bodies at one table, driven by one action: how far the hand goes, and how far it opens.

    Equal (skill, seed) start alike for every body. `draws = False` gives black pictures at no cost, for experts.
    The skill 'wander' is for film only: it is done when its time is over.

    Args:
        size_px: height and width of the pictures.
        renderer: 'rays' (needs nothing) or 'gl' (an OpenGL context; faster for large pictures, looks different).
        draws: whether observations carry pictures.
        disturbance: what else moves in the pictures: nothing, a ball that nobody touches ('distractor'), or the camera
            ('moving_camera'). States, actions and starts are the same.

    Raises:
        InputError: a picture size below 8, an unknown renderer or disturbance.
    """

    name: str = "arms"
    bodies: tuple[str, ...] = tuple(b.name for b in ARMS_BODIES)
    skills: tuple[str, ...] = tuple(SKILLS)
    evaluation_skills: tuple[str, ...] = tuple(s for s in SKILLS if s != "wander")
    action_space: ActionSpace = ARMS_ACTION_SPACE
    max_steps: int = max(s.max_steps for s in SKILLS.values())

    def __init__(
        self, size_px: int = 64, *, renderer: str = "rays", draws: bool = True, disturbance: Disturbance = "none"
    ) -> None:
        if size_px < 8:
            raise InputError(
                "size_px", expected="pictures of 8 pixels or more", got=str(size_px), remedy="64 is usual."
            )
        if renderer not in RENDERERS:
            raise InputError(
                "renderer",
                expected=f"one of {RENDERERS}",
                got=repr(renderer),
                remedy=did_you_mean(renderer, RENDERERS),
            )
        check_disturbance(disturbance)
        if disturbance != "none":
            self.name = f"{ArmsWorld.name}-{disturbance.replace('_', '-')}"  # a film of it must be told apart
        self.camera = CameraSpec(name=CAMERA_NAME, height_px=size_px, width_px=size_px)
        self.disturbance = disturbance
        self.draws = draws
        self._renderer = renderer
        self._rigs: dict[tuple[str, str], _Rig] = {}
        self._task: Task | None = None
        self._layout: Layout
        self._rig: _Rig
        self._target = np.zeros(5)  # x, y, z [m], yaw [rad], opening: where the hand was last told to be
        self._steps = 0

    def reset(self, task: Task) -> Observation:
        """Start `task`; equal tasks start equal. Raises InputError for an unknown body or skill, or a bad seed."""
        check_task(task, self)
        layout = layout_for(task.skill, task.seed)
        key = (task.body, find_skill(task.skill).fixture)
        if key not in self._rigs:
            self._rigs[key] = _Rig(*key, self.camera.height_px)
        self._task, self._layout, self._rig = task, layout, self._rigs[key]
        self._rig.place(layout)
        self._target = np.array([*layout.hand_m, 0.0, _START_OPENING])
        self._steps = 0
        return self._observe()

    def step(self, action: Float32) -> WorldStep:
        """Apply one action [A], clipped to its limits, for 0.2 s. `truncated` when the skill's own time is up.

        Raises InputError for a wrong width, for NaN or infinity, or before `reset`.
        """
        task = self._running()
        move = clipped(action, self.action_space)
        pose = np.append(self._rig.data.site_xpos[self._rig.tip], self._rig.tip_yaw_rad())
        lead = np.array([_LEAD_M, _LEAD_M, _LEAD_M, _LEAD_RAD])
        moved = np.clip(self._target[:4] + move[:4], pose - lead, pose + lead)
        self._target = np.append(np.clip(moved, _LOW, _HIGH), move[4])
        self._rig.follow(self._target)
        self._steps += 1
        success = is_done(task.skill, self.view(), self._layout)
        truncated = not success and self._steps >= SKILLS[task.skill].max_steps
        return WorldStep(observation=self._observe(), success=success, truncated=truncated)

    def expert_action(self) -> Float32:
        """The scripted expert's next action [A], from the present state alone, so it recovers and can be restored."""
        task = self._running()
        return expert_action(task.skill, self.view(), task.seed)

    def instruction(self, task: Task) -> str:
        """The sentence of a task."""
        return instruction_for(task.skill, layout_for(task.skill, task.seed).colour)

    def swapped_instruction(self, task: Task) -> str:
        """A sentence that asks for something else in the same scene (other cube, opposite direction): a control."""
        return swapped_instruction_for(task.skill, task.seed)

    def view(self) -> View:
        """What is true in the world now (privileged: for experts, success and probes, not for policies)."""
        self._running()
        rig, data = self._rig, self._rig.data
        quat = data.xquat[rig.cube_bodies[0]]
        yaw = np.arctan2(2 * (quat[0] * quat[3] + quat[1] * quat[2]), 1 - 2 * (quat[2] ** 2 + quat[3] ** 2))
        return View(
            tip_m=data.site_xpos[rig.tip].copy(),
            yaw_rad=rig.tip_yaw_rad(),
            opening=rig.opening(),
            target_m=self._target[:3].copy(),
            target_yaw_rad=float(self._target[3]),
            cube_m=data.xpos[rig.cube_bodies[0]].copy(),
            cube_yaw_rad=float(yaw),
            other_m=data.xpos[rig.cube_bodies[1]].copy(),
            fixture_m=self._layout.fixture_m,
            fixture_joint_m=float(data.qpos[rig.fixture_joint]) if rig.fixture_joint is not None else 0.0,
            steps=self._steps,
        )

    def state(self) -> NDArray[np.float64]:
        """Everything the future depends on: the simulator's full state, the hand's target [5], the step count."""
        self._running()
        rig = self._rig
        flat = np.empty(mujoco.mj_stateSize(rig.model, _STATE))
        mujoco.mj_getState(rig.model, rig.data, flat, _STATE)
        return np.concatenate([flat, self._target, [self._steps]])

    def restore(self, state: NDArray[np.float64]) -> Observation:
        """Return to a state that `state` gave for the running task. Raises InputError if it has another length."""
        self._running()
        rig = self._rig
        size = int(mujoco.mj_stateSize(rig.model, _STATE))
        if state.shape != (size + 6,):
            raise InputError(
                "state",
                expected=f"{size + 6} numbers for this body and skill",
                got=f"shape {state.shape}",
                remedy="Reset the task that the state was taken from, then restore.",
            )
        mujoco.mj_setState(rig.model, rig.data, np.ascontiguousarray(state[:size], np.float64), _STATE)
        mujoco.mj_kinematics(rig.model, rig.data)
        self._target, self._steps = np.array(state[size : size + 5], np.float64), int(state[-1])
        return self._observe()

    def _running(self) -> Task:
        if self._task is None:
            raise InputError("ArmsWorld", expected="a running task", got="none", remedy="Call reset(task) first.")
        return self._task

    def _observe(self) -> Observation:
        rig = self._rig
        tip = rig.data.site_xpos[rig.tip]
        return Observation(
            images={self.camera.name: self._picture()},
            instruction=instruction_for(self._running().skill, self._layout.colour),
            proprioception=np.array([*tip, rig.tip_yaw_rad(), rig.opening()], np.float32),
        )

    def _picture(self) -> UInt8:
        rig, size, task = self._rig, self.camera.height_px, self._running()
        if not self.draws:
            return np.zeros((size, size, 3), np.uint8)
        if self.disturbance == "moving_camera":
            rig.aim(camera_at(task, self._steps))
        ball = ball_at(task, self._steps) if self.disturbance == "distractor" else None
        if self._renderer == "gl":
            return self._gl_picture(ball)
        if rig.rays is None:
            rig.rays = RayRenderer(rig.model, rig.data, CAMERA_NAME, size)
        return rig.rays.draw(rig.model, rig.data, rig.data.site_xpos[rig.tip], ball)

    def _gl_picture(self, ball: Ball | None) -> UInt8:
        rig, size = self._rig, self.camera.height_px
        if rig.gl is None:
            try:
                rig.gl = mujoco.Renderer(rig.model, size, size)
            except (AttributeError, ImportError, OSError, RuntimeError, mujoco.FatalError) as error:
                raise InputError(
                    "renderer 'gl'",
                    expected="a working OpenGL context",
                    got=f"{type(error).__name__}: {error}",
                    remedy="Install libosmesa6 and set MUJOCO_GL=osmesa, or use renderer='rays'.",
                ) from error
        rig.gl.update_scene(rig.data, camera=CAMERA_NAME)
        if ball is not None:
            _add_to_scene(rig.gl.scene, ball)
        picture: UInt8 = rig.gl.render()
        return picture.copy()


def _add_to_scene(scene: Any, ball: Ball) -> None:
    """Put the ball among the things that OpenGL draws; the model does not know it."""
    geom = scene.geoms[scene.ngeom]
    size, colour = np.full(3, ball.radius_m), np.array([*ball.rgb, 1.0], np.float32)
    mujoco.mjv_initGeom(geom, mujoco.mjtGeom.mjGEOM_SPHERE, size, ball.centre_m, np.eye(3).flatten(), colour)
    scene.ngeom += 1
