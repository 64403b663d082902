"""Conditions that stop a sweep, and the trials that keep their models, without Ray."""

from __future__ import annotations

import math
import time

import pytest

from rainbow_ray.tuning.trial_log import Trial
from rainbow_ray.tuning.tuner import KeepBest, SweepStopper


def test_the_budget_leaves_time_for_fresh_splits_and_the_best_run(sweep):
    stopper = SweepStopper(sweep, 100.0)
    assert not stopper.stop_all()
    for number, score, seconds in ((0, 0.7, 1.0), (1, 0.8, 41.0)):
        sweep.trial_log.start(Trial(number, {}))
        sweep.trial_log.end(number, "complete", score=score, seconds=seconds)
    assert stopper.stop_all(), "three fresh splits of a trial of about 40 s do not fit into 100 s"
    assert stopper.is_out_of_time
    assert not SweepStopper(sweep, None).stop_all()
    out_of_time = SweepStopper(sweep, 0.0)
    time.sleep(0.01)
    assert out_of_time.stop_all()


def test_the_budget_is_spent_up_to_what_the_end_needs(sweep):
    assert SweepStopper(sweep, None).budget() == (0.0, math.inf)
    fraction, seconds = SweepStopper(sweep, 100.0).budget()
    assert fraction == pytest.approx(0.0, abs=0.01)
    assert seconds == pytest.approx(100.0, abs=1.0)
    for number, score, duration in ((0, 0.7, 1.0), (1, 0.8, 11.0)):
        sweep.trial_log.start(Trial(number, {}))
        sweep.trial_log.end(number, "complete", score=score, seconds=duration)
    _, seconds = SweepStopper(sweep, 100.0).budget()
    assert seconds == pytest.approx(100.0 - 4.5 * 10, abs=1.0), "three fresh splits and the run of the best config"


def test_a_full_disk_stops_all_trials(sweep):
    stopper = SweepStopper(sweep, None)
    stopper.stop_for_full_disk("No space left on device")
    assert stopper.stop_all()
    assert not stopper.is_out_of_time


def test_only_the_best_trials_keep_their_models(sweep):
    sweep.config.tune.keep_best_models = 1
    sweep.trial_log.watchers.append(KeepBest(sweep))
    for number, score in enumerate([0.7, 0.9, 0.8]):
        folder = sweep.context.folder_of(number) / "fold-0"
        folder.mkdir(parents=True)
        (folder / "model.pt").touch()
        (folder / "result.npz").touch()
        sweep.trial_log.start(Trial(number, {}))
        sweep.trial_log.end(number, "complete", score=score, seconds=1.0)
    assert [path.parent.parent.name for path in sorted(sweep.context.folder.glob("*/*/model.pt"))] == ["0001"]
    assert len(list(sweep.context.folder.glob("*/*/result.npz"))) == 3
