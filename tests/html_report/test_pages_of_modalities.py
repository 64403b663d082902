"""The page of a run of several modalities: what each brings, told by song."""

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

KEYS = {"phase": 3, "model__audio_encoder__model_name": "embedded", "data__window_seconds": 1.0, "data__folds": 2,
        "training__epochs": 3, "training__min_steps": 0, "training__batch_size": 8}  # fmt: skip


@pytest.fixture
def run(stems_file, tiny_encoder, tmp_path):
    plan = plan_of(stems_file, tiny_encoder("bert"), data__media_cache=str(tmp_path / "cache"), **KEYS)
    return finish_run(plan, tmp_path / "run")


def test_what_each_modality_brings_stands_on_the_page(run):
    summary = json.loads((run / "summary.json").read_text())
    page = (run / "report.html").read_text()
    assert "Modality ablation" in page
    assert "text + audio + midi" in page
    assert "attention to" in page
    assert len(summary["modalities"]) == 7
    shares = pd.DataFrame(summary["attention"])
    np.testing.assert_allclose(shares.sum(axis=0), 1.0, atol=1e-3)
    whole = summary["modalities"]["text+audio+midi"]
    assert whole["macro_f1"] == pytest.approx(summary["metrics"]["macro_f1"]), "the model is all of them"
    assert whole["songs"] == 24
    assert whole["all_of_them"] == whole["macro_f1"]
    gains = {name: summary["modalities"][name]["gain"]["value"] for name in ("text", "audio", "midi")}
    warned = any("does not beat its best modality" in sign for sign in summary["training_warnings"])
    assert warned == (min(gains.values()) <= 0)
    assert warned == ("does not beat its best modality" in page)


def test_a_part_is_told_of_the_songs_that_have_it(run, stems_file):
    summary = json.loads((run / "summary.json").read_text())
    rows = pd.read_parquet(stems_file)
    has = {name: rows.groupby("id")[column].any() for name, column in
           {"text": "concept", "audio": "audio_file", "midi": "midi_file"}.items()}  # fmt: skip
    assert not all(found.all() for found in has.values())
    for name, part in summary["modalities"].items():
        songs = np.any([has[one] for one in name.split("+")], axis=0).sum()
        assert part["songs"] == songs, name
        assert part["gain"] is None or part["gain"]["value"] == pytest.approx(part["all_of_them"] - part["macro_f1"])


def test_all_behind_one_is_told():
    def brought(value, songs):
        return ModalityAblation(songs, {"macro_f1": 0.6}, 0.6 + value, Difference(value, value - 0.1, value + 0.1))

    whole = ModalityAblation(24, {"macro_f1": 0.7}, 0.7, None)
    assert modality_warnings("macro_f1", {"text": brought(0.1, 24), "midi": brought(0.02, 9), "text+midi": whole}) == []
    (said,) = modality_warnings("macro_f1", {"text": brought(0.1, 24), "midi": brought(-0.05, 9), "text+midi": whole})
    assert "midi alone" in said
    assert "9 songs" in said
    assert "0.550 against 0.600, -0.050" in said


def test_songs_are_scored_once_though_predictions_are_of_stems(run):
    summary = json.loads((run / "summary.json").read_text())
    found = read_run(run)
    assert len(found.predictions) == found.predictions["song"].nunique() == 24 == summary["counts"]["val_examples"]
    stems = pd.read_parquet(run / "predictions.parquet").query("split == 'val' and fold == fold")
    assert len(stems) > 24
    assert not stems.duplicated(["example_id", "fold", "split"]).any()
    means = stems.groupby("song")[["score_spatial", "score_temporal"]].mean()
    ours = found.predictions.set_index("song")[["score_spatial", "score_temporal"]].loc[means.index]
    np.testing.assert_allclose(ours, means, atol=1e-6)
    task = make_task("multiclass", classes=["spatial", "temporal"])
    measured = task.metric("accuracy", found.targets, found.scores)
    assert measured == pytest.approx(summary["metrics"]["accuracy"])


def test_a_page_is_written_anew_without_the_media(run, stems_file):
    for name in ("a.wav", "b.wav", "a.mid"):
        (stems_file.parent / name).unlink()
    (run / "report.html").unlink()
    shutil.rmtree(run.parent / "cache")
    assert "Modality ablation" in write_report(run).read_text()
