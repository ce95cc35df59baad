"""Chapter 3: absmax scales, and the outlier split, against plain NumPy, ONNX Runtime and bitsandbytes' rule."""

from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
from atlas_oracles import bitsandbytes_kernel
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests_support import needs, wide_long_double

from quant101.samples import load_sample
from quant101.steps import QParams, dequantize, fake_quantize, mse, quantize, sqnr_db
from quant101.strategies import OutlierSplit, absmax_qparams, split_matmul, split_outliers

FLOATS = (np.float16, np.float32, np.float64)
TINY = {np.dtype(t): np.finfo(t).tiny for t in (np.float32, np.float64)}
rng = np.random.default_rng(3)


def levels(bits, narrow):
    "(qmin, qmax, steps): the codes and the divisor of absmax, from the definition."
    qmax = 2 ** (bits - 1) - 1
    return (-qmax, qmax, qmax) if narrow else (-qmax - 1, qmax, (2**bits - 1) / 2)


def reference_scale(x, bits=8, axis=None, group_size=None, narrow=True):
    "absmax / steps by plain NumPy in the scale's type; only for quotients that are normal floats."
    x = np.asarray(x)
    x = x.astype({np.float16: np.float32, np.float32: np.float32}.get(x.dtype.type, np.float64))
    if group_size:
        absmax = np.abs(x.reshape(*x.shape[:-1], -1, group_size)).max(axis=-1)
    elif axis is None:
        absmax = np.abs(x).max()
    else:
        absmax = np.abs(np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)).max(axis=1)
    return np.where(absmax == 0, x.dtype.type(1), absmax / x.dtype.type(levels(bits, narrow)[2]))


def finite(dtype, limit=None):
    width = np.dtype(dtype).itemsize * 8
    bounds = {} if limit is None else {"min_value": -limit, "max_value": limit}
    return st.floats(width=width, allow_nan=False, allow_infinity=False, **bounds)


@st.composite
def arrays_and_shares(draw, dtypes=FLOATS, limit=None):
    "An array of 1 to 3 axes and one way to share scales in it."
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=6))
    x = draw(hnp.arrays(dtype, shape, elements=finite(dtype, limit)))
    sizes = [n for n in range(1, shape[-1] + 1) if shape[-1] % n == 0]
    share = draw(st.one_of(st.just({}), st.builds(dict, axis=st.integers(-len(shape), len(shape) - 1)),
                           st.builds(dict, group_size=st.sampled_from(sizes))))
    return x, share


# The course's worked numbers


def test_one_rule_for_two_groups():
    a, b, four = np.array([30, 10, 20, 30]), np.array([0, 2, 2, 0]), QParams(4.0)
    assert quantize(a, four, "half-away").tolist() == [8, 3, 5, 8]
    assert quantize(b, four, "half-away").tolist() == [0, 1, 1, 0]
    assert quantize(a, four).tolist() == [8, 2, 5, 8]
    assert quantize(b, four).tolist() == [0, 0, 0, 0]
    assert fake_quantize(b, QParams(1.0)).tolist() == b.tolist()


def test_absmax_by_hand():
    x = np.array([[30, 10, 20, 30], [0, 2, 2, 0]], np.float32)
    p = absmax_qparams(x, axis=0)
    assert p.scale.tolist() == [np.float32(30) / np.float32(127), np.float32(2) / np.float32(127)]
    assert (p.zero_point, p.qmin, p.qmax, p.axis, p.group_size) == (0, -127, 127, 0, None)
    assert quantize(x, p).tolist() == [[127, 42, 85, 127], [0, 127, 127, 0]]
    assert absmax_qparams([1.75, -3.5], bits=4).scale == 0.5
    assert absmax_qparams([1.75, -3.5], bits=2).scale == 3.5
    assert absmax_qparams([15.0, 7.5], bits=4, narrow=False).scale == 2.0


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("narrow", [True, False])
def test_code_range(bits, narrow):
    p = absmax_qparams([1.0, -2.0], bits, narrow=narrow)
    qmin, qmax, steps = levels(bits, narrow)
    assert (p.qmin, p.qmax, p.zero_point) == (qmin, qmax, 0)
    assert p.scale == 2.0 / steps and p.dtype == (np.int8 if bits <= 8 else np.int16)


# absmax_qparams against plain NumPy, and its properties


@settings(max_examples=300, deadline=None)
@given(arrays_and_shares(), st.integers(2, 16), st.booleans())
def test_scale_is_what_numpy_says(case, bits, narrow):
    x, share = case
    with np.errstate(under="ignore"):
        expected = reference_scale(x, bits, narrow=narrow, **share)
    p = absmax_qparams(x, bits, narrow=narrow, **share)
    normal = expected >= TINY[expected.dtype]
    assert p.scale.dtype == expected.dtype and p.scale.shape == expected.shape
    assert np.array_equal(p.scale[normal], expected[normal])
    assert (p.scale > 0).all() and np.isfinite(p.scale).all()


@settings(max_examples=300, deadline=None)
@given(arrays_and_shares(), st.integers(2, 16), st.booleans())
def test_no_value_is_off_by_more_than_half_a_step(case, bits, narrow):
    x, share = case
    p = absmax_qparams(x, bits, narrow=narrow, **share)
    q = quantize(x, p)
    assert q.min() >= p.qmin and q.max() <= p.qmax
    ones = np.ones(x.shape)
    if p.group_size:
        step = np.repeat(p.scale, p.group_size, axis=-1)
    elif p.axis is not None:
        step = ones * np.moveaxis(p.scale.reshape(-1, *[1] * (x.ndim - 1)), 0, p.axis)
    else:
        step = ones * p.scale
    wide, step = x.astype(np.longdouble), step.astype(np.longdouble)
    # beside half a step, the rounding of x / scale: one unit in the last place of at most qmax steps
    slack = np.finfo(p.scale.dtype).eps * np.abs(q.astype(np.longdouble)) + 2.0 ** -20
    assert (np.abs(wide / step - q) <= 0.5 + slack).all()


@settings(max_examples=100, deadline=None)
@given(arrays_and_shares())
def test_narrow_codes_have_their_negatives(case):
    x, share = case
    p = absmax_qparams(x, **share)
    assert p == absmax_qparams(-x, **share)
    assert np.array_equal(quantize(-x, p), -quantize(x, p))


@settings(max_examples=100, deadline=None)
@given(arrays_and_shares(dtypes=(np.float32, np.float64), limit=1e6), st.integers(-8, 8))
@example((np.array([127.0, 0.0, 0.5], np.float32), {"axis": 0}), 3)  # a scale of 1 that is no zero's
def test_powers_of_two_scale_the_scale(case, k):
    x, share = case
    scale = absmax_qparams(x, **share).scale
    assume((scale[np.asarray(scale != 1)] > 1e-30).all())
    moved = absmax_qparams(x * x.dtype.type(2.0**k), **share)
    zero = reference_scale(2 * x, **share) == reference_scale(x, **share)  # only zeros are twice themselves
    assert np.array_equal(moved.scale, np.where(zero, scale, np.ldexp(scale, k)))


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, (4, 12), elements=finite(np.float32)), st.randoms())
def test_order_within_a_part_does_not_matter(x, random):
    order = list(range(12))
    random.shuffle(order)
    assert absmax_qparams(x[:, order], axis=0) == absmax_qparams(x, axis=0)
    assert absmax_qparams(x[:, order]) == absmax_qparams(x)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float64, (3, 8), elements=finite(np.float64)))
def test_ways_to_say_the_same(x):
    rows = absmax_qparams(x, axis=0)
    assert np.array_equal(rows.scale, absmax_qparams(x, group_size=8).scale[:, 0])
    assert np.array_equal(rows.scale, absmax_qparams(x.T, axis=1).scale)
    assert np.array_equal(rows.scale, absmax_qparams(x, axis=-2).scale)
    assert np.array_equal(rows.scale, [absmax_qparams(row).scale for row in x])
    assume(x.all())
    assert (absmax_qparams(x, group_size=2).scale.reshape(3, 2, 2).max(axis=2) == absmax_qparams(x, group_size=4).scale).all()


def test_every_float16_is_found():
    x = np.arange(2**16, dtype=np.uint16).view(np.float16)
    x = x[np.isfinite(x)]
    p = absmax_qparams(x[:, None], axis=0)
    expected = np.abs(x.astype(np.float32)) / np.float32(127)
    assert np.array_equal(p.scale, np.where(x == 0, np.float32(1), expected))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_subnormal_scales_are_rounded_up(dtype, narrow, bits):
    step, (qmin, qmax, steps) = np.finfo(dtype).smallest_subnormal, levels(bits, narrow)
    counts = np.unique(np.concatenate([np.arange(1, 2000), rng.integers(1, 2**30, 500)])).astype(np.float64)
    x = (counts * step).astype(dtype)
    units = (x / step).astype(np.float64)
    p = absmax_qparams(x[:, None], bits, axis=0, narrow=narrow)
    scale, expected = (p.scale / step).astype(np.float64), np.ceil(units / steps)
    subnormal = p.scale < np.finfo(dtype).tiny
    assert subnormal.any() and (p.scale > 0).all()
    assert np.array_equal(scale[:1999], expected[:1999])  # beyond, the quotient in x's type may hide one unit
    assert (np.abs(scale - expected)[subnormal] <= 1).all()
    q = quantize(x[:, None], p)[:, 0].astype(np.float64)
    assert (q > 0).all() and (np.abs(units - q * scale) <= 0.505 * scale).all()  # .005: x / scale is rounded too


def test_extremes():
    for dtype in (np.float32, np.float64):
        big = np.finfo(dtype).max
        for narrow in (True, False):
            for bits in (2, 8, 16):
                p = absmax_qparams(np.array([big, -big]), bits, narrow=narrow)
                assert np.isfinite(p.scale) and quantize([big], p)[0] == p.qmax
        assert absmax_qparams(np.zeros((2, 3), dtype), axis=1).scale.tolist() == [1, 1, 1]
        assert absmax_qparams(np.array([-0.0], dtype)).scale == 1
    assert absmax_qparams(np.array(-2.54, np.float16)).scale == np.float32(np.float16(2.54)) / np.float32(127)


def test_errstate_of_the_caller_does_not_matter():
    x = np.array([[1e-45, 0], [0, 0], [3e38, -1]], np.float32)
    calm = absmax_qparams(x, axis=0)
    with np.errstate(all="raise"):
        assert absmax_qparams(x, axis=0) == calm


# Layouts


def layouts(x):
    strided = np.zeros((*x.shape[:-1], x.shape[-1] * 2), x.dtype)
    strided[..., ::2] = x
    frozen = x.copy()
    frozen.setflags(write=False)
    return {"fortran": np.asfortranarray(x), "strided": strided[..., ::2], "reversed": x[..., ::-1].copy()[..., ::-1],
            "read-only": frozen, "big-endian": x.astype(x.dtype.newbyteorder(">")), "list": x.astype(np.float64).tolist()}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("share", [{}, {"axis": 0}, {"axis": 1}, {"axis": -1}, {"group_size": 3}])
def test_layout_does_not_matter(dtype, share):
    x = rng.normal(size=(2, 4, 6)).astype(dtype)
    plain = absmax_qparams(x, **share)
    for name, other in layouts(x).items():
        p = absmax_qparams(other, **share)
        if name == "list":  # Python floats are float64
            assert np.allclose(p.scale, plain.scale, rtol=1e-6)
        else:
            assert p == plain, name


def test_zero_dimensions_integers_and_untouched_inputs():
    assert absmax_qparams(-254).scale == 2.0 and absmax_qparams(-254).scale.dtype == np.float64
    assert absmax_qparams(np.array(127, np.int8)).scale.shape == ()
    assert absmax_qparams(np.array([-128, 127], np.int8)).scale == 128 / 127
    assert absmax_qparams(np.array([2**64 - 1], np.uint64)).scale == 2.0**64 / 127
    x = rng.normal(size=(5, 6)).astype(np.float32)
    before = x.copy()
    absmax_qparams(x, axis=1), absmax_qparams(x, group_size=2), split_outliers(x, 0.5)
    assert np.array_equal(x, before)


# Bad input of absmax_qparams


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("share", [{}, {"axis": 0}, {"axis": 1}, {"group_size": 4}])
@pytest.mark.parametrize("place", [0, 17, 63])
def test_nan_and_infinity_are_found_anywhere(dtype, bad, share, place):
    x = np.ones((8, 8), dtype)
    x.flat[place] = bad
    with pytest.raises(ValueError, match=r"x must be finite.*got (nan|inf)"):
        absmax_qparams(x, **share)
    with pytest.raises(ValueError, match="x must be finite"):
        split_outliers(x)


@pytest.mark.parametrize("args, kwargs, error, message", [
    (([],), {}, ValueError, r"x must hold a value.*\(0,\)"),
    ((np.empty((3, 0)),), {"axis": 0}, ValueError, "x must hold a value"),
    (([1.0],), {"bits": 1}, ValueError, r"bits must lie in 2\.\.16, got 1"),
    (([1.0],), {"bits": 17}, ValueError, "bits"),
    (([1.0],), {"bits": -8}, ValueError, "bits"),
    (([1.0],), {"bits": 8.0}, TypeError, "bits must be an integer, got float"),
    (([1.0],), {"bits": True}, TypeError, "bits must be an integer, got bool"),
    (([1.0],), {"bits": "8"}, TypeError, "bits"),
    (([1.0],), {"bits": None}, TypeError, "bits"),
    (([1.0],), {"axis": 1}, ValueError, "axis must be an axis of"),
    (([1.0],), {"axis": -2}, ValueError, "axis must be an axis of"),
    (([1.0],), {"axis": 0.0}, TypeError, "axis must be an integer"),
    (([1.0],), {"axis": True}, TypeError, "axis must be an integer"),
    ((1.0,), {"axis": 0}, ValueError, "axis must be an axis of"),
    ((np.ones((2, 6)),), {"group_size": 4, "group_axis": 2}, ValueError, "group_axis must be an axis of the data.*got 2"),
    ((np.ones((2, 6)),), {"group_axis": 0}, ValueError, "group_axis must be left alone without group_size"),
    ((np.ones((2, 6)),), {"group_size": 0}, ValueError, "group_size must be at least 1, got 0"),
    ((np.ones((2, 6)),), {"group_size": -2}, ValueError, "group_size must be at least 1"),
    ((np.ones((2, 6)),), {"group_size": 2.0}, TypeError, "group_size must be an integer"),
    ((1.0,), {"group_size": 1}, ValueError, "group_axis must be an axis of"),
    ((np.ones((2, 6)),), {"axis": 0, "group_size": 2}, ValueError, "must not be given together"),
    (([1.0],), {"narrow": 1}, TypeError, "narrow must be True or False"),
    (([1j],), {}, TypeError, "complex"),
    ((["a"],), {}, TypeError, "x must hold"),
    (([None],), {}, TypeError, "object"),
    (([True],), {}, TypeError, "bool"),
    ((np.array([1], "datetime64[s]"),), {}, TypeError, "datetime64"),
    pytest.param((np.ones(1, np.longdouble),), {}, TypeError, "x must hold", marks=wide_long_double),
    (([[1.0], [1.0, 2.0]],), {}, ValueError, "ragged"),
])
def test_absmax_refuses(args, kwargs, error, message):
    with pytest.raises(error, match=message):
        absmax_qparams(*args, **kwargs)


def test_numpy_integers_are_integers():
    x = np.ones((2, 6))
    assert absmax_qparams(x, np.int64(4), axis=np.int8(-1)) == absmax_qparams(x, 4, axis=-1)
    assert absmax_qparams(x, group_size=np.uint8(3)) == absmax_qparams(x, group_size=3)


# ONNX Runtime


@needs("onnxruntime")
@pytest.mark.parametrize("bits, kind, narrow", [(8, "INT8", True), (16, "INT16", True), (4, "INT4", False)])
def test_equals_onnxruntime_to_the_bit(bits, kind, narrow):
    from onnx import TensorProto
    from onnxruntime.quantization.quant_utils import quantize_data

    for scale in 10.0 ** np.arange(-30, 31, 4):
        for row in (rng.normal(size=(40, 33)) * scale).astype(np.float32):
            zero_point, ort_scale, q = quantize_data(row, getattr(TensorProto, kind), symmetric=True)
            p = absmax_qparams(row, bits, narrow=narrow)
            assert zero_point == 0 and ort_scale.dtype == p.scale.dtype and ort_scale == p.scale
            assert np.array_equal(quantize(row, p), q.astype(np.int16))
    assert quantize_data(np.zeros(3, np.float32), getattr(TensorProto, kind), symmetric=True)[1] == absmax_qparams(np.zeros(3, np.float32)).scale


@needs("onnxruntime")
@pytest.mark.parametrize("axis", [0, 1])
def test_onnxruntime_quantizes_per_channel_as_we_do(axis):
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    w = load_sample("ffn_weight")
    p = absmax_qparams(w, axis=axis)
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=axis)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, w.shape)],
        [helper.make_tensor_value_info("q", TensorProto.INT8, w.shape)],
        [onnx.numpy_helper.from_array(np.array(p.scale), "s"), onnx.numpy_helper.from_array(np.zeros(w.shape[axis], np.int8), "z")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {"x": w})[0], quantize(w, p))


def test_full_range_follows_the_observer_rule():
    "PyTorch's MinMaxObserver, qint8 and per_tensor_symmetric: absmax / ((127 - -128) / 2)."
    for row in rng.normal(size=(100, 9)).astype(np.float32):
        p = absmax_qparams(row, narrow=False)
        assert p.scale == np.abs(row).max() / np.float32(255 / 2)
        assert np.abs(quantize(row, p).astype(int)).max() >= 127


# split_outliers


def reference_split(x, threshold, bits=8):
    "The definition in plain NumPy: (columns, outliers, codes, scale)."
    qmax = 2 ** (bits - 1) - 1
    columns = [j for j in range(x.shape[1]) if any(abs(v) >= threshold for v in x[:, j])]
    rest = x.copy()
    rest[:, columns] = 0
    absmax = np.abs(rest).max(axis=1)
    scale = np.where(absmax > 0, absmax / x.dtype.type(qmax), x.dtype.type(1))
    return columns, x[:, columns], np.rint(rest / scale[:, None]), scale


def bitsandbytes_split(x, threshold):
    "bitsandbytes' default int8_vectorwise_quant in NumPy: row absmax over the elements below the threshold."
    large = np.abs(x) >= threshold
    absmax = np.abs(np.where(large, 0, x)).max(axis=1)
    q = np.rint(x * (np.float32(1) / absmax * np.float32(127))[:, None])
    columns = np.flatnonzero(large.any(axis=0))
    q[:, columns] = 0
    return columns, q, absmax


matrices = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7),
                      elements=st.floats(-20, 20, width=32).map(lambda v: np.float32(v) if abs(v) > 1e-30 else np.float32(0)))


@settings(max_examples=200, deadline=None)
@given(matrices, st.sampled_from([0.5, 1.0, 3.0, 6.0, 20.0, np.inf]), st.integers(2, 16))
def test_split_is_what_the_definition_says(x, threshold, bits):
    columns, outliers, q, scale = reference_split(x, threshold, bits)
    s = split_outliers(x, threshold, bits)
    assert s.columns.tolist() == columns and s.columns.dtype == np.int64
    assert np.array_equal(s.outliers, outliers) and s.outliers.dtype == np.float32
    assert np.array_equal(s.qparams.scale, scale) and s.qparams.axis == 0
    assert np.array_equal(s.q, q) and s.q.dtype == s.qparams.dtype == (np.int8 if bits <= 8 else np.int16)
    assert s.shape == x.shape and not s.q[:, columns].any()


def test_a_threshold_that_no_float_reaches_splits_nothing():
    x = np.float64([[1e308, 3.0]])
    for threshold in (10**400, np.inf, np.finfo(np.float64).max):
        assert split_outliers(x, threshold).columns.size == 0


@settings(max_examples=100, deadline=None)
@given(matrices, st.floats(0.25, 25))
def test_split_restores_outliers_exactly_and_the_rest_to_half_a_step(x, threshold):
    s = split_outliers(x, threshold)
    y = s.dequantize()
    assert y.dtype == x.dtype and y.shape == x.shape
    assert np.array_equal(y[:, s.columns], x[:, s.columns])
    assert (np.abs(y - x) <= 0.501 * s.qparams.scale[:, None]).all()


@settings(max_examples=100, deadline=None)
@given(matrices, st.floats(0.25, 25), st.floats(0.25, 25))
def test_a_lower_threshold_keeps_more_columns(x, a, b):
    low, high = split_outliers(x, min(a, b)), split_outliers(x, max(a, b))
    assert set(high.columns.tolist()) <= set(low.columns.tolist())
    zero = ~np.abs(low.dequantize()).any(axis=1)
    assert ((low.qparams.scale <= high.qparams.scale) | (low.qparams.scale == 1) | zero).all()


def test_the_threshold_itself_is_an_outlier():
    x = np.array([[6.0, 5.9999995, -6.0, 1.0]], np.float32)
    assert split_outliers(x).columns.tolist() == [0, 2]
    assert split_outliers(x, np.nextafter(np.float32(6), np.float32(7))).columns.tolist() == []
    assert split_outliers(x, 5.9999995).columns.tolist() == [0, 1, 2]
    for dtype in FLOATS:  # compared in the type of x, so that the number that one typed is found
        assert split_outliers(np.array([[0.7, 0.1]], dtype), dtype(0.7)).columns.tolist() == [0]
    assert split_outliers(np.array([[0.7, 0.1]], np.float32), 0.7).columns.tolist() == [0]


def test_no_columns_and_all_columns():
    x = rng.normal(size=(4, 5)).astype(np.float32)
    none, every = split_outliers(x, np.inf), split_outliers(x, 1e-6)
    assert none.columns.size == 0 and none.outliers.shape == (4, 0)
    assert np.array_equal(none.dequantize(), fake_quantize(x, absmax_qparams(x, axis=0)))
    assert every.columns.tolist() == [0, 1, 2, 3, 4] and np.array_equal(every.dequantize(), x)
    assert (every.qparams.scale == 1).all() and not every.q.any()
    assert split_outliers(x, 1e300).columns.size == 0
    assert split_outliers(np.zeros((2, 2))).dequantize().tolist() == [[0, 0], [0, 0]]


def test_bytes_are_counted():
    x = np.ones((10, 8), np.float32)
    x[3, 2] = x[4, 5] = 7
    s = split_outliers(x)
    assert s.nbytes == 10 * 8 + 10 * 4 + 2 * 8 + 10 * 2 * 4
    assert split_outliers(x, bits=16).nbytes == s.nbytes + 10 * 8
    assert split_outliers(x.astype(np.float16)).nbytes == s.nbytes - 10 * 2 * 2


@pytest.mark.parametrize("dtype", FLOATS)
def test_split_keeps_the_floating_type(dtype):
    x = (rng.normal(size=(6, 7)) * 3).astype(dtype)
    s = split_outliers(x, 4.0)
    assert s.outliers.dtype == s.dequantize().dtype == dtype
    assert s.qparams.scale.dtype == (np.float64 if dtype == np.float64 else np.float32)
    for name, other in layouts(x).items():
        if name != "list":
            t = split_outliers(other, 4.0)
            assert np.array_equal(t.dequantize(), s.dequantize()) and t.qparams == s.qparams, name
    assert split_outliers(x.astype(np.float64).tolist(), 4.0).columns.tolist() == s.columns.tolist()


def test_split_of_integers():
    s = split_outliers(np.array([[1, 100], [-2, 3]], np.int32))
    assert s.columns.tolist() == [1] and s.outliers.dtype == np.float64
    assert s.dequantize().tolist() == [[1, 100], [-2, 3]]


def test_split_is_frozen_and_owns_its_arrays():
    x = np.full((2, 2), 9.0)
    s = split_outliers(x)
    with pytest.raises(FrozenInstanceError):
        s.q = None
    x[:] = 0
    assert (s.outliers == 9).all()
    s.dequantize()[:] = 0
    assert (s.dequantize() == 9).all()


def test_errstate_does_not_matter_to_the_split():
    x = np.array([[1e-45, 7], [0, 1]], np.float32)
    with np.errstate(all="raise"):
        assert split_outliers(x, 1e300).columns.size == 0
        assert split_outliers(x).columns.tolist() == [1]


@pytest.mark.parametrize("args, kwargs, error, message", [
    (([[1.0]], 0), {}, ValueError, "threshold must be greater than 0, got 0"),
    (([[1.0]], -6.0), {}, ValueError, "threshold must be greater than 0, got -6"),
    (([[1.0]], np.nan), {}, ValueError, "threshold must be greater than 0, got nan"),
    (([[1.0]], -np.inf), {}, ValueError, "threshold"),
    (([[1.0]], "6"), {}, TypeError, "threshold must be a real number, got str"),
    (([[1.0]], None), {}, TypeError, "threshold"),
    (([[1.0]], True), {}, TypeError, "threshold"),
    (([[1.0]], 6j), {}, TypeError, "threshold"),
    (([[1.0]], [6.0]), {}, TypeError, "threshold"),
    (([1.0, 2.0],), {}, ValueError, r"x must be a matrix.*\(2,\)"),
    ((1.0,), {}, ValueError, "x must be a matrix"),
    ((np.ones((1, 1, 1)),), {}, ValueError, "x must be a matrix"),
    ((np.empty((0, 3)),), {}, ValueError, "x must hold a value"),
    ((np.empty((3, 0)),), {}, ValueError, "x must hold a value"),
    (([[1.0]],), {"bits": 1}, ValueError, "bits"),
    (([[1.0]],), {"bits": 8.0}, TypeError, "bits"),
    (([[1j]],), {}, TypeError, "complex"),
])
def test_split_refuses(args, kwargs, error, message):
    with pytest.raises(error, match=message):
        split_outliers(*args, **kwargs)


# split_matmul


def test_trace_by_hand():
    x = np.array([[3.5, -1.0, 20.0, 0.6], [-0.5, 1.75, -9.0, 1.0], [1.2, -3.5, 2.0, 2.1]])
    w = np.array([[1.0, -0.5], [3.5, 1.0], [-0.5, 0.75], [-2.0, 1.75]])
    s, wp = split_outliers(x, bits=4), absmax_qparams(w, bits=4, axis=1)
    assert s.columns.tolist() == [2] and s.qparams.scale.tolist() == [0.5, 0.25, 0.5]
    assert s.q.tolist() == [[7, -2, 0, 1], [-2, 7, 0, 4], [2, -7, 0, 4]]
    assert split_matmul(s, w, wp).tolist() == [[-11, 13.125], [8.125, -3], [-16.25, 1]]


@settings(max_examples=150, deadline=None)
@given(matrices, st.integers(1, 5), st.floats(0.5, 25), st.integers(2, 16), st.integers(0, 2**32 - 1))
def test_product_is_the_float_product_of_what_both_stand_for(x, outputs, threshold, bits, seed):
    w = np.random.default_rng(seed).normal(size=(x.shape[1], outputs))
    s, wp = split_outliers(x.astype(np.float64), threshold, bits), absmax_qparams(w, 8, axis=1)
    stands_for = dequantize(quantize(w, wp), wp)
    stands_for[s.columns] = w[s.columns]
    y = split_matmul(s, w, wp)
    assert y.dtype == np.float64 and y.shape == (x.shape[0], outputs)
    size = np.abs(s.dequantize()) @ np.abs(stands_for)
    assert (np.abs(y - s.dequantize() @ stands_for) <= 1e-12 * size).all()
    assert np.array_equal(split_matmul(s, w), y)


def test_powers_of_two_make_it_exact():
    "Integers and scales that are powers of two leave nothing to round, so the product must be exact."
    x = rng.integers(-127, 128, (20, 30)).astype(np.float64)
    x[:, 0] = 127
    w = rng.integers(-127, 128, (30, 10)).astype(np.float64)
    w[0] = 127
    x, w = x * 2.0 ** rng.integers(-9, 9, (20, 1)), w * 2.0 ** rng.integers(-9, 9, 10)
    for threshold in (np.inf, 200.0):
        assert np.array_equal(split_matmul(split_outliers(x, threshold), w), x @ w)


def test_sums_beyond_32_bits():
    "Sixteen-bit codes at their largest: the sum passes 2**31 after three products."
    x, w = np.full((1, 1000), 32767.0), np.full((1000, 1), 32767.0)
    s = split_outliers(x, np.inf, bits=16)
    assert split_matmul(s, w, absmax_qparams(w, 16, axis=1)).tolist() == [[1000 * 32767.0**2]]
    long = np.full((1, 133_145), 127.0)  # one more than fits into 32 bits
    assert split_matmul(split_outliers(long, np.inf), long.T).tolist() == [[133_145 * 127.0**2]]
    short = np.full((1, 133_144), 127.0)
    assert split_matmul(split_outliers(short, np.inf), short.T).tolist() == [[133_144 * 127.0**2]]


def test_product_accepts_what_fits():
    x, w = rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=(6, 3)).astype(np.float32)
    s = split_outliers(x, 1.5)
    y = split_matmul(s, w)
    assert y.dtype == np.float32
    for name, other in layouts(w).items():
        if name != "list":
            assert np.array_equal(split_matmul(s, other), y), name
    assert split_matmul(s, w.astype(np.float64)).dtype == np.float64
    assert split_matmul(s, w.astype(np.float16)).dtype == np.float32
    assert np.array_equal(split_matmul(s, w, absmax_qparams(w, axis=-1)), y)
    assert np.abs(split_matmul(s, w, absmax_qparams(w)) - x @ w).max() < 0.1
    assert np.abs(split_matmul(s, w, QParams(float(np.abs(w).max()) / 127)) - x @ w).max() < 0.1
    assert split_matmul(s, [[1], [2], [3], [4], [5], [6]]).dtype == np.float64


@pytest.mark.parametrize("w, wp, error, message", [
    (np.ones((5, 2)), None, ValueError, "w must have a row for each of the 4 columns"),
    (np.ones(4), None, ValueError, "w must have a row"),
    (np.ones((4, 0)), None, ValueError, "w must have a row"),
    (np.full((4, 2), np.nan), None, ValueError, "w must be finite, got nan"),
    (np.full((4, 2), -np.inf), None, ValueError, "w must be finite, got -inf"),
    (np.ones((4, 2)), QParams(np.ones(4), axis=0), ValueError, "one per column .axis 1., got axis 0"),
    (np.ones((4, 2)), QParams(np.ones((4, 1)), group_size=2), ValueError, "group_size 2"),
    (np.ones((4, 2)), QParams(1.0, 3), ValueError, "zero point 0, got 3"),
    (np.ones((4, 2)), QParams(np.ones(3), axis=1), ValueError, "scale"),
    (np.ones((4, 2), complex), None, TypeError, "w must hold"),
])
def test_product_refuses(w, wp, error, message):
    with pytest.raises(error, match=message):
        split_matmul(split_outliers(np.ones((3, 4))), w, wp)


# On the real tensors


@pytest.fixture(scope="module")
def real():
    x, w = load_sample("ffn_input"), load_sample("ffn_weight").T
    return x, w, x.astype(np.float64) @ w


def test_the_opening_numbers(real):
    x, _, _ = real
    assert abs(sqnr_db(x, fake_quantize(x, absmax_qparams(x))) - 22.57) < 0.01
    assert abs(sqnr_db(x, fake_quantize(x, absmax_qparams(x, axis=0))) - 30.67) < 0.01


@pytest.mark.parametrize("name", ["ffn_weight", "attention_weight", "ffn_input"])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_finer_groups_err_less(name, bits):
    x = load_sample(name)
    errors = [mse(x, fake_quantize(x, absmax_qparams(x, bits, group_size=g))) for g in (384, 128, 64, 32, 16, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < mse(x, fake_quantize(x, absmax_qparams(x, bits)))


def test_the_decomposition_pays(real):
    x, w, y = real
    with_outliers = sqnr_db(y, split_matmul(split_outliers(x), w))
    without = sqnr_db(y, split_matmul(split_outliers(x, np.inf), w))
    assert split_outliers(x).columns.tolist() == [63, 99, 157, 223, 338]
    assert abs(with_outliers - 42.28) < 0.01 and abs(without - 32.10) < 0.01


@needs("bitsandbytes")
@pytest.mark.parametrize("threshold", [3.0, 6.0, 15.0])
def test_the_rule_of_bitsandbytes_is_the_library_s(real, threshold):
    "The chapter's three lines of NumPy against the function that they describe, on the CPU."
    import torch

    q, absmax, columns = bitsandbytes_kernel()(torch.from_numpy(real[0].copy()), threshold=threshold)
    for theirs, ours in zip((columns, q, absmax), bitsandbytes_split(real[0], threshold)):
        assert np.array_equal(theirs.numpy(), ours)


def test_beside_bitsandbytes(real):
    """The same columns; wherever the row's scale is the same, codes that differ only next to a tie; and the product
    within its constant for 1 / 127**2, which is off by 1.8e-5."""
    x, w, y = real
    columns, q, absmax = bitsandbytes_split(x, 6.0)
    s = split_outliers(x)
    assert np.array_equal(columns, s.columns)
    assert (absmax / np.float32(127) >= s.qparams.scale).all()
    same = absmax / np.float32(127) == s.qparams.scale
    assert 0.3 < same.mean() < 0.4
    differ = same[:, None] & (q != s.q)
    ratio = x.astype(np.float64) / s.qparams.scale[:, None]
    assert differ.mean() < 1e-3 and (np.abs(np.abs(ratio - np.trunc(ratio)) - 0.5)[differ] < 1e-4).all()

    col_absmax = np.abs(w).max(axis=0)
    qw = np.rint(w * (np.float32(127) / col_absmax))
    theirs = (q @ qw) * np.outer(absmax, col_absmax) * 6.200124e-05
    theirs += x[:, columns].astype(np.float64) @ w[columns]
    assert abs(sqnr_db(y, theirs) - 40.31) < 0.02  # less than our 42.28: a row's scale serves small outlier elements too
    exact = (q @ qw) * np.outer(absmax, col_absmax) / 127**2 + x[:, columns].astype(np.float64) @ w[columns]
    assert np.abs(theirs - exact).max() <= 2e-5 * np.abs((q @ qw) * np.outer(absmax, col_absmax) / 127**2).max()
    assert abs(6.200124e-05 * 127**2 - 1 - 1.8e-5) < 1e-6


def test_the_same_codes_as_bitsandbytes_where_no_small_elements_hide():
    "Outlier columns whose every element is large: then both rules see the same elements."
    x = rng.normal(size=(50, 40)).clip(-4, 4).astype(np.float32)
    x[:, [3, 17]] = 10 + rng.random((50, 2))
    columns, q, absmax = bitsandbytes_split(x, 6.0)
    s = split_outliers(x)
    assert columns.tolist() == s.columns.tolist() == [3, 17]
    assert np.array_equal(absmax / np.float32(127), s.qparams.scale)
    assert (q != s.q).mean() < 1e-3


def test_public_names():
    import quant101.strategies as module

    assert set(module.__all__) == {"absmax_qparams", "split_outliers", "split_matmul", "OutlierSplit"}
    assert isinstance(split_outliers([[1.0]]), OutlierSplit)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_scale_sees_what_lies_before_and_behind_its_axis(axis):
    x = np.random.default_rng(5).normal(size=(3, 4, 32)).astype(np.float32)
    x[0, 1, 3], x[1, 2, 30] = 9, -8  # not in the last of the outer blocks
    others = tuple(a for a in range(3) if a != axis)
    assert np.array_equal(absmax_qparams(x, axis=axis).scale, np.abs(x).max(axis=others) / np.float32(127))


def test_a_subnormal_scale_reaches_the_largest_value():
    "Exactly: the scale times the largest code is no less than the largest magnitude, and one step smaller would be less."
    patterns = np.random.default_rng(0).integers(1, int(np.float32(2.0**-118).view(np.int32)), 3000, dtype=np.int32)
    for bits, narrow in ((8, True), (8, False), (4, True), (16, True)):
        x, steps = patterns.view(np.float32), levels(bits, narrow)[2]
        scale = absmax_qparams(x, bits, axis=0, narrow=narrow).scale
        for s, absmax in zip(scale[scale < TINY[x.dtype]].tolist(), x[scale < TINY[x.dtype]].tolist()):
            assert Fraction(s) * Fraction(steps) >= Fraction(absmax) > (Fraction(s) - Fraction(2) ** -149) * Fraction(steps)


def test_sums_that_64_bits_cannot_hold_are_refused():
    split = split_outliers(np.ones((1, 65540)), np.inf, 16)
    with pytest.raises(ValueError, match=r"add up to less than 2\*\*63, got up to"):
        split_matmul(split, np.ones((65540, 1)), QParams(1 / (2**32 - 1), 0, 0, 2**32 - 1))


def test_the_product_of_extreme_scales_may_be_finite():
    assert split_matmul(split_outliers([[1e200, 1e200]], np.inf), np.array([[1e200], [-1e200]])).tolist() == [[0.0]]


def test_a_row_is_the_same_alone_and_among_others():
    "The outlier columns are summed in one order, whatever the number of rows and of the threads of NumPy's library."
    values = np.random.default_rng(0)
    x, w = values.normal(size=(64, 300)) * 10.0 ** values.integers(-8, 8, 300), values.normal(size=(300, 40))
    whole = split_matmul(split_outliers(x, 3.0), w)
    for row in (0, 17, 63):
        columns = split_outliers(x, 3.0).columns
        alone = np.concatenate([x[row : row + 1], np.zeros((1, 300))])
        alone[1, columns] = 4  # the same columns are outliers
        assert np.array_equal(split_matmul(split_outliers(alone, 3.0), w)[0], whole[row])


def test_a_group_size_may_be_a_small_integer_of_numpy():
    x = np.random.default_rng(0).normal(size=(200, 200)).astype(np.float32)
    assert absmax_qparams(x, group_size=np.uint8(100)) == absmax_qparams(x, group_size=100)
