"""The page that compares several runs on the songs in every run's validation sets."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rainbow_ray.evaluation.bootstrap import Difference, paired_bootstrap
from rainbow_ray.html_report.charts import run_differences
from rainbow_ray.html_report.html import Page, Section, Table, number
from rainbow_ray.html_report.run_artifacts import RunArtifacts
from rainbow_ray.utils.errors import InputError
from rainbow_ray.utils.number_format import format_difference

SEED = 0  # of the paired bootstrap


def comparison_page(runs: Sequence[RunArtifacts]) -> Page:
    """Compare each run with the first one, song by song.

    Args:
        runs: At least two runs of the same task, target and classes.

    Returns:
        The page.

    Raises:
        InputError: The runs cannot be compared.
    """
    first = runs[0]
    _check(runs)
    shared = functools.reduce(np.intersect1d, [run.predictions["example_id"].to_numpy() for run in runs])
    if len(shared) == 0:
        raise InputError("these runs have no song in common in their validation sets")
    metric, task, names = first.summary["metric"], first.task, _names(runs)
    indices = [pd.Index(run.predictions["example_id"]).get_indexer(pd.Index(shared)) for run in runs]
    is_thresholded = metric in task.threshold_metrics
    scores = [
        (run.thresholded if is_thresholded else run.scores)[rows] for run, rows in zip(runs, indices, strict=True)
    ]
    targets, songs = first.targets[indices[0]], first.predictions["song"].to_numpy()[indices[0]]
    n_songs = len(np.unique(songs))
    differences = {
        name: paired_bootstrap(task, metric, targets, of_run, scores[0], songs, seed=SEED)
        for name, of_run in zip(names[1:], scores[1:], strict=True)
    }
    rows = []
    for run, name, of_run in zip(runs, names, scores, strict=True):
        difference = differences.get(name)
        value = number(task.metric(metric, targets, of_run))
        rows.append([name, value, _format(difference) if difference else "–", run.summary["config_hash"]])
    tables = [Table(["run", metric.replace("_", " "), f"difference to {names[0]} [95%]", "config"], rows)]
    if task.has_classes:
        correct = [run.is_correct[rows] for run, rows in zip(runs, indices, strict=True)]
        tables.append(_agreement_table(names, correct))
    defined = {name: difference for name, difference in differences.items() if difference is not None}
    text = (
        f"{n_songs} songs in the validation sets of every run. Intervals are from a paired bootstrap over songs. A"
        " positive difference is better."
    )
    charts = [run_differences(defined, names[0])] if defined else []
    return Page(
        kind=f"{len(runs)} runs, phase {first.summary['phase']}",
        title=f"{first.summary['target'].replace('_', ' ')}: {', '.join(names)}",
        verdict=_verdict(differences, names[0], metric, n_songs),
        warnings=_warnings(runs),
        sections=[Section("runs", "Comparison", [text], tables, charts)],
        footer="",
    )


def _names(runs: Sequence[RunArtifacts]) -> list[str]:
    """Return the name of each run's folder, with the folder above it where several runs have the same name."""
    paths = [run.path.resolve() for run in runs]
    counts = Counter(path.name for path in paths)
    names = [path.name if counts[path.name] == 1 else f"{path.parent.name}/{path.name}" for path in paths]
    return [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names, start=1)]


def _check(runs: Sequence[RunArtifacts]) -> None:
    first, messages = runs[0], []
    for run in runs[1:]:
        for key in ("task", "target"):
            if run.summary[key] != first.summary[key]:
                messages.append(f"{run.path}: its {key} is {run.summary[key]}, that of {first.path} is"
                                f" {first.summary[key]}")  # fmt: skip
        if not messages and run.task.score_names != first.task.score_names:
            messages.append(f"{run.path}: its classes differ from those of {first.path}")
        if not np.isin(run.predictions["example_id"], first.predictions["example_id"]).any():
            messages.append(f"{run.path}: it has no song in common with {first.path}")
    if messages:
        raise InputError(messages)


def _warnings(runs: Sequence[RunArtifacts]) -> list[str]:
    if len({run.summary["data_hash"] for run in runs}) > 1:
        return ["These runs were trained on different songs, texts or labels; the labels are those of the first run."]
    if len({run.profile.get("split_hash") for run in runs}) > 1:
        return ["These runs have different splits: differences may be due to the folds (see --split-file)."]
    return []


def _agreement_table(names: Sequence[str], correct: Sequence[np.ndarray]) -> Table:
    """Count the songs that both runs, one of them or neither predict correctly."""
    first, head = correct[0], ["correct in", "both", f"only {names[0]}", "only this run", "neither"]
    rows = []
    for name, other_correct in zip(names[1:], correct[1:], strict=True):
        counts = (first & other_correct, first & ~other_correct, ~first & other_correct, ~first & ~other_correct)
        rows.append([name, *(str(int(mask.sum())) for mask in counts)])
    return Table(head, rows, caption=f"Number of songs that {names[0]} and each other run predict correctly")


def _verdict(differences: Mapping[str, Difference | None], reference: str, metric: str, n_songs: int) -> str:
    sentences = []
    for name, difference in differences.items():
        if difference is None:
            sentences.append(f"{name} cannot be compared with {reference}: {metric} is undefined on too many resamples"
                             f" of {n_songs} songs.")  # fmt: skip
        elif difference.low > 0:
            sentences.append(f"{name} is better than {reference} ({_format(difference)}).")
        elif difference.high < 0:
            sentences.append(f"{name} is worse than {reference} ({_format(difference)}).")
        else:
            sentences.append(f"These songs do not show a difference between {name} and {reference}"
                             f" ({_format(difference)}).")  # fmt: skip
    return " ".join(sentences)


def _format(difference: Difference) -> str:
    return format_difference(difference.value, difference.low, difference.high)
