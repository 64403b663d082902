"""Start and end of Ray: its processes, the dashboard and its token, the page of Ray Train."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import psutil
import pytest

from rainbow_ray.distributed import ray_cluster
from rainbow_ray.distributed.ray_cluster import HEAD, describe_dashboard, owns_cluster, token_path
from rainbow_ray.distributed.resources import RayResources, WorkerResources
from rainbow_ray.training.cross_validation import FitContext, FitJob
from rainbow_ray.training.distributed_training import CLEANER, _without_cleaner, run_distributed
from rainbow_ray.training.loggers import LogForwarder
from rainbow_ray.utils.signals import Interrupted
from tests.helpers import data_of, plan_of


def test_the_message_names_a_port_of_the_dashboard_other_than_the_default():
    (message,) = describe_dashboard(RayResources(2, 0, "127.0.0.1:8266"))
    assert "http://127.0.0.1:8266 (port 8265 is in use)" in message
    assert "in use" not in describe_dashboard(RayResources(2, 0, "127.0.0.1:8265"))[0]
    assert str(token_path()) in message
    assert describe_dashboard(RayResources(2, 0, None)) == []


@pytest.mark.parametrize("user_level", [None, "debug"])
def test_the_log_level_of_a_command_ends_with_its_ray(monkeypatch, user_level):
    """Otherwise a program that continues after its Ray would pass the level on to later processes."""
    name, levels = "RAY_BACKEND_LOG_LEVEL", []

    def connected(*_):
        levels.append(os.environ.get(name))
        yield RayResources(2, 0, None)

    monkeypatch.setattr(ray_cluster, "_connected", connected)
    monkeypatch.delenv(name, raising=False)
    if user_level:
        monkeypatch.setenv(name, user_level)
    with ray_cluster.ray_cluster(None, "", "fatal"):
        pass
    assert levels == [user_level or "fatal"]
    assert os.environ.get(name) == user_level


def get(cluster: RayResources, path: str, token: str | None = None) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://{cluster.dashboard}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


@pytest.mark.slow
def test_the_dashboard_requires_the_token_and_shows_the_run(ray_session, songs_file, tiny_encoder, tmp_path):
    token = token_path().read_text().strip()
    assert stat.S_IMODE(token_path().stat().st_mode) == 0o600
    assert ray_session.dashboard.startswith("127.0.0.1:")
    assert get(ray_session, "/")[0] == 200
    for path in ("/api/version", "/api/jobs/", "/api/cluster_status", "/api/train/v2/runs/v1"):
        assert get(ray_session, path)[0] == 401, path
        assert get(ray_session, path, "0" * 64)[0] == 403, path
    assert get(ray_session, "/api/version", token)[0] == 200

    plan = plan_of(songs_file, tiny_encoder("bert"), training__min_steps=0, training__epochs=1)
    data = data_of(plan)
    context = FitContext(plan.config, data.source, plan.task, plan.input_spec, "id")
    job = FitJob(0, *data.split.train_val_indices(0), tmp_path / "fold-0")
    (result,) = run_distributed(context, [job], WorkerResources(1, 1, False, 1.0, 1), LogForwarder([], []))
    assert np.isfinite(result.val_scores).all()
    status, page = get(ray_session, "/api/train/v2/runs/v1", token)
    assert status == 200
    runs = {run["name"]: run["status"] for run in json.loads(page)["train_runs"]}
    assert [state for name, state in runs.items() if name.startswith("fold-0")] in (["FINISHED"], ["RUNNING"])


@pytest.mark.slow
def test_a_defect_of_a_fit_is_raised_at_once_with_its_traceback(ray_session, songs_file, tiny_encoder, tmp_path):
    """Train repeats what dies; the same step of the same fit would only fail again."""
    plan = plan_of(songs_file, tiny_encoder("bert"), training__min_steps=0, training__epochs=1)
    data = data_of(plan)
    attempts = tmp_path / "attempts"

    class BrokenTask:  # pickled by value, as all local classes
        def __getattr__(self, name: str) -> None:
            if name.startswith("__"):
                raise AttributeError(name)  # of pickle
            with attempts.open("a") as file:
                file.write("attempt\n")
            raise KeyError("a defect")

    context = FitContext(plan.config, data.source, BrokenTask(), plan.input_spec, "id")
    job = FitJob(0, *data.split.train_val_indices(0), tmp_path / "fold-0")
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*run_job.*KeyError: 'a defect'"):
        run_distributed(context, [job], WorkerResources(1, 1, False, 1.0, 1), LogForwarder([], []))
    assert attempts.read_text() == "attempt\n"


@pytest.mark.slow
def test_a_private_ray_has_no_cleaner_of_train(ray_session):
    """It would take the start of a process; if Train names it otherwise, this fails."""
    from ray.train.torch import TorchTrainer

    names = {type(callback).__name__ for callback in TorchTrainer(lambda: None)._create_default_callbacks()}
    assert CLEANER in names
    assert owns_cluster()
    trainer = _without_cleaner(TorchTrainer(lambda: None))
    assert {type(callback).__name__ for callback in trainer._create_default_callbacks()} == names - {CLEANER}


@pytest.mark.slow
def test_the_dashboard_listens_only_on_loopback(ray_session):
    port = int(ray_session.dashboard.rpartition(":")[2])
    for _, _, _, _, address in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET, socket.SOCK_STREAM):
        if not address[0].startswith("127."):
            with contextlib.closing(socket.socket()) as probe:
                assert probe.connect_ex(address) != 0


def test_remaining_processes_of_a_raylet_are_ended(monkeypatch):
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


WAITING_SCRIPT = """
import time
from rainbow_ray.distributed.ray_cluster import prepare_environment, ray_cluster

prepare_environment()
with ray_cluster(None, "go on with --resume --name x"):
    print("ready", flush=True)
    time.sleep(600)  # makes no call to Ray, and so gets no error of it
"""


@pytest.mark.slow
def test_a_command_whose_ray_is_lost_ends_with_an_error_message(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING_SCRIPT], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for child in psutil.Process(process.pid).children(recursive=True):
        if child.name() == HEAD:
            child.kill()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert stderr.splitlines()[-1] == "error: Ray was lost (its head process died); go on with --resume --name x"


OTHER_LINE = "error: of another thread\n"
RAY_LINE = "[2026-11-30 15:35:38,764 E 17340 17726] task_manager.cc:1545: Failed to push error to driver for task 16\n"


@pytest.mark.parametrize(
    ("error", "printed"),
    [(Interrupted(signal.SIGTERM), OTHER_LINE), (None, RAY_LINE + OTHER_LINE)],
)
def test_after_an_error_ray_does_not_report_the_work_that_is_lost_by_its_end(monkeypatch, capfd, error, printed):
    monkeypatch.setattr(ray_cluster, "_shut_down", lambda: os.write(2, f"{RAY_LINE}{OTHER_LINE}".encode()))
    with contextlib.suppress(Interrupted), ray_cluster._shut_down_at_end():
        if error:
            raise error
    assert capfd.readouterr().err == printed


GARBAGE_SCRIPT = """
import gc
import threading
import time

import ray
from rainbow_ray.distributed.ray_cluster import prepare_environment, ray_cluster

prepare_environment()


@ray.remote(num_returns="streaming", num_cpus=0)
def stream():
    yield 1


class Cycle:
    def __init__(self, value):
        self.value, self.cycle = value, self


def drop(streams):
    while streams:
        Cycle(streams.pop())  # freed by the next garbage collection
        time.sleep(0.001)


with ray_cluster(None):
    streams = [stream.remote() for _ in range(4000)]
    gc.set_threshold(1, 1, 1)  # a garbage collection at nearly every allocation, in whichever thread
    thread = threading.Thread(target=drop, args=(streams,))
    thread.start()
assert streams, "none were left when Ray had ended"
streams.clear()
thread.join()
gc.collect()
print("ended", gc.isenabled())
"""


@pytest.mark.slow
def test_a_thread_that_frees_objects_of_ray_while_it_ends_does_not_end_the_process(tmp_path):
    done = subprocess.run([sys.executable, "-c", GARBAGE_SCRIPT], cwd=tmp_path, text=True, capture_output=True)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["ended True"]), done.stderr
