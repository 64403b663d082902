"""Weights of a stacked ensemble from out-of-fold scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from rainbow_ray.stacking.links import apply_link, invert_link
from rainbow_ray.stacking.stack import StackWeights
from rainbow_ray.tasks.target_types import TARGET_FORMATS, Link, TargetType

# Penalties in units of the loss of one example; measured by `tests/benchmarks/stacking.py`.
DIFFERENCE_PENALTY = 50.0  # on the distance of the weights from those by the loss of each member alone
NUMBER_DIFFERENCE_PENALTY = 10.0  # the same for regression, whose members differ more
SUM_PENALTY = 0.1  # on the distance from 1 of the sum of weights, each relative to what its loss alone suggests
NUMBER_SUM_PENALTY = 1.0  # the same for regression
INTERCEPT_PENALTY = 1.0  # on the distance of the intercepts from those of the class frequencies
STANDARD_ERRORS = 1.0  # by which members' losses may differ without a difference in skill
LOSS_POWER = 3  # of the loss of a member alone, to which its weight without other evidence is inversely proportional
EXTRA_LOSS = 1.0  # of one more example for each member, so that none is taken for perfect
HARMFUL_GAIN = 5.0  # gain of a reversed member, in the same units, that is not chance
HUBER_SCALE = 0.1  # transition of the pseudo-Huber loss, in standard deviations of the targets
MIN_WEIGHT = 0.01  # a smaller one is set to 0

# losses of examples, `(n,)`, and their gradients, `(n, outputs)`, for linear predictors, `(n, outputs)`
Loss = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def fit_weights(
    target_type: TargetType, scores: Mapping[str, np.ndarray], targets: np.ndarray, *, robust: bool = False
) -> StackWeights:
    """Fit non-negative weights that minimize a penalized proper loss of the combined scores.

    The loss is the log loss, and for regression the squared error. The penalty shrinks the weights towards those that
    the loss of each member alone suggests (equal ones where members do not differ by more than chance), their sum
    towards 1, and the intercepts towards those of the class frequencies, so that members without skill give a
    prediction from the frequencies alone.

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
    known, predictors = (targets.astype(np.float64) - center) / spread, (predictors - center) / spread
    centers = predictors.mean(axis=1)  # of each member, so that the intercepts alone carry the class frequencies
    centered = predictors - centers[:, None]
    loss, prior = _loss(link, known, robust=robust), _intercepts_of_frequencies(link, known, robust=robust)
    relative = _relative_weights(loss, centered, prior, is_number=link == "identity")
    penalties = (
        (NUMBER_DIFFERENCE_PENALTY, NUMBER_SUM_PENALTY) if link == "identity" else (DIFFERENCE_PENALTY, SUM_PENALTY)
    )
    factors, intercepts = _minimize(loss, centered * relative[:, None, None], prior, *penalties)
    weights = factors * relative
    weights[weights < MIN_WEIGHT] = 0
    intercepts = center * (1 - weights.sum()) + spread * (intercepts - weights @ centers)
    used = [(name, float(weight)) for name, weight in zip(scores, weights, strict=True) if weight > 0]
    names = tuple(name for name, _ in used)
    return StackWeights(names, tuple(weight for _, weight in used), tuple(map(float, intercepts)), link)


def _relative_weights(loss: Loss, centered: np.ndarray, prior: np.ndarray, *, is_number: bool) -> np.ndarray:
    """Return the weights that the loss of each member alone suggests, with mean 1, `(members,)`.

    A member is given the standard error of its difference to the best one, so that chance does not rank them. One that
    would have to be reversed counts as a constant, and as harmful where that is not chance.

    Reference:
        Bates & Granger 1969, "The combination of forecasts", section 3 (weights by inverse squared errors).
    """
    solutions = [_minimize(loss, member[None], prior, 0.0, 0.0, lower=None) for member in centered]
    losses = np.stack(
        [loss(slope * member + bias)[0] for member, (slope, bias) in zip(centered, solutions, strict=True)]
    )
    constant = loss(np.zeros_like(centered[0]) + prior)[0]
    if is_number:  # in units of the error that is left, as log losses are
        unit = max(float(losses.mean(axis=1).min()), 1e-6)
        losses, constant = losses / unit, constant / unit
    gains = (constant - losses).sum(axis=1)
    is_reversed = np.array([slope[0] < 0 for slope, _ in solutions])
    is_harmful = is_reversed & (gains > HARMFUL_GAIN)
    losses[is_reversed] = constant
    totals = losses.sum(axis=1)
    best = int(totals.argmin())
    noise = (losses - losses[best]).std(axis=1) * np.sqrt(losses.shape[1])
    totals = np.maximum(totals - STANDARD_ERRORS * noise, totals[best]) + EXTRA_LOSS
    relative = (totals[best] / totals) ** LOSS_POWER
    relative[is_harmful & ~is_harmful.all()] = 0
    return np.asarray(relative / relative.mean())


def _minimize(
    loss: Loss,
    centered: np.ndarray,
    prior: np.ndarray,
    difference_penalty: float,
    sum_penalty: float,
    *,
    lower: float | None = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights from `lower` on, `(members,)`, and intercepts, `(outputs,)`, with the least penalized loss."""
    from scipy.optimize import minimize

    n_members, n_examples, n_outputs = centered.shape

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, intercepts = parameters[:n_members], parameters[n_members:]
        losses, gradient = loss(np.tensordot(weights, centered, axes=1) + intercepts)
        differences, excess, offsets = weights - weights.mean(), weights.sum() - 1, intercepts - prior
        penalty = (
            difference_penalty * n_members * (differences @ differences)
            + sum_penalty * excess**2
            + INTERCEPT_PENALTY * (offsets @ offsets)
        )
        of_weights = np.einsum("mnk,nk->m", centered, gradient)
        of_weights += difference_penalty * n_members * differences + sum_penalty * excess
        of_intercepts = gradient.sum(axis=0) + INTERCEPT_PENALTY * offsets
        return (
            (float(losses.sum()) + 0.5 * float(penalty)) / n_examples,
            np.concatenate([of_weights, of_intercepts]) / n_examples,
        )

    start = np.concatenate([np.full(n_members, 1 / n_members), prior])
    bounds = [(lower, None)] * n_members + [(None, None)] * n_outputs
    solution = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return solution[:n_members], solution[n_members:]


def _loss(link: Link, targets: np.ndarray, *, robust: bool) -> Loss:
    """Return the loss of linear predictors."""

    def log_loss(predictors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if link == "softmax":
            top = predictors.max(axis=1, keepdims=True)
            log_sum = top[:, 0] + np.log(np.exp(predictors - top).sum(axis=1))
            losses = log_sum - np.sum(targets * predictors, axis=1)
        else:
            losses = np.sum(np.logaddexp(0, predictors) - targets * predictors, axis=1)
        return losses, apply_link(predictors, link) - targets

    def error(predictors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        residuals = predictors - targets
        if not robust:
            return 0.5 * np.sum(residuals**2, axis=1), residuals
        roots = np.sqrt(residuals**2 + HUBER_SCALE**2)
        return np.sum(roots, axis=1), residuals / roots

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
