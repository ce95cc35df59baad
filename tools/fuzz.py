"""Call every public function with random and with garbage arguments, and see that it keeps its promises.

    python tools/fuzz.py                     100,000 cases
    python tools/fuzz.py --cases 500 --first 7000    cases 7000 to 7499
    python tools/fuzz.py --show 7042         one case again, with its arguments and what came out

A case is made from its number alone. The promises: only ValueError and TypeError come out, with a message that names an
argument; no warning leaks; the arguments stay as they were; nothing that comes back is a view of them; and a read-only,
strided, transposed or big-endian array, or a list, gives what its plain copy gives. An argument is made by its name, so
a new function is called as soon as it is public, and a name that is not known here makes `tests/test_fuzz.py` fail.
"""
import argparse
import copy
import enum
import faulthandler
import hashlib
import importlib
import inspect
import os
import re
import struct
import sys
import time
import traceback
import warnings
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path

import numpy as np

import quant101

PACKAGE = Path(quant101.__file__).parent
# plots draws; check takes any answer there is; bench starts processes, and what it computes from their seconds takes what its own race returned
APART = {"plots", "check", "bench", "explorers"}
FLOATS, WHOLE = ("f2", "f4", "f8"), ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
ROUNDINGS = ("half-even", "half-away", "half-up", "down", "up", "toward-zero", "stochastic")
LABELS = {"as_real_array.name"}  # words for messages, used as they are
VIEWS = {"as_real_array", "explain"}  # documented to copy only if need be; keeps the parameters that it was given
ADDRESSES = {"_operand"}  # where packed weights lie in memory; `kept` has the arrays themselves
FROZEN = quant101.QParams, quant101.PackedWeights  # nobody can change them, so they may be handed on
LEFT_OUT = "left out"  # the digest of a case that plain Python is not asked for
SELDOM = {"load_sample", "tile_assembly"}  # read a file, start a process
PATHS = *["", "portable"] * 5, "AVX-512 VNNI", "avx_vnni", "NEON dot product", "no such"  # what QUANT101_ISA may say


# Discovery


def modules():
    names = sorted(p.stem for p in PACKAGE.glob("*.py") if not p.stem.startswith("_") and p.stem not in APART)
    return [importlib.import_module(f"quant101.{name}") for name in names]


@cache
def targets():
    "Every public function, class and method: {name: callable}."
    found = {}
    for module in modules():
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing):
                found[name] = thing
            elif inspect.isclass(thing) and not issubclass(thing, (enum.Enum, tuple)):
                found |= {name: thing} if name not in RESULTS and name not in BASES else {}
                methods = inspect.getmembers(thing, inspect.isfunction) if name not in BASES else []
                found |= {f"{name}.{method}": f for method, f in methods if not method.startswith("_")}
    return found


@cache
def parameters(name):
    "Names of the arguments of a public callable, and which may be left out."
    listed = [p for p in inspect.signature(targets()[name]).parameters.values() if p.name != "self"]
    return [(p.name, p.kind, p.default is not p.empty) for p in listed if p.kind != p.VAR_KEYWORD]


def unknown():
    "Arguments that no rule here can make."
    return sorted(f"{name}({arg})" for name in targets() for arg, _, _ in parameters(name)
                  if arg not in MAKE and f"{name}.{arg}" not in MAKE)


# Arguments


class Scene:
    "What the arguments of one case have in common."

    def __init__(self, case, name, seed=0):
        self.rng = np.random.default_rng([seed, case])
        self.name = name
        self.shape = self.make_shape()
        self.axis = int(self.rng.integers(-len(self.shape), len(self.shape))) if self.shape else None
        self.columns = int(self.rng.integers(1, 6))
        self.place = self.make_place()
        self.bars = counts_and_edges(self)
        self.ends = self.make_ends()
        self.inputs = int(self.rng.choice([0, 1, 3, 4, 5, 16, 33, 130]))
        self.isa = self.pick(*PATHS)

    def chance(self, p):
        return self.rng.random() < p

    def pick(self, *options):
        return options[self.rng.integers(len(options))]

    def make_shape(self):
        n = self.rng.choice(4, p=[0.1, 0.35, 0.35, 0.2])
        return tuple(int(self.rng.choice([0, 1, 2, 3, 4, 6, 8], p=[0.05, 0.15, 0.2, 0.15, 0.2, 0.15, 0.1])) for _ in range(n))

    def numbers(self, shape, kind):
        rng = self.rng
        values = rng.normal(0, 10.0 ** rng.integers(-6, 7), shape)
        if self.chance(0.3):
            values = np.round(values * 2) / 2
        if self.chance(0.1):
            values = np.zeros(shape)
        if np.dtype(kind).kind in "iu":
            info = np.iinfo(kind)
            return np.clip(values, max(info.min, -(2.0**62)), min(info.max, 2.0**62)).astype(kind)
        values = np.asarray(values).copy()
        if self.chance(0.25) and values.size:
            special = [np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-310, 3e38, -1e308, 65520.0] + [np.nan] * self.chance(0.3)
            values.reshape(-1)[rng.integers(values.size, size=1 + values.size // 4)] = self.pick(*special)
        with np.errstate(all="ignore"):
            return values.astype(kind)

    def array(self, shape=None, kinds=FLOATS * 3 + WHOLE):
        "An array of a random type in a random layout; now and then a list."
        shape = self.shape if shape is None else shape
        return self.dress(self.numbers(shape, self.pick(*kinds)))

    def dress(self, values):
        "The same numbers in another layout."
        way = self.rng.integers(12)
        if way == 0:
            return values.tolist()
        if way == 1:
            values = values.astype(values.dtype.newbyteorder(">"))
        if way == 2:
            values = np.asfortranarray(values)
        if way == 3:
            values.setflags(write=False)
        if way == 4 and values.ndim:
            values = np.repeat(values, 2, axis=-1)[..., ::2]
        if way == 5 and values.ndim:
            values = values[::-1].copy()[::-1]
        if way == 6 and values.ndim:
            values = np.broadcast_to(values[:1], values.shape)
        if way == 7 and values.ndim > 1:
            values = np.swapaxes(np.swapaxes(values, 0, -1).copy(), 0, -1)
        return values

    def garbage(self):
        rng = self.rng
        return self.pick(
            lambda: None, lambda: "quant", lambda: b"\x00", lambda: True, lambda: float("nan"), lambda: float("inf"), lambda: -1, lambda: 0,
            lambda: 2**70, lambda: 1e400, lambda: 3 + 4j, lambda: {}, lambda: {1, 2}, lambda: [], lambda: [[1, 2], [3]], lambda: [None],
            lambda: object(), lambda: len, lambda: int, lambda: np.array("2020-01-01", "M8[D]"), lambda: np.array([1 + 2j]),
            lambda: np.array([True, False]), lambda: np.array([1, "a"], object), lambda: np.zeros(3, [("a", "f4")]), lambda: np.longdouble(1) / 3,
            lambda: np.array(["1", "2"]), lambda: np.empty((2, 0, 3)), lambda: np.float32("nan"), lambda: np.array([np.nan, 1.0]),
            lambda: [2**70, 1], lambda: range(3), lambda: (x for x in (1, 2)), lambda: np.ma.array([1.0, 2.0], mask=[0, 1]), lambda: 1.5,
            lambda: rng.normal(size=(2, 3, 4)), lambda: np.int8(-128), lambda: "half-even", lambda: quant101.E4M3, lambda: quant101.QParams(1.0))()

    # what an argument is, by its name

    def codes(self, qmin, qmax, shape):
        return self.dress(self.rng.integers(qmin, qmax + 1, shape).astype(self.pick("i8", "i4", "u8") if qmin >= 0 else "i8"))

    def fmt(self):
        q, F = quant101, quant101.FloatFormat
        return self.pick(q.FP16, q.BF16, q.FP32, q.TF32, q.E4M3, q.E5M2, F("E4M3FNUZ", 4, 3, bias=8, specials="fnuz"), F("E2M1", 2, 1, specials="none"))

    def format_codes(self):
        return self.codes(0, int(self.rng.choice([15, 255, 2047])), self.shape)

    def bounds(self):
        return self.pick((-128, 127), (0, 255), (-127, 127), (-8, 7), (0, 15), (-64, 63), (-32768, 32767), (0, 65535),
                         (-(2**31), 2**31 - 1), (0, 2**32 - 1), (0, 1), (-300, 5))

    def make_place(self):
        "axis, group_size, the shape of scales that fits, and the axis of groups."
        way = self.rng.integers(5) if self.shape else 0
        if way == 1:
            return self.axis, None, (self.shape[self.axis],), -1
        if way == 2 and self.shape[self.axis]:
            size, along = int(self.rng.integers(1, self.shape[self.axis] + 2)), self.axis % len(self.shape)
            return None, size, self.shape[:along] + (-(-self.shape[along] // size),) + self.shape[along + 1 :], self.axis
        if way == 3 and len(self.shape) > 1:
            return None, None, tuple(n if self.chance(0.5) else 1 for n in self.shape), -1  # as keepdims leaves them
        return None, None, (), -1

    def scale(self, shape=()):
        value = 10.0 ** self.rng.uniform(-6, 4, shape)
        if self.chance(0.05):
            value = value * self.pick(1e-40, 1e-300, 1e34, 1e300, 0.0, -1.0)
        with np.errstate(all="ignore"):
            return float(value) if shape == () and self.chance(0.5) else self.dress(np.asarray(value).astype(self.pick("f4", "f8", "f2")))

    def qparams(self):
        (qmin, qmax), (axis, group_size, shape, group_axis) = self.bounds(), self.place
        try:
            zero_point = 0 if qmin <= 0 and self.chance(0.4) else self.codes(qmin, qmax, self.pick((), shape))
            if self.chance(0.1):
                zero_point = self.pick(300, -(2**31), 2**32, 7.25, self.rng.uniform(-3, 300, shape))
            return quant101.QParams(self.scale(shape), zero_point, qmin, qmax, axis, group_size, group_axis)
        except (ValueError, TypeError):  # a scale that became 0 or infinite in its type, an empty list of zero points
            return quant101.QParams(0.5)


    def make_ends(self):
        "lo and hi for one number, an axis or groups."
        shape = self.place[2]
        low, high = np.sort(self.numbers((2, *shape), self.pick("f4", "f8", "i4")), axis=0)
        return (low.item(), high.item()) if shape == () and self.chance(0.5) else (self.dress(low), self.dress(high))

    def split(self):
        rows = int(self.rng.integers(1, 6))
        return quant101.split_outliers(self.rng.normal(0, 3, (rows, self.columns)).astype(self.pick(*FLOATS)), self.pick(2.0, 6.0))

    def weight(self):
        return self.array((self.pick(*[self.columns] * 4, 2), 3), FLOATS)


    def int8(self, shape):
        "Codes in which the extremes are frequent."
        codes = self.rng.integers(-128, 128, shape).astype("i1")
        return np.where(self.rng.random(shape) < 0.2, np.int8(self.pick(-128, 127)), codes)

    def weight_qparams(self, outputs, low=-128):
        "What codes of a weight mean, with a scale for all, per output or per group of inputs."
        sizes = [n for n in (1, 2, 4, 5, 16) if self.inputs and self.inputs % n == 0]
        way = self.rng.integers(3 if sizes else 2)
        group_size = self.pick(*sizes) if way == 2 else None
        shape = ((), (outputs,), (outputs, self.inputs // (group_size or 1)))[way]
        zero_point = self.pick(0, 0, low + 128, low, self.rng.integers(low, low + 256, shape))
        return quant101.QParams(self.pick(1.0, 0.01, 1e-30, 3e30) * np.ones(shape), zero_point, low, low + 255, 0 if way == 1 else None, group_size)

    def packed(self):
        outputs, low = int(self.rng.choice([0, 1, 3, 31, 32, 33, 70])), self.pick(-128, -128, 0)
        codes = self.int8((outputs, self.inputs)).view("u1" if low == 0 else "i1")
        packed = quant101.pack_weights(codes, self.weight_qparams(outputs, low) if self.chance(0.5) else self.pick(1.0, 0.01, 1e-30, 3e30))
        return copy.deepcopy(packed)  # without the unused bytes around aligned memory, which are never the same

    def layer(self):
        return quant101.quantize_linear(self.rng.normal(size=(5, self.inputs or 1)), activations=self.pick("symmetric", "asymmetric"), threshold=self.pick(None, 6.0))

    def calibration(self):
        return self.pick(None, quant101.QParams(0.05), quant101.QParams(0.1, 30, 0, 255), self.array(), calibrator(self))

    def product_codes(self):
        "Codes for a product with packed weights, int8 or uint8."
        return self.dress(self.int8((int(self.rng.integers(0, 20)), self.inputs)).view(self.pick("i1", "u1")))

    def bytes_of(self, side):
        "Codes of a factor: a is (rows, inputs), b is (inputs, 3), now and then with an axis before them."
        n, k = {"a": (2, 4), "b": (4, 3)}[side]
        shape = self.pick((n, k), (n, k), (2, n, k), (4,), (n, 5))
        return self.dress(self.int8(shape).view(self.pick("i1", "u1")))

    def side_scale(self, side, zero=False):
        "A scale, or a zero point, for all, for rows of a or for columns of b."
        shape = self.pick((), (), (1,), {"a": (2,), "b": (3,), "y": (2, 1)}[side], {"a": (2, 1), "b": (1, 3), "y": (3,)}[side])
        if zero:
            return self.dress(self.rng.integers(0, 100, shape).astype(self.pick("i1", "u1", "i8")))
        return self.dress(np.asarray(10.0 ** self.rng.uniform(-4, 2, shape)).astype(self.pick(*FLOATS)))

    def whole_qparams(self):
        "Parameters for codes of 8 bits, mostly with one scale."
        qmin, qmax = self.pick((-128, 127), (0, 255), (-127, 127), (-8, 7), (-32768, 32767))
        return self.pick(quant101.QParams(float(10.0 ** self.rng.uniform(-4, 4)), int(self.rng.integers(qmin, qmax + 1)), qmin, qmax)) \
            if self.chance(0.9) else self.qparams()

    def activations(self):
        return self.array((int(self.rng.integers(0, 20)), self.inputs if self.chance(0.95) else 3))


def codes_for(scene):
    return scene.codes(*scene.bounds(), scene.shape)


def convention(scene):
    return scene.pick(*[c for c in vars(atlas()).values() if type(c).__name__ == "Convention"])


def explanation(scene):
    a, b = convention(scene), convention(scene)
    x, qparams = scene.rng.normal(0, 40, 50).astype("f4"), quant101.QParams(0.3, 8, 0, 15)
    try:
        return atlas().explain(x, a, b, scene.pick(None, qparams))
    except ValueError:  # the two have no type in common
        return atlas().explain(x, atlas().ORT, atlas().TORCH, dtype="uint8")


def identification(scene):
    return atlas().identify(scene.rng.normal(0, 1, 20).astype("f4"), scene.rng.integers(-9, 9, 20), scene.pick(None, quant101.QParams(0.1)))


def atlas():
    return importlib.import_module("quant101.atlas")


def calibrator(scene, name=None):
    "A calibrator that has mostly seen data."
    module = importlib.import_module("quant101.calibration")
    name = name or scene.pick("MinMax", "MovingAverage", "Percentile", "Entropy", "MSE")
    axis = scene.pick(None, None, scene.axis)
    made = getattr(module, name)(**{"Entropy": {"bins": 160}, "MSE": {"bins": 32}}.get(name, {}), axis=axis)
    for _ in range(scene.rng.integers(3)):
        made.update(scene.rng.normal(0, 3, scene.shape), where=scene.pick(None, True, scene.rng.random(scene.shape) < 0.8))
    return made


def histogram(scene, name="Histogram"):
    made = getattr(importlib.import_module("quant101.calibration"), name)(scene.pick(16, 65536))
    if scene.chance(0.8):
        made.add(np.append(scene.rng.normal(0, 3, 9), 1.0).astype(scene.pick("f4", "f8")))
    return made


def counts_and_edges(scene):
    n = int(scene.rng.integers(1, 300))
    width = float(10.0 ** scene.rng.uniform(-3, 3))
    start = scene.pick(0.0, -n / 2)
    return scene.rng.integers(0, scene.pick(2, 1000), n), (start + np.arange(n + 1)) * width


# Classes that only functions make: their methods are called on what these make
RESULTS = {"QuantizedLinear": Scene.layer, "OutlierSplit": Scene.split, "Explanation": explanation, "Identification": identification,
           "Verdict": lambda s: quant101.Verdict(1, 2, 3, (1.0, 2.0), (0.5, 3.0), "portable"), "PackedWeights": Scene.packed,
           "Instruction": lambda s: importlib.import_module("quant101.workshop.tile").choose("portable")}
BASES = {"Calibrator", "HistogramCalibrator", "CodeConvention"}  # not to be used themselves
INSTANCES = {"Histogram": histogram, "FloatHistogram": partial(histogram, name="FloatHistogram")} | {name: partial(calibrator, name=name) for name in ("MinMax", "MovingAverage", "Percentile", "Entropy", "MSE")}

MAKE = {
    "x": Scene.array, "y": Scene.array, "name": lambda s: s.pick(*quant101_samples(), "x", "weights"),
    "fmt": Scene.fmt, "codes": Scene.format_codes, "rounding": lambda s: s.pick(*ROUNDINGS, *quant101.Rounding),
    "out": lambda s: s.pick(None, None, None, 3, [0.0], np.zeros(7, np.int16)),  # one that fits is written to: tests/test_threads.py
    "overflow": lambda s: s.pick("ieee", "saturate", "wrap"), "seed": lambda s: s.pick(0, 1, 7, None, -1, np.random.default_rng(3)),
    "levels": lambda s: s.pick(np.unique(s.numbers((5,), "f8")), s.array((4,)), [0, 2, 4], [-1.5, 0, 3], 5, np.float32(7)),
    "qparams": Scene.qparams, "q": codes_for, "scale": lambda s: s.scale(s.place[2]),
    "zero_point": lambda s: s.pick(0, 0, 3, -128, np.int64(5), s.codes(0, 15, s.place[2])),
    "qmin": lambda s: s.pick(0, -128, s.bounds()[0]), "qmax": lambda s: s.pick(127, s.bounds()[1]),
    "axis": lambda s: s.pick(*[s.place[0]] * 8, s.axis, 0, -1, 5), "group_size": lambda s: s.pick(*[s.place[1]] * 8, None, 1, 2, 3, 0, 64),
    "bits": lambda s: int(s.rng.integers(1, 18)), "narrow": lambda s: s.pick(True, False), "signed": lambda s: s.pick(True, False, 1),
    "lo": lambda s: s.ends[0], "hi": lambda s: s.ends[1], "threshold": lambda s: s.pick(6.0, 0.5, 3, np.inf, 0, np.float32(2)),
    "split": Scene.split, "w": Scene.weight, "w_qparams": lambda s: s.pick(None, quant101.QParams(0.1), s.qparams()),
    "batch": Scene.array, "other": lambda s: INSTANCES[s.name.split(".")[0]](s), "method": lambda s: s.pick(
        "minmax", "moving-average", "percentile", "entropy", "mse", "median", calibrator(s)),
    "momentum": lambda s: s.pick(0, 0.9, 0.99, 1, 1.5), "bins": lambda s: s.pick(2, 16, 100, 128, 256, 1), "resolution": lambda s: s.pick(16, 1024, 5),
    "lower": lambda s: s.pick(0, 1, 2.5, 50), "upper": lambda s: s.pick(99, 100, 99.9, 50, 101), "least": lambda s: -s.rng.random(), "largest": lambda s: s.rng.random(),
    "variant": lambda s: s.pick("tensorrt", "onnxruntime", "modelopt", "mine", "onnxruntime-growing"), "MSE.variant": lambda s: s.pick("symmetric", "asymmetric", "both"),
    "where": lambda s: s.pick(None, True, False, s.rng.random(s.shape) < 0.7, s.rng.random(s.shape[-1:]) < 0.7, [True, False], s.rng.integers(0, 2, s.shape)),
    "FloatHistogram.add.x": lambda s: s.numbers((9,), s.pick("f4", "f8")), "Histogram.add.x": lambda s: s.rng.normal(0, 3, 9).astype(s.pick("f4", "f8")),
    "MSE.bins": lambda s: s.pick(2, 16, 32, 1), "counts": lambda s: s.dress(s.bars[0]), "edges": lambda s: s.dress(s.bars[1]), "entropy_trace.levels": lambda s: s.pick(2, 16, 128, 1),
    "entropy_range.levels": lambda s: s.pick(2, 16, 128, 1), "Entropy.levels": lambda s: s.pick(2, 16, 128, 1),
    "convention": convention, "a": convention, "b": convention, "dtype": lambda s: s.pick("int8", "int8", "uint8", "int4", np.int16, "float32"),
    "dtypes": lambda s: s.pick(("int8",), ("int4", "uint8"), ("float",)), "ratio": lambda s: s.pick("divide", "reciprocal", "peak", "peak-reciprocal", "no"),
    "Convention.zero_point": lambda s: s.pick("after", "before", "fused", 3), "offset": lambda s: s.pick(0.0, 0.5), "nan": lambda s: s.pick("qmin", "qmax", "zero", "refuse", None),
    "Convention.overflow": lambda s: s.pick("saturate", "narrow", "wrap", ""), "dead": lambda s: s.pick(None, 0.0, 1e-7), "only_zero": lambda s: s.pick(None, 0, 8),
    "span": lambda s: s.pick("both", "middle", "peak", "signed", "none"), "Convention.narrow": lambda s: s.pick((), ("int8",)),
    "precision": lambda s: s.pick("float32", "float64", "float16"), "zero_rounding": lambda s: s.pick("together", "apart", "away", ""),
    "division": lambda s: s.pick("float32", "data", "float16"), "back": lambda s: s.pick("product", "stored", "double", "ratio", "peak", ""),
    "scales": lambda s: s.pick("float32", "data", "int8"), "ends": lambda s: s.pick((), (("int8", -64, 63),), (("int8", 5, 5),)), "in_float64": lambda s: s.pick((), ("int8",)),
    "identify.codes": lambda s: s.codes(-128, 127, s.shape), "dequantize_as.codes": codes_for, "group_axis": lambda s: s.pick(*[s.place[3]] * 8, -1, 0, 1, 5), "floor": lambda s: s.pick(0.0, 1e-7),
    "below": lambda s: s.pick("keep", "one", "empty", "floor", "refuse", ""), "ranged": lambda s: s.pick(None, (), ("int8",)),
    "pack_weights.codes": lambda s: s.dress(s.int8((s.pick(3, 3, 0, 33), s.inputs)).view(s.pick("i1", "i1", "u1"))), "packed": Scene.packed, "matmul_int8.a": Scene.product_codes,
    "pack_weights.qparams": lambda s: s.pick(0.1, np.float32(3), 1e-300, 0, np.abs(s.numbers((3,), "f4")) + 0.1, s.weight_qparams(3), s.weight_qparams(3, 0), s.qparams()),
    "matmul_int8.zero_point": lambda s: s.pick(0, 3, -200, 2**32, 2**33, np.int64(7), 0.5, s.dress(s.rng.integers(-300, 300, s.pick(1, 4, 9)))), "linear_int8.x": Scene.activations,
    "llm_int8_linear.x": Scene.activations, "quantize_activations.x": Scene.activations, "calibration": Scene.calibration,
    "activations": lambda s: s.pick("symmetric", "asymmetric", "asymmetric", "static", "dynamic", quant101.QParams(0.1), quant101.QParams(0.1, 100, 0, 255), s.qparams()),
    **{f"{name}.qparams": lambda s: s.pick(None, None, quant101.QParams(0.1), quant101.QParams(0.03, 7, 0, 15), s.qparams()) for name in ("linear_int8", "llm_int8_linear", "quantize_activations")},
    **{f"{name}.{arg}": make for name in ("quantize_linear", "QuantizedLinear.from_float") for arg, make in (
        ("w", lambda s: s.array((3, s.inputs), FLOATS)), ("bias", lambda s: s.pick(None, s.array((3,)))), ("bits", lambda s: s.pick(2, 4, 8, 8, 9)),
        ("group_size", lambda s: s.pick(None, None, 1, 4, 16, 0)), ("threshold", lambda s: s.pick(None, 6.0, np.inf, 0)))},
    "rows": lambda s: s.pick(0, -1, 0.5, "1"), "inputs": lambda s: s.pick(0, -3, None), "outputs": lambda s: s.pick(0, 1.0),  # a race takes ten seconds
    "steps": lambda s: s.pick(0, 1, 7, np.int64(100), np.uint8(255), -1, 2**63, 0.5),
    "bias": lambda s: s.pick(None, s.array((s.pick(0, 1, 3, 31, 32, 33, 70),))),
    "tile_assembly.name": lambda s: s.pick("AVX-512 VNNI", "AVX-VNNI", "NEON dot product", "portable", "AMX"), "cpu": lambda s: s.pick("", "", "sapphirerapids", "neoverse-n1", "no"),
    "triple": lambda s: s.pick("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "nowhere"), "features": lambda s: s.pick("", "+dotprod", "+avx512vnni,+avx512vl", "-64bit", "+,"),
    "FloatFormat.bias": lambda s: s.pick(None, None, 0, 1, 7, 16, 127, 128), "exponent_bits": lambda s: int(s.rng.integers(0, 11)), "mantissa_bits": lambda s: int(s.rng.integers(-1, 26)),
    "specials": lambda s: s.pick("ieee", "fn", "fnuz", "none", "most"),
    "real": lambda s: s.dress(np.asarray(2.0 ** s.rng.uniform(-40, s.pick(0, 29, 31), s.pick((), (3,), s.shape)))), "acc": lambda s: s.array(kinds=WHOLE),
    "multiplier": lambda s: s.pick(2**30, 2**31 - 1, 0, 2**31, s.dress(s.rng.integers(2**30, 2**31, s.shape[-1:]))),
    "shift": lambda s: s.pick(0, -3, -31, 30, 31, s.dress(s.rng.integers(-20, 3, s.shape[-1:]))),
    "requantize.dtype": lambda s: s.pick("int8", np.uint8, "int16", "uint16", np.dtype(">i4"), "int64", "float32"), "low": lambda s: s.pick(None, None, 0, -5, 300),
    "high": lambda s: s.pick(None, None, 6, 100, -9), "requantize.rounding": lambda s: s.pick("gemmlowp", "tflite", "ruy", "single", "onnx", "half-even"),
    "quantized_add.rounding": lambda s: s.pick("gemmlowp", "tflite", "ruy", "single", "onnx"), "activation": lambda s: s.pick("none", "relu", "relu6", "relu_n1_to_1", "gelu"),
    "activation_range.scale": lambda s: s.pick(0.1, np.float32(3), 1e-60, 0, 6 / 255), "activation_range.dtype": lambda s: s.pick("int8", "uint8", "int16", "int4"),
    "input_scale": lambda s: s.pick(0.1, np.float32(3), 1e-12, 0), "weight_scale": lambda s: s.pick(0.1, 1e-30, s.side_scale("b")), "integer_bias.bias": lambda s: s.array((3,)),
    "quantized_average.q": lambda s: s.array(kinds=WHOLE), "quantized_average.axis": lambda s: s.pick(None, s.axis, 0, -1, (0, 1), (0, -1), 5),
    "quantized_add.a": codes_for, "quantized_add.b": lambda s: s.pick(codes_for(s), 3, s.codes(0, 7, s.shape[-1:])), "a_qparams": Scene.whole_qparams,
    "b_qparams": Scene.whole_qparams, "y_qparams": Scene.whole_qparams,
    **{f"{name}.{side}": lambda s, side=side: s.bytes_of(side) for name in ("qlinear_matmul", "matmul_integer") for side in "ab"},
    **{f"{side}_scale": lambda s, side=side: s.side_scale(side) for side in "aby"},
    **{f"{side}_zero_point": lambda s, side=side: s.side_scale(side, zero=True) for side in "aby"},
}


@cache
def quant101_samples():
    from quant101.samples import SAMPLES

    return tuple(SAMPLES)


def arguments(name, scene):
    "Positional and keyword arguments for a call of a public callable."
    args, kwargs = [], {}
    for arg, kind, optional in parameters(name):
        if optional and scene.chance(0.4):
            continue
        make = MAKE.get(f"{name}.{arg}") or MAKE[arg]
        value = scene.garbage() if scene.chance(0.08) and f"{name}.{arg}" not in LABELS else make(scene)
        if kind == inspect.Parameter.KEYWORD_ONLY or (optional and len(kwargs)) or (optional and scene.chance(0.5)):
            kwargs[arg] = value
        elif len(args) < [p[0] for p in parameters(name)].index(arg):
            kwargs[arg] = value
        else:
            args.append(value)
    return args, kwargs


# The promises


class Broken(Exception):
    "A promise that was not kept."


def snapshot(value):
    "Something that changes if and only if `value` was changed."
    if isinstance(value, np.ndarray) and value.dtype != object:
        base = value
        while isinstance(base.base, np.ndarray):
            base = base.base
        return base.tobytes(), value.dtype, value.shape, value.strides, value.flags.writeable
    if isinstance(value, (list, tuple)):
        return type(value), [snapshot(v) for v in value]
    if isinstance(value, dict):
        return {k: snapshot(v) for k, v in value.items()}
    if is_ours(value):
        return snapshot(contents(value))
    return repr(value)


def fresh(value):
    "The same argument for another call; a generator of random numbers in the state it had."
    return copy.deepcopy(value) if isinstance(value, np.random.Generator) else value


def plain(value):
    "An array in the plainest layout: native, contiguous, its own memory, writable."
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuf" and type(value) is np.ndarray:
        return np.array(value, value.dtype.newbyteorder("="), order="C", copy=True)
    return fresh(value)


def flatten(result):
    "The arrays and numbers of a result, as (type, shape, bytes)."
    if isinstance(result, np.ndarray):
        return [("array", str(result.dtype), result.shape, np.ascontiguousarray(result).tobytes())]
    if isinstance(result, (tuple, list)):
        return [part for r in result for part in flatten(r)]
    if isinstance(result, dict):
        return [part for r in result.values() for part in flatten(r)]
    if is_ours(result):
        return [type(result).__name__, *flatten(contents(result))]
    if isinstance(result, (float, np.floating)):
        return [(type(result).__name__, struct.pack("d", float(result)))]
    return [(type(result).__name__, repr(result) if isinstance(result, (int, str, bool, type(None), np.integer)) else "")]


def arrays_in(value):
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, (tuple, list)):
        return [a for v in value for a in arrays_in(v)]
    if is_ours(value):
        return arrays_in(list(vars(value).values()))
    return []


def outcome(function, args, kwargs):
    "What a call gives: ('value', result) or (name of the exception, the exception)."
    try:
        return "value", function(*args, **kwargs)
    except (ValueError, TypeError) as error:
        return type(error).__name__, error


def prepare(case, seed=0):
    "The function, the arguments and the scene of a case."
    names = list(targets())
    rng = np.random.default_rng([seed, case, 1])
    name = names[rng.integers(len(names))]
    if name in SELDOM and rng.random() < 0.95:
        name = "quantize"
    scene = Scene(case, name, seed)
    function = targets()[name]
    if "." in name:  # a method
        function = getattr(instance(name.split(".")[0], scene), name.split(".")[1])
    return name, function, *arguments(name, scene)


def instance(name, scene):
    "An object of a public class, made of arguments that it accepts."
    if name in RESULTS:
        return RESULTS[name](scene)
    if name in INSTANCES and scene.chance(0.8):
        return INSTANCES[name](scene)
    for _ in range(50):
        try:
            args, kwargs = arguments(name, scene)
            return targets()[name](*args, **kwargs)
        except (ValueError, TypeError):
            continue
    raise Broken(f"{name}: 50 random calls gave no object")


@contextmanager
def instruction_set(name):
    "Multiply by this instruction set, of which the machine may know nothing."
    before = os.environ.get("QUANT101_ISA")
    os.environ["QUANT101_ISA"] = name
    try:
        yield
    finally:
        os.environ.pop("QUANT101_ISA")
        os.environ.update({} if before is None else {"QUANT101_ISA": before})


def run_case(case, seed=0):
    "Make one call and check the promises, by any instruction set; returns what came out."
    with instruction_set(Scene(case, "", seed).isa):
        return run_call(*prepare(case, seed))


def run_call(name, function, args, kwargs):
    everything = [*args, *kwargs.values()]
    before = [snapshot(v) for v in everything]
    kind, result = outcome(function, [fresh(v) for v in args], {k: fresh(v) for k, v in kwargs.items()})
    if before != [snapshot(v) for v in everything]:
        raise Broken("an argument was changed")
    if kind != "value":
        check_message(names_of(name, everything), result)
    elif name not in VIEWS:
        given = arrays_in([value for value in everything if not isinstance(value, FROZEN)])
        if any(np.shares_memory(a, b) for a in arrays_in(result) for b in given):
            raise Broken("the result shares memory with an argument")
    if "." not in name:
        check_layout(function, args, kwargs, kind, result)
    return name, kind, result


def check_message(names, error):
    "An error has to name an argument, which those from the depths of NumPy do not."
    if type(error) not in (ValueError, TypeError) or not re.search(rf"\b({'|'.join(map(re.escape, names))})\b", str(error)):
        raise Broken(f"the message names no argument: {type(error).__name__}: {error}")


def names_of(name, arguments):
    "What a message may name: an argument, the name that was given for it, a field of it, a method and its class, the instruction set."
    words = [value for value in arguments if isinstance(value, str) and value]
    fields = [field for value in arguments if is_ours(value) for field in vars(value)]
    method = name.split(".") if "." in name else []
    return [arg for arg, _, _ in parameters(name)] + words + fields + method + ["QUANT101_ISA"]


def is_ours(value):
    "Whether `value` is an object of a class of this package."
    return hasattr(value, "__dict__") and type(value).__module__.startswith("quant101") and not isinstance(value, enum.Enum)


def contents(value):
    "What an object of ours holds."
    return {k: v.kept if k in ADDRESSES else v for k, v in vars(value).items()}


def check_layout(function, args, kwargs, kind, result):
    again, same = outcome(function, [plain(v) for v in args], {k: plain(v) for k, v in kwargs.items()})
    if again != kind or (kind == "value" and flatten(same) != flatten(result)):
        raise Broken(f"a plain copy of the arguments gives something else: {kind} {result!r} and {again} {same!r}")


def show(case, seed=0):
    name, _, args, kwargs = prepare(case, seed)
    print(f"case {case}: {name}")
    for key, value in [*enumerate(args), *kwargs.items()]:
        extra = f" {value.dtype} strides {value.strides}" if isinstance(value, np.ndarray) else ""
        print(f"  {key} = {value!r}{extra}")


# Many cases


def run(first, count, seed=0, note=None, digest=None):
    "Run cases and return the failures as (case, function, text). The number of the case is kept in the file `note`."
    failures, seen = [], {}
    without_jit = os.environ.get("NUMBA_DISABLE_JIT") == "1"
    quiet = np.errstate(all="ignore") if without_jit else nullcontext()
    with warnings.catch_warnings(), quiet:
        warnings.simplefilter("error")
        for case in range(first, first + count):
            if note is not None:
                os.pwrite(note, b"%12d" % case, 0)
            try:
                if without_jit and not python_can(case, seed):
                    digest.append(LEFT_OUT)
                    continue
                name, kind, result = run_case(case, seed)
                seen.setdefault(name, {}).setdefault(kind, 0)
                seen[name][kind] += 1
                if digest is not None:
                    digest.append(hashlib.sha256(repr((name, kind, flatten(result) if kind == "value" else "")).encode()).hexdigest())
            except Exception as error:
                name = prepare_name(case, seed)
                failures.append((case, name, "".join(traceback.format_exception_only(error)).strip()))
                if digest is not None:
                    digest.append(type(error).__name__)
    return failures, seen


def python_can(case, seed):
    """Whether a case can be run without the JIT, and in reasonable time.

    The kernels of matmul are made of LLVM's instructions, which Python cannot execute; tests/test_matmul.py compares them with
    NumPy's products in place of that. Thousands of thresholds take minutes.
    """
    try:
        name, _, args, kwargs = prepare(case, seed)
    except Exception:
        return True
    words = [v for v in [*args, *kwargs.values()] if isinstance(v, str)]
    thresholds = name == "calibrate" and {"mse", "entropy"} & set(words)
    return targets()[name].__module__ != "quant101.matmul" and not thresholds


def prepare_name(case, seed):
    try:
        return prepare(case, seed)[0]
    except Exception:
        return "?"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, help="print the arguments of this case and run it")
    parser.add_argument("--note", help="file in which the number of the running case is kept")
    parser.add_argument("--digest", help="file to which a digest of every outcome is written")
    args = parser.parse_args()
    faulthandler.enable()
    if unknown():
        sys.exit("no rule makes these arguments: " + ", ".join(unknown()))
    if args.show is not None:
        show(args.show, args.seed)
        print("  ->", *run_case(args.show, args.seed)[1:])
        return
    start = time.perf_counter()
    note = os.open(args.note, os.O_CREAT | os.O_WRONLY) if args.note else None
    digest = [] if args.digest else None
    failures, seen = run(args.first, args.cases, args.seed, note, digest)
    if args.digest:
        Path(args.digest).write_text("\n".join(digest) + "\n", encoding="utf8")
    for name in sorted(seen):
        print(f"{name:24}", ", ".join(f"{kind} {n}" for kind, n in sorted(seen[name].items(), reverse=True)))
    print(f"{args.cases} cases of seed {args.seed} in {time.perf_counter() - start:.1f} s, {len(failures)} failures")
    for case, name, text in failures[:50]:
        print(f"case {case}: {name}: {text}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
