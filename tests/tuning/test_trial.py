"""A trial runs all folds in order, reports a pooled score at each rung, and runs nothing twice."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from rainbow_ray.tasks.scores import decode_folds
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.cross_validation import FitContext, run_job
from rainbow_ray.tuning import trial as trials
from rainbow_ray.tuning.trial import TrialContext, cache_seconds, make_rungs, out_of_fold, remove_models, run_trial
from rainbow_ray.tuning.trial_log import FULL_BUDGET
from rainbow_ray.utils.errors import InputError, TrainingError
from tests.helpers import data_of, plan_of
from tests.song_tables import segment_rows

QUICK = {"training__min_steps": 0, "training__epochs": 3, "data__folds": 3}


@pytest.fixture
def context(songs_file, tiny_encoder, tmp_path) -> TrialContext:
    plan = plan_of(songs_file, tiny_encoder("bert"), **QUICK)
    data = data_of(plan)
    fit_context = FitContext(plan.config, data.source, plan.task, plan.input_spec, "id", tmp_path / "prefix")
    return TrialContext(
        fit_context, [data.split.train_val_indices(k) for k in range(3)], make_rungs(3), tmp_path / "trials"
    )


def run(context: TrialContext, number: int, values: dict) -> list[tuple[float, float]]:
    reports: list[tuple[float, float]] = []
    run_trial(context, context.shared, number, values, lambda done, score, _: reports.append((done, score)))
    return reports


def test_rungs_lie_inside_the_first_fold_and_at_the_end_of_each_fold():
    assert make_rungs(5) == pytest.approx((5.0, 10.0, 20.0, 40.0, 60.0, 80.0))
    assert make_rungs(2) == pytest.approx((12.5, 25.0, 50.0))
    assert make_rungs(1) == pytest.approx((25.0, 50.0))


def test_pooled_scores_are_reported_at_rungs(context):
    reports = run(context, 0, {})
    # of three epochs, the first ends after a third of the first fold, the second after two thirds
    assert [done for done, _ in reports] == pytest.approx([100 / 9, 200 / 9, 100 / 3, 200 / 3, FULL_BUDGET])
    scores = out_of_fold(context, 0)
    task, targets = context.shared.task, context.shared.dataset.targets
    assert not np.isnan(scores).any()
    assert reports[-1][1] == task.metric("macro_f1", targets, scores)
    first = context.train_val_indices[0][1]
    assert reports[2][1] == task.metric("macro_f1", targets[first], scores[first])


def test_reports_hold_the_scores_of_the_examples_so_far(context):
    received: list[np.ndarray] = []
    run_trial(context, context.shared, 0, {}, lambda *report: received.append(report[2]))
    n_val = [len(val) for _, val in context.train_val_indices]
    assert [int((~np.isnan(scores)).sum()) for scores in received] == [
        n_val[0], n_val[0], n_val[0], n_val[0] + n_val[1], sum(n_val),
    ]  # fmt: skip
    np.testing.assert_array_equal(received[-1], out_of_fold(context, 0))


def test_a_single_split_reports_at_fractions_of_its_fit(context):
    single_split = TrialContext(context.shared, context.train_val_indices[:1], make_rungs(1), context.folder)
    assert [done for done, _ in run(single_split, 0, {})] == pytest.approx([100 / 3, 200 / 3, FULL_BUDGET])


def test_the_same_config_first_and_fifth_gives_the_same_numbers(context):
    values = {"training.learning_rate": 1e-3, "model.text_encoder.freeze_layers": 1, "model.text_encoder.layer": "last"}
    other_values = [
        {"model.text_encoder.pooling": "attention"},
        {"training.loss": "focal", "model.classifier.hidden_dims": "16"},
        {"model.text_encoder.freeze_layers": 0, "training.learning_rate": 1e-2},
    ]
    first = run(context, 0, values)
    for number, other_value in enumerate(other_values, start=1):
        run(context, number, other_value)
    assert run(context, 4, values) == first
    np.testing.assert_array_equal(out_of_fold(context, 0), out_of_fold(context, 4))
    assert not np.array_equal(out_of_fold(context, 0), out_of_fold(context, 1))


def test_seconds_saved_by_the_frozen_feature_cache_are_counted(context):
    values = {"training.learning_rate": 1e-3, "model.text_encoder.freeze_layers": 2, "model.text_encoder.layer": "last"}
    run(context, 0, values)
    run(context, 1, {**values, "training.weight_decay": 0.1})
    facts = [CheckpointManager(context.folder_of(n) / f"fold-{k}").load_result()[1] for n in (0, 1) for k in range(3)]
    assert len({fact["stored"]["key"] for fact in facts}) == 1
    assert [fact["stored"]["seconds"] > 0 for fact in facts] == [True, *[False] * 5]
    assert [fact["passes"] for fact in facts] == [3 + 1] * 6
    saved = cache_seconds(context, [0, 1, 7])
    assert saved["spent"] == pytest.approx(facts[0]["stored"]["seconds"], abs=0.01)
    assert saved["without_cache"] == pytest.approx(24 * facts[0]["stored"]["seconds"], abs=0.01)


def test_finished_folds_are_not_run_again(context, monkeypatch):
    expected = run(context, 0, {})
    shutil.rmtree(context.folder_of(0) / "fold-2")
    folds = []

    def counting_run_job(shared, job, *options):
        folds.append(job.fold)
        run_job(shared, job, *options)

    monkeypatch.setattr(trials, "run_job", counting_run_job)
    at_ends_of_folds = [report for report in expected if report[0] > 100 / 3 - 1]
    assert run(context, 0, {}) == at_ends_of_folds
    assert folds == [2]


def test_removing_models_leaves_scores(context):
    run(context, 0, {})
    assert list(context.folder_of(0).glob("fold-*/model.pt"))
    remove_models(context, 0)
    assert not list(context.folder_of(0).glob("**/*.pt"))
    assert out_of_fold(context, 0) is not None
    assert out_of_fold(context, 1) is None


def test_failing_trials_raise_their_error(context):
    with pytest.raises(InputError, match=r"trial 1: training\.epochs"):
        run(context, 1, {"training.epochs": 0})
    with pytest.raises(InputError, match="beyond the encoder"):
        run(context, 2, {"model.text_encoder.layer": 9})
    with pytest.raises(TrainingError, match="not finite"):
        run(context, 3, {"training.head_learning_rate": 1e30, "training.max_grad_norm": 0.0})


def test_segment_scores_are_decoded_before_they_are_compared(write_table, tiny_encoder, tmp_path):
    path = write_table(segment_rows(), "segments.parquet")
    plan = plan_of("demo", tiny_encoder("bert"), phase=5, segments__path=str(path), segments__decoding="viterbi",
                   training__device="cpu", **QUICK)  # fmt: skip
    data = data_of(plan)
    fit_context = FitContext(plan.config, data.source, data.task, plan.input_spec, "id", tmp_path / "prefix")
    context = TrialContext(
        fit_context, [data.split.train_val_indices(k) for k in range(3)], make_rungs(3), tmp_path / "trials"
    )
    reports = run(context, 0, {})
    scores, targets = out_of_fold(context, 0), data.source.targets
    decoded = decode_folds(data.task, targets, context.train_val_indices, scores)
    assert not np.array_equal(scores.argmax(1), decoded.argmax(1)), "the test needs scores that decoding changes"
    assert reports[-1][1] == data.task.metric("macro_f1", targets, decoded)
    logged = [json.loads(line) for line in (context.folder_of(0) / "fold-2" / "metrics.jsonl").read_text().splitlines()]
    last = [record for record in logged if record["split"] == "val"][-1]
    val = context.train_val_indices[2][1]
    assert last["macro_f1"] == pytest.approx(data.task.metric("macro_f1", targets[val], decoded[val]))
