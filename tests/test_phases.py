"""Phases 2 and 4 through the real commands, on a real Ray: training with two workers, sweep, check and prediction."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import rainbow_ray
from tests.song_tables import labelled_songs

pytestmark = pytest.mark.slow

QUICK = ["training.epochs=4", "training.min_steps=0", "--folds", "3"]


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("songs") / "songs.parquet"
    pq.write_table(labelled_songs(), path)
    return path


def call(module: str, *arguments: object, expect: int = 0) -> str:
    command = [sys.executable, "-m", f"rainbow_ray.{module}", *map(str, arguments)]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert completed.returncode == expect, completed.stdout + completed.stderr
    assert "Traceback" not in completed.stdout + completed.stderr
    return completed.stdout + completed.stderr


@pytest.mark.long
def test_two_workers_train_on_classes_and_the_model_predicts(songs, tiny_encoder, tmp_path):
    common = ["--manifest", songs, "--encoder", tiny_encoder("bert"), "--output-dir", tmp_path, "--name", "r"]
    options = ["training.sampling=oversample", "calibration.method=temperature"]
    options.append("data.class_mapping={spatial:room,causal:cause,temporal:time}")
    output = call("train", "--phase", "2", *common, *QUICK, *options, "--workers", "2")
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["workers"] == 2
    assert set(summary["classes"]) == {"room", "cause", "time"}
    assert summary["verdict"] in output
    assert "too few to fit a calibration" in output
    predictions = pd.read_parquet(tmp_path / "r" / "predictions.parquet")
    validation_rows = predictions[(predictions["split"] == "val") & predictions["fold"].notna()]
    assert len(validation_rows) == validation_rows["song"].nunique() == 36
    assert validation_rows[["score_room", "score_cause", "score_time"]].sum(axis=1).to_numpy() == pytest.approx(
        1.0, abs=1e-5
    )
    assert (tmp_path / "r" / "report.html").exists()
    out = tmp_path / "out.csv"
    call("predict", "--model", tmp_path / "r", "--manifest", songs, "--out", out)
    expected = rainbow_ray.load(tmp_path / "r").predict(pq.read_table(songs).to_pandas())
    assert pd.read_csv(out)["prediction"].tolist() == expected["prediction"].tolist()
    assert "exists" in call("predict", "--model", tmp_path / "r", "--manifest", songs, "--out", out, expect=2)


@pytest.mark.long
def test_a_sweep_of_a_regression(songs, tiny_encoder, tmp_path):
    common = ["--manifest", songs, "--encoder", tiny_encoder("bert"), "--output-dir", tmp_path, "--name", "s"]
    output = call("tune", "--phase", "4", *common, *QUICK, "--trials", "2", "tune.revalidation_seeds=1")
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert (summary["metric"], summary["task"]) == ("mae", "regression")
    assert summary["verdict"] in output
    trials = pd.read_csv(tmp_path / "s" / "trials.csv")
    complete = trials[trials["state"] == "complete"]
    assert summary["winner"]["score"] == pytest.approx(complete["score"].min()), "the smallest error is the best score"
    for page in (tmp_path / "s" / "report.html", tmp_path / "s" / "best" / "report.html"):
        assert page.exists()


def test_check_describes_the_targets_of_a_regression(songs, tiny_encoder):
    output = call("check", "--phase", "4", "--manifest", songs, "--encoder", tiny_encoder("bert"))
    assert "median" in output
    assert "label" in output.lower()
