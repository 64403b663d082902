"""Before the first trial of a sweep: rejected data, variants of the inputs, and disk space."""

from __future__ import annotations

import io
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from rainbow_ray.checks.estimate import closing_seconds
from rainbow_ray.config.schema import Config
from rainbow_ray.data.reader import read_rows_locally
from rainbow_ray.runs import sweep_plan
from rainbow_ray.runs.run_dir import init_run_dir
from rainbow_ray.runs.sweep_plan import SweepPlan, changed_rules, estimate_sweep, prepare_sweep_data
from rainbow_ray.runs.sweep_trials import prepare_variant
from rainbow_ray.setup import prepare
from rainbow_ray.training.cross_validation import FitContext
from rainbow_ray.tuning.search_space import SearchParameters, apply_values
from rainbow_ray.tuning.sweep import input_key
from rainbow_ray.utils.errors import InputError
from tests.helpers import data_of, plan_of
from tests.song_tables import song_rows


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    read_data = prepare.prepare_data
    monkeypatch.setattr(prepare, "prepare_data", lambda plan, read=read_rows_locally, **_: read_data(plan, read))


def with_lyrics(write_table):
    rows = song_rows(stems=1)
    rows["lyrics"] = [f"{text} sung twice" for text in rows["concept"]]
    return write_table(rows)


def test_more_folds_than_songs_are_rejected(songs_file, tiny_encoder):
    plan = plan_of(songs_file, tiny_encoder("bert"), data__folds=30)
    with pytest.raises(InputError, match="--folds 30: only 24 groups of songs"):
        prepare_sweep_data(plan, Console(quiet=True))


def test_insufficient_disk_space_is_rejected(songs_file, tiny_encoder, monkeypatch):
    plan = plan_of(songs_file, tiny_encoder("bert"), data__folds=3)
    data = prepare_sweep_data(plan, Console(quiet=True))
    parameters = SearchParameters({"training.head_learning_rate": []}, {})
    output = io.StringIO()
    estimate = estimate_sweep(plan, data, 2)
    assert closing_seconds(plan.config, estimate.costs, 2) > 60
    sweep_plan.print_sweep_header(SweepPlan(plan, None, parameters), data, 2, "3 s", Console(file=output))
    assert "2 in parallel" in output.getvalue()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    with pytest.raises(InputError, match=r"--output-dir: .*free some"):
        estimate_sweep(plan, data, 2)


def test_a_variant_reads_the_same_songs_with_other_inputs(write_table, tiny_encoder):
    plan = plan_of(with_lyrics(write_table), tiny_encoder("bert"))
    data = data_of(plan)
    context = FitContext(plan.config, data.source, plan.task, plan.input_spec, "id")
    two_columns = apply_values(plan.config, {"data.text_columns": "concept,lyrics"}, "trial 3")
    assert input_key(two_columns) != input_key(plan.config)
    variant = prepare_variant(two_columns, data=data, shared=context)
    np.testing.assert_array_equal(variant.dataset.targets, data.source.targets)
    assert (variant.dataset.lengths > data.source.lengths).all()
    other_encoder = apply_values(
        plan.config, {"model.text_encoder.model_name": str(tiny_encoder("roberta"))}, "trial 4"
    )
    assert prepare_variant(other_encoder, data=data, shared=context).input_spec != plan.input_spec
    other_rate = apply_values(plan.config, {"training.head_learning_rate": 0.5}, "trial 5")
    assert input_key(other_rate) == input_key(plan.config), "variants with the same inputs share one data set"


def test_a_variant_with_other_songs_is_rejected(write_table, tiny_encoder):
    rows = song_rows(stems=1)
    rows["lyrics"] = ["" if i % 3 == 0 else text for i, text in enumerate(rows["concept"])]
    plan = plan_of(write_table(rows), tiny_encoder("bert"))
    data = data_of(plan)
    context = FitContext(plan.config, data.source, plan.task, plan.input_spec, "id")
    variant = apply_values(plan.config, {"data.text_columns": "lyrics"}, "trial 3")
    with pytest.raises(InputError, match="other songs remain"):
        prepare_variant(variant, data=data, shared=context)


def test_a_variant_with_equal_texts_across_folds_is_rejected(write_table, tiny_encoder):
    rows = song_rows(stems=1)
    rows["lyrics"] = [f"the same words that two songs sing in turn, number {i // 2} of them all" for i in range(24)]
    plan = plan_of(write_table(rows), tiny_encoder("bert"))
    data = data_of(plan)
    context = FitContext(plan.config, data.source, plan.task, plan.input_spec, "id")
    variant = apply_values(plan.config, {"data.text_columns": "lyrics"}, "trial 3")
    with pytest.raises(InputError, match="have equal texts"):
        prepare_variant(variant, data=data, shared=context)


def test_rules_that_changed_since_the_first_start_are_named(tmp_path):
    run_dir = init_run_dir(Config(), tmp_path / "sweep")
    config = Config()
    assert changed_rules(run_dir, config) == []
    config.tune.race_alpha, config.tune.trials = 0.1, 99
    (note,) = changed_rules(run_dir, config)
    assert note.startswith("tune.race_alpha is 0.1, and was 0.05 at first")
