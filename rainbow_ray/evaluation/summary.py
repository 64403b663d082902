"""What a finished run says: `predictions.parquet`, `summary.json` and the table that closes the command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from rainbow_ray.calibration.apply import Calibration
from rainbow_ray.calibration.fit import calibrate
from rainbow_ray.data.dataset import scatter_song_means
from rainbow_ray.data.segments import TIMES
from rainbow_ray.evaluation.bootstrap import (
    Difference,
    ScoredPredictions,
    best_baseline,
    bootstrap_ci,
    measure,
    paired_bootstrap,
    verdict,
)
from rainbow_ray.evaluation.diagnostics import training_warnings
from rainbow_ray.evaluation.modality_ablation import ModalityAblation, ablate_modalities, attention, behind
from rainbow_ray.evaluation.summary_format import SUMMARY_FORMAT
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.tasks.base import Metrics
from rainbow_ray.tasks.scores import decode_folds, is_scored
from rainbow_ray.tasks.segment_task import WEAK
from rainbow_ray.training.cross_validation import FitResult, out_of_fold
from rainbow_ray.utils.io import atomic_write
from rainbow_ray.utils.number_format import format_interval, format_number

NONE = "none"  # the baseline that is this model without time and neighbours


@dataclass(frozen=True)
class Results:
    """Out-of-fold results of a run, measured on the songs that some fold held out."""

    metrics: Metrics
    undefined: dict[str, str]
    ci95: dict[str, list[float] | None]
    baselines: dict[str, Metrics]
    best_baseline: str | None
    gap: Difference | None
    verdict: str
    training_warnings: list[str]
    details: dict[str, Any]
    scored: ScoredPredictions  # of all examples, NaN for those that no fold held out
    calibration: Calibration  # what all of them teach
    calibrations: Mapping[int, Calibration]  # what the other folds teach of each
    notes: list[str]
    examples: int
    songs: int
    brought: dict[str, ModalityAblation]  # by what alone was read, where there are several


def evaluate(plan: RunPlan, data: PreparedData, folds: list[FitResult], baselines: Mapping[str, np.ndarray]) -> Results:
    """Put the folds' scores together and hold them against the baselines, on the same songs."""
    task, seed = data.task, plan.config.reproducibility.seed
    metric = plan.config.training.headline
    every = np.flatnonzero(data.split.fold >= 0)
    scores = scatter_song_means(data.source, out_of_fold(data.source, task, folds, lambda outcome: outcome.val_scores))
    held = every[is_scored(scores[every], task)]
    baselines = {name: scatter_song_means(data.source, values) for name, values in baselines.items()}
    # where examples are many, baselines speak for some of them, and are compared on those
    both = held[is_scored(next(iter(baselines.values()))[held], task)]
    targets, songs = data.source.targets[held], data.index.codes("song", held)
    compared = np.isin(held, both)
    asked = plan.config.calibration
    made = calibrate(asked, task, targets, scores[held], songs, data.split.fold[held])
    scored = ScoredPredictions(scores, scores.copy())
    scored.scores[held], scored.thresholded[held] = made.scores, made.thresholded
    sides = [data.split.train_val_indices(fold) for fold in range(data.split.n_folds)]
    scored.thresholded[held] = decode_folds(task, data.source.targets, sides, scored.thresholded)[held]
    metrics, undefined = measure(task, targets, scored.take(held))
    others = {name: ScoredPredictions(values, values) for name, values in baselines.items()}
    if NONE in baselines:  # the same model: decoded as ours is
        others[NONE] = ScoredPredictions(
            baselines[NONE], decode_folds(task, data.source.targets, sides, baselines[NONE])
        )
    measured = {name: measure(task, targets[compared], one.take(both))[0] for name, one in others.items()}
    best = best_baseline(task, metric, measured)
    gap = None
    if best is not None:
        gap = paired_bootstrap(
            task, metric, targets[compared], scored.read_by(task, metric)[both],
            others[best].read_by(task, metric)[both],
            songs[compared], seed=seed,
        )  # fmt: skip
    ours = task.metric(metric, targets[compared], scored.read_by(task, metric)[both])
    n_songs = len(np.unique(songs[compared]))
    sentence = verdict(metric, best, measured[best][metric] if best else None, ours, gap, n_songs)
    labelled = held[task.has_label(targets)]
    thresholded = task.decode_predictions(scored.thresholded[labelled])
    found = training_warnings(plan.config.training, [o.facts for o in folds], thresholded, task.imbalance_advice)
    ci95 = bootstrap_ci(task, targets, scored.take(held), songs, seed=seed)
    details = task.details(targets, scored.thresholded[held])
    brought = ablate_modalities(plan, data, folds, scores, held)
    found += behind(metric, brought)
    return Results(
        metrics, undefined, ci95, measured, best, gap, sentence, found, details, scored, made.calibration, made.by_fold,
        list(made.notes), len(labelled),
        n_songs, brought,
    )  # fmt: skip


def write_predictions(path: Path, data: PreparedData, results: Results, outcomes: list[FitResult]) -> None:
    """A row an example, fold and side: unique per (`example_id`, `fold`, `split`).

    Scores that were held out are calibrated by what the other folds teach, all others by what all of them do.
    """
    parts = []
    for outcome in outcomes:
        for split, rows, scores in (
            # songs that are read anew each epoch have no scores of the training side
            ("train", outcome.job.train[: len(outcome.train_scores)], outcome.train_scores),
            ("val", outcome.job.val, outcome.val_scores),
        ):
            if split == "val" and outcome.job.fold is not None and data.source.songs is None:
                scored = results.scored.take(rows)
            elif data.task.is_sequence_task:
                targets = data.source.targets
                fitted = data.task.fit_decoding(targets[outcome.job.train])
                scored = ScoredPredictions(
                    scores, fitted.decode_scores(targets[rows], scores) if len(scores) else scores
                )
            else:
                made = results.calibration.probabilities(scores)
                scored = ScoredPredictions(made, results.calibration.thresholded(made))
            parts.append(_prediction_rows(data, outcome.job.fold, split, rows, scored))
    table = pa.concat_tables(parts)
    atomic_write(path, lambda file: pq.write_table(table, file))


def _prediction_rows(
    data: PreparedData, fold: int | None, split: str, rows: np.ndarray, scored: ScoredPredictions
) -> pa.Table:
    n, task = len(rows), data.task
    columns = scored.scores.reshape(n, len(task.score_names)).astype(task.score_dtype)
    thresholded = task.decode_predictions(scored.thresholded) if n else []
    at = pa.array(rows)
    when: dict[str, pa.Array] = {}
    if task.is_sequence_task:
        when = {name: data.index.table[name].take(at) for name in TIMES}
        when[WEAK] = pa.array(
            [task.is_weakly_labeled] * n, pa.bool_()
        )  # scores that were never compared with a segment's own label
    return pa.table(
        {
            "example_id": data.index.table["example_id"].take(at),
            "song": data.index.table["song"].take(at).cast(pa.string()),
            **when,
            "fold": pa.array([fold] * n, pa.int32()),
            "split": pa.array([split] * n, pa.string()),
            "target": task.target_column(data.source.targets[rows]),
            "prediction": pa.array(thresholded, task.prediction_type),
            **{name: pa.array(columns[:, i]) for i, name in enumerate(task.score_names)},
        }
    )


def summarize(
    plan: RunPlan,
    data: PreparedData,
    results: Results,
    folds: list[FitResult],
    refit: FitResult | None,
    seconds: dict[str, Any],
) -> dict[str, Any]:
    """`summary.json`."""
    fits = [*folds, *([refit] if refit else [])]
    spent = {part: round(sum(o.facts["seconds"][part] for o in fits), 2) for part in ("train", "data", "eval")}
    uses = [o.facts["gpu_use"] for o in fits if o.facts["gpu_use"] is not None]
    tokens = sum(o.facts["tokens"] for o in fits)
    price = plan.config.logging.usd_per_hour
    return {
        "format": SUMMARY_FORMAT,
        "phase": plan.config.phase,
        "task": plan.task.name,
        **data.task.summary_fields(),
        "target": plan.target,
        "metric": plan.config.training.headline,
        "selected_on": "inner split" if plan.config.training.early_stopping.enabled else "fixed length",
        "metrics": {"epoch": best_length(folds), **results.metrics},
        "undefined": results.undefined,
        "ci95": results.ci95,
        **results.details,
        **(
            {
                "modalities": {name: one.to_json() for name, one in results.brought.items()},
                "attention": attention(plan, folds),
            }
            if results.brought
            else {}
        ),
        "unit": plan.unit,
        "baselines": results.baselines,
        "best_baseline": results.best_baseline,
        "difference_to_baseline": vars(results.gap) if results.gap else None,
        "verdict": results.verdict,
        "training_warnings": results.training_warnings,
        "notes": [*notes(plan, data, fits), *results.notes],
        "calibration": results.calibration.to_json(),
        "ensemble": len(folds) if plan.config.training.ensemble and refit is None and len(folds) > 1 else None,
        "counts": {
            "train_examples": int(np.median([len(o.job.train) for o in folds])),
            "val_examples": results.examples,
            "songs": data.profile["songs"],
            "folds": data.split.n_folds,
            "parameters": folds[0].facts["parameters"],
            "dropped": data.profile["dropped"],
            **(
                {"segments": data.profile["segments"], "masked": data.profile["masked"]}
                if data.source.sequence_index
                else {}
            ),
        },
        "seconds": {**seconds, **spent},
        "tokens_per_second": round(tokens / spent["train"], 1) if tokens and spent["train"] else None,
        "data_wait_fraction": round(spent["data"] / spent["train"], 4) if spent["train"] else None,
        "gpu_utilization": round(float(np.mean(uses)), 3) if uses else None,
        "workers": max(o.facts["workers"] for o in fits),
        "checkpoint_seconds": round(sum(o.facts["checkpoints"]["seconds"] for o in fits), 3),
        "peak_memory_mb": max(o.facts["peak_memory_mb"] for o in fits),
        "device": folds[0].facts["device"],
        "precision": folds[0].facts["precision"],
        "cost_usd": None if price is None else round(price * seconds["total"] / 3600, 4),
        "config_hash": plan.config.hash(),
        "data_hash": data.profile["data_hash"],
        "manifest": plan.manifest.location,
        "demo": plan.demo,
    }


def best_length(folds: list[FitResult]) -> int:
    """The median best number of epochs over the folds: how long the refit trains."""
    return max(1, round(float(np.median([outcome.facts["best_epoch"] for outcome in folds]))))


def notes(plan: RunPlan, data: PreparedData, fits: list[FitResult]) -> list[str]:
    """Everything that differs from what was asked for or deserves a word, once each."""
    said = [*plan.warnings, *data.warnings, *(note for outcome in fits for note in outcome.facts["notes"])]
    if plan.reading.audio not in (None, "embedded"):
        said.append(f"the defaults for audio were measured with the embedded net only; on {plan.reading.audio} they are"
                    " a guess")  # fmt: skip
    if plan.reading.text not in ("", "embedded"):
        said.append(
            "the default recipe (layer read, freezing, words) was measured with the embedded encoder only;"
            f" on {plan.reading.text} it is a guess"
        )
    return list(dict.fromkeys(said))


def print_summary(summary: Mapping[str, Any], folder: Path, shown: list[str], console: Console) -> None:
    """The table that closes a run: result, interval, baselines, verdict, cost, where the files lie."""
    names = [name for name in dict.fromkeys([summary["metric"], *shown]) if name != "loss"]
    folds = summary["counts"]["folds"]
    how = f"out of {folds} folds" if folds > 1 else "one split"
    what = "examples" if "segments" not in summary["counts"] else "segments"
    if summary.get("weak"):
        what = "segments of songs (WEAK: scored as songs)"
    table = Table(title=f"{summary['target']}: {summary['counts']['val_examples']} {what}, {how}", title_justify="left")

    table.add_column("")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")  # so that a long one can wrap
    rows = [("model", summary["metrics"]), *summary["baselines"].items()]
    for label, values in rows:
        table.add_row(label, *(_number(values.get(name)) for name in names), style="bold" if label == "model" else None)
        if label == "model":
            table.add_row("  95% interval", *(_interval(summary["ci95"].get(name)) for name in names))
            table.add_section()
    console.print(table, soft_wrap=False)
    console.print(summary["verdict"], style="bold")
    for line in [*summary["training_warnings"], *(f"Note: {note}" for note in summary["notes"])]:
        console.print(line)
    seconds = summary["seconds"]
    cost = f", ${summary['cost_usd']:.4f}" if summary["cost_usd"] is not None else ""
    console.print(
        f"{seconds['total']:.0f} s in all (training {seconds['train']:.0f} s, scoring {seconds['eval']:.0f} s over all"
        f" workers){cost}; {summary['device']}, {summary['precision']}; run in {folder}/",
    )


def _number(value: float | None) -> str:
    return format_number(value)


def _interval(pair: list[float] | None) -> str:
    return format_interval(pair)
