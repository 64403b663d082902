"""The folder of a cluster: closed to others, whole at any instant, one command at a time."""

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


def begin(folder):
    return folder.begin(Settings(name=folder.name), ttl=3600, api_url="https://api.runpod.io")


def test_nobody_else_may_read_it(folder):
    begin(folder)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    for path in (folder.state_file, folder.key, folder.token):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_it_comes_back_as_it_was_written(folder):
    state = begin(folder)
    state.pods.append(PodRecord(name=state.next_name("head"), role="head", step="made", usd_per_hour=0.5, since=100.0))
    folder.write(state)
    assert folder.read() == state
    assert folder.need() == state
    assert state.usd(100.0 + 7200) == pytest.approx(1.0)
    assert state.head is not None


def test_no_secret_is_in_the_state(folder):
    state = begin(folder)
    text = folder.state_file.read_text()
    assert folder.token.read_text() not in text
    assert "PRIVATE KEY" not in text
    assert json.loads(text)["marker"] == state.marker


def test_two_clusters_of_one_name_are_told_apart(folder):
    first = begin(folder)
    token = folder.token.read_text()
    folder.archive(first)
    assert folder.read() is None
    assert not folder.token.exists()
    second = begin(folder)
    assert second.prefix != first.prefix
    assert folder.token.read_text() != token
    assert [state.marker for state in folder.ended()] == [first.marker]


def test_a_cluster_that_is_not_known_names_the_others(folder):
    begin(folder)
    with pytest.raises(InputError, match="studio"):
        ClusterFolder("other").need()


@pytest.mark.parametrize("content", ["", "{", '{"name": "x"}', "\x00\x01"])
def test_a_torn_state_says_how_to_find_its_pods(folder, content):
    begin(folder)
    folder.state_file.write_text(content)
    with pytest.raises(InputError, match="cluster gc"):
        folder.read()


def test_a_newer_state_is_not_touched(folder):
    state = begin(folder)
    folder.write(state.model_copy(update={"version": 99}))
    with pytest.raises(InputError, match="newer"):
        folder.read()


def test_what_could_not_be_read_again_is_never_written(folder):
    state = begin(folder)
    with pytest.raises(ValidationError):
        state.settings.pods = 0
    for price in (float("nan"), float("inf"), -3.0):
        with pytest.raises(ValidationError):
            PodRecord(name="a", role="head", usd_per_hour=price)
    state.seconds["pods"] = float("nan")
    with pytest.raises(ValidationError):
        folder.write(state)
    assert folder.need().seconds == {}


def test_a_pod_costs_nothing_before_it_is_there_nor_long_after_its_deadline():
    record = PodRecord(name="a", role="head", usd_per_hour=1.0, since=1000.0, deadline=1000.0 + 7200)
    assert record.usd(1e6) == 0.0, "asked for, and never there"
    record.step = "made"
    assert record.usd(1000.0 + 3600) == pytest.approx(1.0)
    assert record.usd(1e6) == pytest.approx(2.0 + 60 / 3600)
    record.until = 1000.0 + 1800
    assert record.usd(1e6) == pytest.approx(0.5)


def test_a_public_key_that_is_missing_is_made_of_the_private_one(folder):
    begin(folder)
    before = folder.public_key()
    folder.key.with_suffix(".pub").unlink()
    assert folder.public_key().split()[:2] == before.split()[:2]


def test_a_place_that_is_no_folder_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RRAY_CLUSTERS", str(tmp_path / "file"))
    with pytest.raises(InputError, match="RRAY_CLUSTERS"), ClusterFolder("studio").lock():
        pass


def test_one_command_at_a_time(folder):
    with folder.lock(), pytest.raises(InputError, match="another command"), ClusterFolder("studio").lock():
        pass
    with folder.lock():
        pass


def _write_for_ever(name):
    folder = ClusterFolder(name)
    state = folder.need()
    while True:
        state.pods.append(PodRecord(name=f"pod {len(state.pods)}", role="worker"))
        folder.write(state)


def test_a_kill_in_the_middle_of_writing_leaves_a_whole_state(folder):
    begin(folder)
    for _ in range(5):
        writer = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(folder.name,))
        writer.start()
        time.sleep(0.15)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        assert folder.need().name == "studio"
