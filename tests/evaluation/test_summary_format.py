"""Summaries of earlier format versions are read under the present keys."""

from __future__ import annotations

import json

import pytest

from rainbow_ray.evaluation.summary_format import SUMMARY_FORMAT, read_summary, upgrade_summary
from rainbow_ray.utils.errors import InputError

FORMER_RUN = {
    "phase": 5, "problem": "segmentation", "inner": "multiclass", "best": {"epoch": 2, "macro_f1": 0.5}, "signs": ["a"],
    "difference": {"value": 0.1, "low": 0.0, "high": 0.2}, "data_wait": 0.25, "gpu_use": None,
}  # fmt: skip
FORMER_SWEEP = {
    "sweep": True, "problem": "binary", "corrected": {"won": 0.9, "value": 0.8}, "confirmed": {"seeds": [1]},
    "prefix_seconds": {"spent": 2.0, "without": 30.0},
}  # fmt: skip


def test_the_keys_of_a_run_of_format_1_are_renamed():
    assert upgrade_summary(FORMER_RUN) == {
        "format": SUMMARY_FORMAT, "phase": 5, "task": "segmentation", "base_task": "multiclass",
        "metrics": {"epoch": 2, "macro_f1": 0.5}, "training_warnings": ["a"],
        "difference_to_baseline": {"value": 0.1, "low": 0.0, "high": 0.2}, "data_wait_fraction": 0.25,
        "gpu_utilization": None,
    }  # fmt: skip


def test_the_keys_of_a_sweep_of_format_1_are_renamed():
    assert upgrade_summary(FORMER_SWEEP) == {
        "format": SUMMARY_FORMAT, "sweep": True, "task": "binary", "corrected": {"selected_score": 0.9, "value": 0.8},
        "revalidation": {"seeds": [1]}, "cache_seconds": {"spent": 2.0, "without_cache": 30.0},
    }  # fmt: skip


def test_a_sweep_without_a_corrected_score_is_upgraded():
    assert upgrade_summary({"corrected": None})["corrected"] is None


@pytest.mark.parametrize("document", [FORMER_RUN, FORMER_SWEEP])
def test_upgrading_twice_changes_nothing(document):
    upgraded = upgrade_summary(document)
    assert upgrade_summary(upgraded) == upgraded


def test_a_file_is_read_and_upgraded(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(FORMER_RUN))
    assert read_summary(path) == upgrade_summary(FORMER_RUN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "summary.json: the file is damaged"),
        ("[]", "summary.json: the file is damaged"),
        ('{"format": 99}', "update rainbow_ray"),
        ('{"format": "new"}', "update rainbow_ray"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "summary.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_summary(path)


def test_baselines_of_earlier_versions_have_their_present_names():
    former = {
        "baselines": {"majority": {}, "words + stumps": {"f1": 0.5}, "none": {}},
        "best_baseline": "words + stumps",
        "confirmed": {"best_baseline": "frozen + linear"},
    }
    upgraded = upgrade_summary(former)
    assert upgraded["baselines"] == {"majority": {}, "bag of words + boosting": {"f1": 0.5}, "no context": {}}
    assert upgraded["best_baseline"] == "bag of words + boosting"
    assert upgraded["revalidation"]["best_baseline"] == "frozen encoder + linear"
