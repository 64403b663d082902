"""Result of one check, which `python -m rainbow_ray.check` prints as a line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "input_error", "environment_error"]


@dataclass(frozen=True)
class CheckResult:
    """Result of one check.

    Attributes:
        status: `input_error` (to fix in the input or the config) and `environment_error` (to fix on this machine) are
            failures, which decide the exit code.
        topic: What is checked, in a word or two.
        text: Result, and what to do about it.
    """

    status: Status
    topic: str
    text: str
