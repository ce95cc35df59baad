"""The atlas: every convention equals its library bit for bit, and an explanation names the rule at work."""

import dataclasses
import json
from dataclasses import replace
from fractions import Fraction

import atlas_oracles as lib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_support import ROOT, needs

from quant101 import QParams, absmax_qparams, atlas
from quant101.atlas import (BITSANDBYTES, GGML, GGML_Q4_0, GGML_X86, MODELOPT, ONNX, ORT, ORT_BIAS, ORT_BLOCK, ORT_BLOCK_ASYMMETRIC, ORT_DYNAMIC,
                            ORT_REDUCED, ORT_SYMMETRIC, TFLITE, TFLITE_BIAS, TFLITE_WEIGHT, TFLITE_XNNPACK, TORCH, TORCH_FAKE, TORCH_INT32, TORCH_OBSERVER, TORCH_OBSERVER_SYMMETRIC,
                            TORCH_PER_CHANNEL, TORCH_REDUCED, TORCH_REDUCED_SYMMETRIC, TORCH_WEIGHT, Convention, dequantize_as, explain, identify,
                            qparams_as, quantize_as)
from quant101.workshop import conventions

NAMED = [v for v in vars(atlas).values() if isinstance(v, Convention)]


def params(scale, zero_point, dtype, ndim=2):
    "QParams of a type of codes, with scales and zero points that NumPy would broadcast."
    ends = conventions.CODES[np.dtype(dtype).name if not isinstance(dtype, str) else dtype]
    if np.size(scale) == np.size(zero_point) == 1:
        return QParams(scale, int(np.reshape(zero_point, ())), *ends) if np.ndim(scale) == 0 else QParams(np.reshape(scale, ()), int(np.reshape(zero_point, ())), *ends)
    scale, zero_point = np.broadcast_arrays(scale, zero_point)
    return QParams(scale, zero_point, *ends, axis=-1 if scale.ndim == 1 else None)


def codes_as(x, scale, zero_point, convention, dtype="int8"):
    return quantize_as(x, params(scale, zero_point, dtype), convention)


def range_as(lo, hi, convention, dtype="int8"):
    "Scale and zero point in the shape of the ends."
    p = qparams_as(lo, hi, convention, dtype, axis=0 if np.ndim(lo) == 1 else None)
    return p.scale, p.zero_point


def explained(x, scale, zero_point, a, b, dtype="int8"):
    return explain(x, a, b, params(scale, zero_point, dtype))


def assert_same(ours, theirs, x, scale, zero_point):
    "Compare codes and show the first inputs at which they differ."
    bad = np.flatnonzero(ours.astype(np.int64) != theirs.astype(np.int64))
    first = [(x[i].item().hex(), int(ours[i]), int(theirs[i])) for i in bad[:3]]
    assert not bad.size, f"{bad.size} of {x.size} differ for scale {scale!r}, zero point {zero_point}: {first}"


# From data to codes: each convention against its library


@needs("onnxruntime")
@needs("onnx")
@pytest.mark.parametrize("dtype", ONNX.dtypes)
def test_ort_codes(dtype):
    for scale, zero_point, x in lib.cases(dtype, seed=1):
        assert_same(codes_as(x, scale, zero_point, ORT, dtype), lib.ort_quantize(x, scale, zero_point, dtype), x, scale, zero_point)


@needs("onnx")
@pytest.mark.parametrize("dtype", ["int4", "uint4", "int8", "uint8", "int16", "uint16"])
def test_onnx_codes_by_its_own_evaluator(dtype):
    for scale, zero_point, x in lib.cases(dtype, seed=2, count=4):
        with np.errstate(all="ignore"):
            x = x[np.abs(x / scale) < 2.0**31]
        assert_same(codes_as(x, scale, zero_point, ONNX, dtype), lib.onnx_reference(x, scale, zero_point, dtype), x, scale, zero_point)


def test_onnx_codes_by_exact_arithmetic():
    rng = np.random.default_rng(3)
    for scale, zero_point in ((0.1, 3), (1.5e-3, 128), (7.0, 255)):
        x = lib.ties(rng, scale, zero_point, 0, 255, 300)
        for value, code in zip(x, codes_as(x, scale, zero_point, ONNX, "uint8")):
            exact = Fraction(float(value)) / Fraction(float(np.float32(scale)))
            quotient = Fraction(float(np.float32(float(exact))))  # rounded twice: harmless from 53 to 24 bits
            assert code == min(max(round(quotient) + zero_point, 0), 255)


@needs("torch")
@pytest.mark.parametrize("dtype, convention", [("int8", TORCH), ("uint8", TORCH), ("int8", TORCH_OBSERVER), ("int32", TORCH_INT32)])
def test_torch_codes(dtype, convention):
    for scale, zero_point, x in lib.cases(dtype, seed=4):
        assert_same(codes_as(x, scale, zero_point, convention, dtype), lib.torch_quantize(x, scale, zero_point, dtype), x, scale, zero_point)


@needs("torch")
@pytest.mark.parametrize("dtype", TORCH_PER_CHANNEL.dtypes)
def test_torch_per_channel_codes(dtype):
    for scale, zero_point, x in lib.cases(dtype, seed=5):
        assert_same(codes_as(x, scale, zero_point, TORCH_PER_CHANNEL, dtype), lib.torch_per_channel(x, scale, zero_point, dtype), x, scale, zero_point)


@needs("torch")
def test_the_place_in_an_array_does_not_matter_to_torch():
    x = lib.ties(np.random.default_rng(6), 0.1, 3, 0, 255, 64)
    alone = np.concatenate([lib.torch_quantize(x[i : i + 1], 0.1, 3, "uint8") for i in range(64)])
    assert_same(lib.torch_quantize(x, 0.1, 3, "uint8"), alone, x, 0.1, 3)


@needs("torch")
@pytest.mark.parametrize("dtype", TORCH_FAKE.dtypes)
def test_torch_fake_values(dtype):
    for scale, zero_point, x in lib.cases(dtype, seed=7):
        codes = codes_as(x, scale, zero_point, TORCH_FAKE, dtype).astype(np.int64)
        with np.errstate(over="ignore"):
            ours = (codes - zero_point).astype(np.float32) * np.float32(scale)
        theirs = lib.torch_fake(x, scale, zero_point, dtype)
        assert np.array_equal(ours, theirs), (scale, zero_point, x[ours != theirs][:3])


@needs("torch")
@pytest.mark.parametrize("dtype, bits", [("int4", 4), ("int8", 8), ("int16", 16), ("uint8", 8)])
def test_modelopt_codes_by_its_lines(dtype, bits):
    rng, unsigned = np.random.default_rng(8), dtype == "uint8"
    for amax in [*np.exp(rng.uniform(-20, 30, 40)), 2.0**-24, 2.0**-24 * 1.0000001, 1e-40, 0.0, 1e38, 3e38]:
        amax = np.float32(amax)
        scale, zero_point = range_as(0 if unsigned else -amax, amax, MODELOPT, dtype)
        x = lib.hard_inputs(rng, max(scale, 1e-45), 0, dtype, 1000)
        theirs = lib.modelopt_lines(np.abs(x) if unsigned else x, amax, bits, unsigned)
        x, theirs = (np.abs(x) if unsigned else x)[~np.isnan(theirs)], theirs[~np.isnan(theirs)]
        assert_same(codes_as(x, scale, zero_point, MODELOPT, dtype), theirs, x, scale, zero_point)


def test_modelopt_codes_that_modelopt_gave():
    recorded = json.loads((ROOT / "tests/atlas_modelopt.json").read_text(encoding="utf8"))
    for case in recorded["cases"]:
        amax, x = np.float32(float.fromhex(case["amax"])), np.float32([float.fromhex(v) for v in case["x"]])
        scale, _ = range_as(-amax, amax, MODELOPT, case["dtype"])
        assert codes_as(x, scale, 0, MODELOPT, case["dtype"]).tolist() == case["codes"]


@needs("gguf")
def test_ggml_q8_0_codes_and_scales():
    rng = np.random.default_rng(9)
    x = np.concatenate([lib.hard_rows(rng, (3000, 32), 127), np.zeros((3, 32), np.float32), np.full((1, 32), -2.5, np.float32)])
    scale, zero_point = range_as(x.min(1, keepdims=True), x.max(1, keepdims=True), GGML)
    codes, stored = lib.gguf_q8_0(x)
    assert_same(codes_as(x, scale, zero_point, GGML).ravel(), codes.ravel(), x.ravel(), "blocks", 0)
    with np.errstate(over="ignore"):
        assert np.array_equal(scale[:, 0].astype(np.float16), stored)


def first_extreme(x):
    "The signed value of the largest |x| of every row, the first if several: what Q4_0 needs to know."
    return np.take_along_axis(x, np.abs(x).argmax(1, keepdims=True), 1)


@needs("gguf")
def test_ggml_q4_0_codes_and_scales():
    rng = np.random.default_rng(10)
    x = np.concatenate([lib.hard_rows(rng, (3000, 32), 8), np.zeros((3, 32), np.float32), np.full((1, 32), -2.5, np.float32)])
    x[:50, 3], x[:50, 7] = 1e12, -1e12  # both signs at the extreme
    extreme = first_extreme(x)
    scale, zero_point = range_as(extreme, extreme, GGML_Q4_0, "uint4")
    codes, stored = lib.gguf_q4_0(x)
    assert_same(codes_as(x, scale, zero_point, GGML_Q4_0, "uint4").ravel(), codes.ravel(), x.ravel(), "blocks", 8)
    with np.errstate(over="ignore"):
        assert np.array_equal(scale[:, 0].astype(np.float16), stored)


@needs("gguf")
@pytest.mark.parametrize("convention, dtype, library", [(GGML, "int8", lib.gguf_q8_0), (GGML_Q4_0, "uint4", lib.gguf_q4_0)])
def test_ggml_subnormal_blocks_wrap(convention, dtype, library):
    x = (np.random.default_rng(11).normal(size=(64, 32)) * 1e-39).astype(np.float32)
    extreme = first_extreme(x)
    scale, zero_point = range_as(extreme, extreme, convention, dtype)
    assert np.array_equal(codes_as(x, scale, zero_point, convention, dtype), library(x)[0])


@needs("torch")
@needs("bitsandbytes")
def test_bitsandbytes_codes():
    rng = np.random.default_rng(12)
    x = np.concatenate([lib.hard_rows(rng, (2000, 48), 127), np.zeros((3, 48), np.float32)])
    x[-1, 5] = 1e-39
    scale, zero_point = range_as(x.min(1, keepdims=True), x.max(1, keepdims=True), BITSANDBYTES)
    codes, absmax = lib.bitsandbytes_rows(x)
    assert_same(codes_as(x, scale, zero_point, BITSANDBYTES).ravel(), codes.ravel(), x.ravel(), "rows", 0)
    assert np.array_equal(np.float32(scale[:, 0] * 127), absmax)


# What the libraries do where they have no code to give: the chapter tells it, and this is where it comes from


@needs("gguf")
@needs("torch")
@needs("bitsandbytes")
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_one_value_that_is_not_finite_empties_its_row(value):
    x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    x[1, 4] = value
    for codes in (lib.bitsandbytes_rows(x)[0], lib.gguf_q8_0(x)[0]):
        assert codes[0].any() and not codes[1].any()
    with pytest.raises(ValueError, match="finite"):
        range_as(x.min(1), x.max(1), GGML)


@needs("torch")
def test_torch_sends_zero_to_the_largest_code_where_the_reciprocal_is_infinite():
    assert lib.torch_quantize(np.zeros(1, np.float32), 1e-39, 0, "uint8").tolist() == [255]
    assert codes_as(0.0, 1e-39, 0, TORCH, "uint8") == 255 and codes_as(0.0, 1e-39, 0, ONNX, "uint8") == 0


@needs("torch")
def test_torch_observer_lets_bad_ranges_through():
    assert np.isnan(lib.torch_qparams(np.float32(np.nan), np.float32(1), "uint8")[0])
    assert np.isinf(lib.torch_qparams(np.float32(0), np.float32(np.inf), "uint8")[0])
    assert np.isinf(lib.torch_qparams(np.float32(-3e38), np.float32(3e38), "uint8")[0])


@needs("onnxruntime")
@needs("onnx")
def test_ort_refuses_nan_in_a_range_and_passes_infinity():
    with pytest.raises(AssertionError, match="scale issue"):
        lib.ort_qparams(np.float32(np.nan), np.float32(1), "uint8")
    assert np.isinf(lib.ort_qparams(np.float32(0), np.float32(np.inf), "uint8")[0])


@needs("torch")
def test_torch_observer_overflows_at_32_bits():
    import torch

    observer = torch.ao.quantization.MinMaxObserver(dtype=torch.qint32)
    scale, zero_point = observer._calculate_qparams(torch.tensor(-1000.0), torch.tensor(0.0))
    assert int(zero_point) == 0 and round(float(scale) * 2**31) == 500


@needs("onnx")
def test_onnx_evaluator_wraps_large_quotients():
    x = np.float32([2**31, 1e10, np.inf])
    assert lib.onnx_reference(x, 1.0, 128, "uint8").tolist() == [0, 0, 0]
    assert codes_as(x, 1.0, 128, ONNX, "uint8").tolist() == [255, 255, 255]


# From a range to scale and zero point


@needs("onnxruntime")
@needs("onnx")
@pytest.mark.parametrize("dtype", ORT.ranged)
@pytest.mark.parametrize("convention", [ORT, ORT_SYMMETRIC], ids=lambda c: c.name)
def test_ort_qparams(convention, dtype):
    lo, hi = lib.ranges(20)
    theirs = [lib.ort_qparams(a, b, dtype, convention is ORT_SYMMETRIC) for a, b in zip(lo, hi)]
    compare_qparams(lo, hi, convention, dtype, theirs)


@needs("onnxruntime")
@needs("onnx")
def test_onnx_qparams_by_dynamic_quantize_linear():
    lo, hi = lib.ranges(21)
    keep = (np.maximum(hi, 0) - np.minimum(lo, 0) > 1e-30) & (np.maximum(np.abs(lo), np.abs(hi)) < 1e38)
    lo, hi = lo[keep], hi[keep]
    results = [lib.dynamic_session().run(None, {"x": np.float32([a, b])}) for a, b in zip(lo, hi)]
    compare_qparams(lo, hi, ONNX, "uint8", [(scale, int(zero_point)) for _, scale, zero_point in results])
    for a, b, (codes, scale, zero_point) in zip(lo, hi, results):
        assert np.array_equal(codes_as([a, b], scale, int(zero_point), ORT, "uint8"), codes)


@needs("torch")
@pytest.mark.parametrize("convention, dtype", [(c, d) for c in (TORCH, TORCH_FAKE, TORCH_OBSERVER, TORCH_OBSERVER_SYMMETRIC)
                                               for d in (c.dtypes if c.ranged is None else c.ranged)])
def test_torch_qparams(convention, dtype):
    lo, hi = lib.ranges(22)
    theirs = [lib.torch_qparams(a, b, dtype, convention is TORCH_OBSERVER_SYMMETRIC) for a, b in zip(lo, hi)]
    compare_qparams(lo, hi, convention, dtype, theirs)


@needs("torch")
@needs("onnxruntime")
@needs("onnx")
def test_zero_point_where_the_smallest_code_is_odd():
    import torch
    from onnxruntime.quantization.quant_utils import compute_scale_zp

    observer = torch.ao.quantization.MinMaxObserver(dtype=torch.qint8, quant_min=-127, quant_max=127)
    lo, hi = lib.ranges(23)
    ours = [range_as(lo, hi, dataclasses.replace(c, narrow=("int8",))) for c in (TORCH_OBSERVER, ORT)]
    for i, (a, b) in enumerate(zip(lo, hi)):
        scale, zero_point = observer._calculate_qparams(torch.tensor(a), torch.tensor(b))
        assert (ours[0][0][i], ours[0][1][i]) == (scale.numpy()[0], int(zero_point))
        zero_point, scale = compute_scale_zp(np.array(a), np.array(b), np.array(-127, np.int8), np.array(127, np.int8))
        assert (ours[1][0][i], ours[1][1][i]) == (scale, int(zero_point))
    pair = [range_as(-0.5, 253.5, dataclasses.replace(c, narrow=("int8",)))[1] for c in (TORCH_OBSERVER, ORT)]
    assert pair == [-127, -126]  # lo / scale is -0.5: one rounds it, the other rounds -126.5


def compare_qparams(lo, hi, convention, dtype, theirs):
    scale, zero_point = range_as(lo, hi, convention, dtype)
    for i, (s, z) in enumerate(theirs):
        assert (scale[i], zero_point[i]) == (s, z), (lo[i].item().hex(), hi[i].item().hex())


@given(st.floats(-(2.0**100), 2.0**100, width=32), st.floats(-(2.0**100), 2.0**100, width=32))
def test_qparams_by_exact_arithmetic(a, b):
    lo, hi = min(a, b, 0.0), max(a, b, 0.0)
    exact = (Fraction(hi) - Fraction(lo)) / 255
    scale, zero_point = range_as(min(a, b), max(a, b), ORT, "uint8")
    if exact < Fraction(ORT.floor) * (1 + Fraction(1, 2**50)):
        assert (scale, zero_point) == (1, 0)
    else:
        assert abs(Fraction(float(scale)) - exact) <= exact / 2**23
        assert abs(zero_point - Fraction(-lo) / exact) <= Fraction(1, 2) + Fraction(1, 10**9)


# One kernel


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(-(2**24), 2**24))
@settings(max_examples=500)
def test_multiply_add_rounds_once(a, b, z):
    x, y = np.uint32([a, b]).view(np.float32)
    if not np.isfinite([x, y]).all():
        return
    exact = Fraction(float(x)) * Fraction(float(y)) + z
    if abs(exact) >= Fraction(2) ** 127:
        return
    got = atlas._multiply_add(x, y, np.float32(z))
    for neighbour in (np.nextafter(got, np.float32(np.inf)), np.nextafter(got, np.float32(-np.inf))):
        mine, other = abs(exact - Fraction(float(got))), abs(exact - Fraction(float(neighbour)))
        assert mine < other or mine == other and not got.view(np.int32) & 1


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("last", [0, 1])
def test_multiply_add_where_rounding_twice_would_show(sign, last):
    rng = np.random.default_rng(40)
    wrong = 0
    for x in rng.integers(2**23, 2**24, 4000):
        for target in (2**47, 2**47 + 2**19, 2**47 - 2**19):  # the product is next to half a unit of z
            y = int(target) // int(x) + int(rng.integers(2))
            if y >= 2**24:
                continue
            a, b, z = np.float32(int(x) * 2.0**-23), np.float32(sign * y * 2.0**-48), np.float32(sign * (1 + last * 2.0**-23))
            exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(z))
            up, down = np.float32(sign * (1 + (last + 1) * 2.0**-23)), z
            middle = 1 + Fraction(2 * last + 1, 2**24)
            nearest = up if abs(exact) > middle or abs(exact) == middle and last else down
            assert atlas._multiply_add(a, b, z) == nearest
            wrong += np.float32(np.float64(a) * np.float64(b) + np.float64(z)) != nearest
    assert wrong  # the inputs do tell one rounding from two


@pytest.mark.parametrize("value, code", [(127.0, 127), (128.0, -128), (-129.0, 127), (200.0, -56), (1e10, 0), (-np.inf, 0)])
def test_wrapping_is_a_conversion_in_c(value, code):
    assert codes_as(value, 1.0, 0, BITSANDBYTES) == codes_as(value, 1.0, 0, GGML) == code


def test_an_offset_counts_with_any_order_of_the_zero_point():
    for order in ("after", "before"):
        mine = Convention("mine", zero_point=order, offset=0.5, rounding="toward-zero")
        assert codes_as([0.4, 0.5, 1.6], 1.0, 3, mine).tolist() == [3, 4, 5]


def test_q4_0_of_two_extremes_takes_the_negative_one():
    assert range_as(-1.0, 1.0, GGML_Q4_0, "uint4") == (0.125, 8)


@pytest.mark.parametrize("convention", NAMED, ids=lambda c: c.name)
def test_layout_and_shape_do_not_matter(convention):
    dtype = convention.dtypes[0]
    zero_point = convention.only_zero or 0
    x = np.linspace(-0.9, 1.1, 24, dtype=np.float32).reshape(4, 6)
    want = codes_as(x, 0.25, zero_point, convention, dtype)
    assert want.shape == (4, 6)
    readonly = x.copy()
    readonly.setflags(write=False)
    wide = np.zeros((8, 12), np.float32)
    wide[::2, ::2] = x
    for other in (np.asfortranarray(x), readonly, x.astype(">f4"), wide[::2, ::2], x.tolist()):
        assert np.array_equal(codes_as(other, 0.25, zero_point, convention, dtype), want)
    assert np.array_equal(codes_as(x, np.full((4, 1), 0.25), np.full(6, zero_point), convention, dtype), want)
    assert codes_as(np.float32(0.6), 0.25, zero_point, convention, dtype).shape == ()
    assert codes_as([], 0.25, zero_point, convention, dtype).shape == (0,)
    assert want.dtype.kind == ("i" if conventions.CODES[dtype][0] < 0 else "u")


def test_every_rule_that_a_convention_may_name_is_used_by_one():
    for field, words in atlas._WORDS.items():
        used = {getattr(c, field) for c in NAMED}
        assert used <= set(words)
        if field != "rounding":
            assert used == set(words), field


def test_codes_of_numpy_types():
    assert np.array_equal(codes_as([1.0, 2.0], 0.5, 0, ONNX, np.int8), codes_as([1.0, 2.0], 0.5, 0, ONNX, "int8"))


# Explanations


@pytest.mark.parametrize("a", [ONNX, ORT, TORCH, TORCH_FAKE, MODELOPT, GGML, BITSANDBYTES], ids=lambda c: c.name)
@pytest.mark.parametrize("b", [ONNX, TORCH, TORCH_PER_CHANNEL, MODELOPT, GGML, BITSANDBYTES], ids=lambda c: c.name)
def test_an_explanation_lists_exactly_the_differences(a, b):
    x = lib.ties(np.random.default_rng(30), 0.1, 0, -128, 127, 2000).reshape(40, 50)
    found = explained(x, 0.1, 0, a, b)
    p, q = codes_as(x, 0.1, 0, a).ravel(), codes_as(x, 0.1, 0, b).ravel()
    assert found.total == 2000 and found.count == (p != q).sum() == len(found.reasons)
    assert np.array_equal(found.indices, np.flatnonzero(p != q))
    assert np.array_equal(found.inputs, x.ravel()[found.indices])
    assert np.array_equal(found.codes_a, p[found.indices]) and np.array_equal(found.codes_b, q[found.indices])
    assert str(found).startswith(f"{a.name} and {b.name} differ in {found.count} of 2000 codes")


@pytest.mark.parametrize("x, scale, zero_point, a, b, dtype, word", [
    (0.5, 1.0, 1, ORT, TORCH, "uint8", "before rounding"),
    (2.5, 1.0, 0, ORT, GGML, "int8", "half-away"),
    (np.nan, 1.0, 128, ORT, TORCH, "uint8", "NaN"),
    (-128.0, 1.0, 0, ORT, MODELOPT, "int8", "smallest code"),
    (200.0, 1.0, 0, ORT, BITSANDBYTES, "int8", "low 8 bits"),
    (0.0, 1e-39, 0, ORT, TORCH_FAKE, "int8", "1 / scale"),
])
def test_an_explanation_names_the_rule(x, scale, zero_point, a, b, dtype, word):
    found = explained(x, scale, zero_point, a, b, dtype)
    assert found.count == 1 and word in found.reasons[0], found


def test_an_explanation_names_the_earlier_step_if_either_would_do():
    x = np.float32(float.fromhex("0x1.c80002p+3"))
    for change in (dict(ratio="reciprocal"), dict(zero_point="fused")):
        assert codes_as(x, 0.1, 85, dataclasses.replace(ORT, **change), "uint8") == codes_as(x, 0.1, 85, TORCH, "uint8")
    assert "divides by the scale" in explained(x, 0.1, 85, ORT, TORCH, "uint8").reasons[0]


def test_an_explanation_takes_scales_per_row():
    x = lib.ties(np.random.default_rng(31), 1.0, 0, -128, 127, 96).reshape(3, 32)
    scale = np.float32([[0.1], [0.3], [0.7]])
    found = explained(x, scale, 0, ORT, MODELOPT)
    assert found.count == (codes_as(x, scale, 0, ORT) != codes_as(x, scale, 0, MODELOPT)).sum()


def test_an_explanation_can_begin_with_a_span_that_has_one_zero_point_alone():
    found = explained([0.5, 250.0], 1.0, 8, GGML_Q4_0, ORT, "uint4")
    assert found.count == 2 and "toward-zero" in found.reasons[0] and "low 8 bits" in found.reasons[1]


def reason_of(x, scale, zero_point, a, b, dtype):
    return explained(x, scale, zero_point, a, b, dtype).reasons[0]


@pytest.mark.parametrize("x, scale, zero_point", [
    (0.5, [1.0], [[1]]),  # one number in an array of any rank, for x of no dimension
    ([0.5, 37.5, 2.0], [[[1.0]]], [1]),
    (np.full((2, 3), 0.5), [1.0, 2.0, 3.0], [[1], [2]]),
    (np.full((2, 3), 37.5, ">f8")[:, ::-1], np.float16([[15], [1]]), np.uint8([1, 3, 5])[::-1]),
    (np.full((2, 3), 0.5, np.float16).T, 1, np.broadcast_to(np.int64(1), (3, 2))),
    (np.zeros((0, 3)), [1.0, 2.0, 3.0], 5),
    ([], [], []),
])
def test_an_explanation_broadcasts_as_quantize_as_does(x, scale, zero_point):
    shape = np.shape(x)
    for array in (x, scale, zero_point):
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    found = explained(x, scale, zero_point, ORT, TORCH)
    p, q = (codes_as(x, scale, zero_point, c, "int8").ravel() for c in (ORT, TORCH))
    assert found.total == p.size and found.indices.tolist() == np.flatnonzero(p != q).tolist()
    assert found.codes_a.tolist() == p[p != q].tolist() and found.codes_b.tolist() == q[p != q].tolist()
    every = [np.broadcast_to(np.reshape(v, ()) if np.size(v) == 1 else v, shape).ravel() for v in (x, scale, zero_point)]
    alone = [reason_of(*(v[i] for v in every[:2]), int(every[2][i]), ORT, TORCH, "int8") for i in found.indices]
    assert list(found.reasons) == alone


def test_an_explanation_takes_the_first_type_for_which_both_find_a_range():
    x = np.float32([-0.5, 0.25, 1.0])
    assert explain(x, ORT, TORCH).codes_a.dtype == np.int8 and explain(x, ORT, GGML_Q4_0).qparams_a.dtype == np.uint8  # of four bits
    assert explain(x, ORT, TORCH, dtype="uint8").qparams_a.qmax == 255 and explain(x, ORT, ORT_SYMMETRIC, dtype=np.int16).qparams_b.qmax == 32767
    with pytest.raises(ValueError, match="dtype must be one whose range a and b both find, got int8 for GGML and uint4 for GGML_Q4_0"):
        explain(x, GGML, GGML_Q4_0)


def test_a_convention_agrees_with_itself():
    assert explained([1.0, 2.0], 0.1, 0, ORT, ORT).count == 0


# Ranges, layouts, and the way back


def test_ranges_and_rounding_are_told_apart():
    w = np.random.default_rng(50).normal(size=(64, 64)).astype(np.float32)
    found = explain(w, ORT_SYMMETRIC, TORCH_OBSERVER_SYMMETRIC)
    narrow, full = np.rint(w / (np.abs(w).max() / np.float32(127))), np.clip(np.rint(w / (np.abs(w).max() / np.float32(127.5))), -128, 127)
    assert found.count == found.from_range == (narrow != full).sum() > 0 == found.from_rounding
    assert set(found.reasons) == {"ORT_SYMMETRIC leaves the smallest code out of the range and TORCH_OBSERVER_SYMMETRIC counts all codes into the range"}
    assert found.qparams_a.scale == np.abs(w).max() / np.float32(127) and "by the range alone" in str(found)
    rounding = explain(np.float32([-127, 0.5, 1.5, 2.5, 127]), replace(ORT_SYMMETRIC, name="a"), replace(ORT_SYMMETRIC, name="b", rounding="half-away"))
    assert (rounding.count, rounding.from_range, rounding.from_rounding, rounding.from_both) == (2, 0, 2, 0)
    both = explain(np.float32([-127, 0.5, 1.5, 2.5, 100.25, 127]), ORT_SYMMETRIC, replace(TORCH_OBSERVER_SYMMETRIC, name="b", rounding="half-away"))
    assert both.count == both.from_range + both.from_rounding + both.from_both == len(both.reasons) > 0


def test_ranges_per_axis():
    w = np.random.default_rng(51).normal(size=(5, 5)).astype(np.float32)  # square: nothing says which axis but axis itself
    for axis in (0, 1, -1):
        found = explain(w, ORT_SYMMETRIC, TORCH_OBSERVER_SYMMETRIC, axis=axis)
        top = np.abs(w).max(axis=1 - axis % 2, keepdims=True)
        narrow, full = np.rint(w / (top / np.float32(127))), np.clip(np.rint(w / (top / np.float32(127.5))), -128, 127)
        assert found.count == (narrow != full).sum() and np.array_equal(found.codes_a, narrow[narrow != full])


@pytest.mark.parametrize("convention", [ORT, TORCH, TORCH_PER_CHANNEL, TORCH_FAKE])
def test_every_arrangement_of_scales_is_that_of_quantize(convention):
    rng = np.random.default_rng(52)
    x = rng.normal(size=(6, 10)).astype(np.float32)
    for p, full in ((QParams(np.full((6, 1), 0.1, np.float32)), None), (QParams(np.full(10, 0.1, np.float32), axis=1), None),
                    (absmax_qparams(x, group_size=4), lambda s: np.repeat(s, 4, axis=1)[:, :10]),
                    (absmax_qparams(x, group_size=4, group_axis=0), lambda s: np.repeat(s, 4, axis=0)[:6])):
        scale = full(p.scale) if full else np.full((6, 10), 0.1, np.float32)
        each = [[int(codes_as(x[i, j], scale[i, j], 0, convention)) for j in range(10)] for i in range(6)]
        assert np.array_equal(quantize_as(x, p, convention), np.clip(each, p.qmin, p.qmax))
        back = dequantize_as(quantize_as(x, p, convention), p, convention)
        assert np.array_equal(back, np.float32(np.clip(each, p.qmin, p.qmax)) * scale)


def test_codes_stay_in_the_range_of_the_qparams():
    x = np.float32([-1e9, -70, 0.2, 70, 1e9, np.inf])
    for convention in (ORT, TORCH, TORCH_FAKE):
        assert quantize_as(x, QParams(1.0, 0, -64, 63), convention).tolist() == [-64, -64, 0, 63, 63, 63]
        assert quantize_as(x, QParams(1.0, 5, 0, 127), convention).dtype == np.uint8


@needs("onnxruntime")
@needs("onnx")
@pytest.mark.parametrize("opset", [21, 23])
def test_float16_by_float16(opset):
    "Up to opset 22 ONNX Runtime divides in float32, and from 23 on in float16, as the standard has it."
    import onnx
    import onnxruntime

    text = f'<ir_version: 10, opset_import: ["" : {opset}]> g (float16[n] x, float16 s, int8 z) => (int8[n] y) {{ y = QuantizeLinear(x, s, z) }}'
    session = onnxruntime.InferenceSession(onnx.parser.parse_model(text).SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.arange(65536, dtype=np.uint16).view(np.float16)
    x = x[np.isfinite(x)]
    for scale in np.float16([1, 0.0999755859375, 0.333, 6e-5, 6e-8, 1000]):
        theirs = session.run(None, {"x": x, "s": np.array(scale), "z": np.array(3, np.int8)})[0]
        assert_same(quantize_as(x, QParams(scale, 3), ORT if opset == 21 else ONNX), theirs, x, scale, 3)


@needs("onnxruntime")
@needs("onnx")
@pytest.mark.parametrize("dtype", ["int4", "uint4", "int8", "uint8", "int16", "uint16"])
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_ort_values(dtype, kind):
    low, high = conventions.CODES[dtype]
    codes = np.random.default_rng(53).integers(low, high + 1, 4000)
    for scale in kind([0.1, 1e-3, 6e-5, 7.3, 300]):
        for zero_point in (0, low, high, 3):
            theirs = lib.ort_dequantize(codes, scale, zero_point, dtype)
            ours = dequantize_as(codes, params(scale, zero_point, dtype), ORT)
            assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs), (scale, zero_point)


@needs("torch")
def test_torch_values():
    import torch

    rng = np.random.default_rng(54)
    for scale in np.float32([0.1, 1e-3, 1e-39, 7.3, 1e35]):
        for zero_point in (0, 3, 255):
            x = (rng.normal(size=1000) * 100 * float(scale)).astype(np.float32)
            q = torch.quantize_per_tensor(torch.from_numpy(x), float(scale), zero_point, torch.quint8)
            assert np.array_equal(dequantize_as(q.int_repr().numpy(), QParams(scale, zero_point, 0, 255), TORCH), q.dequantize().numpy())
    scales = rng.uniform(1e-3, 1, 30)  # float64, and they stay so
    x = torch.from_numpy(rng.normal(size=(30, 100)).astype(np.float32) * 50)
    q = torch.quantize_per_channel(x, torch.from_numpy(scales), torch.zeros(30, dtype=torch.int64), 0, torch.qint8)
    assert np.array_equal(dequantize_as(q.int_repr().numpy(), QParams(scales, axis=0), TORCH_PER_CHANNEL), q.dequantize().numpy())


@needs("torch")
@needs("bitsandbytes")
def test_bitsandbytes_values():
    import torch
    from bitsandbytes.functional import int8_vectorwise_dequant

    rng = np.random.default_rng(55)
    codes, absmax = rng.integers(-127, 128, (500, 64)).astype(np.int8), np.exp(rng.uniform(-20, 20, 500)).astype(np.float32)
    theirs = int8_vectorwise_dequant(torch.from_numpy(codes), torch.from_numpy(absmax)).numpy()
    assert np.array_equal(dequantize_as(codes, qparams_as(-absmax, absmax, BITSANDBYTES, axis=0), BITSANDBYTES), theirs)


def test_modelopt_values_by_its_lines():
    rng = np.random.default_rng(56)
    codes, absmax = rng.integers(-127, 128, (500, 64)), np.exp(rng.uniform(-16, 20, 500)).astype(np.float32)
    absmax[0] = 2.0**-25
    p = qparams_as(-absmax, absmax, MODELOPT, axis=0)
    want = codes.astype(np.float32) / (np.float32(127) / absmax)[:, None]
    want[0] = 0
    assert np.array_equal(dequantize_as(codes, p, MODELOPT), want)


@needs("gguf")
def test_ggml_values():
    import gguf

    x = np.random.default_rng(57).normal(size=(50, 32)).astype(np.float32)
    raw = gguf.quants.quantize(x, gguf.GGMLQuantizationType.Q8_0)
    blocks = raw.reshape(50, 34)
    p = QParams(blocks[:, :2].copy().view(np.float16), 0)
    codes = blocks[:, 2:].copy().view(np.int8)
    assert np.array_equal(dequantize_as(codes, p, GGML), gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q8_0))


# Conventions of tools, and of newer functions


@needs("onnxruntime")
@needs("onnx")
def test_dynamic_quantize_linear():
    lo, hi = lib.ranges(70)
    lo, hi = np.minimum(lo, 0), np.maximum(hi, 0)
    for a, b in [*zip(lo, hi), (0, 0), (-3, -1), (1, 3), (0, 3e-38)]:
        if not 2.0**-140 < max(b, 0) - min(a, 0) < 3e38 and a != b:
            continue
        x = np.float32([a, b, (a + b) / 2, a / 3, b / 7])
        codes, scale, zero_point = lib.dynamic_session().run(None, {"x": x})
        p = qparams_as(x.min(), x.max(), ORT_DYNAMIC, "uint8")
        assert (p.scale, p.zero_point) == (scale, int(zero_point)), (a, b)
        assert np.array_equal(quantize_as(x, p, ORT_DYNAMIC), codes), (a, b)


@needs("onnxruntime")
@needs("onnx")
@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_ort_ranges_of_float16_and_reduced_ranges(kind, dtype):
    rng = np.random.default_rng(71)
    ends = (np.exp(rng.uniform(-16, 10 if kind is np.float16 else 40, (2, 400))) * rng.choice([-1, 1], (2, 400))).astype(kind)
    lo, hi = np.append(ends.min(0), kind([0, -1, -7e-6, 0])), np.append(ends.max(0), kind([0, 1, 7e-6, 7.7e-6]))
    for convention, reduced, symmetric in ((ORT, False, False), (ORT_SYMMETRIC, False, True), (ORT_REDUCED, True, False)):
        ours = qparams_as(lo, hi, convention, dtype, axis=0)
        assert ours.scale.dtype == kind
        for i, (a, b) in enumerate(zip(lo, hi)):
            scale, zero_point = lib.ort_qparams(a, b, dtype, symmetric, reduced)
            assert (ours.scale[i], ours.zero_point[i]) == (kind(scale), zero_point), (convention.name, a, b)


def test_codes_are_not_cut_to_a_reduced_range():
    p = qparams_as(-1.0, 1.0, TORCH_REDUCED_SYMMETRIC)
    assert quantize_as([-9.0, 1.0, 9.0], p, TORCH_REDUCED_SYMMETRIC).tolist() == [-128, 64, 127] and p.scale == np.float32(1) / np.float32(63.5)
    assert qparams_as(-1.0, 1.0, ORT_REDUCED, "int8").scale == np.float32(2 / 128)


@needs("torch")
@pytest.mark.filterwarnings("ignore:Please use quant_min")
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_torch_reduced_ranges_and_weights_per_channel(dtype):
    import torch

    lo, hi = lib.ranges(72)
    kind, make = getattr(torch, f"q{dtype}"), torch.ao.quantization.PerChannelMinMaxObserver
    for convention, scheme, reduced in ((TORCH_REDUCED, torch.per_channel_affine, True), (TORCH_REDUCED_SYMMETRIC, torch.per_channel_symmetric, True),
                                        (TORCH_WEIGHT, torch.per_channel_symmetric, False)):
        if dtype in convention.dtypes:
            theirs = make(dtype=kind, qscheme=scheme, reduce_range=reduced)._calculate_qparams(torch.from_numpy(lo), torch.from_numpy(hi))
            ours = [range_as(a, b, convention, dtype) for a, b in zip(lo, hi) if np.isfinite(np.float32(max(b, 0)) - np.float32(min(a, 0)))]
            keep = np.isfinite(np.float32(np.maximum(hi, 0) - np.minimum(lo, 0)))
            assert np.array_equal([s for s, _ in ours], theirs[0].numpy()[keep]) and np.array_equal([z for _, z in ours], theirs[1].numpy()[keep])
    w = torch.from_numpy(np.random.default_rng(73).normal(size=(16, 40)).astype(np.float32))
    observer = make(dtype=torch.qint8, qscheme=torch.per_channel_symmetric)
    observer(w)
    scale, zero_point = observer.calculate_qparams()
    q = torch.quantize_per_channel(w, scale, zero_point, 0, torch.qint8)
    p = qparams_as(w.numpy().min(1), w.numpy().max(1), TORCH_WEIGHT, axis=0)
    assert np.array_equal(p.scale, scale.numpy()) and np.array_equal(quantize_as(w.numpy(), p, TORCH_WEIGHT), q.int_repr().numpy())
    assert np.array_equal(dequantize_as(q.int_repr().numpy(), p, TORCH_WEIGHT), q.dequantize().numpy())


def test_an_int32_bias_is_divided_in_float64():
    rng = np.random.default_rng(74)
    bias, scale = rng.normal(size=200).astype(np.float32), np.exp(rng.uniform(-18, -10, 200)).astype(np.float32)
    p = QParams(scale, 0, -(2**31), 2**31 - 1, axis=0)
    exact = [round(Fraction(float(b)) / Fraction(float(s))) for b, s in zip(bias, scale)]
    want = [min(max(code, -(2**31)), 2**31 - 1) for code in exact]
    for convention in (ORT, ORT_BIAS):
        codes = quantize_as(bias, p, convention)
        assert codes.dtype == np.int32 and codes.tolist() == want
    assert (np.rint(bias / scale).astype(np.int64) != want).any()  # float32 has no room for so many digits


@needs("onnxruntime")
@pytest.mark.parametrize("convention", [ORT_BLOCK, ORT_BLOCK_ASYMMETRIC], ids=lambda c: c.name)
@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("block", [16, 32, 128])
def test_block_tool_of_ort(convention, kind, block):
    w = np.random.default_rng(75).normal(size=(200, 24)).astype(kind)  # the last block is shorter
    w[:block, 0], w[:block, 1], w[:block, 2] = 0, np.abs(w[:block, 1]), -np.abs(w[:block, 2])
    w[:, 3] = np.round(w[:, 3] * 4) / 4  # ties
    codes, scales, zero_points = lib.ort_block(w, block, convention is ORT_BLOCK)
    parts = [w[start : start + block] for start in range(0, 200, block)]
    if convention is ORT_BLOCK:
        largest, least = np.stack([p.max(0) for p in parts]), np.stack([p.min(0) for p in parts])
        lo = hi = np.where(np.abs(largest) > np.abs(least), largest, least)
    else:
        lo, hi = np.stack([p.min(0) for p in parts]), np.stack([p.max(0) for p in parts])
    p = qparams_as(lo.ravel(), hi.ravel(), convention, "uint4", axis=0)
    p = QParams(p.scale.reshape(lo.shape), np.reshape(p.zero_point, lo.shape), 0, 15, group_size=block, group_axis=0)
    assert np.array_equal(p.scale, scales) and p.scale.dtype == kind and np.array_equal(p.zero_point, zero_points)
    assert np.array_equal(quantize_as(w, p, convention), codes)


@needs("ai_edge_litert")
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
@pytest.mark.parametrize("convention, kernels", [(TFLITE, "reference"), (TFLITE_XNNPACK, "default")], ids=["TFLITE", "TFLITE_XNNPACK"])
def test_litert_codes_and_values(convention, kernels, dtype):
    if dtype not in convention.dtypes:
        assert (convention, dtype) == (TFLITE_XNNPACK, "int16")  # by default LiteRT takes another kernel there, whose codes depend on the place
        return
    for scale, zero_point, x in lib.cases(dtype, seed=80):
        if 2.0**-126 <= scale <= 2.0**126:  # beyond, XNNPACK takes subnormal numbers for 0
            with np.errstate(over="ignore"):
                x = x[~((np.abs(x) < 2.0**-126) & (x != 0))] if kernels == "default" else x
            theirs = lib.litert_quantize(x, scale, zero_point, dtype, kernels)
            assert_same(codes_as(x, scale, zero_point, convention, dtype), theirs, x, scale, zero_point)
            if dtype != "int16" or zero_point == 0:
                values = lib.litert_dequantize(theirs, scale, zero_point, dtype, kernels)
                assert np.array_equal(dequantize_as(theirs, params(scale, zero_point, dtype), convention), values)


def test_ranges_and_codes_that_litert_found():
    recorded = json.loads((ROOT / "tests/atlas_litert.json").read_text(encoding="utf8"))
    for case in recorded["cases"]:
        floats = {key: np.float32([float.fromhex(v) for v in case[key]]) for key in ("weight", "bias", "rows", "weight_scales", "bias_scales")}
        rows, weight = floats["rows"], floats["weight"].reshape(6, 8)
        p = qparams_as(rows.min(), rows.max(), TFLITE, "int8")
        assert (p.scale, p.zero_point) == (float.fromhex(case["input"][0][0]), case["input"][1][0])
        scale = p.scale
        p = qparams_as(weight.min(1), weight.max(1), TFLITE_WEIGHT, axis=0)
        assert np.array_equal(p.scale, floats["weight_scales"]) and quantize_as(weight, p, TFLITE_WEIGHT).ravel().tolist() == case["weight_codes"]
        assert np.array_equal(floats["bias_scales"], scale * p.scale)
        codes = quantize_as(floats["bias"], QParams(floats["bias_scales"], 0, -(2**31), 2**31 - 1, axis=0), TFLITE_BIAS)
        assert codes.tolist() == case["bias_codes"]


def test_codes_that_llama_cpp_gave_on_x86():
    recorded = json.loads((ROOT / "tests/atlas_llama.json").read_text(encoding="utf8"))
    x = np.float32([[float.fromhex(v) for v in row] for row in recorded["x"]])
    top = np.abs(x).max(axis=1)
    p = qparams_as(-top, top, GGML_X86, axis=0)
    codes = quantize_as(x, p, GGML_X86)
    assert codes.tolist() == recorded["codes"] and (codes != quantize_as(x, p, GGML)).any()
    with np.errstate(over="ignore"):
        assert p.scale.astype(np.float32).astype(np.float16).tolist() == [float.fromhex(v) for v in recorded["scales"]]


# Whose codes are these?


@pytest.mark.parametrize("convention", NAMED, ids=lambda c: c.name)
def test_every_convention_recognises_its_own_codes(convention):
    x = np.random.default_rng(60).normal(size=(8, 64)).astype(np.float32)
    for dtype in convention.dtypes if convention.ranged is None else set(convention.dtypes) & set(convention.ranged):
        blocks = x.reshape(-1, 32)
        ends = first_extreme(blocks) if convention.span == "signed" else blocks.min(1, keepdims=True)
        p = qparams_as(ends, ends if convention.span == "signed" else blocks.max(1, keepdims=True), convention, dtype)
        found = identify(blocks, quantize_as(blocks, p, convention), p)
        assert convention.name in found.exact
        alone = identify(blocks, quantize_as(blocks, p, convention))
        assert f"{convention.name}, {dtype}, a scale for each index of axis 0" in alone.exact


def test_the_nearest_misses_say_why():
    x = lib.ties(np.random.default_rng(61), 0.1, 0, -128, 127, 500)
    p = QParams(np.float32(0.1), 3)
    codes = quantize_as(x, p, ORT)
    found = identify(x, codes, p)
    assert "ORT" in found.exact and "TORCH_FAKE" not in found.exact and found.total == 500
    for name, count, reason in found.misses:
        miss = next(c for c in NAMED if c.name == name)
        assert count == (quantize_as(x, p, miss) != codes).sum() > 0 and reason
    assert [count for _, count, _ in found.misses] == sorted(count for _, count, _ in found.misses)
    assert dict(found.refused)["GGML"] == "zero_point must be 0 for GGML, got 3" and str(found).startswith("made exactly by ONNX, ORT")
    shifted = identify(x[:100], np.clip(quantize_as(x[:100] * 0.3, p, ORT), -100, 100) + 1, p)
    assert not shifted.exact and str(shifted).startswith("no convention makes all 100 codes")
    moved = identify(x * 0.3, quantize_as(x * 0.3, p, ORT) + 1, p)
    assert "1 larger, as with another zero point" in moved.misses[0][2]
    away = identify(np.float32([0.5, 1.5, 2.25]), [1, 2, 2], QParams(1.0, 0, -7, 7))
    assert not away.exact or "half" in str(away)


# Bad input


@pytest.mark.parametrize("call, error, message", [
    (lambda: codes_as([1.0], -1.0, 0, ORT), ValueError, "scale must be finite and greater than 0"),
    (lambda: codes_as([1.0], 0.0, 0, ORT), ValueError, "scale must be"),
    (lambda: codes_as([1.0], np.nan, 0, GGML), ValueError, "scale must be"),
    (lambda: codes_as([1.0], 1e-60, 0, ORT), ValueError, "scale must be"),
    (lambda: codes_as([1.0], 1.0, 300, ORT, "uint8"), ValueError, "zero_point must lie in 0..255, got 300"),
    (lambda: codes_as([1.0], 1.0, 1, GGML), ValueError, "zero_point must be 0 for GGML, got 1"),
    (lambda: quantize_as([1.0], QParams(1.0, 0.5), ORT), ValueError, "zero_point must be an integer for ORT, got 0.5"),
    (lambda: quantize_as([1.0], 1.0, ORT), TypeError, "qparams must be a QParams, got float"),
    (lambda: dequantize_as([1], 1.0, ORT), TypeError, "qparams must be a QParams, got float"),
    (lambda: dequantize_as([1.5], QParams(1.0), ORT), TypeError, "codes must hold integers, got float64"),
    (lambda: dequantize_as([128], QParams(1.0), ORT), ValueError, r"codes must lie in qmin..qmax = -128..127, got 128"),
    (lambda: dequantize_as([1], QParams(1.0, 3), GGML), ValueError, "zero_point must be 0 for GGML, got 3"),
    (lambda: dequantize_as([1, 2], QParams([1.0, 2.0, 3.0], axis=0), ORT), ValueError, "scale must have shape"),
    (lambda: codes_as([np.nan], 1.0, 0, ONNX), ValueError, "ONNX has no code"),
    (lambda: codes_as([1.0], 1.0, 0, TORCH, "int16"), ValueError, r"qparams must have codes that a type of TORCH holds, int8, uint8, got -32768\.\.32767"),
    (lambda: range_as(0.0, 1.0, TORCH, "int16"), ValueError, "dtype must be one of int8, uint8 for TORCH, got int16"),
    (lambda: range_as(0.0, 1.0, TORCH, "byte-like"), TypeError, "dtype must be an integer type"),
    (lambda: qparams_as([0.0, 0.0], [1.0, 1.0], TORCH), ValueError, "scale must be a single number without axis"),
    (lambda: qparams_as(-3e38, 3e38, TORCH_OBSERVER, "uint8"), ValueError, "scale must be finite, got inf"),
    (lambda: Convention("mine", ends=(("int8", 0, 200),)), ValueError, "ends must be of a type"),
    (lambda: codes_as([1j], 1.0, 0, TORCH), TypeError, "x must hold"),
    (lambda: codes_as([1.0], 1.0, 0, "TORCH"), TypeError, "convention must be a Convention, got str"),
    (lambda: range_as(0.0, 1.0, None), TypeError, "convention must be a Convention"),
    (lambda: codes_as(np.ones((2, 3)), np.ones(4), 0, TORCH), ValueError, r"scale must have shape \(3,\).*got \(4,\)"),
    (lambda: codes_as([1.0], -1.0, 0, GGML), ValueError, "scale must be finite and at least 0 in float32 for GGML, got -1"),
    (lambda: codes_as([1.0], 1e300, 8, GGML_Q4_0, "uint4"), ValueError, "scale must be finite in float32 for GGML_Q4_0, got 1e"),
    (lambda: codes_as([1.0], 0.0, 8, replace(GGML_Q4_0, dead=None), "uint4"), ValueError, "scale must be finite and not 0 in float32"),
    (lambda: explained(np.ones((2, 3)), np.ones(2), 0, ORT, TORCH), ValueError, r"scale must have shape \(3,\).*got \(2,\)"),
    (lambda: explained(np.ones((2, 3)), 1.0, [1, 2], ORT, TORCH), ValueError, "scale must have shape"),
    (lambda: explained([1.0, 2.0], [], 0, ORT, TORCH), ValueError, "scale must have shape"),
    (lambda: explain([], ORT, TORCH), ValueError, "x must hold a value"),
    (lambda: explain([1.0], ORT, TORCH, axis=1), ValueError, "axis must be an axis of x"),
    (lambda: identify([1.0], [1, 2]), ValueError, r"codes must have the shape of x and hold a value, got \(2,\) and \(1,\)"),
    (lambda: identify([], []), ValueError, "codes must have the shape of x and hold a value"),
    (lambda: identify([1.0], [1.5]), TypeError, "codes must hold integers, got float64"),
    (lambda: identify([1.0], [1], 0.5), TypeError, "qparams must be a QParams, got float"),
    (lambda: explained([1.0], 1.0, 0, "ORT", TORCH), TypeError, "a must be a Convention, got str"),
    (lambda: explained([1.0], 1.0, 0, ORT, None), TypeError, "b must be a Convention, got NoneType"),
    (lambda: explained([1.0], 1.0, 0, GGML, TORCH, "uint8"), ValueError, r"a type of GGML holds, int8, got 0\.\.255"),
    (lambda: explained([1.0, 2.0], 1.0, [-1, 200], ORT, TORCH), ValueError, r"zero_point must lie in -128\.\.127, got 200"),
    (lambda: explained([1.0], 1.0, 3, ORT, GGML), ValueError, "zero_point must be 0 for GGML, got 3"),
    (lambda: explained([np.nan], 1.0, 0, ONNX, TORCH), ValueError, "x must not give NaN, for which ONNX has no code"),
    (lambda: explained([np.nan], 1.0, 0, TORCH, MODELOPT), ValueError, "x must not give NaN, for which MODELOPT has no code"),
    (lambda: explained([1.0], 0.0, 0, GGML, ORT), ValueError, "scale must be finite and greater than 0 in float32 for ORT"),
    (lambda: range_as(1.0, -1.0, ORT), ValueError, "lo must not exceed hi"),
    (lambda: range_as(0.0, np.inf, ORT), ValueError, "hi must be finite"),
    (lambda: range_as([0.0], [1.0, 2.0], ORT), ValueError, "same shape"),
    (lambda: range_as(0.0, 0.0, ONNX, "uint8"), ValueError, "divides 0 by 0"),
    (lambda: range_as(0.0, 1.0, TORCH_INT32, "int32"), ValueError, "dtype must be one of none"),
    (lambda: Convention("mine", rounding="nearest"), ValueError, "rounding must be one of"),
    (lambda: Convention("mine", ("int7",)), ValueError, "dtypes must be of"),
])
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_convention_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ORT.ratio = "reciprocal"


@pytest.mark.parametrize("name, fields", [
    ("only_zero", {"span": "signed"}), ("only_zero", {"span": "signed", "dtypes": ("uint8",), "only_zero": 0}),
    ("dead", {"dead": 0.0}), ("offset", {"offset": 10**400}), ("offset", {"offset": 1e300}), ("floor", {"floor": 10**400}),
    ("dead", {"ratio": "reciprocal", "dead": 10**400})])
def test_a_convention_that_no_kernel_can_follow_is_refused(name, fields):
    with pytest.raises(ValueError, match=f"^{name} must"):
        atlas.Convention("mine", **fields)
