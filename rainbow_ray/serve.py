"""A trained model behind HTTP, on this machine: `python -m rainbow_ray.serve runs/NAME`."""

from __future__ import annotations

import argparse
import ipaddress
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rainbow_ray.cli import run
from rainbow_ray.utils.errors import EXIT_SUCCESS
from rainbow_ray.utils.paths import path_option
from rainbow_ray.utils.signals import SIGNALS

if TYPE_CHECKING:
    from rainbow_ray.serving.auth import Gate

TOKEN_FILE = Path("~/.config/rainbow_ray/serve_token")
SHORTEST_TOKEN = 16  # characters


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    token = _check(options)

    from rainbow_ray.distributed.ray_cluster import prepare_environment, ray_cluster

    prepare_environment()

    from rainbow_ray.inference.predictor import Predictor
    from rainbow_ray.serving.auth import LOOPBACK, Gate, hash_of
    from rainbow_ray.serving.deploy import start, stop

    # what is wrong with the model is told before anything is started
    _can_be_asked(Predictor.load(options.model, options.device), options.model)
    loopback = _is_loopback(options.host)
    gate = Gate(hash_of(token.value) if token else None, (*LOOPBACK, options.host) if loopback else None)
    with ray_cluster(None) as cluster:
        start(options, gate, cluster)
        try:
            ended = threading.Event()
            for kind in SIGNALS:  # from here on either of them is the ordinary end
                signal.signal(kind, lambda *_: ended.set())
            _say(options, token, gate)
            ended.wait()
        finally:
            stop()
    return EXIT_SUCCESS


@dataclass(frozen=True)
class Token:
    value: str
    file: Path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rainbow_ray.serve", description=__doc__, allow_abbrev=False)
    parser.add_argument("model", type=path_option, metavar="RUN|FOLDER", help="a run, or its model/ folder")
    parser.add_argument("--host", default="127.0.0.1", help="where it listens (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--token-file", type=path_option, metavar="F", help="the token that must be sent; made where"
                        f" there is none (default: none on this machine, elsewhere {TOKEN_FILE})")  # fmt: skip
    parser.add_argument("--replicas", type=int, default=1, metavar="N", help="copies of the model, side by side")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="S", help="seconds that a request may take")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))
    return parser


def _check(options: argparse.Namespace) -> Token | None:
    """The token that is asked for, if any. Raises `InputError` with all that is wrong."""
    from rainbow_ray.utils.errors import InputError

    problems = []
    for flag, least, most in (("port", 1, 65535), ("replicas", 1, 64), ("timeout", 0.1, 3600)):
        if not least <= getattr(options, flag) <= most:
            problems.append(f"--{flag} {getattr(options, flag)}: between {least:g} and {most:g}")
    if not problems and (taken := _taken(options.host, options.port)):
        problems.append(taken)
    token = None
    try:
        if options.token_file is not None or not _is_loopback(options.host):
            token = _token((options.token_file or TOKEN_FILE).expanduser())
    except InputError as error:
        problems += error.problems
    if problems:
        raise InputError(problems)
    return token


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches it: a name that merely looks so may lead anywhere."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _taken(host: str, port: int) -> str | None:
    """Why nothing can listen there; None where something can."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return f"--host {host} --port {port}: nothing can listen there ({error.strerror}); another --port?"
    return None


def _token(file: Path) -> Token:
    """What a file holds, or a new token in it, which its owner alone may read. Raises `InputError`."""
    from rainbow_ray.utils.errors import InputError

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
                opened.write(secrets.token_urlsafe(32) + "\n")
        if file.stat().st_mode & 0o077:
            raise InputError(f"--token-file {file}: others may read it; chmod 600 {file}")
        value = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--token-file {file}: it cannot be read or made ({error})") from error
    if len(value) < SHORTEST_TOKEN:
        raise InputError(f"--token-file {file}: a token has at least {SHORTEST_TOKEN} characters")
    return Token(value, file)


def _can_be_asked(predictor: object, model: Path) -> None:
    from rainbow_ray.inference.predictor import Predictor
    from rainbow_ray.utils.errors import InputError

    assert isinstance(predictor, Predictor)
    if not predictor.reads_text:
        raise InputError(f"{model}: this model does not read text, and requests bring text; use `predict`")
    if predictor.bundle.model.is_fused:
        names = ", ".join(name for name in predictor.bundle.model.modalities if name != "text")
        print(f"Note: requests bring text alone: {names} count as missing, as in training they sometimes were")


def _say(options: argparse.Namespace, token: Token | None, gate: Gate) -> None:
    host = f"[{options.host}]" if ":" in options.host else options.host
    print(f"{options.model}: http://{host}:{options.port}/ (a form), /docs (the interface), POST /predict", flush=True)
    if token is not None:
        print(f"It asks for the token in {token.file}: Authorization: Bearer TOKEN", flush=True)
    if gate.hosts is None:
        print("Note: what is sent there is not encrypted; put a proxy with TLS in front, or ssh -L", flush=True)
    print("Ctrl-C ends it.", flush=True)


if __name__ == "__main__":
    sys.exit(run(main))
