"""What is seen while a run trains: bars on a terminal, one plain line an epoch elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from rainbow_ray.config import short_names
from rainbow_ray.number_format import format_number
from rainbow_ray.training.ledger import Trial
from rainbow_ray.training.reporters import Record

LINES = 12  # trials that have ended in the live table


class EpochLines:
    """A sink for records: shows each epoch of each fit with the metrics that the config names."""

    def __init__(self, console: Console, metrics: list[str], epochs: int, *, scored: bool) -> None:
        self.console, self.metrics, self.epochs, self.scored = console, metrics, epochs, scored
        self.losses: dict[int | None, float] = {}
        self.bars: dict[int | None, TaskID] = {}
        self.progress: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.progress = Progress(*columns, TextColumn("{task.fields[numbers]}"), console=console)

    def __enter__(self) -> EpochLines:
        if self.progress:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress:
            self.progress.stop()

    def __call__(self, record: Record) -> None:
        if record["split"] == "train":
            self.losses[record["fold"]] = record["loss"]
        # an epoch ends with its scores, or, where nothing is scored, with the record that counts its examples
        if record["split"] == "val" or (not self.scored and "examples" in record):
            self._show(record)

    def _show(self, record: Record) -> None:
        fold = record["fold"]
        name = "refit" if fold is None else f"fold {fold + 1}"
        values = {
            "train_loss": self.losses.get(fold),
            **({k: record.get(k) for k in self.metrics} if self.scored else {}),
        }
        numbers = "  ".join(f"{k} {_short(v)}" for k, v in values.items())
        if self.progress is None:
            self.console.print(f"{name}  epoch {record['epoch']}/{self.epochs}  {numbers}")
            return
        if fold not in self.bars:
            self.bars[fold] = self.progress.add_task(name, total=self.epochs, numbers="")
        self.progress.update(self.bars[fold], completed=record["epoch"], numbers=numbers)


class TrialLines:
    """A watcher of a ledger: a table that lives on a terminal, one plain line a trial elsewhere."""

    def __init__(self, console: Console, metric: str, total: int, *, larger_is_better: bool) -> None:
        self.console, self.metric, self.total = console, metric, total
        self.sign = 1.0 if larger_is_better else -1.0
        self.trials: dict[int, Trial] = {}
        self.best: Trial | None = None
        self.live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> TrialLines:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, trial: Trial, event: str) -> None:
        self.trials[trial.number] = trial
        complete = trial.state == "complete" and trial.score is not None
        if complete and (self.best is None or self._value(trial) > self._value(self.best)):
            self.best = trial
        if self.live:
            self.live.update(self._table())
        elif event == "end":
            self.console.print(self._line(trial))

    def know(self, trials: Iterable[Trial]) -> None:
        """Trials of an earlier start."""
        for trial in trials:
            self(trial, "known")

    def _line(self, trial: Trial) -> str:
        score = f"{self.metric} {_short(trial.score)}" if trial.score is not None else trial.reason
        best = f"  best {_short(self.best.score)} (trial {self.best.number})" if self.best is not None else ""
        values = describe(trial) if trial.values else "the default config"
        return (f"trial {trial.number}  {len(self._ended())}/{self.total}  {trial.state}  {score}{best}"
                f"  {trial.seconds:.1f} s  {values}")  # fmt: skip

    def _table(self) -> Table:
        ended = self._ended()
        best = f"; best {self.metric} {_short(self.best.score)}, trial {self.best.number}" if self.best else ""
        table = Table(title=f"{len(ended)} of {self.total} trials{best}", title_justify="left")
        for name in ("trial", "state", "done", self.metric, "seconds", "values"):
            table.add_column(name)
        running = [trial for trial in self.trials.values() if not trial.ended]
        for trial in [*running, *sorted(ended, key=lambda t: -self._value(t))[:LINES]]:
            done, score = trial.reports[-1] if trial.reports else (0.0, None)
            seconds = f"{trial.seconds:.0f}" if trial.ended else ""
            values = describe(trial, 60) if trial.values else "the default config"
            style = "bold" if self.best is not None and trial.number == self.best.number else None
            shown = (str(trial.number), trial.state, f"{done:.0f}%", _short(score), seconds, values)
            table.add_row(*shown, style=style)
        return table

    def _ended(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.ended]

    def _value(self, trial: Trial) -> float:
        return self.sign * trial.score if trial.state == "complete" and trial.score is not None else float("-inf")


def describe(trial: Trial, most: int = 100) -> str:
    """A trial's values in a line, with the ends of their keys."""
    line = ", ".join(f"{name} {_written(trial.values[key])}" for key, name in short_names(trial.values).items())
    return line if len(line) <= most else line[: most - 1] + "…"


def _written(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value) or "none"


def _short(value: Any) -> str:
    return format_number(value)
