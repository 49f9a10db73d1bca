"""Every verb once, on a little data: what it leaves behind is whole, and says where it came from."""

import json
import re
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

from cyclemimic.cli import VERBS
from cyclemimic.cli.choices import RECIPES
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.evaluate.records import load_quality, load_rollouts
from cyclemimic.nn.batches import pixels
from cyclemimic.policy.policy import LatentActionPolicy
from cyclemimic.recipes.stations import make_world
from cyclemimic.store.atomic import read_json, sha256_file
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.store.label_store import LabelStore
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.train.loop import read_metrics
from cyclemimic.types import Task
from tests.journey.small import BODIES, SKILLS, STEPS, hashes

RUNS = ("trunk", "genie", "ac3", "pretrained", "policy-lora", "policy-full")


def cache_of(journey, video, size_px):
    """The cache of the videos in a folder: caches are named by what they hold."""
    name = f"{FolderSource(journey / video).fingerprint()[:16]}-{size_px}px"
    return FrameCache.open(journey / "cache" / name, verify=True)


def test_every_verb_has_its_test():
    assert set(VERBS) == {
        *("film", "data", "tokenizer", "label", "pretrain", "finetune", "evaluate", "inspect", "doctor", "demo"),
        *("serve", "drive"),  # test_drive.py
        *("ablate", "report"),  # test_ablate.py
    }
    assert set(RECIPES) == {"tiny", "small", "paper"}


def test_film(filmed):
    counts = read_json(filmed / "film" / "report.json")["counts"]
    assert {(c["body"], c["skill"]) for c in counts} == {(b, s) for b in BODIES for s in SKILLS}
    assert all(c["episodes"] == c["successes"] == 5 for c in counts)
    videos = {p.relative_to(filmed / "film/video").with_suffix("") for p in (filmed / "film/video").rglob("*.mp4")}
    actions = {p.relative_to(filmed / "film/actions").with_suffix("") for p in (filmed / "film/actions").rglob("*.npz")}
    assert videos == actions and len(videos) == sum(c["successes"] for c in counts)


def test_film_in_the_drawn_world_without_actions(filmed, tmp_path):
    said = filmed.run("film", "drawn", "--out", tmp_path, "--episodes", 1, "--skills", "reach", "--no-actions")
    assert "4 clips" in said
    assert not (tmp_path / "actions").exists() and len(list(tmp_path.rglob("*.mp4"))) == 4


def test_data_check(filmed):
    said = filmed.run("data", "check", filmed.video, "--report", filmed / "check.html")
    assert "0 of no use" in said and all(f"{body}: " in said for body in BODIES)
    assert re.search(r"20 clips, 20 with a sentence", said)


def test_data_cache(labelled):
    cache = cache_of(labelled, "film/video", 16)
    assert cache.frames.shape[1:] == (16, 16, 3) and set(cache.embodiments) == set(BODIES)
    assert len(cache) == len(list((labelled / "film/video").rglob("*.mp4")))


@pytest.mark.parametrize("run", RUNS)
def test_a_run_leaves_weights_metrics_and_its_configuration(journey, run):
    found = sorted((journey / run).glob("*.safetensors"))
    assert len(found) >= 2, "state, and what is handed on"
    for path in found:
        with safe_open(path, framework="np") as file:
            tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
        assert tensors and all(np.isfinite(t).all() for t in tensors)
    rows = read_metrics(journey / run)
    assert [row["step"] for row in rows] == [STEPS]
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert read_json(journey / run / "config.json")["seed"] == 0


def test_the_three_objectives_differ_and_branch_off_one_trunk(journey):
    rows = {name: read_metrics(journey / name)[-1] for name in ("trunk", "genie", "ac3")}
    assert "cycle" not in rows["genie"] and "critic" not in rows["genie"]
    assert {"cycle", "discriminator", "critic", "gradient.cycle.encoder", "gradient.cycle.decoder"} <= set(rows["ac3"])
    facts = read_json(journey / "ac3/tokenizer.json")
    # Ramps begin at .2 and .1 of 12 steps: a ramp that counted steps instead of shares would begin at step 1.
    assert facts["on_steps"] == {"cycle": 9, "discriminator": 10}
    assert set(facts["bodies"]) == set(BODIES)
    assert read_json(journey / "genie/config.json")["trunk"] == "trunk"
    weights = {n: sha256_file(journey / n / "tokenizer.safetensors") for n in rows}
    assert len(set(weights.values())) == 3


def test_labels_say_where_they_came_from(labelled):
    weights = sha256_file(labelled / "ac3/tokenizer.safetensors")
    for name, cache in (("labels", "film/video"), ("demonstration-labels", "demonstrations/video")):
        shards = sorted((labelled / name).glob("labels-*.parquet"))
        source = cache_of(labelled, cache, 16)
        for shard in shards:
            told = json.loads(pq.read_schema(shard).metadata[b"cyclemimic"])
            assert told["tokenizer_sha256"] == weights and told["source_hash"] == source.source_hash
            assert (told["num_codes"], told["num_tokens"], told["gap_s"]) == (7, 2, 0.6)
        store = LabelStore.open(labelled / name)
        gap = round(0.6 * source.clips[0].fps)
        assert len(store) == sum(clip.num_frames - gap for clip in source.clips)
        assert sum(pq.read_metadata(shard).num_rows for shard in shards) == len(store)


def test_labels_are_what_the_tokenizer_says(labelled):
    tokenizer, store = LatentActionTokenizer.load(labelled / "ac3"), LabelStore.open(labelled / "labels")
    cache = cache_of(labelled, "film/video", 16)
    frames = pixels(np.array(cache.clip_frames(4)))
    told, codes = store.codes_for(cache.clips[4].name)
    assert told.tolist() == list(range(len(frames) - 3))
    assert np.array_equal(codes, tokenizer.label(frames[:-3], frames[3:])[0].numpy())


def test_pretrain_validates_on_clips_it_did_not_see(journey):
    scores = read_json(journey / "pretrained/validation.json")
    assert 0 < scores["latent_nll"] < 10 and len(scores["slot_accuracy"]) == 2


def test_policies_act_within_their_limits(journey):
    world = make_world("arms")
    seen = world.reset(Task(body=BODIES[0], skill="reach", seed=1))
    for name in ("policy-lora", "policy-full"):
        policy = LatentActionPolicy.load(journey / name)
        chunk = policy.act(seen)
        assert chunk.actions.shape == (4, world.action_space.width) and chunk.space == world.action_space
        assert (chunk.actions >= world.action_space.low).all() and (chunk.actions <= world.action_space.high).all()
        assert policy.body.camera == world.camera
    assert (journey / "policy-lora/adapters.safetensors").exists()
    assert not (journey / "policy-full/adapters.safetensors").exists()


def test_rollouts_start_alike_whatever_is_shown(journey):
    found = {
        show: load_rollouts(journey / "policy-lora", f"rollouts-{show}") for show in ("as-it-is", "swapped", "black")
    }
    tasks = {show: [o.task for o in result.outcomes] for show, result in found.items()}
    assert tasks["as-it-is"] == tasks["swapped"] == tasks["black"]
    assert [t.skill for t in tasks["black"]] == list(SKILLS)
    for result in found.values():
        assert [o.error for o in result.outcomes] == [None, None] and all(o.steps > 0 for o in result.outcomes)
    pictures = {show: next(o.film for o in result.outcomes if o.film is not None) for show, result in found.items()}
    assert pictures["as-it-is"].any() and np.array_equal(pictures["as-it-is"][0], pictures["swapped"][0])


@pytest.mark.filterwarnings("ignore:The policy does not know the word")
def test_evaluate_on_the_arms_suite(journey, tmp_path):
    words = ("--suite", "arms", "--body", BODIES[0], "--episodes", 1, "--out", tmp_path)
    said = journey.run("evaluate", journey / "policy-lora", *words)
    assert re.search(rf"^{BODIES[0]} +\d+% \(\d+-\d+\), n 5$", said, re.MULTILINE), said
    rows = read_json(tmp_path / "suite-arms.json")["episodes"][BODIES[0]]
    assert len({row["skill"] for row in rows}) == 5 and not any(row["error"] for row in rows)


def test_quality_is_written_with_its_references_and_its_judge(journey):
    record = load_quality(journey / "ac3/quality.json")
    assert record.judge.refused and record.judge.pairs > 0, "five steps make no judge"
    assert -1 <= record.quality.transfer_cosine <= 1 and record.quality.joint_codes >= 1
    assert not list((journey / "ac3").glob("judge*"))


def test_evaluate_says_its_numbers_in_lines(journey):
    said = {name: (journey / f"said-{name}.txt").read_text() for name in ("as", "swapped", "black", "quality")}
    for name in ("as", "swapped", "black"):
        assert re.search(r"^all +\d+% \(.*\), n 2$", said[name], re.M)
        assert len(said[name].splitlines()) == 1 + len(SKILLS)
    assert re.search(r"^transfer cos +-?\d\.\d{3}$", said["quality"], re.M)
    assert "the judge is refused: R2" in said["quality"] and max(map(len, said["quality"].splitlines())) < 120


def test_pages_stand_alone(journey):
    page = (journey / "genie/inspect/inspect.html").read_text()
    assert page.count("data:image/png;base64,") >= 3
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)""", page), "nothing is loaded from elsewhere"
    assert str(journey.root) not in page
    assert {"usage.png", "transfer.png", "codes.png"} <= {p.name for p in (journey / "genie/inspect").iterdir()}


def test_doctor(filmed):
    said = filmed.run("doctor")
    assert all(word in said for word in ("processor", "python", "torch", "GPU", "GB free", "64 px without OpenGL"))


def test_the_same_commands_again_change_nothing(journey):
    kept = {name: hashes(journey / name) for name in (*RUNS, "labels", "film")}
    words = ("--episodes", 5, "--first-seed", 1000, "--bodies", *BODIES, "--skills", *SKILLS)
    assert "0 of them filmed now" in journey.run("film", "arms", "--out", journey / "film", *words)
    journey.tokenizer("ac3", "ac3", "--trunk", journey / "trunk")
    journey.run(
        "label", "--source", journey.video, "--tokenizer", journey / "ac3", "--out", journey / "labels", *journey.cache
    )
    journey.finetune("policy-lora", "--adaptation", "lora")
    assert {name: hashes(journey / name) for name in kept} == kept


def test_nothing_that_is_left_names_a_folder_of_this_machine(journey):
    texts = [p for p in journey.root.rglob("*") if p.suffix in (".json", ".jsonl", ".html", ".parquet")]
    guilty = [p.name for p in texts if str(journey.root).encode() in p.read_bytes()]
    assert len(texts) > 30 and guilty == []


def test_the_module_starts_from_a_shell():
    told = subprocess.run(
        [sys.executable, "-m", "cyclemimic.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert all(verb in told.stdout for verb in VERBS)
