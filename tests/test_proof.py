"""Every number against somebody who knows: other libraries for the formats, exact fractions for scale and zero point.

`make prove` is the whole of it (2**32 inputs a format); here is every 65537th, every tie of every format, and their neighbours."""

import json
import sys
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import tests_exact as judge
from tests_support import ROOT, needs

import quant101.dtypes as dtypes
from quant101.dtypes import FP32, TF32, FloatFormat, cast, decode, encode, fields
from quant101.steps import QParams, dequantize, fake_quantize, quantize, round_to_levels

sys.path.insert(0, str(ROOT / "tools"))
import prove  # noqa: E402

STRIDE = 65537  # prime, so that every exponent comes with ever other mantissas
formats = pytest.mark.parametrize("name", list(prove.FORMATS))
overflows = pytest.mark.parametrize("overflow", prove.OVERFLOWS)
rules = pytest.mark.parametrize("rule", judge.RULES)


def assert_no_mismatch(row):
    assert row["values"] and not any(row["mismatches"].values()), row


# Formats, against other libraries


def test_the_strided_inputs_cover_every_exponent_of_both_signs():
    bits = prove.floats(0, -(-(1 << 32) // STRIDE), STRIDE).view(np.uint32)
    assert len(np.unique(bits >> 23)) == 512


@needs("ml_dtypes")
@formats
def test_every_code_is_decoded_as_the_libraries_decode_it(name):
    row = prove.decoded(name)
    assert row["codes"] == 2 ** prove.FORMATS[name].bits and not any(row["mismatches"].values()), row


@needs("ml_dtypes")
@formats
@overflows
def test_strided_float32_and_every_tie_are_encoded_as_the_libraries_do(name, overflow):
    assert_no_mismatch(prove.check(prove.floats(0, -(-(1 << 32) // STRIDE), STRIDE), name, overflow))
    assert_no_mismatch(prove.check(prove.edges(name), name, overflow))


@needs("ml_dtypes")
@pytest.mark.parametrize("name", [*prove.FP8, "E3M2", "E2M3", "E2M1"])
@overflows
def test_every_float16_is_encoded_as_the_libraries_do(name, overflow):
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    assert_no_mismatch(prove.check(x, name, overflow))


@needs("torch")
def test_torch_was_asked_too():
    assert prove.oracles("E4M3") == ["ml_dtypes", "torch"]
    assert "torch" in prove.check(prove.floats(0, 64, 1 << 26), "E5M2FNUZ", "ieee")["mismatches"]


@needs("ml_dtypes")
def test_nan_is_compared_and_a_mismatch_is_seen():
    nan = np.array([127, 255, 255, 254], np.uint8)
    assert prove.same(nan, np.array([255, 127, 126, 254], np.uint8), "E4M3").tolist() == [True, True, False, True]


def test_float32_is_itself_and_tf32_is_its_upper_19_bits_rounded():
    bits = prove.floats(0, 1 << 18, 16411).view(np.uint32)
    bits = np.concatenate([bits, (bits & 0xFFFFE000) + 0x1000])  # the second half are ties
    x = bits.view(np.float32)
    bits, x = bits[~np.isnan(x)], x[~np.isnan(x)]
    assert np.array_equal(encode(x, FP32), bits) and np.array_equal(decode(bits, FP32).view(np.uint32), bits)
    rounded = (bits.astype(np.uint64) + 0xFFF + (bits >> 13 & 1)) >> 13
    assert np.array_equal(encode(x, TF32), rounded)
    kept = (rounded << 13).astype(np.uint32)
    assert np.array_equal(cast(x, TF32).view(np.uint32), kept)


PROPERTIES = {  # what the standards say: IEEE 754, OCP OFP8 and MX, the FNUZ paper
    "FP16": dict(max=65504.0, smallest_normal=2.0**-14, smallest_subnormal=2.0**-24, epsilon=2.0**-10, bits=16),
    "BF16": dict(max=(2 - 2.0**-7) * 2.0**127, smallest_normal=2.0**-126, smallest_subnormal=2.0**-133, epsilon=2.0**-7, bits=16),
    "E5M2": dict(max=57344.0, smallest_normal=2.0**-14, smallest_subnormal=2.0**-16, epsilon=0.25, bits=8),
    "E4M3": dict(max=448.0, smallest_normal=2.0**-6, smallest_subnormal=2.0**-9, epsilon=0.125, bits=8),
    "E4M3FNUZ": dict(max=240.0, smallest_normal=2.0**-7, smallest_subnormal=2.0**-10, epsilon=0.125, bits=8),
    "E5M2FNUZ": dict(max=57344.0, smallest_normal=2.0**-15, smallest_subnormal=2.0**-17, epsilon=0.25, bits=8),
    "E3M2": dict(max=28.0, smallest_normal=0.25, smallest_subnormal=0.0625, epsilon=0.25, bits=6),
    "E2M3": dict(max=7.5, smallest_normal=1.0, smallest_subnormal=0.125, epsilon=0.125, bits=6),
    "E2M1": dict(max=6.0, smallest_normal=1.0, smallest_subnormal=0.5, epsilon=0.5, bits=4)}


@formats
def test_format_says_of_itself_what_the_standards_say(name):
    fmt = prove.FORMATS[name]
    for key, value in PROPERTIES[name].items():
        assert getattr(fmt, key) == value, key
    assert fmt.min == -fmt.max and fmt.bytes == -(-fmt.bits // 8) and fmt.code_dtype.itemsize == fmt.bytes
    assert 2.0**fmt.max_exponent <= fmt.max < 2.0 ** (fmt.max_exponent + 1) and 2.0**fmt.min_exponent == fmt.smallest_normal
    values = decode(np.arange(2**fmt.bits), fmt)
    assert fmt.has_inf == np.isinf(values).any() and fmt.has_nan == np.isnan(values).any()


@pytest.mark.parametrize("fmt", [*prove.FORMATS.values(), FP32, TF32], ids=lambda f: f.name)
def test_fields_make_the_number(fmt):
    x = np.array([1.0, -1.5, 3.25, fmt.max, -fmt.max, fmt.smallest_normal, -fmt.smallest_subnormal, 0.0])
    sign, exponent, mantissa = fields(x, fmt)
    for x, s, e, m in zip(cast(x, fmt), sign.tolist(), exponent.tolist(), mantissa.tolist()):
        fraction = Fraction(m, 2**fmt.mantissa_bits) + (e > 0)
        assert judge.exact(x) == (-1) ** s * fraction * Fraction(2) ** (max(e, 1) - fmt.bias)
        assert 0 <= e < 2**fmt.exponent_bits and 0 <= m < 2**fmt.mantissa_bits
    assert sign.tolist() == [0, 1, 0, 0, 1, 0, 1, 0]


# Formats, against exact arithmetic: every rule and every type, rounded once


@cache
def finite_values(fmt):
    values = decode(np.arange(2**fmt.bits), fmt)
    return sorted({Fraction(float(v)) for v in values if np.isfinite(v)})


def whole_numbers(spots, dtype):
    "The integers of a type next to each of `spots`, and the ends of the type."
    info = np.iinfo(dtype)
    near = {int(spot) + d for spot in spots for d in (-1, 0, 1)} | {info.min, info.max}
    return np.array(sorted(n for n in near if info.min <= n <= info.max), dtype)


def around(values, dtype):
    "The numbers of `dtype` at and next to each value and each midpoint, and a few far away."
    beyond = float(values[-1] + judge.step_beyond(values))
    values = np.array([float(v) for v in values])
    spots = np.sort(np.concatenate([values, [beyond, -beyond, 1.5 * beyond, -1.5 * beyond]]))
    spots = np.concatenate([spots, (spots[1:] + spots[:-1]) / 2])
    if np.dtype(dtype).kind in "iu":
        return whole_numbers(spots, dtype)
    with np.errstate(over="ignore"):
        spots = spots.astype(dtype)
    far = np.array([np.inf, -np.inf, np.finfo(dtype).max, np.finfo(dtype).tiny, -np.finfo(dtype).smallest_subnormal], dtype)
    return np.concatenate([spots, np.nextafter(spots, dtype(np.inf)), np.nextafter(spots, dtype(-np.inf)), far])


SMALL = [f for f in prove.FORMATS.values() if f.bits <= 8]
OTHERS = [FloatFormat("E4M3 with inf", 4, 3), FloatFormat("E3M4", 3, 4), FloatFormat("E4M3B11FNUZ", 4, 3, bias=11, specials="fnuz"),
          FloatFormat("E2M1 fn", 2, 1, specials="fn"), FloatFormat("E5M1 bias 3", 5, 1, bias=3, specials="none")]


def assert_stored_exactly(x, fmt, values):
    right = [judge.stored(v, values) for v in x]
    for rule in judge.RULES:
        for overflow in prove.OVERFLOWS:
            way = rule, overflow == "saturate" or not fmt.has_nan
            for v, all_ways, got in zip(x, right, cast(x, fmt, rule, overflow)):
                if isinstance(all_ways[way], float) and not fmt.has_inf:
                    assert np.isnan(got), (fmt.name, way, v, got)
                else:
                    assert judge.exact(got) == all_ways[way], (fmt.name, way, v, got)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.uint16, np.int32, np.int64, np.uint64], ids=lambda d: d.__name__)
def test_encode_is_exact_under_every_rule_from_every_type(dtype):
    for fmt in SMALL + OTHERS:
        assert_stored_exactly(around(finite_values(fmt), dtype), fmt, finite_values(fmt))


@pytest.mark.parametrize("fmt", [dtypes.FP16, dtypes.BF16], ids=lambda f: f.name)
def test_encode_is_exact_for_the_16_bit_formats_too(fmt):
    values, rng = finite_values(fmt), np.random.default_rng(0)
    middle = len(values) // 2
    some = sorted({*values[:3], *values[-3:], *values[middle - 3:middle + 3], *rng.choice(values, 20)})
    for dtype in (np.float32, np.float64):
        assert_stored_exactly(around(some, dtype), fmt, values)


@rules
def test_zero_keeps_its_sign_where_the_format_has_one(rule):
    for fmt in [*prove.FORMATS.values(), FP32, TF32]:
        zeros = cast(np.array([0.0, -0.0]), fmt, rule)
        assert zeros.tolist() == [0, 0] and np.signbit(zeros).tolist() == [False, fmt.specials != "fnuz"], fmt.name
    tiny = cast(np.array([1e-30, -1e-30]), dtypes.E4M3, "toward-zero")
    assert tiny.tolist() == [0, 0] and np.signbit(tiny).tolist() == [False, True]


@needs("ml_dtypes")
def test_rounding_from_float64_and_from_integers_happens_once():
    # ml_dtypes#401: through float32 this becomes a tie and then -448
    assert cast(-431.99999999999994, dtypes.E4M3) == -416
    assert cast(np.int64(2**53 + 1), FP32) == 2.0**53
    halfway = 2**60 + 2**36  # in float32; one more must round up
    assert [int(cast(np.int64(halfway + i), FP32)) for i in (-1, 0, 1)] == [2**60, 2**60, 2**60 + 2**37]
    assert [int(cast(np.uint64(2**63 + 2**39 + i), FP32)) for i in (0, 1)] == [2**63, 2**63 + 2**40]


# The table that `make prove` has written: the page on the proof shows it


def the_table():
    return json.loads(prove.OUT.read_text(encoding="utf8"))


def test_the_table_shows_the_whole_sweep_without_a_mismatch():
    table = the_table()
    assert table["stride"] == 1 and prove.wrong(table) == 0
    assert set(table["versions"]) == {"numpy", "numba", "ml_dtypes", "torch", "onnxruntime"} and table["machine"] and table["processes"] <= 2
    rows = {(r["format"], r["source"], r["overflow"]): r for r in table["sweep"]}
    for name, fmt in prove.FORMATS.items():
        for overflow in prove.OVERFLOWS:
            row = rows.pop((name, "float32", overflow))
            assert row["values"] == 2**32 - (0 if fmt.has_nan else 2 * (2**23 - 1))
            assert set(row["mismatches"]) == judges(name, overflow) | {"decoded", "round trip"}
        assert sum(r["seconds"] for r in table["sweep"] if r["format"] == name) <= 60, "seconds of our own a format"
    for name in prove.FP8:
        for overflow in prove.OVERFLOWS:
            row = rows.pop((name, "float16", overflow))
            assert row["values"] == 2**16 and set(row["mismatches"]) == judges(name, overflow) | {"decoded", "round trip"}
    assert not rows


def judges(name, overflow):
    "Which library has a cast to a format with this rule: all but PyTorch, whose E4M3 saturates."
    return {o for o in ("ml_dtypes", "torch") if name in prove.KNOWS[o]} - ({"torch"} if (name, overflow) == ("E4M3", "ieee") else set())


def test_the_table_shows_every_code_decoded():
    codes = {row["format"]: row for row in the_table()["codes"]}
    assert {name: row["codes"] for name, row in codes.items()} == {name: 2**fmt.bits for name, fmt in prove.FORMATS.items()}
    assert all(set(row["mismatches"]) == {o for o in ("ml_dtypes", "torch") if name in prove.KNOWS[o]} for name, row in codes.items())


@needs("ml_dtypes")
@needs("torch")
@needs("onnxruntime")
@pytest.mark.parametrize("name", prove.FP8)
def test_the_libraries_disagree_just_where_the_table_says(name):
    recorded = [r for r in the_table()["disagreements"] if r["format"] == name]
    ranges = [(int(r["first_bits"], 16), int(r["last_bits"], 16)) for r in recorded]
    assert all(r["inputs"] == last - first + 1 for r, (first, last) in zip(recorded, ranges))
    ends = np.array([bit + d for first, last in ranges for bit in (first, last) for d in (-1, 0, 1)], np.uint32)
    x = np.concatenate([prove.edges(name), prove.floats(0, -(-(1 << 32) // STRIDE), STRIDE), ends.view(np.float32)])
    x = np.unique(x[~np.isnan(x)].view(np.uint32)).view(np.float32)
    found = {}
    for first, last, codes in prove.disagreements(x, name):
        spots = x[(x.view(np.uint32) >= first) & (x.view(np.uint32) <= last)].view(np.uint32).tolist()
        found |= dict.fromkeys(spots, prove.in_words(name, first, last, codes))
    for bits in x.view(np.uint32).tolist():
        inside = [r for r, (first, last) in zip(recorded, ranges) if first <= bits <= last]
        assert len(inside) == (bits in found), hex(bits)
        assert all(r[key] == found[bits][key] for r in inside for key in ("gives", "equals")), hex(bits)


# Scale and zero point, against exact arithmetic

# What NumPy makes of x / scale by NEP 50, at least float32; None is a Python float
WORK = {("float16", None): "float32", ("float32", None): "float32", ("float64", None): "float64",
        ("float16", "float32"): "float32", ("float32", "float32"): "float32", ("float32", "float64"): "float64",
        ("float64", "float32"): "float64", ("int8", "float32"): "float32", ("int16", "float32"): "float32",
        ("int32", "float32"): "float64", ("int64", None): "float64", ("uint8", None): "float64", ("float16", "float64"): "float64"}
CODES = [(-128, 127, 0), (0, 255, 128), (0, 255, 107), (-127, 127, 0), (-8, 7, 3), (-64, 63, -13), (0, 1, 0), (-128, 127, -128),
         (-32768, 32767, 5), (0, 65535, 40001), (-(2**31), 2**31 - 1, -77), (0, 2**32 - 1, 2**31 + 1)]
SCALES = [1.0, 0.1, 3.5 / 127, 0.0078125, 1.17549435e-38, 1e-45, 3e38, 7.7e3, np.float32(1 / 3)]


def inputs(dtype, scale, zero_point, qmin, qmax, rng):
    "Numbers on and next to ties and the ends of the range, powers of two, subnormals, huge ones and infinities."
    steps = np.concatenate([np.arange(-4, 5), [qmin, qmin - 1, qmax, qmax + 1], rng.integers(qmin - 3, qmax + 3, 8)]).astype(float) - zero_point
    spots = np.concatenate([steps, steps + 0.5, rng.normal(0, 30, 8)]) * float(scale)
    spots = np.concatenate([spots, [0.0, -0.0, 1e10, -1e10, 2.0**31, -(2.0**31), 2.0**63, 1e300, -1e300], 2.0 ** rng.integers(-149, 127, 6)])
    if np.dtype(dtype).kind in "iu":
        return whole_numbers(spots, dtype)
    with np.errstate(over="ignore", under="ignore"):
        spots = spots.astype(dtype)
    near = [spots, *(np.nextafter(spots, np.array(way, dtype)) for way in (np.inf, -np.inf))]
    ends = np.array([np.inf, -np.inf, np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal], dtype)
    return np.concatenate([*near, ends])


@pytest.mark.parametrize("types", list(WORK), ids=str)
def test_quantize_is_exact(types):
    rng = np.random.default_rng(list(WORK).index(types))
    dtype, scale_type = types
    for number, (qmin, qmax, zero_point) in enumerate(CODES):
        for scale in SCALES[number % 3::3]:
            scale = float(scale) if scale_type is None else np.dtype(scale_type).type(scale)
            if WORK[types] == "float32" and np.float32(scale) == 0:
                continue
            x = inputs(dtype, scale, zero_point, qmin, qmax, rng)
            ratios = [judge.ratio(v, scale, WORK[types]) for v in x]
            for rule in judge.RULES:
                got = quantize(x, QParams(scale, zero_point, qmin, qmax), rule)
                right = np.array([judge.code(ratio, zero_point, qmin, qmax, rule) for ratio in ratios])
                assert np.array_equal(got, right), (rule, qmin, qmax, zero_point, scale, x[right != got], got[right != got])


def test_quantize_of_neighbours_of_every_int8_tie_is_exact():
    "A product with the reciprocal fails here for one input in five; 0.1 and 1/3 have no exact reciprocal."
    for scale in (np.float32(0.1), np.float32(1 / 3), np.float32(3.5 / 127)):
        ties = (np.arange(-129, 129, dtype=np.float32) + np.float32(0.5)) * scale
        x = np.concatenate([ties] + [np.nextafter(ties, np.float32(way)) for way in (-np.inf, np.inf)])
        right = [judge.code(judge.ratio(v, scale, "float32"), 7, -128, 127) for v in x]
        assert quantize(x, QParams(scale, 7)).tolist() == right


@pytest.mark.parametrize("scale", [0.1, np.float32(0.1), np.float64(0.1), np.float32(1e-45), 3e38, np.float32(1.1754944e-38)])
@pytest.mark.parametrize("codes", CODES, ids=str)
def test_dequantize_is_exact(codes, scale):
    qmin, qmax, zero_point = codes
    kind = "float32" if isinstance(scale, np.float32) else "float64"
    rng = np.random.default_rng(1)
    q = np.concatenate([[qmin, qmin + 1, qmax - 1, qmax, zero_point], rng.integers(qmin, qmax + 1, 200)])
    got = dequantize(q, QParams(scale, zero_point, qmin, qmax))
    assert got.dtype == kind
    assert [judge.exact(g) for g in got] == [judge.dequantized(v, scale, zero_point, kind) for v in q]


@rules
def test_round_to_levels_is_exact(rule):
    rng = np.random.default_rng(2)
    for levels in ([0, 2, 4], [-3, -1, 1, 3], [-1.5, -1, 0.25, 0.5, 8], [5], [-2, -1, 0, 1, 2], rng.normal(0, 1, 16).astype(np.float32)):
        levels = np.unique(np.array(levels, float))
        between = (levels[1:] + levels[:-1]) / 2
        for dtype in (np.float16, np.float32, np.float64, np.int32):
            x = np.concatenate([levels, between, rng.normal(0, 3, 30), [-9, 9]]).astype(dtype)
            if x.dtype.kind == "f":
                x = np.concatenate([x, np.nextafter(x, dtype(9)), np.nextafter(x, dtype(-9))])
            exact_levels = [Fraction(v) for v in levels]
            right = [float(judge.nearest_level(v, exact_levels, rule)) for v in x]
            assert round_to_levels(x, levels, rule).tolist() == right, (levels, dtype)


def test_each_channel_and_each_group_has_its_own_scale_and_zero_point():
    rng = np.random.default_rng(3)
    x = rng.normal(0, 5, (3, 4, 6)).astype(np.float32)
    for axis in (0, 1, 2, -1, -3):
        n = x.shape[axis]
        scale, zero_point = rng.uniform(0.01, 1, n).astype(np.float32), rng.integers(-128, 128, n)
        q = quantize(x, QParams(scale, zero_point, axis=axis))
        y = dequantize(q, QParams(scale, zero_point, axis=axis))
        for place in np.ndindex(x.shape):
            c = place[axis]
            assert q[place] == judge.code(judge.ratio(x[place], scale[c], "float32"), int(zero_point[c]), -128, 127)
            assert judge.exact(y[place]) == judge.dequantized(q[place], scale[c], zero_point[c], "float32")
    scale, zero_point = rng.uniform(0.01, 1, (3, 4, 3)), rng.integers(0, 16, (3, 4, 3))
    qparams = QParams(scale, zero_point, 0, 15, group_size=2)
    q = quantize(x, qparams)
    y = dequantize(q, qparams)
    for place in np.ndindex(x.shape):
        c = (*place[:2], place[2] // 2)
        assert q[place] == judge.code(judge.ratio(x[place], scale[c], "float64"), int(zero_point[c]), 0, 15)
        assert judge.exact(y[place]) == judge.dequantized(q[place], scale[c], zero_point[c], "float64")


def test_fake_quantize_is_the_two_steps_in_the_type_of_x():
    rng = np.random.default_rng(4)
    for dtype, scale in [(np.float32, 0.1), (np.float16, np.float32(0.1)), (np.float64, np.float32(0.1)), (np.float32, np.float64(0.3))]:
        x = rng.normal(0, 5, 50).astype(dtype)
        qparams = QParams(scale, 3)
        y = fake_quantize(x, qparams)
        assert y.dtype == dtype
        kind, work = ("float32" if isinstance(scale, np.float32) else "float64"), WORK[np.dtype(dtype).name, getattr(scale, "dtype", None) and scale.dtype.name]
        for v, g in zip(x, y):
            code = judge.code(judge.ratio(v, scale, work), 3, -128, 127)
            assert judge.exact(g) == judge.round_to_float(judge.dequantized(code, scale, 3, kind), np.dtype(dtype).name)
    assert fake_quantize([1, 2, 300], QParams(np.float32(2))).dtype == np.float32
    assert fake_quantize([1, 2, 300], QParams(2.0)).dtype == np.float64
