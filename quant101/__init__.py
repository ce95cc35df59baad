"""Quantization for machine learning, from the bits up."""

__version__ = "0.1.0"
