"""Draw the static picture of every explorer from the built book, and note how much room each takes: what a reader without scripts sees.

    python tools/draw_explorers.py        writes nbs/pictures/explorer-<name>.png and quant101/javascript/heights.json
"""

import json
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from conftest import find_browser  # noqa: E402

from quant101.explorers import _names  # noqa: E402


def page_of(name):
    "The built page on which an explorer stands."
    pages = [path for path in sorted((ROOT / "_build/html/nbs").glob("[0-9]*.html")) if f'id="explorer-{name}"' in path.read_text(encoding="utf8")]
    if len(pages) != 1:
        raise SystemExit(f"the explorer {name} must stand in one chapter, got {[path.name for path in pages]}")
    return pages[0].as_uri()


def main():
    heights = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        for name in _names():
            heights[name] = []
            for width in (1280, 375):
                page = browser.new_page(viewport={"width": width, "height": 2600}, color_scheme="light")
                page.goto(page_of(name))
                page.wait_for_function(f"document.getElementById('explorer-{name}').model?.get('results')")
                page.add_style_tag(content=".explorer { min-height: 0 !important; }")
                page.wait_for_timeout(500)
                explorer = page.locator(f"#explorer-{name}")
                heights[name].append(round(explorer.bounding_box()["height"]))
                if width == 1280:
                    explorer.locator(".q101").screenshot(path=ROOT / f"nbs/pictures/explorer-{name}.png")
                page.close()
        browser.close()
    (ROOT / "quant101/javascript/heights.json").write_text(json.dumps(heights, indent=1) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
