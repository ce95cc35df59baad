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
from quant101.calibration import MinMax
from quant101.matmul import (PackedWeights, QuantizedLinear, Verdict, instruction_alone, instruction_set, linear_int8, llm_int8_linear, matmul_int8,
                             pack_weights, quantize_activations, quantize_linear, tile_assembly, unpack_weights, worth_it)
from quant101.steps import QParams, quantize
from quant101.strategies import absmax_qparams, split_matmul, split_outliers
from quant101.symmetry import asymmetric_qparams
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
    assert 4 * tile._PIECE <= MAX_K < 4 * tile._PIECE + 4
    w = np.full((1, MAX_K + 1), -128, np.int8)
    for inputs, dtype in ((MAX_K, np.int32), (MAX_K + 1, np.int64)):
        product = matmul_int8(np.full((1, inputs), 255, np.uint8), pack_weights(w[:, :inputs], 1.0))
        assert product.dtype == dtype and int(product[0, 0]) == -255 * 128 * inputs
    for inputs, dtype in ((2**17 - 1, np.int32), (2**17, np.int64)):  # signed by signed
        codes = np.full((1, inputs), -128, np.int8)
        product = matmul_int8(codes, pack_weights(codes, 1.0))
        assert product.dtype == dtype and int(product[0, 0]) == 2**14 * inputs


def test_more_inputs_than_their_sum_could_hold_are_refused(monkeypatch):
    assert (2**24 - 1) * 128 < 2**31 == 2**24 * 128 and tile.MOST_INPUTS == 2**24 - 1
    with pytest.raises(ValueError, match="codes must have at most 16777215 columns.*got 16777216"):
        pack_weights(np.zeros((0, 2**24), np.int8), 1.0)


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
        za, zw = rng.integers(-300, 300, rows), rng.integers(-300, 300, outputs)
        moved = replace(packed, zero_point=zw)
        whole, shifted = linear_int8(x, packed, bias), linear_int8(x, moved, bias, "asymmetric")
        with monkeypatch.context() as cut:
            cut.setattr(tile, "_parts", lambda *args: parts)
            assert np.array_equal(matmul_int8(a, packed), exact(a, w)) and np.array_equal(linear_int8(x, packed, bias), whole)
            assert np.array_equal(matmul_int8(a, moved, za), plain_product(a, w, za, zw)) and np.array_equal(linear_int8(x, moved, bias, "asymmetric"), shifted)


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


@pytest.mark.parametrize("name, triple, cpu, features, instruction, count", TARGETS, ids=lambda v: str(v)[:20])
def test_zero_points_leave_the_loop_as_it_is(name, triple, cpu, features, instruction, count):
    "They are taken off after the loop over the inputs, in which the sums stay in registers."
    function = ir.Function(module := ir.Module(), ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * len(tile._TILE)), "tile")
    builder = ir.IRBuilder(function.append_basic_block())
    tile._emit_tile(builder, next(i for i in tile.INSTRUCTIONS if i.name == name), True, *function.args, moved=True)
    builder.ret_void()
    loop = inner_loop(tile._compile(str(module), triple, cpu, features))
    found = [line for line in loop if re.search(instruction, line)]
    assert found and len(found) % count == 0 and not any(re.search(r"%rsp|\bsp\b|pmulld|\bmls\b|\bmul\b", line) for line in loop), "\n".join(loop)


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
    with pytest.raises(ValueError, match="at most 16777215"):
        PackedWeights(good.panels, good.sums, good.scale, (5, 2**24))
    for change, said in ((dict(zero_point=0.5), "zero_point must be an integer"), (dict(dtype=np.int16), "dtype must be int8 or uint8"),
                         (dict(group_size=2.0), "group_size must be an integer")):
        with pytest.raises(TypeError, match=said):
            replace(good, **change)
    for change, said in ((dict(zero_point=np.arange(4)), r"zero_point must be one integer or have shape \(5,\)"), (dict(group_size=0), "group_size must be at least 1"),
                         (dict(zero_point=2**33), r"zero_point must lie in -2\*\*32..2\*\*32, got 8589934592"), (dict(group_size=3), "must be a contiguous")):
        with pytest.raises(ValueError, match=said):
            replace(good, **change)


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


def test_asymmetric_codes_next_to_a_tie_are_those_of_the_division(path):
    rng = np.random.default_rng(13)
    for size in (1.0, 255.0, *rng.uniform(1e-30, 1e30, 30), *rng.uniform(0.5, 2, 60)):
        lo, hi = np.float32(-size * rng.uniform(0, 2)), np.float32(size * rng.uniform(0, 2))
        step = (np.float64(hi) - np.float64(lo)) / 255
        zero, scale = int(np.rint(-lo / step)), np.float32(step)
        near = ((np.arange(-zero, 255 - zero) + 0.5) * np.float64(scale)).astype(np.float32)
        for _ in range(rng.integers(0, 4)):
            near = np.nextafter(near, np.float32(rng.choice([-1, 1])) * np.float32(np.inf), dtype=np.float32)
        near = near[(near >= lo) & (near <= hi)]
        x = np.stack([np.full(near.size, lo), np.full(near.size, hi), near], axis=1)  # one in a row, because a tie has its whole row divided
        q = np.clip(np.rint(x / scale) + zero, 0, 255)
        assert np.array_equal(linear_int8(x, pack_weights(np.eye(3, dtype=np.int8), 1.0), None, "asymmetric"), (q - zero).astype(np.float32) * scale)


@pytest.mark.parametrize("ends", [(0, 0), (-1e-45, 0), (0, 1e-45), (-3e-45, 1e-44), (-3.4e38, 3.4e38), (0, 3.4e38), (-3.4e38, 0), (5, 7), (-7, -5), (-0.0, 0.0), (1e-39, 2e-38)])
def test_asymmetric_rows_of_any_size(path, ends):
    x = np.float32([[*ends, *np.linspace(*ends, 20)], np.linspace(-1, 2, 22)])
    q, p = quantize_activations(x, "asymmetric")
    with np.errstate(over="ignore", under="ignore"):
        expected = (q.astype(np.int64) - p.zero_point[:, None]).astype(np.float32) * p.scale[:, None]
    assert np.array_equal(linear_int8(x, pack_weights(np.eye(22, dtype=np.int8), 1.0), None, "asymmetric"), expected)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf], ids=["nan", "-nan", "inf", "-inf"])
@pytest.mark.parametrize("place", [0, 15, 16, 20])
def test_what_is_not_finite_is_found_by_either_rule(path, value, place):
    x = np.ones((3, 21), np.float32)
    x[1, place] = np.copysign(np.float32(np.nan), np.float32(-1)) if str(value) == "nan" and np.signbit(value) else value
    for rule in ("symmetric", "asymmetric"):
        with pytest.raises(ValueError, match="x must be finite in float32, got"):
            linear_int8(x, pack_weights(np.ones((4, 21), np.int8), 1.0), None, rule)


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
    (TypeError, "codes must be int8 or uint8, got float64", pack_weights, [[1.0]], 1.0),
    (TypeError, "codes must be int8 or uint8, got int64", pack_weights, W.astype(np.int64), 1.0),
    (ValueError, r"codes must be a matrix, got shape \(4,\)", pack_weights, W[0], 1.0),
    (ValueError, r"codes must be a matrix, got shape \(\)", pack_weights, W[0, 0], 1.0),
    (ValueError, "codes must lie in qmin..qmax = -8..7, got 9", pack_weights, 9 * W, QParams(1.0, 0, -8, 7)),
    (ValueError, "codes must lie in qmin..qmax = -127..127, got -128", pack_weights, -128 * W, QParams(1.0, 0, -127, 127)),
    (ValueError, "codes must lie in qmin..qmax = 0..255, got -1", pack_weights, -W, QParams(1.0, 0, 0, 255)),
    (ValueError, "codes must lie in qmin..qmax = -128..127, got 200", pack_weights, np.full((3, 4), 200, np.uint8), QParams(1.0)),
    (ValueError, "one per output .axis 0. or one per group of inputs.*got axis 1", pack_weights, W, QParams(np.ones(4), axis=1)),
    (ValueError, "cannot be pulled out of a sum over the inputs, got axis -1", pack_weights, W, QParams(np.ones(4), axis=-1)),
    (ValueError, r"scale must have shape \(3, 2\), one per output and group of 2 inputs, got \(3, 4\)", pack_weights, W, QParams(np.ones((3, 4)), group_size=2)),
    (ValueError, r"scale must be a single number or have shape \(3,\).*got \(4,\)", pack_weights, W, QParams(np.ones(4), axis=0)),
    (ValueError, "scale must be finite and greater than 0, got inf in float32", pack_weights, W, QParams(1e300)),
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
    (TypeError, "zero_point must be an integer, because .* got float64", matmul_int8, W, P, 3.0),
    (TypeError, "zero_point must", matmul_int8, W, P, True),
    (TypeError, "zero_point must", matmul_int8, W, P, None),
    (ValueError, r"zero_point must be one integer or have shape \(3,\), one per row of a, got \(4,\)", matmul_int8, W, P, [1, 2, 3, 4]),
    (ValueError, r"zero_point must be one integer or have shape \(3,\), one per row of a, got \(3, 1\)", matmul_int8, W, P, [[1], [2], [3]]),
    (ValueError, r"zero_point must lie in -2\*\*32..2\*\*32, got -4294967297", matmul_int8, W, P, -2**32 - 1),
    (ValueError, r"zero_point must lie in -2\*\*32..2\*\*32, got 9223372036854775807", matmul_int8, W, P, np.uint64([3, 2**63 - 1, 5])),
    (TypeError, "packed must be PackedWeights", linear_int8, np.ones((2, 4)), W),
    (ValueError, r"x must have 4 features along its last axis.*got shape \(2, 3\)", linear_int8, np.ones((2, 3)), P),
    (ValueError, r"x must have 4 features along its last axis.*got shape \(\)", linear_int8, 1.0, P),
    (TypeError, "x", linear_int8, np.ones((2, 4), complex), P),
    (ValueError, "x must be finite in float32, got nan", linear_int8, [[1, 2, np.nan, 3]], P),
    (ValueError, "x must be finite in float32, got nan", linear_int8, [[1, 2, np.nan, 3]], P, None, "asymmetric"),
    (ValueError, "x must be finite in float32, got inf", linear_int8, [[1, 2, np.inf, 3]], P, None, QParams(1.0)),
    (ValueError, "x must be finite in float32, got -inf", linear_int8, [[1, 2, 3, 4], [1, -np.inf, 1, 1]], P),
    (ValueError, r"bias must have shape \(3,\), one per output, got \(4,\)", linear_int8, np.ones((2, 4)), P, np.ones(4)),
    (ValueError, "bias must be finite in float32, got nan", linear_int8, np.ones((2, 4)), P, [1, np.nan, 1]),
    (ValueError, "activations must be one of symmetric, asymmetric, static, got 'dynamic'", linear_int8, W, P, None, "dynamic"),
    (ValueError, "activations must be one of .* got None", linear_int8, W, P, None, None),
    (ValueError, "qparams must be None unless activations are static, got activations 'symmetric'", linear_int8, W, P, None, "symmetric", QParams(1.0)),
    (ValueError, "qparams must be None unless activations are static, got activations 'asymmetric'", linear_int8, W, P, None, "asymmetric", QParams(1.0)),
    (TypeError, "qparams must be a QParams where activations are static.*got None", linear_int8, W, P, None, "static"),
    (TypeError, "qparams must be a QParams, got float", linear_int8, W, P, None, "static", 0.5),
    (ValueError, "activations must be one of", linear_int8, W, P, None, QParams(1.0), QParams(1.0)),
    (ValueError, r"qparams must have one scale for all and codes of at most 8 bits.* got scale of shape \(3,\), axis 0", linear_int8, W, P, None, QParams(np.ones(3), axis=0)),
    (ValueError, "qparams must have one scale for all and codes of at most 8 bits.*codes 0..65535", linear_int8, W, P, None, QParams(1.0, 0, 0, 65535)),
    (ValueError, "scale must be finite and greater than 0, got inf in float32", linear_int8, W, P, None, QParams(1e300)),
    (ValueError, "x must be a matrix of rows and columns", quantize_activations, np.ones(3)),
    (ValueError, "x must be finite in float32, got nan", llm_int8_linear, [[1, 2, np.nan, 3]], P),
    (ValueError, "x must be finite in float32, got inf", llm_int8_linear, [[1, 2, np.inf, 3]], P),
    (ValueError, "x must be finite in float32, got", llm_int8_linear, [[1, 2, np.inf, 3], [1, 1, np.nan, 1]], P),
    (ValueError, "threshold must be greater than 0, got 0", llm_int8_linear, np.ones((2, 4)), P, 0),
    (ValueError, "threshold must be greater than 0, got nan", llm_int8_linear, np.ones((2, 4)), P, np.nan),
    (TypeError, "threshold must be a real number, got str", llm_int8_linear, np.ones((2, 4)), P, "6"),
    (TypeError, "threshold must be a real number, got bool", llm_int8_linear, np.ones((2, 4)), P, True),
    (ValueError, "w must be a matrix", quantize_linear, np.ones(4)),
    (ValueError, r"w must hold a value.*got shape \(0, 4\)", quantize_linear, np.ones((0, 4))),
    (ValueError, "w must be finite in float32, got inf", quantize_linear, [[1e300]]),
    (ValueError, r"bias must have shape \(3,\)", quantize_linear, np.ones((3, 4)), np.ones(4)),
    (ValueError, "bits must lie in 2..8, got 9", quantize_linear, np.ones((3, 4)), None, 9),
    (TypeError, "calibration something to make one of, got None", quantize_linear, np.ones((3, 4)), None, 8, "static"),
    (ValueError, "qparams must be None unless activations are static", quantize_linear, np.ones((3, 4)), None, 8, "symmetric", None, QParams(1.0)),
    (ValueError, "calibration must be finite, got nan", quantize_linear, np.ones((3, 4)), None, 8, "static", None, [1, np.nan]),
    (ValueError, "calibration must have seen values, got a MinMax that has seen none", quantize_linear, np.ones((3, 4)), None, 8, "static", None, MinMax()),
    (ValueError, "calibration must have seen values", quantize_linear, np.ones((3, 4)), None, 8, "static", None, []),
    (TypeError, "calibration must", quantize_linear, np.ones((3, 4)), None, 8, "static", None, "all"),
    (ValueError, "threshold must be greater than 0", quantize_linear, np.ones((3, 4)), None, 8, "symmetric", 0),
    (TypeError, "packed must be PackedWeights", QuantizedLinear, W),
    (ValueError, "rows must be at least 1, got 0", worth_it, 0, 1, 1),
    (TypeError, "outputs must be an integer, got float", worth_it, 1, 1, 2.0),
]


@pytest.mark.parametrize("error, message, function, args", [(e, m, f, a) for e, m, f, *a in BAD], ids=lambda v: re.sub(r"0x\w+", "", getattr(v, "__name__", str(v)))[:40])
def test_bad_input_is_named(error, message, function, args):
    with pytest.raises(error, match=message):
        function(*args)


# Zero points, groups, many inputs


def plain_product(a, w, zero_point=0, w_zero_point=0):
    "The definition, in Python's integers."
    a, w = np.asarray(a).astype(object), np.asarray(w).astype(object)
    za, zw = (np.asarray(z, object) for z in (zero_point, w_zero_point))
    return (a - (za[:, None] if za.ndim else za)) @ (w - (zw[:, None] if zw.ndim == 1 else zw)).T


def expected_type(a, w, zero_point, w_zero_point):
    "What the docstring says of the type."
    reach = [max(abs(int(end) - int(z)) for end in (np.iinfo(q.dtype).min, np.iinfo(q.dtype).max) for z in np.ravel(zs))
             for q, zs in ((a, zero_point), (w, w_zero_point))]
    return np.int32 if a.shape[1] * reach[0] * reach[1] < 2**31 else np.int64


@settings(deadline=None, max_examples=120)
@given(rows=st.integers(1, 20), inputs=st.integers(1, 70), outputs=st.integers(1, 70), a_type=st.sampled_from([np.int8, np.uint8]),
       w_type=st.sampled_from([np.int8, np.uint8]), name=st.sampled_from(HERE), size=st.sampled_from([0, 1, 128, 300, 10**5, 10**8, 2**32]),
       vectors=st.tuples(st.booleans(), st.booleans()), seed=st.integers(0, 2**32 - 1))
def test_product_less_zero_points_is_exact(rows, inputs, outputs, a_type, w_type, name, size, vectors, seed):
    rng = np.random.default_rng(seed)
    a, w = codes(rng, (rows, inputs), a_type), codes(rng, (outputs, inputs), w_type)
    za, zw = (rng.integers(-limit, limit + 1, shape if vector else ()) for limit, shape, vector in ((size, rows, vectors[0]), (min(size, 2**20), outputs, vectors[1])))
    packed = pack_weights(w, QParams(np.ones(outputs) if vectors[1] else 1.0, 0, *(0, 255) if w_type is np.uint8 else (-128, 127), axis=0 if vectors[1] else None))
    packed = replace(packed, zero_point=zw if vectors[1] else int(zw))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANT101_ISA", name)
        product = matmul_int8(a, packed, za if vectors[0] else int(za))
    assert product.dtype == expected_type(a, w, za, zw) and product.flags.c_contiguous
    assert np.array_equal(product, plain_product(a, w, za, zw)) and np.array_equal(unpack_weights(packed), w) and unpack_weights(packed).dtype == w_type


def test_the_zero_points_of_a_report(path):
    a = np.array([[238, 115, 94], [245, 111, 102], [158, 225, 48]], np.uint8)
    b = np.array([[25, 36, 125], [42, -123, 76], [-81, -86, 35]], np.int8)
    packed = pack_weights(np.ascontiguousarray(b.T), QParams(1.0, -26))
    assert np.array_equal(matmul_int8(a, packed, zero_point=42), (a.astype(int) - 42) @ (b.astype(int) + 26))
    moved = pack_weights((b.T + np.int16(128)).astype(np.uint8), QParams(1.0, 102, 0, 255))
    assert np.array_equal(matmul_int8(a, moved, 42), matmul_int8(a, packed, 42)) and np.array_equal(moved.panels, packed.panels)


def test_uint8_weights_with_zero_point_128_are_int8_ones(path):
    rng = np.random.default_rng(20)
    w, a, x = codes(rng, (40, 50), np.int8), codes(rng, (9, 50), np.uint8), rng.normal(size=(9, 50))
    signed, unsigned = pack_weights(w, 0.5), pack_weights(w.view(np.uint8) ^ 128, QParams(0.5, 128, 0, 255))
    assert np.array_equal(signed.panels, unsigned.panels) and np.array_equal(signed.sums, unsigned.sums)
    assert unsigned.dtype == np.uint8 and unsigned.zero_point == 128 and np.array_equal(unpack_weights(unsigned), w.view(np.uint8) ^ 128)
    assert np.array_equal(matmul_int8(a, signed), matmul_int8(a, unsigned)) and np.array_equal(linear_int8(x, signed), linear_int8(x, unsigned))
    bare = pack_weights(w.view(np.uint8), 1.0)  # without a zero point
    assert np.array_equal(matmul_int8(a, bare), exact(a, w.view(np.uint8)))


@pytest.mark.parametrize("a_type", [np.int8, np.uint8])
@pytest.mark.parametrize("w_zero", [0, 127, -128])
def test_the_widest_layer_that_is_known(path, a_type, w_zero):
    "73,728 inputs, as in Nemotron-4-340B, with the largest codes there are; Python's integers say what comes out."
    inputs, info = 73_728, np.iinfo(a_type)
    for a_code, w_code, zero in ((info.max, -128, 0), (info.min, -128, info.max), (info.max, 127, info.min), (info.min, 127, 3)):
        packed = pack_weights(np.full((3, inputs), w_code, np.int8), QParams(1.0, w_zero))
        product = matmul_int8(np.full((2, inputs), a_code, a_type), packed, zero)
        assert product.tolist() == [[(int(a_code) - int(zero)) * (w_code - w_zero) * inputs] * 3] * 2
        reach = max(info.max - zero, zero - info.min) * max(127 - w_zero, w_zero + 128) * inputs
        assert product.dtype == (np.int32 if reach < 2**31 else np.int64)


def test_where_an_int32_may_overflow_the_sums_take_64_bits():
    "With zero points on both sides the bound is 33,025 inputs; one more, and there are codes whose sum an int32 does not hold."
    bound = (2**31 - 1) // (255 * 255)
    assert bound == 33_025
    for inputs, dtype in ((bound, np.int32), (bound + 1, np.int64)):
        packed = pack_weights(np.full((1, inputs), -128, np.int8), QParams(1.0, 127))
        product = matmul_int8(np.zeros((1, inputs), np.uint8), packed, 255)
        assert product.dtype == dtype and int(product[0, 0]) == 255 * 255 * inputs
    with pytest.raises(ValueError, match="zero_point must be small enough for sums of less than 2..63"):
        matmul_int8(np.zeros((1, 2**15), np.uint8), replace(pack_weights(np.zeros((1, 2**15), np.int8), 1.0), zero_point=2**17), 2**32)


def test_the_type_does_not_depend_on_the_codes_or_on_how_the_zero_point_is_given():
    packed = pack_weights(np.zeros((2, 40_000), np.int8), QParams(1.0, 100))
    for zero_point, dtype in ((0, np.int64), (128, np.int32), (127, np.int32)):
        for given in (zero_point, np.int64(zero_point), np.full(3, zero_point)):
            assert matmul_int8(np.zeros((3, 40_000), np.uint8), packed, given).dtype == dtype


@pytest.mark.parametrize("group_size", [1, 3, 4, 6, 16, 32, 50, 64])
def test_groups_of_inputs(path, group_size):
    rng = np.random.default_rng(group_size)
    rows, inputs, outputs = 9, 50, 37
    groups = -(-inputs // group_size)
    scale, zeros = rng.uniform(0.01, 0.1, (outputs, groups)).astype(np.float32), rng.integers(-9, 9, (outputs, groups))
    w, a = codes(rng, (outputs, inputs), np.int8), codes(rng, (rows, inputs), np.uint8)
    panels, sums = tile.pack_panels(w, group_size)
    packed = PackedWeights(panels, sums, scale, w.shape, zeros, group_size)
    every = np.arange(inputs) // group_size
    assert np.array_equal(matmul_int8(a, packed, 7), plain_product(a, w, 7, zeros[:, every]))
    assert np.array_equal(unpack_weights(packed), w)
    x, bias = rng.normal(size=(rows, inputs)).astype(np.float32), rng.normal(size=outputs).astype(np.float32)
    for activations in ("symmetric", "asymmetric", QParams(0.03, 100, 0, 255)):
        q, p = quantize_activations(x, activations)
        expected = np.zeros((rows, outputs), np.float32)
        for g in range(groups):
            part = every == g
            sums = plain_product(q[:, part], w[:, part], p.zero_point, zeros[:, g])
            expected += sums.astype(np.float32) * np.full((rows, 1), np.reshape(p.scale, (-1, 1)), np.float32) * scale[:, g]
        assert np.array_equal(linear_int8(x, packed, bias, activations), expected + bias)
    real = (w - zeros[:, every]) * scale[:, every].astype(np.float64)
    assert np.array_equal(packed._real(np.arange(inputs)), real.T)
    x[:, [3, 30]] *= 100
    rest = np.where(np.abs(x).max(axis=0) >= 6, np.float32(0), x)
    kept = (x - rest).astype(np.float64) @ real.T
    np.testing.assert_allclose(llm_int8_linear(x, packed), linear_int8(rest, packed) + kept, rtol=1e-6)


def test_groups_come_from_their_qparams():
    rng = np.random.default_rng(21)
    x = rng.normal(size=(6, 64)).astype(np.float32)
    p = absmax_qparams(x, group_size=16)
    packed = pack_weights(quantize(x, p), p)
    assert packed.group_size == 16 and np.array_equal(packed.scale, p.scale) and packed.sums.shape == (32, 4)
    twin = pickle.loads(pickle.dumps(packed))
    assert np.array_equal(linear_int8(x, twin), linear_int8(x, packed)) and twin.nbytes == packed.nbytes
    assert np.abs(linear_int8(x, packed) - x @ x.T).max() < 0.03 * np.abs(x @ x.T).max()


PLACES = {"one": (0.5, {}), "one in a vector": ([0.5], {}), "one in a matrix": ([[0.5]], {}), "per output": (np.arange(1.0, 6), {"axis": 0}),
          "per output from the end": (np.arange(1.0, 6), {"axis": -2}), "per output, dimensions kept": (np.arange(1.0, 6)[:, None], {}),
          "in float16": (np.float16([[1], [2], [3], [4], [5]]), {}), "groups": (np.arange(1.0, 11).reshape(5, 2), {"group_size": 4}),
          "groups by the axis": (np.arange(1.0, 11).reshape(5, 2), {"group_size": 4, "group_axis": 1}),
          "a shorter last group": (np.arange(1.0, 16).reshape(5, 3), {"group_size": 3}), "one group": (np.arange(1.0, 6)[:, None], {"group_size": 50})}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("zeros", ["one", "each"])
def test_weights_take_what_their_qparams_say(place, zeros):
    scale, more = PLACES[place]
    rng = np.random.default_rng(22)
    w, a, x = codes(rng, (5, 8), np.int8), codes(rng, (3, 8), np.int8), rng.normal(size=(3, 8)).astype(np.float32)
    shape = np.shape(scale)
    zero_point = 3 if zeros == "one" else rng.integers(-9, 9, shape)
    p = QParams(scale, zero_point, **more)
    packed, group_size = pack_weights(w, p), more.get("group_size", 8)
    columns = shape[1] if len(shape) == 2 else 1
    full = [np.repeat(np.broadcast_to(np.broadcast_to(v, shape).reshape(-1, columns), (5, columns)), group_size, axis=1)[:, :8] for v in (scale, zero_point)]
    assert packed.scale.dtype == np.float32 and packed.group_size == more.get("group_size")
    assert np.array_equal(matmul_int8(a, packed, 5), plain_product(a, w, 5, full[1]))
    real = (w - full[1]) * np.float64(full[0])
    assert np.array_equal(packed._real(np.arange(8)), real.T) and np.abs(linear_int8(x, packed) - x @ real.T).max() < 0.02 * np.abs(x @ real.T).max()


def test_what_a_qparams_may_hold_and_a_product_may_not():
    w = np.zeros((5, 8), np.int8)
    for p, error, said in ((QParams(1.0, 0.5), TypeError, "zero_point must be an integer, because"), (QParams(0.0), ValueError, "scale must be finite and greater than 0, got 0.0"),
                           (QParams(-1.0), ValueError, "scale must be finite and greater than 0, got -1.0"), (QParams(np.ones((1, 8))), ValueError, "cannot be pulled out of a sum over the inputs, got axis -1"),
                           (QParams(np.ones((2, 8)), group_size=3, group_axis=0), ValueError, "got axis None, group_size 3, group_axis 0"),
                           (QParams(np.ones(8), axis=1), ValueError, "cannot be pulled out of a sum over the inputs, got axis 1")):
        with pytest.raises(error, match=said):
            pack_weights(w, p)
    packed = pack_weights(w, 1.0)
    for p, error, said in ((QParams(1.0, 0.5), TypeError, "zero_point must be an integer"), (QParams(-1.0), ValueError, "scale must be finite and greater than 0, got -1.0")):
        with pytest.raises(error, match=said):
            linear_int8(np.zeros((2, 8)), packed, activations=p)
    far = pack_weights(w, QParams(1.0, -(2**32)))
    assert matmul_int8(np.full((1, 8), -128, np.int8), far, 100).tolist() == [[-228 * 2**32 * 8] * 5]


def test_static_parameters_may_lie_in_a_vector(path):
    rng = np.random.default_rng(31)
    x, packed = rng.normal(size=(4, 20)).astype(np.float32), pack_weights(codes(rng, (9, 20), np.int8), 0.1)
    plain = linear_int8(x, packed, activations=QParams(np.float32(0.02), 30, 0, 255))
    for shape in ((1,), (1, 1)):
        assert np.array_equal(linear_int8(x, packed, activations=QParams(np.full(shape, 0.02, np.float32), np.full(shape, 30), 0, 255)), plain)


# Activations


def plain_rule(x, packed, w, bias, q, scale, zero):
    "The definition of linear_int8 with given codes, in NumPy; the sums in Python's integers."
    sums = plain_product(q, w, zero, packed.zero_point)
    return sums.astype(np.float32) * np.full((len(x), 1), np.reshape(scale, (-1, 1)), np.float32) * packed.scale + np.float32(bias)


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 20), inputs=st.integers(1, 50), outputs=st.integers(1, 70), name=st.sampled_from(HERE),
       size=st.sampled_from([1e-44, 1e-38, 1e-6, 1.0, 1e5, 1e25]), shift=st.sampled_from([0, 1, -3]), w_zero=st.sampled_from([0, 5, "each"]), seed=st.integers(0, 2**32 - 1))
def test_asymmetric_activations_are_their_definition(rows, inputs, outputs, name, size, shift, w_zero, seed):
    rng = np.random.default_rng(seed)
    x = ((rng.standard_normal((rows, inputs)) + shift) * size * (rng.random((rows, 1)) > 0.1)).astype(np.float32)
    w, bias, scale = codes(rng, (outputs, inputs), np.int8), rng.standard_normal(outputs).astype(np.float32), rng.uniform(1e-4, 1, outputs).astype(np.float32)
    packed = replace(pack_weights(w, scale), zero_point=rng.integers(-200, 200, outputs) if w_zero == "each" else w_zero)
    lo, hi = np.minimum(x.min(axis=1), 0).astype(float), np.maximum(x.max(axis=1), 0).astype(float)
    step = np.where(lo == hi, 1.0, (hi - lo) / 255)
    zero = np.where(lo == hi, 0, np.rint(0 - lo / step)).astype(int)
    with np.errstate(under="ignore"):
        x_scale = step.astype(np.float32)
    x_scale = np.where((x_scale < 2.0**-126) & (x_scale < step), np.nextafter(x_scale, np.float32(1)), x_scale)
    q = np.clip(np.rint(x / x_scale[:, None]) + zero[:, None], 0, 255).astype(np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANT101_ISA", name)
        y = linear_int8(x, packed, bias, "asymmetric")
    assert y.dtype == np.float32 and np.array_equal(y, plain_rule(x, packed, w, bias, q, x_scale, zero))
    ours, p = quantize_activations(x, "asymmetric")
    again = asymmetric_qparams(x.min(axis=1), x.max(axis=1), axis=0)
    assert np.array_equal(ours, q) and ours.dtype == np.uint8 and p == again


@pytest.mark.parametrize("p", [QParams(0.05), QParams(np.float32(0.02), 90, 0, 255), QParams(0.3, -3, -8, 7), QParams(np.array(0.1), 7)], ids=str)
def test_static_activations_are_their_definition(path, p):
    rng = np.random.default_rng(23)
    x, w, bias = rng.normal(0, 2, (19, 45)).astype(np.float32), codes(rng, (37, 45), np.int8), rng.normal(size=37).astype(np.float32)
    packed = pack_weights(w, QParams(rng.uniform(0.01, 0.1, 37), rng.integers(-50, 50, 37), axis=0))
    quotient = x / (p.scale if isinstance(p.scale, float) else np.asarray(p.scale))  # in float32, or with float64 scales in that
    q = np.clip(np.rint(quotient.astype(np.float32) if isinstance(p.scale, float) else quotient) + p.zero_point, p.qmin, p.qmax).astype(int)
    expected = plain_rule(x, packed, w, bias, q, np.float32(p.scale), int(np.reshape(p.zero_point, ())))
    for given in (dict(activations="static", qparams=p), dict(activations=p)):
        assert np.array_equal(linear_int8(x, packed, bias, **given), expected)
        assert np.array_equal(llm_int8_linear(x, packed, np.inf, bias, **given), expected)


@pytest.mark.parametrize("activations", ["symmetric", "asymmetric", QParams(0.05, 120, 0, 255)], ids=str)
@pytest.mark.parametrize("layer", [linear_int8, llm_int8_linear])
def test_any_number_of_axes(path, layer, activations):
    rng = np.random.default_rng(24)
    x, packed, bias = rng.normal(0, 3, (2, 3, 5, 40)), pack_weights(codes(rng, (33, 40), np.int8), QParams(0.1, 4)), rng.normal(size=33)
    y = layer(x, packed, bias=bias, activations=activations)
    assert y.shape == (2, 3, 5, 33) and y.flags.c_contiguous and np.array_equal(y.reshape(30, 33), layer(x.reshape(30, 40), packed, bias=bias, activations=activations))
    assert layer(x[0, 0, 0], packed, bias=bias, activations=activations).shape == (33,)
    for shape in ((0, 40), (2, 0, 40), (0, 3, 40)):
        assert layer(np.zeros(shape), packed, bias=bias, activations=activations).shape == (*shape[:-1], 33)
    none = pack_weights(np.zeros((0, 40), np.int8), 1.0)
    assert layer(x, none, activations=activations).shape == (2, 3, 5, 0)
    empty = pack_weights(np.zeros((7, 0), np.int8), 1.0)
    assert np.array_equal(layer(np.zeros((4, 0)), empty, bias=np.arange(7), activations=activations), np.tile(np.arange(7, dtype=np.float32), (4, 1)))


def test_many_inputs_in_a_layer(path):
    rng = np.random.default_rng(25)
    inputs = 140_000
    x, w = rng.choice([1.0, 0.9], (2, inputs)).astype(np.float32), np.full((3, inputs), -128, np.int8)
    w[1], w[2] = 127, codes(rng, inputs, np.int8)
    for zero in (0, 127):
        packed = pack_weights(w, QParams(0.001, zero))
        for activations in ("symmetric", "asymmetric", QParams(1 / 127)):
            q, p = quantize_activations(x, activations)
            sums = (q.astype(np.int64) - np.reshape(p.zero_point, (-1, 1))) @ (w.astype(np.int64) - zero).T
            assert np.abs(sums).max() > 2**31
            expected = sums.astype(np.float32) * np.full((2, 1), np.reshape(p.scale, (-1, 1)), np.float32) * packed.scale
            assert np.array_equal(linear_int8(x, packed, activations=activations), expected)


def test_asymmetric_codes_use_the_range_better():
    rng = np.random.default_rng(26)
    x, w = np.abs(rng.normal(size=(64, 128))).astype(np.float32), rng.normal(size=(32, 128)).astype(np.float32)
    p = absmax_qparams(w, axis=0)
    packed = pack_weights(quantize(w, p), p)
    real = x.astype(np.float64) @ (quantize(w, p) * p.scale[:, None].astype(np.float64)).T
    errors = [np.square(linear_int8(x, packed, activations=rule) - real).sum() for rule in ("symmetric", "asymmetric")]
    assert errors[1] < errors[0] / 3


# A layer that is kept


def by_hand(x, w, bias, bits):
    "The five steps: scales, codes, packing, quantization of the activations, the product."
    w, x = np.float32(w), np.float32(x)
    top = 2 ** (bits - 1) - 1
    scale = np.abs(w).max(axis=1) / np.float32(top)
    q = np.rint(w / scale[:, None]).astype(np.int8)
    return plain_linear(x, q, scale, bias)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_layer_does_the_five_steps(path, bits):
    rng = np.random.default_rng(27)
    x, w, bias = rng.normal(size=(9, 40)), rng.normal(size=(33, 40)), rng.normal(size=33).astype(np.float32)
    layer = QuantizedLinear.from_float(w, bias, bits)
    assert np.array_equal(layer(x), by_hand(x, w, bias, bits)) and layer(x[None]).shape == (1, 9, 33)
    assert np.array_equal(quantize_linear(w, None, bits)(x), by_hand(x, w, np.zeros(33), bits))


def test_a_layer_hands_on_what_it_was_told():
    rng = np.random.default_rng(28)
    x, w, bias = rng.normal(size=(9, 40)), rng.normal(size=(33, 40)), rng.normal(size=33)
    x[:, 5] *= 20
    p, packed = absmax_qparams(np.float32(w), axis=0), QuantizedLinear.from_float(w).packed
    assert np.array_equal(packed.scale, p.scale) and np.array_equal(unpack_weights(packed), quantize(np.float32(w), p))
    assert np.array_equal(QuantizedLinear.from_float(w, bias, activations="asymmetric")(x), linear_int8(x, packed, bias, "asymmetric"))
    assert np.array_equal(QuantizedLinear.from_float(w, bias, threshold=6)(x), llm_int8_linear(x, packed, 6.0, bias))
    static = asymmetric_qparams(float(x.min()), float(x.max()))
    for calibration in (static, MinMax().update(x), x, x.tolist()):
        layer = QuantizedLinear.from_float(w, bias, activations="static", calibration=calibration)
        assert layer.qparams == static and np.array_equal(layer(x), linear_int8(x, packed, bias, static))
    grouped = QuantizedLinear.from_float(w, bias, group_size=8)
    assert grouped.packed.scale.shape == (33, 5) and np.abs(grouped(x) - x @ w.T - bias).max() < 0.05 * np.abs(x @ w.T).max()


def test_a_layer_keeps_what_it_needs_and_nothing_more():
    rng = np.random.default_rng(29)
    w, bias, x = rng.normal(size=(256, 512)).astype(np.float32), rng.normal(size=256).astype(np.float32), rng.normal(size=(3, 512))
    for arguments in ({}, dict(threshold=6.0), dict(activations="asymmetric"), dict(activations="static", calibration=x), dict(group_size=64)):
        layer = QuantizedLinear.from_float(w, bias, **arguments)
        sent = pickle.dumps(layer)
        groups = 8 if "group_size" in arguments else 1
        assert layer.nbytes == w.size + 256 * 4 * (2 * groups + 1) and layer.nbytes <= len(sent) < layer.nbytes + 2000
        for twin in (pickle.loads(sent), copy.deepcopy(layer), replace(layer)):
            assert np.array_equal(twin(x), layer(x)) and repr(twin) == repr(layer)
    before = bias.copy()
    bias[...] = 0
    assert np.array_equal(layer.bias, before) and not any(np.shares_memory(w, part) for part in vars(layer.packed).values() if isinstance(part, np.ndarray))


def test_a_layer_says_what_it_is():
    w = np.ones((96, 384), np.float32)
    said = repr(QuantizedLinear.from_float(w, np.zeros(96), bits=4, activations="asymmetric", threshold=6))
    assert "\n" not in said and said.startswith("QuantizedLinear(384 inputs, 96 outputs; 4 bits, a scale per output; asymmetric activations, outliers from 6 apart;")
    nbytes = 96 * 384 + 96 * 4 * 3
    assert f"{nbytes:,} bytes, {nbytes / (4 * (96 * 384 + 96)):.1%} of float32" in said
    assert "a scale per 64 inputs; symmetric activations; " in repr(QuantizedLinear.from_float(w, group_size=64))


# Whether it is worth it


@pytest.mark.parametrize("floats, integers, said, never", [
    ((4.0, 4.0, 4.0), (1.0, 1.0, 1.0), r"int8 is 4\.00 times as fast; half of 3 rounds say 4\.00 to 4\.00\.\nWorth it for speed", "Not worth|No difference"),
    ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0), r"int8 is 0\.50 times as fast; half of 3 rounds say 0\.50 to 0\.50\.\nNot worth it for speed", "No difference"),
    ((1.0, 1.0, 1.0), (1.0, 0.95, 1.05), "No difference in speed that would count", "orth it"),
    ((9.0, 1.0, 1.0), (1.0, 1.0, 9.0), "No difference in speed that would count", "orth it"),
])
def test_the_words_of_a_verdict_are_those_of_its_numbers(floats, integers, said, never):
    "Times that are made up."
    verdict = Verdict(7, 384, 1536, floats, integers, "portable")
    assert re.search(said, repr(verdict)) and not re.search(never, repr(verdict))
    assert "7 rows through 384 inputs and 1536 outputs" in str(verdict) and "multiplied by portable" in str(verdict)
    low, middle, high = verdict.ratio
    assert low <= middle <= high and verdict.ratio == tuple(np.quantile(np.array(floats) / integers, [0.25, 0.5, 0.75]))
    assert f"float32: {np.median(floats) * 1e3:.3g} ms\n" in str(verdict) and f"included: {np.median(integers) * 1e3:.3g} ms\n" in str(verdict)


def test_a_machine_can_be_asked(monkeypatch):
    seen = []
    monkeypatch.setattr(matmul, "take_turns", lambda calls, seconds: seen.append(([call() for call in calls], seconds)) or [[0.002, 0.003], [0.001, 0.001]])
    verdict = worth_it(3, 40, np.int64(50))
    ((product, layer), seconds), = seen
    assert product.shape == layer.shape == (3, 50) and np.abs(product - layer).max() < 0.05 * np.abs(product).max() and 0 < seconds <= 10
    assert (verdict.rows, verdict.inputs, verdict.outputs, verdict.instruction) == (3, 40, 50, instruction_set())
    assert verdict.float32 == (0.002, 0.003) and verdict.int8 == (0.001, 0.001)


def test_turns_are_taken_until_the_time_is_up(monkeypatch):
    log, clock = [], iter(np.arange(0.0, 1000, 0.01))
    monkeypatch.setattr(tile, "sleep", lambda seconds: log.append(("rest", seconds)))
    monkeypatch.setattr(tile, "perf_counter", lambda: next(clock))
    times = tile.take_turns([lambda: log.append("a"), lambda: log.append("b")], 1.0, 0.05)
    assert log[:2] == ["a", "b"] and log.count(("rest", 0.1)) == sum(map(len, times)) and len(times[0]) == len(times[1]) >= 1
    turns = [entry for entry in log[2:] if entry != ("rest", 0.1)]
    assert turns[0] == "a" and turns[-1] == "b" and {round(t, 9) for t in times[0] + times[1]} == {0.01}
    assert len(tile.take_turns([lambda: None], 0.0, 0.0)[0]) == 1


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


@needs("onnxruntime")
@needs("onnx")
@pytest.mark.parametrize("w_type", [np.int8, np.uint8])
@pytest.mark.parametrize("per_output", [False, True])
def test_product_with_zero_points_is_that_of_onnx_runtime(path, w_type, per_output):
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(30)
    a, w, info = codes(rng, (37, 100), np.uint8), codes(rng, (50, 100), w_type), np.iinfo(w_type)
    a_zero, w_zero = np.uint8(131), rng.integers(info.min, info.max + 1, 50 if per_output else ()).astype(w_type)
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["a", "w", "za", "zw"], ["y"])], "product",
                              [helper.make_tensor_value_info("a", TensorProto.UINT8, a.shape)], [helper.make_tensor_value_info("y", TensorProto.INT32, (37, 50))],
                              [numpy_helper.from_array(np.ascontiguousarray(v), name) for v, name in ((w.T, "w"), (a_zero, "za"), (w_zero, "zw"))])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    p = QParams(np.ones(50) if per_output else 1.0, w_zero.astype(int) if per_output else int(w_zero), int(info.min), int(info.max), axis=0 if per_output else None)
    assert np.array_equal(session.run(None, {"a": a})[0], matmul_int8(a, pack_weights(w, p), int(a_zero)))


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
