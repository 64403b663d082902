"""Work of `python -m rainbow_ray.serve`: check the options, start the service, and stop it at a signal."""

from __future__ import annotations

import argparse
import ipaddress
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from rainbow_ray.distributed.assigned_resources import check_gpus
from rainbow_ray.distributed.ray_cluster import prepare_environment, ray_cluster
from rainbow_ray.modalities.selection import besides_text
from rainbow_ray.serving.auth import LOOPBACK_HOSTS, AccessPolicy, hash_token
from rainbow_ray.serving.token_file import TOKEN_FILE, Token, read_or_create_token
from rainbow_ray.utils.errors import EXIT_SUCCESS, InputError
from rainbow_ray.utils.signals import SIGNALS

if TYPE_CHECKING:
    from rainbow_ray.inference.predictor import Predictor

RANGES = {"port": (1, 65535), "replicas": (1, 64), "timeout": (0.1, 3600)}


def serve(options: argparse.Namespace) -> int:
    """Serve a model until SIGINT or SIGTERM.

    Args:
        options: Arguments of `serve`.

    Returns:
        The exit code.

    Raises:
        InputError: The options or the model are wrong.
    """
    token = check_options(options)
    prepare_environment()

    # After `prepare_environment`, which Ray and transformers read when they are imported.
    from rainbow_ray.inference.predictor import Predictor
    from rainbow_ray.serving.deploy import start, stop

    # Problems of the model are reported before anything is started.
    _check_model(Predictor.load(options.model, options.device), options.model)
    hosts = (*LOOPBACK_HOSTS, options.host) if is_loopback(options.host) else None
    policy = AccessPolicy(hash_token(token.value) if token else None, hosts)
    with ray_cluster(None) as cluster:
        check_gpus(cluster, options.device)
        start(options, policy, cluster)
        try:
            is_stopped = threading.Event()
            for number in SIGNALS:  # from here on, a signal is the normal end
                signal.signal(number, lambda *_: is_stopped.set())
            _print_addresses(options, token, policy)
            is_stopped.wait()
        finally:
            stop()
    return EXIT_SUCCESS


def check_options(options: argparse.Namespace) -> Token | None:
    """Check the options before anything is loaded.

    Args:
        options: Arguments of `serve`.

    Returns:
        The token that requests must send, or None where none is needed.

    Raises:
        InputError: Options are wrong, with all problems.
    """
    problems = []
    for option, (low, high) in RANGES.items():
        value = getattr(options, option)
        if not low <= value <= high:
            problems.append(f"--{option} {value}: must be between {low:g} and {high:g}")
    if not problems:
        problems += _check_address(options.host, options.port)
    token = None
    try:
        if options.token_file is not None or not is_loopback(options.host):
            token = read_or_create_token((options.token_file or TOKEN_FILE).expanduser())
    except InputError as error:
        problems += error.problems
    if problems:
        raise InputError(problems)
    return token


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only.

    Args:
        host: Name or IP address. Names other than `localhost` may resolve to any address.

    Returns:
        Whether it is a loopback address.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_address(host: str, port: int) -> list[str]:
    """Return a message where the address cannot be listened on."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return [f"--host {host} --port {port}: cannot listen there ({error.strerror}); choose another --port"]
    return []


def _check_model(predictor: Predictor, model: Path) -> None:
    """Raise `InputError` for a model that does not read text; print a note on other modalities."""
    if not predictor.reads_text:
        raise InputError(f"{model}: this model does not read text, and requests contain text; use `predict`")
    if predictor.bundle.model.is_fused:
        names = ", ".join(besides_text(predictor.bundle.model.modalities))
        print(f"Note: requests contain only text: {names} count as missing, as in a part of the training examples")


def _print_addresses(options: argparse.Namespace, token: Token | None, policy: AccessPolicy) -> None:
    host = f"[{options.host}]" if ":" in options.host else options.host
    url = f"http://{host}:{options.port}"
    print(f"{options.model}: {url}/ (a form), /docs (documentation of the API), POST /predict", flush=True)
    if token is not None:
        print(f"Requests need the token in {token.file}: Authorization: Bearer TOKEN", flush=True)
    if policy.allowed_hosts is None:
        print("Note: requests are not encrypted; put a proxy with TLS in front, or use ssh -L", flush=True)
    print("Press Ctrl-C to stop.", flush=True)
