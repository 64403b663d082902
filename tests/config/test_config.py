"""The config: precedence of sources, messages about all problems, and the printed file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from rainbow_ray.cli.config_arguments import make_parser, read_config
from rainbow_ray.config.keys import choices, known_keys, short_names
from rainbow_ray.config.load import dump, parse_value, resolve
from rainbow_ray.config.schema import Config
from rainbow_ray.utils.errors import InputError

OLDER = """
data:
  manifest_path: "data/base_manifest_db.parquet"
  target_column: "has_rebracketing_markers"
  target_type: "binary"
  train_split: 0.8
  val_split: 0.2
  random_seed: 42
  require_concept: true
  min_concept_length: 50
model:
  text_encoder:
    model_name: "microsoft/deberta-v3-base"
    hidden_size: 768
    max_length: 512
    freeze_layers: 0
    pooling: "mean"
  classifier: {hidden_dims: [256, 128], dropout: 0.3, activation: "relu"}
training:
  batch_size: 32
  learning_rate: 0.00002
  weight_decay: 0.01
  epochs: 20
  gradient_accumulation_steps: 1
  max_grad_norm: 1.0
  warmup_ratio: 0.1
  device: "cuda"
  mixed_precision: true
  num_workers: 4
  early_stopping: {enabled: true, patience: 10, min_delta: 0.001}
  save_best_only: true
  save_every_n_epochs: 1
logging:
  wandb: {enabled: false, project: "rainbow-pipeline", entity: null, name: null}
  output_dir: "output"
  log_every_n_steps: 10
  metrics: ["loss", "accuracy", "precision", "recall", "f1"]
reproducibility: {seed: 42, deterministic: true}
"""


def options(*arguments: str):
    return make_parser("train", "").parse_intermixed_args(arguments)


def problems_of(*arguments: str) -> list[str]:
    with pytest.raises(InputError) as error:
        read_config(options(*arguments))
    return error.value.problems


def test_the_command_line_overrides_the_environment_which_overrides_the_file(tmp_path, monkeypatch):
    file = tmp_path / "c.yml"
    file.write_text("training: {epochs: 3, batch_size: 4, learning_rate: 2e-5}\n")
    monkeypatch.setenv("RAINBOW_TRAINING__EPOCHS", "5")
    monkeypatch.setenv("RAINBOW_TRAINING__BATCH_SIZE", "6")
    resolved = read_config(options("--config", str(file), "training.epochs=7"))
    assert resolved.config.training.epochs == 7
    assert resolved.config.training.batch_size == 6
    assert resolved.config.training.learning_rate == 2e-5
    assert {"training.epochs", "training.batch_size", "training.learning_rate"} == resolved.user_keys


def test_flags_set_keys(monkeypatch):
    monkeypatch.setenv("RAINBOW_MANIFEST", "from/environment.parquet")
    resolved = read_config(options("--folds", "1", "--split-by", "album", "--encoder", "embedded", "--metric", "mcc"))
    assert resolved.config.data.manifest_path == "from/environment.parquet"
    assert resolved.config.data.folds == 1
    assert resolved.config.data.split_by == "album"
    assert resolved.config.model.text_encoder.model_name == "embedded"
    assert resolved.config.training.metric == "mcc"


def test_a_config_of_an_older_project_is_read(tmp_path):
    file = tmp_path / "older.yml"
    file.write_text(OLDER)
    config = read_config(options("--config", str(file))).config
    assert config.model.classifier.hidden_dims == [256, 128]
    assert config.training.early_stopping.patience == 10
    assert config.logging.output_dir == "output"


def test_the_printed_file_gives_the_same_config(tmp_path):
    config = read_config(options("training.epochs=3", "model.text_encoder.layer=mix", "data.folds=4")).config
    file = tmp_path / "printed.yml"
    file.write_text(dump(config))
    assert resolve(file, {}, []).config == config
    assert yaml.safe_load(dump(Config())) == Config().model_dump()


def test_every_key_has_a_description_in_the_printed_file():
    for line in dump(Config()).splitlines()[1:]:
        assert line.endswith(":") or re.search(r": \S.*  # \S", line), line
    assert all(f"{key.rsplit('.', 1)[-1]}:" in dump(Config()) for key in known_keys())


def test_the_printed_file_lists_the_choices_of_a_key():
    assert choices("training.schedule") == ("linear", "cosine", "constant")
    assert choices("training.loss")[:2] == ("bce", "cross_entropy")
    assert choices("training.mixed_precision") == choices("training.epochs") == (), "they also accept other values"
    assert (
        "schedule: linear  # decay of the learning rate after the warm-up (one of: linear, cosine, constant)"
        in dump(Config())
    )


def test_all_problems_are_reported_at_once_with_the_nearest_key(tmp_path, monkeypatch):
    file = tmp_path / "c.yml"
    file.write_text("training: {epoch: 3, batch_size: many}\n")
    monkeypatch.setenv("RAINBOW_TRAINING__WARMUP_RATIO", "7")
    problems = "\n".join(problems_of("--config", str(file), "model.text_encoder.poolin=cls", "nonsense"))
    assert "training.epoch: unknown key (did you mean training.epochs" in problems
    assert "training.batch_size: 'many'" in problems
    assert "RAINBOW_TRAINING__WARMUP_RATIO" in problems
    assert "model.text_encoder.pooling" in problems
    assert "'nonsense' is not of the form section.key=value" in problems


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("training.learning_rate=0", "greater than 0"),
        ("training.learning_rate=.nan", "finite"),
        ("training.epochs=0", "greater than 0"),
        ("training.epochs=[1]", "integer"),
        ("data.val_split=1.0", "less than 1"),
        ("data.text_columns=[]", "at least 1"),
        ("model.text_encoder.layer=-1", "greater than or equal to 0"),
        ("data=3", "unknown key"),
        ("training.mixed_precision=fp8", "bf16"),
        ("training.epochs=true", "integer"),
        ("reproducibility.seed=5000000000", "less than"),
    ],
)
def test_wrong_types_and_ranges_name_the_key(argument, reason):
    (problem,) = problems_of(argument)
    assert argument.partition("=")[0] in problem
    assert reason in problem


def test_phases_are_checked(tmp_path):
    assert "--phase 9" in problems_of("--phase", "9")[0]
    file = tmp_path / "c.yml"
    file.write_text("phase: 1\n")
    assert read_config(options("--config", str(file), "--phase", "1")).config.phase == 1
    assert "the config has phase 1" in problems_of("--config", str(file), "--phase", "2")[0]


@pytest.mark.parametrize("content", ["[1, 2", "- a\n- b\n", "\x00"])
def test_an_invalid_config_file_is_refused(tmp_path: Path, content: str):
    file = tmp_path / "c.yml"
    file.write_text(content)
    assert str(file) in problems_of("--config", str(file))[0]


def test_the_hash_depends_on_training_keys_only():
    default_hash = Config().hash()
    assert resolve(None, {}, [("logging.output_dir", "elsewhere")]).config.hash() == default_hash
    assert resolve(None, {}, [("training.epochs", 3)]).config.hash() != default_hash


def test_a_key_given_twice_with_different_values_is_refused():
    assert "data.folds is given twice" in problems_of("--folds", "2", "data.folds=3")[0]
    assert read_config(options("--folds", "2", "data.folds=2")).config.data.folds == 2


def test_names_that_look_like_numbers_are_strings():
    assert read_config(options("--split-by", "2024")).config.data.split_by == "2024"


def test_mappings_are_restored_from_the_printed_file(tmp_path):
    values = [("data.class_mapping", {"a": "x", 1: "y", "b": None}), ("training.class_weights", {"x": 2.0})]
    config = resolve(None, {}, values).config
    assert config.data.class_mapping == {"a": "x", "1": "y", "b": None}
    (tmp_path / "again.yaml").write_text(dump(config))
    assert resolve(tmp_path / "again.yaml", {}, []).config == config


@pytest.mark.parametrize("mapping", [{True: "a"}, {"a": True}, {"a": " "}])
def test_labels_that_yaml_does_not_read_as_text_are_refused(mapping):
    with pytest.raises(InputError, match="class_mapping"):
        resolve(None, {}, [("data.class_mapping", mapping)])


def test_a_mapping_on_the_command_line_needs_no_space():
    assert parse_value("{a:x,b:null}") == parse_value("{a: x, b: null}") == {"a": "x", "b": None}
    assert parse_value("{'a:b': x}") == {"a:b": "x"}


def test_short_names_are_unambiguous():
    keys = ["training.learning_rate", "model.fusion.learning_rate", "model.fusion.kind", "phase", "model.a.b", "x.a.b"]
    names = short_names(keys)
    assert list(names.values()) == ["training.learning_rate", "fusion.learning_rate", "kind", "phase", "model.a.b",
                                    "x.a.b"]  # fmt: skip


@pytest.mark.parametrize("section", ["text_encoder", "audio_encoder"])
def test_a_frozen_fraction_of_one_means_all_layers(section):
    assert (
        getattr(Config.model_validate({"model": {section: {"freeze_layers": 1.0}}}).model, section).freeze_layers
        == "all"
    )
    assert getattr(Config.model_validate({"model": {section: {"freeze_layers": 1}}}).model, section).freeze_layers == 1
