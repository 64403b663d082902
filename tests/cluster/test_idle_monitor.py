"""The idle monitor: idle pods, workers without a head, and jobs that stop the cluster."""

from __future__ import annotations

import json
import time

import pytest

from cluster.pod.idle_monitor import IdleMonitor
from cluster.pod.job import FINISH, follow, is_running, read_jobs


class Pod:
    """An idle monitor with a fake clock and a settable activity."""

    def __init__(self, folder, role):
        self.time, self.active = 1000.0, True
        self.monitor = IdleMonitor(
            role, 100.0, 50.0, folder, lambda: self.active, lambda: self.active, lambda: self.time
        )

    def reason_after(self, seconds):
        self.time += seconds
        return self.monitor.reason()


@pytest.mark.parametrize(("role", "timeout_seconds"), [("head", 100), ("worker", 50)])
def test_the_timeout_starts_after_the_last_activity(tmp_path, role, timeout_seconds):
    pod = Pod(tmp_path, role)
    assert pod.reason_after(0) is None
    assert pod.reason_after(10 * timeout_seconds) is None, "the pod is in use"
    pod.active = False
    assert pod.reason_after(1) is None
    assert pod.reason_after(timeout_seconds - 2) is None
    pod.active = True
    assert pod.reason_after(1) is None, "the pod is in use again"
    pod.active = False
    assert pod.reason_after(timeout_seconds - 1) is None
    assert f"for {timeout_seconds} s" in pod.reason_after(1)


def test_a_pod_that_was_never_used_is_idle(tmp_path):
    pod = Pod(tmp_path, "head")
    pod.active = False
    assert pod.reason_after(0) is None
    assert pod.reason_after(100) is not None


def test_workers_terminate_when_the_head_has_terminated(tmp_path):
    pod = Pod(tmp_path, "worker")
    assert pod.reason_after(1) is None
    (tmp_path / "DONE.json").write_text("{}")
    assert pod.reason_after(1) == "the head has terminated"


def test_a_job_can_stop_the_cluster(tmp_path):
    pod = Pod(tmp_path, "head")
    assert pod.reason_after(1) is None
    (tmp_path / FINISH).write_text("job tune-1 ended with exit code 0")
    assert pod.reason_after(1) == "job tune-1 ended with exit code 0"


def test_a_job_without_a_heartbeat_does_not_run(tmp_path):
    now = time.time()
    for name, heartbeat, state in (("a", now, "running"), ("b", now - 600, "running"), ("c", now, "ended")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "job.json").write_text(json.dumps({"id": name, "state": state, "heartbeat": heartbeat}))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "job.json").write_text('{"id": ')
    assert [(job["id"], is_running(job, now)) for job in read_jobs(tmp_path)] == [
        ("a", True),
        ("b", False),
        ("c", False),
    ]


def test_an_unknown_job_is_reported_with_the_available_ones(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RRAY_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("RRAY_CLUSTER", "m")
    assert follow("train-1") == 2
    assert "available: none" in capsys.readouterr().err
    (tmp_path / "clusters" / "m" / "jobs" / "tune-1").mkdir(parents=True)
    assert follow("train-1") == 2
    assert "available: tune-1" in capsys.readouterr().err
    monkeypatch.setattr("cluster.pod.job.START_SECONDS", -1.0)
    assert follow("tune-1") == 1
    assert "has not started" in capsys.readouterr().err
