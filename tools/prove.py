"""Encode every float32 in every small format, and compare each code with the libraries that others trust.

    python tools/prove.py                    all 2**32 values; writes quant101/records/proof.json
    python tools/prove.py --stride 1009      every 1009th bit pattern, in a minute; writes nothing
    python tools/prove.py --formats E4M3     some formats only; writes nothing

Exit status 1 if a single code differs. NaN equals NaN, whatever its payload. Needs the oracles extra; an oracle that
is absent is named, and with QUANT101_CHECK_ALL=1 its absence is a failure. If tools/prove_atlas.py is there, it runs too.
"""
import argparse
import ctypes
import json
import multiprocessing
import os
import platform
import re
import runpy
import sys
import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import quant101.dtypes as dtypes
from quant101.dtypes import FloatFormat, decode, encode

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "quant101" / "records" / "proof.json"
CHUNK = 1 << 20  # values at a time: the arrays of a chunk stay in a processor's cache
FORMATS = {f.name: f for f in [
    dtypes.FP16, dtypes.BF16, dtypes.E5M2, dtypes.E4M3,
    FloatFormat("E4M3FNUZ", 4, 3, bias=8, specials="fnuz"), FloatFormat("E5M2FNUZ", 5, 2, bias=16, specials="fnuz"),
    FloatFormat("E3M2", 3, 2, specials="none"), FloatFormat("E2M3", 2, 3, specials="none"), FloatFormat("E2M1", 2, 1, specials="none")]}
FP8 = ("E5M2", "E4M3", "E4M3FNUZ", "E5M2FNUZ")
OVERFLOWS = ("ieee", "saturate")
ML_DTYPES = {"BF16": "bfloat16", "E5M2": "float8_e5m2", "E4M3": "float8_e4m3fn", "E4M3FNUZ": "float8_e4m3fnuz",
             "E5M2FNUZ": "float8_e5m2fnuz", "E3M2": "float6_e3m2fn", "E2M3": "float6_e2m3fn", "E2M1": "float4_e2m1fn"}
TORCH = {"FP16": "float16", "BF16": "bfloat16", "E5M2": "float8_e5m2", "E4M3": "float8_e4m3fn",
         "E4M3FNUZ": "float8_e4m3fnuz", "E5M2FNUZ": "float8_e5m2fnuz"}
ONNX = {"E5M2": "FLOAT8E5M2", "E4M3": "FLOAT8E4M3FN", "E4M3FNUZ": "FLOAT8E4M3FNUZ", "E5M2FNUZ": "FLOAT8E5M2FNUZ"}
# What a library's own cast does beyond the largest number, where it is not "ieee".
OWN_OVERFLOW = {("torch", "E4M3"): "saturate", ("ml_dtypes", "E3M2"): "saturate", ("ml_dtypes", "E2M3"): "saturate",
                ("ml_dtypes", "E2M1"): "saturate"}


# The oracles: each gives the codes of x in a format, by a cast of its own


def ml_dtypes_codes(x, name):
    import ml_dtypes

    target = np.dtype("float16" if name == "FP16" else getattr(ml_dtypes, ML_DTYPES[name]))
    with np.errstate(all="ignore"):
        return x.astype(target).view(FORMATS[name].code_dtype)


def torch_codes(x, name):
    import torch

    torch.set_num_threads(1)
    unsigned = {1: torch.uint8, 2: torch.uint16}[FORMATS[name].bytes]
    return torch.from_numpy(x).to(getattr(torch, TORCH[name])).view(unsigned).numpy()


@cache
def onnx_session(name, saturate):
    import onnxruntime
    from onnx import TensorProto, helper

    node = helper.make_node("Cast", ["x"], ["y"], to=getattr(TensorProto, ONNX[name]), saturate=saturate)
    value = helper.make_tensor_value_info
    graph = helper.make_graph([node], "cast", [value("x", TensorProto.FLOAT, [None])], [value("y", getattr(TensorProto, ONNX[name]), [None])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def onnxruntime_codes(x, name, saturate=0):
    import onnxruntime

    feed = {"x": onnxruntime.OrtValue.ortvalue_from_numpy(x)}
    codes = onnx_session(name, saturate).run_with_ort_values(None, feed)[0]
    return np.frombuffer(ctypes.string_at(codes.data_ptr(), x.size), np.uint8)


CASTS = {"ml_dtypes": ml_dtypes_codes, "torch": torch_codes, "onnxruntime": onnxruntime_codes}
KNOWS = {"ml_dtypes": {"FP16", *ML_DTYPES}, "torch": set(TORCH), "onnxruntime": set(ONNX)}


def present(oracle):
    return find_spec(oracle) is not None and (oracle != "onnxruntime" or find_spec("onnx") is not None)


def oracles(name, among=("ml_dtypes", "torch")):
    return [o for o in among if present(o) and name in KNOWS[o]]


@cache
def values_of_codes(name):
    "The float32 value of every code, by ml_dtypes (NumPy for FP16)."
    import ml_dtypes

    fmt = FORMATS[name]
    codes = np.arange(2**fmt.bits, dtype=fmt.code_dtype)
    with np.errstate(all="ignore"):
        return codes.view("float16" if name == "FP16" else getattr(ml_dtypes, ML_DTYPES[name])).astype(np.float32)


def wanted(x, name, overflow, oracle):
    "The codes that `oracle` gives under the rule `overflow`, or None where it has no way to say them."
    own = OWN_OVERFLOW.get((oracle, name), "ieee")
    if overflow == own or (overflow == "ieee" and not FORMATS[name].has_nan):
        return CASTS[oracle](x, name)
    if overflow == "ieee":
        return None
    largest = x.dtype.type(np.nanmax(np.where(np.isinf(values_of_codes(name)), np.nan, values_of_codes(name))))
    return CASTS[oracle](np.clip(x, -largest, largest), name)


# Comparison


def same(a, b, name):
    "Where two arrays of codes agree: the same code, or NaN both."
    equal = a == b
    if not equal.all():
        nan = np.isnan(values_of_codes(name))
        apart = np.flatnonzero(~equal)
        equal[apart] = nan[a[apart]] & nan[b[apart]]
    return equal


def floats(first, count, stride):
    "The float32 values with the bit patterns first, first + stride, ..."
    bits = np.arange(count, dtype=np.uint32)  # arithmetic of uint32 arrays is modulo 2**32
    bits *= np.uint32(stride)
    bits += np.uint32(first % 2**32)
    return bits.view(np.float32)


def edges(name):
    "The float32 values within two units in the last place of every number of the format and of every midpoint."
    values = np.unique(values_of_codes(name)[np.isfinite(values_of_codes(name))].astype(np.float64))
    beyond = 2 * values[-1] - values[-2]
    spots = np.concatenate([values, [beyond, -beyond]])
    spots = np.concatenate([spots, (np.sort(spots)[1:] + np.sort(spots)[:-1]) / 2])
    with np.errstate(over="ignore"):
        spots = spots.astype(np.float32)
    bits = spots.view(np.int32)[:, None] + np.arange(-2, 3, dtype=np.int32)
    tiny = np.arange(3, dtype=np.uint32)
    special = np.concatenate([[0x7F800000, 0x7F7FFFFF, 0x7FC00000, 0x7F800001, 0x7FFFFFFF], tiny, 0x7FFFFF + tiny]).astype(np.uint32)
    every = np.concatenate([bits.reshape(-1).view(np.uint32), special, special | np.uint32(1 << 31)])
    return np.unique(every).view(np.float32)


def timed(function, *args, **kwargs):
    start = time.perf_counter()
    result = function(*args, **kwargs)
    return result, time.perf_counter() - start


def check(x, name, overflow):
    "Compare `x` in a format under a rule with each oracle. Returns counts of values and mismatches, and seconds."
    fmt = FORMATS[name]
    x = x if fmt.has_nan else x[~np.isnan(x)]
    codes, encoding = timed(encode, x, fmt, overflow=overflow)
    values, decoding = timed(decode, codes, fmt)
    again, repeating = timed(encode, values, fmt, overflow=overflow)
    right = values_of_codes(name)[codes]
    value_bits_agree = (values.view(np.uint32) == right.view(np.uint32)) | (np.isnan(values) & np.isnan(right))
    row = {"values": x.size, "seconds": encoding + decoding + repeating, "oracle_seconds": {},
           "mismatches": {"decoded": int((~value_bits_agree).sum()), "round trip": int((again != codes).sum())}}
    for oracle in oracles(name):
        theirs, row["oracle_seconds"][oracle] = timed(wanted, x, name, overflow, oracle)
        if theirs is not None:
            row["mismatches"][oracle] = int((~same(codes, theirs, name)).sum())
    return row


def runs(where):
    "First and last index of each run of True."
    change = np.flatnonzero(np.diff(np.concatenate([[False], where, [False]]).astype(np.int8)))
    return list(zip(change[::2].tolist(), (change[1::2] - 1).tolist()))


def disagreements(x, name):
    "Where the casts of two libraries differ: [first bits, last bits, {library or our rule: sorted codes}]."
    among = oracles(name, CASTS)
    if not FORMATS[name].has_nan or len(among) < 2:
        return []
    codes = {oracle: CASTS[oracle](x, name) for oracle in among}
    apart = np.zeros(x.size, bool)
    for oracle in among[1:]:
        apart |= ~same(codes[among[0]], codes[oracle], name)
    found = []
    for first, last in runs(apart):
        piece = x[first:last + 1]
        ours = {f"quant101 {o}": encode(piece, FORMATS[name], overflow=o) for o in OVERFLOWS}
        # A range is one where every code stays the same; the sweep joins neighbours that say the same.
        every = {k: v[first:last + 1] for k, v in codes.items()} | ours
        keys = np.stack([canonical(v, name) for v in every.values()])
        cuts = np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1
        for a, b in zip([0, *cuts.tolist()], [*cuts.tolist(), piece.size]):
            found.append([int(piece[a].view(np.uint32)), int(piece[b - 1].view(np.uint32)), dict(zip(every, keys[:, a].tolist()))])
    return found


def canonical(codes, name):
    "Codes in which every NaN is the format's last code for NaN."
    nan = np.isnan(values_of_codes(name))
    return np.where(nan[codes], np.flatnonzero(nan)[-1], codes).astype(np.int64)


def join(found, stride):
    "Ranges that touch and say the same as one range."
    joined = []
    for first, last, codes in sorted(found, key=lambda f: f[0]):
        if joined and joined[-1][2] == codes and first - joined[-1][1] == stride:
            joined[-1][1] = last
        else:
            joined.append([first, last, codes])
    return joined


def in_words(name, first, last, codes):
    "A range of disagreement for the table: the inputs, what each library gives, and which rule of ours equals it."
    values = {who: float(values_of_codes(name)[code]) for who, code in codes.items()}
    ours = {o: codes[f"quant101 {o}"] for o in OVERFLOWS}
    show = {who: "nan" if np.isnan(v) else v if np.isfinite(v) else str(v) for who, v in values.items() if "quant101" not in who}
    low, high = (float(np.uint32(b).view(np.float32)) for b in (first, last))
    return {"format": name, "first": low if np.isfinite(low) else str(low), "last": high if np.isfinite(high) else str(high),
            "first_bits": f"0x{first:08x}", "last_bits": f"0x{last:08x}", "inputs": last - first + 1, "gives": show,
            "equals": {who: [o for o in OVERFLOWS if ours[o] == code] for who, code in codes.items() if "quant101" not in who}}


# The sweep


def work(task):
    "One chunk of one format, in a process of its own."
    name, overflow, first, count, stride = task
    x = floats(first, count, stride)
    if overflow == "disagreements":
        found, seconds = timed(disagreements, x[~np.isnan(x)], name)
        return {"found": found, "seconds": seconds}
    return check(x, name, overflow)


def warm_up(names):
    "Compile the kernels and load the libraries, which is no part of the measured seconds."
    for name in names:
        for overflow in (*OVERFLOWS, "disagreements"):
            work((name, overflow, 0, 64, 1 << 26))


def tasks(name, what, stride):
    total = -(-(1 << 32) // stride)
    return [(name, what, first * stride, min(CHUNK, total - first), stride) for first in range(0, total, CHUNK)]


def add(rows):
    "The sum of the rows of all chunks."
    total = {"values": 0, "seconds": 0.0, "oracle_seconds": {}, "mismatches": {}}
    for row in rows:
        total["values"] += row["values"]
        total["seconds"] += row["seconds"]
        for part in ("oracle_seconds", "mismatches"):
            for key, value in row[part].items():
                total[part][key] = total[part].get(key, 0) + value
    return total


def sweep(pool, name, overflow, stride, processes):
    start = time.perf_counter()
    row = add(pool.imap_unordered(work, tasks(name, overflow, stride), chunksize=4))
    for part in row["oracle_seconds"]:
        row["oracle_seconds"][part] = round(row["oracle_seconds"][part] / processes, 1)
    row["seconds"] = round(row["seconds"] / processes, 1)
    return {"format": name, "source": "float32", "overflow": overflow} | row | {"wall_seconds": round(time.perf_counter() - start, 1)}


def find_disagreements(pool, name, stride):
    found = []
    for part in pool.imap_unordered(work, tasks(name, "disagreements", stride), chunksize=4):
        found += part["found"]
    return [in_words(name, *f) for f in join(found, stride)]


def halves(name, overflow):
    "Every float16 to an 8-bit format, through both oracles' own cast from float16."
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    check(x[:64], name, overflow)  # compiles what this process has not compiled
    return {"format": name, "source": "float16", "overflow": overflow} | add([check(x, name, overflow)])


def decoded(name):
    "Every code of a format, decoded here and by each library."
    fmt = FORMATS[name]
    codes = np.arange(2**fmt.bits, dtype=fmt.code_dtype)
    ours, mismatches = decode(codes, fmt), {}
    for oracle in oracles(name):
        theirs = values_of_codes(name) if oracle == "ml_dtypes" else torch_values(codes, name)
        agree = (ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs))
        mismatches[oracle] = int((~agree).sum())
    return {"format": name, "codes": codes.size, "mismatches": mismatches}


def torch_values(codes, name):
    import torch

    return torch.from_numpy(codes).view(getattr(torch, TORCH[name])).to(torch.float32).numpy()


def machine():
    "The processor's name, which a second means nothing without."
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.*)", info.read_text()) if info.exists() else None
    return model[1] if model else platform.processor() or platform.machine()


def versions():
    from importlib.metadata import version

    return {name: version(name) for name in ("numpy", "numba", "ml_dtypes", "torch", "onnxruntime") if find_spec(name)}


def say(row):
    wrong = ", ".join(f"{who} {n}" for who, n in row["mismatches"].items())
    seconds = f", {row['seconds']:.1f} s of ours" if "seconds" in row else ""
    print(f"{row['format']:9} {row.get('source', 'codes'):8} {row.get('overflow', ''):9} "
          f"{row.get('values', row.get('codes')):>13,}  mismatches: {wrong}{seconds}", flush=True)
    return row


def prove(names, stride, processes):
    "The whole table."
    table = {"machine": machine(), "processes": processes, "stride": stride, "versions": versions(), "sweep": [],
             "codes": [say(decoded(name)) for name in names], "disagreements": []}
    with multiprocessing.get_context("spawn").Pool(processes, warm_up, (names,)) as pool:
        for name in names:
            for overflow in OVERFLOWS:
                table["sweep"].append(say(sweep(pool, name, overflow, stride, processes)))
                if name in FP8:
                    table["sweep"].append(say(halves(name, overflow)))
            table["disagreements"] += find_disagreements(pool, name, stride)
    return table


def wrong(table):
    return sum(sum(row["mismatches"].values()) for part in ("sweep", "codes") for row in table[part])


def absent(names):
    gone = [o for o in CASTS if not present(o)]
    for oracle in gone:
        print(f"NOT CHECKED: {oracle} is not installed")
    return gone


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stride", type=int, default=1, help="take every so manieth bit pattern; odd")
    parser.add_argument("--formats", nargs="*", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    gone = absent(args.formats)
    if gone and os.environ.get("QUANT101_CHECK_ALL") == "1":
        sys.exit(1)
    os.environ["NUMBA_NUM_THREADS"] = "1"  # for the processes that are started: they share the cores already
    table = prove(args.formats, args.stride, args.processes)
    for row in table["disagreements"]:
        print("apart:", row["format"], row["first"], "..", row["last"], row["gives"], row["equals"])
    if args.stride == 1 and args.formats == list(FORMATS) and not gone:
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(json.dumps(table, indent=1) + "\n", encoding="utf8")
    if wrong(table):
        sys.exit(f"{wrong(table)} codes differ")
    atlas = ROOT / "tools" / "prove_atlas.py"
    if atlas.exists():
        sys.argv = [str(atlas)]
        runpy.run_path(str(atlas), run_name="__main__")


if __name__ == "__main__":
    main()
