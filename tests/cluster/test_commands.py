"""The commands as separate processes against the fake account; slow tests start real Ray nodes."""

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
CONNECT = "import os, ray; ray.init(os.environ['RAINBOW_ADDRESS'])"  # `auto` finds any Ray of this machine
SIZE = ["--pods", "2", "--gpu", "A5000", "--dc", "EU-RO-1", "--ttl", "20m"]


@pytest.fixture
def call(account, tmp_path, monkeypatch):
    """Return a function that runs `python -m cluster …`, checks the exit code and returns the output."""
    monkeypatch.setenv("RRAY_CLUSTERS", str(tmp_path / "clusters"))
    environment = {"RUNPOD_API_URL": account.url, "RUNPOD_API_KEY": KEY}

    def run_command(*arguments, expect=0, key=KEY, timeout_seconds=300):
        command = [sys.executable, "-m", "cluster", *map(str, arguments)]
        variables = {**os.environ, **environment, "RUNPOD_API_KEY": key}
        process = subprocess.run(
            command, capture_output=True, text=True, env=variables, timeout=timeout_seconds, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.returncode == expect, process.stdout + process.stderr
        assert "Traceback" not in process.stderr
        assert KEY not in process.stdout + process.stderr
        return process.stdout + process.stderr

    return run_command


def test_prices_sends_only_get_requests(call, account):
    output = call("prices", *SIZE)
    assert "RTX A5000" in output
    assert "0.54" in output  # for two pods
    assert {method for method, _, _ in account.requests} == {"GET"}


def test_up_dry_run_creates_nothing(call, account):
    output = call("up", *SIZE, "--dry-run")
    assert "0.54 USD per hour" in output
    assert "at most 0.18 USD in total" in output
    assert "USD per month" in output
    assert account.pods == {}
    assert account.volumes == {}
    assert ClusterFolder("rainbow").read() is None


def test_up_requires_confirmation(call, account):
    assert "--yes" in call("up", *SIZE, expect=2)
    assert account.pods == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["up", "--pods", "none"], "--pods"),
        (["up", "--ttl", "soon"], "--ttl"),
        (["--cluster", "No Good", "up"], "lowercase letters"),
        (["--cluster", "../../etc", "down"], "lowercase letters"),
        (["down"], "cluster 'rainbow' not found; run `up`"),
        (["status"], "cluster 'rainbow' not found"),
        (["cost"], "cluster 'rainbow' not found"),
        (["ssh"], "cluster 'rainbow' not found"),
        (["up", "--config", "none.yaml"], "cluster.example.yaml"),
        (["up", "--max-hourly", "inf"], "--max-hourly"),
        (["up", "--ttl", "99999999999999h"], "at most 366d"),
        (["scale", "0"], "not an integer from 1 to 32"),
        (["scale", "-1"], "not an integer from 1 to 32"),
        (["scale", "33"], "not an integer from 1 to 32"),
        (["dashboard", "--port", "99999"], "not an integer from 1 to 65535"),
        (["adopt", "root@127.0.0.1:99999"], "port"),
        (["adopt", "root@127.0.0.1", "--usd-per-hour=-3"], "not a price"),
        (["adopt", "root@127.0.0.1", "--usd-per-hour", "nan"], "not a price"),
        (["setup", "--dry-run"], "cluster 'rainbow' not found"),
    ],
)
def test_invalid_arguments_are_reported(call, arguments, message):
    assert message in call(*arguments, expect=2)


def test_missing_and_invalid_api_keys_are_reported(call):
    assert "Settings, API Keys" in call("prices", key="", expect=2)
    assert "RUNPOD_API_KEY is not a valid key" in call("prices", key="rpa_…", expect=2)


def test_all_commands_use_the_name_in_cluster_yaml(call, tmp_path, monkeypatch):
    (tmp_path / "cluster.yaml").write_text("name: studio\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert "cluster 'studio' not found" in call("down", expect=2)
    assert "cluster 'other' not found" in call("--cluster", "other", "down", expect=2)


def test_up_respects_max_hourly(call, account):
    assert "exceeds --max-hourly" in call("up", *SIZE, "--max-hourly", "0.5", "--yes", expect=1)
    assert account.pods == {}


def test_up_without_balance_leaves_no_pod(call, account):
    account.balance = 0.3  # enough for the first pod
    account.faults.clear()
    account.fail("POST", "/v2/pods", 402)
    assert "Billing" in call("up", *SIZE, "--yes", expect=1)
    assert account.living() == []
    assert ClusterFolder("rainbow").read() is None


def test_gc_terminates_orphaned_pods_only(call, account):
    account.add_foreign("foreign pod")
    orphaned = account.add_foreign("rainbow-lost-abcdef-head-1")
    orphaned.body["env"] = {"RRAY_CLUSTER": "abcdef"}
    assert "rainbow-lost" in call("gc", "--dry-run")
    assert len(account.living()) == 2
    call("gc", "--yes")
    assert [pod.body["name"] for pod in account.living()] == ["foreign pod"]


def test_help_is_fast():
    def measure_seconds():
        started_at = time.perf_counter()
        subprocess.run([sys.executable, "-m", "cluster", "--help"], check=True, capture_output=True)
        return time.perf_counter() - started_at

    import_times = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "cluster", "--help"], check=True, capture_output=True, text=True
    ).stderr
    assert not any(f" {name}\n" in import_times for name in ("ray", "torch", "pandas", "httpx", "pydantic"))
    assert min(measure_seconds() for _ in range(3)) < 5


SECRET = "wandb-secret-of-this-test"


def find_exposures(secret, *roots):
    """Return the names of files in folders that contain a secret, and `ps` if a command line does."""
    files = [path for root in roots for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    exposed = {path.name for path in files if secret.encode() in path.read_bytes()}
    commands = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    return exposed | ({"ps"} if secret in commands else set())


@pytest.mark.slow
def test_life_cycle_of_a_cluster_with_ray(call, account, machines, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    (tmp_path / "cluster.yaml").write_text(f"workspace: {machines.volume}\nretries: 1\n")
    flags = ["--config", tmp_path / "cluster.yaml", *SIZE]
    output = call("up", *flags, "--yes")
    assert "ready: 2 pods" in output
    assert len(account.living()) == 2
    output = call("status")
    assert output.count("Ray alive") == 2
    assert "CPU" in call("ssh", "--", "python", "-c", f"{CONNECT}; print(ray.cluster_resources())")
    head, worker = account.living()
    token = (tmp_path / "clusters" / "rainbow" / "ray_token").read_text()
    folders = (tmp_path, Path("/tmp/rr1"), Path("/tmp/rr2"))
    assert find_exposures(SECRET, *folders) == {"secrets.json"}
    assert find_exposures(token, *folders) == {"ray_token"}
    assert find_exposures(KEY, *folders) == set()
    length_task = "ray.remote(lambda: len(os.environ['WANDB_API_KEY']))"
    script = f"{CONNECT}; print(ray.get({length_task}.remote()))"
    assert str(len(SECRET)) in call("ssh", "--", "python", "-c", script)
    account.end(worker)
    assert "ready: 2 pods" in call("up", *flags, "--yes"), "a worker that died is replaced"
    assert call("status").count("Ray alive") == 2
    assert "terminated" in call("scale", 1)
    assert len(account.living()) == 1
    output = call("down")
    assert "all pods are terminated" in output
    assert "is kept" in output
    assert account.living() == []
    assert until(lambda: not processes_of(head.id))
    assert "USD" in call("cost")
    assert "deleted 0 pods and 1 volumes" in call("gc", "--volumes", "--yes")
