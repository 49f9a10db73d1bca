"""Names of things: entries of a table, and what lies outside the package."""

import pytest

from cyclemimic.errors import InputError
from cyclemimic.names import meets, named
from cyclemimic.recipes.footage import open_source
from cyclemimic.recipes.stations import make_world
from cyclemimic.types import Source, World
from cyclemimic.worlds.drawn import DrawnWorld

TABLE = {"one": 1, "two": 2}


def test_a_word_is_an_entry_and_a_colon_leads_outside():
    assert named("--n", "two", TABLE) == 2
    assert named("--n", "cyclemimic.worlds.drawn:DrawnWorld", {}) is DrawnWorld


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("twoo", "Did you mean 'two'"),
        ("no.such:thing", "importable package.module:name"),
        ("cyclemimic.names:nothing", "importable package.module:name"),
        (":thing", "importable package.module:name"),
    ],
)
def test_what_is_not_there_is_told(text, says):
    with pytest.raises(InputError, match=says):
        named("--n", text, TABLE)


def test_what_lacks_something_is_told_what():
    world = DrawnWorld()
    assert meets("world", "drawn", world, World) is world
    with pytest.raises(InputError, match="makes a DrawnWorld without clips, read") as error:
        meets("--source", "drawn", world, Source)
    assert "cyclemimic.types.Source" in error.value.expected


class Shelf:
    """A source that keeps what it was called with."""

    def __init__(self, argument):
        self.name = argument

    def clips(self):
        return ()

    def read(self, clip):
        raise NotImplementedError


@pytest.mark.parametrize("argument", ["some/folder", "a=b:c", ""])
def test_an_outside_source_is_called_with_what_stands_behind_the_equals_sign(argument):
    source = open_source(f"tests.unit.test_names:Shelf={argument}")
    assert isinstance(source, Shelf) and source.name == argument


def test_a_path_may_hold_an_equals_sign(tmp_path):
    folder = tmp_path / "a=b"
    folder.mkdir()
    assert open_source(f"folder:{folder}").path == folder
    assert open_source(str(folder)).path == folder


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("flim:x", "Did you mean 'film'"),
        ("tests.unit.test_names:Shelf", "package.module:Class=PATH"),
        ("tests.unit.test_names:Shelve=x", "importable"),
        ("tests.unit.test_names:TABLE.get=x", "importable"),
        ("cyclemimic.worlds.drawn:COLOURS=x", "a class or a function"),
        ("builtins:list=x", "makes a list without name, clips, read"),
    ],
)
def test_a_source_that_is_none_is_told(text, says):
    with pytest.raises(InputError, match=says):
        open_source(text)


def test_worlds_by_name():
    assert make_world("cyclemimic.worlds.drawn:DrawnWorld").name == "drawn"
    with pytest.raises(InputError, match="Did you mean 'drawn'"):
        make_world("drawm")
    with pytest.raises(InputError, match="makes a list without name, bodies"):
        make_world("builtins:list")
