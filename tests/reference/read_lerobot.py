"""Read our export with the official `lerobot` package and compare it with the film that it was made from.

Not part of the tests: run it in an environment of its own, with lerobot 0.4.4 for v3.0 and 0.3.3 for v2.1.

    cyclemimic film drawn --out FILM --episodes 3
    cyclemimic data export film:FILM --to lerobot-v3 --out EXPORT
    python read_lerobot.py EXPORT FILM
"""

import json
import sys
from pathlib import Path

import av
import numpy as np

try:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
except ImportError:
    sys.exit("read_lerobot: needs the official package: pip install lerobot==0.4.4 (v3.0) or 0.3.3 (v2.1)")

TOLERANCE = 3.0  # of 255, mean of a frame: both were encoded


def filmed(film, clip):
    with av.open(str(film / "video" / clip)) as container:
        frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    with np.load((film / "actions" / clip).with_suffix(".npz"), allow_pickle=False) as file:
        return frames, file["actions"], file.get("proprioception")


def main(export, film):
    export, film = Path(export), Path(film)
    own = json.loads((export / "meta" / "cyclemimic.json").read_text())
    info = json.loads((export / "meta" / "info.json").read_text())
    data = LeRobotDataset("cyclemimic/export", root=export, video_backend="pyav")
    camera = data.meta.camera_keys[0]
    assert data.num_episodes == len(own["episodes"]) and len(data) == info["total_frames"], "counts"
    row, worst, nearest, labelled = 0, 0.0, 0, 0
    for _, facts in sorted(own["episodes"].items()):
        frames, actions, state = filmed(film, facts["clip"])
        for t, frame in enumerate(frames):
            item = data[row]
            shown = item[camera].numpy().transpose(1, 2, 0) * 255
            off = np.abs(shown - frames.astype(float)).mean((1, 2, 3))
            worst, nearest = max(worst, off[t]), nearest + (off[t] <= off.min() + 1e-9)
            assert shown.shape == frame.shape and off[t] < TOLERANCE, (facts, t, off[t])
            if t < len(actions):
                np.testing.assert_allclose(item["action"].numpy(), actions[t], atol=1e-6)
            if state is not None:
                np.testing.assert_allclose(item["observation.state"].numpy(), state[t], atol=1e-6)
            assert int(item["frame_index"]) == t and item["task"], (facts, t)
            labelled += bool("latent_action" in item and (np.atleast_1d(item["latent_action"].numpy()) >= 0).all())
            row += 1
    chunk = [0.0, 1 / data.fps, 2 / data.fps]
    if "action" in data.features:
        ahead = LeRobotDataset(
            "cyclemimic/export", root=export, video_backend="pyav", delta_timestamps={"action": chunk}
        )
        assert ahead[0]["action"].shape[0] == len(chunk), "delta_timestamps"
    assert set(data.meta.stats) == set(data.features), "statistics of every feature"
    print(
        f"{info['codebase_version']}: {data.num_episodes} episodes, {row} frames, {labelled} labelled; "
        f"worst frame off by {worst:.2f} of 255; {nearest} of {row} frames nearest to their own index"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
