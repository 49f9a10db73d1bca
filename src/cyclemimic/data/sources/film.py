"""What `cyclemimic film` recorded: video, and the actions that made it. Engineering."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.sources.remote import at_hand
from cyclemimic.data.writers.film import ACTIONS, VIDEO, WORLD, camera_from_json, space_from_json
from cyclemimic.errors import InputError
from cyclemimic.store.atomic import read_json
from cyclemimic.types import ActionSpace, CameraSpec, ClipInfo, Episode, Float32

# What numpy and zipfile raise over damaged archives.
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, MemoryError, zlib.error, zipfile.BadZipFile)


class FilmSource:
    """Episodes with actions [T-1, A] and the action space they are meant in, proprioception [T, P], and the camera.

    `world_name` is the world that was filmed; `data.writers.film.task_of` tells the task behind a clip. Its clips
    and its fingerprint are those of `FolderSource(path / "video")`, so that labels of one are labels of the other.
    """

    def __init__(self, path: Path | str) -> None:
        self.path, self.origin = at_hand(path)
        self.name = f"film:{path}"
        world = read_json(self.path / WORLD)
        self.world_name = str(world.get("world", ""))
        self.action_space: ActionSpace = space_from_json(world.get("action_space", {}), self.path / WORLD)
        self.camera: CameraSpec = camera_from_json(world.get("camera", {}), self.path / WORLD)
        if not (self.path / ACTIONS).is_dir():
            remedy = f"Film again with actions, or read {VIDEO!r} as a folder of videos."
            raise InputError(self.path, expected=f"a folder {ACTIONS!r}", got="none", remedy=remedy)
        self._video = FolderSource(self.path / VIDEO, cuts_long=False)  # actions belong to whole clips

    def clips(self) -> Sequence[ClipInfo]:
        """Every clip, in natural order of its name."""
        return self._video.clips()

    def fingerprint(self) -> str:
        """The hash of the video; see `FolderSource.fingerprint`."""
        return self._video.fingerprint()

    def names(self) -> Sequence[str]:
        """See `FolderSource.names`."""
        return self._video.names()

    def describe(self, name: str) -> ClipInfo:
        """See `FolderSource.describe`."""
        return self._video.describe(name)

    def file_of(self, name: str) -> Path:
        """Where a clip's video lies."""
        return self._video.file_of(name)

    def rate_of(self, name: str) -> float | None:
        """See `FolderSource.rate_of`."""
        return self._video.rate_of(name)

    def told_of(self, name: str) -> str:
        """See `Described`."""
        return self._video.told_of(name)

    def beside(self) -> str:
        """See `Described`."""
        return self._video.beside()

    def content_of(self, name: str) -> Sequence[str]:
        """See `Fingerprints`."""
        return self._video.content_of(name)

    def fingerprint_from(self, content: Iterable[str]) -> str:
        """See `Fingerprints`."""
        return self._video.fingerprint_from(content)

    def read(self, clip: ClipInfo) -> Episode:
        """Decode one clip and read its actions.

        Raises:
            InputError: the video or the actions cannot be read, or they do not fit each other or the action
            space.
        """
        actions, proprioception = self.actions_of(clip)
        episode = self._video.read(clip)
        return replace(
            episode,
            actions=actions,
            proprioception=proprioception,
            action_space=self.action_space,
            camera=self.camera.name,
        )

    def actions_of(self, clip: ClipInfo) -> tuple[Float32, Float32 | None]:
        """Actions [T-1, A] and, where the world told it, proprioception [T, P]; no video is decoded."""
        self._video.refuse_unknown(clip)
        path = self.path / ACTIONS / PurePosixPath(clip.name).with_suffix(".npz")
        try:
            with np.load(path, allow_pickle=False) as file:
                actions = file["actions"].astype(np.float32)
                known = "proprioception" in file
                proprioception = file["proprioception"].astype(np.float32) if known else None
        except FileNotFoundError:
            remedy = "Film this episode again, or remove its video."
            raise InputError(path, expected="the clip's actions", got="no file", remedy=remedy) from None
        except _UNREADABLE as error:
            remedy = "The file is damaged; film this episode again."
            raise InputError(path, expected="readable actions", got=str(error), remedy=remedy) from None
        if actions.ndim != 2:
            remedy = "One row per step, one number per axis."
            raise InputError(path, expected="actions [T-1, A]", got=str(actions.shape), remedy=remedy)
        self.action_space.check(actions, f"{path}, field actions")
        if proprioception is not None:
            _check_proprioception(proprioception, len(actions) + 1, path)
        return actions, proprioception

    def remarks_of(self, clip: ClipInfo) -> tuple[str, ...]:
        """What reading this clip changed, see `FolderSource.remarks_of`."""
        return self._video.remarks_of(clip)


def _check_proprioception(proprioception: Float32, num_frames: int, path: Path) -> None:
    where = f"{path}, field proprioception"
    if proprioception.ndim != 2 or len(proprioception) != num_frames:
        expected, got = f"proprioception of {num_frames} frames [T, P]", str(proprioception.shape)
        raise InputError(where, expected=expected, got=got, remedy="Film this episode again.")
    if not np.isfinite(proprioception).all():
        bad = np.argwhere(~np.isfinite(proprioception))[0].tolist()
        remedy = "Film this episode again, or remove its video."
        raise InputError(where, expected="finite numbers", got=f"NaN or infinity at index {bad}", remedy=remedy)
