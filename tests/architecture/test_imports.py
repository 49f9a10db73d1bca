"""What may import what, what the sources must not hold, and what every module must have."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SOURCES = sorted((REPOSITORY / "src/cyclemimic").rglob("*.py"))
NOT_OURS = {
    ".git",
    ".venv",
    ".venv-robot",
    "runs",
    "__pycache__",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".import_linter_cache",
}


def module_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def below(*packages: str) -> list[str]:
    names = [module_of(path) for path in SOURCES]
    return [n for n in names if any(n == p or n.startswith(f"{p}.") for p in packages)]


def loaded_by(modules: list[str], before: str = "") -> set[str]:
    """The top-level packages that a fresh interpreter holds after importing `modules`."""
    code = f"{before}\nimport importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
    code += "print(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(done.stdout.split())


LIGHT = below("cyclemimic.types", "cyclemimic.errors", "cyclemimic.randomness", "cyclemimic.embodiment")


def test_the_light_install_needs_numpy_alone():
    assert len(LIGHT) > 4
    loaded = loaded_by([*LIGHT, "cyclemimic.worlds.drawn"])
    heavy = {"torch", "transformers", "peft", "safetensors", "av", "PIL", "pyarrow", "mujoco", "tyro", "matplotlib"}
    assert "numpy" in loaded and not loaded & heavy


def test_a_world_needs_no_torch():
    loaded = loaded_by(below("cyclemimic.worlds"))
    assert "mujoco" in loaded and not loaded & {"torch", "transformers", "peft", "av", "tyro"}


def test_a_training_step_needs_no_video_world_or_command_line():
    steps = [
        "cyclemimic.train.stage2_pretrain",
        "cyclemimic.train.stage3_finetune",
        "cyclemimic.train.stage1_tokenizer",
    ]
    loaded = loaded_by([*below("cyclemimic.tokenizer", "cyclemimic.policy", "cyclemimic.nn"), *steps])
    assert "torch" in loaded and not loaded & {"av", "mujoco", "tyro"}


NO_NETWORK = """
import socket
def refuse(*words, **more):
    raise OSError(f"the network was asked for: {words}")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = refuse
socket.getaddrinfo = socket.gethostbyname = refuse
"""


def test_no_import_asks_for_the_network():
    modules = below("cyclemimic")
    assert len(modules) == len(SOURCES) > 50
    assert "cyclemimic" in loaded_by(modules, before=NO_NETWORK)


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Every call with the dotted name of what is called."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def forbidden(tree: ast.AST) -> list[str]:
    """Ways to run what a file says: pickles, and text as code."""
    found = []
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [
            n for n in names if n.partition(".")[0] in ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
        ]
    for name, call in calls(tree):
        if name in ("eval", "exec", "compile", "__import__", "torch.load", "torch.save", "os.system", "yaml.load"):
            found.append(name)
        for keyword in call.keywords:
            is_false = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg == "allow_pickle" and not is_false:
                found.append("allow_pickle")
            if keyword.arg == "shell" and not is_false:
                found.append("shell")
        if name in ("np.load", "numpy.load") and "allow_pickle" not in {k.arg for k in call.keywords}:
            found.append(f"{name} that leaves allow_pickle to the version")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=[module_of(p) for p in SOURCES])
def test_nothing_in_a_file_is_run_as_code(path):
    assert forbidden(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(p)",
        "np.load(p, allow_pickle=True)",
        "np.load(p)",
        "eval(s)",
    ],
)
def test_the_scan_would_find(text):
    assert forbidden(ast.parse(text))


def test_no_file_names_a_folder_of_somebodys_machine():
    private = re.compile(r"(?<![\w.~:}-])/(home|root|Users|work|mnt)/[\w.-]+|[A-Z]:\\\\?Users")
    assert private.search("open('/" + "home/me/x')") and private.search("see /" + "work/x")
    assert not private.search("a/home/x")
    files = [p for p in REPOSITORY.rglob("*") if p.is_file() and not NOT_OURS & set(p.relative_to(REPOSITORY).parts)]
    files = [p for p in files if ".egg-info" not in str(p) and p.stat().st_size < 1 << 20]
    assert len(files) > 100
    guilty = []
    for path in files:
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        guilty += [f"{path.relative_to(REPOSITORY)}: {found[0]}" for found in private.finditer(text)]
    assert guilty == []


VAGUE = {"utils", "util", "common", "misc", "helpers", "helper", "base", "core", "manager", "tools", "lib", "stuff"}


@pytest.mark.parametrize("path", SOURCES, ids=[module_of(p) for p in SOURCES])
def test_a_module_says_what_it_is_for(path):
    tree = ast.parse(path.read_text())
    said = ast.get_docstring(tree)
    assert said and len(said) > 20, "a module docstring"
    assert not VAGUE & set(module_of(path).split("."))
    if path.name != "__init__.py":
        assert len(tree.body) > 1, "an empty module"


def test_folders_of_modules_are_packages():
    folders = {path.parent for path in SOURCES}
    assert [f for f in folders if not (f / "__init__.py").exists()] == []
