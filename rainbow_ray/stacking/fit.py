"""Weights of a stacked ensemble from out-of-fold scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from rainbow_ray.stacking.links import apply_link, invert_link
from rainbow_ray.stacking.stack import StackWeights
from rainbow_ray.tasks.target_types import TARGET_FORMATS, Link, TargetType

# Penalties in units of the loss of one example; measured by `tests/benchmarks/stacking.py`.
DIFFERENCE_PENALTY = 100.0  # on differences between weights: without evidence, all members count alike
NUMBER_DIFFERENCE_PENALTY = 3.0  # the same for regression, whose members differ more
SUM_PENALTY = 0.3  # on the distance of the weights' sum from 1
NUMBER_SUM_PENALTY = 1.0  # the same for regression
INTERCEPT_PENALTY = 1.0  # on the distance of the intercepts from those of the class frequencies
HUBER_SCALE = 0.1  # transition of the pseudo-Huber loss, in standard deviations of the targets
MIN_WEIGHT = 0.01  # a smaller one is set to 0


def fit_weights(
    target_type: TargetType, scores: Mapping[str, np.ndarray], targets: np.ndarray, *, robust: bool = False
) -> StackWeights:
    """Fit non-negative weights that minimize a penalized proper loss of the combined scores.

    The loss is the log loss, and for regression the squared error. The penalty shrinks the weights towards equal ones,
    their sum towards 1, and the intercepts towards those of the class frequencies, so that members without skill give
    a prediction from the frequencies alone.

    Args:
        target_type: Type of the targets.
        scores: Out-of-fold scores by member, `(examples,)` or `(examples, classes)` each.
        targets: Indicators of classes, `(examples, classes)`, of one class for binary targets, or numbers,
            `(examples, 1)`.
        robust: Whether regression minimizes the absolute error (as a pseudo-Huber loss) instead of the squared error.

    Returns:
        The weights of all members with an effect.
    """
    link = TARGET_FORMATS[target_type].link
    predictors = np.stack([invert_link(values, link) for values in scores.values()])
    # numbers are standardized: the optimizer needs gradients of comparable size
    center, spread = (float(targets.mean()), float(targets.std()) or 1.0) if link == "identity" else (0.0, 1.0)
    known = (targets.astype(np.float64) - center) / spread
    weights, intercepts = _minimize(link, (predictors - center) / spread, known, robust=robust)
    intercepts = center * (1 - weights.sum()) + spread * intercepts
    used = [(name, float(weight)) for name, weight in zip(scores, weights, strict=True) if weight > 0]
    names = tuple(name for name, _ in used)
    return StackWeights(names, tuple(weight for _, weight in used), tuple(map(float, intercepts)), link)


def _minimize(
    link: Link, predictors: np.ndarray, targets: np.ndarray, *, robust: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights, `(members,)`, and intercepts, `(outputs,)`, with the least penalized loss."""
    from scipy.optimize import minimize

    n_members, n_examples, n_outputs = predictors.shape
    centers = predictors.mean(axis=1)  # of each member, so that the intercepts alone carry the class frequencies
    centered = predictors - centers[:, None]
    difference_penalty, sum_penalty = (
        (NUMBER_DIFFERENCE_PENALTY, NUMBER_SUM_PENALTY) if link == "identity" else (DIFFERENCE_PENALTY, SUM_PENALTY)
    )
    loss, prior = _loss(link, targets, robust=robust), _intercepts_of_frequencies(link, targets, robust=robust)

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, intercepts = parameters[:n_members], parameters[n_members:]
        value, gradient = loss(np.tensordot(weights, centered, axes=1) + intercepts)
        differences, excess, offsets = weights - weights.mean(), weights.sum() - 1, intercepts - prior
        penalty = (
            difference_penalty * n_members * (differences @ differences)
            + sum_penalty * excess**2
            + INTERCEPT_PENALTY * (offsets @ offsets)
        )
        of_weights = np.einsum("mnk,nk->m", centered, gradient)
        of_weights += (difference_penalty * n_members * differences + sum_penalty * excess) / n_examples
        of_intercepts = gradient.sum(axis=0) + INTERCEPT_PENALTY * offsets / n_examples
        return value + 0.5 / n_examples * float(penalty), np.concatenate([of_weights, of_intercepts])

    start = np.concatenate([np.full(n_members, 1 / n_members), prior])
    bounds = [(0.0, None)] * n_members + [(None, None)] * n_outputs
    solution = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    weights = np.where(solution[:n_members] < MIN_WEIGHT, 0.0, solution[:n_members])
    return weights, solution[n_members:] - weights @ centers


def _loss(link: Link, targets: np.ndarray, *, robust: bool) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Return the mean loss of linear predictors, `(examples, outputs)`, with its gradient."""
    n = len(targets)

    def log_loss(predictors: np.ndarray) -> tuple[float, np.ndarray]:
        if link == "softmax":
            top = predictors.max(axis=1, keepdims=True)
            log_sum = top[:, 0] + np.log(np.exp(predictors - top).sum(axis=1))
            value = float(np.mean(log_sum - np.sum(targets * predictors, axis=1)))
        else:
            value = float(np.sum(np.logaddexp(0, predictors) - targets * predictors) / n)
        return value, (apply_link(predictors, link) - targets) / n

    def error(predictors: np.ndarray) -> tuple[float, np.ndarray]:
        residuals = predictors - targets
        if not robust:
            return float(0.5 * np.sum(residuals**2) / n), residuals / n
        roots = np.sqrt(residuals**2 + HUBER_SCALE**2)
        return float(np.sum(roots) / n), residuals / roots / n

    return error if link == "identity" else log_loss


def _intercepts_of_frequencies(link: Link, targets: np.ndarray, *, robust: bool) -> np.ndarray:
    """Return the intercepts of the best constant scores, `(outputs,)`, with half a pseudo-example for each class."""
    if link == "identity":
        return np.asarray(np.median(targets, axis=0) if robust else targets.mean(axis=0), dtype=np.float64)
    if link == "softmax":
        frequencies = (targets.sum(axis=0) + 0.5) / (len(targets) + 0.5 * targets.shape[1])
        return np.asarray(np.log(frequencies) - np.log(frequencies).mean())
    frequencies = (targets.sum(axis=0) + 0.5) / (len(targets) + 1)
    return np.asarray(np.log(frequencies / (1 - frequencies)))
