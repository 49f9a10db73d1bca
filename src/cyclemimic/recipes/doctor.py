"""What this machine has and what it lacks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from cyclemimic.evaluate.pages import this_machine
from cyclemimic.recipes.stations import make_world
from cyclemimic.types import Task


def doctor() -> str:
    """What this machine has and lacks, a line each."""
    machine = this_machine()
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    lines = [
        f"processor     {machine.cpu}, {os.cpu_count()} cores, torch uses {machine.threads}",
        f"python        {machine.python}",
        *(f"{name:13} {version}" for name, version in machine.versions.items()),
        f"GPU           {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none (not needed)'}",
        f"disk          {free_gb:.0f} GB free here",
    ]
    world = make_world("arms")
    world.reset(Task(body=world.bodies[0], skill=world.skills[0], seed=0))
    lines.append(f"arms world    draws at {world.camera.width_px} px without OpenGL")
    return "\n".join(lines)
