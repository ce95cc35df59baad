"""Record what other libraries answer, for the book to show and for tests/test_libraries.py to ask again.

    python tools/record_libraries.py                     ask everything and write quant101/records/libraries.json
    python tools/record_libraries.py --only "steps/"     ask what begins so, and keep the other answers

The book reads the file and asks no library, so that it can be built wherever NumPy and Numba run. An answer keeps the
versions that gave it and the kind of machine. A library that is not installed is named, and its answers stay.
"""

import argparse
import json
import platform
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import atlas_oracles as lib  # noqa: E402
import litert_oracle as litert  # noqa: E402

from quant101.samples import load_sample  # noqa: E402

FILE = ROOT / "quant101/records/libraries.json"


@dataclass(frozen=True)
class Question:
    "What is asked, of whom, and where the book needs the answer."
    ask: Callable  # returns what JSON can hold
    needs: tuple  # the modules that answer; the first is the library that the book names
    hangs: str  # words of the page that are wrong if the answer changes
    page: str  # the notebook
    anywhere: bool  # whether another kind of processor has to give the same answer


QUESTIONS = {}


def question(name: str, *needs: str, hangs: str, anywhere: bool = True):
    "Put a function among the questions; the name begins with the module of the chapter that needs the answer."
    def put(ask):
        page = next((ROOT / "nbs").glob(f"*_{name.split('/')[0]}.ipynb"))
        QUESTIONS[name] = Question(ask, needs, hangs, page.name, anywhere)
        return ask
    return put


def checksum(array) -> int:
    "The CRC-32 of an array's bytes, the least significant of a number first."
    array = np.ascontiguousarray(array)
    return zlib.crc32(array.astype(array.dtype.newbyteorder("<"), copy=False))


# Numbers in a machine


@question("dtypes/codes by ml_dtypes", "ml_dtypes", hangs="The codes are equal, bit for bit.")
def codes_by_ml_dtypes():
    import ml_dtypes

    weight, halves = load_sample("attention_weight"), np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    types = {"FP16": np.float16, "BF16": ml_dtypes.bfloat16, "E5M2": ml_dtypes.float8_e5m2, "E4M3": ml_dtypes.float8_e4m3fn}
    return {name: [checksum(x.astype(t).view(f"u{np.dtype(t).itemsize}")) for x in (weight, halves, -halves)] for name, t in types.items()}


# Quantization, step by step


def one_operator(operator: str, x, scale, zero_point, code_type: str, **attributes):
    "What ONNX Runtime makes of `x` with a model that holds one operator, QuantizeLinear or DequantizeLinear."
    import onnxruntime
    from onnx import TensorProto, helper

    kind = getattr(TensorProto, code_type.upper())
    kinds = [TensorProto.FLOAT, kind] if operator == "QuantizeLinear" else [kind, TensorProto.FLOAT]
    constants = [helper.make_tensor("scale", TensorProto.FLOAT, np.shape(scale), np.ravel(scale)),
                 helper.make_tensor("zero_point", kind, np.shape(scale), np.broadcast_to(zero_point, np.shape(scale)).ravel())]
    ports = [helper.make_tensor_value_info(name, kind, x.shape) for name, kind in zip("xy", kinds)]
    node = helper.make_node(operator, ["x", "scale", "zero_point"], ["y"], **attributes)
    graph = helper.make_graph([node], "one_operator", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@question("steps/a weight by onnxruntime", "onnxruntime", "onnx", hangs="All codes are equal")
def weight_by_onnxruntime():
    w, most = load_sample("attention_weight"), np.float32(127)
    scale, rows, groups = (np.abs(part).max(axis=-1) / most for part in (w.reshape(-1), w, w.reshape(384, 12, 32)))
    cases = {"one scale": (scale, 0, "int8", {}), "one scale, unsigned": (scale, 128, "uint8", {}),
             "a scale per row": (rows, 0, "int8", {"axis": 0}), "a scale per 32": (groups, 0, "int8", {"axis": 1, "block_size": 32})}
    found = {}
    for name, (s, z, kind, place) in cases.items():
        q = one_operator("QuantizeLinear", w, s, z, kind, **place)
        found[name] = [checksum(q), checksum(one_operator("DequantizeLinear", q, s, z, kind, **place))]
    return found


# Strategies

ODD_ROW = np.array([1e-39, -5e-40], np.float32)  # whose scale is subnormal


@question("strategies/a weight by onnxruntime's helper", "onnxruntime", "onnx", hangs="on every row of the weight scale and codes are equal to the bit")
def weight_by_helper():
    from onnx import TensorProto
    from onnxruntime.quantization.quant_utils import quantize_data

    found = {}
    for bits, kind in ((8, TensorProto.INT8), (4, TensorProto.INT4)):
        rows = [quantize_data(row, kind, symmetric=True) for row in load_sample("ffn_weight")]
        found[f"{bits} bits"] = [checksum(np.float32([scale for _, scale, _ in rows])), checksum(np.int8([codes for *_, codes in rows]))]
    return found


@question("strategies/a subnormal scale by onnxruntime's helper", "onnxruntime", "onnx", hangs="ONNX Runtime takes 1, and the whole row becomes zeros")
def subnormal_scale_by_helper():
    from onnx import TensorProto
    from onnxruntime.quantization.quant_utils import quantize_data

    _, scale, codes = quantize_data(ODD_ROW, TensorProto.INT8, symmetric=True)
    return {"scale": float(scale), "codes": np.asarray(codes, int).tolist()}


# Calibration


def entropy_collector(batches, bins: int):
    "ONNX Runtime's collector for entropy after some batches, and its histogram."
    from onnxruntime.quantization.calibrate import HistogramCollector

    collector = HistogramCollector("entropy", False, bins, 128, None, None)
    for batch in batches:
        collector.collect_value({"x": batch})
    return collector, collector.get_histogram_dict()["x"]


@question("calibration/bins by onnxruntime", "onnxruntime", "onnx", hangs="as many bins of that width are appended on both sides as it takes")
def bins_by_onnxruntime():
    pieces = np.split(load_sample("ffn_weight"), 8)
    return {way: len(entropy_collector(batches, 512)[1][0]) for way, batches in (("forwards", pieces), ("backwards", pieces[::-1]))}


@question("calibration/entropy by onnxruntime", "onnxruntime", "onnx", hangs="ONNX Runtime's own answer is met to the bit on all five")
def entropy_by_onnxruntime():
    found = {}
    for name in ("ffn_weight", "attention_weight", "attention_input", "ffn_input", "attention_probs"):
        collector, histogram = entropy_collector([load_sample(name)], 512)
        found[name] = [float(end) for end in collector.get_entropy_threshold(histogram, 128)]
    return found


# Symmetry


def tensors_and_rows() -> list:
    "The six tensors that are recorded, and each of their rows."
    whole = [load_sample(name) for name in ("attention_probs", "attention_input", "ffn_input", "attention_weight", "ffn_weight", "ffn_bias")]
    return whole + [row for t in whole for row in t.reshape(-1, t.shape[-1])]


def dynamic_operator():
    "A session of ONNX Runtime for a model that holds DynamicQuantizeLinear alone."
    import onnxruntime
    from onnx.parser import parse_model

    model = parse_model("""<ir_version: 8, opset_import: ["" : 13]>
        dynamic (float[n] x) => (uint8[n] q, float s, uint8 z) { q, s, z = DynamicQuantizeLinear(x) }""")
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@question("symmetry/parameters by onnxruntime's tool", "onnxruntime", "onnx", hangs="it gives the same scale and the same zero point as ours, bit for bit")
def parameters_by_tool():
    from onnxruntime.quantization.quant_utils import compute_scale_zp

    found = {}
    for name, qmin, qmax, symmetric in (("asymmetric, unsigned", 0, 255, False), ("asymmetric, signed", -128, 127, False),
                                        ("symmetric, unsigned", 0, 255, True), ("symmetric, signed", -127, 127, True)):
        pairs = [compute_scale_zp(t.min(), t.max(), np.int32(qmin), np.int32(qmax), symmetric) for t in tensors_and_rows()]
        found[name] = [checksum(np.array([scale for _, scale in pairs])), checksum(np.array([int(zero) for zero, _ in pairs], np.int64))]
    return found


@question("symmetry/edges by onnxruntime's tool", "onnxruntime", "onnx", hangs="At two edges the ways part.")
def edges_by_tool():
    from onnxruntime.quantization.quant_utils import compute_scale_zp

    ends = np.int32(0), np.int32(255)
    none, small = np.float32(0), np.finfo(np.float32).smallest_subnormal
    return {"zero point of zeros": int(compute_scale_zp(none, none, *ends, True)[0]),
            "scale of a tiny range": float(compute_scale_zp(-3 * small, 99 * small, *ends)[1])}


@question("symmetry/the dynamic operator by onnxruntime", "onnxruntime", "onnx", hangs="All zero points and all codes are equal to ours")
def dynamic_operator_by_onnxruntime():
    session = dynamic_operator()
    answers = [session.run(["q", "s", "z"], {"x": t.ravel()}) for t in tensors_and_rows()]
    codes, scales, zeros = zip(*answers)
    return [checksum(np.concatenate(codes)), checksum(np.array(scales)), checksum(np.array(zeros, np.int64))]


@question("symmetry/a wide range by onnxruntime", "onnxruntime", "onnx", hangs="it makes an infinite scale, and all codes become 0", anywhere=False)
def wide_range_by_onnxruntime():
    codes, scale = dynamic_operator().run(["q", "s"], {"x": np.float32([-3e38, 3e38])})
    return {"scale": str(scale), "codes": codes.tolist()}


@question("symmetry/reduced range by onnxruntime", "onnxruntime", "onnx", hangs="ONNX Runtime's reduced range knows the answer")
def reduced_range():
    from onnxruntime.quantization.quant_utils import ONNX_INT_TYPE_REDUCED_RANGE, QuantType

    return [int(end) for end in ONNX_INT_TYPE_REDUCED_RANGE[QuantType.QInt8.tensor_type]]


# The integer matrix product


@question("matmul/the inner loop by LLVM", "llvmlite", hangs="its loop has 24 steps of `sdot`")
def inner_loop():
    from quant101.matmul import tile_assembly

    x86 = tile_assembly("AVX-512 VNNI", "x86_64-unknown-linux-gnu", "sapphirerapids")
    arm = tile_assembly("NEON dot product", "aarch64-unknown-linux-gnu", "generic", "+dotprod")
    loop = x86[:x86.index("\tjl\t")].rpartition("\n.LBB")[2].splitlines()[1:]
    assert not any(line.endswith(")") for line in loop), "none changes the memory"
    return {"vpdpbusd": sum("vpdpbusd\t" in line for line in loop), "memory": sum("(%" in line for line in loop),
            "sdot": sum("\tsdot\t" in line for line in arm.splitlines()), "lines": [line.strip().replace("\t", " ") for line in loop[7:17]]}


@question("matmul/MatMulInteger by onnxruntime", "onnxruntime", "onnx", hangs="ONNX calls this product MatMulInteger, and ONNX Runtime's result is equal to ours")
def matmul_integer():
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    def codes(x):
        return np.rint(x / (np.abs(x).max(axis=1, keepdims=True) / np.float32(127))).astype(np.int8)

    found, signed, w = {}, codes(load_sample("ffn_input")), codes(load_sample("ffn_weight"))
    for name, a in (("int8", signed), ("uint8", (signed ^ -128).view(np.uint8))):
        ends = (helper.make_tensor_value_info("a", getattr(TensorProto, name.upper()), a.shape),
                helper.make_tensor_value_info("y", TensorProto.INT32, (len(a), len(w))))
        graph = helper.make_graph([helper.make_node("MatMulInteger", ["a", "w"], ["y"])], "product", ends[:1], ends[1:],
                                  [numpy_helper.from_array(np.ascontiguousarray(w.T), "w")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        found[name] = checksum(session.run(None, {"a": a})[0])
    return found


# Integers between layers


def as_lists(found: dict) -> dict:
    return {name: np.asarray(codes).tolist() for name, codes in found.items()}


@question("integer/sums by ai_edge_litert", "ai_edge_litert", hangs="One library, three answers", anywhere=False)
def sums_by_litert():
    sums = np.arange(-24, 25)  # times 1/8, which is exact in every arithmetic
    return as_lists({kernels: litert.requantized(sums, 0.5, 0.5, 2.0, 0, kernels=kernels) for kernels in litert.KERNELS})


@question("integer/an addition by ai_edge_litert", "ai_edge_litert", hangs="LiteRT's addition of all 65,536 pairs", anywhere=False)
def addition_by_litert():
    a, b = (v.ravel().astype(np.int8) for v in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
    places = [(float(np.float32(scale)), zero) for scale, zero in ((0.1, 3), (0.037, -20), (0.12, 5))]
    return {kernels: checksum(litert.added(a, places[0], b, places[1], places[2], kernels)) for kernels in ("reference", "optimized")}


@question("integer/an average by ai_edge_litert", "ai_edge_litert", hangs="LiteRT's average pooling")
def average_by_litert():
    pixels = load_sample("digit_pixels").astype(np.int8).reshape(400, 8, 8)
    return checksum(np.array([litert.averaged(block.reshape(400, 4).T.reshape(2, 2, 400)) for row in range(0, 8, 2) for column in range(0, 8, 2)
                              for block in [pixels[:, row:row + 2, column:column + 2]]]))


@question("integer/the digits by ai_edge_litert", "ai_edge_litert", hangs="equal to LiteRT's at every place", anywhere=False)
def digits_by_litert():
    return {kernels: [checksum(codes) for codes in litert.digits_by(kernels)] for kernels in litert.KERNELS}


@question("integer/QLinearMatMul by onnxruntime", "onnxruntime", "onnx", hangs="ONNX Runtime's QLinearMatMul")
def qlinear_matmul_by_onnxruntime():
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    layer, pixels = litert.digits()["layers"][0], load_sample("digit_pixels").astype(np.uint8)
    rest = {"a_scale": np.float32(1 / 16), "a_zero_point": np.uint8(0), "b": np.ascontiguousarray(layer["weight"].T), "b_scale": layer["weight_scale"],
            "b_zero_point": np.zeros(32, np.int8), "y_scale": np.float32(0.05), "y_zero_point": np.uint8(128)}
    node = helper.make_node("QLinearMatMul", ["a", *rest], ["y"])
    ends = helper.make_tensor_value_info("a", TensorProto.UINT8, pixels.shape), helper.make_tensor_value_info("y", TensorProto.UINT8, (400, 32))
    graph = helper.make_graph([node], "product", ends[:1], ends[1:], [numpy_helper.from_array(np.asarray(v), name) for name, v in rest.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return checksum(session.run(None, {"a": pixels})[0])


# The atlas

ODD = np.float32([np.nan, np.inf, -np.inf, 1e10, 300, -1])  # with scale 1 and zero point 128


def unsigned_scale(w):
    "The scale of the weight for unsigned codes, as the chapter has it; the zero point is 138."
    return (w.max() - w.min()) / np.float32(255)


@question("atlas/symmetric codes by onnxruntime", "onnxruntime", "onnx", hangs="so the scale is absmax / 127,")
def symmetric_by_onnxruntime():
    w = load_sample("attention_weight").ravel()
    scale, zero_point = lib.ort_qparams(w.min(), w.max(), "int8", symmetric=True)
    unsigned = lib.ort_qparams(w.min(), w.max(), "uint8", symmetric=True)
    return {"scale": float(scale), "zero point": zero_point, "codes": checksum(lib.ort_quantize(w, scale, 0, "int8").astype(np.int8)),
            "unsigned": [float(unsigned[0]), unsigned[1]]}


@question("atlas/symmetric codes by torch", "torch", hangs="so the scale is absmax / 127.5:")
def symmetric_by_torch():
    w = load_sample("attention_weight").ravel()
    scale, zero_point = lib.torch_qparams(w.min(), w.max(), "int8", symmetric=True)
    return {"scale": float(scale), "zero point": zero_point, "codes": checksum(lib.torch_quantize(w, scale, 0, "int8"))}


@question("atlas/codes at one scale by onnxruntime", "onnxruntime", "onnx", hangs="ONNX Runtime divides by the scale")
def one_scale_by_onnxruntime():
    w = load_sample("attention_weight").ravel()
    return checksum(lib.ort_quantize(w, unsigned_scale(w), 138, "uint8").astype(np.uint8))


@question("atlas/codes at one scale by torch", "torch", hangs="PyTorch's two functions", anywhere=False)
def one_scale_by_torch():
    w = load_sample("attention_weight").ravel()
    given = w, unsigned_scale(w), 138, "uint8"
    return {"quantize_per_tensor": checksum(lib.torch_quantize(*given)), "quantize_per_channel": checksum(lib.torch_per_channel(*given))}


@question("atlas/two functions by torch", "torch", hangs="So the same library gives two answers", anywhere=False)
def two_functions_by_torch():
    x = np.float32([-7.5])
    return {"quantize_per_tensor": int(lib.torch_quantize(x, 3.0, 4, "uint8")[0]),
            "quantize_per_channel": int(lib.torch_per_channel(x, 3.0, 4, "uint8")[0])}


@question("atlas/odd values by onnxruntime", "onnxruntime", "onnx", hangs="ONNX Runtime gives the smallest code", anywhere=False)
def odd_values_by_onnxruntime():
    return {"QuantizeLinear": lib.ort_quantize(ODD, 1.0, 128, "uint8").tolist()}


@question("atlas/odd values by torch", "torch", hangs="PyTorch's `quantize_per_tensor` the largest", anywhere=False)
def odd_values_by_torch():
    return {"quantize_per_tensor": lib.torch_quantize(ODD, 1.0, 128, "uint8").tolist(),
            "quantize_per_channel": lib.torch_per_channel(ODD, 1.0, 128, "uint8").tolist(),
            "fake_quantize": [int(v) + 128 for v in lib.torch_fake(ODD, 1.0, 128, "uint8")]}


@question("atlas/-1 to 1 by onnxruntime", "onnxruntime", "onnx", hangs="the tool and the runtime of one project disagree")
def even_range_by_onnxruntime():
    return {"tool": lib.ort_qparams(np.float32(-1), np.float32(1), "uint8")[1],
            "operator": int(dynamic_operator().run(["z"], {"x": np.float32([-1, 1])})[0])}


@question("atlas/-1 to 1 by torch", "torch", hangs="and the zero point is 127")
def even_range_by_torch():
    return {"observer": lib.torch_qparams(np.float32(-1), np.float32(1), "uint8")[1]}


@question("atlas/zeros by onnxruntime", "onnxruntime", "onnx", hangs="ONNX Runtime sets the scale to 1 and the zero point to 0")
def zeros_by_onnxruntime():
    scale, zero_point = lib.ort_qparams(np.float32(0), np.float32(0), "uint8")
    return {"tool": [float(scale), zero_point], "operator": float(dynamic_operator().run(["s"], {"x": np.zeros(2, np.float32)})[0])}


@question("atlas/zeros by onnx", "onnx", hangs="the evaluator's is $1/255$")
def zeros_by_onnx():
    from onnx.parser import parse_model
    from onnx.reference import ReferenceEvaluator

    model = parse_model("""<ir_version: 8, opset_import: ["" : 13]>
        dynamic (float[n] x) => (uint8[n] q, float s, uint8 z) { q, s, z = DynamicQuantizeLinear(x) }""")
    return float(ReferenceEvaluator(model).run(["s"], {"x": np.zeros(2, np.float32)})[0])


@question("atlas/zeros by torch", "torch", hangs="PyTorch raises any smaller scale to $2^{-23}$")
def zeros_by_torch():
    return float(lib.torch_qparams(np.float32(0), np.float32(0), "uint8")[0])


@question("atlas/large quotients by onnx", "onnx", hangs="ONNX's evaluator makes 0 of $2^{31}$", anywhere=False)
def large_quotients_by_onnx():
    return lib.onnx_reference(np.float32([2**31, 1e10, np.inf]), 1.0, 128, "uint8").tolist()


@question("atlas/a block with NaN by gguf", "gguf", hangs="a scale of NaN and codes of nothing but zeros", anywhere=False)
def block_with_nan_by_gguf():
    block = np.linspace(-1, 1, 32, dtype=np.float32)
    block[4] = np.nan
    codes, scale = lib.gguf_q8_0(block[None])
    return {"scale": str(scale[0]), "codes": codes[0].tolist()}


@question("atlas/a row with NaN by bitsandbytes", "bitsandbytes", "torch", hangs="bitsandbytes returns a row of nothing but zeros", anywhere=False)
def row_with_nan_by_bitsandbytes():
    rows = np.linspace(-1, 1, 32, dtype=np.float32).reshape(1, 32)
    rows[0, 4] = np.nan
    return lib.bitsandbytes_rows(rows)[0][0].tolist()


@question("atlas/zero at a tiny scale by torch", "torch", hangs="quantizes 0.0 with scale $10^{-39}$ and zero point 0 to 255", anywhere=False)
def zero_at_a_tiny_scale_by_torch():
    return int(lib.torch_quantize(np.zeros(1, np.float32), 1e-39, 0, "uint8")[0])


@question("atlas/a tiny range by torch", "torch", hangs="is then left with 17 codes")
def tiny_range_by_torch():
    x = np.linspace(-1e-6, 1e-6, 1001, dtype=np.float32)
    return int(np.unique(lib.torch_quantize(x, *lib.torch_qparams(x.min(), x.max(), "uint8"), "uint8")).size)


@question("atlas/a huge range by torch", "torch", hangs="has an infinite scale")
def huge_range_by_torch():
    return str(lib.torch_qparams(np.float32(-3e38), np.float32(3e38), "uint8")[0])


@question("atlas/a range for 32 bits by torch", "torch", hangs="gets the zero point 0 where the largest code is due", anywhere=False)
def range_for_32_bits_by_torch():
    torch = lib.quiet_torch()
    observer = torch.ao.quantization.MinMaxObserver(dtype=torch.qint32)
    return int(observer._calculate_qparams(torch.tensor(-1000.0), torch.tensor(0.0))[1])


@question("proof/rounding twice by ml_dtypes", "ml_dtypes", hangs="ml_dtypes converts it to float32 on the way")
def rounding_twice_by_ml_dtypes():
    import ml_dtypes

    return {"E4M3": float(np.float64(-431.99999999999994).astype(ml_dtypes.float8_e4m3fn)),
            "BF16": float(np.int32(2**30 + 2**22 + 1).astype(ml_dtypes.bfloat16))}


# Asking


def missing(needs) -> list:
    "The modules that are not installed."
    return [module for module in needs if find_spec(module) is None]


def answer(name: str) -> dict:
    "Ask one question and return what the file keeps."
    asked = QUESTIONS[name]
    return {"versions": {module: version(module) for module in asked.needs}, "machine": platform.machine(), "answer": asked.ask()}


def main() -> int:
    "Ask, and write the file; 1 if a library was missing."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="the beginning of the names of the questions to ask")
    only = parser.parse_args().only
    kept = json.loads(FILE.read_text(encoding="utf8")) if FILE.exists() else {}
    absent = {name: missing(q.needs) for name, q in QUESTIONS.items() if name.startswith(only) and missing(q.needs)}
    new = {name: answer(name) for name in QUESTIONS if name.startswith(only) and name not in absent}
    FILE.write_text(json.dumps({name: (kept | new)[name] for name in QUESTIONS if name in kept | new}, indent=1) + "\n", encoding="utf8")
    for name, modules in absent.items():
        print(f"not asked: {name}, for want of {', '.join(modules)}")
    return int(bool(absent))


if __name__ == "__main__":
    sys.exit(main())
