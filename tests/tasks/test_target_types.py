"""What ONNX models know of a type of target is what its task does."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from rainbow_ray.tasks.registry import make_task
from rainbow_ray.tasks.target_types import TARGET_FORMATS, TargetType

CLASSES = ("a", "b", "c")


def test_each_type_has_a_format():
    assert set(TARGET_FORMATS) == set(get_args(TargetType))


@pytest.mark.parametrize("target_type", TARGET_FORMATS)
def test_scores_are_decoded_as_the_task_decodes_them(target_type):
    target_format = TARGET_FORMATS[target_type]
    task = make_task(target_type, **({} if target_format.has_one_score else {"classes": CLASSES}))
    assert task.target_type == target_type
    assert (task.score_names == ("score",)) == target_format.has_one_score
    assert task.score_dtype == target_format.score_dtype
    scores = np.random.default_rng(0).random((20, len(task.score_names))).astype(task.score_dtype)
    plain = scores[:, 0] if target_format.has_one_score else scores
    decoded = target_format.decode(scores, CLASSES, lambda values: values)
    assert list(map(str, decoded)) == list(map(str, map(_as_tuple, task.decode_predictions(plain))))


def _as_tuple(label):
    return tuple(label) if isinstance(label, list) else label
