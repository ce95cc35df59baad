"""Quantization for machine learning, from the bits up."""

__version__ = "0.1.0"

from .dtypes import BF16, E4M3, E5M2, FP16, FP32, TF32, FloatFormat, as_real_array, cast, decode, encode, fields
from .steps import (QParams, Rounding, cosine_similarity, dequantize, fake_quantize, max_abs_error, mse, normalize,
                    quantize, rescale, round_to_levels, saturation, sqnr_db)
from .strategies import OutlierSplit, absmax_qparams, split_matmul, split_outliers
from .calibration import (MSE, Calibrator, Entropy, FloatHistogram, Histogram, HistogramCalibrator, MinMax, MovingAverage, Percentile, calibrate,
                          entropy_range, entropy_trace)
from .symmetry import asymmetric_qparams, symmetric_qparams
from .atlas import (BITSANDBYTES, GGML, GGML_Q4_0, GGML_X86, MODELOPT, ONNX, ORT, ORT_BIAS, ORT_BLOCK, ORT_BLOCK_ASYMMETRIC, ORT_DYNAMIC,
                    ORT_REDUCED, ORT_SYMMETRIC, TFLITE, TFLITE_BIAS, TFLITE_WEIGHT, TFLITE_XNNPACK, TORCH,
                    TORCH_FAKE, TORCH_INT32, TORCH_OBSERVER, TORCH_OBSERVER_SYMMETRIC, TORCH_PER_CHANNEL, TORCH_REDUCED,
                    TORCH_REDUCED_SYMMETRIC, TORCH_WEIGHT, CodeConvention, Convention, Explanation, Identification,
                    dequantize_as, explain, identify, qparams_as, quantize_as)
from .matmul import (Instruction, PackedWeights, QuantizedLinear, Verdict, instruction_alone, instruction_set, linear_int8,
                     llm_int8_linear, matmul_int8, pack_weights, quantize_activations, quantize_linear, tile_assembly,
                     unpack_weights, worth_it)
from .integer import (activation_range, fixed_point, integer_bias, matmul_integer, qlinear_matmul, quantized_add, quantized_average,
                      requantize)
