"""What an explorer shows in a browser is what the package computes, to the last digit, for random settings of its handles."""

import base64
import json
import math
from decimal import ROUND_HALF_UP, Context

import numpy as np
import pytest

import quant101 as q
from quant101 import atlas
from quant101.explorers import _as_json, _names, _Page, _source_of, explore
from quant101.samples import load_record, load_sample

FORMATS = {f.name: f for f in (q.FP32, q.TF32, q.FP16, q.BF16, q.E4M3, q.E5M2)}
LIBRARIES = {name: {key: vars(getattr(atlas, name))[key] for key in ("ratio", "zero_point", "rounding", "overflow", "only_zero")}
             for name in ("ORT", "TORCH", "TORCH_PER_CHANNEL", "TORCH_FAKE", "TFLITE", "TFLITE_XNNPACK", "TFLITE_WEIGHT", "MODELOPT", "BITSANDBYTES", "GGML", "GGML_X86")}
MACHINES = {"fast": {"peak": 445e9, "float": 96e9}, "slow": {"peak": 88e9, "float": 107e9}}
WORDS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "-0": -0.0}


def digits(value, count):
    "A number as the page writes it: so many digits, a half up, a true minus."
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "−∞" if value < 0 else "∞"
    rounded = float(Context(prec=count, rounding=ROUND_HALF_UP).create_decimal_from_float(float(value)))
    return math.copysign(1, value), rounded


def fixed(value, places):
    return float(f"{value:.{places}f}")


def read(text):
    "The number in a text of the page, with its sign; or the text."
    plain = text.replace("−", "-")
    try:
        return math.copysign(1, float(plain)), float(plain)
    except ValueError:
        return text


def agrees(shown, expected):
    "Whether a text of the page says a number, a pair of digits(), or a word."
    if isinstance(expected, tuple):
        return read(shown) == expected
    if isinstance(expected, str):
        return shown == expected
    return float(shown.replace("−", "-")) == expected


def in_json(value):
    return next((word for word, v in WORDS.items() if repr(v) == repr(float(value))), value)


class Bits:
    name, data = "bits", {}

    def state(self, rng):
        fmt = FORMATS[rng.choice(list(FORMATS))]
        code = int(rng.integers(2**fmt.bits))
        value = float(rng.choice([q.decode(code, fmt), rng.normal() * 2.0 ** rng.integers(-30, 30), 0.1, 448.0, 464.0, 65520.0, 0.0, -0.0]))
        return {"format": fmt.name, "value": in_json(value), "update": float(rng.choice([0, 1e-4, -1e-4])) * (value if 0 < abs(value) < 1e30 else 1.0)}

    def expected(self, state):
        fmt, value, update = FORMATS[state["format"]], float(state["value"]), float(state["update"])
        code = int(q.encode(value, fmt))
        x = float(q.decode(code, fmt))
        numbers = np.unique(q.decode(np.arange(2**fmt.bits), fmt)) if fmt.bits <= 16 else None
        below, above = neighbours(x, fmt, numbers)
        sign, exponent, mantissa = (int(part) for part in q.fields(x, fmt))
        half = [digits(step / 2, 6) if math.isfinite(step) else "none" for step in (x - below, above - x)]
        after = float(q.cast(x + update, fmt))
        return {"code": code, "exponent": exponent, "mantissa": mantissa, "stored": digits(x, 9), "below": "none" if math.isnan(below) else digits(below, 9),
                "above": "none" if math.isnan(above) else digits(above, 9), "half_below": half[0], "half_above": half[1], "after": digits(after, 9)}


def neighbours(x, fmt, numbers):
    "The numbers of a format next to x: of all of them in a row, or of float32 by NumPy, or of float32 without its last bits."
    if math.isnan(x):
        return math.nan, math.nan
    if math.isinf(x):  # the largest number on one side, nothing on the other
        return (math.nan, fmt.min) if x < 0 else (fmt.max, math.nan)
    if numbers is not None:
        row = numbers[~np.isnan(numbers)].astype(float)
        below, above = row[row < x], row[row > x]
        return float(below[-1]) if below.size else math.nan, float(above[0]) if above.size else math.nan
    step = 2 ** (23 - fmt.mantissa_bits)
    pair = []
    for end in (-np.inf, np.inf):
        v = np.float32(x)
        for _ in range(step):
            v = np.nextafter(v, np.float32(end))
        pair.append(float(v))
    return pair


class Staircase:
    name = "staircase"
    weight = load_sample("attention_weight")
    data = {"weight": weight}

    def state(self, rng):
        bits = int(rng.integers(2, 9))
        return {"bits": bits, "step": int(rng.integers(2, 61)), "zero_point": int(rng.integers(-2 ** (bits - 1), 2 ** (bits - 1))),
                "rounding": str(rng.choice([r.value for r in q.Rounding if r != "stochastic"])), "place": int(rng.integers(-1250, 1251))}

    def expected(self, state):
        bits, w = state["bits"], self.weight
        absmax, qmax = float(np.abs(w).max()), 2 ** (bits - 1) - 1
        p = q.QParams(np.float32(absmax / qmax * state["step"] / 20), state["zero_point"], -qmax - 1, qmax)
        back, value = q.dequantize(q.quantize(w, p, state["rounding"]), p), np.float32(absmax * state["place"] / 1000)
        code = q.quantize(value, p, state["rounding"])
        cut = sum(q.saturation(w, p)) if state["rounding"] == "half-even" else None
        part = 12 if state["rounding"].startswith("half") else 3
        low, high = (float(q.dequantize(np.array(end), p)) for end in (p.qmin, p.qmax))
        return {"scale": digits(float(p.scale), 6), "value": digits(value, 6), "code": int(code), "back": digits(q.dequantize(code, p), 6),
                "error": digits(float(q.dequantize(code, p)) - float(value), 4), "largest": digits(q.max_abs_error(w, back), 4),
                "measured": fixed(q.sqnr_db(w, back), 2), "foretold": fixed(10 * np.log10(np.mean(np.square(w, dtype=float)) / (float(p.scale) ** 2 / part)), 2),
                "reach": f"{text(low, 4)} to {text(high, 4)}"} | ({} if cut is None else {"saturated": int(cut)})


def text(value, count):
    "A short number in words of the page."
    _, rounded = digits(value, count)
    return f"{rounded:.15g}".replace("-", "−")


class Ruler:
    name, data = "ruler", {"ranges": {"ffn_input": [-13.9, 27.7]}}

    def state(self, rng):
        lo, hi = np.sort(rng.integers(-3200, 3201, 2)) / 100
        return {"tensor": "your own", "lo": float(lo), "hi": float(hi), "kind": str(rng.choice(["symmetric", "asymmetric"])),
                "bits": int(rng.integers(2, 9)), "narrow": bool(rng.integers(2))}

    def expected(self, state):
        lo, hi, bits = state["lo"], state["hi"], state["bits"]
        kinds = {"symmetric": q.symmetric_qparams(lo, hi, bits, narrow=state["narrow"]), "asymmetric": q.asymmetric_qparams(lo, hi, bits)}
        p, other = kinds.pop(state["kind"]), kinds.popitem()[1]
        first, last = (int(q.quantize(end, p)) for end in (lo, hi))
        low, high = (float(q.dequantize(np.array(end), p)) for end in (p.qmin, p.qmax))
        return {"scale": digits(p.scale, 6), "zero_point": int(p.zero_point), "codes": f"{p.qmin} to {p.qmax}".replace("-", "−"), "first": first, "last": last,
                "idle": p.qmax - p.qmin + 1 - (last - first + 1), "low": digits(low, 5), "high": digits(high, 5), "gain": fixed(20 * math.log10(other.scale / p.scale), 2)}


class Ties:
    name, data = "ties", {"conventions": LIBRARIES}

    def state(self, rng):
        scale = float(np.float32(10.0 ** rng.uniform(-3, 1)))
        a, b = (str(name) for name in rng.choice(list(LIBRARIES), 2))
        tie = np.float32((int(rng.integers(-130, 130)) + 0.5) * scale)
        return {"a": a, "b": b, "x": float(tie if rng.integers(2) else np.float32(rng.normal() * 40 * scale)), "scale": scale, "zero_point": int(rng.integers(-20, 20))}

    def codes(self, x, state):
        for name in (state["a"], state["b"]):
            c = getattr(atlas, name)
            p = q.QParams(state["scale"], 0 if c.only_zero == 0 else state["zero_point"], -128, 127)
            yield q.quantize_as(np.float32(x), p, c)

    def expected(self, state):
        x = np.float32(state["x"])
        a, b = (int(code) for code in self.codes(x, state))
        return {"x": digits(x, 9), "code_a": a, "code_b": b, "below": digits(np.nextafter(x, np.float32(-np.inf)), 9), "above": digits(np.nextafter(x, np.float32(np.inf)), 9)}

    def check(self, state, shown):
        "Where they are said to part, they part; and where nothing is said, they do at none of the ties above."
        x, scale = np.float32(state["x"]), np.float32(state["scale"])
        ties = np.float32((np.arange(np.floor(x / scale) - 1, 130) + 0.5) * np.float64(scale))
        near = ties.view(np.int32)[:, None] + np.arange(-4, 5, dtype=np.int32)
        found = near.view(np.float32)[near.view(np.float32) > x]
        a, b = self.codes(found, state)
        if shown["parting"] == "none above":
            assert not np.any(a != b), state
        else:
            place = np.float32(float(shown["parting"].replace("−", "-")))
            assert place == found[a != b].min(), state


class Roofline:
    name, data = "roofline", {"machines": MACHINES}

    def state(self, rng):
        return {"machine": str(rng.choice(list(MACHINES))), "m": int(rng.integers(1, 513)), "k": 64 * int(rng.integers(1, 129)), "n": 64 * int(rng.integers(1, 129)),
                "bandwidth": int(rng.integers(5, 201)), "share": int(rng.integers(0, 101))}

    def expected(self, state):
        m, k, n, bandwidth = state["m"], state["k"], state["n"], state["bandwidth"] * 1e9
        peak, single = MACHINES[state["machine"]].values()
        work = 2 * m * k * n
        int8, float32 = max(work / peak, (m * k + n * k + 4 * m * n) / bandwidth), max(work / single, 4 * (m * k + n * k + m * n) / bandwidth)
        intensity, share = work / (m * k + n * k + 4 * m * n), state["share"] / 100
        return {"intensity": digits(intensity, 4), "roof": digits(work / int8 / 1e9, 4), "int8": digits(int8 * 1e6, 4), "float32": digits(float32 * 1e6, 4),
                "faster": digits(float32 / int8, 4), "model": digits(1 / (1 - share + share * int8 / float32), 4), "ridge": digits(peak / bandwidth, 4)}


class Requant:
    name, data = "requant", {}

    def state(self, rng):
        real = float(2.0 ** rng.uniform(-14, 0))
        acc = int(rng.integers(-30000, 30001))
        if rng.integers(2):  # near a tie, where the ways part
            acc = int(np.clip(round((int(rng.integers(-100, 100)) + 0.5) / real), -30000, 30000))
        return {"acc": acc, "real": real, "zero_point": int(rng.integers(-128, 128))}

    def codes(self, acc, state):
        multiplier, shift = q.fixed_point(state["real"])
        return {word: q.requantize(acc, multiplier, shift, state["zero_point"], "int8", word) for word in ("gemmlowp", "ruy", "single", "onnx")}

    def expected(self, state):
        multiplier, shift = q.fixed_point(state["real"])
        meant = multiplier * 2.0 ** (shift - 31)
        return {"multiplier": multiplier, "shift": shift, "meant": digits(meant, 9), "exact": digits(state["acc"] * meant, 9)} | {
            word: int(code) for word, code in self.codes(np.int32(state["acc"]), state).items()}

    def check(self, state, shown):
        "The next sum at which the ways part is the next."
        sums = state["acc"] + 1 + np.arange(200_000 - 1, dtype=np.int32)
        codes = list(self.codes(sums, state).values())
        apart = np.flatnonzero(np.any([code != codes[0] for code in codes], axis=0))
        assert shown["next"].replace("−", "-") == (str(sums[apart[0]]) if apart.size else "none near"), state


pytestmark = pytest.mark.needs("browser")
KINDS = {kind.name: kind for kind in (Bits, Staircase, Ruler, Ties, Roofline, Requant)}


@pytest.fixture
def explorer_page(browser, tmp_path):
    "A function that opens an explorer by itself, from the disk."
    def open_page(name, data, state, width=800):
        path = tmp_path / f"{name}.html"
        path.write_text(f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{name}</title>'
                        f"<body>{_Page(name, _as_json(data), state)._repr_html_()}</body></html>", encoding="utf8")
        page = browser.new_page(viewport={"width": width, "height": 700})
        page.wrong = []
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("console", lambda message: page.wrong.append(message.text))
        page.goto(path.as_uri())
        page.wait_for_function(f"document.getElementById('explorer-{name}').model?.get('results')")
        return page

    return open_page


def show(page, name, state):
    "Move the handles, and return what is shown."
    model = f"document.getElementById('explorer-{name}').model"
    return page.evaluate(f"(state) => {{ {model}.set('state', state); return {model}.get('results'); }}", state)


@pytest.mark.parametrize("name", KINDS)
def test_shows_what_the_package_computes(name, explorer_page):
    kind, rng = KINDS[name](), np.random.default_rng(0)
    page = explorer_page(name, kind.data, kind.state(rng))
    for _ in range(25):
        state = kind.state(rng)
        shown, expected = show(page, name, state), kind.expected(state)
        wrong = {key: (shown[key], value) for key, value in expected.items() if not agrees(shown[key], value)}
        assert not wrong, (state, wrong)
        if hasattr(kind, "check"):
            kind.check(state, shown)
    assert page.wrong == []
    page.close()


@pytest.mark.parametrize("name", KINDS)
def test_handles_answer_to_keys_and_the_page_is_as_wide_as_a_phone(name, explorer_page):
    kind, rng = KINDS[name](), np.random.default_rng(1)
    page = explorer_page(name, kind.data, kind.state(rng), 375)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    state = f"JSON.stringify(document.getElementById('explorer-{name}').model.get('state'))"
    moved = 0
    for handle in page.query_selector_all(".controls :is(input, select)"):
        if handle.is_disabled():
            continue
        before = page.evaluate(state)
        handle.focus()
        if handle.get_attribute("type") == "text":
            handle.fill("0.375")
            page.keyboard.press("Enter")
        elif handle.get_attribute("type") == "checkbox":
            page.keyboard.press("Space")
        else:
            page.keyboard.press("ArrowLeft")
            page.keyboard.press("ArrowLeft")
            page.keyboard.press("ArrowRight")
        moved += page.evaluate(state) != before
    assert moved >= len(page.query_selector_all(".controls :is(input, select):enabled")) - 1, moved
    assert page.query_selector("[role=status]") and page.query_selector("[role=group]").get_attribute("aria-label")
    assert page.wrong == []
    page.close()


def test_a_bit_is_clicked_and_keeps_the_focus(explorer_page):
    page = explorer_page("bits", {}, {"format": "FP16", "value": 1.0, "update": 0})
    page.focus("[data-key=bit0]")
    page.keyboard.press("Enter")
    assert page.inner_text("[data-name=stored]") == "−1" and page.evaluate("document.activeElement.dataset.key") == "bit0"
    page.click("[data-key=bit15]")
    assert page.inner_text("[data-name=stored]") == "−1.00097656"
    page.close()


def test_arrays_arrive_as_they_are():
    rng = np.random.default_rng(2)
    for dtype in (np.float32, np.float64, np.int8, np.uint8, np.int32):
        x = rng.integers(0, 100, (3, 4)).astype(dtype)[::2]
        sent = json.loads(json.dumps(_as_json({"x": x})))["x"]
        assert np.array_equal(np.frombuffer(base64.b64decode(sent["base64"]), sent["type"]).reshape(sent["shape"]), x)
    with pytest.raises(TypeError, match="float16"):
        _as_json(np.zeros(2, np.float16))
    with pytest.raises(ValueError, match="name must be one of"):
        _source_of("nothing")


def test_a_widget_of_jupyter_has_the_same_source_and_follows_its_state(monkeypatch):
    monkeypatch.delenv("QUANT101_BOOK", raising=False)
    import ipykernel  # noqa: F401  as in a notebook

    widget = explore("ruler", {"ranges": {"a": [0, 1]}}, bits=4)
    assert widget._esm == _source_of("ruler") and widget.state == {"bits": 4} and widget.data == {"ranges": {"a": [0, 1]}}
    widget.set_state({"state": {"bits": 5}})
    assert widget.state == {"bits": 5}
    monkeypatch.setenv("QUANT101_BOOK", "1")
    assert isinstance(explore("ruler"), _Page)


def test_the_records_machines_have_what_a_roof_is_made_of():
    for record in load_record("bench").values():
        assert {"a tile in registers", "float32, NumPy"} <= set(record["ladder"]["steps"])
