"""Create and manage Ray clusters on rented RunPod pods."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from cluster.parser import SETTING_FLAGS, make_parser
from rainbow_ray.utils.signals import describe, exit_code, raise_on_signal
from rainbow_ray.utils.streams import close_output, print_error, protect_streams

DONE, FAILED, WRONG_INPUT = 0, 1, 2


def main(arguments: Sequence[str]) -> int:
    """Run a command of `python -m cluster`.

    Args:
        arguments: Command line without the program's name.

    Returns:
        The exit code.
    """
    protect_streams()
    options = make_parser().parse_args(arguments)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
