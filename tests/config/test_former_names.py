"""Former names of keys and values are read with one deprecation line each and written under present names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rainbow_ray.cli.config_arguments import make_parser, read_config
from rainbow_ray.config.keys import known_keys
from rainbow_ray.config.load import Resolved, dump, override, resolve
from rainbow_ray.config.renamed_keys import inert_keys, present_json, renamed_keys, with_present_keys
from rainbow_ray.config.schema import Config
from rainbow_ray.config.unknown_keys import explain_unknown_key
from rainbow_ray.utils.errors import InputError

FORMER, PRESENT = "segments.together", "segments.max_sequence_length"
SAMPLE = {
    "data.resident_limit": 7,
    "model.lexical.width": 8,
    "model.classifier.standardise": False,
    "training.smoothing": 0.5,
    "tune.confirm_seeds": 2,
}


def read(*arguments: str) -> Resolved:
    return read_config(make_parser("train", "").parse_intermixed_args(arguments))


def file_of(folder: Path, values: dict[str, object]) -> Path:
    document: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        section = document
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    path = folder / "former.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_former_keys_of_a_file_are_read_with_one_line_each(tmp_path):
    resolved = read("--config", str(file_of(tmp_path, SAMPLE)))
    for key, value in SAMPLE.items():
        assert resolved.config.at(renamed_keys()[key]) == value
        (note,) = [note for note in resolved.notes if f": {key} " in note]
        assert note.endswith(f"is deprecated: the key is now {renamed_keys()[key]}")
    assert len(resolved.notes) == len(SAMPLE)
    assert resolved.user_keys == {renamed_keys()[key] for key in SAMPLE}


def test_a_former_key_of_the_environment_is_read_with_one_line(monkeypatch):
    monkeypatch.setenv("RAINBOW_SEGMENTS__TOGETHER", "9")
    resolved = read()
    assert resolved.config.segments.max_sequence_length == 9
    assert resolved.notes == (f"RAINBOW_SEGMENTS__TOGETHER: {FORMER} is deprecated: the key is now {PRESENT}",)


def test_a_former_key_of_the_command_line_is_read_with_one_line():
    resolved = read(f"{FORMER}=9")
    assert resolved.config.segments.max_sequence_length == 9
    assert resolved.notes == (f"command line: {FORMER} is deprecated: the key is now {PRESENT}",)


def test_a_former_value_is_read_with_one_line():
    resolved = read("training.target_transform=standardise")
    assert resolved.config.training.target_transform == "standardize"
    assert resolved.notes == (
        "command line: training.target_transform: 'standardise' is deprecated: the value is now 'standardize'",
    )
    assert override(Config(), {"training.target_transform": "standardise"}, "t").hash() == Config().hash()


@pytest.mark.parametrize("key", inert_keys())
def test_an_inert_key_is_accepted_with_one_line_and_not_printed(key):
    resolved = read(f"{key}=3")
    assert resolved.notes == (f"command line: {key} is deprecated and has no effect: {inert_keys()[key]}",)
    assert resolved.config == Config()
    assert key not in known_keys()
    assert override(Config(), {key: 3}, "t") == Config()
    assert key.rsplit(".", 1)[-1] not in str(Config.model_json_schema()) or key.endswith("hidden_size")


def test_the_config_of_an_earlier_run_is_read(tmp_path):
    document = yaml.safe_load(file_of(tmp_path, SAMPLE).read_text())
    document["training"].update(num_workers=None, save_best_only=True, target_transform="standardise")
    config = Config.model_validate(document)
    assert {key: config.at(renamed_keys()[key]) for key in SAMPLE} == SAMPLE
    assert config.training.target_transform == "standardize"


def test_only_present_names_are_printed(tmp_path):
    text = dump(read("--config", str(file_of(tmp_path, SAMPLE)), "training.num_workers=3").config)
    document = yaml.safe_load(text)
    assert Config.model_validate(document).model_dump() == document
    for key in [*renamed_keys(), *inert_keys()]:
        *sections, name = key.split(".")
        section = document
        for part in sections:
            section = section.get(part, {})
        assert name not in section, key


@pytest.mark.parametrize("arguments", [(f"{FORMER}=3", f"{PRESENT}=3"), (f"{PRESENT}=3", f"{FORMER}=4")])
def test_a_key_under_both_names_is_refused(arguments):
    with pytest.raises(InputError) as error:
        read(*arguments)
    (problem,) = error.value.problems
    assert problem.endswith(f"give only {PRESENT}")


def test_a_key_under_both_names_in_one_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=f"give only {PRESENT}"):
        read("--config", str(file_of(tmp_path, {FORMER: 3, PRESENT: 3})))
    with pytest.raises(ValueError, match="together"):
        Config.model_validate({"segments": {"together": 3, "max_sequence_length": 3}})


def test_a_later_source_overrides_a_former_key(tmp_path):
    resolved = read("--config", str(file_of(tmp_path, {FORMER: 3})), f"{PRESENT}=4")
    assert resolved.config.segments.max_sequence_length == 4
    assert len(resolved.notes) == 1


def test_an_emptied_section_under_a_former_name_is_read(tmp_path):
    (tmp_path / "empty.yaml").write_text("model:\n  lexical:\n")
    assert resolve(tmp_path / "empty.yaml", {}, []).config == Config()


def test_every_former_key_has_a_present_one():
    assert set(renamed_keys().values()) <= set(known_keys())
    assert not set(renamed_keys()) & set(known_keys())


def test_the_present_name_has_precedence():
    assert with_present_keys({FORMER: 1, PRESENT: 2, "training.epochs": 3}) == {PRESENT: 2, "training.epochs": 3}


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("model.lexical.widht", "model.bag_of_words.hidden_size"),
        ("training.smoothin", "training.tmse_weight"),
        ("smoothing_limit", "training.tmse_clip"),
    ],
)
def test_a_misspelled_former_key_gets_the_present_one(key, suggestion):
    with pytest.raises(InputError) as error:
        read(f"{key}=3")
    (problem,) = error.value.problems
    assert f"{key}: unknown key (did you mean" in problem
    assert suggestion in problem
    assert not any(f"{former} or" in problem or f"{former}?" in problem for former in renamed_keys())
    with pytest.raises(InputError, match=f"t: {key}: unknown key .*{suggestion}"):
        override(Config(), {key: 3}, "t")


@pytest.mark.parametrize(
    ("section", "example"),
    [
        ("model", "model.text_encoder.model_name"),
        ("model.lexical", "model.bag_of_words.enabled"),
        ("data", "data.manifest_path"),
    ],
)
def test_a_value_for_a_section_is_refused_with_one_of_its_keys(section, example):
    with pytest.raises(InputError) as error:
        read(f"{section}=3")
    assert error.value.problems == [
        f"command line: {section}: unknown key (it is a section; set one of its keys, such as {example})"
    ]
    assert explain_unknown_key("modell").startswith("unknown key (did you mean")


def test_values_of_json_get_present_names():
    text = '{"name": "CategoricalDistribution", "attributes": {"choices": ["none", "standardise"]}}'
    assert present_json("training.target_transform", text) == text.replace("standardise", "standardize")
    assert present_json("training.loss", text) == text
