"""Several workers: the steps and gradients of a single worker, each validation song scored once, uneven shards."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rainbow_ray.data.batching import plan_batches, shard_indices
from rainbow_ray.distributed.process_group import ProcessGroup, is_shared
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.loggers import read_records
from rainbow_ray.utils.errors import TrainingError
from tests.benchmarks.serving import free_port
from tests.helpers import data_of, fit_fold, plan_of

# the script of one worker: processes communicate with gloo, and the model is wrapped in DDP
WORKER = """
import os, sys, json
from datetime import timedelta
from pathlib import Path
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from rainbow_ray.model.frozen_feature_cache import FrozenFeatureCache
from rainbow_ray.distributed.process_group import ProcessGroup
from tests.helpers import data_of, fit_fold, plan_of

manifest, encoder, folder, keys = sys.argv[1:]
torch.set_num_threads(1)
distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
def wrap(model):
    return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
process_group = ProcessGroup(distributed.get_rank(), distributed.get_world_size(), wrap)
plan = plan_of(Path(manifest), encoder, **json.loads(keys))
cache = FrozenFeatureCache(Path(folder).parent / "frozen_features", 2**24)
fit_fold(plan, data_of(plan), Path(folder), process_group=process_group, frozen_cache=cache)
distributed.barrier()  # a worker that ends while another still communicates can crash in gloo's threads
distributed.destroy_process_group()
os._exit(0)  # threads of gloo may still run when the interpreter ends, and would abort it
"""


def run_workers(folder: Path, manifest: Path, encoder: Path, keys: dict, size: int = 2) -> None:
    arguments = [sys.executable, "-c", WORKER, str(manifest), str(encoder), str(folder), json.dumps(keys)]
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    workers = [
        subprocess.Popen(
            arguments, env={**os.environ, **environment, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(size)
    ]
    for worker in workers:
        _, stderr = worker.communicate(timeout=240)
        assert worker.returncode == 0, stderr


KEYS = {
    "training__min_steps": 0, "training__epochs": 3, "training__batch_size": 7, "logging__log_every_n_steps": 1,
    "training__learning_rate": 1e-3,
}  # fmt: skip
UNFROZEN = {"model__text_encoder__freeze_layers": 0, "model__text_encoder__layer": 2}
PARTLY_FROZEN = {"model__text_encoder__freeze_layers": 1, "model__text_encoder__layer": 2}


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{}, UNFROZEN, PARTLY_FROZEN, {**UNFROZEN, "training__early_stopping__enabled": True},
                                  {"training__solver": "lbfgs"}])  # fmt: skip
@pytest.mark.parametrize("family", ["bert", pytest.param("deberta-v2", marks=pytest.mark.long)])
def test_two_workers_train_like_one(songs_file, tiny_encoder, tmp_path, keys, family):
    # 19 or 20 songs in batches of 7: the last batch is divided unevenly
    keys, encoder = {**KEYS, **keys}, without_dropout(tiny_encoder(family), tmp_path / "encoder")
    if family != "bert":
        keys["training__batch_size"] = 3
    plan = plan_of(songs_file, encoder, **keys)
    _, single_output = fit_fold(plan, data_of(plan), tmp_path / "one")
    run_workers(tmp_path / "two", songs_file, encoder, keys)
    weights = CheckpointManager(tmp_path / "two").load_model()["model"]
    expected_weights = CheckpointManager(tmp_path / "one").load_model()["model"]
    for name, value in expected_weights.items():
        np.testing.assert_allclose(weights[name], value, rtol=2e-3, atol=2e-5, err_msg=name)
    records, parallel_records = (read_records(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [record["step"] for record in records] == [record["step"] for record in parallel_records]
    for record, parallel_record in zip(records, parallel_records, strict=True):
        assert parallel_record["loss"] == pytest.approx(record["loss"], rel=1e-4)
        if record["split"] == "val":
            assert parallel_record["accuracy"] == record["accuracy"]
    assert single_output.facts["workers"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cross_attention", pytest.param("gated", marks=pytest.mark.long)])
def test_two_workers_train_a_fused_model_like_one_with_rare_midi(stems_file, tiny_encoder, tmp_path, kind):
    table = pq.read_table(stems_file)
    midi = ["a.mid" if i in (0, 3) else None for i in range(len(table))]
    pq.write_table(table.set_column(table.column_names.index("midi_file"), "midi_file", [midi]), stems_file)
    dropout_keys = ("fusion__dropout", "midi_encoder__dropout", "fusion__modality_dropout", "audio_encoder__mask_time",
                    "audio_encoder__mask_features")  # fmt: skip
    fusion_keys = {"phase": 3, "model__audio_encoder__model_name": "embedded", "model__fusion__kind": kind}
    keys = {**KEYS, **fusion_keys, **{f"model__{name}": 0.0 for name in dropout_keys}}
    keys |= {"data__window_seconds": 1.0, "data__media_cache": str(tmp_path / "cache")}
    encoder = without_dropout(tiny_encoder("bert"), tmp_path / "encoder")
    plan = plan_of(stems_file, encoder, **keys)
    fit_fold(plan, data_of(plan), tmp_path / "one")
    run_workers(tmp_path / "two", stems_file, encoder, keys)
    records, parallel_records = (read_records(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [record["step"] for record in records] == [record["step"] for record in parallel_records]
    for record, parallel_record in zip(records, parallel_records, strict=True):
        assert parallel_record["loss"] == pytest.approx(record["loss"], rel=1e-3)
    weights, expected_weights = (CheckpointManager(tmp_path / name).load_model()["model"] for name in ("two", "one"))
    for name, value in expected_weights.items():
        np.testing.assert_allclose(weights[name], value, rtol=1e-2, atol=1e-3, err_msg=name)


def without_dropout(encoder: Path, folder: Path) -> Path:
    """Copy an encoder and set its dropout to 0, so that runs can be compared."""
    shutil.copytree(encoder, folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    file.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 2, 8, 31])
def test_shards_partition_the_batch_evenly(size, batch_size):
    lengths = np.random.default_rng(batch_size).integers(5, 400, 64)
    batch = np.random.default_rng(batch_size).choice(64, batch_size, replace=False)
    shards = [shard_indices(batch, lengths, rank, size) for rank in range(size)]
    assert sorted(np.concatenate(shards)) == sorted(batch)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    if batch_size == 31:
        lengths_of_shards = [lengths[shard].sum() for shard in shards]
        assert max(lengths_of_shards) < 1.35 * min(lengths_of_shards)


def test_batches_do_not_depend_on_the_number_of_workers():
    lengths = np.arange(1, 400)
    batches = plan_batches(lengths, batch_size=8, seed=3, epoch=1)
    for size in (1, 2, 4):
        merged = [
            np.concatenate([shard_indices(batch, lengths, rank, size) for rank in range(size)]) for batch in batches
        ]
        assert [sorted(batch) for batch in merged] == [sorted(batch) for batch in batches]


def test_batches_follow_the_order_of_blocks():
    windows = [np.arange(0, 300), np.arange(300, 600), np.arange(600, 650)]
    batches = plan_batches(np.full(650, 9), batch_size=8, seed=0, epoch=0, blocks=windows)
    assert sorted(np.concatenate(batches)) == list(range(650))
    assert sum(len(batch) < 8 for batch in batches) == 1  # only the last one is not full
    position = np.empty(650)
    position[np.concatenate(batches)] = np.arange(650)
    # each index is at most one window and 16 batches away from its sorted position
    assert np.abs(position - np.arange(650)).max() <= 300 + 16 * 8


@pytest.mark.parametrize(("in_collective", "n_exchanges"), [(False, 1), (True, 0)])
def test_an_error_in_the_middle_of_an_operation_is_not_shared(monkeypatch, in_collective, n_exchanges):
    """The other workers would take its flags for the data of the operation that they wait in."""
    exchanged: list[Exception | None] = []

    def exchange(self, values, error=None):
        exchanged.append(error)
        return list(values)

    monkeypatch.setattr(ProcessGroup, "_exchange", exchange)
    group, error = ProcessGroup(0, 2), TrainingError("a loss")

    def fail() -> None:
        try:
            with group.collective() if in_collective else contextlib.nullcontext():
                raise MemoryError
        except MemoryError as cause:
            raise error from cause

    with pytest.raises(TrainingError), group.shares_errors():
        fail()
    assert exchanged == [error] * n_exchanges
    assert is_shared(error) == (not in_collective)
