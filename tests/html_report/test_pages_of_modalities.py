"""The page of a multimodal run: the ablation of modalities, over songs."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from rainbow_ray.evaluation.bootstrap import Difference
from rainbow_ray.evaluation.modality_ablation import ModalityAblation, modality_warnings
from rainbow_ray.html_report.run_artifacts import read_run
from rainbow_ray.html_report.write import write_report
from rainbow_ray.tasks.registry import make_task
from tests.helpers import finish_run, plan_of

pytestmark = pytest.mark.slow  # trains several models

KEYS = {"phase": 3, "model__audio_encoder__model_name": "embedded", "data__window_seconds": 1.0, "data__folds": 2,
        "training__epochs": 3, "training__min_steps": 0, "training__batch_size": 8}  # fmt: skip


@pytest.fixture
def run(stems_file, tiny_encoder, tmp_path):
    plan = plan_of(stems_file, tiny_encoder("bert"), data__media_cache=str(tmp_path / "cache"), **KEYS)
    return finish_run(plan, tmp_path / "run")


def test_the_page_has_the_modality_ablation(run):
    summary = json.loads((run / "summary.json").read_text())
    page = (run / "report.html").read_text()
    assert "Modality ablation" in page
    assert "text + audio + midi" in page
    assert "attention to" in page
    assert len(summary["modalities"]) == 7
    attention = pd.DataFrame(summary["attention"])
    np.testing.assert_allclose(attention.sum(axis=0), 1.0, atol=1e-3)
    all_modalities = summary["modalities"]["text+audio+midi"]
    assert all_modalities["macro_f1"] == pytest.approx(summary["metrics"]["macro_f1"]), (
        "all modalities together are the model"
    )
    assert all_modalities["songs"] == 24
    assert all_modalities["all_of_them"] == all_modalities["macro_f1"]
    gains = {name: summary["modalities"][name]["gain"]["value"] for name in ("text", "audio", "midi")}
    is_warned = any("does not beat its best modality" in warning for warning in summary["training_warnings"])
    assert is_warned == (min(gains.values()) <= 0)
    assert is_warned == ("does not beat its best modality" in page)


def test_modalities_are_scored_on_the_songs_that_have_them(run, stems_file):
    summary = json.loads((run / "summary.json").read_text())
    rows = pd.read_parquet(stems_file)
    is_present = {name: rows.groupby("id")[column].any() for name, column in
                  {"text": "concept", "audio": "audio_file", "midi": "midi_file"}.items()}  # fmt: skip
    assert not all(present.all() for present in is_present.values())
    for name, result in summary["modalities"].items():
        songs = np.any([is_present[modality] for modality in name.split("+")], axis=0).sum()
        assert result["songs"] == songs, name
        assert result["gain"] is None or result["gain"]["value"] == pytest.approx(
            result["all_of_them"] - result["macro_f1"]
        )


def test_a_model_below_its_best_modality_is_warned_of():
    def ablation(value, songs):
        return ModalityAblation(songs, {"macro_f1": 0.6}, 0.6 + value, Difference(value, value - 0.1, value + 0.1))

    all_modalities = ModalityAblation(24, {"macro_f1": 0.7}, 0.7, None)
    assert (
        modality_warnings(
            "macro_f1", {"text": ablation(0.1, 24), "midi": ablation(0.02, 9), "text+midi": all_modalities}
        )
        == []
    )
    (warning,) = modality_warnings(
        "macro_f1", {"text": ablation(0.1, 24), "midi": ablation(-0.05, 9), "text+midi": all_modalities}
    )
    assert "midi alone" in warning
    assert "9 songs" in warning
    assert "0.550 against 0.600, -0.050" in warning


def test_predictions_of_stems_are_averaged_to_songs(run):
    summary = json.loads((run / "summary.json").read_text())
    artifacts = read_run(run)
    assert (
        len(artifacts.predictions) == artifacts.predictions["song"].nunique() == 24 == summary["counts"]["val_examples"]
    )
    stems = pd.read_parquet(run / "predictions.parquet").query("split == 'val' and fold == fold")
    assert len(stems) > 24
    assert not stems.duplicated(["example_id", "fold", "split"]).any()
    means = stems.groupby("song")[["score_spatial", "score_temporal"]].mean()
    song_scores = artifacts.predictions.set_index("song")[["score_spatial", "score_temporal"]].loc[means.index]
    np.testing.assert_allclose(song_scores, means, atol=1e-6)
    task = make_task("multiclass", classes=["spatial", "temporal"])
    accuracy = task.metric("accuracy", artifacts.targets, artifacts.scores)
    assert accuracy == pytest.approx(summary["metrics"]["accuracy"])


def test_a_page_is_rewritten_without_the_media(run, stems_file):
    for name in ("a.wav", "b.wav", "a.mid"):
        (stems_file.parent / name).unlink()
    (run / "report.html").unlink()
    shutil.rmtree(run.parent / "cache")
    assert "Modality ablation" in write_report(run).read_text()
