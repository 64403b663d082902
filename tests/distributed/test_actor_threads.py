"""PyTorch's threads in Ray's actors: as many as their CPUs, also where OMP_NUM_THREADS says something else."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
import ray, torch
from ray import tune
from rainbow_ray.distributed.actor_threads import use_assigned_cpus
from rainbow_ray.distributed.ray_cluster import prepare_environment, ray_cluster

def n_threads():
    use_assigned_cpus()
    return torch.get_num_threads()

class Actor:
    def n_threads(self):
        return n_threads()

def trainable(config):
    tune.report({"threads": n_threads()})

prepare_environment()
with ray_cluster(None):
    actors = [ray.remote(num_cpus=n_cpus)(Actor).remote() for n_cpus in (0.01, 1)]
    threads = [ray.get(actor.n_threads.remote()) for actor in actors]
    for actor in actors:
        ray.kill(actor)
    run_config = tune.RunConfig(storage_path=sys.argv[1], verbose=0)
    results = tune.Tuner(tune.with_resources(trainable, {"cpu": 1}), run_config=run_config).fit()
print(json.dumps([*threads, results[0].metrics["threads"]]))
"""


@pytest.mark.slow
def test_threads_are_the_cpus_of_the_actor(tmp_path):
    """Several actors with all threads each are many times slower than with one (OpenMP's threads wait actively)."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], env={**os.environ, "OMP_NUM_THREADS": "2"}, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == [1, 1, 1]
