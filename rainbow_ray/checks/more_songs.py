"""Check: what more songs would bring, by the learning curve of a linear model of words."""

from __future__ import annotations

import numpy as np

from rainbow_ray.baselines.common import baseline_inputs
from rainbow_ray.baselines.learning_curve import learning_curve_scores
from rainbow_ray.baselines.segments import segment_labels
from rainbow_ray.baselines.songs import first_of_each_song
from rainbow_ray.checks.result import CheckResult
from rainbow_ray.evaluation.learning_curve import fit_learning_curve
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepared import PreparedData

MODELS = "a linear model of words"


def check_more_songs(plan: RunPlan, data: PreparedData) -> list[CheckResult]:
    """Extrapolate the learning curve of a linear model of words, which takes no encoder.

    Args:
        plan: The plan of the run.
        data: Its data.

    Returns:
        One result; none for segments without labels of their own, without texts, and for too few or too many songs.
    """
    task, seed, rows = data.task, plan.config.reproducibility.seed, np.arange(len(data.source))
    if (task.is_sequence_task and task.is_weakly_labeled) or not plan.input_spec.text or not data.source.in_memory:
        return []
    has_label = None
    if task.is_sequence_task:
        examples, has_label = segment_labels(data.examples), task.has_label(data.examples.targets)
    else:
        rows = first_of_each_song(data.source, rows)
        examples = data.examples.take(rows)
    inputs = baseline_inputs(task.base_task, examples, None, seed=seed)
    scores = learning_curve_scores(inputs, data.split.take(rows), rows, layer=0, has_label=has_label)
    if scores is None:
        return []
    curve = fit_learning_curve(
        task, plan.config.training.headline, data.source.targets[rows], scores, seed=seed, models=MODELS
    )
    return [] if curve is None else [CheckResult("ok", "more songs", curve.sentence)]
