"""Work of `python -m rainbow_ray.export`: check the options, then write the requested folders."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from rainbow_ray.bundle.integrity import GRAPH
from rainbow_ray.distributed.ray_cluster import prepare_environment
from rainbow_ray.inference.load import HUB_MARK
from rainbow_ray.inference.onnx_predictor import FOLDER
from rainbow_ray.utils.errors import EXIT_SUCCESS, InputError
from rainbow_ray.utils.signals import raise_on_signal

if TYPE_CHECKING:
    from rainbow_ray.bundle.bundle import Bundle

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export(options: argparse.Namespace) -> int:
    """Write what `--onnx` and `--hub-folder` request.

    Args:
        options: Arguments of `export`.

    Returns:
        The exit code.

    Raises:
        InputError: The options or the model are wrong.
    """
    onnx_folder = check_options(options)
    prepare_environment()

    # After `prepare_environment`, which transformers reads when it is imported.
    from rainbow_ray.bundle.bundle import bundle_hash, load_bundle

    with raise_on_signal():  # so that a partial folder is removed
        bundle = load_bundle(options.model)
        if onnx_folder is not None:
            _export_onnx(bundle, onnx_folder, bundle_hash(options.model))
        if options.hub_folder is not None:
            _export_transformers(bundle, options.hub_folder)
    return EXIT_SUCCESS


def _export_onnx(bundle: Bundle, folder: Path, source_hash: str) -> None:
    from rainbow_ray.exporters.onnx import TOLERANCE, export_onnx

    result = export_onnx(bundle, folder, source_hash)
    print(
        f"{result.folder}: over {result.n_batches} random batches, the largest difference to the model's scores is"
        f" {result.parity:.1e} (tolerance: {TOLERANCE:.0e}, fp32)"
    )
    if not bundle.model.is_fused:
        print(
            f'Try it: python -m rainbow_ray.predict --model {result.folder} --text "…"  (pip install'
            " 'rainbow-ray[predict]' is enough)"
        )
    else:
        print(
            f"It reads {', '.join(bundle.model.modalities)}, with one window per example. Run it with onnxruntime;"
            " `predict --text` needs a model that reads only text"
        )


def _export_transformers(bundle: Bundle, folder: Path) -> None:
    from rainbow_ray.exporters.transformers import write_hub_folder

    result = write_hub_folder(bundle, folder)
    print(
        f"{result.folder}: AutoModelForSequenceClassification.from_pretrained loads it; the largest difference of a"
        f" logit is {result.parity:.1e}"
    )
    for note in result.notes:
        print(f"Note: {note}")


def check_options(options: argparse.Namespace) -> Path | None:
    """Check the options before the model is loaded.

    Args:
        options: Arguments of `export`.

    Returns:
        Folder of the ONNX bundle, or None where none is requested.

    Raises:
        InputError: Options are wrong or contradict each other, with all problems.
    """
    problems = []
    onnx_folder = None
    if not options.onnx and options.hub_folder is None:
        problems.append("choose what to write: --onnx, --hub-folder D, or both")
    if options.out is not None and not options.onnx:
        problems.append("--out: it is the folder of --onnx, which is not requested")
    if options.onnx:
        run = options.model if (options.model / "model").is_dir() else options.model.parent
        onnx_folder = options.out or run / FOLDER
        problems += _missing_packages()
    if onnx_folder is not None:
        problems += _check_target("--out", onnx_folder, GRAPH, options)
    if options.hub_folder is not None:
        problems += _check_target("--hub-folder", options.hub_folder, HUB_MARK, options)
    if onnx_folder is not None and options.hub_folder is not None and _overlap(onnx_folder, options.hub_folder):
        problems.append("--hub-folder: the ONNX bundle is written there; choose another folder")
    if problems:
        raise InputError(problems)
    return onnx_folder


def _check_target(flag: str, path: Path, mark: str, options: argparse.Namespace) -> list[str]:
    """Return messages on an output folder. Only folders that `export` wrote, which contain `mark`, are replaced."""
    model = options.model / "model" if (options.model / "model").is_dir() else options.model
    if _overlap(path, model):
        return [f"{flag} {path}: the model itself is there; choose another name"]
    if path.exists() and not options.overwrite:
        return [f"{flag} {path}: it exists; choose another name, or --overwrite"]
    if path.exists() and not (path / mark).is_file():
        return [f"{flag} {path}: it is not a folder that export wrote, and is not replaced; choose another name"]
    if not path.resolve().parent.is_dir():
        return [f"{flag} {path}: there is no folder {path.parent}"]
    return []


def _overlap(first: Path, second: Path) -> bool:
    """Return whether two folders are the same, or one contains the other."""
    a, b = first.resolve(), second.resolve()
    return a == b or a in b.parents or b in a.parents


def _missing_packages() -> list[str]:
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    return [f"--onnx: {', '.join(missing)} must be installed: pip install 'rainbow-ray[export]'"] if missing else []
