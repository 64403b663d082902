"""The API client over HTTP: error types, retries, and creations that are never sent twice."""

from __future__ import annotations

import pytest

from cluster.runpod_api import (
    Forbidden,
    NoBalance,
    NoCapacity,
    NotFound,
    RateLimited,
    RunPod,
    Unauthorized,
    Unavailable,
    WrongRequest,
)
from tests.cluster.fake_runpod import KEY

BODY = {"name": "rainbow-x", "image": "runpod/base", "gpu": {"id": "NVIDIA RTX A5000", "count": 1},
        "dataCenterIds": ["EU-RO-1"], "env": {"RRAY_CLUSTER": "m"}, "ports": ["22/tcp"]}  # fmt: skip


@pytest.fixture
def pauses():
    return []


@pytest.fixture
def client(account, pauses):
    return RunPod(KEY, account.url, pause=pauses.append)


def test_pods_are_created_and_terminated(account, client):
    assert client.pods() == []
    created = client.create_pod(BODY)
    assert client.pod(created.id).name == "rainbow-x"
    assert [pod.id for pod in client.pods()] == [created.id]
    assert created.alive
    assert client.terminate(created.id).how == "deleted"
    assert client.terminate(created.id).how == "gone"
    assert client.pods() == []


def test_volumes_and_catalog(account, client):
    volume = client.create_volume("rainbow-data", 20, "EU-RO-1")
    assert [(listed.id, listed.size) for listed in client.volumes()] == [(volume.id, 20)]
    client.delete_volume(volume.id)
    client.delete_volume(volume.id)
    assert client.volumes() == []
    gpus = {gpu.id: gpu for gpu in client.gpu_types(count=1, cloud="SECURE", min_cuda="13.0")}
    assert gpus["NVIDIA RTX A5000"].price.secure == pytest.approx(0.27)
    assert {center.id for center in gpus["NVIDIA RTX A5000"].dataCenters} >= {"EU-RO-1"}
    assert {center.id: center.globalNetwork for center in client.data_centers()}["US-GA-2"] is False


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, NoCapacity), (401, Unauthorized), (402, NoBalance), (403, Forbidden), (404, NotFound), (422, WrongRequest)],
)
def test_rejections_are_not_retried(account, client, pauses, status, kind):
    account.fail("POST", "/v2/pods", status, times=9)
    with pytest.raises(kind) as caught:
        client.create_pod(BODY)
    assert str(caught.value).startswith("RunPod: injected fault")
    assert str(caught.value).endswith(".")
    assert len(account.requests) == 1
    assert pauses == []
    assert account.living() == []


def test_rate_limited_requests_respect_retry_after(account, client, pauses):
    account.fail("POST", "/v2/pods", 429, times=2, retry_after=7)
    client.create_pod(BODY)
    assert pauses == [7, 7]
    assert len(account.living()) == 1


def test_long_retry_after_is_an_error(account, client, pauses):
    account.fail("GET", "/v2/pods", 429, retry_after=3600)
    with pytest.raises(RateLimited):
        client.pods()
    assert pauses == []


@pytest.mark.parametrize("kind", [500, 502, 503])
def test_reads_are_retried_after_server_errors(account, client, pauses, kind):
    account.fail("GET", "/v2/pods", kind, times=3)
    assert client.pods() == []
    assert pauses == sorted(pauses)
    assert len(pauses) == 3


@pytest.mark.parametrize("kind", ["lost", "silent", "garbled", 502])
def test_uncertain_creations_are_not_sent_twice(account, client, pauses, kind):
    account.fail("POST", "/v2/pods", kind)
    with pytest.raises(Unavailable):
        client.create_pod(BODY)
    assert len(account.requests) == 1
    assert len(account.living()) == (0 if kind == 502 else 1)


def test_a_failed_listing_is_an_error(account, client):
    account.fail("GET", "/v2/pods", "garbled", times=9)
    with pytest.raises(Unavailable):
        client.pods()
    account.faults.clear()
    account.fail("GET", "/v2/pods", 500, times=99)
    with pytest.raises(Unavailable):
        client.pods()


@pytest.mark.parametrize("status", [405, 409])
def test_terminate_uses_the_action_if_delete_is_not_allowed(account, client, status):
    created = client.create_pod(BODY)
    account.fail("DELETE", "/v2/pods", status)
    assert client.terminate(created.id).how == "terminated"
    assert account.living() == []


def test_connection_errors_name_the_address(pauses):
    client = RunPod(KEY, "http://127.0.0.1:9", pause=pauses.append)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        client.create_pod(BODY)
    assert len(pauses) == 4, "requests that were not sent are retried"


def test_error_messages_do_not_contain_the_key(account, pauses):
    secret = "rpa_NOTTHEKEYBUTSECRET"
    with pytest.raises(Unauthorized) as caught:
        RunPod(secret, account.url, pause=pauses.append).pods()
    assert secret not in repr(caught.value) + str(caught.value)


def test_the_key_of_a_pod_terminates_only_that_pod(account, client, pauses):
    first, second = client.create_pod(BODY), client.create_pod(BODY)
    pod_client = RunPod(account.pods[first.id].key, account.url, pause=pauses.append)
    with pytest.raises(Forbidden):
        pod_client.terminate(second.id)
    assert pod_client.terminate(first.id).how == "deleted"
    assert [pod.id for pod in account.living()] == [second.id]
