"""What a sweep leaves behind: `summary.json`, `trials.csv`, `study.db`, `best.yaml`, and the table that closes it."""

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
from rainbow_ray.tuning.bbc_cv import Corrected
from rainbow_ray.tuning.trial_log import Trial, format_values
from rainbow_ray.utils.io import atomic_write
from rainbow_ray.utils.number_format import format_difference, format_interval, format_number, format_numbers

SHOWN = 10  # trials in the closing table


@dataclass(frozen=True)
class Revalidation:
    """Means over fresh seeds, and what the winner gains on the default config and on the best baseline.

    `fresh_splits` is false where a file decides the split. Nothing is known of a default config that fails.
    """

    seeds: list[int]
    fresh_splits: bool
    winner: float | None
    default: float | None
    best_baseline: str | None
    baseline: float | None
    over_default: Difference | None
    over_baseline: Difference | None

    @property
    def where(self) -> str:
        return f"{len(self.seeds)} fresh {'splits' if self.fresh_splits else 'seeds'}"


def verdict(metric: str, winner: Trial, corrected: Corrected | None, confirmed: Revalidation, songs: int) -> str:
    """What a sweep honestly found, in some sentences.

    It found something where fresh splits say so and also the gain that is corrected for the choice: fresh splits alone
    deal the same songs that the winner was chosen on.
    """
    said = [_found(metric, winner, corrected, confirmed, songs)]
    behind = confirmed.over_baseline
    if behind is not None and behind.high < 0:
        said.append(f"It loses to {confirmed.best_baseline} ({format_number(confirmed.baseline)}).")
    if corrected is not None:
        said.append(f"Corrected for choosing it among the trials: {format_number(corrected.value)}.")
    return " ".join(said)


def _found(metric: str, winner: Trial, corrected: Corrected | None, confirmed: Revalidation, songs: int) -> str:
    if winner.number == 0:
        return "The sweep found nothing: the default config is the best of all trials."
    gap, name = confirmed.over_default, f"trial {winner.number}"
    if confirmed.default is None:
        return f"No verdict on {name}: the default config failed, so there is nothing to compare it with."
    if gap is None or confirmed.winner is None:
        return f"No verdict on {name}: {metric} is not defined on these songs."
    both = " against ".join(format_numbers([confirmed.winner, confirmed.default]))
    numbers = f"{metric} {both} on {confirmed.where}, {_span(gap)}"
    if gap.value <= 0:
        return f"The sweep found nothing: {name} is no better than the default config, {numbers}."
    if gap.low <= 0:
        return f"The sweep found nothing that {songs} songs can show: {name} and the default config, {numbers}."
    if corrected is None or corrected.gain is None or corrected.gain.low > 0:
        return f"The sweep found something: {name} beats the default config, {numbers}."
    return (
        f"The sweep found nothing that {songs} songs can show: {name} is ahead of the default config, {numbers}, but on"
        f" the songs that it was chosen on; corrected for the choice it gains {_span(corrected.gain)}."
    )


def _span(gap: Difference) -> str:
    return format_difference(gap.value, gap.low, gap.high)


def write_trials(path: Path, trials: list[Trial]) -> None:
    """`trials.csv`: a row a trial, a column a key."""
    import pandas as pd

    rows = [
        {
            "number": trial.number,
            "state": trial.state,
            "score": trial.score,
            "done": trial.reports[-1][0] if trial.reports else 0.0,
            "seconds": trial.seconds,
            "reason": trial.reason,
            **(trial.values or trial.params),
        }
        for trial in sorted(trials, key=lambda trial: trial.number)
    ]
    atomic_write(path, lambda file: pd.DataFrame(rows).to_csv(file, index=False))


def write_best(path: Path, config: Config) -> None:
    """`best.yaml`: runs as `train --config best.yaml`."""
    atomic_write(path, lambda file: file.write_text(dump(config), encoding="utf-8"))


def summarize(
    *, plan: Any, data: Any, trials: list[Trial], winner: Trial, corrected: Corrected | None, confirmed: Revalidation,
    seconds: Mapping[str, Any], space: str, said: str, prefix: Mapping[str, float],
) -> dict[str, Any]:  # fmt: skip
    """`summary.json` of a sweep."""
    config = plan.config
    price = config.logging.usd_per_hour
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
        "revalidation": dataclasses.asdict(confirmed),
        "verdict": said,
        "counts": {"songs": data.profile["songs"], "folds": data.split.n_folds},
        "seconds": dict(seconds),
        "trial_seconds": round(sum(trial.seconds for trial in trials), 2),
        "cache_seconds": dict(prefix),
        "cost_usd": None if price is None else round(price * seconds["total"] / 3600, 4),
        "config_hash": config.hash(),
        "data_hash": data.profile["data_hash"],
        "manifest": plan.manifest.location,
        "demo": plan.demo,
    }


def print_summary(summary: Mapping[str, Any], trials: list[Trial], folder: Path, console: Console) -> None:
    """The best trials, the winner's honest numbers, the verdict, and where the files lie."""
    metric = summary["metric"].replace("_", " ")
    counts = summary["trials"]
    states = ", ".join(f"{counts[state]} {state}" for state in ("complete", "pruned", "failed") if counts[state])
    table = Table(title=f"{summary['target']}: {counts['total']} trials ({states})", title_justify="left")
    for name in ("trial", metric, "seconds"):
        table.add_column(name, justify="right")
    table.add_column("values")
    done = [trial for trial in trials if trial.state == "complete"]
    best = sorted(done, key=lambda trial: abs((trial.score or 0.0) - (summary["winner"]["score"] or 0.0)))[:SHOWN]
    for trial in best:
        style = "bold" if trial.number == summary["winner"]["trial"] else None
        values = format_values(trial) if trial.values else "the default config"
        table.add_row(str(trial.number), format_number(trial.score), f"{trial.seconds:.0f}", values, style=style)
    console.print(table, soft_wrap=False)
    confirmed, corrected = summary["revalidation"], summary["corrected"]
    worth = Table(title="What the winner is worth", title_justify="left")
    worth.add_column("")
    worth.add_column(metric, justify="right")
    worth.add_row("in the sweep (too high: it was chosen for it)", _number(summary["winner"]["score"]))
    if corrected is not None:
        span = format_interval([corrected["low"], corrected["high"]])
        worth.add_row("corrected for the choice (BBC-CV)", f"{format_number(corrected['value'])} ({span})")
    fresh = f"on {len(confirmed['seeds'])} fresh {'splits' if confirmed['fresh_splits'] else 'seeds'}"
    worth.add_row(f"winner {fresh}", _number(confirmed["winner"]), style="bold")
    worth.add_row(f"default config {fresh}", _number(confirmed["default"]))
    worth.add_row(f"best baseline ({confirmed['best_baseline']}) {fresh}", _number(confirmed["baseline"]))
    console.print(worth, soft_wrap=False)
    console.print(summary["verdict"], style="bold")
    cost = f", ${summary['cost_usd']:.4f}" if summary["cost_usd"] is not None else ""
    console.print(
        f"{summary['seconds']['total']:.0f} s in all (trials {summary['trial_seconds']:.0f} s over all actors){cost}; "
        f"sweep in {folder}/, the winner's model in {folder / 'best' / 'model'}, its config in {folder / 'best.yaml'}"
    )


def _number(value: float | None) -> str:
    return format_number(value)
