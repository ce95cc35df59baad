"""Flush-to-zero, which a program may turn on for speed (torch.set_flush_denormal), changes no result that is an ordinary number.

No subnormal float32 may arise on the way to one.
"""

import numpy as np
import pytest
from llvmlite import ir
from llvmlite.binding import get_process_triple
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from tests_support import run

import quant101 as q

FORMATS = [q.FP16, q.BF16, q.E4M3, q.E5M2, q.TF32, q.FloatFormat("E2M1", 2, 1, specials="none"),
           q.FloatFormat("E4M3FNUZ", 4, 3, 8, "fnuz"), q.FloatFormat("FP16 without infinity", 5, 10, specials="fn"),
           q.FloatFormat("E3M1B100", 3, 1, 100), q.FloatFormat("E7M5B122", 7, 5, 122), q.FloatFormat("E7M8B120", 7, 8, 120),
           q.FloatFormat("E7M6B127", 7, 6, 127), q.FloatFormat("E2M13B113", 2, 13, 113), q.FloatFormat("E8M1", 8, 1)]
ROUNDING = ["half-even", "half-away", "half-up", "down", "up", "toward-zero"]


def codes_of(fmt):
    "Codes of a format, all of them if it has no more than 16 bits."
    return (np.arange(2**16) % 2**fmt.bits * (2**fmt.bits >> 16 or 1)).astype(fmt.code_dtype)


BITS = np.arange(2**17, dtype=np.uint32) * np.uint32(32749)
ARRAY = BITS[(BITS & 0x7F800000) != 0x7F800000].view(np.float32)  # of all sizes, subnormal ones too
SMALL = np.ldexp(np.float32([1, -1, 1.5, -1.5]), -100)
CASES = {f"decode {f.name}": lambda f=f: q.decode(codes_of(f), f) for f in FORMATS}
CASES |= {f"encode {f.name}": lambda f=f: q.encode(ARRAY, f) for f in FORMATS}
CASES |= {"decode in all cores": lambda: q.decode(np.tile(codes_of(q.E4M3), 40), q.E4M3),
          "cast": lambda: q.cast(ARRAY, q.E4M3)}
CASES |= {"qlinear_matmul": lambda: q.qlinear_matmul(np.uint8([[200, 3]]), np.float32(1e-20), 0, np.int8([[100], [9]]), np.float32(1.3e-20), 0, np.float32(2e-38), 5)}
CASES |= {f"quantize {r}": lambda r=r: q.quantize(SMALL, q.QParams(np.float32(2.0**30)), r) for r in ROUNDING}


@intrinsic
def _set_control(typingctx, bits):
    "Write the register that holds the rules of floating point."
    def generate(context, builder, signature, args):
        number, bits = args[0], ir.IntType(32)
        if get_process_triple().startswith("x86"):
            place = cgutils.alloca_once_value(builder, builder.trunc(number, bits))
            name, number = "llvm.x86.sse.ldmxcsr", builder.bitcast(place, ir.IntType(8).as_pointer())
        else:
            name = "llvm.aarch64.set.fpcr"
        kind = ir.FunctionType(ir.VoidType(), [number.type])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [number])
        return context.get_dummy_value()
    return types.void(types.int64), generate


@njit
def flush_to_zero(bits):
    _set_control(bits)


def differing():
    "Turn flush-to-zero on in this process; return the cases whose bytes change."
    before = {name: call().tobytes() for name, call in CASES.items()}
    flush_to_zero(0x9FC0 if get_process_triple().startswith("x86") else 1 << 24)
    assert np.float32(2.0**-100) * np.float32(2.0**-40) == 0, "flush-to-zero is on"
    return [name for name, call in CASES.items() if call().tobytes() != before[name]]


@pytest.fixture(scope="module")
def changed():
    return run("-c", "import sys; sys.path.append('tests'); import test_flush; print(*test_flush.differing(), 'done', sep='\\n')").splitlines()


@pytest.mark.parametrize("name", CASES)
def test_flush_to_zero_changes_nothing(changed, name):
    assert "done" in changed and name not in changed

