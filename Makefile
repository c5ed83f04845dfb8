# Everything a person needs, from a fresh clone with python3, pip and make.

VENV := .venv
BIN := $(VENV)/bin
SUDO := $(shell test "$$(id -u)" = 0 || echo sudo)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

BROWSER = chromium chromium-browser google-chrome
POSTGRESQL = command -v initdb || ls /usr/lib/postgresql/*/bin/initdb

.PHONY: quickstart test test-thorough test-slow test-database test-browser postgresql browser check format bench docs clean

quickstart: $(VENV)/.installed  ## train on the embedded digits, and name the report
	$(BIN)/goodfit train digits

test: $(VENV)/.developed  ## the tests, in some minutes on two cores
	$(BIN)/pytest

test-thorough: $(VENV)/.developed  ## those that train again and again: every rule of the doctor, every page, every setting; .ci/run has them too
	$(BIN)/pytest -m "thorough and not slow"

test-slow: $(VENV)/.developed postgresql  ## those that take their time: every choice, channel and large model
	$(BIN)/pytest -m slow --timeout 1800

test-database: $(VENV)/.developed postgresql  ## of those, a search in a real PostgreSQL: the tests start its server on loopback, and stop it
	$(BIN)/pytest -m slow tests/test_search_database.py

postgresql:  ## PostgreSQL's programs, as Debian packages them; without them a test says what is missing
	@{ $(POSTGRESQL); } > /dev/null 2>&1 || ! command -v apt-get > /dev/null || \
		{ $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql; }

test-browser: $(VENV)/.developed browser  ## of those, the board in a real browser, which is not to be missing here
	GOODFIT_BROWSER=required $(BIN)/pytest -m slow tests/test_board_browser.py

browser:  ## Chromium, as Debian packages it; without it a test says what is missing
	@command -v $(BROWSER) > /dev/null 2>&1 || ! command -v apt-get > /dev/null || \
		{ $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; }

check: $(VENV)/.developed  ## style, types and floors
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy
	$(BIN)/pytest -n 0 tests/test_floors.py

format: $(VENV)/.developed
	$(BIN)/ruff check --fix src tests bench
	$(BIN)/ruff format src tests bench

bench: $(VENV)/.benched  ## timings as ratios in one run; see bench/README.md for those that need photos
	$(BIN)/python bench/augment.py --with albumentations
	$(BIN)/python bench/step.py
	$(BIN)/python bench/digits.py
	$(BIN)/python bench/peak.py

docs: $(VENV)/.documented  ## the pages that are made, and of all pages the site: site/index.html
	$(BIN)/python docs/make_parts.py
	$(BIN)/python -m docs.make_lecture
	$(BIN)/python -m docs.make_claims
	$(BIN)/python bench/tables.py
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs . site

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.developed: pyproject.toml constraints.txt
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@ $(VENV)/.installed

$(VENV)/.documented: pyproject.toml constraints.txt
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@ $(VENV)/.installed

$(VENV)/.benched: $(VENV)/.developed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[bench]"
	touch $@

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
