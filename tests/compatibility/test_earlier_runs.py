"""Runs, sweeps and bundles that version 0.1.0 wrote can still be loaded, scored, reported, exported and resumed.

`runs_0_1.tar.xz` was written by that version (commit 55ef2e6), on a tiny encoder: a finished run of each
task, a fused one, an ensemble and an ONNX export, each with the scores that it gave then; a finished sweep; a run and a
sweep that were killed.
"""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import rainbow_ray
from rainbow_ray.bundle.bundle import load_bundle, save_bundle
from rainbow_ray.bundle.description import FORMAT, read_description
from rainbow_ray.html_report.comparison import comparison_page
from rainbow_ray.html_report.html import render
from rainbow_ray.html_report.run_artifacts import read_run
from rainbow_ray.html_report.write import write_report

ARCHIVE = Path(__file__).with_name("runs_0_1.tar.xz")
SONGS = ("binary", "ensemble", "multiclass", "multilabel", "regression")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the commands of version 0.1.0 were run."""
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def expected_of(earlier: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(earlier / "runs" / f"{name}.expected.parquet")


def assert_same_scores(scores: pd.DataFrame, expected: pd.DataFrame) -> None:
    columns = [name for name in expected.columns if name == "score" or name.startswith("score_")]
    assert columns
    np.testing.assert_allclose(scores[columns].to_numpy(np.float64), expected[columns].to_numpy(np.float64), atol=1e-6)
    predictions = [
        json.dumps(list(prediction)) if isinstance(prediction, tuple) else str(prediction)
        for prediction in scores["prediction"]
    ]
    if expected["prediction"].iloc[0].replace(".", "").replace("-", "").isdigit():
        np.testing.assert_allclose(np.array(predictions, float), expected["prediction"].astype(float), atol=1e-6)
    else:
        assert predictions == expected["prediction"].tolist()


@pytest.mark.parametrize("name", SONGS)
def test_a_run_gives_the_scores_of_its_version(earlier, name):
    model = rainbow_ray.load(earlier / "runs" / name)
    assert_same_scores(model.predict(pd.read_parquet(earlier / "songs.parquet")), expected_of(earlier, name))


def test_a_fused_run_gives_the_scores_of_its_version(earlier):
    model = rainbow_ray.load(earlier / "runs" / "fused", media_root=earlier)
    scores = model.predict(pd.read_parquet(earlier / "stems.parquet"))
    assert_same_scores(scores, expected_of(earlier, "fused"))


def test_a_run_of_segments_gives_the_scores_of_its_version(earlier):
    model = rainbow_ray.load(earlier / "runs" / "segmentation")
    scores = model.predict_segments(pd.read_parquet(earlier / "segments.parquet")).segments
    assert_same_scores(scores, expected_of(earlier, "segmentation"))


def test_an_exported_graph_gives_the_scores_of_its_run(earlier):
    songs = pd.read_parquet(earlier / "songs.parquet")
    scores = rainbow_ray.load(earlier / "runs" / "binary" / "onnx").score_texts(songs["concept"].tolist())
    np.testing.assert_allclose(scores[:, 0], expected_of(earlier, "binary")["score"], atol=1e-4)


def test_bundles_of_earlier_formats_are_read_under_present_keys(earlier):
    for name in ("segmentation", "fused", "ensemble"):
        document = json.loads((earlier / "runs" / name / "model" / "bundle.json").read_text())
        assert document["format"] == 2
        assert {"problem", "unit"} <= document.keys()
        info = read_description(earlier / "runs" / name / "model")
        assert info["task"] == document["problem"]
        assert info["example_level"] == document["unit"]
        assert not {"problem", "unit", "max_bad_media", "audio_normalised"} & info.keys()
        if name == "segmentation":
            assert info["segments"]["max_sequence_length"] == document["segments"]["together"]
        if name == "fused":
            assert info["windows"]["windows_per_stem"] == document["windows"]["views"]
        assert [member["task"] for member in info["members"]] == [
            earlier_member["problem"] for earlier_member in document["members"]
        ]


def test_a_bundle_that_is_saved_again_has_the_present_format(earlier, tmp_path):
    bundle = load_bundle(earlier / "runs" / "ensemble")
    save_bundle(tmp_path / "model", bundle, bundle.model.config)
    document = json.loads((tmp_path / "model" / "bundle.json").read_text())
    assert document["format"] == FORMAT
    songs = pd.read_parquet(earlier / "songs.parquet")
    assert_same_scores(rainbow_ray.load(tmp_path / "model").predict(songs), expected_of(earlier, "ensemble"))


@pytest.mark.parametrize("name", [*SONGS, "fused", "segmentation", "sweep"])
def test_a_report_can_be_written(earlier, name):
    path = write_report(earlier / "runs" / name)
    assert path.stat().st_size > 10_000
    summary = json.loads((earlier / "runs" / name / "summary.json").read_text())
    page = html.unescape(path.read_text())
    assert summary["verdict"] in page
    scores = [summary["winner"]["score"]] if name == "sweep" else [summary["best"][summary["metric"]]]
    scores += [summary["confirmed"]["winner"]] if name == "sweep" else []
    for score in scores:
        assert f"{score:.3f}" in page


def test_runs_are_compared(earlier):
    runs = [read_run(earlier / "runs" / name) for name in ("binary", "ensemble")]
    assert "36 songs" in render(comparison_page(runs))


def run_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_CHDIR_TO_TRIAL_DIR": "0"}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


SHORT = ["--phase", "1", "--manifest", "songs.parquet", "--encoder", "encoder", "--folds", "2", "training.min_steps=1",
         "logging.report=false", "model.bag_of_words.hidden_size=2", "training.mixed_precision=off"]  # fmt: skip


@pytest.mark.slow
def test_a_killed_run_is_resumed(earlier):
    run = earlier / "runs" / "unfinished"
    result_before = (run / "checkpoints" / "fold-0" / "result.npz").read_bytes()
    completed = run_command(earlier, "rainbow_ray.train", *SHORT, "training.epochs=40", "--workers", "1",
                            "training.checkpoint_seconds=0.2", "--name", "unfinished", "--resume")  # fmt: skip
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert (run / "checkpoints" / "fold-0" / "result.npz").read_bytes() == result_before
    assert json.loads((run / "summary.json").read_text())["counts"]["songs"] == 36


@pytest.mark.slow
def test_a_killed_sweep_is_resumed(earlier):
    completed = run_command(earlier, "rainbow_ray.tune", *SHORT, "training.epochs=1", "--trials", "3",
                            "--concurrent", "1", "tune.confirm_seeds=1", "tune.keep=1",
                            "--name", "unfinished-sweep", "--resume")  # fmt: skip
    assert completed.returncode == 0, completed.stdout + completed.stderr
    events = [json.loads(line) for line in (earlier / "runs/unfinished-sweep/trials.jsonl").read_text().splitlines()]
    assert {event["trial"] for event in events if "trial" in event} == {0, 1, 2}
