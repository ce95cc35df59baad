"""The questions in the chapters: each answer is explained, each number is computed anew, and a browser checks them without a server."""

import json
import math
import re
import sys

import numpy as np
import pytest
from tests_support import ROOT, needs

import quant101
from quant101.samples import load_record, load_sample

sys.path.insert(0, str(ROOT / "_ext"))
import quant101_book  # noqa: E402
from quant101_questions import FENCE, number, questions_of, read_question  # noqa: E402

CHAPTERS = [ROOT / f"{name}.ipynb" for name in quant101_book.chapters()]
SAMPLES = ("ffn_input", "ffn_weight", "attention_weight", "attention_probs")
NAMES = {**vars(quant101), "np": np, "math": math, "load_record": load_record, **{name: load_sample(name) for name in SAMPLES}}


def cells_of(chapter):
    return json.loads(chapter.read_text(encoding="utf8"))["cells"]


QUESTIONS = [(chapter, question) for chapter in CHAPTERS for question in questions_of(cells_of(chapter))]
each = pytest.mark.parametrize("chapter, question", QUESTIONS, ids=[f"{c.stem}-{q.name}" for c, q in QUESTIONS])


def test_no_question_is_overlooked():
    text = "".join(chapter.read_text(encoding="utf8") for chapter in CHAPTERS)
    assert len(QUESTIONS) == text.count('":::{question}') > 70
    keys = [(chapter, question.name) for chapter, question in QUESTIONS]
    assert len(set(keys)) == len(keys), "progress is kept under chapter and name"


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_asks_on_its_way_and_at_its_end(chapter):
    "In each third of the way to the exercises, and in a quiz."
    sources = ["".join(cell["source"]) for cell in cells_of(chapter)]
    exercises, quiz = (next(i for i, s in enumerate(sources) if re.search(title, s, re.M)) for title in ("^## Exercises$", "^## Quiz$"))
    asked = [i for i, s in enumerate(sources) if FENCE.match(s)]
    on_the_way, at_the_end = [i for i in asked if i < exercises], [i for i in asked if i > quiz]
    assert len(on_the_way) >= 5 and 4 <= len(at_the_end) <= 5 and len(asked) == len(on_the_way) + len(at_the_end)
    words = np.cumsum([len(s.split()) for s in sources[:exercises]])
    assert {int(3 * words[i] / words[-1]) for i in on_the_way} >= {0, 1, 2}


def close(got, answer):
    "Whether a value is what an answer says, to the last digit that is written there."
    return abs(float(got) - answer.value) <= number(answer.text)[1] * (1 + 1e-9) + 1e-9 * abs(answer.value)


@each
def test_what_is_asked_can_be_computed(chapter, question):
    if not question.check:
        assert question.is_choice
        return
    found = eval(question.check, dict(NAMES))
    if question.is_choice:
        assert found is True or (isinstance(found, np.bool_) and found)
        return
    wrong = [(got, answer.text) for got, answer in zip(found, question.answers[:-1], strict=True) if not close(got, answer)]
    assert not wrong


@each
def test_no_answer_is_taken_for_another(chapter, question):
    numbers = [answer for answer in question.answers if answer.value is not None]
    for i, one in enumerate(numbers):
        for other in numbers[i + 1 :]:
            assert abs(one.value - other.value) > 1.01 * (one.tolerance + other.tolerance)
    texts = [answer.text for answer in question.answers]
    assert len(set(texts)) == len(texts)
    assert len({answer.said for answer in question.answers}) == len(texts) and min(len(answer.said) for answer in question.answers) > 25


def test_the_right_answer_has_no_place_of_its_own():
    "Who always takes the same choice is right no more often than by chance, roughly."
    places = [[a.right for a in q.answers].index(True) for _, q in QUESTIONS if q.is_choice]
    assert max(np.bincount(places)) < 0.5 * len(places)


GOOD = "How many?\n\n***\n\n- 4: Right. Two and two.\n- 5: One too many.\n- Otherwise: Count again."
CHOICE = "Which?\n\n1. This.\n2. That.\n\n***\n\n1. Not this one.\n2. Right. That."


def test_a_question_is_read():
    one = read_question("one", ":check: [2 + 2, 5]\n:unit: dB\n:tolerance: 0.5\n\n" + GOOD)
    assert (one.ask, one.unit, one.check, one.is_choice) == ("How many?", "dB", "[2 + 2, 5]", False)
    assert [(a.text, a.said, a.right, a.value, a.tolerance) for a in one.answers] == [
        ("4", "Two and two.", True, 4, 0.5), ("5", "One too many.", False, 5, 0), ("", "Count again.", False, None, 0)]
    two = read_question("two", CHOICE)
    assert two.is_choice and [(a.text, a.said, a.right) for a in two.answers] == [("This.", "Not this one.", False), ("That.", "That.", True)]
    assert [number(text) for text in ("−6.5", "65,504", "0.0394", "3.5e-9")] == [(-6.5, 0.05), (65504, 0), (0.0394, 0.5e-4), (3.5e-9, 0.5e-10)]


@pytest.mark.parametrize("text, why", [
    (GOOD, "a check"), (":check: [4, 5]\n" + GOOD.replace("Right. ", ""), "one answer is right"), (":hint: x\n" + GOOD, "no option hint"),
    (":check: [4, 5]\n" + GOOD.replace("- 5: One too many.\n", ""), "at least two"), (":check: [4, 5]\n" + GOOD.replace("- Otherwise: Count again.", ""), "Otherwise"),
    (CHOICE.replace("1. Not this one.\n", ""), "2 choices and 1 explanations"), (CHOICE.replace("***", ""), "one rule"),
    (CHOICE.replace("Not this one", "Right. It is"), "one answer is right"), (CHOICE.replace("Which?", ""), "something is asked"),
    (":check: [4, 5]\n" + GOOD.replace("- 4:", "- four:"), "is no number"), (":unit: dB\n" + CHOICE, "without unit"),
], ids=range(11))
def test_a_question_that_lacks_something_is_refused(text, why):
    with pytest.raises(ValueError, match=why):
        read_question("name", text)


# In a browser, from a file

PAGE = ROOT / "_build/html/nbs/01_dtypes.html"
TOTAL = sum(chapter.stem == PAGE.stem for chapter, _ in QUESTIONS)


@pytest.fixture
def tab(browser):
    context = browser.new_context(viewport={"width": 375, "height": 800})
    page = context.new_page()
    page.goto(PAGE.as_uri())
    yield page
    context.close()


def said(tab, name):
    return " ".join(tab.locator(f"#question-{name} .said").inner_text().split())


def progress(tab):
    return tab.locator(".q101.tally [role=status]").inner_text()


def kept(tab):
    return tab.evaluate("localStorage.getItem('quant101-answers')")


@needs("browser")
def test_questions_are_answered_by_keyboard_and_remembered(tab):
    field, keys = tab.locator("#question-three-in-fp16 input"), tab.keyboard
    assert progress(tab) == f"0 of {TOTAL} answered." and kept(tab) is None
    field.focus()
    keys.press("Enter")
    assert said(tab, "three-in-fp16") == "Write a number first." and kept(tab) is None
    keys.type("1536")
    keys.press("Enter")
    assert said(tab, "three-in-fp16").startswith("Not right. The bias is missing.") and progress(tab) == f"1 of {TOTAL} answered, 0 of them right."
    field.fill("77")
    keys.press("Tab")  # to the button
    keys.press("Space")
    assert said(tab, "three-in-fp16").startswith("Not right. First the largest power of two")
    keys.press("Shift+Tab")
    field.fill("16,896")
    keys.press("Enter")
    assert said(tab, "three-in-fp16").startswith("Right. 3") and progress(tab) == f"1 of {TOTAL} answered, 1 of them right."

    tab.locator("#question-two-ties input").first.focus()
    keys.press("Space")
    keys.press("Enter")
    assert said(tab, "two-ties").startswith("Not right. That is half up")
    keys.press("ArrowDown")
    keys.press("Enter")
    assert said(tab, "two-ties").startswith("Right. Of the two neighbours") and progress(tab) == f"2 of {TOTAL} answered, 2 of them right."

    tab.reload()
    assert progress(tab) == f"2 of {TOTAL} answered, 2 of them right." and field.input_value() == "16,896"
    assert tab.locator("#question-two-ties input").nth(1).is_checked() and said(tab, "two-ties").startswith("Right.")
    tab.get_by_role("button", name="Erase progress").focus()
    keys.press("Enter")
    assert progress(tab) == f"0 of {TOTAL} answered." and kept(tab) is None and said(tab, "two-ties") == field.input_value() == ""
    tab.reload()
    assert progress(tab) == f"0 of {TOTAL} answered."


@needs("browser")
def test_progress_of_other_chapters_is_left_alone_or_erased_with_the_rest(tab):
    tab.evaluate("""localStorage.setItem('quant101-answers', '{"02_steps/one": {"answer": "1", "right": true}}')""")
    tab.reload()
    tab.locator("#question-two-ties input").first.check()
    tab.locator("#question-two-ties .check").click()
    tab.get_by_role("button", name="Erase progress").click()
    assert list(json.loads(kept(tab))) == ["02_steps/one"]
    tab.get_by_role("button", name="Erase it in all chapters").click()
    assert kept(tab) is None


@needs("browser")
def test_what_is_kept_may_be_anything(tab):
    for text in ("no JSON", "null", "[]", '{"01_dtypes/two-ties": {"answer": "99"}, "01_dtypes/three-in-fp16": {"answer": "many"}}'):
        tab.evaluate("text => localStorage.setItem('quant101-answers', text)", text)
        errors = []
        tab.on("pageerror", lambda e: errors.append(str(e)))
        tab.reload()
        tab.locator("#question-two-ties input").nth(1).check()
        tab.locator("#question-two-ties .check").click()
        assert errors == [] and said(tab, "two-ties").startswith("Right.")


@needs("browser")
@pytest.mark.parametrize("written", ["16896", " 16 896 ", "16,896", "1.6896e4", "16896.0", "33792/2", "16.5*2^10", "16.5 · 2**10", "16,5 x 2^10", "+16896"])
def test_numbers_are_read_as_people_write_them(tab, written):
    tab.locator("#question-three-in-fp16 input").fill(written)
    tab.locator("#question-three-in-fp16 .check").click()
    assert said(tab, "three-in-fp16").startswith("Right.")


@needs("browser")
@pytest.mark.parametrize("written", ["", "many", "1 6 8 9 6 a", "16896 dB", "0x4200", "--3", "/"])
def test_what_is_no_number_is_no_answer(tab, written):
    tab.locator("#question-three-in-fp16 input").fill(written)
    tab.locator("#question-three-in-fp16 .check").click()
    assert said(tab, "three-in-fp16") == "Write a number first." and kept(tab) is None


@needs("browser")
def test_a_question_has_a_name_and_says_what_it_says(tab):
    group = tab.get_by_role("group", name=re.compile("Question 1 of"))
    assert "Write 3 in FP16" in group.inner_text() and group.get_by_role("textbox", name="Your answer").count() == 1
    assert tab.locator(".q101.ask").count() == tab.locator(".q101.ask fieldset > legend").count() == tab.locator(".q101.ask .said[role=status]").count() == TOTAL
    small = tab.evaluate("[...document.querySelectorAll('.q101 button, .q101 .choices label, .q101 input[type=text]')].filter(e => e.getBoundingClientRect().height && e.getBoundingClientRect().height < 24).length")
    wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert small == 0 and wide <= 0


@needs("browser")
@pytest.mark.parametrize("script", [True, False], ids=["on paper", "without script"])
def test_without_a_hand_everything_can_be_read(browser, script):
    context = browser.new_context(java_script_enabled=script)
    page = context.new_page()
    page.goto(PAGE.as_uri())
    if script:
        page.emulate_media(media="print")
    question = page.locator("#question-two-ties")
    assert question.locator(".asked").is_visible() and question.locator(".choices li").nth(3).is_visible()
    assert not question.locator("button").is_visible() and not question.locator("input").first.is_visible()
    assert question.locator("summary").is_visible() and not page.locator(".q101.tally").is_visible()
    if script:
        assert question.locator("details li").nth(1).bounding_box()["height"] > 10
    else:
        question.locator("summary").click()
        assert "goes to the even one" in question.locator("details li").nth(1).inner_text()
    context.close()
