"""Data that are ready for training, and what songs and segments have in common on the way there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from rainbow_ray.config.schema import Config
from rainbow_ray.config.solver import can_be_solved
from rainbow_ray.data.dataset import Dataset
from rainbow_ray.data.examples import LABELS_DISAGREE, Examples, first_per_song
from rainbow_ray.data.splits import Split, make_split, split_hash
from rainbow_ray.modalities.rows import modalities_present
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.validate import new_unused_keys, run_facts
from rainbow_ray.tasks.base import Task
from rainbow_ray.utils.errors import InputError

MIN_REPORTED_FRACTION = 0.2  # of the rows: where as many are dropped, that may be why nothing can be learned
MIN_SONGS = 10
FOLDS_BELOW = 500  # songs; with fewer, one split is too noisy to compare models
DEFAULT_FOLDS = 5
MIN_VAL_SONGS = 5  # of one split, for the weights of a stacked ensemble
MIN_STACK_SONGS = 30  # with fewer, `combine: auto` keeps the neural network alone


@dataclass(frozen=True)
class PreparedData:
    """Examples, labels and the split of a run.

    Attributes:
        task: The task, finalized by the labels, such as with its classes.
        source: The dataset that batches are read from.
        index: All examples; without text where the dataset streams.
        examples: The examples that are in memory: all of them, or a sample of a streaming dataset.
        split: The split of songs.
        profile: Content of `data.json`.
        warnings: Warnings for the user.
    """

    task: Task
    source: Dataset
    index: Examples
    examples: Examples
    split: Split
    profile: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


def split_examples(plan: RunPlan, task: Task, examples: Examples, n_songs: int) -> tuple[Split, int]:
    """Split examples as the config requests.

    Args:
        plan: The plan of the run.
        task: The task of the labels.
        examples: All examples.
        n_songs: Number of songs.

    Returns:
        The split, and the number of folds that was requested; the split has fewer where there are fewer groups.

    Raises:
        InputError: A stacked ensemble is requested for one split of too few songs.
    """
    config = plan.config
    n_folds = config.data.folds or (DEFAULT_FOLDS if n_songs < FOLDS_BELOW else 1)
    split = make_split(
        examples,
        task.strata(examples.targets),
        n_folds=n_folds,
        val_fraction=config.data.val_split,
        split_by=config.data.split_by,
        seed=config.split_seed,
        saved_split=plan.known_split,
    )
    n_val = len(np.unique(examples.codes("song")[split.train_val_indices(0)[1]]))
    is_small = n_songs < MIN_STACK_SONGS or n_val < MIN_VAL_SONGS
    if config.training.combine == "stack" and split.n_folds == 1 and is_small:
        raise InputError(
            f"training.combine: stack fits its weights on out-of-fold scores, and one split of {n_songs} songs with"
            f" {n_val} for validation has too few (at least {MIN_STACK_SONGS} and {MIN_VAL_SONGS}): set data.folds to"
            " 2 or more, or training.combine to none"
        )
    return split, n_folds


def presence(table: pa.Table, modalities: Sequence[str]) -> dict[str, int]:
    """Count the examples by the modalities that they have.

    Args:
        table: Prepared examples.
        modalities: Modalities that are read.

    Returns:
        Numbers of examples by names joined with `+`, most frequent first.
    """
    return dict(Counter(modalities_present(table, modalities)).most_common())


def describe(plan: RunPlan, task: Task, examples: Examples, split: Split, profile: dict[str, Any]) -> dict[str, Any]:
    """Add labels, tokens, modalities and the split to a profile.

    Args:
        plan: The plan of the run.
        task: The task of the labels.
        examples: All examples.
        split: The split.
        profile: Counts of songs and rows, from `profile_examples`.

    Returns:
        The content of `data.json`.
    """
    limit = plan.input_spec.max_tokens
    n_cut = int(np.sum(examples.table["tokens"].to_numpy() > limit)) if plan.input_spec.text else 0
    first, _ = first_per_song(examples.table) if plan.unit == "stem" else (np.arange(len(examples)), None)
    return {
        **profile,
        "labels": task.describe(examples.targets[first]),
        "texts_cut": n_cut,
        "max_tokens": limit,
        "presence": presence(examples.table, plan.input_spec.modalities),
        "shared_texts_across_folds": split.n_shared_texts,
        "split_hash": split_hash(split),
    }


def data_warnings(
    plan: RunPlan, task: Task, split: Split, n_folds: int, profile: dict[str, Any], examples: Examples
) -> list[str]:
    """Return warnings about the examples and their split.

    Args:
        plan: The plan of the run.
        task: The task of the labels.
        split: The split.
        n_folds: Number of folds that was requested.
        profile: Content of `data.json`.
        examples: All examples.

    Returns:
        Warnings for the user.
    """
    warnings = []
    dropped, n_cut = profile["dropped"], profile["texts_cut"]
    if split.n_folds != n_folds and plan.known_split is None:
        warnings.append(f"--folds {n_folds}: there are only {split.n_folds} groups to hold out, so as many folds")
    if split.split_by == "row":
        warnings.append(
            f"LEAK: --split-by row puts {split.n_shared_texts} texts on both sides of a fold: metrics measure how well"
            " the model remembers texts, not how well it generalizes to new songs"
        )
    if LABELS_DISAGREE in dropped:
        warnings.append(f"{dropped[LABELS_DISAGREE]} rows are left out: their song carries different labels")
    if n_cut:
        warnings.append(
            f"{n_cut} of {profile['examples']} texts are cut at {plan.input_spec.max_tokens} tokens"
            " (model.text_encoder.max_length)"
        )
    warnings += _split_file_warnings(plan, split, profile, examples)
    return [*warnings, *_unused_after_split(plan, task, split, profile)]


def _split_file_warnings(plan: RunPlan, split: Split, profile: dict[str, Any], examples: Examples) -> list[str]:
    warnings = []
    path = plan.config.data.split_file
    if split.split_by != "row" and split.n_shared_texts:
        warnings.append(f"LEAK: {split.n_shared_texts} texts are on both sides of a fold of {path}")
    if split.split_by != "row" and split.n_divided_groups:
        warnings.append(f"{split.n_divided_groups} groups (songs that belong together) are cut by {path}")
    if plan.known_split is not None and plan.known_split.get("data_hash") != profile["data_hash"]:
        n_known = len(set(plan.known_split["fold"]) & set(examples.ids))
        warnings.append(
            f"{path} was made for other songs, texts or labels: {n_known} of its songs are here,"
            f" {profile['examples'] - n_known} are new"
        )
    return warnings


def _unused_after_split(plan: RunPlan, task: Task, split: Split, profile: dict[str, Any]) -> list[str]:
    """Return warnings about keys that have no effect with these labels and so many folds."""
    modalities = plan.input_spec.modalities
    has_segment_labels = not task.is_weakly_labeled if plan.segments is not None else None
    facts_before = run_facts(plan.task, modalities)
    facts_after = run_facts(
        plan.task, modalities, has_segment_labels=has_segment_labels, n_folds=split.n_folds,
        can_be_solved=can_be_solved(profile["examples"], in_memory=not profile.get("streamed", False)),
    )  # fmt: skip
    warnings = new_unused_keys(plan.config, facts_before, facts_after)
    if split.n_folds == 1 and _leaves_songs_out(plan.config):
        warnings.append("data.train_split has no effect: all songs that are not scored are trained on")
    return warnings


def _leaves_songs_out(config: Config) -> bool:
    return config.data.train_split + config.data.val_split < 1 - 1e-9
