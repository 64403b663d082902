"""What the scheduler of a sweep tells the race about a trial."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rainbow_ray.tuning.race_scheduler import DONE, SCORES, RaceScheduler
from rainbow_ray.tuning.trial_log import Trial
from tests.tuning.conftest import scores_of


def test_trials_with_a_score_that_have_ended_count_against_a_new_one(sweep, monkeypatch):
    for number, score in enumerate((0.9, 0.8, None)):
        sweep.trial_log.start(Trial(number, {}))
        sweep.trial_log.end(number, "failed" if score is None else "complete", score=score, seconds=1.0)
    sweep.trial_log.start(Trial(3, {}))
    scheduler = RaceScheduler(sweep)
    scheduler.numbers["a"] = 3
    received: list[dict[str, Any]] = []
    monkeypatch.setattr(scheduler._race, "compare", lambda scores, **options: received.append(options))
    scheduler.on_trial_result(None, SimpleNamespace(trial_id="a"), {DONE: 20.0, SCORES: [scores_of(0.5, 1)]})
    assert [options["n_earlier"] for options in received] == [2]
