"""The commands, as processes of their own, against the fake account; where they are slow, with real Ray."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.state import ClusterFolder
from tests.cluster.fake_runpod import KEY
from tests.cluster.machines import processes_of
from tests.cluster.test_pods import until

ROOT = Path(__file__).parents[2]
SIZE = ["--pods", "2", "--gpu", "A5000", "--dc", "EU-RO-1", "--ttl", "20m"]


@pytest.fixture
def call(account, tmp_path, monkeypatch):
    """Run `python -m cluster …`; its exit code is checked, and what it said returned."""
    monkeypatch.setenv("RRAY_CLUSTERS", str(tmp_path / "clusters"))
    environment = {"RUNPOD_API_URL": account.url, "RUNPOD_API_KEY": KEY}

    def run(*arguments, expect=0, key=KEY, seconds=300):
        command = [sys.executable, "-m", "cluster", *map(str, arguments)]
        variables = {**os.environ, **environment, "RUNPOD_API_KEY": key}
        done = subprocess.run(
            command, capture_output=True, text=True, env=variables, timeout=seconds, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == expect, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert KEY not in done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_prices_are_shown_without_making_anything(call, account):
    said = call("prices", *SIZE)
    assert "RTX A5000" in said
    assert "0.54" in said  # two of them
    assert {method for method, _, _ in account.requests} == {"GET"}


def test_a_dry_run_makes_nothing(call, account):
    said = call("up", *SIZE, "--dry-run")
    assert "0.54 USD an hour, at most 0.18 USD" in said
    assert "USD a month" in said
    assert account.pods == {}
    assert account.volumes == {}
    assert ClusterFolder("rainbow").read() is None


def test_nobody_is_charged_unasked(call, account):
    assert "--yes" in call("up", *SIZE, expect=2)
    assert account.pods == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["up", "--pods", "none"], "--pods"),
        (["up", "--ttl", "soon"], "--ttl"),
        (["--cluster", "No Good", "up"], "small letters"),
        (["--cluster", "../../etc", "down"], "small letters"),
        (["down"], "no cluster 'rainbow' is known here"),
        (["status"], "no cluster 'rainbow'"),
        (["cost"], "no cluster 'rainbow'"),
        (["ssh"], "no cluster 'rainbow'"),
        (["up", "--config", "none.yaml"], "cluster.example.yaml"),
        (["up", "--max-hourly", "inf"], "--max-hourly"),
        (["up", "--ttl", "99999999999999h"], "at most 366d"),
        (["scale", "0"], "no number from 1 to 32"),
        (["scale", "-1"], "no number from 1 to 32"),
        (["scale", "33"], "no number from 1 to 32"),
        (["dashboard", "--port", "99999"], "no number from 1 to 65535"),
        (["adopt", "root@127.0.0.1:99999"], "port"),
        (["adopt", "root@127.0.0.1", "--usd-per-hour=-3"], "no price"),
        (["adopt", "root@127.0.0.1", "--usd-per-hour", "nan"], "no price"),
        (["setup", "--dry-run"], "no cluster 'rainbow'"),
    ],
)
def test_mistakes_are_told_in_a_sentence(call, arguments, said):
    told = call(*arguments, expect=2)
    assert said in told


def test_without_a_key_the_way_to_one_is_told(call):
    assert "Settings, API Keys" in call("prices", key="", expect=2)
    assert "RUNPOD_API_KEY is no key" in call("prices", key="rpa_…", expect=2)


def test_the_name_in_cluster_yaml_is_every_commands(call, tmp_path, monkeypatch):
    (tmp_path / "cluster.yaml").write_text("name: studio\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert "no cluster 'studio'" in call("down", expect=2)
    assert "no cluster 'other'" in call("--cluster", "other", "down", expect=2)


def test_a_cap_is_kept(call, account):
    assert "more than --max-hourly" in call("up", *SIZE, "--max-hourly", "0.5", "--yes", expect=1)
    assert account.pods == {}


def test_without_balance_no_pod_is_left(call, account):
    account.balance = 0.3  # enough for the first
    account.faults.clear()
    account.fail("POST", "/v2/pods", 402)
    assert "Billing" in call("up", *SIZE, "--yes", expect=1)
    assert account.living() == []
    assert ClusterFolder("rainbow").read() is None


def test_gc_ends_pods_that_nobody_knows(call, account):
    account.add_foreign("their own")
    ours = account.add_foreign("rainbow-lost-abcdef-head-1")
    ours.body["env"] = {"RRAY_CLUSTER": "abcdef"}
    assert "rainbow-lost" in call("gc", "--dry-run")
    assert len(account.living()) == 2
    call("gc", "--yes")
    assert [pod.body["name"] for pod in account.living()] == ["their own"]


def test_help_is_fast():
    def seconds():
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "cluster", "--help"], check=True, capture_output=True)
        return time.perf_counter() - begun

    imported = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "cluster", "--help"], check=True, capture_output=True, text=True
    ).stderr
    assert not any(f" {name}\n" in imported for name in ("ray", "torch", "pandas", "httpx", "pydantic"))
    assert min(seconds() for _ in range(3)) < 5


SECRET = "wandb-secret-of-this-test"


def where_it_shows(secret, *roots):
    """Files under some folders, and processes' command lines, that have it."""
    files = [path for root in roots for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    shown = {path.name for path in files if secret.encode() in path.read_bytes()}
    commands = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    return shown | ({"ps"} if secret in commands else set())


@pytest.mark.slow
def test_from_nothing_to_ray_and_back(call, account, machines, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    (tmp_path / "cluster.yaml").write_text(f"workspace: {machines.volume}\nretries: 1\n")
    wishes = ["--config", tmp_path / "cluster.yaml", *SIZE]
    said = call("up", *wishes, "--yes")
    assert "ready: 2 pods" in said
    assert len(account.living()) == 2
    said = call("status")
    assert said.count("Ray alive") == 2
    assert "CPU" in call("ssh", "--", "python", "-c", "import ray; ray.init('auto'); print(ray.cluster_resources())")
    head, worker = account.living()
    token = (tmp_path / "clusters" / "rainbow" / "ray_token").read_text()
    everywhere = (tmp_path, Path("/tmp/rr1"), Path("/tmp/rr2"))
    assert where_it_shows(SECRET, *everywhere) == {"secrets.json"}
    assert where_it_shows(token, *everywhere) == {"ray_token"}
    assert where_it_shows(KEY, *everywhere) == set()
    length = "ray.remote(lambda: len(os.environ['WANDB_API_KEY']))"
    seen = f"import ray, os; ray.init('auto'); print(ray.get({length}.remote()))"
    assert str(len(SECRET)) in call("ssh", "--", "python", "-c", seen)
    account.end(worker)
    assert "ready: 2 pods" in call("up", *wishes, "--yes"), "a worker that died is replaced"
    assert call("status").count("Ray alive") == 2
    assert "ended" in call("scale", 1)
    assert len(account.living()) == 1
    said = call("down")
    assert "no pod is left" in said
    assert "stays" in said
    assert account.living() == []
    assert until(lambda: not processes_of(head.id))
    assert "USD" in call("cost")
    assert "ended 0 pods and 1 volumes" in call("gc", "--volumes", "--yes")
