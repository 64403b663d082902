"""Linear classifiers on constant features, solved to the optimum of their loss with an L2 penalty.

The penalty is chosen by cross-validation inside the training side: the words' weights and the standardization of each
inner fold are fitted without its examples, too. The result depends neither on learning rates nor on the order of the
examples.

Reference:
    Liu & Nocedal 1989, "On the limited memory BFGS method for large scale optimization" (L-BFGS); Hastie & Tibshirani
    2004, "Efficient quadratic regularization for expression arrays", section 3 (rotation to the rank of the features).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rainbow_ray.data.dataset import ExampleView, InMemoryDataset
from rainbow_ray.data.splits import group_ids, make_split
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.modalities.text import tokenize
from rainbow_ray.model.build import fit_bag_of_words
from rainbow_ray.nn.standardizer import Standardizer
from rainbow_ray.tasks.base import Task
from rainbow_ray.training.components import FitComponents

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.001)  # strongest first: each solution starts the next one
N_FOLDS = 5  # of the cross-validation that chooses the penalty
MAX_ITERATIONS = 200
TOLERANCE = 1e-5  # of the gradient, relative to the first one


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

    def take(self, rows: np.ndarray) -> LinearProblem:
        """Return the problem of some of the examples.

        Args:
            rows: Positions of the examples, `(m,)`.

        Returns:
            A problem of `m` examples.
        """
        return LinearProblem(self.features[rows], self.targets[rows], self.weights[rows], self.task, self.bias)

    def loss(self, weight: np.ndarray, bias: np.ndarray) -> float:
        """Return the sum of the weighted losses, without the penalty.

        Args:
            weight: `(width, outputs)`.
            bias: `(outputs,)`.

        Returns:
            The sum.
        """
        logits = torch.from_numpy(self.features @ weight + bias)
        losses = self.task.loss(logits, torch.from_numpy(self.targets.astype(np.float64)))
        return float((losses * torch.from_numpy(self.weights)).sum())

    def solve(self, penalties: Sequence[float]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the minima of the weighted mean loss plus `penalty` times the squared norm of the weight.

        Args:
            penalties: Penalties, each of whose solutions starts the next one.

        Returns:
            Weight, `(width, outputs)`, and bias, `(outputs,)`, for each penalty.
        """
        # the solution lies in the span of the examples, which has at most n dimensions
        left, singular, right = np.linalg.svd(self.features, full_matrices=False)
        # float64, because losses narrow logits to the type of the targets
        targets = torch.from_numpy(self.targets.astype(np.float64))
        weights = torch.from_numpy(self.weights / self.weights.sum())
        coefficients, bias = np.zeros((len(singular), len(self.bias))), self.bias.astype(np.float64)
        solutions = []
        for penalty in penalties:
            # on these scales the penalized squared error has the same curvature in every direction, so that few
            # iterations suffice; other losses come close to it
            scales = 1 / np.sqrt(singular**2 / len(left) + 2 * penalty)
            objective = PenalizedLoss(
                self.task, torch.from_numpy(left * (singular * scales)), targets, weights,
                torch.from_numpy(penalty * scales**2)[:, None],
            )  # fmt: skip
            scaled, bias = objective.minimize(coefficients / scales[:, None], bias)
            coefficients = scaled * scales[:, None]
            solutions.append((right.T @ coefficients, bias))
        return solutions


@dataclass(frozen=True)
class PenalizedLoss:
    """Weighted mean loss of linear logits, plus a quadratic penalty.

    Attributes:
        task: Provides the loss.
        inputs: `(n, width)`, float64.
        targets: Targets of the task, `(n, …)`.
        weights: Weight of each example, `(n,)`, float64; they sum to 1.
        penalties: Penalty of the square of each row of the weight, `(width, 1)`, float64.
    """

    task: Task
    inputs: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
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
        slope = max(
            float(gradient.abs().max()) for gradient in torch.autograd.grad(self.value(*parameters), parameters)
        )
        if slope == 0:
            return weight, bias
        optimizer = torch.optim.LBFGS(
            parameters, max_iter=MAX_ITERATIONS, history_size=20, tolerance_grad=TOLERANCE,
            tolerance_change=TOLERANCE**2, line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            value = self.value(*parameters) / slope  # the tolerances are relative to the first gradient
            torch.autograd.backward(value)
            return value

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return parameters[0].detach().numpy(), parameters[1].detach().numpy()

    def value(self, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Return the penalized loss.

        Args:
            weight: `(width, outputs)`.
            bias: `(outputs,)`.

        Returns:
            A scalar.
        """
        losses = self.task.loss(self.inputs @ weight + bias, self.targets)
        return (losses * self.weights).sum() + (self.penalties * weight**2).sum()


def choose_penalty(folds: Sequence[tuple[LinearProblem, LinearProblem]]) -> float:
    """Return the penalty with the least loss in cross-validation.

    Args:
        folds: The problem of the training examples and that of the held-out examples of each fold.

    Returns:
        One of `PENALTIES`; the strongest one without folds.
    """
    losses = np.zeros(len(PENALTIES))
    for train, held_out in folds:
        losses += [held_out.loss(weight, bias) for weight, bias in train.solve(PENALTIES)]
    return PENALTIES[int(np.argmin(losses))]


def solve_classifier(components: FitComponents, indices: np.ndarray, split_by: str) -> tuple[float, float]:
    """Set the classifier of a model to the solution of its problem; all workers of a process group call this together.

    Args:
        components: Model, features and task of a fit.
        indices: Training examples, `(n,)`.
        split_by: Column whose values stay in one fold of the cross-validation that chooses the penalty.

    Returns:
        The penalty, and the weighted mean training loss.
    """
    group, dataset = components.execution.process_group, components.features.dataset
    view = dataset.in_memory_subset(np.sort(indices))
    features = components.features.features_of(view)
    fold_of_row, everything = _inner_folds(components, view.indices, split_by), np.arange(len(view))
    folds = []
    for fold in np.unique(fold_of_row):
        train, held_out = np.flatnonzero(fold_of_row != fold), np.flatnonzero(fold_of_row == fold)
        if len(train):
            problem = _linear_problem(components, view, features, train)
            folds.append((problem.take(train), problem.take(held_out)))
    problem, penalty = _linear_problem(components, view, features, everything), choose_penalty(folds)
    ((weight, bias),) = problem.solve([penalty])
    if not group.is_main:  # machines may round differently: all workers take the solution of the main one
        weight, bias = np.zeros_like(weight), np.zeros_like(bias)
    weight, bias = _sum_over_workers(group, weight), _sum_over_workers(group, bias)
    components.model.set_classifier(bias.astype(np.float32), weight.T.astype(np.float32))
    return penalty, problem.loss(weight, bias) / float(problem.weights.sum())


@torch.no_grad()
def _linear_problem(
    components: FitComponents, view: ExampleView, features: torch.Tensor, fitted: np.ndarray
) -> LinearProblem:
    """Return the problem of all examples of a view, whose words' weights and scales are fitted to some of its rows."""
    model, dataset = components.model, components.features.dataset
    if len(fitted) < len(view):
        bag_of_words = copy.deepcopy(model.bag_of_words)
        fit_bag_of_words(bag_of_words, dataset, view.indices[fitted], components.task, components.config)
        if bag_of_words is not None:
            words = tokenize.pad_rows(view.examples.take(view.positions).lists(tokenize.WORDS).rows(), 0)
            from_words = bag_of_words(words.to(features.device))
            features = torch.cat([features[:, : -from_words.shape[1]], from_words], dim=1)
    standardize = copy.deepcopy(model.standardize)
    if isinstance(standardize, Standardizer):
        standardize.fit(features[torch.from_numpy(fitted).to(features.device)])
    targets = dataset.targets[view.indices]
    return LinearProblem(
        features=standardize(features).cpu().numpy().astype(np.float64),
        targets=targets,
        weights=dataset.weights[view.indices].astype(np.float64),
        task=components.task,
        bias=components.task.initial_bias(targets[fitted]).astype(np.float64),
    )


def _inner_folds(components: FitComponents, indices: np.ndarray, split_by: str) -> np.ndarray:
    """Return the fold of each training example; a single fold where nothing can be held out."""
    dataset, seed = components.features.dataset, components.config.split_seed
    assert isinstance(dataset, InMemoryDataset)
    strata, examples = components.task.strata(dataset.targets[indices]), dataset.examples.take(indices)
    by = next((column for column in (split_by, "id") if len(np.unique(group_ids(examples, column))) > 1), None)
    if by is None:
        return np.zeros(len(indices), dtype=np.int64)
    return np.asarray(make_split(examples, strata, n_folds=N_FOLDS, val_fraction=0.2, split_by=by, seed=seed).fold)


def _sum_over_workers(group: ProcessGroup, values: np.ndarray) -> np.ndarray:
    return group.all_reduce_sum(torch.from_numpy(values)).numpy()
