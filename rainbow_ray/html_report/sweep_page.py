"""The page of a sweep: the scores of the best trial, all trials, and the importance of hyperparameters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rainbow_ray.evaluation.summary_format import read_summary
from rainbow_ray.html_report.html import Page, Section, Table, interval, number
from rainbow_ray.html_report.run_artifacts import missing_keys, task_of_summary
from rainbow_ray.html_report.sweep_charts import SweepTrials, history, parameters_by_importance
from rainbow_ray.tuning.trial_log import FULL_BUDGET, Trial, TrialLog, describe_progress
from rainbow_ray.utils.errors import InputError

FILES = ("summary.json", "trials.jsonl", "config.yaml")
REQUIRED_KEYS = (
    "phase", "task", "target", "metric", "trials", "winner", "corrected", "revalidation", "verdict", "seconds",
    "trial_seconds", "cost_usd", "config_hash", "data_hash",
)  # fmt: skip
MIN_TRIALS = 4  # complete ones, for importances
MIN_RELIABLE_TRIALS = 20


@dataclass(frozen=True)
class SweepArtifacts:
    """What a finished sweep wrote.

    Attributes:
        path: Folder of the sweep.
        summary: Content of `summary.json`, in the present format.
        trials: Trials that have ended, by number.
        config: Text of `config.yaml`.
    """

    path: Path
    summary: dict[str, Any]
    trials: list[Trial]
    config: str

    @property
    def search(self) -> SweepTrials:
        """The trials and the headline metric, for charts."""
        metric = self.summary["metric"]
        larger = task_of_summary(self.summary).larger_is_better(metric)
        return SweepTrials(self.trials, metric.replace("_", " "), larger)


def read_sweep(path: Path) -> SweepArtifacts:
    """Read the files of a finished sweep.

    Args:
        path: Folder of the sweep.

    Returns:
        What the sweep wrote.

    Raises:
        InputError: The sweep has not finished, or files are missing or damaged.
    """
    missing = [name for name in FILES if not (path / name).exists()]
    if missing == ["summary.json"]:
        raise InputError(f"{path}: this sweep has not finished; continue it with --resume")
    if missing:
        raise InputError(f"{path}: this is not a sweep, or some of its files are missing: {', '.join(missing)}")
    summary = read_summary(path / "summary.json")
    if missing := missing_keys(summary, REQUIRED_KEYS):
        raise InputError(f"{path / 'summary.json'}: {', '.join(missing)} missing; the file is damaged, or of another"
                         " version")  # fmt: skip
    trials = sorted(TrialLog(path / "trials.jsonl").ended, key=lambda trial: trial.number)
    return SweepArtifacts(path, summary, trials, (path / "config.yaml").read_text(encoding="utf-8"))


def sweep_page(sweep: SweepArtifacts) -> Page:
    """Return the page of a sweep.

    Args:
        sweep: The sweep.

    Returns:
        The page.
    """
    summary = sweep.summary
    return Page(
        kind=f"Sweep of phase {summary['phase']}, {summary['task']}",
        title=f"{summary['target'].replace('_', ' ')}: {sweep.path.name}",
        verdict=summary["verdict"],
        sections=[
            _scores(sweep),
            _history(sweep),
            _axes(sweep),
            _cost(sweep),
            Section("config", "Base config", code=sweep.config),
        ],
        footer=f"config {summary['config_hash']}, data {summary['data_hash']}; {sweep.path}",
    )


def _scores(sweep: SweepArtifacts) -> Section:
    summary = sweep.summary
    revalidation, corrected = summary["revalidation"], summary["corrected"]
    fresh = f"on {len(revalidation['seeds'])} fresh {'splits' if revalidation['fresh_splits'] else 'seeds'}"
    kind = ", stacked" if revalidation.get("stacked") else ""  # summaries of earlier versions lack the field
    rows = [["in the sweep (too high: it was selected for this score)", number(summary["winner"]["score"]), ""]]
    if corrected is not None:
        rows.append(["corrected for the selection (BBC-CV)", number(corrected["value"]),
                     interval((corrected["low"], corrected["high"]))])  # fmt: skip
    rows += [
        [f"best config{kind} {fresh}", number(revalidation["winner"]), ""],
        [f"default config{kind} {fresh}", number(revalidation["default"]), ""],
        [f"best baseline ({revalidation['best_baseline']}) {fresh}", number(revalidation["baseline"]), ""],
    ]
    values = [[key, f"{value:.4g}" if isinstance(value, float) else str(value)]
              for key, value in summary["winner"]["values"].items()]  # fmt: skip
    name = f"trial {summary['winner']['trial']}"
    tables = [Table(["", summary["metric"].replace("_", " "), "95% interval"], rows, strong=len(rows) - 3)]
    if values:
        tables.append(Table(["key", "value"], values, caption=f"Values of {name}"))
    return Section("scores", f"Scores of the best trial, {name}", tables=tables)


def _history(sweep: SweepArtifacts) -> Section:
    counts = sweep.summary["trials"]
    text = [f"{counts['total']} trials: {counts['complete']} complete, {counts['pruned']} pruned, "
            f"{counts['failed']} failed. The score of a pruned trial is that of the folds it ran, and it was compared"
            " with the best complete trial on the same songs."]  # fmt: skip
    failed = [[str(t.number), t.reason] for t in sweep.trials if t.state == "failed"]
    tables = [Table(["failed trial", "reason"], failed)] if failed else []
    if pruned := [trial for trial in sweep.trials if trial.state == "pruned" and trial.reports]:
        tables.append(_pruned_table(sweep, pruned))
    return Section("history", "Trials", text, tables, [history(sweep.search)])


def _pruned_table(sweep: SweepArtifacts, pruned: list[Trial]) -> Table:
    """Return the trials that were stopped early, with the scores that they were stopped by."""
    rows = []
    for trial in pruned:
        report = trial.reports[-1]
        best = ["", ""] if report.incumbent is None else [str(report.incumbent), number(report.incumbent_score)]
        folds = describe_progress(report.percent, sweep.summary["counts"]["folds"])
        rows.append([str(trial.number), folds, number(report.score), *best, f"{trial.seconds:.1f} s"])
    metric = sweep.summary["metric"].replace("_", " ")
    columns = ["pruned trial", "songs of", metric, "best trial", f"its {metric} there", "time"]
    return Table(columns, rows)


def _axes(sweep: SweepArtifacts) -> Section:
    complete = len(sweep.search.complete)
    if complete < MIN_TRIALS or not sweep.search.varied:
        return Section(
            "axes",
            "Hyperparameter importance",
            ["Too few trials are complete to estimate the importance of hyperparameters."],
        )
    note = f"Only {complete} trials are complete: importances are unreliable." if complete < MIN_RELIABLE_TRIALS else ""
    return Section(
        "axes", "Hyperparameter importance", [note] if note else [], charts=parameters_by_importance(sweep.search)
    )


def _cost(sweep: SweepArtifacts) -> Section:
    summary = sweep.summary
    n_done = sum((t.reports[-1].percent if t.reports else 0.0) / FULL_BUDGET for t in sweep.trials)
    rows = [[part, f"{value:.1f} s"] for part, value in summary["seconds"]["parts"].items()]
    rows += [["total", f"{summary['seconds']['total']:.1f} s"],
             ["trials, summed over all actors", f"{summary['trial_seconds']:.0f} s"]]  # fmt: skip
    if summary["cost_usd"] is not None:
        rows.append(["cost", f"${summary['cost_usd']:.4f}"])
    text = [f"With pruning, the sweep ran the folds of {n_done:.1f} trials instead of {len(sweep.trials)}."]
    cache = summary.get("cache_seconds")  # the first versions did not write it
    if cache and cache["spent"]:
        text.append(f"Hidden states of frozen layers were computed once, in {cache['spent']:.1f} s. Computing them in"
                    f" each pass over the songs would have taken at least {cache['without_cache']:.0f} s.")  # fmt: skip
    return Section("cost", "Time and cost", text, [Table(["", ""], rows)])
