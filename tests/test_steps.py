"""Chapter 2, `steps`: worked examples, round trips, properties and independent implementations."""

import copy
import dataclasses
import decimal
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from tests_support import needs, wide_long_double

from quant101 import steps
from quant101.samples import load_sample
from quant101.steps import (QParams, Rounding, cosine_similarity, dequantize, fake_quantize, max_abs_error, mse,
                            normalize, quantize, rescale, round_to_levels, sqnr_db)

RULES = [rule.value for rule in Rounding]
FIXED = [rule for rule in RULES if rule != "stochastic"]
FLOATS = [np.float16, np.float32, np.float64]
INT32 = dict(qmin=-2**31, qmax=2**31 - 1)
W = load_sample("attention_weight")

settings.register_profile("steps", deadline=None, derandomize=True, max_examples=150)
settings.load_profile("steps")


def exact_round(v, rule):
    """The rounding rules in exact arithmetic, by the words of their definitions."""
    v = Fraction(v)
    low, high = math.floor(v), math.ceil(v)
    to_low, to_high = v - low, high - v
    if low == high:
        return low
    if rule in ("down", "up"):
        return low if rule == "down" else high
    if rule == "toward-zero":
        return min(low, high, key=abs)
    if to_low != to_high:
        return low if to_low < to_high else high
    return {"half-even": low if low % 2 == 0 else high, "half-up": high,
            "half-away": max(low, high, key=abs)}[rule]


def int32_codes(values, rule):
    return [min(max(exact_round(v, rule), -2**31), 2**31 - 1) for v in values]


def layouts(x):
    """The same numbers in other layouts of memory, byte orders and containers."""
    spread = np.zeros(tuple(2 * n for n in x.shape), x.dtype)
    window = spread[tuple(slice(None, None, 2) for _ in x.shape)]
    window[...] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    mirrored = np.ascontiguousarray(np.flip(x))
    return {"fortran": np.asfortranarray(x), "strided": window, "read-only": frozen, "reversed": np.flip(mirrored),
            "big-endian": x.astype(x.dtype.newbyteorder(">")), "transposed twice": np.ascontiguousarray(x.T).T}


# ---------------------------------------------------------------- the vector worked by hand

def test_worked_vector_every_intermediate():
    x, levels = [3, 1, 2, 3], [0, 2, 4]
    assert normalize(x).tolist() == [1, 1 / 3, 2 / 3, 1]
    scaled = rescale(normalize(x), levels)
    assert scaled == pytest.approx([4, 4 / 3, 8 / 3, 4], rel=1e-15)
    assert round_to_levels(scaled, levels, "down").tolist() == [4, 0, 2, 4]
    assert round_to_levels(scaled, levels).tolist() == [4, 2, 2, 4]
    back = rescale(np.array([4, 0, 2, 4]) / 4, x)
    assert back.tolist() == [3, 0, 1.5, 3]
    whole = quantize(back, QParams(1.0), "half-up")
    assert whole.tolist() == [3, 0, 2, 3]
    assert (whole - x).tolist() == [0, -1, 0, 0]


def test_tie_rule_decides_the_vectors_of_later_chapters():
    a, b = np.array([30.0, 10, 20, 30]), np.array([0.0, 2, 2, 0])
    assert quantize(a, QParams(4.0), "half-away").tolist() == [8, 3, 5, 8]
    assert quantize(b, QParams(4.0), "half-away").tolist() == [0, 1, 1, 0]
    assert quantize(a, QParams(4.0)).tolist() == [8, 2, 5, 8]
    assert quantize(b, QParams(4.0)).tolist() == [0, 0, 0, 0]
    x = np.array([-2.5, -1, 0, 1, 3.5])
    assert quantize(x, QParams(3.5 / 127)).tolist() == [-91, -36, 0, 36, 127]
    shifted = QParams(6 / 255, 106, 0, 255)
    assert quantize(x, shifted, "half-away").tolist() == [0, 63, 106, 149, 255]
    assert quantize(x, shifted).tolist() == [0, 64, 106, 148, 255]


# ---------------------------------------------------------------- rounding

NEAR_HALF = [0.5, np.nextafter(0.5, 0), np.nextafter(0.5, 1), float(np.nextafter(np.float32(0.5), np.float32(0)))]
EDGES = [s * v for s in (1, -1) for v in NEAR_HALF + [
    0.0, 5e-324, 1e-30, 1.0, 1.5, 2.5, 3.5, 126.5, 127.5, 2.0**22 + 0.5, 2.0**23 - 0.5, 2.0**23 + 1, 2.0**24 + 2,
    2.0**31 - 1.5, 2.0**31 - 0.5, 2.0**31, 2.0**51 + 0.5, 2.0**52 - 0.5, 2.0**52 + 1, 2.0**53 + 2, 1e30, 1.7e308]]


@pytest.mark.parametrize("rule", FIXED)
def test_rounding_edges_exactly(rule):
    for dtype in (np.float64, np.float32):
        with np.errstate(over="ignore", under="ignore"):
            x = np.array(EDGES, dtype)
        x = x[np.isfinite(x)]
        assert quantize(x, QParams(1.0, **INT32), rule).tolist() == int32_codes(x.tolist(), rule)


@pytest.mark.parametrize("rule", FIXED)
@given(v=st.floats(allow_nan=False, allow_infinity=False) | st.integers(-10**6, 10**6).map(lambda i: i / 4))
def test_rounding_against_fractions(rule, v):
    assert quantize(v, QParams(1.0, **INT32), rule) == int32_codes([v], rule)[0]


@pytest.mark.parametrize("rule, word", [("half-even", decimal.ROUND_HALF_EVEN), ("half-away", decimal.ROUND_HALF_UP),
                                        ("down", decimal.ROUND_FLOOR), ("up", decimal.ROUND_CEILING),
                                        ("toward-zero", decimal.ROUND_DOWN)])
@given(v=st.floats(-1e9, 1e9) | st.integers(-10**6, 10**6).map(lambda i: i / 2))
def test_rounding_against_the_decimal_module(rule, word, v):
    assert quantize(v, QParams(1.0, **INT32), rule) == int(decimal.Decimal(v).quantize(decimal.Decimal(1), word))


@pytest.mark.parametrize("rule, function", [("half-even", np.rint), ("down", np.floor), ("up", np.ceil),
                                            ("toward-zero", np.trunc)])
def test_rounding_against_numpy(rule, function):
    x = np.random.default_rng(0).normal(0, 30, 10_000).astype(np.float32)
    x[::7] = np.rint(x[::7]) + np.float32(0.5)
    assert np.array_equal(quantize(x, QParams(1.0, **INT32), rule), function(x))


def test_rounding_members_and_words_are_the_same():
    x = np.arange(-10, 11) / 4
    for rule in Rounding:
        assert rule == rule.value and Rounding(rule.value) is rule
        assert np.array_equal(quantize(x, QParams(1.0), rule, seed=3), quantize(x, QParams(1.0), rule.value, seed=3))
    assert RULES == ["half-even", "half-away", "half-up", "down", "up", "toward-zero", "stochastic"]


@pytest.mark.parametrize("word", ["nearest", "HALF_EVEN", "", None, 0, 1.5, [], ["down"]])
def test_unknown_rounding_is_refused_with_the_known_words(word):
    for f in (lambda: quantize([1.0], QParams(1.0), word), lambda: round_to_levels([1.0], [0, 2], word),
              lambda: fake_quantize([1.0], QParams(1.0), word)):
        error, rule = (ValueError, "one of half-even, .*stochastic") if isinstance(word, str) else (TypeError, "a Rounding or its word")
        with pytest.raises(error, match=f"rounding must be {rule}, got"):
            f()


def test_stochastic_is_floor_of_v_plus_u():
    x = np.random.default_rng(1).normal(0, 20, 5000)
    u = np.random.default_rng(42).random(5000)
    assert np.array_equal(quantize(x, QParams(1.0), "stochastic", seed=42), np.clip(np.floor(x + u), -128, 127))
    assert np.array_equal(quantize(x.reshape(50, 100), QParams(np.ones(100), axis=1), "stochastic", seed=42).ravel(),
                          np.clip(np.floor(x + u), -128, 127))


def test_stochastic_keeps_the_mean_and_takes_only_the_neighbours():
    for v in (0.3, -0.3, 2.25, -2.75, 0.01, -0.99):
        q = quantize(np.full(40_000, v), QParams(1.0), "stochastic", seed=0)
        assert set(q.tolist()) <= {math.floor(v), math.ceil(v)}
        assert abs(q.mean() - v) < 5 * 0.5 / math.sqrt(q.size)


def test_stochastic_never_moves_an_integer():
    draws = np.full(3, np.nextafter(1.0, 0))
    for v in (0.0, -0.0, 5.0, -5.0, 2.0**40, -2.0**52, 2.0**52 + 1, -np.inf, np.inf):
        assert all(steps._stochastic(v, u) == v for u in (0.0, 0.5, *draws))
    assert steps._stochastic(-1e-300, 2.0**-53) == 0 and steps._stochastic(1e-300, draws[0]) == 0


def test_stochastic_seed():
    x = np.random.default_rng(2).normal(0, 5, 1000)
    q = QParams(1.0)
    assert np.array_equal(quantize(x, q, "stochastic", seed=1), quantize(x, q, "stochastic", seed=1))
    assert not np.array_equal(quantize(x, q, "stochastic", seed=1), quantize(x, q, "stochastic", seed=2))
    rng = np.random.default_rng(1)
    first, second = (quantize(x, q, "stochastic", seed=rng) for _ in range(2))
    assert np.array_equal(first, quantize(x, q, "stochastic", seed=1)) and not np.array_equal(first, second)
    state = np.random.get_state()[1].copy()
    quantize(x, q, "stochastic", seed=0)
    assert np.array_equal(np.random.get_state()[1], state)
    for f in (quantize, fake_quantize):
        with pytest.raises(ValueError, match="seed must be given for stochastic rounding, got None"):
            f(x, q, "stochastic")
    with pytest.raises(ValueError, match="seed must be given"):
        round_to_levels(x, [0, 1], "stochastic")


# ---------------------------------------------------------------- levels

def exact_level(x, levels, rule):
    """round_to_levels for one value, in exact arithmetic."""
    x = min(max(Fraction(x), Fraction(levels[0])), Fraction(levels[-1]))
    if x in [Fraction(level) for level in levels]:
        return float(x)
    j = max(i for i, level in enumerate(levels) if Fraction(level) < x)
    low, high = levels[j], levels[j + 1]
    if rule in ("down", "up"):
        return low if rule == "down" else high
    if rule == "toward-zero":
        return high if abs(high) < abs(low) else low
    to_low, to_high = x - Fraction(low), Fraction(high) - x
    if to_low != to_high:
        return low if to_low < to_high else high
    return {"half-even": low if j % 2 == 0 else high, "half-up": high,
            "half-away": high if abs(high) >= abs(low) else low}[rule]


quarters = st.integers(-60, 60).map(lambda i: i / 4)


@pytest.mark.parametrize("rule", FIXED)
@given(x=st.lists(quarters | st.floats(-1e6, 1e6, width=32), max_size=8),
       levels=st.lists(quarters, min_size=1, max_size=7, unique=True).map(sorted))
def test_levels_against_exact_arithmetic(rule, x, levels):
    assert round_to_levels(np.array(x, float), levels, rule).tolist() == [exact_level(v, levels, rule) for v in x]


@pytest.mark.parametrize("rule", RULES)
def test_integer_levels_are_the_integer_quantizer(rule):
    x = np.concatenate([np.arange(-48, 48) / 4, np.random.default_rng(0).normal(0, 5, 2000), [-np.inf, np.inf]])
    codes = quantize(x, QParams(1.0, qmin=-8, qmax=7), rule, seed=5)
    assert np.array_equal(round_to_levels(x, np.arange(-8, 8), rule, seed=5), codes)


def test_levels_stochastic_mean_on_uneven_levels():
    y = round_to_levels(np.full(40_000, 2.0), [-1, 1, 5], "stochastic", seed=0)
    assert set(y.tolist()) == {1.0, 5.0} and abs(y.mean() - 2) < 5 * 4 * 0.44 / 200
    assert round_to_levels([1.0, 5.0, 9.0], [-1, 1, 5], "stochastic", seed=0).tolist() == [1, 5, 5]


@pytest.mark.parametrize("levels, what", [([], "got \\[\\]"), ([4, 2, 0], "got \\[4. 2. 0.\\]"), ([0, 1, 1], "increasing"),
                                          ([0, np.nan], "finite"), ([0, np.inf], "finite"), (3.0, "vector"), ([[0, 1]], "vector")])
def test_levels_refused(levels, what):
    with pytest.raises(ValueError, match="levels must be a vector of finite, strictly increasing numbers.*"):
        round_to_levels([1.0], levels)
    with pytest.raises(ValueError, match=what):
        round_to_levels([1.0], levels)


def test_levels_shapes_types_and_layouts():
    levels = [-2, 0, 3]
    assert round_to_levels(1.4, levels).shape == () and isinstance(round_to_levels(1.4, levels), np.ndarray)
    assert round_to_levels(np.empty((3, 0)), levels).shape == (3, 0)
    assert round_to_levels([-np.inf, np.inf, -99, 99], levels).tolist() == [-2, 3, -2, 3]
    assert round_to_levels([7.0, -7.0], [1.5]).tolist() == [1.5, 1.5]
    x = np.random.default_rng(0).normal(0, 2, (6, 8)).astype(np.float32)
    for rule in RULES:
        for name, view in layouts(x).items():
            assert np.array_equal(round_to_levels(view, levels, rule, 1), round_to_levels(x, levels, rule, 1)), name
    for dtype in (np.float16, np.int8, np.uint8, np.int64):
        assert round_to_levels(np.array([0, 1, 2], dtype), levels).tolist() == [0, 0, 3]
    with pytest.raises(ValueError, match=r"x must not hold NaN, got 2 of them, the first at index \(1, 0\)"):
        round_to_levels([[1, 2], [np.nan, np.nan]], levels)


# ---------------------------------------------------------------- normalize and rescale

@given(x=hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(-1e100, 1e100)))
def test_normalize_and_back(x):
    assume(np.abs(x).max() > 1e-100)
    n = normalize(x)
    assert np.abs(n).max() == 1
    assert np.allclose(rescale(n, x), x, rtol=1e-15, atol=np.abs(x).max() * 1e-322)


def test_normalize_and_rescale_types():
    for dtype in FLOATS:
        x = np.array([1, -2, 0.5], dtype)
        assert normalize(x).dtype == dtype and rescale(x, [0, 3]).dtype == dtype
        assert normalize(x).tolist() == [0.5, -1, 0.25] and rescale(x, -3).tolist() == [3, -6, 1.5]
    assert normalize(np.array([-128, 64], np.int8)).tolist() == [-1, 0.5]
    assert rescale(np.array([-128, 64], np.int8), np.int8(-128)).tolist() == [-16384, 8192]
    assert normalize(-4).shape == () and isinstance(normalize(-4), np.ndarray) and normalize(-4) == -1
    assert rescale([], [1, 2]).shape == (0,)
    assert rescale(np.float16([0, 0.5, -1]), 8e4).tolist() == [0, 40000, -np.inf]  # 8e4 itself is infinite in float16
    assert rescale(np.float32(0), 1e40) == 0 and rescale(np.float32(0), 1e40).shape == ()
    x = np.random.default_rng(0).normal(0, 1, (4, 6)).astype(np.float32)
    for name, view in layouts(x).items():
        assert np.array_equal(normalize(view), normalize(x)), name
        assert np.array_equal(rescale(view, [0, 7]), rescale(x, [0, 7])), name


@pytest.mark.parametrize("bad, what", [([], "at least one value"), (np.empty((3, 0)), r"shape \(3, 0\)"), ([1, np.nan], "finite"),
                                       ([1, -np.inf], "finite, got -inf"), ([0.0, 0], "other than 0"), (0, "other than 0")])
def test_normalize_and_rescale_refuse(bad, what):
    with pytest.raises(ValueError, match=f"x must .*{what}"):
        normalize(bad)
    with pytest.raises(ValueError, match=f"levels must .*{what}"):
        rescale([1.0], bad)


# ---------------------------------------------------------------- QParams

@pytest.mark.parametrize("qmin, qmax, dtype", [
    (0, 1, "uint8"), (0, 15, "uint8"), (0, 255, "uint8"), (-8, 7, "int8"), (-127, 127, "int8"), (-128, 127, "int8"),
    (-1, 0, "int8"), (-128, 128, "int16"), (-129, 0, "int16"), (0, 256, "uint16"), (0, 65535, "uint16"),
    (-1, 32767, "int16"), (-1, 32768, "int32"), (0, 65536, "uint32"), (0, 2**32 - 1, "uint32"), (-2**31, 2**31 - 1, "int32"),
    (5, 9, "uint8"), (-9, -5, "int8")])
def test_codes_take_the_smallest_type(qmin, qmax, dtype):
    qparams = QParams(1.0, zero_point=qmin, qmin=qmin, qmax=qmax)
    assert qparams.dtype == np.dtype(dtype)
    q = quantize([-1e30, 1e30], qparams)
    assert q.dtype == np.dtype(dtype) and q.tolist() == [qmin, qmax]


def test_qparams_defaults_and_kinds_of_scale():
    p = QParams(0.5)
    assert (p.scale, p.zero_point, p.qmin, p.qmax, p.axis, p.group_size, p.dtype) == (0.5, 0, -128, 127, None, None, np.int8)
    assert type(p.scale) is float and type(QParams(2).scale) is float and type(p.zero_point) is int
    assert QParams(np.float32(0.1)).scale.dtype == np.float32 and QParams(np.float32(0.1)).scale.shape == ()
    assert QParams(np.float64(0.1)).scale.dtype == np.float64 and isinstance(QParams(np.float64(0.1)).scale, np.ndarray)
    assert QParams(np.float16(0.5)).scale.dtype == np.float16 and QParams(np.int32(2)).scale.dtype == np.float64
    assert QParams([0.5, 1], axis=0).scale.dtype == np.float64 and QParams(np.array([1, 2]), axis=0).scale.dtype == np.float64
    assert QParams([1.0, 2.0], [3, 4], axis=0).zero_point.dtype == np.int64
    assert QParams(np.array([0.5], ">f4"), axis=0).scale.dtype == np.dtype("=f4")


def test_qparams_is_frozen_and_owns_its_arrays():
    scale, zero_point = np.array([1.0, 2.0]), np.array([3, 4])
    p = QParams(scale, zero_point, axis=0)
    scale[0], zero_point[0] = 99, 99
    assert p.scale.tolist() == [1, 2] and p.zero_point.tolist() == [3, 4]
    for array in (p.scale, p.zero_point):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        p.scale = 1.0
    assert dataclasses.replace(p, qmax=7).qmax == 7
    assert p == copy.deepcopy(p) == pickle.loads(pickle.dumps(p))


def test_qparams_equality_is_by_value_and_type():
    assert QParams(0.5) == QParams(0.5) and QParams(0.5) != QParams(0.25) and QParams(0.5) != 0.5
    assert QParams([1.0, 2.0], axis=0) == QParams([1.0, 2.0], axis=0) != QParams([1.0, 3.0], axis=0)
    assert QParams(0.5) != QParams(np.float32(0.5)) and QParams(0.5, qmax=7) != QParams(0.5)
    assert QParams([1.0, 2.0], axis=0) != QParams([1.0, 2.0], axis=1) != QParams([1.0, 2.0], group_size=1)


@pytest.mark.parametrize("kwargs, error, message", [
    (dict(scale=np.nan), ValueError, "scale must be finite, got nan"),
    (dict(scale=np.inf), ValueError, "scale must be finite, got inf"),
    (dict(scale=[1.0, -np.inf], axis=0), ValueError, "scale must be finite, got -inf"),
    (dict(scale=1j), TypeError, "scale must"), (dict(scale="1"), TypeError, "scale must"),
    (dict(scale=None), TypeError, "scale must"), (dict(scale=True), TypeError, "scale must"),
    (dict(scale=[1.0, 2.0]), ValueError, r"scale must be a single number .*got shape \(2,\)"),
    (dict(scale=1.0, axis=0), ValueError, r"scale must be a vector.*got shape \(\)"),
    (dict(scale=[[1.0], [2.0]], axis=1), ValueError, r"scale must be a vector.*got shape \(2, 1\)"),
    (dict(scale=[[1.0], [2.0]], axis=-1), ValueError, r"scale must be a vector.*got shape \(2, 1\)"),
    (dict(scale=[[1.0, 2.0], [3.0, 4.0]], axis=0), ValueError, r"scale must be a vector.*got shape \(2, 2\)"),
    (dict(scale=[1.0], axis=0, group_axis=0), ValueError, "group_axis must be left alone without group_size, got 0"),
    (dict(scale=1.0, group_axis=0), ValueError, "group_axis must be left alone without group_size, got 0"),
    (dict(scale=[1.0], group_size=1, group_axis=None), TypeError, "group_axis must be an integer"),
    (dict(scale=1.0, group_size=4), ValueError, "scale must hold one step per group"),
    (dict(scale=[1.0], axis=0, group_size=4), ValueError, "axis and group_size must not be given together, got 0 and 4"),
    (dict(scale=[1.0], group_size=0), ValueError, "group_size must be at least 1, got 0"),
    (dict(scale=[1.0], group_size=2.0), TypeError, "group_size must be an integer, got float"),
    (dict(scale=[1.0], axis=0.0), TypeError, "axis must be an integer, got float"),
    (dict(scale=[1.0], axis=True), TypeError, "axis must be an integer, got bool"),
    (dict(scale=[1.0], axis=np.array([0])), TypeError, "axis must be an integer"),
    (dict(scale=1.0, zero_point=2**32 + 1), ValueError, r"zero_point must lie within 2\*\*32 of 0, got 4294967297"),
    (dict(scale=[1.0, 1.0], axis=0, zero_point=[0, -2**33]), ValueError, "zero_point must lie within .*, got -8589934592"),
    (dict(scale=1.0, zero_point=2**63), ValueError, "zero_point must lie within"),
    (dict(scale=1.0, zero_point=np.nan), ValueError, "zero_point must be finite, got nan"),
    (dict(scale=1.0, zero_point=-np.inf), ValueError, "zero_point must be finite, got -inf"),
    (dict(scale=1.0, zero_point=False), TypeError, "zero_point must"),
    (dict(scale=1.0, zero_point=[0, 0]), ValueError, r"zero_point must be one number .*got \(2,\)"),
    (dict(scale=[1.0, 1.0], axis=0, zero_point=[0]), ValueError, r"zero_point must .* shape \(2,\), got \(1,\)"),
    (dict(scale=1.0, qmin=5, qmax=5), ValueError, "qmin must be smaller than qmax, got 5 and 5"),
    (dict(scale=1.0, qmin=127, qmax=-128), ValueError, "qmin must be smaller than qmax"),
    (dict(scale=1.0, qmin=-1, qmax=2**31), ValueError, "must fit one integer type of at most 32 bits"),
    (dict(scale=1.0, qmax=2**32), ValueError, "must fit one integer type of at most 32 bits"),
    (dict(scale=1.0, qmin=-128.0), TypeError, "qmin must be an integer, got float"),
    (dict(scale=1.0, qmax="127"), TypeError, "qmax must be an integer"),
    (dict(scale=1.0, qmax=True), TypeError, "qmax must be an integer, got bool"),
])
def test_qparams_refuses(kwargs, error, message):
    with pytest.raises(error, match=message):
        QParams(**kwargs)


def test_numpy_integers_are_integers():
    p = QParams(1.0, np.int8(3), np.int64(-8), np.uint8(7))
    assert quantize([0.0, 9.0, -99.0], p).tolist() == [3, 7, -8]
    assert np.array_equal(quantize(W[:2], QParams([1.0, 1], axis=np.int64(0))), quantize(W[:2], QParams(1.0)))


# ---------------------------------------------------------------- quantize against plain NumPy

def numpy_quantize(x, scale, zero_point, qmin, qmax):
    """Broadcast scale and zero point already; division as NumPy does it, the rest in float64."""
    return np.clip(np.rint((x / scale).astype(np.float64)) + zero_point, qmin, qmax)


shapes = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=6)


@given(data=st.data(), shape=shapes, dtype=st.sampled_from([np.float32, np.float64]),
       limits=st.sampled_from([(-128, 127), (0, 255), (-8, 7), (0, 15), (-32768, 32767), (-2**31, 2**31 - 1)]))
def test_three_shapes_of_scale_against_numpy(data, shape, dtype, limits):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x = rng.normal(0, 50, shape).astype(dtype)
    qmin, qmax = limits
    draw = lambda size: (rng.uniform(0.01, 2, size).astype(dtype), rng.integers(qmin, qmax, size, endpoint=True))

    scale, zero_point = draw(())
    q = quantize(x, QParams(dtype(scale), int(zero_point), qmin, qmax))
    assert np.array_equal(q, numpy_quantize(x, dtype(scale), int(zero_point), qmin, qmax))

    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    scale, zero_point = draw(shape[axis])
    spread = [1] * len(shape)
    spread[axis] = shape[axis]
    p = QParams(scale, zero_point, qmin, qmax, axis=axis)
    expected = numpy_quantize(x, scale.reshape(spread), zero_point.reshape(spread), qmin, qmax)
    assert np.array_equal(quantize(x, p), expected)
    back = (expected.astype(np.int64) - zero_point.reshape(spread)) * scale.reshape(spread).astype(np.float64)
    assert np.array_equal(dequantize(quantize(x, p), p), back.astype(dtype))

    group_size = data.draw(st.sampled_from([g for g in range(1, shape[-1] + 1) if shape[-1] % g == 0]))
    groups = shape[:-1] + (shape[-1] // group_size,)
    scale, zero_point = draw(groups)
    p = QParams(scale, zero_point, qmin, qmax, group_size=group_size)
    expected = numpy_quantize(x.reshape(groups + (group_size,)), scale[..., None], zero_point[..., None], qmin, qmax)
    assert np.array_equal(quantize(x, p), expected.reshape(shape))
    assert dequantize(quantize(x, p), p).dtype == dtype


@pytest.mark.parametrize("rule", RULES)
def test_one_path_for_every_shape_of_scale(rule):
    x = np.random.default_rng(0).normal(0, 3, (6, 8)).astype(np.float32)
    one = quantize(x, QParams(np.float32(0.1), 3), rule, seed=9)
    for p in (QParams(np.full(6, 0.1, np.float32), 3, axis=0), QParams(np.full(8, 0.1, np.float32), 3, axis=-1),
              QParams(np.full((6, 2), 0.1, np.float32), 3, group_size=4), QParams(np.full((6, 1), 0.1, np.float32), 3, group_size=8)):
        assert np.array_equal(quantize(x, p, rule, seed=9), one)


def test_every_channel_has_its_own_scale():
    rows = np.abs(W).max(axis=1) / 127
    q = quantize(W, QParams(rows, axis=0))
    for i in (0, 17, 383):
        assert np.array_equal(q[i], quantize(W[i], QParams(rows[i])))
    columns = np.abs(W).max(axis=0) / 127
    assert np.array_equal(quantize(W, QParams(columns, axis=1)), quantize(W.T, QParams(columns, axis=0)).T)


def test_saturation_and_huge_values():
    huge = np.array([1e30, -1e30, np.inf, -np.inf, 2.0**31, -2.0**31, 2.0**63, 3e38])
    for dtype in (np.float32, np.float64):
        for qmin, qmax in ((-128, 127), (0, 255), (-2**31, 2**31 - 1), (0, 2**32 - 1), (-8, 7)):
            q = quantize(huge.astype(dtype), QParams(1.0, qmin=qmin, qmax=qmax))
            assert q.tolist() == [int(min(max(v, qmin), qmax)) for v in huge]
    assert quantize(np.float16([np.inf, -np.inf, 65504]), QParams(1.0)).tolist() == [127, -128, 127]
    assert quantize(np.array([1e308, -1e308]), QParams(1e-300)).tolist() == [127, -128]  # the quotient overflows
    assert quantize(np.array([2**63 - 1, -2**63]), QParams(1.0)).tolist() == [127, -128]
    assert quantize(np.array([2**64 - 1], np.uint64), QParams(1.0, **INT32)).tolist() == [2**31 - 1]


def test_no_code_is_lost_beside_a_large_zero_point():
    x = np.arange(-50, 50, dtype=np.float32)
    for z in (2**24 + 1, 2**30 + 1, -2**30 - 1, 2**31 - 60):
        p = QParams(np.float32(1), z, **INT32)
        assert np.array_equal(quantize(x, p), x.astype(np.int64) + z)
        assert np.array_equal(dequantize(quantize(x, p), p), x)


def test_zero_point_is_added_after_rounding():
    assert quantize([0.5, 1.5, -0.5], QParams(1.0, 1)).tolist() == [1, 3, 1]
    assert quantize([-0.5, 0.5], QParams(1.0, 100), "half-away").tolist() == [99, 101]
    assert quantize([-0.5, 0.5], QParams(1.0, 100), "toward-zero").tolist() == [100, 100]


def test_division_is_real_and_in_the_type_numpy_gives():
    rng = np.random.default_rng(0)
    scale = np.float32(0.1)
    x = ((rng.integers(-100, 100, 20_000) + 0.5) * 0.1).astype(np.float32)  # next to ties
    q = quantize(x, QParams(scale))
    assert np.array_equal(q, np.rint(x / scale))
    assert not np.array_equal(q, np.rint(x * (np.float32(1) / scale)))  # the reciprocal would differ
    assert np.array_equal(quantize(x, QParams(0.1)), q)  # a Python float takes the type of x
    in_double = quantize(x, QParams(np.float64(0.1)))
    assert np.array_equal(in_double, np.rint(x / np.float64(0.1))) and not np.array_equal(in_double, q)
    assert np.array_equal(quantize(x.astype(np.float64), QParams(scale)), np.rint(x.astype(np.float64) / scale))
    half = x.astype(np.float16)
    assert np.array_equal(quantize(half, QParams(0.1)), np.rint(half.astype(np.float32) / scale))
    integers = rng.integers(-100, 100, 1000)
    for dtype in (np.int8, np.int16, np.int32, np.int64):
        assert np.array_equal(quantize(integers.astype(dtype), QParams(0.7)), np.clip(np.rint(integers / 0.7), -128, 127))
    assert np.array_equal(quantize(integers.astype(np.int8), QParams(np.float32(0.7))),
                          np.clip(np.rint(integers.astype(np.int8) / np.float32(0.7)), -128, 127))


def test_scale_must_hold_in_the_type_of_the_division():
    for scale in (1e-60, 1e60):
        assert quantize(np.float64([scale]), QParams(scale)).tolist() == [1]
        with pytest.raises(ValueError, match="scale must be finite and greater than 0, got .* in float32"):
            quantize(np.float32([1.0]), QParams(scale))


# ---------------------------------------------------------------- properties

finite32 = st.floats(-1e6, 1e6, width=32)
steps_wide = st.floats(2.0**-10, 2.0**10, width=32)


@pytest.mark.parametrize("rule", RULES)
@given(x=hnp.arrays(np.float32, st.integers(0, 30), elements=finite32), scale=steps_wide, z=st.integers(-128, 127))
def test_error_is_bounded_unless_clipped(rule, x, scale, z):
    p = QParams(np.float32(scale), z)
    y = dequantize(quantize(x, p, rule, seed=0), p)
    lowest, highest = (p.qmin - z) * p.scale, (p.qmax - z) * p.scale
    inside = (x >= lowest) & (x <= highest)
    bound = scale * (0.5 if rule.startswith("half") else 1)
    slack = 4e-7 * np.maximum(np.abs(x), scale)  # the division and the product are rounded once each
    assert (np.abs(y - x)[inside] <= bound + slack[inside]).all()
    assert (y[x > highest] == highest).all() and (y[x < lowest] == lowest).all()


@pytest.mark.parametrize("rule", FIXED)
@given(x=hnp.arrays(np.float64, st.integers(0, 30), elements=st.floats(allow_nan=False)), scale=steps_wide,
       z=st.integers(-128, 127))
def test_monotone(rule, x, scale, z):
    q = quantize(np.sort(x), QParams(scale, z), rule).astype(int)
    assert (np.diff(q) >= 0).all()


@pytest.mark.parametrize("dtype, bits", [(np.float32, 8), (np.float64, 8), (np.float32, 16), (np.float64, 31), (np.float16, 8)])
@given(data=st.data())
def test_fake_quantize_is_idempotent(dtype, bits, data):
    scale = data.draw(st.floats(2.0**-6, 4.0, width=16))
    x = data.draw(hnp.arrays(dtype, st.integers(0, 20), elements=st.floats(-1000, 1000, width=16)))
    p = QParams(dtype(scale) if dtype != np.float16 else scale, qmin=-2 ** (bits - 1), qmax=2 ** (bits - 1) - 1)
    once = fake_quantize(x, p)
    assert np.array_equal(fake_quantize(once, p), once)


@given(q=hnp.arrays(np.int8, st.integers(0, 50)), scale=st.floats(2.0**-20, 2.0**20, width=32), z=st.integers(-128, 127))
def test_codes_survive_the_round_trip(q, scale, z):
    for step in (float(scale), np.float32(scale), np.float64(scale)):
        p = QParams(step, z)
        assert np.array_equal(quantize(dequantize(q, p), p), q)


def test_all_codes_survive_every_rule_on_exact_steps():
    for dtype in FLOATS:
        p = QParams(0.25, 5)
        values = dequantize(np.arange(-128, 128), p).astype(dtype)
        for rule in RULES:
            assert np.array_equal(quantize(values, p, rule, seed=0), np.arange(-128, 128))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", FLOATS + [np.int16, np.uint8])
def test_same_result_for_any_layout(dtype, rule):
    rng = np.random.default_rng(3)
    x = (rng.normal(0, 20, (4, 6, 8)) if np.dtype(dtype).kind == "f" else rng.integers(0, 99, (4, 6, 8))).astype(dtype)
    for p in (QParams(0.7, 3), QParams(rng.uniform(0.1, 1, 6), axis=1), QParams(rng.uniform(0.1, 1, (4, 6, 2)), group_size=4)):
        expected = quantize(x, p, rule, seed=11)
        back = dequantize(expected, p)
        for name, view in layouts(x).items():
            before = view.copy()
            assert np.array_equal(quantize(view, p, rule, seed=11), expected), name
            assert np.array_equal(view, before), name
        for name, view in layouts(expected).items():
            assert np.array_equal(dequantize(view, p), back), name
        assert np.array_equal(quantize(x.tolist(), p, rule, seed=11), quantize(np.array(x.tolist()), p, rule, seed=11))


def test_zero_dimensional_and_empty():
    for x in (3.2, np.float32(3.2), np.array(3.2), 3):
        for f in (lambda: quantize(x, QParams(1.0)), lambda: fake_quantize(x, QParams(1.0)),
                  lambda: dequantize(quantize(x, QParams(1.0)), QParams(1.0))):
            assert type(f()) is np.ndarray and f().shape == () and f() == 3
    assert type(dequantize(5, QParams(0.5))) is np.ndarray and dequantize(np.int8(5), QParams(0.5)) == 2.5
    for rule in RULES:
        for shape in ((0,), (0, 3), (3, 0), (2, 0, 4)):
            x = np.empty(shape, np.float32)
            for p in (QParams(0.5), QParams(np.ones(shape[-1]), axis=-1), QParams(np.ones(shape[0]), axis=0)):
                assert quantize(x, p, rule, seed=0).shape == shape and quantize(x, p, rule, seed=0).dtype == np.int8
                assert fake_quantize(x, p, rule, seed=0).shape == shape
        assert quantize(np.empty((0, 8)), QParams(np.empty((0, 2)), group_size=4), rule, seed=0).shape == (0, 8)
        assert quantize(np.empty((3, 0)), QParams(np.empty((3, 0)), group_size=4), rule, seed=0).shape == (3, 0)
    assert quantize([], QParams(1.0)).dtype == np.int8


# ---------------------------------------------------------------- dequantize and fake_quantize

def test_dequantize_types():
    q = np.array([-2, 0, 3])
    assert dequantize(q, QParams(0.1)).dtype == np.float64
    assert dequantize(q, QParams(np.float32(0.1))).dtype == np.float32
    assert dequantize(q, QParams(np.float64(0.1))).dtype == np.float64
    assert np.array_equal(dequantize(q, QParams(np.float32(0.1))), q.astype(np.float32) * np.float32(0.1))
    for dtype in (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64):
        p = QParams(0.5, 100, 0, 255)
        assert dequantize(np.array([0, 100, 255 if dtype != np.int8 else 127], dtype), p)[:2].tolist() == [-50, 0]


def test_dequantize_is_rounded_once_even_for_wide_codes():
    p = QParams(1.0, -2**31, **INT32)
    assert dequantize([2**31 - 1, -2**31], p).tolist() == [2.0**32 - 1, 0]
    q = np.random.default_rng(0).integers(-2**23, 2**23, 1000)
    s = np.float32(0.3)
    assert np.array_equal(dequantize(q, QParams(s, **INT32)), q.astype(np.float32) * s)


def test_dequantize_refuses():
    p = QParams(0.5, qmin=-8, qmax=7)
    for q in ([1.0], np.float32([1]), 1.0):
        with pytest.raises(TypeError, match="q must hold integers, got float"):
            dequantize(q, p)
    for q in ([True], ["a"], [1j], [None]):
        with pytest.raises(TypeError, match="q must"):
            dequantize(q, p)
    for q, code in (([0, 8], 8), ([-9], -9), (np.array([255], np.uint8), 255), (np.array([2**63], np.uint64), 2**63)):
        with pytest.raises(ValueError, match=f"q must lie in qmin..qmax = -8..7, got {code}"):
            dequantize(q, p)
    with pytest.raises(ValueError, match="scale must have shape"):
        dequantize([[1, 2, 3]], QParams([1.0, 2.0], axis=1))


@pytest.mark.parametrize("rule", RULES)
def test_fake_quantize_is_there_and_back(rule):
    for dtype in FLOATS:
        x = np.random.default_rng(0).normal(0, 20, (5, 8)).astype(dtype)
        for p in (QParams(0.3, 4), QParams(np.float32(0.3), 4), QParams(np.full(8, 0.3), axis=1)):
            y = fake_quantize(x, p, rule, seed=2)
            assert y.dtype == dtype
            assert np.array_equal(y, dequantize(quantize(x, p, rule, seed=2), p).astype(dtype))
    assert fake_quantize(np.array([1, 2], np.int32), QParams(0.5)).dtype == np.float64
    assert fake_quantize(np.array([1, 2], np.int32), QParams(np.float32(0.5))).dtype == np.float32


def test_fake_quantize_overflow_of_a_small_type_is_silent():
    assert fake_quantize(np.float16([60000]), QParams(1000.0, 0, 0, 255)).tolist() == [60000]
    assert fake_quantize(np.float16([np.inf]), QParams(1000.0, 0, 0, 255)).tolist() == [np.inf]


# ---------------------------------------------------------------- bad data

@pytest.mark.parametrize("f", [quantize, fake_quantize])
def test_nan_is_refused_with_its_place(f):
    for dtype in FLOATS:
        x = np.zeros((3, 4), dtype)
        x[1, 2] = x[2, 0] = np.nan
        for view in (x, np.asfortranarray(x), x.astype(x.dtype.newbyteorder(">"))):
            for p in (QParams(1.0), QParams(np.ones(4), axis=1), QParams(np.ones((3, 2)), group_size=2)):
                with pytest.raises(ValueError, match=r"x must not hold NaN, got 2 of them, the first at index \(1, 2\)"):
                    f(view, p)
    with pytest.raises(ValueError, match=r"got 1 of them, the first at index \(\)"):
        f(np.nan, QParams(1.0))
    for rule in RULES:
        with pytest.raises(ValueError, match="x must not hold NaN"):
            f([np.nan], QParams(1.0), rule, seed=0)


@pytest.mark.parametrize("bad", [[1j], [None], ["1"], [True], np.array(["2020-01-01"], "M8[D]"), [object()],
                                 pytest.param(np.array([1], np.longdouble), marks=wide_long_double), [10**40]])
def test_types_that_are_not_real_are_refused(bad):
    for f, name in ((lambda: quantize(bad, QParams(1.0)), "x"), (lambda: fake_quantize(bad, QParams(1.0)), "x"),
                    (lambda: normalize(bad), "x"), (lambda: rescale(bad, 1), "x"), (lambda: rescale([1.0], bad), "levels"),
                    (lambda: round_to_levels(bad, [0, 1]), "x"), (lambda: round_to_levels([1.0], bad), "levels"),
                    (lambda: mse(bad, [1]), "x"), (lambda: sqnr_db([1], bad), "y"), (lambda: cosine_similarity(bad, bad), "x"),
                    (lambda: max_abs_error([1], bad), "y"), (lambda: QParams(bad, axis=0), "scale"),
                    (lambda: QParams([1.0], bad, axis=0), "zero_point")):
        with pytest.raises(TypeError, match=f"^{name} must"):
            f()


@pytest.mark.parametrize("shape, qparams, message", [
    ((4, 6), QParams(np.ones(4), axis=2), r"axis must be an axis of the data, whose shape is \(4, 6\), got 2"),
    ((4, 6), QParams(np.ones(4), axis=-3), "axis must be an axis of the data.*got -3"),
    ((), QParams([1.0], axis=0), r"axis must be .*shape is \(\), got 0"),
    ((4, 6), QParams(np.ones(4), axis=1), r"scale must have shape \(6,\) for data of shape \(4, 6\), got \(4,\)"),
    ((4, 6), QParams(np.ones(1), axis=0), r"scale must have shape \(4,\).*got \(1,\)"),
    ((4, 6), QParams(np.ones((4, 1)), group_size=4), r"scale must have shape \(4, 2\) for data of shape \(4, 6\), got \(4, 1\)"),
    ((4, 6), QParams(np.ones((4, 2)), group_size=2, group_axis=0), r"scale must have shape \(2, 6\).*got \(4, 2\)"),
    ((4, 6), QParams(np.ones((4, 2)), group_size=2, group_axis=2), "group_axis must be an axis of the data.*got 2"),
    ((4, 6), QParams(np.ones((6, 1))), r"scale must have shape \(4,\).*got \(6, 1\)"),
    ((4, 6), QParams(np.ones((2, 4, 1))), r"scale must broadcast to the shape of the data, \(4, 6\), got \(2, 4, 1\)"),
    ((4, 6), QParams(np.ones((2, 3))), r"scale must broadcast to the shape of the data, \(4, 6\), got \(2, 3\)"),
    ((4, 6), QParams(np.ones((4, 3)), group_size=3), r"scale must have shape \(4, 2\).*got \(4, 3\)"),
    ((4, 6), QParams(np.ones(8), group_size=3), r"scale must have shape \(4, 2\).*got \(8,\)"),
    ((), QParams([1.0], group_size=1), r"group_axis must be an axis of the data, whose shape is \(\), got -1"),
])
def test_scale_that_does_not_fit_is_refused(shape, qparams, message):
    for f in (quantize, fake_quantize):
        with pytest.raises(ValueError, match=message):
            f(np.zeros(shape), qparams)
    with pytest.raises(ValueError, match=message):
        dequantize(np.zeros(shape, np.int8), qparams)


# ---------------------------------------------------------------- measures

def test_measures_by_hand():
    x, y = [[3.0, 4.0]], [[3.0, 4.5]]
    assert mse(x, y) == 0.125 and max_abs_error(x, y) == 0.5
    assert sqnr_db(x, y) == pytest.approx(20, abs=1e-12)
    assert cosine_similarity([1, 0], [1, 1]) == pytest.approx(math.sqrt(0.5), rel=1e-15)
    assert cosine_similarity([1, 0], [0, 2]) == 0 and cosine_similarity([2, 4], [-1, -2]) == pytest.approx(-1)
    assert sqnr_db([1, 2], [1, 2]) == math.inf and sqnr_db([0, 0], [0, 0]) == math.inf
    assert sqnr_db([0, 0], [0, 1]) == -math.inf
    assert all(type(f([1, 2], [2, 1])) is float for f in (mse, max_abs_error, sqnr_db, cosine_similarity))
    assert mse(3, 1) == 4 and max_abs_error(np.uint8(0), np.uint8(255)) == 255 and mse(np.int8([-128]), np.int8([127])) == 255**2


@given(data=st.data(), n=st.integers(1, 50))
def test_measures_against_exact_sums(data, n):
    x, y = (data.draw(hnp.arrays(np.float32, n, elements=st.floats(-1e3, 1e3, width=32))) for _ in range(2))
    fx, fy = [Fraction(float(v)) for v in x], [Fraction(float(v)) for v in y]
    signal, noise = sum(a * a for a in fx), sum((a - b) ** 2 for a, b in zip(fx, fy))
    assert mse(x, y) == pytest.approx(float(noise / n), rel=1e-12, abs=1e-300)
    assert max_abs_error(x, y) == pytest.approx(float(max(abs(a - b) for a, b in zip(fx, fy))), rel=1e-15)
    assume(noise > 1e-60 and signal > 1e-60)
    assert sqnr_db(x, y) == pytest.approx(10 * math.log10(signal / noise), rel=1e-9, abs=1e-9)
    assume(sum(b * b for b in fy) > 1e-60)
    cosine = float(sum(a * b for a, b in zip(fx, fy))) / math.sqrt(float(signal) * float(sum(b * b for b in fy)))
    assert cosine_similarity(x, y) == pytest.approx(cosine, abs=1e-12) and -1 <= cosine_similarity(x, y) <= 1


def test_measures_accumulate_in_float64():
    x = np.full(10**6, np.float32(0.1))
    y = x + np.float32(1)
    assert mse(x, y) == pytest.approx(float((y[0].astype(float) - float(x[0])) ** 2), rel=1e-12)
    half = np.full(1000, 200, np.float16)
    assert mse(half, -half) == 160_000 and sqnr_db(half, half / 2) == pytest.approx(10 * math.log10(4))


def test_measures_scale_and_layout():
    assert sqnr_db(W, 0.9 * W) == pytest.approx(20, abs=1e-5) and cosine_similarity(W, 0.9 * W) == pytest.approx(1, abs=1e-12)
    assert cosine_similarity([1e300, 1e300], [1e-300, 1e-300]) == pytest.approx(1)
    y = fake_quantize(W, QParams(0.01))
    for name, view in layouts(W).items():
        for f in (mse, max_abs_error, sqnr_db, cosine_similarity):
            assert f(view, y) == pytest.approx(f(W, y), rel=1e-12), (name, f)


def test_measures_refuse():
    for f in (mse, max_abs_error, sqnr_db, cosine_similarity):
        with pytest.raises(ValueError, match=r"x and y must have the same shape, got \(2,\) and \(1, 2\)"):
            f([1, 2], [[1, 2]])
        with pytest.raises(ValueError, match="x and y must hold at least one value"):
            f([], [])
    with pytest.raises(ValueError, match="x must hold a value other than 0"):
        cosine_similarity([0, 0], [1, 2])


# ---------------------------------------------------------------- the theory, on real weights

def by_largest(w, bits):
    qmax = 2 ** (bits - 1) - 1
    return QParams(np.abs(w).max() / qmax, qmin=-qmax, qmax=qmax)


@pytest.mark.parametrize("name", ["attention_weight", "ffn_weight"])
def test_error_of_a_fine_step_is_uniform(name):
    w = load_sample(name)
    for bits in (6, 8, 10):
        p = by_largest(w, bits)
        error = (fake_quantize(w, p).astype(float) - w) / p.scale
        assert np.abs(error).max() <= 0.5 + 1e-5
        assert abs(error.var() * 12 - 1) < 0.02 and abs(error.mean()) < 0.005
        costs = [sqnr_db(w, fake_quantize(w, p)) - sqnr_db(w, fake_quantize(w, p, rule, seed=0)) for rule in ("down", "stochastic")]
        assert costs == pytest.approx([6.02, 3.01], abs=0.15)


def test_six_decibels_a_bit_on_real_weights():
    db = [sqnr_db(W, fake_quantize(W, by_largest(W, bits))) for bits in range(6, 15)]
    assert np.allclose(np.diff(db), 6.02, atol=0.3)
    assert db[2] == pytest.approx(34.70, abs=0.01)


def test_the_answers_to_the_exercises():
    p = by_largest(W, 8)
    q = quantize(W, p)
    assert np.array_equal(q, quantize(W, p, "half-up"))
    coarse = QParams(2.0, qmin=-64, qmax=64)
    assert round(np.mean(quantize(q, coarse) != quantize(q, coarse, "half-up")), 2) == 0.25


def test_stochastic_between_levels_further_apart_than_any_float():
    far = [-1.7e308, 1.7e308]
    drawn = round_to_levels(np.zeros(10_000), far, "stochastic", seed=0)
    assert set(drawn) == set(far) and abs(np.mean(drawn > 0) - 0.5) < 0.03
    quarter = round_to_levels(np.full(10_000, -0.85e308), far, "stochastic", seed=0)
    assert abs(np.mean(quarter > 0) - 0.25) < 0.03


# ---------------------------------------------------------------- against ONNX Runtime

CODE_TYPES = ["int8", "uint8", "int16", "uint16"]


def run_onnx(operator, data, scale, zero_point, dtype, **attributes):
    import onnxruntime
    from onnx import TensorProto, helper

    code_type = getattr(TensorProto, dtype.upper())
    constants = [helper.make_tensor("scale", TensorProto.FLOAT, np.shape(scale), np.ravel(scale)),
                 helper.make_tensor("zero_point", code_type, np.shape(zero_point), np.ravel(zero_point))]
    kinds = [TensorProto.FLOAT, code_type] if operator == "QuantizeLinear" else [code_type, TensorProto.FLOAT]
    ports = [helper.make_tensor_value_info(name, kind, data.shape) for name, kind in zip("xy", kinds)]
    node = helper.make_node(operator, ["x", "scale", "zero_point"], ["y"], **attributes)
    graph = helper.make_graph([node], "one_operator", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": data})[0]


def onnx_data(rng, shape):
    x = rng.normal(0, 3, shape).astype(np.float32)
    flat = x.reshape(-1)
    flat[::3] = ((rng.integers(-300, 300, flat[::3].size) + 0.5) * 0.05).astype(np.float32)  # ties and their neighbours
    flat[1::50] = rng.choice(np.float32([1e30, -1e30, np.inf, -np.inf, 0, -0.0, 1e-42, 2**31, -2**31]), flat[1::50].size)
    return x


@needs("onnxruntime")
@needs("onnx")
@pytest.mark.parametrize("dtype", CODE_TYPES)
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1])
def test_equal_to_onnx_runtime(dtype, axis):
    rng = np.random.default_rng(7)
    info = np.iinfo(dtype)
    x = onnx_data(rng, (6, 20, 30))
    size = () if axis is None else x.shape[axis]
    for scale in (np.full(size, 0.05, np.float32), rng.uniform(1e-4, 1, size).astype(np.float32)):
        zero_point = rng.integers(info.min, info.max, size, endpoint=True)
        scale = scale if size else np.float32(scale)
        p = QParams(scale, zero_point, info.min, info.max, axis=axis)
        attributes = {} if axis is None else {"axis": axis}
        q = quantize(x, p)
        assert q.dtype == np.dtype(dtype)
        assert np.array_equal(run_onnx("QuantizeLinear", x, scale, zero_point, dtype, **attributes), q)
        assert np.array_equal(run_onnx("DequantizeLinear", q, scale, zero_point, dtype, **attributes), dequantize(q, p))


@needs("onnxruntime")
@needs("onnx")
@pytest.mark.parametrize("group_size", [16, 32])
def test_groups_equal_onnx_blocks(group_size):
    rng = np.random.default_rng(8)
    x = onnx_data(rng, (12, 96))
    scale = rng.uniform(0.001, 1, (12, 96 // group_size)).astype(np.float32)
    zero_point = rng.integers(-128, 127, scale.shape)
    p = QParams(scale, zero_point, group_size=group_size)
    q = quantize(x, p)
    assert np.array_equal(run_onnx("QuantizeLinear", x, scale, zero_point, "int8", axis=1, block_size=group_size), q)
    assert np.array_equal(run_onnx("DequantizeLinear", q, scale, zero_point, "int8", axis=1, block_size=group_size), dequantize(q, p))


@needs("onnxruntime")
@needs("onnx")
@pytest.mark.parametrize("name", ["attention_weight", "ffn_weight", "ffn_input"])
def test_real_tensors_equal_onnx_runtime(name):
    x = load_sample(name)
    scale = np.abs(x).max() / np.float32(127)
    rows = np.abs(x).max(axis=1) / np.float32(127)
    assert np.array_equal(run_onnx("QuantizeLinear", x, scale, 0, "int8"), quantize(x, QParams(scale)))
    assert np.array_equal(run_onnx("QuantizeLinear", x, scale, 128, "uint8"), quantize(x, QParams(scale, 128, 0, 255)))
    assert np.array_equal(run_onnx("QuantizeLinear", x, rows, np.zeros(len(x), int), "int8", axis=0), quantize(x, QParams(rows, axis=0)))


# ---------------------------------------------------------------- the figures

def test_figures_of_the_chapter_draw():
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from quant101 import plots

    x = np.linspace(-2, 2, 41)
    stairs = {rule: quantize(x, QParams(1.0), rule, seed=0) for rule in RULES}
    fresh = plt.subplots()[1]
    assert plots.plot_levels([1.3], [0, 2], {"down": [0.0], "nearest": [2.0]}, ax=fresh) is fresh
    plots.plot_staircases(x, stairs)
    plots.plot_bias({"one": {"down": -0.5}, "two": {"down": 0.5}})
    plots.plot_counter(np.arange(5), {"down": np.zeros(5)})
    plots.plot_scale_shapes(W[:4, :8], 4)
    plots.plot_half_step(x, x - np.rint(x), 1.0)
    plots.plot_codes_and_errors({"int8": np.int8([-128, 127])}, {"int8": np.array([0.1, -0.1])})
    plots.plot_sqnr_per_bit([2, 3], [6, 12], [6, 12])
    plots.plot_layers({"int8": np.array([40.0, 38])})
    plt.close("all")


def test_levels_are_nearest_beside_the_middle():
    "Within 1e-16 of a midpoint the two distances are equal as float64, and the numbers are not."
    for x, level in [(-1e-17, -1), (-1e-45, -1), (0.0, 1), (1e-45, 1)]:
        assert round_to_levels([x], [-3, -1, 1, 3], "half-up") == level
    huge = np.array([-1.7e308, 1.7e308])
    assert round_to_levels([-1.0, 1.0], huge, "half-even").tolist() == huge.tolist()


@pytest.mark.parametrize("f", [quantize, dequantize, fake_quantize])
def test_qparams_of_another_type_is_refused(f):
    with pytest.raises(TypeError, match="qparams must be a QParams, got float"):
        f([1], 0.5)


def test_measures_do_not_depend_on_the_layout():
    x, y = np.random.default_rng(3).normal(size=(2, 301, 77))
    for measure in (mse, sqnr_db, cosine_similarity):
        assert measure(x, y) == measure(np.asfortranarray(x), y) == measure(x, np.asfortranarray(y))


def test_an_empty_list_comes_back_empty():
    assert dequantize([], QParams(1.0)).shape == (0,) and quantize([], QParams(1.0)).shape == (0,)


def test_a_level_is_itself_however_near_the_next_one_is():
    "Twice 1.0 is what float64 makes of the sum of these neighbours, which is no tie: the sum was rounded."
    near = np.nextafter(1.0, 2.0)
    assert 1.0 + near == 2.0
    for rule in ("half-even", "half-away", "half-up"):
        assert round_to_levels([1.0, near], [0.0, 1.0, near], rule).tolist() == [1.0, near]


def test_equal_parameters_give_equal_codes():
    "A Python float is weak, so that float32 data are divided in float32; a float64 is not."
    x = (np.arange(-12700, 12700) * 0.05).astype(np.float32)
    weak, strong = QParams(0.1), QParams(np.float64(0.1))
    assert (quantize(x, weak) != quantize(x, strong)).any() and weak != strong
    assert weak == QParams(0.1) and strong == QParams(np.float64(0.1)) == QParams(np.array(0.1))


def test_the_ratio_of_numbers_whose_squares_no_float_holds():
    for size in (1e-200, 1e200, 5e-324, 1e308):
        assert sqnr_db([size], [0.0]) == 0 and sqnr_db([size], [size]) == math.inf
    x, y = np.random.default_rng(0).normal(size=(2, 1000))
    assert sqnr_db(x * 2.0**-700, y * 2.0**-700) == sqnr_db(x, y) == sqnr_db(x * 2.0**900, y * 2.0**900)


def test_no_error_state_of_numpy_changes_an_answer():
    with np.errstate(all="raise"):
        assert normalize(np.float32([1e-38, 1e38])).tolist() == [0, 1]
        assert mse([1e-200], [0.0]) == 0 and cosine_similarity([1e-300, 1], [1e-300, 1]) == 1
        assert fake_quantize(np.float16([1e-6]), QParams(1.1e-7)) == np.float16(9 * 1.1e-7)


def test_a_group_size_may_be_a_small_integer_of_numpy():
    x = np.random.default_rng(0).normal(size=(2, 300)).astype(np.float32)
    qparams = QParams(np.full((2, 3), 0.1, np.float32), group_size=np.uint8(100))
    assert np.array_equal(quantize(x, qparams), quantize(x, dataclasses.replace(qparams, group_size=100)))


def test_a_signalling_nan_is_refused_like_any_other():
    x = np.uint32([0x7F800001]).view(np.float32)
    with np.errstate(all="raise"):
        for qparams in (QParams(0.1), QParams(np.float64(0.1))):
            for rounding in ("half-even", "up"):
                with pytest.raises(ValueError, match="^x must not hold NaN"):
                    quantize(x, qparams, rounding)
        assert math.isnan(mse(x, x)) and math.isnan(sqnr_db(x, x))


@pytest.mark.parametrize("width", [16, 32, 255])
def test_nan_is_found_in_every_short_row(width):
    "Short rows are checked some thousand values at a time; no row lies between two checks."
    qparams = QParams(np.full((1, 150), 0.1, np.float32), group_size=width)
    for row in range(150):
        x = np.zeros((1, 150 * width), np.float32)
        x[0, row * width + row % width] = np.nan
        with pytest.raises(ValueError, match=rf"^x must not hold NaN, got 1 of them, the first at index \(0, {row * width + row % width}\)"):
            quantize(x, qparams)


@pytest.mark.parametrize("rule, function", [("up", np.ceil), ("down", np.floor), ("toward-zero", np.trunc), ("half-away", np.rint)])
def test_quotients_near_the_end_of_float32(rule, function):
    "Below half of the smallest subnormal number a float32 quotient is 0, and above it is not."
    x = np.ldexp(np.float32([1, -1, 1.25, -1.5, 1.9999999, -1.0000001]), np.arange(-153, -120)[:, None]).astype(np.float32)
    with np.errstate(under="ignore"):
        for scale in np.float32([1, 2, 3, 1e10]):
            assert np.array_equal(quantize(x, QParams(scale), rule), function(x / scale)), scale
