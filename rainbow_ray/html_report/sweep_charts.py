"""The charts of a sweep: how the search went, and which axes mattered."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rainbow_ray.config.keys import short_names
from rainbow_ray.html_report.theme import Chart, Palette
from rainbow_ray.tuning.trial_log import Trial

SHOWN_AXES = 8
LOGARITHMIC = 50  # times the least value that the most must be


@dataclass(frozen=True)
class SweepArtifacts:
    """Trials of a sweep that have ended, in their order, and the metric that they were chosen by."""

    trials: Sequence[Trial]
    metric: str
    larger_is_better: bool

    @property
    def complete(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == "complete" and trial.score is not None]

    @property
    def varied(self) -> list[str]:
        """Axes on which complete trials differ."""
        values: dict[str, set[str]] = {}
        for trial in self.complete:
            for name, value in trial.params.items():
                values.setdefault(name, set()).add(str(value))
        return sorted(name for name, found in values.items() if len(found) > 1)

    @property
    def goodness(self) -> np.ndarray:
        """Scores of complete trials, from the worst (0) to the best (1)."""
        scores = _scores(self.complete) * (1 if self.larger_is_better else -1)
        return np.asarray((scores - scores.min()) / max(1e-12, float(np.ptp(scores))))


def history(search: SweepArtifacts) -> Chart:
    """Scores of all trials in their order, and the best so far."""

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        for state, colour, marker in (("pruned", palette.second, "x"), ("complete", palette.first, "o")):
            some = [trial for trial in search.trials if trial.state == state and trial.score is not None]
            look: dict[str, Any] = {"linestyle": "none", "marker": marker, "color": colour}
            axes.plot([trial.number for trial in some], _scores(some), label=f"{state} ({len(some)})", **look)
        best = (np.maximum if search.larger_is_better else np.minimum).accumulate(_scores(search.complete))
        axes.step([t.number for t in search.complete], best, where="post", color=palette.first, alpha=0.5)
        axes.set(xlabel="trial", ylabel=search.metric)
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)

    return Chart("history", "Trial by trial", "Scores of all trials in their order; the line is the best so far.", draw)


def axes_by_importance(search: SweepArtifacts) -> list[Chart]:
    """Importance, parallel coordinates, and a slice for each of the axes that mattered most."""
    shares = importance(search)
    first = sorted(search.varied, key=lambda name: -shares.get(name, 0.0))[:SHOWN_AXES]

    def bars(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        axes.barh(range(len(first)), [shares.get(name, 0.0) for name in first], color=palette.first)
        axes.set_yticks(range(len(first)), [words(search, name) for name in first])
        axes.invert_yaxis()
        axes.set_xlabel("share of the variance of scores")

    def lines(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        for trial, good, score in zip(search.complete, search.goodness, _places(_scores(search.complete)), strict=True):
            heights = [_place(search.complete, name, trial) for name in first]
            axes.plot(range(len(first) + 1), [*heights, score], color=palette.first, alpha=0.15 + 0.75 * good)
        axes.set_xticks(
            range(len(first) + 1), [*(words(search, name) for name in first), search.metric], rotation=30, ha="right"
        )
        axes.set_yticks([0, 1], ["least", "most"])

    return [
        Chart("importance", "Which axes mattered", "How much of the spread of scores each axis explains (fANOVA).",
              bars, (4.6, 1.0 + 0.3 * len(first))),
        Chart("parallel", "All trials at once", "A line a trial through its values, the stronger the better its score.",
              lines, (max(4.6, 1.6 + 0.7 * len(first)), 3.8)),
        *(_slice(search, name) for name in first),
    ]  # fmt: skip


def importance(search: SweepArtifacts) -> dict[str, float]:
    """fANOVA (Hutter et al. 2014) over the axes that complete trials have in common; empty where scores do not vary."""
    import optuna

    from rainbow_ray.tuning.optuna_study import direction_of, make_study, to_optuna_trial

    study = make_study(direction_of(larger_is_better=search.larger_is_better))
    known = [trial for trial in search.complete if trial.params]
    study.add_trials([to_optuna_trial(trial) for trial in known])
    common = [name for name in search.varied if all(name in trial.params for trial in known)]
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return dict(optuna.importance.get_param_importances(study, evaluator=evaluator, params=common or None))
        except (ValueError, RuntimeError):
            return {}


def words(search: SweepArtifacts, name: str) -> str:
    """The end of a varied key that tells it from the others, as words."""
    return short_names(search.varied)[name].replace("_", " ").replace(".", " ")


def _slice(search: SweepArtifacts, name: str) -> Chart:
    some = [trial for trial in search.complete if name in trial.params]
    values = [trial.params[name] for trial in some]
    plain = _are_numbers(values)

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        shown = values if plain else [str(value) or "none" for value in values]
        axes.plot(shown, _scores(some), linestyle="none", marker="o", markersize=5, alpha=0.8, color=palette.first)
        axes.tick_params(axis="x", rotation=30)
        if plain and _is_logarithmic(values):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")

    says = f"{search.metric} of each complete trial by {words(search, name)}."
    return Chart(f"slice-{name}".replace(".", "-").replace("_", "-"), words(search, name), says, draw, (3.2, 2.5))


def _place(trials: Sequence[Trial], name: str, trial: Trial) -> float:
    """Where a trial's value lies between the least and the most of an axis; NaN where it has none."""
    if name not in trial.params:
        return float("nan")
    values, own = [t.params[name] for t in trials if name in t.params], trial.params[name]
    if not _are_numbers(values):
        kinds = sorted({str(value) for value in values})
        values, own = list(range(len(kinds))), kinds.index(str(own))
    elif _is_logarithmic(values):
        values, own = list(np.log(values)), float(np.log(own))
    low, high = min(values), max(values)
    return float((own - low) / max(1e-12, high - low))


def _places(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.min()) / max(1e-12, float(np.ptp(values))))


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _is_logarithmic(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) > LOGARITHMIC * min(values)


def _scores(trials: Sequence[Trial]) -> np.ndarray:
    return np.array([float(trial.score or 0.0) for trial in trials])
