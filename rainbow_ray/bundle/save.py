"""The model that a finished run keeps: its refit, or its folds' models as an ensemble, with a card for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rainbow_ray.bundle.bundle import Bundle, Member, save_bundle
from rainbow_ray.bundle.model_card import write_card
from rainbow_ray.calibration.apply import Calibration
from rainbow_ray.evaluation.summary import Results
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.training.cross_validation import FitResult
from rainbow_ray.training.learner import load_fitted


def keep_model(
    plan: RunPlan,
    data: PreparedData,
    folder: Path,
    outcomes: Sequence[FitResult],
    results: Results,
    summary: Mapping[str, Any],
) -> None:
    """Write the bundle of a run: of the last of its fits, or, where an ensemble was asked for, of all of them."""
    if plan.config.training.ensemble and len(outcomes) > 1:
        members = tuple(_member(plan, data, outcome, results) for outcome in outcomes)
        task = data.task.fit(data.source.targets[data.split.fold >= 0], plan.config.training)
        model, trained = members[0].model, np.flatnonzero(data.split.fold >= 0)
    else:
        members = ()
        model, task = load_fitted(plan.config, plan.reading, data.task, outcomes[-1].job.folder)
        trained = outcomes[-1].job.train
    info = {
        "phase": plan.config.phase,
        "target": plan.target,
        "id_column": plan.columns.song,
        "text_columns": list(plan.columns.text) if plan.reading.text else [],
        "media_columns": {column.modality: [column.name, column.rate] for column in plan.columns.media},
        "max_tokens": plan.reading.max_tokens,
        "encoder": plan.reading.text,
        "unit": plan.unit,
        **_segment_info(plan),
        **_media_info(plan),
        "trained_on_songs": len(np.unique(data.index.codes("song", trained))),
        "data_hash": data.profile["data_hash"],
        "config_hash": plan.config.hash(),
        "calibration": results.calibration.to_json(),
    }
    bundle = Bundle(model, task, plan.reading.text, info, members)
    save_bundle(folder, bundle, plan.config.model, write_card(summary, info, len(members)))


def _member(plan: RunPlan, data: PreparedData, outcome: FitResult, results: Results) -> Member:
    """A fold's fit, with what the other folds teach of its scores: as the run's held-out scores were made."""
    model, task = load_fitted(plan.config, plan.reading, data.task, outcome.job.folder)
    assert outcome.job.fold is not None, "a refit is no member"
    calibration = results.calibrations.get(outcome.job.fold, Calibration())
    return Member(model, task, calibration, outcome.job.fold)


def _media_info(plan: RunPlan) -> dict[str, Any]:
    """What a bundle needs to know of audio and MIDI: which windows are read, and how many files may be unreadable."""
    if plan.reading.media_reader is None:
        return {}
    return {
        "windows": vars(plan.reading.media_reader.windows),
        "max_bad_media": plan.config.data.max_unreadable_fraction,
    }


def _segment_info(plan: RunPlan) -> dict[str, Any]:
    """What a bundle needs to know of a table of segments."""
    times, segments = plan.columns.times, plan.config.segments
    if times is None:
        return {}
    cut = {"together": segments.max_sequence_length, "overlap": segments.overlap, "seconds": segments.seconds}
    return {"times": [times.start, times.end, times.index], "segments": cut}
