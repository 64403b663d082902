"""Each fault at each stage, kills of the command line among them: no pod outlives its deadline, none is another's.

Pods are real processes with their real timer and sshd; only Ray is left out, so that there can be many. `make campaign`
runs all of them, the slow tests a few.
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
TTL = 45  # seconds; what is left over ends itself then
LATE = 20  # seconds that a busy machine may take for that
STAGES = {
    "up": ["up", "--yes"],
    "again": ["up", "--yes"],
    "grow": ["scale", "3", "--yes"],
    "shrink": ["scale", "1"],
    "down": ["down"],
}
# at which stages each can happen
FAULTS = {
    **dict.fromkeys([f"create {how}" for how in (400, 402, 403, 422, 429, 500, "lost", "silent", "garbled")],
                    ("up", "grow")),
    **dict.fromkeys(["no runtime", "no ssh"], ("up", "grow")),
    **dict.fromkeys(["end 405", "end 500", "end lost"], ("shrink", "down")),
    "a pod dies": ("again", "grow", "shrink", "down"),
    **dict.fromkeys(["list 500", "list garbled", "list lags"], tuple(STAGES)),
    **dict.fromkeys(["killed before a request", "killed after a request", "killed at some time"], tuple(STAGES)),
}  # fmt: skip
CASES = [(fault, stage) for fault, stages in FAULTS.items() for stage in stages]
FEW = CASES[:: len(CASES) // 5]
CREATION, LISTING = ("POST", "/v2/pods"), ("GET", "/v2/pods")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All cases where many kills are asked for, and kills at three other moments each."""
    many = metafunc.config.getoption("--kills") > 1
    cases = [(*case, seed) for seed in range(4 if many else 1) for case in (CASES if many else FEW)
             if not seed or case[0].startswith("killed")]  # fmt: skip
    metafunc.parametrize(("fault", "stage", "seed"), cases, ids=["-".join(map(str, case)) for case in cases])


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """An environment for pods whose Ray is there at once."""
    folder = tmp_path_factory.mktemp("environment")
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *cluster.pod.node*) exit 0;; *) exec {sys.executable} "$@";; esac\n')
    python.chmod(0o755)
    wanted = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "requirements.lock")))
    (folder / ".rainbow_ray").write_text(wanted.hexdigest() + "\n")
    return folder


class Cli:
    """The command line as processes, of which one may be killed."""

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
            said, _ = self.process.communicate(timeout=kill_after if kill_after is not None else 90)
        except subprocess.TimeoutExpired:
            assert kill_after is not None
            self.kill()
            said, _ = self.process.communicate()
        assert "Traceback" not in said
        assert KEY not in said
        return self.process.returncode, said

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)


def inject(fault: str, account, machines: Machines, chance: random.Random) -> None:
    """What RunPod does wrong in the stage that comes."""
    what, _, how = fault.partition(" ")
    kind = int(how) if how.isdigit() else how
    match what:
        case "create":
            account.fail(*CREATION, kind, retry_after=0.5)
        case "list" if how == "lags":
            account.listing_lag = 1.0
        case "list":
            account.fail(*LISTING, kind, times=chance.randint(1, 12))
        case "end":
            account.fail("DELETE", "/v2/pods/", kind, times=chance.randint(1, 3))
    match fault:
        case "no runtime":
            account.without_runtime = 1
        case "no ssh":
            machines.dead_ssh.add(machines.started + 1)
        case "a pod dies":
            account.end(chance.choice([pod for pod in account.living() if "RRAY_CLUSTER" in pod.body["env"]]))


def inject_kill(fault: str, account, cli: Cli, chance: random.Random) -> float | None:
    """A kill of the command itself, at one of its requests, or after the seconds that are returned."""
    if fault == "killed at some time":
        return chance.uniform(0.3, 3.0)
    if fault.startswith("killed"):
        left = itertools.count(chance.randint(1, 12), -1)
        hook = "on_request" if "before" in fault else "on_answer"
        setattr(account, hook, lambda method: cli.kill() if next(left) == 1 else None)
    return None


def heal(account, machines: Machines) -> None:
    account.faults.clear()
    account.listing_lag, account.without_runtime = 0.0, 0
    account.on_request = account.on_answer = lambda method: None
    machines.dead_ssh.clear()


def go_on(cli: Cli, account, theirs, told) -> None:
    """After a kill, `up` makes what was wished for: no more, no fewer, one head."""
    told.append(("up, after the kill", *cli.run(["up", "--yes"])))
    code, said = told[-1][1:]
    assert code == 0 or "past its time" in said, told
    if code == 0:
        state = ClusterFolder("rainbow").need()
        names = [pod.body["name"] for pod in account.living() if pod not in theirs]
        assert len(names) == state.settings.pods, told
        assert sum("-head-" in name for name in names) == 1, told


def test_nothing_is_forgotten_and_nothing_foreign_touched(
    account, environment, tmp_path, monkeypatch, fault, stage, seed
):
    if SSHD is None:
        pytest.skip("needs OpenSSH's server (package openssh-server)")
    machines = Machines(tmp_path / "machines", environment=str(environment))
    theirs = [account.add_foreign("rainbow-rainbow-theirs"), account.add_foreign("their own")]
    account.on_start, account.on_end = machines.start, machines.end
    monkeypatch.setenv("RRAY_CLUSTERS", str(tmp_path / "clusters"))
    patience = 4.0 if fault in ("no runtime", "no ssh") else 60.0  # what will never answer is not waited for
    cli = Cli(tmp_path, account.url, machines, ready_within=patience)
    chance = random.Random(f"{fault} {stage} {seed}")
    told = []
    for name, arguments in STAGES.items():
        seconds = None
        if name == stage:
            inject(fault, account, machines, chance)
            seconds = inject_kill(fault, account, cli, chance)
        planned = sum(one.times for one in account.faults)
        told.append((name, *cli.run(arguments, seconds)))
        assert not planned or sum(one.times for one in account.faults) < planned, "the fault was met"
        heal(account, machines)
        ClusterFolder("rainbow").read()  # raises where it cannot be read
        if name == stage:
            break
    if fault.startswith("killed"):
        go_on(cli, account, theirs, told)
    # what the person does next, or does not: the machine they sit at may be gone for good
    if chance.random() < 0.5:
        told.append(("down, at last", *cli.run(["down"])))
        assert told[-1][1] == (2 if "no cluster" in told[-1][2] else 0), told
        assert [pod.body["name"] for pod in account.living()] == [pod.body["name"] for pod in theirs], told
    mine = [pod for pod in account.pods.values() if pod not in theirs]
    assert until(lambda: all(pod.gone for pod in mine), TTL + LATE), told
    assert all(pod.ended <= float(pod.body["env"]["RRAY_DEADLINE"]) + LATE for pod in mine), told
    assert until(lambda: not any(processes_of(pod.id) for pod in mine)), told
    assert not any(pod.gone for pod in theirs), told
    touched = [(method, path) for method, path, _ in account.requests if method != "GET"]
    assert not [path for _, path in touched for pod in theirs if pod.id in path], told
    state = ClusterFolder("rainbow").read()
    assert state is None or time.time() > state.created
