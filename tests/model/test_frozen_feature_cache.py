"""Hidden states of frozen layers are computed once for all epochs, fits and processes, and equal computed ones."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rainbow_ray.modalities.text.adapters import FamilyAdapter
from rainbow_ray.model import cached_states
from rainbow_ray.model.cached_states import CachedHiddenStates, ResidentStates, make_resident, move_to_gpu
from rainbow_ray.model.device import ExecutionContext, Precision
from rainbow_ray.model.frozen_feature_cache import MB, FrozenFeatureCache
from rainbow_ray.training import feature_provider
from rainbow_ray.training.loggers import read_records
from rainbow_ray.utils.hashing import hash_parts
from tests.helpers import data_of, fit_fold, plan_of, source_of

QUICK = {"training__min_steps": 0, "training__epochs": 2, "training__batch_size": 8, "training__learning_rate": 1e-3}
SHAPE = (5, 3)


def fill_with(value: float):
    return lambda out: out.fill_(value)


def must_not_run(out: torch.Tensor) -> None:
    raise AssertionError("the tensor is cached")


def test_states_are_computed_once(tmp_path):
    cache = FrozenFeatureCache(tmp_path, MB)
    first = cache.get("a", SHAPE, torch.float32, fill_with(2.0))
    loaded = FrozenFeatureCache(tmp_path, MB).get("a", SHAPE, torch.float32, must_not_run)
    assert torch.equal(first, torch.full(SHAPE, 2.0))
    assert torch.equal(first, loaded)
    loaded.add_(1)  # this writes to a private copy
    assert torch.equal(cache.find("a", SHAPE, torch.float32), first)
    assert cache.find("b", SHAPE, torch.float32) is None
    assert cache.find("a", (7, 3), torch.float32) is None, "a file of another size is not used"
    bfloat16_states = cache.get("c", SHAPE, torch.bfloat16, fill_with(0.5))
    assert bfloat16_states.dtype == torch.bfloat16
    assert bfloat16_states.float().sum() == 7.5
    cache.remove()
    assert not tmp_path.exists()


def test_the_least_recently_used_files_are_removed(tmp_path):
    size = SHAPE[0] * SHAPE[1] * 4
    cache = FrozenFeatureCache(tmp_path, 2 * size)
    states = cache.get("a", SHAPE, torch.float32, fill_with(1.0))
    cache.get("b", SHAPE, torch.float32, fill_with(2.0))
    os.utime(tmp_path / "b.states", (1, 1))
    cache.get("a", SHAPE, torch.float32, must_not_run)
    cache.get("c", SHAPE, torch.float32, fill_with(3.0))
    assert {path.stem for path in tmp_path.glob("*.states")} == {"a", "c"}
    assert FrozenFeatureCache(tmp_path, size - 1).get("d", SHAPE, torch.float32, must_not_run) is None
    assert states.sum() == 15


def test_a_failed_computation_leaves_no_file(tmp_path):
    cache = FrozenFeatureCache(tmp_path, MB)

    def fail(out: torch.Tensor) -> None:
        out[0] = 1.0
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        cache.get("a", SHAPE, torch.float32, fail)
    assert cache.find("a", SHAPE, torch.float32) is None
    assert cache.get("a", SHAPE, torch.float32, fill_with(1.0)).sum() == 15


def _compute(folder: Path, log: Path, exits: bool) -> None:
    def compute_slowly(out: torch.Tensor) -> None:
        with log.open("a") as file:
            file.write("computed\n")
        out[0] = 9.0
        time.sleep(2.0)
        if exits:
            os._exit(9)
        out.fill_(1.0)

    cache = FrozenFeatureCache(folder, MB)
    assert cache.get("a", SHAPE, torch.float32, compute_slowly).sum() == 15


@pytest.mark.slow
@pytest.mark.parametrize("first_exits", [False, True])
def test_one_of_several_processes_computes(tmp_path, first_exits):
    context = multiprocessing.get_context("spawn")  # torch has threads: a forked process may hang
    log = tmp_path / "log"
    if first_exits:
        first = context.Process(target=_compute, args=(tmp_path / "cache", log, True))
        first.start()
        first.join(90)
        assert first.exitcode == 9
        log.unlink()
    processes = [context.Process(target=_compute, args=(tmp_path / "cache", log, False)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    assert [process.exitcode for process in processes] == [0, 0]
    assert log.read_text() == "computed\n"
    assert not list((tmp_path / "cache").glob(".*.tmp")), "the temporary file of a dead process is removed"


def test_states_are_padded_with_zeros():
    states = CachedHiddenStates(torch.arange(1.0, 13.0).view(6, 2), np.array([0, 1, 4, 6]), np.arange(3))
    padded = states.pad(np.array([2, 0]))
    assert padded.tolist() == [[[9, 10], [11, 12]], [[1, 2], [0, 0]]]
    resident = make_resident(states, ExecutionContext(torch.device("cpu"), Precision(None)))
    for indices in ([2, 0], [1], [0, 1, 2], []):
        rows = states.rows(np.array(indices, dtype=np.int64))
        assert torch.equal(resident.gather(rows), states.pad(np.array(indices, dtype=np.int64)))


@pytest.mark.parametrize(("free_bytes", "is_moved"), [(4 * 24 * 8 * 4, True), (4 * 24 * 8 * 4 - 1, False)])
def test_states_move_to_a_gpu_where_they_fit(monkeypatch, free_bytes, is_moved):
    states = CachedHiddenStates(torch.ones(24, 8), np.array([0, 24]), np.arange(1))
    monkeypatch.setattr(cached_states, "free_memory_bytes", lambda device: free_bytes)
    monkeypatch.setattr(cached_states, "make_resident", lambda states, execution: (states, execution))
    gpu = ExecutionContext(torch.device("cuda"), Precision(None))
    moved: Any = move_to_gpu(states, gpu)
    assert moved == ((states, gpu) if is_moved else None)
    in_bf16 = dataclasses.replace(gpu, precision=Precision(torch.bfloat16))
    assert move_to_gpu(states, in_bf16) is not None  # they take half the memory
    assert move_to_gpu(states, dataclasses.replace(gpu, device=torch.device("cpu"))) is None
    assert move_to_gpu(None, gpu) is None

    def run_out(states: CachedHiddenStates, execution: ExecutionContext) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cached_states, "make_resident", run_out)
    assert move_to_gpu(states, gpu) is None


@pytest.mark.parametrize("precision", ["off", "bf16"])
@pytest.mark.parametrize("layer", ["last", "mix"])
def test_a_fit_with_resident_states_has_the_same_losses(
    songs_file, tiny_encoder, tmp_path, monkeypatch, precision, layer
):
    keys = {**QUICK, "model__text_encoder__layer": layer, "model__text_encoder__freeze_layers": 1,
            "training__mixed_precision": precision}  # fmt: skip
    plan = plan_of(songs_file, tiny_encoder("bert"), **keys)
    data, losses, gathered = data_of(plan), [], []
    original = ResidentStates.gather

    def record(states: ResidentStates, rows: torch.Tensor) -> torch.Tensor:
        gathered.append(states.values.dtype)
        return original(states, rows)

    for name in ("host", "device"):
        if name == "device":
            monkeypatch.setattr(feature_provider, "move_to_gpu", make_resident)
            monkeypatch.setattr(ResidentStates, "gather", record)
        cache = FrozenFeatureCache(tmp_path / name / "cache", 100 * MB)
        _, output = fit_fold(plan, data, tmp_path / name, frozen_cache=cache)
        losses.append(output.facts["losses"])
    assert losses[0] == (losses[1] if precision == "off" else pytest.approx(losses[1], abs=0.02))
    assert set(gathered) == {torch.float32 if precision == "off" else torch.bfloat16}


def test_keys_depend_on_the_boundaries_of_their_parts():
    assert hash_parts("ab", "c") != hash_parts("a", "bc")
    assert hash_parts(1, "x") == hash_parts(1, "x")


def count_embeddings(monkeypatch) -> list[int]:
    """Record the batch size of each call of the embeddings, the first operation of a forward pass."""

    calls: list[int] = []
    embed = FamilyAdapter.embed

    def counting_embed(self, body, input_ids, mask):
        calls.append(len(input_ids))
        return embed(self, body, input_ids, mask)

    monkeypatch.setattr(FamilyAdapter, "embed", counting_embed)
    return calls


FREEZING = [
    {"model__text_encoder__layer": "last", "model__text_encoder__freeze_layers": 2},
    {"model__text_encoder__layer": 3, "model__text_encoder__freeze_layers": 0.25},
    {"model__text_encoder__layer": "mix", "model__text_encoder__freeze_layers": "all"},
    {"model__text_encoder__layer": 2, "model__text_encoder__pooling": "attention"},
]


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "roberta", "distilbert", "modernbert"])
@pytest.mark.parametrize("keys", FREEZING)
def test_training_is_the_same_with_and_without_the_cache(songs_file, tiny_encoder, tmp_path, monkeypatch, family, keys):
    plan = plan_of(songs_file, tiny_encoder(family), **QUICK, **keys)
    data = data_of(plan)
    _, uncached = fit_fold(plan, data, tmp_path / "plain")
    calls = count_embeddings(monkeypatch)
    cache = FrozenFeatureCache(tmp_path / "cache", MB)
    _, cached = fit_fold(plan, data, tmp_path / "stored", frozen_cache=cache)
    np.testing.assert_allclose(cached.val_scores, uncached.val_scores, atol=1e-5)
    np.testing.assert_allclose(cached.facts["losses"], uncached.facts["losses"], rtol=1e-5)
    assert sum(calls) == len(source_of(data.examples).distinct[0]) + 1, "each text once, and one to determine the shape"
    calls.clear()
    fit_fold(plan, data, tmp_path / "fold", fold=1, frozen_cache=cache)
    assert sum(calls) == 1
    names = [record["split"] for record in read_records(tmp_path / "stored" / "metrics.jsonl")]
    assert names.count("val") == 2


def test_deeper_states_are_computed_from_shallower_ones(songs_file, tiny_encoder, tmp_path, monkeypatch):
    def fit(depth, name, frozen_cache):
        plan = plan_of(songs_file, tiny_encoder("bert"), **QUICK, model__text_encoder__layer="last",
                       model__text_encoder__freeze_layers=depth)  # fmt: skip
        return fit_fold(plan, data_of(plan), tmp_path / name, frozen_cache=frozen_cache)[1]

    uncached = fit(3, "plain", None)
    cache = FrozenFeatureCache(tmp_path / "cache", MB)
    fit(1, "shallow", cache)
    calls = count_embeddings(monkeypatch)
    from_shallow = fit(3, "deep", cache)
    assert sum(calls) == 1, "one text, to determine the shape"
    np.testing.assert_allclose(from_shallow.val_scores, uncached.val_scores, atol=1e-5)


def test_states_that_exceed_the_limit_are_computed_in_each_step_with_a_note(songs_file, tiny_encoder, tmp_path):
    plan = plan_of(songs_file, tiny_encoder("bert"), **QUICK, **FREEZING[0])
    _, fitted = fit_fold(plan, data_of(plan), tmp_path / "fit", frozen_cache=FrozenFeatureCache(tmp_path / "cache", 10))
    assert any("training.feature_cache_mb" in note for note in fitted.facts["notes"])
    assert np.isfinite(fitted.val_scores).all()


def test_frozen_features_are_computed_once_for_all_fits(songs_file, tiny_encoder, tmp_path, monkeypatch):
    plan = plan_of(songs_file, tiny_encoder("bert"), **QUICK)
    data = data_of(plan)
    cache = FrozenFeatureCache(tmp_path / "cache", MB)
    _, first = fit_fold(plan, data, tmp_path / "a", frozen_cache=cache)
    calls = count_embeddings(monkeypatch)
    _, second = fit_fold(plan, data, tmp_path / "b", frozen_cache=cache)
    assert not calls
    np.testing.assert_array_equal(first.val_scores, second.val_scores)
    other_plan = plan_of(songs_file, tiny_encoder("bert"), **QUICK, model__text_encoder__pooling="max")
    fit_fold(other_plan, data, tmp_path / "c", frozen_cache=cache)
    assert sum(calls) == len(data.examples)
