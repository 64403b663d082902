"""Arguments of train, tune and check: former names of flags, and the JSON schema of the config."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml

from rainbow_ray import train, tune
from rainbow_ray.cli.config_arguments import make_parser, read_config
from rainbow_ray.cli.model_arguments import make_predict_parser
from rainbow_ray.config.keys import known_keys
from rainbow_ray.utils.errors import EXIT_INPUT_ERROR, EXIT_SUCCESS

PREDICT = ["--model", "m", "--text-file", "t.txt"]


def test_concurrent_sets_max_concurrent_and_is_deprecated(capsys):
    options = make_parser("tune", "").parse_intermixed_args(["--concurrent", "3"])
    assert read_config(options).config.tune.max_concurrent_trials == 3
    assert capsys.readouterr().err == "Note: --concurrent is deprecated: the flag is now --max-concurrent\n"


def test_prepare_sets_build_cache_and_is_deprecated(capsys):
    assert make_parser("check", "").parse_intermixed_args(["--prepare"]).build_cache is True
    assert capsys.readouterr().err == "Note: --prepare is deprecated: the flag is now --build-cache\n"


def test_class_sets_rank_by_class_and_is_deprecated(capsys):
    assert make_predict_parser("").parse_args([*PREDICT, "--class", "spatial"]).rank_by_class == "spatial"
    assert capsys.readouterr().err == "Note: --class is deprecated: the flag is now --rank-by-class\n"


def test_part_rows_sets_chunk_rows_and_is_deprecated(capsys):
    assert make_predict_parser("").parse_args([*PREDICT, "--part-rows", "50"]).chunk_rows == 50
    assert capsys.readouterr().err == "Note: --part-rows is deprecated: the flag is now --chunk-rows\n"


def test_present_flags_print_no_warning(capsys):
    assert make_parser("tune", "").parse_intermixed_args(["--max-concurrent", "3"]).max_concurrent == "3"
    assert make_parser("check", "").parse_intermixed_args([]).build_cache is False
    options = make_predict_parser("").parse_args([*PREDICT, "--rank-by-class", "spatial", "--chunk-rows", "50"])
    assert (options.rank_by_class, options.chunk_rows) == ("spatial", 50)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("flags", [("--concurrent", "--max-concurrent"), ("--max-concurrent", "--concurrent")])
def test_different_values_under_both_names_of_a_flag_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as error:
        make_parser("tune", "").parse_intermixed_args([flags[0], "2", flags[1], "3"])
    assert error.value.code == EXIT_INPUT_ERROR
    message = f"error: {flags[0]} 2 contradicts {flags[1]} 3; give only --max-concurrent\n"
    assert capsys.readouterr().err.endswith(message)


def test_flags_whose_names_agree_are_accepted():
    parser = make_parser("tune", "")
    assert parser.parse_intermixed_args(["--concurrent", "2", "--max-concurrent", "2"]).max_concurrent == "2"
    assert parser.parse_intermixed_args(["--concurrent", "3"]).max_concurrent == "3", "a parser has no memory"
    assert parser.parse_intermixed_args(["--max-concurrent", "2", "--max-concurrent", "3"]).max_concurrent == "3"
    assert make_parser("check", "").parse_intermixed_args(["--prepare", "--build-cache"]).build_cache is True
    with pytest.raises(SystemExit):
        make_predict_parser("").parse_args([*PREDICT, "--part-rows", "50", "--chunk-rows", "60"])


def test_print_config_prints_notes_on_former_keys_to_standard_error(capsys):
    assert train.main(["--print-config", "training.smoothing=0.5"]) == EXIT_SUCCESS
    output, error = capsys.readouterr()
    assert yaml.safe_load(output)["training"]["tmse_weight"] == 0.5
    assert error == "Note: command line: training.smoothing is deprecated: the key is now training.tmse_weight\n"


def test_help_shows_only_present_flags():
    pages = [make_parser(name, "").format_help() for name in ("tune", "check")] + [
        make_predict_parser("").format_help()
    ]
    text = "\n".join(pages)
    for flag in ("--max-concurrent", "--build-cache", "--rank-by-class", "--chunk-rows"):
        assert flag in text
    for flag in (" --concurrent", "--prepare", "--class", "--part-rows"):
        assert flag not in text


@pytest.mark.parametrize("command", [train, tune])
def test_the_printed_schema_accepts_the_printed_config(command, capsys):
    assert command.main(["--print-schema"]) == EXIT_SUCCESS
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert command.main(["--phase", "5", "--folds", "3", "--print-config"]) == EXIT_SUCCESS
    document = yaml.safe_load(capsys.readouterr().out)
    jsonschema.validate(document, schema)
    with pytest.raises(jsonschema.ValidationError, match="folds_of_wool"):
        jsonschema.validate({"data": {"folds_of_wool": 3}}, schema)
    with pytest.raises(jsonschema.ValidationError, match="many"):
        jsonschema.validate({"training": {"epochs": "many"}}, schema)


def test_the_schema_has_every_key_with_its_description(capsys):
    train.main(["--print-schema"])
    schema = json.loads(capsys.readouterr().out)

    def leaves(section, prefix=""):
        for name, field in section["properties"].items():
            reference = field.get("$ref")
            if reference is None:
                yield f"{prefix}{name}", field
            else:
                yield from leaves(schema["$defs"][reference.rpartition("/")[2]], f"{prefix}{name}.")

    fields = dict(leaves(schema))
    assert set(fields) == set(known_keys())
    assert fields["training.epochs"]["description"]
    assert fields["data.folds"]["description"]
