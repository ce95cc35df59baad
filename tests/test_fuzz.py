"""No call, however odd, brings out anything but a ValueError, a TypeError or a right answer. See tools/fuzz.py."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from tests_support import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import fuzz  # noqa: E402

FUZZ = str(ROOT / "tools" / "fuzz.py")


def test_every_public_function_can_be_called():
    assert fuzz.unknown() == [], "tools/fuzz.py knows no way to make these arguments"
    public = {name for module in fuzz.modules() for name in module.__all__}
    assert {"encode", "quantize", "QParams", "matmul_int8", "tile_assembly"} <= public


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    "What 4000 cases print, and their digests. In a process of its own, so that a crash is reported with the number of its case."
    folder = tmp_path_factory.mktemp("fuzz")
    command = [sys.executable, FUZZ, "--cases", "4000", "--note", folder / "case", "--digest", folder / "digest"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), f"the process ended with {done.returncode} in case {(folder / 'case').read_text()}:\n{done.stderr}"
    return done.stdout, (folder / "digest").read_text().splitlines()


def test_cases_keep_the_promises(cases):
    printed, _ = cases
    assert ", 0 failures" in printed, printed
    called = {line.split()[0] for line in printed.splitlines() if " value " in line or "Error " in line}
    assert called == set(fuzz.targets())


@pytest.mark.parametrize("setting", ["NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK"])
def test_cases_give_the_same_as_plain_python_and_with_every_index_checked(cases, setting, tmp_path):
    "Value, type and shape of every result; a kernel that leaves its array raises IndexError under the second setting."
    digest = tmp_path / "digest"
    command = [sys.executable, FUZZ, "--cases", "4000", "--digest", digest]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, setting: "1"})
    assert digest.exists(), done.stderr
    apart = [case for case, (a, b) in enumerate(zip(cases[1], digest.read_text().splitlines(), strict=True)) if a != b and b != fuzz.LEFT_OUT]
    assert apart == [], f"{setting}=1 python tools/fuzz.py --show {apart[0]} gives something else than without"


def test_a_case_repeats_itself():
    def words(case):
        name, _, args, kwargs = fuzz.prepare(case)
        return re.sub(r"0x[0-9a-fA-F]+", "", repr((name, [fuzz.snapshot(v) for v in args], {k: fuzz.snapshot(v) for k, v in kwargs.items()})))

    assert [words(case) for case in range(60)] == [words(case) for case in range(60)]


# The fuzzer itself sees what it should


def broken(function, *args):
    try:
        function(*args)
    except fuzz.Broken as error:
        return str(error)
    return ""


def test_a_changed_argument_is_seen():
    base = np.arange(6.0)
    before = fuzz.snapshot(base[::2])
    base[1] = 7  # not even in the view
    assert fuzz.snapshot(base[::2]) != before
    assert fuzz.snapshot([base]) == fuzz.snapshot([base.copy()])


def test_results_that_depend_on_the_layout_are_seen():
    def strides(x):
        return np.array(x.strides[0])

    x = np.arange(8.0)[::2]
    kind, result = fuzz.outcome(strides, [x], {})
    assert "plain copy" in broken(fuzz.check_layout, strides, [x], {}, kind, result)


def test_a_message_without_a_name_is_seen():
    assert broken(fuzz.check_message, ["scale"], ValueError("operands could not be broadcast")) != ""
    assert broken(fuzz.check_message, ["scale"], ValueError("scale must be finite")) == ""


@pytest.mark.parametrize("error", [IndexError("x"), ZeroDivisionError("x"), OverflowError("x")])
def test_other_exceptions_come_through(error):
    def function():
        raise error

    with pytest.raises(type(error)):
        fuzz.outcome(function, [], {})
