"""Chapter 1: every format against ml_dtypes and NumPy, every rounding rule against exact fractions."""

import dataclasses
from enum import Enum
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_support import wide_long_double

from quant101.dtypes import BF16, E4M3, E5M2, FP16, FP32, TF32, FloatFormat, as_real_array, cast, decode, encode, fields
from quant101.samples import SAMPLES, load_sample

ORACLES = {  # format: the type of NumPy or ml_dtypes that it has to equal
    FP16: np.float16, BF16: ml_dtypes.bfloat16, E4M3: ml_dtypes.float8_e4m3fn, E5M2: ml_dtypes.float8_e5m2,
    FloatFormat("E4M3FNUZ", 4, 3, 8, "fnuz"): ml_dtypes.float8_e4m3fnuz,
    FloatFormat("E5M2FNUZ", 5, 2, 16, "fnuz"): ml_dtypes.float8_e5m2fnuz,
    FloatFormat("E4M3B11FNUZ", 4, 3, 11, "fnuz"): ml_dtypes.float8_e4m3b11fnuz,
    FloatFormat("E4M3IEEE", 4, 3): ml_dtypes.float8_e4m3,
    FloatFormat("E3M4", 3, 4): ml_dtypes.float8_e3m4,
    FloatFormat("E2M3", 2, 3, specials="none"): ml_dtypes.float6_e2m3fn,
    FloatFormat("E3M2", 3, 2, specials="none"): ml_dtypes.float6_e3m2fn,
    FloatFormat("E2M1", 2, 1, specials="none"): ml_dtypes.float4_e2m1fn,
}
E2M1 = list(ORACLES)[-1]
ODD = [FloatFormat("E2M2", 2, 2), FloatFormat("E2M5B0", 2, 5, 0, "fnuz"), FloatFormat("E5M7B3", 5, 7, 3, "fn"),
       FloatFormat("E3M1B100", 3, 1, 100), FloatFormat("E7M16B127", 7, 16, 127, "none"), FloatFormat("E8M1", 8, 1)]
FORMATS = [*ORACLES, *ODD]
ROUNDING = ["half-even", "half-away", "half-up", "down", "up", "toward-zero"]
with_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
with_oracle = pytest.mark.parametrize(("fmt", "oracle"), ORACLES.items(), ids=lambda f: getattr(f, "name", None))


def finite_numbers(fmt):
    "The numbers of a format that are not negative, in float64, in order of their codes."
    return decode(np.arange(fmt.max_code + 1), fmt).astype(np.float64)


def assert_equal_codes(got, expected, fmt):
    "Equal codes, but for which of its NaN a format gives."
    nan = np.isnan(decode(expected, fmt))
    assert got.dtype == fmt.code_dtype
    np.testing.assert_array_equal(np.isnan(decode(got, fmt)), nan)
    np.testing.assert_array_equal(got[~nan], expected[~nan])


# An exact reference, one number at a time


def by_fractions(x, fmt, rounding, overflow="ieee"):
    "The value of `x` in `fmt`, found with exact fractions; inf and nan are floats."
    if isinstance(x, float) and np.isnan(x):
        return x
    negative = bool(np.signbit(x)) if isinstance(x, float) else x < 0
    sign = -1 if negative else 1
    largest = (2 - Fraction(1, 2**fmt.mantissa_bits)) * Fraction(2) ** (2**fmt.exponent_bits - 1 - fmt.bias)
    if fmt.specials == "ieee":
        largest /= 2
    elif fmt.specials == "fn":
        largest -= Fraction(2) ** (2**fmt.exponent_bits - 1 - fmt.bias - fmt.mantissa_bits)
    beyond = {"ieee": sign * np.inf, "fn": np.nan, "fnuz": np.nan, "none": sign * largest}[fmt.specials]
    if overflow == "saturate":
        beyond = sign * largest
    if isinstance(x, float) and np.isinf(x):
        return beyond
    size = abs(Fraction(x))
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent = max(exponent - (size < Fraction(2) ** exponent), 1 - fmt.bias)
    step = Fraction(2) ** (exponent - fmt.mantissa_bits)
    steps, rest = divmod(size, step)
    outward = {"down": negative, "up": not negative, "toward-zero": False}
    if rounding in outward:
        further = rest > 0 and outward[rounding]
    else:
        at_tie = {"half-even": steps % 2 == 1, "half-away": True, "half-up": not negative}[rounding]
        further = 2 * rest > step or (2 * rest == step and at_tie)
    size = (steps + further) * step
    if size > largest:
        return sign * largest if rounding in outward and not outward[rounding] else beyond
    return sign * size


def assert_as_by_fractions(x, fmt, rounding, overflow="ieee"):
    "The numbers `x`, an array, round as exact fractions do; -0 stays -0 where the format has it."
    got = cast(x, fmt, rounding, overflow)
    for number, value in zip(x.ravel().tolist(), got.ravel().tolist(), strict=True):
        expected = by_fractions(number, fmt, rounding, overflow)
        where = f"{number!r} in {fmt.name}, {rounding}, {overflow}"
        assert (np.isnan(expected) and np.isnan(value)) if np.isnan(float(expected)) else value == expected, where
        if value == 0:
            negative = np.signbit(number) if isinstance(number, float) else number < 0
            assert np.signbit(value) == (negative and fmt.specials != "fnuz"), where


# Decoding


@with_oracle
def test_every_code_decodes_as_the_oracle_does(fmt, oracle):
    codes = np.arange(2**fmt.bits).astype(fmt.code_dtype)
    with np.errstate(all="ignore"):
        expected = codes.view(oracle).astype(np.float32)
    got = decode(codes, fmt)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(expected[number]))


def test_tf32_is_float32_without_thirteen_bits():
    codes = np.arange(2**19, dtype=np.uint32)
    np.testing.assert_array_equal(decode(codes, TF32), (codes << 13).view(np.float32))


def test_fp32_is_float32():
    bits = (np.arange(2**21, dtype=np.uint64) * 2053 % 2**32).astype(np.uint32)
    x = bits.view(np.float32)
    np.testing.assert_array_equal(decode(bits, FP32), x)
    assert_equal_codes(encode(x, FP32), bits, FP32)
    assert set((bits >> 23 & 255).tolist()) == set(range(256))


@with_format
def test_every_finite_code_comes_back(fmt):
    codes = np.arange(2**fmt.bits)
    if fmt.bits > 20:
        codes = codes[::61]
    codes = codes[np.isfinite(decode(codes, fmt))]
    np.testing.assert_array_equal(encode(decode(codes, fmt), fmt), codes)
    np.testing.assert_array_equal(encode(decode(codes, fmt).astype(np.float64), fmt, "up"), codes)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, ">u4"])
def test_codes_of_any_integer_type(dtype):
    codes = np.array([0, 1, 60, 126, 127], dtype)
    np.testing.assert_array_equal(decode(codes, E4M3), [0, 2**-9, 1.5, 448, np.nan])


# Encoding against ml_dtypes and NumPy


@with_oracle
def test_float32_from_the_whole_range(fmt, oracle):
    bits = (np.arange(2_000_000, dtype=np.uint64) * 2147 % 2**32).astype(np.uint32)
    assert np.unique(bits >> 23).size == 512, "every sign and exponent"
    x = bits.view(np.float32)
    if not fmt.has_nan:
        x = x[~np.isnan(x)]
    with np.errstate(all="ignore"):
        expected = x.astype(oracle)
    assert_equal_codes(encode(x, fmt), expected.view(fmt.code_dtype), fmt)


@with_oracle
def test_every_float16(fmt, oracle):
    x = np.arange(2**16, dtype=np.uint16).view(np.float16)
    if not fmt.has_nan:
        x = x[~np.isnan(x)]
    with np.errstate(all="ignore"):
        expected = x.astype(np.float32).astype(oracle)
    assert_equal_codes(encode(x, fmt), expected.view(fmt.code_dtype), fmt)


@with_oracle
def test_limits_follow_from_the_fields(fmt, oracle):
    info = np.finfo(oracle) if oracle is np.float16 else ml_dtypes.finfo(oracle)
    assert (fmt.max, fmt.min) == (float(info.max), float(info.min))
    assert (fmt.smallest_normal, fmt.smallest_subnormal) == (float(info.smallest_normal), float(info.smallest_subnormal))
    assert fmt.epsilon == float(info.eps)
    assert (fmt.bits, fmt.bytes, fmt.min_exponent) == (info.bits, np.dtype(oracle).itemsize, info.minexp)
    assert 2.0**fmt.max_exponent <= fmt.max < 2.0 ** (fmt.max_exponent + 1)


def test_limits_of_the_wide_formats():
    info = np.finfo(np.float32)
    assert (FP32.max, FP32.smallest_normal, FP32.epsilon) == (info.max, info.tiny, info.eps)
    assert (TF32.bits, TF32.bytes, TF32.code_dtype, TF32.epsilon) == (19, 4, np.uint32, 2**-10)
    assert [f.bytes for f in (FP32, FP16, BF16, E4M3, E5M2)] == [4, 2, 2, 1, 1]


@with_oracle
def test_samples(fmt, oracle):
    samples = [x for x in map(load_sample, SAMPLES) if x.dtype == np.float32]
    assert len(samples) >= 4
    for x in samples:
        with np.errstate(all="ignore"):
            expected = x.astype(oracle)
        assert_equal_codes(encode(x, fmt), expected.view(fmt.code_dtype), fmt)


# Rounding


def near(numbers):
    "Each of `numbers`, in float64, with three neighbours on either side."
    around = [numbers]
    for direction in (-np.inf, np.inf):
        x = numbers
        for _ in range(3):
            x = np.nextafter(x, direction)
            around.append(x)
    return np.concatenate(around)


@pytest.mark.parametrize("rounding", ROUNDING)
@pytest.mark.parametrize("fmt", [f for f in FORMATS if f.bits <= 16], ids=lambda f: f.name)
def test_neighbours_of_every_number_and_tie(fmt, rounding):
    numbers = finite_numbers(fmt)
    numbers = np.append(numbers, 2 * numbers[-1] - numbers[-2])  # where the next one would be
    ties = (numbers[1:] + numbers[:-1]) / 2
    x = near(np.concatenate([numbers[:-1], ties]))
    x = x[(x > 0) & (x < numbers[-1])]
    below = np.searchsorted(numbers, x, "right") - 1
    exact, tie = numbers[below] == x, ties[below] == x
    for sign in (1, -1):
        outward = {"down": sign < 0, "up": sign > 0, "toward-zero": False}
        at_tie = {"half-even": below % 2 == 1, "half-away": True, "half-up": sign > 0}
        further = (x > ties[below]) | tie & at_tie[rounding] if rounding in at_tie else ~exact & outward[rounding]
        code = below + further
        over = fmt.max_code if not outward.get(rounding, True) or not fmt.has_nan else fmt.max_code + 1
        if fmt.specials == "fnuz":
            expected = np.where(code > fmt.max_code, np.nan if over > fmt.max_code else numbers[-2], numbers[code])
            np.testing.assert_array_equal(cast(sign * x, fmt, rounding), sign * expected)
        else:
            expected = np.where(code > fmt.max_code, over, code) + (2 ** (fmt.bits - 1) if sign < 0 else 0)
            np.testing.assert_array_equal(encode(sign * x, fmt, rounding), expected)
        saturated = np.minimum(code, fmt.max_code)
        np.testing.assert_array_equal(np.abs(cast(sign * x, fmt, rounding, "saturate")), numbers[saturated])


@pytest.mark.parametrize("overflow", ["ieee", "saturate"])
@pytest.mark.parametrize("rounding", ROUNDING)
@pytest.mark.parametrize("fmt", [*FORMATS, TF32, FP32], ids=lambda f: f.name)
def test_random_numbers_against_fractions(fmt, rounding, overflow):
    rng = np.random.default_rng(7)
    low, high = np.log2(fmt.smallest_subnormal) - 3, fmt.max_exponent + 2
    x = rng.standard_normal(60) * 2.0 ** rng.integers(int(low), min(high, 127), 60)
    edges = np.array([0.0, np.inf, fmt.max, fmt.smallest_normal, fmt.smallest_subnormal / 2, 5e-324, 1.7e308])
    wide = np.concatenate([x, edges, -edges])
    assert_as_by_fractions(wide, fmt, rounding, overflow)
    assert_as_by_fractions(x.astype(np.float32), fmt, rounding, overflow)
    with np.errstate(over="ignore"):
        assert_as_by_fractions(x.astype(np.float16), fmt, rounding, overflow)


def integers_near_ties(dtype):
    "Integers of one type about powers of two and the ties of formats of 4 to 24 significant bits."
    info = np.iinfo(dtype)
    found = {0, 1, 2, 3, info.max, info.max - 1, info.min, info.min + 1}
    for top in range(2, 65):
        for bits in (3, 7, 10, 23):  # of the mantissa
            half = 1 << max(top - bits - 1, 0)
            for n in (1, 3, 2 ** (bits + 1) - 1):
                found.update((1 << top) + n * half + d for d in (-1, 0, 1, 1024))
    found |= {-n for n in found}
    return np.array(sorted(n for n in found if info.min <= n <= info.max), dtype)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
@pytest.mark.parametrize("fmt", [E4M3, FP16, BF16, FP32, ODD[1]], ids=lambda f: f.name)
def test_integers_are_rounded_once(fmt, dtype):
    x = integers_near_ties(dtype)
    for rounding in ("half-even", "half-up", "down"):
        assert_as_by_fractions(x, fmt, rounding)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_large_integers_become_float32_as_in_numpy(dtype):
    rng = np.random.default_rng(0)
    x = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, 10**5, dtype, endpoint=True) >> rng.integers(0, 60, 10**5).astype(dtype)
    np.testing.assert_array_equal(cast(x, FP32), x.astype(np.float32))


def test_float64_is_not_rounded_by_way_of_float32():
    assert cast(-431.99999999999994, E4M3) == -416
    assert cast(np.nextafter(1 + 2.0**-8, 2), BF16) == 1 + 2**-7
    x = np.random.default_rng(0).standard_normal(10**5)
    np.testing.assert_array_equal(cast(x, FP32), x.astype(np.float32))
    np.testing.assert_array_equal(encode(x, FP16), x.astype(np.float16).view(np.uint16))


def test_nan_of_either_sign_and_any_payload():
    signalling = np.array([0x7F800001, 0xFF800001, 0x7FC00000, 0xFFFFFFFF], np.uint32).view(np.float32)
    half = np.array([0x7C01, 0xFE00], np.uint16).view(np.float16)
    for fmt in (f for f in [*FORMATS, FP32] if f.has_nan):
        for overflow in ("ieee", "saturate"):
            for x in (signalling, half, np.array([np.nan, -np.nan])):
                assert np.isnan(cast(x, fmt, overflow=overflow)).all()


def test_signed_zero():
    assert encode(-0.0, FP16) == 0x8000 and np.signbit(cast(-0.0, FP16))
    assert encode(-1e-9, E4M3) == 0x80
    fnuz = FloatFormat("E4M3FNUZ", 4, 3, 8, "fnuz")
    assert encode([-0.0, -1e-9, 0], fnuz).tolist() == [0, 0, 0]


def test_overflow_words():
    assert np.isinf(cast([65520, np.inf], FP16)).all() and cast(65519.99, FP16) == 65504
    assert cast([65520, -1e300, np.inf, -np.inf], FP16, overflow="saturate").tolist() == [65504, -65504, 65504, -65504]
    assert cast(464, E4M3) == 448 and np.isnan(cast([464.01, -500, np.inf], E4M3)).all()
    assert cast([464.01, -500, -np.inf], E4M3, overflow="saturate").tolist() == [448, -448, -448]
    assert cast([7, -100, np.inf], E2M1).tolist() == [6, -6, 6]
    assert cast([1e6, -1e6, np.inf], FP16, "down").tolist() == [65504, -np.inf, np.inf]
    assert cast([1e6, -1e6, -np.inf], FP16, "toward-zero").tolist() == [65504, -65504, -np.inf]


def test_rounding_word_may_be_an_enum_member():
    class Word(str, Enum):
        UP = "up"

    assert cast(1.0001, BF16, Word.UP) == cast(1.0001, BF16, "up") == 1 + 2**-7


# Properties

real = st.floats(allow_nan=False, width=64)
formats, rules = st.sampled_from([*FORMATS, TF32, FP32]), st.sampled_from(ROUNDING)


@settings(deadline=None)
@given(real, real, formats, rules)
def test_order_is_kept(a, b, fmt, rounding):
    low, high = cast(sorted([a, b]), fmt, rounding, "saturate")
    assert low <= high


@settings(deadline=None)
@given(real, formats, rules, rules)
def test_a_second_cast_changes_nothing(x, fmt, first, second):
    once = cast(x, fmt, first, "saturate")
    assert cast(once, fmt, second, "saturate").tobytes() == once.tobytes()


@settings(deadline=None)
@given(real, formats, rules)
def test_signs_are_mirrored(x, fmt, rounding):
    mirrored = {"up": "down", "down": "up"}.get(rounding, rounding)
    if rounding != "half-up":
        np.testing.assert_array_equal(cast(-x, fmt, rounding), -cast(x, fmt, mirrored))


@settings(deadline=None)
@given(real, formats, rules)
def test_error_is_at_most_half_a_step(x, fmt, rounding):
    x = float(np.clip(x, fmt.min, fmt.max))
    exponent = max(np.frexp(x)[1] - 1, fmt.min_exponent)
    step = Fraction(2) ** int(exponent - fmt.mantissa_bits)
    error = Fraction(float(cast(x, fmt, rounding, "saturate"))) - Fraction(x)
    assert abs(error) <= step / 2 if rounding.startswith("half") else abs(error) < step
    assert {"down": error <= 0, "up": error >= 0}.get(rounding, True)


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, width=32), max_size=8), formats)
def test_fields_give_the_number_back(x, fmt):
    x = np.clip(np.array(x, np.float64), fmt.min, fmt.max)
    sign, exponent, mantissa = fields(x, fmt)
    hidden = np.minimum(exponent, 1)
    power = np.maximum(exponent, 1) - fmt.bias - fmt.mantissa_bits
    value = (-1.0) ** sign * np.ldexp(mantissa + hidden * 2.0**fmt.mantissa_bits, power)
    np.testing.assert_array_equal(value, cast(x, fmt))
    assert {f.dtype for f in (sign, exponent, mantissa)} == {np.dtype(np.int32)}


# Arrays of every kind


class Subclass(np.ndarray):
    pass


def layouts(x):
    "The numbers `x`, 2-d, in other layouts and types."
    spread = np.zeros((x.shape[0] * 2, x.shape[1] * 3), x.dtype)
    spread[::2, ::3] = x
    fixed = x.copy()
    fixed.flags.writeable = False
    return {"fortran": np.asfortranarray(x), "strided": spread[::2, ::3], "reversed": x[::-1].copy()[::-1],
            "read-only": fixed, "swapped": x.astype(x.dtype.newbyteorder(">")), "list": x.tolist(), "subclass": x.view(Subclass)}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16, np.int64, np.uint64])
def test_every_layout_gives_the_same(dtype):
    x = (np.random.default_rng(0).standard_normal((5, 7)) * 40 + 100).astype(dtype)
    for name, other in layouts(x).items():
        before = np.array(other, copy=True)
        for fmt in (BF16, E4M3, FP32):
            got = encode(other, fmt)
            assert type(got) is np.ndarray and got.flags.c_contiguous and got.flags.writeable
            np.testing.assert_array_equal(got, encode(x, fmt), err_msg=name)
            np.testing.assert_array_equal(cast(other, fmt), cast(x, fmt), err_msg=name)
        np.testing.assert_array_equal(np.asarray(other), before)


@pytest.mark.parametrize("name", ["fortran", "strided", "reversed", "read-only", "swapped", "list"])
def test_every_layout_of_codes_gives_the_same(name):
    codes = np.arange(60, dtype=np.uint16).reshape(6, 10)
    np.testing.assert_array_equal(decode(layouts(codes)[name], FP16), decode(codes, FP16))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (2, 0, 4)])
def test_empty_in_empty_out(shape):
    x = np.empty(shape, np.float32)
    assert encode(x, FP16).shape == cast(x, E2M1).shape == decode(x, FP16).shape == shape
    assert encode(x, FP16).dtype == np.uint16 and cast(x, FP16).dtype == decode([], FP16).dtype == np.float32
    assert [f.shape for f in fields(x, FP16)] == [shape] * 3
    assert encode([], FP16).shape == (0,) and encode(np.empty(shape, np.int64), FP16).shape == shape


def test_zero_dimensions():
    for x in (1.5, 3, np.float16(1.5), np.float64(1.5), np.array(1.5), np.int64(-7), np.uint64(2**63)):
        results = [encode(x, FP16), cast(x, FP16), *fields(x, FP16), decode(encode(x, FP16), FP16), as_real_array(x)]
        assert all(type(r) is np.ndarray and r.shape == () for r in results)
    assert decode(np.int8(1), FP16) == 2**-24 and decode(0x3C00, FP16) == 1


def test_code_types_are_the_smallest():
    assert [encode(1, f).dtype for f in (E2M1, E4M3, FP16, BF16, TF32, FP32)] == [np.uint8] * 2 + [np.uint16] * 2 + [np.uint32] * 2


def test_inputs_are_never_changed():
    x = np.array([-0.0, 1e-9, np.inf, np.nan, 464.5])
    before = x.tobytes()
    encode(x, E4M3), cast(x, FP16, "up", "saturate"), fields(x, BF16)
    assert x.tobytes() == before


def test_as_real_array_copies_only_if_need_be():
    for dtype in "bBhHiIlLqQefd":
        x = np.arange(3, dtype=dtype)
        assert as_real_array(x) is x
        assert as_real_array(x.astype(x.dtype.newbyteorder(">"))).dtype == x.dtype
    assert as_real_array([1, 2]).dtype.kind == "i" and as_real_array((0.5,)).dtype == np.float64


# Bad input


@pytest.mark.parametrize("x", [[1j], "1.5", ["a"], b"1", None, {}, [None], np.array([1, "a"], object), [True], np.datetime64(0, "s"),
                               np.timedelta64(1, "s"), np.ones(2, np.clongdouble), 10**30, lambda: 0,
                               np.ones(2, [("a", "f4")])], ids=lambda x: "a function" if callable(x) else repr(x))
@pytest.mark.parametrize("function", [encode, cast, fields])
def test_what_is_no_real_array_is_a_type_error(function, x):
    with pytest.raises(TypeError, match="x must hold integers, float16, float32 or float64, got dtype "):
        function(x, FP16)


@wide_long_double
def test_long_doubles_are_refused():
    with pytest.raises(TypeError, match="weights must hold .* got dtype"):
        as_real_array(np.ones(2, np.longdouble), "weights")


def test_ragged_lists_are_a_value_error():
    with pytest.raises(ValueError, match="weights must have rows of equal length, got a ragged list"):
        as_real_array([[1, 2], [3]], "weights")


@pytest.mark.parametrize("fmt", [f for f in FORMATS if not f.has_nan], ids=lambda f: f.name)
def test_nan_where_there_is_none(fmt):
    for overflow in ("ieee", "saturate"):
        with pytest.raises(ValueError, match=f"x must not hold NaN, for which {fmt.name} has no code, got 2"):
            encode([1, np.nan, np.nan], fmt, overflow=overflow)


@pytest.mark.parametrize(("codes", "error", "message"), [
    ([256], ValueError, "codes must lie in 0..255, got 256"), ([-1], ValueError, "codes must lie in 0..255, got -1"),
    (np.int8(-128), ValueError, "got -128"), (2**64 - 1, ValueError, "got 18446744073709551615"),
    ([0.0], TypeError, "codes must be integers, got dtype float64"), ([True], TypeError, "got dtype bool"),
    ("a", TypeError, "codes must be integers"), (None, TypeError, "got dtype object"), ([2**70], TypeError, "got dtype object"),
])
def test_bad_codes(codes, error, message):
    with pytest.raises(error, match=message):
        decode(codes, E4M3)


def test_codes_that_the_type_allows_and_the_format_does_not():
    with pytest.raises(ValueError, match=r"codes must lie in 0..15, got 16"):
        decode(np.arange(17, dtype=np.uint8), E2M1)
    with pytest.raises(ValueError, match=r"codes must lie in 0..524287, got 524288"):
        decode(np.uint32(2**19), TF32)


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"rounding": "nearest"}, ValueError, "rounding must be one of half-even, .*got 'nearest'"),
    ({"rounding": "stochastic"}, ValueError, "got 'stochastic'"), ({"rounding": None}, TypeError, "rounding must be a word, got None"),
    ({"rounding": ["up"]}, TypeError, "rounding must be a word"), ({"overflow": "clip"}, ValueError, "overflow must be one of ieee, saturate"),
    ({"overflow": True}, TypeError, "overflow must be a word, got True"),
])
def test_bad_words(arguments, error, message):
    for function in (encode, cast):
        with pytest.raises(error, match=message):
            function([1.0], FP16, **arguments)


@pytest.mark.parametrize("fmt", ["FP16", None, np.float16, (5, 10), [FP16]])
def test_bad_format(fmt):
    for function, argument in [(encode, 1.0), (cast, 1.0), (fields, 1.0), (decode, 1)]:
        with pytest.raises(TypeError, match="fmt must be a FloatFormat, got "):
            function(argument, fmt)


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ((1, 3), ValueError, r"exponent_bits must lie in 2\.\.8, got 1"), ((9, 3), ValueError, "got 9"), ((4.0, 3), TypeError, "exponent_bits must be an integer, got float"),
    ((True, 3), TypeError, "got bool"), ((4, 0), ValueError, r"mantissa_bits must lie in 1\.\.23, got 0"), ((4, 24), ValueError, "got 24"),
    ((4, "3"), TypeError, "mantissa_bits must be an integer, got str"), ((4, 3, -1), ValueError, r"bias must lie in 0\.\.127, got -1"),
    ((4, 3, 128), ValueError, "got 128"), ((4, 3, 7.0), TypeError, "bias must be an integer"), ((8, 7, 126), ValueError, r"bias must lie in 127\.\.127"),
    ((8, 7, None, "fn"), ValueError, "specials must be ieee where exponent_bits is 8, got 'fn'"),
    ((4, 3, None, "ocp"), ValueError, "specials must be one of ieee, fn, fnuz, none, got 'ocp'"), ((4, 3, None, ["fn"]), ValueError, "specials must be one of"),
])
def test_bad_fields_of_a_format(arguments, error, message):
    with pytest.raises(error, match=message):
        FloatFormat("bad", *arguments)


def test_formats_are_frozen_and_compare_by_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FP16.bias = 3
    assert FloatFormat("FP16", 5, 10) == FP16 == FloatFormat("FP16", 5, 10, 15) and hash(FP16) == hash(FloatFormat("FP16", 5, 10, 15))
    assert FloatFormat("FP16", 5, 10, 16) != FP16


# The numbers of the course


def test_worked_numbers():
    assert (FP16.max, cast(10_000, FP16), cast(1e8, FP16)) == (65_504, 10_000, np.inf)
    assert (cast(10_000, BF16), cast(9984 * 9984, BF16), cast(1e8, BF16)) == (9984, 99_614_720, 100_139_008)
    assert [int(f) for f in fields(-6.5, FP16)] == [1, 17, 640] and encode(-6.5, FP16) == 50816
    assert (E4M3.max, E5M2.max, E4M3.smallest_subnormal, E5M2.smallest_subnormal) == (448, 57_344, 2**-9, 2**-16)


def test_exercises_have_the_answers_that_they_ask_for():
    assert fields(0.15625, FP16) == (0, 12, 256)
    assert decode(np.arange(8), E2M1).tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    for fmt in (FP16, BF16, E5M2):
        n = 2 ** (fmt.mantissa_bits + 1) + 1
        assert cast(n, fmt) != n and (cast(np.arange(n), fmt) == np.arange(n)).all()
    total = 0
    for _ in range(1000):
        total = cast(total + 1, BF16)
    assert total == 256


@pytest.mark.parametrize("fmt", [FP16, BF16, E5M2, E4M3, TF32], ids=lambda f: f.name)
def test_every_nan_decodes_to_the_usual_one_with_its_sign(fmt):
    codes = np.arange(2**fmt.bits, dtype=fmt.code_dtype)
    magnitudes = codes & fmt.code_dtype.type(2 ** (fmt.bits - 1) - 1)
    codes = codes[magnitudes > fmt.max_code + fmt.has_inf]
    assert codes.size
    signs = (codes.astype(np.uint64) >> (fmt.bits - 1)).astype(np.uint32) << 31
    assert np.array_equal(decode(codes, fmt).view(np.uint32), signs | np.uint32(0x7FC00000))


@pytest.mark.parametrize("specials", ["fn", "fnuz", "none"])
@pytest.mark.parametrize("overflow", ["ieee", "saturate"])
def test_a_format_with_the_fields_of_fp16_but_no_infinity_goes_on_where_fp16_ends(specials, overflow):
    fmt = FloatFormat("F", 5, 10, specials=specials)
    x = np.float32([65519.9, 65520, 65568, 65632, 100_000, -100_000])
    assert cast(x, fmt, overflow=overflow).tolist() == [65504, 65536, 65536, 65664, 99_968, -99_968]


def test_fp16_saturates():
    x = np.float32([65519.9, 65520, 1e30, np.inf, -65520, -np.inf])
    assert cast(x, FP16, overflow="saturate").tolist() == [65504, 65504, 65504, 65504, -65504, -65504]


@pytest.mark.parametrize("number", [np.int8, np.uint8, np.int32, np.uint64])
def test_a_format_of_numpy_integers_is_the_same_format(number):
    x = np.float32([1.5, -3, 1000, 1e-7])
    for fmt in (FP16, BF16, FP32, E5M2):
        same = FloatFormat(fmt.name, number(fmt.exponent_bits), number(fmt.mantissa_bits), number(fmt.bias))
        assert same == fmt and all(type(n) is int for n in (same.exponent_bits, same.mantissa_bits, same.bias))
        assert (same.max, same.smallest_subnormal, same.max_code) == (fmt.max, fmt.smallest_subnormal, fmt.max_code)
        assert np.array_equal(encode(x, FloatFormat("new", number(fmt.exponent_bits), number(fmt.mantissa_bits))), encode(x, fmt))
