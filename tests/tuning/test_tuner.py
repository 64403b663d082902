"""What proposes and stops trials, without Ray: rungs after a restart, numbers, budgets."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rainbow_ray.config.schema import Config, TrainingConfig
from rainbow_ray.training.cross_validation import FitContext
from rainbow_ray.tuning import trial as trials
from rainbow_ray.tuning.search_space import Space
from rainbow_ray.tuning.trial import make_rungs
from rainbow_ray.tuning.trial_log import FULL_BUDGET, Trial, TrialLog
from rainbow_ray.tuning.tuner import DONE, SCORE, AshaScheduler, KeepBest, Searcher, SweepStopper


@pytest.fixture
def sweep(tmp_path):
    def suggest(trial):
        trial.suggest_float("training.head_learning_rate", 1e-4, 1e-2, log=True)

    rungs = make_rungs(5, 3.0)
    context = SimpleNamespace(
        rungs=rungs, folder=tmp_path / "trials", folder_of=lambda number: tmp_path / "trials" / f"{number:04d}"
    )
    context.folder.mkdir()
    return SimpleNamespace(
        config=Config(), space=Space(suggest, "test:space", __file__), context=context, larger_is_better=True,
        trial_log=TrialLog(tmp_path / "trials.jsonl"),
    )  # fmt: skip


def run(sweep, search: Searcher, name: str, scores: list[float]) -> int:
    """A trial that reports these scores at the rungs and its end; ends when it is stopped. Returns its number."""
    search.scheduler.on_trial_add(None, SimpleNamespace(trial_id=name))
    number = search.suggest(name)["number"]
    for done, score in zip([*sweep.context.rungs, FULL_BUDGET], scores, strict=True):
        result = {DONE: done, SCORE: score}
        decision = search.scheduler.on_trial_result(None, SimpleNamespace(trial_id=name), result)
        if decision == "STOP":
            search.on_trial_complete(name, result)
            return number
        search.on_trial_result(name, result)
    raise AssertionError("a whole trial is stopped by its end")


def test_a_trial_that_is_behind_is_pruned_and_cannot_win(sweep):
    search = Searcher(sweep, SweepStopper(sweep, None))
    assert run(sweep, search, "a", [0.8, 0.8, 0.8]) == 0
    assert run(sweep, search, "b", [0.5, 0.9, 0.95]) == 1
    assert sweep.trial_log.trials[1].state == "pruned"
    assert len(sweep.trial_log.trials[1].reports) == 1
    assert [trial.number for trial in sweep.trial_log.complete(larger_is_better=True)] == [0]
    assert run(sweep, search, "c", [0.85, 0.9, 0.9]) == 2
    assert [trial.number for trial in sweep.trial_log.complete(larger_is_better=True)] == [2, 0]


def test_rungs_are_as_they_were_after_a_restart(sweep, tmp_path):
    run(sweep, Searcher(sweep, SweepStopper(sweep, None)), "a", [0.8, 0.8, 0.8])
    sweep.trial_log = TrialLog(tmp_path / "trials.jsonl")
    again = Searcher(sweep, SweepStopper(sweep, None))
    assert run(sweep, again, "x", [0.5, 0.9, 0.95]) == 1
    assert sweep.trial_log.trials[1].state == "pruned"
    states = [trial.state.name for trial in again._ot_study.trials]
    assert states == ["COMPLETE", "PRUNED"]


def test_without_pruning_all_run_to_their_end(sweep):
    sweep.config.tune.prune = False
    search = Searcher(sweep, SweepStopper(sweep, None))
    run(sweep, search, "a", [0.8, 0.8, 0.8])
    run(sweep, search, "b", [0.5, 0.9, 0.95])
    assert sweep.trial_log.trials[1].score == 0.95


class Songs:
    """One song a fold."""

    songs = None

    def __init__(self, folds: int) -> None:
        self.targets = np.zeros(folds)

    def __len__(self) -> int:
        return len(self.targets)


@pytest.mark.parametrize("folds", range(3, 31))
def test_every_rung_is_met_with_any_number_of_folds(sweep, monkeypatch, folds):
    sweep.context.rungs = make_rungs(folds, 3.0)
    task = SimpleNamespace(metric=lambda *_: 0.5, score_names=("score",), threshold_metrics=frozenset(), name="binary")
    shared: Any = FitContext(Config(training=TrainingConfig(metric="macro_f1")), Songs(folds), task, "", "id")
    sides = [(np.array([], int), np.array([k])) for k in range(folds)]
    context = trials.TrialContext(shared, sides, sweep.context.rungs, sweep.context.folder)
    monkeypatch.setattr(trials, "_fit", lambda *_: np.zeros(1, np.float32))
    scheduler, one = AshaScheduler(sweep, "max"), SimpleNamespace(trial_id="one")
    scheduler.on_trial_add(None, one)

    def report(done: float, score: float) -> None:
        scheduler.on_trial_result(None, one, {DONE: done, SCORE: score})

    trials.run_trial(context, shared, 0, {}, report)
    (bracket,) = scheduler._brackets
    assert len(bracket._rungs) >= len(sweep.context.rungs)
    assert all("one" in recorded for milestone, recorded in bracket._rungs if milestone < FULL_BUDGET - 1e-6)


def test_numbers_are_never_given_twice(sweep, tmp_path):
    search = Searcher(sweep, SweepStopper(sweep, None))
    run(sweep, search, "a", [0.8, 0.8, 0.8])
    with sweep.trial_log.path.open("a") as file:
        file.write('{"event": "end", "trial": 5, "state": "complete", "score": 1.0, "seconds": 1.0, "reason": ""}\n')
    (sweep.context.folder / "0007").mkdir()
    sweep.trial_log = TrialLog(tmp_path / "trials.jsonl")
    assert 5 not in sweep.trial_log.trials, "nobody knows what it was"
    assert Searcher(sweep, SweepStopper(sweep, None)).suggest("next")["number"] == 8


def test_the_budget_keeps_what_the_end_will_take(sweep):
    halt = SweepStopper(sweep, 100.0)
    assert not halt.stop_all()
    for number, score, seconds in ((0, 0.7, 1.0), (1, 0.8, 41.0)):
        sweep.trial_log.start(Trial(number, {}))
        sweep.trial_log.end(number, "complete", score=score, seconds=seconds)
    assert halt.stop_all(), "three fresh splits of a trial that takes 40 s more do not fit into 100 s"
    assert halt.is_over
    assert not SweepStopper(sweep, None).stop_all()
    late = SweepStopper(sweep, 0.0)
    time.sleep(0.01)
    assert late.stop_all()


def test_a_full_disk_ends_it(sweep):
    halt = SweepStopper(sweep, None)
    search = Searcher(sweep, halt)
    search.suggest("a")
    search.on_trial_result("a", {DONE: 0.0, "no_space": "No space left on device"})
    assert halt.stop_all()
    assert not halt.is_over
    assert not sweep.trial_log.trials[0].ended, "it is run again"


def test_the_best_few_keep_their_models(sweep):
    sweep.config.tune.keep_best_models = 1
    keep = KeepBest(sweep)
    sweep.trial_log.watchers.append(keep)
    for number, score in enumerate([0.7, 0.9, 0.8]):
        folder = sweep.context.folder_of(number) / "fold-0"
        folder.mkdir(parents=True)
        (folder / "model.pt").touch()
        (folder / "result.npz").touch()
        sweep.trial_log.start(Trial(number, {}))
        sweep.trial_log.end(number, "complete", score=score, seconds=1.0)
    assert [path.parent.parent.name for path in sorted(sweep.context.folder.glob("*/*/model.pt"))] == ["0001"]
    assert len(list(sweep.context.folder.glob("*/*/result.npz"))) == 3
