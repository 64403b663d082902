"""Scikit-learn's models for each type of target, with their conversion of targets and scores."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from rainbow_ray.metrics import classification, multiclass
from rainbow_ray.tasks.base import Task

N_TREES = 100  # of depth 1
MAX_ITERATIONS = 2000  # of a logistic regression

Scores = np.ndarray


@dataclass(frozen=True)
class ModelFamily:
    """Models for one type of target. Targets are those of the task; scores are `(examples, …)`.

    Attributes:
        trivial: Name of the baseline that predicts from the labels alone.
        linear: Returns an unfitted linear model of an inverse L2 strength.
        boosting: Returns an unfitted boosting model of a seed.
        labels: Converts targets to the labels that the models are fitted on.
        predict: Returns scores of a fitted model for inputs.
        constant: Returns scores of the trivial baseline from training targets, for a number of examples.
        cost: Returns the loss of scores, with targets first.
        strata: Returns strata of targets, `(examples,)`.
    """

    trivial: str
    linear: Callable[[float], Any]
    boosting: Callable[[int], Any]
    labels: Callable[[np.ndarray], np.ndarray]
    predict: Callable[[Any, Any], Scores]
    constant: Callable[[np.ndarray, int], Scores]
    cost: Callable[[np.ndarray, Scores], float]
    strata: Callable[[np.ndarray], np.ndarray]

    def fit_predict(self, model: Any, inputs: Any, targets: np.ndarray, train: np.ndarray, val: np.ndarray) -> Scores:
        """Fit a model on a training set and score a validation set.

        Args:
            model: An unfitted model.
            inputs: Inputs of all examples, `(examples, …)`.
            targets: Targets of all examples, `(examples, …)`.
            train: Indices of the training set.
            val: Indices of the validation set.

        Returns:
            Scores of the validation set; those of the trivial baseline if all training targets are equal.
        """
        if (targets[train] == targets[train][:1]).all():
            return self.constant(targets[train], len(val))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Label (not )?[0-9]+ is present in all training examples")
            model.fit(inputs[train], self.labels(targets[train]))
        return self.predict(model, inputs[val])


def model_family(task: Task) -> ModelFamily:
    """Return the models for a task's type of target.

    Args:
        task: Task of a single example.

    Returns:
        The models.
    """
    return _FAMILIES[task.target_type](task)


def _logistic(strength: float) -> Any:
    return LogisticRegression(C=strength, class_weight="balanced", max_iter=MAX_ITERATIONS)


def _boosted(seed: int) -> Any:
    return GradientBoostingClassifier(n_estimators=N_TREES, max_depth=1, random_state=seed)


def _as_float64(inputs: Any) -> Any:
    return inputs.astype(np.float64)


def _binary_cost(targets: np.ndarray, scores: Scores) -> float:
    return classification.log_loss(targets > 0.5, scores.astype(np.float64))


def _multiclass_cost(targets: np.ndarray, scores: Scores) -> float:
    return multiclass.log_loss(targets.astype(np.int64), scores.astype(np.float64))


def _multilabel_cost(targets: np.ndarray, scores: Scores) -> float:
    return classification.log_loss((targets > 0.5).ravel(), scores.astype(np.float64).ravel())


def _binary(task: Task) -> ModelFamily:
    return ModelFamily(
        "majority", _logistic, _boosted,
        labels=lambda targets: targets > 0.5,
        predict=lambda model, inputs: np.asarray(model.predict_proba(inputs)[:, 1]),
        constant=lambda targets, n: np.full(n, targets.mean()),
        cost=_binary_cost, strata=task.strata,
    )  # fmt: skip


def _multiclass(task: Task) -> ModelFamily:
    n_classes = len(task.score_names)

    def predict(model: Any, inputs: Any) -> Scores:
        scores = np.zeros((len(inputs), n_classes))
        scores[:, model.classes_] = model.predict_proba(inputs)  # of the classes in the training set
        return scores

    def constant(targets: np.ndarray, n: int) -> Scores:
        return np.tile(task.one_hot(targets).mean(axis=0), (n, 1))

    return ModelFamily(
        "majority", _logistic, _boosted,
        labels=lambda targets: targets.astype(np.int64), predict=predict, constant=constant,
        cost=_multiclass_cost, strata=task.strata,
    )  # fmt: skip


def _multilabel(task: Task) -> ModelFamily:
    n_classes = len(task.score_names)

    def predict(model: Any, inputs: Any) -> Scores:
        # for a single class, scikit-learn adds a column of its absence
        return np.asarray(model.predict_proba(inputs))[:, -n_classes:]

    return ModelFamily(
        "majority",
        linear=lambda strength: OneVsRestClassifier(_logistic(strength)),
        boosting=lambda seed: OneVsRestClassifier(_boosted(seed)),
        labels=lambda targets: targets.astype(np.int64), predict=predict,
        constant=lambda targets, n: np.tile(targets.mean(axis=0), (n, 1)),
        cost=_multilabel_cost, strata=task.strata,
    )  # fmt: skip


def _regression(task: Task) -> ModelFamily:  # noqa: ARG001
    return ModelFamily(
        "mean",
        # Ridge converts targets to the dtype of its inputs
        linear=lambda strength: make_pipeline(FunctionTransformer(_as_float64, accept_sparse=True),
                                              Ridge(alpha=1 / strength)),
        boosting=lambda seed: GradientBoostingRegressor(n_estimators=N_TREES, max_depth=1, random_state=seed),
        labels=lambda targets: targets, predict=lambda model, inputs: np.asarray(model.predict(inputs)),
        constant=lambda targets, n: np.full(n, targets.mean()),
        cost=lambda targets, scores: float(np.mean((targets - scores) ** 2)),
        strata=lambda targets: np.zeros(len(targets), dtype=np.int64),
    )  # fmt: skip


_FAMILIES: Mapping[str, Callable[[Task], ModelFamily]] = {
    "binary": _binary,
    "multiclass": _multiclass,
    "multilabel": _multilabel,
    "regression": _regression,
}
