"""A Source: a folder of .npz episodes with frames, actions and proprioception, and clips.json that lists them."""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cyclemimic.errors import InputError
from cyclemimic.types import ClipInfo, Episode
from cyclemimic_example.world import SPACE

UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class NpzSource:
    """Facts of all clips lie in one small file, so that listing them opens no episode."""

    def __init__(self, path: Path | str) -> None:
        self.path, self.name = Path(path), f"npz:{path}"
        try:
            facts = json.loads((self.path / "clips.json").read_text())
            self._clips = tuple(ClipInfo(**row) for row in facts)
        except (OSError, ValueError, TypeError) as error:
            remedy = "Name a folder with clips.json, one object per episode."
            raise InputError(self.path / "clips.json", expected="a list", got=str(error), remedy=remedy) from None

    def clips(self) -> Sequence[ClipInfo]:
        return self._clips

    def read(self, clip: ClipInfo) -> Episode:
        path = self.path / clip.name
        if clip.name not in {known.name for known in self._clips}:
            raise InputError(self.name, expected="one of its clips", got=repr(clip.name), remedy="See clips().")
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ("frames", "actions", "proprioception")}
        except UNREADABLE as error:
            raise InputError(path, expected="an episode", got=str(error), remedy="Record it again.") from None
        return Episode(info=clip, action_space=SPACE, camera="above", **arrays)

    def fingerprint(self) -> str:
        """A hash of the content: equal for equal episodes, wherever they lie. Without it caches notice no change."""
        digest = hashlib.sha256()
        for name in ("clips.json", *(clip.name for clip in self._clips)):
            path = self.path / name
            digest.update(hashlib.sha256(path.read_bytes()).digest() if path.exists() else b"gone")
        return digest.hexdigest()
