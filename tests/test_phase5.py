"""Phase 5 through the real commands: timelines are trained by two workers, folded, killed, swept, checked, used."""

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
LEAN = "segments.no_context_baseline=false"


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
    keep = [i for i, song in enumerate(rows["song_id"]) if song != f"{SONGS - 1:02d}"]
    pq.write_table(pa.table({k: [v[i] for i in keep] for k, v in rows.items()}), folder / "segments.parquet")
    return folder


def arguments(tables, encoder, folder, *more):
    return ["--phase", "5", "--manifest", tables / "songs.parquet", "--segments", tables / "segments.parquet",
            "--encoder", encoder, "--output-dir", folder, *more]  # fmt: skip


@pytest.mark.long
def test_two_workers_train_timelines_that_are_used(tables, tiny_encoder, tmp_path):
    more = ["--name", "r", *QUICK, "--workers", "2", "segments.decoding=viterbi"]
    said = call("train", *arguments(tables, tiny_encoder("bert"), tmp_path, *more))
    run = tmp_path / "r"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["workers"] == 2
    assert summary["verdict"] in said
    assert "segment of a song that the manifest lacks" in said
    assert "1 songs of the manifest have no segments" in said
    assert {"no context", "majority", "TF-IDF + linear", "bag of words + boosting", "frozen encoder + linear"} <= set(
        summary["baselines"]
    )
    assert {"time_accuracy", "edit", "f1_at_10", "f1_at_25", "f1_at_50", "boundary_0_5s", "boundary_3s"} <= set(
        summary["metrics"]
    )
    predictions = pd.read_parquet(run / "predictions.parquet")
    held = predictions[(predictions["split"] == "val") & predictions["fold"].notna()]
    assert len(held) == (SONGS - 1) * SEGMENTS
    assert held.groupby("song")["fold"].nunique().max() == 1
    assert (run / "report.html").exists()
    out, beside = tmp_path / "out.parquet", tmp_path / "out.intervals.parquet"
    call("predict", "--model", run, "--manifest", tables / "segments.parquet", "--out", out)
    segments, stretches = pd.read_parquet(out), pd.read_parquet(beside)
    assert len(segments) == SONGS * SEGMENTS
    for song, rows in stretches.groupby("song"):
        mine = segments[segments["song"] == song]
        assert rows["start"].min() == pytest.approx(mine["start"].min())
        assert rows["end"].max() == pytest.approx(mine["end"].max())
        assert (rows["prediction"].shift() != rows["prediction"]).all(), "neighbouring stretches differ"
    out.unlink()
    said = call("predict", "--model", run, "--manifest", tables / "segments.parquet", "--out", out, expect=2)
    assert "out.intervals.parquet" in said
    assert "song" in call("predict", "--model", run, "--text", "a door of song aaa")
    pd.read_parquet(tables / "segments.parquet").drop(columns=["start_seconds", "lyric_text"]).to_parquet(out)
    said = call("predict", "--model", run, "--manifest", out, "--out", tmp_path / "no.csv", expect=2)
    assert "no column 'start_seconds'" in said
    assert "no column 'lyric_text'" in said


@pytest.mark.long
def test_a_killed_run_ends_as_if_it_had_not_been(tables, tiny_encoder, tmp_path):
    """SIGKILL while it trains; what is left on `--resume` is what an undisturbed run gives, to the bit."""
    where = arguments(tables, tiny_encoder("bert"), tmp_path, *QUICK, "training.device=cpu", LEAN)
    call("train", *where, "--name", "whole")
    command = [sys.executable, "-m", "rainbow_ray.train", *map(str, where), "--name", "killed"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines, deadline = tmp_path / "killed" / "metrics.jsonl", time.monotonic() + 300
    while time.monotonic() < deadline and (not lines.exists() or lines.read_text().count("\n") < 6):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "summary.json").exists()
    call("train", *where, "--name", "killed", "--resume")
    a, b = (pd.read_parquet(tmp_path / name / "predictions.parquet") for name in ("whole", "killed"))
    pd.testing.assert_frame_equal(a, b)
    best = [json.loads((tmp_path / name / "summary.json").read_text())["metrics"] for name in ("whole", "killed")]
    assert best[0] == best[1]


@pytest.mark.long
def test_timelines_are_swept_and_checked(tables, tiny_encoder, tmp_path):
    where = arguments(tables, tiny_encoder("bert"), tmp_path)
    said = call("tune", *where, "--name", "s", *QUICK, "--trials", "2", "tune.revalidation_seeds=1", LEAN)
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert summary["verdict"] in said
    trials = pd.read_csv(tmp_path / "s" / "trials.csv")
    assert summary["winner"]["score"] == pytest.approx(trials[trials["state"] == "complete"]["score"].max())
    assert (tmp_path / "s" / "best" / "report.html").exists()
    said = call("check", *where)
    assert "segments" in said


@pytest.mark.parametrize("bag", ["attention", pytest.param("noisy_or", marks=pytest.mark.long)])
def test_without_a_table_of_segments_the_manifest_has_them(tables, tiny_encoder, tmp_path, bag):
    songs = pd.read_parquet(tables / "songs.parquet")
    songs["rebracketing_type"] = np.where(songs["has_rebracketing_markers"], "spatial", "temporal")
    songs.to_parquet(tmp_path / "songs.parquet")
    where = ["--phase", "5", "--manifest", tmp_path / "songs.parquet", "--encoder", tiny_encoder("bert")]
    said = call("train", *where, "--output-dir", tmp_path, "--name", "w", *QUICK, f"segments.mil_pooling={bag}", LEAN)
    assert "segments are derived from the manifest, 16 songs from song_structure" in " ".join(said.split())
    assert "WEAK" in said
    assert json.loads((tmp_path / "w" / "summary.json").read_text())["weak"] == bag
    out = tmp_path / "out.csv"
    said = call("predict", "--model", tmp_path / "w", "--manifest", tmp_path / "songs.parquet", "--out", out)
    assert "WEAK" in said
    assert pd.read_csv(out)["weak"].all()


def test_nothing_left_ends_with_2(tables, tiny_encoder, tmp_path):
    rows = pd.read_parquet(tables / "segments.parquet")
    rows["segment_rebracketing_type"] = None
    rows.to_parquet(tmp_path / "bad.parquet")
    where = arguments(tables, tiny_encoder("bert"), tmp_path, "--name", "r", *QUICK)
    where[where.index("--segments") + 1] = tmp_path / "bad.parquet"
    assert "null in all segments" in call("train", *where, expect=2)
