"""A sweep whose driver, actors and Ray session are killed at random times loses no result.

Trials and folds that were finished before a kill are unchanged afterwards; the others run when the sweep is resumed;
and the score of each trial equals that of an undisturbed run of the same config.
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
from tests.fault_injection.test_ray_kills import child_processes
from tests.test_tune import KEYS, call, command, start  # noqa: F401

pytestmark = pytest.mark.slow

MAX_KILL_DELAY = 6.0  # seconds at most between the first trial after a start and the kill
VICTIMS = ("driver", "actor", "session")
# long enough for kills in each state of a trial; without pruning, so that scores do not depend on the order of trials
LONG_TRIALS = ["training.epochs=40", "tune.prune=false", "training.checkpoint_seconds=0.2", "tune.revalidation_seeds=1",
               "logging.report=false"]  # fmt: skip


@pytest.fixture(scope="module")
def sweep_command(command) -> list[str]:  # noqa: F811
    arguments = [part for part in command if part not in ("training.epochs=4", "tune.revalidation_seeds=1")]
    return [*arguments, *LONG_TRIALS, "--name", "s"]


def finished_folds(folder: Path) -> dict[str, bytes]:
    """Return the result files of finished folds, by their paths in the folder."""
    files = folder.glob("trials/*/fold-*/result.npz")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def ended_trials(folder: Path) -> dict[int, object]:
    path = folder / "trials.jsonl"
    return {trial.number: trial for trial in TrialLog(path).ended} if path.exists() else {}


def log_size(folder: Path) -> int:
    path = folder / "trials.jsonl"
    return path.stat().st_size if path.exists() else 0


def wait_for_trial(process: subprocess.Popen, folder: Path, log_size_before: int) -> None:
    """Wait until the sweep has logged an event after its start, or has ended."""
    deadline = time.monotonic() + 300
    while process.poll() is None and log_size(folder) <= log_size_before and not (folder / "trials.csv").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_results_unchanged(
    folder: Path, expected_folds: dict[str, bytes], expected_trials: dict[int, object]
) -> None:
    folds_now, trials_now = finished_folds(folder), ended_trials(folder)
    assert {name: folds_now.get(name) for name in expected_folds} == expected_folds, (
        "a finished fold was lost or written again"
    )
    assert {number: trials_now.get(number) for number in expected_trials} == expected_trials, (
        "a finished trial was lost or logged again"
    )


def kill_victim(process: subprocess.Popen, victim: str) -> bool:
    """Send SIGKILL to the driver, one actor, or all of Ray's processes; return whether a process was killed."""
    if victim == "driver":
        process.send_signal(signal.SIGKILL)
        return True
    title = "ImplicitFunc" if victim == "actor" else ""
    is_killed, deadline = False, time.monotonic() + 60
    while not child_processes(process, title) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)  # the trial is logged before its actor starts
    for child in child_processes(process, title)[: 1 if victim == "actor" else None]:
        with contextlib.suppress(psutil.Error):
            child.kill()
            is_killed = True
    return is_killed


def test_no_finished_trial_and_no_finished_fold_is_lost(sweep_command, tmp_path, kills):
    """24 kills with `--kills 10` (`make campaign`), else 3: one of each kind of victim."""
    rng = random.Random(kills)
    folder = tmp_path / "runs" / "s"
    n_planned_kills = 3 + 7 * (kills - 1) // 3
    n_trials = 5 + 3 * n_planned_kills
    sweep_command = [*sweep_command, "--trials", str(n_trials)]
    n_kills, folds, trials = 0, finished_folds(folder), ended_trials(folder)
    process, log_size_before = start(tmp_path, *sweep_command), 0
    for number in range(n_planned_kills):
        wait_for_trial(process, folder, log_size_before)
        time.sleep(rng.uniform(0.0, MAX_KILL_DELAY))
        assert_results_unchanged(folder, folds, trials)
        if process.poll() is not None:
            break
        victim = VICTIMS[number % len(VICTIMS)]
        n_kills += kill_victim(process, victim)
        if victim != "actor":  # the sweep itself replaces a lost actor
            process.communicate(timeout=500)
            process = start(tmp_path, *sweep_command, "--resume")
        folds, trials, log_size_before = finished_folds(folder), ended_trials(folder), log_size(folder)
    _, stderr = process.communicate(timeout=600)
    if process.returncode != 0:  # the last kill was that of the session
        assert "Traceback" not in stderr, stderr
        call(tmp_path, *sweep_command, "--resume")
    assert_results_unchanged(folder, folds, trials)
    assert n_kills >= n_planned_kills * 5 // 6
    trial_log = TrialLog(folder / "trials.jsonl")
    assert sorted(trial_log.trials) == list(range(n_trials))
    assert {trial.state for trial in trial_log.ended} <= {"complete", "failed"}
    assert len(trial_log.ended) == n_trials
    for trial in trial_log.ended:
        if trial.state == "complete":
            assert trial.reports[-1][:2] == (FULL_BUDGET, trial.score)
            assert len(list((folder / "trials" / f"{trial.number:04d}").glob("fold-*/result.npz"))) == 3
    print(f"{n_kills} kills; {len(trial_log.ended)} trials")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["trials"]["total"] == n_trials
    assert_scores_of_undisturbed_trials(trial_log, folder)


def assert_scores_of_undisturbed_trials(trial_log: TrialLog, folder: Path) -> None:
    """Check that the scores of up to three trials equal those of undisturbed trials of the same configs."""
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
    fit_context = FitContext(plan.config, data.source, plan.task, plan.input_spec, "id")
    context = TrialContext(
        fit_context, [data.split.train_val_indices(fold) for fold in range(3)], (), folder.parent / "again"
    )
    for trial in [trial for trial in trial_log.ended if trial.state == "complete"][:3]:
        scores: list[float] = []
        run_trial(
            context, fit_context, trial.number, trial.values, lambda _, score, __, into=scores: into.append(score)
        )
        assert scores[-1] == pytest.approx(trial.score, abs=1e-6)
