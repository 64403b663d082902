"""The real command on a real Ray: the files that it writes, its output, and how a run is resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import rainbow_ray
from tests.config.test_config import OLDER

pytestmark = pytest.mark.slow

# bundles score in fp32, so the runs that they are compared with train in fp32 on every machine
WITH_REPORT = ["training.epochs=2", "training.min_steps=0", "training.batch_size=8", "training.mixed_precision=off"]
QUICK = [*WITH_REPORT, "logging.report=false"]


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "rainbow_ray.train", *arguments], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment},
    )  # fmt: skip


def call(folder: Path, *arguments: str, expect: int = 0, **environment: str) -> str:
    process = start(folder, *arguments, **environment)
    stdout, stderr = process.communicate(timeout=900)
    assert process.returncode == expect, f"{stdout}\n{stderr}"
    return stdout + stderr


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One quick run on the demo songs with all loggers enabled."""
    folder = tmp_path_factory.mktemp("demo")
    loggers = ["--wandb", "logging.tensorboard=true", "--usd-per-hour", "0.36"]
    output = call(folder, "--phase", "1", "--name", "d", *WITH_REPORT, *loggers)
    return folder / "runs" / "d", output


def test_a_run_has_all_files_and_summary_keys(demo):
    run, _ = demo
    for name in (
        "config.yaml",
        "env.json",
        "data.json",
        "split.json",
        "metrics.jsonl",
        "predictions.parquet",
        "report.html",
    ):
        assert (run / name).stat().st_size > 0, name
    summary = json.loads((run / "summary.json").read_text())
    expected_keys = [
        "format", "phase", "task", "target", "metric", "selected_on", "metrics", "ci95", "baselines", "verdict",
        "counts", "seconds",
        "tokens_per_second", "peak_memory_mb", "cost_usd", "config_hash", "data_hash", "demo",
    ]  # fmt: skip
    assert set(expected_keys) <= set(summary)
    assert summary["demo"] is True
    assert summary["counts"]["songs"] == 160
    assert set(summary["counts"]["dropped"]) == {
        "no text", "text under 50 characters", "no label", "further rows of a song",
    }  # fmt: skip
    assert len(summary["baselines"]) == 5
    low, high = summary["ci95"]["macro_f1"]
    assert low <= summary["metrics"]["macro_f1"] <= high
    assert summary["cost_usd"] == pytest.approx(0.36 * summary["seconds"]["total"] / 3600, abs=1e-4)
    assert yaml.safe_load((run / "config.yaml").read_text())["training"]["epochs"] == 2


def test_predictions_are_unique_and_agree_with_the_summary(demo):
    run, _ = demo
    frame = pd.read_parquet(run / "predictions.parquet")
    assert not frame.duplicated(["example_id", "fold", "split"]).any()
    validation_rows = frame[frame["split"] == "val"]
    assert len(validation_rows) == 160
    assert validation_rows["song"].is_unique
    assert frame["score"].dtype == np.float32
    split = json.loads((run / "split.json").read_text())["fold"]
    assert all(split[row.example_id] == row.fold for row in validation_rows.itertuples())
    summary = json.loads((run / "summary.json").read_text())
    accuracy = ((validation_rows["score"] > 0.5) == (validation_rows["target"] > 0.5)).mean()
    assert summary["metrics"]["accuracy"] == pytest.approx(accuracy)
    refit = frame[frame["fold"].isna()]
    assert len(refit) == 160
    loaded = rainbow_ray.load(run)
    demo_songs = pd.read_parquet(json.loads((run / "summary.json").read_text())["manifest"])
    songs = demo_songs.drop_duplicates("id").set_index("id").loc[refit["example_id"]]
    np.testing.assert_allclose(loaded.predict(songs)["score"], refit["score"], atol=1e-5)


def test_the_output_describes_the_run(demo):
    run, output = demo
    assert output.startswith("Training on the built-in demo songs")
    for message in (
        "2 rows left out: no text",
        "fold 5  epoch 2/2",
        "refit",
        "95% interval",
        "best baseline",
        "$",
        str(run),
    ):
        assert message in output, message
    assert "Traceback" not in output


def test_metrics_are_written_once_and_forwarded_to_the_loggers(demo):
    run, _ = demo
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    record_keys = [(r["fold"], r["epoch"], r["step"], r["split"]) for r in records]
    assert len(record_keys) == len(set(record_keys))
    assert {r["fold"] for r in records} == {0, 1, 2, 3, 4, None}
    assert list((run / "tensorboard").glob("events.*"))
    assert list((run / "wandb").glob("offline-run-*"))


def test_a_finished_run_is_not_changed(demo):
    run, _ = demo
    times_before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    folder = run.parents[1]
    assert "exists" in call(folder, "--phase", "1", "--name", "d", *QUICK, expect=2)
    loggers = ["--wandb", "logging.tensorboard=true"]
    assert "is already finished" in call(folder, "--phase", "1", "--name", "d", *WITH_REPORT, *loggers, "--resume")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == times_before
    (run / "report.html").unlink()  # as if the run had been killed before the report
    call(folder, "--phase", "1", "--name", "d", *WITH_REPORT, *loggers, "--resume")
    assert (run / "report.html").exists()


def test_one_split_trains_in_a_torch_trainer_and_its_file_is_reused(tmp_path, songs_file, tiny_encoder):
    arguments = ["--manifest", str(songs_file), "--encoder", str(tiny_encoder("deberta-v2")), *QUICK]
    output = call(tmp_path, *arguments, "--folds", "1", "--name", "one")
    assert "one split" in output
    assert "measured with the embedded encoder only" in output
    run = tmp_path / "runs" / "one"
    frame = pd.read_parquet(run / "predictions.parquet")
    assert set(frame["fold"]) == {0}
    assert set(frame["split"]) == {"train", "val"}
    split = json.loads((run / "split.json").read_text())
    call(tmp_path, *arguments, "--split-file", str(run / "split.json"), "--name", "two", "reproducibility.seed=7")
    assert json.loads((tmp_path / "runs" / "two" / "split.json").read_text())["fold"] == split["fold"]


def test_albums_are_held_out_and_a_dry_run_writes_nothing(tmp_path, songs_file):
    arguments = ["--manifest", str(songs_file), "--encoder", "embedded", "--split-by", "album", "--dry-run"]
    output = call(tmp_path, *arguments)
    assert "3 folds by album" in output
    assert "only 3 groups" in output
    assert not (tmp_path / "runs").exists()


def test_unusable_data_exits_with_2_after_ray_has_read_it(tmp_path, write_table):
    from tests.song_tables import song_rows

    path = write_table({**song_rows(), "has_rebracketing_markers": [True] * 48})
    output = call(tmp_path, "--manifest", str(path), "--encoder", "embedded", "--name", "free", expect=2)
    assert "one class only" in output
    assert "Traceback" not in output
    assert not (tmp_path / "runs" / "free").exists()  # the name can be used again


@pytest.mark.long
def test_a_loss_that_is_not_finite_exits_with_1_and_names_the_songs(tmp_path, songs_file):
    arguments = [
        "--manifest",
        str(songs_file),
        "--encoder",
        "embedded",
        "training.head_learning_rate=1e38",
        "training.warmup_ratio=0",
        *QUICK,
    ]
    for folds in ("1", "2"):  # in a worker of a TorchTrainer, and in the process of the command
        output = call(tmp_path, *arguments, "--folds", folds, expect=1)
        assert "in a batch of the songs 0" in output
        assert "Traceback" not in output


def test_a_killed_run_is_resumed(tmp_path, songs_file):
    arguments = ["--manifest", str(songs_file), "--encoder", "embedded", *QUICK, "--folds", "3", "--name", "k"]
    process = start(tmp_path, *arguments)
    run = tmp_path / "runs" / "k"
    deadline = time.monotonic() + 200
    while not list(run.glob("checkpoints/fold-*/result.npz")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(3)  # until Ray's processes notice the loss of their driver, a fold may still finish
    for file in run.glob("checkpoints/fold-*/metrics.jsonl"):  # append records, as if the run had been killed later
        if not (file.parent / "result.npz").exists():
            record = {"fold": 1, "epoch": 0, "step": 0, "split": "train", "seconds": 0.0, "loss": 1.0}
            with file.open("a") as stream:
                stream.writelines(json.dumps({**record, "epoch": 3 + i}) + "\n" for i in range(200))
    finished = {path: path.stat().st_mtime_ns for path in run.glob("checkpoints/fold-*/result.npz")}
    assert not (run / "summary.json").exists()
    call(tmp_path, *arguments[:-2], "--resume")
    assert (run / "summary.json").exists()
    assert all(path.stat().st_mtime_ns == modified_at for path, modified_at in finished.items())
    records = [json.loads(record) for record in (run / "metrics.jsonl").read_text().splitlines()]
    record_keys = [(r["fold"], r["epoch"], r["step"], r["split"]) for r in records]
    assert len(record_keys) == len(set(record_keys)) == 3 * 2 * 2 + 2


@pytest.mark.long
def test_a_config_of_an_earlier_version_trains_and_beats_the_majority(tmp_path):
    (tmp_path / "older.yml").write_text(OLDER)
    output = call(tmp_path, "--config", "older.yml", expect=2)
    assert "data/base_manifest_db.parquet" in output
    output = call(
        tmp_path,
        "--config",
        "older.yml",
        "--manifest",
        "demo",
        "--encoder",
        "embedded",
        "--name",
        "o",
        "--folds",
        "2",
        "training.min_steps=100",
        "training.epochs=12",
    )
    for key in ("num_workers", "hidden_size", "cuda is not available"):
        assert key in output
    summary = json.loads((tmp_path / "output" / "o" / "summary.json").read_text())
    assert summary["metrics"]["macro_f1"] > summary["baselines"]["majority"]["macro_f1"] + 0.1
    assert summary["metrics"]["accuracy"] > summary["baselines"]["majority"]["accuracy"]
    assert summary["selected_on"] == "inner split"


def test_the_model_beats_the_linear_baseline_on_the_real_songs(tmp_path, real_manifest):
    call(tmp_path, "--manifest", str(real_manifest), "--encoder", "embedded", "--name", "r")
    summary = json.loads((tmp_path / "runs" / "r" / "summary.json").read_text())
    assert summary["counts"]["songs"] == 43
    assert summary["metrics"]["macro_f1"] > summary["baselines"]["frozen encoder + linear"]["macro_f1"]
