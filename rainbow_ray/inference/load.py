"""Load a model from its folder, on PyTorch or on onnxruntime."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from rainbow_ray.bundle.integrity import is_onnx
from rainbow_ray.inference.onnx_predictor import FOLDER, OnnxPredictor
from rainbow_ray.utils.errors import InputError

if TYPE_CHECKING:
    from rainbow_ray.inference.predictor import Predictor

HUB_MARK = "rainbow_ray.json"  # file of folders that `export --hub-folder` wrote


def open_model(path: Path, device: str = "auto", media_root: str | Path | None = None) -> Predictor | OnnxPredictor:
    """Load a run or a bundle on PyTorch, an ONNX bundle on onnxruntime.

    Where PyTorch is not installed, the ONNX bundle of a run is loaded.

    Args:
        path: Folder of the model.
        device: Device of a model on PyTorch.
        media_root: Folder that relative paths of audio and MIDI start from; None: the current folder.

    Returns:
        The model.

    Raises:
        InputError: The folder is not a complete model.
    """
    path = path.expanduser()
    if (path / HUB_MARK).is_file():
        raise InputError(f"{path}: `export --hub-folder` wrote this folder for transformers; load it with"
                         " AutoModelForSequenceClassification.from_pretrained, or name the run that it was exported"
                         " from")  # fmt: skip
    if is_onnx(path) or (is_onnx(path / FOLDER) and importlib.util.find_spec("torch") is None):
        return OnnxPredictor.load(path)

    from rainbow_ray.inference.predictor import Predictor  # imports torch

    return Predictor.load(path, device, "." if media_root is None else media_root)
