"""Small clips and a toy world for the tests of `store` and `data`; sizes differ, so that axes cannot mix."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from cyclemimic.data.video import write_video
from cyclemimic.store.frame_cache import CacheRecipe, FrameCache, FrameCacheWriter
from cyclemimic.types import ActionSpace, Axis, CameraSpec, ClipInfo, Observation, WorldStep

SPACE = ActionSpace(
    name="toy",
    axes=(Axis(name="dx", unit="m", low=-1, high=1), Axis(name="dy", unit="m", low=-1, high=1)),
    rate_hz=5.0,
)


def moving_square(num_frames, height_px=22, width_px=26, start=0):
    """A bright square that moves one pixel right per frame: [T, H, W, 3]."""
    frames = np.full((num_frames, height_px, width_px, 3), 40, np.uint8)
    for t in range(num_frames):
        left = (start + t) % (width_px - 6)
        frames[t, 8:14, left : left + 6] = (230, 60, 30)
    return frames


def video_folder(root: Path, clips: dict[str, int], fps=5.0) -> Path:
    """A folder of mp4 files, `clips` gives each one's number of frames."""
    for i, (name, num_frames) in enumerate(clips.items()):
        write_video(root / name, moving_square(num_frames, start=i), fps)
    return root


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    """A plain tar with these members in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def picture_bytes(picture, kind="PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind)
    return buffer.getvalue()


def tar_shards(root: Path) -> Path:
    """Two WebDataset shards: videos, with sentences beside them, and pictures."""
    video_folder(root / "videos", {"a.mp4": 5, "b.mp4": 4})
    a, b = ((root / "videos" / name).read_bytes() for name in ("a.mp4", "b.mp4"))
    facts = {"embodiment": "franka", "caption": "push", "licence": "CC0-1.0", "other": [1]}
    pictures = {f"p.{t:03d}.png": picture_bytes(p) for t, p in enumerate(moving_square(3))}
    tar_of(root / "s-000.tar", {"arm/a.mp4": a, "arm/a.json": json.dumps(facts).encode(), "arm/b.mp4": b})
    tar_of(root / "s-001.tar", pictures | {"p.txt": "schön\n".encode(), "p.json": b'{"fps": 4, "instruction": "x"}'})
    shutil.rmtree(root / "videos")
    return root


def calvin_split(root: Path, sentences=("push the block", "öffne", "lift it")) -> Path:
    """A split of CALVIN: steps 10 to 24, annotated windows (10, 13), (14, 18), (20, 22)."""
    (root / "lang_annotations").mkdir(parents=True)
    for step in range(10, 25):
        np.savez_compressed(
            root / f"episode_{step:07d}.npz",
            rgb_static=moving_square(1, start=step)[0],
            rgb_gripper=np.full((7, 5, 3), step, np.uint8),
            rel_actions=np.array([1, -0.5, 0, 0, 0, 0.5, 1 if step < 16 else -1]),
            robot_obs=np.array([*(np.arange(6) / 10 + step / 100), 0.04, *np.linspace(-1, 1, 7), 1.0]),
            scene_obs=np.zeros(24),
        )
    np.save(root / "ep_start_end_ids.npy", np.array([[10, 24]]))
    windows = [(10, 13), (np.int64(14), np.int64(18)), (20, 22)]
    value = {
        "language": {"ann": list(sentences), "task": ["x"] * 3, "emb": np.zeros((3, 1, 4), np.float32)},
        "info": {"episodes": [], "indx": windows},
    }
    np.save(root / "lang_annotations" / "auto_lang_ann.npy", value, allow_pickle=True)
    return root


def counted_cache(folder: Path, lengths, bodies=None, fps=5.0, size_px=3) -> FrameCache:
    """A cache whose frame at row r holds the number r in its first pixels (r < 65536)."""
    recipe = CacheRecipe(source_hash="abc", size_px=size_px, resampler="none")
    row = 0
    with FrameCacheWriter(folder, recipe) as writer:
        for i, n in enumerate(lengths):
            frames = np.zeros((n, size_px, size_px, 3), np.uint8)
            rows = np.arange(row, row + n)
            frames[:, 0, 0, 0], frames[:, 0, 0, 1] = rows % 256, rows // 256
            body = bodies[i] if bodies else "arm"
            writer.add(ClipInfo(name=f"{body}/{i}", embodiment=body, fps=fps, num_frames=n), frames)
            row += n
        writer.finish()
    return FrameCache.open(folder)


class ToyWorld:
    """A dot on a plane; the expert goes right, and a dot whose start (seed) is odd never arrives."""

    name, bodies, skills = "toy", ("big", "small"), ("right", "up")
    action_space, camera, max_steps = SPACE, CameraSpec(name="front", height_px=22, width_px=26), 7

    def __init__(self):
        self.resets = 0

    def reset(self, task):
        self.task, self.steps, self.at = task, 0, np.zeros(2, np.float64)
        self.resets += 1
        return self._look()

    def step(self, action):
        self.steps += 1
        self.at += action
        arrived = self.steps == 4 and self.task.seed % 2 == 0
        return WorldStep(observation=self._look(), success=arrived, truncated=self.steps == self.max_steps)

    def expert_action(self):
        return np.array([0.5, -0.25], np.float32)

    def state(self):
        return np.array([self.steps, *self.at])

    def restore(self, state):
        self.steps, self.at = int(state[0]), state[1:].copy()
        return self._look()

    def _look(self):
        picture = moving_square(1, start=2 * self.steps)[0]
        return Observation(
            images={"front": picture},
            instruction=f"go {self.task.skill}",
            proprioception=self.at.astype(np.float32),
        )
