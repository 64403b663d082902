"""An account, machines for its pods, and a cluster in it."""

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
    """Pods of the account are real from now on."""
    if SSHD is None:
        pytest.skip("needs OpenSSH's server (package openssh-server)")
    there = Machines(tmp_path / "machines")
    account.on_start, account.on_end = there.start, there.end
    yield there
    for pod in list(account.pods.values()):
        there.end(pod)


@pytest.fixture
def make_cluster(account, tmp_path, monkeypatch):
    """A cluster that has begun: its state is written, and nothing exists."""
    monkeypatch.setenv("RRAY_CLUSTERS", str(tmp_path / "clusters"))

    def make(*, ttl=3600.0, name="studio", **wishes) -> Cluster:
        folder = ClusterFolder(name)
        state = folder.begin(Settings(name=name, **wishes), ttl=ttl, api_url=account.url)
        client = RunPod(KEY, account.url, pause=lambda seconds: None)
        return Cluster(folder, state, client, say=lambda text: None, poll=0.05, listing_delay=0.6)

    return make
