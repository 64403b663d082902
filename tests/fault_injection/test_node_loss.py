"""Loss of a node: elastic training continues with the remaining workers."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.fault_injection.test_ray_kills import wait_for_checkpoint
from tests.song_tables import song_rows
from tests.test_train import start

pytestmark = pytest.mark.slow

# detect a lost node within a second; with Ray's defaults it takes 15 s
HEALTH = {
    "health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 2,
}  # fmt: skip


@pytest.fixture
def cluster(tmp_path_factory):
    """Start a head and a second node of one CPU each; yield the address, the second node's processes, the token."""
    from rainbow_ray.distributed.ray_cluster import prepare_environment

    prepare_environment()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("1234567890abcdef" * 4)
    token_environment = {"RAY_AUTH_TOKEN_PATH": str(token)}
    environment = {**os.environ, **token_environment, "RAY_AUTH_MODE": "token"}
    folder = Path("/tmp") / f"rb{port}"  # paths of sockets must be short
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--disable-usage-stats", "--num-cpus=1"]

    def start_node(*arguments: str) -> set[psutil.Process]:
        processes_before = set(node_processes())
        subprocess.run([*ray, *arguments], env=environment, check=True, capture_output=True, timeout=120)
        return set(node_processes()) - processes_before

    def node_processes() -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if str(folder) in _command(process)]

    try:
        start_node("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}",
                   f"--system-config={json.dumps(HEALTH)}")  # fmt: skip
        second_node = start_node(f"--address=127.0.0.1:{port}")
        yield f"127.0.0.1:{port}", second_node, token_environment
    finally:
        for process in node_processes():
            with contextlib.suppress(psutil.Error):
                process.kill()


def _command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@pytest.mark.long
def test_training_continues_with_the_remaining_workers(cluster, write_table, tiny_encoder, tmp_path):
    address, second_node, environment = cluster
    arguments = [
        "--manifest", str(write_table(song_rows(songs=40, stems=1))), "--encoder", str(tiny_encoder("bert")),
        "--address", address, "--workers", "1..2", "--folds", "1", "--name", "r", "training.min_steps=0",
        "training.epochs=300", "training.batch_size=4", "training.checkpoint_seconds=0.5",
        "model.text_encoder.freeze_layers=1", "model.text_encoder.layer=2",
    ]  # fmt: skip
    process = start(tmp_path, *arguments, **environment)
    wait_for_checkpoint(process, tmp_path / "runs" / "r", ("fold-0",))
    start_time = time.monotonic()
    victims = [child for node in second_node for child in node.children(recursive=True)]
    for victim in [*victims, *second_node]:
        with contextlib.suppress(psutil.Error):
            victim.kill()
    stdout, stderr = process.communicate(timeout=400)
    assert process.returncode == 0, stdout + stderr
    assert ", with 1 workers in place of 2" in stdout
    print(f"finished {time.monotonic() - start_time:.1f} s after the loss")
