"""Scales of every arrangement that files hold, against NumPy's own broadcasting of scales that were repeated by hand."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, strategies as st

from quant101 import (BF16, E4M3, E5M2, FP16, MinMax, QParams, absmax_qparams, asymmetric_qparams, decode, dequantize, encode, fake_quantize,
                      mse, quantize, saturation, split_matmul, split_outliers, symmetric_qparams)

shapes = st.lists(st.integers(1, 20), min_size=1, max_size=3).map(tuple)


def repeated(values, shape, group_size, axis):
    "Scales of groups, one for each value."
    return np.take(np.repeat(values, group_size, axis=axis), range(shape[axis]), axis=axis)


def by_hand(x, scale, zero_point, qmin, qmax):
    return np.clip(np.rint(x / scale) + zero_point, qmin, qmax)


@given(shapes, st.integers(0, 2**32 - 1), st.integers(1, 25), st.data())
def test_groups_along_any_axis_with_a_shorter_last_one(shape, seed, group_size, data):
    axis, rng = data.draw(st.integers(-len(shape), len(shape) - 1)), np.random.default_rng(seed)
    x = rng.normal(size=shape).astype(np.float32)
    scales = list(shape)
    scales[axis] = math.ceil(shape[axis] / group_size)
    scale, zero_point = rng.uniform(0.01, 0.1, scales).astype(np.float32), rng.integers(-9, 10, scales)
    p = QParams(scale, zero_point, group_size=group_size, group_axis=axis)
    s, z = repeated(scale, shape, group_size, axis), repeated(zero_point, shape, group_size, axis)
    q = by_hand(x, s, z, -128, 127)
    back = (q - z).astype(np.float32) * s
    assert np.array_equal(quantize(x, p), q) and np.array_equal(dequantize(q.astype(np.int8), p), back)
    assert np.array_equal(fake_quantize(x, p), back)
    assert np.array_equal(quantize(x, p, "down"), np.clip(np.floor((x / s).astype(np.float64)) + z, -128, 127))
    assert np.array_equal(quantize(np.asfortranarray(x), p), q)
    below, above = saturation(x, p)
    wide = np.rint(x / s) + z
    for got, marks in ((below, wide < -128), (above, wide > 127)):
        assert got.shape == tuple(scales)
        for place in np.ndindex(*scales):
            inside = np.ones(shape, bool)
            for a, i in enumerate(place):
                index = np.arange(shape[a]).reshape([-1 if b == a else 1 for b in range(len(shape))])
                inside &= (index // group_size == i) if a == axis % len(shape) else index == i
            assert got[place] == (marks & inside).sum()


@given(shapes, st.integers(0, 2**32 - 1), st.integers(1, 25), st.data())
def test_absmax_of_groups_along_any_axis(shape, seed, group_size, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    p = absmax_qparams(x, 4, group_size=group_size, group_axis=axis)
    starts = range(0, shape[axis], group_size)
    tops = [np.abs(np.take(x, range(start, min(start + group_size, shape[axis])), axis=axis)).max(axis=axis) for start in starts]
    assert np.array_equal(p.scale, np.stack(tops, axis=axis) / np.float32(7)) and (p.group_size, p.group_axis) == (group_size, axis)
    assert np.abs(fake_quantize(x, p) - x).max() <= p.scale.max() * 0.5001


@given(st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple), st.integers(0, 2**32 - 1), st.data())
def test_a_scale_of_keepdims_form_broadcasts_as_numpy_does(shape, seed, data):
    rng = np.random.default_rng(seed)
    scales = tuple(n if data.draw(st.booleans()) else 1 for n in shape)
    x, scale, zero_point = rng.normal(size=shape), rng.uniform(0.01, 0.1, scales), rng.integers(-9, 10, scales)
    p = QParams(scale, zero_point)
    q = by_hand(x, scale, zero_point, -128, 127)
    assert np.array_equal(quantize(x, p), q) and np.array_equal(dequantize(q.astype(np.int8), p), (q - zero_point) * scale)
    kept = tuple(a for a, n in enumerate(scales) if n == 1)
    wide = np.rint(x / scale) + zero_point
    for got, marks in zip(saturation(x, p), (wide < -128, wide > 127)):
        assert np.array_equal(got, marks.sum(axis=kept, keepdims=True))


def test_large_arrays_in_several_threads_with_groups():
    x = np.random.default_rng(0).normal(size=(1024, 1001)).astype(np.float32)
    for axis, size in ((0, 100), (1, 100), (0, 128), (1, 7)):
        p = absmax_qparams(x, group_size=size, group_axis=axis)
        s = repeated(p.scale, x.shape, size, axis)
        assert np.array_equal(quantize(x, p), by_hand(x, s, 0, -127, 127))
        assert np.array_equal(fake_quantize(x, p), by_hand(x, s, 0, -127, 127).astype(np.float32) * s)


def test_shapes_of_one_scale():
    x = np.float32([[1, 2], [3, -4]])
    for scale in (0.1, np.float64([0.1]), [[0.1]], np.full((1, 1, 1), 0.1)[0]):
        p = QParams(scale, 3, 0, 255)
        assert quantize(x, p).tolist() == [[13, 23], [33, 0]] and p.axis is None, scale
    assert QParams(np.float32(0.1), np.array([3]), 0, 255).zero_point == 3
    assert [int(n) for n in saturation(x, QParams(0.1, 3, 0, 30))] == [1, 1]


def test_keepdims_forms_say_which_axis():
    w = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)  # square: a vector could mean either axis
    rows, columns = np.abs(w).max(axis=1, keepdims=True) / np.float32(127), np.abs(w).max(axis=0, keepdims=True) / np.float32(127)
    for scale, axis in ((rows, 0), (columns, 1)):
        for p in (QParams(scale), QParams(scale, axis=axis), QParams(scale, axis=axis - 2)):
            assert np.array_equal(quantize(w, p), np.rint(w / scale)) and p.axis % 2 == axis
        assert np.array_equal(quantize(w, QParams(scale.ravel(), axis=axis)), np.rint(w / scale))
    with pytest.raises(ValueError, match=r"scale must be a single number without axis or group_size, got shape \(5,\)"):
        QParams(rows.ravel())
    p = QParams(rows, np.arange(5), axis=0)  # zero points in a row belong to scales in a row
    assert np.array_equal(quantize(w, p), np.clip(np.rint(w / rows) + np.arange(5)[:, None], -128, 127))


def test_ends_of_keepdims_form_give_such_scales():
    w = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    lo, hi = w.min(axis=1, keepdims=True), w.max(axis=1, keepdims=True)
    for make in (symmetric_qparams, asymmetric_qparams):
        p, q = make(lo, hi), make(lo[:, 0], hi[:, 0], axis=0)
        assert np.array_equal(quantize(w, p), quantize(w, q)) and p.scale.shape == (4, 1)
    groups = w[:4].reshape(2, 2, 5)
    p = asymmetric_qparams(groups.min(axis=1), groups.max(axis=1), 4, group_size=2, group_axis=0)
    for g in range(2):
        alone = asymmetric_qparams(groups[g].min(axis=0), groups[g].max(axis=0), 4, axis=1)
        assert np.array_equal(quantize(w, p)[2 * g : 2 * g + 2], quantize(groups[g], alone))


# What files hold


def test_any_finite_scale_is_read_back_and_none_divides_unless_positive():
    for scale in (0.0, -0.25, np.float16(-0.25), np.float32([0.0, 0.5]), np.float64([-1.0, 0.5])):
        p = QParams(scale, 1, axis=0 if np.ndim(scale) else None)
        q = np.arange(-2, 4).reshape(2, 3)
        assert np.array_equal(dequantize(q, p), (q - 1) * np.asarray(scale, np.float64).reshape(-1, 1))
        for call in (quantize, fake_quantize, saturation):
            with pytest.raises(ValueError, match="scale must be finite and greater than 0, got"):
                call(np.ones((2, 3), np.float32), p)


@pytest.mark.needs("gguf")
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_blocks_of_gguf_are_read_with_their_own_scales(kind):
    import gguf

    kind = gguf.GGMLQuantizationType[kind]
    w = np.random.default_rng(0).normal(size=(6, 32)).astype(np.float32)
    w[1], w[2], w[3] = 0, 1e-9, -w[3]
    raw = gguf.quants.quantize(w, kind).reshape(6, -1)
    d = raw[:, :2].copy().view(np.float16)
    if kind.name == "Q8_0":
        p, codes = QParams(d, 0, -128, 127), raw[:, 2:].copy().view(np.int8)
    else:
        p, codes = QParams(d, 8, 0, 15, group_size=32), np.concatenate([raw[:, 2:] & 15, raw[:, 2:] >> 4], axis=1)
        assert (d < 0).any()
    assert (d == 0).any() and p.scale.dtype == np.float16
    assert np.array_equal(dequantize(codes, p), gguf.quants.dequantize(raw, kind).reshape(6, 32))


def test_a_scale_keeps_its_type_and_float16_products_are_exact():
    for scale in (0.5, np.float16(0.1), np.float32(0.1), np.float64(0.1)):
        assert np.asarray(QParams(scale).scale).dtype == np.asarray(scale).dtype
    p = QParams(np.float16(0.1))
    q = np.arange(-128, 128)
    assert dequantize(q, p).dtype == np.float32
    assert [Fraction(float(v)) for v in dequantize(q, p)] == [int(n) * Fraction(float(np.float16(0.1))) for n in q]


def test_zero_points_outside_the_codes():
    p = QParams(0.5, zero_point=16, qmin=0, qmax=15)
    assert not p.zero_is_exact and dequantize([0, 15], p).tolist() == [-8, -0.5] and quantize([-8.0, -0.5, 0.0], p).tolist() == [0, 15, 15]
    q = np.arange(16)
    assert np.array_equal(quantize(dequantize(q, p), p), q)
    for zero_point in (2**23, 2**23 + 1, -(2**31), 2**32, -(2**32)):  # beyond 2**24 float32 has not every integer
        p = QParams(np.float32(1), zero_point, 0, 255)
        assert dequantize([0, 7, 255], p).tolist() == np.float32([-zero_point, 7 - zero_point, 255 - zero_point]).tolist()
        assert quantize(np.float64([3 - zero_point]), QParams(1.0, zero_point, 0, 255)).tolist() == [3]
        assert not p.zero_is_exact
    odd = QParams(np.float32(1), 2**24 + 1, 0, 255)  # float32 would take it for 2**24
    assert quantize(np.float32([-(2**24) + 2]), odd) == 3 and fake_quantize(np.float32([-(2**24) + 2]), odd) == -(2**24) + 2


def test_zero_is_exact_where_every_zero_point_is_a_code():
    for zero_point, exact in ((0, True), (15, True), (16, False), (-1, False), (7.0, True), (7.5, False), (15.5, False), (-0.0, True)):
        p = QParams(0.3, zero_point, 0, 15)
        assert p.zero_is_exact is exact and bool(fake_quantize(0.0, p) == 0) is exact, zero_point
    assert not QParams([1.0, 1.0], [3, 16], 0, 15, axis=0).zero_is_exact and QParams([1.0, 1.0], [3, 15], 0, 15, axis=0).zero_is_exact


def test_a_real_zero_point_is_added_before_rounding():
    x = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    scale, zero = np.float32(np.abs(x).max(axis=1) / 7), np.random.default_rng(1).uniform(5, 9, 8).astype(np.float32)
    p = QParams(scale, zero, 0, 15, axis=0)
    q = np.clip(np.rint(x / scale[:, None] + zero[:, None]), 0, 15)
    assert np.array_equal(quantize(x, p), q) and np.array_equal(dequantize(q.astype(np.uint8), p), (q.astype(np.float32) - zero[:, None]) * scale[:, None])
    assert np.array_equal(fake_quantize(x, p), dequantize(quantize(x, p), p)) and p.zero_point.dtype == np.float32
    wide = np.rint(x / scale[:, None] + zero[:, None])
    assert np.array_equal(saturation(x, p)[0], (wide < 0).sum(axis=1)) and np.array_equal(saturation(x, p)[1], (wide > 15).sum(axis=1))
    down = np.clip(np.floor(x / scale[:, None] + zero[:, None]), 0, 15)
    assert np.array_equal(quantize(x, p, "down"), down)
    # 0.5 + 3 rounds to 4 and rint(0.5) + 3 is 3: the type of the zero point says which
    assert quantize(0.5, QParams(1.0, 3.0, 0, 15)) == 4 and quantize(0.5, QParams(1.0, 3, 0, 15)) == 3


@pytest.mark.needs("torch")
def test_a_real_zero_point_against_torch():
    import torch

    x = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    scale = np.exp2(np.random.default_rng(1).integers(-5, 0, 64)).astype(np.float32)  # torch multiplies by 1 / scale, which is exact then
    zero = np.random.default_rng(2).uniform(0, 15, 64).astype(np.float32)
    theirs = torch.fake_quantize_per_channel_affine(*map(torch.from_numpy, (x, scale, zero)), 0, 0, 15).numpy()
    assert np.array_equal(fake_quantize(x, QParams(scale, zero, 0, 15, axis=0)), theirs)


def test_a_product_needs_scales_that_come_out_of_the_sum():
    split, w = split_outliers(np.eye(3)), np.random.default_rng(0).normal(size=(3, 3))
    columns = np.abs(w).max(axis=0, keepdims=True) / 127
    assert np.array_equal(split_matmul(split, w, QParams(columns)), split_matmul(split, w, QParams(columns[0], axis=1)))
    for p in (QParams(columns.T), QParams(np.full((3, 3), 0.1)), QParams(0.1, 1), QParams(0.1, 0.5), QParams(np.full((1, 3), 0.1), group_size=3, group_axis=0)):
        with pytest.raises(ValueError, match="w_qparams must have"):
            split_matmul(split, w, p)


# Types of ml_dtypes, masked arrays


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "int4", "uint4", "int2"])
def test_arrays_of_ml_dtypes_are_read_as_what_they_are(name):
    x = np.arange(0, 2).astype(getattr(ml_dtypes, name))
    plain = x.astype(np.float32)
    assert quantize(x, QParams(0.5)).tolist() == quantize(plain, QParams(0.5)).tolist() and mse(x, plain) == 0
    assert absmax_qparams(x).scale == absmax_qparams(plain if plain.dtype == x.dtype or "float" in name else x.astype(np.int8)).scale
    assert encode(x, FP16).tolist() == encode(plain, FP16).tolist() and MinMax().update(x).range() == (0, 1)
    assert QParams(x[1:], axis=0).scale.tolist() == [1]


def test_codes_of_ml_dtypes():
    i = np.arange(-8, 8).astype(ml_dtypes.int4)
    assert dequantize(i, QParams(0.5, 0, -8, 7)).tolist() == (np.arange(-8, 8) * 0.5).tolist()
    for fmt, name in ((BF16, "bfloat16"), (E4M3, "float8_e4m3fn"), (E5M2, "float8_e5m2")):
        x = np.arange(-2, 2, 0.5).astype(getattr(ml_dtypes, name))
        assert decode(x, fmt).tolist() == x.astype(np.float32).tolist()
    with pytest.raises(TypeError, match="codes must be integers or numbers of the format itself, got dtype float8_e5m2"):
        decode(np.ones(3).astype(ml_dtypes.float8_e5m2), E4M3)
    with pytest.raises(TypeError, match="q must hold integers, got float32"):
        dequantize(np.ones(3).astype(ml_dtypes.bfloat16), QParams(0.5))


def test_masked_arrays_are_refused_by_name_with_the_way_out():
    x = np.ma.masked_greater(np.arange(5.0), 2)
    for call, name in ((lambda: quantize(x, QParams(0.5)), "x"), (lambda: absmax_qparams(x), "x"), (lambda: QParams(x, axis=0), "scale"),
                       (lambda: encode(x, FP16), "x"), (lambda: mse(x.data, x), "y"), (lambda: asymmetric_qparams(x, 9.0, axis=0), "lo"),
                       (lambda: decode(x.astype(np.uint16), FP16), "codes"), (lambda: dequantize(x.astype(np.int8), QParams(0.5)), "q")):
        with pytest.raises(TypeError, match=rf"^{name} must not be a masked array, .* 2 masked values: .*where=~{name}.mask"):
            call()
    assert x.mask.tolist() == [False] * 3 + [True] * 2
