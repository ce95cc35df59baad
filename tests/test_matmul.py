"""The integer matrix product: exact on every path and at every edge, whatever the number of threads."""

import copy
import os
import pickle
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llvmlite import ir
from tests_support import needs, run

from quant101 import matmul
from quant101.matmul import (PackedWeights, instruction_alone, instruction_set, linear_int8, llm_int8_linear, matmul_int8, pack_weights,
                             tile_assembly, unpack_weights)
from quant101.steps import quantize
from quant101.strategies import absmax_qparams, split_matmul, split_outliers
from quant101.workshop import tile

NAMES = ["AVX-512 VNNI", "AVX-VNNI", "NEON dot product", "portable"]
HERE = [i.name for i in tile.available()]
MAX_K = 65793


@pytest.fixture(params=HERE)
def path(request, monkeypatch):
    "Every path that this machine has, one after the other."
    monkeypatch.setenv("QUANT101_ISA", request.param)
    assert instruction_set() == request.param
    return request.param


def codes(rng, shape, dtype):
    "Random codes in which the extremes are frequent."
    info = np.iinfo(dtype)
    return np.where(rng.random(shape) < 0.3, rng.choice([info.min, info.max], shape),
                    rng.integers(info.min, info.max + 1, shape)).astype(dtype)


def exact(a, w):
    return a.astype(np.int64) @ w.astype(np.int64).T


def plain_linear(x, w, scale, bias=0):
    "The definition of linear_int8 in NumPy, one float32 operation after the other; only whether a scale falls short is judged exactly."
    x = np.asarray(x, np.float32)
    absmax = np.abs(x).max(axis=1, initial=0)
    with np.errstate(under="ignore"):
        x_scale = (absmax / np.float32(127)).astype(np.float32)
    x_scale = np.where((x_scale < 2.0**-126) & (x_scale.astype(float) * 127 < absmax), np.nextafter(x_scale, np.float32(1)), x_scale)
    x_scale = np.where(absmax > 0, x_scale, np.float32(1))
    q = np.rint(x / x_scale[:, None]).astype(np.int8)
    scale = np.broadcast_to(np.float32(scale), len(w))
    return exact(q, w).astype(np.int32).astype(np.float32) * x_scale[:, None] * scale + np.float32(bias)


# The integer product

EDGES = [(1, 1, 1), (1, 3, 1), (8, 4, 32), (7, 5, 31), (9, 7, 33), (2, 4, 64), (3, 8, 32), (16, 1, 65), (65, 129, 95),
         (0, 5, 7), (5, 0, 7), (5, 7, 0), (0, 0, 0), (1, 384, 384), (130, 66, 40), (64, 2, 1), (129, 12, 32)]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("shape", EDGES, ids=str)
def test_product_is_exact_at_every_edge(path, shape, dtype):
    rows, inputs, outputs = shape
    rng = np.random.default_rng(rows * 10_000 + inputs * 100 + outputs)
    a, w = codes(rng, (rows, inputs), dtype), codes(rng, (outputs, inputs), np.int8)
    product = matmul_int8(a, pack_weights(w, 1.0))
    assert product.dtype == np.int32 and product.shape == (rows, outputs) and product.flags.c_contiguous
    assert np.array_equal(product, exact(a, w))


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(0, 40), inputs=st.integers(0, 70), outputs=st.integers(0, 100), signed=st.booleans(),
       name=st.sampled_from(HERE), seed=st.integers(0, 2**32 - 1))
def test_product_is_exact(rows, inputs, outputs, signed, name, seed):
    rng = np.random.default_rng(seed)
    a, w = codes(rng, (rows, inputs), np.int8 if signed else np.uint8), codes(rng, (outputs, inputs), np.int8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANT101_ISA", name)
        assert np.array_equal(matmul_int8(a, pack_weights(w, 1.0)), exact(a, w))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("weight", [-128, 127])
def test_the_largest_sums_fit(path, dtype, weight):
    w = np.full((33, MAX_K), weight, np.int8)
    packed = pack_weights(w, 1.0)
    for value in {np.iinfo(dtype).min, np.iinfo(dtype).max}:
        a = np.full((9, MAX_K), value, dtype)
        assert (matmul_int8(a, packed) == MAX_K * int(value) * weight).all()


def test_the_bound_is_the_largest_that_is_safe():
    assert MAX_K * 255 * 128 <= 2**31 - 1 < 2**31 < (MAX_K + 1) * 255 * 128
    assert matmul._MAX_K == MAX_K
    with pytest.raises(ValueError, match="at most 65793 columns.*got 65794"):
        pack_weights(np.zeros((1, MAX_K + 1), np.int8), 1.0)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_layout_does_not_matter(path, dtype):
    rng = np.random.default_rng(1)
    big, wide = codes(rng, (40, 150), dtype), codes(rng, (80, 150), np.int8)
    a, w = big[::2, 1::3], wide[::-2, 1::3]
    for left, right in ((a, w), (np.asfortranarray(a), np.asfortranarray(w)), (a[::-1], w[:, ::-1])):
        left.setflags(write=False)
        before = left.copy(), right.copy()
        assert np.array_equal(matmul_int8(left, pack_weights(right, 1.0)), exact(left, right))
        assert np.array_equal(left, before[0]) and np.array_equal(right, before[1])


def test_nothing_beyond_the_rows_is_read():
    "The last row ends where a page ends, and the next page must not be touched."
    if sys.platform != "linux":
        pytest.skip("not checked: pages are protected by Linux's mprotect here")
    code = """if True:
        import ctypes, mmap, os, numpy as np
        from quant101.matmul import matmul_int8, pack_weights, linear_int8
        page = mmap.PAGESIZE
        memory = mmap.mmap(-1, 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + page), page, 0) == 0
        for name in %r:
            os.environ["QUANT101_ISA"] = name
            for rows, inputs in ((1, 4), (3, 8), (9, 12), (7, 5), (5, 3)):
                size = rows * inputs
                a = np.frombuffer(memory, np.uint8, size, page - size).reshape(rows, inputs)
                w = np.ones((3, inputs), np.int8)
                assert (matmul_int8(a, pack_weights(w, 1.0)) == 0).all()
                x = np.frombuffer(memory, np.float32, size, page - 4 * size).reshape(rows, inputs)
                assert (linear_int8(x, pack_weights(w, 1.0)) == 0).all()
        print("not read")"""
    assert "not read" in run("-c", code % HERE)


# Threads


@pytest.fixture
def threads():
    before = numba.get_num_threads()
    yield numba.set_num_threads
    numba.set_num_threads(before)


def test_threads_do_not_change_a_bit(path, threads):
    rng = np.random.default_rng(2)
    for rows, inputs, outputs in ((131, 390, 1001), (17, 2000, 1500), (1, 4093, 2001), (3, 4096, 1999), (9, 1000, 3000)):
        assert 2 * max(rows, 4) * inputs * outputs > 5e7, "large enough for threads"
        a, w, x = codes(rng, (rows, inputs), np.int8), codes(rng, (outputs, inputs), np.int8), rng.normal(size=(rows, inputs))
        packed, bias, results = pack_weights(w, rng.uniform(0.01, 0.02, outputs)), rng.normal(size=outputs), []
        for count in sorted({1, 2, numba.config.NUMBA_NUM_THREADS}):
            if count <= numba.config.NUMBA_NUM_THREADS:
                threads(count)
                results.append((matmul_int8(a, packed), linear_int8(x, packed, bias)))
        assert np.array_equal(results[0][0], exact(a, w))
        assert all(np.array_equal(p, results[0][0]) and np.array_equal(y, results[0][1]) for p, y in results)


@pytest.mark.parametrize("parts", [2, 3, 5, 7])
def test_any_number_of_parts_makes_the_whole(parts, monkeypatch):
    "Bands of rows or of panels, more of them than threads, and than there are rows."
    rng = np.random.default_rng(parts)
    for rows, inputs, outputs in ((1, 40, 500), (5, 33, 227), (8, 7, 400), (57, 12, 70), (200, 5, 230)):
        a, w, x = codes(rng, (rows, inputs), np.uint8), codes(rng, (outputs, inputs), np.int8), rng.normal(size=(rows, inputs))
        packed, bias = pack_weights(w, rng.uniform(0.01, 0.02, outputs)), rng.normal(size=outputs)
        whole = linear_int8(x, packed, bias)
        with monkeypatch.context() as cut:
            cut.setattr(tile, "_parts", lambda *args: parts)
            assert np.array_equal(matmul_int8(a, packed), exact(a, w))
            assert np.array_equal(linear_int8(x, packed, bias), whole)


def test_callers_in_several_threads_do_not_disturb_each_other():
    rng = np.random.default_rng(3)
    w = codes(rng, (512, 512), np.int8)
    packed, inputs = pack_weights(w, 1.0), [codes(rng, (128, 512), np.int8) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(5):
            for a, product in zip(inputs, pool.map(lambda a: matmul_int8(a, packed), inputs)):
                assert np.array_equal(product, exact(a, w))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="not checked: this system cannot fork")
def test_a_forked_process_can_multiply():
    code = """if True:
        import os, numpy as np
        from quant101.matmul import matmul_int8, pack_weights
        a, w = np.ones((256, 512), np.int8), np.ones((512, 512), np.int8)
        packed = pack_weights(w, 1.0)
        assert (matmul_int8(a, packed) == 512).all()
        child = os.fork()
        if child == 0:
            os._exit(0 if (matmul_int8(a, packed) == 512).all() else 1)
        assert os.waitpid(child, 0)[1] == 0"""
    run("-W", "ignore", "-c", code, timeout=120)


# Which instruction


def test_environment_chooses(monkeypatch):
    monkeypatch.delenv("QUANT101_ISA", raising=False)
    assert instruction_set() == HERE[0] and set(HERE) <= set(NAMES) and "portable" in HERE
    for name in HERE:
        for spelling in (name, name.lower(), name.upper().replace(" ", "_"), name.replace(" ", "").replace("-", "")):
            monkeypatch.setenv("QUANT101_ISA", spelling)
            assert instruction_set() == name
    monkeypatch.setenv("QUANT101_ISA", "")
    assert instruction_set() == HERE[0]


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(HERE)) + ["avx2", "fast", "-"])
def test_what_this_machine_lacks_is_refused(name, monkeypatch):
    monkeypatch.setenv("QUANT101_ISA", name)
    packed = pack_weights(np.ones((2, 4), np.int8), 1.0)
    for call in (instruction_set, lambda: matmul_int8(np.ones((1, 4), np.int8), packed), lambda: linear_int8([[1.0] * 4], packed)):
        with pytest.raises(ValueError, match=f"QUANT101_ISA.*one of .*portable, got '{name}'"):
            call()


def test_features_follow_numba(monkeypatch):
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "+sse2,+avx2,-avx512vnni")
    assert tile.processor_features() == {"sse2", "avx2", ""}
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "+avxvnni,+avx2")
    assert "avxvnni" in tile.processor_features() and "avx512vnni" not in tile.processor_features()


def on_arm(monkeypatch, platform, answers):
    "Let the chapter think that it runs on an ARM processor whose dot product LLVM does not list; the system `answers` its question."
    system = SimpleNamespace(CDLL=lambda name: SimpleNamespace(getauxval=lambda kind: answers if kind == 16 else 0),
                             windll=SimpleNamespace(kernel32=SimpleNamespace(IsProcessorFeaturePresent=lambda number: int(number == 43) & answers)))
    monkeypatch.setattr(tile, "get_process_triple", lambda: "arm64-apple-macosx" if platform == "darwin" else f"aarch64-unknown-{platform}")
    monkeypatch.setattr(tile, "get_host_cpu_features", lambda: "+neon,-sve")
    monkeypatch.setattr(numba.config, "CPU_FEATURES", None)
    monkeypatch.setattr(tile, "sys", SimpleNamespace(platform=platform, executable=sys.executable))
    monkeypatch.setattr(tile, "ctypes", system)


@pytest.mark.parametrize("platform, answers, found", [("linux", 1 << 20, True), ("linux", -1, True), ("linux", (1 << 20) - 1, False),
                                                      ("win32", 1, True), ("win32", 0, False), ("darwin", 0, True), ("freebsd", 1, False)])
def test_the_system_is_asked_for_the_dot_product_of_arm(monkeypatch, platform, answers, found):
    on_arm(monkeypatch, platform, answers)
    assert tile.processor_features() == {"neon", ""} | ({"dotprod"} if found else set())
    monkeypatch.delenv("QUANT101_ISA", raising=False)
    assert tile.choose.__wrapped__("").name == ("NEON dot product" if found else "portable")
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "+neon")  # the user's word
    assert tile.processor_features() == {"neon", ""}
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "")
    assert tile.processor_features() == {""}


def test_only_arm_is_asked(monkeypatch):
    on_arm(monkeypatch, "linux", -1)
    monkeypatch.setattr(tile, "get_process_triple", lambda: X86)
    assert tile.processor_features() == {"neon", ""}


def test_llvm_may_use_what_it_does_not_list(monkeypatch):
    "The function that holds the tile says for itself what its processor has."
    on_arm(monkeypatch, "linux", 1 << 20)
    instruction = next(i for i in tile.INSTRUCTIONS if i.name == "NEON dot product")
    function = ir.Function(module := ir.Module(), ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * len(tile._TILE)), "tile")
    builder = ir.IRBuilder(function.append_basic_block())
    tile._permit(builder, instruction)
    tile._emit_tile(builder, instruction, False, *function.args)
    builder.ret_void()
    assert '"target-features"="+neon,-sve,+dotprod"' in str(module)
    assert sum("sdot" in line for line in inner_loop(tile._compile(str(module), ARM, "generic", "+neon,-sve"))) == 24


@pytest.mark.parametrize("listed", ["+neon,+dotprod", "+dotprod"])
def test_nothing_is_said_of_what_llvm_lists(monkeypatch, listed):
    on_arm(monkeypatch, "linux", 1 << 20)
    monkeypatch.setattr(numba.config, "CPU_FEATURES", listed)
    function = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), []), "f")
    for instruction in tile.INSTRUCTIONS[2:]:
        tile._permit(ir.IRBuilder(function.append_basic_block()), instruction)
    assert not function.attributes


def inner_loop(assembly):
    "The lines between the last backward jump and its label."
    lines = [line.split("#")[0].split("//")[0].rstrip() for line in assembly.splitlines()]
    labels = {m[1]: i for i, line in enumerate(lines) if (m := re.match(r"(\.?L\w+):", line))}
    jumps = [(labels[m[1]], i) for i, line in enumerate(lines) if (m := re.match(r"\s+(?:j\w+|b\.\w+|b\w+)\s+(\.?L\w+)$", line))
             and labels.get(m[1], i) < i]
    first, last = jumps[-1]
    return lines[first + 1:last + 1]


X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
TARGETS = [("AVX-512 VNNI", X86, "cascadelake", "", r"vpdpbusd\s.*%zmm", 16), ("AVX-512 VNNI", X86, "sapphirerapids", "", r"vpdpbusd\s.*%zmm", 16),
           ("AVX-VNNI", X86, "alderlake", "", r"\{vex\}\s+vpdpbusd\s.*%ymm", 12), ("NEON dot product", ARM, "generic", "+dotprod", r"sdot\s+v\d+\.4s", 24),
           ("NEON dot product", ARM, "neoverse-n1", "", r"sdot\s+v\d+\.4s", 24), ("NEON dot product", "arm64-apple-macosx", "apple-m1", "", r"sdot(\.4s)?\b", 24)]  # older versions of LLVM print no more for Apple


@pytest.mark.parametrize("name, triple, cpu, features, instruction, count", TARGETS, ids=lambda v: str(v)[:20])
def test_tile_is_made_of_its_instruction(name, triple, cpu, features, instruction, count):
    loop = inner_loop(tile_assembly(name, triple, cpu, features))
    found = [line for line in loop if re.search(instruction, line)]
    assert found and len(found) % count == 0, "\n".join(loop)
    assert not any(re.search(r"%rsp|\bsp\b", line) for line in loop), "the sums stay in registers:\n" + "\n".join(loop)
    assert not any("vpdpbusds" in line for line in loop), "the one that saturates is another instruction"


def test_portable_tile_compiles_everywhere():
    haswell = inner_loop(tile_assembly("portable", X86, "haswell"))
    assert sum("vpmaddwd" in line for line in haswell) >= 16
    assert "smull" in tile_assembly("portable", ARM, "cortex-a53")
    tile_assembly("portable", X86, "x86-64")


@pytest.mark.parametrize("machine", [("AVX-512 VNNI", X86), ("AVX-512 VNNI", ARM), ("AVX-VNNI", X86, "haswell"), ("NEON dot product", ARM),
                                     ("portable", X86, "no such"), ("portable", "nowhere"), ("portable", X86, "", "-64bit"), ("portable", X86, "", "garbage,+")], ids=str)
def test_a_machine_that_cannot_is_refused(machine):
    "LLVM ends its process for most of these."
    with pytest.raises(ValueError, match="triple, cpu and features must name a machine that has the instruction, got .*LLVM says"):
        tile_assembly(*machine)


def test_the_tile_of_another_name_or_kind_is_refused():
    with pytest.raises(ValueError, match="name must be one of AVX-512 VNNI, .*, got 'AMX'"):
        tile_assembly("AMX", X86)
    for place, name in enumerate(("name", "triple", "cpu", "features")):
        given = ["portable", X86, "haswell", ""]
        given[place] = [1]
        with pytest.raises(TypeError, match=f"{name} must be a string, got list"):
            tile_assembly(*given)


def test_instruction_alone_counts_and_refuses(path):
    lanes = {i.name: i.rows * 32 for i in tile.INSTRUCTIONS}[path]
    assert instruction_alone(3) == instruction_alone(np.int8(3)) == 3 * lanes * 8 and instruction_alone(0) == 0
    for steps in (-1, 2**63):
        with pytest.raises(ValueError, match=rf"steps must lie in 0\.\.2\*\*63 - 1, got {steps}"):
            instruction_alone(steps)
    for steps in (1.0, True, "1", None):
        with pytest.raises(TypeError, match="steps must be a whole number, got"):
            instruction_alone(steps)


# Packed weights


def test_weights_come_back():
    rng = np.random.default_rng(4)
    for outputs, inputs in ((1, 1), (32, 4), (33, 5), (70, 53), (0, 3), (3, 0)):
        w, scale = codes(rng, (outputs, inputs), np.int8), rng.uniform(0.1, 1, outputs).astype(np.float32)
        packed = pack_weights(w, scale)
        assert packed.shape == (outputs, inputs) and np.array_equal(unpack_weights(packed), w)
        assert np.array_equal(packed.sums[:outputs], w.sum(axis=1)) and not packed.sums[outputs:].any()
        assert np.array_equal(packed.scale, scale) and packed.panels.ctypes.data % 64 == 0
        unpack_weights(packed)[...] = 0  # a copy, that may be written to
        assert np.array_equal(unpack_weights(packed), w)
        chosen = np.arange(inputs)[::2]
        assert np.array_equal(tile.real_weights(packed.panels, packed.scale, chosen), (w * scale[:, None].astype(float)).T[chosen])


def test_weights_are_frozen_and_can_be_sent():
    w, a = np.arange(-60, 60, dtype=np.int8).reshape(12, 10), np.arange(20, dtype=np.uint8).reshape(2, 10)
    packed = pack_weights(w, 0.5)
    with pytest.raises(FrozenInstanceError):
        packed.shape = (1, 1)
    for array in (packed.panels, packed.sums, packed.scale):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    for twin in (pickle.loads(pickle.dumps(packed)), copy.copy(packed), copy.deepcopy(packed), replace(packed)):
        assert np.array_equal(matmul_int8(a, twin), exact(a, w)) and not twin.panels.flags.writeable
    given = np.full(12, 0.5)
    twin = pack_weights(w, given)
    w[...], given[...] = 0, 9
    assert np.array_equal(unpack_weights(twin), unpack_weights(packed)) and (twin.scale == 0.5).all()


def test_packed_weights_refuse_what_does_not_fit():
    good = pack_weights(np.ones((5, 6), np.int8), 1.0)
    for change in (dict(shape=(40, 6)), dict(shape=(5, 60)), dict(scale=np.ones(4, np.float32)), dict(scale=np.ones(5)),
                   dict(sums=good.sums[:5]), dict(panels=good.panels.view(np.uint8)), dict(panels=good.panels[:, :, ::-1])):
        with pytest.raises(ValueError, match="must be a contiguous"):
            replace(good, **change)
    for shape in (3, None, (3.0, 6), ("5", 6), (True, 6), [5, 6]):
        with pytest.raises(TypeError, match="shape must be a tuple of whole numbers, got"):
            replace(good, shape=shape)
    for shape in ((5,), (5, 6, 1), (-5, 6), (5, -6), ()):
        with pytest.raises(ValueError, match=r"shape must be \(outputs, inputs\), neither below 0, got"):
            replace(good, shape=shape)
    with pytest.raises(TypeError, match="panels must be an array, got list"):
        replace(good, panels=[1])
    with pytest.raises(ValueError, match="at most 65793"):
        PackedWeights(np.zeros((1, 20000, 32, 4), np.int8), good.sums, np.ones(5, np.float32), (5, 80000))


# The linear layer


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(0, 20), inputs=st.integers(0, 50), outputs=st.integers(0, 70), name=st.sampled_from(HERE),
       size=st.sampled_from([1e-44, 1e-38, 1e-6, 1.0, 1e5, 1e25]), seed=st.integers(0, 2**32 - 1))
@example(rows=19, inputs=43, outputs=1, name="portable", size=1e-38, seed=123)  # 127 scales miss a largest value by less than float32 shows
def test_linear_is_its_definition(rows, inputs, outputs, name, size, seed):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((rows, inputs)) * size * (rng.random((rows, 1)) > 0.1)).astype(np.float32)
    w, bias = codes(rng, (outputs, inputs), np.int8), rng.standard_normal(outputs).astype(np.float32)
    scale = rng.uniform(1e-4, 1, outputs).astype(np.float32)
    packed = pack_weights(w, scale)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANT101_ISA", name)
        y, with_bias = linear_int8(x, packed), linear_int8(x, packed, bias)
    assert y.dtype == np.float32 and y.shape == (rows, outputs)
    assert np.array_equal(y, plain_linear(x, w, scale)) and np.array_equal(with_bias, plain_linear(x, w, scale, bias))


def test_ties_go_to_even(path):
    x = np.concatenate([[127.0], np.arange(-126.5, 127.5)]).astype(np.float32)[None]
    assert np.array_equal(linear_int8(x, pack_weights(np.eye(x.size, dtype=np.int8), 1.0)), np.rint(x))


def test_codes_next_to_a_tie_are_those_of_the_division(path):
    "The kernel multiplies by the inverse and divides only where that could matter; here it nearly always could."
    rng = np.random.default_rng(11)
    for absmax in (np.float32(1), np.float32(127), *rng.uniform(1e-30, 1e30, 30).astype(np.float32), *rng.uniform(0.5, 2, 60).astype(np.float32)):
        ties = (np.arange(-127, 127) + 0.5) * (absmax / np.float32(127)).astype(np.float64)
        near = ties.astype(np.float32)
        for _ in range(rng.integers(0, 4)):
            near = np.nextafter(near, np.float32(rng.choice([-1, 1])) * np.float32(np.inf), dtype=np.float32)
        x = np.concatenate([[absmax], near[np.abs(near) <= absmax]])[None]
        w = np.eye(x.size, dtype=np.int8)
        assert np.array_equal(linear_int8(x, pack_weights(w, 1.0)), plain_linear(x, w, 1.0))


def test_the_inverse_alone_would_not_do():
    rng = np.random.default_rng(12)
    x = rng.standard_normal((4000, 256)).astype(np.float32)
    scale = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    assert (np.rint(x / scale) != np.rint(x * (np.float32(1) / scale))).any(), "so the kernel has to look for ties"
    codes, scales = tile._as_bytes_and_scales(x, tile.choose("portable"))
    assert np.array_equal(codes.astype(int) - 128, np.rint(x / scale)) and np.array_equal(scales, scale[:, 0])


def test_a_row_of_zeros_has_the_scale_one_and_the_codes_zero(path):
    instruction = tile.current_instruction()
    codes, scales = tile._as_bytes_and_scales(np.zeros((2, 21), np.float32), instruction)
    assert scales.tolist() == [1, 1] and (codes[:, :21] == (0 if instruction.signed else 128)).all()


@pytest.mark.parametrize("dtype", ["f2", ">f4", "f8", ">f8", "i4", "u1"])
def test_linear_takes_real_numbers_of_any_kind(path, dtype):
    rng = np.random.default_rng(6)
    x, w = (rng.standard_normal((6, 20)) * 40 + 100).astype(dtype), codes(rng, (7, 20), np.int8)
    packed = pack_weights(w, 0.1)
    expected = plain_linear(x, w, 0.1)
    for given in (x, np.asfortranarray(x), x.tolist(), np.repeat(x, 2, axis=1)[:, ::2]):
        assert np.array_equal(linear_int8(given, packed), expected)


def test_float64_beyond_float32_is_refused_and_results_may_overflow():
    packed = pack_weights(np.full((1, 2), 127, np.int8), 1e30)
    with pytest.raises(ValueError, match="x must be finite in float32, got inf"):
        linear_int8([[1e200, 1.0]], packed)
    assert linear_int8([[3e38, 3e38]], packed) == np.inf


@needs("quant101.strategies")
def test_linear_uses_the_scales_of_chapter_three():
    rng = np.random.default_rng(7)
    for size in (1e-41, 1.0, 1e30):
        x, w = (rng.standard_t(3, (50, 40)) * size).astype(np.float32), codes(rng, (30, 40), np.int8)
        qparams = absmax_qparams(x, axis=0)
        q = quantize(x, qparams)
        expected = matmul_int8(q, pack_weights(w, 1.0)).astype(np.float32) * qparams.scale[:, None] * np.float32(0.01)
        assert np.array_equal(linear_int8(x, pack_weights(w, 0.01)), expected)
    x, w = load_real()
    qparams = absmax_qparams(w, axis=0)
    packed = pack_weights(quantize(w, qparams), qparams.scale)
    split = split_outliers(x)
    stands_for = split.dequantize().astype(np.float64) @ (unpack_weights(packed) * qparams.scale[:, None].astype(np.float64)).T
    assert np.abs(llm_int8_linear(x, packed) - stands_for).max() < 1e-6 * np.abs(stands_for).max()


def load_real():
    from quant101.samples import load_sample

    return load_sample("ffn_input"), load_sample("ffn_weight")


# Outlier columns


def plain_llm(x, w, scale, threshold, bias):
    x = np.asarray(x, np.float32)
    columns = np.abs(x).max(axis=0, initial=0).astype(np.float64) >= min(threshold, 1e30)
    rest = np.where(columns, np.float32(0), x)
    weights = w[:, columns] * np.broadcast_to(np.float32(scale), len(w))[:, None].astype(np.float64)
    kept = x[:, columns].astype(np.float64) @ weights.T
    return (plain_linear(rest, w, scale, bias) + kept).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.5, 2, 3.0, 6.0, np.float32(4), np.inf, 1e300, 10**400], ids=lambda t: str(t)[:5])
def test_outlier_columns_are_kept(path, threshold):
    rng = np.random.default_rng(8)
    x, w = rng.standard_normal((19, 45)).astype(np.float32), codes(rng, (37, 45), np.int8)
    x[:, [3, 30]] *= 9
    scale, bias = rng.uniform(0.01, 0.1, 37).astype(np.float32), rng.standard_normal(37).astype(np.float32)
    packed = pack_weights(w, scale)
    y = llm_int8_linear(x, packed, threshold, bias)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, plain_llm(x, w, scale, threshold, bias), rtol=3e-7, atol=1e-7)
    if threshold > 1e6:
        assert np.array_equal(y, linear_int8(x, packed, bias))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_column_that_just_reaches_the_threshold_is_kept(path, sign):
    x, w = np.float32([[6 * sign, 0.1], [0.2, 0.01]]), np.array([[0, 127], [127, 0]], np.int8)
    kept, quantized = (llm_int8_linear(x, pack_weights(w, 1.0), threshold) for threshold in (6.0, np.nextafter(np.float32(6), np.float32(7))))
    np.testing.assert_allclose(kept[:, 0], [12.7, 1.27], rtol=1e-6)  # 0.1 and 0.01 with a scale of their own
    assert np.array_equal(quantized, linear_int8(x, pack_weights(w, 1.0))) and abs(quantized[0, 0] - 12.7) > 0.5


def test_outliers_no_longer_coarsen_the_rest():
    x, w = load_real()
    scale = (np.abs(w).max(axis=1) / 127).astype(np.float32)
    packed = pack_weights(np.rint(w / scale[:, None]).astype(np.int8), scale)
    exact_product = x.astype(np.float64) @ w.T
    plain, split = (np.square(y - exact_product).sum() for y in (linear_int8(x, packed), llm_int8_linear(x, packed)))
    assert split < plain / 2


def test_empty_shapes_of_the_linear_layers(path):
    for rows, inputs, outputs in ((0, 5, 7), (5, 0, 7), (5, 7, 0), (0, 0, 0)):
        packed, bias = pack_weights(np.ones((outputs, inputs), np.int8), 1.0), np.arange(outputs, dtype=np.float32)
        for layer in (linear_int8, llm_int8_linear):
            y = layer(np.zeros((rows, inputs)), packed, bias=bias)
            assert y.dtype == np.float32 and np.array_equal(y, np.broadcast_to(bias, (rows, outputs)))


# Bad input

W = np.ones((3, 4), np.int8)
P = pack_weights(W, 1.0)
BAD = [
    (TypeError, "w must be int8, got uint8", pack_weights, W.view(np.uint8), 1.0),
    (TypeError, "w must be int8, got float64", pack_weights, [[1.0]], 1.0),
    (TypeError, "w must be int8, got int64", pack_weights, W.astype(np.int64), 1.0),
    (ValueError, r"w must be a matrix, got shape \(4,\)", pack_weights, W[0], 1.0),
    (ValueError, r"w must be a matrix, got shape \(\)", pack_weights, W[0, 0], 1.0),
    (ValueError, "scale must be finite and greater than 0, got 0.0", pack_weights, W, 0.0),
    (ValueError, "scale must be finite and greater than 0, got -1.0", pack_weights, W, [1, -1, 1]),
    (ValueError, "scale must be finite and greater than 0, got nan", pack_weights, W, np.nan),
    (ValueError, "scale must be finite and greater than 0, got inf in float32", pack_weights, W, 1e300),
    (ValueError, "scale must be finite and greater than 0, got 0.0 in float32", pack_weights, W, 1e-300),
    (ValueError, r"scale must be a single number or have shape \(3,\).*got \(4,\)", pack_weights, W, np.ones(4)),
    (TypeError, "scale", pack_weights, W, "1"),
    (TypeError, "a must be int8 or uint8, got int32", matmul_int8, np.ones((2, 4), np.int32), P),
    (TypeError, "a must be int8 or uint8, got float32", matmul_int8, np.ones((2, 4), np.float32), P),
    (TypeError, "a must", matmul_int8, np.ones((2, 4), bool), P),
    (ValueError, r"a must be a matrix, got shape \(4,\)", matmul_int8, W[0], P),
    (ValueError, r"a must have as many columns.*4, got shape \(2, 5\)", matmul_int8, np.ones((2, 5), np.int8), P),
    (TypeError, "packed must be PackedWeights, as pack_weights returns them, got ndarray", matmul_int8, W, W),
    (TypeError, "packed must be PackedWeights", linear_int8, np.ones((2, 4)), W),
    (ValueError, r"x must be a matrix with 4 columns.*got shape \(2, 3\)", linear_int8, np.ones((2, 3)), P),
    (ValueError, r"x must be a matrix with 4 columns.*got shape \(4,\)", linear_int8, np.ones(4), P),
    (TypeError, "x", linear_int8, np.ones((2, 4), complex), P),
    (ValueError, "x must be finite in float32, got nan", linear_int8, [[1, 2, np.nan, 3]], P),
    (ValueError, "x must be finite in float32, got -inf", linear_int8, [[1, 2, 3, 4], [1, -np.inf, 1, 1]], P),
    (ValueError, r"bias must have shape \(3,\), one per output, got \(4,\)", linear_int8, np.ones((2, 4)), P, np.ones(4)),
    (ValueError, "bias must be finite in float32, got nan", linear_int8, np.ones((2, 4)), P, [1, np.nan, 1]),
    (ValueError, "x must be finite in float32, got nan", llm_int8_linear, [[1, 2, np.nan, 3]], P),
    (ValueError, "x must be finite in float32, got inf", llm_int8_linear, [[1, 2, np.inf, 3]], P),
    (ValueError, "x must be finite in float32, got", llm_int8_linear, [[1, 2, np.inf, 3], [1, 1, np.nan, 1]], P),
    (ValueError, "threshold must be greater than 0, got 0", llm_int8_linear, np.ones((2, 4)), P, 0),
    (ValueError, "threshold must be greater than 0, got nan", llm_int8_linear, np.ones((2, 4)), P, np.nan),
    (TypeError, "threshold must be a real number, got str", llm_int8_linear, np.ones((2, 4)), P, "6"),
    (TypeError, "threshold must be a real number, got bool", llm_int8_linear, np.ones((2, 4)), P, True),
]


@pytest.mark.parametrize("error, message, function, args", [(e, m, f, a) for e, m, f, *a in BAD], ids=lambda v: str(v)[:40])
def test_bad_input_is_named(error, message, function, args):
    with pytest.raises(error, match=message):
        function(*args)


# Against other implementations


@needs("onnxruntime")
@needs("onnx")
@pytest.mark.parametrize("dtype, kind", [(np.uint8, "UINT8"), (np.int8, "INT8")])
def test_product_is_that_of_onnx_runtime(path, dtype, kind):
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(9)
    a, w = codes(rng, (37, 100), dtype), codes(rng, (50, 100), np.int8)
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["a", "w"], ["y"])], "product",
                              [helper.make_tensor_value_info("a", getattr(TensorProto, kind), a.shape)],
                              [helper.make_tensor_value_info("y", TensorProto.INT32, (37, 50))],
                              [numpy_helper.from_array(np.ascontiguousarray(w.T), "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {"a": a})[0], matmul_int8(a, pack_weights(w, 1.0)))


@needs("torch")
def test_product_is_that_of_torch(path):
    import torch

    rng = np.random.default_rng(10)
    a, w = codes(rng, (40, 64), np.int8), codes(rng, (48, 64), np.int8)
    theirs = torch._int_mm(torch.from_numpy(a), torch.from_numpy(w).t()).numpy()
    assert np.array_equal(theirs, matmul_int8(a, pack_weights(w, 1.0)))


# First call


def test_import_compiles_nothing():
    code = """if True:
        import numba.core.compiler as c
        compiled, before = [], c.compile_extra
        c.compile_extra = lambda *args, **kwargs: compiled.append(args[2]) or before(*args, **kwargs)
        import quant101, quant101.matmul as m
        from quant101.workshop import tile
        assert tile._rows_kernel.cache_info().currsize == 0 and compiled == [], compiled
        import numpy as np
        m.matmul_int8(np.ones((1, 1), np.int8), m.pack_weights(np.ones((1, 1), np.int8), 1.0))
        print(len(compiled))"""
    assert int(run("-c", code)) > 0


def test_a_subnormal_scale_of_a_row_is_that_of_absmax_qparams():
    patterns = np.random.default_rng(0).integers(1, int(np.float32(2.0**-118).view(np.int32)), 5000, dtype=np.int32)
    x = patterns.view(np.float32)[:, None]
    qparams = absmax_qparams(x, axis=0)
    expected = quantize(x, qparams).astype(np.float32) * qparams.scale[:, None]
    assert np.array_equal(linear_int8(x, pack_weights(np.ones((1, 1), np.int8), 1.0)), expected)


def test_large_scales_beside_outliers_stay_finite():
    w, x = np.int8([[127, -3], [1, 2]]), np.float32([[7, 0.5], [0, 0.25]])
    packed = pack_weights(w, 3e38)
    with np.errstate(all="raise"):
        y = llm_int8_linear(x, packed)
    assert np.array_equal(y[1], linear_int8(x, packed)[1]) and not np.isnan(y).any()
    assert np.isinf(y[0]).all()  # 7 * 127 * 3e38 and 7 * 3e38 are more than float32 holds


def test_a_row_with_outliers_is_the_same_alone_and_among_others():
    values = np.random.default_rng(0)
    x, w = values.normal(size=(50, 96)).astype(np.float32), values.integers(-127, 128, (40, 96), np.int8)
    x[:, ::3] *= 10.0 ** values.integers(2, 8, 32)
    packed, whole = pack_weights(w, 0.01), llm_int8_linear(x, pack_weights(w, 0.01))
    for row in (0, 7, 49):
        same_columns = np.concatenate([x[row : row + 1], np.where(np.abs(x).max(axis=0) >= 6, np.float32(6), np.float32(0))[None]])
        assert np.array_equal(llm_int8_linear(same_columns, packed)[0], whole[row])


@pytest.mark.parametrize("rows", range(1, 10))
def test_few_rows_take_a_low_tile(path, rows):
    "A tile is no higher than a power of two above the rows, and what it gives is exact."
    instruction = tile.current_instruction()
    low = tile._for_few(instruction, rows)
    assert low.rows <= instruction.rows and (low.rows >= rows or low.rows == instruction.rows) and low.rows < 2 * rows
    assert replace(low, rows=instruction.rows) == instruction


def test_a_signalling_nan_is_refused_without_a_warning():
    x = np.uint64([0x7FF0000000000001]).view(np.float64)[None]
    packed = pack_weights(np.ones((1, 1), np.int8), 1.0)
    with np.errstate(all="raise"):
        for call in (linear_int8, llm_int8_linear):
            with pytest.raises(ValueError, match="^x must be finite"):
                call(x, packed)


def test_what_llvm_lists_under_another_name_is_not_permitted_anew():
    "A processor with VNNI on registers of 512 bits need not have the encoding of AVX-VNNI."
    function = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), []), "f")
    for instruction in tile.INSTRUCTIONS:
        if instruction.feature != "dotprod":
            tile._permit(ir.IRBuilder(function.append_basic_block()), instruction)
    assert not function.attributes
