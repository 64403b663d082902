"""What only a GPU can show: `pytest -m gpu` on a machine with one. `tests.benchmarks.gpu` prints the figures."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from rainbow_ray.distributed.assigned_resources import why_gpu_is_unusable
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.model.device import is_broken, set_deterministic
from rainbow_ray.model.frozen_feature_cache import MB, FrozenFeatureCache
from rainbow_ray.nn.zero_loss import GradientAverager
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.fit_data import FitData
from rainbow_ray.training.gpu_sharing import measure_gpu_use
from rainbow_ray.training.loggers import NullLogger
from rainbow_ray.training.trainer import Trainer
from tests.helpers import data_of, fit_fold, plan_of
from tests.modalities.text.test_disentangled_attention import model_pair, outputs_and_gradients, padded_batch

KEYS = {
    "training__min_steps": 0, "training__epochs": 2, "training__device": "cuda",
    "model__text_encoder__freeze_layers": 0, "model__text_encoder__layer": "last",
}  # fmt: skip

pytestmark = pytest.mark.gpu


def test_pytorch_can_use_this_gpu():
    assert why_gpu_is_unusable() is None
    assert not is_broken(RuntimeError("a defect"))


@pytest.mark.parametrize("length", [31, 257])
def test_the_attention_equals_that_of_transformers(length):
    torch.backends.cuda.matmul.allow_tf32 = False
    ids, mask = padded_batch(length)
    original, ours = (model.cuda() for model in model_pair())
    expected, actual = (outputs_and_gradients(model, ids.cuda(), mask.cuda()) for model in (original, ours))
    for name, tensor in expected.items():
        assert (actual[name] - tensor).abs().max() / tensor.abs().max().clamp(min=1e-9) < 1e-4, name


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_results_repeat_on_request(songs_file, tiny_encoder, tmp_path, family):
    plan = plan_of(songs_file, tiny_encoder(family), reproducibility__deterministic=True, **KEYS)
    data = data_of(plan)
    try:
        scores = [fit_fold(plan, data, tmp_path / name)[1].val_scores for name in ("a", "b")]
    finally:
        set_deterministic(False, torch.device("cuda"))
    assert (scores[0] == scores[1]).all()


@pytest.mark.parametrize("precision", ["off", "bf16", "fp16"])
def test_a_fit_on_the_gpu_scores_as_one_on_the_cpu(songs_file, tiny_encoder, tmp_path, precision):
    encoder = tiny_encoder("deberta-v2")
    plans = [
        plan_of(songs_file, encoder, **{**KEYS, "training__device": device, "training__mixed_precision": mode})
        for device, mode in (("cpu", "off"), ("cuda", precision))
    ]
    cpu, gpu = (fit_fold(plan, data_of(plan), tmp_path / plan.config.training.device)[1] for plan in plans)
    assert gpu.facts["device"] == "cuda"
    assert abs(cpu.val_scores - gpu.val_scores).max() < 0.05


@pytest.mark.parametrize("precision", ["auto", "fp16"])
def test_a_step_waits_once_for_the_gpu(songs_file, precision):
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--waits-only", "--manifest", str(songs_file)]
    command += ["--precision", precision]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    waits = next(record for record in map(json.loads, lines) if "waits" in record)
    assert waits["waits"] <= 1, waits


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_compiled_layers_train_as_others(songs_file, tiny_encoder, tmp_path, family):
    losses = []
    for compiled in (False, True):
        plan = plan_of(songs_file, tiny_encoder(family), **KEYS, training__compile=compiled)
        _, output = fit_fold(plan, data_of(plan), tmp_path / str(compiled))
        losses.append(output.facts["losses"])
    assert any("the trained layers were compiled" in note for note in output.facts["notes"])
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


def test_states_of_frozen_layers_are_resident(songs_file, tiny_encoder, tmp_path):
    plan = plan_of(songs_file, tiny_encoder("bert"), **{**KEYS, "model__text_encoder__freeze_layers": 1})
    data = data_of(plan)
    train, val = data.split.train_val_indices(0)
    cache = FrozenFeatureCache(tmp_path / "cache", 100 * MB)
    fit_data = FitData(data.source, train, val, plan.task, plan.input_spec, 0, frozen_cache=cache)
    run = Trainer(plan.config, fit_data, NullLogger(), CheckpointManager(tmp_path / "fit"), ProcessGroup())
    assert run.features.resident_states is not None
    assert run.features.resident_states.values.is_cuda
    run.train_epoch()


def test_the_memory_of_a_fit_is_measured(songs_file, tiny_encoder):
    plan = plan_of(songs_file, tiny_encoder("bert"), **KEYS)
    data = data_of(plan)
    train, val = data.split.train_val_indices(0)
    use = measure_gpu_use(plan.config, FitData(data.source, train, val, plan.task, plan.input_spec, 0))
    assert use is not None
    assert 1e6 < use.needed_bytes < use.total_bytes


def test_gradients_are_averaged_by_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = torch.nn.Linear(3, 2).cuda()
        averager = DistributedDataParallel(
            GradientAverager(model), device_ids=[0], broadcast_buffers=False, gradient_as_bucket_view=True
        )
        for _ in range(3):
            torch.autograd.backward(model(torch.ones(4, 3, device="cuda")).sum())
            torch.autograd.backward(averager(None))
            assert (model.weight.grad == 4).all()
            model.zero_grad(set_to_none=True)
    finally:
        torch.distributed.destroy_process_group()
