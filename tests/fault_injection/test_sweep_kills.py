"""A sweep under fire: driver, actors and the whole Ray session are killed at random instants, and nothing is lost.

What was finished before a kill, trials and folds, is there afterwards, untouched; the rest is run when the sweep goes
on; and each trial's score is the one that the same config gets undisturbed.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from rainbow_ray.tuning.trial_log import FULL_BUDGET, TrialLog
from tests.fault_injection.test_ray_kills import processes
from tests.test_tune import KEYS, call, command, start  # noqa: F401

pytestmark = pytest.mark.slow

STARTS = 6.0  # seconds at most between a start's first trial and the blow
VICTIMS = ("driver", "actor", "session")
# long enough that a kill meets trials in each state; pruning off, so that scores do not depend on who came first
LONGER = ["training.epochs=40", "tune.prune=false", "training.checkpoint_seconds=0.2", "tune.revalidation_seeds=1",
          "logging.report=false"]  # fmt: skip


@pytest.fixture(scope="module")
def sweep_command(command) -> list[str]:  # noqa: F811
    mine = [part for part in command if part not in ("training.epochs=4", "tune.revalidation_seeds=1")]
    return [*mine, *LONGER, "--name", "s"]


def finished(folder: Path) -> dict[str, bytes]:
    """Results of folds, by their place."""
    files = folder.glob("trials/*/fold-*/result.npz")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def ended(folder: Path) -> dict[int, object]:
    path = folder / "trials.jsonl"
    return {trial.number: trial for trial in TrialLog(path).ended} if path.exists() else {}


def size(folder: Path) -> int:
    path = folder / "trials.jsonl"
    return path.stat().st_size if path.exists() else 0


def in_a_trial(process: subprocess.Popen, folder: Path, seen: int) -> None:
    """Wait until this start of a sweep has told something of a trial, or is at its end."""
    deadline = time.monotonic() + 300
    while process.poll() is None and size(folder) <= seen and not (folder / "trials.csv").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_kept(folder: Path, folds: dict[str, bytes], trials: dict[int, object]) -> None:
    still, now = finished(folder), ended(folder)
    assert {name: still.get(name) for name in folds} == folds, "a finished fold was lost or written anew"
    assert {n: now.get(n) for n in trials} == trials, "a finished trial was lost or told anew"


def strike(process: subprocess.Popen, victim: str) -> bool:
    """SIGKILL to the driver, to one actor, or to all of Ray's processes; whether there was one to be killed."""
    if victim == "driver":
        process.send_signal(signal.SIGKILL)
        return True
    title = "ImplicitFunc" if victim == "actor" else ""
    struck, deadline = False, time.monotonic() + 60
    while not processes(process, title) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)  # a trial has begun, and its actor starts
    for found in processes(process, title)[: 1 if victim == "actor" else None]:
        with contextlib.suppress(psutil.Error):
            found.kill()
            struck = True
    return struck


def test_no_finished_trial_and_no_finished_fold_is_lost(sweep_command, tmp_path, kills):
    """With `--kills 10`, as `make campaign` has it, 24 kills; as a slow test 3, one of each victim."""
    rng = random.Random(kills)
    folder = tmp_path / "runs" / "s"
    wanted = 3 + 7 * (kills - 1) // 3
    trials_wanted = 5 + 3 * wanted
    sweep_command = [*sweep_command, "--trials", str(trials_wanted)]
    done, folds, trials = 0, finished(folder), ended(folder)
    process, seen = start(tmp_path, *sweep_command), 0
    for number in range(wanted):
        in_a_trial(process, folder, seen)
        time.sleep(rng.uniform(0.0, STARTS))
        assert_kept(folder, folds, trials)
        if process.poll() is not None:
            break
        victim = VICTIMS[number % len(VICTIMS)]
        done += strike(process, victim)
        if victim != "actor":  # without an actor the sweep goes on by itself
            process.communicate(timeout=500)
            process = start(tmp_path, *sweep_command, "--resume")
        folds, trials, seen = finished(folder), ended(folder), size(folder)
    _, err = process.communicate(timeout=600)
    if process.returncode != 0:  # the last blow was the session's
        assert "Traceback" not in err, err
        call(tmp_path, *sweep_command, "--resume")
    assert_kept(folder, folds, trials)
    assert done >= wanted * 5 // 6
    trial_log = TrialLog(folder / "trials.jsonl")
    assert sorted(trial_log.trials) == list(range(trials_wanted))
    assert {trial.state for trial in trial_log.ended} <= {"complete", "failed"}
    assert len(trial_log.ended) == trials_wanted
    for trial in trial_log.ended:
        if trial.state == "complete":
            assert trial.reports[-1] == (FULL_BUDGET, trial.score)
            assert len(list((folder / "trials" / f"{trial.number:04d}").glob("fold-*/result.npz"))) == 3
    print(f"{done} kills; {len(trial_log.ended)} trials")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["trials"]["total"] == trials_wanted
    assert_undisturbed(trial_log, folder)


def assert_undisturbed(trial_log: TrialLog, folder: Path) -> None:
    """Trials that were killed have the numbers that the same config gets when nobody kills it."""
    import yaml

    from rainbow_ray.config.load import Resolved
    from rainbow_ray.config.schema import Config
    from rainbow_ray.setup.plan import make_plan
    from rainbow_ray.training.cross_validation import FitContext
    from rainbow_ray.tuning.trial import TrialContext, run_trial
    from tests.helpers import data_of

    config = Config.model_validate(yaml.safe_load((folder / "config.yaml").read_text()))
    plan = make_plan(Resolved(config=config, user_keys=frozenset()))
    data = data_of(plan)
    shared = FitContext(plan.config, data.source, plan.task, plan.reading, "id")
    context = TrialContext(shared, [data.split.train_val_indices(k) for k in range(3)], (), folder.parent / "again")
    for trial in [trial for trial in trial_log.ended if trial.state == "complete"][:3]:
        scores: list[float] = []
        run_trial(context, shared, trial.number, trial.values, lambda done, score, kept=scores: kept.append(score))
        assert scores[-1] == pytest.approx(trial.score, abs=1e-6)
