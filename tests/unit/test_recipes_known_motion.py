"""A tokenizer is judged on any source that says how it moved: no simulator, named axes, a judge that may be refused."""

import json
import math
from functools import partial

import numpy as np
import pytest

from cyclemimic.errors import InputError
from cyclemimic.evaluate.judge import JudgeConfig, fit_judge
from cyclemimic.evaluate.leak import ReaderConfig
from cyclemimic.evaluate.motion import HAND
from cyclemimic.evaluate.records import load_quality
from cyclemimic.recipes import judging
from cyclemimic.recipes.recipe import find_recipe
from cyclemimic.recipes.stations import run_tokenizer
from cyclemimic.types import Axis, ClipInfo, Episode
from tests.journey.small import recipe
from tests.unit.evaluate_squares import COLOURS, SIDE, SQUARE, draw

CLIPS, FRAMES = 16, 10
POSE = tuple(Axis(name=f"tip_{n}_m", unit="m", low=-1, high=1) for n in "xyz")
JOINTS = tuple(Axis(name=name, unit="rad", low=-9, high=9) for name in ("shoulder", "elbow"))
QUICK = ReaderConfig(width=4, steps=6, batch_size=8)


class Squares:
    """Coloured squares that walk about, a colour for each body; one pixel is a centimetre."""

    def __init__(self, text: str) -> None:
        self.kind, *self.bodies = text.split("+")
        self.name = f"squares:{text}"

    def clips(self):
        facts = {"fps": 5.0, "num_frames": FRAMES}
        return tuple(
            ClipInfo(name=f"{body}/{i}", embodiment=body, **facts) for body in self.bodies for i in range(CLIPS)
        )

    def read(self, clip):
        rng = np.random.default_rng([CLIPS, int(clip.name.rpartition("/")[2])])
        walk = np.clip(8 + rng.integers(-2, 3, (FRAMES, 2)).cumsum(0), 0, SIDE - SQUARE)
        ground = np.full((SIDE, SIDE, 3), 90, np.uint8)
        colour = COLOURS[len(clip.embodiment) % 3]
        frames = np.stack([draw(ground, colour, x, y) for x, y in walk])
        pose = np.concatenate([walk / 100, np.zeros((FRAMES, 1))], 1)
        state, axes = {"pose": (pose, POSE), "joints": (walk / 10, JOINTS), "video": (None, ())}[self.kind]
        told = {} if state is None else {"proprioception": state.astype(np.float32), "proprioception_axes": axes}
        return Episode(info=clip, frames=frames, **told)


def text_of(words: str) -> str:
    return f"{__name__}:Squares={words}"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("squares")
    config = find_recipe("tiny", {"tiny": recipe}).in_one_run("genie")
    run_tokenizer(Squares("video+red+green"), config, root / "run", cache_root=root / "cache", trunk=None)
    return root


@pytest.fixture(scope="module")
def judged(root):
    """Judge this source, with a judge of a second's training."""

    def run(words: str, *, controls: bool = False):
        with pytest.MonkeyPatch.context() as patch:
            quick = partial(fit_judge, config=JudgeConfig(width=4, steps=5))
            patch.setattr(judging, "fit_judge", lambda *pairs, seed, config, parts: quick(*pairs, seed=seed))
            return judging.run_quality(
                root / "run", text_of(words), root / "judge", root / "out", cache_root=root / "cache",
                controls=controls, readers=QUICK,
            )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def pose(judged):
    return judged("pose+red+green", controls=True)


def test_a_pose_is_measured_in_metres_across_bodies(pose):
    assert pose.motion.unit == "m" and "tip_x_m, tip_y_m, tip_z_m of the state" in pose.motion.said
    assert math.isfinite(pose.quality.probe_cross) and math.isfinite(pose.quality.kappa_cross)
    assert math.isfinite(pose.quality.leak_index) and pose.quality.joint_codes >= 1
    assert pose.quality.counterfactual_pairs == 0 and math.isnan(pose.quality.counterfactual_psnr_db)
    oracle, mean = pose.controls["oracle"], pose.controls["mean"]
    assert oracle.probe_same > 0.8 and mean.probe_same < 0.05 and mean.joint_codes == pytest.approx(1)
    assert oracle.probe_axis_1 > 0.8 and math.isnan(oracle.probe_axis_3)  # nothing moves in z


def test_what_a_refused_judge_reads_is_not_printed(pose):
    said = judging.quality_text(pose)
    assert pose.judge.refused and "the judge is refused: R2" in said
    lines = said.splitlines()
    assert [line.split()[2] for line in lines if line.startswith("transfer R2")] == ["refused"]
    assert sum("transfer cos refused" in line for line in lines) == 3
    head, row = (next(line for line in lines if line.startswith(word)) for word in ("on ", "probe same"))
    assert len(head) == len(row)  # names stand above their numbers
    assert any(line.startswith("axes x, y, z [m]") for line in lines) and max(map(len, lines)) < 120


def test_the_record_is_read_again_with_its_motion(root, pose):
    (path,) = (root / "out").glob(f"quality-{pose.source}.json")
    again = load_quality(path)
    assert str(again) == str(pose) and not again.filmed
    bare = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("motion", "filmed", "foreign")}
    path.with_name("old.json").write_text(json.dumps(bare))
    old = load_quality(path.with_name("old.json"))
    assert old.motion == HAND and old.filmed and old.foreign == ()


def test_joints_are_measured_along_their_axes_and_have_a_judge_of_their_own(root, judged):
    record = judged("joints+red+green")
    assert record.motion.unit == "of the usual change" and "shoulder [rad]" in record.motion.said
    assert math.isfinite(record.quality.probe_cross) and math.isnan(record.quality.probe_axis_3)
    assert "axes 1st, 2nd, 3rd [of the usual change]" in judging.quality_text(record)
    assert len([p for p in (root / "judge").iterdir() if (p / "judge.json").exists()]) >= 1
    assert (root / "judge" / record.source / "judge.json").exists()


def test_a_body_that_was_never_seen_has_probes_of_its_own(judged):
    record = judged("pose+blue")
    assert record.foreign == ("blue",) and math.isfinite(record.quality.probe_same)
    assert math.isnan(record.quality.probe_cross) and math.isnan(record.quality.transfer_cosine)
    assert "no bodies of the training, by their names: blue; probes are fitted on their own" in judging.quality_text(
        record
    )


def test_video_alone_is_refused_before_anything_is_decoded(root):
    cache = root / "untouched"
    with pytest.raises(InputError, match="expected a state or actions with named axes, got video alone"):
        judging.run_quality(
            root / "run", text_of("video+red+green"), root / "judge", root / "out", cache_root=cache, readers=QUICK
        )
    assert not cache.exists()
