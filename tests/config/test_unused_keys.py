"""Keys without effect: the table names real keys, and its reasons fit the config, the task and the data."""

from __future__ import annotations

import pytest

from rainbow_ray.config.keys import known_keys
from rainbow_ray.config.schema import Config
from rainbow_ray.config.unused_keys import SEGMENT_TABLE, TABLE, RunFacts, UnusedKeys, always, find_unused_keys
from rainbow_ray.modalities.spec import get_modality, modality_names
from rainbow_ray.setup.validate import run_facts
from rainbow_ray.tasks.binary import Binary
from rainbow_ray.tasks.registry import make_task

SONG_TASKS = ("binary", "multiclass", "multilabel", "regression")


def facts_of(task: str, modality: str = "text", **known: object) -> RunFacts:
    return run_facts(make_task(task), (modality,), **known)


def facts_of_segments(has_segment_labels: bool | None = None) -> RunFacts:
    task = make_task("segmentation", base_task=make_task("multiclass"))
    return run_facts(task, ("text",), has_segment_labels=has_segment_labels)


BINARY, NUMBER, CLASSES = (facts_of(task) for task in ("binary", "regression", "multiclass"))
SEGMENTS = facts_of_segments()


def reasons(facts: RunFacts, **values: object) -> dict[str, str]:
    config = Config().with_values({name.replace("__", "."): value for name, value in values.items()})
    return find_unused_keys(config, facts)


def test_every_row_names_keys_of_the_config():
    rows_of_tasks = [row for name in SONG_TASKS for row in make_task(name).unused_keys]
    rows_of_modalities = [row for name in modality_names() for row in get_modality(name).unused_keys]
    for row in (*SEGMENT_TABLE, *TABLE, *rows_of_tasks, *rows_of_modalities):
        for name in row.keys:
            assert any(key.startswith(name) if name.endswith(".") else key == name for key in known_keys()), name
        assert set(row.except_keys) <= set(known_keys())


@pytest.mark.parametrize(
    ("facts", "values", "key", "reason"),
    [
        (BINARY, {"training__loss": "bce"}, "training.focal_gamma", "the loss is bce, not focal"),
        (BINARY, {"training__loss": "logit_adjusted"}, "training.pos_weight", "logit_adjusted has its own weights"),
        (BINARY, {}, "training.class_weights", "two classes have training.pos_weight"),
        (BINARY, {}, "segments.decoding", "phase 1 has no segments"),
        (BINARY, {}, "model.fusion.kind", "only text is read"),
        (BINARY, {}, "model.midi_encoder.dropout", "midi is not among the modalities"),
        (BINARY, {"model__bag_of_words__enabled": False}, "model.bag_of_words.weighting", "enabled is false"),
        (BINARY, {"data__split_file": "split.json"}, "data.random_seed", "the split is that of data.split_file"),
        (NUMBER, {"phase": 4}, "training.focal_gamma", "predicts a number"),
        (NUMBER, {}, "calibration.method", "not calibrated"),
        (CLASSES, {}, "calibration.threshold", "most probable class is predicted"),
        (facts_of("binary", "audio"), {}, "model.bag_of_words.enabled", "text is not among"),
        (facts_of("binary", "audio"), {}, "model.audio_encoder.gain_db", "is frozen"),
        (SEGMENTS, {}, "data.min_concept_length", "segments can be short"),
        (SEGMENTS, {}, "calibration.method", "see segments.decoding"),
        (SEGMENTS, {"model__temporal__kind": "none"}, "segments.no_context_baseline", "model.temporal.kind is none"),
        (SEGMENTS, {}, "model.temporal.num_stages", "model.temporal.kind is transformer"),
        (SEGMENTS, {"segments__path": "s.parquet"}, "data.media_root", "only text is read"),
    ],
)
def test_the_reason_fits(facts, values, key, reason):
    assert reason in reasons(facts, **values)[key]


def test_rows_of_a_task_that_only_a_test_knows_are_read():
    class OneLoss(Binary):
        unused_keys = (UnusedKeys(("training.loss",), always, "this task has one loss"),)

    found = reasons(run_facts(OneLoss(), ("text",)))
    assert found["training.loss"] == "this task has one loss"
    assert "training.class_weights" not in found


def test_keys_with_effect_are_not_listed():
    assert "training.focal_gamma" not in reasons(BINARY, training__loss="focal")
    assert "data.media_root" not in reasons(SEGMENTS), "LRC files lie there"
    assert "model.temporal.kind" not in reasons(SEGMENTS, model__temporal__kind="none")
    assert not {"segments.mil_pooling", "segments.decoding", "training.ensemble"} & reasons(SEGMENTS).keys()


def test_labels_and_folds_add_reasons_once_they_are_known():
    labeled = facts_of_segments(has_segment_labels=True)
    assert reasons(labeled)["segments.mil_pooling"] == "segments have labels of their own"
    weak = facts_of_segments(has_segment_labels=False)
    assert "only songs have labels" in reasons(weak)["segments.overlap"]
    folds = facts_of("binary", n_folds=5)
    assert "5 folds" in reasons(folds)["data.val_split"]
    assert "one model" in reasons(facts_of("binary", n_folds=1))["training.ensemble"]
