"""Out of memory: the micro-batch is halved and the step repeated with a note and the same gradient."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rainbow_ray.data import batching
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.training import evaluator, train_step
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.fit_data import FitData
from rainbow_ray.training.loggers import NullLogger
from rainbow_ray.training.micro_batches import MicroBatchLimits
from rainbow_ray.training.train_step import GPU_BATCH_TOKENS, initial_limits
from rainbow_ray.training.trainer import Trainer
from rainbow_ray.utils.errors import TrainingError
from tests.helpers import data_of, fit_fold, plan_of

KEYS = {
    "training__min_steps": 0, "training__epochs": 2, "training__batch_size": 16, "training__learning_rate": 1e-3,
    "model__text_encoder__freeze_layers": 0, "model__text_encoder__layer": 2,
}  # fmt: skip


def run_out_above(examples: int, monkeypatch, error: type[Exception] = torch.OutOfMemoryError) -> list[int]:
    """Raise an out-of-memory error for more than `examples` examples; return the list of attempted sizes."""
    sizes: list[int] = []
    forward_loss = evaluator.forward_loss

    def limited(module, features, task, view, modalities=None):
        sizes.append(len(view))
        if len(view) > examples:
            raise error("CUDA out of memory. Tried to allocate 20.00 GiB")
        return forward_loss(module, features, task, view, modalities)

    for module in (evaluator, train_step):
        monkeypatch.setattr(module, "forward_loss", limited)
    return sizes


def gradients_of(plan, data, folder: Path, monkeypatch) -> list[torch.Tensor]:
    """Return the gradients of the first step, before the optimizer uses them."""
    train, val = data.split.train_val_indices(0)
    fit_data = FitData(data.source, train, val, plan.task, plan.input_spec, 0)
    run = Trainer(plan.config, fit_data, NullLogger(), CheckpointManager(folder), ProcessGroup())
    monkeypatch.setattr(run.stepper, "_update", list)
    run.stepper.train_step(run.dataset.in_memory_subset(train[:16]), 16.0, number=1)
    return [p.grad.clone() for p in run.model.parameters() if p.grad is not None]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_the_micro_batch_is_halved_and_the_model_is_the_same(songs_file, tiny_encoder, tmp_path, monkeypatch, error):
    encoder = tiny_encoder("bert")
    plan = plan_of(songs_file, encoder, **KEYS)
    data = data_of(plan)
    monkeypatch.setattr(torch.nn.functional, "dropout", lambda x, *_, **__: x)
    _, reference = fit_fold(plan, data, tmp_path / "uninterrupted")
    gradients = gradients_of(plan, data, tmp_path / "a", monkeypatch)
    with monkeypatch.context() as patch:
        sizes = run_out_above(3, patch, error)
        _, halved = fit_fold(plan, data, tmp_path / "halved")
        for expected, actual in zip(gradients, gradients_of(plan, data, tmp_path / "b", patch), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
    assert max(sizes) > 3
    np.testing.assert_allclose(halved.facts["losses"], reference.facts["losses"], rtol=1e-3)
    np.testing.assert_allclose(halved.val_scores, reference.val_scores, rtol=1e-2)
    notes = [note for note in halved.facts["notes"] if "out of memory" in note]
    assert notes
    assert "in step 1" in notes[0]
    assert not any("in step 2" in note for note in notes)  # the size stays halved


def test_a_token_budget_is_halved(songs_file, tiny_encoder, tmp_path, monkeypatch):
    plan = plan_of(songs_file, tiny_encoder("bert"), training__batch_tokens=4000, **KEYS)
    run_out_above(5, monkeypatch)
    _, fitted = fit_fold(plan, data_of(plan), tmp_path)
    assert any("tokens" in note for note in fitted.facts["notes"])


def test_one_example_that_does_not_fit_is_an_error_with_advice(songs_file, tiny_encoder, tmp_path, monkeypatch):
    plan = plan_of(songs_file, tiny_encoder("bert"), **KEYS)
    run_out_above(0, monkeypatch)
    with pytest.raises(TrainingError, match="max_length"):
        fit_fold(plan, data_of(plan), tmp_path)


def test_other_errors_are_not_handled_as_out_of_memory(songs_file, tiny_encoder, tmp_path, monkeypatch):
    plan = plan_of(songs_file, tiny_encoder("bert"), **KEYS)
    monkeypatch.setattr(train_step, "forward_loss", lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError):
        fit_fold(plan, data_of(plan), tmp_path)


# a real shortage: the address space is limited to slightly more than a small micro-batch needs
SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
import torch
from rainbow_ray.training import evaluator, train_step
from tests.helpers import data_of, fit_fold, plan_of
torch.set_num_threads(1)
manifest, folder = map(Path, sys.argv[1:])
plan = plan_of(manifest, "embedded", model__text_encoder__freeze_layers=0, model__text_encoder__layer="last",
    training__batch_size=64, training__min_steps=0, training__epochs=1, data__folds=2)
data = data_of(plan)
limited = []
def limit_first(*arguments):
    if not limited:
        limited.append(True)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 700 * 2**20, resource.RLIM_INFINITY))
    return evaluator.forward_loss(*arguments)
train_step.forward_loss = limit_first
_, fitted = fit_fold(plan, data, folder)
print("\\n".join(fitted.facts["notes"]))
"""


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space as Linux has them")
def test_a_cpu_out_of_memory_continues_with_smaller_micro_batches(write_table, tmp_path):
    from tests.song_tables import song_rows

    rows = song_rows(songs=128, stems=1)
    rows["concept"] = [text * 20 for text in rows["concept"]]
    rows["id"] = [f"song {i}" for i in range(128)]
    rows["concept"] = [f"{text} {i}" for i, text in enumerate(rows["concept"])]
    process = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, write_table(rows), tmp_path / "fit"],
        capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-3000:]
    assert "out of memory on cpu in step 1" in process.stdout


def stepper_in_fp16(songs_file, tiny_encoder, folder: Path, scale: float) -> Trainer:
    """Return a fit on the CPU whose loss is scaled as for fp16; a large scale overflows."""
    plan = plan_of(songs_file, tiny_encoder("bert"), **KEYS)
    data = data_of(plan)
    train, val = data.split.train_val_indices(0)
    fit_data = FitData(data.source, train, val, plan.task, plan.input_spec, 0)
    run = Trainer(plan.config, fit_data, NullLogger(), CheckpointManager(folder), ProcessGroup())
    run.stepper.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    for number in range(12):
        run.stepper.train_step(run.dataset.in_memory_subset(train[:8]), 0.5, number=number + 1)  # 16 times the gradient
    return run


@pytest.mark.parametrize(("scale", "overflows"), [(2.0**10, False), (2.0**127, True)])
def test_steps_that_fp16_skips_are_counted_and_do_not_advance_the_schedule(
    songs_file, tiny_encoder, tmp_path, scale, overflows
):
    run = stepper_in_fp16(songs_file, tiny_encoder, tmp_path, scale)
    stepper = run.stepper
    assert (stepper.skipped_steps > 0) == overflows
    assert stepper.schedule.last_epoch == 12 - stepper.skipped_steps
    assert {int(state["step"]) for state in stepper.optimizer.state.values()} == {12 - stepper.skipped_steps}
    assert any(f"{stepper.skipped_steps} of 12 steps" in note for note in stepper.all_notes(12)) == overflows
    state = stepper.state()
    stepper.skipped_steps = 0
    stepper.load_state(state)
    assert stepper.skipped_steps == state["skipped_steps"]
    del state["skipped_steps"]  # of an earlier version
    stepper.load_state(state)
    assert stepper.skipped_steps == 0


@pytest.mark.parametrize("tokens", [None, 100_000])
def test_a_budget_of_tokens_is_in_place_of_a_number_of_examples(songs_file, tiny_encoder, tmp_path, tokens):
    keys = {**KEYS, "training__batch_size": 8, "training__batch_tokens": tokens}
    plan = plan_of(songs_file, tiny_encoder("bert"), **keys)
    data = data_of(plan)
    train, val = data.split.train_val_indices(0)
    fit_data = FitData(data.source, train, val, plan.task, plan.input_spec, 0)
    run = Trainer(plan.config, fit_data, NullLogger(), CheckpointManager(tmp_path), ProcessGroup())
    sizes = [len(batch) for batch in run.stepper.micro_batches(run.dataset.in_memory_subset(train[:19]))]
    assert sum(sizes) == 19
    assert max(sizes) <= 8 if tokens is None else sizes == [19]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, MicroBatchLimits(sys.maxsize, GPU_BATCH_TOKENS)),
        ({"training__batch_tokens": 300}, MicroBatchLimits(sys.maxsize, 300)),
        ({"training__step_tokens": 0}, MicroBatchLimits(32, None)),
        ({"training__batch_size": 16}, MicroBatchLimits(16, None)),
    ],
)
def test_micro_batches_of_texts_have_a_budget_of_tokens_on_a_gpu(songs_file, tiny_encoder, tmp_path, keys, expected):
    plan = plan_of(songs_file, tiny_encoder("bert"), **{"model__text_encoder__freeze_layers": 0, **keys})
    data = data_of(plan)
    train, val = data.split.train_val_indices(0)
    fit_data = FitData(data.source, train, val, plan.task, plan.input_spec, 0)
    run = Trainer(plan.config, fit_data, NullLogger(), CheckpointManager(tmp_path), ProcessGroup())
    on_cpu = initial_limits(run.components)
    run.features.execution = dataclasses.replace(run.features.execution, device=torch.device("cuda"))
    assert initial_limits(run.components) == expected
    size = keys.get("training__batch_size", 32)
    assert on_cpu == (expected if "training__batch_tokens" in keys else MicroBatchLimits(size, None))


def test_steps_that_grow_have_higher_learning_rates(songs_file, tiny_encoder, tmp_path, monkeypatch):
    """And a fit does not continue from a checkpoint of steps of another size."""
    monkeypatch.setattr(batching, "MIN_STEPS_OF_GROWN_BATCHES", 4)
    facts = {}
    for tokens in (0, 10_000):
        keys = {**KEYS, "training__batch_size": 2, "training__step_tokens": tokens, "training__save_every_n_epochs": 1}
        plan = plan_of(songs_file, tiny_encoder("bert"), **keys)
        _, output = fit_fold(plan, data_of(plan), tmp_path / "fit")
        facts[tokens] = output.facts
    assert facts[0]["step_size"] == 2
    assert facts[10_000]["step_size"] == 16
    assert any("its steps have 2 examples, not 16" in note for note in facts[10_000]["notes"])
    assert any("learning rates by a factor of 2.8" in note for note in facts[10_000]["notes"])
    assert facts[10_000]["steps"] == 2 * 2
    records = [json.loads(line) for line in (tmp_path / "fit" / "metrics.jsonl").read_text().splitlines()]
    assert max(record["lr"] for record in records if record["split"] == "train") <= 1e-3 * 8**0.5


@pytest.mark.parametrize("largest", [3, 100])
def test_a_step_that_was_prepared_ahead_has_the_same_gradient(songs_file, tiny_encoder, tmp_path, monkeypatch, largest):
    """Also where one of its micro-batches does not fit, and the step is divided anew."""
    plan = plan_of(songs_file, tiny_encoder("bert"), **KEYS)
    data = data_of(plan)
    train, val = data.split.train_val_indices(0)
    fit_data = FitData(data.source, train, val, plan.task, plan.input_spec, 0)
    gradients = []
    for folder, is_prepared in (("a", False), ("b", True)):
        run = Trainer(plan.config, fit_data, NullLogger(), CheckpointManager(tmp_path / folder), ProcessGroup())
        run.model.eval()  # no dropout
        monkeypatch.setattr(run.stepper, "_update", list)
        view = run.dataset.in_memory_subset(train[:16])
        with monkeypatch.context() as patch:
            run_out_above(largest, patch)
            run.stepper.train_step(run.stepper.prepare(view) if is_prepared else view, 16.0, number=1)
        gradients.append([p.grad.clone() for p in run.model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_step_that_was_prepared_before_a_failure_is_divided_anew(songs_file, tiny_encoder, tmp_path, monkeypatch):
    """Otherwise it would fail as well, and halve the limits once more."""
    plan = plan_of(songs_file, tiny_encoder("bert"), **KEYS)
    data = data_of(plan)
    train, val = data.split.train_val_indices(0)
    fit_data = FitData(data.source, train, val, plan.task, plan.input_spec, 0)
    run = Trainer(plan.config, fit_data, NullLogger(), CheckpointManager(tmp_path), ProcessGroup())
    view = run.dataset.in_memory_subset(train[:16])
    steps = [run.stepper.prepare(view) for _ in range(2)]
    sizes = run_out_above(10, monkeypatch)
    run.stepper.train_step(steps[0], 16.0, number=1)
    limits = run.stepper.limits.current
    sizes.clear()
    run.stepper.train_step(steps[1], 16.0, number=2)
    assert max(sizes) <= 10
    assert run.stepper.limits.current == limits
