"""Links the first use of each term of the glossary in each chapter.

`nbs/98_glossary.md` is a Sphinx glossary. A comment before an entry, `.. forms: clipped, clips`, names other forms of its term;
a plural in s needs none. On the way into the book the first of these forms in a chapter's text becomes what the role `{term}` would
have made of it, so that notebooks stay free of markup and "first" stays true when a chapter changes. `bias@5+7` is a form in chapters 5 and 7
alone, where the word means that, and `!machine code` is none, although the term occurs in it. Titles, captions, code, formulas,
links and questions are left alone. A role `{term}` in a chapter comes before: its term gets no other link there.
"""

import re
from pathlib import Path

from docutils import nodes
from quant101_book import ROOT, chapters
from quant101_questions import Tag
from sphinx import addnodes

PAGE = "nbs/98_glossary"
ENTRY = re.compile(r"^(?:\.\. forms: (.+)\n)?(?!\.\. )(\S.*)\n  (?=\S)", re.M)
APART = (nodes.title, nodes.caption, nodes.legend, nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.reference,
         nodes.block_quote, nodes.rubric, nodes.comment, nodes.raw, addnodes.pending_xref, addnodes.download_reference, Tag)


def forms_of_terms(chapter):
    "Every form of every term that counts in this chapter, a number from 1 on, and the term that it is a form of."
    page = ROOT / f"{PAGE}.md"
    text = page.read_text(encoding="utf8").partition("{glossary}")[2] if page.exists() else ""
    found = {}
    for forms, term in ENTRY.findall(text):
        named = [form.partition("@") for form in re.split(r",\s*", forms) if form]
        for form, _, where in [*([(term, "", "")] if term not in [form for form, *_ in named] else []), *named]:
            if not where or str(chapter) in where.split("+"):
                word = form.removeprefix("!")
                found |= dict.fromkeys((word, word + "s"), term if word == form else None)
    return found


def pattern_of(forms):
    "Finds any form as whole words, also at the beginning of a sentence, a longer form before a shorter one."
    ordered = sorted(forms, key=len, reverse=True)
    return re.compile(r"(?<![\w-])(?:" + "|".join(f"(?i:{re.escape(form[0])}){re.escape(form[1:])}" for form in ordered) + r")(?![\w-])")


def first_uses(doctree, forms):
    "Each text in which a term occurs for the first time, and where: (text node, [(start, end, term), ...])."
    linked = {xref["reftarget"] for xref in doctree.findall(addnodes.pending_xref) if xref["reftype"] == "term"}
    lower, pattern = {form.lower(): term for form, term in forms.items()}, pattern_of(forms)
    for text in list(doctree.findall(nodes.Text)):
        above, places = text.parent, []
        while above is not None and not isinstance(above, APART):
            above = above.parent
        for match in pattern.finditer(str(text)) if above is None else ():
            term = forms[match[0]] if match[0] in forms else lower[match[0].lower()]
            if term and term not in linked:
                linked.add(term)
                places.append((*match.span(), term))
        if places:
            yield text, places


def link_terms(app, doctree):
    course = chapters()
    forms = forms_of_terms(course.index(app.env.docname) + 1) if app.env.docname in course else {}
    for text, places in list(first_uses(doctree, forms)) if forms else ():
        pieces, at, words = [], 0, str(text)
        for start, end, term in places:
            shown = nodes.inline("", words[start:end], classes=["xref", "std", "std-term"])
            link = addnodes.pending_xref("", shown, refdomain="std", reftype="term", reftarget=term, refexplicit=True, refwarn=True, refdoc=app.env.docname)
            pieces += [nodes.Text(words[at:start]), link]
            at = end
        text.parent.replace(text, [piece for piece in (*pieces, nodes.Text(words[at:])) if len(piece)])


def note_files(app, docname, source):
    if docname in chapters():
        for file in (Path(__file__), ROOT / f"{PAGE}.md"):
            app.env.note_dependency(str(file))


def setup(app):
    app.connect("source-read", note_files)
    app.connect("doctree-read", link_terms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
