"""Models taken elsewhere: an ONNX bundle that a light installation asks, and a folder that plain transformers loads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import rainbow_ray
from rainbow_ray import export
from rainbow_ray.cli import run
from tests.conftest import labelled_songs
from tests.in_process import finish_run, plan_of

TEXT = "a door and a wall but a river"
# what a light installation does not have
HEAVY = ("torch", "ray", "transformers", "pandas", "pyarrow", "sklearn", "safetensors", "psutil", "scipy", "matplotlib")
WITHOUT = f"""
import importlib.abc, runpy, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""
HEADS = {
    "bert": {"model__classifier__activation": "tanh"},
    "roberta": {"model__classifier__activation": "tanh"},
    "distilbert": {"model__classifier__activation": "relu"},
    "deberta-v2": {"model__classifier__activation": "gelu"},
}
PLAIN = {
    "model__lexical__enabled": False,
    "model__text_encoder__pooling": "cls",
    "model__classifier__hidden_dims": [32],
}
SHORT = {"training__epochs": 3, "training__min_steps": 0, "data__folds": 2, "logging__report": False}


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    path = tmp_path_factory.mktemp("songs") / "songs.parquet"
    pq.write_table(labelled_songs(), path)
    return path


@pytest.fixture
def door(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["export", *map(str, arguments)])
        code = run(export.main)
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


@pytest.mark.slow
def test_a_light_installation_asks_an_onnx_bundle(songs, tiny_encoder, door, tmp_path):
    run_folder = finish_run(plan_of(songs, tiny_encoder("bert"), phase=2, **SHORT), tmp_path / "run")
    code, said = door(run_folder, "--onnx")
    assert code == 0, said
    assert "largest difference" in said
    shutil.move(run_folder / "onnx", tmp_path / "moved")
    ideas = tmp_path / "ideas.txt"
    ideas.write_text(f"{TEXT}\na lamp in winter\n")
    out = tmp_path / "out.csv"
    arguments = ["--model", str(tmp_path / "moved"), "--text-file", str(ideas), "--top", "1", "--out", str(out)]
    done = light("rainbow_ray.predict", arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    found = pd.read_csv(out).set_index("text").loc[[TEXT, "a lamp in winter"]].reset_index()
    wanted = rainbow_ray.load(run_folder).predict(found["text"])
    np.testing.assert_allclose(found.filter(like="score"), wanted.filter(like="score"), atol=1e-4)
    assert found["prediction"].tolist() == wanted["prediction"].tolist()
    refused = light("rainbow_ray.predict", [*arguments[:-1], str(tmp_path / "o.parquet")])
    assert refused.returncode == 2
    assert "parquet needs" in refused.stderr
    refused = light("rainbow_ray.train", ["--phase", "1"])
    assert refused.returncode == 2
    assert "rainbow-ray[train]" in refused.stderr
    damaged(tmp_path)


def light(module: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """A command where nothing heavy is installed."""
    code = f"{WITHOUT}\nsys.argv = {['x', *arguments]!r}\nrunpy.run_module({module!r}, run_name='__main__')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip


def damaged(folder) -> None:
    """A graph that is another, or whose weights would lie elsewhere, is refused."""
    import onnx

    from rainbow_ray.errors import InputError
    from rainbow_ray.results.bundle_files import file_hashes
    from rainbow_ray.results.onnx_bundle import OnnxPredictor

    graph = folder / "moved" / "model.onnx"
    model = onnx.load(graph)
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-100])
    with pytest.raises(InputError, match="not as they were saved"):
        OnnxPredictor.load(folder / "moved")
    (folder / "secret.data").write_bytes(b"\0" * 10_000_000)
    large = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    large.ClearField("raw_data")
    large.data_location = onnx.TensorProto.EXTERNAL
    entry = large.external_data.add()
    entry.key, entry.value = "location", "../secret.data"
    graph.write_bytes(model.SerializeToString())
    document = json.loads((folder / "moved" / "bundle.json").read_text())
    document["files"] = file_hashes(folder / "moved")
    (folder / "moved" / "bundle.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="damaged"):
        OnnxPredictor.load(folder / "moved")


def test_importing_the_light_reader_pulls_in_nothing_heavy():
    names = ("rainbow_ray", "rainbow_ray.predict", "rainbow_ray.results.onnx_bundle", "rainbow_ray.results.explain")
    code = (f"import sys, {', '.join(names)}\n"
            f"print(sorted(set({HEAVY!r}) & set(sys.modules)))")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("family", HEADS)
def test_plain_transformers_loads_what_its_head_allows(songs, tiny_encoder, door, tmp_path, family):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    keys = {"phase": 2, "model__text_encoder__layer": 2, "model__text_encoder__freeze_layers": 0}
    plan = plan_of(songs, tiny_encoder(family), **keys, **PLAIN, **HEADS[family], **SHORT)
    run_folder = finish_run(plan, tmp_path / "run")
    code, said = door(run_folder, "--hub-folder", tmp_path / "hub")
    assert code == 0, said
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hub")
    asked = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(tmp_path / "hub"))
    told = {one["label"]: one["score"] for one in asked(TEXT, top_k=None)}
    row = rainbow_ray.load(run_folder).predict(TEXT).iloc[0]
    assert told == pytest.approx(
        {name.removeprefix("score_"): row[name] for name in row.index if "score_" in name}, abs=1e-4
    )


@pytest.mark.parametrize("phase", [1, 4])
def test_one_number_is_one_logit(songs, tiny_encoder, door, tmp_path, phase):
    plan = plan_of(songs, tiny_encoder("bert"), phase=phase, **PLAIN, **HEADS["bert"], **SHORT)
    code, said = door(finish_run(plan, tmp_path / "run"), "--hub-folder", tmp_path / "hub")
    assert code == 0, said
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["problem_type"] == (
        "regression" if phase == 4 else "multi_label_classification"
    )


def test_what_a_plain_head_cannot_be_is_told_with_what_would_do(songs, tiny_encoder, door, tmp_path):
    run_folder = finish_run(plan_of(songs, tiny_encoder("bert"), phase=2, **SHORT), tmp_path / "run")
    code, said = door(run_folder, "--hub-folder", tmp_path / "hub")
    assert code == 2
    for key in ("model.lexical.enabled=false", "pooling=cls", "hidden_dims=[32]", "activation=tanh"):
        assert key in said, key
    assert not (tmp_path / "hub").exists()


def test_bad_wishes_are_told_all_at_once(door, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "model").mkdir()
    code, said = door(tmp_path / "model", "--out", "x", "--hub-folder", tmp_path / "there")
    assert code == 2
    assert "--out: it is where --onnx goes" in said
    assert "it is there already" in said
    code, said = door(tmp_path / "model")
    assert (code, "say what to write" in said) == (2, True)
    code, said = door(tmp_path / "model", "--hub-folder", tmp_path / "there", "--overwrite")
    assert (code, "no folder that export wrote" in said) == (2, True)
    code, said = door(tmp_path / "none", "--onnx", "--out", tmp_path / "o")
    assert (code, "no model here" in said) == (2, True)


def test_the_model_itself_is_never_written_over(songs, tiny_encoder, door, tmp_path):
    run_folder = finish_run(plan_of(songs, tiny_encoder("bert"), phase=1, **SHORT), tmp_path / "run")
    model = run_folder / "model"
    before = sorted(path.name for path in model.iterdir())
    for arguments in (["--onnx", "--out", model], ["--hub-folder", model], ["--onnx", "--out", model / "onnx"],
                      ["--onnx", "--out", run_folder]):  # fmt: skip
        code, said = door(run_folder, *arguments, "--overwrite")
        assert (code, "the model itself lies there" in said) == (2, True), said
    code, said = door(run_folder, "--onnx", "--out", tmp_path / "x", "--hub-folder", tmp_path / "x")
    assert (code, "name another folder" in said) == (2, True)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "bundle.json").write_text("{}")
    assert door(run_folder, "--onnx", "--out", tmp_path / "theirs", "--overwrite")[0] == 2
    assert sorted(path.name for path in model.iterdir()) == before
    rainbow_ray.load(run_folder)
