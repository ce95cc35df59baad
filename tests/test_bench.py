"""The races: each contestant in a process of its own, in turn, and what is absent or wrong is said."""

import json
import os

import numpy as np
import pytest
from tests_support import ROOT, run

from quant101 import bench
from quant101.bench import Contestant, race, ratios, rate, spread


def sleeper(milliseconds):
    from time import sleep

    return lambda: sleep(milliseconds / 1000)


def who_am_i():
    number, threads = os.getpid(), os.environ["OMP_NUM_THREADS"]

    def call():
        with open(os.environ["QUANT101_TEST_LOG"], "a", encoding="utf8") as log:
            log.write(f"{number} {threads}\n")

    return call


def failing():
    raise ArithmeticError("the product is wrong")


def dying():
    return lambda: os._exit(3)


def test_ratio_is_found_round_by_round():
    results = race({"fast": Contestant(sleeper, (2,)), "slow": Contestant(sleeper, (8,))}, rounds=3, seconds=0.01)
    assert all(len(result["seconds"]) == 3 and result["first"] > 0 for result in results.values())
    ratio = ratios(results, "fast")
    assert set(ratio) == {"slow"} and 2 < ratio["slow"]["median"] < 6
    moods = {"a": {"seconds": [1, 10, 2]}, "b": {"seconds": [2, 20, 4]}, "c": {"absent": "no"}}
    assert ratios(moods, "a") == {"b": {"median": 2, "low": 2, "high": 2}}


def test_every_contestant_has_its_own_process_and_threads(tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("QUANT101_TEST_LOG", str(log))
    before = dict(os.environ)
    race({"a": Contestant(who_am_i), "b": Contestant(who_am_i)}, threads=2, rounds=2, seconds=0.001)
    assert dict(os.environ) == before
    lines = [line.split() for line in log.read_text().splitlines()]
    numbers = [number for number, _ in lines]
    assert len(set(numbers)) == 2 and str(os.getpid()) not in numbers and {threads for _, threads in lines} == {"2"}
    turns = [number for i, number in enumerate(numbers) if i == 0 or numbers[i - 1] != number]
    assert len(turns) == 6, "first calls, and then two rounds in turn"


def test_what_is_absent_or_wrong_is_named():
    results = race({"here": Contestant(sleeper, (1,)), "gone": Contestant(sleeper, (1,), ("no_such_module", "numpy"))}, rounds=1, seconds=0.001)
    assert results["gone"] == {"absent": "no_such_module is not installed"} and "seconds" in results["here"]
    with pytest.raises(RuntimeError, match="bad: ArithmeticError: the product is wrong"):
        race({"bad": Contestant(failing)}, rounds=1)
    with pytest.raises(RuntimeError, match="bad: the process ended with 3"):
        race({"bad": Contestant(dying)}, rounds=1)
    for wrong in (dict(rounds=0), dict(threads=0), dict(seconds=0), dict(seconds=float("nan"))):
        with pytest.raises(ValueError, match="at least 1"):
            race({}, **wrong)


def test_spread_and_rate():
    assert spread([3, 1, 2, 5, 4]) == {"median": 3, "low": 2, "high": 4}
    assert rate(10, [1, 2, 5]) == {"median": 5, "low": 3.5, "high": 7.5}


def test_a_wrong_product_is_not_timed():
    a, w = np.ones((2, 3), np.int8), np.ones((4, 3), np.int8)
    assert (bench._checked(lambda: np.full((2, 4), 3), a, w)() == 3).all()
    with pytest.raises(ArithmeticError):
        bench._checked(lambda: np.full((2, 4), 2), a, w)
    with pytest.raises(ArithmeticError, match="off by 100"):
        bench._close(lambda: np.zeros((2, 4)), a, w)


def test_everybody_computes_the_same(tmp_path, monkeypatch):
    "All peers that are installed, on a small shape; each contestant checks its own result before it is timed."
    calls = bench._FIRST_CALLS["matmul.matmul_int8"]
    monkeypatch.setattr(bench, "_FIRST_CALLS", {"matmul.matmul_int8": calls, "nothing": "quant101.nothing()"})
    results = bench.main(tmp_path / "bench.json", rounds=1, seconds=0.001, shapes=[(5, 64, 32)])
    assert json.loads((tmp_path / "bench.json").read_text()) == json.loads(json.dumps(results))
    assert {(e["task"], e["threads"]) for e in results["events"]} >= {("product", 1), ("linear", 1)}
    for one in results["events"]:
        for name, result in one["contestants"].items():
            assert result.get("absent") or result["operations_per_second"]["median"] > 0, name
        assert (one["of_peak"] is None) == (one["threads"] > 1)
    assert results["copy_bytes_per_second"]["median"] > 1e8
    assert results["first_calls"]["matmul.matmul_int8"]["first"] > results["first_calls"]["matmul.matmul_int8"]["second"]
    assert "nothing" in results["first_calls"]["nothing"]["absent"]


def test_import_is_light_and_apart():
    code = """if True:
        import sys, quant101
        assert "quant101.bench" not in sys.modules
        import quant101.bench
        print([m for m in ("torch", "onnxruntime", "onnx", "matplotlib") if m in sys.modules])"""
    assert run("-c", code).strip() == "[]"


def test_results_of_the_book_are_complete():
    results = json.loads((ROOT / "nbs/data/bench.json").read_text(encoding="utf8"))
    assert {(e["task"], tuple(e["shape"]), e["threads"]) for e in results["events"]} == {
        (task, shape, threads) for task in ("product", "linear") for shape in bench.SHAPES for threads in (1, 2)}
    assert not [name for e in results["events"] for name, r in e["contestants"].items() if "absent" in r]
    assert results["machine"]["processor"] and results["machine"]["versions"]["numba"]
