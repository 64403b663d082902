"""The table that `train` prints at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rainbow_ray.utils.number_format import format_interval, format_number


def print_summary(summary: Mapping[str, Any], folder: Path, metrics: Sequence[str], console: Console) -> None:
    """Print metrics with intervals, baselines, verdict, warnings and cost of a run.

    Args:
        summary: The run's summary, in the present format.
        folder: Folder of the run.
        metrics: Metrics to show after the headline metric.
        console: Console to print on.
    """
    console.print(_make_table(summary, metrics), soft_wrap=False)
    console.print(summary["verdict"], style="bold")
    if stack := summary.get("stack"):
        console.print(stack["contributions"])
    if curve := summary.get("learning_curve"):
        console.print(curve["sentence"])
    for line in [*summary["training_warnings"], *(f"Note: {note}" for note in summary["notes"])]:
        console.print(line)
    seconds = summary["seconds"]
    cost = f", ${summary['cost_usd']:.4f}" if summary["cost_usd"] is not None else ""
    console.print(
        f"{seconds['total']:.0f} s in total (training {seconds['train']:.0f} s, evaluation {seconds['eval']:.0f} s,"
        f" summed over all workers){cost}; {summary['device']}, {summary['precision']}; run in {folder}/",
    )


def _make_table(summary: Mapping[str, Any], metrics: Sequence[str]) -> Table:
    names = [name for name in dict.fromkeys([summary["metric"], *metrics]) if name != "loss"]
    n_folds = summary["counts"]["folds"]
    split = f"{n_folds} folds" if n_folds > 1 else "one split"
    examples = "examples" if "segments" not in summary["counts"] else "segments"
    if summary.get("weak"):
        examples = "segments of songs (WEAK: scored as songs)"
    title = f"{summary['target']}: {summary['counts']['val_examples']} {examples}, {split}"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")  # without underscores, a long name can wrap
    table.add_row("model", *(format_number(summary["metrics"].get(name)) for name in names), style="bold")
    table.add_row("  95% interval", *(format_interval(summary["ci95"].get(name)) for name in names))
    if stack := summary.get("stack"):
        table.add_row("  neural network alone", *(format_number(stack["neural"].get(name)) for name in names))
    table.add_section()
    for label, values in summary["baselines"].items():
        table.add_row(label, *(format_number(values.get(name)) for name in names))
    return table
