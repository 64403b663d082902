"""A pod that was made by hand: by ssh alone, and with the two scripts alone."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.adopt import NO_TIMER, end_adopted, parse_place, start_timer
from cluster.lifecycle import ClusterError
from cluster.registry import without_api
from cluster.settings import Settings
from cluster.state import ClusterFolder, PodRecord
from rainbow_ray.utils.errors import InputError
from tests.cluster.machines import processes_of
from tests.cluster.test_commands import call  # noqa: F401
from tests.cluster.test_pods import until


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("root@213.173.105.8:10022", ("root", "213.173.105.8", 10022)),
        ("me@host.example", ("me", "host.example", 22)),
        ("ssh root@213.173.105.8 -p 10022", ("root", "213.173.105.8", 10022)),
    ],
)
def test_a_login_is_read_as_the_console_writes_it(text, place):
    assert parse_place(text) == place


@pytest.mark.parametrize("text", ["213.173.105.8", "root@", "root@host:port", "root@host;reboot", "-oProxyCommand=x@h"])
def test_what_is_no_login_is_told(text):
    with pytest.raises(InputError, match="USER@HOST:PORT"):
        parse_place(text)


@pytest.mark.parametrize("port", ["99999", "0"])
def test_a_port_that_none_has_is_told(port):
    with pytest.raises(InputError, match="from 1 to 65535"):
        parse_place(f"root@host:{port}")


@pytest.fixture
def adopted(tmp_path, monkeypatch):
    """A cluster whose pod was made by hand, and is not there."""
    monkeypatch.setenv("RRAY_CLUSTERS", str(tmp_path / "clusters"))
    folder = ClusterFolder("rainbow")
    state = folder.begin(Settings(), ttl=3600, api_url="", adopted=True)
    head = PodRecord(name=state.next_name("head"), role="head", step="made", host="127.0.0.9", port=9,
                     since=state.created, deadline=state.deadline)  # fmt: skip
    state.pods.append(head)
    folder.write(state)
    there = without_api(folder, state)
    there.say = lambda text: None
    return there


def test_a_pod_that_does_not_answer_is_not_gone(adopted):
    with pytest.raises(ClusterError, match=r"console\.runpod\.io/pods.*down --gone"):
        end_adopted(adopted)
    assert adopted.folder.need().living == adopted.state.living != []
    adopted.clock = lambda: adopted.state.deadline + 3600
    end_adopted(adopted)
    assert adopted.folder.need().living == []


def test_a_pod_without_a_timer_never_counts_as_gone_by_itself(adopted):
    adopted.state.head.deadline = 0.0
    adopted.clock = lambda: adopted.state.deadline + 3600
    with pytest.raises(ClusterError, match="does not answer"):
        end_adopted(adopted)
    end_adopted(adopted, gone=True)
    assert adopted.folder.need().living == []


@pytest.mark.parametrize(
    ("said", "timed"),
    [
        ("this pod ends itself at 2030-01-02T03:04:05Z\n", True),
        ("this machine is no pod of RunPod's: nothing …\n", False),
    ],
)
def test_the_end_is_what_the_pod_says(adopted, monkeypatch, said, timed):
    class Pod:
        def run(self, *_, **__):
            return said

    told: list[str] = []
    adopted.say = told.append
    monkeypatch.setattr("cluster.adopt.reach", lambda folder, record: Pod())
    monkeypatch.setattr("cluster.adopt.push_code", lambda remote, state: None)
    assert start_timer(adopted) is timed
    assert (NO_TIMER in told) is not timed
    assert adopted.folder.need().head.deadline == (1893553445 if timed else 0)


@pytest.fixture
def by_hand(account, machines, tmp_path, monkeypatch):
    """A pod of the console that takes one's own key: the pod, its place, the key, and flags for the cluster."""
    key = tmp_path / "own_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    # what only a test's pods need to be told, since they share a machine
    more = {"RRAY_API_URL": account.url, "RRAY_ENV": sys.prefix,
            "RRAY_RAY_FOLDER": "/tmp/rrh", "RRAY_TICK": "0.2", "RRAY_END_PAUSE": "0.5", "RRAY_FLUSH_SECONDS": "1",
            "RRAY_WORKSPACE": str(machines.volume)}  # fmt: skip
    machines.by_hand = [f"{name}={value}" for name, value in more.items()]
    pod = account.add_by_hand(key.with_suffix(".pub").read_text())
    (tmp_path / "cluster.yaml").write_text(f"workspace: {machines.volume}\n")
    host, port = pod.address
    return pod, f"root@{host}:{port}", key, ["--config", tmp_path / "cluster.yaml", "--key", key]


@pytest.mark.slow
def test_a_pod_made_by_hand_trains_and_ends(call, account, by_hand):  # noqa: F811
    pod, place, _, flags = by_hand
    assert "becomes cluster" in call("adopt", place, *flags, "--dry-run", key="")
    assert ClusterFolder("rainbow").read() is None
    said = call("adopt", place, *flags, "--ttl", "1h", "--usd-per-hour", "0.5", key="")
    assert "ready" in said
    assert "this pod ends itself at" in said
    assert call("adopt", place, *flags, key="").count("ready") == 1, "once more changes nothing"
    said = call("status", key="")
    assert "adopted" in said
    assert "Ray alive" in said
    assert "0.50 USD an hour" in said
    assert "Ready to train" in call("check", "--demo", "--", "--phase", "1", "--encoder", "embedded", key="")
    assert "made by hand" in call("scale", "2", key="", expect=2)
    assert "made by hand" in call("up", "--yes", expect=2)
    assert "--yes" in call("down", key="", expect=2)
    assert "no pod is left" in call("down", "--yes", key="")
    assert until(lambda: not account.living())
    assert until(lambda: not processes_of(pod.id))


@pytest.mark.slow
def test_it_ends_itself_also_when_this_machine_is_gone(call, account, by_hand):  # noqa: F811
    pod, place, _, flags = by_hand
    call("adopt", place, *flags, "--ttl", "90s", key="")
    assert until(lambda: not account.living(), 180)
    assert pod.ended >= ClusterFolder("rainbow").need().deadline - 2


@pytest.mark.slow
def test_nobody_there_is_told_and_nothing_begins(call, by_hand, tmp_path):  # noqa: F811
    _, place, _, flags = by_hand
    said = call("adopt", place.rpartition(":")[0] + ":1", *flags, expect=1)
    assert "reaching root@127.0.0.11:1 by ssh" in said
    assert "no such file" in call("adopt", place, "--key", tmp_path / "none", expect=2)
    assert ClusterFolder("rainbow").read() is None


@pytest.mark.slow
def test_two_scripts_are_all_that_a_pod_needs(account, machines, by_hand):
    pod, _, key, _ = by_hand
    host, port = pod.address
    ssh = ["ssh", "-F", "none", "-i", str(key), "-p", str(port), "-o", "StrictHostKeyChecking=no", "-o",
           "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", f"root@{host}"]  # fmt: skip
    assert until(lambda: subprocess.run([*ssh, "true"], capture_output=True).returncode == 0)
    code = Path(__file__).parents[2]
    work = "bash cluster/pod/train.sh --phase 1 --manifest demo --encoder embedded --dry-run"
    done = subprocess.run([*ssh, f"cd {code} && {work}"], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "this pod ends itself at" in done.stdout
    assert "127.0.0.1:8265" in done.stdout
    home = machines.root / pod.id
    assert (home / ".rainbow" / "ray_token").stat().st_mode & 0o077 == 0
    kept = int((machines.volume / "clusters" / f"deadline-{pod.id}").read_text())
    assert 7.9 < (kept - time.time()) / 3600 < 8.1
