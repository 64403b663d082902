"""Scores of rows, and the reasons why some have none."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from rainbow_ray.inference.media_report import MediaReport
from rainbow_ray.modalities.media_source import TROUBLE
from rainbow_ray.modalities.spec import InputSpec

NO_TEXT = "no text"
NO_INPUT = "nothing to read"
REASON = "reason"  # column: why a row has no score
NOVELTY = "novelty"  # column: how unlike the training songs a row is; above 1 for 5% of held-out training songs


@dataclass(frozen=True)
class RowScores:
    """Scores of some rows.

    Attributes:
        scores: Uncalibrated scores, `(rows, …)`; NaN where there is none.
        novelty: Novelty, float32, `(rows,)`; NaN where there is none.
        reasons: Reason why a row has no score, or None.
        read: Modalities that were read, joined by `+`, or None.
        report: Report on media files.
        features: Features that novelty compares by key, `(rows, width)` each, 0 for rows without a score; empty unless
            they were requested.
    """

    scores: np.ndarray
    novelty: np.ndarray
    reasons: list[str | None]
    read: list[str | None]
    report: MediaReport
    features: dict[str, np.ndarray] = field(default_factory=dict)


def missing_reasons(rows: pa.Table, input_spec: InputSpec, is_missing: np.ndarray) -> list[str]:
    """Return why rows have no input: what is wrong with their files, or that they name none.

    Args:
        rows: Prepared rows.
        input_spec: Inputs that the model reads.
        is_missing: Which rows have no input, `(rows,)`.

    Returns:
        A reason for each of these rows.
    """
    if not input_spec.media:
        return [NO_INPUT if input_spec.values else NO_TEXT] * int(is_missing.sum())
    selected = rows.filter(pa.array(is_missing))
    problems = []
    for name in input_spec.media:
        messages = selected[f"{name}{TROUBLE}"].to_pylist()
        problems.append([message and f"{name}: {message.splitlines()[0]}" for message in messages])
    return ["; ".join(filter(None, row)) or NO_INPUT for row in zip(*problems, strict=True)]
