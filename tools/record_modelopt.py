"""Record what NVIDIA ModelOpt's and PyTorch's calibrators answer, for tests/test_calibration.py to compare with.

    pip install -e . nvidia-modelopt==0.47.0 torch==2.13.0 requests huggingface_hub
    python tools/record_modelopt.py            record and write tests/modelopt.json
    python tools/record_modelopt.py --check    record and compare with the file; exit 1 if they differ

The inputs are the book's samples and arithmetic on them, so that the file holds answers alone.
"""
import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from modelopt.torch.quantization.calib import HistogramCalibrator, histogram
from torch.ao.quantization.observer import MovingAverageMinMaxObserver

from quant101.samples import load_sample

FILE = Path(__file__).resolve().parent.parent / "tests" / "modelopt.json"
SAMPLES = ("ffn_input", "attention_input", "attention_probs", "ffn_weight", "attention_weight", "ffn_bias")
SETTINGS = ({"bins": 2048, "bits": 8}, {"bins": 512, "bits": 8}, {"bins": 2048, "bits": 6})
STRIDE = 61  # every so many divergences are kept


def tensors() -> dict[str, np.ndarray]:
    "The inputs by name: samples, some functions of them, and small vectors of special shape."
    found = {name: load_sample(name) for name in SAMPLES}
    found["relu"] = np.maximum(found["attention_input"], 0)
    found["cubed"] = found["ffn_weight"] ** 3
    found["worked"] = np.array([0.1, 0.15, 0.2, 5.0], np.float32)
    found["constant"] = np.full(7, 3.0, np.float32)
    return found


def entropy_case(x: np.ndarray, bins: int, bits: int) -> dict:
    "ModelOpt's threshold for `x`, and every STRIDE-th divergence that it compared."
    divergences, original = [], histogram.entropy
    histogram.entropy = lambda p, q: divergences.append(float(original(p, q))) or divergences[-1]
    try:
        calibrator = HistogramCalibrator(num_bits=bits, num_bins=bins)
        calibrator.collect(torch.tensor(x))
        amax = float(calibrator.compute_amax("entropy"))
    finally:
        histogram.entropy = original
    return {"amax": amax, "candidates": len(divergences), "kl": [str(kl) for kl in divergences[::STRIDE]]}


def moving_average_case() -> dict:
    "PyTorch's moving average of minimum and maximum over the sentences of ffn_input."
    observer = MovingAverageMinMaxObserver(averaging_constant=0.1)
    ends = np.cumsum(load_sample("sentence_lengths"))[:-1]
    for batch in np.split(load_sample("ffn_input"), ends):
        observer(torch.tensor(batch))
    return {"momentum": 0.9, "lo": float(observer.min_val), "hi": float(observer.max_val)}


def record() -> dict:
    "Everything that the file holds."
    entropy = [{"x": name, **settings, **entropy_case(x, **settings)} for name, x in tensors().items() for settings in SETTINGS]
    versions = {name: version(name) for name in ("nvidia-modelopt", "torch", "scipy", "numpy")}
    return {"made by": "python tools/record_modelopt.py", "versions": versions, "stride": STRIDE,
            "entropy": entropy, "moving average": moving_average_case()}


def main() -> int:
    "Write the file, or compare with it."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the stored file instead of writing it")
    new = record()
    if parser.parse_args().check:
        old = json.loads(FILE.read_text(encoding="utf-8"))
        return int(any(new[key] != old[key] for key in ("entropy", "moving average")))
    FILE.write_text(json.dumps(new, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
