"""Division of CPUs and GPUs among fits, workers and trials."""

from __future__ import annotations

import pytest

from rainbow_ray.distributed.resources import (
    RayResources,
    TrialResources,
    WorkerResources,
    allocate_trials,
    allocate_workers,
    describe_network,
    describe_sharing,
    parse_workers,
)
from rainbow_ray.utils.errors import InputError


@pytest.mark.parametrize(("value", "expected"), [(3, (3, 3)), ("1..4", (1, 4)), ("2", (2, 2)), (None, None)])
def test_parse_workers_reads_a_number_or_a_range(value, expected):
    assert parse_workers(value) == expected


@pytest.mark.parametrize("value", ["many", "0", 0, "4..1", "1..", "..4", "1.5", -1])
def test_parse_workers_rejects_other_values(value):
    with pytest.raises(InputError, match=r"training\.workers"):
        parse_workers(value)


CPU = RayResources(cpus=8, gpus=0, dashboard=None, node_cpus=8)
GPU = RayResources(cpus=16, gpus=4, dashboard=None, node_cpus=16)


def test_workers_divide_the_cpus_and_gpus():
    assert allocate_workers(CPU, None, device="auto", streams=False) == WorkerResources(1, 1, False, 8.0, 8)
    assert allocate_workers(CPU, (2, 2), device="auto", streams=False) == WorkerResources(2, 2, False, 4.0, 4)
    assert allocate_workers(CPU, (2, 2), device="auto", streams=True).cpus == 3.0
    assert allocate_workers(GPU, None, device="auto", streams=False) == WorkerResources(4, 4, True, 4.0, 4)
    assert allocate_workers(GPU, None, device="cpu", streams=False).max_workers == 1
    assert allocate_workers(CPU, (1, 16), device="auto", streams=False).cpus == 1.0
    one_cpu = RayResources(cpus=1, gpus=0, dashboard=None, node_cpus=1)
    assert allocate_workers(one_cpu, None, device="auto", streams=True).cpus == 0.5


def test_by_default_the_workers_of_a_fit_are_on_one_node():
    pods = RayResources(cpus=24, gpus=3, dashboard=None, node_cpus=8, node_gpus=1)
    assert allocate_workers(pods, None, device="auto", streams=False).max_workers == 1
    assert describe_network(pods, None, device="auto") == describe_network(pods, (1, 1), device="auto") == []
    (message,) = describe_network(pods, (3, 3), device="auto")
    assert "exceeds the 1 GPUs of one machine" in message
    assert "100 Mbit/s" in message
    assert describe_network(GPU, (4, 4), device="auto") == []


def test_too_many_workers_are_rejected_with_the_arithmetic():
    with pytest.raises(InputError, match="9 workers need 9 CPUs, one each, but Ray has 8: at most --workers 8"):
        allocate_workers(CPU, (9, 9), device="auto", streams=False)
    with pytest.raises(InputError, match="5 workers need 5 GPUs"):
        allocate_workers(GPU, (5, 5), device="auto", streams=False)
    with pytest.raises(InputError, match=r"9\.\.12"):
        allocate_workers(CPU, (9, 12), device="auto", streams=False)


def allocate(resources, **options):
    defaults = {
        "n_trials": 30,
        "max_concurrent": None,
        "gpus_per_trial": None,
        "workers_per_trial": 1,
        "device": "auto",
    }
    return allocate_trials(resources, **{**defaults, **options})


def test_trials_divide_the_cpus_and_gpus():
    assert allocate(CPU) == TrialResources(8, 1.0, 0.0, None)
    assert allocate(CPU, n_trials=2) == TrialResources(2, 4.0, 0.0, None)
    assert allocate(CPU, max_concurrent=3).cpus == 2.0
    assert allocate(GPU) == TrialResources(4, 4.0, 1.0, None)
    assert allocate(GPU, gpus_per_trial=0.25) == TrialResources(16, 1.0, 0.25, None)
    assert allocate(GPU, gpus_per_trial=0.4).max_concurrent == 8, (
        "two trials on each of four GPUs: a trial uses part of one GPU only"
    )
    two_workers = allocate(GPU, workers_per_trial=2)
    assert (two_workers.max_concurrent, two_workers.gpus) == (2, 0.0)
    assert two_workers.workers.max_workers == 2
    assert two_workers.max_concurrent * (two_workers.cpus + 2 * two_workers.workers.cpus) <= GPU.cpus
    four_workers = allocate(CPU, workers_per_trial=4)
    assert four_workers.max_concurrent * (four_workers.cpus + 4 * four_workers.workers.cpus) <= CPU.cpus


def test_too_many_trials_are_rejected_with_the_arithmetic():
    with pytest.raises(
        InputError, match=r"9 trials × 1 workers × 1 CPU = 9 CPUs, but Ray has 8: at most --max-concurrent 8"
    ):
        allocate(CPU, max_concurrent=9)
    with pytest.raises(InputError, match=r"5 trials × 1 workers × 1 GPU = 5 GPUs, but Ray has 4"):
        allocate(GPU, max_concurrent=5)
    with pytest.raises(InputError, match=r"1 trials × 9 workers × 1 CPU .* at most --workers-per-trial 8"):
        allocate(CPU, workers_per_trial=9)
    with pytest.raises(InputError, match="Ray has no GPU"):
        allocate(CPU, gpus_per_trial=0.5)
    with pytest.raises(InputError, match=r"1\.5: a trial is one process, which uses one GPU"):
        allocate(GPU, gpus_per_trial=1.5)


@pytest.mark.parametrize(
    ("resources", "device", "fits_per_gpu", "is_said"),
    [(CPU, "auto", 2, True), (GPU, "cpu", 2, True), (GPU, "auto", 2, False), (CPU, "auto", None, False)],
)
def test_sharing_without_a_gpu_is_said_to_have_no_effect(resources, device, fits_per_gpu, is_said):
    lines = describe_sharing(resources, fits_per_gpu, device=device)
    assert [("training.fits_per_gpu has no effect" in line) for line in lines] == [True] * is_said
