"""Unknown names: the message has the key, the value, a suggestion and all choices."""

from __future__ import annotations

import pytest

from rainbow_ray.config.keys import choices, known_keys
from rainbow_ray.config.load import override, resolve
from rainbow_ray.config.schema import Config
from rainbow_ray.utils.errors import InputError

CHOICE_KEYS = [key for key in known_keys() if choices(key)]


def test_keys_with_choices_are_typed():
    assert {"training.loss", "model.text_encoder.pooling", "segments.decoding", "calibration.method"} <= {*CHOICE_KEYS}
    assert len(CHOICE_KEYS) == 21


@pytest.mark.parametrize("key", CHOICE_KEYS)
def test_an_unknown_name_is_explained(key):
    accepted = choices(key)
    unknown = f"{accepted[-1]}x"
    resolved = resolve(None, {}, [(key, unknown)])
    assert resolved.config == Config(), "the default replaces it until the problem is raised"
    (problem,) = resolved.problems
    assert problem.startswith(f"command line: {key}: {unknown!r} is unknown (did you mean {accepted[-1]}")
    assert problem.endswith(f"; one of: {', '.join(accepted)}")


def test_unknown_names_and_wrong_types_are_reported_together():
    with pytest.raises(InputError) as error:
        resolve(None, {}, [("training.epochs", "many"), ("training.schedule", "liner"), ("training.epoch", 3)])
    assert len(error.value.problems) == 3
    with pytest.raises(InputError, match=r"trial 3: training\.schedule: 'liner' is unknown \(did you mean linear"):
        override(Config(), {"training.schedule": "liner"}, "trial 3")


def test_a_value_of_several_types_is_explained_once():
    with pytest.raises(InputError) as error:
        resolve(None, {}, [("training.mixed_precision", "fp8"), ("training.class_weights", {"a": -1.0})])
    weights, precision = sorted(error.value.problems)
    assert "'auto', 'bf16', 'fp16' or 'off'" in precision
    assert "greater than 0" in weights
