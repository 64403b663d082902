"""rainbow_ray trains and tunes rebracketing models on songs, on Ray."""

from __future__ import annotations

from rainbow_ray.utils.signals import exit_on_signal, is_command
from rainbow_ray.utils.streams import protect_streams

if is_command("rainbow_ray"):  # before the slow imports: Ctrl-C during them ends a command with one line
    exit_on_signal()
    protect_streams()

TYPE_CHECKING = False  # as in `typing`, which takes a while to import
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
