"""Building a cluster from pods: workers without Ray are replaced, and Ctrl-C stops at once."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from cluster import provision
from cluster.lifecycle import ClusterError
from cluster.plan import Candidate
from cluster.provision import build, converge
from cluster.remote import RemoteError

CANDIDATE = Candidate("NVIDIA RTX A5000", "RTX A5000", 24, "EU-RO-1", "HIGH", 0.27)


@pytest.fixture
def failing_pods(monkeypatch):
    """Skip ssh and copies; Ray fails to start on the pods in the returned list."""
    failing: list[str] = []

    def start(cluster, record):
        if record.name in failing:
            raise RemoteError(f"starting Ray on {record.name}", 1, "no")
        record.step = "ready"

    for name in ("push_code", "_set_up", "_copy_secrets", "_remove_end_markers"):
        monkeypatch.setattr(provision, name, lambda *_: None)
    for name in ("_unreachable", "_unconnected"):
        monkeypatch.setattr(provision, name, lambda cluster: [])
    monkeypatch.setattr(provision, "reach", lambda folder, record: None)
    monkeypatch.setattr(provision, "start_node", start)
    return failing


def fail_on_new_workers(account, failing, times):
    remaining = iter(range(times))

    def mark_as_failing(pod):
        if "-worker-" in pod.body["name"] and next(remaining, None) is not None:
            failing.append(pod.body["name"])

    account.on_start = mark_as_failing


def test_workers_without_ray_are_replaced(account, make_cluster, failing_pods):
    cluster = make_cluster(pods=3, retries=2)
    fail_on_new_workers(account, failing_pods, 2)
    build(cluster, [CANDIDATE])
    pod_names = {pod.body["name"] for pod in account.living()}
    assert len(pod_names) == 3
    assert not pod_names & set(failing_pods)
    assert all(record.step == "ready" for record in cluster.state.living)
    assert cluster.state.replaced == 2


def test_workers_without_ray_count_as_retries(account, make_cluster, failing_pods):
    cluster = make_cluster(pods=2, retries=1)
    fail_on_new_workers(account, failing_pods, 99)
    with pytest.raises(ClusterError, match="Ray does not start on this pod"):
        build(cluster, [CANDIDATE])


@pytest.mark.parametrize("lag", [0.0, 0.3])
def test_uncertain_creations_are_resolved_before_build_returns(account, make_cluster, failing_pods, lag):
    cluster = make_cluster(pods=2)
    account.listing_lag, cluster.poll = lag, 0.01
    account.fail("POST", "/v2/pods", "lost")
    build(cluster, [CANDIDATE])
    assert len(account.living()) == 2
    assert cluster.state.uncertain == []
    assert len(account.pods) == (3 if lag else 2)


def test_an_unlisted_head_is_not_created_twice(account, make_cluster, failing_pods):
    cluster = make_cluster(pods=1)
    account.listing_lag = 3600
    build(cluster, [CANDIDATE])
    converge(cluster, [CANDIDATE])
    assert len(account.living()) == len(account.pods) == 1


@pytest.fixture
def interruptible():
    """Handle SIGINT as on a terminal; background processes of a shell would ignore it."""
    original_handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, original_handler)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_does_not_wait_for_pods(account, make_cluster):
    cluster = make_cluster(pods=2, ready_within=60)
    account.without_runtime = 2
    for role in ("head", "worker"):
        cluster.create(role, [CANDIDATE])
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    started_at = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        converge(cluster, [CANDIDATE])
    assert time.monotonic() - started_at < 20
    assert cluster.stop.is_set()
