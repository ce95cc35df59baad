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


# LiteRT (TensorFlow Lite)


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
