"""Photograph every page of the built book at three widths, light and dark: what somebody has to look at who changes a page.

    python tools/screenshots.py              writes _build/screenshots/<page>-<width>-<mode>.png
    python tools/screenshots.py 02_steps     one page
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from conftest import find_browser  # noqa: E402


def main(wanted=""):
    folder = ROOT / "_build/screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        for path in sorted((ROOT / "_build/html/nbs").rglob("*.html")):
            if wanted not in path.stem:
                continue
            for mode in ("light", "dark"):
                for width in (1280, 768, 375):
                    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=mode)
                    tab.goto(path.as_uri())
                    tab.wait_for_timeout(300)
                    tab.screenshot(path=folder / f"{path.stem}-{width}-{mode}.png", full_page=True)
                    tab.close()
        browser.close()
    print(f"Photographs: {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
