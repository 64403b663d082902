"""The preflight: its arithmetic, and what it finds wrong with songs and machine."""

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
from tests.song_tables import song_rows


def made(manifest: Path, encoder: Path, **keys):
    plan = plan_of(manifest, encoder, **keys)
    return plan, prepare_data(plan, read_rows_locally)


def texts(results, topic: str) -> str:
    return "\n".join(f"{one.status} {one.text}" for one in results if one.topic == topic)


def test_songs_are_counted_and_the_label_is_probed(write_table, tiny_encoder):
    rows = song_rows(songs=40)
    rows["answer"] = ["yes" if marked else "no" for marked in rows["has_rebracketing_markers"]]
    rows["notes"] = [["a", "list"]] * len(rows["id"])
    plan, data = made(write_table(rows), tiny_encoder("bert"))
    found = [*check_songs(plan, data), check_lengths(plan, data), *check_labels(plan, data)]
    assert "40 songs from 80 rows" in texts(found, "songs")
    assert "% of the texts are truncated at 64" in texts(found, "tokens")
    probed = texts(found, "probe")
    assert "answer" in probed
    assert "but" in probed
    assert not any(one.status in ("input_error", "environment_error") for one in found)


def test_labels_in_json_are_seen_through(write_table, tiny_encoder):
    rows = song_rows(songs=30)
    marked = rows.pop("has_rebracketing_markers")
    rows["training_data"] = [
        f'{{"has_rebracketing_markers": {str(one).lower()}, "how": "{"much" if one else "none"}"}}' for one in marked
    ]
    plan, data = made(write_table(rows), tiny_encoder("bert"))
    assert "training_data.how" in texts(list(check_labels(plan, data)), "probe")


@pytest.fixture
def measured(songs_file, tiny_encoder):
    plan, data = made(songs_file, tiny_encoder("bert"), model__text_encoder__freeze_layers=0)
    found, result = check_model(plan, data)
    assert "million" in texts(found, "encoder")
    return plan, data, result


def test_memory_says_which_batch_fits(measured, monkeypatch):
    plan, data, result = measured
    assert result.example_bytes > 64 * 32 * 4  # at least a layer's states of one text
    import psutil

    def with_free(n: float) -> CheckResult:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"available": n})())
        return check_memory(plan, data, dataclasses.replace(result, fixed_bytes=0, example_bytes=1000.0))

    assert with_free(1e9).status == "ok"
    tight = with_free(20_000)
    assert tight.status == "warning"
    assert "up to 18 songs fit" in tight.text
    assert "training.batch_size=16" in tight.text
    assert with_free(500).status == "environment_error"


def test_more_work_takes_longer_and_costs_more(measured):
    plan, data, result = measured
    slow = dataclasses.replace(result, step_seconds=10.0)

    def minutes(config: Config) -> str:
        changed = dataclasses.replace(plan, config=config)
        return estimate_run(changed, data, slow, ray_seconds=1.0, n_parallel=1).text

    config = plan.config.model_copy(deep=True)
    config.logging.usd_per_hour = 3600.0
    config.training.epochs, config.training.min_steps = 1, 0
    # 24 songs, 5 folds and a refit, of 1 step (19 or 20 songs in batches of 32) each: 60 s of steps
    text = minutes(config)
    assert "1 epochs of 1 steps, 5 folds and a refit" in text
    assert 60 < float(text.partition("$")[2].partition(":")[0]) < 90
    config.training.epochs = 1000
    assert "h" in minutes(config)


def test_disk_and_services(tmp_path, monkeypatch, measured):
    _, data, result = measured
    assert disk_needed_mb(data, result) > 30
    assert check_disk(tmp_path / "runs", 1.0).status == "ok"
    assert check_disk(tmp_path, 1e12).status == "environment_error"
    config = Config()
    config.logging.wandb.enabled = True
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    config.model.text_encoder.model_name = "some/model"
    said = list(check_services(config))
    assert "offline" in texts(said, "W&B")
    assert "some/model" in texts(said, "hub")
    monkeypatch.setenv("WANDB_API_KEY", "a-very-secret-key")
    said = list(check_services(config))
    assert "ok" in texts(said, "W&B")
    assert "secret" not in str(said)


def test_a_device_that_is_not_here_is_said():
    config = Config()
    config.training.device = "cuda"
    import torch

    if not torch.cuda.is_available():
        assert "cuda is not available" in texts(list(check_devices(config)), "device")


def check(*arguments: str, expect: int) -> str:
    command = [sys.executable, "-m", "rainbow_ray.check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_demo_songs_are_ready():
    said = check("--phase", "1", "--usd-per-hour", "0.4", expect=0)
    for part in ("device", "songs", "tokens", "probe", "encoder", "memory", "disk", "Ray", "the run", "$"):
        assert part in said, part
    assert "Ready to train" in said


@pytest.mark.slow
def test_wrong_input_ends_with_2(tmp_path):
    said = check("--manifest", "nowhere.parquet", "--encoder", str(tmp_path / "none"), expect=2)
    assert "nowhere.parquet" in said
    assert "cannot be loaded" in said
    assert "✗" in said


@pytest.mark.slow
@pytest.mark.long
def test_a_machine_without_ray_ends_with_1(songs_file):
    said = check("--manifest", str(songs_file), "--encoder", "embedded", "--address", "127.0.0.1:1", expect=1)
    assert "✗ Ray" in said


def test_rows_are_looked_at_up_to_a_limit(write_table, tiny_encoder):
    plan = plan_of(write_table(song_rows(songs=60)), tiny_encoder("bert"))
    data = prepare_data(plan, lambda *parts: read_rows_locally(*parts, max_rows=50))
    assert data.profile["rows"] == 50
    found = list(check_songs(plan, data))
    assert "a sample of 50 of 120 rows" in texts(found, "songs")
    assert len(np.unique(data.examples.table["row"].to_numpy())) == 25
