# Adversarial Examples, Hands On. `make help` lists the commands.
# Every command works in .venv, which the first one makes from requirements.txt.

PYTHON ?= python3
VENV   ?= .venv
PORT   ?= 8000
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
HTML   := _build/html

.DEFAULT_GOAL := help
.PHONY: help setup book test lab serve notebooks lint clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*##\(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(READY)  ## what the other commands need, in .venv

# One pip call, because pip must see every pin at once. Modules are compiled when first used: most of
# these gigabytes never are. The stamp is written only after it succeeds.
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is missing or older than 3.11: sudo apt-get install python3, or make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "Python's venv module is missing: sudo apt-get install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	@touch $@

# Sphinx repeats no warning for a page it has already read, so a failed build leaves nothing behind.
book: $(READY)  ## build the book
	@$(BIN)/jupyter-book build -W -n --keep-going . || { rm -rf _build/.doctrees $(HTML); exit 1; }
	@echo "The book: file://$(CURDIR)/$(HTML)/index.html"

test: book  ## build the book and run every test
	REQUIRE_BROWSER=1 $(BIN)/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout=300

lab: $(READY)  ## open the lessons in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=notebooks

serve: book  ## serve the book on localhost (PORT=8000)
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory $(HTML) $(PORT)

notebooks: $(READY)  ## execute the lessons again and save their outputs
	$(BIN)/python book/execute.py

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove what was built, but not .venv
	rm -rf _build build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
