"""Check: what more songs would bring, by the learning curve of a linear model of words."""

from __future__ import annotations

import numpy as np

from rainbow_ray.baselines.learning_curve import learning_curve_scores
from rainbow_ray.baselines.model_family import model_family
from rainbow_ray.baselines.models import BaselineInputs
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
        One result; none for segments, without texts, and for too few or too many songs.
    """
    if data.task.is_sequence_task or not plan.input_spec.text or not data.source.in_memory:
        return []
    seed = plan.config.reproducibility.seed
    rows = first_of_each_song(data.source, np.arange(len(data.source)))
    examples = data.examples.take(rows)
    inputs = BaselineInputs(
        model_family(data.task), examples.targets, examples.texts, examples.codes("song"), seed=seed
    )  # fmt: skip
    scores = learning_curve_scores(inputs, data.split.take(rows), rows, layer=0)
    if scores is None:
        return []
    curve = fit_learning_curve(
        data.task, plan.config.training.headline, examples.targets, scores, seed=seed, models=MODELS
    )
    return [] if curve is None else [CheckResult("ok", "more songs", curve.sentence)]
