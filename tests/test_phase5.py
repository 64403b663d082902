"""Phase 5 through the real commands: training with two workers, kill and resume, sweep, check and prediction."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.song_tables import segment_rows, song_rows
from tests.test_phases import call

pytestmark = pytest.mark.slow

SONGS, SEGMENTS = 16, 8
QUICK = ["training.epochs=4", "training.min_steps=0", "--folds", "2"]
WITHOUT_BASELINE = "segments.no_context_baseline=false"


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A manifest whose last song has no segments, and segments whose last song it lacks."""
    folder = tmp_path_factory.mktemp("tables")
    songs = song_rows(songs=SONGS, stems=1)
    songs["id"] = [f"{i:02d}" for i in range(SONGS)]
    songs["song_structure"] = [
        " | ".join(f"Verse {i}: {words}, [00:{10 * i:02d}.000]-[00:{10 * i + 10:02d}.000]" for i in range(1, 5))
        for words in songs["concept"]
    ]
    pq.write_table(pa.table(songs), folder / "songs.parquet")
    rows = segment_rows(songs=SONGS + 1, segments=SEGMENTS)
    selected = [i for i, song in enumerate(rows["song_id"]) if song != f"{SONGS - 1:02d}"]
    pq.write_table(
        pa.table({name: [values[i] for i in selected] for name, values in rows.items()}), folder / "segments.parquet"
    )
    return folder


def common_arguments(tables, encoder, folder, *extra):
    return ["--phase", "5", "--manifest", tables / "songs.parquet", "--segments", tables / "segments.parquet",
            "--encoder", encoder, "--output-dir", folder, *extra]  # fmt: skip


@pytest.mark.long
def test_two_workers_train_on_segments_and_the_model_predicts(tables, tiny_encoder, tmp_path):
    extra = ["--name", "r", *QUICK, "--workers", "2", "segments.decoding=viterbi"]
    output = call("train", *common_arguments(tables, tiny_encoder("bert"), tmp_path, *extra))
    run = tmp_path / "r"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["workers"] == 2
    assert summary["verdict"] in output
    assert "segment of a song that the manifest lacks" in output
    assert "1 songs of the manifest have no segments" in output
    assert {"no context", "majority", "TF-IDF + linear", "bag of words + boosting", "frozen encoder + linear"} <= set(
        summary["baselines"]
    )
    assert {"time_accuracy", "edit", "f1_at_10", "f1_at_25", "f1_at_50", "boundary_0_5s", "boundary_3s"} <= set(
        summary["metrics"]
    )
    predictions = pd.read_parquet(run / "predictions.parquet")
    validation_rows = predictions[(predictions["split"] == "val") & predictions["fold"].notna()]
    assert len(validation_rows) == (SONGS - 1) * SEGMENTS
    assert validation_rows.groupby("song")["fold"].nunique().max() == 1
    assert (run / "report.html").exists()
    out, intervals_path = tmp_path / "out.parquet", tmp_path / "out.intervals.parquet"
    call("predict", "--model", run, "--manifest", tables / "segments.parquet", "--out", out)
    segments, intervals = pd.read_parquet(out), pd.read_parquet(intervals_path)
    assert len(segments) == SONGS * SEGMENTS
    for song, rows in intervals.groupby("song"):
        song_segments = segments[segments["song"] == song]
        assert rows["start"].min() == pytest.approx(song_segments["start"].min())
        assert rows["end"].max() == pytest.approx(song_segments["end"].max())
        assert (rows["prediction"].shift() != rows["prediction"]).all(), (
            "consecutive intervals have different predictions"
        )
    out.unlink()
    output = call("predict", "--model", run, "--manifest", tables / "segments.parquet", "--out", out, expect=2)
    assert "out.intervals.parquet" in output
    assert "song" in call("predict", "--model", run, "--text", "a door of song aaa")
    pd.read_parquet(tables / "segments.parquet").drop(columns=["start_seconds", "lyric_text"]).to_parquet(out)
    output = call("predict", "--model", run, "--manifest", out, "--out", tmp_path / "no.csv", expect=2)
    assert "no column 'start_seconds'" in output
    assert "no column 'lyric_text'" in output


@pytest.mark.long
def test_a_killed_run_resumes_to_identical_results(tables, tiny_encoder, tmp_path):
    """After SIGKILL during training, `--resume` gives bit-identical results to an undisturbed run."""
    arguments = common_arguments(
        tables, tiny_encoder("bert"), tmp_path, *QUICK, "training.device=cpu", WITHOUT_BASELINE
    )
    call("train", *arguments, "--name", "undisturbed")
    command = [sys.executable, "-m", "rainbow_ray.train", *map(str, arguments), "--name", "killed"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics_path, deadline = tmp_path / "killed" / "metrics.jsonl", time.monotonic() + 300
    while time.monotonic() < deadline and (not metrics_path.exists() or metrics_path.read_text().count("\n") < 6):
        assert process.poll() is None, "the process ended before it could be killed"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "summary.json").exists()
    call("train", *arguments, "--name", "killed", "--resume")
    reference, resumed = (
        pd.read_parquet(tmp_path / name / "predictions.parquet") for name in ("undisturbed", "killed")
    )
    pd.testing.assert_frame_equal(reference, resumed)
    metrics = [
        json.loads((tmp_path / name / "summary.json").read_text())["metrics"] for name in ("undisturbed", "killed")
    ]
    assert metrics[0] == metrics[1]


@pytest.mark.long
def test_sweep_and_check_of_segments(tables, tiny_encoder, tmp_path):
    arguments = common_arguments(tables, tiny_encoder("bert"), tmp_path)
    output = call(
        "tune", *arguments, "--name", "s", *QUICK, "--trials", "2", "tune.revalidation_seeds=1", WITHOUT_BASELINE
    )
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert summary["verdict"] in output
    trials = pd.read_csv(tmp_path / "s" / "trials.csv")
    assert summary["winner"]["score"] == pytest.approx(trials[trials["state"] == "complete"]["score"].max())
    assert (tmp_path / "s" / "best" / "report.html").exists()
    output = call("check", *arguments)
    assert "segments" in output


@pytest.mark.parametrize("pooling", ["attention", pytest.param("noisy_or", marks=pytest.mark.long)])
def test_segments_are_derived_from_the_manifest(tables, tiny_encoder, tmp_path, pooling):
    songs = pd.read_parquet(tables / "songs.parquet")
    songs["rebracketing_type"] = np.where(songs["has_rebracketing_markers"], "spatial", "temporal")
    songs.to_parquet(tmp_path / "songs.parquet")
    arguments = ["--phase", "5", "--manifest", tmp_path / "songs.parquet", "--encoder", tiny_encoder("bert")]
    output = call(
        "train",
        *arguments,
        "--output-dir",
        tmp_path,
        "--name",
        "w",
        *QUICK,
        f"segments.mil_pooling={pooling}",
        WITHOUT_BASELINE,
    )
    assert "segments are derived from the manifest, 16 songs from song_structure" in " ".join(output.split())
    assert "WEAK" in output
    assert json.loads((tmp_path / "w" / "summary.json").read_text())["weak"] == pooling
    out = tmp_path / "out.csv"
    output = call("predict", "--model", tmp_path / "w", "--manifest", tmp_path / "songs.parquet", "--out", out)
    assert "WEAK" in output
    assert pd.read_csv(out)["weak"].all()


def test_segments_without_labels_exit_with_2(tables, tiny_encoder, tmp_path):
    rows = pd.read_parquet(tables / "segments.parquet")
    rows["segment_rebracketing_type"] = None
    rows.to_parquet(tmp_path / "bad.parquet")
    arguments = common_arguments(tables, tiny_encoder("bert"), tmp_path, "--name", "r", *QUICK)
    arguments[arguments.index("--segments") + 1] = tmp_path / "bad.parquet"
    assert "null in all segments" in call("train", *arguments, expect=2)
