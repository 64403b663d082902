"""Take a trained model elsewhere: `python -m rainbow_ray.export runs/NAME --onnx`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rainbow_ray.cli import run
from rainbow_ray.utils.errors import EXIT_SUCCESS
from rainbow_ray.utils.paths import path_option
from rainbow_ray.utils.signals import raise_on_signal

FOLDER = "onnx"  # beside a run's model/
GRAPH_MARK, HUB_MARK = "model.onnx", "rainbow_ray.json"  # what folders of ours have


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    onnx_folder = _check(options)

    from rainbow_ray.distributed.ray_cluster import prepare_environment

    prepare_environment()

    with raise_on_signal():  # what is half written is removed
        _export(options, onnx_folder)
    return EXIT_SUCCESS


def _export(options: argparse.Namespace, onnx_folder: Path | None) -> None:
    """Write the graph, the folder for transformers, or both."""
    from rainbow_ray.bundle.bundle import bundle_hash, load_bundle

    bundle = load_bundle(options.model)
    if onnx_folder is not None:
        from rainbow_ray.exporters.onnx import TOLERANCE, export_onnx

        made = export_onnx(bundle, onnx_folder, bundle_hash(options.model))
        print(f"{made.folder}: scores as the model does over {made.batches} made-up batches: the largest difference is"
              f" {made.parity:.1e} (allowed: {TOLERANCE:.0e}, fp32)")  # fmt: skip
        if bundle.model.modalities == ("text",):
            print(f"Try it: python -m rainbow_ray.predict --model {made.folder} --text \"…\"  (pip install"
                  " 'rainbow-ray[predict]' is enough)")  # fmt: skip
        else:
            print(f"It reads {', '.join(bundle.model.modalities)}; one window an example. onnxruntime runs it; `predict"
                  " --text` needs a model of texts alone")  # fmt: skip
    if options.hub_folder is not None:
        from rainbow_ray.exporters.transformers import write_hub_folder

        hub = write_hub_folder(bundle, options.hub_folder)
        print(f"{hub.folder}: AutoModelForSequenceClassification.from_pretrained loads it; the largest difference of a"
              f" logit is {hub.parity:.1e}")  # fmt: skip
        for note in hub.notes:
            print(f"Note: {note}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rainbow_ray.export", description=__doc__, allow_abbrev=False)
    parser.add_argument("model", type=path_option, metavar="RUN|FOLDER", help="a run, or its model/ folder")
    parser.add_argument("--onnx", action="store_true", help="write an ONNX graph with what reads texts for it")
    parser.add_argument("--out", type=path_option, metavar="D", help="where it goes (default: RUN/onnx)")
    parser.add_argument("--hub-folder", type=path_option, metavar="D", help="write what plain transformers loads,"
                        " where the head allows it")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="what is there already may be replaced")
    return parser


def _check(options: argparse.Namespace) -> Path | None:
    """Where the graph goes, if one is asked for. Raises `InputError` with all that is wrong."""
    from rainbow_ray.utils.errors import InputError

    problems = []
    folder = None
    if not options.onnx and options.hub_folder is None:
        problems.append("say what to write: --onnx, --hub-folder D, or both")
    if options.out is not None and not options.onnx:
        problems.append("--out: it is where --onnx goes, which is not asked for")
    if options.onnx:
        folder = options.out or (options.model if (options.model / "model").is_dir() else options.model.parent) / FOLDER
        problems += _lacking()
    targets = [(flag, path) for flag, path in (("--out", folder), ("--hub-folder", options.hub_folder)) if path]
    problems += [said for flag, path in targets for said in _check_target(flag, path, options)]
    if len(targets) == 2 and _touch(targets[0][1], targets[1][1]):
        problems.append("--hub-folder: the graph goes there; name another folder")
    if problems:
        raise InputError(problems)
    return folder


def _check_target(flag: str, path: Path, options: argparse.Namespace) -> list[str]:
    """Why nothing can be written there: what is not ours to replace is left alone, above all the model itself."""
    mark = GRAPH_MARK if flag == "--out" else HUB_MARK
    model = options.model / "model" if (options.model / "model").is_dir() else options.model
    if _touch(path, model):
        return [f"{flag} {path}: the model itself lies there; another name"]
    if path.exists() and not options.overwrite:
        return [f"{flag} {path}: it is there already; another name, or --overwrite"]
    if path.exists() and not (path / mark).is_file():
        return [f"{flag} {path}: this is no folder that export wrote, and is not replaced"]
    if not path.resolve().parent.is_dir():
        return [f"{flag} {path}: there is no folder {path.parent}"]
    return []


def _touch(one: Path, other: Path) -> bool:
    """Whether two folders are one, or one lies in the other."""
    a, b = one.resolve(), other.resolve()
    return a == b or a in b.parents or b in a.parents


def _lacking() -> list[str]:
    import importlib.util

    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    return [f"--onnx: {', '.join(missing)} must be installed: pip install 'rainbow-ray[export]'"] if missing else []


if __name__ == "__main__":
    sys.exit(run(main))
