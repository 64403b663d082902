"""Arguments of the commands that take a trained model or a finished run: predict, export, serve, report."""

from __future__ import annotations

import argparse
import os

from rainbow_ray.cli.deprecated_flags import add_renamed_flag
from rainbow_ray.config.load import ADDRESS_VARIABLE
from rainbow_ray.utils.paths import location_option, path_option

DEVICES = ("auto", "cuda", "mps", "cpu")
MODEL_HELP = "a run, or its model/ folder"


def _make_parser(command: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"python -m rainbow_ray.{command}", description=description, allow_abbrev=False)


def make_predict_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of `predict`.

    Args:
        description: Text above the arguments in `--help`.

    Returns:
        The parser.
    """
    parser = _make_parser("predict", description)
    parser.add_argument(
        "--model", type=path_option, required=True, metavar="RUN|FOLDER",
        help="a run, or its model/ folder, or the output of `export --onnx`",
    )  # fmt: skip
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--manifest", type=location_option, metavar="P", help="parquet file, folder or URL of songs")
    source.add_argument("--text", metavar="T", help="one text")
    source.add_argument("--text-file", type=path_option, metavar="F", help="one text per line; blank lines are skipped")
    parser.add_argument("--out", type=path_option, metavar="F", help="table to write: .parquet, .csv, .jsonl")
    parser.add_argument(
        "--media-root", type=path_option, metavar="D",
        help="folder that relative paths of audio and MIDI start from (default: the manifest's folder)",
    )  # fmt: skip
    parser.add_argument(
        "--allow-missing", action="store_true",
        help="score rows whose audio or MIDI cannot be read, however many there are (default: at most"
        " data.max_unreadable_fraction of the run)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an existing --out")
    parser.add_argument("--resume", action="store_true", help="continue a --manifest that was interrupted")
    parser.add_argument(
        "--workers", type=int, metavar="N",
        help="parallel workers for --manifest (default: all CPUs or GPUs for a large table)",
    )  # fmt: skip
    add_renamed_flag(
        parser, "--chunk-rows", "--part-rows", type=int, metavar="N",
        help="rows of --manifest that are scored into one file, and lost at most when the command is interrupted"
        " (default: at most 10000)",
    )  # fmt: skip
    parser.add_argument(
        "--address", metavar="A", default=os.environ.get(ADDRESS_VARIABLE) or None,
        help="address of a Ray cluster to join (default: start one for this command)",
    )  # fmt: skip
    parser.add_argument(
        "--suggest", type=int, metavar="N",
        help="rank the songs of --manifest by what labeling them should teach, and show the N best",
    )  # fmt: skip
    parser.add_argument("--top", type=int, metavar="N", help="show the N highest of --text-file, with their words")
    add_renamed_flag(
        parser, "--rank-by-class", "--class", metavar="NAME",
        help="rank by the score of this class (default: by the highest score)",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", choices=DEVICES)
    return parser


def make_export_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of `export`.

    Args:
        description: Text above the arguments in `--help`.

    Returns:
        The parser.
    """
    parser = _make_parser("export", description)
    parser.add_argument("model", type=path_option, metavar="RUN|FOLDER", help=MODEL_HELP)
    parser.add_argument("--onnx", action="store_true", help="write an ONNX graph, with the tokenizer that it needs")
    parser.add_argument("--out", type=path_option, metavar="D", help="folder of the ONNX bundle (default: RUN/onnx)")
    parser.add_argument(
        "--hub-folder", type=path_option, metavar="D",
        help="write a folder that plain transformers loads, where the model's head allows it",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output folder")
    return parser


def make_serve_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of `serve`.

    Args:
        description: Text above the arguments in `--help`.

    Returns:
        The parser.
    """
    parser = _make_parser("serve", description)
    parser.add_argument("model", type=path_option, metavar="RUN|FOLDER", help=MODEL_HELP)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--token-file", type=path_option, metavar="F",
        help="file of the token that requests must send; it is created where it does not exist (default: no token on"
        " a loopback address, otherwise ~/.config/rainbow_ray/serve_token)",
    )  # fmt: skip
    parser.add_argument("--replicas", type=int, default=1, metavar="N", help="parallel copies of the model")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="S", help="maximum seconds of a request")
    parser.add_argument("--device", default="auto", choices=DEVICES)
    return parser


def make_report_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of `report`.

    Args:
        description: Text above the arguments in `--help`.

    Returns:
        The parser.
    """
    parser = _make_parser("report", description)
    parser.add_argument("runs", nargs="+", type=path_option, metavar="RUN", help="folder of a finished run or sweep")
    parser.add_argument("--out", type=path_option, metavar="F", help="page of several runs (default: comparison.html)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing --out")
    return parser
