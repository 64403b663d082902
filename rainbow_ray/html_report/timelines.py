"""Timelines of songs: label, prediction and score of each segment over time, the songs with the largest error first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rainbow_ray.html_report.run_artifacts import RunArtifacts
from rainbow_ray.html_report.theme import Chart, Palette
from rainbow_ray.metrics.segments import durations
from rainbow_ray.utils.number_format import format_number

MAX_SONGS = 60  # on the page
MAX_PICTURE_SONGS = 12  # in the PNG
# colors of classes, as in style.css (k0, k1, …); other classes are gray
COLORS = ("#4e79d6", "#e08a2e", "#3f9d6b", "#c9504e", "#8d6bc4", "#a5785a", "#d279b0", "#3aa7b5")
NO_COLOR, SCORE_COLOR = -1, len(COLORS)
WIDTH = 1000.0  # of a song's drawing, in units of its view box
ROWS = {"label": (0, 20), "prediction": (23, 20), "score": (46, 14)}  # top and height


@dataclass(frozen=True)
class Box:
    """A rectangle in the drawing of a song.

    Attributes:
        x: Left edge.
        y: Top edge.
        width: Width.
        height: Height.
        color: Index of a color, or -1 for none.
        tooltip: Times, text, label and prediction of the segment.
    """

    x: float
    y: float
    width: float
    height: float
    color: int
    tooltip: str


@dataclass(frozen=True)
class SongTimeline:
    """The drawing of a song.

    Attributes:
        song: Id of the song.
        claim: How well the song is predicted.
        boxes: Rectangles of all rows.
        seconds: End of the last segment.
        rows: Names of the rows, from top to bottom.
    """

    song: str
    claim: str
    boxes: list[Box]
    seconds: float
    rows: list[str]


@dataclass(frozen=True)
class Timelines:
    """The timelines of a run.

    Attributes:
        songs: Timelines, the song with the largest error first.
        legend: Classes in the order of their colors.
        picture: The same as a chart, of fewer songs.
        caption: Description.
    """

    songs: list[SongTimeline]
    legend: list[str]
    picture: Chart
    caption: str


def make_timelines(run: RunArtifacts, texts: Mapping[str, str]) -> Timelines | None:
    """Return the timelines of a run.

    Args:
        run: The run.
        texts: Text by example id; may be empty.

    Returns:
        The timelines; None for tasks that are not of segments.
    """
    if not run.task.is_sequence_task:
        return None
    predictions = run.predictions
    counts = predictions["target"].value_counts() if run.task.has_classes else pd.Series(dtype=int)
    legend = [str(name) for name in counts.index[: len(COLORS)]]
    songs = sorted(
        ((_error(run, rows), str(song), rows) for song, rows in predictions.groupby("song", sort=False)),
        key=lambda item: -item[0],
    )
    timelines = [_make_timeline(run, song, rows, texts, legend) for _, song, rows in songs[:MAX_SONGS]]
    caption = (
        "Out-of-fold predictions, songs with the largest error first: label, prediction and score of each segment."
        " Gaps are silence, pale segments have no label. A tooltip shows the text of a segment."
    )
    if len(songs) > MAX_SONGS:
        caption += f" The first {MAX_SONGS} of {len(songs)} songs."
    if _is_weak(run):
        caption += (
            " WEAK: segments have no labels of their own; the prediction is each segment's share in the score of its"
            " song."
        )
    picture = _make_picture(run, songs[:MAX_PICTURE_SONGS], legend)
    return Timelines(timelines, legend, picture, caption)


def _is_weak(run: RunArtifacts) -> bool:
    return bool(run.summary.get("weak"))


def _error(run: RunArtifacts, rows: pd.DataFrame) -> float:
    """Return the fraction of labeled time with a wrong prediction; of numbers, the mean error; -1 without labels."""
    if _is_weak(run):
        return 1.0 - _score_of_song_label(run, rows)
    has_label = rows["target"].notna().to_numpy()
    seconds = durations(rows["start"].to_numpy(), rows["end"].to_numpy())[has_label]
    if not seconds.sum():
        return -1.0
    if run.task.has_classes:
        pairs = zip(rows["target"][has_label], rows["prediction"][has_label], strict=True)
        errors = np.array([label != prediction for label, prediction in pairs])
    else:
        errors = np.abs((rows["target"] - rows["prediction"]).to_numpy(dtype=np.float64)[has_label])
    return float(errors @ seconds / seconds.sum())


def _score_of_song_label(run: RunArtifacts, rows: pd.DataFrame) -> float:
    """Return the score that the segments of a weakly labeled song give to its label."""
    names, label = list(run.task.score_names), rows["target"].iloc[0]
    sums = rows[names].to_numpy(dtype=np.float64).sum(axis=0)
    score = sums[names.index(f"score_{label}")] if len(names) > 1 else sums[0] if label else 1.0 - sums[0]
    return float(np.clip(score, 0.0, 1.0))


def _prediction_scores(run: RunArtifacts, rows: pd.DataFrame) -> np.ndarray:
    """Return the score of the predicted class of each segment, from 0 to 1.

    Of numbers, the absolute value relative to the largest one; of weakly labeled songs, relative to the song's largest.
    """
    names = list(run.task.score_names)
    scores = rows[names].to_numpy(dtype=np.float64)
    if not run.task.has_classes:
        largest = max(float(np.abs(run.predictions[names].to_numpy()).max()), 1e-9)
        return np.asarray(np.clip(np.abs(scores[:, 0]) / largest, 0, 1))
    if len(names) > 1:
        predicted = np.array([names.index(f"score_{name}") for name in rows["prediction"]])
        of_prediction = scores[np.arange(len(rows)), predicted]
    elif _is_weak(run):
        of_prediction = scores[:, 0]
    else:
        of_prediction = np.where(rows["prediction"].astype(bool), scores[:, 0], 1 - scores[:, 0])
    return np.asarray(of_prediction / max(float(of_prediction.max()), 1e-9) if _is_weak(run) else of_prediction)


def _make_timeline(
    run: RunArtifacts, song: str, rows: pd.DataFrame, texts: Mapping[str, str], legend: Sequence[str]
) -> SongTimeline:
    seconds = max(float(rows["end"].max()), 1e-9)
    boxes = []
    for (_, row), score in zip(rows.iterrows(), _prediction_scores(run, rows), strict=True):
        x, width = WIDTH * row["start"] / seconds, max(1.0, WIDTH * (row["end"] - row["start"]) / seconds - 1.0)
        label, prediction = row["target"], row["prediction"]
        times = f"{_format_seconds(row['start'])} to {_format_seconds(row['end'])}"
        tooltip = (
            f"{times}: {texts.get(row['example_id'], '') or '(no text)'}\n"
            f"label {_format_value(label)}, prediction {_format_value(prediction)} ({score:.2f})"
        )
        for name, value in (("label", label), ("prediction", prediction)):
            if name == "label" and _is_weak(run):
                continue
            top, height = ROWS[name]
            boxes.append(Box(x, top, width, height, _color(value, legend), tooltip))
        top, height = ROWS["score"]
        bar = max(0.5, height * score)
        boxes.append(Box(x, top + height * (1 - score), width, bar, SCORE_COLOR, tooltip))
    names = ["prediction", "score"] if _is_weak(run) else list(ROWS)
    return SongTimeline(song, _claim(run, rows), boxes, seconds, names)


def _claim(run: RunArtifacts, rows: pd.DataFrame) -> str:
    """Return how well a song is predicted."""
    if _is_weak(run):
        return f"the label of the song is {_format_value(rows['target'].iloc[0])}"
    error = _error(run, rows)
    if not run.task.has_classes:
        return f"mean absolute error {format_number(error, 2)}"
    return f"{1 - error:.0%} of its labeled time predicted correctly" if error >= 0 else "no segment has a label"


def _make_picture(run: RunArtifacts, songs: Sequence[tuple[float, str, pd.DataFrame]], legend: Sequence[str]) -> Chart:
    is_weak = _is_weak(run)

    def draw(figure: Figure, palette: Palette) -> None:
        from matplotlib.patches import Patch

        colors = COLORS[: len(legend)]

        def fill(value: Any) -> Any:
            index = _color(value, legend)
            return palette.faint if index < 0 or index >= len(colors) else colors[index]

        axes = figure.subplots()
        axes.grid(False)
        for row_index, (_, _, rows) in enumerate(songs):
            spans = [(row["start"], max(0.2, row["end"] - row["start"])) for _, row in rows.iterrows()]
            for offset, column in ((0.0, "target"), (0.32, "prediction"))[is_weak:]:
                axes.broken_barh(spans, (row_index + offset, 0.28), facecolors=[fill(value) for value in rows[column]])
            for (start, width), score in zip(spans, _prediction_scores(run, rows), strict=True):
                axes.broken_barh([(start, width)], (row_index + 0.84, -0.2 * score), facecolors=palette.ink)
        axes.set_yticks([row_index + 0.45 for row_index in range(len(songs))], [song for _, song, _ in songs])
        axes.set_ylim(len(songs), -0.2)
        axes.set_xlabel(f"seconds; each song: {'WEAK: ' if is_weak else 'label, '}prediction, score")
        if legend:
            patches = [Patch(color=color, label=name) for name, color in zip(legend, colors, strict=True)]
            axes.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.5, 1.02 + 0.6 / len(songs)), ncols=4)

    caption = "Songs with the largest error over time: label, prediction and score of each segment."
    if is_weak:
        caption = (
            "WEAK, songs with the largest error over time: prediction of each segment, and its share of the score."
        )
    return Chart("timelines", "Timelines", caption, draw, (9.0, 1.6 + 0.55 * len(songs)))


def _color(value: Any, legend: Sequence[str]) -> int:
    name = _format_value(value)
    return legend.index(name) if name in legend else NO_COLOR


def _format_value(value: Any) -> str:
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return "unlabeled"
    return format_number(float(value), 2) if isinstance(value, float | np.floating) else str(value)


def _format_seconds(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"
