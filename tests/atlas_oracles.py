"""The libraries of the atlas, each behind one function, and inputs that are hard for all of them."""

import functools
import warnings

import numpy as np

RANGES = {"int2": (-2, 1), "uint2": (0, 3), "int4": (-8, 7), "uint4": (0, 15), "int8": (-128, 127), "uint8": (0, 255),
          "int16": (-32768, 32767), "uint16": (0, 65535), "int32": (-(2**31), 2**31 - 1)}
SCALES = [1.0, 0.5, 2.0**-7, 3.0, 0.1, 0.0123, 1 / 127, 5.95, 1.1920929e-07, 1e38, 3e38, 1.2e-38, 3e-39, 2.9387359e-39, 2.9e-39, 1e-40, 1e-45]
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, 1.1754944e-38, 1e10, -1e10, 2**31, -(2**31), 2**31 - 128,
                    -(2**31) - 256, 2**32, 2**24 + 2, 3.4028235e38, -3.4028235e38, 255, 256, -129, 65535, 65536, -32769], np.float32)


# Inputs


def near(x, rng, ulps=3):
    "Move float32 values by up to so many units in the last place."
    return (x.view(np.int32) + rng.integers(-ulps, ulps + 1, x.shape, dtype=np.int32)).view(np.float32)


def ties(rng, scale, zero_point, qmin, qmax, n):
    "Values within three ulps of the middle between two codes."
    with np.errstate(over="ignore"):
        half = rng.integers(max(qmin - zero_point, -100_000) - 3, min(qmax - zero_point, 100_000) + 4, n) + 0.5
        x = (half * np.float64(np.float32(scale))).astype(np.float32)
    return near(np.where(np.isfinite(x), x, np.float32(1)), rng)


def hard_inputs(rng, scale, zero_point, dtype, n=2000):
    "Random data, ties, powers of two, random bit patterns with their subnormals, and the special values."
    qmin, qmax = RANGES[dtype]
    spread = np.float64(np.float32(scale)) * (qmax - float(qmin)) / 3
    with np.errstate(over="ignore"):
        parts = [(rng.normal(size=n) * spread).astype(np.float32), ties(rng, scale, zero_point, qmin, qmax, n),
                 np.ldexp(np.float32(1), rng.integers(-149, 128, n // 8)).astype(np.float32) * rng.choice(np.float32([-1, 1]), n // 8),
                 rng.integers(0, 2**32, n // 8, dtype=np.uint32).view(np.float32),
                 rng.integers(0, 2**23, n // 8, dtype=np.uint32).view(np.float32), SPECIAL]
    return np.concatenate(parts)


def cases(dtype, seed, count=24):
    "Scale, zero point and inputs: every scale of SCALES, then random ones, with odd and extreme zero points."
    rng = np.random.default_rng(seed)
    qmin, qmax = RANGES[dtype]
    extreme = [qmin, qmax, 0, 1, (qmin + qmax + 1) // 2, qmin + 3, qmax - 2]
    for i in range(len(SCALES) + count):
        scale = np.float32(SCALES[i] if i < len(SCALES) else np.exp(rng.uniform(-12, 4)))
        zero_point = extreme[i % 7] if i < 14 else int(rng.integers(max(qmin, -(2**20)), min(qmax, 2**20) + 1))
        zero_point = min(max(zero_point, qmin), qmax)
        yield scale, zero_point, hard_inputs(rng, scale, zero_point, dtype)


def ranges(seed, n=300):
    "Pairs lo <= hi of float32: ordinary, one-sided, tiny, huge, zero."
    rng = np.random.default_rng(seed)
    edge = np.array([15, 255, 65535]) * float(np.finfo(np.float32).tiny)  # the smallest scale that ONNX Runtime keeps
    a = np.concatenate([np.zeros(6), rng.normal(size=n), np.exp(rng.uniform(-90, 88, n)) * rng.choice([-1, 1], n), np.zeros(9), rng.integers(-9, 9, n) / 2])
    b = np.concatenate([edge, edge * (1 - 2.0**-23), rng.normal(size=n), np.exp(rng.uniform(-90, 88, n)) * rng.choice([-1, 1], n), 10.0 ** np.arange(-45, 36, 9),
                        rng.integers(-9, 9, n) / 2])
    a, b = a.astype(np.float32), b.astype(np.float32)
    return np.minimum(a, b), np.maximum(a, b)


# ONNX and ONNX Runtime


def quantize_model(dtype):
    "A model of one QuantizeLinear; the zero point comes in, and the codes go out, as int32."
    from onnx import TensorProto, helper

    kind, f32, i32 = getattr(TensorProto, dtype.upper()), TensorProto.FLOAT, TensorProto.INT32
    nodes = [helper.make_node("Cast", ["z"], ["z_cast"], to=kind), helper.make_node("QuantizeLinear", ["x", "s", "z_cast"], ["y"]),
             helper.make_node("Cast", ["y"], ["q"], to=i32)]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", f32, ["n"]), value("s", f32, []), value("z", i32, [])], [value("q", i32, ["n"])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])
    model.ir_version = 12
    return model


@functools.cache
def ort_session(dtype):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(quantize_model(dtype).SerializeToString(), options, providers=["CPUExecutionProvider"])


def ort_quantize(x, scale, zero_point, dtype):
    return ort_session(dtype).run(None, {"x": x, "s": np.array(scale, np.float32), "z": np.array(zero_point, np.int32)})[0]


@functools.cache
def dequantize_session(dtype, kind):
    "A model that dequantizes integers of a type, which it takes as int32, with scales of float16 or float32."
    import onnx
    import onnxruntime as ort

    text = f"""<ir_version: 10, opset_import: ["" : 21]> g (int32[n] q, {kind} s, int32 z) => ({kind}[n] y)
           {{ p = Cast <to = {onnx.TensorProto.DataType.Value(dtype.upper())}> (q) w = Cast <to = {onnx.TensorProto.DataType.Value(dtype.upper())}> (z)
              y = DequantizeLinear (p, s, w) }}"""
    return ort.InferenceSession(onnx.parser.parse_model(text).SerializeToString(), providers=["CPUExecutionProvider"])


def ort_dequantize(codes, scale, zero_point, dtype):
    scale = np.asarray(scale)
    session = dequantize_session(dtype, {"float16": "float16", "float32": "float"}[scale.dtype.name])
    return session.run(None, {"q": codes.astype(np.int32), "s": scale, "z": np.array(zero_point, np.int32)})[0]


def onnx_reference(x, scale, zero_point, dtype):
    "ONNX's own evaluator: no oracle where |x / scale| reaches 2**31, and none for NaN."
    from onnx.reference import ReferenceEvaluator

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ReferenceEvaluator(quantize_model(dtype)).run(None, {"x": x, "s": np.array(scale, np.float32), "z": np.array(zero_point, np.int32)})[0]


def ort_qparams(lo, hi, dtype, symmetric=False, reduced=False):
    from onnx import TensorProto
    from onnxruntime.quantization import quant_utils

    kind = getattr(TensorProto, dtype.upper())
    qmin, qmax = quant_utils.get_qmin_qmax_for_qType(kind, reduce_range=reduced, symmetric=symmetric)
    with np.errstate(all="ignore"):
        zero_point, scale = quant_utils.compute_scale_zp(np.array(lo), np.array(hi), qmin, qmax, symmetric)
    return scale[()] if scale.dtype == np.float16 else np.float32(scale), int(zero_point)


def ort_block(w, block, symmetric):
    "Codes, scales and zero points that the block tool of ONNX Runtime gives a matrix of inputs by outputs, four bits each."
    from onnxruntime.capi._pybind_state import quantize_matmul_4bits

    inputs, outputs = w.shape
    blocks = -(-inputs // block)
    packed, scales = np.zeros((outputs, blocks, block // 2), np.uint8), np.zeros(outputs * blocks, w.dtype)
    zero_points = np.zeros(outputs * -(-blocks // 2), np.uint8)
    quantize_matmul_4bits(packed, np.ascontiguousarray(w), scales, zero_points, block, outputs, inputs, symmetric)
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(outputs, blocks * block)[:, :inputs].T
    pairs = zero_points.reshape(outputs, -1)
    zero_points = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(outputs, -1)[:, :blocks].T
    return codes, scales.reshape(outputs, blocks).T, np.full((blocks, outputs), 8) if symmetric else zero_points


@functools.cache
def dynamic_session():
    import onnxruntime
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph([helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])], "g", [value("x", TensorProto.FLOAT, ["n"])],
                              [value("y", TensorProto.UINT8, ["n"]), value("s", TensorProto.FLOAT, []), value("z", TensorProto.UINT8, [])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])
    model.ir_version = 12
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


# PyTorch


def quiet_torch():
    import torch

    warnings.filterwarnings("ignore", message=".*quantize_per_tensor.*")
    return torch


def torch_quantize(x, scale, zero_point, dtype):
    torch = quiet_torch()
    kind = {"uint8": torch.quint8, "int8": torch.qint8, "int32": torch.qint32}[dtype]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.from_numpy(x), float(scale), zero_point, kind).int_repr().numpy()


def torch_per_channel(x, scale, zero_point, dtype):
    torch = quiet_torch()
    kind = {"uint8": torch.quint8, "int8": torch.qint8}[dtype]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scales, zeros = torch.tensor([float(scale)], dtype=torch.float64), torch.tensor([zero_point])
        return torch.quantize_per_channel(torch.from_numpy(x[None]), scales, zeros, 0, kind).int_repr().numpy()[0]


def torch_fake(x, scale, zero_point, dtype):
    "Real values: PyTorch does not show the codes."
    torch = quiet_torch()
    return torch.fake_quantize_per_tensor_affine(torch.from_numpy(x), float(scale), zero_point, *RANGES[dtype]).numpy()


def torch_qparams(lo, hi, dtype, symmetric=False):
    torch = quiet_torch()
    kind = {"uint8": torch.quint8, "int8": torch.qint8, "int16": torch.int16, "uint16": torch.uint16}[dtype]
    scheme = torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observer = torch.ao.quantization.MinMaxObserver(dtype=kind, qscheme=scheme)
        scale, zero_point = observer._calculate_qparams(torch.tensor(lo), torch.tensor(hi))
    return scale.numpy()[0], int(zero_point)


# ModelOpt, GGML, bitsandbytes


def modelopt_lines(x, amax, bits, unsigned=False):
    "What ModelOpt 0.47 does on a CPU, its own lines run by PyTorch; the codes come before its last division."
    torch = quiet_torch()
    inputs, amax = torch.from_numpy(x), torch.tensor(amax)
    max_bound = torch.tensor((2.0 ** (bits - 1 + int(unsigned))) - 1.0)
    scale = torch.zeros(()) if amax <= 1.0 / (1 << 24) else max_bound / amax
    return torch.clamp((inputs * scale).round_(), 0 if unsigned else -max_bound, max_bound).numpy()


def gguf_q8_0(blocks):
    "Codes of blocks of 32, and the float16 scale that is stored with them."
    from gguf.quants import Q8_0

    with np.errstate(all="ignore"):
        packed = Q8_0.quantize_blocks(blocks)
    return packed[:, 2:].copy().view(np.int8), packed[:, :2].copy().view(np.float16)[:, 0]


def gguf_q4_0(blocks):
    from gguf.quants import Q4_0

    with np.errstate(all="ignore"):
        packed = Q4_0.quantize_blocks(blocks)
    return np.concatenate([packed[:, 2:] & 15, packed[:, 2:] >> 4], axis=1), packed[:, :2].copy().view(np.float16)[:, 0]


@functools.cache
def bitsandbytes_kernel():
    "bitsandbytes says at import which of its optional kernels it did not find."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from bitsandbytes.functional import int8_vectorwise_quant
    return int8_vectorwise_quant


def bitsandbytes_rows(rows):
    torch = quiet_torch()
    codes, absmax, _ = bitsandbytes_kernel()(torch.from_numpy(rows.copy()))
    return codes.numpy(), absmax.numpy()


def hard_rows(rng, shape, divisor, offset=0.0):
    "Rows of data next to the ties of their own scale: the first value fixes absmax."
    peak = np.exp(rng.uniform(-30, 30, (shape[0], 1))).astype(np.float32)
    half = rng.integers(-divisor, divisor, shape) + 0.5 + offset
    x = near((half * np.float64(peak) / divisor).astype(np.float32), rng)
    x[: shape[0] // 3] = (rng.normal(size=(shape[0] // 3, shape[1])) * peak[: shape[0] // 3]).astype(np.float32)
    x[np.arange(shape[0]), rng.integers(0, shape[1], shape[0])] = peak[:, 0] * rng.choice(np.float32([-1, 1]), shape[0])
    return x


# Dequantization, float16, and what types do to the arithmetic


def onnx_type(dtype):
    "ONNX's number for a NumPy type or for the name of an integer type."
    from onnx import TensorProto

    name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    return getattr(TensorProto, {"float32": "FLOAT", "float16": "FLOAT16"}.get(name, name.upper()))


@functools.cache
def typed_model(op, dtype, x_type, scale_type, zero_point=True, precision=None, opset=25):
    "One QuantizeLinear or DequantizeLinear whose types are chosen; integers come and go as int32."
    from onnx import helper

    value, i32, integer = helper.make_tensor_value_info, onnx_type("int32"), onnx_type(dtype)
    kwargs = {} if precision is None else {"precision": onnx_type(precision)}
    given = ["x_in", "s"] + ["z_cast"] * zero_point
    nodes = [helper.make_node("Cast", ["z"], ["z_cast"], to=integer)] if zero_point else []
    if op == "QuantizeLinear":
        nodes += [helper.make_node("Identity", ["x"], ["x_in"]), helper.make_node(op, given, ["q"], **kwargs), helper.make_node("Cast", ["q"], ["y"], to=i32)]
        ends = onnx_type(x_type), i32
    else:
        nodes += [helper.make_node("Cast", ["x"], ["x_in"], to=integer), helper.make_node(op, given, ["y"], **kwargs)]
        ends = i32, onnx_type(scale_type)
    inputs = [value("x", ends[0], ["n"]), value("s", onnx_type(scale_type), [])] + ([value("z", i32, [])] if zero_point else [])
    graph = helper.make_graph(nodes, "g", inputs, [value("y", ends[1], ["n"])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 12
    return model


@functools.cache
def typed_session(*args):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(typed_model(*args).SerializeToString(), options, providers=["CPUExecutionProvider"])


@functools.cache
def typed_evaluator(*args):
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(typed_model(*args))


def typed_run(runner, op, dtype, x, scale, zero_point, precision=None):
    "The result of a runner: `typed_session` (ONNX Runtime) or `typed_evaluator` (ONNX); scale and x keep their types."
    scale = np.asarray(scale)
    feed = {"x": x, "s": scale} | ({} if zero_point is None else {"z": np.array(zero_point, np.int32)})
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x_type = x.dtype.name if op == "QuantizeLinear" else "int32"
        return runner(op, dtype, x_type, scale.dtype.name, zero_point is not None, precision).run(None, feed)[0]


def ort_quantize_typed(x, scale, zero_point, dtype, precision=None):
    "Codes of ONNX Runtime for float16 or float32 x and scale."
    return typed_run(typed_session, "QuantizeLinear", dtype, x, scale, zero_point, precision)


def onnx_quantize_typed(x, scale, zero_point, dtype, precision=None):
    "Codes of ONNX's evaluator: no oracle where the quotient reaches 2**31, or is no finite float16."
    return typed_run(typed_evaluator, "QuantizeLinear", dtype, x, scale, zero_point, precision)


def ort_dequantize(codes, scale, zero_point, dtype):
    "Real values in the type of the scale; the zero point may be None."
    return typed_run(typed_session, "DequantizeLinear", dtype, codes.astype(np.int32), scale, zero_point)


def onnx_dequantize(codes, scale, zero_point, dtype):
    return typed_run(typed_evaluator, "DequantizeLinear", dtype, codes.astype(np.int32), scale, zero_point)


def torch_dequantize(codes, scale, zero_point, dtype):
    "quantize_per_tensor's way back."
    torch = quiet_torch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.dequantize(torch._make_per_tensor_quantized_tensor(torch.from_numpy(codes.astype(dtype)), float(scale), int(zero_point))).numpy()


def torch_dequantize_per_channel(codes, scales, zero_points, dtype, axis=0):
    "quantize_per_channel's way back: the tensor holds its scales in float64."
    torch = quiet_torch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scales, zeros = torch.tensor(np.asarray(scales, np.float64)), torch.tensor(np.asarray(zero_points, np.int64))
        return torch.dequantize(torch._make_per_channel_quantized_tensor(torch.from_numpy(codes.astype(dtype)), scales, zeros, axis)).numpy()


def torch_int32_per_channel(x, scale, zero_point):
    torch = quiet_torch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scales, zeros = torch.tensor([float(scale)], dtype=torch.float64), torch.tensor([zero_point])
        return torch.quantize_per_channel(torch.from_numpy(x[None]), scales, zeros, 0, torch.qint32).int_repr().numpy()[0]


def torch_fake_per_channel(x, scale, zero_point, dtype):
    "Real values of one channel."
    torch = quiet_torch()
    scales, zeros = torch.tensor([np.float32(scale)]), torch.tensor([zero_point], dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(torch.from_numpy(x[None]), scales, zeros, 0, *RANGES[dtype]).numpy()[0]


def modelopt_values(x, amax, bits, unsigned=False):
    "What ModelOpt 0.47 makes of x on a CPU, its own lines run by PyTorch up to the last division."
    torch = quiet_torch()
    amax = torch.tensor(amax)
    dead, max_bound = amax <= 1.0 / (1 << 24), torch.tensor((2.0 ** (bits - 1 + int(unsigned))) - 1.0)
    return (torch.from_numpy(modelopt_lines(x, amax.numpy(), bits, unsigned)) / (torch.ones(()) if dead else max_bound / amax)).numpy()


def bitsandbytes_dequantize(codes, absmax):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from bitsandbytes.functional import int8_vectorwise_dequant
    torch = quiet_torch()
    return int8_vectorwise_dequant(torch.from_numpy(codes), torch.from_numpy(absmax)).numpy()


def gguf_dequantize(codes, d, kind="Q8_0"):
    "Real values of blocks of 32 codes: int8 for Q8_0, 0..15 for Q4_0; d is float16, one per block."
    from gguf import quants

    packed = codes.astype(np.int8).view(np.uint8) if kind == "Q8_0" else codes[:, :16].astype(np.uint8) | codes[:, 16:].astype(np.uint8) << 4
    with np.errstate(all="ignore"):
        return getattr(quants, kind).dequantize_blocks(np.concatenate([d.astype(np.float16)[:, None].view(np.uint8), packed], axis=1))


# ONNX Runtime's operator and tool


def ort_dynamic(x):
    "Codes, scale and zero point of DynamicQuantizeLinear."
    codes, scale, zero_point = dynamic_session().run(None, {"x": x})
    return codes, scale[()], int(zero_point)


def ort_tool_qparams(lo, hi, dtype, symmetric=False, reduced=False):
    "Scale in the type of the ends, and zero point."
    from onnxruntime.quantization import quant_utils

    qmin, qmax = quant_utils.get_qmin_qmax_for_qType(onnx_type(dtype), reduce_range=reduced, symmetric=symmetric)
    with np.errstate(all="ignore"):
        zero_point, scale = quant_utils.compute_scale_zp(np.array(lo), np.array(hi), qmin, qmax, symmetric)
    return scale[()], int(zero_point)


def ort_tool_codes(x, scale, zero_point, dtype):
    "Codes that the tool, not the runtime, gives to weights; scale keeps its type."
    from onnxruntime.quantization import quant_utils

    return np.asarray(quant_utils.quantize_nparray(onnx_type(dtype), x, np.asarray(scale), np.array(zero_point, dtype.replace("int4", "int8"))))


def ort_bias(bias, input_scale, weight_scale, beta=1.0):
    "int32 codes of a bias and its scales; a single weight scale must have the shape ()."
    import types

    from onnx import helper, numpy_helper
    from onnxruntime.quantization.base_quantizer import BaseQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    model = ONNXModel(helper.make_model(helper.make_graph([], "g", [], [], [numpy_helper.from_array(bias, "b")])))
    tool = types.SimpleNamespace(model=model, weight_qType=onnx_type("int8"))
    with np.errstate(all="ignore"):
        names = BaseQuantizer.quantize_bias_static_impl(tool, "b", np.asarray(input_scale), np.asarray(weight_scale), beta)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.initializer()}
    return arrays[names[0]], arrays[names[1]]


def ort_weight_scale_for_bias(bias, input_scale, weight_scale, per_channel):
    "The weight scale that the tool takes in place of one that is too small for the bias."
    from onnx import numpy_helper
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    scale = np.array(weight_scale)
    _, new = QDQQuantizer._adjust_weight_scale_for_int32_bias(None, np.asarray(input_scale), scale, "w", numpy_helper.from_array(bias, "b"), per_channel)
    return new


def ort_static_gemm(x, weight, bias, per_channel, qdq=True):
    "All quantized tensors of one Gemm by name, as quantize_static writes them with x as calibration data."
    import os
    import tempfile

    import onnx
    from onnx import helper, numpy_helper
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        rows = iter([{"x": x}])

        def get_next(self):
            return next(self.rows, None)

    value, kind = helper.make_tensor_value_info, onnx_type(weight.dtype)
    inits = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    graph = helper.make_graph([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], "g", [value("x", kind, [None, weight.shape[0]])],
                              [value("y", kind, [None, weight.shape[1]])], inits)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "quantized.onnx")
        quantize_static(model, path, Reader(), quant_format=QuantFormat.QDQ if qdq else QuantFormat.QOperator, per_channel=per_channel,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def unpack_bits(packed, bits):
    "The codes of bytes, low bits first, along the last axis."
    each = [packed >> shift & (1 << bits) - 1 for shift in range(0, 8, bits)]
    return np.stack(each, axis=-1).reshape(*packed.shape[:-1], -1)


def ort_blocks(weight, block, bits=4, symmetric=True, qdq=False):
    """Codes (K, N), scales and zero points (blocks, N) of the weight (K, N) of a MatMulNBits, blocks along K.

    Symmetric codes are given with the zero point 2**(bits - 1) also where the file has signed ones. These are the kernels
    behind DefaultWeightOnlyQuantizer, whose own module also wants the package onnx_ir.
    """
    from onnxruntime.capi import _pybind_state as kernels

    (rows, cols), per_byte = weight.shape, 8 // bits
    blocks = -(-rows // block)
    if qdq:
        packed, zeros = np.zeros((rows * cols + 1) // 2, np.uint8), np.zeros((cols * blocks + 1) // 2, np.uint8)
        scales = np.zeros((blocks, cols), weight.dtype)
        kernels.quantize_qdq_matmul_4bits(packed, weight, scales, zeros, block, cols, rows, symmetric)
        codes, points = unpack_bits(packed, 4)[: rows * cols].reshape(rows, cols), unpack_bits(zeros, 4)[: blocks * cols].reshape(blocks, cols)
        return (codes ^ 8, scales, np.full_like(points, 8)) if symmetric else (codes, scales, points)
    padded = np.pad(weight, ((0, blocks * block - rows), (0, 0)))
    packed, scales = np.zeros((cols, blocks, block // per_byte), np.uint8), np.zeros((cols, blocks), weight.dtype)
    zeros = np.zeros((cols, -(-blocks // per_byte)), np.uint8)
    getattr(kernels, f"quantize_matmul_{bits}bits")(packed, padded, scales, zeros, block, cols, rows, symmetric)
    codes, points = unpack_bits(packed, bits).reshape(cols, -1).T[:rows], unpack_bits(zeros, bits)[:, :blocks].T
    return codes, scales.T, np.full_like(points, 1 << bits - 1) if symmetric else points


# PyTorch's observers for whole vectors of ranges


def torch_observed(lo, hi, dtype, symmetric=False, per_channel=True, reduced=False):
    "Scales and zero points, one per pair."
    torch = quiet_torch()
    kind = {"uint8": torch.quint8, "int8": torch.qint8, "int16": torch.int16, "uint16": torch.uint16}[dtype]
    scheme = getattr(torch, f"per_{'channel' if per_channel else 'tensor'}_{'symmetric' if symmetric else 'affine'}")
    library = torch.ao.quantization
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observer = (library.PerChannelMinMaxObserver if per_channel else library.MinMaxObserver)(dtype=kind, qscheme=scheme, reduce_range=reduced)
        pairs = [(lo, hi)] if per_channel else zip(lo, hi)
        found = [observer._calculate_qparams(torch.tensor(a), torch.tensor(b)) for a, b in pairs]
    return tuple(np.concatenate([one[i].numpy() for one in found]) for i in (0, 1))


# LiteRT (TensorFlow Lite) and its quantizers, llama.cpp


def litert_model(tensors, ops, inputs, outputs):
    "A .tflite file: tensors are (shape, type, scales, zero points, axis, data), ops are (name, inputs, outputs, options)."
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.operatorCodes, model.buffers, model.subgraphs = 3, [], [schema.BufferT()], [graph]
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], inputs, outputs
    for i, (shape, dtype, scales, zeros, axis, data) in enumerate(tensors):
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.name, tensor.buffer = list(shape), getattr(schema.TensorType, dtype.upper()), f"t{i}", 0
        if scales is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [float(s) for s in scales], [int(z) for z in zeros]
            tensor.quantization.quantizedDimension = axis
        if data is not None:
            buffer = schema.BufferT()
            buffer.data, tensor.buffer = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8), len(model.buffers)
            model.buffers.append(buffer)
        graph.tensors.append(tensor)
    for name, given, results, options in ops:
        code, op = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = getattr(schema.BuiltinOperator, name.upper())
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1 if options == "FullyConnectedOptions" else 3
        op.opcodeIndex, op.inputs, op.outputs = len(model.operatorCodes), given, results
        op.builtinOptionsType, op.builtinOptions = getattr(schema.BuiltinOptions, options), getattr(schema, f"{options}T")()
        model.operatorCodes.append(code)
        graph.operators.append(op)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def litert_run(content, x, kernels):
    "kernels: 'reference', 'optimized' (depends on the place of a value), or 'default' (XNNPACK)."
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    which = {"reference": OpResolverType.BUILTIN_REF, "optimized": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES, "default": OpResolverType.AUTO}[kernels]
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=which)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def litert_quantize(x, scale, zero_point, dtype, kernels="reference", axis=0):
    "Codes of the QUANTIZE operator, int8, uint8 or int16; vectors of scales and zero points belong to `axis`."
    real, coded = (x.shape, "float32", None, None, 0, None), (x.shape, dtype, np.ravel(scale), np.ravel(zero_point), axis, None)
    return litert_run(litert_model([real, coded], [("QUANTIZE", [0], [1], "QuantizeOptions")], [0], [1]), x, kernels)


def litert_dequantize(codes, scale, zero_point, dtype, kernels="reference", axis=0):
    "Real values of the DEQUANTIZE operator; int16 has no zero point but 0."
    coded, real = (codes.shape, dtype, np.ravel(scale), np.ravel(zero_point), axis, None), (codes.shape, "float32", None, None, 0, None)
    return litert_run(litert_model([coded, real], [("DEQUANTIZE", [0], [1], "DequantizeOptions")], [0], [1]), codes.astype(dtype), kernels)


def litert_calibrated(weight, bias, rows):
    "What TensorFlow Lite's int8 quantizer makes of one fully connected layer: (scales, zero points, data) of input, weight and bias."
    from ai_edge_litert import _pywrap_tensorflow_lite_calibration_wrapper as wrapper
    from ai_edge_litert import schema_py_generated as schema

    (n, k), none = weight.shape, (None, None, 0)
    tensors = [((1, k), "float32", *none, None), ((n, k), "float32", *none, weight), ((n,), "float32", *none, bias), ((1, n), "float32", *none, None)]
    tool = wrapper.CalibrationWrapper(litert_model(tensors, [("FULLY_CONNECTED", [0, 1, 2], [3], "FullyConnectedOptions")], [0], [3]), [], [])
    tool.Prepare()
    for row in rows:
        tool.FeedTensor([row[None]])
    int8, int32 = np.dtype(np.int8).num, np.dtype(np.int32).num
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bytes(tool.QuantizeModel(int8, int8, True, int8, int32, False, False)), 0))
    found = {}
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        data = None if data is None or not len(data) else np.array(data, np.uint8).view(np.int32 if tensor.type == schema.TensorType.INT32 else np.int8)
        found[tensor.name.decode()] = np.array(tensor.quantization.scale, np.float32), np.array(tensor.quantization.zeroPoint), data
    return found["t0"], found["t1"], found["t2"]


def edge_params(scale, zero_point, bits, symmetric):
    from ai_edge_quantizer import qtyping

    scale, zero_point = np.atleast_1d(np.asarray(scale, np.float32)), np.atleast_1d(np.asarray(zero_point, np.int32))
    axis = 0 if scale.size > 1 else None
    return qtyping.UniformQuantParams(num_bits=bits, scale=scale, zero_point=zero_point, symmetric=symmetric, quantized_dimension=axis)


def edge_qparams(lo, hi, bits=8, symmetric=False):
    "Scales and zero points of ai-edge-quantizer, one per pair."
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithms.uniform_quantize import uniform_quantize_tensor as library

    with np.errstate(all="ignore"):
        zeros, scales = library.tensor_zp_scale_from_min_max(lo, hi, bits, symmetric, qtyping.QuantGranularity.CHANNELWISE)
    return scales, zeros


def edge_quantize(x, scale, zero_point, bits=8, symmetric=False):
    "Codes of ai-edge-quantizer: symmetric ones leave the smallest code out from 8 bits on."
    from ai_edge_quantizer.algorithms.uniform_quantize import uniform_quantize_tensor as library

    with np.errstate(all="ignore"):
        return library.uniform_quantize(x, edge_params(scale, zero_point, bits, symmetric))


def edge_bias(bias, input_scale, weight_scale):
    "int32 codes and scales of ai-edge-quantizer for a bias, one weight scale per channel."
    from ai_edge_quantizer.algorithms.uniform_quantize import uniform_quantize_tensor as library

    given = edge_params(input_scale, 0, 8, True), edge_params(weight_scale, np.zeros(np.size(weight_scale)), 8, True)
    with np.errstate(all="ignore"):
        made = library.symmetric_quantize_bias_tensor(bias, *given)
    return made.quantized_data, made.scale


@functools.cache
def ggml_libraries():
    "libggml-base and libggml-cpu of llama-cpp-python, or of the folder that GGML_LIBRARIES names."
    import ctypes
    import importlib.util
    import os
    from pathlib import Path

    folder = os.environ.get("GGML_LIBRARIES") or Path(importlib.util.find_spec("llama_cpp").origin).parent / "lib"
    base = ctypes.CDLL(str(Path(folder) / "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
    cpu = ctypes.CDLL(str(Path(folder) / "libggml-cpu.so"))
    cpu.ggml_cpu_init()
    return base, cpu


def ggml_q8_0(blocks, fast=True):
    "Codes and float16 scales of blocks of 32: by the code for this processor, or by the reference code."
    import ctypes

    base, cpu = ggml_libraries()
    x, packed = np.ascontiguousarray(blocks, np.float32), np.zeros((len(blocks), 34), np.uint8)
    quantize = cpu.quantize_row_q8_0 if fast else base.quantize_row_q8_0_ref
    quantize(x.ctypes.data_as(ctypes.c_void_p), packed.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(x.size))
    return packed[:, 2:].copy().view(np.int8), packed[:, :2].copy().view(np.float16)[:, 0]


def ggml_dequantize(codes, d):
    "Real values of Q8_0 blocks, by the reference code."
    import ctypes

    packed, out = np.concatenate([d.astype(np.float16)[:, None].view(np.uint8), codes.view(np.uint8)], axis=1), np.zeros(codes.shape, np.float32)
    ggml_libraries()[0].dequantize_row_q8_0(packed.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(out.size))
    return out
