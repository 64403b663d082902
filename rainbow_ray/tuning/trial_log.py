"""The truth of a sweep: `trials.jsonl`, to which a line is added for each thing that happens to a trial.

A line is an object with `event` and `trial`: `start` (values, parameters and their distributions), `report` (done,
score), `end` (state, score, seconds, reason). Whoever goes on with a sweep reads it and needs nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rainbow_ray.config.keys import short_names, with_present_keys

State = Literal["running", "complete", "pruned", "failed"]
FULL_BUDGET = 100.0  # `done` of a trial that ran all its folds and epochs


@dataclass
class Trial:
    """What is known of one trial. `values` are config keys; `params` those of them that the search asked for."""

    number: int
    values: dict[str, Any]
    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, str] = field(default_factory=dict)
    reports: list[tuple[float, float]] = field(default_factory=list)  # done (of `FULL_BUDGET`) and the score so far
    state: State = "running"
    score: float | None = None
    seconds: float = 0.0
    reason: str = ""

    @property
    def ended(self) -> bool:
        return self.state != "running"


class TrialLog:
    """The trials of a sweep, in memory and in their file. `watchers` are told of each trial that changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trials: dict[int, Trial] = {}
        self.highest = -1  # number that any line names, also of a trial whose start was lost
        self.watchers: list[Callable[[Trial, str], None]] = []
        self._read()

    def start(self, trial: Trial) -> None:
        """A trial is about to run. One that was interrupted is started again under its number."""
        self._write(
            {"event": "start", "trial": trial.number, "values": trial.values, "params": trial.params,
             "distributions": trial.distributions}
        )  # fmt: skip

    def report(self, number: int, done: float, score: float) -> None:
        self._write({"event": "report", "trial": number, "done": done, "score": score})

    def end(self, number: int, state: State, *, score: float | None, seconds: float, reason: str = "") -> None:
        """A trial has ended for good."""
        self._write({"event": "end", "trial": number, "state": state, "score": score, "seconds": round(seconds, 3),
                     "reason": reason})  # fmt: skip

    @property
    def ended(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.ended]

    @property
    def interrupted(self) -> list[Trial]:
        """Started, and not ended: to be run again. Of use before the sweep goes on."""
        return [trial for trial in self.trials.values() if not trial.ended]

    def complete(self, *, larger_is_better: bool) -> list[Trial]:
        """Trials that ran to their end, the best first."""
        sign = -1.0 if larger_is_better else 1.0
        done = [trial for trial in self.trials.values() if trial.state == "complete" and trial.score is not None]
        return sorted(done, key=lambda trial: (sign * (trial.score or 0.0), trial.number))

    def _write(self, event: dict[str, Any]) -> None:
        line = json.dumps(event, allow_nan=False) + "\n"
        with self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self._take(event)
        for watcher in self.watchers:
            watcher(self.trials[event["trial"]], event["event"])

    def _read(self) -> None:
        """Lines that are none are passed over: a kill leaves half a line, at the end, and a power cut anything."""
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        for line in content.splitlines():
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue
        if content and not content.endswith(b"\n"):
            with self.path.open("ab") as file:
                file.write(b"\n")  # half a line must not swallow the next one

    def _take(self, event: dict[str, Any]) -> None:
        number = event["trial"]
        self.highest = max(self.highest, number)
        if event["event"] == "start":
            values, params, distributions = (
                with_present_keys(event[name]) for name in ("values", "params", "distributions")
            )
            self.trials[number] = Trial(number, values, params, distributions)
        elif event["event"] == "report" and number in self.trials:
            self.trials[number].reports.append((event["done"], event["score"]))
        elif event["event"] == "end" and number in self.trials:
            trial = self.trials[number]
            trial.state, trial.score = event["state"], event["score"]
            trial.seconds, trial.reason = event["seconds"], event["reason"]


def format_values(trial: Trial, max_length: int = 100) -> str:
    """A trial's values in a line, with the ends of their keys."""
    line = ", ".join(f"{name} {_written(trial.values[key])}" for key, name in short_names(trial.values).items())
    return line if len(line) <= max_length else line[: max_length - 1] + "…"


def _written(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value) or "none"
