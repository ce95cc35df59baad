"""Test the tests: put a known bug into a copy of the package, run the tests on the copy, and see that they notice.

    python tools/mutants.py                 every mutant of tools/mutants.toml
    python tools/mutants.py tie clamp       those with one of these words in their name
    python tools/mutants.py --list          the mutants, and whether their text is still in the package; runs no test

A mutant meets the tests of its own chapter first, and those of all others only if it lives. Each run stops at the first test that fails.
Exit status 1 if a mutant survives, or if the text that it replaces does not stand just once in its module any more.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tools" / "mutants.toml"
COPIED = ("quant101", "tests", "tools", "pyproject.toml")
FIRST, LAST = ["test_threads", "test_out", "test_flush", "test_signalling", "test_proof", "test_properties"], ["test_fuzz"]
# The copy must be what is imported, whatever else is installed; and a failure is enough, Hypothesis need not look for the smallest one.
START = """
import sys, pytest, quant101

assert quant101.__file__.startswith(sys.argv[1]), quant101.__file__

class FirstFailure:
    def pytest_configure(self):
        from hypothesis import Phase, settings
        settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], database=None)
        settings.load_profile("mutants")

sys.exit(pytest.main(sys.argv[2:], [FirstFailure()]))
"""


def mutants():
    return tomllib.loads(LIST.read_text(encoding="utf8"))["mutant"]


def fault(mutant):
    "Why this mutant can't be made, or None."
    path = ROOT / file_of(mutant)
    if not path.exists():
        return f"there is no module {mutant['module']}"
    count = path.read_text(encoding="utf8").count(mutant["old"])
    return None if count == 1 else f"its text stands {count} times in {file_of(mutant)}"


def file_of(mutant):
    return f"quant101/{mutant['module'].replace('.', '/')}.py"


def chapter_of(mutant):
    "The chapter whose tests a mutant meets first: its own, or for a room of the workshop the one that is named."
    return mutant.get("chapter", mutant["module"])


def own_tests(chapter):
    return [f"test_{chapter}"]


def other_tests(chapter):
    "The test files of everything but the chapter, the slow ones last."
    others = sorted({f"test_{chapter_of(m)}" for m in mutants()} - {f"test_{chapter}"})
    return [*FIRST, *others, *LAST]


def copy_package(origin, folder):
    for part in COPIED:
        source, target = Path(origin) / part, Path(folder) / part
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, target)


def run_tests(folder, names, more, limit=3600):
    "Run test files in `folder`; returns whether they passed, the first test that failed, and the end of what was printed."
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "QUANT101_INNER": "1"}
    env.pop("QUANT101_CHECK_ALL", None)
    env["OMP_WAIT_POLICY"] = "passive"  # two runs share the cores, and threads that wait must not keep the others from working
    paths = [f"tests/{name}.py" for name in names if (Path(folder) / "tests" / f"{name}.py").exists()]
    if not paths:
        return True, None, ""
    command = [sys.executable, "-c", START, str(folder), "-x", "-q", "--tb=line", "-p", "no:cacheprovider", *paths, *more]
    try:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return False, "a test that did not end", ""
    printed = done.stdout[-2000:] + done.stderr[-2000:]
    if done.returncode == 0:
        return True, None, printed
    failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", done.stdout, re.M)
    if failed:
        return False, failed[1], printed
    if done.returncode < 0:
        return False, f"a crash of the process, signal {-done.returncode}", printed
    raise RuntimeError(f"the tests could not be run:\n{printed}")


def try_mutant(mutant, names, origin, more, limit):
    "Make the mutant, run these tests, and say which one killed it (None if it lives) and after how many seconds."
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        folder = os.path.realpath(folder)
        copy_package(origin, folder)
        path = Path(folder) / file_of(mutant)
        source = path.read_text(encoding="utf8").replace(mutant["old"], mutant["new"])
        compile(source, mutant["name"], "exec")  # a mutant has to be a program
        path.write_text(source, encoding="utf8")
        passed, killer, _ = run_tests(folder, names, more, limit)
    return None if passed else killer, time.perf_counter() - start


def seconds_unchanged(names, origin, pool, more):
    "How long each test file takes on an unchanged copy. It must pass there, or a kill would mean nothing."
    def run(name):
        start = time.perf_counter()
        passed, killer, printed = run_tests(origin, [name], more)
        return name, time.perf_counter() - start, None if passed else f"the tests fail on the unchanged package: {killer}\n{printed}"

    runs = list(pool.map(run, names))
    if failures := [failure for *_, failure in runs if failure]:
        sys.exit("\n".join(failures))
    print("unchanged:", ", ".join(f"{name} {seconds:.0f} s" for name, seconds, _ in runs), flush=True)
    return {name: seconds for name, seconds, _ in runs}


def survivors(chosen, tests, origin, pool, more):
    "Try mutants on the test files that `tests` gives for their chapter. A test that takes three times as long as it should does not end."
    names = {m["name"]: tests(chapter_of(m)) for m in chosen}
    seconds = seconds_unchanged(dict.fromkeys(name for files in names.values() for name in files), origin, pool, more)
    limits = {name: 60 + 3 * sum(seconds[file] for file in files) for name, files in names.items()}
    tried = pool.map(lambda m: try_mutant(m, names[m["name"]], origin, more, limits[m["name"]]), chosen)
    alive = []
    for mutant, (killer, taken) in zip(chosen, tried):
        report(mutant, killer, taken)
        alive += [] if killer else [mutant]
    return alive


def try_all(chosen, processes, more):
    "Try every mutant on a copy made now, so that an edit in the meantime does no harm. Returns the names of the survivors."
    with tempfile.TemporaryDirectory() as origin, ThreadPoolExecutor(processes) as pool:
        origin = os.path.realpath(origin)
        copy_package(ROOT, origin)
        for tests in (own_tests, other_tests):
            chosen = chosen and survivors(chosen, tests, origin, pool, more)
    return [m["name"] for m in chosen]


def report(mutant, killer, seconds):
    bug = f"  [{mutant['bug']}]" if "bug" in mutant else ""
    verdict = f"killed by {killer}" if killer else "still alive"
    print(f"{mutant['module']:12} {mutant['name']}{bug}\n{'':12} {verdict} in {seconds:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only mutants with one of these in their name or module")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--deselect", action="append", default=[], metavar="TEST", help="leave out a test")
    args = parser.parse_args()
    more = [f"--deselect={test}" for test in args.deselect]
    chosen = [m for m in mutants() if not args.words or any(w in f"{m['module']} {m['name']}" for w in args.words)]
    faults = {m["name"]: why for m in chosen if (why := fault(m))}
    for name, why in faults.items():
        print(f"CANNOT BE MADE: {name}: {why}")
    bugs = sum("bug" in m for m in chosen)
    if args.list:
        print(f"{len(chosen)} mutants, {bugs} of them known bugs, {len(faults)} that cannot be made")
        sys.exit(bool(faults))
    alive = try_all([m for m in chosen if m["name"] not in faults], args.processes, more)
    for name in alive:
        print("SURVIVED:", name)
    print(f"{len(chosen)} mutants, {bugs} of them known bugs: {len(chosen) - len(alive) - len(faults)} killed, {len(alive)} survived, "
          f"{len(faults)} could not be made")
    sys.exit(bool(alive or faults))


if __name__ == "__main__":
    main()
