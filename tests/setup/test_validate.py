"""Checks before rows are read: names from registries, all problems together, and no change of the given config."""

from __future__ import annotations

import pytest

from rainbow_ray.config.load import dump, resolve
from rainbow_ray.config.schema import Config
from rainbow_ray.modalities.spec import get_modality, modality_names
from rainbow_ray.runs.sweep_plan import plan_sweep
from rainbow_ray.setup.plan import make_plan, resolve_defaults, target_of_task
from rainbow_ray.setup.validate import check_phase, check_target_type, target_types, task_name_of
from rainbow_ray.tasks.binary import Binary
from rainbow_ray.tasks.registry import make_task, register_task, unregister_task
from rainbow_ray.utils.errors import InputError


@pytest.fixture
def toy_task():
    register_task("toy", Binary)
    yield "toy"
    unregister_task("toy")


def with_target_type(name: str, phase: int = 3) -> Config:
    return Config().with_values({"phase": phase, "data.target_type": name})


def test_target_types_are_the_registered_tasks_of_single_examples():
    assert target_types() == ("binary", "multiclass", "regression")


def test_a_task_that_is_registered_at_run_time_can_be_selected(toy_task):
    config = with_target_type(toy_task)
    assert check_target_type(config) == []
    assert check_phase(config) == []
    assert task_name_of(config) == toy_task


@pytest.mark.parametrize("name", ["binry", "segmentation", "multilabel"])
def test_an_unknown_target_type_is_refused_with_the_names_that_exist(name):
    (problem,) = check_target_type(with_target_type(name))
    assert problem.startswith(f"data.target_type: {name!r} is unknown")
    assert problem.endswith("one of: binary, multiclass, regression")
    with pytest.raises(InputError, match=r"data\.target_type"):
        make_plan(resolve(None, {}, [("phase", 3), ("data.target_type", name)]))


def test_a_target_type_that_the_phase_does_not_leave_open_is_refused():
    (problem,) = check_phase(with_target_type("regression", phase=1))
    assert problem == "data.target_type: 'regression', but phase 1 is binary"


def test_unknown_modalities_are_refused_with_the_names_that_exist():
    (problem,) = check_phase(Config().with_values({"modalities": ["text", "vidoe"]}))
    assert problem.endswith(f"one of: {', '.join(modality_names())}")
    assert all(get_modality(name).name == name for name in modality_names())


def test_the_target_is_that_of_the_phase_or_of_the_phase_of_the_task():
    assert target_of_task(3, make_task("multiclass")) == "rebracketing_type"
    assert target_of_task(3, make_task("multilabel")) == "rebracketing_type"
    assert target_of_task(3, make_task("regression")) == "rebracketing_intensity"


def test_neither_defaults_nor_a_plan_change_the_config_that_they_are_given(songs_file):
    config = Config()
    assert resolve_defaults(config, make_task("binary")).training.loss == "bce"
    assert config == Config()
    resolved = resolve(
        None, {}, [("data.manifest_path", str(songs_file)), ("model.text_encoder.model_name", "embedded")]
    )
    copy = resolved.model_copy(deep=True)
    plan = make_plan(resolved)
    assert resolved == copy
    assert plan.config.training.metric == "macro_f1"


def test_wrong_names_are_raised_with_the_problems_of_the_plan():
    with pytest.raises(InputError) as error:
        make_plan(resolve(None, {}, [("data.manifest_path", "none.parquet"), ("training.schedule", "liner")]))
    messages = "\n".join(error.value.problems)
    assert "did you mean linear" in messages
    assert "none.parquet" in messages


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([], None),
        ([("training.batch_size", 16)], 0),
        ([("training.batch_size", 32)], 0),  # the default, set by the user
        ([("training.batch_size", 16), ("training.step_tokens", 500)], 500),
    ],
)
def test_steps_do_not_grow_beyond_a_batch_size_that_the_user_set(songs_file, keys, expected):
    common = [("data.manifest_path", str(songs_file)), ("model.text_encoder.model_name", "embedded")]
    plan = make_plan(resolve(None, {}, [*common, *keys]))
    assert plan.config.training.step_tokens == expected


@pytest.mark.parametrize("keys", [[], [("training.batch_size", 16)], [("training.gradient_accumulation_steps", 2)]])
def test_a_saved_config_gives_the_same_config_again(songs_file, tmp_path, keys):
    """It names every key, the batch size too, though the user may have set none of them."""
    common = [("data.manifest_path", str(songs_file)), ("model.text_encoder.model_name", "embedded")]
    first = make_plan(resolve(None, {}, [*common, *keys])).config
    assert first.training.step_tokens == (0 if keys else None)
    file = tmp_path / "config.yaml"
    file.write_text(dump(first), encoding="utf-8")
    assert make_plan(resolve(file, {}, [])).config == first


SPACE = """
def space(trial):
    trial.suggest_categorical("model.text_encoder.freeze_layers", ["all", 3])
    trial.suggest_categorical("training.batch_size", [8, 24, 16])
    {}
"""


@pytest.mark.parametrize(
    ("line", "is_known"),
    [("pass", True), ("trial.suggest_int('model.text_encoder.max_length', 64, 128)", False)],
)
def test_the_largest_trial_of_a_space_is_told_where_its_memory_is_known(songs_file, tmp_path, line, is_known):
    space = tmp_path / "sized_space.py"
    space.write_text(SPACE.format(line))
    keys = [("data.manifest_path", str(songs_file)), ("model.text_encoder.model_name", "embedded")]
    largest = plan_sweep(resolve(None, {}, [*keys, ("tune.space", f"{space}:space")])).largest_config
    assert (largest is not None) == is_known
    if largest is not None:
        assert largest.model.text_encoder.freeze_layers == 0
        assert largest.training.batch_size == 24


@pytest.mark.parametrize(("suggested", "expected"), [("training.batch_size", 0), ("training.warmup_ratio", None)])
def test_steps_do_not_grow_beyond_a_batch_size_of_a_trial(songs_file, tmp_path, suggested, expected):
    space = tmp_path / "a_space.py"
    space.write_text(f"def space(trial):\n    trial.suggest_categorical({suggested!r}, [1, 0.5][:1])\n")
    keys = [("data.manifest_path", str(songs_file)), ("model.text_encoder.model_name", "embedded")]
    plan = plan_sweep(resolve(None, {}, [*keys, ("tune.space", f"{space}:space")]))
    assert plan.config.training.step_tokens == expected


@pytest.mark.parametrize("frozen", ["all", 3])
def test_step_tokens_without_trained_layers_are_said_to_have_no_effect(songs_file, frozen):
    keys = [
        ("data.manifest_path", str(songs_file)), ("model.text_encoder.model_name", "embedded"),
        ("model.text_encoder.freeze_layers", frozen), ("training.step_tokens", 500),
    ]  # fmt: skip
    warnings = make_plan(resolve(None, {}, keys)).warnings
    assert any("training.step_tokens has no effect" in warning for warning in warnings) == (frozen == "all")
