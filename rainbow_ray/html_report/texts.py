"""What a run's page shows of its songs beside predictions: their texts, and the words that moved the model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import yaml

from rainbow_ray.config.schema import Config
from rainbow_ray.data.columns import Times, find_columns
from rainbow_ray.data.manifest import Manifest, normalize_rows, open_manifest
from rainbow_ray.data.reader import read_sample
from rainbow_ray.data.segments import merge_stems
from rainbow_ray.html_report.label_issues import Words
from rainbow_ray.html_report.run_artifacts import RunArtifacts
from rainbow_ray.inference.occlusion import WordEffect, word_effects
from rainbow_ray.inference.predictor import Predictor
from rainbow_ray.modalities.selection import column_requests, reads_text
from rainbow_ray.setup.inputs import modalities_of
from rainbow_ray.setup.segment_table import INDEX, TIMES
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.utils.errors import InputError

MOVING_WORDS = 6
MOST_ROWS = 200_000  # a page of more songs goes without their texts


def texts_of(run: RunArtifacts) -> dict[str, str]:
    """The text of each example; nothing where the manifest cannot be read any more."""
    try:
        config = Config.model_validate(yaml.safe_load(run.config))
        manifest = open_manifest(run.summary["manifest"])
        if manifest.rows > MOST_ROWS:
            return {}
        modalities = modalities_of(config)
        requests = column_requests(modalities, config.data)
        columns = find_columns(
            manifest, config.data, run.summary["target"], requests, reads_text=reads_text(modalities)
        )
        if run.task.is_sequence_task:
            columns = dataclasses.replace(columns, times=_times(manifest), require_text=False)
        table = read_sample(manifest, columns.projection)
    except (InputError, ValueError, yaml.YAMLError):  # the page can do without
        return {}
    if run.task.is_sequence_task:
        folded = merge_stems(normalize_rows(table, columns)).table
        return dict(zip(folded["example_id"].to_pylist(), folded["text"].to_pylist(), strict=True))
    rows = normalize_rows(table, columns)
    songs, texts = rows["song"].to_pylist(), rows["text"].to_pylist()
    if config.data.split_by == "row" or run.summary.get("unit") == "stem":
        return {f"{song}#{i}": text for i, (song, text) in enumerate(zip(songs, texts, strict=True))}
    return dict(zip(reversed(songs), reversed(texts), strict=True))  # the first row of a song stands for it


def _times(manifest: Manifest) -> Times:
    return Times(*TIMES, INDEX if INDEX in manifest.schema.names else None)


def words_of(run: RunArtifacts) -> Words | None:
    """The words that moved a score of a fold's own model, which never saw that fold's songs; None without a model."""
    folder: Path = run.path / "model"
    if not folder.exists():
        return None
    try:
        predictor = Predictor.load(folder, "cpu")
    except InputError:  # damaged, or of another version
        return None
    if not predictor.reads_text or predictor.reads_segments:  # what moves a segment is not in its words alone
        return None
    in_place: int | None = None

    def moved(text: str, column: str, fold: int) -> list[WordEffect]:
        nonlocal in_place
        if predictor.folds:
            return word_effects(predictor.member(fold), text, column, MOVING_WORDS)
        if fold != in_place:
            saved = CheckpointManager(run.path / "checkpoints" / f"fold-{fold}").load_model()
            if saved is None:
                return []
            predictor.bundle.model.load_trained_state(saved["model"])
            in_place = fold
        return word_effects(predictor, text, column, MOVING_WORDS)

    return moved
