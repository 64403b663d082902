"""Several runs beside each other, over the songs that all of them held out."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from rainbow_ray.evaluation.bootstrap import Difference, paired_bootstrap
from rainbow_ray.html_report.charts import gains
from rainbow_ray.html_report.html import Page, Section, Table, number
from rainbow_ray.html_report.run_artifacts import RunArtifacts
from rainbow_ray.utils.errors import InputError
from rainbow_ray.utils.number_format import format_difference

SEED = 0


def comparison_page(runs: Sequence[RunArtifacts]) -> Page:
    """Each run against the first, song by song. Raises `InputError` where they cannot be compared."""
    first = runs[0]
    _check(runs)
    shared = functools.reduce(np.intersect1d, [run.held["example_id"].to_numpy() for run in runs])
    if len(shared) == 0:
        raise InputError("these runs have no song in common that all of them held out")
    metric, task = first.summary["metric"], first.task
    names = _names(runs)
    rows = [pd.Index(run.held["example_id"]).get_indexer(pd.Index(shared)) for run in runs]
    decides = metric in task.threshold_metrics
    scores = [(run.thresholded if decides else run.scores)[taken] for run, taken in zip(runs, rows, strict=True)]
    targets = first.targets[rows[0]]
    songs = first.held["song"].to_numpy()[rows[0]]
    table, sentences, gaps = [], [], {}
    for place, (run, name, ours) in enumerate(zip(runs, names, scores, strict=True)):
        value = task.metric(metric, targets, ours)
        gap = None if place == 0 else paired_bootstrap(task, metric, targets, ours, scores[0], songs, seed=SEED)
        table.append([name, number(value), _span(gap) if gap else "–", run.summary["config_hash"]])
        if gap is not None:
            gaps[name] = gap
            sentences.append(_sentence(name, names[0], gap))
        elif place:
            sentences.append(f"Between {name} and {names[0]} nothing can be said: {metric} is not defined on enough"
                             f" draws of {len(np.unique(songs))} songs.")  # fmt: skip
    about = (
        f"{len(np.unique(songs))} songs that every run held out; differences draw songs with replacement, the same for"
        " both. A positive difference is better."
    )
    right = [run.right[taken] for run, taken in zip(runs, rows, strict=True)]
    tables = [Table(["run", metric.replace("_", " "), f"against {names[0]} [95%]", "config"], table)]
    if task.has_classes:
        head = ["right in", "both", f"only {names[0]}", "only itself", "neither"]
        counts = [
            [name, *(str(int(n.sum())) for n in (a & b, a & ~b, ~a & b, ~a & ~b))]
            for name, a, b in zip(names[1:], right[:1] * len(runs[1:]), right[1:], strict=True)
        ]
        tables.append(Table(head, counts, caption=f"Songs, by whether {names[0]} and each other run are right"))
    return Page(
        kind=f"{len(runs)} runs, phase {first.summary['phase']}",
        title=f"{first.summary['target'].replace('_', ' ')}: {', '.join(names)}",
        verdict=" ".join(sentences),
        warnings=_warnings(runs),
        sections=[Section("runs", "Beside each other", [about], tables, [gains(gaps, names[0])] if gaps else [])],
        footer="",
    )


def _names(runs: Sequence[RunArtifacts]) -> list[str]:
    """What each run is called: its folder, with the one above it where several have the same name."""
    paths = [run.path.resolve() for run in runs]
    alike = Counter(path.name for path in paths)
    names = [path.name if alike[path.name] == 1 else f"{path.parent.name}/{path.name}" for path in paths]
    return [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, start=1)]


def _check(runs: Sequence[RunArtifacts]) -> None:
    first, problems = runs[0], []
    for run in runs[1:]:
        for key in ("task", "target"):
            if run.summary[key] != first.summary[key]:
                problems.append(f"{run.path}: its {key} is {run.summary[key]}, of {first.path} {first.summary[key]}")
        if not problems and run.task.score_names != first.task.score_names:
            problems.append(f"{run.path}: its classes are others than those of {first.path}")
        if not np.isin(run.held["example_id"], first.held["example_id"]).any():
            problems.append(f"{run.path}: no song in common with {first.path}")
    if problems:
        raise InputError(problems)


def _warnings(runs: Sequence[RunArtifacts]) -> list[str]:
    if len({run.summary["data_hash"] for run in runs}) > 1:
        return ["These runs were made with different songs, texts or labels; labels are those of the first."]
    if len({run.profile.get("split_hash") for run in runs}) > 1:
        return ["These runs were split differently: what differs may be the luck of the folds (--split-file)."]
    return []


def _sentence(name: str, other: str, gap: Difference) -> str:
    if gap.low > 0:
        return f"{name} is better than {other} ({_span(gap)})."
    if gap.high < 0:
        return f"{name} is worse than {other} ({_span(gap)})."
    return f"Between {name} and {other} these songs cannot tell ({_span(gap)})."


def _span(gap: Difference) -> str:
    return format_difference(gap.value, gap.low, gap.high)
