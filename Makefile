# The two commands of the README are `make demo` and `make test`; each sets up what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Passed to pip when it installs torch: make setup TORCH_ARGS="--index-url https://..."
TORCH_ARGS ?=
TORCH_PIN := $(shell grep '^torch==' constraints.txt)
STAMP := $(VENV)/.ready
# What a robot's computer has: the light install and the simulated arms, no torch.
ROBOT_VENV ?= .venv-robot
ROBOT_STAMP := $(ROBOT_VENV)/.ready

.PHONY: setup robot demo test check bench bench-gpu fuzz clean
setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("CycleMimic needs Python >= 3.11, this is " + sys.version.split()[0] + "; try make setup PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH_ARGS) "$(TORCH_PIN)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

robot: $(ROBOT_STAMP)

$(ROBOT_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(ROBOT_VENV)
	$(ROBOT_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[arms]'
	touch $(ROBOT_STAMP)

demo: setup robot
	$(BIN)/cyclemimic demo --run runs/demo

test: setup robot
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python benchmarks/run.py --out benchmarks/results/latest-cpu.json

bench-gpu: setup
	$(BIN)/python benchmarks/gpu.py --out benchmarks/results/latest-gpu.json

fuzz: setup
	$(BIN)/python benchmarks/fuzz.py --out benchmarks/results/fuzz.json

clean:
	rm -rf $(VENV) $(ROBOT_VENV) runs .pytest_cache .mypy_cache .ruff_cache
