"""The races: each contestant in a process of its own, in turn, and what is absent or wrong is said."""

import importlib
import inspect
import json
import os

import numpy as np
import pytest
from tests_support import ROOT, run

from quant101 import bench
from quant101.bench import Contestant, race, ratios, rate, spread
from quant101.samples import load_record


def sleeper(milliseconds):
    from time import sleep

    return lambda: sleep(milliseconds / 1000)


def clockwork(seconds):
    "A call that takes `seconds` by the clock of its process, which nothing else moves."
    now = [0.0]
    bench.perf_counter = lambda: now[0]

    def call():
        now[0] += seconds

    return call


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
    results = race({"fast": Contestant(clockwork, (0.25,)), "slow": Contestant(clockwork, (1.0,))}, rounds=3, seconds=0.5)
    assert results == {"fast": {"first": 0.25, "seconds": [0.25] * 3}, "slow": {"first": 1.0, "seconds": [1.0] * 3}}
    assert ratios(results, "fast") == {"slow": {"median": 4, "low": 4, "high": 4}}
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
    assert len(set(numbers[:2])) == 2, "first calls, in any order"
    turns = [number for i, number in enumerate(numbers[2:]) if i == 0 or numbers[i + 1] != number]
    assert len(turns) == 4, "two rounds in turn"


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


SMALL = {"events": {"rounds": 1, "seconds": 0.001, "shapes": [(5, 64, 32)]}, "copy_bytes_per_second": {"rounds": 1, "seconds": 0.001},
         "elements": {"rounds": 1, "seconds": 0.001, "sizes": {1: (2048,)}}, "entropy": {"rounds": 1, "seconds": 0.001, "size": 5000},
         "ladder": {"rounds": 1, "seconds": 0.001}, "extras": {"rounds": 1, "seconds": 0.001, "shapes": [(5, 96, 40)]}}


def test_everybody_computes_the_same(tmp_path, monkeypatch):
    "All peers that are installed, on small arrays; each contestant checks its own result before it is timed."
    calls = bench._FIRST_CALLS["matmul.matmul_int8"]
    monkeypatch.setattr(bench, "_FIRST_CALLS", {"matmul.matmul_int8": calls, "nothing": "q.nothing()"})
    climb = bench.ladder_contestants()
    assert [len(group) for group in climb.values()] == [8 + len(bench.available()) - 1, 9, 7, 3]
    monkeypatch.setattr(bench, "ladder_contestants", lambda: {name: dict([*group.items()][:1]) for name, group in climb.items()})
    results = bench.main(tmp_path / "bench.json", settings=SMALL)
    written = json.loads((tmp_path / "bench.json").read_text())[bench.machine_name()]
    assert set(written) == {"machine", "measured", *bench.PARTS} and len(written["elements"]) == len(bench.TASKS)
    assert {(e["task"], e["threads"]) for e in results["events"]} >= {("product", 1), ("linear", 1)}
    for one in results["events"]:
        for name, result in one["contestants"].items():
            assert result.get("absent") or result["operations_per_second"]["median"] > 0, name
        assert (one["of_peak"] is None) == (one["threads"] > 1)
    assert results["copy_bytes_per_second"]["median"] > 0
    assert set(results["ladder"]) == {"steps", "heights", "rows", "layer"}
    assert [(one["group"], tuple(one["shape"])) for one in results["extras"]] == [("zero point", (5, 96, 40)), ("layer", (5, 96, 40))]
    for one in results["extras"]:
        assert set(one["seconds"]) == set(one["times as long"]) == set(bench.extra_contestants(5, 96, 40)[one["group"]])
        assert [ratio for ratio in one["times as long"].values() if ratio["median"] == 1][0] == {"median": 1, "low": 1, "high": 1}
    cost = results["first_calls"]["matmul.matmul_int8"]
    assert cost["import"] > 0 and cost["first"] > 0 and cost["second"] > 0 and cost["compiled"] == 0
    assert "nothing" in results["first_calls"]["nothing"]["absent"]


def test_a_part_is_measured_again_by_itself(tmp_path, monkeypatch):
    path = tmp_path / "bench.json"
    monkeypatch.setitem(bench.PARTS, "entropy", lambda: {"size": 1})
    monkeypatch.setitem(bench.PARTS, "first_calls", lambda: {"answer": spread([1.23456, 2, 3])})
    bench.main(path, ["first_calls"])
    bench.main(path, ["entropy"])
    written = json.loads(path.read_text())[bench.machine_name()]
    assert written["entropy"] == {"size": 1} and written["first_calls"] == {"answer": {"median": 2, "low": 1.617, "high": 2.5}}
    assert written["machine"] == bench.machine() and '{"median": 2.0, "low": 1.617, "high": 2.5}' in path.read_text()
    with pytest.raises(ValueError, match="only must name parts .* got nothing"):
        bench.main(path, ["nothing"])
    with pytest.raises(ValueError, match="only must name parts"):
        bench.main(path, ["entropy"], {"nothing": {}})
    monkeypatch.setenv("QUANT101_ISA", "portable")
    bench.main(path, ["entropy"])
    here, forced = json.loads(path.read_text()).items()
    assert here == (forced[0].removesuffix(", as portable"), written) and set(forced[1]) == {"machine", "entropy", "measured"}
    assert forced[1]["machine"]["instruction_set"] == "portable"


# Element by element


def test_a_result_that_is_wrong_is_not_timed(monkeypatch):
    expected = np.arange(4.0)
    bench._check(np.tile(expected, 3), expected, 0, 0)
    bench._check(expected + [0, 0, 0, 1], expected, 1, 0.25)
    for wrong in (expected + [0, 0, 0, 1], np.append(expected, expected[::-1]), np.full(4, np.nan)):
        with pytest.raises(ArithmeticError, match="off by"):
            bench._check(wrong, expected, 0, 0)
    with pytest.raises(ArithmeticError, match="off by 1, on average by 0.25"):
        bench._check(expected + [0, 0, 0, 1], expected, 1, 0.2)
    monkeypatch.setattr(bench, "quantize", lambda x, qparams: np.zeros(x.shape, np.int8))
    with pytest.raises(ArithmeticError, match="off by 12"):
        bench._element_work("quantize per tensor", "quant101", 1024)


@pytest.mark.parametrize("task", bench.TASKS)
def test_only_the_size_of_the_results_differs(task, monkeypatch):
    "An array of several blocks has the results of a block, again and again; the check would say if not."
    monkeypatch.setattr(bench, "_BLOCK", 2048)
    bench._values.cache_clear()
    for library in ("quant101", "numpy"):
        if library in ("quant101", *bench.TASKS[task].peers):
            bench._element_work(task, library, 8192)()
    bench._values.cache_clear()


def test_the_expected_codes_are_those_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for task in (one for name, one in bench.TASKS.items() if name.startswith("encode")):
        numbers = bench._numbers(task.fmt)
        x = np.concatenate([numbers, (numbers[1:] + numbers[:-1]) / 2, bench._values(2048).reshape(-1)]).astype(np.float32)
        x = np.concatenate([x, -x])
        dtype = np.float16 if task.dtype == "float16" else getattr(ml_dtypes, task.dtype)
        assert (bench._nearest_codes(x, task.fmt) == x.astype(dtype).view(task.code)).all(), task.dtype


def test_the_limits_move_the_bytes_of_the_task(monkeypatch):
    monkeypatch.setenv("QUANT101_BENCH_THREADS", "2")
    moved = {task: (one.read + one.written) for task, one in bench.TASKS.items()}
    assert moved["quantize per tensor"] == moved["dequantize"] == moved["encode E4M3"] == moved["decode E5M2"] == 5
    assert moved["encode FP16"] == moved["decode BF16"] == 6 and moved["fake_quantize"] == 8 and moved["histogram"] == 4
    for task, one in bench.TASKS.items():
        contestants = bench.element_contestants(task, 4096)
        limits = {name: contestant for name, contestant in contestants.items() if name in bench.LIMITS}
        written = {"copy in place"} if task.endswith(", into out") else {"new copy", "copy in place"}
        assert set(limits) == (written if one.written else {"plain read"})
        assert {limit.args for limit in limits.values()} == {(moved[task] * 4096,)}
    for size in (2**10, 2**23):  # the larger one is shared by two threads
        parts = []
        bench._in_parts(parts.append, size, 2)()
        assert sum(len(range(size)[part]) for part in parts) == size and len(parts) == (1 if size < 2**20 else 2)
    for limit in bench.LIMITS.values():
        limit(2**22)()


def test_what_finds_no_room_or_no_library_is_named(monkeypatch):
    monkeypatch.setattr(bench, "_NEEDS", {"ml_dtypes": ("no_such_module",), "torch": ("no_such_module",), "onnxruntime": ("no_such_module",)})
    available = iter([48 * 1024 + 1, 48 * 2048])
    monkeypatch.setattr(bench, "_available_bytes", lambda: next(available))
    one, other = bench.elementwise(2, 0.001, {1: (1024, 2048)}, ["encode E4M3"])
    assert other == {"threads": 1, "task": "encode E4M3", "size": 2048, "absent": "0.0 GiB of memory are not available"}
    assert one["ratios"] == {} and set(one["shares"]) == {"new copy", "copy in place"}
    assert {name: "absent" in result for name, result in one["nanoseconds"].items()} == {
        "quant101": False, "ml_dtypes": True, "torch": True, "onnxruntime": True, "new copy": False, "copy in place": False}


def test_shares_and_ratios_are_formed_round_by_round(monkeypatch):
    times = {"quant101": [2, 20], "numpy": [3, 30], "plain read": [1, 10]}
    monkeypatch.setattr(bench, "_take_turns", lambda *args: {name: {"seconds": seconds} for name, seconds in times.items()})
    monkeypatch.setattr(bench, "_answer", lambda *args: None)
    monkeypatch.setattr(bench, "element_contestants", lambda *args: dict.fromkeys(times, Contestant(sleeper)))

    class Pipe:
        send = print

    event = bench.element_event(dict.fromkeys(times, (None, Pipe())), "min-max", 1024, 2, 0.1)
    assert event["ratios"]["numpy"]["median"] == 1.5 and event["shares"]["plain read"]["median"] == 0.5
    assert event["nanoseconds"]["numpy"]["high"] == pytest.approx(23.25e9 / 1024)


# Around the product


def test_what_stands_around_a_product_is_formed_round_by_round(monkeypatch):
    monkeypatch.setattr(bench, "race", lambda contestants, *args: {name: {"seconds": [1.0 + i, 4.0 + 4 * i, 2.0]} for i, name in enumerate(contestants)})
    one, other = bench.extras(shapes=[(5, 96, 40)])
    assert one["times as long"]["none"]["median"] == 1 and one["times as long"]["of the activations"] == {"median": 2.0, "low": 1.5, "high": 2.0}
    assert other["group"] == "layer" and other["seconds"]["asymmetric"]["median"] == 2.0


def test_a_layer_that_is_off_is_not_timed(monkeypatch):
    monkeypatch.setattr(bench, "matmul_int8", lambda a, packed, zero_point: np.zeros((5, 40)))
    with pytest.raises(ArithmeticError, match="the product is wrong"):
        bench._product_around("of the rows", 5, 96, 40)
    monkeypatch.setattr(bench, "llm_int8_linear", lambda *args: np.zeros((5, 40)))
    with pytest.raises(ArithmeticError, match="off by 100"):
        bench._layer_around("4 outlier columns", 5, 96, 40)


# Search, first calls


def test_a_wrong_range_is_not_timed():
    x = bench._sample(4000)
    exact = bench.Entropy("tensorrt", bins=2048).exact(x)
    assert bench._near(lambda: exact, "tensorrt", x, 0)() == exact
    with pytest.raises(ArithmeticError, match="off by 1"):
        bench._near(lambda: (exact[0], exact[1] + 1), "tensorrt", x, 2)


def test_every_public_function_is_called_for_the_first_time():
    called = {name.split(",")[0] for name in bench._FIRST_CALLS}
    chapters = ("dtypes", "steps", "strategies", "calibration", "symmetry", "atlas", "matmul")
    modules = [importlib.import_module(f"quant101.{chapter}") for chapter in chapters]
    public = {f"{module.__name__[9:]}.{name}" for module in modules for name in module.__all__ if inspect.isfunction(getattr(module, name))}
    assert public - {"matmul.worth_it"} <= called, "but for the one that measures for ten seconds"
    for name, call in bench._FIRST_CALLS.items():
        assert name == "numba alone" or name.split(",")[0].split(".")[1] in call


def test_import_is_light_and_apart():
    code = """if True:
        import sys, quant101
        assert "quant101.bench" not in sys.modules
        import quant101.bench
        print([m for m in ("torch", "onnxruntime", "onnx", "matplotlib") if m in sys.modules])"""
    assert run("-c", code).strip() == "[]"


def test_results_of_the_book_are_complete():
    records = load_record("bench")
    assert len({record["machine"]["processor"] for record in records.values()}) >= 2
    assert len({record["machine"]["instruction_set"] for record in records.values() if "ladder" in record}) >= 2
    results = records["AMD EPYC, family 25 model 17"]
    assert set(results["ladder"]) == {"steps", "heights", "rows", "layer"}
    assert set(results) == {"machine", "measured", *bench.PARTS} and set(results["measured"]) == set(bench.PARTS)
    assert {(e["task"], tuple(e["shape"]), e["threads"]) for e in results["events"]} == {
        (task, shape, threads) for task in ("product", "linear") for shape in bench.SHAPES for threads in (1, 2)}
    assert not [name for e in results["events"] for name, r in e["contestants"].items() if "absent" in r]
    assert results["machine"]["processor"] and results["machine"]["versions"]["numba"]
    assert {(e["task"], e["threads"], e["size"]) for e in results["elements"]} == {
        (task, threads, size) for task in bench.TASKS for threads, sizes in bench.SIZES.items() for size in sizes}
    for one in (e for e in results["elements"] if "absent" not in e):
        contestants = bench.element_contestants(one["task"], one["size"])
        assert set(one["nanoseconds"]) == set(contestants) and set(one["ratios"]) == set(bench.TASKS[one["task"]].peers)
        assert set(one["shares"]) == set(contestants) & set(bench.LIMITS)
        assert all(time["low"] <= time["median"] <= time["high"] for time in one["nanoseconds"].values())
    assert set(results["entropy"]["seconds"]) == set(bench.entropy_contestants())
    assert not [name for name, time in results["entropy"]["seconds"].items() if "absent" in time and name != "modelopt"]
    assert {(one["group"], tuple(one["shape"])) for one in results["extras"]} == {(group, shape) for group in ("zero point", "layer") for shape in bench.AROUND}
    for one in results["extras"]:
        assert set(one["seconds"]) == set(one["times as long"]) == set(bench.extra_contestants(*one["shape"])[one["group"]])
    assert set(results["first_calls"]) == set(bench._FIRST_CALLS)
    assert not [name for name, cost in results["first_calls"].items() if "absent" in cost or cost["compiled"]]
