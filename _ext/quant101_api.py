"""Entries of the API reference, made from the package: signature, docments, docstring, and the way to the chapter and back.

They are written as reStructuredText for Sphinx's Python domain, from which `objects.inv` is made. In `nbs/api.ipynb` a cell
that begins with `#| api: quantize` is the example of `quant101.quantize`; the entry is put before it.
"""

import ast
import inspect
import json
import re
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType

from docutils.utils import new_document
from fastcore.docments import docments
from myst_parser.mocking import MockRSTParser
from sphinx.util.docutils import SphinxDirective

import quant101

DIRECTIVE = re.compile(r"#\| api: (.+)")
COMMENTED = re.compile(r"^    (\w+) = .*?  # (.*)$", re.M)


def directive(kind, signature, body=(), **options):
    "Lines of a directive of the Python domain."
    settings = [f"   :{name.replace('_', '-')}: {value}".rstrip() for name, value in options.items()]
    return [f".. py:{kind}:: {signature}", *settings, "", *("   " + line for line in body), ""]


def rst(text):
    "A docment or a paragraph, taken literally but for `code`, which is a link if it names a function or class of the package."
    def code(name):
        return f":py:obj:`~quant101.{name}`" if callable(getattr(quant101, name, None)) else f"``{name}``"

    parts = re.split(r"`([^`]+)`", " ".join(text.split()))
    return "\\ " + "\\ ".join(code(p) if i % 2 else re.sub(r"([\\*_|`])", r"\\\1", p.replace("'", "’")) for i, p in enumerate(parts))


def paragraphs(thing):
    "The docstring; what is raised and the source begin a paragraph each."
    text = inspect.cleandoc(thing.__doc__ or "")
    return [line for part in re.split(r"\n\n|(?<=\.)\s+(?=Raises? |Source: )", text) for line in (rst(part), "")]


def kind_of(annotation):
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"quant101\.[\w.]*\.|collections\.abc\.", "", text).replace("numpy.", "np.")
    return f":py:class:`~quant101.{text}`" if isinstance(getattr(quant101, text, None), type) else f"``{text}``"


def call(thing, is_method=False):
    "The signature without annotations, which stand with the arguments."
    if isinstance(thing, type) and issubclass(thing, Enum):
        return ""
    parameters = [p.replace(annotation=p.empty) for p in inspect.signature(thing).parameters.values()]
    return str(inspect.Signature(parameters[is_method:]))


def arguments(thing):
    "A field for each argument, and for what comes back."
    said, signature = docments(thing), inspect.signature(thing)
    kinds = {name: p.annotation for name, p in signature.parameters.items()}
    for name in kinds:
        if said.get(name):
            yield f":param {name}: {rst(said[name])}"
            if kinds[name] is not inspect.Parameter.empty:
                yield f":type {name}: {kind_of(kinds[name])}"
    if not isinstance(thing, type) and signature.return_annotation not in (inspect.Signature.empty, None):
        if said.get("return"):
            yield f":returns: {rst(said['return'])}"
        yield f":rtype: {kind_of(signature.return_annotation)}"


def members(cls, name):
    "What a class has: words of an enum, properties, methods; fields and what is inherited are named in the inventory alone."
    words = dict(COMMENTED.findall(inspect.getsource(cls))) if issubclass(cls, Enum) else {}
    for word, comment in ((word, words[word]) for word in getattr(cls, "__members__", ()) if word in words):
        yield from directive("attribute", f"{name}.{word}", [rst(comment)], module="quant101", value=repr(cls[word].value))
    own = {key: value for key, value in vars(cls).items() if key[0] != "_"}
    for key, value in own.items():
        if isinstance(value, property):
            yield from directive("property", f"{name}.{key}", paragraphs(value), module="quant101")
        elif inspect.isfunction(value):
            body = [*paragraphs(value), *arguments(value)]
            yield from directive("method", f"{name}.{key}{call(value, True)}", body, module="quant101")
    bases = [base for base in cls.__mro__[1:] if base.__module__.startswith("quant101")]
    inherited = {key: base for base in bases[::-1] for key, value in vars(base).items() if inspect.isfunction(value) and key[0] != "_"}
    inherited = {key: base for key, base in inherited.items() if key not in own}
    if inherited:
        yield "Inherited: " + ", ".join(f":py:meth:`{key} <quant101.{base.__name__}.{key}>`" for key, base in inherited.items()) + "."
        yield ""
    hidden = dict.fromkeys(inherited, "method") | {f.name: "attribute" for f in (fields(cls) if is_dataclass(cls) else ())}
    for key, kind in hidden.items():
        yield from directive(kind, f"{name}.{key}", module="quant101", no_typesetting="")


def value_of(thing):
    "A constant in words: of a dataclass, the fields that are not at their defaults."
    if not is_dataclass(thing):
        return f"``{type(thing).__name__}``"
    set_here = [f.name for f in fields(thing) if f.default is MISSING or getattr(thing, f.name) != f.default]
    return kind_of(type(thing)) + " ``" + ", ".join(f"{name}={getattr(thing, name)!r}" for name in set_here) + "``"


def entry(name, short=False):
    "Lines of the entry of `quant101.<name>`."
    *inside, own = name.split(".")
    thing = resolve_name(f"quant101.{name}")
    if isinstance(thing, ModuleType):
        return [line for one in thing.__all__ for line in entry(f"{name}.{one}", short=True)]
    home = getattr(thing, "__module__", None) or ".".join(["quant101", *inside])
    options = {"module": "quant101"} | ({"canonical": f"{home}.{own}"} if not inside else {})
    where = f"See :ref:`{own} in “{title_of(home)}” <{label(home, own)}>`."
    if not callable(thing):
        return directive("data", name, [f"{value_of(thing)}. {where}"], **options)
    body = [*paragraphs(thing)[:2], where] if short else [*paragraphs(thing), *arguments(thing), "", where, ""]
    if not isinstance(thing, type):
        return directive("function", name + call(thing), body, **options)
    return directive("class", name + call(thing), body + ([] if short else [*members(thing, name)]), **options)


def label(home, name):
    return f"{home}.{name}".removeprefix("quant101.")


def title_of(home):
    "The title of the notebook that a module is made from."
    module = Path(import_module(home).__file__)
    path = re.search(r"File to edit: (\S+\.ipynb)\.", module.read_text(encoding="utf8"))[1]
    cells = json.loads((module.parent / path).read_text(encoding="utf8"))["cells"]
    return next(m[1] for c in cells if (m := re.match(r"# (.+)", "".join(c["source"]))))


def full_name(home, own):
    "The name under which users import what a module calls `own`; None for what is not of the API."
    thing = getattr(home, own)
    if getattr(quant101, own, None) is thing:
        return f"quant101.{own}"
    return None if ".workshop." in home.__name__ else f"{home.__name__}.{own}"


def with_links(cells, module):
    "The cells of a notebook; one that defines a name of the API gets a place to link to before it and the link to its entry after it."
    home = import_module(f"quant101.{module}")
    for cell in cells:
        source = "".join(cell["source"])
        names = defined(source) & set(home.__all__) if cell["cell_type"] == "code" and "#| export" in source else set()
        entries = {own: full for own in home.__all__ if own in names and (full := full_name(home, own))}
        if not entries:
            yield cell
            continue
        yield markdown("\n".join(f"({label(home.__name__, own)})=" for own in entries), cell, "place")
        yield cell
        links = ", ".join(f"{{py:obj}}`{own} <{full}>`" for own, full in entries.items())
        yield markdown(f"```{{container}} api-link\nAPI reference: {links}\n```", cell, "link")


def defined(source):
    "Names that a cell binds."
    statements = ast.parse(source).body
    made = {s.name for s in statements if isinstance(s, (ast.FunctionDef, ast.ClassDef))}
    targets = [t for s in statements if isinstance(s, ast.Assign) for t in s.targets]
    return made | {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}


def with_entries(cells):
    "The cells of the reference; before an example stands the entry, or the entries, that it belongs to."
    for cell in cells:
        if named := DIRECTIVE.match("".join(cell["source"])):
            yield markdown(f"```{{api-entry}} {named[1]}\n```", cell, "entry")
        yield cell


def markdown(source, cell, place):
    return {"cell_type": "markdown", "metadata": {}, "source": source, "id": f"{place}-{cell['id']}"}


class Entry(SphinxDirective):
    "Entries of the names that are given. MyST's own eval-rst takes seconds for each in a notebook, where lines count by ten thousands."
    required_arguments, final_argument_whitespace = 1, True

    def run(self):
        document = new_document(self.env.doc2path(self.env.docname), self.state.document.settings)
        document.reporter = self.state.document.reporter
        MockRSTParser().parse("\n".join(line for name in self.arguments[0].split() for line in entry(name)), document)
        return document.children
