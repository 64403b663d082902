"""Ray, started for one command: private, quiet, on loopback, with its token; and the arithmetic of its resources."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rainbow_ray.errors import InputError

# read by Ray when it is imported, here and in every process that it starts
SETTINGS = {
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # the dashboard's Train page
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # a report then takes 0.1 s, not 1.65 s
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less: rented pods get no notice to watch for
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
DRIVER_ONLY = {"RAY_DATA_DISABLE_PROGRESS_BARS": "1"}


@dataclass(frozen=True)
class Cluster:
    """What there is to work with."""

    cpus: int
    gpus: int
    dashboard: str | None
    node_cpus: int = 1  # of the largest node: one worker cannot span two

    def slots(self, fits: int) -> tuple[int, dict[str, float]]:
        """How many fits run side by side, and what each is given."""
        if self.gpus:
            side_by_side = max(1, min(fits, self.gpus))
            return side_by_side, {"num_gpus": 1, "num_cpus": max(1, min(4, self.cpus // side_by_side))}
        side_by_side = max(1, min(fits, self.cpus))
        return side_by_side, {"num_cpus": max(1, self.cpus // side_by_side)}


def prepare_environment() -> None:
    """Settings that must stand before Ray, transformers and tokenizers are imported."""
    for name, value in {**SETTINGS, **DRIVER_ONLY}.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def ray_cluster(address: str | None) -> Iterator[Cluster]:
    """A Ray of this command's own, or the one at `address`; it is left as it was found.

    Never the cluster that happens to run on this machine: only a named one is joined.
    """
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        context = ray.init(
            address=address or "local",
            include_dashboard=None if address else True,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else {"dashboard_host": "127.0.0.1"}),
            runtime_env={"env_vars": {name: os.environ[name] for name in SETTINGS}} if address else None,
        )
    except (ConnectionError, ValueError) as error:
        raise InputError(f"--address {address}: no Ray cluster answers there ({error})") from error
    _close_token_file()
    try:
        resources = ray.cluster_resources()
        yield Cluster(
            cpus=max(1, int(resources.get("CPU", 1))),
            gpus=int(resources.get("GPU", 0)),
            dashboard=context.dashboard_url or None,
            node_cpus=max([1, *(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])]),
        )
    finally:
        ray.shutdown()


def _close_token_file() -> None:
    """Ray writes its token readable by everybody (0644)."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    with contextlib.suppress(OSError):
        if path.exists() and path.stat().st_mode & 0o077:
            path.chmod(0o600)


class Stopwatch:
    """Where the seconds of a command go, by part."""

    def __init__(self, started: float) -> None:
        self.started = self.last = started
        self.parts: dict[str, float] = {}

    def mark(self, part: str) -> None:
        """The time since the last mark belongs to `part`."""
        now = time.perf_counter()
        self.parts[part] = round(self.parts.get(part, 0.0) + now - self.last, 3)
        self.last = now

    def seconds(self) -> dict[str, Any]:
        """`total` until now, and what passed before the first fit could start."""
        before = ("imports and checks", "ray", "data")
        startup = round(sum(self.parts.get(part, 0.0) for part in before), 2)
        return {"total": round(time.perf_counter() - self.started, 2), "startup": startup, "parts": self.parts}
