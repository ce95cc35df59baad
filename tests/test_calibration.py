"""Chapter 4: calibrators, judged by exact arithmetic, by their own definition, by ONNX Runtime and by recorded answers of ModelOpt."""

import functools
import json
import math
import pickle
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numba import njit
from tests_support import ROOT, needs

from quant101.calibration import (MSE, Calibrator, Entropy, FloatHistogram, Histogram, MinMax, MovingAverage, Percentile, calibrate, entropy_range,
                                  entropy_trace)
from quant101.samples import load_sample
from quant101.steps import QParams, fake_quantize, mse, sqnr_db
from quant101.symmetry import asymmetric_qparams, symmetric_qparams

RECORDED = json.loads((ROOT / "tests/modelopt.json").read_text(encoding="utf8"))
STREAMED = [MinMax, Percentile, lambda: Percentile(10, 75.5, bins=64), Entropy, lambda: Entropy("onnxruntime", bins=300),
            lambda: Entropy("modelopt", bins=200), lambda: Entropy(bins=64, levels=8), MSE, lambda: MSE(bits=4, bins=100),
            lambda: MSE(bits=4, bins=100, variant="asymmetric")]
ALL = [*STREAMED, MovingAverage, lambda: Entropy("onnxruntime-growing", bins=130)]
patient = settings(deadline=None, max_examples=50)  # the first call compiles

kinds = st.sampled_from([np.float16, np.float32, np.float64])
finite = {"allow_nan": False, "allow_infinity": False}
anything = kinds.flatmap(lambda kind: hnp.arrays(kind, st.integers(0, 30), elements=hnp.from_dtype(np.dtype(kind), **finite)))
tame = hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-100, 100))
grid = hnp.arrays(np.int64, st.integers(1, 40), elements=st.integers(-9, 9))
data = anything | tame | grid


def facts(thing):
    "Everything that an object knows, down to the bits of its arrays; repr gives floats to the bit."
    if isinstance(thing, np.ndarray):
        return thing.dtype.str, thing.shape, thing.tobytes()
    if isinstance(thing, (list, tuple)):
        return [facts(one) for one in thing]
    if type(thing).__module__.startswith("quant101"):
        return {name: facts(value) for name, value in vars(thing).items() if name != "table"}
    return repr(thing)


def state(calibrator):
    return repr((calibrator.count, facts(calibrator)))


def seen(kind, *batches):
    calibrator = kind()
    for batch in batches:
        calibrator.update(batch)
    return calibrator


def histogram(values, bins=64):
    h = Histogram(bins)
    h.add(np.asarray(values, np.float64))
    return h


# The same to the bit, however data are cut, ordered and merged


@patient
@given(st.lists(data, min_size=1, max_size=5), st.randoms(use_true_random=False), st.sampled_from(STREAMED))
def test_cutting_order_and_merging_leave_every_bit_alone(batches, random, kind):
    values = np.concatenate([b.astype(np.float64) for b in batches])
    whole = seen(kind, values)
    shuffled = values.copy()
    np.random.default_rng(random.randrange(99)).shuffle(shuffled)
    cuts = sorted(random.randrange(shuffled.size + 1) for _ in range(random.randrange(4)))
    parts = [seen(kind, part) for part in np.split(shuffled, cuts)] + [kind()]
    while len(parts) > 1:  # any tree of merges
        parts.sort(key=lambda _: random.random())
        parts.append(parts.pop().merge(parts.pop()))
    for other in (seen(kind, *batches), seen(kind, *shuffled), parts[0]):
        assert state(other) == state(whole)
    if values.size:
        assert pickle.dumps(parts[0].range()) == pickle.dumps(whole.range())


@patient
@given(data, st.sampled_from([4, 64, 65536]))
def test_histogram_counts_what_exact_arithmetic_counts(values, bins):
    values = values.astype(np.float64)
    assume(values.size)
    h, half, reach = histogram(values, bins), bins // 2, Fraction(float(np.abs(values).max()))
    width = Fraction(h.width)
    assert reach < width * half and (reach >= width * half / 2 or h.exponent == -1000)
    places = [math.floor(Fraction(v) / width) + half for v in values.tolist()]
    assert h.counts.dtype == np.int64 and np.array_equal(h.counts, np.bincount(places, minlength=bins))
    assert (h.lo, h.hi) == (values.min(), values.max())


@pytest.mark.parametrize("small,large", [(5e-324, 1.0), (-5e-324, 1.7e308), (-1e-300, 3.0), (0.0, 5e-324), (-0.0, -1.0), (2.0**-1001, 2.0**-999)])
@pytest.mark.parametrize("kind", STREAMED)
def test_from_the_smallest_to_the_largest_number(kind, small, large):
    both = [state(seen(kind, [a], [b])) for a, b in ((small, large), (large, small))]
    assert both[0] == both[1] == state(seen(kind, [small, large]))
    lo, hi = seen(kind, [small, large]).range()
    reach = abs(large) * (2 if isinstance(kind(), MSE) else 1)  # what fits both exactly may end beyond them, less than twice as far
    assert -reach <= lo <= hi <= reach and math.copysign(1, lo or 1) == (1 if lo == 0 else math.copysign(1, lo))


def test_tiny_negative_numbers_stay_negative_when_the_bins_grow():
    early, late = histogram([-5e-324]), histogram([1e300])
    early.merge(late)
    assert early.counts[31] == 1 and histogram([1e300, -5e-324]).counts[31] == 1


@settings(deadline=None, max_examples=10)
@given(st.lists(st.sampled_from([0.0, -0.0]), min_size=1))
def test_zeros_have_no_sign(zeros):
    for kind in ALL:
        assert pickle.dumps(seen(kind, zeros).range()) == pickle.dumps((0.0, 0.0))


def test_memory_does_not_grow_with_the_data():
    rng, scales = np.random.default_rng(0), (1e-3, 1.0, 1e3, 1e30)
    for kind in ALL:
        calibrator, sizes = kind(), []
        for _ in range(2):
            for scale in scales:
                calibrator.update(np.append(scale * rng.standard_normal(20000).astype(np.float32), [1e-37, -3e38]))
            sizes.append(len(pickle.dumps(calibrator)))
        assert sizes[1] < sizes[0] + 100 and sizes[1] < 600_000 and calibrator.count == 160016


def test_memory_is_bounded_by_what_a_float64_can_hold():
    "All codes of a short float with 11 bits of exponent: sign, exponent and 7 bits of mantissa, 8 bytes each."
    calibrator = Percentile().update([5e-324, -1.7e308])
    for exponent in range(-1074, 1024, 7):
        calibrator.update(np.ldexp(np.float64([1.0, -1.5]), exponent))
    assert calibrator.histogram.counts.nbytes <= 8 * 2**19


def test_merge_leaves_the_other_alone_and_may_meet_itself():
    for kind in STREAMED:
        a, b = kind().update([1.0, 2.0, -3.0]), kind().update([50.0])
        before = state(b)
        assert a.merge(b) is a and state(b) == before
        a.update([1e6])
        assert state(b) == before, "no shared memory"
        twice = kind().update([1.0, 2.0])
        assert state(twice.merge(twice)) == state(kind().update([1.0, 2.0, 1.0, 2.0]))


# One interface


@pytest.mark.parametrize("kind", ALL)
def test_update_returns_itself_and_range_gives_python_floats(kind):
    calibrator = kind()
    assert calibrator.update(np.float32([[0.5, -1.5]])) is calibrator
    assert [type(end) for end in calibrator.range()] == [float, float]
    assert calibrator.range() == calibrator.range(), "asking changes nothing"
    before = state(calibrator)
    for nothing in ([], np.empty((0, 3), np.float32), np.empty((2, 0), np.int8)):
        assert calibrator.update(nothing) is calibrator and state(calibrator) == before


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.uint8, np.int64])
def test_layout_does_not_matter(kind, dtype):
    x = np.arange(24).reshape(4, 6).astype(dtype)
    read_only = x.copy()
    read_only.setflags(write=False)
    strided = np.repeat(x, 2, axis=1)[:, ::2]
    wanted = state(kind().update(x))
    as_list = x.tolist() if not kind().ordered or dtype in (np.float64, np.int64) else x.copy()  # ONNX Runtime's bins depend on the type
    for same in (as_list, np.asfortranarray(x), read_only, strided, x[::-1][::-1], x.astype(x.dtype.newbyteorder(">"))):
        assert state(kind().update(same)) == wanted
    assert np.array_equal(x, np.arange(24).reshape(4, 6))
    assert state(kind().update(x[1, 1])) == state(kind().update(np.array([7.0], dtype)))


BAD = [([np.nan], ValueError), ([[1.0, np.inf]], ValueError), (np.float16([-np.inf]), ValueError), ([1j], TypeError), (["1"], TypeError),
       ([None], TypeError), ([True], TypeError), (np.array(["2020"], "M8[D]"), TypeError), ([[1.0], [2.0, 3.0]], ValueError),
       (np.array([np.nan] + [1.0] * 1000), ValueError)]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("batch,error", BAD)
def test_a_refused_batch_leaves_no_trace(kind, batch, error):
    for calibrator in (kind(), kind().update([1.0, -2.0])):
        before = state(calibrator)
        with pytest.raises(error, match="^batch must"):
            calibrator.update(batch)
        assert state(calibrator) == before


@pytest.mark.parametrize("variant", [["a", "b"], np.array(["1", "2"]), np.array([]), None, 3])
def test_a_variant_that_is_no_word_is_named(variant):
    with pytest.raises(ValueError, match="^variant must be one of"):
        Entropy(variant)


@pytest.mark.parametrize("name", ["least", "largest"])
@pytest.mark.parametrize("value, error", [("0", TypeError), ([0.0], TypeError), (None, TypeError), (True, TypeError), (np.nan, ValueError)])
def test_the_ends_of_the_data_must_be_numbers(name, value, error):
    for variant in ("tensorrt", "onnxruntime"):
        with pytest.raises(error, match=f"^{name} must"):
            entropy_range([1, 2], [-1, 0, 1] if variant == "onnxruntime" else [0, 1, 2], variant, 2, **{name: value})


@pytest.mark.parametrize("kind", ALL)
def test_a_question_changes_nothing(kind):
    "Model-Optimizer's NumPy path changes the stored histogram."
    calibrator = kind().update(np.random.default_rng(5).normal(0, 3, 4000))
    before = state(calibrator)
    questions = [getattr(calibrator, name) for name in ("range", "trace", "error_bound") if hasattr(calibrator, name)]
    first, second = ([facts(question()) for question in questions] for _ in range(2))
    assert first == second and state(calibrator) == before


@pytest.mark.parametrize("kind", ALL)
def test_no_data_no_range(kind):
    for calibrator in (kind(), kind().update([])):
        for question in ("range", "trace", "error_bound"):
            if hasattr(calibrator, question):
                with pytest.raises(ValueError, match="must have seen data"):
                    getattr(calibrator, question)()


def test_merge_refuses_strangers():
    makers = [MinMax, Percentile, lambda: Percentile(2), lambda: Percentile(1, 98), lambda: Percentile(bins=64), Entropy, lambda: MSE(4), MSE,
              lambda: Entropy("modelopt"), lambda: Entropy(levels=64), lambda: Entropy(bins=512)]
    for (i, a), (j, b) in product(enumerate(makers), repeat=2):
        mine, other = a().update([1.0]), b().update([2.0])
        before = state(mine), state(other)
        if i == j:
            mine.merge(other)
            continue
        with pytest.raises((TypeError, ValueError), match="^other must"):
            mine.merge(other)
        assert (state(mine), state(other)) == before
    for stranger in (None, 1.0, Histogram(), MovingAverage()):
        with pytest.raises(TypeError):
            MinMax().merge(stranger)
    for ordered in (MovingAverage, lambda: Entropy("onnxruntime-growing")):
        with pytest.raises(TypeError, match="order"):
            ordered().merge(ordered())


@pytest.mark.parametrize("make,error", [
    (lambda: Percentile(99, 1), ValueError), (lambda: Percentile(50, 50), ValueError), (lambda: Percentile(-1, 50), ValueError),
    (lambda: Percentile(1, 101), ValueError), (lambda: Percentile(np.nan, 99), ValueError), (lambda: Percentile("1", 99), TypeError),
    (lambda: Percentile(True, 99), TypeError), (lambda: Percentile(bins=1000), ValueError), (lambda: Percentile(bins=2), ValueError),
    (lambda: Percentile(bins=2**23), ValueError), (lambda: Percentile(bins=64.0), TypeError), (lambda: FloatHistogram(48), ValueError), (lambda: Histogram(48), ValueError),
    (lambda: MovingAverage(1.5), ValueError), (lambda: MovingAverage(-0.1), ValueError), (lambda: MovingAverage(np.nan), ValueError),
    (lambda: MovingAverage(None), TypeError), (lambda: Entropy("kl"), ValueError), (lambda: Entropy(None), ValueError),
    (lambda: Entropy(["tensorrt"]), ValueError), (lambda: Entropy(bins=1), ValueError), (lambda: Entropy(bins=2.5), TypeError),
    (lambda: Entropy(levels=1), ValueError), (lambda: Entropy(levels="128"), TypeError), (lambda: MSE(1), ValueError),
    (lambda: MSE(17), ValueError), (lambda: MSE(8.0), TypeError), (lambda: MSE(bins=0), ValueError)])
def test_settings_are_checked_at_once(make, error):
    with pytest.raises(error, match="must"):
        make()


# Min, max and their moving average


@patient
@given(data)
def test_min_max(values):
    assume(values.size)
    assert MinMax().update(values).range() == (values.min(), values.max()) == calibrate(values, "minmax")


@patient
@given(st.lists(tame, min_size=1, max_size=6), st.floats(0, 1))
def test_moving_average_is_its_recurrence(batches, momentum):
    lo, hi = batches[0].min(), batches[0].max()
    for batch in batches[1:]:
        lo, hi = momentum * lo + (1 - momentum) * batch.min(), momentum * hi + (1 - momentum) * batch.max()
    assert seen(lambda: MovingAverage(momentum), *batches).range() == (lo, hi)


def test_moving_average_agrees_with_pytorch():
    case, ends = RECORDED["moving average"], np.cumsum(load_sample("sentence_lengths"))[:-1]
    ours = seen(lambda: MovingAverage(case["momentum"]), *np.split(load_sample("ffn_input"), ends)).range()
    assert np.allclose(ours, (case["lo"], case["hi"]), rtol=1e-6)  # PyTorch computes in float32


# Percentiles


def smallest_with(values, percent):
    "The definition, in exact arithmetic: the smallest value that at least so many percent do not exceed."
    return min(v for v in values.tolist() if Fraction(str(percent)) * values.size <= 100 * int((values <= v).sum()))


PERCENTS = [0, 0.001, 0.1, 1, 7, 12.5, 28, 33.3, 50, 57, 99, 99.9, 99.999, 100]


@patient
@given(tame | anything.filter(len), st.sampled_from(PERCENTS), st.sampled_from(PERCENTS))
def test_exact_percentiles_are_the_order_statistic(values, lower, upper):
    assume(lower < upper)
    assert Percentile(lower, upper).exact(values) == (smallest_with(values, lower), smallest_with(values, upper))


def within_relative_bound(got, exact, bins):
    """Whether an end is off by at most 2**9 / bins of the exact one: the spacing of a float with sign, 8 bits of exponent and the
    rest of its bits for the mantissa. Below 2**-1022 the numbers are as far apart as there; fewer than 512 bins promise nothing."""
    relative = Fraction(2**9, bins)
    return bins < 512 or abs(Fraction(got) - Fraction(exact)) <= relative * max(abs(Fraction(exact)), Fraction(2) ** -1022)


@patient
@given(data, st.sampled_from(PERCENTS), st.sampled_from(PERCENTS), st.sampled_from([4, 64, 512, 4096, 65536, 2**20]))
@example(np.array([2.01] * 17 + [67.66217418]), 0.1, 12.5, 64)  # hi - lo is rounded down
def test_streamed_percentiles_keep_their_bound(values, lower, upper, bins):
    assume(values.size and lower < upper)
    calibrator = Percentile(lower, upper, bins).update(values)
    (lo, hi), (exact_lo, exact_hi), bound = calibrator.range(), calibrator.exact(values), calibrator.error_bound()
    assert 0 <= bound and all(within_relative_bound(*pair, bins) for pair in ((lo, exact_lo), (hi, exact_hi)))
    assert Fraction(lo) <= Fraction(exact_lo) <= Fraction(lo) + (Fraction(bound) if bound < math.inf else Fraction(10) ** 400)
    assert Fraction(hi) >= Fraction(exact_hi) >= Fraction(hi) - (Fraction(bound) if bound < math.inf else Fraction(10) ** 400)
    assert values.min() <= lo <= hi <= values.max()


def test_the_ends_are_the_extremes():
    x = load_sample("ffn_input")
    assert Percentile(0, 100).update(x).range() == (float(x.min()), float(x.max())) == Percentile(0, 100).exact(x)


def test_worked_percentiles():
    v = np.concatenate([[-3.0, -0.2], np.linspace(-0.19, 0.29, 195), [0.3, 1.5, 5.0]])
    calibrator = Percentile(lower=1, upper=99)
    assert calibrator.exact(v) == (-0.2, 0.3) and calibrator.error_bound.__doc__
    lo, hi = calibrator.update(v).range()
    assert -0.2 - calibrator.error_bound() <= lo <= -0.2 and 0.3 <= hi <= 0.3 + calibrator.error_bound() and calibrator.error_bound() == 2.0**-9
    assert np.array_equal(np.clip(v, -0.2, 0.3)[[0, 198, 199]], [-0.2, 0.3, 0.3]) and MinMax().update(v).range() == (-3.0, 5.0)


@pytest.mark.parametrize("name", ["ffn_input", "ffn_weight", "attention_probs"])
def test_numpy_names_the_rule_inverted_cdf(name):
    x = load_sample(name)
    assert Percentile(0.1, 99.9).exact(x) == tuple(np.percentile(x, [0.1, 99.9], method="inverted_cdf"))


# Entropy


def recipe(counts, levels):
    "TensorRT's recipe word by word: the divergence for every number of kept bins."
    found = []
    for kept in range(levels, len(counts)):
        p = [float(c) for c in counts[:kept]]
        q = [0.0] * kept
        for level in range(levels):
            group = [k for k in range(kept) if k * levels // kept == level and counts[k]]
            for k in group:
                q[k] = sum(counts[j] for j in group) / len(group)
        p[-1] += sum(counts[kept:])
        n, s, kl = sum(p), sum(q), 0.0
        for a, b in zip(p, q):
            if a:
                kl += a / n * math.log(a / n / (b / s)) if b else math.inf
        found.append(kl)
    return found


some_counts = hnp.arrays(np.int64, st.integers(2, 60), elements=st.sampled_from([0, 0, 1, 2, 3, 10, 100, 12345])).filter(np.any)


@patient
@given(some_counts, st.integers(2, 20))
def test_tensorrt_is_its_recipe(counts, levels):
    edges = np.linspace(0, 7, counts.size + 1)
    lo, hi, kl = entropy_trace(counts, edges, levels=levels)
    wanted = np.array(recipe(counts.tolist(), levels))
    assert np.array_equal(np.isinf(kl), np.isinf(wanted)) and np.allclose(kl, wanted, rtol=0, atol=1e-12)
    assert np.allclose(hi, (np.arange(levels, counts.size) + 0.5) * 7 / counts.size) and np.array_equal(lo, -hi)
    ends = entropy_range(counts, edges, levels=levels)
    assert ends == ((lo[kl.argmin()], hi[kl.argmin()]) if np.isfinite(kl).any() else (-7.0, 7.0))


def test_worked_divergences():
    counts = np.bincount(np.floor(np.array([0.1, 0.15, 0.2, 5.0]) * 8).astype(int))
    lo, hi, kl = entropy_trace(counts, np.arange(42) / 8, levels=2)
    assert math.isclose(kl[0], 1 / 4 * math.log(3 / 4) + 3 / 4 * math.log(9 / 8)) and hi[0] == 2.5 / 8
    assert np.isinf(kl[1:]).all() and entropy_range(counts, np.arange(42) / 8, levels=2) == (-0.3125, 0.3125)
    assert recipe([*counts, 0], 2)[-1] == pytest.approx(1 / 4 * math.log(1 / 1.5) + 2 / 4 * math.log(2 / 1.5), abs=2e-1)
    assert calibrate([0.1, 0.15, 0.2, 5.0], "entropy") == (-5.0, 5.0), "four values in 2048 bins: no candidate is possible"


def onnxruntime_search(counts, edges, levels):
    "The divergences that ONNX Runtime computes, and the range that it takes, before it looks at minimum and maximum."
    from onnxruntime.quantization import calibrate as theirs

    found, original = [], theirs.entropy
    theirs.entropy = lambda p, q: found.append(original(p, q)) or found[-1]
    try:
        collector = theirs.HistogramCollector("entropy", False, len(counts), levels, None, None)
        ends = collector.get_entropy_threshold((counts, edges, edges[0], edges[-1], None), levels)
    finally:
        theirs.entropy = original
    return np.array(found, np.float64), tuple(float(end) for end in ends)


@needs("onnxruntime")
@settings(deadline=None, max_examples=40)
@given(some_counts, st.integers(2, 20), st.sampled_from([np.float32, np.float64]))
def test_onnxruntime_to_the_bit(counts, levels, dtype):
    assume(counts.size // 2 >= levels // 2)
    edges = np.linspace(-3, 3, counts.size + 1, dtype=dtype)
    kl, ends = onnxruntime_search(counts, edges, levels)
    ours = entropy_trace(counts, edges, "onnxruntime", levels)[2]
    assert np.array_equal(ours[np.isfinite(ours)], kl) and entropy_range(counts, edges, "onnxruntime", levels) == ends


def tensors():
    found = {name: load_sample(name) for name in ("ffn_input", "attention_input", "attention_probs", "ffn_weight", "attention_weight", "ffn_bias")}
    found["relu"] = np.maximum(found["attention_input"], 0)
    found["cubed"] = found["ffn_weight"] ** 3
    found["worked"] = np.array([0.1, 0.15, 0.2, 5.0], np.float32)
    found["constant"] = np.full(7, 3.0, np.float32)
    return found


TENSORS = tensors()


@needs("onnxruntime")
@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("bins", [128, 500, 1024])
def test_onnxruntime_range_on_real_tensors(name, bins):
    from onnxruntime.quantization.calibrate import HistogramCollector

    collector = HistogramCollector("entropy", False, bins, 128, None, None)
    collector.collect_value({"x": TENSORS[name]})
    theirs = tuple(float(end) for end in collector.get_entropy_threshold(collector.get_histogram_dict()["x"], 128))
    calibrator = Entropy("onnxruntime", bins=bins)
    assert calibrator.exact(TENSORS[name]) == theirs
    assert np.allclose(calibrator.update(TENSORS[name]).range(), theirs, rtol=1e-6, atol=0)


def test_onnxruntime_defaults_are_min_max():
    for x in TENSORS.values():
        assert Entropy("onnxruntime").update(x).range() == MinMax().update(x).range()


def of_another_logarithm(kl):
    """How much a divergence can differ where the C library is another one: a logarithm by 4 units in the last place, and so
    the rounded sums of 2,048 terms, added in pairs. The terms below zero add up to -1 at most, since p log(q/p) <= q - p."""
    return 64 * np.finfo(float).eps * (kl + 2)


@pytest.mark.parametrize("case", RECORDED["entropy"], ids=lambda c: f"{c['x']}-{c['bins']}-{c['bits']}")
def test_modelopt_to_the_bit(case):
    x, levels = TENSORS[case["x"]], 2 ** (case["bits"] - 1)
    assert Entropy("modelopt", case["bins"], levels).exact(x) == (-case["amax"], case["amax"])
    magnitudes = np.abs(x).ravel()
    place = np.minimum(magnitudes * np.float32(case["bins"]) / magnitudes.max(), case["bins"] - 1).astype(int)
    edges = np.linspace(0, magnitudes.max(), case["bins"] + 1, dtype=np.float32)
    kl = entropy_trace(np.bincount(place, minlength=case["bins"]), edges, "modelopt", levels)[2]
    recorded, kept = np.array([float(v) for v in case["kl"]]), kl[:: RECORDED["stride"]]
    assert kl.size == case["candidates"] and np.array_equal(np.isfinite(kept), np.isfinite(recorded))
    finite = np.isfinite(recorded)
    assert np.array_equal(kept[~finite], recorded[~finite], equal_nan=True)
    assert (np.abs(kept[finite] - recorded[finite]) <= of_another_logarithm(recorded[finite])).all()
    least, second = np.sort(np.append(kl[np.isfinite(kl)], np.inf))[:2]
    assert second - least > 1e6 * of_another_logarithm(least), "so the answer is that of any logarithm, and compared to the bit"


def test_own_bins_differ_from_modelopts_as_the_chapter_says():
    far = []
    for case in RECORDED["entropy"]:
        hi = Entropy("modelopt", case["bins"], 2 ** (case["bits"] - 1)).update(TENSORS[case["x"]]).range()[1]
        far.append(abs(hi / case["amax"] - 1))
    assert len(far) == 30 and sum(f > 1e-6 for f in far) == 1 and max(far) < 0.01


def test_half_a_bin_lies_between_modelopt_and_the_recipe():
    x = load_sample("ffn_weight")
    half = np.abs(x).max() / 4096
    assert Entropy().exact(x)[1] - Entropy("modelopt").exact(x)[1] == pytest.approx(half, rel=1e-3)


@pytest.mark.parametrize("variant", ["tensorrt", "onnxruntime", "modelopt"])
def test_entropy_of_hardly_anything(variant):
    for bins in (2, 127, 128, 129):
        calibrator = Entropy(variant, bins=bins)
        assert calibrator.exact([0.0, -0.0]) == (0.0, 0.0) == Entropy(variant, bins=bins).update([0.0]).range()
        lo, hi = calibrator.update([-1.0, 2.0]).range()
        assert -2 <= lo <= -1 and 1 < hi <= 2
    for x in ([], [1e-310, 0.0], [1.7e308, -1.0]):
        with pytest.raises(ValueError, match="x must h"):
            calibrator.exact(x)
    assert calibrator.exact([1e-290])[1] <= 1e-290 and calibrator.exact(np.float32([1e38]))[1] <= 1.0001e38
    with pytest.raises(ValueError, match="x must be finite"):
        calibrator.exact([np.nan])


def test_trace_holds_the_answer():
    for kind in (Entropy, MSE, lambda: Entropy("onnxruntime", bins=600), lambda: Entropy("modelopt")):
        calibrator = kind().update(load_sample("attention_weight"))
        thresholds, criterion = calibrator.trace()
        assert thresholds.shape == criterion.shape and (np.diff(thresholds) >= 0).all() and (criterion[np.isfinite(criterion)] >= 0).all()
        assert calibrator.range()[1] == min(thresholds[criterion.argmin()], calibrator.hi[0] if kind is not MSE else math.inf)


@pytest.mark.parametrize("counts,edges,error", [
    ([1, 2], [0, 1], ValueError), ([[1, 2]], [0, 1, 2], ValueError), ([1], [0, 1], ValueError), ([0, 0], [0, 1, 2], ValueError),
    ([1, -1], [0, 1, 2], ValueError), ([1, 0.5], [0, 1, 2], ValueError), ([1, np.nan], [0, 1, 2], ValueError), ([1, 2], [0, 2, 1], ValueError),
    ([1, 2], [0, np.nan, 1], ValueError), ([1, 2], [0, 1, np.inf], ValueError), (["a", "b"], [0, 1, 2], TypeError)])
def test_a_histogram_must_be_one(counts, edges, error):
    for function in (entropy_trace, entropy_range):
        with pytest.raises(error, match="must"):
            function(counts, edges)


def test_search_leaves_its_input_alone():
    counts, edges = np.arange(300)[::-1].copy(), np.linspace(0, 1, 301)
    before = counts.copy()
    for variant in ("tensorrt", "onnxruntime", "modelopt"):
        counts.setflags(write=False)
        first = entropy_range(counts, edges, variant)
        assert first == entropy_range(counts.tolist(), edges.tolist(), variant) == entropy_range(counts[::1].astype(">i4"), edges, variant)
    assert np.array_equal(counts, before)


# Mean squared error


def true_error(x, threshold, bits):
    qmax = 2 ** (bits - 1) - 1
    return mse(x, fake_quantize(x, QParams(threshold / qmax, 0, -qmax, qmax)))


@pytest.mark.parametrize("name", ["ffn_input", "ffn_weight", "attention_probs", "attention_input"])
@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_mse_finds_what_trying_finds(name, bits):
    x = load_sample(name)
    calibrator = MSE(bits).update(x)
    lo, hi = calibrator.range()
    tried = min(true_error(x, t, bits) for t in np.linspace(0.02, 1, 100) * np.abs(x).max())
    assert lo == -hi and true_error(x, hi, bits) < 1.01 * tried
    thresholds, errors = calibrator.trace()
    assert errors.min() == pytest.approx(true_error(x, hi, bits), rel=0.02)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e305])
def test_mse_does_not_depend_on_the_unit(scale):
    x = np.random.default_rng(0).standard_normal(1000)
    factor = 2.0 ** math.frexp(scale)[1]
    assert MSE(4).update(x * factor).range()[1] == MSE(4).update(x).range()[1] * factor


# One array


def test_calibrate_is_what_a_new_calibrator_says():
    x = load_sample("attention_weight")
    words = {"minmax": MinMax, "moving-average": MovingAverage, "percentile": Percentile, "entropy": Entropy, "mse": MSE}
    for word, kind in words.items():
        used = kind().update([1e6])
        before = state(used)
        assert calibrate(x, word) == kind().update(x).range() == calibrate(x, used) and state(used) == before
    assert calibrate(x) == calibrate(x, "minmax") and calibrate(x, Percentile(5, 95)) == Percentile(5, 95).update(x).range()
    assert calibrate(x, Entropy("modelopt", 512, 64)) == Entropy("modelopt", 512, 64).update(x).range()


def test_histogram_refuses():
    h = histogram([1.0, -2.0])
    before = h.counts.tobytes(), h.lo, h.hi, h.exponent
    for x, error in (([], ValueError), ([np.nan], ValueError), ([1j], TypeError), (None, TypeError)):
        with pytest.raises(error, match="^x must"):
            h.add(x)
    for other, error in ((Histogram(128), ValueError), (MinMax(), TypeError), (None, TypeError)):
        with pytest.raises(error, match="^other must"):
            h.merge(other)
    assert (h.counts.tobytes(), h.lo, h.hi, h.exponent) == before


def test_calibrate_refuses():
    for method in ("median", "MinMax", None, 3, MinMax, []):
        with pytest.raises(ValueError, match="minmax, moving-average, percentile, entropy, mse"):
            calibrate([1.0], method)
    for x, error in (([], ValueError), ([np.nan], ValueError), (None, TypeError), ("x", TypeError)):
        with pytest.raises(error, match="^x must"):
            calibrate(x, "minmax")


def test_a_new_kind_needs_three_methods():
    class Count(Calibrator):
        def _add(self, x): ...
        def _join(self, other): ...
        def _answer(self):
            return 0.0, float(self.count)

    assert Count().update([1, 2]).merge(Count().update([3])).range() == (0.0, 3.0) == calibrate([1, 2, 3], Count())


def test_the_rank_of_a_percentile_is_not_computed_in_floats():
    assert math.ceil(7 / 100 * 100) == 8 and math.ceil(28 / 100 * 100) == 29  # what floats say
    assert Percentile(7, 28).exact(np.arange(1.0, 101)) == (7, 28)
    assert Percentile(14, 99.9).exact(np.arange(1.0, 1001)) == (140, 999)


@pytest.mark.parametrize("exponent", [-149, -140, -113, -112, -111, 0, 100, 127])
def test_float32_of_every_size_is_counted_as_float64_is(exponent):
    "The inverse of the width is not always a float32: below some size the float64 kernel takes over."
    rng = np.random.default_rng(exponent + 149)
    x = np.ldexp(rng.uniform(-1, 1, 5000), exponent).astype(np.float32)
    x = np.concatenate([x, np.float32([1e-45, -1e-45, 1e-40, -1e-40, 0.0, -0.0]) * (exponent > -149)])
    histogram = Histogram()
    histogram.add(x)
    bins = [math.floor(Fraction(float(v)) / Fraction(histogram.width)) + 32768 for v in x]
    assert np.array_equal(histogram.counts, np.bincount(bins, minlength=65536))


def test_edges_may_be_unsigned():
    counts = np.arange(200, 0, -1)
    for variant in ("tensorrt", "modelopt"):
        right = entropy_range(counts, np.arange(201.0), variant)
        for dtype in (np.uint8, np.uint16, np.uint64, np.int8):
            edges = np.arange(201) if dtype != np.int8 else np.arange(201) // 2
            assert entropy_range(counts, edges.astype(dtype), variant) == entropy_range(counts, edges.astype(float), variant)
        assert right[0] == -right[1]


@pytest.mark.parametrize("counts", [[1e19, 1, 2], [np.inf, 1, 1], [2**62] * 3, np.uint64([2**63, 1, 1])])
def test_counts_beyond_64_bits_are_refused(counts):
    for variant in ("tensorrt", "onnxruntime", "modelopt"):
        with pytest.raises(ValueError, match=r"^counts must add up to less than 2\*\*62, got"):
            entropy_trace(counts, np.arange(4.0), variant, 2)


@pytest.mark.parametrize("make", [Entropy, lambda: Entropy("onnxruntime"), lambda: Entropy("modelopt"), MSE, Percentile])
def test_no_error_state_of_numpy_changes_a_range(make):
    x = [1e-310, 3e-310, -2e-310]
    right = make().update(x).range()
    with np.errstate(all="raise"):
        assert make().update(x).range() == right


def test_what_fits_without_loss_is_the_first_to_do_so():
    "From the last filled bin on, all candidates have divergence 0, and rounding must not choose among them."
    for filled in range(128, 300, 7):
        counts = np.array([642787] * filled + [0] * 276)
        assert entropy_range(counts, np.arange(counts.size + 1.0)) == (-filled - 0.5, filled + 0.5)


# Counts under the numbers of a short float


def next_bf16(x):
    "The number of BF16 that is next to each float32 away from zero, by NumPy's integers alone."
    return ((x.view(np.uint32) + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)


@patient
@given(hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)))
def test_bins_are_the_numbers_of_bf16(x):
    h = FloatHistogram()
    h.add(x)
    low, high, counts = h.bins()
    outer, wanted = np.unique(np.where(np.abs(x) >= 2.0**-126, next_bf16(x), 0 * x), return_counts=True)
    assert counts.sum() == x.size
    if (np.abs(x[x != 0]) >= 2.0**-126).all():  # below, a float32 has fewer bits, and the float64 that is counted has not
        assert np.array_equal(counts, wanted)
        edges = np.where(outer > 0, high, low)
        assert all(edge in (min(max(o, x.min()), x.max()), o) for edge, o in zip(edges.tolist(), outer.tolist()))


@patient
@given(data, st.sampled_from([4, 64, 512, 65536, 2**22]))
def test_every_value_lies_in_its_bin(values, bins):
    values = values.astype(np.float64)
    assume(values.size)
    h = FloatHistogram(bins)
    h.add(values)
    low, high, counts = h.bins()
    assert (low <= high).all() and (high[:-1] <= low[1:]).all() and low[0] == values.min() and high[-1] == values.max()
    for i, (a, b, count) in enumerate(zip(low.tolist(), high.tolist(), counts.tolist())):
        first, last = (values == a) & (i == 0), (values == b) & (i == low.size - 1)  # their ends are cut to the data
        inside = (values > a) & (values <= b) | first if b > 0 else (values >= a) & (values < b) | last if a < 0 else values == 0
        assert count == np.count_nonzero(inside)


def test_subnormal_float32_are_counted_as_float64_are():
    x = np.float32([1e-45, -1e-40, 3e-39, 0, 1.5e-38, -2e-38, 1.0])
    for part in (x, x[:1], x[1:3], x[:-1]):
        one, other = FloatHistogram(), FloatHistogram()
        one.add(part)
        other.add(part.astype(np.float64))
        assert facts(one) == facts(other) and np.array_equal(np.concatenate(one.bins()), np.concatenate(other.bins()))
        assert one.bins()[2].sum() == part.size and all(low <= v <= high for low, high, v in zip(*one.bins()[:2], np.sort(part).tolist()))


def test_zeros_of_float32_after_a_tiny_float64_are_zeros():
    for batches in ([[1e-300, -1e-310], np.float32([0, 0, 1])], [np.float32([0, 0, 1]), [1e-300, -1e-310]]):
        h = seen(Percentile, *batches).histogram
        assert h.bins()[2].tolist() == [1, 2, 1, 1] and h.counts[h.counts.size // 2] == 2


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_one_huge_value_spoils_no_percentile(kind):
    x = np.random.default_rng(0).standard_normal(1_000_000).astype(kind)
    x[0], x[1] = 1e10, -3e38
    for lower, upper in ((0.01, 99.99), (1, 99), (25, 75)):
        wanted, got = np.percentile(x, [lower, upper], method="inverted_cdf"), Percentile(lower, upper).update(x).range()
        assert (np.abs(got - wanted) <= 2.0**-7 * np.abs(wanted)).all() and got[0] <= wanted[0] and got[1] >= wanted[1]


def test_the_most_negative_float_in_half_a_percent_spoils_nothing():
    x = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    x[::200] = np.finfo(np.float32).min
    lo, hi = Percentile(1, 99).update(x).range()
    wanted = np.percentile(x, [1, 99], method="inverted_cdf")
    assert np.allclose([lo, hi], wanted, rtol=2.0**-7, atol=0) and -3 < lo < -2


@pytest.mark.parametrize("exponent", [-1000, -140, -126, -3, 0, 60, 127, 1000])
def test_the_relative_error_is_the_same_at_every_size(exponent):
    x = np.random.default_rng(1).standard_normal(10_000)
    kinds = [np.float64, np.float32] if -126 <= exponent < 120 else [np.float64]
    for kind in kinds:
        scaled = np.ldexp(x.astype(np.float32), exponent, dtype=kind)
        scaled = scaled[np.abs(scaled) >= np.finfo(kind).tiny]
        wanted, got = Percentile(0.1, 99.9).exact(scaled), Percentile(0.1, 99.9).update(scaled).range()
        assert all(within_relative_bound(*pair, 65536) for pair in zip(got, wanted))
        assert np.ldexp(got, -exponent).tolist() == list(Percentile(0.1, 99.9).update(x.astype(np.float32)).range()) or scaled.size < x.size


def test_percentiles_of_numbers_of_the_short_float_are_exact():
    "Whole numbers up to 256 are numbers of BF16; an end that is counted outward is met, one that is counted inward is not."
    x = np.random.default_rng(2).integers(-256, 257, 9999)
    for dtype in (np.int16, np.float16, np.float32, np.float64):
        calibrator = Percentile(3, 97).update(x.astype(dtype))
        assert calibrator.range() == calibrator.exact(x) and 0 < calibrator.error_bound() <= 1


def test_the_usual_percentile_clips_one_value_in_ten_thousand():
    x = load_sample("ffn_input")
    lo, hi = calibrate(x, "percentile")
    assert (lo, hi) == Percentile(0.01, 99.99).update(x).range() and Percentile().settings == Percentile(0.01, 99.99).settings
    assert np.mean(x > hi) <= 1e-4 and np.mean(x < lo) <= 1e-4


# Channels and masks


CHANNELED = [*[(kind, {}) for kind in (MinMax, MovingAverage, Percentile, Entropy, MSE)], (Percentile, {"lower": 10, "upper": 70}),
             (MovingAverage, {"momentum": 0.5}), (Entropy, {"variant": "onnxruntime", "bins": 200}), (Entropy, {"variant": "modelopt", "bins": 200}),
             (Entropy, {"variant": "onnxruntime-growing", "bins": 150}), (MSE, {"bits": 4, "bins": 64, "variant": "asymmetric"})]
named = pytest.mark.parametrize("kind, options", CHANNELED, ids=lambda v: getattr(v, "__name__", "-".join(map(str, v.values())) if isinstance(v, dict) else None))


def batches_of(axis, seed=0):
    "Batches of three channels along an axis, of several shapes, with masks; in each some channel may have nothing that counts."
    rng = np.random.default_rng(seed)
    for shape in ((3, 8, 20), (3, 1, 5), (3, 40, 2)):
        x = np.moveaxis(rng.standard_normal(shape) * np.array([1, 10, 0.1])[:, None, None] + 0.5, 0, axis).astype(np.float32)
        yield x, rng.random(x.shape) < 0.7


@named
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("masked", [False, True])
def test_each_channel_is_a_calibrator_of_its_own(kind, options, axis, masked):
    together, apart = kind(**options, axis=axis), [kind(**options) for _ in range(3)]
    for x, mask in batches_of(axis):
        before = x.copy()
        together.update(x, where=mask if masked else None)
        for c, one in enumerate(apart):
            row, counts = np.take(x, c, axis), np.take(mask, c, axis)
            one.update(row[counts] if masked else row)
        assert np.array_equal(x, before)
    lo, hi = together.range()
    assert type(lo) is type(hi) is np.ndarray and lo.dtype == hi.dtype == np.float64 and lo.shape == hi.shape == (3,)
    assert [(a, b) for a, b in zip(lo, hi)] == [one.range() for one in apart] and together.count == sum(one.count for one in apart)
    if hasattr(together, "error_bound"):
        assert together.error_bound().tolist() == [one.error_bound() for one in apart]
    if hasattr(together, "trace"):
        assert facts(together.trace()) == facts([one.trace() for one in apart])


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_channels_against_numpy(axis):
    (x, mask), others = next(batches_of(axis)), tuple(a for a in range(3) if a != axis % 3)
    lo, hi = MinMax(axis=axis).update(x).range()
    assert np.array_equal(lo, x.min(axis=others)) and np.array_equal(hi, x.max(axis=others))
    lo, hi = MinMax(axis=axis).update(x, where=mask).range()
    assert np.array_equal(lo, np.min(x, axis=others, where=mask, initial=np.inf)) and np.array_equal(hi, np.max(x, axis=others, where=mask, initial=-np.inf))
    wanted, got = np.percentile(x, [10, 90], axis=others, method="inverted_cdf"), Percentile(10, 90, axis=axis)
    assert np.array_equal(got.exact(x), wanted)
    assert (np.abs(np.subtract(got.update(x).range(), wanted)) <= got.error_bound()).all()
    assert (np.abs(np.subtract(got.range(), wanted)) <= 2.0**-7 * np.abs(wanted)).all()


@pytest.mark.parametrize("kind, options", [(kind, options) for kind, options in CHANNELED if not kind(**options).ordered])
def test_channels_are_merged_one_by_one(kind, options):
    batches = list(batches_of(1))
    whole, left, right = (kind(**options, axis=1) for _ in range(3))
    for x, mask in batches:
        whole.update(x, mask)
    left.update(*batches[0])
    for x, mask in batches[1:]:
        right.update(x, mask)
    before = state(right)
    assert state(kind(**options, axis=1).merge(left).merge(right)) == state(whole) and state(right) == before
    assert state(left.merge(right).merge(kind(**options, axis=1))) == state(whole)
    twice = kind(**options, axis=1).update(batches[0][0]).update(batches[0][0])
    one = kind(**options, axis=1).update(batches[0][0])
    assert state(one.merge(one)) == state(twice)


@named
def test_other_channels_are_refused_and_leave_no_trace(kind, options):
    calibrator = kind(**options, axis=1).update(np.ones((2, 3)))
    before = state(calibrator)
    with pytest.raises(ValueError, match="^batch must have 3 channels along axis 1, as those before, got 4"):
        calibrator.update(np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"^batch must have axis 1, got shape \(3,\)"):
        calibrator.update(np.ones(3))
    if not calibrator.ordered:
        with pytest.raises(ValueError, match="^other must have 3 channels along axis 1, as those before, got 2"):
            calibrator.merge(kind(**options, axis=1).update(np.ones((5, 2))))
        for axis in (None, 0, -1):
            with pytest.raises(ValueError, match="^other must have the same settings"):
                calibrator.merge(kind(**options, axis=axis))
    for nothing in ([], np.ones((0, 3)), np.ones((4, 0))):
        assert calibrator.update(nothing) is calibrator
    calibrator.update(np.full((2, 4), np.nan), where=False)
    assert state(calibrator) == before


@named
def test_a_channel_without_values_is_named(kind, options):
    mask = np.array([[True, False, True, False]])
    calibrator = kind(**options, axis=-1).update(np.ones((5, 4)), where=mask)
    for question in ("range", "trace", "error_bound"):
        if hasattr(calibrator, question):
            with pytest.raises(ValueError, match=f"must have seen data in every channel before {question}\\(\\), got none in 1, 3$"):
                getattr(calibrator, question)()
    lo, hi = calibrator.update(np.ones((5, 4))).range()
    assert lo.shape == hi.shape == (4,) and (hi > 0).all()  # ONNX Runtime's entropy clips even a constant


@named
def test_a_channel_that_a_batch_says_nothing_about_stays_as_it_was(kind, options):
    x = np.random.default_rng(6).standard_normal((3, 20, 2))
    together = kind(**options, axis=-1).update(x[0], where=[False, True]).update(x[1]).update(x[2], where=[True, False])
    ranges = [seen(lambda: kind(**options), *parts).range() for parts in ((x[1, :, 0], x[2, :, 0]), (x[0, :, 1], x[1, :, 1]))]
    assert list(zip(*together.range())) == ranges


@named
def test_what_a_mask_leaves_out_is_not_looked_at(kind, options):
    x = np.random.default_rng(3).standard_normal((4, 6)).astype(np.float32)
    mask = x > -0.5
    dirty = np.where(mask, x, np.float32(np.nan))
    dirty[~mask] = np.resize(np.float32([np.nan, np.inf, -np.inf, 3e38]), np.count_nonzero(~mask))
    assert state(kind(**options).update(dirty, where=mask)) == state(kind(**options).update(x[mask]))
    rows = np.array([True, False, True, True])[:, None]
    assert state(kind(**options).update(x, where=rows.tolist())) == state(kind(**options).update(x[[0, 2, 3]]))
    assert state(kind(**options).update(x, where=True)) == state(kind(**options).update(x))
    calibrator = kind(**options).update(x)
    before = state(calibrator)
    assert state(calibrator.update(dirty, where=np.zeros(6, bool))) == before
    with pytest.raises(ValueError, match=r"^batch must be finite, got .* at index \(\d, \d\)"):
        calibrator.update(dirty, where=np.ones(6, bool))
    for where, error in ((np.ones((4, 6), int), TypeError), ([1.0] * 6, TypeError), (np.ones((6, 4), bool), ValueError),
                         (np.ones((1, 4, 6), bool), ValueError), ("yes", TypeError)):
        with pytest.raises(error, match="^where must"):
            calibrator.update(x, where=where)
    assert state(calibrator) == before


@pytest.mark.parametrize("axis, error", [(1.0, TypeError), (True, TypeError), ("1", TypeError), (np.array([1]), TypeError)])
def test_an_axis_is_an_integer(axis, error):
    for kind in (MinMax, MovingAverage, Percentile, Entropy, MSE):
        with pytest.raises(error, match="^axis must"):
            kind(axis=axis)
    with pytest.raises(error, match="^axis must"):
        calibrate(np.ones((2, 2)), axis=axis)


def test_calibrate_takes_channels_and_masks():
    x, mask = next(batches_of(1))
    for word, kind in {"minmax": MinMax, "percentile": Percentile, "entropy": Entropy, "mse": MSE}.items():
        wanted = facts(kind(axis=1).update(x, mask).range())
        assert facts(calibrate(x, word, axis=1, where=mask)) == facts(calibrate(x, kind(), 1, mask)) == facts(calibrate(x, kind(axis=1), where=mask)) == wanted
    with pytest.raises(ValueError, match=r"^x must have axis 3, got shape \(8, 3, 20\)"):
        calibrate(x, axis=3)
    with pytest.raises(ValueError, match="^x must hold at least one value, got none in channel 1$"):
        calibrate(x, axis=1, where=np.array([True, False, True])[:, None])
    with pytest.raises(ValueError, match="^x must hold at least one value"):
        calibrate(x, where=False)


def test_ends_of_channels_make_scales():
    x = np.random.default_rng(4).standard_normal((50, 3)) * [1, 10, 100]
    for kind in (MinMax, Percentile, MSE, Entropy):
        lo, hi = kind(axis=1).update(x).range()
        for qparams in (asymmetric_qparams(lo, hi, axis=1), symmetric_qparams(lo, hi, axis=1)):
            assert qparams.scale.shape == (3,) and sqnr_db(x, fake_quantize(x, qparams)) > 10


# ONNX Runtime's growing histogram


@needs("onnxruntime")
@settings(deadline=None, max_examples=30)
@given(st.lists(hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(-50, 50, width=16)), min_size=1, max_size=5), st.sampled_from([128, 129, 300]))
@example([np.zeros(3, np.float32), np.float32([1, -2]), np.float32([2.001, 0])], 128)
@example([np.float32([0.001]), np.float32([0.5])], 128)
def test_growing_histogram_is_onnxruntimes_to_the_bit(batches, bins):
    from onnxruntime.quantization.calibrate import HistogramCollector

    collector, ours = HistogramCollector("entropy", False, bins, 128, None, None), Entropy("onnxruntime-growing", bins=bins)
    assume(all(np.abs(b).max() < 100 * np.abs(batches[0]).max() or not batches[0].any() for b in batches))  # its search takes minutes
    smallest = min((float(np.abs(b).max()) for b in batches if b.any()), default=1)
    assume(max(float(np.abs(b).max()) for b in batches) < 40 * smallest)
    for batch in batches:
        collector.collect_value({"x": batch})
        ours.update(batch)
    counts, edges, least, largest, reach = collector.get_histogram_dict()["x"]
    assert np.array_equal(ours.histogram.grown[0], counts) and np.array_equal(ours.histogram.grown[1], edges) and ours.histogram.grown[2] == reach
    assert ours.range() == tuple(float(end) for end in collector.get_entropy_threshold((counts, edges, least, largest, reach), 128))


@needs("onnxruntime")
def test_growing_histogram_on_sentences_forwards_and_backwards():
    from onnxruntime.quantization.calibrate import HistogramCollector

    pieces, found = np.array_split(load_sample("ffn_weight"), 8), set()
    for batches in (pieces, pieces[::-1]):
        collector, ours = HistogramCollector("entropy", False, 512, 128, None, None), Entropy("onnxruntime-growing", bins=512)
        for batch in batches:
            collector.collect_value({"x": batch})
            ours.update(batch)
        assert ours.range() == tuple(float(end) for end in collector.get_entropy_threshold(collector.get_histogram_dict()["x"], 128))
        found.add(ours.histogram.counts.size)
    assert len(found) == 2, "the number of bins depends on the order"


def test_growing_histogram_refuses_what_would_fill_the_memory():
    calibrator = Entropy("onnxruntime-growing").update([0.5, -1.0])
    before = state(calibrator)
    with pytest.raises(ValueError, match=r"^batch must fit bins of width 0.015625, got 1e\+10: 6e\+11 bins are missing"):
        calibrator.update([1e10])
    assert state(calibrator) == before
    for huge in ([1e308], [5e-324]):
        with pytest.raises(ValueError, match="^batch must have a largest magnitude that 128 bins can divide"):
            calibrator.update(huge)
    assert state(calibrator) == before
    channels = Entropy("onnxruntime-growing", axis=0).update([[0.5], [1.0]])
    before = state(channels)
    with pytest.raises(ValueError, match="^batch must fit"):
        channels.update([[1.0], [1e10]])
    assert state(channels) == before, "nor in the channel before"


# Squared error: what is exact, what is equal, two ends


def exhaustive(x, bits, ends):
    "The least error of all ranges between the ends that are given, by plain NumPy."
    codes, least = 2**bits - 1, math.inf
    for lo in ends[0]:
        for hi in ends[1]:
            step = (hi - lo) / codes
            zero = np.rint(-lo / step)
            y = (np.clip(np.rint(x / step) + zero, 0, codes) - zero) * step
            least = min(least, np.mean((x - y) ** 2))
    return least


@patient
@given(st.sampled_from([2, 3, 4, 8]), st.lists(st.integers(-127, 127), min_size=1, max_size=30), st.floats(1e-6, 1e6), st.sampled_from([np.float32, np.float64]))
def test_what_can_be_represented_exactly_is(bits, codes, step, kind):
    qmax = 2 ** (bits - 1) - 1
    q = np.array([c % (2 * qmax + 1) - qmax for c in codes])
    x = (q * kind(step)).astype(kind)
    assume(q.any())
    lo, hi = MSE(bits).update(x).range()
    assert lo == -hi and np.abs(x).max() <= hi < 2 * np.abs(x).max()
    y = fake_quantize(x.astype(np.float64), QParams(hi / qmax, 0, -qmax, qmax))
    assert np.allclose(y, x, rtol=3e-7, atol=0)
    if np.abs(q).max() == qmax:
        assert hi == np.abs(x).max()


@pytest.mark.parametrize("variant", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("value", [3.0, -3.0, 1e-3, 54784.0, 0.1, -3.4e38])
def test_a_constant_is_kept(variant, value):
    for bits in (2, 4, 8, 16):
        lo, hi = MSE(bits, variant=variant).update(np.full(1000, value)).range()
        assert (lo, hi) == ((-abs(value), abs(value)) if variant == "symmetric" else (min(value, 0), max(value, 0)))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_ternary_weights_keep_their_largest(bits):
    x = np.random.default_rng(0).choice(np.float32([-0.37, 0, 0.37]), 5000)
    assert MSE(bits).update(x).range() == (-float(np.float32(0.37)), float(np.float32(0.37)))


def test_a_pile_at_the_end_is_kept_where_it_is():
    "ReLU6: a third of the values are 6, and no bin may smear them."
    x = np.clip(np.random.default_rng(0).normal(4, 4, 300_000), 0, 6).astype(np.float32)
    assert 0.25 < np.mean(x == 6) < 0.4
    for batches in ([x], np.array_split(x, 7)):
        assert seen(MSE, *batches).range() == (-6, 6) and seen(lambda: MSE(variant="asymmetric"), *batches).range() == (0, 6)


def test_of_equal_errors_the_longer_range_is_kept():
    "The square of 1e-200 is nothing, so that every lower end from 0 to -1e-200 has the same error."
    assert MSE(variant="asymmetric").update([-1e-200, 0.0, 1.0]).range() == (-1e-200, 1.0)
    ranges, errors = MSE(variant="asymmetric").update([-1e-200, 0.0, 1.0]).trace()
    assert np.count_nonzero(errors == errors.min()) > 40 and (ranges[-1] == (-1e-200, 1.0)).all()


@pytest.mark.parametrize("bins", [200, 2048])
def test_thresholds_around_the_best_are_as_near_as_was_asked_for(bins):
    x = load_sample("ffn_weight")
    thresholds, errors = MSE(bins=bins).update(x).trace()
    best = errors.argmin()
    assert (np.diff(thresholds)[best - 1 : best + 1] <= 1.001 * np.abs(x).max() / bins).all()
    wide = np.concatenate([thresholds[:-1][np.diff(thresholds) > np.abs(x).max() / bins], thresholds[-1:]])
    assert 0 < best < thresholds.size - 1 and wide.size > 10, "the search is fine only where it has to be"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_two_ends_against_an_exhaustive_search(seed, bits):
    rng = np.random.default_rng(seed)
    x = [rng.standard_normal(300), rng.exponential(1, 300) - 0.3, np.append(rng.normal(1, 1, 300), 30.0), -rng.exponential(1, 300)][seed]
    shares = np.arange(1, 41) / 40
    least = exhaustive(x, bits, (min(x.min(), 0) * shares, max(x.max(), 0) * shares) if x.max() > 0 else (x.min() * shares, [0.0]))
    lo, hi = MSE(bits, variant="asymmetric").update(x).range()
    assert lo <= 0 <= hi and exhaustive(x, bits, ([lo], [hi])) <= 1.01 * least
    qparams = asymmetric_qparams(lo, hi, bits=bits, signed=False)
    assert mse(x, fake_quantize(x, qparams)) == pytest.approx(exhaustive(x, bits, ([lo], [hi])), rel=1e-6)


def test_two_ends_are_searched_finely_around_the_best():
    x = np.random.default_rng(0).standard_normal(50_000)
    (ranges, errors), (lo, hi) = (calibrator := MSE(4, bins=400, variant="asymmetric").update(x)).trace(), calibrator.range()
    assert errors[(ranges == (lo, hi)).all(axis=1)].min() == errors.min()
    for ends, end, reach in ((ranges[:, 0], lo, x.min()), (ranges[:, 1], hi, x.max())):
        assert np.sort(np.abs(np.unique(ends) - end))[1] <= 1.01 * 2 / 20**2 * abs(reach)


@pytest.mark.parametrize("variant", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_errors_of_a_trace_are_those_of_its_ranges(variant, bits):
    "As long as the values are known, every error is exact; plain NumPy gives it again."
    x = np.random.default_rng(bits).standard_normal(100) + 0.4
    tried, errors = MSE(bits, variant=variant).update(x).trace()
    for place in range(0, tried.shape[0], 97):
        if variant == "symmetric":
            step = tried[place] / (2 ** (bits - 1) - 1)
            y = np.clip(np.rint(x / step), 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1) * step
            assert errors[place] == pytest.approx(np.mean((x - y) ** 2), rel=1e-9)
        else:
            (lo, hi), within = tried[place], (tried[place] >= [x.min(), -np.inf]) & (tried[place] <= [np.inf, x.max()])
            assert within.all() and errors[place] == pytest.approx(exhaustive(x, bits, ([lo], [hi])), rel=1e-9)


@needs("torch")
@pytest.mark.parametrize("name", ["ffn_input", "attention_probs", "ffn_weight", "attention_input"])
def test_two_ends_are_no_worse_than_pytorchs(name):
    import torch
    from torch.ao.quantization import HistogramObserver

    x, observer = load_sample(name), HistogramObserver(dtype=torch.quint8, qscheme=torch.per_tensor_affine)
    observer(torch.from_numpy(x.astype(np.float32)))
    scale, zero_point = observer.calculate_qparams()
    theirs = mse(x, fake_quantize(x, QParams(np.float32(scale.item()), int(zero_point.item()), 0, 255)))
    lo, hi = MSE(variant="asymmetric").update(x).range()
    assert mse(x, fake_quantize(x, asymmetric_qparams(lo, hi, signed=False))) < 1.02 * theirs


def test_squared_error_sides_with_the_loud_and_says_so():
    "One value of 1e10 is worth more than a million others, if errors are squared: this is what is asked for, and no fault of the bins."
    x = np.random.default_rng(0).standard_normal(100_000)
    x[0] = 1e10
    assert MSE().update(x).range() == (-1e10, 1e10) and mse(x, fake_quantize(x, QParams(1e10 / 127, 0, -127, 127))) < 1.1
    x[0] = 100.0  # worth less than all others together
    lo, hi = MSE().update(x).range()
    tried = np.linspace(1, 100, 400)
    assert true_error(x, hi, 8) < 1.01 * min(true_error(x, t, 8) for t in tried) and hi < 100


@patient
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=12), st.integers(0, 40), st.integers(1, 30))
def test_the_error_of_a_bin_is_the_mean_over_it(values, levels, parts):
    "The integral in closed form against a sum of exact pieces between its kinks, by fractions."
    from quant101.calibration import _mean_error

    low, high = sorted((values[0], values[0] + parts / 7))
    step, qmax = Fraction(parts, 11), levels
    def square(v):
        q = min(max(round(v / step), -qmax), qmax)
        return (v - q * step) ** 2
    a, b = Fraction(low), Fraction(high)
    kinks = sorted({a, b, *[(k + Fraction(1, 2)) * step for k in range(-qmax - 1, qmax + 1) if a < (k + Fraction(1, 2)) * step < b]})
    total = sum((right - left) * simpson(square, left, right) for left, right in zip(kinks, kinks[1:]))
    assert _mean_error(low, high, float(step), -float(qmax), float(qmax)) == pytest.approx(float(total / (b - a)), rel=1e-6, abs=1e-9)


def simpson(f, left, right):
    "The mean of a parabola between two kinks, exact; the ends are taken just inside, where the code is that of the middle."
    middle = (left + right) / 2
    near = (right - left) / 10**9
    return (f(left + near) + 4 * f(middle) + f(right - near)) / 6


def test_a_single_number_may_be_masked():
    for x in (2.5, np.float32(2.5), np.array(2.5)):
        assert MinMax().update(x, where=True).range() == MinMax().update(x).range() == (2.5, 2.5)
        assert MinMax().update(x, where=False).count == 0
