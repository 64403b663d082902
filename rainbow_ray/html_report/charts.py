"""The charts of a run: how it learned, how sure and how right it is, and where it goes wrong."""

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
BANDS = 200  # resamples of songs
BINS = 10
MOST_LINES = 6  # classes that get a curve of their own
MOST_CLASSES = 20  # of a confusion matrix that can be read


def learning_curves(records: pd.DataFrame, metric: str) -> list[Chart]:
    """Training loss and the metric on held-out songs by epoch: a line a fold."""
    whole = records[records["fold"].notna()]

    def lines(column: str, split: str, colour: str) -> Draw:
        part = whole[(whole["split"] == split) & whole[column].notna()] if column in whole else whole[:0]

        def draw(figure: Figure, palette: Palette) -> None:
            axes = figure.subplots()
            for _, fold in part.groupby("fold"):
                by_epoch = fold.groupby("epoch")[column].last()
                look = {"color": getattr(palette, colour), "alpha": 0.75, "linewidth": 1.2}
                axes.plot(by_epoch.index, by_epoch, marker="o", markersize=2, **look)
            axes.set_xlabel("epoch")

        return draw

    name = metric.replace("_", " ")
    held = f"{name} on held-out songs"
    return [
        Chart("learning-loss", "Training loss", "By epoch, a line a fold.", lines("loss", "train", "first")),
        Chart(
            "learning-metric", held, "By epoch, a line a fold; nothing is chosen by it.", lines(metric, "val", "second")
        ),
    ]


def rank_curves(
    truth: np.ndarray, scores: np.ndarray, names: Sequence[str], songs: np.ndarray, seed: int
) -> list[Chart]:
    """Precision by recall and the ROC curve, of all columns together and of each; `(songs, columns)`, truth bool.

    The bands hold 95% over songs, point by point.
    """
    curves = [_pr_and_roc(truth[rows], scores[rows]) for rows in _draws(truth, songs, seed)]
    all_of_them = names[0] if len(names) == 1 else "all classes"
    lines = {all_of_them: _pr_and_roc(truth, scores)}
    if len(names) > 1:
        columns = truth.sum(axis=0)
        shown = [i for i in np.argsort(-columns, kind="stable")[:MOST_LINES] if 0 < columns[i] < len(truth)]
        lines |= {str(names[i]): _pr_and_roc(truth[:, i], scores[:, i]) for i in shown}

    def curve(which: int, floor: float | None) -> Draw:
        def draw(figure: Figure, palette: Palette) -> None:
            axes = figure.subplots()
            if curves:
                low, high = np.quantile([curve[which] for curve in curves], [0.025, 0.975], axis=0)
                axes.fill_between(GRID, low, high, color=palette.first, alpha=0.18, linewidth=0)
            looks = itertools.product(("--", ":", "-."), (palette.second, palette.third))
            for place, (name, line) in enumerate(lines.items()):
                style, colour = ("-", palette.first) if place == 0 else next(looks)
                axes.plot(
                    GRID, line[which], color=colour, linestyle=style, label=name, linewidth=1.8 - 0.5 * (place > 0)
                )
            axes.plot([0, 1], [floor, floor] if floor is not None else [0, 1], color=palette.faint)
            labels = (("recall", "precision"), ("false positive rate", "true positive rate"))[which]
            axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(0, 1), ylim=(0, 1.02))
            if len(lines) > 1:
                figure.legend(loc="outside lower center", ncols=2, fontsize=9)

        return draw

    size = (4.6, 3.4 + 0.12 * len(lines) * (len(lines) > 1))
    of = all_of_them if len(names) > 1 else f"class {all_of_them}"
    about = f"of {of}; the band holds 95% over songs, the straight line is guessing."
    precision, ranks = f"Precision by recall {about}", f"True by false positives (ROC) {about}"
    return [
        Chart("precision-recall", "How clean are the songs found?", precision, curve(0, float(truth.mean())), size),
        Chart("roc", "How well are songs ranked?", ranks, curve(1, None), size),
    ]


def confusion(table: np.ndarray, names: Sequence[str]) -> Chart:
    """How many songs of each class (row) were called what (column)."""
    largest = np.sort(np.argsort(-table.sum(axis=1), kind="stable")[:MOST_CLASSES])
    shown = table[np.ix_(largest, largest)]
    shares = shown / np.maximum(shown.sum(axis=1, keepdims=True), 1)
    kept = [str(names[i]) for i in largest]
    part = f" The {len(kept)} largest of {len(table)} classes." if len(kept) < len(table) else ""

    def draw(figure: Figure, palette: Palette) -> None:
        from matplotlib.colors import to_rgba

        axes = figure.subplots()
        axes.grid(False)
        for (row, column), count in np.ndenumerate(shown):
            share = shares[row, column]
            box = {"facecolor": to_rgba(palette.first, 0.08 + 0.55 * share), "edgecolor": palette.faint}
            axes.add_patch(_square(column, row, **box))
            axes.text(column, row, str(int(count)), ha="center", va="center", color=palette.ink)
        axes.set(xlim=(-0.5, len(kept) - 0.5), ylim=(len(kept) - 0.5, -0.5), xlabel="called", ylabel="is")
        axes.set_xticks(range(len(kept)), kept, rotation=30, ha="right")
        axes.set_yticks(range(len(kept)), kept)

    side = min(9.0, 2.6 + 0.55 * len(kept))
    says = f"Songs by their class and by what they were called.{part}"
    return Chart("confusion", "What is taken for what", says, draw, (side + 1.2, side))


def reliability(right: np.ndarray, sure: np.ndarray, of: str) -> Chart:
    """How often the model is right where it is so sure, in ten bins."""
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    used = np.flatnonzero(counts)
    x = np.bincount(bins, weights=sure, minlength=BINS)[used] / counts[used]
    y = np.bincount(bins, weights=right, minlength=BINS)[used] / counts[used]

    def draw(figure: Figure, palette: Palette) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.plot([0, 1], [0, 1], color=palette.faint, linestyle="--")
        upper.plot(x, y, color=palette.first, marker="o")
        upper.set(ylabel="is so", xlim=(0, 1), ylim=(0, 1.02))
        lower.bar((np.arange(BINS) + 0.5) / BINS, counts, width=0.09, color=palette.first)
        lower.set(xlabel=f"score of {of}", ylabel="songs")

    says = (
        f"How often songs are what a score says, by the score of {of}; on the dashed line a score means what it says."
    )
    return Chart("reliability", "Does a score mean what it says?", says, draw, (4.6, 3.8))


def scatter(truth: np.ndarray, said: np.ndarray) -> list[Chart]:
    """Predicted by true values, and what is missed by what is predicted."""

    def values(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        ends = [float(min(truth.min(), said.min())), float(max(truth.max(), said.max()))]
        axes.plot(ends, ends, color=palette.faint, linestyle="--")
        axes.scatter(truth, said, s=16, color=palette.first, alpha=0.7, linewidths=0)
        axes.set(xlabel="is", ylabel="predicted")

    def residuals(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        axes.axhline(0, color=palette.faint, linestyle="--")
        axes.scatter(said, truth - said, s=16, color=palette.second, alpha=0.7, linewidths=0)
        axes.set(xlabel="predicted", ylabel="is, less predicted")

    return [
        Chart("scatter", "Predicted and true", "Predicted by true values; on the dashed line they agree.", values),
        Chart("residuals", "What is missed", "What is missed by what is predicted; below the dashed line the model says"
              " too much.", residuals),
    ]  # fmt: skip


def scores_of(named: Mapping[str, Any], metric: str, interval: Sequence[float] | None) -> Chart:
    """The model's headline score with its interval beside the baselines'."""
    values = {name: value for name, value in named.items() if value is not None}

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        for place, (name, value) in enumerate(values.items()):
            mine = name == "model"
            axes.plot(value, place, marker="o", markersize=9 if mine else 6, linestyle="none",
                      color=palette.first if mine else palette.ink)  # fmt: skip
            if mine and interval is not None:
                axes.plot(interval, [place, place], color=palette.first, linewidth=3, alpha=0.5)
        axes.set_yticks(range(len(values)), list(values))
        axes.invert_yaxis()
        axes.set_xlabel(metric.replace("_", " "))

    says = f"{metric.replace('_', ' ')} of the model, with its 95% interval, and of each baseline."
    return Chart("scores", "Beside the baselines", says, draw, (4.6, 0.9 + 0.32 * len(values)))


def gains(named: Mapping[str, Difference], against: str) -> Chart:
    """What each run gains on one of them, with its interval."""

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=palette.ink, linewidth=0.8)
        for place, gap in enumerate(named.values()):
            axes.plot([gap.low, gap.high], [place, place], color=palette.first, linewidth=3, alpha=0.5)
            axes.plot(gap.value, place, marker="o", markersize=8, color=palette.first)
        axes.set_yticks(range(len(named)), list(named))
        axes.set_ylim(len(named) - 0.4, -0.6)
        axes.set_xlabel(f"gain on {against}")

    says = f"What each run gains on {against}, with its 95% interval; right of the line is better."
    return Chart("gains", "Who is ahead?", says, draw, (4.6, 1.2 + 0.32 * len(named)))


def _square(x: float, y: float, **look: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, **look)


def _draws(truth: np.ndarray, songs: np.ndarray, seed: int) -> list[np.ndarray]:
    drawn = itertools.islice(resample(songs, seed=seed), BANDS)
    return [rows for rows in drawn if truth[rows].any() and not truth[rows].all()]


def _pr_and_roc(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision on a grid of recalls, and true positive rates on a grid of false ones; columns are pooled."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    truth, scores = truth.ravel(), scores.ravel()
    precision, recall, _ = precision_recall_curve(truth, scores)
    false_rate, true_rate, _ = roc_curve(truth, scores)
    # the best precision at this recall or a higher one
    envelope = np.maximum.accumulate(precision)[::-1]
    return np.interp(GRID, recall[::-1], envelope), np.interp(GRID, false_rate, true_rate)
