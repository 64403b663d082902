"""Real runs whose processes are killed: a lost worker is replaced; after any other loss the run can be resumed."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch

from rainbow_ray.training.checkpoint import CheckpointManager
from tests.song_tables import song_rows
from tests.test_train import call, start

pytestmark = pytest.mark.slow

FITS = ("fold-0", "fold-1", "refit")
KEYS = [
    "--folds", "2", "training.min_steps=0", "training.epochs=120", "training.batch_size=4", "training.device=cpu",
    "training.checkpoint_seconds=0.5", "training.learning_rate=1e-3", "model.text_encoder.freeze_layers=1",
    "model.text_encoder.layer=2", "model.classifier.dropout=0.2", "logging.report=false",
]  # fmt: skip
FOLD_WORKER, TRAIN_WORKER = "ray::_FoldWorker.run", "ray::RayTrainWorker"


@pytest.fixture(scope="module")
def command(tmp_path_factory, tiny_encoder) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    manifest = tmp_path_factory.mktemp("songs") / "songs.parquet"
    pq.write_table(pa.table(song_rows(songs=40, stems=1)), manifest)
    return ["--manifest", str(manifest), "--encoder", str(tiny_encoder("bert")), *KEYS]


@pytest.fixture(scope="module")
def reference_run(tmp_path_factory, command) -> Path:
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("reference")
    call(folder, *command, "--name", "r")
    return folder / "runs" / "r"


def assert_identical_results(run: Path, reference: Path) -> None:
    for fit in FITS:
        weights, expected = (
            CheckpointManager(folder / "checkpoints" / fit).load_model()["model"] for folder in (run, reference)
        )
        assert all(torch.equal(weights[name], expected[name]) for name in expected), fit
    summary, expected_summary = (json.loads((folder / "summary.json").read_text()) for folder in (run, reference))
    assert summary["metrics"] == expected_summary["metrics"]
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    record_keys = [(record["fold"], record["epoch"], record["step"], record["split"]) for record in records]
    assert len(record_keys) == len(set(record_keys))
    assert len(record_keys) == len((reference / "metrics.jsonl").read_text().splitlines())


def wait_for_checkpoint(process: subprocess.Popen, run: Path, fits: tuple[str, ...], seconds: float = 240) -> None:
    """Wait until one of these fits has a checkpoint and is not finished."""
    deadline = time.monotonic() + seconds
    folders = [run / "checkpoints" / fit for fit in fits]
    while not any(list(folder.glob("step-*.pt")) and not (folder / "result.npz").exists() for folder in folders):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def child_processes(driver: subprocess.Popen, title: str = "") -> list[psutil.Process]:
    matches = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if title in " ".join(process.cmdline()):
                matches.append(process)
    return matches


def kill(victims: list[psutil.Process]) -> None:
    assert victims
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()


def resume_after_kills(process: subprocess.Popen, folder: Path, command: list[str]) -> None:
    """Kill the session of a run, resume it, kill the command during the refit, and resume it to its end."""
    kill(child_processes(process))
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 1, stdout + stderr
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    process = start(folder, *command, "--name", "r", "--resume")
    wait_for_checkpoint(process, folder / "runs" / "r", ("refit",))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    stdout = call(folder, *command, "--resume", "--name", "r")
    assert "resumed from step" in stdout


@pytest.mark.long
def test_a_killed_worker_is_replaced(command, reference_run, tmp_path):
    run = tmp_path / "runs" / "r"
    process = start(tmp_path, *command, "--name", "r")
    wait_for_checkpoint(process, run, ("fold-0", "fold-1"))
    kill(child_processes(process, FOLD_WORKER)[:1])
    wait_for_checkpoint(process, run, ("refit",))
    kill(child_processes(process, TRAIN_WORKER)[:1])
    stdout, stderr = process.communicate(timeout=400)
    assert process.returncode == 0, stdout + stderr
    assert "resumed from step" in stdout
    assert "Traceback" not in stdout + stderr
    assert_identical_results(run, reference_run)


@pytest.mark.long
def test_a_run_is_resumed_after_its_session_and_its_driver_are_killed(command, reference_run, tmp_path):
    run = tmp_path / "runs" / "r"
    process = start(tmp_path, *command, "--name", "r")
    wait_for_checkpoint(process, run, ("fold-0", "fold-1"))
    resume_after_kills(process, tmp_path, command)
    assert_identical_results(run, reference_run)


def test_short_fits_run_in_the_command_and_are_resumed_after_it_or_its_session_is_killed(command, tmp_path):
    """With a frozen encoder, folds and refit run one after the other in the process of the command."""
    changed = {"model.text_encoder.freeze_layers": "all", "training.epochs": "400"}
    command = [part for part in command if part.partition("=")[0] not in changed]
    command += [f"{key}={value}" for key, value in changed.items()]
    call(tmp_path / "reference", *command, "--name", "r")
    run = tmp_path / "runs" / "r"
    process = start(tmp_path, *command, "--name", "r")
    wait_for_checkpoint(process, run, ("fold-1",))
    assert not child_processes(process, FOLD_WORKER) + child_processes(process, TRAIN_WORKER)
    resume_after_kills(process, tmp_path, command)
    assert_identical_results(run, tmp_path / "reference" / "runs" / "r")


def test_a_killed_actor_beside_the_fits_of_the_command_is_replaced(tmp_path):
    """The fits without context of segments, and the baselines, run in an actor beside the command's own fits."""
    process = start(tmp_path, "--phase", "5", "--name", "r", "training.epochs=5", "logging.report=false")
    checkpoints = tmp_path / "runs" / "r" / "checkpoints"
    deadline = time.monotonic() + 240
    while not list(checkpoints.glob("none-fold-*/result.npz")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kill(child_processes(process, "ray::_FoldWorker.run_all"))
    stdout, stderr = process.communicate(timeout=400)
    assert process.returncode == 0, stdout + stderr
    assert "no context" in json.loads((tmp_path / "runs" / "r" / "summary.json").read_text())["baselines"]
