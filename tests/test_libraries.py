"""What other libraries answer today, against what the book has recorded: each question fails on its own.

A failure here says that a library has changed, or answers differently on this machine, and names the words of the book
that need a look; `make record` writes the new answer down. The book itself can be built all the same.
"""

import json
import platform
import sys
from importlib.metadata import version

import pytest
from tests_support import ROOT, needs

sys.path.insert(0, str(ROOT / "tools"))
import record_libraries  # noqa: E402

RECORDED = json.loads(record_libraries.FILE.read_text(encoding="utf8"))
QUESTIONS = record_libraries.QUESTIONS


def test_every_question_is_answered_and_no_other():
    assert list(RECORDED) == list(QUESTIONS)
    assert all(set(RECORDED[name]["versions"]) == set(q.needs) for name, q in QUESTIONS.items())


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_words_that_hang_on_the_answer_stand_on_the_page(name):
    cells = json.loads((ROOT / "nbs" / QUESTIONS[name].page).read_text(encoding="utf8"))["cells"]
    assert any(QUESTIONS[name].hangs in "".join(cell["source"]) for cell in cells), QUESTIONS[name].page


@pytest.mark.parametrize("name", [pytest.param(name, marks=[needs(module) for module in q.needs]) for name, q in QUESTIONS.items()])
def test_answer_is_the_recorded_one(name):
    asked, recorded = QUESTIONS[name], RECORDED[name]
    if not asked.anywhere and platform.machine() not in (recorded["machine"], "AMD64"):
        pytest.skip(f"recorded on {recorded['machine']}, and another processor may answer differently")
    found = json.loads(json.dumps(asked.ask()))
    today = ", ".join(f"{module} {version(module)}" for module in asked.needs)
    then = ", ".join(f"{module} {number}" for module, number in recorded["versions"].items())
    assert same(found, recorded["answer"]), (
        f"{today} no longer answers what {then} did. In nbs/{asked.page} look at the words {asked.hangs!r}. "
        f"Then: {recorded['answer']}. Today: {found}")


def same(found, recorded) -> bool:
    "Whether two answers are equal, NaN being equal to NaN."
    return json.dumps(found, sort_keys=True) == json.dumps(recorded, sort_keys=True)
