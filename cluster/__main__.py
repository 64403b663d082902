"""`python -m cluster`: rented pods become a Ray cluster, and are given back."""

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

# flags that stand for keys of cluster.yaml
WISHES: dict[str, tuple[str, str]] = {
    "--pods": ("pods", "how many"),
    "--gpu": ("gpu", "names, most wanted first: 4090,A5000"),
    "--gpus-per-pod": ("gpus_per_pod", "for DDP: one pod with several, since pods are 100 Mbit/s apart"),
    "--min-memory": ("min_memory", "GB of a GPU, where none is named"),
    "--dc": ("data_centers", "data centres, most wanted first"),
    "--volume": ("volume.name", "network volume: a name or id (default: rainbow-NAME)"),
    "--volume-size": ("volume.size", "GB, when it is made"),
    "--max-hourly": ("max_hourly", "USD an hour for all pods"),
    "--ttl": ("ttl", "8h: after this every pod ends itself"),
    "--idle": ("idle", "30m: without jobs and logins the cluster ends itself"),
    "--image": ("image", "of the pods"),
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
        print(f"{describe(error)}; `status` shows what is there, `down` ends it", file=sys.stderr)
        return exit_code(error)


def _run(options: argparse.Namespace) -> int:
    """Raises `InputError`; other errors that a user can act on are told here."""
    from cluster import adopt, commands, garbage_collect, jobs, up
    from cluster.lifecycle import ClusterError
    from cluster.remote import RemoteError
    from cluster.runpod_api import ApiError

    name = options.cluster = _name(options)
    act: dict[str, Callable[[], int]] = {
        "prices": lambda: commands.prices(_settings(options)),
        "up": lambda: up.up(_settings(options), _wishes(options), yes=options.yes, dry_run=options.dry_run),
        "adopt": lambda: adopt.adopt(
            options.place,
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
        return act[options.command]()
    except (ApiError, ClusterError, RemoteError) as error:
        print_error(str(error))
        return FAILED


def _start(options: argparse.Namespace) -> int:
    from cluster import jobs

    return jobs.start(
        options.cluster, options.command, options.rest[options.rest[:1] == ["--"] :], demo=options.demo,
        finish=options.down_when_done, follow=options.follow, dry_run=options.dry_run,
    )  # fmt: skip


def _settings(options: argparse.Namespace) -> Any:
    from cluster.settings import read_settings

    return read_settings(options.config, {**_wishes(options), "name": options.cluster})


def _name(options: argparse.Namespace) -> str:
    """`--cluster`, or the name in cluster.yaml, so that `down` means what `up` made."""
    from cluster.settings import named_in

    return options.cluster or named_in(getattr(options, "config", None)) or "rainbow"


def _wishes(options: argparse.Namespace) -> dict[str, Any]:
    return {key: value for key, _ in WISHES.values() if (value := getattr(options, key, None)) is not None}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cluster", description=__doc__)
    parser.add_argument("--cluster", metavar="NAME", help="which one (default: cluster.yaml's name, or rainbow)")
    commands = parser.add_subparsers(dest="command", required=True)
    wishing = argparse.ArgumentParser(add_help=False)
    wishing.add_argument("--config", type=path_option, metavar="F", help="default: cluster.yaml, where there is one")
    for flag, (key, told) in WISHES.items():
        wishing.add_argument(flag, dest=key, metavar="X", help=told)
    dry = argparse.ArgumentParser(add_help=False)
    dry.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
    agreeing = argparse.ArgumentParser(add_help=False)
    agreeing.add_argument("--yes", action="store_true", help="do not ask")
    commands.add_parser("prices", parents=[wishing], help="what can be had, where, for how much")
    commands.add_parser("up", parents=[wishing, dry, agreeing], help="make a cluster, or go on making it")
    adopting = commands.add_parser("adopt", parents=[dry], help="a pod that was made by hand becomes a cluster of one")
    adopting.add_argument("place", metavar="USER@HOST:PORT", help="as the console shows it under SSH over exposed TCP")
    adopting.add_argument("--key", type=path_option, metavar="F", help="your ssh key (default: ssh's own choice)")
    adopting.add_argument("--usd-per-hour", type=_price, default=0.0, metavar="X", help="what the pod costs")
    adopting.add_argument("--config", type=path_option, metavar="F", help="default: cluster.yaml, where there is one")
    for flag in ("--ttl", "--idle"):
        adopting.add_argument(flag, dest=WISHES[flag][0], metavar="X", help=WISHES[flag][1])
    commands.add_parser("setup", parents=[dry], help="code, environment and Ray anew on the pods that are there")
    checking = commands.add_parser("check", help="rainbow_ray.check on the cluster; its flags after --")
    checking.add_argument("--demo", action="store_true", help="on the demo songs")
    checking.add_argument("rest", nargs=argparse.REMAINDER, metavar="-- FLAGS")
    commands.add_parser("status", help="pods, Ray's nodes, dollars so far")
    scaling = commands.add_parser("scale", parents=[dry, agreeing], help="more pods, or fewer")
    scaling.add_argument("pods", type=_number_of(32), metavar="N", help="1 to 32, the head among them")
    going_in = commands.add_parser("ssh", help="a login on the head, or a command there")
    going_in.add_argument("rest", nargs=argparse.REMAINDER, metavar="COMMAND")
    pushing = commands.add_parser("push", parents=[dry], help="code and data to the cluster")
    pushing.add_argument("paths", nargs="*", type=path_option, metavar="PATH", help="into data/ beside the manifest")
    pushing.add_argument("--manifest", type=path_option, metavar="P", help="the table of songs that jobs read")
    pushing.add_argument(
        "--features", type=path_option, metavar="D", help="a media cache in place of sound and MIDI files"
    )
    pulling = commands.add_parser("pull", parents=[dry], help="runs from the cluster")
    pulling.add_argument("runs", nargs="*", metavar="RUN", help="only these")
    pulling.add_argument("--into", type=path_option, default=Path("runs"), metavar="D", help="here (default: runs)")
    for door in ("train", "tune"):
        working = commands.add_parser(
            door, parents=[dry], help=f"rainbow_ray.{door} on the cluster; its flags after --"
        )
        working.add_argument("--demo", action="store_true", help="on the demo songs")
        working.add_argument("--down-when-done", action="store_true", help="the pods end themselves then")
        working.add_argument("--follow", action="store_true", help="show its log until it ends")
        working.add_argument("rest", nargs=argparse.REMAINDER, metavar="-- FLAGS")
    commands.add_parser("logs", help="what a job says").add_argument("job", nargs="?")
    board = commands.add_parser("dashboard", help="Ray's dashboard, through ssh")
    board.add_argument("--port", type=_number_of(65535), default=8265, help="here (default: 8265)")
    commands.add_parser("cost", help="dollars, by cluster")
    ending = commands.add_parser("down", parents=[dry, agreeing], help="end every pod")
    ending.add_argument("--gone", action="store_true", help="a pod made by hand: you have ended it in the console")
    collecting = commands.add_parser("gc", parents=[dry, agreeing], help="end pods of ours that nobody knows of")
    collecting.add_argument("--volumes", action="store_true", help="volumes that no cluster uses as well")
    collecting.add_argument(
        "--running", action="store_true", help="pods too whose time is not over: another machine's?"
    )
    return parser


def _number_of(most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {most}")
        return int(text)

    return number


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < 10_000:  # NaN is not
        raise argparse.ArgumentTypeError(f"{text!r} is no price in USD an hour")
    return price


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
