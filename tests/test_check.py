"""The exercises: what a check says of stubs, solutions and wrong answers, and the notebooks that are cut out of the solutions."""

import contextlib
import io
import json
import math
import re
import symtable
import sys

import nbformat
import numpy as np
import pytest
from tests_support import ROOT, run

import quant101 as q
from quant101 import check

sys.path.insert(0, str(ROOT / "_ext"))
import quant101_exercises  # noqa: E402
from quant101_exercises import SETTING, SOLUTION, TASK, is_exercise, source_of, stub_of, to_work_in, without_marks  # noqa: E402

CHAPTERS = sorted((ROOT / "nbs").glob("0*.ipynb"))
EXERCISES = {name: one for name in check.__all__ if isinstance(one := getattr(check, name), check.Question | check.Task)}
QUESTIONS = {name: one for name, one in EXERCISES.items() if isinstance(one, check.Question)}
TASKS = {name: one for name, one in EXERCISES.items() if isinstance(one, check.Task)}
chapters = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda p: p.stem)
exercises = pytest.mark.parametrize("name", EXERCISES)
questions = pytest.mark.parametrize("name", QUESTIONS)
tasks = pytest.mark.parametrize("name", TASKS)


def cells_of(chapter):
    return json.loads(chapter.read_text(encoding="utf8"))["cells"]


def verdicts(sources, monkeypatch):
    "What the checks say, as (name, verdict), when code is run in a namespace of its own."
    said, names = [], {id(one): name for name, one in EXERCISES.items()}
    monkeypatch.setattr(check._Exercise, "__call__", lambda exercise, *answer: said.append((names[id(exercise)], exercise.judge(*answer))))
    space = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for source in sources:
            exec(compile(source, "cell", "exec"), space)
    return said


# The chapters


def test_there_are_enough_of_them_and_each_stands_in_one_place():
    asked = [re.findall(r"^check\.(\w+)\(", source_of(c), re.M) for chapter in CHAPTERS for c in cells_of(chapter) if is_exercise(c)]
    assert all(len(names) == 1 for names in asked)
    assert sorted(names[0] for names in asked) == sorted(EXERCISES)
    assert len(EXERCISES) >= 40 and len(CHAPTERS) == 8


@chapters
def test_a_chapter_has_its_exercises_where_they_are_needed(chapter):
    cells = cells_of(chapter)
    texts = [i for i, c in enumerate(cells) if c["cell_type"] == "markdown" and TASK.match(source_of(c))]
    assert len(texts) >= 5
    assert [int(TASK.match(source_of(cells[i]))[1]) for i in texts] == list(range(1, len(texts) + 1))
    assert all(is_exercise(cells[i + 1]) for i in texts) and sum(map(is_exercise, cells)) == len(texts)
    assert all(len(quant101_exercises.HINT.findall(source_of(cells[i]))) == 1 for i in texts)
    end = next(i for i, c in enumerate(cells) if "## Exercises" in source_of(c))
    assert 2 * sum(i < end for i in texts) > len(texts)


def globals_of(source):
    "Names that a cell binds at its top, and the global names that it reads anywhere."
    top = symtable.symtable(source, "cell", "exec")
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    read, todo = {s.get_name() for s in top.get_symbols() if s.is_referenced()}, list(top.get_children())
    while todo:
        table = todo.pop()
        todo += table.get_children()
        read |= {s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced()}
    return bound, read


@chapters
def test_no_lesson_depends_on_what_an_exercise_leaves_behind(chapter):
    left = set()
    for cell in cells_of(chapter):
        source = source_of(cell)
        if cell["cell_type"] == "code" and not source.startswith(("%", SETTING)):
            bound, read = globals_of(source)
            if source.startswith(SOLUTION):
                left |= bound
            else:
                assert not (read - bound) & left, source
                left -= bound


@chapters
def test_the_empty_stubs_fail_and_the_solutions_pass(chapter, monkeypatch):
    cells = cells_of(chapter)
    setting = [source_of(c) for c in cells if source_of(c).startswith(SETTING)]
    solved = [source_of(c) for c in cells if is_exercise(c)]
    assert len(setting) == 1
    for sources, kind in ((map(stub_of, solved), "nothing yet"), (solved, "right")):
        said = verdicts([*setting, *sources], monkeypatch)
        assert len(said) == len(solved) and {name: verdict for name, verdict in said if verdict.kind != kind} == {}


# Wrong answers


def answer_of(question, slip):
    "A wrong answer, with right parts where a slip leaves them open."
    def choice(right):
        return right.high if isinstance(right, check._Between) else sorted(right)[0] if isinstance(right, frozenset) else right

    slip, right = check._value(slip), check._value(question.right)
    if not isinstance(slip, list):
        return slip
    return [choice(r) if s is check._ANY else s for s, r in zip(slip, right)]


@questions
def test_every_wrong_answer_to_a_question_is_named_with_what_it_leads_to(name):
    question = QUESTIONS[name]
    assert len(question.slips) >= 2 and len({says for _, says in question.slips}) == len(question.slips)
    for slip, says in question.slips:
        answer = answer_of(question, slip)
        verdict = question.judge(answer)
        assert verdict.kind == "slip" and verdict.text == f"{check._shown(answer)}: {says}"


@tasks
def test_every_slip_of_a_function_is_named_with_what_it_leads_to(name):
    task = TASKS[name]
    assert len(task.slips) >= 2 and len({says for _, says in task.slips}) == len(task.slips)
    for slip, says in task.slips:
        for function in slip if isinstance(slip, tuple) else (slip,):
            verdict = task.judge(function)
            assert verdict.kind == "slip" and verdict.text.endswith(says)
            assert verdict.text.startswith("Given ") and " was expected. " in verdict.text


@tasks
def test_every_specification_passes_and_no_case_is_changed_by_it(name):
    verdict = TASKS[name].judge(TASKS[name].right)
    assert verdict.kind == "right" and TASKS[name].shows in verdict.text
    assert len(TASKS[name].cases()) >= 4


@exercises
def test_nothing_is_answered_by_nothing(name):
    one = EXERCISES[name]
    empty = (..., None, [..., ...]) if name in QUESTIONS else (..., None, lambda *args: None, lambda *args: ...)
    assert {one.judge(answer).kind for answer in empty} == {"nothing yet"}
    assert "nothing" in one.judge(...).text.lower()


def said_words(question, answer, text):
    "Right parts of an answer that a text says although the answer does not have them; 0 and 1 are in every text."
    right = check._value(question.right)
    pairs = zip(answer, right) if isinstance(right, list) else [(answer, right)]
    parts = [r for g, r in pairs if not check._same(g, r, question.tolerance) and not (isinstance(right, list) and r in (0, 1))]
    words = [w for r in parts for w in (r if isinstance(r, frozenset) else [r]) if not isinstance(w, check._Between)]
    shown = [w if isinstance(w, str) else check._shown(w) for w in (*words, right) if not isinstance(w, list) or len(w) > 2]
    return [w for w in shown if re.search(rf"(?<![\w.,]){re.escape(w)}(?!\w|[.,]\d)", text)]


@questions
def test_no_message_says_the_right_answer(name):
    question = QUESTIONS[name]
    for slip, says in question.slips:
        assert said_words(question, answer_of(question, slip), says) == []
    right = check._value(question.right)
    odd = [777.25] * len(right) if isinstance(right, list) else 777.25
    verdict, names = question.judge(odd), "|".join(map(re.escape, question.parts))
    assert verdict.kind == "wrong" and said_words(question, odd, re.sub(names, "", verdict.text)) == []
    assert question.judge("banana").kind == question.judge([3, "x", 5, 6, 7, 9, 10, 11, 12]).kind == "form"


# The engine

HALVE = check.Task("Halve an array.", lambda x: (x // 2).astype(np.int8), lambda: [(np.array([4, 2]),), (np.array([3]),), (np.arange(6),)],
                   ((lambda x: x // 3, "You divided by 3."),), "Half of it.", dtype="int8")


@pytest.mark.parametrize(("function", "kind", "words"), [
    (lambda x: 1 / 0, "form", "Given x = [3], your function raised ZeroDivisionError: division by zero."),
    (lambda x: (x // 2).tolist(), "form", "Given x = [3], your function returned [1]; an array is expected, and this is of type list."),
    (lambda x: (x // 2)[None], "form", "Given x = [3], your function returned [[1]]; the shape (1,) is expected, and this has (1, 1)."),
    (lambda x: x // 2, "form", "Given x = [3], your function returned [1]; the codes are right, and their type is int64 where int8 is asked for: `astype` changes it."),
    (lambda x: np.floor_divide(x, 2, out=x), "form", "Given x = [3], your function returned [1] and changed its argument x. Work on a copy: whoever calls it still needs the original."),
    (lambda x: x // 3, "slip", "Given x = [4, 2], your function returned [1, 0]; [2, 1] was expected. You divided by 3."),
    (lambda x: x.astype(np.int8), "wrong", "Given x = [3], your function returned [3]; [1] was expected. 3 of 3 cases come out otherwise."),
    (lambda x: (x // 2).astype(np.int8), "right", "Right, in 3 cases. Half of it."),
    ("x // 2", "form", "A function is asked for, and this is of type str: give the function itself, without brackets."),
])
def test_each_kind_of_trouble_has_its_words(function, kind, words):
    assert HALVE.judge(function) == check.Verdict(kind, words)


def test_a_function_with_two_results_or_one_number_is_judged_by_its_form():
    assert "2 results are expected" in check.uint8_range.judge(lambda lo, hi: (hi - lo) / 255).text
    assert "one int is expected" in check.room.judge(lambda accumulator_bits, qmax: [1]).text
    assert "an array is expected" in check.to_signed.judge(lambda codes, zero_point: ([code - 128 for code in codes.tolist()], zero_point - 128)).text


def test_arguments_are_fresh_for_each_function():
    first = check.absmax.cases()
    check.absmax.judge(lambda x: x.fill(0))
    assert all(np.array_equal(a, b) for (a,), (b,) in zip(first, check.absmax.cases()))


def test_what_is_right_need_not_be_written_in_one_way():
    assert {check.split_by_hand.judge(a).kind for a in ([[7, 0, -4], [-7, 0, 1]], np.array([[7, 0, -4], [-7, 0, 1]]), ((7.0, 0, -4), [-7, 0, 1]))} == {"right"}
    assert check.pulled_out.judge("Rows", " columns").kind == check.amdahl.judge(np.float32(2.18)).kind == "right"
    assert check.absmax.judge(lambda x: np.array([round(v * 127 / max(map(abs, x))) for v in x], np.int8)).kind == "right"


@pytest.mark.parametrize(("call", "words"), [
    (lambda: check.absmax.judge(lambda x: np.clip(np.rint(x / np.abs(x).max() * 128), -128, 127).astype(np.int8)), "divided by 128"),
    (lambda: check.absmax.judge(lambda x: np.floor(x / (np.abs(x).max() / 127) + 0.5).astype(np.int8)), "round half up"),
    (lambda: check.uint8_codes.judge(lambda x, scale, zero_point: (np.rint(x / scale) + zero_point).astype(np.int64).astype(np.uint8)), "forgot to clamp"),
    (lambda: check.uint8_codes.judge(lambda x, scale, zero_point: np.rint(x / scale + zero_point).clip(0, 255).astype(np.uint8)), "before rounding"),
    (lambda: check.four_terms.judge(lambda a, z, packed, v: q.matmul_int8(a, packed) - z * packed.sums - v * a.sum(axis=1, keepdims=True, dtype=int) + 6 * z * v),
     "did not cut the sums"),
])
def test_slips_that_readers_make_are_found_in_their_own_code(call, words):
    assert words in call().text


def in_float32(w, factor=127.5):
    scale = np.maximum(np.abs(w).max(axis=1) / np.float32(factor), np.float32(2.0**-23))
    return np.clip(np.rint(w / scale[:, None]), -128, 127).astype(np.int8), scale


def by_float_products(x, w):
    a, b = (np.abs(v).max(axis=1, keepdims=True) for v in (x, w))
    return (np.rint(x / a * 127) @ np.rint(w / b * 127).T) * (a / 127) * (b / 127).T


@pytest.mark.parametrize(("name", "function"), [
    ("absmax", lambda x: np.rint(x / np.abs(x).max() * 127).astype(np.int8)),
    ("absmax", lambda x: np.clip(np.round(x * (127 / np.abs(x).max())), -127, 127).astype("int8")),
    ("absmax", lambda x: q.quantize(x.astype(np.float32), q.absmax_qparams(x.astype(np.float32)))),
    ("row_scales", lambda x: np.maximum(x.max(axis=1), -x.min(axis=1)) / 127),
    ("row_scales", lambda x: q.absmax_qparams(x.astype(np.float32), axis=0).scale),
    ("uint8_range", lambda lo, hi: ((hi - lo) / 255, int(np.rint(-lo * 255 / (hi - lo))))),
    ("uint8_range", lambda lo, hi: (np.float32(hi - lo) / np.float32(255), np.rint(0 - lo / ((hi - lo) / 255)))),
    ("uint8_codes", lambda x, scale, zero_point: q.quantize(x, q.QParams(scale, zero_point, 0, 255))),
    ("uint8_codes", lambda x, scale, zero_point: np.minimum(255, np.maximum(0, np.round(x * (1 / scale)) + zero_point)).astype(np.uint8)),
    ("any_range", lambda lo, hi: (lambda p: (float(p.scale), int(p.zero_point)))(q.asymmetric_qparams(lo, hi))),
    ("to_signed", lambda codes, zero_point: ((codes ^ 128).view(np.int8), zero_point - 128)),
    ("folded", lambda qw, zx, bias, sx, sw: (np.rint(bias / sx / sw) - zx * qw.sum(axis=1)).astype(np.int32)),
    ("threshold_for", lambda x, k: sorted(np.abs(x).max(axis=0))[-k]),
    ("safe_scale", lambda s: math.log2(s).is_integer()),
    ("parity", lambda z: bool(z & 1)),
    ("torch_weight", in_float32),
    ("linear", lambda x, w: q.linear_int8(x, q.pack_weights(q.quantize(w, q.absmax_qparams(w, axis=0)), q.absmax_qparams(w, axis=0)))),
    ("linear", by_float_products),
    ("bf16_code", lambda bits: int(q.encode(np.uint32(bits).view(np.float32), q.BF16))),
    ("rows_needed", lambda inputs, outputs, bandwidth, peak: math.ceil(peak * inputs * outputs / (2 * inputs * outputs * bandwidth - peak * (inputs + 4 * outputs)))),
    ("same_roundings", lambda real: math.frexp(real)[1] >= 0),
    ("entropy_threshold", lambda counts, width, levels: q.entropy_range(counts, np.arange(len(counts) + 1) * width, levels=levels)[1]),
    ("room", lambda accumulator_bits, qmax: (2 ** (accumulator_bits - 1) - 1) // qmax // qmax),
])
def test_a_right_function_passes_however_it_is_written(name, function):
    assert TASKS[name].judge(function).kind == "right", TASKS[name].judge(function).text


# The notebooks to work in

EXAMPLE = """#| solution: true
given = 3
# your code
def helper(x):
    return x

def asked(x, y):  # as it is called
    "What it does."
    # the secret
    return helper(x) + y

my_answer, other = 42, 43
assert my_answer == 42
# end
check.one(asked)
check.two(my_answer, given)
"""


def test_a_stub_keeps_what_is_given_and_what_is_asked_for_and_nothing_else():
    stub = stub_of(EXAMPLE)
    assert stub == ('given = 3\ndef asked(x, y):  # as it is called\n    "What it does."\n    ...  # your code\nmy_answer = ...  # your answer\n\n'
                    "check.one(asked)\ncheck.two(my_answer, given)")
    assert "# your code" not in without_marks(EXAMPLE) and "# end" not in without_marks(EXAMPLE)
    with pytest.raises(ValueError, match="asks for nothing"):
        stub_of(EXAMPLE.replace("check.one(asked)\ncheck.two(my_answer, given)", "check.two(given)"))


@chapters
def test_a_stub_with_its_solution_put_back_is_the_solution(chapter):
    for cell in filter(is_exercise, cells_of(chapter)):
        before, own, after = quant101_exercises.MARKS.match(source_of(cell).removeprefix(SOLUTION).lstrip("\n") + "\n").groups()
        stub = stub_of(source_of(cell))
        assert stub.startswith(before.rstrip("\n")) and stub.endswith(after.strip("\n"))
        kept = stub.removeprefix(before).removesuffix(after.strip("\n")).splitlines()
        heads = [line for line in kept if line and "  # your " not in line]
        assert all(line in own.splitlines() for line in heads) and sum("  # your " in line for line in kept) >= 1
        secret = [line for line in own.splitlines() if line.strip() and line not in heads]
        assert secret and not any(line in stub.splitlines() for line in secret)


@chapters
def test_a_notebook_to_work_in_runs_to_its_end_and_says_what_is_missing(chapter, monkeypatch):
    made = to_work_in(json.loads(chapter.read_text(encoding="utf8")))
    nbformat.validate(made)
    text = [source_of(c) for c in made["cells"] if c["cell_type"] == "markdown"]
    code = [source_of(c) for c in made["cells"] if c["cell_type"] == "code"]
    assert len(text) == len(code) >= 6 and text[0].startswith("# Exercises for “")
    assert all("<details><summary>Hint</summary>" in one and ":::" not in one and "](" not in one for one in text[1:])
    said = verdicts(code, monkeypatch)
    assert len(said) == len(code) - 1 and {verdict.kind for _, verdict in said} == {"nothing yet"}


def test_the_folder_is_made_and_answers_in_it_are_kept(tmp_path):
    run("tools/exercises.py", str(tmp_path))
    files = sorted(tmp_path.iterdir())
    assert [f.name for f in files] == [f"{c.stem}_exercises.ipynb" for c in CHAPTERS]
    files[0].write_text("my answers", encoding="utf8")
    files[1].unlink()
    assert "left alone" in run("tools/exercises.py", str(tmp_path))
    assert files[0].read_text(encoding="utf8") == "my answers" and files[1].exists()
    done = run("-m", "jupyter", "execute", "--inplace", str(files[4]), cwd=tmp_path, env=None)
    printed = [out["text"] for c in json.loads(files[4].read_text(encoding="utf8"))["cells"] for out in c.get("outputs", ())]
    assert len(printed) >= 5 and all("Nothing to check yet" in "".join(text) for text in printed), done
