"""Linear classifiers on constant features, solved to the optimum of their loss with an L2 penalty.

The penalty is chosen by cross-validation inside the training side. The result depends neither on learning rates nor on
the order of the examples.

Reference:
    Liu & Nocedal 1989, "On the limited memory BFGS method for large scale optimization" (L-BFGS); Hastie & Tibshirani
    2004, "Efficient quadratic regularization for expression arrays", section 3 (rotation to the rank of the features).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rainbow_ray.data.dataset import InMemoryDataset
from rainbow_ray.data.splits import make_split
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.tasks.base import Task
from rainbow_ray.training.components import FitComponents
from rainbow_ray.utils.errors import InputError

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.001)  # strongest first: each solution starts the next one
N_FOLDS = 5  # of the cross-validation that chooses the penalty
MAX_ITERATIONS = 200
TOLERANCE = 1e-5  # of the gradient


@dataclass(frozen=True)
class LinearProblem:
    """Standardized features and targets of a linear classifier.

    Attributes:
        features: `(n, width)`, float64.
        targets: Targets of the task, `(n, …)`.
        weights: Weight of each example, `(n,)`, float64.
        task: Provides the loss.
        bias: Where the optimization of the bias starts, `(outputs,)`.
    """

    features: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    task: Task
    bias: np.ndarray

    def take(self, indices: np.ndarray) -> LinearProblem:
        """Return the problem of some of the examples.

        Args:
            indices: Examples, `(m,)`.

        Returns:
            A problem of `m` examples.
        """
        return LinearProblem(self.features[indices], self.targets[indices], self.weights[indices], self.task, self.bias)

    def loss(self, weight: np.ndarray, bias: np.ndarray) -> float:
        """Return the sum of the weighted losses, without the penalty.

        Args:
            weight: `(width, outputs)`.
            bias: `(outputs,)`.

        Returns:
            The sum.
        """
        logits = torch.from_numpy(self.features @ weight + bias)
        losses = self.task.loss(logits, torch.from_numpy(self.targets))
        return float((losses.double() * torch.from_numpy(self.weights)).sum())

    def solve(self, penalties: Sequence[float]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the minima of the weighted mean loss plus `penalty` times the squared norm of the weight.

        Args:
            penalties: Penalties, each of whose solutions starts the next one.

        Returns:
            Weight, `(width, outputs)`, and bias, `(outputs,)`, for each penalty.
        """
        # the solution lies in the span of the examples, which has at most n dimensions
        left, singular, right = np.linalg.svd(self.features, full_matrices=False)
        targets, shares = torch.from_numpy(self.targets), torch.from_numpy(self.weights / self.weights.sum())
        coefficients, bias = np.zeros((len(singular), len(self.bias))), self.bias.astype(np.float64)
        solutions = []
        for penalty in penalties:
            # in these units the penalized squared error has the same curvature in every direction, so that few
            # iterations suffice; other losses come close to it
            units = 1 / np.sqrt(singular**2 / len(left) + 2 * penalty)
            objective = PenalizedLoss(
                self.task, torch.from_numpy(left * (singular * units)), targets, shares,
                torch.from_numpy(penalty * units**2)[:, None],
            )  # fmt: skip
            scaled, bias = objective.minimize(coefficients / units[:, None], bias)
            coefficients = scaled * units[:, None]
            solutions.append((right.T @ coefficients, bias))
        return solutions


@dataclass(frozen=True)
class PenalizedLoss:
    """Weighted mean loss of linear logits, plus a quadratic penalty.

    Attributes:
        task: Provides the loss.
        inputs: `(n, width)`, float64.
        targets: Targets of the task, `(n, …)`.
        shares: Weight of each example, `(n,)`, float64; they sum to 1.
        penalties: Penalty of the square of each row of the weight, `(width, 1)`, float64.
    """

    task: Task
    inputs: torch.Tensor
    targets: torch.Tensor
    shares: torch.Tensor
    penalties: torch.Tensor

    def minimize(self, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the minimum, found by L-BFGS.

        Args:
            weight: Where the optimization starts, `(width, outputs)`.
            bias: The same, `(outputs,)`.

        Returns:
            Weight and bias.
        """
        parameters = [torch.tensor(values, dtype=torch.float64, requires_grad=True) for values in (weight, bias)]
        optimizer = torch.optim.LBFGS(
            parameters, max_iter=MAX_ITERATIONS, history_size=20, tolerance_grad=TOLERANCE,
            tolerance_change=TOLERANCE**2, line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            losses = self.task.loss(self.inputs @ parameters[0] + parameters[1], self.targets).double()
            value = (losses * self.shares).sum() + (self.penalties * parameters[0] ** 2).sum()
            torch.autograd.backward(value)
            return value

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return parameters[0].detach().numpy(), parameters[1].detach().numpy()


def choose_penalty(problem: LinearProblem, folds: np.ndarray) -> float:
    """Return the penalty with the least loss in cross-validation.

    Args:
        problem: Problem of the training side.
        folds: Fold of each example, `(n,)`.

    Returns:
        One of `PENALTIES`.
    """
    losses = np.zeros(len(PENALTIES))
    for fold in np.unique(folds):
        held_out = problem.take(np.flatnonzero(folds == fold))
        solutions = problem.take(np.flatnonzero(folds != fold)).solve(PENALTIES)
        losses += [held_out.loss(weight, bias) for weight, bias in solutions]
    return PENALTIES[int(np.argmin(losses))]


def solve_classifier(components: FitComponents, sample: np.ndarray, split_by: str) -> tuple[float, float]:
    """Set the classifier of a model to the solution of its problem; all workers of a process group call this together.

    Args:
        components: Model, features and task of a fit.
        sample: Training examples, `(n,)`; repeated ones count as often.
        split_by: Column whose values stay in one fold of the cross-validation that chooses the penalty.

    Returns:
        The penalty, and the weighted mean training loss.
    """
    indices, counts = np.unique(sample, return_counts=True)
    problem, group = _linear_problem(components, indices, counts), components.execution.process_group
    penalty = choose_penalty(problem, _inner_folds(components, indices, split_by))
    ((weight, bias),) = problem.solve([penalty])
    if not group.is_main:  # machines may round differently: all workers take the solution of the main one
        weight, bias = np.zeros_like(weight), np.zeros_like(bias)
    weight, bias = _sum_over_workers(group, weight), _sum_over_workers(group, bias)
    components.model.set_classifier(bias.astype(np.float32), weight.T.astype(np.float32))
    return penalty, problem.loss(weight, bias) / float(problem.weights.sum())


def _linear_problem(components: FitComponents, indices: np.ndarray, counts: np.ndarray) -> LinearProblem:
    """Return the problem of the classifier of a model, for examples that count `counts` times."""
    provider, dataset, model = components.features, components.features.dataset, components.model
    with torch.no_grad():
        features = model.standardize(provider.features_of(dataset.in_memory_subset(indices)))
    return LinearProblem(
        features=features.cpu().numpy().astype(np.float64),
        targets=dataset.targets[indices],
        weights=dataset.weights[indices].astype(np.float64) * counts,
        task=components.task,
        bias=components.task.initial_bias(dataset.targets[indices]).astype(np.float64),
    )


def _inner_folds(components: FitComponents, indices: np.ndarray, split_by: str) -> np.ndarray:
    """Return the fold of each training example; the examples of a group are in one fold."""
    dataset, seed = components.features.dataset, components.config.split_seed
    assert isinstance(dataset, InMemoryDataset)
    strata, examples = components.task.strata(dataset.targets[indices]), dataset.examples.take(indices)
    try:
        split = make_split(examples, strata, n_folds=N_FOLDS, val_fraction=0.2, split_by=split_by, seed=seed)
    except InputError:  # the training side is a single group, whose examples are divided
        return np.asarray(np.random.default_rng(seed).permutation(len(indices)) % N_FOLDS)
    return np.asarray(split.fold)


def _sum_over_workers(group: ProcessGroup, values: np.ndarray) -> np.ndarray:
    return group.all_reduce_sum(torch.from_numpy(values)).numpy()
