"""The preflight checks: estimates, and problems of the data, the model and the machine."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rainbow_ray.checks.data import check_labels, check_lengths, check_songs
from rainbow_ray.checks.environment import check_devices, check_disk, check_services
from rainbow_ray.checks.estimate import check_memory, disk_needed_mb, estimate_run
from rainbow_ray.checks.model import check_model
from rainbow_ray.checks.result import CheckResult
from rainbow_ray.config.schema import Config
from rainbow_ray.data.reader import read_rows_locally
from rainbow_ray.setup.prepare import prepare_data
from tests.helpers import plan_of
from tests.song_tables import segment_rows, song_rows


def plan_and_data(manifest: Path, encoder: Path, **keys):
    plan = plan_of(manifest, encoder, **keys)
    return plan, prepare_data(plan, read_rows_locally)


def texts_of(results, topic: str) -> str:
    return "\n".join(f"{result.status} {result.text}" for result in results if result.topic == topic)


def test_songs_are_counted_and_the_label_is_probed(write_table, tiny_encoder):
    rows = song_rows(songs=40)
    rows["answer"] = ["yes" if label else "no" for label in rows["has_rebracketing_markers"]]
    rows["notes"] = [["a", "list"]] * len(rows["id"])
    plan, data = plan_and_data(write_table(rows), tiny_encoder("bert"))
    results = [*check_songs(plan, data), check_lengths(plan, data), *check_labels(plan, data)]
    assert "40 songs from 80 rows" in texts_of(results, "songs")
    assert "% of the texts are truncated at 64" in texts_of(results, "tokens")
    probe_texts = texts_of(results, "probe")
    assert "answer" in probe_texts
    assert "but" in probe_texts
    assert not any(result.status in ("input_error", "environment_error") for result in results)


def test_leakage_in_json_columns_is_found(write_table, tiny_encoder):
    rows = song_rows(songs=30)
    labels = rows.pop("has_rebracketing_markers")
    rows["training_data"] = [
        f'{{"has_rebracketing_markers": {str(label).lower()}, "how": "{"much" if label else "none"}"}}'
        for label in labels
    ]
    plan, data = plan_and_data(write_table(rows), tiny_encoder("bert"))
    assert "training_data.how" in texts_of(list(check_labels(plan, data)), "probe")


@pytest.fixture
def measured(songs_file, tiny_encoder):
    plan, data = plan_and_data(songs_file, tiny_encoder("bert"), model__text_encoder__freeze_layers=0)
    results, measurements = check_model(plan, data)
    assert "million" in texts_of(results, "encoder")
    return plan, data, measurements


def test_the_memory_check_recommends_a_batch_size(measured, monkeypatch):
    plan, data, measurements = measured
    assert measurements.example_bytes > 64 * 32 * 4  # at least the hidden states of one layer for one text
    import psutil

    def check_with_free_bytes(free_bytes: float) -> CheckResult:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"available": free_bytes})())
        return check_memory(plan, data, dataclasses.replace(measurements, fixed_bytes=0, example_bytes=1000.0))

    assert check_with_free_bytes(1e9).status == "ok"
    little_memory = check_with_free_bytes(20_000)
    assert little_memory.status == "warning"
    assert "up to 18 songs fit" in little_memory.text
    assert "training.batch_size=16" in little_memory.text
    assert check_with_free_bytes(500).status == "environment_error"


def test_more_work_takes_longer_and_costs_more(measured):
    plan, data, measurements = measured
    slow_measurements = dataclasses.replace(measurements, step_seconds=10.0, step_examples=19)

    def estimate_text(config: Config) -> str:
        changed = dataclasses.replace(plan, config=config)
        return estimate_run(changed, data, slow_measurements, ray_seconds=1.0, n_parallel=1).text

    config = plan.config.model_copy(deep=True)
    config.logging.usd_per_hour = 3600.0
    config.training.epochs, config.training.min_steps = 1, 0
    # 24 songs, 5 folds and a refit, of 1 step (19 or 20 songs in batches of 32) each: 60 s of steps
    text = estimate_text(config)
    assert "1 epochs of 1 steps of" in text
    assert 60 < float(text.partition("$")[2].partition(":")[0]) < 90
    config.training.epochs = 1000
    assert "h" in estimate_text(config)


def test_disk_and_services(tmp_path, monkeypatch, measured):
    _, data, measurements = measured
    assert disk_needed_mb(data, measurements) > 30
    assert check_disk(tmp_path / "runs", 1.0).status == "ok"
    assert check_disk(tmp_path, 1e12).status == "environment_error"
    config = Config()
    config.logging.wandb.enabled = True
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    config.model.text_encoder.model_name = "some/model"
    results = list(check_services(config))
    assert "offline" in texts_of(results, "W&B")
    assert "some/model" in texts_of(results, "hub")
    monkeypatch.setenv("WANDB_API_KEY", "a-very-secret-key")
    results = list(check_services(config))
    assert "ok" in texts_of(results, "W&B")
    assert "secret" not in str(results)


def test_an_unavailable_device_is_reported():
    config = Config()
    config.training.device = "cuda"
    import torch

    if not torch.cuda.is_available():
        assert "cuda is not available" in texts_of(list(check_devices(config)), "device")


def run_check(*arguments: str, expect: int) -> str:
    command = [sys.executable, "-m", "rainbow_ray.check", *arguments]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert completed.returncode == expect, completed.stdout + completed.stderr
    assert "Traceback" not in completed.stdout + completed.stderr
    return completed.stdout + completed.stderr


@pytest.mark.slow
def test_the_demo_songs_are_ready():
    output = run_check("--phase", "1", "--usd-per-hour", "0.4", expect=0)
    for part in ("device", "songs", "tokens", "probe", "encoder", "memory", "disk", "Ray", "the run", "$"):
        assert part in output, part
    assert "Ready to train" in output


@pytest.mark.slow
def test_invalid_input_exits_with_2(tmp_path):
    output = run_check("--manifest", "nowhere.parquet", "--encoder", str(tmp_path / "none"), expect=2)
    assert "nowhere.parquet" in output
    assert "cannot be loaded" in output
    assert "✗" in output


@pytest.mark.slow
@pytest.mark.long
def test_an_unreachable_ray_exits_with_1(songs_file):
    output = run_check("--manifest", str(songs_file), "--encoder", "embedded", "--address", "127.0.0.1:1", expect=1)
    assert "✗ Ray" in output


def test_at_most_max_rows_are_checked(write_table, tiny_encoder):
    plan = plan_of(write_table(song_rows(songs=60)), tiny_encoder("bert"))
    data = prepare_data(plan, lambda *arguments: read_rows_locally(*arguments, max_rows=50))
    assert data.profile["rows"] == 50
    results = list(check_songs(plan, data))
    assert "a sample of 50 of 120 rows" in texts_of(results, "songs")
    assert len(np.unique(data.examples.table["row"].to_numpy())) == 25


def test_what_more_songs_would_bring(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from rainbow_ray.checks.more_songs import check_more_songs
    from tests.helpers import data_of

    pq.write_table(pa.table(song_rows(songs=60)), tmp_path / "songs.parquet")
    plan = plan_of(tmp_path / "songs.parquet")
    (result,) = check_more_songs(plan, data_of(plan))
    assert result.text.startswith("30 more songs: macro f1 ")
    assert "a linear model of words" in result.text
    pq.write_table(pa.table(song_rows(songs=24)), tmp_path / "few.parquet")
    plan = plan_of(tmp_path / "few.parquet")
    assert check_more_songs(plan, data_of(plan)) == []
    pq.write_table(pa.table(segment_rows(songs=45, segments=3)), tmp_path / "segments.parquet")
    plan = plan_of("demo", phase=5, segments__path=str(tmp_path / "segments.parquet"))
    (result,) = check_more_songs(plan, data_of(plan))
    assert result.text.startswith("20 more songs: macro f1 ")
