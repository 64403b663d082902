"""The data of a run as every task has them, with what `data.json` and the warnings say of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from rainbow_ray.config.schema import Config, DataConfig
from rainbow_ray.data.dataset import Dataset
from rainbow_ray.data.examples import LABELS_DISAGREE, Examples, first_per_song
from rainbow_ray.data.splits import Split, split_hash
from rainbow_ray.modalities.spec import modalities_present
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.tasks.base import Task

MUCH = 0.2  # of the rows: where as many were left out, that may be why nothing can be learned
MIN_SONGS = 10
FOLDS_BELOW = 500  # songs: one split of fewer cannot rank anything
DEFAULT_FOLDS = 5


@dataclass(frozen=True)
class PreparedData:
    """The data of a run: its source, where each example lies, and what `data.json` says.

    `index` has every example, without text where the source streams; `examples` are those that lie in memory whole: all
    of them, or a sample.
    """

    task: Task  # as the labels have it: it knows its classes
    source: Dataset
    index: Examples
    examples: Examples
    split: Split
    profile: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


def presence(table: pa.Table, modalities: Sequence[str]) -> dict[str, int]:
    """How many examples have which modalities: by their names, joined by +."""
    return dict(Counter(modalities_present(table, modalities)).most_common())


def describe(plan: RunPlan, task: Task, examples: Examples, split: Split, described: dict[str, Any]) -> dict[str, Any]:
    """The profile with labels, tokens, modalities and split."""
    limit = plan.reading.max_tokens
    cut = int(np.sum(examples.table["tokens"].to_numpy() > limit)) if plan.reading.text else 0
    tokens = {"texts_cut": cut, "max_tokens": limit}
    first, _ = first_per_song(examples.table) if plan.unit == "stem" else (np.arange(len(examples)), None)
    return {
        **described,
        "labels": task.describe(examples.targets[first]),
        **tokens,
        "presence": presence(examples.table, plan.reading.modalities),
        "shared_texts_across_folds": split.n_shared_texts,
        "split_hash": split_hash(split),
    }


def data_warnings(
    plan: RunPlan, split: Split, folds: int, described: dict[str, Any], examples_there: Examples
) -> list[str]:
    """What is to be told of the songs and their split."""
    warnings = []
    dropped, cut, examples = described["dropped"], described["texts_cut"], described["examples"]
    data = plan.config.data
    if split.n_folds != folds and plan.known_split is None:
        warnings.append(f"--folds {folds}: there are only {split.n_folds} groups to hold out, so as many folds")
    if split.split_by == "row":
        warnings.append(f"LEAK: --split-by row puts {split.n_shared_texts} texts on both sides of a fold: these numbers"
                        " say how well texts are remembered, not how well new songs are read")  # fmt: skip
    if LABELS_DISAGREE in dropped:
        warnings.append(f"{dropped[LABELS_DISAGREE]} rows are left out: their song carries different labels")
    if cut:
        warnings.append(
            f"{cut} of {examples} texts are cut at {plan.reading.max_tokens} tokens (model.text_encoder.max_length)"
        )
    if split.split_by != "row" and split.n_shared_texts:
        warnings.append(f"LEAK: {split.n_shared_texts} texts stand on both sides of a fold of {data.split_file}")
    if split.split_by != "row" and split.n_divided_groups:
        warnings.append(f"{split.n_divided_groups} groups (songs that belong together) are cut by {data.split_file}")
    if plan.known_split is not None and plan.known_split.get("data_hash") != described["data_hash"]:
        known = len(set(plan.known_split["fold"]) & set(examples_there.ids))
        warnings.append(f"{data.split_file} was made for other songs, texts or labels: {known} of its songs are here,"
                        f" {examples - known} are new")  # fmt: skip
    return [*warnings, *_idle_with(split.n_folds, plan.config)]


def _idle_with(folds: int, config: Config) -> list[str]:
    """Keys that say nothing with so many folds."""
    data, idle = config.data, []
    if folds > 1 and (data.train_split, data.val_split) != (DataConfig().train_split, DataConfig().val_split):
        idle.append(f"data.train_split and data.val_split have no effect with {folds} folds (--folds 1)")
    elif data.train_split + data.val_split < 1 - 1e-9:
        idle.append("data.train_split has no effect: all songs that are not scored are trained on")
    if folds == 1 and config.training.ensemble:
        idle.append("training.ensemble has no effect: one split trains one model")
    return idle
