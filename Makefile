# quant101: `make book` builds and prints the address of the book, `make test` passes all tests. Both make the environment first.

PYTHON ?= python3
ENV := .venv
ifeq ($(OS),Windows_NT)
  BIN := $(ENV)/Scripts
else
  BIN := $(ENV)/bin
endif
# The environment's extras; `make oracles` asks for more.
EXTRAS ?= test
READY := $(ENV)/ready-$(EXTRAS)
CONSTRAINTS := constraints.txt
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)
BOOK := _build/html/index.html

.PHONY: pages pictures screenshots release pdf epub offline lines anywhere exercises book test oracles serve lab export clean constraints prove record mutants package lowest newest bounds fuzz arm bench

$(READY): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(ENV)
	$(PIP) setuptools
	$(PIP) --no-build-isolation --editable ".[$(EXTRAS)]"
	@touch $@

book: $(READY)
	$(BIN)/jupyter-book build . -W -n --keep-going --quiet
	@$(BIN)/python -c "import pathlib; print('The book:', pathlib.Path('$(BOOK)').resolve().as_uri())"

# Two processes, each with whole files of tests.
test: book
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Every page through axe, light and dark, as the night does it; `make test` takes a few. A quarter of an hour.
pages: export QUANT101_EVERY_PAGE := 1
pages: book
	$(BIN)/python -m pytest tests/test_pages.py

# The tests, with the encoder of the samples and the large libraries that the atlas is compared with.
oracles:
	$(MAKE) test EXTRAS=test,model,oracles

# What share of each chapter's page is lesson, public face and machinery, measured in a browser.
lines: book
	$(BIN)/python tools/lines.py

# The static picture of every explorer, for readers without scripts, drawn from the built book.
pictures: book
	$(BIN)/python tools/draw_explorers.py

# Every page at three widths, light and dark.
screenshots: book
	$(BIN)/python tools/screenshots.py

# The book as one PDF, as an ePub and as an archive that works offline, search included, each with its checksum.
RELEASE := _build/release
release: pdf epub offline
	cd $(RELEASE) && sha256sum quant101.pdf quant101.epub quant101-html.zip > SHA256SUMS

pdf: book
	$(BIN)/jupyter-book build . -W -n --keep-going --quiet --builder custom --custom-builder singlehtml
	$(BIN)/python tools/print_book.py _build/singlehtml $(RELEASE)/quant101.pdf

epub: book
	$(BIN)/jupyter-book build . -n --keep-going --quiet --builder custom --custom-builder epub
	mkdir -p $(RELEASE) && cp _build/epub/*.epub $(RELEASE)/quant101.epub

offline: book
	mkdir -p $(RELEASE) && $(BIN)/python -c "import shutil; shutil.make_archive('$(RELEASE)/quant101-html', 'zip', '_build/html')"

serve: book
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html 8000

lab: $(READY)
	$(BIN)/jupyter lab nbs

# Notebooks to work in, one for each chapter: every exercise with a stub, its check and its hint, without the solution.
exercises: $(READY)
	$(BIN)/python tools/exercises.py

export: $(READY)
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

clean:
	rm -rf _build build dist quant101.egg-info .pytest_cache .hypothesis

# Pins every build and test dependency at what resolves today.
constraints: pyproject.toml
	$(PYTHON) tools/renew_constraints.py

# Every float32 through every format, and the conventions of the atlas, against the libraries; writes quant101/records/proof.json and atlas_proof.json. A quarter of an hour.
prove:
	$(MAKE) $(ENV)/ready-test,oracles EXTRAS=test,oracles
	$(BIN)/python tools/prove.py

# Asks other libraries what the book shows of them, and writes quant101/records/libraries.json. A minute.
record:
	$(MAKE) $(ENV)/ready-test,oracles EXTRAS=test,oracles
	$(BIN)/python tools/record_libraries.py

# Puts known bugs into copies of the package and reports which test kills each. Half an hour.
mutants:
	$(MAKE) $(ENV)/ready-test,oracles EXTRAS=test,oracles
	$(BIN)/python tools/mutants.py

# The tests of the package, without those of this folder's files, of the book and of what the book has recorded of libraries.
package: $(READY)
	$(BIN)/python -m pytest --ignore tests/test_house.py --ignore tests/test_book.py --ignore tests/test_libraries.py

# The same with the lowest versions that pyproject.toml lets in, and with the newest that there are, each in a new environment.
lowest newest: %: _build/%.txt
	rm -rf _build/$@
	$(MAKE) package ENV=_build/$@ CONSTRAINTS=$<

_build/lowest.txt: pyproject.toml
	@mkdir -p $(@D)
	grep -oE '[A-Za-z_-]+>=[0-9.]+' pyproject.toml | sed 's/>=/==/' > $@

_build/newest.txt:
	@mkdir -p $(@D)
	touch $@

# The same with Numba's check of every index.
bounds:
	NUMBA_BOUNDSCHECK=1 $(MAKE) package

# The notebooks and the tests of the chapters, as if on other machines: older processors, one core, busy cores. An hour or two.
anywhere: $(READY)
	$(BIN)/python tools/anywhere.py $(if $(QUICK),--quick)

# Calls every public function with random and with garbage arguments.
CASES ?= 100000
fuzz: $(READY)
	$(BIN)/python tools/fuzz.py --cases $(CASES)

# The tests of formats, steps and the product on an emulated ARM64 processor with ARM's dot product; on Debian. An hour.
# Properties take ten examples there. The one test that wants PyTorch, whose wheel is large, is named as not checked.
ARM := _build/arm/env/bin/python
$(ARM): tools/arm.sh constraints.txt
	PYTHON=$(PYTHON) tools/arm.sh

arm: export PYTHONPATH := $(CURDIR)
arm: export PYTHONPYCACHEPREFIX := $(CURDIR)/_build/arm/pycache
arm: export OMP_WAIT_POLICY := passive
arm: export QUANT101_EXAMPLES := 10
arm: $(ARM)
	$(ARM) -c "import quant101; assert quant101.instruction_set() == 'NEON dot product', quant101.instruction_set()"
	$(ARM) -m pytest -p no:cacheprovider $(patsubst %,tests/test_%.py,flush signalling matmul dtypes steps)

# Races against the peers of the oracles extra and writes quant101/records/bench.json; a peer that is not installed is named there. Half an hour.
bench:
	$(MAKE) $(ENV)/ready-test,oracles EXTRAS=test,oracles
	$(BIN)/python -c "from quant101.bench import main; main('quant101/records/bench.json')"
