"""Draw .github/outliers.svg, the picture of the README: the same figure that opens the book."""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

from quant101.plots import plot_sample_columns, use_style
from quant101.samples import load_sample

TARGET = Path(__file__).resolve().parent.parent / ".github/outliers.svg"


def main(target=TARGET):
    matplotlib.use("svg")
    use_style()
    ax = plot_sample_columns(load_sample("ffn_input"), threshold=6.0)
    ax.figure.savefig(target, metadata={"Date": None}, facecolor="white")
    plt.close(ax.figure)


if __name__ == "__main__":
    main()
