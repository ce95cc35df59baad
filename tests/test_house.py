"""The rules of the house: one source, clean notebooks, reading order, kernels, packaging, workflows."""

import ast
import importlib
import importlib.metadata
import inspect
import json
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from fastcore.docments import docments
from packaging.specifiers import SpecifierSet
from tests_clock import assertions_on_times
from tests_support import MODULES, NOTEBOOKS, ROOT, code_cells, module_name, public_names, run

sys.path.insert(0, str(ROOT / "_ext"))
import quant101_book  # noqa: E402

TEXT = {".md", ".py", ".ipynb", ".toml", ".ini", ".yml", ".cff", ".txt", ".bib", ".css"}


def text_files():
    "The text files of this folder but those that are made, named in .gitignore; an unpacked archive has no git to ask."
    made = [".git", *(line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf8").splitlines())]
    inside = [(p, p.relative_to(ROOT).parts) for p in ROOT.rglob("*") if p.suffix in TEXT]
    return [p for p, parts in inside if p.is_file() and not any(fnmatch(part, name) for part in parts for name in made)]


# No time is judged

RACES = ("race", "event", "elementwise", "bandwidth", "first_calls", "entropy", "ladder", "extras")  # of quant101.bench: they return times


@pytest.mark.parametrize("path", [*NOTEBOOKS, *sorted((ROOT / "tests").glob("*.py"))], ids=lambda p: p.name)
def test_no_assertion_judges_a_time_that_is_measured_here(path):
    source = path.read_text(encoding="utf8") if path.suffix == ".py" else "\n".join(code_cells(path))
    assert assertions_on_times(source, RACES) == []


CLOCK = """
def best_time(call):
    start = perf_counter()
    call()
    return perf_counter() - start

"""


@pytest.mark.parametrize("lines", [
    # cells 7, 58 and 64 of chapter 7 as they stood once, which ended the build on other processors
    """speeds = {}
def measure(name, call):
    speeds[name] = 1 / best_time(call)
measure("loops", sum)
assert speeds["loops"] > 10_000 * speeds["Python"]""",
    "speeds = {name: 1 / best_time(sum) for name in names}\nassert kind == 'portable' or speeds[kind] > 2 * speeds['float32, NumPy']",
    """reached = []
for n in rows:
    reached.append(n / best_time(lambda: product(n)))
tall = 8 / best_time(lambda: product(8))
assert instruction.rows < 8 or reached[0] > 1.5 * tall""",
    "results = race(contestants)\nratio = ratios(results, 'fast')\nassert 2 < ratio['slow']['median'] < 6",
    "first, second = best_time(f), best_time(f)\nnp.testing.assert_array_less(second, first)",
])
def test_an_assertion_on_a_time_is_found(lines):
    assert len(assertions_on_times(CLOCK + lines, RACES)) == 1


@pytest.mark.parametrize("lines", [
    "x = best_time(f)\nx = 3\nassert x > 2", "times = [best_time(f)]\nassert len(times) > 0 and times[0] > 0",
    "recorded = load_record('bench')\nhere = best_time(f)\nassert recorded['fast'] > 4 * recorded['slow']",
    "for name, speed in {'a': best_time(f)}.items():\n    assert name < 'b'",
])
def test_what_is_no_judgement_of_a_time_passes(lines):
    assert assertions_on_times(CLOCK + lines, RACES) == []


# One source


def test_package_is_what_the_notebooks_export(tmp_path):
    for part in ("nbs", "quant101", "settings.ini", "README.md"):
        source, target = ROOT / part, tmp_path / part
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    run("-c", "from nbdev.doclinks import nbdev_export; nbdev_export()", cwd=tmp_path)
    run("-c", "from nbdev.clean import nbdev_clean; nbdev_clean()", cwd=tmp_path)
    for path in [*(ROOT / "quant101").rglob("*.py"), *NOTEBOOKS]:
        again = (tmp_path / path.relative_to(ROOT)).read_text(encoding="utf8")
        assert again == path.read_text(encoding="utf8"), f"{path.name} is not what `make export` makes"


def test_one_notebook_one_module():
    exported = [module for nb in NOTEBOOKS if (module := exported_module(nb))]
    assert sorted(exported) == sorted(map(module_name, MODULES))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebook_is_clean(path):
    notebook = json.loads(path.read_text(encoding="utf8"))
    assert set(notebook["metadata"]) == {"kernelspec"}
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}, "tags belong in `#|` lines"
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    cells = code_cells(path)
    assert max(len(c.splitlines()) for c in cells) <= 25
    assert sum("#| hide" in c for c in cells) <= 8
    assert not any(re.search(r"import \*|filterwarnings|^!|%pip", c, re.M) for c in cells)


def test_the_book_runs_every_notebook_and_stops_at_an_error():
    "Before `make test` comes the book, so notebooks are not run a second time; that each is in its contents is tested below."
    assert yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf8"))["execute"] == {"execute_notebooks": "cache", "timeout": 300, "raise_on_error": True}


# Three layers, and arrows only go down: tools stand on everything, a chapter on the workshop and on earlier chapters,
# a room of the workshop on the rooms before it. The table of contents says which is which, and in what order.

PARTS = {"The workshop": "workshop", "The course": "course", "In a hurry": "references", "Tools": "tools", "Measured": "tools", "References": "references"}


class Page(NamedTuple):
    part: str  # its caption in the table of contents
    module: str | None  # what it exports
    imported: set  # modules that its cells and its module import; "" stands for the package as a whole


def exported_module(notebook):
    return next((m[1] for c in code_cells(notebook) if (m := re.match(r"#\| default_exp ([\w.]+)", c))), None)


def imports(source, package="quant101"):
    return {name.removeprefix("quant101").removeprefix(".") for name in quant101_book.imported_modules(source, package)}


def contents():
    "Captions and files of the table of contents, in its order."
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf8"))
    return [(part["caption"], chapter["file"]) for part in toc["parts"] for chapter in part["chapters"]]


def pages():
    for part, file in contents():
        notebook = ROOT / f"{file}.ipynb"
        if notebook.exists():
            module = exported_module(notebook)
            lesson = [c for c in code_cells(notebook) if not c.startswith(("%", "#| exercises", "#| solution"))]  # exercises may ask the checks
            imported = set().union(*map(imports, lesson))
            if module:
                path = ROOT / f"quant101/{module.replace('.', '/')}.py"
                imported |= imports(path.read_text(encoding="utf8"), ".".join(path.relative_to(ROOT).parent.parts))
            yield Page(part, module, imported)


def arrows_that_go_up(pages):
    "Every import that does not go down, as (page, module)."
    pages = [page._replace(imported=page.imported - {page.module}) for page in pages]
    rooms, chapters, tools = ([p.module for p in pages if PARTS.get(p.part) == layer] for layer in ("workshop", "course", "tools"))
    found = []
    for page in pages:
        below = {"workshop": rooms[: rooms.index(page.module)] if page.module in rooms else [],
                 "course": [*rooms, *(chapters[: chapters.index(page.module)] if page.module in chapters else [])],
                 "tools": ["", *rooms, *chapters], "references": ["", *rooms, *chapters, *tools]}[PARTS[page.part]]
        found += [(page.module, name) for name in sorted(page.imported - set(below))]
    return found


def test_arrows_only_go_down():
    assert arrows_that_go_up(pages()) == []


def test_an_arrow_that_goes_up_would_be_seen():
    room, next_room = Page("The workshop", "workshop.a", set()), Page("The workshop", "plots", {"workshop.a"})
    chapter, next_chapter = Page("The course", "one", {"workshop.a", "plots"}), Page("The course", "two", {"one", "plots"})
    tool = Page("Measured", "bench", {"", "one", "two", "workshop.a"})
    assert arrows_that_go_up([chapter, next_chapter, room, next_room, tool]) == []  # the course is read before the workshop

    for page, name in ((room, "one"), (room, "plots"), (room, ""), (room, "bench"), (chapter, "two"), (chapter, ""), (chapter, "bench")):
        wrong = [p._replace(imported=p.imported | {name}) if p is page else p for p in (chapter, next_chapter, room, next_room, tool)]
        assert arrows_that_go_up(wrong) == [(page.module, name)]


def test_a_relative_import_is_one_of_the_package():
    assert imports("from .arrays import a", "quant101.workshop") == {"workshop.arrays"}
    assert imports("from .workshop.arrays import a") == imports("from quant101.workshop import arrays") == {"workshop.arrays"}
    assert imports("from ..steps import a", "quant101.workshop") == imports("from . import steps") == {"steps"}
    assert imports("import quant101 as q\nimport numpy") == {""}


def test_every_notebook_has_its_place():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf8"))
    files = [toc["root"], *(file for _, file in contents())]
    assert {p.relative_to(ROOT).with_suffix("").as_posix() for p in NOTEBOOKS} <= set(files) and len(set(files)) == len(files)
    assert {page.module for page in pages()} - {None} == set(map(module_name, MODULES))
    assert files[1] == "nbs/01_dtypes"  # what "next" on the landing page opens


# Kernels and public functions


def jit_calls(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        for decorator in getattr(node, "decorator_list", []):
            call = decorator if isinstance(decorator, ast.Call) else ast.Call(decorator, [], [])
            if re.search(r"\b(njit|jit|vectorize|guvectorize|stencil)\b", ast.unparse(call.func)):
                yield node, call


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_kernels_obey_the_rules(path):
    for function, call in jit_calls(path):
        options = {k.arg for k in call.keywords}
        assert not options & {"fastmath", "cache", "forceobj"}, f"{function.name}: {options}"
        assert function.name.startswith("_"), f"{function.name}: the public face is plain Python"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_public_names_are_documented(path):
    module = importlib.import_module(f"quant101.{module_name(path)}")
    for name in module.__all__:
        thing = getattr(module, name)
        if callable(thing) and getattr(thing, "__module__", "") == module.__name__:
            assert thing.__doc__ and thing.__doc__.strip(), f"{name} has no docstring"
            if inspect.isfunction(thing):  # an object that can be called is documented by its class
                rest = {p.name for p in inspect.signature(thing).parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
                missing = [k for k, v in docments(inspect.unwrap(thing)).items() if v is None and k != "return" and k not in rest]
                assert not missing, f"{name}: no docment for {missing}"


# A chapter's page is prose, formulas and short public functions; all else stands once, in the workshop

CHAPTERS = ("dtypes", "steps", "strategies", "calibration", "symmetry", "atlas", "matmul", "integer")


def body_lines(function):
    "Lines of a function's body, from the first statement after the docstring to the last."
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def machinery(source):
    "What a chapter's module holds besides scalar kernels, constants, classes and short public functions."
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("_"):
            bare = [ast.unparse(d) for d in node.decorator_list] == ["njit"]
            found += [node.name] if not bare or body_lines(node) > 8 else []
        elif isinstance(node, ast.ClassDef) and node.name.startswith("_"):
            found.append(node.name)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            functions = [f for f in ast.walk(node) if isinstance(f, ast.FunctionDef)]
            found += [f.name for f in functions if body_lines(f) > 10]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):  # a constant; a lambda would be a function in disguise
            found += [ast.unparse(node)] if isinstance(node.value, ast.Lambda) else []
    return found


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_holds_no_machinery(chapter):
    assert machinery((ROOT / f"quant101/{chapter}.py").read_text(encoding="utf8")) == []


def test_machinery_would_be_seen():
    kernel, longer = "@njit\ndef _k(x):\n" + 7 * "    x += 1\n" + "    return x\n", "    x += 1\n"
    assert machinery(kernel + "_TABLE = {1: 2}\ndef f(x):\n    'Doc.'\n" + 10 * "    x += 1\n") == []
    for source in (kernel + longer, kernel.replace("@njit", "@njit(nogil=True)"), "def _h(x):\n    return x\n", "class _C:\n    pass\n"):
        assert machinery(source)
    assert machinery("def f(x):\n" + 11 * longer) == ["f"] and machinery("_f = lambda x: x\n")


def test_no_private_helper_stands_twice():
    names = {}
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name.startswith("_"):
                names.setdefault(node.name, []).append(module_name(path))
    assert {name: modules for name, modules in names.items() if len(modules) > 1} == {}


WITHOUT_A_FORMULA = {"as_real_array", "instruction_set", "instruction_alone", "tile_assembly", "worth_it"}  # they check, choose, compile, time


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_public_functions_say_what_they_raise_and_where_their_formula_comes_from(chapter):
    module = importlib.import_module(f"quant101.{chapter}")
    functions = {name: f for name in module.__all__ if inspect.isfunction(f := getattr(module, name)) and f.__module__ == module.__name__}
    assert functions
    for name, function in functions.items():
        said = " ".join(function.__doc__.split())
        assert re.search(r"\bRaises?\b", said), f"{name} does not say what it raises"
        if name not in WITHOUT_A_FORMULA:
            assert re.search(r"\bSource: \w", said), f"{name} names no source"


# The API reference


def examples():
    "What stands in an `#| api:` line of the reference, with the lines of its example."
    for cell in code_cells(ROOT / "nbs/api.ipynb"):
        if named := re.match(r"#\| api: (.+)", cell):
            lines = [line for line in cell.splitlines() if not line.startswith("#|")]
            yield from ((name, lines) for name in named[1].split())


def test_every_public_name_has_an_example():
    found, short = dict(examples()), {"plots", "check", "bench"}  # these are listed in short, with one example each
    missing = [name for name, module, _ in public_names() if (module if module in short else name) not in found]
    assert not missing, f"nbs/api.ipynb has no example for {missing}"
    assert set(found) == short | {name for name, module, _ in public_names() if module not in short}
    assert len(found) == len(list(examples())), "a name has two entries"
    assert all(1 <= len(lines) <= 4 for lines in found.values())


def test_the_reference_is_in_the_order_of_the_chapters():
    homes = {name: module for name, module, _ in public_names()}
    order = list(dict.fromkeys(homes.get(name, name) for name, _ in examples()))
    chapters = [page.module for page in pages() if page.part == "The course"]
    assert [module for module in order if module in chapters] == order[: len(chapters)] == chapters


def test_the_reference_is_made_again_when_a_docstring_changes():
    read = quant101_book.package_files("\n".join(code_cells(ROOT / "nbs/api.ipynb")))
    assert {ROOT / f"quant101/{module}.py" for _, module, _ in public_names()} <= set(read)


def sources():
    "What the docstrings of the package cite: (module, family name of the first author, year)."
    for path in MODULES:
        for text in re.findall(r"Source:.*?(?:\"\"\"|\"$)", path.read_text(encoding="utf8"), re.S | re.M):
            yield from ((path.stem, *found) for found in re.findall(r"([A-Z]\w+)(?: et al\.| and [\w ]+?)? ((?:19|20)\d\d)\b", text))


def test_sources_stand_in_the_references():
    entries = re.findall(r"author = {(.*?)}, title.*?year = {(\d+)}", (ROOT / "references.bib").read_text(encoding="utf8"))
    known = {(re.split(r" and ", authors)[0].split(",")[0].strip("{}"), year) for authors, year in entries}
    cited = set(sources())
    assert {("dtypes", "Micikevicius", "2022"), ("matmul", "Goto", "2008")} <= cited
    assert {(author, year) for _, author, year in cited} <= known


def test_plain_import_is_light():
    code = "import sys, quant101; print([m for m in ('matplotlib','sklearn','torch','onnxruntime','ml_dtypes','IPython','nbdev') if m in sys.modules])"
    assert run("-c", code).strip() == "[]"


# The tests of the tests


def test_every_mutant_can_be_made():
    sys.path.insert(0, str(ROOT / "tools"))
    import mutants

    faults = {m["name"]: why for m in mutants.mutants() if (why := mutants.fault(m))}
    assert faults == {}


# What is handed out


def test_wheel_holds_the_package_and_installs_in_an_empty_environment(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".venv", ".git", "_build", "build", "*.egg-info", ".*cache", ".hypothesis"))
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source))
    wheel = next(tmp_path.glob("*.whl"))
    names = [n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n]
    package = [p for p in (ROOT / "quant101").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert sorted(names) == sorted(p.relative_to(ROOT).as_posix() for p in package)
    venv.create(tmp_path / "env", with_pip=True)
    python = next(p for p in (tmp_path / "env").glob("*/python*") if p.stem == "python" and p.parent.name in ("bin", "Scripts"))
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel], check=True, cwd=tmp_path)
    tour = tmp_path / "tour.py"
    tour.write_text(readme_tour(), encoding="utf8")
    subprocess.run([python, tour], check=True, cwd=tmp_path)


def readme_tour():
    return re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf8"), re.S)[1]


def test_readme_shows_the_tour_that_the_landing_page_runs():
    tour = "\n".join(c for c in code_cells(ROOT / "nbs/index.ipynb") if not c.startswith("#|"))
    assert readme_tour().strip() == tour.strip()
    assert len([line for line in tour.splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_paths_that_are_named_exist(name):
    text = (ROOT / name).read_text(encoding="utf8")
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    paths = {p for p in re.findall(r"`([\w./-]+)`|\]\(([\w./-]+)\)", prose) for p in p if "/" in p or re.search(r"\.(md|ini|toml|txt|yml|ipynb|py|cff|bib)$", p)}
    assert paths
    missing = {p for p in paths if not (ROOT / p).exists() and not p.startswith(("_build/", ".venv"))}
    assert not missing
    targets = " ".join(re.findall(r"^([a-z ]+):", (ROOT / "Makefile").read_text(encoding="utf8"), re.M)).split()
    assert set(re.findall(r"`make (\w+)", text)) <= set(targets)


def test_constraints_pin_by_version_alone():
    lines = [x for x in (ROOT / "constraints.txt").read_text(encoding="utf8").splitlines() if not x.startswith("#")]
    assert lines and all(re.fullmatch(r"[\w.\-]+==[\w.!+]+", x) for x in lines)


def test_every_pin_installs_on_the_lowest_python():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]["requires-python"]
    lowest = re.fullmatch(r">=(3\.\d+)", declared)[1] + ".0"
    judged = 0
    for name, version in (x.split("==") for x in (ROOT / "constraints.txt").read_text(encoding="utf8").splitlines() if not x.startswith("#")):
        try:
            metadata = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:  # of another extra or another Python
            continue
        assert metadata["Version"].split("+")[0] == version, f"{name} is not what constraints.txt pins"
        asked = metadata.get("Requires-Python", "")  # not all say
        assert SpecifierSet(asked).contains(lowest), f"{name} {version} asks for Python {asked}"
        judged += 1
    assert judged > 100


def test_owner_and_repository_stand_in_settings_alone():
    settings = quant101_book.read_settings()
    address = f"github.com/{settings['user']}"
    written = [p for p in text_files() if p.name != "_modidx.py"]  # nbdev writes that one
    assert len(written) > 50
    found = [p.name for p in written if address in p.read_text(encoding="utf8")]
    assert found == []


# Workflows

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_workflow_is_valid_and_pinned(path):
    run("-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path))
    text = path.read_text(encoding="utf8")
    used = re.findall(r"uses: (\S+)", text)
    assert used and all(re.search(r"@([0-9a-f]{40}|v\d+\.\d+\.\d+)$", u) for u in used)
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}


def test_workflows_are_four():
    assert [p.stem for p in WORKFLOWS] == ["book", "check", "nightly", "release"]


# The execution cache of the book


def test_the_cache_key_covers_what_a_chapter_imports_and_nothing_else(tmp_path, monkeypatch):
    package = tmp_path / "quant101"
    package.mkdir()
    (package / "__init__.py").write_text("from quant101.last import c\n")
    (package / "first.py").write_text("a = 1\n")
    (package / "second.py").write_text("from .first import a\n")  # as nbdev writes it
    (package / "last.py").write_text("c = 3\n")
    room = package / "workshop"
    room.mkdir()
    (room / "tools.py").write_text("d = 4\n")
    (room / "loops.py").write_text("from .tools import d\n")
    (package / "fourth.py").write_text("from .workshop.loops import d\n")
    monkeypatch.setattr(quant101_book, "ROOT", tmp_path)

    def names(source):
        return {p.stem for p in quant101_book.package_files(source)}

    assert names("import numpy") == set()
    assert names("from quant101.second import a") == {"first", "second"}
    assert names("from quant101 import second") == {"first", "second"}
    assert names("import quant101 as q") == {"__init__", "last"}
    assert names("from quant101.fourth import d") == {"fourth", "loops", "tools"}
    assert names("from quant101.workshop import tools") == {"tools"}
    (package / "check.py").write_text("from .last import c\n")  # stands on everything, and what it says of a chapter does not
    assert names("from quant101 import check") == {"check"}


def test_plain_import_gives_every_name_of_the_chapters():
    package = importlib.import_module("quant101")
    apart = {"plots", "samples", "explorers", "transformer", "scale", "check", "cli", "bench"}
    for module in (importlib.import_module(f"quant101.{m.stem}") for m in MODULES if m.stem not in apart and m.parent == ROOT / "quant101"):
        for name in module.__all__:
            assert getattr(package, name) is getattr(module, name)


def test_the_picture_of_the_readme_is_drawn_from_the_samples(tmp_path):
    code = f"import sys; sys.path.insert(0, 'tools'); import draw_picture; draw_picture.main({str(tmp_path / 'again.svg')!r})"
    run("-c", code)
    pictures = [p.read_text(encoding="utf8") for p in (ROOT / ".github/outliers.svg", tmp_path / "again.svg")]
    number = r"-?\d+\.\d+"
    assert re.sub(number, "", pictures[0]) == re.sub(number, "", pictures[1])
    kept, again = (np.array(re.findall(number, p), float) for p in pictures)
    np.testing.assert_allclose(kept, again, atol=0.01)
