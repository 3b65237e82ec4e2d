# Adversarial Examples, Hands On. `make help` lists the commands.
# Every command works in .venv, which the first one makes from requirements.txt.

PYTHON ?= python3
VENV   ?= .venv
PORT   ?= 8000
ROUNDS ?= 10
WORKERS ?= 2
BIN    := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
TOOLS  := build/tools
READY  := $(VENV)/.ready
SYSTEM := book/_tools/system.py
HTML   := _build/html

# Without compiled modules at hand each of a hundred processes would compile torch again, for seconds.
unexport PYTHONDONTWRITEBYTECODE

# Where the system has no npm, pip brings one.
ifneq ($(OS),Windows_NT)
export PATH := $(PATH):$(abspath $(BIN))
endif

.DEFAULT_GOAL := help
.PHONY: help setup book test units long coverage faults soak flakes scoreboard bench test-colab lab serve \
  notebooks new-lesson readme lint links lighthouse dependencies dist print-packages pdf clean

##@ Set up

help:  ## this list
	@awk -F ':.*## *' '/^##@/ { print "\n" substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## what the other commands need, in .venv (CPU=1: PyTorch without CUDA, 6 GB less)

# A version from here, as 2.15.0+cpu, is also the one that requirements.txt pins.
CPU_INDEX := https://download.pytorch.org/whl/cpu

# One pip call, because pip must see every pin at once. Modules are compiled when first used: most of
# these gigabytes never are. The stamp is written only after it succeeds.
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is missing or older than 3.11: sudo apt-get install python3, or make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) $(SYSTEM) venv
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifdef CPU
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --retries 1 --timeout 15 \
	  --index-url $(CPU_INDEX) $$(grep -oE '^torch(vision)?==[0-9.]+' requirements.txt) 2> /dev/null || { \
	  echo "PyTorch without CUDA could not be fetched from $(CPU_INDEX): try again, or leave out CPU=1."; exit 1; }
endif
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	@touch $@

clean:  ## remove what was built, but not .venv
	rm -rf _build build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov

##@ Read

# Sphinx repeats no warning for a page it has already read, so a failed build leaves nothing behind.
book: $(READY)  ## build the book
	@$(BIN)/python $(SYSTEM) npm
	@$(BIN)/jupyter-book build -W -n --keep-going . || { rm -rf _build/.doctrees $(HTML); exit 1; }
	@echo "The book: file://$(CURDIR)/$(HTML)/index.html"

serve: book  ## serve the book on localhost (PORT=8000)
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory $(HTML) $(PORT)

lab: $(READY)  ## open lesson 1 in JupyterLab, with the other lessons beside it
	$(BIN)/jupyter lab $(firstword $(sort $(wildcard notebooks/*.ipynb)))

# What `make pdf` runs, as Debian and Ubuntu pack it.
PRINT := latexmk texlive-xetex texlive-fonts-recommended fonts-freefont-otf

print-packages:  ## the system's packages that `make pdf` needs
	@echo $(PRINT)

# A sign without a glyph would be a hole in the text, and TeX only notes it in its log.
pdf: $(READY)  ## the book as one PDF, in dist (needs xelatex and latexmk)
	@{ xelatex --version && latexmk --version; } > /dev/null 2>&1 || { \
	  echo "xelatex or latexmk is missing: sudo apt-get install --no-install-recommends $(PRINT)"; exit 1; }
	LATEXMKOPTS="-halt-on-error -quiet" $(BIN)/jupyter-book build -W -n --keep-going --builder pdflatex .
	@! grep -a "Missing character" _build/latex/*.log
	mkdir -p dist && cp _build/latex/*.pdf dist/

##@ Test

# The clock only ends what hangs: tests/explorers.py limits the processor time of a lesson.
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout=1800 --nbval-kernel-startup-timeout=600
REPORTS := build/reports

# Side by side, one core each: faster than one after the other on all cores. The book is built beside
# the lessons, which begin: each is a long piece, and what is short fills the end. What asks the built
# book comes next. What reads the clock while a page answers runs alone. In CI, where nothing may be
# left out, the libraries that the book compares advlib with are fetched as well.
test: $(READY)  ## build the book and run every test
	@$(BIN)/python $(SYSTEM) npm chromium firefox
	@rm -rf $(REPORTS) && mkdir -p $(REPORTS)
	@OMP_NUM_THREADS=1 $(MAKE) --no-print-directory $(if $(CI),build/peers/.ready) book > $(REPORTS)/book.log 2>&1 & building=$$!; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest notebooks tests --ignore=tests/pages --ignore=tests/book \
	  -n $(WORKERS) --dist loadscope --no-loadscope-reorder $(NBVAL) --junitxml=$(REPORTS)/package.xml; first=$$?; \
	wait $$building || { cat $(REPORTS)/book.log; exit 1; }; tail -n 1 $(REPORTS)/book.log; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/book tests/pages -m "not clock" -n $(WORKERS) \
	  --dist loadgroup --junitxml=$(REPORTS)/pages.xml; second=$$?; \
	$(BIN)/python -m pytest tests/pages -m clock --junitxml=$(REPORTS)/clock.xml; third=$$?; \
	$(BIN)/python -m tests.summary $(REPORTS); exit $$((first | second | third))

units: $(READY)  ## the tests of the package alone: no book, no browser, no lesson
	$(BIN)/python -m pytest tests --ignore=tests/pages

lint: $(READY)  ## style, types, and the rights of the workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/zizmor --offline --quiet .github

long: $(READY)  ## the property tests with 2,000 new cases each, slow properties with fewer
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest tests --ignore=tests/pages -m hypothesis -n $(WORKERS)

coverage: $(READY)  ## which lines and branches of advlib the tests reach; at least 95 %
	$(BIN)/python -m pytest tests --ignore=tests/pages --cov --cov-report=term-missing:skip-covered --cov-fail-under=95

faults: $(READY)  ## put faults into a copy of advlib, one at a time: would the tests notice?
	$(BIN)/python -m tests.faults

soak: $(READY)  ## audit 100,000 signs, killed in the middle: equal counts, flat memory?
	$(BIN)/python -m tests.soak

flakes: $(READY)  ## execute every lesson ten times (ROUNDS=10): does a stored output ever change?
	for round in $$(seq $(ROUNDS)); do echo "Round $$round of $(ROUNDS)"; $(BIN)/python -m pytest notebooks -q $(NBVAL) || exit 1; done

test-colab: $(READY)  ## run every lesson with the versions that Colab has, in build/colab
	$(BIN)/python -m tests.colab

links: $(READY)  ## look up every address that the book links to (needs the network)
	$(BIN)/jupyter-book build --builder linkcheck .

##@ Write

notebooks: $(READY)  ## execute the lessons again and save their outputs
	$(BIN)/python book/_tools/execute.py

new-lesson: $(READY)  ## begin a lesson: make new-lesson NAME=15-a-name TITLE="What it finds"
	$(BIN)/python book/_tools/new_lesson.py "$(NAME)" "$(TITLE)"

readme: $(READY)  ## list the lessons in the README, with links to Colab for this repository
	$(BIN)/python book/_tools/readme.py

##@ Measure

scoreboard: $(READY)  ## measure what papers published, and write the page
	$(BIN)/python book/_tools/scoreboard.py

# Beside the package, never in it: without their dependencies, torch and numpy stay those of the book.
build/peers/.ready: benchmarks/requirements.txt $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target build/peers -r benchmarks/requirements.txt
	@touch $@

bench: build/peers/.ready  ## time the attacks beside other libraries and a bare loop
	$(BIN)/python -m benchmarks

# The last version that runs on Node.js 18 and 20.
build/lighthouse/.ready:
	@npm --version > /dev/null 2>&1 || { echo "npm is missing: sudo apt-get install npm"; exit 1; }
	npm install --prefix build/lighthouse --ignore-scripts --no-audit --no-fund --silent lighthouse@12.8.2
	@touch $@

lighthouse: book build/lighthouse/.ready  ## how fast and how accessible three pages are, by Lighthouse
	$(BIN)/python book/_tools/lighthouse.py build/lighthouse/node_modules/lighthouse/cli/index.js

##@ Release

# Tools that only a release needs live in a place of their own.
$(TOOLS)/.ready:
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/$(notdir $(BIN))/python -m pip install --quiet pip-audit==2.10.1 twine==7.0.0
	@touch $@

dependencies: $(TOOLS)/.ready  ## known faults of what requirements.txt pins (needs the network)
	grep -v '^-e' requirements.txt > build/pins.txt
	$(TOOLS)/$(notdir $(BIN))/pip-audit --requirement build/pins.txt

dist: book $(TOOLS)/.ready  ## wheel, sdist and the book as a zip, each tried out, in dist
	$(BIN)/python book/_tools/release.py $(TOOLS)/$(notdir $(BIN))/twine
