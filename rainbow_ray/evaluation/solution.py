"""A sentence for pages and cards on classifiers that were solved, not trained in steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def describe_solution(summary: Mapping[str, Any]) -> str:
    """Return a sentence on the penalties of classifiers that were solved.

    Args:
        summary: Content of a run's `summary.json`; those of earlier versions have no penalties.

    Returns:
        The sentence; empty where classifiers were trained in steps.
    """
    penalties = [penalty for penalty in summary.get("penalties") or [] if penalty is not None]
    if not penalties:
        return ""
    listed = ", ".join(f"{penalty:g}" for penalty in penalties)
    return (
        "The linear classifier of each fit was solved to the optimum of its loss with an L2 penalty, which"
        f" cross-validation inside the training songs chose: {listed}."
    )
