"""The section on modalities: ablation, presence and attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rainbow_ray.html_report.html import Section, Table, number
from rainbow_ray.html_report.run_artifacts import RunArtifacts


def modality_section(run: RunArtifacts) -> list[Section]:
    """Return the section on modalities.

    Args:
        run: The run.

    Returns:
        One section; none for a run with a single modality.
    """
    summary = run.summary
    if not summary.get("modalities"):
        return []
    models = "neural networks alone" if summary.get("stack") else "models"
    text = [f"Metrics of the same {models} with only some modalities as input, on the songs that have any of these. The"
            " last column has the metric with all modalities on the same songs. The scores of a song's stems are"
            " averaged first."]  # fmt: skip
    presence = run.profile.get("presence", {})
    unit = {"stem": "stems"}.get(summary.get("unit", ""), "songs")
    tables = [
        _ablation_table(run),
        Table([f"{unit} with", "count"], [[_format_subset(name), str(n)] for name, n in presence.items()]),
    ]
    if attention := summary.get("attention"):
        tables.append(_attention_table(attention))
        text.append("Attention from the tokens of each modality (row) to those of each other one, averaged.")
    return [Section("modalities", "Modality ablation", text, tables)]


def _ablation_table(run: RunArtifacts) -> Table:
    summary = run.summary
    metric = summary["metric"]
    metrics = list(dict.fromkeys([metric, *(name for name in run.task.defaults.shown_metrics if name != "loss")]))
    # the subset of all modalities first
    subsets = sorted(summary["modalities"].items(), key=lambda item: item[0].count("+"), reverse=True)
    rows = []
    for name, values in subsets:
        cells = [number(values.get(metric)) for metric in metrics]
        rows.append([_format_subset(name), str(values["songs"]), *cells, number(values["all_of_them"])])
    head = [*(name.replace("_", " ") for name in metrics), f"{metric.replace('_', ' ')} with all"]
    return Table(["input", "songs", *head], rows, strong=0)


def _attention_table(attention: Mapping[str, Mapping[str, Any]]) -> Table:
    names = list(attention)
    rows = [[query, *(f"{attention[query][key]:.0%}" if key != query else "–" for key in names)] for query in names]
    return Table(["attention to", *names], rows)


def _format_subset(modalities: str) -> str:
    return modalities.replace("+", " + ") or "nothing"
