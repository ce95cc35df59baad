"""A signalling NaN is a NaN like any other: it is refused or encoded without a word from NumPy, whose casts and sums warn of it.

Which casts do depends on the processor: those of float16 on ARM, those of float32 and float64 everywhere.
"""

import re

import numpy as np
import pytest

import quant101 as q

SIGNALLING = {"float16": np.uint16(0x7C01), "float32": np.uint32(0x7F800001), "float64": np.uint64(0x7FF0000000000001)}
NO_NAN = q.FloatFormat("E2M1", 2, 1, specials="none")
P, ONES, MATRIX = q.QParams(1.0), [1.0, 1.0], np.ones((1, 2), np.int8)
PACKED = q.pack_weights(MATRIX, 1.0)
CALLS = {  # each is given an array with a signalling NaN in it, shape (1, 2)
    "encode": lambda x: q.encode(x, q.FP16), "encode up": lambda x: q.encode(x, q.E4M3, "up"), "cast": lambda x: q.cast(x, q.BF16),
    "fields": lambda x: q.fields(x, q.E5M2), "encode without NaN": lambda x: q.encode(x, NO_NAN),
    "normalize": q.normalize, "rescale": lambda x: q.rescale(x, ONES), "rescale to levels": lambda x: q.rescale(ONES, x),
    "round_to_levels": lambda x: q.round_to_levels(x, [0.0, 1.0]), "levels": lambda x: q.round_to_levels(1.0, x[0]),
    "QParams": lambda x: q.QParams(x[0], axis=0), "quantize": lambda x: q.quantize(x, P), "quantize up": lambda x: q.quantize(x, P, "up"),
    "quantize float32": lambda x: q.quantize(x, q.QParams(np.float32(1))), "fake_quantize": lambda x: q.fake_quantize(x, P),
    "fake_quantize up": lambda x: q.fake_quantize(x, P, "up"), "mse": lambda x: q.mse(x, x), "max_abs_error": lambda x: q.max_abs_error(x, x),
    "sqnr_db": lambda x: q.sqnr_db(x, x), "cosine_similarity": lambda x: q.cosine_similarity(x, x),
    "absmax_qparams": q.absmax_qparams, "absmax_qparams by rows": lambda x: q.absmax_qparams(x, axis=0), "split_outliers": q.split_outliers,
    "split_matmul": lambda x: q.split_matmul(q.split_outliers(np.ones((1, 1))), x),
    **{f"calibrate {method}": lambda x, m=method: q.calibrate(x, m) for method in ("minmax", "moving-average", "percentile", "entropy", "mse")},
    "Histogram": lambda x: q.Histogram().add(x), "exact percentile": lambda x: q.Percentile().exact(x), "exact entropy": lambda x: q.Entropy().exact(x),
    "counts": lambda x: q.entropy_trace(x[0], [0, 1, 2]), "edges": lambda x: q.entropy_trace([1, 1], [0, *x[0]]),
    "symmetric_qparams": lambda x: q.symmetric_qparams(-1, x[0, 0]), "asymmetric_qparams": lambda x: q.asymmetric_qparams(x[0, 0], 1),
    **{f"quantize_as {c.name}": lambda x, c=c: q.quantize_as(x, q.QParams(1.0), c) for c in (q.ONNX, q.ORT, q.TORCH, q.MODELOPT, q.GGML)},
    "scale of quantize_as": lambda x: q.quantize_as(1.0, q.QParams(x), q.TORCH), "qparams_as": lambda x: q.qparams_as(x, x, q.TORCH),
    "explain": lambda x: q.explain(x, q.ORT, q.TORCH, q.QParams(1.0)), "ranges of explain": lambda x: q.explain(x, q.ORT, q.TORCH),
    "dequantize_as": lambda x: q.dequantize_as(1, q.QParams(x), q.ORT), "identify": lambda x: q.identify(x, np.zeros(np.shape(x), int), q.QParams(1.0)),
    "scale of pack_weights": lambda x: q.pack_weights(MATRIX.T, x[0]), "linear_int8": lambda x: q.linear_int8(x, PACKED),
    "llm_int8_linear": lambda x: q.llm_int8_linear(x, PACKED), "bias": lambda x: q.linear_int8(np.ones((1, 1)), q.pack_weights(MATRIX.T, 1.0), x[0]),
}


@pytest.mark.parametrize("dtype", SIGNALLING)
@pytest.mark.parametrize("name", CALLS)
def test_a_signalling_nan_makes_no_noise(name, dtype):
    x = np.ones((1, 2), dtype)
    x.view(SIGNALLING[dtype].dtype)[0, 1] = SIGNALLING[dtype]
    with np.errstate(all="raise"):
        try:
            CALLS[name](x)
        except ValueError as error:
            assert re.search("finite|NaN|must be whole", str(error))
