"""The glossary: each chapter leads to it where it uses a word first, the index holds its words, and a page says how long it takes to read."""

import re
import sys
from html import unescape
from html.parser import HTMLParser

import pytest
from docutils import nodes
from tests_support import ROOT

sys.path.insert(0, str(ROOT / "_ext"))
import quant101_book  # noqa: E402
import quant101_glossary  # noqa: E402

HTML = ROOT / "_build/html"
CHAPTERS = quant101_book.chapters()
ENTRIES = re.findall(r"^(?:\.\. forms: (.*)\n)?(\S.*)\n  .+ \[Chapter (\d)\]\((\w+)\.ipynb\)\.$", (ROOT / "nbs/98_glossary.md").read_text(encoding="utf8"), re.M)


class Words(HTMLParser):
    "The text of a page's article and the words that lead to the glossary, in order; titles, captions, code, links and questions apart."

    def __init__(self, page):
        super().__init__()
        self.open, self.found = [], []  # found: ("text", words) or ("term", anchor)
        self.feed((HTML / page).with_suffix(".html").read_text(encoding="utf8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag in ("img", "input", "br", "meta", "link", "hr", "col", "wbr"):
            return
        if "98_glossary.html#term-" in attrs.get("href", ""):
            self.found.append(("term", attrs["href"].split("#term-")[1]))
        self.open.append((tag, attrs.get("class", "") or ""))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        tags, classes = {tag for tag, _ in self.open}, " ".join(c for _, c in self.open).split()
        apart = tags & {"h1", "h2", "h3", "h4", "figcaption", "caption", "code", "pre", "a", "math", "blockquote", "script", "style", "summary"}
        if "article" in tags and not apart and "q101" not in classes:
            self.found.append(("text", data))


def places():
    "Every term and the place that it has in the glossary."
    text = (HTML / "nbs/98_glossary.html").read_text(encoding="utf8")
    return {unescape(term).replace("’", "'"): place for place, term in re.findall(r'<dt id="term-([^"]+)">(.*?)<a class="headerlink"', text)}


def linked(page):
    return [what for kind, what in Words(page).found if kind == "term"]


def test_the_glossary_has_the_words_of_every_chapter():
    text = (ROOT / "nbs/98_glossary.md").read_text(encoding="utf8")
    assert len(ENTRIES) == text.count("\n  ") and 70 <= len(ENTRIES) <= 100
    terms = [term for _, term, *_ in ENTRIES]
    assert terms == sorted(set(terms), key=str.lower)
    assert all(CHAPTERS[int(number) - 1] == f"nbs/{file}" for *_, number, file in ENTRIES)
    assert {int(number) for *_, number, _ in ENTRIES} == set(range(1, len(CHAPTERS) + 1))


def test_the_index_holds_them_and_is_linked():
    index, glossary = ((HTML / page).read_text(encoding="utf8") for page in ("genindex.html", "nbs/98_glossary.html"))
    assert set(places()) == {term for _, term, *_ in ENTRIES}
    assert [term for term, place in places().items() if f'98_glossary.html#term-{place}"' not in index] == []
    assert 'href="../genindex.html"' in glossary


@pytest.mark.parametrize("page", CHAPTERS)
def test_a_word_is_linked_where_it_is_used_first_and_only_there(page):
    links, found = linked(page), Words(page).found
    assert len(links) == len(set(links)) and len(links) > 15
    plain = {term: place for term, place in places().items() for forms, other, *_ in ENTRIES if term == other and f"{term}@" not in forms and "!" not in forms}
    for term, place in plain.items():
        end = found.index(("term", place)) if ("term", place) in found else len(found)
        before = "".join(what for kind, what in found[:end] if kind == "text")
        for longer in (other for other in plain if term in other and term != other):
            before = before.replace(longer, "…")
        first = re.search(rf"(?<![\w-]){re.escape(term)}(?![\w-])", before)
        assert not first, f"{term}, in chapter {page}: {before[max(0, first.start() - 60):first.end() + 20]!r}"


def test_every_word_is_linked_from_the_chapter_that_introduces_it_or_from_no_earlier_one():
    chapters, place = [set(linked(page)) for page in CHAPTERS], places()
    for _, term, number, _ in ENTRIES:
        where = [k + 1 for k, links in enumerate(chapters) if place[term] in links]
        assert where and (int(number) in where or min(where) > int(number)), f"{term}: {where}"


def test_first_uses_are_found_and_nothing_else_is_touched():
    forms = {"scale": "scale", "scales": "scale", "zero point": "zero point", "point": "point", "LLM.int8()": "LLM.int8()", "int8": "int8", "loss scale": None}
    link = quant101_glossary.addnodes.pending_xref("", nodes.inline("", "int8"), reftype="term", reftarget="int8")
    page = nodes.section("", nodes.title("", "Scale and zero point"), nodes.paragraph("", "", nodes.literal("", "scale"), nodes.Text(" rescales a loss scale. ")),
                         nodes.paragraph("", "", nodes.Text("Scales and a zero point, LLM.int8() and int8; a scale, a point."), link))
    found = [(str(text), [(text[start:end], term) for start, end, term in places]) for text, places in quant101_glossary.first_uses(page, forms)]
    assert [places for _, places in found] == [[("Scales", "scale"), ("zero point", "zero point"), ("LLM.int8()", "LLM.int8()"), ("point", "point")]]


def test_forms_may_belong_to_some_chapters():
    first, second, seventh = (quant101_glossary.forms_of_terms(k) for k in (1, 2, 7))
    assert [forms["bias"] for forms in (first, second, seventh)] == ["bias of a format", "bias of a rounding rule", "bias of a layer"]
    assert first["machine code"] is None and "drift" not in first and first["codes"] == first["code"] == "code"


def test_reading_takes_time():
    def cell(kind, source):
        return {"cell_type": kind, "source": source}

    words, lines = quant101_book.WORDS, quant101_book.LINES
    prose, code = cell("markdown", "word " * (10 * words)), cell("code", "x = 1\n\n" * (5 * lines))
    assert quant101_book.reading_minutes([prose, code]) == 15
    assert quant101_book.reading_minutes([prose, cell("code", "#| hide\n" + code["source"]), cell("markdown", "## Exercises"), prose]) == 10
    assert quant101_book.reading_minutes([cell("markdown", "a few words\n\n## Exercises\n\n" + prose["source"])]) == 5
    assert quant101_book.reading_minutes([prose, cell("markdown", ":::{question} one\nWhich?\n\n***\n\n" + prose["source"])]) == 10


def test_a_chapter_says_how_long_it_takes_beside_its_download():
    for page in (HTML / "nbs").rglob("*.html"):
        said = re.findall(r'download this notebook.*?</a> <span class="reading-time">About (\d+) minutes', page.read_text(encoding="utf8").replace("Download</span> <span class=\"pre\">this</span> <span class=\"pre\">notebook", "download this notebook"), re.S)
        name = page.relative_to(HTML).with_suffix("").as_posix()
        assert len(said) == (name in CHAPTERS), name
        assert all(20 <= int(minutes) <= 120 for minutes in said)
