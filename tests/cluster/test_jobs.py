"""Jobs on pods: sweeps with a lost worker, downloads, and jobs that stop the cluster."""

from __future__ import annotations

import json
import time

import pytest

from tests.cluster.test_commands import SIZE, call  # noqa: F401
from tests.cluster.test_pods import until

pytestmark = pytest.mark.slow

QUICK = ["--phase", "1", "--folds", "2", "training.epochs=2", "training.min_steps=0"]


@pytest.mark.parametrize(("pods", "trials"), [(2, 4), pytest.param(3, 12, marks=pytest.mark.long)])
def test_a_sweep_survives_a_lost_worker(call, account, machines, tiny_encoder, tmp_path, pods, trials):  # noqa: F811
    (tmp_path / "cluster.yaml").write_text(f"workspace: {machines.volume}\n")
    call("up", "--config", tmp_path / "cluster.yaml", *SIZE, "--pods", pods, "--yes")
    assert "--demo" in call("tune", "--", "--trials", trials, expect=2)
    flags = [*QUICK, "--encoder", tiny_encoder("bert"), "tune.revalidation_seeds=1"]
    output = call("tune", "--demo", "--", "--trials", trials, "--name", "sweep", *flags)
    assert f"--usd-per-hour {0.27 * pods:g}" in output
    job = next(machines.volume.glob("clusters/*/jobs/*/log.txt"), None)
    assert until(lambda: any(machines.volume.glob("runs/sweep/trials/*")), 120), job and job.read_text()
    worker = next(pod for pod in account.living() if "-worker-" in pod.body["name"])
    account.end(worker)
    output = call("logs", timeout_seconds=600)
    summary = json.loads((machines.volume / "runs" / "sweep" / "summary.json").read_text())
    assert summary["trials"]["total"] == trials, output
    call("pull", "--into", tmp_path / "local")
    assert json.loads((tmp_path / "local" / "sweep" / "summary.json").read_text()) == summary
    (tmp_path / "other" / "sweep").mkdir(parents=True)
    assert "skipped sweep" in call("pull", "--into", tmp_path / "other", expect=1)
    assert list((tmp_path / "other" / "sweep").iterdir()) == []
    call("down")
    assert account.living() == []


def test_down_when_done_stops_the_cluster(call, account, machines, tmp_path):  # noqa: F811
    (tmp_path / "cluster.yaml").write_text(f"workspace: {machines.volume}\n")
    call("up", "--config", tmp_path / "cluster.yaml", *SIZE, "--yes")
    call("train", "--demo", "--down-when-done", "--", "--name", "one", "--dry-run", "--encoder", "embedded", *QUICK)
    assert until(lambda: not account.living(), 240), "head and worker terminate themselves"
    end_marker = json.loads(next(machines.volume.glob("clusters/*/DONE.json")).read_text())
    assert "ended with exit code 0" in end_marker["reason"]
    assert time.time() - end_marker["time"] < 240
    call("up", "--config", tmp_path / "cluster.yaml", *SIZE, "--pods", 1, "--yes")
    time.sleep(5)
    assert len(account.living()) == 1, "the new cluster ignores the files of the earlier one"
    assert "available: none" in call("logs", "none", expect=2)
    assert "all pods are terminated" in call("down")


@pytest.mark.long
def test_a_sweep_resumes_after_down_and_up(call, account, machines, tiny_encoder, tmp_path):  # noqa: F811
    (tmp_path / "cluster.yaml").write_text(f"workspace: {machines.volume}\n")
    up = ["up", "--config", tmp_path / "cluster.yaml", *SIZE, "--pods", "1", "--yes"]
    tune = ["--trials", "6", "--name", "s", *QUICK, "--encoder", tiny_encoder("bert"), "tune.revalidation_seeds=1"]
    trial_log = machines.volume / "runs" / "s" / "trials.jsonl"
    call(*up)
    call("tune", "--demo", "--", *tune)
    assert until(lambda: trial_log.exists() and trial_log.read_text().count('"state"') > 1, 150)
    call("down")
    before = trial_log.read_text().splitlines()
    call(*up)
    assert "Ray alive" in call("status")
    output = call("tune", "--demo", "--follow", "--", *tune, "--resume", timeout_seconds=400)
    assert "trials have ended before" in output
    assert trial_log.read_text().splitlines()[: len(before) - 1] == before[:-1], "no completed trial is lost"
    summary = json.loads((trial_log.parent / "summary.json").read_text())
    assert summary["trials"]["total"] == 6
    call("down")
    assert account.living() == []
