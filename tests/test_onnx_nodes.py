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


FUNCTIONS = {"QLinearMatMul": q.qlinear_matmul, "MatMulInteger": matmul_integer}
CASES = {
    "QLinearMatMul": [f"test_qlinearmatmul_{axes}_{codes}_{scales}" for codes in ("uint8", "int8") for scales in ("float32", "float16")
                      for axes in ("2D", "3D")],
    "MatMulInteger": ["test_matmulinteger"],
}


@cache
def collected():
    "ONNX's cases of the operators above: {operator: {name: (node, inputs, outputs)}}."
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():  # ONNX makes the data of all other operators' cases as well
        warnings.simplefilter("ignore")
        cases = [case for case in collect_testcases(None) if case.model and len(case.model.graph.node) == 1]
    return {operator: {case.name: (case.model.graph.node[0], *case.data_sets[0]) for case in cases
                       if case.model.graph.node[0].op_type == operator} for operator in CASES}


def attributes(node):
    from onnx.helper import get_attribute_value

    return {a.name: get_attribute_value(a) for a in node.attribute}


@needs("onnx")
@pytest.mark.parametrize("operator", CASES)
def test_cases_are_those_that_onnx_has(operator):
    assert sorted(collected()[operator]) == sorted(CASES[operator])


@needs("onnx")
@pytest.mark.parametrize("operator, name", [(operator, name) for operator, names in CASES.items() for name in names])
def test_case_gives_what_onnx_expects(operator, name):
    node, inputs, expected = collected()[operator][name]
    given = iter(inputs)
    found = FUNCTIONS[operator](*(next(given) if word else None for word in node.input), **attributes(node))
    found = found if isinstance(found, tuple) else (found,)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
