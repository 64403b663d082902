"""Charts of a run: learning curves, ranking, calibration, confusion and errors."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rainbow_ray.evaluation.bootstrap import Difference, resample
from rainbow_ray.html_report.theme import Chart, Draw, Palette

GRID = np.linspace(0, 1, 101)
N_RESAMPLES = 200  # of songs, for the bands
N_BINS = 10
MAX_CLASS_CURVES = 6
MAX_CONFUSION_CLASSES = 20


def learning_curves(records: pd.DataFrame, metric: str) -> list[Chart]:
    """Return the training loss and the metric on validation sets by epoch, one line per fold.

    Args:
        records: Records of `metrics.jsonl`, with `fold`, `epoch`, `split` and metrics.
        metric: Name of the headline metric.

    Returns:
        Two charts.
    """
    of_folds = records[records["fold"].notna()]

    def lines(column: str, split: str, color: str) -> Draw:
        rows = of_folds[:0]
        if column in of_folds:
            rows = of_folds[(of_folds["split"] == split) & of_folds[column].notna()]

        def draw(figure: Figure, palette: Palette) -> None:
            axes = figure.subplots()
            for _, fold in rows.groupby("fold"):
                by_epoch = fold.groupby("epoch")[column].last()
                style = {"color": getattr(palette, color), "alpha": 0.75, "linewidth": 1.2}
                axes.plot(by_epoch.index, by_epoch, marker="o", markersize=2, **style)
            axes.set_xlabel("epoch")

        return draw

    title = f"{metric.replace('_', ' ')} on validation sets"
    caption = "By epoch, one line per fold; no epoch is selected by it."
    return [
        Chart("learning-loss", "Training loss", "By epoch, one line per fold.", lines("loss", "train", "first")),
        Chart("learning-metric", title, caption, lines(metric, "val", "second")),
    ]


def rank_curves(
    targets: np.ndarray, scores: np.ndarray, names: Sequence[str], songs: np.ndarray, seed: int
) -> list[Chart]:
    """Return the precision-recall curve and the ROC curve of all classes pooled, and of the largest classes.

    Args:
        targets: Indicators of the classes, bool, `(examples, classes)`.
        scores: Scores, `(examples, classes)`.
        names: Names of the classes.
        songs: Song of each example, `(examples,)`.
        seed: Seed of the bootstrap.

    Returns:
        Two charts, with pointwise 95% intervals over songs as bands.
    """
    resampled = [_pr_and_roc(targets[rows], scores[rows]) for rows in _resample_both_classes(targets, songs, seed)]
    pooled = names[0] if len(names) == 1 else "all classes"
    curves = {pooled: _pr_and_roc(targets, scores)}
    if len(names) > 1:
        counts = targets.sum(axis=0)
        largest = np.argsort(-counts, kind="stable")[:MAX_CLASS_CURVES]
        drawn_classes = [i for i in largest if 0 < counts[i] < len(targets)]
        curves |= {str(names[i]): _pr_and_roc(targets[:, i], scores[:, i]) for i in drawn_classes}
    size = (4.6, 3.4 + 0.12 * len(curves) * (len(curves) > 1))
    curve_classes = pooled if len(names) > 1 else f"class {pooled}"
    note = (
        f"of {curve_classes}; the band is the pointwise 95% interval over songs, the straight line is a random ranking."
    )
    precision, roc = f"Precision by recall {note}", f"True positive rate by false positive rate {note}"
    base_rate = float(targets.mean())
    return [
        Chart("precision-recall", "Precision-recall curve", precision, _draw_curves(curves, resampled, 0, base_rate),
              size),
        Chart("roc", "ROC curve", roc, _draw_curves(curves, resampled, 1, None), size),
    ]  # fmt: skip


def confusion(counts: np.ndarray, names: Sequence[str]) -> Chart:
    """Return a confusion matrix.

    Args:
        counts: Number of songs by true class (rows) and predicted class (columns), `(classes, classes)`.
        names: Names of the classes.

    Returns:
        A chart of the largest classes.
    """
    largest = np.sort(np.argsort(-counts.sum(axis=1), kind="stable")[:MAX_CONFUSION_CLASSES])
    shown_counts = counts[np.ix_(largest, largest)]
    fractions = shown_counts / np.maximum(shown_counts.sum(axis=1, keepdims=True), 1)
    labels = [str(names[i]) for i in largest]
    selection = f" The {len(labels)} largest of {len(counts)} classes." if len(labels) < len(counts) else ""

    def draw(figure: Figure, palette: Palette) -> None:
        from matplotlib.colors import to_rgba

        axes = figure.subplots()
        axes.grid(False)
        for (row, column), count in np.ndenumerate(shown_counts):
            fraction = fractions[row, column]
            style = {"facecolor": to_rgba(palette.first, 0.08 + 0.55 * fraction), "edgecolor": palette.faint}
            axes.add_patch(_square(column, row, **style))
            axes.text(column, row, str(int(count)), ha="center", va="center", color=palette.ink)
        axes.set(xlim=(-0.5, len(labels) - 0.5), ylim=(len(labels) - 0.5, -0.5), xlabel="prediction", ylabel="label")
        axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
        axes.set_yticks(range(len(labels)), labels)

    side = min(9.0, 2.6 + 0.55 * len(labels))
    caption = f"Songs by label (rows) and prediction (columns).{selection}"
    return Chart("confusion", "Confusion matrix", caption, draw, (side + 1.2, side))


def reliability(is_positive: np.ndarray, scores: np.ndarray, name: str) -> Chart:
    """Return a reliability diagram in ten bins.

    Args:
        is_positive: Whether the score's class is the label, `(n,)`.
        scores: Scores between 0 and 1, `(n,)`.
        name: What the scores are of.

    Returns:
        A chart of the observed frequency by score, above a histogram of the scores.
    """
    bins = np.minimum((scores * N_BINS).astype(int), N_BINS - 1)
    counts = np.bincount(bins, minlength=N_BINS)
    used = np.flatnonzero(counts)
    mean_scores = np.bincount(bins, weights=scores, minlength=N_BINS)[used] / counts[used]
    frequencies = np.bincount(bins, weights=is_positive, minlength=N_BINS)[used] / counts[used]

    def draw(figure: Figure, palette: Palette) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.plot([0, 1], [0, 1], color=palette.faint, linestyle="--")
        upper.plot(mean_scores, frequencies, color=palette.first, marker="o")
        upper.set(ylabel="frequency", xlim=(0, 1), ylim=(0, 1.02))
        lower.bar((np.arange(N_BINS) + 0.5) / N_BINS, counts, width=0.09, color=palette.first)
        lower.set(xlabel=f"score of {name}", ylabel="songs")

    caption = f"Observed frequency by score of {name}, in ten bins; on the dashed line, scores are calibrated."
    return Chart("reliability", "Reliability diagram", caption, draw, (4.6, 3.8))


def scatter(targets: np.ndarray, predictions: np.ndarray) -> list[Chart]:
    """Return predicted by true values, and residuals by predicted values.

    Args:
        targets: True values, `(n,)`.
        predictions: Predicted values, `(n,)`.

    Returns:
        Two charts.
    """

    def values(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        ends = [float(min(targets.min(), predictions.min())), float(max(targets.max(), predictions.max()))]
        axes.plot(ends, ends, color=palette.faint, linestyle="--")
        axes.scatter(targets, predictions, s=16, color=palette.first, alpha=0.7, linewidths=0)
        axes.set(xlabel="label", ylabel="prediction")

    def residuals(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        axes.axhline(0, color=palette.faint, linestyle="--")
        axes.scatter(predictions, targets - predictions, s=16, color=palette.second, alpha=0.7, linewidths=0)
        axes.set(xlabel="prediction", ylabel="label − prediction")

    identity = "Predictions by labels; on the dashed line they are equal."
    overestimates = "Label minus prediction, by prediction; points below the dashed line are overestimates."
    return [
        Chart("scatter", "Predictions and labels", identity, values),
        Chart("residuals", "Residuals", overestimates, residuals),
    ]


def metric_comparison(
    values_by_name: Mapping[str, float | None], metric: str, interval: Sequence[float] | None
) -> Chart:
    """Return the model's headline metric with its interval, and those of the baselines.

    Args:
        values_by_name: Values by name; the model is called `model`.
        metric: Name of the metric.
        interval: The model's 95% interval, or None.

    Returns:
        A chart with a row for each name.
    """
    values = {name: value for name, value in values_by_name.items() if value is not None}

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        for row, (name, value) in enumerate(values.items()):
            is_model = name == "model"
            color = palette.first if is_model else palette.ink
            axes.plot(value, row, marker="o", markersize=9 if is_model else 6, linestyle="none", color=color)
            if is_model and interval is not None:
                axes.plot(interval, [row, row], color=palette.first, linewidth=3, alpha=0.5)
        axes.set_yticks(range(len(values)), list(values))
        axes.invert_yaxis()
        axes.set_xlabel(metric.replace("_", " "))

    with_interval = ", with its 95% interval," if interval is not None else ""
    caption = f"{metric.replace('_', ' ')} of the model{with_interval} and of each baseline."
    return Chart("scores", "Model and baselines", caption, draw, (4.6, 0.9 + 0.32 * len(values)))


def learning_curve(curve: Mapping[str, Any]) -> Chart:
    """Return the metric of simple models by number of training songs.

    Args:
        curve: Entry `learning_curve` of `summary.json`.

    Returns:
        A line chart.
    """

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        axes.plot(curve["n_songs"], curve["values"], marker="o", color=palette.first)
        axes.set_xlabel("training songs")
        axes.set_ylabel(curve["metric"].replace("_", " "))

    caption = f"{curve['metric'].replace('_', ' ')} of simple models by the number of training songs, mean over draws."
    return Chart("more-songs", "Metric by number of songs", caption, draw)


def run_differences(differences: Mapping[str, Difference], reference: str) -> Chart:
    """Return the paired difference of each run to one of them.

    Args:
        differences: Differences by name of the run.
        reference: Name of the run that they are compared with.

    Returns:
        A chart with a row for each run.
    """

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=palette.ink, linewidth=0.8)
        for row, difference in enumerate(differences.values()):
            axes.plot([difference.low, difference.high], [row, row], color=palette.first, linewidth=3, alpha=0.5)
            axes.plot(difference.value, row, marker="o", markersize=8, color=palette.first)
        axes.set_yticks(range(len(differences)), list(differences))
        axes.set_ylim(len(differences) - 0.4, -0.6)
        axes.set_xlabel(f"difference to {reference}")

    caption = f"Paired difference of each run to {reference}, with its 95% interval; right of the line is better."
    return Chart("gains", "Differences between runs", caption, draw, (4.6, 1.2 + 0.32 * len(differences)))


def _draw_curves(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], resampled: Sequence[tuple[np.ndarray, np.ndarray]],
    kind: int, base_rate: float | None,
) -> Draw:  # fmt: skip
    """Return a function that draws precision-recall curves (kind 0) or ROC curves (kind 1)."""

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        if resampled:
            low, high = np.quantile([curve[kind] for curve in resampled], [0.025, 0.975], axis=0)
            axes.fill_between(GRID, low, high, color=palette.first, alpha=0.18, linewidth=0)
        styles = itertools.product(("--", ":", "-."), (palette.second, palette.third))
        for i, (name, curve) in enumerate(curves.items()):
            style, color = ("-", palette.first) if i == 0 else next(styles)
            axes.plot(GRID, curve[kind], color=color, linestyle=style, label=name, linewidth=1.8 - 0.5 * (i > 0))
        random_ranking = [base_rate, base_rate] if base_rate is not None else [0, 1]
        axes.plot([0, 1], random_ranking, color=palette.faint)
        labels = (("recall", "precision"), ("false positive rate", "true positive rate"))[kind]
        axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(0, 1), ylim=(0, 1.02))
        if len(curves) > 1:
            figure.legend(loc="outside lower center", ncols=2, fontsize=9)

    return draw


def _square(x: float, y: float, **style: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, **style)


def _resample_both_classes(targets: np.ndarray, songs: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return resamples that have both positive and negative targets."""
    resamples = itertools.islice(resample(songs, seed=seed), N_RESAMPLES)
    return [rows for rows in resamples if targets[rows].any() and not targets[rows].all()]


def _pr_and_roc(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return precision on a grid of recalls, and true positive rates on a grid of false ones; columns are pooled."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    targets, scores = targets.ravel(), scores.ravel()
    precision, recall, _ = precision_recall_curve(targets, scores)
    false_positive_rate, true_positive_rate, _ = roc_curve(targets, scores)
    # the best precision at this recall or a higher one
    envelope = np.maximum.accumulate(precision)[::-1]
    return np.interp(GRID, recall[::-1], envelope), np.interp(GRID, false_positive_rate, true_positive_rate)
