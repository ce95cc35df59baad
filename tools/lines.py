"""Measure in a browser what share of each chapter's page is lesson, public face and machinery, from the built book.

    python tools/lines.py            a line for each chapter; fails where a share misses its aim

Face: a public function or class with its docments and docstring. Machinery: a private helper that is no scalar kernel, and
the imports of a module. Lesson: all the rest, prose, formulas, figures, first versions in NumPy, kernels, constants, experiments, results.
"""

import ast
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build/html"
LEAST, MOST = {"lesson": 0.75}, {"face": 0.20, "machinery": 0.05}
WIDTH = 1280
CELLS = """
[document.querySelector('article').getBoundingClientRect().height,
 [...document.querySelectorAll('article div.cell')].map(cell => {
    const input = cell.querySelector('.cell_input'), code = input && input.querySelector('pre');
    return [cell.className.includes('tag_export'), code ? code.innerText : '', input ? input.getBoundingClientRect().height : 0];
 })]"""


def is_kernel(node) -> bool:
    "Whether a definition is a bare jitted function of at most eight lines."
    decorators = [ast.unparse(one) for one in getattr(node, "decorator_list", [])]
    return isinstance(node, ast.FunctionDef) and decorators == ["njit"] and node.end_lineno - node.body[0].lineno < 8


def kind(node, exported: bool) -> str:
    "Return what a statement of a chapter is."
    if exported and isinstance(node, ast.Import | ast.ImportFrom):
        return "machinery"
    if not exported or not isinstance(node, ast.FunctionDef | ast.ClassDef) or is_kernel(node):
        return "lesson"
    return "machinery" if node.name.startswith("_") else "face"


def lines_by_kind(source: str, exported: bool) -> dict:
    "Count the lines of a cell by what they are."
    counts = dict.fromkeys(("lesson", "face", "machinery"), 0)
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a command of IPython
        return counts | {"lesson": len(source.splitlines())}
    for node in body:
        first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
        counts[kind(node, exported)] += node.end_lineno - first + 1
    return counts


def chapters() -> list[str]:
    "The numbered chapters of the table of contents."
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf8"))
    return [one["file"] for part in toc["parts"] if part.get("numbered") for one in part["chapters"]]


def measure(browser, page: str) -> dict:
    "Return a page's height in pixels, the share of each kind in it, and the share of its visible code that teaches."
    tab = browser.new_page(viewport={"width": WIDTH, "height": 900})
    tab.goto((HTML / f"{page}.html").as_uri())
    tab.wait_for_load_state("load")
    height, cells = tab.evaluate(CELLS)
    tab.close()
    heights, lines = dict.fromkeys(("lesson", "face", "machinery"), 0.0), dict.fromkeys(("lesson", "face", "machinery"), 0)
    for exported, source, pixels in cells:
        counts = lines_by_kind(source, exported)
        total = sum(counts.values()) or 1
        for name, count in counts.items():
            heights[name] += pixels * count / total
            lines[name] += count if pixels else 0
    heights["lesson"] = height - heights["face"] - heights["machinery"]
    return {"height": height, "teaches": lines["lesson"] / max(1, sum(lines.values()))} | {k: v / height for k, v in heights.items()}


def misses(shares: dict) -> list[str]:
    "Return the shares that miss their aim, in words."
    low = [f"lesson {shares[name]:.0%} is below {aim:.0%}" for name, aim in LEAST.items() if shares[name] < aim]
    return low + [f"{name} {shares[name]:.0%} is above {aim:.0%}" for name, aim in MOST.items() if shares[name] > aim]


def main() -> int:
    from playwright.sync_api import sync_playwright

    sys.path.insert(0, str(ROOT / "tests"))
    from conftest import find_browser

    failures = 0
    print(f"{'chapter':18}{'pixels':>8}{'lesson':>8}{'faces':>8}{'machinery':>11}{'code that teaches':>20}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        for page in chapters():
            shares = measure(browser, page)
            wrong = misses(shares)
            failures += bool(wrong)
            print(f"{Path(page).name:18}{shares['height']:8.0f}{shares['lesson']:8.0%}{shares['face']:8.0%}{shares['machinery']:11.0%}"
                  f"{shares['teaches']:20.0%}  {'; '.join(wrong)}")
        browser.close()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
