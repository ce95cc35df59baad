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
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
BOOK := _build/html/index.html



.PHONY: book test oracles serve lab export clean constraints prove mutants fuzz bench
