"""Write constraints.txt: what `.[test,model,oracles]` resolves to today for the lowest Python declared, one pinned version a line."""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# Every build and test dependency, pinned. Written by `make constraints`; run it again to renew, never edit by hand.
"""


def lowest_python():
    "The first release that `requires-python` lets in: '3.11.0' of '>=3.11'."
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]["requires-python"]
    return re.fullmatch(r">=(\d+\.\d+)", declared)[1] + ".0"


def main():
    lowest = lowest_python()
    if not lowest.startswith(f"{sys.version_info[0]}.{sys.version_info[1]}."):  # conditions in requirements are those of the Python that asks
        raise SystemExit(f"constraints are renewed with the lowest Python declared: make constraints PYTHON=python{lowest[:-2]}")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "Scripts" if sys.platform == "win32" else "bin", "python")
        report = Path(folder, "report.json")
        subprocess.run([python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--dry-run", "--ignore-installed",
                        "--python-version", lowest, "--only-binary", ":all:", "--target", Path(folder, "nowhere"),
                        "--report", report, f"{ROOT}[test,model,oracles]"], check=True, stdout=sys.stderr)
        found = [each["metadata"] for each in json.loads(report.read_text(encoding="utf8"))["install"]]
    pins = [f"{each['name']}=={each['version'].split('+')[0]}" for each in found if each["name"] != "quant101"]  # a build label is of one machine
    (ROOT / "constraints.txt").write_text(HEAD + "\n".join(sorted(pins, key=str.lower)) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
