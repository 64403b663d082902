"""A model by its folder, whatever it is written for: torch, or ONNX where that is all there is."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from rainbow_ray.bundle.integrity import is_onnx
from rainbow_ray.inference.onnx_predictor import FOLDER, OnnxPredictor
from rainbow_ray.utils.errors import InputError

if TYPE_CHECKING:
    from rainbow_ray.inference.predictor import Predictor

HUB_MARK = "rainbow_ray.json"  # lies in folders that `export --hub-folder` wrote


def open_model(path: Path, device: str = "auto", media_root: str | Path | None = None) -> Predictor | OnnxPredictor:
    """Open a run or a bundle on torch; an ONNX bundle, or a run that has one where torch is missing, on onnxruntime.

    Args:
        path: The folder.
        device: Where a model on torch runs.
        media_root: The folder that relative names of audio and MIDI files start from; None: the current folder.

    Raises:
        InputError: The folder is not a whole model.
    """
    path = path.expanduser()
    if (path / HUB_MARK).is_file():
        raise InputError(f"{path}: `export --hub-folder` wrote this for transformers, whose"
                         " AutoModelForSequenceClassification.from_pretrained loads it; name the run that it came"
                         " from")  # fmt: skip
    if is_onnx(path) or (is_onnx(path / FOLDER) and importlib.util.find_spec("torch") is None):
        return OnnxPredictor.load(path)

    from rainbow_ray.inference.predictor import Predictor

    return Predictor.load(path, device, "." if media_root is None else media_root)
