"""The bundle gives the scores of training, can be moved to another folder and process, and rejects damaged files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import rainbow_ray
from rainbow_ray.bundle.bundle import Bundle, save_bundle
from rainbow_ray.training.checkpoint import load_fitted_model
from rainbow_ray.utils.errors import InputError
from tests.helpers import data_of, fit_fold, plan_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_encoder):
    """A run folder with a bundle, the validation texts of its fold and their scores in training."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tests.song_tables import song_rows

    folder = tmp_path_factory.mktemp("run")
    pq.write_table(pa.table(song_rows()), folder / "songs.parquet")
    keys = {"model__text_encoder__layer": 2, "model__text_encoder__freeze_layers": 1, "training__min_steps": 30}
    plan = plan_of(folder / "songs.parquet", tiny_encoder("deberta-v2"), training__epochs=3, **keys)
    data = data_of(plan)
    val, fit_output = fit_fold(plan, data, folder / "fit")
    model, task = load_fitted_model(plan.config, plan.input_spec, plan.task, folder / "fit")
    info = {"target": plan.target, "text_columns": ["concept"], "max_tokens": plan.input_spec.max_tokens}
    save_bundle(folder / "model", Bundle(model, task, plan.input_spec.text, info), plan.config.model)
    return folder, data.examples.texts[val], fit_output.val_scores


def test_a_loaded_model_gives_the_scores_of_training(trained):
    folder, texts, scores = trained
    predicted = rainbow_ray.load(folder).predict(list(texts))
    np.testing.assert_allclose(predicted["score"], scores, atol=1e-5)
    assert predicted["prediction"].tolist() == (scores > 0.5).tolist()


def test_scores_depend_neither_on_order_nor_on_other_rows(trained):
    folder, texts, scores = trained
    predictor = rainbow_ray.load(folder / "model")
    np.testing.assert_allclose(predictor.predict(list(texts[::-1]))["score"][::-1], scores, atol=1e-5)
    assert predictor.predict(texts[0])["score"].iloc[0] == pytest.approx(scores[0], abs=1e-5)


def test_tables_keep_their_index_and_empty_rows_have_no_score(trained):
    folder, texts, scores = trained
    frame = pd.DataFrame({"concept": [texts[0], None, " ", texts[1]], "other": 1}, index=list("wxyz"))
    predicted = rainbow_ray.load(folder).predict(frame)
    assert predicted.index.tolist() == list("wxyz")
    assert predicted["prediction"].isna().tolist() == [False, True, True, False]
    np.testing.assert_allclose(predicted["score"].dropna(), scores[:2], atol=1e-5)
    with pytest.raises(InputError, match="did you mean concepts"):
        rainbow_ray.load(folder).predict(pd.DataFrame({"concepts": ["x"]}))
    assert len(rainbow_ray.load(folder).predict([])) == 0
    assert len(rainbow_ray.load(folder).predict(frame.iloc[:0])) == 0


@pytest.mark.slow
def test_a_moved_bundle_is_loaded_in_another_process_without_network(trained, tmp_path):
    folder, texts, scores = trained
    shutil.copytree(folder / "model", tmp_path / "moved")
    code = f"""
import socket, json
def refuse(*a, **k): raise OSError("no network here")
socket.socket.connect = refuse
import rainbow_ray
out = rainbow_ray.load({str(tmp_path / "moved")!r}).predict({list(texts)!r})
print(json.dumps(out["score"].tolist()))
"""
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    np.testing.assert_allclose(json.loads(completed.stdout.splitlines()[-1]), scores, atol=1e-5)


def test_a_bundle_contains_no_pickle(trained):
    folder, _, _ = trained
    names = sorted(
        path.relative_to(folder / "model").as_posix() for path in (folder / "model").rglob("*") if path.is_file()
    )
    assert set(names) >= {"bundle.json", "encoder/config.json", "model.safetensors", "tokenizer.json"}
    assert all(Path(name).suffix in (".json", ".safetensors", ".txt") for name in names)


DAMAGE = {
    "no file": lambda folder: (folder / "model.safetensors").unlink(),
    "truncated tensors": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:-50]
    ),
    "truncated json": lambda folder: (folder / "bundle.json").write_text("{"),
    "newer format": lambda folder: (folder / "bundle.json").write_text('{"format": 9}'),
    "other shapes": lambda folder: (folder / "bundle.json").write_text(
        (folder / "bundle.json").read_text().replace("256", "128")
    ),
    "no encoder": lambda folder: shutil.rmtree(folder / "encoder"),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "other tokenizer": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "a path outside": lambda folder: (folder / "bundle.json").write_text(
        (folder / "bundle.json").read_text().replace('"tokenizer.json"', '"../../secret"')
    ),
    "a list": lambda folder: (folder / "bundle.json").write_text("[]"),
    "more files": lambda folder: (folder / "modeling.py").write_text("x"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_bundle_raises_input_error_with_its_path(trained, tmp_path, kind):
    shutil.copytree(trained[0] / "model", tmp_path / "m")
    DAMAGE[kind](tmp_path / "m")
    with pytest.raises(InputError, match=str(tmp_path / "m")):
        rainbow_ray.load(tmp_path / "m")


def test_a_folder_without_a_model_raises_input_error(tmp_path):
    with pytest.raises(InputError, match="no model here"):
        rainbow_ray.load(tmp_path)
