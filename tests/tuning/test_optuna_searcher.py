"""The searcher and the scheduler without Ray: proposals, races after a restart, and trial numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest

from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.tuning import trial as trials
from rainbow_ray.tuning.optuna_searcher import DISK_FULL, FAILED, TPESearcher
from rainbow_ray.tuning.race_scheduler import DONE, SCORE, SCORES
from rainbow_ray.tuning.search_space import Space
from rainbow_ray.tuning.sweep_forecast import N_CANDIDATES, SweepForecast
from rainbow_ray.tuning.trial_cost import TrialCost
from rainbow_ray.tuning.trial_log import FULL_BUDGET, TrialLog, is_end_of_fold
from tests.tuning.conftest import N_FOLDS, scores_of, song_context

PROPOSALS = json.loads(Path(__file__).with_name("proposals.json").read_text())


def make_searcher(sweep) -> TPESearcher:
    return TPESearcher(sweep, lambda message: None)


def run(sweep, searcher: TPESearcher, name: str, accuracies: float | list[float], *, first: bool = False) -> int:
    """Run a trial with this accuracy in each fold (see `scores_of`), until it is stopped; return its number."""
    searcher.scheduler.on_trial_add(None, SimpleNamespace(trial_id=name))
    number = searcher.suggest(name)["number"]
    accuracies = [accuracies] * N_FOLDS if isinstance(accuracies, float) else accuracies
    scores = np.full(len(sweep.context.shared.dataset), np.nan, np.float32)
    for fold, accuracy in enumerate(accuracies):
        _, val = sweep.context.train_val_indices[fold]
        scores[val] = scores_of(accuracy, N_FOLDS, first=first)[val]
        save_result(sweep.context.folder_of(number) / f"fold-{fold}", scores[val])
        done = (fold + 1) * FULL_BUDGET / N_FOLDS
        result = {DONE: done, SCORE: float(np.mean(accuracies[: fold + 1])), SCORES: [scores.copy()]}
        if report(searcher, name, result) == "STOP":
            return number
    raise AssertionError("the scheduler did not stop a completed trial")


def save_result(folder: Path, val_scores: np.ndarray) -> None:
    folder.mkdir(parents=True)
    CheckpointManager(folder).save_result({"train": val_scores[:0], "val": val_scores}, {})


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


def score_of(values: dict[str, Any]) -> float:
    rate = 0.05 * math.log10(values.get("training.head_learning_rate", 1e-3))
    pooling = 0.1 * (values.get("model.text_encoder.pooling") == "attention")
    return 0.6 + rate + pooling - 0.5 * values.get("training.weight_decay", 0.05)


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
    accuracy = min(1.0, score_of(values))
    for done in [*sweep.context.rungs, FULL_BUDGET]:
        scores = scores_of(accuracy, done * N_FOLDS / FULL_BUDGET)
        if report(searcher, name, {DONE: done, SCORE: score_of(values), SCORES: [scores]}) == "STOP":
            return


@pytest.mark.skipif(
    optuna.__version__.split(".")[0] != PROPOSALS["optuna"].split(".")[0], reason="another version of the sampler"
)
def test_the_proposals_of_a_seed_are_those_of_earlier_versions(sweep, tmp_path):
    """`proposals.json` was recorded with the searcher of version 0.1, a subclass of Ray's `OptunaSearch`.

    Its states are those of the race, and its proposals those without a choice by cost.
    """
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
    assert run(sweep, searcher, "a", 0.8) == 0
    assert run(sweep, searcher, "b", [0.2, 1.0, 1.0, 1.0, 1.0]) == 1
    pruned = sweep.trial_log.trials[1]
    assert pruned.state == "pruned"
    assert [tuple(report) for report in pruned.reports] == [(20.0, 0.2, 0, pytest.approx(0.8))]
    assert [trial.number for trial in sweep.trial_log.complete(larger_is_better=True)] == [0]
    assert run(sweep, searcher, "c", 0.9) == 2
    assert [trial.number for trial in sweep.trial_log.complete(larger_is_better=True)] == [2, 0]


def test_ties_and_noise_keep_a_trial_alive(sweep):
    searcher = make_searcher(sweep)
    run(sweep, searcher, "a", 0.8)
    run(sweep, searcher, "tie", 0.8)
    run(sweep, searcher, "noise", [0.7, 0.7, 1.0, 1.0, 1.0], first=True)
    assert [trial.state for trial in sweep.trial_log.ended] == ["complete"] * 3


def test_the_race_goes_on_after_a_restart(sweep, tmp_path):
    run(sweep, make_searcher(sweep), "a", 0.8)
    sweep.trial_log = TrialLog(tmp_path / "trials.jsonl")
    restarted = make_searcher(sweep)
    assert run(sweep, restarted, "x", [0.2, 1.0, 1.0, 1.0, 1.0]) == 1
    assert sweep.trial_log.trials[1].state == "pruned"
    states = [trial.state.name for trial in restarted.study.trials]
    assert states == ["COMPLETE", "PRUNED"]


def test_without_pruning_all_trials_complete(sweep):
    sweep.config.tune.prune = False
    searcher = make_searcher(sweep)
    run(sweep, searcher, "a", 0.8)
    run(sweep, searcher, "b", [0.2, 1.0, 1.0, 1.0, 1.0])
    assert sweep.trial_log.trials[1].score == pytest.approx(0.84)
    assert sweep.trial_log.trials[1].reports[0].incumbent_score == pytest.approx(0.8), "shown although it has no effect"


class DropoutCosts:
    """Forecasts that a trial with a dropout above a half takes ten times as long."""

    def forecast(self, config) -> TrialCost:
        return TrialCost(100.0 if config.model.classifier.dropout > 0.5 else 10.0, trains_encoder=False)

    def observe(self, config, work: float, seconds: float) -> None:
        pass


def suggest_dropout(trial) -> None:
    trial.suggest_float("model.classifier.dropout", 0.0, 0.99)


def propose_by_cost(sweep, n_trials: int, budget=None, *, cost_aware: bool = True) -> list[float]:
    """Return the dropouts of proposals, one after the other, each of which scores the same."""
    sweep.space = Space(suggest_dropout, "s", __file__)
    sweep.config.tune.cost_aware, sweep.config.tune.trials, sweep.n_trials = cost_aware, n_trials, n_trials
    sweep.forecast = SweepForecast(DropoutCosts(), sweep.space, sweep.config, 1)
    searcher = TPESearcher(sweep, lambda message: None, budget)
    for i in range(n_trials):
        run(sweep, searcher, f"t{i}", 0.8)
    numbers = sorted(sweep.trial_log.trials)
    assert numbers == list(range(n_trials)), "proposals that were not chosen take no number"
    states = [trial.state.name for trial in searcher.study.trials]
    assert states.count("COMPLETE") == n_trials
    return [sweep.trial_log.trials[number].values["model.classifier.dropout"] for number in numbers[1:]]


def test_cheap_proposals_are_chosen_first_and_costly_ones_later(sweep):
    is_costly = np.array(propose_by_cost(sweep, 60)) > 0.5
    assert is_costly[:20].mean() < 0.25 < is_costly[-15:].mean()


def test_without_cost_aware_search_the_cost_does_not_matter(sweep):
    is_costly = np.array(propose_by_cost(sweep, 40, cost_aware=False)) > 0.5
    assert is_costly[:20].mean() > 0.3


def test_a_trial_that_the_budget_would_stop_is_not_chosen(sweep):
    dropouts = propose_by_cost(sweep, 20, budget=lambda: (0.99, 50.0))
    assert max(dropouts) <= 0.5
    assert len(dropouts) == 19


def test_invalid_proposals_are_not_chosen(sweep):
    def suggest(trial) -> None:
        trial.suggest_int("training.epochs", -5, 15)

    sweep.space, sweep.config.tune.trials, sweep.n_trials = Space(suggest, "s", __file__), 30, 30
    sweep.forecast = SweepForecast(DropoutCosts(), sweep.space, sweep.config, 1)
    searcher = make_searcher(sweep)
    for i in range(30):
        run(sweep, searcher, f"t{i}", 0.8)
    epochs = [trial.values["training.epochs"] for trial in sweep.trial_log.ended if trial.values]
    assert min(epochs) >= 1


def test_trials_that_continue_from_finished_folds_do_not_correct_forecasts(sweep, tmp_path):
    observed: list[int] = []

    def searcher_with_forecast() -> TPESearcher:
        sweep.forecast = SweepForecast(DropoutCosts(), sweep.space, sweep.config, 1)
        sweep.forecast.observe = lambda trial, seconds: observed.append(trial.number)
        return make_searcher(sweep)

    run(sweep, searcher_with_forecast(), "a", 0.8)
    searcher_with_forecast().suggest("interrupted")
    sweep.trial_log = TrialLog(tmp_path / "trials.jsonl")
    assert run(sweep, searcher_with_forecast(), "again", 0.8) == 1
    assert observed == [0]


def test_a_space_sees_the_number_of_its_trial(sweep):
    seen: list[int] = []

    def suggest(trial) -> None:
        trial.suggest_float("model.classifier.dropout", 0.0, 0.5)
        seen.append(trial.number)

    sweep.space, sweep.config.tune.trials = Space(suggest, "s", __file__), 3
    sweep.forecast = SweepForecast(DropoutCosts(), sweep.space, sweep.config, 1)
    searcher = make_searcher(sweep)
    seen.clear()
    run(sweep, searcher, "a", 0.8)
    run(sweep, searcher, "b", 0.8)
    assert seen[-N_CANDIDATES:] == [1] * N_CANDIDATES


@pytest.mark.parametrize("n_folds", range(3, 31))
def test_every_rung_is_reported_for_any_number_of_folds(tmp_path, monkeypatch, n_folds):
    context = song_context(tmp_path, n_folds)
    dataset = context.shared.dataset
    monkeypatch.setattr(trials, "_fit", lambda fit_context, job, *_: dataset.targets[job.val])
    reported: list[float] = []
    trials.run_trial(context, context.shared, 0, {}, lambda percent, *_: reported.append(percent))
    ends = [rung for rung in (*context.rungs, FULL_BUDGET) if is_end_of_fold(rung, n_folds)]
    assert len(ends) == n_folds
    assert reported == pytest.approx(ends), "this fit reports nothing before its end"
    assert all(is_end_of_fold(percent, n_folds) for percent in reported)


def test_trial_numbers_are_unique(sweep, tmp_path):
    searcher = make_searcher(sweep)
    run(sweep, searcher, "a", 0.8)
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
