# The two commands of the README, and what a developer needs besides.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo docs test test-gpu test-slow fuzz lint format install image

# A further package index: https://download.pytorch.org/whl/cpu has a PyTorch of a tenth of the size,
# for machines without an NVIDIA GPU.
TORCH_INDEX ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# Stamps, so that a second `make` installs nothing.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dev]'
	touch $(VENV)/.runs $@

# What running needs: a third of what developing needs.
$(VENV)/.runs: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

install: $(VENV)/.installed

# A search with 50 trials on synthetic images, in the folder demo/: no GPU, no Docker, no data.
demo: $(VENV)/.runs
	$(BIN)/rml-optimize --study demo --num-trials 50 --output-dir demo

# The documentation as a site, in site/; open site/index.html, it needs no network.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The worker's image, under the name that rml-optimize looks for.
image:
	docker build -t "$$($(PYTHON) hpo/launchers/image.py)" .

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

test: install lint
	$(BIN)/pytest --numprocesses 2 --dist loadfile -m "not slow and not gpu"

# Compares an NVIDIA GPU with the CPU, in about a minute; without one all of it is skipped.
test-gpu: install
	$(BIN)/pytest tests/gpu

test-slow: install
	$(BIN)/pytest -m slow

# Broken and crafted files of every kind, and run folders of hostile workers: ten minutes or so.
fuzz: install
	$(BIN)/python scripts/fuzz.py

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
