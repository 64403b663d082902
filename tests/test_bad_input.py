"""Invalid input and config: exit code 2, all problems at once, readable messages, and no files written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rainbow_ray import train
from rainbow_ray.cli.main import run_command
from rainbow_ray.utils.errors import InputError
from tests.helpers import data_of, plan_of
from tests.song_tables import song_rows


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run the command in this process, in an empty folder; return its exit code and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        code = run_command(train.main)
        return code, capsys.readouterr().err

    return call


def rejected(command, *arguments: str) -> str:
    files_before = sorted(Path().rglob("*"))
    code, output = command(*arguments)
    assert code == 2, output
    assert output
    assert all(line.startswith("error: ") for line in output.splitlines())
    assert sorted(Path().rglob("*")) == files_before
    return output


def test_the_named_manifest_must_exist(command, monkeypatch):
    assert "no such file" in rejected(command, "--manifest", "none.parquet")
    monkeypatch.setenv("RAINBOW_MANIFEST", "gone.parquet")
    assert "gone.parquet" in rejected(command)
    monkeypatch.delenv("RAINBOW_MANIFEST")
    Path("c.yml").write_text("data: {manifest_path: lost.parquet}\n")
    assert "lost.parquet" in rejected(command, "--config", "c.yml")


def test_all_problems_are_reported_at_once(command):
    output = rejected(
        command, "--manifest", "none.parquet", "--encoder", "no/such", "--metric", "macro_f2",
        "--modalities", "text,sound",
        "training.loss=focl", "training.schedule=liner", "training.sampling=over", "training.device=gpu",
        "model.text_encoder.pooling=men", "model.classifier.activation=rel", "logging.metrics=[f2]",
        "--split-file", "none.json", "data.val_split=0.5",
    )  # fmt: skip
    for message in (
        "none.parquet", "no/such", "did you mean macro_f1", "--modalities", "did you mean focal", "did you mean linear",
        "oversample", "cuda", "did you mean mean", "did you mean relu", "logging.metrics", "none.json", "more than 1",
    ):  # fmt: skip
        assert message in output


def test_layers_beyond_the_encoder_are_rejected(command, songs_file):
    arguments = ("--manifest", str(songs_file), "--encoder", "embedded")
    output = rejected(command, *arguments, "model.text_encoder.layer=7", "model.text_encoder.freeze_layers=9")
    assert "model.text_encoder.layer: 7 is beyond the encoder, which has 6 layers" in output
    assert "model.text_encoder.freeze_layers: 9" in output


def test_unknown_phases_keys_and_types_are_rejected(command):
    assert "--phase 7" in rejected(command, "--phase", "7")
    assert "did you mean training.epochs" in rejected(command, "training.epoch=3")
    assert "training.epochs" in rejected(command, "training.epochs=many")


def test_an_unreachable_hub_is_reported_with_alternatives(command, songs_file):
    output = rejected(command, "--manifest", str(songs_file))
    assert "microsoft/deberta-v3-base" in output
    assert "--encoder embedded" in output
    assert "local folder" in output


def test_modified_files_of_the_embedded_encoder_are_rejected(command, songs_file, monkeypatch):
    from rainbow_ray.modalities.text import embedded

    monkeypatch.setitem(embedded.EMBEDDED_FILES, "config.json", "0" * 64)
    embedded.source_of.cache_clear()
    output = rejected(command, "--manifest", str(songs_file), "--encoder", "embedded")
    embedded.source_of.cache_clear()
    assert "config.json is not the file it should be" in output


def test_an_existing_run_and_an_unwritable_folder_are_rejected(command, songs_file, tmp_path):
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    (tmp_path / "runs" / "taken" / "notes.txt").touch()
    arguments = ("--manifest", str(songs_file), "--encoder", "embedded")
    output = rejected(command, *arguments, "--name", "taken")
    assert "exists" in output
    assert "--resume" in output
    (tmp_path / "file").touch()
    assert "cannot be written" in rejected(command, *arguments, "--output-dir", "file/runs")
    for name in ("../outside", "a/b", "", "."):
        assert "--name" in rejected(command, *arguments, "--name", name)


def test_a_resumed_run_must_have_the_same_config(command, songs_file, tmp_path):
    from rainbow_ray.config.load import dump
    from rainbow_ray.config.schema import Config

    arguments = ("--manifest", str(songs_file), "--encoder", "embedded", "--resume")
    assert "no unfinished run" in rejected(command, *arguments)
    assert "there is no run" in rejected(command, *arguments, "--name", "none")
    (tmp_path / "runs" / "other").mkdir(parents=True)
    (tmp_path / "runs" / "other" / "config.yaml").write_text(dump(Config()))
    (tmp_path / "runs" / "other" / "data.json").write_text("{}")
    output = rejected(command, *arguments, "--name", "other", "training.epochs=3")
    assert "these files are missing: env.json" in output
    (tmp_path / "runs" / "other" / "env.json").write_text("{}")
    output = rejected(command, *arguments, "--name", "other", "training.epochs=3")
    assert "training.epochs was 20, now 3" in output
    (tmp_path / "runs" / "other" / "config.yaml").write_text("- 1\n")
    assert "another config" in rejected(command, *arguments, "--name", "other")


def test_a_password_in_a_url_is_not_printed(command):
    output = rejected(command, "--manifest", "https://someone:secret@example.org/songs.parquet")
    assert "secret" not in output


BAD_DATA = {
    "all null": ({"has_rebracketing_markers": pa.nulls(48)}, "is null in all 48 rows"),
    "one class": ({"has_rebracketing_markers": [True] * 48}, "one class only"),
    "not boolean": (
        {"has_rebracketing_markers": ["spatial", "spatial", "causal", "causal"] * 12},
        "not boolean: 'causal', 'spatial'",
    ),
    "nothing left": ({"concept": ["short"] * 48}, "48 rows: text under 50 characters"),
    "few songs": (
        {"id": ["a", "b"] * 24, "has_rebracketing_markers": [True, False] * 24},
        "2 songs are left of 48",
    ),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_unusable_data_is_rejected(write_table, kind):
    replacement, message = BAD_DATA[kind]
    plan = plan_of(write_table({**song_rows(), **replacement}))
    with pytest.raises(InputError, match=message):
        data_of(plan)


def test_keys_without_effect_cause_warnings(songs_file):
    plan = plan_of(
        songs_file, training__num_workers=4, training__focal_gamma=1.0, model__text_encoder__hidden_size=768,
        model__bag_of_words__enabled=False, model__bag_of_words__hidden_size=9, training__save_best_only=False,
    )  # fmt: skip
    for key in ("training.num_workers", "training.focal_gamma", "model.text_encoder.hidden_size",
                "model.bag_of_words.hidden_size", "training.save_best_only"):  # fmt: skip
        (warning,) = [warning for warning in plan.warnings if key in warning]
        assert "no effect" in warning
    assert len(plan.warnings) == 5
    assert plan_of(songs_file).warnings == []
    assert any("val_split" in warning for warning in data_of(plan_of(songs_file, data__val_split=0.1)).warnings)


def test_a_row_split_warns_of_leakage(songs_file):
    (warning,) = [w for w in data_of(plan_of(songs_file, data__split_by="row")).warnings if "LEAK" in w]
    assert "texts on both sides" in warning


def test_a_model_that_is_not_a_text_encoder_is_rejected_before_ray_starts(command, songs_file, tmp_path):
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
    folder = tmp_path.parent / f"{tmp_path.name}-encoders"
    transformers.T5Config(d_model=32, num_layers=2, num_heads=4).save_pretrained(folder / "t5")
    transformers.CLIPConfig().save_pretrained(folder / "clip")
    transformers.AlbertConfig(**sizes, embedding_size=32).save_pretrained(folder / "albert")
    transformers.ElectraConfig(**sizes, embedding_size=32).save_pretrained(folder / "electra")
    messages = {"t5": "not a text encoder", "clip": "not a text encoder", "albert": "told apart", "electra": "mix"}
    for name, message in messages.items():
        arguments = ("--manifest", str(songs_file), "--encoder", str(folder / name), "model.text_encoder.layer=mix")
        assert message in rejected(command, *arguments)


def test_an_encoder_without_its_files_is_rejected_before_ray_starts(command, songs_file, tiny_encoder, tmp_path):
    folders = [shutil.copytree(tiny_encoder("bert"), tmp_path.parent / f"{tmp_path.name}-{name}") for name in "ab"]
    (folders[0] / "tokenizer.json").unlink()
    (folders[1] / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    for folder, message in zip(folders, ("its tokenizer has no vocabulary", "run `git lfs pull`"), strict=True):
        assert message in rejected(command, "--manifest", str(songs_file), "--encoder", str(folder))


def test_the_printed_default_config_gives_the_default_plan(command, monkeypatch, tmp_path):
    from rainbow_ray.config.load import dump, resolve
    from rainbow_ray.config.schema import Config
    from rainbow_ray.setup.plan import make_plan

    (tmp_path / "printed.yml").write_text(dump(Config()))
    printed = make_plan(resolve(tmp_path / "printed.yml", {}, []))
    assert printed.input_spec.text == "embedded"
    assert printed.demo
    assert printed.warnings == []


def test_texts_without_words_do_not_stop_the_baselines(write_table):
    from rainbow_ray.baselines.common import baseline_inputs, run_baselines

    columns = song_rows()
    columns["key"] = [f"{'ABCDEFG'[i % 7]}" for i in range(48)]
    plan = plan_of(write_table(columns), data__text_columns=["key"], data__min_concept_length=0)
    data = data_of(plan)
    states = data.examples.targets[:, None, None] + [[[0.0, 1.0]]]
    scores = run_baselines(data.task, baseline_inputs(data.task, data.examples, states, seed=0), data.split).scores
    assert (scores["bag of words + boosting"] == scores["majority"]).all()


@pytest.mark.slow
def test_help_is_fast_and_the_config_is_printed(tmp_path):
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": ""}
    completed = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "rainbow_ray.train", "--help"],
        capture_output=True, text=True, check=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert "--phase" in completed.stdout
    for package in ("torch", "ray", "transformers", "pandas", "pyarrow", "sklearn"):
        assert f" {package}\n" not in completed.stderr
    printed = subprocess.run(
        [sys.executable, "-m", "rainbow_ray.train", "--print-config", "training.epochs=3"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert "epochs: 3" in printed.stdout
    assert json.dumps(True) in printed.stdout


@pytest.mark.parametrize(
    ("column", "values", "problem"),
    [
        ("start_seconds", pa.array([10**9, 10**9 + 10], pa.timestamp("s")), "write seconds"),
        ("start_seconds", None, "no column 'start_seconds'"),
        ("song_id", None, "no column 'song_id'"),
        ("lyric_text", None, "no column 'lyric_text'"),
        ("segment_rebracketing_type", pa.array([["a"], ["b"]]), "a segment has one label"),
    ],
)
def test_problems_of_a_table_of_segments_name_the_table(command, songs_file, tmp_path, column, values, problem):
    columns = {"song_id": ["song 0"] * 2, "start_seconds": [0.0, 10.0], "end_seconds": [10.0, 20.0],
               "lyric_text": ["one", "two"], "segment_rebracketing_type": ["a", "b"]}  # fmt: skip
    columns = {name: cells for name, cells in columns.items() if name != column}
    pq.write_table(pa.table(columns if values is None else {**columns, column: values}), tmp_path / "parts.parquet")
    output = rejected(command, "--phase", "5", "--manifest", str(songs_file), "--segments", "parts.parquet",
                      "--encoder", "embedded")  # fmt: skip
    assert "segments parts.parquet" in output
    assert problem in output


def test_a_table_of_segments_must_exist(command, songs_file):
    output = rejected(command, "--phase", "5", "--manifest", str(songs_file), "--segments", "none.parquet")
    assert "segments none.parquet: no such file or folder; name another with --segments" in output
