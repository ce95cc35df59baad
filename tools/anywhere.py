"""Run the notebooks and the tests of the chapters in many settings of one machine, as if they were other machines.

    python tools/anywhere.py                 every setting; an hour or two
    python tools/anywhere.py --quick         what a change has to pass: chapter 7 with AVX2 alone, without it, on one core
    python tools/anywhere.py --only haswell  settings whose name contains a word
    python tools/anywhere.py --list          their names

Numba is told to compile for an older processor, OpenBLAS to use another kernel, the product to take another
instruction set; cores are taken away or kept busy. A setting that this machine cannot have is named, not passed over.
"""

import argparse
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(path.stem for path in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
TESTS = ("dtypes", "steps", "strategies", "calibration", "symmetry", "atlas", "matmul", "integer", "threads", "flush", "out", "properties", "samples")
RUN = """
import sys, nbformat
from nbclient import NotebookClient
path, folder = sys.argv[1:]
NotebookClient(nbformat.read(path, 4), timeout=900, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
"""


@dataclass(frozen=True)
class Setting:
    "A machine as this one can pretend to be."
    name: str
    environment: dict = field(default_factory=dict)
    cores: int | None = None  # to how many the processes are bound
    busy: int = 0  # how many loops run beside
    only: tuple = ()  # the chapters on which it can bear; () for all


AVX2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "", "OPENBLAS_CORETYPE": "Haswell"}  # no feature but haswell's own
OLDEST = {"NUMBA_CPU_NAME": "generic", "OPENBLAS_CORETYPE": "Nehalem"}
ONE_CORE = Setting("one core", cores=1)


def settings() -> list[Setting]:
    "Return every setting, those for each instruction set that this machine has among them."
    sys.path.insert(0, str(ROOT))
    from quant101.workshop.tile import available

    return [Setting("as it is"), Setting("generic", {"NUMBA_CPU_NAME": "generic"}), Setting("haswell", {"NUMBA_CPU_NAME": "haswell"}),
            Setting("haswell without newer features", AVX2),
            *(Setting(f"QUANT101_ISA={one.name}", {"QUANT101_ISA": one.name}, only=("matmul",)) for one in available()), ONE_CORE,
            Setting("NUMBA_NUM_THREADS=1", {"NUMBA_NUM_THREADS": "1"}),
            *(Setting(f"OpenBLAS {kernel}", {"OPENBLAS_CORETYPE": kernel}) for kernel in ("Haswell", "Nehalem")),
            Setting("two busy loops beside", busy=2)]


QUICK = [Setting("AVX2 alone", AVX2), Setting("without AVX2", OLDEST), ONE_CORE]


@contextmanager
def busy(loops: int):
    "Keep so many cores busy."
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()


def bind(cores: int | None):
    "Return what binds a new process to some of the cores that this one has, or None."
    if cores is None:
        return None
    ours = sorted(os.sched_getaffinity(0))[:cores]
    return lambda: os.sched_setaffinity(0, ours)


def run(setting: Setting, notebooks, tests) -> list[str]:
    "Run notebooks and test files in a setting; return what failed."
    environment = os.environ | setting.environment | {"PYTHONPATH": str(ROOT)}
    failed, common = [], dict(cwd=ROOT, env=environment, preexec_fn=bind(setting.cores), capture_output=True, text=True)
    with busy(setting.busy):
        for name in notebooks:
            path = next((ROOT / "nbs").rglob(f"{name}.ipynb"))
            done = subprocess.run([sys.executable, "-c", RUN, str(path), str(path.parent)], **common)
            if done.returncode:
                failed.append(f"{name}\n{done.stderr[-3000:]}")
        files = [f"tests/test_{name}.py" for name in tests]
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files], **common)
        if done.returncode:
            failed.append(f"tests\n{done.stdout[-5000:]}{done.stderr[-1000:]}")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    chosen = [one for one in (QUICK if args.quick else settings()) if args.only in one.name]
    if args.list:
        print(*(one.name for one in chosen), sep="\n")
        return 0
    if not chosen:
        parser.error(f"--only must be part of a setting's name, got {args.only!r}")
    notebooks, tests = (["07_matmul"], ["matmul"]) if args.quick else (NOTEBOOKS, TESTS)
    failures = 0
    for setting in chosen:
        if setting.cores and not hasattr(os, "sched_setaffinity"):
            print(f"{setting.name}: NOT TRIED, this system binds no process to a core", flush=True)
            continue
        start = time.monotonic()
        failed = run(setting, [n for n in notebooks if not setting.only or n.endswith(setting.only)],
                     [t for t in tests if not setting.only or t in setting.only])
        failures += len(failed)
        print(f"{setting.name}: {'FAILED' if failed else 'passed'}, {time.monotonic() - start:.0f} s", *failed, sep="\n", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
