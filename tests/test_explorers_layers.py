"""The explorers of chapters 3 and 4: what they show in a browser is what the package computes, to the last digit."""

import ast
import base64
import math
from functools import cache

import numpy as np
import pytest
from test_explorers import KINDS as OTHERS
from test_explorers import agrees, digits, explorer_page, fixed, read, show  # noqa: F401  explorer_page is a fixture
from tests_support import ROOT, code_cells

import quant101 as q
from quant101.explorers import _names
from quant101.samples import load_sample
from quant101.workshop.scales import check_pulled_out

pytestmark = pytest.mark.needs("browser")


class Groups:
    name = "groups"
    x, weight = load_sample("ffn_input"), load_sample("ffn_weight")
    data = {"x": x, "weight": weight}
    right = weight.T.astype(float)
    y = x.astype(float) @ right

    def state(self, rng):
        return {"share": str(rng.choice(["tensor", "row", "column", "group"])), "size": 8 * int(rng.integers(1, 49)), "threshold": float(rng.choice([1.5, 2, 3, 4.5, 6, 8, 15, 30])),
                "bits": int(rng.integers(2, 9)), "weight": bool(rng.integers(2))}

    def kept_and_rest(self, state):
        "The split, and with its scales, or others for the same rest, the input as it comes back."
        split, places = q.split_outliers(self.x, state["threshold"], state["bits"]), {"tensor": {}, "row": {"axis": 0}, "column": {"axis": 1}, "group": {"group_size": state["size"]}}
        rest = self.x.copy()
        rest[:, split.columns] = 0
        p = q.absmax_qparams(rest, state["bits"], **places[state["share"]])
        back = q.dequantize(q.quantize(rest, p), p)
        back[:, split.columns] = split.outliers
        assert state["share"] != "row" or np.array_equal(back, split.dequantize())
        return split, p, back

    def expected(self, state):
        split, p, back = self.kept_and_rest(state)
        right = self.right.copy()
        if state["weight"]:
            right = q.fake_quantize(self.weight.T, q.absmax_qparams(self.weight.T, axis=1)).astype(float)
            right[split.columns] = self.right[split.columns]
        output = fixed(q.sqnr_db(self.y, back.astype(float) @ right), 2)
        if state["weight"] and state["share"] == "row":
            assert output == fixed(q.sqnr_db(self.y, q.split_matmul(split, self.weight.T)), 2)
        scales, floats = 16 * p.scale.size / self.x.size, 8 * (split.outliers.nbytes + split.columns.nbytes) / self.x.size
        return {"input": fixed(q.sqnr_db(self.x, back), 2), "output": output, "bits": digits(state["bits"] + scales + floats, 4), "of_scales": digits(scales, 3),
                "of_outliers": digits(floats, 3), "scales": p.scale.size, "columns": split.columns.size, "sums": self.sums(state, p)}

    def sums(self, state, p):
        "One integer sum if the package pulls the scales out, of the product turned round, in which the input stands on the right; else one for each group."
        try:
            check_pulled_out(None if p.axis is None else 1 - p.axis, p.group_size, p.scale, p.zero_point, "x")
            return 1
        except ValueError:
            return p.scale.shape[-1] if state["share"] == "group" else "none"


class Clip:
    name, chapter = "clip", ROOT / "nbs/04_calibration.ipynb"
    x, weight, bias = (load_sample(name) for name in ("ffn_input", "ffn_weight", "ffn_bias"))
    first = np.cumsum([0, *load_sample("sentence_lengths")[:-1]])

    @cache  # one for all tests, since its data take a while
    def __new__(cls):
        self = super().__new__(cls)
        self.others = np.setdiff1d(np.arange(len(self.x)), self.first)
        self.wanted = self.answer(self.x, self.weight)
        self.tensors = {name: load_sample(name) for name in ("ffn_weight", "attention_weight", "attention_input", "ffn_input", "attention_probs")} | {"gelu(ffn output)": self.wanted}
        page = self.page_of_the_chapter()
        self.data, self.start = page.data, page.state
        return self

    def answer(self, x, weight):
        "The layer's answer as in the chapter, with its sums in float64, so that their order does not matter."
        return self.gelu((x.astype(float) @ weight.T.astype(float)).astype(np.float32) + self.bias)

    def gelu(self, v):
        return (0.5 * v * (1 + np.vectorize(math.erf)(v / math.sqrt(2)))).astype(np.float32)

    def page_of_the_chapter(self):
        "What the chapter's own cells put on the page."
        names = {"np": np, "x": self.x, "weight": self.weight, "bias": self.bias, "tensors": self.tensors, "first": self.first, "others": self.others, "gelu": self.gelu,
                 "symmetric": lambda lo, hi, bits=8: q.QParams(max(abs(lo), abs(hi)) / 127, 0, -127, 127), "fake_quantize": q.fake_quantize, "sqnr_db": q.sqnr_db, "MSE": q.MSE}
        *before, last = (cell for cell in code_cells(self.chapter) if 'layers = {"ffn_input"' in cell or 'explore("clip"' in cell)
        tree = ast.parse(last)
        for code in (*before, ast.unparse(ast.Module(tree.body[:-1], []))):
            exec(compile(code, "a cell of chapter 4", "exec"), names)
        return eval(compile(ast.Expression(tree.body[-1].value), "a cell of chapter 4", "eval"), names)

    def state(self, rng):
        return {"tensor": str(rng.choice(list(self.tensors))), "kept": int(rng.choice([rng.integers(128, 2048), 2048], p=[0.95, 0.05]))}

    def versions(self, name, threshold):
        "A tensor with a range up to a threshold, and which of it is clipped."
        values = self.tensors[name]
        return values, q.fake_quantize(values, q.QParams(threshold / 127, 0, -127, 127)), np.abs(values) > threshold

    def layer(self, name, y):
        got = self.answer(y, self.weight) if name == "ffn_input" else self.answer(self.x, y)
        return [q.sqnr_db(self.wanted[rows], got[rows]) for rows in (self.first, self.others)]

    def bins(self, name):
        sizes = np.abs(self.tensors[name])
        return np.histogram(sizes, 2048, range=(0, sizes.max()))

    def expected(self, state):
        name, kept = state["tensor"], state["kept"]
        counts, edges = self.bins(name)
        _, his, divergences = q.entropy_trace(counts, edges)
        threshold = float(edges[-1]) if kept == 2048 else float(his[kept - 128])
        values, y, outside = self.versions(name, threshold)
        rounding, clipping = (q.mse(values[part], y[part]) * part.mean() if part.any() else 0.0 for part in (~outside, outside))
        layer = [fixed(db, 2) for db in self.layer(name, y)] if name in ("ffn_input", "ffn_weight") else ["no layer here"] * 2
        return {"threshold": digits(threshold, 5), "clipped": int(outside.sum()), "share": digits(100 * outside.mean(), 3), "rounding": digits(rounding, 4), "clipping": digits(clipping, 4),
                "sum": digits(q.mse(values, y), 4), "db": fixed(q.sqnr_db(values, y), 2), "kl": "not tried" if kept == 2048 else in_words(divergences[kept - 128], 4), "first": layer[0], "others": layer[1]}


def in_words(value, count):
    return digits(value, count) if math.isfinite(value) else "∞"


KINDS = {kind.name: kind for kind in (Groups, Clip)}


def test_every_explorer_is_tested():
    assert {*OTHERS, *KINDS} == set(_names())


@pytest.mark.parametrize("name", KINDS)
def test_shows_what_the_package_computes(name, explorer_page):  # noqa: F811
    kind, rng = KINDS[name](), np.random.default_rng(0)
    page = explorer_page(name, kind.data, kind.state(rng))
    for _ in range(12):
        state = kind.state(rng)
        shown, expected = show(page, name, state), kind.expected(state)
        wrong = {key: (shown[key], value) for key, value in expected.items() if not agrees(shown[key], value)}
        assert not wrong and set(shown) == set(expected), (state, wrong)
    assert page.wrong == []
    page.close()


@pytest.mark.parametrize("name", KINDS)
def test_real_handles_lead_to_the_same_numbers(name, explorer_page):  # noqa: F811
    "The select, the sliders and the tick, by hand and by keyboard, on a screen as wide as a phone."
    kind, rng = KINDS[name](), np.random.default_rng(1)
    page = explorer_page(name, kind.data, kind.state(rng), 375)
    model = f"document.getElementById('explorer-{name}').model"
    for _ in range(3):
        wanted = kind.state(rng)
        for handle, value in wanted.items():
            control = page.locator(f".controls [name={handle}]")
            if isinstance(value, bool):
                control.set_checked(value)
            elif isinstance(value, str):
                control.select_option(value)
            elif control.is_enabled():
                control.fill(str(value))
                control.press("ArrowLeft" if value > float(control.get_attribute("min")) else "ArrowRight")
        state, shown = page.evaluate(f"{model}.get('state')"), page.evaluate(f"{model}.get('results')")
        assert state != wanted  # a key has moved each slider by one
        assert all(agrees(shown[key], value) for key, value in kind.expected(state).items()), state
        assert all(page.inner_text(f"[data-name={key}]") == text for key, text in shown.items())
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.wait_for_function("document.querySelector('[role=status]').textContent.length > 60")
    assert page.wrong == []
    page.close()


def test_scales_that_the_sum_does_not_let_out_have_red_lines(explorer_page):  # noqa: F811
    page = explorer_page("groups", Groups.data, {"share": "row", "size": 32, "threshold": 30, "bits": 8, "weight": True})
    for share, size, lines in (("tensor", 32, 0), ("row", 32, 0), ("column", 32, 383), ("group", 32, 11), ("group", 256, 1), ("group", 384, 0)):
        show(page, "groups", {"share": share, "size": size, "threshold": 30, "bits": 8, "weight": True})
        drawn = page.locator("path[stroke='var(--bad)']").get_attribute("d")
        assert (drawn or "").count("M") == lines
        assert ("cannot be pulled out" in page.inner_text(".stage strong")) == (lines > 0)
    page.close()


def test_the_figures_of_chapter_3_are_among_those_shown(explorer_page):  # noqa: F811
    page, state = explorer_page("groups", Groups.data, {"share": "row", "size": 32, "threshold": 30, "bits": 8, "weight": True}), {"size": 32, "bits": 8, "weight": True}
    told = {("tensor", 30): ("22.57", "24.28"), ("row", 30): ("30.67", "32.10"), ("row", 6): ("42.22", "42.28"), ("column", 30): ("43.68", None)}
    for (share, threshold), (before, after) in told.items():
        shown = show(page, "groups", {**state, "share": share, "threshold": threshold})
        assert shown["input"] == before and after in (None, shown["output"])
    page.close()


def test_each_measure_of_a_threshold_has_the_packages_best_place(explorer_page):  # noqa: F811
    clip = Clip()
    page = explorer_page("clip", clip.data, clip.start)
    for name, values in clip.tensors.items():
        show(page, "clip", {"tensor": name, "kept": 700})
        best = {"mse": q.MSE().update(values).range()[1], "kl": q.Entropy().exact(values)[1], "percentile": q.Percentile(0, 99.9).exact(np.abs(values))[1]}
        said = {label.get_attribute("data-best"): label.text_content().split(": ")[1] for label in page.query_selector_all("[data-best]")}
        assert all(read(said[measure]) == digits(place, 4) for measure, place in best.items()), (name, said, best)
        assert ("no layer" in said["first"]) == (name not in ("ffn_input", "ffn_weight"))
    page.click("[data-key=kl]")  # of the tensor that was shown last
    shown = float(page.inner_text("[data-name=threshold]"))
    assert shown == digits(q.Entropy().exact(values)[1], 5)[1] and page.evaluate("document.activeElement.dataset.key") == "kl"
    page.close()


@pytest.mark.parametrize("name", ["ffn_input", "ffn_weight"])
def test_the_hills_of_the_answer_are_made_by_the_package(name):
    clip, rng = Clip(), np.random.default_rng(3)
    curves, shares = ({key: np.frombuffer(base64.b64decode(sent["base64"]), sent["type"]) for key, sent in arrays.items()} for arrays in (clip.data["curves"][name], {"": clip.data["shares"]}))
    shares = shares[""]
    top = float(np.abs(clip.tensors[name]).max())
    for i in (*rng.integers(0, shares.size, 4), shares.size - 1):
        values, y, _ = clip.versions(name, float(shares[i]) * top)
        np.testing.assert_allclose([curves[key][i] for key in ("mse", "first", "others")], [q.sqnr_db(values, y), *clip.layer(name, y)], atol=1e-3)


def test_the_divergence_is_tried_at_every_threshold_of_the_slider(explorer_page):  # noqa: F811
    clip = Clip()
    page = explorer_page("clip", clip.data, clip.start)
    _, _, divergences = q.entropy_trace(*clip.bins("attention_input"))
    model = "document.getElementById('explorer-clip').model"
    shown = page.evaluate(f"() => {{ const all = []; for (let kept = 128; kept < 2048; kept += 29) {{ {model}.set('state', {{ tensor: 'attention_input', kept }}); all.push({model}.get('results').kl); }} return all; }}")
    wrong = [(text, kl) for text, kl in zip(shown, divergences[::29]) if not agrees(text, in_words(kl, 4))]
    assert not wrong and np.isinf(divergences).any()
    page.close()


def test_the_picture_itself_takes_a_threshold_and_the_buttons_lead_to_the_best_places(explorer_page):  # noqa: F811
    clip = Clip()
    page = explorer_page("clip", clip.data, clip.start)
    model = "document.getElementById('explorer-clip').model"
    box = page.locator(".stage svg").bounding_box()
    page.mouse.click(box["x"] + 8 + 0.75 * (box["width"] - 16), box["y"] + 100)
    assert abs(page.evaluate(f"{model}.get('state').kept") - 1536) <= 3
    page.focus("[data-key=first]")
    page.keyboard.press("Enter")
    assert page.evaluate(f"{model}.get('state').kept") == 2048 and page.inner_text("[data-name=clipped]") == "0"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    shares, others = (np.frombuffer(base64.b64decode(sent["base64"]), sent["type"]) for sent in (clip.data["shares"], clip.data["curves"]["ffn_input"]["others"]))
    assert page.evaluate(f"{model}.get('state').kept") == round(shares[others.argmax()] * 2048 - 0.5)
    page.close()
