"""Create and manage Ray clusters on rented RunPod pods."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rainbow_ray.utils.paths import path_option
from rainbow_ray.utils.signals import describe, exit_code, raise_on_signal
from rainbow_ray.utils.streams import close_output, print_error, protect_streams

DONE, FAILED, WRONG_INPUT = 0, 1, 2

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


def main(arguments: Sequence[str]) -> int:
    """Run a command of `python -m cluster`.

    Args:
        arguments: Command line without the program's name.

    Returns:
        The exit code.
    """
    protect_streams()
    options = _parser().parse_args(arguments)
    from rainbow_ray.utils.errors import InputError

    try:
        with raise_on_signal():
            code = _run(options)
        sys.stdout.flush()
        return code
    except InputError as error:
        for problem in error.problems:
            print_error(problem)
        return WRONG_INPUT
    except BrokenPipeError:
        close_output()
        return FAILED
    except KeyboardInterrupt as error:
        print(f"{describe(error)}; run `status` to list the pods, `down` to terminate them", file=sys.stderr)
        return exit_code(error)


def _run(options: argparse.Namespace) -> int:
    """Run the command and print errors that a user can act on. Raises `InputError`."""
    from cluster import adopt, commands, garbage_collect, jobs, up
    from cluster.lifecycle import ClusterError
    from cluster.remote import RemoteError
    from cluster.runpod_api import ApiError

    name = options.cluster = _name(options)
    handlers: dict[str, Callable[[], int]] = {
        "prices": lambda: commands.prices(_settings(options)),
        "up": lambda: up.up(_settings(options), _setting_overrides(options), yes=options.yes, dry_run=options.dry_run),
        "adopt": lambda: adopt.adopt(
            options.address,
            _settings(options),
            key=options.key,
            usd_per_hour=options.usd_per_hour,
            dry_run=options.dry_run,
        ),
        "setup": lambda: commands.set_up(name, dry_run=options.dry_run),
        "check": lambda: jobs.check(name, options.rest[options.rest[:1] == ["--"] :], demo=options.demo),
        "down": lambda: commands.down(name, yes=options.yes, gone=options.gone, dry_run=options.dry_run),
        "scale": lambda: up.scale(name, options.pods, yes=options.yes, dry_run=options.dry_run),
        "status": lambda: commands.status(name),
        "cost": lambda: commands.cost(name),
        "gc": lambda: garbage_collect.gc(
            volumes=options.volumes, running=options.running, yes=options.yes, dry_run=options.dry_run
        ),
        "ssh": lambda: commands.ssh(name, options.rest[options.rest[:1] == ["--"] :]),
        "push": lambda: jobs.push(
            name, options.manifest, options.paths, features=options.features, dry_run=options.dry_run
        ),
        "pull": lambda: jobs.pull(name, options.into, options.runs, dry_run=options.dry_run),
        "train": lambda: _start(options),
        "tune": lambda: _start(options),
        "logs": lambda: jobs.logs(name, options.job),
        "dashboard": lambda: commands.dashboard(name, options.port),
    }
    try:
        return handlers[options.command]()
    except (ApiError, ClusterError, RemoteError) as error:
        print_error(str(error))
        return FAILED


def _start(options: argparse.Namespace) -> int:
    from cluster import jobs

    return jobs.start(
        options.cluster, options.command, options.rest[options.rest[:1] == ["--"] :], demo=options.demo,
        down_when_done=options.down_when_done, follow=options.follow, dry_run=options.dry_run,
    )  # fmt: skip


def _settings(options: argparse.Namespace) -> Any:
    from cluster.settings import read_settings

    return read_settings(options.config, {**_setting_overrides(options), "name": options.cluster})


def _name(options: argparse.Namespace) -> str:
    """Return `--cluster` or the name in cluster.yaml, so that `down` refers to the cluster that `up` created."""
    from cluster.settings import read_cluster_name

    return options.cluster or read_cluster_name(getattr(options, "config", None)) or "rainbow"


def _setting_overrides(options: argparse.Namespace) -> dict[str, Any]:
    return {key: value for key, _ in SETTING_FLAGS.values() if (value := getattr(options, key, None)) is not None}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cluster", description=__doc__)
    parser.add_argument(
        "--cluster", metavar="NAME", help="name of the cluster (default: `name` in cluster.yaml, or rainbow)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument(
        "--config", type=path_option, metavar="F", help="settings file (default: cluster.yaml, if it exists)"
    )
    for flag, (key, help_text) in SETTING_FLAGS.items():
        settings.add_argument(flag, dest=key, metavar="X", help=help_text)
    dry_run = argparse.ArgumentParser(add_help=False)
    dry_run.add_argument("--dry-run", action="store_true", help="print the changes without making them")
    confirmation = argparse.ArgumentParser(add_help=False)
    confirmation.add_argument("--yes", action="store_true", help="do not ask for confirmation")
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
    check = commands.add_parser("check", help="run rainbow_ray.check on the cluster; its flags follow --")
    check.add_argument("--demo", action="store_true", help="use the demo songs")
    check.add_argument("rest", nargs=argparse.REMAINDER, metavar="-- FLAGS")
    commands.add_parser("status", help="show pods, Ray nodes and the cost so far")
    scale = commands.add_parser("scale", parents=[dry_run, confirmation], help="change the number of pods")
    scale.add_argument("pods", type=_integer_up_to(32), metavar="N", help="number of pods including the head, 1 to 32")
    ssh = commands.add_parser("ssh", help="log in to the head, or run a command on it")
    ssh.add_argument("rest", nargs=argparse.REMAINDER, metavar="COMMAND")
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
    dashboard = commands.add_parser("dashboard", help="forward the Ray dashboard through ssh")
    dashboard.add_argument("--port", type=_integer_up_to(65535), default=8265, help="local port (default: 8265)")
    commands.add_parser("cost", help="show the cost of this cluster and earlier ones of its name")
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
    return parser


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
