"""The client against real HTTP: what each error means, what is tried again, and that a creation is never doubled."""

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


def test_pods_come_and_go(account, client):
    assert client.pods() == []
    made = client.create_pod(BODY)
    assert client.pod(made.id).name == "rainbow-x"
    assert [pod.id for pod in client.pods()] == [made.id]
    assert made.alive
    assert client.terminate(made.id).how == "deleted"
    assert client.terminate(made.id).how == "gone"
    assert client.pods() == []


def test_volumes_and_the_catalogue(account, client):
    volume = client.create_volume("rainbow-data", 20, "EU-RO-1")
    assert [(found.id, found.size) for found in client.volumes()] == [(volume.id, 20)]
    client.delete_volume(volume.id)
    client.delete_volume(volume.id)
    assert client.volumes() == []
    gpus = {gpu.id: gpu for gpu in client.gpu_types(count=1, cloud="SECURE")}
    assert gpus["NVIDIA RTX A5000"].price.secure == pytest.approx(0.27)
    assert {place.id for place in gpus["NVIDIA RTX A5000"].dataCenters} >= {"EU-RO-1"}
    assert {center.id: center.globalNetwork for center in client.data_centers()}["US-GA-2"] is False


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, NoCapacity), (401, Unauthorized), (402, NoBalance), (403, Forbidden), (404, NotFound), (422, WrongRequest)],
)
def test_refusals_are_told_in_a_sentence_and_not_repeated(account, client, pauses, status, kind):
    account.fail("POST", "/v2/pods", status, times=9)
    with pytest.raises(kind) as caught:
        client.create_pod(BODY)
    assert str(caught.value).startswith("RunPod: as the test wants it")
    assert str(caught.value).endswith(".")
    assert len(account.requests) == 1
    assert pauses == []
    assert account.living() == []


def test_too_many_requests_wait_as_long_as_they_are_told(account, client, pauses):
    account.fail("POST", "/v2/pods", 429, times=2, retry_after=7)
    client.create_pod(BODY)
    assert pauses == [7, 7]
    assert len(account.living()) == 1


def test_an_hour_of_waiting_is_the_users_to_decide(account, client, pauses):
    account.fail("GET", "/v2/pods", 429, retry_after=3600)
    with pytest.raises(RateLimited):
        client.pods()
    assert pauses == []


@pytest.mark.parametrize("kind", [500, 502, 503])
def test_reading_goes_on_after_faults_of_theirs(account, client, pauses, kind):
    account.fail("GET", "/v2/pods", kind, times=3)
    assert client.pods() == []
    assert pauses == sorted(pauses)
    assert len(pauses) == 3


@pytest.mark.parametrize("kind", ["lost", "silent", "garbled", 502])
def test_a_creation_nobody_knows_of_is_not_sent_twice(account, client, pauses, kind):
    account.fail("POST", "/v2/pods", kind)
    with pytest.raises(Unavailable):
        client.create_pod(BODY)
    assert len(account.requests) == 1
    assert len(account.living()) == (0 if kind == 502 else 1)


def test_a_listing_that_fails_is_never_an_empty_account(account, client):
    account.fail("GET", "/v2/pods", "garbled", times=9)
    with pytest.raises(Unavailable):
        client.pods()
    account.faults.clear()
    account.fail("GET", "/v2/pods", 500, times=99)
    with pytest.raises(Unavailable):
        client.pods()


@pytest.mark.parametrize("status", [405, 409])
def test_where_deleting_is_not_allowed_the_action_ends_a_pod(account, client, status):
    made = client.create_pod(BODY)
    account.fail("DELETE", "/v2/pods", status)
    assert client.terminate(made.id).how == "terminated"
    assert account.living() == []


def test_no_way_there_is_said_with_the_address(pauses):
    client = RunPod(KEY, "http://127.0.0.1:9", pause=pauses.append)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        client.create_pod(BODY)
    assert len(pauses) == 4, "what was never sent may be sent again"


def test_the_key_is_in_no_message(account, pauses):
    secret = "rpa_NOTTHEKEYBUTSECRET"
    with pytest.raises(Unauthorized) as caught:
        RunPod(secret, account.url, pause=pauses.append).pods()
    assert secret not in repr(caught.value) + str(caught.value)


def test_a_pods_own_key_ends_that_pod_and_nothing_else(account, client, pauses):
    one, other = client.create_pod(BODY), client.create_pod(BODY)
    own = RunPod(account.pods[one.id].key, account.url, pause=pauses.append)
    with pytest.raises(Forbidden):
        own.terminate(other.id)
    assert own.terminate(one.id).how == "deleted"
    assert [pod.id for pod in account.living()] == [other.id]
