"""A Source of your own recordings: videos, and beside them an .npz with the robot's state [rows, D].

PYTHONPATH=examples/sources cyclemimic evaluate RUN --source \
    'state_beside_video:StateBesideVideo=FOLDER?axes=x:m,y:m,z:m,roll:rad,pitch:rad,yaw:rad,gripper:fraction'
Behind `?`: axes (name:unit of each column, arm*7:rad for seven), body, key (of the array), rows_hz (else the video's),
only (a pattern of clips). The table is the first .npz in the clip's folder, else one above; `episode` in it picks rows.
"""

import re
from dataclasses import asdict, replace
from fnmatch import fnmatch
from zipfile import BadZipFile

import numpy as np

from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.sources.places import path_and_options, positive
from cyclemimic.errors import InputError
from cyclemimic.store.atomic import sha256_json
from cyclemimic.types import Axis, Episode


def axes_of(text):
    parts = re.findall(r"(\w+)(?:\*(\d+))?:(\w+)", text)
    names = [(f"{name}_{i}" if count else name, unit) for name, count, unit in parts for i in range(int(count or 1))]
    return tuple(Axis(name=name, unit=unit, low=-np.inf, high=np.inf) for name, unit in names)


class StateBesideVideo:
    def __init__(self, text):
        known = {"axes": axes_of, "body": str, "key": str, "rows_hz": positive, "only": str}
        path, self.told = path_and_options(text, known)
        self.name, self.axes, self.videos = f"state:{text}", self.told.get("axes", ()), FolderSource(path)
        listed = [clip for clip in self.videos.clips() if fnmatch(clip.name, self.told.get("only", "*"))]
        body, self.rows = self.told.get("body"), {clip.name: self._rows_of(clip) for clip in listed}
        clips = [replace(clip, num_frames=len(self.rows[clip.name])) for clip in listed]
        self._clips = tuple(replace(clip, embodiment=body or clip.embodiment) for clip in clips)

    def clips(self):
        return self._clips

    def read(self, clip):
        frames, state = self.videos.read(clip).frames, self.rows[clip.name].copy()
        return Episode(info=clip, frames=frames[: len(state)], proprioception=state, proprioception_axes=self.axes)

    def fingerprint(self):
        return sha256_json([self.videos.fingerprint(), [asdict(clip) for clip in self._clips]])

    def _rows_of(self, clip):
        file, key = self.videos.file_of(clip.name), self.told.get("key", "state")
        try:
            with np.load([*file.parent.glob("*.npz"), *file.parent.parent.glob("*.npz")][0]) as table:
                rows, episodes = table[key], table.get("episode")
            rows = rows if episodes is None else rows[episodes == int(re.findall(r"\d+", file.stem)[-1])]
        except (IndexError, OSError, KeyError, ValueError, BadZipFile) as error:
            raise InputError(file, expected=f"an .npz with {key} beside it", got=str(error), remedy="Add it.") from None
        if rows.shape[1:] != (len(self.axes),):
            raise InputError(file, expected=f"[rows, {len(self.axes)}]", got=str(rows.shape), remedy="Name all axes.")
        at = np.rint(np.arange(clip.num_frames) * (self.told.get("rows_hz", clip.fps) / clip.fps)).astype(int)
        return rows[at[at < len(rows)]].astype(np.float32)  # ends where the rows or the frames do
