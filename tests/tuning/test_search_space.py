"""Search spaces are checked before the sweep, and messages name the invalid line."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest

from rainbow_ray.config.keys import known_keys
from rainbow_ray.config.phases import PHASES
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.tuning.optuna_study import make_study
from rainbow_ray.tuning.search_space import apply_values, default_trial, explore, load_space
from rainbow_ray.utils.errors import InputError
from tests.tuning.spaces import make_space


def write_space(folder: Path, text: str) -> str:
    path = folder / "mine.py"
    path.write_text(text)
    return f"{path}:space"


def test_the_space_of_phase_1_contains_the_default(config, check):
    space = load_space(None, 1)
    parameters = explore(space, config, check, seed=0)
    expected = {"learning_rate", "pooling", "layer", "freeze_layers", "loss", "focal_gamma", "dropout", "weight_decay",
             "hidden_dims", "batch_size", "warmup_ratio", "layer_decay", "head_learning_rate"}  # fmt: skip
    assert expected <= {key.rpartition(".")[2] for key in parameters.distributions}
    default = default_trial(space, config)
    params = default.params
    assert params.keys() == default.distributions.keys()
    assert default.values == {}
    assert params["model.text_encoder.layer"] == 0.34
    assert apply_values(config, params, "trial").hash() == config.hash()
    assert "training.focal_gamma" not in params, "it applies only to the focal loss"


def test_conditional_keys_are_suggested_only_where_they_apply(config):
    study = make_study("maximize", optuna.samplers.RandomSampler(seed=1))
    losses = set()
    for _ in range(60):
        values = load_space(None, 1).draw(study.ask())
        losses.add(values["training.loss"])
        assert ("training.focal_gamma" in values) == (values["training.loss"] == "focal")
        layer, frozen = values["model.text_encoder.layer"], values["model.text_encoder.freeze_layers"]
        is_trained = frozen != "all" and (isinstance(layer, str) or frozen < layer)
        assert ("training.learning_rate" in values) == is_trained, "only present if a layer below the output is trained"
        assert set(values) <= set(known_keys())
    assert losses == {"bce", "focal", "asymmetric"}


def test_lists_are_strings_and_depths_are_numbers(config):
    values = {"model.classifier.hidden_dims": "256,128", "model.text_encoder.freeze_layers": 0.5}
    changed = apply_values(config, values, "trial 3")
    assert changed.model.classifier.hidden_dims == [256, 128]
    assert changed.model.text_encoder.freeze_layers == 0.5
    assert apply_values(config, {"model.classifier.hidden_dims": ""}, "trial 4").model.classifier.hidden_dims == []
    assert apply_values(config, {"data.text_columns": "concept,lyrics"}, "trial 5").data.text_columns == [
        "concept",
        "lyrics",
    ]
    assert config.model.classifier.hidden_dims == []
    with pytest.raises(InputError, match=r"trial 6: training\.batch_size: 'many'"):
        apply_values(config, {"training.batch_size": "many"}, "trial 6")


def test_constants_are_set_for_all_trials(config, check):
    def space(trial):
        trial.suggest_float("training.weight_decay", 0.0, 0.1)
        return {"training.epochs": 3}

    parameters = explore(make_space(space), config, check, seed=0)
    assert parameters.constants == {"training.epochs": ["3"]}
    values = make_space(space).draw(optuna.trial.FixedTrial({"training.weight_decay": 0.05}))
    assert values == {"training.weight_decay": 0.05, "training.epochs": 3}


INVALID = {
    "an unknown key": ("trial.suggest_float('training.lerning_rate', 1e-5, 1e-3)", "lerning_rate: unknown key"),
    "nothing": ("pass", "suggests no value"),
    "the metric": ("trial.suggest_categorical('training.metric', ['f1', 'mcc'])", "training.metric changes what a sco"),
    "the target": ("trial.suggest_categorical('data.target_column', ['a', 'b'])", "data.target_column changes what"),
    "a filter": ("trial.suggest_int('data.min_concept_length', 10, 50)", "data.min_concept_length changes what a"),
    "the split": ("trial.suggest_int('data.folds', 2, 5)", "data.folds changes what a score means"),
    "the seed": ("trial.suggest_int('reproducibility.seed', 0, 5)", "reproducibility.seed changes what a score means"),
    "workers": ("trial.suggest_int('training.workers', 1, 2)", "training.workers does not change the model"),
    "combine": ("trial.suggest_categorical('training.combine', ['stack', 'none'])", "combine does not change"),
    "a wrong value": ("trial.suggest_int('training.batch_size', -4, -1)", "training.batch_size"),
    "an unknown name": ("trial.suggest_categorical('model.text_encoder.pooling', ['meen'])", "'meen' is unknown"),
    "a layer too many": ("trial.suggest_int('model.text_encoder.layer', 1, 99)", "is beyond the encoder"),
    "an error": ("trial.suggest_float('training.weight_decay', 1.0, 0.0)", "line 2: `trial.suggest_float('training.we"),
    "no dict": ("return trial.suggest_float('training.weight_decay', 0.0, 1.0)", "returned a float, not a dict"),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_invalid_spaces_are_refused_before_the_sweep(config, check, tmp_path, name):
    line, message = INVALID[name]
    space = load_space(write_space(tmp_path, f"def space(trial):\n    {line}\n"), 1)
    with pytest.raises(InputError) as error:
        explore(space, config, check, seed=0)
    assert message in str(error.value)


def test_all_problems_of_a_space_are_reported_together(config, check, tmp_path):
    text = """def space(trial):
    trial.suggest_float('training.lerning_rate', 1e-5, 1e-3)
    trial.suggest_categorical('training.metric', ['f1', 'mcc'])
"""
    with pytest.raises(InputError) as error:
        explore(load_space(write_space(tmp_path, text), 1), config, check, seed=0)
    assert len(error.value.problems) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.py:space", "the file nowhere.py does not exist"),
        ("space", "FILE:FUNCTION"),
        ("tune_spaces.phase9:space", "no module"),
        ("tune_spaces.phase1:spice", r"no function 'spice' \(did you mean space\?\)"),
    ],
)
def test_a_missing_space_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        load_space(name, 1)


def test_a_file_that_cannot_be_imported_is_named_with_its_line(tmp_path):
    name = write_space(tmp_path, "import os\nraise RuntimeError('half written')\n")
    with pytest.raises(InputError, match=r"half written .*mine\.py, line 2"):
        load_space(name, 1)


def test_a_file_may_import_modules_of_its_folder(tmp_path, config, check):
    (tmp_path / "beside_it.py").write_text("def axis(t):\n    t.suggest_float('training.weight_decay', 0.0, 1.0)\n")
    name = write_space(tmp_path, "import beside_it\ndef space(trial):\n    beside_it.axis(trial)\n")
    assert set(explore(load_space(name, 1), config, check, seed=0).distributions) == {"training.weight_decay"}


def test_differences_between_spaces_are_listed(config, check):
    def first_space(trial):
        trial.suggest_float("training.weight_decay", 0.0, 0.1)
        trial.suggest_int("training.batch_size", 4, 8)

    def second_space(trial):
        trial.suggest_float("training.weight_decay", 0.0, 0.2)
        trial.suggest_float("training.warmup_ratio", 0.0, 0.2)

    saved = explore(make_space(first_space), config, check, seed=0).to_json()
    assert explore(make_space(first_space), config, check, seed=5).differences(saved) == []
    differences = " ".join(explore(make_space(second_space), config, check, seed=0).differences(saved))
    for difference in ("training.batch_size was removed", "training.warmup_ratio is new", "training.weight_decay was"):
        assert difference in differences


def test_a_default_outside_of_the_space_has_no_parameters(config):
    for suggest_outside in (
        lambda trial: trial.suggest_int("training.batch_size", 1, 8) and None,
        lambda trial: trial.suggest_categorical("training.loss", ["focal"]) and None,
    ):
        assert default_trial(make_space(suggest_outside), config).params == {}
    default = default_trial(make_space(lambda trial: trial.suggest_int("training.batch_size", 1, 64) and None), config)
    assert default.params == {"training.batch_size": 32}


def test_constants_are_set_for_the_default_config_too(config):
    def space(trial):
        trial.suggest_int("training.batch_size", 1, 8)
        return {"training.epochs": 7}

    # although the default is outside of the space
    assert default_trial(make_space(space), config).values == {"training.epochs": 7}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (lambda trial: {1: 2}, "a dict whose keys are not all strings"),
        (lambda trial: [1], "returned a list"),
        (lambda trial: sys.exit(3), "SystemExit: 3"),
        (lambda trial: trial.suggest_int("training.epochs", 1, 3) and {"training.epochs": 2}, "as a constant"),
        (lambda trial: {"training.weight_decay": np.float32(0.1)}, "is a float32, not a plain number"),
        (lambda trial: {"data.text_columns": {"concept"}}, "is a set, not a plain"),
    ],
)  # fmt: skip
def test_functions_that_are_not_spaces_are_refused(config, check, space, message):
    with pytest.raises(InputError, match=message):
        explore(make_space(space), config, check, seed=0)


@pytest.mark.parametrize("name", ["itertools:chain", "sys:exit", ".foo:space", "nowhere.at.all:space"])
def test_names_that_are_not_spaces_are_refused(config, check, name):
    with pytest.raises(InputError):
        explore(load_space(name, 1), config, check, seed=0)


def test_a_file_that_cannot_be_run_is_named_with_its_line(tmp_path):
    with pytest.raises(InputError, match=r"mine.py, line 2: `def space\(trial\)`"):
        load_space(write_space(tmp_path, "\ndef space(trial)\n    pass\n"), 1)
    with pytest.raises(InputError, match="SystemExit"):
        load_space(write_space(tmp_path, "raise SystemExit(0)\n"), 1)


def test_values_of_a_draw_are_checked(config):
    values = {"training.metric": "accuracy"}
    (problem,) = make_space(lambda trial: values).check_values(values)
    assert "changes what a score means" in problem


def test_each_phase_that_trains_has_a_space():
    for number in PHASES:
        assert callable(importlib.import_module(f"tune_spaces.phase{number}").space)


def test_the_audio_encoder_and_its_windows_are_searched():
    draws = [
        load_space("tune_spaces.phase3:encoders", 3).draw(
            make_study("maximize", optuna.samplers.RandomSampler(seed=seed)).ask()
        )
        for seed in range(40)
    ]
    assert {draw["data.windows_per_stem"] for draw in draws} == {1, "all"}
    assert {draw["data.window_seconds"] for draw in draws} == {5.0, 10.0}  # CLAP reads no longer ones
    assert len({draw["model.audio_encoder.model_name"] for draw in draws}) == 5


def test_weak_segmentation_does_not_search_losses_of_neighbouring_segments():
    task = make_task("segmentation", base_task=make_task("multiclass"))
    with_labels, with_song_labels = (
        load_space(None, 5, task.search_space(has_song_labels=has_song_labels)).draw(
            make_study("maximize", optuna.samplers.RandomSampler(seed=0)).ask()
        )
        for has_song_labels in (False, True)
    )
    loss_keys = {"training.tmse_weight", "training.boundary_loss_weight"}
    assert loss_keys <= with_labels.keys()
    assert not loss_keys & with_song_labels.keys()


def test_the_space_suits_the_task():
    assert make_task("multilabel").search_space() == "multi_label"
    assert make_task("weak_segmentation", base_task=make_task("binary")).search_space() == "weak"
    assert {make_task(name).search_space() for name in ("binary", "multiclass", "regression")} == {"space"}


def problems_of(tmp_path, config, check, *lines: str) -> list[str]:
    text = "def space(trial):\n" + "".join(f"    {line}\n" for line in lines)
    with pytest.raises(InputError) as error:
        explore(load_space(write_space(tmp_path, text), 1), config, check, seed=0)
    return error.value.problems


DECAY = "trial.suggest_float('training.weight_decay', {})"


@pytest.mark.parametrize(
    ("first", "second", "ranges"),
    [
        (DECAY.format("0.0, 0.1"), DECAY.format("0.0, 0.5"), ("float 0 to 0.1", "float 0 to 0.5")),
        (DECAY.format("1e-4, 0.1"), DECAY.format("1e-4, 0.1, log=True"), ("0.1 at", "0.1, log at")),
        (DECAY.format("0.0, 1.0"), DECAY.format("0.0, 1.0, step=0.5"), ("1 at", "1, step 0.5 at")),
        (DECAY.format("0.0, 1.0"), "trial.suggest_int('training.weight_decay', 0, 1)", ("float 0 to 1", "int 0 to 1")),
        (
            "trial.suggest_categorical('training.loss', ['bce', 'focal'])",
            "trial.suggest_categorical('training.loss', ['focal', 'bce'])",
            ("['bce', 'focal']", "['focal', 'bce']"),
        ),
    ],
)
def test_a_key_suggested_twice_differently_is_refused_with_both_lines(config, check, tmp_path, first, second, ranges):
    (problem,) = problems_of(tmp_path, config, check, first, "pass", second)
    assert "is suggested twice" in problem
    assert "mine.py:2" in problem
    assert "mine.py:4" in problem
    for description in ranges:
        assert description in problem


def test_a_conflict_with_a_helper_module_names_both_lines(config, check, tmp_path):
    (tmp_path / "axes_beside.py").write_text(
        "def decay(t, high):\n    t.suggest_float('training.weight_decay', 0.0, high)\n"
    )
    text = (
        "import axes_beside\ndef space(trial):\n    axes_beside.decay(trial, 0.1)\n    "
        + DECAY.format("0.0, 0.2")
        + "\n"
    )
    with pytest.raises(InputError, match=r"axes_beside\.py:2, and float 0 to 0\.2 at .*mine\.py:4"):
        explore(load_space(write_space(tmp_path, text), 1), config, check, seed=0)


def test_a_key_suggested_twice_alike_has_one_value(config, check, tmp_path):
    lines = (f"first = {DECAY.format('0.0, 0.1')}", f"assert {DECAY.format('0.0, high=0.1')} == first")
    text = "def space(trial):\n" + "".join(f"    {line}\n" for line in lines)
    parameters = explore(load_space(write_space(tmp_path, text), 1), config, check, seed=0)
    assert list(parameters.distributions) == ["training.weight_decay"]


BRANCHES = "trial.suggest_categorical('training.loss', ['bce', 'focal']) == 'bce'"


def test_branches_may_differ_in_range_and_not_in_kind(config, check, tmp_path):
    text = f"def space(trial):\n    {DECAY.format('0.0, 0.1 if ' + BRANCHES + ' else 0.2')}\n"
    assert len(explore(load_space(write_space(tmp_path, text), 1), config, check, seed=0).distributions) == 2
    for second_call in ("trial.suggest_int('training.weight_decay', 0, 1)",
                  "trial.suggest_categorical('training.weight_decay', [0.1])"):  # fmt: skip
        lines = (f"if {BRANCHES}:", f"    {DECAY.format('0.0, 0.1')}", "else:", f"    {second_call}")
        (problem,) = problems_of(tmp_path, config, check, *lines)
        assert "from two distributions that one search cannot combine" in problem
        assert "mine.py:3" in problem
        assert "mine.py:5" in problem


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("trial.suggest_float('training.weight_decay', 1.0, 0.0)", "low <= high"),
        ("trial.suggest_float('training.weight_decay', 0.0, 1.0, log=True)", "low > 0"),
        ("trial.suggest_float('training.weight_decay', -1.0, 1.0, log=True)", "low > 0"),
        ("trial.suggest_float('training.weight_decay', 0.1, 1.0, log=True, step=0.1)", "step"),
        ("trial.suggest_float('training.weight_decay', 0.0, float('inf'))", "high=inf is not finite"),
        ("trial.suggest_float('training.weight_decay', float('nan'), 1.0)", "low=nan is not finite"),
        ("trial.suggest_float('training.weight_decay', '0', '1')", "low='0' is not a number"),
        ("trial.suggest_float('training.weight_decay', False, 1.0)", "low=False is not a number"),
        ("trial.suggest_float('training.weight_decay', 0.0)", "missing 1 required positional argument: 'high'"),
        ("trial.suggest_float('training.weight_decay', 0.0, 1.0, lag=True)", "unexpected keyword argument 'lag'"),
        ("trial.suggest_int('training.batch_size', 1.5, 8)", "low=1.5 is not an integer"),
        ("trial.suggest_int('training.batch_size', 0, 8, log=True)", "low >= 1"),
        ("trial.suggest_int('training.batch_size', 1, 8, step=0)", "step > 0"),
        ("trial.suggest_categorical('training.loss', [])", "one or more elements"),
        ("trial.suggest_categorical('training.loss', 'bce')", "choices must be a list, not a str"),
        ("trial.suggest_categorical('training.loss', {'bce', 'focal'})", "choices must be a list, not a set"),
        ("trial.suggest_int(3, 1, 8)", "3 is not a key"),
        ("trial.suggest_flaot('training.weight_decay', 0.0, 1.0)", "suggest_flaot"),
    ],
)
def test_an_invalid_range_is_refused_with_its_line(config, check, tmp_path, call, reason):
    (problem,) = problems_of(tmp_path, config, check, call)
    assert reason in problem
    assert "mine.py, line 2: `trial.suggest_" in problem


def test_all_invalid_ranges_are_reported_together(config, check, tmp_path):
    problems = problems_of(
        tmp_path, config, check, DECAY.format("1.0, 0.0"), "trial.suggest_int('training.batch_size', 8, 1)",
        "trial.suggest_float('training.lerning_rate', 0.0, 1.0)", DECAY.format("0.0, 0.0"),
    )  # fmt: skip
    assert [next(word for word in ("weight_decay", "batch_size", "lerning_rate") if word in p) for p in problems] == [
        "weight_decay", "batch_size", "lerning_rate"
    ]  # fmt: skip
