"""The examples run as they are, each in a folder of its own, and leave what they promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LEAVES = {
    "01_see_pairs": ("pairs.png", r"\d+ pairs; the first batch shows"),
    "02_latent_actions": ("acted-out.png", r"the most frequent: \[\[\d+, \d+\]"),
    "03_label": ("labels/manifest.json", r"tokenizer_sha256='[0-9a-f]{64}'"),
    "04_act": ("policy/policy.json", r"a black picture +\d+%"),
}


def run(tmp_path, *words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_example_is_here():
    assert {p.stem for p in (REPOSITORY / "examples").glob("*.py")} == set(LEAVES)


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAVES)
def test_an_example(tmp_path, name):
    left, told = LEAVES[name]
    said = run(tmp_path, REPOSITORY / f"examples/{name}.py", tmp_path / "made")
    assert re.search(told, said), said
    assert (tmp_path / "made" / left).stat().st_size > 100
    assert [p.name for p in tmp_path.iterdir()] == ["made"], "nothing is left elsewhere"
    if name == "04_act":
        rates = dict(re.findall(r"^(as it is|a black picture) +(\d+)%", said, re.M))
        assert int(rates["as it is"]) >= 60 and int(rates["a black picture"]) <= int(rates["as it is"]) - 30


def test_the_gpu_benchmark_ends_well_without_one(tmp_path):
    said = run(tmp_path, REPOSITORY / "benchmarks/gpu.py", "--out", tmp_path / "gpu.json", "--device", "cpu")
    assert "failed" not in said and said.count("bf16 autocast") == 3
    assert '"failed"' not in (tmp_path / "gpu.json").read_text()
