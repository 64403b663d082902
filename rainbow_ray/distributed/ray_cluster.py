"""Ray, started for one command: private, quiet, on loopback, with its token; and the arithmetic of its resources."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rainbow_ray.distributed.ray_errors import user_error
from rainbow_ray.distributed.ray_folder import session_folder
from rainbow_ray.utils.errors import EXIT_FAILURE, InputError, TrainingError, first_line
from rainbow_ray.utils.signals import Interrupted, defer_signals, raise_on_signal
from rainbow_ray.utils.streams import print_error

if TYPE_CHECKING:
    import psutil

# read by Ray when it is imported, here and in every process that it starts
SETTINGS = {
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # the dashboard's Train page
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # a report then takes 0.1 s, not 1.65 s
    # for the places of a group of workers; when a node was lost, Train first waits in vain for all of them
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less: rented pods get no notice to watch for
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    # how long an actor may take from one trial to the next; when it was late, Tune would drop the next one unheard
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "600",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "DISABLE_SAFETENSORS_CONVERSION": "1",  # a thread that asks the hub to convert pickled weights
}
HEAD = "gcs_server"  # the process of a Ray without which nothing goes on
RAYLET = "raylet"  # the process that starts agents and workers
AGENT_SECONDS = 2.0  # which they are given to end once it is gone
HEAD_SECONDS = 2.0  # between two looks at it
GPU_WORKER_CPUS = 4
READER_CPUS = 0.5  # of one that reads songs for a worker; with none left, both would wait for ever
WAITING_CPU = 0.01  # of a trial whose fits run in workers of their own
DASHBOARD_PORT = 8265  # Ray's own choice; it takes the next one that is free
DRIVER_ONLY = {"RAY_DATA_DISABLE_PROGRESS_BARS": "1"}


@dataclass(frozen=True)
class RayResources:
    """What there is to work with."""

    cpus: int
    gpus: int
    dashboard: str | None
    node_cpus: int = 1  # of the largest node: one worker cannot span two
    node_gpus: int | None = None  # of the node with most of them; null: all are in one

    def slots(self, fits: int) -> tuple[int, dict[str, float]]:
        """How many fits run side by side, and what each is given."""
        side_by_side = max(1, min(fits, self.gpus or self.cpus))
        cpus = max(1, min(self.cpus // side_by_side, self.node_cpus))
        if self.gpus:
            return side_by_side, {"num_gpus": 1, "num_cpus": min(GPU_WORKER_CPUS, cpus)}
        return side_by_side, {"num_cpus": cpus}


def describe_dashboard(cluster: RayResources) -> list[str]:
    """Where the dashboard is and how one gets in."""
    if cluster.dashboard is None:
        return []
    port = int(cluster.dashboard.rpartition(":")[2])
    ours = cluster.dashboard.startswith("127.0.0.1:")
    taken = f" (port {DASHBOARD_PORT} is in use)" if ours and port != DASHBOARD_PORT else ""
    tunnel = f"; from another machine: ssh -L {port}:127.0.0.1:{port} …" if ours else ""
    return [f"Ray dashboard: http://{cluster.dashboard}{taken}; it asks for the token in {token_path()}{tunnel}"]


@dataclass(frozen=True)
class Workers:
    """Who shares one fit: from `fewest` to `most` workers (elastic where they differ), and what each is given."""

    fewest: int
    most: int
    gpu: bool
    cpus: float
    threads: int


def allocate_workers(cluster: RayResources, asked: tuple[int, int] | None, *, device: str, streams: bool) -> Workers:
    """The workers of one fit: those asked for, or all GPUs, or one on the CPU. Raises `InputError` for too many.

    Where songs are read while training goes on, the readers are left a CPU.
    """
    gpu = cluster.gpus > 0 and device in ("auto", "cuda")
    have, kind = (cluster.gpus, "GPU") if gpu else (cluster.cpus, "CPU")
    # gradients of a step cross no network unless somebody asks for it
    near = cluster.gpus if cluster.node_gpus is None else cluster.node_gpus
    fewest, most = asked or ((near, near) if gpu else (1, 1))
    if fewest > have:
        written = fewest if fewest == most else f"{fewest}..{most}"
        raise InputError(f"--workers {written}: {fewest} workers need {fewest} {kind}s, one each, and there are {have}:"
                         f" at most --workers {have}")  # fmt: skip
    at_once = min(most, have)
    left_to_readers = max(READER_CPUS * at_once, min(1.0, cluster.cpus / 2)) if streams else 0.0
    own = min((cluster.cpus - left_to_readers) / at_once, cluster.node_cpus)
    cpus = float(int(own)) if own >= 1 else own
    threads = max(1, min(cluster.cpus // at_once, cluster.node_cpus))
    return Workers(fewest, most, gpu, min(cpus, GPU_WORKER_CPUS) if gpu else cpus, threads)


def describe_network(cluster: RayResources, asked: tuple[int, int] | None, *, device: str) -> list[str]:
    """A warning where the workers of one fit would lie on several machines."""
    gpu = cluster.gpus > 0 and device in ("auto", "cuda")
    near = cluster.node_gpus if gpu else cluster.node_cpus
    if asked is None or near is None or asked[1] <= near:
        return []
    kind = "GPUs" if gpu else "CPUs"
    return [f"Note: --workers {asked[1]} is more than one machine's {near} {kind}, so each step waits for the network"
            " (100 Mbit/s between RunPod's pods: often slower than one GPU alone). One machine with several is what it"
            " wants; folds and trials spread over machines without it"]  # fmt: skip


@dataclass(frozen=True)
class TrialResources:
    """How many trials run side by side, what each is given, and who shares its fits where these are several."""

    concurrent: int
    cpu: float
    gpu: float
    workers: Workers | None


def allocate_trials(
    cluster: RayResources,
    *,
    trials: int,
    concurrent: int | None,
    gpus_per_trial: float | None,
    workers: int,
    device: str,
) -> TrialResources:
    """The arithmetic of a sweep. Raises `InputError` for more than there is: Tune would wait for ever."""
    gpu = cluster.gpus > 0 and device in ("auto", "cuda")
    if gpus_per_trial is not None and not gpu:
        raise InputError(f"--gpus-per-trial {gpus_per_trial:g}: there is no GPU here")
    if gpus_per_trial is not None and gpus_per_trial > 1:
        raise InputError(f"--gpus-per-trial {gpus_per_trial:g}: a trial is one process, which uses one GPU or a part of"
                         " it; for several, --workers-per-trial")  # fmt: skip
    if gpus_per_trial is not None and workers > 1:
        raise InputError(f"--gpus-per-trial {gpus_per_trial:g}: with --workers-per-trial each worker has a GPU")
    each = (1.0 if gpus_per_trial is None else gpus_per_trial) if gpu else 1.0
    have, kind = (cluster.gpus, "GPU") if gpu else (cluster.cpus, "CPU")
    most = int(1 / each + 1e-9) * int(have) // workers  # a part of a GPU never reaches over two
    asked = concurrent or max(1, min(most, trials))
    if asked > most:
        sum_ = f"{asked} trials × {workers} workers × {each:g} {kind} make {asked * workers * each:g} {kind}s"
        advice = f"at most --concurrent {most}" if most else f"at most {int(have / each)} workers a trial"
        raise InputError(f"--concurrent {asked}: {sum_}, and there are {have}: {advice}")
    cpus = min(cluster.cpus / (asked * workers), cluster.node_cpus)
    cpus = float(int(cpus)) if cpus >= 1 else cpus
    if workers == 1:
        return TrialResources(asked, min(cpus, GPU_WORKER_CPUS) if gpu else cpus, each if gpu else 0.0, None)
    # Train's workers lie outside of what Tune counts for a trial, which itself only waits for them
    own = min(cpus, GPU_WORKER_CPUS) if gpu else cpus
    if asked * (WAITING_CPU + workers * own) > cluster.cpus:
        own = (cluster.cpus / asked - WAITING_CPU) / workers
    return TrialResources(asked, WAITING_CPU, 0.0, Workers(workers, workers, gpu, own, max(1, int(cpus))))


def parse_workers(value: int | str | None) -> tuple[int, int] | None:
    """`4` is four workers, `1..4` from one to four. Raises `InputError` for anything else."""
    if value is None:
        return None
    fewest, dots, most = str(value).partition("..")
    try:
        pair = int(fewest), int(most if dots else fewest)
    except ValueError:
        pair = 0, 0
    if not 1 <= pair[0] <= pair[1]:
        raise InputError(f"training.workers: {value!r} is neither a number of workers nor a span such as 1..4")
    return pair


def prepare_environment() -> None:
    """Settings that must stand before Ray, transformers and tokenizers are imported."""
    for name, value in {**SETTINGS, **DRIVER_ONLY}.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def ray_cluster(address: str | None, advice: str = "") -> Iterator[RayResources]:
    """Start a Ray of this command's own, or join the one at `address`; it is left as it was found.

    Never the cluster that happens to run on this machine: only a named one is joined. SIGINT and SIGTERM raise
    `Interrupted` inside the block.

    Args:
        address: Address of a running cluster, or None.
        advice: How this command can be continued if Ray is lost, or nothing where it cannot.

    Raises:
        InputError: No cluster answers at `address`, or there is no folder for Ray's sockets.
        TrainingError: Ray was lost.
    """
    with contextlib.ExitStack() as stack:
        install_handlers = stack.enter_context(raise_on_signal())
        folder = None if address else stack.enter_context(session_folder())
        yield from _connected(address, folder, advice, install_handlers)


def _connected(
    address: str | None, folder: str | None, advice: str, install_handlers: Callable[[], None]
) -> Iterator[RayResources]:
    """Connect to Ray, yield what it has, and disconnect."""
    if address and token_path().exists():
        # Ray asks for tokens by itself in clusters of its own, and reads this when it is imported
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    # Ray's start is not cut short: processes that it has begun would stay
    with _without_handler_of_ray(), defer_signals() as deferred:
        context = _start_ray(address, folder)
    if deferred.signal_number is not None:
        _shut_down()
        raise Interrupted(deferred.signal_number)
    install_handlers()  # whatever Ray has installed
    _close_token_file()
    # what is raised when Ray's own processes are gone, rather than when work on them fails
    lost = (ray.exceptions.RaySystemError, ray.exceptions.RayActorError, ray.exceptions.ObjectLostError)
    try:
        resources = ray.cluster_resources()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        with _told_of_its_end(advice) if not address else contextlib.nullcontext():
            yield RayResources(
                cpus=max(1, int(resources.get("CPU", 1))),
                gpus=int(resources.get("GPU", 0)),
                dashboard=context.dashboard_url or None,
                node_cpus=max([1, *(int(there.get("CPU", 1)) for there in nodes)]),
                node_gpus=max([0, *(int(there.get("GPU", 0)) for there in nodes)]),
            )
    except ray.exceptions.RayTaskError as error:
        known = user_error(error)
        if known is None:
            raise
        raise known from error
    except lost as error:
        raise TrainingError("; ".join(filter(None, [f"Ray was lost ({first_line(error)})", advice]))) from error
    finally:
        _shut_down()


def _shut_down() -> None:
    """Shut Ray down, and end what its raylet leaves behind.

    Ray gives the raylet one second to end its agents and workers before it kills it. On a busy machine that is too
    short, and agents that are still starting would notice only much later.
    """
    import psutil
    import ray

    started: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):  # others come and go
                started += child.children(recursive=True) if child.name() == RAYLET else []
    ray.shutdown()
    _end_processes(started)


def _end_processes(processes: Sequence[psutil.Process]) -> None:
    """Kill those processes that do not end on their own within a moment; one whose number was given away is spared."""
    import psutil

    for process in psutil.wait_procs(processes, timeout=AGENT_SECONDS)[1]:
        with contextlib.suppress(psutil.Error):
            process.kill()  # psutil compares the time of its start first


@contextlib.contextmanager
def _without_handler_of_ray() -> Iterator[None]:
    """Keep Ray from installing a handler of SIGTERM, which kills the raylet at once and leaves its agents behind."""
    from ray._private import utils

    own = getattr(utils, "set_sigterm_handler", None)
    if own is None:
        yield
        return
    utils.set_sigterm_handler = lambda handler: None  # noqa: ARG005
    try:
        yield
    finally:
        utils.set_sigterm_handler = own


def _start_ray(address: str | None, folder: str | None) -> Any:
    """Return the context of `ray.init`. Raises `InputError` where no cluster answers."""
    import ray

    try:
        return ray.init(
            address=address or "local",
            include_dashboard=None if address else True,
            _temp_dir=folder,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else {"dashboard_host": "127.0.0.1"}),
            runtime_env={"env_vars": {name: os.environ[name] for name in SETTINGS}} if address else None,
        )
    except (ConnectionError, ValueError) as error:
        raise InputError(f"--address {address}: no Ray cluster answers there ({error})") from error


@contextlib.contextmanager
def _told_of_its_end(advice: str) -> Iterator[None]:
    """End this command with a word when the head of its own Ray dies, whatever it waits for at that moment.

    Ray would look for it for a minute, and then end the process from within, without one. What is on disk is whole at
    any instant, so nothing is lost by an end as sudden as this.
    """
    import psutil

    heads = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # others come and go
            heads += [process] if process.name() == HEAD else []
    done = threading.Event()

    def is_gone(head: psutil.Process) -> bool:
        try:
            # a child that died stays as a zombie until somebody asks for it
            return not head.is_running() or head.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def watch() -> None:
        while not done.wait(HEAD_SECONDS):
            if any(map(is_gone, heads)):
                print_error("; ".join(filter(None, ["Ray was lost (its head process died)", advice])))
                sys.stderr.flush()
                os._exit(EXIT_FAILURE)

    thread = threading.Thread(target=watch, daemon=True, name="head of Ray")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def token_path() -> Path:
    """Where Ray keeps its token."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()


def _close_token_file() -> None:
    """Ray writes its token readable by everybody (0644)."""
    path = token_path()
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
