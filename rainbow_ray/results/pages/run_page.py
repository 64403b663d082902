"""The page of one run: the verdict first, then what it rests on, then the songs whose labels to look at."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rainbow_ray.errors import InputError
from rainbow_ray.problems import Problem, make_problem
from rainbow_ray.results.pages import charts
from rainbow_ray.results.pages.layout import Page, Part, Section, Song, Table, interval, number
from rainbow_ray.training.reporters import read_lines

NEEDED = ("summary.json", "predictions.parquet", "metrics.jsonl", "data.json", "config.yaml")
SEED = 0  # of the songs that bands are drawn from
SHOWN_SONGS = 6
MOVING_WORDS = 6
TOP_CLASSES = 12


@dataclass(frozen=True)
class Finished:
    """What a finished run left. `held` are its out-of-fold predictions, a row an example."""

    path: Path
    summary: dict[str, Any]
    profile: dict[str, Any]
    records: pd.DataFrame
    held: pd.DataFrame
    config: str

    @property
    def problem(self) -> Problem:
        """The problem as its predictions have it."""
        name = self.summary["problem"]
        classes = [column.removeprefix("score_") for column in self.held.columns if column.startswith("score_")]
        return make_problem(name, **({"classes": classes} if classes else {}))

    @property
    def scores(self) -> np.ndarray:
        """`(examples,)` or `(examples, classes)`."""
        columns = list(self.problem.score_names)
        values = self.held[columns].to_numpy(dtype=np.float32)
        return values[:, 0] if columns == ["score"] else values

    @property
    def targets(self) -> np.ndarray:
        """Targets as the problem has them: `(examples,)`, or `(examples, classes)` of several labels."""
        names = [column.removeprefix("score_") for column in self.held.columns if column.startswith("score_")]
        told = self.held["target"]
        if self.summary["problem"] == "multiclass":
            return np.asarray(told.map({name: i for i, name in enumerate(names)}).to_numpy(dtype=np.float32))
        if self.summary["problem"] == "multilabel":
            return np.array([[name in row for name in names] for row in told], dtype=np.float32)
        return np.asarray(told.to_numpy(dtype=np.float32))


def read_run(path: Path) -> Finished:
    """Raises `InputError` for a run that is not finished, or lacks files."""
    missing = [name for name in NEEDED if not (path / name).exists()]
    if "summary.json" in missing and (path / "config.yaml").exists():
        raise InputError(f"{path}: this run has not finished; go on with --resume")
    if missing:
        raise InputError(f"{path}: no run, or files of it are missing: {', '.join(missing)}")
    predictions = pd.read_parquet(path / "predictions.parquet")
    # the refit has no songs held out
    held = predictions[(predictions["split"] == "val") & predictions["fold"].notna()].reset_index(drop=True)
    return Finished(
        path,
        json.loads((path / "summary.json").read_text(encoding="utf-8")),
        json.loads((path / "data.json").read_text(encoding="utf-8")),
        pd.DataFrame(read_lines(path / "metrics.jsonl")),
        held,
        (path / "config.yaml").read_text(encoding="utf-8"),
    )


def run_page(run: Finished, texts: dict[str, str], moved: Any = None) -> Page:
    """`texts` by example, where they are at hand; `moved(text, column)` gives the words that moved the model."""
    summary = run.summary
    demo = " on the built-in demo songs" if summary["demo"] else ""
    return Page(
        kind=f"Phase {summary['phase']}, {summary['problem']}{demo}",
        title=f"{summary['target'].replace('_', ' ')}: {run.path.name}",
        verdict=summary["verdict"],
        warnings=summary["signs"],
        sections=[
            _numbers(run),
            _how_it_learned(run),
            *_how_right(run),
            _songs_to_look_at(run, texts, moved),
            _data(run),
            _cost(run),
            Section("config", "The config", code=run.config),
        ],
        footer=f"config {summary['config_hash']}, data {summary['data_hash']}; {run.path}",
    )


def _numbers(run: Finished) -> Section:
    summary = run.summary
    headline = summary["metric"]
    shown = list(dict.fromkeys([headline, *(n for n in run.problem.defaults.shown if n != "loss")]))
    rows = [["model", *(number(summary["best"].get(name)) for name in shown)]]
    rows.append(["95% interval", *(interval(summary["ci95"].get(name)) for name in shown)])
    for name, values in summary["baselines"].items():
        rows.append([name, *(number(values.get(metric)) for metric in shown)])
    compared = {"model": summary["best"].get(headline)}
    compared |= {name: values.get(headline) for name, values in summary["baselines"].items()}
    counts = summary["counts"]
    text = [f"{counts['val_examples']} songs, each scored by a model that never saw it"
            f" ({counts['folds']} folds). Intervals draw songs with replacement."]  # fmt: skip
    chart = charts.scores_of(compared, headline, summary["ci95"].get(headline))
    return Section(
        "numbers", "The numbers", text,
        [Table(["", *(name.replace("_", " ") for name in shown)], rows, strong=0)], [chart],
    )  # fmt: skip


def _how_it_learned(run: Finished) -> Section:
    return Section("learning", "How it learned", charts=charts.learning_curves(run.records, run.summary["metric"]))


def _how_right(run: Finished) -> list[Section]:
    summary, scores, targets = run.summary, run.scores, run.targets
    songs = pd.factorize(run.held["song"])[0]
    if summary["problem"] == "regression":
        return [Section("errors", "How far off it is", charts=charts.scatter(targets, scores))]
    names = list(class_names(run))
    truth, columns = run.problem.indicators(targets), scores.reshape(len(scores), -1)
    drawn, tables = charts.rank_curves(truth, columns, names[-columns.shape[1] :], songs, SEED), []
    if summary["problem"] == "multiclass":
        right = scores.argmax(1) == targets.astype(int)
        drawn.append(charts.reliability(right, scores.max(1), "the class that is called"))
    else:
        of = names[-1] if summary["problem"] == "binary" else "each class"
        drawn.append(charts.reliability(truth.ravel(), columns.ravel(), of))
    if "confusion" in summary:
        drawn.insert(0, charts.confusion(np.array(summary["confusion"]), names))
    if "classes" in summary:
        by_size = sorted(summary["classes"].items(), key=lambda item: -item[1]["support"])
        rows = [[name, *(number(values[key]) for key in ("precision", "recall", "f1")), str(values["support"])]
                for name, values in by_size]  # fmt: skip
        tables.append(Table(["class", "precision", "recall", "F1", "songs"], rows))
    return [Section("errors", "Where it is right, and how sure", tables=tables, charts=drawn)]


def class_names(run: Finished) -> Sequence[str]:
    """The classes in the order of the confusion matrix; of yes and no the last one has the score."""
    columns = run.problem.score_names
    return ("False", "True") if columns == ("score",) else [name.removeprefix("score_") for name in columns]


def contradictions(run: Finished) -> pd.DataFrame:
    """Held-out predictions that contradict their label, the surest first: `wrong` says how surely, from 0 to 1.

    Of numbers it is how far off they are, in spreads of the numbers themselves.
    """
    scores, targets = run.scores, run.targets
    if run.summary["problem"] == "regression":
        wrong = np.abs(scores - targets) / max(1e-9, float(targets.std()))
    else:
        truth = run.problem.indicators(targets)
        columns = scores.reshape(len(scores), -1)
        gap = np.abs(truth - columns)
        wrong = (
            gap[:, 0]
            if columns.shape[1] == 1
            else np.where(truth, 1 - columns, 0).max(1) + np.where(truth, 0, columns).max(1)
        )
        wrong = wrong if columns.shape[1] == 1 else wrong / 2
        differs = [a != b for a, b in zip(_plain(run.held["target"]), _plain(run.held["prediction"]), strict=True)]
        wrong = np.where(differs, wrong, 0.0)
    found = run.held.assign(wrong=wrong)
    return found[found["wrong"] > 0].sort_values("wrong", ascending=False, kind="stable")


def _songs_to_look_at(run: Finished, texts: dict[str, str], moved: Any) -> Section:
    songs = []
    for _, row in contradictions(run).head(SHOWN_SONGS).iterrows():
        names = list(run.problem.score_names)
        column = max(names, key=lambda name: row[name])
        label = bool(row["target"]) if run.summary["problem"] == "binary" else row["target"]
        said = f"labelled {_say(label)}, called {_say(row['prediction'])}"
        score = "" if run.summary["problem"] == "regression" else f" (score {row[column]:.2f})"
        words_of = texts.get(row["example_id"], "")
        words = moved(words_of, column) if moved is not None and words_of else []
        told = "words that moved it: " if words else ""
        told += ", ".join(f"{one.word} {one.by:+.2f}" for one in words)
        songs.append(Song(str(row["song"]), said + score, _marked(words_of, words), told))
    text = ["Held-out songs whose label the model contradicts most surely. Some of these labels may be wrong: mend them"
            " in the manifest, and train again."] if songs else ["No held-out song contradicts its label."]  # fmt: skip
    if songs and not texts:
        text.append("Their texts are not shown: the manifest is not where it was, or has changed.")
    return Section("songs", "Songs to look at", text, songs=songs)


def _marked(text: str, words: list[Any]) -> list[Part]:
    """The text with the words that moved the model marked, whatever their case."""
    by = {one.word: one.by for one in words}
    if not by:
        return [Part(text)] if text else []
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, by))})\b", re.IGNORECASE)
    return [Part(piece, by.get(piece.lower(), 0.0)) for piece in pattern.split(text) if piece]


def _data(run: Finished) -> Section:
    profile, counts = run.profile, run.summary["counts"]
    rows = [["rows", str(profile["rows"])], ["songs", str(profile["songs"])], ["folds", str(counts["folds"])]]
    rows += [[f"left out: {reason}", str(n)] for reason, n in profile["dropped"].items()]
    labels = [[str(name), f"{n:g}"] for name, n in list(profile["labels"].items())[:TOP_CLASSES]]
    folds = run.held.groupby("fold")["song"].nunique()
    text = [f"Songs held out by fold: {', '.join(map(str, folds))}.", *run.summary["notes"]]
    return Section("data", "The songs", text, [Table(["", "count"], rows), Table(["label", ""], labels)])


def _cost(run: Finished) -> Section:
    summary, seconds = run.summary, run.summary["seconds"]
    rows = [[part, f"{value:.1f} s"] for part, value in seconds["parts"].items()] if "parts" in seconds else []
    rows.append(["in all", f"{seconds['total']:.1f} s"])
    if summary["cost_usd"] is not None:
        rows.append(["cost", f"${summary['cost_usd']:.4f}"])
    rows.append(["memory, at most", f"{summary['peak_memory_mb']:.0f} MB"])
    return Section("cost", "What it took", [f"On {summary['device']}, {summary['precision']}."],
                   [Table(["", ""], rows, strong=len(seconds.get("parts", {})))])  # fmt: skip


def _plain(values: pd.Series) -> list[Any]:
    """Targets and predictions in one form: a yes is 1, a list of classes a sorted tuple."""
    return [tuple(sorted(v)) if isinstance(v, list | np.ndarray) else float(v) if isinstance(v, bool) else v
            for v in values]  # fmt: skip


def _say(value: Any) -> str:
    if isinstance(value, list | np.ndarray):
        return ", ".join(value) or "none"
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    return f"{value:.2f}" if isinstance(value, float | np.floating) else str(value)
