"""Base of tasks with named classes: their fields, the names of scores, and the state in bundles."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from rainbow_ray.config.unused_keys import ASYMMETRIC_KEYS, UnusedKeys, always, section_keys
from rainbow_ray.tasks.example_task import ExampleTask


@dataclass(frozen=True)
class NamedClassesTask(ExampleTask):
    """A task whose labels are one or several of the named classes; the head has one output for each.

    Attributes:
        classes: Names of the classes, from `parse` on.
        loss_name: Name of the loss, a key of the task's `LOSSES`.
        weights: Weight of each class in the loss, `(classes,)`, from `fit` on.
        prior: Fraction of the training set with each class, `(classes,)`, from `fit` on.
        label_smoothing: Fraction of each target that is moved to the uniform distribution.
        focal_gamma: Exponent of the focal loss.
        tau: Strength of the logit adjustment.
        tiny: Classes with too few songs for a weight above 1.
    """

    classes: tuple[str, ...] = ()
    loss_name: str = ""
    weights: tuple[float, ...] = ()
    prior: tuple[float, ...] = ()
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0
    tau: float = 1.0
    tiny: tuple[str, ...] = ()

    accepts_null_class = True
    imbalance_advice = "training.class_weights=balanced"
    unused_keys: ClassVar[tuple[UnusedKeys, ...]] = (
        UnusedKeys(
            (*ASYMMETRIC_KEYS, *section_keys("training", "pos_weight", "huber_delta", "target_transform")),
            always,
            "phase {config.phase} has classes",
        ),
        UnusedKeys(("data.target_bounds",), always, "classes have no bounds"),
    )

    def __post_init__(self) -> None:
        """Make tuples of lists, which JSON has in their place."""
        for name in ("classes", "weights", "prior", "tiny"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    @override
    def outputs(self) -> int:
        return len(self.classes)

    @property
    @override
    def score_names(self) -> tuple[str, ...]:
        return tuple(f"score_{name}" for name in self.classes)

    @override
    def perfect_scores(self, targets: np.ndarray) -> np.ndarray:
        return self.one_hot(targets).astype(np.float32)

    @override
    def to_json(self) -> Mapping[str, Any]:
        return dataclasses.asdict(self)
