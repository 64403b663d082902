"""Fault injection: every fault, including kills of the command, at every stage of a cluster.

No pod may outlive its deadline and no pod of other users may be changed. Pods are real processes with timer and sshd,
but without Ray. `make campaign` runs all cases, the slow tests only a few.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.state import ClusterFolder
from tests.cluster.fake_runpod import KEY
from tests.cluster.machines import SSHD, Machines, processes_of
from tests.cluster.test_pods import until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TTL = 45  # seconds; remaining pods terminate themselves then
LATE = 20  # seconds that a busy machine may need for it
STAGES = {
    "up": ["up", "--yes"],
    "again": ["up", "--yes"],
    "grow": ["scale", "3", "--yes"],
    "shrink": ["scale", "1"],
    "down": ["down"],
}
# the stages at which each fault can occur
FAULTS = {
    **dict.fromkeys([f"create {kind}" for kind in (400, 402, 403, 422, 429, 500, "lost", "silent", "garbled")],
                    ("up", "grow")),
    **dict.fromkeys(["no runtime", "no ssh"], ("up", "grow")),
    **dict.fromkeys(["end 405", "end 500", "end lost"], ("shrink", "down")),
    "a pod dies": ("again", "grow", "shrink", "down"),
    **dict.fromkeys(["list 500", "list garbled", "list lags"], tuple(STAGES)),
    **dict.fromkeys(["killed before a request", "killed after a request", "killed at some time"], tuple(STAGES)),
}  # fmt: skip
CASES = [(fault, stage) for fault, stages in FAULTS.items() for stage in stages]
SLOW_CASES = CASES[:: len(CASES) // 5]
CREATION, LISTING = ("POST", "/v2/pods"), ("GET", "/v2/pods")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """With `--kills`, select all cases, and kills at three other times each."""
    all_cases = metafunc.config.getoption("--kills") > 1
    cases = [(*case, seed) for seed in range(4 if all_cases else 1) for case in (CASES if all_cases else SLOW_CASES)
             if not seed or case[0].startswith("killed")]  # fmt: skip
    metafunc.parametrize(("fault", "stage", "seed"), cases, ids=["-".join(map(str, case)) for case in cases])


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A Python environment for pods in which starting Ray does nothing."""
    folder = tmp_path_factory.mktemp("environment")
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *cluster.pod.node*) exit 0;; *) exec {sys.executable} "$@";; esac\n')
    python.chmod(0o755)
    digest = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "requirements.lock")))
    (folder / ".rainbow_ray").write_text(digest.hexdigest() + "\n")
    return folder


class Cli:
    """Runs commands as processes, which can be killed."""

    def __init__(self, folder: Path, url: str, machines: Machines, *, ready_within: float) -> None:
        self.folder = folder
        self.environment = {**os.environ, "RRAY_CLUSTERS": str(folder / "clusters"), "RUNPOD_API_URL": url,
                            "RUNPOD_API_KEY": KEY}  # fmt: skip
        self.process: subprocess.Popen[str] | None = None
        settings = {"workspace": str(machines.volume), "pods": 2, "gpu": ["A5000"], "data_centers": ["EU-RO-1"],
                    "ttl": TTL, "ready_within": ready_within, "retries": 2}  # fmt: skip
        (folder / "cluster.yaml").write_text(json.dumps(settings))

    def run(self, arguments: list[str], kill_after: float | None = None) -> tuple[int, str]:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.quick_cli", *arguments], cwd=self.folder, text=True,
            env={**self.environment, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, _ = self.process.communicate(timeout=kill_after if kill_after is not None else 90)
        except subprocess.TimeoutExpired:
            assert kill_after is not None
            self.kill()
            output, _ = self.process.communicate()
        assert "Traceback" not in output
        assert KEY not in output
        return self.process.returncode, output

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)


def inject(fault: str, account, machines: Machines, rng: random.Random) -> None:
    """Inject a fault of RunPod or a pod into the next stage."""
    action, _, detail = fault.partition(" ")
    kind = int(detail) if detail.isdigit() else detail
    match action:
        case "create":
            account.fail(*CREATION, kind, retry_after=0.5)
        case "list" if detail == "lags":
            account.listing_lag = 1.0
        case "list":
            account.fail(*LISTING, kind, times=rng.randint(1, 12))
        case "end":
            account.fail("DELETE", "/v2/pods/", kind, times=rng.randint(1, 3))
    match fault:
        case "no runtime":
            account.without_runtime = 1
        case "no ssh":
            machines.dead_ssh.add(machines.started + 1)
        case "a pod dies":
            account.end(rng.choice([pod for pod in account.living() if "RRAY_CLUSTER" in pod.body["env"]]))


def inject_kill(fault: str, account, cli: Cli, rng: random.Random) -> float | None:
    """Inject a kill of the command at one of its requests, or return the seconds after which to kill it."""
    if fault == "killed at some time":
        return rng.uniform(0.3, 3.0)
    if fault.startswith("killed"):
        countdown = itertools.count(rng.randint(1, 12), -1)
        hook = "on_request" if "before" in fault else "on_answer"
        setattr(account, hook, lambda method: cli.kill() if next(countdown) == 1 else None)
    return None


def clear_faults(account, machines: Machines) -> None:
    account.faults.clear()
    account.listing_lag, account.without_runtime = 0.0, 0
    account.on_request = account.on_answer = lambda method: None
    machines.dead_ssh.clear()


def resume_after_kill(cli: Cli, account, foreign, outputs) -> None:
    """Check that `up` after a kill creates exactly the requested pods with one head."""
    outputs.append(("up, after the kill", *cli.run(["up", "--yes"])))
    code, output = outputs[-1][1:]
    assert code == 0 or "time to live" in output, outputs
    if code == 0:
        state = ClusterFolder("rainbow").read_existing()
        names = [pod.body["name"] for pod in account.living() if pod not in foreign]
        assert len(names) == state.settings.pods, outputs
        assert sum("-head-" in name for name in names) == 1, outputs


def test_no_pod_outlives_its_deadline_and_foreign_pods_are_unchanged(
    account, environment, tmp_path, monkeypatch, fault, stage, seed
):
    if SSHD is None:
        pytest.skip("needs OpenSSH's server (package openssh-server)")
    machines = Machines(tmp_path / "machines", environment=str(environment))
    foreign = [account.add_foreign("rainbow-rainbow-foreign"), account.add_foreign("foreign pod")]
    account.on_start, account.on_end = machines.start, machines.end
    monkeypatch.setenv("RRAY_CLUSTERS", str(tmp_path / "clusters"))
    ready_within = 4.0 if fault in ("no runtime", "no ssh") else 60.0  # such pods never answer
    cli = Cli(tmp_path, account.url, machines, ready_within=ready_within)
    rng = random.Random(f"{fault} {stage} {seed}")
    outputs = []
    for name, arguments in STAGES.items():
        seconds = None
        if name == stage:
            inject(fault, account, machines, rng)
            seconds = inject_kill(fault, account, cli, rng)
        fault_count = sum(injected.times for injected in account.faults)
        outputs.append((name, *cli.run(arguments, seconds)))
        assert not fault_count or sum(injected.times for injected in account.faults) < fault_count, "no fault occurred"
        clear_faults(account, machines)
        ClusterFolder("rainbow").read()  # raises where it cannot be read
        if name == stage:
            break
    if fault.startswith("killed"):
        resume_after_kill(cli, account, foreign, outputs)
    # the user may or may not run `down` afterwards
    if rng.random() < 0.5:
        outputs.append(("down, at last", *cli.run(["down"])))
        assert outputs[-1][1] == (2 if "cluster 'rainbow' not found" in outputs[-1][2] else 0), outputs
        assert [pod.body["name"] for pod in account.living()] == [pod.body["name"] for pod in foreign], outputs
    owned = [pod for pod in account.pods.values() if pod not in foreign]
    assert until(lambda: all(pod.gone for pod in owned), TTL + LATE), outputs
    assert all(pod.ended <= float(pod.body["env"]["RRAY_DEADLINE"]) + LATE for pod in owned), outputs
    assert until(lambda: not any(processes_of(pod.id) for pod in owned)), outputs
    assert not any(pod.gone for pod in foreign), outputs
    changes = [(method, path) for method, path, _ in account.requests if method != "GET"]
    assert not [path for _, path in changes for pod in foreign if pod.id in path], outputs
    state = ClusterFolder("rainbow").read()
    assert state is None or time.time() > state.created
