"""Aligned language models on your own machine: STARS over GGUF and ONNX, offline."""

from stars_local.api import Aligned

__all__ = ["Aligned"]
