"""Progress of fits: bars on a terminal, one plain line per fit elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeElapsedColumn, TimeRemainingColumn

from rainbow_ray.training.loggers import Record
from rainbow_ray.utils.console import is_live, text_column
from rainbow_ray.utils.number_format import format_number

MIN_QUIET_SECONDS = 60.0  # between progress lines of a long fit where there is no terminal
QUIET_FRACTION = 0.1  # of the elapsed time: lines become rarer as time passes


@dataclass
class _Fit:
    """Newest validation record of a fit, the best one, and the newest training loss."""

    last: Record | None = None
    best: Record | None = None
    loss: float | None = None
    is_shown: bool = False


class FitProgress:
    """Receiver of training records that shows progress: one bar per fit on a terminal, one line at its end elsewhere.

    Args:
        console: Where progress is shown.
        metrics: Names of the metrics to show.
        epochs: Number of epochs of the fit of a fold.
        headline: Metric that decides which epoch of a fold is best; the refit holds no song out.
        larger_is_better: Whether larger values of `headline` are better.
        refit_epochs: Returns the number of epochs of the refit, once the folds have ended; None: as the folds.
    """

    def __init__(
        self, console: Console, metrics: list[str], epochs: int, *, headline: str, larger_is_better: bool = True,
        refit_epochs: Callable[[], int] | None = None,
    ) -> None:  # fmt: skip
        self.console, self.metrics, self.epochs, self.headline = console, metrics, epochs, headline
        self.refit_epochs = refit_epochs
        self.sign = 1.0 if larger_is_better else -1.0
        self.fits: dict[int | None, _Fit] = {}
        self.bars: dict[int | None, TaskID] = {}
        self.began = self.shown_at = time.monotonic()
        self.progress: Progress | None = None
        if is_live(console):
            # the time left is that until the last epoch; early stopping may end a fit before
            times = (TimeElapsedColumn(), text_column("left"), TimeRemainingColumn(compact=True))
            columns = (text_column("{task.description}"), BarColumn(20), MofNCompleteColumn(), *times)
            numbers = text_column("{task.fields[numbers]}", takes_the_rest=True)
            self.progress = Progress(*columns, numbers, console=console, expand=True)

    def __enter__(self) -> FitProgress:
        if self.progress:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress:
            self.progress.stop()
        for fold in self.fits:
            self.finish(fold)  # an interrupted fit shows how far it came

    def __call__(self, record: Record) -> None:
        """Show the progress that a record reports.

        Args:
            record: A record of a fit.
        """
        fold = record["fold"]
        fit = self.fits.setdefault(fold, _Fit())
        if record["split"] == "train":
            fit.loss = record["loss"]
        # an epoch ends with its scores, or, where nothing is scored, with the record that counts its examples
        if record["split"] == "val" or (fold is None and "examples" in record):
            fit.last = record
            value = self._value(record)
            if value is not None and (fit.best is None or value > (self._value(fit.best) or float("-inf"))):
                fit.best = record
        if self.progress is not None:
            self._update_bar(fold, fit)
        elif fit.last is record:
            self._show_occasionally(fold, fit)

    def finish(self, fold: int | None) -> None:
        """Print the line of a fit that has ended, where there are no bars.

        Args:
            fold: Number of the fold, or None for the refit.
        """
        fit = self.fits.get(fold)
        if self.progress is None and fit is not None and fit.last is not None and not fit.is_shown:
            fit.is_shown = True
            self._print(fold, fit)

    def _show_occasionally(self, fold: int | None, fit: _Fit) -> None:
        now = time.monotonic()
        if now - self.shown_at > max(MIN_QUIET_SECONDS, QUIET_FRACTION * (now - self.began)):
            self._print(fold, fit)

    def _print(self, fold: int | None, fit: _Fit) -> None:
        assert fit.last is not None
        self.shown_at = time.monotonic()
        best = ""
        if fit.best is not None:
            best = f"  best epoch {fit.best['epoch']}: {self.headline} {_short(fit.best[self.headline])}"
        epochs = self._epochs(fold)
        self.console.print(f"{_name(fold)}  epoch {fit.last['epoch']}/{epochs}  {self._numbers(fold, fit)}{best}")

    def _update_bar(self, fold: int | None, fit: _Fit) -> None:
        assert self.progress is not None
        if fold not in self.bars:
            self.bars[fold] = self.progress.add_task(_name(fold), total=self._epochs(fold), numbers="")
        completed = fit.last["epoch"] if fit.last is not None else 0
        self.progress.update(
            self.bars[fold], completed=completed, numbers=self._numbers(fold, fit, headline_first=True)
        )

    def _epochs(self, fold: int | None) -> int:
        return self.refit_epochs() if fold is None and self.refit_epochs is not None else self.epochs

    def _numbers(self, fold: int | None, fit: _Fit, *, headline_first: bool = False) -> str:
        """Return the newest numbers in a line; with the headline first, it is seen on narrow terminals too."""
        values = {"train_loss": fit.loss}
        if fold is not None and fit.last is not None:
            values |= {name: fit.last.get(name) for name in self.metrics}
            if headline_first:
                values = {self.headline: fit.last.get(self.headline)} | values
        return "  ".join(f"{name} {_short(value)}" for name, value in values.items())

    def _value(self, record: Record) -> float | None:
        """Return the headline of a record, larger for a better one; None where it is not defined."""
        value = record.get(self.headline) if record["fold"] is not None else None
        return None if value is None else self.sign * value


def _name(fold: int | None) -> str:
    return "refit" if fold is None else f"fold {fold + 1}"


def _short(value: Any) -> str:
    return format_number(value)
