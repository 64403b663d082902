"""Small fits share a GPU: how many, from the memory and utilization of one of them, and with real actors of Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rainbow_ray.distributed.resources import RayResources, part_of_gpu
from rainbow_ray.modalities.text.encoder import TextEncoder
from rainbow_ray.training import gpu_sharing
from rainbow_ray.training.fit_data import FitData
from rainbow_ray.training.gpu_sharing import MAX_FITS_PER_GPU, GpuUse, choose_fits_per_gpu, fits_per_gpu
from rainbow_ray.training.train_step import TrainStep
from tests.helpers import data_of, plan_of

GB = 2.0**30
KEYS: dict[str, Any] = {
    "model__text_encoder__freeze_layers": 0, "training__min_steps": 0, "training__epochs": 1,
    "training__batch_size": 8, "training__device": "cpu",
}  # fmt: skip


@pytest.mark.parametrize(
    ("needed", "utilization", "cpus", "expected"),
    [
        (1 * GB, 0.2, 16, MAX_FITS_PER_GPU),
        (1 * GB, 0.0, 16, MAX_FITS_PER_GPU),
        (1 * GB, 0.5, 16, 2),
        (1 * GB, 0.9, 16, 1),  # one fit keeps the GPU busy
        (1 * GB, None, 16, 2),
        (8 * GB, 0.2, 16, 2),  # 9.6 GB each, of 22.8
        (20 * GB, 0.2, 16, 1),
        (30 * GB, 0.2, 16, 1),
        (1 * GB, 0.2, 5, 2),
        (1 * GB, 0.2, 1, 1),
    ],
)
def test_fits_share_a_gpu_as_far_as_memory_time_and_cpus_allow(needed, utilization, cpus, expected):
    assert fits_per_gpu(GpuUse(needed, 24 * GB, utilization), cpus) == expected


@pytest.mark.parametrize("n_fits", range(1, MAX_FITS_PER_GPU + 1))
def test_the_parts_of_a_gpu_are_no_more_than_the_gpu(n_fits):
    assert n_fits * part_of_gpu(n_fits) <= 1
    assert int(1 / part_of_gpu(n_fits) + 1e-9) == n_fits
    n_actors, options = RayResources(16, 2, None, node_cpus=16).allocate_fits(20, fits_per_gpu=n_fits)
    assert n_actors == 2 * n_fits
    assert options["num_gpus"] == part_of_gpu(n_fits)
    assert options["num_cpus"] * n_actors <= 16


def fit_data_of(manifest: Path, encoder: Path, **keys: Any) -> tuple[Any, FitData]:
    plan = plan_of(manifest, encoder, **{**KEYS, **keys})
    data = data_of(plan)
    train, val = data.split.train_val_indices(0)
    return plan.config, FitData(data.source, train, val, plan.task, plan.input_spec, 0)


def test_the_measurement_trains_on_the_longest_texts_first(songs_file, tiny_encoder, monkeypatch):
    config, data = fit_data_of(songs_file, tiny_encoder("bert"), training__compile=True)  # compiling is not measured
    monkeypatch.setattr(TextEncoder, "compile_layers", lambda encoder, backend: pytest.fail("compiled"))
    assert gpu_sharing.measure_gpu_use(config, data) is None  # on a CPU
    trained: list[np.ndarray] = []
    train_step = TrainStep.train_step

    def record(step: TrainStep, view: Any, *args: Any, **options: Any) -> Any:
        trained.append(view.indices)
        return train_step(step, view, *args, **options)

    monkeypatch.setattr(TrainStep, "train_step", record)
    monkeypatch.setattr(gpu_sharing, "MEASURED_DEVICE", "cpu")
    monkeypatch.setattr(gpu_sharing, "STEP_SECONDS", 0.2)
    monkeypatch.setattr(gpu_sharing, "_memory_of_process", lambda device: (3.0, 24.0))
    assert gpu_sharing.measure_gpu_use(config, data) == GpuUse(3.0, 24.0, None)
    lengths = data.dataset.lengths
    padded = [len(step) * lengths[step].max() for step in trained]
    assert padded[0] == max(padded)


def test_the_user_may_set_how_many_fits_share_a_gpu(songs_file, tiny_encoder):
    config, data = fit_data_of(songs_file, tiny_encoder("bert"), training__device="auto", training__fits_per_gpu=3)
    assert choose_fits_per_gpu(config, data, RayResources(16, 1, None), 6) == 3


@pytest.mark.parametrize(
    ("keys", "resources", "n_fits"),
    [
        ({}, RayResources(16, 0, None), 6),
        ({"training__device": "cpu"}, RayResources(16, 1, None), 6),
        ({"training__device": "auto"}, RayResources(16, 6, None), 6),
        ({"training__device": "auto"}, RayResources(3, 1, None), 6),
        ({"training__device": "auto", "model__text_encoder__freeze_layers": "all"}, RayResources(16, 1, None), 6),
    ],
)
def test_nothing_is_measured_where_fits_do_not_share_a_gpu(songs_file, tiny_encoder, keys, resources, n_fits):
    config, data = fit_data_of(songs_file, tiny_encoder("bert"), **keys)
    assert choose_fits_per_gpu(config, data, resources, n_fits) == 1


SCRIPT = """
import json, sys
import ray
from pathlib import Path
from rainbow_ray.distributed.ray_cluster import prepare_environment
prepare_environment()
from rainbow_ray.distributed.resources import RayResources
from rainbow_ray.training import cross_validation, gpu_sharing
from rainbow_ray.training.cross_validation import FitContext, FitJob, run_folds
from rainbow_ray.training.gpu_sharing import GpuUse
from rainbow_ray.training.loggers import LogForwarder
from rainbow_ray.utils.errors import TrainingError
from tests.training.test_gpu_sharing import KEYS, GB
from tests.helpers import data_of, plan_of

ray.init(num_cpus=8, num_gpus=1, log_to_driver=False)  # a GPU that PyTorch cannot use
manifest, encoder, folder = map(Path, sys.argv[1:])
plan = plan_of(manifest, encoder, **{**KEYS, "training__device": "auto"})
data = data_of(plan)
resources = RayResources(8, 1, None, node_cpus=8)
context = FitContext(plan.config, data.source, plan.task, plan.input_spec, "id")
jobs = [FitJob(fold, *data.split.train_val_indices(fold), folder / str(fold)) for fold in range(3)]
refused = []

def crash(reference):
    raise ValueError("the driver is confused")

for measure in (gpu_sharing._measure, crash):
    gpu_sharing._measure = measure
    try:
        arguments = cross_validation.data_of_job(context, jobs[0])
        refused.append(gpu_sharing.choose_fits_per_gpu(*arguments, resources, 4))
    except TrainingError as error:
        refused.append(str(error))

gpu_sharing._measure = lambda reference: GpuUse(2 * GB, 24 * GB, 0.25)
plan = plan_of(manifest, encoder, **KEYS)  # the fits themselves train on the CPU, in actors with parts of the GPU
context = FitContext(plan.config, data.source, plan.task, plan.input_spec, "id")
cross_validation.choose_fits_per_gpu = lambda config, *rest: gpu_sharing.choose_fits_per_gpu(
    config.with_values({"training.device": "auto"}), *rest
)
options = []
allocate = RayResources.allocate_fits
RayResources.allocate_fits = lambda *args, **keys: options.append(allocate(*args, **keys)) or options[-1]
results, _ = run_folds(context, jobs, resources, LogForwarder([], [], lambda: None), lambda context: None)
print(json.dumps([refused, options, [len(result.val_scores) for result in results]]))
"""


@pytest.mark.slow
def test_folds_run_in_actors_with_parts_of_a_gpu(songs_file, tiny_encoder, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(songs_file), str(tiny_encoder("bert")), str(tmp_path / "fits")],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    refused, options, n_scores = json.loads(done.stdout.splitlines()[-1])
    assert refused[0].startswith("Ray has assigned a GPU, but")  # as the fit itself would say it
    assert refused[1] == 1
    assert "GPU of its own, because measuring one failed: the driver is confused" in done.stderr
    assert options == [[3, {"num_gpus": 0.3333, "num_cpus": 2}]]
    assert "3 fits share a GPU: one takes 2.0 of 24 GB, and computes 25% of the time" in done.stderr
    assert len(n_scores) == 3
    assert all(n_scores)
