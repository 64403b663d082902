"""Real runs whose processes are killed: a worker's death goes by unnoticed, any other one ends with `--resume`."""

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
def whole(tmp_path_factory, command) -> Path:
    """A run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    call(folder, *command, "--name", "r")
    return folder / "runs" / "r"


def assert_same(run: Path, whole: Path) -> None:
    for fit in FITS:
        ours, theirs = (CheckpointManager(at / "checkpoints" / fit).load_model()["model"] for at in (run, whole))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), fit
    ours, theirs = (json.loads((at / "summary.json").read_text()) for at in (run, whole))
    assert ours["metrics"] == theirs["metrics"]
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    places = [(r["fold"], r["epoch"], r["step"], r["split"]) for r in records]
    assert len(places) == len(set(places))
    assert len(places) == len((whole / "metrics.jsonl").read_text().splitlines())


def in_the_middle(process: subprocess.Popen, run: Path, fits: tuple[str, ...], seconds: float = 240) -> None:
    """Wait until one of these fits has a checkpoint and is not finished."""
    deadline = time.monotonic() + seconds
    folders = [run / "checkpoints" / fit for fit in fits]
    while not any(list(f.glob("step-*.pt")) and not (f / "result.npz").exists() for f in folders):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes(driver: subprocess.Popen, title: str = "") -> list[psutil.Process]:
    found = []
    for child in psutil.Process(driver.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if title in " ".join(child.cmdline()):
                found.append(child)
    return found


def kill(victims: list[psutil.Process]) -> None:
    assert victims
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()


@pytest.mark.long
def test_a_worker_that_is_killed_is_replaced(command, whole, tmp_path):
    run = tmp_path / "runs" / "r"
    process = start(tmp_path, *command, "--name", "r")
    in_the_middle(process, run, ("fold-0", "fold-1"))
    kill(processes(process, FOLD_WORKER)[:1])
    in_the_middle(process, run, ("refit",))
    kill(processes(process, TRAIN_WORKER)[:1])
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, out + err
    assert "resumed from step" in out
    assert "Traceback" not in out + err
    assert_same(run, whole)


@pytest.mark.long
def test_a_session_and_a_driver_that_are_killed_are_gone_on_with(command, whole, tmp_path):
    run = tmp_path / "runs" / "r"
    process = start(tmp_path, *command, "--name", "r")
    in_the_middle(process, run, ("fold-0", "fold-1"))
    kill(processes(process))
    out, err = process.communicate(timeout=200)
    assert process.returncode == 1, out + err
    assert "--resume" in err
    assert "Traceback" not in err
    process = start(tmp_path, *command, "--name", "r", "--resume")
    in_the_middle(process, run, ("refit",))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    out = call(tmp_path, *command, "--resume")
    assert "resumed from step" in out
    assert_same(run, whole)
