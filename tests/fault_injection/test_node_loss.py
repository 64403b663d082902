"""A machine of the cluster dies: elastic workers go on with those that are left."""

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

from tests.fault_injection.test_ray_kills import in_the_middle
from tests.song_tables import song_rows
from tests.test_train import start

pytestmark = pytest.mark.slow

# so that a death is noticed in a second; by Ray's own settings it takes 15 s
HEALTH = {
    "health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 2,
}  # fmt: skip


@pytest.fixture
def cluster(tmp_path_factory):
    """A head and a second node, each of one CPU, with a token: their address, and the second one's processes."""
    from rainbow_ray.distributed.ray_cluster import prepare_environment

    prepare_environment()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("1234567890abcdef" * 4)
    known = {"RAY_AUTH_TOKEN_PATH": str(token)}
    environment = {**os.environ, **known, "RAY_AUTH_MODE": "token"}
    folder = Path("/tmp") / f"rb{port}"  # paths of sockets must be short
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--disable-usage-stats", "--num-cpus=1"]

    def node(*arguments: str) -> set[psutil.Process]:
        before = set(here())
        subprocess.run([*ray, *arguments], env=environment, check=True, capture_output=True, timeout=120)
        return set(here()) - before

    def here() -> list[psutil.Process]:
        return [p for p in psutil.process_iter() if str(folder) in _command(p)]

    try:
        node("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}",
             f"--system-config={json.dumps(HEALTH)}")  # fmt: skip
        second = node(f"--address=127.0.0.1:{port}")
        yield f"127.0.0.1:{port}", second, known
    finally:
        for process in here():
            with contextlib.suppress(psutil.Error):
                process.kill()


def _command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@pytest.mark.long
def test_training_goes_on_with_the_workers_that_are_left(cluster, write_table, tiny_encoder, tmp_path):
    address, second, environment = cluster
    arguments = [
        "--manifest", str(write_table(song_rows(songs=40, stems=1))), "--encoder", str(tiny_encoder("bert")),
        "--address", address, "--workers", "1..2", "--folds", "1", "--name", "r", "training.min_steps=0",
        "training.epochs=300", "training.batch_size=4", "training.checkpoint_seconds=0.5",
        "model.text_encoder.freeze_layers=1", "model.text_encoder.layer=2",
    ]  # fmt: skip
    process = start(tmp_path, *arguments, **environment)
    in_the_middle(process, tmp_path / "runs" / "r", ("fold-0",))
    began = time.monotonic()
    for victim in [p for node in second for p in [*node.children(recursive=True), node]]:
        with contextlib.suppress(psutil.Error):
            victim.kill()
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, out + err
    assert "after a stop, with 1 workers in place of 2" in out
    print(f"finished {time.monotonic() - began:.1f} s after the loss")
