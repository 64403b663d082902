"""Exported models: an ONNX bundle for installations without PyTorch, and a folder that transformers loads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rainbow_ray
from rainbow_ray import export
from rainbow_ray.bundle.bundle import load_bundle
from rainbow_ray.cli.main import run_command
from rainbow_ray.inference.onnx_predictor import OnnxPredictor
from rainbow_ray.utils.errors import InputError
from tests.helpers import finish_run, plan_of
from tests.song_tables import labelled_songs, segment_rows

TEXT = "a door and a wall but a river"
# packages that a light installation does not have
HEAVY = ("torch", "ray", "transformers", "pandas", "pyarrow", "sklearn", "safetensors", "psutil", "scipy", "matplotlib")
BLOCK_HEAVY_IMPORTS = f"""
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
EXPORTABLE = {
    "model__lexical__enabled": False,
    "model__text_encoder__pooling": "cls",
    "model__classifier__hidden_dims": [32],
    "training__combine": "none",
}
SHORT = {"training__epochs": 3, "training__min_steps": 0, "data__folds": 2, "logging__report": False}


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    path = tmp_path_factory.mktemp("songs") / "songs.parquet"
    pq.write_table(labelled_songs(), path)
    return path


@pytest.fixture
def run_export(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["export", *map(str, arguments)])
        code = run_command(export.main)
        output = capsys.readouterr()
        return code, output.out + output.err

    return call


@pytest.mark.slow
def test_a_light_installation_loads_an_onnx_bundle(songs, tiny_encoder, run_export, tmp_path):
    run_folder = finish_run(plan_of(songs, tiny_encoder("bert"), phase=2, **SHORT), tmp_path / "run")
    code, output = run_export(run_folder, "--onnx")
    assert code == 0, output
    assert "largest difference" in output
    shutil.move(run_folder / "onnx", tmp_path / "moved")
    text_file = tmp_path / "ideas.txt"
    text_file.write_text(f"{TEXT}\na lamp in winter\n")
    out = tmp_path / "out.csv"
    arguments = ["--model", str(tmp_path / "moved"), "--text-file", str(text_file), "--top", "1", "--out", str(out)]
    completed = run_light("rainbow_ray.predict", arguments)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    result = pd.read_csv(out).set_index("text").loc[[TEXT, "a lamp in winter"]].reset_index()
    expected = rainbow_ray.load(run_folder).predict(result["text"])
    np.testing.assert_allclose(result.filter(like="score"), expected.filter(like="score"), atol=1e-4)
    assert result["prediction"].tolist() == expected["prediction"].tolist()
    rejected = run_light("rainbow_ray.predict", [*arguments[:-1], str(tmp_path / "o.parquet")])
    assert rejected.returncode == 2
    assert "parquet needs" in rejected.stderr
    rejected = run_light("rainbow_ray.train", ["--phase", "1"])
    assert rejected.returncode == 2
    assert "rainbow-ray[train]" in rejected.stderr
    assert_modified_graphs_are_rejected(tmp_path)


def run_light(module: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command as if the heavy packages were not installed."""
    code = f"{BLOCK_HEAVY_IMPORTS}\nsys.argv = {['x', *arguments]!r}\nrunpy.run_module({module!r}, run_name='__main__')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip


def assert_modified_graphs_are_rejected(folder) -> None:
    """A modified graph, and one whose weights are in a file outside the folder, are rejected."""
    import onnx

    from rainbow_ray.bundle.integrity import file_hashes

    graph = folder / "moved" / "model.onnx"
    model = onnx.load(graph)
    content = graph.read_bytes()
    graph.write_bytes(content[:-100])
    with pytest.raises(InputError, match="not as they were saved"):
        OnnxPredictor.load(folder / "moved")
    (folder / "secret.data").write_bytes(b"\0" * 10_000_000)
    largest = max(model.graph.initializer, key=lambda item: len(item.raw_data))
    largest.ClearField("raw_data")
    largest.data_location = onnx.TensorProto.EXTERNAL
    entry = largest.external_data.add()
    entry.key, entry.value = "location", "../secret.data"
    graph.write_bytes(model.SerializeToString())
    document = json.loads((folder / "moved" / "bundle.json").read_text())
    document["files"] = file_hashes(folder / "moved")
    (folder / "moved" / "bundle.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="damaged"):
        OnnxPredictor.load(folder / "moved")


def test_importing_the_onnx_predictor_imports_nothing_heavy():
    names = (
        "rainbow_ray",
        "rainbow_ray.predict",
        "rainbow_ray.inference.onnx_predictor",
        "rainbow_ray.inference.occlusion",
    )
    code = (f"import sys, {', '.join(names)}\n"
            f"print(sorted(set({HEAVY!r}) & set(sys.modules)))")  # fmt: skip
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == "[]"


def limits(file):
    document = json.loads(file.read_text())
    truncation = document["truncation"]
    return truncation and truncation["max_length"], document["padding"]


def test_saved_tokenizers_do_not_depend_on_earlier_calls(tiny_encoder, tmp_path):
    """A fast tokenizer stores the truncation of its author or of its last call."""
    from transformers import AutoTokenizer

    from rainbow_ray.bundle.tokenizer_files import save_tokenizer, save_tokenizer_json
    from rainbow_ray.modalities.text.tokenize import load_tokenizer

    source = shutil.copytree(tiny_encoder("bert"), tmp_path / "encoder")
    document = json.loads((source / "tokenizer.json").read_text())
    document["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    document["padding"] = {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                           "pad_type_id": 0, "pad_token": "[PAD]"}  # fmt: skip
    (source / "tokenizer.json").write_text(json.dumps(document))
    tokenizer = load_tokenizer(str(source))

    def save(name):
        (tmp_path / name).mkdir()
        save_tokenizer(str(source), tmp_path / name, 40)
        (tmp_path / name / "light").mkdir()
        save_tokenizer_json(str(source), tmp_path / name / "light", 40)
        return [(file.relative_to(tmp_path / name), file.read_bytes()) for file in
                sorted((tmp_path / name).rglob("*.json"))]  # fmt: skip

    fresh = save("fresh")
    tokenizer(["door " * 30], truncation=True, max_length=16, padding="max_length")
    after_truncation = save("truncated")
    tokenizer(["door " * 30], truncation=False)
    assert fresh == after_truncation == save("untruncated")
    assert len(tokenizer(["door " * 30], truncation=False)["input_ids"][0]) == 32, "the tokenizer in use is not changed"
    for file in ("tokenizer.json", "light/tokenizer.json"):
        assert limits(tmp_path / "fresh" / file) == (40, None)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "fresh")
    assert loaded.model_max_length == 40
    assert len(loaded("door " * 100, truncation=True)["input_ids"]) == 40


def test_bundles_and_hub_folders_document_loading_and_truncate_at_their_limit(
    songs, tiny_encoder, run_export, tmp_path
):
    keys = {"phase": 2, "model__text_encoder__max_length": 24, **EXPORTABLE, **HEADS["bert"], **SHORT}
    run_folder = finish_run(plan_of(songs, tiny_encoder("bert"), **keys), tmp_path / "run")
    assert run_export(run_folder, "--hub-folder", tmp_path / "hub")[0] == 0
    for folder in (run_folder / "model", tmp_path / "hub"):
        assert limits(folder / "tokenizer.json") == (24, None)
        assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 24
        assert "up to 24 tokens" in (folder / "README.md").read_text()
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "rainbow_ray.load(" not in card
    assert card.count("## How to use") == 1
    code = card.partition("```python\n")[2].partition("```")[0].replace("this/folder", str(tmp_path / "hub"))
    exec(code, {})
    with pytest.raises(InputError, match="AutoModelForSequenceClassification"):
        rainbow_ray.load(tmp_path / "hub")


@pytest.mark.slow
@pytest.mark.parametrize("phase", [1, 5])
def test_the_example_of_an_onnx_model_card_runs(tiny_encoder, songs, run_export, tmp_path, phase):
    keys = {"phase": phase, "model__text_encoder__max_length": 24, **SHORT, "data__folds": 1}
    if phase == 5:
        pq.write_table(pa.table(segment_rows(songs=12, segments=4)), tmp_path / "segments.parquet")
        keys |= {"segments__path": str(tmp_path / "segments.parquet"), "segments__compare_none": False}
    plan = plan_of("demo" if phase == 5 else songs, tiny_encoder("bert"), **keys)
    run_folder = finish_run(plan, tmp_path / "run")
    code, output = run_export(run_folder, "--onnx")
    assert code == 0, output
    folder = run_folder / "onnx"
    card = (folder / "README.md").read_text()
    assert "up to 24 tokens" in card
    assert limits(folder / "tokenizer.json") == (24, None)
    names: dict[str, Any] = {}
    code_block = card.rpartition("```python\n")[2].partition("```")[0].replace("this/folder", str(folder))
    exec(code_block, names)
    model, run_predictor = names["model"], rainbow_ray.load(run_folder)
    assert isinstance(model, OnnxPredictor)
    texts: list[Any] = [TEXT, "door " * 60, " ", None, float("nan")]
    expected = run_predictor.predict(texts)
    result = pd.DataFrame(model.predict(texts))
    np.testing.assert_allclose(result.filter(like="score").astype(float), expected.filter(like="score").astype(float),
                               atol=1e-4)  # fmt: skip
    assert result["reason"].fillna("").tolist() == expected["reason"].fillna("").tolist()
    for table in (pd.DataFrame({"concept": [TEXT]}), pa.table({"concept": [TEXT]})):
        with pytest.raises(InputError, match="not tables"):
            model.predict(table)
    with pytest.raises(InputError, match="text 0 is a list"):
        model.predict([["a", "door"]])  # type: ignore[list-item]
    with pytest.warns(UserWarning, match="has no effect"):
        rainbow_ray.load(folder, media_root=tmp_path)
    with pytest.raises(InputError, match="export --onnx"):
        load_bundle(folder)


@pytest.mark.parametrize("family", HEADS)
def test_transformers_loads_an_exported_folder(songs, tiny_encoder, run_export, tmp_path, family):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    keys = {"phase": 2, "model__text_encoder__layer": 2, "model__text_encoder__freeze_layers": 0}
    plan = plan_of(songs, tiny_encoder(family), **keys, **EXPORTABLE, **HEADS[family], **SHORT)
    run_folder = finish_run(plan, tmp_path / "run")
    code, output = run_export(run_folder, "--hub-folder", tmp_path / "hub")
    assert code == 0, output
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hub")
    classifier = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(tmp_path / "hub"))
    response = {item["label"]: item["score"] for item in classifier(TEXT, top_k=None)}
    row = rainbow_ray.load(run_folder).predict(TEXT).iloc[0]
    assert response == pytest.approx(
        {name.removeprefix("score_"): row[name] for name in row.index if "score_" in name}, abs=1e-4
    )


@pytest.mark.parametrize("phase", [1, 4])
def test_a_number_is_exported_as_a_single_logit(songs, tiny_encoder, run_export, tmp_path, phase):
    # the targets are zero-inflated, for which the default loss has two logits
    loss = {"training__loss": "huber"} if phase == 4 else {}
    plan = plan_of(songs, tiny_encoder("bert"), phase=phase, **loss, **EXPORTABLE, **HEADS["bert"], **SHORT)
    code, output = run_export(finish_run(plan, tmp_path / "run"), "--hub-folder", tmp_path / "hub")
    assert code == 0, output
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["problem_type"] == (
        "regression" if phase == 4 else "multi_label_classification"
    )


def test_heads_that_cannot_be_exported_name_the_keys_to_change(songs, tiny_encoder, run_export, tmp_path):
    run_folder = finish_run(plan_of(songs, tiny_encoder("bert"), phase=2, **SHORT), tmp_path / "run")
    code, output = run_export(run_folder, "--hub-folder", tmp_path / "hub")
    assert code == 2
    for key in (
        "training.combine=none",
        "model.bag_of_words.enabled=false",
        "pooling=cls",
        "hidden_dims=[32]",
        "activation=tanh",
    ):
        assert key in output, key
    assert not (tmp_path / "hub").exists()


def test_all_problems_are_reported_together(run_export, tmp_path):
    (tmp_path / "existing").mkdir()
    (tmp_path / "model").mkdir()
    code, output = run_export(tmp_path / "model", "--out", "x", "--hub-folder", tmp_path / "existing")
    assert code == 2
    assert "--out: it is the folder of --onnx" in output
    assert "it exists; choose another name" in output
    code, output = run_export(tmp_path / "model")
    assert (code, "choose what to write" in output) == (2, True)
    code, output = run_export(tmp_path / "model", "--hub-folder", tmp_path / "existing", "--overwrite")
    assert (code, "not a folder that export wrote" in output) == (2, True)
    code, output = run_export(tmp_path / "none", "--onnx", "--out", tmp_path / "o")
    assert (code, "no model here" in output) == (2, True)


def test_an_export_never_replaces_the_model(songs, tiny_encoder, run_export, tmp_path):
    run_folder = finish_run(plan_of(songs, tiny_encoder("bert"), phase=1, **SHORT), tmp_path / "run")
    model = run_folder / "model"
    names_before = sorted(path.name for path in model.iterdir())
    for arguments in (["--onnx", "--out", model], ["--hub-folder", model], ["--onnx", "--out", model / "onnx"],
                      ["--onnx", "--out", run_folder]):  # fmt: skip
        code, output = run_export(run_folder, *arguments, "--overwrite")
        assert (code, "the model itself is there" in output) == (2, True), output
    code, output = run_export(run_folder, "--onnx", "--out", tmp_path / "x", "--hub-folder", tmp_path / "x")
    assert (code, "choose another folder" in output) == (2, True)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "bundle.json").write_text("{}")
    assert run_export(run_folder, "--onnx", "--out", tmp_path / "foreign", "--overwrite")[0] == 2
    assert sorted(path.name for path in model.iterdir()) == names_before
    rainbow_ray.load(run_folder)
