"""When a pod ends itself: nobody uses it, its head is gone, its job is done."""

from __future__ import annotations

import json
import time

import pytest

from cluster.pod.idle_monitor import IdleMonitor
from cluster.pod.job import FINISH, follow, is_running, read_jobs


class Pod:
    """What a keeper looks at, for the test to change."""

    def __init__(self, folder, role):
        self.time, self.fine = 1000.0, True
        self.keeper = IdleMonitor(role, 100.0, 50.0, folder, lambda: self.fine, lambda: self.fine, lambda: self.time)

    def after(self, seconds):
        self.time += seconds
        return self.keeper.reason()


@pytest.mark.parametrize(("role", "patience"), [("head", 100), ("worker", 50)])
def test_it_waits_as_long_as_it_was_told(tmp_path, role, patience):
    pod = Pod(tmp_path, role)
    assert pod.after(0) is None
    assert pod.after(10 * patience) is None, "in use all the while"
    pod.fine = False
    assert pod.after(1) is None
    assert pod.after(patience - 2) is None
    pod.fine = True
    assert pod.after(1) is None, "somebody came back"
    pod.fine = False
    assert pod.after(patience - 1) is None
    assert f"for {patience} s" in pod.after(1)


def test_one_that_was_never_used_ends_as_well(tmp_path):
    pod = Pod(tmp_path, "head")
    pod.fine = False
    assert pod.after(0) is None
    assert pod.after(100) is not None


def test_workers_end_with_their_head(tmp_path):
    pod = Pod(tmp_path, "worker")
    assert pod.after(1) is None
    (tmp_path / "DONE.json").write_text("{}")
    assert pod.after(1) == "the head has ended"


def test_a_job_may_end_the_cluster(tmp_path):
    pod = Pod(tmp_path, "head")
    assert pod.after(1) is None
    (tmp_path / FINISH).write_text("job tune-1 ended with 0")
    assert pod.after(1) == "job tune-1 ended with 0"


def test_a_job_without_a_heartbeat_keeps_no_pod_alive(tmp_path):
    now = time.time()
    for name, heartbeat, state in (("a", now, "running"), ("b", now - 600, "running"), ("c", now, "ended")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "job.json").write_text(json.dumps({"id": name, "state": state, "heartbeat": heartbeat}))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "job.json").write_text('{"id": ')
    assert [(job["id"], is_running(job, now)) for job in read_jobs(tmp_path)] == [
        ("a", True),
        ("b", False),
        ("c", False),
    ]


def test_a_job_that_is_not_known_is_told_with_those_that_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RRAY_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("RRAY_CLUSTER", "m")
    assert follow("train-1") == 2
    assert "there are: none" in capsys.readouterr().err
    (tmp_path / "clusters" / "m" / "jobs" / "tune-1").mkdir(parents=True)
    assert follow("train-1") == 2
    assert "there are: tune-1" in capsys.readouterr().err
    monkeypatch.setattr("cluster.pod.job.BEGIN_SECONDS", -1.0)
    assert follow("tune-1") == 1
    assert "has not begun" in capsys.readouterr().err
