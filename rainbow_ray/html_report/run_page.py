"""The page of one run: verdict and metrics first, then learning curves, errors, label issues, data and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rainbow_ray.evaluation.solution import describe_solution
from rainbow_ray.html_report import charts
from rainbow_ray.html_report.html import Page, Section, Table, interval, number
from rainbow_ray.html_report.label_issues import ExplainWords, find_label_issues
from rainbow_ray.html_report.modalities import modality_section
from rainbow_ray.html_report.run_artifacts import RunArtifacts
from rainbow_ray.html_report.timelines import make_timelines
from rainbow_ray.stacking.stack import NEURAL
from rainbow_ray.utils.number_format import format_difference, format_labels

SEED = 0  # of the bootstrap of the bands
MAX_CLASSES = 12
# of metrics that can be a headline, for readers who do not use them every day
DESCRIPTIONS = {
    "macro_f1": "harmonic mean of precision and recall, averaged over classes; 1 is perfect",
    "f1": "harmonic mean of precision and recall of the positive class; 1 is perfect",
    "accuracy": "fraction of songs with a correct prediction",
    "balanced_accuracy": "recall, averaged over classes",
    "average_precision": "area under the precision-recall curve; 1 is perfect",
    "average_precision_rarer": "area under the precision-recall curve of the rarer label; 1 is perfect",
    "mcc": "Matthews correlation of labels and predictions: 0 is chance, 1 is perfect",
    "time_accuracy": "fraction of the labeled time with a correct prediction",
    "edit": "similarity of the order of intervals, regardless of their duration; 1 is perfect",
    "f1_at_50": "F1 of intervals that overlap the reference by at least half (IoU); 1 is perfect",
    "boundary_0_5s": "F1 of boundaries within 0.5 seconds of the reference; 1 is perfect",
    "boundary_3s": "F1 of boundaries within 3 seconds of the reference; 1 is perfect",
    "time_mae": "mean absolute error over time, in the unit of the label; lower is better",
    "mae": "mean absolute error, in the unit of the label; lower is better",
    "rmse": "root mean squared error, which weights large errors more; lower is better",
    "r2": "fraction of the variance that is explained: 0 is predicting the mean, 1 is perfect",
}


def run_page(run: RunArtifacts, texts: Mapping[str, str], explain: ExplainWords | None = None) -> Page:
    """Return the page of a run.

    Args:
        run: The run.
        texts: Text by example id; may be empty.
        explain: Returns the effects of words on a score, by the model of a fold; or None.

    Returns:
        The page.
    """
    summary = run.summary
    demo = " on the built-in demo songs" if summary["demo"] else ""
    return Page(
        kind=f"Phase {summary['phase']}, {summary['task']}{demo}",
        title=f"{summary['target'].replace('_', ' ')}: {run.path.name}",
        verdict=summary["verdict"],
        warnings=summary["training_warnings"],
        sections=[
            _metrics(run),
            *_stack(run),
            *modality_section(run),
            _training(run),
            *_more_songs(run),
            *_timelines(run, texts),
            _errors(run.example_view),
            find_label_issues(run.example_view, texts, explain),
            _data(run),
            _cost(run),
            Section("config", "Config", code=run.config),
        ],
        footer=f"config {summary['config_hash']}, data {summary['data_hash']}; {run.path}",
    )


def _training(run: RunArtifacts) -> Section:
    if solution := describe_solution(run.summary):
        return Section("learning", "Learning curves", [solution])
    return Section("learning", "Learning curves", charts=charts.learning_curves(run.records, run.summary["metric"]))


def class_names(run: RunArtifacts) -> Sequence[str]:
    """Return the classes in the order of the confusion matrix.

    Args:
        run: A run of a task with classes.

    Returns:
        Names of the classes; of two classes with one score, the score is that of the last.
    """
    columns = run.task.score_names
    return ("False", "True") if columns == ("score",) else [name.removeprefix("score_") for name in columns]


def _metrics(run: RunArtifacts) -> Section:
    summary, counts = run.summary, run.summary["counts"]
    headline = summary["metric"]
    metric_names = list(
        dict.fromkeys([headline, *(name for name in run.task.defaults.shown_metrics if name != "loss")])
    )
    rows = [["model", *(number(summary["metrics"].get(name)) for name in metric_names)]]
    rows.append(["95% interval", *(interval(summary["ci95"].get(name)) for name in metric_names)])
    if stack := summary.get("stack"):
        rows.append(["neural network alone", *(number(stack["neural"].get(metric)) for metric in metric_names)])
    for name, values in summary["baselines"].items():
        rows.append([name, *(number(values.get(metric)) for metric in metric_names)])
    examples, group = "songs", "it"
    if "segments" in counts:
        examples, group = f"labeled segments of {counts['songs']} songs", "its song"
    text = [f"{counts['val_examples']} {examples}, each scored by a model that was not trained on {group}"
            f" ({counts['folds']} folds). Intervals are from a bootstrap over songs."]  # fmt: skip
    if summary.get("weak"):
        text.append("WEAK: segments have no labels of their own. These metrics are of songs, whose score is pooled over"
                    " their segments. Predictions of single segments were never compared with a label.")  # fmt: skip
    if description := DESCRIPTIONS.get(headline):
        text.append(f"{headline.replace('_', ' ')}: {description}.")
    values_by_name = {"model": summary["metrics"].get(headline)}
    values_by_name |= {name: values.get(headline) for name, values in summary["baselines"].items()}
    return Section(
        "metrics", "Metrics", text,
        [Table(["", *(name.replace("_", " ") for name in metric_names)], rows, strong=0)],
        [charts.metric_comparison(values_by_name, headline, summary["ci95"].get(headline))],
    )  # fmt: skip


def _stack(run: RunArtifacts) -> list[Section]:
    """What each member of a stacked ensemble contributes."""
    stack = run.summary.get("stack")
    if not stack:
        return []
    headline = run.summary["metric"]
    values = {name: metrics.get(headline) for name, metrics in run.summary["baselines"].items()}
    values[NEURAL] = stack["neural"].get(headline)
    rows = [
        [name, number(values.get(name)), f"{stack['weights'].get(name, 0):.2f}", f"{stack['shares'].get(name, 0):.0%}"]
        for name in [*stack["weights"], *stack["left_out"]]
    ]
    text = [
        "The model is a stacked ensemble: a weighted sum of the linear predictors (logits, or numbers) of a neural"
        " network and of simple models. Weights are not negative, were fitted on out-of-fold scores, and those that"
        " scored a fold were fitted on the other folds. A share is the part of a member in the variation of the sum.",
        stack["contributions"],
    ]
    if difference := stack["difference_to_neural"]:
        shown = format_difference(difference["value"], difference["low"], difference["high"])
        text.append(f"Improvement of the {headline.replace('_', ' ')} over the neural network alone: {shown}.")
    table = Table(["member", f"{headline.replace('_', ' ')} alone", "weight", "share"], rows)
    return [Section("stack", "Stacked ensemble", text, [table])]


def _more_songs(run: RunArtifacts) -> list[Section]:
    """What more songs would bring."""
    curve = run.summary.get("learning_curve")
    if not curve:
        return []
    exponent, low, high = curve["exponent"]
    text = [
        curve["sentence"],
        "Simple models (linear, of words and of the frozen encoder) were trained on parts of the training songs of each"
        f" fold, drawn several times; their error changes as n to the power of {-exponent:.2f}"
        f" [{-high:.2f}, {-low:.2f}]. The kept model need not follow them.",
    ]
    return [Section("more-songs", "What more songs would bring", text, charts=[charts.learning_curve(curve)])]


def _timelines(run: RunArtifacts, texts: Mapping[str, str]) -> list[Section]:
    timelines = make_timelines(run, texts)
    if timelines is None:
        return []
    return [Section("timelines", "Timelines", [timelines.caption], timelines=timelines, plots=[timelines.picture])]


def _errors(run: RunArtifacts) -> Section:
    summary, scores, targets = run.summary, run.scores, run.targets
    if not run.task.has_classes:
        return Section("errors", "Prediction errors", charts=charts.scatter(targets, scores))
    songs = pd.factorize(run.predictions["song"])[0]
    names = list(class_names(run))
    one_hot, columns = run.task.one_hot(targets), scores.reshape(len(scores), -1)
    drawn = charts.rank_curves(one_hot, columns, names[-columns.shape[1] :], songs, SEED)
    if run.task.has_exclusive_classes:
        is_correct = scores.argmax(1) == targets.astype(int)
        drawn.append(charts.reliability(is_correct, scores.max(1), "the predicted class"))
    elif run.task.supports_calibration:  # of other tasks, scores are no probabilities
        scored_class = names[-1] if columns.shape[1] == 1 else "each class"
        drawn.append(charts.reliability(one_hot.ravel(), columns.ravel(), scored_class))
    if "confusion" in summary:
        drawn.insert(0, charts.confusion(np.array(summary["confusion"]), names))
    tables = []
    if "classes" in summary:
        by_support = sorted(summary["classes"].items(), key=lambda item: -item[1]["support"])
        rows = []
        for name, values in by_support:
            rows.append([name, *(number(values[key]) for key in ("precision", "recall", "f1")), str(values["support"])])
        tables.append(Table(["class", "precision", "recall", "F1", "support"], rows))
    return Section("errors", "Classification and calibration", tables=tables, charts=drawn)


def _data(run: RunArtifacts) -> Section:
    profile = run.profile
    rows = [["rows", str(profile["rows"])], ["songs", str(profile["songs"])]]
    rows.append(["folds", str(run.summary["counts"]["folds"])])
    rows += [[f"dropped: {reason}", str(n)] for reason, n in profile["dropped"].items()]
    labels = [[name, value] for name, value in format_labels(profile["labels"])[:MAX_CLASSES]]
    by_fold = run.predictions.groupby("fold")["song"].nunique()
    text = [f"Songs in the validation set of each fold: {', '.join(map(str, by_fold))}.", *run.summary["notes"]]
    return Section("data", "Dataset", text, [Table(["", "count"], rows), Table(["label", ""], labels)])


def _cost(run: RunArtifacts) -> Section:
    summary, seconds = run.summary, run.summary["seconds"]
    rows = [[part, f"{value:.1f} s"] for part, value in seconds.get("parts", {}).items()]
    n_parts = len(rows)
    rows.append(["total", f"{seconds['total']:.1f} s"])
    if summary["cost_usd"] is not None:
        rows.append(["cost", f"${summary['cost_usd']:.4f}"])
    rows.append(["peak memory", f"{summary['peak_memory_mb']:.0f} MB"])
    text = [f"Device: {summary['device']}; precision: {summary['precision']}."]
    return Section("cost", "Time and cost", text, [Table(["", ""], rows, strong=n_parts)])
