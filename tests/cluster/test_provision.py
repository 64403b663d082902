"""From pods to Ray on them: workers on which it does not start are replaced, Ctrl-C is heard at once."""

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
def quick(monkeypatch):
    """Pods answer as soon as they are there, and nothing is copied; where Ray starts is the test's to say."""
    refusing: list[str] = []

    def start(cluster, record):
        if record.name in refusing:
            raise RemoteError(f"starting Ray on {record.name}", 1, "no")
        record.step = "ready"

    for name in ("push_code", "_set_up", "_give_secrets", "_forget_the_end"):
        monkeypatch.setattr(provision, name, lambda *_: None)
    for name in ("_unreachable", "_unconnected"):
        monkeypatch.setattr(provision, name, lambda cluster: [])
    monkeypatch.setattr(provision, "reach", lambda folder, record: None)
    monkeypatch.setattr(provision, "start_node", start)
    return refusing


def refuse_new_workers(account, refusing, times):
    left = iter(range(times))

    def note(pod):
        if "-worker-" in pod.body["name"] and next(left, None) is not None:
            refusing.append(pod.body["name"])

    account.on_start = note


def test_a_worker_on_which_ray_does_not_start_is_replaced(account, make_cluster, quick):
    cluster = make_cluster(pods=3, retries=2)
    refuse_new_workers(account, quick, 2)
    build(cluster, [CANDIDATE])
    names = {pod.body["name"] for pod in account.living()}
    assert len(names) == 3
    assert not names & set(quick)
    assert all(record.step == "ready" for record in cluster.state.living)
    assert cluster.state.replaced == 2


def test_the_budget_of_retries_holds_for_ray_as_well(account, make_cluster, quick):
    cluster = make_cluster(pods=2, retries=1)
    refuse_new_workers(account, quick, 99)
    with pytest.raises(ClusterError, match="Ray does not start there"):
        build(cluster, [CANDIDATE])


@pytest.mark.parametrize("lag", [0.0, 0.3])
def test_a_creation_that_seemed_lost_does_not_run_on_unseen(account, make_cluster, quick, lag):
    cluster = make_cluster(pods=2)
    account.listing_lag, cluster.poll = lag, 0.01
    account.fail("POST", "/v2/pods", "lost")
    build(cluster, [CANDIDATE])
    assert len(account.living()) == 2
    assert cluster.state.uncertain == []
    assert len(account.pods) == (3 if lag else 2)


def test_a_late_pod_becomes_no_second_head(account, make_cluster, quick):
    cluster = make_cluster(pods=1)
    account.listing_lag = 3600
    build(cluster, [CANDIDATE])
    converge(cluster, [CANDIDATE])
    assert len(account.living()) == len(account.pods) == 1


@pytest.fixture
def interruptible():
    """Ctrl-C as on a terminal: what is begun in the background of a shell inherits that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_waits_for_no_pod(account, make_cluster):
    cluster = make_cluster(pods=2, ready_within=60)
    account.without_runtime = 2
    for role in ("head", "worker"):
        cluster.create(role, [CANDIDATE])
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        converge(cluster, [CANDIDATE])
    assert time.monotonic() - begun < 20
    assert cluster.stop.is_set()
