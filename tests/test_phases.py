"""Phases 2 and 4 through the real commands, on a real Ray: trained by two workers, folded, swept, checked, used."""

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


def call(door: str, *arguments: object, expect: int = 0) -> str:
    command = [sys.executable, "-m", f"rainbow_ray.{door}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.long
def test_classes_are_trained_by_two_workers_and_used(songs, tiny_encoder, tmp_path):
    where = ["--manifest", songs, "--encoder", tiny_encoder("bert"), "--output-dir", tmp_path, "--name", "r"]
    rare = ["training.sampling=oversample", "calibration.method=temperature"]
    rare.append("data.class_mapping={spatial:room,causal:cause,temporal:time}")
    said = call("train", "--phase", "2", *where, *QUICK, *rare, "--workers", "2")
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["workers"] == 2
    assert set(summary["classes"]) == {"room", "cause", "time"}
    assert summary["verdict"] in said
    assert "too few to fit a calibration" in said
    predictions = pd.read_parquet(tmp_path / "r" / "predictions.parquet")
    held = predictions[(predictions["split"] == "val") & predictions["fold"].notna()]
    assert len(held) == held["song"].nunique() == 36
    assert held[["score_room", "score_cause", "score_time"]].sum(axis=1).to_numpy() == pytest.approx(1.0, abs=1e-5)
    assert (tmp_path / "r" / "report.html").exists()
    out = tmp_path / "out.csv"
    call("predict", "--model", tmp_path / "r", "--manifest", songs, "--out", out)
    model = rainbow_ray.load(tmp_path / "r").predict(pq.read_table(songs).to_pandas())
    assert pd.read_csv(out)["prediction"].tolist() == model["prediction"].tolist()
    assert "exists" in call("predict", "--model", tmp_path / "r", "--manifest", songs, "--out", out, expect=2)


@pytest.mark.long
def test_numbers_are_swept(songs, tiny_encoder, tmp_path):
    where = ["--manifest", songs, "--encoder", tiny_encoder("bert"), "--output-dir", tmp_path, "--name", "s"]
    said = call("tune", "--phase", "4", *where, *QUICK, "--trials", "2", "tune.revalidation_seeds=1")
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert (summary["metric"], summary["task"]) == ("mae", "regression")
    assert summary["verdict"] in said
    trials = pd.read_csv(tmp_path / "s" / "trials.csv")
    complete = trials[trials["state"] == "complete"]
    assert summary["winner"]["score"] == pytest.approx(complete["score"].min()), "of errors the least is best"
    for page in (tmp_path / "s" / "report.html", tmp_path / "s" / "best" / "report.html"):
        assert page.exists()


def test_a_check_looks_at_numbers(songs, tiny_encoder):
    said = call("check", "--phase", "4", "--manifest", songs, "--encoder", tiny_encoder("bert"))
    assert "median" in said
    assert "label" in said.lower()
