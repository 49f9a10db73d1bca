"""What a user can get wrong: exit code 2, one message that names the place and the remedy, and nothing lost."""

import io
import shutil

import numpy as np
import pytest

from cyclemimic.cli import main
from cyclemimic.data.video import write_video
from cyclemimic.store.atomic import read_json, write_json
from tests.journey.conftest import RECIPE
from tests.journey.small import BODIES, SKILLS, hashes
from tests.unit.data_small import moving_square, video_folder


def no_recipe():
    """Returns something else."""
    return {"steps": 3}


@pytest.fixture
def refused(capsys, recwarn):
    """Runs a command that must be refused; returns what it said."""

    def run(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(w) for w in words])
        said = capsys.readouterr().err
        assert ended.value.code == 2, said
        assert "Traceback" not in said
        return said

    return run


def message(said):
    """The one message, behind lines of progress."""
    (line,) = (line for line in said.splitlines() if line.startswith("cyclemimic: "))
    assert said.rstrip().endswith(line), "the message comes last"
    assert "expected" in line and ", got " in line
    return line


@pytest.fixture
def copied(labelled, tmp_path):
    """A folder of the journey that may be spoilt."""

    def copy(name):
        return shutil.copytree(labelled / name, tmp_path / name)

    return copy


def tokenizer_words(source, run, cache):
    return ("tokenizer", "--source", source, "--run", run, *RECIPE, "--cache", cache)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """What a command writes where nobody said so, such as runs/check, does not land among the sources."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", ["absent", "empty", "file", "no videos"])
def test_a_folder_without_videos(refused, tmp_path, kind):
    folder = tmp_path / "videos"
    if kind != "absent":
        folder.mkdir()
    if kind == "file":
        folder = folder / "a.mp4"
        write_video(folder, moving_square(4), 5.0)
    if kind == "no videos":
        (folder / "notes.txt").write_text("later")
    for words in (
        ("data", "check", f"folder:{folder}"),
        ("data", "cache", folder, "--cache", tmp_path / "cache"),
        tokenizer_words(f"folder:{folder}", tmp_path / "run", tmp_path / "cache"),
    ):
        said = message(refused(*words))
        assert str(folder) in said and ("Check the path" in said or "Put videos here" in said)
    assert not (tmp_path / "run").exists()


def spoil(path, kind):
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "one frame":
        write_video(path, moving_square(1), 5.0)
    else:
        path.write_bytes(b"no video at all")


KINDS = {"truncated": "damaged", "one frame": "at least 2 frames", "text": "damaged"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_clip_alone(refused, tmp_path, kind):
    folder = video_folder(tmp_path / "videos", {"arm/a.mp4": 9})
    spoil(folder / "arm/a.mp4", kind)
    before = hashes(folder)
    for words in (
        ("data", "cache", folder, "--cache", tmp_path / "cache"),
        tokenizer_words(folder, tmp_path / "run", tmp_path / "cache"),
    ):
        said = message(refused(*words))
        assert "arm/a.mp4" in said and KINDS[kind] in said
    assert "a usable clip" in message(refused("data", "check", folder))
    assert hashes(folder) == before and not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_clip_among_many_is_skipped_and_listed(capsys, tmp_path, kind):
    folder = video_folder(tmp_path / "videos", {f"arm/{i}.mp4": 9 for i in range(6)})
    spoil(folder / "arm/3.mp4", kind)
    before = hashes(folder)
    main(["data", "check", str(folder)])
    said = capsys.readouterr().out
    assert "6 clips" in said and "1 of no use" in said and "arm: 5 clips" in said
    (line,) = (line for line in said.splitlines() if "of no use:" in line)
    assert "arm/3.mp4" in line and KINDS[kind] in line
    main(["tokenizer", "--source", str(folder), "--run", str(tmp_path / "run"), "--cache", str(tmp_path / "cache"),
          "--steps", "4", "--objective", "genie", *RECIPE])  # fmt: skip
    said = capsys.readouterr().out
    assert "skipped arm/3.mp4: " in said and KINDS[kind] in said
    assert (tmp_path / "run/tokenizer.safetensors").exists() and hashes(folder) == before


def test_clips_shorter_than_the_gap(refused, tmp_path):
    folder = video_folder(tmp_path / "videos", {f"arm/{i}.mp4": 3 for i in range(6)})
    said = message(refused(*tokenizer_words(folder, tmp_path / "run", tmp_path / "cache")))
    assert "clips longer than 0.6 s" in said and "Give a smaller gap" in said


def test_a_sidecar_of_other_files(refused, tmp_path):
    folder = video_folder(tmp_path / "videos", {"arm/a.mp4": 9})
    (folder / "clips.jsonl").write_text('{"file": "arm/b.mp4", "fps": 5}\n')
    assert "clips.jsonl" in message(refused("data", "check", folder))
    (folder / "clips.jsonl").write_text('{"file": "arm/a.mp4", "sentence": "push"}\n')
    said = message(refused("data", "check", folder))
    assert "line 1" in said and "'sentence'" in said


UNKNOWN = {
    "recipe": (("tokenizer", "--source", "x", "--run", "r", "--recipe", "tinny"), "Did you mean 'tiny'?"),
    "recipe function": (
        ("tokenizer", "--source", "x", "--run", "r", "--recipe", "tests.journey.small:recipes"),
        "Check the spelling and PYTHONPATH.",
    ),
    "recipe kind": (
        ("tokenizer", "--source", "x", "--run", "r", "--recipe", "tests.journey.test_bad_input:no_recipe"),
        "a function that returns a Recipe, got dict",
    ),
    "world": (("film", "arm", "--out", "o"), "Did you mean 'arms'?"),
    "body": (("film", "arms", "--out", "o", "--bodies", "arm6", "skara"), "Did you mean 'scara'?"),
    "skill": (("film", "arms", "--out", "o", "--skills", "push_lef"), "Did you mean 'push_left'?"),
    "source kind": (("data", "check", "flim:x"), "Did you mean 'film'?"),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_an_unknown_name_and_the_nearest_known_one(refused, tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    words, hint = UNKNOWN[what]
    assert hint in message(refused(*words))
    assert list(tmp_path.iterdir()) == []


def test_a_mistyped_flag_or_verb(refused):
    said = refused("film", "arms", "--out", "o", "--episode", "3")
    assert "--episode" in said and "--episodes" in said
    assert "--objective" in refused("tokenizer", "--source", "x", "--run", "r", "--objective", "ac4")
    said = refused("tokeniser", "--source", "x")
    assert "tokeniser" in said and "tokenizer" in said


def test_a_film_without_actions(refused, filmed, tmp_path):
    words = ("--bodies", "crane", "--skills", "reach", "--episodes", 1, "--no-actions")
    filmed.run("film", "drawn", "--out", tmp_path / "film", *words)
    before = hashes(tmp_path / "film")
    words = ("--run", tmp_path / "run", "--body", "crane", "--per-skill", 1, *RECIPE)
    said = message(refused("finetune", "--source", f"film:{tmp_path / 'film'}", *words))
    assert "a folder 'actions'" in said and "Film again with actions" in said
    said = message(refused("finetune", "--source", f"folder:{tmp_path / 'film/video'}", *words))
    assert "expected actions in the action space" in said
    assert "world.json" in message(refused("finetune", "--source", f"film:{tmp_path}", *words))
    assert hashes(tmp_path / "film") == before and not (tmp_path / "run").exists()


def test_films_of_another_world_in_the_same_folder(refused, copied):
    film = copied("film")
    before = hashes(film)
    assert "world arms" in message(refused("film", "drawn", "--out", film, "--episodes", 1))
    assert hashes(film) == before


def finetune_words(source, tmp_path, *more):
    return ("finetune", "--source", f"film:{source}", "--run", tmp_path / "run", "--body", BODIES[0], *RECIPE, *more)


@pytest.mark.parametrize("kind", ["width", "NaN", "steps", "absent", "cut short"])
def test_actions_that_do_not_fit(refused, copied, tmp_path, kind):
    film = copied("demonstrations")
    path = sorted((film / "actions").rglob("*.npz"))[1]
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    if kind == "width":
        arrays["actions"] = arrays["actions"][:, :4]
    elif kind == "NaN":
        arrays["actions"][2, 1] = np.nan
    elif kind == "steps":
        arrays["actions"], arrays["proprioception"] = arrays["actions"][:-1], arrays["proprioception"][:-1]
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    path.write_bytes(buffer.getvalue()[: 100 if kind == "cut short" else None])
    if kind == "absent":
        path.unlink()
    before = hashes(film)
    said = message(refused(*finetune_words(film, tmp_path, "--per-skill", 3)))
    assert path.stem in said
    wanted = {
        "width": "actions of width 5 (",
        "NaN": "NaN or infinity at index [2, 1]",
        "steps": "actions between",
        "absent": "Film this episode again",
        "cut short": "film this episode again",
    }
    assert wanted[kind] in said
    assert hashes(film) == before and not (tmp_path / "run").exists()


def test_demonstrations_that_are_not_there(refused, labelled, tmp_path):
    film = labelled / "demonstrations"
    other = ("finetune", "--source", f"film:{film}", "--run", tmp_path / "run", *RECIPE, "--body", "arm5")
    said = message(refused(*other))
    assert "demonstrations of body 'arm5', got none" in said and "'arm6'" in said
    said = message(refused(*finetune_words(film, tmp_path, "--per-skill", 4)))
    assert "4 demonstrations per skill" in said and "'reach': 3" in said and "Film more, or ask for fewer" in said
    said = message(refused(*finetune_words(film, tmp_path, "--per-skill", 3, "--skills", "reach", "push_lef")))
    assert "Did you mean 'push_left'?" in said
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_is_something_else(refused, journey, tmp_path):
    before = hashes(journey / "pretrained")
    words = ("--tokenizer", journey / "pretrained", "--out", tmp_path / "labels", *journey.cache)
    said = message(refused("label", "--source", journey.video, *words))
    assert "pretrained" in said and "a tokenizer (tokenizer.json" in said
    for run in (journey / "labels", tmp_path / "nothing"):
        said = message(refused("evaluate", run, "--body", BODIES[0]))
        assert "network.json" in said and "Name a folder that pretrain or finetune wrote" in said
    said = message(refused("evaluate", journey / "pretrained", "--body", BODIES[0]))
    assert "a fine-tuned policy" in said and "Name a folder that finetune wrote" in said
    said = message(refused("inspect", journey / "policy-lora", "--source", journey.video, *journey.cache))
    assert "a tokenizer (tokenizer.json" in said
    words = ("--objective", "ac3", "--trunk", journey / "film")
    assert "a tokenizer" in message(
        refused(*tokenizer_words(journey.video, tmp_path / "run", journey.cache[1]), *words)
    )
    begin = ("--init", journey / "ac3", "--labels", journey / "demonstration-labels", "--per-skill", 3)
    assert "network.json" in message(refused(*finetune_words(journey / "demonstrations", tmp_path, *begin)))
    assert hashes(journey / "pretrained") == before and not (tmp_path / "run").exists()


def test_evaluate_asks_for_what_it_needs(refused, journey):
    assert "--source: expected film:PATH" in message(refused("evaluate", journey / "ac3", *journey.cache))
    video = message(refused("evaluate", journey / "ac3", "--source", journey.video, *journey.cache))
    assert "expected a state or actions with named axes, got video alone" in video
    assert "--body: expected the body that acts" in message(refused("evaluate", journey / "policy-lora"))
    said = message(refused("evaluate", journey / "policy-lora", "--body", "arm66"))
    assert "Did you mean 'arm6'?" in said
    words = ("--body", "crane", "--world", "drawn", "--skills", "reach", "--show", "swapped", "--episodes", 1)
    assert "Use --show black" in message(refused("evaluate", journey / "policy-lora", *words))


def test_too_few_films_to_hold_some_out(refused, journey, tmp_path):
    words = ("--source", journey.demonstrations, "--judge", tmp_path / "judge", *journey.cache)
    said = message(refused("evaluate", journey / "ac3", *words))
    assert "clips for training, validation and test" in said and "Film more episodes" in said


def test_labels_of_something_else(refused, journey, copied, tmp_path):
    labels = copied("labels")
    before = hashes(labels)
    words = ("--out", labels, *journey.cache)
    said = message(refused("label", "--source", journey.video, "--tokenizer", journey / "genie", *words))
    assert "tokenizer_sha256" in said and "choose another folder" in said
    said = message(refused("label", "--source", journey.demonstrations, "--tokenizer", journey / "ac3", *words))
    assert "source_hash" in said and "choose another folder" in said
    words = ("--run", tmp_path / "run", *RECIPE, *journey.cache)
    said = message(refused("pretrain", "--source", journey.demonstrations, "--labels", labels, *words))
    assert "source_hash" in said and "Label this video" in said
    said = message(refused("pretrain", "--source", journey.video, "--labels", tmp_path, *words))
    assert "Run `cyclemimic label` first" in said
    assert hashes(labels) == before and not (tmp_path / "run").exists()


def test_demonstrations_with_labels_of_something_else(refused, journey, tmp_path):
    words = finetune_words(journey / "demonstrations", tmp_path, "--per-skill", 3)
    assert "source_hash" in message(refused(*words, "--labels", journey / "labels"))
    genie = tmp_path / "genie-labels"
    to = ("--tokenizer", journey / "genie", "--out", genie)
    journey.run("label", "--source", journey.demonstrations, *to, *journey.cache)
    # Of one codebook size, so that nothing but the provenance gives it away.
    said = message(refused(*words, "--init", journey / "pretrained", "--labels", genie))
    assert "tokenizer_sha256" in said and "Label this video with this tokenizer" in said
    assert "tokens of 7 codes" in message(refused(*words, "--init", journey / "pretrained"))
    assert not (tmp_path / "run").exists()


def test_damaged_files_are_named(refused, journey, copied, tmp_path):
    labels = copied("labels")
    shard = sorted(labels.glob("*.parquet"))[2]
    shard.write_bytes(shard.read_bytes()[:200])
    words = ("--labels", labels, "--run", tmp_path / "run", *RECIPE, *journey.cache)
    said = message(refused("pretrain", "--source", journey.video, *words))
    assert shard.name in said and "Delete this shard" in said
    shard.unlink()
    assert "missing: 2" in message(refused("pretrain", "--source", journey.video, *words))
    run = copied("ac3")
    weights = run / "tokenizer.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    said = message(refused("inspect", run, "--source", journey.video, *journey.cache))
    assert "tokenizer.safetensors" in said and "cut short" in said
    config = read_json(run / "tokenizer.json")
    config["config"]["encoder"]["width"] = 32
    write_json(run / "tokenizer.json", config)
    shutil.copy(journey / "ac3/tokenizer.safetensors", weights)
    assert "different runs" in message(refused("inspect", run, "--source", journey.video, *journey.cache))


def test_a_second_process_in_the_same_folder(refused, labelled, tmp_path):
    from cyclemimic.store.atomic import alone_in

    with alone_in(tmp_path / "film"):
        said = message(refused("film", "arms", "--out", tmp_path / "film", "--episodes", 1))
    assert "one process that writes here" in said and SKILLS[0] not in said
