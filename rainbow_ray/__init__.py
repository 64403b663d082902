"""rainbow_ray trains and tunes rebracketing models on songs, on Ray."""

from __future__ import annotations

from rainbow_ray.utils.signals import exit_on_signal, is_command

if is_command("rainbow_ray"):  # before any other import: Ctrl-C during them ends a command with one line
    exit_on_signal()

    from rainbow_ray.utils.streams import protect_streams

    protect_streams()

TYPE_CHECKING = False  # as in `typing`, which takes a while to import
if TYPE_CHECKING:
    from pathlib import Path

    from rainbow_ray.inference.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(path: str | Path, *, media_root: str | Path | None = None, device: str = "auto") -> Predictor:
    """Load a trained model, without network access and without unpickling.

    Args:
        path: A run, its `model/` folder copied to any place, or the output of `export --onnx`.
        media_root: Folder that relative paths of audio and MIDI files start from; None: the current folder.
        device: `auto`, `cpu`, `cuda` or `mps`; ONNX models run on the CPU.

    Returns:
        The model: `predict` scores texts and tables, `predict_segments` tables of segments. An ONNX bundle returns an
        `OnnxPredictor`, which scores texts alone.

    Raises:
        InputError: The folder is not a complete model, or `media_root` does not exist.
    """
    import warnings
    from pathlib import Path
    from typing import cast

    from rainbow_ray.inference.load import open_model
    from rainbow_ray.utils.errors import InputError

    if media_root is not None and not Path(media_root).expanduser().is_dir():
        raise InputError(f"media_root {media_root}: no such folder; audio and MIDI files are searched there")
    model = open_model(Path(path), device, media_root)
    if media_root is not None and not model.reads_media:
        warnings.warn(f"media_root {media_root} has no effect: this model reads text alone", stacklevel=2)
    # the type that callers usually need; only ONNX bundles return the other one
    return cast("Predictor", model)
