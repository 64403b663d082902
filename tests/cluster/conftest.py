"""Fixtures: a fake RunPod account, machines for its pods, and a cluster."""

from __future__ import annotations

import pytest

from cluster.lifecycle import Cluster
from cluster.runpod_api import RunPod
from cluster.settings import Settings
from cluster.state import ClusterFolder
from tests.cluster.fake_runpod import KEY, FakeRunPod
from tests.cluster.machines import SSHD, Machines


@pytest.fixture
def account():
    with FakeRunPod() as fake:
        yield fake
    assert fake.violations == []


@pytest.fixture
def machines(account, tmp_path):
    """Run the pods of the account as real processes."""
    if SSHD is None:
        pytest.skip("needs OpenSSH's server (package openssh-server)")
    pod_machines = Machines(tmp_path / "machines")
    account.on_start, account.on_end = pod_machines.start, pod_machines.end
    yield pod_machines
    for pod in list(account.pods.values()):
        pod_machines.end(pod)


@pytest.fixture
def make_cluster(account, tmp_path, monkeypatch):
    """Return a function that creates a cluster with a state but without pods."""
    monkeypatch.setenv("RRAY_CLUSTERS", str(tmp_path / "clusters"))

    def make(*, ttl=3600.0, name="studio", **settings) -> Cluster:
        folder = ClusterFolder(name)
        state = folder.create(Settings(name=name, **settings), ttl=ttl, api_url=account.url)
        client = RunPod(KEY, account.url, pause=lambda seconds: None)
        return Cluster(folder, state, client, report=lambda text: None, poll=0.05, listing_delay=0.6)

    return make
