"""Write constraints.txt: what `.[test,model,oracles]` resolves to today, in a fresh environment, one pinned version a line."""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# Every build and test dependency, pinned. Written by `make constraints`; run it again to renew, never edit by hand.
"""


def main():
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder, "Scripts" if sys.platform == "win32" else "bin", "python"))
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", f"{ROOT}[test,model,oracles]"], check=True, stdout=sys.stderr)
        frozen = subprocess.run([*pip, "list", "--format=freeze"], check=True, capture_output=True, text=True).stdout
    pins = [line.split("+")[0] for line in frozen.splitlines()  # a build label is of one machine
            if not line.startswith(("quant101==", "pip=="))]
    (ROOT / "constraints.txt").write_text(HEAD + "\n".join(sorted(pins, key=str.lower)) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
