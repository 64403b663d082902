"""Run this pod as a Ray node: `python -m cluster.pod.node start head|worker`, `… probe`, `… status`.

`start` waits for the private network interface, which may appear two minutes late, and configures NCCL, Gloo and Ray to
use it. Ray is never started without a token.
"""

from __future__ import annotations

import argparse
import contextlib
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
DASHBOARD_PORT = 8265  # RRAY_DASHBOARD_PORT overrides it
START_TRIES = 3
KILL_TRIES = 20
ALIVE_SECONDS = 15.0  # within which a started node must be alive


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
        raise NodeError(
            f"no token in {path}; without it Ray would accept commands from anyone, so it is not started; run `setup`"
        )
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return path


def write_node_env(variables: dict[str, str]) -> None:
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
    """Read the variables that `write_node_env` wrote.

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
    values: dict[str, str] = json.loads(path.read_text())
    return values


def start(role: str, ip: str | None, head: str | None) -> None:
    """Start Ray as head or worker, unless this pod is a running node already.

    Args:
        role: `head` or `worker`.
        ip: Private address of this pod; None to let Ray choose.
        head: Private address of the head; None on the head.

    Raises:
        NodeError: Ray cannot be started.
    """
    token = token_file()
    node_ip = ip or own_address()
    address = f"{node_ip if role == 'head' else head}:{GCS_PORT}"
    interface = wait_for_interface(node_ip)
    if role == "worker":
        if head is None:
            raise NodeError("a worker needs the address of its head (--head)")
        if not can_connect(head, GCS_PORT):
            raise NodeError(f"the head does not answer at {head}:{GCS_PORT}")
    variables = {
        "RAINBOW_ADDRESS": address,
        "NCCL_SOCKET_IFNAME": interface,
        "GLOO_SOCKET_IFNAME": interface,
        "RRAY_HEAD": node_ip if role == "head" else str(head),
    }
    write_node_env(variables)
    start_idle_monitor(role)
    if is_alive(node_ip, address):
        print(f"Ray is already running ({address})")
        return
    command = start_command(role, node_ip, address)
    environment = {
        **os.environ,
        **secrets(),
        **variables,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    }
    errors = []
    for _ in range(START_TRIES):
        process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=180)
        # `ray start` may succeed although the node dies a moment later
        if not process.returncode and stays_alive(node_ip, address):
            return
        errors.append(" / ".join((process.stderr or process.stdout).strip().splitlines()[-4:]))
        # A busy machine may need longer than the 30 s that Ray waits for a raylet. What a failed start leaves running,
        # above all the GCS, refuses the next one.
        kill_node_processes(node_ip)
    raise NodeError("ray start failed: " + " / then: ".join(dict.fromkeys(errors)))


def start_command(role: str, node_ip: str, address: str) -> list[str]:
    """Return the command that starts Ray on this pod.

    Args:
        role: `head` or `worker`.
        node_ip: Private address of this pod.
        address: `host:port` of the cluster's GCS.

    Returns:
        The command's words.
    """
    command = [
        ray_command(), "start", "--disable-usage-stats", f"--node-ip-address={node_ip}", f"--num-cpus={cpu_count()}",
        # any free port: without the usual one, which another Ray of this machine may hold, no job could be submitted
        "--dashboard-agent-listen-port=0",
        f"--object-store-memory={object_store_bytes(memory_bytes(), shutil.disk_usage('/dev/shm').free)}",
    ]  # fmt: skip
    if role == "head":
        command += ["--head", f"--port={GCS_PORT}", "--include-dashboard=true", f"--dashboard-host={LOOPBACK}",
                    f"--dashboard-port={dashboard_port()}", f"--temp-dir={ray_folder()}"]  # fmt: skip
    else:
        command += [f"--address={address}"]
    return command


def start_idle_monitor(role: str) -> None:
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


def dashboard_port() -> int:
    """Return the port of Ray's dashboard on the head.

    Returns:
        The port.
    """
    return int(os.environ.get("RRAY_DASHBOARD_PORT", DASHBOARD_PORT))


def node_processes(ip: str) -> list[Any]:
    """Return all processes that Ray runs for a node: GCS, raylet, dashboard, monitors and client server.

    Args:
        ip: Address of the node.

    Returns:
        `psutil.Process` objects.
    """
    import psutil

    flags = {f"--{name}={ip}" for name in ("node-ip-address", "node_ip_address", "monitor-ip", "host")}
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if (command := process.info["cmdline"] or []) and not flags.isdisjoint(command) and "ray" in " ".join(command)
    ]


def kill_node_processes(ip: str) -> None:
    """Kill all processes of a node, also those that they start meanwhile.

    Args:
        ip: Address of the node.
    """
    import psutil

    for _ in range(KILL_TRIES):
        processes = node_processes(ip)
        if not processes:
            return
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=5)


def raylets(ip: str) -> list[Any]:
    """Return the raylet processes of a node.

    Args:
        ip: Address of the node.

    Returns:
        `psutil.Process` objects.
    """
    import psutil

    processes = []
    for process in psutil.process_iter(["name", "cmdline"]):
        command = process.info["cmdline"] or []
        if process.info["name"] == "raylet" and f"--node_ip_address={ip}" in command:
            processes.append(process)
    return processes


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
    deadline = time.monotonic() + seconds
    while not is_alive(ip, address):
        if time.monotonic() > deadline:
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

    nodes = list_nodes(address=f"http://{LOOPBACK}:{dashboard_port()}", limit=1000)
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
    start_parser = actions.add_parser("start")
    start_parser.add_argument("role", choices=["head", "worker"])
    start_parser.add_argument("--ip", help="private address of this pod (default: chosen by Ray)")
    start_parser.add_argument("--head", help="private address of the head")
    probe_parser = actions.add_parser("probe", help="check whether this pod can connect to an address")
    probe_parser.add_argument("host")
    probe_parser.add_argument("port", type=int)
    probe_parser.add_argument("--seconds", type=float, default=INTERFACE_SECONDS)
    actions.add_parser("status")
    options = parser.parse_args(arguments)
    try:
        if options.action == "start":
            start(options.role, options.ip, options.head)
        elif options.action == "probe":
            deadline = time.monotonic() + options.seconds
            while not can_connect(options.host, options.port):
                if time.monotonic() > deadline:
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
