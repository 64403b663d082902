"""A Ray cluster whose workers have another working folder: relative paths are relative to the user's folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers import finish_run, plan_of
from tests.song_tables import song_rows

pytestmark = [pytest.mark.slow, pytest.mark.long]

PORT = 6397
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Start Ray in another folder and yield its address."""
    folder = tmp_path_factory.mktemp("head")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", f"--port={PORT}", "--num-cpus=2", "--block",
               "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir=/tmp/ray-{os.getpid()}"]  # fmt: skip
    process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    time.sleep(15)
    yield f"127.0.0.1:{PORT}"
    os.killpg(process.pid, signal.SIGTERM)
    time.sleep(3)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_relative_paths_with_an_address(cluster, tmp_path, tiny_encoder):
    folder = tmp_path / "which songs?"
    folder.mkdir()
    pq.write_table(pa.table(song_rows(songs=40)), folder / "songs.parquet")
    (tmp_path / "encoder").symlink_to(tiny_encoder("bert"))
    keys = {"training__epochs": 1, "training__min_steps": 0, "data__folds": 2, "logging__report": False}
    finish_run(plan_of(folder / "songs.parquet", tiny_encoder("bert"), **keys), tmp_path / "run")

    def run_command(module: str, *arguments: str) -> str:
        completed = subprocess.run(
            [sys.executable, "-m", f"rainbow_ray.{module}", *arguments, "--address", cluster], cwd=tmp_path,
            check=False, env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"},
            capture_output=True, text=True,
        )  # fmt: skip
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout

    output = run_command("train", "--encoder", "encoder", "--folds", "2", "--manifest", "which songs?/songs.parquet",
                   "training.epochs=1", "training.min_steps=0", "logging.report=false", "--name", "one")  # fmt: skip
    assert "40 songs from 80 rows of which songs?/songs.parquet" in output
    assert (tmp_path / "runs" / "one" / "summary.json").exists()
    run_command("predict", "--model", "run", "--manifest", "which songs?", "--out", "scores.csv", "--workers", "1")
    assert len(pd.read_csv(tmp_path / "scores.csv")) == 80
