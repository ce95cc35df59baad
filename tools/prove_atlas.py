"""Compare every convention of the atlas with its library on at least 10 million inputs, and write the counts as JSON.

    python tools/prove_atlas.py [--inputs 10000000] [--out quant101/records/atlas_proof.json] [--only TORCH]

A library that is not installed is named in the result with 0 inputs, and the exit status is 1; so it is after a mismatch.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import atlas_oracles as lib  # noqa: E402

from quant101 import QParams, atlas  # noqa: E402


def spread(rng):
    "A scale: mostly ordinary, sometimes one of the hard ones."
    return np.float32(rng.choice(lib.SCALES) if rng.random() < 0.2 else np.exp(rng.uniform(-12, 4)))


def per_tensor(convention, library, values=False):
    "Batches of a library that takes a scale and a zero point; `values` if it gives real numbers, not codes."
    def batch(rng):
        dtype = str(rng.choice(convention.dtypes))
        qmin, qmax = lib.RANGES[dtype]
        scale, zero_point = spread(rng), int(rng.integers(max(qmin, -(2**20)), min(qmax, 2**20) + 1))
        x = lib.hard_inputs(rng, scale, zero_point, dtype, 50_000)
        if convention.nan == "refuse":
            x = x[~np.isnan(x)]
        ours = atlas.quantize_as(x, QParams(scale, zero_point, qmin, qmax), convention)
        if values:
            ours = (ours.astype(np.int64) - zero_point).astype(np.float32) * scale
        return ours, library(x, scale, zero_point, dtype)
    return batch


def by_rows(convention, library, width, divisor, first=False):
    "Batches of a library that finds the scale of each row itself."
    def batch(rng):
        x = lib.hard_rows(rng, (100_000 // width, width), divisor)
        extreme = np.take_along_axis(x, np.abs(x).argmax(1, keepdims=True), 1)
        qparams = atlas.qparams_as(extreme, extreme, convention, convention.dtypes[0])
        return atlas.quantize_as(x, qparams, convention), library(x)[0]
    return batch


def observer_ranges(rng):
    "Scale and zero point of 50,000 ranges at once, as PyTorch's per-channel observer finds them."
    import torch

    dtype = str(rng.choice(atlas.TORCH_OBSERVER.ranged))
    kind = {"uint8": torch.quint8, "int8": torch.qint8, "int16": torch.int16, "uint16": torch.uint16}[dtype]
    ends = (np.exp(rng.uniform(-40, 40, (2, 50_000))) * rng.choice([-1, 1], (2, 50_000))).astype(np.float32)
    ends[1, ::3] = near_half(rng, ends[0, ::3])
    lo, hi = ends.min(0), ends.max(0)
    ours = atlas.qparams_as(lo, hi, atlas.TORCH_OBSERVER, dtype, axis=0)
    theirs = torch.ao.quantization.PerChannelMinMaxObserver(dtype=kind)._calculate_qparams(torch.from_numpy(lo), torch.from_numpy(hi))
    return np.concatenate([ours.scale, ours.zero_point]), np.concatenate([v.numpy() for v in theirs])


def near_half(rng, end):
    "The other end of a range whose zero point is near a tie."
    zero = rng.integers(1, 255, end.size) + 0.5
    return lib.near((-end.astype(np.float64) * (255 - zero) / zero).astype(np.float32), rng)


def modelopt(rng):
    "ModelOpt itself where it is installed, else its lines run by PyTorch."
    dtype, bits = [("int4", 4), ("int8", 8), ("int16", 16)][rng.integers(3)]
    amax = np.float32(np.exp(rng.uniform(-20, 30)))
    qparams = atlas.qparams_as(-amax, amax, atlas.MODELOPT, dtype)
    x = lib.hard_inputs(rng, qparams.scale, 0, dtype, 50_000)
    x = x[np.isfinite(x)]
    ours = atlas.quantize_as(x, qparams, atlas.MODELOPT)
    if importlib.util.find_spec("modelopt") is None:
        return ours, lib.modelopt_lines(x, amax, bits)
    import torch
    from modelopt.torch.quantization.tensor_quant import _tensor_quant

    factor = np.float32(2 ** (bits - 1) - 1) / amax if amax > 2.0**-24 else np.float32(1)
    return ours.astype(np.float32) / factor, _tensor_quant(torch.from_numpy(x), torch.tensor(amax), bits).numpy()


def exact(x, scale, zero_point, dtype):
    "ONNX's formula with a quotient that is found in whole numbers: no rounding but the two that the specification asks for."
    qmin, qmax = lib.RANGES[dtype]
    with np.errstate(all="ignore"):
        quotient = x / scale  # checked below against exact arithmetic, where it matters most
        codes = np.rint(quotient).astype(np.float64) + zero_point
    for i in np.linspace(0, x.size - 1, 20).astype(int):
        if np.isfinite(x[i]) and 0 < abs(quotient[i]) < 2.0**100:
            near = [np.nextafter(quotient[i], np.float32(d)) for d in (-np.inf, np.inf)]
            ratio = Fraction(float(x[i])) / Fraction(float(scale))
            assert all(abs(ratio - Fraction(float(quotient[i]))) <= abs(ratio - Fraction(float(n))) for n in near)
    return np.clip(codes, qmin, qmax)


CHECKS = {
    "ONNX": (per_tensor(atlas.ONNX, exact), "the specification's formula, division checked in exact arithmetic", ["numpy"]),
    "ORT": (per_tensor(atlas.ORT, lib.ort_quantize), "QuantizeLinear", ["onnxruntime", "onnx"]),
    "TORCH": (per_tensor(atlas.TORCH, lib.torch_quantize), "quantize_per_tensor, 8 bits", ["torch"]),
    "TORCH_OBSERVER": (observer_ranges, "PerChannelMinMaxObserver, scale and zero point", ["torch"]),
    "TORCH_INT32": (per_tensor(atlas.TORCH_INT32, lib.torch_quantize), "quantize_per_tensor, 32 bits", ["torch"]),
    "TORCH_PER_CHANNEL": (per_tensor(atlas.TORCH_PER_CHANNEL, lib.torch_per_channel), "quantize_per_channel", ["torch"]),
    "TORCH_FAKE": (per_tensor(atlas.TORCH_FAKE, lib.torch_fake, values=True), "fake_quantize_per_tensor_affine", ["torch"]),
    "MODELOPT": (modelopt, "_tensor_quant", ["torch"]),
    "GGML": (by_rows(atlas.GGML, lib.gguf_q8_0, 32, 127), "Q8_0", ["gguf"]),
    "GGML_Q4_0": (by_rows(atlas.GGML_Q4_0, lib.gguf_q4_0, 32, 8), "Q4_0", ["gguf"]),
    "BITSANDBYTES": (by_rows(atlas.BITSANDBYTES, lib.bitsandbytes_rows, 64, 127), "int8_vectorwise_quant", ["torch", "bitsandbytes"]),
}


def compare(name, inputs):
    "Run batches until so many inputs were compared, and return what is written down."
    batch, function, needed = CHECKS[name]
    row = dict(convention=name, against=f"{function}", inputs=0, mismatches=0, seconds=0.0)
    if any(importlib.util.find_spec(module) is None for module in needed):
        return row
    row["versions"] = {m: importlib.metadata.version(m) for m in needed}
    if name == "MODELOPT":
        if importlib.util.find_spec("modelopt"):
            row["versions"]["nvidia-modelopt"] = importlib.metadata.version("nvidia-modelopt")
        else:
            row["against"] += ", its lines run by PyTorch"
    rng, start = np.random.default_rng(list(name.encode())), time.perf_counter()
    with np.errstate(all="ignore"):
        while row["inputs"] < inputs:
            ours, theirs = (np.asarray(v) for v in batch(rng))
            row["inputs"] += ours.size
            row["mismatches"] += int(((ours != theirs) & ~(np.isnan(ours.astype(np.float64)) & np.isnan(theirs.astype(np.float64)))).sum())
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--out", type=Path, default=ROOT / "quant101/records/atlas_proof.json")
    parser.add_argument("--only", choices=CHECKS)
    args = parser.parse_args()
    rows = []
    for name in [args.only] if args.only else CHECKS:
        rows.append(compare(name, args.inputs))
        print("{convention:20}{inputs:>12,}{mismatches:>8,} mismatches {seconds:>7} s  {against}".format(**rows[-1]), flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf8")
    return int(any(row["mismatches"] or not row["inputs"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
