"""Checks of a config's values, and keys of it that have no effect."""

from __future__ import annotations

from rainbow_ray.config.schema import CalibrationConfig, Config
from rainbow_ray.data.sampling import SAMPLINGS
from rainbow_ray.distributed.resources import parse_workers
from rainbow_ray.tasks.base import Task
from rainbow_ray.utils.errors import InputError, check_choice

SCHEDULES = ("linear", "cosine", "constant")
METHODS = ("none", "temperature", "isotonic")
THRESHOLDS = ("fixed", "f1", "recall_at_precision", "cost")


def check_calibration(config: CalibrationConfig) -> list[str]:
    """What is wrong with the keys of the section."""
    return [
        *check_choice("calibration.method", config.method, METHODS),
        *check_choice("calibration.threshold", config.threshold, THRESHOLDS),
    ]


def unused_calibration_keys(config: CalibrationConfig, task: Task) -> dict[str, str]:
    """Keys of the section that say nothing here, and why."""
    idle = {}
    if task.is_sequence_task:
        return {}  # said with the other keys of segments
    if not task.supports_calibration:
        return dict.fromkeys((f"calibration.{name}" for name in CalibrationConfig.model_fields), "numbers have none")
    if not task.supports_thresholds:
        idle = dict.fromkeys((f"calibration.{name}" for name in CalibrationConfig.model_fields if name != "method"),
                             "the likeliest class is taken")  # fmt: skip
    if config.threshold != "recall_at_precision":
        idle["calibration.precision"] = f"the threshold is {config.threshold}"
    if config.threshold != "cost":
        for name in ("cost_false_positive", "cost_false_negative"):
            idle[f"calibration.{name}"] = f"the threshold is {config.threshold}"
    return idle


def check_training(config: Config) -> list[str]:
    """What is wrong with names that the loop reads."""
    try:
        parse_workers(config.training.workers)
        workers = []
    except InputError as error:
        workers = error.problems
    return [
        *workers,
        *check_choice("training.schedule", config.training.schedule, SCHEDULES),
        *check_choice("training.sampling", config.training.sampling, SAMPLINGS),
    ]
