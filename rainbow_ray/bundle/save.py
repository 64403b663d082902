"""Save the model of a finished run: its refit on all songs, or the models of its folds as an ensemble."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rainbow_ray.bundle.bundle import Bundle, Member, save_bundle
from rainbow_ray.bundle.model_card import write_card
from rainbow_ray.bundle.novelty import Novelty, fit_novelty
from rainbow_ray.calibration.apply import Calibration
from rainbow_ray.evaluation.results import Results
from rainbow_ray.modalities.text.encoder import TextEncoder
from rainbow_ray.modalities.text.frozen_encoder import load_frozen_encoder
from rainbow_ray.model.model import RainbowModel
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.stacking.linear_member import layer_of_key
from rainbow_ray.training.checkpoint import load_fitted_model
from rainbow_ray.training.cross_validation import FitResult


def save_run_model(
    plan: RunPlan,
    data: PreparedData,
    folder: Path,
    fits: Sequence[FitResult],
    results: Results,
    summary: Mapping[str, Any],
) -> None:
    """Write the bundle of a run.

    Args:
        plan: The run.
        data: Its data.
        folder: Folder of the bundle.
        fits: Finished fits. The last one is saved, or all of them with `training.ensemble`.
        results: Evaluation of the run, with its calibrations.
        summary: Content of `summary.json`, for the model card.
    """
    if plan.config.training.ensemble and len(fits) > 1:
        members = tuple(_load_member(plan, data, fit, results) for fit in fits)
        task = data.task.fit(data.source.targets[data.split.fold >= 0], plan.config.training)
        model, train_indices = members[0].model, np.flatnonzero(data.split.fold >= 0)
        stack = None
    else:
        members = ()
        stack = None if results.stack is None else results.stack.stack_of(fits[-1].job.fold)
        model, task = load_fitted_model(plan.config, plan.input_spec, data.task, fits[-1].job.folder)
        train_indices = fits[-1].job.train
    info = {
        "phase": plan.config.phase,
        "target": plan.target,
        "id_column": plan.columns.song,
        "text_columns": list(plan.columns.text) if plan.input_spec.text else [],
        "media_columns": {column.modality: [column.name, column.rate] for column in plan.columns.media},
        "max_tokens": plan.input_spec.max_tokens,
        "encoder": plan.input_spec.text,
        "example_level": plan.unit,
        **_segment_info(plan),
        **_media_info(plan),
        "trained_on_songs": len(np.unique(data.index.codes("song", train_indices))),
        "data_hash": data.profile["data_hash"],
        "config_hash": plan.config.hash(),
        "calibration": results.calibration.to_json(),
    }
    bundle = Bundle(model, task, plan.input_spec.text, info, members, stack, novelty=_novelty(plan, results, model))
    bundle = dataclasses.replace(bundle, frozen_encoder=_frozen_encoder(plan, bundle))
    save_bundle(folder, bundle, plan.config.model, write_card(summary, info, len(members)))


def _load_member(plan: RunPlan, data: PreparedData, fit: FitResult, results: Results) -> Member:
    """Return the fit of a fold, with the calibration of its held-out scores, which was fitted on the other folds."""
    model, task = load_fitted_model(plan.config, plan.input_spec, data.task, fit.job.folder)
    assert fit.job.fold is not None, "a refit is not a member of an ensemble"
    calibration = results.calibrations.get(fit.job.fold, Calibration())
    stack = None if results.stack is None else results.stack.stack_of(fit.job.fold)
    return Member(model, task, calibration, fit.job.fold, stack)


def _novelty(plan: RunPlan, results: Results, model: RainbowModel) -> Novelty | None:
    """Return the songs with which new ones are compared.

    A text encoder that was trained is left out, unless the stacked ensemble keeps the pretrained one as well.
    """
    if results.references is None:
        return None
    features = results.references.features
    if model.text is not None and any(parameter.requires_grad for parameter in model.text.parameters()):
        stack = results.stack.stack_of(None) if results.stack is not None else None
        keeps_encoder = stack is not None and any(layer_of_key(key) is not None for key in stack.feature_keys)
        features = {key: values for key, values in features.items() if keeps_encoder or layer_of_key(key) is None}
    return fit_novelty(features, results.references.songs, seed=plan.config.reproducibility.seed)


def _frozen_encoder(plan: RunPlan, bundle: Bundle) -> TextEncoder | None:
    """Return the frozen text encoder whose hidden states linear models and novelty read, or None where none does."""
    layers = [layer for key in bundle.feature_keys if (layer := layer_of_key(key)) is not None]
    if not layers:
        return None
    model = bundle.model
    if model.has_frozen_features and model.text is not None:
        layers.append(model.text.depth)  # the network then reads the same encoding
    return load_frozen_encoder(plan.input_spec.text, plan.config.model.text_encoder, max(1, *layers))


def _media_info(plan: RunPlan) -> dict[str, Any]:
    """Return fields of a bundle that reads audio or MIDI."""
    if plan.input_spec.media_reader is None:
        return {}
    return {
        "windows": plan.input_spec.media_reader.windows.to_json(),
        "max_unreadable_fraction": plan.config.data.max_unreadable_fraction,
    }


def _segment_info(plan: RunPlan) -> dict[str, Any]:
    """Return fields of a bundle that predicts segments."""
    times, segments = plan.columns.times, plan.config.segments
    if times is None:
        return {}
    return {
        "times": [times.start, times.end, times.index],
        "segments": {
            "max_sequence_length": segments.max_sequence_length,
            "overlap": segments.overlap,
            "seconds": segments.seconds,
        },
    }
