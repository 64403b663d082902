"""Scikit-learn's models for each type of target, with their conversion of targets and scores."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from rainbow_ray.metrics import classification, multiclass
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.target_types import TARGET_FORMATS, Link

N_TREES = 100  # of depth 1
MAX_ITERATIONS = 2000  # of a logistic regression
CERTAIN_LOGIT = 30.0  # of a class that all training examples have; of one that none has, its negative

Scores = np.ndarray


@dataclass(frozen=True)
class ModelFamily:
    """Models for one type of target. Targets are those of the task; scores are `(examples, …)`.

    Attributes:
        trivial: Name of the baseline that predicts from the labels alone.
        linear: Returns an unfitted linear model of an inverse L2 strength.
        boosting: Returns an unfitted boosting model of a seed, and of the fraction of features that each tree reads.
        labels: Converts targets to the labels that the models are fitted on.
        predict: Returns scores of a fitted model for inputs.
        constant: Returns scores of the trivial baseline from training targets, for a number of examples.
        cost: Returns the loss of scores, with targets first.
        strata: Returns strata of targets, `(examples,)`.
        link: Link function of the models.
        indicators: Converts targets to indicators of classes or to numbers, `(examples, outputs)`.
        to_columns: Returns linear predictors of all outputs, from those of a model, its classes and its labels.
    """

    trivial: str
    linear: Callable[[float], Any]
    boosting: Callable[[int, float], Any]
    labels: Callable[[np.ndarray], np.ndarray]
    predict: Callable[[Any, Any], Scores]
    constant: Callable[[np.ndarray, int], Scores]
    cost: Callable[[np.ndarray, Scores], float]
    strata: Callable[[np.ndarray], np.ndarray]
    link: Link
    indicators: Callable[[np.ndarray], np.ndarray]
    to_columns: Callable[[np.ndarray, Any, np.ndarray], np.ndarray]

    def fit_affine(self, model: Any, inputs: Any, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fit a model whose linear predictor is an affine function of its inputs.

        Boosted stumps are one as well, where each input is 0 or 1.

        Args:
            model: An unfitted model.
            inputs: Inputs of the training set, `(examples, features)`, an array or a sparse matrix.
            targets: Targets of the training set, `(examples, …)`.

        Returns:
            Coefficients, `(features, outputs)`, and intercepts, `(outputs,)`, float64.
        """
        n_features = inputs.shape[1]
        if (targets == targets[:1]).all():
            bias = self.constant_predictor(targets)
            return np.zeros((n_features, len(bias))), bias
        labels = self.labels(targets)
        # numbers are centered, so that those with a large mean and a small spread lose no digits in differences
        offset = float(np.mean(labels)) if self.link == "identity" else 0.0
        with _without_constant_warnings():
            model.fit(inputs, labels - offset if offset else labels)
        predictor = getattr(model, "decision_function", model.predict)
        convert = scipy.sparse.csr_matrix if scipy.sparse.issparse(inputs) else np.asarray
        at_zero = self.to_columns(predictor(convert(np.zeros((1, n_features)))), model, labels)
        units = scipy.sparse.identity(n_features, format="csr") if scipy.sparse.issparse(inputs) else np.eye(n_features)
        return self.to_columns(predictor(units), model, labels) - at_zero, at_zero[0] + offset

    def constant_predictor(self, targets: np.ndarray) -> np.ndarray:
        """Return the linear predictor of the trivial baseline.

        Args:
            targets: Targets of the training set, `(examples, …)`.

        Returns:
            Intercepts, float64, `(outputs,)`.
        """
        means = self.indicators(targets).astype(np.float64).mean(axis=0)
        if self.link == "identity":
            return np.asarray(means)
        least = np.exp(-CERTAIN_LOGIT)
        logits = np.log(np.maximum(means, least))
        return np.asarray(logits if self.link == "softmax" else logits - np.log(np.maximum(1 - means, least)))

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
        with _without_constant_warnings():
            model.fit(inputs[train], self.labels(targets[train]))
        return self.predict(model, inputs[val])


@contextlib.contextmanager
def _without_constant_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Label (not )?[0-9]+ is present in all training examples")
        yield


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


def _boosted(seed: int, fraction: float) -> Any:
    return GradientBoostingClassifier(n_estimators=N_TREES, max_depth=1, max_features=fraction, random_state=seed)


def _as_float64(inputs: Any) -> Any:
    return inputs.astype(np.float64)


def _binary_cost(targets: np.ndarray, scores: Scores) -> float:
    return classification.log_loss(targets > 0.5, scores.astype(np.float64))


def _multiclass_cost(targets: np.ndarray, scores: Scores) -> float:
    return multiclass.log_loss(targets.astype(np.int64), scores.astype(np.float64))


def _multilabel_cost(targets: np.ndarray, scores: Scores) -> float:
    return classification.log_loss((targets > 0.5).ravel(), scores.astype(np.float64).ravel())


def _one_column(predictors: np.ndarray, model: Any, labels: np.ndarray) -> np.ndarray:  # noqa: ARG001
    return predictors.reshape(-1, 1)


def _binary(task: Task) -> ModelFamily:
    return ModelFamily(
        "majority", _logistic, _boosted,
        labels=lambda targets: targets > 0.5,
        predict=lambda model, inputs: np.asarray(model.predict_proba(inputs)[:, 1]),
        constant=lambda targets, n: np.full(n, targets.mean()),
        cost=_binary_cost, strata=task.strata,
        link=TARGET_FORMATS["binary"].link, indicators=lambda targets: targets[:, None] > 0.5,
        to_columns=_one_column,
    )  # fmt: skip


def _multiclass(task: Task) -> ModelFamily:
    n_classes = len(task.score_names)

    def predict(model: Any, inputs: Any) -> Scores:
        scores = np.zeros((len(inputs), n_classes))
        scores[:, model.classes_] = model.predict_proba(inputs)  # of the classes in the training set
        return scores

    def constant(targets: np.ndarray, n: int) -> Scores:
        return np.tile(task.one_hot(targets).mean(axis=0), (n, 1))

    def to_columns(predictors: np.ndarray, model: Any, labels: np.ndarray) -> np.ndarray:  # noqa: ARG001
        # of two classes, there is one predictor: that of the second
        columns = predictors if predictors.ndim == 2 else np.stack([np.zeros(len(predictors)), predictors], axis=1)
        all_columns = np.full((len(columns), n_classes), -CERTAIN_LOGIT)
        all_columns[:, model.classes_] = columns
        return all_columns

    return ModelFamily(
        "majority", _logistic, _boosted,
        labels=lambda targets: targets.astype(np.int64), predict=predict, constant=constant,
        cost=_multiclass_cost, strata=task.strata,
        link=TARGET_FORMATS["multiclass"].link, indicators=task.one_hot, to_columns=to_columns,
    )  # fmt: skip


def _multilabel(task: Task) -> ModelFamily:
    n_classes = len(task.score_names)

    def predict(model: Any, inputs: Any) -> Scores:
        # for a single class, scikit-learn adds a column of its absence
        return np.asarray(model.predict_proba(inputs))[:, -n_classes:]

    def to_columns(predictors: np.ndarray, model: Any, labels: np.ndarray) -> np.ndarray:  # noqa: ARG001
        columns = predictors.reshape(-1, n_classes).astype(np.float64)
        frequencies = labels.mean(axis=0)
        columns[:, frequencies == 0] = -CERTAIN_LOGIT
        columns[:, frequencies == 1] = CERTAIN_LOGIT
        return columns

    return ModelFamily(
        "majority",
        linear=lambda strength: OneVsRestClassifier(_logistic(strength)),
        boosting=lambda seed, fraction: OneVsRestClassifier(_boosted(seed, fraction)),
        labels=lambda targets: targets.astype(np.int64), predict=predict,
        constant=lambda targets, n: np.tile(targets.mean(axis=0), (n, 1)),
        cost=_multilabel_cost, strata=task.strata,
        link=TARGET_FORMATS["multilabel"].link, indicators=lambda targets: targets > 0.5, to_columns=to_columns,
    )  # fmt: skip


def _regression(task: Task) -> ModelFamily:  # noqa: ARG001
    return ModelFamily(
        "mean",
        # Ridge converts targets to the dtype of its inputs
        linear=lambda strength: make_pipeline(FunctionTransformer(_as_float64, accept_sparse=True),
                                              Ridge(alpha=1 / strength)),
        boosting=lambda seed, fraction: GradientBoostingRegressor(
            n_estimators=N_TREES, max_depth=1, max_features=fraction, random_state=seed
        ),
        labels=lambda targets: targets, predict=lambda model, inputs: np.asarray(model.predict(inputs)),
        constant=lambda targets, n: np.full(n, targets.mean()),
        cost=lambda targets, scores: float(np.mean((targets - scores) ** 2)),
        strata=lambda targets: np.zeros(len(targets), dtype=np.int64),
        link=TARGET_FORMATS["regression"].link, indicators=lambda targets: targets[:, None],
        to_columns=_one_column,
    )  # fmt: skip


_FAMILIES: Mapping[str, Callable[[Task], ModelFamily]] = {
    "binary": _binary,
    "multiclass": _multiclass,
    "multilabel": _multilabel,
    "regression": _regression,
}
