"""Questions in the page: a number or a choice, checked there by `questions.js`, with an explanation for every answer.

A question is a fence in a Markdown cell, and reads as text where there is no book:

    :::{question} a-name
    :check: an expression

    What is asked?

    1. A choice.
    2. Another one.

    ***

    1. Why this is wrong, and what slip leads here.
    2. Right. Why.
    :::

Above the rule stands what is asked and, for a choice, a numbered list; below it, in the same order, what is said to each choice.
Where there is no such list a number is asked for, and below the rule stand the numbers that are expected, `- 42: Right. Why.`,
and at last what is said to any other, `- Otherwise: why.`. `:unit:` is what the number is counted in, and `:tolerance:` how far off
the right one may be; without it a whole number has to be hit, and another to half of its last digit. `:check:` is evaluated by
tests/test_questions.py in the names of the package and of four samples: for a choice it has to be true, for numbers it is their list.

Three extensions were looked at first. jupyterquiz 2.9.6 draws its questions by a script alone, so that without one and on paper there
is nothing; it names no groups and no states for screen readers, and its formulas wait for MathJax, which comes from another host.
teachbooks-questions 0.4.0 loads a script from another host on every page and one more for numbers, which as an ES module does not run
from `file://`; its choices cannot be reached by keyboard, and all wrong numbers share one explanation. sphinx-exercise 1.2.1 checks
nothing. None of them remembers what was answered.
"""

import re
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

HERE = Path(__file__).resolve().parent
RULE, OPTION, RIGHT = re.compile(r"\n\s*\*\*\*\s*\n"), re.compile(r":(\w+): (.+)"), "Right. "
FENCE = re.compile(r"^:::\{question\} (\S+)\n(.*?)^:::$", re.M | re.S)
CHOICE, ANSWER = re.compile(r"^\d+\. ", re.M), re.compile(r"^- ([^:\n]+): ", re.M)


@dataclass(frozen=True)
class Answer:
    "A choice or a number, and what is said to it; the text is empty for any other number."
    text: str
    said: str
    right: bool
    value: float | None = None
    tolerance: float = 0.0


@dataclass(frozen=True)
class Question:
    "What stands between the fences."
    name: str
    ask: str
    answers: tuple
    is_choice: bool
    unit: str = ""
    check: str = ""


def number(text):
    "A number as it is written in prose, such as −6.5 or 65,504, and half of its last digit, 0 for a whole number."
    plain = text.replace("−", "-").replace(",", "").strip()
    digits = re.fullmatch(r"-?\d+(?:\.(\d+))?(?:e(-?\d+))?", plain)
    if not digits:
        raise ValueError(f"{text!r} is no number")
    return float(plain), 0.5 * 10.0 ** (int(digits[2] or 0) - len(digits[1])) if digits[1] else 0.0


def read_question(name, text):
    "The question that a fence holds. Raises ValueError, and says what is missing."
    lines, options = text.strip("\n").split("\n"), {}
    while lines and (option := OPTION.fullmatch(lines[0])):
        options[option[1]] = option[2]
        lines.pop(0)
    if unknown := set(options) - {"check", "unit", "tolerance"}:
        raise ValueError(f"question {name}: no option {', '.join(sorted(unknown))}")
    parts = RULE.split("\n".join(lines))
    if len(parts) != 2:
        raise ValueError(f"question {name}: one rule, ***, divides what is asked from what is said")
    ask, *choices = (part.strip() for part in CHOICE.split(parts[0]))
    make = choices_of if choices else numbers_of
    answers = tuple(make(name, parts[1].strip(), choices, options))
    if sum(answer.right for answer in answers) != 1:
        raise ValueError(f"question {name}: one answer is right, and what is said to it begins with {RIGHT!r}")
    if not ask or not all(answer.said for answer in answers):
        raise ValueError(f"question {name}: something is asked, and something is said to every answer")
    return Question(name, ask, answers, bool(choices), options.get("unit", ""), options.get("check", ""))


def said_to(text):
    return text.strip().removeprefix(RIGHT), text.startswith(RIGHT)


def choices_of(name, text, choices, options):
    before, *said = CHOICE.split(text)
    if before.strip() or len(said) != len(choices) or len(choices) < 2 or set(options) - {"check"}:
        raise ValueError(f"question {name}: {len(choices)} choices and {len(said)} explanations, without unit and tolerance")
    return [Answer(choice, *said_to(one)) for choice, one in zip(choices, said)]


def numbers_of(name, text, choices, options):
    before, *pairs = ANSWER.split(text)
    written, said = pairs[::2], pairs[1::2]
    if before.strip() or len(written) < 3 or written[-1] != "Otherwise" or "check" not in options:
        raise ValueError(f"question {name}: numbers, at least two, then `- Otherwise: `, and a check that computes them")
    for text, one in zip(written[:-1], said):
        (value, half_digit), (one, right) = number(text), said_to(one)
        yield Answer(text, one, right, value, float(options["tolerance"]) if right and "tolerance" in options else half_digit)
    yield Answer("", *said_to(said[-1]))


def questions_of(cells):
    "The questions of a notebook, in order."
    sources = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return [read_question(name, text) for source in sources for name, text in FENCE.findall(source)]


class Tag(nodes.General, nodes.Element):
    "An element of HTML; in other formats there is only what it holds."


class QuestionTag(Tag):
    "The element that holds a question."


def tag(name, *children, kind=Tag, ids=(), **attributes):
    attributes = {key.strip("_").replace("_", "-"): value for key, value in attributes.items()}
    return kind("", *children, tag=name, attributes=attributes, ids=list(ids))


def html(text):
    return nodes.raw("", text, format="html")


class QuestionDirective(SphinxDirective):
    has_content, required_arguments = True, 1

    def run(self):
        name = self.arguments[0]
        try:
            question = read_question(name, "\n".join(self.content))
        except ValueError as error:
            raise self.error(str(error)) from error
        place = "question-" + nodes.make_id(name)
        ask = tag("div", *self.parsed(question.ask), ids=[f"{place}-asked"], class_="asked")
        title = tag("legend", nodes.Text("Question"), ids=[f"{place}-title"])
        controls = self.choices(question, place) if question.is_choice else self.field(question, place)
        button = html('<button type="button" class="check">Check</button>')
        fieldset = tag("fieldset", title, ask, *controls, button, aria_labelledby=f"{place}-title {place}-asked")
        key = f"{Path(self.env.docname).name}/{name}"
        said = tag("div", class_="said", role="status")
        return [tag("div", fieldset, said, self.explanations(question), kind=QuestionTag, ids=[place], class_="q101 ask", data_key=key)]

    def parsed(self, text):
        holder = nodes.Element()
        self.state.nested_parse(text.split("\n"), self.content_offset, holder)
        return holder.children

    def in_line(self, text):
        "The text as it stands within a line, without the paragraph around it."
        first, *rest = self.parsed(text)
        return [*first.children, *rest]

    def choices(self, question, place):
        rows = []
        for k, answer in enumerate(question.answers):
            spoken = re.sub(r"\\operatorname|\\|[${}]", "", answer.text) if not re.sub(r"\$[^$]*\$", "", answer.text).strip(" .") else ""
            radio = html(f'<input type="radio" name="{place}" value="{k}"' + (f' aria-label="{escape(spoken)}">' if spoken else ">"))  # a formula alone is no name
            rows.append(tag("li", tag("label", radio, tag("span", *self.in_line(answer.text)))))
        return [tag("ol", *rows, class_="choices")]

    def field(self, question, place):
        unit = f"<span>{escape(question.unit)}</span>" if question.unit else ""
        field = f'<input type="text" inputmode="text" autocomplete="off" spellcheck="false" size="14" data-unit="{escape(question.unit)}">'
        return [tag("label", html(f"<span>Your answer</span>{field}{unit}"), class_="number")]

    def explanations(self, question):
        rows = []
        for answer in question.answers:
            expected = {} if answer.value is None else {"data_value": repr(answer.value), "data_tolerance": repr(answer.tolerance)}
            said = self.in_line(answer.said)
            if answer.right:
                said = [nodes.strong("", "Right."), nodes.Text(" "), *said]
            written = f"{answer.text} {question.unit}".strip() if answer.text else "Any other number"
            before = [] if question.is_choice else [tag("b", nodes.Text(f"{written}: "))]
            rows.append(tag("li", *before, tag("span", *said), **expected, **({"data_right": "1"} if answer.right else {})))
        summary = tag("summary", nodes.Text("Each answer explained"))
        return tag("details", summary, tag("ol" if question.is_choice else "ul", *rows))


def number_questions(app, doctree):
    "Number the questions of a page, and put after the last of them how far the reader has come."
    found = list(doctree.findall(QuestionTag))
    for k, question in enumerate(found):
        legend = next(one for one in question.findall(Tag) if one["tag"] == "legend")
        legend.clear()
        legend += nodes.Text(f"Question {k + 1} of {len(found)}")
    if found:
        last = found[-1]
        buttons = '<button type="button" class="erase">Erase progress</button> <button type="button" class="erase-all">Erase it in all chapters</button>'
        progress = tag("div", html(f'<p role="status"></p><p class="hint">Kept in this browser alone.</p>{buttons}'), class_="q101 tally")
        last.parent.insert(last.parent.index(last) + 1, progress)


def begin_tag(translator, node):
    translator.body.append(translator.starttag(node, node["tag"], "", **node["attributes"]))


def end_tag(translator, node):
    translator.body.append(f"</{node['tag']}>")


def nothing(translator, node):
    pass


def style():
    "The look of the explorers, and what questions add to it."
    common = (files("quant101") / "javascript/common.js").read_text(encoding="utf8")
    return re.search(r"const STYLE = `([^`]*)`", common)[1] + (HERE / "questions.css").read_text(encoding="utf8")


def write_assets(app):
    if app.builder.format == "html":
        static = Path(app.outdir, "_static")
        static.mkdir(parents=True, exist_ok=True)
        (static / "questions.css").write_text(style(), encoding="utf8")
        (static / "questions.js").write_text((HERE / "questions.js").read_text(encoding="utf8"), encoding="utf8")


def add_assets(app, pagename, templatename, context, doctree):
    if doctree and next(iter(doctree.findall(QuestionTag)), None) is not None:
        app.add_css_file("questions.css")
        app.add_js_file("questions.js", loading_method="defer")  # no module: a browser runs those from a server alone


def note_files(app, docname, source):
    for name in ("quant101_questions.py", "questions.js", "questions.css"):
        app.env.note_dependency(str(HERE / name))


def setup(app):
    for kind in (Tag, QuestionTag):
        app.add_node(kind, html=(begin_tag, end_tag), **{other: (nothing, nothing) for other in ("latex", "text", "man", "texinfo")})
    app.add_directive("question", QuestionDirective)
    app.connect("builder-inited", write_assets)
    app.connect("source-read", note_files)
    app.connect("doctree-read", number_questions)
    app.connect("html-page-context", add_assets)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
