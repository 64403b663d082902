"""Several workers: the same steps and gradients as one, every scored song once, uneven shares without waiting."""

from __future__ import annotations

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
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.loggers import read_records
from tests.helpers import data_of, fit_fold, plan_of

# each of them is a worker of its own: two processes, gloo between them, DDP around what is trained
WORKER = """
import os, sys, json
from datetime import timedelta
from pathlib import Path
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from rainbow_ray.model.frozen_cache import FrozenFeatureCache
from rainbow_ray.distributed.process_group import ProcessGroup
from tests.helpers import data_of, fit_fold, plan_of

manifest, encoder, folder, keys = sys.argv[1:]
torch.set_num_threads(1)
distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
def wrap(model):
    return DistributedDataParallel(model, find_unused_parameters=True, broadcast_buffers=False)
process_group = ProcessGroup(distributed.get_rank(), distributed.get_world_size(), wrap)
plan = plan_of(Path(manifest), encoder, **json.loads(keys))
cache = FrozenFeatureCache(Path(folder).parent / "frozen_features", 2**24)
fit_fold(plan, data_of(plan), Path(folder), process_group=process_group, frozen_cache=cache)
distributed.barrier()  # who ends while the other still talks may be torn down by gloo's own threads
distributed.destroy_process_group()
"""


def run_workers(folder: Path, manifest: Path, encoder: Path, keys: dict, size: int = 2, port: int = 29511) -> None:
    arguments = [sys.executable, "-c", WORKER, str(manifest), str(encoder), str(folder), json.dumps(keys)]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    workers = [
        subprocess.Popen(arguments, env={**os.environ, **place, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(size)
    ]
    for worker in workers:
        _, said = worker.communicate(timeout=240)
        assert worker.returncode == 0, said


KEYS = {
    "training__min_steps": 0, "training__epochs": 3, "training__batch_size": 7, "logging__log_every_n_steps": 1,
    "training__learning_rate": 1e-3,
}  # fmt: skip
UNFROZEN = {"model__text_encoder__freeze_layers": 0, "model__text_encoder__layer": 2}
PARTLY = {"model__text_encoder__freeze_layers": 1, "model__text_encoder__layer": 2}


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{}, UNFROZEN, PARTLY, {**UNFROZEN, "training__early_stopping__enabled": True}])
@pytest.mark.parametrize("family", ["bert", pytest.param("deberta-v2", marks=pytest.mark.long)])
def test_two_workers_do_what_one_does(songs_file, tiny_encoder, tmp_path, keys, family):
    # 19 or 20 songs in steps of 7: the last step is shared unevenly
    keys, encoder = {**KEYS, **keys}, without_dropout(tiny_encoder(family), tmp_path / "encoder")
    if family != "bert":
        keys["training__batch_size"] = 3
    made = plan_of(songs_file, encoder, **keys)
    _, alone = fit_fold(made, data_of(made), tmp_path / "one")
    run_workers(tmp_path / "two", songs_file, encoder, keys)
    model = CheckpointManager(tmp_path / "two").load_model()["model"]
    single = CheckpointManager(tmp_path / "one").load_model()["model"]
    for name, value in single.items():
        np.testing.assert_allclose(model[name], value, rtol=2e-3, atol=2e-5, err_msg=name)
    ours, theirs = (read_records(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [r["step"] for r in ours] == [r["step"] for r in theirs]
    for one, two in zip(ours, theirs, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        if one["split"] == "val":
            assert two["accuracy"] == one["accuracy"]
    assert alone.facts["workers"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cross_attention", pytest.param("gated", marks=pytest.mark.long)])
def test_two_workers_fuse_as_one_does_though_few_have_midi(stems_file, tiny_encoder, tmp_path, kind):
    table = pq.read_table(stems_file)
    midi = ["a.mid" if i in (0, 3) else None for i in range(len(table))]
    pq.write_table(table.set_column(table.column_names.index("midi_file"), "midi_file", [midi]), stems_file)
    still = ("fusion__dropout", "midi_encoder__dropout", "fusion__modality_dropout", "audio_encoder__mask_time",
             "audio_encoder__mask_features")  # fmt: skip
    named = {"phase": 3, "model__audio_encoder__model_name": "embedded", "model__fusion__kind": kind}
    keys = {**KEYS, **named, **{f"model__{name}": 0.0 for name in still}}
    keys |= {"data__window_seconds": 1.0, "data__media_cache": str(tmp_path / "cache")}
    encoder = without_dropout(tiny_encoder("bert"), tmp_path / "encoder")
    made = plan_of(stems_file, encoder, **keys)
    fit_fold(made, data_of(made), tmp_path / "one")
    run_workers(tmp_path / "two", stems_file, encoder, keys)
    ours, theirs = (read_records(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [r["step"] for r in ours] == [r["step"] for r in theirs]
    for one, two in zip(ours, theirs, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
    model, single = (CheckpointManager(tmp_path / name).load_model()["model"] for name in ("two", "one"))
    for name, value in single.items():
        np.testing.assert_allclose(model[name], value, rtol=1e-2, atol=1e-3, err_msg=name)


def without_dropout(encoder: Path, folder: Path) -> Path:
    """A copy of an encoder for exact comparisons."""
    shutil.copytree(encoder, folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    file.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [1, 2, 8, 31])
def test_shares_make_the_step_and_are_even(size, n):
    lengths = np.random.default_rng(n).integers(5, 400, 64)
    step = np.random.default_rng(n).choice(64, n, replace=False)
    shares = [shard_indices(step, lengths, rank, size) for rank in range(size)]
    assert sorted(np.concatenate(shares)) == sorted(step)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    if n == 31:
        work = [lengths[share].sum() for share in shares]
        assert max(work) < 1.35 * min(work)


def test_the_plan_knows_nothing_of_workers():
    lengths = np.arange(1, 400)
    steps = plan_batches(lengths, batch_size=8, seed=3, epoch=1)
    for size in (1, 2, 4):
        again = [np.concatenate([shard_indices(s, lengths, rank, size) for rank in range(size)]) for s in steps]
        assert [sorted(step) for step in again] == [sorted(step) for step in steps]


def test_windows_follow_each_other():
    windows = [np.arange(0, 300), np.arange(300, 600), np.arange(600, 650)]
    steps = plan_batches(np.full(650, 9), batch_size=8, seed=0, epoch=0, blocks=windows)
    assert sorted(np.concatenate(steps)) == list(range(650))
    assert sum(len(step) < 8 for step in steps) == 1  # only the last one is not full
    place = np.empty(650)
    place[np.concatenate(steps)] = np.arange(650)
    # nothing strays further than a span of steps from its window
    assert np.abs(place - np.arange(650)).max() <= 300 + 16 * 8
