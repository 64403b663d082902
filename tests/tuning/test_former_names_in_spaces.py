"""Search spaces of earlier versions: former names of keys and values, also contradicted by present ones."""

from __future__ import annotations

import pytest

from rainbow_ray.config.schema import Config
from rainbow_ray.tuning.search_space import default_trial, explore
from rainbow_ray.utils.errors import InputError
from tests.tuning.spaces import make_space


def test_former_names_of_keys_are_searched_under_their_present_names(config, check):
    def space(trial):
        trial.suggest_categorical("model.lexical.enabled", [True, False])
        trial.suggest_categorical("model.lexical.width", [64, 256])
        return {"model.classifier.standardise": False}

    parameters = explore(make_space(space), config, check, seed=0)
    assert set(parameters.distributions) == {"model.bag_of_words.enabled", "model.bag_of_words.hidden_size"}
    assert set(parameters.constants) == {"model.classifier.standardize"}
    assert parameters.notes == (
        "space test:space: model.classifier.standardise is deprecated: the key is now model.classifier.standardize",
        "space test:space: model.lexical.enabled is deprecated: the key is now model.bag_of_words.enabled",
        "space test:space: model.lexical.width is deprecated: the key is now model.bag_of_words.hidden_size",
    )
    default = default_trial(make_space(space), config)
    assert default.params == {"model.bag_of_words.enabled": True, "model.bag_of_words.hidden_size": 256}


def test_a_saved_space_of_an_earlier_version_is_compared_under_present_names(config, check):
    def space(trial):
        trial.suggest_int("model.bag_of_words.hidden_size", 8, 64)
        return {"model.classifier.standardize": False}

    parameters = explore(make_space(space), config, check, seed=0)
    (distribution,) = parameters.distributions["model.bag_of_words.hidden_size"]
    saved = {
        "distributions": {"model.lexical.width": [distribution]},
        "constants": {"model.classifier.standardise": ["false"]},
    }
    assert parameters.differences(saved) == []


def test_a_space_with_a_key_under_both_names_is_refused(config, check):
    def space(trial):
        trial.suggest_int("model.lexical.width", 8, 64)
        trial.suggest_int("model.bag_of_words.hidden_size", 8, 65)

    with pytest.raises(InputError, match=r"model\.bag_of_words\.hidden_size is suggested twice"):
        explore(make_space(space), config, check, seed=0)


def test_a_space_reads_its_parameters_by_the_names_that_it_uses(config, check):
    def space(trial):
        enabled = trial.suggest_categorical("model.lexical.enabled", [True, False])
        assert "model.lexical.enabled" in trial.params
        assert "model.lexical.width" not in trial.params
        assert trial.params.get("model.lexical.width") is None
        for name in ("model.lexical.enabled", "model.bag_of_words.enabled"):
            assert trial.params[name] == trial.params.get(name) == enabled
            assert trial.distributions[name].choices == (True, False)
        assert list(trial.params) == ["model.bag_of_words.enabled"]
        with pytest.raises(KeyError, match=r"model\.lexical\.width"):
            trial.params["model.lexical.width"]

    assert set(explore(make_space(space), config, check, seed=0).distributions) == {"model.bag_of_words.enabled"}
    assert default_trial(make_space(space), config).params == {"model.bag_of_words.enabled": True}


TRANSFORM = "training.target_transform"


def test_former_values_are_searched_under_their_present_names():
    config, returned = Config(), set()

    def space(trial):
        returned.add(trial.suggest_categorical(TRANSFORM, ["none", "standardise"]))
        returned.add(trial.params[TRANSFORM])

    parameters = explore(make_space(space), config, lambda _: [], seed=0)
    assert returned == {"none", "standardise"}, "the space compares them with its own choices"
    assert "standardize" in parameters.distributions[TRANSFORM][0]
    assert parameters.notes == (
        f"space test:space: {TRANSFORM}: 'standardise' is deprecated: the value is now 'standardize'",
    )
    assert default_trial(make_space(space), config).params == {TRANSFORM: "standardize"}
    saved = {"distributions": {TRANSFORM: [parameters.distributions[TRANSFORM][0].replace("dize", "dise")]}}
    assert parameters.differences(saved) == []


def test_former_values_of_constants_get_present_names(config):
    def space(trial):
        trial.suggest_int("training.batch_size", 4, 8)
        return {TRANSFORM: "standardise"}

    parameters = explore(make_space(space), config, lambda _: [], seed=0)
    assert parameters.constants == {TRANSFORM: ['"standardize"']}
    assert parameters.notes == (
        f"space test:space: {TRANSFORM}: 'standardise' is deprecated: the value is now 'standardize'",
    )
    assert parameters.differences({**parameters.to_json(), "constants": {TRANSFORM: ['"standardise"']}}) == []


WEIGHT, FORMER_WEIGHT = "training.tmse_weight", "training.smoothing"


@pytest.mark.parametrize(
    ("suggested", "constants", "message"),
    [
        ((), {WEIGHT: 0.1, FORMER_WEIGHT: 0.2}, f"{WEIGHT} and {FORMER_WEIGHT} are the same key; return only {WEIGHT}"),
        ((), {FORMER_WEIGHT: 0.1, WEIGHT: 0.1}, f"{FORMER_WEIGHT} and {WEIGHT} are the same key; return only {WEIGHT}"),
        ((WEIGHT, FORMER_WEIGHT), None, f"suggested twice: as {WEIGHT} at "),
        ((WEIGHT, FORMER_WEIGHT), None, f"and as {FORMER_WEIGHT} at "),
        ((WEIGHT,), {WEIGHT: 0.1}, f"{WEIGHT} is both suggested and returned as a constant"),
        (
            (FORMER_WEIGHT,),
            {WEIGHT: 0.1},
            f"{WEIGHT} is both suggested, as {FORMER_WEIGHT}, and returned as a constant, as {WEIGHT}",
        ),
    ],
)
def test_contradictions_between_former_and_present_names_are_refused(config, check, suggested, constants, message):
    def space(trial):
        for name in suggested:
            trial.suggest_float(name, 0.0, 0.5)
        return constants

    with pytest.raises(InputError) as error:
        explore(make_space(space), config, check, seed=0)
    (problem,) = error.value.problems
    assert message in problem


def test_a_choice_under_both_names_is_refused(config, check):
    def space(trial):
        trial.suggest_categorical(TRANSFORM, ["none", "standardise", "standardize"])

    with pytest.raises(InputError, match="'standardise' and 'standardize' are the same choice"):
        explore(make_space(space), config, check, seed=0)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model.lexical.widht", r"model\.lexical\.widht: unknown key \(did you mean model\.bag_of_words\.hidden_size"),
        ("model.lexical", r"unknown key \(it is a section; set one of its keys, such as model\.bag_of_words\.enabled"),
    ],
)
def test_unknown_keys_get_present_names(config, check, key, message):
    with pytest.raises(InputError, match=message):
        explore(make_space(lambda trial: trial.suggest_int(key, 1, 2) and None), config, check, seed=0)
