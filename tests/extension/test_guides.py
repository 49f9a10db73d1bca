"""The guides show the example as it is, and name tests that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs" / "guides"
EXAMPLE = ROOT / "tests" / "extension" / "cyclemimic_example"
# page -> file of the example
PAGES = {
    "action-head": "head",
    "critic": "critic",
    "decoder": "decoder",
    "feature-backbone": "features",
    "policy-backbone": "backbone",
    "robot": "robot",
    "source": "source",
    "suite": "suite",
    "world": "world",
}


@pytest.mark.parametrize(("page", "file"), PAGES.items())
def test_a_page_holds_the_whole_example_as_it_is(page, file):
    text = (GUIDES / f"{page}.md").read_text()
    (shown,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert shown == (EXAMPLE / f"{file}.py").read_text(), f"copy {file}.py into {page}.md"
    assert f"cyclemimic_example.{file}:" in text.replace(shown, ""), "how it is named"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_its_contract_and_the_table_in_it(page):
    text = (GUIDES / f"{page}.md").read_text()
    table, named = re.search(r"Add one line to `(\w+)` at the top of `(tests/contracts/\w+\.py)`", text).groups()
    assert re.search(rf"^{table} = ", (ROOT / named).read_text(), re.MULTILINE)


def test_every_example_has_its_page_and_every_page_is_listed():
    assert {p.stem for p in EXAMPLE.glob("*.py")} - {"__init__"} == set(PAGES.values())
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (GUIDES / "README.md").read_text()))
    assert listed == {p.name for p in GUIDES.glob("*.md")} - {"README.md"}
