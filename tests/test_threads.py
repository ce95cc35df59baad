"""Large arrays are shared among threads: the bits do not depend on how many, and no caller or fork can disturb them."""

import multiprocessing
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from tests_support import run

import quant101 as q
from quant101.workshop import threads

SHAPE = (1500, 1024)  # 6 MB of float32, not a multiple of the threads in every direction


def data():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(SHAPE) * 10.0 ** rng.integers(-3, 4, SHAPE)).astype(np.float32)
    x[::7, ::5] = np.round(x[::7, ::5] * 16) / 16  # ties
    return x


def scales(x, **place):
    return q.absmax_qparams(x, **place)


X = data()
Q = q.quantize(X, scales(X))
CALLS = {
    "encode E4M3": lambda: q.encode(X, q.E4M3),
    "encode FP16": lambda: q.encode(X, q.FP16),
    "encode BF16 up": lambda: q.encode(X, q.BF16, "up"),
    "encode float64": lambda: q.encode(X.astype(np.float64), q.FP16),
    "decode": lambda: q.decode(q.encode(X, q.FP16), q.FP16),
    "quantize tensor": lambda: q.quantize(X, scales(X)),
    "quantize rows": lambda: q.quantize(X, scales(X, axis=0)),
    "quantize columns": lambda: q.quantize(X, scales(X, axis=1)),
    "quantize groups": lambda: q.quantize(X, scales(X, group_size=32)),
    "quantize middle": lambda: q.quantize(X.reshape(500, 3, 1024), scales(X.reshape(500, 3, 1024), axis=1)),
    "quantize int16": lambda: q.quantize(X, scales(X, bits=16)),
    "dequantize": lambda: q.dequantize(Q, scales(X)),
    "dequantize groups": lambda: q.dequantize(Q, scales(X, group_size=64)),
    "fake_quantize": lambda: q.fake_quantize(X, scales(X, axis=0)),
    "absmax": lambda: scales(X).scale,
    "absmax rows": lambda: scales(X, axis=0).scale,
    "absmax columns": lambda: scales(X, axis=1).scale,
    "minmax": lambda: np.array(q.MinMax().update(X).range()),
    "histogram": lambda: q.Percentile().update(X).histogram.counts,
}


@pytest.mark.parametrize("name", CALLS)
def test_bits_do_not_depend_on_the_number_of_threads(name):
    before, results = numba.get_num_threads(), []
    try:
        for number in range(1, before + 1):
            numba.set_num_threads(number)
            results.append(CALLS[name]())
    finally:
        numba.set_num_threads(before)
    for other in results[1:]:
        assert other.dtype == results[0].dtype and other.tobytes() == results[0].tobytes()


def test_large_arrays_are_cut_into_parts(monkeypatch):
    "The parts as such, in this thread, for any number of them: every one of 1 to 7 gives what one gives."
    whole = {name: call() for name, call in CALLS.items()}
    shared = threads._shared.__wrapped__
    monkeypatch.setattr(threads, "_shared", lambda kernel: shared(kernel).py_func)
    for parts in (2, 3, 7):
        for name in ("workshop.threads.parts_for", "workshop.sweep.parts_for", "workshop.counts.parts_for"):
            monkeypatch.setattr(f"quant101.{name}", lambda nbytes, parts=parts: parts if nbytes >= 2**20 else 1)
        for name, call in CALLS.items():
            assert call().tobytes() == whole[name].tobytes(), (parts, name)


def test_large_arrays_equal_numpy():
    scale = np.float32(np.abs(X).max() / np.float32(127))
    assert np.array_equal(Q, np.clip(np.rint(X / scale), -127, 127))
    assert np.array_equal(q.dequantize(Q, scales(X)), Q * scale)
    rows = np.abs(X).max(axis=1) / np.float32(127)
    assert np.array_equal(q.quantize(X, scales(X, axis=0)), np.rint(X / rows[:, None]))
    groups = np.abs(X.reshape(-1, 32)).max(axis=1) / np.float32(127)
    assert np.array_equal(q.quantize(X, scales(X, group_size=32)).reshape(-1, 32), np.rint(X.reshape(-1, 32) / groups[:, None]))
    columns = np.abs(X).max(axis=0) / np.float32(127)
    assert np.array_equal(q.fake_quantize(X, scales(X, axis=1)), np.rint(X / columns) * columns)
    assert q.MinMax().update(X).range() == (X.min(), X.max())
    equal = q.Histogram()
    equal.add(X)
    assert np.array_equal(equal.counts, np.histogram(X, np.arange(-32768, 32769) * equal.width)[0])
    low, high, counts = q.Percentile().update(X).histogram.bins()
    assert counts.sum() == X.size and np.array_equal(counts[high > 0], np.histogram(-X, -np.append(low[high > 0], X.max())[::-1])[0][::-1])


@pytest.mark.parametrize("place", [0, 1_000_000, X.size - 1])
def test_nan_is_found_in_every_part(place):
    x = X.copy()
    x.reshape(-1)[place] = np.nan
    index = tuple(int(i) for i in np.unravel_index(place, x.shape))
    for share in ({}, {"axis": 0}, {"axis": 1}, {"group_size": 32}):
        for call in (q.quantize, q.fake_quantize):
            with pytest.raises(ValueError, match=f"got 1 of them, the first at index {index}".replace("(", r"\(").replace(")", r"\)")):
                call(x, scales(X, **share))
        with pytest.raises(ValueError, match="x must be finite"):
            scales(x, **share)
    with pytest.raises(ValueError, match="batch must be finite, got nan"):
        q.Percentile().update(x)
    with pytest.raises(ValueError, match="x must not hold NaN"):
        q.encode(x, q.FloatFormat("E2M1", 2, 1, specials="none"))


@pytest.mark.parametrize("place", [0, 1_000_000, X.size - 1])
def test_a_code_outside_is_found_in_every_part(place):
    codes = Q.copy()
    codes.reshape(-1)[place] = -128
    for share in ({}, {"axis": 0}, {"axis": 1}, {"group_size": 32}):
        with pytest.raises(ValueError, match=r"q must lie in qmin..qmax = -127..127, got -128"):
            q.dequantize(codes, scales(X, **share))


def test_many_callers_at_once():
    whole = {name: call().tobytes() for name, call in CALLS.items()}
    with ThreadPoolExecutor(4) as pool:
        for name, result in pool.map(lambda name: (name, CALLS[name]()), [*CALLS] * 3):
            assert result.tobytes() == whole[name], name


def in_child(queue):
    queue.put(q.quantize(X, scales(X)).tobytes())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="not checked: this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_threads_that_it_has_not_got():
    assert q.quantize(X, scales(X)).tobytes() == Q.tobytes()  # the threads are running now
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=in_child, args=(queue,), daemon=True)
    child.start()
    try:
        assert queue.get(timeout=60) == Q.tobytes()
    finally:
        child.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="not checked: elsewhere a forked process may start threads of its own")
def test_a_process_that_is_forked_before_the_import_does_not_use_threads_that_it_has_not_got():
    code = """if True:
        import os, numba, numpy as np
        @numba.njit(parallel=True)
        def fill(x):
            for i in numba.prange(x.size):
                x[i] = i
        fill(np.empty(10**6))
        child = os.fork()
        import quant101 as q
        from quant101.workshop import threads
        assert threads.parts_for(2**21) == (2 if child else 1)
        x, w = np.ones(2**21, np.float32), np.ones((512, 512), np.int8)
        assert (q.cast(x, q.FP16) == x).all() and (q.matmul_int8(w, q.pack_weights(w, 1.0)) == 512).all()
        if child:
            assert os.waitpid(child, 0)[1] == 0
        os._exit(0)"""
    run("-W", "ignore", "-c", code, env={**os.environ, "NUMBA_NUM_THREADS": "2"}, timeout=300)


def test_small_arrays_start_no_threads(monkeypatch):
    monkeypatch.setattr(threads, "_shared", None)
    x = X[:32]
    q.decode(q.encode(x, q.E4M3), q.E4M3)
    q.fake_quantize(x, scales(x))
    q.Percentile().update(x)
