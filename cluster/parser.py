"""The command line of `python -m cluster`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rainbow_ray.utils.paths import path_option

# flags that override keys of cluster.yaml: (key, help)
SETTING_FLAGS: dict[str, tuple[str, str]] = {
    "--pods": ("pods", "number of pods"),
    "--gpu": ("gpu", "GPU types in order of preference, for example 4090,A5000"),
    "--gpus-per-pod": ("gpus_per_pod", "GPUs per pod; use several for DDP, since pods are connected at 100 Mbit/s"),
    "--min-memory": ("min_memory", "minimum GPU memory in GB if --gpu is not given"),
    "--dc": ("data_centers", "data centers in order of preference"),
    "--volume": ("volume.name", "name or id of the network volume (default: rainbow-NAME)"),
    "--volume-size": ("volume.size", "size in GB of a new network volume"),
    "--max-hourly": ("max_hourly", "maximum price of all pods in USD per hour"),
    "--ttl": ("ttl", "time to live after which every pod terminates itself, for example 8h"),
    "--idle": ("idle", "time without jobs or logins after which the cluster terminates itself, for example 30m"),
    "--image": ("image", "container image of the pods"),
}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands.

    Returns:
        The parser; the name of the command is `command`, arguments after `--` are `rest`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m cluster", description="Create and manage Ray clusters on rented RunPod pods."
    )
    parser.add_argument(
        "--cluster", metavar="NAME", help="name of the cluster (default: `name` in cluster.yaml, or rainbow)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    settings = _options(
        "--config", type=path_option, metavar="F", help="settings file (default: cluster.yaml, if it exists)"
    )
    for flag, (key, help_text) in SETTING_FLAGS.items():
        settings.add_argument(flag, dest=key, metavar="X", help=help_text)
    dry_run = _options("--dry-run", action="store_true", help="print the changes without making them")
    confirmation = _options("--yes", action="store_true", help="do not ask for confirmation")
    _add_creation(commands, settings, dry_run, confirmation)
    _add_inspection(commands)
    _add_transfer(commands, dry_run)
    _add_jobs(commands, dry_run)
    _add_termination(commands, dry_run, confirmation)
    return parser


def _options(flag: str, **keys: Any) -> argparse.ArgumentParser:
    """Return a parent parser with one flag."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(flag, **keys)
    return parent


def _add_creation(
    commands: Any,
    settings: argparse.ArgumentParser,
    dry_run: argparse.ArgumentParser,
    confirmation: argparse.ArgumentParser,
) -> None:
    """Add the commands that create pods."""
    commands.add_parser("prices", parents=[settings], help="show available GPUs and their prices")
    commands.add_parser(
        "up", parents=[settings, dry_run, confirmation], help="create a cluster, or resume an interrupted `up`"
    )
    adopt = commands.add_parser("adopt", parents=[dry_run], help="use a pod that was created in the console")
    adopt.add_argument("address", metavar="USER@HOST:PORT", help="'SSH over exposed TCP' in the console")
    adopt.add_argument(
        "--key", type=path_option, metavar="F", help="private ssh key for the first login (default: chosen by ssh)"
    )
    adopt.add_argument("--usd-per-hour", type=_price, default=0.0, metavar="X", help="price of the pod")
    adopt.add_argument(
        "--config", type=path_option, metavar="F", help="settings file (default: cluster.yaml, if it exists)"
    )
    for flag in ("--ttl", "--idle"):
        adopt.add_argument(flag, dest=SETTING_FLAGS[flag][0], metavar="X", help=SETTING_FLAGS[flag][1])
    commands.add_parser("setup", parents=[dry_run], help="install code, environment and Ray again on existing pods")
    scale = commands.add_parser("scale", parents=[dry_run, confirmation], help="change the number of pods")
    scale.add_argument("pods", type=_integer_up_to(32), metavar="N", help="number of pods including the head, 1 to 32")


def _add_inspection(commands: Any) -> None:
    """Add the commands that show a cluster or open a connection to it."""
    commands.add_parser("status", help="show pods, Ray nodes and the cost so far")
    ssh = commands.add_parser("ssh", help="log in to the head, or run a command on it")
    ssh.add_argument("rest", nargs=argparse.REMAINDER, metavar="COMMAND")
    dashboard = commands.add_parser("dashboard", help="forward the Ray dashboard through ssh")
    dashboard.add_argument("--port", type=_integer_up_to(65535), default=8265, help="local port (default: 8265)")
    commands.add_parser("cost", help="show the cost of this cluster and earlier ones of its name")


def _add_transfer(commands: Any, dry_run: argparse.ArgumentParser) -> None:
    """Add the commands that copy files."""
    push = commands.add_parser("push", parents=[dry_run], help="upload code and data to the cluster")
    push.add_argument(
        "paths",
        nargs="*",
        type=path_option,
        metavar="PATH",
        help="files and folders to upload into data/, next to the manifest",
    )
    push.add_argument("--manifest", type=path_option, metavar="P", help="manifest (table of songs) that jobs read")
    push.add_argument(
        "--features", type=path_option, metavar="D", help="media cache to upload instead of audio and MIDI files"
    )
    pull = commands.add_parser("pull", parents=[dry_run], help="download runs from the cluster")
    pull.add_argument("runs", nargs="*", metavar="RUN", help="names of runs (default: all)")
    pull.add_argument(
        "--into", type=path_option, default=Path("runs"), metavar="D", help="local folder (default: runs)"
    )


def _add_jobs(commands: Any, dry_run: argparse.ArgumentParser) -> None:
    """Add the commands that run jobs, and their logs."""
    check = commands.add_parser("check", help="run rainbow_ray.check on the cluster; its flags follow --")
    check.add_argument("--demo", action="store_true", help="use the demo songs")
    check.add_argument("rest", nargs=argparse.REMAINDER, metavar="-- FLAGS")
    for name in ("train", "tune"):
        job = commands.add_parser(
            name, parents=[dry_run], help=f"run rainbow_ray.{name} on the cluster; its flags follow --"
        )
        job.add_argument("--demo", action="store_true", help="use the demo songs")
        job.add_argument("--down-when-done", action="store_true", help="terminate the pods when the job has ended")
        job.add_argument("--follow", action="store_true", help="print the log until the job has ended")
        job.add_argument("rest", nargs=argparse.REMAINDER, metavar="-- FLAGS")
    commands.add_parser("logs", help="print the log of a job").add_argument(
        "job", nargs="?", help="default: the latest"
    )


def _add_termination(commands: Any, dry_run: argparse.ArgumentParser, confirmation: argparse.ArgumentParser) -> None:
    """Add the commands that terminate pods."""
    down = commands.add_parser("down", parents=[dry_run, confirmation], help="terminate every pod")
    down.add_argument("--gone", action="store_true", help="for an adopted pod that you have terminated in the console")
    gc = commands.add_parser(
        "gc", parents=[dry_run, confirmation], help="terminate pods that belong to no local cluster"
    )
    gc.add_argument("--volumes", action="store_true", help="also delete volumes that no cluster uses")
    gc.add_argument(
        "--running",
        action="store_true",
        help="also terminate pods before their deadline, which may belong to another machine",
    )


def _integer_up_to(maximum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= maximum:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer from 1 to {maximum}")
        return int(text)

    return parse


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < 10_000:  # also rejects NaN
        raise argparse.ArgumentTypeError(f"{text!r} is not a price in USD per hour")
    return price
