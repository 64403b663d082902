"""Texts of a run's songs, and the effects of words on their scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import yaml

from rainbow_ray.config.schema import Config
from rainbow_ray.data.columns import Times, find_columns
from rainbow_ray.data.manifest import Manifest, open_manifest
from rainbow_ray.data.normalize_rows import normalize_rows
from rainbow_ray.data.reader import read_sample
from rainbow_ray.data.segments import merge_stems
from rainbow_ray.html_report.label_issues import ExplainWords
from rainbow_ray.html_report.run_artifacts import RunArtifacts
from rainbow_ray.inference.occlusion import WordEffect, word_effects
from rainbow_ray.inference.predictor import Predictor
from rainbow_ray.modalities.selection import column_requests, reads_text
from rainbow_ray.setup.inputs import modalities_of
from rainbow_ray.setup.segment_table import INDEX, TIMES
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.utils.errors import InputError

MAX_WORDS = 6
MAX_ROWS = 200_000  # of a larger manifest, texts are not shown


def load_texts(run: RunArtifacts) -> dict[str, str]:
    """Read the text of each example from the manifest.

    Args:
        run: The run.

    Returns:
        Texts by example id; empty where the manifest cannot be read any more, or is too large.
    """
    try:
        config = Config.model_validate(yaml.safe_load(run.config))
        manifest = open_manifest(run.summary["manifest"])
        if manifest.rows > MAX_ROWS:
            return {}
        modalities = modalities_of(config)
        requests = column_requests(modalities, config.data)
        columns = find_columns(
            manifest, config.data, run.summary["target"], requests, reads_text=reads_text(modalities)
        )
        if run.task.is_sequence_task:
            columns = dataclasses.replace(columns, times=_times(manifest), require_text=False)
        table = read_sample(manifest, columns.projection)
    except (InputError, ValueError, yaml.YAMLError):  # the page is complete without texts
        return {}
    if run.task.is_sequence_task:
        merged = merge_stems(normalize_rows(table, columns)).table
        return dict(zip(merged["example_id"].to_pylist(), merged["text"].to_pylist(), strict=True))
    rows = normalize_rows(table, columns)
    songs, texts = rows["song"].to_pylist(), rows["text"].to_pylist()
    if config.data.split_by == "row" or run.summary.get("unit") == "stem":
        return {f"{song}#{i}": text for i, (song, text) in enumerate(zip(songs, texts, strict=True))}
    return dict(zip(reversed(songs), reversed(texts), strict=True))  # a song has the text of its first row


def _times(manifest: Manifest) -> Times:
    return Times(*TIMES, INDEX if INDEX in manifest.schema.names else None)


def make_explainer(run: RunArtifacts) -> ExplainWords | None:
    """Return a function that measures the effects of words, by the model that was not trained on the song.

    Args:
        run: The run.

    Returns:
        The function; None where the run has no model that reads texts of songs. Its result is empty for a fold whose
        checkpoint was removed.
    """
    folder: Path = run.path / "model"
    if not folder.exists():
        return None
    try:
        predictor = Predictor.load(folder, "cpu")
    except InputError:  # damaged, or of another version
        return None
    if not predictor.reads_text or predictor.reads_segments:  # the score of a segment depends on more than its words
        return None
    loaded_fold: int | None = None

    def explain(text: str, column: str, fold: int) -> list[WordEffect]:
        nonlocal loaded_fold
        if predictor.folds:
            return word_effects(predictor.member(fold), text, column, MAX_WORDS)
        if fold != loaded_fold:
            saved = CheckpointManager(run.path / "checkpoints" / f"fold-{fold}").load_model()
            if saved is None:
                return []
            predictor.bundle.model.load_trained_state(saved["model"])
            loaded_fold = fold
        return word_effects(predictor, text, column, MAX_WORDS)

    return explain
