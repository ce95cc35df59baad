"""Results go into `out` if it is given, which has to fit, and are what they are without it."""

import numpy as np
import pytest

import quant101 as q

rng = np.random.default_rng(0)
X = (rng.standard_normal((6, 40)) * 3).astype(np.float32)
ROWS, COLUMNS, WEAK = q.absmax_qparams(X, axis=0), q.absmax_qparams(X, axis=1), q.QParams(0.05, 3)
CALLS = {
    "encode": (q.encode, X, (q.E4M3,)),
    "encode the general way": (q.encode, X.astype(np.float64), (q.FP16, "up")),
    "decode": (q.decode, q.encode(X, q.FP16), (q.FP16,)),
    "quantize": (q.quantize, X, (WEAK,)),
    "quantize rows": (q.quantize, X, (ROWS,)),
    "quantize columns": (q.quantize, X, (COLUMNS,)),
    "quantize up": (q.quantize, X, (ROWS, "up")),
    "quantize stochastic": (q.quantize, X, (ROWS, "stochastic", 1)),
    "dequantize": (q.dequantize, q.quantize(X, ROWS), (ROWS,)),
    "fake_quantize": (q.fake_quantize, X, (ROWS,)),
    "fake_quantize weak": (q.fake_quantize, X, (WEAK,)),
    "fake_quantize in two steps": (q.fake_quantize, X.astype(np.float16), (ROWS, "down")),
}
each = pytest.mark.parametrize("name", CALLS)


@each
def test_out_is_filled_and_returned(name):
    function, x, args = CALLS[name]
    right = function(x, *args)
    out = np.full_like(right, 77)
    assert function(x, *args, out=out) is out
    assert out.tobytes() == right.tobytes()
    assert not np.shares_memory(right, x)


@each
def test_out_has_to_fit(name):
    function, x, args = CALLS[name]
    right = function(x, *args)
    other = np.float64 if right.dtype != np.float64 else np.float32
    frozen = right.copy()
    frozen.setflags(write=False)
    for bad in (right[:5].copy(), right.astype(other), right.T.copy().T, np.empty((6, 80), right.dtype)[:, ::2], frozen, right.reshape(-1)):
        before = bad.copy()
        with pytest.raises(ValueError, match=r"^out must be a writable, contiguous .* array of shape \(6, 40\), got"):
            function(x, *args, out=bad)
        assert bad.tobytes() == before.tobytes()
    for bad in (right.tolist(), 3, "out"):
        with pytest.raises(TypeError, match="^out must be an array or None, got"):
            function(x, *args, out=bad)


def test_out_must_not_be_what_is_read():
    x = X.copy()
    for call in (lambda: q.fake_quantize(x, ROWS, out=x), lambda: q.encode(x.view(np.float16), q.FP16, out=x.view(np.uint16))):
        with pytest.raises(ValueError, match="^out must not share memory with the other arguments"):
            call()
    codes = q.encode(x, q.FP32)
    with pytest.raises(ValueError, match="^out must not share memory"):
        q.decode(codes, q.FP32, out=codes.view(np.float32))
    assert np.array_equal(x, X)


def test_a_single_number_and_nothing():
    out = np.zeros((), np.int8)
    assert q.quantize(1.0, WEAK, out=out) is out and out == 23
    empty = np.zeros((0, 4), np.int8)
    assert q.quantize(np.zeros((0, 4)), WEAK, out=empty) is empty


@each
def test_out_is_a_plain_array(name, tmp_path):
    "A matrix stays two-dimensional in every shape, so that a kernel would write far beyond it; a file in memory is an array."
    function, x, args = CALLS[name]
    right = function(x, *args)
    for bad in (np.full_like(right, 77).view(np.matrix), np.ma.masked_array(np.full_like(right, 77))):
        with pytest.raises(TypeError, match="^out must be an array or None, got (matrix|MaskedArray)"):
            function(x, *args, out=bad)
        assert (np.asarray(bad) == 77).all()
    mapped = np.memmap(tmp_path / "out", right.dtype, "w+", shape=right.shape)
    assert np.shares_memory(function(x, *args, out=mapped), mapped) and mapped.tobytes() == right.tobytes()
