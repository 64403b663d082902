"""Progress of trials: a table on a terminal, one plain line per trial elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich.console import Console
from rich.live import Live
from rich.table import Table

from rainbow_ray.tuning.trial_log import Trial, describe_progress, format_values
from rainbow_ray.utils.console import is_live
from rainbow_ray.utils.number_format import format_number

MAX_ENDED_TRIALS = 12  # rows of the table


class TrialProgress:
    """Watcher of a trial log: a table that is redrawn on a terminal, one plain line per trial elsewhere.

    Args:
        console: Where progress is shown.
        metric: Name of the headline metric.
        total: Number of trials of the sweep.
        n_folds: Number of folds of a trial.
        larger_is_better: Whether larger values of the metric are better.
        time_left: Returns a forecast of the time that the other trials take, as a text; None: no forecast is shown.
    """

    def __init__(
        self, console: Console, metric: str, total: int, n_folds: int, *, larger_is_better: bool,
        time_left: Callable[[], str] | None = None,
    ) -> None:  # fmt: skip
        self.console, self.metric, self.total, self.n_folds = console, metric, total, n_folds
        self.sign = 1.0 if larger_is_better else -1.0
        self.time_left = time_left
        self.trials: dict[int, Trial] = {}
        self.best: Trial | None = None
        # drawn anew at each refresh, since the time left counts down
        self.live = (
            Live(console=console, get_renderable=self._table, refresh_per_second=4) if is_live(console) else None
        )

    def __enter__(self) -> TrialProgress:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, trial: Trial, event: str) -> None:
        """Show an event of a trial.

        Args:
            trial: The trial.
            event: Type of the event: `start`, `report` or `end`.
        """
        self.trials[trial.number] = trial
        complete = trial.state == "complete" and trial.score is not None
        if complete and (self.best is None or self._value(trial) > self._value(self.best)):
            self.best = trial
        if self.live is None and event == "end":
            self.console.print(self._line(trial))

    def add_earlier(self, trials: Iterable[Trial]) -> None:
        """Add trials that ended in an earlier start of the sweep, without printing them.

        Args:
            trials: The trials.
        """
        for trial in trials:
            self(trial, "known")

    def _line(self, trial: Trial) -> str:
        """Return the line of a trial that has ended."""
        score = f"{self.metric} {self._describe_score(trial)}" if trial.score is not None else trial.reason
        best = f"  best {format_number(self.best.score)} (trial {self.best.number})" if self.best is not None else ""
        values = format_values(trial) if trial.values else "the default config"
        return (f"trial {trial.number}  {len(self._ended())}/{self.total}  {trial.state}  {score}{best}"
                f"  {trial.seconds:.1f} s{self._time_left()}  {values}")  # fmt: skip

    def _describe_score(self, trial: Trial) -> str:
        """Return the score, the folds that it stands on, and the best trial's score on the same songs."""
        report = trial.reports[-1] if trial.reports else None
        if report is None or trial.state == "complete":
            return format_number(trial.score)
        there = ""
        if report.incumbent is not None:
            there = f"; trial {report.incumbent} there: {format_number(report.incumbent_score)}"
        return f"{format_number(report.score)} ({describe_progress(report.percent, self.n_folds)}{there})"

    def _time_left(self) -> str:
        text = self.time_left() if self.time_left is not None and len(self._ended()) < self.total else ""
        return f"  {text}" if text else ""

    def _table(self) -> Table:
        ended = self._ended()
        best = f"; best {self.metric} {format_number(self.best.score)}, trial {self.best.number}" if self.best else ""
        title = f"{len(ended)} of {self.total} trials{best}{self._time_left()}"
        table = Table(title=title, title_justify="left")
        for name in ("trial", "state", "folds", self.metric, "best trial there", "seconds", "values"):
            table.add_column(name)
        running = [trial for trial in self.trials.values() if not trial.ended]
        for trial in [*running, *sorted(ended, key=lambda t: -self._value(t))[:MAX_ENDED_TRIALS]]:
            style = "bold" if self.best is not None and trial.number == self.best.number else None
            table.add_row(*self._cells(trial), style=style)
        return table

    def _cells(self, trial: Trial) -> tuple[str, ...]:
        report = trial.reports[-1] if trial.reports else None
        folds = "" if report is None else describe_progress(report.percent, self.n_folds)
        score = "" if report is None else format_number(report.score)
        there = ""
        if report is not None and report.incumbent is not None:
            there = f"{format_number(report.incumbent_score)} (trial {report.incumbent})"
        seconds = f"{trial.seconds:.0f}" if trial.ended else ""
        values = format_values(trial, 60) if trial.values else "the default config"
        return (str(trial.number), trial.state, folds, score, there, seconds, values)

    def _ended(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.ended]

    def _value(self, trial: Trial) -> float:
        return self.sign * trial.score if trial.state == "complete" and trial.score is not None else float("-inf")
