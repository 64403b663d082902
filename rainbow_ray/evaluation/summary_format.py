"""The format of `summary.json`: its version, and the one reader that gives summaries of earlier versions today's keys.

Version 1 (no `format` key) was written by rainbow_ray 0.1. Version 2 uses standard names for the same values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rainbow_ray.baselines.names import FORMER_BASELINES
from rainbow_ray.utils.errors import InputError, first_line
from rainbow_ray.utils.mappings import rename_keys

PREDICTION = "prediction"  # column of `predictions.parquet`

SUMMARY_FORMAT = 2
# keys of version 1 and what they are called since version 2, for runs and sweeps alike
RENAMED_KEYS = {
    "problem": "task",
    "inner": "base_task",
    "best": "metrics",
    "signs": "training_warnings",
    "difference": "difference_to_baseline",
    "data_wait": "data_wait_fraction",
    "gpu_use": "gpu_utilization",
    "confirmed": "revalidation",
    "prefix_seconds": "cache_seconds",
}
# the same for keys inside an object, by the object's present name
RENAMED_NESTED_KEYS = {
    "corrected": {"won": "selected_score"},
    "cache_seconds": {"without": "without_cache"},
}


def song_column(name: str) -> str:
    """Return the column with the value of a stem's song.

    Args:
        name: `prediction`, or the name of a score.

    Returns:
        The name of the column.
    """
    return f"song_{name}"


def read_summary(path: Path) -> dict[str, Any]:
    """Return the summary of a finished run or sweep, with the keys of the present format version.

    Args:
        path: `summary.json` of a run or a sweep, written by this version or an earlier one.

    Returns:
        The summary, as `upgrade_summary` returns it.

    Raises:
        InputError: The file cannot be read, is damaged, or was written by a later version.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: the file is damaged ({first_line(error)})") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: the file is damaged (it is not a JSON object, so all keys are missing)")
    version = document.get("format", 1)
    if not isinstance(version, int) or version > SUMMARY_FORMAT:
        raise InputError(
            f"{path}: its format is {version!r}, and this version of rainbow_ray reads up to {SUMMARY_FORMAT};"
            " update rainbow_ray"
        )
    return upgrade_summary(document)


def upgrade_summary(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a summary in which former keys have their present names.

    Args:
        document: A summary of any format version up to the present one. A present key is kept where both exist.

    Returns:
        The summary with `format` set to the present version.
    """
    upgraded = rename_keys(document, RENAMED_KEYS)
    for name, renamed in RENAMED_NESTED_KEYS.items():
        if isinstance(upgraded.get(name), Mapping):
            upgraded[name] = rename_keys(upgraded[name], renamed)
    if isinstance(upgraded.get("baselines"), Mapping):
        upgraded["baselines"] = rename_keys(upgraded["baselines"], FORMER_BASELINES)
    upgraded = _rename_best_baseline(upgraded)
    if isinstance(upgraded.get("revalidation"), Mapping):
        upgraded["revalidation"] = _rename_best_baseline(upgraded["revalidation"])
    return {**upgraded, "format": SUMMARY_FORMAT}


def _rename_best_baseline(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy whose best baseline has its present name."""
    name = document.get("best_baseline")
    return {**document, "best_baseline": FORMER_BASELINES[name]} if name in FORMER_BASELINES else dict(document)
