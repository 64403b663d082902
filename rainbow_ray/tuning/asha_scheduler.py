"""The scheduler of a sweep: asynchronous successive halving (ASHA), which stops trials that fall behind.

It is rebuilt from the trial log at each start of a sweep. Ray Tune's own state is not used.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from typing_extensions import override

from rainbow_ray.tuning.sweep import Sweep
from rainbow_ray.tuning.trial_log import FULL_BUDGET

# keys of the results that trials report to Ray Tune, which takes a result with the key `done` for the last one
DONE, SCORE = "work_done", "score"


class AshaScheduler(AsyncHyperBandScheduler):  # type: ignore[misc]
    """Asynchronous successive halving over the work done, with the rungs as the trials in the log left them.

    Args:
        sweep: The sweep. With `tune.prune` off, no trial is stopped before its end.

    Attributes:
        stopped: Ray Tune's ids of the trials that were stopped early.

    Reference:
        Li et al. 2020, "A system for massively parallel hyperparameter tuning", algorithm 2.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.stopped: set[str] = set()
        self._prunes = sweep.config.tune.prune
        super().__init__(
            time_attr=DONE,
            metric=SCORE,
            mode="max" if sweep.larger_is_better else "min",
            max_t=FULL_BUDGET,
            grace_period=sweep.context.rungs[0],
            reduction_factor=sweep.config.tune.reduction_factor,
        )
        for trial in sweep.trial_log.ended:
            earlier_trial = SimpleNamespace(trial_id=f"earlier-{trial.number}")
            self.on_trial_add(None, earlier_trial)
            for percent, score in trial.reports:
                super().on_trial_result(None, earlier_trial, {DONE: percent, SCORE: score})

    @override
    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = str(super().on_trial_result(tune_controller, trial, result))
        if decision != TrialScheduler.STOP or result.get(DONE, FULL_BUDGET) >= FULL_BUDGET:
            return decision
        if not self._prunes:
            return str(TrialScheduler.CONTINUE)
        self.stopped.add(trial.trial_id)
        return decision

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as of the searcher
