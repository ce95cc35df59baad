"""Exercises are written once, as solutions; what a reader gets to fill in is cut out of them.

A cell that begins with `#| solution: true` has its solution between the lines `# your code` and `# end`. The stub is the same
cell without what stands between them, but for the names that the rest of the cell asks for. A page shows the stub, and under
it the solution, folded. A notebook to work in holds the stubs alone, each after its text, and before them the cell that begins
with `#| exercises` and imports what they need.
"""

import ast
import re

MARKS = re.compile(r"(.*?)^# your code\n(.*?)^# end\n(.*)", re.S | re.M)
SOLUTION, SETTING = "#| solution: true", "#| exercises\n"
TASK = re.compile(r"\*\*Exercise (\d+)\. (.+?)\.?\*\*\s*(.*)", re.S)
HINT = re.compile(r"^:::\{dropdown\} Hint\n(.*?)\n:::$", re.S | re.M)
HEADING = re.compile(r"^#{2,} (.+)", re.M)
INTRODUCTION = """# Exercises for “{title}”

Put your answer in the place of the dots and run the cell. The check says whether it is right, and if it is not, what it \
probably comes from. Try the hint only when you are stuck; the solutions stand in the chapter, folded under each exercise."""


def source_of(cell):
    return "".join(cell["source"])


def is_exercise(cell):
    "Whether a cell is a solution that a stub can be cut from."
    return cell["cell_type"] == "code" and source_of(cell).startswith(SOLUTION) and MARKS.match(source_of(cell)) is not None


def left_of(statement, lines, asked):
    "What a stub keeps of a statement of the solution: the head of a function, or the name of an answer; nothing of what is not asked for."
    if isinstance(statement, ast.FunctionDef):
        first = statement.body[1 if ast.get_docstring(statement) is not None else 0].lineno
        head = [line for line in lines[statement.lineno - 1:first - 1] if not line.lstrip().startswith("#")]
        return [*head, "    ...  # your code"] if statement.name in asked else []
    names = [node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    return [f"{name} = ...  # your answer" for name in names if name in asked]


def stub_of(source):
    "The cell of an exercise as a reader gets it. Raises ValueError if nothing is left to fill in."
    before, own, after = MARKS.match(source.removeprefix(SOLUTION).lstrip("\n") + "\n").groups()
    asked = {node.id for node in ast.walk(ast.parse(after)) if isinstance(node, ast.Name)}
    kept = [line for statement in ast.parse(own).body for line in left_of(statement, own.splitlines(), asked)]
    if not kept:
        raise ValueError(f"the cell asks for nothing that stands between its marks:\n{source}")
    return "\n".join([*before.splitlines(), *dict.fromkeys(kept), "", *after.strip("\n").splitlines()])


def without_marks(source):
    return re.sub(r"^# (your code|end)\n", "", source, flags=re.M)


def with_stubs(cells):
    "The cells of a page: before each solution stands its stub, and the marks are gone."
    for cell in cells:
        if is_exercise(cell):
            yield code(stub_of(source_of(cell)), cell)
            cell = cell | {"source": without_marks(source_of(cell))}
        yield cell


def code(source, cell):
    return {"cell_type": "code", "execution_count": None, "id": f"stub-{cell['id']}", "metadata": {}, "outputs": [], "source": source}


def markdown(source, cell):
    return {"cell_type": "markdown", "id": f"task-{cell['id']}", "metadata": {}, "source": source}


def text_of(cell, section):
    "The text of an exercise for a notebook: a heading, where it belongs, and a hint that Jupyter can fold."
    number, title, text = TASK.match(source_of(cell)).groups()
    text = HINT.sub(r"<details><summary>Hint</summary>\n\n\1\n\n</details>", text)
    place = "" if section == "Exercises" else f"*To the section “{section}”.*\n\n"
    return f"## {number}. {title}\n\n{place}{text.strip()}"


def to_work_in(notebook):
    "The exercises of a chapter as a notebook without solutions; None if it has none."
    cells, made, section = notebook["cells"], [], ""
    for cell in cells:
        if cell["cell_type"] == "markdown":
            if TASK.match(source_of(cell)):
                made.append(markdown(text_of(cell, section), cell))
            section = ([section, *HEADING.findall(source_of(cell))])[-1]
        elif is_exercise(cell):
            made.append(code(stub_of(source_of(cell)), cell))
        elif source_of(cell).startswith(SETTING):
            made.append(code(source_of(cell).removeprefix(SETTING), cell))
    if not any(cell["cell_type"] == "markdown" for cell in made):
        return None
    first = next(cell for cell in cells if cell["cell_type"] == "markdown")
    title = re.match(r"# (.+)", source_of(first))[1]
    return notebook | {"cells": [markdown(INTRODUCTION.format(title=title), first), *made]}
