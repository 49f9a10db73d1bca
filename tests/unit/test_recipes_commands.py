"""What decides a key, so that nothing is measured twice and nothing stale is taken for new."""

from dataclasses import dataclass, field, replace

from cyclemimic.recipes.commands import decides, plain
from cyclemimic.recipes.tiny import tiny


@dataclass(frozen=True)
class Inner:
    width: int = 4
    reach: int = field(default=3, metadata={"before": 3})


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    several: tuple[Inner, ...] = (Inner(width=1),)


def test_a_new_field_changes_no_key_until_it_says_something_new():
    assert decides(Outer()) == {"inner": {"width": 4}, "several": [{"width": 1}]}
    assert decides(Outer(inner=Inner(reach=5)))["inner"] == {"width": 4, "reach": 5}


def test_every_other_field_of_a_recipe_decides():
    trunk = tiny().trunk
    assert plain(decides(trunk)) != plain(decides(replace(trunk, learning_rate=2 * trunk.learning_rate)))
    far = replace(trunk.tokenizer, match_reach=trunk.tokenizer.match_reach + 1)
    assert plain(decides(trunk)) != plain(decides(replace(trunk, tokenizer=far)))
