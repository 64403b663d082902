"""The real commands train, predict and report with a task, a modality and a baseline that only this test registers."""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rainbow_ray import predict, report, train
from rainbow_ray.baselines.registry import register_baseline, unregister_baseline
from rainbow_ray.cli.main import run_command
from rainbow_ray.modalities.spec import register_modality, unregister_modality
from rainbow_ray.tasks.registry import register_task, unregister_task
from tests.modalities.test_register_modality import TempoModality
from tests.song_tables import song_rows
from tests.tasks.test_registry import Margin

pytestmark = pytest.mark.slow


@pytest.fixture
def extensions():
    register_task("margin", Margin)
    register_modality("tempo", TempoModality())
    register_baseline("always negative", lambda inputs: True, _score_negative)
    yield
    unregister_baseline("always negative")
    unregister_modality("tempo")
    unregister_task("margin")


def _score_negative(inputs, train_indices, val_indices):
    return np.full(len(val_indices), -1.0, dtype=np.float32)


def execute(monkeypatch, command, *arguments):
    monkeypatch.setattr(sys, "argv", ["rainbow_ray", *map(str, arguments)])
    return run_command(command.main)


def test_commands_use_what_was_registered(extensions, monkeypatch, tiny_encoder, tmp_path):
    rows = song_rows()
    labels = rows["has_rebracketing_markers"]
    rows["bpm"] = [60.0 + i % 5 + 80.0 * label for i, label in enumerate(labels)]
    manifest = tmp_path / "songs.parquet"
    pq.write_table(pa.table(rows), manifest)
    code = execute(
        monkeypatch, train, "--phase", 3, "--manifest", manifest, "--encoder", tiny_encoder("bert"), "--folds", 2,
        "--modalities", "text,tempo", "--output-dir", tmp_path, "--name", "run", "data.target_type=margin",
        "data.target_column=has_rebracketing_markers", "training.min_steps=40", "training.head_learning_rate=3e-3",
    )  # fmt: skip
    assert code == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["task"] == "margin"
    assert summary["metrics"]["agreement"] > 0.7
    assert summary["baselines"]["always negative"]["agreement"] == pytest.approx(1 - np.mean(labels), abs=0.2)
    scores = tmp_path / "scores.parquet"
    assert execute(monkeypatch, predict, "--model", tmp_path / "run", "--manifest", manifest, "--out", scores) == 0
    assert pd.read_parquet(scores)["score"].notna().all()
    (tmp_path / "run" / "report.html").unlink()
    assert execute(monkeypatch, report, tmp_path / "run") == 0
    assert "always negative" in (tmp_path / "run" / "report.html").read_text()
