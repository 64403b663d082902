"""Charts of a sweep: trials in their order, and the importance of hyperparameters."""

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

MAX_AXES = 8
MIN_LOG_RATIO = 50  # of the largest to the smallest value, for a logarithmic axis


@dataclass(frozen=True)
class SweepTrials:
    """Trials of a sweep, for its charts.

    Attributes:
        trials: Trials that have ended, by number.
        metric: Name of the headline metric, for labels.
        larger_is_better: Whether larger scores are better.
    """

    trials: Sequence[Trial]
    metric: str
    larger_is_better: bool

    @property
    def complete(self) -> list[Trial]:
        """Trials that ran all folds and have a score."""
        return [trial for trial in self.trials if trial.state == "complete" and trial.score is not None]

    @property
    def varied(self) -> list[str]:
        """Keys on which complete trials differ, sorted."""
        values: dict[str, set[str]] = {}
        for trial in self.complete:
            for name, value in trial.params.items():
                values.setdefault(name, set()).add(str(value))
        return sorted(name for name, distinct in values.items() if len(distinct) > 1)

    @property
    def relative_scores(self) -> np.ndarray:
        """Scores of complete trials, scaled from 0 for the worst to 1 for the best."""
        scores = _scores(self.complete) * (1 if self.larger_is_better else -1)
        return np.asarray((scores - scores.min()) / max(1e-12, float(np.ptp(scores))))


def history(search: SweepTrials) -> Chart:
    """Return the scores of all trials in their order, and the best so far.

    Args:
        search: The trials.

    Returns:
        A chart.
    """

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        for state, color, marker in (("pruned", palette.second, "x"), ("complete", palette.first, "o")):
            trials = [trial for trial in search.trials if trial.state == state and trial.score is not None]
            style: dict[str, Any] = {"linestyle": "none", "marker": marker, "color": color}
            axes.plot([trial.number for trial in trials], _scores(trials), label=f"{state} ({len(trials)})", **style)
        best = (np.maximum if search.larger_is_better else np.minimum).accumulate(_scores(search.complete))
        axes.step([t.number for t in search.complete], best, where="post", color=palette.first, alpha=0.5)
        axes.set(xlabel="trial", ylabel=search.metric)
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)

    return Chart(
        "history", "Optimization history", "Scores of all trials in their order; the line is the best so far.", draw
    )


def parameters_by_importance(search: SweepTrials) -> list[Chart]:
    """Return importances, parallel coordinates, and a slice for each of the most important keys.

    Args:
        search: The trials.

    Returns:
        The charts.
    """
    importances = importance(search)
    first = sorted(search.varied, key=lambda name: -importances.get(name, 0.0))[:MAX_AXES]

    def bars(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        axes.barh(range(len(first)), [importances.get(name, 0.0) for name in first], color=palette.first)
        axes.set_yticks(range(len(first)), [short_name(search, name) for name in first])
        axes.invert_yaxis()
        axes.set_xlabel("fraction of the variance of scores")

    def lines(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        for trial, relative, score in zip(
            search.complete, search.relative_scores, _scale(_scores(search.complete)), strict=True
        ):
            heights = [_scaled_value(search.complete, name, trial) for name in first]
            axes.plot(range(len(first) + 1), [*heights, score], color=palette.first, alpha=0.15 + 0.75 * relative)
        axes.set_xticks(
            range(len(first) + 1),
            [*(short_name(search, name) for name in first), search.metric],
            rotation=30,
            ha="right",
        )
        axes.set_yticks([0, 1], ["lowest", "highest"])

    return [
        Chart("importance", "Hyperparameter importance",
              "Fraction of the variance of scores that each key explains (fANOVA).",
              bars, (4.6, 1.0 + 0.3 * len(first))),
        Chart("parallel", "Parallel coordinates",
              "One line per trial through its values; the better its score, the stronger.",
              lines, (max(4.6, 1.6 + 0.7 * len(first)), 3.8)),
        *(_slice(search, name) for name in first),
    ]  # fmt: skip


def importance(search: SweepTrials) -> dict[str, float]:
    """Return the importance of each key that all complete trials have.

    Args:
        search: The trials.

    Returns:
        Fractions of the variance of scores by key; empty where scores do not vary.

    Reference:
        Hutter, Hoos and Leyton-Brown 2014, "An efficient approach for assessing hyperparameter importance" (fANOVA).
    """
    import optuna

    from rainbow_ray.tuning.optuna_study import direction_of, make_study, to_optuna_trial

    study = make_study(direction_of(larger_is_better=search.larger_is_better))
    trials = [trial for trial in search.complete if trial.params]
    study.add_trials([to_optuna_trial(trial) for trial in trials])
    common = [name for name in search.varied if all(name in trial.params for trial in trials)]
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return dict(optuna.importance.get_param_importances(study, evaluator=evaluator, params=common or None))
        except (ValueError, RuntimeError):
            return {}


def short_name(search: SweepTrials, name: str) -> str:
    """Return a short name of a key, for labels.

    Args:
        search: The trials.
        name: A key on which they differ.

    Returns:
        The shortest unique end of the key, as words.
    """
    return short_names(search.varied)[name].replace("_", " ").replace(".", " ")


def _slice(search: SweepTrials, name: str) -> Chart:
    trials = [trial for trial in search.complete if name in trial.params]
    values = [trial.params[name] for trial in trials]
    is_numeric = _are_numbers(values)

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        plotted = values if is_numeric else [str(value) or "none" for value in values]
        axes.plot(plotted, _scores(trials), linestyle="none", marker="o", markersize=5, alpha=0.8, color=palette.first)
        axes.tick_params(axis="x", rotation=30)
        if is_numeric and _is_logarithmic(values):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")

    caption = f"{search.metric} of each complete trial by {short_name(search, name)}."
    return Chart(
        f"slice-{name}".replace(".", "-").replace("_", "-"), short_name(search, name), caption, draw, (3.2, 2.5)
    )


def _scaled_value(trials: Sequence[Trial], name: str, trial: Trial) -> float:
    """Return a trial's value scaled from 0 to 1 over all trials; NaN where it has none."""
    if name not in trial.params:
        return float("nan")
    values, trial_value = [t.params[name] for t in trials if name in t.params], trial.params[name]
    if not _are_numbers(values):
        kinds = sorted({str(value) for value in values})
        values, trial_value = list(range(len(kinds))), kinds.index(str(trial_value))
    elif _is_logarithmic(values):
        values, trial_value = list(np.log(values)), float(np.log(trial_value))
    low, high = min(values), max(values)
    return float((trial_value - low) / max(1e-12, high - low))


def _scale(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.min()) / max(1e-12, float(np.ptp(values))))


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _is_logarithmic(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) > MIN_LOG_RATIO * min(values)


def _scores(trials: Sequence[Trial]) -> np.ndarray:
    return np.array([float(trial.score or 0.0) for trial in trials])
