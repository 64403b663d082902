"""A sweep on pods, one of which is switched off in the middle; its results come here, and no pod is left."""

from __future__ import annotations

import json
import time

import pytest

from tests.cluster.test_commands import SIZE, call  # noqa: F401
from tests.cluster.test_pods import until

pytestmark = pytest.mark.slow

QUICK = ["--phase", "1", "--folds", "2", "training.epochs=2", "training.min_steps=0"]


@pytest.mark.parametrize(("pods", "trials"), [(2, 4), pytest.param(3, 12, marks=pytest.mark.long)])
def test_a_sweep_on_pods(call, account, machines, tiny_encoder, tmp_path, pods, trials):  # noqa: F811
    (tmp_path / "cluster.yaml").write_text(f"workspace: {machines.volume}\n")
    call("up", "--config", tmp_path / "cluster.yaml", *SIZE, "--pods", pods, "--yes")
    assert "--demo" in call("tune", "--", "--trials", trials, expect=2)
    quick = [*QUICK, "--encoder", tiny_encoder("bert"), "tune.revalidation_seeds=1"]
    said = call("tune", "--demo", "--", "--trials", trials, "--name", "sweep", *quick)
    assert f"--usd-per-hour {0.27 * pods:g}" in said
    job = next(machines.volume.glob("clusters/*/jobs/*/log.txt"), None)
    assert until(lambda: any(machines.volume.glob("runs/sweep/trials/*")), 120), job and job.read_text()
    worker = next(pod for pod in account.living() if "-worker-" in pod.body["name"])
    account.end(worker)
    said = call("logs", seconds=600)
    summary = json.loads((machines.volume / "runs" / "sweep" / "summary.json").read_text())
    assert summary["trials"]["total"] == trials, said
    call("pull", "--into", tmp_path / "here")
    assert json.loads((tmp_path / "here" / "sweep" / "summary.json").read_text()) == summary
    (tmp_path / "other" / "sweep").mkdir(parents=True)
    assert "left as it is" in call("pull", "--into", tmp_path / "other", expect=1)
    assert list((tmp_path / "other" / "sweep").iterdir()) == []
    call("down")
    assert account.living() == []


def test_the_cluster_ends_with_its_job(call, account, machines, tmp_path):  # noqa: F811
    (tmp_path / "cluster.yaml").write_text(f"workspace: {machines.volume}\n")
    call("up", "--config", tmp_path / "cluster.yaml", *SIZE, "--yes")
    call("train", "--demo", "--down-when-done", "--", "--name", "one", "--dry-run", "--encoder", "embedded", *QUICK)
    assert until(lambda: not account.living(), 240), "head and worker have ended themselves"
    done = json.loads(next(machines.volume.glob("clusters/*/DONE.json")).read_text())
    assert "ended with 0" in done["reason"]
    assert time.time() - done["time"] < 240
    call("up", "--config", tmp_path / "cluster.yaml", *SIZE, "--pods", 1, "--yes")
    time.sleep(5)
    assert len(account.living()) == 1, "a new cluster does not end with the former one's job"
    assert "there are: none" in call("logs", "none", expect=2)
    assert "no pod is left" in call("down")


@pytest.mark.long
def test_a_sweep_goes_on_after_down_and_up(call, account, machines, tiny_encoder, tmp_path):  # noqa: F811
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
    said = call("tune", "--demo", "--follow", "--", *tune, "--resume", seconds=400)
    assert "trials have ended before" in said
    assert trial_log.read_text().splitlines()[: len(before) - 1] == before[:-1], "nothing that was known is lost"
    summary = json.loads((trial_log.parent / "summary.json").read_text())
    assert summary["trials"]["total"] == 6
    call("down")
    assert account.living() == []
