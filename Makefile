# Two commands: `make demo` and `make test`.  Both set up .venv first; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.set-up

# Notebooks are stripped when they are staged: .gitattributes names the filter, `make setup` installs it.
STRIP := --keep-id --extra-keys "metadata.papermill metadata.language_info.version"

# Without byte code every import of the stack takes two to three times as long.
unexport PYTHONDONTWRITEBYTECODE
export WSIBENCH_REAL_DATA

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-browser test-slow lint bench lab clean

help: ## list what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

setup: $(SETUP) ## make .venv with everything in it (needs the package index)

$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wsibench needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 demo")'
	@echo "setting up $(VENV): half a minute when the packages are near, a few where they are not"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'
	@git config filter.nbstripout.clean '$(BIN)/nbstripout $(STRIP)' 2>/dev/null && git config filter.nbstripout.smudge cat || true
	@touch $@

demo: $(SETUP) ## run the study `demo`: seven notebooks, figures, report, leaderboard
	@$(BIN)/wsibench run demo

test: $(SETUP) ## the fast tests, the notebooks among them
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test-browser: $(SETUP) ## the notebooks in JupyterLab and the report, in Debian's chromium
	@$(BIN)/python -m pytest -m browser

test-slow: $(SETUP) ## everything that takes minutes: other seeds, full-size models, browser
	@$(BIN)/python -m pytest -m 'slow or browser'

lint: $(SETUP) ## ruff, types, import order of the folders, stripped notebooks
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/nbstripout --verify $(STRIP) notebooks/*.ipynb

bench: $(SETUP) ## print measured ratios, one script after another
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

lab: $(SETUP) ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks

clean: ## remove .venv, caches and what the demo left; never another study's files
	git clean -fdXq -- data/demo figures/demo
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
