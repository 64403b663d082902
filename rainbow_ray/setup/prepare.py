"""From a plan to data that are ready for training: examples, labels and a split."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from rainbow_ray.data.reader import read_rows, read_rows_locally
from rainbow_ray.data.streaming import size_in_memory
from rainbow_ray.modalities.text import tokenize
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepare_segments import prepare_segments
from rainbow_ray.setup.prepare_songs import prepare_songs
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.setup.read_rows import ReadRows, read_prepared_rows, reads_in_driver
from rainbow_ray.utils.count_progress import count_progress
from rainbow_ray.utils.errors import InputError
from rainbow_ray.utils.number_format import format_labels

MAX_SHOWN_CLASSES = 8  # in the header of a run
MAX_UNKNOWN_FRACTION = 0.03  # of tokens; above, a warning is printed
ALL_UNKNOWN_FRACTION = 0.95  # of tokens; above, nothing can be learned from the texts


def prepare_data(
    plan: RunPlan, read: ReadRows | None = None, *, on_rows: Callable[[int], None] | None = None
) -> PreparedData:
    """Read, prepare and split the examples of a run.

    Args:
        plan: The plan of the run.
        read: Reads rows into memory; None: `data.reader` decides. Ray must be running where `needs_ray` is true.
        on_rows: Called with the numbers of rows that Ray has read.

    Returns:
        The data of the run.

    Raises:
        InputError: The data cannot be trained on; all problems are listed.
    """
    size_mb = _size_mb(plan)
    limit_mb = plan.config.data.in_memory_limit_mb
    streams = read is None and size_mb > limit_mb
    if read is None and reads_in_driver(plan, size_mb):
        read = read_rows_locally
    reader = "ray" if read is None else "driver"
    read = read or functools.partial(read_rows, on_rows=on_rows)
    if plan.segments is None:
        data = prepare_songs(plan, read, size_mb, streams=streams)
    elif streams:
        raise InputError(
            f"data.in_memory_limit_mb: segments are kept in memory, and {plan.manifest.shown} takes {size_mb:.0f} MB,"
            f" more than {limit_mb}; set it higher"
        )
    else:
        data = prepare_segments(plan, *read_prepared_rows(plan, read, streams=False))
    profile = {**data.profile, "reader": reader}
    return _check_unknown_tokens(plan, dataclasses.replace(data, profile=profile))


def prepare_data_with_progress(plan: RunPlan, console: Console) -> PreparedData:
    """Do what `prepare_data` does, and show how many rows Ray has read, which takes long with audio and MIDI.

    Args:
        plan: The plan of the run.
        console: Where progress is shown.

    Returns:
        The data of the run.

    Raises:
        InputError: The data cannot be trained on; all problems are listed.
    """
    with count_progress(console, "reading", plan.manifest.rows, "rows") as advance:
        return prepare_data(plan, on_rows=advance)


def needs_ray(plan: RunPlan) -> bool:
    """Return whether `prepare_data` reads rows with Ray Data.

    Args:
        plan: The plan of the run.

    Returns:
        False where this process reads them.
    """
    return not reads_in_driver(plan, _size_mb(plan))


def _size_mb(plan: RunPlan) -> float:
    return size_in_memory(plan.manifest, plan.columns) / 2**20


def describe_dataset(plan: RunPlan, data: PreparedData) -> list[str]:
    """Return lines about what was read and what was dropped.

    Args:
        plan: The plan of the run.
        data: The data of the run.

    Returns:
        The number of songs and their labels, then a line for each reason for which rows were dropped.
    """
    profile = data.profile
    reader = "with Ray Data" if profile["reader"] == "ray" else "in this process"
    return [
        f"{profile['songs']} songs from {profile['rows']} rows of {plan.manifest.shown}, read {reader};"
        f" {summarize_labels(profile['labels'])}",
        *(f"  {n} rows left out: {reason}" for reason, n in profile["dropped"].items()),
    ]


def summarize_labels(labels: Mapping[str, float]) -> str:
    """Return the distribution of labels as a line of text.

    Args:
        labels: Counts by class, or quantiles of a number by name.

    Returns:
        The largest classes with their counts, or the quantiles.
    """
    if any(isinstance(n, float) for n in labels.values()):
        return ", ".join(f"{name} {value}" for name, value in format_labels(labels))
    largest = [f"{n} {label}" for label, n in list(labels.items())[:MAX_SHOWN_CLASSES]]
    n_more = len(labels) - len(largest)
    return ", ".join(largest) + (f" and {n_more} more classes" if n_more else "")


def _check_unknown_tokens(plan: RunPlan, data: PreparedData) -> PreparedData:
    """Add a warning if the tokenizer does not know many of the words. Raises `InputError` if it knows none."""
    if not plan.input_spec.text:
        return data
    fraction = _unknown_fraction(data.examples.table, plan.input_spec.text)
    if fraction <= MAX_UNKNOWN_FRACTION:
        return data
    message = (
        f"{fraction:.0%} of the tokens of the texts are unknown to the tokenizer of {plan.input_spec.text!r}, so the"
        " encoder ignores them: use an encoder for the language and script of the texts"
    )
    if fraction > ALL_UNKNOWN_FRACTION:
        raise InputError(f"model.text_encoder.model_name: {message}")
    return dataclasses.replace(data, warnings=[*data.warnings, message])


def _unknown_fraction(table: pa.Table, encoder: str) -> float:
    """Return the fraction of tokens that a tokenizer does not know; special tokens are not counted."""
    tokenizer, plain = tokenize.load_tokenizer(encoder), tokenize.load_plain_tokenizer(encoder)
    ids = pc.list_flatten(table[tokenize.TOKENS])
    n_tokens = len(ids) - len(table) * (plain.front + plain.back)
    if tokenizer.unk_token_id is None or n_tokens <= 0:
        return 0.0
    return float(pc.sum(pc.equal(ids, tokenizer.unk_token_id)).as_py() or 0) / n_tokens
