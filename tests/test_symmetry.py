"""Chapter 5: scale and zero point of a range, judged by exact fractions, by ONNX Runtime and by hand."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tests_support import needs

from quant101.samples import load_sample
from quant101.steps import QParams, dequantize, fake_quantize, quantize, sqnr_db
from quant101.strategies import absmax_qparams
from quant101.symmetry import asymmetric_qparams, symmetric_qparams

ends = st.floats(allow_nan=False, allow_infinity=False)
ends32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
widths = st.integers(2, 16)
patient = settings(deadline=None)  # the first call compiles
VECTOR = [-2.5, -1, 0, 1, 3.5]


def exact(lo, hi, qmin, qmax):
    "Scale and unrounded zero point in exact arithmetic."
    lo, hi = min(Fraction(float(lo)), 0), max(Fraction(float(hi)), 0)
    scale = (hi - lo) / (qmax - qmin)
    return scale, qmin - lo / scale


def assert_scale(scale, wanted, dtype=np.float64):
    "The scale is `wanted` rounded once; below the normal numbers it may be rounded up instead."
    info, got = np.finfo(dtype), Fraction(float(scale))
    assert 0 < got <= Fraction(float(info.max))
    if wanted < Fraction(float(info.tiny)):
        nearly = wanted * (1 - Fraction(1, 2**52))  # the step is a float64 before its exponent shrinks
        assert nearly <= got < wanted + Fraction(float(info.smallest_subnormal))
    else:
        assert abs(got - wanted) <= wanted * Fraction(float(info.eps)) * (1 if dtype == np.float64 else Fraction(501, 1000))


# The vector of the course


@pytest.mark.parametrize("make", [list, np.array, np.float32, tuple], ids=["list", "float64", "float32", "tuple"])
def test_worked_vector_symmetric(make):
    x = make(VECTOR)
    for lo, hi in [(-2.5, 3.5), (np.min(x), np.max(x))]:
        p = symmetric_qparams(lo, hi)
        assert np.isclose(p.scale, 3.5 / 127, rtol=1e-7) and (p.zero_point, p.qmin, p.qmax) == (0, -127, 127)
        for rounding in ("half-even", "half-away"):
            assert quantize(x, p, rounding).tolist() == [-91, -36, 0, 36, 127]


@pytest.mark.parametrize("make", [list, np.array, np.float32, tuple], ids=["list", "float64", "float32", "tuple"])
def test_worked_vector_asymmetric(make):
    x = make(VECTOR)
    for lo, hi in [(-2.5, 3.5), (np.min(x), np.max(x))]:
        p = asymmetric_qparams(lo, hi)
        assert np.isclose(p.scale, 6 / 255, rtol=1e-7) and (p.zero_point, p.qmin, p.qmax) == (106, 0, 255)
        assert quantize(x, p, "half-away").tolist() == [0, 63, 106, 149, 255]
        assert quantize(x, p, "half-even").tolist() == [0, 64, 106, 148, 255]
    assert asymmetric_qparams(-2.5, 3.5).scale == 6 / 255 and symmetric_qparams(-2.5, 3.5).scale == 3.5 / 127


@pytest.mark.parametrize("bits", range(2, 17))
def test_codes_and_zero_points_of_every_width(bits):
    top = 2 ** (bits - 1)
    found = {
        "narrow": symmetric_qparams(-1, 3, bits), "full": symmetric_qparams(-3, 1, bits, narrow=False),
        "unsigned": symmetric_qparams(-1, 3, bits, signed=False), "unsigned full": symmetric_qparams(-1, 3, bits, False, False),
        "asymmetric": asymmetric_qparams(0, 3, bits), "asymmetric signed": asymmetric_qparams(0, 3, bits, signed=True)}
    wanted = {
        "narrow": (0, 1 - top, top - 1, 6), "full": (0, -top, top - 1, 6),
        "unsigned": (top, 0, 2 * top - 1, 6), "unsigned full": (top, 0, 2 * top - 1, 6),
        "asymmetric": (0, 0, 2 * top - 1, 3), "asymmetric signed": (-top, -top, top - 1, 3)}
    for name, p in found.items():
        zero, qmin, qmax, length = wanted[name]
        assert (p.zero_point, p.qmin, p.qmax) == (zero, qmin, qmax), name
        assert p.scale == length / (qmax - qmin) and type(p.scale) is float, name


# Exact arithmetic


@patient
@given(ends, ends, widths, st.booleans())
def test_asymmetric_against_fractions(a, b, bits, signed):
    lo, hi = sorted((a, b))
    assume((lo, hi) != (0, 0))
    p = asymmetric_qparams(lo, hi, bits, signed)
    scale, zero_point = exact(lo, hi, p.qmin, p.qmax)
    assert_scale(p.scale, scale)
    assert abs(p.zero_point - zero_point) <= Fraction(1, 2) + Fraction(1, 10**9)
    assert p.qmin <= p.zero_point <= p.qmax


@patient
@given(ends32, ends32, widths, st.booleans())
def test_asymmetric_float32_against_fractions(a, b, bits, signed):
    lo, hi = np.sort(np.array([a, b], np.float32))
    assume(lo or hi)
    p = asymmetric_qparams(lo, hi, bits, signed)
    assert p.scale.dtype == np.float32 and p.scale.shape == ()
    scale, zero_point = exact(lo, hi, p.qmin, p.qmax)
    assert_scale(p.scale, scale, np.float32)
    assert abs(p.zero_point - zero_point) <= Fraction(1, 2) + Fraction(1, 10**9)


@patient
@given(ends, ends, widths, st.booleans(), st.booleans())
@example(0.0, float(np.finfo(float).max), 2, True, True)  # two bits have one step on either side: the scale is the largest number
def test_symmetric_against_fractions(a, b, bits, signed, narrow):
    lo, hi = sorted((a, b))
    assume((lo, hi) != (0, 0))
    p, absmax = symmetric_qparams(lo, hi, bits, signed, narrow), max(abs(lo), abs(hi))
    assert_scale(p.scale, exact(-absmax, absmax, p.qmin, p.qmax)[0])
    assert p.zero_point == (0 if signed else 2 ** (bits - 1))


@pytest.mark.parametrize("lo, hi, exact_zero, allowed", [
    (-1, 3, 63.75, [64]), (-1, 4, 51, [51]), (-2.5, 3.5, 106.25, [106]), (-1, 1, 127.5, [127, 128]), (-1, 509, 0.5, [0, 1]),
    (-1, 0, 255, [255]), (-3, -1, 255, [255]), (0, 1, 0, [0]), (1, 3, 0, [0])])
def test_where_the_zero_point_falls(lo, hi, exact_zero, allowed):
    assert exact(lo, hi, 0, 255)[1] == exact_zero
    assert asymmetric_qparams(lo, hi).zero_point in allowed
    assert asymmetric_qparams(lo, hi, signed=True).zero_point + 128 in allowed


def test_an_exact_tie_that_is_computed_exactly_goes_to_even():
    for steps, wanted in [(0.5, 0), (1.5, 2), (2.5, 2), (7.5, 8)]:  # the scale is 1, so nothing is rounded before the tie
        assert asymmetric_qparams(-steps, 15 - steps, bits=4).zero_point == wanted
        assert asymmetric_qparams(-steps, 15 - steps, bits=4, signed=True).zero_point == wanted - 8


# What the parameters are for


@patient
@given(ends, ends, widths, st.booleans())
def test_every_value_of_the_range_is_within_half_a_step(a, b, bits, signed):
    lo, hi = sorted((a, b))
    assume(max(-lo, hi) < 1e308)  # the last code may stand for a value half a step beyond the range
    x = np.array([lo, hi, lo / 2 + hi / 2, lo / 3 + hi / 3 * 2, 0.0]).clip(min(lo, 0), max(hi, 0))
    for p in (asymmetric_qparams(lo, hi, bits, signed), symmetric_qparams(lo, hi, bits, signed),
              symmetric_qparams(lo, hi, bits, signed, narrow=False)):
        error = np.abs(x / 2 - fake_quantize(x, p) / 2)
        assert np.all(error <= p.scale / 4 * (1 + 1e-9) + 5e-324)
        assert quantize(0.0, p) == p.zero_point and fake_quantize(0.0, p) == 0


@patient
@given(ends, ends, st.integers(-30, 30), st.booleans())
def test_a_power_of_two_changes_the_scale_alone(a, b, power, signed):
    lo, hi = sorted((a, b))
    assume(all(1e-200 < abs(end) < 1e200 or end == 0 for end in (lo, hi)))
    p, q = asymmetric_qparams(lo, hi, signed=signed), asymmetric_qparams(lo * 2.0**power, hi * 2.0**power, signed=signed)
    assert q.zero_point == p.zero_point and (q.scale == p.scale * 2.0**power or lo == hi == 0)


@patient
@given(ends, ends, st.integers(2, 8))
def test_signed_codes_are_unsigned_codes_renamed(a, b, bits):
    lo, hi = sorted((a, b))
    assume(lo or hi)
    u, s = asymmetric_qparams(lo, hi, bits), asymmetric_qparams(lo, hi, bits, signed=True)
    assert u.scale == s.scale and abs(u.zero_point - s.zero_point - 2 ** (bits - 1)) <= 1


def test_full_range_keeps_the_bound_and_narrow_the_ends():
    x = np.linspace(-1, 1, 10_001)
    full, narrow = symmetric_qparams(-1, 1, narrow=False), symmetric_qparams(-1, 1)
    assert quantize([-1, 1], full).tolist() == [-128, 127] and full.scale == 2 / 255
    assert np.abs(x - fake_quantize(x, full)).max() <= full.scale / 2 * (1 + 1e-12)
    assert fake_quantize([-1.0, 1.0], narrow).tolist() == [-1, 1]


# Edges


@pytest.mark.parametrize("zero", [0, 0.0, -0.0, np.float32(0), np.float64(0), np.zeros(())])
def test_range_of_zeros(zero):
    assert (symmetric_qparams(zero, zero).scale, symmetric_qparams(zero, zero).zero_point) == (1, 0)
    assert symmetric_qparams(zero, zero, signed=False).zero_point == 128
    for signed in (False, True):
        p = asymmetric_qparams(zero, zero, signed=signed)
        assert (p.scale, p.zero_point) == (1, 0)
        assert not fake_quantize(np.zeros(3, np.float32), p).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_widest_range_of_a_format(dtype):
    top = np.finfo(dtype).max
    for p in (asymmetric_qparams(-top, top), symmetric_qparams(-top, top), asymmetric_qparams(0, top), asymmetric_qparams(-top, dtype(0))):
        assert p.scale.dtype == dtype and 0 < p.scale < np.inf
    assert asymmetric_qparams(-1.7e308, 1.7e308).scale == 1.7e308 / 127.5
    assert asymmetric_qparams(-1.7e308, 1.7e308).zero_point in (127, 128)
    assert quantize(np.array([-top, 0, top]), symmetric_qparams(-top, top)).tolist() == [-127, 0, 127]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("steps", [1, 2, 127, 128, 255, 256, 357, 700, 10_000])
def test_tiny_ranges_stay_within_half_a_step(dtype, steps):
    unit = np.finfo(dtype).smallest_subnormal
    for low in (0, steps // 3, steps):
        x = np.arange(-low, steps - low + 1).astype(dtype) * unit
        for p in (asymmetric_qparams(x[0], x[-1]), symmetric_qparams(x[0], x[-1]), symmetric_qparams(x[0], x[-1], narrow=False)):
            assert p.scale > 0 and p.scale.dtype == dtype
            off = np.abs(x - fake_quantize(x, p)) / unit
            assert np.all(off <= p.scale / unit / 2)
            assert p.scale > unit or not off.any()


def test_constant_and_one_sided_ranges():
    for value, signed, wanted in [(5.0, False, (255, 0)), (-5.0, False, (0, 255)), (5.0, True, (127, -128)), (-5.0, True, (-128, 127))]:
        p = asymmetric_qparams(value, value, signed=signed)
        assert (int(quantize(value, p)), p.zero_point) == wanted
        assert np.isclose(fake_quantize(value, p), value, rtol=1e-15)
    assert asymmetric_qparams(2, 3) == asymmetric_qparams(0, 3) and asymmetric_qparams(-3, -2) == asymmetric_qparams(-3, 0)
    assert symmetric_qparams(2, 3) == symmetric_qparams(-3, 3) == symmetric_qparams(-3, -2)


# Types, layouts, channels


@pytest.mark.parametrize("make", [symmetric_qparams, asymmetric_qparams])
def test_type_of_the_scale(make):
    for lo, hi in [(-1, 2), (-1.0, 2), (0, 1.5)]:
        assert type(make(lo, hi).scale) is float
    for kind, wanted in [(np.float16, "f4"), (np.float32, "f4"), (np.float64, "f8"), (np.int8, "f4"), (np.int64, "f8"), (">f4", "f4"), (">f8", "f8")]:
        lo, hi = np.array([-1, 2], kind)
        p = make(lo, hi)
        assert p.scale.dtype == np.dtype(wanted) and p.scale.shape == ()
        assert np.isclose(p.scale, make(-1, 2).scale, rtol=1e-7) and p.zero_point == make(-1, 2).zero_point
        assert make(-1, hi).scale.dtype == make(lo, 2.0).scale.dtype == p.scale.dtype
    assert make(np.float32(-1), np.float64(2)).scale.dtype == np.float64


def layouts(x):
    wide = np.zeros((x.size, 3), x.dtype)
    wide[:, 1] = x
    locked = x.copy()
    locked.setflags(write=False)
    return [x, locked, wide[:, 1], np.asfortranarray(wide)[:, 1], x.astype(x.dtype.newbyteorder(">")), x[::-1].copy()[::-1]]


@pytest.mark.parametrize("make", [symmetric_qparams, asymmetric_qparams])
def test_channels_are_what_each_alone_would_be(make):
    w = load_sample("ffn_weight")[:40]
    lo, hi = w.min(axis=1), w.max(axis=1)
    for bits, signed in [(8, True), (4, False)]:
        alone = [make(a, b, bits, signed) for a, b in zip(lo, hi)]
        for a, b in zip(layouts(lo), layouts(hi)):
            before = a.copy(), b.copy()
            p = make(a, b, bits, signed, axis=0)
            assert p.axis == 0 and p.scale.tolist() == [float(q.scale) for q in alone]
            assert np.broadcast_to(p.zero_point, 40).tolist() == [q.zero_point for q in alone]
            assert np.array_equal(a, before[0]) and np.array_equal(b, before[1])
        assert np.array_equal(quantize(w, p), [quantize(row, q) for row, q in zip(w, alone)])
    assert make(lo.astype(float).tolist(), hi.astype(float).tolist(), axis=-2).scale.dtype == np.float64


def test_groups_and_a_number_beside_an_array():
    w = load_sample("attention_weight")
    g = w.reshape(384, 12, 32)
    lo, hi = g.min(axis=-1), g.max(axis=-1)
    p = asymmetric_qparams(lo, hi, bits=4, group_size=32)
    assert p.scale.shape == p.zero_point.shape == (384, 12)
    assert p.scale[7, 3] == asymmetric_qparams(lo[7, 3], hi[7, 3], 4).scale
    assert sqnr_db(w, fake_quantize(w, p)) > sqnr_db(w, fake_quantize(w, symmetric_qparams(lo, hi, bits=4, group_size=32))) + 1
    assert asymmetric_qparams(0, hi[0], axis=0) == asymmetric_qparams(np.zeros(12, np.float32), hi[0], axis=0)


@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
def test_symmetric_is_absmax(bits, narrow):
    for name in ("ffn_weight", "attention_input"):
        w = load_sample(name)
        w[3] = 0
        for t, axis in ((w, None), (w, 0), (w.astype(np.float64), 0)):
            lo, hi = (t.min(), t.max()) if axis is None else (t.min(axis=1), t.max(axis=1))
            assert symmetric_qparams(lo, hi, bits, narrow=narrow, axis=axis) == absmax_qparams(t, bits, axis=axis, narrow=narrow)


def test_no_channels_at_all():
    p = asymmetric_qparams(np.empty(0, np.float32), np.empty(0, np.float32), axis=0)
    assert p.scale.shape == (0,) and quantize(np.empty((0, 3), np.float32), p).shape == (0, 3)


# Bad input


@pytest.mark.parametrize("make", [symmetric_qparams, asymmetric_qparams])
@pytest.mark.parametrize("lo, hi, options, error, words", [
    (3.5, -2.5, {}, ValueError, "lo must not be greater than hi, got 3.5 and -2.5"),
    ([0, 2], [1, 1], {"axis": 0}, ValueError, "lo must not be greater than hi, got 2.0 and 1.0"),
    (np.nan, 1, {}, ValueError, "lo must be finite, got nan"),
    (0, np.nan, {}, ValueError, "hi must be finite, got nan"),
    (-np.inf, 1, {}, ValueError, "lo must be finite, got -inf"),
    (0, np.float32(np.inf), {}, ValueError, "hi must be finite, got inf"),
    ([0, np.nan], [1, 1], {"axis": 0}, ValueError, "lo must be finite, got nan"),
    (-1j, 1, {}, TypeError, "lo must hold .* complex128"),
    (0, "1", {}, TypeError, "hi must hold"),
    (None, 1, {}, TypeError, "lo must hold .* object"),
    (False, True, {}, TypeError, "lo must hold .* bool"),
    (0, 10**400, {}, TypeError, "hi must hold .* object"),
    ([[1], [2, 3]], 1, {}, ValueError, "lo must .*ragged"),
    ([0, 0], [1, 1, 1], {"axis": 0}, ValueError, r"lo and hi must have one shape, .* got \(2,\) and \(3,\)"),
    ([0, 0], [1, 1], {}, ValueError, "scale must be a single number without axis or group_size"),
    (0, 1, {"axis": 0}, ValueError, "scale must be a vector"),
    (0, 1, {"group_size": 4}, ValueError, "scale must .* one step per group"),
    ([0, 0], [1, 1], {"axis": 0, "group_size": 1}, ValueError, "axis and group_size must not be given together"),
    ([0, 0], [1, 1], {"axis": 0.0}, TypeError, "axis must be an integer"),
    (0, 1, {"bits": 1}, ValueError, r"bits must lie in 2\.\.16, got 1"),
    (0, 1, {"bits": 17}, ValueError, r"bits must lie in 2\.\.16, got 17"),
    (0, 1, {"bits": -8}, ValueError, "bits must lie"),
    (0, 1, {"bits": 8.0}, TypeError, "bits must be an integer, got float"),
    (0, 1, {"bits": True}, TypeError, "bits must be an integer, got bool"),
    (0, 1, {"bits": "8"}, TypeError, "bits must be an integer, got str"),
    (0, 1, {"signed": 1}, TypeError, "signed must be True or False, got int"),
    (0, 1, {"signed": None}, TypeError, "signed must be True or False"),
    (0, 1e300, {"lo_type": np.float32}, ValueError, "scale must be finite, got inf in float32"),
])
def test_bad_input_is_named(make, lo, hi, options, error, words):
    options = dict(options)
    lo = options.pop("lo_type", lambda x: x)(lo)
    with pytest.raises(error, match=words):
        make(lo, hi, **options)


def test_narrow_must_be_a_switch():
    with pytest.raises(TypeError, match="narrow must be True or False, got int"):
        symmetric_qparams(0, 1, narrow=0)
    assert symmetric_qparams(0, 1, np.int64(4), np.True_, np.False_) == symmetric_qparams(0, 1, 4, narrow=False)


# The four terms of an integer product


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.booleans(), st.booleans())
def test_four_terms_of_an_integer_product(seed, m, n, k, signed_x, signed_w):
    rng = np.random.default_rng(seed)
    x, w = rng.normal(0.5, 2, (m, k)), rng.normal(-0.2, 1, (n, k))
    px = asymmetric_qparams(x.min(), x.max(), signed=signed_x)
    pw = asymmetric_qparams(w.min(axis=1), w.max(axis=1), signed=signed_w, axis=0)
    qx, qw = quantize(x, px).astype(np.int32), quantize(w, pw).astype(np.int32)
    zx, zw = px.zero_point, pw.zero_point.astype(np.int32)
    terms = qx @ qw.T - zw * qx.sum(axis=1, keepdims=True) - zx * qw.sum(axis=1) + k * zx * zw
    wanted = [[sum((int(a) - zx) * (int(b) - int(z)) for a, b in zip(row, col)) for col, z in zip(qw, zw)] for row in qx]
    assert terms.tolist() == wanted
    assert np.allclose(terms * (px.scale * pw.scale), dequantize(qx.astype(px.dtype), px) @ dequantize(qw.astype(pw.dtype), pw).T)


# ONNX Runtime

SAMPLE_NAMES = ("ffn_input", "ffn_weight", "ffn_bias", "attention_input", "attention_weight", "attention_probs")


def random_ranges(dtype, count=400):
    rng = np.random.default_rng(5)
    low, high = (-30, 30) if dtype == np.float32 else (-290, 290)
    for kind in range(count):
        pair = np.sort(rng.standard_normal(2) * 10.0 ** rng.integers(low, high, 2 if kind % 2 else 1)).astype(dtype)
        yield (-pair[1], pair[1]) if kind % 5 == 0 and pair[1] > 0 else tuple(pair)


@needs("onnxruntime")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_compute_scale_zp_bit_for_bit(dtype):
    from onnxruntime.quantization.quant_utils import compute_scale_zp

    def check(p, lo, hi, symmetric):
        zero_point, scale = compute_scale_zp(lo, hi, np.int32(p.qmin), np.int32(p.qmax), symmetric)
        assert scale.dtype == p.scale.dtype == dtype
        assert (float(scale), int(zero_point)) == (float(p.scale), p.zero_point), (lo, hi, p)

    samples = [load_sample(name).astype(dtype) for name in SAMPLE_NAMES]
    ranges = [(t.min(), t.max()) for t in samples] + list(random_ranges(dtype)) + [(dtype(0), dtype(0))]
    for lo, hi in ranges:
        for bits in (2, 4, 8, 16):
            for signed in (False, True):
                check(asymmetric_qparams(lo, hi, bits, signed), lo, hi, False)
                if signed or hi > lo:  # a range of zeros has zero point 0 there, ours 2**(bits - 1)
                    check(symmetric_qparams(lo, hi, bits, signed, narrow=False), lo, hi, True)
            check(symmetric_qparams(lo, hi, bits), lo, hi, True)


@needs("onnxruntime")
def test_equals_the_dynamic_operator_on_samples():
    import onnxruntime
    from onnx.parser import parse_model

    model = parse_model("""<ir_version: 8, opset_import: ["" : 13]> dynamic (float[n] x) => (uint8[n] q, float s, uint8 z) {
        q, s, z = DynamicQuantizeLinear(x) }""")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for name in SAMPLE_NAMES:
        sample = load_sample(name)
        for t in [sample.ravel(), *sample.reshape(-1, sample.shape[-1])[:50], np.zeros(4, np.float32), np.full(3, -2, np.float32)]:
            q, scale, zero_point = session.run(None, {"x": t})
            p = asymmetric_qparams(t.min(), t.max())
            assert np.array_equal(q, quantize(t, p)) and zero_point == p.zero_point
            assert abs(scale - p.scale) <= np.spacing(scale)


def test_results_are_qparams_that_print_and_compare():
    p = asymmetric_qparams(np.float32(-1), np.float32(3))
    assert isinstance(p, QParams) and p == asymmetric_qparams(np.float32(-1), np.float32(3)) != symmetric_qparams(-1, 3)


def test_the_zero_point_is_rounded_after_the_subtraction():
    "qmin - lo / scale is -126.5 in float64, though lo / scale is less than a tie; ONNX Runtime's formula says -126."
    lo, hi = -np.nextafter(1.5, 0.0), 253.5
    scale = (hi - lo) / 255
    assert -128 - lo / scale == -126.5 and -lo / scale < 1.5
    assert asymmetric_qparams(lo, hi, signed=True).zero_point == np.rint(-128 - lo / scale) == -126


def test_a_signalling_nan_is_refused_without_a_warning():
    bad = np.uint32([0x7F800001]).view(np.float32)[0]
    with np.errstate(all="raise"):
        for make in (symmetric_qparams, asymmetric_qparams):
            with pytest.raises(ValueError, match="^lo must be finite"):
                make(np.array(bad), np.float32(1))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_axis_may_count_from_the_end(axis):
    x = np.random.default_rng(axis).normal(size=(3, 4, 5)).astype(np.float32)
    others = tuple(a for a in range(3) if a != axis)
    for make in (symmetric_qparams, asymmetric_qparams):
        ends = x.min(axis=others), x.max(axis=others)
        counted = make(*ends, axis=axis - 3)
        assert counted.axis == axis - 3
        assert np.array_equal(quantize(x, counted), quantize(x, make(*ends, axis=axis)))
