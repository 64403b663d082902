"""The page of a sweep: what it found, and what mattered on the way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rainbow_ray.evaluation.summary_format import read_summary
from rainbow_ray.html_report.html import Page, Section, Table, interval, number
from rainbow_ray.html_report.run_artifacts import lacking, task_of_summary
from rainbow_ray.html_report.sweep_charts import SweepArtifacts, axes_by_importance, history
from rainbow_ray.tuning.trial_log import FULL_BUDGET, Trial, TrialLog
from rainbow_ray.utils.errors import InputError

NEEDED = ("summary.json", "trials.jsonl", "config.yaml")
SUMMARY = (
    "phase", "task", "target", "metric", "trials", "winner", "corrected", "revalidation", "verdict", "seconds",
    "trial_seconds", "cost_usd", "config_hash", "data_hash",
)  # fmt: skip
LEAST_TRIALS = 4  # complete ones, for the importance of an axis to mean anything
ENOUGH_TRIALS = 20


@dataclass(frozen=True)
class Swept:
    """What a finished sweep left."""

    path: Path
    summary: dict[str, Any]
    trials: list[Trial]
    config: str

    @property
    def search(self) -> SweepArtifacts:
        """Its trials and what they were chosen by."""
        metric = self.summary["metric"]
        larger = task_of_summary(self.summary).larger_is_better(metric)
        return SweepArtifacts(self.trials, metric.replace("_", " "), larger)


def read_sweep(path: Path) -> Swept:
    """Raises `InputError` for a sweep that is not finished, or lacks files."""
    missing = [name for name in NEEDED if not (path / name).exists()]
    if missing == ["summary.json"]:
        raise InputError(f"{path}: this sweep has not finished; go on with --resume")
    if missing:
        raise InputError(f"{path}: no sweep, or files of it are missing: {', '.join(missing)}")
    summary = read_summary(path / "summary.json")
    if lacks := lacking(summary, SUMMARY):
        raise InputError(f"{path / 'summary.json'}: {', '.join(lacks)} missing; it is damaged, or of another version")
    trials = sorted(TrialLog(path / "trials.jsonl").ended, key=lambda trial: trial.number)
    return Swept(path, summary, trials, (path / "config.yaml").read_text(encoding="utf-8"))


def sweep_page(sweep: Swept) -> Page:
    summary = sweep.summary
    return Page(
        kind=f"Sweep of phase {summary['phase']}, {summary['task']}",
        title=f"{summary['target'].replace('_', ' ')}: {sweep.path.name}",
        verdict=summary["verdict"],
        sections=[
            _worth(sweep),
            _history(sweep),
            _axes(sweep),
            _cost(sweep),
            Section("config", "What all trials had in common", code=sweep.config),
        ],
        footer=f"config {summary['config_hash']}, data {summary['data_hash']}; {sweep.path}",
    )


def _worth(sweep: Swept) -> Section:
    summary = sweep.summary
    confirmed, corrected = summary["revalidation"], summary["corrected"]
    fresh = f"on {len(confirmed['seeds'])} fresh {'splits' if confirmed['fresh_splits'] else 'seeds'}"
    rows = [["in the sweep: too high, since it was chosen for it", number(summary["winner"]["score"]), ""]]
    if corrected is not None:
        rows.append(["corrected for the choice (BBC-CV)", number(corrected["value"]),
                     interval((corrected["low"], corrected["high"]))])  # fmt: skip
    rows += [
        [f"the winner {fresh}", number(confirmed["winner"]), ""],
        [f"the default config {fresh}", number(confirmed["default"]), ""],
        [f"the best baseline ({confirmed['best_baseline']}) {fresh}", number(confirmed["baseline"]), ""],
    ]
    values = [[key, f"{value:.4g}" if isinstance(value, float) else str(value)]
              for key, value in summary["winner"]["values"].items()]  # fmt: skip
    name = f"trial {summary['winner']['trial']}"
    tables = [Table(["", summary["metric"].replace("_", " "), "95%"], rows, strong=len(rows) - 3)]
    if values:
        tables.append(Table(["key", "value"], values, caption=f"What {name} has"))
    return Section("worth", f"What the winner, {name}, is worth", tables=tables)


def _history(sweep: Swept) -> Section:
    counts = sweep.summary["trials"]
    text = [f"{counts['total']} trials: {counts['complete']} complete, {counts['pruned']} stopped early, "
            f"{counts['failed']} failed. A stopped trial's score is of the folds that it ran."]  # fmt: skip
    failed = [[str(t.number), t.reason] for t in sweep.trials if t.state == "failed"]
    tables = [Table(["failed trial", "reason"], failed)] if failed else []
    return Section("history", "How the search went", text, tables, [history(sweep.search)])


def _axes(sweep: Swept) -> Section:
    complete = len(sweep.search.complete)
    if complete < LEAST_TRIALS or not sweep.search.varied:
        return Section("axes", "What mattered", ["Too few trials ran to their end to say which axis mattered."])
    few = f"Only {complete} trials ran to their end: what mattered is a hint." if complete < ENOUGH_TRIALS else ""
    return Section("axes", "What mattered", [few] if few else [], charts=axes_by_importance(sweep.search))


def _cost(sweep: Swept) -> Section:
    summary = sweep.summary
    done = sum((t.reports[-1][0] if t.reports else 0.0) / FULL_BUDGET for t in sweep.trials)
    rows = [[part, f"{value:.1f} s"] for part, value in summary["seconds"]["parts"].items()]
    rows += [["in all", f"{summary['seconds']['total']:.1f} s"],
             ["trials, over all actors", f"{summary['trial_seconds']:.0f} s"]]  # fmt: skip
    if summary["cost_usd"] is not None:
        rows.append(["cost", f"${summary['cost_usd']:.4f}"])
    text = [f"Pruning ran {done:.1f} trials' worth of folds in place of {len(sweep.trials)}."]
    prefix = summary.get("cache_seconds")  # sweeps of older versions do not say
    if prefix and prefix["spent"]:
        text.append(f"What frozen layers say was computed once, in {prefix['spent']:.1f} s; computed anew in each pass"
                    f" over the songs, it would have taken at least {prefix['without_cache']:.0f} s.")  # fmt: skip
    return Section("cost", "What it took", text, [Table(["", ""], rows)])
