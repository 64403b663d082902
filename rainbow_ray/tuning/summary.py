"""Results of a sweep: `summary.json`, `trials.csv`, `best.yaml`, and the table that `tune` prints at its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rainbow_ray.config.load import dump
from rainbow_ray.config.schema import Config
from rainbow_ray.evaluation.bootstrap import Difference
from rainbow_ray.evaluation.summary_format import SUMMARY_FORMAT
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.tuning.bbc_cv import CorrectedScore
from rainbow_ray.tuning.trial_log import FULL_BUDGET, Trial, format_values
from rainbow_ray.utils.io import atomic_write
from rainbow_ray.utils.number_format import format_difference, format_interval, format_number, format_numbers

MAX_TRIALS = 10  # in the printed table


@dataclass(frozen=True)
class Revalidation:
    """Means over fresh seeds, and the differences of the best config to the default config and to the best baseline.

    Attributes:
        seeds: Seeds of the fits.
        fresh_splits: Whether each seed has a split of its own; False where a file defines the split.
        winner: Headline metric of the best config, or None where undefined.
        default: Headline metric of the default config, or None where it failed or the metric is undefined.
        best_baseline: Name of the best baseline, if any.
        baseline: Headline metric of that baseline.
        over_default: Paired difference to the default config.
        over_baseline: Paired difference to the best baseline.
        stacked: Whether both configs were combined with the baselines, as the run of the best one is.
    """

    seeds: list[int]
    fresh_splits: bool
    winner: float | None
    default: float | None
    best_baseline: str | None
    baseline: float | None
    over_default: Difference | None
    over_baseline: Difference | None
    stacked: bool = False

    @property
    def description(self) -> str:
        """The number of fresh splits or seeds, for messages."""
        return f"{len(self.seeds)} fresh {'splits' if self.fresh_splits else 'seeds'}"


def verdict(
    metric: str, winner: Trial, corrected: CorrectedScore | None, revalidation: Revalidation, n_songs: int
) -> str:
    """Return some sentences on whether the sweep found a config that is better than the default.

    It did where both the fresh splits and the gain that is corrected for the selection show it: fresh splits alone hold
    the same songs that the config was selected on.

    Args:
        metric: Name of the headline metric.
        winner: The best trial.
        corrected: Its score corrected for the selection.
        revalidation: The comparison on fresh splits.
        n_songs: Number of songs.

    Returns:
        The verdict.
    """
    sentences = [_compare_with_default(metric, winner, corrected, revalidation, n_songs)]
    over_baseline = revalidation.over_baseline
    if over_baseline is not None and over_baseline.high < 0:
        sentences.append(f"It loses to {revalidation.best_baseline} ({format_number(revalidation.baseline)}).")
    if corrected is not None:
        sentences.append(f"Corrected for its selection among the trials: {format_number(corrected.value)}.")
    return " ".join(sentences)


def _compare_with_default(
    metric: str, winner: Trial, corrected: CorrectedScore | None, revalidation: Revalidation, n_songs: int
) -> str:
    if winner.number == 0:
        return "The sweep found nothing: the default config is the best of all trials."
    difference, name = revalidation.over_default, f"trial {winner.number}"
    if revalidation.default is None:
        return f"No verdict on {name}: the default config failed, so there is nothing to compare it with."
    if difference is None or revalidation.winner is None:
        return f"No verdict on {name}: {metric} is not defined on these songs."
    values = " against ".join(format_numbers([revalidation.winner, revalidation.default]))
    numbers = f"{metric} {values} on {revalidation.description}, {_format_difference(difference)}"
    if difference.value <= 0:
        return f"The sweep found nothing: {name} is no better than the default config, {numbers}."
    if difference.low <= 0:
        return f"The sweep found nothing that {n_songs} songs can show: {name} and the default config, {numbers}."
    if corrected is None or corrected.gain is None or corrected.gain.low > 0:
        return f"The sweep found something: {name} beats the default config, {numbers}."
    return (
        f"The sweep found nothing that {n_songs} songs can show: {name} is ahead of the default config, {numbers}, but"
        f" on the songs that it was selected on; corrected for the selection it gains"
        f" {_format_difference(corrected.gain)}."
    )


def _format_difference(difference: Difference) -> str:
    return format_difference(difference.value, difference.low, difference.high)


def write_trials(path: Path, trials: list[Trial], n_folds: int) -> None:
    """Write `trials.csv`: a row for each trial, a column for each config key.

    `score` is that of the first `folds` folds, `incumbent_score` that of trial `incumbent`, the best complete one at
    that time, on the same songs.

    Args:
        path: File to write.
        trials: Trials that have ended.
        n_folds: Number of folds of a trial.
    """
    import pandas as pd

    rows = []
    for trial in sorted(trials, key=lambda trial: trial.number):
        report = trial.reports[-1] if trial.reports else None
        percent = 0.0 if report is None else report.percent
        rows.append({
            "number": trial.number,
            "state": trial.state,
            "score": trial.score,
            "folds": round(percent * n_folds / FULL_BUDGET, 3),
            "incumbent": None if report is None else report.incumbent,
            "incumbent_score": None if report is None else report.incumbent_score,
            "done": percent,
            "seconds": trial.seconds,
            "reason": trial.reason,
            **(trial.values or trial.params),
        })  # fmt: skip
    table = pd.DataFrame(rows).astype({"incumbent": "Int64"})
    atomic_write(path, lambda file: table.to_csv(file, index=False))


def write_best(path: Path, config: Config) -> None:
    """Write `best.yaml`, for `train --config best.yaml`.

    Args:
        path: File to write.
        config: Config of the best trial.
    """
    atomic_write(path, lambda file: file.write_text(dump(config), encoding="utf-8"))


def summarize(
    *, plan: RunPlan, data: PreparedData, trials: list[Trial], winner: Trial, corrected: CorrectedScore | None,
    revalidation: Revalidation, seconds: Mapping[str, Any], space: str, verdict: str,
    cache_seconds: Mapping[str, float],
) -> dict[str, Any]:  # fmt: skip
    """Return the content of `summary.json` of a sweep.

    Args:
        plan: Plan of the sweep.
        data: Its data.
        trials: Trials that have ended.
        winner: The best trial.
        corrected: Its score corrected for the selection.
        revalidation: The comparison on fresh splits.
        seconds: Seconds of the command, in total and by part.
        space: Name of the search space.
        verdict: What `verdict` returned.
        cache_seconds: What `trial.cache_seconds` returned.

    Returns:
        The summary in the present format, as JSON values.
    """
    config = plan.config
    usd_per_hour = config.logging.usd_per_hour
    counts = {state: sum(trial.state == state for trial in trials) for state in ("complete", "pruned", "failed")}
    return {
        "format": SUMMARY_FORMAT,
        "sweep": True,
        "phase": config.phase,
        "task": plan.task.name,
        **({"base_task": plan.task.base_task.name} if plan.segments is not None else {}),
        "target": plan.target,
        "metric": config.training.headline,
        "space": space,
        "trials": {"total": len(trials), **counts},
        "winner": {"trial": winner.number, "values": winner.values, "score": winner.score},
        "corrected": dataclasses.asdict(corrected) if corrected is not None else None,
        "revalidation": dataclasses.asdict(revalidation),
        "verdict": verdict,
        "counts": {"songs": data.profile["songs"], "folds": data.split.n_folds},
        "seconds": dict(seconds),
        "trial_seconds": round(sum(trial.seconds for trial in trials), 2),
        "cache_seconds": dict(cache_seconds),
        "cost_usd": None if usd_per_hour is None else round(usd_per_hour * seconds["total"] / 3600, 4),
        "config_hash": config.hash(),
        "data_hash": data.profile["data_hash"],
        "manifest": plan.manifest.location,
        "demo": plan.demo,
    }


def print_summary(summary: Mapping[str, Any], trials: list[Trial], folder: Path, console: Console) -> None:
    """Print the best trials, the scores of the winner, the verdict, and the paths of the results.

    Args:
        summary: The sweep's summary, in the present format.
        trials: Trials that have ended.
        folder: Folder of the sweep.
        console: Console to print on.
    """
    console.print(_trials_table(summary, trials), soft_wrap=False)
    console.print(_winner_table(summary), soft_wrap=False)
    console.print(summary["verdict"], style="bold")
    cost = f", ${summary['cost_usd']:.4f}" if summary["cost_usd"] is not None else ""
    console.print(
        f"{summary['seconds']['total']:.0f} s in total (trials {summary['trial_seconds']:.0f} s, summed over all"
        f" actors){cost}; sweep in {folder}/, the best model in {folder / 'best' / 'model'}, its config in"
        f" {folder / 'best.yaml'}"
    )


def _trials_table(summary: Mapping[str, Any], trials: list[Trial]) -> Table:
    counts, winner = summary["trials"], summary["winner"]
    states = ", ".join(f"{counts[state]} {state}" for state in ("complete", "pruned", "failed") if counts[state])
    table = Table(title=f"{summary['target']}: {counts['total']} trials ({states})", title_justify="left")
    for name in ("trial", summary["metric"].replace("_", " "), "seconds"):
        table.add_column(name, justify="right")
    table.add_column("values")
    complete = [trial for trial in trials if trial.state == "complete"]
    best = sorted(complete, key=lambda trial: abs((trial.score or 0.0) - (winner["score"] or 0.0)))[:MAX_TRIALS]
    for trial in best:
        style = "bold" if trial.number == winner["trial"] else None
        values = format_values(trial) if trial.values else "the default config"
        table.add_row(str(trial.number), format_number(trial.score), f"{trial.seconds:.0f}", values, style=style)
    return table


def _winner_table(summary: Mapping[str, Any]) -> Table:
    revalidation, corrected = summary["revalidation"], summary["corrected"]
    table = Table(title="Scores of the best trial", title_justify="left")
    table.add_column("")
    table.add_column(summary["metric"].replace("_", " "), justify="right")
    table.add_row("in the sweep (too high: it was selected for this score)", format_number(summary["winner"]["score"]))
    if corrected is not None:
        interval = format_interval([corrected["low"], corrected["high"]])
        table.add_row("corrected for the selection (BBC-CV)", f"{format_number(corrected['value'])} ({interval})")
    fresh = f"on {len(revalidation['seeds'])} fresh {'splits' if revalidation['fresh_splits'] else 'seeds'}"
    kind = ", stacked" if revalidation.get("stacked") else ""
    table.add_row(f"best config{kind} {fresh}", format_number(revalidation["winner"]), style="bold")
    table.add_row(f"default config{kind} {fresh}", format_number(revalidation["default"]))
    name = revalidation["best_baseline"]
    table.add_row(f"best baseline ({name}) {fresh}", format_number(revalidation["baseline"]))
    return table
