"""Ray as a command starts it: who may have how many workers, the dashboard and its token, Train's page."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import closing

import numpy as np
import psutil
import pytest

from rainbow_ray.distributed import ray_cluster
from rainbow_ray.distributed.ray_cluster import (
    HEAD,
    RayResources,
    TrialResources,
    Workers,
    allocate_trials,
    allocate_workers,
    describe_dashboard,
    describe_network,
    parse_workers,
    token_path,
)
from rainbow_ray.training.cross_validation import FitContext, FitJob, run_distributed
from rainbow_ray.training.loggers import LogForwarder
from rainbow_ray.utils.errors import InputError
from tests.helpers import data_of, plan_of


@pytest.mark.parametrize(("value", "pair"), [(3, (3, 3)), ("1..4", (1, 4)), ("2", (2, 2)), (None, None)])
def test_workers_are_a_number_or_a_span(value, pair):
    assert parse_workers(value) == pair


@pytest.mark.parametrize("value", ["many", "0", 0, "4..1", "1..", "..4", "1.5", -1])
def test_other_workers_are_refused(value):
    with pytest.raises(InputError, match=r"training\.workers"):
        parse_workers(value)


CPU = RayResources(cpus=8, gpus=0, dashboard=None, node_cpus=8)
GPU = RayResources(cpus=16, gpus=4, dashboard=None, node_cpus=16)


def test_resources_are_shared():
    assert allocate_workers(CPU, None, device="auto", streams=False) == Workers(1, 1, False, 8.0, 8)
    assert allocate_workers(CPU, (2, 2), device="auto", streams=False) == Workers(2, 2, False, 4.0, 4)
    assert allocate_workers(CPU, (2, 2), device="auto", streams=True).cpus == 3.0
    assert allocate_workers(GPU, None, device="auto", streams=False) == Workers(4, 4, True, 4.0, 4)
    assert allocate_workers(GPU, None, device="cpu", streams=False).most == 1
    assert allocate_workers(CPU, (1, 16), device="auto", streams=False).cpus == 1.0
    one = RayResources(cpus=1, gpus=0, dashboard=None, node_cpus=1)
    assert allocate_workers(one, None, device="auto", streams=True).cpus == 0.5


def test_the_workers_of_a_fit_are_near_each_other():
    pods = RayResources(cpus=24, gpus=3, dashboard=None, node_cpus=8, node_gpus=1)
    assert allocate_workers(pods, None, device="auto", streams=False).most == 1
    assert describe_network(pods, None, device="auto") == describe_network(pods, (1, 1), device="auto") == []
    (said,) = describe_network(pods, (3, 3), device="auto")
    assert "more than one machine's 1 GPUs" in said
    assert "100 Mbit/s" in said
    assert describe_network(GPU, (4, 4), device="auto") == []


def test_too_many_workers_are_refused_with_the_arithmetic():
    with pytest.raises(InputError, match="9 workers need 9 CPUs, one each, and there are 8: at most --workers 8"):
        allocate_workers(CPU, (9, 9), device="auto", streams=False)
    with pytest.raises(InputError, match="5 workers need 5 GPUs"):
        allocate_workers(GPU, (5, 5), device="auto", streams=False)
    with pytest.raises(InputError, match=r"9\.\.12"):
        allocate_workers(CPU, (9, 12), device="auto", streams=False)


def sweep_of(cluster, **asked):
    known = {"trials": 30, "concurrent": None, "gpus_per_trial": None, "workers": 1, "device": "auto"}
    return allocate_trials(cluster, **{**known, **asked})


def test_trials_share_what_there_is():
    assert sweep_of(CPU) == TrialResources(8, 1.0, 0.0, None)
    assert sweep_of(CPU, trials=2) == TrialResources(2, 4.0, 0.0, None)
    assert sweep_of(CPU, concurrent=3).cpu == 2.0
    assert sweep_of(GPU) == TrialResources(4, 4.0, 1.0, None)
    assert sweep_of(GPU, gpus_per_trial=0.25) == TrialResources(16, 1.0, 0.25, None)
    assert sweep_of(GPU, gpus_per_trial=0.4).concurrent == 8, "two on each of four: a part never reaches over two"
    nested = sweep_of(GPU, workers=2)
    assert (nested.concurrent, nested.gpu) == (2, 0.0)
    assert nested.workers.most == 2
    assert nested.concurrent * (nested.cpu + 2 * nested.workers.cpus) <= GPU.cpus
    few = sweep_of(CPU, workers=4)
    assert few.concurrent * (few.cpu + 4 * few.workers.cpus) <= CPU.cpus


def test_too_many_trials_are_refused_with_the_arithmetic():
    with pytest.raises(InputError, match=r"9 trials × 1 workers × 1 CPU make 9 CPUs, and there are 8: at most --conc"):
        sweep_of(CPU, concurrent=9)
    with pytest.raises(InputError, match=r"5 trials × 1 workers × 1 GPU make 5 GPUs, and there are 4"):
        sweep_of(GPU, concurrent=5)
    with pytest.raises(InputError, match=r"1 trials × 9 workers × 1 CPU .* at most 8 workers a trial"):
        sweep_of(CPU, workers=9)
    with pytest.raises(InputError, match="there is no GPU here"):
        sweep_of(CPU, gpus_per_trial=0.5)
    with pytest.raises(InputError, match=r"1\.5: a trial is one process, which uses one GPU"):
        sweep_of(GPU, gpus_per_trial=1.5)


def test_another_port_is_said():
    (said,) = describe_dashboard(RayResources(2, 0, "127.0.0.1:8266"))
    assert "http://127.0.0.1:8266 (port 8265 is in use)" in said
    assert "in use" not in describe_dashboard(RayResources(2, 0, "127.0.0.1:8265"))[0]
    assert str(token_path()) in said
    assert describe_dashboard(RayResources(2, 0, None)) == []


def ask(cluster: RayResources, path: str, token: str | None = None) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://{cluster.dashboard}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


@pytest.mark.slow
def test_the_dashboard_answers_who_has_the_token_and_shows_the_run(ray_session, songs_file, tiny_encoder, tmp_path):
    token = token_path().read_text().strip()
    assert stat.S_IMODE(token_path().stat().st_mode) == 0o600
    assert ray_session.dashboard.startswith("127.0.0.1:")
    assert ask(ray_session, "/")[0] == 200
    for path in ("/api/version", "/api/jobs/", "/api/cluster_status", "/api/train/v2/runs/v1"):
        assert ask(ray_session, path)[0] == 401, path
        assert ask(ray_session, path, "0" * 64)[0] == 403, path
    assert ask(ray_session, "/api/version", token)[0] == 200

    plan = plan_of(songs_file, tiny_encoder("bert"), training__min_steps=0, training__epochs=1)
    data = data_of(plan)
    shared = FitContext(plan.config, data.source, plan.task, plan.reading, "id")
    job = FitJob(0, *data.split.train_val_indices(0), tmp_path / "fold-0")
    (outcome,) = run_distributed(shared, [job], Workers(1, 1, False, 1.0, 1), LogForwarder([], []))
    assert np.isfinite(outcome.val_scores).all()
    status, page = ask(ray_session, "/api/train/v2/runs/v1", token)
    assert status == 200
    runs = {run["name"]: run["status"] for run in json.loads(page)["train_runs"]}
    assert [state for name, state in runs.items() if name.startswith("fold-0")] in (["FINISHED"], ["RUNNING"])


@pytest.mark.slow
def test_only_loopback_is_listened_on_by_the_dashboard(ray_session):
    port = int(ray_session.dashboard.rpartition(":")[2])
    for _, _, _, _, address in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET, socket.SOCK_STREAM):
        if not address[0].startswith("127."):
            with closing(socket.socket()) as probe:
                assert probe.connect_ex(address) != 0


def test_what_a_raylet_leaves_behind_is_ended(monkeypatch):
    monkeypatch.setattr(ray_cluster, "AGENT_SECONDS", 0.2)
    quick, stuck = (subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for code in (
        "pass", "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    ))  # fmt: skip
    assert stuck.stdout is not None
    stuck.stdout.readline()
    ray_cluster._end_processes([psutil.Process(quick.pid), psutil.Process(stuck.pid)])
    assert quick.wait(5) == 0
    assert stuck.wait(5) == -9
    ray_cluster._end_processes([])


WAITING = """
import time
from rainbow_ray.distributed.ray_cluster import prepare_environment, ray_cluster

prepare_environment()
with ray_cluster(None, "go on with --resume --name x"):
    print("ready", flush=True)
    time.sleep(600)  # asks nothing of Ray, and so hears nothing of its end
"""


@pytest.mark.slow
def test_a_command_whose_ray_is_lost_ends_with_a_word(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for child in psutil.Process(process.pid).children(recursive=True):
        if child.name() == HEAD:
            child.kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.splitlines()[-1] == "error: Ray was lost (its head process died); go on with --resume --name x"
