"""What holds for every input: found by Hypothesis, in the words of the definitions and without another library."""

from dataclasses import replace

import hypothesis
import numpy as np
import tests_exact as judge
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import quant101.dtypes as dtypes
from quant101.dtypes import FloatFormat, cast, decode, encode
from quant101.steps import (QParams, cosine_similarity, dequantize, fake_quantize, max_abs_error, mse, normalize, quantize, rescale,
                            round_to_levels, sqnr_db)

def given(*strategies):
    "Hypothesis with the same inputs in every run."
    ways = settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    return lambda test: ways(hypothesis.given(*strategies)(test))

FORMATS = [dtypes.FP16, dtypes.BF16, dtypes.TF32, dtypes.FP32, dtypes.E4M3, dtypes.E5M2, FloatFormat("E2M1", 2, 1, specials="none"),
           FloatFormat("E4M3FNUZ", 4, 3, bias=8, specials="fnuz"), FloatFormat("E5M2FNUZ", 5, 2, bias=16, specials="fnuz")]
formats = st.sampled_from(FORMATS) | st.builds(
    lambda e, m, s: FloatFormat("any", e, m, specials=s), st.integers(2, 7), st.integers(1, 10), st.sampled_from(["ieee", "fn", "fnuz", "none"]))
rules = st.sampled_from(judge.RULES)
symmetric_rules = st.sampled_from(["half-even", "half-away", "toward-zero"])
overflows = st.sampled_from(["ieee", "saturate"])
kinds = st.sampled_from([np.float16, np.float32, np.float64])

def numbers(kind, **limits):
    return hnp.from_dtype(np.dtype(kind), **({"allow_nan": False} | limits))

def arrays(kind, shape=None, **limits):
    return hnp.arrays(kind, hnp.array_shapes(max_dims=3, max_side=6, min_side=1) if shape is None else shape, elements=numbers(kind, **limits))

reals = kinds.flatmap(arrays)
finite = kinds.flatmap(lambda kind: arrays(kind, allow_infinity=False))

@st.composite
def some_qparams(draw, shape=None):
    "Any parameters; with a shape, those for an axis or for groups of an array of that shape as well."
    qmin, qmax = draw(st.sampled_from([(-128, 127), (0, 255), (-127, 127), (-8, 7), (0, 15), (0, 1), (-64, 63), (-32768, 32767), (0, 2**32 - 1), (-(2**31), 2**31 - 1)]))
    axis, group_size, scales = None, None, ()
    if shape and draw(st.booleans()):
        axis = draw(st.integers(-len(shape), len(shape) - 1))
        scales = (shape[axis],)
    elif shape and draw(st.booleans()):
        group_size = draw(st.sampled_from([n for n in range(1, shape[-1] + 1) if shape[-1] % n == 0]))
        scales = (*shape[:-1], shape[-1] // group_size)
    kind = draw(st.sampled_from([np.float32, np.float64]))
    scale = draw(hnp.arrays(kind, scales, elements=st.floats(2.0**-30, 2.0**30, width=32)))
    zero_point = draw(hnp.arrays(np.int64, scales, elements=st.integers(qmin, qmax)))
    if scales == () and draw(st.booleans()):
        scale, zero_point = float(scale), int(zero_point)
    return QParams(scale, zero_point, qmin, qmax, axis, group_size)

with_qparams = kinds.flatmap(arrays).flatmap(lambda x: st.tuples(st.just(x), some_qparams(x.shape)))

def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f") and np.array_equal(np.signbit(a), np.signbit(b))

# Formats

@given(reals, formats, rules, overflows)
def test_a_number_of_the_format_stays_itself(x, fmt, rule, overflow):
    once = cast(x, fmt, rule, overflow)
    assume(fmt.has_nan or not np.isnan(once).any())
    for again in judge.RULES:
        assert same_bits(cast(once, fmt, again, overflow), once)

@given(formats, rules, overflows, st.data())
def test_every_code_survives_the_round_trip(fmt, rule, overflow, data):
    codes = np.array(data.draw(st.lists(st.integers(0, 2**fmt.bits - 1), min_size=1)), np.int64)
    values = decode(codes, fmt)
    keep = np.isfinite(values)
    assert np.array_equal(encode(values, fmt, rule, overflow)[keep], codes[keep])

@given(reals, formats, rules, overflows)
def test_rounding_to_a_format_never_changes_the_order(x, fmt, rule, overflow):
    y = cast(np.sort(x.reshape(-1)), fmt, rule, overflow)
    y = y[~np.isnan(y)]  # NaN is what overflows in a format without infinity
    assert (y[1:] >= y[:-1]).all()

@given(finite, formats, rules)
def test_error_of_a_format_is_half_a_step_or_one(x, fmt, rule):
    "Half a step of the binade for the nearest number, one for a directed rule, unless the value is clipped."
    y = cast(x, fmt, rule, "saturate").astype(np.float64)
    x = x.astype(np.float64)
    inside = np.abs(x) <= fmt.max
    exponent = np.maximum(np.frexp(np.abs(x))[1] - 1, fmt.min_exponent)
    step = np.exp2(exponent.astype(np.float64)) * fmt.epsilon
    error = np.abs(x - y)
    assert (error <= (step / 2 if rule.startswith("half") else step))[inside].all()
    if not rule.startswith("half"):
        assert not (rule == "down" and (y > x)[inside].any()) and not (rule == "up" and (y < x)[inside].any())
        assert not (rule == "toward-zero" and (np.abs(y) > np.abs(x)).any())
    assert (np.abs(y)[~inside] == fmt.max).all()

@given(reals, formats, symmetric_rules, overflows)
def test_the_negative_of_a_number_is_stored_as_its_negative(x, fmt, rule, overflow):
    y, z = cast(x, fmt, rule, overflow), cast(-x, fmt, rule, overflow)
    assert np.array_equal(z, -y, equal_nan=True)
    signed = (fmt.specials != "fnuz") & ~np.isnan(y)
    assert np.array_equal(np.signbit(z)[signed], ~np.signbit(y)[signed])
    assert same_bits(np.abs(cast(-x, fmt, "down", overflow)), np.abs(cast(x, fmt, "up", overflow)))

@given(reals, formats, rules, overflows)
def test_an_array_is_stored_as_its_elements_are(x, fmt, rule, overflow):
    codes = encode(x, fmt, rule, overflow)
    assert codes.dtype == fmt.code_dtype and codes.shape == x.shape
    for place in np.ndindex(x.shape):
        assert encode(x[place], fmt, rule, overflow) == codes[place]

@given(hnp.arrays(np.float32, 4, elements=numbers(np.float32, allow_nan=True)), formats)
def test_nan_is_stored_as_nan_or_refused(x, fmt):
    x[1] = np.nan
    if fmt.has_nan:
        for overflow in ("ieee", "saturate"):
            assert np.isnan(cast(x, fmt, "half-even", overflow))[np.isnan(x)].all()
    else:
        try:
            encode(x, fmt)
        except ValueError:
            return
        raise AssertionError("NaN was stored in a format that has none")

# Scale and zero point

@given(with_qparams, rules)
def test_codes_stay_themselves(pair, rule):
    x, qparams = pair
    q = quantize(x, qparams, rule)
    assert q.dtype == qparams.dtype and q.shape == x.shape
    assert int(q.min()) >= qparams.qmin and int(q.max()) <= qparams.qmax
    # (q - z) * s / s is q - z up to one rounding, which is far less than half a step for codes of 16 bits
    if qparams.qmax - qparams.qmin < 2**17:
        for nearest in ("half-even", "half-away", "half-up"):
            assert np.array_equal(quantize(dequantize(q, qparams), qparams, nearest), q)
        y = dequantize(q, qparams)
        assert np.array_equal(fake_quantize(y, qparams), y)

@given(reals, some_qparams(), rules)
def test_quantization_never_changes_the_order(x, qparams, rule):
    q = quantize(np.sort(x.reshape(-1)), qparams, rule).astype(np.int64)
    assert (np.diff(q) >= 0).all()

@given(with_qparams, rules)
def test_error_of_quantization_is_half_a_step_or_one_unless_clipped(pair, rule):
    x, qparams = pair
    qparams = replace(qparams, scale=np.asarray(qparams.scale, np.float64)) if not isinstance(qparams.scale, float) else qparams
    x = x.astype(np.float64)
    q = quantize(x, qparams, rule)
    y = dequantize(q, qparams)
    scale = np.broadcast_to(steps_of(qparams, x.shape), x.shape)
    inside = (q > qparams.qmin) & (q < qparams.qmax)
    slack = 1 + 2.0**-19  # of the two roundings in float64, for codes of up to 33 bits
    bound = scale * (0.5 if rule.startswith("half") else 1.0) * slack
    assert (np.abs(x - y)[inside] <= bound[inside]).all()
    direction = {"down": 1, "up": -1}.get(rule, 0)
    assert (direction * (x - y)[inside] >= -scale[inside] * 2.0**-19).all()

def steps_of(qparams, shape):
    "The scale of each element."
    if qparams.axis is not None:
        return np.asarray(qparams.scale).reshape([-1 if i == qparams.axis % len(shape) else 1 for i in range(len(shape))])
    if qparams.group_size is not None:
        return np.repeat(qparams.scale, qparams.group_size, axis=-1)
    return np.asarray(qparams.scale)

@given(reals, st.floats(2.0**-20, 2.0**20, width=32), symmetric_rules)
def test_a_symmetric_range_treats_both_signs_alike(x, scale, rule):
    qparams = QParams(scale, 0, -127, 127)
    assert np.array_equal(quantize(-x, qparams, rule), -quantize(x, qparams, rule))
    assert np.array_equal(quantize(-x, qparams, "up"), -quantize(x, qparams, "down"))

@given(with_qparams, rules)
def test_an_array_is_quantized_as_its_elements_are(pair, rule):
    x, qparams = pair
    q, y = quantize(x, qparams, rule), fake_quantize(x, qparams, rule)
    for place in np.ndindex(x.shape):
        one = element(qparams, place, x.shape)
        assert quantize(x[place], one, rule) == q[place]
        assert same_bits(fake_quantize(x[place], one, rule), np.asarray(y[place]))

def element(qparams, place, shape):
    "The parameters of the element at `place`."
    if qparams.axis is not None:
        index = (place[qparams.axis],)
    elif qparams.group_size is not None:
        index = (*place[:-1], place[-1] // qparams.group_size)
    else:
        return qparams
    return QParams(qparams.scale[index], int(qparams.zero_point[index]), qparams.qmin, qparams.qmax)

@given(with_qparams, st.integers(0, 2**32))
def test_stochastic_rounding_takes_a_neighbour_and_repeats_itself(pair, seed):
    x, qparams = pair
    q = quantize(x, qparams, "stochastic", seed)
    assert (q >= quantize(x, qparams, "down")).all() and (q <= quantize(x, qparams, "up")).all()
    assert np.array_equal(q, quantize(x, qparams, "stochastic", np.random.default_rng(seed)))

def test_stochastic_rounding_keeps_the_mean():
    "Of 100,000 draws the mean stays within five standard errors of the value."
    for value in (0.25, -0.25, 3.9, -3.9, 0.5, 2.0, -7.0):
        x = np.full(100_000, value, np.float32)
        for drawn in (quantize(x, QParams(1.0), "stochastic", 0), round_to_levels(x, np.arange(-8, 9), "stochastic", 0)):
            deviation = np.sqrt((value - np.floor(value)) * (np.ceil(value) - value) / len(x))
            assert abs(drawn.astype(float).mean() - np.float32(value)) <= 5 * deviation

@given(finite.map(lambda x: x.astype(np.float64)), st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6, unique=True).map(sorted), rules)
def test_levels_stay_levels_in_order_and_near(x, levels, rule):
    levels = np.unique(np.array(levels))
    y = round_to_levels(np.sort(x, axis=None), levels, rule)
    assert np.isin(y, levels).all() and (np.diff(y) >= 0).all()
    assert np.array_equal(round_to_levels(y, levels, rule), y)
    if rule.startswith("half"):
        distance = np.abs(np.sort(x, axis=None)[:, None] - levels)
        assert (np.abs(np.sort(x, axis=None) - y) <= distance.min(axis=1)).all()

# The parts of the formula and the measures

@given(finite)
def test_normalize_divides_by_the_largest_magnitude(x):
    assume(x.any())
    y = normalize(x)
    assert y.dtype == x.dtype and y.shape == x.shape and np.abs(y).max() == 1
    largest = max(abs(judge.exact(v)) for v in x.reshape(-1))
    for v, got in zip(x.reshape(-1), y.reshape(-1)):
        assert judge.exact(got) == judge.round_to_float(judge.exact(v) / largest, x.dtype.name)

@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=8), st.lists(st.integers(-300, 300), min_size=1, max_size=4))
def test_rescale_multiplies_by_the_largest_level(x, levels):
    assume(any(levels))
    assert rescale(x, levels).tolist() == [v * max(map(abs, levels)) for v in x]
    assert rescale(np.array(x, np.float32), -7).dtype == np.float32 and rescale(x, -7).tolist() == [7 * v for v in x]

whole_pairs = st.lists(st.tuples(st.integers(-500, 500), st.integers(-500, 500)), min_size=1, max_size=30).map(lambda p: np.array(p).T)

@given(whole_pairs)
def test_measures_are_exact_where_the_sums_are(pair):
    x, y = pair
    error = [int(a) - int(b) for a, b in zip(x, y)]
    noise, signal = sum(e * e for e in error), sum(int(a) ** 2 for a in x)
    assert mse(x, y) == noise / len(error) == mse(y.astype(np.float32), x)
    assert max_abs_error(x, y) == max(map(abs, error)) == max_abs_error(y, x)
    if noise == 0:
        assert sqnr_db(x, y) == np.inf
    elif signal:
        assert sqnr_db(x, y) == 10 * np.log10(signal / noise)
    if x.any() and y.any():
        dot, size = sum(int(a) * int(b) for a, b in zip(x, y)), float(np.sqrt(float(signal) * sum(int(b) ** 2 for b in y)))
        assert abs(cosine_similarity(x, y) - dot / size) < 1e-14 and abs(cosine_similarity(x, 1e300 * y) - dot / size) < 1e-14
        assert -1 <= cosine_similarity(x, y) <= 1

@given(with_qparams)
def test_what_is_read_is_left_as_it_was(pair):
    x, qparams = pair
    before, scale = x.tobytes(), np.array(qparams.scale)
    x.setflags(write=False)
    q = quantize(x, qparams)
    codes = q.tobytes()
    dequantize(q, qparams)
    fake_quantize(x, qparams)
    encode(x, dtypes.E4M3)
    assert x.tobytes() == before and q.tobytes() == codes and np.array_equal(qparams.scale, scale)
