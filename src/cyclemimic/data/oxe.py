"""Conventions of RLDS datasets (Open X-Embodiment and its relatives): what each one's features mean. Engineering.

RLDS says how episodes are stored, not what is in them: cameras, sentences and actions have other names, units and
signs in every dataset. A `Convention` says so once. To read a dataset of your own, write one in a module of yours,

    MINE = Convention(name="mine", embodiment="my_arm", rate_hz=10, cameras={"front": "observation/image"},
                      actions=Layout(parts=(Columns(feature="action", axes=position(0.05)),
                                            Gripper(feature="action", column=3, closed=1, opened=0))))

and name it: `rlds:PATH?convention=package.module:MINE`. Features are named as below `steps/`.

Axes' limits are exact where the dataset clips its actions; else they are round numbers that typical motion stays below.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field

from cyclemimic.data.layouts import Columns, Gripper, Layout, angles, axis_angle, position
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.names import imported
from cyclemimic.types import ActionSpace, Axis


@dataclass(frozen=True, kw_only=True)
class Convention:
    """What the features of one dataset mean.

    Args:
        name: the dataset's, as `dataset_info.json` says; may hold `*`.
        embodiment: the robot.
        rate_hz: steps per second.
        cameras: features by the camera's name; the first one is the main camera.
        instruction: features that may hold the sentence; the first one that says something does.
        actions: none for video alone.
        state: proprioception.
        skip_steps: steps at the start of every episode that are no part of it.
        licence: of the data, where it is known.
    """

    name: str
    embodiment: str
    rate_hz: float
    cameras: dict[str, str]
    instruction: tuple[str, ...] = ("language_instruction", "observation/natural_language_instruction")
    actions: Layout | None = None
    state: Layout | None = None
    skip_steps: int = 0
    licence: str | None = None
    action_space: ActionSpace | None = field(init=False)

    def __post_init__(self) -> None:
        if not self.cameras:
            raise InputError(f"convention {self.name!r}", expected="a camera", got="none", remedy="Name a feature.")
        space = None if self.actions is None else self.actions.space(self.embodiment, self.rate_hz)
        object.__setattr__(self, "action_space", space)


# robosuite's operational space controller moves by up to 5 cm and 0.5 rad per step of 1/20 s for numbers in [-1, 1];
# -1 opens the hand, 1 closes it.
OSC_POSE = Layout(
    parts=(
        Columns(feature="action", axes=position(0.05), scale=0.05),
        Columns(feature="action", axes=axis_angle(0.5), first=3, scale=0.5),
        Gripper(feature="action", column=6, closed=1.0, opened=-1.0),
    )
)

CONVENTIONS: tuple[Convention, ...] = (
    Convention(
        name="bridge_dataset",  # Bridge V2 as its authors publish it
        embodiment="widowx",
        rate_hz=5.0,
        cameras={"front": "observation/image_0", "1": "observation/image_1", "2": "observation/image_2"},
        actions=Layout(
            parts=(
                Columns(feature="action", axes=position(0.05)),
                Columns(feature="action", axes=angles(0.3), first=3),
                Gripper(feature="action", column=6, closed=0.0, opened=1.0),
            )
        ),
        state=Layout(
            parts=(
                Columns(feature="observation/state", axes=position(1.0, "absolute")),
                Columns(feature="observation/state", axes=angles(3.2, "absolute"), first=3),
                Gripper(feature="observation/state", column=6, closed=0.0, opened=1.0),
            )
        ),
        skip_steps=1,  # the first action is always zero
        licence="CC-BY-4.0",
    ),
    Convention(
        name="bridge",  # the same robot as Open X-Embodiment publishes it
        embodiment="widowx",
        rate_hz=5.0,
        cameras={"front": "observation/image"},
        actions=Layout(
            parts=(
                Columns(feature="action/world_vector", axes=position(0.05)),
                Columns(feature="action/rotation_delta", axes=angles(0.3)),
                Gripper(feature="action/open_gripper", closed=0.0, opened=1.0),
            )
        ),
        skip_steps=1,
        licence="CC-BY-4.0",
    ),
    Convention(
        name="fractal20220817_data",  # RT-1
        embodiment="google_robot",
        rate_hz=3.0,
        cameras={"front": "observation/image"},
        actions=Layout(
            parts=(
                Columns(feature="action/world_vector", axes=position(1.0)),
                Columns(feature="action/rotation_delta", axes=angles(1.6)),
                Gripper(feature="action/gripper_closedness_action", closed=1.0, opened=-1.0, relative=True),
            )
        ),
        licence="CC-BY-4.0",
    ),
    Convention(
        name="libero_*",  # LIBERO rendered again and turned upright, as OpenVLA publishes it
        embodiment="panda",
        rate_hz=20.0,
        cameras={"front": "observation/image", "wrist": "observation/wrist_image"},
        actions=OSC_POSE,
        state=Layout(
            parts=(
                Columns(feature="observation/state", axes=position(2.0, "absolute")),
                Columns(feature="observation/state", axes=axis_angle(3.2, "absolute"), first=3),
                # Two fingers, each up to 4 cm from the middle, the second one counted negative.
                Gripper(feature="observation/state", column=6, closed=0.0, opened=0.04),
            )
        ),
    ),
    Convention(
        name="language_table*",
        embodiment="xarm",
        rate_hz=10.0,
        cameras={"front": "observation/rgb"},
        instruction=("observation/instruction",),  # code points, filled up with zeros
        actions=Layout(
            parts=(
                Columns(
                    feature="action",
                    axes=tuple(Axis(name=f"{n}_m", unit="m", low=-0.1, high=0.1, kind="delta") for n in "xy"),
                ),
            )
        ),
    ),
    Convention(
        name="droid*",
        embodiment="franka",
        rate_hz=15.0,
        cameras={
            "left": "observation/exterior_image_1_left",
            "right": "observation/exterior_image_2_left",
            "wrist": "observation/wrist_image_left",
        },
        instruction=("language_instruction", "language_instruction_2", "language_instruction_3"),
        actions=Layout(
            parts=(
                Columns(feature="action_dict/cartesian_position", axes=position(1.5, "absolute")),
                Columns(feature="action_dict/cartesian_position", axes=angles(3.2, "absolute"), first=3),
                Gripper(feature="action_dict/gripper_position", closed=1.0, opened=0.0),
            )
        ),
        state=Layout(
            parts=(
                Columns(feature="observation/cartesian_position", axes=position(1.5, "absolute")),
                Columns(feature="observation/cartesian_position", axes=angles(3.2, "absolute"), first=3),
                Gripper(feature="observation/gripper_position", closed=1.0, opened=0.0),
            )
        ),
        licence="CC-BY-4.0",
    ),
    Convention(
        name="taco_play",
        embodiment="franka",
        rate_hz=15.0,
        cameras={"front": "observation/rgb_static", "wrist": "observation/rgb_gripper"},
        # Absolute targets, whose units need no scale. The catalogue calls the angles yaw, pitch, roll and -1 open; the
        # code that recorded them, and all who train on them, take roll, pitch, yaw and 1 as open.
        actions=Layout(
            parts=(
                Columns(feature="action/actions", axes=position(1.5, "absolute")),
                Columns(feature="action/actions", axes=angles(3.2, "absolute"), first=3),
                Gripper(feature="action/actions", column=6, closed=-1.0, opened=1.0),
            )
        ),
        state=Layout(
            parts=(
                Columns(feature="observation/robot_obs", axes=position(1.5, "absolute")),
                Columns(feature="observation/robot_obs", axes=angles(3.2, "absolute"), first=3),
            )
        ),
        licence="CC-BY-4.0",
    ),
)


def convention_of(dataset: str) -> Convention | None:
    """The convention of a dataset by its name, or None where none is known."""
    return next((c for c in CONVENTIONS if fnmatch.fnmatchcase(dataset, c.name)), None)


def named_convention(text: str) -> Convention:
    """One of `CONVENTIONS` by its name, or one from outside as `package.module:NAME`.

    Raises:
        InputError: there is none, or it is something else.
    """
    if ":" not in text:
        found = convention_of(text)
        if found is None:
            known = [c.name for c in CONVENTIONS]
            remedy = did_you_mean(text, known)
            raise InputError("option convention", expected="a known name", got=repr(text), remedy=remedy)
        return found
    found = imported("option convention", text)
    if not isinstance(found, Convention):
        remedy = "Name an instance of cyclemimic.data.oxe.Convention."
        raise InputError("option convention", expected="a Convention", got=type(found).__name__, remedy=remedy)
    return found
