"""Print the book, built as a single page of HTML, to one PDF.

    python tools/print_book.py _build/singlehtml quant101.pdf
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from conftest import find_browser  # noqa: E402

STYLE = """
@page { size: A4; margin: 20mm 18mm 22mm; }
.bd-header, .bd-header-article, .bd-sidebar-primary, .bd-sidebar-secondary, .prev-next-footer, .bd-footer, .download, .headerlink, .sd-card-footer,
button, .copybtn, #pst-back-to-top, .toggle-hint-button { display: none !important; }
.bd-main, .bd-content, .bd-article-container, .bd-article, .bd-container, .bd-container__inner { display: block !important; max-width: none !important; width: auto !important; padding: 0 !important; margin: 0 !important; }
html { font-size: 9.5pt !important; }
* { animation: none !important; transition: none !important; }
.skip-link, #pst-skip-link { display: none !important; }
h1 { break-before: page; } h1, h2, h3, h4 { break-after: avoid; } figure, tr, img, div.math { break-inside: avoid; } p, li { orphans: 3; widows: 3; }
pre { white-space: pre-wrap !important; overflow-wrap: anywhere; } .cell_input, .cell_output pre { break-inside: auto; }
table { width: 100%; table-layout: auto; font-size: 0.85em; } td, th { overflow-wrap: break-word; white-space: normal !important; padding: 2px 4px !important; }
.cell_output, .pst-scrollable-table-container, div.math { overflow: visible !important; }
details > * { display: block; }
"""


def main(folder, target):
    page = Path(folder, "book.html")  # the page stands one folder too deep for its own links
    shutil.copy(Path(folder, "nbs/index.html"), page)
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        tab = browser.new_page(color_scheme="light")
        tab.goto(page.resolve().as_uri(), timeout=120_000)
        tab.add_style_tag(content=STYLE)
        tab.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        tab.evaluate("document.querySelector('h1').style.breakBefore = 'auto'")
        tab.evaluate("document.fonts.ready")
        tab.pdf(path=target, prefer_css_page_size=True, print_background=True, outline=True, tagged=True, display_header_footer=True,
                header_template="<span></span>", footer_template='<div style="font-size:8px;width:100%;text-align:center"><span class="pageNumber"></span></div>')
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
