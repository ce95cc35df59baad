"""Train the little network of quant101/data/digits.npz, and write it down with the images that it has never seen.

    python tools/train_digits.py            train and write the file
    python tools/train_digits.py --check    train again and compare with the file; exit 1 if they differ

Needs scikit-learn, for its copy of the digits, and NumPy. Images and labels are compared bit for bit. The weights of a
new training come out otherwise where a matrix library adds up in another order, so for them the stored network is run:
it must know as many of its images as a network should.
"""
import argparse
import sys
from pathlib import Path

import numpy as np
from record_samples import read, write

DATA = Path(__file__).resolve().parent.parent / "quant101" / "data"
KEPT = 400  # images that are stored and not trained on
SHAPES = {"digit_weight_1": (32, 64), "digit_bias_1": (32,), "digit_weight_2": (32, 32), "digit_bias_2": (32,),
          "digit_weight_3": (10, 32), "digit_bias_3": (10,)}  # rows of a weight are its outputs
EPOCHS, BATCHES, RATE, DECAY = 150, 10, 3e-3, 1e-2


def images() -> tuple[np.ndarray, np.ndarray]:
    "All 1797 images, shape (1797, 64), 0 for white to 16 for black, and their labels, in an order of our own."
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return pixels[order].astype(np.int8), labels[order].astype(np.int8)


def forward(x: np.ndarray, network: list) -> tuple:
    "Two hidden layers with ReLU, the first of which is added to the second; returns what every step gives."
    w1, b1, w2, b2, w3, b3 = network
    first = np.maximum(x @ w1.T + b1, 0)
    second = np.maximum(first @ w2.T + b2, 0)
    both = first + second
    return first, second, both, both @ w3.T + b3


def gradients(x: np.ndarray, labels: np.ndarray, network: list) -> list:
    "Gradients of the mean cross entropy."
    w1, b1, w2, b2, w3, b3 = network
    first, second, both, y = forward(x, network)
    shares = np.exp(y - y.max(axis=1, keepdims=True))
    g3 = (shares / shares.sum(axis=1, keepdims=True) - np.eye(10)[labels]) / len(x)
    g_both = g3 @ w3
    g2 = g_both * (second > 0)
    g1 = (g_both + g2 @ w2) * (first > 0)
    return [g1.T @ x, g1.sum(axis=0), g2.T @ first, g2.sum(axis=0), g3.T @ both, g3.sum(axis=0)]


def train(x: np.ndarray, labels: np.ndarray) -> list:
    "Adam with decoupled weight decay (Kingma and Ba 2015, Loshchilov and Hutter 2019), in float64; at the end rounded to eight significant bits, which take less room."
    rng = np.random.default_rng(0)
    network = [rng.normal(0, np.sqrt(2 / s[1]), s) if len(s) == 2 else np.zeros(s) for s in SHAPES.values()]
    mean, square = [np.zeros_like(p) for p in network], [np.zeros_like(p) for p in network]
    for step in range(EPOCHS * BATCHES):
        if step % BATCHES == 0:
            batches = np.array_split(rng.permutation(len(x)), BATCHES)
        batch, rate = batches[step % BATCHES], RATE * (1 - step / (EPOCHS * BATCHES))
        for p, g, m, v in zip(network, gradients(x[batch], labels[batch], network), mean, square):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            p -= rate * (m / (1 - 0.9 ** (step + 1)) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8) + DECAY * p * (p.ndim == 2))
    return [np.ldexp(np.rint(np.ldexp(m, 8)), e - 8).astype(np.float32) for m, e in map(np.frexp, network)]


def record() -> dict[str, np.ndarray]:
    pixels, labels = images()
    network = train(pixels[KEPT:] / 16, labels[KEPT:])
    return {"digit_pixels": pixels[:KEPT], "digit_labels": labels[:KEPT]} | dict(zip(SHAPES, network))


def right(samples: dict[str, np.ndarray]) -> int:
    "How many of its images the network knows."
    y = forward(samples["digit_pixels"] / 16, [samples[name] for name in SHAPES])[-1]
    return int(np.sum(y.argmax(axis=1) == samples["digit_labels"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the stored file instead of writing it")
    parser.add_argument("--file", type=Path, default=DATA / "digits.npz", help="the file to write or compare with")
    arguments = parser.parse_args()
    new = record()
    if not arguments.check:
        write(new, arguments.file)
        print(f"wrote {arguments.file}: {arguments.file.stat().st_size:,} bytes; {right(new)} of {KEPT} images known")
        return 0
    old = read(arguments.file)
    same = all(np.array_equal(new[name], old[name]) for name in ("digit_pixels", "digit_labels"))
    print(f"images {'as stored' if same else 'differ'}; known of {KEPT}: {right(old)} by the stored network, {right(new)} by the new one")
    return 0 if same and min(right(old), right(new)) >= 0.95 * KEPT and list(old) == list(new) else 1


if __name__ == "__main__":
    sys.exit(main())
