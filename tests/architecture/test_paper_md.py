"""The documents keep their word: rows of PAPER.md, numbers of DEVIATIONS.md, commands and paths of the README."""

import ast
import dataclasses
import importlib
import inspect
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE, TESTS = ROOT / "src" / "cyclemimic", ROOT / "tests"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
REFERENCE = re.compile(r"`([\w/]+\.py)::([\w.]+)`")
SETTING = re.compile(r"`([\w/]+\.py)::(\w+)\.([\w.]+) = ([^`]+)`")


def paper_rows():
    """(idea, references into the code, references into the tests) of every row of PAPER.md."""
    rows = []
    for line in (ROOT / "PAPER.md").read_text().splitlines():
        if line.startswith("|") and not line.startswith(("|---", "| Idea")):
            idea, _, code, test = (cell.strip() for cell in line.strip("|").split("|"))
            rows.append((idea, REFERENCE.findall(code), REFERENCE.findall(test)))
    return rows


@cache
def names_in(path):
    """Every function, class and method that a file defines, methods as Class.method."""
    found = set()

    def walk(body, prefix):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                walk(node.body, f"{node.name}.")

    walk(ast.parse(path.read_text()).body, "")
    return found


@pytest.mark.parametrize(
    ("idea", "code", "tests"), paper_rows(), ids=lambda cell: cell if isinstance(cell, str) else ""
)
def test_every_row_of_paper_md_resolves(idea, code, tests):
    assert code, "the row names no function"
    assert tests, "the row names no test"
    for folder, references in ((CODE, code), (TESTS, tests)):
        for file, name in references:
            assert (folder / file).is_file(), f"{file} is not there"
            assert name in names_in(folder / file), f"{file} defines no {name}"
    assert all(name.startswith("test_") for _, name in tests)


def test_paper_md_has_rows():
    assert len(paper_rows()) > 30


def headings_of_deviations():
    return re.findall(r"^## (D\d+) ", (ROOT / "DEVIATIONS.md").read_text(), re.MULTILINE)


def settings_of_deviations():
    """(file, configuration, field, value) of every default that DEVIATIONS.md spells out, across line ends too."""
    return SETTING.findall(" ".join((ROOT / "DEVIATIONS.md").read_text().split()))


def test_deviations_are_numbered_in_order():
    found = headings_of_deviations()
    assert found == [f"D{number}" for number in range(1, len(found) + 1)]


def test_deviations_that_code_and_documents_name_exist():
    known = set(headings_of_deviations())
    for path in CODE.rglob("*.py"):
        assert set(re.findall(r"Deviation (D\d+)", path.read_text())) <= known, path
    for path in (ROOT / "PAPER.md", *DOCUMENTS):
        assert set(re.findall(r"\((?:\+ )?(D\d+)(?:, D\d+)*\)", path.read_text())) <= known, path


@pytest.mark.parametrize(("file", "config", "field", "value"), settings_of_deviations())
def test_numbers_of_deviations_md_are_the_defaults(file, config, field, value):
    module = importlib.import_module("cyclemimic." + file.removesuffix(".py").replace("/", "."))
    found = getattr(module, config)()
    assert dataclasses.is_dataclass(found)
    for part in field.split("."):
        found = getattr(found, part)
    assert found == ast.literal_eval(value)


def commands(page):
    """(verb, flags) of every command that a page spells out, in blocks and between backticks."""
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    prose = " ".join(re.sub(r"```.*?```", "", text, flags=re.DOTALL).split())
    inline = re.findall(r"`([^`]+)`", prose)
    lines = [line for block in blocks for line in block.splitlines()] + inline
    for line in lines:
        command = re.match(r"\s*cyclemimic (\w+)(.*)", line)
        if command:
            yield command[1], re.findall(r"(?<!\S)--([\w-]+)", command[2])


def flags_of(verb):
    """The flags that a verb takes; `drive` has a parser of its own."""
    from cyclemimic.cli import VERBS
    from cyclemimic.robot.command import parser

    if verb == "drive":
        return {word.removeprefix("--") for word in parser()._option_string_actions}
    return {name.replace("_", "-") for name in inspect.signature(VERBS[verb]).parameters}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_flags_exist(page):
    from cyclemimic.cli import VERBS

    found = list(commands(page))
    assert found
    for verb, flags in found:
        assert verb in VERBS, verb
        known = flags_of(verb)
        for flag in flags:
            assert flag == "help" or flag in known or flag.removeprefix("no-") in known, f"{verb} has no --{flag}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_flags_named_in_prose_belong_to_some_verb(page):
    from cyclemimic.cli import VERBS

    known = {flag for verb in VERBS for flag in flags_of(verb)}
    assert set(re.findall(r"`--([\w-]+)", page.read_text())) <= known


def test_paths_of_the_readmes_tree_exist():
    block = re.search(r"<!-- tree -->\n```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block
    folders = []
    for line in block[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        folders = [*folders[:depth], name.rstrip("/")]
        path = ROOT.joinpath(*folders)
        assert path.is_dir() if name.endswith("/") else path.is_file(), path


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        assert "://" in target or (page.parent / target).exists(), target
