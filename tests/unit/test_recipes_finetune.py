"""From a source of a user's own to a policy and its open-loop error: which clips are used, held out, refused."""

import dataclasses
import json

import numpy as np
import pytest

from cyclemimic.data.splits import split_clips
from cyclemimic.errors import InputError
from cyclemimic.policy.policy import LatentActionPolicy
from cyclemimic.recipes import acting, footage
from cyclemimic.recipes.footage import HELD_OUT, SPLIT_SEED
from cyclemimic.recipes.stations import demonstration_clips, run_finetune
from cyclemimic.train.trainee import OptimConfig
from tests.unit.so101_small import So101Source
from tests.unit.test_finetune_bodies import FINETUNE

COUNT, TOLD = 13, 4
CONFIG = dataclasses.replace(FINETUNE, optim=OptimConfig(steps=2, warmup_steps=1))


def finetune(run, hold_out=True, per_skill=TOLD, config=CONFIG, source=None):
    return run_finetune(
        source or So101Source(COUNT),
        config,
        run,
        body="so101",
        skills=(),
        per_skill=per_skill,
        labels=None,
        init=None,
        threads=1,
        hold_out=hold_out,
    )


@pytest.fixture
def mine(monkeypatch):
    """`mine:COUNT` on the command line, and the numbers of its clips that are held out."""
    monkeypatch.setitem(footage.SOURCES, "mine", lambda text: So101Source(int(text)))
    sides = split_clips(So101Source(COUNT).clips(), HELD_OUT, SPLIT_SEED)
    held_out = {f"episode_{i:06d}" for i in (*sides.val, *sides.test)}
    assert held_out and len(sides.train) >= TOLD
    return held_out


def test_a_keypoint_finds_where_things_move_in_the_demonstrations(tmp_path):
    head = dataclasses.replace(CONFIG.network.head, keypoint=True)
    config = dataclasses.replace(CONFIG, network=dataclasses.replace(CONFIG.network, head=head), moving_weight=1.0)
    run = finetune(tmp_path / "run", hold_out=False, config=config)
    assert "moving_nll" in (run / "metrics.jsonl").read_text()


def test_held_out_clips_are_left_out(mine):
    every = demonstration_clips(So101Source(COUNT), body="so101", skills=(), per_skill=COUNT)
    assert len(every) == COUNT
    left = COUNT - len(mine)
    kept = demonstration_clips(So101Source(COUNT), body="so101", skills=(), per_skill=left, hold_out=True)
    assert {clip.name for clip in kept} == {clip.name for clip in every} - mine
    with pytest.raises(InputError, match="per skill"):
        demonstration_clips(So101Source(COUNT), body="so101", skills=(), per_skill=COUNT, hold_out=True)
    with pytest.raises(InputError, match="Did you mean 'so101'"):
        demonstration_clips(So101Source(COUNT), body="so100", skills=(), per_skill=1)
    with pytest.raises(InputError, match="lift the cube"):
        demonstration_clips(So101Source(COUNT), body="so101", skills=("lift the cub",), per_skill=1)


def test_open_loop_on_clips_that_no_policy_saw(mine, tmp_path):
    run, without = finetune(tmp_path / "pretrained"), finetune(tmp_path / "none", per_skill=2)
    config = json.loads((run / "config.json").read_text())
    assert len(config["clips"]) == TOLD and not set(config["clips"]) & mine
    result = acting.run_open_loop(run, f"mine:{COUNT}", without=without, out=tmp_path / "out")
    assert set(result.clips) == mine
    assert set(result.errors) == {"policy", "hold", "mean", "none"}
    assert result.errors["policy"].shape == (len(mine), 6, 6)
    assert np.isfinite(result.errors["policy"]).all()
    # Smooth joints of 30 Hz hardly move within a fifth of a second: the control that a real policy has to beat.
    assert result.axes("hold")[0].mean < result.axes("mean")[0].mean
    assert "shoulder_pan" in result.text()
    assert json.loads((tmp_path / "out" / "open-loop.json").read_text())["clips"] == list(result.clips)
    parts = [set(acting.run_open_loop(run, f"mine:{COUNT}", out=tmp_path, split=s).clips) for s in ("test",)]
    assert parts[0] <= mine


def test_clips_that_were_trained_on_are_refused(mine, tmp_path):
    everything = finetune(tmp_path / "all", hold_out=False, per_skill=COUNT)
    with pytest.raises(InputError, match=r"held-out clips left out"):
        acting.run_open_loop(everything, f"mine:{COUNT}", out=tmp_path)
    with pytest.raises(InputError, match=r"held-out clips left out"):
        acting.run_open_loop(everything, f"mine:{COUNT + 1}", out=tmp_path)  # the source has grown
    fair = finetune(tmp_path / "fair")
    grown = acting.run_open_loop(fair, f"mine:{COUNT + 1}", out=tmp_path)
    assert set(grown.clips) >= mine
    with pytest.raises(InputError, match="all: expected a policy that was not trained on"):
        acting.run_open_loop(fair, f"mine:{COUNT}", without=everything, out=tmp_path)
    with pytest.raises(InputError, match="got none"):
        acting.run_open_loop(fair, "mine:1", out=tmp_path)
    record = json.loads((fair / "config.json").read_text())
    del record["clips"]
    (fair / "config.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="no record"):
        acting.run_open_loop(fair, f"mine:{COUNT}", out=tmp_path)


def test_a_source_without_actions_or_a_wrist_camera(tmp_path):
    class Silent(So101Source):
        def read(self, clip):
            return dataclasses.replace(super().read(clip), actions=None)

    with pytest.raises(InputError, match=r"episode 'episode_000000'.*got none"):
        finetune(tmp_path / "run", source=Silent(COUNT))
    with pytest.raises(InputError, match="camera 'wrist', got none beside the main one"):
        finetune(tmp_path / "run", source=So101Source(COUNT, wrist=False))
    assert not (tmp_path / "run").exists()


def test_several_bodies_of_one_source(tmp_path):
    class Two(So101Source):
        """Every other clip shows another body, which has no camera on its wrist."""

        def clips(self):
            return [self.turned(clip, i) for i, clip in enumerate(super().clips())]

        def turned(self, clip, number):
            return dataclasses.replace(clip, embodiment="twin") if number % 2 else clip

        def read(self, clip):
            found = dataclasses.replace(super().read(clip), info=clip)
            return dataclasses.replace(found, extra_frames={}) if clip.embodiment == "twin" else found

    settings = {"skills": (), "per_skill": 2, "labels": None, "init": None, "threads": 1}
    run = run_finetune(Two(4), CONFIG, tmp_path / "run", body=("so101", "twin"), **settings)
    config = json.loads((run / "config.json").read_text())
    assert config["body"] == ["so101", "twin"] and len(config["clips"]) == 4
    twin = acting.policy_for(run, "twin")
    assert twin.body.extra_cameras == (None,)
    assert LatentActionPolicy.load(run, embodiment="so101").body.extra_cameras[0].name == "wrist"
    with pytest.raises(InputError, match="so101, twin"):
        acting.policy_for(run, None)
