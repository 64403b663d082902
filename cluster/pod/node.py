"""One pod as a node of Ray: `python -m cluster.pod.node start head|worker`, `… status`, `… stop`, on the pod itself.

It waits for the private interface, which may come two minutes late, and tells NCCL, Gloo and Ray to use it. Ray is
never started without a token.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cluster.pod.machine import (
    INTERFACE_SECONDS,
    NodeError,
    can_connect,
    cpu_count,
    memory_bytes,
    object_store_bytes,
    own_address,
    wait_for_interface,
)

LOOPBACK = "127.0.0.1"
GCS_PORT = 6379
DASHBOARD_PORT = 8265
START_TRIES = 3
ALIVE_SECONDS = 15.0  # until a node that was started must show itself


def local_folder() -> Path:
    """Return the pod's folder for tokens and variables, `~/.rainbow`, created with mode 0700.

    Returns:
        The folder.
    """
    folder = Path.home() / ".rainbow"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def token_file() -> Path:
    """Return the file of Ray's token, with mode 0600.

    Returns:
        The path.

    Raises:
        NodeError: There is no token.
    """
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", local_folder() / "ray_token"))
    if not path.is_file() or not path.read_text().strip():
        raise NodeError(f"no token in {path}: Ray would take commands from anyone, so it is not started")
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return path


def remember(variables: dict[str, str]) -> None:
    """Write environment variables for logins and jobs of this pod.

    Args:
        variables: Values by name.
    """
    path = local_folder() / "node.env"
    temporary = path.with_name(f".node.env.{os.getpid()}")
    temporary.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))
    temporary.chmod(0o600)
    temporary.replace(path)


def read_node_env() -> dict[str, str]:
    """Read the variables that `remember` wrote.

    Returns:
        Values by name.
    """
    lines = (local_folder() / "node.env").read_text().splitlines()
    pairs = (shlex.split(line.removeprefix("export "))[0].partition("=") for line in lines)
    return {name: value for name, _, value in pairs}


def secrets() -> dict[str, str]:
    """Read the secrets that were copied to this pod over ssh; Ray's workers inherit them.

    Returns:
        Values by name of the environment variable.
    """
    path = local_folder() / "secrets.json"
    if not path.is_file():
        return {}
    found: dict[str, str] = json.loads(path.read_text())
    return found


def start(role: str, ip: str | None, head: str | None) -> None:
    """Start Ray as head or worker, unless this pod is a living node already.

    Args:
        role: `head` or `worker`.
        ip: Private address of this pod; None for Ray's own choice.
        head: Private address of the head; None on the head.

    Raises:
        NodeError: Ray cannot be started.
    """
    token = token_file()
    own = ip or own_address()
    address = f"{own if role == 'head' else head}:{GCS_PORT}"
    interface = wait_for_interface(own)
    if role == "worker":
        if head is None:
            raise NodeError("a worker must be told its head's address")
        host = head
        if not can_connect(host, GCS_PORT):
            raise NodeError(f"the head does not answer at {host}:{GCS_PORT}")
    known = {
        "RAINBOW_ADDRESS": address,
        "NCCL_SOCKET_IFNAME": interface,
        "GLOO_SOCKET_IFNAME": interface,
        "RRAY_HEAD": own if role == "head" else str(head),
    }
    remember(known)
    keep(role)
    if is_alive(own, address):
        print(f"Ray is running here already ({address})")
        return
    command = [
        ray_command(), "start", "--disable-usage-stats", f"--node-ip-address={own}", f"--num-cpus={cpu_count()}",
        f"--object-store-memory={object_store_bytes(memory_bytes(), shutil.disk_usage('/dev/shm').free)}",
    ]  # fmt: skip
    if role == "head":
        command += ["--head", f"--port={GCS_PORT}", "--include-dashboard=true", f"--dashboard-host={LOOPBACK}",
                    f"--dashboard-port={DASHBOARD_PORT}", f"--temp-dir={ray_folder()}"]  # fmt: skip
    else:
        command += [f"--address={address}"]
    environment = {
        **os.environ,
        **secrets(),
        **known,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    }
    for left in reversed(range(START_TRIES)):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=180)
        # it may say that all is well and be gone a moment later
        if not done.returncode and stays_alive(own, address):
            return
        if not left:
            raise NodeError("ray start: " + " / ".join((done.stderr or done.stdout).strip().splitlines()[-4:]))
        for process in raylets(own):  # Ray gives a raylet 30 s, which a busy machine may need longer for
            process.kill()


def keep(role: str) -> None:
    """Start the idle monitor in the background; does nothing on machines that are not RunPod pods.

    Args:
        role: `head` or `worker`.
    """
    if not os.environ.get("RUNPOD_POD_ID"):
        return
    with (local_folder() / "keeper.log").open("a") as log:
        subprocess.Popen(
            [sys.executable, "-m", "cluster.pod.idle_monitor", role], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True, env={**os.environ, **read_node_env()},
        )  # fmt: skip


def ray_command() -> str:
    """Return the path of the `ray` command of this environment.

    Returns:
        The path.
    """
    return str(Path(sys.executable).parent / "ray")


def ray_folder() -> str:
    """Return the folder of Ray's session; its path must be short because of the limit on socket paths.

    Returns:
        The path.
    """
    return os.environ.get("RRAY_RAY_FOLDER", "/tmp/ray")


def raylets(ip: str) -> list[Any]:
    """Return the raylet processes of a node.

    Args:
        ip: Address of the node.

    Returns:
        `psutil.Process` objects.
    """
    import psutil

    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        command = process.info["cmdline"] or []
        if process.info["name"] == "raylet" and f"--node_ip_address={ip}" in command:
            found.append(process)
    return found


def is_alive(ip: str, address: str) -> bool:
    """Return whether a raylet of this pod runs and belongs to a cluster that answers.

    Args:
        ip: Address of this node.
        address: `host:port` of the cluster's GCS.

    Returns:
        True for a living node.
    """
    host, _, port = address.rpartition(":")
    return can_connect(host, int(port)) and any(
        f"--gcs-address={address}" in process.cmdline() for process in raylets(ip)
    )


def stays_alive(ip: str, address: str, seconds: float = ALIVE_SECONDS) -> bool:
    """Return whether a node becomes alive in time and is still alive a moment later.

    Args:
        ip: Address of this node.
        address: `host:port` of the cluster's GCS.
        seconds: Longest wait.

    Returns:
        True for a living node.
    """
    until = time.monotonic() + seconds
    while not is_alive(ip, address):
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    time.sleep(0.3)
    return is_alive(ip, address)


def status() -> dict[str, Any]:
    """Return the nodes of the cluster according to Ray's dashboard.

    Returns:
        `{"nodes": [{"ip", "alive", "cpus", "gpus"}, ...]}`.
    """
    from ray.util.state import list_nodes

    nodes = list_nodes(address=f"http://{LOOPBACK}:{DASHBOARD_PORT}", limit=1000)
    return {
        "nodes": [
            {
                "ip": node.node_ip,
                "alive": node.state == "ALIVE",
                "cpus": (node.resources_total or {}).get("CPU", 0),
                "gpus": (node.resources_total or {}).get("GPU", 0),
            }
            for node in nodes
        ]
    }


def main(arguments: list[str]) -> int:
    """Run a subcommand of `python -m cluster.pod.node`.

    Args:
        arguments: Command line without the program's name.

    Returns:
        The exit code.

    Raises:
        NodeError: Never; it is printed.
    """
    parser = argparse.ArgumentParser(prog="python -m cluster.pod.node", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    starting = actions.add_parser("start")
    starting.add_argument("role", choices=["head", "worker"])
    starting.add_argument("--ip", help="this pod's private address (default: Ray's own choice)")
    starting.add_argument("--head", help="the head's private address")
    probing = actions.add_parser("probe", help="can this pod reach another one?")
    probing.add_argument("host")
    probing.add_argument("port", type=int)
    probing.add_argument("--seconds", type=float, default=INTERFACE_SECONDS)
    actions.add_parser("status")
    options = parser.parse_args(arguments)
    try:
        if options.action == "start":
            start(options.role, options.ip, options.head)
        elif options.action == "probe":
            until = time.monotonic() + options.seconds
            while not can_connect(options.host, options.port):
                if time.monotonic() > until:
                    raise NodeError(f"no connection to {options.host}:{options.port} within {options.seconds:.0f} s")
                time.sleep(1.0)
        else:
            print(json.dumps(status()))
    except NodeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
