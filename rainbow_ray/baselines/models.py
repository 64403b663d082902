"""Which of scikit-learn's models a problem's baselines are made of, and how these say their scores."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rainbow_ray.tasks.base import Task

STUMPS = 100
SLOW = 2000  # iterations that a logistic regression may take


@dataclass(frozen=True)
class Family:
    """`linear` takes the inverse strength of L2, `boosting` a seed; `guess(model, inputs)` gives scores `(rows, …)`.

    `trivial` names what knows nothing but the labels; `cost` is smaller for better scores, whose targets come first.
    """

    trivial: str
    linear: Callable[[float], Any]
    boosting: Callable[[int], Any]
    labels: Callable[[np.ndarray], np.ndarray]
    guess: Callable[[Any, Any], np.ndarray]
    constant: Callable[[np.ndarray, int], np.ndarray]
    cost: Callable[[np.ndarray, np.ndarray], float]
    strata: Callable[[np.ndarray], np.ndarray]

    def score(self, model: Any, inputs: Any, targets: np.ndarray, train: np.ndarray, val: np.ndarray) -> np.ndarray:
        """Fit on one side, score the other; what has nothing to learn from says what `constant` says."""
        if (targets[train] == targets[train][:1]).all():
            return self.constant(targets[train], len(val))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Label (not )?[0-9]+ is present in all training examples")
            model.fit(inputs[train], self.labels(targets[train]))
        return self.guess(model, inputs[val])


def family_of(task: Task) -> Family:
    """The models for a problem's kind of targets."""
    make = {"binary": _binary, "multiclass": _multiclass, "multilabel": _multilabel, "regression": _regression}
    return make[task.target_type](task)


def _logistic(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, class_weight="balanced", max_iter=SLOW)


def _boosted(seed: int) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(n_estimators=STUMPS, max_depth=1, random_state=seed)


def _as_float64(inputs: Any) -> Any:
    return inputs.astype(np.float64)


def _binary(task: Task) -> Family:
    return Family(
        "majority", _logistic, _boosted,
        labels=lambda targets: targets > 0.5,
        guess=lambda model, inputs: np.asarray(model.predict_proba(inputs)[:, 1]),
        constant=lambda targets, n: np.full(n, targets.mean()),
        cost=lambda targets, scores: task.metric("log_loss", targets, scores) or 0.0,
        strata=task.strata,
    )  # fmt: skip


def _multiclass(task: Task) -> Family:
    classes = len(task.score_names)

    def guess(model: Any, inputs: Any) -> np.ndarray:
        scores = np.zeros((len(inputs), classes))
        scores[:, model.classes_] = model.predict_proba(inputs)  # of the classes that its side had
        return scores

    def constant(targets: np.ndarray, n: int) -> np.ndarray:
        return np.tile(task.one_hot(targets).mean(axis=0), (n, 1))

    return Family(
        "majority", _logistic, _boosted,
        labels=lambda targets: targets.astype(np.int64), guess=guess, constant=constant,
        cost=lambda targets, scores: task.metric("log_loss", targets, scores) or 0.0,
        strata=task.strata,
    )  # fmt: skip


def _multilabel(task: Task) -> Family:
    from sklearn.multiclass import OneVsRestClassifier

    classes = len(task.score_names)

    def guess(model: Any, inputs: Any) -> np.ndarray:
        # of one class alone there is a column for no, too
        return np.asarray(model.predict_proba(inputs))[:, -classes:]

    return Family(
        "majority",
        linear=lambda strength: OneVsRestClassifier(_logistic(strength)),
        boosting=lambda seed: OneVsRestClassifier(_boosted(seed)),
        labels=lambda targets: targets.astype(np.int64), guess=guess,
        constant=lambda targets, n: np.tile(targets.mean(axis=0), (n, 1)),
        cost=lambda targets, scores: task.metric("log_loss", targets, scores) or 0.0,
        strata=task.strata,
    )  # fmt: skip


def _regression(task: Task) -> Family:  # noqa: ARG001
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    return Family(
        "mean",
        # Ridge narrows targets to the type of its inputs
        linear=lambda strength: make_pipeline(FunctionTransformer(_as_float64, accept_sparse=True),
                                              Ridge(alpha=1 / strength)),
        boosting=lambda seed: GradientBoostingRegressor(n_estimators=STUMPS, max_depth=1, random_state=seed),
        labels=lambda targets: targets, guess=lambda model, inputs: np.asarray(model.predict(inputs)),
        constant=lambda targets, n: np.full(n, targets.mean()),
        cost=lambda targets, scores: float(np.mean((targets - scores) ** 2)),
        strata=lambda targets: np.zeros(len(targets), dtype=np.int64),
    )  # fmt: skip
