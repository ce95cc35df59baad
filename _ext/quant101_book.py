"""What the book build adds to Jupyter Book: nbdev's directives, a cache key that covers the package, local assets.

A notebook says what it means in `#|` lines alone. On `source-read` Sphinx hands over the notebook's JSON before
myst-nb parses it; the lines become cell tags and figure metadata there, in memory, and no page shows them.
Formulas are written as MathML, which browsers draw by themselves, with a font that travels with the book.
"""

import ast
import configparser
import hashlib
import itertools
import json
import os
import re
import shutil
from importlib.resources import files
from pathlib import Path

import yaml
from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from fontTools.ttLib import TTFont
from quant101_api import Entry, with_entries, with_links
from quant101_exercises import to_work_in, with_stubs
from sphinx.util import logging

ROOT = Path(__file__).resolve().parent.parent
TAGS = {("hide", ""): "remove-cell", ("echo", "false"): "remove-input", ("eval", "false"): "skip-execution",
        ("fold", "true"): "hide-input", ("solution", "true"): "hide-cell", ("export", ""): "export", ("exercises", ""): "remove-cell"}
PROMPTS = {"fold": ("Show what is checked here", "Hide it"), "solution": ("Solution", "Hide the solution")}
DIRECTIVE = re.compile(r"#\|\s*([\w-]+):?\s*(.*)")
EQUATION = re.compile(r"^(\$\$.*\$\$)\n", re.M)
TITLE = re.compile(r"# .*\n*(?:> .*\n*)*")  # and the sentence below it
FONT = "stix-two-math.woff"
WORDS, LINES = 180, 15  # that are read in a minute: of prose that argues, and of code
FOLDERS = {"samples": ("data", "records"), "explorers": ("javascript",)}  # what a module reads
LEAF = "check"  # a module that stands on all others; what it says of a chapter's exercises depends on what that chapter imports itself


def apply_directives(cell):
    "Move the `#|` lines that open a code cell into its metadata; return False if nothing is left of it."
    lines = "".join(cell["source"]).splitlines(keepends=True)
    figure, prompts = {}, {}
    while lines and (line := DIRECTIVE.match(lines[0])):
        key, value = line[1], line[2].strip()
        if tag := TAGS.get((key, value)):
            cell["metadata"].setdefault("tags", []).append(tag)
            if key in PROMPTS:
                prompts |= zip(("code_prompt_show", "code_prompt_hide"), PROMPTS[key])
        elif key in ("label", "fig-cap", "fig-alt"):
            figure[key] = value
        lines.pop(0)
    if figure:
        named = {"name": figure.get("label"), "caption": figure.get("fig-cap")}
        cell["metadata"]["mystnb"] = {
            "image": {"alt": figure.get("fig-alt", "")},
            "figure": {key: value for key, value in named.items() if value},
        }
    if prompts:
        cell["metadata"].setdefault("mystnb", {}).update(prompts)
    cell["source"] = "".join(lines)
    return bool(cell["source"].strip())


def offer_download(cells, name, exercises=None, beside=""):
    "Put a link to the notebook as it stands in nbs/ below the title of its page, and one to its exercises; Sphinx copies the files."
    opening = next(c for c in cells if c["cell_type"] == "markdown")
    text = "".join(opening["source"])
    title = TITLE.match(text)[0]
    links = f"{{download}}`Download this notebook <{name}>`"
    if exercises:
        links += f" · {{download}}`Download its exercises </{exercises}>`"
    opening["source"] = f"{title.rstrip()}\n\n{links}{beside}\n\n{text[len(title):]}"


def write_exercises(notebook, name):
    "Write the notebook to work in of a chapter, and return its path in this folder; None for a page without exercises."
    if (made := to_work_in(notebook)) is None:
        return None
    path = ROOT / "_build/exercises" / f"{name}_exercises.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
    return path.relative_to(ROOT).as_posix()


def chapters():
    "The notebooks of the course, in order, as the table of contents names them."
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf8")).get("parts", [])
    return [page["file"] for part in parts if part["caption"] == "The course" for page in part["chapters"]]


def reading_minutes(cells):
    "How long the text and the code that is shown take to read, up to the exercises, in steps of five minutes."
    words = lines = 0
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            text, *exercises = re.split(r"^## Exercises$", source.split("\n***\n")[0], maxsplit=1, flags=re.M)
            words += len(text.split())
            if exercises:
                break
        elif not re.search(r"^#\| (hide|fold: true|solution: true)$", source, re.M):
            lines += sum(bool(line.strip()) for line in source.splitlines())
    return max(5, 5 * round((words / WORDS + lines / LINES) / 5))


def number_equations(cells, name):
    "Give every equation that has a line of its own a label, and so a number."
    count = itertools.count(1)
    for cell in cells:
        if cell["cell_type"] == "markdown":
            text = EQUATION.sub(lambda m: f"{m[1]} (eq-{name}-{next(count)})\n", "".join(cell["source"]) + "\n")
            cell["source"] = text[:-1]


def imported_modules(source, package="quant101"):
    "Names of the quant101 modules that Python source in `package` imports; `quant101` itself stands for all of them."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "quant101")
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else None  # `.steps` is ours, and so is `..steps` one room below
            module = ".".join(filter(None, [above, node.module]))
            if (ROOT / module.replace(".", "/")).is_dir() and module.split(".")[0] == "quant101":
                yield from (f"{module}.{a.name}" for a in node.names)
            elif module.startswith("quant101."):
                yield module


def package_files(source):
    "Every file of the package that running `source` can read: imported modules, theirs in turn, and data."
    found, todo = set(), [name for name in imported_modules(source)]
    while todo:
        module = ROOT / (todo.pop().replace(".", "/") + ".py")
        path = module if module.exists() else ROOT / "quant101/__init__.py"
        if path not in found:
            found.add(path)
            if path.stem != LEAF:
                todo += imported_modules(path.read_text(encoding="utf8"), ".".join(path.relative_to(ROOT).parent.parts))
            for folder in FOLDERS.get(path.stem, ()):
                found.update((ROOT / "quant101" / folder).iterdir())
    return sorted(found)


def read_notebook(app, docname, source):
    path = Path(app.env.doc2path(docname))
    app.env.note_dependency(str(ROOT / "_toc.yml"))  # the side bar and the next button of every page
    if path.suffix != ".ipynb":
        return
    notebook = json.loads(source[0])
    exercises = write_exercises(notebook, path.stem)
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    python = "\n".join("".join(c["source"]) for c in code if not "".join(c["source"]).startswith("%"))
    files = [*package_files(python), ROOT / "constraints.txt"]
    for file in [*files, Path(__file__), *map(Path(__file__).with_name, ("quant101_api.py", "quant101_exercises.py"))]:
        app.env.note_dependency(str(file))
    digest = hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()
    notebook["metadata"].setdefault("kernelspec", {})["quant101_digest"] = digest
    minutes = f' <span class="reading-time">About {reading_minutes(notebook["cells"])} minutes to read, exercises apart</span>'
    cells = with_entries(list(with_stubs(notebook["cells"])))
    if "nbs/api" in app.env.found_docs and (module := re.search(r"^#\| default_exp ([\w.]+)", python, re.M)):
        cells = with_links(cells, module[1])
    notebook["cells"] = [c for c in cells if c["cell_type"] != "code" or apply_directives(c)]
    number_equations(notebook["cells"], path.stem)
    offer_download(notebook["cells"], path.name, exercises, minutes if docname in chapters() else "")
    source[0] = json.dumps(notebook)


def reread_references(app, env, added, changed, removed):
    "The list of references shows what is cited anywhere, and the page for the impatient an explorer of a chapter."
    return {doc for doc in env.found_docs if doc.endswith(("_references", "/hour"))} if added | changed | removed else set()


def read_settings():
    "The values of settings.ini, where owner and repository stand and nowhere else."
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf8")
    return settings["DEFAULT"]


def name_repository(app, config):
    own = read_settings()
    config.html_theme_options |= {
        "repository_url": f"https://github.com/{own['user']}/{own['repo']}",
        "repository_branch": own["branch"],
        "use_repository_button": True,
        "path_to_docs": "",
        "launch_buttons": {"colab_url": "https://colab.research.google.com", "binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"},
    }
    config.project, config.version, config.release = own["lib_name"], own["version"], own["version"]
    config.html_baseurl = config.ogp_site_url = f"https://{own['user']}.github.io/{own['repo']}/"
    config.notfound_urls_prefix = f"/{own['repo']}/"


def no_launch_from_paper(app):
    "An ePub has no buttons, and the theme cannot make them there."
    if app.builder.name == "epub":
        app.config.html_theme_options.pop("launch_buttons", None)


def picture_for_links(app, pagename, templatename, context, doctree):
    "A link to a chapter shows its explorer, elsewhere too."
    if doctree is not None and (image := next((i for i in doctree.findall(nodes.image) if "explorer-" in i["uri"]), None)):
        address = f"{app.config.html_baseurl}_images/{Path(image['uri']).name}"
        context["meta"] = {**(context.get("meta") or {}), "og:image": address, "og:image:alt": image.get("alt", "")}


SPACING = (  # what a browser sets too wide or too tight: bars are brackets here, and a function stands close to its argument
    (re.compile(r"<mo>‖<"), '<mo stretchy="false" lspace="0" rspace="0">‖<'),
    (re.compile(r'<mo stretchy="false">\|<'), '<mo stretchy="false" lspace="0" rspace="0">|<'),
    (re.compile(r"(<mo[^>]*)>(max|min)<"), r'\1 lspace="0" rspace="0.1667em">\2<'),
    (re.compile(r'<mfrac displaystyle="false" scriptlevel="0">'), '<mfrac class="text-style">'),
    (re.compile(r'<mfrac displaystyle="true" scriptlevel="0">'), '<mfrac class="display-style">'),
    (re.compile(r"<mi>(log|ln)</mi>"), r'<mo lspace="0.1667em" rspace="0.1667em">\1</mo>'),
)
BARE = re.compile(r"frac\s*(?:\{[^}]*\})?\s*\d")


def write_formula(translator, node):
    "Append a formula as MathML; a command that docutils does not know is a warning, and so fails a strict build."
    as_block = isinstance(node, nodes.math_block)
    try:
        if BARE.search(node.astext()):
            raise MathError("a fraction must have its numbers in braces, since the digits of \\frac12 are read as one number")
        formula = tex2mathml(node.astext(), as_block)
    except MathError as error:
        logging.getLogger(__name__).warning("formula %r: %s", node.astext(), error, location=node)
        raise nodes.SkipNode from error
    for pattern, better in SPACING:
        formula = pattern.sub(better, formula)
    tag = "div" if as_block else "span"
    number = f'<span class="eqno">({node["number"]})</span>' if as_block and node.get("number") else ""
    anchors = "".join(f'<span id="{i}"></span>' for i in node.get("ids", []))
    translator.body.append(f'{anchors}<{tag} class="math">{number}{formula}</{tag}>')
    raise nodes.SkipNode


def explorers_in(doctree):
    "The explorers on a page: the raw HTML of each by its name."
    found = ((re.search(r'class="explorer" id="explorer-(\w+)"', raw.astext()), raw) for raw in doctree.findall(nodes.raw))
    return {match[1]: raw for match, raw in found if match}


def bring_explorers(app, doctree, docname):
    "Where only the picture of an explorer stands, put the explorer of the chapter that has it after the picture."
    missing = {}
    for image in doctree.findall(nodes.image) if app.builder.name == "html" else ():
        if match := re.search(r"explorer-(\w+)\.png", image["uri"]):
            missing[match[1]] = image
    for name in missing.keys() - explorers_in(doctree).keys():
        found = [own[name] for chapter in chapters() if name in (own := explorers_in(app.env.get_doctree(chapter)))]
        parent = missing[name].parent
        parent.parent.insert(parent.parent.index(parent) + 1, found[0].deepcopy())


def leave_explorers_out(app, doctree, docname):
    "In a book that is printed or read on paper's terms, the picture of an explorer stands for it."
    if app.builder.name in ("singlehtml", "epub"):
        for raw in explorers_in(doctree).values():
            raw.parent.remove(raw)


MENDED = (  # what the theme and its parts write that HTML does not allow, or that a screen reader stumbles over
    (re.compile(r'(<summary) aria-label="Toggle hidden content"(>\s*)<p (.*?)</p>(\s*)<p (.*?)</p>'), r"\1\2<span \3</span>\4<span \5</span>"),
    (re.compile(r'\s+autocorrect="off"'), ""),
    (re.compile(r'(<button class="btn search-button-field[^"]*") title="Search" aria-label="Search"'), r"\1"),
    (re.compile(r'<div class="sidebar-primary-items__start sidebar-primary__section">'), '<div class="sidebar-primary-items__start sidebar-primary__section" role="navigation" aria-label="The book">'),
    (re.compile(r'(<i class="theme-switch [^>]*?)\s+title="[^"]*"'), r"\1"),
    (re.compile(r'<th class="head"><p></p></th>'), "<td></td>"),
    (re.compile(r' role="doc-biblioentry"'), ' role="listitem"'),
    (re.compile(r'alt="(\w+) logo"'), r'alt="The logo of \1, which runs this page"'),
)


def mend_pages(app, exception):
    if exception is None and app.builder.name == "html":
        for page in Path(app.outdir).rglob("*.html"):
            text = mended = page.read_text(encoding="utf8")
            for pattern, better in MENDED:
                mended = pattern.sub(better, mended)
            if mended != text:
                page.write_text(mended, encoding="utf8")


def copy_assets(app, exception):
    if exception is None and app.builder.format == "html":
        static = Path(app.outdir, "_static")
        shutil.copy(Path(__file__).with_name("book.css"), static)
        if not (static / FONT).exists():
            font = TTFont(files("ziamath") / "fonts/STIXTwoMath-Regular.ttf")
            font.flavor = "woff"
            font.save(static / FONT)


def setup(app):
    os.environ["QUANT101_BOOK"] = "1"  # for the kernels that run the notebooks
    app.connect("config-inited", name_repository)
    app.connect("builder-inited", no_launch_from_paper)
    app.connect("source-read", read_notebook)
    app.connect("env-get-outdated", reread_references)
    app.connect("doctree-resolved", bring_explorers)
    app.connect("doctree-resolved", leave_explorers_out)
    app.connect("html-page-context", picture_for_links, priority=400)  # before sphinxext.opengraph
    app.connect("build-finished", copy_assets)
    app.connect("build-finished", mend_pages)
    app.add_directive("api-entry", Entry)
    app.add_html_math_renderer("mathml", (write_formula, None), (write_formula, None))
    app.add_css_file("book.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
