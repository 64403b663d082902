"""What can be known before money is spent: `python -m rainbow_ray.check`, and the self-checks of single rooms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mark = Literal["good", "word", "input", "environment"]


@dataclass(frozen=True)
class CheckResult:
    """One line of a check. `input` and `environment` are failures: whose, decides the exit code."""

    mark: Mark
    part: str
    text: str
