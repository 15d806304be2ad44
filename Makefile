# Each target sets up its own .venv first; nothing else needs to be installed than Python >= 3.11.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo app test lint test-oldest embedded clean

help:
	@echo "make demo         draw six pictures, ask about two, say where the files are"
	@echo "make app          the page and the HTTP API on http://127.0.0.1:8000"
	@echo "make test         lint, type-check and test"
	@echo "make lint         lint and type-check"
	@echo "make test-oldest  the tests on the oldest supported torch (2.11)"
	@echo "make embedded     train the model that ships with the package again, best on a GPU (see docs/training.md)"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("janus needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/base: pyproject.toml | $(VENV)/bin/python
	@echo "installing janus and what it needs into $(VENV) (about two minutes, 6 GB) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/dev: pyproject.toml | $(VENV)/bin/python
	@echo "installing janus with the tools for development into $(VENV) (about two minutes, 6 GB) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,train,app]"
	@touch $@ $(VENV)/base $(VENV)/app

$(VENV)/app: pyproject.toml | $(VENV)/bin/python
	@echo "installing janus with what its page needs into $(VENV) (about two minutes, 6 GB) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[app]"
	@touch $@ $(VENV)/base

app: $(VENV)/app
	$(BIN)/python app.py

demo: $(VENV)/base
	@rm -rf out/demo
	$(BIN)/janus generate "a photo of a red car" "a photo of a cat" "a photo of two dogs" "a photo of a clock above a book" \
		"a photo of a banana and an umbrella" "a photo of a pizza left of a cup" --seed 0 -o out/demo
	$(BIN)/janus chat out/demo/a-photo-of-a-cat-0.png "What is in the picture?"
	$(BIN)/janus chat out/demo/a-photo-of-a-banana-and-an-umbrella-0.png "What is in the picture?"
	@echo "The pictures are in out/demo; look at out/demo/sheet.png."

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest

test-oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev,train,app]" "torch==2.11.*" "torchvision==0.26.*"
	.venv-oldest/bin/pytest

embedded: $(VENV)/dev
	for recipe in recipes/embedded/*.yaml; do $(BIN)/janus train $$recipe || exit 1; done

clean:
	rm -rf $(VENV) .venv-oldest out
