"""Chapter 8, `integer`: every integer against the definitions in exact arithmetic, and against LiteRT and ONNX Runtime."""

import math
from fractions import Fraction

import litert_oracle
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests_support import needs

from quant101 import integer
from quant101.integer import (activation_range, fixed_point, integer_bias, matmul_integer, qlinear_matmul, quantized_add,
                              quantized_average, requantize)
from quant101.samples import load_sample
from quant101.steps import QParams
from quant101.workshop.integers import assembly_for, instructions_of

settings.register_profile("integer", deadline=None, max_examples=300)
settings.load_profile("integer")
WORDS = ["gemmlowp", "tflite", "ruy", "single", "onnx"]
TYPES = ["int8", "uint8", "int16", "uint16", "int32"]
INT32 = st.integers(-(2**31), 2**31 - 1)
HARD = [0, 1, -1, 2, 3, -3, 2**30, -(2**30), 2**31 - 1, -(2**31), -(2**31) + 1]


# The judge: the C++ of the libraries, line by line, in Python's integers


def truncated(a, b):
    "C's division: toward zero."
    return abs(a) // b * (1 if a >= 0 else -1)


def saturating_rounding_doubling_high_mul(a, b):
    "gemmlowp's fixedpoint.h, whose one overflow, -2**31 squared, needs a negative multiplier."
    product = a * b
    nudge = 2**30 if product >= 0 else 1 - 2**30
    return truncated(product + nudge, 2**31)


def rounding_divide_by_pot(x, exponent):
    "gemmlowp's: to nearest, ties away from zero."
    whole, rest = divmod(abs(x), 2**exponent)
    return (whole + (2 * rest >= 2**exponent and exponent > 0)) * (1 if x >= 0 else -1)


def saturated(x, low=-(2**31), high=2**31 - 1):
    return min(max(x, low), high)


def nearest(value, tie):
    "A Fraction to an integer; a tie goes up, away from zero or to the even one."
    low = math.floor(value)
    rest = value - low
    if rest == Fraction(1, 2):
        return low + {"up": 1, "away": int(value > 0), "even": low % 2}[tie]
    return low + (rest > Fraction(1, 2))


def exact_scaled(acc, multiplier, shift, word):
    if word == "single":  # TensorFlow Lite's common.cc with TFLITE_SINGLE_ROUNDING
        return nearest(Fraction(acc * multiplier) * Fraction(2) ** (shift - 31), "up")
    if word == "onnx":  # float32 times float32, each rounded to nearest
        real = np.float32(float(Fraction(multiplier) * Fraction(2) ** (shift - 31)))
        return nearest(Fraction(float(np.float32(float(Fraction(float(np.float32(acc))) * Fraction(float(real)))))), "even")
    high = saturating_rounding_doubling_high_mul(acc << max(shift, 0), multiplier)  # what leaves an int32 is undefined in C, and kept here
    if word == "ruy":
        return nearest(Fraction(high, 2 ** max(-shift, 0)), "up")
    return rounding_divide_by_pot(high, max(-shift, 0))


def exact_code(acc, multiplier, shift, zero_point, dtype, word, low=None, high=None):
    ends = np.iinfo(dtype)
    low, high = int(ends.min) if low is None else low, int(ends.max) if high is None else high
    return saturated(exact_scaled(int(acc), int(multiplier), int(shift), word) + int(zero_point), low, high)


def layouts(x):
    wide = np.zeros(tuple(2 * n for n in x.shape), x.dtype)
    wide[tuple(slice(None, None, 2) for _ in x.shape)] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    return [np.asfortranarray(x), wide[tuple(slice(None, None, 2) for _ in x.shape)], frozen, x.astype(x.dtype.newbyteorder(">")), x.tolist()]


# fixed_point


@given(st.floats(0, 2.0**30 - 1, allow_subnormal=True) | st.floats(2.0**-34, 2.0**-30) | st.integers(-40, 29).map(lambda e: 2.0**e))
@example(0.0)
@example(2.0**-32)
@example(float(np.nextafter(2.0**-32, 0)))
@example(2.0**-32 - 2.0**-64)
@example(2.0**30 - 0.5)
@example(1 - 2.0**-53)
@example(0.0072474)
def test_fixed_point_is_the_nearest(real):
    multiplier, shift = fixed_point(real)
    assert type(multiplier) is int and type(shift) is int and -31 <= shift <= 30
    assert multiplier == 0 == shift or 2**30 <= multiplier < 2**31
    if real < 2.0**-32 - 2.0**-64:
        assert (multiplier, shift) == (0, 0)
        return
    value, exact = Fraction(multiplier) * Fraction(2) ** (shift - 31), Fraction(real)
    step = Fraction(2) ** (shift - 31)
    assert abs(value - exact) <= step / 2
    below = Fraction(2**31 - 1) * Fraction(2) ** (shift - 32)  # the largest with a smaller shift, where steps are half as long
    assert multiplier > 2**30 or abs(value - exact) <= abs(below - exact)


def test_fixed_point_of_the_tensorflow_lite_source():
    assert fixed_point(1.0) == (2**30, 1) and fixed_point(0.5) == (2**30, 0) and fixed_point(0.25) == (2**30, -1)
    assert fixed_point(2.0**-31) == (2**30, -30) and fixed_point(2.0**-32) == (2**30, -31) and fixed_point(2.0**-33) == (0, 0)
    assert fixed_point(2.0**29) == (2**30, 30) and fixed_point(1 - 2.0**-40) == (2**30, 1)


def test_fixed_point_of_an_array():
    multiplier, shift = fixed_point(np.float32([[0.1, 0.0], [3.0, 1e-12]]))
    assert multiplier.dtype == shift.dtype == np.int32 and multiplier.shape == shift.shape == (2, 2)
    for value, m, s in zip(np.float32([0.1, 0.0, 3.0, 1e-12]).tolist(), multiplier.ravel(), shift.ravel()):
        assert fixed_point(value) == (m, s)
    assert [part.shape for part in fixed_point(np.empty((0, 3)))] == [(0, 3), (0, 3)]
    for other in layouts(np.array([[0.1, 0.2], [0.3, 0.4]])):
        assert all(np.array_equal(a, b) for a, b in zip(fixed_point(other), fixed_point(np.array([[0.1, 0.2], [0.3, 0.4]]))))


@pytest.mark.parametrize("real", [-0.1, np.nan, np.inf, 2.0**30, 2.0**30 - 0.25, [0.5, -1e-300]])
def test_fixed_point_refuses(real):
    with pytest.raises(ValueError, match="real must be finite, at least 0 and smaller than"):
        fixed_point(real)


@pytest.mark.parametrize("real", ["0.5", None, 1j, [True]])
def test_fixed_point_refuses_what_is_not_real(real):
    with pytest.raises(TypeError, match="real must"):
        fixed_point(real)


# requantize


@pytest.mark.parametrize("word", WORDS)
@given(acc=st.lists(INT32 | st.sampled_from(HARD) | st.integers(-2000, 2000), max_size=20), multiplier=st.integers(0, 2**31 - 1) | st.sampled_from([2**30, 2**31 - 1, 0, 1]),
       shift=st.integers(-31, 30) | st.integers(-12, 2), dtype=st.sampled_from(TYPES), data=st.data())
def test_requantize_is_the_definition(word, acc, multiplier, shift, dtype, data):
    ends = np.iinfo(dtype)
    zero_point = data.draw(st.integers(int(ends.min), int(ends.max)) | st.sampled_from([int(ends.min), int(ends.max)]))
    codes = requantize(np.array(acc, np.int32), multiplier, shift, zero_point, dtype, word)
    assert codes.dtype == dtype and codes.shape == (len(acc),)
    assert codes.tolist() == [exact_code(a, multiplier, shift, zero_point, dtype, word) for a in acc]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("shift", [-31, -30, -12, -9, -8, -2, -1, 0, 1, 2])
def test_requantize_at_every_tie(word, shift):
    """Multipliers of few bits, so that products of sums lie on ties and beside them, on both sides of 0."""
    for multiplier in (2**30, 3 * 2**29, 2**31 - 2**24, 2**30 + 1, 2**31 - 1):
        halves = [round((k + 0.5) * 2 ** (31 - shift) / multiplier) for k in range(-9, 9)]
        acc = [saturated(h + d) for h in halves for d in (-2, -1, 0, 1, 2)]
        assert requantize(acc, multiplier, shift, 0, "int8", word).tolist() == [exact_code(a, multiplier, shift, 0, "int8", word) for a in acc]


def test_requantize_by_hand():
    assert requantize([3, -3, 4, -4, 12, -12], *fixed_point(1 / 8), 0, "int8").tolist() == [1, 0, 1, -1, 2, -2]
    assert requantize([3, -3, 4, -4, 12, -12], *fixed_point(1 / 8), 0, "int8", "single").tolist() == [0, 0, 1, 0, 2, -1]
    assert requantize([3, -3, 4, -4, 12, -12], *fixed_point(1 / 8), 0, "int8", "ruy").tolist() == [1, 0, 1, 0, 2, -1]
    assert requantize([3, -3, 4, -4, 12, -12], *fixed_point(1 / 8), 0, "int8", "onnx").tolist() == [0, 0, 0, 0, 2, -2]
    assert requantize([-(2**31), 2**31 - 1], *fixed_point(1.0), 0, "int32").tolist() == [-(2**31), 2**31 - 1]
    assert requantize([-(2**31), 2**31 - 1], *fixed_point(4.0), 7, "int8").tolist() == [-128, 127]
    assert requantize([-(2**31), 2**31 - 1], *fixed_point(2.0**-32), 0, "int8").tolist() == [-1, 1]  # the first rounding makes a tie of the second
    assert requantize([-(2**31), 2**31 - 1], *fixed_point(2.0**-32), 0, "int8", "single").tolist() == [0, 0]
    assert requantize([-(2**31), 2**31 - 1], *fixed_point(2.0**-33), 5, "int8").tolist() == [5, 5]
    assert requantize(-300, *fixed_point(0.5), 255, "uint8").tolist() == 105


@pytest.mark.parametrize("word", WORDS)
def test_requantize_with_a_multiplier_for_each_column_row_or_value(word):
    rng = np.random.default_rng(5)
    acc = rng.integers(-(2**20), 2**20, (2, 3, 4)).astype(np.int32)
    for shape in [(), (1,), (4,), (1, 4), (3, 1), (2, 1, 1), (2, 3, 4), (1, 1, 4), (1, 3, 4)]:
        multiplier, shift = fixed_point(np.exp(rng.uniform(-12, -8, shape)))
        zero_point = rng.integers(-20, 20, shape)
        wide = [np.broadcast_to(v, acc.shape).ravel() for v in (acc, multiplier, shift, zero_point)]
        expected = np.reshape([exact_code(*values, "int8", word) for values in zip(*wide)], acc.shape)
        assert np.array_equal(requantize(acc, multiplier, shift, zero_point, "int8", word), expected), shape
        assert np.array_equal(requantize(acc, multiplier, shift, 3, "int8", word),
                              np.reshape([exact_code(a, m, s, 3, "int8", word) for a, m, s, _ in zip(*wide)], acc.shape))


def test_requantize_in_many_threads_is_the_same():
    acc = np.random.default_rng(1).integers(-(2**24), 2**24, (1500, 700)).astype(np.int32)
    scales = np.random.default_rng(2).uniform(1e-6, 1e-4, 700)
    for given_scales in (scales, 1e-5):
        whole = requantize(acc, *fixed_point(given_scales), 3, np.int8)
        assert np.array_equal(whole, np.concatenate([requantize(part, *fixed_point(given_scales), 3, np.int8) for part in np.array_split(acc, 150)]))


def test_requantize_takes_any_layout_and_leaves_its_input():
    acc = np.random.default_rng(3).integers(-5000, 5000, (6, 5)).astype(np.int32)
    before, expected = acc.copy(), requantize(acc, *fixed_point(0.01), 0, "int8")
    for other in layouts(acc) + [acc.astype(np.int64), acc.astype(">i8"), acc.astype(np.int16)]:
        assert np.array_equal(requantize(other, *fixed_point(0.01), 0, "int8"), expected)
    assert np.array_equal(acc, before)
    assert requantize(np.int32(50), *fixed_point(0.1), 0, "int8").shape == ()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
def test_requantize_of_nothing(shape):
    for scale in (0.1, np.full(shape[-1], 0.1)):
        codes = requantize(np.empty(shape, np.int32), *fixed_point(scale), 0, "uint8")
        assert codes.shape == shape and codes.dtype == np.uint8
    assert requantize([], *fixed_point(0.1), 0, "int8").shape == (0,)


def test_requantize_clamps_between_the_given_ends():
    codes = requantize(np.arange(-100, 101), *fixed_point(1.0), 5, "int8", low=5, high=11)
    assert codes.tolist() == np.clip(np.arange(-95, 106), 5, 11).tolist()


@pytest.mark.parametrize("change, error, message", [
    ({"acc": [2**31]}, ValueError, "acc must lie in -2147483648..2147483647, got 2147483648"),
    ({"acc": np.array([-(2**31) - 1])}, ValueError, "acc must lie in"),
    ({"acc": np.array([2**63], np.uint64)}, ValueError, "acc must lie in"),
    ({"acc": [0.5]}, TypeError, "acc must hold integers, got float64"),
    ({"multiplier": 2**31}, ValueError, "multiplier must lie in 0..2147483647, got 2147483648"),
    ({"multiplier": -1}, ValueError, "multiplier must lie in"),
    ({"multiplier": 0.5}, TypeError, "multiplier must hold integers"),
    ({"multiplier": [2**30, 2**30]}, ValueError, r"multiplier must broadcast to acc with shape \(3,\), got shape \(2,\)"),
    ({"multiplier": [[2**30], [2**30]]}, ValueError, "multiplier must broadcast"),
    ({"shift": -32}, ValueError, "shift must lie in -31..30, got -32"),
    ({"shift": 31}, ValueError, "shift must lie in -31..30, got 31"),
    ({"shift": [0, 1]}, ValueError, "shift must broadcast"),
    ({"zero_point": 128}, ValueError, "zero_point must lie in -128..127, got 128"),
    ({"zero_point": 0.0}, TypeError, "zero_point must hold integers"),
    ({"zero_point": -1, "dtype": "uint8"}, ValueError, "zero_point must lie in 0..255, got -1"),
    ({"dtype": "int64"}, ValueError, "dtype must be one of int8, uint8, int16, uint16, int32, got int64"),
    ({"dtype": "float32"}, ValueError, "dtype must be one of"),
    ({"dtype": "byte-like"}, TypeError, "dtype must be an integer type or its name"),
    ({"dtype": None}, TypeError, "dtype must be an integer type or its name"),
    ({"rounding": "half-even"}, ValueError, "rounding must be one of gemmlowp, tflite, ruy, single, onnx, got 'half-even'"),
    ({"rounding": 1}, TypeError, "rounding must be a word"),
    ({"low": -129}, ValueError, "low must lie in -128..127, got -129"),
    ({"high": 1.5}, TypeError, "high must be an integer"),
    ({"low": 5, "high": 4}, ValueError, "low must not exceed high, got 5 and 4"),
])
def test_requantize_refuses(change, error, message):
    good = {"acc": [1, 2, 3], "multiplier": 2**30, "shift": -3, "zero_point": 0, "dtype": "int8"}
    with pytest.raises(error, match=message):
        requantize(**(good | change))


@needs("ai_edge_litert")
@pytest.mark.parametrize("kernels, word", [("reference", "gemmlowp"), ("reference", "tflite"), ("optimized", "ruy"), ("XNNPACK", "onnx")])
@pytest.mark.parametrize("scales", [(0.5, 0.5, 2.0), (0.5, 0.5, 64.0), (0.1, 0.013, 0.9), (0.07, 0.013, 0.1), (0.3, 0.7, 0.02)])
def test_requantize_is_what_litert_does(kernels, word, scales):
    a, b, y = map(np.float32, scales)
    real = float(a) * float(b) / float(y)
    reach = int(140 / real)
    sums = np.unique(np.linspace(-reach, reach, 20_001).astype(np.int32)) if reach > 10_000 else np.arange(-reach, reach + 1)
    factor = fixed_point(a * b / y if word == "onnx" else real)
    for zero_point in (0, 3, -128):
        theirs = litert_oracle.requantized(sums, a, b, y, zero_point, kernels=kernels)
        assert np.array_equal(requantize(sums, *factor, zero_point, "int8", word), theirs)


# The bias


def test_bias_by_hand():
    assert integer_bias([0.5, -1.25, 0.0], 0.5, 0.25).tolist() == [4, -10, 0]
    assert integer_bias([0.25, 0.75, -0.25], 1.0, 0.5).tolist() == [0, 2, 0]  # 0.5, 1.5 and -0.5: to the even one
    assert integer_bias([1.0, 1.0], np.float32(0.5), np.float32([0.5, 0.25])).tolist() == [4, 8]
    assert integer_bias(np.float32(3), 0.5, 0.5).shape == () and integer_bias([], 1.0, 1.0).shape == (0,)
    assert integer_bias([2**31 - 1.0, -(2.0**31)], 1.0, 1.0).tolist() == [2**31 - 1, -(2**31)]
    assert integer_bias([1.0], 0.5, 0.5).dtype == np.int32


@given(hnp.arrays(np.float32, 4, elements=st.floats(-100, 100, width=32)), st.floats(2.0**-10, 1, width=32), hnp.arrays(np.float32, 4, elements=st.floats(2.0**-10, 1, width=32)))
def test_bias_is_a_division_in_float64(bias, input_scale, weight_scale):
    codes = integer_bias(bias, np.float32(input_scale), weight_scale)
    for b, w, code in zip(bias.tolist(), weight_scale.tolist(), codes.tolist()):
        exact = Fraction(b) / (Fraction(input_scale) * Fraction(w))
        assert abs(code - exact) <= Fraction(1, 2) + abs(exact) * Fraction(2) ** -53


def test_a_bias_that_does_not_fit_is_refused_with_its_channel():
    with pytest.raises(ValueError, match="got 5.0 in channel 1, which would need the code 12750223129"):
        integer_bias(np.float32([0.25, 5, -4.5]), np.float32(0.5), 7.843e-10)
    with pytest.raises(ValueError, match="in channel 2, which would need the code -2147483649"):
        integer_bias([1, 2, -2147483649.0], 1.0, 1.0)
    with pytest.raises(ValueError, match="in channel 0, which would need the code 2147483648"):
        integer_bias([2147483648.0], 1.0, 1.0)
    with pytest.raises(ValueError, match="in channel 1, which would need the code inf"):
        integer_bias([0.0, 1.0], 1e-300, 1e-300)
    assert integer_bias([0.0], 1e-300, 1e-300).tolist() == [0]


@pytest.mark.parametrize("given, error, message", [
    (([1.0], 0, 1.0), ValueError, "input_scale must be finite and greater than 0, got 0"),
    (([1.0], 1.0, [np.nan]), ValueError, "weight_scale must be finite and greater than 0, got nan"),
    (([1.0, 2.0], 1.0, [1.0, 1.0, 1.0]), ValueError, "weight_scale must be a single number or one per channel"),
    (([1.0, 2.0], [1.0, 1.0], 1.0), ValueError, "input_scale must be a single number"),
    (([np.nan], 1.0, 1.0), ValueError, "bias must be finite, got nan"),
    ((["a"], 1.0, 1.0), TypeError, "bias must hold"),
])
def test_bias_refuses(given, error, message):
    with pytest.raises(error, match=message):
        integer_bias(*given)


# Clamps


def test_ranges_of_activations():
    assert activation_range("none", 0.1, 0, "int8") == (-128, 127)
    assert activation_range("relu", 0.1, -128, "int8") == (-128, 127) and activation_range("relu", 0.1, 5, np.uint8) == (5, 255)
    assert activation_range("relu6", 0.1, -128, "int8") == (-128, -68) and activation_range("relu6", np.float32(6 / 255), 0, "uint8") == (0, 255)
    assert activation_range("relu_n1_to_1", 0.4, 0, "int16") == (-3, 3)  # 2.5 steps, away from zero
    assert activation_range("relu6", np.array(1e-30, np.float32), 0, "int8") == (0, 127)


@needs("ai_edge_litert")
@pytest.mark.parametrize("word, name", [("relu", "RELU"), ("relu6", "RELU6"), ("relu_n1_to_1", "RELU_N1_TO_1")])
@pytest.mark.parametrize("scale, zero_point", [(0.05, -128), (0.4, 3), (0.03, 100), (7.0, -20)])
def test_clamps_are_those_of_litert(word, name, scale, zero_point):
    sums, scale = np.arange(-3000, 3000), np.float32(scale)
    theirs = litert_oracle.requantized(sums, 0.25, 0.25, scale, zero_point, activation=name)
    low, high = activation_range(word, scale, zero_point, "int8")
    assert np.array_equal(requantize(sums, *fixed_point(0.0625 / float(scale)), zero_point, "int8", low=low, high=high), theirs)


@pytest.mark.parametrize("given, error, message", [
    (("gelu", 0.1, 0, "int8"), ValueError, "activation must be one of none, relu, relu6, relu_n1_to_1, got 'gelu'"),
    (("relu", 0.0, 0, "int8"), ValueError, "scale must be a single number, finite and greater than 0"),
    (("relu", 1e-60, 0, "int8"), ValueError, "scale must be finite and greater than 0 in float32"),
    (("relu", [1.0, 2.0], 0, "int8"), ValueError, "scale must be a single number"),
    (("relu", 0.1, 200, "int8"), ValueError, "zero_point must lie in -128..127"),
    (("relu", 0.1, 0.5, "int8"), TypeError, "zero_point must be an integer"),
])
def test_ranges_of_activations_refuse(given, error, message):
    with pytest.raises(error, match=message):
        activation_range(*given)


# Products


def bytes_of(rng, shape, dtype):
    info = np.iinfo(dtype)
    return np.where(rng.random(shape) < 0.3, rng.choice([info.min, info.max], shape), rng.integers(info.min, info.max + 1, shape)).astype(dtype)


@pytest.mark.parametrize("a_type", [np.int8, np.uint8])
@pytest.mark.parametrize("b_type", [np.int8, np.uint8])
@pytest.mark.parametrize("shapes", [((2, 3), (3, 4)), ((5, 2, 3), (5, 3, 4)), ((2, 3), (5, 3, 4)), ((1, 5, 2, 3), (6, 1, 3, 4)), ((3,), (3, 4)),
                                    ((2, 3), (3,)), ((3,), (3,)), ((0, 3), (3, 4)), ((2, 0), (0, 4)), ((300, 700), (700, 5))], ids=str)
def test_integer_product_is_exact(a_type, b_type, shapes):
    rng = np.random.default_rng(7)
    a, b = bytes_of(rng, shapes[0], a_type), bytes_of(rng, shapes[1], b_type)
    for za, zb in ((0, 0), (a_type(100), 3), (np.iinfo(a_type).min, np.iinfo(b_type).max)):
        sums = matmul_integer(a, b, za, zb)
        assert sums.dtype == np.int32 and np.array_equal(sums, (a.astype(np.int64) - int(za)) @ (b.astype(np.int64) - int(zb)))


def test_integer_product_refuses_a_sum_that_does_not_fit():
    a = np.full((1, 66052), 255, np.uint8)
    assert matmul_integer(a[:, :33025], a[:, :33025].T).item() == 33025 * 255**2
    with pytest.raises(ValueError, match="every sum of a @ b must lie in -2147483648..2147483647"):
        matmul_integer(a, a.T)


@pytest.mark.parametrize("given, error, message", [
    ((np.zeros((2, 3), np.int16), np.zeros((3, 2), np.int8)), TypeError, "a must be int8 or uint8, got int16"),
    ((np.zeros((2, 3), np.int8), np.zeros((3, 2))), TypeError, "b must be int8 or uint8, got float64"),
    ((np.zeros((2, 3), np.int8), np.zeros((2, 3), np.int8)), ValueError, "b must have as many rows as a has columns"),
    ((np.zeros((2, 3), np.int8), np.zeros((3, 2), np.int8), 200), ValueError, "a_zero_point must lie in -128..127, got 200"),
    ((np.zeros((2, 3), np.int8), np.zeros((3, 2), np.int8), 0, [1, 2, 3]), ValueError, "b_zero_point must be one number or one per column"),
    ((np.zeros((2, 3), np.int8), np.zeros((3, 2), np.int8), [1, 2, 3]), ValueError, "a_zero_point must be one number or one per row"),
    ((np.int8(3), np.zeros((3, 2), np.int8)), ValueError, "a must have at least one axis"),
])
def test_integer_product_refuses(given, error, message):
    with pytest.raises(error, match=message):
        matmul_integer(*given)


def exact_qlinear(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero, dtype):
    "The definition for one value of the result: exact sum, float32 steps, half to even."
    total = sum((int(p) - int(a_zero)) * (int(q) - int(b_zero)) for p, q in zip(a, b))
    ratio = np.float32(np.float32(np.float32(a_scale) * np.float32(b_scale)) / np.float32(y_scale))
    scaled = np.float32(float(Fraction(float(np.float32(total))) * Fraction(float(ratio))))
    ends = np.iinfo(dtype)
    return saturated(nearest(Fraction(float(scaled)), "even") + int(y_zero), int(ends.min), int(ends.max))


@pytest.mark.parametrize("a_type", [np.int8, np.uint8])
@pytest.mark.parametrize("b_type", [np.int8, np.uint8])
@pytest.mark.parametrize("y_type", [np.int8, np.uint8])
@pytest.mark.parametrize("scale_type", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("per", ["tensor", "one", "row and column", "row and column, wide"])
def test_qlinear_matmul_is_the_definition(a_type, b_type, y_type, scale_type, per):
    rng = np.random.default_rng(11)
    a, b = bytes_of(rng, (4, 6), a_type), bytes_of(rng, (6, 5), b_type)
    shapes = {"tensor": ((), ()), "one": ((1,), (1,)), "row and column": ((4,), (5,)), "row and column, wide": ((4, 1), (1, 5))}[per]
    a_scale, b_scale = (rng.uniform(0.005, 0.5, shape).astype(scale_type) for shape in shapes)
    a_zero, b_zero = (bytes_of(rng, shape, t) for shape, t in zip(shapes, (a_type, b_type)))
    y_scale, y_zero = scale_type(8.0), y_type(17)
    y = qlinear_matmul(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero)
    assert y.dtype == y_type and y.shape == (4, 5)
    rows = [np.broadcast_to(v.reshape(-1), 4) for v in (a_scale, a_zero)]
    columns = [np.broadcast_to(v.reshape(-1), 5) for v in (b_scale, b_zero)]
    for i in range(4):
        for j in range(5):
            assert y[i, j] == exact_qlinear(a[i], rows[0][i], rows[1][i], b[:, j], columns[0][j], columns[1][j], y_scale, y_zero, y_type)


def test_qlinear_matmul_of_many_matrices():
    rng = np.random.default_rng(13)
    a, b = bytes_of(rng, (2, 3, 4, 6), np.uint8), bytes_of(rng, (3, 6, 5), np.int8)
    a_scale, b_scale = rng.uniform(0.01, 0.1, (2, 3, 4, 1)).astype(np.float32), rng.uniform(0.01, 0.1, (3, 1, 5)).astype(np.float32)
    a_zero, b_zero = bytes_of(rng, (2, 3, 4, 1), np.uint8), bytes_of(rng, (3, 1, 5), np.int8)
    y = qlinear_matmul(a, a_scale, a_zero, b, b_scale, b_zero, 2.0, np.uint8(100))
    for i in range(2):
        for j in range(3):
            one = qlinear_matmul(a[i, j], a_scale[i, j], a_zero[i, j], b[j], b_scale[j], b_zero[j], 2.0, np.uint8(100))
            assert np.array_equal(y[i, j], one)
    assert qlinear_matmul(a[0, 0, 0], 0.1, 0, b[0, :, 0], 0.1, 0, 1.0, 0).shape == ()
    assert qlinear_matmul(a[0, 0, 0], 0.1, 0, b[0], 0.1, 0, [1.0], [0]).shape == (5,)


@given(st.lists(st.floats(2.0**-100, 2.0**20, width=32), min_size=3, max_size=3), st.integers(-255, 255))
def test_ratio_of_the_scales_is_rounded_to_float32_twice(scales, code):
    a_scale, b_scale, y_scale = np.float32(scales)
    with np.errstate(under="ignore", over="ignore"):
        ratio = a_scale * b_scale / y_scale
    if np.isfinite(ratio):
        total = code * 100
        expected = saturated(nearest(Fraction(float(np.float32(float(Fraction(float(ratio)) * total)) if abs(float(ratio) * total) < 3e38 else 1e30 * np.sign(total))), "even"), -128, 127)
        a = np.array([[abs(code)]], np.uint8)
        assert qlinear_matmul(a, a_scale, 0, np.array([[100 if code > 0 else -100]], np.int8), b_scale, 0, y_scale, np.int8(0)) == expected


def test_qlinear_matmul_takes_its_type_from_the_zero_point():
    a, b = np.array([[3]], np.uint8), np.array([[4]], np.int8)
    given = a, 1.0, 0, b, 1.0, 0, 1.0
    assert qlinear_matmul(*given, np.int8(0)).dtype == np.int8 and qlinear_matmul(*given, np.array([0], np.uint8)).dtype == np.uint8
    assert qlinear_matmul(*given, 0).dtype == np.uint8 and qlinear_matmul(b.T, 1.0, 0, a, 1.0, 0, 1.0, 0).dtype == np.int8


@pytest.mark.parametrize("change, error, message", [
    ({"a_scale": 0}, ValueError, "a_scale must be finite and greater than 0 in float32, got 0"),
    ({"b_scale": [0.1, -0.1]}, ValueError, "b_scale must be finite and greater than 0 in float32, got -0.1"),
    ({"y_scale": np.nan}, ValueError, "y_scale must be finite"),
    ({"y_scale": 1e-60}, ValueError, "y_scale must be finite and greater than 0 in float32"),
    ({"a_scale": 3e38, "b_scale": 3e38}, ValueError, r"a_scale \* b_scale / y_scale must be finite in float32"),
    ({"a_scale": [0.1, 0.1, 0.1]}, ValueError, "a_scale must be one number or one per row"),
    ({"b_scale": [[0.1], [0.1]]}, ValueError, "b_scale must be one number or one per column"),
    ({"y_zero_point": np.int16(300)}, ValueError, "y_zero_point must lie in -128..127, got 300"),
    ({"y_scale": np.ones((3, 3))}, ValueError, "y_scale must broadcast"),
    ({"a_scale": "x"}, TypeError, "a_scale must hold"),
])
def test_qlinear_matmul_refuses(change, error, message):
    good = {"a": np.zeros((2, 3), np.int8), "a_scale": 0.1, "a_zero_point": 0, "b": np.zeros((3, 2), np.int8), "b_scale": 0.1,
            "b_zero_point": 0, "y_scale": 0.1, "y_zero_point": 0}
    with pytest.raises(error, match=message):
        qlinear_matmul(**(good | change))


@needs("onnxruntime")
@needs("onnx")
@pytest.mark.parametrize("a_type, b_type", [("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8")])
@pytest.mark.parametrize("columns", [False, True])
def test_qlinear_matmul_is_that_of_onnxruntime(a_type, b_type, columns):
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(17)
    a, b = rng.integers(0, 127, (200, 40)).astype(a_type), rng.integers(0, 127, (40, 300)).astype(b_type)
    b_scale = rng.uniform(0.001, 0.1, 300 if columns else 1).astype(np.float32)
    rest = {"a_scale": np.float32(0.02), "a_zero_point": np.dtype(a_type).type(60), "b_scale": b_scale, "b_zero_point": np.full(len(b_scale), 50, b_type),
            "y_scale": np.float32(0.7), "y_zero_point": np.dtype(a_type).type(31)}
    names = ["a", "a_scale", "a_zero_point", "b", "b_scale", "b_zero_point", "y_scale", "y_zero_point"]
    kind = getattr(TensorProto, a_type.upper())
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in (rest | {"b": b}).items()]
    graph = helper.make_graph([helper.make_node("QLinearMatMul", names, ["y"])], "product", [helper.make_tensor_value_info("a", kind, a.shape)],
                              [helper.make_tensor_value_info("y", kind, (200, 300))], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array_equal(qlinear_matmul(a, *(rest.get(name, b) for name in names[1:])), session.run(None, {"a": a})[0])


# Addition and average


def exact_sum(a, a_place, b, b_place, y_place, word, low=-128, high=127):
    "TensorFlow Lite's addition for one pair of codes; a place is scale and zero point."
    twice = 2 * max(a_place[0], b_place[0])
    left, right = (exact_scaled((int(q) - z) << 20, *fixed_point(s / twice), word) for q, (s, z) in ((a, a_place), (b, b_place)))
    return saturated(exact_scaled(left + right, *fixed_point(twice / (2**20 * y_place[0])), word) + y_place[1], low, high)


@pytest.mark.parametrize("word", WORDS[:-1])
@given(st.lists(st.tuples(st.integers(-128, 127), st.integers(-128, 127)), min_size=1, max_size=8), st.lists(st.floats(2.0**-10, 10, width=32), min_size=3, max_size=3),
       st.lists(st.integers(-128, 127), min_size=3, max_size=3))
def test_addition_is_the_definition(word, pairs, scales, zeros):
    a, b = np.int8(pairs).T
    places = list(zip(scales, zeros))
    y = quantized_add(a, *[QParams(*places[0]), b, QParams(*places[1]), QParams(*places[2])], word)
    assert y.dtype == np.int8 and y.tolist() == [exact_sum(p, places[0], q, places[1], places[2], word) for p, q in pairs]


@pytest.mark.parametrize("places", [((0.1, 3), (0.037, -20), (0.2, 5)), ((0.7, 0), (0.011, 0), (0.9, 0)), ((1.0, 0), (0.001, 0), (2.0, 7))])
def test_addition_is_the_nearest_to_the_real_sum(places):
    a, b = (v.ravel() for v in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
    (a_scale, a_zero), (b_scale, b_zero), (y_scale, y_zero) = places
    real = ((a - a_zero) * a_scale + (b - b_zero) * b_scale) / y_scale + y_zero
    ours = quantized_add(a, QParams(*places[0]), b, QParams(*places[1]), QParams(*places[2]))
    assert np.abs(ours - np.clip(real, -128, 127)).max() < 0.50001


def test_addition_broadcasts_and_keeps_the_range_of_the_sum():
    y = quantized_add(np.uint8([[10], [200]]), QParams(1.0, 0, 0, 255), [1, 2, 100], QParams(1.0), QParams(1.0, qmin=-127, qmax=120))
    assert y.tolist() == [[11, 12, 110], [120, 120, 120]] and y.dtype == np.int8
    assert quantized_add(np.empty((0, 2), np.int8), QParams(1.0), 3, QParams(1.0), QParams(1.0)).shape == (0, 2)


@needs("ai_edge_litert")
@pytest.mark.parametrize("kernels", ["reference", "optimized"])
@pytest.mark.parametrize("places", [((0.5, 0), (0.25, 0), (1.0, 0)), ((0.1, 3), (0.037, -20), (0.12, 5)), ((0.02, -128), (0.5, -128), (0.5, -128)), ((3.0, 7), (1e-3, 1), (2.0, 0))])
def test_addition_is_that_of_litert(kernels, places):
    places = [(float(np.float32(scale)), zero) for scale, zero in places]
    a, b = (v.ravel().astype(np.int8) for v in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
    ours = quantized_add(a, QParams(*places[0]), b, QParams(*places[1]), QParams(*places[2]))
    assert np.array_equal(ours, litert_oracle.added(a, places[0], b, places[1], places[2], kernels))


@pytest.mark.parametrize("change, error, message", [
    ({"a": [128]}, ValueError, "a must lie in -128..127, got 128"),
    ({"a": [0.5]}, TypeError, "a must hold integers"),
    ({"a": [1, 2, 3], "b": [1, 2]}, ValueError, r"a and b must have shapes that broadcast, got \(3,\) and \(2,\)"),
    ({"a_qparams": 0.5}, TypeError, "a_qparams must be a QParams"),
    ({"b_qparams": QParams([0.5, 0.25], axis=0)}, ValueError, "the scale of b_qparams must be a single number"),
    ({"b_qparams": QParams(0.5, qmin=-32768, qmax=32767)}, ValueError, "b_qparams must have codes of at most 8 bits"),
    ({"y_qparams": QParams([0.5], axis=0)}, None, ""),
    ({"rounding": "onnx"}, ValueError, "rounding must be one of gemmlowp, tflite, ruy, single, got 'onnx'"),
])
def test_addition_refuses(change, error, message):
    good = {"a": [1], "a_qparams": QParams(0.5), "b": [1], "b_qparams": QParams(0.5), "y_qparams": QParams(0.5)}
    if error is None:
        assert quantized_add(**(good | change)).tolist() == [2]
        return
    with pytest.raises(error, match=message):
        quantized_add(**(good | change))


@given(hnp.arrays(st.sampled_from([np.int8, np.uint8, np.int16, np.int32]), hnp.array_shapes(min_dims=1, max_dims=3, max_side=5)), st.data())
def test_average_is_the_nearest_code(q, data):
    axis = data.draw(st.none() | st.integers(-q.ndim, q.ndim - 1) | st.just(tuple(range(q.ndim))))
    y = quantized_average(q, axis)
    total = np.asarray(q.sum(axis=axis, dtype=np.int64))
    count = q.size // total.size
    assert y.dtype == q.dtype and y.shape == total.shape
    assert y.ravel().tolist() == [nearest(Fraction(int(t), count), "away") for t in total.ravel()]


@needs("ai_edge_litert")
@pytest.mark.parametrize("shape", [(2, 2, 500), (3, 3, 400), (1, 2, 400), (5, 7, 300)])
def test_average_is_that_of_litert(shape):
    codes = bytes_of(np.random.default_rng(19), shape, np.int8)
    assert np.array_equal(quantized_average(codes, (0, 1)), litert_oracle.averaged(codes))


@pytest.mark.parametrize("given, error, message", [
    ((np.empty((0, 3), np.int8), 0), ValueError, "q must hold at least one code along axis"),
    (([1, 2], 1), ValueError, "axis must lie in -1..0, got 1"),
    (([1, 2], (0, -1)), ValueError, "axis must not name an axis twice"),
    (([1, 2], 0.5), TypeError, "axis must be an integer"),
    (([0.5], 0), TypeError, "q must hold integers"),
])
def test_average_refuses(given, error, message):
    with pytest.raises(error, match=message):
        quantized_average(*given)


# A network, from pixel to class


@needs("ai_edge_litert")
@pytest.mark.parametrize("kernels, word", [("reference", "gemmlowp"), ("optimized", "ruy"), ("XNNPACK", "onnx")])
def test_digits_are_those_of_litert_at_every_place(kernels, word):
    network, theirs = litert_oracle.digits(), litert_oracle.digits_by(kernels)
    codes, hidden = load_sample("digit_pixels").astype(np.int8), []
    for i, layer in enumerate(network["layers"]):
        x = codes if i == 0 else hidden[-1]
        low, high = activation_range("relu" if i < 2 else "none", *layer["y"], "int8")
        real = [np.float32(layer["x"][0]) * layer["weight_scale"] / np.float32(layer["y"][0])] if word == "onnx" else \
            [float(layer["x"][0]) * layer["weight_scale"].astype(float) / float(layer["y"][0])]
        sums = matmul_integer(x, layer["weight"].T, layer["x"][1]) + layer["bias"]
        hidden.append(requantize(sums, *fixed_point(real[0]), layer["y"][1], "int8", word, low, high))
        if i == 1:
            places = [QParams(*map(float, place[:1]), int(place[1])) for place in (network["layers"][0]["y"], network["layers"][1]["y"], network["layers"][2]["x"])]
            hidden.append(quantized_add(hidden[0], places[0], hidden[1], places[1], places[2]))
    assert all(np.array_equal(ours, other) for ours, other in zip(hidden, theirs, strict=True))


# Machine code





def test_no_float_in_the_integer_rules():
    from numba import float32, int32

    for word, kernel in integer._ROUNDINGS.items():
        types = (int32, float32 if word == "onnx" else int32, int32)
        lines = instructions_of(assembly_for(kernel, types, "thumbv7m-none-eabi", "cortex-m3"))
        assert len(lines) > 5
        calls = [line.split()[1] for line in lines if line.split()[0] in ("bl", "blx", "b.w") and "LBB" not in line]
        assert bool(calls) == (word == "onnx"), (word, calls)
    with pytest.raises(ValueError, match="triple"):
        assembly_for(integer._single, (int32, int32, int32), "nowhere-none-none", "")
