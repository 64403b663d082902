"""The searcher and the scheduler without Ray: proposals, rungs after a restart, and trial numbers."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest

from rainbow_ray.config.schema import Config, TrainingConfig
from rainbow_ray.training.cross_validation import FitContext
from rainbow_ray.tuning import trial as trials
from rainbow_ray.tuning.asha_scheduler import DONE, SCORE, AshaScheduler
from rainbow_ray.tuning.optuna_searcher import DISK_FULL, FAILED, TPESearcher
from rainbow_ray.tuning.search_space import Space
from rainbow_ray.tuning.trial import make_rungs
from rainbow_ray.tuning.trial_log import FULL_BUDGET, TrialLog

PROPOSALS = json.loads(Path(__file__).with_name("proposals.json").read_text())


def make_searcher(sweep) -> TPESearcher:
    return TPESearcher(sweep, lambda message: None)


def run(sweep, searcher: TPESearcher, name: str, scores: list[float]) -> int:
    """Run a trial that reports these scores at the rungs and at its end, until it is stopped; return its number."""
    searcher.scheduler.on_trial_add(None, SimpleNamespace(trial_id=name))
    number = searcher.suggest(name)["number"]
    for done, score in zip([*sweep.context.rungs, FULL_BUDGET], scores, strict=True):
        if report(searcher, name, {DONE: done, SCORE: score}) == "STOP":
            return number
    raise AssertionError("the scheduler did not stop a completed trial")


def report(searcher: TPESearcher, name: str, result: dict[str, Any]) -> str:
    """Report a result as Ray Tune does; return the scheduler's decision."""
    decision = searcher.scheduler.on_trial_result(None, SimpleNamespace(trial_id=name), result)
    (searcher.on_trial_complete if decision == "STOP" else searcher.on_trial_result)(name, result)
    return decision


def suggest_conditionally(trial):
    trial.suggest_float("training.head_learning_rate", 1e-4, 1e-2, log=True)
    trial.suggest_int("training.batch_size", 4, 32, step=4)
    pooling = trial.suggest_categorical("model.text_encoder.pooling", ["mean", "cls", "attention"])
    if pooling != "cls":
        trial.suggest_float("training.weight_decay", 0.0, 0.1)
    return {"training.epochs": 3}


def score_of(values: dict[str, Any], done: float) -> float:
    rate = 0.05 * math.log10(values.get("training.head_learning_rate", 1e-3))
    pooling = 0.1 * (values.get("model.text_encoder.pooling") == "attention")
    return 0.6 + rate + pooling - 0.5 * values.get("training.weight_decay", 0.05) + done / 1000


def propose(sweep, prefix: str, n_trials: int) -> list[list[Any]]:
    """Propose trials, three running at a time, and leave the last two running; return numbers and values."""
    searcher, running, proposals = make_searcher(sweep), [], []
    for i in range(n_trials):
        name = f"{prefix}{i}"
        searcher.scheduler.on_trial_add(None, SimpleNamespace(trial_id=name))
        proposal = searcher.suggest(name)
        proposals.append([proposal["number"], proposal["values"]])
        running.append(name)
        if len(running) == 3:
            finish(sweep, searcher, running.pop(0))
    return proposals


def finish(sweep, searcher: TPESearcher, name: str) -> None:
    number = searcher.numbers[name]
    if number % 7 == 5:
        searcher.on_trial_complete(name, {DONE: 0.0, FAILED: "the loss is not finite"})
        return
    values = sweep.trial_log.trials[number].values
    for done in [*sweep.context.rungs, FULL_BUDGET]:
        if report(searcher, name, {DONE: done, SCORE: score_of(values, done)}) == "STOP":
            return


@pytest.mark.skipif(
    optuna.__version__.split(".")[0] != PROPOSALS["optuna"].split(".")[0], reason="another version of the sampler"
)
def test_the_proposals_of_a_seed_are_those_of_earlier_versions(sweep, tmp_path):
    """`proposals.json` was recorded with the searcher of version 0.1, a subclass of Ray's `OptunaSearch`."""
    sweep.space = Space(suggest_conditionally, "test:space", __file__)
    for start, prefix, n_trials in (("first_start", "a", 20), ("second_start", "b", 8)):
        proposals = propose(sweep, prefix, n_trials)
        assert [number for number, _ in proposals] == [number for number, _ in PROPOSALS[start]]
        for (_, values), (_, expected) in zip(proposals, PROPOSALS[start], strict=True):
            assert values.keys() == expected.keys()
            for key, value in expected.items():
                assert values[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-9))
        sweep.trial_log = TrialLog(tmp_path / "trials.jsonl")
    assert {str(number): trial.state for number, trial in sweep.trial_log.trials.items()} == PROPOSALS["states"]


def test_a_worse_trial_is_pruned_and_cannot_be_selected(sweep):
    searcher = make_searcher(sweep)
    assert run(sweep, searcher, "a", [0.8, 0.8, 0.8]) == 0
    assert run(sweep, searcher, "b", [0.5, 0.9, 0.95]) == 1
    assert sweep.trial_log.trials[1].state == "pruned"
    assert len(sweep.trial_log.trials[1].reports) == 1
    assert [trial.number for trial in sweep.trial_log.complete(larger_is_better=True)] == [0]
    assert run(sweep, searcher, "c", [0.85, 0.9, 0.9]) == 2
    assert [trial.number for trial in sweep.trial_log.complete(larger_is_better=True)] == [2, 0]


def test_rungs_are_restored_after_a_restart(sweep, tmp_path):
    run(sweep, make_searcher(sweep), "a", [0.8, 0.8, 0.8])
    sweep.trial_log = TrialLog(tmp_path / "trials.jsonl")
    restarted = make_searcher(sweep)
    assert run(sweep, restarted, "x", [0.5, 0.9, 0.95]) == 1
    assert sweep.trial_log.trials[1].state == "pruned"
    states = [trial.state.name for trial in restarted.study.trials]
    assert states == ["COMPLETE", "PRUNED"]


def test_without_pruning_all_trials_complete(sweep):
    sweep.config.tune.prune = False
    searcher = make_searcher(sweep)
    run(sweep, searcher, "a", [0.8, 0.8, 0.8])
    run(sweep, searcher, "b", [0.5, 0.9, 0.95])
    assert sweep.trial_log.trials[1].score == 0.95


class OneSongPerFold:
    """A dataset with one song per fold."""

    songs = None

    def __init__(self, folds: int) -> None:
        self.targets = np.zeros(folds)

    def __len__(self) -> int:
        return len(self.targets)


@pytest.mark.parametrize("folds", range(3, 31))
def test_every_rung_is_reported_for_any_number_of_folds(sweep, monkeypatch, folds):
    sweep.context.rungs = make_rungs(folds, 3.0)
    task = SimpleNamespace(
        metric=lambda *_: 0.5, score_names=("score",), score_dtype=np.float32, threshold_metrics=frozenset()
    )
    fit_context: Any = FitContext(
        Config(training=TrainingConfig(metric="macro_f1")), OneSongPerFold(folds), task, "", "id"
    )
    fold_indices = [(np.array([], int), np.array([k])) for k in range(folds)]
    context = trials.TrialContext(fit_context, fold_indices, sweep.context.rungs, sweep.context.folder)
    monkeypatch.setattr(trials, "_fit", lambda *_: np.zeros(1, np.float32))
    scheduler, trial = AshaScheduler(sweep), SimpleNamespace(trial_id="one")
    scheduler.on_trial_add(None, trial)

    def report(done: float, score: float) -> None:
        scheduler.on_trial_result(None, trial, {DONE: done, SCORE: score})

    trials.run_trial(context, fit_context, 0, {}, report)
    cutoffs = {float(done): cutoff for done, cutoff in re.findall(r"Iter ([\d.]+): (\S+)", scheduler.debug_string())}
    assert len(cutoffs) >= len(sweep.context.rungs)
    assert all(cutoff != "None" for done, cutoff in cutoffs.items() if done < FULL_BUDGET - 1e-3), "no report at a rung"


def test_trial_numbers_are_unique(sweep, tmp_path):
    searcher = make_searcher(sweep)
    run(sweep, searcher, "a", [0.8, 0.8, 0.8])
    with sweep.trial_log.path.open("a") as file:
        file.write('{"event": "end", "trial": 5, "state": "complete", "score": 1.0, "seconds": 1.0, "reason": ""}\n')
    (sweep.context.folder / "0007").mkdir()
    sweep.trial_log = TrialLog(tmp_path / "trials.jsonl")
    assert 5 not in sweep.trial_log.trials, "its start is missing in the log"
    assert make_searcher(sweep).suggest("next")["number"] == 8


def test_a_full_disk_is_reported_and_the_trial_stays_unfinished(sweep):
    messages: list[str] = []
    searcher = TPESearcher(sweep, messages.append)
    searcher.suggest("a")
    searcher.on_trial_result("a", {DONE: 0.0, DISK_FULL: "No space left on device"})
    assert messages == ["No space left on device"]
    assert not sweep.trial_log.trials[0].ended, "the next start runs it again"
