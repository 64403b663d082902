"""Each song as a line of time: what its segments are, what they are called, how surely; the worst songs first."""

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

MOST_SONGS = 60  # lines that a page can bear
ON_PICTURE = 12
# classes with a colour of their own, as style.css has them (k0, k1, …); others are grey
COLOURS = ("#4e79d6", "#e08a2e", "#3f9d6b", "#c9504e", "#8d6bc4", "#a5785a", "#d279b0", "#3aa7b5")
WIDTH = 1000.0  # of a line's drawing, whose height is that of its rows
ROWS = {"is": (0, 20), "called": (23, 20), "sure": (46, 14)}  # top and height


@dataclass(frozen=True)
class Box:
    """A segment in a row: place and size in the drawing, its colour's number (-1: none), and what is told of it."""

    x: float
    y: float
    width: float
    height: float
    colour: int
    told: str


@dataclass(frozen=True)
class TimelineRow:
    """A song's drawing, and how well it went in a sentence."""

    song: str
    claim: str
    boxes: list[Box]
    seconds: float
    rows: list[str]


@dataclass(frozen=True)
class Timelines:
    """What a section shows: lines, the classes in the order of their colours, and the same as a picture."""

    lines: list[TimelineRow]
    legend: list[str]
    picture: Chart
    says: str


def timelines_of(run: RunArtifacts, texts: Mapping[str, str]) -> Timelines | None:
    """Nothing for runs that are not of segments."""
    if not run.task.is_sequence_task:
        return None
    counts = run.held["target"].value_counts() if _has_classes(run) else pd.Series(dtype=int)
    legend = [str(name) for name in counts.index[: len(COLOURS)]]
    songs = sorted(
        ((_badness(run, rows), str(song), rows) for song, rows in run.held.groupby("song", sort=False)),
        key=lambda item: -item[0],
    )
    lines = [_line(run, song, rows, texts, legend) for _, song, rows in songs[:MOST_SONGS]]
    few = f" The {MOST_SONGS} worst of {len(songs)} songs." if len(songs) > MOST_SONGS else ""
    weak = (
        " WEAK: segments have no labels of their own here; what is called is each segment's part in its song's label."
        if run.summary.get("weak")
        else ""
    )
    says = (
        "Held-out songs, the worst first: what each segment is labelled, what it is called, and how surely. Gaps are"
        f" silence, pale segments have no label. Point at one for its words.{few}{weak}"
    )
    return Timelines(lines, legend, _picture(run, songs[:ON_PICTURE], legend), says)


def _has_classes(run: RunArtifacts) -> bool:
    return run.task.has_classes


def _badness(run: RunArtifacts, rows: pd.DataFrame) -> float:
    """Share of the labelled time that is called wrong; of numbers, how far off they are; of weak ones, as songs."""
    if run.summary.get("weak"):
        return 1.0 - _of_its_class(run, rows)
    known = rows["target"].notna().to_numpy()
    seconds = durations(rows["start"].to_numpy(), rows["end"].to_numpy())[known]
    if not seconds.sum():
        return -1.0
    if _has_classes(run):
        missed = np.array([a != b for a, b in zip(rows["target"][known], rows["prediction"][known], strict=True)])
    else:
        missed = np.abs((rows["target"] - rows["prediction"]).to_numpy(dtype=np.float64)[known])
    return float(missed @ seconds / seconds.sum())


def _of_its_class(run: RunArtifacts, rows: pd.DataFrame) -> float:
    """What a weak song's segments say together of the class that the song has."""
    names, target = list(run.task.score_names), rows["target"].iloc[0]
    sums = rows[names].to_numpy(dtype=np.float64).sum(axis=0)
    said = sums[names.index(f"score_{target}")] if len(names) > 1 else sums[0] if target else 1.0 - sums[0]
    return float(np.clip(said, 0.0, 1.0))


def _sure(run: RunArtifacts, rows: pd.DataFrame) -> np.ndarray:
    """How sure each prediction is, 0 to 1: the score of the class that is called, whichever has the highest.

    Of numbers, how large it is beside the largest; of weak ones, the part in the song beside the largest.
    """
    names = list(run.task.score_names)
    scores = rows[names].to_numpy(dtype=np.float64)
    if not _has_classes(run):
        largest = max(float(np.abs(run.held[names].to_numpy()).max()), 1e-9)
        return np.asarray(np.clip(np.abs(scores[:, 0]) / largest, 0, 1))
    if len(names) > 1:
        called = np.array([names.index(f"score_{name}") for name in rows["prediction"]])
        sure = scores[np.arange(len(rows)), called]
    elif run.summary.get("weak"):
        sure = scores[:, 0]
    else:
        sure = np.where(rows["prediction"].astype(bool), scores[:, 0], 1 - scores[:, 0])
    return np.asarray(sure / max(float(sure.max()), 1e-9) if run.summary.get("weak") else sure)


def _line(
    run: RunArtifacts, song: str, rows: pd.DataFrame, texts: Mapping[str, str], legend: Sequence[str]
) -> TimelineRow:
    whole = max(float(rows["end"].max()), 1e-9)
    sure = _sure(run, rows)
    boxes = []
    for (_, row), surely in zip(rows.iterrows(), sure, strict=True):
        x, width = WIDTH * row["start"] / whole, max(1.0, WIDTH * (row["end"] - row["start"]) / whole - 1.0)
        words = texts.get(row["example_id"], "")
        when = f"{_clock(row['start'])} to {_clock(row['end'])}"
        is_, called = _say(row["target"]), _say(row["prediction"])
        told = f"{when}: {words or '(no words)'}\nis {is_}, called {called} ({surely:.2f})"
        for name, value in (("is", row["target"]), ("called", row["prediction"])):
            if name == "is" and run.summary.get("weak"):
                continue
            top, height = ROWS[name]
            boxes.append(Box(x, top, width, height, _colour(value, legend), told))
        top, height = ROWS["sure"]
        boxes.append(Box(x, top + height * (1 - surely), width, max(0.5, height * surely), len(COLOURS), told))
    badness = _badness(run, rows)
    if run.summary.get("weak"):
        claim = f"the song is {_say(rows['target'].iloc[0])}"
    elif _has_classes(run):
        claim = f"{1 - badness:.0%} of its labelled time is called right" if badness >= 0 else "no segment has a label"
    else:
        claim = f"off by {format_number(badness, 2)} on average"
    shown = ["called", "sure"] if run.summary.get("weak") else list(ROWS)
    return TimelineRow(song, claim, boxes, whole, shown)


def _picture(run: RunArtifacts, songs: Sequence[tuple[float, str, pd.DataFrame]], legend: Sequence[str]) -> Chart:
    weak = bool(run.summary.get("weak"))

    def draw(figure: Figure, palette: Palette) -> None:
        from matplotlib.patches import Patch

        colours = COLOURS[: len(legend)]

        def fill(value: Any) -> Any:
            number = _colour(value, legend)
            return palette.faint if number < 0 or number >= len(colours) else colours[number]

        axes = figure.subplots()
        axes.grid(False)
        for place, (_, _, rows) in enumerate(songs):
            spans = [(row["start"], max(0.2, row["end"] - row["start"])) for _, row in rows.iterrows()]
            sure = _sure(run, rows)
            for dy, column in ((0.0, "target"), (0.32, "prediction"))[weak:]:
                axes.broken_barh(spans, (place + dy, 0.28), facecolors=[fill(value) for value in rows[column]])
            for (start, width), surely in zip(spans, sure, strict=True):
                axes.broken_barh([(start, width)], (place + 0.84, -0.2 * surely), facecolors=palette.ink)
        axes.set_yticks([place + 0.45 for place in range(len(songs))], [song for _, song, _ in songs])
        axes.set_ylim(len(songs), -0.2)
        axes.set_xlabel(f"seconds; each song: {'WEAK: ' if weak else 'is, '}called, how surely")
        if legend:
            patches = [Patch(color=colour, label=name) for name, colour in zip(legend, colours, strict=True)]
            axes.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.5, 1.02 + 0.6 / len(songs)), ncols=4)

    says = "The worst songs by time: what segments are labelled, what they are called, and how surely."
    if weak:
        says = "WEAK, the worst songs: what each segment is called, its part in its song's label, and how large it is."
    return Chart("timelines", "Timelines", says, draw, (9.0, 1.6 + 0.55 * len(songs)))


def _colour(value: Any, legend: Sequence[str]) -> int:
    name = _say(value)
    return legend.index(name) if name in legend else -1


def _say(value: Any) -> str:
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return "unlabelled"
    return format_number(float(value), 2) if isinstance(value, float | np.floating) else str(value)


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"
