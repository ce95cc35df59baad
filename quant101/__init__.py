"""Quantization for machine learning, from the bits up."""

__version__ = "0.1.0"

from .dtypes import BF16, E4M3, E5M2, FP16, FP32, TF32, FloatFormat, as_real_array, cast, decode, encode, fields
from .steps import (QParams, Rounding, cosine_similarity, dequantize, fake_quantize, max_abs_error, mse, normalize,
                    quantize, rescale, round_to_levels, sqnr_db)
from .strategies import OutlierSplit, absmax_qparams, split_matmul, split_outliers
from .symmetry import asymmetric_qparams, symmetric_qparams
