"""The scheduler of a sweep: it stops the trials that lose the race.

It is rebuilt from the trial log at each start of a sweep. Ray Tune's own state is not used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from typing_extensions import override

from rainbow_ray.tuning.racing import Comparison, Race
from rainbow_ray.tuning.sweep import Sweep
from rainbow_ray.tuning.trial import out_of_fold
from rainbow_ray.tuning.trial_log import FULL_BUDGET, is_end_of_fold

# Keys of the results that trials report to Ray Tune, which takes a result with the key `done` for the last one. SCORES
# holds the scores of all examples so far, in a list, so that Ray Tune does not look into the array.
DONE, SCORE, SCORES = "work_done", "score", "scores"


class RaceScheduler(FIFOScheduler):  # type: ignore[misc]
    """Stops a trial once it is unlikely to become the best one.

    Args:
        sweep: The sweep. With `tune.prune` off, no trial is stopped before its end.

    Attributes:
        stopped: Ray Tune's ids of the trials that were stopped early.
        comparisons: Newest comparison of each trial with the best complete one, if any, by Ray Tune's id.
        numbers: Number of each trial by Ray Tune's id, which the searcher enters.
    """

    def __init__(self, sweep: Sweep) -> None:
        super().__init__()
        self.stopped: set[str] = set()
        self.comparisons: dict[str, Comparison | None] = {}
        self.numbers: dict[str, int] = {}
        self._sweep, self._prunes = sweep, sweep.config.tune.prune
        self._n_folds = len(sweep.context.train_val_indices)
        self._in_first_fold: dict[int, dict[float, np.ndarray]] = {}  # scores by trial and fraction
        self._race = Race(
            sweep.context.shared, sweep.context.train_val_indices, alpha=sweep.config.tune.race_alpha,
            larger_is_better=sweep.larger_is_better,
        )  # fmt: skip
        for trial in sweep.trial_log.complete(larger_is_better=sweep.larger_is_better):
            scores = out_of_fold(sweep.context, trial.number)
            if scores is not None and trial.score is not None:
                self._race.add_complete(trial.number, trial.score, scores)
                break  # they come in the order of their scores

    @override
    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        trial_id, percent, container = trial.trial_id, result.get(DONE, FULL_BUDGET), result.get(SCORES, [None])
        scores, container[0] = container[0], None  # Ray Tune keeps the last result of each trial
        if scores is None:  # the trial failed, or Ray Tune repeats its last result
            return str(TrialScheduler.CONTINUE)
        number, is_complete = self.numbers[trial_id], percent >= FULL_BUDGET
        fraction = None if is_end_of_fold(percent, self._n_folds) else percent * self._n_folds / FULL_BUDGET
        if fraction is not None:
            self._in_first_fold.setdefault(number, {})[fraction] = scores
        comparison = self._race.compare(
            scores, fraction=fraction, relative_cost=self._relative_cost(number, percent),
            n_earlier=sum(ended.score is not None for ended in self._sweep.trial_log.ended),
            decide=self._prunes and not is_complete,
        )  # fmt: skip
        self.comparisons[trial_id] = comparison
        if is_complete:
            self._race.add_complete(number, result[SCORE], scores, self._in_first_fold.pop(number, {}))
            return str(TrialScheduler.STOP)
        if comparison is None or not comparison.loses:
            return str(TrialScheduler.CONTINUE)
        self._in_first_fold.pop(number, None)
        self.stopped.add(trial_id)
        return str(TrialScheduler.STOP)

    def _relative_cost(self, number: int, percent: float) -> float:
        """Return what is left of a trial in relation to a usual one; 1 where the cost does not count."""
        forecast = self._sweep.forecast
        if forecast is None or not self._sweep.config.tune.cost_aware:
            return 1.0
        return forecast.relative_cost(self._sweep.trial_log.trials[number].values, percent / FULL_BUDGET)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as of the searcher
