"""The folder of a cluster: private files, atomic writes and a lock."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import stat
import time

import pytest
from pydantic import ValidationError

from cluster.settings import Settings
from cluster.state import ClusterFolder, PodRecord
from rainbow_ray.utils.errors import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RRAY_CLUSTERS", str(tmp_path / "clusters"))
    return ClusterFolder("studio")


def create_state(folder):
    return folder.create(Settings(name=folder.name), ttl=3600, api_url="https://api.runpod.io")


def test_files_are_private(folder):
    create_state(folder)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    for path in (folder.state_file, folder.key, folder.token):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_the_state_reads_back(folder):
    state = create_state(folder)
    state.pods.append(PodRecord(name=state.next_name("head"), role="head", step="made", usd_per_hour=0.5, since=100.0))
    folder.write(state)
    assert folder.read() == state
    assert folder.read_existing() == state
    assert state.usd(100.0 + 7200) == pytest.approx(1.0)
    assert state.head is not None


def test_the_state_has_no_secrets(folder):
    state = create_state(folder)
    text = folder.state_file.read_text()
    assert folder.token.read_text() not in text
    assert "PRIVATE KEY" not in text
    assert json.loads(text)["marker"] == state.marker


def test_clusters_of_the_same_name_differ(folder):
    first = create_state(folder)
    token = folder.token.read_text()
    folder.archive(first)
    assert folder.read() is None
    assert not folder.token.exists()
    second = create_state(folder)
    assert second.prefix != first.prefix
    assert folder.token.read_text() != token
    assert [state.marker for state in folder.read_ended()] == [first.marker]


def test_an_unknown_cluster_is_reported_with_the_existing_ones(folder):
    create_state(folder)
    with pytest.raises(InputError, match="studio"):
        ClusterFolder("other").read_existing()


@pytest.mark.parametrize("content", ["", "{", '{"name": "x"}', "\x00\x01"])
def test_a_damaged_state_is_reported_with_gc(folder, content):
    create_state(folder)
    folder.state_file.write_text(content)
    with pytest.raises(InputError, match="cluster gc"):
        folder.read()


def test_a_newer_format_is_rejected(folder):
    state = create_state(folder)
    folder.write(state.model_copy(update={"version": 99}))
    with pytest.raises(InputError, match="newer"):
        folder.read()


def test_invalid_values_are_never_written(folder):
    state = create_state(folder)
    with pytest.raises(ValidationError):
        state.settings.pods = 0
    for price in (float("nan"), float("inf"), -3.0):
        with pytest.raises(ValidationError):
            PodRecord(name="a", role="head", usd_per_hour=price)
    state.seconds["pods"] = float("nan")
    with pytest.raises(ValidationError):
        folder.write(state)
    assert folder.read_existing().seconds == {}


def test_billing_starts_with_creation_and_ends_after_the_deadline():
    record = PodRecord(name="a", role="head", usd_per_hour=1.0, since=1000.0, deadline=1000.0 + 7200)
    assert record.usd(1e6) == 0.0, "requested, but not created"
    record.step = "made"
    assert record.usd(1000.0 + 3600) == pytest.approx(1.0)
    assert record.usd(1e6) == pytest.approx(2.0 + 60 / 3600)
    record.until = 1000.0 + 1800
    assert record.usd(1e6) == pytest.approx(0.5)


def test_a_missing_public_key_is_derived_from_the_private_key(folder):
    create_state(folder)
    before = folder.public_key()
    folder.key.with_suffix(".pub").unlink()
    assert folder.public_key().split()[:2] == before.split()[:2]


def test_an_invalid_folder_is_reported(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RRAY_CLUSTERS", str(tmp_path / "file"))
    with pytest.raises(InputError, match="RRAY_CLUSTERS"), ClusterFolder("studio").lock():
        pass


def test_the_lock_excludes_other_commands(folder):
    with folder.lock(), pytest.raises(InputError, match="locked by another command"), ClusterFolder("studio").lock():
        pass
    with folder.lock():
        pass


def _write_repeatedly(name):
    folder = ClusterFolder(name)
    state = folder.read_existing()
    while True:
        state.pods.append(PodRecord(name=f"pod {len(state.pods)}", role="worker"))
        folder.write(state)


def test_a_kill_while_writing_leaves_a_valid_state(folder):
    create_state(folder)
    for _ in range(5):
        writer = multiprocessing.get_context("fork").Process(target=_write_repeatedly, args=(folder.name,))
        writer.start()
        time.sleep(0.15)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        assert folder.read_existing().name == "studio"
