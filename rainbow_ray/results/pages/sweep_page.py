"""The page of a sweep: what it found, and what mattered on the way."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib.figure import Figure

from rainbow_ray.errors import InputError
from rainbow_ray.results.pages.layout import Page, Section, Table, interval, number
from rainbow_ray.results.pages.theme import Chart, Palette
from rainbow_ray.training.ledger import WHOLE, Ledger, Trial
from rainbow_ray.training.sweep import as_optuna

NEEDED = ("summary.json", "trials.jsonl", "config.yaml")
SHOWN_AXES = 8
LEAST_TRIALS = 4  # complete ones, for the importance of an axis to mean anything


@dataclass(frozen=True)
class Swept:
    """What a finished sweep left."""

    path: Path
    summary: dict[str, Any]
    trials: list[Trial]
    config: str

    @property
    def complete(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == "complete" and trial.score is not None]


def read_sweep(path: Path) -> Swept:
    """Raises `InputError` for a sweep that is not finished, or lacks files."""
    missing = [name for name in NEEDED if not (path / name).exists()]
    if missing == ["summary.json"]:
        raise InputError(f"{path}: this sweep has not finished; go on with --resume")
    if missing:
        raise InputError(f"{path}: no sweep, or files of it are missing: {', '.join(missing)}")
    trials = sorted(Ledger(path / "trials.jsonl").ended, key=lambda trial: trial.number)
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    return Swept(path, summary, trials, (path / "config.yaml").read_text(encoding="utf-8"))


def sweep_page(sweep: Swept) -> Page:
    summary = sweep.summary
    return Page(
        kind=f"Sweep of phase {summary['phase']}, {summary['problem']}",
        title=f"{summary['target'].replace('_', ' ')}: {sweep.path.name}",
        verdict=summary["verdict"],
        sections=[
            _worth(sweep),
            _history(sweep),
            *_axes(sweep),
            _cost(sweep),
            Section("config", "What all trials had in common", code=sweep.config),
        ],
        footer=f"config {summary['config_hash']}, data {summary['data_hash']}; {sweep.path}",
    )


def _worth(sweep: Swept) -> Section:
    summary = sweep.summary
    confirmed, corrected = summary["confirmed"], summary["corrected"]
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
    values = [[key, str(value)] for key, value in summary["winner"]["values"].items()]
    name = f"trial {summary['winner']['trial']}"
    tables = [Table(["", summary["metric"].replace("_", " "), "95%"], rows, strong=len(rows) - 3)]
    if values:
        tables.append(Table(["key", "value"], values, caption=f"What {name} has"))
    return Section("worth", f"What the winner, {name}, is worth", tables=tables)


def _history(sweep: Swept) -> Section:
    sign = -1.0 if sweep.summary["metric"] in _SMALLER else 1.0

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        for state, colour, marker in (("pruned", palette.second, "x"), ("complete", palette.first, "o")):
            some = [t for t in sweep.trials if t.state == state and t.score is not None]
            scores = [float(t.score or 0.0) for t in some]
            axes.plot([t.number for t in some], scores, linestyle="none", marker=marker, color=colour,
                      label=f"{state} ({len(some)})")  # fmt: skip
        best = np.maximum.accumulate([sign * float(t.score or 0.0) for t in sweep.complete])
        axes.step([t.number for t in sweep.complete], sign * best, where="post", color=palette.first, alpha=0.5)
        axes.set(xlabel="trial", ylabel=sweep.summary["metric"].replace("_", " "))
        axes.legend()

    counts = sweep.summary["trials"]
    text = [f"{counts['total']} trials: {counts['complete']} complete, {counts['pruned']} stopped early, "
            f"{counts['failed']} failed. A stopped trial's score is of the folds that it ran."]  # fmt: skip
    failed = [[str(t.number), t.reason] for t in sweep.trials if t.state == "failed"]
    tables = [Table(["failed trial", "reason"], failed)] if failed else []
    chart = Chart("history", "Trial by trial", "Scores of all trials in their order, and the best so far.", draw)
    return Section("history", "How the search went", text, tables, [chart])


def _axes(sweep: Swept) -> list[Section]:
    done = [trial for trial in sweep.complete if trial.params]
    names = sorted({name for trial in done for name in trial.params})
    varied = [n for n in names if len({str(t.params[n]) for t in done if n in t.params}) > 1]
    if len(done) < LEAST_TRIALS or not varied:
        return [Section("axes", "What mattered", ["Too few trials ran to their end to say which axis mattered."])]
    importance = _importance(sweep, varied)
    first = sorted(varied, key=lambda name: -importance.get(name, 0.0))[:SHOWN_AXES]
    metric = sweep.summary["metric"].replace("_", " ")

    def bars(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        axes.barh(range(len(first)), [importance.get(name, 0.0) for name in first], color=palette.first)
        axes.set_yticks(range(len(first)), [_short(name) for name in first])
        axes.invert_yaxis()
        axes.set_xlabel("share of the variance of scores")

    def lines(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        scores = np.array([float(t.score or 0.0) for t in done])
        rank = (scores - scores.min()) / max(1e-12, float(np.ptp(scores)))
        for trial, place in zip(done, rank, strict=True):
            heights = [_place(done, name, trial) for name in first] + [place]
            axes.plot(range(len(first) + 1), heights, color=palette.first, alpha=0.15 + 0.75 * place)
        axes.set_xticks(range(len(first) + 1), [*map(_short, first), metric], rotation=30, ha="right")
        axes.set_yticks([0, 1], ["least", "most"])

    def slices(figure: Figure, palette: Palette) -> None:
        grid = figure.subplots(-(-len(first) // 4), min(4, len(first)), squeeze=False, sharey=True)
        for place, axes in zip(range(grid.size), grid.flat, strict=True):
            if place >= len(first):
                axes.set_axis_off()
                continue
            some = [t for t in done if first[place] in t.params]
            values = [t.params[first[place]] for t in some]
            plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
            shown = values if plain else [str(v) or "none" for v in values]
            axes.plot(
                shown,
                [float(t.score or 0.0) for t in some],
                linestyle="none",
                marker="o",
                markersize=4,
                color=palette.first,
            )
            axes.set_title(_short(first[place]), fontsize=9)
            axes.tick_params(axis="x", labelsize=7, rotation=30)
            if plain and min(values) > 0 and max(values) > 50 * min(values):
                axes.set_xscale("log")

    charts = [
        Chart("importance", "Which axes mattered", "How much of the spread of scores each axis explains (fANOVA).",
              bars, (6.4, 1.0 + 0.34 * len(first))),
        Chart("parallel", "All trials at once", "A line a trial through its values, darker for better scores.", lines,
              (8.0, 4.2)),
        Chart("slices", "Axis by axis", f"{metric} of each complete trial by each value.", slices,
              (9.0, 2.4 * -(-len(first) // 4))),
    ]  # fmt: skip
    few = f"Only {len(done)} trials ran to their end: what mattered is a hint." if len(done) < 20 else ""
    return [Section("axes", "What mattered", [few] if few else [], charts=charts)]


def _importance(sweep: Swept, names: list[str]) -> dict[str, float]:
    """fANOVA (Hutter et al. 2014) over the axes that complete trials have in common."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize" if sweep.summary["metric"] in _SMALLER else "maximize")
    study.add_trials([as_optuna(trial) for trial in sweep.complete if trial.params])
    common = [name for name in names if all(name in t.params for t in sweep.complete if t.params)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return dict(optuna.importance.get_param_importances(study, params=common or None))
        except (ValueError, RuntimeError):  # scores that do not vary
            return {}


def _place(trials: list[Trial], name: str, trial: Trial) -> float:
    """Where a trial's value lies between the least and the most of an axis; NaN where it has none."""
    if name not in trial.params:
        return float("nan")
    values = [t.params[name] for t in trials if name in t.params]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        low, high = min(values), max(values)
        if low > 0 and high > 50 * low:
            return float(np.log(trial.params[name] / low) / np.log(high / low))
        return float((trial.params[name] - low) / max(1e-12, high - low))
    kinds = sorted({str(v) for v in values})
    return kinds.index(str(trial.params[name])) / max(1, len(kinds) - 1)


def _cost(sweep: Swept) -> Section:
    summary = sweep.summary
    done = sum((t.reports[-1][0] if t.reports else 0.0) / WHOLE for t in sweep.trials)
    rows = [[part, f"{value:.1f} s"] for part, value in summary["seconds"]["parts"].items()]
    rows += [["in all", f"{summary['seconds']['total']:.1f} s"],
             ["trials, over all actors", f"{summary['trial_seconds']:.0f} s"]]  # fmt: skip
    if summary["cost_usd"] is not None:
        rows.append(["cost", f"${summary['cost_usd']:.4f}"])
    text = [f"Pruning ran {done:.1f} trials' worth of folds in place of {len(sweep.trials)}."]
    return Section("cost", "What it took", text, [Table(["", ""], rows)])


def _short(name: str) -> str:
    return name.rpartition(".")[2].replace("_", " ")


_SMALLER = {"mae", "rmse", "log_loss", "brier", "ece", "hamming_loss", "loss"}
