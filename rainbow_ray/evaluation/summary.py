"""`summary.json` of a run: results, counts, seconds and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rainbow_ray.baselines.common import MAX_EXAMPLES
from rainbow_ray.evaluation.modality_ablation import mean_attention
from rainbow_ray.evaluation.results import Results
from rainbow_ray.evaluation.stacked_scores import describe_contributions
from rainbow_ray.evaluation.summary_format import SUMMARY_FORMAT
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.stacking.stack import NEURAL
from rainbow_ray.training.cross_validation import FitResult, best_length


def summarize(
    plan: RunPlan,
    data: PreparedData,
    results: Results,
    folds: Sequence[FitResult],
    refit: FitResult | None,
    seconds: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the content of `summary.json`.

    Args:
        plan: The run's plan.
        data: The run's data.
        results: The run's results.
        folds: Results of the folds.
        refit: Result of the refit on all songs, if there is one.
        seconds: Seconds of the command, in total and by part.

    Returns:
        The summary in the present format, as JSON values.
    """
    fits = [*folds, *([refit] if refit else [])]
    is_ensemble = plan.config.training.ensemble and refit is None and len(folds) > 1
    return {
        "format": SUMMARY_FORMAT,
        "phase": plan.config.phase,
        "task": plan.task.name,
        **data.task.summary_fields(),
        "target": plan.target,
        "metric": plan.config.training.headline,
        "selected_on": _selection(plan, folds),
        "penalties": [fit.facts.get("penalty") for fit in fits],
        **_results_fields(plan, results, folds),
        "unit": plan.unit,
        "notes": [*collect_notes(plan, data, fits), *results.calibration_notes, *_stack_notes(plan, data, results)],
        "calibration": results.calibration.to_json(),
        "ensemble": len(folds) if is_ensemble else None,
        "counts": _counts(data, results, folds),
        **_cost_fields(plan, fits, seconds),
        "device": folds[0].facts["device"],
        "precision": folds[0].facts["precision"],
        "config_hash": plan.config.hash(),
        "data_hash": data.profile["data_hash"],
        "manifest": plan.manifest.location,
        "demo": plan.demo,
    }


def _selection(plan: RunPlan, folds: Sequence[FitResult]) -> str:
    """Return what determined the length of training, or that the classifier was solved."""
    if folds[0].facts.get("penalty") is not None:
        return "solved"
    return "inner split" if plan.config.training.early_stopping.enabled else "fixed length"


def collect_notes(plan: RunPlan, data: PreparedData, fits: Sequence[FitResult]) -> list[str]:
    """Return the notes of all steps of a run, each once.

    Args:
        plan: The run's plan, with its warnings.
        data: The run's data, with its warnings.
        fits: Results of all fits, with their notes.

    Returns:
        Messages in the order of the steps.
    """
    messages = [*plan.warnings, *data.warnings, *(note for fit in fits for note in fit.facts["notes"])]
    if plan.input_spec.audio not in (None, "embedded"):
        messages.append(
            "the defaults for audio were measured with the embedded encoder only; they have not been measured with"
            f" {plan.input_spec.audio}"
        )
    if plan.input_spec.text not in ("", "embedded"):
        messages.append(
            "the default recipe (layer, freezing, bag of words) was measured with the embedded encoder only; it has"
            f" not been measured with {plan.input_spec.text}"
        )
    return list(dict.fromkeys(messages))


def _results_fields(plan: RunPlan, results: Results, folds: Sequence[FitResult]) -> dict[str, Any]:
    measurements, comparison = results.measurements, results.comparison
    modalities = {name: ablation.to_json() for name, ablation in results.diagnosis.modalities.items()}
    return {
        "metrics": {"epoch": best_length([fold.facts for fold in folds]), **measurements.metrics},
        "undefined": measurements.undefined,
        "ci95": measurements.ci95,
        **measurements.details,
        **({"modalities": modalities, "attention": mean_attention(plan, folds)} if modalities else {}),
        "baselines": comparison.baselines,
        "best_baseline": comparison.best,
        "difference_to_baseline": vars(comparison.difference) if comparison.difference else None,
        "verdict": comparison.verdict,
        "learning_curve": None if results.curve is None else results.curve.to_json(),
        "stack": None if results.stack is None else _stack_fields(results),
        "training_warnings": results.diagnosis.warnings,
    }


def _stack_notes(plan: RunPlan, data: PreparedData, results: Results) -> list[str]:
    """A message where a stacked ensemble was requested, and the baselines gave no fits."""
    if plan.config.training.combine != "stack" or results.stack is not None or data.task.is_weakly_labeled:
        return []
    return [
        "training.combine: stack: the neural network is kept alone: there are more than"
        f" {MAX_EXAMPLES} examples, they are streamed, or no baseline reads features that training leaves as they are"
    ]


def _stack_fields(results: Results) -> dict[str, Any]:
    assert results.stack is not None
    assert results.neural is not None
    weights, difference = results.stack.weights, results.neural.difference
    return {
        "weights": {name: round(value, 4) for name, value in zip(weights.names, weights.weights, strict=True)},
        "shares": {name: round(value, 4) for name, value in results.stack.shares.items()},
        "left_out": [name for name in (NEURAL, *results.stack.fits.scores) if name not in weights.names],
        "neural": results.neural.metrics,
        "difference_to_neural": vars(difference) if difference else None,
        "contributions": describe_contributions(results.stack.shares),
    }


def _counts(data: PreparedData, results: Results, folds: Sequence[FitResult]) -> dict[str, Any]:
    profile = data.profile
    return {
        "train_examples": int(np.median([len(fold.job.train) for fold in folds])),
        "val_examples": results.n_labeled_examples,
        "songs": profile["songs"],
        "folds": data.split.n_folds,
        "parameters": folds[0].facts["parameters"],
        "dropped": profile["dropped"],
        **({"segments": profile["segments"], "masked": profile["masked"]} if data.source.sequence_index else {}),
    }


def _cost_fields(plan: RunPlan, fits: Sequence[FitResult], seconds: Mapping[str, Any]) -> dict[str, Any]:
    by_part = {part: round(sum(fit.facts["seconds"][part] for fit in fits), 2) for part in ("train", "data", "eval")}
    # fits that an earlier version finished have the former key
    measured = [fit.facts.get("gpu_utilization", fit.facts.get("gpu_use")) for fit in fits]
    utilizations = [value for value in measured if value is not None]
    n_tokens = sum(fit.facts["tokens"] for fit in fits)
    train_seconds = by_part["train"]
    usd_per_hour = plan.config.logging.usd_per_hour
    return {
        "seconds": {**seconds, **by_part},
        "tokens_per_second": round(n_tokens / train_seconds, 1) if n_tokens and train_seconds else None,
        "data_wait_fraction": round(by_part["data"] / train_seconds, 4) if train_seconds else None,
        "gpu_utilization": round(float(np.mean(utilizations)), 3) if utilizations else None,
        "workers": max(fit.facts["workers"] for fit in fits),
        "checkpoint_seconds": round(sum(fit.facts["checkpoints"]["seconds"] for fit in fits), 3),
        "peak_memory_mb": max(fit.facts["peak_memory_mb"] for fit in fits),
        "cost_usd": None if usd_per_hour is None else round(usd_per_hour * seconds["total"] / 3600, 4),
    }
