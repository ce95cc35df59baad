"""What several test files share."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
MODULES = sorted(p for p in (ROOT / "quant101").rglob("*.py") if p.name not in ("__init__.py", "_modidx.py"))

needs = pytest.mark.needs  # @needs("torch"): see conftest.py
wide_long_double = pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="not checked: a long double is a float64 here, and accepted")


def module_name(path):
    "The name of a module in the package: steps, workshop.arrays."
    return ".".join(path.relative_to(ROOT / "quant101").with_suffix("").parts)


def public_names():
    "What the package offers, as it is imported after `quant101.`: (name, module, its own name); rooms of the workshop keep theirs."
    package = importlib.import_module("quant101")
    for path in MODULES:
        module = importlib.import_module(f"quant101.{module_name(path)}")
        for own in module.__all__ if path.parent == ROOT / "quant101" else ():
            thing = getattr(module, own)
            yield (own if getattr(package, own, None) is thing else f"{path.stem}.{own}"), path.stem, own


def code_cells(notebook):
    "Sources of a notebook's code cells."
    cells = json.loads(Path(notebook).read_text(encoding="utf8"))["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def run(*command, cwd=ROOT, **kwargs):
    "Run a command of this environment and return its output; a failure shows it."
    done = subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, f"{command} failed with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr
