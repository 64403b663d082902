"""The page of one run: the verdict first, then what it rests on, then the songs whose labels to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rainbow_ray.html_report import charts
from rainbow_ray.html_report.html import Page, Section, Table, interval, number
from rainbow_ray.html_report.label_issues import Words, find_label_issues
from rainbow_ray.html_report.modalities import modality_section
from rainbow_ray.html_report.run_artifacts import RunArtifacts
from rainbow_ray.html_report.timelines import timelines_of
from rainbow_ray.utils.number_format import format_labels

SEED = 0  # of the songs that bands are drawn from
TOP_CLASSES = 12
# of metrics that are a headline, for people who do not read F1 every day
MEANINGS = {
    "macro_f1": "how well each class is found, and only it, averaged over classes; 1 is perfect",
    "f1": "how well the songs that are meant are found, and only they; 1 is perfect",
    "accuracy": "the share of songs that are called right",
    "balanced_accuracy": "the share of each class that is called right, averaged over classes",
    "average_precision": "how far up the songs that are meant stand when all are ranked; 1 is perfect",
    "average_precision_rarer": "how far up songs of the rarer label stand when all are ranked; 1 is perfect",
    "mcc": "how far labels and predictions go together: 0 is guessing, 1 is perfect",
    "time_accuracy": "the share of labelled time that is called right",
    "edit": "how alike the order of stretches is, whatever their length; 1 is perfect",
    "f1_at_50": "how many stretches are found whose overlap with the true one is at least a half; 1 is perfect",
    "boundary_0_5s": "how many boundaries are hit within half a second, and only these; 1 is perfect",
    "boundary_3s": "how many boundaries are hit within three seconds, and only these; 1 is perfect",
    "time_mae": "how far off a prediction is on average over time, in the label's own unit; less is better",
    "mae": "how far off a prediction is on average, in the label's own unit; less is better",
    "rmse": "how far off predictions are, large misses counting more; less is better",
    "r2": "the share of what differs between songs that is explained: 0 is saying the mean, 1 is perfect",
}


def run_page(run: RunArtifacts, texts: Mapping[str, str], moved: Words | None = None) -> Page:
    """`texts` by example, where they are at hand; `moved` gives the words that moved the model of a fold."""
    summary = run.summary
    demo = " on the built-in demo songs" if summary["demo"] else ""
    return Page(
        kind=f"Phase {summary['phase']}, {summary['task']}{demo}",
        title=f"{summary['target'].replace('_', ' ')}: {run.path.name}",
        verdict=summary["verdict"],
        warnings=summary["training_warnings"],
        sections=[
            _numbers(run),
            *modality_section(run),
            _how_it_learned(run),
            *_timelines(run, texts),
            *_how_right(run.alone),
            find_label_issues(run.alone, texts, moved),
            _data(run),
            _cost(run),
            Section("config", "The config", code=run.config),
        ],
        footer=f"config {summary['config_hash']}, data {summary['data_hash']}; {run.path}",
    )


def _numbers(run: RunArtifacts) -> Section:
    summary = run.summary
    headline = summary["metric"]
    shown = list(dict.fromkeys([headline, *(n for n in run.task.defaults.shown_metrics if n != "loss")]))
    rows = [["model", *(number(summary["metrics"].get(name)) for name in shown)]]
    rows.append(["95% interval", *(interval(summary["ci95"].get(name)) for name in shown)])
    for name, values in summary["baselines"].items():
        rows.append([name, *(number(values.get(metric)) for metric in shown)])
    meaning = MEANINGS.get(headline)
    compared = {"model": summary["metrics"].get(headline)}
    compared |= {name: values.get(headline) for name, values in summary["baselines"].items()}
    counts = summary["counts"]
    what, unseen = "songs", "it"
    if "segments" in counts:
        what, unseen = f"labelled segments of {counts['songs']} songs", "its song"
    text = [f"{counts['val_examples']} {what}, each scored by a model that never saw {unseen}"
            f" ({counts['folds']} folds). Intervals draw songs with replacement."]  # fmt: skip
    if summary.get("weak"):
        text.append("WEAK: segments have no labels of their own. These numbers are of songs, whose segments share in"
                    " their score; what is said of a single segment was never compared with a truth.")  # fmt: skip
    text += [f"{headline.replace('_', ' ')}: {meaning}."] if meaning else []
    chart = charts.scores_of(compared, headline, summary["ci95"].get(headline))
    return Section(
        "numbers", "The numbers", text,
        [Table(["", *(name.replace("_", " ") for name in shown)], rows, strong=0)], [chart],
    )  # fmt: skip


def _timelines(run: RunArtifacts, texts: Mapping[str, str]) -> list[Section]:
    made = timelines_of(run, texts)
    if made is None:
        return []
    return [Section("timelines", "The songs in time", [made.says], timelines=made, plots=[made.picture])]


def _how_it_learned(run: RunArtifacts) -> Section:
    return Section("learning", "How it learned", charts=charts.learning_curves(run.records, run.summary["metric"]))


def _how_right(run: RunArtifacts) -> list[Section]:
    summary, scores, targets = run.summary, run.scores, run.targets
    songs = pd.factorize(run.held["song"])[0]
    if not run.task.has_classes:
        return [Section("errors", "How far off it is", charts=charts.scatter(targets, scores))]
    names = list(class_names(run))
    truth, columns = run.task.one_hot(targets), scores.reshape(len(scores), -1)
    drawn, tables = charts.rank_curves(truth, columns, names[-columns.shape[1] :], songs, SEED), []
    if run.task.has_exclusive_classes:
        right = scores.argmax(1) == targets.astype(int)
        drawn.append(charts.reliability(right, scores.max(1), "the class that is called"))
    else:
        of = names[-1] if columns.shape[1] == 1 else "each class"
        drawn.append(charts.reliability(truth.ravel(), columns.ravel(), of))
    if "confusion" in summary:
        drawn.insert(0, charts.confusion(np.array(summary["confusion"]), names))
    if "classes" in summary:
        by_size = sorted(summary["classes"].items(), key=lambda item: -item[1]["support"])
        rows = [[name, *(number(values[key]) for key in ("precision", "recall", "f1")), str(values["support"])]
                for name, values in by_size]  # fmt: skip
        tables.append(Table(["class", "precision", "recall", "F1", "songs"], rows))
    return [Section("errors", "Where it is right, and how sure", tables=tables, charts=drawn)]


def class_names(run: RunArtifacts) -> Sequence[str]:
    """The classes in the order of the confusion matrix; of yes and no the last one has the score."""
    columns = run.task.score_names
    return ("False", "True") if columns == ("score",) else [name.removeprefix("score_") for name in columns]


def _data(run: RunArtifacts) -> Section:
    profile, counts = run.profile, run.summary["counts"]
    rows = [["rows", str(profile["rows"])], ["songs", str(profile["songs"])], ["folds", str(counts["folds"])]]
    rows += [[f"left out: {reason}", str(n)] for reason, n in profile["dropped"].items()]
    labels = [[name, n] for name, n in format_labels(profile["labels"])[:TOP_CLASSES]]
    folds = run.held.groupby("fold")["song"].nunique()
    text = [f"Songs held out by fold: {', '.join(map(str, folds))}.", *run.summary["notes"]]
    return Section("data", "The songs", text, [Table(["", "count"], rows), Table(["label", ""], labels)])


def _cost(run: RunArtifacts) -> Section:
    summary, seconds = run.summary, run.summary["seconds"]
    rows = [[part, f"{value:.1f} s"] for part, value in seconds["parts"].items()] if "parts" in seconds else []
    rows.append(["in all", f"{seconds['total']:.1f} s"])
    if summary["cost_usd"] is not None:
        rows.append(["cost", f"${summary['cost_usd']:.4f}"])
    rows.append(["memory, at most", f"{summary['peak_memory_mb']:.0f} MB"])
    return Section("cost", "What it took", [f"On {summary['device']}, {summary['precision']}."],
                   [Table(["", ""], rows, strong=len(seconds.get("parts", {})))])  # fmt: skip
