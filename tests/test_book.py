"""The built book: nothing of the workshop shows, every figure speaks, and no page asks another host for anything."""

import json
import os
import posixpath
import re
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from sphinx.util.inventory import InventoryFile
from tests_support import NOTEBOOKS, ROOT, code_cells, needs, public_names, run

HTML = ROOT / "_build/html"
PAGES = sorted(p for p in (HTML / "nbs").rglob("*.html"))
ids = [p.stem for p in PAGES]


class Page(HTMLParser):
    "The text, the images and the links of a page."

    def __init__(self, path):
        super().__init__()
        self.text, self.images, self.links, self.skip = [], [], [], 0
        self.feed(path.read_text(encoding="utf8"))

    def handle_starttag(self, tag, attrs):
        self.skip += tag in ("script", "style")
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "a":
            self.links.append(dict(attrs))

    def handle_endtag(self, tag):
        self.skip -= tag in ("script", "style")

    def handle_data(self, data):
        if not self.skip:
            self.text.append(data)


def test_the_book_was_built():
    assert "index" in ids and len(PAGES) == len(NOTEBOOKS) + len(list((ROOT / "nbs").rglob("*.md")))


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_nothing_of_the_workshop_shows(page):
    text = "".join(Page(page).text)
    assert "#|" not in text
    assert "Traceback (most recent call last)" not in text


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_figure_has_alternative_text(page):
    html = page.read_text(encoding="utf8")
    for image in Page(page).images:
        alt = image.get("alt") or ""
        assert len(alt) > 20 and not alt.startswith("../"), image
    for svg in re.findall(r"<svg[^>]*>", html):  # drawn in the page itself
        assert "aria-label" in svg or "aria-hidden" in svg or 'class="sd-' in svg or "svg-inline" in svg


def test_next_on_the_landing_page_opens_the_first_chapter():
    following = [a["href"] for a in Page(HTML / "nbs/index.html").links if "right-next" in (a.get("class") or "")]
    assert following == ["01_dtypes.html"]


def downloads(page):
    "The files that a page offers."
    return [page.parent / unquote(a["href"]) for a in Page(page).links if "download" in a]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_page_offers_its_notebook(notebook):
    offered = downloads(HTML / notebook.relative_to(ROOT).with_suffix(".html"))
    exercises = [f"{notebook.stem}_exercises.ipynb"] if "**Exercise 1. " in notebook.read_text(encoding="utf8") else []
    assert [file.name for file in offered] == [notebook.name, *exercises]
    assert bool(exercises) == (notebook.parent.name == "nbs" and notebook.name[0] == "0")
    assert offered[0].read_bytes() == notebook.read_bytes()
    cells = json.loads(offered[0].read_text(encoding="utf8"))["cells"]
    assert not any(c.get("outputs") for c in cells)


def test_a_notebook_from_its_page_runs_elsewhere(tmp_path):
    shutil.copy(downloads(HTML / "nbs/index.html")[0], tmp_path)
    run("-m", "jupyter", "execute", "index.ipynb", cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("name", sorted(p.stem for p in NOTEBOOKS if p.parent == ROOT / "nbs" and (p.stem[0] == "0" or p.stem == "hour")))
@pytest.mark.parametrize("found", [None, object()])
def test_a_notebook_installs_the_package_only_where_it_is_missing(name, found, monkeypatch):
    first = next(cell for cell in code_cells(ROOT / f"nbs/{name}.ipynb") if "default_exp" not in cell)
    asked = []
    monkeypatch.setattr("importlib.util.find_spec", lambda _: found)
    exec(first, {"get_ipython": lambda: SimpleNamespace(run_line_magic=lambda *line: asked.append(line))})
    assert asked == ([("pip", "install --quiet quant101[book]")] if found is None else [])


@needs("browser")
@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_page_needs_no_other_host(page, browser):
    tab = browser.new_page()
    asked, errors = [], []
    tab.on("request", lambda r: asked.append(r.url))
    tab.on("pageerror", lambda e: errors.append(str(e)))
    tab.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    tab.on("requestfailed", lambda r: errors.append(f"failed: {r.url}"))
    tab.goto(page.as_uri())
    tab.wait_for_load_state("load")
    if tab.locator("math").count():
        drawn = tab.evaluate("document.fonts.ready.then(f => [...f].filter(x => x.family.includes('STIX')).map(x => x.status))")
        assert drawn == ["loaded"]
        shown = "[...document.querySelectorAll('math')].filter(m => m.getClientRects().length)"  # what is said to an answer waits for it
        assert tab.evaluate(f"{shown}.every(m => m.getBoundingClientRect().height > 5)")
    wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    tab.close()
    assert [u for u in asked if not u.startswith(("file:", "data:", "blob:"))] == []
    assert errors == []
    assert wide <= 0, "the page scrolls sideways"


@needs("browser")
@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_a_page_fits_a_phone(page, browser):
    "What is too wide scrolls by itself, and from its beginning: to the left of that a browser scrolls nothing."
    tab = browser.new_page(viewport={"width": 375, "height": 800})
    tab.goto(page.as_uri())
    wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    begins = "m.getBoundingClientRect().left >= m.parentElement.getBoundingClientRect().left - 1"
    whole = tab.evaluate(f"[...document.querySelectorAll('div.math math')].every(m => {begins})")
    tab.close()
    assert wide <= 0 and whole


# The API reference


def inventory():
    "What intersphinx reads: the places of the names of the Python domain, by kind."
    with open(HTML / "objects.inv", "rb") as file:
        found = InventoryFile.load(file, "", posixpath.join)
    return {kind.removeprefix("py:"): {name: item[2] for name, item in items.items()} for kind, items in found.items() if kind.startswith("py:")}


def test_every_public_name_is_in_the_inventory():
    known = inventory()
    places = {name: place for items in known.values() for name, place in items.items()}
    missing = [name for name, _, _ in public_names() if places.get(f"quant101.{name}") != f"nbs/api.html#quant101.{name}"]
    assert not missing
    assert places["quant101.steps.quantize"] == places["quant101.quantize"]  # by the module as well
    assert {"quant101.quantize", "quant101.plots.use_style"} <= set(known["function"]) and "quant101.QParams" in known["class"]
    assert {f"quant101.{kind}.{name}" for kind in ("Calibrator", "MinMax", "Entropy") for name in ("update", "merge", "range")} <= set(known["method"])
    assert "quant101.QParams.scale" in known["attribute"] and "quant101.QParams.dtype" in known["property"]
    anchors = re.findall(r' id="([^"]+)"', (HTML / "nbs/api.html").read_text(encoding="utf8"))
    assert {place.split("#")[1] for place in places.values()} <= set(anchors)


def test_entries_and_chapters_lead_to_each_other():
    text = {page.relative_to(HTML / "nbs").as_posix(): page.read_text(encoding="utf8") for page in PAGES}
    back = {(page, anchor) for page, html in text.items() for anchor in re.findall(r'href="(?:\.\./)?api\.html#([^"]+)"', html)}
    assert {anchor for _, anchor in back} == {f"quant101.{name}" for name, _, _ in public_names()}
    places = re.findall(r'href="([\w/]+\.html)#([\w-]+)"><span class="std std-ref">(\w+) in “', text["api.html"])
    assert sorted(name for *_, name in places) == sorted(own for _, _, own in public_names())
    for page, anchor, name in places:
        assert f'id="{anchor}"' in text[page]
        assert any(there == page and entry.endswith(f".{name}") for there, entry in back)


def test_an_entry_says_what_the_code_says():
    text = " ".join("".join(Page(HTML / "nbs/api.html").text).split())
    entry = text[text.index("quant101.dequantize(q, qparams, out=None)"):text.index("quant101.fake_quantize(")]
    for said in ("q – integer codes of any shape, each in qmin..qmax", "qparams (QParams) – the parameters they were made with",
                 "Raises ValueError for a code outside qmin..qmax", "Source: ONNX operator DequantizeLinear",
                 "the scale’s type, float32 at least (float64 for a Python float), same shape as q", "q.dequantize([1, 3, 5, 15]", "array([-1., 0., 1., 6.])"):
        assert said in entry, said


# The build itself, on a book of one page


def small_book(folder, *cells):
    for part in ("_ext", "_config.yml", "references.bib", "settings.ini", "constraints.txt"):
        source = ROOT / part
        shutil.copytree(source, folder / part) if source.is_dir() else shutil.copy(source, folder / part)
    code = [dict(cell_type="code", execution_count=None, id=f"c{i}", metadata={}, outputs=[], source=c) for i, c in enumerate(cells)]
    title = dict(cell_type="markdown", id="title", metadata={}, source="# A page")
    kernel = dict(kernelspec=dict(display_name="python3", language="python", name="python3"))
    (folder / "page.ipynb").write_text(json.dumps(dict(cells=[title, *code], metadata=kernel, nbformat=4, nbformat_minor=5)))
    (folder / "other.md").write_text("# Another page\n")
    (folder / "_toc.yml").write_text("format: jb-book\nroot: page\nchapters:\n- file: other\n")
    return folder


BUILD = ("-c", "from jupyter_book.cli.main import main; main()", "build", ".", "-W", "-n", "--keep-going", "--quiet")


def test_directives_become_what_the_page_shows(tmp_path):
    book = small_book(tmp_path, "#| default_exp page", "#| hide\nsecret = 1", "#| echo: false\nprint('said', secret)",
                      "#| eval: false\nraise SystemExit('never run')", "#| export\nshown = 2",
                      "#| fold: true\nassert shown == 2", "#| solution: true\nanswer = 42")
    run(*BUILD, cwd=book)
    text = "".join(Page(book / "_build/html/page.html").text)
    assert "said 1" in text and "shown" in text and "never run" in text
    html = (book / "_build/html/page.html").read_text(encoding="utf8")
    assert "Show what is checked here" in text and "assert shown == 2" in text and "Solution" in text and "answer = 42" in text
    assert html.count("<details") == 2 and "<details open" not in html
    assert "secret" not in text and "#|" not in text and "default_exp" not in text


def test_a_page_shows_the_stub_and_folds_the_solution(tmp_path):
    book = small_book(tmp_path, "#| exercises\nask = print", "#| solution: true\n# your code\nfound = 6 * 7\n# end\nask('asked for', found)")
    page = json.loads((book / "page.ipynb").read_text())
    page["cells"].insert(2, dict(cell_type="markdown", id="task", metadata={}, source="**Exercise 1. By hand.** Six times seven?\n\n:::{dropdown} Hint\nCount.\n:::"))
    (book / "page.ipynb").write_text(json.dumps(page))
    run(*BUILD, cwd=book)
    text, html = "".join(Page(book / "_build/html/page.html").text), (book / "_build/html/page.html").read_text(encoding="utf8")
    assert text.index("Six times seven?") < text.index("found = ...  # your answer") < text.index("asked for Ellipsis") < text.index("found = 6 * 7") < text.index("asked for 42")
    assert html.count("<details") == 2 and "# your code" not in text and "# end" not in text and "ask = print" not in text
    assert [file.name for file in downloads(book / "_build/html/page.html")] == ["page.ipynb", "page_exercises.ipynb"]
    made = json.loads(downloads(book / "_build/html/page.html")[1].read_text(encoding="utf8"))["cells"]
    assert [c["cell_type"] for c in made] == ["markdown", "code", "markdown", "code"] and "6 * 7" not in json.dumps(made)


def test_a_failing_cell_fails_the_build(tmp_path):
    book = small_book(tmp_path, "1 / 0")
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run(*BUILD, cwd=book)


def test_a_fraction_without_braces_fails_the_build(tmp_path):
    page = small_book(tmp_path) / "page.ipynb"
    page.write_text(page.read_text().replace("# A page", r"# A page\n\n$\\tfrac12$"))
    with pytest.raises(AssertionError, match="braces"):
        run(*BUILD, cwd=tmp_path)


def test_a_question_without_an_answer_fails_the_build(tmp_path):
    page = small_book(tmp_path) / "page.ipynb"
    page.write_text(page.read_text().replace("# A page", r"# A page\n\n:::{question} one\nWhich?\n:::"))
    with pytest.raises(AssertionError, match="question one: one rule"):
        run(*BUILD, cwd=tmp_path)
