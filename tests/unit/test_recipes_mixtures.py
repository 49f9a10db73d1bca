"""What a mixture says: by name, from a file, from a function; and what of it is refused."""

import json
import sys
from types import ModuleType

import pytest

from cyclemimic.cli import main
from cyclemimic.data.oxe import convention_of
from cyclemimic.errors import InputError
from cyclemimic.recipes.mixtures import Mixture, MixtureEntry, find_mixture, read_mixture
from cyclemimic.recipes.parts import OpenMixture, open_sources, parts_of
from cyclemimic.recipes.published_mixtures import MIXTURES
from tests.unit.data_small import video_folder

FILE = """
per = "pair"

[[entries]]
source = "folder:videos/kitchen"
weight = 2
gap_s = 0.5
body = "hand"
licence = "CC0-1.0"

[[entries]]
name = "bridge"
source = "rlds:data/bridge_dataset/1.0.0?split=train"
"""


def test_a_file_says_entries_and_what_weights_mean(tmp_path):
    (tmp_path / "my.toml").write_text(FILE)
    mixture = find_mixture(str(tmp_path / "my.toml"))
    assert mixture.name == "my.toml" and mixture.per == "pair"
    kitchen, bridge = mixture.entries
    assert (kitchen.name, kitchen.weight, kitchen.gap_s, kitchen.body) == ("kitchen", 2, 0.5, "hand")
    assert (bridge.name, bridge.weight, bridge.gap_s, bridge.body, bridge.licence) == ("bridge", 1.0, None, None, None)
    entries = [{"source": e.source, "name": e.name, "weight": e.weight} for e in mixture.entries]
    (tmp_path / "my.json").write_text(json.dumps({"entries": entries}))
    again = read_mixture(tmp_path / "my.json")
    assert again.per == "source" and [e.name for e in again.entries] == ["kitchen", "bridge"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[entries]]\nsource = 3", r"entry 1, field source: expected text"),
        ("[[entries]]\nweight = 1", r"entry 1, field source: expected a source, got none"),
        ('[[entries]]\nsource = "a"\nweigth = 1', r"entry 1: expected known fields.*'weigth'.*Did you mean 'weight'"),
        (
            '[[entries]]\nsource = "a"\nweight = 0',
            r"entry 1: entry 'a', field weight: expected a finite weight above 0",
        ),
        ('[[entries]]\nsource = "a"\nweight = nan', r"field weight.*got nan"),
        ('[[entries]]\nsource = "a"\nweight = true', r"field weight: expected a number"),
        ('[[entries]]\nsource = "a"\ngap_s = -1', r"field gap_s: expected seconds above 0"),
        ('[[entries]]\nsource = "a"\nname = "x/y"', r"field name"),
        ('[[entries]]\nsource = "mixture:full"', "a mixture holds no mixtures"),
        ('[[entries]]\nsource = "folder:a"\n[[entries]]\nsource = "film:a"', "field name: expected each once, got 'a'"),
        ('[[entries]]\nsource = "a"\nname = "x"\n[[entries]]\nsource = "a"\nname = "y"', "field source.*weights' sum"),
        ("entries = []", "at least one entry"),
        ("entries = 3", "a list of entries, got int"),
        ("", "field entries.*got none"),
        ("sources = []", "field sources: expected known fields"),
        ('per = "clip"\n[[entries]]\nsource = "a"', r"my\.toml: weights per: expected 'source' or 'pair'"),
        ("entries = [", "expected valid TOML"),
    ],
)
def test_a_bad_file_is_refused_by_field(tmp_path, text, message):
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        find_mixture(str(path))
    assert "my.toml" in str(error.value) and error.value.remedy


def test_bad_json_and_no_file(tmp_path):
    path = tmp_path / "my.json"
    for text, message in (("{", "valid JSON"), ("[1]", "an object with 'entries'"), ('{"entries": [1]}', "entry 1")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            find_mixture(str(path))
    with pytest.raises(InputError, match=r"no\.toml: expected a file"):
        find_mixture(str(tmp_path / "no.toml"))


def test_an_unknown_mixture_is_told_what_there_is():
    with pytest.raises(InputError, match=r"Did you mean 'bridge'.*full.*\.toml"):
        find_mixture("brdige")
    with pytest.raises(InputError, match="known options"):
        find_mixture("bridge?path=x")
    with pytest.raises(InputError, match="no option 'root'"):
        find_mixture("my.toml?root=x")


def test_published_mixtures_say_where_each_set_lies_and_how_to_get_it():
    bridge, full = find_mixture("bridge?root=/sets"), find_mixture("full?root=/sets/")
    assert [e.source for e in bridge.entries] == ["rlds:/sets/bridge_dataset/1.0.0"]
    # 26 sets of robots, and human video; weights there multiply the number of frames.
    assert full.per == "pair" and len(full.entries) == 27 and bridge.per == "source"
    by_name = {e.name: e for e in full.entries}
    assert by_name["nyu_franka_play_dataset"].weight == 3.0 and by_name["kuka"].weight == 0.1
    assert by_name["ego4d"].body == "human" and by_name["ego4d"].source == "folder:/sets/ego4d"
    assert all(e.get and e.weight > 0 for e in full.entries)
    assert by_name["kuka"].source == "rlds:/sets/kuka/0.1.0?rate_hz=10"
    assert "gs://gresearch/robotics/kuka/0.1.0 /sets/kuka/" in by_name["kuka"].get
    assert set(MIXTURES) == {"bridge", "full"}
    # The guide says how many are read by guess; each of those says its rate and its robot.
    sets = [row for row in MIXTURES["full"].rows if row.kind == "rlds"]
    guessed = [row for row in sets if convention_of(row.folder or row.name) is None]
    assert (len(guessed), len(sets)) == (22, 26) and all(row.rate_hz and row.body for row in guessed)


def test_what_is_missing_is_named_with_how_to_get_it_in_one_message(tmp_path):
    video_folder(tmp_path / "ego4d", {"a.mp4": 5})
    with pytest.raises(InputError) as error:
        open_sources(f"mixture:full?root={tmp_path}")
    message = str(error.value)
    assert "expected 27 sources that can be read, got 26 that cannot" in message
    assert "ego4d" not in message and "bridge_dataset (rlds:" in message and "got no such folder" in message
    assert message.count("to get it: ") == 26 and "wget" in message and "gsutil" in message


def test_an_empty_source_is_refused(tmp_path):
    video_folder(tmp_path / "one", {"a.mp4": 5})
    (tmp_path / "two").mkdir()
    entries = tuple(MixtureEntry(source=f"folder:{tmp_path / name}") for name in ("one", "two"))
    module = ModuleType("mixture_of_a_test")
    module.mine = lambda: Mixture(name="mine", entries=entries)
    module.other = lambda: 3
    sys.modules["mixture_of_a_test"] = module
    with pytest.raises(InputError, match=r"got 1 that cannot.*\n  two \(folder:.*expected videos"):
        open_sources("mixture:mixture_of_a_test:mine")
    with pytest.raises(InputError, match="expected a Mixture, got int"):
        open_sources("mixture:mixture_of_a_test:other")
    video_folder(tmp_path / "two", {"b.mp4": 4})
    assert isinstance(open_sources("mixture:mixture_of_a_test:mine"), OpenMixture)
    assert len(parts_of(open_sources("mixture:mixture_of_a_test:mine"))) == 2
    # A module with a dot in its name needs no word in front; an instance is as good as a function.
    module.ready = module.mine()
    sys.modules["mixture_of_a_test.inner"] = module
    for text in ("mixture_of_a_test.inner:mine", "mixture_of_a_test.inner:ready"):
        assert [part.name for part in parts_of(open_sources(text))] == ["one", "two"]
    with pytest.raises(InputError, match="importable"):
        open_sources("mixture_of_a_test.inner:gone")


def test_a_verb_for_one_source_says_so(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["finetune", "--source", "mixture:bridge", "--run", str(tmp_path / "x"), "--body", "widowx"])
    said = capsys.readouterr().err
    assert "expected one source, got 'mixture:bridge'" in said and "Name one of its sources" in said


def write_mixture(tmp_path, **second):
    video_folder(tmp_path / "one", {"arm/a.mp4": 8, "arm/b.mp4": 6})
    video_folder(tmp_path / "two", {"c.mp4": 9})
    (tmp_path / "one" / "clips.jsonl").write_text('{"file": "arm/a.mp4", "licence": "CC0-1.0"}\n')
    rows = [{"source": f"folder:{tmp_path / 'one'}", "weight": 3}, {"source": f"folder:{tmp_path / 'two'}", **second}]
    (tmp_path / "my.json").write_text(json.dumps({"entries": rows}))
    return f"mixture:{tmp_path / 'my.json'}"


def test_check_lists_shares_episodes_and_licences(tmp_path, capsys):
    main(["data", "check", write_mixture(tmp_path, licence="CC-BY-4.0", gap_s=0.8)])
    said = capsys.readouterr().out
    assert "2 sources, 3 episodes, 13 pairs" in said
    assert " 75.0%  one: 2 episodes, 8 pairs, arm\n          licence: CC0-1.0 (1 clip), unknown (1 clip)" in said
    # A body that its source does not know bears the entry's name.
    assert " 25.0%  two: 1 episodes, 5 pairs, two, gap 0.8 s\n          licence: CC-BY-4.0 (1 clip)" in said


def test_the_same_content_twice_is_refused(tmp_path, capsys):
    write_mixture(tmp_path)
    video_folder(tmp_path / "copy", {"c.mp4": 9})
    rows = [{"source": f"folder:{tmp_path / name}"} for name in ("two", "copy")]
    (tmp_path / "my.json").write_text(json.dumps({"entries": rows}))
    with pytest.raises(SystemExit):
        main(["data", "check", f"mixture:{tmp_path / 'my.json'}"])
    assert "'two' and 'copy' hold the same clips" in capsys.readouterr().err


def test_a_body_in_two_sources_is_said(tmp_path, capsys):
    main(["data", "check", write_mixture(tmp_path, body="arm")])
    assert "body 'arm' is one body in one, two" in capsys.readouterr().out


def test_a_mixture_goes_on_without_what_is_not_there(tmp_path, capsys):
    video_folder(tmp_path / "ego4d", {"a.mp4": 5})
    with pytest.raises(InputError, match=r"\?missing=skip"):
        open_sources(f"mixture:full?root={tmp_path}")
    found = open_sources(f"mixture:full?root={tmp_path}&missing=skip")
    assert [part.name for part in found.parts] == ["ego4d"] and len(found.absent) == 26
    assert found.mixture.weights().names == ("ego4d",)
    said = capsys.readouterr().out
    assert "26 of 27 sources are not there and are left out: fractal20220817_data" in said
    # What is there and damaged is never passed over, and nothing at all is no mixture.
    (tmp_path / "kuka" / "0.1.0").mkdir(parents=True)
    with pytest.raises(InputError, match=r"got 26 that cannot, 25 of them not there.*without them\.(.|\n)*kuka"):
        open_sources(f"mixture:full?root={tmp_path}&missing=skip")
    with pytest.raises(InputError, match="got 27 that cannot"):
        open_sources(f"mixture:full?root={tmp_path / 'nowhere'}&missing=skip")
    with pytest.raises(InputError, match=r"option missing.*Known: refuse, skip"):
        open_sources("mixture:full?missing=maybe")
