"""A stacked ensemble of one fit: its weights, and the linear models beside the neural network. Needs numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rainbow_ray.stacking.linear_member import LinearMember, MemberInputs
from rainbow_ray.stacking.links import LINKS, apply_link, invert_link
from rainbow_ray.tasks.target_types import TARGET_FORMATS, Link, TargetType

NEURAL = "neural network"  # the member that all others are stacked with


@dataclass(frozen=True)
class StackWeights:
    """Weights of members, which combine their linear predictors: h⁻¹(p) = b + Σ wₘ h⁻¹(pₘ), with the link function h.

    Attributes:
        names: Names of the members, `(members,)`.
        weights: Weights, each at least 0, `(members,)`.
        intercepts: b, `(outputs,)`.
        link: Link function of the scores.

    Reference:
        Breiman 1996, "Stacked regressions"; van der Laan, Polley & Hubbard 2007, "Super learner".
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    intercepts: tuple[float, ...]
    link: Link

    def combine(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Combine the scores of members.

        Args:
            scores: Scores of each member that has a weight, `(examples,)` or `(examples, classes)`.

        Returns:
            Combined scores of the same shape, float64.
        """
        predictors = [invert_link(scores[name], self.link) for name in self.names]
        weighted = [weight * predictor for weight, predictor in zip(self.weights, predictors, strict=True)]
        n_examples = len(next(iter(scores.values())))
        predictor = np.tile(np.array(self.intercepts), (n_examples, 1)) + np.sum(weighted, axis=0)
        combined = apply_link(predictor, self.link)
        return combined[:, 0] if self.link in ("identity", "sigmoid") else combined

    def to_json(self) -> dict[str, Any]:
        """Return the weights as JSON values.

        Returns:
            The fields by name.
        """
        weights = dict(zip(self.names, self.weights, strict=True))
        return {"weights": weights, "intercepts": list(self.intercepts), "link": self.link}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> StackWeights:
        """Return weights from JSON values.

        Args:
            document: What `to_json` returned.

        Returns:
            The weights.

        Raises:
            ValueError: The values cannot be those of a fitted stack.
        """
        weights = {str(name): float(value) for name, value in document["weights"].items()}
        intercepts, link = tuple(map(float, document["intercepts"])), document["link"]
        if (
            link not in LINKS
            or not np.isfinite([*weights.values(), *intercepts]).all()
            or min(weights.values(), default=0.0) < 0
        ):
            raise ValueError("the weights of the stacked ensemble are invalid: negative, not finite, or of no link")
        return cls(tuple(weights), tuple(weights.values()), intercepts, link)


@dataclass(frozen=True)
class Stack:
    """A fitted stacked ensemble, without its neural network.

    Attributes:
        weights: Weights of all members, the neural network among them.
        members: The linear models that have a weight.
    """

    weights: StackWeights
    members: tuple[LinearMember, ...]

    def scores(self, neural_scores: np.ndarray, inputs: MemberInputs) -> np.ndarray:
        """Score examples.

        Args:
            neural_scores: Scores of the neural network, `(examples,)` or `(examples, classes)`.
            inputs: What the linear models read of the same examples.

        Returns:
            Scores of the same shape and dtype.
        """
        scores = {NEURAL: neural_scores, **{member.name: member.scores(inputs) for member in self.members}}
        return self.weights.combine(scores).astype(neural_scores.dtype)

    @property
    def feature_keys(self) -> tuple[str, ...]:
        """Keys of the encoders' features that the members read."""
        return tuple(dict.fromkeys(member.key for member in self.members if member.key is not None))

    def to_json(self) -> dict[str, Any]:
        """Return the stack as JSON values.

        Returns:
            Weights and members.
        """
        return {**self.weights.to_json(), "members": [member.to_json() for member in self.members]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Stack:
        """Return a stack from JSON values.

        Args:
            document: What `to_json` returned.

        Returns:
            The stack.

        Raises:
            ValueError: The values cannot be those of a fitted stack.
        """
        weights = StackWeights.from_json(document)
        members = tuple(LinearMember.from_json(member) for member in document["members"])
        names = {NEURAL, *(member.name for member in members)}
        if set(weights.names) - names:
            missing = ", ".join(sorted(set(weights.names) - names))
            raise ValueError(f"the stacked ensemble has weights of members that it lacks: {missing}")
        return cls(weights, members)

    def check(self, target_type: TargetType, n_scores: int) -> None:
        """Check that the stack fits a model.

        Args:
            target_type: Type of the model's targets.
            n_scores: Number of its scores.

        Raises:
            ValueError: The stack is one of another type of target, or of another number of scores.
        """
        link = TARGET_FORMATS[target_type].link
        links = {self.weights.link, *(member.link for member in self.members)}
        lengths = {len(self.weights.intercepts), *(len(member.bias) for member in self.members)}
        if links != {link} or lengths != {n_scores}:
            raise ValueError(f"the stacked ensemble does not fit a {target_type} model of {n_scores} scores")


def mean_of_fits(
    stacks: Sequence[Stack], neural_scores: np.ndarray, inputs: MemberInputs, target_type: TargetType
) -> np.ndarray:
    """Return the scores of a model of several fits, each of which is a stack.

    Args:
        stacks: The stack of each fit.
        neural_scores: Scores of each fit's neural network, `(fits, examples, …)`.
        inputs: What the linear models read of the same examples.
        target_type: Type of the targets.

    Returns:
        The mean over the fits, `(examples, …)`.
    """
    scores = [stack.scores(values, inputs) for stack, values in zip(stacks, neural_scores, strict=True)]
    return np.asarray(np.mean(scores, axis=0), dtype=TARGET_FORMATS[target_type].score_dtype)
