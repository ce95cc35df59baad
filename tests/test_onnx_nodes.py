"""ONNX's own operator cases (onnx.backend.test), which need no network: every case of the operators in the table, by name.

An operator stands in FUNCTIONS with what computes it: a function of the case's inputs, an absent one being None, and of the
node's attributes. One whose inputs say everything takes them as they are.
"""

import warnings
from functools import cache

import numpy as np
import pytest
from tests_support import needs

import quant101 as q


def matmul_integer(a, b, a_zero_point=None, b_zero_point=None):
    return q.matmul_integer(a, b, 0 if a_zero_point is None else a_zero_point, 0 if b_zero_point is None else b_zero_point)


FORMATS = {"float16": q.FP16, "bfloat16": q.BF16, "float8_e4m3fn": q.E4M3, "float8_e5m2": q.E5M2,
           "float8_e4m3fnuz": q.FloatFormat("E4M3FNUZ", 4, 3, 8, "fnuz"), "float8_e5m2fnuz": q.FloatFormat("E5M2FNUZ", 5, 2, 16, "fnuz"),
           "float4_e2m1fn": q.FloatFormat("E2M1", 2, 1, specials="none")}
RANGES = {kind + str(bits): (0, 2**bits - 1) if kind == "uint" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for kind in ("int", "uint") for bits in (2, 4, 8, 16)}


def placed(x, scale, zero_point, name, axis, block_size):
    "The scale of an operator as QParams."
    zero_point = 0 if zero_point is None else np.reshape(zero_point, np.shape(scale)).astype(np.int64)
    place = {} if np.ndim(scale) == 0 else {"group_size": block_size, "group_axis": axis} if block_size else {"axis": axis}
    return q.QParams(scale, zero_point, *RANGES[name], **place)


def quantize_linear(x, scale, zero_point=None, axis=1, block_size=0, output_dtype=None):
    name = "int16" if output_dtype == 5 else zero_point.dtype.name
    if name in FORMATS:  # the zero point is 0, and the codes are those of a float format
        steps = scale if np.ndim(scale) == 0 else np.expand_dims(scale, tuple(a for a in range(x.ndim) if a != axis))
        return q.decode(q.encode(x / steps, FORMATS[name], overflow="saturate"), FORMATS[name])
    return q.quantize_as(x, placed(x, scale, zero_point, name, axis, block_size), q.ONNX)


def dequantize_linear(codes, scale, zero_point=None, axis=1, block_size=0):
    if codes.dtype.name in FORMATS:
        return (q.decode(codes, FORMATS[codes.dtype.name]) * scale.astype(np.float32)).astype(scale.dtype)
    return q.dequantize_as(codes, placed(codes, scale, zero_point, codes.dtype.name, axis, block_size), q.ONNX)


def dynamic_quantize_linear(x):
    p = q.qparams_as(x.min(), x.max(), q.ORT_DYNAMIC, "uint8")
    return q.quantize_as(x, p, q.ORT_DYNAMIC), p.scale, np.uint8(p.zero_point)


def cast(x, like, saturate=1):
    "`x` in the format of `like`, as float32."
    if like.name == "float32":
        return q.cast(x, q.FP32)
    return q.cast(x, FORMATS[like.name], overflow="saturate" if saturate and "float8" in like.name else "ieee")


FUNCTIONS = {"QLinearMatMul": q.qlinear_matmul, "MatMulInteger": matmul_integer, "QuantizeLinear": quantize_linear,
             "DequantizeLinear": dequantize_linear, "DynamicQuantizeLinear": dynamic_quantize_linear}
TYPES = ("uint16", "int16", "uint4", "int4", "uint2", "int2")
CASES = {
    "QLinearMatMul": [f"test_qlinearmatmul_{axes}_{codes}_{scales}" for codes in ("uint8", "int8") for scales in ("float32", "float16")
                      for axes in ("2D", "3D")],
    "MatMulInteger": ["test_matmulinteger"],
    "QuantizeLinear": ["test_quantizelinear", *(f"test_quantizelinear_{what}" for what in ("axis", "e4m3fn", "e5m2", "float4e2m1",
                       "blocked_asymmetric", "blocked_symmetric", *TYPES))],
    "DequantizeLinear": ["test_dequantizelinear", *(f"test_dequantizelinear_{what}" for what in ("axis", "e4m3fn", "e4m3fn_float16",
                         "e4m3fn_zero_point", "e5m2", "float4e2m1", "blocked", *TYPES))],
    "DynamicQuantizeLinear": ["test_dynamicquantizelinear", "test_dynamicquantizelinear_max_adjusted", "test_dynamicquantizelinear_min_adjusted"],
}
SMALL = ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ")
PAIRS = [*(("FLOAT", to) for to in ("FLOAT16", "BFLOAT16", "FLOAT4E2M1", *SMALL)), *(("FLOAT16", to) for to in ("FLOAT", "FLOAT4E2M1", *SMALL)),
         *((of, to) for of in ("FLOAT4E2M1", *SMALL) for to in ("FLOAT", "FLOAT16")), ("BFLOAT16", "FLOAT"), ("DOUBLE", "FLOAT"), ("DOUBLE", "FLOAT16")]
WRAPPING = [(of, to) for of in ("FLOAT", "FLOAT16") for to in SMALL]  # those that also come without saturation
NAMES = [f"{of}_to_{to}" for of, to in PAIRS] + [f"no_saturate_{of}_to_{to}" for of, to in WRAPPING]
CASTS = {"Cast": [f"test_cast_{n}" for n in NAMES] + [f"test_castlike_{n}_expanded" for n in NAMES],
         "CastLike": [f"test_castlike_{n}" for n in NAMES]}


def is_of_another_chapter(name):
    "Whether a cast goes from or to integers or E8M0, which is no float format yet, or to float64, which holds what it is given."
    return any(word in name for word in ("INT", "E8M0", "DOUBLE")) and not ("DOUBLE_to" in name)


@cache
def collected():
    "ONNX's cases of the operators above: {operator: {name: (node, inputs, outputs)}}."
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():  # ONNX makes the data of all other operators' cases as well
        warnings.simplefilter("ignore")
        cases = [case for case in collect_testcases(None) if case.model and len(case.model.graph.node) == 1]
    return {operator: {case.name: (case.model.graph.node[0], *case.data_sets[0]) for case in cases
                       if case.model.graph.node[0].op_type == operator} for operator in CASES | CASTS}


def array(value):
    "An input or output of a case; those of types that NumPy lacks come as ONNX keeps them."
    from onnx import TensorProto, numpy_helper

    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


def attributes(node):
    from onnx.helper import get_attribute_value

    return {a.name: get_attribute_value(a) for a in node.attribute}


@needs("onnx")
@pytest.mark.parametrize("operator", [*CASES, *CASTS])
def test_cases_are_those_that_onnx_has(operator):
    theirs = [name for name in collected()[operator] if operator in CASES or not is_of_another_chapter(name)]
    assert sorted(theirs) == sorted((CASES | CASTS)[operator])


@needs("onnx")
@pytest.mark.parametrize("operator, name", [(operator, name) for operator, names in CASES.items() for name in names])
def test_case_gives_what_onnx_expects(operator, name):
    node, inputs, expected = collected()[operator][name]
    given = iter(map(array, inputs))
    found = FUNCTIONS[operator](*(next(given) if word else None for word in node.input), **attributes(node))
    found = found if isinstance(found, tuple) else (found,)
    for ours, theirs in zip(found, map(array, expected), strict=True):
        if theirs.dtype.name in FORMATS | dict.fromkeys(TYPES):  # what NumPy has no type for is compared as numbers
            assert np.array_equal(ours.astype(np.float32), theirs.astype(np.float32), equal_nan=True)
        else:
            assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


@needs("onnx")
@pytest.mark.parametrize("operator, name", [(operator, name) for operator, names in CASTS.items() for name in names])
def test_cast_gives_what_onnx_expects(operator, name):
    node, inputs, expected = collected()[operator][name]
    x, theirs = array(inputs[0]), array(expected[0])
    if theirs.dtype.name == "float4_e2m1fn":  # it has no NaN: ONNX makes it the largest number, and here it is refused
        with pytest.raises(ValueError, match="x must not hold NaN, for which E2M1 has no code"):
            cast(x, theirs.dtype)
        x, theirs = x[~np.isnan(x)], theirs[~np.isnan(x)]
    ours = cast(x, theirs.dtype, **({"saturate": attributes(node)["saturate"]} if "saturate" in attributes(node) else {}))
    plain = theirs.astype(np.float32)
    assert np.array_equal(ours, plain, equal_nan=True) and np.array_equal(np.signbit(ours)[~np.isnan(plain)], np.signbit(plain)[~np.isnan(plain)])
