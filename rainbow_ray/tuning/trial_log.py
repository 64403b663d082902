"""The log of a sweep, `trials.jsonl`: one line for each event of a trial.

A line is an object with `event` and `trial`: `start` (values, parameters and their distributions), `report` (done,
score, incumbent and its score) or `end` (state, score, seconds, reason). A sweep is resumed from this file alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rainbow_ray.config.keys import short_names
from rainbow_ray.config.renamed_keys import present_json, present_value, with_present_keys

State = Literal["running", "complete", "pruned", "failed"]
TOLERANCE = 1e-6  # of numbers of folds
FULL_BUDGET = 100.0  # `done` of a trial that ran all its folds and epochs


class Report(NamedTuple):
    """Score of a trial at a rung.

    Attributes:
        percent: Work done, in percent.
        score: Score on the songs of the folds so far.
        incumbent: Number of the best complete trial at that time, or None.
        incumbent_score: Score of that trial on the same songs, or None.
    """

    percent: float
    score: float
    incumbent: int | None = None
    incumbent_score: float | None = None


@dataclass
class Trial:
    """A trial as the log has it.

    Attributes:
        number: Number of the trial; trial 0 is the config itself.
        values: Values of config keys, constants of the search space included.
        params: Those values that the search space suggested.
        distributions: Distribution of each parameter, as Optuna's JSON.
        reports: Scores at each rung.
        state: Whether the trial runs, or how it ended.
        score: Its last score, or None.
        seconds: Its duration.
        reason: Why it failed, or "".
    """

    number: int
    values: dict[str, Any]
    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, str] = field(default_factory=dict)
    reports: list[Report] = field(default_factory=list)
    state: State = "running"
    score: float | None = None
    seconds: float = 0.0
    reason: str = ""

    @property
    def ended(self) -> bool:
        """Whether the trial is complete, pruned or failed."""
        return self.state != "running"


class TrialLog:
    """The trials of a sweep, in memory and in their file.

    Lines that cannot be read are skipped: a killed process leaves half a line at the end of the file.

    Args:
        path: `trials.jsonl`; it is created by the first event.

    Attributes:
        trials: Trials by number.
        highest: Highest number on any line, also of a trial whose start was lost; -1 in an empty log.
        watchers: Called with each trial that changed and the event, once the line is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trials: dict[int, Trial] = {}
        self.highest = -1
        self.watchers: list[Callable[[Trial, str], None]] = []
        self._read()

    def start(self, trial: Trial) -> None:
        """Log the start of a trial. An interrupted trial is started again under its number.

        Args:
            trial: The trial.
        """
        self._write(
            {"event": "start", "trial": trial.number, "values": trial.values, "params": trial.params,
             "distributions": trial.distributions}
        )  # fmt: skip

    def report(self, number: int, report: Report) -> None:
        """Log the score at a rung.

        Args:
            number: Number of the trial.
            report: The score, and that of the best complete trial.
        """
        compared = {"incumbent": report.incumbent, "incumbent_score": report.incumbent_score}
        self._write({"event": "report", "trial": number, "done": report.percent, "score": report.score,
                     **(compared if report.incumbent is not None else {})})  # fmt: skip

    def end(self, number: int, state: State, *, score: float | None, seconds: float, reason: str = "") -> None:
        """Log the end of a trial.

        Args:
            number: Number of the trial.
            state: Complete, pruned or failed.
            score: Its last score, or None.
            seconds: Its duration.
            reason: Why it failed.
        """
        self._write({"event": "end", "trial": number, "state": state, "score": score, "seconds": round(seconds, 3),
                     "reason": reason})  # fmt: skip

    @property
    def ended(self) -> list[Trial]:
        """Trials that are complete, pruned or failed, in the order of their start."""
        return [trial for trial in self.trials.values() if trial.ended]

    @property
    def interrupted(self) -> list[Trial]:
        """Trials that were started and have not ended; before a sweep is resumed, those to run again."""
        return [trial for trial in self.trials.values() if not trial.ended]

    def complete(self, *, larger_is_better: bool) -> list[Trial]:
        """Return the trials that are complete, the best first.

        Args:
            larger_is_better: Whether larger scores are better.

        Returns:
            Trials by score, equal ones by number.
        """
        sign = -1.0 if larger_is_better else 1.0
        completed = [trial for trial in self.trials.values() if trial.state == "complete" and trial.score is not None]
        return sorted(completed, key=lambda trial: (sign * (trial.score or 0.0), trial.number))

    def _write(self, event: dict[str, Any]) -> None:
        line = json.dumps(event, allow_nan=False) + "\n"
        with self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self._apply(event)
        for watcher in self.watchers:
            watcher(self.trials[event["trial"]], event["event"])

    def _read(self) -> None:
        """Read the file; skip lines that are no events."""
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        for line in content.splitlines():
            try:
                self._apply(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue
        if content and not content.endswith(b"\n"):
            with self.path.open("ab") as file:
                file.write(b"\n")  # an incomplete line must not be joined with the next one

    def _apply(self, event: dict[str, Any]) -> None:
        number = event["trial"]
        self.highest = max(self.highest, number)
        if event["event"] == "start":
            values, params, distributions = (
                with_present_keys(event[name]) for name in ("values", "params", "distributions")
            )
            self.trials[number] = Trial(
                number,
                {key: present_value(key, value) for key, value in values.items()},
                {key: present_value(key, value) for key, value in params.items()},
                {key: present_json(key, text) for key, text in distributions.items()},
            )
        elif event["event"] == "report" and number in self.trials:
            compared = (event.get("incumbent"), event.get("incumbent_score"))  # earlier versions lack them
            self.trials[number].reports.append(Report(event["done"], event["score"], *compared))
        elif event["event"] == "end" and number in self.trials:
            trial = self.trials[number]
            trial.state, trial.score = event["state"], event["score"]
            trial.seconds, trial.reason = event["seconds"], event["reason"]


def is_end_of_fold(percent: float, n_folds: int) -> bool:
    """Return whether a score stands on whole folds.

    Args:
        percent: Work done, in percent.
        n_folds: Number of folds of a trial.

    Returns:
        False for a score in the middle of a fit.
    """
    folds = percent * n_folds / FULL_BUDGET
    return abs(folds - round(folds)) < TOLERANCE


def describe_progress(percent: float, n_folds: int) -> str:
    """Return the folds that a score stands on.

    Args:
        percent: Work done, in percent.
        n_folds: Number of folds of a trial.

    Returns:
        A text such as `2 of 5 folds`, or `25% of fold 1` for a score in the middle of a fit.
    """
    folds = percent * n_folds / FULL_BUDGET
    if is_end_of_fold(percent, n_folds):
        return f"{round(folds)} of {n_folds} {'fold' if n_folds == 1 else 'folds'}"
    return f"{folds % 1:.0%} of fold {int(folds) + 1}"


def format_values(trial: Trial, max_length: int = 100) -> str:
    """Format the values of a trial on one line, with shortened keys.

    Args:
        trial: The trial.
        max_length: Length from which the line is truncated.

    Returns:
        The line.
    """
    line = ", ".join(f"{name} {_format_value(trial.values[key])}" for key, name in short_names(trial.values).items())
    return line if len(line) <= max_length else line[: max_length - 1] + "…"


def _format_value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value) or "none"
