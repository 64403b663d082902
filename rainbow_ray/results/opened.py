"""A model by its folder, whatever it is written for: torch, or ONNX where that is all there is."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from rainbow_ray.results.onnx_bundle import FOLDER, OnnxPredictor, is_onnx

if TYPE_CHECKING:
    from rainbow_ray.results.inference import Predictor


def open_model(path: Path, device: str = "auto", media_root: str | Path = ".") -> Predictor | OnnxPredictor:
    """A run or a bundle on torch; an ONNX bundle, or a run that has one where torch is missing, on onnxruntime.

    Raises `InputError` when it is not whole.
    """
    if is_onnx(path) or (is_onnx(path / FOLDER) and importlib.util.find_spec("torch") is None):
        return OnnxPredictor.load(path)

    from rainbow_ray.results.inference import Predictor

    return Predictor.load(path, device, media_root)
