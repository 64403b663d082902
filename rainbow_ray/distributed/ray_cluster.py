"""Start and end of the Ray cluster of one command: private, on loopback, protected by a token."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rainbow_ray.distributed.ray_errors import user_error
from rainbow_ray.distributed.ray_folder import session_folder
from rainbow_ray.distributed.resources import RayResources
from rainbow_ray.utils.errors import EXIT_FAILURE, InputError, TrainingError, first_line
from rainbow_ray.utils.signals import Interrupted, defer_signals, raise_on_signal
from rainbow_ray.utils.streams import hold_back_stderr, print_error

if TYPE_CHECKING:
    import psutil

ALLOCATOR, FORMER_ALLOCATOR = "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"
# read by Ray when it is imported, here and in every process that it starts
SETTINGS = {
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # the dashboard's Train page
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # a report then takes 0.1 s, not 1.65 s
    # for the places of a group of workers; when a node was lost, Train first waits in vain for all of them
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less: rented pods get no notice to watch for
    "RAY_prestart_worker_first_driver": "0",  # actors cannot use these workers, which have another environment
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    # how long an actor may take from one trial to the next; when it was late, Tune would drop the next one unheard
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "600",
    ALLOCATOR: "expandable_segments:True",  # batches of changing length leave no unusable gaps on the GPU
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
HEAD_POLL_SECONDS = 2.0
# Of the C++ part of Ray in this process: [2026-11-30 15:35:38,764 E 17340 17726] task_manager.cc:1545: Failed to …
RAY_MESSAGE = re.compile(rb"\[\d{4}-\d\d-\d\d [\d:,]+ [A-Z] \d+ \d+\] ")
DASHBOARD_PORT = 8265  # Ray's own choice; it takes the next one that is free
DRIVER_ONLY = {"RAY_DATA_DISABLE_PROGRESS_BARS": "1"}


def describe_dashboard(cluster: RayResources) -> list[str]:
    """Return the address of the dashboard, and how to open it.

    Args:
        cluster: Resources of the cluster.

    Returns:
        One line, or none where the dashboard does not run.
    """
    if cluster.dashboard is None:
        return []
    port = int(cluster.dashboard.rpartition(":")[2])
    is_local = cluster.dashboard.startswith("127.0.0.1:")
    port_note = f" (port {DASHBOARD_PORT} is in use)" if is_local and port != DASHBOARD_PORT else ""
    tunnel = f"; from another machine: ssh -L {port}:127.0.0.1:{port} …" if is_local else ""
    return [f"Ray dashboard: http://{cluster.dashboard}{port_note}; it asks for the token in {token_path()}{tunnel}"]


def prepare_environment() -> None:
    """Set the environment variables that Ray, transformers and tokenizers read when they are imported."""
    for name, value in {**SETTINGS, **DRIVER_ONLY}.items():
        if name != ALLOCATOR or FORMER_ALLOCATOR not in os.environ:
            os.environ.setdefault(name, value)


@contextlib.contextmanager
def ray_cluster(address: str | None, advice: str = "", backend_log_level: str | None = None) -> Iterator[RayResources]:
    """Start a Ray cluster for this command, or join the one at `address`, which is left running.

    A cluster that runs on this machine is joined only if it is named. SIGINT and SIGTERM raise `Interrupted` inside the
    block.

    Args:
        address: Address of a running cluster, or None.
        advice: How this command can be continued if Ray is lost; empty where it cannot.
        backend_log_level: Log level of Ray's C++ processes, unless RAY_BACKEND_LOG_LEVEL is set; None is Ray's own.

    Yields:
        The resources of the cluster.

    Raises:
        InputError: No cluster answers at `address`, or no folder can be created for Ray's sockets.
        TrainingError: Ray was lost.
    """
    with contextlib.ExitStack() as stack:
        install_handlers = stack.enter_context(raise_on_signal())
        if backend_log_level is not None:
            stack.enter_context(_default_variable("RAY_BACKEND_LOG_LEVEL", backend_log_level))
        folder = None if address else stack.enter_context(session_folder())
        yield from _connected(address, folder, advice, install_handlers)


@contextlib.contextmanager
def _default_variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable that is not set, for the processes that are started inside the block."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)


def _connected(
    address: str | None, folder: str | None, advice: str, install_handlers: Callable[[], None]
) -> Iterator[RayResources]:
    """Connect to Ray, yield its resources, and disconnect."""
    if address and token_path().exists():
        # Ray asks for tokens by itself in clusters of its own, and reads this when it is imported
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    # Ray's start is not cut short: processes that it has begun would stay
    with _without_ray_handler(), defer_signals() as deferred:
        context = _start_ray(address, folder)
    if deferred.signal_number is not None:
        with _shut_down_at_end():
            raise Interrupted(deferred.signal_number)
    install_handlers()  # whatever Ray has installed
    _close_token_file()
    # what is raised when Ray's own processes are gone, rather than when work on them fails
    lost = (ray.exceptions.RaySystemError, ray.exceptions.RayActorError, ray.exceptions.ObjectLostError)
    with _shut_down_at_end():
        try:
            resources = ray.cluster_resources()
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            with _exit_when_ray_dies(advice) if not address else contextlib.nullcontext():
                yield RayResources(
                    cpus=max(1, int(resources.get("CPU", 1))),
                    gpus=int(resources.get("GPU", 0)),
                    dashboard=context.dashboard_url or None,
                    node_cpus=max([1, *(int(node.get("CPU", 1)) for node in nodes)]),
                    node_gpus=max([0, *(int(node.get("GPU", 0)) for node in nodes)]),
                )
        except ray.exceptions.RayTaskError as error:
            cause = user_error(error)
            if cause is None:
                raise
            raise cause from error
        except lost as error:
            raise TrainingError("; ".join(filter(None, [f"Ray was lost ({first_line(error)})", advice]))) from error


@contextlib.contextmanager
def _shut_down_at_end() -> Iterator[None]:
    """Shut Ray down at the end of the block; after an error, without its messages on the work that is lost by it."""
    try:
        yield
    except BaseException:
        with hold_back_stderr(lambda line: bool(RAY_MESSAGE.match(line))):
            _shut_down()
        raise
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
            with contextlib.suppress(psutil.Error):  # processes may end meanwhile
                started += child.children(recursive=True) if child.name() == RAYLET else []
    with _without_garbage_collection():
        ray.shutdown()
    _end_processes(started)


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Keep Python from looking for cycles in any thread.

    `ray.shutdown` destroys the C++ part before Python forgets it. If another thread frees an object of Ray in between,
    such as the generator of a stream that Ray Data has read, the C++ part ends the process with exit code 1.
    """
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_enabled:
            gc.enable()


def _end_processes(processes: Sequence[psutil.Process]) -> None:
    """Kill those processes that do not end on their own within a moment; one whose number was given away is spared."""
    import psutil

    for process in psutil.wait_procs(processes, timeout=AGENT_SECONDS)[1]:
        with contextlib.suppress(psutil.Error):
            process.kill()  # psutil compares the time of its start first


@contextlib.contextmanager
def _without_ray_handler() -> Iterator[None]:
    """Keep Ray from installing a handler of SIGTERM, which kills the raylet at once and leaves its agents behind."""
    from ray._private import utils

    ray_handler = getattr(utils, "set_sigterm_handler", None)
    if ray_handler is None:
        yield
        return
    utils.set_sigterm_handler = lambda handler: None  # noqa: ARG005
    try:
        yield
    finally:
        utils.set_sigterm_handler = ray_handler


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
            runtime_env={"env_vars": {name: os.environ[name] for name in SETTINGS if name in os.environ}}
            if address
            else None,
        )
    except (ConnectionError, ValueError) as error:
        raise InputError(f"--address {address}: no Ray cluster answers there ({error})") from error


@contextlib.contextmanager
def _exit_when_ray_dies(advice: str) -> Iterator[None]:
    """End this command with a message when the head of its own Ray dies, even while it waits for something else.

    Ray would look for it for a minute, and then end the process from within, without one. What is on disk is whole at
    any instant, so nothing is lost by an end as sudden as this.
    """
    import psutil

    heads = _own_heads()
    stopped = threading.Event()

    def is_gone(head: psutil.Process) -> bool:
        try:
            # a child that died remains as a zombie until its exit status is read
            return not head.is_running() or head.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def watch() -> None:
        while not stopped.wait(HEAD_POLL_SECONDS):
            if any(map(is_gone, heads)):
                print_error("; ".join(filter(None, ["Ray was lost (its head process died)", advice])))
                sys.stderr.flush()
                os._exit(EXIT_FAILURE)

    thread = threading.Thread(target=watch, daemon=True, name="head of Ray")
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def owns_cluster() -> bool:
    """Return whether the cluster was started by this process, with which it ends.

    Returns:
        False where a running cluster was joined, and in Ray's workers.
    """
    return bool(_own_heads())


def _own_heads() -> list[psutil.Process]:
    """Return the head of the Ray that this process has started."""
    import psutil

    heads = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # processes may end meanwhile
            heads += [process] if process.name() == HEAD else []
    return heads


def token_path() -> Path:
    """Return the path of Ray's authentication token.

    Returns:
        RAY_AUTH_TOKEN_PATH, by default `~/.ray/auth_token`.
    """
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()


def _close_token_file() -> None:
    """Ray writes its token readable by everybody (0644)."""
    path = token_path()
    with contextlib.suppress(OSError):
        if path.exists() and path.stat().st_mode & 0o077:
            path.chmod(0o600)
