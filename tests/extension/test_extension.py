"""A package outside src adds one of each kind of thing, in 60 lines each, and every verb takes it by its name."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cyclemimic.cli import main
from cyclemimic.policy.network import read_network, read_spec
from cyclemimic.policy.policy import LatentActionPolicy
from cyclemimic.recipes.footage import open_source
from cyclemimic.recipes.remote import served
from cyclemimic.store.atomic import read_json
from cyclemimic.store.label_store import LabelStore
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.train.loop import read_metrics
from cyclemimic.types import Task
from cyclemimic_example.world import PlateWorld

HERE = Path(__file__).parent
FILES = sorted(p for p in (HERE / "cyclemimic_example").glob("*.py") if p.name != "__init__.py")
RECIPE = ("--recipe", "tests.journey.small:recipe")
MOST_LINES = 60


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_kind_of_thing_takes_at_most_60_lines(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES


def test_there_is_one_of_each_and_none_leans_on_the_tests():
    kinds = ("backbone", "critic", "decoder", "features", "head", "robot", "source", "suite", "world")
    assert tuple(p.stem for p in FILES) == kinds
    for path in FILES:
        modules = re.findall(r"^\s*(?:from|import) ([\w.]+)", path.read_text(), re.MULTILINE)
        assert not [m for m in modules if m.partition(".")[0] == "tests" or "._" in m], path.name


@pytest.mark.parametrize("module", ["world", "robot"])
def test_a_robot_and_its_world_need_no_torch(module):
    code = f"import sys, cyclemimic_example.{module}; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in [str(HERE), *sys.path] if p)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def run(verb, *words):
    """One command of the command line, in this process; returns what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        main([verb, *(str(w) for w in words)])
    return said.getvalue()


def record_episodes(folder, count):
    """Episodes of the example's world as its source reads them."""
    folder.mkdir()
    world, clips = PlateWorld(), []
    for body in world.bodies:
        for seed in range(count):
            seen = [world.reset(Task(body=body, skill="cover", seed=seed))]
            actions = []
            for _ in range(7):
                actions.append(world.expert_action())
                seen.append(world.step(actions[-1]).observation)
            name = f"{body}-{seed}.npz"
            np.savez(
                folder / name,
                frames=np.stack([o.images["above"] for o in seen]),
                actions=np.stack(actions),
                proprioception=np.stack([o.proprioception for o in seen]),
            )
            facts = {"name": name, "embodiment": body, "fps": 5.0, "num_frames": 8}
            clips.append({**facts, "instruction": seen[0].instruction})
    (folder / "clips.json").write_text(json.dumps(clips))


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    """From outside video to an outside policy, by the command line."""
    root = tmp_path_factory.mktemp("outside")
    record_episodes(root / "episodes", 5)
    source = f"cyclemimic_example.source:NpzSource={root / 'episodes'}"
    cache = ("--cache", root / "cache")
    run("data", "check", source)
    parts = ("--backbone", "cyclemimic_example.features:CosineFeatures")
    parts += (
        "--decoder",
        "cyclemimic_example.decoder:ShiftDecoder",
        "--critic",
        "cyclemimic_example.critic:EdgeCritic",
    )
    words = ("--run", root / "tokenizer", "--objective", "ac3", "--gap-s", 0.4, "--steps", 20)
    run("tokenizer", "--source", source, *words, *parts, *RECIPE, *cache)
    run("label", "--source", source, "--tokenizer", root / "tokenizer", "--out", root / "labels", *cache)
    words = ("--labels", root / "labels", "--run", root / "pretrained")
    backbone = ("--policy-backbone", "cyclemimic_example.backbone:RecurrentBackbone")
    run("pretrain", "--source", source, *words, *backbone, *RECIPE, *cache)
    words = ("--run", root / "policy", "--body", "red", "--per-skill", 4, "--labels", root / "labels")
    head = ("--head", "cyclemimic_example.head:LinearHead", "--init", root / "pretrained")
    run("finetune", "--source", source, *words, *head, *RECIPE)
    return root


def test_film_in_the_outside_world(tmp_path):
    said = run("film", "cyclemimic_example.world:PlateWorld", "--out", tmp_path, "--episodes", 2, "--report")
    assert "4 clips" in said and re.search(r"red +2/2", said)
    assert len(open_source(f"film:{tmp_path}").clips()) == 4


def test_the_tokenizer_is_made_of_the_outside_parts(journey):
    tokenizer = LatentActionTokenizer.load(journey / "tokenizer")
    assert type(tokenizer.backbone).__name__ == "CosineFeatures"
    assert type(tokenizer.decoder).__name__ == "ShiftDecoder"
    last = read_metrics(journey / "tokenizer")[-1]
    assert all(np.isfinite(list(last.values())))
    assert last["gradient.cycle.decoder"] > 0 and last["gradient.discriminator.decoder"] > 0
    config = read_json(journey / "tokenizer/config.json")
    assert config["discriminator"]["kind"] == "cyclemimic_example.critic:EdgeCritic"


def test_labels_are_of_every_pair_of_the_outside_source(journey):
    store = LabelStore.open(journey / "labels")
    source = open_source(f"cyclemimic_example.source:NpzSource={journey / 'episodes'}")
    assert store.provenance.source_hash == source.fingerprint()
    assert len(store) == 10 * (8 - 2) and {clip.name for clip in source.clips()} == set(store.clips)


def test_the_policy_has_the_outside_backbone_and_head(journey):
    config = read_spec(journey / "policy").config
    assert config.backbone_kind == "cyclemimic_example.backbone:RecurrentBackbone"
    policy = LatentActionPolicy.load(journey / "policy")
    assert type(policy.network.head).__name__ == "LinearHead"
    tuned, before = policy.network.state_dict(), read_network(journey / "pretrained")[1]
    for part, moves in (("cell.weight_hh", False), ("out.weight", False), ("look.weight", True)):
        name = f"latent.backbone.{part}"  # LoRA adapts linear and convolutional layers, but for the vocabulary's rows
        assert torch.equal(tuned[name], before[name]) != moves, name


def test_evaluate_in_the_outside_world_and_on_the_outside_suite(journey):
    words = ("--world", "cyclemimic_example.world:PlateWorld", "--body", "red", "--episodes", 2)
    assert re.search(r"cover +\d+%.*n 2", run("evaluate", journey / "policy", *words))
    words = ("--suite", "cyclemimic_example.suite:PlateSuite", "--episodes", 2)
    said = run("evaluate", journey / "policy", *words)
    assert re.search(r"^near +\d+% \(\d+-\d+\), n 4 +100\.0%$", said, re.MULTILINE), said
    assert re.search(r"^all .*n 8 +75\.0%$", said, re.MULTILINE)
    assert "[1] published in this example, made up; not run here" in said
    found = read_json(journey / "policy/suite-plate.json")
    assert set(found["episodes"]) == {"near", "far"} and found["success"]["all"]["n"] == 8
    assert not [e for some in found["episodes"].values() for e in some if e["error"]]
    assert run("evaluate", journey / "policy", *words, "--body", "red").count("n 2") == 2


def test_drive_the_outside_robot_by_a_served_policy(journey, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])))
    out = journey / "driven.json"
    with served(journey / "policy") as address, pytest.raises(SystemExit) as ended:
        run("drive", "cyclemimic_example.robot:PlateRobot", "--server", address, "--episodes", 2, "--out", out)
    assert ended.value.code == 0
    found = read_json(out)
    assert len(found["episodes"]) == 2 and found["stopped"] is None and found["loop"]["holds"] == 0


OUTSIDE = "cyclemimic_example"
MISTAKES = {
    "source": (("data", "check", f"{OUTSIDE}.source:NpzSource"), "package.module:Class=PATH"),
    "source class": (("data", "check", f"{OUTSIDE}.source:Npz=x"), "Check the spelling and PYTHONPATH"),
    "another kind": (
        ("film", f"{OUTSIDE}.robot:PlateRobot", "--out", "x"),
        "makes a PlateRobot without bodies, camera",
    ),
    "critic": (("tokenizer", "--critic", "local-globl"), "Did you mean 'local-global'"),
    "decoder": (("tokenizer", "--decoder", f"{OUTSIDE}.decoder:ShiftDecodr"), "importable"),
    "backbone": (("tokenizer", "--backbone", f"{OUTSIDE}.feature:CosineFeatures"), "No module named"),
    "policy backbone": (("pretrain", "--policy-backbone", "prismatik"), "Did you mean 'prismatic'"),
    "head": (("finetune", "--head", f"{OUTSIDE}.head:Linear"), "importable"),
    "two backbones": (("finetune", "--init", "x", "--policy-backbone", "prismatic"), "beside --init"),
    "suite": (("evaluate", "--suite", "army"), "Did you mean 'arms'"),
    "suite class": (("evaluate", "--suite", f"{OUTSIDE}.world:PlateWorld"), "without references, world, tasks"),
    "suite and skills": (("evaluate", "--suite", "arms", "--skills", "reach"), "none of --skills"),
    "body of a suite": (("evaluate", "--suite", f"{OUTSIDE}.suite:PlateSuite", "--body", "rad"), "Did you mean 'red'"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_in_a_name_is_one_message_and_leaves_nothing(journey, tmp_path, capsys, what):
    (verb, *words), says = MISTAKES[what]
    source = f"cyclemimic_example.source:NpzSource={journey / 'episodes'}"
    new, cache = ("--run", tmp_path / "run", *RECIPE), ("--cache", journey / "cache")
    whole = {
        "tokenizer": ("--source", source, *new, *cache),
        "pretrain": ("--source", source, "--labels", journey / "labels", *new, *cache),
        "finetune": ("--source", source, "--body", "red", "--per-skill", 4, *new),
        "evaluate": (journey / "policy",),
    }
    with pytest.raises(SystemExit) as ended:
        run(verb, *words, *whole.get(verb, ()))
    said = capsys.readouterr().err
    assert ended.value.code == 2 and says in said and "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_without_pre_training_too(journey, tmp_path):
    source = f"cyclemimic_example.source:NpzSource={journey / 'episodes'}"
    parts = ("--policy-backbone", f"{OUTSIDE}.backbone:RecurrentBackbone", "--head", f"{OUTSIDE}.head:LinearHead")
    words = ("--run", tmp_path / "run", "--body", "blue", "--per-skill", 2, "--adaptation", "full")
    run("finetune", "--source", source, *words, *parts, *RECIPE)
    assert read_spec(tmp_path / "run").config.backbone_kind == parts[1]
