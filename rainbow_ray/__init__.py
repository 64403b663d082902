"""rainbow_ray trains and tunes rebracketing models on songs, on Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from rainbow_ray.results.inference import Predictor

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(path: str | Path) -> Predictor:
    """Open a trained model: a run's folder, or its `model/` folder copied anywhere.

    Needs no network and unpickles nothing. Raises `InputError` when the folder is not a whole bundle.
    """
    from rainbow_ray.results.inference import Predictor

    return Predictor.load(path)
