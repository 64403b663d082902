"""Validation rows, `load`, the ensemble and ONNX give equal scores, in any order and among any other rows."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rainbow_ray
from rainbow_ray.bundle.bundle import bundle_hash
from rainbow_ray.inference.onnx_predictor import OnnxPredictor
from tests.helpers import finish_run, plan_of
from tests.song_tables import labelled_songs, segment_rows

pytestmark = pytest.mark.slow  # trains several models

FOLDS = 3
SHORT: dict[str, Any] = {
    "training__epochs": 3,
    "training__min_steps": 0,
    "data__folds": FOLDS,
    "training__ensemble": True,
    "training__combine": "stack",
}
KINDS: dict[str, dict[str, Any]] = {
    "binary": {"phase": 1},
    "multiclass": {"phase": 2},
    "multilabel": {"phase": 2, "data__target_column": "both", "data__multi_label": True},
    "regression": {"phase": 4},
    "segmentation": {"phase": 5, "segments__decoding": "viterbi", "segments__compare_none": False},
    "fused": {"phase": 3, "model__audio_encoder__model_name": "embedded", "data__window_seconds": 0.5},
}
CALIBRATED = {"calibration__method": "temperature", "calibration__threshold": "f1"}


@pytest.fixture(scope="module")
def ensembles(tmp_path_factory, tiny_encoder):
    """Return an ensemble run of a kind and the table that it was trained on; each is trained once per module."""
    runs = {}

    def make(kind):
        if kind not in runs:
            folder = tmp_path_factory.mktemp(kind)
            manifest = table = folder / "songs.parquet"
            keys = {**KINDS[kind], **SHORT}
            if kind == "fused":
                write_stems(folder)
                keys["data__media_cache"] = str(folder / "cache")
            elif kind == "segmentation":
                pq.write_table(pa.table(segment_rows(songs=14, segments=6, stems=2)), table)
                manifest, keys["segments__path"] = "demo", str(table)
            else:
                pq.write_table(labelled_songs(), table)
            runs[kind] = finish_run(plan_of(manifest, tiny_encoder("bert"), **keys), folder / "run"), table
        return runs[kind]

    return make


def write_stems(folder):
    """Write songs with text, audio and MIDI, each of which some songs lack."""
    from tests.modalities.audio.test_audio import saved, tone
    from tests.modalities.midi.test_midi import song

    rows = labelled_songs().to_pandas()
    rows["audio_file"] = [None if i % 5 == 4 else "a.wav" if i % 2 else "b.wav" for i in range(len(rows))]
    rows["midi_file"] = ["a.mid" if i % 2 == 0 else None for i in range(len(rows))]
    (folder / "a.wav").write_bytes(saved(tone(2.0)))
    (folder / "b.wav").write_bytes(saved(tone(2.0, pitch=900)))
    (folder / "a.mid").write_bytes(song())
    rows.to_parquet(folder / "songs.parquet")


def validation_rows_of(run):
    """Return the validation rows of a run, indexed by example, and the names of their score columns."""
    rows = pd.read_parquet(run / "predictions.parquet")
    rows = rows[(rows["split"] == "val") & rows["fold"].notna()].set_index("example_id")
    return rows, [name for name in map(str, rows) if name == "score" or name.startswith("score_")]


def predictions_of(predictor, kind, table):
    """Return the predictions for a table, indexed by the example ids of the run."""
    if kind == "segmentation":
        return predictor.predict_segments(pd.read_parquet(table)).segments.set_index("example_id")
    rows = pd.read_parquet(table)
    names = rows["id"] if kind != "fused" else [f"{name}#{i}" for i, name in enumerate(rows["id"])]
    return predictor.predict(rows).set_index(pd.Index(names))


def assert_same_predictions(result, expected):
    values = [
        [tuple(value) if isinstance(value, list | tuple | np.ndarray) else value for value in column]
        for column in (result, expected)
    ]
    if values[1] and isinstance(values[1][0], float):
        np.testing.assert_allclose(values[0], values[1], atol=1e-4)
    else:
        assert values[0] == values[1]


@pytest.mark.parametrize("kind", KINDS)
def test_each_member_gives_the_held_out_scores_of_its_fold(ensembles, kind):
    run, table = ensembles(kind)
    predictor = rainbow_ray.load(run)
    predictor.media_root = table.parent
    rows, scores = validation_rows_of(run)
    assert predictor.folds == list(range(FOLDS))
    for fold in predictor.folds:
        fold_rows = rows[rows["fold"] == fold]
        member = predictor.member(fold)
        member.media_root = table.parent
        result = predictions_of(member, kind, table).loc[fold_rows.index]
        np.testing.assert_allclose(result[scores], fold_rows[scores], atol=1e-5)
        assert_same_predictions(result["prediction"], fold_rows["prediction"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_ensemble_is_the_mean_of_its_members_in_any_order(ensembles, kind):
    run, table = ensembles(kind)
    predictor = rainbow_ray.load(run / "model")
    members = [predictor.member(fold) for fold in predictor.folds]
    for model in [predictor, *members]:
        model.media_root = table.parent
    _, scores = validation_rows_of(run)
    ensemble_scores = predictions_of(predictor, kind, table)[scores]
    mean = np.mean([predictions_of(model, kind, table)[scores].to_numpy() for model in members], axis=0)
    np.testing.assert_allclose(ensemble_scores, mean, atol=1e-5)
    if kind != "segmentation":
        reversed_table = pd.read_parquet(table).iloc[::-1]
        np.testing.assert_allclose(predictor.predict(reversed_table)[scores].iloc[::-1], ensemble_scores, atol=1e-5)
        np.testing.assert_allclose(
            predictor.predict(reversed_table.iloc[:1])[scores], ensemble_scores.iloc[-1:], atol=1e-5
        )


def test_members_have_the_calibration_of_the_other_folds(tmp_path, tiny_encoder):
    from tests.song_tables import song_rows

    table = song_rows(songs=90, stems=1)
    is_noisy = np.random.default_rng(0).random(90) < 0.25  # every fold would calibrate certain scores alike
    table["has_rebracketing_markers"] = (np.array(table["has_rebracketing_markers"]) ^ is_noisy).tolist()
    pq.write_table(pa.table(table), tmp_path / "songs.parquet")
    plan = plan_of(tmp_path / "songs.parquet", tiny_encoder("bert"), **SHORT, **CALIBRATED)
    run = finish_run(plan, tmp_path / "run")
    document = json.loads((run / "model" / "bundle.json").read_text())
    assert len({json.dumps(item["calibration"]) for item in document["members"]}) == FOLDS
    rows, scores = validation_rows_of(run)
    songs = pd.read_parquet(tmp_path / "songs.parquet").set_index("id")
    predictor = rainbow_ray.load(run)
    for fold in predictor.folds:
        fold_rows = rows[rows["fold"] == fold]
        result = predictor.member(fold).predict(songs.loc[fold_rows.index])
        np.testing.assert_allclose(result[scores], fold_rows[scores], atol=1e-5)
        assert result["prediction"].tolist() == fold_rows["prediction"].tolist()


def test_the_model_card_contains_results_and_limitations(ensembles):
    run, _ = ensembles("multiclass")
    card = (run / "model" / "README.md").read_text()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["ensemble"] == FOLDS
    for passage in (summary["verdict"], summary["data_hash"], "95% interval", "majority", "rainbow_ray.load",
                    "## Limitations", f"an ensemble of the {FOLDS} models of the folds", "too few"):  # fmt: skip
        assert passage in card, passage
    assert json.loads((run / "model" / "bundle.json").read_text())["files"]["README.md"]


def test_shared_tensors_are_saved_once(ensembles):
    run, _ = ensembles("binary")
    sizes = {file.name: file.stat().st_size for file in (run / "model").glob("*.safetensors")}
    # layers above those that the network reads, if a linear model does; and features of training songs
    frozen = {"frozen.safetensors", "novelty.safetensors"} & set(sizes)
    assert set(sizes) == {"model.safetensors", *(f"member-{i}.safetensors" for i in range(FOLDS)), *frozen}
    predictor = rainbow_ray.load(run)
    first, second = (item.model.text.body.embeddings.word_embeddings.weight for item in predictor.bundle.members[:2])
    assert first.data_ptr() == second.data_ptr()


def test_a_fold_without_a_member_raises_input_error(ensembles):
    from rainbow_ray.utils.errors import InputError

    run, _ = ensembles("binary")
    with pytest.raises(InputError, match="no member of fold 7: available folds: 0, 1, 2"):
        rainbow_ray.load(run).member(7)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [kind if kind in ("segmentation", "fused") else pytest.param(kind, marks=pytest.mark.long) for kind in KINDS],
)
def test_the_onnx_graph_gives_the_same_scores(ensembles, tmp_path, kind):
    from rainbow_ray.bundle.bundle import load_bundle
    from rainbow_ray.exporters.onnx import TOLERANCE, export_onnx

    run, table = ensembles(kind)
    export = export_onnx(load_bundle(run), tmp_path / "onnx", bundle_hash(run))
    assert export.parity <= TOLERANCE
    shutil.move(tmp_path / "onnx", tmp_path / "moved")
    if kind == "fused":
        return  # the export checked the parity of its graph; the ONNX predictor reads no media
    onnx_model, run_model = OnnxPredictor.load(tmp_path / "moved"), rainbow_ray.load(run)
    rows = pd.read_parquet(table)
    texts = [*rows["lyric_text" if kind == "segmentation" else "concept"][:20], "", "  ", "x " * 400]
    scores = onnx_model.score_texts(texts)
    assert onnx_model.score_names == run_model.score_names
    np.testing.assert_allclose(scores, run_model.score_texts(texts), atol=1e-4)
    is_scored = ~np.isnan(scores).any(axis=1)
    assert (~is_scored).sum() == 2
    assert_same_predictions(
        onnx_model.decode_predictions(scores[is_scored]), run_model.decode_predictions(scores[is_scored])
    )
    np.testing.assert_allclose(onnx_model.score_texts(texts[::-1])[::-1], scores, atol=1e-5)
